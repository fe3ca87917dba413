/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What every bdev must do, whatever is behind it. Each run makes the bdev anew; see
 * bdev_battery_run().
 */
#ifndef TESTKIT_BDEV_BATTERY_H
#define TESTKIT_BDEV_BATTERY_H

#include "testkit/bdev_env.h"

struct battery {
	const char *name; /* of the bdev that create makes */
	void *ctx;

	/* All on the app thread. The bdev should have at least 2 MiB and 512 blocks. */
	int (*create)(const struct battery *b, struct err *err);
	/* done after the last close; 0 or -errno, as bdev_null_delete(). */
	int (*remove)(const struct battery *b, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err);
	/* Grows it to so many blocks, as bdev_null_resize(); NULL: it cannot. */
	int (*resize)(const struct battery *b, uint64_t num_blocks, struct err *err);

	bool no_data;      /* reads return anything: null */
	bool shows_holes;  /* what was unmapped is known to be a hole, whole mebibytes at least */
	bool unmap_zeroes; /* what was unmapped reads as zero */
	bool may_cancel;   /* requests may end with -ECANCELED during a reset; those of disks elsewhere when it takes a second */
	unsigned depth;    /* of the loads, 0: 32 */
	unsigned requests; /* of the random load, per thread; 0: 3000 */
};

/* All of it, in one mode. real_threads: on three system threads, else all on the caller, polled
 * by hand. Nothing in the latter case under TSan. */
void bdev_battery_run(const struct battery *b, enum reactor_mode mode, bool real_threads);

/* In all modes, by hand and with threads; aborts at the first thing that is wrong. */
void bdev_battery_run_all(const struct battery *b);

#endif
