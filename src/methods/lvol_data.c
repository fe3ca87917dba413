/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on what volumes consist of: changed blocks, shallow copies. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "methods/lvol_internal.h"
#include "rpc/schema_gen.h"

/* Of one look at the volume. */
#define LOOK 256
/* Looks of one answer: of a volume in which nothing changed they lead nowhere. */
#define LOOKS_MAX 4096

/* ---- Changed blocks ---- */

struct changes {
	struct lvol *lvol, *since;
	bool stacked; /* what stands on it is asked about: zeroes in the volume may be none there */
	uint64_t lba, num_blocks;
	uint32_t block_size;
	size_t max;
	json_t *extents;
	/* The last extent, not added yet; no blocks: there is none. */
	uint64_t start, length;
	bool zero;
};

static void
add_last(struct changes *c)
{
	if (c->length > 0) {
		json_array_append_new(c->extents,
				      json_pack("{s:I, s:I, s:b}", "offset",
						(json_int_t)(c->start * c->block_size), "length",
						(json_int_t)(c->length * c->block_size), "zero",
						c->zero));
	}
	c->length = 0;
}

/* Whether it belongs into the answer. */
static bool
listed(const struct changes *c, const struct bdev_extent *e)
{
	return c->since != NULL ? (e->flags & BDEV_EXTENT_CHANGED) != 0
				: (e->flags & BDEV_EXTENT_ZERO) == 0 || c->stacked;
}

/* False: there is no more room; the extent has not been taken. */
static bool
take(struct changes *c, const struct bdev_extent *e)
{
	bool zero = (e->flags & BDEV_EXTENT_ZERO) != 0 && !c->stacked;

	if (listed(c, e)) {
		if (c->length > 0 && (c->start + c->length != c->lba || c->zero != zero)) {
			add_last(c);
		}
		if (c->length == 0 && json_array_size(c->extents) >= c->max) {
			return false;
		}
		if (c->length == 0) {
			c->start = c->lba;
			c->zero = zero;
		}
		c->length += e->num_blocks;
	}
	c->lba += e->num_blocks;
	return true;
}

static int
collect(struct changes *c, struct err *err)
{
	struct bdev_extent extents[LOOK];

	for (unsigned looks = 0; c->lba < c->num_blocks && looks < LOOKS_MAX; looks++) {
		unsigned count = 0;
		int rc = lvol_extents(c->lvol, c->since, c->lba, extents, LOOK, &count, err);

		if (rc != 0) {
			return rc;
		}
		for (unsigned i = 0; i < count; i++) {
			if (!take(c, &extents[i])) {
				return 0;
			}
		}
		if (count == 0) {
			c->lba = c->num_blocks;
		}
	}
	add_last(c);
	return 0;
}

/* The volume itself, or what has its blocks in the same places. False: answered. */
static bool
find_volumes(struct rpc_request *req, const struct bdev_lvol_get_changed_blocks_params *p, struct changes *c)
{
	const struct bdev *bdev = bdev_find(p->name);
	struct lvol_info info;

	c->lvol = bdev != NULL && lvol_below(bdev) != NULL ? lvol_below(bdev) : lvol_named(req, p->name);
	if (c->lvol == NULL) {
		return false;
	}
	c->stacked = bdev != NULL && lvol_of_bdev(bdev) == NULL;
	lvol_get_info(c->lvol, &info);
	if (c->stacked && bdev_num_blocks(bdev) * bdev_block_size(bdev) != info.bytes) {
		rpc_error(req, -EINVAL, "bdev '%.128s' is only a part of volume '%s'", p->name, info.alias);
		return false;
	}
	c->since = p->since != NULL ? lvol_behind(p->since) : NULL;
	if (p->since != NULL && c->since == NULL) {
		rpc_error(req, -ENODEV, "there is no volume '%.128s'", p->since);
		return false;
	}
	return true;
}

static void
get_changed_blocks(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_get_changed_blocks_params *p = params;
	struct changes c = {.max = p->max};
	struct lvol_store_info store;
	struct lvol_info info;
	struct err err = ERR_NONE;
	int rc;

	if (!find_volumes(req, p, &c)) {
		return;
	}
	lvol_get_info(c.lvol, &info);
	lvol_store_get_info(info.store, &store);
	c.block_size = store.blob.io_unit_bytes;
	c.num_blocks = info.bytes / c.block_size;
	c.lba = p->offset / c.block_size;
	if (p->offset > info.bytes) {
		rpc_error(req, -EINVAL,
			  "offset is %" PRIu64 ", but volume '%s' has %" PRIu64 " bytes", p->offset,
			  info.alias, info.bytes);
		return;
	}
	c.extents = json_array();
	rc = collect(&c, &err);
	if (rc != 0) {
		json_decref(c.extents);
		rpc_error_from(req, rc == -ERANGE ? -EINVAL : rc, &err);
		return;
	}
	rpc_result(req,
		   json_pack("{s:I, s:o, s:o}", "size", (json_int_t)info.bytes, "next_offset",
			     c.lba < c.num_blocks ? json_integer((json_int_t)(c.lba * c.block_size))
						  : json_null(),
			     "extents", c.extents));
}

/* ---- Shallow copies ---- */

static void
start_copy(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_start_shallow_copy_params *p = params;
	struct lvol *lvol = lvol_named(req, p->src_lvol_name);
	struct err err = ERR_NONE;
	uint32_t id;

	if (lvol == NULL) {
		return;
	}
	if (lvol_shallow_copy_start(lvol, p->dst_bdev_name, &id, &err) != 0) {
		rpc_error_from(req, RPC_ERROR_INVALID_PARAMS, &err);
	} else {
		rpc_result(req, json_pack("{s:I}", "operation_id", (json_int_t)id));
	}
}

static void
check_copy(struct rpc_request *req, const void *params)
{
	const struct bdev_lvol_check_shallow_copy_params *p = params;
	struct lvol_copy_status s;
	json_t *json;

	if (lvol_shallow_copy_check(p->operation_id, &s) != 0) {
		rpc_error(req, -ENODEV, "there is no shallow copy %" PRIu32, p->operation_id);
		return;
	}
	json = json_pack("{s:I, s:I, s:s}", "copied_clusters", (json_int_t)s.copied_clusters,
			 "total_clusters", (json_int_t)s.total_clusters, "state",
			 !s.ended        ? "in progress"
			 : s.status == 0 ? "complete"
					 : "error");
	if (s.ended && s.status != 0) {
		json_object_set_new(json, "error", json_string(strerror(-s.status)));
	}
	rpc_result(req, json);
}

const struct rpc_method lvol_data_methods[] = {
	{"bdev_lvol_get_changed_blocks", get_changed_blocks},
	{"bdev_lvol_start_shallow_copy", start_copy},
	{"bdev_lvol_check_shallow_copy", check_copy},
	{NULL, NULL},
};
