/* SPDX-License-Identifier: BSD-3-Clause */
/* The direct way, errors, stable writes, statistics, channels. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/internal.h"
#include "testkit/scripted_bdev.h"

static enum reactor_mode mode;
static struct env env;
static struct scripted_bdev s;
static uint8_t buf[65536] __attribute__((aligned(4096)));

static void
begin(void)
{
	env_start(&env, mode, false);
	scripted_bdev_init(&s, "S", 4096, 512);
}

static void
end(void)
{
	scripted_close(&s, &env);
	env_stop(&env);
}

static struct env_io
rw(enum bdev_op op, uint64_t lba, uint64_t n, struct iovec *iov)
{
	*iov = (struct iovec){buf, n * s.bdev.block_size};
	return (struct env_io){.op = op, .lba = lba, .num_blocks = n, .iov = iov, .iovcnt = 1};
}

/* ---- The direct way ---- */

static void
module_gets_what_was_submitted(void **state)
{
	struct iovec iov, three[3] = {{buf, 100}, {buf + 200, 400}, {buf + 700, 524}};
	struct env_io io;

	begin();
	s.hold = true;
	scripted_open(&s, &env);
	io = rw(BDEV_WRITE, 7, 3, &iov);
	env_submit(&env.workers[0], &io);
	assert_int_equal(s.log_count, 1);
	assert_true(s.log[0].op == BDEV_WRITE && s.log[0].lba == 7 && s.log[0].num_blocks == 3 &&
		    s.log[0].iovcnt == 1);
	assert_int_equal(bdev_channel_inflight(env.workers[0].ch), 1);
	assert_int_equal(bdev_channel_inflight(env.workers[1].ch), 0);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io), 0);
	assert_int_equal(bdev_channel_inflight(env.workers[0].ch), 0);
	/* A list as it is, when the module takes it. */
	assert_int_equal(env_rwv(&env.workers[0], BDEV_READ, 0, 9, 2, three, 3), 0);
	assert_true(s.log_count == 2 && s.log[1].iovcnt == 3);
	assert_int_equal(env_rw(&env.workers[1], BDEV_FLUSH, 0, 0, NULL), 0);
	assert_true(s.log_count == 3 && s.log[2].op == BDEV_FLUSH);
	end();
}

static void
no_blocks_stay_here(void **state)
{
	struct iovec iov = {buf, 0};

	begin();
	scripted_open(&s, &env);
	assert_int_equal(env_rwv(&env.workers[0], BDEV_READ, 0, 5, 0, &iov, 1), 0);
	assert_int_equal(env_rwv(&env.workers[0], BDEV_WRITE, 0, 5, 0, &iov, 1), 0);
	assert_int_equal(s.log_count, 0);
	end();
}

static void
module_status_arrives(void **state)
{
	struct bdev_stats stats;

	begin();
	scripted_open(&s, &env);
	s.fail_with = -EIO;
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 0, 1, buf), -EIO);
	s.fail_with = -ENOSPC;
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 0, 1, buf), -ENOSPC);
	s.fail_with = 0;
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 0, 1, buf), 0);
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 4096, 1, buf), -EINVAL);
	env_stats(&env, &stats);
	assert_int_equal(stats.errors, 3);
	assert_true(stats.op[BDEV_READ].ops == 0 && stats.op[BDEV_WRITE].ops == 1);
	end();
}

/* ---- Stable writes ---- */

static void
flush_follows_stable_write(void **state)
{
	struct iovec iov;
	struct env_io io;

	begin();
	s.bdev.write_cache = true;
	s.hold = true;
	scripted_open(&s, &env);
	io = rw(BDEV_WRITE, 3, 2, &iov);
	io.flags = BDEV_IO_FUA;
	env_submit(&env.workers[0], &io);
	assert_true(s.log_count == 1 && s.log[0].op == BDEV_WRITE && s.log[0].flags == 0);
	env_linger(&env, 2);
	assert_int_equal(s.log_count, 1);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io), 0);
	assert_true(s.log_count == 2 && s.log[1].op == BDEV_FLUSH);
	/* Where the write fails, nothing is flushed. */
	s.fail_with = -EIO;
	assert_int_equal(env_rwv(&env.workers[0], BDEV_WRITE, BDEV_IO_FUA, 3, 2, &iov, 1), -EIO);
	assert_int_equal(s.log_count, 3);
	/* Where the flush fails, so does the write. */
	s.fail_skip = 1;
	assert_int_equal(env_rwv(&env.workers[0], BDEV_WRITE, BDEV_IO_FUA, 3, 2, &iov, 1), -EIO);
	assert_int_equal(s.log_count, 5);
	s.fail_with = 0;
	assert_int_equal(env_rwv(&env.workers[0], BDEV_WRITE_ZEROES, BDEV_IO_FUA, 3, 2, NULL, 0),
			 0);
	assert_true(s.log_count == 7 && s.log[6].op == BDEV_FLUSH);
	end();
}

