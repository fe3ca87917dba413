/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/zone_block/zone_block.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdevs/zone_block/internal.h"
#include "testkit/scripted_bdev.h"

/* ---- States ---- */

static struct zones zs;

static void
expect_zone(uint64_t i, enum bdev_zone_state state, uint64_t wp)
{
	enum bdev_zone_state got;
	uint64_t got_wp;

	zone_get(&zs, i, &got, &got_wp);
	assert_int_equal(got, state);
	assert_int_equal(got_wp, wp);
}

static void
empty_all(uint64_t count, uint32_t max_open, uint32_t max_active)
{
	assert_int_equal(zones_init(&zs, count, 10, max_open, max_active), 0);
	for (uint64_t i = 0; i < count; i++) {
		expect_zone(i, BDEV_ZONE_FULL, 10);
		assert_int_equal(zone_reset_begin(&zs, i), 0);
		zone_reset_end(&zs, i, true);
		expect_zone(i, BDEV_ZONE_EMPTY, 0);
	}
}

static int
put(uint64_t i, uint64_t offset, uint64_t n)
{
	uint64_t at;
	int rc = zone_write(&zs, i, offset, n, false, &at);

	if (rc == 0) {
		assert_int_equal(at, offset);
		zone_written(&zs, i);
	}
	return rc;
}

static void
one_zone(void **state)
{
	uint64_t at;

	empty_all(1, 0, 0);
	assert_int_equal(put(0, 1, 1), -ESPIPE);
	assert_int_equal(put(0, 0, 11), -ENOSPC);
	expect_zone(0, BDEV_ZONE_EMPTY, 0);
	assert_int_equal(put(0, 0, 3), 0);
	expect_zone(0, BDEV_ZONE_IMPLICIT_OPEN, 3);
	assert_int_equal(put(0, 0, 3), -ESPIPE);
	assert_int_equal(zone_write(&zs, 0, 0, 2, true, &at), 0);
	assert_int_equal(at, 3);
	/* A write under way: neither reset nor finished. */
	assert_int_equal(zone_reset_begin(&zs, 0), -EAGAIN);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_FINISH), -EAGAIN);
	zone_written(&zs, 0);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_CLOSE), 0);
	expect_zone(0, BDEV_ZONE_CLOSED, 5);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_OPEN), 0);
	expect_zone(0, BDEV_ZONE_EXPLICIT_OPEN, 5);
	assert_int_equal(put(0, 5, 6), -ENOSPC);
	assert_int_equal(put(0, 5, 5), 0);
	expect_zone(0, BDEV_ZONE_FULL, 10);
	assert_int_equal(put(0, 10, 1), -ENOSPC);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_OPEN), -EINVAL);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_CLOSE), -EINVAL);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_OFFLINE), -EINVAL);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_FINISH), 0);
	/* A reset under way, which fails: as it was. */
	assert_int_equal(zone_reset_begin(&zs, 0), 0);
	assert_int_equal(zone_reset_begin(&zs, 0), -EAGAIN);
	zone_reset_end(&zs, 0, false);
	expect_zone(0, BDEV_ZONE_FULL, 10);
	assert_int_equal(zone_reset_begin(&zs, 0), 0);
	zone_reset_end(&zs, 0, true);
	assert_int_equal(zone_reset_begin(&zs, 0), 1);
	/* Opened and closed without a write, it is empty again; finished, it is full. */
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_CLOSE), -EINVAL);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_OPEN), 0);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_CLOSE), 0);
	expect_zone(0, BDEV_ZONE_EMPTY, 0);
	assert_int_equal(zone_reset_begin(&zs, 0), 1);
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_FINISH), 0);
	expect_zone(0, BDEV_ZONE_FULL, 10);
	assert_int_equal(atomic_load(&zs.open) + atomic_load(&zs.active), 0);
	zones_release(&zs);
}

