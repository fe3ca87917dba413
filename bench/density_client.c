/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Plays many VMs: connects clients to the sockets of berthd and keeps them idle, or lets them do verified I/O in
 * bursts with random pauses. For bench/density and the end-to-end tests.
 *
 *     density-client --pattern '/run/berth/vm%u' --count 1000 --time 5
 *     density-client --pattern '/run/berth/vm%u' --count 5000 --processes 2 --hold
 *
 * The clients are spread over processes, because each takes four descriptors. "ready N" is printed
 * when all are connected and each has done one burst; with --hold they then stay as they are until standard input
 * ends. At the end one line of JSON says what they did. Exit code 1, and why on standard error, when one of them failed.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/check.h"
#include "density_crowd.h"

#define PROCESSES_MAX 64
#define CLIENTS_MAX 100000

struct options {
	struct crowd_options crowd;
	unsigned processes;
	uint64_t time_us;
	bool hold;
	bool untouched;
};

static const char usage[] =
	"usage: density-client --pattern PATH [options]\n"
	"  --pattern PATH   sockets; %u in it is a number\n"
	"  --first N        the first number (default 0)\n"
	"  --count N        clients (default 1000)\n"
	"  --processes N    that they are spread over (default 1)\n"
	"  --hold           stay connected and idle until standard input ends\n"
	"  --untouched      do no I/O before that\n"
	"  --time SECONDS   of bursts and pauses (default 5)\n"
	"  --burst N        writes of a burst at most, then as many reads (default 16)\n"
	"  --pause USEC     between bursts at most (default 100000)\n"
	"  --seed N         of all that is random (default 1)\n"
	"  --no-compare     for devices that keep no data\n";

/* ---- Options ---- */

static bool
parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *ret)
{
	char *end;

	errno = 0;
	*ret = strtoull(text, &end, 10);
	return errno == 0 && end != text && *end == '\0' && text[0] != '-' && *ret >= min && *ret <= max;
}

static bool
parse_seconds(const char *text, uint64_t *ret_us)
{
	char *end;
	double seconds = strtod(text, &end);

	*ret_us = (uint64_t)(seconds * 1e6);
	return end != text && *end == '\0' && seconds > 0 && seconds <= 1e6;
}

static bool
pattern_ok(const char *pattern)
{
	const char *percent = strchr(pattern, '%');

	return percent != NULL && percent[1] == 'u' && strchr(percent + 1, '%') == NULL;
}

static bool
set_option(struct options *o, int option, const char *value)
{
	uint64_t n = 0;

	switch (option) {
	case 'p':
		o->crowd.pattern = value;
		return pattern_ok(value);
	case 'f':
		return parse_number(value, 0, 1u << 30, &n) && (o->crowd.first = (unsigned)n, true);
	case 'c':
		return parse_number(value, 1, CLIENTS_MAX, &n) && (o->crowd.count = (unsigned)n, true);
	case 'n':
		return parse_number(value, 1, PROCESSES_MAX, &n) && (o->processes = (unsigned)n, true);
	case 'b':
		return parse_number(value, 1, CROWD_BURST_MAX, &n) && (o->crowd.burst = (unsigned)n, true);
	case 'w':
		return parse_number(value, 1, 1000000000, &o->crowd.pause_us);
	case 's':
		return parse_number(value, 0, UINT32_MAX, &o->crowd.seed);
	case 't':
		return parse_seconds(value, &o->time_us);
	case 'h':
		o->hold = true;
		return true;
	case 'u':
		o->untouched = true;
		return true;
	case 'x':
		o->crowd.compare = false;
		return true;
	default:
		return false;
	}
}

static bool
parse(struct options *o, int argc, char **argv)
{
	static const struct option longs[] = {
		{"pattern", 1, NULL, 'p'}, {"first", 1, NULL, 'f'},     {"count", 1, NULL, 'c'},
		{"processes", 1, NULL, 'n'}, {"hold", 0, NULL, 'h'},    {"untouched", 0, NULL, 'u'},
		{"time", 1, NULL, 't'},    {"burst", 1, NULL, 'b'},     {"pause", 1, NULL, 'w'},
		{"seed", 1, NULL, 's'},    {"no-compare", 0, NULL, 'x'}, {0},
	};
	int option;

	*o = (struct options){
		.crowd = {.count = 1000, .burst = 16, .pause_us = 100000, .seed = 1, .compare = true},
		.processes = 1,
		.time_us = 5000000,
	};
	while ((option = getopt_long(argc, argv, "", longs, NULL)) != -1) {
		if (!set_option(o, option, optarg)) {
			return false;
		}
	}
	return o->crowd.pattern != NULL && optind == argc && o->processes <= o->crowd.count;
}

