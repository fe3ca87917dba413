/* SPDX-License-Identifier: BSD-3-Clause */
/* Snapshots, merges, inflate and decouple: what they cost the device, what happens when others come in between, when something
 * is short, and among writes of several threads. */
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

static void
open_play(struct play *p, bool real_threads)
{
	play_open(p, &(struct blob_mem_options){.bytes = DISK_BYTES, .write_cache = true}, real_threads);
	play_create(p);
}

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

/* ---- What an operation costs ---- */

struct cost {
	uint64_t writes, flushes;
};

static struct blob_mem_stats before;

static void
cost_begin(struct play *p)
{
	play_idle(p);
	before = blob_mem_get_stats(p->mem);
}

static void
cost_is(struct play *p, uint64_t writes, uint64_t flushes)
{
	struct blob_mem_stats now;

	play_idle(p);
	now = blob_mem_get_stats(p->mem);
	assert_int_equal(now.writes - before.writes, writes);
	assert_int_equal(now.flushes - before.flushes, flushes);
}

static void
costs(void **state)
{
	static const char *const of[] = {"a", "b"}, *const to[] = {"a2", "b2"};
	struct play p;

	(void)state;
	open_play(&p, false);
	assert_true(play_unload(&p));
	assert_true(play_load(&p));
	cost_begin(&p);
	play_volume(&p, "first", 10, true); /* and the super block before it */
	cost_is(&p, 2, 2);
	cost_begin(&p);
	play_volume(&p, "a", 700, true);
	cost_is(&p, 1, 1);
	cost_begin(&p);
	play_volume(&p, "b", 4, false); /* an extent page */
	cost_is(&p, 2, 2);
	cost_begin(&p);
	play_snapshot(&p, "a", "a1"); /* snapshot, original, the mark */
	cost_is(&p, 3, 3);
	cost_begin(&p);
	play_clone(&p, "a1", "c");
	cost_is(&p, 1, 1);
	cost_begin(&p);
	play_delete(&p, "c");
	cost_is(&p, 1, 1);
	cost_begin(&p);
	play_xattr(&p, "a", "value");
	cost_is(&p, 1, 1);
	cost_begin(&p);
	play_snapshots(&p, of, to, 2); /* one snapshot, the other with the intent, two originals together or not, marks */
	play_idle(&p);
	assert_true(blob_mem_get_stats(p.mem).flushes - before.flushes == 4);
	close_play(&p);
}

/* ---- Chains of many pages ---- */

static void
large(void **state)
{
	struct play p;
	struct blob *blob;
	char value[900];

	(void)state;
	memset(value, 'v', sizeof(value));
	open_play(&p, false);
	play_volume(&p, "v", 20, true);
	blob = play_find(&p, "v");
	for (unsigned i = 0; i < 12; i++) {
		char name[8];

		snprintf(name, sizeof(name), "x%u", i);
		assert_int_equal(blob_env_set_xattr(&p.env, blob, name, value, sizeof(value)), 0);
	}
	assert_true(blob->num_pages > 2);
	play_write(&p, "v", 0, 30);
	play_snapshot(&p, "v", "s");
	play_write(&p, "v", 5, 30);
	check(&p);
	assert_true(play_unload(&p));
	assert_true(play_load(&p));
	check(&p);
	blob = play_find(&p, "v");
	for (unsigned i = 0; i < 12; i++) {
		const char *found;
		char name[8];
		size_t bytes;

		snprintf(name, sizeof(name), "x%u", i);
		found = blob_get_xattr(blob, name, &bytes);
		assert_true(found != NULL && bytes == sizeof(value) && memcmp(found, value, bytes) == 0);
		assert_int_equal(blob_env_remove_xattr(&p.env, blob, name), 0);
	}
	assert_int_equal(blob->num_pages, 1);
	play_delete(&p, "s");
	close_play(&p);
}

