/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Blobs come, change and go: create and clone, xattrs, read-only, delete. (Their size: resize.c.)
 *
 * Invariants
 *  1. What is asked is checked in the operation's turn, when nothing else changes metadata: an answer describes the state
 *     the change was made in.
 *  2. A blob comes into being by its first page; before that everything it has can be given back. It goes by that page, zeroed;
 *     what it had is given back after that (reap.c).
 *  3. A large thick blob is filled a piece an operation, so that what writes allocate is committed in between.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

#define FILL_EXTENTS 32u /* of one piece of a thick blob */

int
volume_error(const struct blob *blob, int code, struct err *err)
{
	switch (code) {
	case -ENOSPC:
		return err_set(err, code, "%s: %s", CALLED(blob),
			       blob->store->free_pages == 0 ? "no metadata pages are free" : "there is no space on the device");
	case -EMSGSIZE:
		return err_set(err, code, "%s: an xattr is larger than a metadata page holds", CALLED(blob));
	case -ENOMEM:
		return err_set(err, code, "%s: no memory", CALLED(blob));
	default:
		return err_set(err, code, "%s: its metadata could not be written: %s", CALLED(blob), strerror(-code));
	}
}

int
volume_is_there(const struct blob *blob, struct err *err)
{
	if (blob->damage.code != 0) {
		return err_set(err, -EILSEQ, "%s: %s", CALLED(blob), err_text(&blob->damage));
	}
	if (blob->deleted || blob->gone) {
		return err_set(err, -ENOENT, "%s was deleted", CALLED(blob));
	}
	return 0;
}

int
volume_is_idle(const struct blob *blob, struct err *err)
{
	return blob->busy ? err_set(err, -EBUSY, "another operation on %s is under way", CALLED(blob)) : 0;
}

/* Copies; -ENOMEM, -EMSGSIZE. */
static int
copy_xattrs(struct list *ret, const struct blob_xattr *xattrs, unsigned num_xattrs)
{
	list_init(ret);
	for (unsigned i = 0; i < num_xattrs; i++) {
		size_t name_bytes = strlen(xattrs[i].name);
		struct blob_own_xattr *x;

		if (name_bytes == 0 || name_bytes + xattrs[i].bytes > BLOB_XATTR_BYTES_MAX) {
			own_xattrs_free(ret);
			return -EMSGSIZE;
		}
		x = own_xattr_create(false, xattrs[i].name, name_bytes, xattrs[i].value, xattrs[i].bytes);
		if (x == NULL) {
			own_xattrs_free(ret);
			return -ENOMEM;
		}
		list_append(ret, &x->link);
	}
	return 0;
}

static int
put_xattrs(struct md_image *image, const struct list *xattrs)
{
	const struct blob_own_xattr *x;
	int rc = 0;

	LIST_FOREACH(x, xattrs, link) {
		if (rc == 0) {
			rc = md_image_set_xattr(image, x->internal, x->name, x->value, x->bytes);
		}
	}
	return rc;
}

/* ---- Create and clone ---- */

struct create {
	struct md_op op;
	struct md_persist persist;
	struct blob_store *store;
	struct blob *blob;
	struct blob *parent; /* of a clone; held open */
	struct blob_external *external;
	struct list xattrs;
	struct blob_flags flags;
	uint64_t num_clusters;
	uint64_t filled;   /* extents of a thick blob */
	uint64_t reserved; /* clusters that were not taken yet */
	void *external_id;
	size_t external_id_bytes;
	int early; /* it failed before it began */
	blob_made_fn done;
	void *ctx;
	struct err err;
};

static void
create_answer(struct create *c, int status)
{
	struct blob_store *store = c->store;
	struct blob *blob = status == 0 ? c->blob : NULL;

	if (c->parent != NULL) {
		c->parent->opens--;
	}
	md_op_end(&c->op);
	c->done(c->ctx, blob, status, &c->err);
	own_xattrs_free(&c->xattrs);
	free(c->external_id);
	free(c);
	alloc_watch(store);
	merge_kick(store);
	store_background_end(store);
}

