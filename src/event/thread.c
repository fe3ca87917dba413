/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Lightweight threads: messages, deferred calls, pollers, timers, watches.
 *
 * Invariants
 *  1. A thread is on its reactor's `ready` queue exactly when its inbox became non-empty and the reactor
 *     has not taken the messages yet; so ready_node is never pushed twice, and a thread whose inbox is empty
 *     is on no queue and known to no sender: it may be freed.
 *  2. An active poller is on its thread's `active` list; the thread is on the reactor's `active_threads`
 *     exactly when that list is not empty or its last turn left calls over.
 *  3. A poller that stops or arms while the list is being walked moves the walk's cursor past itself, and one
 *     that stops inside its own poll() clears `running`: it may have been freed, nothing of it is read again.
 *  4. An armed poller is called at the next event: arm() asked for it and then found no work, in that order;
 *     the edge that an event left in epoll is kept by the kernel until the reactor fetches it, which never
 *     happens between poll() and arm(). An edge fetched while the poller is active may be dropped: it is polled
 *     once more before it is armed, and what was signalled is there by then.
 *  5. A poller's gaps are counted from its first fruitless poll, or from poller_expect(), through its sleep if
 *     it had one, to the poll that finds work; what a sleep added to that is taken off, but a gap is never taken for
 *     shorter than it was polled in vain: or a patience that is always a little too short would find itself right.
 *  6. A turn is bounded, whatever its callbacks do: a share of the messages; pollers that were active at its start, once
 *     each; a share of deferred calls and batch hooks. A completion that submits again for ever starves nobody.
 */
#include "event/thread.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event/internal.h"

/* A turn's share. Whoever completes at once and submits again in done would never give the reactor back. */
#define MESSAGES_PER_TURN 256
#define DRAIN_CALLS 64
#define BATCH_PASSES 8

__thread struct thread *current_thread;

static _Atomic uint64_t next_thread_id = 1;

/* ---- Threads ---- */

static void
queue_init(struct defer_queue *q)
{
	q->first = NULL;
	q->end = &q->first;
}

struct thread *
thread_create(const char *name, struct reactor *reactor)
{
	struct thread *t = aligned_alloc(_Alignof(struct thread), sizeof(*t));

	if (t == NULL) {
		return NULL;
	}
	memset(t, 0, sizeof(*t));
	snprintf(t->name, sizeof(t->name), "%s", name);
	t->id = atomic_fetch_add(&next_thread_id, 1);
	list_init(&t->active);
	list_init(&t->pollers);
	list_init(&t->watches);
	list_init(&t->channels);
	list_init(&t->active_link);
	queue_init(&t->deferred);
	queue_init(&t->batch);
	t->next_poller_id = 1;
	t->created_ns = clock_now_ns();
	atomic_store(&t->reactor, reactor);
	atomic_store(&t->home, reactor);
	pthread_mutex_lock(&reactor->lock);
	list_append(&reactor->threads, &t->link);
	pthread_mutex_unlock(&reactor->lock);
	return t;
}

struct thread *
thread_self(void)
{
	return current_thread;
}

void
thread_exit(void)
{
	CHECK(current_thread != NULL);
	current_thread->exiting = true;
	current_thread->leaving = true;
}

void
thread_try_free(struct thread *t)
{
	struct reactor *r = thread_reactor(t);

	if (!mpsc_empty(&t->inbox) || t->left || atomic_load_explicit(&t->pins, memory_order_acquire) > 0) {
		return;
	}
	CHECK(list_empty(&t->pollers) && list_empty(&t->watches) && list_empty(&t->channels));
	for (size_t i = 0; i < r->timers.count; i++) {
		CHECK(CONTAINER_OF(r->timers.nodes[i], struct timer, node)->thread != t);
	}
	pthread_mutex_lock(&r->lock);
	list_remove(&t->link);
	pthread_mutex_unlock(&r->lock);
	free(t);
}

