/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Snapshots, of one blob or of several at one instant: the snapshot takes over the original's map, the original goes on with an
 * empty one above it.
 *
 *	gates closed to writes, nothing that writes in flight
 *	the snapshots' chains (SNAPTMP = original)           flush
 *	of a group: the first snapshot's first page, which carries the intent  flush: the commit of a group
 *	the originals' first pages (SNAP = snapshot, empty)  flush: the commit of a single one
 *	maps swapped, gates opened, answered
 *	the snapshots' first pages without SNAPTMP and intent, still in the same operation
 *
 * Intent: an internal xattr BERTHGROUP of the first snapshot; for each volume of the group 16 bytes, little-endian: the id of the
 * original, the id of its snapshot. While it is on the disk, all snapshots of the group are, and each original is made a clone of
 * its snapshot when the store is loaded, if it is not yet.
 *
 * Invariants
 *  1. SNAPTMP is gone before anything else may change: a snapshot that has it was never the parent of somebody but its original.
 *     So a snapshot with it whose original is not its clone came to nothing.
 *  2. SNAPTMP and intent are in the snapshot's first page, so that they go by one write in place that needs no new page: what
 *     users put in xattrs of snapshots is limited.
 *  3. The original's map is swapped after its parent, under a gate for writes; readers look at what is below again when they
 *     find nothing (internal.h, invariant 2).
 *
 * Context: the owner.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

#define USER_XATTR_BYTES_MAX 1500u /* of one snapshot, their descriptors included */

struct member {
	struct blob_wait wait;
	struct group *group;
	struct blob *original;
	struct blob *snapshot;
	struct md_image of_snapshot, of_original;
	struct blob_map *empty; /* the original's, afterwards */
	uint8_t first[BLOB_PAGE_BYTES]; /* of the snapshot, as it was written */
	uint8_t *clean; /* of group->clean: zeroes until it is known what it will be */
};

struct group {
	struct md_op op;
	struct blob_store *store;
	struct blob_snapshot *asked;
	struct member *members;
	unsigned count;
	unsigned waiting; /* gates that are not closed yet */
	struct md_tx body, firsts, intent, commit, clean;
	blob_done_fn done;
	void *ctx;
	int status;
	struct err err;
};

int
snapshot_intent_decode(const void *value, size_t bytes, struct snapshot_pair ret_pairs[SNAPSHOT_GROUP_MAX])
{
	const uint8_t *p = value;

	if (bytes % 16 != 0 || bytes / 16 > SNAPSHOT_GROUP_MAX) {
		return -EILSEQ;
	}
	for (size_t i = 0; i < bytes / 16; i++) {
		memcpy(&ret_pairs[i].original, p + i * 16, 8);
		memcpy(&ret_pairs[i].snapshot, p + i * 16 + 8, 8);
	}
	return (int)(bytes / 16);
}

static void
release(struct group *g)
{
	for (unsigned i = 0; i < g->count; i++) {
		md_image_release(&g->members[i].of_snapshot);
		md_image_release(&g->members[i].of_original);
		blob_map_free(g->members[i].empty, false);
	}
	md_tx_release(&g->body);
	md_tx_release(&g->firsts);
	md_tx_release(&g->intent);
	md_tx_release(&g->commit);
	md_tx_release(&g->clean);
	free(g->members);
	free(g);
}

/* Gates open, whoever asked hears of it; the operation may go on. */
static void
answer(struct group *g, int status)
{
	for (unsigned i = 0; i < g->count; i++) {
		gate_open(g->members[i].original);
		g->members[i].original->opens--;
		g->asked[i].snapshot = status == 0 ? g->members[i].snapshot : NULL;
	}
	g->done(g->ctx, status, &g->err);
}

static void
end(struct group *g)
{
	struct blob_store *store = g->store;

	md_op_end(&g->op);
	release(g);
	merge_kick(store);
	store_background_end(store);
}

/* ---- It came to nothing ---- */