/* Gives back all that was taken. */
static void
create_undo(struct create *c)
{
	struct blob *blob = c->blob;
	struct blob_map *map = atomic_load_explicit(&blob->head.map, memory_order_relaxed);

	for (uint64_t i = 0; i < map->num_extents; i++) {
		struct blob_extent *e = blob_map_extent(map, i);

		if (e != NULL) {
			alloc_put_back_extent(c->store, e, 0);
		}
	}
	if (c->reserved > 0) {
		alloc_unreserve(c->store, c->reserved);
	}
	alloc_free_page(c->store, blob->pages[0]);
	store_free_blob(blob);
	external_detach(c->store, c->external);
}

static void
create_failed(struct create *c, int status)
{
	if (c->err.code == 0) {
		volume_error(c->blob, status, &c->err);
	}
	md_persist_release(&c->persist);
	create_undo(c);
	create_answer(c, status);
}

static void
created(struct md_persist *p, int status)
{
	struct create *c = CONTAINER_OF(p, struct create, persist);
	struct blob *blob = c->blob;

	if (status != 0) {
		create_failed(c, status);
		return;
	}
	md_persist_release(p);
	blob_set_below(blob, c->parent, c->external);
	if (c->parent != NULL) {
		list_append(&c->parent->clones, &blob->clone_link);
		c->parent->snapshot = true;
	}
	blob->busy = false;
	create_answer(c, 0);
}

/* One extent of a thick blob; 0 or a negative errno. */
static int
fill_extent(struct create *c, uint64_t index)
{
	struct blob_map *map = atomic_load_explicit(&c->blob->head.map, memory_order_relaxed);
	uint64_t n = MIN(map->num_clusters - index * BLOB_EXTENT_CLUSTERS, (uint64_t)BLOB_EXTENT_CLUSTERS);
	struct blob_extent *e = blob_map_make_extent(map, index);
	uint32_t page, near = 0;

	if (e == NULL) {
		return -ENOMEM;
	}
	for (uint64_t i = 0; i < n; i++) {
		near = alloc_take(c->store, near);
		atomic_store_explicit(&e->cluster[i], near, memory_order_relaxed);
	}
	c->reserved -= n;
	if (!blob_has_table(c->blob)) {
		return 0;
	}
	page = alloc_page(c->store);
	if (page == BLOB_PAGE_NONE) {
		return -ENOSPC;
	}
	e->page = page;
	return md_put_extent(&c->persist.body, c->blob, e, index, page);
}

static void create_fill(struct md_op *op);

static void
piece_written(struct md_tx *tx, int status)
{
	struct create *c = CONTAINER_OF(tx, struct create, persist.body);

	if (status != 0) {
		create_failed(c, status);
		return;
	}
	md_op_end(&c->op);
	md_op_start(c->store, &c->op, "create", create_fill);
}

/* The next piece; the last one with the commit. */
static void
create_fill(struct md_op *op)
{
	struct create *c = CONTAINER_OF(op, struct create, op);
	struct blob_map *map = atomic_load_explicit(&c->blob->head.map, memory_order_relaxed);
	int rc = md_op_refused(c->store, &c->err);

	for (unsigned n = 0; rc == 0 && c->reserved > 0 && n < FILL_EXTENTS; n++) {
		rc = fill_extent(c, c->filled);
		c->filled++;
	}
	if (rc != 0) {
		create_failed(c, rc);
	} else if (c->filled < map->num_extents && c->reserved > 0) {
		md_tx_write(&c->persist.body, true, piece_written);
	} else {
		md_persist_run(&c->persist, created);
	}
}

/* What the image has besides the map. */
static int
describe(struct create *c)
{
	struct md_image *image = &c->persist.image;
	int rc = put_xattrs(image, &c->xattrs);

	if (rc == 0 && c->parent != NULL) {
		rc = md_image_set_xattr(image, true, BLOB_XATTR_PARENT, &c->parent->id, sizeof(c->parent->id));
	}
	if (rc == 0 && c->external_id != NULL) {
		rc = md_image_set_xattr(image, true, BLOB_XATTR_EXTERNAL, c->external_id, c->external_id_bytes);
	}
	if (rc == 0 && c->external_id != NULL) {
		c->external = external_attach(c->blob, c->external_id, c->external_id_bytes);
		rc = c->external == NULL ? -ENOMEM : 0;
	}
	return rc;
}

