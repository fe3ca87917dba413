/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block devices, for those who use them: front ends, tools, and modules stacked on other bdevs.
 *
 * Contexts: the registry, open and close belong to the first thread that ever registered a bdev
 * (the "app thread"); functions that act on it say so. I/O goes through a channel, on the channel's
 * thread, without locks.
 *
 * A request (struct bdev_io) lives in its submitter's memory, bdev_io_bytes() of it, and is
 * borrowed until its done callback. done is called exactly once, on the submitting thread, never
 * from inside bdev_submit(). Completion order is not submission order.
 *
 * Statuses of a request: 0; -EINVAL (range or list length wrong); -EROFS (write on a read-only bdev
 * or descriptor); -EOPNOTSUPP (operation not supported); -ENODEV (bdev removed); -ECANCELED (ended
 * by a reset); -ENOSPC; -EIO and other errnos of the backing store. -ENOMEM never: the core queues.
 * Requests of no blocks complete with 0. A flush of a bdev that has no write cache completes with
 * 0, supported or not.
 *
 * Flush covers every write that completed, on any channel, before the flush was submitted. Process
 * death loses no completed write; power loss may lose those after the last flush when write_cache
 * is set.
 */
#ifndef BDEV_BDEV_H
#define BDEV_BDEV_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>
#include <uuid/uuid.h>

#include "base/err.h"
#include "event/thread.h"

struct bdev;
struct bdev_desc;
struct bdev_channel;

#define BDEV_NAME_BYTES 256
#define BDEV_BLOCK_SIZE_MIN 512
#define BDEV_BLOCK_SIZE_MAX 65536
/* Most scatter entries of one request; the core splits below this for modules that take fewer. */
#define BDEV_IOV_MAX 1024

enum bdev_op {
	BDEV_READ,
	BDEV_WRITE,
	BDEV_FLUSH,        /* lba and num_blocks are ignored: everything */
	BDEV_UNMAP,        /* contents undefined afterwards, zeroes where the module can */
	BDEV_WRITE_ZEROES, /* emulated by writes where the module cannot */
	BDEV_RESET,        /* waits for or cancels all I/O of all channels */
	BDEV_OP_COUNT
};

/* "read", "write", "flush", "unmap", "write_zeroes", "reset" */
const char *bdev_op_name(enum bdev_op op);

#define BDEV_IO_FUA 0x1       /* write: on stable storage before it completes */
#define BDEV_IO_MAY_UNMAP 0x2 /* write zeroes: may deallocate instead of writing */

/*
 * The first 64 bytes are what submitter and module touch, the next 64 the core's own. What starts
 * at ctx belongs to the modules below.
 */
struct bdev_io {
	union { /* the core's: to complete without recursion, or to carry a reset between threads */
		struct defer defer;
		struct msg msg;
	};
	void (*done)(struct bdev_io *io, int status);
	struct bdev_channel *ch; /* set by bdev_submit() */
	const struct iovec *iov; /* borrowed until done; sum of lengths = num_blocks * block size */
	uint64_t lba;            /* in blocks */
	uint64_t num_blocks;
	uint16_t iovcnt;
	uint8_t op;    /* enum bdev_op */
	uint8_t flags; /* BDEV_IO_...; the upper four bits are the core's */
	int status;    /* the core's: between completion and done */

	/* The core's own; nobody else reads or writes them. */
	uint64_t submit_ns;
	struct list link;       /* on one of the channel's waiting queues */
	struct bdev_io *parent; /* of a part of a split request */
	/* Of a request that is being split: blocks handed out so far, and where in iov they end. */
	uint64_t issued_blocks;
	uint64_t iov_offset;
	uint32_t iov_index;
	uint32_t children; /* parts under way */
	uint32_t seq;      /* place in the queue of requests that the module refused */
	/* bdev_io_bytes() - sizeof(struct bdev_io) bytes for the modules below follow. */
	_Alignas(16) uint8_t ctx[];
};
_Static_assert(sizeof(struct bdev_io) == 128, "two cache lines");

/* ---- Registry (app thread) ---- */

/* By name, alias or UUID string; NULL when there is none. */
struct bdev *bdev_find(const char *name);
struct bdev *bdev_first(void);
struct bdev *bdev_next(struct bdev *bdev);

const char *bdev_name(const struct bdev *bdev);
const char *bdev_product_name(const struct bdev *bdev);
void bdev_uuid(const struct bdev *bdev, uuid_t ret_uuid);
/* i-th alias, NULL past the last. The UUID's string is always one. */
const char *bdev_alias(const struct bdev *bdev, unsigned i);
uint32_t bdev_block_size(const struct bdev *bdev);
uint64_t bdev_num_blocks(const struct bdev *bdev);
uint32_t bdev_physical_block_size(const struct bdev *bdev);
/* Buffers aligned to this many bytes (a power of two) are never bounced. */
uint32_t bdev_buffer_align(const struct bdev *bdev);
bool bdev_write_cache(const struct bdev *bdev);
bool bdev_readonly(const struct bdev *bdev);
/* Offered, be it by the module or emulated by the core; false for what modifies a read-only
 * bdev. */
