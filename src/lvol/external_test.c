/* SPDX-License-Identifier: BSD-3-Clause */
/* Volumes over bdevs: cloned from them, missing them, losing them. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "bdev/stack.h"
#include "event/notice.h"
#include "lvol/harness.h"

#define MIB (UINT64_C(1) << 20)
#define IMAGE_UUID "8e5e2a40-6f0f-4c9b-9d3e-6a1d2f3b4c5d"

static struct env env;

static void
begin(enum reactor_mode mode, bool real_threads)
{
	h_start(&env, mode, real_threads);
	h_disk(&env, "d", 64 * MIB, 512, NULL);
	EXPECT(h_store_create(&env, "d", "vs") == 0);
	h_disk(&env, "image", 4 * MIB, 512, IMAGE_UUID);
	h_examined(&env);
	h_write(&env, "image", 0, 4 * MIB / 512, 1);
}

static struct bdev_desc *user;
static int open_rc;

static void
open_writer(void *arg)
{
	open_rc = bdev_open(arg, true, NULL, NULL, &user, NULL);
}

static void
close_user(void *arg)
{
	bdev_close(user);
}

static void
clones_of_bdevs(void **state)
{
	struct lvol_info info;

	begin(REACTOR_ADAPTIVE, true);
	h_disk(&env, "odd", 4 * MIB + 512, 512, NULL);
	h_disk(&env, "wide", 4 * MIB, 4096, NULL);
	h_examined(&env);
	EXPECT(h_create(&env, "vs", "own", 4 * MIB, true) == 0);
	EXPECT(h_clone_bdev(&env, "vs", "odd", "c") == -EINVAL && h_clone_bdev(&env, "vs", "wide", "c") == -EINVAL);
	EXPECT(h_clone_bdev(&env, "vs", "none", "c") == -ENODEV && h_clone_bdev(&env, "vs", "vs/own", "c") == -EINVAL);
	h_on_app(&env, open_writer, (void *)(uintptr_t)"image");
	EXPECT(open_rc == 0 && h_clone_bdev(&env, "vs", "image", "c") == -EPERM);
	h_on_app(&env, close_user, NULL);
	EXPECT(!h_exists(&env, "vs/c"));
	EXPECT_SAY(h_clone_bdev(&env, "vs", "image", "c") == 0, "%s", h_err.text);
	h_on_app(&env, open_writer, (void *)(uintptr_t)"image");
	EXPECT(open_rc == -EPERM);
	info = h_info(&env, "vs/c");
	EXPECT(info.external_clone && !info.clone && !info.degraded && info.bytes == 4 * MIB && info.allocated_clusters == 0);
	EXPECT(strcmp(info.external_name, IMAGE_UUID) == 0);
	h_expect(&env, "vs/c", 0, 8192, 1);
	h_write(&env, "vs/c", 100, 300, 2);
	h_expect(&env, "vs/c", 100, 300, 2);
	h_expect(&env, "vs/c", 0, 100, 1);
	h_expect(&env, "vs/c", 400, 1000, 1);
	h_expect(&env, "image", 0, 8192, 1);
	EXPECT(h_clone_bdev(&env, "vs", "image", "e") == 0 && h_snapshot(&env, "vs/e", "s") == 0);
	h_expect(&env, "vs/e", 0, 8192, 1);
	EXPECT(h_inflate(&env, "vs/c") == 0 && !h_info(&env, "vs/c").external_clone);
	EXPECT(h_delete(&env, "vs/e") == 0 && h_delete(&env, "vs/s") == 0 && h_store_idle(&env, "vs") == 0);
	h_expect(&env, "vs/c", 0, 100, 1);
	h_on_app(&env, open_writer, (void *)(uintptr_t)"image"); /* nobody needs it any more */
	EXPECT(open_rc == 0);
	h_on_app(&env, close_user, NULL);
	h_stop(&env);
}

static char told[256];
static struct notice_watcher watcher;

static void
on_notice(struct notice_watcher *w, const struct notice *n)
{
	if (strncmp(n->type, "lvol_", 5) == 0) {
		strcat(strcat(told, n->type + 5), " ");
	}
}

static void
watch(void *arg)
{
	notice_watch(&watcher, on_notice);
}

static void
unwatch(void *arg)
{
	notice_unwatch(&watcher);
}

