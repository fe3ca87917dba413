/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reactors: one system thread each, pinned where the caller says, running lightweight threads.
 *
 * One code path for three modes; they differ in one number, how long a fruitless poller stays active
 * before it is armed and left to its descriptor:
 *   poll       for ever; but with more than REACTOR_POLLED_MAX active pollers, one that was idle for
 *              REACTOR_POLLED_NS is armed
 *   interrupt  REACTOR_GRACE_NS, less than a sleep and its wake-up cost
 *   adaptive   what it has learnt pays (patience.h): nothing for a source whose gaps are long
 * A reactor sleeps in epoll when no poller is active and no message waits, until the next timer, or
 * without limit when there is none: an idle reactor makes no wake-ups. In poll mode it sleeps only when it has no
 * poller at all: a surplus reactor costs nothing in any mode.
 *
 * Going to sleep is race-free: `sleeping` is set, then what others may have left is looked at again
 * (reactor_wait); they leave it first, then look at `sleeping` (thread_send). All four are sequentially consistent.
 *
 * The price of a sleep is learnt, from a few at the start, from wake-ups by messages (which carry the time) and from the CPU
 * time of sleeps now and then: latency + CPU time + what it costs who wakes it (half the latency, REACTOR_KICK_NS at least).
 * While other pollers are active the reactor does not sleep: an armed source is noticed at the next look at epoll instead,
 * and polling a source costs only its share of each round. reactor_sleep_price_ns() has both.
 */
#ifndef EVENT_REACTOR_H
#define EVENT_REACTOR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"
#include "event/thread.h"

struct reactor;

enum reactor_mode {
	REACTOR_POLL,
	REACTOR_INTERRUPT,
	REACTOR_ADAPTIVE,
};

#define REACTOR_GRACE_NS UINT64_C(4000)
#define REACTOR_POLLED_MAX 4
#define REACTOR_POLLED_NS UINT64_C(1000000)
/* What a kick costs a guest, or a wake-up its sender; the price of a sleep before the first, and its limits. */
#define REACTOR_KICK_NS UINT64_C(2000)
#define REACTOR_SLEEP_NS UINT64_C(8000)
#define REACTOR_SLEEP_MAX_NS UINT64_C(50000)

/* Where a pinned reactor runs. */
enum reactor_cpu_state {
	REACTOR_CPU_ANY,     /* it was not pinned */
	REACTOR_CPU_OWN,
	REACTOR_CPU_OFFLINE, /* its CPU was unplugged: it goes back when it can */
	REACTOR_CPU_MOVED,   /* somebody else's doing (a cpuset, taskset): it obeys */
};
const char *reactor_cpu_state_name(enum reactor_cpu_state state);

/* 0 or -EINVAL; "poll", "interrupt", "adaptive". */
int reactor_mode_parse(const char *name, enum reactor_mode *ret_mode);
const char *reactor_mode_name(enum reactor_mode mode);

/* A reactor that no system thread runs yet. cpu -1: not pinned. NULL, and err, when resources are out. */
struct reactor *reactor_create(unsigned lcore, int cpu, enum reactor_mode mode, struct err *err);

/*
 * Must not be running, its threads gone, and nobody inside a thread_send() to one of them: a sender looks at the
 * reactor once more after the message was pushed, and perhaps handled. So reactors are freed when the system threads
 * that sent have been joined, or have answered something since. Accepts NULL.
 */
void reactor_free(struct reactor *r);

/* Starts a system thread of its own for r. */
int reactor_start(struct reactor *r, struct err *err);

/* Runs r on the calling system thread until reactor_stop(). */
void reactor_run(struct reactor *r);

/* Any thread: the loop ends after its current round, when it has delivered the messages that were sent before.
 * reactor_join waits for a started one. */
void reactor_stop(struct reactor *r);
void reactor_join(struct reactor *r);

/*
 * One round by hand (tests): everything runnable once; events are fetched without waiting.
 * Returns the amount of work done. The calling system thread counts as the reactor's meanwhile.
 */
int reactor_poll_once(struct reactor *r);
/* As above; sleeps as the mode would, but no longer than max_wait_us. */
int reactor_poll_wait(struct reactor *r, uint64_t max_wait_us);

/* Deadline of the next timer, UINT64_MAX when there is none; for whoever polls by hand. */
uint64_t reactor_next_timer_ns(const struct reactor *r);

struct reactor_stats {
	uint64_t busy_ns;
	uint64_t idle_ns; /* includes sleep */
	uint64_t wakeups; /* returns from a sleep */
	uint64_t sleep_cost_ns; /* learnt */
	enum reactor_cpu_state cpu_state;
	pid_t tid;
	unsigned lcore;
	int cpu;
	enum reactor_mode mode;
};

/* Any thread; the numbers are a little behind. */
void reactor_get_stats(const struct reactor *r, struct reactor_stats *ret_stats);
unsigned reactor_lcore(const struct reactor *r);
enum reactor_mode reactor_get_mode(const struct reactor *r);

/*
 * Any thread, at any time, under any load: in force within 50 us, or when the reactor has ended its round. Nothing is
 * lost: what was armed stays armed until its event, and becomes active at once in poll mode. A reactor in poll mode
 * whose CPU is not its own any more acts as an adaptive one.
 */
void reactor_set_mode(struct reactor *r, enum reactor_mode mode);

/* The one that this system thread runs; private, but read by the function below. */
extern __thread struct reactor *current_reactor __attribute__((tls_model("initial-exec")));

/* The reactor's clock: time of the current round, good to a few microseconds while busy. On a thread of r. */
static inline uint64_t
reactor_now_ns(void)
{
	return *(const uint64_t *)(const void *)current_reactor;
}

/* Any thread: calls fn for each thread of r (under the reactor's lock; fn must be short). */
void reactor_for_each_thread(struct reactor *r, void (*fn)(void *ctx, struct thread *t), void *ctx);

#endif
