/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The geometry of a store without a super block. First pages of blobs know their own number in the metadata region,
 * so any of them says where that begins; masks lie between the super block and there and begin with how many bits
 * they have: the pages of the region, the clusters of the store. When the masks are gone, too, the layouts that a new
 * store of this size can have are tried.
 *
 * A volume may hold the image of a store: the region that most pages agree on is taken, of those the first.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "blob/check.h"
#include "blob/survey.h"

#define PIECE_BYTES (1u << 20)
#define HEADS_MAX 4096u
#define PAGE_SHIFTS 5u /* metadata pages of 4 to 64 KiB */
#define CLUSTER_BYTES_MAX (UINT32_C(1) << 30)

struct head { /* a first page of a chain */
	uint64_t offset;
	uint32_t index;
	bool volume; /* has a "uuid" */
};

struct guess {
	const struct blob_offline *dev;
	struct head *heads;
	uint32_t num_heads;
	uint32_t page_bytes;
	uint64_t start;              /* of the metadata region, bytes */
	uint64_t md_pages, clusters; /* 0: not known */
};

static bool
has_uuid(const struct blob_page *page)
{
	struct blob_cursor cursor = {.descriptors = page->descriptors};
	struct blob_descriptor d;

	while (blob_descriptor_next(&cursor, &d) == 1) {
		if (d.type == BLOB_DESCRIPTOR_XATTR && d.xattr.name_bytes == 4 &&
		    memcmp(d.xattr.name, "uuid", 4) == 0) {
			return true;
		}
	}
	return false;
}

static int
add_head(struct guess *g, uint64_t offset, const uint8_t *bytes)
{
	struct blob_cursor cursor;
	struct blob_page page;
	struct blob_descriptor d;
	struct head head = {.offset = offset};

	if (survey_zero(bytes, BLOB_PAGE_BYTES) || blob_page_decode(bytes, &page) != 0 || page.sequence != 0 ||
	    page.id < BLOB_ID_BASE || page.id - BLOB_ID_BASE >= UINT32_MAX) {
		return 0;
	}
	cursor = (struct blob_cursor){.descriptors = page.descriptors};
	if (blob_descriptor_next(&cursor, &d) == 1 && d.type == BLOB_DESCRIPTOR_EXTENT_PAGE) {
		return 0;
	}
	head.index = (uint32_t)(page.id - BLOB_ID_BASE);
	head.volume = has_uuid(&page);
	return survey_push((void **)&g->heads, &g->num_heads, sizeof(head), &head) == NULL ? -ENOMEM : 0;
}

static int
find_heads(struct guess *g, uint64_t from, uint64_t to)
{
	uint8_t *buf = malloc(PIECE_BYTES);
	int rc = buf == NULL ? -ENOMEM : 0;

	for (uint64_t at = from; rc == 0 && at < to && g->num_heads < HEADS_MAX; at += PIECE_BYTES) {
		size_t bytes;

		if (g->dev->next_data != NULL) {
			at = MAX(at, g->dev->next_data(g->dev->ctx, at) / BLOB_PAGE_BYTES * BLOB_PAGE_BYTES);
		}
		if (at >= to) {
			break;
		}
		bytes = (size_t)MIN((uint64_t)PIECE_BYTES, to - at);
		if (g->dev->read(g->dev->ctx, at, buf, bytes) != 0) {
			continue;
		}
		for (size_t k = 0; rc == 0 && k < bytes; k += BLOB_PAGE_BYTES) {
			rc = add_head(g, at + k, buf + k);
		}
	}
	free(buf);
	return rc;
}

/* How many heads agree on the region. */
static uint32_t
votes(const struct guess *g, uint64_t start, uint32_t page_bytes)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < g->num_heads; i++) {
		n += g->heads[i].offset == start + (uint64_t)g->heads[i].index * page_bytes;
	}
	return n;
}

static bool
choose_region(struct guess *g)
{
	uint32_t best = 0;

	for (uint32_t shift = 0; shift < PAGE_SHIFTS; shift++) {
		uint32_t page_bytes = BLOB_PAGE_BYTES << shift;

		/* The first few are enough to stand for all. */
		for (uint32_t i = 0; i < g->num_heads && i < 64; i++) {
			uint64_t before = (uint64_t)g->heads[i].index * page_bytes, start;
			uint32_t n;

			/* At least the super block and three masks lie before it. */
			if (g->heads[i].offset < before + 4 * (uint64_t)page_bytes) {
				continue;
			}
			start = g->heads[i].offset - before;
			n = start % page_bytes != 0 ? 0 : votes(g, start, page_bytes);
			if (n > best || (n == best && n != 0 && start < g->start)) {
				best = n;
				g->start = start;
				g->page_bytes = page_bytes;
			}
		}
	}
	return best != 0;
}

/* The length that a mask's first page says, 0: there is no such mask. */
static uint32_t
mask_length(const struct guess *g, uint64_t page, enum blob_mask_type type)
{
	uint8_t bytes[BLOB_PAGE_BYTES];
	uint32_t bits;

	if ((page + 1) * g->page_bytes > g->start ||
	    g->dev->read(g->dev->ctx, page * g->page_bytes, bytes, sizeof(bytes)) != 0 ||
	    blob_mask_decode(bytes, SIZE_MAX, type, &bits) != 0) {
		return 0;
	}
	return bits;
}

