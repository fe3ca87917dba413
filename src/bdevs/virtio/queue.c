/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The way of a request over a virtqueue.
 *
 * A thread that finds a queue of the target free has it for itself. Queue 0 is the app thread's: those that find none send
 * their requests there, each by a message, and get it back by another.
 *
 * Invariants
 *  1. A request is in one place: with the core (before submit, after completion), on its queue's waiting or flying list, or on
 *     its way in a message.
 *  2. What waits, waits for something of its queue that is under way, or for a connection.
 *  3. A queue lets go of its connection whole: what was flying waits again, oldest first, before what waited already. Requests
 *     to disks may be made twice; that a target which died did a part of them is what it would be without us, too.
 *  4. A write's data is copied when it goes to the target, a read's when it comes back; both on the thread that has the queue.
 * Context: the thread of the channel.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "bdevs/virtio/internal.h"

#define POLL_MAX 32
#define SECTOR_SHIFT 9

struct bdev_channel_ctx {
	struct virtio_channel *vc;
};

static struct bdev_io *
io_of(struct virtio_request *req)
{
	return (struct bdev_io *)(void *)((uint8_t *)req - offsetof(struct bdev_io, ctx));
}

static struct virtio_channel *
channel_of_queue(struct virtio_queue *q)
{
	return CONTAINER_OF(q, struct virtio_channel, queue);
}

/* ---- Ending ---- */

static void
came_back(struct msg *msg)
{
	struct virtio_request *req = CONTAINER_OF(msg, struct virtio_request, msg);

	bdev_io_complete(io_of(req), req->status);
}

static void
end(struct virtio_request *req, int status)
{
	struct bdev_io *io = io_of(req);

	if (req->remote) {
		req->status = status;
		thread_send(io->ch->channel.thread, &req->msg, came_back);
	} else {
		bdev_io_complete(io, status);
	}
}

/* ---- To the target ---- */

static void
turn_end(struct defer *d)
{
	struct virtio_queue *q = CONTAINER_OF(d, struct virtio_queue, batch);

	q->batch_waiting = false;
	if (q->ring == NULL) {
		return;
	}
	driver_blk_kick(q->ring);
	if (q->expecting) {
		q->expecting = false;
		poller_expect(&q->poller);
	}
}

static void
give_buffer(struct virtio_queue *q, const struct iovec *iov)
{
	if (iov->iov_len == 0) {
		return;
	}
	if (iov->iov_len <= SMALL_BYTES) {
		q->small[q->small_count++] = iov->iov_base;
	} else {
		q->large[q->large_count++] = iov->iov_base;
	}
}

/* False: there is none just now. */
static bool
take_buffer(struct virtio_queue *q, size_t bytes, struct iovec *iov)
{
	*iov = (struct iovec){.iov_len = bytes};
	if (bytes == 0) {
		return true;
	}
	if (bytes <= SMALL_BYTES) {
		iov->iov_base = q->small_count > 0 ? q->small[--q->small_count] : NULL;
	} else {
		iov->iov_base = q->large_count > 0 ? q->large[--q->large_count] : NULL;
	}
	return iov->iov_base != NULL;
}

static void
fill_range(struct virtio_queue *q, const struct bdev_io *io, struct virtio_request *req)
{
	const struct virtio_blk_config *config = &q->ring->blk->config;
	unsigned shift = io->ch->block_size_shift - SECTOR_SHIFT;
	struct virtio_blk_discard_write_zeroes *range = req->iov.iov_base;
	bool unmap = io->op == BDEV_WRITE_ZEROES && (io->flags & BDEV_IO_MAY_UNMAP) != 0 &&
		     config->write_zeroes_may_unmap != 0;

	*range = (struct virtio_blk_discard_write_zeroes){
		.sector = io->lba << shift,
		.num_sectors = (uint32_t)(io->num_blocks << shift),
		.flags = unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0,
	};
}

