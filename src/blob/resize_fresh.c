/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a thick blob gets that no extent of its map reaches, allocated before the gate closes: some extents an operation, so that
 * neither its I/O nor others' commits wait for it. When the blob is another by then (a snapshot was taken, another change of its
 * size came first), that is given back, and everything happens under the gate.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/resize_internal.h"

void
resize_drop_fresh(struct resize *r)
{
	struct blob_store *store = r->blob->store;

	if (r->fresh == NULL) {
		return;
	}
	for (uint64_t i = 0; i < r->next_fresh; i++) {
		alloc_put_back_extent(store, r->fresh[i], 0);
		free(r->fresh[i]);
	}
	free(r->fresh);
	r->fresh = NULL;
	alloc_unreserve(store, r->reserved);
	r->reserved = 0;
}

void
resize_take_fresh(struct resize *r)
{
	for (uint64_t i = 0; i < r->num_fresh; i++) {
		atomic_store_explicit(&r->map->extents[r->old->num_extents + i], r->fresh[i], memory_order_relaxed);
	}
	r->added = r->num_clusters - r->old->num_clusters - r->reserved;
	free(r->fresh);
	r->fresh = NULL;
}

static int
make_fresh(struct resize *r)
{
	struct blob_store *store = r->blob->store;
	uint64_t index = resize_extents(r->had_clusters) + r->next_fresh;
	struct blob_extent *e = calloc(1, sizeof(*e));
	uint32_t page, near = 0;

	if (e == NULL) {
		return -ENOMEM;
	}
	r->fresh[r->next_fresh++] = e;
	for (uint64_t c = index * BLOB_EXTENT_CLUSTERS; c < MIN((index + 1) * BLOB_EXTENT_CLUSTERS, r->num_clusters); c++) {
		near = alloc_take(store, near);
		r->reserved--;
		atomic_store_explicit(&e->cluster[c % BLOB_EXTENT_CLUSTERS], near, memory_order_relaxed);
	}
	if (!blob_has_table(r->blob)) {
		return 0;
	}
	page = alloc_page(store);
	if (page == BLOB_PAGE_NONE) {
		return -ENOSPC;
	}
	e->page = page;
	return md_put_extent_of(&r->fresh_pages, r->blob->id, r->num_clusters, e, index, page);
}

static void
fresh_failed(struct resize *r, int status)
{
	md_tx_release(&r->fresh_pages);
	if (r->err.code == 0) {
		volume_error(r->blob, status, &r->err);
	}
	resize_answer(r, status);
}

static void fill_fresh(struct md_op *op);

/* Flushed with the body of the commit. */
static void
fresh_written(struct md_tx *tx, int status)
{
	struct resize *r = CONTAINER_OF(tx, struct resize, fresh_pages);

	if (status != 0) {
		fresh_failed(r, status);
		return;
	}
	md_tx_release(tx);
	if (r->next_fresh == r->num_fresh) {
		resize_close_gate(r);
		return;
	}
	md_op_end(&r->op);
	md_op_start(r->blob->store, &r->op, "resize", fill_fresh);
}

static void
fill_fresh(struct md_op *op)
{
	struct resize *r = CONTAINER_OF(op, struct resize, op);
	int rc = md_op_refused(op->store, &r->err);

	md_tx_init(&r->fresh_pages, op->store);
	for (unsigned n = 0; rc == 0 && n < RESIZE_FILL_EXTENTS && r->next_fresh < r->num_fresh; n++) {
		rc = make_fresh(r);
	}
	if (rc != 0) {
		fresh_failed(r, rc);
	} else {
		md_tx_write(&r->fresh_pages, false, fresh_written);
	}
}

void
resize_start_fresh(struct resize *r)
{
	int rc;

	r->had_clusters = blob_num_clusters(r->blob);
	r->num_fresh = resize_extents(r->num_clusters) - resize_extents(r->had_clusters);
	rc = resize_reserve(r, r->num_clusters - r->had_clusters);
	if (rc == 0) {
		r->fresh = calloc(r->num_fresh, sizeof(*r->fresh));
		rc = r->fresh == NULL ? -ENOMEM : 0;
	}
	if (rc == 0) {
		fill_fresh(&r->op);
		return;
	}
	if (r->reserved > 0) {
		alloc_unreserve(r->blob->store, r->reserved);
		r->reserved = 0;
	}
	md_tx_init(&r->fresh_pages, r->blob->store);
	fresh_failed(r, rc);
}
