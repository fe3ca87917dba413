/* SPDX-License-Identifier: BSD-3-Clause */
/* What requests that are passed down leave behind: the books of both levels, and the request as the submitter gave it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/clock.h"
#include "bdev/histogram.h"
#include "bdev/qos.h"
#include "bdev/stack.h"
#include "bdevs/passthru/passthru.h"
#include "testkit/scripted_bdev.h"

#define BLOCKS 4096
#define MANY 20

static struct scripted_bdev base;
static struct env env;
static uint8_t buf[8 * 512];
static atomic_bool finished;

/* ---- The stage ---- */

static void
set_finished(void *ctx)
{
	atomic_store(&finished, true);
}

static void
set_finished_status(void *ctx, int status)
{
	atomic_store(&finished, true);
}

static void
on_app(void (*fn)(void *arg), void *arg)
{
	atomic_store(&finished, false);
	env_call(&env, env.app, fn, arg);
	env_wait(&env, &finished);
}

static void
make(void *arg)
{
	static const struct passthru_bdev_options options = {.name = "P", .base_name = "base"};

	scripted_bdev_init(&base, "base", BLOCKS, 512);
	EXPECT(scripted_bdev_add(&base, NULL) == 0 && bdev_passthru_create(&options, NULL, NULL) == 0);
}

static void
unmake(void *arg)
{
	EXPECT(bdev_passthru_delete("P", set_finished_status, NULL, NULL) == 0);
}

static void
remove_base(void *arg)
{
	scripted_bdev_remove(&base, set_finished_status, NULL);
}

static int
begin(void **state)
{
	env_start(&env, REACTOR_POLL, false);
	env_call(&env, env.app, make, NULL);
	return env_open(&env, "P", true);
}

static int
end(void **state)
{
	if (env.desc != NULL) {
		env_close(&env);
	}
	on_app(unmake, NULL);
	on_app(remove_base, NULL);
	scripted_bdev_release(&base);
	env_stop(&env);
	return 0;
}

static void
do_some(unsigned reads, unsigned writes)
{
	for (unsigned i = 0; i < reads; i++) {
		assert_int_equal(env_rw(&env.workers[i % 2], BDEV_READ, i, 8, buf), 0);
	}
	for (unsigned i = 0; i < writes; i++) {
		assert_int_equal(env_rw(&env.workers[i % 2], BDEV_WRITE, i, 1, buf), 0);
	}
}

/* ---- Statistics ---- */

struct look {
	const char *name;
	struct bdev_stats stats;
};

static void
note_stats(void *ctx, const struct bdev_stats *stats)
{
	struct look *look = ctx;

	look->stats = *stats;
	atomic_store(&finished, true);
}

static void
get_stats(void *arg)
{
	struct look *look = arg;

	EXPECT(bdev_get_stats(bdev_find(look->name), note_stats, look) == 0);
}

static struct bdev_stats
stats_of(const char *name)
{
	struct look look = {.name = name};

	on_app(get_stats, &look);
	return look.stats;
}

static void
expect_books(const char *name, unsigned reads, unsigned writes, unsigned errors)
{
	struct bdev_stats stats = stats_of(name);

	assert_int_equal(stats.op[BDEV_READ].ops, reads);
	assert_int_equal(stats.op[BDEV_READ].bytes, reads * 8 * 512);
	assert_int_equal(stats.op[BDEV_WRITE].ops, writes);
	assert_int_equal(stats.op[BDEV_WRITE].bytes, writes * 512);
	assert_int_equal(stats.errors, errors);
}

static void
reset_stats(void *arg)
{
	EXPECT(bdev_reset_stats(bdev_find(arg), false, set_finished, NULL) == 0);
}

static void
both_levels_count(void **state)
{
	struct bdev_stats above, below;

	do_some(10, 6);
	expect_books("P", 10, 6, 0);
	expect_books("P", 10, 6, 0);
	expect_books("base", 10, 6, 0);
	above = stats_of("P");
	below = stats_of("base");
	for (unsigned op = BDEV_READ; op <= BDEV_WRITE; op++) {
		assert_int_equal(above.op[op].latency_ns, below.op[op].latency_ns);
		assert_int_equal(above.op[op].max_ns, below.op[op].max_ns);
		assert_int_equal(above.op[op].min_ns, below.op[op].min_ns);
	}
	/* Each for itself. */
	do_some(1, 1);
	on_app(reset_stats, (void *)(uintptr_t) "P");
	expect_books("P", 0, 0, 0);
	expect_books("base", 11, 7, 0);
	do_some(2, 3);
	on_app(reset_stats, (void *)(uintptr_t) "base");
	expect_books("P", 2, 3, 0);
	expect_books("base", 0, 0, 0);
	/* Channels that close take nothing with them. */
	do_some(4, 4);
	env_close(&env);
	env.desc = NULL;
	expect_books("P", 6, 7, 0);
	expect_books("base", 4, 4, 0);
}

