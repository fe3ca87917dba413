/* SPDX-License-Identifier: BSD-3-Clause */
/* Power cuts while a store is created, loaded, recovered, unloaded, grown, or told its super blob. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "blob/harness.h"

/* Volumes of every kind: what a load has to read and a recovery to find again. */
static void
a_family(struct play *p)
{
	play_volume(p, "thin", 6, true);
	play_write(p, "thin", 3, 7);
	play_volume(p, "thick", 4, false);
	play_write(p, "thick", 0, 16);
	play_snapshot(p, "thin", "snap");
	play_write(p, "thin", 5, 2);
	play_clone(p, "snap", "clone");
	play_write(p, "clone", 12, 4);
	play_volume(p, "gone", 3, true);
	play_write(p, "gone", 0, 5);
	play_xattr(p, "clone", "value");
	play_delete(p, "gone");
	play_flush(p);
}

/* A load that writes nothing: what follows it does. */
static void
first_change(struct play *p)
{
	play_xattr(p, "thin", "first");
}

static const struct scene load_and_change = {
	.name = "first change after a clean load", .prepare = a_family, .act = first_change, .from_load = true};

static const struct scene unclean_load = {
	.name = "unclean load", .prepare = a_family, .act = first_change, .unclean = true, .from_load = true};

static void
create_store(struct play *p)
{
	play_create(p);
}

static const struct scene create = {.name = "create", .act = create_store, .no_store = true};

static void
unload_store(struct play *p)
{
	play_write(p, "thin", 20, 1);
	play_unload(p);
}

static const struct scene unload = {.name = "unload", .prepare = a_family, .act = unload_store};

static void
again_and_again(struct play *p)
{
	play_unload(p);
	if (!p->over && play_load(p)) {
		play_write(p, "clone", 0, 1);
		play_unload(p);
	}
	if (!p->over && play_load(p)) {
		play_delete(p, "clone");
		play_unload(p);
	}
}

static const struct scene reload = {.name = "reload", .prepare = a_family, .act = again_and_again, .unclean = true};

static void
grow_store(struct play *p)
{
	play_grow(p, 12 << 20);
	play_volume(p, "more", 500, false);
	play_write(p, "more", 1999, 1);
}

static const struct scene grow = {.name = "grow", .prepare = a_family, .act = grow_store};

static void
set_super(struct play *p)
{
	play_super(p, "thin");
	play_super(p, "thick");
}

static const struct scene super = {.name = "set super", .prepare = a_family, .act = set_super};

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SCENE_TEST(&create), SCENE_TEST(&load_and_change), SCENE_TEST(&unclean_load), SCENE_TEST(&unload),
		SCENE_TEST(&reload), SCENE_TEST(&grow),            SCENE_TEST(&super),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
