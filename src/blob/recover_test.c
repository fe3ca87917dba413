/* SPDX-License-Identifier: BSD-3-Clause */
/* What a power cut left of snapshots that were being made or merged, by SPDK or here; and what recovery itself leaves when
 * it is cut. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blob/harness_image.h"
#include "blob/internal.h"
#include "testkit/blob_env.h"

#define CLUSTERS 64u

static struct blob_env env;
static struct blob_mem *mem;
static struct image im;

static void
start(bool readonly)
{
	memset(&env, 0, sizeof(env));
	blob_env_start(&env, REACTOR_POLL, false);
	mem = blob_mem_create(&(struct blob_mem_options){
		.bytes = CLUSTERS * IMAGE_CLUSTER_BYTES, .write_cache = true, .readonly = readonly});
	image_create(&im, mem, CLUSTERS, 32);
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
	blob_mem_free(mem);
	blob_env_stop(&env);
}

static struct blob *
blob_at(uint32_t page)
{
	return blob_env_find(&env, BLOB_ID_BASE + page);
}

static uint64_t
used(void)
{
	return CLUSTERS - image_first_data(&im) - blob_env_info(&env).free_clusters;
}

static const uint32_t map_s[4] = {30, 31, 32, 0};

/* Snapshot 1 with extent page 2; original 3: `parent` 0: none, and the map it had (extent page 2, too, or none). */
static void
put_snapshot_under_way(const char *mark, uint32_t parent, bool has_map)
{
	image_extents(&im, 2, 3, 0, map_s, 4);
	image_blob(&im, 1, 4, (uint32_t[]){2}, mark, 3, NULL, 0);
	image_blob(&im, 3, 4, (uint32_t[]){has_map ? 2 : 0}, parent != 0 ? "SNAP" : NULL, parent, NULL, 0);
}

/* What the disk says of the recovered store: the same again. */
static void
load_again(bool clean)
{
	struct blob_store_info before = blob_env_info(&env), after;

	if (clean) {
		assert_int_equal(blob_env_unload(&env), 0);
	} else {
		assert_int_equal(blob_env_abandon(&env), 0);
	}
	load();
	after = blob_env_info(&env);
	assert_int_equal(after.blobs, before.blobs);
	assert_int_equal(after.damaged, 0);
	assert_int_equal(after.free_clusters, before.free_clusters);
	assert_int_equal(after.free_md_pages, before.free_md_pages);
}

static void
snapshot_that_was_not_committed_goes(void **state)
{
	start(false);
	put_snapshot_under_way("SNAPTMP", 0, true);
	load();
	assert_null(blob_at(1));
	assert_int_equal(blob_env_allocated(&env, blob_at(3)), 3);
	assert_int_equal(used(), 3);
	assert_int_equal(blob_env_info(&env).free_md_pages, 32 - 1 - 2);
	image_read_page(&im, 1);
	for (unsigned i = 0; i < BLOB_PAGE_BYTES; i++) {
		assert_int_equal(im.page[i], 0);
	}
	load_again(false);
	load_again(true);
	assert_null(blob_at(1));
	stop();
}

static void
snapshot_that_was_committed_stays(void **state)
{
	start(false);
	put_snapshot_under_way("SNAPTMP", 1, false);
	load();
	assert_non_null(blob_at(1));
	assert_ptr_equal(blob_parent(blob_at(3)), blob_at(1));
	assert_true(blob_readonly(blob_at(1)) && blob_is_snapshot(blob_at(1)));
	assert_null(own_xattr_find(&blob_at(1)->xattrs, true, "SNAPTMP"));
	assert_int_equal(used(), 3);
	load_again(false);
	assert_null(own_xattr_find(&blob_at(1)->xattrs, true, "SNAPTMP"));
	load_again(true);
	stop();
}

