/* SPDX-License-Identifier: BSD-3-Clause */
/* Making, growing and ending stores; the queue of changes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blob/internal.h"
#include "testkit/blob_env.h"

#define CLUSTER_BYTES 65536u
#define MIB (UINT64_C(1) << 20)

static struct blob_env env;
static struct blob_mem *mem;
static const enum reactor_mode modes[] = {REACTOR_POLL, REACTOR_INTERRUPT, REACTOR_ADAPTIVE};

static void
start(enum reactor_mode mode, const struct blob_mem_options *options)
{
	memset(&env, 0, sizeof(env));
	blob_env_start(&env, mode, false);
	mem = blob_mem_create(options);
}

static void
create(void)
{
	if (blob_env_create(&env, blob_mem_dev(mem)) != 0) {
		fail_msg("%s", env.err.text);
	}
}

static void
load(void)
{
	if (blob_env_load(&env, blob_mem_dev(mem)) != 0) {
		fail_msg("%s", env.err.text);
	}
}

static void
stop(void)
{
	if (env.store != NULL) {
		assert_int_equal(blob_env_unload(&env), 0);
	}
	assert_true(blob_mem_closed(mem));
	blob_mem_free(mem);
	blob_env_stop(&env);
}

/* ---- Making ---- */

static void
makes_stores_of_all_sizes(void **state)
{
	static const struct {
		uint64_t bytes;
		uint32_t cluster_bytes, md_pages, block_size;
		int status;
	} kinds[] = {
		{131072, 0, 0, 512, -ENOSPC}, {MIB, 0, 0, 512, 0}, {2 * MIB, 0, 0, 512, 0}, {64 * MIB, 0, 0, 512, 0},
		{64 * MIB, 4096, 0, 4096, 0},
		{UINT64_C(20) << 30, 0, 0, 512, 0}, {UINT64_C(1) << 40, 0, 0, 4096, 0}, {UINT64_C(64) << 40, 4u << 20, 0, 512, 0},
		{64 * MIB, MIB, 64, 512, 0}, {64 * MIB, 3 * 65536, 100, 512, 0}, {64 * MIB, 65535, 0, 512, -EINVAL},
		{64 * MIB, 65536, 100000, 512, -ENOSPC}, {1024, 0, 0, 512, -ENOSPC},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct blob_store_info a, b;

		start(REACTOR_POLL, &(struct blob_mem_options){
			.bytes = kinds[i].bytes, .block_size = kinds[i].block_size, .unmap_fills = true, .write_cache = true});
		env.options.cluster_bytes = kinds[i].cluster_bytes;
		env.options.md_pages = kinds[i].md_pages;
		assert_int_equal(blob_env_create(&env, blob_mem_dev(mem)), kinds[i].status);
		if (kinds[i].status == 0) {
			a = blob_env_info(&env);
			assert_int_equal(a.blobs, 0);
			assert_int_equal(a.free_clusters, a.total_data_clusters);
			assert_true(kinds[i].md_pages != 0 ||
				    a.total_data_clusters >= a.total_clusters - a.total_clusters / 32 - 2);
			assert_int_equal(a.free_md_pages, a.md_pages - 1);
			assert_int_equal(blob_env_unload(&env), 0);
			load();
			b = blob_env_info(&env);
			assert_memory_equal(&a, &b, sizeof(a));
		}
		stop();
	}
}

static void
leaves_a_store_that_is_there(void **state)
{
	struct blob *blob;
	uint64_t id;

	start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB});
	create();
	blob = blob_env_volume(&env, 4, true);
	id = blob_id(blob);
	assert_int_equal(blob_env_unload(&env), 0);
	assert_int_equal(blob_env_create(&env, blob_mem_dev(mem)), -EEXIST);
	assert_true(blob_mem_closed(mem));
	load();
	assert_non_null(blob_env_find(&env, id));
	assert_int_equal(blob_env_unload(&env), 0);
	env.options.overwrite = true;
	create();
	assert_null(blob_env_find(&env, id));
	assert_int_equal(blob_env_set_super(&env, BLOB_ID_NONE), 0); /* not clean any more */
	assert_int_equal(blob_env_abandon(&env), 0);
	load();
	assert_true(blob_env_info(&env).recovered);
	assert_int_equal(blob_env_info(&env).blobs, 0);
	stop();
}

