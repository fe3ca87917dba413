/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Limits, with a clock that moves by hand: how exact they are, how users share them, and that
 * nothing is lost whatever happens meanwhile. In every mode.
 */
#include "bdev/qos.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/clock.h"
#include "bdev/histogram.h"
#include "bdev/sampling.h"
#include "testkit/hand.h"
#include "testkit/scripted_bdev.h"

#define LOADS_MAX 4
#define DEPTH_MAX 64
#define BLOCKS_MAX 4096
#define MBYTE (1024 * 1024)

static enum reactor_mode mode;
static struct env env;
static struct scripted_bdev s;
static uint8_t *buf;

/* Somebody who has the bdev open and always wants more, `depth` requests at a time. */
struct load {
	struct bdev_desc *desc;
	struct bdev_channel *ch;
	struct thread *thread;
	unsigned depth;
	uint64_t lba;
	uint32_t blocks;
	unsigned write_percent;
	uint64_t limit; /* requests to submit in all */
	bool stop;

	uint64_t submitted, completed, cancelled, failed;
	uint64_t bytes[2]; /* read, written */
	uint64_t last_seq[2];
	struct request {
		struct load *load;
		struct iovec iov;
		uint64_t seq;
		struct bdev_io *io;
	} requests[DEPTH_MAX];
};

static struct load loads[LOADS_MAX];

static struct request *
request_of(struct bdev_io *io)
{
	return *(struct request **)(void *)((uint8_t *)io + bdev_io_bytes(&s.bdev));
}

static void submit(struct request *r);

static void
load_done(struct bdev_io *io, int status)
{
	struct request *r = request_of(io);
	struct load *l = r->load;

	EXPECT(thread_self() == l->thread);
	if (status == 0) {
		unsigned write = io->op == BDEV_WRITE;

		/* The module answers in order: so they were started in order. */
		EXPECT(r->seq > l->last_seq[write]);
		l->last_seq[write] = r->seq;
		l->completed++;
		l->bytes[write] += io->num_blocks * 512;
	} else if (status == -ECANCELED) {
		l->cancelled++;
	} else {
		EXPECT(status == -ENODEV);
		l->failed++;
		l->stop = true;
	}
	r->seq = 0;
	if (!l->stop && l->submitted < l->limit) {
		submit(r);
	}
}

static void
submit(struct request *r)
{
	struct load *l = r->load;
	bool write = l->submitted * 37 % 100 < l->write_percent;

	r->seq = ++l->submitted;
	r->iov = (struct iovec){buf + l->lba * 512, l->blocks * 512};
	bdev_io_init(r->io, write ? BDEV_WRITE : BDEV_READ, l->lba, l->blocks, &r->iov, 1,
		     load_done);
	bdev_submit(l->ch, r->io);
}

static void
load_start(void *arg)
{
	struct load *l = arg;

	l->stop = false;
	if (l->ch == NULL) {
		l->ch = bdev_channel_get(l->desc, NULL);
		EXPECT(l->ch != NULL);
	}
	for (unsigned i = 0; i < l->depth && l->submitted < l->limit; i++) {
		if (l->requests[i].seq == 0) {
			submit(&l->requests[i]);
		}
	}
}

static void
open_load(void *arg)
{
	struct load *l = arg;

	EXPECT(bdev_open("S", true, NULL, NULL, &l->desc, NULL) == 0);
}

static void
close_load(void *arg)
{
	bdev_close(((struct load *)arg)->desc);
}

static void
put_load(void *arg)
{
	struct load *l = arg;

	bdev_channel_put(l->ch);
	l->ch = NULL;
}

