/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Intrusive doubly linked list. A node that is on no list points to itself or is zeroed; list_remove
 * accepts both, so that clean-up of half-built objects needs no flags. Not thread-safe.
 */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>

#include "base/check.h"

struct list {
	struct list *prev;
	struct list *next;
};

static inline void
list_init(struct list *l)
{
	l->prev = l;
	l->next = l;
}

/* A head that was never initialised counts as empty. */
static inline bool
list_empty(const struct list *l)
{
	return l->next == l || l->next == NULL;
}

static inline bool
list_linked(const struct list *node)
{
	return !list_empty(node);
}

static inline void
list_insert_before(struct list *pos, struct list *node)
{
	node->prev = pos->prev;
	node->next = pos;
	pos->prev->next = node;
	pos->prev = node;
}

static inline void
list_append(struct list *head, struct list *node)
{
	list_insert_before(head, node);
}

static inline void
list_prepend(struct list *head, struct list *node)
{
	list_insert_before(head->next, node);
}

static inline void
list_remove(struct list *node)
{
	if (node->next == NULL) {
		return;
	}
	node->prev->next = node->next;
	node->next->prev = node->prev;
	list_init(node);
}

/* Moves all nodes of `from` to the end of `to`; `from` is empty afterwards. */
static inline void
list_splice(struct list *to, struct list *from)
{
	if (list_empty(from)) {
		return;
	}
	from->next->prev = to->prev;
	to->prev->next = from->next;
	from->prev->next = to;
	to->prev = from->prev;
	list_init(from);
}

#define LIST_ENTRY(ptr, type, member) CONTAINER_OF(ptr, type, member)
#define LIST_FIRST(head, type, member) LIST_ENTRY((head)->next, type, member)

/* The node in *var; also of the pretended entry that holds the head, which nothing may look into. */
#define LIST_NODE(var, member) ((struct list *)((uintptr_t)(var) + offsetof(__typeof__(*(var)), member)))

#define LIST_FOREACH(var, head, member) \
	for (var = LIST_ENTRY((head)->next, __typeof__(*var), member); LIST_NODE(var, member) != (head); \
	     var = LIST_ENTRY(LIST_NODE(var, member)->next, __typeof__(*var), member))

/* The body may remove or free var, and no other node. */
#define LIST_FOREACH_SAFE(var, tmp, head, member) \
	for (var = LIST_ENTRY((head)->next, __typeof__(*var), member), \
	    tmp = LIST_ENTRY(LIST_NODE(var, member)->next, __typeof__(*var), member); \
	     LIST_NODE(var, member) != (head); \
	     var = tmp, tmp = LIST_ENTRY(LIST_NODE(var, member)->next, __typeof__(*var), member))

#endif
