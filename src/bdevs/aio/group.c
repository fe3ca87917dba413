/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One kernel AIO context a thread. Requests of all its aio bdevs and queues gather during a turn and
 * go to the kernel in one io_submit at its end; completions are read from the ring that the kernel shares with us,
 * which costs no system call while it is empty.
 *
 * Invariants
 *  1. queued + inflight <= depth; after a turn the waiting list is empty unless they are equal.
 *  2. After a turn something is queued only while something is in flight: its completion submits again.
 *  3. The poller may be armed only when every request in flight signals the descriptor. Those given to a reactor that
 *     always polls do not; the mode may change between a request's beginning and its end.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/log.h"
#include "bdevs/aio/group.h"
#include "event/reactor.h"

/* In a request's flags: it signals event_fd (linux/aio_abi.h, which cannot be had beside libaio.h). */
#define IOCB_FLAG_RESFD (1 << 0)

static struct device groups;
static unsigned groups_refs;

static struct file_request *
request_of(const struct iocb *iocb)
{
	return &CONTAINER_OF((struct iocb *)(uintptr_t)iocb, struct aio_request, iocb)->file;
}

/* ---- To the kernel ---- */

static void
pop_front(struct aio_group *g, unsigned n)
{
	g->queued -= n;
	memmove(g->queue, g->queue + n, g->queued * sizeof(g->queue[0]));
}

static void
enqueue(struct aio_group *g, struct file_request *req)
{
	struct iocb *iocb = &CONTAINER_OF(req, struct aio_request, file)->iocb;

	if (g->queued > 0 && request_of(g->queue[g->queued - 1])->disk != req->disk) {
		g->queue_mixed = true;
	}
	g->queue[g->queued++] = iocb;
}

/* Lets waiting requests into the room there is; true when something is queued then. */
static bool
refill(struct aio_group *g)
{
	while (UNLIKELY(!list_empty(&g->waiting)) && g->queued + g->inflight < g->depth) {
		struct file_request *req = LIST_FIRST(&g->waiting, struct file_request, job.link);

		list_remove(&req->job.link);
		enqueue(g, req);
	}
	return g->queued > 0;
}

/* Nothing of ours is in flight whose end would be a moment to try again: the system as a whole is short. */
static void
give_to_workers(struct aio_group *g)
{
	struct file_request *req = request_of(g->queue[0]);

	pop_front(g, 1);
	file_request_work(req);
}

static bool
signals(const struct iocb *iocb)
{
	return (iocb->u.c.flags & IOCB_FLAG_RESFD) != 0;
}

static void
submitted(struct aio_group *g, unsigned n)
{
	bool first = g->inflight == 0;

	g->stats.submits++;
	g->stats.requests += n;
	g->stats.mixed += g->queue_mixed;
	g->inflight += n;
	for (unsigned i = 0; i < n; i++) {
		g->silent += !signals(g->queue[i]);
	}
	pop_front(g, n);
	if (g->silent > 0) {
		poller_wake(&g->poller);
	} else if (first) {
		poller_expect(&g->poller);
	}
}

static void
submit_queue(struct aio_group *g)
{
	/* Whatever ends here makes room, and may have been all that others waited for. */
	while (refill(g)) {
		int n = io_submit(g->ctx, g->queued, g->queue);

		if (n > 0) {
			submitted(g, (unsigned)n);
		} else if (n == 0 || n == -EAGAIN) {
			if (g->inflight > 0) {
				return;
			}
			give_to_workers(g);
		} else {
			/* The error is the first request's own. */
			struct file_request *req = request_of(g->queue[0]);

			pop_front(g, 1);
			file_request_answer(req, n);
		}
	}
	g->queue_mixed = false;
}

static void
turn_end(struct defer *d)
{
	struct aio_group *g = CONTAINER_OF(d, struct aio_group, batch);

	g->batch_waiting = false;
	submit_queue(g);
}

static void
want_submit(struct aio_group *g)
{
	if (!g->batch_waiting) {
		g->batch_waiting = true;
		thread_batch(&g->batch, turn_end);
	}
}

void
aio_group_submit(struct aio_group *g, struct aio_request *req)
{
	if (UNLIKELY(g->ctx == NULL)) {
		file_request_work(&req->file);
		return;
	}
	if (reactor_get_mode(thread_reactor(g->channel.thread)) != REACTOR_POLL) {
		io_set_eventfd(&req->iocb, g->event_fd);
	}
	if (UNLIKELY(g->queued + g->inflight >= g->depth)) {
		list_append(&g->waiting, &req->file.job.link);
		return;
	}
	enqueue(g, &req->file);
	want_submit(g);
}

