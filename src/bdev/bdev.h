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
 * by a reset or an abort); -EILSEQ (compare: not equal; protection information that does not fit);
 * -ENOENT (abort: too late); -ENOSPC; -EIO and other errnos of the backing store. -ENOMEM never: the
 * core queues.
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
#include <stddef.h>
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

/* "Emulated": the core does it by reads and writes where the module does not. */
enum bdev_op {
	BDEV_READ,
	BDEV_WRITE,
	BDEV_FLUSH,        /* lba and num_blocks are ignored: everything */
	BDEV_UNMAP,        /* contents undefined afterwards, zeroes where the module can */
	BDEV_WRITE_ZEROES, /* emulated */
	BDEV_RESET,        /* waits for or cancels all I/O of all channels */
	/* iov has what is expected. -EILSEQ, and result: offset in bytes of the first that differs.
	 * Emulated. */
	BDEV_COMPARE,
	/* iov has what is expected, write_iov what is written then. No write of anybody to these
	 * blocks comes between. At most BDEV_COMPARE_WRITE_MAX_BYTES. Emulated. */
	BDEV_COMPARE_AND_WRITE,
	BDEV_COPY,  /* from src_lba to lba; the two must not overlap. Emulated */
	BDEV_ABORT, /* target ends with -ECANCELED, and this with 0; or -ENOENT: it is not waiting */
	/* From lba on: result is the first block with data, without; UINT64_MAX: none up to the end.
	 * num_blocks is ignored. Emulated by block status. */
	BDEV_SEEK_DATA,
	BDEV_SEEK_HOLE,
	/* Fills extents from lba on, at most max_results; result: how many. They follow one another
	 * and cover the range, or its beginning when there was no more room or the module likes to
	 * be asked again; at least one block. Emulated: all allocated. */
	BDEV_BLOCK_STATUS,
	/* Zoned bdevs. Report: zones from the one of lba on, at most max_results; result: how many.
	 * Manage: zone_action on the zone that starts at lba. Append: writes at the write pointer of
	 * the zone that starts at lba; result: the block it was written to. */
	BDEV_ZONE_REPORT,
	BDEV_ZONE_MANAGE,
	BDEV_ZONE_APPEND,
	BDEV_OP_COUNT
};

#define BDEV_COMPARE_WRITE_MAX_BYTES ((size_t)65536)

/* "read", "write", "flush", "unmap", "write_zeroes", "reset", "compare", ... as SPDK's
 * supported_io_types spells them. */
const char *bdev_op_name(enum bdev_op op);

#define BDEV_IO_FUA 0x1       /* write: on stable storage before it completes */
#define BDEV_IO_MAY_UNMAP 0x2 /* write zeroes: may deallocate instead of writing */
/* Read, write, compare, of bdevs that have metadata: md has that of num_blocks blocks. Without it
 * the core makes up and checks the protection information of a bdev that has any. */
#define BDEV_IO_MD 0x4
/* Block status: BDEV_EXTENT_CHANGED compares with `since`, not with what bdev_desc_set_since() said. Of stacked modules. */
#define BDEV_IO_SINCE 0x2
/* The submitter's own: a bit to find again in done; nobody else looks at it. */
#define BDEV_IO_SUBMITTER 0x8

/* What a part of a bdev consists of (BDEV_BLOCK_STATUS). */
struct bdev_extent {
	uint64_t num_blocks;
	uint32_t flags; /* BDEV_EXTENT_... */
};
#define BDEV_EXTENT_ALLOCATED 0x1 /* has storage of its own here */
#define BDEV_EXTENT_ZERO 0x2      /* reads as zeroes */
#define BDEV_EXTENT_CHANGED 0x4   /* differs from the volume's parent; of volumes, and what keeps their blocks' place */

enum bdev_zone_state {
	BDEV_ZONE_EMPTY,
	BDEV_ZONE_IMPLICIT_OPEN,
	BDEV_ZONE_EXPLICIT_OPEN,
	BDEV_ZONE_CLOSED,
	BDEV_ZONE_FULL,
	BDEV_ZONE_READ_ONLY,
	BDEV_ZONE_OFFLINE,
};

