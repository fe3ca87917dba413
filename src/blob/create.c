/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Making a store on a device.
 *
 * Invariants
 *  1. The super block comes last, when all it speaks of is on stable storage; one that was there is destroyed before anything
 *     else is: a power cut leaves a whole store, or none.
 *  2. What fails leaves the device without a store, closed.
 * Context: the thread that becomes the owner.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blob/open_internal.h"

/*
 * Metadata pages, when nobody says how many. A volume needs one, and one for each 512 clusters that lie together in it;
 * what random writes between snapshots leave behind is much sparser, so one for 16 clusters (0.4 % of the space, with
 * clusters of 64 KiB): volumes and snapshots may be 32 times as large as the store, all together. Small stores have many
 * small volumes: 65536 pages, as long as these are no more than 1/128 of the space; small clusters are many: no more than
 * 1/64 of it.
 */
#define CLUSTERS_PER_PAGE 16u
#define PAGES_WANTED UINT64_C(65536)
#define PAGES_SHARE 128u
/* The cluster mask has room to grow so many times: beyond that metadata pages would be short even for volumes written in
 * order. */
#define GROWTH 8u

struct create {
	struct opening opening;
	bool was_there; /* a store, to be overwritten */
};

static struct create *
create_of(struct steps *s)
{
	return CONTAINER_OF(s, struct create, opening.steps);
}

/* ---- Steps ---- */

static int
read_super(struct steps *s)
{
	struct blob_store *store = create_of(s)->opening.store;
	size_t bytes = MAX(BLOB_PAGE_BYTES, store->dev->block_size);

	if (store->readonly) {
		return err_set(&s->err, -EROFS, "%s is read-only", store->dev->name);
	}
	if (store->dev->num_blocks << store->block_shift < bytes) {
		return err_set(&s->err, -ENOSPC, "%s has less than %zu bytes", store->dev->name, bytes);
	}
	return opening_read_super(s);
}

static int
look_at_super(struct steps *s)
{
	struct create *c = create_of(s);
	struct blob_super super;

	c->was_there = blob_super_decode(c->opening.io->buf, &super, NULL) != -EINVAL;
	if (c->was_there && !c->opening.store->options.overwrite) {
		return err_set(&s->err, -EEXIST, "%s has a blobstore", c->opening.store->dev->name);
	}
	return 0;
}

static int
lay_out(struct steps *s)
{
	struct create *c = create_of(s);
	struct blob_store *store = c->opening.store;
	const struct blob_store_options *o = &store->options;
	struct blob_layout layout = {
		.device_bytes = store->dev->num_blocks << store->block_shift,
		.cluster_bytes = o->cluster_bytes != 0 ? o->cluster_bytes : BLOB_CLUSTER_BYTES_DEFAULT,
		.md_page_bytes = o->md_page_bytes != 0 ? o->md_page_bytes : MAX(BLOB_PAGE_BYTES, store->dev->block_size),
		.io_unit_bytes = o->io_unit_bytes != 0 ? o->io_unit_bytes : store->dev->block_size,
		.md_pages = o->md_pages,
	};
	uint64_t clusters = layout.device_bytes / layout.cluster_bytes;
	int rc;

	if (layout.md_pages == 0) {
		uint64_t share = layout.device_bytes / PAGES_SHARE / layout.md_page_bytes;
		uint64_t pages = MAX(MIN(clusters / CLUSTERS_PER_PAGE, 2 * share), MIN(share, PAGES_WANTED));

		pages = MAX(pages, UINT64_C(16));
		layout.md_pages = (uint32_t)MIN(pages, (uint64_t)INT32_MAX);
	}
	/* Room in the mask is cheap, whoever says how many pages of metadata there are. */
	layout.growth = GROWTH;
	rc = blob_layout_super(&layout, &store->super, &s->err);
	if (rc != 0) {
		return rc;
	}
	memcpy(store->super.type, o->type, sizeof(store->super.type));
	return store_set_geometry(store, &s->err);
}

static int
destroy_old(struct steps *s)
{
	struct create *c = create_of(s);

	if (!c->was_there) {
		return 0;
	}
	super_write(c->opening.store, &c->opening.store->super, true, opening_step_done, &c->opening);
	return STEPS_WAIT;
}

static int
clear_data(struct steps *s)
{
	struct create *c = create_of(s);
	struct blob_store *store = c->opening.store;
	uint64_t from = blob_super_md_clusters(&store->super) * store->super.cluster_bytes;
	uint64_t bytes = (store->dev->num_blocks << store->block_shift) - from;
	bool zeroes = store->options.clear == BLOB_CLEAR_WRITE_ZEROES;

	if (store->options.clear == BLOB_CLEAR_NONE || (!zeroes && !store->dev->unmap)) {
		return 0;
	}
	store_clear_range(store, zeroes ? BLOB_DEV_WRITE_ZEROES : BLOB_DEV_UNMAP, from, bytes, opening_step_done, &c->opening);
	return STEPS_WAIT;
}

/* All behind the super block, so that nothing there looks like metadata. */
static int
zero_metadata(struct steps *s)
{
	struct create *c = create_of(s);
	uint64_t page = c->opening.store->super.md_page_bytes;
	uint64_t end = ((uint64_t)c->opening.store->super.md.start + c->opening.store->super.md.length) * page;

	store_clear_range(c->opening.store, BLOB_DEV_WRITE_ZEROES, page, end - page, opening_step_done, &c->opening);
	return STEPS_WAIT;
}

static int
write_masks(struct steps *s)
{
	struct create *c = create_of(s);

	masks_write(c->opening.store, opening_step_done, &c->opening);
	return STEPS_WAIT;
}

static int
write_super(struct steps *s)
{
	struct create *c = create_of(s);

	super_write(c->opening.store, &c->opening.store->super, false, opening_step_done, &c->opening);
	return STEPS_WAIT;
}

static int
get_ready(struct steps *s)
{
	create_of(s)->opening.store->clean_on_disk = true;
	return opening_get_ready(s);
}

static const struct step steps[] = {
	{"reading the super block", read_super, NULL},
	{"looking for a blobstore", look_at_super, NULL},
	{"laying out", lay_out, NULL},
	{"destroying the old super block", destroy_old, NULL},
	{"clearing the device", clear_data, NULL},
	{"zeroing metadata", zero_metadata, NULL},
	{"writing the masks", write_masks, NULL},
	{"writing the super block", write_super, NULL},
	{"getting ready", get_ready, NULL},
};

int
blob_store_create(struct blob_dev *dev, const struct blob_store_options *options, blob_store_done_fn done, void *ctx)
{
	struct create *c = calloc(1, sizeof(*c));

	return opening_start(c == NULL ? NULL : &c->opening, dev, options, steps, ARRAY_SIZE(steps), done, ctx);
}
