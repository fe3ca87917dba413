/* SPDX-License-Identifier: BSD-3-Clause */
/* The scheduler: what it chooses, when it is awake, what moves. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/clock.h"
#include "event/channel.h"
#include "event/scheduler.h"
#include "testkit/hand.h"

/* ---- The policy ---- */

static const struct scheduler_options defaults = {.load_limit = 20, .core_limit = 80, .core_busy = 95};
static const bool anywhere[3] = {true, true, true};
static const bool only_1[3] = {false, true, false};

struct choice {
	const char *what;
	struct scheduler_load threads[4];
	int thread, reactor; /* -1: none */
};

static const struct choice choices[] = {
	{"idle threads gather", {{0, 5, false, anywhere}, {1, 3, true, anywhere}, {2, 50, true, anywhere}}, 1, 0},
	{"not where they may not run", {{0, 5, false, anywhere}, {1, 3, true, only_1}}, -1, -1},
	{"not those that do something", {{0, 5, false, anywhere}, {1, 20, true, anywhere}}, -1, -1},
	{"not onto a core that is full enough", {{0, 79, false, anywhere}, {1, 3, true, anywhere}}, -1, -1},
	{"a full reactor gives its lightest away",
	 {{0, 40, false, anywhere}, {0, 38, true, anywhere}, {0, 22, true, anywhere}, {1, 21, true, only_1}}, 2, 2},
	{"to the emptiest", {{0, 60, true, anywhere}, {0, 40, true, anywhere}, {1, 30, true, only_1}}, 1, 2},
	{"not where there is no room", {{0, 90, false, anywhere}, {0, 10, true, only_1}, {1, 75, true, only_1}}, -1, -1},
	{"a thread that fills its reactor alone stays", {{0, 100, true, anywhere}, {1, 30, true, only_1}}, -1, -1},
	{"nor one that may not move", {{0, 60, false, anywhere}, {0, 40, false, anywhere}}, -1, -1},
};

static void
chooses(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(choices); i++) {
		const struct choice *c = &choices[i];
		unsigned percent[3] = {0}, thread = 99, reactor = 99;
		bool any;

		for (int t = 0; t < 4; t++) {
			if (c->threads[t].allowed != NULL) {
				percent[c->threads[t].reactor] += c->threads[t].percent;
			}
		}
		any = scheduler_choose(&defaults, c->threads, c->threads[3].allowed ? 4 : c->threads[2].allowed ? 3 : 2,
				       percent, 3, 0, &thread, &reactor);
		if (any != (c->thread >= 0) || (any && ((int)thread != c->thread || (int)reactor != c->reactor))) {
			fail_msg("%s: thread %d to %d", c->what, any ? (int)thread : -1, any ? (int)reactor : -1);
		}
	}
}

/* ---- By hand: three reactors, a thread on each, and the one that schedules ---- */

#define REACTORS 3

static struct reactor *reactors[REACTORS];
static struct thread *threads[1 + REACTORS];
static int stopped_count;

static void
run_all(void)
{
	int work;

	do {
		work = 0;
		for (int i = 0; i < REACTORS; i++) {
			work += hand_run(reactors[i]);
		}
	} while (work > 0);
}

static void
start_scheduler(void *ctx)
{
	assert_int_equal(scheduler_start(threads, 1 + REACTORS, reactors, REACTORS), 0);
}

static void
stopped(void *ctx)
{
	stopped_count++;
}

static void
stop_scheduler(void *ctx)
{
	scheduler_stop(stopped, NULL);
}

static int
setup(void **state)
{
	struct err err = ERR_NONE;

	hand_clock_start();
	for (unsigned i = 0; i < REACTORS; i++) {
		reactors[i] = reactor_create(i, -1, REACTOR_ADAPTIVE, &err);
		if (i == 0) {
			threads[0] = thread_create("app", reactors[0]);
		}
		threads[1 + i] = thread_create("io", reactors[i]);
	}
	hand_call(threads[0], start_scheduler, NULL);
	return 0;
}

static int
teardown(void **state)
{
	stopped_count = 0;
	hand_call(threads[0], stop_scheduler, NULL);
	run_all();
	assert_int_equal(stopped_count, 1);
	for (int i = 0; i < REACTORS; i++) {
		hand_free(reactors[i]);
	}
	hand_clock_stop();
	return 0;
}

