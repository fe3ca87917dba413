/* SPDX-License-Identifier: BSD-3-Clause */
/* What is asked of a store and its blobs, and answered at once: everything is in memory. Context: the owner. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blob/internal.h"

#define NAME_MOST 80 /* bytes of a name that a message has */

/* ---- The store ---- */

void
blob_store_get_info(const struct blob_store *store, struct blob_store_info *ret_info)
{
	*ret_info = (struct blob_store_info){
		.total_clusters = store->total_clusters,
		.total_data_clusters = store->data_clusters,
		.most_clusters = store->clusters.room,
		.free_clusters = atomic_load_explicit(&store->free_clusters, memory_order_relaxed) +
				 limbo_clusters(store) + store->reaped,
		.cluster_bytes = store->super.cluster_bytes,
		.io_unit_bytes = store->super.io_unit_bytes,
		.md_page_bytes = store->super.md_page_bytes,
		.md_pages = store->super.md.length,
		.free_md_pages = store->free_pages,
		.blobs = store->num_blobs,
		.damaged = store->num_damaged,
		.readonly = store->readonly,
		.broken = store->broken,
		.recovered = store->recovered,
		.full = store->full,
	};
}

struct blob_dev *
blob_store_dev(const struct blob_store *store)
{
	return store->dev;
}

void *
blob_store_ctx(const struct blob_store *store)
{
	return store->options.ctx;
}

uint64_t
blob_store_super(const struct blob_store *store)
{
	return store->super.super_blob;
}

/* ---- Blobs ---- */

struct blob *
blob_find(struct blob_store *store, uint64_t id)
{
	if (id < BLOB_ID_BASE || id - BLOB_ID_BASE >= store->super.md.length) {
		return NULL;
	}
	return store->by_page[id - BLOB_ID_BASE];
}

struct blob *
blob_first(struct blob_store *store)
{
	return list_empty(&store->blobs) ? NULL : LIST_FIRST(&store->blobs, struct blob, link);
}

struct blob *
blob_next(struct blob *blob)
{
	return blob->link.next == &blob->store->blobs ? NULL : LIST_FIRST(&blob->link, struct blob, link);
}

int
blob_open(struct blob *blob, struct err *err)
{
	if (blob->damage.code != 0) {
		return err_set(err, -EILSEQ, "%s: %s", CALLED(blob), blob->damage.text);
	}
	if (blob->gone) {
		return err_set(err, -ENOENT, "%s is being deleted", CALLED(blob));
	}
	blob->opens++;
	return 0;
}

void
blob_close(struct blob *blob)
{
	CHECK(blob->opens > 0);
	if (--blob->opens == 0) {
		merge_consider(blob);
	}
}

/* Of what an xattr holds, which may be anything: so much of it is printed. -1: it is no text. */
static int
text_bytes(const struct blob_own_xattr *x)
{
	const char *text = x == NULL ? "" : x->value;
	int n = 0;

	while (x != NULL && n < x->bytes && text[n] != '\0') {
		if ((unsigned char)text[n] < ' ' || text[n] == 0x7f) {
			return -1;
		}
		n++;
	}
	return n > 0 && n <= NAME_MOST ? n : -1;
}

const char *
blob_called(const struct blob *blob, char buf[BLOB_CALLED_BYTES])
{
	const struct blob_own_xattr *x = own_xattr_find(&blob->xattrs, false, "name");
	int n = text_bytes(x);

	if (blob->id == blob->store->super.super_blob) { /* its name is the store's */
		snprintf(buf, BLOB_CALLED_BYTES, "the store's own blob");
	} else if (n > 0) {
		snprintf(buf, BLOB_CALLED_BYTES, "volume '%.*s'", n, (const char *)x->value);
	} else {
		snprintf(buf, BLOB_CALLED_BYTES, "blob %" PRIu64, blob->id);
	}
	return buf;
}

uint64_t
blob_id(const struct blob *blob)
{
	return blob->id;
}

struct blob_store *
blob_store_of(const struct blob *blob)
{
	return blob->store;
}

uint64_t
blob_num_clusters(const struct blob *blob)
{
	return atomic_load_explicit(&blob->head.map, memory_order_acquire)->num_clusters;
}

uint64_t
blob_allocated_clusters(const struct blob *blob)
{
	return atomic_load_explicit(&blob->allocated, memory_order_relaxed);
}

bool
blob_thin(const struct blob *blob)
{
	return (blob->flags.invalid & BLOB_INVALID_THIN) != 0;
}

bool
blob_readonly(const struct blob *blob)
{
	return blob->data_ro;
}

bool
blob_damaged(const struct blob *blob)
{
	return blob->damage.code != 0;
}

const struct err *
blob_damage(const struct blob *blob)
{
	return blob->damage.code != 0 ? &blob->damage : NULL;
}

bool
blob_deleted(const struct blob *blob)
{
	return blob->deleted;
}

enum blob_clear
blob_clear_method(const struct blob *blob)
{
	return (enum blob_clear)(blob->flags.md_ro & BLOB_MD_RO_CLEAR_METHOD);
}

struct blob *
blob_parent(const struct blob *blob)
{
	return below_parent(blob_below(blob));
}

struct blob *
blob_first_clone(const struct blob *blob)
{
	return list_empty(&blob->clones) ? NULL : LIST_FIRST(&blob->clones, struct blob, clone_link);
}

struct blob *
blob_next_clone(const struct blob *clone)
{
	const struct blob *parent = blob_parent(clone);

	if (parent == NULL || clone->clone_link.next == &parent->clones) {
		return NULL;
	}
	return LIST_FIRST(&clone->clone_link, struct blob, clone_link);
}

bool
blob_is_snapshot(const struct blob *blob)
{
	return blob->data_ro && (blob->snapshot || !list_empty(&blob->clones));
}

const void *
blob_external_id(const struct blob *blob, size_t *ret_bytes)
{
	const struct blob_own_xattr *x;

	if ((blob->flags.invalid & BLOB_INVALID_EXTERNAL) == 0) {
		return NULL;
	}
	x = own_xattr_find(&blob->xattrs, true, BLOB_XATTR_EXTERNAL);
	if (x == NULL) {
		return NULL;
	}
	*ret_bytes = x->bytes;
	return x->value;
}

bool
blob_degraded(const struct blob *blob)
{
	const struct blob *b = blob;
	uintptr_t below = blob_below(b);

	while (below_parent(below) != NULL) {
		b = below_parent(below);
		below = blob_below(b);
	}
	return below_external(below) != NULL && external_missing(below_external(below));
}

const void *
blob_get_xattr(const struct blob *blob, const char *name, size_t *ret_bytes)
{
	const struct blob_own_xattr *x = own_xattr_find(&blob->xattrs, false, name);

	if (x == NULL) {
		return NULL;
	}
	*ret_bytes = x->bytes;
	return x->value;
}

const char *
blob_xattr_name(const struct blob *blob, unsigned i)
{
	const struct blob_own_xattr *x;

	LIST_FOREACH(x, &blob->xattrs, link) {
		if (!x->internal && i-- == 0) {
			return x->name;
		}
	}
	return NULL;
}
