/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Split bdevs: a bdev divided into parts of one size, <base>p0, <base>p1, ... The parts come and go
 * with the base. All functions: app thread.
 */
#ifndef BDEVS_SPLIT_SPLIT_H
#define BDEVS_SPLIT_SPLIT_H

#include "base/err.h"
#include "bdev/bdev.h"

#define SPLIT_COUNT_MAX 4096

struct split_options {
	const char *base_name;
	uint32_t count;
	uint64_t size_mb; /* of a part, in MiB; 0: the base's blocks divided by count */
};

/*
 * Borrows options. A base that is not there yet is awaited. One with less room than count parts of
 * size_mb gets as many as fit. 0; -EINVAL (count, a size that is no multiple of the block size, or no
 * part fits); -EEXIST (split already; a part's name is taken); -EPERM (somebody writes to the base or
 * claims it); -ENOMEM.
 */
int bdev_split_create(const struct split_options *options, struct err *err);

/* 0: done(ctx, 0) follows, after the last user of the last part has closed it; -ENODEV: it is not split, or not any
 * more. done may be NULL. */
int bdev_split_delete(const char *base_name, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err);

/* The parts of a split, in their order: the one after bdev, the first for NULL; NULL: the end. */
struct bdev *bdev_split_next_part(const char *base_name, const struct bdev *bdev);

/* Of a part. False when bdev is none. */
struct split_info {
	const char *base_name;
	uint64_t offset_blocks;
};
bool bdev_split_info(const struct bdev *bdev, struct split_info *ret_info);

/* For the saved configuration: the i-th split, false past the last. */
bool bdev_split_get(unsigned i, struct split_options *ret_options);

#endif
