/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The end of a store: orderly (masks, then the super block says clean), because its device is gone, or for good.
 *
 *	the operations that were asked for before end -> background work stops -> idle -> nobody has it open?
 *	-> masks, flush -> super block "clean", flush -> freed, device closed
 *
 * Invariants
 *  1. Masks on the disk count only when the super block says clean: it says so after they are flushed. When masks that
 *     counted are about to be written over, it says unclean before.
 *  2. A store that changed nothing writes nothing; one that is broken neither: the next load sees what became of it.
 * Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/internal.h"
#include "event/steps.h"

struct unload {
	struct steps steps;
	struct defer defer;
	struct idle_waiter idle;
	struct blob_store *store;
	struct md_op op;
	bool destroy;
	uint64_t *kept;   /* clear_clusters: bits of clusters that stay as they are */
	uint64_t cleared; /* bytes */
	bool stays; /* somebody has it open */
	blob_done_fn done;
	void *ctx;
	int status;
	struct err err;
};

static void
step_done(void *ctx, int status)
{
	struct unload *u = ctx;

	steps_continue(&u->steps, status);
}

/* ---- Steps ---- */

static bool
writes_nothing(const struct blob_store *store)
{
	return store->readonly || store->broken || (store->clean_on_disk && !store->clean_doubtful && !store->recovered);
}

static int
check_free(struct steps *s)
{
	struct unload *u = CONTAINER_OF(s, struct unload, steps);
	struct blob *blob;

	LIST_FOREACH(blob, &u->store->blobs, link) {
		if (blob->opens > 0) {
			u->stays = true;
			return err_set(&s->err, -EBUSY, "%s of the store on %s is open", CALLED(blob), u->store->dev->name);
		}
	}
	return 0;
}

static int
write_unclean(struct steps *s)
{
	struct unload *u = CONTAINER_OF(s, struct unload, steps);
	struct blob_super super = u->store->super;

	if (u->destroy || writes_nothing(u->store) || !u->store->clean_on_disk) {
		return 0;
	}
	super.clean = false;
	super_write(u->store, &super, false, step_done, u);
	return STEPS_WAIT;
}

static int
write_masks(struct steps *s)
{
	struct unload *u = CONTAINER_OF(s, struct unload, steps);

	if (u->destroy || writes_nothing(u->store)) {
		return 0;
	}
	masks_write(u->store, step_done, u);
	return STEPS_WAIT;
}

static int
write_super(struct steps *s)
{
	struct unload *u = CONTAINER_OF(s, struct unload, steps);
	struct blob_super super = u->store->super;

	if (u->destroy ? u->store->readonly : writes_nothing(u->store)) {
		return u->destroy ? err_set(&s->err, -EROFS, "%s is read-only", u->store->dev->name) : 0;
	}
	super.clean = true;
	super_write(u->store, &super, u->destroy, step_done, u);
	return STEPS_WAIT;
}

/* The clusters of blobs that are not to be cleared, as bits; *ret_bits NULL: there are none. 0 or -ENOMEM. */
static int
find_kept(const struct blob_store *store, uint64_t **ret_bits)
{
	uint64_t *bits = NULL;
	struct blob *blob;

	LIST_FOREACH(blob, &store->blobs, link) {
		uint64_t n = blob_clear_method(blob) == BLOB_CLEAR_NONE ? blob_num_clusters(blob) : 0;

		if (n > 0 && bits == NULL && (bits = calloc(store->total_clusters / 64 + 1, sizeof(*bits))) == NULL) {
			return -ENOMEM;
		}
		for (uint64_t i = 0; i < n; i++) {
			uint32_t cluster = blob_map_entry(&blob->head, i);

			if (cluster < store->total_clusters) { /* BUSY is not */
				bits[cluster / 64] |= UINT64_C(1) << cluster % 64;
			}
		}
	}
	*ret_bits = bits;
	return 0;
}

static bool
is_kept(const struct unload *u, uint64_t cluster)
{
	return u->kept != NULL && cluster < u->store->total_clusters && (u->kept[cluster / 64] >> cluster % 64 & 1) != 0;
}

