/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Queues per I/O thread.
 *
 * Invariants
 *  1. The queues of a thread = placement_take()s minus placement_drop()s of its position.
 *  2. A mask names reactors; which one runs a thread is asked each time, for threads may move. Where none of a mask's runs any
 *     I/O thread, those that ran one at the start count.
 *
 * Rejected: counting queues that are active instead of those that run. An adaptive queue is active for a tenth of a
 * millisecond at a time; what was so at the moment when a VM starts says nothing about the next minute. Load that lasts
 * is put right by rebalance.c.
 */
#include "vhost/placement.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "event/reactor.h"

/* How old a measurement of the reactors may get, and the shortest time over which one is made. */
#define MEASURE_NS (100 * NS_PER_MS)

struct place {
	struct thread *thread;
	unsigned lcore; /* of the reactor that runs it at first */
	unsigned queues;
	uint64_t busy_ns; /* of its reactor, when it was measured last */
	unsigned load;    /* per mille, between the last two measurements */
};

static struct place *places;
static unsigned place_count;
static uint64_t measured_ns;

static uint64_t
reactor_busy_ns(unsigned position)
{
	struct reactor_stats stats;

	reactor_get_stats(thread_reactor(places[position].thread), &stats);
	return stats.busy_ns;
}

int
placement_init(struct thread *const *threads, unsigned count)
{
	CHECK(count > 0);
	places = calloc(count, sizeof(*places));
	if (places == NULL) {
		return -ENOMEM;
	}
	place_count = count;
	for (unsigned i = 0; i < count; i++) {
		places[i].thread = threads[i];
		places[i].lcore = reactor_lcore(thread_reactor(threads[i]));
		places[i].busy_ns = reactor_busy_ns(i);
	}
	measured_ns = clock_now_ns();
	return 0;
}

void
placement_release(void)
{
	free(places);
	places = NULL;
	place_count = 0;
}

int
placement_parse(const char *text, struct cpumask *ret_mask, struct err *err)
{
	struct cpumask mask = {{0}}, reactors = {{0}};
	unsigned cpu;
	int rc;

	for (unsigned i = 0; i < place_count; i++) {
		cpumask_set(&reactors, places[i].lcore);
	}
	if (text == NULL) {
		*ret_mask = reactors;
		return 0;
	}
	rc = cpumask_parse(text, &mask, err);
	if (rc != 0) {
		return rc;
	}
	CPUMASK_FOREACH(cpu, &mask)
	{
		if (!cpumask_test(&reactors, cpu)) {
			return err_set(err, -EINVAL, "cpumask %s: no reactor runs on CPU %u", text, cpu);
		}
	}
	*ret_mask = mask;
	return 0;
}

/* How busy reactors have been lately. */
static void
measure(void)
{
	uint64_t now = clock_now_ns(), elapsed = now - measured_ns;

	if (elapsed < MEASURE_NS) {
		return;
	}
	for (unsigned i = 0; i < place_count; i++) {
		uint64_t busy = reactor_busy_ns(i);

		/* A thread that has moved finds another reactor's count. */
		places[i].load = busy > places[i].busy_ns ? (unsigned)((busy - places[i].busy_ns) / (elapsed / 1000)) : 0;
		places[i].busy_ns = busy;
	}
	measured_ns = now;
}

static bool
better(const struct place *a, const struct place *b)
{
	return a->queues < b->queues || (a->queues == b->queues && a->load < b->load);
}

unsigned
placement_take(const struct cpumask *mask)
{
	unsigned now = place_count, at_first = place_count, best;

	measure();
	for (unsigned i = 0; i < place_count; i++) {
		const struct place *p = &places[i];

		if (cpumask_test(mask, reactor_lcore(thread_reactor(p->thread))) &&
		    (now == place_count || better(p, &places[now]))) {
			now = i;
		}
		if (cpumask_test(mask, p->lcore) && (at_first == place_count || better(p, &places[at_first]))) {
			at_first = i;
		}
	}
	best = now < place_count ? now : at_first;
	CHECK(best < place_count);
	places[best].queues++;
	return best;
}

void
placement_take_at(unsigned position)
{
	CHECK(position < place_count);
	places[position].queues++;
}

void
placement_drop(unsigned position)
{
	CHECK(position < place_count && places[position].queues > 0);
	places[position].queues--;
}

unsigned
placement_count(void)
{
	return place_count;
}

struct thread *
placement_thread(unsigned position)
{
	return places[position].thread;
}

unsigned
placement_queues(unsigned position)
{
	return places[position].queues;
}
