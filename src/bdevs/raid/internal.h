/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Shared by the files of src/bdevs/raid; never leaves it.
 *
 * Who owns what. The app thread leads: bases, states, superblocks, rebuilds. Each thread's channel
 * (struct raid_channel) has its own copy of what the data path needs to know of the bases: which
 * are there, and in what role. The app thread changes roles under raid->lock, raises
 * raid->generation, and visits the channels; one that finds another generation than its own copies
 * anew. Lock order: raid->lock, then what opening a base's channel takes.
 *
 * Procedures (struct raid, `busy`): changes of the superblock and of roles, one at a time, chosen by
 * raid_proceed(). None of them waits for a rebuild, a range lock or a guest's request; those wait
 * for procedures.
 */
#ifndef BDEVS_RAID_INTERNAL_H
#define BDEVS_RAID_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "bdev/module.h"
#include "bdevs/raid/raid.h"
#include "event/job.h"

/* Least room for a request to a base of a redundant array: another kind of bdev may come in. */
#define RAID_ROOM_MIN ((size_t)1024)
#define SLOT_WORDS ((RAID_SB_BASES_MAX + 64) / 64)

struct raid;
struct raid_base;
struct raid_channel;
struct raid_process;
struct raid_level_ops;
struct stripe_lock_table;

/* ---- Sets of slots ---- */

struct slot_set {
	uint64_t words[SLOT_WORDS];
};

static inline void
slot_set_add(struct slot_set *set, unsigned slot)
{
	set->words[slot / 64] |= UINT64_C(1) << (slot % 64);
}

static inline void
slot_set_remove(struct slot_set *set, unsigned slot)
{
	set->words[slot / 64] &= ~(UINT64_C(1) << (slot % 64));
}

static inline bool
slot_set_has(const struct slot_set *set, unsigned slot)
{
	return ((set->words[slot / 64] >> (slot % 64)) & 1) != 0;
}

static inline unsigned
slot_set_count(const struct slot_set *set)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SLOT_WORDS; i++) {
		n += (unsigned)__builtin_popcountll(set->words[i]);
	}
	return n;
}

/* ---- Bases (app thread, but where said) ---- */

enum raid_role {
	ROLE_NONE,
	ROLE_TARGET,  /* being rebuilt: is written, what fails there is nobody's loss */
	ROLE_JOINING, /* rebuilt; its superblock entry is on the way. Is written, not read */
	ROLE_MEMBER,
};

enum raid_out { OUT_NO, OUT_MISSING, OUT_FAILED, OUT_REMOVED };

struct raid_base {
	struct raid *raid;
	unsigned slot;
	char *name;  /* NULL: not known, or the slot is empty */
	uuid_t uuid; /* null: not known */
	uint64_t data_offset;
	uint64_t data_size; /* 0: not known yet */

	struct bdev_watch watch; /* for a base that is awaited by name */
	struct bdev_desc *desc;
	struct bdev *bdev;
	struct bdev_channel *ch; /* the app thread's */
	struct bdev_io *io;      /* for what meta.c asks of it; ends with a pointer to here */
	struct iovec look;
	bool looking;            /* its superblock is being read */
	bool closing;            /* as soon as its channels are idle */
	bool stays_away;         /* it failed here: not taken back before it comes anew */
	bool configured;         /* looked at, and found to be usable */
	bool target;             /* of a rebuild, the present one or the next */
	bool left_out;           /* its place was empty from the beginning: starts without it */
	enum raid_out out;       /* is to leave */
	void (*removed)(void *ctx, int status);
	void *removed_ctx;
	void (*added)(void *ctx, int status, const struct err *err);
	void *added_ctx;

	/* Under raid->lock. */
	enum raid_role role;
	bool open; /* channels may be opened */

	/* Any thread. */
	atomic_uint refs; /* channels that hold a channel on it, and the app thread */
	atomic_int failing; /* the first status that says so, 0: none */
	struct msg fail_msg;
	struct msg closed_msg;
};

/* ---- Arrays (app thread, but where said) ---- */

struct raid_meta {
	uint8_t *buf;
	struct iovec iov;
	unsigned slot;
	enum bdev_op op;
	bool copied; /* the copy of this slot is written */
	bool failed; /* some base could not be written: it leaves */
	unsigned tries;
	struct timer timer;
	unsigned written;
	void (*done)(struct raid *raid, bool complete);
};

struct raid_visit {
	struct raid *raid;
	void (*fn)(struct raid_channel *rc);
	void (*done)(struct raid *raid);
	struct timer retry;
};

