/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/blob_made.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

/* ---- The disk ---- */

uint8_t disk[DISK_BYTES];
struct change changes[CHANGES_MAX];
unsigned num_changes;
uint64_t unreadable;
struct blob_super super;
struct spec specs[BLOBS];

static int
disk_read(void *ctx, uint64_t offset, void *buf, size_t bytes)
{
	CHECK(offset % 4096 == 0 && bytes % 4096 == 0 && offset + bytes <= DISK_BYTES);
	if (unreadable != 0 && offset <= unreadable && unreadable < offset + bytes) {
		return -EIO;
	}
	memcpy(buf, disk + offset, bytes);
	return 0;
}

static int
disk_write(void *ctx, uint64_t offset, const void *buf, size_t bytes)
{
	struct change *c = &changes[num_changes++];

	CHECK(offset % 4096 == 0 && bytes % 4096 == 0 && offset + bytes <= DISK_BYTES &&
	      num_changes < ARRAY_SIZE(changes));
	*c = (struct change){offset, bytes, malloc(bytes)};
	CHECK(c->data != NULL);
	memcpy(c->data, buf, bytes);
	memcpy(disk + offset, buf, bytes);
	return 0;
}

static int
disk_flush(void *ctx)
{
	changes[num_changes++] = (struct change){0};
	return 0;
}

const struct blob_offline dev = {.read = disk_read, .write = disk_write, .flush = disk_flush, .bytes = DISK_BYTES};

void
forget_changes(void)
{
	for (unsigned i = 0; i < num_changes; i++) {
		free(changes[i].data);
	}
	num_changes = 0;
}

/* ---- The store ---- */

uint8_t *
md(uint32_t page)
{
	return disk + ((uint64_t)super.md.start + page) * 4096;
}

void
put_extents(const struct spec *s)
{
	struct blob_page_writer w;

	for (unsigned i = 0; i < 2; i++) {
		uint32_t start = i * BLOB_EXTENT_CLUSTERS;

		if (s->extent[i] != 0) {
			blob_page_begin(&w, md(s->extent[i]));
			blob_put_extent_page(&w, start, s->map + start,
					     (uint32_t)MIN((uint64_t)BLOB_EXTENT_CLUSTERS, s->clusters - start) +
						     (uint32_t)(i == 0 ? s->entries_more : 0));
			blob_page_end(&w, BLOB_ID_BASE + s->page, 0, BLOB_PAGE_NONE);
		}
	}
}

static void
put_clusters(struct blob_page_writer *w, const struct spec *s)
{
	struct blob_run runs[VIRTUAL];
	uint32_t n = 0;

	if (s->rle) {
		for (uint64_t i = 0; i < s->clusters; i++) {
			runs[n++] = (struct blob_run){s->map[i], 1};
		}
		CHECK(blob_put_extent_rle(w, runs, n) == n);
		return;
	}
	for (unsigned i = 0; i * BLOB_EXTENT_CLUSTERS < s->clusters; i++) {
		runs[n++] = (struct blob_run){s->extent[i], 1};
	}
	CHECK(blob_put_extent_table(w, s->clusters, runs, n) == n);
}

static void
put_ids(struct blob_page_writer *w, const struct spec *s)
{
	const struct {
		const char *name;
		uint64_t id;
	} ids[] = {{"SNAP", s->parent}, {"SNAPTMP", s->making}, {"SNAPRM", s->removing}};

	for (unsigned i = 0; i < ARRAY_SIZE(ids); i++) {
		if (ids[i].id != 0) {
			blob_put_xattr(w, true, ids[i].name, (uint16_t)strlen(ids[i].name), &ids[i].id,
				       i == 0 && s->short_parent ? 4 : 8);
		}
	}
	if (s->deleted) {
		blob_put_xattr(w, true, "BERTHDEL", 8, NULL, 0);
	}
	if (s->has_intent) {
		blob_put_xattr(w, true, "BERTHGROUP", 10, s->intent, sizeof(s->intent));
	}
}