/* Loaded without it: no bdev until it comes. */
static void
missing_ones_are_awaited(void **state)
{
	begin(REACTOR_INTERRUPT, false);
	EXPECT(h_clone_bdev(&env, "vs", "image", "c") == 0 && h_snapshot(&env, "vs/c", "s") == 0);
	EXPECT(h_clone(&env, "vs/s", "cc") == 0 && h_create(&env, "vs", "own", MIB, true) == 0);
	h_write(&env, "vs/cc", 0, 8, 2);
	EXPECT(h_store_unload(&env, "vs") == 0);
	h_disk_pull(&env, "d");
	h_disk_pull(&env, "image");
	h_disk_push(&env, "d");
	h_examined(&env);
	EXPECT(h_has_bdev(&env, "vs/own"));
	EXPECT(!h_has_bdev(&env, "vs/c") && !h_has_bdev(&env, "vs/s") && !h_has_bdev(&env, "vs/cc"));
	EXPECT(h_exists(&env, "vs/c") && h_info(&env, "vs/c").degraded && h_info(&env, "vs/cc").degraded);
	EXPECT(h_info(&env, h_info(&env, "vs/cc").id).degraded); /* by its UUID */
	EXPECT(h_delete(&env, "vs/c") == 0); /* a degraded one */
	told[0] = '\0';
	h_on_app(&env, watch, NULL);
	h_disk_push(&env, "image");
	h_examined(&env);
	EXPECT_SAY(strcmp(told, "complete complete ") == 0, "%s", told);
	h_on_app(&env, unwatch, NULL);
	EXPECT(h_has_bdev(&env, "vs/s") && h_has_bdev(&env, "vs/cc") && !h_info(&env, "vs/cc").degraded);
	h_expect(&env, "vs/cc", 0, 8, 2);
	h_expect(&env, "vs/cc", 8, 1000, 1);
	h_stop(&env);
}

/* Another parent instead of the one that does not come. */
static void
missing_ones_are_replaced(void **state)
{
	begin(REACTOR_INTERRUPT, false);
	EXPECT(h_clone_bdev(&env, "vs", "image", "c") == 0);
	h_write(&env, "vs/c", 0, 8, 2);
	EXPECT(h_store_unload(&env, "vs") == 0);
	h_disk_pull(&env, "d");
	h_disk_pull(&env, "image");
	h_disk_push(&env, "d");
	h_examined(&env);
	EXPECT(h_info(&env, "vs/c").degraded && !h_has_bdev(&env, "vs/c"));
	h_disk(&env, "other", 4 * MIB, 512, "c0ffee00-0000-4000-8000-000000000001");
	h_write(&env, "other", 0, 8192, 5);
	EXPECT_SAY(h_set_parent_bdev(&env, "vs/c", "other") == 0, "%s", h_err.text);
	EXPECT(!h_info(&env, "vs/c").degraded && h_has_bdev(&env, "vs/c"));
	h_expect(&env, "vs/c", 0, 8, 2);
	h_expect(&env, "vs/c", 8, 120, 1); /* copied with the write */
	h_expect(&env, "vs/c", 128, 1000, 5);
	h_disk_push(&env, "image");
	h_stop(&env);
}

/* In use while it goes: what is there itself can be read, the rest when it has come again. */
static void
one_that_goes(void **state)
{
	static uint8_t buf[4096];

	begin(REACTOR_ADAPTIVE, true);
	EXPECT(h_clone_bdev(&env, "vs", "image", "c") == 0);
	h_write(&env, "vs/c", 0, 8, 2);
	h_examined(&env);
	EXPECT(env_open(&env, "vs/c", true) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 1024, 8, buf) == 0);
	h_disk_pull(&env, "image");
	EXPECT(h_info(&env, "vs/c").degraded && h_has_bdev(&env, "vs/c"));
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 1024, 8, buf) == -ENODEV);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 1024, 8, buf) == -ENODEV);
	EXPECT(env_rw(&env.workers[1], BDEV_READ, 0, 8, buf) == 0);
	h_disk_push(&env, "image");
	h_examined(&env);
	EXPECT(!h_info(&env, "vs/c").degraded);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 1024, 8, buf) == 0);
	EXPECT(env_rw(&env.workers[1], BDEV_WRITE, 1024, 8, buf) == 0);
	env_close(&env);
	h_expect(&env, "vs/c", 0, 8, 2);
	h_expect(&env, "vs/c", 2048, 8, 1);
	h_stop(&env);
}

