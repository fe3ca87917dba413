/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For tests: metadata of a store put on a disk page by page, right or wrong, as nobody's code would write it.
 *
 *	image_create(&im, mem, 256, 64);             256 clusters of 64 KiB, 64 metadata pages; the store is not clean
 *	image_begin(&im);
 *	blob_put_flags(&im.w, ...);                  and what else of format.h
 *	image_end(&im, page, page, 0, BLOB_PAGE_NONE);
 */
#ifndef BLOB_HARNESS_IMAGE_H
#define BLOB_HARNESS_IMAGE_H

#include "blob/format.h"
#include "testkit/blob_mem.h"

#define IMAGE_CLUSTER_BYTES 65536u

struct image {
	struct blob_mem *mem;
	struct blob_super super;
	struct blob_page_writer w;
	uint8_t page[BLOB_PAGE_BYTES];
};

void image_create(struct image *im, struct blob_mem *mem, uint64_t clusters, uint32_t md_pages);
void image_write_super(struct image *im);
uint32_t image_first_data(const struct image *im); /* cluster */

void image_begin(struct image *im);
/* The page is finished as of blob `blob` (its first page), and written to `page`. */
void image_end(struct image *im, uint32_t page, uint32_t blob, uint32_t sequence, uint32_t next);
void image_write_page(struct image *im, uint32_t page);
void image_read_page(struct image *im, uint32_t page);
void image_flags(struct image *im, uint64_t invalid, uint64_t data_ro, uint64_t md_ro);
void image_id(struct image *im, const char *xattr, uint32_t blob); /* internal xattr: the id of a blob */
/* A thin blob of one page with an extent table of these pages, and up to two internal xattrs (NULL: none). */
void image_blob(struct image *im, uint32_t page, uint64_t clusters, const uint32_t *extents, const char *xattr, uint32_t id,
		const char *xattr2, uint32_t id2);
void image_extents(struct image *im, uint32_t page, uint32_t blob, uint32_t start, const uint32_t *clusters, uint32_t n);

#endif
