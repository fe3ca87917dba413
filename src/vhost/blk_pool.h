/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory for block requests, of an I/O thread: shared by all its vhost-blk queues, made as it is needed and given back.
 *
 * Invariants
 *  1. A request comes from the pool of its size, last in, first out; a pool lives as long as a queue uses it.
 *  2. What a burst took is free again BLK_TRIM_US after it was last needed: one timer, which runs only while a
 *     pool is larger than BLK_POOL_KEEP requests, or there are big blocks.
 *  3. No I/O fails for want of a request: a pool that is empty, and may or can not grow, makes its queues wait, oldest first.
 */
#ifndef VHOST_BLK_POOL_H
#define VHOST_BLK_POOL_H

#include <linux/virtio_blk.h>
#include <sys/uio.h>

#include "event/channel.h"
#include "vhost/internal.h"

/* Data segments that fit in a request itself; more take a big block. */
#define BLK_INLINE_IOV 4
#define BLK_SEGMENTS_MAX 32
#define BLK_POOL_GROW 16
#define BLK_POOL_MAX 4096
#define BLK_POOL_KEEP 64
#define BLK_TRIM_US 500000

struct blk_request {
	struct vhost_queue *q;
	struct blk_request *next_free;
	const uint8_t *header; /* in guest memory, NULL when `copied` has it already */
	uint8_t *status;       /* in guest memory */
	uint32_t data_bytes;
	uint32_t written;      /* what the used ring says on success, without the status byte */
	uint16_t head;
	bool data_in;          /* the data buffers are device-writable */
	uint16_t segment, segment_count;
	unsigned iovcnt;
	struct iovec *iov;     /* inline_iov or a big block */
	struct iovec inline_iov[BLK_INLINE_IOV];
	struct virtio_blk_outhdr copied;
	_Alignas(CACHE_LINE_BYTES) struct bdev_io io; /* with room behind it: last */
};

/* A block for long requests: data segments, or the copied segments of discard and write zeroes. */
union blk_big {
	union blk_big *next_free;
	struct iovec iov[VIRTQ_CHAIN_MAX];
	struct virtio_blk_discard_write_zeroes segments[BLK_SEGMENTS_MAX];
};

/* Fields are the business of blk_pool.c and the functions below. */
struct blk_pool {
	struct list link;
	struct blk_channel *channel;
	size_t request_bytes;
	unsigned queues; /* that use it: it goes with the last */
	unsigned total, used;
	struct blk_request *free;
	struct list starved; /* queues */
	struct blk_chunk *chunks;
};

struct blk_channel {
	struct channel channel;
	struct list pools;
	union blk_big *big_free;
	unsigned big_total, big_spare;
	bool trimming;
	struct timer trim_timer;
	struct iovec scratch[VIRTQ_CHAIN_MAX];
};

/* This thread's, with one more reference; put with channel_put(&channel->channel). */
struct blk_channel *blk_channel_get(int *ret_rc);

/* The thread's pool of requests of that size, NULL when memory is out; each get is answered by a put. */
struct blk_pool *blk_pool_get(struct blk_channel *c, size_t request_bytes);
void blk_pool_put(struct blk_pool *pool);

void blk_pool_grow(struct blk_pool *pool);
/* q waits for a request of the pool: q->starved until there is one, then its poller is woken. */
void blk_pool_starve(struct blk_pool *pool, struct vhost_queue *q);
void blk_pool_feed(struct blk_pool *pool);

/* NULL: none to be had. */
static inline struct blk_request *
blk_request_get(struct blk_pool *pool)
{
	struct blk_request *req;

	if (UNLIKELY(pool->free == NULL)) {
		blk_pool_grow(pool);
		if (pool->free == NULL) {
			return NULL;
		}
	}
	req = pool->free;
	pool->free = req->next_free;
	pool->used++;
	return req;
}

union blk_big *blk_big_get(struct blk_channel *c); /* NULL: no memory */
void blk_big_put(struct blk_channel *c, void *big);

/* With its big block, if it has one. */
static inline void
blk_request_put(struct blk_pool *pool, struct blk_request *req)
{
	if (UNLIKELY(req->iov != req->inline_iov)) {
		blk_big_put(pool->channel, req->iov);
	}
	req->next_free = pool->free;
	pool->free = req;
	pool->used--;
	if (UNLIKELY(!list_empty(&pool->starved))) {
		blk_pool_feed(pool);
	}
}

/* What the calling thread's pools hold, in bytes, in use or not: for tests. */
size_t blk_pool_bytes(void);

#endif
