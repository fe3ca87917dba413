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
 * Context: the thread of the channel.
 */
#include <errno.h>

#include "bdevs/remote/internal.h"

struct bdev_channel_ctx {
	struct remote_channel *c;
};

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
	struct bdev_channel_ctx *ctx = remote_io(req)->ch->module_ctx;

	start(ctx->c->disk->home, req);
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

/* ---- Taking and leaving a connection ---- */

static void
leave_link(struct remote_channel *c)
{
	if (c->up) {
		c->up = false;
		c->disk->ops->lane_stop(c);
		/* The flying ones first, then those that waited already. */
		list_splice(&c->flying, &c->waiting);
		list_splice(&c->waiting, &c->flying);
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
