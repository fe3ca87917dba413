/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Ways of a reactor to do disk I/O and wait for descriptors, for section d. A round: take what is asked for, hand it over,
 * look for completions in shared memory; only when there is none, sleep.
 *
 *   pread                  no I/O besides the caller: the floor where data is in memory
 *   aio + epoll            io_submit, each completion signals an eventfd in epoll; io_getevents or our own look at its ring
 *   own ring + epoll       the ring signals an eventfd in epoll; user space turns the signals on before it sleeps only.
 *                          Or the ring is in epoll itself; not a deferred one, which wakes nobody who polls it (seen with 6.18)
 *   one ring, polling      a multishot poll of each descriptor in the ring: one io_uring_enter submits and sleeps
 *   one ring, over epoll   descriptors in an epoll, which the ring waits for by IORING_OP_EPOLL_WAIT
 *
 * A kick needs no handling of its own: after each sleep a round looks at what is asked for.
 */
#include <errno.h>
#include <libaio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "waiting.h"

/* What a completion that is no read's carries. */
#define KICKED UINT64_MAX

struct state {
	int epoll_fd;
	int event_fd;
	io_context_t aio;
	struct iocb iocbs[SLOTS];
	struct iocb *queue[SLOTS];
	struct io_uring ring;
	bool ring_open;
	struct epoll_event events[EVENTS_MAX];
};

static struct state *
state_of(struct disk *d)
{
	return d->state;
}

static int
state_create(struct disk *d)
{
	struct state *s = calloc(1, sizeof(*s));

	CHECK(s != NULL);
	d->state = s;
	s->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	s->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	return s->event_fd < 0 || s->epoll_fd < 0 ? -errno : 0;
}

static int
epoll_add(struct disk *d, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};

	return epoll_ctl(state_of(d)->epoll_fd, EPOLL_CTL_ADD, fd, &ev) == 0 ? 0 : -errno;
}

/* What watches the descriptors is an epoll. */
static int
epoll_open(struct disk *d)
{
	int rc = state_create(d);

	rc = rc == 0 ? epoll_add(d, d->kick_fd) : rc;
	return rc == 0 ? epoll_add(d, state_of(d)->event_fd) : rc;
}

static void
state_free(struct disk *d)
{
	struct state *s = d->state;

	if (s->aio != NULL) {
		io_destroy(s->aio);
	}
	if (s->ring_open) {
		io_uring_queue_exit(&s->ring);
	}
	close(s->event_fd);
	close(s->epoll_fd);
	free(s);
}

static int
sleep_in_epoll(struct disk *d)
{
	struct state *s = state_of(d);
	int n = epoll_wait(s->epoll_fd, s->events, EVENTS_MAX, -1);

	d->calls++;
	return n < 0 && errno != EINTR ? -errno : 0;
}

/* ---- pread ---- */

static void
pread_prepare(struct disk *d, unsigned slot)
{
	struct slot *s = &d->slots[slot];
	ssize_t n = pread(d->fd, s->buffer, BLOCK_BYTES, (off_t)(s->block * BLOCK_BYTES));

	d->calls++;
	d->now_ns = clock_now_ns();
	disk_complete(d, slot, n < 0 ? -errno : n);
}

static int
pread_round(struct disk *d)
{
	uint64_t before = d->done;

	disk_take(d);
	d->prepared = 0;
	return d->done == before ? sleep_in_epoll(d) : 0;
}

/* ---- aio ---- */

static int
aio_open(struct disk *d)
{
	int rc = epoll_open(d);

	return rc != 0 ? rc : io_setup(SLOTS, &state_of(d)->aio);
}

static void
aio_prepare(struct disk *d, unsigned slot)
{
	struct state *s = state_of(d);
	struct iocb *iocb = &s->iocbs[slot];

	io_prep_pread(iocb, d->fd, d->slots[slot].buffer, BLOCK_BYTES, (long long)(d->slots[slot].block * BLOCK_BYTES));
	io_set_eventfd(iocb, s->event_fd);
	s->queue[d->prepared] = iocb;
}

static int
aio_submit(struct disk *d)
{
	struct state *s = state_of(d);

	while (d->prepared > 0) {
		int n = io_submit(s->aio, d->prepared, s->queue);

		d->calls++;
		if (n <= 0) {
			return n < 0 ? n : -EAGAIN;
		}
		d->prepared -= (unsigned)n;
		memmove(s->queue, s->queue + n, d->prepared * sizeof(s->queue[0]));
	}
	return 0;
}

