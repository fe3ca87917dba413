/* SPDX-License-Identifier: BSD-3-Clause */
/* Pollers: their states, and stopping, starting and freeing them from everywhere. By hand, in every mode. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "testkit/hand.h"

/* An event source with a hand on every lever. */
struct source {
	struct poller p;
	int pending; /* work that poll finds, all of it at once */
	int polls;
	int arms, disarms;
	int late; /* work that comes up between poll and arm */
	void (*in_poll)(struct source *s);
	struct source *other;
	int fd;
	bool on_heap;
};

struct fixture {
	enum reactor_mode mode;
	struct reactor *r;
	struct thread *t;
};

static struct fixture fx;

static int
poll_source(struct poller *p)
{
	struct source *s = CONTAINER_OF(p, struct source, p);
	int n = s->pending;

	assert_ptr_equal(thread_self(), fx.t);
	s->polls++;
	s->pending = 0;
	if (s->in_poll != NULL) {
		s->in_poll(s); /* may free s */
	}
	return n;
}

static bool
arm_source(struct poller *p)
{
	struct source *s = CONTAINER_OF(p, struct source, p);

	assert_ptr_equal(thread_self(), fx.t);
	s->arms++;
	s->pending += s->late;
	s->late = 0;
	return s->pending > 0;
}

static void
disarm_source(struct poller *p)
{
	assert_ptr_equal(thread_self(), fx.t);
	CONTAINER_OF(p, struct source, p)->disarms++;
}

static const struct poller_ops armed_ops = {.name = "armed", .poll = poll_source, .arm = arm_source, .disarm = disarm_source};
static const struct poller_ops plain_ops = {.name = "plain", .poll = poll_source};

static int
setup(void **state)
{
	hand_clock_start();
	fx.mode = *(const enum reactor_mode *)*state;
	fx.r = hand_reactor(fx.mode);
	fx.t = thread_create("t", fx.r);
	return 0;
}

static int
teardown(void **state)
{
	hand_free(fx.r);
	hand_clock_stop();
	return 0;
}

static void
start_busy(void *ctx)
{
	struct source *s = ctx;

	assert_int_equal(poller_start(&s->p, &plain_ops, -1), 0);
}

static void
start_armed(void *ctx)
{
	struct source *s = ctx;

	assert_int_equal(poller_start(&s->p, &armed_ops, s->fd), 0);
}

static void
start_plain(void *ctx)
{
	struct source *s = ctx;

	assert_int_equal(poller_start(&s->p, &plain_ops, s->fd), 0);
}

static void
start_timed(void *ctx)
{
	struct source *s = ctx;

	assert_int_equal(poller_start_timed(&s->p, &plain_ops, 100), 0);
}

static void
stop(void *ctx)
{
	poller_stop(&((struct source *)ctx)->p);
}

static void
wake(void *ctx)
{
	poller_wake(&((struct source *)ctx)->p);
}

static void
signal_fd(int fd)
{
	uint64_t one = 1;

	assert_int_equal(write(fd, &one, sizeof(one)), sizeof(one));
}

/* After a quiet time longer than any mode's patience. */
static void
let_idle(void)
{
	hand_run(fx.r);
	hand_advance(fx.r, 2 * PATIENCE_FIRST_NS / NS_PER_US);
	reactor_poll_once(fx.r);
	reactor_poll_once(fx.r);
}

/* ---- States ---- */

static void
active_poller_is_polled_every_round(void **state)
{
	struct source s = {0};
	int before;

	hand_call(fx.t, start_busy, &s);
	let_idle();
	assert_int_equal(s.p.state, POLLER_ACTIVE); /* nothing could wake it */
	before = s.polls;
	for (int i = 0; i < 10; i++) {
		reactor_poll_once(fx.r);
	}
	assert_int_equal(s.polls, before + 10);
	hand_call(fx.t, stop, &s);
	before = s.polls;
	hand_run(fx.r);
	assert_int_equal(s.polls, before);
	assert_int_equal(s.p.run_count, s.polls);
}

