/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks that never answer: what is asked of an array on them ends by abort, reset, and removal, of the array or of the disk,
 * whether it was passed down, has a child, or waits; and no mirror is lost, nor left to differ.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "bdevs/raid/harness.h"

#define DISK_BLOCKS 6144u /* 3 MiB */
#define DATA 2048u        /* where data begin */
#define DATA_BLOCKS (DISK_BLOCKS - DATA)
#define STRIP 8u /* blocks */
#define DISKS 3
#define PENDING 12
#define MANY 40 /* more than a channel has stripes for */

struct kind {
	enum raid_level level;
	uint32_t strip_kb;
	bool superblock;
};

static const struct kind plain[] = {{RAID_LEVEL_0, 4, false}, {RAID_LEVEL_0, 4, true}, {RAID_LEVEL_CONCAT, 4, true}};
static const struct kind redundant[] = {{RAID_LEVEL_1, 0, true}, {RAID_LEVEL_1, 0, false}, {RAID_LEVEL_5F, 4, true},
					{RAID_LEVEL_5F, 4, false}};
static const struct kind all[] = {{RAID_LEVEL_0, 4, true},
				  {RAID_LEVEL_CONCAT, 4, false},
				  {RAID_LEVEL_1, 0, true},
				  {RAID_LEVEL_1, 0, false},
				  {RAID_LEVEL_5F, 4, true},
				  {RAID_LEVEL_5F, 4, false}};

static enum reactor_mode mode;
static bool real_threads;
static struct stage s;
static struct env_io pending[MANY];
static struct iovec iovs[MANY];
static uint8_t data[MANY][2 * STRIP * BS];

static void
begin(const struct kind *kind)
{
	static const struct raid_settings quick = {.window_kb = 64, .patience_sec = 1};

	stage_start(&s, mode, real_threads, DISKS + 1, DISK_BLOCKS);
	stage_settings(&s, &quick);
	for (unsigned i = 0; i < DISKS; i++) {
		disk_add(&s, i);
	}
	EXPECT(array_create(&s, "R", kind->level, kind->strip_kb, DISKS, kind->superblock) == 0);
	EXPECT(env_open(&s.env, "R", true) == 0);
	memset(data, 0x35, sizeof(data));
}

static void
silence(unsigned first, unsigned count, bool silent)
{
	for (unsigned i = first; i < first + count; i++) {
		atomic_store(&s.disks[i].silent, silent);
	}
}

/* The i-th of those that are pending. */
static void
start_on(unsigned worker, unsigned i, enum bdev_op op, uint64_t lba, uint64_t num_blocks)
{
	iovs[i] = (struct iovec){data[i], num_blocks * BS};
	pending[i] = (struct env_io){.op = op, .lba = lba, .num_blocks = num_blocks, .iov = &iovs[i], .iovcnt = 1};
	env_submit(&s.env.workers[worker], &pending[i]);
}

/* On one worker or the other. */
static void
start(unsigned i, enum bdev_op op, uint64_t lba, uint64_t num_blocks)
{
	start_on(i % ENV_WORKERS, i, op, lba, num_blocks);
}

static int
rw(enum bdev_op op, uint64_t lba, uint64_t num_blocks)
{
	return env_rw(&s.env.workers[0], op, lba, num_blocks, data[0]);
}

static int
reset(void)
{
	struct env_io io = {.op = BDEV_RESET};

	env_submit(&s.env.workers[1], &io);
	return env_finish(&io);
}

static int
abort_one(unsigned i)
{
	struct env_io io = {.op = BDEV_ABORT, .target = &pending[i]};

	env_submit(pending[i].worker, &io);
	return env_finish(&io);
}

static void
expect_all_members(void)
{
	struct raid_info info;

	EXPECT(array_info(&s, "R", &info));
	EXPECT_SAY(info.state == RAID_ONLINE && info.discovered == DISKS, "%u members", info.discovered);
}

