/* SPDX-License-Identifier: BSD-3-Clause */
/* Names, descriptors, claims, events. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testkit/scripted_bdev.h"

static struct env env;
static struct scripted_bdev a, b, late;

/* fn on the app thread, with a and b initialised, not registered. */
static void
on_app(void (*fn)(void *arg))
{
	env_start(&env, REACTOR_INTERRUPT, false);
	scripted_bdev_init(&a, "A", 1000, 512);
	scripted_bdev_init(&b, "B", 500, 4096);
	env_call(&env, env.app, fn, NULL);
	env_linger(&env, 5);
	scripted_bdev_release(&a);
	scripted_bdev_release(&b);
	env_stop(&env);
}

static void
remove_all(void)
{
	while (bdev_first() != NULL) {
		bdev_unregister(bdev_first(), NULL, NULL);
	}
}

/* ---- Names ---- */

static void
names_app(void *arg)
{
	char text[UUID_STR_LEN], upper[UUID_STR_LEN];
	struct err err = ERR_NONE;

	EXPECT(bdev_first() == NULL && bdev_find("A") == NULL);
	EXPECT(scripted_bdev_add(&a, &err) == 0);
	EXPECT(bdev_find("A") == &a.bdev && bdev_find("B") == NULL && bdev_find("") == NULL);
	uuid_unparse_lower(a.bdev.uuid, text);
	EXPECT(!uuid_is_null(a.bdev.uuid) && strcmp(bdev_alias(&a.bdev, 0), text) == 0);
	EXPECT(bdev_alias(&a.bdev, 1) == NULL && bdev_alias(&a.bdev, 7) == NULL);
	EXPECT(bdev_find(text) == &a.bdev);
	uuid_unparse_upper(a.bdev.uuid, upper);
	EXPECT(bdev_find(upper) == &a.bdev);

	EXPECT(bdev_alias_add(&a.bdev, "lvs/a", NULL) == 0);
	EXPECT(bdev_find("lvs/a") == &a.bdev && strcmp(bdev_alias(&a.bdev, 1), "lvs/a") == 0);
	EXPECT(bdev_alias_add(&a.bdev, "lvs/a", NULL) == -EEXIST);
	EXPECT(bdev_alias_add(&a.bdev, "A", NULL) == -EEXIST);

	/* The UUID of another. */
	uuid_copy(b.bdev.uuid, a.bdev.uuid);
	EXPECT(scripted_bdev_add(&b, &err) == -EEXIST && strstr(err.text, text) != NULL);
	EXPECT(bdev_find("B") == NULL && bdev_next(&a.bdev) == NULL && b.bdev.core == NULL);
	/* Its alias as a name. */
	uuid_clear(b.bdev.uuid);
	strcpy(b.bdev.name, "A");
	EXPECT(scripted_bdev_add(&b, &err) == -EEXIST);
	strcpy(b.bdev.name, "B");
	EXPECT(scripted_bdev_add(&b, &err) == 0);
	EXPECT(bdev_first() == &a.bdev && bdev_next(&a.bdev) == &b.bdev &&
	       bdev_next(&b.bdev) == NULL);
	EXPECT(uuid_compare(a.bdev.uuid, b.bdev.uuid) != 0);

	EXPECT(bdev_alias_remove(&b.bdev, "lvs/a") == -ENOENT);
	EXPECT(bdev_alias_remove(&a.bdev, "A") == -ENOENT);
	EXPECT(bdev_alias_remove(&a.bdev, text) == -ENOENT);
	EXPECT(bdev_alias_remove(&a.bdev, "lvs/a") == 0 && bdev_find("lvs/a") == NULL);
	remove_all();
	/* Free at once, although the bdevs themselves still are. */
	EXPECT(bdev_find("A") == NULL && bdev_find(text) == NULL);
	EXPECT(!atomic_load(&a.destructed));
}

static void
names(void **state)
{
	on_app(names_app);
	assert_true(a.destructed && b.destructed);
}

static void
uuid_as_name_app(void *arg)
{
	free(a.bdev.name);
	a.bdev.name = strdup("a91feb91-e7b8-4223-921f-a4659f96a1bb");
	uuid_parse(a.bdev.name, a.bdev.uuid);
	EXPECT(scripted_bdev_add(&a, NULL) == 0);
	EXPECT(bdev_alias(&a.bdev, 0) == NULL);
	EXPECT(bdev_find("A91FEB91-e7b8-4223-921f-a4659f96a1bb") == &a.bdev);
	remove_all();
}

