/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A blob from its metadata pages. Nothing in them is believed; what does not fit makes the blob damaged, and what could be read
 * stays in it, so that its clusters and pages are given to nobody.
 *
 * Invariants
 *  1. A page is in one chain at most, once (md_pages.chains): so a chain has an end, and all chains together are read once.
 *  2. Every cluster in a map lies in the store, behind the metadata; an extent's page is a page of the region, never page 0.
 *  3. Work and memory are bounded by what the pages have: a long run of nothing costs nothing.
 * Whether two blobs have the same cluster or extent page is seen by recover.c, when all blobs are there.
 *
 * Context: the owner, while the store is loaded.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

#define CLUSTERS_MAX UINT64_C(0xffffffff) /* of one blob: what an extent page can number */

struct parse {
	struct blob_store *store;
	struct md_pages *pages;
	struct blob *blob;
	uint64_t md_clusters;
	uint64_t num_clusters;
	uint64_t table_clusters; /* as the table says */
	uint32_t last_page;      /* of its last extent, 0: none */
	uint64_t at;     /* extent that the table's next run begins at */
	uint64_t rle_at; /* cluster that the next run of run-length extents begins at */
	bool has_flags, has_rle, has_table;
	bool counting; /* first pass: how many clusters; the map is made then */
};

/* ---- Chain ---- */

static const uint8_t *
page_at(struct parse *p, uint32_t page)
{
	if (!bits_get(&p->store->pages, page) && p->pages->page[page] == NULL) {
		p->pages->beyond = true;
	}
	return p->pages->page[page];
}

/* Takes the page into the chain. False: damage. */
static bool
chain_page(struct parse *p, uint32_t page, uint32_t sequence, struct blob_page *ret_page)
{
	const uint8_t *bytes;

	if (page >= p->store->super.md.length) {
		blob_set_damage(p->blob, "metadata page %" PRIu32 " of its chain lies outside the metadata region", page);
		return false;
	}
	if (bits_set(&p->pages->chains, page)) {
		blob_set_damage(p->blob, "metadata page %" PRIu32 " is in a chain already", page);
		return false;
	}
	bytes = page_at(p, page);
	if (bytes == NULL || blob_page_decode(bytes, ret_page) != 0) {
		blob_set_damage(p->blob, "metadata page %" PRIu32 " of its chain is %s", page,
				bytes == NULL ? "empty or unreadable" : "damaged (checksum)");
		return false;
	}
	if (ret_page->id != p->blob->id || ret_page->sequence != sequence) {
		blob_set_damage(p->blob, "metadata page %" PRIu32 " belongs to blob 0x%" PRIx64 " as its page %" PRIu32
				", not as %" PRIu32 " to this one", page, ret_page->id, ret_page->sequence, sequence);
		return false;
	}
	return true;
}

/* The chain's pages into blob->pages; those before damage too. -ENOMEM. */
static int
read_chain(struct parse *p, uint32_t first)
{
	struct blob *blob = p->blob;
	uint32_t room = 1, page = first, n = 0;
	struct blob_page decoded;

	while (page != BLOB_PAGE_NONE && chain_page(p, page, n, &decoded)) {
		if (n == room) {
			uint32_t *grown = realloc(blob->pages, room * 2 * sizeof(*grown));

			if (grown == NULL) {
				return -ENOMEM;
			}
			blob->pages = grown;
			room *= 2;
		}
		blob->pages[n++] = page;
		page = decoded.next;
	}
	blob->num_pages = MAX(n, 1u);
	return 0;
}

/* ---- Descriptors ---- */

static void
take_flags(struct parse *p, const struct blob_flags *flags)
{
	struct blob *blob = p->blob;

	if (p->has_flags) {
		blob_set_damage(blob, "it has two sets of flags");
		return;
	}
	p->has_flags = true;
	blob->flags = *flags;
	/* What an unknown bit of data means for its metadata is unknown, too. */
	blob->md_ro = (flags->md_ro & ~BLOB_MD_RO_KNOWN) != 0 || (flags->data_ro & ~BLOB_DATA_RO_KNOWN) != 0;
	blob->data_ro = flags->data_ro != 0;
	if ((flags->invalid & ~BLOB_INVALID_KNOWN) != 0) {
		blob_set_damage(blob, "it is of a kind that is not known here (flags 0x%" PRIx64 ")", flags->invalid);
	}
}