static void
too_large(void **state)
{
	struct blob_xattr xattr = {.name = "x", .value = NULL, .bytes = 1600};
	struct blob_snapshot one = {.xattrs = &xattr, .num_xattrs = 1};
	struct blob_snapshot twice[2];
	struct play p;

	(void)state;
	xattr.value = calloc(1, xattr.bytes);
	open_play(&p, false);
	play_volume(&p, "v", 20, true);
	one.blob = play_find(&p, "v");
	assert_int_equal(blob_env_snapshots(&p.env, &one, 1), -EMSGSIZE);
	twice[0] = twice[1] = (struct blob_snapshot){.blob = one.blob};
	assert_int_equal(blob_env_snapshots(&p.env, twice, 2), -EINVAL);
	check(&p);
	free((void *)(uintptr_t)xattr.value);
	close_play(&p);
}

/* The intent, as load finds it. */
static void
intent(void **state)
{
	struct snapshot_pair pairs[SNAPSHOT_GROUP_MAX];
	uint8_t value[(SNAPSHOT_GROUP_MAX + 1) * 16];

	(void)state;
	for (unsigned i = 0; i < sizeof(value); i++) {
		value[i] = (uint8_t)i;
	}
	assert_int_equal(snapshot_intent_decode(value, 32, pairs), 2);
	assert_true(pairs[1].original == UINT64_C(0x1716151413121110));
	assert_true(pairs[1].snapshot == UINT64_C(0x1f1e1d1c1b1a1918));
	assert_int_equal(snapshot_intent_decode(value, 31, pairs), -EILSEQ);
	assert_int_equal(snapshot_intent_decode(value, sizeof(value), pairs), -EILSEQ);
}

/* ---- Merges that others come in between ---- */

/* v on s, which is deleted and has much to merge; not waited for. */
static void
begin_merge(struct play *p)
{
	open_play(p, false);
	play_volume(p, "v", 1024, true);
	for (unsigned i = 0; i < 40; i++) {
		play_write(p, "v", (i * 25 + 1) * HARNESS_UNITS, 3);
	}
	play_snapshot(p, "v", "s");
	play_clone(p, "s", "other");
	for (unsigned i = 0; i < 40; i++) {
		play_write(p, "v", (i * 25 + 2 - i % 3) * HARNESS_UNITS, 3);
	}
	play_delete(p, "s");
	play_idle(p);
	play_delete(p, "other"); /* now it begins */
}

static void
disturbed_by_snapshot(void **state)
{
	struct play p;

	(void)state;
	begin_merge(&p);
	play_snapshot(&p, "v", "t");
	play_write(&p, "v", 7, 50);
	play_snapshot(&p, "v", "u");
	play_delete(&p, "t");
	close_play(&p);
}

static void
disturbed_by_resize(void **state)
{
	struct play p;

	(void)state;
	begin_merge(&p);
	play_resize(&p, "v", 500);
	play_resize(&p, "v", 1100);
	play_write(&p, "v", 7, 50);
	check(&p);
	assert_null(blob_parent(play_find(&p, "v")));
	close_play(&p);
}

static void
disturbed_by_delete(void **state)
{
	struct play p;

	(void)state;
	begin_merge(&p);
	play_delete(&p, "v");
	check(&p);
	assert_int_equal(blob_env_info(&p.env).blobs, 0);
	close_play(&p);
}

static void
disturbed_by_inflate(void **state)
{
	struct play p;
	int rc;

	(void)state;
	begin_merge(&p);
	rc = blob_env_decouple(&p.env, play_find(&p, "v"));
	assert_true(rc == 0 || rc == -EINVAL); /* the merge may have been first */
	check(&p);
	assert_null(blob_parent(play_find(&p, "v")));
	close_play(&p);
}

struct parting {
	struct blob *deleted, *from;
	struct blob_env_op *op;
};

static void
deleted_decouple(void *ctx, int status, const struct err *err)
{
	struct parting *x = ctx;

	(void)err;
	assert_int_equal(status, 0);
	assert_true(blob_parent(x->from) == x->deleted); /* it is on its way only */
	x->op->work.done = blob_env_done;
	x->op->work.ctx = x->op;
	blob_decouple(x->from, &x->op->work);
}

