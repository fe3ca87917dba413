/* SPDX-License-Identifier: BSD-3-Clause */
/* What every bdev must do, over a real target. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "bdevs/iscsi/harness.h"
#include "bdevs/iscsi/iscsi.h"
#include "testkit/bdev_battery.h"

#define DISK_BYTES ((uint64_t)8 << 20)

static struct tgt tgt;
static unsigned battery_sessions;

static void
attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	EXPECT_SAY(bdev != NULL, "%s", err_text(err));
}

static int
create(const struct battery *b, struct err *err)
{
	const struct iscsi_bdev_options o = {.name = b->name,
					     .initiator_iqn = "iqn.2024-01.io.example:client",
					     .url = tgt_url(&tgt, "", 1),
					     .sessions = battery_sessions,
					     .reconnect_s = 30};

	return bdev_iscsi_create(&o, attached, NULL, err);
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_iscsi_delete(b->name, done, ctx, err);
}

static const struct battery battery = {
	.name = "iscsi0",
	.create = create,
	.remove = remove_bdev,
	.shows_holes = true,
	.unmap_zeroes = true,
	.may_cancel = true,
	.requests = 300,
};

static void
run_battery(enum reactor_mode mode, bool real_threads, unsigned sessions, unsigned block_size, bool thick)
{
	struct battery b = battery;

	tgt_init(&tgt, DISK_BYTES, block_size);
	tgt.thick = thick;
	b.shows_holes = b.unmap_zeroes = !thick;
	battery_sessions = sessions;
	tgt_start(&tgt);
	bdev_battery_run(&b, mode, real_threads);
	tgt_release(&tgt);
}

/* A session for each thread; one for two of them; one for all. */
static void
passes_battery(void **state)
{
	run_battery(REACTOR_POLL, true, 0, 512, false);
	run_battery(REACTOR_INTERRUPT, true, 2, 512, false);
	run_battery(REACTOR_ADAPTIVE, true, 1, 4096, false);
	run_battery(REACTOR_POLL, false, 1, 512, true);
	run_battery(REACTOR_INTERRUPT, false, 0, 4096, false);
	run_battery(REACTOR_ADAPTIVE, false, 2, 512, false);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
	};

	if (!tgt_there()) {
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
