/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What brings writes from the cache to the base. A job copies run after run out of the log, writes it, perhaps flushes
 * the base, and then has the log forget what it wrote.
 *
 * Invariants
 *  1. One job at a time for a bdev, in the order in which they came: so an old version of a block never overtakes a new
 *     one on its way to the base.
 *  2. The log forgets a version when the base has it, or a newer one. So whoever reads a block finds it in the log, or
 *     on the base.
 *  3. A job that finds the power off does no more; the one of the cut writes what survives, and nobody writes anything
 *     until it has ended.
 *     What the base was doing meanwhile has happened: another write that survived.
 * Context: the job's thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "bdevs/powercut/internal.h"

static struct powercut_job *
job_of(struct bdev_io *child)
{
	size_t own = (OWN + CACHE_LINE_BYTES - 1) & ~(size_t)(CACHE_LINE_BYTES - 1);

	return (struct powercut_job *)(void *)((uint8_t *)child - own);
}

static void run(struct powercut_job *job);

static void
run_sent(struct msg *msg)
{
	run(CONTAINER_OF(msg, struct powercut_job, msg));
}

/* The next one's turn, and the answer. */
static void
end(struct powercut_job *job, int status)
{
	struct powercut *p = job->p;
	struct powercut_job *next = NULL;

	free(job->buf);
	job->buf = NULL;
	pthread_mutex_lock(&p->lock);
	if (!list_empty(&p->jobs)) {
		next = LIST_FIRST(&p->jobs, struct powercut_job, link);
		list_remove(&next->link);
	}
	p->running = next;
	pthread_mutex_unlock(&p->lock);
	if (next != NULL) {
		thread_send(next->thread, &next->msg, run_sent);
	}
	job->done(job, status);
}

void
powercut_job_start(struct powercut *p, struct powercut_job *job, enum powercut_job_kind kind, struct bdev_channel *base,
	  void (*done)(struct powercut_job *job, int status))
{
	bool first;

	list_init(&job->link);
	job->p = p;
	job->kind = kind;
	job->thread = thread_self();
	job->base = base;
	job->done = done;
	job->buf = NULL;
	pthread_mutex_lock(&p->lock);
	first = p->running == NULL;
	if (first) {
		p->running = job;
	} else {
		list_append(&p->jobs, &job->link);
	}
	pthread_mutex_unlock(&p->lock);
	if (first) {
		run(job);
	}
}

/* ---- The end of a job ---- */

/* The write for which room was made. */
static int
remember(struct powercut_job *job)
{
	const struct bdev_io *io = job_io(job);
	struct powercut *p = job->p;

	if (powercut_log_write(p->log, io->lba, io->num_blocks, io->iov, io->iovcnt) == 0) {
		return -ENOMEM; /* others were quicker: it is tried again */
	}
	return powercut_count_write(p) ? -EIO : 0;
}

static void
finish(struct powercut_job *job)
{
	struct powercut *p = job->p;
	bool off;
	int rc = 0;

	pthread_mutex_lock(&p->lock);
	off = p->cut && job->kind != JOB_CUT;
	if (job->kind == JOB_PASS) {
		powercut_log_drop(p->log, job->seq, job_io(job)->lba, job_io(job)->num_blocks);
	} else if (!off) {
		powercut_log_drop(p->log, job->seq, 0, UINT64_MAX);
	}
	if (off) {
		rc = -EIO;
	} else if (job->kind == JOB_ROOM) {
		rc = remember(job);
	}
	pthread_mutex_unlock(&p->lock);
	end(job, rc);
}

static void
last_done(struct bdev_io *child, int status)
{
	struct powercut_job *job = job_of(child);

	if (status != 0) {
		end(job, status);
	} else {
		finish(job);
	}
}

