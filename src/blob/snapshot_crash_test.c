/* SPDX-License-Identifier: BSD-3-Clause */
/* Power cuts while snapshots and clones are made; family_crash_test.c has their end. */
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
snapshot_act(struct play *p)
{
	play_snapshot(p, "a", "a1");
	play_write(p, "a", 0, 6);
	play_snapshot(p, "b", "b1");
	play_snapshot(p, "a", "a2");
	play_write(p, "b", 7, 2);
	play_write(p, "a", 5, 1);
}

static const struct scene snapshot = {.name = "snapshot", .prepare = two_volumes, .act = snapshot_act};
static const struct scene snapshot_shuffled = {
	.name = "snapshot, shuffled", .prepare = two_volumes, .act = snapshot_act, .shuffle = true};

/* The metadata of what the snapshot is taken of has more pages than one. */
static void
long_chains(struct play *p)
{
	two_volumes(p);
	play_long_chain(p, "a");
	play_long_chain(p, "b");
	play_flush(p);
}

static void
long_chain_act(struct play *p)
{
	play_snapshot(p, "a", "a1");
	play_snapshot(p, "a", "a2");
	play_snapshot(p, "b", "b1");
	play_snapshot(p, "a", "a3");
}

static const struct scene long_chain = {.name = "snapshot, long chains", .prepare = long_chains, .act = long_chain_act};

/* Writes are under way on both. */
static void
busy_act(struct play *p)
{
	play_begin_write(p, 0, "a", 0, 1);
	play_begin_write(p, 1, "a", 16, 3);
	play_begin_write(p, 1, "b", 2, 3);
	play_snapshot(p, "a", "a1");
	play_begin_write(p, 0, "a", 5, 3);
	play_snapshot(p, "b", "b1");
	play_end_writes(p);
}

static const struct scene busy = {.name = "snapshot among writes", .prepare = two_volumes, .act = busy_act, .shuffle = true};

static void
four_volumes(struct play *p)
{
	two_volumes(p);
	play_volume(p, "c", 2, true);
	play_volume(p, "d", 520, true);
	play_write(p, "d", 2060, 4);
	play_snapshot(p, "c", "c0");
	play_flush(p);
}

static void
group_act(struct play *p)
{
	static const char *const names[] = {"a", "b", "c", "d"};
	static const char *const first[] = {"a1", "b1", "c1", "d1"};
	static const char *const second[] = {"a2", "b2"};

	play_snapshots(p, names, first, 4);
	play_write(p, "d", 2059, 2);
	play_write(p, "a", 2, 2);
	play_snapshots(p, names, second, 2);
}

static const struct scene group = {.name = "group of snapshots", .prepare = four_volumes, .act = group_act};

static void
with_super(struct play *p)
{
	four_volumes(p);
	play_volume(p, "top", 0, true);
	play_super(p, "top");
}

static const struct scene group_super = {.name = "group of snapshots, super blob", .prepare = with_super, .act = group_act};
static const struct scene group_shuffled = {
	.name = "group of snapshots, shuffled", .prepare = with_super, .act = group_act, .shuffle = true};

static void
a_snapshot(struct play *p)
{
	two_volumes(p);
	play_snapshot(p, "a", "s");
	play_write(p, "a", 5, 8);
	play_flush(p);
}

static void
cllong_chain_act(struct play *p)
{
	play_clone(p, "s", "c1");
	play_write(p, "c1", 0, 5);
	play_clone(p, "s", "c2");
	play_read_only(p, "c1");
	play_clone(p, "c1", "c3");
}

static const struct scene clone = {.name = "clone", .prepare = a_snapshot, .act = cllong_chain_act};

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SCENE_TEST(&snapshot), SCENE_TEST(&snapshot_shuffled), SCENE_TEST(&busy),  SCENE_TEST(&group),
		SCENE_TEST(&group_super), SCENE_TEST(&group_shuffled), SCENE_TEST(&clone),
		SCENE_TEST(&long_chain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
