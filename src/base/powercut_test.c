/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/powercut.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"

#define BLOCK 512u
#define BLOCKS 256u

/* ---- The rule ---- */

static unsigned
kept_of(const struct powercut_rule *rule, uint64_t seq, uint64_t sectors)
{
	unsigned kept = 0;

	for (uint64_t i = 0; i < sectors; i++) {
		kept += powercut_survives(rule, 1, 300, seq, 1000, sectors, 1000 + i);
	}
	return kept;
}

static void
random_loses_keeps_and_tears(void **state)
{
	unsigned lost = 0, kept = 0, torn = 0;

	for (uint64_t seq = 1; seq <= 300; seq++) {
		struct powercut_rule rule = {.seed = 7, .mode = POWERCUT_RANDOM, .sector_bytes = 512};
		unsigned n = kept_of(&rule, seq, 64);

		assert_int_equal(n, kept_of(&rule, seq, 64)); /* the same each time */
		lost += n == 0;
		kept += n == 64;
		torn += n != 0 && n != 64;
	}
	assert_true(lost > 50 && kept > 50 && torn > 50);
}

static void
seeds_differ(void **state)
{
	unsigned different = 0;

	for (uint64_t seed = 0; seed < 50; seed++) {
		struct powercut_rule a = {.seed = seed, .mode = POWERCUT_RANDOM, .sector_bytes = 512};
		struct powercut_rule b = a;

		b.seed++;
		for (uint64_t seq = 1; seq < 20; seq++) {
			if (kept_of(&a, seq, 16) != kept_of(&b, seq, 16)) {
				different++;
				break;
			}
		}
	}
	assert_int_equal(different, 50);
}

static void
ordered_keeps_a_beginning(void **state)
{
	unsigned torn = 0, none = 0, all = 0;

	for (uint64_t seed = 0; seed < 1000; seed++) {
		struct powercut_rule rule = {.seed = seed, .mode = POWERCUT_ORDERED, .sector_bytes = 512};
		bool over = false;
		unsigned last = 0;

		for (uint64_t seq = 5; seq <= 9; seq++) {
			unsigned n = 0;

			for (uint64_t i = 0; i < 8; i++) {
				bool yes = powercut_survives(&rule, 5, 9, seq, 40, 8, 40 + i);

				assert_false(yes && over);
				over = over || !yes;
				n += yes;
			}
			last = n == 8 ? last + 1 : last;
			torn += n != 0 && n != 8;
		}
		none += last == 0;
		all += last == 5;
	}
	assert_true(torn > 400 && none > 50 && all > 50);
}

static void
plain_modes(void **state)
{
	struct powercut_rule lost = {.mode = POWERCUT_LOST, .sector_bytes = 512};
	struct powercut_rule kept = {.mode = POWERCUT_KEPT, .sector_bytes = 512};

	assert_int_equal(kept_of(&lost, 9, 8), 0);
	assert_int_equal(kept_of(&kept, 9, 8), 8);
	assert_string_equal(powercut_mode_name(POWERCUT_ORDERED), "ordered");
}

/* ---- The log, against a model: what each block was at each write ---- */

struct model {
	struct powercut_log *log;
	uint8_t disk[BLOCKS]; /* one byte stands for a block */
	uint8_t now[BLOCKS];
	uint64_t random;
};

static uint64_t
draw(struct model *m, uint64_t below)
{
	m->random = powercut_seed(m->random, 1);
	return m->random % below;
}

static void
random_write(struct model *m, uint64_t lba, uint64_t blocks)
{
	static uint8_t buf[BLOCKS * BLOCK];
	struct iovec iov[2] = {{buf, 100}, {buf + 100, blocks * BLOCK - 100}};
	uint64_t seq = powercut_log_last_seq(m->log) + 1;
	bool zero = draw(m, 5) == 0;
	uint8_t first = (uint8_t)(1 + draw(m, 200));

	for (uint64_t i = 0; i < blocks; i++) {
		m->now[lba + i] = zero ? 0 : (uint8_t)(first + i % 50);
		memset(buf + i * BLOCK, m->now[lba + i], BLOCK);
	}
	assert_int_equal(powercut_log_write(m->log, lba, blocks, zero ? NULL : iov, 2), seq);
	assert_int_equal(powercut_log_last_seq(m->log), seq);
}

static void
expect_now(const struct model *m)
{
	static uint8_t buf[BLOCKS * BLOCK];
	struct iovec iov = {buf, sizeof(buf)};

	for (uint64_t i = 0; i < BLOCKS; i++) {
		memset(buf + i * BLOCK, m->disk[i], BLOCK);
	}
	powercut_log_read(m->log, 0, BLOCKS, &iov, 1, 0);
	for (uint64_t i = 0; i < BLOCKS; i++) {
		assert_int_equal(buf[i * BLOCK], m->now[i]);
		assert_int_equal(buf[i * BLOCK + BLOCK - 1], m->now[i]);
	}
}