/* Everything is written; what is left for the base to do. */
static void
last(struct powercut_job *job)
{
	struct bdev_io *child = job->child;

	switch (job->kind) {
	case JOB_ROOM:
		finish(job);
		return;
	case JOB_PASS:
		stack_child_init(child, job_io(job), 0, last_done);
		if (child->op == BDEV_UNMAP) { /* zeroes, as in the cache */
			child->op = BDEV_WRITE_ZEROES;
			child->flags |= BDEV_IO_MAY_UNMAP;
		}
		break;
	default:
		bdev_io_init(child, BDEV_FLUSH, 0, 0, NULL, 0, last_done);
		break;
	}
	bdev_submit(job->base, child);
}

/* ---- Runs ---- */

static void next_run(struct powercut_job *job);

static void
run_written(struct bdev_io *child, int status)
{
	struct powercut_job *job = job_of(child);

	if (status != 0) {
		end(job, status);
		return;
	}
	job->at = job->run_lba + job->run_blocks;
	next_run(job);
}

static void
write_run(struct powercut_job *job)
{
	bdev_io_init(job->child, BDEV_WRITE, job->run_lba, job->run_blocks, &job->iov, 1,
		     run_written);
	bdev_submit(job->base, job->child);
}

static void
run_read(struct bdev_io *child, int status)
{
	struct powercut_job *job = job_of(child);
	struct powercut *p = job->p;

	if (status != 0) {
		end(job, status);
		return;
	}
	pthread_mutex_lock(&p->lock);
	powercut_log_survive(p->log, &p->rule, job->run_lba, job->run_blocks, job->buf);
	pthread_mutex_unlock(&p->lock);
	write_run(job);
}

static void
next_run(struct powercut_job *job)
{
	struct powercut *p = job->p;
	uint32_t block_size = p->stack.bdev.block_size;
	bool off;

	pthread_mutex_lock(&p->lock);
	off = p->cut && job->kind != JOB_CUT;
	job->run_blocks = powercut_log_run(p->log, job->seq, job->at, UINT64_MAX,
					   RUN_BYTES / block_size, &job->run_lba);
	if (!off && job->run_blocks > 0 && job->kind != JOB_CUT) {
		powercut_log_copy(p->log, job->seq, job->run_lba, job->run_blocks, job->buf);
	}
	pthread_mutex_unlock(&p->lock);
	job->iov = (struct iovec){.iov_base = job->buf, .iov_len = job->run_blocks * block_size};
	if (off) {
		end(job, -EIO);
	} else if (job->run_blocks == 0) {
		last(job);
	} else if (job->kind == JOB_CUT) {
		bdev_io_init(job->child, BDEV_READ, job->run_lba, job->run_blocks, &job->iov, 1,
			     run_read);
		bdev_submit(job->base, job->child);
	} else {
		write_run(job);
	}
}

/* ---- The beginning of a job ---- */

/* A write that goes to the base directly counts all the same; when it is the last one, it is in the cache, if that takes
 * it, like any other. True: the power is off. */
static bool
count_passed(struct powercut *p, const struct bdev_io *io)
{
	if (!powercut_count_write(p)) {
		return false;
	}
	powercut_log_write(p->log, io->lba, io->num_blocks, io->op == BDEV_WRITE ? io->iov : NULL,
			   io->iovcnt);
	return true;
}

static void
run(struct powercut_job *job)
{
	struct powercut *p = job->p;
	bool off;

	pthread_mutex_lock(&p->lock);
	off = p->cut && job->kind != JOB_CUT;
	if (!off && job->kind == JOB_PASS) {
		off = count_passed(p, job_io(job));
	}
	job->seq = powercut_log_last_seq(p->log);
	job->at = 0;
	pthread_mutex_unlock(&p->lock);
	if (off) {
		end(job, -EIO);
		return;
	}
	/* An ordered disk has what came before on it first. */
	if (job->kind == JOB_PASS && p->rule.mode != POWERCUT_ORDERED) {
		last(job);
		return;
	}
	job->buf = aligned_alloc(BDEV_BUFFER_ALIGN_MAX, RUN_BYTES);
	if (job->buf == NULL) {
		end(job, -ENOMEM);
		return;
	}
	next_run(job);
}
