/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Malloc bdevs: disks in ordinary memory, which is taken when first written and given back by
 * unmap. Their contents end with the process. What was never written, or was unmapped, is a hole.
 * All functions: app thread.
 */
#ifndef BDEVS_MALLOC_MALLOC_H
#define BDEVS_MALLOC_MALLOC_H

#include "base/err.h"
#include "bdev/bdev.h"

struct malloc_bdev_options {
	const char *name;
	uuid_t uuid; /* all zero: one is made */
	uint64_t num_blocks;
	uint32_t block_size;          /* power of two, 512 to 65536 */
	uint32_t physical_block_size; /* 0: block_size */
	uint32_t optimal_io_boundary; /* blocks, 0: none */
	uint32_t md_size;             /* metadata of a block: 0, 8, 16, 32, 64 or 128 bytes */
	bool md_interleave;           /* how exports show it; in memory it is apart */
	uint32_t dif_type;            /* protection information in md, 0: none; 1 to 3 */
	bool dif_is_head_of_md;       /* first in md, else last */
	uint32_t dif_pi_format;       /* enum dif_pi_format: 16, 32 and 64 bits of guard */
	bool on_numa_node; /* the memory comes from numa_node, else from any */
	uint32_t numa_node;
};

/* Borrows options. 0; -EINVAL (sizes, name); -EEXIST (name or UUID taken); -ENOMEM. ret may be
 * NULL. */
int bdev_malloc_create(const struct malloc_bdev_options *options, struct bdev **ret,
		       struct err *err);

/* Contents stay, new blocks are zero. 0; -ENODEV (no malloc bdev of that name); -EINVAL (size);
 * -EBUSY (smaller, or has to move, and open); -ENOMEM. */
int bdev_malloc_resize(const char *name, uint64_t num_blocks, struct err *err);

/* 0: done(ctx, 0) follows, after the last user has closed it; -ENODEV: done is not called. done
 * may be NULL. */
int bdev_malloc_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		       struct err *err);

/* For the saved configuration. False when bdev is not a malloc bdev. name is borrowed from it. */
bool bdev_malloc_get_options(const struct bdev *bdev, struct malloc_bdev_options *ret_options);

#endif
