/* SPDX-License-Identifier: BSD-3-Clause */
/* What a server says of base:allocation, as extents of blocks. Pure. */
#ifndef BDEVS_NBD_EXTENTS_H
#define BDEVS_NBD_EXTENTS_H

#include <stddef.h>

#include "bdev/bdev.h"

/*
 * entries: pairs of a length in bytes and flags (NBD's: 1 a hole, 2 zeroes), from the beginning of the range on, count numbers in
 * all; they may say more or less than the num_blocks asked for, and need not end with a block. A block that several entries
 * share is allocated if one of them is, and zero if all are. Writes at most max extents; how many: 0 when not a whole block is
 * described.
 */
size_t nbd_extents(const uint32_t *entries, size_t count, uint32_t block_size, uint64_t num_blocks,
		   struct bdev_extent *out, size_t max);

#endif
