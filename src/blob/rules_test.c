/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rules that only show when something comes at one moment: requests that are held, devices that fail and cuts of power make
 * the moment.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blob/harness.h"
#include "blob/internal.h"

#define DISK_BYTES (UINT64_C(16) << 20)
#define MIB (UINT64_C(1) << 20)

static struct play p;
static struct blob_env *const env = &p.env;

static void
open_play(void)
{
	play_open(&p, &(struct blob_mem_options){.bytes = DISK_BYTES, .write_cache = true, .unmap_fills = true}, false);
	play_create(&p);
}

static void
close_play(void)
{
	play_idle(&p);
	play_check_space(&p);
	assert_true(play_unload(&p));
	play_check_disk(&p);
	play_close(&p);
}

/* ---- Sizes ---- */

static struct blob *resized;
static uint64_t new_size;

static void
begin_resize(struct blob_env_op *op, void *arg)
{
	(void)arg;
	blob_resize(resized, new_size, blob_env_done, op);
}

/*
 * A read looks at the size, then at the map; were the map another in between, it would find what lies below the blob where the
 * blob had its own. So no read is under way when that happens, and those that come wait.
 */
static void
resize_waits_for_reads(void **state)
{
	uint8_t buf[HARNESS_UNIT_BYTES], late[HARNESS_UNIT_BYTES];
	struct blob_env_channel *c;
	struct blob_env_op op;
	struct blob_env_io io, second, beyond;

	(void)state;
	open_play();
	resized = blob_env_volume(env, 10, true);
	new_size = 4;
	assert_int_equal(blob_env_fill_blob(env, resized, 0, 10 * HARNESS_UNITS, 7), 0);
	c = blob_env_open(env, 0, resized);
	blob_mem_hold(p.mem, BLOB_MEM_OP(BLOB_DEV_READ));
	blob_env_submit(c, &io, BLOB_READ, 30, 1, buf);
	blob_env_begin(env, &op, begin_resize, NULL);
	blob_env_submit(c, &second, BLOB_READ, 1, 1, late);
	blob_env_submit(c, &beyond, BLOB_READ, 31, 1, late);
	blob_env_linger(env, 200);
	assert_int_equal(blob_mem_held(p.mem), 1); /* the first one's */
	assert_false(atomic_load(&op.done));
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_finish(&io), 0);
	assert_int_equal(blob_env_end(env, &op), 0);
	assert_int_equal(blob_env_finish(&second), 0);
	assert_int_equal(blob_env_finish(&beyond), -EINVAL);
	blob_env_close(c);
	assert_int_equal(blob_num_clusters(resized), 4);
	close_play();
}

static void
begin_snapshot(struct blob_env_op *op, void *arg)
{
	blob_snapshot(arg, 1, blob_env_done, op);
}

/* A gate for writes that comes to one for everything leaves it closed. */
static void
gates_add_up(void **state)
{
	uint8_t buf[2][HARNESS_UNIT_BYTES];
	struct blob_snapshot s = {0};
	struct blob_env_channel *c;
	struct blob_env_op op, other;
	struct blob_env_io io[2];

	(void)state;
	open_play();
	s.blob = resized = blob_env_volume(env, 10, true);
	new_size = 4;
	assert_int_equal(blob_env_fill_blob(env, resized, 0, 10 * HARNESS_UNITS, 7), 0);
	c = blob_env_open(env, 0, resized);
	blob_mem_hold(p.mem, BLOB_MEM_OP(BLOB_DEV_READ));
	blob_env_submit(c, &io[0], BLOB_READ, 30, 1, buf[0]);
	blob_env_begin(env, &op, begin_resize, NULL);
	blob_env_linger(env, 100);
	blob_env_begin(env, &other, begin_snapshot, &s);
	blob_env_submit(c, &io[1], BLOB_READ, 1, 1, buf[1]);
	blob_env_linger(env, 100);
	assert_int_equal(blob_mem_held(p.mem), 1);
	blob_mem_hold(p.mem, 0);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(blob_env_finish(&io[i]), 0);
	}
	assert_int_equal(blob_env_end(env, &op), 0);
	assert_int_equal(blob_env_end(env, &other), 0);
	blob_env_close(c);
	assert_int_equal(blob_num_clusters(s.snapshot), blob_num_clusters(resized));
	close_play();
}

