/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The way of a request over a lane.
 *
 * A thread that finds a lane free has it for itself. Lane 0 is the app thread's: those that find none send their requests there,
 * each by a message, and get it back by another.
 *
 * Invariants
 *  1. A request is in one place: with the core (before submit, after completion), on a channel's waiting or flying list, or on
 *     its way in a message.
 *  2. What waits, waits for one that is flying on the same lane, or for a connection.
 *  3. A lane lets go of its connection whole: what was flying waits again, oldest first, before what waited already. Requests
 *     to disks may be made twice; that an end which died did a part of them is what it would be without us, too.
 *  4. A request that was cancelled waits for no connection, and goes over no other than there is. Where there is one, there is
 *     some patience for the answer; then the connection is dropped, and the request ends when the lane has let go of it: an
 *     answer that is late finds nobody. Only the thread where a request is finds it there; it knows it by its epoch.
 * Context: the thread of the channel.
 */
#include <errno.h>

#include "base/clock.h"
#include "bdevs/remote/internal.h"

#define PATIENCE_US (NS_PER_S / NS_PER_US)

/* ---- Ending ---- */

static void
came_back(struct msg *msg)
{
	struct remote_request *req = CONTAINER_OF(msg, struct remote_request, msg);

	bdev_io_complete(remote_io(req), req->status);
}

static void
end(struct remote_request *req, int status)
{
	struct bdev_io *io = remote_io(req);

	if (req->sent_on) {
		req->status = status;
		thread_send(io->ch->channel.thread, &req->msg, came_back);
	} else {
		bdev_io_complete(io, status);
	}
}

static struct bdev_channel_ctx *
ctx_of(struct remote_request *req)
{
	return remote_io(req)->ch->module_ctx;
}

static bool
cancelled(struct remote_request *req)
{
	return req->epoch != atomic_load(&ctx_of(req)->epoch);
}

static int
cancel_status(struct remote_disk *disk)
{
	return atomic_load(&disk->removed) ? -ENODEV : -ECANCELED;
}

void
remote_done(struct remote_channel *c, struct remote_request *req, int status)
{
	list_remove(&req->link);
	end(req, status);
}

/* ---- There ---- */

/* False: it has to wait. */
static bool
send(struct remote_channel *c, struct remote_request *req)
{
	if (!c->disk->ops->send(c, req)) {
		return false;
	}
	list_append(&c->flying, &req->link);
	return true;
}

void
remote_go_on(struct remote_channel *c)
{
	while (c->up && !list_empty(&c->waiting)) {
		struct remote_request *req = LIST_FIRST(&c->waiting, struct remote_request, link);

		list_remove(&req->link);
		if (!send(c, req)) {
			list_prepend(&c->waiting, &req->link);
			return;
		}
	}
}

/* On the thread that has the lane. */
static void
start(struct remote_channel *c, struct remote_request *req)
{
	int failed = 0;

	if (LIKELY(c->up && list_empty(&c->waiting)) && LIKELY(send(c, req))) {
		return;
	}
	if (!c->up) {
		/* With a connection, but no lane: there was no memory for it. */
		failed = c->link != NULL ? -EIO : atomic_load_explicit(&c->disk->failed, memory_order_relaxed);
	}
	if (failed != 0) {
		end(req, failed);
	} else {
		list_append(&c->waiting, &req->link);
	}
}

static void
arrived(struct msg *msg)
{
	struct remote_request *req = CONTAINER_OF(msg, struct remote_request, msg);
	struct remote_disk *disk = ctx_of(req)->c->disk;
	bool late = cancelled(req);

	if (late && !disk->home->up) {
		end(req, cancel_status(disk));
		return;
	}
	start(disk->home, req);
	if (late) {
		remote_channel_cancel(disk->home);
	}
}

static void
send_home(struct remote_channel *c, struct remote_request *req)
{
	req->sent_on = true;
	thread_send(c->disk->app, &req->msg, arrived);
}