static struct scheduler_options options;
static int set_status;

static void
set_options(void *ctx)
{
	struct err err = ERR_NONE;

	set_status = scheduler_set(&options, &err);
}

static int
set(void)
{
	hand_call(threads[0], set_options, NULL);
	return set_status;
}

struct mask_call {
	struct thread *t;
	struct cpumask mask;
	int rc;
	int status;
};

static void
mask_done(void *ctx, int status)
{
	((struct mask_call *)ctx)->status = status;
}

static void
call_set_cpumask(void *ctx)
{
	struct mask_call *c = ctx;
	struct err err = ERR_NONE;

	c->rc = scheduler_set_cpumask(c->t, &c->mask, mask_done, c, &err);
}

static struct mask_call
set_cpumask(struct thread *t, unsigned first, unsigned last)
{
	struct mask_call c = {.t = t, .status = 1};

	for (unsigned i = first; i <= last; i++) {
		cpumask_set(&c.mask, i);
	}
	hand_call(threads[0], call_set_cpumask, &c);
	run_all();
	return c;
}

static int balanced;
static uint64_t balanced_ns;

static void
balance(uint64_t period_ns)
{
	balanced++;
	balanced_ns = period_ns;
}

/* A turn of t that takes ns of its reactor's time. */
static void
burn(void *ctx)
{
	clock_set_fake_ns(clock_now_ns() + *(uint64_t *)ctx);
}

static void
work(struct thread *t, uint64_t ns)
{
	hand_call(t, burn, &ns);
	run_all();
}

/* The clock moves on; reactor 0 has the scheduler's timer. */
static void
pass(uint64_t us)
{
	hand_advance(reactors[0], us);
	run_all();
}

static bool
has_timer(void)
{
	return reactor_next_timer_ns(reactors[0]) != UINT64_MAX;
}

/* Reactors report their load when they look around: after 50 us, or a sleep. */
static void
make_load(struct thread *t)
{
	work(t, REACTOR_REPORT_NS + 1);
	reactor_poll_once(thread_reactor(t));
	run_all();
}

static void
without_load_there_is_no_timer(void **state)
{
	scheduler_set_balancer(balance);
	balanced = 0;
	run_all();
	assert_false(has_timer());
	pass(10000000);
	assert_false(has_timer());
	assert_int_equal(balanced, 0);
}

static void
load_starts_periods_and_its_end_ends_them(void **state)
{
	scheduler_set_balancer(balance);
	balanced = 0;
	make_load(threads[2]);
	assert_true(has_timer());
	for (int i = 1; i <= 5; i++) {
		work(threads[2], 100000000);
		pass(SCHEDULER_PERIOD_US - 100000);
		assert_int_equal(balanced, i);
	}
	assert_true(balanced_ns >= UINT64_C(999) * NS_PER_MS && balanced_ns <= UINT64_C(1001) * NS_PER_MS);
	pass(10 * SCHEDULER_PERIOD_US);
	assert_false(has_timer());
	/* And again. */
	make_load(threads[3]);
	assert_true(has_timer());
}

static void
static_means_that_nothing_happens(void **state)
{
	scheduler_get(&options);
	assert_int_equal(options.policy, SCHEDULER_DYNAMIC);
	options.policy = SCHEDULER_STATIC;
	assert_int_equal(set(), 0);
	make_load(threads[1]);
	assert_false(has_timer());
	options.policy = SCHEDULER_DYNAMIC;
	assert_int_equal(set(), 0);
	make_load(threads[1]);
	assert_true(has_timer());
	/* Switched off in the middle of a period. */
	options.policy = SCHEDULER_STATIC;
	assert_int_equal(set(), 0);
	assert_false(has_timer());
}

static void
poke(void *ctx)
{
	scheduler_poke();
	/* Before the poke's message arrives. */
	set_options(NULL);
	set_options(NULL);
	options.policy = SCHEDULER_DYNAMIC;
	set_options(NULL);
	options.policy = SCHEDULER_STATIC;
	set_options(NULL);
}

static void
options_may_change_while_a_report_is_on_its_way(void **state)
{
	scheduler_get(&options);
	options.policy = SCHEDULER_STATIC;
	hand_call(threads[0], poke, NULL);
	run_all();
	assert_false(has_timer());
	options.policy = SCHEDULER_DYNAMIC;
	assert_int_equal(set(), 0);
	make_load(threads[1]);
	assert_true(has_timer());
}