static void
limits(void **state)
{
	empty_all(5, 2, 3);
	assert_int_equal(put(0, 0, 1), 0);
	assert_int_equal(put(1, 0, 1), 0);
	/* One that a write opened makes room. */
	assert_int_equal(put(2, 0, 1), 0);
	assert_int_equal(atomic_load(&zs.open), 2);
	assert_int_equal(atomic_load(&zs.active), 3);
	assert_int_equal(put(3, 0, 1), -EOVERFLOW);
	assert_int_equal(zone_change(&zs, 3, BDEV_ZONE_DO_OPEN), -EOVERFLOW);
	/* Those that were opened on purpose do not. */
	assert_int_equal(zone_change(&zs, 0, BDEV_ZONE_DO_OPEN), 0);
	assert_int_equal(zone_change(&zs, 1, BDEV_ZONE_DO_OPEN), 0);
	expect_zone(2, BDEV_ZONE_CLOSED, 1);
	assert_int_equal(put(2, 1, 1), -ETOOMANYREFS);
	expect_zone(2, BDEV_ZONE_CLOSED, 1);
	assert_int_equal(put(0, 1, 9), 0); /* full: room for one more */
	assert_int_equal(put(2, 1, 1), 0);
	assert_int_equal(zone_reset_begin(&zs, 1), 0);
	zone_reset_end(&zs, 1, true);
	assert_int_equal(put(3, 0, 10), 0); /* from empty to full */
	assert_int_equal(zone_change(&zs, 2, BDEV_ZONE_DO_FINISH), 0);
	assert_int_equal(atomic_load(&zs.open), 0);
	assert_int_equal(atomic_load(&zs.active), 0);
	zones_release(&zs);
}

#define APPENDS 20000

static void *
append_all(void *arg)
{
	unsigned *count = arg;
	uint64_t at;

	for (unsigned i = 0; i < APPENDS; i++) {
		uint64_t zone = i % 8;
		int rc = zone_write(&zs, zone, 0, 1, true, &at);

		if (rc == 0) {
			(*count)++;
			zone_written(&zs, zone);
		} else if (rc == -ENOSPC) {
			rc = zone_reset_begin(&zs, zone);
			if (rc == 0) {
				zone_reset_end(&zs, zone, true);
			} else {
				assert_true(rc == -EAGAIN || rc == 1);
			}
		} else {
			assert_true(rc == -EAGAIN || rc == -EOVERFLOW || rc == -ETOOMANYREFS);
		}
		assert_true(atomic_load(&zs.open) <= 3 && atomic_load(&zs.active) <= 5);
	}
	return NULL;
}

/* Counters are right after anything that several threads do. */
static void
threads(void **state)
{
	pthread_t t[3];
	unsigned counts[3] = {0}, open = 0, active = 0;

	empty_all(8, 3, 5);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(pthread_create(&t[i], NULL, append_all, &counts[i]), 0);
	}
	for (int i = 0; i < 3; i++) {
		pthread_join(t[i], NULL);
		assert_true(counts[i] > 0);
	}
	for (uint64_t i = 0; i < 8; i++) {
		enum bdev_zone_state got;
		uint64_t wp;

		zone_get(&zs, i, &got, &wp);
		open += got == BDEV_ZONE_IMPLICIT_OPEN;
		active += got == BDEV_ZONE_IMPLICIT_OPEN || got == BDEV_ZONE_CLOSED;
	}
	assert_int_equal(atomic_load(&zs.open), open);
	assert_int_equal(atomic_load(&zs.active), active);
	zones_release(&zs);
}

/* ---- The bdev ---- */

#define CAPACITY 100 /* of 128 */
#define ZONE 128
#define BASE_BLOCKS (20 * ZONE + 77)

struct stage {
	struct env env;
	struct scripted_bdev base;
	const struct zone_block_bdev_options *options;
	int rc;
	struct err err;
	struct bdev *bdev;
	atomic_bool gone;
};

static void
create_on_app(void *arg)
{
	struct stage *s = arg;

	s->err = ERR_NONE;
	s->rc = bdev_zone_block_create(s->options, &s->bdev, &s->err);
}

