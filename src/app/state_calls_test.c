/* SPDX-License-Identifier: BSD-3-Clause */
/* Which calls of a log are needed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "app/state_calls.h"
#include "base/check.h"

/* More than a search of all calls for each would get through in the time a test has. */
#define MANY 100000

static void
add(json_t *calls, const char *method, const char *key, const char *name)
{
	json_array_append_new(calls, json_pack("{s:s, s:{s:s}}", "method", method, "params", key, name));
}

/* calls: "method name, ..."; the same of what is needed. Takes calls. */
static void
check_needed(json_t *calls, const char *expected)
{
	json_t *needed = state_calls_needed(calls), *call;
	char text[1024] = "";
	size_t i;

	json_array_foreach (needed, i, call) {
		const json_t *params = json_object_get(call, "params");
		const char *name = json_string_value(json_object_get(params, "name"));
		size_t used = strlen(text);

		if (name == NULL) {
			name = json_string_value(json_object_get(params, "ctrlr"));
		}
		snprintf(text + used, sizeof(text) - used, "%s%s %s", used > 0 ? ", " : "",
			 json_string_value(json_object_get(call, "method")), name != NULL ? name : "-");
	}
	assert_string_equal(text, expected);
	json_decref(needed);
	json_decref(calls);
}

static void
test_delete_takes_all(void **state)
{
	json_t *calls = json_array();

	add(calls, "bdev_null_create", "name", "a");
	add(calls, "bdev_null_create", "name", "b");
	add(calls, "bdev_null_resize", "name", "a");
	add(calls, "vhost_create_blk_controller", "ctrlr", "a");
	add(calls, "bdev_null_delete", "name", "a");
	add(calls, "bdev_set_options", "other", "a");
	check_needed(calls, "bdev_null_create b, vhost_create_blk_controller a, bdev_set_options -");
}

/* A disk's controller was made by another family's call: its delete is needed. */
static void
test_delete_of_another_family(void **state)
{
	json_t *calls = json_array();

	add(calls, "berth_disk_create", "name", "d");
	add(calls, "vhost_controller_set_coalescing", "ctrlr", "d");
	add(calls, "vhost_delete_controller", "ctrlr", "d");
	check_needed(calls, "berth_disk_create d, vhost_controller_set_coalescing d, vhost_delete_controller d");
}

/* Bdevs of all kinds share their names; a delete is of one kind. */
static void
test_rivals(void **state)
{
	json_t *calls = json_array();

	add(calls, "bdev_aio_create", "name", "a");
	add(calls, "bdev_malloc_create", "name", "a");
	add(calls, "bdev_aio_create", "name", "b");
	add(calls, "bdev_null_delete", "name", "b");
	check_needed(calls, "bdev_malloc_create a, bdev_aio_create b, bdev_null_delete b");
}

static void
test_made_again(void **state)
{
	json_t *calls = json_array();

	add(calls, "vhost_create_blk_controller", "ctrlr", "a");
	add(calls, "vhost_delete_controller", "ctrlr", "a");
	add(calls, "vhost_create_blk_controller", "ctrlr", "a");
	add(calls, "vhost_controller_set_coalescing", "ctrlr", "a");
	add(calls, "vhost_delete_controller", "ctrlr", "a");
	add(calls, "vhost_create_blk_controller", "ctrlr", "a");
	check_needed(calls, "vhost_create_blk_controller a");
	check_needed(json_array(), "");
}

static void
test_many(void **state)
{
	json_t *calls = json_array(), *needed;
	char name[32];

	for (int i = 0; i < MANY; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		add(calls, "bdev_null_create", "name", name);
	}
	for (int i = 0; i < MANY - 1; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		add(calls, "bdev_null_delete", "name", name);
	}
	needed = state_calls_needed(calls);
	assert_int_equal(json_array_size(needed), 1);
	assert_true(state_call_is(json_array_get(needed, 0), "bdev_", "name", name) == false);
	json_decref(needed);
	json_decref(calls);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_delete_takes_all), cmocka_unit_test(test_delete_of_another_family),
		cmocka_unit_test(test_rivals),           cmocka_unit_test(test_made_again),
		cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