static void
native_stable_write(void **state)
{
	struct iovec iov = {buf, 1024};

	begin();
	s.bdev.write_cache = true;
	s.bdev.native_fua = true;
	scripted_open(&s, &env);
	assert_int_equal(env_rwv(&env.workers[0], BDEV_WRITE, BDEV_IO_FUA, 3, 2, &iov, 1), 0);
	assert_true(s.log_count == 1 && s.log[0].flags == BDEV_IO_FUA);
	end();
}

static void
stable_write_without_cache(void **state)
{
	struct iovec iov = {buf, 1024};

	begin();
	s.bdev.ops_mask &= ~(1u << BDEV_FLUSH);
	scripted_open(&s, &env);
	assert_int_equal(env_rwv(&env.workers[0], BDEV_WRITE, BDEV_IO_FUA, 3, 2, &iov, 1), 0);
	assert_int_equal(env_rw(&env.workers[0], BDEV_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(s.log_count, 1);
	end();
}

static void
stable_write_impossible(void **state)
{
	struct iovec iov = {buf, 1024};

	begin();
	s.bdev.write_cache = true;
	s.bdev.ops_mask &= ~(1u << BDEV_FLUSH);
	scripted_open(&s, &env);
	assert_int_equal(env_rwv(&env.workers[0], BDEV_WRITE, BDEV_IO_FUA, 3, 2, &iov, 1),
			 -EOPNOTSUPP);
	assert_int_equal(env_rw(&env.workers[0], BDEV_FLUSH, 0, 0, NULL), -EOPNOTSUPP);
	assert_int_equal(s.log_count, 0);
	end();
}

/* ---- Statistics ---- */

static void
counters_outlive_channels(void **state)
{
	struct bdev_stats stats;

	begin();
	scripted_open(&s, &env);
	for (unsigned round = 1; round <= 3; round++) {
		assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 0, 8, buf), 0);
		assert_int_equal(env_rw(&env.workers[1], BDEV_READ, 0, 3, buf), 0);
		assert_int_equal(env_rw(&env.workers[1], BDEV_UNMAP, 0, 16, NULL), 0);
		assert_int_equal(env_rw(&env.workers[1], BDEV_FLUSH, 0, 77, NULL), 0);
		env_stats(&env, &stats);
		assert_true(stats.op[BDEV_WRITE].ops == round &&
			    stats.op[BDEV_WRITE].bytes == round * 4096);
		assert_true(stats.op[BDEV_READ].ops == round &&
			    stats.op[BDEV_READ].bytes == round * 1536);
		assert_true(stats.op[BDEV_UNMAP].ops == round &&
			    stats.op[BDEV_UNMAP].bytes == round * 8192);
		assert_true(stats.op[BDEV_FLUSH].ops == round && stats.op[BDEV_FLUSH].bytes == 0);
		assert_true(stats.op[BDEV_WRITE_ZEROES].ops == 0 &&
			    stats.op[BDEV_WRITE_ZEROES].min_ns == 0);
		env_close(&env);
		assert_int_equal(env_open(&env, "S", true), 0);
	}
	end();
}

static atomic_bool summed;

static void
got_stats(void *ctx, const struct bdev_stats *stats)
{
	*(struct bdev_stats *)ctx = *stats;
	atomic_store(&summed, true);
}

static void
put_second(struct msg *msg)
{
	bdev_channel_put(env.workers[1].ch);
	env.workers[1].ch = NULL;
}

/* The sum has begun, and the second worker's channel goes before its turn comes. */
static void
sum_and_put(void *arg)
{
	static struct msg msg;

	EXPECT(bdev_get_stats(&s.bdev, got_stats, arg) == 0);
	thread_send(env.workers[1].thread, &msg, put_second);
}

static void
channel_closes_meanwhile(void **state)
{
	struct bdev_stats stats;

	begin();
	scripted_open(&s, &env);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 0, 1, buf), 0);
	assert_int_equal(env_rw(&env.workers[1], BDEV_READ, 0, 1, buf), 0);
	atomic_store(&summed, false);
	env_call(&env, env.app, sum_and_put, &stats);
	env_wait(&env, &summed);
	assert_int_equal(stats.op[BDEV_READ].ops, 2);
	assert_null(env.workers[1].ch);
	end();
}

static void
latency_is_measured(void **state)
{
	struct bdev_stats stats;
	struct iovec iov;
	struct env_io io;

	begin();
	s.hold = true;
	scripted_open(&s, &env);
	io = rw(BDEV_READ, 0, 1, &iov);
	env_submit(&env.workers[0], &io);
	env_linger(&env, 20);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io), 0);
	env_stats(&env, &stats);
	assert_true(stats.op[BDEV_READ].min_ns >= 10000000 &&
		    stats.op[BDEV_READ].min_ns == stats.op[BDEV_READ].max_ns);
	assert_true(stats.op[BDEV_READ].latency_ns == stats.op[BDEV_READ].max_ns);
	end();
}

