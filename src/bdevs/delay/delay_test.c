/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/delay/delay.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "testkit/bdev_over.h"

#define NAME "Delay0"
#define HOUR_US (UINT64_C(3600) * 1000000)

static uint64_t latency_us[DELAY_LATENCY_COUNT];

static int
create(const struct over *over, struct err *err)
{
	struct delay_bdev_options options = {.name = NAME, .base_name = OVER_BASE};

	memcpy(options.latency_us, latency_us, sizeof(latency_us));
	return bdev_delay_create(&options, NULL, err);
}

static int
remove_delay(const struct over *over, void (*done)(void *ctx, int status), void *ctx,
	     struct err *err)
{
	return bdev_delay_delete(NAME, done, ctx, err);
}

static const struct over template = {
	.battery = {.name = NAME, .unmap_zeroes = true, .may_cancel = true, .requests = 500},
	.base_blocks = 8192,
	.base_block_size = 512,
	.create = create,
	.remove = remove_delay,
	.resizes = true,
};

static void
set_latencies(uint64_t avg_read, uint64_t p99_read, uint64_t avg_write, uint64_t p99_write)
{
	latency_us[DELAY_AVG_READ] = avg_read;
	latency_us[DELAY_P99_READ] = p99_read;
	latency_us[DELAY_AVG_WRITE] = avg_write;
	latency_us[DELAY_P99_WRITE] = p99_write;
}

static void
awkward(struct scripted_bdev *base)
{
	base->bdev.max_rw_blocks = 100;
	base->bdev.write_cache = true;
	atomic_store(&base->refuse_every, 7);
	atomic_store(&base->shuffle, true);
}

static void
passes_battery(void **state)
{
	struct over over = template;

	set_latencies(0, 0, 0, 0);
	over_run_all(&over);
	set_latencies(50, 500, 100, 1000);
	over.set_up = awkward;
	over_run_all(&over);
}

/* ---- How long ---- */

static struct env env;
static struct over over;
static uint8_t buf[512];

static void
begin(void)
{
	over = template;
	env_start(&env, REACTOR_INTERRUPT, false);
	over_open(&over, &env);
}

static void
end(void)
{
	over_close(&over, &env);
	env_stop(&env);
}

static uint64_t
time_us(enum bdev_op op)
{
	uint64_t start_ns = clock_now_ns();

	EXPECT(env_rw(&env.workers[0], op, 1, 1, op == BDEV_UNMAP ? NULL : buf) == 0);
	return (clock_now_ns() - start_ns) / NS_PER_US;
}

struct update {
	enum delay_latency which;
	uint64_t us;
	int rc;
};

static void
update_on_app(void *arg)
{
	struct update *u = arg;

	u->rc = bdev_delay_update_latency(NAME, u->which, u->us, NULL);
}

static int
update(enum delay_latency which, uint64_t us)
{
	struct update u = {.which = which, .us = us};

	env_call(&env, env.app, update_on_app, &u);
	return u.rc;
}

static void
takes_as_long_as_told(void **state)
{
	set_latencies(20000, 20000, 40000, 40000);
	begin();
	EXPECT(time_us(BDEV_READ) >= 20000);
	EXPECT(time_us(BDEV_WRITE) >= 40000);
	EXPECT(update(DELAY_AVG_READ, 30000) == 0 && update(DELAY_P99_READ, 30000) == 0);
	EXPECT(time_us(BDEV_READ) >= 30000);
	EXPECT(update(DELAY_AVG_READ, HOUR_US) == 0 && update(DELAY_P99_READ, HOUR_US) == 0);
	EXPECT(update(DELAY_AVG_WRITE, 0) == 0 && update(DELAY_P99_WRITE, 0) == 0);
	time_us(BDEV_WRITE);
	time_us(BDEV_UNMAP);
	EXPECT(update(DELAY_AVG_READ, DELAY_MAX_US + 1) == -EINVAL);
	end();
}

/* ---- One of a hundred ---- */

#define MANY 4000

struct many {
	struct env_io ios[MANY];
	struct iovec iov;
};

static void
submit_many(struct many *m, unsigned count)
{
	m->iov = (struct iovec){buf, sizeof(buf)};
	for (unsigned i = 0; i < count; i++) {
		m->ios[i] = (struct env_io){
			.op = BDEV_READ, .num_blocks = 1, .iov = &m->iov, .iovcnt = 1};
		env_submit(&env.workers[i % ENV_WORKERS], &m->ios[i]);
	}
}

static unsigned
count_waiting(const struct many *m, unsigned count)
{
	unsigned waiting = 0;

	for (unsigned i = 0; i < count; i++) {
		waiting += !atomic_load(&m->ios[i].done);
	}
	return waiting;
}

