/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which virtqueues should go to another reactor: a pure function of what was measured over a period. Who measures
 * and who moves is rebalance.c's business.
 */
#ifndef VHOST_BALANCE_H
#define VHOST_BALANCE_H

#include <stdbool.h>
#include <stdint.h>

#include "base/cpumask.h"

/* A reactor busier than this share of the period (per mille) is worth a thought: from here on a request waits for others more
 * than half as long as it takes itself (at 40 %, two thirds). And ... */
#define BALANCE_BUSY 400
/* ... if another one, where the queue may go, is less busy by this much. */
#define BALANCE_GAP 200
/* A move that would make the other reactor the busier one must gain this much, ... */
#define BALANCE_GAIN 100
/* ... any other one this little: a thousandth of a core for a queue that stands still for some microseconds, once. */
#define BALANCE_GAIN_MIN 1
/* Periods that a queue stays where it was moved to. */
#define BALANCE_HOLD 5
/* Moves planned for one period. */
#define BALANCE_MOVES_MAX 8

struct balance_reactor {
	unsigned lcore;
	uint64_t busy_ns; /* in the period, all its threads together */
};

struct balance_place { /* an I/O thread */
	unsigned reactor; /* index */
	uint64_t busy_ns;
	unsigned queues;
};

struct balance_queue {
	unsigned place;             /* index */
	uint64_t work;              /* in any unit: a queue's share of its place's busy_ns is its share of the work */
	const struct cpumask *mask; /* lcores it may be served on */
	bool stays;                 /* must not be moved now */
};

struct balance {
	uint64_t period_ns;
	struct balance_reactor *reactors;
	struct balance_place *places;
	struct balance_queue *queues;
	unsigned reactor_count, place_count, queue_count;
};

struct balance_move {
	unsigned queue, place;
};

/*
 * Plans at most `max` moves, each of which lowers the load of a reactor that is too busy; returns how many. A queue is moved
 * once at most. The arrays of b are changed to what the moves should make of them.
 */
unsigned balance_plan(struct balance *b, struct balance_move *ret_moves, unsigned max);

#endif
