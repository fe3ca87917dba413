/* SPDX-License-Identifier: BSD-3-Clause */
/* Parts: their shapes, their number, their errors; bounce buffers. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdev/internal.h"
#include "testkit/scripted_bdev.h"

static enum reactor_mode mode;
static struct env env;
static struct scripted_bdev s;
static uint8_t buf[4u << 20] __attribute__((aligned(65536)));

static void
begin(uint64_t num_blocks, uint32_t block_size)
{
	env_start(&env, mode, false);
	scripted_bdev_init(&s, "S", num_blocks, block_size);
}

static void
end(void)
{
	scripted_close(&s, &env);
	env_stop(&env);
}

static void
expect_part(unsigned i, enum bdev_op op, uint64_t lba, uint64_t n, unsigned iovcnt)
{
	EXPECT_SAY(i < s.log_count && s.log[i].op == op && s.log[i].lba == lba &&
			   s.log[i].num_blocks == n && s.log[i].iovcnt == iovcnt,
		   "part %u of %u: %s %llu+%llu, %u entries", i, s.log_count,
		   bdev_op_name(s.log[i].op), (unsigned long long)s.log[i].lba,
		   (unsigned long long)s.log[i].num_blocks, s.log[i].iovcnt);
}

/* ---- Shapes ---- */

static void
length(void **state)
{
	begin(1000, 512);
	s.bdev.max_rw_blocks = 8;
	scripted_open(&s, &env);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 3, 20, buf), 0);
	assert_int_equal(s.log_count, 3);
	expect_part(0, BDEV_READ, 3, 8, 1);
	expect_part(1, BDEV_READ, 11, 8, 1);
	expect_part(2, BDEV_READ, 19, 4, 1);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 3, 8, buf), 0);
	assert_int_equal(s.log_count, 4);
	end();
}

static void
boundary(void **state)
{
	begin(1000, 512);
	s.bdev.optimal_boundary_blocks = 8;
	scripted_open(&s, &env);
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 5, 12, buf), 0);
	assert_int_equal(s.log_count, 3);
	expect_part(0, BDEV_WRITE, 5, 3, 1);
	expect_part(1, BDEV_WRITE, 8, 8, 1);
	expect_part(2, BDEV_WRITE, 16, 1, 1);
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 16, 8, buf), 0);
	assert_int_equal(s.log_count, 4);
	end();
}

/* Runs of the module's own, longer than its boundary: 0 to 19, and 20 on. */
static uint64_t
reach(struct bdev_channel *ch, uint64_t lba, uint64_t num_blocks, bool write)
{
	uint64_t end = write ? lba / 8 * 8 + 8 : lba < 20 ? 20 : UINT64_MAX;

	return MIN(num_blocks, end - lba);
}

static void
beyond_boundary(void **state)
{
	struct bdev_ops ops;

	begin(1000, 512);
	s.bdev.optimal_boundary_blocks = 8;
	ops = *s.bdev.ops;
	ops.reach = reach;
	s.bdev.ops = &ops;
	scripted_open(&s, &env);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 5, 15, buf), 0);
	assert_int_equal(s.log_count, 1);
	expect_part(0, BDEV_READ, 5, 15, 1);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 5, 27, buf), 0);
	assert_int_equal(s.log_count, 3);
	expect_part(1, BDEV_READ, 5, 15, 1);
	expect_part(2, BDEV_READ, 20, 12, 1);
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 5, 12, buf), 0);
	assert_int_equal(s.log_count, 6);
	expect_part(3, BDEV_WRITE, 5, 3, 1);
	end();
}

