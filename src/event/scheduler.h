/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The scheduler: which reactor runs which thread, and when that changes.
 *
 *   static   threads stay where they are; only thread_set_cpumask moves one
 *   dynamic  once a period, while there is load: threads whose mask allows several reactors are moved (those with
 *            little to do to the scheduling core, others away from a reactor that is full), and the balancer is called,
 *            who moves what is finer than a thread
 *
 * Without load there is no period: reactors report that they were busy (scheduler_poke), the scheduler goes to
 * rest when they are not. An idle process makes no wake-ups for it.
 *
 * All of it on the thread that called scheduler_start(), the first of the list; except scheduler_poke().
 */
#ifndef EVENT_SCHEDULER_H
#define EVENT_SCHEDULER_H

#include "base/cpumask.h"
#include "base/err.h"
#include "event/reactor.h"

enum scheduler_policy { SCHEDULER_STATIC, SCHEDULER_DYNAMIC };

struct scheduler_options {
	enum scheduler_policy policy;
	uint64_t period_us;
	/* Percent of a reactor's time. */
	unsigned load_limit; /* a thread below has little to do */
	unsigned core_limit; /* a reactor takes in threads up to here */
	unsigned core_busy;  /* a reactor above is full */
	unsigned scheduling_core;
	struct cpumask isolated; /* reactors that nothing is moved to or away from */
};

#define SCHEDULER_PERIOD_US 1000000
#define SCHEDULER_PERIOD_MIN_US 10000

/* Busy time after which a reactor pokes. */
#define REACTOR_REPORT_NS UINT64_C(50000000)

/* 0 or -EINVAL; "static", "dynamic". */
int scheduler_policy_parse(const char *name, enum scheduler_policy *ret_policy);
const char *scheduler_policy_name(enum scheduler_policy policy);

/* Borrows both arrays and what they point to until scheduler_stop()'s done; the first thread is the calling one. Starts
 * dynamic. 0 or -ENOMEM. */
int scheduler_start(struct thread *const *threads, unsigned thread_count, struct reactor *const *reactors,
		    unsigned reactor_count);

/* Moves nothing any more; done(ctx) when the last move under way has ended. */
void scheduler_stop(void (*done)(void *ctx), void *ctx);

void scheduler_get(struct scheduler_options *ret_options);
/* What it starts with. */
void scheduler_get_defaults(struct scheduler_options *ret_options);

/* 0, or -EINVAL and err: a limit over 100 percent, a period under SCHEDULER_PERIOD_MIN_US, a core that no reactor runs on. */
int scheduler_set(const struct scheduler_options *options, struct err *err);

/* Called once a period under the dynamic policy; period_ns: since it was called last, or load began. One balancer. */
void scheduler_set_balancer(void (*balance)(uint64_t period_ns));

/*
 * Where t, one of scheduler_start()'s threads, may run. It is moved at once if it is elsewhere; then done(ctx, status).
 * 0; or, without done, -EBUSY (it is being moved) or -EINVAL and err: no reactor runs on any CPU of mask, or the first thread
 * would have to leave its reactor.
 */
int scheduler_set_cpumask(struct thread *t, const struct cpumask *mask, void (*done)(void *ctx, int status), void *ctx,
			  struct err *err);
/* Whether that could be asked for: 0, or the error that scheduler_set_cpumask() would give. */
int scheduler_check_cpumask(const struct thread *t, const struct cpumask *mask, struct err *err);
/* After scheduler_stop()'s done, an empty one: who asked threads for something before may put the answers together after it. */
void scheduler_get_cpumask(const struct thread *t, struct cpumask *ret_mask);

/* Any system thread: there is load. */
void scheduler_poke(void);

/* ---- The policy, pure ---- */

struct scheduler_load {
	unsigned reactor; /* that runs it, an index */
	unsigned percent; /* of the last period */
	bool movable;
	const bool *allowed; /* for each reactor */
};

/*
 * The next thread to move, and the reactor to move it to; false when all is well. reactor_percent: the sum of each reactor's
 * threads. The caller applies the move to both arrays and asks again.
 */
bool scheduler_choose(const struct scheduler_options *options, const struct scheduler_load *threads, unsigned thread_count,
		      const unsigned *reactor_percent, unsigned reactor_count, unsigned scheduling_reactor,
		      unsigned *ret_thread, unsigned *ret_reactor);

#endif
