/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/base64.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* RFC 4648, section 10. */
static void
vectors(void **state)
{
	static const char *const pairs[][2] = {
		{"", ""},         {"f", "Zg=="},        {"fo", "Zm8="},        {"foo", "Zm9v"},
		{"foob", "Zm9vYg=="}, {"fooba", "Zm9vYmE="}, {"foobar", "Zm9vYmFy"},
	};

	for (size_t i = 0; i < sizeof(pairs) / sizeof(pairs[0]); i++) {
		size_t len = strlen(pairs[i][0]), count = 99;
		char *text = base64_encode((const uint8_t *)pairs[i][0], len);
		uint8_t *bytes = base64_decode(pairs[i][1], &count);

		assert_string_equal(text, pairs[i][1]);
		assert_int_equal(count, len);
		assert_memory_equal(bytes, pairs[i][0], len);
		free(text);
		free(bytes);
	}
}

static void
all_bytes(void **state)
{
	uint8_t in[256 * 3], *out;
	size_t count;
	char *text;

	for (size_t i = 0; i < sizeof(in); i++) {
		in[i] = (uint8_t)(i * 7 + i / 256);
	}
	text = base64_encode(in, sizeof(in));
	out = base64_decode(text, &count);
	assert_int_equal(count, sizeof(in));
	assert_memory_equal(in, out, count);
	free(text);
	free(out);
}

static void
what_is_none(void **state)
{
	static const char *const bad[] = {"Z", "Zg", "Zg=", "Z===", "====", "Zm9-", "Zm=v", "Zm9vZ\n=="};
	size_t count;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_null(base64_decode(bad[i], &count));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(vectors),
		cmocka_unit_test(all_bytes),
		cmocka_unit_test(what_is_none),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
