/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ranges of blocks that are kept for one user: compare-and-write, the copying of a rebuild, the
 * moment of a snapshot.
 *
 * The ranges in force are an immutable set that the app thread makes anew at each change; every
 * channel adopts it (a visit), then the set before is freed. Without ranges channels have none, and
 * requests go the direct way, untracked.
 *
 *   WAITING --overlaps none, none acquiring--> ACQUIRING --all drained--> HELD --unlock--> RELEASING
 *   RELEASING --a set without it is made--> LEAVING --adopted everywhere--> gone
 *
 * Invariants
 *  1. While a channel has a set, it keeps a list of the requests it has started (tracked); those it
 *     started before are the others that are in flight. It has drained for a lock when there are
 *     none of the others, and no tracked one in its way.
 *  2. A request in the way of a range in the channel's set is on `held_back` and counted as parked;
 *     it is looked at again, in order, at each change of the set. A reset cancels it.
 *  3. One lock at a time is acquired, in the order of asking among those that overlap none before
 *     them: one slow request delays locks, never requests outside of the ranges. Letting go never
 *     waits for a request.
 *  4. lock->pending counts the channels that have not drained, and the visit itself.
 * Contexts: the app thread leads; each channel's part runs on the channel's thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "bdev/internal.h"

enum { WAITING, ACQUIRING, HELD, RELEASING, LEAVING };

struct range {
	uint64_t lba;
	uint64_t num_blocks;
	bool reads;
};

struct range_set {
	struct bdev_range_lock *fresh; /* the lock that this set brought in, NULL: none */
	unsigned count;
	struct range ranges[];
};

/* ---- Overlaps ---- */

static bool
overlap(uint64_t a, uint64_t a_blocks, uint64_t b, uint64_t b_blocks)
{
	return a < b + b_blocks && b < a + a_blocks;
}

static bool
in_the_way(const struct core_channel *c, const struct bdev_io *io, uint64_t lba,
	   uint64_t num_blocks, bool reads)
{
	uint64_t blocks = io->num_blocks;

	switch (io->op) {
	case BDEV_READ:
	case BDEV_COMPARE:
		return reads && overlap(io->lba, blocks, lba, num_blocks);
	case BDEV_COPY:
		return overlap(io->lba, blocks, lba, num_blocks) ||
		       (reads && overlap(io->src_lba, blocks, lba, num_blocks));
	case BDEV_ZONE_MANAGE:
	case BDEV_ZONE_APPEND: /* somewhere in the zone */
		return overlap(io->lba, c->pub.bdev->zone_blocks, lba, num_blocks);
	case BDEV_WRITE:
	case BDEV_UNMAP:
	case BDEV_WRITE_ZEROES:
	case BDEV_COMPARE_AND_WRITE:
		return overlap(io->lba, blocks, lba, num_blocks);
	default:
		return false;
	}
}

/* ---- A channel ---- */

static bool
has_not_begun(const struct bdev_io *io)
{
	return io->op == BDEV_COMPARE_AND_WRITE && (io->flags & IO_SPLIT) != 0 &&
	       (io->core_word & WORD_SWAP_WAITS) != 0;
}

static bool
drained_for(const struct core_channel *c, const struct bdev_range_lock *lock)
{
	struct bdev_io *io;

	if (c->pub.inflight != c->tracked_count) {
		return false;
	}
	LIST_FOREACH (io, &c->tracked, core_link) {
		if (!has_not_begun(io) &&
		    in_the_way(c, io, lock->lba, lock->num_blocks, lock->reads)) {
			return false;
		}
	}
	return true;
}

static void acquired(struct msg *msg);

static void
one_less(struct bdev_range_lock *lock)
{
	if (__atomic_sub_fetch(&lock->pending, 1, __ATOMIC_ACQ_REL) == 0) {
		thread_send(app_thread(), &lock->msg, acquired);
	}
}

