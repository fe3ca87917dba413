/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blob/internal.h"
#include "testkit/blob_env.h"

#define CLUSTER_BYTES 65536u

static struct blob_env env;
static struct blob_mem *mem;
static const enum reactor_mode modes[] = {REACTOR_POLL, REACTOR_INTERRUPT, REACTOR_ADAPTIVE};

static void
start(enum reactor_mode mode, uint64_t clusters, const struct blob_mem_options *options)
{
	struct blob_mem_options o = *options;

	memset(&env, 0, sizeof(env));
	blob_env_start(&env, mode, false);
	o.bytes = clusters * CLUSTER_BYTES;
	mem = blob_mem_create(&o);
	env.options.md_pages = 64;
	if (blob_env_create(&env, blob_mem_dev(mem)) != 0) {
		fail_msg("%s", env.err.text);
	}
}

static void
stop(void)
{
	blob_env_idle(&env);
	assert_int_equal(blob_env_unload(&env), 0);
	blob_mem_free(mem);
	blob_env_stop(&env);
}

static uint64_t
free_clusters(void)
{
	return blob_env_info(&env).free_clusters - limbo_clusters(env.store) - env.store->reaped;
}

/* ---- Bits ---- */

static void
bits_keep_what_is_set(void **state)
{
	struct blob_bits bits;

	assert_int_equal(bits_init(&bits, 100), 0);
	assert_false(bits_set(&bits, 99));
	assert_true(bits_set(&bits, 99));
	assert_int_equal(bits_resize(&bits, 5000), 0);
	assert_true(bits_get(&bits, 99));
	assert_false(bits_get(&bits, 4999));
	bits_set(&bits, 4999);
	bits_clear(&bits, 99);
	assert_false(bits_get(&bits, 99));
	assert_int_equal(bits_resize(&bits, 200), 0);
	assert_int_equal(bits.room, 5000);
	bits_release(&bits);
}

/* ---- Taking ---- */

static void
takes_every_cluster_once(void **state)
{
	uint64_t n, total;
	uint8_t *seen;

	start(REACTOR_POLL, 9000, &(struct blob_mem_options){0});
	total = env.store->total_clusters;
	n = free_clusters();
	seen = calloc(total, 1);
	assert_int_equal(alloc_reserve(env.store, n + 1), -ENOSPC);
	assert_int_equal(alloc_reserve(env.store, n), 0);
	assert_int_equal(alloc_reserve(env.store, 1), -ENOSPC);
	alloc_unreserve(env.store, 1);
	assert_int_equal(alloc_reserve(env.store, 1), 0);
	for (uint64_t i = 0; i < n; i++) {
		uint32_t cluster = alloc_take(env.store, 0);

		assert_true(cluster >= blob_super_md_clusters(&env.store->super) && cluster < total);
		assert_false(seen[cluster]);
		seen[cluster] = 1;
	}
	for (uint32_t i = 0; i < total; i++) {
		if (seen[i]) {
			alloc_put_back(env.store, i);
		}
	}
	free(seen);
	assert_int_equal(free_clusters(), n);
	stop();
}

static uint32_t
take_one(uint32_t near)
{
	assert_int_equal(alloc_reserve(env.store, 1), 0);
	return alloc_take(env.store, near);
}

static void
keeps_streams_together(void **state)
{
	uint32_t a, b, first_a, first_b;

	start(REACTOR_POLL, 1024, &(struct blob_mem_options){0});
	first_a = a = take_one(0);
	first_b = b = take_one(0);
	for (unsigned i = 1; i < 8; i++) { /* two that write on, by turns */
		a = take_one(a);
		b = take_one(b);
		assert_int_equal(a, first_a + i);
		assert_int_equal(b, first_b + i);
	}
	for (unsigned i = 0; i < 8; i++) {
		alloc_put_back(env.store, first_a + i);
		alloc_put_back(env.store, first_b + i);
	}
	stop();
}

#define HOLDERS 4
#define ROUNDS 60000u

static _Atomic uint8_t *held;

static void *
take_and_give(void *arg)
{
	uint32_t mine[64], n = 0, near = 0, seed = (uint32_t)(uintptr_t)arg;

	for (unsigned i = 0; i < ROUNDS; i++) {
		seed = seed * 1664525u + 1013904223u;
		if (n < 64 && (seed >> 30) != 0 && alloc_reserve(env.store, 1) == 0) {
			near = alloc_take(env.store, near);
			if (atomic_exchange(&held[near], 1) != 0) {
				return "given twice";
			}
			mine[n++] = near;
		} else if (n > 0) {
			n--;
			atomic_store(&held[mine[n]], 0);
			alloc_put_back(env.store, mine[n]);
		}
	}
	while (n > 0) {
		atomic_store(&held[mine[--n]], 0);
		alloc_put_back(env.store, mine[n]);
	}
	return NULL;
}

