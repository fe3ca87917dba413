/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/malloc/malloc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testkit/bdev_battery.h"

static uint32_t block_size;
static uint32_t boundary;

static int
create(const struct battery *b, struct err *err)
{
	struct malloc_bdev_options options = {.name = b->name,
					      .num_blocks = (16u << 20) / block_size,
					      .block_size = block_size,
					      .optimal_io_boundary = boundary};

	return bdev_malloc_create(&options, NULL, err);
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_malloc_delete(b->name, done, ctx, err);
}

static int
resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	return bdev_malloc_resize(b->name, num_blocks, err);
}

static const struct battery battery = {
	.name = "Malloc0",
	.create = create,
	.remove = remove_bdev,
	.resize = resize,
	.unmap_zeroes = true,
};

static void
passes_battery(void **state)
{
	block_size = 512;
	bdev_battery_run_all(&battery);
	block_size = 4096;
	bdev_battery_run(&battery, REACTOR_ADAPTIVE, true);
}

static void
passes_battery_with_boundary(void **state)
{
	block_size = 512;
	boundary = 24;
	bdev_battery_run(&battery, REACTOR_ADAPTIVE, true);
	bdev_battery_run(&battery, REACTOR_INTERRUPT, false);
	boundary = 0;
}

static void
wrong_options(void *arg)
{
	static const struct malloc_bdev_options bad[] = {
		{.name = "m", .num_blocks = 0, .block_size = 512},
		{.name = "m", .num_blocks = 8, .block_size = 0},
		{.name = "m", .num_blocks = 100, .block_size = 513},
		{.name = "m", .num_blocks = 8, .block_size = 131072},
		{.name = "m", .num_blocks = UINT64_MAX / 512 + 9, .block_size = 512},
		{.name = "", .num_blocks = 8, .block_size = 512},
	};
	struct malloc_bdev_options huge = {
		.name = "m", .num_blocks = UINT64_C(1) << 52, .block_size = 512};
	struct err err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err = ERR_NONE;
		EXPECT_SAY(bdev_malloc_create(&bad[i], NULL, &err) == -EINVAL, "%zu: %s", i,
			   err.text);
		EXPECT(err.code == -EINVAL && err.text[0] != '\0');
	}
	EXPECT(bdev_malloc_create(&huge, NULL, &err) == -ENOMEM);
	EXPECT(bdev_first() == NULL);
	EXPECT(bdev_malloc_delete("m", NULL, NULL, &err) == -ENODEV);
	EXPECT(bdev_malloc_resize("m", 9, &err) == -ENODEV);
}

static void
refuses_wrong_options(void **state)
{
	struct env env;

	env_start(&env, REACTOR_INTERRUPT, false);
	env_call(&env, env.app, wrong_options, NULL);
	env_stop(&env);
}

/* ---- Memory ---- */

static size_t
resident_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	size_t total, resident;

	EXPECT(f != NULL && fscanf(f, "%zu %zu", &total, &resident) == 2);
	fclose(f);
	return resident * 4096;
}

/* A sanitizer's own memory would be counted too. */
#ifdef __SANITIZE_THREAD__
#define EXPECT_RESIDENT(expr) ((void)sizeof(expr))
#else
#define EXPECT_RESIDENT(expr) EXPECT(expr)
#endif

#define SPARSE_BYTES (UINT64_C(256) << 20)
#define CHUNK (1u << 20)

static void
create_sparse(void *arg)
{
	struct malloc_bdev_options options = {
		.name = "Malloc1", .num_blocks = SPARSE_BYTES / 512, .block_size = 512};

	EXPECT(bdev_malloc_create(&options, NULL, NULL) == 0);
}

static void
shrink_and_grow(void *arg)
{
	EXPECT(bdev_malloc_resize("Malloc1", 1000, NULL) == 0);
	EXPECT(bdev_malloc_resize("Malloc1", SPARSE_BYTES / 512 * 2, NULL) == 0);
	EXPECT(bdev_malloc_resize("Malloc1", SPARSE_BYTES / 512 * 2 + 1, NULL) == -ENOMEM);
}

static void
delete_sparse(void *arg)
{
	EXPECT(bdev_malloc_delete("Malloc1", NULL, NULL, NULL) == 0);
}

static void
write_all(struct env *env, uint64_t bytes)
{
	uint8_t *p = malloc(CHUNK);

	memset(p, 0x5a, CHUNK);
	for (uint64_t at = 0; at < bytes; at += CHUNK) {
		EXPECT(env_rw(&env->workers[0], BDEV_WRITE, at / 512, CHUNK / 512, p) == 0);
	}
	free(p);
}

/* Memory comes with the first write and goes with unmap; shrinking forgets. */
static void
is_sparse(void **state)
{
	uint8_t block[512];
	struct env env;
	size_t before;

	env_start(&env, REACTOR_INTERRUPT, false);
	before = resident_bytes();
	env_call(&env, env.app, create_sparse, NULL);
	EXPECT(env_open(&env, "Malloc1", true) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE_ZEROES, 0, SPARSE_BYTES / 512, NULL) == 0);
	EXPECT_RESIDENT(resident_bytes() < before + (16u << 20));
	write_all(&env, 64u << 20);
	EXPECT_RESIDENT(resident_bytes() > before + (60u << 20));
	EXPECT(env_rw(&env.workers[0], BDEV_UNMAP, 1, (64u << 20) / 512 - 1, NULL) == 0);
	EXPECT_RESIDENT(resident_bytes() < before + (16u << 20));
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 0, 1, block) == 0 && block[511] == 0x5a);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 1, 1, block) == 0 && block[0] == 0 &&
	       block[511] == 0);
	write_all(&env, 4u << 20);
	env_close(&env);
	env_call(&env, env.app, shrink_and_grow, NULL);
	EXPECT(env_open(&env, "Malloc1", true) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 999, 1, block) == 0 && block[0] == 0x5a);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 1000, 1, block) == 0 && block[0] == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 2000, 1, block) == 0 && block[0] == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, SPARSE_BYTES / 512 * 2 - 1, 1, block) == 0);
	env_close(&env);
	env_call(&env, env.app, delete_sparse, NULL);
	env_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(passes_battery_with_boundary),
		cmocka_unit_test(refuses_wrong_options),
		cmocka_unit_test(is_sparse),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
