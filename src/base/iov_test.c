/* SPDX-License-Identifier: BSD-3-Clause */
/* Scatter lists against flat memory, with random shapes. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/iov.h"

#define PARTS 7
#define BYTES 256
#define ROUNDS 5000

/* A scatter list over `flat` in order, with empty parts here and there. */
static uint8_t flat[BYTES];
static struct iovec iov[PARTS];
static size_t total;
static unsigned seed = 5;

static size_t
dice(size_t sides)
{
	return (size_t)rand_r(&seed) % sides;
}

static void
shuffle(void)
{
	total = 0;
	for (int i = 0; i < PARTS; i++) {
		size_t len = dice(4) == 0 ? 0 : dice(BYTES / PARTS);

		iov[i] = (struct iovec){len == 0 ? NULL : flat + total, len};
		total += len;
	}
	for (size_t i = 0; i < BYTES; i++) {
		flat[i] = (uint8_t)rand_r(&seed);
	}
}

static void
copies_agree_with_flat_memory(void **state)
{
	for (int round = 0; round < ROUNDS; round++) {
		size_t offset = dice(BYTES), len = dice(BYTES), expect;
		uint8_t buf[BYTES], want[BYTES];

		shuffle();
		expect = offset >= total ? 0 : MIN(len, total - offset);
		assert_int_equal(iov_length(iov, PARTS), total);
		memset(buf, 0xee, sizeof(buf));
		memcpy(want, buf, sizeof(buf));
		memcpy(want, flat + offset, expect);
		assert_int_equal(iov_to_buf(iov, PARTS, offset, buf, len), expect);
		assert_memory_equal(buf, want, sizeof(buf));

		memcpy(want, flat, sizeof(want));
		for (size_t i = 0; i < BYTES; i++) {
			buf[i] = (uint8_t)rand_r(&seed);
		}
		memcpy(want + offset, buf, expect);
		assert_int_equal(iov_from_buf(iov, PARTS, offset, buf, len), expect);
		assert_memory_equal(flat, want, sizeof(flat));

		memset(want + offset, 0x5a, expect);
		assert_int_equal(iov_fill(iov, PARTS, offset, 0x5a, len), expect);
		assert_memory_equal(flat, want, sizeof(flat));
	}
}

static void
slices_are_the_same_bytes(void **state)
{
	for (int round = 0; round < ROUNDS; round++) {
		size_t offset = dice(BYTES), len = dice(BYTES / 2);
		struct iovec out[PARTS];
		int max = (int)dice(PARTS + 1), n;
		uint8_t a[BYTES], b[BYTES];

		shuffle();
		n = iov_slice(iov, PARTS, offset, len, out, PARTS);
		if (len > 0 && (offset > total || len > total - offset)) {
			assert_int_equal(n, -EINVAL);
			continue;
		}
		assert_in_range(n, 0, PARTS);
		assert_int_equal(iov_length(out, n), len);
		assert_int_equal(iov_to_buf(out, n, 0, a, len), len);
		assert_int_equal(iov_to_buf(iov, PARTS, offset, b, len), len);
		assert_memory_equal(a, b, len);
		assert_int_equal(iov_slice(iov, PARTS, offset, len, out, max), max >= n ? n : -ENOSPC);
	}
}

static void
alignment_is_of_addresses_and_lengths(void **state)
{
	struct iovec v[2] = {{(void *)(uintptr_t)0x1000, 512}, {(void *)(uintptr_t)0x4200, 1024}};

	assert_true(iov_aligned(v, 2, 512));
	assert_false(iov_aligned(v, 2, 1024));
	v[0].iov_len = 513;
	assert_false(iov_aligned(v, 2, 512));
	v[0].iov_len = 512;
	v[1].iov_base = (void *)(uintptr_t)0x4208;
	assert_false(iov_aligned(v, 2, 16));
	assert_true(iov_aligned(v, 2, 8));
	assert_true(iov_aligned(v, 0, 4096));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(copies_agree_with_flat_memory),
		cmocka_unit_test(slices_are_the_same_bytes),
		cmocka_unit_test(alignment_is_of_addresses_and_lengths),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
