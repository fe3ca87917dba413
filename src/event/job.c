/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. Ids only grow, and the list is in their order.
 *  2. The timer runs while a job is under way, and at no other time.
 *  3. An ended job is changed by nobody; it goes when JOB_KEPT_MAX others have ended after it, or, at the next look at the
 *     list, when it has ended JOB_KEPT_S ago.
 *  4. job_progress() touches `done` only, atomically: its thread needs no message, and no lock.
 *
 * Fields of the notices: name (the object), job (its id), kind, unit, done, total, state; of job_ended also error where there
 * is one.
 */
#include "event/job.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/list.h"
#include "event/notice.h"
#include "event/thread.h"

#define JOB_MAGIC 0x4a4f4221u
#define TELL_US UINT64_C(1000000)

struct job {
	uint32_t magic;
	struct list link;
	uint64_t id;
	const char *kind;
	const char *unit;
	char object[JOB_TEXT_BYTES];
	char text[JOB_TEXT_BYTES];
	char error[JOB_ERROR_BYTES];
	_Atomic uint64_t done;
	_Atomic uint64_t total;
	uint64_t told; /* `done` of the last notice */
	enum job_state state;
	int status;
	uint64_t start_ns;
	uint64_t end_ns;
	void (*cancel)(void *ctx);
	void *ctx;
};

static struct list jobs = {&jobs, &jobs};
static uint64_t last_id;
static unsigned running, ended;
static struct timer timer;

static const char *const state_names[] = {
#define JOB_STATE_NAME(id, name) [JOB_##id] = name,
	JOB_STATES(JOB_STATE_NAME)
#undef JOB_STATE_NAME
};

const char *
job_state_name(enum job_state state)
{
	return state_names[state];
}

bool
job_state_ended(enum job_state state)
{
	return state != JOB_RUNNING && state != JOB_CANCELLING;
}

static struct job_info
info_of(const struct job *job)
{
	bool over = job_state_ended(job->state);

	return (struct job_info){
		.id = job->id,
		.kind = job->kind,
		.object = job->object,
		.text = job->text,
		.unit = job->unit,
		.done = atomic_load_explicit(&job->done, memory_order_relaxed),
		.total = atomic_load_explicit(&job->total, memory_order_relaxed),
		.state = job->state,
		.cancellable = !over && job->cancel != NULL,
		.status = job->status,
		.error = job->error,
		.elapsed_ns = (over ? job->end_ns : clock_now_ns()) - job->start_ns,
	};
}

/* ---- Notices ---- */

static void
tell(struct job *job, const char *type)
{
	struct job_info info = info_of(job);

	const struct notice_field fields[] = {
		NOTICE_TEXT("name", info.object),
		NOTICE_NUMBER("job", info.id),
		NOTICE_TEXT("kind", info.kind),
		NOTICE_TEXT("unit", info.unit),
		NOTICE_NUMBER("done", info.done),
		NOTICE_NUMBER("total", info.total),
		NOTICE_TEXT("state", job_state_name(info.state)),
		NOTICE_TEXT("error", info.error),
	};

	job->told = info.done;
	notice_tell(&(struct notice){type, fields, ARRAY_SIZE(fields) - (info.error[0] == '\0')});
}

static void
tell_progress(struct timer *t)
{
	struct job *job;

	LIST_FOREACH (job, &jobs, link) {
		if (!job_state_ended(job->state) &&
		    atomic_load_explicit(&job->done, memory_order_relaxed) != job->told) {
			tell(job, "job_progress");
		}
	}
	/* Without memory for the timer nobody hears of the progress; what asks for it still sees it. */
	(void)timer_start(&timer, TELL_US, tell_progress);
}

/* ---- Keeping ---- */

static void
forget(struct job *job)
{
	ended--;
	list_remove(&job->link);
	job->magic = 0;
	free(job);
}