static void
errors_count_on_both(void **state)
{
	do_some(2, 0);
	atomic_store(&base.fail_with, -EIO);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 0, 8, buf), -EIO);
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 0, 8, buf), -EIO);
	atomic_store(&base.fail_with, 0);
	expect_books("P", 2, 0, 2);
	expect_books("base", 2, 0, 2);
}

static void
set_histogram(void *arg)
{
	struct bdev_histogram_options o = BDEV_HISTOGRAM_DEFAULTS;

	EXPECT(bdev_set_histogram(bdev_find(arg), &o, set_finished, NULL, NULL) == 0);
}

static uint64_t counted;

static void
note_histogram(void *ctx, const struct bdev_histogram *h)
{
	counted = 0;
	for (size_t i = 0; i < h->bucket_count; i++) {
		counted += h->buckets[i];
	}
	atomic_store(&finished, true);
}

static void
get_histogram(void *arg)
{
	EXPECT(bdev_get_histogram(bdev_find(arg), BDEV_READ, note_histogram, NULL, NULL) == 0);
}

/* Whichever of the two keeps one, it misses nothing. */
static void
histograms_of_either(void **state)
{
	on_app(set_histogram, (void *)(uintptr_t) "base");
	do_some(9, 0);
	on_app(get_histogram, (void *)(uintptr_t) "base");
	assert_int_equal(counted, 9);
	on_app(set_histogram, (void *)(uintptr_t) "P");
	do_some(5, 0);
	on_app(get_histogram, (void *)(uintptr_t) "P");
	assert_int_equal(counted, 5);
	on_app(get_histogram, (void *)(uintptr_t) "base");
	assert_int_equal(counted, 14);
	expect_books("base", 14, 0, 0);
}

/* ---- Limits ---- */

static void
set_limits(void *arg)
{
	struct bdev_qos_limits limits = {.rw_ios_per_sec = *(const uint64_t *)arg, .burst_ms = 1};

	EXPECT(bdev_set_qos_limits(bdev_find("base"), &limits, set_finished, NULL, NULL) == 0);
}

static const struct bdev_qos_limits *limits_of_p;

static void
limit_p(void *arg)
{
	EXPECT(bdev_set_qos_limits(bdev_find("P"), limits_of_p, set_finished, NULL, NULL) == 0);
}

/* They are the base's, and hold for what comes from above. */
static void
limits_below(void **state)
{
	uint64_t some = 1000, none = 0;
	struct env_io io[2 * MANY];
	struct iovec iov = {buf, 512};

	do_some(1, 0);
	on_app(set_limits, &some);
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		io[i] = (struct env_io){.op = BDEV_READ, .lba = i, .num_blocks = 1, .iov = &iov, .iovcnt = 1};
		env_submit(&env.workers[0], &io[i]);
	}
	/* One is let through at once, and one a millisecond. */
	env_linger(&env, 3);
	assert_false(atomic_load(&io[ARRAY_SIZE(io) - 1].done));
	on_app(set_limits, &none);
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		assert_int_equal(env_finish(&io[i]), 0);
	}
	do_some(3, 0);
	assert_int_equal(stats_of("base").op[BDEV_READ].ops, 4 + ARRAY_SIZE(io));
}

/* What waited above for its turn did not wait below. */
static void
waiting_above(void **state)
{
	struct bdev_qos_limits limits = {.rw_ios_per_sec = 200, .burst_ms = 1};
	struct env_io io[8];
	struct iovec iov = {buf, 512};
	struct bdev_stats above, below;

	limits_of_p = &limits;
	on_app(limit_p, NULL);
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		io[i] = (struct env_io){.op = BDEV_READ, .lba = i, .num_blocks = 1, .iov = &iov, .iovcnt = 1};
		env_submit(&env.workers[0], &io[i]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		assert_int_equal(env_finish(&io[i]), 0);
	}
	above = stats_of("P");
	below = stats_of("base");
	assert_int_equal(above.op[BDEV_READ].ops, ARRAY_SIZE(io));
	assert_int_equal(below.op[BDEV_READ].ops, ARRAY_SIZE(io));
	/* The last one came five milliseconds after the one before it. */
	assert_true(above.op[BDEV_READ].max_ns > 20 * NS_PER_MS);
	assert_true(below.op[BDEV_READ].max_ns < above.op[BDEV_READ].max_ns / 2);
}

/* ---- The request ---- */

struct given {
	struct bdev_io *io;
	struct iovec iov;
	uint64_t lba;
	atomic_bool done;
	int status;
};

static void
expect_as_given(struct bdev_io *io, int status)
{
	struct given *g = CONTAINER_OF(io->iov, struct given, iov);

	EXPECT(io == g->io && io->ch == env.workers[0].ch && io->lba == g->lba && io->num_blocks == 8 && io->flags == 0 &&
	       io->op == BDEV_READ && io->iovcnt == 1);
	g->status = status;
	atomic_store(&g->done, true);
}

