/* SPDX-License-Identifier: BSD-3-Clause */
/* Power cuts while one volume is made, changed, deleted, or written to. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "blob/harness.h"

static void
a_volume(struct play *p)
{
	play_volume(p, "other", 4, true);
	play_write(p, "other", 2, 9);
	play_volume(p, "vol", 6, true);
	play_write(p, "vol", 4, 8);
	play_xattr(p, "vol", "old");
	play_flush(p);
}

static void
create_act(struct play *p)
{
	play_volume(p, "thin", 9, true);
	play_volume(p, "thick", 9, false);
	play_volume(p, "empty", 0, true);
	play_volume(p, "long", 1100, true);
}

static const struct scene create = {.name = "create", .prepare = a_volume, .act = create_act};

static void
resize_act(struct play *p)
{
	play_resize(p, "vol", 12);
	play_write(p, "vol", 44, 4);
	play_resize(p, "vol", 3);
	play_resize(p, "vol", 5);
	play_write(p, "vol", 13, 2);
	play_resize(p, "vol", 0);
	play_resize(p, "vol", 1);
}

static const struct scene resize_thin = {.name = "resize, thin", .prepare = a_volume, .act = resize_act};

static void
a_thick_volume(struct play *p)
{
	a_volume(p);
	play_delete(p, "vol");
	play_volume(p, "vol", 6, false);
	play_write(p, "vol", 4, 8);
	play_flush(p);
}

static const struct scene resize_thick = {.name = "resize, thick", .prepare = a_thick_volume, .act = resize_act};

/* Pages that are written before the gate closes. */
static void
grow_act(struct play *p)
{
	for (unsigned i = 0; i < 4; i++) {
		play_resize(p, "vol", 0);
		play_resize(p, "vol", 5 + i);
		play_write(p, "vol", 3, 9);
	}
}

static const struct scene grow_thick = {.name = "grow, thick", .prepare = a_thick_volume, .act = grow_act};

/* Across the border of extent pages. */
static void
long_act(struct play *p)
{
	play_resize(p, "vol", 1100);
	play_write(p, "vol", 511 * HARNESS_UNITS + 2, 4);
	play_write(p, "vol", 1099 * HARNESS_UNITS, 4);
	play_resize(p, "vol", 1024);
	play_resize(p, "vol", 600);
	play_resize(p, "vol", 512);
	play_resize(p, "vol", 511);
	play_resize(p, "vol", 1030);
}

static const struct scene resize_long = {.name = "resize over several extent pages", .prepare = a_volume, .act = long_act};

static void
xattr_act(struct play *p)
{
	play_xattr(p, "vol", "new");
	play_xattr(p, "other", "a");
	play_xattr(p, "vol", NULL);
	play_xattr(p, "other", "b");
}

static const struct scene xattr = {.name = "xattr", .prepare = a_volume, .act = xattr_act};

static void
read_only_act(struct play *p)
{
	play_read_only(p, "vol");
}

static const struct scene read_only = {.name = "read-only", .prepare = a_volume, .act = read_only_act};

static void
delete_act(struct play *p)
{
	play_delete(p, "vol");
	play_volume(p, "next", 5, false);
	play_write(p, "next", 0, 20);
	play_delete(p, "other");
	play_volume(p, "vol", 7, true);
	play_write(p, "vol", 0, 20);
}

static const struct scene delete = {.name = "delete, and what comes in its place", .prepare = a_volume, .act = delete_act};
static const struct scene delete_shuffled = {.name = "delete, shuffled", .prepare = a_volume, .act = delete_act, .shuffle = true};

/* ---- Data ---- */

static void
write_act(struct play *p)
{
	play_write(p, "vol", 0, 2);
	play_write(p, "vol", 2, 1);
	play_flush(p);
	play_write(p, "vol", 14, 6);
	play_write(p, "vol", 1, 1);
	play_write(p, "other", 0, 16);
	play_flush(p);
	play_write(p, "other", 3, 3);
}

static const struct scene write_thin = {.name = "allocating writes", .prepare = a_volume, .act = write_act};

static void
a_snapshot(struct play *p)
{
	a_volume(p);
	play_snapshot(p, "vol", "snap");
	play_snapshot(p, "other", "osnap");
}

static const struct scene write_cow = {.name = "writes that copy", .prepare = a_snapshot, .act = write_act};
static const struct scene write_cow_shuffled = {
	.name = "writes that copy, shuffled", .prepare = a_snapshot, .act = write_act, .shuffle = true};

/* Several at once: their entries go into the same pages. */
static void
parallel_act(struct play *p)
{
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 6; i++) {
			play_begin_write(p, i % 2, i % 3 == 0 ? "other" : "vol", (i % 3 == 0 ? i : i * 4) % 16 + round % 2, 2);
		}
		play_end_writes(p);
		if (round == 1) {
			play_flush(p);
		}
	}
}

static const struct scene parallel = {.name = "parallel writes", .prepare = a_snapshot, .act = parallel_act};
static const struct scene parallel_shuffled = {
	.name = "parallel writes, shuffled", .prepare = a_snapshot, .act = parallel_act, .shuffle = true};

/* Whole clusters of a volume without a parent are given back, and used again. */
static void
unmap_act(struct play *p)
{
	play_rw(p, "vol", BLOB_UNMAP, 4, 8);
	play_write(p, "other", 0, 2);
	play_write(p, "vol", 20, 3);
	play_rw(p, "vol", BLOB_WRITE_ZEROES, 17, 7);
	play_rw(p, "other", BLOB_WRITE_ZEROES, 0, 16);
	play_flush(p);
	play_write(p, "other", 5, 2);
	play_write(p, "vol", 5, 1);
}

static const struct scene unmap = {.name = "unmap and write zeroes", .prepare = a_volume, .act = unmap_act};
static const struct scene unmap_clone = {.name = "unmap and write zeroes of clones", .prepare = a_snapshot, .act = unmap_act};

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SCENE_TEST(&create),      SCENE_TEST(&resize_thin), SCENE_TEST(&resize_thick), SCENE_TEST(&resize_long),
		SCENE_TEST(&grow_thick),
		SCENE_TEST(&xattr),       SCENE_TEST(&read_only),   SCENE_TEST(&delete),       SCENE_TEST(&delete_shuffled),
		SCENE_TEST(&write_thin),  SCENE_TEST(&write_cow),   SCENE_TEST(&write_cow_shuffled),
		SCENE_TEST(&parallel),    SCENE_TEST(&parallel_shuffled),
		SCENE_TEST(&unmap),       SCENE_TEST(&unmap_clone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
