/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * See sampling.h. After IDLE_SAMPLES samples of nothing the sampler goes to rest: it asks every
 * channel to tell of its next request. That costs the direct path nothing: a channel that has been
 * asked has no direct operations until it has told.
 *
 *   OFF --period set--> AWAKE --nothing for a while--> LYING_DOWN --all are asked--> RESTING
 *                         ^--------------- a request (wake), or one was in flight ------|
 *
 * Invariants
 *  1. The timer runs in AWAKE only, between two samples; one visit is under way at most.
 *  2. A request that starts after its channel was asked sends `wake`, at most one of all channels'
 *     until the sampler lies down again. So a request is seen at the latest a period after it
 *     started, if it takes as long.
 * Contexts: the app thread; sampling_wake(), the channel's.
 */
#include "bdev/sampling.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "bdev/internal.h"

#define IDLE_SAMPLES 10

enum state { OFF, AWAKE, LYING_DOWN, RESTING };

struct sampler {
	struct bdev_core *core;
	struct bdev_queue_depth now;
	enum state state;
	bool visiting;
	unsigned idle;
	uint64_t sampled_ns;
	uint64_t sum; /* of the visit */
	struct visit visit;
	struct timer timer;

	/* Any thread. */
	atomic_bool asks; /* channels are to tell */
	atomic_bool woken;
	struct msg wake_msg;
};

static void take(struct timer *timer);
static void lie_down(struct sampler *s);

static void
wait_a_period(struct sampler *s)
{
	CHECK(timer_start(&s->timer, s->now.period_us, take) == 0);
}

/* ---- Samples ---- */

static void
add_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	((struct sampler *)ctx)->sum += bdev_channel_inflight(ch);
}

static void
taken(struct bdev_core *core, void *ctx)
{
	struct sampler *s = ctx;
	uint64_t now = clock_now_ns(), us = (now - s->sampled_ns) / NS_PER_US;

	s->visiting = false;
	if (s->state != AWAKE) {
		return;
	}
	s->sampled_ns = now;
	s->now.queue_depth = s->sum;
	if (s->sum > 0) {
		s->now.io_time_us += us;
		s->now.weighted_io_time_us += us * s->sum;
	}
	s->idle = s->sum > 0 ? 0 : s->idle + 1;
	if (s->idle < IDLE_SAMPLES) {
		wait_a_period(s);
	} else {
		lie_down(s);
	}
}

static void
take(struct timer *timer)
{
	struct sampler *s = CONTAINER_OF(timer, struct sampler, timer);

	if (atomic_load(&s->core->removed)) { /* its end may be under way: no visit begins any more */
		return;
	}
	if (s->visiting) { /* of before the period was changed */
		wait_a_period(s);
		return;
	}
	s->visiting = true;
	s->sum = 0;
	visit_start(&s->visit, s->core, add_channel, taken, s);
}

/* ---- Rest ---- */

static void
get_up(struct sampler *s)
{
	atomic_store(&s->asks, false);
	s->state = AWAKE;
	s->idle = 0;
	s->sampled_ns = clock_now_ns();
	wait_a_period(s);
}

static void
ask_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	struct core_channel *c = core_channel(ch);

	sampling_adopt(c, core);
	channel_refresh(c);
	add_channel(core, ch, ctx);
}

static void
asked(struct bdev_core *core, void *ctx)
{
	struct sampler *s = ctx;

	s->visiting = false;
	if (s->state != LYING_DOWN) {
		return;
	}
	s->state = RESTING;
	if (s->sum > 0 || atomic_load(&s->woken)) {
		get_up(s);
	}
}

static void
lie_down(struct sampler *s)
{
	s->state = LYING_DOWN;
	s->visiting = true;
	s->sum = 0;
	atomic_store(&s->woken, false);
	atomic_store(&s->asks, true);
	visit_start(&s->visit, s->core, ask_channel, asked, s);
}

static void
wake(struct msg *msg)
{
	struct sampler *s = CONTAINER_OF(msg, struct sampler, wake_msg);

	if (s->state == RESTING) {
		get_up(s);
	}
}

void
sampling_wake(struct core_channel *c)
{
	struct sampler *s = atomic_load(&c->pub.bdev->core->sampler);

	c->unsampled = false;
	channel_refresh(c);
	if (atomic_load(&s->asks) && !atomic_exchange(&s->woken, true)) {
		thread_send(app_thread(), &s->wake_msg, wake);
	}
}

void
sampling_adopt(struct core_channel *c, struct bdev_core *core)
{
	struct sampler *s = atomic_load(&core->sampler);

	c->unsampled = s != NULL && atomic_load(&s->asks);
}

/* ---- What is asked for ---- */

int
bdev_set_qd_sampling_period(struct bdev *bdev, uint64_t period_us)
{
	struct bdev_core *core = bdev->core;
	struct sampler *s = atomic_load(&core->sampler);

	app_thread_check();
	if (s == NULL && period_us == 0) {
		return 0;
	}
	if (s == NULL) {
		s = calloc(1, sizeof(*s));
		if (s == NULL) {
			return -ENOMEM;
		}
		s->core = core;
		atomic_store(&core->sampler, s);
	}
	timer_stop(&s->timer);
	atomic_store(&s->asks, false);
	s->now = (struct bdev_queue_depth){
		.period_us = period_us == 0 ? 0 : MAX(period_us, (uint64_t)BDEV_QD_PERIOD_US_MIN)};
	s->state = OFF;
	if (period_us != 0) {
		get_up(s);
	}
	return 0;
}

void
bdev_get_queue_depth(const struct bdev *bdev, struct bdev_queue_depth *ret_depth)
{
	const struct sampler *s = atomic_load(&bdev->core->sampler);

	*ret_depth = s != NULL ? s->now : (struct bdev_queue_depth){0};
}

void
sampling_release(struct bdev_core *core)
{
	struct sampler *s = atomic_load(&core->sampler);

	if (s != NULL) {
		timer_stop(&s->timer);
		free(s);
	}
}