static void
forget_snapshots(struct group *g)
{
	for (unsigned i = 0; i < g->count; i++) {
		struct blob *s = g->members[i].snapshot;

		if (s == NULL) {
			continue;
		}
		md_image_release(&g->members[i].of_snapshot);
		alloc_free_page(g->store, s->pages[0]);
		store_free_blob(s);
		g->members[i].snapshot = NULL;
	}
}

static void
failed_for_good(struct group *g)
{
	struct blob_store *store = g->store;
	int status = g->status;

	if (g->err.code == 0) {
		volume_error(g->members[0].original, status, &g->err);
	}
	forget_snapshots(g);
	md_op_end(&g->op);
	answer(g, status);
	release(g);
	merge_kick(store);
	store_background_end(store);
}

static void
wiped(struct md_tx *tx, int status)
{
	struct group *g = CONTAINER_OF(tx, struct group, clean);

	if (status != 0) {
		store_break(g->store, status, "first metadata pages of snapshots that came to nothing");
	}
	failed_for_good(g);
}

/* First pages of snapshots may be on the disk: they are zeroed before somebody else gets them. */
static void
fail(struct group *g, int status)
{
	g->status = status;
	if (g->store->broken || (!g->firsts.wrote && !g->intent.wrote)) {
		failed_for_good(g);
		return;
	}
	md_tx_write(&g->clean, true, wiped);
}

/* ---- It is done: the marks go ---- */

/* A snapshot's first page without its marks. */
static void
put_clean_page(const struct member *m)
{
	struct blob_page_writer w;
	struct blob_cursor cursor;
	struct blob_descriptor d;
	struct blob_page page;
	struct blob_run runs[BLOB_DESCRIPTOR_BYTES / sizeof(struct blob_run)];

	CHECK(blob_page_decode(m->first, &page) == 0);
	cursor = (struct blob_cursor){.descriptors = page.descriptors};
	blob_page_begin(&w, m->clean);
	while (blob_descriptor_next(&cursor, &d) == 1) {
		switch (d.type) {
		case BLOB_DESCRIPTOR_FLAGS:
			blob_put_flags(&w, &m->snapshot->flags);
			break;
		case BLOB_DESCRIPTOR_XATTR:
		case BLOB_DESCRIPTOR_INTERNAL_XATTR: {
			char name[UINT8_MAX + 1] = "";

			memcpy(name, d.xattr.name, MIN((size_t)d.xattr.name_bytes, sizeof(name) - 1));
			if (own_xattr_find(&m->snapshot->xattrs, d.type == BLOB_DESCRIPTOR_INTERNAL_XATTR, name) != NULL ||
			    d.xattr.name_bytes >= sizeof(name)) {
				blob_put_xattr(&w, d.type == BLOB_DESCRIPTOR_INTERNAL_XATTR, d.xattr.name, d.xattr.name_bytes,
					       d.xattr.value, d.xattr.value_bytes);
			}
			break;
		}
		default: /* extents, of either kind */
			for (uint32_t i = 0; i < d.extents.num_runs; i++) {
				runs[i] = blob_descriptor_run(&d, i);
			}
			if (d.type == BLOB_DESCRIPTOR_EXTENT_TABLE) {
				blob_put_extent_table(&w, d.extents.num_clusters, runs, d.extents.num_runs);
			} else {
				blob_put_extent_rle(&w, runs, d.extents.num_runs);
			}
		}
	}
	blob_page_end(&w, page.id, page.sequence, page.next);
}

static void
cleaned(struct md_tx *tx, int status)
{
	struct group *g = CONTAINER_OF(tx, struct group, clean);

	if (status != 0) {
		store_break(g->store, status, "first metadata pages of snapshots");
	}
	end(g);
}

