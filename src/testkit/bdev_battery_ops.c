/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "testkit/bdev_battery_run.h"

/* ---- Compare ---- */

static int
compare(struct run *r, uint64_t lba, uint64_t n, uint8_t *want, uint64_t *ret_result)
{
	/* Pieces of odd lengths, so that differences lie in any of them. */
	struct iovec iov[3] = {{want, 100}, {want + 100, 412}, {want + 512, n * r->bs - 512}};
	struct env_io io = {.op = BDEV_COMPARE, .lba = lba, .num_blocks = n, .iov = iov, .iovcnt = 3};
	int rc;

	env_submit(r->w, &io);
	rc = env_finish(&io);
	*ret_result = io.result;
	return rc;
}

static void
compares(struct run *r)
{
	uint64_t n = (200u << 10) / r->bs, result;
	uint8_t *p = battery_buffer(n * r->bs);
	static const size_t spots[] = {0, 99, 100, 511, 513, 4097, 65535, 65536, 131072 + 77};

	battery_pattern(p, n * r->bs, 50);
	EXPECT(env_rw(r->w, BDEV_WRITE, 7, n, p) == 0);
	EXPECT(compare(r, 7, n, p, &result) == 0);
	for (size_t i = 0; i < ARRAY_SIZE(spots); i++) {
		p[spots[i]] ^= 1;
		p[spots[i] + 1] ^= 1;
		EXPECT_SAY(compare(r, 7, n, p, &result) == -EILSEQ, "%zu", spots[i]);
		EXPECT_SAY(result == spots[i], "%llu, not %zu", (unsigned long long)result, spots[i]);
		p[spots[i]] ^= 1;
		p[spots[i] + 1] ^= 1;
	}
	EXPECT(compare(r, r->num_blocks - 1, n, p, &result) == -EINVAL);
	EXPECT(env_rw(r->w, BDEV_COMPARE, 3, 0, NULL) == 0);
	free(p);
}

/* ---- Compare-and-write ---- */

static int
swap(struct env_worker *w, uint64_t lba, uint64_t n, uint8_t *want, uint8_t *data, size_t bytes)
{
	struct iovec iov = {want, bytes}, write_iov[2] = {{data, 13}, {data + 13, bytes - 13}};
	struct env_io io = {
		.op = BDEV_COMPARE_AND_WRITE,
		.lba = lba,
		.num_blocks = n,
		.iov = &iov,
		.iovcnt = 1,
		.write_iov = write_iov,
		.write_iovcnt = 2,
	};

	env_submit(w, &io);
	return env_finish(&io);
}

/* Each worker adds to a counter on the disk, as often as it can; no addition may be lost. */
static void
counts_by_swapping(struct run *r)
{
	uint64_t value[ENV_WORKERS] = {0}, won = 0;
	uint8_t *old[ENV_WORKERS], *new[ENV_WORKERS];
	struct iovec iov[ENV_WORKERS], write_iov[ENV_WORKERS];
	struct env_io io[ENV_WORKERS], reset = {.op = BDEV_RESET};

	EXPECT(env_rw(r->w, BDEV_WRITE_ZEROES, 3, 1, NULL) == 0);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		old[i] = battery_buffer(r->bs);
		new[i] = battery_buffer(r->bs);
		memset(old[i], 0, r->bs);
		memset(new[i], 0, r->bs);
	}
	for (unsigned round = 0; round < 20; round++) {
		for (unsigned i = 0; i < ENV_WORKERS; i++) {
			uint64_t next = value[i] + 1;

			memcpy(old[i], &value[i], sizeof(value[i]));
			memcpy(new[i], &next, sizeof(next));
			iov[i] = (struct iovec){old[i], r->bs};
			write_iov[i] = (struct iovec){new[i], r->bs};
			io[i] = (struct env_io){
				.op = BDEV_COMPARE_AND_WRITE,
				.lba = 3,
				.num_blocks = 1,
				.iov = &iov[i],
				.iovcnt = 1,
				.write_iov = &write_iov[i],
				.write_iovcnt = 1,
			};
			env_submit(&r->env.workers[i], &io[i]);
		}
		/* A reset waits for one that has begun, and cancels one that has not. */
		if (round % 4 == 1 && !r->battery->may_cancel) {
			env_submit(r->w, &reset);
			EXPECT(env_finish(&reset) == 0);
		}
		for (unsigned i = 0; i < ENV_WORKERS; i++) {
			int rc = env_finish(&io[i]);

			EXPECT_SAY(rc == 0 || rc == -EILSEQ || (rc == -ECANCELED && round % 4 == 1), "%d",
				   rc);
			won += rc == 0;
		}
		EXPECT(env_rw(r->w, BDEV_READ, 3, 1, old[0]) == 0);
		for (unsigned i = 0; i < ENV_WORKERS; i++) {
			memcpy(&value[i], old[0], sizeof(value[i]));
		}
		EXPECT_SAY(value[0] == won, "%llu, %llu won", (unsigned long long)value[0],
			   (unsigned long long)won);
	}
	EXPECT(won >= 15);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		free(old[i]);
		free(new[i]);
	}
}

