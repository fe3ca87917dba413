/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "app/perf_pattern.h"

#define BLOCKS 3

static const struct perf_pattern pattern = {.seed = 9, .generation = 4, .block_size = 512};
static uint64_t buf[BLOCKS * 512 / 8];
static char text[256];

static int
setup(void **state)
{
	perf_pattern_fill(&pattern, 1000, BLOCKS, buf);
	text[0] = '\0';
	return 0;
}

static bool
right(void)
{
	return perf_pattern_check(&pattern, 1000, BLOCKS, buf, text, sizeof(text));
}

static void
right_as_filled(void **state)
{
	assert_true(right());
}

/* Any wrong byte is seen, and its block named. */
static void
every_byte_counts(void **state)
{
	for (unsigned i = 0; i < sizeof(buf); i++) {
		char words[64];

		((uint8_t *)buf)[i] ^= 1u << i % 8;
		assert_false(right());
		snprintf(words, sizeof(words), "block %u is wrong from byte %u on", 1000 + i / 512,
			 i % 512 / 8 * 8);
		assert_non_null(strstr(text, words));
		((uint8_t *)buf)[i] ^= 1u << i % 8;
	}
	assert_true(right());
}

static void
says_what_it_found(void **state)
{
	struct perf_pattern other = pattern;

	perf_pattern_fill(&pattern, 77, 1, buf + 64);
	assert_false(right());
	assert_non_null(strstr(text, "block 1001 "));
	assert_non_null(strstr(text, "belongs to block 77"));

	setup(NULL);
	other.generation = 3;
	perf_pattern_fill(&other, 1002, 1, buf + 128);
	assert_false(right());
	assert_non_null(strstr(text, "it is write 3 of this place, not write 4"));

	setup(NULL);
	other.seed = 8;
	perf_pattern_fill(&other, 1000, 1, buf);
	assert_false(right());
	assert_non_null(strstr(text, "seed 8"));

	setup(NULL);
	memset(buf, 0, 512);
	assert_false(right());
	assert_non_null(strstr(text, "all zeroes"));
}

/* No two blocks have words in common by construction, so that a misplaced piece of one is seen. */
static void
blocks_differ(void **state)
{
	for (unsigned i = 4; i < 64; i++) {
		for (unsigned j = 4; j < 64; j++) {
			assert_true(buf[i] != buf[64 + j]);
		}
	}
}

#define TEST(fn) cmocka_unit_test_setup(fn, setup)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(right_as_filled),
		TEST(every_byte_counts),
		TEST(says_what_it_found),
		TEST(blocks_differ),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
