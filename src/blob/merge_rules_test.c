/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Merges that others come between: writes, snapshots, sizes, inflating, the deletion of the clone. What the merge has prepared
 * is held on its way to the disk; what comes meanwhile has its turn before the merge ends, and that sees it.
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

static void
kick(void *arg)
{
	merge_kick(arg);
}

/* s, which v stands on, is deleted; v is said to be busy, and the merge waits for that. */
static void
delete_below(struct blob *v, struct blob *s)
{
	play_idle(&p);
	v->busy = true;
	assert_int_equal(blob_env_delete(env, s), 0);
	play_idle(&p);
	v->busy = false;
	blob_mem_hold(p.mem, BLOB_MEM_OP(BLOB_DEV_WRITE));
}

/* The merge has prepared what it needs, and that is held. */
static void
start_merge(void)
{
	blob_env_call(env, env->app, kick, env->store);
	blob_env_linger(env, 100);
	assert_int_equal(blob_mem_held(p.mem), 1);
}

/* v on s, which is being merged. */
static struct blob *
hold_merge(void)
{
	struct blob *v, *s;

	open_play();
	v = blob_env_volume(env, 100, true);
	assert_int_equal(blob_env_fill_blob(env, v, 0, 3, 1), 0);
	assert_int_equal(blob_env_snapshot(env, v, &s), 0);
	assert_int_equal(blob_env_fill_blob(env, v, 40, 3, 2), 0);
	delete_below(v, s);
	start_merge();
	return v;
}

static void
is_as_before(struct blob *v)
{
	assert_true(blob_env_blob_holds(env, v, 0, 3, 1));
	assert_true(blob_env_blob_holds(env, v, 3, 37, 0));
	assert_true(blob_env_blob_holds(env, v, 40, 3, 2));
}

/* What was prepared is not what it must be when a write has got a cluster of the same extent meanwhile. */
static void
merge_sees_writes(void **state)
{
	struct blob *v = hold_merge();
	uint8_t buf[3 * HARNESS_UNIT_BYTES];
	struct blob_env_channel *c = blob_env_open(env, 0, v);
	uint64_t id = blob_id(v);
	struct blob_env_io io;

	(void)state;
	blob_env_pattern(buf, HARNESS_UNIT_BYTES, 80, 3, 5);
	blob_env_submit(c, &io, BLOB_WRITE, 80, 3, buf);
	blob_env_linger(env, 100);
	assert_int_equal(blob_mem_held(p.mem), 2);
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_finish(&io), 0);
	blob_env_close(c);
	play_idle(&p);
	assert_null(blob_parent(v));
	for (unsigned i = 0; i < 2; i++) {
		is_as_before(v);
		assert_true(blob_env_blob_holds(env, v, 80, 3, 5));
		assert_int_equal(blob_allocated_clusters(v), 3);
		play_check_space(&p);
		assert_int_equal(blob_env_unload(env), 0);
		assert_true(play_load(&p));
		v = blob_env_find(env, id);
	}
	close_play();
}

static void
begin_snapshot(struct blob_env_op *op, void *arg)
{
	blob_snapshot(arg, 1, blob_env_done, op);
}

/* Nor when the clone it was prepared for is another's clone by now. */
static void
merge_sees_snapshots(void **state)
{
	struct blob *v = hold_merge();
	struct blob_snapshot t = {.blob = v};
	uint64_t id = blob_id(v);
	struct blob_env_op op;

	(void)state;
	blob_env_begin(env, &op, begin_snapshot, &t);
	blob_env_linger(env, 100);
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_end(env, &op), 0);
	play_idle(&p);
	assert_true(blob_parent(v) == t.snapshot);
	assert_null(blob_parent(t.snapshot));
	assert_int_equal(blob_env_info(env).blobs, 2);
	for (unsigned i = 0; i < 2; i++) {
		is_as_before(v);
		assert_int_equal(blob_allocated_clusters(v), 0);
		play_check_space(&p);
		assert_int_equal(blob_env_unload(env), 0);
		assert_true(play_load(&p));
		v = blob_env_find(env, id);
	}
	close_play();
}

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

/* A clone is deleted when the merge has closed its gate, and others' operations are between: it does not go before the gate is
 * open again. */
static void
deleted_behind_its_gate(void **state)
{
	struct blob *v = hold_merge();
	struct blob_env_op ops[2];

	(void)state;
	blob_env_begin(env, &ops[0], begin_delete, v);
	blob_env_begin(env, &ops[1], begin_create, NULL);
	for (unsigned i = 0; i < 20; i++) {
		blob_env_linger(env, 100);
		blob_mem_let_go(p.mem, 0);
	}
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_end(env, &ops[0]), 0);
	assert_int_equal(blob_env_end(env, &ops[1]), 0);
	play_idle(&p);
	assert_int_equal(blob_env_info(env).blobs, 1);
	close_play();
}

static void
begin_inflate(struct blob_env_op *op, void *arg)
{
	op->work.done = blob_env_done;
	op->work.ctx = op;
	blob_inflate(arg, &op->work);
}

