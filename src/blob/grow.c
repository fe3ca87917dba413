/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A store whose device has grown. One page makes the difference, the super block: it says the new size, and that the store is
 * not clean, so that the masks, which are too short, do not count until the next unload writes them. A power cut leaves the old
 * store or the new one. Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/internal.h"

struct grow {
	struct md_op op;
	struct blob_super super;
	blob_done_fn done;
	void *ctx;
	struct err err;
};

static void
grow_end(struct grow *g, int status)
{
	struct blob_store *store = g->op.store;

	md_op_end(&g->op);
	g->done(g->ctx, status, g->err.code == 0 ? NULL : &g->err);
	free(g);
	store_background_end(store);
}

static void
written(void *ctx, int status)
{
	struct grow *g = ctx;
	struct blob_store *store = g->op.store;

	if (status != 0) {
		if (status != -ENOMEM) {
			store_break(store, status, "the super block");
		}
		err_set(&g->err, status, "%s: the super block could not be written", store->dev->name);
		grow_end(g, status);
		return;
	}
	/* What grows, and no more: requests on other threads read the rest at this moment. */
	store->super.bytes = g->super.bytes;
	store->super.cluster_mask = g->super.cluster_mask;
	store->clean_on_disk = false;
	store->total_clusters = blob_super_clusters(&store->super);
	store->data_clusters = store->total_clusters - blob_super_md_clusters(&store->super);
	alloc_grow(store, store->total_clusters);
	alloc_watch(store);
	merge_space(store);
	grow_end(g, 0);
}

static void
run(struct md_op *op)
{
	struct grow *g = CONTAINER_OF(op, struct grow, op);
	struct blob_store *store = op->store;
	uint64_t bytes = store->dev->num_blocks << store->block_shift;
	int rc = md_op_refused(store, &g->err);

	g->super = store->super;
	if (rc == 0) {
		rc = blob_layout_grow(&g->super, bytes, &g->err);
	}
	if (rc == 0 && blob_super_clusters(&g->super) > store->clusters.room) {
		rc = err_set(&g->err, -ENOSPC, "the store's layout has room for no more than %llu clusters",
			     (unsigned long long)store->clusters.room);
	}
	if (rc != 0) {
		grow_end(g, rc);
		return;
	}
	g->super.clean = false;
	super_write(store, &g->super, false, written, g);
}

void
blob_store_grow(struct blob_store *store, blob_done_fn done, void *ctx)
{
	struct grow *g = calloc(1, sizeof(*g));

	if (g == NULL) {
		store_answer(store, done, ctx, -ENOMEM, NULL);
		return;
	}
	g->done = done;
	g->ctx = ctx;
	store_background_begin(store);
	md_op_start(store, &g->op, "grow", run);
}
