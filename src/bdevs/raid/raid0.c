/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Striped: strip s of the array is strip s / n of base s % n. Reads and writes are cut at strips by the core
 * (optimal_boundary_blocks), so each is for one base: it is passed down to it as it is (bdev/pass.c) or, where that may not be,
 * has one child in the request's own room. Ranges (unmap, zeroes) touch each base in one piece at most, and have children.
 *
 * Invariants
 *  1. A request that is passed down belongs to the base's channel until the base ends it, and is counted in flight on both: the
 *     array's channel is not closed before, nor are the bases' channels, which it holds (channel.c, invariant 4). A base that
 *     is removed ends its requests itself; then the array goes, as without them.
 *  2. Nothing here keeps account of it, so nothing here needs to hear of its end.
 */
#include <errno.h>

#include "bdevs/raid/internal.h"

/* ---- Reads and writes ---- */

static void
rw_done(struct bdev_io *child, int status)
{
	/* The first child stands where the room of the request begins. */
	struct bdev_io *io = (struct bdev_io *)(void *)((uint8_t *)child -
							offsetof(struct raid_child, io) -
							RAID_IO_BYTES - offsetof(struct bdev_io, ctx));

	bdev_io_complete_now(io, status);
}

/* Not inline: the way of what is passed down needs no registers saved for it. */
static __attribute__((noinline)) void
submit_child(const struct raid_entrance *e, const struct raid_way *way, struct bdev_io *io, uint64_t lba)
{
	struct bdev_io *child = &raid_child_at(e->rc->raid, raid_children(io), 0)->io;

	child->done = rw_done;
	child->iov = io->iov;
	child->lba = lba;
	child->num_blocks = io->num_blocks;
	bdev_io_set_kind(child, (enum bdev_op)io->op, io->flags & BDEV_IO_FUA, io->iovcnt);
	bdev_submit(way->pass.base, child);
}

static inline __attribute__((always_inline)) void
submit_rw(struct bdev_channel *ch, struct bdev_io *io, bool plain)
{
	struct raid_entrance *e = ch->module_ctx;
	uint64_t strip = io->lba >> e->strip_shift, row, lba;
	struct raid_way *way;

	if (LIKELY(e->base_shift != ODD_BASES)) {
		way = &e->ways[strip & e->base_mask];
		row = strip >> e->base_shift;
	} else {
		way = &e->ways[strip % (e->base_mask + UINT64_C(1))];
		row = strip / (e->base_mask + UINT64_C(1));
	}
	lba = (row << e->strip_shift) + (io->lba & e->strip_mask) + way->offset;
	if (UNLIKELY(!raid_pass(&way->pass, io, lba, plain))) {
		submit_child(e, way, io, lba);
	}
}

/* ---- Ranges ---- */

/* Blocks of base `slot` below block lba of the array. */
static uint64_t
blocks_below(const struct raid *raid, uint64_t lba, unsigned slot)
{
	uint64_t strip = lba / raid->strip_blocks, row = strip / raid->num_bases;
	unsigned at = (unsigned)(strip % raid->num_bases);
	uint64_t blocks = row * raid->strip_blocks;

	if (slot < at) {
		blocks += raid->strip_blocks;
	} else if (slot == at) {
		blocks += lba % raid->strip_blocks;
	}
	return blocks;
}

static void
submit_range(struct raid_channel *rc, struct raid *raid, struct bdev_io *io)
{
	struct raid_io *x = bdev_io_ctx(io);
	bool all = io->op == BDEV_FLUSH;

	x->pending = 0;
	x->status = 0;
	x->at = (struct slot_set){0};
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_child *c = raid_child_at(raid, raid_children(io), i);
		uint64_t from = all ? 0 : blocks_below(raid, io->lba, i);
		uint64_t to = all ? 0 : blocks_below(raid, io->lba + io->num_blocks, i);

		if (all || from < to) {
			raid_child_init(c, io, rc->slots[i].offset + from, to - from,
					raid_part_done);
			raid_child_goes(x, c, i);
			x->pending++;
			bdev_submit(rc->slots[i].ch, &c->io);
		}
	}
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct raid_channel *rc = raid_channel_of(ch);

	if (LIKELY(io->op <= BDEV_WRITE)) {
		submit_rw(ch, io, false);
	} else if (!raid_control(rc, io)) {
		submit_range(rc, rc->raid, io);
	}
}

/* Of reads and writes no account is kept: while one is there, its only child is at a base. */
static void
abort_target(struct raid_channel *rc, struct bdev_io *io)
{
	static const struct slot_set first = {.words = {1}};
	const struct raid_io *x = bdev_io_ctx(io->target);

	raid_abort_parts(rc, io, io->target->op <= BDEV_WRITE ? &first : &x->at);
}

static void
submit_plain(struct bdev_channel *ch, struct bdev_io *io)
{
	submit_rw(ch, io, true);
}

/* ---- Life ---- */

static const struct bdev_ops raid0_ops = {
	.module_name = "raid",
	.destruct = raid_bdev_destruct,
	.base = raid_bdev_base,
	.channel_create = raid_channel_create,
	.channel_destroy = raid_channel_destroy,
	.cancel = raid_cancel,
	.submit = submit,
	.submit_plain = submit_plain,
};

static int
start(struct raid *raid, struct err *err)
{
	uint64_t room = raid_room(raid, false), blocks = room - room % raid->strip_blocks;

	if (blocks == 0) {
		return err_set(err, -EINVAL, "RAID '%s': a base is smaller than a strip of %u KiB",
			       raid->name, raid->strip_kb);
	}
	raid_set_sizes(raid, blocks);
	raid_inherit(raid,
		     1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP |
			     1u << BDEV_WRITE_ZEROES,
		     raid->num_bases);
	raid->bdev.num_blocks = blocks * raid->num_bases;
	raid->bdev.optimal_boundary_blocks = raid->num_bases > 1 ? raid->strip_blocks : 0;
	return 0;
}

static bool
resize(struct raid *raid)
{
	uint64_t room = raid_room(raid, true), blocks = room - room % raid->strip_blocks;

	if (blocks * raid->num_bases <= bdev_num_blocks(&raid->bdev) ||
	    bdev_resize(&raid->bdev, blocks * raid->num_bases) != 0) {
		return false;
	}
	raid_set_sizes(raid, blocks);
	return true;
}

const struct raid_level_ops raid0_level = {
	.level = RAID_LEVEL_0,
	.name = "raid0",
	.least_bases = 1,
	.passes = true,
	.min_working = raid_all_bases,
	.bdev_ops = &raid0_ops,
	.start = start,
	.resize = resize,
	.abort = abort_target,
};