/* Nobody knows what of it the volume would get to see. */
static void
grows_only_with_its_external_snapshot(void **state)
{
	const struct blob_options options = {.num_clusters = 4, .external_id = "away", .external_id_bytes = 4};
	struct blob *blob;

	(void)state;
	open_play();
	assert_int_equal(blob_env_make(env, &options, &blob), 0);
	assert_int_equal(blob_env_resize(env, blob, 9), -ENODEV);
	assert_int_equal(blob_num_clusters(blob), 4);
	assert_int_equal(blob_env_resize(env, blob, 3), 0);
	close_play();
}

/* Zeroes of clusters that hide what is below are there before the metadata that names them, however that is written. */
static void
zeroes_come_first(void **state)
{
	unsigned cuts = 0;
	bool was_cut = true;

	(void)state;
	for (unsigned k = 1; was_cut; k++) {
		for (unsigned n = 0; n < 8; n++) {
			const struct blob_options options = {.num_clusters = 10, .thin = true, .extent_rle = n % 2 == 0};
			struct powercut_rule rule = blob_mem_rule(k, n);
			struct blob *blob, *junk;
			uint64_t id;
			struct play after;

			open_play();
			junk = blob_env_volume(env, 40, true);
			assert_int_equal(blob_env_fill_blob(env, junk, 0, 40 * HARNESS_UNITS, 9), 0);
			assert_int_equal(blob_env_delete(env, junk), 0);
			assert_int_equal(blob_env_make(env, &options, &blob), 0);
			assert_int_equal(blob_env_fill_blob(env, blob, 0, 10 * HARNESS_UNITS, 1), 0);
			assert_int_equal(blob_env_snapshot(env, blob, &junk), 0);
			assert_int_equal(blob_env_resize(env, blob, 4), 0);
			play_idle(&p);
			id = blob_id(blob);
			blob_mem_cut_at(p.mem, k);
			blob_env_resize(env, blob, 10);
			was_cut = blob_mem_was_cut(p.mem);
			cuts += was_cut;
			play_abandon(&p);
			play_resume(&after, &p, &rule);
			play_close(&p);
			assert_true(play_load(&after));
			blob = blob_env_find(&after.env, id);
			assert_non_null(blob);
			assert_true(blob_env_blob_holds(&after.env, blob, 0, 4 * HARNESS_UNITS, 1));
			if (blob_num_clusters(blob) == 10) {
				assert_true(blob_env_blob_holds(&after.env, blob, 4 * HARNESS_UNITS, 6 * HARNESS_UNITS, 0));
			}
			play_abandon(&after);
			play_close(&after);
		}
	}
	assert_true(cuts > 3);
}

/* ---- Deletions ---- */

static void
begin_delete(struct blob_env_op *op, void *arg)
{
	blob_delete(arg, NULL, 0, blob_env_done, op);
}

static void
begin_create(struct blob_env_op *op, void *arg)
{
	(void)arg;
	blob_create(env->store, &(struct blob_options){.num_clusters = 2, .thin = true}, blob_env_made, op);
}

/* What is opened before the deletion has its turn stays. */
static void
deleted_while_it_is_opened(void **state)
{
	struct blob_env_op ops[2];
	struct blob *blob;

	(void)state;
	open_play();
	blob = blob_env_volume(env, 2, true);
	blob_mem_hold(p.mem, BLOB_MEM_OP(BLOB_DEV_WRITE));
	blob_env_begin(env, &ops[0], begin_create, NULL);
	blob_env_begin(env, &ops[1], begin_delete, blob);
	assert_int_equal(blob_open(blob, NULL), 0);
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_end(env, &ops[0]), 0);
	assert_int_equal(blob_env_end(env, &ops[1]), -EBUSY);
	assert_int_equal(blob_env_info(env).blobs, 2);
	blob_close(blob);
	assert_int_equal(blob_env_delete(env, blob), 0);
	close_play();
}

/* ---- Inflating ---- */

static void
begin_inflate(struct blob_env_op *op, void *arg)
{
	op->work.done = blob_env_done;
	op->work.ctx = op;
	blob_inflate(arg, &op->work);
}

