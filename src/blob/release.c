/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Clusters that an unmap gives back. Extent by extent, as parts of commit rounds: the entries are BUSY until the page
 * without them is on stable storage, then 0, and the clusters are freed (after a grace period: requests that began before
 * may use them still).
 *
 * Requests that meet it: a read finds zeroes from the moment of BUSY on, a write waits and then allocates, and one that is under
 * way to the old cluster ends there, as if it had come before the unmap. Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/internal.h"

#define PARTS 8 /* under way at once */

struct blob_release {
	struct blob *blob;
	uint64_t next, end; /* clusters */
	unsigned under_way;
	int status;
	blob_done_fn done;
	void *ctx;
};

static void give(struct blob_part *part);

static void
give_again(struct defer *d)
{
	struct blob_part *part = CONTAINER_OF(d, struct blob_part, defer);
	struct blob_store *store = part->blob->store;

	give(part);
	store_background_end(store);
}

/* Takes part. What is not given would be lost until the next check: it is tried until there is memory. */
static void
give(struct blob_part *part)
{
	struct blob_store *store = part->blob->store;
	uint32_t *clusters = part->cluster + part->first;

	if (alloc_free_later(store, clusters, part->count, blob_clear_method(part->blob)) == 0) {
		free(part);
		return;
	}
	store_background_begin(store);
	thread_defer(&part->defer, give_again);
}

/* True: there is nothing left to begin. */
static bool
feed(struct blob_release *r)
{
	struct blob_map *map = atomic_load_explicit(&r->blob->head.map, memory_order_relaxed);

	while (r->next < r->end && r->status == 0 && r->under_way < PARTS) {
		uint64_t extent = r->next / BLOB_EXTENT_CLUSTERS;
		uint32_t first = r->next % BLOB_EXTENT_CLUSTERS;
		uint32_t count = (uint32_t)MIN((uint64_t)BLOB_EXTENT_CLUSTERS - first, r->end - r->next);
		struct blob_part *part;

		if (blob_map_extent(map, extent) == NULL) {
			r->next += count;
			continue;
		}
		part = calloc(1, sizeof(*part));
		if (part == NULL) {
			r->status = r->under_way > 0 ? r->status : -ENOMEM;
			break;
		}
		part->blob = r->blob;
		part->release = r;
		part->extent = extent;
		part->first = first;
		part->count = count;
		r->next += count;
		r->under_way++;
		commit_part(part);
	}
	return r->next == r->end || r->status != 0;
}

void
release_part_done(struct blob_part *part, int status)
{
	struct blob_release *r = part->release;

	if (status == 0) {
		give(part);
	} else {
		r->status = r->status == 0 ? status : r->status;
		free(part);
	}
	r->under_way--;
	if (feed(r) && r->under_way == 0) {
		r->done(r->ctx, r->status, NULL);
		free(r);
	}
}

void
release_clusters(struct blob *blob, uint64_t first, uint64_t count, blob_done_fn done, void *ctx)
{
	struct blob_release *r = calloc(1, sizeof(*r));
	uint64_t clusters = blob_num_clusters(blob);

	if (r == NULL) {
		store_answer(blob->store, done, ctx, -ENOMEM, NULL);
		return;
	}
	*r = (struct blob_release){.blob = blob, .done = done, .ctx = ctx};
	r->next = MIN(first, clusters);
	r->end = MIN(first + count, clusters);
	if (feed(r) && r->under_way == 0) {
		int status = r->status;

		free(r);
		store_answer(blob->store, done, ctx, status, NULL);
	}
}