static void
remove_marks(struct group *g)
{
	for (unsigned i = 0; i < g->count; i++) {
		struct blob *s = g->members[i].snapshot;
		struct blob_own_xattr *x;

		own_xattr_free(own_xattr_find(&s->xattrs, true, BLOB_XATTR_SNAPSHOT_PENDING));
		own_xattr_free(own_xattr_find(&s->xattrs, true, BLOB_XATTR_GROUP));
		s->flags.invalid &= ~BLOB_INVALID_INTERNAL_XATTR;
		LIST_FOREACH(x, &s->xattrs, link) {
			s->flags.invalid |= x->internal ? BLOB_INVALID_INTERNAL_XATTR : 0;
		}
		put_clean_page(&g->members[i]);
	}
	md_tx_write(&g->clean, true, cleaned);
}

/* ---- The commit is on the disk ---- */

static void
swap(struct member *m)
{
	struct blob *original = m->original, *snapshot = m->snapshot, *parent = below_parent(blob_below(original));
	struct blob_map *map = atomic_load_explicit(&original->head.map, memory_order_relaxed);

	md_image_apply(&m->of_snapshot);
	md_image_apply(&m->of_original);
	snapshot->snapshot = true;
	blob_map_free(atomic_load_explicit(&snapshot->head.map, memory_order_relaxed), true);
	atomic_store_explicit(&snapshot->head.map, map, memory_order_release);
	atomic_store_explicit(&snapshot->allocated, atomic_load_explicit(&original->allocated, memory_order_relaxed),
			      memory_order_relaxed);
	atomic_store_explicit(&original->allocated, 0, memory_order_relaxed);
	blob_set_below(snapshot, parent, below_external(blob_below(original)));
	blob_set_below(original, snapshot, NULL);
	atomic_store_explicit(&original->head.map, m->empty, memory_order_release);
	m->empty = NULL;
	if (parent != NULL) {
		list_remove(&original->clone_link);
		list_append(&parent->clones, &snapshot->clone_link);
		merge_consider(parent);
	}
	list_append(&snapshot->clones, &original->clone_link);
	snapshot->busy = false;
}

static void
committed(struct md_tx *tx, int status)
{
	struct group *g = CONTAINER_OF(tx, struct group, commit);

	if (status != 0) {
		/* One that fails has always written: md_tx_page() keeps a slot for it, and the super block has said "unclean"
		 * since the first pages. With an intent on the disk nothing may be taken back by halves even if it had not. */
		if (tx->wrote || g->intent.wrote) {
			store_break(g->store, status, "first metadata pages of volumes that a snapshot was taken of");
		}
		fail(g, status);
		return;
	}
	for (unsigned i = 0; i < g->count; i++) {
		swap(&g->members[i]);
	}
	answer(g, 0);
	remove_marks(g);
}

static void
intent_written(struct md_tx *tx, int status)
{
	struct group *g = CONTAINER_OF(tx, struct group, intent);

	if (status != 0) {
		if (tx->wrote) {
			store_break(g->store, status, "the intent of a group of snapshots");
		}
		fail(g, status);
		return;
	}
	md_tx_write(&g->commit, true, committed);
}

static void
firsts_written(struct md_tx *tx, int status)
{
	struct group *g = CONTAINER_OF(tx, struct group, firsts);

	if (status != 0) {
		fail(g, status);
	} else if (g->intent.count > 0) {
		md_tx_write(&g->intent, true, intent_written);
	} else {
		md_tx_write(&g->commit, true, committed);
	}
}

static void
body_written(struct md_tx *tx, int status)
{
	struct group *g = CONTAINER_OF(tx, struct group, body);

	if (status != 0) {
		fail(g, status);
		return;
	}
	md_tx_write(&g->firsts, true, firsts_written);
}

/* ---- What will be written ---- */

static int
put_intent(struct group *g)
{
	uint8_t value[SNAPSHOT_GROUP_MAX * 16];

	for (unsigned i = 0; i < g->count; i++) {
		memcpy(value + i * 16, &g->members[i].original->id, 8);
		memcpy(value + i * 16 + 8, &g->members[i].snapshot->id, 8);
	}
	return md_image_set_xattr(&g->members[0].of_snapshot, true, BLOB_XATTR_GROUP, value, (size_t)g->count * 16);
}

