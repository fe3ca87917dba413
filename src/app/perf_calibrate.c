/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth perf --calibrate: how long a cache line takes from one CPU to another and back. It is the
 * unit in which a request at depth 1 over a polled socket is paid, and on virtual machines it
 * changes with where the host runs the two CPUs, by a factor of three; figures compare only where
 * it is the same.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "app/perf_internal.h"
#include "base/clock.h"

/* Short enough that most attempts are not interrupted. */
#define ROUNDS 2000
#define ATTEMPTS 101

struct table {
	_Alignas(CACHE_LINE_BYTES) _Atomic unsigned ping;
	_Alignas(CACHE_LINE_BYTES) _Atomic unsigned pong;
	_Alignas(CACHE_LINE_BYTES) unsigned cpu;
	_Atomic int status; /* of pinning the other thread */
};

static int
pin(unsigned cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	return sched_setaffinity(0, sizeof(set), &set) == 0 ? 0 : -errno;
}

static void *
other_side(void *arg)
{
	struct table *t = arg;
	int rc = pin(t->cpu);

	atomic_store(&t->status, rc);
	atomic_store(&t->pong, rc == 0 ? 1 : 2);
	for (unsigned seen = 1; rc == 0 && seen < ROUNDS;) {
		unsigned ping = atomic_load_explicit(&t->ping, memory_order_acquire);

		if (ping != seen) {
			atomic_store_explicit(&t->pong, ping, memory_order_release);
			seen = ping;
		}
	}
	return NULL;
}

static int
measure(struct table *t, double *ret_ns)
{
	pthread_t thread;
	uint64_t start;
	int rc;

	atomic_store(&t->ping, 1);
	atomic_store(&t->pong, 0);
	rc = pthread_create(&thread, NULL, other_side, t);
	if (rc != 0) {
		return -rc;
	}
	while (atomic_load(&t->pong) == 0) {
		sched_yield();
	}
	rc = atomic_load(&t->status);
	start = clock_now_ns();
	for (unsigned i = 2; rc == 0 && i <= ROUNDS; i++) {
		atomic_store_explicit(&t->ping, i, memory_order_release);
		while (atomic_load_explicit(&t->pong, memory_order_acquire) != i) {
		}
	}
	*ret_ns = (double)(clock_now_ns() - start) / (ROUNDS - 1);
	pthread_join(thread, NULL);
	return rc;
}

static int
compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

int
perf_calibrate(const struct perf_options *options, struct err *err)
{
	const struct cpumask *cpus = &options->defaults.cpus;
	struct table *t = aligned_alloc(CACHE_LINE_BYTES, sizeof(*t));
	double ns[ATTEMPTS] = {0};
	unsigned first;
	int rc;

	if (t == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	if (!options->defaults.has_cpus || cpumask_count(cpus) < 2) {
		free(t);
		return err_set(err, -EINVAL, "calibrate: --cpumask must name two CPUs");
	}
	first = cpumask_next(cpus, 0);
	t->cpu = cpumask_next(cpus, first + 1);
	rc = pin(first);
	for (unsigned i = 0; rc == 0 && i < ATTEMPTS; i++) {
		rc = measure(t, &ns[i]);
	}
	qsort(ns, ATTEMPTS, sizeof(ns[0]), compare);
	if (rc != 0) {
		err_set(err, rc, "calibrate: cannot run on CPUs %u and %u: %s", first, t->cpu,
			strerror(-rc));
	} else {
		printf(options->json ? "{\"round_trip_ns\": %.1f}\n"
				     : "a cache line goes over and back in %.1f ns\n",
		       ns[ATTEMPTS / 2]);
	}
	free(t);
	return rc;
}