/* ---- Channels ---- */

struct last {
	struct bdev_io *io;
	struct iovec iov;
	atomic_bool done;
};

/* done() is the last thing that happens with a channel: it may put it. */
static void
put_in_done(struct bdev_io *io, int status)
{
	struct last *last = *(struct last **)(void *)((uint8_t *)io + bdev_io_bytes(&s.bdev));

	bdev_channel_put(io->ch);
	free(io);
	atomic_store(&last->done, true);
}

static void
submit_last(void *arg)
{
	struct bdev_channel *ch = bdev_channel_get(env.desc, NULL);
	struct last *last = arg;

	EXPECT(ch != NULL);
	last->io = aligned_alloc(64, bdev_io_bytes(&s.bdev) + 64);
	*(struct last **)(void *)((uint8_t *)last->io + bdev_io_bytes(&s.bdev)) = last;
	bdev_io_init(last->io, BDEV_READ, 0, 8, &last->iov, 1, put_in_done);
	bdev_submit(ch, last->io);
}

static void
done_may_put_the_channel(void **state)
{
	/* Directly, in parts, and refused. */
	static const struct {
		uint32_t max_rw;
		unsigned refuse_every;
		bool at_once;
	} ways[] = {{0, 0, true}, {0, 0, false}, {3, 0, false}, {3, 2, false}, {0, 2, true}};

	for (size_t i = 0; i < ARRAY_SIZE(ways); i++) {
		struct last last = {.iov = {buf, 4096}};

		begin();
		s.bdev.max_rw_blocks = ways[i].max_rw;
		s.refuse_every = ways[i].refuse_every;
		s.at_once = ways[i].at_once;
		scripted_open(&s, &env);
		env_call(&env, env.app, submit_last, &last);
		env_wait(&env, &last.done);
		end();
	}
}

static void
grow_further(struct msg *msg)
{
	EXPECT(env.workers[0].ch->num_blocks == 4200 && env.workers[1].ch->num_blocks == 4096);
	EXPECT(bdev_resize(&s.bdev, 4300) == 0);
}

/* The second change comes when one worker knows of the first and the other does not. */
static void
grow_twice(void *arg)
{
	static struct msg msg;

	EXPECT(bdev_resize(&s.bdev, 4200) == 0);
	thread_send(env.app, &msg, grow_further);
}

static void
channels_know_the_size(void **state)
{
	begin();
	scripted_open(&s, &env);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 4299, 1, buf), -EINVAL);
	env_call(&env, env.app, grow_twice, NULL);
	env_wait_count(&env, &env.resizes, 1);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 4299, 1, buf), 0);
	assert_int_equal(env_rw(&env.workers[1], BDEV_READ, 4299, 1, buf), 0);
	assert_int_equal(env_rw(&env.workers[1], BDEV_READ, 4300, 1, buf), -EINVAL);
	end();
}

static void
channels_know_their_rights(void **state)
{
	begin();
	scripted_open(&s, &env);
	assert_false(env.workers[0].ch->readonly);
	env_close(&env);
	assert_int_equal(env_open(&env, "S", false), 0);
	assert_true(env.workers[0].ch->readonly);
	end();
}

static atomic_bool readonly_everywhere;

static void
told_readonly(void *ctx)
{
	atomic_store(&readonly_everywhere, true);
}

static void
set_readonly(void *arg)
{
	EXPECT(bdev_needed(&s.bdev));
	EXPECT(bdev_set_readonly(&s.bdev, told_readonly, NULL) == 0);
}

static void
becomes_readonly(void **state)
{
	begin();
	atomic_store(&readonly_everywhere, false);
	scripted_open(&s, &env);
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 0, 1, buf), 0);
	env_call(&env, env.app, set_readonly, NULL);
	env_wait(&env, &readonly_everywhere);
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 0, 1, buf), -EROFS);
	assert_int_equal(env_rw(&env.workers[1], BDEV_WRITE, 0, 1, buf), -EROFS);
	assert_int_equal(env_rw(&env.workers[1], BDEV_READ, 0, 1, buf), 0);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(module_gets_what_was_submitted),
		cmocka_unit_test(no_blocks_stay_here),
		cmocka_unit_test(module_status_arrives),
		cmocka_unit_test(flush_follows_stable_write),
		cmocka_unit_test(native_stable_write),
		cmocka_unit_test(stable_write_without_cache),
		cmocka_unit_test(stable_write_impossible),
		cmocka_unit_test(counters_outlive_channels),
		cmocka_unit_test(channel_closes_meanwhile),
		cmocka_unit_test(latency_is_measured),
		cmocka_unit_test(done_may_put_the_channel),
		cmocka_unit_test(channels_know_the_size),
		cmocka_unit_test(channels_know_their_rights),
		cmocka_unit_test(becomes_readonly),
	};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		failures += cmocka_run_group_tests_name(reactor_mode_name(mode), tests, NULL, NULL);
	}
	return failures;
}
