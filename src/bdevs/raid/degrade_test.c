/* SPDX-License-Identifier: BSD-3-Clause */
/* Bases that fail, vanish, are taken out and come back, under load; what is left on the disks. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdevs/raid/harness.h"
#include "testkit/bdev_load.h"

#define DISK_BLOCKS 6144u /* 3 MiB */
#define DATA 2048u        /* where data begin */
#define DATA_BLOCKS (DISK_BLOCKS - DATA)

static const struct raid_settings quick = {.window_kb = 64, .patience_sec = 1};

static void
start_loads(struct stage *s, struct load loads[ENV_WORKERS], bool may_end)
{
	uint64_t blocks = bdev_num_blocks(s->env.bdev) - 1; /* the last is somebody else's */

	memset(loads, 0, ENV_WORKERS * sizeof(*loads));
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		loads[i].worker = &s->env.workers[i];
		loads[i].first_block = i * (blocks / ENV_WORKERS);
		loads[i].num_blocks = blocks / ENV_WORKERS;
		loads[i].depth = 6;
		loads[i].count = UINT64_MAX;
		loads[i].seed = 11 + i;
		loads[i].removal_ok = loads[i].io_error_ok = may_end;
		load_start(&loads[i]);
	}
}

static void
go_on(struct stage *s, struct load loads[ENV_WORKERS], unsigned requests)
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		env_wait_count(&s->env, &loads[i].completed,
			       atomic_load(&loads[i].completed) + requests);
	}
}

static void
finish_loads(struct load loads[ENV_WORKERS])
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		atomic_store(&loads[i].stop, true);
	}
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		load_finish(&loads[i]);
	}
}

static void
begin(struct stage *s, enum reactor_mode mode, bool real_threads, unsigned disks)
{
	stage_start(s, mode, real_threads, disks, DISK_BLOCKS);
	stage_settings(s, &quick);
	for (unsigned i = 0; i < disks; i++) {
		disk_add(s, i);
	}
}

/* ---- Pulled and replaced under load ---- */

static void
pull_and_replace(enum reactor_mode mode, bool real_threads, enum raid_level level, bool superblock)
{
	unsigned n = level == RAID_LEVEL_1 ? 2 : 3;
	uint64_t offset = superblock ? DATA : 0;
	struct load loads[ENV_WORKERS];
	struct raid_info info;
	struct stage s;

	begin(&s, mode, real_threads, n + 1);
	EXPECT(array_create(&s, "R", level, level == RAID_LEVEL_1 ? 0 : 16, n, superblock) == 0);
	EXPECT(env_open(&s.env, "R", true) == 0);
	start_loads(&s, loads, false);
	go_on(&s, loads, 100);
	for (unsigned round = 0; round < 2; round++) {
		unsigned out = round % n;
		char name[8];

		disk_pull(&s, out);
		go_on(&s, loads, 100);
		EXPECT(array_info(&s, "R", &info) && info.state == RAID_ONLINE);
		EXPECT_SAY(info.discovered == n - 1 && info.bases[out].name == NULL, "%u",
			   info.discovered);
		memset(s.disks[out].data, 0x77, (size_t)DISK_BLOCKS * BS);
		disk_add(&s, out);
		snprintf(name, sizeof(name), "d%u", out);
		if (!superblock || round > 0) {
			EXPECT_SAY(array_add_base(&s, "R", name) == 0, "%s", s.err.text);
		} else {
			/* Its superblock is gone: nobody takes it back by itself. */
			env_linger(&s.env, 20);
			EXPECT(array_info(&s, "R", &info) && info.discovered == n - 1);
			EXPECT(array_add_base(&s, "R", name) == 0);
		}
		array_wait_whole(&s, "R", n);
		go_on(&s, loads, 100);
	}
	finish_loads(loads);
	stage_wait_jobs(&s);
	if (level == RAID_LEVEL_1) {
		expect_mirrors(&s, 0, n, offset, DISK_BLOCKS - offset);
	} else {
		expect_parity(&s, n, offset, (DISK_BLOCKS - offset) / 32 * 32);
	}
	stage_stop(&s);
}

static void
bases_are_replaced_under_load(void **state)
{
	pull_and_replace(REACTOR_ADAPTIVE, true, RAID_LEVEL_1, true);
	pull_and_replace(REACTOR_POLL, false, RAID_LEVEL_1, false);
	pull_and_replace(REACTOR_INTERRUPT, true, RAID_LEVEL_5F, true);
	pull_and_replace(REACTOR_ADAPTIVE, false, RAID_LEVEL_5F, true);
	pull_and_replace(REACTOR_POLL, true, RAID_LEVEL_5F, false);
}

/* ---- A base that comes back is taken back ---- */