void
thread_pin(struct thread *t)
{
	atomic_fetch_add_explicit(&t->pins, 1, memory_order_relaxed);
}

void
thread_unpin(struct thread *t)
{
	atomic_fetch_sub_explicit(&t->pins, 1, memory_order_release);
}

const char *
thread_name(const struct thread *t)
{
	return t->name;
}

uint64_t
thread_id(const struct thread *t)
{
	return t->id;
}

struct reactor *
thread_reactor(const struct thread *t)
{
	return atomic_load_explicit(&t->reactor, memory_order_relaxed);
}

uint64_t
thread_busy_ns(const struct thread *t)
{
	return atomic_load_explicit(&t->busy_ns, memory_order_relaxed);
}

/* ---- Messages ---- */

void
thread_send(struct thread *t, struct msg *msg, void (*fn)(struct msg *msg))
{
	struct reactor *r = thread_reactor(t);

	msg->fn = fn;
	if (!mpsc_push(&t->inbox, &msg->node)) {
		return;
	}
	if (!mpsc_push(&r->ready, &t->ready_node)) {
		return;
	}
	/* Pairs with the barrier in reactor_wait(): the push above is sequentially consistent. */
	if (r != current_reactor && atomic_load_explicit(&r->sleeping, memory_order_seq_cst)) {
		reactor_wake(r);
	}
}

/* Calls what is on q now, not what these calls put there. */
static int
queue_run(struct defer_queue *q)
{
	struct defer *d = q->first;
	int count = 0;

	queue_init(q);
	while (d != NULL) {
		struct defer *next = d->next; /* fn may reuse or free d */

		d->fn(d);
		d = next;
		count++;
	}
	return count;
}

/*
 * A turn's share of what was taken from the inbox. All its messages together have one share of deferred calls: under a load
 * that always causes more of these, each message would otherwise wait for a whole share of them.
 */
static int
run_backlog(struct thread *t)
{
	int count = 0, calls = 0;

	while (t->backlog != NULL && count < MESSAGES_PER_TURN) {
		struct msg *msg = CONTAINER_OF(t->backlog, struct msg, node);

		t->backlog = t->backlog->next; /* fn may reuse or free the message */
		msg->fn(msg);
		while (t->deferred.first != NULL && calls < DRAIN_CALLS) {
			calls += queue_run(&t->deferred);
		}
		count++;
	}
	return count;
}

int
thread_run_messages(struct thread *t)
{
	struct mpsc_node **end = &t->backlog;

	while (UNLIKELY(*end != NULL)) {
		end = &(*end)->next;
	}
	*end = mpsc_take(&t->inbox);
	return run_backlog(t);
}

/* ---- Deferred calls ---- */

static void
queue_put(struct defer_queue *q, struct defer *d, void (*fn)(struct defer *d))
{
	d->fn = fn;
	d->next = NULL;
	*q->end = d;
	q->end = &d->next;
}

void
thread_defer(struct defer *d, void (*fn)(struct defer *d))
{
	queue_put(&current_thread->deferred, d, fn);
}

void
thread_batch(struct defer *d, void (*fn)(struct defer *d))
{
	queue_put(&current_thread->batch, d, fn);
}

/* Not inlined, as run_batch(): the loop over pollers that have nothing to do keeps its registers. */
__attribute__((noinline)) static void
drain_some(struct thread *t)
{
	for (int count = 0; t->deferred.first != NULL && count < DRAIN_CALLS;) {
		count += queue_run(&t->deferred);
	}
}

static inline void
drain(struct thread *t)
{
	if (t->deferred.first != NULL) {
		drain_some(t);
	}
}

void
thread_drain(struct thread *t)
{
	drain(t);
}

static void
set_left(struct thread *t, bool left)
{
	t->left = left;
	if (t->active_count > 0) {
		return;
	}
	if (left) {
		list_append(&thread_reactor(t)->active_threads, &t->active_link);
	} else {
		list_remove(&t->active_link);
	}
}

