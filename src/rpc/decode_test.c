/* SPDX-License-Identifier: BSD-3-Clause */
/* Each type of parameter, and each way in which one can be wrong: the code and the words of the answer. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "rpc/decode.h"
#include "rpc/schema_gen.h"

/* Decodes text into a structure that the caller frees by done(). */
static json_t *root;
static const struct rpc_schema *schema;
static void *out;
static struct err err;

static int
decode(const char *method, const char *text)
{
	schema = rpc_schema_find(method);
	assert_non_null(schema);
	root = text != NULL ? json_loads(text, 0, NULL) : NULL;
	assert_true(text == NULL || root != NULL);
	out = calloc(1, schema->params_bytes + 1);
	err = ERR_NONE;
	return rpc_decode(schema, root, out, &err);
}

static void
done(void)
{
	rpc_decode_release(schema, out);
	free(out);
	json_decref(root);
}

static void
test_values(void **state)
{
	const struct bdev_malloc_create_params *m;
	const struct bdev_get_iostat_params *i;
	uuid_t uuid;

	assert_int_equal(decode("bdev_malloc_create",
				"{\"name\":\"m\",\"num_blocks\":9007199254740993,\"block_size\":4096.0,"
				"\"uuid\":\"12345678-1234-4234-8234-123456789abc\",\"numa_id\":-1,\"md_size\":0,"
				"\"md_interleave\":false}"),
			 0);
	m = out;
	assert_string_equal(m->name, "m");
	assert_true(m->has_name && m->has_uuid && !m->has_physical_block_size);
	assert_int_equal(m->num_blocks, 9007199254740993);
	assert_int_equal(m->block_size, 4096);
	assert_int_equal(m->physical_block_size, 0);
	uuid_parse("12345678-1234-4234-8234-123456789abc", uuid);
	assert_memory_equal(m->uuid, uuid, sizeof(uuid));
	done();

	assert_int_equal(decode("bdev_get_iostat", "{\"names\":[\"a\",\"b\"],\"per_channel\":true}"), 0);
	i = out;
	assert_true(i->has_names && i->per_channel && !i->has_reset_mode);
	assert_int_equal(i->names.count, 2);
	assert_string_equal(i->names.items[1], "b");
	assert_string_equal(i->reset_mode, "none");
	done();
}

static void
test_enum_spelling(void **state)
{
	assert_int_equal(decode("log_set_level", "{\"level\":\"debug\"}"), 0);
	assert_string_equal(((const struct log_set_level_params *)out)->level, "DEBUG");
	done();
}

static void
test_defaults(void **state)
{
	static const char *const nothing[] = {NULL, "{}", "[]", "{\"id\":null}"};

	for (size_t i = 0; i < ARRAY_SIZE(nothing); i++) {
		const struct notify_get_notifications_params *n;

		assert_int_equal(decode("notify_get_notifications", nothing[i]), 0);
		n = out;
		assert_true(!n->has_id && n->id == 0 && n->max == INT64_MAX);
		done();
	}
	assert_int_equal(decode("framework_wait_init", "{}"), 0);
	done();
}

