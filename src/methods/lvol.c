/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Methods on volumes, and volumes among the bdevs. Error codes are SPDK's: what it finds wrong before it begins is a negative
 * errno, what goes wrong later -32602, or -32603 of a deletion.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "methods/lvol_internal.h"
#include "nbd/nbd.h"
#include "rpc/schema_gen.h"

#define MIB_SHIFT 20
#define SIZE_IN_MIB_MAX (UINT64_C(1) << 43) /* 8 EiB */
#define GROUP_MAX 1024

/* ---- As bdevs ---- */

static bool
is(const struct bdev *bdev)
{
	return lvol_of_bdev(bdev) != NULL;
}

static json_t *
no_params(const struct bdev *bdev)
{
	return NULL;
}

static json_t *
clones_json(struct lvol *lvol)
{
	json_t *array = json_array();

	for (struct lvol *c = NULL; (c = lvol_next_clone(lvol, c)) != NULL;) {
		json_array_append_new(array, text_json(lvol_name(c)));
	}
	return array;
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct lvol *lvol = lvol_of_bdev(bdev);
	struct lvol_info i;
	json_t *specific;
	uuid_t uuid;

	lvol_get_info(lvol, &i);
	lvol_store_uuid(i.store, uuid);
	specific = json_pack("{s:o, s:o, s:b, s:I, s:b, s:b}", "lvol_store_uuid", uuid_json(uuid),
			     "base_bdev", text_json(i.base_name), "thin_provision", i.thin,
			     "num_allocated_clusters", (json_int_t)i.allocated_clusters, "snapshot",
			     i.snapshot, "clone", i.clone);
	if (i.clone && i.parent != NULL) {
		json_object_set_new(specific, "base_snapshot", text_json(lvol_name(i.parent)));
	}
	if (i.snapshot && lvol_next_clone(lvol, NULL) != NULL) {
		json_object_set_new(specific, "clones", clones_json(lvol));
	}
	json_object_set_new(specific, "esnap_clone", json_boolean(i.external_clone));
	if (i.external_clone && i.external_name != NULL) {
		json_object_set_new(specific, "external_snapshot_name", text_json(i.external_name));
	}
	json_object_set_new(object, "lvol", specific);
}

const struct bdev_kind bdev_lvol_kind = {
	.is = is,
	.params = no_params,
	.driver_specific = driver_specific,
};

/* ---- Naming and answering ---- */

struct lvol *
lvol_named(struct rpc_request *req, const char *name)
{
	struct lvol *lvol = lvol_find(name);

	if (lvol == NULL) {
		rpc_error(req, -ENODEV, "there is no volume '%.128s'", name);
	}
	return lvol;
}

struct lvol *
lvol_behind(const char *name)
{
	const struct bdev *bdev = bdev_find(name);

	return bdev != NULL ? lvol_below(bdev) : lvol_find(name);
}

void
lvol_answer_made(void *ctx, struct lvol *lvol, int status, const struct err *err)
{
	struct rpc_request *req = ctx;

	if (status != 0) {
		rpc_error_from(req, RPC_ERROR_INVALID_PARAMS, err);
		return;
	}
	lvol_keeps_itself(req);
	rpc_result(req, text_json(lvol_id(lvol)));
}

/* ---- Making ---- */

struct creation {
	struct rpc_request *req;
	const struct bdev_lvol_create_params *p; /* until the answer */
	char *crypt_name;
	struct err why; /* it could not be encrypted */
};

static void
creation_free(struct creation *c)
{
	free(c->crypt_name);
	free(c);
}

/* The volume has been deleted again. */
static void
undone(void *ctx, int status, const struct err *err)
{
	struct creation *c = ctx;

	if (status != 0) {
		LOG_WARNING(BDEV, c->p->lvol_name, "could not be encrypted, and is there: %s",
			    err_text(err));
	}
	rpc_error_from(c->req, c->why.code, &c->why);
	creation_free(c);
}