enum bdev_zone_action {
	BDEV_ZONE_DO_OPEN,
	BDEV_ZONE_DO_CLOSE,
	BDEV_ZONE_DO_FINISH,
	BDEV_ZONE_DO_RESET,
	BDEV_ZONE_DO_OFFLINE,
};

struct bdev_zone {
	uint64_t lba; /* where it starts */
	uint64_t capacity_blocks;
	uint64_t write_pointer; /* absolute; meaningless when full */
	enum bdev_zone_state state;
};

/*
 * The first 64 bytes are what submitter and module touch, the next 64 the core's own, the third 64
 * the operands of some operations; plain reads and writes never look there. What starts at ctx
 * belongs to the modules below.
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
	union {
		struct bdev_io *parent; /* of a part of a split request */
		struct bdev_pass *pass; /* the way it was passed down */
	};
	/* Of a request that is being split: blocks handed out so far, and where in iov they end. */
	union {
		uint64_t issued_blocks;
		uint64_t upper_lba; /* of one that was passed down */
	};
	uint64_t iov_offset;
	uint32_t iov_index;
	uint32_t children; /* parts under way */
	uint32_t seq;      /* place in the queue of requests that the module refused */

	/* Operands; those that the operation and the flags name are set by the submitter. */
	void *md; /* BDEV_IO_MD: borrowed until done */
	union {
		uint64_t src_lba; /* copy */
		struct {          /* compare and write */
			const struct iovec *write_iov; /* as long as iov, in all */
			uint32_t write_iovcnt;
		};
		struct bdev_io *target; /* abort: submitted on this channel, not done yet */
		struct bdev_extent *extents;
		struct bdev_zone *zones;
		enum bdev_zone_action zone_action;
	};
	uint64_t result;          /* valid when the operation has one */
	uint32_t max_results;     /* room in extents, zones; at least 1 */
	uint32_t core_word;       /* the core's */
	struct list core_link;    /* the core's: among those that range locks look at */
	const struct bdev *since; /* BDEV_IO_SINCE: borrowed until done; NULL: the parent */
	/* bdev_io_bytes() - sizeof(struct bdev_io) bytes for the modules below follow. */
	_Alignas(16) uint8_t ctx[];
};
_Static_assert(sizeof(struct bdev_io) == 192, "three cache lines");

/* What a bdev likes, in blocks; 0: nothing to say. SPDK's names. */
struct bdev_hints {
	uint32_t preferred_write_alignment;
	uint32_t preferred_write_granularity;
	uint32_t optimal_write_size;
	uint32_t preferred_unmap_alignment;
	uint32_t preferred_unmap_granularity;
};

struct bdev_md {
	uint32_t bytes; /* beside each block, 0: there is none */
	bool interleave; /* exports show it behind each block */
	bool dif_head;   /* the protection information is first in it, not last */
	uint8_t dif_type; /* 0: none */
	uint8_t dif_pi_format;    /* enum dif_pi_format */
	uint32_t dif_check_flags; /* DIF_CHECK_... */
};

struct bdev_zones {
	uint64_t zone_blocks; /* 0: not zoned */
	uint32_t max_open;    /* 0: any number */
	uint32_t max_active;  /* 0: any number */
	uint32_t optimal_open;
	uint32_t max_append_blocks;
};

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
/* Block status tells what differs from a parent (BDEV_EXTENT_CHANGED): a volume, or one that shows a volume's. */
bool bdev_tells_changes(const struct bdev *bdev);
/*
 * Where its blocks lie in memory, one after another: of a bdev that is nothing but memory; else NULL. Constant, and readable as
 * long as a descriptor is open. A read of blocks into just where they lie copies nothing; what is there may be looked at once
 * it has completed, shows what others write meanwhile, and is written to by nobody but the bdev.
 */
const uint8_t *bdev_memory(const struct bdev *bdev);
/* Offered, be it by the module or emulated by the core; false for what modifies a read-only
 * bdev. */
