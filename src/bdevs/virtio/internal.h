/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of bdevs/virtio; never leaves it. */
#ifndef BDEVS_VIRTIO_INTERNAL_H
#define BDEVS_VIRTIO_INTERNAL_H

#include "bdevs/remote/remote.h"
#include "virtio/driver/blk.h"

/*
 * Buffers, of which a target sees no others: each queue has one small for each of its slots, and a few large.
 * A small one holds the usual request, so that what a busy queue touches stays in the cache.
 */
#define SMALL_BYTES ((size_t)4096)
#define LARGE_BYTES ((size_t)65536)
#define LARGE_COUNT 32

/* A connection; its lanes are the queues. */
struct virtio_link {
	struct remote_link remote;
	struct driver_blk *blk;
	bool zeroes_may_unmap; /* lanes do not look at blk->config, which a worker may be reading again */
	struct {
		uint8_t *small;
		uint8_t *large;
	} buffers[REMOTE_LANES_MAX];
};

struct virtio_request {
	struct remote_request remote;
	struct driver_blk_request blk;
	struct iovec iov; /* the buffer; length 0: none */
};

/* A queue, on the thread that uses it. */
/* What happens at the end of a turn. It may outlive its lane by that much. */
struct virtio_turn {
	struct defer defer;
	struct virtio_lane *lane; /* NULL: stopped meanwhile */
	bool waiting;
};

struct virtio_lane {
	struct driver_blk_queue *ring; /* NULL: none */
	struct poller poller;
	struct virtio_turn *turn; /* from start to stop */
	bool expecting;
	bool broken;
	unsigned small_count, large_count;
	void **small; /* stacks of those that are free */
	void *large[LARGE_COUNT];
};

/* ---- lane.c (the lane's thread) ---- */

int virtio_lane_start(struct remote_channel *c);
void virtio_lane_stop(struct remote_channel *c);
bool virtio_send(struct remote_channel *c, struct remote_request *req);
/* Shared memory of a queue's buffers. */
size_t virtio_lane_buffer_bytes(unsigned vq_size);

#endif
