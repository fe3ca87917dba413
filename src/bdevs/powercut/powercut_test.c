/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/powercut/powercut.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "testkit/bdev_over.h"

#define NAME "Cut0"

static struct powercut_bdev_options options;

static int
create(const struct over *over, struct err *err)
{
	return bdev_powercut_create(&options, NULL, err);
}

static int
remove_powercut(const struct over *over, void (*done)(void *ctx, int status), void *ctx,
		struct err *err)
{
	return bdev_powercut_delete(NAME, done, ctx, err);
}

static const struct over template = {
	.battery = {.name = NAME, .unmap_zeroes = true},
	.base_blocks = 16384,
	.base_block_size = 512,
	.create = create,
	.remove = remove_powercut,
	.resizes = true,
};

static void
reset_options(void)
{
	options = (struct powercut_bdev_options){
		.name = NAME, .base_name = OVER_BASE, .cache_bytes = POWERCUT_CACHE_MIN};
}

static void
awkward(struct scripted_bdev *base)
{
	base->bdev.max_rw_blocks = 100;
	base->bdev.write_cache = true;
	base->bdev.buffer_align = 4096;
	atomic_store(&base->refuse_every, 7);
	atomic_store(&base->shuffle, true);
}

static void
passes_battery(void **state)
{
	struct over over = template;

	reset_options();
	over_run_all(&over);
	options.mode = POWERCUT_ORDERED;
	over.set_up = awkward;
	over_run(&over, REACTOR_ADAPTIVE, true);
}

/* ---- A stage ---- */

static struct env env;
static struct over over;
static uint8_t buf[64 * 512];

static void
begin(bool real_threads)
{
	over = template;
	env_start(&env, REACTOR_INTERRUPT, real_threads);
	over_open(&over, &env);
}

static void
end(void)
{
	over_close(&over, &env);
	env_stop(&env);
}

struct asking {
	int rc;
	int status;
	uint64_t cut_after;
	atomic_bool done;
	struct powercut_info info;
};

static void
cut_done(void *ctx, int status)
{
	struct asking *a = ctx;

	a->status = status;
	atomic_store(&a->done, true);
}

static void
cut_on_app(void *arg)
{
	struct asking *a = arg;

	a->rc = bdev_powercut_cut(NAME, cut_done, a, NULL);
}

/* Also waits for the end of a cut that came by itself. */
static void
cut(void)
{
	struct asking a = {.rc = 0};

	env_call(&env, env.app, cut_on_app, &a);
	EXPECT(a.rc == 0);
	env_wait(&env, &a.done);
	EXPECT(a.status == 0);
}

static void
restore_on_app(void *arg)
{
	struct asking *a = arg;

	a->rc = bdev_powercut_restore(NAME, a->cut_after, NULL);
}

static int
restore(uint64_t cut_after)
{
	struct asking a = {.cut_after = cut_after};

	env_call(&env, env.app, restore_on_app, &a);
	return a.rc;
}

static void
info_on_app(void *arg)
{
	struct powercut_bdev_options o;

	EXPECT(bdev_powercut_get(bdev_find(NAME), &o, &((struct asking *)arg)->info));
}

static struct powercut_info
info(void)
{
	struct asking a = {.rc = 0};

	env_call(&env, env.app, info_on_app, &a);
	return a.info;
}

static int
write_byte(uint64_t lba, uint64_t n, int byte)
{
	memset(buf, byte, n * 512);
	return env_rw(&env.workers[0], BDEV_WRITE, lba, n, buf);
}

static int
flush(void)
{
	return env_rw(&env.workers[0], BDEV_FLUSH, 0, 0, NULL);
}

/* ---- A cache ---- */

