/* SPDX-License-Identifier: BSD-3-Clause */
/* Log lines, errors, and the clock. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/log.h"

static int saved_stderr, capture_fd[2];
static char text[8192];

/* Standard error goes into a pipe from here to captured(). */
static void
capture(void)
{
	fflush(stderr);
	saved_stderr = dup(STDERR_FILENO);
	assert_int_equal(pipe(capture_fd), 0);
	dup2(capture_fd[1], STDERR_FILENO);
	close(capture_fd[1]);
}

static const char *
captured(void)
{
	ssize_t n, len = 0;

	dup2(saved_stderr, STDERR_FILENO);
	close(saved_stderr);
	while ((n = read(capture_fd[0], text + len, sizeof(text) - 1 - (size_t)len)) > 0) {
		len += n;
	}
	close(capture_fd[0]);
	text[len] = '\0';
	return text;
}

static int
setup(void **state)
{
	unsetenv("JOURNAL_STREAM");
	log_set_print_level(LOG_LEVEL_NOTICE);
	log_set_timestamps(false);
	log_set_flag("all", false);
	return 0;
}

static void
line_names_level_flag_and_object(void **state)
{
	capture();
	LOG_ERROR(BDEV, "disk0", "cannot open %s", "x");
	LOG_WARNING(APP, "", "no object");
	LOG_NOTICE(RPC, "a", "b");
	LOG_INFO(RPC, "a", "below the level");
	assert_string_equal(captured(), "ERROR   bdev: disk0: cannot open x\nWARNING app: no object\nNOTICE  rpc: a: b\n");
}

static void
level_decides(void **state)
{
	log_set_print_level(LOG_LEVEL_ERROR);
	capture();
	LOG_WARNING(APP, "", "no");
	log_set_print_level(LOG_LEVEL_DISABLED);
	LOG_ERROR(APP, "", "no");
	log_set_print_level(LOG_LEVEL_DEBUG);
	LOG_DEBUG(APP, "", "yes");
	assert_string_equal(captured(), "DEBUG   app: yes\n");
}

static int evaluated;

static const char *
evaluate(void)
{
	evaluated++;
	return "yes";
}

static void
flag_switches_debug_lines_on(void **state)
{
	assert_int_equal(log_set_flag("vhost", true), 0);
	assert_int_equal(log_set_flag("no such flag", true), -EINVAL);
	capture();
	LOG_DEBUG(VHOST, "", "%s", evaluate());
	LOG_DEBUG(BDEV, "", "%s", evaluate());
	assert_string_equal(captured(), "DEBUG   vhost: yes\n");
	assert_int_equal(evaluated, 1);
	assert_true(log_get_flag(LOG_VHOST));
	assert_false(log_get_flag(LOG_BDEV));
	assert_string_equal(log_flag_name(LOG_VHOST), "vhost");
	log_set_flag("ALL", true);
	assert_true(log_get_flag(LOG_BDEV));
}

static void
long_lines_are_cut_and_stay_one_line(void **state)
{
	char big[3000];

	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	capture();
	LOG_ERROR(APP, "disk", "%s", big);
	LOG_ERROR(APP, big, "%s", big);
	LOG_ERROR(APP, "", "tail");
	captured();
	assert_string_equal(strrchr(text, 'E'), "ERROR   app: tail\n");
	assert_int_equal(strchr(text, '\n') - text, 1022);
	assert_int_equal(strchr(strchr(text, '\n') + 1, '\n') - text, 2045);
}

/* What a guest or a caller says must not forge lines, or move a terminal's cursor. */
static void
control_characters_do_not_reach_the_log(void **state)
{
	capture();
	LOG_ERROR(APP, "a\nERROR   app", "x\r\x1b[2J\ty\x7f \xc3\xa9");
	assert_string_equal(captured(), "ERROR   app: a?ERROR   app: x??[2J?y? \xc3\xa9\n");
}

