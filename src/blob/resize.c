/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A blob's size. Its map is made anew, under a gate for everything; it shares the extents of the old one but for that which the
 * smaller of the two sizes cuts: of this there is a copy, on a page of its own, because an extent page has as many entries as
 * there are clusters in its range, and because nothing beyond the end may come back when the blob grows again.
 *
 * What a thick blob gets that no extent of the old map reaches is allocated before the gate closes (resize_fresh.c); the rest
 * happens under it.
 *
 * What is below a blob that grows may reach beyond its old end: the blob has not read that, and shall not. New clusters for which
 * somebody below has data are allocated and zeroed.
 *
 * Invariants
 *  1. Everything new (clusters, pages, extents) is in the new map only, or not in any map yet (`fresh`), and is given back when
 *     the commit does not come.
 *  2. What the old map alone has is given back after the commit, by reap.c.
 *  3. Reads are held, too: a piece of one looks at the size and then at the map (io.c). Were it another in between, and shorter,
 *     the read would find what lies below the blob where the blob had its own.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "blob/resize_internal.h"

void
resize_answer(struct resize *r, int status)
{
	struct blob_store *store = r->blob->store;

	resize_drop_fresh(r);
	if (r->gated) {
		gate_open(r->blob);
	}
	r->blob->opens--;
	md_op_end(&r->op);
	r->done(r->ctx, status, &r->err);
	reap_free(r->reap);
	store_io_free(r->zero);
	free(r);
	alloc_watch(store);
	merge_kick(store);
	store_background_end(store);
}

/* Gives back what is in the new map only. */
static void
undo(struct resize *r)
{
	struct blob_store *store = r->blob->store;

	for (uint64_t i = r->shared; r->map != NULL && i < r->map->num_extents; i++) {
		struct blob_extent *e = blob_map_extent(r->map, i);
		uint64_t start = i * BLOB_EXTENT_CLUSTERS, had = r->old->num_clusters;

		if (e != NULL) {
			alloc_put_back_extent(store, e, had > start ? had - start : 0);
			free(e);
		}
	}
	blob_map_free(r->map, false);
	if (r->reserved > 0) {
		alloc_unreserve(store, r->reserved);
		r->reserved = 0;
	}
}

static void
fail(struct resize *r, int status)
{
	if (r->err.code == 0) {
		volume_error(r->blob, status, &r->err);
	}
	md_persist_release(&r->persist);
	undo(r);
	resize_answer(r, status);
}

static void
resized(struct md_persist *p, int status)
{
	struct resize *r = CONTAINER_OF(p, struct resize, persist);
	struct blob *blob = r->blob;
	struct blob *parent = below_parent(blob_below(blob));

	if (status != 0) {
		fail(r, status);
		return;
	}
	md_persist_release(p);
	atomic_store_explicit(&blob->head.map, r->map, memory_order_release);
	atomic_fetch_add_explicit(&blob->allocated, r->added - r->removed, memory_order_relaxed);
	reap_map(r->reap, r->old, MIN(r->old->num_clusters, r->num_clusters));
	r->reap = NULL;
	if (parent != NULL) {
		merge_consider(parent);
	}
	resize_answer(r, 0);
}

/* ---- New clusters ---- */

bool
volume_is_below(const struct blob *blob, uint64_t cluster)
{
	uintptr_t below = blob_below(blob);
	struct blob *b;

	while ((b = below_parent(below)) != NULL) {
		if (cluster >= blob_num_clusters(b)) {
			return false; /* and whatever is below that is not seen through it */
		}
		if (blob_map_entry(&b->head, cluster) != 0) {
			return true;
		}
		below = blob_below(b);
	}
	return below_external(below) != NULL &&
	       cluster * blob->store->super.cluster_bytes < external_bytes(below_external(below));
}

static bool
to_allocate(const struct resize *r, uint64_t cluster)
{
	return cluster >= r->old->num_clusters && (!blob_thin(r->blob) || volume_is_below(r->blob, cluster));
}

