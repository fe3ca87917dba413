/* SPDX-License-Identifier: BSD-3-Clause */
#include "blob/format.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/crc.h"

struct span {
	size_t at, bytes;
	uint8_t data[32];
};

/* From a store of 64 MiB with clusters of 1 MiB that SPDK 26.05 wrote and unloaded; what is not here is zero. */
static const struct span spdk_super[] = {
	{0,
	 17,
	 {0x53, 0x50, 0x44, 0x4b, 0x42, 0x4c, 0x4f, 0x42, 0x03, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x01}},
	{24, 32, {0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00,
		  0x02, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00}},
	{56, 9, {0x4c, 0x56, 0x4f, 0x4c, 0x53, 0x54, 0x4f, 0x52, 0x45}},
	{72, 22, {0x03, 0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
		  0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x10, 0x00, 0x00, 0x00, 0x10}},
	{4092, 4, {0xab, 0x6c, 0x63, 0x2e}},
};

/* A clone: metadata page 6. */
static const struct span spdk_clone[] = {
	{0, 5, {0x06, 0x00, 0x00, 0x00, 0x01}},
	{16, 6, {0x03, 0x18, 0x00, 0x00, 0x00, 0x07}},
	{45,
	 19,
	 {0x02, 0x48, 0x00, 0x00, 0x00, 0x04, 0x00, 0x40, 0x00, 0x6e, 0x61, 0x6d, 0x65, 0x63, 0x6c, 0x6f, 0x6e, 0x65,
	  0x30}},
	{122, 32, {0x02, 0x2d, 0x00, 0x00, 0x00, 0x04, 0x00, 0x25, 0x00, 0x75, 0x75, 0x69, 0x64, 0x30, 0x61, 0x31,
		   0x64, 0x35, 0x61, 0x39, 0x31, 0x2d, 0x33, 0x39, 0x63, 0x38, 0x2d, 0x34, 0x63, 0x61, 0x62, 0x2d}},
	{154, 32, {0x61, 0x31, 0x65, 0x38, 0x2d, 0x61, 0x38, 0x64, 0x36, 0x38, 0x32, 0x36, 0x36, 0x37, 0x30, 0x34,
		   0x34, 0x00, 0x04, 0x10, 0x00, 0x00, 0x00, 0x04, 0x00, 0x08, 0x00, 0x53, 0x4e, 0x41, 0x50, 0x05}},
	{186, 13, {0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x05, 0x10, 0x00, 0x00, 0x00, 0x10}},
	{206, 5, {0x08, 0x00, 0x00, 0x00, 0x01}},
	{4088, 8, {0xff, 0xff, 0xff, 0xff, 0x96, 0x5e, 0x06, 0x68}},
};

/* The extent page of a thick volume of 8 clusters: metadata page 3. */
static const struct span spdk_extent[] = {
	{0, 5, {0x02, 0x00, 0x00, 0x00, 0x01}},
	{16, 2, {0x06, 0x24}},
	{25, 29, {0x01, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x03, 0x00, 0x00, 0x00, 0x04, 0x00, 0x00,
		  0x00, 0x05, 0x00, 0x00, 0x00, 0x06, 0x00, 0x00, 0x00, 0x07, 0x00, 0x00, 0x00, 0x08}},
	{4088, 8, {0xff, 0xff, 0xff, 0xff, 0xf4, 0x65, 0x7b, 0x41}},
};

/* Used clusters: metadata, and 14 of volumes. */
static const struct span spdk_mask[] = {
	{0, 7, {0x01, 0x40, 0x00, 0x00, 0x00, 0xff, 0x7f}},
};

static uint8_t page[BLOB_PAGE_BYTES];

static void
fill(const struct span *spans, size_t count)
{
	memset(page, 0, sizeof(page));
	for (size_t i = 0; i < count; i++) {
		memcpy(page + spans[i].at, spans[i].data, spans[i].bytes);
	}
}

static void
seal(void)
{
	uint32_t crc = crc_32c(0, page, 4092);

	memcpy(page + 4092, &crc, 4);
}

static void
poke(size_t at, uint32_t value)
{
	memcpy(page + at, &value, sizeof(value));
	seal();
}

/* ---- Super block ---- */