static void
entries(void **state)
{
	struct iovec pages[4],
		odd[4] = {{buf, 300}, {buf + 400, 300}, {buf + 800, 300}, {buf + 1200, 124}};

	for (int i = 0; i < 4; i++) {
		pages[i] = (struct iovec){buf + i * 8192, 4096};
	}
	begin(1000, 512);
	s.bdev.max_iovcnt = 2;
	scripted_open(&s, &env);
	assert_int_equal(env_rwv(&env.workers[0], BDEV_READ, 0, 0, 32, pages, 4), 0);
	assert_int_equal(s.log_count, 2);
	expect_part(0, BDEV_READ, 0, 16, 2);
	expect_part(1, BDEV_READ, 16, 16, 2);
	/* Two entries hold 600 bytes, one block: its end is cut off. The rest then has three. */
	assert_int_equal(env_rwv(&env.workers[0], BDEV_READ, 0, 100, 2, odd, 4), 0);
	assert_int_equal(s.log_count, 4);
	expect_part(2, BDEV_READ, 100, 1, 2);
	expect_part(3, BDEV_READ, 101, 1, 1);
	end();
}

/* A module that reads a write twice gets what stood in the buffers when it was submitted, whatever
 * the guest does afterwards. */
static void
stable_data(void **state)
{
	struct iovec iov = {buf, 200u << 10};
	struct env_io io = {.op = BDEV_WRITE, .lba = 8, .num_blocks = 400, .iov = &iov, .iovcnt = 1};

	begin(1000, 512);
	s.bdev.needs_stable_data = true;
	scripted_open(&s, &env);
	memset(buf, 0xaa, iov.iov_len);
	atomic_store(&s.hold, true);
	env_submit(&env.workers[0], &io);
	memset(buf, 0xbb, iov.iov_len);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io), 0);
	for (size_t i = 0; i < iov.iov_len; i++) {
		assert_int_equal(s.data[8 * 512 + i], 0xaa);
	}
	/* Reads go straight into the buffers. */
	assert_int_equal(s.log_count, 4);
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 8, 400, buf), 0);
	assert_int_equal(s.log_count, 5);
	end();
}

static void
ranges(void **state)
{
	begin(1000, 512);
	s.bdev.max_unmap_blocks = 10;
	s.bdev.max_write_zeroes_blocks = 7;
	scripted_open(&s, &env);
	assert_int_equal(env_rw(&env.workers[0], BDEV_UNMAP, 1, 25, NULL), 0);
	assert_int_equal(s.log_count, 3);
	expect_part(2, BDEV_UNMAP, 21, 5, 0);
	assert_int_equal(
		env_rwv(&env.workers[0], BDEV_WRITE_ZEROES, BDEV_IO_MAY_UNMAP, 1, 8, NULL, 0), 0);
	expect_part(3, BDEV_WRITE_ZEROES, 1, 7, 0);
	expect_part(4, BDEV_WRITE_ZEROES, 8, 1, 0);
	assert_int_equal(s.log[4].flags, BDEV_IO_MAY_UNMAP);
	end();
}

static void
zeroes_by_writes(void **state)
{
	uint64_t n = MEM_ZEROES_BYTES / 512 + 5;

	begin(8192, 512);
	s.bdev.ops_mask &= ~(1u << BDEV_WRITE_ZEROES);
	scripted_open(&s, &env);
	memset(s.data, 0x77, 8192 * 512);
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE_ZEROES, 9, n, NULL), 0);
	assert_int_equal(s.log_count, 2);
	expect_part(0, BDEV_WRITE, 9, MEM_ZEROES_BYTES / 512, 1);
	expect_part(1, BDEV_WRITE, 9 + MEM_ZEROES_BYTES / 512, 5, 1);
	assert_true(s.data[9 * 512 - 1] == 0x77 && s.data[9 * 512] == 0 &&
		    s.data[(9 + n) * 512 - 1] == 0);
	assert_true(s.data[(9 + n) * 512] == 0x77);
	end();
}

/* ---- Bouncing ---- */

