/* SPDX-License-Identifier: BSD-3-Clause */
/* list and heap against simple models, with random operations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/heap.h"
#include "base/list.h"

#define ITEMS 40
#define STEPS 20000

struct item {
	int where; /* list it is on, -1: none */
	struct list link;
	struct heap_node node;
};

static struct item items[ITEMS];
static unsigned seed;

static unsigned
dice(unsigned sides)
{
	return (unsigned)rand_r(&seed) % sides;
}

/* ---- list ---- */

#define LISTS 3

/* The model: arrays of item numbers. */
static int model[LISTS][ITEMS];
static int model_len[LISTS];

static void
model_remove(int i)
{
	int l = items[i].where, at = 0;

	if (l < 0) {
		return;
	}
	while (model[l][at] != i) {
		at++;
	}
	memmove(&model[l][at], &model[l][at + 1], sizeof(int) * (size_t)(--model_len[l] - at));
	items[i].where = -1;
}

static void
model_insert(int l, int at, int i)
{
	memmove(&model[l][at + 1], &model[l][at], sizeof(int) * (size_t)(model_len[l]++ - at));
	model[l][at] = i;
	items[i].where = l;
}

static void
compare(struct list *heads)
{
	for (int l = 0; l < LISTS; l++) {
		struct item *it;
		int n = 0;

		LIST_FOREACH(it, &heads[l], link)
		{
			assert_true(n < model_len[l]);
			assert_int_equal(it - items, model[l][n++]);
			assert_true(list_linked(&it->link));
		}
		assert_int_equal(n, model_len[l]);
		assert_int_equal(list_empty(&heads[l]), n == 0);
	}
}

static void
list_agrees_with_arrays(void **state)
{
	struct list heads[LISTS];

	seed = 1;
	memset(items, 0, sizeof(items));
	memset(model_len, 0, sizeof(model_len));
	for (int i = 0; i < ITEMS; i++) {
		items[i].where = -1;
	}
	for (int l = 0; l < LISTS; l++) {
		list_init(&heads[l]);
	}
	for (int step = 0; step < STEPS; step++) {
		int i = (int)dice(ITEMS), l = (int)dice(LISTS), other = (l + 1) % LISTS;

		list_remove(&items[i].link); /* harmless when zeroed or on no list */
		assert_false(list_linked(&items[i].link));
		model_remove(i);
		switch (dice(5)) {
		case 0:
			list_append(&heads[l], &items[i].link);
			model_insert(l, model_len[l], i);
			break;
		case 1:
			list_prepend(&heads[l], &items[i].link);
			model_insert(l, 0, i);
			break;
		case 2:
			if (model_len[l] > 0) {
				int at = (int)dice((unsigned)model_len[l]);

				list_insert_before(&items[model[l][at]].link, &items[i].link);
				model_insert(l, at, i);
			}
			break;
		case 3:
			list_splice(&heads[l], &heads[other]);
			while (model_len[other] > 0) {
				int first = model[other][0];

				model_remove(first);
				model_insert(l, model_len[l], first);
			}
			break;
		default:
			break;
		}
		compare(heads);
	}
}

static void
safe_walk_may_remove(void **state)
{
	struct list head;
	struct item *it, *tmp;
	int seen = 0;

	memset(items, 0, sizeof(items));
	list_init(&head);
	for (int i = 0; i < ITEMS; i++) {
		list_append(&head, &items[i].link);
	}
	LIST_FOREACH_SAFE(it, tmp, &head, link)
	{
		list_remove(&it->link);
		memset(it, 0xa5, sizeof(*it));
		seen++;
	}
	assert_int_equal(seen, ITEMS);
	assert_true(list_empty(&head));
}

static void
zeroed_head_is_empty(void **state)
{
	struct list head = {0};

	assert_true(list_empty(&head));
	list_remove(&head);
	assert_true(list_empty(&head));
}

/* ---- heap ---- */

static void
check_heap(const struct heap *h)
{
	size_t linked = 0;
	struct heap_node *top = heap_top(h);

	for (int i = 0; i < ITEMS; i++) {
		if (heap_linked(&items[i].node)) {
			linked++;
			assert_true(top->key <= items[i].node.key);
		}
	}
	assert_int_equal(linked, h->count);
	assert_true((linked == 0) == (top == NULL));
}

static void
heap_top_is_the_smallest(void **state)
{
	struct heap h = {0};

	seed = 2;
	memset(items, 0, sizeof(items));
	for (int step = 0; step < STEPS; step++) {
		struct heap_node *node = &items[dice(ITEMS)].node;

		if (dice(8) == 0 && heap_top(&h) != NULL) {
			node = heap_top(&h);
		}
		heap_remove(&h, node);
		assert_false(heap_linked(node));
		if (dice(3) > 0) {
			assert_int_equal(heap_insert(&h, node, dice(20)), 0); /* many equal keys */
		}
		check_heap(&h);
	}
	while (heap_top(&h) != NULL) {
		uint64_t key = heap_top(&h)->key;

		heap_remove(&h, heap_top(&h));
		assert_true(heap_top(&h) == NULL || heap_top(&h)->key >= key);
	}
	heap_release(&h);
	heap_release(&h);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(list_agrees_with_arrays),
		cmocka_unit_test(safe_walk_may_remove),
		cmocka_unit_test(zeroed_head_is_empty),
		cmocka_unit_test(heap_top_is_the_smallest),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
