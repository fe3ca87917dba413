/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/split/split.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testkit/bdev_over.h"

#define MIB_BLOCKS 2048u

/* ---- One part passes for a disk ---- */

static int
create(const struct over *over, struct err *err)
{
	struct split_options options = {.base_name = OVER_BASE, .count = 3};
	int rc = bdev_split_create(&options, err);

	if (rc == -EEXIST) { /* the battery asks for the part's name in it */
		err_append(err, ": %s", over->battery.name);
	}
	return rc;
}

static int
remove_split(const struct over *over, void (*done)(void *ctx, int status), void *ctx,
	     struct err *err)
{
	return bdev_split_delete(OVER_BASE, done, ctx, err);
}

static void
awkward(struct scripted_bdev *base)
{
	base->bdev.optimal_boundary_blocks = 24;
	base->bdev.max_rw_blocks = 100;
	base->bdev.buffer_align = 512;
	base->bdev.write_cache = true;
	atomic_store(&base->refuse_every, 7);
	atomic_store(&base->shuffle, true);
}

static void
passes_battery(void **state)
{
	struct over over = {.battery = {.name = OVER_BASE "p1", .unmap_zeroes = true},
			    .base_blocks = 3 * 8192 + 2,
			    .base_block_size = 512,
			    .create = create,
			    .remove = remove_split};

	over_run_all(&over);
	over.set_up = awkward;
	over_run(&over, REACTOR_ADAPTIVE, true);
}

/* ---- Sizes ---- */

struct sizes {
	struct scripted_bdev base;
	struct split_options options;
	int rc;
	unsigned parts;
	uint64_t blocks;
	atomic_bool gone;
};

static void
look(struct sizes *s)
{
	const struct bdev *b = NULL;
	struct split_info info;
	char name[64];

	s->parts = 0;
	while ((b = bdev_split_next_part(OVER_BASE, b)) != NULL) {
		snprintf(name, sizeof(name), OVER_BASE "p%u", s->parts);
		EXPECT(strcmp(bdev_name(b), name) == 0);
		EXPECT(bdev_split_info(b, &info));
		s->blocks = bdev_num_blocks(b);
		EXPECT(info.offset_blocks == s->parts * s->blocks);
		EXPECT(strcmp(info.base_name, OVER_BASE) == 0);
		s->parts++;
	}
}

static void
split_on_app(void *arg)
{
	struct sizes *s = arg;
	struct err err = ERR_NONE;

	s->rc = bdev_split_create(&s->options, &err);
	EXPECT(s->rc == err.code);
	EXPECT(s->rc == 0 || strstr(err.text, OVER_BASE) != NULL);
	look(s);
}

static void
gone(void *ctx, int status)
{
	struct sizes *s = ctx;

	EXPECT(status == 0);
	atomic_store(&s->gone, true);
}

static void
unsplit_on_app(void *arg)
{
	struct sizes *s = arg;
	struct split_options o;

	EXPECT(bdev_split_get(0, &o) && o.count == s->options.count &&
	       o.size_mb == s->options.size_mb);
	EXPECT(!bdev_split_get(1, &o));
	atomic_store(&s->gone, false);
	EXPECT(bdev_split_delete(OVER_BASE, gone, s, NULL) == 0);
}

static void
expect_split(struct env *env, struct sizes *s, uint32_t count, uint64_t mb, unsigned parts,
	     uint64_t blocks)
{
	s->options = (struct split_options){.base_name = OVER_BASE, .count = count, .size_mb = mb};
	env_call(env, env->app, split_on_app, s);
	EXPECT_SAY(s->rc == 0 && s->parts == parts && s->blocks == blocks, "%d %u %llu", s->rc,
		   s->parts, (unsigned long long)s->blocks);
	env_call(env, env->app, unsplit_on_app, s);
	env_wait(env, &s->gone);
}

static void
expect_refused(struct env *env, struct sizes *s, uint32_t count, uint64_t mb)
{
	s->options = (struct split_options){.base_name = OVER_BASE, .count = count, .size_mb = mb};
	env_call(env, env->app, split_on_app, s);
	EXPECT(s->rc == -EINVAL && s->parts == 0);
}

