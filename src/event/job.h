/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Jobs: long work that people watch and may stop (a rebuild, a copy, a check). Whoever does the work keeps all of it in
 * its own hands; a job is the place where it says how far it is and how it ended, and hears that it is to stop.
 *
 *	raid->rebuild = job_start(&(struct job_options){.kind = "raid_rebuild", .object = raid->name, .unit = "blocks",
 *			.total = raid->blocks, .cancel = cancel_rebuild, .ctx = raid, .text = "rebuilds slot 1 onto disk3"});
 *	job_progress(raid->rebuild, blocks_done);
 *	job_end(raid->rebuild, status, "disk3 does not answer");
 *
 * App thread, but for job_progress(). A job that could not be made for want of memory is NULL, which all functions
 * accept: the work goes on, unseen. Ended jobs are kept for JOB_KEPT_S, JOB_KEPT_MAX of them. Jobs end with the process.
 *
 * Notices (notice.h): job_started, job_progress (at most one a second and job), job_ended; fields: see job.c.
 */
#ifndef EVENT_JOB_H
#define EVENT_JOB_H

#include <stdbool.h>
#include <stdint.h>

#define JOB_KEPT_MAX 64
#define JOB_KEPT_S 3600
#define JOB_TEXT_BYTES 128
#define JOB_ERROR_BYTES 256

struct job;

#define JOB_STATES(X) \
	X(RUNNING, "running") \
	X(CANCELLING, "cancelling") /* was asked to stop */ \
	X(DONE, "done") \
	X(FAILED, "failed") \
	X(CANCELLED, "cancelled")

enum job_state {
#define JOB_STATE_ENUM(id, name) JOB_##id,
	JOB_STATES(JOB_STATE_ENUM)
#undef JOB_STATE_ENUM
};

/* Strings are copied, cut at JOB_TEXT_BYTES; kind and unit are borrowed for ever (literals). */
struct job_options {
	const char *kind;   /* "raid_rebuild": what programs look for */
	const char *object; /* the name of what is worked on */
	const char *unit;   /* of done and total: "blocks", "bytes", "clusters" */
	const char *text;   /* one line for people; NULL: none */
	uint64_t total;     /* 0: not known */
	/*
	 * The job is to end: stop the work soon, then call job_end(-ECANCELED) (or with what came of it, when it had
	 * ended anyway). Called once at most, and job_end may be called from inside. NULL: it cannot be cancelled.
	 */
	void (*cancel)(void *ctx);
	void *ctx;
};

struct job *job_start(const struct job_options *options);

/* Any thread, as often as it likes: a store. Before job_end. */
void job_progress(struct job *job, uint64_t done);
void job_set_total(struct job *job, uint64_t total);

/*
 * Once; the job is not the caller's any more. status: 0 (done is total then), -ECANCELED, or the errno of what failed, with
 * the reason in words (copied; NULL: what the C library says of it).
 */
void job_end(struct job *job, int status, const char *why);

/* ---- For those who look at jobs ---- */

struct job_info {
	uint64_t id; /* 1, 2, ... */
	const char *kind;
	const char *object;
	const char *text;
	const char *unit;
	uint64_t done;
	uint64_t total;
	enum job_state state;
	bool cancellable; /* is under way, and can be cancelled */
	int status;
	const char *error; /* "" where there is none */
	uint64_t elapsed_ns;
};

const char *job_state_name(enum job_state state);
bool job_state_ended(enum job_state state);

/* In the order of their ids. Strings are borrowed until the next call of any function here. */
void job_for_each(void (*fn)(void *ctx, const struct job_info *info), void *ctx);
bool job_find(uint64_t id, struct job_info *ret_info);

/* Asks a job to stop. 0, also when it was asked already; -ENOENT; -EALREADY: it has ended; -ENOTSUP: it cannot. */
int job_cancel(uint64_t id);

#endif
