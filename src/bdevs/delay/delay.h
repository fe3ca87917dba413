/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Delay bdevs: their base, slower. Reads and writes are answered some time after the base has answered: one of a
 * hundred, picked at random, after the "p99" latency, the others after the "average" one. All functions: app thread.
 */
#ifndef BDEVS_DELAY_DELAY_H
#define BDEVS_DELAY_DELAY_H

#include "base/err.h"
#include "bdev/bdev.h"

/* Longest latency: a day. */
#define DELAY_MAX_US (UINT64_C(24) * 3600 * 1000000)

enum delay_latency {
	DELAY_AVG_READ,
	DELAY_P99_READ,
	DELAY_AVG_WRITE,
	DELAY_P99_WRITE,
	DELAY_LATENCY_COUNT
};

struct delay_bdev_options {
	const char *name;
	const char *base_name;
	uuid_t uuid; /* all zero: made from the base's */
	uint64_t latency_us[DELAY_LATENCY_COUNT];
};

/*
 * Borrows options. A base that is not there yet is awaited: then *ret (may be NULL) is NULL. 0; -EEXIST (name taken);
 * -EINVAL (a latency too long); -EPERM (the base is written to, or claimed); -ENOMEM.
 */
int bdev_delay_create(const struct delay_bdev_options *options, struct bdev **ret,
		      struct err *err);

/* Requests that wait already keep the latency they have, and those that come now wait behind them. 0; -ENODEV; -EINVAL. */
int bdev_delay_update_latency(const char *name, enum delay_latency which, uint64_t latency_us,
			      struct err *err);

/* 0: done(ctx, 0) follows, after the last user has closed it; -ENODEV. done may be NULL. */
int bdev_delay_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err);

/* For the saved configuration. False when bdev is no delay bdev. Names are borrowed from it. */
bool bdev_delay_get_options(const struct bdev *bdev, struct delay_bdev_options *ret_options);
/* The i-th one, those that wait for their base (*ret_waits) too; false past the last. */
bool bdev_delay_list(unsigned i, struct delay_bdev_options *ret_options, bool *ret_waits);

#endif
