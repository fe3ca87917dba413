/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/null/null.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "testkit/bdev_battery.h"

static uint32_t block_size;
static struct null_bdev_options md; /* its metadata */

static int
create(const struct battery *b, struct err *err)
{
	struct null_bdev_options options = md;

	options.name = b->name;
	options.num_blocks = (4u << 20) / block_size;
	options.block_size = block_size;

	return bdev_null_create(&options, NULL, err);
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_null_delete(b->name, done, ctx, err);
}

static int
resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	return bdev_null_resize(b->name, num_blocks, err);
}

static const struct battery battery = {
	.name = "Null0",
	.create = create,
	.remove = remove_bdev,
	.resize = resize,
	.no_data = true,
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
passes_battery_with_metadata(void **state)
{
	block_size = 512;
	md = (struct null_bdev_options){.md_size = 8, .dif_type = 1};
	bdev_battery_run(&battery, REACTOR_ADAPTIVE, true);
	block_size = 4096;
	md = (struct null_bdev_options){
		.md_size = 64, .dif_type = 3, .dif_pi_format = 2, .dif_is_head_of_md = true};
	bdev_battery_run(&battery, REACTOR_INTERRUPT, false);
	md = (struct null_bdev_options){0};
}

static void
wrong_options(void *arg)
{
	static const struct null_bdev_options bad[] = {
		{.name = "n", .num_blocks = 0, .block_size = 512},
		{.name = "n", .num_blocks = 8, .block_size = 0},
		{.name = "n", .num_blocks = 8, .block_size = 520},
		{.name = "n", .num_blocks = 8, .block_size = 131072},
		{.name = "n", .num_blocks = UINT64_MAX / 512, .block_size = 512},
		{.name = "n", .num_blocks = 8, .block_size = 4096, .physical_block_size = 512},
		{.name = "", .num_blocks = 8, .block_size = 512},
		{.name = "n", .num_blocks = 8, .block_size = 512, .md_size = 9},
		{.name = "n", .num_blocks = 8, .block_size = 512, .dif_type = 1},
		{.name = "n", .num_blocks = 8, .block_size = 512, .md_size = 8, .dif_type = 257},
		{.name = "n", .num_blocks = 8, .block_size = 512, .md_size = 16, .dif_type = 1,
		 .dif_pi_format = 1},
		{.name = "n", .num_blocks = 8, .block_size = 512, .md_size = 16, .dif_type = 1,
		 .dif_pi_format = 256},
	};
	struct err err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err = ERR_NONE;
		EXPECT_SAY(bdev_null_create(&bad[i], NULL, &err) == -EINVAL, "%zu", i);
		EXPECT(err.code == -EINVAL && err.text[0] != '\0');
	}
	EXPECT(bdev_first() == NULL);
	EXPECT(bdev_null_delete("n", NULL, NULL, &err) == -ENODEV);
	EXPECT(bdev_null_resize("n", 9, &err) == -ENODEV);
}

static void
refuses_wrong_options(void **state)
{
	struct env env;

	env_start(&env, REACTOR_INTERRUPT, false);
	env_call(&env, env.app, wrong_options, NULL);
	env_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(passes_battery_with_metadata),
		cmocka_unit_test(refuses_wrong_options),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