static void
add_load(unsigned i, unsigned worker, unsigned depth, uint32_t blocks)
{
	struct load *l = &loads[i];

	l->thread = env.workers[worker].thread;
	l->depth = depth;
	l->blocks = blocks;
	l->lba = i * BLOCKS_MAX;
	l->limit = UINT64_MAX;
	for (unsigned r = 0; r < depth; r++) {
		struct bdev_io *io = aligned_alloc(64, bdev_io_bytes(&s.bdev) + 64);

		EXPECT(io != NULL);
		l->requests[r] = (struct request){.load = l, .io = io};
		*(struct request **)(void *)((uint8_t *)io + bdev_io_bytes(&s.bdev)) =
			&l->requests[r];
	}
	env_call(&env, env.app, open_load, l);
}

static void
start(unsigned i)
{
	env_call(&env, loads[i].thread, load_start, &loads[i]);
}

static void
advance_ms(uint64_t ms)
{
	hand_advance(env.reactors[0], ms * 1000);
}

/* ---- Limits ---- */

static bool real;
static struct bdev_qos_limits limits;
static atomic_bool told;

static void
tell(void *ctx)
{
	atomic_store(&told, true);
}

static void
set_limits_app(void *arg)
{
	struct err err = ERR_NONE;
	int rc = bdev_set_qos_limits(&s.bdev, &limits, tell, NULL, &err);

	EXPECT_SAY(rc == 0, "%s", err_text(&err));
}

static void
set_limits(struct bdev_qos_limits l)
{
	limits = l;
	limits.burst_ms = l.burst_ms != 0 ? l.burst_ms : BDEV_QOS_BURST_MS_DEFAULT;
	atomic_store(&told, false);
	env_call(&env, env.app, set_limits_app, NULL);
	env_wait(&env, &told);
}

#define LIMITS(...) set_limits((struct bdev_qos_limits){__VA_ARGS__})

static void
add_bdev(void *arg)
{
	EXPECT(scripted_bdev_add(&s, NULL) == 0);
}

static void
remove_bdev(void *arg)
{
	if (!s.removing) {
		s.removing = true;
		scripted_bdev_remove(&s, NULL, NULL);
	}
}

static void
begin(void)
{
	memset(loads, 0, sizeof(loads));
	buf = calloc(LOADS_MAX * BLOCKS_MAX, 512);
	if (!real) {
		hand_clock_start();
	}
	env_start(&env, mode, real);
	scripted_bdev_init(&s, "S", 65536, 512);
	s.at_once = true;
	env_call(&env, env.app, add_bdev, NULL);
}

static void
no_limits_app(void *arg)
{
	limits = (struct bdev_qos_limits){.burst_ms = 1};
	set_limits_app(NULL);
}

/* Without limits they would never end: they are told first. */
static void
stop_all(void)
{
	for (unsigned i = 0; i < LOADS_MAX; i++) {
		loads[i].stop = true;
	}
	if (!s.removing) {
		env_call(&env, env.app, no_limits_app, NULL);
	}
	env_linger(&env, 0);
	hand_run(env.reactors[0]);
}

static void
end(void)
{
	stop_all();
	for (unsigned i = 0; i < LOADS_MAX; i++) {
		struct load *l = &loads[i];

		if (l->desc == NULL) {
			continue;
		}
		assert_int_equal(l->submitted, l->completed + l->cancelled + l->failed);
		if (l->ch != NULL) {
			assert_int_equal(bdev_channel_inflight(l->ch), 0);
			env_call(&env, l->thread, put_load, l);
		}
		env_call(&env, env.app, close_load, l);
		for (unsigned r = 0; r < l->depth; r++) {
			free(l->requests[r].io);
		}
	}
	env_call(&env, env.app, remove_bdev, NULL);
	hand_run(env.reactors[0]);
	assert_true(s.destructed);
	scripted_bdev_release(&s);
	hand_clock_stop();
	env_stop(&env);
	free(buf);
}

/* got is want to within 2 %, and the one request that begins or ends the time. */
#define ASSERT_RATE(got, want, one) \
	EXPECT_SAY((double)(got) >= 0.98 * (double)(want) - (double)(one) && \
			   (double)(got) <= 1.02 * (double)(want) + (double)(one), \
		   "%llu, wanted %llu", (unsigned long long)(got), (unsigned long long)(want))

