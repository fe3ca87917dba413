/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on RBD bdevs and Ceph clusters. */
#include "bdevs/rbd/rbd.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/log.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

#define MIB ((uint64_t)1 << 20)

/* ---- Settings ---- */

static void
set_settings(json_t *object, const char *key, const struct rbd_settings *settings)
{
	json_t *json;

	if (settings == NULL) {
		return;
	}
	json = json_object();
	for (size_t i = 0; i < settings->count; i++) {
		set_text(json, settings->item[i].name, settings->item[i].value);
	}
	json_object_set_new(object, key, json);
}

/* Of an object of strings, which is borrowed. False: the request has been answered. */
static bool
take_settings(struct rpc_request *req, const char *param, const json_t *object, struct rbd_settings *s)
{
	const char *key;
	json_t *value;

	s->count = 0;
	json_object_foreach ((json_t *)(uintptr_t)object, key, value) {
		if (s->count == RBD_SETTINGS_MAX) {
			rpc_error(req, -EINVAL, "%s has more than %d settings", param, RBD_SETTINGS_MAX);
			return false;
		}
		if (!json_is_string(value)) {
			rpc_error(req, -EINVAL, "%s: the value of '%.64s' is no string", param, key);
			return false;
		}
		s->item[s->count++] = (struct rbd_setting){key, json_string_value(value)};
		if (rbd_setting_is_secret(key)) {
			LOG_NOTICE(RPC, "rbd", "the key in %s is not saved: use a keyring file for that", param);
		}
	}
	return true;
}

/* ---- Clusters ---- */

static json_t *
cluster_json(const struct rbd_cluster_options *o, const char *name_key)
{
	json_t *object = json_pack("{s:o}", name_key, text_json(o->name));

	set_text(object, "user_id", o->user_id);
	set_settings(object, "config_param", o->settings);
	if (o->config_file != NULL) {
		set_path(object, "config_file", o->config_file);
	}
	if (o->key_file != NULL) {
		set_path(object, "key_file", o->key_file);
	}
	set_text(object, "core_mask", o->core_mask);
	return object;
}

static json_t *
register_json(const struct rbd_cluster_options *o)
{
	json_t *params = cluster_json(o, "name");

	json_object_set_new(params, "wait", json_true());
	return params;
}

static void
add_call(void *ctx, const struct rbd_cluster_options *o)
{
	json_array_append_new(ctx, call_json("bdev_rbd_register_cluster", register_json(o)));
}

void
rbd_clusters_config(json_t *calls, bool for_state)
{
	bdev_rbd_for_each_cluster(add_call, calls);
}

struct lookup {
	const char *name; /* NULL: all */
	json_t *found;    /* an array */
	bool for_register;
};

static void
collect(void *ctx, const struct rbd_cluster_options *o)
{
	struct lookup *l = ctx;

	if (l->name == NULL || strcmp(l->name, o->name) == 0) {
		json_array_append_new(l->found, l->for_register ? register_json(o) : cluster_json(o, "cluster_name"));
	}
}

/* New reference. */
static json_t *
collect_all(const char *name, bool for_register)
{
	struct lookup l = {.name = name, .found = json_array(), .for_register = for_register};

	bdev_rbd_for_each_cluster(collect, &l);
	return l.found;
}

struct call {
	struct rpc_request *req;
	const char *name; /* the request's */
};

static struct call *
new_call(struct rpc_request *req, const char *name)
{
	struct call *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return NULL;
	}
	*c = (struct call){req, name};
	return c;
}

static void
registered(void *ctx, const struct err *err)
{
	struct call *c = ctx;

	if (err->code != 0) {
		rpc_error_from(c->req, err->code, err);
	} else {
		json_t *found = collect_all(c->name, true);

		rpc_set_recorded_params(c->req, json_incref(json_array_get(found, 0)));
		json_decref(found);
		rpc_result(c->req, text_json(c->name));
	}
	free(c);
}

static void
register_cluster(struct rpc_request *req, const void *params)
{
	const struct bdev_rbd_register_cluster_params *p = params;
	struct rbd_settings settings;
	struct rbd_cluster_options o = {
		.name = p->name,
		.user_id = p->user_id,
		.settings = p->config_param != NULL ? &settings : NULL,
		.config_file = p->config_file,
		.key_file = p->key_file,
		.core_mask = p->core_mask,
		.wait = p->wait,
	};
	struct err err = ERR_NONE;
	struct call *c;
	int rc;

	if (!take_settings(req, "config_param", p->config_param, &settings)) {
		return;
	}
	c = new_call(req, p->name);
	if (c == NULL) {
		return;
	}
	rc = bdev_rbd_register_cluster(&o, registered, c, &err);
	if (rc != 0) {
		free(c);
		rpc_error_from(req, rc, &err);
	}
}

