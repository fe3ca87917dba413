/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Moving a thread from one reactor to another.
 *
 *   asked   on t, by a message: channels that belong to a system thread are asked to leave it (channel_leave);
 *           t goes on running meanwhile, so that they can finish what is in flight
 *   leave   at the end of t's turn, when all have left: its timers leave the heap, its descriptors epoll, t
 *           its reactor's lists; home becomes NULL, `reactor` the new one; the move is pushed to the new one's arrivals
 *   arrive  on the new reactor, before anything else of its round: all that again, there; then channel_arrive; then the answer
 *
 * Invariants
 *  1. A thread is run by the reactor that is its home, by nobody while it has none.
 *  2. Its messages are pushed to where `reactor` points at that moment. A reactor that finds a thread in `ready` whose
 *     home it is not passes it on to where it points now, itself included: then its arrival is a moment away.
 *     thread.c's invariant 1 holds all the time: ready_node is on one queue.
 *  3. Nothing that a descriptor signals is lost: it is watched edge-triggered and never read, so that adding it to the new
 *     epoll reports what came before.
 *  4. A move ends: arrival needs memory (epoll, the heap); where there is none it is tried again each round. What
 *     a channel cannot do on the new reactor sends the thread back, where it can.
 */
#include <errno.h>

#include "event/channel.h"
#include "event/internal.h"

/* ---- The answer ---- */

static void
answer_on_origin(struct msg *msg)
{
	struct thread_move *m = CONTAINER_OF(msg, struct thread_move, msg);

	thread_unpin(m->origin);
	m->done(m, m->status);
}

static void
answer(struct thread_move *m, int status)
{
	m->status = status;
	thread_send(m->origin, &m->msg, answer_on_origin);
}

/* On t. */
static void
end(struct thread *t, int status)
{
	struct thread_move *m = t->move;

	t->move = NULL;
	t->leaving = t->exiting;
	answer(m, status);
}

/* ---- Channels ---- */

void
channel_left(struct channel *ch)
{
	struct thread_move *m = ch->thread->move;

	CHECK(ch->travel == CHANNEL_LEAVING && m != NULL && m->leaving > 0);
	ch->travel = CHANNEL_LEFT;
	m->leaving--;
}

/* Asks the channels that were not asked yet; true when all have left. */
static bool
channels_left(struct thread *t)
{
	struct channel *ch;

	LIST_FOREACH(ch, &t->channels, thread_link)
	{
		if (ch->dev->ops->channel_leave != NULL && ch->travel == CHANNEL_HERE) {
			ch->travel = CHANNEL_LEAVING;
			t->move->leaving++;
			ch->dev->ops->channel_leave(ch->dev, ch);
		}
	}
	return t->move->leaving == 0;
}

/* 0, or the first error; channels that arrived before it are here then, and will be asked to leave again. */
static int
channels_arrive(struct thread *t)
{
	struct channel *ch;
	int rc = 0;

	LIST_FOREACH(ch, &t->channels, thread_link)
	{
		if (ch->travel == CHANNEL_LEFT) {
			rc = ch->dev->ops->channel_arrive(ch->dev, ch);
			if (rc != 0) {
				return rc;
			}
			ch->travel = CHANNEL_HERE;
		}
	}
	return 0;
}

/* ---- Leaving ---- */

static void
take_timers(struct reactor *r, struct thread_move *m)
{
	m->timers = NULL;
	for (size_t i = 0; i < r->timers.count; i++) {
		struct timer *timer = CONTAINER_OF(r->timers.nodes[i], struct timer, node);

		if (timer->thread == m->thread) {
			timer->next = m->timers;
			m->timers = timer;
		}
	}
	for (struct timer *timer = m->timers; timer != NULL; timer = timer->next) {
		heap_remove(&r->timers, &timer->node);
	}
}

/* Calls fn for each descriptor of t and what its events point to, until fn says false. */
static bool
for_each_fd(struct thread *t, bool (*fn)(struct reactor *r, int fd, uint32_t events, void *target), struct reactor *r)
{
	struct poller *p;
	struct watch *w;

	LIST_FOREACH(p, &t->pollers, all_link)
	{
		if (p->fd >= 0 && !fn(r, p->fd, EPOLLIN | EPOLLET, &p->target)) {
			return false;
		}
	}
	LIST_FOREACH(w, &t->watches, link)
	{
		if (!fn(r, w->fd, w->events, &w->target)) {
			return false;
		}
	}
	return true;
}