/* Whether it may have been begun, and cancelled, or had come to its end by itself. */
static void
expect_ended(struct env_io *io)
{
	int status = env_finish(io);

	EXPECT_SAY(status == 0 || status == -ECANCELED || status == -ENODEV || status == -EIO, "%d", status);
}

/* ---- What is passed down ---- */

/* The block of the array that is the first of disk `disk`. */
static uint64_t
first_of(const struct kind *kind, unsigned disk)
{
	uint64_t blocks = kind->superblock ? DATA_BLOCKS : DISK_BLOCKS;

	return kind->level == RAID_LEVEL_0 ? disk * STRIP : disk * blocks;
}

static unsigned
passed(void)
{
	unsigned n = 0;

	for (unsigned i = 0; i < DISKS; i++) {
		n += atomic_load(&s.disks[i].passed);
	}
	return n;
}

static void
begin_passed(const struct kind *kind)
{
	begin(kind);
	silence(1, 1, true);
	for (unsigned i = 0; i < PENDING; i++) {
		start(i, i % 3 == 0 ? BDEV_READ : BDEV_WRITE, first_of(kind, 1) + i % STRIP, 1);
	}
	env_linger(&s.env, 3);
	EXPECT_SAY(passed() == PENDING, "%u were passed down", passed());
}

static void
books_of_both_levels(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(plain); k++) {
		struct bdev_stats before, stats;

		begin(&plain[k]);
		env_stats(&s.env, &before); /* it was examined */
		for (unsigned i = 0; i < PENDING; i++) {
			const uint8_t *there = s.disks[i % DISKS].data + (plain[k].superblock ? (size_t)DATA * BS : 0);

			memset(data[0], (int)i + 1, sizeof(data[0]));
			EXPECT(rw(BDEV_WRITE, first_of(&plain[k], i % DISKS), STRIP) == 0);
			EXPECT(memcmp(there, data[0], STRIP * BS) == 0);
			EXPECT(rw(BDEV_READ, first_of(&plain[k], i % DISKS), 2) == 0);
		}
		EXPECT(passed() == 2 * PENDING);
		EXPECT(rw(BDEV_WRITE, first_of(&plain[k], 1) - 1, 2) == 0); /* lies on two: parts */
		EXPECT(passed() == 2 * PENDING);
		env_stats(&s.env, &stats);
		EXPECT(stats.op[BDEV_READ].ops - before.op[BDEV_READ].ops == PENDING &&
		       stats.op[BDEV_READ].bytes - before.op[BDEV_READ].bytes == PENDING * 2 * BS);
		EXPECT(stats.op[BDEV_WRITE].ops == PENDING + 1 &&
		       stats.op[BDEV_WRITE].bytes == (PENDING * STRIP + 2) * BS);
		stage_stop(&s);
	}
}

static void
passed_is_aborted(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(plain); k++) {
		begin_passed(&plain[k]);
		for (unsigned i = 0; i < PENDING; i++) {
			EXPECT(abort_one(i) == 0);
			EXPECT(env_finish(&pending[i]) == -ECANCELED);
		}
		silence(1, 1, false);
		EXPECT(rw(BDEV_READ, first_of(&plain[k], 1), 1) == 0);
		stage_stop(&s);
	}
}

static void
passed_is_reset(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(plain); k++) {
		begin_passed(&plain[k]);
		EXPECT(reset() == 0);
		for (unsigned i = 0; i < PENDING; i++) {
			EXPECT(atomic_load(&pending[i].done));
			EXPECT(env_finish(&pending[i]) == -ECANCELED);
		}
		silence(1, 1, false);
		EXPECT(rw(BDEV_READ, first_of(&plain[k], 1), 1) == 0);
		stage_stop(&s);
	}
}

