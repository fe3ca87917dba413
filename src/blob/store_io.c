/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The owner's plain requests to the device: a buffer and a place. For what a store reads and writes beside blobs' metadata
 * (md.c): the super block, the masks, all pages when it is loaded, clearing.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

#define CLEAR_AT_ONCE 4u /* so that others' requests come in between */
#define CLEAR_ZERO_BYTES (UINT64_C(8) << 20) /* a device may have to write them */
#define CLEAR_UNMAP_BYTES (UINT64_C(256) << 20)

static size_t
round_up(size_t bytes, size_t align)
{
	return (bytes + align - 1) / align * align;
}

struct store_io *
store_io_create(struct blob_store *store, size_t bytes)
{
	size_t align = MAX((size_t)store->dev->buffer_align, (size_t)64);
	size_t size = round_up(offsetof(struct store_io, dev) + store->dev->io_bytes, 64);
	struct store_io *io = aligned_alloc(64, MAX(size, round_up(sizeof(*io), 64)));

	if (io == NULL) {
		return NULL;
	}
	memset(io, 0, size);
	io->store = store;
	io->bytes = bytes;
	if (bytes > 0) {
		io->buf = aligned_alloc(align, round_up(bytes, align));
		if (io->buf == NULL) {
			free(io);
			return NULL;
		}
		memset(io->buf, 0, bytes);
	}
	return io;
}

void
store_io_free(struct store_io *io)
{
	if (io == NULL) {
		return;
	}
	free(io->buf);
	free(io);
}

static void
dev_done(struct blob_dev_io *dev, int status)
{
	struct store_io *io = CONTAINER_OF(dev, struct store_io, dev);

	io->done(io, status);
}

void
store_io_submit(struct store_io *io, enum blob_dev_op op, uint64_t offset, uint64_t bytes,
		void (*done)(struct store_io *io, int status))
{
	struct blob_store *store = io->store;
	bool data = op == BLOB_DEV_READ || op == BLOB_DEV_WRITE;

	CHECK(!data || bytes <= io->bytes);
	io->done = done;
	io->iov = (struct iovec){io->buf, bytes};
	io->dev.done = dev_done;
	io->dev.op = op;
	io->dev.iov = data ? &io->iov : NULL;
	io->dev.iovcnt = data ? 1 : 0;
	io->dev.lba = offset >> store->block_shift;
	io->dev.num_blocks = bytes >> store->block_shift;
	blob_dev_submit(store->dev, store->dev_ch, &io->dev);
}

static void
no_flush_needed(struct defer *d)
{
	struct store_io *io = CONTAINER_OF(d, struct store_io, defer);

	io->done(io, 0);
}

void
store_io_flush(struct store_io *io, void (*done)(struct store_io *io, int status))
{
	if (io->store->dev->write_cache) {
		store_io_submit(io, BLOB_DEV_FLUSH, 0, 0, done);
		return;
	}
	io->done = done;
	thread_defer(&io->defer, no_flush_needed);
}

/* ---- The super block ---- */

struct super_io {
	void (*done)(void *ctx, int status);
	void *ctx;
	struct store_io *io; /* its ctx: this */
};

static void
super_ended(struct store_io *io, int status)
{
	struct super_io *s = io->ctx;

	store_io_free(io);
	s->done(s->ctx, status);
	free(s);
}

static void
super_written(struct store_io *io, int status)
{
	if (status != 0) {
		super_ended(io, status);
		return;
	}
	store_io_flush(io, super_ended);
}

void
super_write(struct blob_store *store, const struct blob_super *super, bool zero, void (*done)(void *ctx, int status), void *ctx)
{
	size_t bytes = MAX(super->md_page_bytes, store->dev->block_size);
	struct super_io *s = calloc(1, sizeof(*s));
	struct store_io *io = s == NULL ? NULL : store_io_create(store, bytes);

	if (io == NULL) {
		free(s);
		done(ctx, -ENOMEM);
		return;
	}
	*s = (struct super_io){.done = done, .ctx = ctx, .io = io};
	io->ctx = s;
	if (!zero) {
		blob_super_encode(super, io->buf);
	}
	store_io_submit(io, BLOB_DEV_WRITE, 0, bytes, super_written);
}

/* ---- Clearing ---- */

struct clearing {
	struct blob_store *store;
	enum blob_dev_op op;
	uint64_t next, end, piece;
	unsigned pending;
	int status;
	void (*done)(void *ctx, int status);
	void *ctx;
};

static void
clear_next(struct clearing *c, struct store_io *io);

static void
piece_cleared(struct store_io *io, int status)
{
	struct clearing *c = io->ctx;

	if (status != 0 && c->status == 0) {
		c->status = status;
	}
	c->pending--;
	clear_next(c, io);
}

/* The next piece, or the end. */
static void
clear_next(struct clearing *c, struct store_io *io)
{
	uint64_t at = c->next, bytes = MIN(c->piece, c->end - c->next);

	if (bytes > 0 && c->status == 0) {
		c->next += bytes;
		c->pending++;
		store_io_submit(io, c->op, at, bytes, piece_cleared);
		return;
	}
	store_io_free(io);
	if (c->pending == 0) {
		c->done(c->ctx, c->status);
		free(c);
	}
}

void
store_clear_range(struct blob_store *store, enum blob_dev_op op, uint64_t offset, uint64_t bytes,
		  void (*done)(void *ctx, int status), void *ctx)
{
	struct store_io *ios[CLEAR_AT_ONCE] = {0};
	struct clearing *c = calloc(1, sizeof(*c));
	unsigned n = 0;

	while (c != NULL && n < CLEAR_AT_ONCE && (ios[n] = store_io_create(store, 0)) != NULL) {
		ios[n++]->ctx = c;
	}
	if (n == 0) {
		free(c);
		done(ctx, -ENOMEM);
		return;
	}
	*c = (struct clearing){.store = store, .op = op, .next = offset, .end = offset + bytes, .done = done, .ctx = ctx};
	c->piece = op == BLOB_DEV_UNMAP ? CLEAR_UNMAP_BYTES : CLEAR_ZERO_BYTES;
	c->pending = 1; /* this function */
	while (n > 1) {
		clear_next(c, ios[--n]);
	}
	c->pending--;
	clear_next(c, ios[0]);
}
