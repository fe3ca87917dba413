/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What becomes of deleted snapshots: with no clone left they are erased; with one, they are merged into it, so that it has what
 * it read from them. In the background, one at a time.
 *
 *	pass    extent pages for the clone that list what both have, on pages nobody refers to yet; a few an operation, so
 *	        that writes of guests are committed in between. Extents the clone lacks are taken over as they are. Extents
 *	        that writes changed meanwhile come again, until few are left.
 *	final   the clone's gate closed to writes; what is left; SNAPRM = clone on the snapshot, flush; the clone's chain with
 *	        the new pages and the snapshot's parent, flush: the commit; extents in memory, then what is below; the
 *	        gate opens; the snapshot's first page zeroed, flush
 *	after   a grace period; the snapshot's clusters that the clone had itself, and its pages, are given back
 *
 * Who has its turn, and what is tried again: merge_queue.c; the extents: merge_extents.c.
 *
 * Invariants
 *  1. What a reader of the clone finds is the same at every moment: an extent is replaced by one that has the same entries and,
 *     where there were none, those of the snapshot; only then what is below changes (internal.h, invariant 2).
 *  2. Clusters of the clone beyond the snapshot's end read as zeroes, not as what lies deeper: those for which there is something
 *     deeper are allocated before the snapshot goes.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/merge_internal.h"

#define MERGE_PIECE 16u    /* extents of one operation */
#define MERGE_FEW 16u      /* extents that the final operation may have left */
#define MERGE_PASSES 8u    /* after so many it has as many as there are */
#define MERGE_CLEAN 64u    /* extents cleaned up in one turn */

/* ---- After the commit: what is left of the snapshot ---- */

/* The snapshot's extents without what the clone has now. */
static void
clean_up(struct defer *d)
{
	struct merge *m = CONTAINER_OF(d, struct merge, defer);
	struct blob_map *of = atomic_load_explicit(&m->snapshot->head.map, memory_order_relaxed);

	for (unsigned n = 0; m->next < m->num_extents; m->next++) {
		struct prepared *p = m->prepared[m->next];
		struct blob_extent *s = blob_map_extent(of, m->next);

		if (s == NULL || m->map == NULL) {
			continue;
		}
		if (n++ == MERGE_CLEAN) {
			thread_defer(&m->defer, clean_up);
			return;
		}
		if (p == NULL) { /* taken, or it had nothing to take */
			if (blob_map_extent(m->map, m->next) == s) {
				atomic_store_explicit(&of->extents[m->next], NULL, memory_order_relaxed);
			}
			continue;
		}
		for (unsigned k = 0; k < BLOB_EXTENT_CLUSTERS; k++) {
			if ((p->drop[k / 64] >> (k % 64) & 1) == 0) {
				atomic_store_explicit(&s->cluster[k], 0, memory_order_relaxed);
			}
		}
		free(p);
		m->prepared[m->next] = NULL;
	}
	for (uint64_t i = 0; i < m->num_old; i++) {
		free(m->old[i]);
	}
	free(m->old);
	blob_map_free(m->map, false);
	reap_blob(m->reap, m->snapshot);
	merge_step_back(m, 0);
}

static void
graced(struct blob_wait *wait)
{
	struct merge *m = CONTAINER_OF(wait, struct merge, wait);

	m->next = 0;
	clean_up(&m->defer);
}

static void
release_final(struct merge *m)
{
	md_image_release(&m->image);
	md_tx_release(&m->body);
	md_tx_release(&m->commit);
	md_tx_release(&m->end);
}

static void
snapshot_erased(struct md_tx *tx, int status)
{
	struct merge *m = CONTAINER_OF(tx, struct merge, end);
	struct blob *s = m->snapshot;

	if (status != 0) { /* it stays as it is until the store is loaded: what it had is the clone's, or nobody's */
		store_break(m->store, status, "the first metadata page of a snapshot that was merged");
	}
	store_unlink_blob(s);
	for (uint32_t i = 0; i < s->num_pages; i++) {
		alloc_free_page(m->store, s->pages[i]);
	}
	s->num_pages = 0;
	release_final(m);
	if (below_parent(blob_below(s)) != NULL) {
		merge_consider(below_parent(blob_below(s)));
	}
	md_op_end(&m->op);
	grace_start(m->store, &m->wait, graced);
}

