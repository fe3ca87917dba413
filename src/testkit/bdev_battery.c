/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/bdev_battery.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "testkit/bdev_battery_run.h"
#include "testkit/bdev_load.h"

/* ---- Helpers ---- */

uint8_t *
battery_buffer(size_t bytes)
{
	uint8_t *p = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);

	EXPECT(p != NULL);
	return p;
}

/* Different for each block and each use. */
void
battery_pattern(uint8_t *p, size_t bytes, uint64_t seed)
{
	uint64_t x = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;

	for (size_t i = 0; i < bytes; i += sizeof(x)) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		memcpy(p + i, &x, MIN(sizeof(x), bytes - i));
	}
}

void
battery_write_pattern(struct run *r, uint64_t lba, uint64_t n, uint64_t seed)
{
	uint8_t *p = battery_buffer(n * r->bs);

	battery_pattern(p, n * r->bs, seed);
	EXPECT(env_rw(r->w, BDEV_WRITE, lba, n, p) == 0);
	free(p);
}

/* Of blocks [skip, skip + n) of what battery_write_pattern(skip + ..., seed) wrote from lba - skip on. */
void
battery_expect_pattern(struct run *r, uint64_t lba, uint64_t n, uint64_t seed, uint64_t skip)
{
	size_t bytes = n * r->bs;
	uint8_t *want = battery_buffer(bytes + skip * r->bs), *got = battery_buffer(bytes);

	battery_pattern(want, bytes + skip * r->bs, seed);
	EXPECT(env_rw(r->w, BDEV_READ, lba, n, got) == 0);
	EXPECT_SAY(r->battery->no_data || memcmp(got, want + skip * r->bs, bytes) == 0,
		   "%s: blocks %llu+%llu", r->battery->name, (unsigned long long)lba,
		   (unsigned long long)n);
	free(want);
	free(got);
}

void
battery_expect_zero(struct run *r, uint64_t lba, uint64_t n)
{
	uint8_t *got = battery_buffer(n * r->bs);

	memset(got, 0xff, n * r->bs);
	EXPECT(env_rw(r->w, BDEV_READ, lba, n, got) == 0);
	/* All are as the first; byte by byte takes very long under a sanitizer. */
	EXPECT_SAY(r->battery->no_data || (got[0] == 0 && memcmp(got, got + 1, n * r->bs - 1) == 0),
		   "%s: blocks %llu+%llu are not zero", r->battery->name, (unsigned long long)lba,
		   (unsigned long long)n);
	free(got);
}

/* ---- One request at a time ---- */

static void
boundaries(struct run *r)
{
	uint64_t last = r->num_blocks - 1;

	battery_write_pattern(r, 0, 3, 1);
	battery_write_pattern(r, last - 2, 3, 2);
	battery_write_pattern(r, 1, 1, 3);
	battery_write_pattern(r, last - 1, 1, 4);
	battery_expect_pattern(r, 0, 1, 1, 0);
	battery_expect_pattern(r, 1, 1, 3, 0);
	battery_expect_pattern(r, 2, 1, 1, 2);
	battery_expect_pattern(r, last - 2, 1, 2, 0);
	battery_expect_pattern(r, last - 1, 1, 4, 0);
	battery_expect_pattern(r, last, 1, 2, 2);
	battery_write_pattern(r, last, 1, 5);
	battery_expect_pattern(r, last, 1, 5, 0);
}