static bool
forget_fd(struct reactor *r, int fd, uint32_t events, void *target)
{
	epoll_ctl(r->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
	reactor_forget_events(target);
	return true;
}

static bool
add_fd(struct reactor *r, int fd, uint32_t events, void *target)
{
	struct epoll_event ev = {.events = events, .data.ptr = target};

	return epoll_ctl(r->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0;
}

static void
leave(struct reactor *r, struct thread *t)
{
	struct thread_move *m = t->move;
	struct reactor *to = m->to;

	take_timers(r, m);
	(void)for_each_fd(t, forget_fd, r);
	list_remove(&t->active_link);
	r->active_pollers -= t->active_count;
	r->source_count -= t->source_count;
	pthread_mutex_lock(&r->lock);
	list_remove(&t->link);
	pthread_mutex_unlock(&r->lock);
	m->from = r;
	atomic_store_explicit(&t->home, NULL, memory_order_relaxed);
	/* From here on messages go there, and wait there for the arrival. */
	atomic_store_explicit(&t->reactor, to, memory_order_seq_cst);
	(void)mpsc_push(&to->arrivals, &m->node);
	reactor_wake(to);
}

void
thread_move_on(struct thread *t)
{
	bool left;

	current_thread = t;
	if (t->exiting) {
		/* Its channels are gone. */
		end(t, -EBUSY);
		current_thread = NULL;
		thread_try_free(t);
		return;
	}
	left = channels_left(t);
	/* Channels may have asked for something; and what a turn leaves over is for this reactor. */
	thread_finish_turn(t);
	current_thread = NULL;
	if (left && !t->left) {
		leave(current_reactor, t);
	}
}

/* ---- Arriving ---- */

/* False when memory is out: then all is as before. */
static bool
settle(struct reactor *r, struct thread_move *m)
{
	if (!for_each_fd(m->thread, add_fd, r)) {
		(void)for_each_fd(m->thread, forget_fd, r);
		return false;
	}
	for (struct timer *timer = m->timers; timer != NULL; timer = timer->next) {
		if (heap_insert(&r->timers, &timer->node, timer->node.key) != 0) {
			for (struct timer *t = m->timers; t != timer; t = t->next) {
				heap_remove(&r->timers, &t->node);
			}
			(void)for_each_fd(m->thread, forget_fd, r);
			return false;
		}
	}
	return true;
}

static void
arrive(struct reactor *r, struct thread_move *m)
{
	struct thread *t = m->thread;
	int rc;

	r->now_ns = clock_now_ns();
	if (!settle(r, m)) {
		(void)mpsc_push(&r->arrivals, &m->node);
		return;
	}
	pthread_mutex_lock(&r->lock);
	list_append(&r->threads, &t->link);
	pthread_mutex_unlock(&r->lock);
	atomic_store_explicit(&t->home, r, memory_order_relaxed);
	r->active_pollers += t->active_count;
	r->source_count += t->source_count;
	if (t->active_count > 0) {
		list_append(&r->active_threads, &t->active_link);
	}
	current_thread = t;
	rc = channels_arrive(t);
	if (rc == 0) {
		end(t, m->status);
	} else {
		/* Back to where it came from. */
		CHECK(m->status == 0);
		m->status = rc;
		m->to = m->from;
	}
	(void)thread_run_pollers(t);
	current_thread = NULL;
	if (t->move != NULL) {
		thread_move_on(t);
	} else if (t->exiting) {
		thread_try_free(t);
	}
}

int
reactor_take_arrivals(struct reactor *r)
{
	struct mpsc_node *node = mpsc_take(&r->arrivals);
	int count = 0;

	while (node != NULL) {
		struct thread_move *m = CONTAINER_OF(node, struct thread_move, node);

		node = node->next;
		arrive(r, m);
		count++;
	}
	return count;
}

void
thread_forward(struct reactor *r, struct thread *t)
{
	struct reactor *to = thread_reactor(t);

	(void)mpsc_push(&to->ready, &t->ready_node);
	if (to != r) {
		reactor_wake(to);
	}
}

/* ---- Asking ---- */

static void
ask(struct msg *msg)
{
	struct thread_move *m = CONTAINER_OF(msg, struct thread_move, msg);
	struct thread *t = thread_self();

	if (t->exiting || t->move != NULL) {
		answer(m, -EBUSY);
	} else if (m->to == current_reactor) {
		answer(m, 0);
	} else {
		t->move = m;
		t->leaving = true;
	}
}

void
thread_move(struct thread_move *m, struct thread *t, struct reactor *to, thread_moved_fn done)
{
	CHECK(thread_self() != NULL);
	*m = (struct thread_move){.thread = t, .to = to, .done = done, .origin = thread_self()};
	thread_pin(m->origin);
	thread_send(t, &m->msg, ask);
}
