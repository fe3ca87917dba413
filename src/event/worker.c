/* SPDX-License-Identifier: BSD-3-Clause */
#include "event/worker.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

struct worker {
	pthread_t pthread;
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

struct worker *
worker_create(const char *name, struct err *err)
{
	struct worker *w = calloc(1, sizeof(*w));
	int rc;

	if (w == NULL) {
		err_set(err, -ENOMEM, "worker %s: out of memory", name);
		return NULL;
	}
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->wake, NULL);
	list_init(&w->jobs);
	rc = pthread_create(&w->pthread, NULL, work, w);
	if (rc != 0) {
		err_set(err, -rc, "worker %s: cannot start a thread: %s", name, strerror(rc));
		free(w);
		return NULL;
	}
	pthread_setname_np(w->pthread, name);
	return w;
}

void
worker_free(struct worker *w)
{
	if (w == NULL) {
		return;
	}
	pthread_mutex_lock(&w->lock);
	w->stop = true;
	pthread_cond_signal(&w->wake);
	pthread_mutex_unlock(&w->lock);
	pthread_join(w->pthread, NULL);
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
