/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What writers have allocated, and what they give back, becomes part of the metadata: in rounds, each an md_op that takes
 * all that has come by then (group commit). While one is under way the next one gathers.
 *
 *	data flushed -> extent pages in place ----------------------------> entries, answers
 *	             \-> new extent pages -> flushed -> the blob's chain --> entries, answers
 *
 * Invariants
 *  1. Only a commit, on the owner, makes a BUSY entry something else; so nobody who asks the owner about a BUSY entry misses it.
 *  2. Entries change after the page that has them is on the device, never before; the page is made of a copy, with the new
 *     clusters in it and everything else that is BUSY as 0.
 *  3. An extent is in the round once (extent->dirty); all of its changes share its fate. Its page is either in place, or new and
 *     then listed by the chain that is written behind it.
 *  4. A cluster that did not become a blob's is put back, unless the store is broken: then the disk may say that it is the
 *     blob's, and whoever got it next would write into that.
 *  5. Clusters given back are freed when the page without them is flushed.
 *
 * Contexts: the owner, but for commit_send() and commit_wait_busy().
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

#define ROUND 1024u /* extents */
#define BUCKETS 64u

/* An extent that the round changes. */
struct dirty {
	struct blob *blob;
	struct blob_extent *extent;
	uint64_t index;
	struct list allocs; /* struct blob_alloc */
	struct list parts;  /* struct blob_part */
	uint32_t fresh;     /* its new page, 0: none */
	struct chain *chain; /* NULL: its page is written in place */
	bool over;
};

/* A blob whose chain is written. */
struct chain {
	struct list link;
	struct blob_commit *commit;
	struct blob *blob;
	struct md_persist persist;
	struct blob_map *shadow; /* of run-length extents: the map as it shall be */
	unsigned extents; /* that wait for it */
};

struct blob_commit {
	struct blob_store *store;
	struct md_op op;
	bool queued;
	struct defer batch;
	bool batched;
	struct list allocs; /* of the next round */
	struct list parts;
	struct dirty dirty[ROUND];
	unsigned num_dirty;
	struct md_tx place;
	struct list chains;
	unsigned pending;
	struct blob_extent copy;
	unsigned num_waiters;
	struct list waiters[BUCKETS]; /* struct blob_alloc, by cluster */
};

int
commit_init(struct blob_store *store)
{
	struct blob_commit *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		return -ENOMEM;
	}
	c->store = store;
	list_init(&c->allocs);
	list_init(&c->parts);
	list_init(&c->chains);
	for (unsigned i = 0; i < BUCKETS; i++) {
		list_init(&c->waiters[i]);
	}
	md_tx_init(&c->place, store);
	store->commit = c;
	return 0;
}

void
commit_release(struct blob_store *store)
{
	struct blob_commit *c = store->commit;

	if (c == NULL) {
		return;
	}
	CHECK(!c->queued && !c->batched && c->num_waiters == 0 && list_empty(&c->allocs) && list_empty(&c->parts));
	md_tx_release(&c->place);
	free(c);
	store->commit = NULL;
}

static _Atomic uint32_t *
entry_of(struct blob *blob, uint64_t index)
{
	struct blob_map *map = atomic_load_explicit(&blob->head.map, memory_order_relaxed);

	return &blob_map_extent(map, index / BLOB_EXTENT_CLUSTERS)->cluster[index % BLOB_EXTENT_CLUSTERS];
}

/* ---- Answers ---- */

static void
answered(struct msg *msg)
{
	struct blob_alloc *alloc = CONTAINER_OF(msg, struct blob_alloc, msg);

	alloc->done(alloc);
}

static void
answer(struct blob_alloc *alloc)
{
	thread_send(alloc->origin, &alloc->msg, answered);
}

static struct list *
bucket(struct blob_commit *c, const struct blob *blob, uint64_t index)
{
	return &c->waiters[(((uintptr_t)blob >> 6) ^ index) % BUCKETS];
}