static void
fill(struct virtio_queue *q, const struct bdev_io *io, struct virtio_request *req)
{
	unsigned shift = io->ch->block_size_shift - SECTOR_SHIFT;

	req->blk = (struct driver_blk_request){.iov = &req->iov, .iovcnt = req->iov.iov_len != 0};
	switch ((enum bdev_op)io->op) {
	case BDEV_READ:
		req->blk.type = VIRTIO_BLK_T_IN;
		req->blk.in = true;
		req->blk.sector = io->lba << shift;
		break;
	case BDEV_WRITE:
		req->blk.type = VIRTIO_BLK_T_OUT;
		req->blk.sector = io->lba << shift;
		iov_to_buf(io->iov, io->iovcnt, 0, req->iov.iov_base, req->iov.iov_len);
		break;
	case BDEV_FLUSH:
		req->blk.type = VIRTIO_BLK_T_FLUSH;
		break;
	default:
		req->blk.type = io->op == BDEV_UNMAP ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES;
		fill_range(q, io, req);
		break;
	}
}

static size_t
buffer_bytes(const struct bdev_io *io)
{
	switch ((enum bdev_op)io->op) {
	case BDEV_READ:
	case BDEV_WRITE:
		return io->num_blocks << io->ch->block_size_shift;
	case BDEV_FLUSH:
		return 0;
	default:
		return sizeof(struct virtio_blk_discard_write_zeroes);
	}
}

/* False: it has to wait. */
static bool
send(struct virtio_queue *q, struct virtio_request *req)
{
	struct bdev_io *io = io_of(req);

	if (q->ring->free_count == 0 || !take_buffer(q, buffer_bytes(io), &req->iov)) {
		return false;
	}
	fill(q, io, req);
	/* A slot is free, and the buffer is the connection's. */
	CHECK(driver_blk_submit(q->ring, &req->blk) == 0);
	q->expecting |= list_empty(&q->flying);
	list_append(&q->flying, &req->link);
	if (!q->batch_waiting) {
		q->batch_waiting = true;
		thread_batch(&q->batch, turn_end);
	}
	return true;
}

static void
send_waiting(struct virtio_queue *q)
{
	while (q->ring != NULL && !list_empty(&q->waiting)) {
		struct virtio_request *req = LIST_FIRST(&q->waiting, struct virtio_request, link);

		list_remove(&req->link);
		if (!send(q, req)) {
			list_prepend(&q->waiting, &req->link);
			return;
		}
	}
}

/* On the thread that has the queue. */
static void
start(struct virtio_channel *vc, struct virtio_request *req)
{
	struct virtio_queue *q = &vc->queue;
	int failed;

	if (LIKELY(q->ring != NULL && list_empty(&q->waiting)) && LIKELY(send(q, req))) {
		return;
	}
	failed = q->ring == NULL ? atomic_load_explicit(&vc->disk->failed, memory_order_relaxed) : 0;
	if (UNLIKELY(q->ring == NULL && vc->link != NULL)) {
		failed = -EIO; /* take_ring() had no memory */
	}
	if (failed != 0) {
		end(req, failed);
	} else {
		list_append(&q->waiting, &req->link);
	}
}

static void
arrived(struct msg *msg)
{
	struct virtio_request *req = CONTAINER_OF(msg, struct virtio_request, msg);
	struct bdev_channel_ctx *ctx = io_of(req)->ch->module_ctx;

	start(ctx->vc->disk->home, req);
}

static void
send_home(struct virtio_channel *vc, struct virtio_request *req)
{
	req->remote = true;
	thread_send(vc->disk->app, &req->msg, arrived);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct bdev_channel_ctx *ctx = ch->module_ctx;
	struct virtio_channel *vc = ctx->vc;
	struct virtio_request *req = bdev_io_ctx(io);

	list_init(&req->link);
	req->remote = false;
	if (LIKELY(vc->index != NO_QUEUE)) {
		start(vc, req);
	} else {
		send_home(vc, req);
	}
}

/* ---- From the target ---- */

static int
status_of(const struct virtio_request *req)
{
	/* A status that is none: not ours to pass on. */
	return req->blk.status == -EPROTO ? -EIO : req->blk.status;
}

static void
answered(struct virtio_queue *q, struct virtio_request *req)
{
	struct bdev_io *io = io_of(req);
	int status = status_of(req);

	list_remove(&req->link);
	if (io->op == BDEV_READ && status == 0) {
		iov_from_buf(io->iov, io->iovcnt, 0, req->iov.iov_base, req->iov.iov_len);
	}
	give_buffer(q, &req->iov);
	end(req, status);
}

static void
ring_broke(struct virtio_queue *q)
{
	struct virtio_disk *disk = channel_of_queue(q)->disk;

	q->broken = true;
	if (!atomic_exchange(&disk->broken, true)) {
		thread_send(disk->app, &disk->broken_msg, virtio_disk_broken);
	}
}

