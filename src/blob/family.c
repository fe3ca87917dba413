/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Blobs that were read, brought together: parents find their clones, and everything that a blob has is marked as in use.
 *
 *	what was under way            is decided first (recover.c)
 *	SNAP = id                     parents; a parent that does not exist, a circle: damage
 *	clusters, extent pages        in two blobs: both are damaged, and nobody gets them
 *	damage below                  what reads through a damaged blob is damaged
 *
 * Invariants
 *  1. What a damaged blob has stays in use, as far as it can be seen. When there is damage, so does what pages have that
 *     belong to no blob: they may be its missing ones. It stays its parent's clone, so that the parent is not taken away.
 *  2. No recursion, nothing that grows with the square of anything: chains of blobs are walked once, extents twice.
 * Context: the owner.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

/* Of the whole store while it is brought together. */
struct family {
	struct blob_store *store;
	const struct md_pages *pages;
	struct blob_bits clusters, md_pages;            /* had by somebody */
	struct blob_bits doubly_clusters, doubly_pages; /* by two; made when there is one */
	uint8_t *state; /* of blobs, by page: enum state */
	struct blob **path;
	uint64_t orphaned; /* clusters that were looked at for orphans' sake */
};

static struct blob_map *
map_of(const struct blob *blob)
{
	return atomic_load_explicit(&blob->head.map, memory_order_relaxed);
}

static uint32_t
page_of(const struct blob *blob)
{
	return (uint32_t)(blob->id - BLOB_ID_BASE);
}

static bool
healthy(const struct blob *blob)
{
	return blob->damage.code == 0;
}

/* ---- Parents ---- */

static void
find_parent(struct blob *blob)
{
	const struct blob_own_xattr *x = own_xattr_find(&blob->xattrs, true, BLOB_XATTR_PARENT);
	uint64_t id = own_xattr_id(&blob->xattrs, BLOB_XATTR_PARENT);
	struct blob *parent;

	if (x == NULL || (blob->flags.invalid & BLOB_INVALID_EXTERNAL) != 0) {
		return;
	}
	parent = blob_find(blob->store, id);
	if (parent == NULL || parent == blob) {
		blob_set_damage(blob, "its snapshot 0x%" PRIx64 " does not exist", id);
		return;
	}
	blob_set_below(blob, parent, NULL);
	list_append(&parent->clones, &blob->clone_link);
}

enum state {
	UNKNOWN,
	ON_PATH,
	WALKED,
};

static void
cut_circle(struct family *f, unsigned from, unsigned end)
{
	for (unsigned i = from; i < end; i++) {
		struct blob *blob = f->path[i];

		blob_set_damage(blob, "it is, by way of its snapshots, its own snapshot");
		list_remove(&blob->clone_link);
		blob_set_below(blob, NULL, NULL);
	}
}

/* From each blob down to one where somebody has been: each is walked over once. */
static void
find_circles(struct family *f)
{
	struct blob *blob;

	LIST_FOREACH(blob, &f->store->blobs, link) {
		struct blob *at = blob;
		unsigned n = 0;

		while (at != NULL && f->state[page_of(at)] == UNKNOWN) {
			f->state[page_of(at)] = ON_PATH;
			f->path[n++] = at;
			at = below_parent(blob_below(at));
		}
		if (at != NULL && f->state[page_of(at)] == ON_PATH) {
			unsigned from = 0;

			while (f->path[from] != at) {
				from++;
			}
			cut_circle(f, from, n);
		}
		while (n > 0) {
			f->state[page_of(f->path[--n])] = WALKED;
		}
	}
}

/* What is above a damaged blob cannot be read. */
static void
spread_damage(struct family *f)
{
	struct blob *blob;

	memset(f->state, UNKNOWN, f->store->super.md.length);
	LIST_FOREACH(blob, &f->store->blobs, link) {
		struct blob *at = blob, *parent;
		unsigned n = 0;

		while (at != NULL && f->state[page_of(at)] == UNKNOWN) {
			f->state[page_of(at)] = WALKED;
			f->path[n++] = at;
			at = below_parent(blob_below(at));
		}
		while (n > 0) { /* the lowest first */
			at = f->path[--n];
			parent = below_parent(blob_below(at));
			if (parent != NULL && parent->damage.code != 0) {
				blob_set_damage(at, "its snapshot, %s, is damaged: %.300s", CALLED(parent),
						parent->damage.text);
			}
		}
	}
}

/* ---- What is whose ---- */

