/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where a file has data and where holes, by lseek(2). The descriptor's own position is of no use to
 * anybody else: all other calls name theirs. A file system that cannot tell says "all data", which is
 * true enough. Blocks that have a little data are data.
 *
 * Context: a worker, or the channel's thread for files in memory.
 */
#include <errno.h>
#include <unistd.h>

#include "bdevs/file/internal.h"

static void
append(struct bdev_io *io, uint64_t num_blocks, uint32_t flags)
{
	struct bdev_extent *last = io->result > 0 ? &io->extents[io->result - 1] : NULL;

	if (num_blocks == 0) {
		return;
	}
	if (last != NULL && last->flags == flags) {
		last->num_blocks += num_blocks;
	} else {
		io->extents[io->result++] = (struct bdev_extent){.num_blocks = num_blocks, .flags = flags};
	}
}

/* The first block from lba on that has data (want SEEK_DATA) or begins a hole, at most end. */
static int
next_of(const struct file_disk *d, uint64_t lba, uint64_t end, int want, uint64_t *ret_lba)
{
	off_t at = lseek(d->fd, (off_t)(lba * d->block_size), want);
	uint64_t block = (uint64_t)at / d->block_size;

	if (at < 0 && errno == ENXIO) { /* nothing more to the end of the file */
		*ret_lba = end;
		return 0;
	}
	if (at < 0) {
		return -errno;
	}
	if (want == SEEK_HOLE && (uint64_t)at % d->block_size != 0) {
		block++;
	}
	*ret_lba = MIN(MAX(block, lba), end);
	return 0;
}

int
file_block_status(struct file_disk *d, struct bdev_io *io)
{
	uint64_t lba = io->lba, end = io->lba + io->num_blocks, data = lba, hole = lba;

	io->result = 0;
	while (lba < end && io->result + 2 <= io->max_results) {
		int rc = next_of(d, lba, end, SEEK_DATA, &data);

		if (rc == 0) {
			rc = next_of(d, data < end ? data : lba, end, SEEK_HOLE, &hole);
		}
		if (rc == -EINVAL || rc == -EOPNOTSUPP) {
			data = lba;
			hole = end;
		} else if (rc != 0) {
			return rc;
		}
		hole = data >= end ? end : MAX(hole, data + 1);
		append(io, data - lba, BDEV_EXTENT_ZERO);
		append(io, hole - data, BDEV_EXTENT_ALLOCATED);
		lba = hole;
	}
	if (io->result == 0) { /* room for one only */
		int rc = next_of(d, lba, end, SEEK_DATA, &data);

		if (rc == 0 && data > lba) {
			append(io, data - lba, BDEV_EXTENT_ZERO);
		} else if (rc == 0 && next_of(d, lba, end, SEEK_HOLE, &hole) == 0) {
			append(io, MAX(hole, lba + 1) - lba, BDEV_EXTENT_ALLOCATED);
		} else {
			append(io, end - lba, BDEV_EXTENT_ALLOCATED);
		}
	}
	return 0;
}