bool bdev_supports(const struct bdev *bdev, enum bdev_op op);
/* True when the module does it itself, false when emulated by the core or impossible. */
bool bdev_supports_natively(const struct bdev *bdev, enum bdev_op op);
bool bdev_claimed(const struct bdev *bdev);
/* Blocks a discard should be aligned to and a multiple of; 1 when any will do. */
uint32_t bdev_unmap_granularity(const struct bdev *bdev);

/* ---- Opening (app thread) ---- */

enum bdev_event {
	BDEV_EVENT_REMOVE, /* I/O ends with -ENODEV; put the channels and close soon */
	BDEV_EVENT_RESIZE, /* bdev_num_blocks() has the new size */
};

/* Opens by name, alias or UUID. event is called on the app thread until closed. 0; -ENODEV;
 * -EROFS (write asked of a read-only bdev); -EPERM (claimed by another); -ENOMEM. */
int bdev_open(const char *name, bool write,
	      void (*event)(void *ctx, struct bdev *bdev, enum bdev_event ev), void *ctx,
	      struct bdev_desc **ret_desc, struct err *err);

/* All channels of desc must have been put on their threads (a message already under way to do so
 * is not enough). */
void bdev_close(struct bdev_desc *desc);
struct bdev *bdev_desc_bdev(struct bdev_desc *desc);

/* Makes desc the only one that may write, until it is closed: for modules stacked on a bdev. 0
 * or -EPERM. */
int bdev_claim(struct bdev_desc *desc, const char *module_name);

/* ---- I/O (the channel's thread) ---- */

/*
 * This thread's channel of desc; every get is answered by a put on the same thread, no request of it in
 * flight at the last one. A read-only descriptor's channel refuses writes. NULL, and *ret_rc:
 * -ENODEV (removed), -ENOMEM, or the module's error.
 */
struct bdev_channel *bdev_channel_get(struct bdev_desc *desc, int *ret_rc);
void bdev_channel_put(struct bdev_channel *ch);

/* Size in bytes of a request for this bdev, the modules below included, a multiple of 64.
 * Constant while open. */
size_t bdev_io_bytes(const struct bdev *bdev);

/* Fills the submitter's fields; all others may hold anything. */
static inline void
bdev_io_init(struct bdev_io *io, enum bdev_op op, uint64_t lba, uint64_t num_blocks,
	     const struct iovec *iov, unsigned iovcnt, void (*done)(struct bdev_io *io, int status))
{
	io->done = done;
	io->iov = iov;
	io->iovcnt = (uint16_t)iovcnt;
	io->lba = lba;
	io->num_blocks = num_blocks;
	io->op = (uint8_t)op;
	io->flags = 0;
}

/* Borrows io, its iov and the buffers until done. Never fails here: every error arrives in done. */
void bdev_submit(struct bdev_channel *ch, struct bdev_io *io);

/* Requests of this channel that have not completed. */
uint64_t bdev_channel_inflight(const struct bdev_channel *ch);

/* ---- Statistics (app thread) ---- */

struct bdev_op_stats {
	uint64_t ops;
	uint64_t bytes;
	uint64_t latency_ns; /* sum */
	uint64_t max_ns;
	uint64_t min_ns; /* 0: no operation yet */
};

struct bdev_stats {
	struct bdev_op_stats op[BDEV_OP_COUNT];
	uint64_t errors;
};

/* Sums all channels, those already closed included; monotonic. done(ctx, stats) later on the app
 * thread. 0 or -ENOMEM. */
int bdev_get_stats(struct bdev *bdev, void (*done)(void *ctx, const struct bdev_stats *stats),
		   void *ctx);

/* Calls each(ctx, stats) on the thread of each channel, one after another (a min_ns of
 * UINT64_MAX: no operation yet); then done(ctx) on the app thread. 0 or -ENOMEM. */
int bdev_for_each_channel_stats(struct bdev *bdev,
				void (*each)(void *ctx, const struct bdev_stats *stats),
				void (*done)(void *ctx), void *ctx);

/* Sets all counters back to zero, or only the largest and smallest latencies; then done(ctx) on the
 * app thread. 0 or -ENOMEM. */
int bdev_reset_stats(struct bdev *bdev, bool extremes_only, void (*done)(void *ctx), void *ctx);

/* ---- Options (app thread) ---- */

/* Sizes of pools, kept and reported for the tools that set them: requests live in their
 * submitters' memory. */
struct bdev_options {
	uint32_t io_pool_size;
	uint32_t io_cache_size;
	bool auto_examine;
	uint32_t iobuf_small_cache_size;
	uint32_t iobuf_large_cache_size;
};

void bdev_get_options(struct bdev_options *ret_options);
/* 0; -EINVAL (a pool of none, or smaller than one cache). */
int bdev_set_options(const struct bdev_options *options, struct err *err);

/* ---- Changes others may watch (app thread) ---- */

enum bdev_notice { BDEV_REGISTERED, BDEV_UNREGISTERED, BDEV_RESIZED };

/* At most one watcher (the notification log); NULL takes it away. */
void bdev_set_notice(void (*fn)(void *ctx, const char *name, enum bdev_notice notice), void *ctx);

#endif