static int
take_xattr(struct parse *p, const struct blob_descriptor *d)
{
	struct blob_own_xattr *x;

	if (d->xattr.name_bytes == 0 || memchr(d->xattr.name, 0, d->xattr.name_bytes) != NULL) {
		blob_set_damage(p->blob, "an attribute has no proper name");
		return 0;
	}
	x = own_xattr_create(d->type == BLOB_DESCRIPTOR_INTERNAL_XATTR, d->xattr.name, d->xattr.name_bytes, d->xattr.value,
			     d->xattr.value_bytes);
	if (x == NULL) {
		return -ENOMEM;
	}
	list_append(&p->blob->xattrs, &x->link);
	return 0;
}

static bool
cluster_fits(const struct parse *p, uint64_t cluster, uint64_t count)
{
	return cluster >= p->md_clusters && cluster < p->store->total_clusters && count <= p->store->total_clusters - cluster;
}

/* The extent, noted for those who look at all extents of all blobs. NULL: memory. */
static struct blob_extent *
note_extent(struct parse *p, struct blob_map *map, uint64_t index)
{
	struct md_pages *pages = p->pages;
	struct blob_extent *e = blob_map_extent(map, index);

	if (e != NULL) {
		return e;
	}
	if (pages->num_extents == pages->room) {
		uint64_t room = MAX(pages->room * 2, UINT64_C(1024));
		struct md_extent_of *grown = realloc(pages->extents, room * sizeof(*grown));

		if (grown == NULL) {
			return NULL;
		}
		pages->extents = grown;
		pages->room = room;
	}
	e = blob_map_make_extent(map, index);
	if (e != NULL) {
		pages->extents[pages->num_extents++] = (struct md_extent_of){p->blob, e, index};
	}
	return e;
}

/* Sets an entry of the map. -ENOMEM. */
static int
set_cluster(struct parse *p, uint64_t index, uint32_t cluster)
{
	struct blob_map *map = atomic_load_explicit(&p->blob->head.map, memory_order_relaxed);
	struct blob_extent *e;

	if (index >= map->num_clusters) { /* it has extents of both kinds */
		return 0;
	}
	e = note_extent(p, map, index / BLOB_EXTENT_CLUSTERS);
	if (e == NULL) {
		return -ENOMEM;
	}
	atomic_store_explicit(&e->cluster[index % BLOB_EXTENT_CLUSTERS], cluster, memory_order_relaxed);
	atomic_fetch_add_explicit(&p->blob->allocated, 1, memory_order_relaxed);
	return 0;
}

/*
 * Two blobs share what they have while one is being made of the other, or merged into it: all blobs together have twice what
 * there is, at most. Sees to it that a few pages do not make a machine's whole memory of maps.
 */
static bool
within_budget(struct parse *p, uint64_t clusters)
{
	struct md_pages *pages = p->pages;

	pages->clusters += clusters;
	if (pages->clusters > 2 * p->store->total_clusters || pages->num_extents > 2 * p->store->total_clusters) {
		blob_set_damage(p->blob, "blobs have more clusters than there are");
		return false;
	}
	return true;
}

static int
take_rle(struct parse *p, const struct blob_descriptor *d)
{
	int rc = 0;

	p->has_rle = true;
	for (uint32_t i = 0; i < d->extents.num_runs && rc == 0; i++) {
		struct blob_run run = blob_descriptor_run(d, i);

		if (run.length > CLUSTERS_MAX - p->rle_at || (run.index != 0 && !cluster_fits(p, run.index, run.length))) {
			blob_set_damage(p->blob, "%" PRIu32 " clusters from %" PRIu32 " on do not lie in the store", run.length,
					run.index);
			return 0;
		}
		if (run.index != 0 && !p->counting && !within_budget(p, run.length)) {
			return 0;
		}
		for (uint32_t k = 0; !p->counting && run.index != 0 && k < run.length && rc == 0; k++) {
			rc = set_cluster(p, p->rle_at + k, run.index + k);
		}
		p->rle_at += run.length;
	}
	return rc;
}

