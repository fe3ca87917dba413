/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Metadata pages and their descriptors <-> structures (format.h). Pure: no I/O, no allocation, any thread.
 *
 * Invariants
 *  1. Nothing is read or written outside the page that was given, whatever the bytes are.
 *  2. A descriptor that is handed out lies in its page whole, and its parts are as long as they say.
 *  3. What was put is read back the same.
 */
#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "base/bytes.h"
#include "blob/format.h"

enum { /* offsets */
	AT_ID = 0,
	AT_SEQUENCE = 8,
	AT_DESCRIPTORS = 16,
	AT_NEXT = 4088,
	AT_CRC = 4092,
};

#define HEADER_BYTES 5u /* of a descriptor: its type, the length of the rest */
#define RUN_BYTES 8u

int
blob_page_decode(const uint8_t page[BLOB_PAGE_BYTES], struct blob_page *ret_page)
{
	if (crc_32c(0, page, AT_CRC) != get32(page + AT_CRC)) {
		return -EILSEQ;
	}
	*ret_page = (struct blob_page){
		.id = get64(page + AT_ID),
		.sequence = get32(page + AT_SEQUENCE),
		.next = get32(page + AT_NEXT),
		.descriptors = page + AT_DESCRIPTORS,
	};
	return 0;
}

static int
read_flags(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length != 24) {
		return -EILSEQ;
	}
	d->flags = (struct blob_flags){.invalid = get64(p), .data_ro = get64(p + 8), .md_ro = get64(p + 16)};
	return 0;
}

static int
read_xattr(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length < 4) {
		return -EILSEQ;
	}
	d->xattr.name_bytes = get16(p);
	d->xattr.value_bytes = get16(p + 2);
	d->xattr.name = (const char *)p + 4;
	if (length != 4u + d->xattr.name_bytes + d->xattr.value_bytes ||
	    memchr(d->xattr.name, '\0', d->xattr.name_bytes) != NULL) {
		return -EILSEQ;
	}
	d->xattr.value = p + 4 + d->xattr.name_bytes;
	return 0;
}

static int
read_rle(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length == 0 || length % RUN_BYTES != 0) {
		return -EILSEQ;
	}
	d->extents.num_clusters = 0;
	d->extents.num_runs = length / RUN_BYTES;
	d->extents.runs = p;
	return 0;
}

static int
read_table(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length < 8 || (length - 8) % RUN_BYTES != 0) {
		return -EILSEQ;
	}
	d->extents.num_clusters = get64(p);
	d->extents.num_runs = (length - 8) / RUN_BYTES;
	d->extents.runs = p + 8;
	for (uint32_t i = 0; i < d->extents.num_runs; i++) {
		struct blob_run run = blob_descriptor_run(d, i);

		if (run.index != 0 && run.length != 1) {
			return -EILSEQ;
		}
	}
	return 0;
}

static int
read_extent_page(const uint8_t *p, uint32_t length, struct blob_descriptor *d)
{
	if (length <= 4 || length % 4 != 0 || length / 4 - 1 > BLOB_EXTENT_CLUSTERS) {
		return -EILSEQ;
	}
	d->page.start_cluster = get32(p);
	d->page.num_clusters = length / 4 - 1;
	d->page.clusters = p + 4;
	return 0;
}

int
blob_descriptor_next(struct blob_cursor *cursor, struct blob_descriptor *ret_descriptor)
{
	while (cursor->offset + HEADER_BYTES <= BLOB_DESCRIPTOR_BYTES) {
		const uint8_t *p = cursor->descriptors + cursor->offset;
		uint32_t length = get32(p + 1);
		struct blob_descriptor d = {.type = (enum blob_descriptor_type)p[0]};
		int rc = 0;

		if (p[0] == BLOB_DESCRIPTOR_PADDING && length == 0) {
			return 0;
		}
		if (length > BLOB_DESCRIPTOR_BYTES - HEADER_BYTES - cursor->offset) {
			return -EILSEQ;
		}
		p += HEADER_BYTES;
		switch (d.type) {
		case BLOB_DESCRIPTOR_PADDING:
			cursor->offset += HEADER_BYTES + length;
			continue;
		case BLOB_DESCRIPTOR_EXTENT_RLE:
			rc = read_rle(p, length, &d);
			break;
		case BLOB_DESCRIPTOR_XATTR:
		case BLOB_DESCRIPTOR_INTERNAL_XATTR:
			rc = read_xattr(p, length, &d);
			break;
		case BLOB_DESCRIPTOR_FLAGS:
			rc = read_flags(p, length, &d);
			break;
		case BLOB_DESCRIPTOR_EXTENT_TABLE:
			rc = read_table(p, length, &d);
			break;
		case BLOB_DESCRIPTOR_EXTENT_PAGE:
			rc = read_extent_page(p, length, &d);
			break;
		default: /* of a later version: its flags say whether it may be left out */
			break;
		}
		if (rc != 0) {
			return rc;
		}
		cursor->offset += HEADER_BYTES + length;
		*ret_descriptor = d;
		return 1;
	}
	return 0;
}

