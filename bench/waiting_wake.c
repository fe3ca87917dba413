/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sections a and f: one thread sleeps, another wakes it and waits for the answer.
 *
 *   kicker:  pause | kick ...... | spins on the answer ........ |
 *   waiter:  asleep              | wakes | writes the answer, sleeps again
 *            `begin`        `kicked`  `woke`              `answered`
 *
 * The pause is spent spinning, so that the kicker is awake; it is how long the waiter sleeps. The first tenth
 * of the rounds warms up and is not counted.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "waiting.h"

struct wake {
	struct waiter w;
	const struct primitive *how;
	uint32_t rounds;
	uint32_t warm; /* rounds that are not counted */
	uint64_t *woke_ns;
	/* The waiter's, for the rounds that count. */
	uint64_t cpu_ns;
	long slept;
	int rc;
	_Alignas(CACHE_LINE_BYTES) _Atomic int ready; /* 1: waits; -1: see rc */
	_Atomic uint32_t answered;
	uint32_t asked;
};

static long
times_slept(void)
{
	struct rusage usage;

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nvcsw;
}

static void
answer(struct wake *x)
{
	for (uint32_t i = 0; i < x->rounds; i++) {
		waiter_expect(&x->w, 0);
		while (x->w.missing > 0) {
			int rc = x->how->wait(&x->w, true);

			if (rc != 0 && rc != -EINTR) {
				give_up(x->how->name, rc);
			}
		}
		x->woke_ns[i] = clock_now_ns();
		if (i + 1 == x->warm) {
			x->cpu_ns = thread_cpu_ns();
			x->slept = times_slept();
		}
		atomic_store_explicit(&x->answered, i + 1, memory_order_release);
	}
	x->cpu_ns = thread_cpu_ns() - x->cpu_ns;
	x->slept = times_slept() - x->slept;
}

static void *
waiter_main(void *arg)
{
	struct wake *x = arg;

	pin(options.cpus[0]);
	x->rc = waiter_open(&x->w, x->how, 1);
	atomic_store(&x->ready, x->rc == 0 ? 1 : -1);
	if (x->rc == 0) {
		answer(x);
	}
	return NULL;
}

static bool
is_ready(void *ctx)
{
	return atomic_load(&((struct wake *)ctx)->ready) != 0;
}

static bool
is_answered(void *ctx)
{
	struct wake *x = ctx;

	return atomic_load_explicit(&x->answered, memory_order_acquire) == x->asked;
}

struct wake_result {
	struct samples round, kick, latency; /* nanoseconds */
	uint32_t rounds;
	uint64_t cpu_ns;
	long slept;
	int rc;
};

static void
result_init(struct wake_result *res, uint32_t rounds)
{
	*res = (struct wake_result){0};
	samples_init(&res->round, rounds);
	samples_init(&res->kick, rounds);
	samples_init(&res->latency, rounds);
}

static void
result_release(struct wake_result *res)
{
	samples_release(&res->round);
	samples_release(&res->kick);
	samples_release(&res->latency);
}

static void
result_append(struct wake_result *to, const struct wake_result *from)
{
	samples_append(&to->round, &from->round);
	samples_append(&to->kick, &from->kick);
	samples_append(&to->latency, &from->latency);
	to->rounds += from->rounds;
	to->cpu_ns += from->cpu_ns;
	to->slept += from->slept;
	to->rc = from->rc;
}

static void
ask(struct wake *x, uint64_t pause_ns, struct wake_result *res)
{
	for (uint32_t i = 0; i < x->rounds; i++) {
		uint64_t begin, kicked;

		spin_ns(pause_ns);
		x->asked = i + 1;
		begin = clock_now_ns();
		waiter_kick(&x->w, 0);
		kicked = clock_now_ns();
		if (!spin_until(is_answered, x)) {
			lost("event %u of %u did not wake the waiter", i + 1, x->rounds);
		}
		if (i >= x->warm) {
			samples_add(&res->round, clock_now_ns() - begin);
			samples_add(&res->kick, kicked - begin);
			samples_add(&res->latency, x->woke_ns[i] - begin);
		}
	}
}

/* res->rc: 0 or a negative errno, the system does not have it. */
static void
measure(const struct primitive *how, uint32_t rounds, uint64_t pause_ns, struct wake_result *res)
{
	struct wake *x = aligned_alloc(CACHE_LINE_BYTES, sizeof(*x));
	pthread_t thread;
	int rc;

	CHECK(x != NULL);
	*x = (struct wake){.how = how, .rounds = rounds, .warm = rounds / 10 + 1};
	x->woke_ns = calloc(rounds, sizeof(x->woke_ns[0]));
	result_init(res, rounds);
	watch(how->name);
	rc = pthread_create(&thread, NULL, waiter_main, x);
	if (rc != 0) {
		give_up("cannot start a thread", rc);
	}
	if (!spin_until(is_ready, x)) {
		lost("the waiter does not start");
	}
	if (x->rc == 0) {
		ask(x, pause_ns, res);
	}
	pthread_join(thread, NULL);
	waiter_close(&x->w);
	res->rounds = rounds - x->warm;
	res->cpu_ns = x->cpu_ns;
	res->slept = x->slept;
	res->rc = x->rc;
	free(x->woke_ns);
	free(x);
}

