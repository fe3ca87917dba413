/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A run of berth perf. Control is a lightweight thread on a reactor of its own that sleeps (it runs
 * on the main system thread); each CPU of the jobs has a reactor in the mode asked for, and each
 * worker a thread on one of them.
 *
 *   make configured bdevs -> open targets -> prepare and start workers -> all started -> [ramp] ->
 *   reset -> measure -> stop -> all finished -> exit workers -> close targets -> remove configured
 *   bdevs -> stop reactors -> report
 *
 * Whatever fails on the way, SIGINT and SIGTERM lead to "stop", from wherever the run is; the first
 * error is kept.
 *
 * A socket's back end that goes away is noticed once a second; what is in flight then is given up.
 * So it is when requests are still unanswered ANSWER_LIMIT_S after the end.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include "app/perf_config.h"
#include "app/perf_internal.h"
#include "base/clock.h"

#define TICK_US 1000000
#define ANSWER_LIMIT_S 30

enum stage { OPENING, MEASURING, STOPPING, CLOSING };

/* The one run of this process. */
struct control {
	struct perf_run run;
	struct reactor *reactor;
	struct reactor *cpus[CPUMASK_CPUS + 1]; /* the last one: not pinned */
	enum stage stage;
	struct perf_config config;
	struct msg start_msg;
	struct timer tick; /* progress, and whether everybody is alive */
	struct timer end;  /* of ramp, then of measuring */
	struct watch signal_watch;
	int signal_fd;
	bool ramping;
	bool stop_early;    /* asked to stop before there was anything to stop */
	unsigned unstarted; /* workers that have neither started nor failed to */
	unsigned unfinished;
	unsigned open_targets;
	uint64_t start_ns; /* of measuring */
	uint64_t stop_ns;
	uint64_t last_ios, last_ns; /* of the progress */
};

static struct control *
control_of(struct perf_run *run)
{
	return CONTAINER_OF(run, struct control, run);
}

static void
keep_error(struct control *c, const struct err *err)
{
	if (c->run.err.code == 0 && err->code != 0) {
		c->run.err = *err;
	}
}

/* ---- CPU time ---- */

static void
read_cpu(struct control *c, struct perf_cpu_time *ret)
{
	struct rusage u;

	*ret = (struct perf_cpu_time){0};
	getrusage(RUSAGE_SELF, &u);
	ret->self_ns = ((uint64_t)u.ru_utime.tv_sec + (uint64_t)u.ru_stime.tv_sec) * NS_PER_S +
		       ((uint64_t)u.ru_utime.tv_usec + (uint64_t)u.ru_stime.tv_usec) * NS_PER_US;
	if (c->run.options.target_pid != 0) {
		/* A target that ended keeps 0; its requests failed besides. */
		(void)perf_process_cpu_ns(c->run.options.target_pid, &ret->target_ns);
	}
}

static void
start_measuring(struct control *c)
{
	c->run.measured = true;
	read_cpu(c, &c->run.cpu);
	c->start_ns = c->last_ns = clock_now_ns();
	c->last_ios = 0;
}

static void
stop_measuring(struct control *c)
{
	struct perf_cpu_time now;

	read_cpu(c, &now);
	c->run.cpu.self_ns = now.self_ns - c->run.cpu.self_ns;
	c->run.cpu.target_ns =
		now.target_ns > c->run.cpu.target_ns ? now.target_ns - c->run.cpu.target_ns : 0;
}

/* ---- The end, last step first ---- */

static void
config_unloaded(struct perf_config *config)
{
	struct control *c = config->ctx;

	timer_stop(&c->tick);
	watch_stop(&c->signal_watch);
	thread_exit();
	for (unsigned i = 0; i < ARRAY_SIZE(c->cpus); i++) {
		if (c->cpus[i] != NULL) {
			reactor_stop(c->cpus[i]);
		}
	}
	reactor_stop(c->reactor);
}