static uint64_t
extent_end(const struct blob_map *map, uint64_t index)
{
	return MIN((index + 1) * BLOB_EXTENT_CLUSTERS, map->num_clusters);
}

/* The clusters of one extent that come, and its page. */
static int
fill_extent(struct resize *r, uint64_t index)
{
	struct blob_store *store = r->blob->store;
	struct blob_extent *e = blob_map_extent(r->map, index);
	uint32_t near = 0;
	uint32_t page;

	for (uint64_t c = index * BLOB_EXTENT_CLUSTERS; c < extent_end(r->map, index); c++) {
		if (!to_allocate(r, c)) {
			continue;
		}
		if (e == NULL) {
			e = blob_map_make_extent(r->map, index);
		}
		if (e == NULL) {
			return -ENOMEM;
		}
		near = alloc_take(store, near);
		r->reserved--;
		r->added++;
		atomic_store_explicit(&e->cluster[c % BLOB_EXTENT_CLUSTERS], near, memory_order_relaxed);
	}
	if (e == NULL || !blob_has_table(r->blob)) {
		return 0;
	}
	page = alloc_page(store);
	if (page == BLOB_PAGE_NONE) {
		return -ENOSPC;
	}
	e->page = page;
	return md_put_extent_of(&r->persist.body, r->blob->id, r->num_clusters, e, index, page);
}

/* Of a thin blob: new clusters that were allocated get zeroes before the metadata names them. */
static void zero_next(struct resize *r);

static void
zeroed(struct store_io *io, int status)
{
	struct resize *r = io->ctx;

	if (status != 0) {
		err_set(&r->err, status, "%s: a new cluster could not be zeroed: %s", CALLED(r->blob),
			strerror(-status));
		fail(r, status);
		return;
	}
	zero_next(r);
}

static void
zero_next(struct resize *r)
{
	uint64_t bytes = r->blob->store->super.cluster_bytes;

	while (r->zero_at < r->num_clusters) {
		uint64_t c = r->zero_at++;
		struct blob_extent *e = blob_map_extent(r->map, c / BLOB_EXTENT_CLUSTERS);
		uint32_t cluster;

		if (e == NULL) {
			r->zero_at = (c / BLOB_EXTENT_CLUSTERS + 1) * BLOB_EXTENT_CLUSTERS;
			continue;
		}
		cluster = atomic_load_explicit(&e->cluster[c % BLOB_EXTENT_CLUSTERS], memory_order_relaxed);
		if (cluster != 0) {
			store_io_submit(r->zero, BLOB_DEV_WRITE_ZEROES, cluster * bytes, bytes, zeroed);
			return;
		}
	}
	md_persist_run(&r->persist, resized);
}

static void fill(struct resize *r);

static void
filled(struct md_tx *tx, int status)
{
	struct resize *r = CONTAINER_OF(tx, struct resize, persist.body);

	if (status != 0) {
		fail(r, status);
		return;
	}
	fill(r);
}

static void
fill(struct resize *r)
{
	int rc = 0;

	for (unsigned n = 0; rc == 0 && n < RESIZE_FILL_EXTENTS && r->next < r->fill_end; n++) {
		if (r->reserved == 0 && r->next > r->shared) { /* nothing more comes */
			r->next = r->fill_end;
			break;
		}
		rc = fill_extent(r, r->next);
		r->next++;
	}
	if (rc != 0) {
		fail(r, rc);
	} else if (r->next < r->fill_end) {
		md_tx_write(&r->persist.body, false, filled);
	} else if (r->zero != NULL) {
		r->zero_at = r->old->num_clusters;
		zero_next(r);
	} else {
		md_persist_run(&r->persist, resized);
	}
}

/* ---- The new map ---- */