static void
writes_wait_for_a_flush(void **state)
{
	reset_options();
	begin(false);
	EXPECT(write_byte(8, 4, 0x11) == 0 && write_byte(9, 1, 0x22) == 0);
	EXPECT(over.base.data[8 * 512] == 0);
	EXPECT(env_rw(&env.workers[1], BDEV_READ, 7, 6, buf) == 0);
	EXPECT(buf[0] == 0 && buf[512] == 0x11 && buf[1024] == 0x22 && buf[5 * 512] == 0);
	EXPECT(env_rw(&env.workers[1], BDEV_FLUSH, 0, 0, NULL) == 0);
	EXPECT(over.base.data[8 * 512] == 0x11 && over.base.data[9 * 512] == 0x22);
	EXPECT(info().unflushed_bytes == 0);
	EXPECT(env_rw(&env.workers[1], BDEV_READ, 7, 6, buf) == 0 && buf[1024] == 0x22);
	/* FUA: this one alone. */
	EXPECT(write_byte(20, 2, 0x33) == 0);
	memset(buf, 0x44, 512);
	EXPECT(env_rwv(&env.workers[0], BDEV_WRITE, BDEV_IO_FUA, 21, 1,
		       &(struct iovec){buf, 512}, 1) == 0);
	EXPECT(over.base.data[20 * 512] == 0 && over.base.data[21 * 512] == 0x44);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 20, 2, buf) == 0 && buf[0] == 0x33 &&
	       buf[512] == 0x44);
	end();
}

static void
delete_on_app(void *arg)
{
	EXPECT(bdev_powercut_delete(NAME, cut_done, arg, NULL) == 0);
}

/* Without a flush: what is in the cache is written. */
static void
deleting_loses_nothing(void **state)
{
	struct asking a = {.rc = 0};

	reset_options();
	begin(false);
	EXPECT(write_byte(8, 4, 0x11) == 0);
	env_close(&env);
	env_call(&env, env.app, delete_on_app, &a);
	env_wait(&env, &a.done);
	EXPECT(a.status == 0 && over.base.data[8 * 512] == 0x11 && over.base.data[11 * 512] == 0x11);
	EXPECT(env_open(&env, OVER_BASE, true) == 0);
	scripted_close(&over.base, &env);
	env_stop(&env);
}

/* More than it holds: what is oldest goes, all stays right. */
static void
full_cache(void **state)
{
	uint8_t *big = malloc(1u << 20);

	reset_options();
	begin(false);
	for (unsigned round = 0; round < 3; round++) {
		for (unsigned i = 0; i < 7; i++) {
			memset(big, (int)(1 + i + 10 * round), 1u << 20);
			EXPECT(env_rw(&env.workers[i % 2], BDEV_WRITE, i * 2048, 2048, big) == 0);
			EXPECT(info().unflushed_bytes <= POWERCUT_CACHE_MIN);
		}
		for (unsigned i = 0; i < 7; i++) {
			EXPECT(env_rw(&env.workers[0], BDEV_READ, i * 2048, 2048, big) == 0);
			EXPECT(big[0] == 1 + i + 10 * round && big[(1u << 20) - 1] == big[0]);
		}
	}
	free(big);
	end();
}

/* ---- Cuts ---- */

static void
nothing_after_the_cut(void **state)
{
	reset_options();
	options.mode = POWERCUT_LOST;
	begin(false);
	EXPECT(restore(0) == -EALREADY);
	EXPECT(write_byte(1, 1, 0x11) == 0 && flush() == 0 && write_byte(1, 1, 0x22) == 0);
	cut();
	EXPECT(info().cut && info().settled && info().cuts == 1);
	EXPECT(write_byte(2, 1, 0x33) == -EIO && flush() == -EIO);
	EXPECT(env_rw(&env.workers[1], BDEV_READ, 1, 1, buf) == -EIO);
	EXPECT(env_rw(&env.workers[1], BDEV_UNMAP, 1, 1, NULL) == -EIO);
	EXPECT(env_rw(&env.workers[1], BDEV_WRITE_ZEROES, 0, 16000, NULL) == -EIO);
	cut(); /* again: nothing more */
	EXPECT(restore(0) == 0);
	EXPECT(env_rw(&env.workers[1], BDEV_READ, 1, 2, buf) == 0);
	EXPECT(buf[0] == 0x11 && buf[512] == 0);
	EXPECT(write_byte(2, 1, 0x44) == 0 && flush() == 0);
	end();
}