static void
gone(void *ctx, int status)
{
	struct stage *s = ctx;

	atomic_store(&s->gone, status == 0);
}

static void
delete_on_app(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_zone_block_delete("Zone0", gone, s, &s->err);
}

static void
add_base(void *arg)
{
	struct stage *s = arg;

	EXPECT(scripted_bdev_add(&s->base, NULL) == 0);
}

static void
remove_base(void *arg)
{
	struct stage *s = arg;

	scripted_bdev_remove(&s->base, NULL, NULL);
}

static const struct zone_block_bdev_options ordinary = {.name = "Zone0",
							.base_name = "base0",
							.zone_capacity = CAPACITY,
							.optimal_open_zones = 4,
							.max_open_zones = 3,
							.max_active_zones = 5};

static void
open_stage(struct stage *s, enum reactor_mode mode, bool real_threads, uint32_t md)
{
	memset(s, 0, sizeof(*s));
	env_start(&s->env, mode, real_threads);
	scripted_bdev_init(&s->base, "base0", BASE_BLOCKS, 512);
	s->base.bdev.md_bytes = md;
	s->base.bdev.dif_type = md != 0;
	s->base.bdev.dif_check_flags = md != 0 ? 0x5 : 0;
	env_call(&s->env, s->env.app, add_base, s);
	s->options = &ordinary;
	env_call(&s->env, s->env.app, create_on_app, s);
	EXPECT_SAY(s->rc == 0, "%s", err_text(&s->err));
	EXPECT(env_open(&s->env, "Zone0", true) == 0);
}

static void
close_stage(struct stage *s)
{
	env_close(&s->env);
	env_call(&s->env, s->env.app, delete_on_app, s);
	env_wait(&s->env, &s->gone);
	env_call(&s->env, s->env.app, remove_base, s);
	env_wait(&s->env, &s->base.destructed);
	scripted_bdev_release(&s->base);
	env_stop(&s->env);
}

static int
manage(struct stage *s, unsigned worker, uint64_t lba, enum bdev_zone_action action)
{
	struct env_io io = {.op = BDEV_ZONE_MANAGE, .lba = lba, .zone_action = action};

	env_submit(&s->env.workers[worker], &io);
	return env_finish(&io);
}

static void
expect_report(struct stage *s, uint64_t lba, enum bdev_zone_state state, uint64_t wp)
{
	struct bdev_zone zone;
	struct env_io io = {
		.op = BDEV_ZONE_REPORT, .lba = lba, .zones = &zone, .max_results = 1};

	env_submit(&s->env.workers[0], &io);
	EXPECT(env_finish(&io) == 0 && io.result == 1);
	EXPECT(zone.lba == lba / ZONE * ZONE && zone.capacity_blocks == CAPACITY);
	EXPECT_SAY(zone.state == state && zone.write_pointer == wp, "%d %llu", zone.state,
		   (unsigned long long)zone.write_pointer);
}

static int
rw(struct stage *s, enum bdev_op op, uint64_t lba, uint64_t n, int byte)
{
	uint8_t p[160 * 512];

	memset(p, byte, n * 512);
	return env_rw(&s->env.workers[0], op, lba, n, p);
}

static void
expect_byte(struct stage *s, uint64_t lba, uint64_t n, int byte)
{
	uint8_t p[160 * 512];

	EXPECT(env_rw(&s->env.workers[1], BDEV_READ, lba, n, p) == 0);
	for (size_t i = 0; i < n * 512; i++) {
		EXPECT_SAY(p[i] == byte, "%zu: %d", i, p[i]);
	}
}

