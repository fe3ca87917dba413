/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What verify writes: every block says where it belongs, which write of this place it is, and of
 * which run, and all its other bytes follow from these. Pure.
 */
#ifndef APP_PERF_PATTERN_H
#define APP_PERF_PATTERN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct perf_pattern {
	uint64_t seed;
	uint32_t generation; /* of this place, from 1 on */
	uint32_t block_size; /* bytes, a multiple of 512 */
};

/* Fills count blocks that start with block number lba of the device. buf is aligned to 8 bytes. */
void perf_pattern_fill(const struct perf_pattern *pattern, uint64_t lba, unsigned count, void *buf);

/* True when all count blocks are as filled; else says in text which one is first wrong, and how. */
bool perf_pattern_check(const struct perf_pattern *pattern, uint64_t lba, unsigned count,
			const void *buf, char *text, size_t text_bytes);

#endif
