/* SPDX-License-Identifier: BSD-3-Clause */
/* What is replayed after which log, what is kept of what could not be, and when the log is
 * written anew and synced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "app/state.h"
#include "app/state_log.h"
#include "base/check.h"
#include "base/log.h"
#include "event/reactor.h"

#define ROUNDS_MAX 5000

static char dir[64];
static struct reactor *reactor;
static struct thread *thread;
static struct worker *worker;
static struct state *state_now;
static json_t *live_calls;
static unsigned live_asked;
static int restored_status;

/* ---- Running things on the thread ---- */

struct task {
	struct msg msg;
	void (*fn)(void *ctx);
	void *ctx;
	bool done;
};

static void
run_task(struct msg *msg)
{
	struct task *task = CONTAINER_OF(msg, struct task, msg);

	task->fn(task->ctx);
	task->done = true;
}

static void
on_thread(void (*fn)(void *ctx), void *ctx)
{
	struct task task = {.fn = fn, .ctx = ctx};

	thread_send(thread, &task.msg, run_task);
	while (!task.done) {
		reactor_poll_once(reactor);
	}
}

static void
wait_for(const bool *flag)
{
	for (int i = 0; i < ROUNDS_MAX && !*flag; i++) {
		reactor_poll_wait(reactor, 1000);
	}
	assert_true(*flag);
}

static void
exit_task(void *ctx)
{
	thread_exit();
}

/* ---- Files ---- */

static char *
file(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void
write_log(const char *text)
{
	FILE *f = fopen(file(STATE_LOG_FILE), "w");

	assert_non_null(f);
	fprintf(f, "%s\n%s", STATE_LOG_HEADER, text);
	fclose(f);
}

static void
expect_log(const char *text)
{
	char expected[8192], found[8192];
	FILE *f = fopen(file(STATE_LOG_FILE), "r");

	assert_non_null(f);
	found[fread(found, 1, sizeof(found) - 1, f)] = '\0';
	fclose(f);
	snprintf(expected, sizeof(expected), "%s\n%s", STATE_LOG_HEADER, text);
	assert_string_equal(found, expected);
}

static size_t
log_lines(void)
{
	FILE *f = fopen(file(STATE_LOG_FILE), "r");
	size_t lines = 0;
	int c;

	while ((c = fgetc(f)) != EOF) {
		lines += c == '\n';
	}
	fclose(f);
	return lines - 1;
}

/* ---- Around each test ---- */

static int
set_up(void **state)
{
	log_set_print_level(LOG_LEVEL_DISABLED);
	snprintf(dir, sizeof(dir), "/tmp/state-XXXXXX");
	if (mkdtemp(dir) == NULL) {
		return -1;
	}
	reactor = reactor_create(0, -1, REACTOR_INTERRUPT, NULL);
	thread = thread_create("t", reactor);
	worker = worker_create("test", NULL);
	live_calls = json_array();
	live_asked = 0;
	state_now = NULL;
	return 0;
}

static int
tear_down(void **state)
{
	static const char *const names[] = {STATE_LOG_FILE, STATE_LOG_NEW_FILE, STATE_LOCK_FILE};

	on_thread(exit_task, NULL);
	worker_free(worker);
	reactor_poll_once(reactor);
	reactor_free(reactor);
	json_decref(live_calls);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		unlink(file(names[i]));
	}
	return rmdir(dir);
}

static json_t *
live(void)
{
	live_asked++;
	return json_incref(live_calls);
}

static void
open_task(void *ctx)
{
	struct state_options options = {.dir = dir, .worker = worker, .live = live};
	struct err err = ERR_NONE;

	if (state_open(&options, &state_now, &err) != 0) {
		fail_msg("%s", err.text);
	}
}

static bool restored_flag, closed_flag;

static void
restored(void *ctx, int status)
{
	restored_status = status;
	restored_flag = true;
}

static void
restored_task(void *ctx)
{
	restored_flag = false;
	state_restored(state_now, restored, NULL);
}

static void
on_closed(void *ctx)
{
	closed_flag = true;
}

