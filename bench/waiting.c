/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Measures ways for a thread to wait: what each costs at what a reactor does. docs/waiting.md has the questions
 * and the answers; bench/results/waiting.txt the figures.
 *
 *     waiting                        everything, three runs of each (about five minutes)
 *     waiting --quick                few events of each: a test that none is lost
 *     waiting --only ad              sections a and d
 *
 * Invariants
 *  1. Every event that was caused is waited for and counted; one that does not come ends the program with an error.
 *  2. Every loop is bounded, by a count or by seconds; watch() ends the program when a system call never returns.
 *  3. What the system does not have is skipped by name. The rows of one table take turns, so that a machine which gets
 *     slower does so for all; what is compared is compared lap by lap.
 */
#include <errno.h>
#include <getopt.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "waiting.h"

#define HUNG_S 60

struct options options = {.dir = ".", .runs = 3};
static FILE *output;
static volatile const char *watched = "start";

void
say(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	fflush(stdout);
	if (output != NULL) {
		va_start(ap, fmt);
		vfprintf(output, fmt, ap);
		va_end(ap);
	}
}

static void
hung(int signal)
{
	const char *what = (const char *)watched;

	(void)!write(STDERR_FILENO, "waiting: hung in: ", 18);
	(void)!write(STDERR_FILENO, what, strlen(what));
	(void)!write(STDERR_FILENO, "\n", 1);
	_exit(1);
}

void
watch(const char *what)
{
	watched = what;
	alarm(HUNG_S);
}

void
lost(const char *fmt, ...)
{
	va_list ap;

	fprintf(stderr, "waiting: %s: ", (const char *)watched);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	_exit(1);
}

void
give_up(const char *what, int rc)
{
	fprintf(stderr, "waiting: %s: %s\n", what, strerror(rc < 0 ? -rc : rc));
	_exit(2);
}

/* ---- System threads ---- */

void
pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((size_t)cpu, &set);
	(void)sched_setaffinity(0, sizeof(set), &set);
}

static uint64_t
cpu_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * NS_PER_S + (uint64_t)ts.tv_nsec;
}

uint64_t
thread_cpu_ns(void)
{
	return cpu_clock(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t
process_cpu_ns(void)
{
	return cpu_clock(CLOCK_PROCESS_CPUTIME_ID);
}

bool
spin_until(bool (*there)(void *ctx), void *ctx)
{
	uint64_t end = 0;

	for (uint64_t i = 1; !there(ctx); i++) {
		if (i % 65536 != 0) {
			continue;
		}
		/* Some tenth of a millisecond: there may be only one processor for the two of us. */
		sched_yield();
		end = end == 0 ? clock_now_ns() + HUNG_S / 2 * NS_PER_S : end;
		if (clock_now_ns() >= end) {
			return false;
		}
	}
	return true;
}

void
spin_ns(uint64_t ns)
{
	uint64_t end = clock_now_ns() + ns;

	while (clock_now_ns() < end) {
	}
}

/* ---- The machine ---- */

struct noise {
	uint64_t all, busy, stolen; /* ticks */
	uint64_t own_ns;
};

static struct noise
noise_now(void)
{
	struct noise n = {.own_ns = process_cpu_ns()};
	unsigned long long v[8] = {0};
	FILE *f = fopen("/proc/stat", "re");

	if (f != NULL) {
		if (fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6],
			   &v[7]) == 8) {
			n.busy = v[0] + v[1] + v[2] + v[5] + v[6];
			n.stolen = v[7];
			n.all = n.busy + n.stolen + v[3] + v[4];
		}
		fclose(f);
	}
	return n;
}

/* What else ran meanwhile: figures of a busy machine are worth little. */
static void
say_noise(struct noise begin)
{
	struct noise end = noise_now();
	double all = (double)(end.all - begin.all), own;

	if (all <= 0) {
		return;
	}
	own = (double)(end.own_ns - begin.own_ns) / 1e9 * (double)sysconf(_SC_CLK_TCK);
	own = 100 * ((double)(end.busy - begin.busy) - own) / all;
	say("meanwhile others used %.0f %% of the machine's CPU time, the host took %.1f %%\n", own < 0 ? 0 : own,
	    100 * (double)(end.stolen - begin.stolen) / all);
}

static void
first_line(const char *path, const char *key, char *ret_text, size_t size)
{
	FILE *f = fopen(path, "re");
	char line[256];

	snprintf(ret_text, size, "unknown");
	while (f != NULL && fgets(line, sizeof(line), f) != NULL) {
		char *value = key == NULL ? line : strchr(line, ':');

		if (value != NULL && (key == NULL || strncmp(line, key, strlen(key)) == 0)) {
			value += strspn(value, ": \t");
			snprintf(ret_text, size, "%.*s", (int)strcspn(value, "\n"), value);
			break;
		}
	}
	if (f != NULL) {
		fclose(f);
	}
}