struct raid {
	struct bdev bdev;
	struct list link;
	const struct raid_level_ops *level;
	char *name;
	uuid_t uuid;
	uint32_t strip_kb;
	uint32_t strip_blocks; /* 0: raid1 */
	unsigned num_bases;
	unsigned min_working;
	struct raid_base *bases;
	bool superblock;
	bool from_disk; /* sb is what the bases say */
	struct raid_sb *sb; /* with a superblock, as it was last written, or is being written */
	enum raid_state state;
	bool registered;   /* the bdev is; until its removal is asked for */
	bool lives;        /* until destruct */
	bool deleting;
	bool clear_sb;
	bool starting;
	unsigned examinations; /* that are answered when it has started, or failed to */
	bool stuck; /* it could not start with what is there: not again before that changes */
	struct timer patience;
	size_t child_bytes; /* room of a request to a base */
	struct bdev_desc *self; /* keeps the bdev while ranges of it are locked */
	unsigned self_users;
	bool self_removed;

	void (*created)(void *ctx, int status, const struct err *err);
	void *created_ctx;
	int create_status;
	struct err err; /* why it could not start */
	void (*deleted)(void *ctx, int status);
	void *deleted_ctx;

	bool busy;
	struct raid_meta meta;
	struct raid_visit visit;

	struct raid_process *process; /* rebuild, or resynchronisation */
	struct raid_base *joining;
	struct job *join_job;
	bool resync_wanted;
	bool resync_failed; /* not again before the next start */
	bool resync_done;   /* all channels may know */
	atomic_bool doubtful; /* any thread: a write failed everywhere, copies may differ */

	/* intent.c */
	bool keeps_intent;
	bool clean_wanted;
	struct timer clean_timer;
	atomic_bool dirty_wanted; /* any thread */
	struct msg dirty_msg;
	struct msg doubt_msg;
	atomic_bool doubt_sent;
	atomic_uint wrote; /* channels that wrote since the last look, or have writes under way */

	struct raid_repair *repair;

	/* Level's own. */
	uint64_t *starts; /* concat: first block of each base, and the end */
	uint64_t stripe_blocks; /* raid5f */
	struct stripe_lock_table *stripe_locks;

	struct device device; /* channels */
	pthread_mutex_t lock;
	/* Any thread; changed by the app thread under the lock. */
	atomic_uint generation;
	bool writable; /* the superblock says that writes are under way */
	bool primary_only; /* reads of raid1 come from the first member: the others may differ */
	atomic_bool broken; /* went offline: what waits ends with an error */
	struct thread *app;
};

/* ---- Channels (their own thread) ---- */

struct raid_slot {
	struct bdev_channel *ch; /* NULL: none, or it could not be had */
	uint64_t offset;
	enum raid_role role;
	bool leaving;
	/* raid1 */
	uint32_t reads;
	uint64_t next_lba;
};

struct raid_channel {
	struct channel channel;
	struct raid *raid;
	unsigned generation;
	unsigned leaving; /* slots whose channel is to be put when it is idle */
	bool writable;
	bool primary_only;
	bool wrote;
	unsigned writes; /* under way */
	unsigned next_reader;
	unsigned epoch; /* raised by each cancel */
	int cancel_status; /* the last one's, -ECANCELED at first */
	struct list parked; /* writes that wait until the superblock says that there are some */
	struct list held;   /* writes that a base missed, until it is marked */
	void *level_ctx;
	struct raid_slot slots[];
};

/* One descriptor's way to its thread's channel, and to the bases where the level passes requests down: all that such a request
 * needs, so that it looks no further. */
struct raid_way {
	uint64_t offset;
	struct bdev_pass pass;
};

struct raid_entrance {
	struct raid_channel *rc;
	/* raid0: logarithms and masks of the strip's blocks and of the number of bases. */
	uint8_t strip_shift;
	uint8_t base_shift; /* ODD_BASES: no power of two */
	uint32_t strip_mask;
	uint32_t base_mask;
	struct raid_way ways[];
};
#define ODD_BASES 64

static inline struct raid_channel *
raid_channel_of(struct bdev_channel *ch)
{
	return ((struct raid_entrance *)ch->module_ctx)->rc;
}

/* A request to a base, in the room of the array's. */
struct raid_child {
	union {
		struct bdev_io *parent;
		void *owner; /* of those that are in no request's room */
	};
	unsigned slot;
	unsigned index; /* of the request's children */
	enum raid_role role; /* when it was submitted */
	struct iovec iov;    /* raid5f: a part of an entry of the request's */
	_Alignas(CACHE_LINE_BYTES) struct bdev_io io;
};

