/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What `berth perf` is asked to do: command line and job files, checked and with every default
 * filled in. Pure but for reading the job file.
 */
#ifndef APP_PERF_OPTIONS_H
#define APP_PERF_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "base/cpumask.h"
#include "base/err.h"
#include "event/reactor.h"

#define PERF_JOBS_MAX 64
#define PERF_DEPTH_MAX 8192
#define PERF_IO_SIZE_MAX (64u << 20)
#define PERF_QUEUES_MAX 256

enum perf_workload {
	PERF_RANDREAD,
	PERF_RANDWRITE,
	PERF_RANDRW,
	PERF_READ,
	PERF_WRITE,
	PERF_RW,
	PERF_FLUSH,
	PERF_UNMAP,
	PERF_WRITE_ZEROES,
	PERF_VERIFY,
};

const char *perf_workload_name(enum perf_workload workload);

struct perf_job_options {
	char *name;
	char *target; /* a bdev as perf_bdev.h takes it, or the path of a vhost-user socket */
	bool socket;
	bool indirect;
	bool has_cpus; /* false: one worker on no CPU in particular */
	struct cpumask cpus;
	enum perf_workload workload;
	unsigned depth;      /* requests in flight on each CPU */
	unsigned queues;     /* on each CPU; they share the depth */
	unsigned queue_size; /* descriptors, 0: as many as the depth needs, at least 128 */
	unsigned read_percent;
	uint32_t io_size; /* bytes */
	uint64_t offset;  /* bytes: first of the range */
	uint64_t size;    /* bytes, 0: to the end */
	uint64_t seed;
};

struct perf_options {
	struct perf_job_options jobs[PERF_JOBS_MAX];
	unsigned job_count;
	enum reactor_mode mode;
	uint64_t time_us;
	uint64_t ramp_us; /* before that, not counted */
	pid_t target_pid; /* 0: none */
	char *config;     /* file of bdevs to create, NULL: none */
	bool json;
	bool quiet;
	bool calibrate;
	bool help;

	/* While parsing. */
	struct perf_job_options defaults;
	char *jobs_file;
};

/* 0; -EINVAL and err, which names the option, or file and line. Release in any case. */
int perf_options_parse(struct perf_options *options, int argc, char **argv, struct err *err);
void perf_options_release(struct perf_options *options);

void perf_options_help(FILE *out);

/* "4096", "4k", "1G", "2MiB": powers of 1024. 0 or -EINVAL. */
int perf_parse_size(const char *text, uint64_t *ret_bytes);

#endif
