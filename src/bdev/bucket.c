/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * See bucket.h. Invariants
 *  1. spent_until grows by exactly what is taken and not returned, except that time which nobody
 *     wanted and that is more than may be saved is lost.
 *  2. A share's clock grows by what it uses times FAIR_WEIGHT_ONE over its weight, and is never
 *     more than FAIR_LAG_NS behind the common clock when it draws.
 */
#include "bdev/bucket.h"

uint64_t
bucket_take(struct bucket *b, uint64_t now, uint64_t save, uint64_t need, uint64_t quantum)
{
	uint64_t old = atomic_load_explicit(&b->spent_until, memory_order_relaxed), base, take;

	do {
		int64_t left = MIN((int64_t)(now - old), (int64_t)save);

		if (left < 0) {
			return 0;
		}
		base = now - (uint64_t)left;
		take = MAX(need, MIN(quantum, (uint64_t)left));
	} while (!atomic_compare_exchange_weak_explicit(&b->spent_until, &old, base + take,
							memory_order_relaxed,
							memory_order_relaxed));
	return take;
}

void
bucket_return(struct bucket *b, uint64_t ns)
{
	atomic_fetch_sub_explicit(&b->spent_until, ns, memory_order_relaxed);
}

void
bucket_start(struct bucket *b, uint64_t now)
{
	atomic_store_explicit(&b->spent_until, now, memory_order_relaxed);
}

void
bucket_rescale(struct bucket *b, uint64_t now, double factor)
{
	uint64_t old = atomic_load_explicit(&b->spent_until, memory_order_relaxed), new;

	do {
		int64_t debt = (int64_t)(old - now);

		if (debt <= 0) {
			return;
		}
		new = now + (uint64_t)MIN((double)debt * factor, 1e18);
	} while (!atomic_compare_exchange_weak_explicit(&b->spent_until, &old, new,
							memory_order_relaxed,
							memory_order_relaxed));
}

/* ---- Shares ---- */

static void
raise_to(_Atomic uint64_t *clock, uint64_t at_least)
{
	uint64_t old = atomic_load_explicit(clock, memory_order_relaxed);

	while ((int64_t)(at_least - old) > 0 &&
	       !atomic_compare_exchange_weak_explicit(clock, &old, at_least, memory_order_relaxed,
						      memory_order_relaxed)) {
	}
}

uint64_t
fair_wait(struct fair *f, struct fair_share *s, int64_t left)
{
	uint64_t common = atomic_load_explicit(&f->clock, memory_order_relaxed);
	uint64_t own = atomic_load_explicit(&s->clock, memory_order_relaxed);
	uint32_t weight = atomic_load_explicit(&s->weight, memory_order_relaxed);

	if (own == 0) {
		raise_to(&s->clock, common);
		return 0;
	}
	if ((int64_t)(own - common) <= 0) {
		if (common - own > FAIR_LAG_NS) {
			raise_to(&s->clock, common - FAIR_LAG_NS);
		}
		return 0;
	}
	if (left < FAIR_STANDING_NS) {
		return (uint64_t)(FAIR_STANDING_NS - left);
	}
	/* The setter itself gets a slice at least, lest it be back at once. */
	raise_to(&f->clock,
		 own + (uint64_t)FAIR_SLICE_NS * FAIR_WEIGHT_ONE / MIN(weight, FAIR_WEIGHT_ONE));
	return 0;
}

void
fair_use(struct fair_share *s, uint64_t ns)
{
	uint32_t weight = atomic_load_explicit(&s->weight, memory_order_relaxed);

	atomic_fetch_add_explicit(&s->clock, ns * FAIR_WEIGHT_ONE / weight, memory_order_relaxed);
}
