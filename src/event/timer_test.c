/* SPDX-License-Identifier: BSD-3-Clause */
/* One-shot timers and watches. By hand, in every mode. */
#include <errno.h>
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "testkit/hand.h"

struct fixture {
	struct reactor *r;
	struct thread *a, *b;
};

static struct fixture fx;
static char trail[256];
static size_t trail_len;

static void
note(char what)
{
	assert_true(trail_len + 1 < sizeof(trail));
	trail[trail_len++] = what;
	trail[trail_len] = '\0';
}

static int
setup(void **state)
{
	hand_clock_start();
	fx.r = hand_reactor(*(const enum reactor_mode *)*state);
	fx.a = thread_create("a", fx.r);
	fx.b = thread_create("b", fx.r);
	trail_len = 0;
	trail[0] = '\0';
	return 0;
}

static int
teardown(void **state)
{
	hand_free(fx.r);
	hand_clock_stop();
	return 0;
}

/* ---- Timers ---- */

struct alarm {
	struct timer timer;
	char what;
	uint64_t delay_us;
	uint64_t due_ns;
	struct thread *expect;
	int restarts;
	struct alarm *stop;
	bool on_heap;
};

static void ring(struct timer *t);

static void
set_alarm(void *ctx)
{
	struct alarm *a = ctx;

	a->expect = thread_self();
	a->due_ns = clock_now_ns() + a->delay_us * NS_PER_US;
	assert_int_equal(timer_start(&a->timer, a->delay_us, ring), 0);
}

static void
ring(struct timer *t)
{
	struct alarm *a = CONTAINER_OF(t, struct alarm, timer);

	assert_ptr_equal(thread_self(), a->expect);
	assert_true(clock_now_ns() >= a->due_ns);
	note(a->what);
	if (a->stop != NULL) {
		timer_stop(&a->stop->timer);
	}
	if (a->restarts > 0) {
		a->restarts--;
		set_alarm(a);
	}
	if (a->on_heap) {
		memset(a, 0xa5, sizeof(*a));
		free(a);
	}
}

static struct {
	struct msg msg;
	struct alarm *alarm;
} a_msg;

static void
set_alarm_msg(struct msg *msg)
{
	set_alarm(a_msg.alarm);
}

static void
stop_alarm(void *ctx)
{
	timer_stop(&((struct alarm *)ctx)->timer);
}

static void
timers_fire_by_deadline(void **state)
{
	struct alarm a[5] = {{.what = '3', .delay_us = 300}, {.what = '1', .delay_us = 100},
			     {.what = '5', .delay_us = 500}, {.what = '2', .delay_us = 200},
			     {.what = '4', .delay_us = 400}};

	for (int i = 0; i < 5; i++) {
		hand_call(i % 2 == 0 ? fx.a : fx.b, set_alarm, &a[i]);
	}
	assert_int_equal(reactor_next_timer_ns(fx.r), HAND_CLOCK_START_NS + 100 * NS_PER_US);
	hand_advance(fx.r, 99);
	assert_string_equal(trail, "");
	hand_advance(fx.r, 1);
	assert_string_equal(trail, "1");
	/* Several at once keep their order too. */
	clock_set_fake_ns(clock_now_ns() + NS_PER_S);
	hand_run(fx.r);
	assert_string_equal(trail, "12345");
	assert_int_equal(reactor_next_timer_ns(fx.r), UINT64_MAX);
}

static void
timer_restarts(void **state)
{
	struct alarm a = {.what = 'a', .delay_us = 100, .restarts = 2};

	hand_call(fx.a, set_alarm, &a);
	hand_advance(fx.r, 50);
	hand_call(fx.a, set_alarm, &a); /* from outside: the first deadline is forgotten */
	hand_advance(fx.r, 99);
	assert_string_equal(trail, "");
	hand_advance(fx.r, 1);
	assert_string_equal(trail, "a");
	hand_advance(fx.r, 1000);
	assert_string_equal(trail, "aaa");
}

