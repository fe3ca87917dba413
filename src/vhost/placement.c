/* SPDX-License-Identifier: BSD-3-Clause */
/* Queues per I/O thread. Invariant: load of a thread = placement_take()s minus placement_drop()s of
 * its position. */
#include "vhost/placement.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "event/reactor.h"

struct place {
	struct thread *thread;
	unsigned lcore;
	unsigned load;
};

static struct place *places;
static unsigned place_count;

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
	}
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

unsigned
placement_take(const struct cpumask *mask)
{
	unsigned best = place_count;

	for (unsigned i = 0; i < place_count; i++) {
		if (cpumask_test(mask, places[i].lcore) &&
		    (best == place_count || places[i].load < places[best].load)) {
			best = i;
		}
	}
	CHECK(best < place_count);
	places[best].load++;
	return best;
}

void
placement_drop(unsigned position)
{
	CHECK(position < place_count && places[position].load > 0);
	places[position].load--;
}

struct thread *
placement_thread(unsigned position)
{
	return places[position].thread;
}