/* ---- One process ---- */

/* The crowd of one process: ready is told, then go waited for (its end). */
static int
play(const struct options *o, const struct crowd_options *mine, struct crowd_result *results, int ready_fd, int go_fd)
{
	struct err err = ERR_NONE;
	struct crowd *crowd = NULL;
	int rc = crowd_connect(mine, results, &crowd, &err);
	char byte = 0;

	if (rc == 0 && !o->untouched) {
		rc = crowd_touch(crowd, &err);
	}
	if (rc == 0 && write(ready_fd, &byte, 1) == 1) {
		close(ready_fd);
		while (read(go_fd, &byte, 1) > 0) {
		}
		rc = o->hold ? 0 : crowd_run(crowd, o->time_us, &err);
	}
	if (rc != 0) {
		fprintf(stderr, "density-client: %s\n", err_text(&err));
	}
	crowd_free(crowd);
	return rc == 0 ? 0 : 1;
}

static void
raise_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* ---- All of them ---- */

static bool
start(const struct options *o, struct crowd_result *results, int ready[2], int go[2])
{
	unsigned left = o->crowd.count, first = 0;

	for (unsigned i = 0; i < o->processes; i++) {
		struct crowd_options mine = o->crowd;
		pid_t pid;

		mine.count = left / (o->processes - i);
		mine.first += first;
		pid = fork();
		if (pid < 0) {
			perror("density-client: fork");
			return false;
		}
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(ready[0]);
			close(go[1]);
			_exit(play(o, &mine, results + first, ready[1], go[0]));
		}
		first += mine.count;
		left -= mine.count;
	}
	return true;
}

static void
report(const struct options *o, const struct crowd_result *results)
{
	uint64_t ios = 0, bursts = 0, compared = 0, ns = 0, ns_max = 0, least = UINT64_MAX, most = 0;
	double slowest_ms = 0;
	unsigned n = o->crowd.count;

	for (unsigned i = 0; i < n; i++) {
		const struct crowd_result *r = &results[i];

		ios += r->ios;
		bursts += r->bursts;
		compared += r->compared;
		ns += r->burst_ns;
		ns_max = MAX(ns_max, r->burst_ns_max);
		least = MIN(least, (uint64_t)r->ios);
		most = MAX(most, (uint64_t)r->ios);
		if (r->bursts > 0) {
			slowest_ms = MAX(slowest_ms, (double)r->burst_ns / (double)r->bursts / 1e6);
		}
	}
	printf("{\"clients\": %u, \"seconds\": %.3f, \"ios\": %" PRIu64 ", \"bursts\": %" PRIu64 ", \"compared\": %" PRIu64
	       ", \"ios_min\": %" PRIu64 ", \"ios_mean\": %.1f, \"ios_max\": %" PRIu64
	       ", \"burst_ms_mean\": %.4f, \"burst_ms_mean_of_slowest\": %.4f, \"burst_ms_max\": %.4f}\n",
	       n, (double)o->time_us / 1e6, ios, bursts, compared, least, (double)ios / n, most,
	       bursts > 0 ? (double)ns / (double)bursts / 1e6 : 0, slowest_ms, (double)ns_max / 1e6);
}

/* True when every process has said that it is ready. The pipe ends when each has said so, or ended before. */
static bool
wait_ready(unsigned processes, int fd)
{
	unsigned ready = 0;
	char byte;

	while (read(fd, &byte, 1) == 1) {
		ready++;
	}
	return ready == processes;
}

static bool
wait_ends(void)
{
	bool good = true;
	int status;

	while (wait(&status) > 0) {
		good &= WIFEXITED(status) && WEXITSTATUS(status) == 0;
	}
	return good;
}

int
main(int argc, char **argv)
{
	struct crowd_result *results;
	struct options o;
	int ready[2], go[2];
	bool good;
	char byte;

	if (!parse(&o, argc, argv)) {
		fputs(usage, stderr);
		return 2;
	}
	raise_limit();
	signal(SIGPIPE, SIG_IGN);
	results = mmap(NULL, o.crowd.count * sizeof(*results), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (results == MAP_FAILED || pipe(ready) != 0 || pipe(go) != 0) {
		perror("density-client");
		return 1;
	}
	good = start(&o, results, ready, go);
	close(ready[1]);
	close(go[0]);
	good = good && wait_ready(o.processes, ready[0]);
	if (good) {
		printf("ready %u\n", o.crowd.count);
		fflush(stdout);
		while (o.hold && read(0, &byte, 1) > 0) {
		}
	}
	close(go[1]);
	good &= wait_ends();
	if (good && !o.hold) {
		report(&o, results);
	}
	return good ? 0 : 1;
}
