/* SPDX-License-Identifier: BSD-3-Clause */
/* Histograms: which bucket, what is counted, sums over channels that come and go; and the queue
 * depth, with a clock that moves by hand. */
#include "bdev/histogram.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "bdev/sampling.h"
#include "testkit/hand.h"
#include "testkit/scripted_bdev.h"

static enum reactor_mode mode;
static struct env env;
static struct scripted_bdev s;
static uint8_t buf[4096];
static atomic_bool told;
static struct bdev_histogram_options options;
static enum bdev_op asked;
static struct bdev_histogram *got;

static void
tell(void *ctx)
{
	atomic_store(&told, true);
}

static void
set_app(void *arg)
{
	EXPECT(bdev_set_histogram(env.bdev, arg, tell, NULL, NULL) == 0);
}

static void
set(struct bdev_histogram_options *o)
{
	atomic_store(&told, false);
	env_call(&env, env.app, set_app, o);
	env_wait(&env, &told);
}

static void
got_histogram(void *ctx, const struct bdev_histogram *h)
{
	size_t bytes = sizeof(*h) + h->bucket_count * sizeof(uint64_t);

	got = malloc(bytes);
	EXPECT(got != NULL);
	memcpy(got, h, bytes);
	atomic_store(&told, true);
}

static void
get_app(void *arg)
{
	EXPECT(bdev_get_histogram(env.bdev, asked, got_histogram, NULL, NULL) == 0);
}

/* How many it counted of op; with ns, only those in the bucket of ns. */
static uint64_t
count(enum bdev_op op, uint64_t ns)
{
	uint64_t sum = 0, begin = 0;

	asked = op;
	atomic_store(&told, false);
	env_call(&env, env.app, get_app, NULL);
	env_wait(&env, &told);
	for (size_t i = 0; i < got->bucket_count; i++) {
		uint64_t end = bdev_histogram_end(got, i);

		EXPECT(end > begin || end == UINT64_MAX);
		if (ns == 0 || (ns >= begin && ns < end)) {
			sum += got->buckets[i];
		}
		begin = end;
	}
	free(got);
	return sum;
}

static void
begin(void)
{
	hand_clock_start();
	env_start(&env, mode, false);
	scripted_bdev_init(&s, "S", 4096, 512);
	scripted_open(&s, &env);
	options = BDEV_HISTOGRAM_DEFAULTS;
}

static void
end(void)
{
	scripted_close(&s, &env);
	hand_clock_stop();
	env_stop(&env);
}

/* One that takes us microseconds. */
static void
request(unsigned worker, enum bdev_op op, uint64_t us)
{
	static struct iovec iov = {buf, sizeof(buf)};
	struct env_io io = {.op = op, .num_blocks = 8, .iov = &iov, .iovcnt = 1};

	s.hold = true;
	env_submit(&env.workers[worker], &io);
	clock_set_fake_ns(clock_now_ns() + us * NS_PER_US);
	hand_run(env.reactors[0]);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io), 0);
}

static void
latencies_are_counted(void **state)
{
	begin();
	request(0, BDEV_READ, 10); /* before: not counted */
	set(&options);
	request(0, BDEV_READ, 10);
	request(1, BDEV_READ, 10);
	request(1, BDEV_WRITE, 300);
	request(0, BDEV_WRITE, 5000);
	assert_int_equal(count(BDEV_OP_ANY, 0), 4);
	assert_int_equal(count(BDEV_READ, 0), 2);
	assert_int_equal(count(BDEV_READ, 10000), 2);
	assert_int_equal(count(BDEV_WRITE, 300000), 1);
	assert_int_equal(count(BDEV_WRITE, 5000000), 1);
	/* Channels go, and others come: all is still there, for every reader. */
	env_close(&env);
	assert_int_equal(env_open(&env, "S", true), 0);
	request(0, BDEV_READ, 10);
	env_close(&env);
	assert_int_equal(env_open(&env, "S", true), 0);
	request(1, BDEV_WRITE, 300);
	assert_int_equal(count(BDEV_READ, 10000), 3);
	assert_int_equal(count(BDEV_OP_ANY, 0), 6);
	assert_int_equal(count(BDEV_WRITE, 300000), 2);
	/* From zero again, of reads only. */
	options.op = BDEV_READ;
	set(&options);
	assert_int_equal(count(BDEV_OP_ANY, 0), 0);
	request(0, BDEV_READ, 10);
	request(0, BDEV_WRITE, 10);
	assert_int_equal(count(BDEV_OP_ANY, 0), 1);
	set(NULL);
	request(0, BDEV_READ, 10);
	end();
}

