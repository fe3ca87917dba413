/* SPDX-License-Identifier: BSD-3-Clause */
/* Modes: what each does with pollers that are idle, what adaptive learns, and changing the mode while there is load. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "testkit/hand.h"

#define WAIT_MS 60000

/* ---- By hand ---- */

struct source {
	struct poller p;
	int fd;
	int pending;
	int arms;
};

static struct reactor *r;
static struct thread *t;

static int
poll_source(struct poller *p)
{
	struct source *s = CONTAINER_OF(p, struct source, p);
	int n = s->pending;

	s->pending = 0;
	return n;
}

static bool
arm_source(struct poller *p)
{
	struct source *s = CONTAINER_OF(p, struct source, p);

	s->arms++;
	return s->pending > 0;
}

static const struct poller_ops source_ops = {.name = "source", .poll = poll_source, .arm = arm_source};

static void
start_source(void *ctx)
{
	struct source *s = ctx;

	s->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	assert_int_equal(poller_start(&s->p, &source_ops, s->fd), 0);
}

static void
stop_source(void *ctx)
{
	struct source *s = ctx;

	poller_stop(&s->p);
	close(s->fd);
}

static void
expect_source(void *ctx)
{
	poller_expect(&((struct source *)ctx)->p);
}

static int
setup_adaptive(void **state)
{
	hand_clock_start();
	r = hand_reactor(REACTOR_ADAPTIVE);
	t = thread_create("t", r);
	return 0;
}

static int
setup_poll(void **state)
{
	hand_clock_start();
	r = hand_reactor(REACTOR_POLL);
	t = thread_create("t", r);
	return 0;
}

static int
teardown(void **state)
{
	hand_free(r);
	hand_clock_stop();
	return 0;
}