static void
timer_stopped_in_anothers_handler(void **state)
{
	struct alarm b = {.what = 'b', .delay_us = 100}, a = {.what = 'a', .delay_us = 90, .stop = &b};
	struct alarm c = {.what = 'c', .delay_us = 110};

	hand_call(fx.a, set_alarm, &a);
	hand_call(fx.a, set_alarm, &b);
	hand_call(fx.a, set_alarm, &c);
	/* All are due in the same round. */
	clock_set_fake_ns(clock_now_ns() + NS_PER_S);
	hand_run(fx.r);
	assert_string_equal(trail, "ac");
}

static void
timer_freed_in_its_handler(void **state)
{
	for (int i = 0; i < 3; i++) {
		struct alarm *a = calloc(1, sizeof(*a));

		assert_non_null(a);
		*a = (struct alarm){.what = 'f', .delay_us = 10, .on_heap = true};
		hand_call(fx.a, set_alarm, a);
	}
	hand_advance(fx.r, 10);
	assert_string_equal(trail, "fff");
}

static void
timer_without_delay_does_not_hold_the_round(void **state)
{
	struct alarm a = {.what = 'a', .delay_us = 0, .restarts = INT_MAX}, b = {.what = 'b', .delay_us = 1};

	hand_call(fx.b, set_alarm, &b);
	/* The clock stands still: a is due again at once, for ever. */
	thread_send(fx.a, &a_msg.msg, set_alarm_msg);
	a_msg.alarm = &a;
	for (int i = 0; i < 10; i++) {
		reactor_poll_once(fx.r);
	}
	assert_in_range(trail_len, 1, 20);
	clock_set_fake_ns(clock_now_ns() + NS_PER_US);
	for (int i = 0; i < 10; i++) {
		reactor_poll_once(fx.r);
	}
	assert_non_null(strchr(trail, 'b'));
	a.restarts = 0;
	hand_run(fx.r);
}

static void
stopped_timer_never_fires(void **state)
{
	struct alarm a = {.what = 'a', .delay_us = 10};

	hand_call(fx.a, stop_alarm, &a); /* never started */
	hand_call(fx.a, set_alarm, &a);
	hand_call(fx.a, stop_alarm, &a);
	hand_call(fx.a, stop_alarm, &a);
	hand_advance(fx.r, 1000);
	assert_string_equal(trail, "");
}

static void
endless_delay_is_never_over(void **state)
{
	struct alarm a = {.what = 'a', .delay_us = UINT64_MAX}, b = {.what = 'b', .delay_us = UINT64_MAX / NS_PER_US};

	hand_call(fx.a, set_alarm, &a);
	hand_call(fx.a, set_alarm, &b);
	hand_advance(fx.r, UINT64_C(1000000) * 3600);
	assert_string_equal(trail, "");
	hand_call(fx.a, stop_alarm, &a);
	hand_call(fx.a, stop_alarm, &b);
}

/* ---- Watches ---- */

struct ear {
	struct watch w;
	int pair[2];
	uint32_t events;
	char what;
	bool drain;
	struct ear *stop;
	bool stop_self;
	int calls;
};

static void
hear(struct watch *w, uint32_t events)
{
	struct ear *e = CONTAINER_OF(w, struct ear, w);
	char c;

	assert_ptr_equal(thread_self(), w->thread);
	e->events = events;
	e->calls++;
	note(e->what);
	if (e->drain) {
		assert_int_equal(read(e->pair[0], &c, 1), 1);
	}
	if (e->stop != NULL) {
		watch_stop(&e->stop->w);
		close(e->stop->pair[0]);
		close(e->stop->pair[1]);
		e->stop = NULL;
	}
	if (e->stop_self) {
		watch_stop(w);
	}
}

static void
ear_init(struct ear *e, char what)
{
	*e = (struct ear){.what = what};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, e->pair), 0);
}

static void
ear_close(struct ear *e)
{
	close(e->pair[0]);
	close(e->pair[1]);
}

static void
start_ear(void *ctx)
{
	struct ear *e = ctx;

	assert_int_equal(watch_start(&e->w, e->pair[0], EPOLLIN, hear), 0);
}

static void
stop_ear(void *ctx)
{
	watch_stop(&((struct ear *)ctx)->w);
}

