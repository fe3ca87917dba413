/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests on stripes of a raid5f: writes, reads of what has to be computed, and the tasks of rebuilds.
 *
 *   (wait for a stripe request) -> lock -> read what is needed -> compute -> write -> unlock, answer
 *                                             ^    | one strip cannot be read: all others
 *                                             +----+
 *
 * Invariants
 *  1. Whoever changes a stripe, or computes a strip from the others, has its lock and one of the
 *     channel's stripe requests, with memory for all strips. Requests for which there is none wait,
 *     first come first served; who has one waits only for a lock, whose holder has one.
 *  2. A guest's data are read once, into that memory: guests change buffers in flight.
 *  3. A write that a member missed keeps the lock until that member is out, so that nobody computes
 *     from the old strip.
 *
 * A write: the strips that it does not replace are read, in the columns it touches; the parity of these
 * columns is computed anew from all of them, so that it is right whatever it was; then data and
 * parity are written at once. A full stripe needs no reads. When a strip that is needed is on a
 * missing base, it is computed from all others, parity included.
 * Context: the channel's thread; locks: stripe_lock.c.
 */
#include "bdevs/raid/stripe.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "bdevs/raid/stripe_lock.h"

/* Memory for stripes a channel has; never fewer than two. */
#define STRIPES_BYTES ((size_t)8 << 20)
#define STRIPES_MAX 32
#define NO_SLOT UINT32_MAX

enum stripe_kind { STRIPE_READ, STRIPE_WRITE, STRIPE_TASK };

/* What a request wants of one strip: columns [from, to), in blocks; none: from == to. */
struct piece {
	uint32_t from;
	uint32_t to;
	size_t offset; /* bytes, in the guest's list */
};

struct stripe {
	struct list link; /* free */
	struct raid_channel *rc;
	enum stripe_kind kind;
	struct bdev_io *io;
	struct stripe_task *task;
	uint64_t number;
	unsigned parity;    /* slot */
	uint32_t first;     /* columns that are touched */
	uint32_t end;
	unsigned lost;      /* slot whose strip is computed, NO_SLOT: none */
	bool read_failed;   /* lost could not be read, though it is there: write it */
	struct slot_set read; /* slots that were read well */
	struct slot_set failed;
	unsigned pending;
	int status;
	struct stripe_lock lock;
	struct piece *pieces; /* by slot */
	void **sources;
	struct iovec *iovs;
	uint8_t *children;
	uint8_t *memory; /* a strip for each slot */
};

struct raid5f_channel {
	struct list free;
	struct list waiting; /* struct raid_io */
	struct list tasks;   /* struct stripe_task that wait */
	struct list held;    /* struct stripe: writes that a base missed, until it is out */
	unsigned count;
	struct stripe stripes[];
};

static void start_waiting(struct raid_channel *rc);

/* ---- Layout ---- */

static uint8_t *
strip_memory(const struct stripe *s, unsigned slot)
{
	const struct raid *raid = s->rc->raid;

	return s->memory + (size_t)slot * raid->strip_blocks * raid->bdev.block_size;
}

static uint8_t *
columns(const struct stripe *s, unsigned slot, uint32_t column)
{
	return strip_memory(s, slot) + (size_t)column * s->rc->raid->bdev.block_size;
}

static size_t
touched_bytes(const struct stripe *s)
{
	return (size_t)(s->end - s->first) * s->rc->raid->bdev.block_size;
}

/* Fills pieces, first and end from what io asks for. */
static void
cut(struct stripe *s, const struct bdev_io *io)
{
	const struct raid *raid = s->rc->raid;
	uint32_t strip = raid->strip_blocks;
	uint64_t at = io->lba % raid->stripe_blocks, end = at + io->num_blocks;
	unsigned touched = 0;

	memset(s->pieces, 0, raid->num_bases * sizeof(*s->pieces));
	for (uint64_t d = at / strip; d * strip < end; d++) {
		struct piece *p = &s->pieces[stripe_data_slot((unsigned)d, s->parity)];
		uint64_t from = MAX(at, d * strip), to = MIN(end, (d + 1) * strip);

		p->from = (uint32_t)(from - d * strip);
		p->to = (uint32_t)(to - d * strip);
		p->offset = (size_t)(from - at) * raid->bdev.block_size;
		s->first = p->from;
		s->end = p->to;
		touched++;
	}
	if (touched > 1) {
		s->first = 0;
		s->end = strip;
	}
}