static void
follows_the_rules(struct stage *s)
{
	struct bdev_zone zones[32];
	struct env_io all = {
		.op = BDEV_ZONE_REPORT, .lba = ZONE, .zones = zones, .max_results = 32};
	struct bdev_zones z;

	bdev_zones(s->env.bdev, &z);
	EXPECT(z.zone_blocks == ZONE && z.max_open == 3 && z.max_active == 5 &&
	       z.optimal_open == 4);
	EXPECT(bdev_num_blocks(s->env.bdev) == 20 * ZONE);
	env_submit(&s->env.workers[1], &all);
	EXPECT(env_finish(&all) == 0 && all.result == 19);
	EXPECT(zones[18].lba == 19 * ZONE && zones[18].state == BDEV_ZONE_FULL);

	EXPECT(rw(s, BDEV_WRITE, 0, 1, 1) == -ENOSPC);
	EXPECT(manage(s, 0, ZONE, BDEV_ZONE_DO_RESET) == 0);
	EXPECT(manage(s, 0, ZONE + 1, BDEV_ZONE_DO_RESET) == -EINVAL);
	EXPECT(manage(s, 0, 20 * ZONE, BDEV_ZONE_DO_RESET) == -EINVAL);
	EXPECT(manage(s, 0, ZONE, (enum bdev_zone_action)9) == -EINVAL);
	expect_report(s, ZONE, BDEV_ZONE_EMPTY, ZONE);
	EXPECT(rw(s, BDEV_WRITE, ZONE + 1, 1, 1) == -ESPIPE);
	EXPECT(rw(s, BDEV_WRITE, ZONE, 30, 1) == 0);
	EXPECT(rw(s, BDEV_WRITE, ZONE + 30, 30, 2) == 0);
	EXPECT(rw(s, BDEV_WRITE, ZONE, 30, 3) == -ESPIPE);
	expect_report(s, ZONE + 77, BDEV_ZONE_IMPLICIT_OPEN, ZONE + 60);
	expect_byte(s, ZONE, 30, 1);
	expect_byte(s, ZONE + 30, 30, 2);
	EXPECT(rw(s, BDEV_WRITE_ZEROES, ZONE + 60, 10, 0) == 0);
	expect_byte(s, ZONE + 60, 10, 0);
	EXPECT(rw(s, BDEV_WRITE, ZONE + 70, 31, 4) == -ENOSPC);
	EXPECT(rw(s, BDEV_WRITE, ZONE + 70, 59, 4) == -EINVAL);
	EXPECT(rw(s, BDEV_WRITE, ZONE + 70, 30, 4) == 0);
	expect_report(s, ZONE, BDEV_ZONE_FULL, ZONE + CAPACITY);
	expect_byte(s, ZONE + 70, 30, 4);
	/* Behind the capacity there is nothing; nor across zones. */
	EXPECT(rw(s, BDEV_READ, ZONE + 70, 31, 0) == -EINVAL);
	EXPECT(rw(s, BDEV_READ, 2 * ZONE - 1, 2, 0) == -EINVAL);
	EXPECT(rw(s, BDEV_UNMAP, ZONE, 1, 0) == -EOPNOTSUPP);
	EXPECT(!bdev_supports(s->env.bdev, BDEV_COPY));
	EXPECT(env_rw(&s->env.workers[0], BDEV_FLUSH, 0, 0, NULL) == 0);
	EXPECT(env_rw(&s->env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	/* After a reset it reads as what the base made of it. */
	EXPECT(manage(s, 1, ZONE, BDEV_ZONE_DO_RESET) == 0);
	expect_byte(s, ZONE, CAPACITY, 0);
}

/* From two threads at once, each block at a place of its own. */
static void
appends(struct stage *s)
{
	static uint8_t p[80][512];
	struct env_io io[80];
	struct iovec iov[80];
	uint8_t seen[CAPACITY] = {0}, got[512];
	unsigned done = 0, full = 0;

	EXPECT(manage(s, 0, 3 * ZONE, BDEV_ZONE_DO_RESET) == 0);
	for (unsigned i = 0; i < 80; i++) {
		memset(p[i], (int)i + 1, sizeof(p[i]));
		iov[i] = (struct iovec){p[i], 512};
		io[i] = (struct env_io){.op = BDEV_ZONE_APPEND,
					.lba = 3 * ZONE,
					.num_blocks = 1,
					.iov = &iov[i],
					.iovcnt = 1};
		env_submit(&s->env.workers[i % 2], &io[i]);
	}
	for (unsigned i = 0; i < 80; i++) {
		EXPECT(env_finish(&io[i]) == 0);
		EXPECT(io[i].result >= 3 * ZONE && io[i].result < 3 * ZONE + 80);
		EXPECT(seen[io[i].result - 3 * ZONE]++ == 0);
		EXPECT(env_rw(&s->env.workers[0], BDEV_READ, io[i].result, 1, got) == 0);
		EXPECT(memcmp(got, p[i], 512) == 0);
	}
	/* 20 are left; more than fit are refused whole. */
	for (unsigned i = 0; i < 15; i++) {
		struct iovec two = {p[0], 1024};
		struct env_io more = {.op = BDEV_ZONE_APPEND,
				      .lba = 3 * ZONE,
				      .num_blocks = 2,
				      .iov = &two,
				      .iovcnt = 1};
		int rc;

		env_submit(&s->env.workers[i % 2], &more);
		rc = env_finish(&more);
		EXPECT(rc == 0 || rc == -ENOSPC);
		done += rc == 0;
		full += rc == -ENOSPC;
	}
	EXPECT(done == 10 && full == 5);
	EXPECT(rw(s, BDEV_ZONE_APPEND, 3 * ZONE + 1, 1, 1) == -EINVAL);
}

/* What is written after a reset stays, even if the base is slow to unmap. */
static void
resets_in_order(struct stage *s)
{
	struct env_io reset = {
		.op = BDEV_ZONE_MANAGE, .lba = 5 * ZONE, .zone_action = BDEV_ZONE_DO_RESET};
	uint8_t p[512];
	struct iovec iov = {p, 512};
	struct env_io append = {.op = BDEV_ZONE_APPEND,
				.lba = 5 * ZONE,
				.num_blocks = 1,
				.iov = &iov,
				.iovcnt = 1};

	memset(p, 9, sizeof(p));
	atomic_store(&s->base.hold, true);
	env_submit(&s->env.workers[0], &reset);
	env_linger(&s->env, 2);
	env_submit(&s->env.workers[1], &append);
	env_linger(&s->env, 2);
	EXPECT(!atomic_load(&append.done) && !atomic_load(&reset.done));
	atomic_store(&s->base.hold, false);
	/* A request of each channel has the base look again. */
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		EXPECT(env_rw(&s->env.workers[i], BDEV_READ, 0, 1, (uint8_t[512]){0}) == 0);
	}
	EXPECT(env_finish(&reset) == 0);
	EXPECT(env_finish(&append) == 0 && append.result == 5 * ZONE);
	expect_byte(s, 5 * ZONE, 1, 9);
}

static void
works(void **state)
{
	for (int i = 0; i < 6; i++) {
		struct stage s;

		open_stage(&s, (enum reactor_mode)(i / 2), i % 2 != 0, i == 4 ? 8 : 0);
		follows_the_rules(&s);
		appends(&s);
		resets_in_order(&s);
		close_stage(&s);
	}
}

/* Whole zones in parts, refused now and then, completed in any order: the write pointer goes on. */
static void
under_load(void **state)
{
	struct stage s;

	open_stage(&s, REACTOR_ADAPTIVE, true, 8);
	atomic_store(&s.base.refuse_every, 3);
	atomic_store(&s.base.shuffle, true);
	for (uint64_t zone = 0; zone < 20; zone++) {
		EXPECT(manage(&s, zone % 2, zone * ZONE, BDEV_ZONE_DO_RESET) == 0);
		EXPECT(rw(&s, BDEV_WRITE, zone * ZONE, 90, (int)zone + 1) == 0);
		EXPECT(rw(&s, BDEV_ZONE_APPEND, zone * ZONE, 10, (int)zone + 1) == 0);
		expect_report(&s, zone * ZONE, BDEV_ZONE_FULL, zone * ZONE + CAPACITY);
	}
	for (uint64_t zone = 0; zone < 20; zone++) {
		expect_byte(&s, zone * ZONE, CAPACITY, (int)zone + 1);
	}
	close_stage(&s);
}

static void
base_write_fails(void **state)
{
	struct stage s;

	open_stage(&s, REACTOR_POLL, false, 0);
	EXPECT(manage(&s, 0, 0, BDEV_ZONE_DO_RESET) == 0);
	atomic_store(&s.base.fail_with, -EIO);
	EXPECT(rw(&s, BDEV_WRITE, 0, 5, 1) == -EIO);
	expect_report(&s, 0, BDEV_ZONE_IMPLICIT_OPEN, 5);
	EXPECT(manage(&s, 0, 0, BDEV_ZONE_DO_RESET) == -EIO);
	expect_report(&s, 0, BDEV_ZONE_IMPLICIT_OPEN, 5);
	atomic_store(&s.base.fail_with, 0);
	EXPECT(rw(&s, BDEV_WRITE, 5, 5, 1) == 0);
	EXPECT(manage(&s, 0, 0, BDEV_ZONE_DO_RESET) == 0);
	close_stage(&s);
}

static void
wrong_options(void **state)
{
	static const struct {
		struct zone_block_bdev_options o;
		int rc;
	} bad[] = {
		{{"Zone1", "base0", 0, 1, 0, 0}, -EINVAL},
		{{"Zone1", "base0", UINT64_C(1) << 50, 1, 0, 0}, -EINVAL},
		{{"Zone1", "base0", 64, 0, 0, 0}, -EINVAL},
		{{"Zone1", "base0", 64, 1, 4, 3}, -EINVAL},
		{{"Zone1", "base0", 64, 1, 0, 3}, -EINVAL},
		{{"Zone1", "Zone0", 64, 1, 0, 0}, -EEXIST},
		{{"Zone0", "base0", 64, 1, 0, 0}, -EEXIST},
		{{"Zone1", "base0", 64, 1, 0, 0}, -EPERM},
	};
	static const struct zone_block_bdev_options big = {"Zone0", "base0", 1 << 20, 1, 0, 0};
	struct stage s;

	open_stage(&s, REACTOR_INTERRUPT, false, 0);
	env_close(&s.env);
	EXPECT(env_open(&s.env, "Zone0", false) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		s.options = &bad[i].o;
		env_call(&s.env, s.env.app, create_on_app, &s);
		EXPECT_SAY(s.rc == bad[i].rc && s.err.text[0] != '\0', "%zu: %d %s", i, s.rc,
			   s.err.text);
	}
	close_stage(&s);

	/* No whole zone; and a base that is not there yet. */
	memset(&s, 0, sizeof(s));
	env_start(&s.env, REACTOR_INTERRUPT, false);
	s.options = &big;
	env_call(&s.env, s.env.app, create_on_app, &s);
	EXPECT(s.rc == 0 && s.bdev == NULL);
	env_call(&s.env, s.env.app, delete_on_app, &s);
	env_wait(&s.env, &s.gone);
	env_call(&s.env, s.env.app, delete_on_app, &s);
	EXPECT(s.rc == -ENODEV);
	scripted_bdev_init(&s.base, "base0", BASE_BLOCKS, 512);
	env_call(&s.env, s.env.app, add_base, &s);
	env_call(&s.env, s.env.app, create_on_app, &s);
	EXPECT_SAY(s.rc == -EINVAL && strstr(s.err.text, "zones") != NULL, "%d %s", s.rc,
		   s.err.text);
	env_call(&s.env, s.env.app, remove_base, &s);
	env_wait(&s.env, &s.base.destructed);
	scripted_bdev_release(&s.base);
	env_stop(&s.env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_zone),
		cmocka_unit_test(limits),
		cmocka_unit_test(threads),
		cmocka_unit_test(works),
		cmocka_unit_test(under_load),
		cmocka_unit_test(base_write_fails),
		cmocka_unit_test(wrong_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