static void
kept_means_kept(void **state)
{
	reset_options();
	options.mode = POWERCUT_KEPT;
	begin(false);
	EXPECT(write_byte(1, 9, 0x11) == 0 && write_byte(3, 1, 0x22) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_UNMAP, 5, 1, NULL) == 0);
	cut();
	EXPECT(over.base.data[512] == 0x11 && over.base.data[3 * 512] == 0x22 &&
	       over.base.data[5 * 512] == 0 && over.base.data[9 * 512] == 0x11);
	end();
}

/* The write that the power goes with is not answered as done, and may be there all the same. */
static void
cuts_after_so_many(void **state)
{
	unsigned there = 0;

	reset_options();
	begin(false);
	for (uint64_t k = 1; k <= 40; k++) {
		uint64_t n = 0;

		cut();
		EXPECT(restore(k) == 0);
		memset(over.base.data, 0, 100 * 512);
		while (write_byte(n, 1, 0x55) == 0) {
			n++;
		}
		EXPECT(n == k - 1 && info().cut && info().writes == k);
		cut();
		there += over.base.data[n * 512] != 0;
		EXPECT(over.base.data[(n + 1) * 512] == 0);
		EXPECT(restore(0) == 0);
	}
	EXPECT_SAY(there > 4 && there < 36, "%u", there);
	end();
}

static void
same_seed_same_outcome(void **state)
{
	uint8_t first[64 * 512];

	for (unsigned run = 0; run < 3; run++) {
		reset_options();
		options.seed = run == 2 ? 78 : 77;
		begin(false);
		for (int i = 0; i < 200; i++) {
			EXPECT(write_byte((uint64_t)(i * 7) % 60, 4, 1 + i) == 0);
		}
		cut();
		if (run == 0) {
			memcpy(first, over.base.data, sizeof(first));
		} else {
			EXPECT((memcmp(first, over.base.data, sizeof(first)) == 0) == (run == 1));
		}
		end();
	}
}

/* ---- What was flushed is there: at random, on both threads, with a model of what each block may be ---- */

#define MODEL_BLOCKS 64

struct history {
	/* Values a block may have: the last flushed one, and those written since. */
	uint8_t values[256];
	unsigned count;
};

static void
write_some(struct history *h, unsigned worker, uint64_t random)
{
	uint64_t lba = random % MODEL_BLOCKS, n = 1 + (random >> 8) % 8;
	uint8_t byte = (uint8_t)(random >> 16);
	int status;

	n = MIN(n, MODEL_BLOCKS - lba);
	memset(buf, byte, n * 512);
	status = env_rw(&env.workers[worker], BDEV_WRITE, lba, n, buf);
	EXPECT(status == 0 || status == -EIO);
	for (uint64_t i = 0; i < n; i++) {
		EXPECT(h[lba + i].count < 256);
		h[lba + i].values[h[lba + i].count++] = byte;
	}
}

static void
flush_all(struct history *h, unsigned worker)
{
	if (env_rw(&env.workers[worker], BDEV_FLUSH, 0, 0, NULL) != 0) {
		return;
	}
	for (unsigned i = 0; i < MODEL_BLOCKS; i++) {
		h[i].values[0] = h[i].values[h[i].count - 1];
		h[i].count = 1;
	}
}

static void
expect_possible(struct history *h)
{
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 0, MODEL_BLOCKS, buf) == 0);
	for (unsigned i = 0; i < MODEL_BLOCKS; i++) {
		uint8_t got = buf[i * 512];

		EXPECT(memchr(h[i].values, got, h[i].count) != NULL);
		EXPECT(buf[i * 512 + 511] == got);
		h[i].values[0] = got;
		h[i].count = 1;
	}
}