static void
test_super(void **state)
{
	const struct blob_layout layout = {64 << 20, 1 << 20, 4096, 4096, 0, 0};
	struct blob_super super, made;
	uint8_t again[BLOB_PAGE_BYTES];

	fill(spdk_super, ARRAY_SIZE(spdk_super));
	assert_int_equal(blob_super_decode(page, &super, NULL), 0);
	assert_true(super.version == 3 && super.clean && super.super_blob == BLOB_ID_BASE &&
		    super.cluster_bytes == 1 << 20);
	assert_true(super.page_mask.start == 1 && super.page_mask.length == 1 && super.cluster_mask.start == 2 &&
		    super.cluster_mask.length == 1 && super.blobid_mask.start == 3 && super.blobid_mask.length == 1 &&
		    super.md.start == 4 && super.md.length == 64);
	assert_true(super.bytes == 64 << 20 && super.io_unit_bytes == 4096 && super.md_page_bytes == 4096);
	assert_string_equal(super.type, "LVOLSTORE");
	assert_true(blob_super_clusters(&super) == 64 && blob_super_md_clusters(&super) == 1);

	/* Byte for byte what was read, and what is made for such a device. */
	blob_super_encode(&super, again);
	assert_memory_equal(again, page, sizeof(page));
	assert_int_equal(blob_layout_super(&layout, &made, NULL), 0);
	memcpy(made.type, "LVOLSTORE", 9);
	made.super_blob = BLOB_ID_BASE;
	blob_super_encode(&made, again);
	assert_memory_equal(again, page, sizeof(page));

	assert_int_equal(blob_super_fits(&super, 64 << 20, NULL), 0);
	assert_int_equal(blob_super_fits(&super, (64 << 20) - 1, NULL), -ENOSPC);
}

static void
test_bad_super(void **state)
{
	static const struct {
		size_t at;
		uint32_t value;
		int rc;
	} bad[] = {
		{0, 0x12345678, -EINVAL},                       /* signature */
		{8, 0, -ENOTSUP},                               /* version */
		{8, 4, -ENOTSUP},          {12, 4095, -EILSEQ}, /* length */
		{28, 0, -EILSEQ},                               /* cluster */
		{28, 5000, -EILSEQ},       {28, 2048, -EILSEQ},
		{32, 0, -EILSEQ},          /* used-page mask over the super block */
		{36, 0, -EILSEQ},          /* no page of it */
		{32, 2, -EILSEQ},          /* over the used-cluster mask */
		{32, 0xffffffff, -EILSEQ}, /* beyond the end */
		{44, 0, -EILSEQ},          /* used-cluster mask */
		{44, 2, -EILSEQ},          {44, 0xffffffff, -EILSEQ},
		{48, 3, -EILSEQ}, /* metadata over the used-blob-id mask */
		{52, 0, -EILSEQ},          {52, 0xffffffff, -EILSEQ},
		{52, 64 * 256, -EILSEQ},                        /* more than the store */
		{52, 40000, -EILSEQ},                           /* more than its masks hold */
		{72, 4, -EILSEQ},          {80, 4096, -EILSEQ}, /* bytes: less than the metadata */
		{84, 0x7fffffff, -EILSEQ},                      /* more clusters than the mask holds */
		{88, 100, -EILSEQ},                             /* I/O unit */
		{88, 256, -EILSEQ},        {88, 8192, -EILSEQ},
		{92, 512, -EILSEQ}, /* metadata page */
		{92, 12288, -EILSEQ},      {92, 2 << 20, -EILSEQ},
	};
	struct blob_super super;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_NONE;
		int rc;

		fill(spdk_super, ARRAY_SIZE(spdk_super));
		poke(bad[i].at, bad[i].value);
		rc = blob_super_decode(page, &super, &err);
		if (rc != bad[i].rc || err.text[0] == '\0') {
			fail_msg("%u at %zu: %d, %s", bad[i].value, bad[i].at, rc, err.text);
		}
	}
	for (unsigned bit = 0; bit < BLOB_PAGE_BYTES * 8; bit += 7) {
		fill(spdk_super, ARRAY_SIZE(spdk_super));
		page[bit / 8] ^= (uint8_t)(1 << bit % 8);
		assert_int_not_equal(blob_super_decode(page, &super, NULL), 0);
	}
}

