/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What was under way when the power went is decided, when all blobs have been read.
 *
 *	intents (BERTHGROUP)    each original of the group becomes a clone of its snapshot, if it is not yet
 *	SNAPTMP, SNAPRM = id    the blob `id` is a clone of the snapshot: the snapshot stays, the mark goes (a snapshot with
 *	                        BERTHDEL keeps it: its merge is taken up again); it is not: the snapshot goes
 *
 * Invariants
 *  1. Decided first, in memory; recover_write() brings it to the disk in an order that leaves the same decisions to be made
 *     after each write, before anybody else may change anything: what was decided by a blob's parent must not meet a new parent.
 *     A store that cannot be written has the decisions in memory only.
 *  2. Of a damaged blob nothing is decided. A snapshot whose other half does not exist stays: nothing that may be somebody's
 *     data is thrown away.
 * Context: the owner.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

struct fixed_extent {
	struct blob *blob;
	uint64_t index;
};

struct blob_recovery {
	struct blob_store *store;
	struct md_op op;
	struct md_tx tx;
	struct md_persist persist;
	struct blob **dropped; /* until their maps have been looked at */
	uint32_t *zero; /* first pages to be zeroed */
	struct blob **changed;      /* to be written, in this order */
	struct fixed_extent *fixed; /* to be written before these */
	unsigned num_dropped, num_zero, num_changed, num_fixed, next;
	void (*done)(void *ctx);
	void *ctx;
};

/* Room for one more; false: memory. Grows at powers of two. */
static bool
room(void *array, unsigned count, size_t item_bytes)
{
	void **p = array, *grown;

	if (count >= 8 ? (count & (count - 1)) != 0 : count != 0) {
		return true;
	}
	grown = realloc(*p, MAX(count * 2u, 8u) * item_bytes);
	if (grown != NULL) {
		*p = grown;
	}
	return grown != NULL;
}

static int
push_changed(struct blob_recovery *r, struct blob *blob)
{
	if (!room(&r->changed, r->num_changed, sizeof(struct blob *))) {
		return -ENOMEM;
	}
	r->changed[r->num_changed++] = blob;
	return 0;
}

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
	return blob != NULL && blob->damage.code == 0;
}

static void
remove_xattr(struct blob *blob, const char *name)
{
	own_xattr_free(own_xattr_find(&blob->xattrs, true, name));
}

static bool
is_clone_of(const struct blob *blob, const struct blob *parent)
{
	return (blob->flags.invalid & BLOB_INVALID_EXTERNAL) == 0 && own_xattr_id(&blob->xattrs, BLOB_XATTR_PARENT) == parent->id;
}

/* ---- Intents ---- */

/* The original becomes a clone of the snapshot, which has its map already. */
static int
make_clone(struct blob_recovery *r, struct blob *original, const struct blob *snapshot)
{
	struct blob_map *empty = blob_map_create(map_of(original)->num_clusters, NULL);
	struct blob_own_xattr *x = own_xattr_create(true, BLOB_XATTR_PARENT, strlen(BLOB_XATTR_PARENT), &snapshot->id,
						    sizeof(snapshot->id));

	if (empty == NULL || x == NULL) {
		blob_map_free(empty, false);
		own_xattr_free(x);
		return -ENOMEM;
	}
	blob_map_free(map_of(original), true);
	atomic_store_explicit(&original->head.map, empty, memory_order_relaxed);
	atomic_store_explicit(&original->allocated, 0, memory_order_relaxed);
	remove_xattr(original, BLOB_XATTR_EXTERNAL);
	remove_xattr(original, BLOB_XATTR_PARENT);
	list_append(&original->xattrs, &x->link);
	original->flags.invalid &= ~BLOB_INVALID_EXTERNAL;
	original->flags.invalid |= BLOB_INVALID_THIN;
	return push_changed(r, original);
}

/* Whether the pair is still to be carried out. */
static bool
pending_pair(struct blob_store *store, const struct snapshot_pair *pair)
{
	struct blob *original = blob_find(store, pair->original), *snapshot = blob_find(store, pair->snapshot);

	return healthy(original) && healthy(snapshot) && original != snapshot && !is_clone_of(original, snapshot) &&
	       own_xattr_id(&snapshot->xattrs, BLOB_XATTR_SNAPSHOT_PENDING) == original->id;
}