static void
poller_is_armed_when_the_modes_patience_is_over(void **state)
{
	struct source s = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};

	hand_call(fx.t, start_armed, &s);
	hand_advance(fx.r, REACTOR_GRACE_NS / NS_PER_US - 1);
	assert_int_equal(s.p.state, POLLER_ACTIVE);
	/* Interrupt mode waits no longer than a sleep would cost. */
	hand_advance(fx.r, 1);
	assert_int_equal(s.p.state, fx.mode == REACTOR_INTERRUPT ? POLLER_ARMED : POLLER_ACTIVE);
	hand_advance(fx.r, (PATIENCE_FIRST_NS - REACTOR_GRACE_NS) / NS_PER_US - 1);
	assert_int_equal(s.p.state, fx.mode == REACTOR_INTERRUPT ? POLLER_ARMED : POLLER_ACTIVE);
	let_idle();
	assert_int_equal(s.p.state, fx.mode == REACTOR_POLL ? POLLER_ACTIVE : POLLER_ARMED);
	assert_int_equal(s.arms, fx.mode == REACTOR_POLL ? 0 : 1);
	hand_call(fx.t, stop, &s);
	assert_int_equal(s.p.state, POLLER_STOPPED);
	close(s.fd);
}

static void
event_makes_an_armed_poller_active(void **state)
{
	struct source s = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)};

	hand_call(fx.t, start_armed, &s);
	/* Never read, signalled again and again: an edge each time. */
	for (int i = 0; i < 5; i++) {
		int before = s.polls;

		let_idle();
		s.pending = 3;
		signal_fd(s.fd);
		hand_run(fx.r);
		assert_true(s.polls > before);
		assert_int_equal(s.pending, 0);
		assert_int_equal(s.p.busy_count, i + 1);
	}
	assert_int_equal(s.disarms, fx.mode == REACTOR_POLL ? 0 : 5);
	hand_call(fx.t, stop, &s);
	close(s.fd);
}

static void
event_before_start_is_not_lost(void **state)
{
	struct source s = {.fd = eventfd(1, EFD_NONBLOCK | EFD_CLOEXEC)};

	/* Without arm: what came before is found by the first turn, and its edge does no harm. */
	s.pending = 1;
	hand_call(fx.t, start_plain, &s);
	assert_int_equal(s.pending, 0);
	let_idle();
	assert_int_equal(s.p.state, fx.mode == REACTOR_POLL ? POLLER_ACTIVE : POLLER_ARMED);
	hand_call(fx.t, stop, &s);
	close(s.fd);
}

static void
work_between_poll_and_arm_is_found(void **state)
{
	struct source s = {.fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), .late = 2};

	hand_call(fx.t, start_armed, &s);
	let_idle();
	let_idle();
	if (fx.mode != REACTOR_POLL) {
		assert_int_equal(s.p.busy_count, 1);
		assert_int_equal(s.arms, 2);
		assert_int_equal(s.disarms, 1);
	}
	hand_call(fx.t, stop, &s);
	close(s.fd);
}

static void
poller_without_descriptor_sleeps_until_woken(void **state)
{
	struct source s = {.fd = -1};
	int before;

	hand_call(fx.t, start_armed, &s);
	let_idle();
	s.pending = 1;
	before = s.polls;
	if (fx.mode != REACTOR_POLL) {
		assert_int_equal(s.p.state, POLLER_ARMED);
		hand_run(fx.r);
		assert_int_equal(s.polls, before);
	}
	hand_call(fx.t, wake, &s);
	assert_int_equal(s.pending, 0);
	hand_call(fx.t, wake, &s); /* harmless in any state */
	hand_call(fx.t, stop, &s);
	hand_call(fx.t, wake, &s);
	assert_int_equal(s.p.state, POLLER_STOPPED);
}

static unsigned found;

static void
look_at_poller(void *ctx, const struct poller *p)
{
	found++;
	assert_string_equal(p->ops->name, p->state == POLLER_ARMED ? "armed" : "plain");
}

static void
look_at_stats(void *ctx)
{
	struct thread_stats stats;

	thread_get_stats(&stats);
	assert_int_equal(stats.active_pollers, fx.mode == REACTOR_POLL ? 2 : 1);
	assert_int_equal(stats.armed_pollers, fx.mode == REACTOR_POLL ? 0 : 1);
	assert_int_equal(stats.timed_pollers, 1);
	found = 0;
	if (fx.mode != REACTOR_POLL) {
		thread_for_each_poller(look_at_poller, NULL);
		assert_int_equal(found, 3);
	}
}