static void
ranges_out_of_bounds(struct run *r)
{
	const struct {
		uint64_t lba, n;
	} bad[] = {
		{r->num_blocks, 1},      {r->num_blocks - 1, 2},
		{UINT64_MAX, 1},         {UINT64_MAX, 2},
		{UINT64_MAX - 1, 2},     {1, UINT64_MAX},
		{0, UINT64_MAX},         {1, r->num_blocks},
		{UINT64_MAX / r->bs, 1}, {UINT64_MAX / r->bs + 1, 1},
		{INT64_MAX, 8},
	};
	static const enum bdev_op ops[] = {BDEV_READ, BDEV_WRITE, BDEV_UNMAP, BDEV_WRITE_ZEROES};
	uint8_t *p = battery_buffer(8 * r->bs);

	battery_pattern(p, 8 * r->bs, 6);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		for (size_t j = 0; j < ARRAY_SIZE(ops); j++) {
			struct iovec iov = {.iov_base = p,
					    .iov_len =
						    bad[i].n <= 8 ? bad[i].n * r->bs : 8 * r->bs};
			int want = bdev_supports(r->env.bdev, ops[j]) ? -EINVAL : -EOPNOTSUPP;

			EXPECT_SAY(env_rwv(r->w, ops[j], 0, bad[i].lba, bad[i].n, &iov, 1) == want,
				   "%s %llu+%llu", bdev_op_name(ops[j]),
				   (unsigned long long)bad[i].lba, (unsigned long long)bad[i].n);
		}
	}
	EXPECT(env_rw(r->w, BDEV_OP_COUNT, 0, 1, p) == -EOPNOTSUPP);
	EXPECT(env_rw(r->w, (enum bdev_op)255, 0, 1, p) == -EOPNOTSUPP);
	free(p);
}

static void
wrong_lists(struct run *r)
{
	uint8_t *p = battery_buffer(8 * r->bs);
	struct iovec many[BDEV_IOV_MAX + 1];
	struct iovec iov[2] = {{p, r->bs}, {p + r->bs, r->bs - 1}};

	memset(p, 0, 8 * r->bs);
	for (int op = BDEV_READ; op <= BDEV_WRITE; op++) {
		EXPECT(env_rwv(r->w, op, 0, 0, 2, iov, 2) == -EINVAL);
		EXPECT(env_rwv(r->w, op, 0, 0, 2, iov, 1) == -EINVAL);
		EXPECT(env_rwv(r->w, op, 0, 0, 1, iov, 2) == -EINVAL);
		EXPECT(env_rwv(r->w, op, 0, 0, 1, NULL, 0) == -EINVAL);
		for (int i = 0; i <= BDEV_IOV_MAX; i++) {
			many[i] = (struct iovec){p, 0};
		}
		many[BDEV_IOV_MAX].iov_len = r->bs;
		EXPECT(env_rwv(r->w, op, 0, 0, 1, many, BDEV_IOV_MAX + 1) == -EINVAL);
	}
	free(p);
}

static void
no_blocks(struct run *r)
{
	static const enum bdev_op ops[] = {BDEV_READ, BDEV_WRITE, BDEV_UNMAP, BDEV_WRITE_ZEROES};

	for (size_t i = 0; i < ARRAY_SIZE(ops); i++) {
		if (bdev_supports(r->env.bdev, ops[i])) {
			EXPECT(env_rw(r->w, ops[i], 0, 0, NULL) == 0);
			EXPECT(env_rw(r->w, ops[i], r->num_blocks - 1, 0, NULL) == 0);
		}
	}
}

/* Writes n blocks by one list and reads them by another; offset: of the whole buffer from a
 * page. */
static void
through_lists(struct run *r, uint64_t lba, uint64_t n, size_t offset, const size_t *lens,
	      size_t len_count)
{
	size_t bytes = n * r->bs, at = 0;
	uint8_t *w = battery_buffer(bytes + 4096), *got = battery_buffer(bytes + 8192);
	struct iovec *iov = calloc(BDEV_IOV_MAX, sizeof(*iov));
	unsigned count = 0;

	EXPECT(iov != NULL);
	battery_pattern(w + offset, bytes, lba + offset + len_count);
	while (at < bytes) {
		size_t len = MIN(lens[count % len_count], bytes - at);

		len = count == BDEV_IOV_MAX - 1 ? bytes - at : len;
		iov[count++] = (struct iovec){w + offset + at, len};
		at += len;
	}
	EXPECT(env_rwv(r->w, BDEV_WRITE, 0, lba, n, iov, count) == 0);
	battery_expect_pattern(r, lba, n, lba + offset + len_count, 0);
	/* Back to front, so that entries do not follow each other in memory. */
	memset(got, 0x11, bytes + 8192);
	at = bytes;
	for (unsigned i = 0; i < count; i++) {
		at -= iov[i].iov_len;
		iov[i].iov_base = got + offset + at;
	}
	EXPECT(env_rwv(r->w, BDEV_READ, 0, lba, n, iov, count) == 0);
	at = 0;
	for (unsigned i = 0; i < count && !r->battery->no_data; i++) {
		EXPECT(memcmp(iov[i].iov_base, w + offset + at, iov[i].iov_len) == 0);
		at += iov[i].iov_len;
	}
	for (size_t i = 0; i < offset; i++) {
		EXPECT(got[i] == 0x11);
	}
	EXPECT(got[offset + bytes] == 0x11);
	free(w);
	free(got);
	free(iov);
}

