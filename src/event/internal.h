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
	struct mpsc inbox;
	/* True from the first message after an empty inbox until the reactor has taken the messages. */
	struct mpsc_node ready_node;
	_Atomic(struct reactor *) reactor;

	/* Touched by the thread itself only. */
	struct list active; /* pollers in POLLER_ACTIVE */
	struct list pollers; /* all of them */
	struct list watches;
	struct list channels;
	struct list *cursor; /* next poller of the running turn */
	struct defer_queue deferred;
	struct defer_queue batch;
	struct list active_link; /* in the reactor's list of threads with active pollers or work left */
	unsigned timed_count;
	unsigned armed_count;
	unsigned active_count;
	bool exiting;
	uint64_t next_poller_id;
	uint64_t busy_ns;
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
	_Alignas(CACHE_LINE_BYTES) struct list active_threads;
	struct heap timers; /* pollers' and timers' nodes, by deadline in nanoseconds */
	uint64_t now_ns;
	uint64_t last_epoll_ns;
	unsigned idle_rounds;
	int epoll_fd;
	struct epoll_event events[REACTOR_EVENTS_MAX];
	int event_count;  /* of the batch being handed out; 0 outside */
	int event_cursor;
	bool in_timers;
	bool counted_idle;

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

/* Runs what was deferred on t until nothing is. */
void thread_drain(struct thread *t);
/* One turn's messages and pollers; what they did. */
int thread_run_messages(struct thread *t);
int thread_run_pollers(struct thread *t);
/* Hands a fired timer node to its owner; kind of owner is found by which heap_node member it is. */
void thread_free(struct thread *t);
void poller_event(struct poller *p);

#endif
