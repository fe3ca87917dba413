/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Mirrored. A write goes to every base that has a role; a read to one member.
 *
 * Invariants
 *  1. A write is acknowledged when it has succeeded on a member and every member that missed it is
 *     out (all.c).
 *  2. A write that no member took ends with an error and costs no member its place: what is in these
 *     blocks is not defined until they are written again, and as the mirrors may differ there, they
 *     are resynchronised (process.c).
 *  3. A read that fails, and was not given up, is given to the other members, one after another; a member that could not
 *     read what another one could is written again (repair.c). So reads are not passed down: what is passed goes back to its
 *     submitter past this module.
 *  4. Buffers do not change between the mirrors' copies: needs_stable_data. Two writes of the same
 *     blocks at the same time, which no file system does, may end in different order on two
 *     mirrors, as on two disks.
 * Reads: a stream stays where it is, for a disk's head and read-ahead; others go to the member with
 * the fewest under way. While mirrors may differ (after an unclean stop) all come from the first.
 * Context: the channel's thread.
 */
#include <errno.h>

#include "bdevs/raid/internal.h"

/* ---- Writes ---- */

static void
submit_write(struct raid_channel *rc, struct bdev_io *io)
{
	if (io->op != BDEV_FLUSH) {
		if (UNLIKELY(!rc->writable)) {
			raid_intent_park(rc, bdev_io_ctx(io));
			return;
		}
		rc->wrote = true;
		rc->writes++;
	}
	raid_all_submit(rc, io);
}

/* ---- Reads ---- */

#define NO_SLOT UINT32_MAX

static bool
may_read(const struct raid_channel *rc, unsigned i, const struct slot_set *tried)
{
	return rc->slots[i].role == ROLE_MEMBER && rc->slots[i].ch != NULL && !slot_set_has(tried, i);
}

static unsigned
choose(struct raid_channel *rc, const struct bdev_io *io, const struct slot_set *tried)
{
	unsigned n = rc->raid->num_bases, best = NO_SLOT;

	for (unsigned k = 0; k < n; k++) {
		unsigned i = rc->primary_only ? k : (rc->next_reader + k) % n;

		if (!may_read(rc, i, tried)) {
			continue;
		}
		if (rc->primary_only || rc->slots[i].next_lba == io->lba) {
			return i;
		}
		if (best == NO_SLOT || rc->slots[i].reads < rc->slots[best].reads) {
			best = i;
		}
	}
	return best;
}

static void read_from(struct raid_channel *rc, struct bdev_io *io, unsigned slot);

static void
read_done(struct bdev_io *child, int status)
{
	struct raid_child *c = raid_child_of(child);
	struct bdev_io *io = c->parent;
	struct raid_channel *rc = raid_channel_of(io->ch);
	struct raid_io *x = bdev_io_ctx(io);
	unsigned next;

	raid_child_came(x, c);
	rc->slots[c->slot].reads--;
	raid_channel_came_back(rc);
	if (LIKELY(status == 0)) {
		for (unsigned i = 0; UNLIKELY(x->status != 0) && i < rc->raid->num_bases; i++) {
			if (slot_set_has(&x->failed, i) && i != c->slot) {
				raid_repair_ask(rc->raid, i, io->lba, io->num_blocks);
			}
		}
		bdev_io_complete_now(io, 0);
		return;
	}
	if (UNLIKELY(raid_given_up(rc, x))) {
		bdev_io_complete_now(io, rc->cancel_status);
		return;
	}
	slot_set_add(&x->failed, c->slot);
	x->status = x->status == 0 ? status : x->status;
	if (status == -ENODEV && rc->slots[c->slot].role == ROLE_MEMBER) {
		raid_base_report(rc->raid, c->slot, status);
	}
	raid_channel_look(rc);
	next = choose(rc, io, &x->failed);
	if (next == NO_SLOT) {
		bdev_io_complete_now(io, x->status == -ENODEV ? -EIO : x->status);
	} else {
		read_from(rc, io, next);
	}
}

static void
read_from(struct raid_channel *rc, struct bdev_io *io, unsigned slot)
{
	struct raid_child *c = raid_child_at(rc->raid, raid_children(io), 0);
	struct raid_slot *s = &rc->slots[slot];

	raid_child_goes(bdev_io_ctx(io), c, 0);

	raid_child_init(c, io, io->lba + s->offset, io->num_blocks, read_done);
	c->slot = slot;
	s->reads++;
	s->next_lba = io->lba + io->num_blocks;
	rc->next_reader = slot + 1;
	bdev_submit(s->ch, &c->io);
}

static void
submit_read(struct raid_channel *rc, struct bdev_io *io)
{
	struct raid_io *x = bdev_io_ctx(io);
	unsigned slot;

	slot = choose(rc, io, &x->failed);
	if (UNLIKELY(slot == NO_SLOT)) {
		bdev_io_complete(io, -EIO);
	} else {
		read_from(rc, io, slot);
	}
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct raid_channel *rc = raid_channel_of(ch);

	raid_channel_look(rc);
	if (io->op >= BDEV_RESET && raid_control(rc, io)) {
		return;
	}
	raid_io_init(rc, bdev_io_ctx(io));
	if (io->op == BDEV_READ) {
		submit_read(rc, io);
	} else {
		submit_write(rc, io);
	}
}

/* ---- Life ---- */

static const struct bdev_ops raid1_ops = {
	.module_name = "raid",
	.destruct = raid_bdev_destruct,
	.base = raid_bdev_base,
	.channel_create = raid_channel_create,
	.channel_destroy = raid_channel_destroy,
	.cancel = raid_cancel,
	.submit = submit,
};

static int
start(struct raid *raid, struct err *err)
{
	uint64_t blocks = raid_room(raid, false);

	raid_set_sizes(raid, blocks);
	raid_inherit(raid,
		     1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP |
			     1u << BDEV_WRITE_ZEROES,
		     raid->num_bases);
	raid->bdev.num_blocks = blocks;
	raid->bdev.needs_stable_data = true;
	return 0;
}

static bool
resize(struct raid *raid)
{
	uint64_t blocks = raid_room(raid, true);

	if (blocks <= bdev_num_blocks(&raid->bdev) || bdev_resize(&raid->bdev, blocks) != 0) {
		return false;
	}
	raid_set_sizes(raid, blocks);
	return true;
}

static unsigned
one(unsigned num_bases)
{
	return 1;
}

const struct raid_level_ops raid1_level = {
	.level = RAID_LEVEL_1,
	.name = "raid1",
	.least_bases = 2,
	.redundant = true,
	.min_working = one,
	.bdev_ops = &raid1_ops,
	.start = start,
	.resize = resize,
	.release_held = raid_all_release,
	.resubmit = submit_write,
	.end_waiting = raid_all_end_waiting,
};