/* Overwriting is cut at each change: the old store, none, or the new one; never something else. */
static void
making_may_be_cut(void **state)
{
	unsigned olds = 0, nones = 0, news = 0;

	for (unsigned n = 0; n < 400; n++) {
		unsigned cut = n / 4 + 1;
		struct powercut_rule rule = blob_mem_rule(3, n);
		struct blob_mem *left;
		bool was_cut;
		int rc;

		start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB, .write_cache = true, .unmap_fills = true});
		create();
		blob_env_volume(&env, 4, false);
		assert_int_equal(blob_env_unload(&env), 0);
		env.options.overwrite = true;
		blob_mem_cut_at(mem, cut);
		rc = blob_env_create(&env, blob_mem_dev(mem));
		was_cut = blob_mem_was_cut(mem);
		assert_true(rc == 0 || was_cut);
		if (rc == 0) {
			assert_int_equal(blob_env_abandon(&env), 0);
		}
		left = blob_mem_survivor(mem, &rule);
		blob_mem_free(mem);
		mem = left;
		rc = blob_env_load(&env, blob_mem_dev(mem));
		assert_true(rc == 0 || rc == -EINVAL);
		nones += rc != 0;
		if (rc == 0) {
			struct blob_store_info info = blob_env_info(&env);

			assert_int_equal(info.damaged, 0);
			assert_int_equal(info.free_clusters, info.total_data_clusters - (info.blobs == 0 ? 0 : 4));
			olds += info.blobs == 1;
			news += info.blobs == 0;
		}
		stop();
		if (!was_cut) {
			assert_true(olds > 0 && nones > 0 && news > 0);
			return;
		}
	}
	fail_msg("it has no end");
}

/* ---- Growing ---- */

static void
grows(void **state)
{
	struct blob_store_info before, after;
	struct blob_super super;
	uint8_t page[BLOB_PAGE_BYTES];
	struct blob *blob;
	uint64_t id;

	start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB, .write_cache = true});
	create();
	blob = blob_env_volume(&env, 8, true);
	id = blob_id(blob);
	assert_int_equal(blob_env_fill_blob(&env, blob, 0, 16, 1), 0);
	assert_int_equal(blob_env_grow(&env), -ENOSPC);
	before = blob_env_info(&env);
	assert_int_equal(blob_env_unload(&env), 0);
	load();
	blob_mem_resize(mem, 64 * MIB);
	assert_int_equal(blob_env_grow(&env), 0);
	blob_mem_read(mem, 0, page, sizeof(page));
	assert_int_equal(blob_super_decode(page, &super, NULL), 0);
	assert_false(super.clean); /* its masks are too short */
	after = blob_env_info(&env);
	assert_int_equal(after.total_clusters, 64 * MIB / CLUSTER_BYTES);
	assert_int_equal(after.free_clusters - before.free_clusters, 56 * MIB / CLUSTER_BYTES);
	blob_env_volume(&env, after.free_clusters, false);
	assert_int_equal(blob_env_info(&env).free_clusters, 0);
	assert_int_equal(blob_env_abandon(&env), 0);
	load(); /* not clean */
	assert_int_equal(blob_env_info(&env).total_clusters, after.total_clusters);
	assert_int_equal(blob_env_info(&env).free_clusters, 0);
	assert_true(blob_env_blob_holds(&env, blob_env_find(&env, id), 0, 16, 1));
	assert_int_equal(blob_env_unload(&env), 0);
	load();
	assert_int_equal(blob_env_info(&env).free_clusters, 0);
	assert_false(blob_env_info(&env).recovered);
	stop();
}

static void
growing_may_be_cut(void **state)
{
	bool old = false, grown = false;

	for (unsigned cut = 1; cut < 30; cut++) {
		struct powercut_rule rule = blob_mem_rule(5, cut);
		struct blob_mem *left;
		struct blob_store_info info;
		bool was_cut;

		start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB, .write_cache = true});
		create();
		blob_env_volume(&env, 8, false);
		if (cut % 2 == 0) { /* clean, or not */
			assert_int_equal(blob_env_unload(&env), 0);
			load();
		}
		blob_mem_resize(mem, 16 * MIB);
		blob_mem_cut_at(mem, cut);
		(void)blob_env_grow(&env);
		(void)blob_env_unload(&env);
		was_cut = blob_mem_was_cut(mem);
		left = blob_mem_survivor(mem, &rule);
		blob_mem_free(mem);
		mem = left;
		load();
		info = blob_env_info(&env);
		assert_int_equal(info.damaged, 0);
		assert_int_equal(info.blobs, 1);
		assert_int_equal(info.free_clusters, info.total_data_clusters - 8);
		old = old || info.total_clusters == 8 * MIB / CLUSTER_BYTES;
		grown = grown || info.total_clusters == 16 * MIB / CLUSTER_BYTES;
		stop();
		if (!was_cut) {
			assert_true(old && grown);
			return;
		}
	}
	fail_msg("it has no end");
}