/* ---- Life of a stripe request ---- */

static void
release(struct stripe *s)
{
	struct raid5f_channel *r5 = s->rc->level_ctx;

	list_append(&r5->free, &s->link);
}

/* The last thing that is done with s: it has its lock. */
static void
finish(struct stripe *s, int status, bool at_once)
{
	struct raid_channel *rc = s->rc;
	struct bdev_io *io = s->io;
	struct stripe_task *task = s->task;

	stripe_unlock(rc->raid->stripe_locks, &s->lock);
	rc->writes -= s->kind == STRIPE_WRITE;
	release(s);
	start_waiting(rc);
	if (io == NULL) {
		task->done(task, status);
	} else if (at_once) {
		bdev_io_complete_now(io, status);
	} else {
		bdev_io_complete(io, status);
	}
}

/* Cancelled or aborted while it was under way: nothing more is asked of the bases for it. */
static bool
given_up(const struct stripe *s)
{
	return s->io != NULL ? raid_given_up(s->rc, bdev_io_ctx(s->io)) : *s->task->stopping;
}

static int
cancel_status(const struct stripe *s)
{
	return s->io != NULL ? s->rc->cancel_status : -ECANCELED;
}

static int
error_of(int status)
{
	return status == -ENODEV ? -EIO : status;
}

/* ---- Requests to bases ---- */

/* at: whose place in the memory is read or written. */
static void
submit_child(struct stripe *s, unsigned slot, unsigned at, enum bdev_op op, uint32_t from,
	     uint32_t to, void (*done)(struct bdev_io *io, int status))
{
	const struct raid *raid = s->rc->raid;
	struct raid_slot *base = &s->rc->slots[slot];
	struct raid_child *c = raid_child_at(raid, s->children, slot);

	s->iovs[slot] = (struct iovec){
		.iov_base = columns(s, at, from),
		.iov_len = (size_t)(to - from) * raid->bdev.block_size,
	};
	c->owner = s;
	c->slot = slot;
	c->role = base->role;
	bdev_io_init(&c->io, op, s->number * raid->strip_blocks + from + base->offset, to - from,
		     &s->iovs[slot], 1, done);
	if (op == BDEV_WRITE && s->io != NULL) {
		c->io.flags = s->io->flags & BDEV_IO_FUA;
	}
	s->pending++;
	bdev_submit(base->ch, &c->io);
}

/* ---- Writing out ---- */

/* Members that have all of the stripe. */
static unsigned
good_members(const struct stripe *s)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->rc->raid->num_bases; i++) {
		n += s->rc->slots[i].role >= ROLE_JOINING && !slot_set_has(&s->failed, i);
	}
	return n;
}

static void
missed(struct stripe *s, unsigned slot, int status)
{
	if (s->rc->slots[slot].role >= ROLE_JOINING) {
		slot_set_add(&s->failed, slot);
	} else if (s->rc->slots[slot].role == ROLE_TARGET && (s->io != NULL || status != -ECANCELED)) {
		raid_base_report(s->rc->raid, slot, status);
	}
	s->status = s->status == 0 ? status : s->status;
}

static void
report_failed(struct stripe *s)
{
	for (unsigned i = 0; i < s->rc->raid->num_bases; i++) {
		if (slot_set_has(&s->failed, i)) {
			raid_base_report(s->rc->raid, i, s->status);
		}
	}
}

/*
 * All parts have been answered. With one member less the stripe is whole still; with two, none is taken
 * out for it while all are there (an error of the request rather than of two disks at once), but
 * parity may not fit any more.
 */