static void
journal_gets_priorities(void **state)
{
	char where[64];
	struct stat st;

	/* Set, but standard error is something else by now. */
	setenv("JOURNAL_STREAM", "1:2", 1);
	capture();
	LOG_WARNING(APP, "", "plain");
	assert_string_equal(captured(), "WARNING app: plain\n");
	capture();
	assert_int_equal(fstat(STDERR_FILENO, &st), 0);
	snprintf(where, sizeof(where), "%ju:%ju", (uintmax_t)st.st_dev, (uintmax_t)st.st_ino);
	setenv("JOURNAL_STREAM", where, 1);
	LOG_WARNING(APP, "", "tagged");
	LOG_ERROR(APP, "", "tagged");
	assert_string_equal(captured(), "<4>app: tagged\n<3>app: tagged\n");
	unsetenv("JOURNAL_STREAM");
}

static void
timestamps_are_utc(void **state)
{
	int year, month, day, hour, minute, second, ms;

	log_set_timestamps(true);
	capture();
	LOG_ERROR(APP, "", "x");
	captured();
	assert_int_equal(sscanf(text, "%d-%d-%dT%d:%d:%d.%dZ ERROR   app: x\n", &year, &month, &day, &hour, &minute,
				&second, &ms), 7);
	assert_true(year >= 2024);
}

static void
levels_have_names(void **state)
{
	enum log_level level = LOG_LEVEL_ERROR;

	for (int i = LOG_LEVEL_DISABLED; i <= LOG_LEVEL_DEBUG; i++) {
		assert_int_equal(log_level_parse(log_level_name((enum log_level)i), &level), 0);
		assert_int_equal(level, i);
	}
	assert_int_equal(log_level_parse("warning", &level), 0);
	assert_int_equal(level, LOG_LEVEL_WARNING);
	assert_int_equal(log_level_parse("loud", &level), -EINVAL);
	log_set_level(LOG_LEVEL_INFO);
	assert_int_equal(log_get_level(), LOG_LEVEL_INFO);
	assert_int_equal(log_get_print_level(), LOG_LEVEL_NOTICE);
}

/* ---- Errors ---- */

static void
error_carries_code_and_words(void **state)
{
	struct err err = ERR_NONE;
	char big[2 * ERR_TEXT_BYTES];

	assert_int_equal(err_set(&err, -ENOENT, "no bdev %s", "x"), -ENOENT);
	err_prefix(&err, "controller %d: ", 3);
	assert_int_equal(err.code, -ENOENT);
	assert_string_equal(err_text(&err), "controller 3: no bdev x");
	assert_int_equal(err_set(NULL, -EIO, "nobody reads this"), -EIO);
	err_prefix(NULL, "nor this");
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_prefix(&err, "%s", big);
	assert_int_equal(strlen(err.text), ERR_TEXT_BYTES - 1);
	err_set(&err, -EIO, "%s", big);
	err_prefix(&err, "abc: ");
	assert_int_equal(strlen(err.text), ERR_TEXT_BYTES - 1);
	assert_memory_equal(err.text, "abc: x", 6);
	/* Without words, the C library's. */
	err = (struct err){.code = -ENOSPC};
	assert_string_equal(err_text(&err), strerror(ENOSPC));
	err_prefix(&err, "disk0: ");
	assert_string_equal(err_text(&err), "disk0: No space left on device");
}

/* ---- The clock ---- */

static void
clock_runs_and_can_be_held(void **state)
{
	uint64_t a = clock_now_ns(), b;

	usleep(2000);
	b = clock_now_ns();
	assert_true(b - a >= 2 * NS_PER_MS);
	clock_set_fake_ns(5);
	assert_int_equal(clock_now_ns(), 5);
	clock_set_fake_ns(UINT64_MAX);
	assert_true(clock_now_ns() >= b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(line_names_level_flag_and_object, setup),
		cmocka_unit_test_setup(level_decides, setup),
		cmocka_unit_test_setup(flag_switches_debug_lines_on, setup),
		cmocka_unit_test_setup(long_lines_are_cut_and_stay_one_line, setup),
		cmocka_unit_test_setup(control_characters_do_not_reach_the_log, setup),
		cmocka_unit_test_setup(journal_gets_priorities, setup),
		cmocka_unit_test_setup(timestamps_are_utc, setup),
		cmocka_unit_test_setup(levels_have_names, setup),
		cmocka_unit_test(error_carries_code_and_words),
		cmocka_unit_test(clock_runs_and_can_be_held),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
