/* SPDX-License-Identifier: BSD-3-Clause */
#include "mem/pool.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#define BYTES 8192
#define ALIGN 4096
#define LIMIT 16

static void
limit_is_kept(void **state)
{
	struct mem_pool pool = MEM_POOL_INIT(BYTES, ALIGN, LIMIT);
	struct mem_cache cache = {.pool = &pool};
	struct mem_pool_stats stats;
	void *got[LIMIT];

	for (int i = 0; i < LIMIT; i++) {
		got[i] = mem_cache_get(&cache);
		assert_non_null(got[i]);
		assert_int_equal((uintptr_t)got[i] % ALIGN, 0);
		memset(got[i], i, BYTES);
	}
	assert_null(mem_cache_get(&cache));
	for (int i = 0; i < LIMIT; i++) {
		assert_int_equal(((uint8_t *)got[i])[0], i);
		assert_int_equal(((uint8_t *)got[i])[BYTES - 1], i);
	}
	mem_cache_put(&cache, got[0]);
	assert_ptr_equal(mem_cache_get(&cache), got[0]);
	for (int i = 0; i < LIMIT; i++) {
		mem_cache_put(&cache, got[i]);
	}
	assert_true(cache.count <= MEM_CACHE_BUFFERS);
	mem_cache_release(&cache);
	mem_pool_get_stats(&pool, &stats);
	assert_int_equal(stats.made, LIMIT);
	assert_int_equal(stats.idle, LIMIT);
	mem_pool_release(&pool);
}

/* What one cache gives back another one gets: at most MEM_CACHE_BUFFERS stay behind. */
static void
caches_share(void **state)
{
	struct mem_pool pool = MEM_POOL_INIT(BYTES, ALIGN, LIMIT);
	struct mem_cache a = {.pool = &pool}, b = {.pool = &pool};
	void *got[LIMIT];
	int n;

	for (int i = 0; i < LIMIT; i++) {
		got[i] = mem_cache_get(&a);
	}
	for (int i = 0; i < LIMIT; i++) {
		mem_cache_put(&a, got[i]);
	}
	for (n = 0; n < LIMIT && (got[n] = mem_cache_get(&b)) != NULL; n++) {
	}
	assert_true(n >= LIMIT - MEM_CACHE_BUFFERS);
	while (n > 0) {
		mem_cache_put(&b, got[--n]);
	}
	mem_cache_release(&a);
	mem_cache_release(&b);
	mem_pool_release(&pool);
}

static struct mem_pool shared_pool = MEM_POOL_INIT(BYTES, ALIGN, LIMIT);

/* Two threads at a pool too small for both: whoever holds a buffer is the only one. */
static void *
hammer(void *arg)
{
	struct mem_cache cache = {.pool = &shared_pool};
	uint64_t id = (uintptr_t)arg, bad = 0;

	for (int round = 0; round < 20000; round++) {
		uint64_t *got[LIMIT];
		int n = 0;

		while (n < 12 && (got[n] = mem_cache_get(&cache)) != NULL) {
			got[n][1] = id * 1000 + (unsigned)n;
			n++;
		}
		while (n > 0) {
			n--;
			bad += got[n][1] != id * 1000 + (unsigned)n;
			mem_cache_put(&cache, got[n]);
		}
	}
	mem_cache_release(&cache);
	return (void *)(uintptr_t)bad;
}

static void
threads_do_not_mix(void **state)
{
	struct mem_pool_stats stats;
	pthread_t threads[2];

	for (uintptr_t i = 0; i < 2; i++) {
		assert_int_equal(pthread_create(&threads[i], NULL, hammer, (void *)(i + 1)), 0);
	}
	for (int i = 0; i < 2; i++) {
		void *bad;

		pthread_join(threads[i], &bad);
		assert_null(bad);
	}
	mem_pool_get_stats(&shared_pool, &stats);
	assert_int_equal(stats.idle, stats.made);
	assert_true(stats.made <= LIMIT);
	mem_pool_release(&shared_pool);
}

static void
zeroes_are_zero(void **state)
{
	const uint8_t *z = mem_zeroes();

	assert_non_null(z);
	assert_ptr_equal(z, mem_zeroes());
	assert_int_equal((uintptr_t)z % 65536, 0);
	for (size_t i = 0; i < MEM_ZEROES_BYTES; i++) {
		assert_int_equal(z[i], 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limit_is_kept),
		cmocka_unit_test(caches_share),
		cmocka_unit_test(threads_do_not_mix),
		cmocka_unit_test(zeroes_are_zero),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