/* The extent that the smaller size cuts. */
static int
copy_cut_extent(struct resize *r)
{
	uint64_t end = MIN(r->old->num_clusters, r->num_clusters);
	uint64_t index = end / BLOB_EXTENT_CLUSTERS;
	struct blob_extent *from, *e;

	r->shared = index;
	for (uint64_t i = index; i < r->map->num_extents; i++) {
		atomic_store_explicit(&r->map->extents[i], NULL, memory_order_relaxed);
	}
	from = end % BLOB_EXTENT_CLUSTERS == 0 || index >= r->old->num_extents ? NULL : blob_map_extent(r->old, index);
	if (from == NULL) {
		return 0;
	}
	e = blob_map_make_extent(r->map, index);
	if (e == NULL) {
		return -ENOMEM;
	}
	for (uint64_t k = 0; k < end % BLOB_EXTENT_CLUSTERS; k++) {
		atomic_store_explicit(&e->cluster[k], atomic_load_explicit(&from->cluster[k], memory_order_relaxed),
				      memory_order_relaxed);
	}
	return 0;
}

/* Clusters that are needed. */
static uint64_t
needed_clusters(const struct resize *r)
{
	struct blob *parent = below_parent(blob_below(r->blob));
	uint64_t end = r->num_clusters, n = 0;

	if (end <= r->old->num_clusters) {
		return 0;
	}
	if (!blob_thin(r->blob)) {
		return end - r->old->num_clusters;
	}
	if (blob_below(r->blob) == 0) {
		return 0;
	}
	if (parent != NULL) {
		end = MIN(end, blob_num_clusters(parent));
	}
	for (uint64_t c = r->old->num_clusters; c < end; c++) {
		n += to_allocate(r, c);
	}
	return n;
}

/* Of those that are cut off. */
static uint64_t
removed_clusters(const struct resize *r)
{
	uint64_t n = 0;

	for (uint64_t i = r->num_clusters / BLOB_EXTENT_CLUSTERS; i < r->old->num_extents; i++) {
		struct blob_extent *e = blob_map_extent(r->old, i);

		for (uint64_t k = 0; e != NULL && k < BLOB_EXTENT_CLUSTERS; k++) {
			n += i * BLOB_EXTENT_CLUSTERS + k >= r->num_clusters &&
			     atomic_load_explicit(&e->cluster[k], memory_order_relaxed) != 0;
		}
	}
	return n;
}

int
resize_reserve(struct resize *r, uint64_t needed)
{
	int rc = alloc_reserve(r->blob->store, needed);

	if (rc != 0) {
		return err_set(&r->err, rc, "%s: %" PRIu64 " clusters are needed, %" PRIu64 " are free", CALLED(r->blob), needed,
			       (uint64_t)atomic_load(&r->blob->store->free_clusters));
	}
	r->reserved = needed;
	return 0;
}

static int
prepare(struct resize *r)
{
	struct blob_store *store = r->blob->store;
	uint64_t needed;
	int rc;

	r->old = atomic_load_explicit(&r->blob->head.map, memory_order_relaxed);
	if (r->fresh != NULL && (blob_thin(r->blob) || r->old->num_clusters != r->had_clusters)) {
		resize_drop_fresh(r);
	}
	needed = needed_clusters(r);
	r->removed = removed_clusters(r);
	rc = r->fresh != NULL ? 0 : resize_reserve(r, needed);
	if (rc != 0) {
		return rc;
	}
	r->map = blob_map_create(r->num_clusters, r->old);
	r->reap = reap_create(store, blob_clear_method(r->blob));
	if (r->map == NULL || r->reap == NULL) {
		blob_map_free(r->map, false);
		r->map = NULL;
		return -ENOMEM;
	}
	rc = copy_cut_extent(r);
	r->fill_end = r->map->num_extents;
	if (rc == 0 && r->fresh != NULL) {
		resize_take_fresh(r);
		r->fill_end = r->old->num_extents;
	}
	if (rc == 0 && needed > 0 && blob_thin(r->blob)) {
		r->zero = store_io_create(store, 0);
		if (r->zero == NULL) {
			return -ENOMEM;
		}
		r->zero->ctx = r;
	}
	r->next = r->shared;
	return rc;
}