static const struct {
	const char *method, *params;
	int code;
	const char *words[3];
} faults[] = {
	/* Codes as SPDK answers. */
	{"rpc_get_methods", "{\"bogus\":1}", -32602, {"'bogus'", "current"}},
	{"log_set_level", "{\"level\":\"LOUD\"}", -32603, {"'level'", "LOUD", "\"DEBUG\""}},
	{"log_set_level", "{\"level\":3}", -32603, {"'level'", "is 3"}},
	{"bdev_malloc_create", "{\"num_blocks\":0,\"block_size\":512}", -22, {"'num_blocks' is 0", "at least 1"}},
	{"bdev_malloc_create", "{\"num_blocks\":100,\"block_size\":513}", -22, {"'block_size' is 513", "power of two"}},
	{"bdev_malloc_create", "{\"num_blocks\":\"100\",\"block_size\":512}", -32603, {"'num_blocks' is \"100\""}},
	{"bdev_malloc_create", "{\"block_size\":512}", -32603, {"'num_blocks' (number) is missing"}},
	{"bdev_malloc_create", "{\"block_size\":512,\"num_blocks\":null}", -32603, {"'num_blocks'", "missing"}},
	{"bdev_malloc_create", "{\"num_blocks\":1,\"block_size\":4096,\"uuid\":\"nonsense\"}", -32603,
	 {"'uuid'", "nonsense", "a UUID"}},
	{"bdev_malloc_create", "{\"num_blocks\":1,\"block_size\":4096,\"uuid\":7}", -32603, {"'uuid'", "a UUID"}},
	{"bdev_null_create", "{\"name\":\"n\",\"num_blocks\":1,\"block_size\":512,\"dif_type\":4}", -22,
	 {"'dif_type' is 4", "at most 3"}},
	{"bdev_null_create", "{\"name\":\"n\",\"num_blocks\":1,\"block_size\":512,\"md_size\":\"8\"}", -32603,
	 {"'md_size'"}},
	{"bdev_null_create", "{\"name\":\"n\",\"num_blocks\":1,\"block_size\":512,\"dif_is_head_of_md\":0}", -32603,
	 {"'dif_is_head_of_md'", "true or false"}},
	{"bdev_get_iostat", "{\"name\":\"Malloc0\"}", -32603, {"no parameter 'name'", "names, per_channel"}},
	{"bdev_get_iostat", "{\"names\":\"Malloc0\"}", -32603, {"'names'", "array of strings"}},
	{"bdev_get_iostat", "{\"names\":[\"a\",7]}", -32603, {"'names' is 7", "strings"}},
	{"bdev_get_iostat", "{\"per_channel\":1}", -32603, {"'per_channel' is 1", "true or false"}},
	{"bdev_null_delete", "{\"name\":[\"x\"]}", -32603, {"'name' is [\"x\"]", "a string"}},
	{"framework_wait_init", "{\"x\":1}", -32602, {"framework_wait_init takes no parameters, not 'x'"}},
	{"framework_wait_init", "[1]", -32602, {"takes no parameters"}},
	{"bdev_null_delete", "[\"x\"]", -32603, {"must be an object"}},
	{"vhost_delete_controller", "{}", -32602, {"'ctrlr' (string) is missing"}},
	/* Borders of numbers. */
	{"vhost_controller_set_coalescing", "{\"ctrlr\":\"a\",\"delay_base_us\":4294967296,\"iops_threshold\":1}", -32602,
	 {"'delay_base_us'", "0 to 4294967295"}},
	{"vhost_controller_set_coalescing", "{\"ctrlr\":\"a\",\"delay_base_us\":-1,\"iops_threshold\":1}", -32602,
	 {"'delay_base_us' is -1"}},
	{"bdev_get_bdevs", "{\"timeout\":-1}", -32603, {"'timeout' is -1", "from 0 on"}},
	{"bdev_get_bdevs", "{\"timeout\":1.5}", -32603, {"'timeout' is 1.5", "whole"}},
	{"bdev_get_bdevs", "{\"timeout\":1e300}", -32603, {"'timeout'", "whole"}},
	{"bdev_null_resize", "{\"name\":\"n\",\"new_size\":8796093022208}", -22, {"'new_size'", "at most 8796093022207"}},
	{"berth_disk_create", "{\"name\":\"n\",\"size\":5000}", -22, {"'size' is 5000", "multiple of 512"}},
	{"berth_disk_create", "{\"name\":\"n\",\"size\":8192,\"block_size\":1000}", -22, {"'block_size'", "power of two"}},
};

