/* SPDX-License-Identifier: BSD-3-Clause */
/* Blobs come, change and go: what is answered, who is related to whom, and that nothing is lost when the device fails. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "blob/harness.h"

#define DISK_BYTES (UINT64_C(16) << 20)

static void
open_play(struct play *p)
{
	play_open(p, &(struct blob_mem_options){.bytes = DISK_BYTES, .write_cache = true}, false);
	play_create(p);
}

/* All is as the model says, now and after it was loaded again. */
static void
check(struct play *p)
{
	play_idle(p);
	play_check_state(p);
	play_check_space(p);
	play_check_data(p, true);
}

static void
close_play(struct play *p)
{
	check(p);
	assert_true(play_unload(p));
	play_check_disk(p);
	assert_true(play_load(p));
	check(p);
	assert_true(play_unload(p));
	play_close(p);
}

static void
answers(void **state)
{
	struct play p;
	struct blob *blob, *snapshot, *clone;
	struct blob_env *env = &p.env;
	uint8_t large[BLOB_XATTR_BYTES_MAX];

	(void)state;
	open_play(&p);
	memset(large, 7, sizeof(large));
	play_volume(&p, "vol", 6, true);
	blob = play_find(&p, "vol");
	assert_int_equal(blob_env_remove_xattr(env, blob, "none"), -ENOENT);
	assert_string_equal(env->err.text, "volume 'vol' has no xattr none");
	assert_int_equal(blob_env_set_xattr(env, blob, "large", large, sizeof(large)), -EMSGSIZE);
	assert_int_equal(blob_env_set_xattr(env, blob, "large", large, sizeof(large) - 5), 0);
	assert_int_equal(blob_env_remove_xattr(env, blob, "large"), 0);
	assert_int_equal(blob_env_clone(env, blob, &clone), -EINVAL);
	assert_int_equal(blob_env_decouple(env, blob), -EINVAL);
	assert_int_equal(blob_open(blob, NULL), 0);
	assert_int_equal(blob_env_delete(env, blob), -EBUSY);
	assert_string_not_equal(env->err.text, "");
	blob_close(blob);
	play_snapshot(&p, "vol", "snap");
	snapshot = play_find(&p, "snap");
	assert_true(blob_is_snapshot(snapshot) && blob_readonly(snapshot));
	assert_ptr_equal(blob_parent(blob), snapshot);
	assert_ptr_equal(blob_first_clone(snapshot), blob);
	assert_null(blob_next_clone(blob));
	assert_int_equal(blob_env_snapshot(env, snapshot, &clone), -EINVAL);
	assert_int_equal(blob_env_resize(env, snapshot, 9), -EPERM);
	assert_int_equal(blob_open(snapshot, NULL), 0);
	assert_int_equal(blob_env_delete(env, snapshot), -EBUSY);
	blob_close(snapshot);
	assert_int_equal(blob_env_resize(env, blob, UINT64_C(1) << 40), -EINVAL);
	assert_int_equal(blob_env_make(env, &(struct blob_options){.num_clusters = 1 << 20}, &clone), -ENOSPC);
	assert_int_equal(blob_env_make(env, &(struct blob_options){.num_clusters = 4, .thin = true}, &clone), 0);
	assert_int_equal(blob_env_resize(env, clone, 4), 0);
	assert_int_equal(blob_env_set_super(env, blob_id(clone)), 0);
	assert_int_equal(blob_env_delete(env, clone), 0);
	assert_true(blob_store_super(env->store) == BLOB_ID_NONE);
	close_play(&p);
}

/* A step; the rest is left out when it failed. */
#define DO(step) \
	do { \
		if (!(step)) { \
			return; \
		} \
	} while (0)

