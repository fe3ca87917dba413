/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/module.h"
#include "testkit/bdev_load.h"
#include "testkit/scripted_bdev.h"

#define BLOCKS 4096

static struct scripted_bdev disk;
static struct env env;

struct locking {
	struct bdev_range_lock lock;
	uint64_t lba, num_blocks;
	bool reads;
	struct thread *thread;
	atomic_bool held, released;
};

static void
held(struct bdev_range_lock *lock)
{
	struct locking *l = CONTAINER_OF(lock, struct locking, lock);

	EXPECT(thread_self() == l->thread && !atomic_load(&l->held));
	atomic_store(&l->held, true);
}

static void
released(struct bdev_range_lock *lock)
{
	struct locking *l = CONTAINER_OF(lock, struct locking, lock);

	EXPECT(thread_self() == l->thread);
	atomic_store(&l->released, true);
}

static void
call_lock(void *arg)
{
	struct locking *l = arg;

	atomic_store(&l->held, false);
	atomic_store(&l->released, false);
	bdev_range_lock(&l->lock, &disk.bdev, l->lba, l->num_blocks, l->reads, held);
}

static void
call_unlock(void *arg)
{
	bdev_range_unlock(&((struct locking *)arg)->lock, released);
}

static void
ask(struct locking *l, struct thread *t, uint64_t lba, uint64_t num_blocks, bool reads)
{
	l->thread = t;
	l->lba = lba;
	l->num_blocks = num_blocks;
	l->reads = reads;
	env_call(&env, t, call_lock, l);
}

static void
let_go(struct locking *l)
{
	env_call(&env, l->thread, call_unlock, l);
	env_wait(&env, &l->released);
}

static void
begin(enum reactor_mode mode, bool real_threads)
{
	env_start(&env, mode, real_threads);
	scripted_bdev_init(&disk, "disk", BLOCKS, 512);
	scripted_open(&disk, &env);
}

static void
end(void)
{
	scripted_close(&disk, &env);
	env_stop(&env);
}

static uint8_t buf[64 * 512], read_buf[64 * 512];

static struct env_io
request(enum bdev_op op, uint64_t lba, uint64_t n, struct iovec *iov)
{
	*iov = (struct iovec){op == BDEV_READ ? read_buf : buf, n * 512};
	return (struct env_io){
		.op = op,
		.lba = lba,
		.num_blocks = n,
		.iov = iov,
		.iovcnt = op == BDEV_READ || op == BDEV_WRITE,
	};
}

/* ---- What is held back ---- */

static void
check_held_back(enum reactor_mode mode, bool real_threads)
{
	struct locking l = {0};
	struct iovec iov[6];
	struct env_io in[3], out[3];

	begin(mode, real_threads);
	ask(&l, env.app, 100, 10, false);
	env_wait(&env, &l.held);
	in[0] = request(BDEV_WRITE, 109, 1, &iov[0]);
	in[1] = request(BDEV_UNMAP, 101, 2, &iov[1]);
	in[2] = request(BDEV_COPY, 95, 6, &iov[2]);
	in[2].src_lba = 500;
	out[0] = request(BDEV_WRITE, 110, 1, &iov[3]);
	out[1] = request(BDEV_WRITE_ZEROES, 80, 10, &iov[4]);
	out[2] = request(BDEV_READ, 100, 10, &iov[5]);
	for (int i = 0; i < 3; i++) {
		env_submit(&env.workers[i % 2], &in[i]);
		env_submit(&env.workers[i % 2], &out[i]);
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(env_finish(&out[i]), 0);
	}
	env_linger(&env, 5);
	for (int i = 0; i < 3; i++) {
		assert_false(atomic_load(&in[i].done));
	}
	let_go(&l);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(env_finish(&in[i]), 0);
	}

	/* Reads too, when asked for. */
	ask(&l, env.workers[1].thread, 100, 10, true);
	env_wait(&env, &l.held);
	in[0] = request(BDEV_READ, 99, 2, &iov[0]);
	env_submit(&env.workers[0], &in[0]);
	env_linger(&env, 5);
	assert_false(atomic_load(&in[0].done));
	let_go(&l);
	assert_int_equal(env_finish(&in[0]), 0);
	end();
}

static void
holds_back(void **state)
{
	for (int mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		check_held_back((enum reactor_mode)mode, false);
		check_held_back((enum reactor_mode)mode, true);
	}
}

/* ---- What is waited for ---- */