static void
signal_fd(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

/* An event gap_us after the last; signalled, as a guest would, if the source is armed. */
static void
event_after(struct source *s, uint64_t gap_us)
{
	hand_run(r); /* a fruitless poll: the gap begins */
	hand_advance(r, gap_us);
	s->pending = 1;
	if (s->p.state == POLLER_ARMED) {
		signal_fd(s->fd);
	}
	hand_run(r);
	assert_int_equal(s->pending, 0);
}

static void
short_gaps_keep_a_poller_active(void **state)
{
	struct source s = {0};
	int arms;

	hand_call(t, start_source, &s);
	for (int i = 0; i < 100; i++) {
		event_after(&s, 2);
	}
	arms = s.arms;
	for (int i = 0; i < 100; i++) {
		event_after(&s, 2);
	}
	assert_int_equal(s.arms, arms);
	/* And when they end, it is not polled for longer than a few of them. */
	hand_advance(r, 10);
	assert_int_equal(s.p.state, POLLER_ARMED);
	hand_call(t, stop_source, &s);
}

static void
long_gaps_arm_a_poller_at_once(void **state)
{
	struct source s = {0};

	hand_call(t, start_source, &s);
	for (int i = 0; i < 100; i++) {
		event_after(&s, 5000);
	}
	assert_int_equal(s.p.patience.ns, 0);
	/* No time goes by, and it is armed: an idle machine that wakes costs one look. */
	hand_run(r);
	assert_int_equal(s.p.state, POLLER_ARMED);
	hand_call(t, stop_source, &s);
}

/* A sleeper that sees each event late by what sleep costs must find out that the gaps themselves are short. */
static void
a_sleeper_learns_that_gaps_became_short(void **state)
{
	struct source s = {0};

	hand_call(t, start_source, &s);
	for (int i = 0; i < 200; i++) {
		event_after(&s, 5000);
	}
	assert_int_equal(s.p.patience.ns, 0);
	for (int i = 0; i < 200 && s.p.patience.ns == 0; i++) {
		event_after(&s, 9);
	}
	assert_true(s.p.patience.ns > 0);
	hand_call(t, stop_source, &s);
}

/*
 * Each gap is a little longer than it is polled for, and the event is seen a sleep's cost later: what is taken off for the
 * sleep must not make these gaps look like none, or it would never be polled for longer.
 */
static void
a_patience_that_is_too_short_grows(void **state)
{
	struct source s = {0};
	int arms;

	hand_call(t, start_source, &s);
	for (int i = 0; i < 200; i++) {
		event_after(&s, 5000);
	}
	for (int i = 0; i < 300; i++) {
		hand_run(r);
		hand_advance(r, 3);
		if (s.p.state == POLLER_ARMED) {
			hand_advance(r, 6); /* the wake-up */
			s.pending = 1;
			signal_fd(s.fd);
		}
		s.pending = 1;
		hand_run(r);
	}
	arms = s.arms;
	for (int i = 0; i < 100; i++) {
		event_after(&s, 3);
	}
	assert_int_equal(s.arms, arms);
	hand_call(t, stop_source, &s);
}

static void
expecting_polls_where_the_end_comes_soon(void **state)
{
	struct source s = {0};

	hand_call(t, start_source, &s);
	hand_advance(r, 1000);
	assert_int_equal(s.p.state, POLLER_ARMED);
	/* Time before the request is no part of the gap: the device answers in 3 us, once a second. */
	for (int i = 0; i < 100; i++) {
		hand_advance(r, 1000000);
		hand_call(t, expect_source, &s);
		assert_int_equal(s.p.state, POLLER_ACTIVE);
		event_after(&s, 3);
	}
	assert_true(s.p.patience.ns >= 4096 && s.p.patience.ns <= 8192);
	/* A device that takes long is waited for asleep. */
	for (int i = 0; i < 200; i++) {
		hand_advance(r, 1000000);
		hand_call(t, expect_source, &s);
		event_after(&s, 4000);
	}
	hand_advance(r, 1000000);
	hand_call(t, expect_source, &s);
	assert_int_equal(s.p.state, POLLER_ARMED);
	hand_call(t, stop_source, &s);
}

static void
a_few_idle_pollers_are_polled_for_ever_in_poll_mode(void **state)
{
	struct source s[REACTOR_POLLED_MAX] = {0};

	for (int i = 0; i < REACTOR_POLLED_MAX; i++) {
		hand_call(t, start_source, &s[i]);
	}
	hand_advance(r, 10000000);
	for (int i = 0; i < REACTOR_POLLED_MAX; i++) {
		assert_int_equal(s[i].p.state, POLLER_ACTIVE);
		hand_call(t, stop_source, &s[i]);
	}
}

static void
of_many_idle_pollers_few_stay_active_in_poll_mode(void **state)
{
	struct source s[100] = {0};
	int active = 0;

	for (int i = 0; i < 100; i++) {
		hand_call(t, start_source, &s[i]);
	}
	for (int i = 0; i < 20; i++) {
		s[7].pending = 1;
		hand_run(r);
		hand_advance(r, REACTOR_POLLED_NS / NS_PER_US / 5);
	}
	assert_int_equal(s[7].p.state, POLLER_ACTIVE);
	for (int i = 0; i < 100; i++) {
		active += s[i].p.state == POLLER_ACTIVE;
	}
	assert_int_equal(active, REACTOR_POLLED_MAX);
	/* One that was armed is there when its guest kicks. */
	for (int i = 0; i < 100; i++) {
		if (s[i].p.state == POLLER_ARMED) {
			s[i].pending = 1;
			signal_fd(s[i].fd);
			hand_run(r);
			assert_int_equal(s[i].pending, 0);
			assert_int_equal(s[i].p.state, POLLER_ACTIVE);
			break;
		}
	}
	for (int i = 0; i < 100; i++) {
		hand_call(t, stop_source, &s[i]);
	}
}

static void
the_mode_changes_what_happens_to_idle_pollers(void **state)
{
	struct source s = {0};

	hand_call(t, start_source, &s);
	hand_advance(r, 1000);
	assert_int_equal(s.p.state, POLLER_ARMED);
	reactor_set_mode(r, REACTOR_POLL);
	assert_int_equal(reactor_get_mode(r), REACTOR_POLL);
	hand_run(r);
	hand_advance(r, 1000);
	assert_int_equal(s.p.state, POLLER_ACTIVE);
	reactor_set_mode(r, REACTOR_INTERRUPT);
	hand_advance(r, 100);
	hand_advance(r, REACTOR_GRACE_NS / NS_PER_US);
	assert_int_equal(s.p.state, POLLER_ARMED);
	s.pending = 1;
	signal_fd(s.fd);
	hand_run(r);
	assert_int_equal(s.pending, 0);
	hand_call(t, stop_source, &s);
}

/* ---- On system threads ---- */

static void
sleep_us(unsigned us)
{
	struct timespec ts = {.tv_nsec = (long)us * 1000};

	nanosleep(&ts, NULL);
}

struct call {
	struct msg msg;
	void (*fn)(void *ctx);
	void *ctx;
	_Atomic bool called;
};

static void
call_msg(struct msg *msg)
{
	struct call *c = CONTAINER_OF(msg, struct call, msg);

	c->fn(c->ctx);
	atomic_store(&c->called, true);
}

static void
call_on(struct thread *thread, void (*fn)(void *ctx), void *ctx)
{
	struct call c = {.fn = fn, .ctx = ctx};

	thread_send(thread, &c.msg, call_msg);
	while (!atomic_load(&c.called)) {
		sleep_us(20);
	}
}

/* A producer that is asked for kicks, or not, as a virtqueue's driver is. */
struct ring {
	struct poller p;
	int fd;
	_Atomic bool wanted;
	_Atomic uint64_t produced;
	_Atomic uint64_t consumed;
};

static int
consume(struct poller *p)
{
	struct ring *ring = CONTAINER_OF(p, struct ring, p);
	uint64_t have = atomic_load_explicit(&ring->produced, memory_order_acquire);
	uint64_t old = atomic_load_explicit(&ring->consumed, memory_order_relaxed);

	CHECK(have >= old); /* the index never goes back */
	atomic_store_explicit(&ring->consumed, have, memory_order_release);
	return (int)(have - old);
}

static bool
want(struct poller *p)
{
	struct ring *ring = CONTAINER_OF(p, struct ring, p);

	atomic_store(&ring->wanted, true);
	return atomic_load(&ring->produced) != atomic_load(&ring->consumed);
}

static void
want_not(struct poller *p)
{
	atomic_store(&CONTAINER_OF(p, struct ring, p)->wanted, false);
}

static const struct poller_ops ring_ops = {.name = "ring", .poll = consume, .arm = want, .disarm = want_not};

static void
start_ring(void *ctx)
{
	struct ring *ring = ctx;

	CHECK(poller_start(&ring->p, &ring_ops, ring->fd) == 0);
}

static void
stop_ring(void *ctx)
{
	poller_stop(&((struct ring *)ctx)->p);
}

static _Atomic bool switching;
static _Atomic uint64_t switches;

static void *
switch_modes(void *arg)
{
	unsigned seed = 11;

	while (atomic_load(&switching)) {
		reactor_set_mode(arg, hand_modes[(unsigned)rand_r(&seed) % 3]);
		atomic_fetch_add(&switches, 1);
		sleep_us((unsigned)rand_r(&seed) % 200);
	}
	return NULL;
}

static void
no_event_is_lost_while_the_mode_changes(void **state)
{
	struct reactor *reactor = hand_reactor(REACTOR_ADAPTIVE);
	struct thread *thread = thread_create("t", reactor);
	struct ring ring = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
	uint64_t end = clock_now_ns() + NS_PER_S, n = 0;
	unsigned seed = 5;
	pthread_t switcher;

	assert_int_equal(reactor_start(reactor, NULL), 0);
	call_on(thread, start_ring, &ring);
	atomic_store(&switching, true);
	atomic_store(&switches, 0);
	assert_int_equal(pthread_create(&switcher, NULL, switch_modes, reactor), 0);
	/* Each round is bounded. */
	while (clock_now_ns() < end || atomic_load(&switches) <= 10) {
		uint64_t limit = clock_now_ns() + WAIT_MS * NS_PER_MS, one = 1;

		atomic_fetch_add(&ring.produced, 1);
		n++;
		if (atomic_load(&ring.wanted)) {
			assert_int_equal(write(ring.fd, &one, sizeof(one)), sizeof(one));
		}
		for (unsigned i = 0; atomic_load(&ring.consumed) < n; i++) {
			assert_true(clock_now_ns() < limit);
			if (i > 200) {
				sched_yield();
			}
		}
		if (n % 32 == 0) {
			sleep_us((unsigned)rand_r(&seed) % 150);
		}
	}
	atomic_store(&switching, false);
	pthread_join(switcher, NULL);
	call_on(thread, stop_ring, &ring);
	reactor_stop(reactor);
	reactor_join(reactor);
	hand_free(reactor);
	close(ring.fd);
}

/* A change that comes as the reactor falls asleep is seen: in poll mode the armed poller is polled, without any event. */
static _Atomic uint64_t ring_polls;

static int
count_polls(struct poller *p)
{
	atomic_fetch_add_explicit(&ring_polls, 1, memory_order_relaxed);
	return consume(p);
}

static const struct poller_ops counted_ops = {.name = "counted", .poll = count_polls, .arm = want, .disarm = want_not};

static void
start_counted(void *ctx)
{
	struct ring *ring = ctx;

	CHECK(poller_start(&ring->p, &counted_ops, ring->fd) == 0);
}

static void
a_change_of_mode_wakes_a_reactor_that_falls_asleep(void **state)
{
	struct reactor *reactor = hand_reactor(REACTOR_INTERRUPT);
	struct thread *thread = thread_create("t", reactor);
	struct ring ring = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};
	uint64_t end = clock_now_ns() + NS_PER_S;
	unsigned seed = 23;

	assert_int_equal(reactor_start(reactor, NULL), 0);
	call_on(thread, start_counted, &ring);
	while (clock_now_ns() < end) {
		uint64_t limit = clock_now_ns() + WAIT_MS * NS_PER_MS, before;

		reactor_set_mode(reactor, REACTOR_INTERRUPT);
		/* Asleep, or on the way there, in 5 to 10 us. */
		for (int spin = rand_r(&seed) % 1500; spin > 0; spin--) {
			atomic_load_explicit(&ring.wanted, memory_order_relaxed);
		}
		reactor_set_mode(reactor, REACTOR_POLL);
		before = atomic_load(&ring_polls);
		for (unsigned i = 0; atomic_load(&ring_polls) < before + 100; i++) {
			assert_true(clock_now_ns() < limit);
			if (i > 200) {
				sched_yield();
			}
		}
	}
	call_on(thread, stop_ring, &ring);
	reactor_stop(reactor);
	reactor_join(reactor);
	hand_free(reactor);
	close(ring.fd);
}