static void
say_machine(void)
{
	char cpu[128], governor[64];
	struct utsname u;
	unsigned major = 0, minor = 0;

	uname(&u);
	(void)sscanf(u.release, "%u.%u", &major, &minor);
	first_line("/proc/cpuinfo", "model name", cpu, sizeof(cpu));
	first_line("/sys/devices/system/cpu/cpuidle/current_governor", NULL, governor, sizeof(governor));
	say("%s, %ld CPUs, Linux %u.%u, %s; idle governor %s\n", cpu, sysconf(_SC_NPROCESSORS_ONLN), major, minor, u.machine,
	    governor);
	say("the waiter is on CPU %d, whoever wakes it on CPU %d%s\n", options.cpus[0], options.cpus[1],
	    options.cpus[0] == options.cpus[1] ? " (there is only one: the figures mean nothing)" : "");
	say("%u %s of each, taking turns; a figure is the median of the runs, with minimum and maximum in brackets;\n"
	    "a share of another row is the median of a comparison lap by lap: on a busy machine look at these\n",
	    options.runs, options.runs == 1 ? "run" : "runs");
}

static void
choose_cpus(void)
{
	cpu_set_t set;
	int found = 0;

	CPU_ZERO(&set);
	if (sched_getaffinity(0, sizeof(set), &set) != 0) {
		give_up("sched_getaffinity", errno);
	}
	for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++) {
		if (CPU_ISSET((size_t)cpu, &set)) {
			options.cpus[found++] = cpu;
		}
	}
	if (found == 1) {
		options.cpus[1] = options.cpus[0];
	}
}

static void
raise_descriptors(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* As the default profiles of container engines do. */
static void
forbid_io_uring(void)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_SIZE(filter), .filter = filter};

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) != 0) {
		give_up("cannot forbid io_uring", errno);
	}
}

/* ---- From the command line ---- */

static const struct {
	char letter;
	void (*run)(void);
} sections[] = {
	{'a', section_wake}, {'b', section_look}, {'c', section_many}, {'d', section_disk}, {'e', section_timer},
	{'f', section_sleep},
};

static void
usage(FILE *f)
{
	fputs("usage: waiting [--quick] [--runs N] [--only LETTERS] [--dir DIR] [--output FILE] [--without-io-uring]\n"
	      "  --quick             few events of each: a test, the figures mean nothing\n"
	      "  --runs N            1 to 9 runs of each (3)\n"
	      "  --only LETTERS      of a: wake-up, b: a look without waiting, c: many descriptors, d: disk I/O, e: timers,\n"
	      "                      f: what a sleep costs\n"
	      "  --dir DIR           where the file for disk I/O is made, and removed (the current directory)\n"
	      "  --output FILE       the tables there, too\n"
	      "  --without-io-uring  forbids it to this process, as containers do\n",
	      f);
}

static void
parse(int argc, char **argv)
{
	static const struct option longs[] = {
		{"quick", no_argument, NULL, 'q'},  {"runs", required_argument, NULL, 'r'},
		{"only", required_argument, NULL, 's'}, {"dir", required_argument, NULL, 'd'},
		{"output", required_argument, NULL, 'o'}, {"without-io-uring", no_argument, NULL, 'u'},
		{"help", no_argument, NULL, 'h'},   {0},
	};
	const char *path = NULL;
	bool forbid = false;
	int c;

	while ((c = getopt_long(argc, argv, "h", longs, NULL)) != -1) {
		switch (c) {
		case 'q': options.quick = true; options.runs = 1; break;
		case 'r': options.runs = (unsigned)strtoul(optarg, NULL, 10); break;
		case 's': options.only = optarg; break;
		case 'd': options.dir = optarg; break;
		case 'o': path = optarg; break;
		case 'u': forbid = true; break;
		case 'h': usage(stdout); exit(0);
		default: usage(stderr); exit(2);
		}
	}
	if (optind < argc || options.runs < 1 || options.runs > RUNS_MAX) {
		usage(stderr);
		exit(2);
	}
	if (path != NULL && (output = fopen(path, "we")) == NULL) {
		give_up(path, errno);
	}
	if (forbid) {
		forbid_io_uring();
	}
}

int
main(int argc, char **argv)
{
	struct sigaction on_alarm = {.sa_handler = hung};

	parse(argc, argv);
	choose_cpus();
	raise_descriptors();
	sigaction(SIGALRM, &on_alarm, NULL);
	say_machine();
	for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
		if (options.only == NULL || strchr(options.only, sections[i].letter) != NULL) {
			struct noise begin = noise_now();

			sections[i].run();
			say_noise(begin);
		}
	}
	alarm(0);
	say("\nall events arrived; %u times something was skipped\n", rows_skipped);
	if (output != NULL && fclose(output) != 0) {
		give_up("cannot write the output file", errno);
	}
	return 0;
}