/* What an extent page says, into the map. -ENOMEM. */
static int
take_extent_page(struct parse *p, uint64_t extent, uint32_t page, const struct blob_descriptor *d)
{
	uint64_t start = extent * BLOB_EXTENT_CLUSTERS;
	int rc = 0;

	if (d->page.start_cluster != start || d->page.num_clusters > BLOB_EXTENT_CLUSTERS) {
		blob_set_damage(p->blob,
				"extent page %" PRIu32 " speaks of %" PRIu32 " clusters from %" PRIu32
				" on, not of those from %" PRIu64 " on", page, d->page.num_clusters, d->page.start_cluster,
				start);
		return 0;
	}
	for (uint32_t i = 0; i < d->page.num_clusters && start + i < p->num_clusters && rc == 0; i++) {
		uint32_t cluster = blob_descriptor_cluster(d, i);

		if (cluster == 0) {
			continue;
		}
		if (!cluster_fits(p, cluster, 1)) {
			blob_set_damage(p->blob, "cluster %" PRIu32 " (extent page %" PRIu32 ") does not lie in the store",
					cluster, page);
			continue;
		}
		rc = set_cluster(p, start + i, cluster);
	}
	return rc;
}

static int
read_extent_page(struct parse *p, uint64_t extent, uint32_t page)
{
	struct blob_map *map = atomic_load_explicit(&p->blob->head.map, memory_order_relaxed);
	struct blob_page decoded;
	struct blob_descriptor d;
	struct blob_cursor cursor;
	struct blob_extent *e;
	const uint8_t *bytes;

	if (page >= p->store->super.md.length) {
		blob_set_damage(p->blob, "extent page %" PRIu32 " lies outside the metadata region", page);
		return 0;
	}
	if (!within_budget(p, 0)) {
		return 0;
	}
	e = note_extent(p, map, extent);
	if (e == NULL) {
		return -ENOMEM;
	}
	e->page = page;
	bytes = page_at(p, page);
	if (bytes == NULL || blob_page_decode(bytes, &decoded) != 0) {
		blob_set_damage(p->blob, "extent page %" PRIu32 " is %s", page,
				bytes == NULL ? "empty or unreadable" : "damaged (checksum)");
		return 0;
	}
	cursor = (struct blob_cursor){decoded.descriptors, 0};
	if (decoded.sequence != 0 || blob_descriptor_next(&cursor, &d) != 1 || d.type != BLOB_DESCRIPTOR_EXTENT_PAGE) {
		blob_set_damage(p->blob, "metadata page %" PRIu32 " is no extent page", page);
		return 0;
	}
	return take_extent_page(p, extent, page, &d);
}

static int
take_table(struct parse *p, const struct blob_descriptor *d)
{
	uint64_t extents = d->extents.num_clusters / BLOB_EXTENT_CLUSTERS + (d->extents.num_clusters % BLOB_EXTENT_CLUSTERS != 0);
	int rc = 0;

	if (d->extents.num_clusters > CLUSTERS_MAX || (p->has_table && d->extents.num_clusters != p->table_clusters)) {
		blob_set_damage(p->blob, "its extent table speaks of %" PRIu64 " clusters", d->extents.num_clusters);
		return 0;
	}
	p->has_table = true;
	p->table_clusters = d->extents.num_clusters;
	for (uint32_t i = 0; i < d->extents.num_runs && rc == 0; i++) {
		struct blob_run run = blob_descriptor_run(d, i);

		if (run.length > extents - p->at || (run.index != 0 && run.length != 1)) {
			blob_set_damage(p->blob,
					"its extent table is longer than %" PRIu64 " clusters need, or contradicts itself",
					p->table_clusters);
			return 0;
		}
		if (run.index != 0 && !p->counting) {
			rc = read_extent_page(p, p->at, run.index);
		}
		p->last_page = run.index;
		p->at += run.length;
	}
	return rc;
}

static int
take(struct parse *p, const struct blob_descriptor *d)
{
	switch (d->type) {
	case BLOB_DESCRIPTOR_FLAGS:
		if (p->counting) {
			take_flags(p, &d->flags);
		}
		return 0;
	case BLOB_DESCRIPTOR_XATTR:
	case BLOB_DESCRIPTOR_INTERNAL_XATTR:
		return p->counting ? take_xattr(p, d) : 0;
	case BLOB_DESCRIPTOR_EXTENT_RLE:
		return take_rle(p, d);
	case BLOB_DESCRIPTOR_EXTENT_TABLE:
		return take_table(p, d);
	case BLOB_DESCRIPTOR_EXTENT_PAGE:
		blob_set_damage(p->blob, "there is an extent page in its chain");
		return 0;
	default: /* the flags say when such a thing matters */
		return 0;
	}
}