static void
close_task(void *ctx)
{
	closed_flag = false;
	state_close(state_now, on_closed, NULL);
}

static void
close_state(void)
{
	on_thread(close_task, NULL);
	wait_for(&closed_flag);
}

static void
record_task(void *ctx)
{
	const char *name = ctx;
	json_t *params = json_pack("{s:s}", "name", name);

	assert_int_equal(state_record(state_now, "bdev_null_create", params, NULL), 0);
	json_decref(params);
}

static void
delete_task(void *ctx)
{
	json_t *params = json_pack("{s:s}", "name", (const char *)ctx);

	assert_int_equal(state_record(state_now, "bdev_null_delete", params, NULL), 0);
	json_decref(params);
}

static void
fail_task(void *ctx)
{
	state_call_failed(state_now, *(size_t *)ctx, "no such file");
}

/* The methods and names of what would be replayed: "bdev_null_create n0;..." */
static void
expect_calls(const char *expected)
{
	char found[1024] = "";
	json_t *call;
	size_t i;

	json_array_foreach (state_calls(state_now), i, call) {
		json_t *params = json_object_get(call, "params");
		const char *name = json_string_value(json_object_get(params, "name"));

		if (name == NULL) {
			name = json_string_value(json_object_get(params, "ctrlr"));
		}
		snprintf(found + strlen(found), sizeof(found) - strlen(found), "%s %s;",
			 json_string_value(json_object_get(call, "method")),
			 name != NULL ? name : "-");
	}
	assert_string_equal(found, expected);
}

#define NULL_CREATE(name) "{\"method\":\"bdev_null_create\",\"params\":{\"name\":\"" name "\"}}\n"
#define NULL_DELETE(name) "{\"method\":\"bdev_null_delete\",\"params\":{\"name\":\"" name "\"}}\n"
#define VHOST_CREATE(name) \
	"{\"method\":\"vhost_create_blk_controller\",\"params\":{\"ctrlr\":\"" name "\"}}\n"
#define VHOST_DELETE(name) \
	"{\"method\":\"vhost_delete_controller\",\"params\":{\"ctrlr\":\"" name "\"}}\n"

static void
add_live(const char *line)
{
	json_array_append_new(live_calls, json_loads(line, JSON_DISABLE_EOF_CHECK, NULL));
}

/* ---- Tests ---- */

static void
test_empty_and_back(void **state)
{
	on_thread(open_task, NULL);
	assert_true(state_empty(state_now));
	expect_calls("");
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	on_thread(record_task, (void *)"a");
	/* In the file before the call is answered, not only after the sync. */
	expect_log(NULL_CREATE("a"));
	on_thread(record_task, (void *)"b");
	close_state();
	on_thread(open_task, NULL);
	assert_false(state_empty(state_now));
	expect_calls("bdev_null_create a;bdev_null_create b;");
	add_live(NULL_CREATE("a"));
	add_live(NULL_CREATE("b"));
	on_thread(restored_task, NULL);
	assert_true(restored_flag); /* nothing to write */
	close_state();
	expect_log(NULL_CREATE("a") NULL_CREATE("b"));
}

static void
test_deleted_are_left_out(void **state)
{
	write_log(NULL_CREATE("z") VHOST_CREATE("z") NULL_DELETE("z") VHOST_DELETE("z")
			  NULL_CREATE("a") VHOST_CREATE("c") VHOST_DELETE("c") NULL_DELETE("a")
				  NULL_CREATE("b") NULL_CREATE("a") VHOST_CREATE("c")
					  NULL_DELETE("x") VHOST_DELETE("d"));
	on_thread(open_task, NULL);
	expect_calls("bdev_null_create b;bdev_null_create a;vhost_create_blk_controller "
		     "c;bdev_null_delete x;"
		     "vhost_delete_controller d;");
	/* A delete that finds nothing is no loss. */
	for (size_t i = 3; i < 5; i++) {
		on_thread(fail_task, &i);
	}
	add_live(NULL_CREATE("b"));
	add_live(NULL_CREATE("a"));
	add_live(VHOST_CREATE("c"));
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	assert_int_equal(restored_status, 0);
	close_state();
	expect_log(NULL_CREATE("b") NULL_CREATE("a") VHOST_CREATE("c"));
}

