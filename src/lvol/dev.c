/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A bdev as what a blobstore stands on: requests of the one become requests of the other, in their own room.
 *
 * Invariants
 *  1. A base is claimed before anything is written to it, so a store is never made under somebody's feet.
 *  2. What the device cannot do is not handed down: unmapping is left out where the bdev has none.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lvol/internal.h"

static struct lvol_dev *
dev_of(struct blob_dev *dev)
{
	return CONTAINER_OF(dev, struct lvol_dev, dev);
}

/* ---- I/O ---- */

static struct blob_dev_channel *
get_channel(struct blob_dev *dev, int *ret_rc)
{
	return (struct blob_dev_channel *)(void *)bdev_channel_get(dev_of(dev)->desc, ret_rc);
}

static void
put_channel(struct blob_dev *dev, struct blob_dev_channel *ch)
{
	bdev_channel_put((struct bdev_channel *)(void *)ch);
}

static void
io_done(struct bdev_io *child, int status)
{
	struct blob_dev_io *io =
		(struct blob_dev_io *)(void *)((uint8_t *)child - offsetof(struct blob_dev_io, room));

	if (io->op >= BLOB_DEV_SEEK_DATA) {
		io->src_lba = child->result;
	}
	io->done(io, status);
}

static void
nothing_done(struct defer *d)
{
	io_done(CONTAINER_OF(d, struct bdev_io, defer), 0);
}

static void
submit(struct blob_dev *dev, struct blob_dev_io *io)
{
	static const uint8_t ops[] = {
		[BLOB_DEV_READ] = BDEV_READ,   [BLOB_DEV_WRITE] = BDEV_WRITE,
		[BLOB_DEV_FLUSH] = BDEV_FLUSH, [BLOB_DEV_UNMAP] = BDEV_UNMAP,
		[BLOB_DEV_WRITE_ZEROES] = BDEV_WRITE_ZEROES, [BLOB_DEV_COPY] = BDEV_COPY,
		[BLOB_DEV_SEEK_DATA] = BDEV_SEEK_DATA, [BLOB_DEV_SEEK_HOLE] = BDEV_SEEK_HOLE,
	};
	struct bdev_io *child = (struct bdev_io *)(void *)io->room;
	uint8_t flags = io->op == BLOB_DEV_WRITE_ZEROES ? BDEV_IO_MAY_UNMAP : 0;
	enum bdev_op op = ops[io->op];

	if (io->op == BLOB_DEV_UNMAP && bdev_supports_natively(dev_of(dev)->bdev, BDEV_WRITE_ZEROES)) {
		op = BDEV_WRITE_ZEROES; /* deallocates as well, and nobody finds what others left there */
		flags = BDEV_IO_MAY_UNMAP;
	}
	bdev_io_init(child, op, io->lba, io->num_blocks, io->iov, (unsigned)io->iovcnt, io_done);
	child->flags = flags;
	if (io->op == BLOB_DEV_COPY) {
		child->src_lba = io->src_lba;
	}
	if (io->op == BLOB_DEV_FLUSH) {
		child->lba = child->num_blocks = 0;
	} else if (io->op == BLOB_DEV_UNMAP && !dev->unmap) {
		thread_defer(&child->defer, nothing_done);
		return;
	}
	bdev_submit((struct bdev_channel *)(void *)io->ch, child);
}

static void
dev_close(struct blob_dev *dev)
{
	lvol_dev_close(dev_of(dev));
}

static const struct blob_dev_ops dev_ops = {
	.channel_get = get_channel,
	.channel_put = put_channel,
	.submit = submit,
	.close = dev_close,
};

/* ---- Opening ---- */

static void
event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	struct lvol_dev *d = ctx;

	if (d->store != NULL) {
		lvol_base_event(d->store, bdev, ev);
	} else if (d->left != NULL && ev == BDEV_EVENT_REMOVE) {
		d->left(d);
	}
}

static bool
yields(void *ctx)
{
	struct lvol_dev *d = ctx;

	return d->store != NULL && lvol_base_yields(d->store);
}

static void
fill(struct lvol_dev *d)
{
	const struct bdev *bdev = d->bdev;

	snprintf(d->name, sizeof(d->name), "%s", bdev_name(bdev));
	d->dev = (struct blob_dev){
		.ops = &dev_ops,
		.name = d->name,
		.block_size = bdev_block_size(bdev),
		.num_blocks = bdev_num_blocks(bdev),
		.buffer_align = bdev_buffer_align(bdev),
		.write_cache = bdev_write_cache(bdev),
		.unmap = bdev_supports(bdev, BDEV_UNMAP),
		.copies = bdev_supports_natively(bdev, BDEV_COPY),
		.seeks = bdev_supports_natively(bdev, BDEV_BLOCK_STATUS),
		.readonly = bdev_readonly(bdev),
		.io_bytes = sizeof(struct blob_dev_io) + bdev_io_bytes(bdev),
	};
}

int
lvol_dev_open_to_look(const char *bdev_name, struct lvol_dev **ret_dev, struct err *err)
{
	struct lvol_dev *d = calloc(1, sizeof(*d));
	int rc;

	if (d == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", bdev_name);
	}
	rc = bdev_open_disk(bdev_name, false, event, d, &d->desc, err);
	if (rc == 0) {
		d->bdev = bdev_desc_bdev(d->desc);
		if (bdev_md_bytes(d->bdev) != 0) {
			rc = err_set(err, -EOPNOTSUPP, "bdev '%s' has metadata beside its blocks", bdev_name);
		}
	}
	if (rc != 0) {
		lvol_dev_close(d);
		return rc;
	}
	fill(d);
	*ret_dev = d;
	return 0;
}

int
lvol_dev_claim(struct lvol_dev *d, enum bdev_claim claim, struct err *err)
{
	int rc = bdev_claim(d->desc, claim, 0, LVOL_MODULE, err);

	if (rc == 0 && claim == BDEV_CLAIM_WRITE_ONE) {
		bdev_claim_yields(d->desc, yields);
	}
	return rc;
}

int
lvol_dev_open(const char *bdev_name, enum bdev_claim claim, struct lvol_dev **ret_dev, struct err *err)
{
	struct lvol_dev *d = NULL;
	int rc = lvol_dev_open_to_look(bdev_name, &d, err);

	if (rc == 0) {
		rc = lvol_dev_claim(d, claim, err);
		if (rc != 0) {
			lvol_dev_close(d);
		} else {
			*ret_dev = d;
		}
	}
	return rc;
}

void
lvol_dev_close(struct lvol_dev *d)
{
	if (d != NULL) {
		if (d->store != NULL) {
			d->store->dev = NULL;
		}
		bdev_close(d->desc);
		free(d);
	}
}
