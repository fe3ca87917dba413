/* SPDX-License-Identifier: BSD-3-Clause */
/* Stores that are loaded: whole ones, and such as no code of ours would write. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blob/harness_image.h"
#include "blob/internal.h"
#include "testkit/blob_env.h"

static struct blob_env env;
static struct blob_mem *mem;
static struct image im;

static void
start(uint64_t clusters, uint32_t md_pages)
{
	memset(&env, 0, sizeof(env));
	blob_env_start(&env, REACTOR_POLL, false);
	mem = blob_mem_create(&(struct blob_mem_options){.bytes = clusters * IMAGE_CLUSTER_BYTES, .write_cache = true});
	image_create(&im, mem, clusters, md_pages);
}

static void
load(void)
{
	int rc = blob_env_load(&env, blob_mem_dev(mem));

	if (rc != 0) {
		fail_msg("%s", env.err.text);
	}
}

/* Ends the store and loads it again, now that it is clean: it must be the same. */
static void
load_clean(void)
{
	struct blob_store_info before = blob_env_info(&env), after;

	assert_int_equal(blob_env_unload(&env), 0);
	load();
	after = blob_env_info(&env);
	assert_false(after.recovered);
	assert_int_equal(after.blobs, before.blobs);
	assert_int_equal(after.damaged, before.damaged);
	assert_int_equal(after.free_clusters, before.free_clusters);
	assert_int_equal(after.free_md_pages, before.free_md_pages);
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

static struct blob *
blob_at(uint32_t page)
{
	return blob_env_find(&env, BLOB_ID_BASE + page);
}

static void
is_damaged(uint32_t page, const char *why)
{
	struct blob *blob = blob_at(page);
	struct err err;

	assert_non_null(blob);
	assert_true(blob_damaged(blob));
	assert_int_equal(blob_open(blob, &err), -EILSEQ);
	if (strstr(err.text, why) == NULL) {
		fail_msg("\"%s\" does not say \"%s\"", err.text, why);
	}
}

static void
is_sound(uint32_t page)
{
	struct blob *blob = blob_at(page);
	struct err err;

	assert_non_null(blob);
	if (blob_open(blob, &err) != 0) {
		fail_msg("%s", err.text);
	}
	blob_close(blob);
}

/* One extent page from `page` on with n clusters from `first` on; the blob in the page before it. */
static void
put_simple(uint32_t page, uint32_t first, uint32_t n, const char *xattr, uint32_t id)
{
	uint32_t clusters[BLOB_EXTENT_CLUSTERS], extent = page + 1;

	for (uint32_t i = 0; i < n; i++) {
		clusters[i] = first + i;
	}
	image_extents(&im, extent, page, 0, clusters, n);
	image_blob(&im, page, n, &extent, xattr, id, NULL, 0);
}

/* ---- Super blocks ---- */

static int
load_status(void)
{
	int rc = blob_env_load(&env, blob_mem_dev(mem));

	assert_true(rc == 0 || blob_mem_closed(mem));
	return rc;
}

static void
refuses_what_is_no_store(void **state)
{
	uint8_t zero[BLOB_PAGE_BYTES] = {0}, page[BLOB_PAGE_BYTES];

	start(64, 32);
	blob_mem_read(mem, 0, page, sizeof(page));
	blob_mem_write(mem, 0, zero, sizeof(zero));
	assert_int_equal(load_status(), -EINVAL);
	page[100] ^= 1;
	blob_mem_write(mem, 0, page, sizeof(page));
	assert_int_equal(load_status(), -EILSEQ);
	im.super.version = 4;
	image_write_super(&im);
	assert_int_equal(load_status(), -ENOTSUP);
	im.super.version = 3;
	im.super.bytes += IMAGE_CLUSTER_BYTES;
	image_write_super(&im);
	assert_int_equal(load_status(), -ENOSPC);
	im.super.bytes -= IMAGE_CLUSTER_BYTES;
	im.super.io_unit_bytes = 512;
	image_write_super(&im);
	strcpy(env.options.type, "LVOLSTORE");
	assert_int_equal(load_status(), -EINVAL);
	env.options.type[0] = '\0';
	assert_int_equal(load_status(), 0);
	stop();
}

static void
knows_old_versions(void **state)
{
	uint32_t first;

	start(64, 32);
	first = image_first_data(&im);
	put_simple(1, first, 3, NULL, 0);
	im.super.version = 2;
	im.super.bytes = 0;
	im.super.io_unit_bytes = 0;
	im.super.md_page_bytes = 0;
	im.super.blobid_mask.length = 0;
	im.super.clean = true; /* without a mask of blob ids that is worth nothing */
	image_write_super(&im);
	load();
	is_sound(1);
	assert_true(blob_env_info(&env).recovered);
	assert_int_equal(blob_env_info(&env).io_unit_bytes, 4096);
	assert_int_equal(blob_env_info(&env).free_clusters, 64 - first - 3);
	assert_int_equal(blob_env_unload(&env), 0);
	load();
	is_sound(1);
	stop();
}

/* ---- Damage ---- */

static void
notes_damage_of_chains(void **state)
{
	uint32_t none = 0;

	start(64, 32);
	/* 1: a loop; 3 and 4: one page in two chains; 6: another's third page; 16: another's second; 8: a page outside; 10:
	 * an empty one; 12: wrong checksum */
	image_begin(&im);
	image_flags(&im, BLOB_INVALID_THIN, 0, 0);
	image_end(&im, 1, 1, 0, 2);
	image_begin(&im);
	image_end(&im, 2, 1, 1, 1);
	for (uint32_t page = 3; page <= 4; page++) {
		image_begin(&im);
		image_flags(&im, BLOB_INVALID_THIN, 0, 0);
		image_end(&im, page, page, 0, 5);
	}
	image_begin(&im);
	image_end(&im, 5, 3, 1, BLOB_PAGE_NONE);
	image_begin(&im);
	image_end(&im, 6, 6, 0, 7);
	image_begin(&im);
	image_end(&im, 7, 6, 2, BLOB_PAGE_NONE);
	image_begin(&im);
	image_end(&im, 8, 8, 0, 32);
	image_begin(&im);
	image_end(&im, 10, 10, 0, 11);
	image_blob(&im, 12, 1, &none, NULL, 0, NULL, 0);
	im.page[1000] ^= 1;
	image_write_page(&im, 12);
	image_begin(&im);
	image_end(&im, 16, 16, 0, 17);
	image_begin(&im);
	image_end(&im, 17, 15, 1, BLOB_PAGE_NONE);
	put_simple(14, 40, 4, NULL, 0);
	load();
	is_damaged(16, "belongs to blob");
	is_damaged(1, "is in a chain already");
	is_sound(3);
	is_damaged(4, "is in a chain already");
	is_damaged(6, "as its page 2");
	is_damaged(8, "outside");
	is_damaged(10, "empty");
	is_damaged(12, "checksum");
	is_damaged(12, "blob 4294967308: ");
	is_sound(14);
	assert_int_equal(blob_env_info(&env).damaged, 7);
	load_clean();
	stop();
}

static void
notes_damage_of_extents(void **state)
{
	uint32_t clusters[4] = {40, 41, 0, 63}, extent;

	start(64, 64);
	image_extents(&im, 2, 1, 0, (uint32_t[]){64}, 1); /* outside the store */
	image_blob(&im, 1, 1, (uint32_t[]){2}, NULL, 0, NULL, 0);
	image_extents(&im, 4, 3, 0, (uint32_t[]){1}, 1); /* metadata */
	image_blob(&im, 3, 1, (uint32_t[]){4}, NULL, 0, NULL, 0);
	image_extents(&im, 6, 5, 512, (uint32_t[]){50}, 1); /* another's place */
	image_blob(&im, 5, 1, (uint32_t[]){6}, NULL, 0, NULL, 0);
	image_begin(&im); /* no extent page */
	image_end(&im, 8, 7, 0, BLOB_PAGE_NONE);
	image_blob(&im, 7, 1, (uint32_t[]){8}, NULL, 0, NULL, 0);
	image_blob(&im, 9, 1, (uint32_t[]){64}, NULL, 0, NULL, 0); /* outside the region */
	image_blob(&im, 10, 1, (uint32_t[]){11}, NULL, 0, NULL, 0); /* empty */
	image_begin(&im); /* a table that is too long */
	image_flags(&im, BLOB_INVALID_THIN | BLOB_INVALID_EXTENT_TABLE, 0, 0);
	blob_put_extent_table(&im.w, 1, &(struct blob_run){0, 2}, 1);
	image_end(&im, 12, 12, 0, BLOB_PAGE_NONE);
	image_begin(&im); /* both kinds */
	image_flags(&im, BLOB_INVALID_THIN | BLOB_INVALID_EXTENT_TABLE, 0, 0);
	blob_put_extent_table(&im.w, 600, &(struct blob_run){0, 2}, 1);
	blob_put_extent_rle(&im.w, (struct blob_run[]){{0, 1u << 20}, {30, 4}}, 2);
	image_end(&im, 13, 13, 0, BLOB_PAGE_NONE);
	image_begin(&im); /* run-length extents outside the store */
	image_flags(&im, BLOB_INVALID_THIN, 0, 0);
	blob_put_extent_rle(&im.w, &(struct blob_run){60, 5}, 1);
	image_end(&im, 14, 14, 0, BLOB_PAGE_NONE);
	extent = 16;
	image_extents(&im, 16, 15, 0, clusters, 4); /* sound; the last page knows the size better than the table */
	image_blob(&im, 15, 3, &extent, NULL, 0, NULL, 0);
	load();
	is_damaged(1, "does not lie in the store");
	is_damaged(3, "does not lie in the store");
	is_damaged(5, "not of those from 0 on");
	is_damaged(7, "no extent page");
	is_damaged(9, "outside");
	is_damaged(10, "empty");
	is_damaged(12, "longer");
	is_damaged(13, "both kinds");
	is_damaged(14, "do not lie in the store");
	is_sound(15);
	assert_int_equal(blob_env_allocated(&env, blob_at(15)), 3);
	assert_int_equal(blob_num_clusters(blob_at(15)), 4);
	stop();
}

static void
notes_what_two_have(void **state)
{
	start(64, 32);
	put_simple(1, 40, 4, NULL, 0);
	put_simple(3, 43, 4, NULL, 0);                              /* cluster 43 */
	put_simple(5, 50, 2, NULL, 0);
	image_blob(&im, 7, 2, (uint32_t[]){6}, NULL, 0, NULL, 0);   /* 5's extent page */
	image_extents(&im, 10, 9, 0, (uint32_t[]){60, 60}, 2);      /* one cluster twice */
	image_blob(&im, 9, 2, (uint32_t[]){10}, NULL, 0, NULL, 0);
	put_simple(11, 30, 4, NULL, 0);
	load();
	is_damaged(1, "is another's, too");
	is_damaged(3, "is another's, too");
	is_damaged(5, "is another's, too");
	is_damaged(7, "is another's, too");
	is_damaged(9, "is another's, too");
	is_sound(11);
	/* All of it stays in use. */
	assert_int_equal(blob_env_info(&env).free_clusters, 64 - image_first_data(&im) - 7 - 2 - 1 - 4);
	load_clean();
	is_damaged(1, "is another's, too");
	stop();
}

static void
keeps_what_may_be_lost(void **state)
{
	uint64_t all;

	start(64, 32);
	put_simple(1, 30, 4, NULL, 0);
	put_simple(3, 40, 4, NULL, 0);
	image_read_page(&im, 3);
	im.page[2000] ^= 1;
	image_write_page(&im, 3); /* nobody knows any more that page 4 is its */
	load();
	is_damaged(3, "checksum");
	is_sound(1);
	all = 64 - image_first_data(&im);
	assert_int_equal(blob_env_info(&env).free_clusters, all - 8);
	stop();

	start(64, 32); /* without damage what nobody has is free */
	put_simple(1, 30, 4, NULL, 0);
	image_extents(&im, 4, 3, 0, (uint32_t[]){40, 41}, 2);
	load();
	assert_int_equal(blob_env_info(&env).free_clusters, all - 4);
	assert_int_equal(blob_env_info(&env).free_md_pages, 32 - 1 - 2);
	stop();
}

/* ---- Flags ---- */

static void
heeds_unknown_flags(void **state)
{
	uint64_t invalid = BLOB_INVALID_THIN | BLOB_INVALID_EXTENT_TABLE;
	struct { uint64_t invalid, data_ro, md_ro; } kinds[] = {
		{invalid | 0x10, 0, 0}, {invalid, 2, 0}, {invalid, 0, 4}, {invalid, 1, 2},
	};

	start(64, 32);
	for (uint32_t i = 0; i < 4; i++) {
		image_begin(&im);
		image_flags(&im, kinds[i].invalid, kinds[i].data_ro, kinds[i].md_ro);
		assert_true(blob_put_xattr(&im.w, false, "name", 4, "kept", 5));
		image_end(&im, i, i, 0, BLOB_PAGE_NONE);
	}
	load();
	is_damaged(0, "volume 'kept': it is of a kind that is not known here");
	is_sound(1);
	assert_true(blob_readonly(blob_at(1)) && blob_at(1)->md_ro);
	assert_true(!blob_readonly(blob_at(2)) && blob_at(2)->md_ro);
	assert_true(blob_readonly(blob_at(3)) && !blob_at(3)->md_ro);
	assert_int_equal(blob_clear_method(blob_at(3)), BLOB_CLEAR_UNMAP);
	stop();
}

/* ---- Families ---- */

static void
notes_impossible_families(void **state)
{
	start(64, 32);
	put_simple(1, 30, 2, "SNAP", 20);  /* does not exist */
	put_simple(3, 32, 2, "SNAP", 3);   /* itself */
	put_simple(5, 34, 2, "SNAP", 7);   /* a circle of three */
	put_simple(7, 36, 2, "SNAP", 9);
	put_simple(9, 38, 2, "SNAP", 5);
	put_simple(11, 40, 2, "SNAP", 9);  /* above the circle */
	put_simple(13, 42, 2, "SNAP", 15); /* sound */
	put_simple(15, 44, 2, NULL, 0);
	load();
	is_damaged(1, "does not exist");
	is_damaged(3, "does not exist");
	is_damaged(5, "its own snapshot");
	is_damaged(7, "its own snapshot");
	is_damaged(9, "its own snapshot");
	is_damaged(11, "is damaged");
	is_sound(13);
	is_sound(15);
	assert_ptr_equal(blob_parent(blob_at(13)), blob_at(15));
	assert_ptr_equal(blob_first_clone(blob_at(15)), blob_at(13));
	load_clean();
	stop();
}

#define DEEP 10000u

static void
loads_deep_chains(void **state)
{
	uint32_t none = 0;

	start(2048, DEEP + 1);
	for (uint32_t i = 0; i < DEEP; i++) { /* the youngest first */
		image_blob(&im, i, 1, &none, i + 1 < DEEP ? "SNAP" : NULL, i + 1, NULL, 0);
	}
	load();
	assert_int_equal(blob_env_info(&env).blobs, DEEP);
	assert_int_equal(blob_env_info(&env).damaged, 0);
	assert_ptr_equal(blob_parent(blob_at(0)), blob_at(1));
	assert_int_equal(blob_env_abandon(&env), 0);
	image_begin(&im); /* the lowest is damaged: all are */
	image_flags(&im, BLOB_INVALID_THIN, 0, 0);
	image_end(&im, DEEP - 1, DEEP - 1, 0, DEEP);
	load();
	assert_int_equal(blob_env_info(&env).damaged, DEEP);
	is_damaged(0, "is damaged");
	stop();
}

/* ---- How it reads ---- */

static void
reads_once_in_large_pieces(void **state)
{
	struct blob_mem_stats before, after;
	uint32_t none = 0;

	start(2048, 4096);
	for (uint32_t i = 0; i < 3000; i++) {
		image_blob(&im, i, 1, &none, NULL, 0, NULL, 0);
	}
	before = blob_mem_get_stats(mem);
	load();
	after = blob_mem_get_stats(mem);
	assert_int_equal(blob_env_info(&env).blobs, 3000);
	assert_true(after.reads - before.reads <= 1 + 16); /* the region is 16 MiB */
	assert_int_equal(after.changes, before.changes);   /* nothing was to be written */
	assert_int_equal(blob_env_unload(&env), 0);
	before = blob_mem_get_stats(mem);
	load();
	after = blob_mem_get_stats(mem);
	assert_true(after.reads - before.reads <= 1 + 3 + 12);
	assert_true(after.read_bytes - before.read_bytes < (13u << 20));
	assert_int_equal(blob_env_unload(&env), 0);
	assert_int_equal(blob_mem_get_stats(mem).changes, after.changes); /* nor at the end of one that nobody changed */
	stop();

	start(2048, 4096); /* small gaps do not make small reads */
	for (uint32_t i = 0; i < 4096; i += 4) {
		image_blob(&im, i, 1, &none, NULL, 0, NULL, 0);
	}
	load();
	assert_int_equal(blob_env_unload(&env), 0);
	before = blob_mem_get_stats(mem);
	load();
	after = blob_mem_get_stats(mem);
	assert_true(after.reads - before.reads <= 1 + 3 + 17);
	assert_int_equal(blob_env_info(&env).blobs, 1024);
	stop();
}

/* The masks of a clean store do not have what its blobs have. */
static void
does_not_trust_masks(void **state)
{
	uint8_t mask[4096];
	uint64_t free_clusters;

	start(64, 32);
	put_simple(1, 30, 4, NULL, 0);
	load();
	free_clusters = blob_env_info(&env).free_clusters;
	assert_int_equal(blob_env_unload(&env), 0);
	for (unsigned i = 0; i < 3; i++) {
		struct blob_region region = i == 0 ? im.super.page_mask : i == 1 ? im.super.cluster_mask : im.super.blobid_mask;
		uint64_t at = (uint64_t)region.start * 4096;
		uint8_t old[4096];

		blob_mem_read(mem, at, old, sizeof(old));
		memcpy(mask, old, sizeof(mask));
		if (i == 2) {
			mask[0] = 7; /* not a mask of blob ids */
		} else {
			memset(mask + BLOB_MASK_HEADER_BYTES, i == 0 ? 0x02 : 0, 1); /* page 1 without its extent page; nothing */
			memset(mask + BLOB_MASK_HEADER_BYTES + 1, 0, 100);
		}
		blob_mem_write(mem, at, mask, sizeof(mask));
		load();
		is_sound(1);
		assert_int_equal(blob_env_info(&env).free_clusters, free_clusters);
		assert_int_equal(blob_env_unload(&env), 0);
		blob_mem_write(mem, at, old, sizeof(old));
	}
	load();
	is_sound(1);
	assert_int_equal(blob_env_info(&env).blobs, 1);
	stop();
}

/* Whatever bytes the region has. */
static void
survives_noise(void **state)
{
	uint64_t seed = 1;

	for (unsigned round = 0; round < 60; round++) {
		start(64, 32);
		put_simple(1, 20, 4, "SNAP", 3);
		put_simple(3, 30, 4, "SNAPTMP", 1);
		put_simple(5, 40, 4, "SNAPRM", 1);
		put_simple(7, 50, 4, "SNAP", 5);
		for (unsigned i = 0; i < 4; i++) { /* descriptors are spoilt, checksums are right */
			uint32_t page = 1 + (uint32_t)(seed >> 33) % 8;
			struct blob_page_writer w = {im.page, BLOB_DESCRIPTOR_BYTES};

			image_read_page(&im, page);
			for (unsigned k = 0; k < 3; k++) {
				seed = seed * 6364136223846793005u + 1442695040888963407u;
				im.page[16 + (seed >> 40) % 90] = (uint8_t)(seed >> 32);
			}
			blob_page_end(&w, BLOB_ID_BASE + (page % 2 == 1 ? page : page - 1), 0, BLOB_PAGE_NONE);
			image_write_page(&im, page);
		}
		load();
		load_clean();
		stop();
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses_what_is_no_store),
		cmocka_unit_test(knows_old_versions),
		cmocka_unit_test(notes_damage_of_chains),
		cmocka_unit_test(notes_damage_of_extents),
		cmocka_unit_test(notes_what_two_have),
		cmocka_unit_test(keeps_what_may_be_lost),
		cmocka_unit_test(heeds_unknown_flags),
		cmocka_unit_test(notes_impossible_families),
		cmocka_unit_test(loads_deep_chains),
		cmocka_unit_test(reads_once_in_large_pieces),
		cmocka_unit_test(does_not_trust_masks),
		cmocka_unit_test(survives_noise),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
