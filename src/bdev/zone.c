/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What requests to zoned bdevs may ask for. What state a zone is in, and where it may be written,
 * is the module's business.
 *
 * Statuses of zoned requests, the same from every module: -EINVAL: not the start of a zone, across
 * its end, or not possible in its state; -ESPIPE: a write elsewhere than at the write pointer;
 * -ENOSPC: beyond the zone's capacity; -ETOOMANYREFS: too many open zones; -EOVERFLOW: too many
 * active ones; -EROFS, -ENXIO: the zone is read-only, offline.
 */
#include <errno.h>

#include "bdev/internal.h"

void
bdev_zones(const struct bdev *bdev, struct bdev_zones *ret_zones)
{
	*ret_zones = (struct bdev_zones){
		.zone_blocks = bdev->zone_blocks,
		.max_open = bdev->max_open_zones,
		.max_active = bdev->max_active_zones,
		.optimal_open = bdev->optimal_open_zones,
		.max_append_blocks = bdev->max_append_blocks,
	};
}

static bool
starts_zone(const struct bdev *bdev, uint64_t lba)
{
	return lba % bdev->zone_blocks == 0;
}

/* Lengths of 0 were dealt with before. */
static bool
within_zone(const struct bdev *bdev, const struct bdev_io *io)
{
	return io->num_blocks <= bdev->zone_blocks - io->lba % bdev->zone_blocks;
}

int
zone_check(const struct bdev_channel *ch, const struct bdev_io *io)
{
	const struct bdev *bdev = ch->bdev;
	bool right = true;

	switch (io->op) {
	case BDEV_ZONE_REPORT:
		right = io->lba < ch->num_blocks && io->max_results != 0;
		break;
	case BDEV_ZONE_MANAGE:
		right = io->lba < ch->num_blocks && starts_zone(bdev, io->lba) &&
			(unsigned)io->zone_action <= BDEV_ZONE_DO_OFFLINE;
		break;
	case BDEV_ZONE_APPEND: /* nobody knows the reference tags yet */
		right = starts_zone(bdev, io->lba) && within_zone(bdev, io) &&
			(io->flags & BDEV_IO_MD) == 0 &&
			(bdev->max_append_blocks == 0 || io->num_blocks <= bdev->max_append_blocks);
		break;
	case BDEV_WRITE:
	case BDEV_WRITE_ZEROES:
	case BDEV_COMPARE_AND_WRITE:
		right = within_zone(bdev, io);
		break;
	default:
		break;
	}
	return right ? 0 : -EINVAL;
}
