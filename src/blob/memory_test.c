/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory runs out: at each request of memory that an operation makes, once, and from there on. It is answered all the same;
 * either all is as before or it is done, nothing breaks, nothing is lost, and there is a way on when there is memory again.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "blob/harness.h"
#include "testkit/failing_memory.h"

#define DISK_BYTES (UINT64_C(2) << 20)
#define MOST 2000u /* requests of one operation */

struct without {
	const char *name;
	void (*prepare)(struct play *p);
	void (*act)(struct play *p);
};

/* ---- Operations ---- */

static void
prepare(struct play *p)
{
	play_volume(p, "v", 9, true);
	play_write(p, "v", 2, 9);
	play_xattr(p, "v", "old");
	play_volume(p, "w", 5, true);
	play_write(p, "w", 0, 4);
	play_volume(p, "thick", 4, false);
	play_snapshot(p, "v", "s");
	play_write(p, "v", 5, 4);
	play_clone(p, "s", "c");
}

static void
create_thin(struct play *p)
{
	play_volume(p, "n", 9, true);
}

static void
create_thick(struct play *p)
{
	play_volume(p, "n", 9, false);
}

static void
clone(struct play *p)
{
	play_clone(p, "s", "n");
}

static void
snapshot(struct play *p)
{
	play_snapshot(p, "v", "n");
}

static void
group(struct play *p)
{
	static const char *const of[] = {"v", "w"}, *const to[] = {"v1", "w1"};

	play_snapshots(p, of, to, 2);
}

static void
grow_thick(struct play *p)
{
	play_resize(p, "thick", 11);
}

static void
prepare_empty(struct play *p)
{
	prepare(p);
	play_volume(p, "empty", 0, false);
}

/* What no extent is there for yet is allocated beforehand. */
static void
grow_empty(struct play *p)
{
	play_resize(p, "empty", 9);
}

static void
grow_clone(struct play *p)
{
	play_resize(p, "c", 20);
}

static void
shrink(struct play *p)
{
	play_resize(p, "v", 1);
}

static void
xattr(struct play *p)
{
	play_xattr(p, "v", "new");
}

static void
no_xattr(struct play *p)
{
	play_xattr(p, "v", NULL);
}

static void
read_only(struct play *p)
{
	play_read_only(p, "w");
}

static void
delete_volume(struct play *p)
{
	play_delete(p, "w");
}

/* And the merge behind it. */
static void
delete_snapshot(struct play *p)
{
	play_delete(p, "c");
	play_delete(p, "s");
	blob_env_linger(&p->env, 300);
}

static void
inflate(struct play *p)
{
	play_inflate(p, "v");
}

static void
decouple(struct play *p)
{
	play_decouple(p, "c");
}

static void
set_parent(struct play *p)
{
	play_set_parent(p, "c", "r");
}

static void
prepare_parents(struct play *p)
{
	prepare(p);
	play_volume(p, "r", 9, true);
	play_rw(p, "c", BLOB_WRITE, 0, 9 * HARNESS_UNITS);
	play_read_only(p, "r");
}

static void
super_blob(struct play *p)
{
	play_super(p, "v");
}

static void
write_new(struct play *p)
{
	play_write(p, "v", 16, 9);
}

static void
unmap(struct play *p)
{
	play_rw(p, "w", BLOB_UNMAP, 0, 5 * HARNESS_UNITS);
}

static void
grow_store(struct play *p)
{
	play_grow(p, 2 * DISK_BYTES);
}

static const struct without cases[] = {
	{"create a thin one", prepare, create_thin},
	{"create a thick one", prepare, create_thick},
	{"clone", prepare, clone},
	{"snapshot", prepare, snapshot},
	{"snapshot of a group", prepare, group},
	{"grow a thick one", prepare, grow_thick},
	{"grow an empty thick one", prepare_empty, grow_empty},
	{"grow a clone", prepare, grow_clone},
	{"shrink", prepare, shrink},
	{"set an xattr", prepare, xattr},
	{"remove an xattr", prepare, no_xattr},
	{"read-only", prepare, read_only},
	{"delete", prepare, delete_volume},
	{"delete and merge", prepare, delete_snapshot},
	{"inflate", prepare, inflate},
	{"decouple", prepare, decouple},
	{"set parent", prepare_parents, set_parent},
	{"super blob", prepare, super_blob},
	{"write", prepare, write_new},
	{"unmap", prepare, unmap},
	{"grow the store", prepare, grow_store},
};

static void
open_play(struct play *p)
{
	play_open(p, &(struct blob_mem_options){.bytes = DISK_BYTES, .write_cache = true}, false);
	play_create(p);
	p->errors = true;
}

static void
close_play(struct play *p)
{
	play_idle(p);
	play_check_state(p);
	play_check_space(p);
	play_check_data(p, true);
	assert_true(play_unload(p));
	play_check_disk(p);
	assert_true(play_load(p));
	play_check_state(p);
	play_check_data(p, true);
	assert_true(play_unload(p));
	play_close(p);
}

/* How many requests found no memory. */
static unsigned
run_without(const struct without *c, unsigned nth, bool all)
{
	struct play p;
	unsigned failed;

	play_where("%s: request %u%s", c->name, nth, all ? " and all behind it" : "");
	open_play(&p);
	c->prepare(&p);
	play_idle(&p);
	failing_memory_at(nth, all);
	c->act(&p);
	failed = failing_memory_failed();
	failing_memory_at(0, false);
	assert_true(failed > 0 || p.status == 0);
	assert_true(p.status == 0 || p.status == -ENOMEM);
	assert_false(p.over);
	play_volume(&p, "next", 1, true); /* what lacked something goes on with the next change */
	assert_int_equal(p.status, 0);
	close_play(&p);
	return failed;
}