/* ---- Tests ---- */

static void
requests_a_second(void **state)
{
	static const struct {
		uint64_t rate;
		unsigned ms;
	} cases[] = {{1, 5000},   {3, 3000},      {10, 1000},     {999, 1000},   {1000, 1000},
		     {33333, 1000}, {100000, 1000}, {1000000, 100}, {5000000, 20}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t done = 0;

		begin();
		/* Two users on one thread, one of them on the other too. */
		add_load(0, 0, 32, 1);
		add_load(1, 1, 8, 1);
		LIMITS(.rw_ios_per_sec = cases[i].rate);
		start(0);
		start(1);
		advance_ms(20); /* what was saved up is used */
		done = loads[0].completed + loads[1].completed;
		advance_ms(cases[i].ms);
		done = loads[0].completed + loads[1].completed - done;
		ASSERT_RATE(done, cases[i].rate * cases[i].ms / 1000, 1);
		end();
	}
}

static void
megabytes_a_second(void **state)
{
	static const uint32_t blocks[] = {1, 8, 256, 2048};

	for (size_t i = 0; i < ARRAY_SIZE(blocks); i++) {
		uint64_t bytes;

		begin();
		add_load(0, 0, 32, blocks[i]);
		loads[0].write_percent = 50;
		LIMITS(.rw_mbytes_per_sec = 20);
		start(0);
		advance_ms(1000);
		bytes = loads[0].bytes[0] + loads[0].bytes[1];
		/* From the very first moment: nothing was saved up. */
		ASSERT_RATE(bytes, 20 * MBYTE, blocks[i] * 512);
		end();
	}
}

static void
reads_and_writes_apart(void **state)
{
	begin();
	add_load(0, 0, 32, 8);
	loads[0].write_percent = 50;
	add_load(1, 1, 32, 8);
	loads[1].write_percent = 0;
	LIMITS(.r_mbytes_per_sec = 30, .w_mbytes_per_sec = 10);
	start(0);
	start(1);
	advance_ms(1000);
	ASSERT_RATE(loads[0].bytes[1], 10 * MBYTE, 4096);
	ASSERT_RATE(loads[0].bytes[0] + loads[1].bytes[0], 30 * MBYTE, 4096);
	end();
}

/* The tightest counts; the others do not make it tighter still. */
static void
several_limits(void **state)
{
	uint64_t first;

	begin();
	add_load(0, 0, 32, 8);
	LIMITS(.rw_ios_per_sec = 2000, .rw_mbytes_per_sec = 10, .r_mbytes_per_sec = 8);
	start(0);
	advance_ms(1000);
	ASSERT_RATE(loads[0].completed, 2000, 1);
	LIMITS(.rw_ios_per_sec = 4000, .rw_mbytes_per_sec = 10, .r_mbytes_per_sec = 8);
	first = loads[0].completed;
	advance_ms(1000);
	ASSERT_RATE(loads[0].completed - first, 8 * MBYTE / 4096, 1);
	end();
}

static void
what_is_not_used_is_the_burst(void **state)
{
	begin();
	add_load(0, 0, 32, 1);
	LIMITS(.rw_ios_per_sec = 10000, .burst_ms = 500);
	start(0);
	advance_ms(1000);
	ASSERT_RATE(loads[0].completed, 10000, 1);
	loads[0].stop = true;
	advance_ms(2000);
	loads[0].completed = loads[0].submitted = loads[0].last_seq[0] = 0;
	start(0);
	advance_ms(10);
	/* Half a second's at once, and these 10 ms'. */
	ASSERT_RATE(loads[0].completed, 5100, 1);
	advance_ms(990);
	ASSERT_RATE(loads[0].completed, 15000, 1);
	end();
}

