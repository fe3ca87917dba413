/* SPDX-License-Identifier: BSD-3-Clause */
/* Power cuts while snapshots with clones are deleted, and clones part from their snapshots. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "blob/harness.h"

static void
two_volumes(struct play *p)
{
	play_volume(p, "a", 6, true);
	play_write(p, "a", 3, 7);
	play_volume(p, "b", 5, false);
	play_write(p, "b", 0, 20);
	play_flush(p);
}

static void
a_snapshot(struct play *p)
{
	two_volumes(p);
	play_snapshot(p, "a", "s");
	play_write(p, "a", 5, 8);
	play_flush(p);
}

/* ---- Deleting ---- */

static void
delete_one_act(struct play *p)
{
	play_delete(p, "s");
	play_write(p, "a", 4, 3);
	play_volume(p, "new", 5, false);
	play_write(p, "new", 0, 20);
}

static const struct scene delete_one = {.name = "delete a snapshot with one clone", .prepare = a_snapshot, .act = delete_one_act};
static const struct scene delete_one_shuffled = {
	.name = "delete a snapshot with one clone, shuffled", .prepare = a_snapshot, .act = delete_one_act, .shuffle = true};

/* The clone is written to while it takes over what the snapshot has. */
static void
delete_busy_act(struct play *p)
{
	play_begin_write(p, 0, "a", 0, 2);
	play_begin_write(p, 1, "a", 20, 2);
	play_delete(p, "s");
	play_begin_write(p, 0, "a", 2, 2);
	play_begin_write(p, 1, "a", 17, 2);
	play_end_writes(p);
}

static const struct scene delete_busy = {
	.name = "delete a snapshot among writes", .prepare = a_snapshot, .act = delete_busy_act, .shuffle = true};

static void
a_chain(struct play *p)
{
	two_volumes(p);
	play_snapshot(p, "a", "s1");
	play_write(p, "a", 0, 5);
	play_snapshot(p, "a", "s2");
	play_write(p, "a", 4, 5);
	play_snapshot(p, "a", "s3");
	play_write(p, "a", 12, 9);
	play_flush(p);
}

static void
delete_chain_act(struct play *p)
{
	play_delete(p, "s2");
	play_delete(p, "s3");
	play_write(p, "a", 1, 1);
	play_delete(p, "s1");
}

static const struct scene delete_chain = {.name = "delete a chain", .prepare = a_chain, .act = delete_chain_act};

static void
three_clones(struct play *p)
{
	a_snapshot(p);
	play_clone(p, "s", "c1");
	play_write(p, "c1", 2, 8);
	play_clone(p, "s", "c2");
	play_write(p, "c2", 17, 1);
	play_flush(p);
}

static void
delete_several_act(struct play *p)
{
	play_delete(p, "s");
	play_write(p, "c1", 0, 1);
	play_delete(p, "c1");
	play_write(p, "c2", 3, 2);
	play_delete(p, "a");
	play_write(p, "c2", 5, 2);
}

static const struct scene delete_several = {
	.name = "delete a snapshot with several clones", .prepare = three_clones, .act = delete_several_act};

static void
delete_all_act(struct play *p)
{
	play_delete(p, "s");
	play_delete(p, "c2");
	play_delete(p, "c1");
	play_delete(p, "a");
	play_delete(p, "b");
}

static const struct scene delete_all = {.name = "delete all", .prepare = three_clones, .act = delete_all_act, .shuffle = true};

static void
long_snapshot(struct play *p)
{
	play_volume(p, "a", 1100, true);
	play_write(p, "a", 511 * HARNESS_UNITS, 8);
	play_write(p, "a", 1099 * HARNESS_UNITS, 2);
	play_snapshot(p, "a", "s");
	play_write(p, "a", 513 * HARNESS_UNITS, 2);
	play_write(p, "a", 511 * HARNESS_UNITS + 2, 3);
	play_flush(p);
}

static void
delete_long_act(struct play *p)
{
	play_delete(p, "s");
	play_write(p, "a", 600 * HARNESS_UNITS, 1);
	play_write(p, "a", 511 * HARNESS_UNITS + 1, 1);
}

static const struct scene delete_long = {
	.name = "delete a snapshot of several extent pages", .prepare = long_snapshot, .act = delete_long_act};

/* Metadata of several pages: new ones are written before the first. */
static void
long_chains(struct play *p)
{
	two_volumes(p);
	play_long_chain(p, "a");
	play_snapshot(p, "a", "s");
	play_long_chain(p, "s");
	play_write(p, "a", 5, 8);
	play_flush(p);
}

static void
long_chain_act(struct play *p)
{
	play_clone(p, "s", "c");
	play_long_chain(p, "c");
	play_delete(p, "c");
	play_delete(p, "s");
	play_idle(p);
	play_xattr(p, "a", "new");
	play_snapshot(p, "a", "s2");
	play_write(p, "a", 0, 4);
	play_decouple(p, "a");
}

static const struct scene long_chain = {.name = "chains of several pages", .prepare = long_chains, .act = long_chain_act};

/* ---- Parents ---- */

static void
inflate_act(struct play *p)
{
	play_inflate(p, "c1");
	play_inflate(p, "c2");
}

static const struct scene inflate = {.name = "inflate", .prepare = three_clones, .act = inflate_act};

static void
decouple_act(struct play *p)
{
	play_decouple(p, "a");
	play_write(p, "a", 0, 1);
	play_decouple(p, "a");
}

static const struct scene decouple = {.name = "decouple", .prepare = a_chain, .act = decouple_act};

/* Two snapshots with the same in them. */
static void
two_parents(struct play *p)
{
	a_snapshot(p);
	play_clone(p, "s", "t");
	play_read_only(p, "t");
	play_clone(p, "s", "c");
	play_write(p, "c", 8, 3);
	play_flush(p);
}

static void
set_parent_act(struct play *p)
{
	play_set_parent(p, "c", "t");
	play_write(p, "c", 1, 1);
	play_set_parent(p, "c", "s");
}

static const struct scene set_parent = {.name = "set parent", .prepare = two_parents, .act = set_parent_act};

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SCENE_TEST(&delete_one), SCENE_TEST(&delete_one_shuffled), SCENE_TEST(&delete_busy),
		SCENE_TEST(&delete_chain), SCENE_TEST(&delete_several), SCENE_TEST(&delete_all),
		SCENE_TEST(&delete_long), SCENE_TEST(&inflate), SCENE_TEST(&long_chain), SCENE_TEST(&decouple),
		SCENE_TEST(&set_parent),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