static void
comes_back(void **state)
{
	struct load loads[ENV_WORKERS];
	struct stage s;

	begin(&s, REACTOR_ADAPTIVE, true, 3);
	EXPECT(array_create(&s, "R", RAID_LEVEL_5F, 4, 3, true) == 0);
	EXPECT(env_open(&s.env, "R", true) == 0);
	start_loads(&s, loads, false);
	go_on(&s, loads, 100);
	disk_pull(&s, 1);
	go_on(&s, loads, 300);
	disk_add(&s, 1);
	array_wait_rebuilding(&s, "R");
	array_wait_whole(&s, "R", 3);
	go_on(&s, loads, 100);
	/* Taken out on request it stays out. */
	EXPECT(array_remove_base(&s, "d2") == 0);
	EXPECT(array_remove_base(&s, "d2") == -ENODEV);
	disk_pull(&s, 2);
	disk_add(&s, 2);
	env_linger(&s.env, 30);
	struct raid_info info;

	EXPECT(array_info(&s, "R", &info) && info.discovered == 2 && !info.rebuilding);
	EXPECT(array_add_base(&s, "R", "nothing") == -ENODEV);
	EXPECT(array_add_base(&s, "Q", "d2") == -ENODEV);
	EXPECT(array_add_base(&s, "R", "d1") == -EPERM);
	EXPECT(array_add_base(&s, "R", "d2") == 0);
	EXPECT(array_add_base(&s, "R", "d2") != 0);
	array_wait_whole(&s, "R", 3);
	finish_loads(loads);
	expect_parity(&s, 3, DATA, DATA_BLOCKS / 8 * 8);
	stage_stop(&s);
}

/* ---- Errors ---- */

static int
rw(struct stage *s, enum bdev_op op, uint64_t lba, uint64_t n, uint8_t *buf)
{
	return env_rw(&s->env.workers[0], op, lba, n, buf);
}

static void
failing_base_leaves(void **state)
{
	static const enum raid_level levels[] = {RAID_LEVEL_1, RAID_LEVEL_5F};

	for (unsigned l = 0; l < 2; l++) {
		uint8_t block[8 * BS], got[8 * BS];
		struct raid_info info;
		struct stage s;

		begin(&s, REACTOR_INTERRUPT, l == 0, 3);
		EXPECT(array_create(&s, "R", levels[l], l == 0 ? 0 : 4, 3, true) == 0);
		EXPECT(env_open(&s.env, "R", true) == 0);
		memset(block, 0x31, sizeof(block));
		EXPECT(rw(&s, BDEV_WRITE, 0, 8, block) == 0);
		atomic_store(&s.disks[0].write_status, -EIO);
		memset(block, 0x32, sizeof(block));
		EXPECT(rw(&s, BDEV_WRITE, 0, 8, block) == 0);
		EXPECT(array_info(&s, "R", &info) && info.discovered == 2);
		EXPECT(rw(&s, BDEV_READ, 0, 8, got) == 0 && memcmp(got, block, sizeof(got)) == 0);
		/* A flush that fails is as bad as a write. */
		atomic_store(&s.disks[1].flush_status, -EIO);
		if (l == 0) {
			EXPECT(rw(&s, BDEV_FLUSH, 0, 0, NULL) == 0);
			EXPECT(array_info(&s, "R", &info) && info.discovered == 1);
			EXPECT(rw(&s, BDEV_READ, 0, 8, got) == 0 &&
			       memcmp(got, block, sizeof(got)) == 0);
		} else {
			EXPECT(rw(&s, BDEV_FLUSH, 0, 0, NULL) == -EIO);
		}
		stage_stop(&s);
	}
}

/* When nobody can write, nobody leaves; what may differ then is made alike. */
static void
errors_everywhere_are_the_requests(void **state)
{
	uint8_t block[4 * BS];
	struct raid_info info;
	struct stage s;

	begin(&s, REACTOR_ADAPTIVE, false, 2);
	EXPECT(array_create(&s, "R", RAID_LEVEL_1, 0, 2, true) == 0);
	EXPECT(env_open(&s.env, "R", true) == 0);
	memset(block, 0x41, sizeof(block));
	EXPECT(rw(&s, BDEV_WRITE, 8, 4, block) == 0);
	atomic_store(&s.disks[0].write_status, -ENOSPC);
	atomic_store(&s.disks[1].write_status, -ENOSPC);
	EXPECT(rw(&s, BDEV_WRITE, 8, 4, block) == -ENOSPC);
	EXPECT(array_info(&s, "R", &info) && info.discovered == 2);
	/* As if one half of it had been written. */
	memset(s.disks[1].data + (DATA + 9) * BS, 0x42, BS);
	atomic_store(&s.disks[0].write_status, 0);
	atomic_store(&s.disks[1].write_status, 0);
	env_linger(&s.env, 5);
	stage_wait_jobs(&s);
	expect_mirrors(&s, 0, 2, DATA, DATA_BLOCKS);
	EXPECT(s.disks[1].data[(DATA + 9) * BS] == 0x41);
	EXPECT(rw(&s, BDEV_WRITE, 8, 4, block) == 0);
	stage_stop(&s);
}

