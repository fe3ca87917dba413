/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rebuilds and resynchronisations: the whole array is gone through, some windows at a time, while it
 * is in use.
 *
 *  raid1   a window is locked against writes; read from a member; a rebuild writes it to the target,
 *          a resynchronisation reads it from the other members and writes it where it differs.
 *  raid5f  a stripe is locked (raid5f.c), the missing strip computed and written; or parity made to
 *          fit where it does not.
 *
 * A rebuild's target gets all writes from its beginning on (ROLE_TARGET), so what is behind the
 * windows stays right.
 *
 * Invariants
 *  1. Lanes are idle, or wait for exactly one thing; the process ends when all are idle and there is
 *     nothing left to do or it is to stop.
 *  2. What ends with -ECANCELED is tried again, see cancel.c; a process that is to stop asks the bases for nothing more.
 *  3. Procedures (member.c) never wait for a lane, as lanes wait for range locks, which wait for
 *     requests, which may wait for a procedure.
 * Context: the app thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bdevs/raid/internal.h"

#define LANES 8
#define WINDOW_MAX_KB (64u * 1024)

struct lane {
	struct raid_process *process;
	bool active;
	uint64_t lba;
	uint64_t num_blocks;
	struct bdev_range_lock lock;
	struct raid_child *child;
	struct iovec iov;
	struct iovec other; /* a resynchronisation's second copy */
	unsigned source;
	unsigned at; /* slot being compared */
	struct slot_set tried;
	unsigned tries; /* of what ended with -ECANCELED */
	struct stripe_task task;
};

struct raid_process {
	struct raid *raid;
	struct raid_base *target; /* NULL: resynchronisation */
	struct raid_channel *rc;  /* raid5f */
	struct job *job;
	struct lane lanes[LANES];
	unsigned lane_count;
	unsigned active;
	uint64_t window_blocks;
	uint64_t next; /* blocks of the array given to lanes */
	uint64_t total;
	uint64_t done;
	uint64_t fixed; /* windows that differed */
	bool stopping;
	bool ending;
	int status;
	const char *why;
	uint64_t bytes_per_second; /* 0: unlimited */
	uint64_t start_ns;         /* of the next window, at the earliest */
	struct timer timer;
	struct defer end;
};

static void advance(struct raid_process *p);

/* ---- End ---- */

static void
free_process(struct raid_process *p)
{
	struct raid *raid = p->raid;

	for (unsigned i = 0; i < LANES; i++) {
		free(p->lanes[i].child);
		free(p->lanes[i].iov.iov_base);
		free(p->lanes[i].other.iov_base);
	}
	timer_stop(&p->timer);
	if (p->rc != NULL) {
		channel_put(&p->rc->channel);
	}
	raid->process = NULL;
	free(p);
	raid_self_put(raid);
}

static void
ended(struct raid_process *p)
{
	struct raid *raid = p->raid;
	struct raid_base *target = p->target;
	struct job *job = p->job;
	int status = p->status;
	const char *why = p->why;

	if (status != 0) {
		LOG_WARNING(BDEV, raid->name, "the %s ends: %s",
			    target != NULL ? "rebuild" : "resynchronisation",
			    why != NULL ? why : strerror(-status));
	} else if (target == NULL) {
		LOG_NOTICE(BDEV, raid->name, "resynchronised: %llu windows differed",
			   (unsigned long long)p->fixed);
	}
	free_process(p);
	if (status == 0 && target != NULL) {
		raid->joining = target;
		raid->join_job = job;
	} else {
		job_end(job, status, why);
		raid->resync_done = target == NULL && status == 0;
		raid->resync_failed = target == NULL && status != 0 && status != -ECANCELED;
		if (target != NULL && target->role == ROLE_TARGET) {
			raid_base_leave(target, status == -ECANCELED ? OUT_REMOVED : OUT_MISSING);
		}
	}
	raid_proceed(raid);
}

static bool
again(struct lane *lane, int status)
{
	return status == -ECANCELED && !lane->process->stopping && lane->tries++ < RAID_TRIES;
}

static void flush_target(struct raid_process *p);

static void
target_flushed(struct bdev_io *io, int status)
{
	struct lane *lane = raid_child_of(io)->owner;
	struct raid_process *p = lane->process;

	raid_base_settle(p->target);
	if (p->target->ch != NULL && p->target->out == OUT_NO && again(lane, status)) {
		flush_target(p);
		return;
	}
	if (status != 0 && p->status == 0) {
		p->status = status;
		p->why = "the target cannot be flushed";
	}
	ended(p);
}