static inline struct raid_child *
raid_child_at(const struct raid *raid, void *first, unsigned i)
{
	return (struct raid_child *)(void *)((uint8_t *)first + i * raid->child_bytes);
}

static inline struct raid_child *
raid_child_of(struct bdev_io *io)
{
	return (struct raid_child *)(void *)((uint8_t *)io - offsetof(struct raid_child, io));
}

/* What the array has of its own in a request, before the children. */
struct raid_io {
	struct list link; /* parked, held, waiting */
	struct slot_set failed;
	struct slot_set at; /* children that are at their bases */
	unsigned epoch;     /* the channel's, when it came */
	unsigned pending;
	unsigned good;
	int status;
};

#define RAID_IO_BYTES \
	((sizeof(struct raid_io) + CACHE_LINE_BYTES - 1) & ~(size_t)(CACHE_LINE_BYTES - 1))

/* Redundant levels: when it comes. */
static inline void
raid_io_init(struct raid_channel *rc, struct raid_io *x)
{
	list_init(&x->link);
	x->failed = (struct slot_set){0};
	x->at = (struct slot_set){0};
	x->epoch = rc->epoch;
	x->status = 0;
}

static inline bool
raid_given_up(const struct raid_channel *rc, const struct raid_io *x)
{
	return x->epoch != rc->epoch;
}

/* Before the child is submitted, and first in its done. */
static inline void
raid_child_goes(struct raid_io *x, struct raid_child *c, unsigned index)
{
	c->index = index;
	slot_set_add(&x->at, index);
}

static inline void
raid_child_came(struct raid_io *x, const struct raid_child *c)
{
	slot_set_remove(&x->at, c->index);
}

static inline struct bdev_io *
raid_io_parent(struct raid_io *x)
{
	return (struct bdev_io *)(void *)((uint8_t *)x - offsetof(struct bdev_io, ctx));
}

struct raid_level_ops {
	enum raid_level level;
	const char *name;
	unsigned least_bases;
	bool redundant;
	bool passes; /* requests down, as they are: the channels of its bases stay as long as its own */
	unsigned (*min_working)(unsigned num_bases);
	const struct bdev_ops *bdev_ops;
	/* All bases that are expected are configured: sets data_size of all, and the bdev's
	 * geometry. 0 or -EINVAL. */
	int (*start)(struct raid *raid, struct err *err);
	void (*stop)(struct raid *raid); /* may be NULL */
	/* Bases have grown: does so too, true when it has. May be NULL. */
	bool (*resize)(struct raid *raid);
	/* Channels; may be NULL. */
	int (*channel_init)(struct raid_channel *rc);
	void (*channel_release)(struct raid_channel *rc);
	/* Ends what waited for a change of roles. Redundant levels. */
	void (*release_held)(struct raid_channel *rc);
	/* Submits a parked write again. */
	void (*resubmit)(struct raid_channel *rc, struct bdev_io *io);
	/* Ends with status what waits on this channel and has nothing at a base: all of it, or `only`. True: there was some. */
	bool (*end_waiting)(struct raid_channel *rc, const struct raid_io *only, int status);
	/* In place of what cancel.c does with io->target. */
	void (*abort)(struct raid_channel *rc, struct bdev_io *io);
};

extern const struct raid_level_ops raid0_level, raid1_level, concat_level, raid5f_level;

/* ---- core.c ---- */

extern struct list raid_all;
extern struct raid_settings raid_settings;
extern bool raid_ending; /* no new arrays, no news of bases */
const struct raid_level_ops *raid_level_find(enum raid_level level);
struct raid *raid_find(const char *name);
struct raid *raid_find_uuid(const uuid_t uuid);
/* A new one, configuring, with empty slots. */
int raid_new(const char *name, const uuid_t uuid, enum raid_level level, uint32_t strip_kb,
	     unsigned num_bases, bool superblock, struct raid **ret_raid, struct err *err);
/* Frees an array that is over, and tells who waits for that. */
void raid_finish(struct raid *raid);
/* Everything that may go on, goes on. */
void raid_proceed(struct raid *raid);
/* The end of a procedure. */
void raid_free_to_go(struct raid *raid);
/* Not up, and some base of it is being looked at, or on its way out. */
bool raid_unsettled(const struct raid *raid);
unsigned raid_count_configured(const struct raid *raid);
unsigned raid_count_expected(const struct raid *raid);
unsigned raid_count_members(const struct raid *raid);

/* ---- life.c ---- */