static void
written_partly(struct stripe *s)
{
	struct raid_channel *rc = s->rc;
	struct raid *raid = rc->raid;
	bool all_there = true, too_few = good_members(s) < raid->min_working;

	for (unsigned i = 0; i < raid->num_bases; i++) {
		all_there = all_there && rc->slots[i].role >= ROLE_JOINING;
	}
	if (given_up(s) || s->status == -ECANCELED || (too_few && all_there)) {
		raid_doubt(raid);
		finish(s, given_up(s) ? cancel_status(s) : error_of(s->status), true);
		return;
	}
	report_failed(s);
	if (too_few) {
		finish(s, error_of(s->status), true);
	} else if (s->kind != STRIPE_WRITE) {
		finish(s, s->kind == STRIPE_READ ? 0 : error_of(s->status), true);
	} else if (atomic_load(&raid->broken)) {
		finish(s, -EIO, true);
	} else {
		list_append(&((struct raid5f_channel *)rc->level_ctx)->held, &s->link);
	}
}

static void
written(struct stripe *s)
{
	struct raid_channel *rc = s->rc;

	raid_channel_look(rc);
	if (!raid_still_members(rc, &s->failed)) {
		bool whole = s->kind != STRIPE_TASK || s->status == 0;

		if (slot_set_count(&s->failed) > 0 && atomic_load(&rc->raid->broken)) {
			whole = false;
		}
		finish(s, whole ? 0 : error_of(s->status), true);
	} else {
		written_partly(s);
	}
}

static void
write_done(struct bdev_io *io, int status)
{
	struct raid_child *c = raid_child_of(io);
	struct stripe *s = c->owner;

	raid_channel_came_back(s->rc);
	if (status != 0) {
		missed(s, c->slot, status);
	}
	if (--s->pending == 0) {
		written(s);
	}
}

static void
write_columns(struct stripe *s, unsigned slot, uint32_t from, uint32_t to)
{
	struct raid_slot *base = &s->rc->slots[slot];

	if (base->role == ROLE_NONE || from == to) {
		return;
	}
	if (base->ch == NULL) {
		missed(s, slot, -ENODEV);
		return;
	}
	submit_child(s, slot, slot, BDEV_WRITE, from, to, write_done);
}

/* From within a done callback or not: children never complete from inside bdev_submit(). */
static void
write_out(struct stripe *s)
{
	unsigned n = s->rc->raid->num_bases;

	s->pending = 1;
	s->status = 0;
	for (unsigned i = 0; i < n; i++) {
		const struct piece *p = &s->pieces[i];

		if (i == s->parity || (i == s->lost && s->read_failed)) {
			write_columns(s, i, s->first, s->end);
		} else {
			write_columns(s, i, p->from, p->to);
		}
	}
	if (--s->pending == 0) {
		s->status = s->status == 0 ? -EIO : s->status;
		finish(s, s->status, false);
	}
}

/* ---- Computing ---- */

/* The touched columns of strip `slot` from those of all others. */
static void
compute(struct stripe *s, unsigned slot)
{
	unsigned n = 0;

	for (unsigned i = 0; i < s->rc->raid->num_bases; i++) {
		if (i != slot) {
			s->sources[n++] = columns(s, i, s->first);
		}
	}
	raid_xor(columns(s, slot, s->first), s->sources, n, touched_bytes(s));
}

static void
take_guest_data(struct stripe *s)
{
	for (unsigned i = 0; i < s->rc->raid->num_bases; i++) {
		const struct piece *p = &s->pieces[i];

		if (p->from < p->to) {
			iov_to_buf(s->io->iov, s->io->iovcnt, p->offset, columns(s, i, p->from),
				   (size_t)(p->to - p->from) * s->rc->raid->bdev.block_size);
		}
	}
}

static void
give_guest_data(struct stripe *s)
{
	for (unsigned i = 0; i < s->rc->raid->num_bases; i++) {
		const struct piece *p = &s->pieces[i];

		if (p->from < p->to) {
			iov_from_buf(s->io->iov, s->io->iovcnt, p->offset, columns(s, i, p->from),
				     (size_t)(p->to - p->from) * s->rc->raid->bdev.block_size);
		}
	}
}

