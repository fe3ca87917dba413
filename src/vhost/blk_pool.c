/* SPDX-License-Identifier: BSD-3-Clause */
#include "vhost/blk_pool.h"

#include <stdlib.h>

struct blk_chunk {
	struct blk_chunk *next;
	_Alignas(CACHE_LINE_BYTES) uint8_t memory[];
};

static void trim(struct timer *t);

/* ---- Requests ---- */

static void
trim_later(struct blk_channel *c)
{
	if (!c->trimming) {
		/* Without memory for a timer the next growth tries again. */
		c->trimming = timer_start(&c->trim_timer, BLK_TRIM_US, trim) == 0;
	}
}

static void
add_free(struct blk_pool *pool, struct blk_chunk *chunk)
{
	for (unsigned i = 0; i < BLK_POOL_GROW; i++) {
		struct blk_request *req = (struct blk_request *)(chunk->memory + i * pool->request_bytes);

		req->next_free = pool->free;
		pool->free = req;
	}
	pool->total += BLK_POOL_GROW;
}

void
blk_pool_grow(struct blk_pool *pool)
{
	struct blk_chunk *chunk;

	if (pool->total >= BLK_POOL_MAX) {
		return;
	}
	chunk = aligned_alloc(CACHE_LINE_BYTES, sizeof(*chunk) + BLK_POOL_GROW * pool->request_bytes);
	if (chunk == NULL) {
		return;
	}
	chunk->next = pool->chunks;
	pool->chunks = chunk;
	add_free(pool, chunk);
	if (pool->total > BLK_POOL_KEEP) {
		trim_later(pool->channel);
	}
}

static void
free_chunks(struct blk_chunk *chunk)
{
	while (chunk != NULL) {
		struct blk_chunk *next = chunk->next;

		free(chunk);
		chunk = next;
	}
}

/* Nothing of it is in use: back to BLK_POOL_KEEP. */
static void
shrink(struct blk_pool *pool)
{
	struct blk_chunk *chunk = pool->chunks;

	pool->free = NULL;
	pool->total = 0;
	for (;; chunk = chunk->next) {
		add_free(pool, chunk);
		if (pool->total == BLK_POOL_KEEP) {
			break;
		}
	}
	free_chunks(chunk->next);
	chunk->next = NULL;
}

struct blk_pool *
blk_pool_get(struct blk_channel *c, size_t request_bytes)
{
	struct blk_pool *pool;

	LIST_FOREACH(pool, &c->pools, link)
	{
		if (pool->request_bytes == request_bytes) {
			pool->queues++;
			return pool;
		}
	}
	pool = calloc(1, sizeof(*pool));
	if (pool != NULL) {
		pool->channel = c;
		pool->request_bytes = request_bytes;
		pool->queues = 1;
		list_init(&pool->starved);
		list_append(&c->pools, &pool->link);
	}
	return pool;
}

void
blk_pool_put(struct blk_pool *pool)
{
	if (--pool->queues > 0) {
		return;
	}
	CHECK(pool->used == 0 && list_empty(&pool->starved));
	free_chunks(pool->chunks);
	list_remove(&pool->link);
	free(pool);
}

/* ---- Waiting ---- */

void
blk_pool_starve(struct blk_pool *pool, struct vhost_queue *q)
{
	CHECK(!q->starved && !list_linked(&q->starved_link));
	q->starved = true;
	list_append(&pool->starved, &q->starved_link);
}

void
blk_pool_feed(struct blk_pool *pool)
{
	struct vhost_queue *q = LIST_FIRST(&pool->starved, struct vhost_queue, starved_link);

	list_remove(&q->starved_link);
	q->starved = false;
	poller_wake(&q->poller);
}

/* ---- Big blocks ---- */

union blk_big *
blk_big_get(struct blk_channel *c)
{
	union blk_big *big = c->big_free;

	if (big != NULL) {
		c->big_free = big->next_free;
		c->big_spare--;
		return big;
	}
	big = malloc(sizeof(*big));
	if (big != NULL) {
		c->big_total++;
		trim_later(c);
	}
	return big;
}

void
blk_big_put(struct blk_channel *c, void *memory)
{
	union blk_big *big = memory;

	big->next_free = c->big_free;
	c->big_free = big;
	c->big_spare++;
}

static void
free_bigs(struct blk_channel *c)
{
	while (c->big_spare > 0) {
		union blk_big *big = c->big_free;

		c->big_free = big->next_free;
		free(big);
		c->big_spare--;
		c->big_total--;
	}
}

/* ---- The thread's part ---- */

/* What is in use now was perhaps used all the time: another look later. */
static void
trim(struct timer *t)
{
	struct blk_channel *c = CONTAINER_OF(t, struct blk_channel, trim_timer);
	bool again = c->big_total > c->big_spare;
	struct blk_pool *pool;

	c->trimming = false;
	if (!again) {
		free_bigs(c);
	}
	LIST_FOREACH(pool, &c->pools, link)
	{
		if (pool->total > BLK_POOL_KEEP && pool->used == 0) {
			shrink(pool);
		}
		again = again || pool->total > BLK_POOL_KEEP;
	}
	if (again) {
		trim_later(c);
	}
}

static int
channel_create(struct device *dev, struct channel *ch)
{
	struct blk_channel *c = (struct blk_channel *)ch;

	list_init(&c->pools);
	return 0;
}

static void
channel_destroy(struct device *dev, struct channel *ch)
{
	struct blk_channel *c = (struct blk_channel *)ch;

	CHECK(list_empty(&c->pools) && c->big_total == c->big_spare);
	timer_stop(&c->trim_timer);
	free_bigs(c);
}

static const struct device_ops channel_ops = {.channel_create = channel_create, .channel_destroy = channel_destroy};
static struct device blk_device = DEVICE_STATIC(blk_device, "vhost_blk", &channel_ops, sizeof(struct blk_channel));

struct blk_channel *
blk_channel_get(int *ret_rc)
{
	return (struct blk_channel *)channel_get(&blk_device, ret_rc);
}

size_t
blk_pool_bytes(void)
{
	struct blk_channel *c = blk_channel_get(NULL);
	struct blk_pool *pool;
	size_t bytes;

	if (c == NULL) {
		return 0;
	}
	bytes = c->big_total * sizeof(union blk_big);
	LIST_FOREACH(pool, &c->pools, link)
	{
		bytes += sizeof(*pool) + pool->total * pool->request_bytes;
	}
	channel_put(&c->channel);
	return bytes;
}