static void
waits_for_those_on_their_way(void **state)
{
	struct locking l = {0}, other = {0};
	struct iovec iov[3];
	struct env_io before, later, beside;

	begin(REACTOR_INTERRUPT, false);
	atomic_store(&disk.hold, true);
	before = request(BDEV_WRITE, 0, 1, &iov[0]);
	env_submit(&env.workers[0], &before);
	ask(&l, env.app, 0, 8, false);
	env_linger(&env, 5);
	assert_false(atomic_load(&l.held));
	/* One that comes now and is in the way waits; one beside is waited for by later locks only if it is in
	 * theirs. */
	later = request(BDEV_WRITE, 7, 1, &iov[1]);
	beside = request(BDEV_WRITE, 200, 1, &iov[2]);
	env_submit(&env.workers[1], &later);
	env_submit(&env.workers[1], &beside);
	env_linger(&env, 5);
	assert_int_equal(atomic_load(&disk.log_count), 2);
	scripted_let_go(&disk, &env);
	env_wait(&env, &l.held);
	assert_int_equal(env_finish(&before), 0);
	assert_int_equal(env_finish(&beside), 0);
	env_linger(&env, 5);
	assert_false(atomic_load(&later.done));

	/* While it is held: a request beside it that hangs delays a lock in its way, not one elsewhere. */
	atomic_store(&disk.hold, true);
	beside = request(BDEV_WRITE, 200, 1, &iov[2]);
	env_submit(&env.workers[1], &beside);
	ask(&other, env.app, 300, 8, false);
	env_wait(&env, &other.held);
	let_go(&other);
	ask(&other, env.app, 196, 8, false);
	env_linger(&env, 5);
	assert_false(atomic_load(&other.held));
	/* Letting go never waits for a request. */
	let_go(&l);
	scripted_let_go(&disk, &env);
	env_wait(&env, &other.held);
	let_go(&other);
	assert_int_equal(env_finish(&beside), 0);
	assert_int_equal(env_finish(&later), 0);
	end();
}

static void
overlapping_locks_take_turns(void **state)
{
	struct locking l[4] = {0};
	static const uint64_t first[4] = {0, 4, 100, 4};

	begin(REACTOR_POLL, false);
	for (int i = 0; i < 4; i++) {
		ask(&l[i], i % 2 == 0 ? env.app : env.workers[0].thread, first[i], 8, false);
	}
	env_wait(&env, &l[0].held);
	env_wait(&env, &l[2].held);
	env_linger(&env, 2);
	assert_false(atomic_load(&l[1].held));
	let_go(&l[0]);
	env_wait(&env, &l[1].held);
	env_linger(&env, 2);
	assert_false(atomic_load(&l[3].held));
	let_go(&l[1]);
	env_wait(&env, &l[3].held);
	let_go(&l[3]);
	let_go(&l[2]);
	/* All is as before: requests go the direct way. */
	env_linger(&env, 2);
	assert_true(env.workers[0].ch->direct_ops != 0 && !env.workers[0].ch->careful);
	end();
}

/* ---- In the middle of other things ---- */

static void
reset_and_removal(void **state)
{
	struct locking l = {0};
	struct iovec iov[2];
	struct env_io io, reset = {.op = BDEV_RESET};

	begin(REACTOR_ADAPTIVE, false);
	ask(&l, env.app, 0, 8, false);
	env_wait(&env, &l.held);
	io = request(BDEV_WRITE, 0, 1, &iov[0]);
	env_submit(&env.workers[0], &io);
	/* After a reset nothing lands that came before it. */
	env_submit(&env.workers[1], &reset);
	assert_int_equal(env_finish(&reset), 0);
	assert_int_equal(env_finish(&io), -ECANCELED);
	assert_int_equal(atomic_load(&disk.log_count), 0);
	env_submit(&env.workers[0], &io);
	env_linger(&env, 2);
	assert_false(atomic_load(&io.done));
	scripted_remove(&disk, &env);
	assert_int_equal(env_finish(&io), -ENODEV);
	let_go(&l);
	end();
}

static void
check_load(enum reactor_mode mode, bool real_threads)
{
	struct load loads[ENV_WORKERS];
	struct locking l = {0};

	begin(mode, real_threads);
	atomic_store(&disk.shuffle, true);
	memset(loads, 0, sizeof(loads));
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		loads[i].worker = &env.workers[i];
		loads[i].first_block = i * BLOCKS / 2;
		loads[i].num_blocks = BLOCKS / 2;
		loads[i].depth = 32;
		loads[i].count = UINT64_MAX;
		loads[i].seed = 5 + i;
		load_start(&loads[i]);
	}
	for (unsigned round = 0; round < 50; round++) {
		uint8_t *copy = malloc(64 * 512);

		ask(&l, round % 2 == 0 ? env.app : env.workers[0].thread, round * 77 % (BLOCKS - 64), 64, false);
		env_wait(&env, &l.held);
		/* Nothing changes under a lock. */
		memcpy(copy, disk.data + l.lba * 512, 64 * 512);
		env_linger(&env, round % 8 == 0);
		EXPECT(memcmp(copy, disk.data + l.lba * 512, 64 * 512) == 0);
		free(copy);
		let_go(&l);
	}
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		atomic_store(&loads[i].stop, true);
		load_finish(&loads[i]);
	}
	end();
}

static void
under_load(void **state)
{
	for (int mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		check_load((enum reactor_mode)mode, false);
		check_load((enum reactor_mode)mode, true);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(holds_back),
		cmocka_unit_test(waits_for_those_on_their_way),
		cmocka_unit_test(overlapping_locks_take_turns),
		cmocka_unit_test(reset_and_removal),
		cmocka_unit_test(under_load),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
