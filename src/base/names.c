/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/names.h"

#include <errno.h>
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

static int
grow(struct names *t)
{
	size_t count = t->bucket_count == 0 ? BUCKETS_MIN : 2 * t->bucket_count;
	struct list *buckets = calloc(count, sizeof(*buckets));

	if (buckets == NULL) {
		return -ENOMEM;
	}
	for (size_t i = 0; i < count; i++) {
		list_init(&buckets[i]);
	}
	for (size_t i = 0; i < t->bucket_count; i++) {
		while (!list_empty(&t->buckets[i])) {
			struct names_node *node = LIST_FIRST(&t->buckets[i], struct names_node, link);

			list_remove(&node->link);
			list_append(&buckets[hash(node->name) & (count - 1)], &node->link);
		}
	}
	free(t->buckets);
	t->buckets = buckets;
	t->bucket_count = count;
	return 0;
}

int
names_add(struct names *t, struct names_node *node, const char *name)
{
	/* Without memory for more buckets the old ones get longer. */
	if (t->count >= t->bucket_count && grow(t) != 0 && t->bucket_count == 0) {
		return -ENOMEM;
	}
	node->name = name;
	list_append(&t->buckets[hash(name) & (t->bucket_count - 1)], &node->link);
	t->count++;
	return 0;
}

struct names_node *
names_find(const struct names *t, const char *name)
{
	struct names_node *node;
	struct list *bucket;

	if (t->bucket_count == 0) {
		return NULL;
	}
	bucket = &t->buckets[hash(name) & (t->bucket_count - 1)];
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
