/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of a session: start, waiting, end. What it does with requests is in request.c, what it receives in receive.c, what it
 * sends in send.c.
 *
 *   start --> serves --(client leaves, breaks the rules, stop)--> ending --(nothing at the bdev, all is sent)--> ended
 *
 * Invariants
 *  1. `ended` is called once; before it every request is back in the pool, the channel is put, the socket closed.
 *  2. While it waits for memory, or is paused, nothing is received; whoever can change that wakes the poller.
 *  3. A session that holds memory for which others wait, and moves nothing, is ended after NBD_STARVE_US.
 *  4. Idle, it has no memory but itself, and no timer.
 */
#include "nbd/session.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/check.h"
#include "nbd/internal.h"

/* Longest that memory may be held by those who do nothing with it while others wait, and the least they must move. */
#define NBD_STARVE_US 5000000
#define NBD_STARVE_BYTES 131072
/* How long replies wait to be taken by a client that is being sent away. */
#define NBD_LINGER_US 5000000

/* ---- Waiting ---- */

static void
starve(struct timer *timer)
{
	struct nbd_thread *t = CONTAINER_OF(timer, struct nbd_thread, starve_timer);
	struct nbd_session *s, *tmp;

	if (list_empty(&t->waiting)) {
		return;
	}
	LIST_FOREACH_SAFE(s, tmp, &t->sessions, link) {
		bool holds = s->fill != NULL || s->out_first != NULL || (s->in != NULL && s->in_start < s->in_end);

		if (holds && !s->waiting && s->inflight == 0 && s->moved - s->moved_mark < NBD_STARVE_BYTES) {
			nbd_session_break(s, -ETIMEDOUT, "it held memory that others waited for");
		}
		s->moved_mark = s->moved;
	}
	(void)timer_start(&t->starve_timer, NBD_STARVE_US, starve);
	nbd_session_feed(t);
}

void
nbd_session_wait(struct nbd_session *s, unsigned large)
{
	struct nbd_thread *t = s->t;

	CHECK(!s->waiting);
	if (list_empty(&t->waiting)) {
		struct nbd_session *other;

		LIST_FOREACH(other, &t->sessions, link) {
			other->moved_mark = other->moved;
		}
		(void)timer_start(&t->starve_timer, NBD_STARVE_US, starve);
	}
	s->waiting = true;
	s->needs = large;
	list_append(&t->waiting, &s->wait_link);
}

static void
stop_waiting(struct nbd_session *s)
{
	if (s->waiting) {
		s->waiting = false;
		list_remove(&s->wait_link);
		if (list_empty(&s->t->waiting)) {
			timer_stop(&s->t->starve_timer);
		}
	}
}

void
nbd_session_feed(struct nbd_thread *t)
{
	struct nbd_session *s;

	if (list_empty(&t->waiting)) {
		return;
	}
	s = LIST_FIRST(&t->waiting, struct nbd_session, wait_link);
	if (nbd_buffers_left(&t->large, s->needs)) {
		stop_waiting(s);
		poller_wake(&s->poller);
	}
}

void
nbd_session_resume(struct nbd_session *s)
{
	s->paused = false;
	if (!s->inside) {
		poller_wake(&s->poller);
	}
}

/* ---- The end ---- */

static void
over_on_control(struct msg *msg)
{
	struct nbd_session *s = CONTAINER_OF(msg, struct nbd_session, ended_msg);

	s->over = true;
	/* A stop that is on its way must come back first. */
	if (!s->stop_sent) {
		s->ended(s);
	}
}

static void
release(struct nbd_session *s)
{
	stop_waiting(s);
	timer_stop(&s->linger);
	nbd_receive_release(s);
	nbd_send_release(s);
	CHECK(s->count == 0 && s->bytes == 0);
	if (s->requests != NULL) {
		nbd_request_bin_put(s->requests);
	}
	list_remove(&s->link);
	bdev_channel_put(s->ch);
	if (s->t != NULL) {
		nbd_thread_put(s->t);
	}
	stream_close(&s->setup.stream);
	free(s->setup.early);
	thread_send(s->control, &s->ended_msg, over_on_control);
}

static void session_disarm(struct poller *p);

static void
finish(struct defer *d)
{
	struct nbd_session *s = CONTAINER_OF(d, struct nbd_session, finish);

	session_disarm(&s->poller);
	poller_stop(&s->poller);
	if (s->out_fd >= 0) {
		close(s->out_fd);
	}
	release(s);
}

void
nbd_session_settle(struct nbd_session *s)
{
	if (s->ending && !s->finishing && s->inflight == 0 && !s->flush_queued && (s->broken || !nbd_send_pending(s))) {
		s->finishing = true;
		thread_defer(&s->finish, finish);
	}
}

static void
lingered(struct timer *timer)
{
	struct nbd_session *s = CONTAINER_OF(timer, struct nbd_session, linger);

	nbd_session_break(s, -ETIMEDOUT, "it did not take its last replies");
	if (s->inflight > 0) { /* perhaps for ever: in a full store */
		(void)timer_start(timer, NBD_LINGER_US, lingered);
		bdev_channel_give_up(s->ch);
	}
}

