/* SPDX-License-Identifier: BSD-3-Clause */
#include "blob/harness_image.h"

#include <string.h>

#include "testkit/expect.h"

#define THIN_TABLE (BLOB_INVALID_THIN | BLOB_INVALID_EXTENT_TABLE)

static uint64_t
offset_of(const struct image *im, uint32_t page)
{
	return ((uint64_t)im->super.md.start + page) * im->super.md_page_bytes;
}

void
image_create(struct image *im, struct blob_mem *mem, uint64_t clusters, uint32_t md_pages)
{
	struct blob_layout layout = {
		.device_bytes = clusters * IMAGE_CLUSTER_BYTES,
		.cluster_bytes = IMAGE_CLUSTER_BYTES,
		.md_page_bytes = BLOB_PAGE_BYTES,
		.io_unit_bytes = 4096,
		.md_pages = md_pages,
	};

	*im = (struct image){.mem = mem};
	EXPECT(blob_layout_super(&layout, &im->super, NULL) == 0);
	im->super.clean = false;
	image_write_super(im);
}

void
image_write_super(struct image *im)
{
	blob_super_encode(&im->super, im->page);
	blob_mem_write(im->mem, 0, im->page, sizeof(im->page));
}

uint32_t
image_first_data(const struct image *im)
{
	return (uint32_t)blob_super_md_clusters(&im->super);
}

void
image_begin(struct image *im)
{
	blob_page_begin(&im->w, im->page);
}

void
image_end(struct image *im, uint32_t page, uint32_t blob, uint32_t sequence, uint32_t next)
{
	blob_page_end(&im->w, BLOB_ID_BASE + blob, sequence, next);
	image_write_page(im, page);
}

void
image_write_page(struct image *im, uint32_t page)
{
	blob_mem_write(im->mem, offset_of(im, page), im->page, sizeof(im->page));
}

void
image_read_page(struct image *im, uint32_t page)
{
	blob_mem_read(im->mem, offset_of(im, page), im->page, sizeof(im->page));
}

void
image_flags(struct image *im, uint64_t invalid, uint64_t data_ro, uint64_t md_ro)
{
	EXPECT(blob_put_flags(&im->w, &(struct blob_flags){invalid, data_ro, md_ro}));
}

void
image_id(struct image *im, const char *xattr, uint32_t blob)
{
	uint64_t id = BLOB_ID_BASE + blob;

	EXPECT(blob_put_xattr(&im->w, true, xattr, (uint16_t)strlen(xattr), &id, sizeof(id)));
}

void
image_blob(struct image *im, uint32_t page, uint64_t clusters, const uint32_t *extents, const char *xattr, uint32_t id,
	   const char *xattr2, uint32_t id2)
{
	uint32_t n = (uint32_t)((clusters + BLOB_EXTENT_CLUSTERS - 1) / BLOB_EXTENT_CLUSTERS);
	struct blob_run runs[64];

	EXPECT(n <= 64);
	image_begin(im);
	image_flags(im, THIN_TABLE | (xattr != NULL ? BLOB_INVALID_INTERNAL_XATTR : 0), 0, 0);
	if (xattr != NULL) {
		image_id(im, xattr, id);
	}
	if (xattr2 != NULL) {
		image_id(im, xattr2, id2);
	}
	for (uint32_t i = 0; i < n; i++) {
		runs[i] = (struct blob_run){extents[i], 1};
	}
	EXPECT(blob_put_extent_table(&im->w, clusters, runs, n) == n);
	image_end(im, page, page, 0, BLOB_PAGE_NONE);
}

void
image_extents(struct image *im, uint32_t page, uint32_t blob, uint32_t start, const uint32_t *clusters, uint32_t n)
{
	image_begin(im);
	blob_put_extent_page(&im->w, start, clusters, n);
	image_end(im, page, blob, 0, BLOB_PAGE_NONE);
}