static void
uuid_as_name(void **state)
{
	on_app(uuid_as_name_app);
}

/* ---- Fields ---- */

static void
bad_fields_app(void *arg)
{
	struct bdev good = a.bdev;
	struct err err;

#define REFUSED(field, value) \
	do { \
		err = ERR_NONE; \
		a.bdev.field = (value); \
		EXPECT(bdev_register(&a.bdev, &err) == -EINVAL && \
		       strstr(err.text, "'A'") != NULL); \
		a.bdev = good; \
	} while (0)
	REFUSED(block_size, 0);
	REFUSED(block_size, 256);
	REFUSED(block_size, 520);
	REFUSED(block_size, 131072);
	REFUSED(num_blocks, 0);
	REFUSED(num_blocks, UINT64_MAX);
	REFUSED(num_blocks, (UINT64_C(1) << 54) + 1);
	REFUSED(buffer_align, 3);
	REFUSED(buffer_align, 131072);
	REFUSED(physical_block_size, 256);
	REFUSED(physical_block_size, 600);
#undef REFUSED
	EXPECT(bdev_first() == NULL);
	a.bdev.num_blocks = (UINT64_C(1) << 54) - 1;
	EXPECT(bdev_register(&a.bdev, &err) == 0);
	EXPECT(bdev_physical_block_size(&a.bdev) == 512 && bdev_buffer_align(&a.bdev) == 1);
	EXPECT(bdev_unmap_granularity(&a.bdev) == 1);
	EXPECT(bdev_io_bytes(&a.bdev) % 64 == 0 &&
	       bdev_io_bytes(&a.bdev) >= sizeof(struct bdev_io) + sizeof(struct list));
	remove_all();
}

static void
bad_fields(void **state)
{
	on_app(bad_fields_app);
}

static void
operations_app(void *arg)
{
	a.bdev.ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE;
	b.bdev.readonly = true;
	EXPECT(scripted_bdev_add(&a, NULL) == 0 && scripted_bdev_add(&b, NULL) == 0);
	EXPECT(bdev_supports(&a.bdev, BDEV_READ) && bdev_supports(&a.bdev, BDEV_WRITE));
	EXPECT(bdev_supports(&a.bdev, BDEV_WRITE_ZEROES) &&
	       !bdev_supports_natively(&a.bdev, BDEV_WRITE_ZEROES));
	EXPECT(bdev_supports(&a.bdev, BDEV_RESET) && !bdev_supports_natively(&a.bdev, BDEV_RESET));
	EXPECT(!bdev_supports(&a.bdev, BDEV_UNMAP) && !bdev_supports(&a.bdev, BDEV_FLUSH));
	EXPECT(bdev_supports(&b.bdev, BDEV_READ) && bdev_supports(&b.bdev, BDEV_FLUSH));
	EXPECT(!bdev_supports(&b.bdev, BDEV_WRITE) && !bdev_supports(&b.bdev, BDEV_UNMAP));
	EXPECT(!bdev_supports(&b.bdev, BDEV_WRITE_ZEROES) && bdev_readonly(&b.bdev));
	EXPECT(strcmp(bdev_op_name(BDEV_READ), "read") == 0 &&
	       strcmp(bdev_op_name(BDEV_RESET), "reset") == 0);
	EXPECT(strcmp(bdev_op_name(BDEV_WRITE_ZEROES), "write_zeroes") == 0);
	remove_all();
}

static void
operations(void **state)
{
	on_app(operations_app);
}

/* ---- Descriptors ---- */

