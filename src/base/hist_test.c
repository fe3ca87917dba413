/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/hist.h"

static struct hist h, other;

static int
clear(void **state)
{
	h = (struct hist){0};
	other = (struct hist){0};
	return 0;
}

static void
empty(void **state)
{
	assert_int_equal(hist_quantile(&h, 9900), 0);
	assert_int_equal(hist_mean(&h), 0);
	hist_merge(&h, &other);
	assert_int_equal(h.count, 0);
}

/* Buckets follow each other without gap or overlap, and none is wider than 1/64 of its values. */
static void
buckets_are_dense(void **state)
{
	unsigned last = 0;

	for (uint64_t v = 0; v < 1 << 20; v++) {
		unsigned b = hist_bucket(v);

		assert_true(b == last || b == last + 1);
		last = b;
	}
	for (unsigned bits = 7; bits < HIST_LIMIT_BITS; bits++) {
		uint64_t v = UINT64_C(1) << bits;

		assert_int_equal(hist_bucket(v), hist_bucket(v - 1) + 1);
		assert_int_equal(hist_bucket(v), hist_bucket(v + v / 64 - 1));
		assert_int_equal(hist_bucket(v) + 1, hist_bucket(v + v / 64));
	}
	assert_int_equal(hist_bucket(HIST_LIMIT - 1), HIST_BUCKETS - 1);
	assert_int_equal(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1);
}

static void
small_values_are_exact(void **state)
{
	for (unsigned v = 1; v <= 100; v++) {
		hist_add(&h, v);
	}
	assert_int_equal(hist_quantile(&h, 5000), 50);
	assert_int_equal(hist_quantile(&h, 9900), 99);
	assert_int_equal(hist_quantile(&h, 9990), 100);
	assert_int_equal(hist_quantile(&h, 10000), 100);
	assert_int_equal(hist_quantile(&h, 0), 1);
	assert_int_equal(hist_mean(&h), 51); /* 50.5 */
	assert_int_equal(h.min, 1);
	assert_int_equal(h.max, 100);
}

static int
compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

/* Against sorting: never below the true value, and at most 1/64 above. */
static void
quantiles_are_close(void **state)
{
	static uint64_t values[20000];
	static const unsigned quantiles[] = {1, 100, 5000, 9000, 9900, 9990, 9999};
	uint64_t x = 12345;

	for (unsigned i = 0; i < ARRAY_SIZE(values); i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		values[i] = (x >> 33) >> (x % 23);
		hist_add(i % 2 == 0 ? &h : &other, values[i]);
	}
	hist_merge(&h, &other);
	assert_int_equal(h.count, ARRAY_SIZE(values));
	qsort(values, ARRAY_SIZE(values), sizeof(values[0]), compare);
	assert_int_equal(h.min, values[0]);
	assert_int_equal(h.max, values[ARRAY_SIZE(values) - 1]);
	for (unsigned i = 0; i < ARRAY_SIZE(quantiles); i++) {
		uint64_t rank = (ARRAY_SIZE(values) * (uint64_t)quantiles[i] + 9999) / 10000;
		uint64_t want = values[rank - 1], got = hist_quantile(&h, quantiles[i]);

		assert_true(got >= want);
		assert_true(got <= want + want / 64);
	}
}

static void
huge_values(void **state)
{
	hist_add(&h, 5);
	hist_add(&h, UINT64_C(1) << 50);
	assert_int_equal(hist_quantile(&h, 5000), 5);
	assert_int_equal(hist_quantile(&h, 9990), HIST_LIMIT - 1);
	assert_int_equal(h.max, UINT64_C(1) << 50);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(empty, clear),
		cmocka_unit_test_setup(buckets_are_dense, clear),
		cmocka_unit_test_setup(small_values_are_exact, clear),
		cmocka_unit_test_setup(quantiles_are_close, clear),
		cmocka_unit_test_setup(huge_values, clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
