/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/passthru/passthru.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testkit/bdev_battery.h"
#include "testkit/scripted_bdev.h"

#define BLOCKS 4096

static struct scripted_bdev base;
static struct env env;
static atomic_bool deleted;

static const struct passthru_bdev_options options = {.name = "P", .base_name = "base"};

/* ---- The battery ---- */

static int
create(const struct battery *b, struct err *err)
{
	struct passthru_bdev_options o = {.name = b->name, .base_name = "base"};

	if (bdev_find("base") == NULL) {
		scripted_bdev_init(&base, "base", BLOCKS, 512);
		EXPECT(scripted_bdev_add(&base, err) == 0);
	}
	return bdev_passthru_create(&o, NULL, err);
}

struct removal {
	void (*done)(void *ctx, int status);
	void *ctx;
};

static void
base_gone(void *ctx, int status)
{
	struct removal *r = ctx;

	scripted_bdev_release(&base);
	r->done(r->ctx, status);
	free(r);
}

static void
passthru_gone(void *ctx, int status)
{
	scripted_bdev_remove(&base, base_gone, ctx);
}

static int
remove_both(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct removal *r = calloc(1, sizeof(*r));
	int rc;

	r->done = done;
	r->ctx = ctx;
	rc = bdev_passthru_delete(b->name, passthru_gone, r, err);
	if (rc != 0) {
		free(r);
	}
	return rc;
}

static int
resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	return scripted_bdev_resize(&base, num_blocks);
}

static void
passes_battery(void **state)
{
	static const struct battery battery = {
		.name = "Passthru0",
		.create = create,
		.remove = remove_both,
		.resize = resize,
		.unmap_zeroes = true,
		.may_cancel = true,
	};

	bdev_battery_run_all(&battery);
}

/* ---- Life ---- */

static void
set_flag(void *ctx, int status)
{
	atomic_store((atomic_bool *)ctx, true);
}

static void
call_create(void *arg)
{
	EXPECT(bdev_passthru_create(&options, arg, NULL) == 0);
}

static void
call_delete(void *arg)
{
	atomic_store(&deleted, false);
	EXPECT(bdev_passthru_delete("P", set_flag, &deleted, NULL) == 0);
}

static void
add_base(void *arg)
{
	scripted_bdev_init(&base, "base", BLOCKS, 512);
	memset(base.bdev.uuid, 7, sizeof(base.bdev.uuid));
	EXPECT(scripted_bdev_add(&base, NULL) == 0);
}

static atomic_bool base_removed;

static void
remove_base(void *arg)
{
	atomic_store(&base_removed, false);
	scripted_bdev_remove(&base, set_flag, &base_removed);
}

static void
check_errors(void *arg)
{
	struct passthru_bdev_options other = {.name = "Q", .base_name = "base"};
	struct passthru_bdev_options o;
	struct bdev_desc *desc;
	struct err err = ERR_NONE;

	EXPECT(bdev_passthru_create(&options, NULL, &err) == -EEXIST && strstr(err.text, "'P'"));
	EXPECT(bdev_passthru_create(&other, NULL, &err) == -EPERM && strstr(err.text, "claimed by passthru"));
	EXPECT(bdev_find("Q") == NULL);
	EXPECT(bdev_passthru_delete("base", NULL, NULL, &err) == -ENODEV);
	EXPECT(bdev_open("base", true, NULL, NULL, &desc, &err) == -EPERM);
	EXPECT(bdev_passthru_get_options(bdev_find("P"), &o) && strcmp(o.base_name, "base") == 0);
	EXPECT(!bdev_passthru_get_options(bdev_find("base"), &o));
	EXPECT(bdev_passthru_list(0, &o) && strcmp(o.name, "P") == 0 && !bdev_passthru_list(1, &o));
}

static void
waits_for_its_base(void **state)
{
	struct bdev *bdev = NULL;
	uuid_t first, second;

	env_start(&env, REACTOR_INTERRUPT, false);
	env_call(&env, env.app, call_create, &bdev);
	assert_null(bdev);
	env_call(&env, env.app, add_base, NULL);
	assert_int_equal(env_open(&env, "P", true), 0);
	bdev_uuid(env.bdev, first);
	env_call(&env, env.app, check_errors, NULL);

	/* The base goes: so does the bdev, with an answer to everything, and it comes back. */
	env_call(&env, env.app, remove_base, NULL);
	env_wait_count(&env, &env.removes, 1);
	assert_int_equal(env_rw(&env.workers[0], BDEV_FLUSH, 0, 0, NULL), -ENODEV);
	env_close(&env);
	env_wait(&env, &base_removed);
	scripted_bdev_release(&base);
	env_call(&env, env.app, add_base, NULL);
	assert_int_equal(env_open(&env, "P", true), 0);
	bdev_uuid(env.bdev, second);
	assert_int_equal(uuid_compare(first, second), 0);
	env_close(&env);

	env_call(&env, env.app, call_delete, NULL);
	env_wait(&env, &deleted);
	env_call(&env, env.app, remove_base, NULL);
	env_wait(&env, &base_removed);
	scripted_bdev_release(&base);
	/* One that waits is deleted too. */
	env_call(&env, env.app, call_create, &bdev);
	env_call(&env, env.app, call_delete, NULL);
	env_wait(&env, &deleted);
	env_stop(&env);
}

/* An abort reaches the base's own queue: the request's child waits there, refused. */
static void
aborts_below(void **state)
{
	uint8_t *buf = calloc(8, 512);
	struct iovec iov = {.iov_base = buf, .iov_len = 8 * 512};
	struct env_io first = {.op = BDEV_READ, .num_blocks = 8, .iov = &iov, .iovcnt = 1};
	struct env_io second = first;
	struct env_io abort = {.op = BDEV_ABORT};

	env_start(&env, REACTOR_POLL, false);
	env_call(&env, env.app, add_base, NULL);
	env_call(&env, env.app, call_create, NULL);
	assert_int_equal(env_open(&env, "P", true), 0);
	atomic_store(&base.queue_max, 1);
	atomic_store(&base.hold, true);
	env_submit(&env.workers[0], &first);
	env_submit(&env.workers[0], &second);
	env_linger(&env, 1);
	abort.target = &second;
	env_submit(&env.workers[0], &abort);
	assert_int_equal(env_finish(&abort), 0);
	assert_int_equal(env_finish(&second), -ECANCELED);
	abort.target = &first;
	env_submit(&env.workers[0], &abort);
	assert_int_equal(env_finish(&abort), -ENOENT);
	atomic_store(&base.hold, false);
	atomic_store(&base.queue_max, 0);
	assert_int_equal(env_rw(&env.workers[0], BDEV_RESET, 0, 0, NULL), 0);
	assert_true(env_finish(&first) <= 0);
	env_close(&env);
	env_call(&env, env.app, call_delete, NULL);
	env_wait(&env, &deleted);
	env_call(&env, env.app, remove_base, NULL);
	env_wait(&env, &base_removed);
	scripted_bdev_release(&base);
	env_stop(&env);
	free(buf);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(waits_for_its_base),
		cmocka_unit_test(aborts_below),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