/* SPDK wrote some of the snapshot's clusters into the clone's extent page, in place, and not yet the clone's chain. */
static void
merge_that_was_not_committed_is_taken_back(void **state)
{
	start(false);
	image_extents(&im, 2, 1, 0, map_s, 4);
	image_blob(&im, 1, 4, (uint32_t[]){2}, "SNAPRM", 3, NULL, 0);
	image_extents(&im, 4, 3, 0, (uint32_t[]){30, 31, 40, 41}, 4);
	image_blob(&im, 3, 4, (uint32_t[]){4}, "SNAP", 1, NULL, 0);
	load();
	assert_int_equal(blob_env_info(&env).damaged, 0);
	assert_int_equal(blob_env_allocated(&env, blob_at(1)), 3);
	assert_int_equal(blob_env_allocated(&env, blob_at(3)), 2);
	assert_int_equal(used(), 5);
	load_again(false);
	load_again(true);
	assert_int_equal(blob_env_allocated(&env, blob_at(3)), 2);
	stop();
}

static void
merge_that_was_committed_is_finished(void **state)
{
	start(false);
	image_extents(&im, 2, 1, 0, map_s, 4);
	image_blob(&im, 1, 4, (uint32_t[]){2}, "SNAPRM", 3, NULL, 0);
	image_extents(&im, 4, 3, 0, (uint32_t[]){30, 31, 40, 41}, 4); /* cluster 32 is nobody's any more */
	image_blob(&im, 3, 4, (uint32_t[]){4}, NULL, 0, NULL, 0);
	load();
	assert_null(blob_at(1));
	assert_int_equal(blob_env_allocated(&env, blob_at(3)), 4);
	assert_int_equal(used(), 4);
	load_again(false);
	load_again(true);
	stop();
}

static void
what_cannot_be_decided_is_left_alone(void **state)
{
	start(false);
	put_snapshot_under_way("SNAPTMP", 1, false);
	image_read_page(&im, 3);
	im.page[3000] ^= 1;
	image_write_page(&im, 3);
	image_blob(&im, 10, 4, (uint32_t[]){0}, "SNAPRM", 20, NULL, 0); /* the other is not there */
	load();
	assert_true(blob_damaged(blob_at(1)) && blob_damaged(blob_at(3)));
	assert_false(blob_damaged(blob_at(10)));
	assert_true(blob_readonly(blob_at(10)));
	assert_int_equal(used(), 3);
	stop();
}

/* A group of two of which the first has been made a clone. */
static void
put_group(void)
{
	uint64_t pairs[4] = {BLOB_ID_BASE + 3, BLOB_ID_BASE + 1, BLOB_ID_BASE + 7, BLOB_ID_BASE + 5};

	put_snapshot_under_way("SNAPTMP", 1, false);
	image_begin(&im);
	image_flags(&im, BLOB_INVALID_THIN | BLOB_INVALID_EXTENT_TABLE | BLOB_INVALID_INTERNAL_XATTR, 0, 0);
	image_id(&im, "SNAPTMP", 3);
	assert_true(blob_put_xattr(&im.w, true, BLOB_XATTR_GROUP, strlen(BLOB_XATTR_GROUP), pairs, sizeof(pairs)));
	blob_put_extent_table(&im.w, 4, &(struct blob_run){2, 1}, 1);
	image_end(&im, 1, 1, 0, BLOB_PAGE_NONE);
	image_extents(&im, 6, 7, 0, (uint32_t[]){40, 41}, 2);
	image_blob(&im, 5, 2, (uint32_t[]){6}, "SNAPTMP", 7, NULL, 0);
	image_blob(&im, 7, 2, (uint32_t[]){6}, NULL, 0, NULL, 0);
}

static void
check_group(void)
{
	assert_int_equal(blob_env_info(&env).damaged, 0);
	assert_ptr_equal(blob_parent(blob_at(3)), blob_at(1));
	assert_ptr_equal(blob_parent(blob_at(7)), blob_at(5));
	assert_int_equal(blob_env_allocated(&env, blob_at(5)), 2);
	assert_int_equal(blob_env_allocated(&env, blob_at(7)), 0);
	assert_true(blob_readonly(blob_at(1)) && blob_readonly(blob_at(5)));
	assert_null(own_xattr_find(&blob_at(1)->xattrs, true, BLOB_XATTR_GROUP));
	assert_int_equal(used(), 5);
}