static void
put_second(struct msg *msg)
{
	bdev_channel_put(env.workers[1].ch);
	env.workers[1].ch = NULL;
}

/* The first worker is visited; before the second is, its channel goes. */
static void
get_and_put_app(void *arg)
{
	get_app(arg);
	thread_send(env.workers[1].thread, arg, put_second);
}

static void
channel_closes_meanwhile(void **state)
{
	uint64_t sum = 0;
	struct msg msg;

	begin();
	set(&options);
	request(0, BDEV_READ, 10);
	request(1, BDEV_READ, 10);
	asked = BDEV_READ;
	atomic_store(&told, false);
	env_call(&env, env.app, get_and_put_app, &msg);
	env_wait(&env, &told);
	for (size_t i = 0; i < got->bucket_count; i++) {
		sum += got->buckets[i];
	}
	free(got);
	assert_int_equal(sum, 2);
	assert_null(env.workers[1].ch);
	end();
}

/* What is outside of the ranges is in the first and the last bucket; SPDK's layout. */
static void
ranges_are_those_asked_for(void **state)
{
	begin();
	options.granularity = 3;
	options.min_ns = 20000;
	options.max_ns = 1000000;
	set(&options);
	request(0, BDEV_READ, 3);
	request(0, BDEV_READ, 20);
	request(0, BDEV_READ, 60000);
	asked = BDEV_OP_ANY;
	atomic_store(&told, false);
	env_call(&env, env.app, get_app, NULL);
	env_wait(&env, &told);
	/* 20000 is in 2^14..2^15 = range 12, 999999 in 2^19.. = 17. */
	assert_int_equal(got->min_range, 12);
	assert_int_equal(got->max_range, 17);
	assert_int_equal(got->bucket_count, 6 * 8);
	assert_int_equal(got->buckets[0], 1);
	assert_int_equal(got->buckets[1], 1); /* 18432..20479 */
	assert_int_equal(bdev_histogram_end(got, 0), 18432);
	assert_int_equal(bdev_histogram_end(got, 1), 20480);
	assert_int_equal(bdev_histogram_end(got, 47), 1 << 20);
	assert_int_equal(got->buckets[47], 1);
	free(got);
	end();
}

static void
options_app(void *arg)
{
	struct bdev_histogram_options o;
	struct err err = ERR_NONE;

	EXPECT(!bdev_get_histogram_options(env.bdev, &o));
	EXPECT(bdev_get_histogram(env.bdev, BDEV_OP_ANY, got_histogram, NULL, &err) == -ENOENT);
	o = BDEV_HISTOGRAM_DEFAULTS;
	o.granularity = BDEV_HISTOGRAM_GRANULARITY_MAX + 1;
	EXPECT(bdev_set_histogram(env.bdev, &o, tell, NULL, &err) == -EINVAL);
	o.granularity = 0;
	EXPECT(bdev_set_histogram(env.bdev, &o, tell, NULL, &err) == -EINVAL);
	o = BDEV_HISTOGRAM_DEFAULTS;
	o.max_ns = o.min_ns;
	EXPECT(bdev_set_histogram(env.bdev, &o, tell, NULL, &err) == -EINVAL);
	o = BDEV_HISTOGRAM_DEFAULTS;
	o.op = BDEV_UNMAP;
	o.min_ns = 0;
	o.max_ns = UINT64_MAX;
	EXPECT(bdev_set_histogram(env.bdev, &o, tell, NULL, &err) == 0);
	memset(&o, 0, sizeof(o));
	EXPECT(bdev_get_histogram_options(env.bdev, &o));
	EXPECT(o.op == BDEV_UNMAP && o.min_ns == 0 && o.max_ns == UINT64_MAX && o.granularity == 7);
}