static void
lists(struct run *r)
{
	static const size_t odd[] = {1, 3, 511, 0, 512, 513, 7, 4096, 0, 0, 100}, pages[] = {4096},
			    sectors[] = {512}, tiny[] = {16}, whole[] = {SIZE_MAX},
			    mixed[] = {4096, 512, 3584, 100};
	uint64_t n = MAX(1u, 65536u / r->bs);

	through_lists(r, 3, 1, 0, whole, 1);
	through_lists(r, 5, 1, 1, whole, 1);
	through_lists(r, 6, 2, 512, whole, 1);
	through_lists(r, 7, n, 0, odd, ARRAY_SIZE(odd));
	through_lists(r, 11, n, 0, pages, 1);
	through_lists(r, 13, n, 4, pages, 1);
	through_lists(r, 1, n, 0, sectors, 1);
	through_lists(r, 17, n, 0, mixed, ARRAY_SIZE(mixed));
	through_lists(r, 2, MAX(1u, 16384u / r->bs), 0, tiny, 1);
	through_lists(r, r->num_blocks - n, n, 3, odd, ARRAY_SIZE(odd));
	/* Long ones: more than a bounce buffer, more than a part's entries. */
	n = (640u << 10) / r->bs;
	through_lists(r, 9, n, 0, whole, 1);
	through_lists(r, 9, n, 8, whole, 1);
	through_lists(r, 31, n, 0, pages, 1);
	through_lists(r, 31, n, 0, mixed, ARRAY_SIZE(mixed));
}

static void
zeroes(struct run *r, enum bdev_op op, uint8_t flags, bool zero_after)
{
	uint64_t n = 9 * (65536 / r->bs) + 2;

	if (!bdev_supports(r->env.bdev, op)) {
		EXPECT(env_rw(r->w, op, 0, 1, NULL) == -EOPNOTSUPP);
		return;
	}
	battery_write_pattern(r, 10, n + 2, 20);
	EXPECT(env_rwv(r->w, op, flags, 11, n, NULL, 0) == 0);
	battery_expect_pattern(r, 10, 1, 20, 0);
	battery_expect_pattern(r, 11 + n, 1, 20, n + 1);
	if (zero_after) {
		battery_expect_zero(r, 11, n);
	}
	battery_write_pattern(r, 12, 5, 21);
	battery_expect_pattern(r, 12, 5, 21, 0);
	battery_write_pattern(r, r->num_blocks - 2, 2, 22);
	EXPECT(env_rwv(r->w, op, flags, r->num_blocks - 1, 1, NULL, 0) == 0);
	battery_expect_pattern(r, r->num_blocks - 2, 1, 22, 0);
	EXPECT(env_rwv(r->w, op, flags, 0, r->num_blocks, NULL, 0) == 0);
	if (zero_after) {
		battery_expect_zero(r, 0, MIN(r->num_blocks, (8u << 20) / r->bs));
		battery_expect_zero(r, r->num_blocks - 64, 64);
	}
	battery_write_pattern(r, 40, 9, 23);
	battery_expect_pattern(r, 40, 9, 23, 0);
}