static void
forget_old(void)
{
	uint64_t now = clock_now_ns();
	struct job *job, *next;

	LIST_FOREACH_SAFE (job, next, &jobs, link) {
		if (job_state_ended(job->state) && now - job->end_ns >= JOB_KEPT_S * NS_PER_S) {
			forget(job);
		}
	}
}

/* Of those that have ended, the one that ended first. */
static void
forget_first_ended(void)
{
	struct job *job, *first = NULL;

	LIST_FOREACH (job, &jobs, link) {
		if (job_state_ended(job->state) && (first == NULL || job->end_ns < first->end_ns)) {
			first = job;
		}
	}
	forget(first);
}

/* ---- For those who work ---- */

struct job *
job_start(const struct job_options *options)
{
	struct job *job = calloc(1, sizeof(*job));

	if (job == NULL) {
		return NULL;
	}
	job->magic = JOB_MAGIC;
	job->id = ++last_id;
	job->kind = options->kind;
	job->unit = options->unit;
	snprintf(job->object, sizeof(job->object), "%s", options->object);
	snprintf(job->text, sizeof(job->text), "%s", options->text != NULL ? options->text : "");
	atomic_init(&job->done, 0);
	atomic_init(&job->total, options->total);
	job->cancel = options->cancel;
	job->ctx = options->ctx;
	job->start_ns = clock_now_ns();
	list_append(&jobs, &job->link);
	if (running++ == 0) {
		(void)timer_start(&timer, TELL_US, tell_progress);
	}
	tell(job, "job_started");
	return job;
}

void
job_progress(struct job *job, uint64_t done)
{
	if (job != NULL) {
		atomic_store_explicit(&job->done, done, memory_order_relaxed);
	}
}

void
job_set_total(struct job *job, uint64_t total)
{
	if (job != NULL) {
		atomic_store_explicit(&job->total, total, memory_order_relaxed);
	}
}

void
job_end(struct job *job, int status, const char *why)
{
	if (job == NULL) {
		return;
	}
	MAGIC_OBJ(job, JOB_MAGIC);
	CHECK(!job_state_ended(job->state) && status <= 0);
	job->status = status;
	job->end_ns = clock_now_ns();
	if (status == 0) {
		job->state = JOB_DONE;
		job_progress(job, MAX(atomic_load(&job->done), atomic_load(&job->total)));
	} else if (status == -ECANCELED) {
		job->state = JOB_CANCELLED;
	} else {
		job->state = JOB_FAILED;
		snprintf(job->error, sizeof(job->error), "%s", why != NULL ? why : strerror(-status));
	}
	if (--running == 0) {
		timer_stop(&timer);
	}
	ended++;
	tell(job, "job_ended");
	if (ended > JOB_KEPT_MAX) {
		forget_first_ended();
	}
}

/* ---- For those who look ---- */

static struct job *
find(uint64_t id)
{
	struct job *job;

	LIST_FOREACH (job, &jobs, link) {
		if (job->id == id) {
			return job;
		}
	}
	return NULL;
}

void
job_for_each(void (*fn)(void *ctx, const struct job_info *info), void *ctx)
{
	struct job *job;

	forget_old();
	LIST_FOREACH (job, &jobs, link) {
		struct job_info info = info_of(job);

		fn(ctx, &info);
	}
}

bool
job_find(uint64_t id, struct job_info *ret_info)
{
	struct job *job;

	forget_old();
	job = find(id);
	if (job != NULL) {
		*ret_info = info_of(job);
	}
	return job != NULL;
}

int
job_cancel(uint64_t id)
{
	struct job *job = find(id);

	if (job == NULL) {
		return -ENOENT;
	}
	if (job_state_ended(job->state)) {
		return -EALREADY;
	}
	if (job->cancel == NULL) {
		return -ENOTSUP;
	}
	if (job->state == JOB_RUNNING) {
		job->state = JOB_CANCELLING;
		job->cancel(job->ctx);
	}
	return 0;
}
