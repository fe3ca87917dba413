/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "app/config_file.h"
#include "base/check.h"

static int
read_text(const char *text, json_t **ret_calls, struct err *err)
{
	char path[] = "/tmp/config-XXXXXX";
	int fd = mkstemp(path);
	int rc;

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
	rc = config_file_read(path, ret_calls, err);
	if (rc != 0 && strstr(err->text, path) == NULL) {
		fail_msg("'%s' does not name the file", err->text);
	}
	unlink(path);
	return rc;
}

static void
test_good(void **state)
{
	static const char text[] =
		"// a comment\n"
		"{\"subsystems\": [ /* another\n one */\n"
		"  {\"subsystem\": \"scheduler\", \"config\": null},\n"
		"  {\"subsystem\": \"none\"},\n"
		"  {\"subsystem\": \"bdev\", \"config\": [\n"
		"    {\"method\": \"a\", \"params\": {\"path\": \"http://x/*no comment*/\\\" // "
		"nor this\"}},\n"
		"    [{\"method\": \"b\"}, {\"method\": \"c\", \"params\": {}}],\n"
		"    {\"method\": \"d\"}]}]}\n";
	static const char *const wheres[] = {
		"subsystems[2] (bdev), call 1",
		"subsystems[2] (bdev), call 2",
		"subsystems[2] (bdev), call 3",
		"subsystems[2] (bdev), call 4",
	};
	struct err err = ERR_NONE;
	json_t *calls = NULL;

	assert_int_equal(read_text(text, &calls, &err), 0);
	assert_int_equal(json_array_size(calls), 4);
	for (size_t i = 0; i < 4; i++) {
		json_t *call = json_array_get(calls, i);
		char method[] = {(char)('a' + i), '\0'};

		assert_string_equal(json_string_value(json_object_get(call, "method")), method);
		assert_string_equal(json_string_value(json_object_get(call, "where")), wheres[i]);
	}
	assert_string_equal(json_string_value(json_object_get(
				    json_object_get(json_array_get(calls, 0), "params"), "path")),
			    "http://x/*no comment*/\" // nor this");
	json_decref(calls);
	assert_int_equal(read_text("{\"subsystems\": []}", &calls, &err), 0);
	json_decref(calls);
}

static void
test_bad(void **state)
{
	static const struct {
		const char *text, *words;
	} cases[] = {
		{"", "line 1"},
		{"{\"subsystems\":\n [,]}", "line 2, column 3"},
		{"// x\n/* y\n */ {\"subsystems\": 1 2}", "line 3"},
		{"{\"a\":1,\"a\":2}", "duplicate"},
		{"[]", "not an object with an array of subsystems"},
		{"{\"subsystems\":{}}", "not an object with an array of subsystems"},
		{"{\"subsystems\":[1]}", "subsystems[0]: not an object with a subsystem"},
		{"{\"subsystems\":[{\"subsystem\":\"x\"},{\"subsystem\":\"bdev\",\"config\":{}}]}",
		 "subsystems[1] (bdev): config is neither"},
		{"{\"subsystems\":[{\"subsystem\":\"bdev\",\"config\":[{\"method\":\"m\"},7]}]}",
		 "subsystems[0] (bdev), call 2: not an object with a method"},
		{"{\"subsystems\":[{\"subsystem\":\"bdev\",\"config\":[[{\"method\":1}]]}]}",
		 "subsystems[0] (bdev), call 1: not an object with a method"},
		{"{\"subsystems\":[{\"subsystem\":\"bdev\",\"config\":[{\"method\":\"m\","
		 "\"params\":[]}]}]}",
		 "call 1 (m): params is not an object"},
		{"{\"subsystems\":[{\"subsystem\":\"bdev\",\"config\":[{\"method\":\"m\",\"parms\":"
		 "{}}]}]}",
		 "call 1 (m): 'parms' belongs to no call"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = ERR_NONE;
		json_t *calls = NULL;

		assert_int_equal(read_text(cases[i].text, &calls, &err), -EINVAL);
		assert_null(calls);
		if (strstr(err.text, cases[i].words) == NULL) {
			fail_msg("'%s' does not say '%s'", err.text, cases[i].words);
		}
	}
}

static void
test_unreadable(void **state)
{
	struct err err = ERR_NONE;
	json_t *calls = NULL;

	assert_int_equal(config_file_read("/nonexistent/berth.json", &calls, &err), -ENOENT);
	assert_non_null(strstr(err.text, "/nonexistent/berth.json"));
	assert_int_equal(config_file_read("/tmp", &calls, &err), -EISDIR);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_good),
		cmocka_unit_test(test_bad),
		cmocka_unit_test(test_unreadable),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
