/* SPDX-License-Identifier: BSD-3-Clause */
/* Volumes of every kind pass the battery: thin, thick, clones, with snapshots below, and in stacks of stores. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "lvol/lvol.h"
#include "testkit/bdev_battery.h"
#include "testkit/scripted_bdev.h"

#define MIB (UINT64_C(1) << 20)
#define BASE "disk"
#define VOLUME "store/volume"
#define STACK_MAX 3

static struct scripted_bdev base;

/* A volume that is made step by step, on a stack of stores, and taken down again. */
static struct setup {
	const char *const *steps; /* ended by NULL: "thin", "thick", "snapshot", "clone" */
	unsigned height; /* stores, each on a volume of the one below */
	uint32_t block_size;
	uint32_t cluster_bytes;
	bool write_cache;
	bool shuffle;

	bool there;
	unsigned level, step;
	bool has_store;
	void (*done)(void *ctx, int status);
	void *done_ctx;
	bool removing;
} x;

static const char *
store_name(unsigned level)
{
	static const char *const names[STACK_MAX] = {"low", "middle", "store"};

	return names[level + STACK_MAX - x.height];
}

/* ---- Making it ---- */

static void next_step(void);

static void
store_made(void *ctx, struct lvol_store *store, int status, const struct err *err)
{
	EXPECT_SAY(status == 0, "%s", err_text(err));
	next_step();
}

static void
volume_made(void *ctx, struct lvol *lvol, int status, const struct err *err)
{
	EXPECT_SAY(status == 0, "%s", err_text(err));
	next_step();
}

static void
make_store(unsigned level)
{
	struct lvol_store_options o = {.base_name = BASE, .name = store_name(level), .cluster_bytes = x.cluster_bytes};

	if (level > 0) {
		o.base_name = level == 1 ? "low/below" : "middle/below";
	}
	lvol_store_create(&o, store_made, NULL);
}

static void
make_volume(const char *store, const char *name, uint64_t bytes, bool is_thin)
{
	struct lvol_options o = {.name = name, .bytes = bytes, .thin = is_thin};

	lvol_create(lvol_store_find(store), &o, volume_made, NULL);
}

static void
renamed(void *ctx, int status, const struct err *err)
{
	EXPECT_SAY(status == 0, "%s", err_text(err));
}

/* Only what is ready has the name that the battery opens as soon as it is there. */
static void
ready(void)
{
	bool is_clone = lvol_find("store/clone") != NULL;

	lvol_rename(lvol_find(is_clone ? "store/clone" : "store/made"), "volume", renamed, NULL);
}

/* The stores first, with a volume for the next one in all but the last. */
static bool
next_of_stack(void)
{
	if (x.level == x.height) {
		return false;
	}
	if (!x.has_store) {
		x.has_store = true;
		make_store(x.level);
		return true;
	}
	x.has_store = false;
	if (++x.level == x.height) {
		return false;
	}
	make_volume(store_name(x.level - 1), "below", (30 - 4 * x.level) * MIB, true);
	return true;
}

static void
next_step(void)
{
	const char *what;
	char name[16];

	if (next_of_stack()) {
		return;
	}
	what = x.steps[x.step];
	if (what == NULL) {
		ready();
		return;
	}
	x.step++;
	if (strcmp(what, "thin") == 0 || strcmp(what, "thick") == 0) {
		make_volume("store", "made", 4 * MIB, strcmp(what, "thin") == 0);
	} else if (strcmp(what, "snapshot") == 0) {
		snprintf(name, sizeof(name), "snapshot%u", x.step);
		lvol_snapshot(lvol_find("store/made"), name, volume_made, NULL);
	} else {
		struct lvol_info info;

		lvol_get_info(lvol_find("store/made"), &info);
		lvol_clone(info.parent, "clone", volume_made, NULL);
	}
}

static int
create(const struct battery *b, struct err *err)
{
	if (x.there) { /* what the stores themselves say: lvol_test.c */
		return err_set(err, -EEXIST, "a volume named '%s' exists already", b->name);
	}
	x.there = true;
	x.level = x.step = 0;
	x.has_store = false;
	scripted_bdev_init(&base, BASE, 36 * MIB / x.block_size, x.block_size);
	base.bdev.write_cache = x.write_cache;
	atomic_store(&base.shuffle, x.shuffle);
	EXPECT(scripted_bdev_add(&base, err) == 0);
	next_step();
	return 0;
}