static int
queue_poll(struct poller *p)
{
	struct virtio_queue *q = CONTAINER_OF(p, struct virtio_queue, poller);
	struct driver_blk_request *done[POLL_MAX];
	int n;

	if (UNLIKELY(q->broken) || !driver_blk_ready(q->ring)) {
		return 0;
	}
	n = driver_blk_poll(q->ring, done, POLL_MAX);
	if (UNLIKELY(n < 0)) {
		ring_broke(q);
		return 0;
	}
	for (int i = 0; i < n; i++) {
		answered(q, CONTAINER_OF(done[i], struct virtio_request, blk));
	}
	if (UNLIKELY(!list_empty(&q->waiting))) {
		send_waiting(q);
	}
	return n;
}

static bool
queue_arm(struct poller *p)
{
	struct virtio_queue *q = CONTAINER_OF(p, struct virtio_queue, poller);

	return driver_blk_arm(q->ring) && !q->broken;
}

static void
queue_disarm(struct poller *p)
{
	struct virtio_queue *q = CONTAINER_OF(p, struct virtio_queue, poller);

	driver_blk_disarm(q->ring);
}

static void
queue_describe(const struct poller *p, char *text, size_t size)
{
	struct virtio_queue *q = CONTAINER_OF(p, struct virtio_queue, poller);
	const struct virtio_channel *vc = channel_of_queue(q);

	snprintf(text, size, "%s queue %u", vc->disk->name, vc->index);
}

static const struct poller_ops queue_poller = {
	.name = "virtio_bdev",
	.poll = queue_poll,
	.arm = queue_arm,
	.disarm = queue_disarm,
	.describe = queue_describe,
};

/* ---- Taking and leaving a connection ---- */

size_t
virtio_queue_bytes(unsigned vq_size)
{
	/* There are at most as many slots as descriptors; and what alignment costs. */
	return vq_size * SMALL_BYTES + LARGE_COUNT * LARGE_BYTES + SMALL_BYTES;
}

static int
take_ring(struct virtio_channel *vc, struct virtio_link *link)
{
	struct virtio_queue *q = &vc->queue;
	int rc;

	q->ring = &link->blk->queues[vc->index];
	q->small = calloc(q->ring->slot_count, sizeof(*q->small));
	if (q->small == NULL) {
		q->ring = NULL;
		return -ENOMEM;
	}
	q->small_count = q->large_count = 0;
	for (unsigned i = q->ring->slot_count; i > 0; i--) {
		q->small[q->small_count++] = link->buffers[vc->index].small + (i - 1) * SMALL_BYTES;
	}
	for (unsigned i = LARGE_COUNT; i > 0; i--) {
		q->large[q->large_count++] = link->buffers[vc->index].large + (i - 1) * LARGE_BYTES;
	}
	q->broken = q->expecting = false;
	rc = poller_start(&q->poller, &queue_poller, driver_blk_fd(q->ring));
	if (rc != 0) {
		free(q->small);
		q->small = NULL;
		q->ring = NULL;
	}
	return rc;
}

static void
leave_ring(struct virtio_queue *q)
{
	if (q->ring == NULL) {
		return;
	}
	poller_stop(&q->poller);
	q->ring = NULL;
	free(q->small);
	q->small = NULL;
	/* The flying ones first, then those that waited already. */
	list_splice(&q->flying, &q->waiting);
	list_splice(&q->waiting, &q->flying);
}

static void
leave_link(struct virtio_channel *vc)
{
	leave_ring(&vc->queue);
	if (vc->link != NULL) {
		pthread_mutex_lock(&vc->disk->lock);
		vc->link->users--;
		pthread_mutex_unlock(&vc->disk->lock);
		vc->link = NULL;
	}
}

static void
end_waiting(struct virtio_queue *q, int status)
{
	while (!list_empty(&q->waiting)) {
		struct virtio_request *req = LIST_FIRST(&q->waiting, struct virtio_request, link);

		list_remove(&req->link);
		end(req, status);
	}
}

/* The target came back with fewer queues. */
static void
give_up_queue(struct virtio_channel *vc)
{
	struct virtio_disk *disk = vc->disk;

	pthread_mutex_lock(&disk->lock);
	disk->taken[vc->index] = false;
	pthread_mutex_unlock(&disk->lock);
	vc->index = NO_QUEUE;
	while (!list_empty(&vc->queue.waiting)) {
		struct virtio_request *req = LIST_FIRST(&vc->queue.waiting, struct virtio_request, link);

		list_remove(&req->link);
		send_home(vc, req);
	}
}