/* The entry is BUSY no more. */
static void
wake(struct blob_commit *c, const struct blob *blob, uint64_t index)
{
	struct list *head = bucket(c, blob, index);
	struct blob_alloc *waiter, *tmp;

	if (LIKELY(c->num_waiters == 0)) {
		return;
	}
	LIST_FOREACH_SAFE(waiter, tmp, head, link) {
		if (waiter->blob == blob && waiter->index == index) {
			list_remove(&waiter->link);
			c->num_waiters--;
			answer(waiter);
		}
	}
}

static void
alloc_end(struct blob_commit *c, struct blob_alloc *alloc, int status)
{
	_Atomic uint32_t *entry = entry_of(alloc->blob, alloc->index);

	if (status == 0) {
		atomic_fetch_add_explicit(&alloc->blob->allocated, 1, memory_order_relaxed);
		atomic_store_explicit(entry, alloc->cluster, memory_order_release);
	} else {
		if (!c->store->broken) {
			alloc_put_back(c->store, alloc->cluster);
			cow_space(c->store);
		}
		atomic_store_explicit(entry, 0, memory_order_release);
	}
	alloc->status = status;
	wake(c, alloc->blob, alloc->index);
	answer(alloc);
}

/* status 0: the entries are 0 from now on; else what they were. */
static void
part_end(struct blob_commit *c, struct blob_part *part, struct blob_extent *e, int status)
{
	uint64_t given = 0;

	for (uint32_t i = part->first; i < part->first + part->count; i++) {
		if (part->cluster[i] == 0) {
			continue;
		}
		given++;
		atomic_store_explicit(&e->cluster[i], status == 0 ? 0 : part->cluster[i], memory_order_release);
		wake(c, part->blob, part->extent * BLOB_EXTENT_CLUSTERS + i);
	}
	if (status == 0 && given > 0) {
		atomic_fetch_sub_explicit(&part->blob->allocated, given, memory_order_relaxed);
	}
	release_part_done(part, status);
}

static void
dirty_end(struct blob_commit *c, struct dirty *d, int status)
{
	d->over = true;
	d->extent->dirty = 0;
	if (status == 0) {
		d->extent->touched = true;
	} else if (d->fresh != 0 && !c->store->broken) {
		d->extent->page = 0;
		alloc_free_page(c->store, d->fresh);
	}
	while (!list_empty(&d->allocs)) {
		struct blob_alloc *alloc = LIST_FIRST(&d->allocs, struct blob_alloc, link);

		list_remove(&alloc->link);
		alloc_end(c, alloc, status);
	}
	while (!list_empty(&d->parts)) {
		struct blob_part *part = LIST_FIRST(&d->parts, struct blob_part, link);

		list_remove(&part->link);
		part_end(c, part, d->extent, status);
	}
}

/* ---- A round ---- */

static void begin(struct blob_commit *c);

static void
round_end(struct blob_commit *c)
{
	for (unsigned i = 0; i < c->num_dirty; i++) {
		CHECK(c->dirty[i].over);
	}
	c->num_dirty = 0;
	c->queued = false;
	alloc_watch(c->store);
	md_op_end(&c->op);
	begin(c);
}

static void
unpend(struct blob_commit *c)
{
	if (--c->pending == 0) {
		round_end(c);
	}
}

static void
placed(struct md_tx *tx, int status)
{
	struct blob_commit *c = CONTAINER_OF(tx, struct blob_commit, place);

	if (status != 0 && tx->wrote) {
		store_break(c->store, status, "an extent page");
	}
	for (unsigned i = 0; i < c->num_dirty; i++) {
		if (!c->dirty[i].over && c->dirty[i].chain == NULL) {
			dirty_end(c, &c->dirty[i], status);
		}
	}
	unpend(c);
}