static int
may_create(struct create *c)
{
	int rc = c->early != 0 ? c->early : md_op_refused(c->store, &c->err);

	if (rc == 0 && c->parent != NULL) {
		c->num_clusters = blob_num_clusters(c->parent);
		if (c->parent->deleted || c->parent->gone) {
			return err_set(&c->err, -ENOENT, "%s was deleted", CALLED(c->parent));
		}
		if (!c->parent->data_ro) {
			return err_set(&c->err, -EINVAL, "%s is not read-only", CALLED(c->parent));
		}
	}
	if (rc == -EMSGSIZE) {
		err_set(&c->err, rc, "an xattr without a name, or larger than a metadata page holds");
	}
	return rc;
}

static void
create_run(struct md_op *op)
{
	struct create *c = CONTAINER_OF(op, struct create, op);
	bool thin = (c->flags.invalid & BLOB_INVALID_THIN) != 0;
	struct blob_map *map = NULL;
	uint32_t page = BLOB_PAGE_NONE;
	int rc = may_create(c);

	if (rc == 0 && !thin) {
		rc = alloc_reserve(c->store, c->num_clusters);
		if (rc != 0 && alloc_coming(c->store)) {
			alloc_retry(op);
			return;
		}
		c->reserved = rc == 0 ? c->num_clusters : 0;
		if (rc != 0) {
			err_set(&c->err, rc, "%" PRIu64 " clusters are needed, %" PRIu64 " are free", c->num_clusters,
				(uint64_t)atomic_load(&c->store->free_clusters));
		}
	}
	if (rc == 0) {
		page = alloc_page(c->store);
		rc = page == BLOB_PAGE_NONE ? err_set(&c->err, -ENOSPC, "no metadata pages are free") : 0;
	}
	if (rc == 0) {
		map = blob_map_create(c->num_clusters, NULL);
		c->blob = map == NULL ? NULL : store_new_blob(c->store, BLOB_ID_BASE + page);
		rc = c->blob == NULL ? err_set(&c->err, -ENOMEM, "no memory for a blob") : 0;
	}
	if (rc != 0) {
		if (page != BLOB_PAGE_NONE) {
			alloc_free_page(c->store, page);
		}
		if (c->reserved > 0) {
			alloc_unreserve(c->store, c->reserved);
		}
		blob_map_free(map, false);
		create_answer(c, rc);
		return;
	}
	c->blob->busy = true;
	c->blob->flags = c->flags;
	blob_map_free(atomic_load_explicit(&c->blob->head.map, memory_order_relaxed), true);
	atomic_store_explicit(&c->blob->head.map, map, memory_order_release);
	atomic_store_explicit(&c->blob->allocated, c->reserved, memory_order_relaxed);
	rc = md_persist_init(&c->persist, c->blob);
	if (rc == 0) {
		rc = describe(c);
	}
	if (rc != 0) {
		create_failed(c, rc);
		return;
	}
	create_fill(op);
}

/* NULL: it is answered already. */
static struct create *
create_alloc(struct blob_store *store, const struct blob_xattr *xattrs, unsigned num_xattrs, blob_made_fn done, void *ctx)
{
	struct create *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		store_answer_made(store, done, ctx, -ENOMEM, NULL);
		return NULL;
	}
	c->store = store;
	c->done = done;
	c->ctx = ctx;
	c->early = copy_xattrs(&c->xattrs, xattrs, num_xattrs);
	store_background_begin(store);
	return c;
}