/* What is given back while the last cluster comes is allocated again: a thick blob has no holes. */
static void
inflated_for_good(void **state)
{
	struct blob_env_channel *c;
	struct blob_env_op op;
	struct blob_env_io io;
	struct blob *blob;

	(void)state;
	open_play();
	blob = blob_env_volume(env, 2, true);
	assert_int_equal(blob_env_fill_blob(env, blob, 0, HARNESS_UNITS, 1), 0);
	c = blob_env_open(env, 0, blob);
	blob_mem_hold(p.mem, BLOB_MEM_MODIFIES);
	blob_env_begin(env, &op, begin_inflate, blob);
	blob_env_linger(env, 100);
	assert_int_equal(blob_mem_held(p.mem), 1);
	blob_env_submit(c, &io, BLOB_UNMAP, 0, HARNESS_UNITS, NULL);
	blob_env_linger(env, 100);
	assert_int_equal(blob_mem_held(p.mem), 2);
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_finish(&io), 0);
	assert_int_equal(blob_env_end(env, &op), 0);
	blob_env_close(c);
	assert_false(blob_thin(blob));
	assert_int_equal(blob_allocated_clusters(blob), 2);
	assert_true(blob_env_blob_holds(env, blob, 0, 2 * HARNESS_UNITS, 0));
	close_play();
}

/* ---- Given back ---- */

struct parents {
	struct blob *blob, *parent;
};

static void
begin_set_parent(struct blob_env_op *op, void *arg)
{
	const struct parents *a = arg;

	blob_set_parent(a->blob, a->parent, blob_env_done, op);
}

/* Zeroes that were to be holes are zeroes, though the blob has got a parent before the holes were made. */
static void
not_given_back_above_a_parent(void **state)
{
	struct parents a;
	struct blob_env_channel *c;
	struct blob_env_op op;
	struct blob_env_io io;

	(void)state;
	open_play();
	a.blob = blob_env_volume(env, 2, true);
	a.parent = blob_env_volume(env, 2, true);
	assert_int_equal(blob_env_fill_blob(env, a.blob, 0, 2 * HARNESS_UNITS, 1), 0);
	assert_int_equal(blob_env_fill_blob(env, a.parent, 0, 2 * HARNESS_UNITS, 1), 0);
	assert_int_equal(blob_env_set_read_only(env, a.parent), 0);
	c = blob_env_open(env, 0, a.blob);
	blob_mem_hold(p.mem, BLOB_MEM_OP(BLOB_DEV_WRITE));
	blob_env_begin(env, &op, begin_set_parent, &a);
	blob_env_linger(env, 100);
	assert_int_equal(blob_mem_held(p.mem), 1);
	blob_env_submit(c, &io, BLOB_WRITE_ZEROES, 0, HARNESS_UNITS, NULL);
	blob_env_linger(env, 100);
	assert_false(atomic_load(&io.done));
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_end(env, &op), 0);
	assert_int_equal(blob_env_finish(&io), 0);
	assert_true(blob_parent(a.blob) == a.parent);
	assert_true(blob_env_holds(c, 0, HARNESS_UNITS, 0));
	assert_true(blob_env_holds(c, HARNESS_UNITS, HARNESS_UNITS, 1));
	blob_env_close(c);
	close_play();
}

/* A cluster that a write is just getting is not among those that are given back. */
static void
given_back_beside_a_write(void **state)
{
	uint8_t buf[HARNESS_UNIT_BYTES];
	struct blob_env_channel *c;
	struct blob_env_io write, unmap;
	struct blob *blob;

	(void)state;
	open_play();
	blob = blob_env_volume(env, 4, true);
	assert_int_equal(blob_env_fill_blob(env, blob, 0, HARNESS_UNITS, 1), 0);
	c = blob_env_open(env, 0, blob);
	blob_env_pattern(buf, HARNESS_UNIT_BYTES, HARNESS_UNITS, 1, 2);
	blob_mem_hold(p.mem, BLOB_MEM_MODIFIES);
	blob_env_submit(c, &write, BLOB_WRITE, HARNESS_UNITS, 1, buf);
	blob_env_linger(env, 100);
	blob_env_submit(c, &unmap, BLOB_UNMAP, 0, 2 * HARNESS_UNITS, NULL);
	blob_env_linger(env, 100);
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_finish(&write), 0);
	assert_int_equal(blob_env_finish(&unmap), 0);
	blob_env_close(c);
	assert_int_equal(blob_allocated_clusters(blob), 1);
	assert_true(blob_env_blob_holds(env, blob, 0, HARNESS_UNITS, 0));
	assert_true(blob_env_blob_holds(env, blob, HARNESS_UNITS, 1, 2));
	close_play();
}

/* ---- Snapshots that come to nothing ---- */