static void
encrypt(struct creation *c, struct lvol *lvol)
{
	if (lvol_crypt_make(lvol, c->p->encrypt_key, c->crypt_name, &c->why) != 0) {
		lvol_delete(lvol, undone, c);
		return;
	}
	rpc_set_recorded_call(c->req, "bdev_crypto_create",
			      json_pack("{s:o, s:o, s:s, s:b}", "name", text_json(c->crypt_name),
					"base_bdev_name", text_json(lvol_id(lvol)), "key_name",
					c->p->encrypt_key, "wait", 1));
	rpc_result(c->req, text_json(lvol_id(lvol)));
	creation_free(c);
}

int
lvol_create_code(int status)
{
	return status == -EEXIST || status == -EINVAL ? status : RPC_ERROR_INVALID_PARAMS;
}

static void
created(void *ctx, struct lvol *lvol, int status, const struct err *err)
{
	struct creation *c = ctx;

	if (status == 0 && c->p->encrypt_key != NULL) {
		encrypt(c, lvol);
		return;
	}
	if (status != 0) {
		rpc_error_from(c->req, lvol_create_code(status), err);
	} else {
		lvol_answer_made(c->req, lvol, 0, NULL);
	}
	creation_free(c);
}

static enum blob_clear
clear_of(const char *text)
{
	static const struct {
		const char *text;
		enum blob_clear clear;
	} methods_of[] = {
		{"default", BLOB_CLEAR_DEFAULT},
		{"none", BLOB_CLEAR_NONE},
		{"unmap", BLOB_CLEAR_UNMAP},
		{"write_zeroes", BLOB_CLEAR_WRITE_ZEROES},
	};

	for (size_t i = 0; i < ARRAY_SIZE(methods_of); i++) {
		if (strcmp(text, methods_of[i].text) == 0) {
			return methods_of[i].clear;
		}
	}
	return BLOB_CLEAR_DEFAULT;
}

static bool
size_of(struct rpc_request *req, uint64_t mib, uint64_t *ret_bytes)
{
	if (mib > SIZE_IN_MIB_MAX) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS,
			  "size_in_mib is %llu, but no volume is larger than %llu MiB",
			  (unsigned long long)mib, (unsigned long long)SIZE_IN_MIB_MAX);
		return false;
	}
	*ret_bytes = mib << MIB_SHIFT;
	return true;
}

static struct creation *
creation_begin(struct rpc_request *req, const struct bdev_lvol_create_params *p)
{
	struct creation *c = calloc(1, sizeof(*c));
	int rc = 0;

	if (c != NULL && p->encrypt_key != NULL) {
		rc = p->encrypted_bdev_name != NULL
			     ? asprintf(&c->crypt_name, "%s", p->encrypted_bdev_name)
			     : asprintf(&c->crypt_name, "%s_crypt", p->lvol_name);
	}
	if (c == NULL || rc < 0) {
		free(c);
		rpc_error(req, -ENOMEM, "out of memory");
		return NULL;
	}
	c->req = req;
	c->p = p;
	return c;
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_create_params *p = params;
	struct lvol_options o = {
		.name = p->lvol_name,
		.thin = p->thin_provision,
		.clear = clear_of(p->clear_method),
	};
	struct lvol_store *store;
	struct creation *c;

	uuid_copy(o.origin, p->origin);

	/* What answers frees the parameters. */
	store = lvol_store_named(req, p->uuid, p->lvs_name);
	if (store == NULL || !size_of(req, p->size_in_mib, &o.bytes)) {
		return;
	}
	if (p->encrypt_key == NULL && p->encrypted_bdev_name != NULL) {
		rpc_error(req, -EINVAL, "encrypted_bdev_name is given, but no encrypt_key");
		return;
	}
	c = creation_begin(req, p);
	if (c != NULL) {
		lvol_create(store, &o, created, c);
	}
}

/* NULL: it was not given. */
static const unsigned char *
origin_of(const uuid_t origin)
{
	return uuid_is_null(origin) ? NULL : origin;
}

