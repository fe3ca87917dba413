/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Quality of service: how much a bdev may do a second, and how those who have it open share that.
 *
 * Limited are the operations that carry data: reads, writes, compares, compare-and-writes, zone
 * appends; each counts once, as long as it is, however it is split below. Flushes, unmaps, zeroes,
 * copies, resets and aborts are not. What must wait keeps its order, reads and writes apart where
 * they have limits of their own. A reset cancels what waits.
 *
 * Context: the app thread.
 */
#ifndef BDEV_QOS_H
#define BDEV_QOS_H

#include "bdev/bdev.h"

/* What may be saved up while less than the limits is used, when nothing else is said. */
#define BDEV_QOS_BURST_MS_DEFAULT 10
#define BDEV_QOS_BURST_MS_MAX 3600000
#define BDEV_QOS_IOS_MAX 1000000000
#define BDEV_QOS_MBYTES_MAX 1000000
#define BDEV_QOS_WEIGHT_DEFAULT 100
#define BDEV_QOS_WEIGHT_MAX 10000
#define BDEV_USER_BYTES 256

/* 0: no limit. Mbytes are of 1024 * 1024 bytes. */
struct bdev_qos_limits {
	uint64_t rw_ios_per_sec;
	uint64_t rw_mbytes_per_sec;
	uint64_t r_mbytes_per_sec;
	uint64_t w_mbytes_per_sec;
	/* After a rest of so long, or longer, as much as this time allows may be done at once. */
	uint32_t burst_ms;
};

void bdev_get_qos_limits(const struct bdev *bdev, struct bdev_qos_limits *ret_limits);

/* 0; -EINVAL (out of bounds). */
int bdev_qos_check_limits(const struct bdev_qos_limits *limits, struct err *err);

/* done(ctx) when every channel knows. 0; -EINVAL (out of bounds); -ENOMEM. */
int bdev_set_qos_limits(struct bdev *bdev, const struct bdev_qos_limits *limits,
			void (*done)(void *ctx), void *ctx, struct err *err);

/*
 * While several users of bdev want more than its limits allow, they get it in proportion to their
 * weights, whatever their queue depths; what one leaves is the others'. The weight stays with the
 * name: of who has bdev open now, or will open it. 0: the default again. 0; -EINVAL; -ENOMEM.
 */
int bdev_set_qos_weight(struct bdev *bdev, const char *user, uint32_t weight, struct err *err);

/* Those that were set, in the order of setting; false past the last. */
bool bdev_get_qos_weight(const struct bdev *bdev, unsigned i, const char **ret_user,
			 uint32_t *ret_weight);

/* Who has desc open: a controller's name, an export's, the bdev's that stands on it. Copied. Before
 * its first channel. */
void bdev_desc_set_user(struct bdev_desc *desc, const char *user);

/* For those who show it: descriptors in the order of opening, NULL after the last. "": unnamed. */
struct bdev_desc *bdev_next_desc(struct bdev *bdev, struct bdev_desc *desc);
const char *bdev_desc_user(const struct bdev_desc *desc);
uint32_t bdev_desc_weight(const struct bdev_desc *desc);

#endif