/* A procedure: all that is expected is there. */
void raid_start(struct raid *raid);
void raid_answer_create(struct raid *raid, int status);
void raid_go_offline(struct raid *raid);
void raid_delete_it(struct raid *raid);
void raid_end(struct raid *raid);
/* Uses of raid->self: false when the bdev is being removed. */
bool raid_self_get(struct raid *raid);
void raid_self_put(struct raid *raid);

/* ---- base.c ---- */

/* Opens, claims and measures. existing: its superblock was read already. */
int raid_base_open(struct raid_base *b, struct bdev *bdev, bool existing, struct err *err);
void raid_base_await(struct raid_base *b);
/* The app thread's hold goes; closes when all channels are put. */
void raid_base_close(struct raid_base *b);
void raid_base_unref(struct raid_base *b); /* any thread */
/* After a request on b->ch has come back: goes on with closing. */
void raid_base_settle(struct raid_base *b);
/* The slot is empty from now on. */
void raid_base_forget(struct raid_base *b);
/* Any thread: a request to it failed as only a bad base does. */
void raid_base_report(struct raid *raid, unsigned slot, int status);
void raid_base_leave(struct raid_base *b, enum raid_out why);
/* It has a new size. */
void raid_base_resized(struct raid_base *b);
struct raid_sb_base *raid_sb_entry(struct raid *raid, unsigned slot);

/* ---- meta.c ---- */

/* Writes raid->sb, with a new sequence number, to all bases in use, one after another; done later,
 * or at once without a superblock. complete: false when some base failed in this (it is to leave
 * now), or none is left. */
void raid_meta_write(struct raid *raid, void (*done)(struct raid *raid, bool complete));
/* Flushes all bases in use. */
void raid_meta_flush(struct raid *raid, void (*done)(struct raid *raid, bool complete));
/* Zeroes in their places. */
void raid_meta_clear(struct raid *raid, void (*done)(struct raid *raid, bool complete));

/* ---- member.c ---- */

/* Procedures: each begins with busy set and ends with raid_free_to_go(). */
void raid_out_start(struct raid *raid);
void raid_join_start(struct raid *raid);
/* All channels learn whether all mirrors are good to read from. */
void raid_trust_start(struct raid *raid, bool trust);
void raid_target_start(struct raid *raid, struct raid_base *b);
void raid_set_role(struct raid_base *b, enum raid_role role);

/* ---- intent.c ---- */

void raid_intent_start(struct raid *raid);
void raid_intent_stop(struct raid *raid);
void raid_dirty_start(struct raid *raid);
void raid_clean_start(struct raid *raid);
/* Any thread: a write failed on all that should have it; they may differ now. */
void raid_doubt(struct raid *raid);
/* Channel: io, a write, waits. */
void raid_intent_park(struct raid_channel *rc, struct raid_io *x);

/* ---- channel.c ---- */

extern const struct device_ops raid_device_ops;
/* channel_ctx_bytes */
size_t raid_entrance_bytes(const struct raid *raid);
int raid_channel_create(struct bdev *bdev, struct bdev_channel *ch);
void raid_channel_destroy(struct bdev *bdev, struct bdev_channel *ch);
void raid_channel_load(struct raid_channel *rc);
void raid_channel_put_left(struct raid_channel *rc);
/* fn on each channel's thread, then done on the app thread. */
void raid_visit_all(struct raid *raid, void (*fn)(struct raid_channel *rc),
		    void (*done)(struct raid *raid));
void raid_bdev_destruct(struct bdev *bdev);
struct bdev *raid_bdev_base(const struct bdev *bdev, unsigned index);

static inline void
raid_channel_look(struct raid_channel *rc)
{
	if (UNLIKELY(rc->generation !=
		     atomic_load_explicit(&rc->raid->generation, memory_order_acquire))) {
		raid_channel_load(rc);
	}
}

/* In each child's done, first. */
static inline void
raid_channel_came_back(struct raid_channel *rc)
{
	if (UNLIKELY(rc->leaving > 0)) {
		raid_channel_put_left(rc);
	}
}

/* ---- io.c: what levels share ---- */

/* io, a read or write that lies on one base from lba on, goes down as it is: true, or needs a child. plain: it was given to
 * submit_plain. */
static inline bool
raid_pass(struct bdev_pass *pass, struct bdev_io *io, uint64_t lba, bool plain)
{
	if (plain ? LIKELY(bdev_may_pass_plain(pass, io)) : bdev_may_pass(pass, io, lba)) {
		bdev_pass_down(pass, io, lba, 0);
		return true;
	}
	return false;
}

static inline void *
raid_children(struct bdev_io *io)
{
	return io->ctx + RAID_IO_BYTES;
}