/* ---- From the kernel ---- */

static int
group_poll(struct poller *p)
{
	struct aio_group *g = CONTAINER_OF(p, struct aio_group, poller);
	struct timespec now = {0};
	struct io_event events[64];
	int n;

	if (g->inflight == 0) {
		return 0;
	}
	/* The library looks at the shared ring first: no system call when it is empty and the time-out zero. */
	n = io_getevents(g->ctx, 0, ARRAY_SIZE(events), events, &now);
	if (n <= 0) {
		return 0;
	}
	g->inflight -= (unsigned)n;
	for (int i = 0; i < n; i++) {
		g->silent -= !signals(events[i].obj);
		file_request_answer(request_of(events[i].obj), (int64_t)events[i].res);
	}
	if (UNLIKELY(refill(g))) {
		want_submit(g);
	}
	return n;
}

/* The kernel signals each completion, wanted or not; what came before epoll was asked is still pending there. */
static bool
group_arm(struct poller *p)
{
	const struct aio_group *g = CONTAINER_OF(p, struct aio_group, poller);

	return g->silent > 0;
}

static const struct poller_ops group_poller = {.name = "aio", .poll = group_poll, .arm = group_arm};

/* ---- Life ---- */

static void
setup(struct aio_group *g)
{
	int rc = -EAGAIN;

	for (g->depth = AIO_DEPTH; g->depth >= AIO_DEPTH_MIN && rc == -EAGAIN; g->depth /= 2) {
		rc = io_setup((int)g->depth, &g->ctx);
		if (rc == 0) {
			return;
		}
	}
	g->ctx = NULL;
	LOG_WARNING(AIO, thread_name(thread_self()), "no AIO context: %s%s; worker threads do its I/O", strerror(-rc),
		    rc == -EAGAIN ? " (the limit fs.aio-max-nr)" : "");
}

static void *
destroy_main(void *ctx)
{
	io_destroy(ctx);
	return NULL;
}

/* The kernel takes some 30 ms for it, sleeping; a reactor has none to spare. */
static void
destroy_context(io_context_t ctx)
{
	pthread_attr_t attr;
	sigset_t all, old;
	pthread_t thread;
	int rc;

	if (ctx == NULL) {
		return;
	}
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	rc = pthread_create(&thread, &attr, destroy_main, ctx);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	if (rc != 0) {
		io_destroy(ctx);
	}
}

static int
group_create(struct device *dev, struct channel *ch)
{
	struct aio_group *g = CONTAINER_OF(ch, struct aio_group, channel);
	int rc;

	list_init(&g->waiting);
	g->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (g->event_fd < 0) {
		return -errno;
	}
	setup(g);
	rc = poller_start(&g->poller, &group_poller, g->event_fd);
	if (rc != 0) {
		destroy_context(g->ctx);
		close(g->event_fd);
	}
	return rc;
}

static void
group_destroy(struct device *dev, struct channel *ch)
{
	struct aio_group *g = CONTAINER_OF(ch, struct aio_group, channel);

	CHECK(g->inflight == 0 && g->queued == 0 && list_empty(&g->waiting) && !g->batch_waiting);
	poller_stop(&g->poller);
	destroy_context(g->ctx);
	close(g->event_fd);
}

static const struct device_ops group_ops = {.channel_create = group_create, .channel_destroy = group_destroy};

void
aio_groups_get(void)
{
	if (groups_refs++ == 0) {
		device_register(&groups, "aio", &group_ops, sizeof(struct aio_group));
	}
}

void
aio_groups_put(void)
{
	CHECK(groups_refs > 0);
	if (--groups_refs == 0) {
		device_unregister(&groups);
	}
}

struct aio_group *
aio_group_get(int *ret_rc)
{
	struct channel *ch = channel_get(&groups, ret_rc);

	return ch == NULL ? NULL : CONTAINER_OF(ch, struct aio_group, channel);
}

static void
find_group(void *ctx, const struct channel *ch)
{
	const struct channel **found = ctx;

	if (ch->dev == &groups) {
		*found = ch;
	}
}

void
bdev_aio_thread_stats(struct aio_stats *ret_stats)
{
	const struct channel *ch = NULL;

	channel_for_each_of_thread(find_group, &ch);
	*ret_stats = ch == NULL ? (struct aio_stats){0} : CONTAINER_OF(ch, const struct aio_group, channel)->stats;
}
