/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Block devices, for those who implement them. A module embeds struct bdev, fills the fields in the
 * first part and registers it. Its submit function gets requests that are already right: the
 * operation is supported, the range inside the device, the list as long as the range, buffers
 * aligned and lists as short as the module asked for. It answers each with exactly one
 * bdev_io_complete(), at once or later, on the same thread. docs/bdev-module.md is the guide;
 * bdev/stack.h does the better part of a module that stands on another bdev.
 */
#ifndef BDEV_MODULE_H
#define BDEV_MODULE_H

#include "base/check.h"
#include "bdev/bdev.h"
#include "event/channel.h"
#include "event/reactor.h"

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
	/* The same, perhaps shorter, for plain reads and writes: one entry in the list, not across the boundary. NULL: submit. */
	void (*submit_plain)(struct bdev_channel *ch, struct bdev_io *io);

	/*
	 * The channel's thread: how many of num_blocks, more than fit before the boundary, a read or write from lba on may
	 * have nevertheless; at least what fits. It is asked when the request is cut: submit takes what was answered, even if
	 * it would answer otherwise by now. NULL: no more than what fits. optimal_boundary_blocks is set.
	 */
	uint64_t (*reach)(struct bdev_channel *ch, uint64_t lba, uint64_t num_blocks, bool write);

	/*
	 * The channel's thread: a reset has begun, or lasts (status -ECANCELED, again and again), or the bdev is being removed
	 * (-ENODEV). Ends with status what the module lets wait of its own accord, perhaps for
	 * ever, and lets what is still at a device below end without delay. NULL: nothing waits.
	 */
	void (*cancel)(struct bdev_channel *ch, int status);

	/* App thread: the index-th bdev that bdev stands on at present; NULL: there are no more. NULL: none, or it is a stack
	 * (bdev/stack.h), which is known to stand on its base. */
	struct bdev *(*base)(const struct bdev *bdev, unsigned index);
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
	/* Of a compare-and-write that submit takes, 0: any; nor does one cross the boundary below. The core does the others. */
	uint32_t max_compare_write_blocks;
	uint32_t optimal_boundary_blocks; /* no read or write crosses a multiple of this, but see ops->reach; 0: none */
	uint32_t unmap_granularity_blocks;
	struct bdev_hints hints;
	bool write_cache;
	bool native_fua; /* submit honours BDEV_IO_FUA; else the core adds a flush */
	bool readonly;
	bool tells_changes; /* block status has BDEV_EXTENT_CHANGED where it is due */
	/* bdev_memory(). A read into just there is one that the module need not copy. NULL: it has none to show. */
	const uint8_t *memory;
	/* submit reads a write's data more than once (mirrors, parity, checksums): guests change
	 * buffers that are in flight, so the core hands over copies. */
	bool needs_stable_data;

	/*
	 * Metadata: md_bytes beside each block of block_size bytes. Reads and writes carry it in
	 * io->md, with BDEV_IO_MD set, whenever md_bytes is not 0: the core provides what the
	 * submitter does not, and compares itself. md_interleave is how exports show it; a module
	 * whose storage interleaves copies itself. Copy takes it along, with dif_remap(); after
	 * unmap and write zeroes it is dif_fill_unwritten(), or zero where there is no PI.
	 */
	uint32_t md_bytes;
	bool md_interleave;
	bool dif_head_of_md; /* the protection information is first in md, not last */
	uint8_t dif_type;    /* 0: none; 1 to 3, as SBC-4 and NVMe's command set define them */
	uint8_t dif_pi_format;   /* enum dif_pi_format */
	uint32_t dif_check_flags; /* what of it is checked */

	/* Zoned bdevs; num_blocks is a multiple of zone_blocks. */
	uint64_t zone_blocks; /* 0: not zoned */
	uint32_t max_open_zones;   /* 0: any number */
	uint32_t max_active_zones; /* 0: any number */
	uint32_t optimal_open_zones;
	uint32_t max_append_blocks;

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
	const struct bdev *since; /* what BDEV_EXTENT_CHANGED compares with; NULL: the parent */

	/* Of plain requests. */
	_Alignas(CACHE_LINE_BYTES) void (*submit)(struct bdev_channel *ch, struct bdev_io *io);
	void *module_ctx;
	uint64_t num_blocks;
	uint64_t inflight;    /* requests started and not completed */
	uint64_t outstanding; /* what the module has, parts of split requests included */
	uint32_t direct_ops;  /* that need no closer look; 0 while requests must queue */
	uint32_t pass_ops;    /* of these, which others may pass down to here */
	uint32_t simple_blocks; /* from a multiple of boundary_mask + 1 on direct requests reach so far */
	uint32_t boundary_mask;
	uint32_t buffer_mask;   /* buffer_align - 1 */
	uint8_t block_size_shift;
	bool readonly;
	bool careful; /* completions need a closer look */
};