/* A host that is busy with something else for a while costs nobody requests. */
static void
late_threads_catch_up(void **state)
{
	uint64_t before;

	begin();
	add_load(0, 0, 32, 1);
	LIMITS(.rw_ios_per_sec = 20000);
	start(0);
	advance_ms(100);
	before = loads[0].completed;
	for (int i = 0; i < 10; i++) {
		clock_set_fake_ns(clock_now_ns() + 40 * NS_PER_MS);
		advance_ms(60);
	}
	ASSERT_RATE(loads[0].completed - before, 20000, 1);
	end();
}

/* ---- Shares ---- */

static void
weigh_app(void *arg)
{
	EXPECT(bdev_set_qos_weight(&s.bdev, "a", 300, NULL) == 0);
	bdev_desc_set_user(loads[0].desc, "a");
	bdev_desc_set_user(loads[1].desc, "b");
	EXPECT(bdev_desc_weight(loads[0].desc) == 300 && bdev_desc_weight(loads[1].desc) == 100);
}

static void
users_share_by_weight(void **state)
{
	static const struct {
		uint64_t rate;
		unsigned depths[2];
		unsigned workers[2];
	} cases[] = {{400, {4, 64}, {0, 1}},     {20000, {4, 64}, {0, 0}}, {20000, {64, 4}, {0, 1}},
		     {500000, {16, 64}, {0, 1}}, {20000, {64, 64}, {1, 1}}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint64_t a, b, all;

		begin();
		add_load(0, cases[i].workers[0], cases[i].depths[0], 1);
		add_load(1, cases[i].workers[1], cases[i].depths[1], 1);
		env_call(&env, env.app, weigh_app, NULL);
		LIMITS(.rw_ios_per_sec = cases[i].rate);
		start(1);
		advance_ms(100);
		start(0);
		advance_ms(100);
		a = loads[0].completed;
		b = loads[1].completed;
		advance_ms(1000);
		a = loads[0].completed - a;
		b = loads[1].completed - b;
		all = cases[i].rate;
		ASSERT_RATE(a + b, all, 1);
		EXPECT_SAY((double)a > 0.73 * (double)all && (double)a < 0.77 * (double)all,
			   "case %zu: %llu of %llu", i, (unsigned long long)a,
			   (unsigned long long)(a + b));
		end();
	}
}

/* One thread more does not make a share greater. */
static void
a_share_is_the_descriptors(void **state)
{
	uint64_t a, b;

	begin();
	add_load(0, 0, 32, 1);
	add_load(1, 1, 32, 1);
	add_load(2, 1, 32, 1);
	/* The third is the second's other half. */
	env_call(&env, env.app, close_load, &loads[2]);
	loads[2].desc = loads[1].desc;
	loads[2].thread = env.workers[0].thread;
	LIMITS(.rw_ios_per_sec = 20000);
	for (unsigned i = 0; i < 3; i++) {
		start(i);
	}
	advance_ms(1000);
	a = loads[0].completed;
	b = loads[1].completed + loads[2].completed;
	ASSERT_RATE(a + b, 20000, 1);
	ASSERT_RATE(a, 10000, 100);
	/* end() closes each descriptor once. */
	stop_all();
	env_call(&env, loads[2].thread, put_load, &loads[2]);
	loads[2].desc = NULL;
	for (unsigned r = 0; r < loads[2].depth; r++) {
		free(loads[2].requests[r].io);
	}
	end();
}

/* What one does not want is the other's, and none is saved for later. */
static void
what_is_left_is_the_others(void **state)
{
	uint64_t a, b;

	begin();
	add_load(0, 0, 32, 1);
	add_load(1, 1, 1, 1);
	LIMITS(.rw_ios_per_sec = 10000);
	start(0);
	for (int i = 0; i < 1000; i++) { /* a tenth, of half that it might have */
		loads[1].limit = loads[1].submitted + 1;
		start(1);
		advance_ms(1);
	}
	EXPECT_SAY(loads[1].completed >= 980, "%llu", (unsigned long long)loads[1].completed);
	ASSERT_RATE(loads[0].completed + loads[1].completed, 10000, 1);
	/* Now it wants as much as the other. */
	loads[1].limit = UINT64_MAX;
	start(1);
	a = loads[0].completed;
	b = loads[1].completed;
	advance_ms(1000);
	ASSERT_RATE(loads[0].completed - a + loads[1].completed - b, 10000, 1);
	ASSERT_RATE(loads[1].completed - b, 5000, 110);
	end();
}