static int
carry_out_intent(struct blob_recovery *r, struct blob *carrier, const struct blob_own_xattr *x)
{
	struct snapshot_pair pairs[SNAPSHOT_GROUP_MAX];
	int n = snapshot_intent_decode(x->value, x->bytes, pairs), rc = 0;

	if (n < 0) {
		blob_set_damage(carrier, "the group of snapshots that it speaks of does not make sense");
		return 0;
	}
	for (int i = 0; i < n && rc == 0; i++) {
		if (pending_pair(r->store, &pairs[i])) {
			rc = make_clone(r, blob_find(r->store, pairs[i].original), blob_find(r->store, pairs[i].snapshot));
		}
	}
	return rc;
}

static int
carry_out_intents(struct blob_recovery *r)
{
	struct blob *blob;
	int rc = 0;

	LIST_FOREACH(blob, &r->store->blobs, link) {
		const struct blob_own_xattr *x = own_xattr_find(&blob->xattrs, true, BLOB_XATTR_GROUP);

		if (x != NULL && healthy(blob)) {
			rc = carry_out_intent(r, blob, x);
		}
		if (rc != 0) {
			break;
		}
	}
	return rc;
}

/* ---- Snapshots that were being made, or merged ---- */

/* The snapshot's clusters that its clone was given before the clone's chain said so are the snapshot's. */
static int
take_back(struct blob_recovery *r, struct blob *snapshot, struct blob *clone)
{
	struct blob_map *from = map_of(snapshot), *to = map_of(clone);

	for (uint64_t i = 0; i < MIN(from->num_extents, to->num_extents); i++) {
		struct blob_extent *a = blob_map_extent(from, i), *b = blob_map_extent(to, i);
		bool shared = false;

		for (unsigned k = 0; a != NULL && b != NULL && k < BLOB_EXTENT_CLUSTERS; k++) {
			if (b->cluster[k] != 0 && b->cluster[k] == a->cluster[k]) {
				b->cluster[k] = 0;
				clone->allocated--;
				shared = true;
			}
		}
		if (!shared) {
			continue;
		}
		if (b->page == 0 || b->page == a->page) { /* the chain says it */
			b->page = 0;
			if (push_changed(r, clone) != 0) {
				return -ENOMEM;
			}
		} else {
			if (!room(&r->fixed, r->num_fixed, sizeof(struct fixed_extent))) {
				return -ENOMEM;
			}
			r->fixed[r->num_fixed++] = (struct fixed_extent){clone, i};
		}
	}
	return 0;
}

static int
keep_snapshot(struct blob_recovery *r, struct blob *snapshot, struct blob *clone)
{
	if (clone != NULL && take_back(r, snapshot, clone) != 0) {
		return -ENOMEM;
	}
	remove_xattr(snapshot, BLOB_XATTR_REMOVAL_PENDING);
	remove_xattr(snapshot, BLOB_XATTR_SNAPSHOT_PENDING);
	remove_xattr(snapshot, BLOB_XATTR_GROUP);
	snapshot->flags.data_ro |= BLOB_DATA_RO_READ_ONLY;
	snapshot->data_ro = true;
	return push_changed(r, snapshot);
}

static int
drop_snapshot(struct blob_recovery *r, struct blob *snapshot)
{
	if (!room(&r->dropped, r->num_dropped, sizeof(struct blob *)) || !room(&r->zero, r->num_zero, sizeof(uint32_t))) {
		return -ENOMEM;
	}
	r->dropped[r->num_dropped++] = snapshot;
	r->zero[r->num_zero++] = page_of(snapshot);
	snapshot->gone = true;
	store_unlink_blob(snapshot);
	return 0;
}

static int
decide(struct blob_recovery *r, struct blob *snapshot, const char *mark)
{
	struct blob *other = blob_find(r->store, own_xattr_id(&snapshot->xattrs, mark));

	if (other == snapshot || (other != NULL && !healthy(other))) {
		blob_set_damage(snapshot,
				"it was being made or merged, and blob 0x%" PRIx64
				", which would tell how far it came, is damaged",
				other->id);
		return 0;
	}
	if (other != NULL && !is_clone_of(other, snapshot)) {
		return drop_snapshot(r, snapshot);
	}
	if (snapshot->deleted && strcmp(mark, BLOB_XATTR_REMOVAL_PENDING) == 0) {
		return 0; /* its merge is taken up again */
	}
	return keep_snapshot(r, snapshot, other);
}

static int
decide_all(struct blob_recovery *r)
{
	struct blob *blob, *next;
	int rc = 0;

	LIST_FOREACH_SAFE(blob, next, &r->store->blobs, link) {
		blob->deleted = own_xattr_find(&blob->xattrs, true, BLOB_XATTR_DELETED) != NULL;
		if (!healthy(blob)) {
			continue;
		}
		if (own_xattr_find(&blob->xattrs, true, BLOB_XATTR_REMOVAL_PENDING) != NULL) {
			rc = decide(r, blob, BLOB_XATTR_REMOVAL_PENDING);
		} else if (own_xattr_find(&blob->xattrs, true, BLOB_XATTR_SNAPSHOT_PENDING) != NULL) {
			rc = decide(r, blob, BLOB_XATTR_SNAPSHOT_PENDING);
		}
		if (rc != 0) {
			break;
		}
	}
	return rc;
}

