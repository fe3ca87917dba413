/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Waiting by io_uring: one io_uring_enter hands over what was prepared (descriptors to watch again) and sleeps.
 *
 *  - poll: a multishot POLL_ADD for each descriptor, never read: each write of an eventfd is one completion.
 *  - read: a read of each eventfd, prepared again after each completion.
 *  - over epoll: descriptors are in an epoll as ever, the ring waits for that. By IORING_OP_EPOLL_WAIT the events come with
 *    the completion; by a poll of the epoll descriptor they are fetched with one more system call.
 */
#include <errno.h>
#include <string.h>

#include "waiting.h"

#define ENTRIES 1024

int
ring_open(struct io_uring *ring, unsigned flags)
{
	struct io_uring_params params = {
		.flags = flags | IORING_SETUP_CQSIZE | IORING_SETUP_SUBMIT_ALL, .cq_entries = 2 * ENTRIES};
	int rc = io_uring_queue_init_params(ENTRIES, ring, &params);

	if (rc == 0) {
		(void)io_uring_register_ring_fd(ring);
	}
	return rc;
}

bool
ring_knows(struct io_uring *ring, int op)
{
	struct io_uring_probe *probe = io_uring_get_probe_ring(ring);
	bool known = probe != NULL && io_uring_opcode_supported(probe, op);

	io_uring_free_probe(probe);
	return known;
}

void
ring_prep_epoll_wait(struct io_uring_sqe *sqe, int epoll_fd, struct epoll_event *events, unsigned max)
{
	io_uring_prep_rw(RING_OP_EPOLL_WAIT, sqe, epoll_fd, events, max, 0);
}

static struct io_uring_sqe *
next_sqe(struct io_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(ring);

	if (sqe == NULL) {
		(void)io_uring_submit(ring);
		sqe = io_uring_get_sqe(ring);
		CHECK(sqe != NULL);
	}
	return sqe;
}

/* After it, completions that there are can be taken from the shared ring. */
static int
enter(struct waiter *w, bool block)
{
	struct io_uring *ring = &w->ring;
	int rc = 0;

	if (block && io_uring_cq_ready(ring) == 0) {
		rc = io_uring_submit_and_wait(ring, 1);
	} else if (io_uring_sq_ready(ring) > 0) {
		rc = io_uring_submit_and_get_events(ring);
	} else if (ring_has_work(ring)) {
		rc = io_uring_get_events(ring);
	}
	return MIN(rc, 0);
}

/* All that was prepared is in the kernel; what it refuses it has refused at once. */
static int
start(struct waiter *w)
{
	int rc = io_uring_submit_and_get_events(&w->ring);
	struct io_uring_cqe *cqe;

	if (rc >= 0 && io_uring_peek_cqe(&w->ring, &cqe) == 0 && cqe->res < 0) {
		rc = cqe->res;
	}
	return MIN(rc, 0);
}

static int
open_ring(struct waiter *w)
{
	int rc = ring_open(&w->ring, w->how->ring_flags);

	w->ring_open = rc == 0;
	return rc;
}

static void
close_ring(struct waiter *w)
{
	if (w->ring_open) {
		io_uring_queue_exit(&w->ring);
	}
}

/* ---- Descriptor by descriptor ---- */

static void
prep_poll(struct waiter *w, unsigned index)
{
	struct io_uring_sqe *sqe = next_sqe(&w->ring);

	io_uring_prep_poll_multishot(sqe, w->fds[index], POLLIN);
	io_uring_sqe_set_data64(sqe, index);
}

static void
prep_read(struct waiter *w, unsigned index)
{
	struct io_uring_sqe *sqe = next_sqe(&w->ring);

	io_uring_prep_read(sqe, w->fds[index], &w->values[index], sizeof(uint64_t), 0);
	io_uring_sqe_set_data64(sqe, index);
}

static int
open_fds(struct waiter *w, void (*prep)(struct waiter *w, unsigned index))
{
	int rc = open_ring(w);

	for (unsigned i = 0; rc == 0 && i < w->count; i++) {
		prep(w, i);
	}
	return rc == 0 ? start(w) : rc;
}

static int
poll_open(struct waiter *w)
{
	return open_fds(w, prep_poll);
}

static int
read_open(struct waiter *w)
{
	return open_fds(w, prep_read);
}