static void
delete_first(struct blob_env_op *op, void *arg)
{
	struct parting *x = arg;

	x->op = op;
	blob_delete(x->deleted, NULL, 0, deleted_decouple, x);
}

/* A snapshot that was deleted is not what one is parted from, though it is still there. */
static void
parted_from_what_is_there(void **state)
{
	struct parting x;
	struct blob_env_op op;
	struct play p;

	(void)state;
	open_play(&p, false);
	play_volume(&p, "v", 1024, true);
	play_write(&p, "v", 0, 3);
	play_snapshot(&p, "v", "g");
	play_write(&p, "v", HARNESS_UNITS, 3);
	play_snapshot(&p, "v", "p");
	for (unsigned i = 0; i < 40; i++) {
		play_write(&p, "v", (i * 25 + 2) * HARNESS_UNITS, 3);
	}
	play_snapshot(&p, "v", "d");
	x = (struct parting){.deleted = play_find(&p, "d"), .from = play_find(&p, "v")};
	blob_env_begin(&p.env, &op, delete_first, &x);
	assert_int_equal(blob_env_end(&p.env, &op), 0);
	model_delete(&p.model, "d");
	strcpy(model_find(&p.model, "v")->parent, "g");
	model_settle(&p.model);
	assert_true(blob_parent(play_find(&p, "v")) == play_find(&p, "g"));
	check(&p);
	assert_true(blob_env_allocated(&p.env, play_find(&p, "v")) == 41);
	close_play(&p);
}

static void
disturbed_by_unload(void **state)
{
	struct play p;

	(void)state;
	begin_merge(&p);
	assert_true(play_unload(&p));
	play_check_disk(&p);
	assert_true(play_load(&p));
	check(&p);
	assert_null(blob_parent(play_find(&p, "v")));
	close_play(&p);
}

static void
disturbed_by_writes(void **state)
{
	struct play p;

	(void)state;
	begin_merge(&p);
	for (unsigned i = 0; i < 60; i++) {
		play_begin_write(&p, i % 2, "v", (i * 97 % 1000) * HARNESS_UNITS + i % 3, 3);
		if (i % 7 == 6) {
			play_end_writes(&p);
		}
	}
	play_end_writes(&p);
	close_play(&p);
}

/* Metadata pages run out: the merge waits, and goes on when there are some. */
static void
no_pages(void **state)
{
	struct play p;
	unsigned n = 0;
	char name[16];

	(void)state;
	open_play(&p, false);
	play_volume(&p, "v", 100, true);
	play_write(&p, "v", 0, 50);
	play_snapshot(&p, "v", "s");
	play_write(&p, "v", 20, 2);
	while (blob_env_info(&p.env).free_md_pages > 0) {
		snprintf(name, sizeof(name), "f%u", n++);
		play_volume(&p, name, 1, true);
	}
	p.errors = true;
	assert_false(play_volume(&p, "none", 1, true));
	assert_int_equal(p.status, -ENOSPC);
	assert_false(play_snapshot(&p, "v", "none"));
	assert_int_equal(p.status, -ENOSPC);
	p.errors = false;
	assert_int_equal(blob_env_delete_hidden(&p.env, play_find(&p, "s"), NULL, 0), 0);
	play_idle(&p);
	assert_non_null(blob_parent(play_find(&p, "v")));
	play_check_data(&p, true);
	model_delete(&p.model, "s");
	play_delete(&p, "f0");
	play_delete(&p, "f1");
	check(&p);
	assert_null(blob_parent(play_find(&p, "v")));
	close_play(&p);
}

/* ---- Inflate ---- */

static struct blob_env_op work;
static unsigned progress_calls;

static void
cancel_soon(void *ctx, uint64_t done_clusters, uint64_t of)
{
	(void)ctx;
	assert_true(done_clusters <= of);
	if (++progress_calls == 3) {
		blob_work_cancel(&work.work);
	}
}