void
put_blob(const struct spec *s)
{
	uint64_t id = BLOB_ID_BASE + s->page;
	struct blob_flags flags = s->flags;
	struct blob_page_writer w;
	char big[3000];

	flags.invalid ^= (s->thin ? BLOB_INVALID_THIN : 0) | (s->rle ? 0 : BLOB_INVALID_EXTENT_TABLE) |
			 (s->parent != 0 || s->making != 0 || s->removing != 0 || s->deleted || s->has_intent
				  ? BLOB_INVALID_INTERNAL_XATTR
				  : 0);
	flags.data_ro |= s->read_only ? BLOB_DATA_RO_READ_ONLY : 0;
	memset(big, 'x', sizeof(big));
	put_extents(s);
	blob_page_begin(&w, md(s->page));
	CHECK(blob_put_flags(&w, &flags));
	if (s->name != NULL) {
		blob_put_xattr(&w, false, "name", 4, s->name, (uint16_t)(strlen(s->name) + 1));
	}
	blob_put_xattr(&w, false, "uuid", 4, s->uuid, (uint16_t)(strlen(s->uuid) + 1));
	if (s->twice) {
		blob_put_xattr(&w, false, "uuid", 4, "other", 6);
	}
	put_ids(&w, s);
	if (s->second != 0) {
		blob_put_xattr(&w, false, "big", 3, big, sizeof(big));
		blob_page_end(&w, id, 0, s->second);
		blob_page_begin(&w, md(s->second));
	}
	put_clusters(&w, s);
	blob_page_end(&w, id, s->second != 0, BLOB_PAGE_NONE);
}

uint8_t *
mask(const struct blob_region *region)
{
	return disk + (uint64_t)region->start * 4096 + BLOB_MASK_HEADER_BYTES;
}

void
flip(const struct blob_region *region, uint32_t i)
{
	mask(region)[i / 8] ^= (uint8_t)(1u << (i % 8));
}

static void
set(const struct blob_region *region, uint32_t i)
{
	mask(region)[i / 8] |= (uint8_t)(1u << (i % 8));
}

static void
put_masks(void)
{
	blob_mask_encode(mask(&super.page_mask) - 5, BLOB_MASK_PAGES, MD_PAGES);
	blob_mask_encode(mask(&super.cluster_mask) - 5, BLOB_MASK_CLUSTERS, CLUSTERS);
	blob_mask_encode(mask(&super.blobid_mask) - 5, BLOB_MASK_BLOBIDS, MD_PAGES);
	for (uint32_t i = 0; i < blob_super_md_clusters(&super); i++) {
		set(&super.cluster_mask, i);
	}
	for (unsigned b = 0; b < BLOBS; b++) {
		const struct spec *s = &specs[b];

		set(&super.page_mask, s->page);
		set(&super.blobid_mask, s->page);
		for (uint64_t i = 0; i < s->clusters; i++) {
			set(&super.cluster_mask, s->map[i]);
		}
		for (unsigned k = 0; k < 2; k++) {
			set(&super.page_mask, s->extent[k] != 0 ? s->extent[k] : s->page);
		}
		set(&super.page_mask, s->second != 0 ? s->second : s->page);
	}
}

void
make_store(void)
{
	const struct blob_layout layout = {DISK_BYTES, CLUSTER, 4096, 512, MD_PAGES, 0};

	memset(disk, 0, sizeof(disk));
	unreadable = 0;
	CHECK(blob_layout_super(&layout, &super, NULL) == 0);
	memcpy(super.type, "LVOLSTORE", 9);
	super.super_blob = BLOB_ID_BASE;
	memset(specs, 0, sizeof(specs));
	specs[SUPER] = (struct spec){.page = 0, .name = "lvs", .uuid = "u-lvs"};
	specs[VOL] = (struct spec){.page = 1,
				   .name = "vol",
				   .uuid = "u-vol",
				   .thin = true,
				   .clusters = VIRTUAL,
				   .extent = {10, 11},
				   .parent = BLOB_ID_BASE + 3};
	specs[THICK] = (struct spec){.page = 2, .name = "thick", .uuid = "u-thick", .rle = true, .clusters = 4};
	specs[SNAP] = (struct spec){.page = 3,
				    .name = "snap",
				    .uuid = "u-snap",
				    .thin = true,
				    .read_only = true,
				    .clusters = VIRTUAL,
				    .extent = {12, 0}};
	specs[CLONE] = (struct spec){.page = 4,
				     .name = "clone",
				     .uuid = "u-clone",
				     .thin = true,
				     .clusters = VIRTUAL,
				     .extent = {14, 0},
				     .second = 13,
				     .parent = BLOB_ID_BASE + 3};
	for (uint32_t i = 0; i < 4; i++) {
		specs[VOL].map[i] = 40 + 2 * i;
		specs[VOL].map[520 + i] = 60 + i;
		specs[THICK].map[i] = 70 + i;
		specs[SNAP].map[2 + i] = 80 + i;
		specs[CLONE].map[5 + i] = 90 + i;
	}
	for (unsigned b = 0; b < BLOBS; b++) {
		put_blob(&specs[b]);
	}
	put_masks();
	for (uint32_t c = (uint32_t)blob_super_md_clusters(&super); c < CLUSTERS; c++) {
		memset(disk + (uint64_t)c * CLUSTER, (int)c, CLUSTER);
	}
	blob_super_encode(&super, disk);
}

void
put_super(void)
{
	blob_super_encode(&super, disk);
}
