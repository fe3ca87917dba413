/* SPDX-License-Identifier: BSD-3-Clause */
/* Log-linear histogram: what is asked of it afterwards. */
#include "base/hist.h"

#include "base/check.h"

void
hist_merge(struct hist *to, const struct hist *from)
{
	if (from->count == 0) {
		return;
	}
	to->min = to->count == 0 ? from->min : MIN(to->min, from->min);
	to->max = MAX(to->max, from->max);
	to->count += from->count;
	to->sum += from->sum;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		to->buckets[i] += from->buckets[i];
	}
}

/* The largest value that falls into a bucket. */
static uint64_t
bucket_top(unsigned bucket)
{
	unsigned shift;

	if (bucket < 2 * HIST_PARTS) {
		return bucket;
	}
	shift = bucket / HIST_PARTS - 1;
	return ((uint64_t)(bucket % HIST_PARTS + HIST_PARTS + 1) << shift) - 1;
}

uint64_t
hist_quantile(const struct hist *h, unsigned per_10000)
{
	/* Round up: of ten values, the 99th percentile is the tenth. */
	uint64_t rank = (uint64_t)(((unsigned __int128)h->count * per_10000 + 9999) / 10000);
	uint64_t seen = 0;

	for (unsigned i = 0; i < HIST_BUCKETS && h->count > 0; i++) {
		seen += h->buckets[i];
		if (seen >= rank && seen > 0) {
			return MAX(h->min, MIN(h->max, bucket_top(i)));
		}
	}
	return 0;
}

uint64_t
hist_mean(const struct hist *h)
{
	return h->count == 0 ? 0 : (h->sum + h->count / 2) / h->count;
}
