/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Lightweight threads: stackless, cooperative, each run by exactly one reactor at a time. Whatever
 * belongs to a thread is touched by that thread only; others send it messages. No locks.
 *
 * A thread's turn: messages; then each active poller; after each of these the deferred calls until
 * none is left; at the end of the turn the batch hooks (submit what was gathered, publish what was
 * completed), and the deferred calls these caused. Messages, deferred calls and batch hooks are cut off after some
 * hundreds, to be continued in the thread's next turn.
 *
 * All functions that take no thread act on the calling thread and may be called only from one
 * (thread_self() != NULL), unless their comment says "any thread".
 */
#ifndef EVENT_THREAD_H
#define EVENT_THREAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/heap.h"
#include "base/list.h"
#include "base/mpsc.h"
#include "event/patience.h"

struct reactor;
struct thread;

#define THREAD_NAME_BYTES 32

/* ---- Threads ---- */

/* Any system thread. Creates a thread that `reactor` runs; NULL when memory is out. Lives until thread_exit(). */
struct thread *thread_create(const char *name, struct reactor *reactor);

/* The thread now running on this system thread, NULL outside of one. */
struct thread *thread_self(void);

/*
 * Ends the calling thread after this turn; it must have no pollers, timers, watches or channels then.
 * What was sent to it before is still delivered; nothing may be sent to it afterwards.
 */
void thread_exit(void);

const char *thread_name(const struct thread *t);
uint64_t thread_id(const struct thread *t);
/* The reactor that runs t; while t moves, the one that will. Any system thread. */
struct reactor *thread_reactor(const struct thread *t);

/* Any system thread, while t lives: nanoseconds that t spent in turns that did something; never less than before. */
uint64_t thread_busy_ns(const struct thread *t);

/* ---- Messages ---- */

/* A message lives in its sender's memory and returns to it when fn is called. */
struct msg {
	struct mpsc_node node;
	void (*fn)(struct msg *msg);
};

/*
 * Any system thread. Borrows msg until fn runs on t. Messages of one sender arrive in order. Never
 * fails, never blocks; wakes t's reactor only when it sleeps.
 */
void thread_send(struct thread *t, struct msg *msg, void (*fn)(struct msg *msg));

/* ---- Deferred calls ---- */

struct defer {
	struct defer *next;
	void (*fn)(struct defer *d);
};

/* Calls fn(d) on this thread soon, never from inside thread_defer: after the running poller, message
 * or deferred call has returned. First in, first out. Borrows d until then. */
void thread_defer(struct defer *d, void (*fn)(struct defer *d));

/* Calls fn(d) at the end of this turn, once; the caller keeps track of whether it is waiting already. */
void thread_batch(struct defer *d, void (*fn)(struct defer *d));

/* ---- Timers (one shot) ---- */

struct timer {
	struct heap_node node;
	struct timer *next; /* while its thread moves */
	struct thread *thread;
	void (*fn)(struct timer *t);
};

/* Owned by the caller, zeroed before the first start. Starts or restarts; fn runs on this thread, once, not
 * before delay_us. 0 or -ENOMEM. Timers that are due together run in the order of their deadlines. */
int timer_start(struct timer *t, uint64_t delay_us, void (*fn)(struct timer *t));
void timer_stop(struct timer *t);

/* ---- Pollers ---- */

struct poller;

struct poller_ops {
	const char *name; /* as thread_get_pollers shows it */

	/* Does what there is to do, a bounded amount; returns how much work that was, 0 for none. */
	int (*poll)(struct poller *p);

	/*
	 * Asks the source to make the descriptor readable at the next event, then looks again: true when
	 * there is work already (the poller stays active). NULL: nothing needs asking and nothing can be missed,
	 * because the descriptor is signalled for every event.
	 */
	bool (*arm)(struct poller *p);

	/* The source need not signal any more; called when an armed poller becomes active, and when arm found
	 * work. May be NULL. Neither arm nor disarm may stop the poller. */
	void (*disarm)(struct poller *p);

	/* Tells p from others of this name, for people: what it serves. On its thread; writes at most size bytes, the zero
	 * included. May be NULL. */
	void (*describe)(const struct poller *p, char *text, size_t size);
};

enum poller_state {
	POLLER_STOPPED,
	POLLER_ACTIVE, /* polled every turn */
	POLLER_ARMED,  /* waits for its descriptor (or for poller_wake), costs nothing */
	POLLER_TIMED,  /* waits for its period */
};