/* Rebuilds the target's strip; or parity, if it does not fit. */
static void
task_computed(struct stripe *s)
{
	unsigned target = s->task->target;

	if (target == NO_TARGET) {
		compute(s, s->parity);
		/* What was read of it stands behind the others, see read_for_task(). */
		if (memcmp(columns(s, s->parity, 0), columns(s, s->rc->raid->num_bases, 0),
			   touched_bytes(s)) == 0) {
			finish(s, 0, true);
			return;
		}
		s->task->wrote = true;
		target = s->parity;
	} else {
		compute(s, target);
	}
	s->pending = 0;
	s->status = 0;
	if (s->rc->slots[target].ch == NULL || s->rc->slots[target].role == ROLE_NONE) {
		finish(s, -ENODEV, true);
		return;
	}
	submit_child(s, target, target, BDEV_WRITE, 0, s->end, write_done);
}

/* All that was asked for has been read. */
static void
have_old(struct stripe *s)
{
	if (s->kind == STRIPE_TASK) {
		task_computed(s);
		return;
	}
	if (s->lost != NO_SLOT) {
		compute(s, s->lost);
	}
	if (s->kind == STRIPE_READ) {
		give_guest_data(s);
		if (!s->read_failed) {
			finish(s, 0, true);
			return;
		}
		/* What could not be read is written again. */
		s->pending = 0;
		s->status = 0;
		if (s->rc->slots[s->lost].ch != NULL && s->rc->slots[s->lost].role == ROLE_MEMBER) {
			submit_child(s, s->lost, s->lost, BDEV_WRITE, s->first, s->end, write_done);
		} else {
			finish(s, 0, true);
		}
		return;
	}
	take_guest_data(s);
	if (s->rc->slots[s->parity].role != ROLE_NONE) {
		compute(s, s->parity);
	}
	write_out(s);
}

/* ---- Reading what is there ---- */

static void read_old(struct stripe *s);

static void
read_over(struct stripe *s)
{
	if (given_up(s)) {
		finish(s, cancel_status(s), true);
	} else if (s->status == 0) {
		have_old(s);
	} else if (s->status == -EAGAIN) {
		read_old(s); /* once more, with one to be computed */
	} else {
		finish(s, error_of(s->status), true);
	}
}

static void
old_read(struct bdev_io *io, int status)
{
	struct raid_child *c = raid_child_of(io);
	struct stripe *s = c->owner;

	raid_channel_came_back(s->rc);
	if (status == 0) {
		slot_set_add(&s->read, c->slot);
	} else if (s->kind == STRIPE_TASK || (s->lost != NO_SLOT && s->lost != c->slot)) {
		s->status = status;
	} else {
		s->lost = c->slot;
		s->read_failed = status != -ENODEV;
		s->status = s->status == 0 ? -EAGAIN : s->status;
		if (status == -ENODEV) {
			raid_base_report(s->rc->raid, c->slot, status);
		}
	}
	if (--s->pending == 0) {
		raid_channel_look(s->rc);
		read_over(s);
	}
}

/* Whether the old contents of a slot are needed, when nothing has to be computed. */
static bool
needed(const struct stripe *s, unsigned slot)
{
	const struct piece *p = &s->pieces[slot];

	if (s->kind == STRIPE_READ) {
		return p->from < p->to;
	}
	return slot != s->parity && !(p->from <= s->first && p->to >= s->end) &&
	       s->rc->slots[s->parity].role != ROLE_NONE;
}

/* True when all can be read; s->lost is the one that cannot, if it is needed and one only. */
static bool
find_lost(struct stripe *s)
{
	for (unsigned i = 0; i < s->rc->raid->num_bases; i++) {
		if (!needed(s, i) || stripe_readable(s->rc, i) || s->lost == i) {
			continue;
		}
		if (s->lost != NO_SLOT) {
			return false;
		}
		s->lost = i;
	}
	/* To compute it, all others are needed. */
	for (unsigned i = 0; s->lost != NO_SLOT && i < s->rc->raid->num_bases; i++) {
		if (i != s->lost && !stripe_readable(s->rc, i)) {
			return false;
		}
	}
	return true;
}

