/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bases that come into an array that is online, and leave it. Procedures of the app thread:
 *
 *  out     the superblocks of those that stay say that it is gone; all channels stop using it; then,
 *          when no channel reads from it any more, what waited for that is answered; it is closed.
 *          With too few left, superblocks stay as they are and the array goes offline: the bases may
 *          come back and are as good as they were.
 *  target  the superblocks know the newcomer, as missing; all channels write to it; the rebuild starts.
 *  join    it is rebuilt, and flushed: all channels take a write that it misses for a failure from
 *          now on; the superblocks say that it is a member; all channels read from it.
 *
 * Invariants
 *  1. A channel that treats a base as a member (JOINING or more) acknowledges no write that it
 *     missed before its `out` has been through all channels.
 *  2. The superblocks say CONFIGURED of a base only while all channels treat it as a member.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "bdevs/raid/internal.h"
#include "event/notice.h"

void
raid_set_role(struct raid_base *b, enum raid_role role)
{
	struct raid *raid = b->raid;

	pthread_mutex_lock(&raid->lock);
	b->role = role;
	if (role == ROLE_NONE) {
		b->open = false;
	} else {
		b->open = true;
	}
	atomic_fetch_add(&raid->generation, 1);
	pthread_mutex_unlock(&raid->lock);
}

static void
load(struct raid_channel *rc)
{
	raid_channel_load(rc);
}

/* ---- Out ---- */

static void
released(struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		if (b->out != OUT_NO && b->role == ROLE_NONE) {
			raid_base_close(b);
		}
	}
	raid_free_to_go(raid);
}

static void
release(struct raid_channel *rc)
{
	raid_channel_load(rc);
	if (rc->raid->level->release_held != NULL) {
		rc->raid->level->release_held(rc);
	}
}

static void
excluded(struct raid *raid)
{
	raid_visit_all(raid, release, released);
}

static void
exclude(struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		if (b->out != OUT_NO && b->role != ROLE_NONE) {
			if (b->role >= ROLE_JOINING) {
				notice_send("raid_degraded", NOTICE_TEXT("name", raid->name),
					    NOTICE_TEXT("base", b->name));
			}
			if (raid->joining == b) {
				job_end(raid->join_job, -ENODEV, "the target is gone");
				raid->join_job = NULL;
				raid->joining = NULL;
			}
			raid_set_role(b, ROLE_NONE);
			b->stays_away = true;
		}
	}
	raid_visit_all(raid, load, excluded);
}

static void out_written(struct raid *raid, bool complete);

static void
go_on_out(struct raid *raid)
{
	if (raid_count_members(raid) < raid->min_working) {
		raid_go_offline(raid);
		raid_visit_all(raid, release, raid_free_to_go);
		return;
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		const struct raid_base *b = &raid->bases[i];
		struct raid_sb_base *e = raid_sb_entry(raid, i);

		if (b->out == OUT_NO || b->role == ROLE_NONE || e == NULL) {
			continue;
		}
		if (e->state == RAID_SB_CONFIGURED) {
			e->state = b->out == OUT_FAILED ? RAID_SB_FAILED : RAID_SB_MISSING;
		}
		e->stays_out = b->out == OUT_REMOVED;
	}
	raid_meta_write(raid, out_written);
}

static void
out_written(struct raid *raid, bool complete)
{
	/* Another one failed in this: once more, for both. */
	if (complete) {
		exclude(raid);
	} else {
		go_on_out(raid);
	}
}

void
raid_out_start(struct raid *raid)
{
	raid->busy = true;
	go_on_out(raid);
}

/* ---- Target ---- */

static void
target_written_to(struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		if (b->role == ROLE_TARGET && b->out == OUT_NO) {
			raid_process_start(raid, b);
		}
	}
	raid_free_to_go(raid);
}

