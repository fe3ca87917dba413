/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on powercut bdevs. */
#include "bdevs/powercut/powercut.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct powercut_bdev_options o;

	return bdev_powercut_get(bdev, &o, NULL);
}

static json_t *
options_json(const struct powercut_bdev_options *o)
{
	json_t *params = json_pack(
		"{s:o, s:o, s:s, s:I, s:I, s:I, s:I}", "name", text_json(o->name), "base_bdev_name",
		text_json(o->base_name), "mode", powercut_mode_name(o->mode), "seed",
		(json_int_t)o->seed, "sector_size", (json_int_t)o->sector_bytes, "cut_after",
		(json_int_t)o->cut_after, "cache_size_mb", (json_int_t)(o->cache_bytes >> 20));

	set_uuid(params, o->uuid);
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct powercut_bdev_options o;

	CHECK(bdev_powercut_get(bdev, &o, NULL));
	return options_json(&o);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct powercut_bdev_options o;
	struct powercut_info info;

	CHECK(bdev_powercut_get(bdev, &o, &info));
	json_object_set_new(
		object, "powercut",
		json_pack("{s:o, s:s, s:I, s:s, s:I, s:I, s:I}", "base_bdev_name",
			  text_json(o.base_name), "mode", powercut_mode_name(o.mode), "seed",
			  (json_int_t)o.seed, "power",
			  !info.cut ? "on" : info.settled ? "off" : "going off", "writes",
			  (json_int_t)info.writes, "cuts", (json_int_t)info.cuts,
			  "unflushed_bytes", (json_int_t)info.unflushed_bytes));
}

static void
waiting(json_t *calls)
{
	struct powercut_bdev_options o;
	bool waits;

	for (unsigned i = 0; bdev_powercut_list(i, &o, &waits); i++) {
		if (waits) {
			json_array_append_new(calls,
					      call_json("bdev_powercut_create", options_json(&o)));
		}
	}
}

const struct bdev_kind bdev_powercut_kind = {
	.create_method = "bdev_powercut_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

static enum powercut_mode
mode_of(const char *name)
{
	enum powercut_mode mode = POWERCUT_RANDOM;

	while (strcmp(powercut_mode_name(mode), name) != 0) {
		mode++;
	}
	return mode;
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_powercut_create_params *p = params;
	struct powercut_bdev_options o = {
		.name = p->name,
		.base_name = p->base_bdev_name,
		.seed = p->seed,
		.mode = mode_of(p->mode),
		.sector_bytes = p->sector_size,
		.cut_after = p->cut_after,
		.cache_bytes = (size_t)p->cache_size_mb << 20,
	};
	struct err err = ERR_NONE;
	struct bdev *bdev;
	int rc;

	uuid_copy(o.uuid, p->uuid);
	rc = bdev_powercut_create(&o, &bdev, &err);
	bdev_created_or_waits(req, rc, &err, bdev, p->name);
}

static void
cut(struct rpc_request *req, const void *params)
{
	struct err err = ERR_NONE;
	int rc = bdev_powercut_cut(((const struct bdev_powercut_cut_params *)params)->name, delete_done,
				   req, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	}
}

static void
restore(struct rpc_request *req, const void *params)
{
	const struct bdev_powercut_restore_params *p = params;
	struct err err = ERR_NONE;
	int rc = bdev_powercut_restore(p->name, p->cut_after, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		rpc_true(req);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_powercut_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_powercut_", bdev_powercut_delete);
}

const struct rpc_method bdev_powercut_methods[] = {
	{"bdev_powercut_create", create},
	{"bdev_powercut_cut", cut},
	{"bdev_powercut_restore", restore},
	{"bdev_powercut_delete", delete},
	{NULL, NULL},
};
