/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Whether copies and parity agree, kept in the superblock.
 *
 * After a power cut or the death of the process, mirrors may differ in blocks that were being written,
 * and parity may not fit them. So the superblock of a redundant array says "synced" only while
 * nothing is being written: the first write after a pause waits until it does not say so any more,
 * and some seconds without a write later it says so again. An array that is found without it is
 * resynchronised in the background (process.c); until then reads of a raid1 come from one mirror.
 * SPDK's arrays do not say it and are taken for unsynced, once.
 *
 * Invariants
 *  1. A channel starts a write only when `writable`, and `writable` is set on a channel only while
 *     the superblocks of all members do not say "synced".
 *  2. They say it again only after all channels have been told not to write, none had a write under
 *     way, and all members have been flushed.
 *  3. The timer runs only while they do not say it.
 * Arrays without a superblock know nothing of this.
 * Context: the app thread, but for raid_intent_park(), park and look_if_idle: channels' threads.
 */
#include <errno.h>

#include "bdevs/raid/internal.h"

#define PAUSE_US UINT64_C(3000000)

static void
dirty_asked(struct msg *msg)
{
	struct raid *raid = CONTAINER_OF(msg, struct raid, dirty_msg);

	raid_proceed(raid);
}

void
raid_intent_park(struct raid_channel *rc, struct raid_io *x)
{
	struct raid *raid = rc->raid;

	if (atomic_load(&raid->broken)) {
		bdev_io_complete(raid_io_parent(x), -EIO);
		return;
	}
	list_append(&rc->parked, &x->link);
	if (!atomic_exchange(&raid->dirty_wanted, true)) {
		thread_send(raid->app, &raid->dirty_msg, dirty_asked);
	}
}

static void
doubted(struct msg *msg)
{
	struct raid *raid = CONTAINER_OF(msg, struct raid, doubt_msg);

	atomic_store(&raid->doubt_sent, false);
	raid_proceed(raid);
}

void
raid_doubt(struct raid *raid)
{
	if (atomic_load(&raid->broken)) {
		return;
	}
	atomic_store(&raid->doubtful, true);
	if (!atomic_exchange(&raid->doubt_sent, true)) {
		thread_send(raid->app, &raid->doubt_msg, doubted);
	}
}

/* ---- Writes begin ---- */

static void
let_go(struct raid_channel *rc)
{
	struct list parked;

	raid_channel_load(rc);
	list_init(&parked);
	list_splice(&parked, &rc->parked);
	while (!list_empty(&parked)) {
		struct raid_io *x = LIST_FIRST(&parked, struct raid_io, link);

		list_remove(&x->link);
		rc->raid->level->resubmit(rc, raid_io_parent(x));
	}
}

static void
set_writable(struct raid *raid, bool writable)
{
	pthread_mutex_lock(&raid->lock);
	raid->writable = writable;
	atomic_fetch_add(&raid->generation, 1);
	pthread_mutex_unlock(&raid->lock);
}

static void
look(struct timer *timer)
{
	struct raid *raid = CONTAINER_OF(timer, struct raid, clean_timer);

	raid->clean_wanted = true;
	raid_proceed(raid);
}

static void
dirty_everywhere(struct raid *raid)
{
	CHECK(timer_start(&raid->clean_timer, PAUSE_US, look) == 0);
	raid_free_to_go(raid);
}

static void
dirty_written(struct raid *raid, bool complete)
{
	if (!complete) {
		raid_free_to_go(raid); /* a base failed: out with it, then once more */
		return;
	}
	atomic_store(&raid->dirty_wanted, false);
	set_writable(raid, true);
	raid_visit_all(raid, let_go, dirty_everywhere);
}

void
raid_dirty_start(struct raid *raid)
{
	raid->busy = true;
	raid->sb->synced = false;
	raid_meta_write(raid, dirty_written);
}

/* ---- Writes have ended ---- */

static void
clean_written(struct raid *raid, bool complete)
{
	raid->clean_wanted = false;
	raid_free_to_go(raid);
}

/* Not now: writes go on, and a pause is waited for anew. */
static void
stay_dirty(struct raid *raid)
{
	raid->clean_wanted = false;
	atomic_store(&raid->dirty_wanted, false);
	set_writable(raid, true);
	raid_visit_all(raid, let_go, dirty_everywhere);
}

static void
flushed(struct raid *raid, bool complete)
{
	if (!complete) {
		stay_dirty(raid);
		return;
	}
	raid->sb->synced = true;
	raid_meta_write(raid, clean_written);
}

static void
count_writes(struct raid_channel *rc)
{
	raid_channel_load(rc);
	if (rc->wrote || rc->writes > 0) {
		atomic_fetch_add(&rc->raid->wrote, 1);
	}
	rc->wrote = false;
}

static void
stopped_everywhere(struct raid *raid)
{
	if (atomic_load(&raid->wrote) > 0 || !raid->registered) {
		stay_dirty(raid); /* one came in between */
		return;
	}
	raid_meta_flush(raid, flushed);
}

static void
counted(struct raid *raid)
{
	if (atomic_load(&raid->wrote) > 0 || raid->resync_wanted ||
	    atomic_load(&raid->doubtful)) {
		raid->clean_wanted = false;
		dirty_everywhere(raid);
		return;
	}
	set_writable(raid, false);
	raid_visit_all(raid, count_writes, stopped_everywhere);
}

void
raid_clean_start(struct raid *raid)
{
	raid->busy = true;
	atomic_store(&raid->wrote, 0);
	raid_visit_all(raid, count_writes, counted);
}

/* ---- Life ---- */

/* Before the bdev is there; the superblocks have just been written. */
void
raid_intent_start(struct raid *raid)
{
	raid->keeps_intent = raid->superblock && raid->level->redundant;
	raid->resync_wanted = raid->keeps_intent && !raid->sb->synced;
	raid->primary_only = raid->resync_wanted;
	raid->writable = !raid->keeps_intent || !raid->sb->synced;
	raid->clean_wanted = false;
	raid->resync_failed = false;
	raid->resync_done = false;
	atomic_store(&raid->doubtful, false);
	atomic_store(&raid->dirty_wanted, false);
	if (raid->resync_wanted) {
		CHECK(timer_start(&raid->clean_timer, PAUSE_US, look) == 0);
	}
}

void
raid_intent_stop(struct raid *raid)
{
	timer_stop(&raid->clean_timer);
}
