/* SPDX-License-Identifier: BSD-3-Clause */
/* Every level passes the battery, whole and with a base missing, with a superblock and without. */
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

#define BASES_MAX 4

struct shape {
	enum raid_level level;
	uint32_t strip_kb;
	unsigned num_bases;
	bool superblock;
	uint32_t block_size;
};

static const char *const names[BASES_MAX] = {"m0", "m1", "m2", "m3"};
static struct scripted_bdev disks[BASES_MAX];
static unsigned left;
static void (*gone)(void *ctx, int status);
static void *gone_ctx;

static void
ready(void *ctx, int status, const struct err *err)
{
	EXPECT_SAY(status == 0, "%d %s", status, err != NULL ? err_text(err) : "");
}

static int
create(const struct battery *b, struct err *err)
{
	const struct shape *shape = b->ctx;
	struct raid_options options = {
		.name = b->name,
		.level = shape->level,
		.strip_kb = shape->strip_kb,
		.superblock = shape->superblock,
		.bases = names,
		.num_bases = shape->num_bases,
	};
	int rc = raid_create(&options, ready, NULL, err);

	for (unsigned i = 0; i < shape->num_bases && rc == 0; i++) {
		scripted_bdev_init(&disks[i], names[i], (4u << 20) / shape->block_size,
				   shape->block_size);
		atomic_store(&disks[i].shuffle, i == 1);
		rc = scripted_bdev_add(&disks[i], err);
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

static void
array_gone(void *ctx, int status)
{
	const struct shape *shape = ctx;

	EXPECT(status == 0);
	left = shape->num_bases;
	for (unsigned i = 0; i < shape->num_bases; i++) {
		scripted_bdev_remove(&disks[i], base_gone, &disks[i]);
	}
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	gone = done;
	gone_ctx = ctx;
	return raid_delete(b->name, false, array_gone, b->ctx, err);
}

static const struct shape shapes[] = {
	{RAID_LEVEL_0, 64, 4, false, 512},
	{RAID_LEVEL_0, 4, 3, true, 512},
	{RAID_LEVEL_CONCAT, 16, 3, true, 512},
	{RAID_LEVEL_1, 0, 2, true, 512},
	{RAID_LEVEL_1, 0, 3, false, 4096},
	{RAID_LEVEL_5F, 32, 3, true, 512},
	{RAID_LEVEL_5F, 16, 4, false, 4096},
};

/* Those that pass requests down in each mode; the others in one, all of which come up, with threads and by hand. */
static void
passes_battery(void **state)
{
	for (size_t i = 0; i < sizeof(shapes) / sizeof(shapes[0]); i++) {
		struct battery battery = {
			.name = "Raid0",
			.ctx = (void *)(uintptr_t)&shapes[i],
			.create = create,
			.remove = remove_bdev,
			.unmap_zeroes = true,
			.may_cancel = shapes[i].level == RAID_LEVEL_1 || shapes[i].level == RAID_LEVEL_5F, /* what waits */
			.requests = 500,
		};

		if (shapes[i].level != RAID_LEVEL_1 && shapes[i].level != RAID_LEVEL_5F) {
			for (unsigned mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
				bdev_battery_run(&battery, (enum reactor_mode)mode, (i + mode) % 2 == 0);
			}
			continue;
		}
		if (i % 2 == 0 || i == 5) {
			bdev_battery_run(&battery, (enum reactor_mode)(i % 3), true);
		}
		if (i % 2 == 1 || i == 4) {
			bdev_battery_run(&battery, (enum reactor_mode)((i + 1) % 3), false);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
