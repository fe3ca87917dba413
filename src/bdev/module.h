/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block devices, for those who implement them. A module embeds struct bdev, fills the fields in
 * the first part and registers it. Its submit function gets requests that are already right: the operation is
 * supported, the range inside the device, the list as long as the range, buffers aligned and lists as short as
 * the module asked for. It answers each with exactly one bdev_io_complete(), at once or later, on
 * the same thread.
 */
#ifndef BDEV_MODULE_H
#define BDEV_MODULE_H

#include "base/list.h"
#include "bdev/bdev.h"
#include "event/channel.h"

struct bdev_ops {
	const char *module_name; /* "null", "malloc", ...: the folder's name */

	/* Called when the last descriptor is closed after bdev_unregister(); the module frees the bdev.
	 * Every channel is gone. App thread. */
	void (*destruct)(struct bdev *bdev);

	/* This thread's part of the module: ch->module_ctx points to bdev->channel_ctx_bytes zeroed bytes. 0 or -errno.
	 * Both may be NULL. */
	int (*channel_create)(struct bdev *bdev, struct bdev_channel *ch);
	void (*channel_destroy)(struct bdev *bdev, struct bdev_channel *ch);

	/* Takes io until bdev_io_complete(). The operation is one of bdev->ops_mask. */
	void (*submit)(struct bdev_channel *ch, struct bdev_io *io);
};

struct bdev {
	/* Filled by the module before bdev_register(), constant afterwards but for num_blocks. */
	const struct bdev_ops *ops;
	char *name;               /* owned by the module until destruct */
	const char *product_name; /* "Malloc disk", ... as SPDK's bdev_get_bdevs says it */
	uuid_t uuid;              /* all zero: the core makes one */
	uint32_t block_size;      /* bytes, power of two */
	uint32_t physical_block_size; /* 0: block_size */
	uint64_t num_blocks;
	uint32_t ops_mask;        /* 1 << BDEV_READ | ...: what submit takes; BDEV_RESET is the core's when not listed */
	uint32_t buffer_align;    /* bytes, power of two, 1: any */
	uint32_t max_iovcnt;      /* most entries of one request, 0: BDEV_IOV_MAX */
	uint32_t max_rw_blocks;   /* most blocks of one read or write, 0: any */
	uint64_t max_unmap_blocks;
	uint64_t max_write_zeroes_blocks;
	uint32_t optimal_boundary_blocks; /* no read or write crosses a multiple of this, 0: none */
	uint32_t unmap_granularity_blocks;
	bool write_cache;
	bool readonly;
	size_t io_ctx_bytes;      /* room after struct bdev_io for this module and all below it */
	size_t channel_ctx_bytes;
	void *ctx;                /* the module's */

	/* The core's own; see core.c. */
	struct device device;
	struct list registry_link;
	struct list descs;
	struct list aliases;
	char uuid_alias[UUID_STR_LEN];
	struct bdev_desc *claim;
	const char *claim_module;
	int state;
	struct bdev_stats closed_stats; /* of channels that are gone */
	void *core;                     /* reset under way and the like */
};

/* First part is the core's; module_ctx is the module's. Channel of one bdev on one thread. */
struct bdev_channel {
	struct channel channel;
	struct bdev *bdev;
	void (*submit)(struct bdev_channel *ch, struct bdev_io *io); /* = bdev->ops->submit */
	void *module_ctx;
	/* Limits copied from the bdev, so that the direct path touches one cache line or two. */
	uint64_t num_blocks;
	uint32_t block_size_shift;
	uint32_t ops_mask;
	uint32_t simple_blocks; /* reads and writes of at most so many blocks need no split; 0: always look closer */
	uint32_t buffer_mask;   /* buffer_align - 1 */
	uint32_t simple_iovcnt;
	bool readonly;
	bool frozen; /* a reset is under way: new requests wait */
	uint64_t inflight;
	struct list waiting; /* queued on no-memory, or frozen; oldest first */
	struct bdev_stats stats;
	void *core; /* split and bounce pools, made when first needed */
};

/* App thread. Takes nothing: the module still owns bdev. 0; -EEXIST (name or UUID taken); -EINVAL (sizes). */
int bdev_register(struct bdev *bdev, struct err *err);

/*
 * App thread. Sends BDEV_EVENT_REMOVE to all openers; requests submitted from now on end with -ENODEV; when the
 * last descriptor is closed, ops->destruct, then done(ctx, 0). done may be NULL.
 */
void bdev_unregister(struct bdev *bdev, void (*done)(void *ctx, int status), void *ctx);

/* App thread. Tells openers; 0, -EINVAL (0 blocks), -EBUSY (smaller, and open for more than resizing down allows). */
int bdev_resize(struct bdev *bdev, uint64_t num_blocks);

/* The channel's thread. Ends io; -ENOMEM or -EAGAIN puts it back in the queue to be tried again when another
 * request of this channel completes (or on the next turn when none is in flight). */
void bdev_io_complete(struct bdev_io *io, int status);

/* The module's room in a request. */
static inline void *
bdev_io_ctx(struct bdev_io *io)
{
	return io->ctx;
}

#endif
