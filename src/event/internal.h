/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by thread.c, reactor.c and channel.c; never leaves src/event. */
#ifndef EVENT_INTERNAL_H
#define EVENT_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>

#include "base/check.h"
#include "base/clock.h"
#include "event/reactor.h"
#include "event/thread.h"

#define REACTOR_EVENTS_MAX 64

/* What an epoll event's pointer points to starts with one of these. */
enum target_kind { TARGET_POLLER = 1, TARGET_WATCH, TARGET_WAKE };

struct defer_queue {
	struct defer *first;
	struct defer **end;
};

struct thread {
	/* Written by senders. */
	_Alignas(CACHE_LINE_BYTES) struct mpsc inbox;
	/* On the reactor's ready queue from the first message after an empty inbox until the messages are taken. */
	struct mpsc_node ready_node;
	_Atomic(struct reactor *) reactor;
	_Atomic unsigned pins; /* visits of channels that still have to come by; see thread_pin() */

	/* Touched by the thread itself only. */
	_Alignas(CACHE_LINE_BYTES) struct list active; /* pollers in POLLER_ACTIVE */
	struct list *cursor;    /* next poller of the running turn; means nothing outside of it */
	struct defer_queue deferred;
	struct defer_queue batch;
	struct list active_link; /* in the reactor's active_threads */
	struct poller *running;  /* the last one called; NULL as soon as it is stopped */
	unsigned active_count;
	bool left; /* deferred calls or batch hooks were left over by the last turn */
	bool exiting;
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
	/* Written by senders. */
	_Alignas(CACHE_LINE_BYTES) struct mpsc ready; /* threads with messages */
	_Atomic bool sleeping;
	_Atomic bool stop;

	/* The reactor's own. */
	_Alignas(CACHE_LINE_BYTES) struct list active_threads; /* with active pollers, or with something left */
	struct heap timers; /* pollers' and timers' nodes, by deadline in nanoseconds */
	uint64_t now_ns;
	uint64_t last_epoll_ns;
	unsigned idle_rounds;
	int epoll_fd;
	bool coarse_wait; /* the system has no epoll_pwait2: waits are whole milliseconds */
	struct epoll_event events[REACTOR_EVENTS_MAX];
	int event_count;  /* of the batch being handed out; 0 outside */
	int event_cursor;

	_Atomic uint64_t busy_ns;
	_Atomic uint64_t idle_ns;
	_Atomic uint64_t wakeups;

	int mode;
	int wake_fd;
	struct { int kind; } wake_target;
	unsigned lcore;
	int cpu;
	_Atomic pid_t tid;
	pthread_t pthread;
	bool started;

	pthread_mutex_t lock; /* guards threads */
	struct list threads;
};

extern __thread struct thread *current_thread;
extern __thread struct reactor *current_reactor;

void reactor_wake(struct reactor *r);

/* Runs what was deferred on t, until nothing is or a turn's share of it was run. */
void thread_drain(struct thread *t);
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
