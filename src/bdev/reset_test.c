/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/internal.h"
#include "testkit/scripted_bdev.h"

static enum reactor_mode mode;
static struct env env;
static struct scripted_bdev s;
static uint8_t buf[4096];
static struct iovec iov = {buf, 4096};

static void
begin(bool native)
{
	env_start(&env, mode, false);
	scripted_bdev_init(&s, "S", 4096, 512);
	s.bdev.ops_mask |= native ? 1u << BDEV_RESET : 0;
	s.hold = true;
	scripted_open(&s, &env);
}

static void
end(void)
{
	scripted_close(&s, &env);
	env_stop(&env);
}

static void
submit(unsigned worker, struct env_io *io, enum bdev_op op)
{
	*io = (struct env_io){
		.op = op, .num_blocks = op == BDEV_RESET ? 0 : 8, .iov = &iov, .iovcnt = 1};
	env_submit(&env.workers[worker], io);
}

/* What was under way on all channels, then the reset, then what came meanwhile. */
static void
order(void **state)
{
	struct env_io before[2], during[2], reset;
	struct bdev_stats stats;

	begin(false);
	submit(0, &before[0], BDEV_READ);
	submit(1, &before[1], BDEV_WRITE);
	submit(0, &reset, BDEV_RESET);
	env_linger(&env, 3);
	submit(0, &during[0], BDEV_READ);
	submit(1, &during[1], BDEV_WRITE);
	env_linger(&env, 3);
	assert_int_equal(s.log_count, 2);
	assert_false(reset.done);
	assert_int_equal(bdev_channel_inflight(env.workers[0].ch), 3);
	assert_int_equal(bdev_channel_inflight(env.workers[1].ch), 2);
	scripted_let_go(&s, &env);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(env_finish(&before[i]), 0);
		assert_int_equal(env_finish(&during[i]), 0);
	}
	assert_int_equal(env_finish(&reset), 0);
	assert_true(before[0].order < reset.order && before[1].order < reset.order);
	assert_true(before[0].order < during[0].order && before[1].order < during[1].order);
	assert_int_equal(s.log_count, 4);
	env_stats(&env, &stats);
	assert_int_equal(stats.op[BDEV_RESET].ops, 1);
	end();
}

static void
nothing_under_way(void **state)
{
	begin(false);
	assert_int_equal(env_rw(&env.workers[1], BDEV_RESET, 0, 0, NULL), 0);
	assert_int_equal(s.log_count, 0);
	s.hold = false;
	assert_int_equal(env_rw(&env.workers[1], BDEV_READ, 0, 8, buf), 0);
	end();
}

/* Those that come before the first has begun end with it; a later one waits its turn. */
static void
several(void **state)
{
	struct env_io io, resets[4];

	begin(false);
	submit(0, &io, BDEV_READ);
	for (unsigned i = 0; i < 3; i++) {
		submit(i % 2, &resets[i], BDEV_RESET);
	}
	env_linger(&env, 3);
	submit(1, &resets[3], BDEV_RESET);
	env_linger(&env, 3);
	scripted_let_go(&s, &env);
	for (unsigned i = 0; i < 4; i++) {
		assert_int_equal(env_finish(&resets[i]), 0);
	}
	assert_int_equal(env_finish(&io), 0);
	assert_true(resets[3].order > resets[0].order);
	end();
}

/* The module may end what is under way, which then is not waited for. */
static void
module_cancels(void **state)
{
	struct env_io io[2], reset;

	begin(true);
	submit(0, &io[0], BDEV_READ);
	submit(0, &io[1], BDEV_WRITE);
	submit(0, &reset, BDEV_RESET);
	assert_int_equal(env_finish(&reset), 0);
	assert_int_equal(env_finish(&io[0]), -ECANCELED);
	assert_int_equal(env_finish(&io[1]), -ECANCELED);
	assert_true(s.log_count == 3 && s.log[2].op == BDEV_RESET);
	scripted_let_go(&s, &env);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 0, 8, buf), 0);
	end();
}

static void
module_refuses(void **state)
{
	struct env_io io, resets[2];

	begin(true);
	s.queue_max = 1;
	submit(0, &io, BDEV_READ);
	submit(0, &resets[0], BDEV_RESET);
	submit(0, &resets[1], BDEV_RESET);
	env_linger(&env, 3);
	assert_true(s.refused > 0 && s.log_count == 1);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io), 0);
	assert_int_equal(env_finish(&resets[0]), 0);
	assert_int_equal(env_finish(&resets[1]), 0);
	end();
}

/* ---- Modules that end what they have when they are told to, and nothing else ---- */

static struct bdev_ops deaf_ops;
static atomic_uint cancels;

static void
cancel_deaf(struct bdev_channel *ch, int status)
{
	atomic_fetch_add(&cancels, 1);
}

static void
begin_deaf(void)
{
	env_start(&env, mode, false);
	scripted_bdev_init(&s, "S", 4096, 512);
	deaf_ops = *s.bdev.ops;
	deaf_ops.cancel = cancel_deaf;
	s.bdev.ops = &deaf_ops;
	s.hold = true;
	atomic_store(&cancels, 0);
}

static void
give_up(void *arg)
{
	bdev_channel_give_up(((struct env_worker *)arg)->ch);
}

