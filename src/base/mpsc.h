/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Lock-free queue from many producers to one consumer, intrusive: a node lives in its sender's
 * memory, so the queue is never full and nothing is allocated. Nodes of one producer come out in the
 * order they went in.
 *
 * Invariant: push returns true for exactly one node between two takes, the first; whoever got true
 * owes the consumer a wake-up.
 * The compare-and-exchange in push pairs with the exchange in take in both directions: what a producer wrote before
 * push is seen by the consumer, and what the consumer wrote before take by the producer that then finds the queue
 * empty (it may go on to use what the consumer has just let go of).
 */
#ifndef BASE_MPSC_H
#define BASE_MPSC_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct mpsc_node {
	struct mpsc_node *next;
};

struct mpsc {
	_Atomic(struct mpsc_node *) head; /* newest first */
};

/* Any thread. True when the queue was empty. */
static inline bool
mpsc_push(struct mpsc *q, struct mpsc_node *node)
{
	struct mpsc_node *head = atomic_load_explicit(&q->head, memory_order_relaxed);

	do {
		node->next = head;
	} while (!atomic_compare_exchange_weak_explicit(&q->head, &head, node, memory_order_seq_cst,
							memory_order_relaxed));
	return head == NULL;
}

static inline bool
mpsc_empty(const struct mpsc *q)
{
	return atomic_load_explicit(&q->head, memory_order_seq_cst) == NULL;
}

/* The consumer. Takes everything that is there, oldest first, linked by next; NULL when empty. */
static inline struct mpsc_node *
mpsc_take(struct mpsc *q)
{
	struct mpsc_node *node, *oldest = NULL;

	if (atomic_load_explicit(&q->head, memory_order_relaxed) == NULL) {
		return NULL;
	}
	node = atomic_exchange_explicit(&q->head, NULL, memory_order_acq_rel);
	while (node != NULL) {
		struct mpsc_node *next = node->next;

		node->next = oldest;
		oldest = node;
		node = next;
	}
	return oldest;
}

#endif
