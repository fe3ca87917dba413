/* SPDX-License-Identifier: BSD-3-Clause */
/* The end of a value is found whatever the pieces are in which it comes, and never where the parser disagrees. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "rpc/scan.h"

static const struct {
	const char *text;
	enum rpc_scan_result result;
	size_t start, end; /* of a value */
} cases[] = {
	{"", RPC_SCAN_MORE, 0, 0},
	{" \t\r\n", RPC_SCAN_MORE, 0, 0},
	{"{}", RPC_SCAN_VALUE, 0, 2},
	{"[]", RPC_SCAN_VALUE, 0, 2},
	{"  {\"a\":[1,{}]}x", RPC_SCAN_VALUE, 2, 14},
	{"{}{}", RPC_SCAN_VALUE, 0, 2},
	{"{\"a\":\"}\"}", RPC_SCAN_VALUE, 0, 9},
	{"{\"\\\"}\":\"\\\\\"}", RPC_SCAN_VALUE, 0, 12},
	{"{\"a\":\"\\\"}", RPC_SCAN_MORE, 0, 0},
	{"{\"a\"", RPC_SCAN_MORE, 0, 0},
	{"[{]}", RPC_SCAN_BAD, 0, 0},
	{"]", RPC_SCAN_BAD, 0, 0},
	{"[1\x01]", RPC_SCAN_BAD, 0, 0},
	{"[1,\n2,\t3]", RPC_SCAN_VALUE, 0, 9},
	{"x", RPC_SCAN_BAD, 0, 0},
	{"\"a\"", RPC_SCAN_SCALAR, 0, 0},
	{"1", RPC_SCAN_SCALAR, 0, 0},
	{"GET / HTTP/1.1\r\n", RPC_SCAN_BAD, 0, 0},
};

static void
test_whole(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rpc_scan scan = {0};

		assert_int_equal(rpc_scan(&scan, cases[i].text, strlen(cases[i].text)), cases[i].result);
		if (cases[i].result == RPC_SCAN_VALUE) {
			assert_int_equal(scan.start, cases[i].start);
			assert_int_equal(scan.offset, cases[i].end);
		}
	}
}

static void
test_byte_by_byte(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct rpc_scan scan = {0};
		enum rpc_scan_result result = RPC_SCAN_MORE;

		for (size_t len = 1; len <= strlen(cases[i].text) && result == RPC_SCAN_MORE; len++) {
			result = rpc_scan(&scan, cases[i].text, len);
		}
		assert_int_equal(result, cases[i].result);
		if (result == RPC_SCAN_VALUE) {
			assert_int_equal(scan.offset, cases[i].end);
		}
	}
}

static void
test_depth(void **state)
{
	char text[2 * RPC_DEPTH_MAX + 2];
	struct rpc_scan scan = {0};

	memset(text, '[', RPC_DEPTH_MAX + 1);
	memset(text + RPC_DEPTH_MAX, ']', RPC_DEPTH_MAX);
	assert_int_equal(rpc_scan(&scan, text, 2 * RPC_DEPTH_MAX), RPC_SCAN_VALUE);
	assert_int_equal(scan.offset, 2 * RPC_DEPTH_MAX);
	memset(text, '[', sizeof(text));
	scan = (struct rpc_scan){0};
	assert_int_equal(rpc_scan(&scan, text, sizeof(text)), RPC_SCAN_TOO_DEEP);
	assert_int_equal(scan.offset, RPC_DEPTH_MAX + 1);
}

/* The kinds of all levels are kept, not only of the innermost. */
static void
test_kinds(void **state)
{
	char text[2 * RPC_DEPTH_MAX];
	struct rpc_scan scan = {0};

	for (unsigned i = 0; i < RPC_DEPTH_MAX; i++) {
		text[i] = i % 3 == 0 ? '{' : '[';
		text[2 * RPC_DEPTH_MAX - 1 - i] = i % 3 == 0 ? '}' : ']';
	}
	assert_int_equal(rpc_scan(&scan, text, sizeof(text)), RPC_SCAN_VALUE);
	text[sizeof(text) - 1] = ']';
	scan = (struct rpc_scan){0};
	assert_int_equal(rpc_scan(&scan, text, sizeof(text)), RPC_SCAN_BAD);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_byte_by_byte),
		cmocka_unit_test(test_depth),
		cmocka_unit_test(test_kinds),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
