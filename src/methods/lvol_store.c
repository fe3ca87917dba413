/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on volume stores. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "methods/lvol_internal.h"
#include "rpc/schema_gen.h"

/* ---- What methods on volumes share ---- */

void
lvol_keeps_itself(struct rpc_request *req)
{
	rpc_set_recorded_call(req, NULL, NULL);
}

struct lvol_store *
lvol_store_named(struct rpc_request *req, const char *uuid, const char *name)
{
	struct lvol_store *store;

	if ((uuid == NULL) == (name == NULL)) {
		rpc_error(req, -EINVAL, "which store? Its UUID or its name, and not both");
		return NULL;
	}
	store = uuid != NULL ? lvol_store_find_uuid(uuid) : lvol_store_find_name(name);
	if (store == NULL) {
		rpc_error(req, -ENODEV, "there is no volume store '%.128s'",
			  uuid != NULL ? uuid : name);
	}
	return store;
}

void
lvol_answer_true(void *ctx, int status, const struct err *err)
{
	struct rpc_request *req = ctx;

	kept_sweep();
	if (status != 0) {
		rpc_error_from(req, RPC_ERROR_INVALID_PARAMS, err);
		return;
	}
	lvol_keeps_itself(req);
	rpc_true(req);
}

/* ---- Making ---- */

static enum blob_clear
clear_of(const char *text)
{
	if (strcmp(text, "none") == 0) {
		return BLOB_CLEAR_NONE;
	}
	return strcmp(text, "write_zeroes") == 0 ? BLOB_CLEAR_WRITE_ZEROES : BLOB_CLEAR_UNMAP;
}

/* What SPDK finds out before it begins has a code of its own. */
static int
create_code(int status)
{
	switch (status) {
	case -EPERM:
	case -EEXIST:
	case -ENODEV:
	case -EINVAL:
		return status;
	default:
		return RPC_ERROR_INVALID_PARAMS;
	}
}

static void
store_made(void *ctx, struct lvol_store *store, int status, const struct err *err)
{
	struct rpc_request *req = ctx;
	uuid_t uuid;

	if (status != 0) {
		rpc_error_from(req, create_code(status), err);
		return;
	}
	lvol_keeps_itself(req);
	lvol_store_uuid(store, uuid);
	rpc_result(req, uuid_json(uuid));
}

static void
create_store(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_create_lvstore_params *p = params;
	struct lvol_store_options o = {
		.base_name = p->bdev_name,
		.name = p->lvs_name,
		.cluster_bytes = p->cluster_sz,
		.md_ratio = p->num_md_pages_per_cluster_ratio,
		.md_page_bytes = p->md_page_size,
		.clear = clear_of(p->clear_method),
		.overwrite = true,
	};

	lvol_store_create(&o, store_made, req);
}

/* ---- Changing ---- */

/* A store that goes; the volumes of which more is remembered than the store itself knows go one by one before. */
struct destruction {
	struct rpc_request *req;
	char store[UUID_STR_LEN];
};

static bool
is_remembered(struct lvol *lvol)
{
	const struct bdev *b = lvol_bdev(lvol);
	json_t *calls = json_array();
	bool is;

	if (b != NULL) {
		qos_calls(calls, b);
	}
	is = json_array_size(calls) > 0 || lvol_is_encrypted(lvol_id(lvol));
	json_decref(calls);
	return is;
}

static void destroy(struct destruction *d);

static void
volume_deleted(void *ctx, const json_t *result, const json_t *error)
{
	struct destruction *d = ctx;
	const char *why = json_string_value(json_object_get(error, "message"));

	if (error == NULL) {
		destroy(d);
		return;
	}
	rpc_error(d->req, RPC_ERROR_INVALID_PARAMS, "a volume of it could not be deleted: %s",
		  why != NULL ? why : "unknown error");
	free(d);
}

static void
destroy(struct destruction *d)
{
	struct lvol_store *store = lvol_store_find_uuid(d->store);
	struct lvol *lvol = NULL;

	if (store == NULL) {
		rpc_error(d->req, -ENODEV, "the store went meanwhile");
		free(d);
		return;
	}
	while ((lvol = lvol_next(store, lvol)) != NULL && !is_remembered(lvol)) {
		continue;
	}
	if (lvol == NULL) {
		lvol_store_destroy(store, lvol_answer_true, d->req);
		free(d);
	} else {
		json_t *params = json_pack("{s:s}", "name", lvol_id(lvol));

		rpc_call("bdev_lvol_delete", params, true, volume_deleted, d);
		json_decref(params);
	}
}