static void
statistics_count_each_state(void **state)
{
	struct source busy = {0}, armed = {.fd = -1}, timed = {0};

	hand_call(fx.t, start_busy, &busy);
	hand_call(fx.t, start_armed, &armed);
	hand_call(fx.t, start_timed, &timed);
	let_idle();
	hand_call(fx.t, look_at_stats, NULL);
	hand_call(fx.t, stop, &busy);
	hand_call(fx.t, stop, &armed);
	hand_call(fx.t, stop, &timed);
}

static void
start_on_bad_fd(void *ctx)
{
	struct source *s = ctx;

	assert_int_equal(poller_start(&s->p, &plain_ops, 1000000), -EBADF);
	assert_int_equal(s->p.state, POLLER_STOPPED);
}

static void
bad_descriptor_is_an_error(void **state)
{
	struct source s = {0};

	hand_call(fx.t, start_on_bad_fd, &s);
	hand_run(fx.r);
	assert_int_equal(s.polls, 0);
}

/* ---- Stopping, starting, freeing ---- */

static void
stop_own(struct source *s)
{
	poller_stop(&s->p);
	if (s->on_heap) {
		memset(s, 0xa5, sizeof(*s));
		free(s);
	}
}

static void
stop_other(struct source *s)
{
	if (s->other != NULL) {
		stop_own(s->other);
		s->other = NULL;
	}
}

static void
stop_both(struct source *s)
{
	stop_other(s);
	stop_own(s);
}

static struct source *
heap_source(void)
{
	struct source *s = calloc(1, sizeof(*s));

	assert_non_null(s);
	s->on_heap = true;
	s->fd = -1;
	return s;
}

static void
freed_in_own_poll(void **state)
{
	struct source keep[2] = {0};
	void (*const start[])(void *) = {start_busy, start_armed, start_timed};

	for (unsigned i = 0; i < 3; i++) {
		for (int work = 0; work < 2; work++) {
			struct source *s = heap_source();

			s->in_poll = stop_own;
			s->pending = work;
			hand_call(fx.t, start_busy, &keep[0]);
			hand_call(fx.t, start[i], s);
			hand_call(fx.t, start_busy, &keep[1]);
			hand_advance(fx.r, 100);
			hand_call(fx.t, stop, &keep[0]);
			hand_call(fx.t, stop, &keep[1]);
		}
	}
	assert_true(keep[0].polls > 0 && keep[1].polls > 0);
}

static void
start_three(void *ctx)
{
	struct source **s = ctx;

	for (int i = 0; i < 3; i++) {
		start_busy(s[i]);
	}
}

/* Of three pollers the k-th stops and frees the j-th, and perhaps itself too. */
static void
check_stop(int k, int j, bool self)
{
	struct source *s[3] = {heap_source(), heap_source(), heap_source()};
	bool gone[3] = {false};

	gone[j] = true;
	gone[k] = j == k || self;
	if (j == k) {
		s[k]->in_poll = stop_own;
	} else {
		s[k]->other = s[j];
		s[k]->in_poll = self ? stop_both : stop_other;
	}
	hand_call(fx.t, start_three, s);
	for (int i = 0; i < 3; i++) {
		if (!gone[i]) {
			int before = s[i]->polls;

			reactor_poll_once(fx.r);
			assert_int_equal(s[i]->polls, before + 1);
			hand_call(fx.t, stop, s[i]);
			free(s[i]);
		}
	}
}

static void
stopped_and_freed_in_anothers_poll(void **state)
{
	for (int k = 0; k < 3; k++) {
		for (int j = 0; j < 3; j++) {
			check_stop(k, j, false);
			check_stop(k, j, true);
		}
	}
}

struct stopper {
	struct source *victim;
	struct timer timer;
	struct watch watch;
	struct defer defer;
	int fd;
};

static void
stop_in_timer(struct timer *t)
{
	stop_own(CONTAINER_OF(t, struct stopper, timer)->victim);
}

static void
stop_in_watch(struct watch *w, uint32_t events)
{
	struct stopper *st = CONTAINER_OF(w, struct stopper, watch);

	stop_own(st->victim);
	watch_stop(w);
}

static void
stop_in_deferred(struct defer *d)
{
	stop_own(CONTAINER_OF(d, struct stopper, defer)->victim);
}

