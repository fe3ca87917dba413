/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Null bdevs: writes are dropped, reads succeed and leave the buffers as they are (they do not
 * clear a guest's memory). For measuring everything but the storage. Metadata is checked when it is
 * written, and read as that of blocks that were never written. All functions: app thread.
 */
#ifndef BDEVS_NULL_NULL_H
#define BDEVS_NULL_NULL_H

#include "base/err.h"
#include "bdev/bdev.h"

struct null_bdev_options {
	const char *name;
	uuid_t uuid; /* all zero: one is made */
	uint64_t num_blocks;
	uint32_t block_size;          /* power of two, 512 to 65536 */
	uint32_t physical_block_size; /* 0: block_size */
	uint32_t md_size;             /* metadata of a block: 0, 8, 16, 32, 64 or 128 bytes */
	uint32_t dif_type;            /* protection information in md, 0: none; 1 to 3 */
	bool dif_is_head_of_md;       /* first in md, else last */
	uint32_t dif_pi_format;       /* enum dif_pi_format */
	struct bdev_hints hints;      /* what it says it likes */
};

/* Borrows options. 0; -EINVAL (sizes, name); -EEXIST (name or UUID taken); -ENOMEM. ret may be
 * NULL. */
int bdev_null_create(const struct null_bdev_options *options, struct bdev **ret, struct err *err);

/* 0; -ENODEV (no null bdev of that name); -EINVAL (size); -EBUSY (smaller, and open). */
int bdev_null_resize(const char *name, uint64_t num_blocks, struct err *err);

/* 0: done(ctx, 0) follows, after the last user has closed it; -ENODEV: done is not called. done
 * may be NULL. */
int bdev_null_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		     struct err *err);

/* For the saved configuration. False when bdev is not a null bdev. name is borrowed from it. */
bool bdev_null_get_options(const struct bdev *bdev, struct null_bdev_options *ret_options);

#endif