struct blob_run
blob_descriptor_run(const struct blob_descriptor *d, uint32_t i)
{
	const uint8_t *p = d->extents.runs + (size_t)i * RUN_BYTES;

	return (struct blob_run){.index = get32(p), .length = get32(p + 4)};
}

uint32_t
blob_descriptor_cluster(const struct blob_descriptor *d, uint32_t i)
{
	return get32(d->page.clusters + (size_t)i * 4);
}

/* ---- Writing pages ---- */

void
blob_page_begin(struct blob_page_writer *w, uint8_t page[BLOB_PAGE_BYTES])
{
	memset(page, 0, BLOB_PAGE_BYTES);
	w->page = page;
	w->used = 0;
}

/* The place for a descriptor's payload, NULL: it does not fit. */
static uint8_t *
put_header(struct blob_page_writer *w, enum blob_descriptor_type type, uint32_t length)
{
	uint8_t *p = w->page + AT_DESCRIPTORS + w->used;

	if (length > BLOB_DESCRIPTOR_BYTES || w->used + HEADER_BYTES + length > BLOB_DESCRIPTOR_BYTES) {
		return NULL;
	}
	p[0] = (uint8_t)type;
	put32(p + 1, length);
	w->used += HEADER_BYTES + length;
	return p + HEADER_BYTES;
}

/* Runs that fit behind a header and `fixed` bytes. */
static uint32_t
runs_that_fit(const struct blob_page_writer *w, uint32_t fixed, uint32_t num_runs)
{
	uint32_t left = BLOB_DESCRIPTOR_BYTES - w->used;

	return left < HEADER_BYTES + fixed ? 0 : MIN(num_runs, (left - HEADER_BYTES - fixed) / RUN_BYTES);
}

static void
put_runs(uint8_t *p, const struct blob_run *runs, uint32_t num_runs)
{
	for (uint32_t i = 0; i < num_runs; i++) {
		put32(p + (size_t)i * RUN_BYTES, runs[i].index);
		put32(p + (size_t)i * RUN_BYTES + 4, runs[i].length);
	}
}

bool
blob_put_flags(struct blob_page_writer *w, const struct blob_flags *flags)
{
	uint8_t *p = put_header(w, BLOB_DESCRIPTOR_FLAGS, 24);

	if (p == NULL) {
		return false;
	}
	put64(p, flags->invalid);
	put64(p + 8, flags->data_ro);
	put64(p + 16, flags->md_ro);
	return true;
}

bool
blob_put_xattr(struct blob_page_writer *w, bool internal, const char *name, uint16_t name_bytes, const void *value,
	       uint16_t value_bytes)
{
	uint8_t *p = put_header(w, internal ? BLOB_DESCRIPTOR_INTERNAL_XATTR : BLOB_DESCRIPTOR_XATTR,
				4u + name_bytes + value_bytes);

	if (p == NULL) {
		return false;
	}
	put16(p, name_bytes);
	put16(p + 2, value_bytes);
	memcpy(p + 4, name, name_bytes);
	if (value_bytes != 0) {
		memcpy(p + 4 + name_bytes, value, value_bytes);
	}
	return true;
}

uint32_t
blob_put_extent_rle(struct blob_page_writer *w, const struct blob_run *runs, uint32_t num_runs)
{
	uint32_t count = runs_that_fit(w, 0, num_runs);

	if (count != 0) {
		put_runs(put_header(w, BLOB_DESCRIPTOR_EXTENT_RLE, count * RUN_BYTES), runs, count);
	}
	return count;
}

uint32_t
blob_put_extent_table(struct blob_page_writer *w, uint64_t num_clusters, const struct blob_run *runs, uint32_t num_runs)
{
	uint32_t count = runs_that_fit(w, 8, num_runs);
	uint8_t *p;

	if (count == 0 && num_runs != 0) {
		return 0;
	}
	p = put_header(w, BLOB_DESCRIPTOR_EXTENT_TABLE, 8 + count * RUN_BYTES);
	if (p != NULL) {
		put64(p, num_clusters);
		put_runs(p + 8, runs, count);
	}
	return count;
}

void
blob_put_extent_page(struct blob_page_writer *w, uint32_t start_cluster, const uint32_t *clusters, uint32_t num_clusters)
{
	uint8_t *p;

	CHECK(w->used == 0 && num_clusters > 0 && num_clusters <= BLOB_EXTENT_CLUSTERS);
	p = put_header(w, BLOB_DESCRIPTOR_EXTENT_PAGE, 4 + num_clusters * 4);
	CHECK(p != NULL);
	put32(p, start_cluster);
	memcpy(p + 4, clusters, (size_t)num_clusters * 4);
}

void
blob_page_end(struct blob_page_writer *w, uint64_t id, uint32_t sequence, uint32_t next)
{
	uint8_t *page = w->page;

	put64(page + AT_ID, id);
	put32(page + AT_SEQUENCE, sequence);
	put32(page + AT_NEXT, next);
	put32(page + AT_CRC, crc_32c(0, page, AT_CRC));
}