/* ---- Ending ---- */

static void
stays_while_a_blob_is_open(void **state)
{
	struct blob *blob;

	start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB});
	create();
	blob = blob_env_volume(&env, 4, true);
	assert_int_equal(blob_open(blob, NULL), 0);
	assert_int_equal(blob_env_unload(&env), -EBUSY);
	assert_non_null(env.store);
	assert_int_equal(blob_env_set_xattr(&env, blob, "name", "x", 1), 0); /* it goes on */
	blob_close(blob);
	stop();
}

static void
destroys(void **state)
{
	start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB});
	create();
	blob_env_volume(&env, 4, false);
	assert_int_equal(blob_env_destroy(&env), 0);
	assert_true(blob_mem_closed(mem));
	assert_int_equal(blob_env_load(&env, blob_mem_dev(mem)), -EINVAL);
	stop();
}

/* What is in volumes that are not to be cleared stays on the device. */
static void
destroying_clears_what_may_be_cleared(void **state)
{
	struct blob_options options = {.num_clusters = 6, .thin = true, .clear = BLOB_CLEAR_NONE};
	uint8_t *disk = malloc(8 * MIB);
	unsigned kept = 0, left = 0;
	struct blob *none, *other;

	assert_non_null(disk);
	start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB, .unmap_fills = true});
	env.options.cluster_bytes = CLUSTER_BYTES;
	create();
	other = blob_env_volume(&env, 6, true);
	assert_int_equal(blob_env_make(&env, &options, &none), 0);
	for (uint64_t i = 0; i < 6; i++) { /* they take turns on the device */
		uint64_t units = CLUSTER_BYTES / env.store->super.io_unit_bytes;

		assert_int_equal(blob_env_fill_blob(&env, none, i * units, units, 1), 0);
		assert_int_equal(blob_env_fill_blob(&env, other, i * units, units, 2), 0);
	}
	for (unsigned i = 0; i < 6; i++) {
		blob_mem_write(mem, (uint64_t)blob_map_entry(&none->head, i) * CLUSTER_BYTES, "keep", 4);
		blob_mem_write(mem, (uint64_t)blob_map_entry(&other->head, i) * CLUSTER_BYTES, "gone", 4);
	}
	assert_int_equal(blob_env_destroy(&env), 0);
	blob_mem_read(mem, 0, disk, 8 * MIB);
	for (unsigned i = 0; i < 8 * MIB / CLUSTER_BYTES; i++) {
		kept += memcmp(disk + i * CLUSTER_BYTES, "keep", 4) == 0;
		left += memcmp(disk + i * CLUSTER_BYTES, "gone", 4) == 0;
	}
	assert_int_equal(kept, 6);
	assert_int_equal(left, 0);
	free(disk);
	stop();
}

static void
unload_says_what_it_could_not_write(void **state)
{
	start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB});
	create();
	blob_env_volume(&env, 4, false);
	blob_mem_set_fault(mem, &(struct blob_mem_fault){.ops = BLOB_MEM_MODIFIES});
	assert_int_equal(blob_env_unload(&env), -EIO);
	assert_null(env.store);
	assert_true(blob_mem_closed(mem));
	blob_mem_set_fault(mem, NULL);
	load();
	assert_true(blob_env_info(&env).recovered);
	assert_int_equal(blob_env_info(&env).blobs, 1);
	stop();
}

/* The super block says unclean by then, though no change came of it. */
static void
unload_after_a_flush_that_failed(void **state)
{
	start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB, .write_cache = true});
	create();
	blob_env_volume(&env, 4, true);
	assert_int_equal(blob_env_unload(&env), 0);
	for (unsigned i = 0; i < 2; i++) {
		load();
		assert_false(blob_env_info(&env).recovered);
		blob_mem_set_fault(mem, &(struct blob_mem_fault){.ops = BLOB_MEM_OP(BLOB_DEV_FLUSH), .count = i == 0});
		assert_int_equal(blob_env_set_xattr(&env, blob_first(env.store), "name", "x", 1), -EIO);
		assert_int_equal(blob_env_unload(&env), i == 0 ? 0 : -EIO);
		blob_mem_set_fault(mem, NULL);
	}
	load();
	assert_true(blob_env_info(&env).recovered);
	stop();
}

/* ---- The queue ---- */