static void
bounces_only_where_needed(void **state)
{
	struct iovec second_bad[2] = {{buf, 4096}, {buf + 8192 + 8, 4096}};
	struct iovec long_good[2] = {{buf, 1u << 20}, {buf + (2u << 20) + 8, 4096}};

	begin(8192, 512);
	s.bdev.buffer_align = 512;
	scripted_open(&s, &env);
	/* Aligned: as it is. */
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 0, 200, buf), 0);
	expect_part(0, BDEV_WRITE, 0, 200, 1);
	/* Not: 64 KiB at a time. */
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 0, 200, buf + 1), 0);
	expect_part(1, BDEV_WRITE, 0, 128, 1);
	expect_part(2, BDEV_WRITE, 128, 72, 1);
	/* A short aligned beginning is copied with the rest. */
	assert_int_equal(env_rwv(&env.workers[0], BDEV_READ, 0, 0, 16, second_bad, 2), 0);
	expect_part(3, BDEV_READ, 0, 16, 1);
	/* A long one is not. */
	assert_int_equal(env_rwv(&env.workers[0], BDEV_READ, 0, 0, 2056, long_good, 2), 0);
	expect_part(4, BDEV_READ, 0, 2048, 1);
	expect_part(5, BDEV_READ, 2048, 8, 1);
	assert_int_equal(s.log_count, 6);
	end();
}

static void
largest_blocks(void **state)
{
	begin(32, 65536);
	s.bdev.buffer_align = 65536;
	scripted_open(&s, &env);
	memset(buf, 0x33, sizeof(buf));
	assert_int_equal(env_rw(&env.workers[0], BDEV_WRITE, 3, 4, buf + 512), 0);
	assert_int_equal(s.log_count, 4);
	memset(buf, 0, sizeof(buf));
	assert_int_equal(env_rw(&env.workers[0], BDEV_READ, 3, 4, buf + 4), 0);
	assert_true(buf[3] == 0 && buf[4] == 0x33 && buf[4 * 65536 + 3] == 0x33 &&
		    buf[4 * 65536 + 4] == 0);
	end();
}

#define MANY 40

/* With nothing left in the process's pool, each channel still gets on with the buffer of its
 * own. */
static void
empty_pool(void **state)
{
	struct mem_cache hoard = {.pool = &bounce_pool};
	void **taken = calloc(bounce_pool.limit + 1, sizeof(void *));
	struct env_io io[ENV_WORKERS][MANY];
	struct iovec iov = {buf + 4, 4096};
	unsigned n = 0;

	begin(8192, 512);
	s.bdev.buffer_align = 512;
	s.hold = true;
	scripted_open(&s, &env);
	while ((taken[n] = mem_cache_get(&hoard)) != NULL) {
		n++;
	}
	memset(io, 0, sizeof(io));
	for (unsigned i = 0; i < MANY; i++) {
		for (unsigned w = 0; w < ENV_WORKERS; w++) {
			io[w][i] = (struct env_io){.op = BDEV_WRITE,
						   .lba = i * 8,
						   .num_blocks = 8,
						   .iov = &iov,
						   .iovcnt = 1};
			env_submit(&env.workers[w], &io[w][i]);
		}
	}
	/* One of each worker; all others wait. */
	assert_int_equal(s.log_count, ENV_WORKERS);
	scripted_let_go(&s, &env);
	for (unsigned i = 0; i < MANY; i++) {
		for (unsigned w = 0; w < ENV_WORKERS; w++) {
			assert_int_equal(env_finish(&io[w][i]), 0);
			assert_true(i == 0 || io[w][i].order > io[w][i - 1].order);
		}
	}
	while (n > 0) {
		mem_cache_put(&hoard, taken[--n]);
	}
	mem_cache_release(&hoard);
	free(taken);
	end();
}

/* ---- Numbers ---- */

