/* SPDX-License-Identifier: BSD-3-Clause */
#include "event/worker.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

struct worker {
	pthread_t pthreads[WORKER_THREADS_MAX];
	unsigned threads;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t wake;
	struct list jobs;
	bool stop;
};

static void
job_done(struct msg *msg)
{
	struct worker_job *job = CONTAINER_OF(msg, struct worker_job, msg);

	job->done(job);
}

static void *
work(void *arg)
{
	struct worker *w = arg;

	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct worker_job *job;

		while (list_empty(&w->jobs) && !w->stop) {
			pthread_cond_wait(&w->wake, &w->lock);
		}
		if (list_empty(&w->jobs)) {
			break;
		}
		job = LIST_FIRST(&w->jobs, struct worker_job, link);
		list_remove(&job->link);
		pthread_mutex_unlock(&w->lock);
		job->fn(job);
		thread_send(job->origin, &job->msg, job_done);
		pthread_mutex_lock(&w->lock);
	}
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* Its maker may be a reactor pinned to a core that it must not share, and handles no signals here. */
static int
start(struct worker *w, const char *name)
{
	pthread_t *pthread = &w->pthreads[w->threads];
	sigset_t all, old;
	cpu_set_t cpus;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(pthread, NULL, work, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (rc != 0) {
		return -rc;
	}
	w->threads++;
	memset(&cpus, 0xff, sizeof(cpus));
	(void)pthread_setaffinity_np(*pthread, sizeof(cpus), &cpus);
	pthread_setname_np(*pthread, name);
	return 0;
}

struct worker *
worker_create_pool(const char *name, unsigned threads, struct err *err)
{
	struct worker *w = calloc(1, sizeof(*w));

	CHECK(threads > 0 && threads <= WORKER_THREADS_MAX);
	if (w == NULL) {
		err_set(err, -ENOMEM, "worker %s: out of memory", name);
		return NULL;
	}
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->wake, NULL);
	list_init(&w->jobs);
	while (w->threads < threads) {
		int rc = start(w, name);

		if (rc != 0) {
			err_set(err, rc, "worker %s: cannot start a thread: %s", name, strerror(-rc));
			worker_free(w);
			return NULL;
		}
	}
	return w;
}

struct worker *
worker_create(const char *name, struct err *err)
{
	return worker_create_pool(name, 1, err);
}

void
worker_free(struct worker *w)
{
	if (w == NULL) {
		return;
	}
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_broadcast(&w->wake);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->threads; i++) {
		pthread_join(w->pthreads[i], NULL);
	}
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->wake);
	free(w);
}

void
worker_submit(struct worker *w, struct worker_job *job, void (*fn)(struct worker_job *job),
	      void (*done)(struct worker_job *job))
{
	job->fn = fn;
	job->done = done;
	job->origin = thread_self();
	CHECK(job->origin != NULL);
	pthread_mutex_lock(&w->lock);
	list_append(&w->jobs, &job->link);
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
}