static void
target_closed(struct perf_target *t)
{
	struct control *c = control_of(t->ctx);

	if (--c->open_targets == 0) {
		perf_config_unload(&c->config);
	}
}

static void
close_targets(struct control *c)
{
	unsigned count = c->open_targets;

	c->stage = CLOSING;
	for (unsigned i = 0; i < c->run.worker_count; i++) {
		struct perf_worker *w = &c->run.workers[i];

		if (w->buffers != NULL) {
			w->ops->unprepare(w);
		}
		if (w->thread != NULL) {
			thread_send(w->thread, &w->exit_msg, perf_worker_exit);
		}
	}
	if (count == 0) {
		perf_config_unload(&c->config);
	}
	for (unsigned i = 0; i < count; i++) {
		c->run.targets[i].ops->close(&c->run.targets[i]);
	}
}

static void
worker_finished(struct msg *msg)
{
	struct perf_worker *w = CONTAINER_OF(msg, struct perf_worker, finished_msg);
	struct control *c = control_of(w->run);

	w->finished = true;
	keep_error(c, &w->err);
	c->unstarted -= !w->started;
	if (--c->unfinished == 0) {
		if (c->stage == MEASURING) {
			stop_measuring(c);
			timer_stop(&c->end);
		}
		close_targets(c);
	} else if (w->err.code != 0) {
		c->run.stop(&c->run);
	}
}

static void
stop(struct perf_run *run)
{
	struct control *c = control_of(run);

	c->stop_early |= c->stage == OPENING;
	if (c->stage != MEASURING) {
		return;
	}
	c->stage = STOPPING;
	timer_stop(&c->end);
	stop_measuring(c);
	c->stop_ns = clock_now_ns();
	for (unsigned i = 0; i < run->worker_count; i++) {
		if (!run->workers[i].finished) {
			thread_send(run->workers[i].thread, &run->workers[i].stop_msg,
				    perf_worker_stop);
		}
	}
}

/* The target of this worker does not answer any more. */
static void
abandon(struct control *c, struct perf_worker *w)
{
	if (!w->finished && !w->abandoned) {
		w->abandoned = true;
		thread_send(w->thread, &w->abandon_msg, perf_worker_abandon);
	}
}

/* ---- While it runs ---- */

uint64_t
perf_run_ios(const struct perf_run *run)
{
	uint64_t sum = 0;

	for (unsigned i = 0; i < run->worker_count; i++) {
		sum += atomic_load_explicit(&run->workers[i].result.ios, memory_order_relaxed);
	}
	return sum;
}

static void
show_progress(struct control *c)
{
	uint64_t ios = perf_run_ios(&c->run), now = clock_now_ns();

	if (!c->run.progress) {
		return;
	}
	if (c->stage == STOPPING) {
		fprintf(stderr, "\r\033[K%s", "waiting for the last requests, verifying");
	} else {
		fprintf(stderr, "\r\033[K%4.0f of %.0f s%s: %.0f IOPS",
			(double)(now - c->start_ns) / 1e9,
			(double)(c->ramping ? c->run.options.ramp_us : c->run.options.time_us) /
				1e6,
			c->ramping ? " (ramp)" : "",
			(double)(ios - c->last_ios) * 1e9 / (double)(now - c->last_ns));
	}
	fflush(stderr);
	c->last_ios = ios;
	c->last_ns = now;
}

static void
lose_target(struct control *c, struct perf_target *t, int rc, const char *why)
{
	struct err err;

	err_set(&err, rc, "%s: %s", t->name, why);
	keep_error(c, &err);
	stop(&c->run);
	for (unsigned i = 0; i < c->run.worker_count; i++) {
		if (c->run.workers[i].target == t) {
			abandon(c, &c->run.workers[i]);
		}
	}
}

/* Reading everything back may take longer than any answer. */
static bool
verifies(const struct control *c, const struct perf_target *t)
{
	for (unsigned i = 0; i < c->run.worker_count; i++) {
		if (c->run.workers[i].target == t &&
		    c->run.workers[i].job->workload == PERF_VERIFY) {
			return true;
		}
	}
	return false;
}

