/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the parts of the battery. */
#ifndef TESTKIT_BDEV_BATTERY_RUN_H
#define TESTKIT_BDEV_BATTERY_RUN_H

#include "testkit/bdev_battery.h"

struct run {
	struct env env;
	const struct battery *battery;
	struct env_worker *w; /* the first one, for what takes no other */
	uint64_t num_blocks;
	uint32_t bs;
};

/* Page-aligned; the caller frees it. */
uint8_t *battery_buffer(size_t bytes);
/* Different for each block and each use. */
void battery_pattern(uint8_t *p, size_t bytes, uint64_t seed);
void battery_write_pattern(struct run *r, uint64_t lba, uint64_t n, uint64_t seed);
/* Of blocks [skip, skip + n) of what battery_write_pattern() wrote from lba - skip on. */
void battery_expect_pattern(struct run *r, uint64_t lba, uint64_t n, uint64_t seed, uint64_t skip);
void battery_expect_zero(struct run *r, uint64_t lba, uint64_t n);

/* Compare, compare-and-write, copy, block status, seeking, abort. */
void battery_operations(struct run *r);

#endif
