/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A system thread for calls that block (fsync, unlink of a large file): jobs run one after another in the order they were given,
 * and each is answered by a message to the thread that gave it. Sleeps without any timer while there is nothing to do.
 */
#ifndef EVENT_WORKER_H
#define EVENT_WORKER_H

#include "base/err.h"
#include "base/list.h"
#include "event/thread.h"

struct worker;

/* Lives in its giver's memory; borrowed until done is called. */
struct worker_job {
	struct list link;
	struct msg msg;
	struct thread *origin;
	void (*fn)(struct worker_job *job);   /* on the worker: may block */
	void (*done)(struct worker_job *job); /* on the giver's thread */
};

/* NULL, and err, when the system gives no thread. The thread may run on any CPU, whatever its maker is pinned to. */
struct worker *worker_create(const char *name, struct err *err);

#define WORKER_THREADS_MAX 16

/* As above with several threads, up to WORKER_THREADS_MAX: jobs start in order, but run and end in any. */
struct worker *worker_create_pool(const char *name, unsigned threads, struct err *err);

/* Runs the jobs that are left, then ends the system threads. Their done messages are still sent. Accepts NULL. */
void worker_free(struct worker *w);

void worker_submit(struct worker *w, struct worker_job *job, void (*fn)(struct worker_job *job),
		   void (*done)(struct worker_job *job));

#endif
