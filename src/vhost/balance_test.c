/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The policy alone: loads of reactors and work of queues in, moves out. Every case runs on for as many
 * periods as it takes, with the queues where the plan put them, and must come to rest: a plan that
 * undoes an earlier one is the bug to fear.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "vhost/balance.h"

#define PERIOD UINT64_C(1000000000)
#define REACTORS_MAX 4
#define QUEUES_MAX 1200
#define PERIODS 200

/* A queue costs so much of a core (per mille) where it finds room; the reactors' mask, a bit each. */
struct load {
	unsigned place;
	unsigned cost;
	unsigned mask;
};

struct testcase {
	const char *name;
	unsigned reactors;
	unsigned other[REACTORS_MAX]; /* per mille: what else a reactor does */
	struct load queues[8];        /* cost 0 ends them */
	int moves;                    /* of the first plan */
	const char *end;              /* queues' places at rest, a digit each; NULL: only that it comes to rest */
};

static const struct testcase cases[] = {
	{"nothing to do", 2, {0}, {{0, 10, 3}, {0, 20, 3}}, 0, "00"},
	{"busy, but not too busy", 2, {0}, {{0, 190, 3}, {0, 190, 3}}, 0, "00"},
	{"two on one of two", 2, {0}, {{0, 400, 3}, {0, 400, 3}}, 1, NULL},
	{"two that want a core each", 2, {0}, {{0, 1000, 3}, {0, 1000, 3}}, 1, NULL},
	{"one that fills a core stays", 2, {0}, {{0, 1000, 3}}, 0, "0"},
	{"one move where one will do", 2, {0}, {{0, 700, 3}, {0, 150, 3}, {0, 150, 3}}, 1, "100"},
	{"small ones leave the big one that is pinned", 2, {0}, {{0, 700, 1}, {0, 150, 3}, {0, 150, 3}}, 2, "011"},
	{"a mask is a mask", 2, {0}, {{0, 500, 1}, {0, 500, 1}}, 0, "00"},
	{"the other one may go", 2, {0}, {{0, 500, 1}, {0, 500, 3}}, 1, "01"},
	{"the way round a reactor that is not allowed", 3, {0}, {{0, 500, 5}, {0, 500, 5}, {2, 100, 4}}, 1, NULL},
	{"both full", 2, {0}, {{0, 500, 3}, {0, 500, 3}, {1, 500, 3}, {1, 500, 3}}, 0, "0011"},
	{"three that want a core each, on two", 2, {0}, {{0, 1000, 3}, {0, 1000, 3}, {1, 1000, 3}}, 0, "001"},
	{"away from other work", 2, {900, 0}, {{0, 100, 3}}, 1, "1"},
	{"other work alone", 2, {1000, 0}, {{1, 100, 3}}, 0, "1"},
	{"little to gain", 2, {0}, {{0, 350, 3}, {0, 300, 3}, {1, 300, 3}, {1, 200, 3}}, 0, "0011"},
	{"four to four", 4, {0}, {{0, 900, 15}, {0, 900, 15}, {0, 900, 15}, {0, 900, 15}}, 3, NULL},
	{"one reactor", 1, {0}, {{0, 900, 1}, {0, 900, 1}}, 0, "00"},
	{"the second busiest, where the busiest cannot be helped", 3, {0},
		{{0, 1000, 1}, {1, 450, 7}, {1, 450, 7}}, 1, NULL},
};

static struct cpumask masks[1 << REACTORS_MAX];
static struct balance_reactor reactors[REACTORS_MAX];
static struct balance_place places[REACTORS_MAX];
static struct balance_queue queues[QUEUES_MAX];

/* What one period with these loads looks like: a reactor has 1,000 per mille and no more. */
static struct balance
measure(unsigned reactor_count, const unsigned *other, const struct load *loads, unsigned count)
{
	struct balance b = {PERIOD, reactors, places, queues, reactor_count, reactor_count, count};

	for (unsigned r = 0; r < reactor_count; r++) {
		uint64_t wanted = other[r], queue_cost = 0;

		places[r] = (struct balance_place){.reactor = r};
		for (unsigned i = 0; i < count; i++) {
			if (loads[i].place == r) {
				places[r].queues++;
				queue_cost += loads[i].cost;
			}
		}
		wanted += queue_cost;
		reactors[r] = (struct balance_reactor){r, MIN(wanted, UINT64_C(1000)) * PERIOD / 1000};
		places[r].busy_ns = wanted > 1000 ? queue_cost * PERIOD / wanted : queue_cost * PERIOD / 1000;
	}
	for (unsigned i = 0; i < count; i++) {
		/* The unit is anything; here it says little about the cost. */
		queues[i] = (struct balance_queue){loads[i].place, loads[i].cost * UINT64_C(77), &masks[loads[i].mask], false};
	}
	return b;
}

static unsigned
highest(unsigned reactor_count, const unsigned *other, const struct load *loads, unsigned count)
{
	unsigned high = 0;

	for (unsigned r = 0; r < reactor_count; r++) {
		unsigned sum = other[r];

		for (unsigned i = 0; i < count; i++) {
			sum += loads[i].place == r ? loads[i].cost : 0;
		}
		high = MAX(high, sum);
	}
	return high;
}