/* ---- To the disk ---- */

int
recover_decide(struct blob_store *store)
{
	struct blob_recovery *r = calloc(1, sizeof(*r));
	int rc;

	if (r == NULL) {
		return -ENOMEM;
	}
	r->store = store;
	store->recovery = r;
	md_tx_init(&r->tx, store);
	rc = carry_out_intents(r);
	return rc != 0 ? rc : decide_all(r);
}

struct blob *
recover_dropped(const struct blob_store *store, unsigned i)
{
	return i < store->recovery->num_dropped ? store->recovery->dropped[i] : NULL;
}

static void
forget_dropped(struct blob_recovery *r)
{
	while (r->num_dropped > 0) {
		store_destroy_blob(r->dropped[--r->num_dropped]);
	}
}

void
recover_release(struct blob_store *store)
{
	struct blob_recovery *r = store->recovery;

	if (r == NULL) {
		return;
	}
	forget_dropped(r);
	md_tx_release(&r->tx);
	free(r->dropped);
	free(r->zero);
	free(r->changed);
	free(r->fixed);
	free(r);
	store->recovery = NULL;
}

static void
write_end(struct blob_recovery *r, int status)
{
	void (*done)(void *ctx) = r->done;
	void *ctx = r->ctx;

	if (status != 0) {
		store_break(r->store, status, "what was recovered");
	}
	md_op_end(&r->op);
	recover_release(r->store);
	done(ctx);
}

static void write_next(struct blob_recovery *r);

static void
blob_written(struct md_persist *p, int status)
{
	struct blob_recovery *r = CONTAINER_OF(p, struct blob_recovery, persist);

	md_persist_release(p);
	if (status != 0) {
		write_end(r, status);
		return;
	}
	write_next(r);
}

static void
write_next(struct blob_recovery *r)
{
	struct blob *blob;

	while (r->next < r->num_changed && !healthy(r->changed[r->next])) {
		r->next++;
	}
	if (r->next == r->num_changed) {
		write_end(r, 0);
		return;
	}
	blob = r->changed[r->next++];
	if (md_persist_init(&r->persist, blob) != 0) {
		md_persist_release(&r->persist);
		write_end(r, -ENOMEM);
		return;
	}
	md_persist_run(&r->persist, blob_written);
}

static void
zeroed(struct md_tx *tx, int status)
{
	struct blob_recovery *r = CONTAINER_OF(tx, struct blob_recovery, tx);

	if (status != 0) {
		write_end(r, status);
		return;
	}
	for (unsigned i = 0; i < r->num_zero; i++) {
		alloc_free_page(r->store, r->zero[i]);
	}
	r->num_zero = 0;
	write_next(r);
}

static void
fixed_written(struct md_tx *tx, int status)
{
	struct blob_recovery *r = CONTAINER_OF(tx, struct blob_recovery, tx);

	for (unsigned i = 0; i < r->num_zero && status == 0; i++) {
		status = md_tx_page(&r->tx, r->zero[i]) == NULL ? -ENOMEM : 0;
	}
	if (status != 0) {
		write_end(r, status);
		return;
	}
	md_tx_write(&r->tx, true, zeroed);
}

static void
write_run(struct md_op *op)
{
	struct blob_recovery *r = CONTAINER_OF(op, struct blob_recovery, op);
	int rc = 0;

	for (unsigned i = 0; i < r->num_fixed && rc == 0; i++) {
		struct blob *blob = r->fixed[i].blob;
		struct blob_extent *e = blob_map_extent(map_of(blob), r->fixed[i].index);

		if (healthy(blob)) {
			rc = md_put_extent(&r->tx, blob, e, r->fixed[i].index, e->page);
		}
	}
	if (rc != 0) {
		write_end(r, rc);
		return;
	}
	md_tx_write(&r->tx, false, fixed_written); /* flushed with what is zeroed: the two do not depend on each other */
}

void
recover_write(struct blob_store *store, void (*done)(void *ctx), void *ctx)
{
	struct blob_recovery *r = store->recovery;

	forget_dropped(r);
	if (r->num_zero + r->num_changed + r->num_fixed == 0 || md_op_refused(store, NULL) != 0) {
		recover_release(store);
		done(ctx);
		return;
	}
	r->done = done;
	r->ctx = ctx;
	md_op_start(store, &r->op, "recovery", write_run);
}