static void
snapshot(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_snapshot_params *p = params;
	struct lvol *lvol = lvol_named(req, p->lvol_name);

	if (lvol != NULL) {
		lvol_snapshot_with_origin(lvol, p->snapshot_name, origin_of(p->origin), lvol_answer_made, req);
	}
}

static void
clone(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_clone_params *p = params;
	struct lvol *lvol = lvol_named(req, p->snapshot_name);

	if (lvol != NULL) {
		lvol_clone_with_origin(lvol, p->clone_name, origin_of(p->origin), lvol_answer_made, req);
	}
}

static void
clone_bdev(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_clone_bdev_params *p = params;
	struct lvol_store *store = lvol_store_find_name(p->lvs_name);
	struct bdev *bdev = bdev_find(p->bdev);
	struct lvol *lvol = bdev != NULL ? lvol_of_bdev(bdev) : NULL;

	if (store == NULL) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS, "there is no volume store '%.128s'",
			  p->lvs_name);
	} else if (bdev == NULL) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS, "there is no bdev '%.128s'", p->bdev);
	} else if (lvol != NULL && lvol_store_of(lvol) == store) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS,
			  "'%.128s' is a volume of the same store: bdev_lvol_clone is for these",
			  p->bdev);
	} else {
		lvol_clone_bdev(store, bdev_name(bdev), p->clone_name, lvol_answer_made, req);
	}
}

/* ---- Groups ---- */

struct group {
	struct rpc_request *req;
	unsigned count;
	struct lvol_group_member members[];
};

static void
group_made(void *ctx, int status, const struct err *err)
{
	struct group *g = ctx;
	json_t *array;

	if (status != 0) {
		bool wrong = status == -EXDEV || status == -EINVAL;

		rpc_error_from(g->req, wrong ? -EINVAL : RPC_ERROR_INVALID_PARAMS, err);
	} else {
		array = json_array();
		for (unsigned i = 0; i < g->count; i++) {
			json_array_append_new(array, text_json(lvol_id(g->members[i].snapshot)));
		}
		lvol_keeps_itself(g->req);
		rpc_result(g->req, array);
	}
	free(g);
}

/* Answers the request when it is none. */
static bool
take_member(struct group *g, const json_t *entry)
{
	struct lvol_group_member *m = &g->members[g->count];
	const char *volume = json_string_value(json_object_get(entry, "lvol_name"));
	const char *name = json_string_value(json_object_get(entry, "snapshot_name"));

	if (volume == NULL || name == NULL || json_object_size(entry) != 2) {
		rpc_error(g->req, -EINVAL,
			  "snapshots[%u] must have lvol_name and snapshot_name, and nothing else",
			  g->count);
		return false;
	}
	*m = (struct lvol_group_member){.lvol = lvol_named(g->req, volume), .name = name};
	g->count++;
	return m->lvol != NULL;
}