static double
cpu_us(const struct wake_result *res)
{
	return (double)res->cpu_ns / 1e3 / res->rounds;
}

static double
slept_percent(const struct wake_result *res)
{
	return 100.0 * (double)res->slept / res->rounds;
}

/* ---- a ---- */

#define WAKE_PAUSE_NS UINT64_C(50000)

static const struct primitive *const all[] = {
	&wait_spin, &wait_futex, &wait_read, &wait_epoll_edge, &wait_epoll_timeout, &wait_epoll_level, &wait_epoll_nested,
	&wait_poll, &ring_poll_defer, &ring_poll_coop, &ring_poll_plain, &ring_read_defer, &ring_read_plain,
	&ring_epoll_wait, &ring_epoll_poll,
};

/* What the others are compared with: what a reactor uses. */
#define EPOLL_ROW 3

static void
wake_run(struct table *t)
{
	const unsigned laps = options.quick ? 1 : LAPS_MAX;
	const uint32_t rounds = options.quick ? 60 : 500;
	static double trips[ARRAY_SIZE(all)][LAPS_MAX], cpu[ARRAY_SIZE(all)][LAPS_MAX];
	struct wake_result res[ARRAY_SIZE(all)], lap;

	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		result_init(&res[i], laps * rounds);
	}
	for (unsigned l = 0; l < laps; l++) {
		for (size_t n = 0; n < ARRAY_SIZE(all); n++) {
			size_t i = (n + l) % ARRAY_SIZE(all); /* nobody follows the same one always */

			measure(all[i], rounds, WAKE_PAUSE_NS, &lap);
			result_append(&res[i], &lap);
			trips[i][l] = samples_at(&lap.round, 0.5);
			cpu[i][l] = cpu_us(&lap);
			result_release(&lap);
		}
	}
	for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
		if (res[i].rc != 0) {
			table_skip(t, all[i]->name, res[i].rc);
		} else {
			table_add(t, all[i]->name, (double[]){
				samples_at(&res[i].round, 0) / 1e3, samples_at(&res[i].round, 0.5) / 1e3,
				samples_at(&res[i].round, 0.99) / 1e3, laps_compare(trips[i], trips[EPOLL_ROW], laps),
				cpu_us(&res[i]), laps_compare(cpu[i], cpu[EPOLL_ROW], laps),
				samples_at(&res[i].kick, 0.5) / 1e3, slept_percent(&res[i])});
		}
		result_release(&res[i]);
	}
}

void
section_wake(void)
{
	static const char *const columns[] = {"round trip us, min", "median", "p99", "% of flat epoll",
					      "waiter's CPU us", "% of flat epoll", "kick us, median", "slept %", NULL};
	struct table t;

	table_init(&t, "a. Wake-up: a thread on another CPU kicks a waiter that has slept for 50 us, and spins on its answer",
		   columns);
	pin(options.cpus[1]);
	for (unsigned run = 0; run < options.runs; run++) {
		wake_run(&t);
	}
	table_print(&t);
}

/* ---- f ---- */

static const struct {
	const char *text;
	uint64_t ns;
	uint32_t rounds;
} pauses[] = {
	{"5 us", 5000, 10000},     {"20 us", 20000, 10000},   {"100 us", 100000, 5000}, {"400 us", 400000, 2000},
	{"2 ms", 2000000, 500}, {"10 ms", 10000000, 100},
};

static const struct primitive *const sleepers[] = {
	&wait_spin, &wait_futex, &wait_epoll_edge, &wait_epoll_timeout, &ring_poll_defer, &ring_epoll_wait,
};

static void
sleep_run(struct table *t, const struct primitive *how, size_t pause)
{
	struct wake_result res;
	char name[64];

	measure(how, options.quick ? 20 : pauses[pause].rounds, pauses[pause].ns, &res);
	snprintf(name, sizeof(name), "%s, %s", how->name, pauses[pause].text);
	if (res.rc != 0) {
		table_skip(t, name, res.rc);
	} else {
		table_add(t, name, (double[]){
			samples_at(&res.kick, 0.5) / 1e3, samples_at(&res.latency, 0) / 1e3, samples_at(&res.latency, 0.5) / 1e3,
			samples_at(&res.latency, 0.99) / 1e3, cpu_us(&res), slept_percent(&res)});
	}
	result_release(&res);
}

void
section_sleep(void)
{
	static const char *const columns[] = {
		"kick us, median", "latency us, min", "median", "p99", "waiter's CPU us", "slept %", NULL};
	struct table *t = malloc(sizeof(*t));

	CHECK(t != NULL);
	table_init(t, "f. What a sleep costs, by how long it lasted: kicker's time, from kick to waiter's code, waiter's CPU",
		   columns);
	pin(options.cpus[1]);
	for (unsigned run = 0; run < options.runs; run++) {
		for (size_t i = 0; i < ARRAY_SIZE(sleepers); i++) {
			/* One that spins costs the same however long it lasts. */
			for (size_t p = 0; p < (sleepers[i] == &wait_spin ? 1 : ARRAY_SIZE(pauses)); p++) {
				sleep_run(t, sleepers[i], p);
			}
		}
	}
	table_print(t);
	free(t);
}