static void
unregister_cluster(struct rpc_request *req, const void *params)
{
	const struct bdev_rbd_unregister_cluster_params *p = params;
	struct err err = ERR_NONE;
	int rc = bdev_rbd_unregister_cluster(p->name, delete_done, req, &err);

	if (rc == -ENOENT && methods->forget != NULL &&
	    methods->forget(methods->ctx, "bdev_rbd_register_cluster", p->name)) {
		rpc_true(req);
	} else if (rc != 0) {
		rpc_error_from(req, rc, &err);
	}
}

static void
get_clusters_info(struct rpc_request *req, const void *params)
{
	const struct bdev_rbd_get_clusters_info_params *p = params;
	json_t *found = collect_all(p->name, false);

	if (json_array_size(found) == 0) {
		rpc_error(req, -ENOENT, p->name != NULL ? "there is no cluster '%.128s'" : "there is no cluster", p->name);
	} else {
		rpc_result(req, json_incref(p->name != NULL ? json_array_get(found, 0) : found));
	}
	json_decref(found);
}

/* ---- Bdevs ---- */

static bool
is(const struct bdev *bdev)
{
	struct rbd_bdev_options o;

	return bdev_rbd_options(bdev, &o);
}

static json_t *
options_json(const struct rbd_bdev_options *o)
{
	json_t *params = json_pack("{s:o, s:o, s:o, s:I, s:b, s:b}", "name", text_json(o->name), "pool_name", text_json(o->pool),
				   "rbd_name", text_json(o->image), "block_size", (json_int_t)o->block_size, "read_only",
				   (int)o->readonly, "wait", 1);

	set_text(params, "user_id", o->user_id);
	set_text(params, "cluster_name", o->cluster);
	set_settings(params, "config", o->settings);
	set_uuid(params, o->uuid);
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct rbd_bdev_options o;

	CHECK(bdev_rbd_options(bdev, &o));
	return options_json(&o);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct rbd_bdev_options o;
	json_t *rbd;

	CHECK(bdev_rbd_options(bdev, &o));
	rbd = json_pack("{s:o, s:o}", "pool_name", text_json(o.pool), "rbd_name", text_json(o.image));
	set_text(rbd, "cluster_name", o.cluster);
	set_text(rbd, "user_id", o.user_id);
	set_settings(rbd, "config", o.settings);
	json_object_set_new(object, "rbd", rbd);
}

static void
add_waiting(void *ctx, const struct rbd_bdev_options *o)
{
	json_array_append_new(ctx, call_json("bdev_rbd_create", options_json(o)));
}

static void
waiting(json_t *calls)
{
	bdev_rbd_for_each_waiting(add_waiting, calls);
}

const struct bdev_kind bdev_rbd_kind = {
	.create_method = "bdev_rbd_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

static void
created(void *ctx, const char *name, struct bdev *bdev, const struct err *err)
{
	struct call *c = ctx;
	struct rbd_bdev_options kept;

	if (err->code != 0) {
		rpc_error_from(c->req, err->code, err);
	} else {
		CHECK(bdev_rbd_find(name, &kept));
		rpc_set_recorded_params(c->req, options_json(&kept));
		rpc_result(c->req, text_json(name));
	}
	free(c);
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_rbd_create_params *p = params;
	struct rbd_settings settings;
	struct rbd_bdev_options o = {
		.name = p->name,
		.pool = p->pool_name,
		.image = p->rbd_name,
		.cluster = p->cluster_name,
		.user_id = p->user_id,
		.settings = p->config != NULL ? &settings : NULL,
		.block_size = p->block_size,
		.readonly = p->read_only,
		.wait = p->wait,
	};
	struct err err = ERR_NONE;
	struct call *c;
	int rc;

	uuid_copy(o.uuid, p->uuid);
	if (!take_settings(req, "config", p->config, &settings)) {
		return;
	}
	c = new_call(req, p->name);
	if (c == NULL) {
		return;
	}
	rc = bdev_rbd_create(&o, created, c, &err);
	if (rc != 0) {
		free(c);
		rpc_error_from(req, rc, &err);
	}
}

static void
resized(void *ctx, const struct err *err)
{
	struct rpc_request *req = ctx;

	if (err->code != 0) {
		rpc_error_from(req, err->code, err);
	} else {
		rpc_true(req);
	}
}

static void
resize(struct rpc_request *req, const void *params)
{
	const struct bdev_rbd_resize_params *p = params;
	struct err err = ERR_NONE;
	int rc = bdev_rbd_resize(p->name, p->new_size * MIB, resized, req, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_rbd_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_rbd_create", bdev_rbd_delete);
}

const struct rpc_method bdev_rbd_methods[] = {
	{"bdev_rbd_register_cluster", register_cluster},
	{"bdev_rbd_unregister_cluster", unregister_cluster},
	{"bdev_rbd_get_clusters_info", get_clusters_info},
	{"bdev_rbd_create", create},
	{"bdev_rbd_resize", resize},
	{"bdev_rbd_delete", delete},
	{NULL, NULL},
};