static void
parents_that_are_bdevs(void **state)
{
	begin(REACTOR_INTERRUPT, false);
	EXPECT(h_create(&env, "vs", "v", 4 * MIB, true) == 0 && h_create(&env, "vs", "small", 2 * MIB, true) == 0);
	EXPECT(h_set_parent_bdev(&env, "vs/small", "image") == -EINVAL);
	EXPECT(h_set_parent_bdev(&env, "vs/v", "none") == -ENODEV && h_set_parent_bdev(&env, "vs/v", "vs/v") == -EINVAL);
	EXPECT_SAY(h_set_parent_bdev(&env, "vs/v", "image") == 0, "%s", h_err.text);
	h_expect(&env, "vs/v", 0, 8192, 1);
	EXPECT(h_store_unload(&env, "vs") == 0 && h_store_load(&env, "d") == 0);
	h_expect(&env, "vs/v", 0, 8192, 1);
	EXPECT(h_decouple(&env, "vs/v") == 0 && h_info(&env, "vs/v").allocated_clusters == 64);
	h_stop(&env);
}

/* ---- Through a module that is no store ---- */

static void
window_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	stack_forward(ch, io, 0);
}

static int
window_start(struct stack *s, struct err *err)
{
	static const struct bdev_ops ops = {
		.module_name = "window",
		.destruct = stack_destruct,
		.channel_create = stack_channel_create,
		.channel_destroy = stack_channel_destroy,
		.submit = window_submit,
	};

	(void)err;
	s->bdev.ops = &ops;
	s->bdev.product_name = "window";
	return 0;
}

static void
window_free(struct stack *s)
{
	free(s);
}

static const struct stack_ops windows = {
	.module_name = "window",
	.transient = true,
	.start = window_start,
	.free = window_free,
};

static int window_rc;

static void
make_window(void *arg)
{
	const char *const *names = arg;

	window_rc = stack_create(calloc(1, sizeof(struct stack)), &windows, names[0], names[1], NULL, NULL);
}

static int
window(const char *name, const char *base)
{
	const char *names[] = {name, base};

	h_on_app(&env, make_window, names);
	h_examined(&env);
	return window_rc;
}

static void
no_volume_stands_on_itself(void **state)
{
	begin(REACTOR_INTERRUPT, false);
	EXPECT(h_create(&env, "vs", "v", 4 * MIB, true) == 0 && h_create(&env, "vs", "w", 4 * MIB, true) == 0);
	EXPECT(window("one", "vs/v") == 0 && window("two", "one") == 0);
	EXPECT(h_set_parent_bdev(&env, "vs/v", "one") == -EINVAL && strstr(h_err.text, "itself") != NULL);
	EXPECT(h_set_parent_bdev(&env, "vs/v", "two") == -EINVAL && strstr(h_err.text, "itself") != NULL);
	EXPECT(h_set_parent_bdev(&env, "vs/w", "two") == -EINVAL && strstr(h_err.text, "same store") != NULL);
	EXPECT(h_clone_bdev(&env, "vs", "two", "c") == -EINVAL && strstr(h_err.text, "same store") != NULL);
	EXPECT(window("three", "image") == 0); /* on something else it may */
	EXPECT_SAY(h_set_parent_bdev(&env, "vs/v", "three") == 0, "%s", h_err.text);
	h_expect(&env, "vs/v", 0, 8192, 1);
	h_stop(&env);
}

/* A volume of another store below; never one that stands on it itself. */
static void
between_stores(void **state)
{
	begin(REACTOR_INTERRUPT, false);
	EXPECT(h_create(&env, "vs", "outer", 32 * MIB, true) == 0);
	EXPECT(h_store_create(&env, "vs/outer", "ws") == 0);
	EXPECT(h_create(&env, "ws", "inner", 4 * MIB, true) == 0);
	EXPECT(h_create(&env, "ws", "big", 32 * MIB, true) == 0);
	h_write(&env, "ws/inner", 0, 128, 3);
	EXPECT(h_set_parent_bdev(&env, "vs/outer", "ws/big") == -EINVAL && strstr(h_err.text, "itself") != NULL);
	EXPECT(h_set_read_only(&env, "ws/inner") == 0);
	EXPECT_SAY(h_clone_bdev(&env, "vs", "ws/inner", "c") == 0, "%s", h_err.text);
	h_expect(&env, "vs/c", 0, 128, 3);
	h_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(clones_of_bdevs),        cmocka_unit_test(missing_ones_are_awaited),
		cmocka_unit_test(missing_ones_are_replaced),
		cmocka_unit_test(one_that_goes),          cmocka_unit_test(parents_that_are_bdevs),
		cmocka_unit_test(between_stores),         cmocka_unit_test(no_volume_stands_on_itself),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