static void
watch_is_level_triggered(void **state)
{
	struct ear e;

	ear_init(&e, 'e');
	hand_call(fx.a, start_ear, &e);
	hand_run(fx.r);
	assert_int_equal(e.calls, 0);
	assert_int_equal(write(e.pair[1], "xy", 2), 2);
	for (int i = 1; i <= 3; i++) {
		reactor_poll_once(fx.r);
		assert_int_equal(e.calls, i); /* not read: said again */
	}
	assert_int_equal(e.events, EPOLLIN);
	e.drain = true;
	hand_run(fx.r);
	assert_int_equal(e.calls, 5);
	hand_call(fx.a, stop_ear, &e);
	hand_call(fx.a, stop_ear, &e);
	assert_int_equal(write(e.pair[1], "x", 1), 1);
	hand_run(fx.r);
	assert_int_equal(e.calls, 5);
	ear_close(&e);
}

static void
listen_for_room(void *ctx)
{
	assert_int_equal(watch_modify(&((struct ear *)ctx)->w, EPOLLOUT), 0);
}

static void
watch_is_modified(void **state)
{
	struct ear e;

	ear_init(&e, 'e');
	hand_call(fx.a, start_ear, &e);
	e.stop_self = true;
	hand_call(fx.a, listen_for_room, &e);
	assert_int_equal(e.calls, 1);
	assert_int_equal(e.events, EPOLLOUT);
	/* The same watch again, on a descriptor whose other end has gone. */
	close(e.pair[1]);
	hand_call(fx.b, start_ear, &e);
	assert_int_equal(e.calls, 2);
	assert_true((e.events & EPOLLHUP) != 0);
	close(e.pair[0]);
}

/* Both are ready in one batch; whichever is called first stops and closes the other. */
static void
watch_stopped_in_the_batch_is_not_called(void **state)
{
	struct ear e[2];

	for (int i = 0; i < 2; i++) {
		ear_init(&e[i], (char)('0' + i));
		e[i].stop = &e[1 - i];
		e[i].drain = true;
		hand_call(fx.a, start_ear, &e[i]);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(write(e[i].pair[1], "x", 1), 1);
	}
	hand_run(fx.r);
	assert_int_equal(e[0].calls + e[1].calls, 1);
	for (int i = 0; i < 2; i++) {
		if (e[i].calls == 1) {
			hand_call(fx.a, stop_ear, &e[i]);
			ear_close(&e[i]);
		}
	}
}

/* More descriptors ready than one look at epoll brings: all get their turn. */
static void
many_watches_all_get_their_turn(void **state)
{
	static struct ear e[200];

	for (int i = 0; i < 200; i++) {
		ear_init(&e[i], 'x');
		hand_call(i % 2 == 0 ? fx.a : fx.b, start_ear, &e[i]);
		assert_int_equal(write(e[i].pair[1], "x", 1), 1);
		e[i].drain = true;
	}
	hand_run(fx.r);
	for (int i = 0; i < 200; i++) {
		assert_int_equal(e[i].calls, 1);
		hand_call(i % 2 == 0 ? fx.a : fx.b, stop_ear, &e[i]);
		ear_close(&e[i]);
	}
}

static void
start_on_bad_fd(void *ctx)
{
	struct ear e = {.pair = {1000000, -1}};

	assert_int_equal(watch_start(&e.w, e.pair[0], EPOLLIN, hear), -EBADF);
	watch_stop(&e.w);
}

static void
bad_descriptor_is_an_error(void **state)
{
	hand_call(fx.a, start_on_bad_fd, NULL);
}

#define IN_MODES(f) HAND_IN_MODES(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		IN_MODES(timers_fire_by_deadline),
		IN_MODES(timer_restarts),
		IN_MODES(timer_stopped_in_anothers_handler),
		IN_MODES(timer_freed_in_its_handler),
		IN_MODES(timer_without_delay_does_not_hold_the_round),
		IN_MODES(stopped_timer_never_fires),
		IN_MODES(endless_delay_is_never_over),
		IN_MODES(watch_is_level_triggered),
		IN_MODES(watch_is_modified),
		IN_MODES(watch_stopped_in_the_batch_is_not_called),
		IN_MODES(many_watches_all_get_their_turn),
		IN_MODES(bad_descriptor_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
