/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Buffers of one size and alignment for I/O. A pool is process-wide and bounded: it grows to its
 * limit as buffers are asked for and then answers "none", upon which its users wait; it never
 * shrinks. Each thread takes through a cache of its own and goes to the pool, which has a lock,
 * only once for several buffers.
 */
#ifndef MEM_POOL_H
#define MEM_POOL_H

#include <pthread.h>
#include <stddef.h>

struct mem_pool {
	size_t buffer_bytes; /* a multiple of align */
	size_t align;        /* power of two */
	unsigned limit;      /* most buffers that exist at once */

	pthread_mutex_t lock; /* guards what follows */
	unsigned made;
	unsigned free_count;
	void *free; /* linked through the buffers' first bytes */
};

#define MEM_POOL_INIT(bytes, alignment, most) \
	{ \
		.buffer_bytes = (bytes), .align = (alignment), .limit = (most), \
		.lock = PTHREAD_MUTEX_INITIALIZER, \
	}

struct mem_pool_stats {
	unsigned limit;
	unsigned made;
	unsigned idle; /* in the pool, caches not counted */
};

/* Any thread. */
void mem_pool_get_stats(struct mem_pool *pool, struct mem_pool_stats *ret_stats);
/* Frees the idle buffers; all others must have been put back before. */
void mem_pool_release(struct mem_pool *pool);

#define MEM_CACHE_BUFFERS 4

/* Used by one thread at a time; starts zeroed but for the pool. */
struct mem_cache {
	struct mem_pool *pool;
	unsigned count;
	void *buffers[MEM_CACHE_BUFFERS];
};

/* Contents undefined. NULL when the pool is at its limit or memory is out. */
void *mem_cache_get(struct mem_cache *cache);
void mem_cache_put(struct mem_cache *cache, void *buffer);
/* Gives everything back to the pool; the cache may be used again. */
void mem_cache_release(struct mem_cache *cache);

/* MEM_ZEROES_BYTES of zeroes, aligned to 64 KiB, shared by all and never freed; writing to them
 * is a fault. NULL when memory is out. Any thread. */
#define MEM_ZEROES_BYTES ((size_t)1 << 20)
void *mem_zeroes(void);

#endif