bool bdev_supports(const struct bdev *bdev, enum bdev_op op);
/* True when the module does it itself, false when emulated by the core or impossible. */
bool bdev_supports_natively(const struct bdev *bdev, enum bdev_op op);
bool bdev_claimed(const struct bdev *bdev);
/* Bytes of metadata a block has beside its block size, 0: none. Always handed over separately. */
uint32_t bdev_md_bytes(const struct bdev *bdev);
void bdev_md(const struct bdev *bdev, struct bdev_md *ret_md);
bool bdev_zoned(const struct bdev *bdev);
void bdev_zones(const struct bdev *bdev, struct bdev_zones *ret_zones);
const struct bdev_hints *bdev_hints(const struct bdev *bdev);
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

/* The same for those who serve it as an ordinary disk; -EOPNOTSUPP: it is zoned. */
int bdev_open_disk(const char *name, bool write,
		   void (*event)(void *ctx, struct bdev *bdev, enum bdev_event ev), void *ctx,
		   struct bdev_desc **ret_desc, struct err *err);

/* All channels of desc must have been put on their threads (a message already under way to do so
 * is not enough). */
void bdev_close(struct bdev_desc *desc);
struct bdev *bdev_desc_bdev(struct bdev_desc *desc);

/*
 * Before the first channel: BDEV_EXTENT_CHANGED on this descriptor's channels says what differs from `since`, a snapshot below
 * a volume, instead of from its parent; everything, when that is not below it any more. The caller has `since` open as long.
 * The volume is asked through what stands on it.
 */
void bdev_desc_set_since(struct bdev_desc *desc, const struct bdev *since);
/* The same for a snapshot that is no more: everything has changed. */
void bdev_desc_set_since_lost(struct bdev_desc *desc);

/*
 * What modules that stand on a bdev rely on, from bdev_claim() until the descriptor is closed.
 * Others may always open it to read.
 */
enum bdev_claim {
	BDEV_CLAIM_NONE,
	BDEV_CLAIM_WRITE_ONE,    /* only this descriptor writes */
	BDEV_CLAIM_WRITE_NONE,   /* nobody writes; several descriptors may hold such a claim */
	BDEV_CLAIM_WRITE_SHARED, /* the descriptors that hold such a claim with the same key write */
};

/* The claim that is held, BDEV_CLAIM_NONE: none. */
enum bdev_claim bdev_claim_held(const struct bdev *bdev);

/*
 * 0; -EPERM: somebody holds another claim, or has it open for writing. A descriptor that was opened
 * to read, and has no channels yet, may write when a claim that allows it is granted (-EROFS: the
 * bdev is read-only). key: of WRITE_SHARED. module_name is copied.
 */
int bdev_claim(struct bdev_desc *desc, enum bdev_claim claim, uint64_t key,
	       const char *module_name, struct err *err);

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

/*
 * Sets three of them in one store: bdev_submit() loads them together, soon afterwards, and a load of what several stores have
 * just written waits until these are in the cache.
 */
static inline void
bdev_io_set_kind(struct bdev_io *io, enum bdev_op op, uint8_t flags, uint16_t iovcnt)
{
	uint32_t word = iovcnt | (uint32_t)op << 16 | (uint32_t)flags << 24;

	_Static_assert(offsetof(struct bdev_io, op) == offsetof(struct bdev_io, iovcnt) + 2 &&
			       offsetof(struct bdev_io, flags) == offsetof(struct bdev_io, iovcnt) + 3,
		       "one word, little-endian");
	__builtin_memcpy((uint8_t *)io + offsetof(struct bdev_io, iovcnt), &word, sizeof(word));
}

/* Fills the submitter's fields; all others may hold anything. */
static inline void
bdev_io_init(struct bdev_io *io, enum bdev_op op, uint64_t lba, uint64_t num_blocks,
	     const struct iovec *iov, unsigned iovcnt, void (*done)(struct bdev_io *io, int status))
{
	io->done = done;
	io->iov = iov;
	io->lba = lba;
	io->num_blocks = num_blocks;
	bdev_io_set_kind(io, op, 0, (uint16_t)iovcnt);
}