/* ---- Taking it down ---- */

static void
base_gone(void *ctx, int status)
{
	EXPECT(status == 0);
	scripted_bdev_release(&base);
	x.removing = false;
	x.there = false;
	x.done(x.done_ctx, 0);
}

static void
store_gone(void *ctx, int status, const struct err *err)
{
	struct lvol_store *store, *last = NULL;

	EXPECT_SAY(status == 0, "%s", err_text(err));
	for (store = lvol_store_next(NULL); store != NULL; store = lvol_store_next(store)) {
		last = store;
	}
	if (last != NULL) {
		lvol_store_destroy(last, store_gone, NULL);
	} else {
		scripted_bdev_remove(&base, base_gone, NULL);
	}
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	if (!x.there || x.removing) {
		return err_set(err, -ENODEV, "there is no volume '%s'", b->name);
	}
	x.removing = true;
	x.done = done;
	x.done_ctx = ctx;
	lvol_delete(lvol_find(b->name), store_gone, NULL);
	return 0;
}

static void
resized(void *ctx, int status, const struct err *err)
{
	EXPECT_SAY(status == 0, "%s", err_text(err));
}

static int
resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	struct lvol *lvol = lvol_find(b->name);

	if (num_blocks < bdev_num_blocks(lvol_bdev(lvol))) {
		return err_set(err, -EBUSY, "smaller: see lvol_test.c");
	}
	lvol_resize(lvol, num_blocks * bdev_block_size(lvol_bdev(lvol)), resized, NULL);
	return 0;
}

/* ---- The kinds ---- */

static const char *const thin[] = {"thin", NULL};
static const char *const thick[] = {"thick", NULL};
static const char *const below[] = {"thin", "snapshot", NULL};
static const char *const chain[] = {"thick", "snapshot", "snapshot", "snapshot", NULL};
static const char *const clone[] = {"thick", "snapshot", "clone", NULL};

static struct battery
battery(const char *const *steps, bool holes)
{
	x = (struct setup){.steps = steps, .height = 1, .block_size = 512, .cluster_bytes = 65536};
	return (struct battery){
		.name = VOLUME,
		.create = create,
		.remove = remove_bdev,
		.resize = resize,
		.shows_holes = holes,
		.unmap_zeroes = holes,
		.may_cancel = true,
		.requests = 500,
	};
}

static void
thin_volumes(void **state)
{
	struct battery b = battery(thin, true);

	bdev_battery_run(&b, REACTOR_POLL, false);
	bdev_battery_run(&b, REACTOR_INTERRUPT, true);
	bdev_battery_run(&b, REACTOR_ADAPTIVE, true);
}

static void
thick_volumes(void **state)
{
	struct battery b = battery(thick, false);

	x.block_size = 4096;
	bdev_battery_run(&b, REACTOR_POLL, true);
	x.write_cache = true;
	bdev_battery_run(&b, REACTOR_INTERRUPT, false);
}

static void
snapshots_below(void **state)
{
	struct battery b = battery(below, false);

	x.shuffle = true;
	bdev_battery_run(&b, REACTOR_POLL, false);
	bdev_battery_run(&b, REACTOR_INTERRUPT, true);
	b = battery(chain, false);
	x.write_cache = true;
	bdev_battery_run(&b, REACTOR_ADAPTIVE, true);
}

static void
clones(void **state)
{
	struct battery b = battery(clone, false);

	x.cluster_bytes = 262144;
	bdev_battery_run(&b, REACTOR_POLL, false);
	x.cluster_bytes = 196608; /* no power of two */
	b.resize = NULL;
	bdev_battery_run(&b, REACTOR_ADAPTIVE, true);
}

static void
stacks(void **state)
{
	struct battery b = battery(thin, true);

	x.height = 3;
	bdev_battery_run(&b, REACTOR_POLL, true);
	b = battery(below, false);
	x.height = 3;
	x.shuffle = true;
	x.write_cache = true;
	bdev_battery_run(&b, REACTOR_ADAPTIVE, false);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(thin_volumes), cmocka_unit_test(thick_volumes), cmocka_unit_test(snapshots_below),
		cmocka_unit_test(clones),       cmocka_unit_test(stacks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