/* What the disk has now, with a use of it. */
static struct virtio_link *
take_link(struct virtio_channel *vc)
{
	struct virtio_link *link;

	pthread_mutex_lock(&vc->disk->lock);
	link = vc->disk->link;
	if (link != NULL) {
		link->users++;
	}
	pthread_mutex_unlock(&vc->disk->lock);
	return link;
}

static void
change_link(struct virtio_channel *vc)
{
	leave_link(vc);
	vc->link = take_link(vc);
	if (vc->link == NULL) {
		return;
	}
	if (vc->index >= vc->link->blk->queue_count) {
		leave_link(vc);
		give_up_queue(vc);
	} else if (take_ring(vc, vc->link) != 0) {
		/* No memory, or no descriptor: what waits must not wait for ever. */
		end_waiting(&vc->queue, -EIO);
	} else {
		send_waiting(&vc->queue);
	}
}

void
virtio_channel_sync(void *ctx, struct channel *ch)
{
	struct virtio_channel *vc = CONTAINER_OF(ch, struct virtio_channel, channel);
	struct virtio_link *link;
	int failed;

	if (vc->index == NO_QUEUE) {
		return;
	}
	pthread_mutex_lock(&vc->disk->lock);
	link = vc->disk->link;
	pthread_mutex_unlock(&vc->disk->lock);
	if (link != vc->link) {
		change_link(vc);
	}
	failed = atomic_load(&vc->disk->failed);
	if (vc->queue.ring == NULL && failed != 0) {
		end_waiting(&vc->queue, failed);
	}
}

/* ---- Channels ---- */

/* A queue for this thread; 0 is the app thread's and nobody else's. */
static uint32_t
choose_queue(struct virtio_disk *disk)
{
	uint32_t index = NO_QUEUE;
	unsigned count;

	if (thread_self() == disk->app) {
		return 0;
	}
	pthread_mutex_lock(&disk->lock);
	count = disk->link != NULL ? disk->link->blk->queue_count : 0;
	for (unsigned i = 1; i < count && index == NO_QUEUE; i++) {
		if (!disk->taken[i]) {
			disk->taken[i] = true;
			index = i;
		}
	}
	pthread_mutex_unlock(&disk->lock);
	return index;
}

static int
channel_create(struct device *dev, struct channel *ch)
{
	struct virtio_channel *vc = CONTAINER_OF(ch, struct virtio_channel, channel);

	vc->disk = CONTAINER_OF(dev, struct virtio_disk, device);
	list_init(&vc->queue.waiting);
	list_init(&vc->queue.flying);
	vc->index = choose_queue(vc->disk);
	virtio_channel_sync(NULL, ch);
	return 0;
}

static void
channel_destroy(struct device *dev, struct channel *ch)
{
	struct virtio_channel *vc = CONTAINER_OF(ch, struct virtio_channel, channel);

	CHECK(list_empty(&vc->queue.waiting) && list_empty(&vc->queue.flying));
	leave_link(vc);
	if (vc->index != NO_QUEUE) {
		pthread_mutex_lock(&vc->disk->lock);
		vc->disk->taken[vc->index] = false;
		pthread_mutex_unlock(&vc->disk->lock);
	}
}

const struct device_ops virtio_channel_ops = {
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
};

static int
bdev_channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct virtio_disk *disk = CONTAINER_OF(bdev, struct virtio_disk, bdev);
	struct bdev_channel_ctx *ctx = ch->module_ctx;
	struct channel *own;
	int rc = 0;

	own = channel_get(&disk->device, &rc);
	if (own != NULL) {
		ctx->vc = CONTAINER_OF(own, struct virtio_channel, channel);
	}
	return rc;
}

static void
bdev_channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct bdev_channel_ctx *ctx = ch->module_ctx;

	channel_put(&ctx->vc->channel);
}

const struct bdev_ops virtio_bdev_ops = {
	.module_name = "virtio",
	.destruct = virtio_disk_destruct,
	.channel_create = bdev_channel_create,
	.channel_destroy = bdev_channel_destroy,
	.submit = submit,
};
