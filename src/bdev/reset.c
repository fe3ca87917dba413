/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reset: when it completes, every request that was started before, on any channel, has been
 * answered. New requests wait meanwhile, on their channels, and are started afterwards.
 *
 *   arrived -> freeze all channels -> module: reset, may cancel;
 *                                     each channel: nothing in flight -> thaw all -> done
 *
 * Invariants
 *  1. One reset at a time. Those that were asked for before the freezing begins end together; later
 *     ones wait their turn.
 *  2. undrained counts channels that still have requests, the module's own answer, and the freezing
 *     itself while it goes on; whoever brings it to 0 goes on to the thawing.
 *  3. A reset is in its channel's parked_count until its done(): the bdev stays open.
 * Contexts: the app thread leads; each channel's part runs on the channel's thread.
 */
#include <errno.h>

#include "bdev/internal.h"

/* A module that can cancel is told so again as long as its requests last. */
#define CANCEL_US 1000000

static void start(struct bdev_core *core);

/* ---- End (app thread) ---- */

static void
answer(struct msg *msg)
{
	struct bdev_io *io = CONTAINER_OF(msg, struct bdev_io, msg);
	struct core_channel *c = core_channel(io->ch);

	c->parked_count--;
	c->pub.inflight++;
	finish_request(c, io, io->status);
}

static void
thaw_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	struct core_channel *c = core_channel(ch);
	struct list parked;

	list_init(&parked);
	list_splice(&parked, &c->parked);
	c->frozen = false;
	channel_refresh(c);
	while (!list_empty(&parked)) {
		struct bdev_io *io = LIST_FIRST(&parked, struct bdev_io, link);

		list_remove(&io->link);
		c->parked_count--;
		admit(c, io);
	}
}

static void
thawed_everywhere(struct bdev_core *core, void *ctx)
{
	int status = LIST_FIRST(&core->resets_running, struct bdev_io, link)->status;

	while (!list_empty(&core->resets_running)) {
		struct bdev_io *io = LIST_FIRST(&core->resets_running, struct bdev_io, link);

		list_remove(&io->link);
		io->status = status;
		thread_send(io->ch->channel.thread, &io->msg, answer);
	}
	core->resetting = false;
	if (!list_empty(&core->resets_waiting)) {
		start(core);
	}
}

static void
drained(struct msg *msg)
{
	struct bdev_core *core = CONTAINER_OF(msg, struct bdev_core, drained_msg);

	if (core->reset_asked != NULL) {
		list_prepend(&core->resets_running, &core->reset_asked->link);
		core->reset_asked = NULL;
	}
	atomic_store(&core->frozen, false);
	visit_start(&core->reset_visit, core, thaw_channel, thawed_everywhere, NULL);
}

/* ---- Middle ---- */

static void
one_less(struct bdev_core *core)
{
	if (atomic_fetch_sub(&core->undrained, 1) == 1) {
		thread_send(app_thread(), &core->drained_msg, drained);
	}
}

void
reset_channel_drained(struct core_channel *c)
{
	c->draining = false;
	timer_stop(&c->cancel_again);
	channel_refresh(c);
	one_less(c->pub.bdev->core);
}

void
reset_module_done(struct core_channel *c, struct bdev_io *io)
{
	if (!list_empty(&c->refused)) {
		nomem_retry(c);
	}
	one_less(c->pub.bdev->core);
}

static void
ask_module(struct msg *msg)
{
	struct bdev_io *io = CONTAINER_OF(msg, struct bdev_io, msg);

	io->flags |= IO_CORE;
	issue(core_channel(io->ch), io);
}

static void
frozen_everywhere(struct bdev_core *core, void *ctx)
{
	struct bdev_io *io = LIST_FIRST(&core->resets_running, struct bdev_io, link);

	if (bdev_supports_natively(core->bdev, BDEV_RESET)) {
		/* Its link may be needed: the module can refuse it for now. */
		list_remove(&io->link);
		core->reset_asked = io;
		atomic_fetch_add(&core->undrained, 1);
		thread_send(io->ch->channel.thread, &io->msg, ask_module);
	}
	one_less(core);
}

/* ---- Beginning ---- */

static void
cancel_again(struct timer *timer)
{
	CHECK(timer_start(timer, CANCEL_US, cancel_again) == 0);
	channel_cancel(CONTAINER_OF(timer, struct core_channel, cancel_again));
}

static void
freeze_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	struct core_channel *c = core_channel(ch);

	qos_cancel(c, -ECANCELED);
	range_cancel(c, -ECANCELED);
	c->frozen = true;
	if (ch->inflight > 0) {
		c->draining = true;
		atomic_fetch_add(&core->undrained, 1);
	}
	channel_refresh(c);
	if (c->draining && core->bdev->ops->cancel != NULL) {
		CHECK(timer_start(&c->cancel_again, CANCEL_US, cancel_again) == 0);
		channel_cancel(c);
	}
}

static void
start(struct bdev_core *core)
{
	core->resetting = true;
	list_splice(&core->resets_running, &core->resets_waiting);
	atomic_store(&core->undrained, 1);
	atomic_store(&core->frozen, true);
	visit_start(&core->reset_visit, core, freeze_channel, frozen_everywhere, NULL);
}

static void
arrived(struct msg *msg)
{
	struct bdev_io *io = CONTAINER_OF(msg, struct bdev_io, msg);
	struct bdev_core *core = io->ch->bdev->core;

	list_append(&core->resets_waiting, &io->link);
	if (!core->resetting) {
		start(core);
	}
}

void
reset_submit(struct core_channel *c, struct bdev_io *io)
{
	c->parked_count++;
	io->status = 0;
	thread_send(app_thread(), &io->msg, arrived);
}
