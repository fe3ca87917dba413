/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One base after another, each in whole strips. The core cuts reads and writes at strips, so that none reaches into two
 * bases; they are passed down to it as they are, as raid0.c explains.
 */
#include <errno.h>
#include <stdlib.h>

#include "bdevs/raid/internal.h"

/* The base that block lba is on. */
static unsigned
base_of(const struct raid *raid, uint64_t lba)
{
	unsigned low = 0, high = raid->num_bases;

	while (high - low > 1) {
		unsigned middle = (low + high) / 2;

		if (lba < raid->starts[middle]) {
			high = middle;
		} else {
			low = middle;
		}
	}
	return low;
}

static void
submit_part(struct raid_channel *rc, struct bdev_io *io, unsigned i, uint64_t lba,
	    uint64_t num_blocks)
{
	const struct raid *raid = rc->raid;
	struct raid_child *c = raid_child_at(raid, raid_children(io), i);

	raid_child_init(c, io, lba - raid->starts[i] + rc->slots[i].offset, num_blocks,
			raid_part_done);
	raid_child_goes(bdev_io_ctx(io), c, i);
	bdev_submit(rc->slots[i].ch, &c->io);
}

/* Reads, writes and ranges, which may reach into more bases; flushes, which go to all. */
static void
submit_parts(struct raid_channel *rc, struct bdev_io *io)
{
	const struct raid *raid = rc->raid;
	struct raid_io *x = bdev_io_ctx(io);
	unsigned first = 0, last = raid->num_bases - 1;
	uint64_t end = io->lba + io->num_blocks;

	x->status = 0;
	x->at = (struct slot_set){0};
	if (io->op != BDEV_FLUSH) {
		first = base_of(raid, io->lba);
		last = end <= raid->starts[first + 1] ? first : base_of(raid, end - 1);
	}
	x->pending = last - first + 1;
	for (unsigned i = first; i <= last; i++) {
		if (io->op == BDEV_FLUSH) {
			submit_part(rc, io, i, raid->starts[i], 0);
		} else {
			uint64_t from = MAX(io->lba, raid->starts[i]);

			submit_part(rc, io, i, from, MIN(end, raid->starts[i + 1]) - from);
		}
	}
}

/* A read or write lies on one base. */
static inline __attribute__((always_inline)) bool
pass(struct bdev_channel *ch, struct bdev_io *io, bool plain)
{
	struct raid_entrance *e = ch->module_ctx;
	const struct raid *raid = e->rc->raid;
	unsigned i = base_of(raid, io->lba);

	return raid_pass(&e->ways[i].pass, io, io->lba - raid->starts[i] + e->ways[i].offset, plain);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct raid_channel *rc = raid_channel_of(ch);

	if (io->op <= BDEV_WRITE ? !pass(ch, io, false) : !raid_control(rc, io)) {
		submit_parts(rc, io);
	}
}

static void
submit_plain(struct bdev_channel *ch, struct bdev_io *io)
{
	if (UNLIKELY(!pass(ch, io, true))) {
		submit_parts(raid_channel_of(ch), io);
	}
}

/* ---- Life ---- */

static const struct bdev_ops concat_ops = {
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
	uint64_t sum = 0;

	free(raid->starts);
	raid->starts = calloc(raid->num_bases + 1u, sizeof(*raid->starts));
	if (raid->starts == NULL) {
		return err_set(err, -ENOMEM, "RAID '%s': out of memory", raid->name);
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];
		uint64_t blocks = b->data_size != 0 ? b->data_size
						    : bdev_num_blocks(b->bdev) - b->data_offset;

		b->data_size = blocks - blocks % raid->strip_blocks;
		if (b->data_size == 0) {
			return err_set(err, -EINVAL,
				       "RAID '%s': '%s' is smaller than a strip of %u KiB",
				       raid->name, b->name, raid->strip_kb);
		}
		raid->starts[i] = sum;
		sum += b->data_size;
	}
	raid->starts[raid->num_bases] = sum;
	raid_inherit(raid,
		     1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP |
			     1u << BDEV_WRITE_ZEROES,
		     raid->num_bases);
	raid->bdev.num_blocks = sum;
	raid->bdev.optimal_boundary_blocks = raid->strip_blocks;
	return 0;
}

const struct raid_level_ops concat_level = {
	.level = RAID_LEVEL_CONCAT,
	.name = "concat",
	.least_bases = 1,
	.passes = true,
	.min_working = raid_all_bases,
	.bdev_ops = &concat_ops,
	.start = start,
};