/* Its first page may be on the disk: it is gone before others get what it speaks of. */
static void
failed_snapshot_leaves_nothing(void **state)
{
	struct blob *v, *s, *other;
	uint64_t id;

	(void)state;
	open_play();
	v = blob_env_volume(env, 20, true);
	assert_int_equal(blob_env_fill_blob(env, v, 0, 20 * HARNESS_UNITS, 1), 0);
	blob_mem_set_fault(p.mem, &(struct blob_mem_fault){.ops = BLOB_MEM_OP(BLOB_DEV_FLUSH), .count = 1});
	assert_int_equal(blob_env_snapshot(env, v, &s), -EIO);
	assert_int_equal(blob_mem_faults(p.mem), 1);
	blob_mem_set_fault(p.mem, NULL);
	assert_false(blob_env_info(env).broken);
	assert_int_equal(blob_env_delete(env, v), 0);
	play_idle(&p);
	env->store->next_page = 100; /* not where the snapshot was */
	other = blob_env_volume(env, 20, false);
	assert_int_equal(blob_env_fill_blob(env, other, 0, 20 * HARNESS_UNITS, 2), 0);
	id = blob_id(other);
	play_abandon(&p);
	assert_true(play_load(&p));
	assert_int_equal(blob_env_info(env).blobs, 1);
	assert_int_equal(blob_env_info(env).damaged, 0);
	other = blob_env_find(env, id);
	assert_true(blob_env_blob_holds(env, other, 0, 20 * HARNESS_UNITS, 2));
	close_play();
}

/* ---- Masks ---- */

#define MASK_PAGES 33500u /* more than one page of a mask speaks of */

/* Two blobs, one of which the second page of the mask of blobs has; that mask is damaged, though the store is clean. */
static void
damage_mask(void)
{
	uint8_t page[BLOB_PAGE_BYTES], zeroes[BLOB_PAGE_BYTES] = {0};
	struct blob_super super;

	play_open(&p, &(struct blob_mem_options){.bytes = 256 * MIB, .write_cache = true}, false);
	env->options.cluster_bytes = 65536;
	env->options.md_pages = MASK_PAGES;
	assert_int_equal(blob_env_create(env, blob_mem_dev(p.mem)), 0);
	blob_env_volume(env, 2, true);
	env->store->next_page = MASK_PAGES - 100;
	blob_env_volume(env, 2, true);
	assert_int_equal(blob_env_unload(env), 0);
	blob_mem_read(p.mem, 0, page, sizeof(page));
	assert_int_equal(blob_super_decode(page, &super, NULL), 0);
	assert_true(super.clean && super.blobid_mask.length == 2);
	blob_mem_write(p.mem, (uint64_t)super.blobid_mask.start * BLOB_PAGE_BYTES, (uint8_t[]){0xff}, 1);
	blob_mem_write(p.mem, (super.blobid_mask.start + 1) * (uint64_t)BLOB_PAGE_BYTES, zeroes, sizeof(zeroes));
}

/* The masks of a store that says it is clean are written anew by the unload: when the power goes meanwhile, they do not count. */
static void
unload_says_unclean_before_masks(void **state)
{
	struct blob_mem *disk, *left;

	(void)state;
	damage_mask();
	disk = p.mem;
	for (unsigned k = 1; k <= 8; k++) {
		for (unsigned n = 0; n < 8; n++) {
			struct powercut_rule rule = blob_mem_rule(k, 3 + 4 * n);
			struct blob_mem *mem = blob_mem_survivor(disk, NULL);

			assert_int_equal(blob_env_load(env, blob_mem_dev(mem)), 0);
			assert_true(blob_env_info(env).recovered);
			blob_mem_cut_at(mem, k);
			blob_env_unload(env);
			left = blob_mem_survivor(mem, &rule);
			blob_mem_free(mem);
			assert_int_equal(blob_env_load(env, blob_mem_dev(left)), 0);
			assert_int_equal(blob_env_info(env).blobs, 2);
			assert_int_equal(blob_env_abandon(env), 0);
			blob_mem_free(left);
		}
	}
	/* Without a cut they are mended, though nothing else has changed. */
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(blob_env_load(env, blob_mem_dev(disk)), 0);
		assert_int_equal(blob_env_info(env).recovered, i == 0);
		assert_int_equal(blob_env_info(env).blobs, 2);
		assert_int_equal(blob_env_unload(env), 0);
	}
	play_close(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(resize_waits_for_reads),
		cmocka_unit_test(gates_add_up),
		cmocka_unit_test(grows_only_with_its_external_snapshot),
		cmocka_unit_test(zeroes_come_first),
		cmocka_unit_test(deleted_while_it_is_opened),
		cmocka_unit_test(inflated_for_good),
		cmocka_unit_test(not_given_back_above_a_parent),
		cmocka_unit_test(given_back_beside_a_write),
		cmocka_unit_test(failed_snapshot_leaves_nothing),
		cmocka_unit_test(unload_says_unclean_before_masks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