static void
aio_answer(struct disk *d, const struct io_event *ev)
{
	disk_complete(d, (unsigned)(ev->obj - state_of(d)->iocbs), (int64_t)ev->res);
}

/* The library makes no system call while the shared ring is empty. */
static int
reap_by_call(struct disk *d)
{
	struct io_event events[SLOTS];
	struct timespec zero = {0};
	int n = io_getevents(state_of(d)->aio, 0, SLOTS, events, &zero);

	if (n > 0) {
		d->calls++;
		d->now_ns = clock_now_ns();
	}
	for (int i = 0; i < n; i++) {
		aio_answer(d, &events[i]);
	}
	return n;
}

/* What the kernel maps at the address that is the context's name (linux/fs/aio.c). */
struct aio_ring {
	unsigned id;
	unsigned nr;
	_Atomic unsigned head;
	_Atomic unsigned tail;
	unsigned magic;
	unsigned compat_features;
	unsigned incompat_features;
	unsigned header_bytes;
	struct io_event events[];
};

#define AIO_RING_MAGIC 0xa10a10a1u

static int
reap_by_ring(struct disk *d)
{
	struct aio_ring *ring = (struct aio_ring *)state_of(d)->aio;
	unsigned head = atomic_load_explicit(&ring->head, memory_order_relaxed);
	unsigned tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
	int n = 0;

	if (ring->magic != AIO_RING_MAGIC || ring->incompat_features != 0) {
		return -EOPNOTSUPP;
	}
	if (head != tail) {
		d->now_ns = clock_now_ns();
	}
	for (; head != tail; head = (head + 1) % ring->nr, n++) {
		aio_answer(d, &ring->events[head]);
	}
	atomic_store_explicit(&ring->head, head, memory_order_release);
	return n;
}

static int
aio_round(struct disk *d, int (*reap)(struct disk *d))
{
	int rc;

	disk_take(d);
	rc = aio_submit(d);
	if (rc == 0) {
		rc = reap(d);
	}
	if (rc == 0) {
		rc = sleep_in_epoll(d);
		return rc == 0 ? reap(d) : rc;
	}
	return rc;
}

static int
aio_round_by_call(struct disk *d)
{
	return aio_round(d, reap_by_call);
}

static int
aio_round_by_ring(struct disk *d)
{
	return aio_round(d, reap_by_ring);
}

/* ---- Any ring ---- */

static int
start_ring(struct disk *d)
{
	struct state *s = state_of(d);
	int rc = ring_open(&s->ring, d->how->ring_flags);

	s->ring_open = rc == 0;
	if (rc == 0) {
		/* As slot 0; spares each request a look-up. */
		rc = io_uring_register_files(&s->ring, &d->fd, 1);
	}
	return rc;
}

static void
ring_prepare(struct disk *d, unsigned slot)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&state_of(d)->ring);

	CHECK(sqe != NULL);
	io_uring_prep_read(sqe, 0, d->slots[slot].buffer, BLOCK_BYTES, d->slots[slot].block * BLOCK_BYTES);
	sqe->flags |= IOSQE_FIXED_FILE;
	io_uring_sqe_set_data64(sqe, slot);
}

/* Watches the descriptors for as long as the kernel likes to. */
static void
ring_watch(struct disk *d)
{
	struct state *s = state_of(d);
	struct io_uring_sqe *sqe = io_uring_get_sqe(&s->ring);

	CHECK(sqe != NULL);
	if (d->how->over_epoll) {
		ring_prep_epoll_wait(sqe, s->epoll_fd, s->events, EVENTS_MAX);
	} else {
		io_uring_prep_poll_multishot(sqe, d->kick_fd, POLLIN);
	}
	io_uring_sqe_set_data64(sqe, KICKED);
}

static int
ring_reap(struct disk *d)
{
	struct io_uring *ring = &state_of(d)->ring;
	struct io_uring_cqe *cqe;
	unsigned head, n = 0;
	int rc = 0;

	if (io_uring_cq_ready(ring) > 0) {
		d->now_ns = clock_now_ns();
	}
	io_uring_for_each_cqe(ring, head, cqe)
	{
		n++;
		if (cqe->user_data != KICKED) {
			disk_complete(d, (unsigned)cqe->user_data, cqe->res);
		} else if (cqe->res < 0) {
			rc = cqe->res;
		} else if ((cqe->flags & IORING_CQE_F_MORE) == 0) {
			ring_watch(d);
		}
	}
	io_uring_cq_advance(ring, n);
	return rc < 0 ? rc : (int)n;
}