static void
one_life(struct play *p)
{
	DO(play_volume(p, "a", 700, true));
	DO(play_write(p, "a", 3, 9));
	DO(play_write(p, "a", 600 * HARNESS_UNITS, 3));
	DO(play_volume(p, "b", 8, false));
	DO(play_write(p, "b", 0, 32));
	DO(play_xattr(p, "a", "one"));
	DO(play_snapshot(p, "a", "a1"));
	DO(play_write(p, "a", 4, 2));
	DO(play_snapshot(p, "a", "a2"));
	DO(play_write(p, "a", 601 * HARNESS_UNITS, 4));
	DO(play_snapshot(p, "b", "b1"));
	DO(play_write(p, "b", 5, 2));
	DO(play_clone(p, "a1", "c"));
	DO(play_write(p, "c", 0, 5));
	DO(play_clone(p, "b1", "d"));
	DO(play_resize(p, "a", 640));
	DO(play_resize(p, "a", 650));
	DO(play_resize(p, "b", 12));
	DO(play_xattr(p, "a", NULL));
	DO(play_delete(p, "a2"));
	play_idle(p);
	DO(play_delete(p, "a1"));
	DO(play_delete(p, "c"));
	play_idle(p);
	DO(play_snapshot(p, "a", "a3"));
	DO(play_delete(p, "a"));
	DO(play_read_only(p, "d"));
	DO(play_delete(p, "b1"));
	DO(play_delete(p, "b"));
	play_idle(p);
	DO(play_delete(p, "a3"));
}

/* Groups, merges, storage of one's own. */
static void
another_life(struct play *p)
{
	static const char *const of[] = {"a", "b", "t"}, *const to[] = {"a1", "b1", "t1"};

	DO(play_volume(p, "a", 600, true));
	DO(play_volume(p, "b", 9, false));
	DO(play_volume(p, "t", 9, true));
	DO(play_write(p, "a", 3, 20));
	DO(play_write(p, "a", 520 * HARNESS_UNITS, 9));
	DO(play_write(p, "b", 3, 20));
	DO(play_snapshots(p, of, to, 3));
	DO(play_write(p, "a", 521 * HARNESS_UNITS, 9));
	DO(play_write(p, "b", 5, 6));
	DO(play_clone(p, "a1", "c"));
	DO(play_decouple(p, "c"));
	DO(play_write(p, "c", 9, 4));
	DO(play_set_parent(p, "c", "a1"));
	DO(play_delete(p, "a1"));
	DO(play_delete(p, "c"));
	play_idle(p);
	DO(play_resize(p, "t", 6));
	DO(play_resize(p, "t", 9));
	DO(play_inflate(p, "t"));
	DO(play_delete(p, "t1"));
	DO(play_delete(p, "b1"));
	play_idle(p);
}

static void
life(void **state)
{
	struct play p;

	(void)state;
	open_play(&p);
	one_life(&p);
	close_play(&p);
	open_play(&p);
	another_life(&p);
	close_play(&p);
}

/* A snapshot of many clones, and chains of deleted ones. */
static void
families(void **state)
{
	static const char *const names[] = {"c0", "c1", "c2", "c3", "c4"};
	struct play p;

	(void)state;
	open_play(&p);
	play_volume(&p, "v", 40, true);
	play_write(&p, "v", 0, 100);
	play_snapshot(&p, "v", "s");
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		play_clone(&p, "s", names[i]);
		play_write(&p, names[i], i * 8 + 1, 6);
	}
	play_delete(&p, "s");
	check(&p);
	assert_true(blob_deleted(blob_parent(play_find(&p, "v"))));
	for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
		play_delete(&p, names[i]);
		if (i % 2 == 0) {
			check(&p);
		}
	}
	check(&p);
	assert_null(blob_parent(play_find(&p, "v")));
	for (unsigned i = 0; i < 6; i++) {
		char name[8];

		snprintf(name, sizeof(name), "s%u", i);
		play_snapshot(&p, "v", name);
		play_write(&p, "v", i * 13, 9);
	}
	for (unsigned i = 0; i < 6; i++) {
		char name[8];

		snprintf(name, sizeof(name), "s%u", i * 5 % 6);
		play_delete(&p, name);
	}
	check(&p);
	assert_null(blob_parent(play_find(&p, "v")));
	close_play(&p);
}

