/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <unistd.h>

#include "app/perf_bdev.h"
#include "app/perf_options.h"
#include "base/check.h"

static struct perf_options o;
static struct err err;
static char file_path[64];

static int
teardown(void **state)
{
	perf_options_release(&o);
	if (file_path[0] != '\0') {
		unlink(file_path);
		file_path[0] = '\0';
	}
	return 0;
}

/* "perf" and the words of line. */
static int
parse(const char *line)
{
	static char copy[512];
	char *argv[40] = {(char[]){"perf"}};
	int argc = 1;

	perf_options_release(&o);
	err = ERR_NONE;
	snprintf(copy, sizeof(copy), "%s", line);
	for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) {
		argv[argc++] = word;
	}
	return perf_options_parse(&o, argc, argv, &err);
}

static int
parse_file(const char *arguments, const char *text)
{
	char line[256];
	int fd;

	if (file_path[0] == '\0') {
		strcpy(file_path, "/tmp/perf-test-XXXXXX");
		fd = mkstemp(file_path);
		assert_true(fd >= 0);
		close(fd);
	}
	FILE *f = fopen(file_path, "w");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
	snprintf(line, sizeof(line), "%s --jobs %s", arguments, file_path);
	return parse(line);
}

static void
assert_wrong(int rc, const char *words)
{
	assert_int_equal(rc, -EINVAL);
	if (strstr(err.text, words) == NULL) {
		fail_msg("'%s' does not say '%s'", err.text, words);
	}
}

static void
sizes(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0},        {"4096", 4096},     {"4k", 4096},
		    {"4K", 4096},    {"4KiB", 4096},     {"4kb", 4096},
		    {"1M", 1 << 20}, {"3g", 3ull << 30}, {"2T", 2ull << 40}};
	static const char *const bad[] = {"",          "k",    "-1",
					  "4x",        "4kk",  "4 k",
					  "0x10",      "1.5G", "99999999999999999999",
					  "16777216T", "4kibx"};
	uint64_t bytes;

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(perf_parse_size(good[i].text, &bytes), 0);
		assert_int_equal(bytes, good[i].bytes);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		assert_int_equal(perf_parse_size(bad[i], &bytes), -EINVAL);
	}
}

static void
defaults(void **state)
{
	assert_int_equal(parse("--bdev null:1G"), 0);
	assert_int_equal(o.job_count, 1);
	assert_string_equal(o.jobs[0].name, "randread");
	assert_string_equal(o.jobs[0].target, "null:1G");
	assert_false(o.jobs[0].socket);
	assert_false(o.jobs[0].has_cpus);
	assert_int_equal(o.jobs[0].depth, 32);
	assert_int_equal(o.jobs[0].io_size, 4096);
	assert_int_equal(o.jobs[0].workload, PERF_RANDREAD);
	assert_int_equal(o.jobs[0].queues, 1);
	assert_int_equal(o.mode, REACTOR_POLL);
	assert_int_equal(o.time_us, 5000000);
	assert_int_equal(o.ramp_us, 0);
}

static void
every_option(void **state)
{
	assert_int_equal(parse("-s /s -q 7 -o 8k -w randrw -M 70 -m 0x5 --queues 3 --queue-size 64 "
			       "--indirect "
			       "--offset 1M --size 2M --seed 0x10 -t 0.25 --ramp 1.5 --mode "
			       "adaptive --target-pid 42 "
			       "-c conf --json --quiet"),
			 0);
	assert_true(o.jobs[0].socket);
	assert_string_equal(o.jobs[0].target, "/s");
	assert_int_equal(o.jobs[0].depth, 7);
	assert_int_equal(o.jobs[0].io_size, 8192);
	assert_int_equal(o.jobs[0].workload, PERF_RANDRW);
	assert_int_equal(o.jobs[0].read_percent, 70);
	assert_int_equal(cpumask_count(&o.jobs[0].cpus), 2);
	assert_int_equal(o.jobs[0].queues, 3);
	assert_int_equal(o.jobs[0].queue_size, 64);
	assert_true(o.jobs[0].indirect);
	assert_int_equal(o.jobs[0].offset, 1 << 20);
	assert_int_equal(o.jobs[0].size, 2 << 20);
	assert_int_equal(o.jobs[0].seed, 16);
	assert_int_equal(o.time_us, 250000);
	assert_int_equal(o.ramp_us, 1500000);
	assert_int_equal(o.mode, REACTOR_ADAPTIVE);
	assert_int_equal(o.target_pid, 42);
	assert_string_equal(o.config, "conf");
	assert_true(o.json && o.quiet);
}

/* The option and what is wrong with it are named. */
static void
wrong_command_lines(void **state)
{
	static const struct {
		const char *line;
		const char *words;
	} wrong[] = {
		{"", "--bdev"},
		{"-q 1", "--bdev"},
		{"--bdev x -q 0", "depth: '0'"},
		{"--bdev x -q 9000", "depth: '9000'"},
		{"--bdev x -q 4x", "depth: '4x'"},
		{"--bdev x -q -4", "depth: '-4'"},
		{"--bdev x -o 100", "io-size: '100'"},
		{"--bdev x -o 1G", "io-size: '1G'"},
		{"--bdev x -w sideways", "workload: 'sideways'"},
		{"--bdev x -M 101", "read-percent: '101'"},
		{"--bdev x -t 0", "time: '0'"},
		{"--bdev x -t soon", "time: 'soon'"},
		{"--bdev x --mode lazy", "mode: 'lazy'"},
		{"--bdev x -m 0xzz", "cpumask: "},
		{"--bdev x --queues 300", "queues: '300'"},
		{"-s x --queue-size 100", "queue-size: '100'"},
		{"--bdev x --queue-size 128", "for sockets"},
		{"--bdev x --indirect", "for sockets"},
		{"--bdev x -q 2 --queues 3", "3 queues"},
		{"--bdev x --nonsense", "--nonsense"},
		{"--bdev x -Z", "-Z"},
		{"--bdev", "--bdev"},
		{"--bdev x extra", "'extra'"},
		{"--jobs /nonexistent/file", "/nonexistent/file"},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		int rc = parse(wrong[i].line);

		if (rc == -ENOENT) {
			rc = -EINVAL;
		}
		assert_wrong(rc, wrong[i].words);
	}
}

