/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How deep a bdev's queue is, looked at once a period. While nothing is in flight nobody looks: no
 * timer runs, and the next request starts it again.
 *
 * Context: the app thread.
 */
#ifndef BDEV_SAMPLING_H
#define BDEV_SAMPLING_H

#include "bdev/bdev.h"

#define BDEV_QD_PERIOD_US_MIN 100

struct bdev_queue_depth {
	uint64_t period_us; /* 0: not sampled */
	uint64_t queue_depth; /* at the last sample */
	uint64_t io_time_us; /* that it was not 0 */
	uint64_t weighted_io_time_us; /* the same times the depth */
};

/* 0: no more. Periods below BDEV_QD_PERIOD_US_MIN are that long. Counters start from 0. 0 or
 * -ENOMEM. */
int bdev_set_qd_sampling_period(struct bdev *bdev, uint64_t period_us);
void bdev_get_queue_depth(const struct bdev *bdev, struct bdev_queue_depth *ret_depth);

#endif
