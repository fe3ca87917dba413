/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What `berth perf` prints at the end: a row for each job, as text or JSON; and where CPU time
 * is read from.
 */
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/perf_internal.h"
#include "base/clock.h"

/* ---- CPU time of another process ---- */

/* Nanoseconds on a CPU: the first number of schedstat(5); 0 when the thread is gone. */
static uint64_t
task_cpu_ns(pid_t pid, const char *task)
{
	char path[64];
	uint64_t ns = 0;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/task/%.16s/schedstat", (int)pid, task);
	f = fopen(path, "re");
	if (f != NULL) {
		if (fscanf(f, "%" SCNu64, &ns) != 1) {
			ns = 0;
		}
		fclose(f);
	}
	return ns;
}

int
perf_process_cpu_ns(pid_t pid, uint64_t *ret_ns)
{
	char path[64];
	struct dirent *e;
	uint64_t sum = 0;
	DIR *dir;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	dir = opendir(path);
	if (dir == NULL) {
		return -ESRCH;
	}
	while ((e = readdir(dir)) != NULL) {
		if (e->d_name[0] != '.') {
			sum += task_cpu_ns(pid, e->d_name);
		}
	}
	closedir(dir);
	*ret_ns = sum;
	return 0;
}

/* ---- Sums ---- */

struct row {
	const char *name;
	const struct perf_job_options *job; /* NULL: the sum of all */
	unsigned workers;
	uint64_t ios;
	uint64_t checked;
	uint64_t written;
	double seconds; /* of the longest worker */
	double iops;
	double bytes_per_s;
	struct hist latency;
};

static void
add_worker(struct row *row, const struct perf_worker *w)
{
	const struct perf_result *r = &w->result;
	double seconds =
		r->end_ns > r->start_ns ? (double)(r->end_ns - r->start_ns) / (double)NS_PER_S : 0;
	uint64_t ios = atomic_load(&r->ios);
	double iops = seconds > 0 ? (double)ios / seconds : 0;
	bool data = w->workload != PERF_FLUSH;

	row->workers++;
	row->ios += ios;
	row->checked += r->checked;
	row->written += w->written * w->blocks;
	row->seconds = MAX(row->seconds, seconds);
	row->iops += iops;
	row->bytes_per_s += data ? iops * w->job->io_size : 0;
	hist_merge(&row->latency, &r->latency);
}

/* job NULL: all of them. */
static void
sum_up(const struct perf_run *run, const struct perf_job_options *job, struct row *row)
{
	*row = (struct row){.name = job != NULL ? job->name : "all", .job = job};
	for (unsigned i = 0; i < run->worker_count; i++) {
		if (job == NULL || run->workers[i].job == job) {
			add_worker(row, &run->workers[i]);
		}
	}
}

static double
cpu_s_per_million(uint64_t cpu_ns, uint64_t ios)
{
	return ios == 0 ? 0 : (double)cpu_ns / 1e9 * 1e6 / (double)ios;
}

/* ---- Text ---- */

static double
us(uint64_t ns)
{
	return (double)ns / 1000;
}

static void
print_row(const struct row *row, FILE *out)
{
	const struct hist *h = &row->latency;

	fprintf(out, "%-16s %11.0f %9.1f %9.2f %9.2f %9.2f %9.2f %10.2f\n", row->name, row->iops,
		row->bytes_per_s / (1 << 20), us(h->count == 0 ? 0 : h->sum / h->count),
		us(hist_quantile(h, 5000)), us(hist_quantile(h, 9900)), us(hist_quantile(h, 9990)),
		us(h->max));
}

static void
print_job(const struct perf_job_options *job, FILE *out)
{
	fprintf(out, "%s: %s %s, %u bytes, depth %u", job->name, job->target,
		perf_workload_name(job->workload), job->io_size, job->depth);
	if (job->workload == PERF_RANDRW || job->workload == PERF_RW) {
		fprintf(out, ", %u %% reads", job->read_percent);
	}
	if (job->has_cpus) {
		char text[CPUMASK_TEXT_BYTES];

		cpumask_format(&job->cpus, true, text);
		fprintf(out, ", CPUs %s", text);
	}
	if (job->queues > 1) {
		fprintf(out, ", %u queues each", job->queues);
	}
	fputc('\n', out);
}

