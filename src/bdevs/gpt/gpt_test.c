/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/gpt/gpt.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdevs/gpt/harness.h"
#include "bdevs/gpt/internal.h"
#include "testkit/bdev_over.h"
#include "testkit/hand.h"

#define BLOCKS 16384u

/* ---- A partition passes for a disk ---- */

static int
create(const struct over *over, struct err *err)
{
	struct gpt_partition found = {.number = 7, .first_block = 1000, .num_blocks = 8192};
	struct gpt_table table = {.count = 1};

	return gpt_add_partition(OVER_BASE, &table, &found, err);
}

/* It goes with its base, which over removes next. */
static int
remove_partition(const struct over *over, void (*done)(void *ctx, int status), void *ctx,
		 struct err *err)
{
	if (bdev_find(OVER_BASE "p7") == NULL) {
		return err_set(err, -ENODEV, "there is no '%s'", OVER_BASE "p7");
	}
	done(ctx, 0);
	return 0;
}

static void
passes_battery(void **state)
{
	struct over over = {.battery = {.name = OVER_BASE "p7", .unmap_zeroes = true},
			    .base_blocks = BLOCKS,
			    .base_block_size = 512,
			    .create = create,
			    .remove = remove_partition};

	bdev_battery_run_all(over_battery(&over));
}

/* ---- Examination ---- */

static const struct bdev_examiner *const examiners[] = {&gpt_examiner, NULL};
static struct env env;
static struct scripted_bdev base;
static struct made_disk disk;
static uint32_t block_size;

static void
set_examiners_on_app(void *arg)
{
	bdev_set_examiners(arg);
}

/* A disk with a good table, which is not there yet. */
static void
begin(bool real_threads)
{
	env_start(&env, REACTOR_INTERRUPT, real_threads);
	env_call(&env, env.app, set_examiners_on_app, (void *)(uintptr_t)examiners);
	scripted_bdev_init(&base, OVER_BASE, BLOCKS, block_size);
	disk = (struct made_disk){
		.data = base.data, .block_size = block_size, .num_blocks = BLOCKS};
	made_init(&disk);
	made_add(&disk, 1, type_new_bytes, 100, 1099);
	made_add(&disk, 2, type_linux_bytes, 2000, 2999);
	made_add(&disk, 5, type_old_bytes, 3000, 3999);
}

static void
add_on_app(void *arg)
{
	struct err err = ERR_NONE;

	EXPECT_SAY(scripted_bdev_add(&base, &err) == 0, "%s", err_text(&err));
}

static atomic_bool examined;

static void
examine_ended(struct bdev_examine_wait *w)
{
	atomic_store(&examined, true);
}

static void
wait_on_app(void *arg)
{
	bdev_wait_for_examine(arg, examine_ended);
}

static void
wait_for_examine(void)
{
	static struct bdev_examine_wait wait;

	atomic_store(&examined, false);
	env_call(&env, env.app, wait_on_app, &wait);
	env_wait(&env, &examined);
}

static void
add(void)
{
	env_call(&env, env.app, add_on_app, NULL);
	wait_for_examine();
}

struct count {
	unsigned partitions;
	bool claimed;
};

static void
count_on_app(void *arg)
{
	struct count *c = arg;
	struct gpt_info info;

	*c = (struct count){.claimed = bdev_claimed(&base.bdev)};
	for (struct bdev *b = bdev_first(); b != NULL; b = bdev_next(b)) {
		c->partitions += bdev_gpt_info(b, &info);
	}
}

static unsigned
count(void)
{
	struct count c;

	env_call(&env, env.app, count_on_app, &c);
	EXPECT(c.claimed == (c.partitions > 0));
	return c.partitions;
}

static void
no_examiners_on_app(void *arg)
{
	bdev_set_examiners(NULL);
}

static void
end(void)
{
	if (!base.removing) {
		scripted_remove(&base, &env);
	}
	env_wait(&env, &base.destructed);
	scripted_bdev_release(&base);
	env_call(&env, env.app, no_examiners_on_app, NULL);
	env_stop(&env);
}

static void
expect_partitions(void *arg)
{
	struct bdev *p1 = bdev_find(OVER_BASE "p1"), *p5 = bdev_find(OVER_BASE "p5");
	struct gpt_info info;
	uuid_t uuid;

	EXPECT(p1 != NULL && p5 != NULL && bdev_find(OVER_BASE "p2") == NULL);
	EXPECT(bdev_num_blocks(p1) == 1000 && bdev_num_blocks(p5) == 999);
	EXPECT(strcmp(bdev_product_name(p1), "GPT Disk") == 0);
	EXPECT(bdev_gpt_info(p5, &info) && info.partition->first_block == 3000);
	EXPECT(strcmp(info.base_name, OVER_BASE) == 0 && strcmp(info.partition->name, "p5") == 0);
	bdev_uuid(p5, uuid);
	EXPECT(uuid_compare(uuid, info.partition->guid) != 0 && !uuid_is_null(uuid));
	EXPECT(!bdev_gpt_info(bdev_find(OVER_BASE), &info));
}

