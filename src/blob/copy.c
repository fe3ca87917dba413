/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The shallow copy: what a read-only blob has itself goes to the same places of another device. Several pieces are under
 * way at once, each with a buffer of its own: read from the store's device, written to the other.
 *
 * The blob is open and busy meanwhile: its clusters stay where they are. Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

#define PIECES 4
#define PIECE_BYTES (256u << 10)

struct copy;

/* Followed by the room of its request. */
struct piece {
	struct copy *copy;
	struct iovec iov;
	uint64_t lba; /* in the blob, in blocks of the store's device */
	uint64_t blocks;
	_Alignas(64) struct blob_dev_io io;
};

struct copy {
	struct blob_work *work;
	struct blob *blob;
	struct blob_dev *dev;
	struct blob_dev_channel *ch;
	uint64_t cluster; /* that is being cut into pieces */
	uint64_t offset;  /* in it, device blocks */
	uint64_t copied;  /* clusters */
	uint64_t of;
	unsigned under_way;
	int status;
	struct piece *pieces[PIECES];
	bool idle[PIECES];
	struct defer defer;
};

static void
release(struct copy *c)
{
	for (unsigned i = 0; i < PIECES; i++) {
		if (c->pieces[i] != NULL) {
			free(c->pieces[i]->iov.iov_base);
		}
		free(c->pieces[i]);
	}
	if (c->ch != NULL) {
		c->dev->ops->channel_put(c->dev, c->ch);
	}
	free(c);
}

static void
end(struct copy *c)
{
	struct blob_work *work = c->work;
	struct blob *blob = c->blob;
	struct err err = ERR_NONE;
	int status = c->status;

	if (status == -ECANCELED) {
		err_set(&err, status, "the copy was cancelled");
	} else if (status != 0) {
		err_set(&err, status, "%s could not be copied: %s", CALLED(blob), strerror(-status));
	}
	release(c);
	blob->busy = false;
	blob->opens--;
	merge_kick(blob->store); /* one that found the blob busy rests */
	store_background_end(blob->store);
	work->done(work->ctx, status, &err);
}

static void advance(struct copy *c);

static void
piece_ended(struct piece *p, int status)
{
	struct copy *c = p->copy;

	if (c->status == 0) {
		c->status = status;
	}
	c->under_way--;
	for (unsigned i = 0; i < PIECES; i++) {
		if (c->pieces[i] == p) {
			c->idle[i] = true;
		}
	}
	advance(c);
}

static void
written(struct blob_dev_io *io, int status)
{
	piece_ended(CONTAINER_OF(io, struct piece, io), status);
}

static void
read_done(struct blob_dev_io *io, int status)
{
	struct piece *p = CONTAINER_OF(io, struct piece, io);
	struct copy *c = p->copy;
	uint32_t block = c->blob->store->dev->block_size;

	if (status != 0 || c->status != 0) {
		piece_ended(p, status);
		return;
	}
	p->io.done = written;
	p->io.op = BLOB_DEV_WRITE;
	p->io.lba = p->lba * block / c->dev->block_size;
	p->io.num_blocks = p->iov.iov_len / c->dev->block_size;
	blob_dev_submit(c->dev, c->ch, &p->io);
}

static void
piece_start(struct piece *p, uint32_t entry, uint64_t offset, uint64_t blocks)
{
	struct copy *c = p->copy;
	struct blob_store *store = c->blob->store;

	p->blocks = blocks;
	p->lba = c->cluster * store->cluster_blocks + offset;
	p->iov.iov_len = blocks * store->dev->block_size;
	p->io.done = read_done;
	p->io.op = BLOB_DEV_READ;
	p->io.iov = &p->iov;
	p->io.iovcnt = 1;
	p->io.lba = entry * store->cluster_blocks + offset;
	p->io.num_blocks = blocks;
	c->under_way++;
	blob_dev_submit(store->dev, store->dev_ch, &p->io);
}

static void
flushed(struct blob_dev_io *io, int status)
{
	struct copy *c = CONTAINER_OF(io, struct piece, io)->copy;

	c->status = status;
	end(c);
}

static void
flush(struct copy *c)
{
	struct blob_dev_io *io = &c->pieces[0]->io;

	io->done = flushed;
	io->op = BLOB_DEV_FLUSH;
	io->iovcnt = 0;
	io->lba = 0;
	io->num_blocks = 0;
	blob_dev_submit(c->dev, c->ch, io);
}