static void
chain_free(struct chain *chain)
{
	struct blob_map *map = atomic_load_explicit(&chain->blob->head.map, memory_order_relaxed);

	if (chain->shadow != NULL) {
		for (uint64_t i = 0; i < map->num_extents; i++) {
			struct blob_extent *e = blob_map_extent(chain->shadow, i);

			if (e != blob_map_extent(map, i)) {
				free(e);
			}
		}
		blob_map_free(chain->shadow, false);
	}
	md_persist_release(&chain->persist);
	list_remove(&chain->link);
	free(chain);
}

static void
chain_written(struct md_persist *p, int status)
{
	struct chain *chain = CONTAINER_OF(p, struct chain, persist);
	struct blob_commit *c = chain->commit;

	for (unsigned i = 0; i < c->num_dirty; i++) {
		if (!c->dirty[i].over && c->dirty[i].chain == chain) {
			dirty_end(c, &c->dirty[i], status);
		}
	}
	chain_free(chain);
	unpend(c);
}

static struct chain *
chain_for(struct blob_commit *c, struct blob *blob)
{
	struct blob_map *map = atomic_load_explicit(&blob->head.map, memory_order_relaxed);
	struct chain *chain;

	LIST_FOREACH(chain, &c->chains, link) {
		if (chain->blob == blob) {
			return chain;
		}
	}
	chain = calloc(1, sizeof(*chain));
	if (chain == NULL) {
		return NULL;
	}
	chain->commit = c;
	chain->blob = blob;
	list_append(&c->chains, &chain->link);
	if (md_persist_init(&chain->persist, blob) != 0) {
		chain_free(chain);
		return NULL;
	}
	if (!blob_has_table(blob)) {
		chain->shadow = blob_map_create(map->num_clusters, map);
		if (chain->shadow == NULL) {
			chain_free(chain);
			return NULL;
		}
		chain->persist.image.map = chain->shadow;
	}
	return chain;
}

/* The extent as it shall be, to c->copy. */
static void
copy_extent(struct blob_commit *c, struct dirty *d)
{
	struct blob_alloc *alloc;

	for (unsigned i = 0; i < BLOB_EXTENT_CLUSTERS; i++) {
		atomic_store_explicit(&c->copy.cluster[i],
				      atomic_load_explicit(&d->extent->cluster[i], memory_order_acquire),
				      memory_order_relaxed);
	}
	LIST_FOREACH(alloc, &d->allocs, link) {
		atomic_store_explicit(&c->copy.cluster[alloc->index % BLOB_EXTENT_CLUSTERS], alloc->cluster,
				      memory_order_relaxed);
	}
}

/* Run-length extents: c->copy takes the extent's place in the map that will be written. */
static int
put_in_shadow(struct blob_commit *c, struct dirty *d)
{
	struct blob_extent *e = malloc(sizeof(*e));

	if (e == NULL) {
		return -ENOMEM;
	}
	memcpy(e, &c->copy, sizeof(*e));
	atomic_store_explicit(&d->chain->shadow->extents[d->index], e, memory_order_relaxed);
	return 0;
}

/* A new page for the extent, listed by the chain. */
static int
put_fresh(struct blob_commit *c, struct dirty *d)
{
	uint32_t page = alloc_page(c->store);
	int rc;

	if (page == BLOB_PAGE_NONE) {
		return -ENOSPC;
	}
	rc = md_put_extent(&d->chain->persist.body, d->blob, &c->copy, d->index, page);
	if (rc != 0) {
		alloc_free_page(c->store, page);
		return rc;
	}
	d->fresh = page;
	d->extent->page = page;
	return 0;
}

static int
dirty_put(struct blob_commit *c, struct dirty *d)
{
	int rc;

	copy_extent(c, d);
	if (blob_has_table(d->blob) && d->extent->page != 0) {
		return md_put_extent(&c->place, d->blob, &c->copy, d->index, d->extent->page);
	}
	d->chain = chain_for(c, d->blob);
	if (d->chain == NULL) {
		return -ENOMEM;
	}
	rc = blob_has_table(d->blob) ? put_fresh(c, d) : put_in_shadow(c, d);
	d->chain->extents += rc == 0 ? 1 : 0;
	return rc;
}