static void
long_requests_leave_room(void **state)
{
	struct iovec iov = {buf, 512 * 100};
	struct env_io io[6];

	begin(1000, 512);
	s.bdev.max_rw_blocks = 1;
	s.hold = true;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		io[i] = (struct env_io){
			.op = BDEV_READ, .lba = i, .num_blocks = 100, .iov = &iov, .iovcnt = 1};
		env_submit(&env.workers[0], &io[i]);
		assert_int_equal(s.log_count, MIN((i + 1) * PARTS_OF_ONE, PARTS_MAX + 0u));
	}
	scripted_let_go(&s, &env);
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		assert_int_equal(env_finish(&io[i]), 0);
	}
	assert_int_equal(s.log_count, 600);
	end();
}

/* One that waits for parts, and whose only part fails, ends once. */
static void
error_while_waiting_for_parts(void **state)
{
	struct iovec iov = {buf, 512 * 100};
	struct env_io io[33];

	for (unsigned skip = 64; skip < 700; skip += 9) {
		begin(1000, 512);
		s.bdev.max_rw_blocks = 1;
		s.hold = true;
		scripted_open(&s, &env);
		s.fail_skip = skip;
		s.fail_with = -ENOSPC;
		for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
			io[i] = (struct env_io){.op = BDEV_READ, .lba = i, .num_blocks = 100, .iov = &iov, .iovcnt = 1};
			env_submit(&env.workers[0], &io[i]);
		}
		scripted_let_go(&s, &env);
		for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
			(void)env_finish(&io[i]);
		}
		end();
	}
}

static void
first_error_wins(void **state)
{
	begin(1000, 512);
	s.bdev.max_rw_blocks = 1;
	s.hold = true;
	scripted_open(&s, &env);
	s.fail_skip = 2;
	s.fail_with = -ENOSPC;
	struct iovec iov = {buf, 512 * 100};
	struct env_io io = {.op = BDEV_WRITE, .num_blocks = 100, .iov = &iov, .iovcnt = 1};

	env_submit(&env.workers[0], &io);
	scripted_let_go(&s, &env);
	assert_int_equal(env_finish(&io), -ENOSPC);
	/* Those under way came back before it ended; two went on to another part, the third did
	 * not. */
	assert_true(s.log_count >= PARTS_OF_ONE && s.log_count <= PARTS_OF_ONE + 2);
	s.fail_with = 0;
	assert_int_equal(env_rwv(&env.workers[0], BDEV_WRITE, 0, 0, 100, &iov, 1), 0);
	end();
}

static void
removal_in_the_middle(void **state)
{
	struct iovec iov = {buf, 512 * 100};
	struct env_io io[6];

	begin(1000, 512);
	s.bdev.max_rw_blocks = 1;
	s.hold = true;
	scripted_open(&s, &env);
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		io[i] = (struct env_io){
			.op = BDEV_READ, .num_blocks = 100, .iov = &iov, .iovcnt = 1};
		env_submit(&env.workers[0], &io[i]);
	}
	scripted_remove(&s, &env);
	env_wait_count(&env, &env.removes, 1);
	/* Those without a part at the module end at once, the others with their parts. */
	assert_int_equal(env_finish(&io[5]), -ENODEV);
	env_linger(&env, 2);
	assert_false(io[0].done);
	assert_int_equal(s.log_count, PARTS_MAX);
	scripted_let_go(&s, &env);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(env_finish(&io[i]), -ENODEV);
	}
	assert_int_equal(s.log_count, PARTS_MAX);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(length),
		cmocka_unit_test(boundary),
		cmocka_unit_test(beyond_boundary),
		cmocka_unit_test(entries),
		cmocka_unit_test(stable_data),
		cmocka_unit_test(ranges),
		cmocka_unit_test(zeroes_by_writes),
		cmocka_unit_test(bounces_only_where_needed),
		cmocka_unit_test(largest_blocks),
		cmocka_unit_test(empty_pool),
		cmocka_unit_test(long_requests_leave_room),
		cmocka_unit_test(error_while_waiting_for_parts),
		cmocka_unit_test(first_error_wins),
		cmocka_unit_test(removal_in_the_middle),
	};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		failures += cmocka_run_group_tests_name(reactor_mode_name(mode), tests, NULL, NULL);
	}
	return failures;
}
