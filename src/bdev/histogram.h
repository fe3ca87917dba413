/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Latency histograms of a bdev, one an operation, in the shape that SPDK's tools know: each power of
 * two, a range, in 2^granularity buckets of the same width; of ranges only those that can hold
 * min_ns to max_ns are kept, what is below is in the first bucket, what is above in the last.
 *
 * Context: the app thread.
 */
#ifndef BDEV_HISTOGRAM_H
#define BDEV_HISTOGRAM_H

#include "bdev/bdev.h"

#define BDEV_HISTOGRAM_GRANULARITY_DEFAULT 7
#define BDEV_HISTOGRAM_GRANULARITY_MAX 10
#define BDEV_HISTOGRAM_MIN_NS_DEFAULT UINT64_C(1000)
#define BDEV_HISTOGRAM_MAX_NS_DEFAULT UINT64_C(120000000000)
/* In place of an operation: all of them. */
#define BDEV_OP_ANY BDEV_OP_COUNT

struct bdev_histogram_options {
	enum bdev_op op; /* what is counted */
	unsigned granularity;
	uint64_t min_ns, max_ns;
};

#define BDEV_HISTOGRAM_DEFAULTS \
	((struct bdev_histogram_options){BDEV_OP_ANY, BDEV_HISTOGRAM_GRANULARITY_DEFAULT, \
					 BDEV_HISTOGRAM_MIN_NS_DEFAULT, \
					 BDEV_HISTOGRAM_MAX_NS_DEFAULT})

/* Starts counting, from zero, or with NULL stops; done(ctx) when all channels do. 0; -EINVAL (not a
 * possible histogram); -ENOMEM. */
int bdev_set_histogram(struct bdev *bdev, const struct bdev_histogram_options *options,
		       void (*done)(void *ctx), void *ctx, struct err *err);
/* False: none is kept. */
bool bdev_get_histogram_options(const struct bdev *bdev,
				struct bdev_histogram_options *ret_options);

struct bdev_histogram {
	unsigned granularity;
	unsigned min_range, max_range;
	size_t bucket_count; /* (max_range - min_range + 1) << granularity */
	uint64_t buckets[];
};

/* The sum over all channels, those already closed included, of one operation or of all; done(ctx,
 * histogram) later, which it borrows. 0; -ENOENT (none is kept); -ENOMEM. */
int bdev_get_histogram(struct bdev *bdev, enum bdev_op op,
		       void (*done)(void *ctx, const struct bdev_histogram *histogram), void *ctx,
		       struct err *err);

/* The first value that is too great for bucket i, in nanoseconds. */
uint64_t bdev_histogram_end(const struct bdev_histogram *h, size_t i);

#endif