/* Batch hooks may complete requests, whose owners may submit more and so ask for the hooks again. */
__attribute__((noinline)) static void
run_batch(struct thread *t)
{
	bool left;

	for (int i = 0; t->batch.first != NULL && i < BATCH_PASSES; i++) {
		queue_run(&t->batch);
		thread_drain(t);
	}
	left = t->batch.first != NULL || t->deferred.first != NULL || t->backlog != NULL;
	if (left != t->left) {
		set_left(t, left);
	}
}

void
thread_finish_turn(struct thread *t)
{
	if (t->batch.first != NULL || t->deferred.first != NULL || t->backlog != NULL || t->left) {
		run_batch(t);
	}
}

/* ---- Pollers ---- */

static void
activate(struct poller *p)
{
	struct thread *t = p->thread;

	p->state = POLLER_ACTIVE;
	current_reactor->active_pollers++;
	if (t->active_count++ == 0 && !t->left) {
		list_append(&thread_reactor(t)->active_threads, &t->active_link);
	}
	list_append(&t->active, &p->link);
}

/* Leaves the active list, and the walk over it, and the reactor's list where this was all there was to do. */
static void
deactivate(struct poller *p)
{
	struct thread *t = p->thread;

	if (t->cursor == &p->link) {
		t->cursor = p->link.next;
	}
	list_remove(&p->link);
	current_reactor->active_pollers--;
	if (--t->active_count == 0 && !t->left) {
		list_remove(&t->active_link);
	}
}

static void
link_poller(struct poller *p, const struct poller_ops *ops)
{
	CHECK(current_thread != NULL && p->state == POLLER_STOPPED);
	p->target.kind = TARGET_POLLER;
	p->ops = ops;
	p->thread = current_thread;
	p->id = current_thread->next_poller_id++;
	p->run_count = 0;
	p->busy_count = 0;
	list_append(&current_thread->pollers, &p->all_link);
}

int
poller_start(struct poller *p, const struct poller_ops *ops, int fd)
{
	if (fd >= 0) {
		struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.ptr = &p->target};

		if (epoll_ctl(current_reactor->epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) {
			return -errno;
		}
	}
	link_poller(p, ops);
	p->fd = fd;
	p->idle_since_ns = 0;
	p->signalled = false;
	patience_init(&p->patience);
	current_thread->source_count++;
	current_reactor->source_count++;
	activate(p);
	return 0;
}

static void
poller_period(struct timer *timer)
{
	struct poller *p = CONTAINER_OF(timer, struct poller, timer);
	struct thread *t = p->thread;
	struct reactor *r = current_reactor;
	uint64_t due = p->timer.node.key + p->period_us * NS_PER_US;
	int work;

	/* Periods are counted from the last deadline, so that they do not drift; those missed are left out. */
	if (due <= r->now_ns) {
		due = r->now_ns + p->period_us * NS_PER_US;
	}
	/* Before poll(), which may stop or free p, and may fill the room that this node has just left. */
	CHECK(heap_insert(&r->timers, &p->timer.node, due) == 0);
	p->run_count++;
	t->running = p;
	work = p->ops->poll(p);
	if (t->running == p) {
		p->busy_count += work > 0;
	}
}

int
poller_start_timed(struct poller *p, const struct poller_ops *ops, uint64_t period_us)
{
	int rc;

	CHECK(p->state == POLLER_STOPPED && period_us > 0 && period_us <= POLLER_PERIOD_MAX_US);
	rc = timer_start(&p->timer, period_us, poller_period);
	if (rc != 0) {
		return rc;
	}
	link_poller(p, ops);
	p->fd = -1;
	p->period_us = period_us;
	p->state = POLLER_TIMED;
	current_thread->timed_count++;
	return 0;
}

