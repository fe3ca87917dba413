/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intrusive binary heap of deadlines: the smallest key is on top. The caller's node
 * knows its place, so that a timer is removed in O(log n). Grows by itself; not thread-safe.
 */
#ifndef BASE_HEAP_H
#define BASE_HEAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct heap_node {
	uint64_t key;
	size_t index; /* place in the heap + 1; 0: in no heap */
};

struct heap {
	struct heap_node **nodes;
	size_t count;
	size_t capacity;
};

void heap_release(struct heap *h);

/* 0, or -ENOMEM. node must be in no heap. Equal keys leave in no particular order. */
int heap_insert(struct heap *h, struct heap_node *node, uint64_t key);

/* Removes node; a node that is in no heap is left alone. */
void heap_remove(struct heap *h, struct heap_node *node);

static inline bool
heap_linked(const struct heap_node *node)
{
	return node->index != 0;
}

/* NULL when empty. */
static inline struct heap_node *
heap_top(const struct heap *h)
{
	return h->count == 0 ? NULL : h->nodes[0];
}

#endif
