/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/nbd/extents.h"

#include "base/check.h"

#define HOLE 1u
#define ZERO 2u

struct cursor {
	struct bdev_extent *out;
	size_t count, max;
	uint64_t left; /* blocks */
	bool full;
};

static void
put(struct cursor *c, uint64_t num_blocks, uint32_t flags)
{
	num_blocks = MIN(num_blocks, c->left);
	if (num_blocks == 0 || c->full) {
		return;
	}
	if (c->count > 0 && c->out[c->count - 1].flags == flags) {
		c->out[c->count - 1].num_blocks += num_blocks;
	} else if (c->count < c->max) {
		c->out[c->count++] = (struct bdev_extent){.num_blocks = num_blocks, .flags = flags};
	} else {
		c->full = true;
		return;
	}
	c->left -= num_blocks;
}

size_t
nbd_extents(const uint32_t *entries, size_t count, uint32_t block_size, uint64_t num_blocks,
	    struct bdev_extent *out, size_t max)
{
	struct cursor c = {.out = out, .max = max, .left = num_blocks};
	uint32_t partial = 0, flags = 0; /* bytes of the block that is not whole yet, and what it is so far */

	for (size_t i = 0; i + 1 < count && c.left > 0 && !c.full; i += 2) {
		uint64_t bytes = entries[i];
		uint32_t is = ((entries[i + 1] & HOLE) == 0 ? BDEV_EXTENT_ALLOCATED : 0) |
			      ((entries[i + 1] & ZERO) != 0 ? BDEV_EXTENT_ZERO : 0);

		if (partial > 0 && bytes > 0) {
			uint64_t n = MIN(bytes, (uint64_t)(block_size - partial));

			flags = ((flags | is) & BDEV_EXTENT_ALLOCATED) | (flags & is & BDEV_EXTENT_ZERO);
			partial += (uint32_t)n;
			bytes -= n;
			if (partial == block_size) {
				put(&c, 1, flags);
				partial = 0;
			}
		}
		put(&c, bytes / block_size, is);
		if (partial == 0 && bytes % block_size > 0) {
			partial = (uint32_t)(bytes % block_size);
			flags = is;
		}
	}
	return c.count;
}