/* 200 clusters for four who want up to 256; the store grows meanwhile. */
static void
threads_share_what_there_is(void **state)
{
	pthread_t threads[HOLDERS];
	uint64_t before;
	void *wrong;

	start(REACTOR_POLL, 250, &(struct blob_mem_options){0});
	before = free_clusters();
	held = calloc(400, sizeof(*held));
	for (uintptr_t i = 0; i < HOLDERS; i++) {
		assert_int_equal(pthread_create(&threads[i], NULL, take_and_give, (void *)(i + 1)), 0);
	}
	blob_mem_resize(mem, 400 * CLUSTER_BYTES);
	assert_int_equal(blob_env_grow(&env), 0);
	for (unsigned i = 0; i < HOLDERS; i++) {
		assert_int_equal(pthread_join(threads[i], &wrong), 0);
		if (wrong != NULL) {
			fail_msg("%s", (char *)wrong);
		}
	}
	assert_int_equal(free_clusters(), before + 150);
	assert_int_equal(alloc_reserve(env.store, before + 150), 0);
	alloc_unreserve(env.store, before + 150);
	free((void *)held);
	stop();
}

/* ---- Limbo ---- */

struct later {
	uint32_t first, count, step;
	enum blob_clear clear;
	int status;
};

static void
free_later(void *arg)
{
	struct later *l = arg;
	uint32_t clusters[512] = {0};

	clusters[0] = BLOB_CLUSTER_BUSY; /* and a 0 behind it: skipped */
	for (uint32_t i = 0; i < l->count; i++) {
		clusters[2 + i] = l->first + (l->count - 1 - i) * l->step; /* the last first */
	}
	l->status = alloc_free_later(env.store, clusters, l->count + 2, l->clear);
}

/* Takes what free_later() gives back. */
static void
occupy(const struct later *l)
{
	assert_int_equal(alloc_reserve(env.store, l->count), 0);
	for (uint32_t i = 0; i < l->count; i++) {
		assert_false(bits_set(&env.store->clusters, l->first + i * l->step));
		env.store->spans[(l->first + i * l->step) / 4096]--;
	}
}

static void
clears_a_few_at_once(void **state)
{
	for (unsigned m = 0; m < 3; m++) {
		struct later together = {.first = 300, .count = 400, .step = 1, .clear = BLOB_CLEAR_DEFAULT};
		struct later apart = {.first = 100, .count = 20, .step = 2, .clear = BLOB_CLEAR_WRITE_ZEROES};
		struct later none = {.first = 900, .count = 9, .step = 3, .clear = BLOB_CLEAR_NONE};
		struct blob_mem_stats before, after;
		uint64_t all;

		start(modes[m], 1024, &(struct blob_mem_options){0});
		all = free_clusters();
		occupy(&together);
		occupy(&apart);
		occupy(&none);
		assert_int_equal(free_clusters(), all - 429);
		before = blob_mem_get_stats(mem);
		blob_mem_hold(mem, BLOB_MEM_MODIFIES);
		blob_env_call(&env, env.app, free_later, &together);
		blob_env_call(&env, env.app, free_later, &apart);
		blob_env_call(&env, env.app, free_later, &none);
		blob_env_linger(&env, 50);
		assert_true(blob_mem_held(mem) > 0 && blob_mem_held(mem) <= 4);
		assert_true(free_clusters() < all); /* not before they are cleared */
		assert_true(limbo_clusters(env.store) > 0);
		while (blob_mem_let_go(mem, 0)) {
			blob_env_linger(&env, 20);
			assert_true(blob_mem_held(mem) <= 4);
		}
		blob_mem_hold(mem, 0);
		blob_env_idle(&env);
		after = blob_mem_get_stats(mem);
		assert_int_equal(free_clusters(), all);
		assert_int_equal(limbo_clusters(env.store), 0);
		assert_int_equal(after.unmaps - before.unmaps, 4); /* 400 clusters of 64 KiB, 8 MiB at once */
		assert_int_equal(after.zeroes - before.zeroes, 20);
		stop();
	}
}

static void
clearing_may_fail(void **state)
{
	struct later l = {.first = 100, .count = 20, .step = 1, .clear = BLOB_CLEAR_WRITE_ZEROES};
	uint64_t all;

	start(REACTOR_POLL, 1024, &(struct blob_mem_options){.no_unmap = true});
	all = free_clusters();
	occupy(&l);
	blob_mem_set_fault(mem, &(struct blob_mem_fault){.ops = BLOB_MEM_OP(BLOB_DEV_WRITE_ZEROES)});
	blob_env_call(&env, env.app, free_later, &l);
	blob_env_idle(&env);
	assert_int_equal(free_clusters(), all);
	blob_mem_set_fault(mem, NULL);
	l.clear = BLOB_CLEAR_DEFAULT; /* the device does not unmap: nothing is asked of it */
	occupy(&l);
	blob_env_call(&env, env.app, free_later, &l);
	blob_env_idle(&env);
	assert_int_equal(free_clusters(), all);
	assert_int_equal(blob_mem_get_stats(mem).unmaps, 0);
	stop();
}

/* ---- The watermark ---- */

static void
watch(void *arg)
{
	alloc_watch(env.store);
}

