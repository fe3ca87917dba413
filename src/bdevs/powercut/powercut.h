/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Powercut bdevs: their base, with a volatile write cache, and a power cut when it is wanted. What was not flushed is then
 * lost, kept, torn or out of order as base/powercut.h's rule says, by a seed; from the cut on all requests fail (-EIO)
 * until the power is restored. So one sees what a crash does to what stands on it, as often as one likes.
 *
 * The cache is in memory: the end of the process is a power cut that loses all that was not flushed. All functions:
 * app thread.
 */
#ifndef BDEVS_POWERCUT_POWERCUT_H
#define BDEVS_POWERCUT_POWERCUT_H

#include "base/err.h"
#include "base/powercut.h"
#include "bdev/bdev.h"

#define POWERCUT_CACHE_MIN ((size_t)4 << 20)
#define POWERCUT_CACHE_DEFAULT ((size_t)64 << 20)
#define POWERCUT_CACHE_MAX ((size_t)4 << 30)

struct powercut_bdev_options {
	const char *name;
	const char *base_name;
	uuid_t uuid;         /* all zero: made from the base's and the name */
	uint64_t seed;       /* of the rule; each cut uses another outcome of it */
	enum powercut_mode mode;
	uint32_t sector_bytes; /* power of two, 512 to 65536; 0: the base's physical block size */
	/* The power goes with so many-th write, which is not answered as done any more; 0: when asked to. Writes, and
	 * what zeroes or unmaps, of all channels are counted, from creation or restoring on. */
	uint64_t cut_after;
	/* What the cache holds at most; when it is full, all of it is written before more is taken. 0:
	 * POWERCUT_CACHE_DEFAULT. */
	size_t cache_bytes;
};

struct powercut_info {
	bool cut;
	bool settled;      /* what survived is on the base */
	uint64_t writes;   /* as counted for cut_after */
	uint64_t cuts;
	size_t unflushed_bytes;
};

/* Borrows options. A base that is not there yet is awaited: then *ret (may be NULL) is NULL. 0; -EINVAL (sizes);
 * -EEXIST; -EPERM (the base is written to, or claimed); -ENOMEM. */
int bdev_powercut_create(const struct powercut_bdev_options *options, struct bdev **ret,
			 struct err *err);

/* What is in the cache is written first, unless the power is off. 0: done(ctx, 0) follows, after the last user has
 * closed it; -ENODEV. done may be NULL. */
int bdev_powercut_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
			 struct err *err);

/* Cuts the power, if it is on; 0: done(ctx, status) follows, perhaps at once, when what survives is on the base, or could
 * not be written; -ENODEV; -ENOMEM. */
int bdev_powercut_cut(const char *name, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err);

/* Power again, until the cut_after-th write from now on (0: until asked). 0; -ENODEV; -EALREADY (it is on); -EBUSY (what
 * survives is still being written). */
int bdev_powercut_restore(const char *name, uint64_t cut_after, struct err *err);

/* False when bdev is no powercut bdev. Names are borrowed from it; for the saved configuration: cut_after as at
 * creation. */
bool bdev_powercut_get(const struct bdev *bdev, struct powercut_bdev_options *ret_options,
		       struct powercut_info *ret_info);
/* The i-th one, those that wait for their base (*ret_waits) too; false past the last. */
bool bdev_powercut_list(unsigned i, struct powercut_bdev_options *ret_options, bool *ret_waits);

#endif
