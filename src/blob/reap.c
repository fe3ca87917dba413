/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What deleted blobs and maps that were cut give back, in the background: their clusters (through alloc_free_later()), their
 * extent pages, their memory. One piece of a few extents a turn, so that the size of a volume is nobody's waiting time.
 *
 * Invariants
 *  1. What gave it up is on stable storage before it begins.
 *  2. Nothing is looked at before a grace period is over: whoever was reading the map has left, and what a merge took over
 *     was taken out by then.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/internal.h"

#define REAP_EXTENTS 16u /* of one piece */

struct reap {
	struct blob_store *store;
	struct blob *blob; /* to be freed, NULL: only a map */
	struct blob_map *map;
	enum blob_clear clear;
	uint64_t from; /* first cluster to free */
	uint64_t next; /* extent */
	uint64_t left; /* of a blob: clusters that are counted in store->reaped, not in limbo yet */
	struct blob_wait wait;
	struct defer defer;
};

struct reap *
reap_create(struct blob_store *store, enum blob_clear clear)
{
	struct reap *reap = calloc(1, sizeof(*reap));

	if (reap != NULL) {
		reap->store = store;
		reap->clear = clear;
	}
	return reap;
}

void
reap_free(struct reap *reap)
{
	free(reap);
}

static void
finish(struct reap *reap)
{
	struct blob_store *store = reap->store;

	store->reaped -= reap->left;
	if (reap->blob != NULL) {
		store_free_blob(reap->blob); /* and its map, which has no extents any more */
	} else {
		blob_map_free(reap->map, false);
	}
	free(reap);
	alloc_giving_end(store);
	merge_kick(store);
	store_background_end(store);
}

/* False: memory; to be tried again. */
static bool
reap_extent(struct reap *reap, uint64_t index)
{
	struct blob_extent *e = blob_map_extent(reap->map, index);
	uint64_t start = index * BLOB_EXTENT_CLUSTERS;
	uint32_t clusters[BLOB_EXTENT_CLUSTERS];
	uint32_t n = 0;

	if (e == NULL) {
		return true;
	}
	for (uint32_t i = reap->from > start ? (uint32_t)(reap->from - start) : 0; i < BLOB_EXTENT_CLUSTERS; i++) {
		uint32_t entry = atomic_load_explicit(&e->cluster[i], memory_order_relaxed);

		if (entry != 0 && entry != BLOB_CLUSTER_BUSY) {
			clusters[n++] = entry;
		}
	}
	if (n > 0 && alloc_free_later(reap->store, clusters, n, reap->clear) != 0) {
		return false;
	}
	n = (uint32_t)MIN(n, reap->left);
	reap->left -= n;
	reap->store->reaped -= n;
	if (e->page != 0) {
		alloc_free_page(reap->store, e->page);
	}
	atomic_store_explicit(&reap->map->extents[index], NULL, memory_order_relaxed);
	free(e);
	return true;
}

static void
go_on(struct defer *d)
{
	struct reap *reap = CONTAINER_OF(d, struct reap, defer);

	for (unsigned n = 0; n < REAP_EXTENTS && reap->next < reap->map->num_extents;) {
		n += blob_map_extent(reap->map, reap->next) != NULL;
		if (!reap_extent(reap, reap->next)) {
			break;
		}
		reap->next++;
	}
	if (reap->next < reap->map->num_extents) {
		thread_defer(&reap->defer, go_on);
		return;
	}
	finish(reap);
}

static void
graced(struct blob_wait *wait)
{
	struct reap *reap = CONTAINER_OF(wait, struct reap, wait);

	go_on(&reap->defer);
}

static void
start(struct reap *reap)
{
	reap->next = reap->from / BLOB_EXTENT_CLUSTERS;
	alloc_giving_begin(reap->store);
	store_background_begin(reap->store);
	grace_start(reap->store, &reap->wait, graced);
}

void
reap_blob(struct reap *reap, struct blob *blob)
{
	reap->blob = blob;
	reap->map = atomic_load_explicit(&blob->head.map, memory_order_relaxed);
	reap->left = atomic_load_explicit(&blob->allocated, memory_order_relaxed);
	reap->store->reaped += reap->left;
	start(reap);
}

void
reap_map(struct reap *reap, struct blob_map *map, uint64_t from)
{
	reap->map = map;
	reap->from = from;
	start(reap);
}
