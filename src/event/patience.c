/* SPDX-License-Identifier: BSD-3-Clause */
#include "event/patience.h"

#include <string.h>

/* Choosing takes some 20 ns: for short gaps every so many, for longer ones each time. */
#define CHOOSE_EVERY 16
#define CHOOSE_AT_ONCE_NS 4096

_Static_assert(PATIENCE_WINDOW <= UINT8_MAX, "counts fit");

void
patience_init(struct patience *p)
{
	memset(p, 0, sizeof(*p));
	p->ns = PATIENCE_FIRST_NS;
}

static uint64_t
edge(unsigned bucket)
{
	return UINT64_C(1) << (PATIENCE_SHIFT + bucket);
}

static unsigned
bucket_of(uint64_t gap_ns)
{
	uint64_t n = gap_ns >> PATIENCE_SHIFT;
	unsigned bucket = n == 0 ? 0 : 64 - (unsigned)__builtin_clzll(n);

	return bucket < PATIENCE_BUCKETS - 1 ? bucket : PATIENCE_BUCKETS - 1;
}

static uint32_t
choose(const struct patience *p, uint64_t price_ns)
{
	uint64_t best = p->count * price_ns, polled = 0, left = p->count;
	uint64_t ns = 0;

	for (unsigned i = 0; i < PATIENCE_BUCKETS - 1; i++) {
		/* A gap in the bucket is taken for three quarters of its upper edge: its middle. */
		polled += p->gaps[i] * (edge(i) - edge(i) / 4);
		left -= p->gaps[i];
		if (polled + left * (edge(i) + price_ns) < best) {
			best = polled + left * (edge(i) + price_ns);
			ns = edge(i);
		}
	}
	/* The window does not show what comes once in a few hundred gaps. */
	while (ns > 0 && ns < price_ns / 2 && ns < PATIENCE_MAX_NS) {
		ns *= 2;
	}
	return (uint32_t)ns;
}

static void
forget_half(struct patience *p)
{
	p->count = 0;
	for (unsigned i = 0; i < PATIENCE_BUCKETS; i++) {
		p->gaps[i] /= 2;
		p->count += p->gaps[i];
	}
}

void
patience_learn(struct patience *p, uint64_t gap_ns, uint64_t price_ns)
{
	if (p->count >= PATIENCE_WINDOW) {
		forget_half(p);
	}
	p->gaps[bucket_of(gap_ns)]++;
	p->count++;
	p->fresh++;
	if (p->fresh >= CHOOSE_EVERY || gap_ns >= CHOOSE_AT_ONCE_NS) {
		p->ns = choose(p, price_ns);
		p->fresh = 0;
	}
}