static void
remembers_its_super_blob(void **state)
{
	struct blob *blob;
	uint64_t id;

	start(REACTOR_POLL, &(struct blob_mem_options){.bytes = 8 * MIB, .write_cache = true});
	create();
	assert_true(blob_store_super(env.store) == BLOB_ID_NONE);
	assert_int_equal(blob_env_set_super(&env, BLOB_ID_BASE + 9), -ENOENT);
	blob = blob_env_volume(&env, 4, true);
	id = blob_id(blob);
	assert_int_equal(blob_env_set_super(&env, id), 0);
	assert_int_equal(blob_env_abandon(&env), 0);
	load();
	assert_true(blob_store_super(env.store) == id);
	stop();
}

struct queued {
	struct md_op op;
	char name;
};

static char ran[32];
static unsigned num_ran;
static atomic_bool all_ran;

static void
queued_run(struct md_op *op)
{
	struct queued *q = CONTAINER_OF(op, struct queued, op);

	ran[num_ran++] = q->name;
	md_op_end(op);
}

static void
on_idle(void *ctx)
{
	all_ran = true;
}

static void
queue_ops(void *arg)
{
	static struct idle_waiter waiter;
	static struct queued ops[6] = {{.name = 'a'}, {.name = 'b'}, {.name = 'c'}, {.name = '1'}, {.name = '2'}, {.name = '3'}};

	for (unsigned i = 0; i < 3; i++) {
		md_op_start(env.store, &ops[i].op, "test", queued_run);
	}
	for (unsigned i = 3; i < 6; i++) {
		md_op_start_first(env.store, &ops[i].op, "test", queued_run);
	}
	assert_int_equal(num_ran, 0); /* not from inside */
	store_when_idle(env.store, &waiter, on_idle, NULL);
}

static void
commits_and_operations_take_turns(void **state)
{
	for (unsigned m = 0; m < 3; m++) {
		start(modes[m], &(struct blob_mem_options){.bytes = 8 * MIB});
		create();
		memset(ran, 0, sizeof(ran));
		num_ran = 0;
		all_ran = false;
		blob_env_call(&env, env.app, queue_ops, NULL);
		blob_env_wait(&env, &all_ran);
		assert_string_equal(ran, "1a2b3c");
		stop();
	}
}

static void
create_many(struct blob_env_op *op, void *arg)
{
	blob_create(env.store, &(struct blob_options){.num_clusters = 2, .thin = true}, blob_env_made, op);
}

/* What was asked for before is carried out; then the store is gone. */
static void
ends_after_what_was_asked_for(void **state)
{
	for (unsigned m = 0; m < 3; m++) {
		struct blob_env_op ops[20];

		start(modes[m], &(struct blob_mem_options){.bytes = 8 * MIB, .write_cache = true});
		env.options.md_pages = 64;
		create();
		for (unsigned i = 0; i < 20; i++) {
			blob_env_begin(&env, &ops[i], create_many, NULL);
		}
		assert_int_equal(blob_env_unload(&env), 0);
		for (unsigned i = 0; i < 20; i++) {
			assert_int_equal(blob_env_end(&env, &ops[i]), 0);
		}
		load();
		assert_int_equal(blob_env_info(&env).blobs, 20);
		assert_false(blob_env_info(&env).recovered);
		stop();
	}
}

static void
abandoned_store_answers_all(void **state)
{
	for (unsigned m = 0; m < 3; m++) {
		struct blob_env_op ops[20];
		unsigned refused = 0;

		start(modes[m], &(struct blob_mem_options){.bytes = 8 * MIB, .write_cache = true});
		env.options.md_pages = 64;
		create();
		for (unsigned i = 0; i < 20; i++) {
			blob_env_begin(&env, &ops[i], create_many, NULL);
		}
		assert_int_equal(blob_env_abandon(&env), 0);
		for (unsigned i = 0; i < 20; i++) {
			int rc = blob_env_end(&env, &ops[i]);

			assert_true(rc == 0 || rc == -ENODEV);
			refused += rc != 0;
		}
		assert_true(refused > 0);
		stop();
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(makes_stores_of_all_sizes),
		cmocka_unit_test(leaves_a_store_that_is_there),
		cmocka_unit_test(making_may_be_cut),
		cmocka_unit_test(grows),
		cmocka_unit_test(growing_may_be_cut),
		cmocka_unit_test(stays_while_a_blob_is_open),
		cmocka_unit_test(destroys),
		cmocka_unit_test(destroying_clears_what_may_be_cleared),
		cmocka_unit_test(unload_says_what_it_could_not_write),
		cmocka_unit_test(unload_after_a_flush_that_failed),
		cmocka_unit_test(remembers_its_super_blob),
		cmocka_unit_test(commits_and_operations_take_turns),
		cmocka_unit_test(ends_after_what_was_asked_for),
		cmocka_unit_test(abandoned_store_answers_all),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