/* ---- Changes under load ---- */

static void
limits_change_under_load(void **state)
{
	uint64_t before;

	begin();
	add_load(0, 0, 32, 8);
	add_load(1, 1, 32, 8);
	loads[0].write_percent = loads[1].write_percent = 50;
	LIMITS(.rw_ios_per_sec = 100);
	start(0);
	start(1);
	advance_ms(50);
	LIMITS(.rw_ios_per_sec = 10000);
	before = loads[0].completed + loads[1].completed;
	advance_ms(1000);
	ASSERT_RATE(loads[0].completed + loads[1].completed - before, 10000, 1);
	/* Another kind, other lanes; order is checked in load_done(). */
	LIMITS(.r_mbytes_per_sec = 4, .w_mbytes_per_sec = 2);
	loads[0].bytes[1] = loads[1].bytes[1] = 0;
	advance_ms(1000);
	ASSERT_RATE(loads[0].bytes[1] + loads[1].bytes[1], 2 * MBYTE, 4096);
	LIMITS(.rw_ios_per_sec = 1);
	before = loads[0].completed + loads[1].completed;
	advance_ms(3000);
	ASSERT_RATE(loads[0].completed + loads[1].completed - before, 3, 1);
	end(); /* takes them away under load: all must come back */
}

/* A long debt is paid at the new rate. */
static void
debts_are_rescaled(void **state)
{
	begin();
	add_load(0, 0, 2, 4096);
	LIMITS(.rw_mbytes_per_sec = 1);
	start(0);
	advance_ms(10);
	assert_int_equal(loads[0].completed, 1); /* 2 MiB: a debt of 2 s */
	LIMITS(.rw_mbytes_per_sec = 100);
	advance_ms(10);
	assert_int_equal(loads[0].completed, 1);
	advance_ms(15);
	assert_int_equal(loads[0].completed, 2);
	end();
}

static void
reset_done(struct bdev_io *io, int status)
{
	EXPECT(status == 0);
	free(io);
	atomic_store(&told, true);
}

static void
reset_on_worker(void *arg)
{
	struct load *l = arg;
	struct bdev_io *io = aligned_alloc(64, bdev_io_bytes(&s.bdev));

	EXPECT(io != NULL);
	bdev_io_init(io, BDEV_RESET, 0, 0, NULL, 0, reset_done);
	bdev_submit(l->ch, io);
}

/* What is cancelled is not submitted again. */
static void
limit_load(void *arg)
{
	struct load *l = arg;

	l->limit = l->submitted;
}

/* A reset does not wait for what waits; it cancels it, on all channels. */
static void
reset_cancels_what_waits(void **state)
{
	begin();
	add_load(0, 0, 32, 1);
	add_load(1, 1, 16, 1);
	LIMITS(.rw_ios_per_sec = 1);
	start(0);
	start(1);
	env_call(&env, loads[0].thread, limit_load, &loads[0]);
	env_call(&env, loads[1].thread, limit_load, &loads[1]);
	atomic_store(&told, false);
	env_call(&env, loads[0].thread, reset_on_worker, &loads[0]);
	hand_run(env.reactors[0]);
	assert_true(atomic_load(&told));
	assert_int_equal(loads[0].cancelled + loads[1].cancelled, 48);
	assert_int_equal(loads[0].completed + loads[1].completed, 1);
	/* Others come afterwards, and go on as before. */
	loads[0].limit = loads[1].limit = UINT64_MAX;
	start(0);
	start(1);
	advance_ms(3000);
	ASSERT_RATE(loads[0].completed + loads[1].completed, 4, 1);
	env_call(&env, loads[0].thread, load_start, &loads[0]);
	end();
}