static void
check_targets(struct control *c)
{
	bool late = c->stage == STOPPING && clock_now_ns() - c->stop_ns > ANSWER_LIMIT_S * NS_PER_S;

	for (unsigned i = 0; i < c->run.target_count; i++) {
		struct perf_target *t = &c->run.targets[i];

		if (!t->ops->alive(t)) {
			lose_target(c, t, -ECONNRESET, "the back end hung up");
		} else if (late && t->ops == &perf_socket_ops && !verifies(c, t)) {
			lose_target(c, t, -ETIMEDOUT, "requests were not answered in time");
		}
	}
}

static void
tick(struct timer *timer)
{
	struct control *c = CONTAINER_OF(timer, struct control, tick);

	show_progress(c);
	if (c->stage != CLOSING) {
		/* The heap had room for this timer a moment ago. */
		CHECK(timer_start(timer, TICK_US, tick) == 0);
		check_targets(c);
	}
}

static void
time_is_up(struct timer *timer)
{
	struct control *c = CONTAINER_OF(timer, struct control, end);

	if (!c->ramping) {
		stop(&c->run);
		return;
	}
	c->ramping = false;
	for (unsigned i = 0; i < c->run.worker_count; i++) {
		if (!c->run.workers[i].finished) {
			thread_send(c->run.workers[i].thread, &c->run.workers[i].reset_msg,
				    perf_worker_reset);
		}
	}
	start_measuring(c);
	CHECK(timer_start(timer, c->run.options.time_us, time_is_up) == 0);
}

static void
worker_started(struct msg *msg)
{
	struct perf_worker *w = CONTAINER_OF(msg, struct perf_worker, started_msg);
	struct control *c = control_of(w->run);
	const struct perf_options *o = &c->run.options;

	w->started = true;
	if (--c->unstarted > 0 || c->stage != MEASURING) {
		return;
	}
	/*
	 * What some did before the last one had started is not counted, as if it belonged to the
	 * ramp.
	 */
	c->ramping = true;
	start_measuring(c);
	if (c->stop_early) {
		stop(&c->run);
	} else if (timer_start(&c->end, o->ramp_us, time_is_up) != 0) {
		err_set(&c->run.err, -ENOMEM, "out of memory");
		stop(&c->run);
	}
}

static void
signalled(struct watch *watch, uint32_t events)
{
	struct control *c = CONTAINER_OF(watch, struct control, signal_watch);
	struct signalfd_siginfo info;

	if (read(c->signal_fd, &info, sizeof(info)) == sizeof(info)) {
		stop(&c->run);
	}
}

/* ---- The beginning ---- */

static void
bdev_lost(struct perf_target *t)
{
	struct control *c = control_of(t->ctx);
	struct err err;

	err_set(&err, -ENODEV, "%s: the bdev was removed", t->name);
	keep_error(c, &err);
	stop(&c->run);
}

static unsigned
workers_of(const struct perf_job_options *job)
{
	return (job->has_cpus ? cpumask_count(&job->cpus) : 1) * job->queues;
}

/* Jobs that name the same thing share one target. */
static struct perf_target *
target_for(struct control *c, const struct perf_job_options *job)
{
	struct perf_run *run = &c->run;
	struct perf_target *t = NULL;
	unsigned workers = workers_of(job);

	for (unsigned i = 0; i < run->target_count && t == NULL; i++) {
		bool same_kind = (run->targets[i].ops == &perf_socket_ops) == job->socket;

		if (same_kind && strcmp(run->targets[i].name, job->target) == 0) {
			t = &run->targets[i];
		}
	}
	if (t == NULL) {
		t = &run->targets[run->target_count++];
		t->ops = job->socket ? &perf_socket_ops : &perf_bdev_ops;
		t->name = job->target;
		t->closed = target_closed;
		t->lost = bdev_lost;
		t->interrupt_fd = c->signal_fd;
		t->ctx = run;
	}
	t->workers += workers;
	t->queue_depth = MAX(t->queue_depth, (job->depth + job->queues - 1) / job->queues);
	t->queue_size = MAX(t->queue_size, job->queue_size);
	t->indirect |= job->indirect;
	/* Each worker's buffers begin on a page. */
	t->buffer_bytes += (uint64_t)workers * ((uint64_t)job->depth / job->queues + 1) *
			   (MAX(job->io_size, 4096u));
	t->buffer_bytes += (uint64_t)workers * 4096;
	return t;
}