/* Periods until nothing moves any more; the moves of the first in *ret_first. */
static unsigned
come_to_rest(const char *name, unsigned reactor_count, const unsigned *other, struct load *loads, unsigned count,
	     unsigned *ret_first)
{
	for (unsigned period = 0; period < PERIODS; period++) {
		struct balance b = measure(reactor_count, other, loads, count);
		struct balance_move moves[BALANCE_MOVES_MAX];
		unsigned before = highest(reactor_count, other, loads, count);
		unsigned n = balance_plan(&b, moves, BALANCE_MOVES_MAX);

		if (period == 0) {
			*ret_first = n;
		}
		if (n == 0) {
			return period;
		}
		for (unsigned i = 0; i < n; i++) {
			assert_true(loads[moves[i].queue].mask & 1u << moves[i].place);
			assert_int_not_equal(loads[moves[i].queue].place, moves[i].place);
			loads[moves[i].queue].place = moves[i].place;
		}
		/* What a full reactor would really do nobody can measure. */
		if (before <= 1000 && highest(reactor_count, other, loads, count) > before) {
			fail_msg("%s: %u per mille became %u", name, before,
				 highest(reactor_count, other, loads, count));
		}
	}
	fail_msg("%s: does not come to rest", name);
	return 0;
}

static void
test_cases(void **state)
{
	for (size_t c = 0; c < ARRAY_SIZE(cases); c++) {
		const struct testcase *t = &cases[c];
		struct load loads[ARRAY_SIZE(t->queues)];
		unsigned count = 0, first = 0;

		memcpy(loads, t->queues, sizeof(loads));
		while (count < ARRAY_SIZE(loads) && loads[count].cost > 0) {
			count++;
		}
		come_to_rest(t->name, t->reactors, t->other, loads, count, &first);
		if ((int)first != t->moves) {
			fail_msg("%s: %u moves, not %d", t->name, first, t->moves);
		}
		for (unsigned i = 0; t->end != NULL && i < count; i++) {
			if (loads[i].place != (unsigned)(t->end[i] - '0')) {
				fail_msg("%s: queue %u ends at %u, not at %c", t->name, i, loads[i].place, t->end[i]);
			}
		}
	}
}

/* One that stays may not be moved, however much there is to gain; nor one that did nothing. */
static void
test_what_stays(void **state)
{
	const struct load loads[] = {{0, 400, 3}, {0, 400, 3}, {0, 1, 3}};
	const unsigned other[REACTORS_MAX] = {0};
	struct balance_move moves[BALANCE_MOVES_MAX];
	struct balance b = measure(2, other, loads, 3);

	queues[2].work = 0;
	queues[0].stays = true;
	assert_int_equal(balance_plan(&b, moves, BALANCE_MOVES_MAX), 1);
	assert_int_equal(moves[0].queue, 1);
	b = measure(2, other, loads, 3);
	queues[2].work = 0;
	queues[0].stays = queues[1].stays = true;
	assert_int_equal(balance_plan(&b, moves, BALANCE_MOVES_MAX), 0);
	b = measure(2, other, loads, 3);
	assert_int_equal(balance_plan(&b, moves, 0), 0);
}

/* A thousand small ones on one of two: a few a period, until the load is below what is worth a thought. */
static void
test_many_small(void **state)
{
	static struct load loads[1000];
	const unsigned other[REACTORS_MAX] = {0};
	unsigned first, periods, on_first = 0;

	for (unsigned i = 0; i < 1000; i++) {
		loads[i] = (struct load){0, 1, 3};
	}
	periods = come_to_rest("many small", 2, other, loads, 1000, &first);
	assert_int_equal(first, BALANCE_MOVES_MAX);
	assert_true(periods < 60);
	for (unsigned i = 0; i < 1000; i++) {
		on_first += loads[i].place == 0;
	}
	assert_in_range(on_first, 500, 600);
}

/* Any loads at all come to rest, and no plan makes the highest of measurable loads higher. */
static void
test_random(void **state)
{
	srand(1);
	for (unsigned round = 0; round < 3000; round++) {
		struct load loads[24];
		unsigned other[REACTORS_MAX], reactor_count = 1 + (unsigned)rand() % REACTORS_MAX, first;
		unsigned count = 1 + (unsigned)rand() % ARRAY_SIZE(loads);
		unsigned most = rand() % 2 == 0 ? 1000 : 200 / count + 50;

		for (unsigned r = 0; r < REACTORS_MAX; r++) {
			other[r] = rand() % 3 == 0 ? (unsigned)rand() % 800 : 0;
		}
		for (unsigned i = 0; i < count; i++) {
			unsigned all = (1u << reactor_count) - 1, mask = (unsigned)rand() & all;

			loads[i] = (struct load){(unsigned)rand() % reactor_count, 1 + (unsigned)rand() % most, 0};
			loads[i].mask = mask | 1u << loads[i].place;
		}
		come_to_rest("random", reactor_count, other, loads, count, &first);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cases),
		cmocka_unit_test(test_what_stays),
		cmocka_unit_test(test_many_small),
		cmocka_unit_test(test_random),
	};

	for (unsigned m = 0; m < ARRAY_SIZE(masks); m++) {
		for (unsigned r = 0; r < REACTORS_MAX; r++) {
			if ((m & 1u << r) != 0) {
				cpumask_set(&masks[m], r);
			}
		}
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