static void
removal_answers_what_waits(void **state)
{
	begin();
	add_load(0, 0, 32, 1);
	add_load(1, 1, 16, 1);
	LIMITS(.rw_ios_per_sec = 1);
	start(0);
	start(1);
	env_call(&env, env.app, remove_bdev, NULL);
	hand_run(env.reactors[0]);
	assert_int_equal(loads[0].failed + loads[1].failed, 48);
	end();
}

static struct bdev_io *abort_io;
static int abort_status;

static void
abort_done(struct bdev_io *io, int status)
{
	abort_status = status;
}

static void
abort_on_worker(void *arg)
{
	struct request *r = arg;

	bdev_io_init(abort_io, BDEV_ABORT, 0, 0, NULL, 0, abort_done);
	abort_io->target = r->io;
	bdev_submit(r->load->ch, abort_io);
}

static void
abort_takes_it_out(void **state)
{
	begin();
	add_load(0, 0, 4, 1);
	loads[0].limit = 4;
	LIMITS(.rw_ios_per_sec = 10);
	start(0);
	abort_io = aligned_alloc(64, bdev_io_bytes(&s.bdev));
	abort_status = 1;
	env_call(&env, loads[0].thread, abort_on_worker, &loads[0].requests[2]);
	hand_run(env.reactors[0]);
	assert_int_equal(abort_status, 0);
	assert_int_equal(loads[0].cancelled, 1);
	assert_int_equal(bdev_channel_inflight(loads[0].ch), 2);
	advance_ms(250);
	assert_int_equal(loads[0].completed, 3);
	free(abort_io);
	end();
}

/* Nothing but reads and writes waits, and what is out of range costs nothing. */
static void
other(struct bdev_io *io, int status)
{
	++*(unsigned *)io->md;
}

static unsigned others;
static struct bdev_io *other_ios[4];

static void
submit_others(void *arg)
{
	static const enum bdev_op ops[] = {BDEV_FLUSH, BDEV_UNMAP, BDEV_WRITE_ZEROES, BDEV_READ};

	for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
		bdev_io_init(other_ios[i], ops[i], ops[i] == BDEV_READ ? UINT64_MAX - 8 : 0,
			     UINT64_C(1) << 10, NULL, 0, other);
		other_ios[i]->md = &others;
		bdev_submit(loads[0].ch, other_ios[i]);
	}
}

static void
only_data_is_limited(void **state)
{
	begin();
	add_load(0, 0, 4, 1);
	LIMITS(.rw_ios_per_sec = 1, .rw_mbytes_per_sec = 1);
	start(0);
	for (unsigned i = 0; i < ARRAY_SIZE(other_ios); i++) {
		other_ios[i] = aligned_alloc(64, bdev_io_bytes(&s.bdev));
	}
	others = 0;
	env_call(&env, loads[0].thread, submit_others, NULL);
	hand_run(env.reactors[0]);
	assert_int_equal(others, 4);
	advance_ms(2500);
	assert_int_equal(loads[0].completed, 3);
	for (unsigned i = 0; i < ARRAY_SIZE(other_ios); i++) {
		free(other_ios[i]);
	}
	end();
}

/* A channel that is made later obeys; one that closes gives back what it drew. */
static void
channels_come_and_go(void **state)
{
	begin();
	LIMITS(.rw_ios_per_sec = 20000);
	add_load(0, 0, 1, 1);
	add_load(1, 1, 32, 1);
	start(1);
	for (int i = 0; i < 1000; i++) {
		loads[0].limit = loads[0].submitted + 1;
		start(0);
		advance_ms(1);
		if (bdev_channel_inflight(loads[0].ch) == 0) {
			env_call(&env, loads[0].thread, put_load, &loads[0]);
		}
	}
	ASSERT_RATE(loads[0].completed + loads[1].completed, 20000, 1);
	end();
}