static void
flush_target(struct raid_process *p)
{
	p->lanes[0].child->owner = &p->lanes[0];
	bdev_io_init(&p->lanes[0].child->io, BDEV_FLUSH, 0, 0, NULL, 0, target_flushed);
	bdev_submit(p->target->ch, &p->lanes[0].child->io);
}

static void
end_deferred(struct defer *d)
{
	struct raid_process *p = CONTAINER_OF(d, struct raid_process, end);
	struct raid_base *b = p->target;

	if (p->status != 0 || b == NULL || (!bdev_supports(b->bdev, BDEV_FLUSH) &&
					    bdev_write_cache(b->bdev))) {
		ended(p);
		return;
	}
	p->lanes[0].tries = 0;
	flush_target(p);
}

static void
end_if_idle(struct raid_process *p)
{
	if (p->active == 0 && !p->ending && (p->stopping || p->next == p->total)) {
		p->ending = true;
		timer_stop(&p->timer);
		thread_defer(&p->end, end_deferred);
	}
}

static void
fail(struct raid_process *p, int status, const char *why)
{
	if (p->status == 0) {
		p->status = status;
		p->why = why;
	}
	p->stopping = true;
}

void
raid_process_stop(struct raid *raid, int status, const char *why)
{
	struct raid_process *p = raid->process;

	if (p != NULL && !p->ending) {
		fail(p, status, why);
		end_if_idle(p);
	} else if (p != NULL && p->status == 0) {
		p->status = status;
		p->why = why;
	}
}

/* ---- Lanes ---- */

static void
lane_idle(struct lane *lane)
{
	struct raid_process *p = lane->process;
	uint64_t done = p->next;

	lane->active = false;
	p->active--;
	for (unsigned i = 0; i < p->lane_count; i++) {
		if (p->lanes[i].active) {
			done = MIN(done, p->lanes[i].lba);
		}
	}
	p->done = p->stopping ? MAX(p->done, MIN(done, lane->lba)) : done;
	job_progress(p->job, p->done);
	advance(p);
}

/* ---- Lanes: raid1 ---- */

static void read_source(struct lane *lane);

static void
unlocked(struct bdev_range_lock *lock)
{
	lane_idle(CONTAINER_OF(lock, struct lane, lock));
}

static void
unlock(struct lane *lane)
{
	bdev_range_unlock(&lane->lock, unlocked);
}

static void
submit(struct lane *lane, struct raid_base *b, enum bdev_op op, struct iovec *iov,
       void (*done)(struct bdev_io *io, int status))
{
	struct bdev_io *io = &lane->child->io;

	iov->iov_len = lane->num_blocks * lane->process->raid->bdev.block_size;
	lane->child->owner = lane;
	lane->child->slot = b->slot;
	bdev_io_init(io, op, lane->lba + b->data_offset, lane->num_blocks, iov, 1, done);
	bdev_submit(b->ch, io);
}

/* A copy has been written; or could not be. */
static void
written(struct bdev_io *io, int status)
{
	struct raid_child *c = raid_child_of(io);
	struct lane *lane = c->owner;
	struct raid_process *p = lane->process;
	struct raid_base *b = &p->raid->bases[c->slot];

	raid_base_settle(b);
	if (b->ch != NULL && b->out == OUT_NO && again(lane, status)) {
		submit(lane, b, BDEV_WRITE, &lane->iov, written);
		return;
	}
	if (status != 0 && !(status == -ECANCELED && p->stopping)) {
		raid_base_leave(b, status == -ENODEV ? OUT_MISSING : OUT_FAILED);
		if (b == p->target) {
			fail(p, status, "the target fails");
		}
	}
	if (p->target != NULL) {
		unlock(lane);
	} else {
		lane->at++;
		read_source(lane);
	}
}

static bool
usable(const struct raid_base *b)
{
	return b->role == ROLE_MEMBER && b->out == OUT_NO && b->ch != NULL;
}

static void
compared(struct bdev_io *io, int status)
{
	struct raid_child *c = raid_child_of(io);
	struct lane *lane = c->owner;
	struct raid_base *b = &lane->process->raid->bases[c->slot];

	raid_base_settle(b);
	if (usable(b) && again(lane, status)) {
		submit(lane, b, BDEV_READ, &lane->other, compared);
		return;
	}
	if (usable(b) && !lane->process->stopping &&
	    (status != 0 ||
	     memcmp(lane->iov.iov_base, lane->other.iov_base, lane->other.iov_len) != 0)) {
		lane->process->fixed++;
		submit(lane, b, BDEV_WRITE, &lane->iov, written);
		return;
	}
	lane->at++;
	read_source(lane);
}