/* Told often enough, each time in another round of the reactor. */
static void
give_up_often(unsigned times)
{
	for (unsigned i = 0; i < times; i++) {
		env_linger(&env, 2);
		env_call(&env, env.workers[0].thread, give_up, &env.workers[0]);
	}
	env_linger(&env, 2);
}

/* What the module refused for now goes, what it has stays its own. */
static void
refused_ones_end(void **state)
{
	struct env_io io[5], late;

	begin_deaf();
	s.queue_max = 2;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < 5; i++) {
		submit(0, &io[i], BDEV_READ);
	}
	give_up_often(2);
	assert_false(io[2].done);
	submit(0, &late, BDEV_READ);
	give_up_often(1);
	for (unsigned i = 2; i < 5; i++) {
		assert_int_equal(env_finish(&io[i]), -ECANCELED);
	}
	assert_true(!io[0].done && !io[1].done && !late.done && cancels == 3);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io[0]), 0);
	assert_int_equal(env_finish(&io[1]), 0);
	assert_int_equal(env_finish(&late), 0);
	end();
}

/* Those that are cut begin no more parts, and end when the last of them has come back. */
static void
starved_ones_end(void **state)
{
	struct env_io io[PARTS_MAX];
	unsigned canceled = 0;

	begin_deaf();
	s.bdev.max_rw_blocks = 1;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < PARTS_MAX; i++) {
		submit(0, &io[i], BDEV_READ);
	}
	assert_int_equal(s.log_count, PARTS_MAX);
	give_up_often(3);
	for (unsigned i = 0; i < PARTS_MAX; i++) {
		canceled += io[i].done ? 1 : 0;
	}
	assert_int_equal(canceled, PARTS_MAX - PARTS_MAX / PARTS_OF_ONE);
	scripted_let_go(&s, &env);
	for (unsigned i = 0; i < PARTS_MAX; i++) {
		assert_int_equal(env_finish(&io[i]), i < PARTS_MAX / PARTS_OF_ONE ? 0 : -ECANCELED);
	}
	assert_int_equal(s.log_count, PARTS_MAX);
	end();
}

/* A reset asks again and again by itself. */
static void
reset_insists(void **state)
{
	struct env_io io[3], reset;

	begin_deaf();
	s.queue_max = 1;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < 3; i++) {
		submit(0, &io[i], BDEV_READ);
	}
	env_linger(&env, 2);
	submit(1, &reset, BDEV_RESET);
	assert_int_equal(env_finish(&io[1]), -ECANCELED);
	assert_int_equal(env_finish(&io[2]), -ECANCELED);
	assert_true(cancels == 3 && !io[0].done && !reset.done);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io[0]), 0);
	assert_int_equal(env_finish(&reset), 0);
	env_linger(&env, 2);
	assert_int_equal(cancels, 3);
	end();
}

/* ---- Channels that come during a reset ---- */

static struct bdev_channel *late;

static void
get_late(void *arg)
{
	late = bdev_channel_get(env.desc, NULL);
	EXPECT(late != NULL);
}

static void
put_late(void *arg)
{
	bdev_channel_put(late);
}

static void
late_channel_waits(void **state)
{
	struct env_io io, reset, on_late;
	struct env_worker app = {.env = &env};

	begin(false);
	submit(0, &io, BDEV_READ);
	submit(0, &reset, BDEV_RESET);
	env_linger(&env, 3);
	env_call(&env, env.app, get_late, NULL);
	app.thread = env.app;
	app.ch = late;
	on_late = (struct env_io){.op = BDEV_READ, .num_blocks = 8, .iov = &iov, .iovcnt = 1};
	env_submit(&app, &on_late);
	env_linger(&env, 3);
	assert_int_equal(s.log_count, 1);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&on_late), 0);
	assert_int_equal(env_finish(&reset), 0);
	assert_int_equal(env_finish(&io), 0);
	env_call(&env, env.app, put_late, NULL);
	end();
}

static void
removal_meanwhile(void **state)
{
	struct env_io io, reset, parked, again;

	begin(false);
	submit(0, &io, BDEV_READ);
	submit(1, &reset, BDEV_RESET);
	env_linger(&env, 3);
	submit(0, &parked, BDEV_WRITE);
	scripted_remove(&s, &env);
	assert_int_equal(env_finish(&parked), -ENODEV);
	submit(0, &again, BDEV_RESET);
	assert_int_equal(env_finish(&again), -ENODEV);
	assert_false(reset.done);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io), 0);
	assert_int_equal(env_finish(&reset), 0);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(order),
		cmocka_unit_test(nothing_under_way),
		cmocka_unit_test(several),
		cmocka_unit_test(module_cancels),
		cmocka_unit_test(module_refuses),
		cmocka_unit_test(refused_ones_end),
		cmocka_unit_test(starved_ones_end),
		cmocka_unit_test(late_channel_waits),
		cmocka_unit_test(removal_meanwhile),
	};
	/* It takes two seconds. */
	const struct CMUnitTest slow[] = {cmocka_unit_test(reset_insists)};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		failures += cmocka_run_group_tests_name(reactor_mode_name(mode), tests, NULL, NULL);
	}
	mode = REACTOR_INTERRUPT;
	failures += cmocka_run_group_tests_name("slow", slow, NULL, NULL);
	return failures;
}