static void
says_once_that_space_is_low(void **state)
{
	uint64_t all, mark;

	start(REACTOR_POLL, 1024, &(struct blob_mem_options){0});
	all = env.store->data_clusters;
	mark = all / 10;
	blob_env_limits(&env, 10, false);
	assert_int_equal(alloc_reserve(env.store, all - mark), 0);
	blob_env_call(&env, env.app, watch, NULL);
	assert_int_equal(env.events[BLOB_STORE_LOW], 0);
	for (unsigned i = 0; i < 3; i++) { /* to and fro at the mark */
		assert_int_equal(alloc_reserve(env.store, 1), 0);
		blob_env_call(&env, env.app, watch, NULL);
		assert_int_equal(env.events[BLOB_STORE_LOW], 1);
		alloc_unreserve(env.store, 1);
		blob_env_call(&env, env.app, watch, NULL);
		assert_int_equal(env.events[BLOB_STORE_LOW_ENDS], 0);
	}
	alloc_unreserve(env.store, mark / 8);
	blob_env_call(&env, env.app, watch, NULL);
	assert_int_equal(env.events[BLOB_STORE_LOW_ENDS], 1);
	alloc_unreserve(env.store, all - mark - mark / 8);
	assert_int_equal(free_clusters(), all);
	stop();
}

/* ---- Pages ---- */

static void
pages_come_back_lowest_first(void **state)
{
	struct blob_store *store;
	uint32_t all, page;

	start(REACTOR_POLL, 1024, &(struct blob_mem_options){0});
	store = env.store;
	all = store->free_pages;
	assert_int_equal(all, 63);
	for (uint32_t i = 1; i <= all; i++) {
		assert_int_equal(alloc_page(store), i);
	}
	assert_int_equal(alloc_page(store), BLOB_PAGE_NONE); /* not page 0 */
	alloc_free_page(store, 40);
	alloc_free_page(store, 7);
	page = alloc_page(store);
	assert_int_equal(page, 7);
	assert_int_equal(alloc_page(store), 40);
	for (uint32_t i = 1; i <= all; i++) {
		alloc_free_page(store, i);
	}
	assert_int_equal(store->free_pages, all);
	stop();
}

/* ---- Space that is on its way ---- */

static void
make_thick(struct blob_env_op *op, void *arg)
{
	struct blob_options o = {.num_clusters = *(uint64_t *)arg};

	blob_create(env.store, &o, blob_env_made, op);
}

static void
grow_thick(struct blob_env_op *op, void *arg)
{
	blob_resize(arg, 700, blob_env_done, op);
}

/* A volume that has just been deleted is being cleared: its space is waited for, not missed. With none on its way, or too
 * little in the end, the answer is "no space". */
static void
waits_for_what_comes(void **state)
{
	uint8_t buf[4096] = {1};
	struct blob_env_channel *c;
	struct blob_env_op thick, larger, little;
	struct blob_env_io io;
	struct blob *all, *small, *thin;
	uint64_t n, too_much;

	for (unsigned m = 0; m < 3; m++) {
		start(modes[m], 1024, &(struct blob_mem_options){0});
		thin = blob_env_volume(&env, 8, true);
		c = blob_env_open(&env, 0, thin);
		small = blob_env_volume(&env, 100, false);
		n = free_clusters();
		too_much = n + 1;
		all = blob_env_volume(&env, n, false);
		assert_int_equal(free_clusters(), 0);
		assert_int_equal(blob_env_rw(c, BLOB_WRITE, 0, 1, buf), -ENOSPC);
		blob_env_begin(&env, &thick, make_thick, &n);
		assert_int_equal(blob_env_end(&env, &thick), -ENOSPC);
		blob_mem_hold(mem, BLOB_MEM_OP(BLOB_DEV_UNMAP));
		assert_int_equal(blob_env_delete(&env, all), 0);
		assert_int_equal(blob_env_info(&env).free_clusters, n);
		blob_env_submit(c, &io, BLOB_WRITE, 0, 1, buf);
		blob_env_begin(&env, &larger, grow_thick, small);
		blob_env_linger(&env, 50);
		assert_false(atomic_load(&io.done) || atomic_load(&larger.done));
		blob_mem_hold(mem, 0);
		assert_int_equal(blob_env_finish(&io), 0);
		assert_int_equal(blob_env_end(&env, &larger), 0);
		blob_env_idle(&env);
		assert_int_equal(free_clusters(), n - 601);
		blob_env_begin(&env, &little, make_thick, &too_much);
		assert_int_equal(blob_env_end(&env, &little), -ENOSPC);
		blob_env_close(c);
		stop();
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bits_keep_what_is_set),
		cmocka_unit_test(takes_every_cluster_once),
		cmocka_unit_test(keeps_streams_together),
		cmocka_unit_test(threads_share_what_there_is),
		cmocka_unit_test(clears_a_few_at_once),
		cmocka_unit_test(clearing_may_fail),
		cmocka_unit_test(waits_for_what_comes),
		cmocka_unit_test(says_once_that_space_is_low),
		cmocka_unit_test(pages_come_back_lowest_first),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