void
blob_create(struct blob_store *store, const struct blob_options *options, blob_made_fn done, void *ctx)
{
	struct create *c = create_alloc(store, options->xattrs, options->num_xattrs, done, ctx);

	if (c == NULL) {
		return;
	}
	c->num_clusters = options->num_clusters;
	c->flags.md_ro = (uint64_t)options->clear & BLOB_MD_RO_CLEAR_METHOD;
	c->flags.invalid = (options->thin ? BLOB_INVALID_THIN : 0) | (options->extent_rle ? 0 : BLOB_INVALID_EXTENT_TABLE);
	if (options->num_clusters > UINT32_MAX - 1) { /* what an extent page can say */
		c->early = err_set(&c->err, -EINVAL, "%" PRIu64 " clusters, and %" PRIu32 " are the most that a volume can have",
				   options->num_clusters, UINT32_MAX - 1);
	}
	if (options->external_id != NULL && c->early == 0) {
		c->flags.invalid |= BLOB_INVALID_EXTERNAL | BLOB_INVALID_THIN;
		c->external_id_bytes = options->external_id_bytes;
		if (options->external_id_bytes == 0 ||
		    options->external_id_bytes > BLOB_XATTR_BYTES_MAX - sizeof(BLOB_XATTR_EXTERNAL)) {
			c->early = err_set(&c->err, -EINVAL, "an external snapshot's id of %zu bytes",
					   options->external_id_bytes);
		} else if ((c->external_id = malloc(options->external_id_bytes)) == NULL) {
			c->early = -ENOMEM;
		} else {
			memcpy(c->external_id, options->external_id, options->external_id_bytes);
		}
	}
	md_op_start(store, &c->op, "create", create_run);
}

void
blob_clone(struct blob *snapshot, const struct blob_xattr *xattrs, unsigned num_xattrs, blob_made_fn done, void *ctx)
{
	struct create *c = create_alloc(snapshot->store, xattrs, num_xattrs, done, ctx);

	if (c == NULL) {
		return;
	}
	c->parent = snapshot;
	snapshot->opens++;
	c->flags.invalid = BLOB_INVALID_THIN | (snapshot->flags.invalid & BLOB_INVALID_EXTENT_TABLE);
	if (snapshot->damage.code != 0) {
		c->early = err_set(&c->err, -EILSEQ, "%s: %s", CALLED(snapshot), err_text(&snapshot->damage));
	}
	md_op_start(snapshot->store, &c->op, "clone", create_run);
}

/* ---- Xattrs, read-only ---- */

struct change {
	struct md_op op;
	struct md_persist persist;
	struct blob *blob;
	struct blob_wait wait;
	struct list xattrs;
	char *remove;   /* this xattr goes */
	bool read_only; /* it becomes so */
	blob_done_fn done;
	void *ctx;
	struct err err;
};

static void
change_answer(struct change *c, int status)
{
	struct blob_store *store = c->blob->store;

	if (c->read_only) {
		gate_open(c->blob);
	}
	c->blob->opens--;
	md_op_end(&c->op);
	c->done(c->ctx, status, &c->err);
	own_xattrs_free(&c->xattrs);
	free(c->remove);
	free(c);
	merge_kick(store);
	store_background_end(store);
}

static void
changed(struct md_persist *p, int status)
{
	struct change *c = CONTAINER_OF(p, struct change, persist);

	md_persist_release(p);
	if (status != 0) {
		volume_error(c->blob, status, &c->err);
	} else if (c->read_only) {
		atomic_store_explicit(&c->blob->data_ro, true, memory_order_relaxed);
	}
	change_answer(c, status);
}

static int
may_change(struct change *c)
{
	int rc = md_op_refused(c->blob->store, &c->err);

	if (rc == 0) {
		rc = volume_is_there(c->blob, &c->err);
	}
	if (rc == 0 && c->blob->md_ro) {
		rc = err_set(&c->err, -EPERM, "the metadata of %s is read-only", CALLED(c->blob));
	}
	if (rc == 0 && c->remove != NULL && own_xattr_find(&c->blob->xattrs, false, c->remove) == NULL) {
		rc = err_set(&c->err, -ENOENT, "%s has no xattr %s", CALLED(c->blob), c->remove);
	}
	return rc;
}

static void
change_run(struct md_op *op)
{
	struct change *c = CONTAINER_OF(op, struct change, op);
	struct md_image *image = &c->persist.image;
	int rc = may_change(c);

	if (rc != 0) {
		change_answer(c, rc);
		return;
	}
	rc = md_persist_init(&c->persist, c->blob);
	if (rc == 0) {
		rc = put_xattrs(image, &c->xattrs);
	}
	if (rc != 0) {
		changed(&c->persist, rc);
		return;
	}
	if (c->remove != NULL) {
		md_image_remove_xattr(image, false, c->remove);
	}
	if (c->read_only) {
		image->flags.data_ro |= BLOB_DATA_RO_READ_ONLY;
	}
	md_persist_run(&c->persist, changed);
}