static void
flushed_is_there(bool real_threads, enum powercut_mode mode, unsigned cuts)
{
	struct history *h = calloc(MODEL_BLOCKS, sizeof(*h));
	uint64_t random = 5;

	reset_options();
	options.mode = mode;
	begin(real_threads);
	for (unsigned i = 0; i < MODEL_BLOCKS; i++) {
		h[i].count = 1;
	}
	for (unsigned i = 0; i < cuts; i++) {
		cut();
		EXPECT(restore(1 + i % 50) == 0);
		expect_possible(h);
		while (!info().cut) {
			random = powercut_seed(random, 1);
			if (random % 11 == 0) {
				flush_all(h, (random >> 40) % ENV_WORKERS);
			} else {
				write_some(h, (random >> 40) % ENV_WORKERS, random);
			}
		}
	}
	free(h);
	end();
}

static void
keeps_its_promises(void **state)
{
	flushed_is_there(false, POWERCUT_RANDOM, 150);
	flushed_is_there(false, POWERCUT_ORDERED, 100);
	flushed_is_there(true, POWERCUT_RANDOM, 20);
}

/* An ordered disk: writes of a counter to the same places; afterwards no block is older than one before it allows. */
static void
ordered_has_no_holes(void **state)
{
	reset_options();
	options.mode = POWERCUT_ORDERED;
	begin(false);
	for (unsigned round = 0; round < 60; round++) {
		unsigned n = 0;

		memset(over.base.data, 0, 64 * 512);
		for (unsigned i = 0; i < 40; i++) {
			EXPECT(write_byte(i, 1, 0x66) == 0);
		}
		cut();
		while (n < 40 && over.base.data[n * 512] == 0x66) {
			n++;
		}
		for (unsigned i = n; i < 40; i++) {
			EXPECT(over.base.data[i * 512] == 0);
		}
		EXPECT(restore(0) == 0);
	}
	end();
}

/* The base fails, or goes, while survivors are written. */
static void
base_fails_in_the_cut(void **state)
{
	struct asking a = {.rc = 0};

	reset_options();
	options.mode = POWERCUT_KEPT;
	begin(false);
	EXPECT(write_byte(1, 1, 0x11) == 0);
	atomic_store(&over.base.fail_with, -EIO);
	EXPECT(flush() == -EIO);
	env_call(&env, env.app, cut_on_app, &a);
	env_wait(&env, &a.done);
	EXPECT(a.status == -EIO && info().settled);
	atomic_store(&over.base.fail_with, 0);
	EXPECT(restore(1) == 0);
	EXPECT(write_byte(1, 1, 0x11) == -EIO);
	over_pull(&over, &env);
	end();
}

static void
wrong_on_app(void *arg)
{
	struct powercut_bdev_options o = {.name = "P", .base_name = "x", .sector_bytes = 513};
	struct powercut_info i;
	bool waits;

	EXPECT(bdev_powercut_create(&o, NULL, NULL) == -EINVAL);
	o.sector_bytes = 512;
	o.cache_bytes = POWERCUT_CACHE_MIN - 1;
	EXPECT(bdev_powercut_create(&o, NULL, NULL) == -EINVAL);
	EXPECT(bdev_powercut_delete("P", NULL, NULL, NULL) == -ENODEV);
	EXPECT(bdev_powercut_cut("P", cut_done, NULL, NULL) == -ENODEV);
	EXPECT(bdev_powercut_restore("P", 0, NULL) == -ENODEV);
	EXPECT(bdev_powercut_list(0, &o, &waits) && !waits && o.seed == 99);
	EXPECT(!bdev_powercut_list(1, &o, &waits));
	EXPECT(!bdev_powercut_get(bdev_find(OVER_BASE), &o, &i));
}

static void
refuses_what_is_wrong(void **state)
{
	reset_options();
	options.seed = 99;
	begin(false);
	env_call(&env, env.app, wrong_on_app, NULL);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(writes_wait_for_a_flush),
		cmocka_unit_test(deleting_loses_nothing),
		cmocka_unit_test(full_cache),
		cmocka_unit_test(nothing_after_the_cut),
		cmocka_unit_test(kept_means_kept),
		cmocka_unit_test(cuts_after_so_many),
		cmocka_unit_test(same_seed_same_outcome),
		cmocka_unit_test(keeps_its_promises),
		cmocka_unit_test(ordered_has_no_holes),
		cmocka_unit_test(base_fails_in_the_cut),
		cmocka_unit_test(refuses_what_is_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