/* Of a block status that the module has been given: what BDEV_EXTENT_CHANGED compares with, perhaps no bdev of this module (then
 * everything has changed); NULL: the parent. */
static inline const struct bdev *
bdev_io_since(const struct bdev_io *io)
{
	return (io->flags & BDEV_IO_SINCE) != 0 ? io->since : io->ch->since;
}

/* App thread. Takes nothing: the module still owns bdev. 0; -EEXIST (name or UUID taken);
 * -EINVAL (sizes); -ENOMEM. */
int bdev_register(struct bdev *bdev, struct err *err);

/*
 * App thread. Sends BDEV_EVENT_REMOVE to all openers; requests submitted from now on end with
 * -ENODEV; when the last descriptor is closed, ops->destruct, then done(ctx, 0). done may be NULL.
 */
void bdev_unregister(struct bdev *bdev, void (*done)(void *ctx, int status), void *ctx);

/*
 * App thread. Unregisters all bdevs; done(ctx), perhaps at once, when they are gone, with those that were being removed
 * already. Until then no bdev can be registered, and a module that stands on another may unregister its own, done NULL, as
 * ever: that has been seen to.
 */
void bdev_shutdown(void (*done)(void *ctx), void *ctx);

/*
 * App thread. The module must be ready for the new size. Openers are told once every channel knows.
 * 0; -EINVAL (no blocks, or too many); -EBUSY (smaller, and open); -ENODEV (being removed).
 */
int bdev_resize(struct bdev *bdev, uint64_t num_blocks);

/* App thread. From now on nobody writes: what is submitted when done(ctx) has come ends with -EROFS. 0 or -ENOMEM. */
int bdev_set_readonly(struct bdev *bdev, void (*done)(void *ctx), void *ctx);

/* App thread. What bdev stands on, one after another, as ops->base; NULL: there are no more. */
struct bdev *bdev_base(const struct bdev *bdev, unsigned index);

/* App thread. Somebody has it open for writing, or has claimed it. */
bool bdev_needed(const struct bdev *bdev);

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

/*
 * The same for a module that stands on other bdevs: ends io from inside the done callback of a
 * request it gave to one of them, at once, without a turn of the deferred calls. Never from inside
 * submit. io is not touched afterwards, nor the channel: it may be gone.
 */
void bdev_io_complete_now(struct bdev_io *io, int status);

/*
 * App thread. Calls fn(ctx, ch) on the thread of each channel that bdev has now, one after another,
 * then done(ctx) on the app thread; bdev is not destructed before. 0 or -ENOMEM.
 */
int bdev_for_each_channel(struct bdev *bdev, void (*fn)(void *ctx, struct bdev_channel *ch),
			  void (*done)(void *ctx), void *ctx);

/* ---- Passing requests down (the channel's thread) ---- */

/*
 * The way of a bdev's requests to one base on one thread, part of the module's channel context: a plain read or write that
 * goes to one place of the base goes there itself, not a child of it. The base ends it, and the submitter gets it back as he
 * gave it; statistics, limits, resets and removal know of it on both levels.
 */
struct bdev_pass {
	struct bdev_channel *upper, *base;
	void (*ended)(struct bdev_pass *pass, const struct bdev_io *io);
	/* What ended() would do while *busy is false: --*all, --marked[1 if the mark is set]. */
	const bool *busy;
	uint64_t *all, *marked;
	uint64_t unused[2]; /* counters of those who want none */
	uint8_t shift;
	bool plain; /* what is plain above is plain below */
	struct bdev_op_stats op[BDEV_WRITE + 1]; /* the core's */
	struct list upper_link, base_link;       /* the core's */
};

/*
 * In channel_create, when the base's channel is there; one of the module's blocks is 2^shift of the base's. ended (may be
 * NULL) is told on the way back, before the submitter, with `mark` still in io->flags.
 */
void bdev_pass_open(struct bdev_pass *pass, struct bdev_channel *upper, struct bdev_channel *base, unsigned shift,
		    void (*ended)(struct bdev_pass *pass, const struct bdev_io *io));
/*
 * Behind it, for an ended() that nearly always only counts: as long as *busy is false the core does that by itself, --*all and
 * --marked[0], or --marked[1] of those with the mark.
 */
void bdev_pass_count(struct bdev_pass *pass, const bool *busy, uint64_t *all, uint64_t *marked);
/* In channel_destroy, before the base's channel is put. What is all zero was never opened. */
void bdev_pass_close(struct bdev_pass *pass);

