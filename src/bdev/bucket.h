/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A rate limit that several threads draw from, and their shares of it: time that is spent. At a
 * limit of 1,000 a second each request costs a millisecond; a bucket knows until when time has been
 * spent, and nobody spends time that is still to come, but for the rest of one request. So the
 * limit is exact over any time, at any rate, without a tick.
 *
 * Any thread; lock-free. Times are nanoseconds of one clock, passed in.
 */
#ifndef BDEV_BUCKET_H
#define BDEV_BUCKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"

struct bucket {
	_Alignas(CACHE_LINE_BYTES) _Atomic uint64_t spent_until;
};

/* Time left to spend, of which at most `save` is kept; less than 0: a debt. */
static inline int64_t
bucket_left(const struct bucket *b, uint64_t now, uint64_t save)
{
	int64_t left = (int64_t)(now - atomic_load_explicit(&b->spent_until, memory_order_relaxed));

	return MIN(left, (int64_t)save);
}

/* Takes `need`, going into debt for it if need be, or up to `quantum` where that much is left; the
 * time taken. 0: there is a debt already. */
uint64_t bucket_take(struct bucket *b, uint64_t now, uint64_t save, uint64_t need,
		     uint64_t quantum);
void bucket_return(struct bucket *b, uint64_t ns);
/* Nothing saved, no debt. */
void bucket_start(struct bucket *b, uint64_t now);
/* The limit has changed: a time that cost `before` costs `after` now; a debt is as many requests as
 * it was. */
void bucket_rescale(struct bucket *b, uint64_t now, double factor);

/*
 * Shares. Each share has a clock of its own that runs by what it has used, the slower the greater
 * its weight, and there is one clock for all. Who is not ahead of that may draw. When all are, time
 * piles up in the bucket (FAIR_STANDING_NS); then whoever comes sets the common clock forward by a
 * slice, for all. So nobody needs to know who else is there, and what one leaves others get.
 */
#define FAIR_STANDING_NS 1000000
#define FAIR_SLICE_NS 250000
/* How far behind a share may be: what it did not want then is not given back to it later. */
#define FAIR_LAG_NS 10000000
#define FAIR_WEIGHT_ONE 100u

struct fair {
	_Alignas(CACHE_LINE_BYTES) _Atomic uint64_t clock;
};

struct fair_share {
	_Atomic uint64_t clock; /* 0: has not used anything yet */
	_Atomic uint32_t weight;
};

/* left: the least of the buckets that are to be drawn from. 0: it may draw; else: not before so
 * many nanoseconds have passed. */
uint64_t fair_wait(struct fair *f, struct fair_share *s, int64_t left);
void fair_use(struct fair_share *s, uint64_t ns);

#endif