static void
target_known(struct raid *raid, bool complete)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		if (b->target && b->configured && b->role == ROLE_NONE) {
			if (b->out != OUT_NO) {
				raid_base_close(b);
			} else {
				raid_set_role(b, ROLE_TARGET);
			}
		}
	}
	raid_visit_all(raid, load, target_written_to);
}

void
raid_target_start(struct raid *raid, struct raid_base *b)
{
	struct raid_sb_base *e = raid_sb_entry(raid, b->slot);

	raid->busy = true;
	if (e != NULL) {
		uuid_copy(e->uuid, b->uuid);
		e->state = RAID_SB_MISSING;
		e->stays_out = false;
	}
	raid_meta_write(raid, target_known);
}

/* ---- Join ---- */

static void
joined(struct raid *raid)
{
	job_end(raid->join_job, 0, NULL);
	raid->join_job = NULL;
	raid_free_to_go(raid);
}

static void
join_failed(struct raid *raid)
{
	job_end(raid->join_job, -EIO, "the target fails");
	raid->join_job = NULL;
	raid->joining = NULL;
	raid_free_to_go(raid);
}

static void
joining_written(struct raid *raid, bool complete)
{
	struct raid_base *b = raid->joining;

	if (b->out != OUT_NO) {
		join_failed(raid);
		return;
	}
	raid->joining = NULL;
	raid_set_role(b, ROLE_MEMBER);
	b->target = false;
	if (raid->level->level == RAID_LEVEL_5F) {
		raid->resync_wanted = false; /* parity has been made to fit */
	}
	LOG_NOTICE(BDEV, raid->name, "base %u, '%s', is rebuilt", b->slot, b->name);
	notice_send("raid_rebuilt", NOTICE_TEXT("name", raid->name), NOTICE_TEXT("base", b->name));
	raid_visit_all(raid, load, joined);
}

static void
joining_everywhere(struct raid *raid)
{
	struct raid_base *b = raid->joining;
	struct raid_sb_base *e = raid_sb_entry(raid, b->slot);

	/* A failure that was reported while channels still took it for a target's. */
	if (b->out != OUT_NO || atomic_load(&b->failing) != 0) {
		b->out = b->out != OUT_NO ? b->out : OUT_FAILED;
		join_failed(raid);
		return;
	}
	if (e != NULL) {
		e->state = RAID_SB_CONFIGURED;
	}
	raid_meta_write(raid, joining_written);
}

void
raid_join_start(struct raid *raid)
{
	raid->busy = true;
	raid_set_role(raid->joining, ROLE_JOINING);
	raid_visit_all(raid, load, joining_everywhere);
}

/* ---- Trust ---- */

void
raid_trust_start(struct raid *raid, bool trust)
{
	raid->busy = true;
	raid->resync_done = false;
	raid->resync_wanted = !trust;
	pthread_mutex_lock(&raid->lock);
	raid->primary_only = !trust;
	atomic_fetch_add(&raid->generation, 1);
	pthread_mutex_unlock(&raid->lock);
	raid_visit_all(raid, load, raid_free_to_go);
}

/* ---- New sizes ---- */

static void
size_written(struct raid *raid, bool complete)
{
	raid_free_to_go(raid);
}

void
raid_base_resized(struct raid_base *b)
{
	struct raid *raid = b->raid;

	if (!raid->registered || raid->level->resize == NULL || raid->process != NULL || raid->busy ||
	    !raid->level->resize(raid)) {
		return;
	}
	LOG_NOTICE(BDEV, raid->name, "has %llu blocks now",
		   (unsigned long long)bdev_num_blocks(&raid->bdev));
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_sb_base *e = raid_sb_entry(raid, i);

		if (e != NULL) {
			e->data_size = raid->bases[i].data_size;
		}
	}
	if (raid->sb != NULL) {
		raid->sb->raid_size = bdev_num_blocks(&raid->bdev);
	}
	raid->busy = true;
	raid_meta_write(raid, size_written);
}
