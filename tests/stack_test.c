/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Modules on top of each other, three high, on memory and on a scripted base that is difficult: the battery in all
 * modes; and what only a stack can show: a reset, a removal and an abort find what waits at the bottom.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdevs/delay/delay.h"
#include "bdevs/error/error.h"
#include "bdevs/passthru/passthru.h"
#include "bdevs/powercut/powercut.h"
#include "bdevs/split/split.h"
#include "testkit/bdev_over.h"

/* A layer: made on what is below it, taken away by name. */
struct layer {
	const char *name;
	int (*create)(const char *base_name, struct err *err);
	int (*remove)(void (*done)(void *ctx, int status), void *ctx, struct err *err);
};

static int
make_delay(const char *base_name, struct err *err)
{
	struct delay_bdev_options o = {
		.name = "delay", .base_name = base_name, .latency_us = {20, 200, 30, 300}};

	return bdev_delay_create(&o, NULL, err);
}

static int
end_delay(void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_delay_delete("delay", done, ctx, err);
}

static int
make_passthru(const char *base_name, struct err *err)
{
	struct passthru_bdev_options o = {.name = "passthru", .base_name = base_name};

	return bdev_passthru_create(&o, NULL, err);
}

static int
end_passthru(void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_passthru_delete("passthru", done, ctx, err);
}

static int
make_powercut(const char *base_name, struct err *err)
{
	struct powercut_bdev_options o = {
		.name = "powercut", .base_name = base_name, .cache_bytes = POWERCUT_CACHE_MIN};

	return bdev_powercut_create(&o, NULL, err);
}

static int
end_powercut(void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_powercut_delete("powercut", done, ctx, err);
}

static int
make_error(const char *base_name, struct err *err)
{
	struct error_bdev_options o = {.base_name = base_name};

	return bdev_error_create(&o, NULL, err);
}

static int
end_error_on_base(void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_error_delete("EE_" OVER_BASE, done, ctx, err);
}

static int
end_error_on_passthru(void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_error_delete("EE_passthru", done, ctx, err);
}

static int
make_split(const char *base_name, struct err *err)
{
	struct split_options o = {.base_name = base_name, .count = 2};

	return bdev_split_create(&o, err);
}

static int
end_split_on_powercut(void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_split_delete("powercut", done, ctx, err);
}

static int
end_split_on_base(void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_split_delete(OVER_BASE, done, ctx, err);
}

/* From the bottom. */
static const struct layer stacks[][3] = {
	{{"EE_" OVER_BASE, make_error, end_error_on_base},
	 {"delay", make_delay, end_delay},
	 {"passthru", make_passthru, end_passthru}},
	{{"powercut", make_powercut, end_powercut},
	 {"powercutp1", make_split, end_split_on_powercut},
	 {"delay", make_delay, end_delay}},
	{{OVER_BASE "p1", make_split, end_split_on_base},
	 {"passthru", make_passthru, end_passthru},
	 {"EE_passthru", make_error, end_error_on_passthru}},
};

static const struct layer *stack;

static int
create(const struct over *over, struct err *err)
{
	const char *below = OVER_BASE;
	int rc = 0;

	if (bdev_find(over->battery.name) != NULL) {
		return err_set(err, -EEXIST, "a bdev named '%s' exists already", over->battery.name);
	}
	for (unsigned i = 0; i < 3 && rc == 0; i++) {
		rc = stack[i].create(below, err);
		below = stack[i].name;
	}
	return rc;
}

struct removal {
	unsigned left;
	void (*done)(void *ctx, int status);
	void *ctx;
};

static struct removal removal;

static void
layer_gone(void *ctx, int status)
{
	EXPECT(status == 0);
	if (--removal.left == 0) {
		removal.done(removal.ctx, 0);
	}
}

/* All at once: each goes when what stands on it has gone. */
static int
remove_stack(const struct over *over, void (*done)(void *ctx, int status), void *ctx,
	     struct err *err)
{
	removal = (struct removal){.left = 4, .done = done, .ctx = ctx};
	for (unsigned i = 3; i > 0; i--) {
		int rc = stack[i - 1].remove(layer_gone, NULL, err);

		if (rc != 0) {
			EXPECT(i == 3);
			return rc;
		}
	}
	layer_gone(NULL, 0);
	return 0;
}

static void
awkward(struct scripted_bdev *base)
{
	base->bdev.max_rw_blocks = 100;
	base->bdev.buffer_align = 512;
	base->bdev.write_cache = true;
	atomic_store(&base->refuse_every, 7);
	atomic_store(&base->shuffle, true);
}

static struct over
over_stack(unsigned i)
{
	stack = stacks[i];
	return (struct over){.battery = {.name = stacks[i][2].name,
					 .unmap_zeroes = true,
					 .may_cancel = true,
					 .requests = 500},
			     .base_blocks = 16384,
			     .base_block_size = 512,
			     .create = create,
			     .remove = remove_stack};
}

static void
pass_the_battery(void **state)
{
	for (unsigned i = 0; i < sizeof(stacks) / sizeof(stacks[0]); i++) {
		struct over over = over_stack(i);

		over_run_all(&over);
		over.set_up = awkward;
		over_run(&over, REACTOR_ADAPTIVE, true);
	}
}

/* ---- What waits at the bottom ---- */

static void
keep_everything(void *arg)
{
	struct error_injection what = {.type = ERROR_PENDING, .num = 8};

	EXPECT(bdev_error_inject("EE_" OVER_BASE, 1u << ERROR_READ, &what, NULL) == 0);
}

static void
the_bottom_hears_of_it(void **state)
{
	static uint8_t buf[ENV_WORKERS][512];
	struct iovec iov[ENV_WORKERS] = {{buf[0], 512}, {buf[1], 512}};
	struct env_io ios[4];

	for (unsigned what = 0; what < 2; what++) {
		struct over over = over_stack(0);
		struct env env;

		env_start(&env, REACTOR_ADAPTIVE, true);
		over_open(&over, &env);
		env_call(&env, env.app, keep_everything, NULL);
		for (unsigned i = 0; i < 4; i++) {
			ios[i] = (struct env_io){.op = BDEV_READ,
						 .num_blocks = 1,
						 .iov = &iov[i % ENV_WORKERS],
						 .iovcnt = 1};
			env_submit(&env.workers[i % ENV_WORKERS], &ios[i]);
		}
		env_linger(&env, 5);
		for (unsigned i = 0; i < 4; i++) {
			EXPECT(!atomic_load(&ios[i].done));
		}
		if (what == 0) {
			EXPECT(env_rw(&env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
		} else {
			over_pull(&over, &env);
		}
		for (unsigned i = 0; i < 4; i++) {
			EXPECT(env_finish(&ios[i]) == (what == 0 ? -ECANCELED : -ENODEV));
		}
		over_close(&over, &env);
		env_stop(&env);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pass_the_battery),
		cmocka_unit_test(the_bottom_hears_of_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
