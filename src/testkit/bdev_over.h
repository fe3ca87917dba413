/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For tests of modules that stand on another bdev: the battery on a scripted base, which checks what the module
 * hands down; and what only such modules must do.
 */
#ifndef TESTKIT_BDEV_OVER_H
#define TESTKIT_BDEV_OVER_H

#include "testkit/bdev_battery.h"
#include "testkit/scripted_bdev.h"

#define OVER_BASE "base0"

struct over {
	/* Set by the test: name and the flags of a battery; create, remove, resize and ctx are over's own. */
	struct battery battery;
	uint64_t base_blocks;
	uint32_t base_block_size;
	/* Both on the app thread: the bdev battery.name on OVER_BASE. */
	int (*create)(const struct over *over, struct err *err);
	int (*remove)(const struct over *over, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err);
	bool resizes; /* with its base */
	/* The base before it is added; may be NULL. */
	void (*set_up)(struct scripted_bdev *base);

	struct scripted_bdev base;
	bool base_there;
	bool pulled;
	atomic_bool base_gone;
	void (*done)(void *ctx, int status);
	void *done_ctx;
};

/* bdev_battery_run_all(), and over_base_goes() in each mode. */
void over_run_all(struct over *over);
void over_run(struct over *over, enum reactor_mode mode, bool real_threads);

/* over's battery, for bdev_battery_run_all(). */
const struct battery *over_battery(struct over *over);

/* On a stage that the test has started: base and module's bdev, opened for writing; and the reverse. */
void over_open(struct over *over, struct env *env);
void over_close(struct over *over, struct env *env);

/* Ends the base's `hold`: scripted_let_go() for channels of the module's bdev, whose context begins with a struct
 * stack_channel. */
void over_let_go(struct over *over, struct env *env);

/* Begins to remove the base; over_close() waits for the end. */
void over_pull(struct over *over, struct env *env);

/*
 * The base is pulled out under load: all requests end, the bdev goes; when a base of that name is there again, so is
 * the bdev. Also: created before its base, and deleted without.
 */
void over_base_goes(struct over *over, enum reactor_mode mode, bool real_threads);

#endif