/* Limits far above cost no timer, and nothing waits. */
static void
far_above_is_as_without(void **state)
{
	begin();
	add_load(0, 0, 8, 8);
	loads[0].limit = 10000;
	LIMITS(.rw_ios_per_sec = BDEV_QOS_IOS_MAX, .rw_mbytes_per_sec = BDEV_QOS_MBYTES_MAX);
	advance_ms(20);
	start(0);
	hand_run(env.reactors[0]);
	assert_int_equal(loads[0].completed, 10000);
	assert_true(loads[0].ch->direct_ops != 0);
	assert_int_equal(reactor_next_timer_ns(env.reactors[0]), UINT64_MAX);
	end();
}

static void
errors_app(void *arg)
{
	struct bdev_qos_limits l = {.rw_ios_per_sec = BDEV_QOS_IOS_MAX + 1ull};
	const char *user;
	uint32_t weight;
	struct err err;

	EXPECT(bdev_set_qos_limits(&s.bdev, &l, tell, NULL, &err) == -EINVAL);
	l = (struct bdev_qos_limits){.w_mbytes_per_sec = BDEV_QOS_MBYTES_MAX + 1};
	EXPECT(bdev_set_qos_limits(&s.bdev, &l, tell, NULL, &err) == -EINVAL);
	l = (struct bdev_qos_limits){.burst_ms = BDEV_QOS_BURST_MS_MAX + 1};
	EXPECT(bdev_set_qos_limits(&s.bdev, &l, tell, NULL, &err) == -EINVAL);
	bdev_get_qos_limits(&s.bdev, &l);
	EXPECT(l.rw_ios_per_sec == 0 && l.burst_ms == BDEV_QOS_BURST_MS_DEFAULT);
	EXPECT(bdev_set_qos_weight(&s.bdev, "", 5, &err) == -EINVAL);
	EXPECT(bdev_set_qos_weight(&s.bdev, "a", BDEV_QOS_WEIGHT_MAX + 1, &err) == -EINVAL);
	EXPECT(!bdev_get_qos_weight(&s.bdev, 0, &user, &weight));
	EXPECT(bdev_set_qos_weight(&s.bdev, "a", 5, &err) == 0);
	EXPECT(bdev_get_qos_weight(&s.bdev, 0, &user, &weight) && strcmp(user, "a") == 0);
	bdev_desc_set_user(loads[0].desc, "a");
	EXPECT(weight == 5 && bdev_desc_weight(loads[0].desc) == 5);
	EXPECT(bdev_next_desc(&s.bdev, NULL) == loads[0].desc);
	EXPECT(bdev_next_desc(&s.bdev, loads[0].desc) == NULL);
	EXPECT(strcmp(bdev_desc_user(loads[0].desc), "a") == 0);
	EXPECT(bdev_set_qos_weight(&s.bdev, "a", 0, &err) == 0);
	EXPECT(!bdev_get_qos_weight(&s.bdev, 0, &user, &weight));
	EXPECT(bdev_desc_weight(loads[0].desc) == BDEV_QOS_WEIGHT_DEFAULT);
}

static void
errors(void **state)
{
	begin();
	add_load(0, 0, 1, 1);
	env_call(&env, env.app, errors_app, NULL);
	end();
}

/* ---- With system threads ---- */

static void
load_stop(void *arg)
{
	((struct load *)arg)->stop = true;
}

static void
got_histogram(void *ctx, const struct bdev_histogram *h)
{
	atomic_store(&told, true);
}

static void
got_stats(void *ctx, const struct bdev_stats *stats)
{
	atomic_store(&told, true);
}