/* To the next cluster that the blob has itself. */
static uint32_t
find(struct copy *c)
{
	uint64_t clusters = blob_num_clusters(c->blob);

	for (; c->cluster < clusters; c->cluster++) {
		uint32_t entry = blob_map_entry(&c->blob->head, c->cluster);

		if (entry != 0) {
			return entry;
		}
	}
	return 0;
}

/* Starts pieces as long as there are idle ones; false: there is nothing left to start. */
static bool
feed(struct copy *c)
{
	struct blob_store *store = c->blob->store;
	uint32_t entry;

	for (unsigned i = 0; i < PIECES; i++) {
		uint64_t blocks = PIECE_BYTES / store->dev->block_size;

		entry = find(c);
		if (entry == 0) {
			return false;
		}
		if (!c->idle[i]) {
			continue;
		}
		c->idle[i] = false;
		blocks = MIN(blocks, store->cluster_blocks - c->offset);
		piece_start(c->pieces[i], entry, c->offset, blocks);
		c->offset += blocks;
		if (c->offset == store->cluster_blocks) {
			c->offset = 0;
			c->cluster++;
			c->copied++;
		}
	}
	return true;
}

static void
advance(struct copy *c)
{
	bool more;

	if (c->work->cancelled && c->status == 0) {
		c->status = -ECANCELED;
	}
	if (c->status == 0 && c->blob->store->abandoned) {
		c->status = -ENODEV;
	}
	more = c->status == 0 && feed(c);
	if (c->work->progress != NULL) {
		c->work->progress(c->work->ctx, c->copied, c->of);
	}
	if (more || c->under_way > 0) {
		return;
	}
	if (c->status == 0) {
		flush(c);
	} else {
		end(c);
	}
}

static void
start(struct defer *d)
{
	advance(CONTAINER_OF(d, struct copy, defer));
}

/* ---- Beginning ---- */

static int
make_pieces(struct copy *c)
{
	const struct blob_dev *from = c->blob->store->dev, *to = c->dev;
	size_t bytes = offsetof(struct piece, io) + MAX(from->io_bytes, to->io_bytes);
	size_t align = MAX(from->buffer_align, to->buffer_align);

	align = MAX(align, 4096u);
	for (unsigned i = 0; i < PIECES; i++) {
		struct piece *p = aligned_alloc(64, (bytes + 63) & ~(size_t)63);

		c->pieces[i] = p;
		if (p == NULL) {
			return -ENOMEM;
		}
		p->copy = c;
		p->iov.iov_base = aligned_alloc(align, (PIECE_BYTES + align - 1) & ~(align - 1));
		if (p->iov.iov_base == NULL) {
			return -ENOMEM;
		}
		c->idle[i] = true;
	}
	return 0;
}

static int
may_copy(const struct blob *blob, const struct blob_dev *dev, struct err *err)
{
	uint64_t bytes = blob_num_clusters(blob) * blob->store->super.cluster_bytes;

	if (!blob->data_ro) {
		return err_set(err, -EPERM, "%s can be written to: only what is read-only is copied", CALLED(blob));
	}
	if (bytes > dev->num_blocks * dev->block_size) {
		return err_set(err, -EINVAL, "'%s' is smaller than %s of %llu bytes", dev->name, CALLED(blob),
			       (unsigned long long)bytes);
	}
	if (blob->store->dev->block_size % dev->block_size != 0) {
		return err_set(err, -EINVAL, "the blocks of '%s' have %u bytes, those of %s %u", dev->name,
			       dev->block_size, CALLED(blob), blob->store->dev->block_size);
	}
	return volume_is_idle(blob, err);
}

void
blob_shallow_copy(struct blob *blob, struct blob_dev *dev, struct blob_work *work)
{
	struct err err = ERR_NONE;
	struct copy *c;
	int rc = may_copy(blob, dev, &err);

	if (rc != 0) {
		store_answer(blob->store, work->done, work->ctx, rc, &err);
		return;
	}
	rc = -ENOMEM;
	c = calloc(1, sizeof(*c));
	if (c != NULL) {
		work->blob = blob;
		work->cancelled = false;
		work->cancel = NULL;
		c->work = work;
		c->blob = blob;
		c->dev = dev;
		c->of = blob_allocated_clusters(blob);
		rc = make_pieces(c);
		if (rc == 0) {
			c->ch = dev->ops->channel_get(dev, &rc);
		}
		if (c->ch == NULL) {
			release(c);
			c = NULL;
		}
	}
	if (c == NULL) {
		store_answer(blob->store, work->done, work->ctx, rc, NULL);
		return;
	}
	blob->busy = true;
	blob->opens++;
	store_background_begin(blob->store);
	thread_defer(&c->defer, start);
}