static void
claims_app(void *arg)
{
	struct bdev_desc *reader, *writer, *other;
	struct err err = ERR_NONE;

	b.bdev.readonly = true;
	EXPECT(scripted_bdev_add(&a, NULL) == 0 && scripted_bdev_add(&b, NULL) == 0);
	EXPECT(bdev_open("none", false, NULL, NULL, &reader, &err) == -ENODEV &&
	       strstr(err.text, "none") != NULL);
	EXPECT(bdev_open("B", true, NULL, NULL, &reader, &err) == -EROFS);
	EXPECT(bdev_open("B", false, NULL, NULL, &reader, &err) == 0);
	bdev_close(reader);
	EXPECT(bdev_open("A", false, NULL, NULL, &reader, NULL) == 0);
	EXPECT(bdev_open("A", true, NULL, NULL, &writer, NULL) == 0);
	EXPECT(bdev_open("A", true, NULL, NULL, &other, NULL) == 0);
	EXPECT(bdev_claim(writer, BDEV_CLAIM_WRITE_ONE, 0, "lvol", NULL) == -EPERM && !bdev_claimed(&a.bdev));
	bdev_close(other);
	EXPECT(bdev_claim(writer, BDEV_CLAIM_WRITE_ONE, 0, "lvol", NULL) == 0 && bdev_claimed(&a.bdev));
	EXPECT(bdev_claim(reader, BDEV_CLAIM_WRITE_ONE, 0, "raid", NULL) == -EPERM);
	EXPECT(bdev_open("A", true, NULL, NULL, &other, &err) == -EPERM &&
	       strstr(err.text, "lvol") != NULL);
	EXPECT(bdev_open("A", false, NULL, NULL, &other, &err) == 0);
	bdev_close(other);
	bdev_close(writer);
	EXPECT(!bdev_claimed(&a.bdev) && bdev_open("A", true, NULL, NULL, &writer, NULL) == 0);
	bdev_close(writer);
	bdev_close(reader);
	bdev_close(NULL);
	remove_all();
}

static void
claims(void **state)
{
	on_app(claims_app);
}

/* ---- Events ---- */

static struct bdev_desc *descs[3];
static int told[3];

/* The first to hear of the removal closes itself and the second, which has not heard yet. */
static void
close_two(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	EXPECT(bdev == &a.bdev);
	told[(uintptr_t)ctx]++;
	if (ev == BDEV_EVENT_REMOVE && ctx == NULL) {
		bdev_close(descs[0]);
		bdev_close(descs[1]);
	}
}

static void
open_three(void *arg)
{
	EXPECT(scripted_bdev_add(&a, NULL) == 0);
	for (uintptr_t i = 0; i < 3; i++) {
		EXPECT(bdev_open("A", true, close_two, (void *)i, &descs[i], NULL) == 0);
	}
}

static void
grow_twice(void *arg)
{
	EXPECT(bdev_resize(&a.bdev, 999) == -EBUSY);
	EXPECT(bdev_resize(&a.bdev, 0) == -EINVAL);
	EXPECT(bdev_resize(&a.bdev, UINT64_MAX) == -EINVAL);
	EXPECT(bdev_resize(&a.bdev, 1000) == 0);
	EXPECT(bdev_resize(&a.bdev, 1100) == 0);
	EXPECT(bdev_resize(&a.bdev, 1200) == 0);
	EXPECT(told[0] == 0 && bdev_num_blocks(&a.bdev) == 1200);
}

static void
unregister_a(void *arg)
{
	bdev_unregister(&a.bdev, NULL, NULL);
	EXPECT(told[2] == 1 && bdev_resize(&a.bdev, 2000) == -ENODEV);
}

static void
close_third(void *arg)
{
	bdev_close(descs[2]);
}

static void
events(void **state)
{
	env_start(&env, REACTOR_INTERRUPT, false);
	scripted_bdev_init(&a, "A", 1000, 512);
	memset(told, 0, sizeof(told));
	env_call(&env, env.app, open_three, NULL);
	env_call(&env, env.app, grow_twice, NULL);
	env_linger(&env, 5);
	assert_true(told[0] == 1 && told[1] == 1 && told[2] == 1);
	env_call(&env, env.app, unregister_a, NULL);
	env_linger(&env, 5);
	assert_true(told[0] == 2 && told[1] == 1 && told[2] == 2);
	assert_false(a.destructed);
	env_call(&env, env.app, close_third, NULL);
	env_wait(&env, &a.destructed);
	scripted_bdev_release(&a);
	env_stop(&env);
}

/* ---- The end of all ---- */

static atomic_bool all_over;

static void
over(void *ctx)
{
	EXPECT(ctx == &env && a.destructed && b.destructed);
	all_over = true;
}

/* B stands on A. */
static void
take_b_down(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	told[0]++;
	bdev_unregister(&b.bdev, NULL, NULL);
	EXPECT(bdev_open("B", false, take_b_down, NULL, &descs[2], NULL) == -ENODEV);
	bdev_close(descs[0]);
}

static void
hear(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	EXPECT(bdev == &b.bdev && ev == BDEV_EVENT_REMOVE);
}

static void
open_stack(void *arg)
{
	EXPECT(scripted_bdev_add(&a, NULL) == 0 && scripted_bdev_add(&b, NULL) == 0);
	EXPECT(bdev_open("A", true, take_b_down, NULL, &descs[0], NULL) == 0);
	EXPECT(bdev_open("B", true, hear, NULL, &descs[1], NULL) == 0);
}