/* The extent is still what its blob has there. */
static bool
current(const struct md_extent_of *x)
{
	const struct blob_map *map = map_of(x->blob);

	return x->index < map->num_extents && map->extents[x->index] == x->extent;
}

static int
note_double(struct blob_bits *bits, uint64_t i, uint64_t count)
{
	if (bits->words == NULL && bits_init(bits, count) != 0) {
		return -ENOMEM;
	}
	bits_set(bits, i);
	return 0;
}

static int
claim_extent(struct family *f, const struct md_extent_of *x)
{
	uint32_t page = x->extent->page;
	int rc = 0;

	if (page != 0 && page < f->md_pages.count && bits_set(&f->md_pages, page)) {
		rc = note_double(&f->doubly_pages, page, f->md_pages.count);
	}
	for (unsigned i = 0; i < BLOB_EXTENT_CLUSTERS && rc == 0; i++) {
		uint32_t cluster = x->extent->cluster[i];

		if (cluster != 0 && bits_set(&f->clusters, cluster)) {
			rc = note_double(&f->doubly_clusters, cluster, f->clusters.count);
		}
	}
	return rc;
}

static void
blame(struct family *f, const struct md_extent_of *x)
{
	uint32_t page = x->extent->page;

	if (page != 0 && f->doubly_pages.words != NULL && page < f->md_pages.count && bits_get(&f->doubly_pages, page)) {
		blob_set_damage(x->blob, "its extent page %" PRIu32 " is another's, too", page);
	}
	for (unsigned i = 0; i < BLOB_EXTENT_CLUSTERS && f->doubly_clusters.words != NULL; i++) {
		uint32_t cluster = x->extent->cluster[i];

		if (cluster != 0 && bits_get(&f->doubly_clusters, cluster)) {
			blob_set_damage(x->blob, "its cluster %" PRIu32 " is another's, too", cluster);
			return;
		}
	}
}

static void
claim_quietly(struct family *f, const struct md_extent_of *x)
{
	uint32_t page = x->extent->page;

	if (page != 0 && page < f->md_pages.count) {
		bits_set(&f->md_pages, page);
	}
	for (unsigned i = 0; i < BLOB_EXTENT_CLUSTERS; i++) {
		if (x->extent->cluster[i] != 0) {
			bits_set(&f->clusters, x->extent->cluster[i]);
		}
	}
}

/* Those who are healthy first: what a damaged blob claims besides does not harm them. */
static int
claim_all(struct family *f)
{
	const struct md_pages *pages = f->pages;
	struct blob *blob;
	int rc = 0;

	LIST_FOREACH(blob, &f->store->blobs, link) {
		for (uint32_t i = 0; i < blob->num_pages; i++) {
			bits_set(&f->md_pages, blob->pages[i]);
		}
	}
	for (uint64_t i = 0; i < pages->num_extents && rc == 0; i++) {
		const struct md_extent_of *x = &pages->extents[i];

		if (!x->blob->gone && healthy(x->blob) && current(x)) {
			rc = claim_extent(f, x);
		}
	}
	for (uint64_t i = 0; i < pages->num_extents && rc == 0; i++) {
		const struct md_extent_of *x = &pages->extents[i];

		if (x->blob->gone || !current(x)) {
			continue;
		}
		if (healthy(x->blob)) {
			blame(f, x);
		} else {
			claim_quietly(f, x);
		}
	}
	return rc;
}

/* What the masks of a clean store said of a dropped snapshot's things. */
static void
give_up_dropped(struct family *f)
{
	const struct md_pages *pages = f->pages;
	struct blob *blob;

	for (uint64_t i = 0; i < pages->num_extents; i++) {
		const struct md_extent_of *x = &pages->extents[i];

		if (!x->blob->gone) {
			continue;
		}
		if (x->extent->page != 0 && x->extent->page < f->md_pages.count) {
			bits_clear(&f->store->pages, x->extent->page);
		}
		for (unsigned k = 0; k < BLOB_EXTENT_CLUSTERS; k++) {
			if (x->extent->cluster[k] != 0) {
				bits_clear(&f->store->clusters, x->extent->cluster[k]);
			}
		}
	}
	for (unsigned i = 0; (blob = recover_dropped(f->store, i)) != NULL; i++) {
		for (uint32_t k = 1; k < blob->num_pages; k++) {
			bits_clear(&f->store->pages, blob->pages[k]);
		}
		bits_set(&f->md_pages, blob->pages[0]); /* until it is zeroed */
	}
}

static void
or_bits(struct blob_bits *to, const struct blob_bits *from)
{
	for (uint64_t i = 0; i <= from->count / 64; i++) {
		to->words[i] |= from->words[i];
	}
}