/* The data is where it must be before anything points to it. */
static void
write_pages(struct blob_commit *c, int status)
{
	struct chain *chain, *tmp;
	bool parts = false;

	for (unsigned i = 0; i < c->num_dirty; i++) {
		struct dirty *d = &c->dirty[i];
		int rc;

		if (d->over) {
			continue;
		}
		rc = status != 0 ? status : dirty_put(c, d);
		parts = parts || !list_empty(&d->parts);
		if (rc != 0) {
			dirty_end(c, d, rc);
		}
	}
	c->pending = 1;
	if (c->place.count > 0) {
		c->pending++;
		md_tx_write(&c->place, parts, placed);
	}
	LIST_FOREACH_SAFE(chain, tmp, &c->chains, link) {
		if (chain->extents == 0) {
			chain_free(chain);
			continue;
		}
		c->pending++;
		md_persist_run(&chain->persist, chain_written);
	}
	unpend(c);
}

static void
flushed(struct md_tx *tx, int status)
{
	write_pages(CONTAINER_OF(tx, struct blob_commit, place), status);
}

/* ---- What has come ---- */

static struct dirty *
dirty_for(struct blob_commit *c, struct blob *blob, uint64_t index)
{
	struct blob_map *map = atomic_load_explicit(&blob->head.map, memory_order_relaxed);
	struct blob_extent *e = blob_map_extent(map, index);
	struct dirty *d;

	if (e->dirty != 0) {
		return &c->dirty[e->dirty - 1];
	}
	if (c->num_dirty == ROUND) {
		return NULL;
	}
	d = &c->dirty[c->num_dirty++];
	*d = (struct dirty){.blob = blob, .extent = e, .index = index};
	list_init(&d->allocs);
	list_init(&d->parts);
	e->dirty = c->num_dirty;
	return d;
}

/* True: there are some. What does not fit the round stays for the next one. */
static bool
take_allocs(struct blob_commit *c)
{
	bool some = false;

	while (!list_empty(&c->allocs)) {
		struct blob_alloc *alloc = LIST_FIRST(&c->allocs, struct blob_alloc, link);
		struct dirty *d = dirty_for(c, alloc->blob, alloc->index / BLOB_EXTENT_CLUSTERS);

		if (d == NULL) {
			break;
		}
		list_remove(&alloc->link);
		list_append(&d->allocs, &alloc->link);
		some = true;
	}
	return some;
}

/* What is given up is BUSY until it is. A cluster that is BUSY already is being written: that comes later. */
static bool
part_mark(struct blob_part *part, struct blob_extent *e)
{
	bool some = false;

	for (uint32_t i = part->first; i < part->first + part->count; i++) {
		uint32_t entry = atomic_load_explicit(&e->cluster[i], memory_order_relaxed);

		part->cluster[i] = entry == BLOB_CLUSTER_BUSY ? 0 : entry;
		if (part->cluster[i] != 0) {
			atomic_store_explicit(&e->cluster[i], BLOB_CLUSTER_BUSY, memory_order_release);
			some = true;
		}
	}
	return some;
}

static void
take_parts(struct blob_commit *c)
{
	while (!list_empty(&c->parts)) {
		struct blob_part *part = LIST_FIRST(&c->parts, struct blob_part, link);
		struct dirty *d;

		if (!blob_thin(part->blob) || blob_below(part->blob) != 0) {
			list_remove(&part->link);
			release_part_done(part, -ENOTSUP);
			continue;
		}
		d = dirty_for(c, part->blob, part->extent);
		if (d == NULL) {
			break;
		}
		list_remove(&part->link);
		if (part_mark(part, d->extent)) {
			list_append(&d->parts, &part->link);
		} else {
			release_part_done(part, 0);
		}
	}
}

