/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. made <= limit; made = buffers handed out + in caches + idle in the pool.
 *  2. A cache holds at most MEM_CACHE_BUFFERS; what it cannot hold goes back to the pool, so that
 *     buffers that one thread does not use are at most that many.
 * The lock is held for a few pointer moves, never while memory is allocated.
 */
#include "mem/pool.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/check.h"

#define ZEROES_ALIGN ((size_t)65536)

/* ---- The pool ---- */

/* A buffer, or the right to make one: *ret_make. The lock is held. */
static void *
take(struct mem_pool *pool, bool *ret_make)
{
	void *buffer = pool->free;

	*ret_make = false;
	if (buffer != NULL) {
		memcpy(&pool->free, buffer, sizeof(void *));
		pool->free_count--;
	} else if (pool->made < pool->limit) {
		pool->made++;
		*ret_make = true;
	}
	return buffer;
}

static void
give(struct mem_pool *pool, void *buffer)
{
	memcpy(buffer, &pool->free, sizeof(void *));
	pool->free = buffer;
	pool->free_count++;
}

static void *
make(struct mem_pool *pool)
{
	void *buffer = aligned_alloc(pool->align, pool->buffer_bytes);

	if (buffer == NULL) {
		pthread_mutex_lock(&pool->lock);
		pool->made--;
		pthread_mutex_unlock(&pool->lock);
	}
	return buffer;
}

void
mem_pool_get_stats(struct mem_pool *pool, struct mem_pool_stats *ret_stats)
{
	pthread_mutex_lock(&pool->lock);
	*ret_stats = (struct mem_pool_stats){
		.limit = pool->limit,
		.made = pool->made,
		.idle = pool->free_count,
	};
	pthread_mutex_unlock(&pool->lock);
}

void
mem_pool_release(struct mem_pool *pool)
{
	CHECK(pool->made == pool->free_count);
	while (pool->free != NULL) {
		void *buffer = pool->free;

		memcpy(&pool->free, buffer, sizeof(void *));
		free(buffer);
	}
	pool->made = 0;
	pool->free_count = 0;
}

/* ---- A thread's cache ---- */

void *
mem_cache_get(struct mem_cache *cache)
{
	struct mem_pool *pool = cache->pool;
	bool may_make;
	void *buffer;

	if (cache->count > 0) {
		return cache->buffers[--cache->count];
	}
	pthread_mutex_lock(&pool->lock);
	buffer = take(pool, &may_make);
	/* One more trip to the lock saved for each buffer taken along; new ones are not made for
	 * later. */
	while (buffer != NULL && pool->free != NULL && cache->count < MEM_CACHE_BUFFERS / 2) {
		bool unused;

		cache->buffers[cache->count++] = take(pool, &unused);
	}
	pthread_mutex_unlock(&pool->lock);
	return may_make ? make(pool) : buffer;
}

static void
flush_to(struct mem_cache *cache, unsigned keep)
{
	pthread_mutex_lock(&cache->pool->lock);
	while (cache->count > keep) {
		give(cache->pool, cache->buffers[--cache->count]);
	}
	pthread_mutex_unlock(&cache->pool->lock);
}

void
mem_cache_put(struct mem_cache *cache, void *buffer)
{
	if (cache->count == MEM_CACHE_BUFFERS) {
		flush_to(cache, MEM_CACHE_BUFFERS / 2);
	}
	cache->buffers[cache->count++] = buffer;
}

void
mem_cache_release(struct mem_cache *cache)
{
	if (cache->count > 0) {
		flush_to(cache, 0);
	}
}

/* ---- Zeroes ---- */

static void *zeroes;
static pthread_once_t zeroes_once = PTHREAD_ONCE_INIT;

/* Never written, so the kernel maps one and the same page everywhere: this costs address space
 * only. */
static void
map_zeroes(void)
{
	void *map = mmap(NULL, MEM_ZEROES_BYTES + ZEROES_ALIGN, PROT_READ,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map != MAP_FAILED) {
		zeroes = (void *)(((uintptr_t)map + ZEROES_ALIGN - 1) & ~(ZEROES_ALIGN - 1));
	}
}

void *
mem_zeroes(void)
{
	pthread_once(&zeroes_once, map_zeroes);
	return zeroes;
}