static void
flushes(struct run *r)
{
	bool supported = bdev_supports(r->env.bdev, BDEV_FLUSH);
	int want = supported || !bdev_write_cache(r->env.bdev) ? 0 : -EOPNOTSUPP;
	uint8_t *p = battery_buffer(8 * r->bs);
	struct iovec iov = {p, 8 * r->bs};

	EXPECT(env_rw(r->w, BDEV_FLUSH, 0, 0, NULL) == want);
	EXPECT(env_rw(r->w, BDEV_FLUSH, UINT64_MAX, UINT64_MAX, NULL) == want);
	battery_pattern(p, 8 * r->bs, 30);
	EXPECT(env_rwv(r->w, BDEV_WRITE, BDEV_IO_FUA, 50, 8, &iov, 1) == want);
	if (want == 0) {
		battery_expect_pattern(r, 50, 8, 30, 0);
	}
	free(p);
}

static void
read_only_descriptor(struct run *r)
{
	uint8_t *p = battery_buffer(r->bs);

	battery_write_pattern(r, 4, 1, 40);
	env_close(&r->env);
	EXPECT(env_open(&r->env, r->battery->name, false) == 0);
	memset(p, 0, r->bs);
	EXPECT(env_rw(r->w, BDEV_WRITE, 4, 1, p) == -EROFS);
	EXPECT(env_rw(r->w, BDEV_UNMAP, 4, 1, NULL) == -EROFS);
	EXPECT(env_rw(r->w, BDEV_WRITE_ZEROES, 4, 1, NULL) == -EROFS);
	battery_expect_pattern(r, 4, 1, 40, 0);
	env_close(&r->env);
	EXPECT(env_open(&r->env, r->battery->name, true) == 0);
	battery_expect_pattern(r, 4, 1, 40, 0);
	free(p);
}

/* ---- Under load ---- */

static void
start_loads(struct run *r, struct load loads[ENV_WORKERS], uint64_t count)
{
	uint64_t half = MIN(r->num_blocks / 2, (2u << 20) / r->bs);

	memset(loads, 0, ENV_WORKERS * sizeof(*loads));
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		loads[i].worker = &r->env.workers[i];
		/* One at the beginning, one at the end. */
		loads[i].first_block = i == 0 ? 0 : r->num_blocks - half;
		loads[i].num_blocks = half;
		loads[i].depth = r->battery->depth == 0 ? 32 : r->battery->depth;
		loads[i].count = count;
		loads[i].no_data = r->battery->no_data;
		loads[i].seed = 7 * i + (unsigned)r->env.mode;
		loads[i].cancel_ok = count == UINT64_MAX && r->battery->may_cancel;
		loads[i].removal_ok = count == UINT64_MAX;
		load_start(&loads[i]);
	}
}

static void
finish_loads(struct load loads[ENV_WORKERS])
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		atomic_store(&loads[i].stop, loads[i].count == UINT64_MAX);
		load_finish(&loads[i]);
	}
}

static void
random_verify(struct run *r)
{
	struct load loads[ENV_WORKERS];
	struct bdev_stats before, after;

	env_stats(&r->env, &before);
	start_loads(r, loads, r->battery->requests == 0 ? 3000 : r->battery->requests);
	finish_loads(loads);
	env_stats(&r->env, &after);
	for (int op = 0; op < BDEV_OP_COUNT; op++) {
		uint64_t ops = 0, bytes = 0;

		for (unsigned i = 0; i < ENV_WORKERS; i++) {
			ops += loads[i].sent.op[op].ops;
			bytes += loads[i].sent.op[op].bytes;
		}
		EXPECT_SAY(after.op[op].ops - before.op[op].ops == ops, "%s", bdev_op_name(op));
		EXPECT_SAY(after.op[op].bytes - before.op[op].bytes == bytes, "%s",
			   bdev_op_name(op));
		EXPECT(after.op[op].max_ns >= after.op[op].min_ns &&
		       after.op[op].latency_ns >= before.op[op].latency_ns);
	}
	EXPECT(after.errors == before.errors);
}