static void
snapshot_group(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_snapshot_group_params *p = params;
	size_t count = json_array_size(p->snapshots), i;
	struct group *g;
	json_t *entry;

	if (count == 0 || count > GROUP_MAX) {
		rpc_error(req, -EINVAL, "snapshots must be an array of 1 to %d objects", GROUP_MAX);
		return;
	}
	g = calloc(1, sizeof(*g) + count * sizeof(g->members[0]));
	if (g == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	g->req = req;
	json_array_foreach ((json_t *)p->snapshots, i, entry) {
		if (!take_member(g, entry)) {
			free(g);
			return;
		}
	}
	lvol_snapshot_group(g->members, g->count, group_made, g);
}

/* ---- Changing ---- */

static void
rename_volume(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_rename_params *p = params;
	static const uuid_t nobodys;
	struct lvol *lvol = lvol_named(req, p->old_name);

	if (lvol == NULL) {
		return;
	}
	if (strcmp(lvol_name(lvol), p->new_name) == 0) {
		lvol_answer_true(req, 0, NULL);
	} else {
		lvol_rename_with_origin(lvol, p->new_name, p->drop_origin ? nobodys : NULL, lvol_answer_true, req);
	}
}

static void
resize(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_resize_params *p = params;
	struct lvol *lvol = lvol_named(req, p->name);
	uint64_t bytes;

	if (lvol != NULL && size_of(req, p->size_in_mib, &bytes)) {
		lvol_resize(lvol, bytes, lvol_answer_true, req);
	}
}

static void
set_read_only(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_set_read_only_params *p = params;
	struct lvol *lvol = lvol_named(req, p->name);

	if (lvol != NULL) {
		lvol_set_read_only(lvol, lvol_answer_true, req);
	}
}

static void
inflate(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_inflate_params *p = params;
	struct lvol *lvol = lvol_named(req, p->name);

	if (lvol != NULL) {
		lvol_inflate(lvol, lvol_answer_true, req);
	}
}

static void
decouple(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_decouple_parent_params *p = params;
	struct lvol *lvol = lvol_named(req, p->name);

	if (lvol != NULL) {
		lvol_decouple(lvol, lvol_answer_true, req);
	}
}

/* A backup of what an export says has changed must not become another behind somebody's back. True: answered. */
static bool
is_compared_with(struct rpc_request *req, struct lvol *lvol)
{
	const struct bdev *bdev = lvol_bdev(lvol);
	const struct nbd_export *e = bdev != NULL ? nbd_export_comparing_with(bdev) : NULL;
	struct nbd_export_info info;

	if (e == NULL) {
		return false;
	}
	nbd_export_get_info(e, &info);
	rpc_error(req, -EBUSY, "snapshot '%.128s': export '%.255s' tells what has changed since then: remove that first",
		  lvol_name(lvol), info.options->name);
	return true;
}

static void
set_parent(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_set_parent_params *p = params;
	struct lvol *lvol = lvol_named(req, p->lvol_name);
	struct lvol *parent = lvol != NULL ? lvol_named(req, p->parent_name) : NULL;

	if (parent != NULL && !is_compared_with(req, lvol)) {
		lvol_set_parent(lvol, parent, lvol_answer_true, req);
	}
}

static void
set_parent_bdev(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_set_parent_bdev_params *p = params;
	struct lvol *lvol = lvol_named(req, p->lvol_name);

	if (lvol != NULL && !is_compared_with(req, lvol)) {
		lvol_set_parent_bdev(lvol, p->parent_name, lvol_answer_true, req);
	}
}

static void
set_origin(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_set_origin_params *p = params;
	struct lvol *lvol = lvol_named(req, p->name);

	if (lvol != NULL) {
		lvol_set_origin(lvol, p->origin, lvol_answer_true, req);
	}
}

/* ---- Deleting: what encrypts on it first ---- */

struct deletion {
	struct rpc_request *req;
	char id[LVOL_ID_BYTES];
};

static void
deleted(void *ctx, int status, const struct err *err)
{
	struct deletion *d = ctx;

	if (status != 0) {
		rpc_error_from(d->req, RPC_ERROR_INTERNAL, err);
	} else {
		kept_drop(d->id);
		kept_sweep();
		/* What was set for it ends. */
		rpc_set_recorded_params(d->req, json_pack("{s:s}", "name", d->id));
		rpc_true(d->req);
	}
	free(d);
}

static void
crypt_deleted(void *ctx)
{
	struct deletion *d = ctx;
	struct lvol *lvol = lvol_find(d->id);
	struct err err = ERR_NONE;

	if (lvol == NULL) {
		err_set(&err, -ENODEV, "volume '%s' went meanwhile", d->id);
		deleted(d, -ENODEV, &err);
	} else {
		lvol_delete(lvol, deleted, d);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_delete_params *p = params;
	struct lvol *lvol = lvol_named(req, p->name);
	const struct bdev *bdev;
	struct deletion *d;

	if (lvol == NULL || is_compared_with(req, lvol)) {
		return;
	}
	bdev = p->unneeded ? lvol_bdev(lvol) : NULL;
	if (bdev != NULL) {
		nbd_lend_end_unclaimed(bdev);
	}
	if (bdev != NULL && bdev_needed(bdev)) {
		rpc_error(req, -EBUSY, "volume '%.128s' is in use", p->name);
		return;
	}
	/* It would leave the disk's controller behind. */
	if (disk_has_bdev(lvol_id(lvol))) {
		rpc_error(req, -EBUSY, "volume '%.128s' is the disk '%.200s': berth disk delete (berth_disk_delete) deletes both",
			  p->name, disk_of_bdev(lvol_id(lvol)));
		return;
	}
	d = calloc(1, sizeof(*d));
	if (d == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	d->req = req;
	snprintf(d->id, sizeof(d->id), "%s", lvol_id(lvol));
	lvol_crypt_delete(d->id, crypt_deleted, d);
}

/* ---- Listing ---- */

static json_t *
lvol_json(struct lvol *lvol)
{
	struct lvol_info i;
	uuid_t uuid;
	json_t *json;

	lvol_get_info(lvol, &i);
	lvol_store_uuid(i.store, uuid);
	json = json_pack("{s:o, s:o, s:o, s:b, s:b, s:b, s:b, s:b, s:I, s:{s:o, s:o}, s:I, s:b}",
			 "alias", text_json(i.alias), "uuid", text_json(i.id), "name",
			 text_json(i.name), "is_thin_provisioned", i.thin, "is_snapshot",
			 i.snapshot, "is_clone", i.clone, "is_esnap_clone", i.external_clone,
			 "is_degraded", i.degraded || i.damaged, "num_allocated_clusters",
			 (json_int_t)i.allocated_clusters, "lvs", "name",
			 text_json(lvol_store_name(i.store)), "uuid", uuid_json(uuid), "size",
			 (json_int_t)i.bytes, "readonly", i.readonly);
	if (i.parent != NULL) {
		json_object_set_new(json, "parent", text_json(lvol_name(i.parent)));
	}
	if (i.external_name != NULL) {
		json_object_set_new(json, "external_parent", text_json(i.external_name));
	}
	if (lvol_origin(lvol, uuid)) {
		json_object_set_new(json, "origin", uuid_json(uuid));
	}
	if (i.damaged) {
		json_object_set_new(json, "damage", text_json(err_text(lvol_damage(lvol))));
	}
	return json;
}

static json_t *
lvol_item(const void *ctx, const char *name)
{
	struct lvol *lvol = lvol_find(name);

	return lvol != NULL ? lvol_json(lvol) : NULL;
}

static void
add_volumes(struct rpc_list *list, struct lvol_store *store)
{
	for (struct lvol *l = NULL; (l = lvol_next(store, l)) != NULL;) {
		rpc_list_add(list, lvol_id(l));
	}
}

static void
get_lvols(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_get_lvols_params *p = params;
	struct lvol_store *store = NULL;
	struct rpc_list *list;

	if (p->lvs_uuid != NULL || p->lvs_name != NULL) {
		store = lvol_store_named(req, p->lvs_uuid, p->lvs_name);
		if (store == NULL) {
			return;
		}
	}
	list = rpc_list_begin(req, lvol_item, NULL);
	if (store != NULL) {
		add_volumes(list, store);
	} else {
		while ((store = lvol_store_next(store)) != NULL) {
			add_volumes(list, store);
		}
	}
	rpc_list_end(list);
}

const struct rpc_method lvol_methods[] = {
	{"bdev_lvol_create", create},
	{"bdev_lvol_delete", delete},
	{"bdev_lvol_rename", rename_volume},
	{"bdev_lvol_resize", resize},
	{"bdev_lvol_set_read_only", set_read_only},
	{"bdev_lvol_snapshot", snapshot},
	{"bdev_lvol_snapshot_group", snapshot_group},
	{"bdev_lvol_clone", clone},
	{"bdev_lvol_clone_bdev", clone_bdev},
	{"bdev_lvol_inflate", inflate},
	{"bdev_lvol_decouple_parent", decouple},
	{"bdev_lvol_set_parent", set_parent},
	{"bdev_lvol_set_parent_bdev", set_parent_bdev},
	{"bdev_lvol_set_origin", set_origin},
	{"bdev_lvol_get_lvols", get_lvols},
	{NULL, NULL},
};