static struct change *
change_alloc(struct blob *blob, blob_done_fn done, void *ctx)
{
	struct change *c = calloc(1, sizeof(*c));

	if (c == NULL) {
		store_answer(blob->store, done, ctx, -ENOMEM, NULL);
		return NULL;
	}
	c->blob = blob;
	c->done = done;
	c->ctx = ctx;
	list_init(&c->xattrs);
	blob->opens++;
	store_background_begin(blob->store);
	return c;
}

void
blob_set_xattrs(struct blob *blob, const struct blob_xattr *xattrs, unsigned num_xattrs, blob_done_fn done, void *ctx)
{
	struct err err = ERR_NONE;
	struct list copies;
	struct change *c;
	int rc = copy_xattrs(&copies, xattrs, num_xattrs);

	if (rc != 0) {
		store_answer(blob->store, done, ctx, volume_error(blob, rc, &err), &err);
		return;
	}
	c = change_alloc(blob, done, ctx);
	if (c == NULL) {
		own_xattrs_free(&copies);
		return;
	}
	list_splice(&c->xattrs, &copies);
	md_op_start(blob->store, &c->op, "set xattrs", change_run);
}

void
blob_remove_xattr(struct blob *blob, const char *name, blob_done_fn done, void *ctx)
{
	char *copy = strdup(name);
	struct change *c;

	if (copy == NULL) {
		store_answer(blob->store, done, ctx, -ENOMEM, NULL);
		return;
	}
	c = change_alloc(blob, done, ctx);
	if (c == NULL) {
		free(copy);
		return;
	}
	c->remove = copy;
	md_op_start(blob->store, &c->op, "remove xattr", change_run);
}

static void
read_only_gated(struct blob_wait *wait)
{
	struct change *c = CONTAINER_OF(wait, struct change, wait);

	md_op_start(c->blob->store, &c->op, "set read-only", change_run);
}

void
blob_set_read_only(struct blob *blob, blob_done_fn done, void *ctx)
{
	struct change *c = change_alloc(blob, done, ctx);

	if (c == NULL) {
		return;
	}
	c->read_only = true;
	gate_close(blob, BLOB_GATE_WRITES, &c->wait, read_only_gated);
}

/* ---- Delete ---- */

static void
erase_answer(struct volume_erase *e, int status)
{
	md_tx_release(&e->tx);
	reap_free(e->reap);
	e->done(e->ctx, status);
}

static void
erase_deferred(struct defer *d)
{
	struct volume_erase *e = CONTAINER_OF(d, struct volume_erase, defer);

	erase_answer(e, e->status);
}

static void
erased(struct md_tx *tx, int status)
{
	struct volume_erase *e = CONTAINER_OF(tx, struct volume_erase, tx);
	struct blob *blob = e->blob, *parent = below_parent(blob_below(blob));
	struct blob_external *external = below_external(blob_below(blob));
	struct blob_store *store = blob->store;

	if (status != 0) {
		blob->gone = false;
		if (tx->wrote) {
			store_break(store, status, "the first metadata page of a blob that is deleted");
		}
		erase_answer(e, status);
		return;
	}
	blob_set_below(blob, NULL, NULL);
	store_unlink_blob(blob);
	for (uint32_t i = 0; i < blob->num_pages; i++) {
		alloc_free_page(store, blob->pages[i]);
	}
	blob->num_pages = 0;
	external_detach(store, external);
	reap_blob(e->reap, blob);
	e->reap = NULL;
	if (parent != NULL) {
		merge_consider(parent);
	}
	erase_answer(e, 0);
}

void
volume_erase(struct volume_erase *e, struct blob *blob, void (*done)(void *ctx, int status), void *ctx)
{
	*e = (struct volume_erase){.blob = blob, .done = done, .ctx = ctx};
	md_tx_init(&e->tx, blob->store);
	e->reap = reap_create(blob->store, blob_clear_method(blob));
	if (e->reap == NULL || md_tx_page(&e->tx, blob->pages[0]) == NULL) {
		e->status = -ENOMEM;
		thread_defer(&e->defer, erase_deferred);
		return;
	}
	merge_disturb(blob);
	blob->gone = true;
	md_tx_write(&e->tx, true, erased);
}