/* Owned by the caller, zeroed before the first start. Fields are read-only for it. */
struct poller {
	struct { int kind; } target; /* see event/internal.h */
	int fd;
	enum poller_state state;
	const struct poller_ops *ops;
	struct thread *thread;
	struct list link;     /* in the thread's list of active pollers */
	struct list all_link; /* in the thread's list of all pollers */
	struct timer timer;
	uint64_t period_us;
	uint64_t idle_since_ns; /* first fruitless turn, or poller_expect(); 0: the last turn had work */
	bool signalled;         /* its descriptor, not poller_wake(), made it active */
	uint32_t polled_ns;     /* in vain, before it was armed */
	struct patience patience;
	uint64_t run_count;
	uint64_t busy_count;
	uint64_t id;
};

/*
 * Starts a poller whose source offers both poll() and a descriptor; the reactor's mode decides between
 * them. fd: an eventfd or the like that becomes readable at events; it is watched edge-triggered and never
 * read; the poller does not own it. fd -1: no descriptor. With an arm
 * function such a poller sleeps, when idle, until poller_wake(); without one it keeps its reactor awake in
 * every mode. 0, or a negative errno of epoll.
 */
int poller_start(struct poller *p, const struct poller_ops *ops, int fd);

/* Polls once a period (microseconds, > 0, at most a year), in every mode. Late periods are not made up for.
 * 0 or -ENOMEM. */
#define POLLER_PERIOD_MAX_US (UINT64_C(366) * 24 * 3600 * 1000000)
int poller_start_timed(struct poller *p, const struct poller_ops *ops, uint64_t period_us);

/* Allowed from anywhere on its thread, its own poll included. The fd must still be open. */
void poller_stop(struct poller *p);

/* Makes an armed poller active: there is work for it. Same thread. Harmless when active or stopped. */
void poller_wake(struct poller *p);

/*
 * Something was begun whose end the source will find: the first request given to a device that had none. From now on
 * time counts for its patience; armed, it becomes active if the mode, and what it learnt of the time such things take,
 * say that polling for the end pays. Same thread. Harmless when stopped.
 */
void poller_expect(struct poller *p);

/* ---- Descriptor watches (sockets and the like; level-triggered) ---- */

/* Owned by the caller, zeroed before the first start. */
struct watch {
	struct { int kind; } target; /* see event/internal.h */
	int fd;
	uint32_t events;
	struct thread *thread;
	struct list link;
	void (*fn)(struct watch *w, uint32_t events);
};

/* events: EPOLLIN, EPOLLOUT, ... of epoll_ctl(2). 0 or a negative errno. Does not own fd. */
int watch_start(struct watch *w, int fd, uint32_t events, void (*fn)(struct watch *w, uint32_t events));
int watch_modify(struct watch *w, uint32_t events);
/* Allowed anywhere on its thread; fn is not called afterwards. Before close(fd). */
void watch_stop(struct watch *w);

/* ---- Moving a thread to another reactor ---- */

struct thread_move;
typedef void (*thread_moved_fn)(struct thread_move *move, int status);

/* Owned by the caller; its fields are private, but thread and to may be read. */
struct thread_move {
	struct msg msg;
	struct thread *thread;
	struct reactor *to;
	struct reactor *from;
	struct thread *origin;
	thread_moved_fn done;
	struct mpsc_node node;
	struct timer *timers; /* on the way: in no heap */
	unsigned leaving; /* channels that are still being made ready */
	int status;
};

/*
 * Moves t, with its pollers, timers, watches and channels, to reactor `to`: between two of its turns, so that what runs
 * on t notices nothing; messages sent meanwhile arrive. Channels with something that belongs to a system thread
 * (device_ops.channel_leave) are asked first. done(move, status) on the calling thread: 0, -EBUSY (t exits, or is being moved),
 * or what a channel could not do on the new reactor: then t is where it was. t must live until it has run what was
 * sent to it before; `to` until done.
 */
void thread_move(struct thread_move *move, struct thread *t, struct reactor *to, thread_moved_fn done);

/* ---- What a thread has been doing (thread_get_stats, thread_get_pollers) ---- */

struct thread_stats {
	uint64_t busy_ns;
	uint64_t idle_ns;
	unsigned active_pollers;
	unsigned timed_pollers;
	unsigned armed_pollers;
};

/* On the thread itself. */
void thread_get_stats(struct thread_stats *ret_stats);
void thread_for_each_poller(void (*fn)(void *ctx, const struct poller *p), void *ctx);

#endif
