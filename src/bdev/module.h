/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block devices, for those who implement them. A module embeds struct bdev, fills the fields in the
 * first part and registers it. Its submit function gets requests that are already right: the
 * operation is supported, the range inside the device, the list as long as the range, buffers
 * aligned and lists as short as the module asked for. It answers each with exactly one
 * bdev_io_complete(), at once or later, on the same thread.
 */
#ifndef BDEV_MODULE_H
#define BDEV_MODULE_H

#include "base/check.h"
#include "bdev/bdev.h"
#include "event/channel.h"

struct bdev_core;

#define BDEV_BUFFER_ALIGN_MAX 65536

struct bdev_ops {
	const char *module_name; /* "null", "malloc", ...: the folder's name */

	/* Called when the last descriptor is closed after bdev_unregister(); the module frees
	 * the bdev. Every channel is gone. App thread. */
	void (*destruct)(struct bdev *bdev);

	/* This thread's part of the module: ch->module_ctx points to bdev->channel_ctx_bytes
	 * zeroed bytes. 0 or -errno. Both may be NULL. The channel is the thread's own;
	 * each descriptor has others: what a thread needs once is a device of the module. */
	int (*channel_create)(struct bdev *bdev, struct bdev_channel *ch);
	void (*channel_destroy)(struct bdev *bdev, struct bdev_channel *ch);

	/* Takes io until bdev_io_complete(). The operation is one of bdev->ops_mask. */
	void (*submit)(struct bdev_channel *ch, struct bdev_io *io);
};

struct bdev {
	/* Filled by the module before bdev_register(), constant afterwards but for num_blocks. */
	const struct bdev_ops *ops;
	char *name;                   /* owned by the module until destruct */
	const char *product_name;     /* "Malloc disk", ... as SPDK's bdev_get_bdevs says it */
	uuid_t uuid;                  /* all zero: the core makes one */
	uint32_t block_size;          /* bytes, power of two */
	uint32_t physical_block_size; /* 0: block_size */
	uint64_t num_blocks;
	/* 1 << BDEV_READ | ...: what submit takes; BDEV_RESET is the core's when not listed. */
	uint32_t ops_mask;
	/* Power of two, 0 or 1: any. Every entry's address is a multiple of this many bytes, and
	 * its length of as many or of the block size, whichever is less. */
	uint32_t buffer_align;
	uint32_t max_iovcnt;    /* most entries of one request, 0: BDEV_IOV_MAX */
	uint32_t max_rw_blocks; /* most blocks of one read or write, 0: any */
	uint64_t max_unmap_blocks;
	uint64_t max_write_zeroes_blocks;
	uint32_t optimal_boundary_blocks; /* no read or write crosses a multiple of this, 0: none */
	uint32_t unmap_granularity_blocks;
	bool write_cache;
	bool native_fua; /* submit honours BDEV_IO_FUA; else the core adds a flush */
	bool readonly;
	size_t io_ctx_bytes; /* room after struct bdev_io for this module and all below it */
	size_t channel_ctx_bytes;
	void *ctx; /* the module's */

	struct bdev_core *core; /* the core's own, from bdev_register() to destruct */
};

/*
 * One bdev on one thread. Read-only for modules. The second cache line is all that the direct path
 * of a request touches besides the request and its counters.
 */
struct bdev_channel {
	struct channel channel;
	struct bdev *bdev;

	/* bdev->ops->submit */
	_Alignas(CACHE_LINE_BYTES) void (*submit)(struct bdev_channel *ch, struct bdev_io *io);
	void *module_ctx;
	uint64_t num_blocks;
	uint64_t inflight;    /* requests started and not completed */
	uint64_t outstanding; /* what the module has, parts of split requests included */
	uint32_t direct_ops;  /* that need no closer look; 0 while requests must queue */
	uint32_t simple_blocks; /* a direct request has at most so many */
	uint32_t buffer_mask;   /* buffer_align - 1 */
	uint8_t block_size_shift;
	bool readonly;
	bool attention; /* completions must look at the waiting queues */
};

/* App thread. Takes nothing: the module still owns bdev. 0; -EEXIST (name or UUID taken);
 * -EINVAL (sizes); -ENOMEM. */
int bdev_register(struct bdev *bdev, struct err *err);

/*
 * App thread. Sends BDEV_EVENT_REMOVE to all openers; requests submitted from now on end with
 * -ENODEV; when the last descriptor is closed, ops->destruct, then done(ctx, 0). done may be NULL.
 */
void bdev_unregister(struct bdev *bdev, void (*done)(void *ctx, int status), void *ctx);

/*
 * App thread. The module must be ready for the new size. Openers are told once every channel knows.
 * 0; -EINVAL (no blocks, or too many); -EBUSY (smaller, and open); -ENODEV (being removed).
 */
int bdev_resize(struct bdev *bdev, uint64_t num_blocks);

/* App thread. One more name, in the same namespace as names and UUIDs. 0; -EEXIST; -ENOMEM. */
int bdev_alias_add(struct bdev *bdev, const char *alias, struct err *err);
/* 0 or -ENOENT. */
int bdev_alias_remove(struct bdev *bdev, const char *alias);

/*
 * The channel's thread, from inside submit or later. Ends io; -ENOMEM or -EAGAIN puts it in a queue
 * instead, to be submitted again when another request of this channel completes (or a few
 * microseconds later when the module has none).
 */
void bdev_io_complete(struct bdev_io *io, int status);

/* The module's room in a request. */
static inline void *
bdev_io_ctx(struct bdev_io *io)
{
	return io->ctx;
}

#endif