/* Borrows io, its iov and the buffers until done. Never fails here: every error arrives in done. */
void bdev_submit(struct bdev_channel *ch, struct bdev_io *io);

/*
 * Nobody waits for the requests of this channel any more: those that wait without end (for space, for a connection) end with
 * -ECANCELED, the others as they do. For whoever goes and has waited for a while; as often as it likes.
 */
void bdev_channel_give_up(struct bdev_channel *ch);

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

enum bdev_error {
	BDEV_ERROR_IO, /* EIO, and what has no place of its own */
	BDEV_ERROR_NO_SPACE,
	BDEV_ERROR_RANGE,
	BDEV_ERROR_READ_ONLY,
	BDEV_ERROR_NOT_SUPPORTED,
	BDEV_ERROR_REMOVED,
	BDEV_ERROR_ABORTED, /* by a reset or an abort */
	BDEV_ERROR_MISCOMPARE,
	BDEV_ERROR_TIMED_OUT,
	BDEV_ERROR_COUNT
};

/* "io", "no_space", ... */
const char *bdev_error_name(enum bdev_error error);

struct bdev_errors {
	uint64_t count[BDEV_OP_COUNT][BDEV_ERROR_COUNT];
};

struct bdev_stats {
	struct bdev_op_stats op[BDEV_OP_COUNT];
	uint64_t errors;
	struct bdev_errors *by_kind; /* NULL: none yet, or memory was short. Borrowed */
};

/* Sums all channels, those already closed included; monotonic. done(ctx, stats) later on the app
 * thread. 0 or -ENOMEM. */
int bdev_get_stats(struct bdev *bdev, void (*done)(void *ctx, const struct bdev_stats *stats),
		   void *ctx);

/* Calls each(ctx, user, stats) on the thread of each channel, one after another (a min_ns of
 * UINT64_MAX: no operation yet; user: see bdev/qos.h); then done(ctx) on the app thread. 0 or
 * -ENOMEM. */
int bdev_for_each_channel_stats(struct bdev *bdev,
				void (*each)(void *ctx, const char *user,
					     const struct bdev_stats *stats),
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

/* ---- Waiting for a bdev (app thread) ---- */

/* Caller's memory, zeroed before the first start. */
struct bdev_watch {
	struct list link;
	const char *name; /* borrowed until it is stopped or has fired */
	void (*fn)(struct bdev_watch *w, struct bdev *bdev);
};

/* Calls fn once, from inside bdev_register(), when a bdev of that name, alias or UUID has come. */
void bdev_watch_start(struct bdev_watch *w, const char *name,
		      void (*fn)(struct bdev_watch *w, struct bdev *bdev));
void bdev_watch_stop(struct bdev_watch *w); /* harmless when it does not wait */

/* ---- Examination (app thread): modules look at bdevs for what is theirs, see module.h ---- */

/* Has the examiners look at one bdev, for when bdev_options.auto_examine is off. 0, -ENODEV. */
int bdev_examine(const char *name, struct err *err);

/* Until the release bdevs that come are not examined; then all of them are. For a configuration that is
 * made again: what is configured takes its names before what is found on disks, which others may
 * have written. */
void bdev_examine_hold(void);
void bdev_examine_release(void);

/* Caller's memory. */
struct bdev_examine_wait {
	struct list link;
	void (*done)(struct bdev_examine_wait *w);
};

/* Calls done, perhaps at once, when no examination is under way. */
void bdev_wait_for_examine(struct bdev_examine_wait *w, void (*done)(struct bdev_examine_wait *w));

/* ---- Changes others may watch (app thread) ---- */

/* BDEV_LEAVES: it is about to be unregistered, and can be asked a last time. */
enum bdev_notice { BDEV_REGISTERED, BDEV_UNREGISTERED, BDEV_RESIZED, BDEV_LEAVES };

/* At most one watcher (the notification log); NULL takes it away. */
void bdev_set_notice(void (*fn)(void *ctx, const char *name, enum bdev_notice notice), void *ctx);

#endif
