/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How long a source that finds nothing is worth polling: learnt from the gaps between its events. Pure.
 *
 * A gap is the time from the first fruitless poll to the next event. Polling through a gap costs its length;
 * giving up after `ns` costs that and the price of a sleep, unless the event came before. Of the lengths that
 * end a bucket of the histogram, and 0, `ns` is the one that would have cost least over the last gaps:
 *
 *     cost(t) = sum over gaps g:   g, if g < t;   t + price, if not
 *
 * If that is not 0, it is at least half the price: what comes once in a few hundred gaps is not in the histogram, and
 * a sleep for it costs more than the polling that finds it.
 *
 * Invariants
 *  1. ns is 0 or the upper edge of a bucket: at most PATIENCE_MAX_NS, so a source that falls silent
 *     is polled no longer than that.
 *  2. Old gaps count less: at PATIENCE_WINDOW all are halved. A change of behaviour is learnt within two windows.
 *  3. On gaps that repeat it costs at most twice as much as somebody pays who knew each beforehand (the bound of renting
 *     skis), and on any at most half more than the best fixed time, where half the price is longer than that time.
 */
#ifndef EVENT_PATIENCE_H
#define EVENT_PATIENCE_H

#include <stdint.h>

/* Gaps shorter than 512 ns, 1 us, 2 us, ... 131 us; and longer ones. */
#define PATIENCE_BUCKETS 10
#define PATIENCE_SHIFT 9
#define PATIENCE_MAX_NS (UINT64_C(1) << (PATIENCE_SHIFT + PATIENCE_BUCKETS - 2))
#define PATIENCE_WINDOW 64
/* Before anything was learnt: several times a sleep's price, for the driver that has just started a ring. */
#define PATIENCE_FIRST_NS (UINT64_C(1) << 15)

struct patience {
	uint32_t ns; /* poll in vain for so long */
	uint8_t gaps[PATIENCE_BUCKETS];
	uint8_t count; /* sum of gaps */
	uint8_t fresh; /* gaps since ns was chosen */
};

void patience_init(struct patience *p);

/* An event came gap_ns after the first fruitless poll; a sleep in its place would cost price_ns. */
void patience_learn(struct patience *p, uint64_t gap_ns, uint64_t price_ns);

#endif