static void
let_go(void *arg)
{
	atomic_store(&base.hold, false);
	scripted_channel_kick(((struct stack_channel *)env.workers[0].ch->module_ctx)->base);
}

static void
give(void *arg)
{
	struct given *g = arg;

	bdev_io_init(g->io, BDEV_READ, g->lba, 8, &g->iov, 1, expect_as_given);
	bdev_submit(env.workers[0].ch, g->io);
}

static void
comes_back_as_it_went(void **state)
{
	struct given g[MANY];

	atomic_store(&base.queue_max, 2);
	atomic_store(&base.shuffle, true);
	atomic_store(&base.hold, true);
	for (unsigned i = 0; i < MANY; i++) {
		g[i] = (struct given){.io = malloc(bdev_io_bytes(env.bdev)), .iov = {buf, 8 * 512}, .lba = i * 10};
		memset(g[i].io, 0xa5, bdev_io_bytes(env.bdev));
		env_call(&env, env.workers[0].thread, give, &g[i]);
	}
	env_call(&env, env.workers[0].thread, let_go, NULL);
	for (unsigned i = 0; i < MANY; i++) {
		env_wait(&env, &g[i].done);
		assert_int_equal(g[i].status, 0);
		free(g[i].io);
	}
	assert_true(atomic_load(&base.refused) > 0);
	/* None was sent as a child: the module below saw the very request. */
	assert_int_equal(stats_of("base").op[BDEV_READ].ops, MANY);
}

static void
make_second(void *arg)
{
	static const struct passthru_bdev_options options = {.name = "Q", .base_name = "P"};

	EXPECT(bdev_passthru_create(&options, NULL, NULL) == 0);
}

static void
unmake_second(void *arg)
{
	EXPECT(bdev_passthru_delete("Q", set_finished_status, NULL, NULL) == 0);
}

/* Passed down once, and then as a child: the abort finds it in the queue of the lowest. */
static void
aborts_through_two(void **state)
{
	struct iovec iov = {buf, 512};
	struct env_io first = {.op = BDEV_READ, .num_blocks = 1, .iov = &iov, .iovcnt = 1}, second = first;
	struct env_io abort = {.op = BDEV_ABORT, .target = &second};

	env_close(&env);
	env_call(&env, env.app, make_second, NULL);
	assert_int_equal(env_open(&env, "Q", true), 0);
	atomic_store(&base.queue_max, 1);
	atomic_store(&base.hold, true);
	env_submit(&env.workers[0], &first);
	env_submit(&env.workers[0], &second);
	env_linger(&env, 1);
	env_submit(&env.workers[0], &abort);
	assert_int_equal(env_finish(&abort), 0);
	assert_int_equal(env_finish(&second), -ECANCELED);
	atomic_store(&base.hold, false);
	atomic_store(&base.queue_max, 0);
	assert_int_equal(env_rw(&env.workers[0], BDEV_RESET, 0, 0, NULL), 0);
	assert_true(env_finish(&first) <= 0);
	env_close(&env);
	env.desc = NULL;
	on_app(unmake_second, NULL);
}

/* A base that goes away answers what it has, and what it had refused. */
static void
base_goes(void **state)
{
	struct env_io io[MANY];
	struct iovec iov = {buf, 512};

	atomic_store(&base.queue_max, 3);
	atomic_store(&base.hold, true);
	for (unsigned i = 0; i < MANY; i++) {
		io[i] = (struct env_io){.op = BDEV_WRITE, .lba = i, .num_blocks = 1, .iov = &iov, .iovcnt = 1};
		env_submit(&env.workers[0], &io[i]);
	}
	env_linger(&env, 1);
	atomic_store(&finished, false);
	env_call(&env, env.app, remove_base, NULL);
	env_wait_count(&env, &env.removes, 1);
	for (unsigned i = 3; i < MANY; i++) {
		assert_int_equal(env_finish(&io[i]), -ENODEV);
	}
	assert_false(atomic_load(&finished));
	env_call(&env, env.workers[0].thread, let_go, NULL);
	for (unsigned i = 0; i < 3; i++) {
		int status = env_finish(&io[i]);

		assert_true(status == 0 || status == -ENODEV);
	}
	env_close(&env);
	env_wait(&env, &finished);
	scripted_bdev_release(&base);
	env_call(&env, env.app, unmake, NULL);
	env_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(both_levels_count, begin, end),
		cmocka_unit_test_setup_teardown(errors_count_on_both, begin, end),
		cmocka_unit_test_setup_teardown(histograms_of_either, begin, end),
		cmocka_unit_test_setup_teardown(limits_below, begin, end),
		cmocka_unit_test_setup_teardown(waiting_above, begin, end),
		cmocka_unit_test_setup_teardown(aborts_through_two, begin, end),
		cmocka_unit_test_setup_teardown(comes_back_as_it_went, begin, end),
		cmocka_unit_test_setup(base_goes, begin),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