/* What old versions lack. */
static void
test_old_super(void **state)
{
	struct blob_super super;

	fill(spdk_super, ARRAY_SIZE(spdk_super));
	poke(8, 1);
	memset(page + 72, 0, 24);
	seal();
	assert_int_equal(blob_super_decode(page, &super, NULL), 0);
	assert_true(super.version == 1 && super.blobid_mask.length == 0 && super.bytes == 0 &&
		    super.io_unit_bytes == 4096 && super.md_page_bytes == 4096);
	assert_int_equal(blob_super_fits(&super, 64 << 20, NULL), 0);
	/* Its device is smaller than its metadata, or larger than its mask. */
	assert_int_equal(blob_super_fits(&super, 100 << 10, NULL), -EILSEQ);
	assert_int_equal(blob_super_fits(&super, (uint64_t)1 << 36, NULL), -EILSEQ);
	super.bytes = 64 << 20;
	assert_int_equal(blob_layout_grow(&super, 128 << 20, NULL), 0);
	assert_int_equal(blob_super_clusters(&super), 128);
}

static void
test_layout(void **state)
{
	struct blob_layout layout = {(uint64_t)1 << 40, 4 << 20, 4096, 512, 0, 0};
	struct blob_super super, was;
	uint8_t again[BLOB_PAGE_BYTES];
	const uint64_t clusters = (uint64_t)1 << 18;

	/* One page a cluster: masks of 2^18 bits behind five bytes are nine pages. */
	assert_int_equal(blob_layout_super(&layout, &super, NULL), 0);
	assert_true(super.page_mask.start == 1 && super.page_mask.length == 9 && super.cluster_mask.start == 10 &&
		    super.cluster_mask.length == 9 && super.blobid_mask.start == 19 &&
		    super.blobid_mask.length == 9 && super.md.start == 28 && super.md.length == clusters);
	assert_true(blob_super_clusters(&super) == clusters && blob_super_md_clusters(&super) == 257);
	blob_super_encode(&super, again);
	assert_int_equal(blob_super_decode(again, &was, NULL), 0);
	assert_memory_equal(&super, &was, sizeof(super));

	/* More pages than clusters: the cluster mask has room for as many. */
	layout.md_pages = 1 << 20;
	assert_int_equal(blob_layout_super(&layout, &super, NULL), 0);
	assert_true(super.page_mask.length == 33 && super.cluster_mask.length == 9 &&
		    super.blobid_mask.start == 1 + 33 + 33 && super.md.start == 1 + 33 + 33 + 33);
	was = super;
	assert_int_equal(blob_layout_grow(&super, layout.device_bytes, NULL), -ENOSPC);
	assert_int_equal(blob_layout_grow(&super, layout.device_bytes + 4096, NULL), -ENOSPC);
	assert_memory_equal(&super, &was, sizeof(super));
	assert_int_equal(blob_layout_grow(&super, (uint64_t)2 << 40, NULL), 0);
	assert_true(super.bytes == (uint64_t)2 << 40 && super.cluster_mask.length == 17);
	/* As far as there is room. */
	assert_int_equal(blob_layout_grow(&super, (uint64_t)1 << 50, NULL), 0);
	assert_true(super.cluster_mask.length == 33 && blob_super_clusters(&super) == (33 * 4096 - 5) * 8);
	assert_int_equal(blob_layout_grow(&super, (uint64_t)1 << 51, NULL), -ENOSPC);
	blob_super_encode(&super, again);
	assert_int_equal(blob_super_decode(again, &was, NULL), 0);
}

static void
test_bad_layout(void **state)
{
	static const struct {
		struct blob_layout layout;
		int rc;
	} bad[] = {
		{{1 << 20, 1 << 20, 4096, 512, 0, 0}, -ENOSPC}, /* metadata takes all of it */
		{{4095, 4096, 4096, 512, 0, 0}, -ENOSPC},
		{{64 << 20, 0, 4096, 512, 0, 0}, -EINVAL},
		{{64 << 20, 5000, 4096, 512, 0, 0}, -EINVAL},
		{{64 << 20, 4096, 8192, 512, 0, 0}, -EINVAL},
		{{64 << 20, 1 << 20, 2048, 512, 0, 0}, -EINVAL},
		{{64 << 20, 1 << 20, 12288, 512, 0, 0}, -EINVAL},
		{{64 << 20, 1 << 20, 4096, 0, 0, 0}, -EINVAL},
		{{64 << 20, 1 << 20, 4096, 520, 0, 0}, -EINVAL},
		{{64 << 20, 1 << 20, 4096, 8192, 0, 0}, -EINVAL},
		{{64 << 20, 1 << 20, 4096, 512, 17000, 0}, -ENOSPC},
		{{64 << 20, 1 << 20, 4096, 512, UINT32_MAX, 0}, -EINVAL},
		{{UINT64_MAX, 4096, 4096, 512, 0, 0}, -EINVAL},
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_NONE;
		struct blob_super super;
		int rc = blob_layout_super(&bad[i].layout, &super, &err);

		if (rc != bad[i].rc || err.text[0] == '\0') {
			fail_msg("layout %zu: %d, %s", i, rc, err.text);
		}
	}
}

