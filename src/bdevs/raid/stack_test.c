/* SPDX-License-Identifier: BSD-3-Clause */
/* Arrays of arrays of arrays pass the battery: what is passed down from one is a child's, or is passed on, in the next. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdevs/raid/raid.h"
#include "testkit/bdev_battery.h"
#include "testkit/scripted_bdev.h"

#define FLOORS 3
#define DISKS_MAX 7

struct tower {
	enum raid_level levels[FLOORS]; /* from the bottom up: each on the one below and disks of its own */
};

static const char *const names[FLOORS] = {"Low", "Middle", "Top"};
static struct scripted_bdev disks[DISKS_MAX];
static const char *const disk_names[DISKS_MAX] = {"m0", "m1", "m2", "m3", "m4", "m5", "m6"};
static unsigned disk_count;
static unsigned left;
static void (*gone)(void *ctx, int status);
static void *gone_ctx;

static void
ready(void *ctx, int status, const struct err *err)
{
	EXPECT_SAY(status == 0, "%d %s", status, err != NULL ? err_text(err) : "");
}

/* Disks that it is to have are awaited. */
static int
create_floor(const struct tower *tower, unsigned floor, unsigned *disk, struct err *err)
{
	enum raid_level level = tower->levels[floor];
	unsigned n = level == RAID_LEVEL_5F ? 3 : 2;
	const char *bases[3];
	struct raid_options options = {
		.name = names[floor],
		.level = level,
		.strip_kb = level == RAID_LEVEL_1 ? 0 : 32u >> floor,
		.bases = bases,
		.num_bases = n,
	};

	for (unsigned i = 0; i < n; i++) {
		bases[i] = floor > 0 && i == 0 ? names[floor - 1] : disk_names[(*disk)++];
	}
	return raid_create(&options, ready, NULL, err);
}

static int
create(const struct battery *b, struct err *err)
{
	unsigned disk = 0;
	int rc = 0;

	for (unsigned floor = FLOORS; floor-- > 0 && rc == 0;) {
		rc = create_floor(b->ctx, floor, &disk, err);
	}
	for (unsigned i = 0; i < disk && rc == 0; i++) {
		scripted_bdev_init(&disks[i], disk_names[i], (4u << 20) / 512, 512);
		atomic_store(&disks[i].shuffle, i % 2 == 1);
		rc = scripted_bdev_add(&disks[i], err);
		disk_count = i + 1;
	}
	return rc;
}

static void
base_gone(void *ctx, int status)
{
	scripted_bdev_release(ctx);
	if (--left == 0) {
		gone(gone_ctx, 0);
	}
}

/* The one above is gone; at last, the disks go. */
static void
next_goes(void *ctx, int status)
{
	uintptr_t floor = (uintptr_t)ctx;

	EXPECT(status == 0);
	if (floor > 0) {
		EXPECT(raid_delete(names[floor - 1], false, next_goes, (void *)(floor - 1), NULL) == 0);
		return;
	}
	left = disk_count;
	for (unsigned i = 0; i < disk_count; i++) {
		scripted_bdev_remove(&disks[i], base_gone, &disks[i]);
	}
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	gone = done;
	gone_ctx = ctx;
	return raid_delete(b->name, false, next_goes, (void *)(uintptr_t)(FLOORS - 1), err);
}

static const struct tower towers[] = {
	{{RAID_LEVEL_0, RAID_LEVEL_CONCAT, RAID_LEVEL_0}},
	{{RAID_LEVEL_CONCAT, RAID_LEVEL_0, RAID_LEVEL_1}},
	{{RAID_LEVEL_1, RAID_LEVEL_CONCAT, RAID_LEVEL_0}},
	{{RAID_LEVEL_5F, RAID_LEVEL_0, RAID_LEVEL_CONCAT}},
	{{RAID_LEVEL_CONCAT, RAID_LEVEL_0, RAID_LEVEL_5F}},
};

static enum reactor_mode mode;

static void
passes_battery(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(towers); i++) {
		struct battery battery = {
			.name = names[FLOORS - 1],
			.ctx = (void *)(uintptr_t)&towers[i],
			.create = create,
			.remove = remove_bdev,
			.unmap_zeroes = true,
			.may_cancel = true,
			.requests = 200,
		};

		bdev_battery_run(&battery, mode, (i + mode) % 2 == 0);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
	};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		failures += cmocka_run_group_tests_name(reactor_mode_name(mode), tests, NULL, NULL);
	}
	return failures;
}