static void
flush(struct model *m, uint64_t seq)
{
	static uint8_t buf[16 * BLOCK];
	uint64_t at = 0, lba, n;

	while ((n = powercut_log_run(m->log, seq, at, BLOCKS, 16, &lba)) > 0) {
		assert_true(lba >= at && n <= 16);
		powercut_log_copy(m->log, seq, lba, n, buf);
		for (uint64_t i = 0; i < n; i++) {
			m->disk[lba + i] = buf[i * BLOCK];
		}
		at = lba + n;
	}
	powercut_log_drop(m->log, seq, 0, BLOCKS);
}

static void
log_is_a_cache(void **state)
{
	struct model m = {.log = powercut_log_create(BLOCK, 8u << 20), .random = 3};
	uint64_t seqs[8] = {0};

	for (unsigned round = 0; round < 2000; round++) {
		uint64_t lba = draw(&m, BLOCKS), n = 1 + draw(&m, MIN(BLOCKS - lba, UINT64_C(20)));

		random_write(&m, lba, n);
		seqs[round % 8] = powercut_log_last_seq(m.log);
		if (round % 3 == 0) {
			flush(&m, seqs[draw(&m, 8)]);
		}
		expect_now(&m);
	}
	flush(&m, UINT64_MAX);
	expect_now(&m);
	assert_true(powercut_log_empty(m.log));
	assert_int_equal(powercut_log_bytes(m.log), 0);
	powercut_log_free(m.log);
}

static void
log_is_bounded(void **state)
{
	struct powercut_log *log = powercut_log_create(BLOCK, 100 * BLOCK);
	static uint8_t buf[100 * BLOCK];
	struct iovec iov = {buf, sizeof(buf)};
	uint64_t n = 0;

	assert_int_equal(powercut_log_write(log, 0, 100, &iov, 1), 0);
	assert_int_equal(powercut_log_write(log, 0, UINT64_MAX, NULL, 0), 0);
	assert_true(powercut_log_empty(log));
	while (powercut_log_write(log, 7, 1, &iov, 1) != 0) {
		n++;
	}
	assert_true(n > 50 && n < 100);
	assert_int_equal(powercut_log_last_seq(log), n);
	powercut_log_drop(log, n - 1, 0, 100);
	assert_false(powercut_log_empty(log));
	assert_true(powercut_log_write(log, 7, 1, &iov, 1) == n + 1);
	powercut_log_free(log);
}

/* ---- Cuts ---- */

/* Every sector is what one of the writes, or nobody, made it; with all kept the newest, with all lost the oldest. */
static void
cut(uint32_t sector_bytes, enum powercut_mode mode, uint64_t seed, unsigned *ret_mixed)
{
	struct powercut_log *log = powercut_log_create(4096, 1u << 20);
	struct powercut_rule rule = {.seed = seed, .mode = mode, .sector_bytes = sector_bytes};
	static uint8_t buf[4 * 4096], disk[4 * 4096];
	struct iovec iov = {buf, sizeof(buf)};

	for (uint8_t i = 1; i <= 5; i++) {
		memset(buf, i, sizeof(buf));
		powercut_log_write(log, 0, 4, &iov, 1);
	}
	memset(disk, 0, sizeof(disk));
	/* In two pieces: that makes no difference. */
	powercut_log_survive(log, &rule, 0, 1, disk);
	powercut_log_survive(log, &rule, 1, 3, disk + 4096);
	for (size_t i = 0; i < sizeof(disk); i++) {
		assert_true(disk[i] <= 5 && disk[i] == disk[i / sector_bytes * sector_bytes]);
		assert_true(mode != POWERCUT_LOST || disk[i] == 0);
		assert_true(mode != POWERCUT_KEPT || disk[i] == 5);
		*ret_mixed += disk[i] != disk[0];
	}
	powercut_log_free(log);
}

static void
tears_at_sectors(void **state)
{
	static const uint32_t sectors[] = {512, 4096, 8192};
	unsigned mixed[4] = {0};

	for (size_t i = 0; i < ARRAY_SIZE(sectors); i++) {
		for (int mode = POWERCUT_RANDOM; mode <= POWERCUT_KEPT; mode++) {
			for (uint64_t seed = 0; seed < 50; seed++) {
				cut(sectors[i], (enum powercut_mode)mode, seed, &mixed[mode]);
			}
		}
	}
	assert_true(mixed[POWERCUT_RANDOM] > 0 && mixed[POWERCUT_ORDERED] > 0);
	assert_int_equal(mixed[POWERCUT_LOST] + mixed[POWERCUT_KEPT], 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_loses_keeps_and_tears),
		cmocka_unit_test(seeds_differ),
		cmocka_unit_test(ordered_keeps_a_beginning),
		cmocka_unit_test(plain_modes),
		cmocka_unit_test(log_is_a_cache),
		cmocka_unit_test(log_is_bounded),
		cmocka_unit_test(tears_at_sectors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
