/* SPDX-License-Identifier: BSD-3-Clause */
/* The queue between threads: everything arrives, in each producer's order, and exactly one push
 * between two takes is the first. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/mpsc.h"

#define PRODUCERS 3
#define PER_PRODUCER 200000
#define TIMEOUT_NS (20 * NS_PER_S)

struct parcel {
	struct mpsc_node node;
	int producer;
	int number;
};

static struct mpsc queue;
static _Atomic uint64_t firsts; /* pushes that found the queue empty */
static struct parcel *parcels[PRODUCERS];

static void *
produce(void *arg)
{
	struct parcel *p = arg;

	for (int i = 0; i < PER_PRODUCER; i++) {
		p[i].number = i;
		if (mpsc_push(&queue, &p[i].node)) {
			atomic_fetch_add(&firsts, 1);
		}
	}
	return NULL;
}

static void
all_arrive_in_their_producers_order(void **state)
{
	pthread_t threads[PRODUCERS];
	int next[PRODUCERS] = {0};
	uint64_t takes = 0, end = clock_now_ns() + TIMEOUT_NS;

	for (int i = 0; i < PRODUCERS; i++) {
		parcels[i] = calloc(PER_PRODUCER, sizeof(struct parcel));
		assert_non_null(parcels[i]);
		for (int j = 0; j < PER_PRODUCER; j++) {
			parcels[i][j].producer = i;
		}
		assert_int_equal(pthread_create(&threads[i], NULL, produce, parcels[i]), 0);
	}
	for (int arrived = 0; arrived < PRODUCERS * PER_PRODUCER;) {
		struct mpsc_node *node = mpsc_take(&queue);

		if (node == NULL) {
			assert_true(clock_now_ns() < end);
			sched_yield();
			continue;
		}
		takes++;
		for (; node != NULL; arrived++) {
			struct parcel *p = CONTAINER_OF(node, struct parcel, node);

			node = node->next;
			assert_int_equal(p->number, next[p->producer]++);
		}
	}
	for (int i = 0; i < PRODUCERS; i++) {
		pthread_join(threads[i], NULL);
		free(parcels[i]);
	}
	assert_true(mpsc_empty(&queue));
	assert_int_equal(atomic_load(&firsts), takes);
}

static void
first_push_after_a_take_is_told(void **state)
{
	struct mpsc q = {NULL};
	struct mpsc_node a, b, *taken;

	assert_true(mpsc_empty(&q));
	assert_null(mpsc_take(&q));
	assert_true(mpsc_push(&q, &a));
	assert_false(mpsc_push(&q, &b));
	assert_false(mpsc_empty(&q));
	taken = mpsc_take(&q);
	assert_ptr_equal(taken, &a);
	assert_ptr_equal(taken->next, &b);
	assert_null(b.next);
	assert_true(mpsc_push(&q, &b));
	assert_ptr_equal(mpsc_take(&q), &b);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(first_push_after_a_take_is_told),
		cmocka_unit_test(all_arrive_in_their_producers_order),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