/* The snapshot's blob, in memory. */
static int
make_snapshot(struct group *g, struct member *m)
{
	struct blob *original = m->original, *s;
	uint32_t page = alloc_page(g->store);

	if (page == BLOB_PAGE_NONE) {
		return -ENOSPC;
	}
	m->empty = blob_map_create(blob_num_clusters(original), NULL);
	s = m->empty == NULL ? NULL : store_new_blob(g->store, BLOB_ID_BASE + page);
	if (s == NULL) {
		alloc_free_page(g->store, page);
		return -ENOMEM;
	}
	m->snapshot = s;
	s->busy = true;
	s->flags = original->flags;
	s->flags.data_ro |= BLOB_DATA_RO_READ_ONLY;
	atomic_store_explicit(&s->data_ro, true, memory_order_relaxed);
	return 0;
}

static int
describe_snapshot(struct group *g, unsigned i)
{
	const struct blob_snapshot *asked = &g->asked[i];
	struct member *m = &g->members[i];
	struct md_image *image = &m->of_snapshot;
	const struct blob_own_xattr *x;
	int rc = md_image_init(image, m->snapshot);

	image->map = atomic_load_explicit(&m->original->head.map, memory_order_relaxed);
	for (unsigned k = 0; rc == 0 && k < asked->num_xattrs; k++) {
		rc = md_image_set_xattr(image, false, asked->xattrs[k].name, asked->xattrs[k].value, asked->xattrs[k].bytes);
	}
	if (rc == 0) {
		rc = md_image_set_xattr(image, true, BLOB_XATTR_SNAPSHOT_PENDING, &m->original->id, sizeof(m->original->id));
	}
	if (rc == 0 && i == 0 && g->count > 1) {
		rc = put_intent(g);
	}
	LIST_FOREACH(x, &m->original->xattrs, link) { /* what is below */
		if (rc == 0 && x->internal &&
		    (strcmp(x->name, BLOB_XATTR_PARENT) == 0 || strcmp(x->name, BLOB_XATTR_EXTERNAL) == 0)) {
			rc = md_image_set_xattr(image, true, x->name, x->value, x->bytes);
		}
	}
	return rc;
}

static int
describe_original(struct member *m)
{
	struct md_image *image = &m->of_original;
	int rc = md_image_init(image, m->original);

	if (rc != 0) {
		return rc;
	}
	image->map = m->empty;
	image->flags.invalid |= BLOB_INVALID_THIN;
	image->flags.invalid &= ~BLOB_INVALID_EXTERNAL;
	md_image_remove_xattr(image, true, BLOB_XATTR_EXTERNAL);
	return md_image_set_xattr(image, true, BLOB_XATTR_PARENT, &m->snapshot->id, sizeof(m->snapshot->id));
}

static int
put_member(struct group *g, unsigned i)
{
	struct member *m = &g->members[i];
	struct md_tx *first = i == 0 && g->count > 1 ? &g->intent : &g->firsts;
	unsigned at = first->count;
	int rc = describe_snapshot(g, i);

	if (rc == 0) {
		rc = md_image_put(&m->of_snapshot, &g->body, first);
	}
	if (rc == 0) {
		memcpy(m->first, md_tx_bytes(first, at), BLOB_PAGE_BYTES);
		rc = describe_original(m);
	}
	if (rc == 0) {
		rc = md_image_put(&m->of_original, &g->body, &g->commit);
	}
	if (rc == 0) {
		m->clean = md_tx_page(&g->clean, m->snapshot->pages[0]);
		rc = m->clean == NULL ? -ENOMEM : 0;
	}
	return rc;
}

static int
may_snapshot(const struct blob *blob, struct err *err)
{
	int rc = volume_is_there(blob, err);

	if (rc != 0) {
		return rc;
	}
	if (blob->data_ro || blob->md_ro) {
		return err_set(err, -EINVAL, "%s is read-only", CALLED(blob));
	}
	return volume_is_idle(blob, err);
}