static void
group_is_carried_out(void **state)
{
	start(false);
	put_group();
	load();
	check_group();
	load_again(false);
	check_group();
	load_again(true);
	check_group();
	stop();
}

/* Power goes at each change that recovery makes, and what was not flushed is lost in different ways. */
static void
recovery_may_be_cut(void **state)
{
	for (unsigned cut = 1; cut < 40; cut++) {
		struct powercut_rule rule;
		struct blob_mem *left;
		bool was_cut;

		start(false);
		put_group();
		image_extents(&im, 11, 10, 0, (uint32_t[]){50, 51}, 2);
		image_blob(&im, 10, 2, (uint32_t[]){11}, "SNAPTMP", 12, NULL, 0);
		image_blob(&im, 12, 2, (uint32_t[]){11}, NULL, 0, NULL, 0);
		image_extents(&im, 14, 13, 0, (uint32_t[]){52, 53}, 2);
		image_blob(&im, 13, 2, (uint32_t[]){14}, "SNAPRM", 15, NULL, 0);
		image_extents(&im, 16, 15, 0, (uint32_t[]){52, 54}, 2);
		image_blob(&im, 15, 2, (uint32_t[]){16}, "SNAP", 13, NULL, 0);
		blob_mem_cut_at(mem, cut);
		load();
		was_cut = blob_mem_was_cut(mem);
		rule = blob_mem_rule(7, cut);
		left = blob_mem_survivor(mem, &rule);
		assert_int_equal(blob_env_abandon(&env), 0);
		blob_mem_free(mem);
		mem = left;
		load();
		assert_int_equal(blob_env_info(&env).damaged, 0);
		assert_ptr_equal(blob_parent(blob_at(7)), blob_at(5));
		assert_ptr_equal(blob_parent(blob_at(3)), blob_at(1));
		assert_null(blob_at(10));
		assert_int_equal(blob_env_allocated(&env, blob_at(12)), 2);
		assert_int_equal(blob_env_allocated(&env, blob_at(15)), 1);
		assert_int_equal(used(), 5 + 2 + 3);
		load_again(true);
		stop();
		if (!was_cut) {
			assert_true(cut > 8);
			return;
		}
	}
	fail_msg("recovery has no end");
}

static void
readonly_store_is_decided_in_memory(void **state)
{
	struct blob_mem_stats before;

	start(true);
	put_group();
	before = blob_mem_get_stats(mem);
	load();
	check_group();
	assert_true(blob_env_info(&env).readonly);
	assert_int_equal(blob_env_set_super(&env, BLOB_ID_BASE + 1), -EROFS);
	assert_int_equal(blob_env_unload(&env), 0);
	assert_int_equal(blob_mem_get_stats(mem).changes, before.changes);
	stop();
}

static void
failing_writes_break_the_store(void **state)
{
	start(false);
	put_group();
	blob_mem_set_fault(mem, &(struct blob_mem_fault){.ops = BLOB_MEM_MODIFIES, .after = 1});
	load();
	assert_true(blob_env_info(&env).broken);
	check_group();
	assert_int_equal(blob_env_set_super(&env, BLOB_ID_BASE + 1), -EROFS);
	assert_non_null(strstr(env.err.text, "first metadata page could not be written"));
	assert_int_equal(blob_env_unload(&env), 0);
	blob_mem_set_fault(mem, NULL);
	load();
	check_group();
	stop();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(snapshot_that_was_not_committed_goes),
		cmocka_unit_test(snapshot_that_was_committed_stays),
		cmocka_unit_test(merge_that_was_not_committed_is_taken_back),
		cmocka_unit_test(merge_that_was_committed_is_finished),
		cmocka_unit_test(what_cannot_be_decided_is_left_alone),
		cmocka_unit_test(group_is_carried_out),
		cmocka_unit_test(recovery_may_be_cut),
		cmocka_unit_test(readonly_store_is_decided_in_memory),
		cmocka_unit_test(failing_writes_break_the_store),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