/* The base goes, with them the array; when it is there again, so is the array. */
static void
base_of_passed_goes(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(plain); k++) {
		begin_passed(&plain[k]);
		disk_pull_start(&s, 1);
		for (unsigned i = 0; i < PENDING; i++) {
			expect_ended(&pending[i]);
		}
		env_wait_count(&s.env, &s.env.removes, 1);
		EXPECT(rw(BDEV_READ, first_of(&plain[k], 0), 1) == -ENODEV);
		EXPECT(atomic_load(&s.disks[1].present)); /* open, as long as the array's channels are */
		env_close(&s.env);
		array_wait_state(&s, "R", RAID_OFFLINE);
		disk_pull(&s, 1);
		silence(1, 1, false);
		disk_add(&s, 1);
		array_wait_state(&s, "R", RAID_ONLINE);
		EXPECT(env_open(&s.env, "R", true) == 0);
		EXPECT(rw(BDEV_READ, first_of(&plain[k], 1), 1) == 0);
		stage_stop(&s);
	}
}

/* They are under way when the base goes, and come back by themselves, later than everything else. */
static void
base_waits_for_passed(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(plain); k++) {
		begin(&plain[k]);
		atomic_store(&s.disks[1].hold, true);
		for (unsigned i = 0; i < PENDING; i++) {
			start(i, BDEV_WRITE, first_of(&plain[k], 1) + i % STRIP, 1);
		}
		env_linger(&s.env, 3);
		disk_pull_start(&s, 1);
		env_wait_count(&s.env, &s.env.removes, 1);
		env_linger(&s.env, 5);
		EXPECT(atomic_load(&s.disks[1].present) && !atomic_load(&pending[0].done));
		atomic_store(&s.disks[1].hold, false);
		for (unsigned i = 0; i < PENDING; i++) {
			EXPECT(env_finish(&pending[i]) == 0);
		}
		stage_stop(&s);
	}
}

/* ---- Resets ---- */

static void
reset_ends_all(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(all); k++) {
		begin(&all[k]);
		EXPECT(rw(BDEV_WRITE, 0, STRIP) == 0);
		silence(0, DISKS, true);
		for (unsigned i = 0; i < PENDING; i++) {
			static const enum bdev_op ops[] = {BDEV_READ, BDEV_WRITE, BDEV_FLUSH, BDEV_WRITE_ZEROES};

			start(i, ops[i % 4], i * STRIP, i % 3 == 0 ? 2 * STRIP : 1);
		}
		env_linger(&s.env, 3);
		EXPECT(reset() == 0);
		for (unsigned i = 0; i < PENDING; i++) {
			EXPECT(env_finish(&pending[i]) == -ECANCELED);
		}
		silence(0, DISKS, false);
		EXPECT(rw(BDEV_WRITE, 0, STRIP) == 0 && rw(BDEV_READ, 0, STRIP) == 0);
		expect_all_members();
		stage_stop(&s);
	}
}

/* One of them is silent: it missed writes, stays a member, and is made like the others again. */
static void
reset_keeps_members(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(redundant); k++) {
		uint64_t offset = redundant[k].superblock ? DATA : 0;

		begin(&redundant[k]);
		EXPECT(rw(BDEV_WRITE, 0, STRIP) == 0);
		silence(1, 1, true);
		for (unsigned i = 0; i < PENDING; i++) {
			memset(data[i], (int)i + 1, sizeof(data[i]));
			start(i, BDEV_WRITE, i * 2 * STRIP, 2 * STRIP);
		}
		env_linger(&s.env, 3);
		EXPECT(reset() == 0);
		for (unsigned i = 0; i < PENDING; i++) {
			EXPECT(env_finish(&pending[i]) == -ECANCELED);
		}
		EXPECT(atomic_load(&s.disks[1].cancelled) > 0);
		silence(1, 1, false);
		env_linger(&s.env, 5);
		stage_wait_jobs(&s);
		expect_all_members();
		if (redundant[k].level == RAID_LEVEL_1) {
			expect_mirrors(&s, 0, DISKS, offset, DISK_BLOCKS - offset);
		} else {
			expect_parity(&s, DISKS, offset, DISK_BLOCKS - offset);
		}
		stage_stop(&s);
	}
}