static void
run(struct md_op *op)
{
	struct group *g = CONTAINER_OF(op, struct group, op);
	int rc = md_op_refused(g->store, &g->err);

	for (unsigned i = 0; rc == 0 && i < g->count; i++) {
		rc = may_snapshot(g->members[i].original, &g->err);
	}
	for (unsigned i = 0; rc == 0 && i < g->count; i++) {
		rc = make_snapshot(g, &g->members[i]);
	}
	for (unsigned i = 0; rc == 0 && i < g->count; i++) {
		merge_disturb(g->members[i].original);
		rc = put_member(g, i);
	}
	if (rc != 0) {
		fail(g, rc);
	} else if (g->body.count > 0) {
		md_tx_write(&g->body, true, body_written);
	} else if (g->firsts.count > 0) {
		md_tx_write(&g->firsts, true, firsts_written);
	} else {
		md_tx_write(&g->intent, true, intent_written);
	}
}

static void
gated(struct blob_wait *wait)
{
	struct group *g = CONTAINER_OF(wait, struct member, wait)->group;

	if (--g->waiting == 0) {
		md_op_start(g->store, &g->op, "snapshot", run);
	}
}

/* What needs no turn to be seen. */
static int
may_ask(const struct blob_snapshot *asked, unsigned count, struct err *err)
{
	int rc = 0;

	if (count > SNAPSHOT_GROUP_MAX) {
		return err_set(err, -EINVAL, "a group of %u volumes; %u may be in one", count, SNAPSHOT_GROUP_MAX);
	}
	for (unsigned i = 0; rc == 0 && i < count; i++) {
		size_t bytes = 0;

		rc = may_snapshot(asked[i].blob, err);
		for (unsigned k = 0; k < i; k++) {
			if (asked[k].blob == asked[i].blob) {
				rc = err_set(err, -EINVAL, "%s is in the group twice", CALLED(asked[i].blob));
			}
		}
		for (unsigned k = 0; k < asked[i].num_xattrs; k++) {
			bytes += 9 + strlen(asked[i].xattrs[k].name) + asked[i].xattrs[k].bytes;
		}
		if (bytes > USER_XATTR_BYTES_MAX) {
			rc = err_set(err, -EMSGSIZE, "the xattrs of a snapshot have %zu bytes, %u is the most", bytes,
				     USER_XATTR_BYTES_MAX);
		}
	}
	return rc;
}

void
blob_snapshot(struct blob_snapshot *snapshots, unsigned count, blob_done_fn done, void *ctx)
{
	struct err err = ERR_NONE;
	struct group *g;
	int rc;

	CHECK(count > 0);
	rc = may_ask(snapshots, count, &err);
	if (rc != 0) {
		store_answer(snapshots[0].blob->store, done, ctx, rc, &err);
		return;
	}
	g = calloc(1, sizeof(*g));
	if (g == NULL || (g->members = calloc(count, sizeof(*g->members))) == NULL) {
		free(g);
		store_answer(snapshots[0].blob->store, done, ctx, -ENOMEM, NULL);
		return;
	}
	g->store = snapshots[0].blob->store;
	g->asked = snapshots;
	g->count = g->waiting = count;
	g->done = done;
	g->ctx = ctx;
	md_tx_init(&g->body, g->store);
	md_tx_init(&g->firsts, g->store);
	md_tx_init(&g->intent, g->store);
	md_tx_init(&g->commit, g->store);
	md_tx_init(&g->clean, g->store);
	store_background_begin(g->store);
	for (unsigned i = 0; i < count; i++) {
		g->members[i].group = g;
		g->members[i].original = snapshots[i].blob;
		snapshots[i].blob->opens++;
	}
	for (unsigned i = 0; i < count; i++) {
		gate_close(snapshots[i].blob, BLOB_GATE_WRITES, &g->members[i].wait, gated);
	}
}