/* Extents of which in the end nothing changes. */
static void
drop_empty(struct blob_commit *c)
{
	for (unsigned i = 0; i < c->num_dirty; i++) {
		struct dirty *d = &c->dirty[i];

		if (list_empty(&d->allocs) && list_empty(&d->parts)) {
			d->extent->dirty = 0;
			d->over = true;
		}
	}
}

static void
refuse_all(struct blob_commit *c, int status)
{
	while (!list_empty(&c->allocs)) {
		struct blob_alloc *alloc = LIST_FIRST(&c->allocs, struct blob_alloc, link);

		list_remove(&alloc->link);
		alloc_end(c, alloc, status);
	}
	while (!list_empty(&c->parts)) {
		struct blob_part *part = LIST_FIRST(&c->parts, struct blob_part, link);

		list_remove(&part->link);
		release_part_done(part, status);
	}
}

static void
run(struct md_op *op)
{
	struct blob_commit *c = CONTAINER_OF(op, struct blob_commit, op);
	int rc = md_op_refused(c->store, NULL);

	if (rc != 0) {
		refuse_all(c, rc);
		round_end(c);
		return;
	}
	if (take_allocs(c) && c->store->dev->write_cache) {
		take_parts(c);
		drop_empty(c);
		md_tx_write(&c->place, true, flushed);
		return;
	}
	take_parts(c);
	drop_empty(c);
	write_pages(c, 0);
}

/* The next round, if there is something for one. */
static void
begin(struct blob_commit *c)
{
	if (!c->queued && !(list_empty(&c->allocs) && list_empty(&c->parts))) {
		c->queued = true;
		md_op_start_first(c->store, &c->op, "commit", run);
	}
}

static void
turn_ends(struct defer *d)
{
	struct blob_commit *c = CONTAINER_OF(d, struct blob_commit, batch);

	c->batched = false;
	begin(c);
}

/* A round begins when this turn's messages have been read. */
static void
expect_round(struct blob_commit *c)
{
	if (!c->queued && !c->batched) {
		c->batched = true;
		thread_batch(&c->batch, turn_ends);
	}
}

static void
arrived(struct msg *msg)
{
	struct blob_alloc *alloc = CONTAINER_OF(msg, struct blob_alloc, msg);
	struct blob_commit *c = alloc->blob->store->commit;

	if (alloc->status != 0) {
		alloc_end(c, alloc, alloc->status);
		return;
	}
	list_append(&c->allocs, &alloc->link);
	expect_round(c);
}

void
commit_send(struct blob_alloc *alloc, void (*done)(struct blob_alloc *alloc))
{
	alloc->origin = thread_self();
	alloc->done = done;
	thread_send(alloc->blob->store->owner, &alloc->msg, arrived);
}

void
commit_part(struct blob_part *part)
{
	struct blob_commit *c = part->blob->store->commit;

	list_append(&c->parts, &part->link);
	expect_round(c);
}

static void
waiter_arrived(struct msg *msg)
{
	struct blob_alloc *waiter = CONTAINER_OF(msg, struct blob_alloc, msg);
	struct blob_commit *c = waiter->blob->store->commit;

	if (atomic_load_explicit(entry_of(waiter->blob, waiter->index), memory_order_relaxed) != BLOB_CLUSTER_BUSY) {
		answer(waiter);
		return;
	}
	list_append(bucket(c, waiter->blob, waiter->index), &waiter->link);
	c->num_waiters++;
}

void
commit_wait_busy(struct blob_alloc *waiter, void (*done)(struct blob_alloc *waiter))
{
	waiter->origin = thread_self();
	waiter->done = done;
	thread_send(waiter->blob->store->owner, &waiter->msg, waiter_arrived);
}