static void
test_faults(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(faults); i++) {
		int code = decode(faults[i].method, faults[i].params);

		if (code != faults[i].code) {
			fail_msg("%s %s: %d, %s", faults[i].method, faults[i].params, code, err.text);
		}
		assert_non_null(strstr(err.text, faults[i].method));
		for (size_t w = 0; w < ARRAY_SIZE(faults[i].words) && faults[i].words[w] != NULL; w++) {
			if (strstr(err.text, faults[i].words[w]) == NULL) {
				fail_msg("'%s' is not in: %s", faults[i].words[w], err.text);
			}
		}
		done();
	}
}

/* Long and strange values are cut where a character ends. */
static void
test_long_value(void **state)
{
	char text[512] = "{\"name\":[\"";

	for (int i = 0; i < 100; i++) {
		strcat(text, "\xc3\xa4");
	}
	strcat(text, "\"]}");
	assert_int_equal(decode("bdev_null_delete", text), -32603);
	assert_non_null(strstr(err.text, "..., but must be a string"));
	json_t *valid = json_string(err.text);
	assert_non_null(valid);
	json_decref(valid);
	done();
}

/* Whatever is given in the place of a secret, no error shows it. */
static void
test_secrets(void **state)
{
	static const struct {
		const char *method, *params, *name;
	} given[] = {
		{"accel_crypto_key_create", "{\"name\":\"k\",\"cipher\":\"AES_XTS\",\"key\":[\"s3cret\"]}", "'key'"},
		{"accel_crypto_key_create", "{\"name\":\"k\",\"cipher\":\"AES_XTS\",\"key2\":{\"s3cret\":1}}", "'key2'"},
		{"bdev_crypto_create", "{\"base_bdev_name\":\"b\",\"name\":\"c\",\"key\":[\"s3cret\"]}", "'key'"},
		{"bdev_crypto_create", "{\"base_bdev_name\":\"b\",\"name\":\"c\",\"key2\":[\"s3cret\"]}", "'key2'"},
		{"berth_authenticate", "{\"token\":[\"s3cret\"]}", "'token'"},
		{"bdev_iscsi_create",
		 "{\"name\":\"i\",\"initiator_iqn\":\"iqn.a\",\"url\":[\"iscsi://u%s3cret@h/t/0\"]}", "'url'"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(given); i++) {
		assert_int_not_equal(decode(given[i].method, given[i].params), 0);
		if (strstr(err.text, "s3cret") != NULL || strstr(err.text, given[i].name) == NULL ||
		    strstr(err.text, "must be") == NULL) {
			fail_msg("%s: %s", given[i].params, err.text);
		}
		done();
	}
}

static bool
named_as_secret(const char *name)
{
	static const char *const names[] = {"key", "key2", "token", "url", "password", "config_param"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		if (strcmp(name, names[i]) == 0) {
			return true;
		}
	}
	return false;
}

/* Every field of every structure lies where the table says, and no two share bytes. */
static void
test_table(void **state)
{
	for (size_t m = 0; m < rpc_schema_count; m++) {
		const struct rpc_schema *s = &rpc_schema_table[m];
		uint8_t *bytes = calloc(1, s->params_bytes + 1);

		assert_ptr_equal(rpc_schema_find(s->name), s);
		for (const char *const *a = s->aliases; *a != NULL; a++) {
			assert_ptr_equal(rpc_schema_find(*a), s);
		}
		for (size_t i = 0; i < s->param_count; i++) {
			const struct rpc_param *p = &s->params[i];

			assert_true(p->secret || !named_as_secret(p->name));
			if (p->neutral) {
				continue;
			}
			assert_true(p->offset < s->params_bytes && bytes[p->offset]++ == 0);
			assert_true(p->required || (p->has_offset < s->params_bytes && bytes[p->has_offset]++ == 0));
		}
		free(bytes);
	}
	assert_null(rpc_schema_find("no_such_method"));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_enum_spelling),
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_faults),
		cmocka_unit_test(test_long_value),
		cmocka_unit_test(test_secrets),
		cmocka_unit_test(test_table),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
