/* SPDX-License-Identifier: BSD-3-Clause */
/* berth perf as a whole, each run in a process of its own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "app/perf.h"
#include "base/check.h"

static char dir[64];
static char output[65536];
static char errors[8192];

static int
setup(void **state)
{
	strcpy(dir, "/tmp/perf-test-XXXXXX");
	return mkdtemp(dir) != NULL ? 0 : -1;
}

static const char *
in_dir(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void
make_file(const char *name, off_t bytes)
{
	int fd = open(in_dir(name), O_CREAT | O_RDWR | O_TRUNC, 0600);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	close(fd);
}

static int
teardown(void **state)
{
	static const char *const names[] = {"disk", "out", "err", "jobs", "silent"};

	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		unlink(in_dir(names[i]));
	}
	return rmdir(dir);
}

/* Starts `perf` with the words of a line, in which % stands for the test's directory. */
static pid_t
start(const char *line)
{
	static char copy[1024];
	char *argv[40] = {(char[]){"perf"}};
	int argc = 1;
	size_t len = 0;
	pid_t pid;

	for (const char *c = line; *c != '\0'; c++) {
		len += (size_t)snprintf(copy + len, sizeof(copy) - len, *c == '%' ? "%s" : "%.1s",
					*c == '%' ? dir : c);
	}
	for (char *word = strtok(copy, " "); word != NULL; word = strtok(NULL, " ")) {
		argv[argc++] = word;
	}
	fflush(stdout);
	pid = fork();
	if (pid == 0) {
		int out = open(in_dir("out"), O_CREAT | O_WRONLY | O_TRUNC, 0600);
		int e = open(in_dir("err"), O_CREAT | O_WRONLY | O_TRUNC, 0600);

		dup2(out, STDOUT_FILENO);
		dup2(e, STDERR_FILENO);
		alarm(120);
		int code = perf_main(argc, argv);

		fflush(stdout);
		_exit(code);
	}
	assert_true(pid > 0);
	return pid;
}

static void
read_file(const char *name, char *buf, size_t bytes)
{
	int fd = open(in_dir(name), O_RDONLY);
	ssize_t n = read(fd, buf, bytes - 1);

	assert_true(n >= 0);
	buf[n] = '\0';
	close(fd);
}

