/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The three masks between the disk and the store's bits, in pieces. They count only while the super block says that the store
 * is clean, so nothing depends on the order of the pieces. Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

struct masks {
	struct blob_store *store;
	struct store_io *io;
	bool write;
	unsigned which;
	uint64_t at; /* bytes of this mask that are done */
	void (*done)(void *ctx, int status);
	void *ctx;
};

struct mask {
	const struct blob_region *region;
	struct blob_bits *bits;
	enum blob_mask_type type;
};

#define MASKS 3u

static struct mask
mask_of(const struct masks *m)
{
	struct blob_store *store = m->store;

	switch (m->which) {
	case 0:
		return (struct mask){&store->super.page_mask, &store->pages, BLOB_MASK_PAGES};
	case 1:
		return (struct mask){&store->super.blobid_mask, &store->blobids, BLOB_MASK_BLOBIDS};
	default:
		return (struct mask){&store->super.cluster_mask, &store->clusters, BLOB_MASK_CLUSTERS};
	}
}

static uint64_t
region_bytes(const struct masks *m)
{
	return (uint64_t)mask_of(m).region->length * m->store->super.md_page_bytes;
}

static void
masks_end(struct masks *m, int status)
{
	store_io_free(m->io);
	m->done(m->ctx, status);
	free(m);
}

/* ---- Bits and bytes: the i-th byte of the bits is the (5 + i)-th of the mask ---- */

static void
bits_to_bytes(const struct blob_bits *bits, uint64_t first_byte, uint8_t *to, uint64_t n)
{
	uint64_t end = (bits->count + 7) / 8;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t byte = first_byte + i;

		to[i] = byte >= end ? 0 : (uint8_t)(atomic_load_explicit(&bits->words[byte / 8], memory_order_relaxed) >>
						    (byte % 8 * 8));
	}
}

static void
bits_from_bytes(struct blob_bits *bits, uint64_t first_byte, const uint8_t *from, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint64_t byte = first_byte + i, value = from[i];

		if (value == 0 || byte * 8 >= bits->count) {
			continue;
		}
		if (byte * 8 + 8 > bits->count) {
			value &= (1u << (bits->count - byte * 8)) - 1;
		}
		atomic_fetch_or_explicit(&bits->words[byte / 8], value << (byte % 8 * 8), memory_order_relaxed);
	}
}

/* ---- Pieces ---- */

static void masks_next(struct masks *m);

/* The header fits what the store must have. A cluster mask may be longer: growing had begun. */
static int
check_header(const struct masks *m, const struct mask *mask)
{
	uint32_t bits;
	int rc = blob_mask_decode(m->io->buf, region_bytes(m), mask->type, &bits);

	if (rc != 0) {
		return rc;
	}
	return bits == mask->bits->count || (mask->type == BLOB_MASK_CLUSTERS && bits > mask->bits->count) ? 0 : -EILSEQ;
}

static void
piece_done(struct store_io *io, int status)
{
	struct masks *m = io->ctx;
	struct mask mask = mask_of(m);
	uint64_t bytes = io->iov.iov_len, skip = m->at == 0 ? BLOB_MASK_HEADER_BYTES : 0;

	if (status == 0 && !m->write && m->at == 0) {
		status = check_header(m, &mask);
	}
	if (status != 0) {
		masks_end(m, status);
		return;
	}
	if (!m->write) {
		bits_from_bytes(mask.bits, m->at + skip - BLOB_MASK_HEADER_BYTES, io->buf + skip, bytes - skip);
	}
	m->at += bytes;
	masks_next(m);
}

static void
flushed(struct store_io *io, int status)
{
	masks_end(io->ctx, status);
}

static void
masks_next(struct masks *m)
{
	struct mask mask;
	uint64_t bytes, skip, offset;

	while (m->which < MASKS && m->at == region_bytes(m)) {
		m->which++;
		m->at = 0;
	}
	if (m->which == MASKS) {
		if (m->write) {
			store_io_flush(m->io, flushed);
		} else {
			masks_end(m, 0);
		}
		return;
	}
	mask = mask_of(m);
	bytes = MIN(region_bytes(m) - m->at, (uint64_t)m->io->bytes);
	skip = m->at == 0 ? BLOB_MASK_HEADER_BYTES : 0;
	offset = (uint64_t)mask.region->start * m->store->super.md_page_bytes + m->at;
	if (m->write) {
		if (skip > 0) {
			blob_mask_encode(m->io->buf, mask.type, (uint32_t)mask.bits->count);
		}
		bits_to_bytes(mask.bits, m->at + skip - BLOB_MASK_HEADER_BYTES, m->io->buf + skip, bytes - skip);
	}
	store_io_submit(m->io, m->write ? BLOB_DEV_WRITE : BLOB_DEV_READ, offset, bytes, piece_done);
}

static void
masks_start(struct blob_store *store, bool write, void (*done)(void *ctx, int status), void *ctx)
{
	struct masks *m = calloc(1, sizeof(*m));
	struct store_io *io = m == NULL ? NULL : store_io_create(store, MAX(STORE_IO_BYTES, store->super.md_page_bytes));

	if (io == NULL) {
		free(m);
		done(ctx, -ENOMEM);
		return;
	}
	io->ctx = m;
	*m = (struct masks){.store = store, .io = io, .write = write, .done = done, .ctx = ctx};
	masks_next(m);
}

void
masks_read(struct blob_store *store, void (*done)(void *ctx, int status), void *ctx)
{
	masks_start(store, false, done, ctx);
}

void
masks_write(struct blob_store *store, void (*done)(void *ctx, int status), void *ctx)
{
	masks_start(store, true, done, ctx);
}