static void
keep_run(struct family *f, uint64_t first, uint64_t count)
{
	uint64_t md = blob_super_md_clusters(&f->store->super), total = f->store->total_clusters;

	for (uint64_t i = MAX(first, md); i < MIN(first + count, total) && f->orphaned < 2 * total; i++) {
		bits_set(&f->clusters, i);
		f->orphaned++;
	}
}

static void
keep_descriptor(struct family *f, const struct blob_descriptor *d)
{
	if (d->type == BLOB_DESCRIPTOR_EXTENT_PAGE) {
		for (uint32_t i = 0; i < d->page.num_clusters; i++) {
			keep_run(f, blob_descriptor_cluster(d, i), 1);
		}
	} else if (d->type == BLOB_DESCRIPTOR_EXTENT_RLE) {
		for (uint32_t i = 0; i < d->extents.num_runs; i++) {
			struct blob_run run = blob_descriptor_run(d, i);

			if (run.index != 0) {
				keep_run(f, run.index, run.length);
			}
		}
	}
}

/* Pages that nobody has: of a damaged blob, perhaps. */
static void
keep_orphans(struct family *f)
{
	for (uint32_t i = 0; i < f->pages->count; i++) {
		struct blob_page page;
		struct blob_cursor cursor;
		struct blob_descriptor d;

		if (f->pages->page[i] == NULL || bits_get(&f->md_pages, i) || blob_page_decode(f->pages->page[i], &page) != 0) {
			continue;
		}
		bits_set(&f->md_pages, i);
		cursor = (struct blob_cursor){page.descriptors, 0};
		while (blob_descriptor_next(&cursor, &d) == 1) {
			keep_descriptor(f, &d);
		}
	}
}

/* ---- All together ---- */

static int
attach_external(struct blob *blob)
{
	size_t bytes;
	const void *id = blob_external_id(blob, &bytes);
	struct blob_external *external;

	if ((blob->flags.invalid & BLOB_INVALID_EXTERNAL) == 0 || blob->damage.code != 0) {
		return 0;
	}
	if (id == NULL) {
		blob_set_damage(blob, "it does not say what its external snapshot is");
		return 0;
	}
	external = external_attach(blob, id, bytes);
	if (external == NULL) {
		return -ENOMEM;
	}
	blob_set_below(blob, NULL, external);
	return 0;
}

static void
family_release(struct family *f)
{
	bits_release(&f->clusters);
	bits_release(&f->md_pages);
	bits_release(&f->doubly_clusters);
	bits_release(&f->doubly_pages);
	free(f->state);
	free(f->path);
}

static int
family_init(struct family *f)
{
	struct blob_store *store = f->store;

	f->state = calloc(store->super.md.length, sizeof(*f->state));
	f->path = malloc((store->num_blobs + 1) * sizeof(struct blob *));
	if (f->state == NULL || f->path == NULL || bits_init(&f->clusters, store->total_clusters) != 0 ||
	    bits_init(&f->md_pages, store->super.md.length) != 0) {
		return -ENOMEM;
	}
	return 0;
}

static int
mark_used(struct family *f)
{
	struct blob_store *store = f->store;
	int rc = claim_all(f);

	if (rc != 0) {
		return rc;
	}
	give_up_dropped(f);
	for (uint32_t i = 0; i < f->pages->count && store->num_damaged > 0; i++) {
		if (bits_get(&f->pages->chains, i) && f->pages->page[i] == NULL) {
			bits_set(&f->md_pages, i); /* a chain goes on there, or should */
		}
	}
	if (store->num_damaged > 0 && store->recovered) {
		keep_orphans(f);
	}
	or_bits(&store->clusters, &f->clusters);
	or_bits(&store->pages, &f->md_pages);
	return 0;
}

int
load_family(struct blob_store *store, const struct md_pages *pages, struct err *err)
{
	struct family f = {.store = store, .pages = pages};
	struct blob *blob;
	int rc = recover_decide(store);

	if (rc == 0) {
		rc = family_init(&f);
	}
	if (rc == 0) {
		LIST_FOREACH(blob, &store->blobs, link) {
			find_parent(blob);
		}
		find_circles(&f);
		rc = mark_used(&f);
	}
	if (rc == 0) {
		spread_damage(&f);
		LIST_FOREACH(blob, &store->blobs, link) {
			blob->snapshot = !list_empty(&blob->clones);
			rc = rc != 0 ? rc : attach_external(blob);
		}
	}
	family_release(&f);
	return rc == 0 ? 0 : err_set(err, rc, "no memory");
}