void
range_attend(struct core_channel *c)
{
	struct bdev_range_lock *lock = c->acquiring;

	if (lock != NULL && drained_for(c, lock)) {
		c->acquiring = NULL;
		channel_refresh(c);
		one_less(lock);
	}
}

void
range_cancel(struct core_channel *c, int status)
{
	while (!list_empty(&c->held_back)) {
		struct bdev_io *io = LIST_FIRST(&c->held_back, struct bdev_io, link);

		list_remove(&io->link);
		c->parked_count--;
		c->pub.inflight++;
		end_request(c, io, status);
	}
}

bool
range_holds_back(const struct core_channel *c, const struct bdev_io *io)
{
	for (unsigned i = 0; i < c->ranges->count; i++) {
		const struct range *r = &c->ranges->ranges[i];

		if (in_the_way(c, io, r->lba, r->num_blocks, r->reads)) {
			return true;
		}
	}
	return false;
}

void
range_track(struct core_channel *c, struct bdev_io *io)
{
	io->flags |= IO_TRACKED;
	list_append(&c->tracked, &io->core_link);
	if (c->tracked_count++ == 0) {
		channel_refresh(c);
	}
}

void
range_untrack(struct core_channel *c, struct bdev_io *io)
{
	io->flags &= (uint8_t)~IO_TRACKED;
	list_remove(&io->core_link);
	c->tracked_count--;
	if (c->tracked_count == 0) {
		channel_refresh(c);
	}
}

static void
look_again(struct core_channel *c)
{
	struct list again;

	list_init(&again);
	list_splice(&again, &c->held_back);
	while (!list_empty(&again)) {
		struct bdev_io *io = LIST_FIRST(&again, struct bdev_io, link);

		list_remove(&io->link);
		c->parked_count--;
		admit(c, io);
	}
}

void
range_adopt(struct core_channel *c, struct bdev_core *core)
{
	struct range_set *set = atomic_load(&core->ranges);

	if (c->ranges == set) {
		return;
	}
	c->ranges = set;
	if (set != NULL && set->fresh != NULL && !drained_for(c, set->fresh)) {
		c->acquiring = set->fresh;
		__atomic_add_fetch(&set->fresh->pending, 1, __ATOMIC_RELAXED);
	}
	channel_refresh(c);
	look_again(c);
}

static void
adopt(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	range_adopt(core_channel(ch), core);
}

/* ---- The app thread ---- */

static void change(struct bdev_core *core);

static void
answer(struct msg *msg)
{
	struct bdev_range_lock *lock = CONTAINER_OF(msg, struct bdev_range_lock, msg);

	lock->done(lock);
}

static void
acquired(struct msg *msg)
{
	struct bdev_range_lock *lock = CONTAINER_OF(msg, struct bdev_range_lock, msg);
	struct bdev_core *core = lock->bdev->core;

	lock->state = HELD;
	core->acquiring = false;
	thread_send(lock->thread, &lock->msg, answer);
	change(core);
}

/* The first that overlaps none before it; NULL: none. */
static struct bdev_range_lock *
next_to_acquire(struct bdev_core *core)
{
	struct bdev_range_lock *lock, *before;

	LIST_FOREACH (lock, &core->locks, link) {
		bool free_to_go = lock->state == WAITING;

		LIST_FOREACH (before, &core->locks, link) {
			if (before == lock || !free_to_go) {
				break;
			}
			free_to_go = before->state >= RELEASING ||
				     !overlap(lock->lba, lock->num_blocks, before->lba,
					      before->num_blocks);
		}
		if (free_to_go) {
			return lock;
		}
	}
	return NULL;
}

static void
adopted(struct bdev_core *core, void *ctx)
{
	struct bdev_range_lock *lock, *next;
	struct range_set *set = atomic_load(&core->ranges);

	free(core->old_ranges);
	core->old_ranges = NULL;
	core->changing = false;
	LIST_FOREACH_SAFE (lock, next, &core->locks, link) {
		if (lock->state == LEAVING) {
			list_remove(&lock->link);
			thread_send(lock->thread, &lock->msg, answer);
		}
	}
	if (set != NULL && set->fresh != NULL) {
		lock = set->fresh;
		set->fresh = NULL; /* all have looked; a channel made from now on is drained */
		one_less(lock);
	}
	change(core);
}

