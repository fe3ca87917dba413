/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Options of `berth perf`. One table of keys serves the command line ("--io-size 4k"), job files
 * ("io-size=4k") and the help. What the command line says of jobs is the default of every job in
 * the file; [global] there comes next, a job's own section last.
 */
#include "app/perf_options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

static const char *const workload_names[] = {
	[PERF_RANDREAD] = "randread",
	[PERF_RANDWRITE] = "randwrite",
	[PERF_RANDRW] = "randrw",
	[PERF_READ] = "read",
	[PERF_WRITE] = "write",
	[PERF_RW] = "rw",
	[PERF_FLUSH] = "flush",
	[PERF_UNMAP] = "unmap",
	[PERF_WRITE_ZEROES] = "write_zeroes",
	[PERF_VERIFY] = "verify",
};

const char *
perf_workload_name(enum perf_workload workload)
{
	return workload_names[workload];
}

/* ---- Values ---- */

int
perf_parse_size(const char *text, uint64_t *ret_bytes)
{
	static const char units[] = "kmgt";
	const char *unit;
	unsigned shift = 0;
	uint64_t value;
	char *end;

	if (!isdigit((unsigned char)text[0])) {
		return -EINVAL;
	}
	errno = 0;
	value = strtoull(text, &end, 10);
	unit = *end != '\0' ? strchr(units, tolower((unsigned char)*end)) : NULL;
	if (unit != NULL) {
		shift = 10 * (unsigned)(unit - units + 1);
		end++;
		end += strcasecmp(end, "ib") == 0 ? 2 : strcasecmp(end, "b") == 0 ? 1 : 0;
	}
	if (errno != 0 || *end != '\0' || value > UINT64_MAX >> shift) {
		return -EINVAL;
	}
	*ret_bytes = value << shift;
	return 0;
}

static int
parse_count(const char *text, uint64_t min, uint64_t max, unsigned *ret_value)
{
	uint64_t value;
	char *end;

	if (!isdigit((unsigned char)text[0])) {
		return -EINVAL;
	}
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno != 0 || *end != '\0' || value < min || value > max) {
		return -EINVAL;
	}
	*ret_value = (unsigned)value;
	return 0;
}

static int
parse_seconds(const char *text, uint64_t *ret_us)
{
	char *end;
	double seconds;

	if (!isdigit((unsigned char)text[0])) {
		return -EINVAL;
	}
	seconds = strtod(text, &end);
	if (*end != '\0' || !(seconds <= 1e7)) {
		return -EINVAL;
	}
	*ret_us = (uint64_t)(seconds * 1e6);
	return 0;
}

static int
replace(char **field, const char *value)
{
	char *copy = strdup(value);

	if (copy == NULL) {
		return -ENOMEM;
	}
	free(*field);
	*field = copy;
	return 0;
}

/* ---- Keys ---- */

typedef int (*set_fn)(struct perf_options *o, struct perf_job_options *job, const char *value,
		      struct err *err);

static int
set_target(struct perf_job_options *job, const char *value, bool socket)
{
	job->socket = socket;
	return value[0] == '\0' ? -EINVAL : replace(&job->target, value);
}

static int
set_bdev(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return set_target(job, value, false);
}

static int
set_socket(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return set_target(job, value, true);
}

static int
set_depth(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return parse_count(value, 1, PERF_DEPTH_MAX, &job->depth);
}

static int
set_io_size(struct perf_options *o, struct perf_job_options *job, const char *value,
	    struct err *err)
{
	uint64_t bytes;

	if (perf_parse_size(value, &bytes) != 0 || bytes < 512 || bytes > PERF_IO_SIZE_MAX ||
	    bytes % 512 != 0) {
		return -EINVAL;
	}
	job->io_size = (uint32_t)bytes;
	return 0;
}