static void
resets_under_load(struct run *r)
{
	struct load loads[ENV_WORKERS];
	struct env_io resets[3];

	start_loads(r, loads, UINT64_MAX);
	for (unsigned round = 0; round < 4; round++) {
		for (unsigned i = 0; i < ARRAY_SIZE(resets); i++) {
			resets[i] = (struct env_io){.op = BDEV_RESET};
			env_submit(&r->env.workers[i % ENV_WORKERS], &resets[i]);
		}
		for (unsigned i = 0; i < ARRAY_SIZE(resets); i++) {
			EXPECT(env_finish(&resets[i]) == 0);
		}
		for (unsigned i = 0; i < ENV_WORKERS; i++) {
			env_wait_count(&r->env, &loads[i].completed,
				       atomic_load(&loads[i].completed) + 50);
		}
	}
	finish_loads(loads);
	EXPECT(env_rw(r->w, BDEV_RESET, 0, 0, NULL) == 0);
	boundaries(r);
}

struct resize_args {
	struct run *run;
	uint64_t num_blocks;
	int rc;
};

static void
resize_on_app(void *arg)
{
	struct resize_args *a = arg;

	a->rc = a->run->battery->resize(a->run->battery, a->num_blocks, NULL);
}

static int
resize(struct run *r, uint64_t num_blocks)
{
	struct resize_args a = {.run = r, .num_blocks = num_blocks};

	env_call(&r->env, r->env.app, resize_on_app, &a);
	return a.rc;
}

static void
resize_under_load(struct run *r)
{
	uint64_t bigger = r->num_blocks + r->num_blocks / 4;
	struct load loads[ENV_WORKERS];

	if (r->battery->resize == NULL) {
		return;
	}
	start_loads(r, loads, UINT64_MAX);
	EXPECT(env_rw(r->w, BDEV_WRITE_ZEROES, bigger - 1, 1, NULL) == -EINVAL);
	EXPECT(resize(r, bigger) == 0);
	env_wait_size(&r->env, bigger);
	EXPECT(bdev_num_blocks(r->env.bdev) == bigger);
	EXPECT(resize(r, r->num_blocks) < 0);
	EXPECT(resize(r, 0) < 0);
	r->num_blocks = bigger;
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		EXPECT(env_rw(&r->env.workers[i], BDEV_WRITE_ZEROES, bigger - 1, 1, NULL) == 0);
	}
	battery_expect_zero(r, bigger - 1, 1);
	finish_loads(loads);
	boundaries(r);
}

static uint64_t
wakeups(struct run *r)
{
	struct reactor_stats stats;
	uint64_t sum = 0;

	for (unsigned i = 0; i < r->env.reactor_count; i++) {
		reactor_get_stats(r->env.reactors[i], &stats);
		sum += stats.wakeups;
	}
	return sum;
}

/* An idle bdev, open and with channels, wakes nobody. On a busy machine what went before may
 * take its time to end. */
static void
idle_costs_nothing(struct run *r)
{
	uint64_t before, after;
	int tries = 200;

	if (!r->env.real_threads || r->env.mode == REACTOR_POLL) {
		return;
	}
	do {
		before = wakeups(r);
		env_linger(&r->env, 50);
		after = wakeups(r);
	} while (after != before && --tries > 0);
	EXPECT_SAY(after == before, "%llu wake-ups in 50 ms", (unsigned long long)(after - before));
}

/* ---- Life ---- */

struct life_args {
	struct run *run;
	int rc;
	struct err err;
	atomic_bool gone;
};

static void
create_on_app(void *arg)
{
	struct life_args *a = arg;

	a->rc = a->run->battery->create(a->run->battery, &a->err);
}

static void
gone(void *ctx, int status)
{
	struct life_args *a = ctx;

	EXPECT(status == 0);
	EXPECT(bdev_find(a->run->battery->name) == NULL);
	atomic_store(&a->gone, true);
}

static void
remove_on_app(void *arg)
{
	struct life_args *a = arg;

	a->rc = a->run->battery->remove(a->run->battery, gone, a, &a->err);
	EXPECT(!atomic_load(&a->gone));
}

/* Modules that connect to something first are made a little after their create has returned. */
static void
open_soon(struct run *r)
{
	int rc, tries = 2000;

	while ((rc = env_open(&r->env, r->battery->name, true)) == -ENODEV && --tries > 0) {
		env_linger(&r->env, 5);
	}
	EXPECT_SAY(rc == 0, "%d", rc);
}