void
remote_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct bdev_channel_ctx *ctx = ch->module_ctx;
	struct remote_channel *c = ctx->c;
	struct remote_request *req = bdev_io_ctx(io);

	list_init(&req->link);
	req->sent_on = false;
	req->epoch = atomic_load_explicit(&ctx->epoch, memory_order_relaxed);
	if (LIKELY(c->index != REMOTE_NO_LANE)) {
		start(c, req);
	} else {
		send_home(c, req);
	}
}

void
remote_broken(struct remote_channel *c, const char *why)
{
	struct remote_disk *disk = c->disk;

	if (!atomic_exchange(&disk->broken, true)) {
		disk->broken_why = why;
		thread_send(disk->app, &disk->broken_msg, remote_disk_broken);
	}
}

/* ---- Cancelling ---- */

static void
end_cancelled(struct remote_channel *c)
{
	struct remote_request *req, *next;

	LIST_FOREACH_SAFE (req, next, &c->waiting, link) {
		if (cancelled(req)) {
			remote_done(c, req, cancel_status(c->disk));
		}
	}
}

static bool
has_cancelled(const struct list *list)
{
	struct remote_request *req;

	LIST_FOREACH (req, list, link) {
		if (cancelled(req)) {
			return true;
		}
	}
	return false;
}

static void
patience_ends(struct timer *timer)
{
	struct remote_channel *c = CONTAINER_OF(timer, struct remote_channel, patience);

	c->patient = false;
	end_cancelled(c);
	if (has_cancelled(&c->flying)) {
		remote_broken(c, "it does not answer requests that nobody waits for any more");
	}
}

void
remote_channel_cancel(struct remote_channel *c)
{
	bool hurry = atomic_load(&c->disk->hurry);

	if (!c->up) {
		end_cancelled(c);
	} else if ((!c->patient || hurry) && (has_cancelled(&c->waiting) || has_cancelled(&c->flying))) {
		timer_stop(&c->patience);
		c->patient = !hurry && timer_start(&c->patience, PATIENCE_US, patience_ends) == 0;
		if (!c->patient) {
			patience_ends(&c->patience);
		}
	}
}

void
remote_cancel(struct bdev_channel *ch, int status)
{
	struct bdev_channel_ctx *ctx = ch->module_ctx;
	struct remote_disk *disk = ctx->c->disk;

	if (status == -ENODEV) {
		atomic_store(&disk->removed, true);
	}
	atomic_fetch_add(&ctx->epoch, 1);
	remote_channel_cancel(ctx->c);
	if (ctx->c != disk->home && !atomic_exchange(&disk->cancelled, true)) {
		thread_send(disk->app, &disk->cancelled_msg, remote_disk_cancelled);
	}
}

/* ---- Taking and leaving a connection ---- */

static void
leave_link(struct remote_channel *c)
{
	if (c->up) {
		c->up = c->patient = false;
		timer_stop(&c->patience);
		c->disk->ops->lane_stop(c);
		/* The flying ones first, then those that waited already. */
		list_splice(&c->flying, &c->waiting);
		list_splice(&c->waiting, &c->flying);
		end_cancelled(c);
	}
	if (c->link != NULL) {
		pthread_mutex_lock(&c->disk->lock);
		c->link->users--;
		pthread_mutex_unlock(&c->disk->lock);
		c->link = NULL;
	}
}

static void
end_waiting(struct remote_channel *c, int status)
{
	while (!list_empty(&c->waiting)) {
		struct remote_request *req = LIST_FIRST(&c->waiting, struct remote_request, link);

		list_remove(&req->link);
		end(req, status);
	}
}

static void
give_lane(struct remote_channel *c)
{
	pthread_mutex_lock(&c->disk->lock);
	c->disk->taken[c->index] = false;
	pthread_mutex_unlock(&c->disk->lock);
	c->index = REMOTE_NO_LANE;
}

/* The connection that was made again has fewer lanes, or takes no more. */
static void
do_without_lane(struct remote_channel *c)
{
	give_lane(c);
	while (!list_empty(&c->waiting)) {
		struct remote_request *req = LIST_FIRST(&c->waiting, struct remote_request, link);

		list_remove(&req->link);
		send_home(c, req);
	}
}