static int
set_workload(struct perf_options *o, struct perf_job_options *job, const char *value,
	     struct err *err)
{
	for (unsigned i = 0; i < ARRAY_SIZE(workload_names); i++) {
		if (strcmp(value, workload_names[i]) == 0) {
			job->workload = (enum perf_workload)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int
set_read_percent(struct perf_options *o, struct perf_job_options *job, const char *value,
		 struct err *err)
{
	return parse_count(value, 0, 100, &job->read_percent);
}

static int
set_cpumask(struct perf_options *o, struct perf_job_options *job, const char *value,
	    struct err *err)
{
	job->has_cpus = true;
	return cpumask_parse(value, &job->cpus, err);
}

static int
set_queues(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return parse_count(value, 1, PERF_QUEUES_MAX, &job->queues);
}

static int
set_queue_size(struct perf_options *o, struct perf_job_options *job, const char *value,
	       struct err *err)
{
	int rc = parse_count(value, 4, 32768, &job->queue_size);

	return rc == 0 && (job->queue_size & (job->queue_size - 1)) != 0 ? -EINVAL : rc;
}

static int
set_indirect(struct perf_options *o, struct perf_job_options *job, const char *value,
	     struct err *err)
{
	job->indirect = true;
	return 0;
}

static int
set_offset(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return perf_parse_size(value, &job->offset);
}

static int
set_size(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return perf_parse_size(value, &job->size);
}

static int
set_seed(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	char *end;

	errno = 0;
	job->seed = strtoull(value, &end, 0);
	return errno != 0 || end == value || *end != '\0' ? -EINVAL : 0;
}

static int
set_time(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	int rc = parse_seconds(value, &o->time_us);

	return rc == 0 && o->time_us == 0 ? -EINVAL : rc;
}

static int
set_ramp(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return parse_seconds(value, &o->ramp_us);
}

static int
set_mode(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return reactor_mode_parse(value, &o->mode);
}

static int
set_config(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return replace(&o->config, value);
}

static int
set_target_pid(struct perf_options *o, struct perf_job_options *job, const char *value,
	       struct err *err)
{
	unsigned pid;
	int rc = parse_count(value, 1, 1u << 30, &pid);

	if (rc == 0) {
		o->target_pid = (pid_t)pid;
	}
	return rc;
}

static int
set_jobs(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	return replace(&o->jobs_file, value);
}

static int
set_json(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	o->json = true;
	return 0;
}

static int
set_quiet(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	o->quiet = true;
	return 0;
}

static int
set_calibrate(struct perf_options *o, struct perf_job_options *job, const char *value,
	      struct err *err)
{
	o->calibrate = true;
	return 0;
}

static int
set_help(struct perf_options *o, struct perf_job_options *job, const char *value, struct err *err)
{
	o->help = true;
	return 0;
}

/*
 * Where a key may stand: on the command line always; besides in [global], or in every section,
 * of a job file.
 */
enum place { COMMAND_LINE, GLOBAL, ANYWHERE };

static const struct key {
	const char *name;
	char letter; /* '\0': none */
	enum place place;
	set_fn set;
	const char *value; /* NULL: a flag */
	const char *help;  /* also what a wrong value is told */
} keys[] = {
	{"bdev", 'b', ANYWHERE, set_bdev, "BDEV",
	 "in process: null:SIZE[:BLOCK], malloc:SIZE[:BLOCK], aio:PATH[:BLOCK], "
	 "uring:PATH[:BLOCK], a JSON-RPC call that makes one"},
	{"socket", 's', ANYWHERE, set_socket, "PATH", "a vhost-user-blk socket"},
	{"depth", 'q', ANYWHERE, set_depth, "N",
	 "requests in flight on each CPU, 1 to 8192 (default 32)"},
	{"io-size", 'o', ANYWHERE, set_io_size, "SIZE",
	 "bytes of a request, a multiple of 512 up to 64M (default 4k)"},
	{"workload", 'w', ANYWHERE, set_workload, "NAME",
	 "randread, randwrite, randrw, read, write, rw, flush, unmap, write_zeroes or verify "
	 "(default randread)"},
	{"read-percent", 'M', ANYWHERE, set_read_percent, "N",
	 "reads among a hundred requests of randrw and rw (default 50)"},
	{"cpumask", 'm', ANYWHERE, set_cpumask, "MASK",
	 "CPUs to run on, one worker each: 0x3 or [0,1] (default: one, anywhere)"},
	{"queues", '\0', ANYWHERE, set_queues, "N",
	 "queues on each CPU, which share the depth, 1 to 256 (default 1)"},
	{"queue-size", '\0', ANYWHERE, set_queue_size, "N",
	 "descriptors of a socket's queue, a power of two of 4 to 32768 (default: 128 or what the "
	 "depth needs)"},
	{"indirect", '\0', ANYWHERE, set_indirect, NULL,
	 "use indirect descriptor tables on a socket"},
	{"offset", '\0', ANYWHERE, set_offset, "SIZE",
	 "where on the device the range begins (default 0)"},
	{"size", '\0', ANYWHERE, set_size, "SIZE", "size of the range (default: to the end)"},
	{"seed", '\0', ANYWHERE, set_seed, "N",
	 "of random places and of verify's pattern (default 1)"},
	{"time", 't', GLOBAL, set_time, "SECONDS", "how long to measure (default 5)"},
	{"ramp", '\0', GLOBAL, set_ramp, "SECONDS", "how long to run before measuring (default 0)"},
	{"mode", '\0', GLOBAL, set_mode, "MODE",
	 "how this side waits: poll, interrupt or adaptive (default poll)"},
	{"target-pid", '\0', GLOBAL, set_target_pid, "PID",
	 "also report the CPU time of this process, the target"},
	{"config", 'c', GLOBAL, set_config, "FILE",
	 "create the bdevs of this configuration first; --bdev then takes their names"},
	{"jobs", 'j', COMMAND_LINE, set_jobs, "FILE",
	 "several jobs: sections of KEY=VALUE lines, the keys being these options"},
	{"json", '\0', COMMAND_LINE, set_json, NULL, "print the result as JSON"},
	{"quiet", '\0', COMMAND_LINE, set_quiet, NULL, "no progress"},
	{"calibrate", '\0', COMMAND_LINE, set_calibrate, NULL,
	 "only measure how long a cache line takes to another CPU and back (the first two of "
	 "--cpumask)"},
	{"help", 'h', COMMAND_LINE, set_help, NULL, "this text"},
};

void
perf_options_help(FILE *out)
{
	fputs("usage: berth perf --bdev BDEV | --socket PATH | --jobs FILE [options]\n\n", out);
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		char left[40];

		snprintf(left, sizeof(left), "%c%c%s--%s %s", keys[i].letter != '\0' ? '-' : ' ',
			 keys[i].letter != '\0' ? keys[i].letter : ' ',
			 keys[i].letter != '\0' ? ", " : "  ", keys[i].name,
			 keys[i].value != NULL ? keys[i].value : "");
		fprintf(out, "  %-26s %s\n", left, keys[i].help);
	}
}

static int
apply(struct perf_options *o, struct perf_job_options *job, const struct key *k, const char *value,
      struct err *err)
{
	int rc;

	if (err != NULL) {
		*err = ERR_NONE;
	}
	rc = k->set(o, job, value, err);
	if (rc == -EINVAL && (err == NULL || err->text[0] == '\0')) {
		return err_set(err, rc, "%s: '%s' is not right: %s", k->name, value, k->help);
	}
	if (rc != 0) {
		err_prefix(err, "%s: ", k->name);
	}
	return rc;
}

/* ---- Jobs ---- */

static int
copy_job(struct perf_job_options *to, const struct perf_job_options *from, const char *name)
{
	*to = *from;
	to->name = strdup(name);
	to->target = from->target != NULL ? strdup(from->target) : NULL;
	return to->name == NULL || (from->target != NULL && to->target == NULL) ? -ENOMEM : 0;
}

static void
release_job(struct perf_job_options *job)
{
	free(job->name);
	free(job->target);
}

static int
add_job(struct perf_options *o, const char *name, struct err *err)
{
	if (o->job_count == PERF_JOBS_MAX) {
		return err_set(err, -EINVAL, "job '%s' is one more than %u", name, PERF_JOBS_MAX);
	}
	for (unsigned i = 0; i < o->job_count; i++) {
		if (strcmp(o->jobs[i].name, name) == 0) {
			return err_set(err, -EINVAL, "there are two jobs named '%s'", name);
		}
	}
	if (copy_job(&o->jobs[o->job_count++], &o->defaults, name) != 0) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

static int
check_job(const struct perf_job_options *job, struct err *err)
{
	if (job->target == NULL) {
		return err_set(err, -EINVAL, "job '%s' has neither bdev nor socket", job->name);
	}
	if (job->queues > job->depth) {
		return err_set(err, -EINVAL,
			       "job '%s': %u queues need a depth of as much at least, not %u",
			       job->name, job->queues, job->depth);
	}
	if (!job->socket && (job->indirect || job->queue_size != 0)) {
		return err_set(err, -EINVAL, "job '%s': indirect and queue-size are for sockets",
			       job->name);
	}
	return 0;
}

/* ---- Job files ---- */

static char *
trim(char *s)
{
	char *end;

	while (isspace((unsigned char)*s)) {
		s++;
	}
	end = s + strlen(s);
	while (end > s && isspace((unsigned char)end[-1])) {
		*--end = '\0';
	}
	return s;
}

static const struct key *
find_key(const char *name)
{
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		if (strcmp(keys[i].name, name) == 0) {
			return &keys[i];
		}
	}
	return NULL;
}

/* job NULL: in [global], or before any section. */
static int
file_setting(struct perf_options *o, struct perf_job_options *job, char *line, struct err *err)
{
	char *equals = strchr(line, '=');
	const struct key *k;
	const char *name;

	if (equals != NULL) {
		*equals = '\0';
	}
	name = trim(line);
	k = find_key(name);
	if (k == NULL || k->place == COMMAND_LINE) {
		return err_set(err, -EINVAL, "there is no key '%s' in job files", name);
	}
	if (k->place == GLOBAL && job != NULL) {
		return err_set(err, -EINVAL,
			       "'%s' belongs to [global]: it is the same for all jobs", name);
	}
	if ((equals == NULL) != (k->value == NULL)) {
		return err_set(err, -EINVAL,
			       k->value == NULL ? "'%s' takes no value" : "'%s' needs a value",
			       name);
	}
	return apply(o, job != NULL ? job : &o->defaults, k, equals != NULL ? trim(equals + 1) : "",
		     err);
}

static int
file_line(struct perf_options *o, bool *in_job, char *line, struct err *err)
{
	size_t len;

	line = trim(line);
	len = strlen(line);
	if (len == 0 || line[0] == '#' || line[0] == ';') {
		return 0;
	}
	if (line[0] != '[') {
		return file_setting(o, *in_job ? &o->jobs[o->job_count - 1] : NULL, line, err);
	}
	if (line[len - 1] != ']' || len == 2) {
		return err_set(err, -EINVAL, "'%s' is no section: [NAME]", line);
	}
	line[len - 1] = '\0';
	if (strcmp(line + 1, "global") == 0) {
		return o->job_count == 0 ? 0
					 : err_set(err, -EINVAL, "[global] comes before the jobs");
	}
	*in_job = true;
	return add_job(o, line + 1, err);
}

static int
read_jobs(struct perf_options *o, struct err *err)
{
	FILE *f = fopen(o->jobs_file, "re");
	bool in_job = false;
	char *line = NULL;
	size_t room = 0;
	int rc = 0;

	if (f == NULL) {
		return err_set(err, -errno, "%s: cannot be opened: %s", o->jobs_file,
			       strerror(errno));
	}
	for (unsigned number = 1; rc == 0 && getline(&line, &room, f) >= 0; number++) {
		rc = file_line(o, &in_job, line, err);
		if (rc != 0) {
			err_prefix(err, "%s:%u: ", o->jobs_file, number);
		}
	}
	if (rc == 0 && ferror(f)) {
		rc = err_set(err, -EIO, "%s: cannot be read", o->jobs_file);
	} else if (rc == 0 && o->job_count == 0) {
		rc = err_set(err, -EINVAL, "%s: no [job] in it", o->jobs_file);
	}
	free(line);
	fclose(f);
	return rc;
}

/* ---- The whole ---- */

static void
set_defaults(struct perf_options *o)
{
	*o = (struct perf_options){
		.mode = REACTOR_POLL,
		.time_us = 5000000,
		.defaults = {.workload = PERF_RANDREAD,
			     .depth = 32,
			     .queues = 1,
			     .read_percent = 50,
			     .io_size = 4096,
			     .seed = 1},
	};
}

/*
 * Fills what getopt_long() wants. Short letters are their own values, others the place in the
 * table past them.
 */
#define LONG_BASE 256

static void
getopt_tables(struct option *longs, char *shorts)
{
	*shorts++ = '+';
	*shorts++ = ':';
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		longs[i] = (struct option){keys[i].name, keys[i].value != NULL, NULL,
					   LONG_BASE + (int)i};
		if (keys[i].letter != '\0') {
			*shorts++ = keys[i].letter;
			if (keys[i].value != NULL) {
				*shorts++ = ':';
			}
		}
	}
	longs[ARRAY_SIZE(keys)] = (struct option){0};
	*shorts = '\0';
}

static const struct key *
key_of(int option)
{
	for (unsigned i = 0; i < ARRAY_SIZE(keys); i++) {
		if (option == LONG_BASE + (int)i || (option != 0 && option == keys[i].letter)) {
			return &keys[i];
		}
	}
	return NULL;
}

static int
command_line(struct perf_options *o, int argc, char **argv, struct err *err)
{
	struct option longs[ARRAY_SIZE(keys) + 1];
	char shorts[2 * ARRAY_SIZE(keys) + 3];
	int option;

	getopt_tables(longs, shorts);
	optind = 0; /* again from the start, also when called twice */
	opterr = 0;
	while ((option = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
		const struct key *k = key_of(option);
		int rc;

		if (k == NULL) {
			return err_set(err, -EINVAL,
				       option == ':' ? "option '%s' needs a value"
						     : "there is no option '%s'",
				       argv[optind - 1]);
		}
		rc = apply(o, &o->defaults, k, optarg != NULL ? optarg : "", err);
		if (rc != 0) {
			return rc;
		}
	}
	if (optind < argc) {
		return err_set(err, -EINVAL, "'%s' is no option", argv[optind]);
	}
	return 0;
}

int
perf_options_parse(struct perf_options *o, int argc, char **argv, struct err *err)
{
	int rc;

	set_defaults(o);
	rc = command_line(o, argc, argv, err);
	if (rc != 0 || o->help || o->calibrate) {
		return rc;
	}
	if (o->jobs_file != NULL) {
		rc = read_jobs(o, err);
	} else if (o->defaults.target == NULL) {
		rc = err_set(err, -EINVAL, "one of --bdev, --socket and --jobs is needed");
	} else {
		rc = add_job(o, perf_workload_name(o->defaults.workload), err);
	}
	for (unsigned i = 0; rc == 0 && i < o->job_count; i++) {
		rc = check_job(&o->jobs[i], err);
	}
	return rc;
}

void
perf_options_release(struct perf_options *o)
{
	for (unsigned i = 0; i < o->job_count; i++) {
		release_job(&o->jobs[i]);
	}
	release_job(&o->defaults);
	free(o->config);
	free(o->jobs_file);
	*o = (struct perf_options){0};
}
