/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Sections b and c: what many descriptors cost a thread that is awake. One thread, so no time goes into waking.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "waiting.h"

static int
open_on_cpu(struct waiter *w, const struct primitive *how, unsigned count)
{
	watch(how->name);
	/* Two for epoll or the ring, and the inner ones. */
	if (!descriptors_suffice(count + count / INNER_FDS + 3)) {
		memset(w, 0, sizeof(*w));
		return -EMFILE;
	}
	return waiter_open(w, how, count);
}

static void
close_opened(struct waiter *w)
{
	if (w->how != NULL) {
		waiter_close(w);
	}
}

/* ---- b: a look that finds nothing ---- */

#define LOOKS 200

static void
look_plain(struct waiter *w)
{
	CHECK(w->how->wait(w, false) == 0);
}

static void
look_by_enter(struct waiter *w)
{
	CHECK(io_uring_get_events(&w->ring) >= 0);
}

static void
look_pwait2(struct waiter *w)
{
	static const struct timespec zero;

	(void)epoll_pwait2(w->epoll_fd, w->events, EVENTS_MAX, &zero, NULL);
}

static const struct {
	const char *name;
	const struct primitive *how;
	void (*look)(struct waiter *w);
} looks[] = {
	{"epoll_wait(0)", &wait_epoll_edge, look_plain},
	{"epoll_pwait2(0)", &wait_epoll_edge, look_pwait2},
	{"epoll_wait(0), epoll in epoll", &wait_epoll_nested, look_plain},
	{"poll(2) with time-out 0", &wait_poll, look_plain},
	{"io_uring poll, look at the shared ring", &ring_poll_defer, look_plain},
	{"io_uring poll, io_uring_enter(GETEVENTS)", &ring_poll_defer, look_by_enter},
	{"io_uring over epoll, look at the shared ring", &ring_epoll_wait, look_plain},
};

static double
look_ns(struct waiter *w, void (*look)(struct waiter *w), unsigned batches)
{
	struct samples s;
	double median;

	samples_init(&s, batches);
	for (unsigned i = 0; i < batches; i++) {
		uint64_t begin = clock_now_ns();

		for (unsigned j = 0; j < LOOKS; j++) {
			look(w);
		}
		samples_add(&s, clock_now_ns() - begin);
	}
	median = samples_at(&s, 0.5) / LOOKS;
	samples_release(&s);
	return median;
}

static void
look_run(struct table *t, size_t i)
{
	static const unsigned counts[] = {1, 100, 1000, 10000};
	double values[COLUMNS_MAX];
	int rc = 0;

	for (size_t c = 0; c < ARRAY_SIZE(counts) && rc == 0; c++) {
		struct waiter w;

		rc = open_on_cpu(&w, looks[i].how, counts[c]);
		if (rc == 0) {
			/* poll(2) takes a millisecond for the last of these. */
			bool slow = looks[i].how == &wait_poll && counts[c] > 100;

			values[c] = look_ns(&w, looks[i].look, options.quick ? 1 : slow ? 5 : 200);
		}
		close_opened(&w);
	}
	if (rc != 0) {
		table_skip(t, looks[i].name, rc);
	} else {
		table_add(t, looks[i].name, values);
	}
}

void
section_look(void)
{
	static const char *const columns[] = {"1 descriptor", "100", "1,000", "10,000", NULL};
	struct table t;

	table_init(&t, "b. A look that finds nothing, nanoseconds, by the number of descriptors", columns);
	pin(options.cpus[0]);
	for (unsigned run = 0; run < options.runs; run++) {
		for (size_t i = 0; i < ARRAY_SIZE(looks); i++) {
			look_run(&t, i);
		}
	}
	table_print(&t);
}

/* ---- c: some of many are ready ---- */

static const struct primitive *const all[] = {
	&wait_epoll_edge, &wait_epoll_level, &wait_epoll_nested, &wait_poll, &ring_poll_defer, &ring_poll_coop,
	&ring_poll_plain, &ring_read_defer, &ring_epoll_wait, &ring_epoll_poll,
};

/* A stride that has no divisor in common with the numbers of descriptors: a round never hits one twice. */
#define STRIDE 7919u

/* Until all have arrived, and a look more, as a reactor does before it sleeps. */
static void
collect(struct waiter *w)
{
	unsigned before = w->missing;

	for (unsigned tries = 0; w->missing > 0; tries++) {
		int rc = w->how->wait(w, true);

		if (rc != 0 && rc != -EINTR) {
			give_up(w->how->name, rc);
		}
		if (tries > 2 * before + 10) {
			lost("%u of %u events did not arrive", w->missing, before);
		}
	}
	CHECK(w->how->wait(w, false) == 0);
}

static void
many_measure(struct waiter *w, unsigned ready, double *ret_kick_ns, double *ret_collect_ns)
{
	unsigned rounds = (options.quick ? 512 : 40000) / ready, next = 0;
	struct samples kick, collected;

	rounds = MIN(rounds, options.quick ? 20u : w->how == &wait_poll ? 500u : 5000u);
	samples_init(&kick, rounds);
	samples_init(&collected, rounds);
	for (unsigned r = 0; r < rounds; r++) {
		uint64_t begin = clock_now_ns(), kicked;

		for (unsigned i = 0; i < ready; i++) {
			next = (next + STRIDE) % w->count;
			waiter_expect(w, next);
			waiter_kick(w, next);
		}
		kicked = clock_now_ns();
		collect(w);
		samples_add(&kick, kicked - begin);
		samples_add(&collected, clock_now_ns() - kicked);
	}
	*ret_kick_ns = samples_at(&kick, 0.5) / ready;
	*ret_collect_ns = samples_at(&collected, 0.5) / ready;
	samples_release(&kick);
	samples_release(&collected);
}

static void
many_run(struct table *t, const struct primitive *how, unsigned count)
{
	static const unsigned readies[] = {1, 32, 256};
	double values[COLUMNS_MAX];
	uint64_t begin = clock_now_ns();
	double kick_ns = 0;
	struct waiter w;
	int rc = open_on_cpu(&w, how, count);

	if (rc != 0) {
		table_skip(t, how->name, rc);
		close_opened(&w);
		return;
	}
	/* Making the descriptors is in it, the same for all. */
	values[5] = (double)(clock_now_ns() - begin) / count;
	for (size_t k = 0; k < ARRAY_SIZE(readies); k++) {
		many_measure(&w, readies[k], &kick_ns, &values[k]);
		values[3] = k == 0 ? kick_ns : values[3];
	}
	values[4] = kick_ns;
	table_add(t, how->name, values);
	waiter_close(&w);
}

void
section_many(void)
{
	static const char *const columns[] = {"1 ready", "32 ready", "256 ready", "kick, 1 ready", "kick, 256 ready",
					      "open, a descriptor", NULL};
	static const struct {
		unsigned count;
		const char *title;
	} sizes[] = {
		{1000, "c. 1,000 descriptors, some ready at once: nanoseconds an event, to collect it and to kick"},
		{10000, "c. 10,000 descriptors"},
	};

	pin(options.cpus[0]);
	for (size_t s = 0; s < ARRAY_SIZE(sizes); s++) {
		struct table t;

		table_init(&t, sizes[s].title, columns);
		for (unsigned run = 0; run < options.runs; run++) {
			for (size_t i = 0; i < ARRAY_SIZE(all); i++) {
				many_run(&t, all[i], sizes[s].count);
			}
		}
		table_print(&t);
	}
}
