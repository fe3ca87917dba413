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
	/* A volume was found, not made: its deletion ends what was set for it, and is not carried out again. */
	calls = json_array();
	add(calls, "bdev_set_qos_limit", "name", "v");
	add(calls, "bdev_set_qos_limit", "name", "w");
	add(calls, "bdev_lvol_delete", "name", "v");
	check_needed(calls, "bdev_set_qos_limit w");
}

/* Bdevs of all kinds share their names. */
static void
test_rivals(void **state)
{
	json_t *calls = json_array();

	add(calls, "bdev_aio_create", "name", "a");
	add(calls, "bdev_malloc_create", "name", "a");
	add(calls, "bdev_aio_create", "name", "b");
	add(calls, "bdev_null_delete", "name", "b");
	check_needed(calls, "bdev_malloc_create a");
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
add_call(json_t *calls, const char *call)
{
	json_array_append_new(calls, json_loads(call, 0, NULL));
}

/* A further create says what the object has become, and stands where the first one did: others are made on it. */
static void
test_changed(void **state)
{
	json_t *calls = json_array(), *needed;

	add(calls, "bdev_raid_create", "name", "r");
	add(calls, "vhost_create_blk_controller", "ctrlr", "c");
	add(calls, "bdev_raid_grow", "name", "r");
	add(calls, "bdev_set_qos_limit", "name", "r");
	add_call(calls, "{\"method\": \"bdev_raid_create\", \"params\": {\"name\": \"r\", \"base_bdevs\": [\"x\"]}}");
	add(calls, "bdev_raid_remove_base_bdev", "name", "r");
	needed = state_calls_needed(calls);
	assert_non_null(json_object_get(json_object_get(json_array_get(needed, 0), "params"), "base_bdevs"));
	json_decref(needed);
	json_incref(calls);
	check_needed(calls, "bdev_raid_create r, vhost_create_blk_controller c, bdev_set_qos_limit r, "
			    "bdev_raid_remove_base_bdev r");
	json_incref(calls);
	add_call(calls, "{\"method\": \"bdev_raid_create\", \"params\": {\"name\": \"r\", \"base_bdevs\": [\"y\"]}}");
	check_needed(calls, "bdev_raid_create r, vhost_create_blk_controller c, bdev_set_qos_limit r, "
			    "bdev_raid_remove_base_bdev r");
	add(calls, "bdev_raid_delete", "name", "r");
	check_needed(calls, "vhost_create_blk_controller c, bdev_raid_remove_base_bdev r");
}

/* Objects whose methods name them in different ways. */
static void
test_names(void **state)
{
	static const struct {
		const char *call;
		const char *object;
		enum state_verb verb;
	} cases[] = {
		{"{\"method\": \"bdev_malloc_create\", \"params\": {\"name\": \"m\"}}", "bdev/m", STATE_CREATES},
		{"{\"method\": \"bdev_error_create\", \"params\": {\"base_name\": \"m\"}}", "bdev/EE_m", STATE_CREATES},
		{"{\"method\": \"bdev_error_delete\", \"params\": {\"name\": \"EE_m\"}}", "bdev/EE_m", STATE_DELETES},
		{"{\"method\": \"bdev_split_create\", \"params\": {\"base_bdev\": \"m\"}}", "split/m", STATE_CREATES},
		{"{\"method\": \"bdev_split_delete\", \"params\": {\"base_bdev\": \"m\"}}", "split/m", STATE_DELETES},
		{"{\"method\": \"bdev_delay_update_latency\", \"params\": {\"delay_bdev_name\": \"d\"}}", "bdev/d",
		 STATE_CHANGES},
		{"{\"method\": \"bdev_raid_add_base_bdev\", \"params\": {\"raid_bdev\": \"r\", \"base_bdev\": \"m\"}}",
		 "bdev/r", STATE_CHANGES},
		{"{\"method\": \"bdev_raid_remove_base_bdev\", \"params\": {\"name\": \"m\"}}", NULL, STATE_CHANGES},
		{"{\"method\": \"bdev_set_options\", \"params\": {}}", NULL, STATE_CHANGES},
		{"{\"method\": \"bdev_virtio_attach_controller\", \"params\": {\"name\": \"v\"}}", "bdev/v", STATE_CREATES},
		{"{\"method\": \"bdev_virtio_detach_controller\", \"params\": {\"name\": \"v\"}}", "bdev/v", STATE_DELETES},
		{"{\"method\": \"nbd_start_disk\", \"params\": {\"bdev_name\": \"m\", \"nbd_device\": \"/dev/nbd0\"}}",
		 "nbd//dev/nbd0", STATE_CREATES},
		{"{\"method\": \"nbd_stop_disk\", \"params\": {\"nbd_device\": \"/dev/nbd0\"}}", "nbd//dev/nbd0", STATE_DELETES},
		{"{\"method\": \"accel_crypto_key_create\", \"params\": {\"name\": \"k\"}}", "key/k", STATE_CREATES},
		{"{\"method\": \"accel_crypto_key_destroy\", \"params\": {\"key_name\": \"k\"}}", "key/k", STATE_DELETES},
		{"{\"method\": \"vhost_delete_controller\", \"params\": {\"ctrlr\": \"c\"}}", "controller/c", STATE_DELETES},
		{"{\"method\": \"berth_disk_delete\", \"params\": {\"name\": \"d\"}}", "disk/d", STATE_DELETES},
		{"{\"method\": \"scheduler_set_options\"}", NULL, STATE_CHANGES},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		json_t *call = json_loads(cases[i].call, 0, NULL);
		const char *method = json_string_value(json_object_get(call, "method"));
		char *object = state_object_of(method, json_object_get(call, "params"));

		if (cases[i].object == NULL) {
			assert_null(object);
		} else {
			assert_string_equal(object, cases[i].object);
			assert_true(state_call_is(call, "", strchr(object, '/') + 1));
			assert_false(state_call_is(call, "x", strchr(object, '/') + 1));
			assert_false(state_call_is(call, "", "no"));
		}
		assert_int_equal(state_verb_of(method), cases[i].verb);
		free(object);
		json_decref(call);
	}
}

/* A base and what stands on it have the same parameter with different meanings. */
static void
test_split_keeps_its_base(void **state)
{
	json_t *calls = json_array();

	add(calls, "bdev_aio_create", "name", "a");
	add(calls, "bdev_split_create", "base_bdev", "a");
	json_incref(calls);
	check_needed(calls, "bdev_aio_create a, bdev_split_create -");
	add(calls, "bdev_split_delete", "base_bdev", "a");
	check_needed(calls, "bdev_aio_create a");
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
	assert_true(state_call_is(json_array_get(needed, 0), "bdev_", name) == false);
	json_decref(needed);
	json_decref(calls);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_delete_takes_all), cmocka_unit_test(test_delete_of_another_family),
		cmocka_unit_test(test_rivals),           cmocka_unit_test(test_made_again),
		cmocka_unit_test(test_changed),          cmocka_unit_test(test_names),
		cmocka_unit_test(test_split_keeps_its_base), cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