static void
begin_inflate(struct blob_env_op *op, void *arg)
{
	op->work = (struct blob_work){.progress = cancel_soon, .done = blob_env_done, .ctx = op};
	blob_inflate(arg, &op->work);
}

static void
inflated(void **state)
{
	struct play p;
	struct blob *blob;

	(void)state;
	open_play(&p, false);
	play_volume(&p, "v", 60, true);
	play_write(&p, "v", 0, 100);
	play_snapshot(&p, "v", "s");
	play_write(&p, "v", 8, 9);
	blob = play_find(&p, "v");
	progress_calls = 0;
	blob_env_begin(&p.env, &work, begin_inflate, blob);
	assert_int_equal(blob_env_end(&p.env, &work), -ECANCELED);
	assert_true(progress_calls >= 3 && progress_calls < 30);
	check(&p);
	assert_true(blob_thin(blob) && blob_allocated_clusters(blob) > 3 && blob_allocated_clusters(blob) < 40);
	play_inflate(&p, "v");
	assert_true(!blob_thin(blob) && blob_parent(blob) == NULL && blob_allocated_clusters(blob) == 60);
	check(&p);
	assert_int_equal(blob_env_inflate(&p.env, blob), 0); /* nothing to do */
	play_clone(&p, "s", "c");
	play_resize(&p, "c", 80);
	play_decouple(&p, "c");
	assert_true(blob_thin(play_find(&p, "c")));
	assert_int_equal(blob_allocated_clusters(play_find(&p, "c")), 25);
	play_volume(&p, "big", 2000, true);
	assert_int_equal(blob_env_inflate(&p.env, play_find(&p, "big")), -ENOSPC);
	assert_string_not_equal(p.env.err.text, "");
	close_play(&p);
}

/* ---- Threads ---- */

static void
among_writes(void **state)
{
	struct play p;

	(void)state;
	open_play(&p, true);
	play_volume(&p, "v", 300, true);
	play_volume(&p, "w", 300, true);
	for (unsigned i = 0; i < 80; i++) {
		for (unsigned k = 0; k < 4; k++) {
			play_begin_write(&p, (i + k) % 2, k % 2 != 0 ? "v" : "w", (i * 31 + k * 50) % 280 * HARNESS_UNITS, 5);
		}
		switch (i % 16) {
		case 3:
			play_snapshot(&p, "v", i < 16 ? "s0" : i < 32 ? "s1" : i < 48 ? "s2" : i < 64 ? "s3" : "s4");
			break;
		case 7: {
			static const char *const of[] = {"v", "w"};
			const char *to[] = {i < 16 ? "g0" : i < 32 ? "g1" : i < 48 ? "g2" : i < 64 ? "g3" : "g4",
					    i < 16 ? "h0" : i < 32 ? "h1" : i < 48 ? "h2" : i < 64 ? "h3" : "h4"};

			play_end_writes(&p);
			play_snapshots(&p, of, to, 2);
			break;
		}
		case 11:
			play_delete(&p, i < 16 ? "s0" : i < 32 ? "s1" : i < 48 ? "s2" : i < 64 ? "s3" : "s4");
			break;
		case 15:
			play_delete(&p, i < 16 ? "g0" : i < 32 ? "g1" : i < 48 ? "g2" : i < 64 ? "g3" : "g4");
			break;
		default:
			break;
		}
	}
	play_end_writes(&p);
	close_play(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(costs),
		cmocka_unit_test(large),
		cmocka_unit_test(too_large),
		cmocka_unit_test(intent),
		cmocka_unit_test(disturbed_by_snapshot),
		cmocka_unit_test(disturbed_by_resize),
		cmocka_unit_test(disturbed_by_delete),
		cmocka_unit_test(disturbed_by_inflate),
		cmocka_unit_test(parted_from_what_is_there),
		cmocka_unit_test(disturbed_by_unload),
		cmocka_unit_test(disturbed_by_writes),
		cmocka_unit_test(no_pages),
		cmocka_unit_test(inflated),
		cmocka_unit_test(among_writes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