/* All descriptors of the chain, one pass. -ENOMEM. */
static int
pass(struct parse *p)
{
	p->at = 0;
	p->rle_at = 0;
	for (uint32_t i = 0; i < p->blob->num_pages; i++) {
		const uint8_t *bytes = p->pages->page[p->blob->pages[i]];
		struct blob_cursor cursor;
		struct blob_descriptor d;
		struct blob_page page;
		int rc = 0;

		if (bytes == NULL || blob_page_decode(bytes, &page) != 0) {
			return 0; /* the first: noted before */
		}
		cursor = (struct blob_cursor){page.descriptors, 0};
		while (rc == 0 && (rc = blob_descriptor_next(&cursor, &d)) == 1) {
			rc = take(p, &d);
		}
		if (rc == -EILSEQ) {
			blob_set_damage(p->blob, "metadata page %" PRIu32 " of its chain does not make sense", p->blob->pages[i]);
		} else if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

/*
 * The size of a blob with a table. SPDK writes the last extent page in place before the chain that says the new size, and
 * takes for the size, when it loads such a blob, what that page has: from then on there may be data. So does this.
 */
static uint64_t
table_size(struct parse *p)
{
	uint64_t start = p->at == 0 ? 0 : (p->at - 1) * BLOB_EXTENT_CLUSTERS;
	struct blob_page decoded;
	struct blob_descriptor d;
	struct blob_cursor cursor;
	const uint8_t *bytes;

	if (p->last_page == 0 || p->last_page >= p->store->super.md.length) {
		return p->table_clusters;
	}
	bytes = page_at(p, p->last_page);
	if (bytes == NULL || blob_page_decode(bytes, &decoded) != 0) {
		return p->table_clusters;
	}
	cursor = (struct blob_cursor){decoded.descriptors, 0};
	if (blob_descriptor_next(&cursor, &d) != 1 || d.type != BLOB_DESCRIPTOR_EXTENT_PAGE || d.page.start_cluster != start ||
	    d.page.num_clusters == 0 || d.page.num_clusters > BLOB_EXTENT_CLUSTERS) {
		return p->table_clusters;
	}
	return start + d.page.num_clusters;
}

/* After the first pass: do its parts agree? Then the map of its size. -ENOMEM. */
static int
make_map(struct parse *p)
{
	struct blob *blob = p->blob;
	struct blob_map *map;

	if (p->has_rle && (p->has_table || blob_has_table(blob))) {
		blob_set_damage(blob, "it has extents of both kinds");
	}
	if (p->has_table && blob->damage.code == 0 &&
	    p->at != (p->table_clusters + BLOB_EXTENT_CLUSTERS - 1) / BLOB_EXTENT_CLUSTERS) {
		blob_set_damage(blob, "its extent table ends after %" PRIu64 " of %" PRIu64 " clusters",
				p->at * BLOB_EXTENT_CLUSTERS, p->table_clusters);
	}
	p->num_clusters = !p->has_table ? p->rle_at : blob->damage.code == 0 ? table_size(p) : p->table_clusters;
	map = blob_map_create(p->num_clusters, NULL);
	if (map == NULL) {
		return -ENOMEM;
	}
	blob_map_free(atomic_load_explicit(&blob->head.map, memory_order_relaxed), true);
	atomic_store_explicit(&blob->head.map, map, memory_order_relaxed);
	return 0;
}

int
load_blob(struct blob_store *store, struct md_pages *pages, uint32_t first)
{
	struct parse p = {.store = store, .pages = pages, .counting = true};
	int rc;

	p.md_clusters = blob_super_md_clusters(&store->super);
	p.blob = store_new_blob(store, BLOB_ID_BASE + first);
	rc = p.blob == NULL ? -ENOMEM : read_chain(&p, first);
	if (rc == 0) {
		rc = pass(&p);
	}
	if (rc == 0) {
		rc = make_map(&p);
	}
	p.counting = false;
	return rc != 0 ? rc : pass(&p);
}