/* The next of the other members; then the window is done. */
static void
compare_next(struct lane *lane)
{
	struct raid *raid = lane->process->raid;

	while (lane->at < raid->num_bases &&
	       (lane->at == lane->source || !usable(&raid->bases[lane->at]))) {
		lane->at++;
	}
	if (lane->at == raid->num_bases || lane->process->stopping) {
		unlock(lane);
	} else {
		submit(lane, &raid->bases[lane->at], BDEV_READ, &lane->other, compared);
	}
}

static void
source_read(struct bdev_io *io, int status)
{
	struct raid_child *c = raid_child_of(io);
	struct lane *lane = c->owner;
	struct raid_process *p = lane->process;

	raid_base_settle(&p->raid->bases[c->slot]);
	if (status != 0) {
		if (!again(lane, status)) {
			slot_set_add(&lane->tried, c->slot);
		}
		lane->source = p->raid->num_bases;
		read_source(lane);
		return;
	}
	lane->source = c->slot;
	if (p->target == NULL) {
		compare_next(lane);
	} else if (p->stopping) {
		unlock(lane);
	} else if (p->target->role != ROLE_TARGET || p->target->out != OUT_NO) {
		fail(p, -ENODEV, "the target is gone");
		unlock(lane);
	} else {
		submit(lane, p->target, BDEV_WRITE, &lane->iov, written);
	}
}

/* From the first member that can. */
static void
read_source(struct lane *lane)
{
	struct raid_process *p = lane->process;
	struct raid *raid = p->raid;

	if (lane->source < raid->num_bases) {
		compare_next(lane);
		return;
	}
	for (unsigned i = 0; i < raid->num_bases && !p->stopping; i++) {
		if (usable(&raid->bases[i]) && !slot_set_has(&lane->tried, i)) {
			submit(lane, &raid->bases[i], BDEV_READ, &lane->iov, source_read);
			return;
		}
	}
	fail(p, -EIO, "no other base can be read");
	unlock(lane);
}

static void
locked(struct bdev_range_lock *lock)
{
	struct lane *lane = CONTAINER_OF(lock, struct lane, lock);

	lane->tried = (struct slot_set){0};
	lane->source = lane->process->raid->num_bases;
	lane->at = 0;
	read_source(lane);
}

/* ---- Lanes: raid5f ---- */

static void
stripe_done(struct stripe_task *task, int status)
{
	struct lane *lane = CONTAINER_OF(task, struct lane, task);
	struct raid_process *p = lane->process;

	if (again(lane, status)) {
		raid5f_task_submit(p->rc, task);
		return;
	}
	if (status != 0 && p->target != NULL) {
		fail(p, status, "a stripe cannot be rebuilt");
	} else if (status != 0 && p->status == 0) { /* on with the others */
		p->status = status;
		p->why = "some stripes cannot be read or written";
	}
	p->fixed += task->wrote;
	lane_idle(lane);
}

/* ---- Going on ---- */

static void
start_lane(struct raid_process *p, struct lane *lane)
{
	lane->active = true;
	lane->tries = 0;
	lane->lba = p->next;
	lane->num_blocks = MIN(p->window_blocks, p->total - p->next);
	p->next += lane->num_blocks;
	p->active++;
	if (p->rc == NULL) {
		bdev_range_lock(&lane->lock, &p->raid->bdev, lane->lba, lane->num_blocks, false,
				locked);
		return;
	}
	lane->task.stripe = lane->lba / p->raid->stripe_blocks;
	lane->task.target = p->target != NULL ? p->target->slot : NO_TARGET;
	lane->task.wrote = false;
	lane->task.stopping = &p->stopping;
	lane->task.done = stripe_done;
	raid5f_task_submit(p->rc, &lane->task);
}

static void
later(struct timer *timer)
{
	advance(CONTAINER_OF(timer, struct raid_process, timer));
}

/* False: a window may not start yet, and the timer runs. */
static bool
may_start(struct raid_process *p)
{
	uint64_t now_ns = clock_now_ns();

	if (p->bytes_per_second == 0) {
		return true;
	}
	if (now_ns < p->start_ns) {
		CHECK(timer_start(&p->timer, (p->start_ns - now_ns) / 1000 + 1, later) == 0);
		return false;
	}
	p->start_ns = MAX(p->start_ns, now_ns - MIN(now_ns, UINT64_C(20000000))) +
		      p->window_blocks * p->raid->bdev.block_size * UINT64_C(1000000000) /
			      p->bytes_per_second;
	return true;
}

