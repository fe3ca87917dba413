/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Objects by name: an intrusive hash table that grows with what is in it; without memory to grow it gets slower.
 * Not thread-safe. A zeroed table is an empty one; it must not be moved.
 */
#ifndef BASE_NAMES_H
#define BASE_NAMES_H

#include <stddef.h>

#include "base/list.h"

/* In the object; name is borrowed until the object is removed. */
struct names_node {
	struct list link;
	const char *name;
};

struct names {
	struct list *buckets; /* NULL: only `first` */
	struct list first;
	size_t bucket_count; /* 0 or a power of two */
	size_t count;
};

/* No other node in the table has this name. */
void names_add(struct names *t, struct names_node *node, const char *name);

/* NULL when there is none. */
struct names_node *names_find(const struct names *t, const char *name);

/* Also for a zeroed node that was never added. */
void names_remove(struct names *t, struct names_node *node);

/* Frees the table's own memory and leaves it empty; objects that are still in it are the caller's. */
void names_release(struct names *t);

#endif
