/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The blobstore's layout: the first byte says as what the rest is read (super block, mask, page, a whole small
 * store). Checksums are made to fit, so that what is behind them is reached. What is accepted is written, read again,
 * and must be the same; a store is checked and repaired, and after that must not be found damaged.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "blob/check.h"
#include "blob/format.h"

#define STORE_PAGES 96u /* super, three masks, metadata, some clusters of two pages */
#define STORE_BYTES (STORE_PAGES * BLOB_PAGE_BYTES)

static void
seal(uint8_t *page)
{
	uint32_t crc = crc_32c(0, page, BLOB_PAGE_BYTES - 4);

	memcpy(page + BLOB_PAGE_BYTES - 4, &crc, sizeof(crc));
}

static void
try_super(uint8_t *page)
{
	struct blob_super super, again;
	uint8_t out[BLOB_PAGE_BYTES];

	memcpy(page, "SPDKBLOB", 8);
	seal(page);
	if (blob_super_decode(page, &super, NULL) != 0) {
		return;
	}
	CHECK(super.cluster_bytes >= super.md_page_bytes && super.md.length != 0 && super.md.start != 0);
	blob_super_encode(&super, out);
	CHECK(blob_super_decode(out, &again, NULL) == 0);
	blob_super_encode(&again, page);
	CHECK(memcmp(page, out, sizeof(out)) == 0);
	(void)blob_super_fits(&super, super.bytes, NULL);
	if (super.bytes != 0 && blob_layout_grow(&again, super.bytes * 2, NULL) == 0) {
		CHECK(blob_super_clusters(&again) > blob_super_clusters(&super));
		blob_super_encode(&again, out);
		CHECK(blob_super_decode(out, &again, NULL) == 0);
	}
}

static void
try_mask(const uint8_t *data, size_t size)
{
	for (unsigned type = 0; type < 3; type++) {
		uint32_t bits;

		if (blob_mask_decode(data, size, (enum blob_mask_type)type, &bits) == 0 && bits != 0) {
			CHECK(BLOB_MASK_HEADER_BYTES + (bits - 1) / 8 < size);
		}
	}
}

/* Writes what was read; false: there is no way to write it (unknown, or after padding). */
static bool
copy(struct blob_page_writer *w, const struct blob_descriptor *d)
{
	struct blob_run runs[BLOB_DESCRIPTOR_BYTES / 8];
	uint32_t clusters[BLOB_EXTENT_CLUSTERS];

	switch (d->type) {
	case BLOB_DESCRIPTOR_FLAGS:
		return blob_put_flags(w, &d->flags);
	case BLOB_DESCRIPTOR_XATTR:
	case BLOB_DESCRIPTOR_INTERNAL_XATTR:
		return blob_put_xattr(w, d->type == BLOB_DESCRIPTOR_INTERNAL_XATTR, d->xattr.name,
				      d->xattr.name_bytes, d->xattr.value, d->xattr.value_bytes);
	case BLOB_DESCRIPTOR_EXTENT_RLE:
	case BLOB_DESCRIPTOR_EXTENT_TABLE:
		for (uint32_t i = 0; i < d->extents.num_runs; i++) {
			runs[i] = blob_descriptor_run(d, i);
		}
		if (d->type == BLOB_DESCRIPTOR_EXTENT_RLE) {
			return blob_put_extent_rle(w, runs, d->extents.num_runs) == d->extents.num_runs;
		}
		return blob_put_extent_table(w, d->extents.num_clusters, runs, d->extents.num_runs) ==
		       d->extents.num_runs;
	case BLOB_DESCRIPTOR_EXTENT_PAGE:
		for (uint32_t i = 0; i < d->page.num_clusters; i++) {
			clusters[i] = blob_descriptor_cluster(d, i);
		}
		if (w->used == 0) {
			blob_put_extent_page(w, d->page.start_cluster, clusters, d->page.num_clusters);
			return true;
		}
		return false;
	case BLOB_DESCRIPTOR_PADDING:
	default:
		return false;
	}
}

static void
try_page(uint8_t *page)
{
	uint8_t out[BLOB_PAGE_BYTES];
	struct blob_page_writer w;
	struct blob_descriptor d;
	struct blob_page decoded;
	struct blob_cursor cursor;
	bool whole = true;
	int rc;

	seal(page);
	CHECK(blob_page_decode(page, &decoded) == 0);
	cursor = (struct blob_cursor){.descriptors = decoded.descriptors};
	blob_page_begin(&w, out);
	while ((rc = blob_descriptor_next(&cursor, &d)) == 1) {
		CHECK(cursor.offset <= BLOB_DESCRIPTOR_BYTES);
		whole = whole && copy(&w, &d) && w.used == cursor.offset;
	}
	if (rc == 0 && whole) {
		CHECK(memcmp(out + 16, page + 16, w.used) == 0);
		blob_page_end(&w, decoded.id, decoded.sequence, decoded.next);
		CHECK(blob_page_decode(out, &decoded) == 0);
	}
}