static void
operation(void **state)
{
	const struct without *c = *state;
	unsigned nth;

	for (nth = 1; run_without(c, nth, false) > 0; nth++) {
		if (nth % 3 == 1) {
			run_without(c, nth, true);
		}
		assert_in_range(nth, 1, MOST);
	}
	assert_in_range(nth, 2, MOST);
}

/* ---- Stores ---- */

static bool
create_without(unsigned nth, bool all)
{
	struct play p;
	bool failed;
	int rc;

	play_where("create: request %u%s", nth, all ? " and all behind it" : "");
	play_open(&p, &(struct blob_mem_options){.bytes = DISK_BYTES, .write_cache = true}, false);
	failing_memory_at(nth, all);
	rc = blob_env_create(&p.env, blob_mem_dev(p.mem));
	failed = failing_memory_failed() > 0;
	failing_memory_at(0, false);
	assert_true(rc == 0 || (rc == -ENOMEM && failed));
	if (rc == 0) {
		assert_int_equal(blob_env_unload(&p.env), 0);
	} else {
		assert_true(blob_mem_closed(p.mem));
	}
	p.env.options.overwrite = true;
	play_create(&p);
	prepare(&p);
	close_play(&p);
	return failed;
}

static bool
load_without(unsigned nth, bool all)
{
	struct play p;
	bool failed;
	int rc;

	play_where("load: request %u%s", nth, all ? " and all behind it" : "");
	open_play(&p);
	prepare(&p);
	assert_true(play_unload(&p));
	failing_memory_at(nth, all);
	rc = blob_env_load(&p.env, blob_mem_dev(p.mem));
	failed = failing_memory_failed() > 0;
	failing_memory_at(0, false);
	assert_true(rc == 0 || (rc == -ENOMEM && failed));
	if (rc != 0) {
		assert_true(blob_mem_closed(p.mem));
		assert_true(play_load(&p));
	}
	close_play(&p);
	return failed;
}

static bool
unload_without(unsigned nth, bool all)
{
	struct play p;
	bool failed;
	int rc;

	play_where("unload: request %u%s", nth, all ? " and all behind it" : "");
	open_play(&p);
	prepare(&p);
	play_idle(&p);
	failing_memory_at(nth, all);
	rc = blob_env_unload(&p.env);
	failed = failing_memory_failed() > 0;
	failing_memory_at(0, false);
	assert_true(rc == 0 || (rc == -ENOMEM && failed));
	assert_true(blob_mem_closed(p.mem));
	assert_true(play_load(&p));
	close_play(&p);
	return failed;
}

static bool
leave_without(unsigned nth, bool all)
{
	bool failed = false;

	for (unsigned i = 0; i < 2; i++) {
		struct play p;
		int rc;

		play_where("leave: request %u%s", nth, all ? " and all behind it" : "");
		open_play(&p);
		prepare(&p);
		play_idle(&p);
		failing_memory_at(nth, all);
		rc = i == 0 ? blob_env_abandon(&p.env) : blob_env_destroy(&p.env);
		failed = failing_memory_failed() > 0 || failed;
		failing_memory_at(0, false);
		assert_true(rc == 0 || rc == -ENOMEM);
		assert_true(blob_mem_closed(p.mem));
		play_close(&p);
	}
	return failed;
}

static void
store(void **state)
{
	bool (*without)(unsigned nth, bool all) = (bool (*)(unsigned, bool))*state;
	unsigned nth;

	for (nth = 1; without(nth, false); nth++) {
		without(nth, true);
		assert_in_range(nth, 1, MOST);
	}
}

/* More answers than there are in reserve. */
static unsigned answers;

static void
count(void *ctx, int status, const struct err *err)
{
	assert_int_equal(status, -ENOMEM);
	assert_true(err != NULL && err->code == -ENOMEM && err->text[0] != '\0');
	answers++;
}

static void
ask_often(void *arg)
{
	failing_memory_at(1, true);
	for (unsigned i = 0; i < 100; i++) {
		blob_remove_xattr(arg, "x", count, NULL);
	}
	failing_memory_at(0, false);
	assert_true(answers < 100);
}

static void
many_answers(void **state)
{
	struct play p;

	open_play(&p);
	prepare(&p);
	answers = 0;
	blob_env_call(&p.env, p.env.app, ask_often, play_find(&p, "v"));
	blob_env_linger(&p.env, 100);
	assert_int_equal(answers, 100);
	close_play(&p);
}

#define STORE_TEST(fn) {#fn, store, NULL, NULL, (void *)fn}

int
main(void)
{
	static struct CMUnitTest tests[ARRAY_SIZE(cases)];
	const struct CMUnitTest stores[] = {
		STORE_TEST(create_without),
		STORE_TEST(load_without),
		STORE_TEST(unload_without),
		STORE_TEST(leave_without),
		cmocka_unit_test(many_answers),
	};
	int rc;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		tests[i] = (struct CMUnitTest){cases[i].name, operation, NULL, NULL, (void *)(uintptr_t)&cases[i]};
	}
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	return rc + cmocka_run_group_tests(stores, NULL, NULL);
}
