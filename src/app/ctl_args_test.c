/* SPDX-License-Identifier: BSD-3-Clause */
/* Words of the command line become the JSON that the schema wants, or an error that names them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "app/ctl.h"
#include "base/check.h"

static void
test_sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {
		{"0", 0}, {"512", 512}, {"512B", 512}, {"0x200", 512}, {"1k", 1024}, {"64K", 65536}, {"1M", 1 << 20},
		{"1G", 1 << 30}, {"1GiB", 1 << 30}, {"10gb", 10ull << 30}, {"2T", 2ull << 40}, {"1P", 1ull << 50},
		{"7E", 7ull << 60},
	};
	static const char *const bad[] = {"", "G", "-1", "1Q", "1GG", "1.5G", "1 G", " 1", "8E", "9999999999999999999999",
					  "0x", "1Gib1", "+1"};
	struct err err = ERR_NONE;
	uint64_t bytes = 0;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(ctl_size(good[i].text, &bytes, &err), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		if (ctl_size(bad[i], &bytes, &err) != -EINVAL) {
			fail_msg("'%s' passes for a size", bad[i]);
		}
		assert_non_null(strstr(err.text, bad[i]));
	}
}

/* One key=value for a method; the JSON, or the error's text. Valid until the next call. */
static const char *
convert(const char *method, const char *word)
{
	static char *text;
	const struct rpc_schema *schema = rpc_schema_find(method);
	json_t *params = json_object();
	static struct err err;
	char *argv[] = {strdup(word), NULL};

	err = ERR_NONE;
	free(text);
	text = NULL;
	if (ctl_key_values(schema, 1, argv, params, &err) == 0) {
		text = json_dumps(params, JSON_COMPACT);
	}
	json_decref(params);
	free(argv[0]);
	return text != NULL ? text : err.text;
}

static void
test_values(void **state)
{
	assert_string_equal(convert("bdev_malloc_create", "num_blocks=64K"), "{\"num_blocks\":65536}");
	assert_string_equal(convert("bdev_malloc_create", "numa_id=-1"), "{\"numa_id\":-1}");
	assert_string_equal(convert("bdev_malloc_create", "name=12"), "{\"name\":\"12\"}");
	assert_string_equal(convert("bdev_malloc_create", "name=a=b"), "{\"name\":\"a=b\"}");
	assert_string_equal(convert("bdev_malloc_create", "name="), "{\"name\":\"\"}");
	assert_string_equal(convert("bdev_malloc_create", "name=[1]"), "{\"name\":\"[1]\"}");
	assert_string_equal(convert("construct_malloc_bdev", "name=x"), "{\"name\":\"x\"}");
	assert_string_equal(convert("bdev_aio_create", "readonly=yes"), "{\"readonly\":true}");
	assert_string_equal(convert("bdev_aio_create", "readonly=0"), "{\"readonly\":false}");
	assert_string_equal(convert("bdev_get_iostat", "names=a,b"), "{\"names\":[\"a\",\"b\"]}");
	assert_string_equal(convert("bdev_get_iostat", "names=a"), "{\"names\":[\"a\"]}");
	assert_string_equal(convert("bdev_get_iostat", "names="), "{\"names\":[]}");
	assert_string_equal(convert("bdev_get_iostat", "names=[\"a,b\"]"), "{\"names\":[\"a,b\"]}");
	assert_string_equal(convert("log_set_level", "level=debug"), "{\"level\":\"debug\"}");
	/* Of a method that is not in the schema: JSON where it is JSON. */
	assert_string_equal(convert("some_new_method", "a=12"), "{\"a\":12}");
	assert_string_equal(convert("some_new_method", "a=true"), "{\"a\":true}");
	assert_string_equal(convert("some_new_method", "a={\"b\":1}"), "{\"a\":{\"b\":1}}");
	assert_string_equal(convert("some_new_method", "a=b c"), "{\"a\":\"b c\"}");
}

static void
test_faults(void **state)
{
	static const struct {
		const char *method, *word, *words;
	} faults[] = {
		{"bdev_malloc_create", "num_blocks=ten", "num_blocks is 'ten'"},
		{"bdev_malloc_create", "num_blocks=-1", "num_blocks is '-1'"},
		{"bdev_malloc_create", "nme=x", "no parameter 'nme'"},
		{"bdev_malloc_create", "name", "'name' is not of the form"},
		{"bdev_malloc_create", "=x", "'=x' is not of the form"},
		{"bdev_malloc_create", "name=\xff", "name is no UTF-8"},
		{"bdev_aio_create", "readonly=maybe", "readonly is 'maybe'"},
		{"bdev_get_iostat", "names=[a]", "names must be JSON"},
		{"bdev_get_iostat", "names=a,\xff", "names is no UTF-8"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		const char *text = convert(faults[i].method, faults[i].word);

		if (strstr(text, faults[i].words) == NULL) {
			fail_msg("%s: wanted '%s', got: %s", faults[i].word, faults[i].words, text);
		}
	}
}

static void
test_options(void **state)
{
	char *argv[] = {"x", "-s", "a", "word", "--socket=b", "--json", "--", "--json", NULL};
	int argc = 8;
	const char *value = NULL;

	assert_int_equal(ctl_take_option(&argc, argv, "-s", &value), 1);
	assert_string_equal(value, "a");
	assert_int_equal(ctl_take_option(&argc, argv, "--socket", &value), 1);
	assert_string_equal(value, "b");
	assert_int_equal(ctl_take_option(&argc, argv, "--json", NULL), 1);
	assert_int_equal(ctl_take_option(&argc, argv, "--json", NULL), 0);
	assert_int_equal(argc, 4);
	assert_string_equal(argv[1], "word");
	assert_string_equal(argv[3], "--json");
	assert_null(argv[4]);

	char *twice[] = {"x", "-s", "a", "word", "-s", "b", "--json", "--json", NULL};

	argc = 8;
	assert_int_equal(ctl_take_option(&argc, twice, "--json", NULL), 1);
	assert_int_equal(argc, 6);
	assert_int_equal(ctl_take_option(&argc, twice, "-s", &value), -EINVAL);

	char *missing[] = {"x", "-s", NULL};

	argc = 2;
	assert_int_equal(ctl_take_option(&argc, missing, "-s", &value), -EINVAL);
}

static void
test_bytes(void **state)
{
	char text[32];

	assert_string_equal(ctl_bytes(0, text), "0 B");
	assert_string_equal(ctl_bytes(1023, text), "1023 B");
	assert_string_equal(ctl_bytes(1ull << 30, text), "1 GiB");
	assert_string_equal(ctl_bytes(3ull << 29, text), "1.5 GiB");
	assert_string_equal(ctl_bytes(UINT64_MAX, text), "16.0 EiB");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sizes),   cmocka_unit_test(test_values), cmocka_unit_test(test_faults),
		cmocka_unit_test(test_options), cmocka_unit_test(test_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
