/* SPDX-License-Identifier: BSD-3-Clause */
/* What berth iostat and berth histogram make of the target's numbers. Pure, but for the printing. */
#ifndef APP_CTL_IOSTAT_H
#define APP_CTL_IOSTAT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

/* ---- ctl_iostat.c ---- */

/* One bdev between two answers of bdev_get_iostat. NAN: not known. */
struct iostat_row {
	double read_ops, write_ops, other_ops; /* a second */
	double read_mbytes, write_mbytes;      /* of 1024 * 1024 bytes, a second */
	double read_us, write_us;              /* on average */
	double queue;                          /* depth, on average */
	double util;                           /* per cent of the time that it had something to do */
	double errors;                         /* in all of the time between */
};

/* before and after: elements of `bdevs`; seconds between them, ticks a second. */
void iostat_compare(const json_t *before, const json_t *after, double seconds, double tick_rate,
		    struct iostat_row *ret_row);

/* ---- ctl_histogram.c ---- */

struct latencies {
	unsigned granularity, min_range, max_range;
	uint64_t ticks_a_second;
	size_t bucket_count;
	uint64_t *buckets;
};

/* The result of bdev_get_histogram. 0 or -EINVAL. */
int latencies_read(const json_t *result, struct latencies *ret_l, struct err *err);
void latencies_release(struct latencies *l);
/* Leaves what came after `before`; false: they do not fit each other. */
bool latencies_subtract(struct latencies *l, const struct latencies *before);
uint64_t latencies_total(const struct latencies *l);
/* The latency that per_million of a million requests do not exceed, in microseconds; 0: none. */
double latencies_quantile_us(const struct latencies *l, unsigned per_million);
/* The picture. */
void latencies_print(const struct latencies *l, const char *title, FILE *out);
json_t *latencies_json(const struct latencies *l, const char *name);

#endif