static void
options_are_checked(void **state)
{
	begin();
	atomic_store(&told, false);
	env_call(&env, env.app, options_app, NULL);
	env_wait(&env, &told);
	count(BDEV_OP_ANY, 0); /* all of the 58 ranges, in order */
	end();
}

/* ---- Queue depth ---- */

static uint64_t period;
static struct bdev_queue_depth depth;

static void
set_period_app(void *arg)
{
	EXPECT(bdev_set_qd_sampling_period(env.bdev, period) == 0);
}

static void
get_depth_app(void *arg)
{
	bdev_get_queue_depth(env.bdev, &depth);
}

static void
get_depth(void)
{
	env_call(&env, env.app, get_depth_app, NULL);
}

static void
depth_is_sampled(void **state)
{
	static struct iovec iov = {buf, sizeof(buf)};
	struct env_io io[3] = {{.op = BDEV_READ, .num_blocks = 8, .iov = &iov, .iovcnt = 1},
			       {.op = BDEV_READ, .num_blocks = 8, .iov = &iov, .iovcnt = 1},
			       {.op = BDEV_WRITE, .num_blocks = 8, .iov = &iov, .iovcnt = 1}};

	begin();
	get_depth();
	assert_int_equal(depth.period_us, 0);
	period = 1000;
	env_call(&env, env.app, set_period_app, NULL);
	for (int i = 0; i < 3; i++) {
		s.hold = true;
		env_submit(&env.workers[i / 2], &io[i]);
	}
	hand_advance(env.reactors[0], 100500);
	get_depth();
	assert_int_equal(depth.period_us, 1000);
	assert_int_equal(depth.queue_depth, 3);
	assert_in_range(depth.io_time_us, 99000, 101000);
	assert_int_equal(depth.weighted_io_time_us, 3 * depth.io_time_us);
	scripted_let_go(&s, &env);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(env_finish(&io[i]), 0);
	}
	/* At rest: no timer, and direct requests are told of. */
	hand_advance(env.reactors[0], 30000);
	get_depth();
	assert_int_equal(depth.queue_depth, 0);
	assert_in_range(depth.io_time_us, 99000, 101000);
	assert_int_equal(reactor_next_timer_ns(env.reactors[0]), UINT64_MAX);
	assert_int_equal(env.workers[0].ch->direct_ops, 0);
	/* And up again. */
	for (int i = 0; i < 2; i++) {
		s.hold = true;
		env_submit(&env.workers[i], &io[i]);
	}
	assert_true(env.workers[1].ch->direct_ops != 0);
	hand_advance(env.reactors[0], 10500);
	get_depth();
	assert_int_equal(depth.queue_depth, 2);
	assert_in_range(depth.io_time_us, 108000, 112000);
	scripted_let_go(&s, &env);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(env_finish(&io[i]), 0);
	}
	/* Another period, then none, then one while it rests. */
	period = 10;
	env_call(&env, env.app, set_period_app, NULL);
	get_depth();
	assert_int_equal(depth.period_us, BDEV_QD_PERIOD_US_MIN);
	assert_int_equal(depth.io_time_us, 0);
	hand_advance(env.reactors[0], 30000);
	period = 0;
	env_call(&env, env.app, set_period_app, NULL);
	assert_int_equal(reactor_next_timer_ns(env.reactors[0]), UINT64_MAX);
	request(0, BDEV_READ, 10);
	assert_int_equal(reactor_next_timer_ns(env.reactors[0]), UINT64_MAX);
	period = 1000;
	env_call(&env, env.app, set_period_app, NULL);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(latencies_are_counted),
		cmocka_unit_test(channel_closes_meanwhile),
		cmocka_unit_test(ranges_are_those_asked_for),
		cmocka_unit_test(options_are_checked),
		cmocka_unit_test(depth_is_sampled),
	};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		failures += cmocka_run_group_tests_name(reactor_mode_name(mode), tests, NULL, NULL);
	}
	return failures;
}