/* A write waits until superblocks say that there are some; one of these is silent. */
static void
superblock_is_tried_again(void **state)
{
	static const struct kind kinds[] = {{RAID_LEVEL_1, 0, true}, {RAID_LEVEL_5F, 4, true}};

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		begin(&kinds[k]);
		silence(1, 1, true);
		start(0, BDEV_WRITE, 0, 1);
		env_linger(&s.env, 3);
		EXPECT(!atomic_load(&pending[0].done));
		EXPECT(reset() == 0);
		EXPECT(env_finish(&pending[0]) == -ECANCELED);
		silence(1, 1, false);
		EXPECT(rw(BDEV_WRITE, 0, 1) == 0);
		expect_all_members();
		stage_stop(&s);
	}
}

/* The array's own requests, superblocks and a rebuild's, end with the guests', and are tried again. */
static void
rebuild_outlives_reset(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(redundant); k++) {
		uint64_t offset = redundant[k].superblock ? DATA : 0;

		begin(&redundant[k]);
		for (unsigned i = 0; i < PENDING; i++) {
			memset(data[0], (int)i + 1, sizeof(data[0]));
			EXPECT(rw(BDEV_WRITE, i * 2 * STRIP, 2 * STRIP) == 0);
		}
		disk_pull(&s, 0);
		disk_add(&s, 3);
		silence(1, 1, true); /* superblocks are written to it first, and it is read first */
		EXPECT(array_add_base(&s, "R", "d3") == 0);
		env_linger(&s.env, 5);
		EXPECT(reset() == 0);
		EXPECT(atomic_load(&s.disks[1].cancelled) > 0);
		env_linger(&s.env, 2);
		silence(1, 1, false);
		array_wait_whole(&s, "R", DISKS);
		stage_wait_jobs(&s);
		if (redundant[k].level == RAID_LEVEL_1) {
			expect_mirrors(&s, 1, DISKS, offset, DISK_BLOCKS - offset);
		} else {
			expect_all_members();
		}
		stage_stop(&s);
	}
}

/* ---- Aborts ---- */

/* Reads of one mirror, or strip; writes, of which a part was done already; what has not been begun. */
static void
aborts(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(all); k++) {
		bool raid5f = all[k].level == RAID_LEVEL_5F;
		unsigned aborted = 0;

		begin(&all[k]);
		silence(0, DISKS, true);
		start(0, BDEV_READ, 0, 1);
		start(1, BDEV_WRITE, 0, 1);
		start(2, raid5f ? BDEV_READ : BDEV_WRITE_ZEROES, 2 * STRIP, 2 * STRIP);
		env_linger(&s.env, 3);
		for (unsigned i = 0; i < 3; i++) {
			/* The core's copy of it is written; or it holds its stripe. */
			if (i == 1 && (all[k].level == RAID_LEVEL_1 || (raid5f && !all[k].superblock))) {
				EXPECT(abort_one(i) == -ENOENT);
				continue;
			}
			EXPECT_SAY(abort_one(i) == 0, "request %u of kind %u", i, k);
			EXPECT(env_finish(&pending[i]) == -ECANCELED);
			aborted++;
		}
		silence(0, DISKS, false);
		if (aborted < 3) {
			EXPECT(env_finish(&pending[1]) == 0);
		}
		env_linger(&s.env, 3);
		stage_wait_jobs(&s);
		expect_all_members();
		EXPECT(rw(BDEV_WRITE, 0, STRIP) == 0);
		stage_stop(&s);
	}
}