void
nbd_session_end(struct nbd_session *s, int status, const char *why)
{
	if (!s->ending) {
		s->ending = true;
		s->status = status;
		s->why = why;
		stop_waiting(s);
		nbd_receive_release(s);
		if (timer_start(&s->linger, NBD_LINGER_US, lingered) != 0) {
			s->broken = true;
		}
	}
	nbd_session_settle(s);
}

void
nbd_session_break(struct nbd_session *s, int status, const char *why)
{
	s->broken = true;
	nbd_session_end(s, status, why);
}

/* ---- The poller ---- */

static int
session_poll(struct poller *p)
{
	struct nbd_session *s = CONTAINER_OF(p, struct nbd_session, poller);
	int work = 0;

	s->inside = true;
	if (nbd_send_pending(s) && !s->flush_queued && !s->broken) {
		work += nbd_send_out(s);
	}
	if (!s->ending) {
		work += nbd_receive(s);
	}
	s->inside = false;
	nbd_session_settle(s);
	return work;
}

static void
on_room(struct watch *w, uint32_t events)
{
	poller_wake(&CONTAINER_OF(w, struct nbd_session, out_watch)->poller);
}

/* Of the two directions of the socket the poller's descriptor tells of one; for the other there is a copy of it. */
static bool
session_arm(struct poller *p)
{
	struct nbd_session *s = CONTAINER_OF(p, struct nbd_session, poller);

	if (!s->ending && !s->waiting && !s->paused && stream_pending(&s->setup.stream)) {
		return true;
	}
	if (!nbd_send_pending(s) || s->broken || s->out_watching) {
		return false;
	}
	if (s->out_fd < 0) {
		s->out_fd = fcntl(s->setup.stream.fd, F_DUPFD_CLOEXEC, 0);
	}
	/* Without it, polling goes on until there is room, or a descriptor. */
	if (s->out_fd < 0 || watch_start(&s->out_watch, s->out_fd, EPOLLOUT, on_room) != 0) {
		return true;
	}
	s->out_watching = true;
	return false;
}

static void
session_disarm(struct poller *p)
{
	struct nbd_session *s = CONTAINER_OF(p, struct nbd_session, poller);

	if (s->out_watching) {
		watch_stop(&s->out_watch);
		s->out_watching = false;
	}
}

static const struct poller_ops session_poller = {
	.name = "nbd_session_poll",
	.poll = session_poll,
	.arm = session_arm,
	.disarm = session_disarm,
};

/* ---- Start and stop ---- */

static int
start(struct nbd_session *s)
{
	struct bdev *bdev = bdev_desc_bdev(s->setup.desc);
	int rc = 0;

	s->t = nbd_thread_get(&rc);
	if (s->t == NULL) {
		return rc;
	}
	s->ch = bdev_channel_get(s->setup.desc, &rc);
	if (s->ch == NULL) {
		return rc;
	}
	s->requests = nbd_request_bin_get(s->t, offsetof(struct nbd_io, io) + bdev_io_bytes(bdev));
	if (s->requests == NULL) {
		return -ENOMEM;
	}
	s->header_bytes = (uint8_t)nbd_request_bytes(s->setup.style == NBD_EXTENDED);
	s->block_shift = (uint8_t)__builtin_ctz(bdev_block_size(bdev));
	s->copies = bdev_buffer_align(bdev) > 1;
	/* TLS may read twice what it sends; then what others write meanwhile would break the connection. */
	s->memory = s->setup.stream.tls == NULL ? bdev_memory(bdev) : NULL;
	s->asks_holes = s->setup.style != NBD_SIMPLE && bdev_supports_natively(bdev, BDEV_BLOCK_STATUS);
	list_append(&s->t->sessions, &s->link);
	return poller_start(&s->poller, &session_poller, s->setup.stream.fd);
}

static void
start_on_thread(struct msg *msg)
{
	struct nbd_session *s = CONTAINER_OF(msg, struct nbd_session, start_msg);
	int rc = start(s);

	if (rc != 0) {
		s->ending = true;
		s->broken = true;
		s->finishing = true;
		s->status = rc;
		s->why = "it could not be served";
		release(s);
	}
}

void
nbd_session_start(struct nbd_session *s, void (*ended)(struct nbd_session *s))
{
	s->out_fd = -1;
	s->control = thread_self();
	s->ended = ended;
	thread_send(s->setup.thread, &s->start_msg, start_on_thread);
}

static void
stopped_on_control(struct msg *msg)
{
	struct nbd_session *s = CONTAINER_OF(msg, struct nbd_session, stop_msg);

	s->stop_sent = false;
	if (s->over) {
		s->ended(s);
	}
}

static void
stop_on_thread(struct msg *msg)
{
	struct nbd_session *s = CONTAINER_OF(msg, struct nbd_session, stop_msg);
	struct thread *control = s->control;

	if (!s->finishing) {
		nbd_session_end(s, 0, NULL);
	}
	thread_send(control, &s->stop_msg, stopped_on_control);
}

void
nbd_session_stop(struct nbd_session *s)
{
	if (!s->stop_sent && !s->over) {
		s->stop_sent = true;
		thread_send(s->setup.thread, &s->stop_msg, stop_on_thread);
	}
}