static void
bad_blocks_are_written_again(void **state)
{
	static const enum raid_level levels[] = {RAID_LEVEL_1, RAID_LEVEL_5F};

	for (unsigned l = 0; l < 2; l++) {
		uint8_t block[8 * BS], got[8 * BS];
		struct raid_info info;
		struct stage s;
		unsigned before;

		begin(&s, REACTOR_ADAPTIVE, l == 0, 3);
		EXPECT(array_create(&s, "R", levels[l], l == 0 ? 0 : 4, 3, true) == 0);
		EXPECT(env_open(&s.env, "R", true) == 0);
		for (unsigned i = 0; i < sizeof(block); i++) {
			block[i] = (uint8_t)(i * 7 + i / BS);
		}
		EXPECT(rw(&s, BDEV_WRITE, 0, 8, block) == 0);
		before = atomic_load(&s.disks[0].writes);
		/* raid5f tries the block itself once more. */
		atomic_store(&s.disks[0].bad_reads, l == 0 ? 1 : 2);
		for (unsigned i = 0; i < 3; i++) {
			memset(got, 0, sizeof(got));
			EXPECT(rw(&s, BDEV_READ, 0, 8, got) == 0);
			EXPECT(memcmp(got, block, sizeof(got)) == 0);
		}
		EXPECT(atomic_load(&s.disks[0].bad_reads) == 0);
		env_wait_count(&s.env, &s.disks[0].writes, before + 1); /* nobody's read waits for it */
		env_linger(&s.env, 20);
		EXPECT_SAY(atomic_load(&s.disks[0].writes) == before + 1, "level %u", levels[l]);
		EXPECT(array_info(&s, "R", &info) && info.discovered == 3);
		stage_stop(&s);
	}
}

/* ---- Not before the superblocks say so ---- */

static void
write_waits_for_superblocks(void **state)
{
	static const enum raid_level levels[] = {RAID_LEVEL_1, RAID_LEVEL_5F};

	for (unsigned l = 0; l < 2; l++) {
		uint8_t block[BS];
		struct iovec iov = {block, BS};
		struct env_io io = {
			.op = BDEV_WRITE, .lba = 3, .num_blocks = 1, .iov = &iov, .iovcnt = 1};
		struct stage s;

		begin(&s, REACTOR_ADAPTIVE, l == 1, 3);
		EXPECT(array_create(&s, "R", levels[l], l == 0 ? 0 : 4, 3, true) == 0);
		EXPECT(env_open(&s.env, "R", true) == 0);
		memset(block, 1, BS);
		EXPECT(rw(&s, BDEV_WRITE, 3, 1, block) == 0);
		atomic_store(&s.disks[0].write_status, -EIO);
		atomic_store(&s.disks[2].hold_superblock, true);
		env_submit(&s.env.workers[0], &io);
		env_linger(&s.env, 30);
		EXPECT(!atomic_load(&io.done));
		atomic_store(&s.disks[2].hold_superblock, false);
		EXPECT(env_finish(&io) == 0);
		stage_stop(&s);
	}
}

/* ---- Too few ---- */

static void
goes_offline_and_comes_back(void **state)
{
	static const struct {
		enum raid_level level;
		uint32_t strip_kb;
		bool superblock;
		unsigned pulled;
	} cases[] = {{RAID_LEVEL_0, 4, false, 1},
		     {RAID_LEVEL_CONCAT, 4, true, 1},
		     {RAID_LEVEL_5F, 4, true, 2},
		     {RAID_LEVEL_1, 0, true, 3}};

	for (unsigned c = 0; c < 4; c++) {
		struct load loads[ENV_WORKERS];
		struct raid_info info;
		uint8_t block[BS], got[BS];
		struct stage s;

		begin(&s, REACTOR_ADAPTIVE, c % 2 == 0, 3);
		EXPECT(array_create(&s, "R", cases[c].level, cases[c].strip_kb, 3,
				    cases[c].superblock) == 0);
		EXPECT(env_open(&s.env, "R", true) == 0);
		memset(block, 0x5c, sizeof(block));
		EXPECT(rw(&s, BDEV_WRITE, bdev_num_blocks(s.env.bdev) - 1, 1, block) == 0);
		start_loads(&s, loads, true);
		go_on(&s, loads, 50);
		for (unsigned i = 0; i < cases[c].pulled; i++) {
			disk_pull_start(&s, i);
		}
		env_wait_count(&s.env, &s.env.removes, 1);
		finish_loads(loads);
		env_close(&s.env);
		array_wait_state(&s, "R", RAID_OFFLINE);
		for (unsigned i = 0; i < cases[c].pulled; i++) {
			disk_pull(&s, i);
		}
		EXPECT(array_info(&s, "R", &info) && info.discovered == 3 - cases[c].pulled);
		for (unsigned i = 0; i < cases[c].pulled; i++) {
			disk_add(&s, i);
		}
		array_wait_state(&s, "R", RAID_ONLINE);
		array_wait_whole(&s, "R", 3);
		EXPECT(env_open(&s.env, "R", true) == 0);
		EXPECT(rw(&s, BDEV_READ, bdev_num_blocks(s.env.bdev) - 1, 1, got) == 0);
		EXPECT(memcmp(got, block, BS) == 0);
		stage_stop(&s);
	}
}