/* What was cut off does not come back, be it the blob's own or what lies below. */
static void
cut_and_grown(void **state)
{
	struct play p;

	(void)state;
	open_play(&p);
	play_volume(&p, "v", 1100, true);
	play_write(&p, "v", 1000 * HARNESS_UNITS, 5);
	play_write(&p, "v", 200 * HARNESS_UNITS, 5);
	play_snapshot(&p, "v", "s");
	play_write(&p, "v", 210 * HARNESS_UNITS, 5);
	play_resize(&p, "v", 100);
	play_resize(&p, "v", 1100);
	check(&p);
	play_resize(&p, "v", 100);
	play_snapshot(&p, "v", "t"); /* shorter than what it stands on */
	play_resize(&p, "v", 1100);
	check(&p);
	play_delete(&p, "t");
	check(&p);
	play_delete(&p, "s");
	close_play(&p);
}

/* ---- A thick one grows ---- */

static struct blob *growing;

static void
begin_growth(struct blob_env_op *op, void *arg)
{
	blob_resize(growing, *(uint64_t *)arg, blob_env_done, op);
}

static void
begin_snapshot(struct blob_env_op *op, void *arg)
{
	blob_snapshot(arg, 1, blob_env_done, op);
}

/* Its I/O goes on while the clusters that come are allocated; another change that comes in between is no harm. */
static void
grows_in_use(void **state)
{
	uint64_t clusters = 900;
	uint8_t buf[HARNESS_UNIT_BYTES];
	struct blob_env_channel *c;
	struct blob_snapshot s = {0};
	struct blob_env_op op, other;
	struct blob_env_io io;
	struct play p;

	(void)state;
	for (unsigned i = 0; i < 2; i++) {
		open_play(&p);
		growing = blob_env_volume(&p.env, 10, false);
		EXPECT(blob_env_fill_blob(&p.env, growing, 0, 10 * HARNESS_UNITS, 7) == 0);
		c = blob_env_open(&p.env, 0, growing);
		blob_mem_hold(p.mem, BLOB_MEM_OP(BLOB_DEV_WRITE));
		blob_env_begin(&p.env, &op, begin_growth, &clusters);
		blob_env_linger(&p.env, 100);
		assert_int_equal(blob_mem_held(p.mem), 1);
		blob_env_submit(c, &io, BLOB_READ, 3, 1, buf);
		assert_int_equal(blob_env_finish(&io), 0);
		if (i == 1) {
			s.blob = growing;
			blob_env_begin(&p.env, &other, begin_snapshot, &s);
			blob_env_linger(&p.env, 100);
		}
		blob_mem_hold(p.mem, 0);
		assert_int_equal(blob_env_end(&p.env, &op), 0);
		assert_int_equal(i == 1 ? blob_env_end(&p.env, &other) : 0, 0);
		assert_true(blob_env_holds(c, 0, 10 * HARNESS_UNITS, 7));
		blob_env_close(c);
		assert_int_equal(blob_num_clusters(growing), clusters);
		assert_int_equal(blob_allocated_clusters(growing), i == 1 ? 0 : clusters);
		if (i == 1) {
			assert_int_equal(blob_allocated_clusters(s.snapshot), 10);
			assert_true(blob_env_blob_holds(&p.env, growing, 10 * HARNESS_UNITS, 800 * HARNESS_UNITS, 0));
		}
		play_idle(&p);
		play_check_space(&p);
		assert_true(play_unload(&p));
		play_check_disk(&p);
		play_close(&p);
	}
}

/* A write that is under way has its place in the old map: the new one is made when it has ended. */
static void
resize_waits_for_writes(void **state)
{
	uint64_t clusters = 20;
	uint8_t buf[HARNESS_UNIT_BYTES];
	struct blob_env_channel *c;
	struct blob_env_op op;
	struct blob_env_io io;
	struct play p;

	(void)state;
	open_play(&p);
	growing = blob_env_volume(&p.env, 10, true);
	c = blob_env_open(&p.env, 0, growing);
	blob_env_pattern(buf, sizeof(buf), 3, 1, 7);
	blob_mem_hold(p.mem, BLOB_MEM_OP(BLOB_DEV_WRITE));
	blob_env_submit(c, &io, BLOB_WRITE, 3, 1, buf);
	blob_env_linger(&p.env, 100);
	blob_env_begin(&p.env, &op, begin_growth, &clusters);
	blob_env_linger(&p.env, 100);
	assert_int_equal(blob_mem_held(p.mem), 1); /* the write's */
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_finish(&io), 0);
	assert_int_equal(blob_env_end(&p.env, &op), 0);
	assert_true(blob_env_holds(c, 3, 1, 7));
	blob_env_close(c);
	assert_int_equal(blob_allocated_clusters(growing), 1);
	play_idle(&p);
	play_check_space(&p);
	assert_true(play_unload(&p));
	play_check_disk(&p);
	play_close(&p);
}