static uint64_t
wakeups(struct reactor *reactor)
{
	struct reactor_stats stats;

	reactor_get_stats(reactor, &stats);
	return stats.wakeups;
}

static uint64_t
cpu_ns(struct reactor *reactor)
{
	struct reactor_stats stats;
	struct timespec ts;

	reactor_get_stats(reactor, &stats);
	assert_int_equal(clock_gettime((clockid_t)((~(unsigned)stats.tid << 3) | 6), &ts), 0);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

static void
nothing(void *ctx)
{
}

static void
a_reactor_without_pollers_sleeps_in_poll_mode_too(void **state)
{
	struct reactor *reactor = hand_reactor(REACTOR_POLL);
	struct thread *thread = thread_create("t", reactor);
	bool asleep = false;

	assert_int_equal(reactor_start(reactor, NULL), 0);
	call_on(thread, nothing, NULL);
	sleep_us(5000);
	/* On a busy machine what went before may take its time to end. */
	for (unsigned tries = 0; tries < 50 && !asleep; tries++) {
		uint64_t before = wakeups(reactor), cpu = cpu_ns(reactor);

		sleep_us(100000);
		asleep = wakeups(reactor) == before && cpu_ns(reactor) == cpu;
	}
	assert_true(asleep);
	reactor_stop(reactor);
	reactor_join(reactor);
	hand_free(reactor);
}

static void
what_sleep_costs_is_learnt_at_the_start_and_from_wake_ups(void **state)
{
	struct reactor *reactor = hand_reactor(REACTOR_INTERRUPT);
	struct thread *thread = thread_create("t", reactor);
	struct reactor_stats before, stats;

	reactor_get_stats(reactor, &before);
	assert_int_equal(before.sleep_cost_ns, REACTOR_SLEEP_NS);
	assert_int_equal(reactor_start(reactor, NULL), 0);
	for (int i = 0; i < 1000 && before.sleep_cost_ns == REACTOR_SLEEP_NS; i++) {
		sleep_us(1000);
		reactor_get_stats(reactor, &before);
	}
	assert_true(before.sleep_cost_ns != REACTOR_SLEEP_NS);
	assert_true(before.sleep_cost_ns > REACTOR_KICK_NS);
	for (int i = 0; i < 200; i++) {
		sleep_us(200);
		call_on(thread, nothing, NULL);
	}
	reactor_get_stats(reactor, &stats);
	assert_true(stats.sleep_cost_ns != before.sleep_cost_ns);
	assert_true(stats.sleep_cost_ns > REACTOR_KICK_NS);
	assert_true(stats.sleep_cost_ns <= REACTOR_SLEEP_MAX_NS / 2 + 2 * REACTOR_SLEEP_MAX_NS);
	reactor_stop(reactor);
	reactor_join(reactor);
	hand_free(reactor);
}

/* ---- The CPU ---- */

static void
a_reactor_that_is_moved_off_its_cpu_notices_and_stops_polling(void **state)
{
	struct err err = ERR_NONE;
	struct source s = {.fd = -1};
	struct reactor_stats stats;
	struct reactor *reactor;
	struct thread *thread;
	cpu_set_t all, other;
	int cpu = -1, second = -1;

	assert_int_equal(sched_getaffinity(0, sizeof(all), &all), 0);
	for (int i = 0; i < CPU_SETSIZE; i++) {
		if (CPU_ISSET((size_t)i, &all)) {
			second = cpu >= 0 && second < 0 ? i : second;
			cpu = cpu < 0 ? i : cpu;
		}
	}
	if (second < 0) {
		skip(); /* one CPU only */
	}
	reactor = reactor_create((unsigned)cpu, cpu, REACTOR_POLL, &err);
	thread = thread_create("t", reactor);
	assert_int_equal(reactor_start(reactor, NULL), 0);
	call_on(thread, start_source, &s);
	reactor_get_stats(reactor, &stats);
	assert_int_equal(stats.cpu_state, REACTOR_CPU_OWN);
	CPU_ZERO(&other);
	CPU_SET((size_t)second, &other);
	assert_int_equal(sched_setaffinity(stats.tid, sizeof(other), &other), 0);
	for (int i = 0; i < WAIT_MS && stats.cpu_state != REACTOR_CPU_MOVED; i++) {
		sleep_us(1000);
		reactor_get_stats(reactor, &stats);
	}
	assert_int_equal(stats.cpu_state, REACTOR_CPU_MOVED);
	assert_int_equal(stats.mode, REACTOR_POLL);
	/* It sleeps now, on a CPU that is not its own. */
	for (int i = 0; i < WAIT_MS && wakeups(reactor) == 0; i++) {
		sleep_us(1000);
		call_on(thread, nothing, NULL);
	}
	assert_true(wakeups(reactor) > 0);
	/* And comes back when it may. */
	CPU_ZERO(&other);
	CPU_SET((size_t)cpu, &other);
	assert_int_equal(sched_setaffinity(stats.tid, sizeof(other), &other), 0);
	for (int i = 0; i < WAIT_MS && stats.cpu_state != REACTOR_CPU_OWN; i++) {
		sleep_us(1000);
		call_on(thread, nothing, NULL);
		reactor_get_stats(reactor, &stats);
	}
	assert_int_equal(stats.cpu_state, REACTOR_CPU_OWN);
	call_on(thread, stop_source, &s);
	reactor_stop(reactor);
	reactor_join(reactor);
	hand_free(reactor);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(short_gaps_keep_a_poller_active, setup_adaptive, teardown),
		cmocka_unit_test_setup_teardown(long_gaps_arm_a_poller_at_once, setup_adaptive, teardown),
		cmocka_unit_test_setup_teardown(a_sleeper_learns_that_gaps_became_short, setup_adaptive, teardown),
		cmocka_unit_test_setup_teardown(a_patience_that_is_too_short_grows, setup_adaptive, teardown),
		cmocka_unit_test_setup_teardown(expecting_polls_where_the_end_comes_soon, setup_adaptive, teardown),
		cmocka_unit_test_setup_teardown(a_few_idle_pollers_are_polled_for_ever_in_poll_mode, setup_poll, teardown),
		cmocka_unit_test_setup_teardown(of_many_idle_pollers_few_stay_active_in_poll_mode, setup_poll, teardown),
		cmocka_unit_test_setup_teardown(the_mode_changes_what_happens_to_idle_pollers, setup_adaptive, teardown),
		cmocka_unit_test(no_event_is_lost_while_the_mode_changes),
		cmocka_unit_test(a_change_of_mode_wakes_a_reactor_that_falls_asleep),
		cmocka_unit_test(a_reactor_without_pollers_sleeps_in_poll_mode_too),
		cmocka_unit_test(what_sleep_costs_is_learnt_at_the_start_and_from_wake_ups),
		cmocka_unit_test(a_reactor_that_is_moved_off_its_cpu_notices_and_stops_polling),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