static void
shut_down(void *arg)
{
	scripted_bdev_init(&late, "LATE", 1000, 512);
	bdev_shutdown(over, &env);
	EXPECT(bdev_first() == NULL && scripted_bdev_add(&late, NULL) == -ESHUTDOWN);
}

static void
unregister_b(void *arg)
{
	bdev_unregister(&b.bdev, NULL, NULL);
}

static void
close_b(void *arg)
{
	bdev_close(descs[1]);
}

static void
shutdown_waits(bool pending)
{
	env_start(&env, REACTOR_INTERRUPT, false);
	scripted_bdev_init(&a, "A", 1000, 512);
	scripted_bdev_init(&b, "B", 500, 4096);
	memset(told, 0, sizeof(told));
	all_over = false;
	env_call(&env, env.app, open_stack, NULL);
	if (pending) {
		env_call(&env, env.app, unregister_b, NULL);
	}
	env_call(&env, env.app, shut_down, NULL);
	env_linger(&env, 5);
	assert_true(told[0] == 1 && a.destructed && !b.destructed && !all_over);
	env_call(&env, env.app, close_b, NULL);
	env_wait(&env, &all_over);
	scripted_bdev_release(&late);
	scripted_bdev_release(&a);
	scripted_bdev_release(&b);
	env_stop(&env);
}

static void
shutdown_waits_for_all(void **state)
{
	shutdown_waits(false);
}

static void
shutdown_waits_for_pending_ones(void **state)
{
	shutdown_waits(true);
}

/* ---- Notices and options ---- */

static char notices[256];

static void
note(void *ctx, const char *name, enum bdev_notice what)
{
	char one[] = {"+-=!"[what], '\0'};

	EXPECT(ctx == &env);
	strcat(notices, one);
	strcat(notices, name);
}

static void
notices_app(void *arg)
{
	bdev_set_notice(note, &env);
	EXPECT(scripted_bdev_add(&a, NULL) == 0 && scripted_bdev_add(&b, NULL) == 0);
	EXPECT(bdev_resize(&b.bdev, 400) == 0 && bdev_num_blocks(&b.bdev) == 400);
	bdev_unregister(&a.bdev, NULL, NULL);
}

static void
end_notices_app(void *arg)
{
	EXPECT(strcmp(notices, "+A+B!A-A=B") == 0);
	bdev_set_notice(NULL, NULL);
	remove_all();
	EXPECT(strcmp(notices, "+A+B!A-A=B") == 0);
}

static void
watcher_is_told(void **state)
{
	env_start(&env, REACTOR_INTERRUPT, false);
	scripted_bdev_init(&a, "A", 1000, 512);
	scripted_bdev_init(&b, "B", 500, 4096);
	env_call(&env, env.app, notices_app, NULL);
	env_linger(&env, 5);
	env_call(&env, env.app, end_notices_app, NULL);
	env_wait(&env, &b.destructed);
	scripted_bdev_release(&a);
	scripted_bdev_release(&b);
	env_stop(&env);
}

static void
options(void **state)
{
	struct bdev_options old, new, got;
	struct err err = ERR_NONE;

	bdev_get_options(&old);
	assert_int_equal(old.io_pool_size, 65535);
	new = old;
	new.io_pool_size = 100;
	assert_int_equal(bdev_set_options(&new, &err), -EINVAL);
	assert_non_null(strstr(err.text, "bdev_io_cache_size"));
	new.io_pool_size = 0;
	new.io_cache_size = 0;
	assert_int_equal(bdev_set_options(&new, &err), -EINVAL);
	bdev_get_options(&got);
	assert_int_equal(got.io_pool_size, 65535);
	new.io_pool_size = 1000;
	assert_int_equal(bdev_set_options(&new, &err), 0);
	bdev_get_options(&got);
	assert_int_equal(got.io_pool_size, 1000);
	assert_int_equal(bdev_set_options(&old, &err), 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names),           cmocka_unit_test(uuid_as_name),
		cmocka_unit_test(bad_fields),      cmocka_unit_test(operations),
		cmocka_unit_test(claims),          cmocka_unit_test(events),
		cmocka_unit_test(watcher_is_told), cmocka_unit_test(options),
		cmocka_unit_test(shutdown_waits_for_all), cmocka_unit_test(shutdown_waits_for_pending_ones),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
