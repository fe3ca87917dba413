/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What ends requests before their time: a channel's cancel, resets, aborts. What waits in the array ends here; the bases are
 * told of the rest, for theirs are the devices that may never answer.
 *
 * Invariants
 *  1. A request that was given up (raid_given_up()) is not begun on another base, and waits for nothing in the array: it ends
 *     when those of its parts that are at bases have come back. Else a read would go from one silent mirror to the next.
 *  2. A member that missed a write because of that keeps its place: a guest's reset must not cost an array its disks. The
 *     write ends with -ECANCELED (-ENODEV: the array goes), and as mirrors may differ there, or parity not fit, all are made
 *     alike again (raid_doubt()). The target of a rebuild does not keep it: what it misses nobody would bring it.
 *  3. The array's own requests (superblocks, rebuilds, repairs) are on the bases' channels too, and end with -ECANCELED when
 *     these are given up or reset: they are tried again RAID_TRIES times, but not when the array is to go.
 *  4. raid_io.at has the parts of a request that are at bases, and nothing else.
 * Of a raid5f's requests only those can be aborted that wait, or read without a stripe's lock; resets end all.
 * Context: the channel's thread, but for raid_give_up_bases().
 */
#include <errno.h>

#include "bdevs/raid/internal.h"

void
raid_cancel(struct bdev_channel *ch, int status)
{
	struct raid_channel *rc = raid_channel_of(ch);

	rc->epoch++;
	rc->cancel_status = status;
	if (rc->raid->level->end_waiting != NULL) {
		rc->raid->level->end_waiting(rc, NULL, status);
	}
	for (unsigned i = 0; i < rc->raid->num_bases; i++) {
		if (rc->slots[i].ch != NULL) {
			bdev_channel_give_up(rc->slots[i].ch);
		}
	}
}

void
raid_give_up_bases(struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].ch != NULL) {
			bdev_channel_give_up(raid->bases[i].ch);
		}
	}
}

/* ---- Reset ---- */

static void
part_reset(struct bdev_io *child, int status)
{
	struct bdev_io *io = raid_child_of(child)->parent;
	struct raid_channel *rc = raid_channel_of(io->ch);
	struct raid_io *x = bdev_io_ctx(io);

	raid_channel_came_back(rc);
	if (x->status == 0 && !rc->raid->level->redundant) {
		x->status = status;
	}
	if (--x->pending == 0) {
		bdev_io_complete_now(io, x->status);
	}
}

/* Those that leave have requests too. */
static void
reset(struct raid_channel *rc, struct bdev_io *io)
{
	struct raid_io *x = bdev_io_ctx(io);

	x->status = 0;
	x->pending = 1; /* the loop's own */
	for (unsigned i = 0; i < rc->raid->num_bases; i++) {
		struct raid_child *c = raid_child_at(rc->raid, raid_children(io), i);

		if (rc->slots[i].ch != NULL) {
			c->parent = io;
			bdev_io_init(&c->io, BDEV_RESET, 0, 0, NULL, 0, part_reset);
			x->pending++;
			bdev_submit(rc->slots[i].ch, &c->io);
		}
	}
	if (--x->pending == 0) {
		bdev_io_complete(io, 0);
	}
}

/* ---- Abort ---- */

static void
part_aborted(struct bdev_io *child, int status)
{
	struct bdev_io *io = raid_child_of(child)->parent;
	struct raid_io *x = bdev_io_ctx(io);

	raid_channel_came_back(raid_channel_of(io->ch));
	x->good += status == 0;
	if (--x->pending == 0) {
		bdev_io_complete_now(io, x->good > 0 ? 0 : -ENOENT);
	}
}

/* By the i-th child of io. */
static void
abort_at(struct bdev_io *io, unsigned i, struct bdev_channel *base, struct bdev_io *target)
{
	struct raid_child *c = raid_child_at(raid_channel_of(io->ch)->raid, raid_children(io), i);
	struct raid_io *x = bdev_io_ctx(io);

	c->parent = io;
	bdev_io_init(&c->io, BDEV_ABORT, 0, 0, NULL, 0, part_aborted);
	c->io.target = target;
	x->pending++;
	bdev_submit(base, &c->io);
}

void
raid_abort_parts(struct raid_channel *rc, struct bdev_io *io, const struct slot_set *at)
{
	struct raid_io *x = bdev_io_ctx(io);

	x->pending = 0;
	x->good = 0;
	for (unsigned i = 0; i < rc->raid->num_bases; i++) {
		struct bdev_io *part = &raid_child_at(rc->raid, raid_children(io->target), i)->io;

		if (slot_set_has(at, i)) {
			/* It may have been passed on by the base. */
			abort_at(io, i, bdev_io_is_passed(part) ? part->pass->upper : part->ch, part);
		}
	}
	if (x->pending == 0) {
		bdev_io_complete(io, -ENOENT);
	}
}

/* io->target was passed down from here. */
static void
abort_passed(struct bdev_io *io)
{
	struct raid_io *x = bdev_io_ctx(io);

	x->pending = 0;
	x->good = 0;
	abort_at(io, 0, io->target->ch, io->target);
}

static void
abort_request(struct raid_channel *rc, struct bdev_io *io)
{
	const struct raid_level_ops *level = rc->raid->level;
	struct bdev_io *target = io->target;
	struct raid_io *x = bdev_io_ctx(target);

	if (bdev_io_is_passed(target) && target->ch != io->ch) {
		abort_passed(io);
	} else if (level->abort != NULL) {
		level->abort(rc, io);
	} else if (level->end_waiting != NULL && level->end_waiting(rc, x, -ECANCELED)) {
		bdev_io_complete(io, 0);
	} else {
		if (slot_set_count(&x->at) > 0) {
			x->epoch = rc->epoch - 1; /* given up */
		}
		raid_abort_parts(rc, io, &x->at);
	}
}

bool
raid_control(struct raid_channel *rc, struct bdev_io *io)
{
	if (io->op == BDEV_ABORT) {
		abort_request(rc, io);
	} else if (io->op == BDEV_RESET) {
		reset(rc, io);
	} else {
		return false;
	}
	return true;
}