/* From u->cleared on, up to the next that is kept; then the next piece. */
static void
clear_piece(void *ctx, int status)
{
	struct unload *u = ctx;
	struct blob_store *store = u->store;
	uint64_t cluster_bytes = store->super.cluster_bytes, end = store->total_clusters * cluster_bytes, from, to;

	while (u->cleared < end && is_kept(u, u->cleared / cluster_bytes)) {
		u->cleared += cluster_bytes - u->cleared % cluster_bytes;
	}
	for (to = u->cleared; to < end && !is_kept(u, to / cluster_bytes);) {
		to = u->kept == NULL ? end : to + cluster_bytes - to % cluster_bytes;
	}
	if (status != 0 || to == u->cleared) {
		free(u->kept);
		u->kept = NULL;
		step_done(u, status);
		return;
	}
	from = u->cleared;
	u->cleared = to;
	store_clear_range(store, BLOB_DEV_UNMAP, from, to - from, clear_piece, u);
}

static int
clear_clusters(struct steps *s)
{
	struct unload *u = CONTAINER_OF(s, struct unload, steps);
	struct blob_store *store = u->store;
	int rc;

	if (!u->destroy || !store->dev->unmap || store->options.clear == BLOB_CLEAR_NONE) {
		return 0;
	}
	rc = find_kept(store, &u->kept);
	if (rc != 0) {
		return rc;
	}
	u->cleared = (uint64_t)store->super.md.start * store->super.md_page_bytes;
	clear_piece(u, 0);
	return STEPS_WAIT;
}

static const struct step steps[] = {
	{"looking for open blobs", check_free, NULL},
	{"marking the store as not clean", write_unclean, NULL},
	{"writing the masks", write_masks, NULL},
	{"writing the super block", write_super, NULL},
	{"clearing clusters", clear_clusters, NULL},
};

/* ---- Beginning and end ---- */

static void
answer(struct defer *d)
{
	struct unload *u = CONTAINER_OF(d, struct unload, defer);
	blob_done_fn done = u->done;
	void *ctx = u->ctx;
	int status = u->status;
	struct err err = u->err;

	if (u->stays) {
		u->store->unload = u; /* for the next time */
		u->store->unloading = false;
		merge_kick(u->store);
	} else {
		store_free(u->store);
		free(u);
	}
	done(ctx, status, status == 0 ? NULL : &err);
}

static void
unloaded(struct steps *s, int status)
{
	struct unload *u = CONTAINER_OF(s, struct unload, steps);

	u->status = status;
	u->err = s->err;
	thread_defer(&u->defer, answer); /* not from a request's end: the device is closed */
}

static void
idle(void *ctx)
{
	struct unload *u = ctx;

	if (u->store->abandoned) {
		thread_defer(&u->defer, answer);
		return;
	}
	steps_run(&u->steps, steps, ARRAY_SIZE(steps), unloaded);
}

static void
stop_background(struct md_op *op)
{
	struct unload *u = CONTAINER_OF(op, struct unload, op);

	u->store->unloading = true;
	merge_stop(u->store);
	md_op_end(op);
	store_when_idle(u->store, &u->idle, idle, u);
}

struct unload *
unload_create(void)
{
	return calloc(1, sizeof(struct unload));
}

void
unload_free(struct unload *u)
{
	free(u);
}

static struct unload *
begin(struct blob_store *store, blob_done_fn done, void *ctx)
{
	struct unload *u = store->unload;

	CHECK(u != NULL); /* it is left once */
	store->unload = NULL;
	*u = (struct unload){.store = store, .done = done, .ctx = ctx};
	return u;
}

void
blob_store_unload(struct blob_store *store, blob_done_fn done, void *ctx)
{
	struct unload *u = begin(store, done, ctx);

	md_op_start(store, &u->op, "unload", stop_background);
}

void
blob_store_destroy(struct blob_store *store, blob_done_fn done, void *ctx)
{
	struct unload *u = begin(store, done, ctx);

	u->destroy = true;
	md_op_start(store, &u->op, "destroy", stop_background);
}

void
blob_store_abandon(struct blob_store *store, blob_done_fn done, void *ctx)
{
	struct unload *u = begin(store, done, ctx);

	store->abandoned = true;
	md_op_start(store, &u->op, "abandon", stop_background);
}