static void
poke_and_stop(void *ctx)
{
	scheduler_poke();
	scheduler_stop(stopped, NULL);
}

static int
teardown_stopped(void **state)
{
	for (int i = 0; i < REACTORS; i++) {
		hand_free(reactors[i]);
	}
	hand_clock_stop();
	return 0;
}

static void
stopping_waits_for_a_report_on_its_way(void **state)
{
	struct cpumask mask;

	stopped_count = 0;
	hand_call(threads[0], poke_and_stop, NULL);
	run_all();
	assert_int_equal(stopped_count, 1);
	assert_false(has_timer());
	/* Nothing is known of its threads any more. */
	scheduler_get_cpumask(threads[1], &mask);
	assert_int_equal(cpumask_count(&mask), 0);
}

static void
a_mask_moves_a_thread_at_once(void **state)
{
	struct mask_call c = set_cpumask(threads[1], 2, 2);
	struct cpumask mask;

	assert_int_equal(c.rc, 0);
	assert_int_equal(c.status, 0);
	assert_ptr_equal(thread_reactor(threads[1]), reactors[2]);
	scheduler_get_cpumask(threads[1], &mask);
	assert_true(cpumask_test(&mask, 2) && cpumask_count(&mask) == 1);
	/* One that allows where it is leaves it there; else the reactor with the fewest threads is taken. */
	c = set_cpumask(threads[1], 0, 2);
	assert_int_equal(c.status, 0);
	assert_ptr_equal(thread_reactor(threads[1]), reactors[2]);
	c = set_cpumask(threads[3], 0, 1);
	assert_int_equal(c.status, 0);
	assert_ptr_equal(thread_reactor(threads[3]), reactors[0]);
}

/* ---- A channel that cannot go to another reactor ---- */

static struct device tied;
static struct channel *tied_channel;
static int tied_arrivals;

static int
tied_create(struct device *dev, struct channel *ch)
{
	return 0;
}

static void
tied_destroy(struct device *dev, struct channel *ch)
{
}

static void
tied_leave(struct device *dev, struct channel *ch)
{
	channel_left(ch);
}

static int
tied_arrive(struct device *dev, struct channel *ch)
{
	tied_arrivals++;
	return thread_reactor(thread_self()) == reactors[0] ? 0 : -ENOMEM;
}

static const struct device_ops tied_ops = {
	.channel_create = tied_create,
	.channel_destroy = tied_destroy,
	.channel_leave = tied_leave,
	.channel_arrive = tied_arrive,
};

static void
get_tied(void *ctx)
{
	tied_channel = channel_get(&tied, NULL);
}

static void
put_tied(void *ctx)
{
	channel_put(tied_channel);
}

static void
a_mask_whose_move_failed_is_not_in_force(void **state)
{
	struct mask_call c;
	struct cpumask mask;

	device_register(&tied, "tied", &tied_ops, sizeof(struct channel));
	hand_call(threads[1], get_tied, NULL);
	c = set_cpumask(threads[1], 2, 2);
	assert_int_equal(c.rc, 0);
	assert_int_equal(c.status, -ENOMEM);
	assert_ptr_equal(thread_reactor(threads[1]), reactors[0]);
	scheduler_get_cpumask(threads[1], &mask);
	assert_true(cpumask_test(&mask, 0) && cpumask_count(&mask) == 1);
	hand_call(threads[1], put_tied, NULL);
	device_unregister(&tied);
}

/* The scheduler does not ask for the same each period: each time costs a line in the log. */
static void
a_move_that_failed_is_not_tried_each_period(void **state)
{
	tied_arrivals = 0;
	assert_int_equal(set_cpumask(threads[1], 0, 2).status, 0);
	assert_int_equal(set_cpumask(threads[2], 0, 0).status, 0);
	assert_int_equal(set_cpumask(threads[2], 0, 2).status, 0);
	device_register(&tied, "tied", &tied_ops, sizeof(struct channel));
	hand_call(threads[2], get_tied, NULL);
	make_load(threads[1]);
	for (int i = 0; i < 10; i++) {
		work(threads[1], 600000000);
		work(threads[2], 398000000);
		pass(2000);
		assert_ptr_equal(thread_reactor(threads[2]), reactors[0]);
	}
	assert_int_equal(tied_arrivals, 2); /* there, and back */
	hand_call(threads[2], put_tied, NULL);
	device_unregister(&tied);
}