static void
swaps(struct run *r)
{
	uint64_t n = 65536 / r->bs;
	uint8_t *old = battery_buffer(65536), *new = battery_buffer(2 * 65536);

	battery_pattern(old, 65536, 51);
	battery_pattern(new, 65536, 52);
	EXPECT(env_rw(r->w, BDEV_WRITE, 5, n, old) == 0);
	EXPECT(swap(r->w, 5, n, old, new, 65536) == 0);
	battery_expect_pattern(r, 5, n, 52, 0);
	EXPECT(swap(r->w, 5, n, old, new, 65536) == -EILSEQ);
	battery_expect_pattern(r, 5, n, 52, 0);
	EXPECT(swap(r->w, 5, n + 1, new, new, 65536 + r->bs) == -EINVAL);
	EXPECT(swap(r->w, r->num_blocks, 1, old, new, r->bs) == -EINVAL);
	EXPECT(swap(r->w, 5, 2, old, new, r->bs) == -EINVAL);
	counts_by_swapping(r);
	free(old);
	free(new);
}

/* ---- Copy ---- */

static int
copy(struct run *r, uint64_t to, uint64_t from, uint64_t n)
{
	struct env_io io = {.op = BDEV_COPY, .lba = to, .src_lba = from, .num_blocks = n};

	env_submit(r->w, &io);
	return env_finish(&io);
}

static void
copies(struct run *r)
{
	uint64_t n = (700u << 10) / r->bs, to = r->num_blocks - n;

	battery_write_pattern(r, 9, n, 53);
	battery_write_pattern(r, to - 1, 1, 54);
	EXPECT(copy(r, to, 9, n) == 0);
	battery_expect_pattern(r, to, n, 53, 0);
	battery_expect_pattern(r, to - 1, 1, 54, 0);
	battery_expect_pattern(r, 9, n, 53, 0);
	EXPECT(copy(r, 2, 0, 1) == 0);
	EXPECT(copy(r, 9, 10, 2) == -EINVAL);
	EXPECT(copy(r, 10, 9, 2) == -EINVAL);
	EXPECT(copy(r, 0, to, n + 1) == -EINVAL);
	EXPECT(copy(r, to, 0, n + 1) == -EINVAL);
	EXPECT(copy(r, 0, UINT64_MAX, 2) == -EINVAL);
	EXPECT(copy(r, 0, 1, 0) == 0);
}

/* ---- Where data is ---- */

static uint64_t
seek(struct run *r, enum bdev_op op, uint64_t lba)
{
	struct env_io io = {.op = op, .lba = lba};

	env_submit(r->w, &io);
	EXPECT(env_finish(&io) == 0);
	return io.result;
}

/* The flags of the extent that has lba. */
static uint32_t
status_of(struct run *r, uint64_t lba)
{
	struct bdev_extent e[3];
	struct env_io io = {
		.op = BDEV_BLOCK_STATUS,
		.lba = lba,
		.num_blocks = 1,
		.extents = e,
		.max_results = 3,
	};

	env_submit(r->w, &io);
	EXPECT(env_finish(&io) == 0);
	EXPECT(io.result == 1 && e[0].num_blocks == 1);
	return e[0].flags;
}

