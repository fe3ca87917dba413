/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * GPT bdevs: partitions that are meant for us, found on any bdev that is examined. <base>p<number> is on partition `number`, and
 * its UUID is the partition's unique GUID. They come with their base and go with it.
 *
 * A table is somebody's bytes, a guest's perhaps: one that is wrong in any way is ignored, and one that is right gives
 * no more than bdevs on its own base, which go again when somebody wants to write to the base itself (a controller does)
 * while nobody uses them. Partitions are not examined for tables in turn. A base that is open for writing, or claimed, is
 * left alone. All functions: app thread.
 */
#ifndef BDEVS_GPT_GPT_H
#define BDEVS_GPT_GPT_H

#include <stdbool.h>
#include <stdint.h>

#include "bdevs/gpt/parse.h"

struct bdev;
struct bdev_examiner;

extern const struct bdev_examiner gpt_examiner;

/* An examination is given up after this time: a base that does not answer holds nobody up. */
#define GPT_TIMEOUT_US (UINT64_C(10) * 1000000)

struct gpt_info {
	const char *base_name; /* borrowed from the bdev, as what follows */
	const struct gpt_partition *partition;
	uuid_t disk_guid;
};

/* False when bdev is no partition. */
bool bdev_gpt_info(const struct bdev *bdev, struct gpt_info *ret_info);

#endif