/* All or nothing. */
static void
grows_too_much(void **state)
{
	uint64_t clusters = 900;
	struct blob_store_info before, after;
	struct blob_env_op op;
	struct play p;
	char name[16];

	(void)state;
	open_play(&p);
	growing = blob_env_volume(&p.env, 10, false);
	before = blob_env_info(&p.env);
	assert_int_equal(blob_env_resize(&p.env, growing, 2000), -ENOSPC);
	for (unsigned i = 0; blob_env_info(&p.env).free_md_pages > 1; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		play_volume(&p, name, 1, true);
	}
	assert_int_equal(blob_env_resize(&p.env, growing, 900), -ENOSPC);
	after = blob_env_info(&p.env);
	assert_int_equal(before.free_clusters, after.free_clusters);
	assert_int_equal(after.free_md_pages, 1);
	/* The store is left in the middle of it. */
	play_delete(&p, "f0");
	play_delete(&p, "f1");
	play_idle(&p);
	blob_mem_hold(p.mem, BLOB_MEM_OP(BLOB_DEV_WRITE));
	blob_env_begin(&p.env, &op, begin_growth, &clusters);
	blob_env_linger(&p.env, 100);
	assert_false(atomic_load(&op.done));
	blob_mem_hold(p.mem, 0);
	assert_int_equal(blob_env_abandon(&p.env), 0);
	assert_true(atomic_load(&op.done) && (op.status == -ENODEV || op.status == 0));
	play_close(&p);
}

/* Each change of the device fails once, in turn: either all is as before, or the store says that it is broken, and is as it says
 * after it was loaded. */
static void
fails(void (*live)(struct play *p))
{
	uint64_t n;

	for (n = 0; n < 1000; n++) {
		struct blob_mem_fault fault = {.ops = BLOB_MEM_MODIFIES | BLOB_MEM_OP(BLOB_DEV_FLUSH), .after = n, .count = 1};
		struct play p, after;
		bool failed;

		open_play(&p);
		p.errors = true;
		play_where("change %d fails", (int)n);
		blob_mem_set_fault(p.mem, &fault);
		live(&p);
		failed = blob_mem_faults(p.mem) > 0;
		blob_mem_set_fault(p.mem, NULL);
		if (!blob_env_info(&p.env).broken) {
			play_volume(&p, "next", 1, true); /* background work that failed is taken up with the next change */
			play_idle(&p);
			play_check_state(&p);
			play_check_space(&p);
		}
		play_abandon(&p);
		play_resume(&after, &p, NULL);
		play_close(&p);
		assert_true(play_load(&after));
		check(&after);
		assert_true(play_unload(&after));
		play_check_disk(&after);
		play_close(&after);
		if (!failed) {
			break;
		}
	}
	assert_true(n > 50 && n < 1000);
}

static void
device_fails(void **state)
{
	(void)state;
	fails(one_life);
	fails(another_life);
}

/* By its name, where that is one. */
static void
said_of(struct blob_env *env, struct blob *blob, const char *name, size_t bytes, const char *called)
{
	char said[BLOB_CALLED_BYTES + 64];

	assert_int_equal(blob_env_set_xattr(env, blob, "name", name, bytes), 0);
	assert_int_equal(blob_env_remove_xattr(env, blob, "none"), -ENOENT);
	snprintf(said, sizeof(said), "%s has no xattr none", called);
	assert_string_equal(env->err.text, said);
}