static void
start_stopper_timer(void *ctx)
{
	assert_int_equal(timer_start(&((struct stopper *)ctx)->timer, 5, stop_in_timer), 0);
}

static void
start_stopper_watch(void *ctx)
{
	struct stopper *st = ctx;

	assert_int_equal(watch_start(&st->watch, st->fd, EPOLLIN, stop_in_watch), 0);
}

static void
defer_stop(void *ctx)
{
	thread_defer(&((struct stopper *)ctx)->defer, stop_in_deferred);
}

static void
batch_stop(void *ctx)
{
	thread_batch(&((struct stopper *)ctx)->defer, stop_in_deferred);
}

static void
stopped_and_freed_from_everywhere(void **state)
{
	void (*const starts[])(void *) = {start_busy, start_armed, start_timed};
	void (*const stops[])(void *) = {start_stopper_timer, start_stopper_watch, defer_stop, batch_stop};

	for (unsigned i = 0; i < 3; i++) {
		for (unsigned j = 0; j < 4; j++) {
			struct stopper st = {.victim = heap_source(), .fd = eventfd(1, EFD_CLOEXEC)};

			hand_call(fx.t, starts[i], st.victim);
			hand_call(fx.t, stops[j], &st);
			hand_advance(fx.r, 200);
			close(st.fd);
		}
	}
	/* Freed memory and pollers left over would be seen by the sanitisers and by hand_free(). */
}

static void
defer_from_own_poll(struct source *s)
{
	static struct stopper st;

	st = (struct stopper){.victim = s};
	defer_stop(&st);
	s->in_poll = NULL;
}

static void
freed_by_a_call_that_its_poll_deferred(void **state)
{
	for (int work = 0; work < 2; work++) {
		struct source *s = heap_source();

		s->in_poll = defer_from_own_poll;
		s->pending = work;
		hand_call(fx.t, start_armed, s);
	}
}

static void
restart_own(struct source *s)
{
	poller_stop(&s->p);
	start_busy(s);
}

static void
restart_in_own_poll_does_not_hold_the_turn(void **state)
{
	struct source s[2] = {{.in_poll = restart_own}, {.in_poll = restart_own}};
	struct source *three[3] = {&s[0], &s[1], heap_source()};
	int before;

	hand_call(fx.t, start_three, three);
	before = three[2]->polls;
	for (int i = 0; i < 10; i++) {
		reactor_poll_once(fx.r);
	}
	assert_int_equal(three[2]->polls, before + 10);
	assert_true(s[0].polls >= 10 && s[1].polls >= 10 && s[0].polls <= 20);
	for (int i = 0; i < 3; i++) {
		hand_call(fx.t, stop, three[i]);
	}
	free(three[2]);
}

static void
wake_other(struct source *s)
{
	poller_wake(&s->other->p);
}

static void
pollers_that_wake_each_other_do_not_hold_the_turn(void **state)
{
	struct source s[2] = {{.in_poll = wake_other, .fd = -1}, {.in_poll = wake_other, .fd = -1}};

	s[0].other = &s[1];
	s[1].other = &s[0];
	hand_call(fx.t, start_armed, &s[0]);
	hand_call(fx.t, start_armed, &s[1]);
	hand_call(fx.t, wake, &s[0]);
	reactor_poll_once(fx.r);
	hand_call(fx.t, stop, &s[0]);
	hand_call(fx.t, stop, &s[1]);
}

static void
start_other(struct source *s)
{
	start_busy(s->other);
	s->in_poll = NULL;
}

static void
started_in_anothers_poll(void **state)
{
	struct source b = {0}, a = {.in_poll = start_other, .other = &b};

	hand_call(fx.t, start_busy, &a);
	reactor_poll_once(fx.r);
	assert_true(b.polls > 0);
	hand_call(fx.t, stop, &a);
	hand_call(fx.t, stop, &b);
	hand_call(fx.t, stop, &b); /* twice is harmless */
}

/* The events of a watch and of a poller come in one batch; the watch's handler frees the poller. */
static void
freed_while_its_event_is_in_the_batch(void **state)
{
	struct source *victim = heap_source();
	struct stopper st = {.victim = victim, .fd = eventfd(0, EFD_CLOEXEC)};
	int fd = eventfd(0, EFD_CLOEXEC);

	victim->fd = fd;
	hand_call(fx.t, start_armed, victim);
	hand_call(fx.t, start_stopper_watch, &st);
	let_idle();
	signal_fd(st.fd);
	signal_fd(fd);
	hand_run(fx.r);
	close(fd);
	close(st.fd);
}