/* A request for part of what io asks for: everything but iov, lba and num_blocks. */
static inline void
raid_child_init(struct raid_child *c, struct bdev_io *io, uint64_t lba, uint64_t num_blocks,
		void (*done)(struct bdev_io *child, int status))
{
	c->parent = io;
	c->io.done = done;
	c->io.iov = io->iov;
	c->io.iovcnt = io->iovcnt;
	c->io.lba = lba;
	c->io.num_blocks = num_blocks;
	c->io.op = io->op;
	c->io.flags = io->flags & (BDEV_IO_FUA | BDEV_IO_MAY_UNMAP);
}

/* Sets what the bdev can do by what all bases can. */
void raid_inherit(struct raid *raid, uint32_t ops, unsigned children);
/* Blocks that each base has for data, as it is known or, with `grow`, as large as the bases have become. */
uint64_t raid_room(const struct raid *raid, bool grow);
void raid_set_sizes(struct raid *raid, uint64_t blocks);
/* raid_level_ops.min_working without redundancy. */
unsigned raid_all_bases(unsigned num_bases);
/* Waits for all parts, ends io with the first error: children of raid0 and concat. */
void raid_part_done(struct bdev_io *child, int status);

/* ---- all.c ---- */

/* io goes to all bases in use. */
void raid_all_submit(struct raid_channel *rc, struct bdev_io *io);
/* Ends what waited for members to be out; with the array broken, everything that waits. */
void raid_all_release(struct raid_channel *rc);
/* Whether one of set is a member still. */
bool raid_still_members(const struct raid_channel *rc, const struct slot_set *set);

/* raid_level_ops.end_waiting of mirrors. */
bool raid_all_end_waiting(struct raid_channel *rc, const struct raid_io *only, int status);

/* ---- cancel.c ---- */

#define RAID_TRIES 3 /* of what ended with -ECANCELED */

/* bdev_ops.cancel */
void raid_cancel(struct bdev_channel *ch, int status);
/* App thread. The array is to go: what it asked the bases for itself ends. */
void raid_give_up_bases(struct raid *raid);
/* True when io is a reset or an abort, and has been dealt with. */
bool raid_control(struct raid_channel *rc, struct bdev_io *io);
/* Aborts these children of io->target, and ends io. */
void raid_abort_parts(struct raid_channel *rc, struct bdev_io *io, const struct slot_set *at);

/* ---- process.c: rebuild and resynchronisation ---- */

/* Starts one if there is reason to; a procedure is not needed. */
void raid_process_start(struct raid *raid, struct raid_base *target);
/* Asks it to end; it ends in its own time, then raid->process is NULL and raid_proceed() called. */
void raid_process_stop(struct raid *raid, int status, const char *why);
const struct raid_base *raid_process_target(const struct raid *raid);
uint64_t raid_process_done_blocks(const struct raid *raid);
bool raid_process_is_resync(const struct raid *raid);

/* ---- repair.c ---- */

/* Any thread: blocks that a member could not read are written again from another. Forgotten when
 * one is under way. */
void raid_repair_ask(struct raid *raid, unsigned slot, uint64_t lba, uint64_t num_blocks);
int raid_repair_init(struct raid *raid);
void raid_repair_release(struct raid *raid);
bool raid_repair_busy(const struct raid *raid);

/* ---- examine.c ---- */

/* Its start has come to an end. */
void raid_examinations_over(struct raid *raid);
/* Takes back a base that was missing; true when it has begun to. */
bool raid_readd(struct raid *raid);
/* An array that was to be made is there already: it becomes what sb says, and its bases are examined.
 * False: it cannot be the same. */
bool raid_become(struct raid *raid, const struct raid_sb *sb);
/* Examines the bdevs that the array's members should be. */
void raid_look_at_others(struct raid *raid);

/* ---- stripe.c ---- */

/* One stripe of a rebuild or a resynchronisation, on a channel of its thread. */
struct stripe_task {
	struct list link;
	uint64_t stripe;
	unsigned target; /* slot; NO_TARGET: parity is made to fit */
	bool wrote;
	const bool *stopping; /* nothing more is asked of the bases */
	void (*done)(struct stripe_task *task, int status);
};
#define NO_TARGET UINT32_MAX

void raid5f_task_submit(struct raid_channel *rc, struct stripe_task *task);

/* ---- parity.c ---- */

/* dst = the sum of the sources, bytes a multiple of 64; count >= 1. dst may be one of them. */
void raid_xor(void *dst, void *const *sources, unsigned count, size_t bytes);
bool raid_is_zero(const void *p, size_t bytes);

#endif
