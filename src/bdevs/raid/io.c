/* SPDX-License-Identifier: BSD-3-Clause */
/* What the levels have in common: what a bdev on several bases can do, and requests in several
 * parts that succeed or fail together (raid0, concat). */
#include <errno.h>

#include "bdevs/raid/internal.h"

/* What all bases can do; room for `children` requests to them. */
void
raid_inherit(struct raid *raid, uint32_t ops, unsigned children)
{
	struct bdev *bdev = &raid->bdev;
	size_t room = raid->level->redundant ? RAID_ROOM_MIN : 0;

	bdev->ops_mask = ops | 1u << BDEV_RESET | 1u << BDEV_ABORT;
	bdev->native_fua = true; /* the bases' core adds the flush */
	for (unsigned i = 0; i < raid->num_bases; i++) {
		const struct bdev *base = raid->bases[i].bdev;

		if (!raid->bases[i].configured) {
			continue;
		}
		for (int op = 0; op < BDEV_OP_COUNT; op++) {
			bool can = op == BDEV_FLUSH ? bdev_supports_natively(base, BDEV_FLUSH) ||
							      !bdev_write_cache(base)
						    : bdev_supports(base, op);

			bdev->ops_mask &= can ? UINT32_MAX : ~(1u << op);
		}
		bdev->write_cache = bdev->write_cache || base->write_cache;
		bdev->physical_block_size =
			MAX(bdev->physical_block_size, base->physical_block_size);
		bdev->buffer_align = MAX(bdev->buffer_align, base->buffer_align);
		bdev->unmap_granularity_blocks =
			MAX(bdev->unmap_granularity_blocks, base->unmap_granularity_blocks);
		room = MAX(room, bdev_io_bytes(base));
	}
	if (!bdev->write_cache) {
		bdev->ops_mask &= ~(1u << BDEV_FLUSH);
	}
	raid->child_bytes = offsetof(struct raid_child, io) + room;
	bdev->io_ctx_bytes = RAID_IO_BYTES + children * raid->child_bytes;
}

uint64_t
raid_room(const struct raid *raid, bool grow)
{
	uint64_t least = UINT64_MAX;

	for (unsigned i = 0; i < raid->num_bases; i++) {
		const struct raid_base *b = &raid->bases[i];

		if (b->data_size != 0 && !grow) {
			least = MIN(least, b->data_size);
		} else if (b->bdev != NULL) {
			least = MIN(least, bdev_num_blocks(b->bdev) - b->data_offset);
		}
	}
	return least;
}

void
raid_set_sizes(struct raid *raid, uint64_t blocks)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		raid->bases[i].data_size = blocks;
	}
}

unsigned
raid_all_bases(unsigned num_bases)
{
	return num_bases;
}

void
raid_part_done(struct bdev_io *child, int status)
{
	struct raid_child *c = raid_child_of(child);
	struct bdev_io *io = c->parent;
	struct raid_io *x = bdev_io_ctx(io);

	raid_child_came(x, c);
	if (x->status == 0) {
		x->status = status;
	}
	if (--x->pending == 0) {
		bdev_io_complete_now(io, x->status);
	}
}
