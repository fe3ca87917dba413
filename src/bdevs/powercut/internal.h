/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/bdevs/powercut; never leaves it. */
#ifndef BDEVS_POWERCUT_INTERNAL_H
#define BDEVS_POWERCUT_INTERNAL_H

#include <pthread.h>

#include "bdev/stack.h"
#include "bdevs/powercut/powercut.h"

#define RUN_BYTES ((size_t)256 * 1024)

enum powercut_job_kind {
	JOB_FLUSH, /* all to the base, and flush it */
	JOB_ROOM,  /* all to the base; then the write is remembered */
	JOB_PASS,  /* io itself to the base */
	JOB_DRAIN, /* as JOB_FLUSH, for nobody's request */
	JOB_CUT,   /* what survives to the base */
};

/*
 * Something that changes the base, one after another; also what each request has in its room, before the request to the
 * base. What it needs of the base it does with child.
 */
struct powercut_job {
	struct list link; /* of those that wait */
	struct msg msg;
	struct powercut *p;
	struct thread *thread; /* where it runs */
	struct bdev_channel *base;
	struct bdev_io *child;
	void (*done)(struct powercut_job *job, int status);
	enum powercut_job_kind kind;
	uint64_t seq; /* writes up to this one */
	uint64_t at;  /* blocks before this one are done; of a read: so many */
	uint64_t run_lba;
	uint64_t run_blocks;
	uint8_t *buf;
	struct iovec iov;
};

#define OWN sizeof(struct powercut_job)

struct powercut {
	struct stack stack;
	struct powercut_bdev_options options; /* without the names */

	pthread_mutex_t lock; /* of what follows; taken for as long as copying a request takes */
	struct powercut_log *log;
	struct powercut_rule rule;
	bool cut;
	bool settled;
	bool cut_sent; /* cut_msg is on its way */
	uint64_t cut_after;
	uint64_t writes;
	uint64_t cuts;
	struct powercut_job *running;
	struct list jobs;

	/* App thread. */
	struct thread *app;
	struct msg cut_msg;
	struct list cut_waiters;
	int cut_status;
	bool busy; /* a job of the app thread's is under way */
	bool ending; /* the bdev is gone but for what is left to do */
};

/* ---- job.c ---- */

/* Runs job, now or when those before it have ended; job->done on this thread. */
void powercut_job_start(struct powercut *p, struct powercut_job *job, enum powercut_job_kind kind, struct bdev_channel *base,
	       void (*done)(struct powercut_job *job, int status));

/* The request that job is of. */
static inline struct bdev_io *
job_io(struct powercut_job *job)
{
	return CONTAINER_OF((void *)job, struct bdev_io, ctx);
}

/* ---- powercut.c ---- */

/* Counts a write, with the lock; true: the power is off now, before it is answered. */
bool powercut_count_write(struct powercut *p);

#endif
