/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtqueue as a lane.
 *
 * Invariants
 *  1. A write's data is copied when it goes to the target, a read's when it comes back; both on the lane's thread.
 *  2. While a request waits for a slot or a buffer, one is flying: free slots and buffers are all there when none is.
 * Context: the lane's thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/iov.h"
#include "bdevs/virtio/internal.h"

#define POLL_MAX 32
#define SECTOR_SHIFT 9

static struct virtio_lane *
lane_of(struct remote_channel *c)
{
	return (struct virtio_lane *)(void *)c->lane;
}

static struct remote_channel *
channel_of(struct virtio_lane *lane)
{
	return (struct remote_channel *)(void *)((uint8_t *)lane - offsetof(struct remote_channel, lane));
}

/* ---- To the target ---- */

static void
turn_end(struct defer *d)
{
	struct virtio_turn *turn = CONTAINER_OF(d, struct virtio_turn, defer);
	struct virtio_lane *q = turn->lane;

	turn->waiting = false;
	if (q == NULL) {
		free(turn);
		return;
	}
	driver_blk_kick(q->ring);
	if (q->expecting) {
		q->expecting = false;
		poller_expect(&q->poller);
	}
}

static void
give_buffer(struct virtio_lane *q, const struct iovec *iov)
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
take_buffer(struct virtio_lane *q, size_t bytes, struct iovec *iov)
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
fill_range(struct virtio_lane *q, const struct bdev_io *io, struct virtio_request *req)
{
	const struct virtio_link *link = CONTAINER_OF(channel_of(q)->link, struct virtio_link, remote);
	unsigned shift = io->ch->block_size_shift - SECTOR_SHIFT;
	struct virtio_blk_discard_write_zeroes *range = req->iov.iov_base;
	bool unmap = io->op == BDEV_WRITE_ZEROES && (io->flags & BDEV_IO_MAY_UNMAP) != 0 &&
		     link->zeroes_may_unmap;

	*range = (struct virtio_blk_discard_write_zeroes){
		.sector = io->lba << shift,
		.num_sectors = (uint32_t)(io->num_blocks << shift),
		.flags = unmap ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0,
	};
}

static void
fill(struct virtio_lane *q, const struct bdev_io *io, struct virtio_request *req)
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

bool
virtio_send(struct remote_channel *c, struct remote_request *remote)
{
	struct virtio_request *req = CONTAINER_OF(remote, struct virtio_request, remote);
	struct virtio_lane *q = lane_of(c);
	struct bdev_io *io = remote_io(remote);

	if (q->ring->free_count == 0 || !take_buffer(q, buffer_bytes(io), &req->iov)) {
		return false;
	}
	fill(q, io, req);
	/* A slot is free, and the buffer is the connection's. */
	CHECK(driver_blk_submit(q->ring, &req->blk) == 0);
	q->expecting |= list_empty(&c->flying);
	if (!q->turn->waiting) {
		q->turn->waiting = true;
		thread_batch(&q->turn->defer, turn_end);
	}
	return true;
}

/* ---- From the target ---- */

static void
answered(struct virtio_lane *q, struct virtio_request *req)
{
	struct bdev_io *io = remote_io(&req->remote);
	/* A status that is none is not ours to pass on. */
	int status = req->blk.status == -EPROTO ? -EIO : req->blk.status;

	if (io->op == BDEV_READ && status == 0) {
		iov_from_buf(io->iov, io->iovcnt, 0, req->iov.iov_base, req->iov.iov_len);
	}
	give_buffer(q, &req->iov);
	remote_done(channel_of(q), &req->remote, status);
}

static int
queue_poll(struct poller *p)
{
	struct virtio_lane *q = CONTAINER_OF(p, struct virtio_lane, poller);
	struct driver_blk_request *done[POLL_MAX];
	int n;

	if (UNLIKELY(q->broken) || !driver_blk_ready(q->ring)) {
		return 0;
	}
	n = driver_blk_poll(q->ring, done, POLL_MAX);
	if (UNLIKELY(n < 0)) {
		q->broken = true;
		remote_broken(channel_of(q), "the target broke a ring");
		return 0;
	}
	for (int i = 0; i < n; i++) {
		answered(q, CONTAINER_OF(done[i], struct virtio_request, blk));
	}
	remote_go_on(channel_of(q));
	return n;
}

static bool
queue_arm(struct poller *p)
{
	struct virtio_lane *q = CONTAINER_OF(p, struct virtio_lane, poller);

	return driver_blk_arm(q->ring) && !q->broken;
}

static void
queue_disarm(struct poller *p)
{
	struct virtio_lane *q = CONTAINER_OF(p, struct virtio_lane, poller);

	driver_blk_disarm(q->ring);
}

static void
queue_describe(const struct poller *p, char *text, size_t size)
{
	const struct remote_channel *c = channel_of(CONTAINER_OF(p, struct virtio_lane, poller));

	snprintf(text, size, "%s queue %u", c->disk->name, c->index);
}

static const struct poller_ops queue_poller = {
	.name = "virtio_bdev",
	.poll = queue_poll,
	.arm = queue_arm,
	.disarm = queue_disarm,
	.describe = queue_describe,
};

/* ---- Life ---- */

size_t
virtio_lane_buffer_bytes(unsigned vq_size)
{
	/* There are at most as many slots as descriptors; and what alignment costs. */
	return vq_size * SMALL_BYTES + LARGE_COUNT * LARGE_BYTES + SMALL_BYTES;
}

static void
forget(struct virtio_lane *q)
{
	free(q->small);
	q->small = NULL;
	q->ring = NULL;
}

/* The turn is freed when it has ended. */
static void
end_turn(struct virtio_lane *q)
{
	if (q->turn != NULL && q->turn->waiting) {
		q->turn->lane = NULL;
	} else {
		free(q->turn);
	}
	q->turn = NULL;
}

int
virtio_lane_start(struct remote_channel *c)
{
	struct virtio_link *link = CONTAINER_OF(c->link, struct virtio_link, remote);
	struct virtio_lane *q = lane_of(c);
	int rc;

	q->ring = &link->blk->queues[c->index];
	q->small = calloc(q->ring->slot_count, sizeof(*q->small));
	q->turn = calloc(1, sizeof(*q->turn));
	if (q->small == NULL || q->turn == NULL) {
		end_turn(q);
		forget(q);
		return -ENOMEM;
	}
	q->turn->lane = q;
	q->small_count = q->large_count = 0;
	for (unsigned i = q->ring->slot_count; i > 0; i--) {
		q->small[q->small_count++] = link->buffers[c->index].small + (i - 1) * SMALL_BYTES;
	}
	for (unsigned i = LARGE_COUNT; i > 0; i--) {
		q->large[q->large_count++] = link->buffers[c->index].large + (i - 1) * LARGE_BYTES;
	}
	q->broken = q->expecting = false;
	rc = poller_start(&q->poller, &queue_poller, driver_blk_fd(q->ring));
	if (rc != 0) {
		end_turn(q);
		forget(q);
	}
	return rc;
}

void
virtio_lane_stop(struct remote_channel *c)
{
	struct virtio_lane *q = lane_of(c);

	poller_stop(&q->poller);
	end_turn(q);
	forget(q);
}
