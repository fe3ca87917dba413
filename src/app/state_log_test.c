/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What is acknowledged is there after a crash at any byte: the file is cut at every length, and a
 * rewrite is left at every point, and each time what is read is a prefix of whole lines that has
 * every line acknowledged before.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <signal.h>
#include <unistd.h>

#include <cmocka.h>

#include "app/state_log.h"
#include "base/check.h"

static char dir[64];

static const char *const lines[] = {
	"{\"method\":\"bdev_null_create\",\"params\":{\"name\":\"n0\"}}",
	"x",
	"{\"method\":\"vhost_create_blk_controller\",\"params\":{\"ctrlr\":\"c\"}}",
};

static char *
file(const char *name)
{
	static char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static int
set_up(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/state-log-XXXXXX");
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static int
tear_down(void **state)
{
	static const char *const names[] = {STATE_LOG_FILE, STATE_LOG_NEW_FILE, STATE_LOCK_FILE};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		unlink(file(names[i]));
	}
	return rmdir(dir);
}

static struct state_log *
open_log(size_t *ret_cut)
{
	struct state_log *log = NULL;
	struct err err = ERR_NONE;
	size_t cut = 0;

	if (state_log_open(dir, &log, &cut, &err) != 0) {
		fail_msg("%s", err.text);
	}
	if (ret_cut != NULL) {
		*ret_cut = cut;
	}
	return log;
}

static void
append(struct state_log *log, const char *line)
{
	assert_int_equal(state_log_append(log, line, strlen(line), NULL), 0);
}

static void
expect_text(struct state_log *log, const char *expected)
{
	size_t bytes;
	const char *text = state_log_text(log, &bytes);

	assert_string_equal(text, expected);
	assert_int_equal(bytes, strlen(expected));
}

static void
write_raw(const char *name, const char *data, size_t bytes)
{
	int fd = open(file(name), O_WRONLY | O_CREAT | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, bytes), bytes);
	close(fd);
}