static void
read_old(struct stripe *s)
{
	unsigned n = s->rc->raid->num_bases;

	if (!find_lost(s)) {
		finish(s, -EIO, false);
		return;
	}
	s->status = 0;
	s->pending = 1;
	for (unsigned i = 0; i < n; i++) {
		bool wanted = s->lost != NO_SLOT ? i != s->lost : needed(s, i);

		if (wanted && !slot_set_has(&s->read, i)) {
			submit_child(s, i, i, BDEV_READ, s->first, s->end, old_read);
		}
	}
	if (--s->pending == 0) {
		have_old(s); /* a write that replaces all it touches: nothing ends from in here */
	}
}

static void
read_for_task(struct stripe *s)
{
	unsigned n = s->rc->raid->num_bases;

	s->first = 0;
	s->end = s->rc->raid->strip_blocks;
	memset(s->pieces, 0, n * sizeof(*s->pieces));
	for (unsigned i = 0; i < n; i++) {
		if (i != s->task->target && !stripe_readable(s->rc, i)) {
			finish(s, -EIO, true);
			return;
		}
	}
	s->pending = 1;
	for (unsigned i = 0; i < n; i++) {
		if (i == s->task->target) {
			continue;
		}
		/* Parity that is to be checked stands beside what it is computed to be. */
		submit_child(s, i,
			     s->task->target == NO_TARGET && i == s->parity ? n : i,
			     BDEV_READ, 0, s->end, old_read);
	}
	s->pending--;
}

/* ---- Beginning ---- */

static void
locked(struct stripe *s)
{
	raid_channel_look(s->rc);
	if (given_up(s)) {
		finish(s, cancel_status(s), false);
	} else if (s->kind == STRIPE_TASK) {
		read_for_task(s);
	} else {
		read_old(s);
	}
}

static void
lock_granted(struct stripe_lock *lock)
{
	locked(CONTAINER_OF(lock, struct stripe, lock));
}

static struct stripe *
begin(struct raid_channel *rc, enum stripe_kind kind, uint64_t number)
{
	struct raid5f_channel *r5 = rc->level_ctx;
	struct stripe *s = LIST_FIRST(&r5->free, struct stripe, link);

	list_remove(&s->link);
	s->kind = kind;
	s->io = NULL;
	s->task = NULL;
	s->number = number;
	s->parity = stripe_parity_slot(rc->raid, number);
	s->lost = NO_SLOT;
	s->read_failed = false;
	s->read = (struct slot_set){0};
	s->failed = (struct slot_set){0};
	s->status = 0;
	return s;
}

static void
lock_stripe(struct stripe *s)
{
	if (stripe_lock(s->rc->raid->stripe_locks, &s->lock, s->number, lock_granted)) {
		locked(s);
	}
}

static void
start_io(struct raid_channel *rc, struct bdev_io *io)
{
	struct stripe *s = begin(rc, io->op == BDEV_READ ? STRIPE_READ : STRIPE_WRITE,
				 io->lba / rc->raid->stripe_blocks);

	s->io = io;
	cut(s, io);
	lock_stripe(s);
}

static void
start_task(struct raid_channel *rc, struct stripe_task *task)
{
	struct stripe *s = begin(rc, STRIPE_TASK, task->stripe);

	s->task = task;
	lock_stripe(s);
}

static void
start_waiting(struct raid_channel *rc)
{
	struct raid5f_channel *r5 = rc->level_ctx;

	if (list_empty(&r5->free)) {
		return;
	}
	if (!list_empty(&r5->waiting)) {
		struct raid_io *x = LIST_FIRST(&r5->waiting, struct raid_io, link);

		list_remove(&x->link);
		start_io(rc, raid_io_parent(x));
	} else if (!list_empty(&r5->tasks)) {
		struct stripe_task *task = LIST_FIRST(&r5->tasks, struct stripe_task, link);

		list_remove(&task->link);
		start_task(rc, task);
	}
}