/* What the disk has now, with a use of it. */
static struct remote_link *
take_link(struct remote_channel *c)
{
	struct remote_link *link;

	pthread_mutex_lock(&c->disk->lock);
	link = c->disk->link;
	if (link != NULL) {
		link->users++;
	}
	pthread_mutex_unlock(&c->disk->lock);
	return link;
}

static void
change_link(struct remote_channel *c)
{
	leave_link(c);
	c->link = take_link(c);
	if (c->link == NULL) {
		return;
	}
	if (c->index >= c->link->lanes) {
		leave_link(c);
		do_without_lane(c);
		return;
	}
	c->up = c->disk->ops->lane_start(c) == 0;
	if (c->up) {
		remote_go_on(c);
	} else {
		/* No memory, or no descriptor: what waits must not wait for ever. */
		end_waiting(c, -EIO);
	}
}

/* A lane for this thread; 0 is the app thread's and nobody else's. */
static uint32_t
choose_lane(struct remote_disk *disk)
{
	uint32_t index = REMOTE_NO_LANE;
	unsigned count;

	if (thread_self() == disk->app) {
		return 0;
	}
	pthread_mutex_lock(&disk->lock);
	count = disk->link != NULL ? disk->link->lanes : 0;
	for (unsigned i = 1; i < count && index == REMOTE_NO_LANE; i++) {
		if (!disk->taken[i]) {
			disk->taken[i] = true;
			index = i;
		}
	}
	pthread_mutex_unlock(&disk->lock);
	return index;
}

void
remote_refused(struct remote_channel *c)
{
	CHECK(c->index != 0 && c->index != REMOTE_NO_LANE);
	c->refused = true;
	leave_link(c);
	do_without_lane(c);
}

void
remote_lane_news(struct remote_channel *c)
{
	struct remote_disk *disk = c->disk;

	if (!atomic_exchange(&disk->news, true)) {
		thread_send(disk->app, &disk->news_msg, remote_disk_news);
	}
}

void
remote_channel_sync(void *ctx, struct channel *ch)
{
	struct remote_channel *c = CONTAINER_OF(ch, struct remote_channel, channel);
	struct remote_link *link;
	int failed;

	pthread_mutex_lock(&c->disk->lock);
	link = c->disk->link;
	pthread_mutex_unlock(&c->disk->lock);
	if (c->index == REMOTE_NO_LANE && !c->refused) {
		/* There may be one now. */
		c->index = choose_lane(c->disk);
	}
	c->refused &= link != NULL;
	if (c->index == REMOTE_NO_LANE) {
		return;
	}
	if (link != c->link) {
		change_link(c);
	}
	failed = atomic_load(&c->disk->failed);
	if (!c->up && failed != 0) {
		end_waiting(c, failed);
	}
}

/* ---- Channels ---- */

static int
channel_create(struct device *dev, struct channel *ch)
{
	struct remote_channel *c = CONTAINER_OF(ch, struct remote_channel, channel);

	c->disk = CONTAINER_OF(dev, struct remote_disk, device);
	list_init(&c->waiting);
	list_init(&c->flying);
	c->index = choose_lane(c->disk);
	remote_channel_sync(NULL, ch);
	return 0;
}

static void
channel_destroy(struct device *dev, struct channel *ch)
{
	struct remote_channel *c = CONTAINER_OF(ch, struct remote_channel, channel);

	CHECK(list_empty(&c->waiting) && list_empty(&c->flying));
	leave_link(c);
	if (c->index != REMOTE_NO_LANE) {
		give_lane(c);
	}
}

const struct device_ops remote_channel_ops = {
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
};

int
remote_bdev_channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct remote_disk *disk = CONTAINER_OF(bdev, struct remote_disk, bdev);
	struct bdev_channel_ctx *ctx = ch->module_ctx;
	struct channel *own;
	int rc = 0;

	own = channel_get(&disk->device, &rc);
	if (own != NULL) {
		ctx->c = CONTAINER_OF(own, struct remote_channel, channel);
	}
	return rc;
}

void
remote_bdev_channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct bdev_channel_ctx *ctx = ch->module_ctx;

	channel_put(&ctx->c->channel);
}
