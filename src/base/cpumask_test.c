/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/cpumask.h"

static void
test_good(void **state)
{
	static const struct {
		const char *text;
		uint64_t low;
	} cases[] = {
		{"0x3", 0x3},
		{"3", 0x3},
		{"0X1f", 0x1f},
		{"F", 0xf},
		{"000000000000000000001", 1},
		{"[0]", 1},
		{"[0,1]", 3},
		{"[1-3]", 0xe},
		{"[0,2-3,5]", 0x2d},
		{"[ 0 , 2 - 3 ]", 0xd},
		{"[63]", UINT64_C(1) << 63},
		{"0xffffffffffffffff", UINT64_MAX},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cpumask mask;
		struct err err = ERR_NONE;

		assert_int_equal(cpumask_parse(cases[i].text, &mask, &err), 0);
		assert_int_equal(mask.words[0], cases[i].low);
		assert_int_equal(cpumask_count(&mask), __builtin_popcountll(cases[i].low));
	}
}

static void
test_bad(void **state)
{
	static const char *const cases[] = {
		"",     "0x",    "0",     "0x0",     "x",      "0xg",
		"3 ",   "-1",    "[]",    "[0",      "0]",     "[0]x",
		"[,]",  "[0,]",  "[3-1]", "[0,3-1]", "[1024]", "[99999999999999999999]",
		"[0-]", "[0;1]", "0,1",   "[a]",
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct cpumask mask = {{77}};
		struct err err = ERR_NONE;

		assert_int_equal(cpumask_parse(cases[i], &mask, &err), -EINVAL);
		assert_int_equal(mask.words[0], 77);
		assert_non_null(strstr(err.text, cases[i]));
	}
}

static void
test_large(void **state)
{
	char text[CPUMASK_TEXT_BYTES + 1], again[CPUMASK_TEXT_BYTES];
	struct cpumask mask;

	assert_int_equal(cpumask_parse("[0,64,1023]", &mask, NULL), 0);
	assert_int_equal(cpumask_count(&mask), 3);
	assert_int_equal(cpumask_next(&mask, 1), 64);
	assert_int_equal(cpumask_next(&mask, 65), 1023);
	assert_int_equal(cpumask_next(&mask, 1024), CPUMASK_CPUS);
	cpumask_format(&mask, true, text);
	assert_int_equal(strlen(text), CPUMASK_TEXT_BYTES - 1);
	memset(&mask, 0, sizeof(mask));
	assert_int_equal(cpumask_parse(text, &mask, NULL), 0);
	cpumask_format(&mask, true, again);
	assert_string_equal(text, again);
	assert_false(cpumask_test(&mask, 5000));
	memset(text, 'f', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	assert_int_equal(cpumask_parse(text, &mask, NULL), -EINVAL);
}

static void
test_format(void **state)
{
	char text[CPUMASK_TEXT_BYTES];
	struct cpumask mask = {{0x2d}};
	unsigned cpu, seen = 0;

	cpumask_format(&mask, true, text);
	assert_string_equal(text, "0x2d");
	cpumask_format(&mask, false, text);
	assert_string_equal(text, "2d");
	CPUMASK_FOREACH (cpu, &mask) {
		seen |= 1u << cpu;
	}
	assert_int_equal(seen, 0x2d);
}

static void
test_none(void **state)
{
	static const char *const none[] = {"", "0", "0x0", "[]"};
	struct cpumask mask;

	for (size_t i = 0; i < ARRAY_SIZE(none); i++) {
		memset(&mask, 0xff, sizeof(mask));
		assert_int_equal(cpumask_parse_any(none[i], &mask, NULL), 0);
		assert_int_equal(cpumask_count(&mask), 0);
		assert_int_equal(cpumask_parse(none[i], &mask, NULL), -EINVAL);
	}
	assert_int_equal(cpumask_parse_any("0x5", &mask, NULL), 0);
	assert_int_equal(cpumask_count(&mask), 2);
	assert_int_equal(cpumask_parse_any("x", &mask, NULL), -EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_format),
		cmocka_unit_test(test_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
