/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on zone_block bdevs. */
#include "bdevs/zone_block/zone_block.h"

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct zone_block_bdev_options o;

	return bdev_zone_block_get_options(bdev, &o);
}

static json_t *
options_json(const struct zone_block_bdev_options *o)
{
	json_t *params = json_pack("{s:o, s:o, s:I, s:I}", "base_bdev", text_json(o->base_name),
				   "name", text_json(o->name), "zone_capacity",
				   (json_int_t)o->zone_capacity, "optimal_open_zones",
				   (json_int_t)o->optimal_open_zones);

	if (o->max_open_zones != 0) {
		json_object_set_new(params, "max_open_zones", json_integer(o->max_open_zones));
	}
	if (o->max_active_zones != 0) {
		json_object_set_new(params, "max_active_zones", json_integer(o->max_active_zones));
	}
	return params;
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct zone_block_bdev_options o;

	CHECK(bdev_zone_block_get_options(bdev, &o));
	return options_json(&o);
}

static void
driver_specific(const struct bdev *bdev, json_t *object)
{
	struct zone_block_bdev_options o;

	CHECK(bdev_zone_block_get_options(bdev, &o));
	json_object_set_new(object, "zoned_block",
			    json_pack("{s:o, s:o, s:I, s:I}", "name", text_json(o.name),
				      "base_bdev", text_json(o.base_name), "zone_capacity",
				      (json_int_t)o.zone_capacity, "optimal_open_zones",
				      (json_int_t)o.optimal_open_zones));
}

static void
waiting(json_t *calls)
{
	struct zone_block_bdev_options o;

	for (unsigned i = 0; bdev_zone_block_list(i, &o); i++) {
		if (bdev_find(o.name) == NULL) {
			json_array_append_new(calls,
					      call_json("bdev_zone_block_create", options_json(&o)));
		}
	}
}

const struct bdev_kind bdev_zone_block_kind = {
	.create_method = "bdev_zone_block_create",
	.is = is,
	.params = params_json,
	.driver_specific = driver_specific,
	.waiting = waiting,
};

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_zone_block_create_params *p = params;
	struct zone_block_bdev_options o = {
		.name = p->name,
		.base_name = p->base_bdev,
		.zone_capacity = p->zone_capacity,
		.optimal_open_zones = p->optimal_open_zones,
		.max_open_zones = p->max_open_zones,
		.max_active_zones = p->max_active_zones,
	};
	struct err err = ERR_NONE;
	struct bdev *bdev;
	int rc = bdev_zone_block_create(&o, &bdev, &err);

	bdev_created_or_waits(req, rc, &err, bdev, p->name);
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_zone_block_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_zone_block_", bdev_zone_block_delete);
}

const struct rpc_method bdev_zone_block_methods[] = {
	{"bdev_zone_block_create", create},
	{"bdev_zone_block_delete", delete},
	{NULL, NULL},
};