/* ---- Timed pollers ---- */

static void
slow_poll(struct source *s)
{
	clock_set_fake_ns(clock_now_ns() + 30 * NS_PER_US);
}

static void
period_does_not_drift(void **state)
{
	struct source s = {.in_poll = slow_poll};

	hand_call(fx.t, start_timed, &s);
	hand_advance(fx.r, 99);
	assert_int_equal(s.polls, 0);
	hand_advance(fx.r, 1);
	assert_int_equal(s.polls, 1);
	/* Each poll takes 30 us of the 100: still one a period. */
	while (clock_now_ns() < HAND_CLOCK_START_NS + 100 * NS_PER_MS) {
		hand_advance(fx.r, 1);
	}
	assert_in_range(s.polls, 999, 1000);
	assert_int_equal(s.p.run_count, s.polls);
	hand_call(fx.t, stop, &s);
}

static void
late_turn_does_not_delay_the_next(void **state)
{
	struct source s = {0};

	hand_call(fx.t, start_timed, &s);
	clock_set_fake_ns(clock_now_ns() + 130 * NS_PER_US);
	hand_run(fx.r);
	assert_int_equal(s.polls, 1);
	hand_advance(fx.r, 69);
	assert_int_equal(s.polls, 1);
	hand_advance(fx.r, 1);
	assert_int_equal(s.polls, 2);
	hand_call(fx.t, stop, &s);
}

static void
missed_periods_are_left_out(void **state)
{
	struct source s = {0};

	hand_call(fx.t, start_timed, &s);
	clock_set_fake_ns(clock_now_ns() + 1050 * NS_PER_US);
	hand_run(fx.r);
	assert_int_equal(s.polls, 1);
	hand_advance(fx.r, 99);
	assert_int_equal(s.polls, 1);
	hand_advance(fx.r, 1);
	assert_int_equal(s.polls, 2);
	hand_call(fx.t, stop, &s);
	hand_advance(fx.r, 1000);
	assert_int_equal(s.polls, 2);
}

static void
restart_slower(struct source *s)
{
	poller_stop(&s->p);
	assert_int_equal(poller_start_timed(&s->p, &plain_ops, 1000), 0);
}

static void
timed_poller_changes_its_period_in_its_poll(void **state)
{
	struct source s = {.in_poll = restart_slower};

	hand_call(fx.t, start_timed, &s);
	hand_advance(fx.r, 100);
	assert_int_equal(s.polls, 1);
	hand_advance(fx.r, 999);
	assert_int_equal(s.polls, 1);
	hand_advance(fx.r, 1);
	assert_int_equal(s.polls, 2);
	hand_call(fx.t, stop, &s);
}

#define IN_MODES(f) HAND_IN_MODES(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		IN_MODES(active_poller_is_polled_every_round),
		IN_MODES(poller_is_armed_when_the_modes_patience_is_over),
		IN_MODES(event_makes_an_armed_poller_active),
		IN_MODES(event_before_start_is_not_lost),
		IN_MODES(work_between_poll_and_arm_is_found),
		IN_MODES(poller_without_descriptor_sleeps_until_woken),
		IN_MODES(statistics_count_each_state),
		IN_MODES(bad_descriptor_is_an_error),
		IN_MODES(freed_in_own_poll),
		IN_MODES(stopped_and_freed_in_anothers_poll),
		IN_MODES(stopped_and_freed_from_everywhere),
		IN_MODES(freed_by_a_call_that_its_poll_deferred),
		IN_MODES(restart_in_own_poll_does_not_hold_the_turn),
		IN_MODES(pollers_that_wake_each_other_do_not_hold_the_turn),
		IN_MODES(started_in_anothers_poll),
		IN_MODES(freed_while_its_event_is_in_the_batch),
		IN_MODES(period_does_not_drift),
		IN_MODES(late_turn_does_not_delay_the_next),
		IN_MODES(missed_periods_are_left_out),
		IN_MODES(timed_poller_changes_its_period_in_its_poll),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
