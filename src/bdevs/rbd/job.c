/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Calls into libraries that may block for as long as a cluster does not answer. Unlike a worker's, such a call need not end
 * before the process does: then it is abandoned.
 */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

#include "base/cpumask.h"
#include "bdevs/rbd/internal.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned generation; /* under lock: jobs of older ones are abandoned */

static void
finished(struct msg *msg)
{
	struct rbd_job *job = CONTAINER_OF(msg, struct rbd_job, msg);

	/* Its system thread, which nobody joins, is done with ours, too. */
	pthread_mutex_lock(&lock);
	pthread_mutex_unlock(&lock);
	job->done(job);
}

/* Its maker may be pinned to a core that it must not share. */
static void
choose_cpus(const char *core_mask)
{
	struct cpumask mask;
	cpu_set_t cpus;
	unsigned cpu;

	memset(&cpus, 0xff, sizeof(cpus));
	if (core_mask != NULL && cpumask_parse(core_mask, &mask, NULL) == 0) {
		CPU_ZERO(&cpus);
		CPUMASK_FOREACH (cpu, &mask) {
			CPU_SET(cpu, &cpus);
		}
	}
	(void)sched_setaffinity(0, sizeof(cpus), &cpus);
}

static void *
run(void *arg)
{
	struct rbd_job *job = arg;
	bool answers = job->done != NULL;

	choose_cpus(job->core_mask);
	job->fn(job);
	if (!answers) {
		return NULL;
	}
	pthread_mutex_lock(&lock);
	if (job->generation == generation) {
		thread_send(job->origin, &job->msg, finished);
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

int
rbd_job_start(struct rbd_job *job, void (*fn)(struct rbd_job *job), void (*done)(struct rbd_job *job))
{
	pthread_t thread;
	sigset_t all, old;
	int rc;

	job->fn = fn;
	job->done = done;
	job->origin = thread_self();
	pthread_mutex_lock(&lock);
	job->generation = generation;
	pthread_mutex_unlock(&lock);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = rbd_api->thread_create(&thread, NULL, run, job);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc == 0) {
		pthread_setname_np(thread, "rbd_job");
		pthread_detach(thread);
	}
	return -rc;
}

void
rbd_jobs_abandon(void)
{
	pthread_mutex_lock(&lock);
	generation++;
	pthread_mutex_unlock(&lock);
}