static void
forget_task(void *ctx)
{
	assert_false(state_forget(state_now, "vhost_", "gone"));
	assert_false(state_forget(state_now, "bdev_null_", "other"));
	assert_true(state_forget(state_now, "bdev_null_", "gone"));
	assert_false(state_forget(state_now, "bdev_null_", "gone"));
}

static void
not_lost_task(void *ctx)
{
	assert_false(state_forget(state_now, "bdev_aio_", "a"));
}

/* What was lost and made anew since is not lost any more, be it found at start or while running. */
static void
test_made_anew(void **state)
{
	size_t first = 0;

	write_log("{\"method\":\"bdev_aio_create\",\"params\":{\"name\":\"a\"}}\n" VHOST_CREATE("a")
			  NULL_CREATE("a"));
	on_thread(open_task, NULL);
	expect_calls("bdev_null_create a;vhost_create_blk_controller a;");
	close_state();
	write_log(
		"{\"method\":\"bdev_aio_create\",\"params\":{\"name\":\"a\"}}\n" VHOST_CREATE("a"));
	on_thread(open_task, NULL);
	on_thread(fail_task, &first);
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	on_thread(record_task, (void *)"a");
	on_thread(not_lost_task, NULL);
	close_state();
}

/* What cannot be read or made is kept behind what is there, over any number of starts, until it
 * is deleted by name. */
/* A change to what ended without a call of its own is no loss, unless something else is lost that would explain it. */
static void
test_orphans(void **state)
{
	static const char qos[] = "{\"method\":\"bdev_set_qos_limit\",\"params\":{\"name\":\"d\"}}\n";
	char log[512];
	size_t index = 0;

	write_log(qos);
	on_thread(open_task, NULL);
	expect_calls("bdev_set_qos_limit d;");
	on_thread(fail_task, &index);
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	close_state();
	expect_log("");

	snprintf(log, sizeof(log), "%s%s", NULL_CREATE("d"), qos);
	write_log(log);
	on_thread(open_task, NULL);
	for (index = 0; index < 2; index++) {
		on_thread(fail_task, &index);
	}
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	close_state();
	expect_log(log);
}

static void
test_lost_entries_are_kept(void **state)
{
	static const char broken[] = "garbage\n{\"method\":7}\n\n";
	size_t first = 0;

	write_log(NULL_CREATE("gone") "garbage\n{\"method\":7}\n\n" NULL_CREATE("a"));
	for (int i = 0; i < 3; i++) {
		char expected[512];

		on_thread(open_task, NULL);
		if (i == 0) {
			expect_calls("bdev_null_create gone;bdev_null_create a;");
			add_live(NULL_CREATE("a"));
		} else {
			expect_calls("bdev_null_create a;bdev_null_create gone;");
			first = 1;
		}
		on_thread(fail_task, &first);
		on_thread(restored_task, NULL);
		wait_for(&restored_flag);
		if (i == 2) {
			on_thread(forget_task, NULL);
		}
		close_state();
		snprintf(expected, sizeof(expected), "%s%s%s", NULL_CREATE("a"), broken,
			 NULL_CREATE("gone"));
		expect_log(expected);
	}
}

static void
test_torn_line(void **state)
{
	write_log(NULL_CREATE("a") "{\"method\":\"bdev_null_create\",\"par");
	on_thread(open_task, NULL);
	expect_calls("bdev_null_create a;");
	close_state();
	expect_log(NULL_CREATE("a"));
}

