/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtqueue on its I/O thread: polling, kicks, calls, and the commands by which the control thread starts,
 * stops and re-maps it.
 *
 *      START            poll takes chains             STOP, MAP
 *   ----------> running -----------------> running ------------> draining --(inflight 0)--> stopped, or running again
 *
 * Invariants
 *  1. Between START and the done of STOP the ring's memory, its descriptors and the bdev channel stay valid;
 *     done is sent after the last completion was published.
 *  2. A draining queue takes nothing. A command is answered exactly once.
 *  3. The driver is called after used->idx was published, never before; at most one call a batch.
 *  4. A call that coalescing holds back is made when nothing is in flight any more, so depth 1 never waits.
 *  5. Latency is an integral: requests under way times time, brought up to date when their number changes, once a turn. A
 *     completed request weighs until the next poll, that is until the clock was read after the turn that completed it; an armed
 *     queue, which is not polled soon, is weighed when it publishes.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "event/reactor.h"
#include "vhost/call.h"
#include "vhost/internal.h"

#define DRAIN_PATIENCE_US 3000000

/* Completions are counted over intervals of this length to learn a queue's rate. */
#define RATE_INTERVAL_NS (10 * NS_PER_MS)

/* ---- Latency ---- */

/* From now on there are `weight` requests under way. */
static void
weigh(struct vhost_queue *q, uint32_t weight)
{
	struct vhost_counters *c = &q->counters;
	/* The clock of another reactor, to which the thread has moved, may be a little behind. */
	uint64_t now = MAX(reactor_now_ns(), vhost_counter(&c->weighed_ns));
	uint32_t before = atomic_load_explicit(&c->weight, memory_order_relaxed);

	if (before != 0) {
		vhost_count(&c->latency_ns, before * (now - vhost_counter(&c->weighed_ns)));
	}
	atomic_store_explicit(&c->weighed_ns, now, memory_order_relaxed);
	atomic_store_explicit(&c->weight, weight, memory_order_relaxed);
}

/* ---- Calls ---- */

static void
call_now(struct vhost_queue *q)
{
	if (q->call_pending) {
		timer_stop(&q->call_timer);
		q->call_pending = false;
	}
	if (q->call_fd < 0) {
		return;
	}
	vhost_count(&q->counters.calls, 1);
	vhost_caller_call(q->caller, q->call_fd);
}

static void
call_due(struct timer *t)
{
	struct vhost_queue *q = CONTAINER_OF(t, struct vhost_queue, call_timer);

	q->call_pending = false;
	call_now(q);
}

static void
count_rate(struct vhost_queue *q, uint32_t completed)
{
	uint64_t now = reactor_now_ns();
	uint64_t elapsed = now - q->rate_start_ns;

	q->rate_count += completed;
	if (elapsed >= RATE_INTERVAL_NS) {
		q->rate_iops = (uint32_t)MIN(q->rate_count * NS_PER_S / elapsed, (uint64_t)UINT32_MAX);
		q->rate_count = 0;
		q->rate_start_ns = now;
	}
}

/* The driver wants to be called: now, or a little later when it is called too often as it is. */
static void
call(struct vhost_queue *q)
{
	uint32_t delay_us = atomic_load_explicit(&q->ctrlr->delay_base_us, memory_order_relaxed);
	bool hold = delay_us != 0 && q->inflight > 0 &&
		    q->rate_iops > atomic_load_explicit(&q->ctrlr->iops_threshold, memory_order_relaxed);

	if (LIKELY(!hold)) {
		call_now(q);
	} else if (!q->call_pending) {
		q->call_pending = timer_start(&q->call_timer, delay_us, call_due) == 0;
		if (!q->call_pending) {
			call_now(q);
		}
	}
}

/* ---- Completion ---- */

static void finish_drain(struct vhost_queue *q);

static void
flush(struct defer *d)
{
	struct vhost_queue *q = CONTAINER_OF(d, struct vhost_queue, flush);
	uint32_t completed = (uint16_t)(q->vq.used_idx - q->vq.published);

	q->flush_queued = false;
	if (virtq_publish(&q->vq)) {
		call(q);
	} else if (q->call_pending && q->inflight == 0) {
		call_now(q);
	}
	if (atomic_load_explicit(&q->ctrlr->delay_base_us, memory_order_relaxed) != 0) {
		count_rate(q, completed);
	}
	if (q->poller.state != POLLER_ACTIVE) {
		weigh(q, q->inflight);
	}
	if (UNLIKELY(q->draining) && q->inflight == 0) {
		finish_drain(q);
	}
}

void
vhost_queue_complete(struct vhost_queue *q, uint16_t head, uint32_t bytes)
{
	virtq_complete(&q->vq, head, bytes);
	CHECK(q->inflight > 0);
	q->inflight--;
	if (!q->flush_queued) {
		q->flush_queued = true;
		thread_batch(&q->flush, flush);
	}
}

/* ---- Polling ---- */

static void
failed_on_control(struct msg *msg)
{
	struct vhost_queue *q = CONTAINER_OF(msg, struct vhost_queue, failed_msg);

	q->on_failed(q);
}

void
vhost_queue_fail(struct vhost_queue *q, const char *why)
{
	if (q->failed) {
		return;
	}
	q->failed = true;
	q->failed_why = why;
	thread_send(q->control_thread, &q->failed_msg, failed_on_control);
}

static int
queue_poll(struct poller *p)
{
	struct vhost_queue *q = CONTAINER_OF(p, struct vhost_queue, poller);
	uint32_t before = q->inflight;
	int n;

	if (UNLIKELY(q->draining || q->failed)) {
		return 0;
	}
	n = q->ctrlr->ops->queue_poll(q);
	if (n > 0 || before != atomic_load_explicit(&q->counters.weight, memory_order_relaxed)) {
		weigh(q, before + (uint32_t)n);
	}
	if (UNLIKELY(q->vq.broken)) {
		vhost_queue_fail(q, q->vq.broken_why);
	}
	return n;
}

