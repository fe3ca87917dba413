/* SPDX-License-Identifier: BSD-3-Clause */
/* Requests that the module refuses for now. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "testkit/scripted_bdev.h"

#define COUNT 20

static enum reactor_mode mode;
static struct env env;
static struct scripted_bdev s;
static uint8_t buf[4096];
static struct iovec iov = {buf, 4096};
static struct env_io io[COUNT];

static void
begin(void)
{
	env_start(&env, mode, false);
	scripted_bdev_init(&s, "S", 4096, 512);
	memset(io, 0, sizeof(io));
}

static void
end(void)
{
	scripted_close(&s, &env);
	env_stop(&env);
}

static void
submit(unsigned i)
{
	io[i] = (struct env_io){.op = i % 3 == 0 ? BDEV_WRITE : BDEV_READ,
				.lba = i,
				.num_blocks = 8,
				.iov = &iov,
				.iovcnt = 1};
	env_submit(&env.workers[0], &io[i]);
}

static void
expect_log_in_order(void)
{
	for (unsigned i = 0; i < COUNT; i++) {
		EXPECT_SAY(s.log[i].lba == i, "place %u: request %llu", i,
			   (unsigned long long)s.log[i].lba);
	}
}

/* However often they are refused, they reach the module in the order in which they were
 * submitted. */
static void
first_come_first_served(void **state)
{
	begin();
	s.queue_max = 2;
	s.hold = true;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		submit(i);
	}
	assert_int_equal(s.log_count, 2);
	/* Only the third was offered: the others wait behind it. */
	assert_int_equal(s.refused, 1);
	/* Another channel does not. */
	assert_int_equal(bdev_channel_inflight(env.workers[0].ch), COUNT);
	scripted_let_go(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(env_finish(&io[i]), 0);
	}
	assert_int_equal(s.log_count, COUNT);
	expect_log_in_order();
	end();
}

/* Nothing is in flight that could bring it back: a timer does. */
static void
nothing_in_flight(void **state)
{
	uint64_t start_ns = clock_now_ns();
	unsigned refused;

	begin();
	s.refuse_every = 1;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		submit(i);
	}
	env_wait_count(&env, &s.refused, 10);
	env_linger(&env, 5);
	/* Not in a busy loop: every few microseconds. */
	assert_true(s.refused <= 2 + (clock_now_ns() - start_ns) / 10000);
	assert_int_equal(s.log_count, 0);
	s.refuse_every = 0;
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(env_finish(&io[i]), 0);
	}
	expect_log_in_order();
	/* Over: the direct way again. */
	refused = s.refused;
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 0, 1, buf), 0);
	assert_int_equal(s.refused, refused);
	end();
}

/* Parts of split requests queue like all others. */
static void
parts_wait_too(void **state)
{
	begin();
	s.bdev.max_rw_blocks = 1;
	s.queue_max = 3;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		submit(i);
	}
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(env_finish(&io[i]), 0);
	}
	assert_int_equal(s.log_count, COUNT * 8);
	assert_true(s.refused > 0);
	end();
}

/* Refused not at once, but when they were to complete. */
static void
refused_late(void **state)
{
	begin();
	s.hold = true;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		submit(i);
	}
	assert_int_equal(s.log_count, COUNT);
	s.fail_with = -EAGAIN;
	scripted_let_go(&s, &env);
	env_linger(&env, 2);
	s.log_count = 0;
	s.fail_with = 0;
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(env_finish(&io[i]), 0);
	}
	end();
}

static void
refused_late_and_removed(void **state)
{
	begin();
	s.hold = true;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		submit(i);
	}
	scripted_remove(&s, &env);
	env_wait_count(&env, &env.removes, 1);
	s.fail_with = -EAGAIN;
	scripted_let_go(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(env_finish(&io[i]), -ENODEV);
	}
	end();
}

static void
removal_answers_them(void **state)
{
	begin();
	s.queue_max = 1;
	s.hold = true;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		submit(i);
	}
	scripted_remove(&s, &env);
	for (unsigned i = 1; i < COUNT; i++) {
		assert_int_equal(env_finish(&io[i]), -ENODEV);
	}
	assert_false(io[0].done);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io[0]), 0);
	end();
}

static void
removal_while_the_timer_runs(void **state)
{
	begin();
	s.refuse_every = 1;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		submit(i);
	}
	scripted_remove(&s, &env);
	for (unsigned i = 0; i < COUNT; i++) {
		assert_int_equal(env_finish(&io[i]), -ENODEV);
	}
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_come_first_served),
		cmocka_unit_test(nothing_in_flight),
		cmocka_unit_test(parts_wait_too),
		cmocka_unit_test(refused_late),
		cmocka_unit_test(refused_late_and_removed),
		cmocka_unit_test(removal_answers_them),
		cmocka_unit_test(removal_while_the_timer_runs),
	};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		failures += cmocka_run_group_tests_name(reactor_mode_name(mode), tests, NULL, NULL);
	}
	return failures;
}