static struct blob *
load_again(struct blob *blob)
{
	uint64_t id = blob_id(blob);

	play_check_space(&p);
	assert_int_equal(blob_env_unload(env), 0);
	assert_true(play_load(&p));
	return blob_env_find(env, id);
}

/* A clone that has come to stand alone does not get what was below the snapshot. */
static void
merge_sees_inflating(void **state)
{
	struct blob *v, *s0, *s;
	struct blob_env_op op;

	(void)state;
	open_play();
	v = blob_env_volume(env, 4, true);
	assert_int_equal(blob_env_fill_blob(env, v, 0, 4 * HARNESS_UNITS, 1), 0);
	assert_int_equal(blob_env_snapshot(env, v, &s0), 0);
	assert_int_equal(blob_env_fill_blob(env, v, 0, 3, 2), 0);
	assert_int_equal(blob_env_snapshot(env, v, &s), 0);
	assert_int_equal(blob_env_fill_blob(env, v, 0, 4 * HARNESS_UNITS, 3), 0);
	delete_below(v, s);
	start_merge();
	blob_env_begin(env, &op, begin_inflate, v); /* there is nothing missing: its turn is the next */
	blob_env_linger(env, 100);
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_end(env, &op), 0);
	play_idle(&p);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(blob_env_info(env).blobs, 2);
		assert_null(blob_parent(v));
		assert_false(blob_thin(v));
		assert_true(blob_env_blob_holds(env, v, 0, 4 * HARNESS_UNITS, 3));
		v = load_again(v);
	}
	close_play();
}

struct resized {
	struct blob *blob;
	uint64_t num_clusters;
};

/* Its gate is closed when the merge's operation comes, and its own turn is the one behind that. */
static void
begin_resize_and_merge(struct blob_env_op *op, void *arg)
{
	const struct resized *r = arg;

	blob_resize(r->blob, r->num_clusters, blob_env_done, op);
	merge_kick(env->store);
}

static void
resize_in_merge(struct blob *v, struct blob *s, uint64_t num_clusters)
{
	struct resized r = {v, num_clusters};
	struct blob_env_op op;

	delete_below(v, s);
	blob_env_begin(env, &op, begin_resize_and_merge, &r);
	blob_env_linger(env, 100);
	assert_int_equal(blob_mem_held(p.mem), 1);
	assert_false(atomic_load(&op.done));
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_end(env, &op), 0);
	play_idle(&p);
	assert_int_equal(blob_num_clusters(v), num_clusters);
}

/* What was prepared for extents that the clone has no more is given back, and so are the snapshot's clusters there. */
static void
merge_sees_shrinking(void **state)
{
	const uint64_t far = UINT64_C(550) * HARNESS_UNITS;
	struct blob *v, *s;

	(void)state;
	open_play();
	v = blob_env_volume(env, 600, true);
	assert_int_equal(blob_env_fill_blob(env, v, 0, 3, 1), 0);
	assert_int_equal(blob_env_fill_blob(env, v, far, 3, 1), 0);
	assert_int_equal(blob_env_snapshot(env, v, &s), 0);
	assert_int_equal(blob_env_fill_blob(env, v, 40, 3, 2), 0);
	assert_int_equal(blob_env_fill_blob(env, v, far + 40, 3, 2), 0);
	resize_in_merge(v, s, 100);
	for (unsigned i = 0; i < 2; i++) {
		is_as_before(v);
		assert_int_equal(blob_allocated_clusters(v), 2);
		v = load_again(v);
	}
	close_play();
}

/* What lies below the snapshot, beyond its end, is not what the clone reads where it has become larger. */
static void
merge_sees_growing(void **state)
{
	const uint64_t far = UINT64_C(150) * HARNESS_UNITS;
	struct blob *v, *s0, *s;

	(void)state;
	open_play();
	v = blob_env_volume(env, 200, true);
	assert_int_equal(blob_env_fill_blob(env, v, far, 3, 7), 0);
	assert_int_equal(blob_env_snapshot(env, v, &s0), 0);
	assert_int_equal(blob_env_resize(env, v, 100), 0);
	assert_int_equal(blob_env_fill_blob(env, v, 0, 3, 1), 0);
	assert_int_equal(blob_env_snapshot(env, v, &s), 0);
	assert_int_equal(blob_env_fill_blob(env, v, 40, 3, 2), 0);
	resize_in_merge(v, s, 200);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(blob_env_info(env).blobs, 2);
		is_as_before(v);
		assert_true(blob_env_blob_holds(env, v, far, 3, 0));
		v = load_again(v);
	}
	close_play();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(merge_sees_writes),
		cmocka_unit_test(merge_sees_snapshots),
		cmocka_unit_test(merge_sees_inflating),
		cmocka_unit_test(merge_sees_shrinking),
		cmocka_unit_test(merge_sees_growing),
		cmocka_unit_test(deleted_behind_its_gate),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
