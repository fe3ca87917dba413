/* SPDX-License-Identifier: BSD-3-Clause */
/* What patience learns from gaps of every kind, and what its choices cost. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/check.h"
#include "event/patience.h"

#define PRICE_NS 8000

static void
learn_many(struct patience *p, uint64_t gap_ns, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		patience_learn(p, gap_ns, PRICE_NS);
	}
}

/* What a gap costs somebody who waits as p says. */
static uint64_t
cost(const struct patience *p, uint64_t gap_ns)
{
	return gap_ns < p->ns ? gap_ns : p->ns + PRICE_NS;
}

static void
a_new_one_polls_for_the_first_time_span(void **state)
{
	struct patience p;

	patience_init(&p);
	assert_int_equal(p.ns, PATIENCE_FIRST_NS);
}

static void
short_gaps_are_polled_through(void **state)
{
	static const uint64_t gaps[] = {0, 100, 600, 1500, 3000, 5000};

	for (size_t i = 0; i < ARRAY_SIZE(gaps); i++) {
		struct patience p;

		patience_init(&p);
		learn_many(&p, gaps[i], 2 * PATIENCE_WINDOW);
		assert_true(p.ns > gaps[i]);
		assert_true(p.ns <= MAX(2 * gaps[i] + 512, (uint64_t)PRICE_NS));
	}
}

static void
gaps_longer_than_a_sleep_is_worth_are_slept_through_at_once(void **state)
{
	static const uint64_t gaps[] = {12000, 50000, 1000000, UINT64_MAX};

	for (size_t i = 0; i < ARRAY_SIZE(gaps); i++) {
		struct patience p;

		patience_init(&p);
		learn_many(&p, gaps[i], 2 * PATIENCE_WINDOW);
		assert_int_equal(p.ns, 0);
	}
}

static void
the_same_gap_is_polled_through_where_a_sleep_is_dear(void **state)
{
	struct patience p;

	patience_init(&p);
	for (int i = 0; i < 2 * PATIENCE_WINDOW; i++) {
		patience_learn(&p, 50000, 100000);
	}
	assert_true(p.ns > 50000);
}

static void
a_rare_long_gap_does_not_end_the_polling_of_short_ones(void **state)
{
	struct patience p;

	patience_init(&p);
	for (int i = 0; i < 1000; i++) {
		patience_learn(&p, i % 30 == 29 ? 5000000 : 700, PRICE_NS);
		assert_true(i < 30 || p.ns >= 1024);
	}
	/* And the long ones are not polled through for the whole of what would be allowed. */
	assert_true(p.ns <= 4096);
}

static void
a_change_is_learnt_within_two_windows(void **state)
{
	struct patience p;

	patience_init(&p);
	learn_many(&p, 1000000, 1000);
	assert_int_equal(p.ns, 0);
	learn_many(&p, 700, PATIENCE_WINDOW);
	assert_true(p.ns > 700);
	learn_many(&p, 1000000, 2 * PATIENCE_WINDOW);
	assert_int_equal(p.ns, 0);
}

static uint64_t
uniform(unsigned *seed, uint64_t from, uint64_t to)
{
	return from + (uint64_t)rand_r(seed) % (to - from);
}

/* The best fixed time for a sequence of gaps, tried at every nanosecond that matters: each gap's own length. */
static uint64_t
best_fixed(const uint64_t *gaps, size_t count)
{
	uint64_t best = UINT64_MAX;

	for (size_t t = 0; t <= count; t++) {
		uint64_t limit = t == count ? 0 : gaps[t] + 1, sum = 0;

		for (size_t i = 0; i < count; i++) {
			sum += gaps[i] < limit ? gaps[i] : limit + PRICE_NS;
		}
		best = sum < best ? sum : best;
	}
	return best;
}

/* Mixtures that have no single right answer: what is learnt costs little more than the best that is constant, and half a
 * price for each sleep where it is patient because some gaps are short. */
static void
mixed_gaps_cost_at_most_half_more_than_the_best_fixed_time(void **state)
{
	static const struct { uint64_t from, to, rare_from, rare_to; unsigned rare_percent; } mixes[] = {
		{300, 2000, 20000, 90000, 10},
		{300, 2000, 200000, 900000, 50},
		{3000, 30000, 0, 1, 0},
		{6000, 10000, 0, 1, 0},
		{100, 400, 9000, 40000, 30},
		{20000, 100000, 100, 400, 40},
	};
	static uint64_t gaps[1000];

	for (size_t m = 0; m < ARRAY_SIZE(mixes); m++) {
		unsigned seed = (unsigned)m + 1;
		uint64_t paid = 0;
		struct patience p;

		patience_init(&p);
		for (size_t i = 0; i < ARRAY_SIZE(gaps); i++) {
			bool rare = (unsigned)rand_r(&seed) % 100 < mixes[m].rare_percent;

			gaps[i] = rare ? uniform(&seed, mixes[m].rare_from, mixes[m].rare_to)
				       : uniform(&seed, mixes[m].from, mixes[m].to);
			paid += cost(&p, gaps[i]);
			patience_learn(&p, gaps[i], PRICE_NS);
		}
		assert_true(paid * 100 <= best_fixed(gaps, ARRAY_SIZE(gaps)) * 150);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_new_one_polls_for_the_first_time_span),
		cmocka_unit_test(short_gaps_are_polled_through),
		cmocka_unit_test(gaps_longer_than_a_sleep_is_worth_are_slept_through_at_once),
		cmocka_unit_test(the_same_gap_is_polled_through_where_a_sleep_is_dear),
		cmocka_unit_test(a_rare_long_gap_does_not_end_the_polling_of_short_ones),
		cmocka_unit_test(a_change_is_learnt_within_two_windows),
		cmocka_unit_test(mixed_gaps_cost_at_most_half_more_than_the_best_fixed_time),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