static void
nothing(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
}

static void
base_is_taken(void *arg)
{
	struct err err = ERR_NONE;
	struct bdev_desc *desc;

	EXPECT(bdev_open(OVER_BASE, true, nothing, NULL, &desc, &err) == -EPERM);
	EXPECT(strstr(err.text, "gpt") != NULL);
}

static void
finds_partitions(void **state)
{
	static const uint32_t sizes[] = {512, 4096};

	for (size_t i = 0; i < 2 * ARRAY_SIZE(sizes); i++) {
		uint8_t block[4096];

		block_size = sizes[i % 2];
		begin(i >= 2);
		add();
		EXPECT(count() == 2);
		env_call(&env, env.app, expect_partitions, NULL);
		EXPECT(env_open(&env, OVER_BASE "p5", true) == 0);
		env_call(&env, env.app, base_is_taken, NULL);
		memset(block, 0x99, sizeof(block));
		EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 998, 1, block) == 0);
		EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 999, 1, block) == -EINVAL);
		EXPECT(base.data[3998 * (size_t)block_size] == 0x99);
		env_close(&env);
		end();
	}
}

static void
backup_counts(void **state)
{
	block_size = 512;
	begin(false);
	made_header(&disk, false)[100] = 1;
	made_entry(&disk, false, 1)[40] ^= 1;
	add();
	EXPECT(count() == 2);
	end();
	begin(false);
	made_entry(&disk, false, 1)[40] ^= 1;
	made_entry(&disk, true, 1)[40] ^= 1;
	add();
	EXPECT(count() == 0);
	end();
}

/* The partitions go with the base, and come with the next that has them. */
static void
base_goes(void **state)
{
	block_size = 512;
	for (int i = 0; i < 2; i++) {
		begin(true);
		add();
		EXPECT(count() == 2);
		EXPECT(env_open(&env, OVER_BASE "p1", true) == 0);
		scripted_remove(&base, &env);
		env_wait_count(&env, &env.removes, 1);
		env_close(&env);
		end();
	}
}

/* Whoever wants the disk itself has it, as long as nobody uses its partitions: a guest's table takes nothing away. */
static void
gives_way(void **state)
{
	uint8_t block[512] = {0};

	block_size = 512;
	begin(false);
	add();
	EXPECT(count() == 2);
	EXPECT(env_open(&env, OVER_BASE "p1", false) == 0); /* readers hinder nobody */
	env_close(&env);
	EXPECT(env_open(&env, OVER_BASE, true) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 0, 1, block) == 0);
	env_linger(&env, 2);
	EXPECT(count() == 0);
	env_close(&env);
	end();
}

/* ---- What is left alone ---- */

static void
kick(void *ctx, struct bdev_channel *ch)
{
	scripted_channel_kick(ch);
}

static void
kicked(void *ctx)
{
}

static void
let_go_on_app(void *arg)
{
	atomic_store(&base.hold, false);
	EXPECT(bdev_for_each_channel(&base.bdev, kick, kicked, NULL) == 0);
}

static void
read_errors(void **state)
{
	block_size = 512;
	begin(false);
	atomic_store(&base.fail_with, -EIO);
	add();
	EXPECT(count() == 0);
	end();
}

static void
goes_while_it_is_read(void **state)
{
	block_size = 512;
	begin(false);
	atomic_store(&base.hold, true);
	env_call(&env, env.app, add_on_app, NULL);
	env_linger(&env, 2);
	scripted_remove(&base, &env);
	env_linger(&env, 2);
	EXPECT(!atomic_load(&base.destructed));
	env_call(&env, env.app, let_go_on_app, NULL);
	end();
}

static void
too_small_on_app(void *arg)
{
	EXPECT(scripted_bdev_add(arg, NULL) == 0);
}

static void
small_disks(void **state)
{
	block_size = 512;
	for (uint64_t blocks = 1; blocks < 4; blocks++) {
		begin(false);
		base.bdev.num_blocks = blocks;
		env_call(&env, env.app, too_small_on_app, &base);
		wait_for_examine();
		EXPECT(count() == 0);
		end();
	}
}

/* A base that does not answer holds up nobody for long. */
static void
silent_base(void **state)
{
	hand_clock_start();
	block_size = 512;
	begin(false);
	atomic_store(&base.hold, true);
	env_call(&env, env.app, add_on_app, NULL);
	hand_advance(env.reactors[0], GPT_TIMEOUT_US - 1000);
	EXPECT(count() == 0);
	hand_advance(env.reactors[0], 2000);
	wait_for_examine();
	hand_clock_stop();
	scripted_remove(&base, &env);
	env_call(&env, env.app, let_go_on_app, NULL);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(finds_partitions),
		cmocka_unit_test(backup_counts),
		cmocka_unit_test(base_goes),
		cmocka_unit_test(gives_way),
		cmocka_unit_test(read_errors),
		cmocka_unit_test(goes_while_it_is_read),
		cmocka_unit_test(small_disks),
		cmocka_unit_test(silent_base),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