/* ---- Final ---- */

static void
open_gate(struct merge *m)
{
	if (m->gated) {
		m->gated = false;
		gate_open(m->clone);
	}
}

/* Nothing has come of it, everything is as before; another try, or a rest. */
static void
final_failed(struct merge *m, int status)
{
	release_final(m);
	blob_map_free(m->map, false);
	m->map = NULL;
	free(m->old);
	m->old = NULL;
	m->num_old = 0;
	m->snapshot->gone = false;
	reap_free(m->reap);
	m->reap = NULL;
	open_gate(m);
	m->next = 0;
	m->passes = 0;
	md_op_end(&m->op);
	merge_step_back(m, status);
}

static uint64_t
count_entries(const struct blob_extent *e)
{
	uint64_t n = 0;

	for (unsigned k = 0; k < BLOB_EXTENT_CLUSTERS; k++) {
		uint32_t entry = atomic_load_explicit(&e->cluster[k], memory_order_relaxed);

		n += entry != 0 && entry != BLOB_CLUSTER_BUSY;
	}
	return n;
}

static void
take_extents(struct merge *m)
{
	struct blob_map *map = atomic_load_explicit(&m->clone->head.map, memory_order_relaxed);
	uint64_t gained = 0;

	for (uint64_t i = 0; i < m->num_extents; i++) {
		struct blob_extent *e = blob_map_extent(m->map, i), *had = blob_map_extent(map, i);

		if (e == had) {
			continue;
		}
		gained += count_entries(e);
		if (had != NULL) {
			gained -= count_entries(had);
			m->old[m->num_old++] = had;
			if (had->page != 0) {
				alloc_free_page(m->store, had->page);
			}
		}
		atomic_store_explicit(&map->extents[i], e, memory_order_release);
	}
	atomic_fetch_add_explicit(&m->clone->allocated, gained, memory_order_relaxed);
}

static void
committed(struct md_tx *tx, int status)
{
	struct merge *m = CONTAINER_OF(tx, struct merge, commit);
	struct blob *s = m->snapshot, *clone = m->clone;
	struct blob *parent = below_parent(blob_below(s));

	if (status != 0) {
		if (tx->wrote) {
			store_break(m->store, status, "the first metadata page of the clone of a deleted snapshot");
		}
		final_failed(m, status);
		return;
	}
	md_image_apply(&m->image);
	take_extents(m);
	blob_set_below(clone, parent, below_external(blob_below(s))); /* s keeps it for those who read through it */
	list_remove(&clone->clone_link);
	list_remove(&s->clone_link);
	if (parent != NULL) {
		list_append(&parent->clones, &clone->clone_link);
	}
	merge_disturb(s); /* as the clone of another merge */
	merge_disturb(clone); /* as the snapshot of another */
	m->restart = false;
	open_gate(m);
	md_tx_write(&m->end, true, snapshot_erased);
}

static void
body_written(struct md_tx *tx, int status)
{
	struct merge *m = CONTAINER_OF(tx, struct merge, body);

	if (status != 0) {
		final_failed(m, status);
		return;
	}
	md_tx_write(&m->commit, true, committed);
}