/* Calls recorded while the log is being written anew are in the new one. */
static void
test_growth(void **state)
{
	char name[32];
	size_t most = 0;

	add_live(NULL_CREATE("one"));
	on_thread(open_task, NULL);
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	for (int i = 0; i < 5000; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		on_thread(record_task, name);
		if (i % 100 == 0) {
			reactor_poll_wait(reactor, 2000);
			most = MAX(most, log_lines());
		}
	}
	/* It lives, too: a log that is begun after it has it from there. */
	add_live(NULL_CREATE("last"));
	snprintf(name, sizeof(name), "last");
	on_thread(record_task, name);
	close_state();
	assert_true(most < 4000);
	assert_true(log_lines() < 4000);
	on_thread(open_task, NULL);
	{
		json_t *calls = state_calls(state_now);
		json_t *last = json_array_get(calls, json_array_size(calls) - 1);

		assert_string_equal(
			json_string_value(json_object_get(json_object_get(last, "params"), "name")),
			"last");
		assert_string_equal(
			json_string_value(json_object_get(
				json_object_get(json_array_get(calls, 0), "params"), "name")),
			"one");
	}
	close_state();
}

/* Objects that come and go: the log is shortened from its own lines, and the app thread need not say what there is. */
static void
test_churn(void **state)
{
	static const char broken[] = "garbage\n";
	char name[32], log[512];
	size_t first = 1, most = 0;

	snprintf(log, sizeof(log), "%s%s%s", NULL_CREATE("kept"), broken, NULL_CREATE("lost"));
	write_log(log);
	on_thread(open_task, NULL);
	on_thread(fail_task, &first);
	add_live(NULL_CREATE("kept"));
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	live_asked = 0;
	on_thread(record_task, (void *)"late");
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "n%d", i % 7);
		on_thread(record_task, name);
		on_thread(delete_task, name);
		if (i % 50 == 0) {
			reactor_poll_wait(reactor, 2000);
			most = MAX(most, log_lines());
		}
	}
	close_state();
	assert_int_equal(live_asked, 0);
	assert_true(most > 500 && most < 4000);
	assert_true(log_lines() < 4000);
	on_thread(open_task, NULL);
	expect_calls("bdev_null_create kept;bdev_null_create lost;bdev_null_create late;");
	first = 1;
	on_thread(fail_task, &first);
	add_live(NULL_CREATE("late"));
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	close_state();
	snprintf(log, sizeof(log), "%s%s%s%s", NULL_CREATE("kept"), NULL_CREATE("late"), broken, NULL_CREATE("lost"));
	expect_log(log);
}

/* What ended without a call of its own stays in the log until that is seen from what there is. */
static void
test_ends_without_calls(void **state)
{
	char name[32];

	add_live(NULL_CREATE("one"));
	on_thread(open_task, NULL);
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	live_asked = 0;
	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof(name), "n%d", i);
		on_thread(record_task, name);
		if (i % 50 == 0) {
			reactor_poll_wait(reactor, 2000);
		}
	}
	for (int i = 0; i < 20; i++) {
		reactor_poll_wait(reactor, 2000);
	}
	close_state();
	assert_in_range(live_asked, 1, 5);
	assert_true(log_lines() < 2500);
}

/* Once all is synced, nothing runs any more. */
static void
test_quiet_when_clean(void **state)
{
	struct reactor_stats before, after;

	on_thread(open_task, NULL);
	on_thread(restored_task, NULL);
	wait_for(&restored_flag);
	on_thread(record_task, (void *)"a");
	assert_true(reactor_next_timer_ns(reactor) != UINT64_MAX);
	for (int i = 0; i < ROUNDS_MAX && reactor_next_timer_ns(reactor) != UINT64_MAX; i++) {
		reactor_poll_wait(reactor, 10000);
	}
	for (int i = 0; i < 20; i++) {
		reactor_poll_wait(reactor, 5000);
	}
	assert_true(reactor_next_timer_ns(reactor) == UINT64_MAX);
	reactor_get_stats(reactor, &before);
	reactor_poll_wait(reactor, 50000);
	reactor_get_stats(reactor, &after);
	assert_true(after.wakeups - before.wakeups <= 1);
	close_state();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_empty_and_back, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_deleted_are_left_out, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_orphans, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_lost_entries_are_kept, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_made_anew, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_torn_line, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_growth, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_churn, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_ends_without_calls, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_quiet_when_clean, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