static int
may_resize(const struct blob *blob, struct err *err)
{
	int rc = volume_is_there(blob, err);

	if (rc != 0) {
		return rc;
	}
	if (blob->data_ro || blob->md_ro) {
		return err_set(err, -EPERM, "%s is read-only", CALLED(blob));
	}
	return volume_is_idle(blob, err);
}

static void
run(struct md_op *op)
{
	struct resize *r = CONTAINER_OF(op, struct resize, op);
	struct blob_external *external = below_external(blob_below(r->blob));
	int rc = md_op_refused(op->store, &r->err);

	if (rc == 0) {
		rc = may_resize(r->blob, &r->err);
	}
	if (rc == 0 && external != NULL && external_missing(external) && r->num_clusters > blob_num_clusters(r->blob)) {
		rc = err_set(&r->err, -ENODEV, "%s: its external snapshot is missing", CALLED(r->blob));
	}
	if (rc != 0 || r->num_clusters == blob_num_clusters(r->blob)) {
		resize_answer(r, rc);
		return;
	}
	merge_disturb(r->blob);
	rc = md_persist_init(&r->persist, r->blob);
	if (rc == 0) {
		rc = prepare(r);
	}
	if (rc != 0) {
		fail(r, rc);
		return;
	}
	r->persist.image.map = r->map;
	r->persist.flush_first = true; /* extents and zeroes were written, not flushed */
	fill(r);
}

static void
gated(struct blob_wait *wait)
{
	struct resize *r = CONTAINER_OF(wait, struct resize, wait);

	md_op_start(r->blob->store, &r->op, "resize", run);
}

void
resize_close_gate(struct resize *r)
{
	md_op_end(&r->op);
	r->gated = true;
	gate_close(r->blob, BLOB_GATE_ALL, &r->wait, gated);
}

/* Before the gate: clusters that are on their way may be what it needs, and nobody shall wait for them with it. */
static void
look_for_space(struct md_op *op)
{
	struct resize *r = CONTAINER_OF(op, struct resize, op);
	uint64_t has = blob_num_clusters(r->blob), needed = r->num_clusters > has ? r->num_clusters - has : 0;

	if (blob_thin(r->blob) || needed == 0 || md_op_refused(op->store, NULL) != 0 || may_resize(r->blob, NULL) != 0) {
		resize_close_gate(r);
		return;
	}
	if (alloc_coming(op->store) &&
	    atomic_load_explicit(&op->store->free_clusters, memory_order_relaxed) < needed) {
		alloc_retry(op);
	} else if (resize_extents(r->num_clusters) > resize_extents(has)) {
		resize_start_fresh(r);
	} else {
		resize_close_gate(r);
	}
}

void
blob_resize(struct blob *blob, uint64_t num_clusters, blob_done_fn done, void *ctx)
{
	struct err err = ERR_NONE;
	struct resize *r;
	int rc = may_resize(blob, &err);

	if (rc == 0 && num_clusters > UINT32_MAX - 1) {
		rc = err_set(&err, -EINVAL, "%s: %" PRIu64 " clusters, and %" PRIu32 " are the most that a volume can have",
			     CALLED(blob), num_clusters, UINT32_MAX - 1);
	}
	r = rc == 0 ? calloc(1, sizeof(*r)) : NULL;
	if (r == NULL) {
		store_answer(blob->store, done, ctx, rc != 0 ? rc : -ENOMEM, &err);
		return;
	}
	r->blob = blob;
	r->num_clusters = num_clusters;
	r->done = done;
	r->ctx = ctx;
	blob->opens++;
	store_background_begin(blob->store);
	md_op_start(blob->store, &r->op, "resize", look_for_space);
}