static void
sizes(void **state)
{
	struct sizes s;
	struct env env;

	env_start(&env, REACTOR_INTERRUPT, false);
	scripted_bdev_init(&s.base, OVER_BASE, 10 * MIB_BLOCKS + 100, 512);
	scripted_open(&s.base, &env);
	env_close(&env);
	expect_split(&env, &s, 1, 0, 1, 10 * MIB_BLOCKS + 100);
	expect_split(&env, &s, 3, 0, 3, (10 * MIB_BLOCKS + 100) / 3);
	expect_split(&env, &s, 2, 3, 2, 3 * MIB_BLOCKS);
	/* As many as fit. */
	expect_split(&env, &s, 4, 3, 3, 3 * MIB_BLOCKS);
	expect_split(&env, &s, 4096, 0, 4096, 5);
	expect_refused(&env, &s, 0, 0);
	expect_refused(&env, &s, 4097, 0);
	expect_refused(&env, &s, 1, 11);
	expect_refused(&env, &s, 1, UINT64_MAX);
	EXPECT(env_open(&env, OVER_BASE, true) == 0);
	scripted_close(&s.base, &env);
	env_stop(&env);
}

/* ---- Parts are apart ---- */

static struct env_worker *
worker_on(struct env *env, const char *name)
{
	EXPECT(env_open(env, name, true) == 0);
	return &env->workers[0];
}

static void
split_in_two(void *arg)
{
	struct split_options options = {.base_name = OVER_BASE, .count = 2};
	uuid_t a, b;

	EXPECT(bdev_split_create(&options, NULL) == 0);
	/* The base is taken. */
	EXPECT(bdev_claimed(bdev_find(OVER_BASE)));
	bdev_uuid(bdev_find(OVER_BASE "p0"), a);
	bdev_uuid(bdev_find(OVER_BASE "p1"), b);
	EXPECT(uuid_compare(a, b) != 0);
	EXPECT(strcmp(bdev_product_name(bdev_find(OVER_BASE "p0")), "Split Disk") == 0);
	EXPECT(bdev_split_create(&options, NULL) == -EEXIST);
}

static void
unsplit_twice(void *arg)
{
	EXPECT(bdev_split_delete(OVER_BASE, gone, arg, NULL) == 0);
	EXPECT(bdev_split_delete(OVER_BASE, gone, arg, NULL) == -ENODEV);
}

static void
unsplit(struct env *env)
{
	struct sizes s = {.rc = 0};

	env_call(env, env->app, unsplit_twice, &s);
	env_wait(env, &s.gone);
}

static void
parts_are_apart(void **state)
{
	struct scripted_bdev base;
	uint8_t block[512], got[512];
	struct env env;

	env_start(&env, REACTOR_INTERRUPT, false);
	scripted_bdev_init(&base, OVER_BASE, 8192, 512);
	scripted_open(&base, &env);
	env_close(&env);
	env_call(&env, env.app, split_in_two, NULL);
	memset(block, 0x33, sizeof(block));
	EXPECT(env_rw(worker_on(&env, OVER_BASE "p0"), BDEV_WRITE, 4095, 1, block) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 4096, 1, block) == -EINVAL);
	env_close(&env);
	EXPECT(base.data[4095 * 512] == 0x33 && base.data[4096 * 512] == 0);
	memset(block, 0x44, sizeof(block));
	EXPECT(env_rw(worker_on(&env, OVER_BASE "p1"), BDEV_WRITE, 0, 1, block) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 0, 1, got) == 0 && got[511] == 0x44);
	env_close(&env);
	EXPECT(base.data[4095 * 512] == 0x33 && base.data[4096 * 512] == 0x44);
	EXPECT(env_open(&env, OVER_BASE, true) == -EPERM);
	unsplit(&env);
	EXPECT(env_open(&env, OVER_BASE, true) == 0);
	scripted_close(&base, &env);
	env_stop(&env);
}

/* The UUID of a part is SPDK's: what names a disk by it finds it here, too. */
static void
expect_uuid(void *arg)
{
	char text[UUID_STR_LEN];
	uuid_t uuid;

	split_on_app(arg);
	bdev_uuid(bdev_find(OVER_BASE "p1"), uuid);
	uuid_unparse_lower(uuid, text);
	EXPECT_SAY(strcmp(text, "0d576a0c-4c4b-5055-9558-ca97c20e9f1f") == 0, "%s", text);
}

static void
same_uuid_as_spdk(void **state)
{
	struct scripted_bdev base;
	struct sizes s = {.options = {.base_name = OVER_BASE, .count = 2}};
	struct env env;

	env_start(&env, REACTOR_INTERRUPT, false);
	scripted_bdev_init(&base, OVER_BASE, 8192, 512);
	EXPECT(uuid_parse("01234567-89ab-cdef-0123-456789abcdef", base.bdev.uuid) == 0);
	scripted_open(&base, &env);
	env_close(&env);
	env_call(&env, env.app, expect_uuid, &s);
	unsplit(&env);
	EXPECT(env_open(&env, OVER_BASE, true) == 0);
	scripted_close(&base, &env);
	env_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(sizes),
		cmocka_unit_test(parts_are_apart),
		cmocka_unit_test(same_uuid_as_spdk),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
