/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/heap.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"

#define HEAP_FIRST_CAPACITY 16

static void
place(struct heap *h, size_t i, struct heap_node *node)
{
	h->nodes[i] = node;
	node->index = i + 1;
}

static void
sift_up(struct heap *h, size_t i, struct heap_node *node)
{
	while (i > 0) {
		size_t parent = (i - 1) / 2;

		if (h->nodes[parent]->key <= node->key) {
			break;
		}
		place(h, i, h->nodes[parent]);
		i = parent;
	}
	place(h, i, node);
}

static void
sift_down(struct heap *h, size_t i, struct heap_node *node)
{
	for (;;) {
		size_t child = 2 * i + 1;

		if (child >= h->count) {
			break;
		}
		if (child + 1 < h->count && h->nodes[child + 1]->key < h->nodes[child]->key) {
			child++;
		}
		if (node->key <= h->nodes[child]->key) {
			break;
		}
		place(h, i, h->nodes[child]);
		i = child;
	}
	place(h, i, node);
}

void
heap_release(struct heap *h)
{
	CHECK(h->count == 0);
	free(h->nodes);
	*h = (struct heap){0};
}

int
heap_insert(struct heap *h, struct heap_node *node, uint64_t key)
{
	CHECK(!heap_linked(node));
	if (h->count == h->capacity) {
		size_t capacity = h->capacity == 0 ? HEAP_FIRST_CAPACITY : 2 * h->capacity;
		struct heap_node **nodes = realloc(h->nodes, capacity * sizeof(struct heap_node *));

		if (nodes == NULL) {
			return -ENOMEM;
		}
		h->nodes = nodes;
		h->capacity = capacity;
	}
	node->key = key;
	sift_up(h, h->count++, node);
	return 0;
}

void
heap_remove(struct heap *h, struct heap_node *node)
{
	struct heap_node *last;
	size_t i;

	if (!heap_linked(node)) {
		return;
	}
	i = node->index - 1;
	CHECK(i < h->count && h->nodes[i] == node);
	node->index = 0;
	last = h->nodes[--h->count];
	if (last == node) {
		return;
	}
	if (i > 0 && h->nodes[(i - 1) / 2]->key > last->key) {
		sift_up(h, i, last);
	} else {
		sift_down(h, i, last);
	}
}