static struct range_set *
make_set(struct bdev_core *core, struct bdev_range_lock *fresh, bool *ret_failed)
{
	struct bdev_range_lock *lock;
	struct range_set *set;
	unsigned count = 0;

	LIST_FOREACH (lock, &core->locks, link) {
		count += lock->state == ACQUIRING || lock->state == HELD;
	}
	if (count == 0) {
		return NULL;
	}
	set = calloc(1, sizeof(*set) + count * sizeof(set->ranges[0]));
	if (set == NULL) {
		*ret_failed = true;
		return NULL;
	}
	set->fresh = fresh;
	LIST_FOREACH (lock, &core->locks, link) {
		if (lock->state == ACQUIRING || lock->state == HELD) {
			set->ranges[set->count++] = (struct range){
				.lba = lock->lba,
				.num_blocks = lock->num_blocks,
				.reads = lock->reads,
			};
		}
	}
	return set;
}

static void
change_later(struct timer *timer)
{
	change(CONTAINER_OF(timer, struct bdev_core, ranges_retry));
}

/* Makes the next set, when there is a reason to and no visit is on its way. */
static void
change(struct bdev_core *core)
{
	struct bdev_range_lock *lock, *fresh = core->acquiring ? NULL : next_to_acquire(core);
	bool released = false, failed = false;
	struct range_set *set;

	if (core->changing) {
		return;
	}
	LIST_FOREACH (lock, &core->locks, link) {
		released = released || lock->state == RELEASING;
	}
	if (fresh == NULL && !released) {
		return;
	}
	if (fresh != NULL) {
		fresh->state = ACQUIRING;
	}
	set = make_set(core, fresh, &failed);
	if (failed) {
		if (fresh != NULL) {
			fresh->state = WAITING;
		}
		CHECK(timer_start(&core->ranges_retry, 1000, change_later) == 0);
		return;
	}
	LIST_FOREACH (lock, &core->locks, link) {
		if (lock->state == RELEASING) {
			lock->state = LEAVING;
		}
	}
	if (fresh != NULL) {
		core->acquiring = true;
		__atomic_store_n(&fresh->pending, 1, __ATOMIC_RELAXED);
	}
	core->changing = true;
	core->old_ranges = atomic_exchange(&core->ranges, set);
	visit_start(&core->ranges_visit, core, adopt, adopted, NULL);
}

static void
asked(struct msg *msg)
{
	struct bdev_range_lock *lock = CONTAINER_OF(msg, struct bdev_range_lock, msg);
	struct bdev_core *core = lock->bdev->core;

	lock->state = WAITING;
	list_append(&core->locks, &lock->link);
	change(core);
}

static void
let_go(struct msg *msg)
{
	struct bdev_range_lock *lock = CONTAINER_OF(msg, struct bdev_range_lock, msg);

	lock->state = RELEASING;
	change(lock->bdev->core);
}

void
bdev_range_lock(struct bdev_range_lock *lock, struct bdev *bdev, uint64_t lba, uint64_t num_blocks,
		bool reads, void (*done)(struct bdev_range_lock *lock))
{
	CHECK(num_blocks > 0 && lba + num_blocks > lba);
	lock->bdev = bdev;
	lock->lba = lba;
	lock->num_blocks = num_blocks;
	lock->reads = reads;
	lock->thread = thread_self();
	lock->done = done;
	thread_send(app_thread(), &lock->msg, asked);
}

void
bdev_range_unlock(struct bdev_range_lock *lock, void (*done)(struct bdev_range_lock *lock))
{
	lock->thread = thread_self();
	lock->done = done;
	thread_send(app_thread(), &lock->msg, let_go);
}