static int
finish(pid_t pid)
{
	int status;

	assert_int_equal(waitpid(pid, &status, 0), pid);
	read_file("out", output, sizeof(output));
	read_file("err", errors, sizeof(errors));
	return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

/* Until it does I/O: it has used more time of a processor than its start takes. */
static void
wait_under_way(pid_t pid)
{
	struct timespec used = {0};
	clockid_t clock;

	assert_int_equal(clock_getcpuclockid(pid, &clock), 0);
	for (unsigned tries = 0; used.tv_sec == 0 && used.tv_nsec < 200000000; tries++) {
		assert_true(tries < 60000);
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		assert_int_equal(clock_gettime(clock, &used), 0);
	}
}

static int
perf(const char *line)
{
	return finish(start(line));
}

static void
assert_ok(int code)
{
	if (code != 0) {
		fail_msg("exit %d: %s", code, errors);
	}
}

static void
assert_fails(int code, int want, const char *words)
{
	if (code != want || strstr(errors, words) == NULL) {
		fail_msg("exit %d, '%s' does not say '%s'", code, errors, words);
	}
}

static json_t *
result(void)
{
	json_error_t error;
	json_t *root = json_loads(output, 0, &error);

	assert_non_null(root);
	return root;
}

/* On a busy machine one request may take longer than the time given: then once more, with plenty of it. */
static json_t *
some_ios(const char *bdev, const char *workload, const char *mode)
{
	static const char *const seconds[] = {"0.2", "5"};
	json_t *root = NULL;

	for (unsigned i = 0; i < ARRAY_SIZE(seconds); i++) {
		char line[256];

		snprintf(line, sizeof(line), "--bdev %s -w %s --mode %s -q 4 -t %s --json", bdev, workload, mode, seconds[i]);
		json_decref(root);
		assert_ok(perf(line));
		root = result();
		if (json_integer_value(json_object_get(json_object_get(root, "all"), "ios")) > 0) {
			break;
		}
	}
	return root;
}

static void
every_workload_in_every_mode(void **state)
{
	static const char *const workloads[] = {"randread",     "randwrite", "randrw", "read",
						"write",        "rw",        "flush",  "unmap",
						"write_zeroes", "verify"};
	static const char *const modes[] = {"poll", "interrupt", "adaptive"};

	make_file("disk", 4 << 20);
	for (unsigned i = 0; i < ARRAY_SIZE(workloads) * ARRAY_SIZE(modes); i++) {
		const char *workload = workloads[i / ARRAY_SIZE(modes)];
		json_t *root, *all, *latency;

		/* A flush of a file may take longer than all of this. */
		root = some_ios(i % 2 == 0 || strcmp(workload, "flush") == 0 ? "malloc:4M:512" : "aio:%/disk:512",
				workload, modes[i % ARRAY_SIZE(modes)]);
		assert_true(json_is_null(json_object_get(root, "error")));
		all = json_object_get(root, "all");
		latency = json_object_get(all, "latency_us");
		assert_true(json_integer_value(json_object_get(all, "ios")) > 0);
		assert_true(json_number_value(json_object_get(all, "iops")) > 0);
		assert_true(json_number_value(json_object_get(latency, "p50")) <=
			    json_number_value(json_object_get(latency, "p99")));
		assert_true(json_number_value(json_object_get(latency, "p99_9")) <=
			    json_number_value(json_object_get(latency, "max")));
		assert_true(json_number_value(json_object_get(root, "cpu_s")) > 0);
		json_decref(root);
	}
}

/*
 * A depth of n at a latency of t is n/t requests a second: what is counted agrees with what is
 * timed.
 */
static void
figures_agree(void **state)
{
	int depth_percent = 0;

	/* While no request is under way, as a machine that stands still may have it, there is no depth. */
	for (unsigned tries = 0; tries < 10 && (depth_percent < 600 || depth_percent > 1000); tries++) {
		json_t *root, *all;
		double iops, avg;

		assert_ok(perf("--bdev malloc:4M -q 8 -t 0.5 --ramp 0.1 --json"));
		root = result();
		all = json_object_get(root, "all");
		iops = json_number_value(json_object_get(all, "iops"));
		avg = json_number_value(json_object_get(json_object_get(all, "latency_us"), "avg"));
		depth_percent = (int)(iops * avg / 1e6 * 100);
		assert_in_range((int)(json_number_value(json_object_get(all, "mib_per_s")) * 256 / iops * 1000), 999, 1001);
		json_decref(root);
	}
	assert_in_range(depth_percent, 600, 1000);
}

static void
several_jobs(void **state)
{
	FILE *f = fopen(in_dir("jobs"), "w");
	json_t *root, *jobs;

	assert_non_null(f);
	fputs("[global]\nbdev=malloc:8M\ntime=0.1\n"
	      "[first]\nworkload=verify\nsize=4M\nqueues=3\ndepth=7\n"
	      "[second]\nworkload=randwrite\noffset=4M\n",
	      f);
	fclose(f);
	assert_ok(perf("--jobs %/jobs --json"));
	root = result();
	jobs = json_object_get(root, "jobs");
	assert_int_equal(json_array_size(jobs), 2);
	assert_int_equal(json_integer_value(json_object_get(json_array_get(jobs, 0), "workers")),
			 3);
	assert_true(json_integer_value(
			    json_object_get(json_array_get(jobs, 0), "blocks_compared")) > 0);
	assert_true(json_integer_value(json_object_get(json_array_get(jobs, 1), "ios")) > 0);
	json_decref(root);
	assert_ok(perf("--jobs %/jobs"));
	assert_non_null(strstr(output, "all as written"));
}

static void
configured_bdevs(void **state)
{
	FILE *f = fopen(in_dir("jobs"), "w");

	assert_non_null(f);
	fputs("{\"subsystems\": [{\"subsystem\": \"bdev\", \"config\": [{\"method\": "
	      "\"bdev_malloc_create\",\n"
	      "\"params\": {\"name\": \"Memory\", \"num_blocks\": 4096, \"block_size\": 4096}}]},\n"
	      "{\"subsystem\": \"vhost_blk\", \"config\": [{\"method\": "
	      "\"vhost_create_blk_controller\",\n"
	      "\"params\": {\"ctrlr\": \"x\", \"dev_name\": \"Memory\"}}]}]}\n",
	      f);
	fclose(f);
	assert_ok(perf("--config %/jobs --bdev Memory -w verify -t 0.1"));
	assert_ok(perf(
		"--bdev "
		"{\"method\":\"bdev_null_create\",\"params\":{\"name\":\"N\",\"num_blocks\":64,"
		"\"block_size\":512}} -t 0.1"));
	assert_fails(perf("--config %/jobs --bdev memory -t 0.1"), PERF_FAILED, "memory");
	assert_fails(perf("--config %/none --bdev Memory -t 0.1"), PERF_FAILED, "/none");
	assert_fails(perf("--bdev {\"method\":1} -t 0.1"), PERF_FAILED, "this is not");
	assert_fails(perf("--bdev {oops -t 0.1"), PERF_FAILED, "no JSON");
	assert_fails(perf("--bdev "
			  "{\"method\":\"bdev_null_create\",\"params\":{\"name\":\"N\",\"num_"
			  "blocks\":64,"
			  "\"block_size\":500}} -t 0.1"),
		     PERF_FAILED, "bdev_null_create: ");
}

/* Null forgets every write and leaves buffers alone: what a read does not bring must not pass. */
static void
verify_sees_lost_writes(void **state)
{
	assert_fails(perf("--bdev null:4M -w verify -t 0.1 -q 1"), PERF_FAILED,
		     "is wrong from byte 0 on");
}

/*
 * All that was written is read once more at the end, besides every other request, which is a
 * read.
 */
static void
verify_reads_everything_at_the_end(void **state)
{
	json_t *root, *job;
	json_int_t ios, written, compared;

	assert_ok(perf("--bdev malloc:64M:512 -w verify -o 512 -q 1 -t 0.1 --json"));
	root = result();
	job = json_array_get(json_object_get(root, "jobs"), 0);
	ios = json_integer_value(json_object_get(job, "ios"));
	written = json_integer_value(json_object_get(job, "blocks_written"));
	compared = json_integer_value(json_object_get(job, "blocks_compared"));
	assert_true(written > 1);
	assert_true(compared >= ios / 2 + written - 1);
	json_decref(root);
}

/*
 * Somebody else writes to the disk: one bit is enough, and the last pass finds it where no other
 * read has.
 */
static void
verify_sees_corruption(void **state)
{
	uint8_t block[512];
	bool flipped = false;
	char words[64] = "";
	pid_t pid;
	int fd;

	make_file("disk", 1 << 20);
	/*
	 * The range is so large for so short a time that most blocks are written and not read
	 * before the end.
	 */
	pid = start("--bdev aio:%/disk:512 -w verify -t 1 -q 1 -o 512 --json");
	fd = open(in_dir("disk"), O_RDWR);
	assert_true(fd >= 0);
	for (unsigned i = 0; !flipped && i < 500; i++) {
		for (unsigned b = 0; b < 2048 && !flipped; b++) {
			if (pread(fd, block, sizeof(block), b * 512) == 512 && block[300] != 0) {
				block[300] ^= 0x10;
				assert_int_equal(pwrite(fd, block + 300, 1, b * 512 + 300), 1);
				/*
				 * Written again just before us: then nobody will see it. Flip
				 * more than one.
				 */
				snprintf(words, sizeof(words), "is wrong from byte 296 on");
				flipped = b % 64 == 63;
			}
		}
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
	}
	close(fd);
	assert_fails(finish(pid), PERF_FAILED, words);
	assert_true(words[0] != '\0');
}

static void
wrong_targets(void **state)
{
	make_file("disk", 1 << 20);
	assert_fails(perf("--bdev aio:%/none -t 0.1"), PERF_FAILED, "/none");
	assert_fails(perf("--bdev nothing -t 0.1"), PERF_FAILED, "nothing");
	assert_fails(perf("--bdev what:1G -t 0.1"), PERF_FAILED, "what");
	assert_fails(perf("--socket %/none -t 0.1"), PERF_FAILED, "/none");
	assert_fails(perf("--bdev malloc:1M:4096 -o 512 -t 0.1"), PERF_FAILED, "4096-byte blocks");
	assert_fails(perf("--bdev malloc:1M --offset 2M -t 0.1"), PERF_FAILED, "1048576 bytes");
	assert_fails(perf("--bdev malloc:1M --size 2M -t 0.1"), PERF_FAILED, "1048576 bytes");
	assert_fails(perf("--bdev malloc:1M --offset 100 -t 0.1"), PERF_FAILED, "offset");
	assert_fails(perf("--bdev malloc:1M -w verify -q 512 -t 0.1"), PERF_FAILED, "too small");
	assert_fails(perf("--bdev malloc:1M -m [1000] -t 0.1"), PERF_USAGE, "no CPU 1000");
	assert_fails(perf("--bdev malloc:1M -q 0"), PERF_USAGE, "depth");
	assert_int_equal(chmod(in_dir("disk"), 0400), 0);
	if (geteuid() != 0) {
		assert_fails(perf("--bdev aio:%/disk -w write -t 0.1"), PERF_FAILED, "/disk");
	}
}

/* The end of the device comes while requests are under way. */
static void
io_errors(void **state)
{
	pid_t pid;

	make_file("disk", 4 << 20);
	pid = start("--bdev aio:%/disk:512 -w randread -t 100 -q 4");
	wait_under_way(pid);
	assert_int_equal(truncate(in_dir("disk"), 4096), 0);
	assert_fails(finish(pid), PERF_FAILED, "read of 8 blocks at block ");
}

/* Interrupted: the result so far, and no error. */
static void
interrupted(void **state)
{
	pid_t pid = start("--bdev malloc:1M -t 100 --json");
	json_t *root;

	wait_under_way(pid);
	kill(pid, SIGINT);
	assert_ok(finish(pid));
	root = result();
	assert_true(json_number_value(json_object_get(json_object_get(root, "all"), "seconds")) <
		    50);
	json_decref(root);
}

/* While it waits for a back end that says nothing. */
static void
interrupted_while_it_connects(void **state)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), peer;
	char byte;
	pid_t pid;

	strcpy(at.sun_path, in_dir("silent"));
	assert_true(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, 1) == 0);
	pid = start("--socket %/silent -t 100");
	peer = accept(fd, NULL, NULL);
	assert_true(peer >= 0 && read(peer, &byte, 1) == 1);
	kill(pid, SIGTERM);
	assert_fails(finish(pid), PERF_FAILED, "/silent: interrupted");
	close(peer);
	close(fd);
}

static void
target_process(void **state)
{
	char line[128];
	json_t *root;

	/* Of our own process, which waits meanwhile and has used some time before. */
	snprintf(line, sizeof(line), "--bdev malloc:1M -t 0.1 --json --target-pid %d",
		 (int)getpid());
	assert_ok(perf(line));
	root = result();
	assert_true(json_is_number(json_object_get(root, "target_cpu_s")));
	assert_true(json_number_value(json_object_get(root, "target_cpu_s")) <
		    json_number_value(json_object_get(root, "cpu_s")));
	json_decref(root);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(every_workload_in_every_mode),
		TEST(figures_agree),
		TEST(several_jobs),
		TEST(configured_bdevs),
		TEST(verify_sees_lost_writes),
		TEST(verify_reads_everything_at_the_end),
		TEST(verify_sees_corruption),
		TEST(wrong_targets),
		TEST(io_errors),
		TEST(interrupted),
		TEST(interrupted_while_it_connects),
		TEST(target_process),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