static bool
queue_arm(struct poller *p)
{
	struct vhost_queue *q = CONTAINER_OF(p, struct vhost_queue, poller);

	if (q->draining || q->failed || q->starved) {
		return false;
	}
	if (memmap_lost(q->vq.map)) {
		vhost_queue_fail(q, "guest memory was truncated by the VMM");
		return false;
	}
	q->armed = !virtq_enable_kick(&q->vq);
	return !q->armed;
}

static void
queue_disarm(struct poller *p)
{
	struct vhost_queue *q = CONTAINER_OF(p, struct vhost_queue, poller);

	if (q->armed) {
		q->armed = false;
		vhost_count(&q->counters.kicks, 1);
	}
	virtq_disable_kick(&q->vq);
}

static void
queue_describe(const struct poller *p, char *text, size_t size)
{
	const struct vhost_queue *q = CONTAINER_OF((struct poller *)p, struct vhost_queue, poller);

	snprintf(text, size, "%s queue %u", q->ctrlr->name, q->index);
}

static const struct poller_ops queue_poller = {
	.name = "vhost_queue_poll",
	.poll = queue_poll,
	.arm = queue_arm,
	.disarm = queue_disarm,
	.describe = queue_describe,
};

/* ---- Commands ---- */

static void
answer_on_control(struct msg *msg)
{
	struct vhost_queue *q = CONTAINER_OF(msg, struct vhost_queue, command_msg);

	q->done(q, q->command_status);
}

static void
answer(struct vhost_queue *q, int status)
{
	q->command_status = status;
	thread_send(q->control_thread, &q->command_msg, answer_on_control);
}

static int
start(struct vhost_queue *q)
{
	const struct vhost_queue_setup *s = &q->next;
	int rc;

	CHECK(!q->running && q->inflight == 0);
	virtq_init(&q->vq, s->size, s->desc, s->avail, s->used, s->map, s->base, s->event_idx, s->indirect);
	q->call_fd = s->call_fd;
	q->failed = false;
	q->starved = false;
	q->draining = false;
	q->armed = false;
	q->caller = vhost_caller_get();
	if (q->caller == NULL) {
		return -ENOMEM;
	}
	rc = q->ctrlr->ops->queue_start(q);
	if (rc != 0) {
		vhost_caller_put(q->caller);
		return rc;
	}
	virtq_disable_kick(&q->vq);
	if (s->kick_fd >= 0) {
		rc = poller_start(&q->poller, &queue_poller, s->kick_fd);
	} else {
		rc = poller_start_timed(&q->poller, &queue_poller, VHOST_NO_KICK_US);
	}
	if (rc != 0) {
		q->ctrlr->ops->queue_stop(q);
		vhost_caller_put(q->caller);
		return rc;
	}
	q->running = true;
	return 0;
}

static void
finish_drain(struct vhost_queue *q)
{
	timer_stop(&q->drain_timer);
	q->draining = false;
	q->base = q->vq.last_avail;
	if (q->command == VHOST_QUEUE_MAP) {
		q->vq.map = q->next.map;
		q->vq.region = 0;
		q->vq.desc = q->next.desc;
		q->vq.avail = q->next.avail;
		q->vq.used = q->next.used;
		poller_wake(&q->poller);
	} else {
		/* What the driver was owed it must get: nobody is there to call later. */
		if (q->call_pending) {
			call_now(q);
		}
		weigh(q, 0);
		q->ctrlr->ops->queue_stop(q);
		vhost_caller_put(q->caller);
		q->running = false;
	}
	answer(q, 0);
}

/* A request may wait without end, for space in a full store: the VMM, or what is left of it, does not wait with it. */
static void
drain_lasts(struct timer *timer)
{
	struct vhost_queue *q = CONTAINER_OF(timer, struct vhost_queue, drain_timer);

	(void)timer_start(timer, DRAIN_PATIENCE_US, drain_lasts);
	if (q->ch != NULL) {
		bdev_channel_give_up(q->ch);
	}
}

static void
drain(struct vhost_queue *q)
{
	if (!q->running) {
		answer(q, 0);
		return;
	}
	if (q->command == VHOST_QUEUE_STOP) {
		poller_stop(&q->poller);
	}
	q->draining = true;
	/* With a flush on its way, that one finishes: completions must be published first. */
	if (q->inflight == 0 && !q->flush_queued) {
		finish_drain(q);
	} else {
		(void)timer_start(&q->drain_timer, DRAIN_PATIENCE_US, drain_lasts);
	}
}

static void
run_command(struct msg *msg)
{
	struct vhost_queue *q = CONTAINER_OF(msg, struct vhost_queue, command_msg);

	switch (q->command) {
	case VHOST_QUEUE_START:
		answer(q, start(q));
		break;
	case VHOST_QUEUE_STOP:
	case VHOST_QUEUE_MAP:
		drain(q);
		break;
	case VHOST_QUEUE_CALL:
		q->call_fd = q->next.call_fd;
		/* Events on the old descriptor may have gone unseen: one call too many does no harm. */
		if (q->running) {
			call_now(q);
		}
		answer(q, 0);
		break;
	}
}

void
vhost_queue_send(struct vhost_queue *q, enum vhost_queue_command command,
		 void (*done)(struct vhost_queue *q, int status))
{
	/* The same for all commands. While the ring runs its I/O thread reads this. */
	if (q->control_thread != thread_self()) {
		q->control_thread = thread_self();
	}
	q->command = command;
	q->done = done;
	thread_send(q->thread, &q->command_msg, run_command);
}