/* The clone's xattrs and flags: what was below the snapshot is below it. */
static int
describe(struct merge *m)
{
	const struct blob_own_xattr *parent = own_xattr_find(&m->snapshot->xattrs, true, BLOB_XATTR_PARENT);
	const struct blob_own_xattr *external = own_xattr_find(&m->snapshot->xattrs, true, BLOB_XATTR_EXTERNAL);
	bool is_external = (m->snapshot->flags.invalid & BLOB_INVALID_EXTERNAL) != 0;
	int rc = 0;

	md_image_remove_xattr(&m->image, true, BLOB_XATTR_PARENT);
	md_image_remove_xattr(&m->image, true, BLOB_XATTR_EXTERNAL);
	m->image.flags.invalid &= ~BLOB_INVALID_EXTERNAL;
	if (is_external && external != NULL) {
		m->image.flags.invalid |= BLOB_INVALID_EXTERNAL;
		rc = md_image_set_xattr(&m->image, true, BLOB_XATTR_EXTERNAL, external->value, external->bytes);
	} else if (parent != NULL) {
		rc = md_image_set_xattr(&m->image, true, BLOB_XATTR_PARENT, parent->value, parent->bytes);
	}
	return rc;
}

static void
marked(struct md_persist *p, int status)
{
	struct merge *m = CONTAINER_OF(p, struct merge, mark);
	int rc = status;

	md_persist_release(p);
	if (rc == 0) {
		rc = md_image_init(&m->image, m->clone);
	}
	if (rc == 0) {
		rc = describe(m);
	}
	if (rc == 0) {
		m->image.map = m->map;
		rc = md_image_put(&m->image, &m->body, &m->commit);
	}
	if (rc == 0 && md_tx_page(&m->end, m->snapshot->pages[0]) == NULL) {
		rc = -ENOMEM;
	}
	if (rc != 0) {
		final_failed(m, rc);
		return;
	}
	md_tx_write(&m->body, true, body_written);
}

/* Its clone's gate is closed, nothing is written there. */
static void
final(struct md_op *op)
{
	struct merge *m = CONTAINER_OF(op, struct merge, op);
	int rc = md_op_refused(m->store, NULL);

	md_tx_init(&m->body, m->store);
	md_tx_init(&m->commit, m->store);
	md_tx_init(&m->end, m->store);
	m->image = (struct md_image){0};
	if (rc != 0) {
		final_failed(m, -EBUSY);
		return;
	}
	if (m->restart || m->clone->busy || m->snapshot->opens > 0 || merge_has_several_clones(m->snapshot)) {
		open_gate(m);
		merge_run(op);
		return;
	}
	m->snapshot->gone = true; /* nobody opens it any more */
	for (uint64_t i = 0; rc == 0 && i < m->num_extents; i++) {
		rc = merge_is_dirty(m, i) ? merge_prepare(m, i, &m->body) : 0;
	}
	if (rc == 0) {
		rc = merge_make_map(m);
	}
	if (rc == 0) {
		rc = md_persist_init(&m->mark, m->snapshot);
	}
	if (rc == 0) {
		rc = md_image_set_xattr(&m->mark.image, true, BLOB_XATTR_REMOVAL_PENDING, &m->clone->id, sizeof(m->clone->id));
		if (rc != 0) {
			md_persist_release(&m->mark);
		}
	}
	if (rc != 0) {
		final_failed(m, rc);
		return;
	}
	md_persist_run(&m->mark, marked);
}

static void
gate_closed(struct blob_wait *wait)
{
	struct merge *m = CONTAINER_OF(wait, struct merge, wait);

	md_op_start(m->store, &m->op, "merge", final);
}

/* ---- Clusters beyond the snapshot's end ---- */

static void
rest(struct merge *m, int status)
{
	md_op_end(&m->op);
	merge_step_back(m, status);
}

static void
touches_end(struct merge *m, int status)
{
	free(m->touch);
	m->touch = NULL;
	blob_channel_put(&m->ch);
	m->clone->opens--;
	if (status != 0) {
		merge_step_back(m, md_op_refused(m->store, NULL) != 0 ? -EBUSY : status);
	} else {
		md_op_start(m->store, &m->op, "merge", merge_run);
	}
}

static bool
find_touch(struct merge *m)
{
	uint64_t end = blob_num_clusters(m->clone);

	while (m->touch_at < end && (blob_map_entry(&m->clone->head, m->touch_at) != 0 ||
				     !volume_is_below(m->snapshot, m->touch_at))) {
		m->touch_at++;
	}
	return m->touch_at < end;
}