/* ---- During a rebuild ---- */

static void
rebuild_is_interrupted(void **state)
{
	static const enum raid_level levels[] = {RAID_LEVEL_1, RAID_LEVEL_5F};
	static const struct raid_settings slow = {
		.window_kb = 64, .bandwidth_mb_sec = 1, .patience_sec = 1};

	for (unsigned l = 0; l < 2; l++) {
		struct load loads[ENV_WORKERS];
		struct raid_info info;
		struct stage s;

		begin(&s, REACTOR_ADAPTIVE, true, 4);
		EXPECT(array_create(&s, "R", levels[l], l == 0 ? 0 : 4, 3, true) == 0);
		EXPECT(env_open(&s.env, "R", true) == 0);
		start_loads(&s, loads, false);
		go_on(&s, loads, 100);
		disk_pull(&s, 0);
		stage_settings(&s, &slow);
		EXPECT(array_add_base(&s, "R", "d3") == 0);
		array_wait_rebuilding(&s, "R");
		EXPECT(array_info(&s, "R", &info) && info.discovered == 3);
		EXPECT(strcmp(info.rebuild_target, "d3") == 0);
		/* The target goes. */
		disk_pull(&s, 3);
		go_on(&s, loads, 100);
		EXPECT(array_info(&s, "R", &info) && info.discovered == 2 && !info.rebuilding);
		disk_add(&s, 3);
		array_wait_rebuilding(&s, "R");
		if (l == 0) { /* A source goes, and one is left. */
			disk_pull(&s, 1);
			go_on(&s, loads, 100);
			EXPECT(array_info(&s, "R", &info) && info.rebuilding);
			EXPECT(array_remove_base(&s, "d3") == 0);
		} else {
			EXPECT(array_remove_base(&s, "d3") == 0);
		}
		EXPECT(array_info(&s, "R", &info) && !info.rebuilding);
		stage_settings(&s, &quick);
		go_on(&s, loads, 100);
		EXPECT_SAY(array_add_base(&s, "R", "d3") == 0, "%s", s.err.text);
		array_wait_whole(&s, "R", l == 0 ? 2 : 3);
		finish_loads(loads);
		if (l == 0) {
			expect_mirrors(&s, 2, 2, DATA, DATA_BLOCKS);
		}
		stage_stop(&s);
	}
}

/* ---- Guests that change what they write ---- */

static void
buffers_change_in_flight(void **state)
{
	struct stage s;
	uint8_t *buf = aligned_alloc(4096, 64 * BS);

	begin(&s, REACTOR_ADAPTIVE, true, 3);
	EXPECT(array_create(&s, "R", RAID_LEVEL_1, 0, 3, true) == 0);
	EXPECT(env_open(&s.env, "R", true) == 0);
	for (unsigned round = 0; round < 20; round++) {
		struct iovec iov = {buf, 64 * BS};
		struct env_io io = {.op = BDEV_WRITE,
				    .lba = round * 8,
				    .num_blocks = 64,
				    .iov = &iov,
				    .iovcnt = 1};

		memset(buf, (int)round, 64 * BS);
		atomic_store(&s.disks[1].hold, true);
		env_submit(&s.env.workers[0], &io);
		memset(buf, 0xee, 64 * BS); /* d0 has it, d1 not yet */
		atomic_store(&s.disks[1].hold, false);
		EXPECT(env_finish(&io) == 0);
	}
	expect_mirrors(&s, 0, 3, DATA, DATA_BLOCKS);
	stage_stop(&s);
	free(buf);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bases_are_replaced_under_load),
		cmocka_unit_test(comes_back),
		cmocka_unit_test(failing_base_leaves),
		cmocka_unit_test(errors_everywhere_are_the_requests),
		cmocka_unit_test(bad_blocks_are_written_again),
		cmocka_unit_test(write_waits_for_superblocks),
		cmocka_unit_test(goes_offline_and_comes_back),
		cmocka_unit_test(rebuild_is_interrupted),
		cmocka_unit_test(buffers_change_in_flight),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
