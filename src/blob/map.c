/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Maps of clusters: an array of extents, each made when its first entry is.
 *
 * Invariant: an extent that is there stays there as long as the map is, so that readers need no lock. Contexts: the owner,
 * but for blob_map_make_extent().
 */
#include <stdlib.h>
#include <sys/mman.h>

#include "blob/internal.h"

/* Larger maps come from the system directly: what nobody writes to takes no memory, however large volumes are made. */
#define MAPPED_BYTES (64u << 10)

static size_t
map_bytes(uint64_t num_extents)
{
	return sizeof(struct blob_map) + num_extents * sizeof(((struct blob_map *)0)->extents[0]);
}

static struct blob_map *
map_alloc(uint64_t num_extents)
{
	size_t bytes = map_bytes(num_extents);
	void *map;

	if (bytes < MAPPED_BYTES) {
		return calloc(1, bytes);
	}
	map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return map == MAP_FAILED ? NULL : map;
}

static void
map_free(struct blob_map *map)
{
	size_t bytes = map_bytes(map->num_extents);

	if (bytes < MAPPED_BYTES) {
		free(map);
	} else {
		munmap(map, bytes);
	}
}

struct blob_map *
blob_map_create(uint64_t num_clusters, struct blob_map *from)
{
	uint64_t n = num_clusters / BLOB_EXTENT_CLUSTERS + (num_clusters % BLOB_EXTENT_CLUSTERS != 0);
	struct blob_map *map;

	if (n > (SIZE_MAX - sizeof(*map)) / sizeof(map->extents[0])) {
		return NULL;
	}
	map = map_alloc(n);
	if (map == NULL) {
		return NULL;
	}
	map->num_clusters = num_clusters;
	map->num_extents = n;
	for (uint64_t i = 0; from != NULL && i < MIN(n, from->num_extents); i++) {
		struct blob_extent *e = blob_map_extent(from, i);

		if (e != NULL) { /* so that what nobody has touched stays untouched memory */
			atomic_store_explicit(&map->extents[i], e, memory_order_relaxed);
		}
	}
	return map;
}

void
blob_map_free(struct blob_map *map, bool free_extents)
{
	if (map == NULL) {
		return;
	}
	for (uint64_t i = 0; free_extents && i < map->num_extents; i++) {
		free(blob_map_extent(map, i));
	}
	map_free(map);
}

struct blob_extent *
blob_map_make_extent(struct blob_map *map, uint64_t index)
{
	struct blob_extent *e = blob_map_extent(map, index), *fresh;

	if (e != NULL) {
		return e;
	}
	fresh = calloc(1, sizeof(*fresh));
	if (fresh == NULL) {
		return NULL;
	}
	if (atomic_compare_exchange_strong_explicit(&map->extents[index], &e, fresh, memory_order_acq_rel,
						    memory_order_acquire)) {
		return fresh;
	}
	free(fresh); /* another thread was first */
	return e;
}