static int
open_targets(struct control *c)
{
	for (unsigned i = 0; i < c->run.target_count; i++) {
		struct perf_target *t = &c->run.targets[i];
		int rc;

		c->open_targets++; /* close also undoes half an open */
		rc = t->ops->open(t, &c->run.err);
		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

static int
prepare_workers(struct control *c)
{
	for (unsigned i = 0; i < c->run.worker_count; i++) {
		struct perf_worker *w = &c->run.workers[i];
		int rc = perf_worker_init(w, workers_of(w->job), &c->run.err);

		if (rc == 0) {
			rc = w->ops->prepare(w, &c->run.err);
		}
		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

static int
start_workers(struct control *c)
{
	for (unsigned i = 0; i < c->run.worker_count; i++) {
		struct perf_worker *w = &c->run.workers[i];

		w->thread = thread_create("perf", c->cpus[w->cpu]);
		if (w->thread == NULL) {
			return err_set(&c->run.err, -ENOMEM, "out of memory");
		}
	}
	c->unstarted = c->unfinished = c->run.worker_count;
	c->stage = MEASURING;
	for (unsigned i = 0; i < c->run.worker_count; i++) {
		thread_send(c->run.workers[i].thread, &c->run.workers[i].start_msg,
			    perf_worker_start);
	}
	return 0;
}

static int
start_control(struct control *c)
{
	int rc = watch_start(&c->signal_watch, c->signal_fd, EPOLLIN, signalled);

	if (rc == 0) {
		rc = timer_start(&c->tick, TICK_US, tick);
	}
	if (rc != 0) {
		return err_set(&c->run.err, rc, "cannot watch for signals: %s", strerror(-rc));
	}
	return 0;
}

static void
config_loaded(struct perf_config *config, int status, const struct err *err)
{
	struct control *c = config->ctx;
	int rc = status;

	keep_error(c, err);
	if (rc == 0) {
		rc = open_targets(c);
	}
	if (rc == 0) {
		rc = prepare_workers(c);
	}
	if (rc == 0) {
		rc = start_workers(c);
	}
	if (rc != 0) {
		close_targets(c);
	}
}

static int
add_config(struct control *c)
{
	int rc = 0;

	if (c->run.options.config != NULL) {
		rc = perf_config_add_file(&c->config, c->run.options.config, &c->run.err);
	}
	for (unsigned i = 0; rc == 0 && i < c->run.target_count; i++) {
		struct perf_target *t = &c->run.targets[i];

		if (t->ops == &perf_bdev_ops && t->name[0] == '{') {
			rc = perf_config_add_json(&c->config, t->name, &t->bdev_name, &c->run.err);
		}
	}
	return rc;
}

static void
begin(struct msg *msg)
{
	struct control *c = CONTAINER_OF(msg, struct control, start_msg);
	int rc = start_control(c);

	c->config.ctx = c;
	c->config.loaded = config_loaded;
	c->config.unloaded = config_unloaded;
	if (rc == 0) {
		rc = add_config(c);
	}
	if (rc == 0) {
		perf_config_load(&c->config);
	} else {
		close_targets(c);
	}
}

/* ---- Set-up that needs no thread ---- */

static int
add_workers(struct control *c, const struct perf_job_options *job, struct err *err)
{
	struct perf_target *t = target_for(c, job);
	unsigned count = workers_of(job), cpu = CPUMASK_CPUS;

	for (unsigned i = 0; i < count; i++) {
		struct perf_worker *w = &c->run.workers[c->run.worker_count++];

		if (job->has_cpus && i % job->queues == 0) {
			cpu = cpumask_next(&job->cpus, i == 0 ? 0 : cpu + 1);
		}
		w->job = job;
		w->target = t;
		w->run = &c->run;
		w->number = i;
		w->cpu = cpu;
		w->queue_index = t->next_queue++;
		w->started_msg.fn = worker_started;
		w->finished_msg.fn = worker_finished;
		if (c->cpus[cpu] == NULL) {
			c->cpus[cpu] = reactor_create(cpu == CPUMASK_CPUS ? 0 : cpu,
						      cpu == CPUMASK_CPUS ? -1 : (int)cpu,
						      c->run.options.mode, err);
			if (c->cpus[cpu] == NULL) {
				return err->code;
			}
		}
	}
	return 0;
}

static int
check_cpus(const struct perf_options *o, struct err *err)
{
	long cpus = sysconf(_SC_NPROCESSORS_CONF);

	for (unsigned i = 0; i < o->job_count; i++) {
		unsigned cpu = o->jobs[i].has_cpus ? cpumask_next(&o->jobs[i].cpus, (unsigned)cpus)
						   : CPUMASK_CPUS;

		if (cpu < CPUMASK_CPUS) {
			return err_set(err, -EINVAL,
				       "cpumask: this machine has no CPU %u, only 0 to %ld", cpu,
				       cpus - 1);
		}
	}
	return 0;
}

static int
set_up(struct control *c, struct err *err)
{
	struct perf_options *o = &c->run.options;
	unsigned workers = 0;
	sigset_t signals;
	int rc = check_cpus(o, err);

	if (rc != 0) {
		return rc;
	}
	for (unsigned i = 0; i < o->job_count; i++) {
		workers += workers_of(&o->jobs[i]);
	}
	c->run.workers = calloc(workers, sizeof(*c->run.workers));
	sigemptyset(&signals);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGTERM);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	c->signal_fd = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
	if (c->run.workers == NULL || c->signal_fd < 0) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	c->reactor = reactor_create(0, -1, REACTOR_INTERRUPT, err);
	if (c->reactor == NULL) {
		return err->code;
	}
	for (unsigned i = 0; rc == 0 && i < o->job_count; i++) {
		rc = add_workers(c, &o->jobs[i], err);
	}
	return rc;
}

int
perf_run_execute(struct perf_run *run, struct err *err)
{
	struct control *c = control_of(run);
	int rc = set_up(c, err);

	if (rc != 0) {
		return rc;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(c->cpus); i++) {
		rc = c->cpus[i] != NULL ? reactor_start(c->cpus[i], err) : 0;
		if (rc != 0) {
			return rc;
		}
	}
	c->run.control = thread_create("control", c->reactor);
	if (c->run.control == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	thread_send(c->run.control, &c->start_msg, begin);
	reactor_run(c->reactor);
	return 0;
}

struct perf_run *
perf_run_create(void)
{
	struct control *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		return NULL;
	}
	c->signal_fd = -1;
	c->run.stop = stop;
	return &c->run;
}

void
perf_run_free(struct perf_run *run)
{
	struct control *c = control_of(run);

	for (unsigned i = 0; i < ARRAY_SIZE(c->cpus); i++) {
		if (c->cpus[i] != NULL) {
			reactor_stop(c->cpus[i]);
			reactor_join(c->cpus[i]);
			reactor_free(c->cpus[i]);
		}
	}
	reactor_free(c->reactor);
	if (c->signal_fd >= 0) {
		close(c->signal_fd);
	}
	for (unsigned i = 0; i < run->target_count; i++) {
		free(run->targets[i].bdev_name);
	}
	free(run->workers);
	perf_options_release(&run->options);
	free(c);
}