/* ---- A ring of its own beside epoll ---- */

static int
beside_open(struct disk *d)
{
	struct state *s;
	int rc = epoll_open(d);

	rc = rc == 0 ? start_ring(d) : rc;
	if (rc != 0) {
		return rc;
	}
	s = state_of(d);
	if (d->how->over_epoll) {
		return epoll_add(d, s->ring.ring_fd);
	}
	rc = io_uring_register_eventfd(&s->ring, s->event_fd);
	if (rc == 0) {
		(void)io_uring_cq_eventfd_toggle(&s->ring, false);
	}
	return rc;
}

/* Asks for a signal, looks again, sleeps. */
static int
sleep_beside(struct disk *d)
{
	struct io_uring *ring = &state_of(d)->ring;
	int rc = 0;

	if (!d->how->over_epoll) {
		(void)io_uring_cq_eventfd_toggle(ring, true);
		/* Pairs with the kernel, which posts and then looks whether to signal. */
		atomic_thread_fence(memory_order_seq_cst);
	}
	if (!ring_has_work(ring) && io_uring_cq_ready(ring) == 0) {
		rc = sleep_in_epoll(d);
	}
	if (!d->how->over_epoll) {
		(void)io_uring_cq_eventfd_toggle(ring, false);
	}
	if (rc == 0 && ring_has_work(ring)) {
		d->calls++;
		rc = io_uring_get_events(ring);
	}
	return MIN(rc, 0);
}

static int
beside_round(struct disk *d)
{
	struct io_uring *ring = &state_of(d)->ring;
	int rc;

	disk_take(d);
	if (d->prepared > 0) {
		d->calls++;
		rc = io_uring_submit_and_get_events(ring);
		if (rc < 0) {
			return rc;
		}
		d->prepared = 0;
	}
	rc = ring_reap(d);
	if (rc != 0) {
		return rc;
	}
	rc = sleep_beside(d);
	return rc == 0 ? ring_reap(d) : rc;
}

/* ---- One ring for all ---- */

static int
one_open(struct disk *d)
{
	int rc = d->how->over_epoll ? epoll_open(d) : state_create(d);

	rc = rc == 0 ? start_ring(d) : rc;
	if (rc == 0 && d->how->over_epoll && !ring_knows(&state_of(d)->ring, RING_OP_EPOLL_WAIT)) {
		rc = -EOPNOTSUPP;
	}
	if (rc == 0) {
		ring_watch(d);
	}
	return rc;
}

static int
one_round(struct disk *d)
{
	struct io_uring *ring = &state_of(d)->ring;
	int rc;

	disk_take(d);
	d->calls++;
	rc = io_uring_submit_and_wait(ring, 1);
	if (rc < 0 && rc != -EINTR) {
		return rc;
	}
	d->prepared = 0;
	return MIN(ring_reap(d), 0);
}

const struct engine engines[] = {
	{"pread where it is + epoll", epoll_open, pread_prepare, pread_round, state_free, 0, false},
	{"aio + epoll, io_getevents", aio_open, aio_prepare, aio_round_by_call, state_free, 0, false},
	{"aio + epoll, its ring read directly", aio_open, aio_prepare, aio_round_by_ring, state_free, 0, false},
	{"own ring, eventfd in epoll, deferred", beside_open, ring_prepare, beside_round, state_free, RING_DEFER, false},
	{"own ring, eventfd in epoll, cooperative", beside_open, ring_prepare, beside_round, state_free, RING_COOP, false},
	{"own ring itself in epoll, cooperative", beside_open, ring_prepare, beside_round, state_free, RING_COOP, true},
	{"one ring polling, deferred", one_open, ring_prepare, one_round, state_free, RING_DEFER, false},
	{"one ring polling, cooperative", one_open, ring_prepare, one_round, state_free, RING_COOP, false},
	{"one ring over epoll, deferred", one_open, ring_prepare, one_round, state_free, RING_DEFER, true},
};

const unsigned engine_count = ARRAY_SIZE(engines);
