/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests that go to every base: a mirror's writes, everybody's flushes.
 *
 * Invariants
 *  1. One that a member missed is acknowledged when enough of the others have it and that member is
 *     out: marked in the superblocks, and read by no channel any more (member.c). Until then it is
 *     on `held`. So nothing that was acknowledged is ever looked for on a base that missed it.
 *  2. With fewer than enough it ends with an error, and costs no member its place; so it does when it was given up, or when
 *     a base ended it with -ECANCELED (cancel.c).
 * Context: the channel's thread.
 */
#include <errno.h>

#include "bdevs/raid/internal.h"

static void
end_write(struct raid_channel *rc, struct raid_io *x, int status)
{
	struct bdev_io *io = raid_io_parent(x);

	if (io->op != BDEV_FLUSH) {
		rc->writes--;
	}
	bdev_io_complete_now(io, status);
}

/* The same from outside of a child's done. */
static void
end_held(struct raid_channel *rc, struct raid_io *x, int status)
{
	struct bdev_io *io = raid_io_parent(x);

	if (io->op != BDEV_FLUSH) {
		rc->writes--;
	}
	bdev_io_complete(io, status);
}

bool
raid_still_members(const struct raid_channel *rc, const struct slot_set *set)
{
	for (unsigned i = 0; i < rc->raid->num_bases; i++) {
		if (slot_set_has(set, i) && rc->slots[i].role >= ROLE_JOINING) {
			return true;
		}
	}
	return false;
}

void
raid_all_release(struct raid_channel *rc)
{
	bool broken = atomic_load(&rc->raid->broken);
	struct raid_io *x, *next;

	LIST_FOREACH_SAFE (x, next, &rc->held, link) {
		if (broken || !raid_still_members(rc, &x->failed)) {
			list_remove(&x->link);
			end_held(rc, x, broken ? -EIO : 0);
		}
	}
	while (broken && !list_empty(&rc->parked)) {
		x = LIST_FIRST(&rc->parked, struct raid_io, link);
		list_remove(&x->link);
		bdev_io_complete(raid_io_parent(x), -EIO);
	}
}

bool
raid_all_end_waiting(struct raid_channel *rc, const struct raid_io *only, int status)
{
	struct raid_io *x, *next;
	bool any = false;

	LIST_FOREACH_SAFE (x, next, &rc->held, link) {
		if (only == NULL || x == only) {
			list_remove(&x->link);
			end_held(rc, x, status);
			any = true;
		}
	}
	LIST_FOREACH_SAFE (x, next, &rc->parked, link) {
		if (only == NULL || x == only) {
			list_remove(&x->link);
			bdev_io_complete(raid_io_parent(x), status);
			any = true;
		}
	}
	return any;
}

static void
missed(struct raid_channel *rc, struct raid_io *x, unsigned slot, enum raid_role role, int status)
{
	if (role >= ROLE_JOINING) {
		slot_set_add(&x->failed, slot);
	} else if (rc->slots[slot].role != ROLE_NONE) {
		raid_base_report(rc->raid, slot, status); /* a target: nobody relies on it */
	}
	x->status = x->status == 0 ? status : x->status;
}

/* It is on some bases, and not on others, which stay members. */
static void
fail_write(struct raid_channel *rc, struct raid_io *x)
{
	int status = raid_given_up(rc, x) ? rc->cancel_status : x->status == -ENODEV ? -EIO : x->status;

	if (raid_io_parent(x)->op != BDEV_FLUSH) {
		raid_doubt(rc->raid);
	}
	end_write(rc, x, status);
}

static void
write_done_everywhere(struct raid_channel *rc, struct raid_io *x)
{
	if (x->good < rc->raid->min_working) {
		fail_write(rc, x);
		return;
	}
	if (LIKELY(slot_set_count(&x->failed) == 0)) {
		end_write(rc, x, 0);
		return;
	}
	raid_channel_look(rc);
	if (!raid_still_members(rc, &x->failed)) {
		end_write(rc, x, 0);
		return;
	}
	if (atomic_load(&rc->raid->broken)) {
		end_write(rc, x, -EIO);
		return;
	}
	if (raid_given_up(rc, x) || x->status == -ECANCELED) {
		fail_write(rc, x);
		return;
	}
	list_append(&rc->held, &x->link);
	for (unsigned i = 0; i < rc->raid->num_bases; i++) {
		if (slot_set_has(&x->failed, i)) {
			raid_base_report(rc->raid, i, x->status);
		}
	}
}

static void
write_done(struct bdev_io *child, int status)
{
	struct raid_child *c = raid_child_of(child);
	struct bdev_io *io = c->parent;
	struct raid_channel *rc = raid_channel_of(io->ch);
	struct raid_io *x = bdev_io_ctx(io);
	enum raid_role now = rc->slots[c->slot].role;

	raid_child_came(x, c);
	raid_channel_came_back(rc);
	if (LIKELY(status == 0)) {
		x->good += c->role >= ROLE_JOINING && now >= ROLE_JOINING;
	} else {
		/* A target that has become a member meanwhile counts as one. */
		missed(rc, x, c->slot, now, status);
	}
	if (--x->pending == 0) {
		write_done_everywhere(rc, x);
	}
}

void
raid_all_submit(struct raid_channel *rc, struct bdev_io *io)
{
	const struct raid *raid = rc->raid;
	struct raid_io *x = bdev_io_ctx(io);

	x->pending = 1; /* the loop's own, for mirrors that fail at once */
	x->good = 0;
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_slot *s = &rc->slots[i];
		struct raid_child *c = raid_child_at(raid, raid_children(io), i);

		if (s->role == ROLE_NONE) {
			continue;
		}
		if (s->ch == NULL) {
			missed(rc, x, i, s->role, -ENODEV);
			continue;
		}
		raid_child_init(c, io, io->lba + s->offset, io->num_blocks, write_done);
		c->slot = i;
		c->role = s->role;
		raid_child_goes(x, c, i);
		x->pending++;
		bdev_submit(s->ch, &c->io);
	}
	if (--x->pending == 0) {
		bdev_io_complete(io, -EIO);
		rc->writes -= io->op != BDEV_FLUSH;
	}
}