static void
create(struct run *r)
{
	struct life_args a = {.run = r};

	env_call(&r->env, r->env.app, create_on_app, &a);
	EXPECT_SAY(a.rc == 0, "%s", err_text(&a.err));
	memset(&a.err, 0, sizeof(a.err));
	/* A second one of this name is refused. */
	env_call(&r->env, r->env.app, create_on_app, &a);
	EXPECT_SAY(a.rc == -EEXIST && a.err.code == -EEXIST, "%d %s", a.rc, err_text(&a.err));
	EXPECT_SAY(strstr(a.err.text, r->battery->name) != NULL, "%s", a.err.text);
	open_soon(r);
	r->w = &r->env.workers[0];
	r->num_blocks = bdev_num_blocks(r->env.bdev);
	r->bs = bdev_block_size(r->env.bdev);
	EXPECT(r->num_blocks >= 512 && r->num_blocks * r->bs >= 2u << 20);
}

static void
removal_under_load(struct run *r)
{
	struct life_args a = {.run = r};
	struct load loads[ENV_WORKERS];
	uint8_t *p = battery_buffer(r->bs);

	start_loads(r, loads, UINT64_MAX);
	env_call(&r->env, r->env.app, remove_on_app, &a);
	EXPECT(a.rc == 0);
	env_wait_count(&r->env, &r->env.removes, 1);
	/* Without being told to stop: requests end with -ENODEV now. */
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		env_wait(&r->env, &loads[i].done);
		EXPECT(loads[i].removed);
		EXPECT(env_rw(&r->env.workers[i], BDEV_READ, 0, 1, p) == -ENODEV);
		EXPECT(env_rw(&r->env.workers[i], BDEV_RESET, 0, 0, NULL) == -ENODEV);
	}
	finish_loads(loads);
	EXPECT(env_open(&r->env, r->battery->name, true) == -ENODEV);
	EXPECT(!atomic_load(&a.gone));
	env_close(&r->env);
	env_wait(&r->env, &a.gone);
	free(p);
}

static void
remove_idle(struct run *r)
{
	struct life_args a = {.run = r};

	env_close(&r->env);
	env_call(&r->env, r->env.app, remove_on_app, &a);
	EXPECT(a.rc == 0);
	env_wait(&r->env, &a.gone);
	atomic_store(&a.gone, false);
	env_call(&r->env, r->env.app, remove_on_app, &a);
	EXPECT(a.rc == -ENODEV);
}

void
bdev_battery_run(const struct battery *b, enum reactor_mode mode, bool real_threads)
{
	struct run run = {.battery = b};

#ifdef __SANITIZE_THREAD__ /* one thread alone has no races */
	if (!real_threads) {
		return;
	}
#endif
	env_start(&run.env, mode, real_threads);
	create(&run);
	boundaries(&run);
	ranges_out_of_bounds(&run);
	wrong_lists(&run);
	no_blocks(&run);
	lists(&run);
	zeroes(&run, BDEV_WRITE_ZEROES, 0, true);
	zeroes(&run, BDEV_WRITE_ZEROES, BDEV_IO_MAY_UNMAP, true);
	zeroes(&run, BDEV_UNMAP, 0, b->unmap_zeroes);
	flushes(&run);
	battery_operations(&run);
	read_only_descriptor(&run);
	random_verify(&run);
	resets_under_load(&run);
	resize_under_load(&run);
	idle_costs_nothing(&run);
	removal_under_load(&run);
	/* The name is free again. */
	create(&run);
	remove_idle(&run);
	env_stop(&run.env);
}

void
bdev_battery_run_all(const struct battery *b)
{
#ifdef __SANITIZE_THREAD__ /* takes long: where there are races to be found, in the mode that polls and sleeps */
	bdev_battery_run(b, REACTOR_ADAPTIVE, true);
#else
	for (int mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		bdev_battery_run(b, (enum reactor_mode)mode, false);
		bdev_battery_run(b, (enum reactor_mode)mode, true);
	}
#endif
}