static uint64_t
mask_pages(const struct guess *g, uint64_t bits)
{
	return (BLOB_MASK_HEADER_BYTES + (bits + 7) / 8 + g->page_bytes - 1) / g->page_bytes;
}

static void
read_masks(struct guess *g)
{
	uint64_t pages = g->start / g->page_bytes;
	uint64_t length = mask_length(g, 1, BLOB_MASK_PAGES);

	/* The blob-id mask is as long, and ends where the region begins. */
	for (uint64_t page = 2; length == 0 && page < pages; page++) {
		uint64_t ids = mask_length(g, page, BLOB_MASK_BLOBIDS);

		if (ids != 0 && page + mask_pages(g, ids) == pages) {
			length = ids;
		}
	}
	if (length != 0 && 1 + 2 * mask_pages(g, length) < pages) {
		g->md_pages = length;
		g->clusters = mask_length(g, 1 + mask_pages(g, length), BLOB_MASK_CLUSTERS);
	}
}

/* 0, or why such clusters cannot be. */
static bool
try_layout(const struct guess *g, uint32_t cluster_bytes, struct blob_super *ret_super)
{
	struct blob_layout layout = {
		.device_bytes = g->clusters != 0 && g->clusters < g->dev->bytes / cluster_bytes
					? g->clusters * cluster_bytes
					: g->dev->bytes,
		.cluster_bytes = cluster_bytes,
		.md_page_bytes = g->page_bytes,
		.io_unit_bytes = 512,
		.md_pages = (uint32_t)g->md_pages,
	};
	uint64_t reserved;

	if ((g->clusters != 0 && g->dev->bytes / cluster_bytes < g->clusters) ||
	    blob_layout_super(&layout, ret_super, NULL) != 0) {
		return false;
	}
	/* Room for the cluster mask to grow may have been more than is the rule. */
	reserved = g->start / g->page_bytes;
	if (g->md_pages == 0 || reserved < ret_super->md.start) {
		return ret_super->md.start == reserved;
	}
	ret_super->blobid_mask.start += (uint32_t)(reserved - ret_super->md.start);
	ret_super->md.start = (uint32_t)reserved;
	return true;
}

static int
choose_clusters(struct guess *g, uint32_t cluster_bytes, struct blob_super *ret_super, struct err *err)
{
	struct blob_super super;
	unsigned found = 0;
	char text[256] = "";
	size_t used = 0;

	if (cluster_bytes != 0) {
		return try_layout(g, cluster_bytes, ret_super)
			       ? 0
			       : err_set(err, -ENOENT,
					 "clusters of %" PRIu32 " bytes do not fit where the metadata lies (%" PRIu64
					 ")",
					 cluster_bytes, g->start);
	}
	for (uint32_t bytes = g->page_bytes; bytes <= CLUSTER_BYTES_MAX; bytes *= 2) {
		/* Where the mask says how many there are, it is as many as the device has room for, unless that has
		 * grown. */
		if (!try_layout(g, bytes, &super) || (g->clusters != 0 && g->dev->bytes / bytes != g->clusters)) {
			continue;
		}
		found++;
		*ret_super = super;
		used += (size_t)snprintf(text + used, sizeof(text) - used, " %" PRIu32, bytes);
		used = MIN(used, sizeof(text) - 1);
	}
	if (found == 1) {
		return 0;
	}
	return err_set(err, -ENOENT,
		       "metadata begins at %" PRIu64 ", but how large a cluster is, is not known:%s; give it",
		       g->start, found == 0 ? " no power of two fits" : text);
}

int
blob_salvage_guess(const struct blob_offline *dev, uint32_t cluster_bytes, struct blob_super *ret_super,
		   bool *ret_sure, struct err *err)
{
	struct guess g = {.dev = dev};
	/* The region is near the beginning, unless it is uncommonly large. */
	uint64_t end = dev->bytes / BLOB_PAGE_BYTES * BLOB_PAGE_BYTES;
	uint64_t near = MIN(end, (dev->bytes / 8 + (UINT64_C(64) << 20)) / PIECE_BYTES * PIECE_BYTES);
	uint8_t page[BLOB_PAGE_BYTES];
	int rc = find_heads(&g, 0, near);

	if (rc == 0 && g.num_heads == 0) {
		rc = find_heads(&g, near, end);
	}
	if (rc != 0) {
		err_set(err, rc, "no memory");
	} else if (!choose_region(&g)) {
		rc = err_set(err, -ENOENT, "there is nothing that looks like a blobstore");
	} else {
		read_masks(&g);
		rc = choose_clusters(&g, cluster_bytes, ret_super, err);
	}
	if (rc == 0) {
		*ret_sure = g.md_pages != 0 && g.clusters != 0;
		ret_super->clean = false;
		for (uint32_t i = 0; i < g.num_heads; i++) {
			if (g.heads[i].volume && g.heads[i].offset >= g.start) {
				memcpy(ret_super->type, "LVOLSTORE", 9);
			}
		}
		/* By the one door that super blocks come through. */
		blob_super_encode(ret_super, page);
		rc = blob_super_decode(page, ret_super, err);
	}
	free(g.heads);
	return rc;
}