void
poller_stop(struct poller *p)
{
	if (p->state == POLLER_STOPPED) {
		return;
	}
	CHECK(p->thread == current_thread);
	if (p->fd >= 0) {
		epoll_ctl(current_reactor->epoll_fd, EPOLL_CTL_DEL, p->fd, NULL);
		reactor_forget_events(&p->target);
	}
	if (p->state == POLLER_ACTIVE) {
		deactivate(p);
	} else if (p->state == POLLER_TIMED) {
		timer_stop(&p->timer);
		p->thread->timed_count--;
	} else {
		p->thread->armed_count--;
	}
	if (p->state != POLLER_TIMED) {
		p->thread->source_count--;
		current_reactor->source_count--;
	}
	if (p->thread->running == p) {
		p->thread->running = NULL;
	}
	list_remove(&p->all_link);
	p->state = POLLER_STOPPED;
}

static void
wake(struct poller *p)
{
	p->thread->armed_count--;
	activate(p);
	if (p->ops->disarm != NULL) {
		p->ops->disarm(p);
	}
}

void
poller_wake(struct poller *p)
{
	if (p->state == POLLER_ARMED) {
		p->idle_since_ns = 0;
		wake(p);
	}
}

void
poller_event(struct poller *p)
{
	current_thread = p->thread;
	if (p->state == POLLER_ARMED) {
		p->signalled = true;
		wake(p);
	}
}

void
poller_expect(struct poller *p)
{
	struct reactor *r = current_reactor;

	if (p->state == POLLER_ACTIVE) {
		p->idle_since_ns = 0;
	} else if (p->state == POLLER_ARMED) {
		p->idle_since_ns = r->now_ns;
		if (r->acting_mode == REACTOR_POLL || (r->acting_mode == REACTOR_ADAPTIVE && p->patience.ns > 0)) {
			wake(p);
		}
	}
}

void
thread_wake_pollers(struct thread *t)
{
	struct poller *p;

	current_thread = t;
	LIST_FOREACH(p, &t->pollers, all_link)
	{
		poller_wake(p);
	}
	current_thread = NULL;
}

/* A poller found work after a time without: the end of a gap. */
static void
end_gap(struct poller *p)
{
	struct reactor *r = current_reactor;
	uint64_t gap = r->now_ns - p->idle_since_ns;

	p->idle_since_ns = 0;
	if (r->acting_mode == REACTOR_ADAPTIVE) {
		uint64_t price = reactor_sleep_price_ns(r);

		if (p->signalled) {
			/* Asleep, it saw the event later than it would have, polling; but not before it gave up polling. */
			uint64_t late = MIN(price, REACTOR_SLEEP_MAX_NS);

			gap = MAX(gap - MIN(gap, late), (uint64_t)p->polled_ns);
		}
		patience_learn(&p->patience, gap, price);
	}
	p->signalled = false;
}

static uint64_t
patience_ns(const struct reactor *r, const struct poller *p)
{
	switch (r->acting_mode) {
	case REACTOR_ADAPTIVE:
		return p->patience.ns;
	case REACTOR_INTERRUPT:
		return REACTOR_GRACE_NS;
	default:
		return r->active_pollers > REACTOR_POLLED_MAX ? REACTOR_POLLED_NS : UINT64_MAX;
	}
}

/* An active poller had nothing to do: leave it to its descriptor once the mode's patience is over. */
static void
poller_idle(struct poller *p)
{
	struct reactor *r = current_reactor;

	if (p->idle_since_ns == 0) {
		p->idle_since_ns = r->now_ns;
	}
	if (r->now_ns - p->idle_since_ns < patience_ns(r, p) || (p->fd < 0 && p->ops->arm == NULL)) {
		return;
	}
	if (p->ops->arm != NULL && p->ops->arm(p)) {
		if (p->ops->disarm != NULL) {
			p->ops->disarm(p);
		}
		end_gap(p);
		return;
	}
	deactivate(p);
	p->state = POLLER_ARMED;
	p->polled_ns = (uint32_t)MIN(r->now_ns - p->idle_since_ns, (uint64_t)UINT32_MAX);
	p->signalled = false;
	p->thread->armed_count++;
}