static void
job_files(void **state)
{
	assert_int_equal(parse_file("-q 5 -o 512 -t 9", "# a comment\n"
							"; another\n"
							"[global]\n"
							"bdev = null:1G\n"
							"io-size=8k\n"
							"time=2\n"
							"\n"
							"[one]\n"
							"workload=write\n"
							"[two]\n"
							"  socket = /a b \n"
							"  depth=6\n"
							"indirect\n"),
			 0);
	assert_int_equal(o.job_count, 2);
	assert_int_equal(o.time_us, 2000000);
	assert_string_equal(o.jobs[0].name, "one");
	assert_string_equal(o.jobs[0].target, "null:1G");
	assert_int_equal(o.jobs[0].workload, PERF_WRITE);
	assert_int_equal(o.jobs[0].depth, 5);
	assert_int_equal(o.jobs[0].io_size, 8192);
	assert_string_equal(o.jobs[1].name, "two");
	assert_string_equal(o.jobs[1].target, "/a b");
	assert_true(o.jobs[1].socket && o.jobs[1].indirect);
	assert_int_equal(o.jobs[1].depth, 6);
	assert_int_equal(o.jobs[1].workload, PERF_RANDREAD);
}

static void
wrong_job_files(void **state)
{
	static const struct {
		const char *text;
		const char *words;
	} wrong[] = {
		{"", "no [job]"},
		{"bdev=null:1G\n", "no [job]"},
		{"[a]\n", "job 'a' has neither"},
		{"bdev=x\n[a]\n[a]\n", ":3: there are two jobs named 'a'"},
		{"bdev=x\n[a]\ndepth=0\n", ":3: depth: '0'"},
		{"bdev=x\n[a]\nspeed=high\n", ":3: there is no key 'speed'"},
		{"bdev=x\n[a]\ndepth\n", ":3: 'depth' needs a value"},
		{"bdev=x\n[a]\nindirect=1\n", ":3: 'indirect' takes no value"},
		{"bdev=x\n[a]\ntime=1\n", "'time' belongs to [global]"},
		{"jobs=x\n", ":1: there is no key 'jobs'"},
		{"bdev=x\n[a]\n[global]\n", "[global] comes before"},
		{"[a\n", "'[a'"},
		{"[]\n", "'[]'"},
		{"bdev=\n", "bdev: ''"},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		assert_wrong(parse_file("", wrong[i].text), wrong[i].words);
	}
}

static void
too_many_jobs(void **state)
{
	char text[PERF_JOBS_MAX * 8 + 64] = "bdev=x\n";

	for (unsigned i = 0; i <= PERF_JOBS_MAX; i++) {
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "[%u]\n", i);
	}
	assert_wrong(parse_file("", text), "one more than 64");
}

static void
bdev_specifications(void **state)
{
	static const struct {
		const char *text;
		struct perf_bdev_spec spec;
	} good[] = {
		{"null:1G", {PERF_BDEV_NULL, 1 << 30, 512, NULL}},
		{"malloc:64M:4096", {PERF_BDEV_MALLOC, 64 << 20, 4096, NULL}},
		{"malloc:64M:4k", {PERF_BDEV_MALLOC, 64 << 20, 4096, NULL}},
		{"aio:/a/b", {PERF_BDEV_AIO, 0, 0, (char *)(uintptr_t) "/a/b"}},
		{"aio:/a/b:512", {PERF_BDEV_AIO, 0, 512, (char *)(uintptr_t) "/a/b"}},
		{"uring:/a:b/c", {PERF_BDEV_URING, 0, 0, (char *)(uintptr_t) "/a:b/c"}},
		{"disk0", {PERF_BDEV_NAME, 0, 0, (char *)(uintptr_t) "disk0"}},
	};
	static const char *const bad[] = {
		"null:",  "null:x", "null:0", "malloc:1G:100",    "malloc:1G:128k",
		"nvme:1", ":1",     "aio:",   "null:1G:4096:4096"};
	struct perf_bdev_spec spec;

	for (unsigned i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(perf_bdev_parse(good[i].text, &spec, &err), 0);
		assert_int_equal(spec.kind, good[i].spec.kind);
		assert_int_equal(spec.bytes, good[i].spec.bytes);
		assert_int_equal(spec.block_size, good[i].spec.block_size);
		if (good[i].spec.path != NULL) {
			assert_string_equal(spec.path, good[i].spec.path);
		}
		free(spec.path);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
		err = ERR_NONE;
		assert_wrong(perf_bdev_parse(bad[i], &spec, &err), bad[i]);
	}
}

#define TEST(fn) cmocka_unit_test_teardown(fn, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(sizes),         TEST(defaults),
		TEST(every_option),  TEST(wrong_command_lines),
		TEST(job_files),     TEST(wrong_job_files),
		TEST(too_many_jobs), TEST(bdev_specifications),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
