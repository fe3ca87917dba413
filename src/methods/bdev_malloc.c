/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on malloc bdevs. */
#include "bdevs/malloc/malloc.h"

#include <errno.h>
#include <stdio.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static bool
is(const struct bdev *bdev)
{
	struct malloc_bdev_options o;

	return bdev_malloc_get_options(bdev, &o);
}

static json_t *
params_json(const struct bdev *bdev)
{
	struct malloc_bdev_options o;
	json_t *params;

	CHECK(bdev_malloc_get_options(bdev, &o));
	params = json_pack("{s:o, s:I, s:I, s:I, s:o, s:I, s:I, s:I, s:b, s:I, s:I}", "name",
			   text_json(o.name), "num_blocks", (json_int_t)o.num_blocks, "block_size",
			   (json_int_t)o.block_size, "physical_block_size",
			   (json_int_t)o.physical_block_size, "uuid", uuid_json(o.uuid),
			   "optimal_io_boundary", (json_int_t)o.optimal_io_boundary, "md_size",
			   (json_int_t)o.md_size, "dif_type", (json_int_t)o.dif_type,
			   "dif_is_head_of_md", o.dif_is_head_of_md, "dif_pi_format",
			   (json_int_t)o.dif_pi_format, "numa_id",
			   o.on_numa_node ? (json_int_t)o.numa_node : (json_int_t)-1);
	if (o.md_interleave) { /* SPDK forgets it */
		json_object_set_new(params, "md_interleave", json_true());
	}
	return params;
}

const struct bdev_kind bdev_malloc_kind = {
	.create_method = "bdev_malloc_create",
	.is = is,
	.params = params_json,
	.shows_numa_id = true,
};

/* All below it are taken, so that a thousand names are not looked for a thousand times. */
static unsigned first_free;

/* The first free one of Malloc0, Malloc1, ... */
static void
choose_name(char ret_name[BDEV_NAME_BYTES])
{
	for (;; first_free++) {
		snprintf(ret_name, BDEV_NAME_BYTES, "Malloc%u", first_free);
		if (bdev_find(ret_name) == NULL) {
			return;
		}
	}
}

/* A name that looks like one of these, though it may be an odd one ("Malloc07"): searching too early does no harm. */
void
malloc_bdev_gone(const char *name)
{
	unsigned number;

	if (sscanf(name, "Malloc%u", &number) == 1) {
		first_free = MIN(first_free, number);
	}
}

static void
create(struct rpc_request *req, const void *params)
{
	const struct bdev_malloc_create_params *p = params;
	char name[BDEV_NAME_BYTES];
	struct malloc_bdev_options o = {
		.name = p->name,
		.num_blocks = p->num_blocks,
		.block_size = p->block_size,
		.physical_block_size = p->physical_block_size,
		.optimal_io_boundary = p->optimal_io_boundary,
		.md_size = p->md_size,
		.md_interleave = p->md_interleave,
		.dif_type = p->dif_type,
		.dif_is_head_of_md = p->dif_is_head_of_md,
		.dif_pi_format = p->dif_pi_format,
		.on_numa_node = p->numa_id >= 0,
		.numa_node = p->numa_id >= 0 ? (uint32_t)p->numa_id : 0,
	};
	struct err err = ERR_NONE;
	struct bdev *bdev;
	int rc;

	if (o.name == NULL) {
		choose_name(name);
		o.name = name;
	}
	uuid_copy(o.uuid, p->uuid);
	rc = bdev_malloc_create(&o, &bdev, &err);
	if (rc != 0) {
		rpc_error_from(req, rc, &err);
	} else {
		bdev_created(req, bdev);
	}
}

static void delete (struct rpc_request *req, const void *params)
{
	const struct bdev_malloc_delete_params *p = params;

	delete_by_name(req, p->name, "bdev_malloc_", bdev_malloc_delete);
}

const struct rpc_method bdev_malloc_methods[] = {
	{"bdev_malloc_create", create},
	{"bdev_malloc_delete", delete},
	{NULL, NULL},
};
