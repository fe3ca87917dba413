/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Log-linear histogram of unsigned values: each power of two in 64 equal parts, so that a value is
 * known to 1/64 (1.6 %); values below 128 exactly, those from HIST_LIMIT on as the largest that
 * fits. Pure; one writer.
 */
#ifndef BASE_HIST_H
#define BASE_HIST_H

#include <stdint.h>

#define HIST_PART_BITS 6
#define HIST_PARTS (1u << HIST_PART_BITS)
#define HIST_LIMIT_BITS 40
#define HIST_LIMIT (UINT64_C(1) << HIST_LIMIT_BITS)
#define HIST_BUCKETS ((HIST_LIMIT_BITS - HIST_PART_BITS + 1) * HIST_PARTS)

/* Zeroed before first use. */
struct hist {
	uint64_t count;
	uint64_t sum;
	uint64_t min; /* 0 when empty */
	uint64_t max;
	uint64_t buckets[HIST_BUCKETS];
};

static inline unsigned
hist_bucket(uint64_t value)
{
	unsigned shift;

	if (value < HIST_PARTS) {
		return (unsigned)value;
	}
	if (value >= HIST_LIMIT) {
		return HIST_BUCKETS - 1;
	}
	shift = 63u - (unsigned)__builtin_clzll(value) - HIST_PART_BITS;
	return shift * HIST_PARTS + (unsigned)(value >> shift);
}

static inline void
hist_add(struct hist *h, uint64_t value)
{
	h->buckets[hist_bucket(value)]++;
	h->sum += value;
	if (h->count++ == 0 || value < h->min) {
		h->min = value;
	}
	if (value > h->max) {
		h->max = value;
	}
}

void hist_merge(struct hist *to, const struct hist *from);

/*
 * The smallest value that per_10000 of 10,000 values do not exceed, to 1/64 upwards: 5000 is the
 * median, 9990 the 99.9th percentile. 0 when empty.
 */
uint64_t hist_quantile(const struct hist *h, unsigned per_10000);

/* Mean, rounded; 0 when empty. */
uint64_t hist_mean(const struct hist *h);

#endif
