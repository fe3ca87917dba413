/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by thread.c, reactor.c, cpu.c, move.c and channel.c; never leaves src/event. */
#ifndef EVENT_INTERNAL_H
#define EVENT_INTERNAL_H

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/epoll.h>

#include "base/check.h"
#include "base/clock.h"
#include "event/reactor.h"
#include "event/thread.h"

#define REACTOR_EVENTS_MAX 64

/* How long descriptors go unnoticed while pollers are active. */
#define REACTOR_EPOLL_NS UINT64_C(50000)

/* What an epoll event's pointer points to starts with one of these. */
enum target_kind { TARGET_POLLER = 1, TARGET_WATCH, TARGET_WAKE };

/* What it costs to sleep instead of polling on, learnt from sleeps: reactor.h says of what it is made. */
struct sleep_cost {
	_Atomic uint64_t total_ns;
	uint64_t latency_ns; /* from a wake-up's write to the first instruction after the wait */
	uint64_t cpu_ns;     /* of this system thread */
	unsigned sleeps;
};

struct defer_queue {
	struct defer *first;
	struct defer **end;
};

struct thread {
	/* Written by senders. */
	_Alignas(CACHE_LINE_BYTES) struct mpsc inbox;
	/* On the reactor's ready queue from the first message after an empty inbox until the messages are taken. */
	struct mpsc_node ready_node;
	_Atomic(struct reactor *) reactor; /* where its messages go */
	_Atomic(struct reactor *) home;    /* that runs it; NULL on the way from one to another */
	_Atomic unsigned pins; /* visits of channels that still have to come by; see thread_pin() */

	/* Touched by the thread itself only. */
	_Alignas(CACHE_LINE_BYTES) struct list active; /* pollers in POLLER_ACTIVE */
	struct list *cursor;    /* next poller of the running turn; means nothing outside of it */
	struct mpsc_node *backlog; /* messages taken from the inbox and not handled yet, oldest first */
	struct defer_queue deferred;
	struct defer_queue batch;
	struct list active_link; /* in the reactor's active_threads */
	struct poller *running;  /* the last one called; NULL as soon as it is stopped */
	unsigned active_count;
	bool left; /* deferred calls or batch hooks were left over by the last turn */
	bool exiting;
	bool leaving; /* at the end of its turn something is to be done: it exits, or moves */
	struct thread_move *move; /* under way; NULL: none */
	unsigned source_count;    /* pollers that are not timed */
	unsigned timed_count;
	unsigned armed_count;
	struct list pollers; /* all of them */
	struct list watches;
	struct list channels;
	uint64_t next_poller_id;
	_Atomic uint64_t busy_ns; /* written by the thread's reactor, read by anyone */
	uint64_t created_ns;

	struct list link; /* in the reactor's list of threads, under its lock */
	uint64_t id;
	char name[THREAD_NAME_BYTES];
};

struct reactor {
	uint64_t now_ns; /* first: reactor_now_ns() */

	/* Written by senders. */
	_Alignas(CACHE_LINE_BYTES) struct mpsc ready; /* threads with messages */
	struct mpsc arrivals; /* threads that were moved here */
	_Atomic bool sleeping;
	_Atomic bool stop;
	_Atomic int mode;
	_Atomic uint64_t woken_ns; /* when a sender woke it; 0 since it noticed */

	/* The reactor's own. */
	_Alignas(CACHE_LINE_BYTES) struct list active_threads; /* with active pollers, or with something left */
	struct heap timers; /* pollers' and timers' nodes, by deadline in nanoseconds */
	uint64_t last_epoll_ns;
	unsigned idle_rounds;
	int acting_mode;         /* mode, or adaptive in place of poll where the CPU is not its own */
	int seen_mode;           /* the one that acting_mode was made of */
	unsigned active_pollers; /* of all its threads */
	unsigned source_count;   /* pollers of all its threads that are not timed */
	uint64_t reported_busy_ns;
	struct sleep_cost sleep_cost;
	int epoll_fd;
	bool coarse_wait; /* the system has no epoll_pwait2: waits are whole milliseconds */
	struct epoll_event events[REACTOR_EVENTS_MAX];
	int event_count;  /* of the batch being handed out; 0 outside */
	int event_cursor;

	_Atomic uint64_t busy_ns;
	_Atomic uint64_t idle_ns;
	_Atomic uint64_t wakeups;

	int wake_fd;
	struct { int kind; } wake_target;
	unsigned lcore;
	int cpu;
	_Atomic int cpu_state;
	uint64_t cpu_checked_ns;
	_Atomic pid_t tid;
	pthread_t pthread;
	bool started;

	pthread_mutex_t lock; /* guards threads */
	struct list threads;
};

/* Reached without a call: berth is an executable. */
extern __thread struct thread *current_thread __attribute__((tls_model("initial-exec")));
_Static_assert(offsetof(struct reactor, now_ns) == 0, "reactor_now_ns() reads it there");

void reactor_wake(struct reactor *r);

/* A counter with one writer and any number of readers: no locked instruction. */
static inline void
counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + n, memory_order_relaxed);
}

/* What polling on must be worth for a source of r (patience.h). */
uint64_t reactor_sleep_price_ns(const struct reactor *r);

/* Makes acting_mode of the mode that was asked for, and of whether r has its CPU. */
void reactor_apply_mode(struct reactor *r);
/* Asks every poller of t to be polled: on the thread's reactor, outside of a turn. */
void thread_wake_pollers(struct thread *t);

/* cpu.c. Pins the calling system thread. Looks, now and then, whether it is still where it was pinned. */
void reactor_cpu_pin(struct reactor *r);
void reactor_cpu_check_slowly(struct reactor *r);
static inline void
reactor_cpu_check(struct reactor *r)
{
	if (r->cpu >= 0 && UNLIKELY(sched_getcpu() != r->cpu ||
				    atomic_load_explicit(&r->cpu_state, memory_order_relaxed) != REACTOR_CPU_OWN)) {
		reactor_cpu_check_slowly(r);
	}
}

/* move.c. On the thread's reactor, at the end of a turn, while a move is under way. */
void thread_move_on(struct thread *t);
/* Takes in the threads that were sent to r; how many. */
int reactor_take_arrivals(struct reactor *r);
/* A message for t was left with r, which does not run it (any more, or not yet). */
void thread_forward(struct reactor *r, struct thread *t);
/* Events fetched and not handed out yet that are target's. On the calling reactor. */
void reactor_forget_events(const void *target);

/* Runs what was deferred on t, until nothing is or a turn's share of it was run. */
void thread_drain(struct thread *t);
/* Deferred calls and batch hooks; what is too much is left for the next turn. */
void thread_finish_turn(struct thread *t);
/* One turn's messages; its pollers and what follows them. What they did. */
int thread_run_messages(struct thread *t);
int thread_run_pollers(struct thread *t);
/* After a turn in which t asked to exit: frees it as soon as nobody has anything for it any more. */
void thread_try_free(struct thread *t);
void poller_event(struct poller *p);

/*
 * A pinned thread outlives its thread_exit() until the unpin, so that a message can be sent to it although it
 * has let go of all that made it known. Pinned while it is known to live (it has a channel, under the
 * channel lock; or it is the caller); unpinned by the message, on the thread.
 */
void thread_pin(struct thread *t);
void thread_unpin(struct thread *t);

#endif