/* ---- Masks ---- */

static void
test_mask(void **state)
{
	uint8_t small[8] = {0};
	uint32_t bits = 0;

	fill(spdk_mask, ARRAY_SIZE(spdk_mask));
	assert_int_equal(blob_mask_decode(page, sizeof(page), BLOB_MASK_CLUSTERS, &bits), 0);
	assert_true(bits == 64 && page[5] == 0xff && page[6] == 0x7f);
	assert_int_equal(blob_mask_decode(page, sizeof(page), BLOB_MASK_PAGES, &bits), -EILSEQ);
	blob_mask_encode(small, BLOB_MASK_BLOBIDS, 24);
	assert_int_equal(blob_mask_decode(small, sizeof(small), BLOB_MASK_BLOBIDS, &bits), 0);
	assert_int_equal(bits, 24);
	blob_mask_encode(small, BLOB_MASK_BLOBIDS, 25);
	assert_int_equal(blob_mask_decode(small, sizeof(small), BLOB_MASK_BLOBIDS, &bits), -EILSEQ);
	assert_int_equal(blob_mask_decode(small, 4, BLOB_MASK_BLOBIDS, &bits), -EILSEQ);
	blob_mask_encode(small, BLOB_MASK_BLOBIDS, UINT32_MAX);
	assert_int_equal(blob_mask_decode(small, sizeof(small), BLOB_MASK_BLOBIDS, &bits), -EILSEQ);
}

/* ---- Pages ---- */

static struct blob_cursor
begin(struct blob_page *ret_page)
{
	assert_int_equal(blob_page_decode(page, ret_page), 0);
	return (struct blob_cursor){.descriptors = ret_page->descriptors};
}

static void
test_chain(void **state)
{
	const uint64_t parent = BLOB_ID_BASE + 5;
	const struct blob_run run = {8, 1};
	uint8_t again[BLOB_PAGE_BYTES];
	struct blob_page_writer w;
	struct blob_descriptor d;
	struct blob_cursor cursor;
	struct blob_flags flags;
	struct blob_page p;

	fill(spdk_clone, ARRAY_SIZE(spdk_clone));
	cursor = begin(&p);
	assert_true(p.id == BLOB_ID_BASE + 6 && p.sequence == 0 && p.next == BLOB_PAGE_NONE);
	blob_page_begin(&w, again);

	assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
	assert_true(d.type == BLOB_DESCRIPTOR_FLAGS && d.flags.invalid == 7 && d.flags.data_ro == 0 &&
		    d.flags.md_ro == 0);
	flags = d.flags;
	assert_true(blob_put_flags(&w, &flags));
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
		assert_true(d.type == BLOB_DESCRIPTOR_XATTR && d.xattr.name_bytes == 4 &&
			    d.xattr.value_bytes == (i == 0 ? 64 : 37));
		assert_memory_equal(d.xattr.name, i == 0 ? "name" : "uuid", 4);
		assert_string_equal((const char *)d.xattr.value,
				    i == 0 ? "clone0" : "0a1d5a91-39c8-4cab-a1e8-a8d682667044");
		assert_true(blob_put_xattr(&w, false, d.xattr.name, 4, d.xattr.value, d.xattr.value_bytes));
	}
	assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
	assert_true(d.type == BLOB_DESCRIPTOR_INTERNAL_XATTR && d.xattr.name_bytes == 4 && d.xattr.value_bytes == 8);
	assert_memory_equal(d.xattr.value, &parent, 8);
	assert_true(blob_put_xattr(&w, true, BLOB_XATTR_PARENT, 4, &parent, 8));
	assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
	assert_true(d.type == BLOB_DESCRIPTOR_EXTENT_TABLE && d.extents.num_clusters == 16 &&
		    d.extents.num_runs == 1);
	assert_true(blob_descriptor_run(&d, 0).index == 8 && blob_descriptor_run(&d, 0).length == 1);
	assert_int_equal(blob_put_extent_table(&w, 16, &run, 1), 1);
	assert_int_equal(blob_descriptor_next(&cursor, &d), 0);

	blob_page_end(&w, BLOB_ID_BASE + 6, 0, BLOB_PAGE_NONE);
	assert_memory_equal(again, page, sizeof(page));
	page[4090] ^= 1;
	assert_int_equal(blob_page_decode(page, &p), -EILSEQ);
}

