/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Zone_block bdevs: zones on a conventional bdev, for trying software that wants zones. A zone's
 * size is its capacity, rounded up to a power of two; what is left of the base behind the last whole
 * zone is not used. The states of zones live in memory: when the bdev comes, all zones are full, so
 * that what the base holds can be read; a zone is reset before it is written. All functions: app
 * thread.
 */
#ifndef BDEVS_ZONE_BLOCK_ZONE_BLOCK_H
#define BDEVS_ZONE_BLOCK_ZONE_BLOCK_H

#include "base/err.h"
#include "bdev/bdev.h"

#define ZONE_BLOCK_ZONES_MAX (UINT64_C(1) << 20)

struct zone_block_bdev_options {
	const char *name;
	const char *base_name;
	uint64_t zone_capacity; /* blocks, at least 1 */
	uint32_t optimal_open_zones; /* at least 1; a hint */
	uint32_t max_open_zones;   /* 0: any number */
	uint32_t max_active_zones; /* 0: any number; at least max_open_zones */
};

/* Borrows options. 0, and *ret (may be NULL) is the bdev, or NULL when it waits for its base;
 * -EINVAL (numbers, or the base has no whole zone or more than ZONE_BLOCK_ZONES_MAX); -EEXIST (the
 * name; or the base is zoned itself); -EPERM (the base is claimed, or open for writing); -ENOMEM. */
int bdev_zone_block_create(const struct zone_block_bdev_options *options, struct bdev **ret,
			   struct err *err);

/* 0: done(ctx, 0) follows, perhaps at once; -ENODEV: it is not called. */
int bdev_zone_block_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
			   struct err *err);

/* Of a bdev: false when it is none of zone_block's. Names are borrowed from it. */
bool bdev_zone_block_get_options(const struct bdev *bdev,
				 struct zone_block_bdev_options *ret_options);
/* Of all, those that wait for their base too: i counts from 0; false past the last. */
bool bdev_zone_block_list(unsigned i, struct zone_block_bdev_options *ret_options);

#endif