static void
masks_that_cannot_be_are_refused(void **state)
{
	assert_int_equal(set_cpumask(threads[1], 7, 9).rc, -EINVAL);
	assert_int_equal(set_cpumask(threads[0], 1, 2).rc, -EINVAL);
	assert_int_equal(set_cpumask(threads[0], 0, 2).rc, 0);
	assert_ptr_equal(thread_reactor(threads[0]), reactors[0]);
	assert_ptr_equal(thread_reactor(threads[1]), reactors[0]);
}

static void
options_that_cannot_be_are_refused(void **state)
{
	scheduler_get(&options);
	options.period_us = 1;
	assert_int_equal(set(), -EINVAL);
	scheduler_get(&options);
	options.core_busy = 101;
	assert_int_equal(set(), -EINVAL);
	scheduler_get(&options);
	options.core_limit = options.core_busy + 1;
	assert_int_equal(set(), -EINVAL);
	scheduler_get(&options);
	options.scheduling_core = 17;
	assert_int_equal(set(), -EINVAL);
	scheduler_get(&options);
	cpumask_set(&options.isolated, 0);
	assert_int_equal(set(), -EINVAL);
}

static void
threads_move_with_the_load(void **state)
{
	/* Two threads that may go anywhere, on the first reactor, and fill it. */
	assert_int_equal(set_cpumask(threads[2], 0, 0).status, 0);
	assert_int_equal(set_cpumask(threads[1], 0, 2).status, 0);
	assert_int_equal(set_cpumask(threads[2], 0, 2).status, 0);
	make_load(threads[1]);
	work(threads[1], 600000000);
	work(threads[2], 398000000);
	pass(2000);
	assert_ptr_equal(thread_reactor(threads[1]), reactors[0]);
	assert_ptr_equal(thread_reactor(threads[2]), reactors[1]);
	/* When there is little to do it comes back. */
	work(threads[1], 100000000);
	work(threads[2], 50000000);
	pass(SCHEDULER_PERIOD_US);
	assert_ptr_equal(thread_reactor(threads[2]), reactors[0]);
}

static void
an_isolated_reactor_is_left_alone(void **state)
{
	scheduler_get(&options);
	cpumask_set(&options.isolated, 1);
	cpumask_set(&options.isolated, 2);
	assert_int_equal(set(), 0);
	assert_int_equal(set_cpumask(threads[2], 0, 0).status, 0);
	assert_int_equal(set_cpumask(threads[1], 0, 2).status, 0);
	assert_int_equal(set_cpumask(threads[2], 0, 2).status, 0);
	assert_int_equal(set_cpumask(threads[3], 0, 2).status, 0);
	make_load(threads[1]);
	work(threads[1], 600000000);
	work(threads[2], 398000000);
	pass(SCHEDULER_PERIOD_US);
	assert_ptr_equal(thread_reactor(threads[1]), reactors[0]);
	assert_ptr_equal(thread_reactor(threads[2]), reactors[0]);
	assert_ptr_equal(thread_reactor(threads[3]), reactors[2]);
}

#define WITH_REACTORS(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(chooses),
		WITH_REACTORS(without_load_there_is_no_timer),
		WITH_REACTORS(load_starts_periods_and_its_end_ends_them),
		WITH_REACTORS(static_means_that_nothing_happens),
		WITH_REACTORS(options_may_change_while_a_report_is_on_its_way),
		cmocka_unit_test_setup_teardown(stopping_waits_for_a_report_on_its_way, setup, teardown_stopped),
		WITH_REACTORS(a_mask_moves_a_thread_at_once),
		WITH_REACTORS(a_mask_whose_move_failed_is_not_in_force),
		WITH_REACTORS(a_move_that_failed_is_not_tried_each_period),
		WITH_REACTORS(masks_that_cannot_be_are_refused),
		WITH_REACTORS(options_that_cannot_be_are_refused),
		WITH_REACTORS(threads_move_with_the_load),
		WITH_REACTORS(an_isolated_reactor_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
