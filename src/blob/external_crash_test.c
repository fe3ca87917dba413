/* SPDX-License-Identifier: BSD-3-Clause */
/* Power cuts while volumes over an image part from it, and while what is made or renamed gets a mark at the same instant. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "blob/harness.h"

#define IMAGE_UNITS 33
#define CLUSTERS 10 /* more than the image has */

/* ---- Images ---- */

static void
over_image(struct play *p, bool seeks)
{
	play_image(p, IMAGE_UNITS, 3, seeks);
	play_volume(p, "other", 4, true);
	play_write(p, "other", 2, 9);
	play_external(p, "x", CLUSTERS);
	play_write(p, "x", 5, 2);
	play_write(p, "x", 25, 1);
	play_flush(p);
}

static void
over_seeking(struct play *p)
{
	over_image(p, true);
}

static void
over_silent(struct play *p)
{
	over_image(p, false);
}

/* Clusters of the image with something in them, up to the volume's end, and those that the volume has had. */
static uint64_t
expected(struct play *p, bool with_holes)
{
	uint64_t clusters = 0;

	for (uint64_t c = 0; c < CLUSTERS; c++) {
		bool data = !with_holes || c == 5 / HARNESS_UNITS || c == 25 / HARNESS_UNITS;

		for (uint64_t i = c * HARNESS_UNITS; i < (c + 1) * HARNESS_UNITS && i < IMAGE_UNITS; i++) {
			uint64_t word = 0;

			blob_mem_read(p->image, i * HARNESS_UNIT_BYTES, &word, sizeof(word));
			data = data || word != 0;
		}
		clusters += data;
	}
	return clusters;
}

static void
decouple_act(struct play *p)
{
	if (play_decouple(p, "x")) {
		uint64_t has = blob_env_allocated(&p->env, play_find(p, "x")), shall = expected(p, p->image_seeks);

		EXPECT_SAY(has == shall, "%u clusters, not %u", (unsigned)has, (unsigned)shall);
		EXPECT(expected(p, true) < CLUSTERS - 1);
	}
	play_write(p, "x", 0, 40);
	play_volume(p, "new", 3, false);
	play_delete(p, "x");
}

static const struct scene decouple = {.name = "decouple from an image that seeks", .prepare = over_seeking, .act = decouple_act};
static const struct scene decouple_silent = {
	.name = "decouple from an image that does not seek", .prepare = over_silent, .act = decouple_act};

static void
decouple_busy_act(struct play *p)
{
	play_begin_write(p, 0, "x", 0, 2);
	play_begin_write(p, 1, "x", 9, 3);
	play_begin_write(p, 0, "other", 0, 3);
	play_begin_write(p, 1, "x", 21, 3);
	play_decouple(p, "x");
	play_begin_write(p, 0, "x", 16, 2);
	play_begin_write(p, 1, "x", 2, 3);
	play_end_writes(p);
}

static const struct scene decouple_busy = {
	.name = "decouple among writes", .prepare = over_seeking, .act = decouple_busy_act, .shuffle = true};
static const struct scene decouple_busy_silent = {
	.name = "decouple among writes, no holes", .prepare = over_silent, .act = decouple_busy_act, .shuffle = true};

static void
inflate_act(struct play *p)
{
	play_begin_write(p, 0, "x", 16, 2);
	play_inflate(p, "x");
	play_end_writes(p);
	play_snapshot(p, "x", "s");
	play_write(p, "x", 3, 2);
}

static const struct scene inflate = {.name = "inflate over an image", .prepare = over_seeking, .act = inflate_act};

static void
family(struct play *p)
{
	over_image(p, true);
	play_snapshot(p, "x", "s1");
	play_write(p, "x", 12, 3);
	play_snapshot(p, "x", "s2");
	play_clone(p, "s1", "c");
	play_write(p, "c", 1, 1);
	play_flush(p);
}

/* From snapshots first, then from the image; or, as the snapshot is on its way out, from both at once. */
static void
family_act(struct play *p)
{
	play_decouple(p, "x");
	play_decouple(p, "x");
	play_delete(p, "s2");
	play_write(p, "x", 0, 2);
	play_decouple(p, "x");
	play_write(p, "x", 8, 8);
	play_delete(p, "s1");
	play_decouple(p, "c");
	play_write(p, "c", 8, 8);
}

static const struct scene family_decouple = {.name = "decouple a family over an image", .prepare = family, .act = family_act};
static const struct scene family_shuffled = {
	.name = "decouple a family over an image, shuffled", .prepare = family, .act = family_act, .shuffle = true};

/* ---- Marks ---- */

static void
a_volume(struct play *p)
{
	play_image(p, IMAGE_UNITS, 3, true);
	play_volume(p, "vol", 5, true);
	play_write(p, "vol", 4, 8);
	play_flush(p);
}

static void
marks_act(struct play *p)
{
	p->mark = "from elsewhere";
	play_volume(p, "thin", 3, true);
	play_snapshot(p, "vol", "snap");
	play_clone(p, "snap", "clone");
	play_external(p, "over", 4);
	p->mark = NULL;
	play_rename(p, "clone", "done", "-");
	play_rename(p, "snap", "a snapshot", "from there");
	play_write(p, "done", 0, 7);
	play_rename(p, "done", "clone", "again");
	play_delete(p, "a snapshot");
}

static const struct scene marks = {.name = "marks", .prepare = a_volume, .act = marks_act};

static void
group_act(struct play *p)
{
	static const char *const of[] = {"vol", "other"}, *const to[] = {"s1", "s2"};

	p->mark = "both";
	play_snapshots(p, of, to, 2);
	p->mark = NULL;
	play_rename(p, "s1", "t1", "one");
}

static void
two_volumes(struct play *p)
{
	a_volume(p);
	play_volume(p, "other", 4, true);
	play_write(p, "other", 2, 9);
}

static const struct scene group = {.name = "marks of a group", .prepare = two_volumes, .act = group_act};

/* The names and marks of a chain of several pages. */
static void
long_act(struct play *p)
{
	play_long_chain(p, "vol");
	play_rename(p, "vol", "renamed", "from elsewhere");
	play_rename(p, "renamed", "vol", "-");
}

static const struct scene long_chain = {.name = "marks of long chains", .prepare = a_volume, .act = long_act};

int
main(void)
{
	const struct CMUnitTest tests[] = {
		SCENE_TEST(&decouple), SCENE_TEST(&decouple_silent), SCENE_TEST(&decouple_busy),
		SCENE_TEST(&decouple_busy_silent), SCENE_TEST(&inflate), SCENE_TEST(&family_decouple),
		SCENE_TEST(&family_shuffled), SCENE_TEST(&marks), SCENE_TEST(&group), SCENE_TEST(&long_chain),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
