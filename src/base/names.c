/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/names.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define BUCKETS_MIN 64

/* FNV-1a, with its upper half folded in. */
static size_t
hash(const char *name)
{
	uint64_t h = UINT64_C(0xcbf29ce484222325);

	for (; *name != '\0'; name++) {
		h = (h ^ (uint8_t)*name) * UINT64_C(0x100000001b3);
	}
	return (size_t)(h ^ h >> 32);
}

static struct list *
bucket_of(const struct names *t, const char *name)
{
	return t->buckets != NULL ? &t->buckets[hash(name) & (t->bucket_count - 1)] : (struct list *)&t->first;
}

/* Moves what is in old to where it belongs now. */
static void
spread(struct names *t, struct list *old)
{
	while (!list_empty(old)) {
		struct names_node *node = LIST_FIRST(old, struct names_node, link);

		list_remove(&node->link);
		list_append(bucket_of(t, node->name), &node->link);
	}
}

/* Without memory for more buckets the old ones get longer. */
static void
grow(struct names *t)
{
	size_t count = t->bucket_count == 0 ? BUCKETS_MIN : 2 * t->bucket_count;
	struct list *buckets = calloc(count, sizeof(*buckets)), *old = t->buckets;
	size_t old_count = t->bucket_count;

	if (buckets == NULL) {
		return;
	}
	for (size_t i = 0; i < count; i++) {
		list_init(&buckets[i]);
	}
	t->buckets = buckets;
	t->bucket_count = count;
	spread(t, &t->first);
	for (size_t i = 0; i < old_count; i++) {
		spread(t, &old[i]);
	}
	free(old);
}

void
names_add(struct names *t, struct names_node *node, const char *name)
{
	if (t->first.next == NULL) {
		list_init(&t->first);
	}
	if (t->count >= t->bucket_count) {
		grow(t);
	}
	node->name = name;
	list_append(bucket_of(t, name), &node->link);
	t->count++;
}

struct names_node *
names_find(const struct names *t, const char *name)
{
	struct list *bucket = bucket_of(t, name);
	struct names_node *node;

	if (list_empty(bucket)) {
		return NULL;
	}
	LIST_FOREACH (node, bucket, link) {
		if (strcmp(node->name, name) == 0) {
			return node;
		}
	}
	return NULL;
}

void
names_remove(struct names *t, struct names_node *node)
{
	if (list_linked(&node->link)) {
		list_remove(&node->link);
		t->count--;
	}
}

void
names_release(struct names *t)
{
	free(t->buckets);
	*t = (struct names){0};
}