static void
covers_all(struct run *r)
{
	struct bdev_extent e[5];
	uint64_t lba = 0;
	unsigned asked = 0;

	while (lba < r->num_blocks) {
		struct env_io io = {
			.op = BDEV_BLOCK_STATUS,
			.lba = lba,
			.num_blocks = r->num_blocks - lba,
			.extents = e,
			.max_results = ARRAY_SIZE(e),
		};

		env_submit(r->w, &io);
		EXPECT(env_finish(&io) == 0);
		EXPECT(io.result >= 1 && io.result <= ARRAY_SIZE(e));
		for (uint64_t i = 0; i < io.result; i++) {
			EXPECT(e[i].num_blocks > 0 && e[i].num_blocks <= r->num_blocks - lba);
			if ((e[i].flags & BDEV_EXTENT_ZERO) != 0) {
				battery_expect_zero(r, lba, MIN(e[i].num_blocks, 64u));
			}
			lba += e[i].num_blocks;
		}
		EXPECT(++asked < 1000);
	}
}

static void
tells_where_data_is(struct run *r)
{
	uint64_t n = (1u << 20) / r->bs, found;
	struct bdev_extent e;
	struct env_io none = {.op = BDEV_BLOCK_STATUS, .num_blocks = 1, .extents = &e};

	if (bdev_supports(r->env.bdev, BDEV_UNMAP)) {
		EXPECT(env_rw(r->w, BDEV_UNMAP, 0, r->num_blocks, NULL) == 0);
	}
	battery_write_pattern(r, n, n / 4, 55);
	EXPECT((status_of(r, n) & BDEV_EXTENT_ZERO) == 0);
	EXPECT((status_of(r, n + n / 4 - 1) & BDEV_EXTENT_ALLOCATED) != 0);
	covers_all(r);
	found = seek(r, BDEV_SEEK_DATA, 0);
	EXPECT(r->battery->shows_holes ? found == n : found <= n);
	EXPECT(seek(r, BDEV_SEEK_DATA, n + 1) == n + 1);
	found = seek(r, BDEV_SEEK_HOLE, n);
	EXPECT(found >= n + n / 4);
	EXPECT(!r->battery->shows_holes || found < 2 * n);
	if (found != UINT64_MAX) {
		battery_expect_zero(r, found, 1);
	}
	env_submit(r->w, &none);
	EXPECT(env_finish(&none) == -EINVAL);
	EXPECT(env_rw(r->w, BDEV_SEEK_DATA, r->num_blocks, 0, NULL) == -EINVAL);
}

/* ---- Abort ---- */

static void
aborts(struct run *r)
{
	uint8_t *p = battery_buffer(8 * r->bs);
	struct iovec iov = {p, 8 * r->bs};
	struct env_io io[8], abort;

	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		io[i] = (struct env_io){.op = BDEV_READ, .lba = i, .num_blocks = 8, .iov = &iov, .iovcnt = 1};
	}
	abort = (struct env_io){.op = BDEV_ABORT};
	env_submit(r->w, &abort);
	EXPECT(env_finish(&abort) == -EINVAL);
	if (r->env.real_threads) { /* a target must not be answered before it is aborted */
		free(p);
		return;
	}
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		env_submit(r->w, &io[i]);
	}
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		int rc;

		if (atomic_load(&io[i].done)) {
			continue;
		}
		abort = (struct env_io){.op = BDEV_ABORT, .target = &io[i]};
		env_submit(r->w, &abort);
		rc = env_finish(&abort);
		EXPECT_SAY(rc == 0 || rc == -ENOENT, "%d", rc);
		if (rc == 0) {
			EXPECT(env_finish(&io[i]) == -ECANCELED);
		}
	}
	for (unsigned i = 0; i < ARRAY_SIZE(io); i++) {
		if (io[i].io != NULL) {
			EXPECT(env_finish(&io[i]) == 0);
		}
	}
	free(p);
}

void
battery_operations(struct run *r)
{
	if (!r->battery->no_data) {
		compares(r);
		swaps(r);
	}
	copies(r);
	tells_where_data_is(r);
	aborts(r);
}