/* The core's bits of io->flags while it is passed down. */
#define BDEV_IO_PASSED 0xa0

static inline bool
bdev_io_is_passed(const struct bdev_io *io)
{
	return (io->flags & BDEV_IO_PASSED) == BDEV_IO_PASSED;
}

/*
 * From inside submit: whether io, a read or write, may go to block lba of the base just as it is. Else a child must go (flags,
 * more than one entry in its list, time that it has waited above, a base that is busy or wants it otherwise). All of it lies
 * inside the base.
 */
static inline bool
bdev_may_pass(const struct bdev_pass *pass, const struct bdev_io *io, uint64_t lba)
{
	const struct bdev_channel *base = pass->base;

	CHECK_HOT(io->op <= BDEV_WRITE && lba < base->num_blocks);
	return io->flags == 0 && io->submit_ns == reactor_now_ns() && io->iovcnt == 1 &&
	       ((base->pass_ops >> (io->op & 31)) & 1) != 0 &&
	       (io->num_blocks << pass->shift) - 1 < base->simple_blocks - (lba & base->boundary_mask) &&
	       ((uintptr_t)io->iov->iov_base & base->buffer_mask) == 0;
}

/* The same for what submit_plain has been given, wherever it goes. */
static inline bool
bdev_may_pass_plain(const struct bdev_pass *pass, const struct bdev_io *io)
{
	return pass->plain && io->flags == 0 && ((pass->base->pass_ops >> (io->op & 31)) & 1) != 0;
}

/* From inside submit: io, which may pass, goes there; mark is 0 or BDEV_IO_SUBMITTER. */
static inline void
bdev_pass_down(struct bdev_pass *pass, struct bdev_io *io, uint64_t lba, uint8_t mark)
{
	struct bdev_channel *base = pass->base;

	io->pass = pass;
	io->upper_lba = io->lba;
	io->flags = BDEV_IO_PASSED | mark;
	io->lba = lba;
	io->num_blocks <<= pass->shift;
	io->ch = base;
	base->inflight++;
	base->outstanding++;
	base->submit(base, io);
}

/* ---- Keeping others out of a range (any thread of the bdev's channels, or the app thread) ---- */

/*
 * Holds back requests that modify blocks of the range, or with `reads` all that touch it, in every
 * channel of the bdev, until bdev_range_unlock(). done(lock) comes on the calling thread when those
 * that were on their way have completed. Locks that overlap are granted one after another, in the
 * order they were asked for. A module's own requests to bdevs below are not held back. Lives in the caller's memory; the
 * bdev must not be destructed before it is unlocked.
 */
struct bdev_range_lock {
	uint64_t lba;
	uint64_t num_blocks;
	bool reads;
	/* The core's. */
	struct bdev *bdev;
	struct thread *thread;
	void (*done)(struct bdev_range_lock *lock);
	struct msg msg;
	struct list link;
	unsigned state;
	unsigned pending;
};

void bdev_range_lock(struct bdev_range_lock *lock, struct bdev *bdev, uint64_t lba,
		     uint64_t num_blocks, bool reads,
		     void (*done)(struct bdev_range_lock *lock));
/* done(lock) when what was held back goes on everywhere. */
void bdev_range_unlock(struct bdev_range_lock *lock, void (*done)(struct bdev_range_lock *lock));

/* ---- Examiners ---- */

/*
 * App thread. The claim of desc was nobody's wish: what stands on the bdev was found by an examination. When somebody
 * else wants to write to the bdev, or to claim it, yield(ctx of bdev_open()) is asked first; true: nobody needs what
 * stands on it, which goes now, and the claim is given up.
 */
void bdev_claim_yields(struct bdev_desc *desc, bool (*yield)(void *ctx));

/*
 * A module that finds its own bdevs in what others hold (partitions, RAID superblocks, volume
 * stores). Each gets every bdev that is registered, unless auto_examine is off.
 */
#define BDEV_EXAMINE_ALIGN 4096u /* of their buffers: thousands of bdevs may be examined, and more alignment is dear */
struct bdev_examiner {
	const char *module_name;
	/* App thread. Opens bdev itself to look; answers with one bdev_examine_done(bdev's name is
	 * not needed any more by then), at once or later. */
	void (*examine)(struct bdev *bdev);
};

/* App thread, before the first bdev is registered. Borrows list, ended by NULL, for ever. */
void bdev_set_examiners(const struct bdev_examiner *const *list);
/* App thread. */
void bdev_examine_done(void);

/* The module's room in a request. */
static inline void *
bdev_io_ctx(struct bdev_io *io)
{
	return io->ctx;
}

#endif