static int
wait_fds(struct waiter *w, bool block, void (*prep)(struct waiter *w, unsigned index))
{
	int rc = enter(w, block);
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;

	io_uring_for_each_cqe(&w->ring, head, cqe)
	{
		unsigned index = (unsigned)cqe->user_data;

		n++;
		if (cqe->res < 0) {
			rc = cqe->res;
			continue;
		}
		waiter_event(w, index);
		if ((cqe->flags & IORING_CQE_F_MORE) == 0) {
			prep(w, index);
		}
	}
	io_uring_cq_advance(&w->ring, n);
	return rc;
}

static int
poll_wait(struct waiter *w, bool block)
{
	return wait_fds(w, block, prep_poll);
}

static int
read_wait(struct waiter *w, bool block)
{
	return wait_fds(w, block, prep_read);
}

/* ---- An epoll in the ring ---- */

static void
prep_epoll(struct waiter *w)
{
	struct io_uring_sqe *sqe = next_sqe(&w->ring);

	if (w->how == &ring_epoll_wait) {
		ring_prep_epoll_wait(sqe, w->epoll_fd, w->events, EVENTS_MAX);
	} else {
		io_uring_prep_poll_multishot(sqe, w->epoll_fd, POLLIN);
	}
}

static int
epoll_open(struct waiter *w)
{
	int rc = wait_epoll_edge.open(w);

	rc = rc == 0 ? open_ring(w) : rc;
	if (rc == 0 && w->how == &ring_epoll_wait && !ring_knows(&w->ring, RING_OP_EPOLL_WAIT)) {
		rc = -EOPNOTSUPP;
	}
	if (rc != 0) {
		return rc;
	}
	prep_epoll(w);
	return start(w);
}

static void
take_events(struct waiter *w, int n)
{
	for (int i = 0; i < n; i++) {
		waiter_event(w, w->events[i].data.u32);
	}
}

static int
epoll_wait_wait(struct waiter *w, bool block)
{
	int rc = enter(w, block);
	struct io_uring_cqe *cqe;

	if (rc == 0 && io_uring_peek_cqe(&w->ring, &cqe) == 0) {
		rc = MIN(cqe->res, 0);
		take_events(w, cqe->res);
		io_uring_cqe_seen(&w->ring, cqe);
		prep_epoll(w);
	}
	return rc;
}

static int
epoll_poll_wait(struct waiter *w, bool block)
{
	int rc = enter(w, block), n = EVENTS_MAX;
	bool more = true, signalled = false;
	struct io_uring_cqe *cqe;

	while (rc == 0 && io_uring_peek_cqe(&w->ring, &cqe) == 0) {
		rc = MIN(cqe->res, 0);
		more = (cqe->flags & IORING_CQE_F_MORE) != 0;
		signalled = true;
		io_uring_cqe_seen(&w->ring, cqe);
	}
	while (signalled && n == EVENTS_MAX) {
		n = epoll_wait(w->epoll_fd, w->events, EVENTS_MAX, 0);
		take_events(w, n);
	}
	if (!more) {
		prep_epoll(w);
	}
	return rc;
}

const struct primitive ring_poll_defer = {
	"io_uring poll, deferred", poll_open, poll_wait, NULL, close_ring, RING_DEFER, 0};
const struct primitive ring_poll_coop = {
	"io_uring poll, cooperative", poll_open, poll_wait, NULL, close_ring, RING_COOP, 0};
const struct primitive ring_poll_plain = {
	"io_uring poll, no flags", poll_open, poll_wait, NULL, close_ring, RING_PLAIN, 0};
const struct primitive ring_read_defer = {
	"io_uring read, deferred", read_open, read_wait, NULL, close_ring, RING_DEFER, 0};
const struct primitive ring_read_plain = {
	"io_uring read, no flags", read_open, read_wait, NULL, close_ring, RING_PLAIN, 0};
const struct primitive ring_epoll_wait = {
	"io_uring over epoll (EPOLL_WAIT), deferred", epoll_open, epoll_wait_wait, NULL, close_ring, RING_DEFER, 0};
const struct primitive ring_epoll_poll = {
	"io_uring over epoll (poll), deferred", epoll_open, epoll_poll_wait, NULL, close_ring, RING_DEFER, 0};