static void
test_extent_page(void **state)
{
	uint32_t clusters[BLOB_EXTENT_CLUSTERS];
	uint8_t again[BLOB_PAGE_BYTES];
	struct blob_page_writer w;
	struct blob_descriptor d;
	struct blob_cursor cursor;
	struct blob_page p;

	fill(spdk_extent, ARRAY_SIZE(spdk_extent));
	cursor = begin(&p);
	assert_true(p.id == BLOB_ID_BASE + 2 && p.sequence == 0 && p.next == BLOB_PAGE_NONE);
	assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
	assert_true(d.type == BLOB_DESCRIPTOR_EXTENT_PAGE && d.page.start_cluster == 0 && d.page.num_clusters == 8);
	for (uint32_t i = 0; i < 8; i++) {
		clusters[i] = blob_descriptor_cluster(&d, i);
		assert_int_equal(clusters[i], i + 1);
	}
	assert_int_equal(blob_descriptor_next(&cursor, &d), 0);
	blob_page_begin(&w, again);
	blob_put_extent_page(&w, 0, clusters, 8);
	blob_page_end(&w, BLOB_ID_BASE + 2, 0, BLOB_PAGE_NONE);
	assert_memory_equal(again, page, sizeof(page));

	for (uint32_t i = 0; i < BLOB_EXTENT_CLUSTERS; i++) {
		clusters[i] = i * 3;
	}
	blob_page_begin(&w, page);
	blob_put_extent_page(&w, 1024, clusters, BLOB_EXTENT_CLUSTERS);
	blob_page_end(&w, BLOB_ID_BASE, 0, BLOB_PAGE_NONE);
	cursor = begin(&p);
	assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
	assert_true(d.page.num_clusters == 512 && d.page.start_cluster == 1024 &&
		    blob_descriptor_cluster(&d, 511) == 511 * 3);
}

/* As much as fits, and the rest on the next page. */
static void
test_full(void **state)
{
	struct blob_run runs[600];
	struct blob_page_writer w;
	struct blob_descriptor d;
	struct blob_cursor cursor;
	struct blob_page p;
	uint32_t n;
	static const uint8_t value[BLOB_DESCRIPTOR_BYTES];

	for (uint32_t i = 0; i < ARRAY_SIZE(runs); i++) {
		runs[i] = (struct blob_run){i + 1, 1};
	}
	blob_page_begin(&w, page);
	n = blob_put_extent_table(&w, 600 * 512, runs, 600);
	assert_int_equal(n, (4072 - 13) / 8);
	assert_int_equal(blob_put_extent_table(&w, 600 * 512, runs + n, 600 - n), 0);
	blob_page_end(&w, BLOB_ID_BASE, 3, 9);
	cursor = begin(&p);
	assert_true(p.sequence == 3 && p.next == 9);
	assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
	assert_true(d.extents.num_runs == n && d.extents.num_clusters == 600 * 512 &&
		    blob_descriptor_run(&d, n - 1).index == n);
	assert_int_equal(blob_descriptor_next(&cursor, &d), 0);

	blob_page_begin(&w, page);
	n = blob_put_extent_rle(&w, runs, 600);
	assert_int_equal(n, (4072 - 5) / 8);
	assert_int_equal(blob_put_extent_rle(&w, runs + n, 600 - n), 0);

	/* A table without anything in it, for which there must be room, too. */
	blob_page_begin(&w, page);
	assert_int_equal(blob_put_extent_table(&w, 0, NULL, 0), 0);
	assert_int_equal(w.used, 13);
	blob_page_end(&w, BLOB_ID_BASE, 0, BLOB_PAGE_NONE);
	cursor = begin(&p);
	assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
	assert_true(d.type == BLOB_DESCRIPTOR_EXTENT_TABLE && d.extents.num_runs == 0);

	/* The largest xattr behind flags, and one byte more. */
	blob_page_begin(&w, page);
	assert_true(blob_put_flags(&w, &(struct blob_flags){0}));
	assert_false(blob_put_xattr(&w, false, "n", 1, value, BLOB_XATTR_BYTES_MAX));
	assert_true(blob_put_xattr(&w, false, "n", 1, value, BLOB_XATTR_BYTES_MAX - 1));
	assert_int_equal(w.used, BLOB_DESCRIPTOR_BYTES);
	assert_false(blob_put_flags(&w, &(struct blob_flags){0}));
	assert_false(blob_put_xattr(&w, false, "n", 1, value, 0));
	assert_int_equal(blob_put_extent_rle(&w, runs, 1), 0);
	blob_put_extent_table(&w, 0, NULL, 0);
	assert_int_equal(w.used, BLOB_DESCRIPTOR_BYTES);
	blob_page_end(&w, BLOB_ID_BASE, 0, BLOB_PAGE_NONE);
	cursor = begin(&p);
	assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
	assert_int_equal(blob_descriptor_next(&cursor, &d), 1);
	assert_int_equal(blob_descriptor_next(&cursor, &d), 0);
}