/* What has come back already is not aborted. */
static void
part_is_aborted(void **state)
{
	static const struct kind kinds[] = {{RAID_LEVEL_0, 4, false}, {RAID_LEVEL_1, 0, false}};

	for (unsigned k = 0; k < ARRAY_SIZE(kinds); k++) {
		begin(&kinds[k]);
		silence(1, 1, true);
		start(0, BDEV_WRITE_ZEROES, 0, 2 * STRIP);
		env_linger(&s.env, 3);
		EXPECT(abort_one(0) == 0 && env_finish(&pending[0]) == -ECANCELED);
		EXPECT(atomic_load(&s.disks[0].aborts) == 0 && atomic_load(&s.disks[1].aborts) == 1);
		silence(1, 1, false);
		stage_stop(&s);
	}
}

/* The last of them has no stripe yet. */
static void
waiting_is_aborted(void **state)
{
	static const struct kind kind = {RAID_LEVEL_5F, 4, false};

	begin(&kind);
	silence(0, DISKS, true);
	for (unsigned i = 0; i < MANY; i++) { /* each another stripe */
		start_on(0, i, BDEV_WRITE, i * 2 * STRIP, 1);
	}
	env_linger(&s.env, 3);
	EXPECT(abort_one(0) == -ENOENT);
	EXPECT(abort_one(MANY - 1) == 0 && env_finish(&pending[MANY - 1]) == -ECANCELED);
	EXPECT(reset() == 0);
	for (unsigned i = 0; i < MANY - 1; i++) {
		EXPECT(env_finish(&pending[i]) == -ECANCELED);
	}
	silence(0, DISKS, false);
	stage_stop(&s);
}

/* ---- Removal ---- */

static atomic_bool gone;

static void
set_gone(void *ctx, int status)
{
	atomic_store(&gone, true);
}

static void
start_delete(void *arg)
{
	EXPECT(raid_delete("R", false, set_gone, NULL, NULL) == 0);
}

/* With requests under way, and a superblock that says so: they end, and the array, though its last words reach nobody. */
static void
array_goes(void **state)
{
	for (unsigned k = 0; k < ARRAY_SIZE(all); k++) {
		uint64_t start_ns;

		if (all[k].superblock && mode == REACTOR_POLL) { /* takes a second */
			continue;
		}
		begin(&all[k]);
		EXPECT(rw(BDEV_WRITE, 0, STRIP) == 0);
		silence(0, DISKS, true);
		for (unsigned i = 0; i < PENDING; i++) {
			start(i, i % 2 == 0 ? BDEV_READ : BDEV_WRITE, i / 4 * STRIP, STRIP); /* some wait for a stripe */
		}
		env_linger(&s.env, 3);
		start_ns = clock_now_ns();
		atomic_store(&gone, false);
		env_call(&s.env, s.env.app, start_delete, NULL);
		for (unsigned i = 0; i < PENDING; i++) {
			expect_ended(&pending[i]);
		}
		env_close(&s.env);
		env_wait(&s.env, &gone);
		EXPECT(clock_now_ns() - start_ns < ENV_TIMEOUT_NS / 4);
		silence(0, DISKS, false);
		stage_stop(&s);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(books_of_both_levels),
		cmocka_unit_test(passed_is_aborted),
		cmocka_unit_test(passed_is_reset),
		cmocka_unit_test(base_of_passed_goes),
		cmocka_unit_test(base_waits_for_passed),
		cmocka_unit_test(reset_ends_all),
		cmocka_unit_test(reset_keeps_members),
		cmocka_unit_test(superblock_is_tried_again),
		cmocka_unit_test(rebuild_outlives_reset),
		cmocka_unit_test(aborts),
		cmocka_unit_test(part_is_aborted),
		cmocka_unit_test(waiting_is_aborted),
		cmocka_unit_test(array_goes),
	};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		real_threads = mode == REACTOR_ADAPTIVE;
		failures += cmocka_run_group_tests_name(reactor_mode_name(mode), tests, NULL, NULL);
	}
	return failures;
}