static void
called(void **state)
{
	struct blob *blob;
	char number[32], longest[81];
	struct play p;
	struct blob_env *env = &p.env;

	(void)state;
	open_play(&p);
	blob = blob_env_volume(env, 4, true);
	snprintf(number, sizeof(number), "blob %llu", (unsigned long long)blob_id(blob));
	assert_int_equal(blob_env_remove_xattr(env, blob, "none"), -ENOENT);
	assert_non_null(strstr(env->err.text, number));
	said_of(env, blob, "a name", 7, "volume 'a name'"); /* with its zero, as volumes have it */
	said_of(env, blob, "a name", 3, "volume 'a n'");
	said_of(env, blob, "", 0, number);
	said_of(env, blob, "\0name", 5, number);
	said_of(env, blob, "two\nlines", 9, number);
	memset(longest, 'n', sizeof(longest));
	said_of(env, blob, longest, 81, number);
	assert_int_equal(blob_env_set_super(env, blob_id(blob)), 0);
	said_of(env, blob, "store", 6, "the store's own blob"); /* that name is the store's */
	assert_int_equal(blob_env_unload(env), 0);
	play_close(&p);
}

/* A blob with run-length extents, as old stores have them, in a family. */
static void
run_length(void **state)
{
	const struct blob_options options = {.num_clusters = 600, .thin = true, .extent_rle = true};
	struct blob *blob, *snapshot, *clone;
	struct play p;
	struct blob_env *env = &p.env;

	(void)state;
	open_play(&p);
	assert_int_equal(blob_env_make(env, &options, &blob), 0);
	assert_int_equal(blob_env_fill_blob(env, blob, 2, 40, 1), 0);
	assert_int_equal(blob_env_fill_blob(env, blob, 550 * HARNESS_UNITS, 9, 2), 0);
	assert_int_equal(blob_env_snapshot(env, blob, &snapshot), 0);
	assert_int_equal(blob_env_clone(env, snapshot, &clone), 0);
	assert_int_equal(blob_env_fill_blob(env, blob, 8, 4, 3), 0);
	assert_int_equal(blob_env_fill_blob(env, clone, 12, 4, 4), 0);
	assert_int_equal(blob_env_resize(env, blob, 700), 0);
	assert_int_equal(blob_env_delete(env, snapshot), 0);
	assert_int_equal(blob_env_delete(env, clone), 0);
	blob_env_idle(env);
	assert_null(blob_parent(blob));
	for (unsigned i = 0; i < 2; i++) {
		uint64_t id = blob_id(blob);

		assert_true(blob_env_blob_holds(env, blob, 2, 6, 1));
		assert_true(blob_env_blob_holds(env, blob, 8, 4, 3));
		assert_true(blob_env_blob_holds(env, blob, 12, 30, 1));
		assert_true(blob_env_blob_holds(env, blob, 550 * HARNESS_UNITS, 9, 2));
		play_check_space(&p);
		assert_int_equal(blob_env_unload(env), 0);
		play_check_disk(&p);
		assert_true(play_load(&p));
		blob = blob_env_find(env, id);
	}
	assert_int_equal(blob_env_make(env, &(struct blob_options){.num_clusters = 50, .extent_rle = true}, &clone), 0);
	assert_int_equal(blob_env_resize(env, clone, 60), 0);
	assert_int_equal(blob_allocated_clusters(clone), 60);
	assert_int_equal(blob_env_resize(env, clone, 10), 0);
	assert_int_equal(blob_env_delete(env, blob), 0);
	blob_env_idle(env);
	play_check_space(&p);
	assert_int_equal(blob_env_unload(env), 0);
	play_check_disk(&p);
	play_close(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(answers),
		cmocka_unit_test(life),
		cmocka_unit_test(families),
		cmocka_unit_test(cut_and_grown),
		cmocka_unit_test(grows_in_use),
		cmocka_unit_test(resize_waits_for_writes),
		cmocka_unit_test(grows_too_much),
		cmocka_unit_test(device_fails),
		cmocka_unit_test(called),
		cmocka_unit_test(run_length),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
