/* SPDX-License-Identifier: BSD-3-Clause */
/* Statistics of each channel, and their way back to zero, closed channels included. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "testkit/scripted_bdev.h"

static enum reactor_mode mode;
static struct env env;
static struct scripted_bdev s;
static uint8_t buf[4096];
static atomic_bool walked;
static struct {
	unsigned count;
	uint64_t reads, writes;
	bool extremes_only;
} seen;

static void
finished(void *ctx)
{
	assert_ptr_equal(thread_self(), env.app);
	atomic_store(&walked, true);
}

static void
each(void *ctx, const char *user, const struct bdev_stats *stats)
{
	/* On the thread of the channel: the first worker reads, the second writes. */
	unsigned worker = thread_self() == env.workers[1].thread;

	EXPECT(thread_self() == env.workers[worker].thread && strcmp(user, "") == 0);
	EXPECT(stats->op[worker == 0 ? BDEV_WRITE : BDEV_READ].ops == 0);
	seen.count++;
	seen.reads += stats->op[BDEV_READ].ops;
	seen.writes += stats->op[BDEV_WRITE].ops;
}

static void
walk(void *arg)
{
	EXPECT(bdev_for_each_channel_stats(env.bdev, each, finished, NULL) == 0);
}

static void
reset(void *arg)
{
	EXPECT(bdev_reset_stats(env.bdev, seen.extremes_only, finished, NULL) == 0);
}

static void
on_app(void (*fn)(void *arg))
{
	atomic_store(&walked, false);
	env_call(&env, env.app, fn, NULL);
	env_wait(&env, &walked);
}

static void
load(void)
{
	for (int i = 0; i < 3; i++) {
		assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 0, 8, buf), 0);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(env_rw(&env.workers[1], BDEV_WRITE, 0, 8, buf), 0);
	}
}

static void
begin(void)
{
	memset(&seen, 0, sizeof(seen));
	env_start(&env, mode, false);
	scripted_bdev_init(&s, "S", 4096, 512);
	scripted_open(&s, &env);
	load();
}

static void
end(void)
{
	scripted_close(&s, &env);
	env_stop(&env);
}

static void
each_channel(void **state)
{
	begin();
	on_app(walk);
	assert_int_equal(seen.count, 2);
	assert_int_equal(seen.reads, 3);
	assert_int_equal(seen.writes, 2);
	end();
}

/* One that takes its time. */
static void
slow_read(void)
{
	static struct iovec iov = {buf, sizeof(buf)};
	struct env_io io = {.op = BDEV_READ, .num_blocks = 8, .iov = &iov, .iovcnt = 1};

	s.hold = true;
	env_submit(&env.workers[0], &io);
	env_linger(&env, 3);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io), 0);
}

static void
back_to_zero(void **state)
{
	struct bdev_stats stats;

	begin();
	slow_read();
	/* The channels close and are made anew: what they counted is kept elsewhere. */
	env_close(&env);
	assert_int_equal(env_open(&env, "S", true), 0);
	load();
	env_stats(&env, &stats);
	assert_int_equal(stats.op[BDEV_READ].ops, 7);
	assert_true(stats.op[BDEV_READ].max_ns > 1000000);

	seen.extremes_only = true;
	on_app(reset);
	env_stats(&env, &stats);
	assert_int_equal(stats.op[BDEV_READ].ops, 7);
	assert_true(stats.op[BDEV_READ].latency_ns > 1000000);
	assert_int_equal(stats.op[BDEV_READ].max_ns, 0);
	assert_int_equal(stats.op[BDEV_READ].min_ns, 0);

	seen.extremes_only = false;
	on_app(reset);
	env_stats(&env, &stats);
	assert_int_equal(stats.op[BDEV_READ].ops, 0);
	assert_int_equal(stats.op[BDEV_WRITE].bytes, 0);
	assert_int_equal(stats.op[BDEV_WRITE].latency_ns, 0);
	load();
	env_stats(&env, &stats);
	assert_int_equal(stats.op[BDEV_READ].ops, 3);
	assert_int_equal(stats.op[BDEV_WRITE].bytes, 2 * 4096);
	end();
}

static void
got_errors(void *ctx, const struct bdev_stats *stats)
{
	struct bdev_errors *errors = ctx;

	EXPECT(stats->by_kind != NULL);
	*errors = *stats->by_kind;
	atomic_store(&walked, true);
}

static void
ask_errors(void *arg)
{
	EXPECT(bdev_get_stats(env.bdev, got_errors, arg) == 0);
}

static void
get_errors(struct bdev_errors *errors)
{
	atomic_store(&walked, false);
	env_call(&env, env.app, ask_errors, errors);
	env_wait(&env, &walked);
}

static void
errors_by_kind(void **state)
{
	struct bdev_errors errors;
	struct bdev_stats stats;

	begin();
	env_stats(&env, &stats);
	assert_null(stats.by_kind);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 5000, 8, buf), -EINVAL);
	s.fail_with = -EIO;
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 0, 8, buf), -EIO);
	assert_int_equal(env_rw(&env.workers[1], BDEV_READ, 0, 8, buf), -EIO);
	s.fail_with = -ENOSPC;
	assert_int_equal(env_rw(&env.workers[1], BDEV_WRITE, 0, 8, buf), -ENOSPC);
	s.fail_with = 0;
	assert_int_equal(env_rw(&env.workers[1], BDEV_OP_COUNT, 0, 8, buf), -EOPNOTSUPP);
	for (int i = 0; i < 2; i++) {
		get_errors(&errors);
		assert_int_equal(errors.count[BDEV_READ][BDEV_ERROR_RANGE], 1);
		assert_int_equal(errors.count[BDEV_READ][BDEV_ERROR_IO], 2);
		assert_int_equal(errors.count[BDEV_WRITE][BDEV_ERROR_NO_SPACE], 1);
		assert_int_equal(errors.count[BDEV_WRITE][BDEV_ERROR_IO], 0);
		/* The same when the channels are gone. */
		env_close(&env);
		assert_int_equal(env_open(&env, "S", true), 0);
	}
	env_stats(&env, &stats);
	assert_int_equal(stats.errors, 5);
	seen.extremes_only = false;
	on_app(reset);
	get_errors(&errors);
	assert_int_equal(errors.count[BDEV_READ][BDEV_ERROR_IO], 0);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_channel),
		cmocka_unit_test(back_to_zero),
		cmocka_unit_test(errors_by_kind),
	};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		failures += cmocka_run_group_tests_name(reactor_mode_name(mode), tests, NULL, NULL);
	}
	return failures;
}
