/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Clusters on their way to be free: metadata on stable storage has given them up, requests that found them in a map may
 * still be under way, and what is in them is to be cleared.
 *
 *	arriving --grace period--> cleared, some at a time --> free
 *
 * Invariants
 *  1. One grace period at a time; what arrives meanwhile waits for the next one.
 *  2. At most CLEAR_AT_ONCE requests of at most CLEAR_BYTES are under way: guests' requests come in between.
 *  3. A cluster that could not be cleared becomes free all the same: who takes it fills it before anybody reads it.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

#define CLEAR_AT_ONCE 4u
#define CLEAR_BYTES (UINT64_C(8) << 20)

struct batch {
	struct list link;
	enum blob_clear clear;
	uint64_t count;
	uint64_t next;    /* to be cleared */
	uint32_t pending; /* requests under way for it */
	uint32_t clusters[];
};

struct clearer {
	struct store_io *io; /* NULL: there was no memory when it was wanted */
	struct batch *batch; /* NULL: idle */
	uint64_t first, count;
};

struct blob_limbo {
	struct blob_store *store;
	struct list arriving;
	struct list graced; /* waits for the grace period that is under way */
	struct list clearing;
	struct blob_wait wait;
	bool waiting;
	uint64_t clusters;
	struct clearer clearers[CLEAR_AT_ONCE];
};

int
limbo_init(struct blob_store *store)
{
	struct blob_limbo *limbo = calloc(1, sizeof(*limbo));

	if (limbo == NULL) {
		return -ENOMEM;
	}
	list_init(&limbo->arriving);
	list_init(&limbo->graced);
	list_init(&limbo->clearing);
	limbo->store = store;
	store->limbo = limbo;
	return 0;
}

static void
free_batches(struct list *batches)
{
	while (!list_empty(batches)) {
		struct batch *b = LIST_FIRST(batches, struct batch, link);

		list_remove(&b->link);
		free(b);
	}
}

void
limbo_release(struct blob_store *store)
{
	struct blob_limbo *limbo = store->limbo;

	if (limbo == NULL) {
		return;
	}
	CHECK(!limbo->waiting);
	for (unsigned i = 0; i < CLEAR_AT_ONCE; i++) {
		CHECK(limbo->clearers[i].batch == NULL);
		store_io_free(limbo->clearers[i].io);
	}
	free_batches(&limbo->arriving);
	free_batches(&limbo->graced);
	free_batches(&limbo->clearing);
	free(limbo);
	store->limbo = NULL;
}

uint64_t
limbo_clusters(const struct blob_store *store)
{
	return store->limbo == NULL ? 0 : store->limbo->clusters; /* asked while it is being loaded */
}

/* ---- Free ---- */

static void
set_free(struct blob_store *store, const struct batch *b, uint64_t first, uint64_t count)
{
	for (uint64_t i = first; i < first + count; i++) {
		alloc_put_back(store, b->clusters[i]);
	}
	store->limbo->clusters -= count;
	alloc_watch(store);
}

/* Its last cluster is free. */
static void
batch_ended(struct blob_store *store, struct batch *b)
{
	list_remove(&b->link);
	free(b);
	alloc_giving_end(store);
	store_background_end(store);
}

/* ---- Clearing ---- */

/* What a method asks of the device; false: nothing. */
static bool
clear_op(const struct blob_store *store, enum blob_clear clear, enum blob_dev_op *ret_op)
{
	if (clear == BLOB_CLEAR_WRITE_ZEROES) {
		*ret_op = BLOB_DEV_WRITE_ZEROES;
		return true;
	}
	*ret_op = BLOB_DEV_UNMAP;
	return clear != BLOB_CLEAR_NONE && store->dev->unmap;
}

/* How many clusters from `first` on lie together, and make no larger request than is wanted. */
static uint64_t
together(const struct blob_store *store, const struct batch *b, uint64_t first)
{
	uint64_t most = MAX(CLEAR_BYTES / store->super.cluster_bytes, UINT64_C(1)), n = 1;

	while (n < most && first + n < b->count && b->clusters[first + n] == b->clusters[first] + n) {
		n++;
	}
	return n;
}