void
perf_report_text(const struct perf_run *run, FILE *out)
{
	static struct row row; /* large */

	for (unsigned i = 0; i < run->options.job_count; i++) {
		print_job(&run->options.jobs[i], out);
	}
	fprintf(out, "\n%-16s %11s %9s %9s %9s %9s %9s %10s\n", "job", "IOPS", "MiB/s", "avg us",
		"p50 us", "p99 us", "p99.9 us", "max us");
	for (unsigned i = 0; i < run->options.job_count; i++) {
		sum_up(run, &run->options.jobs[i], &row);
		print_row(&row, out);
		if (row.job->workload == PERF_VERIFY) {
			fprintf(out, "%-16s %" PRIu64 " blocks written, %" PRIu64 " compared%s\n",
				"", row.written, row.checked,
				run->err.code == 0 ? ", all as written" : "");
		}
	}
	sum_up(run, NULL, &row);
	if (run->options.job_count > 1) {
		print_row(&row, out);
	}
	fprintf(out,
		"\n%" PRIu64 " requests in %.2f s; CPU: %.3f s here (%.3f s per million requests)",
		row.ios, row.seconds, (double)run->cpu.self_ns / 1e9,
		cpu_s_per_million(run->cpu.self_ns, row.ios));
	if (run->options.target_pid != 0) {
		fprintf(out, ", %.3f s of the target (%.3f s per million)",
			(double)run->cpu.target_ns / 1e9,
			cpu_s_per_million(run->cpu.target_ns, row.ios));
	}
	fputc('\n', out);
}

/* ---- JSON ---- */

static json_t *
json_row(const struct row *row)
{
	const struct hist *h = &row->latency;
	json_t *o =
		json_pack("{s:s, s:i, s:I, s:f, s:f, s:f}", "name", row->name, "workers",
			  (int)row->workers, "ios", (json_int_t)row->ios, "seconds", row->seconds,
			  "iops", row->iops, "mib_per_s", row->bytes_per_s / (1 << 20));
	json_t *l = json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "avg",
			      h->count == 0 ? 0.0 : (double)h->sum / (double)h->count / 1000, "min",
			      us(h->min), "p50", us(hist_quantile(h, 5000)), "p99",
			      us(hist_quantile(h, 9900)), "p99_9", us(hist_quantile(h, 9990)),
			      "max", us(h->max));

	json_object_set_new(o, "latency_us", l);
	if (row->job != NULL) {
		json_object_set_new(o, "target", json_string(row->job->target));
		json_object_set_new(o, "workload",
				    json_string(perf_workload_name(row->job->workload)));
		json_object_set_new(o, "io_size", json_integer(row->job->io_size));
		json_object_set_new(o, "depth", json_integer(row->job->depth));
	}
	if (row->job != NULL && row->job->workload == PERF_VERIFY) {
		json_object_set_new(o, "blocks_written", json_integer((json_int_t)row->written));
		json_object_set_new(o, "blocks_compared", json_integer((json_int_t)row->checked));
	}
	return o;
}

void
perf_report_json(const struct perf_run *run, FILE *out)
{
	static struct row row;
	json_t *jobs = json_array();
	json_t *root = json_object();

	for (unsigned i = 0; i < run->options.job_count; i++) {
		sum_up(run, &run->options.jobs[i], &row);
		json_array_append_new(jobs, json_row(&row));
	}
	sum_up(run, NULL, &row);
	json_object_set_new(root, "mode", json_string(reactor_mode_name(run->options.mode)));
	json_object_set_new(root, "jobs", jobs);
	json_object_set_new(root, "all", json_row(&row));
	json_object_set_new(root, "cpu_s", json_real((double)run->cpu.self_ns / 1e9));
	json_object_set_new(root, "cpu_s_per_million",
			    json_real(cpu_s_per_million(run->cpu.self_ns, row.ios)));
	if (run->options.target_pid != 0) {
		json_object_set_new(root, "target_cpu_s",
				    json_real((double)run->cpu.target_ns / 1e9));
		json_object_set_new(root, "target_cpu_s_per_million",
				    json_real(cpu_s_per_million(run->cpu.target_ns, row.ios)));
	}
	json_object_set_new(root, "error",
			    run->err.code != 0 ? json_string(err_text(&run->err)) : json_null());
	json_dumpf(root, out, JSON_INDENT(1) | JSON_REAL_PRECISION(10));
	fputc('\n', out);
	json_decref(root);
}