/* Disks are more than their volumes, and go by themselves, each by its name. True: answered. */
static bool
has_disk(struct rpc_request *req, struct lvol_store *store)
{
	struct lvol *lvol = NULL;

	while ((lvol = lvol_next(store, lvol)) != NULL && !disk_has_bdev(lvol_id(lvol))) {
		continue;
	}
	if (lvol == NULL) {
		return false;
	}
	rpc_error(req, -EBUSY,
		  "volume store '%.128s' holds the disk '%.200s': berth disk delete (berth_disk_delete) deletes that",
		  lvol_store_name(store), disk_of_bdev(lvol_id(lvol)));
	return true;
}

static void
delete_store(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_delete_lvstore_params *p = params;
	struct lvol_store *store = lvol_store_named(req, p->uuid, p->lvs_name);
	struct destruction *d;
	uuid_t uuid;

	if (store == NULL || has_disk(req, store)) {
		return;
	}
	d = calloc(1, sizeof(*d));
	if (d == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	d->req = req;
	lvol_store_uuid(store, uuid);
	uuid_unparse_lower(uuid, d->store);
	destroy(d);
}

static void
rename_store(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_rename_lvstore_params *p = params;
	struct lvol_store *store = lvol_store_find_name(p->old_name);

	if (store == NULL) {
		rpc_error(req, -ENOENT, "there is no volume store '%.128s'", p->old_name);
	} else if (strcmp(p->old_name, p->new_name) == 0) {
		lvol_answer_true(req, 0, NULL);
	} else {
		lvol_store_rename(store, p->new_name, lvol_answer_true, req);
	}
}

/* SPDK's answer is true when there is nothing to grow by. */
static void
grown(void *ctx, int status, const struct err *err)
{
	lvol_answer_true(ctx, status == -ENOSPC ? 0 : status, err);
}

static void
grow_store(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_grow_lvstore_params *p = params;
	struct lvol_store *store = lvol_store_named(req, p->uuid, p->lvs_name);

	if (store != NULL) {
		lvol_store_grow(store, grown, req);
	}
}

static void
set_options(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_set_lvstore_options_params *p = params;
	struct lvol_store *store = lvol_store_named(req, p->uuid, p->lvs_name);
	struct lvol_store_info info;

	if (store == NULL) {
		return;
	}
	lvol_store_get_info(store, &info);
	lvol_store_set_limits(
		store, p->has_low_space_percent ? p->low_space_percent : info.low_percent,
		p->when_full != NULL ? strcmp(p->when_full, "pause") == 0 : info.pause_when_full,
		lvol_answer_true, req);
}

/* ---- Listing ---- */

static json_t *
store_json(struct lvol_store *store)
{
	struct lvol_store_info i;

	lvol_store_get_info(store, &i);
	return json_pack(
		"{s:o, s:o, s:o, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:b, s:b}", "uuid",
		uuid_json(i.uuid), "name", text_json(i.name), "base_bdev", text_json(i.base_name),
		"total_data_clusters", (json_int_t)i.blob.total_data_clusters, "free_clusters",
		(json_int_t)i.blob.free_clusters, "block_size", (json_int_t)i.blob.io_unit_bytes,
		"cluster_size", (json_int_t)i.blob.cluster_bytes, "max_growable_size",
		(json_int_t)i.max_growable_bytes, "num_lvols", (json_int_t)i.volumes,
		"low_space_percent", (json_int_t)i.low_percent, "when_full",
		i.pause_when_full ? "pause" : "error", "full", i.blob.full, "readonly",
		i.blob.readonly || i.blob.broken);
}

static void
get_stores(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_get_lvstores_params *p = params;
	struct lvol_store *store = NULL;
	json_t *array;

	if (p->uuid != NULL || p->lvs_name != NULL) {
		store = lvol_store_named(req, p->uuid, p->lvs_name);
		if (store != NULL) {
			rpc_result(req, json_pack("[o]", store_json(store)));
		}
		return;
	}
	array = json_array();
	while ((store = lvol_store_next(store)) != NULL) {
		json_array_append_new(array, store_json(store));
	}
	rpc_result(req, array);
}

const struct rpc_method lvol_store_methods[] = {
	{"bdev_lvol_create_lvstore", create_store},
	{"bdev_lvol_delete_lvstore", delete_store},
	{"bdev_lvol_rename_lvstore", rename_store},
	{"bdev_lvol_grow_lvstore", grow_store},
	{"bdev_lvol_set_lvstore_options", set_options},
	{"bdev_lvol_get_lvstores", get_stores},
	{NULL, NULL},
};