static void clear_more(struct blob_store *store);

static void
cleared(struct store_io *io, int status)
{
	struct clearer *c = io->ctx;
	struct batch *b = c->batch;
	struct blob_store *store = io->store;

	c->batch = NULL;
	b->pending--;
	set_free(store, b, c->first, c->count);
	if (b->next == b->count && b->pending == 0) {
		batch_ended(store, b);
	}
	clear_more(store);
}

static bool
clear_next(struct blob_store *store, struct clearer *c, struct batch *b)
{
	uint64_t cluster_bytes = store->super.cluster_bytes;
	enum blob_dev_op op;

	if (!clear_op(store, b->clear, &op) || store->abandoned) {
		return false;
	}
	if (c->io == NULL) {
		c->io = store_io_create(store, 0);
	}
	if (c->io == NULL) {
		return false;
	}
	c->io->ctx = c;
	c->batch = b;
	c->first = b->next;
	c->count = together(store, b, b->next);
	b->next += c->count;
	b->pending++;
	store_io_submit(c->io, op, b->clusters[c->first] * cluster_bytes, c->count * cluster_bytes, cleared);
	return true;
}

/* The batch that has clusters nobody clears yet. */
static struct batch *
unfinished(struct blob_limbo *limbo)
{
	struct batch *b;

	LIST_FOREACH(b, &limbo->clearing, link) {
		if (b->next < b->count) {
			return b;
		}
	}
	return NULL;
}

static void
clear_more(struct blob_store *store)
{
	struct blob_limbo *limbo = store->limbo;
	struct batch *b;

	for (unsigned i = 0; i < CLEAR_AT_ONCE; i++) {
		struct clearer *c = &limbo->clearers[i];

		while (c->batch == NULL && (b = unfinished(limbo)) != NULL && !clear_next(store, c, b)) {
			uint64_t first = b->next;

			b->next = b->count; /* nothing is to be cleared */
			set_free(store, b, first, b->count - first);
			if (b->pending == 0) {
				batch_ended(store, b);
			}
		}
	}
}

/* ---- Arriving ---- */

static void grace(struct blob_store *store);

static void
graced(struct blob_wait *wait)
{
	struct blob_limbo *limbo = CONTAINER_OF(wait, struct blob_limbo, wait);
	struct blob_store *store = limbo->store;

	limbo->waiting = false;
	list_splice(&limbo->clearing, &limbo->graced);
	store_background_begin(store); /* the last batch may end here */
	grace(store);
	clear_more(store);
	store_background_end(store);
}

static void
grace(struct blob_store *store)
{
	struct blob_limbo *limbo = store->limbo;

	if (limbo->waiting || list_empty(&limbo->arriving)) {
		return;
	}
	limbo->waiting = true;
	list_splice(&limbo->graced, &limbo->arriving);
	grace_start(store, &limbo->wait, graced);
}

static int
compare(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

	return (x > y) - (x < y);
}

int
alloc_free_later(struct blob_store *store, const uint32_t *clusters, uint64_t count, enum blob_clear clear)
{
	struct batch *b = malloc(sizeof(*b) + count * sizeof(b->clusters[0]));
	bool sorted = true;

	if (b == NULL) {
		return -ENOMEM;
	}
	*b = (struct batch){.clear = clear};
	for (uint64_t i = 0; i < count; i++) {
		if (clusters[i] == 0 || clusters[i] == BLOB_CLUSTER_BUSY) {
			continue;
		}
		sorted = sorted && (b->count == 0 || b->clusters[b->count - 1] < clusters[i]);
		b->clusters[b->count++] = clusters[i];
	}
	if (b->count == 0) {
		free(b);
		return 0;
	}
	if (!sorted) {
		qsort(b->clusters, b->count, sizeof(b->clusters[0]), compare);
	}
	store->limbo->clusters += b->count;
	alloc_giving_begin(store);
	store_background_begin(store);
	list_append(&store->limbo->arriving, &b->link);
	grace(store);
	return 0;
}