int
thread_run_pollers(struct thread *t)
{
	unsigned todo = t->active_count; /* pollers that become active meanwhile wait for the next turn */
	int work = 0;

	if (UNLIKELY(t->left)) {
		thread_drain(t);
		work += 1 + run_backlog(t);
	}
	for (struct list *l = t->active.next; l != &t->active && todo > 0; l = t->cursor, todo--) {
		struct poller *p = LIST_ENTRY(l, struct poller, link);
		int n;

		t->cursor = l->next;
		t->running = p;
		p->run_count++;
		n = p->ops->poll(p);
		drain(t);
		if (n > 0) {
			work += n;
			if (t->running == p) {
				p->busy_count++;
				if (p->idle_since_ns != 0) {
					end_gap(p);
				}
			}
		} else if (t->running == p) {
			poller_idle(p);
		}
	}
	thread_finish_turn(t);
	return work;
}

/* ---- Timers ---- */

int
timer_start(struct timer *t, uint64_t delay_us, void (*fn)(struct timer *t))
{
	struct reactor *r = current_reactor;
	uint64_t now = clock_now_ns(), key;

	CHECK(current_thread != NULL && (!heap_linked(&t->node) || t->thread == current_thread));
	if (__builtin_mul_overflow(delay_us, NS_PER_US, &key) || __builtin_add_overflow(key, now, &key)) {
		key = UINT64_MAX;
	}
	heap_remove(&r->timers, &t->node);
	t->thread = current_thread;
	t->fn = fn;
	return heap_insert(&r->timers, &t->node, key);
}

void
timer_stop(struct timer *t)
{
	if (heap_linked(&t->node)) {
		CHECK(t->thread == current_thread);
		heap_remove(&current_reactor->timers, &t->node);
	}
}

/* ---- Watches ---- */

int
watch_start(struct watch *w, int fd, uint32_t events, void (*fn)(struct watch *w, uint32_t events))
{
	struct epoll_event ev = {.events = events, .data.ptr = &w->target};

	CHECK(current_thread != NULL);
	w->target.kind = TARGET_WATCH;
	if (epoll_ctl(current_reactor->epoll_fd, EPOLL_CTL_ADD, fd, &ev) != 0) {
		return -errno;
	}
	w->fd = fd;
	w->events = events;
	w->thread = current_thread;
	w->fn = fn;
	list_append(&current_thread->watches, &w->link);
	return 0;
}

int
watch_modify(struct watch *w, uint32_t events)
{
	struct epoll_event ev = {.events = events, .data.ptr = &w->target};

	if (epoll_ctl(current_reactor->epoll_fd, EPOLL_CTL_MOD, w->fd, &ev) != 0) {
		return -errno;
	}
	w->events = events;
	return 0;
}

void
watch_stop(struct watch *w)
{
	if (w->thread == NULL) {
		return;
	}
	CHECK(w->thread == current_thread);
	epoll_ctl(current_reactor->epoll_fd, EPOLL_CTL_DEL, w->fd, NULL);
	reactor_forget_events(&w->target);
	list_remove(&w->link);
	w->thread = NULL;
}

/* ---- Statistics ---- */

void
thread_get_stats(struct thread_stats *ret_stats)
{
	struct thread *t = current_thread;
	uint64_t lifetime = clock_now_ns() - t->created_ns;
	uint64_t busy = thread_busy_ns(t);

	*ret_stats = (struct thread_stats){
		.busy_ns = busy,
		.idle_ns = lifetime > busy ? lifetime - busy : 0,
		.active_pollers = t->active_count,
		.timed_pollers = t->timed_count,
		.armed_pollers = t->armed_count,
	};
}

void
thread_for_each_poller(void (*fn)(void *ctx, const struct poller *p), void *ctx)
{
	struct poller *p;

	LIST_FOREACH(p, &current_thread->pollers, all_link)
	{
		fn(ctx, p);
	}
}