void
stripe_submit(struct raid_channel *rc, struct bdev_io *io)
{
	struct raid5f_channel *r5 = rc->level_ctx;
	struct raid_io *x = bdev_io_ctx(io);

	if (list_empty(&r5->free) || !list_empty(&r5->waiting)) {
		list_append(&r5->waiting, &x->link);
	} else {
		start_io(rc, io);
	}
}

void
raid5f_task_submit(struct raid_channel *rc, struct stripe_task *task)
{
	struct raid5f_channel *r5 = rc->level_ctx;

	if (list_empty(&r5->free)) {
		list_append(&r5->tasks, &task->link);
	} else {
		start_task(rc, task);
	}
}

bool
stripe_end_waiting(struct raid_channel *rc, const struct raid_io *only, int status)
{
	struct raid5f_channel *r5 = rc->level_ctx;
	struct raid_io *x, *next;
	bool any = false;

	LIST_FOREACH_SAFE (x, next, &r5->waiting, link) {
		if (only == NULL || x == only) {
			struct bdev_io *io = raid_io_parent(x);

			list_remove(&x->link);
			rc->writes -= io->op == BDEV_WRITE;
			bdev_io_complete(io, status);
			any = true;
		}
	}
	return any;
}

void
stripe_release_held(struct raid_channel *rc)
{
	struct raid5f_channel *r5 = rc->level_ctx;
	bool broken = atomic_load(&rc->raid->broken);
	struct list held;

	list_init(&held);
	list_splice(&held, &r5->held);
	while (!list_empty(&held)) {
		struct stripe *s = LIST_FIRST(&held, struct stripe, link);

		list_remove(&s->link);
		if (broken || !raid_still_members(rc, &s->failed)) {
			finish(s, broken ? -EIO : 0, false);
		} else {
			list_append(&r5->held, &s->link);
		}
	}
}

/* ---- Channels ---- */

static size_t
stripe_memory(const struct raid *raid)
{
	return (size_t)(raid->num_bases + 1u) * raid->strip_blocks * raid->bdev.block_size;
}

static void
free_stripe(struct stripe *s)
{
	free(s->pieces);
	free(s->sources);
	free(s->iovs);
	free(s->children);
	free(s->memory);
}

static bool
make_stripe(struct stripe *s, struct raid_channel *rc)
{
	const struct raid *raid = rc->raid;
	size_t bytes = (stripe_memory(raid) + 4095) & ~(size_t)4095;

	s->rc = rc;
	s->pieces = calloc(raid->num_bases, sizeof(*s->pieces));
	s->sources = calloc(raid->num_bases, sizeof(*s->sources));
	s->iovs = calloc(raid->num_bases, sizeof(*s->iovs));
	s->children = aligned_alloc(CACHE_LINE_BYTES, raid->num_bases * raid->child_bytes);
	s->memory = aligned_alloc(4096, bytes);
	return s->pieces != NULL && s->sources != NULL && s->iovs != NULL && s->children != NULL &&
	       s->memory != NULL;
}

void
stripe_channel_release(struct raid_channel *rc)
{
	struct raid5f_channel *r5 = rc->level_ctx;

	for (unsigned i = 0; i < r5->count; i++) {
		free_stripe(&r5->stripes[i]);
	}
	free(r5);
	rc->level_ctx = NULL;
}

int
stripe_channel_init(struct raid_channel *rc)
{
	size_t fit = STRIPES_BYTES / stripe_memory(rc->raid);
	unsigned count = (unsigned)MAX(MIN(fit, (size_t)STRIPES_MAX), (size_t)2);
	struct raid5f_channel *r5 = calloc(1, sizeof(*r5) + count * sizeof(r5->stripes[0]));

	if (r5 == NULL) {
		return -ENOMEM;
	}
	rc->level_ctx = r5;
	r5->count = count;
	list_init(&r5->free);
	list_init(&r5->waiting);
	list_init(&r5->tasks);
	list_init(&r5->held);
	for (unsigned i = 0; i < count; i++) {
		if (!make_stripe(&r5->stripes[i], rc)) {
			return -ENOMEM; /* stripe_channel_release() follows */
		}
		list_append(&r5->free, &r5->stripes[i].link);
	}
	return 0;
}