static void
touched(struct touch *touch, int status)
{
	struct merge *m = touch->ctx;

	if (status != 0 || m->restart || md_op_refused(m->store, NULL) != 0 || !find_touch(m)) {
		touches_end(m, status);
		return;
	}
	touch_start(touch, m->touch_at);
}

/* False: there is nothing to do. Else the operation has ended, and the merge comes back. */
static bool
touch_beyond(struct merge *m)
{
	struct blob_external *external = below_external(blob_below(m->snapshot));
	int rc;

	m->touch_at = blob_num_clusters(m->snapshot);
	if (blob_below(m->snapshot) == 0 || m->touch_at >= blob_num_clusters(m->clone)) {
		return false;
	}
	if (external != NULL && external_missing(external)) {
		rest(m, -EBUSY);
		return true;
	}
	if (!find_touch(m)) {
		return false;
	}
	rc = blob_channel_get(m->clone, &m->ch);
	if (rc != 0) {
		rest(m, rc);
		return true;
	}
	m->touch = touch_create(&m->ch, touched, m);
	if (m->touch == NULL) {
		blob_channel_put(&m->ch);
		rest(m, -ENOMEM);
		return true;
	}
	m->touch->io.impatient = true;
	m->clone->opens++;
	md_op_end(&m->op);
	touch_start(m->touch, m->touch_at);
	return true;
}

/* ---- Passes ---- */

static void
piece_ends(struct merge *m)
{
	md_op_end(&m->op);
	if (m->next == m->num_extents) {
		m->next = 0;
		m->passes++;
		if (m->dirty <= MERGE_FEW || m->passes >= MERGE_PASSES) {
			m->gated = true;
			gate_close(m->clone, BLOB_GATE_WRITES, &m->wait, gate_closed);
			return;
		}
		m->dirty = 0;
	}
	md_op_start(m->store, &m->op, "merge", merge_run);
}

static void
piece_written(struct md_tx *tx, int status)
{
	struct merge *m = CONTAINER_OF(tx, struct merge, pages);

	md_tx_release(tx);
	if (status != 0) {
		m->restart = true; /* what is on the prepared pages is not known */
		rest(m, status);
		return;
	}
	piece_ends(m);
}

static void
piece(struct merge *m)
{
	int rc = 0;

	md_tx_init(&m->pages, m->store);
	for (unsigned n = 0; rc == 0 && n < MERGE_PIECE && m->next < m->num_extents; m->next++) {
		if (merge_is_dirty(m, m->next)) {
			rc = merge_prepare(m, m->next, &m->pages);
			m->dirty++;
			n++;
		}
	}
	if (rc != 0) {
		md_tx_release(&m->pages);
		m->restart = true;
		rest(m, rc);
	} else if (m->pages.count > 0) {
		md_tx_write(&m->pages, false, piece_written);
	} else {
		piece_ends(m);
	}
}

static void
erased(void *ctx, int status)
{
	struct merge *m = ctx;

	md_op_end(&m->op);
	merge_step_back(m, status);
}

void
merge_run(struct md_op *op)
{
	struct merge *m = CONTAINER_OF(op, struct merge, op);
	struct blob *clone;

	if (merge_has_several_clones(m->snapshot)) {
		rest(m, 0);
		return;
	}
	if (m->snapshot->opens > 0 || md_op_refused(m->store, NULL) != 0) {
		rest(m, -EBUSY);
		return;
	}
	if (list_empty(&m->snapshot->clones)) {
		merge_drop_prepared(m);
		volume_erase(&m->erase, m->snapshot, erased, m);
		return;
	}
	clone = LIST_FIRST(&m->snapshot->clones, struct blob, clone_link);
	if (clone->busy || clone->damage.code != 0) {
		rest(m, -EBUSY);
		return;
	}
	if ((m->restart || m->clone != clone) && merge_begin(m, clone) != 0) {
		rest(m, -ENOMEM);
		return;
	}
	if (!touch_beyond(m)) {
		piece(m);
	}
}
