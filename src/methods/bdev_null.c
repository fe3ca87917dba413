/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on null bdevs. */
#include "bdevs/null/null.h"

#include <errno.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

#define MIB UINT64_C(1048576)

static bool
is(const struct bdev *bdev)
{
	struct null_bdev_options o;

	return bdev_null_get_options(bdev, &o);
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct null_bdev_options o;
	json_t *params;

	CHECK(bdev_null_get_options(bdev, &o));
	params = json_pack("{s:o, s:I, s:I, s:I, s:I, s:I, s:b, s:I, s:o}", "name",
			   text_json(o.name), "num_blocks", (json_int_t)o.num_blocks, "block_size",
			   (json_int_t)o.block_size, "physical_block_size",
			   (json_int_t)o.physical_block_size, "md_size", (json_int_t)o.md_size,
			   "dif_type", (json_int_t)o.dif_type, "dif_is_head_of_md",
			   o.dif_is_head_of_md, "dif_pi_format", (json_int_t)o.dif_pi_format, "uuid",
			   uuid_json(o.uuid));
	json_object_set_new(params, "preferred_write_granularity",
			    json_integer(o.hints.preferred_write_granularity));
	json_object_set_new(params, "preferred_write_alignment",
			    json_integer(o.hints.preferred_write_alignment));
	json_object_set_new(params, "optimal_write_size",
			    json_integer(o.hints.optimal_write_size));
	json_object_set_new(params, "preferred_unmap_granularity",
			    json_integer(o.hints.preferred_unmap_granularity));
	json_object_set_new(params, "preferred_unmap_alignment",
			    json_integer(o.hints.preferred_unmap_alignment));
	return params;
}

const struct bdev_kind bdev_null_kind = {
	.create_method = "bdev_null_create",
	.is = is,
	.params = params_json,
};

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_null_create_params *p = params;
	struct null_bdev_options o = {
		.name = p->name,
		.num_blocks = p->num_blocks,
		.block_size = p->block_size,
		.physical_block_size = p->physical_block_size,
		.md_size = p->md_size,
		.dif_type = p->dif_type,
		.dif_is_head_of_md = p->dif_is_head_of_md,
		.dif_pi_format = p->dif_pi_format,
		.hints = {
			.preferred_write_alignment = p->preferred_write_alignment,
			.preferred_write_granularity = p->preferred_write_granularity,
			.optimal_write_size = p->optimal_write_size,
			.preferred_unmap_alignment = p->preferred_unmap_alignment,
			.preferred_unmap_granularity = p->preferred_unmap_granularity,
		},
	};
	struct err err = ERR_NONE;
	struct bdev *bdev;
	int rc;

	uuid_copy(o.uuid, p->uuid);
	rc = bdev_null_create(&o, &bdev, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		bdev_created(req, bdev);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_null_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_null_", bdev_null_delete);
}

static void
resize(struct rpc_request *req, const void *params)
{
	const struct bdev_null_resize_params *p = params;
	const struct bdev *bdev = bdev_find(p->name);
	struct err err = ERR_NONE;
	/* The module refuses a bdev that is none, or not one of its own. */
	uint64_t num_blocks = bdev != NULL ? p->new_size * MIB / bdev_block_size(bdev) : 0;
	int rc = bdev_null_resize(p->name, num_blocks, &err);

	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		rpc_true(req);
	}
}

const struct rpc_method bdev_null_methods[] = {
	{"bdev_null_create", create},
	{"bdev_null_delete", delete},
	{"bdev_null_resize", resize},
	{NULL, NULL},
};