/* ---- A whole store ---- */

static uint8_t disk[STORE_BYTES];

static int
disk_read(void *ctx, uint64_t offset, void *buf, size_t bytes)
{
	CHECK(offset + bytes <= STORE_BYTES);
	memcpy(buf, disk + offset, bytes);
	return 0;
}

static int
disk_write(void *ctx, uint64_t offset, const void *buf, size_t bytes)
{
	CHECK(offset + bytes <= STORE_BYTES);
	memcpy(disk + offset, buf, bytes);
	return 0;
}

static int
disk_flush(void *ctx)
{
	return 0;
}

static int
save(void *ctx, uint64_t at, const void *buf, size_t bytes)
{
	return 0;
}

/* Metadata pages of at most `size` bytes together: each begins with how many of its bytes follow. */
static void
fill_store(const uint8_t *data, size_t size)
{
	const struct blob_layout layout = {STORE_BYTES, 2 * BLOB_PAGE_BYTES, BLOB_PAGE_BYTES, 512, 16, 0};
	struct blob_super super;

	memset(disk, 0, sizeof(disk));
	CHECK(blob_layout_super(&layout, &super, NULL) == 0);
	memcpy(super.type, "LVOLSTORE", 9);
	super.clean = size != 0 && (data[0] & 1) != 0;
	blob_super_encode(&super, disk);
	for (uint32_t page = 0; page < 16 && size > 2; page++) {
		size_t wanted = MIN((size_t)data[0] * 4, (size_t)BLOB_DESCRIPTOR_BYTES), bytes = MIN(wanted, size - 2);
		uint8_t *p = disk + ((uint64_t)super.md.start + page) * BLOB_PAGE_BYTES;
		uint64_t id = BLOB_ID_BASE + (data[1] & 15);
		uint32_t sequence = data[1] >> 4 & 3, next = (data[1] & 0x40) != 0 ? page + 1 : BLOB_PAGE_NONE;

		if ((data[1] & 0x80) != 0) {
			id = BLOB_ID_BASE + page;
		}
		memcpy(p, &id, sizeof(id));
		memcpy(p + 8, &sequence, sizeof(sequence));
		memcpy(p + 16, data + 2, bytes);
		memcpy(p + 4088, &next, sizeof(next));
		seal(p);
		data += 2 + bytes;
		size -= 2 + bytes;
	}
}

static void
try_store(const uint8_t *data, size_t size)
{
	const struct blob_offline dev = {
		.read = disk_read, .write = disk_write, .flush = disk_flush, .bytes = STORE_BYTES};
	const struct blob_salvage to = {.write = save};
	struct blob_check_options options = {.repair = true};
	struct blob_check_report report;
	struct blob_survey *survey;
	int rc;

	fill_store(data, size);
	CHECK(blob_survey_read(&dev, NULL, &survey, NULL) == 0);
	for (uint32_t i = 0; i < survey->num_blobs; i++) {
		CHECK(blob_salvage(survey, &survey->blobs[i], &to) == 0);
	}
	blob_survey_free(survey);
	rc = blob_check(&dev, &options, &report, NULL);
	/* What is newer stays as it is; pages or clusters may run out. */
	CHECK(rc == 0 || rc == -ENOSPC || rc == -EMSGSIZE);
	if (rc == 0 && report.left != 0 && report.count[BLOB_FINDING_NEWER] == 0) {
		options.repair = false;
		blob_check_release(&report);
		CHECK(blob_check(&dev, &options, &report, NULL) == 0);
		for (unsigned kind = 0; kind < BLOB_FINDING_KINDS; kind++) {
			CHECK(report.count[kind] == 0 || !blob_finding_damage((enum blob_finding_kind)kind) ||
			      kind == BLOB_FINDING_CLUSTER_SHARED || kind == BLOB_FINDING_SUPER_BLOB ||
			      kind == BLOB_FINDING_CHAIN);
		}
	}
	blob_check_release(&report);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *page;

	if (size == 0 || size > 1 << 16) {
		return 0;
	}
	page = calloc(1, BLOB_PAGE_BYTES);
	if (page == NULL) {
		return 0;
	}
	memcpy(page, data + 1, MIN(size - 1, (size_t)BLOB_PAGE_BYTES));
	switch (data[0] & 3) {
	case 0:
		try_super(page);
		break;
	case 1:
		try_mask(data + 1, size - 1);
		break;
	case 2:
		try_page(page);
		break;
	default:
		try_store(data + 1, size - 1);
		break;
	}
	free(page);
	return 0;
}
