/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the clone's extents will be when a deleted snapshot is merged into it: what both have, on pages nobody refers to yet; or
 * the snapshot's as they are, where the clone has none.
 *
 * Invariants
 *  1. Prepared extents and pages belong to the merge until the commit; when the clone's map or the family changes, they are
 *     dropped (merge_disturb()).
 *  2. One that a write changed after it was prepared is dirty: it was replaced, or `touched` since.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "blob/merge_internal.h"

enum fate {
	FATE_NONE, /* the snapshot has nothing there, or the clone ends before */
	FATE_TAKE, /* the snapshot's extent becomes the clone's */
	FATE_MIX,
};

void
merge_drop_prepared(struct merge *m)
{
	for (uint64_t i = 0; i < m->num_extents; i++) {
		struct prepared *p = m->prepared[i];

		if (p == NULL) {
			continue;
		}
		if (p->e->page != 0) {
			alloc_free_page(m->store, p->e->page);
		}
		free(p->e);
		free(p);
	}
	free(m->prepared);
	m->prepared = NULL;
	m->num_extents = 0;
	m->clone = NULL;
	m->restart = false;
}

int
merge_begin(struct merge *m, struct blob *clone)
{
	struct blob_map *of = atomic_load_explicit(&m->snapshot->head.map, memory_order_relaxed);
	struct blob_map *map = atomic_load_explicit(&clone->head.map, memory_order_relaxed);

	merge_drop_prepared(m);
	m->next = 0;
	m->passes = m->dirty = 0;
	m->prepared = calloc(MIN(of->num_extents, map->num_extents) + 1, sizeof(struct prepared *));
	if (m->prepared == NULL) {
		return -ENOMEM;
	}
	m->num_extents = MIN(of->num_extents, map->num_extents);
	m->clone = clone;
	return 0;
}

static uint64_t
in_extent(uint64_t num_clusters, uint64_t index)
{
	uint64_t start = index * BLOB_EXTENT_CLUSTERS;

	return num_clusters <= start ? 0 : MIN(num_clusters - start, (uint64_t)BLOB_EXTENT_CLUSTERS);
}

static enum fate
fate(const struct merge *m, uint64_t i)
{
	struct blob_map *of = atomic_load_explicit(&m->snapshot->head.map, memory_order_relaxed);
	struct blob_map *map = atomic_load_explicit(&m->clone->head.map, memory_order_relaxed);
	struct blob_extent *s = i < of->num_extents ? blob_map_extent(of, i) : NULL;
	struct blob_extent *c = i < map->num_extents ? blob_map_extent(map, i) : NULL;

	if (s == NULL || i >= map->num_extents) {
		return FATE_NONE;
	}
	if (c == NULL && (s->page != 0) == blob_has_table(m->clone) &&
	    in_extent(of->num_clusters, i) == in_extent(map->num_clusters, i)) {
		return FATE_TAKE;
	}
	return FATE_MIX;
}

bool
merge_is_dirty(const struct merge *m, uint64_t i)
{
	struct blob_map *map = atomic_load_explicit(&m->clone->head.map, memory_order_relaxed);
	const struct prepared *p = m->prepared[i];
	const struct blob_extent *c;

	if (fate(m, i) != FATE_MIX) {
		return false;
	}
	c = blob_map_extent(map, i);
	return p == NULL || p->from != c || (c != NULL && c->touched);
}

static struct prepared *
make_prepared(struct merge *m, uint64_t i)
{
	struct prepared *p = m->prepared[i];

	if (p != NULL) {
		return p;
	}
	p = calloc(1, sizeof(*p));
	if (p == NULL || (p->e = calloc(1, sizeof(*p->e))) == NULL) {
		free(p);
		return NULL;
	}
	m->prepared[i] = p;
	return p;
}

int
merge_prepare(struct merge *m, uint64_t i, struct md_tx *tx)
{
	struct blob_map *of = atomic_load_explicit(&m->snapshot->head.map, memory_order_relaxed);
	struct blob_map *map = atomic_load_explicit(&m->clone->head.map, memory_order_relaxed);
	struct blob_extent *s = blob_map_extent(of, i), *c = blob_map_extent(map, i);
	struct prepared *p = make_prepared(m, i);
	uint64_t n = in_extent(map->num_clusters, i);

	if (p == NULL) {
		return -ENOMEM;
	}
	if (p->e->page == 0 && blob_has_table(m->clone)) {
		p->e->page = alloc_page(m->store);
		if (p->e->page == BLOB_PAGE_NONE) {
			p->e->page = 0;
			return -ENOSPC;
		}
	}
	memset(p->drop, 0, sizeof(p->drop));
	if (c != NULL) {
		c->touched = false;
	}
	p->from = c;
	for (unsigned k = 0; k < BLOB_EXTENT_CLUSTERS; k++) {
		uint32_t below = atomic_load_explicit(&s->cluster[k], memory_order_relaxed);
		uint32_t own = c == NULL ? 0 : atomic_load_explicit(&c->cluster[k], memory_order_acquire);

		if (own == BLOB_CLUSTER_BUSY) { /* its commit comes, and touches the extent */
			own = 0;
		}
		if (below != 0 && (own != 0 || k >= n)) {
			p->drop[k / 64] |= UINT64_C(1) << (k % 64);
		}
		atomic_store_explicit(&p->e->cluster[k], own != 0 ? own : k < n ? below : 0, memory_order_relaxed);
	}
	return p->e->page == 0 ? 0 : md_put_extent_of(tx, m->clone->id, map->num_clusters, p->e, i, p->e->page);
}

int
merge_make_map(struct merge *m)
{
	struct blob_map *of = atomic_load_explicit(&m->snapshot->head.map, memory_order_relaxed);
	struct blob_map *map = atomic_load_explicit(&m->clone->head.map, memory_order_relaxed);

	m->map = blob_map_create(map->num_clusters, map);
	m->old = calloc(m->num_extents + 1, sizeof(struct blob_extent *));
	m->reap = reap_create(m->store, blob_clear_method(m->snapshot));
	if (m->map == NULL || m->old == NULL || m->reap == NULL) {
		return -ENOMEM;
	}
	for (uint64_t i = 0; i < m->num_extents; i++) {
		enum fate f = fate(m, i);

		if (f != FATE_NONE) {
			atomic_store_explicit(&m->map->extents[i], f == FATE_TAKE ? blob_map_extent(of, i) : m->prepared[i]->e,
					      memory_order_relaxed);
		}
	}
	return 0;
}