/* type, length, then bytes; what is behind is zero. */
static void
test_descriptors(void **state)
{
	static const struct {
		uint8_t bytes[32];
		int rc;
	} all[] = {
		{{0}, 0},
		{{0, 0, 0, 0, 0, 3, 24}, 0},                   /* behind the end */
		{{0, 3, 0, 0, 0, 9, 9, 9, 77, 1, 0, 0, 0}, 1}, /* padding, then something unknown */
		{{77, 4, 0, 0, 0}, 1},
		{{77, 0xe3, 0x0f, 0, 0}, 1},       /* 4067: the rest of the page */
		{{77, 0xe4, 0x0f, 0, 0}, -EILSEQ}, /* one more */
		{{0, 0xe4, 0x0f, 0, 0}, -EILSEQ},
		{{77, 0xff, 0xff, 0xff, 0xff}, -EILSEQ},
		{{3, 24, 0, 0, 0}, 1},
		{{3, 23, 0, 0, 0}, -EILSEQ},
		{{3, 25, 0, 0, 0}, -EILSEQ},
		{{2, 4, 0, 0, 0}, 1},
		{{2, 3, 0, 0, 0}, -EILSEQ},
		{{2, 0, 0, 0, 0}, -EILSEQ},
		{{2, 6, 0, 0, 0, 1, 0, 1, 0, 'a', 'b'}, 1},
		{{2, 7, 0, 0, 0, 1, 0, 1, 0, 'a', 'b'}, -EILSEQ},
		{{2, 5, 0, 0, 0, 1, 0, 1, 0, 'a', 'b'}, -EILSEQ},
		{{4, 6, 0, 0, 0, 0xff, 0xff, 0xff, 0xff}, -EILSEQ},
		{{4, 6, 0, 0, 0, 2, 0, 0, 0, 'a', 0}, -EILSEQ}, /* a zero in the name */
		{{1, 8, 0, 0, 0}, 1},
		{{1, 0, 0, 0, 0}, -EILSEQ},
		{{1, 12, 0, 0, 0}, -EILSEQ},
		{{5, 8, 0, 0, 0}, 1},
		{{5, 7, 0, 0, 0}, -EILSEQ},
		{{5, 12, 0, 0, 0}, -EILSEQ},
		{{5, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 1}, 1},
		{{5, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 2}, -EILSEQ}, /* a page, twice */
		{{5, 16, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9}, 1},
		{{6, 4, 0, 0, 0}, -EILSEQ},
		{{6, 8, 0, 0, 0}, 1},
		{{6, 9, 0, 0, 0}, -EILSEQ},
		{{6, 4, 8, 0, 0}, 1}, /* 512 clusters */
		{{6, 8, 8, 0, 0}, -EILSEQ},
	};

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		uint8_t bytes[BLOB_DESCRIPTOR_BYTES] = {0};
		struct blob_cursor cursor = {.descriptors = bytes};
		struct blob_descriptor d;
		int rc;

		memcpy(bytes, all[i].bytes, sizeof(all[i].bytes));
		rc = blob_descriptor_next(&cursor, &d);
		if (rc != all[i].rc) {
			fail_msg("descriptor %zu: %d instead of %d", i, rc, all[i].rc);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_super),      cmocka_unit_test(test_bad_super),
		cmocka_unit_test(test_old_super),  cmocka_unit_test(test_layout),
		cmocka_unit_test(test_bad_layout), cmocka_unit_test(test_mask),
		cmocka_unit_test(test_chain),      cmocka_unit_test(test_extent_page),
		cmocka_unit_test(test_full),       cmocka_unit_test(test_descriptors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