static void
test_append(void **state)
{
	struct state_log *log = open_log(NULL);
	struct stat st;

	expect_text(log, "");
	assert_int_equal(state_log_lines(log), 0);
	append(log, lines[0]);
	append(log, lines[1]);
	assert_int_equal(state_log_sync(log), 0);
	assert_int_equal(state_log_lines(log), 2);
	state_log_close(log);
	assert_int_equal(stat(file(STATE_LOG_FILE), &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	log = open_log(NULL);
	assert_int_equal(state_log_lines(log), 2);
	expect_text(log, "{\"method\":\"bdev_null_create\",\"params\":{\"name\":\"n0\"}}\nx\n");
	state_log_close(log);
}

static void
test_second_user(void **state)
{
	struct state_log *log = open_log(NULL), *other = NULL;
	struct err err = ERR_NONE;
	char pid[32];
	size_t cut;

	assert_int_equal(state_log_open(dir, &other, &cut, &err), -EBUSY);
	snprintf(pid, sizeof(pid), "process %d", (int)getpid());
	assert_non_null(strstr(err.text, pid));
	assert_non_null(strstr(err.text, dir));
	state_log_close(log);
	log = open_log(NULL);
	state_log_close(log);
}

/* Cut at each length; then a line is added, and all must be readable again. */
static void
test_cut_anywhere(void **state)
{
	struct state_log *log = open_log(NULL);
	char whole[4096], expected[4096];
	size_t bytes;
	int fd;

	for (size_t i = 0; i < ARRAY_SIZE(lines); i++) {
		append(log, lines[i]);
	}
	state_log_close(log);
	fd = open(file(STATE_LOG_FILE), O_RDONLY);
	bytes = (size_t)read(fd, whole, sizeof(whole));
	close(fd);
	for (size_t len = 0; len <= bytes; len++) {
		size_t header = strlen(STATE_LOG_HEADER "\n"), cut, keep = len;

		write_raw(STATE_LOG_FILE, whole, len);
		while (keep > 0 && whole[keep - 1] != '\n') {
			keep--;
		}
		log = open_log(&cut);
		snprintf(expected, sizeof(expected), "%.*s",
			 keep > header ? (int)(keep - header) : 0, whole + header);
		expect_text(log, expected);
		assert_int_equal(cut, len < header ? 0 : len - keep);
		append(log, "last");
		state_log_close(log);
		log = open_log(&cut);
		assert_int_equal(cut, 0);
		strcat(expected, "last\n");
		expect_text(log, expected);
		state_log_close(log);
	}
}

/* A crash after each phase of a rewrite, and one that goes through; a line is acknowledged in
 * each phase. */
static void
rewrite_until(int phase, const char *expected)
{
	struct state_log *log = open_log(NULL);
	char *source = NULL;
	size_t bytes;

	append(log, "old");
	state_log_new_begin(log);
	append(log, "during1");
	assert_int_equal(state_log_new_source(log, &source, &bytes), 0);
	assert_string_equal(source, "old\n");
	assert_int_equal(bytes, strlen(source));
	free(source);
	if (phase >= 1) {
		assert_int_equal(state_log_new_write(log, "short\n", 6), 0);
		append(log, "during2");
	}
	if (phase >= 2) {
		assert_int_equal(state_log_new_follow(log), 0);
		append(log, "during3");
		assert_int_equal(state_log_sync(log), 0);
	}
	if (phase >= 3) {
		assert_int_equal(state_log_new_commit(log), 0);
		append(log, "after");
	}
	if (phase >= 4) {
		assert_int_equal(state_log_sync(log), 0);
		assert_int_equal(state_log_lines(log), 5);
	}
	/* As a crash leaves it: descriptors gone, nothing else done. */
	state_log_close(log);
	if (phase < 3) {
		write_raw(STATE_LOG_NEW_FILE, "half a li", 9);
	}
	log = open_log(NULL);
	expect_text(log, expected);
	state_log_close(log);
	unlink(file(STATE_LOG_FILE));
}

static void
test_rewrite_crash(void **state)
{
	rewrite_until(0, "old\nduring1\n");
	rewrite_until(1, "old\nduring1\nduring2\n");
	rewrite_until(2, "old\nduring1\nduring2\nduring3\n");
	rewrite_until(3, "short\nduring1\nduring2\nduring3\nafter\n");
	rewrite_until(4, "short\nduring1\nduring2\nduring3\nafter\n");
}

static void
test_rewrite_abort(void **state)
{
	struct state_log *log = open_log(NULL);

	append(log, "a");
	state_log_new_begin(log);
	append(log, "b");
	assert_int_equal(state_log_new_write(log, "", 0), 0);
	state_log_new_abort(log);
	append(log, "c");
	assert_int_equal(access(file(STATE_LOG_NEW_FILE), F_OK), -1);
	/* And once more, to the end. */
	state_log_new_begin(log);
	assert_int_equal(state_log_new_write(log, "", 0), 0);
	append(log, "d");
	assert_int_equal(state_log_new_follow(log), 0);
	assert_int_equal(state_log_sync(log), 0);
	assert_int_equal(state_log_new_commit(log), 0);
	state_log_close(log);
	log = open_log(NULL);
	expect_text(log, "d\n");
	state_log_close(log);
}

/* A line that does not fit is not half there, and the next one that does is whole. */
static void
test_no_space(void **state)
{
	struct state_log *log = open_log(NULL);
	struct rlimit old, limit;
	struct err err = ERR_NONE;
	char line[200];

	append(log, "first");
	signal(SIGXFSZ, SIG_IGN);
	getrlimit(RLIMIT_FSIZE, &old);
	limit = old;
	limit.rlim_cur = strlen(STATE_LOG_HEADER "\nfirst\n") + 50;
	setrlimit(RLIMIT_FSIZE, &limit);
	memset(line, 'y', sizeof(line));
	assert_int_equal(state_log_append(log, line, sizeof(line), &err), -EFBIG);
	assert_non_null(strstr(err.text, dir));
	append(log, "second");
	setrlimit(RLIMIT_FSIZE, &old);
	assert_int_equal(state_log_lines(log), 2);
	state_log_close(log);
	log = open_log(NULL);
	expect_text(log, "first\nsecond\n");
	state_log_close(log);
}

static void
test_not_a_log(void **state)
{
	static const char *const cases[][2] = {
		{"hello\n", "does not begin with"},
		{"{\"berth_state\":2}\n", "later version"},
		{"{\"berth_state\":1}x", "later version"},
	};
	struct state_log *log = NULL;
	size_t cut;

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = ERR_NONE;

		write_raw(STATE_LOG_FILE, cases[i][0], strlen(cases[i][0]));
		assert_int_equal(state_log_open(dir, &log, &cut, &err), -EPROTO);
		assert_non_null(strstr(err.text, cases[i][1]));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_append, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_second_user, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_cut_anywhere, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_rewrite_crash, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_rewrite_abort, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_no_space, set_up, tear_down),
		cmocka_unit_test_setup_teardown(test_not_a_log, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