static void
advance(struct raid_process *p)
{
	for (unsigned i = 0; i < p->lane_count && !p->stopping && p->next < p->total; i++) {
		if (!p->lanes[i].active) {
			if (!may_start(p)) {
				break;
			}
			start_lane(p, &p->lanes[i]);
		}
	}
	end_if_idle(p);
}

/* ---- Start ---- */

static bool
make_lanes(struct raid_process *p)
{
	size_t bytes = p->window_blocks * p->raid->bdev.block_size;

	bytes = (bytes + 4095) & ~(size_t)4095;
	for (unsigned i = 0; i < p->lane_count; i++) {
		struct lane *lane = &p->lanes[i];

		lane->process = p;
		lane->child = aligned_alloc(CACHE_LINE_BYTES, p->raid->child_bytes);
		if (lane->child == NULL) {
			return false;
		}
		if (p->rc != NULL) {
			continue;
		}
		lane->iov.iov_base = aligned_alloc(4096, bytes);
		lane->other.iov_base = p->target == NULL ? aligned_alloc(4096, bytes) : NULL;
		if (lane->iov.iov_base == NULL ||
		    (p->target == NULL && lane->other.iov_base == NULL)) {
			return false;
		}
	}
	return true;
}

static void
cancel(void *ctx)
{
	raid_process_stop(ctx, -ECANCELED, "cancelled");
}

static void
start_job(struct raid_process *p)
{
	char text[JOB_TEXT_BYTES];

	if (p->target != NULL) {
		snprintf(text, sizeof(text), "rebuilds base %u onto %s", p->target->slot,
			 p->target->name);
	} else {
		snprintf(text, sizeof(text), "makes %s",
			 p->rc != NULL ? "parity fit its data" : "mirrors alike");
	}
	p->job = job_start(&(struct job_options){
		.kind = p->target != NULL ? "raid_rebuild" : "raid_resync",
		.object = p->raid->name,
		.unit = "blocks",
		.text = text,
		.total = p->total,
		.cancel = p->target != NULL ? cancel : NULL,
		.ctx = p->raid,
	});
}

static bool
prepare(struct raid_process *p)
{
	struct raid *raid = p->raid;
	uint32_t bs = raid->bdev.block_size;

	p->total = bdev_num_blocks(&raid->bdev);
	p->bytes_per_second = raid_settings.bandwidth_mb_sec * UINT64_C(1048576);
	if (raid->level->level == RAID_LEVEL_5F) {
		p->rc = (struct raid_channel *)channel_get(&raid->device, NULL);
		p->window_blocks = raid->stripe_blocks;
		p->lane_count = LANES;
		return p->rc != NULL && make_lanes(p);
	}
	p->window_blocks = MAX(MIN(raid_settings.window_kb, WINDOW_MAX_KB) * UINT64_C(1024) / bs,
			       UINT64_C(1));
	p->lane_count = LANES / 2;
	return make_lanes(p);
}

void
raid_process_start(struct raid *raid, struct raid_base *target)
{
	struct raid_process *p;

	if (!raid_self_get(raid)) {
		return;
	}
	/* Parity cannot be checked while a strip of each stripe is missing. */
	p = target == NULL && raid->level->level == RAID_LEVEL_5F &&
			    raid_count_members(raid) < raid->num_bases
		    ? NULL
		    : calloc(1, sizeof(*p));
	if (p == NULL) {
		raid->resync_failed = target == NULL;
		raid_self_put(raid);
		if (target != NULL) {
			raid_base_leave(target, OUT_MISSING);
		}
		return;
	}
	raid->process = p;
	p->raid = raid;
	p->target = target;
	if (!prepare(p)) {
		fail(p, -ENOMEM, "out of memory");
	}
	start_job(p);
	LOG_NOTICE(BDEV, raid->name, "%s%s", target != NULL ? "rebuilds onto " : "is being resynchronised",
		   target != NULL ? target->name : "");
	advance(p);
}

/* ---- Looking ---- */

const struct raid_base *
raid_process_target(const struct raid *raid)
{
	return raid->process != NULL ? raid->process->target : NULL;
}

uint64_t
raid_process_done_blocks(const struct raid *raid)
{
	return raid->process != NULL ? raid->process->done : 0;
}

bool
raid_process_is_resync(const struct raid *raid)
{
	return raid->process != NULL && raid->process->target == NULL;
}