static void
ask_app(void *arg)
{
	unsigned i = *(unsigned *)arg;
	struct bdev_histogram_options o = BDEV_HISTOGRAM_DEFAULTS;

	atomic_store(&told, false);
	EXPECT(bdev_set_qd_sampling_period(&s.bdev, i % 3 * 100) == 0);
	switch (i % 4) {
	case 0:
		o.granularity = 1 + i % 7;
		EXPECT(bdev_set_histogram(&s.bdev, &o, tell, NULL, NULL) == 0);
		break;
	case 1:
	case 2:
		EXPECT(bdev_get_histogram(&s.bdev, BDEV_OP_ANY, got_histogram, NULL, NULL) == 0);
		break;
	default:
		EXPECT(bdev_get_stats(&s.bdev, got_stats, NULL) == 0);
		EXPECT(bdev_set_qos_weight(&s.bdev, "", 5, NULL) == -EINVAL);
	}
}

static void
put_when_idle(void *arg)
{
	struct load *l = arg;

	if (l->ch != NULL && bdev_channel_inflight(l->ch) == 0) {
		put_load(l);
		atomic_store(&told, true);
	}
}

/* Everything changes under load, and every request is answered once. */
static void
on_system_threads(void **state)
{
	static const uint64_t rates[] = {100000, 2000, 1000000, 50};

	real = true;
	begin();
	add_load(0, 0, 32, 8);
	add_load(1, 1, 32, 8);
	loads[0].write_percent = loads[1].write_percent = 50;
	LIMITS(.rw_ios_per_sec = 100);
	start(0);
	start(1);
	for (unsigned i = 0; i < 40; i++) {
		if (i % 5 != 4) {
			LIMITS(.rw_ios_per_sec = rates[i % 4], .r_mbytes_per_sec = i % 3 * 10);
		} else {
			LIMITS(.rw_mbytes_per_sec = 50 + i);
		}
		env_call(&env, env.app, ask_app, &i);
		env_wait(&env, &told);
		if (i % 8 == 7) {
			atomic_store(&told, false);
			env_call(&env, loads[0].thread, reset_on_worker, &loads[0]);
			env_wait(&env, &told);
		}
	}
	LIMITS(.rw_ios_per_sec = 200000);
	for (unsigned i = 0; i < 2; i++) {
		env_call(&env, loads[i].thread, load_stop, &loads[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		atomic_store(&told, false);
		for (unsigned tries = 0; tries < 10000 && !atomic_load(&told); tries++) {
			env_call(&env, loads[i].thread, put_when_idle, &loads[i]);
		}
		assert_true(atomic_load(&told));
		assert_true(loads[i].completed > 0);
		assert_int_equal(loads[i].submitted, loads[i].completed + loads[i].cancelled);
		env_call(&env, env.app, close_load, &loads[i]);
		for (unsigned r = 0; r < loads[i].depth; r++) {
			free(loads[i].requests[r].io);
		}
	}
	env_call(&env, env.app, remove_bdev, NULL);
	env_wait(&env, &s.destructed);
	scripted_bdev_release(&s);
	env_stop(&env);
	free(buf);
	real = false;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(requests_a_second),
		cmocka_unit_test(megabytes_a_second),
		cmocka_unit_test(reads_and_writes_apart),
		cmocka_unit_test(several_limits),
		cmocka_unit_test(what_is_not_used_is_the_burst),
		cmocka_unit_test(late_threads_catch_up),
		cmocka_unit_test(users_share_by_weight),
		cmocka_unit_test(a_share_is_the_descriptors),
		cmocka_unit_test(what_is_left_is_the_others),
		cmocka_unit_test(limits_change_under_load),
		cmocka_unit_test(debts_are_rescaled),
		cmocka_unit_test(reset_cancels_what_waits),
		cmocka_unit_test(removal_answers_what_waits),
		cmocka_unit_test(abort_takes_it_out),
		cmocka_unit_test(only_data_is_limited),
		cmocka_unit_test(channels_come_and_go),
		cmocka_unit_test(far_above_is_as_without),
		cmocka_unit_test(errors),
		cmocka_unit_test(on_system_threads),
	};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		failures += cmocka_run_group_tests_name(reactor_mode_name(mode), tests, NULL, NULL);
	}
	return failures;
}