static void
one_of_a_hundred_is_slow(void **state)
{
	struct many *m = calloc(1, sizeof(*m));
	unsigned slow, cancelled = 0;

	set_latencies(0, HOUR_US, 0, 0);
	begin();
	submit_many(m, MANY);
	env_linger(&env, 20);
	slow = count_waiting(m, MANY);
	EXPECT_SAY(slow >= 10 && slow <= 90, "%u of %u", slow, MANY);
	/* A reset ends them, on every channel. */
	EXPECT(env_rw(&env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	for (unsigned i = 0; i < MANY; i++) {
		int status = env_finish(&m->ios[i]);

		EXPECT(status == 0 || status == -ECANCELED);
		cancelled += status != 0;
	}
	EXPECT(cancelled == slow);
	free(m);
	end();
}

/* Those that wait keep their time, the shorter ones stay behind them: but for the few that are in the other queue. */
static void
keeps_their_order(void **state)
{
	struct many *m = calloc(2, sizeof(*m));

	set_latencies(HOUR_US, HOUR_US, 0, 0);
	begin();
	submit_many(&m[0], 20);
	env_linger(&env, 1);
	EXPECT(update(DELAY_AVG_READ, 1000) == 0);
	submit_many(&m[1], 20);
	env_linger(&env, 10);
	EXPECT(count_waiting(&m[0], 20) == 20 && count_waiting(&m[1], 20) >= 10);
	EXPECT(env_rw(&env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	for (unsigned i = 0; i < 20; i++) {
		EXPECT(env_finish(&m[0].ios[i]) == -ECANCELED);
		env_finish(&m[1].ios[i]);
	}
	free(m);
	end();
}

/* What comes back from the base during a reset is not delayed. */
static void
reset_waits_for_the_base_only(void **state)
{
	struct many *m = calloc(1, sizeof(*m));
	struct env_io reset = {.op = BDEV_RESET};

	set_latencies(HOUR_US, HOUR_US, 0, 0);
	begin();
	atomic_store(&over.base.hold, true);
	submit_many(m, 10);
	env_submit(&env.workers[0], &reset);
	env_linger(&env, 5);
	EXPECT(!atomic_load(&reset.done) && count_waiting(m, 10) == 10);
	over_let_go(&over, &env);
	EXPECT(env_finish(&reset) == 0);
	for (unsigned i = 0; i < 10; i++) {
		EXPECT(env_finish(&m->ios[i]) == 0);
	}
	free(m);
	end();
}

/* ---- Removal and abort ---- */

static void
removal_answers(void **state)
{
	struct many *m = calloc(1, sizeof(*m));

	set_latencies(HOUR_US, HOUR_US, 0, 0);
	begin();
	submit_many(m, 10);
	env_linger(&env, 5);
	EXPECT(count_waiting(m, 10) == 10);
	over_pull(&over, &env);
	for (unsigned i = 0; i < 10; i++) {
		EXPECT(env_finish(&m->ios[i]) == -ENODEV);
	}
	free(m);
	end();
}

struct abort_args {
	struct bdev_io *target;
	struct bdev_io *io;
	struct env_worker *worker;
	int status;
	atomic_bool done;
};

static struct abort_args abortion;

static void
abort_done(struct bdev_io *io, int status)
{
	abortion.status = status;
	atomic_store(&abortion.done, true);
}

static void
abort_on_worker(void *arg)
{
	bdev_io_init(abortion.io, BDEV_ABORT, 0, 0, NULL, 0, abort_done);
	abortion.io->target = abortion.target;
	bdev_submit(abortion.worker->ch, abortion.io);
}

static int
abort_io(struct env_io *io)
{
	abortion = (struct abort_args){.target = io->io, .worker = io->worker};
	abortion.io = aligned_alloc(64, bdev_io_bytes(env.bdev));
	env_call(&env, io->worker->thread, abort_on_worker, NULL);
	env_wait(&env, &abortion.done);
	free(abortion.io);
	return abortion.status;
}

static void
aborts(void **state)
{
	struct many *m = calloc(1, sizeof(*m));

	set_latencies(HOUR_US, HOUR_US, 0, 0);
	begin();
	submit_many(m, 3);
	env_linger(&env, 2);
	EXPECT(abort_io(&m->ios[1]) == 0);
	EXPECT(env_finish(&m->ios[1]) == -ECANCELED);
	EXPECT(count_waiting(m, 3) == 2);
	EXPECT(env_rw(&env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	EXPECT(env_finish(&m->ios[0]) == -ECANCELED && env_finish(&m->ios[2]) == -ECANCELED);
	free(m);
	end();
}

static void
options_on_app(void *arg)
{
	struct delay_bdev_options o, bad = {.name = "D", .base_name = "x"};
	bool waits;

	EXPECT(bdev_delay_get_options(bdev_find(NAME), &o) && strcmp(o.base_name, OVER_BASE) == 0);
	EXPECT(o.latency_us[DELAY_P99_WRITE] == 4 && !uuid_is_null(o.uuid));
	EXPECT(!bdev_delay_get_options(bdev_find(OVER_BASE), &o));
	EXPECT(bdev_delay_list(0, &o, &waits) && !waits && strcmp(o.name, NAME) == 0);
	EXPECT(!bdev_delay_list(1, &o, &waits));
	bad.latency_us[2] = DELAY_MAX_US + 1;
	EXPECT(bdev_delay_create(&bad, NULL, NULL) == -EINVAL);
	EXPECT(bdev_delay_delete("D", NULL, NULL, NULL) == -ENODEV);
	EXPECT(bdev_delay_update_latency("D", DELAY_AVG_READ, 1, NULL) == -ENODEV);
}

static void
tells_its_options(void **state)
{
	set_latencies(1, 2, 3, 4);
	begin();
	env_call(&env, env.app, options_on_app, NULL);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(takes_as_long_as_told),
		cmocka_unit_test(one_of_a_hundred_is_slow),
		cmocka_unit_test(keeps_their_order),
		cmocka_unit_test(reset_waits_for_the_base_only),
		cmocka_unit_test(removal_answers),
		cmocka_unit_test(aborts),
		cmocka_unit_test(tells_its_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