struct delete {
	struct md_op op;
	struct md_persist persist;
	struct volume_erase erase;
	struct blob *blob;
	uint64_t id;
	struct list hidden;
	blob_done_fn done;
	void *ctx;
	struct err err;
};

static void
delete_answer(struct delete *d, int status)
{
	struct blob_store *store = d->op.store;

	md_op_end(&d->op);
	d->done(d->ctx, status, &d->err);
	own_xattrs_free(&d->hidden);
	free(d);
	merge_kick(store);
	store_background_end(store);
}

/* The blob is gone, whether that is written or not: unloading writes it again. */
static void
super_forgotten(void *ctx, int status)
{
	(void)status;
	delete_answer(ctx, 0);
}

static void
delete_erased(void *ctx, int status)
{
	struct delete *d = ctx;
	struct blob_store *store = d->op.store;
	struct blob_super super;

	if (status != 0) {
		d->blob->busy = false;
		volume_error(d->blob, status, &d->err);
	} else if (d->id == store->super.super_blob) { /* before its id is another's */
		store->super.super_blob = BLOB_ID_NONE;
		super = store->super;
		super.clean = false;
		super_write(store, &super, false, super_forgotten, d);
		return;
	}
	delete_answer(d, status);
}

static void
delete_hidden(struct md_persist *p, int status)
{
	struct delete *d = CONTAINER_OF(p, struct delete, persist);

	md_persist_release(p);
	d->blob->busy = false;
	if (status != 0) {
		volume_error(d->blob, status, &d->err);
	} else {
		d->blob->deleted = true;
		merge_consider(d->blob);
	}
	delete_answer(d, status);
}

static void
delete_run(struct md_op *op)
{
	struct delete *d = CONTAINER_OF(op, struct delete, op);
	struct blob *blob = d->blob;
	int rc = md_op_refused(op->store, &d->err);

	if (rc == 0 && blob->opens > 0) {
		rc = err_set(&d->err, -EBUSY, "%s is open", CALLED(blob));
	}
	if (rc == 0 && blob->gates > 0) { /* a merge is about to end; nobody has a channel, so it does at once */
		md_op_end(op);
		md_op_start(blob->store, op, "delete", delete_run);
		return;
	}
	if (rc != 0) {
		blob->busy = false;
		delete_answer(d, rc);
		return;
	}
	if (list_empty(&blob->clones)) {
		volume_erase(&d->erase, blob, delete_erased, d);
		return;
	}
	rc = md_persist_init(&d->persist, blob);
	if (rc == 0) {
		rc = put_xattrs(&d->persist.image, &d->hidden);
	}
	if (rc == 0) {
		rc = md_image_set_xattr(&d->persist.image, true, BLOB_XATTR_DELETED, "", 0);
	}
	if (rc != 0) {
		delete_hidden(&d->persist, rc);
		return;
	}
	md_persist_run(&d->persist, delete_hidden);
}

static int
may_delete(const struct blob *blob, struct err *err)
{
	int rc = volume_is_there(blob, err);

	if (rc != 0) {
		return rc;
	}
	if (blob->opens > 0) {
		return err_set(err, -EBUSY, "%s is open", CALLED(blob));
	}
	return volume_is_idle(blob, err);
}

void
blob_delete(struct blob *blob, const struct blob_xattr *hidden, unsigned num_hidden, blob_done_fn done, void *ctx)
{
	struct err err = ERR_NONE;
	struct list copies;
	struct delete *d;
	int rc = may_delete(blob, &err);

	if (rc == 0) {
		rc = copy_xattrs(&copies, hidden, num_hidden);
		if (rc != 0) {
			volume_error(blob, rc, &err);
		}
	}
	if (rc != 0) {
		store_answer(blob->store, done, ctx, rc, &err);
		return;
	}
	d = calloc(1, sizeof(*d));
	if (d == NULL) {
		own_xattrs_free(&copies);
		store_answer(blob->store, done, ctx, -ENOMEM, NULL);
		return;
	}
	d->blob = blob;
	d->id = blob->id;
	d->done = done;
	d->ctx = ctx;
	list_init(&d->hidden);
	list_splice(&d->hidden, &copies);
	blob->busy = true;
	store_background_begin(blob->store);
	md_op_start(blob->store, &d->op, "delete", delete_run);
}
