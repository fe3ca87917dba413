/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A store in memory: its making and freeing, the queue of changes, background work and who waits for its end, blobs' coming and
 * going.
 *
 * Invariants
 *  1. At most one md_op runs. Operations run in the order they were asked for, commits before them; while both wait they take
 *     turns, so that neither a stream of writes nor one of operations holds up the other.
 *  2. Nothing is called from inside md_op_start(), md_op_end() or store_background_end(): `kick`, a deferred call, does it.
 *     The store is not freed while it is under way: whoever frees it comes from store_when_idle() or from a store that was
 *     never idle.
 *  3. blobs is sorted by id; by_page and blobids have the same blobs.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "blob/internal.h"

/* ---- Changes, one after another ---- */

static bool
is_idle(const struct blob_store *store)
{
	return store->op == NULL && list_empty(&store->ops) && list_empty(&store->first_ops) && store->background == 0;
}

static struct md_op *
next_op(struct blob_store *store)
{
	struct list *from = &store->first_ops;

	if (list_empty(from) || (store->first_was_last && !list_empty(&store->ops))) {
		from = &store->ops;
	}
	if (list_empty(from)) {
		return NULL;
	}
	store->first_was_last = from == &store->first_ops;
	return LIST_FIRST(from, struct md_op, link);
}

/* The last waiter may free the store. */
static void
answer_idle(struct blob_store *store)
{
	while (is_idle(store) && !list_empty(&store->idle_waiters)) {
		struct idle_waiter *w = LIST_FIRST(&store->idle_waiters, struct idle_waiter, link);
		bool last = w->link.next == &store->idle_waiters;

		list_remove(&w->link);
		w->fn(w->ctx);
		if (last) {
			return;
		}
	}
}

static void
kick_run(struct defer *d)
{
	struct blob_store *store = CONTAINER_OF(d, struct blob_store, kick);
	struct md_op *op;

	store->kicked = false;
	if (store->op != NULL) {
		return;
	}
	op = next_op(store);
	if (op == NULL) {
		answer_idle(store);
		return;
	}
	list_remove(&op->link);
	store->op = op;
	op->run(op);
}

static void
kick(struct blob_store *store)
{
	if (!store->kicked) {
		store->kicked = true;
		thread_defer(&store->kick, kick_run);
	}
}

static void
op_init(struct blob_store *store, struct md_op *op, const char *name, void (*run)(struct md_op *op))
{
	*op = (struct md_op){.name = name, .store = store, .run = run};
	list_init(&op->link);
}

void
md_op_start(struct blob_store *store, struct md_op *op, const char *name, void (*run)(struct md_op *op))
{
	op_init(store, op, name, run);
	list_append(&store->ops, &op->link);
	kick(store);
}

void
md_op_start_first(struct blob_store *store, struct md_op *op, const char *name, void (*run)(struct md_op *op))
{
	op_init(store, op, name, run);
	list_append(&store->first_ops, &op->link);
	kick(store);
}

void
md_op_end(struct md_op *op)
{
	struct blob_store *store = op->store;

	CHECK(store->op == op);
	store->op = NULL;
	kick(store);
}

int
md_op_refused(struct blob_store *store, struct err *err)
{
	if (store->abandoned) {
		return err_set(err, -ENODEV, "%s: the store's device is gone", store->dev->name);
	}
	if (store->unloading) {
		return err_set(err, -ENODEV, "%s: the store is being unloaded", store->dev->name);
	}
	if (store->broken) {
		return err_set(err, -EROFS, "%s", store->breakage.text);
	}
	if (store->readonly) {
		return err_set(err, -EROFS, "%s: the store is read-only", store->dev->name);
	}
	return 0;
}

void
store_event(struct blob_store *store, enum blob_store_event event)
{
	if (store->options.event != NULL && !store->unloading && !store->abandoned) {
		store->options.event(store->options.ctx, store, event);
	}
}

void
store_break(struct blob_store *store, int status, const char *what)
{
	if (store->broken) {
		return;
	}
	store->broken = true;
	err_set(&store->breakage, status, "%s: %s could not be written (%s): nothing is changed until the store is loaded again",
		store->dev->name, what, strerror(-status));
	store_event(store, BLOB_STORE_BROKEN);
}

/* ---- Background work ---- */

void
store_background_begin(struct blob_store *store)
{
	store->background++;
}

void
store_background_end(struct blob_store *store)
{
	CHECK(store->background > 0);
	if (--store->background == 0) {
		kick(store);
	}
}

void
store_when_idle(struct blob_store *store, struct idle_waiter *waiter, void (*fn)(void *ctx), void *ctx)
{
	waiter->fn = fn;
	waiter->ctx = ctx;
	list_append(&store->idle_waiters, &waiter->link);
	kick(store);
}

struct idle_answer {
	struct idle_waiter waiter;
	blob_done_fn done;
	void *ctx;
};

static void
idle_now(void *ctx)
{
	struct idle_answer *a = ctx;

	a->done(a->ctx, 0, NULL);
	free(a);
}

void
blob_store_wait_idle(struct blob_store *store, blob_done_fn done, void *ctx)
{
	struct idle_answer *a = malloc(sizeof(*a));

	if (a == NULL) {
		store_answer(store, done, ctx, -ENOMEM, NULL);
		return;
	}
	*a = (struct idle_answer){.done = done, .ctx = ctx};
	store_when_idle(store, &a->waiter, idle_now, a);
}

/* ---- Answers ---- */

static struct store_answer *
take_answer(struct blob_store *store)
{
	struct store_answer *a = calloc(1, sizeof(*a));

	for (unsigned i = 0; a == NULL && i < STORE_ANSWERS; i++) {
		if (!store->answers[i].used) {
			a = &store->answers[i];
			*a = (struct store_answer){.reserved = true, .used = true};
		}
	}
	return a;
}

static void
say(const struct store_answer *a)
{
	const struct err *err = a->err.code == 0 ? NULL : &a->err;

	if (a->made != NULL) {
		a->made(a->ctx, NULL, a->err.code, err);
	} else {
		a->done(a->ctx, a->err.code, err);
	}
}

static void
answer_run(struct defer *d)
{
	struct store_answer *slot = CONTAINER_OF(d, struct store_answer, defer), a = *slot;

	if (a.reserved) {
		slot->used = false;
	} else {
		free(slot);
	}
	store_background_end(a.store);
	say(&a);
}

static void
answer(struct blob_store *store, blob_done_fn done, blob_made_fn made, void *ctx, int status, const struct err *err)
{
	struct store_answer *a = take_answer(store), now = {0};

	if (a == NULL) { /* blob.h */
		a = &now;
	}
	a->store = store;
	a->done = done;
	a->made = made;
	a->ctx = ctx;
	if (err != NULL && err->code == status) {
		a->err = *err;
	} else if (status != 0) {
		err_set(&a->err, status, "%s: %s", store->dev->name, strerror(-status));
	}
	if (a == &now) {
		say(a);
		return;
	}
	store_background_begin(store);
	thread_defer(&a->defer, answer_run);
}

void
store_answer(struct blob_store *store, blob_done_fn done, void *ctx, int status, const struct err *err)
{
	answer(store, done, NULL, ctx, status, err);
}

void
store_answer_made(struct blob_store *store, blob_made_fn made, void *ctx, int status, const struct err *err)
{
	answer(store, NULL, made, ctx, status, err);
}

/* ---- Limits, the super blob ---- */

void
blob_store_set_limits(struct blob_store *store, unsigned low_percent, bool pause)
{
	store->low_percent = low_percent;
	atomic_store_explicit(&store->pause_when_full, pause, memory_order_relaxed);
	alloc_watch(store);
}

struct set_super {
	struct md_op op;
	uint64_t id, old;
	blob_done_fn done;
	void *ctx;
};

static void
set_super_end(struct set_super *s, int status, const struct err *err)
{
	blob_done_fn done = s->done;
	void *ctx = s->ctx;

	md_op_end(&s->op);
	free(s);
	done(ctx, status, err);
}

static void
set_super_written(void *ctx, int status)
{
	struct set_super *s = ctx;
	struct blob_store *store = s->op.store;
	struct err err = ERR_NONE;

	if (status == 0) {
		store->clean_on_disk = false;
	} else {
		store->super.super_blob = s->old;
		if (status != -ENOMEM) {
			store_break(store, status, "the super block");
		}
		err_set(&err, status, "%s: the super block could not be written: %s", store->dev->name, strerror(-status));
	}
	set_super_end(s, status, &err);
}

static void
set_super_run(struct md_op *op)
{
	struct set_super *s = CONTAINER_OF(op, struct set_super, op);
	struct blob_store *store = op->store;
	struct blob_super super;
	struct err err = ERR_NONE;
	int rc = md_op_refused(store, &err);

	if (rc == 0 && s->id != BLOB_ID_NONE && blob_find(store, s->id) == NULL) {
		rc = err_set(&err, -ENOENT, "there is no blob 0x%" PRIx64, s->id);
	}
	if (rc != 0) {
		set_super_end(s, rc, &err);
		return;
	}
	s->old = store->super.super_blob;
	store->super.super_blob = s->id;
	super = store->super;
	super.clean = false;
	super_write(store, &super, false, set_super_written, s);
}

void
blob_store_set_super(struct blob_store *store, uint64_t id, blob_done_fn done, void *ctx)
{
	struct set_super *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		store_answer(store, done, ctx, -ENOMEM, NULL);
		return;
	}
	s->id = id;
	s->done = done;
	s->ctx = ctx;
	md_op_start(store, &s->op, "set super blob", set_super_run);
}

/* ---- Blobs come and go ---- */

/* A blob, and how it goes: the wait is there beforehand, so that its end needs no memory. */
struct owned {
	struct blob blob;
	struct blob_wait wait;
};

void
blob_set_damage(struct blob *blob, const char *fmt, ...)
{
	va_list args;

	if (blob->damage.code != 0) {
		return;
	}
	blob->damage.code = -EILSEQ;
	va_start(args, fmt);
	vsnprintf(blob->damage.text, sizeof(blob->damage.text), fmt, args);
	va_end(args);
	blob->store->num_damaged++;
}

/* The blob with the greatest id below, NULL: none. */
static struct blob *
blob_before(struct blob_store *store, uint32_t page)
{
	struct blob *last = list_empty(&store->blobs) ? NULL : LIST_ENTRY(store->blobs.prev, struct blob, link);

	if (last == NULL || last->id < BLOB_ID_BASE + page) {
		return last;
	}
	while (page > 0) {
		if (page % 64 == 0 && store->blobids.words[page / 64 - 1] == 0) {
			page -= 64;
		} else if (store->by_page[--page] != NULL) {
			return store->by_page[page];
		}
	}
	return NULL;
}

struct blob *
store_new_blob(struct blob_store *store, uint64_t id)
{
	uint32_t page = (uint32_t)(id - BLOB_ID_BASE);
	struct owned *owned = calloc(1, sizeof(*owned));
	struct blob_map *map = blob_map_create(0, NULL);
	struct blob *blob, *before;

	if (owned == NULL || map == NULL || (owned->blob.pages = malloc(sizeof(uint32_t))) == NULL) {
		free(owned);
		blob_map_free(map, false);
		return NULL;
	}
	CHECK(page < store->super.md.length && store->by_page[page] == NULL);
	blob = &owned->blob;
	blob->store = store;
	blob->id = id;
	blob->pages[0] = page;
	blob->num_pages = 1;
	atomic_init(&blob->head.map, map);
	list_init(&blob->clones);
	list_init(&blob->clone_link);
	list_init(&blob->xattrs);
	list_init(&blob->gate_waits);
	before = blob_before(store, page);
	if (before == NULL) {
		list_prepend(&store->blobs, &blob->link);
	} else {
		list_prepend(&before->link, &blob->link); /* behind it */
	}
	store->by_page[page] = blob;
	bits_set(&store->blobids, page);
	store->num_blobs++;
	return blob;
}

void
store_unlink_blob(struct blob *blob)
{
	struct blob_store *store = blob->store;
	uint32_t page = (uint32_t)(blob->id - BLOB_ID_BASE);

	CHECK(list_empty(&blob->clones) && blob->opens == 0);
	list_remove(&blob->clone_link);
	if (store->by_page[page] != blob) {
		return;
	}
	list_remove(&blob->link);
	store->by_page[page] = NULL;
	bits_clear(&store->blobids, page);
	store->num_blobs--;
	if (blob->damage.code != 0) {
		store->num_damaged--;
	}
}

void
store_destroy_blob(struct blob *blob)
{
	CHECK(blob->gates == 0); /* who has closed it opens it */
	blob_map_free(atomic_load_explicit(&blob->head.map, memory_order_relaxed), true);
	own_xattrs_free(&blob->xattrs);
	free(blob->pages);
	free(CONTAINER_OF(blob, struct owned, blob));
}

static void
blob_graced(struct blob_wait *wait)
{
	struct owned *owned = CONTAINER_OF(wait, struct owned, wait);
	struct blob_store *store = owned->blob.store;

	store_destroy_blob(&owned->blob);
	store_background_end(store);
}

void
store_free_blob(struct blob *blob)
{
	store_unlink_blob(blob);
	blob->gone = true;
	store_background_begin(blob->store);
	grace_start(blob->store, &CONTAINER_OF(blob, struct owned, blob)->wait, blob_graced);
}

/* ---- Stores come and go ---- */

struct blob_store *
store_alloc(struct blob_dev *dev, const struct blob_store_options *options, int *ret_rc)
{
	struct blob_store *store = calloc(1, sizeof(*store));

	*ret_rc = -ENOMEM;
	if (store == NULL) {
		return NULL;
	}
	store->unload = unload_create();
	store->dev = dev;
	store->owner = thread_self();
	store->options = *options;
	store->block_shift = (uint32_t)__builtin_ctz(dev->block_size);
	store->readonly = dev->readonly;
	list_init(&store->blobs);
	list_init(&store->ops);
	list_init(&store->first_ops);
	list_init(&store->md_waiters);
	list_init(&store->idle_waiters);
	list_init(&store->externals);
	store->dev_ch = store->unload == NULL ? NULL : dev->ops->channel_get(dev, ret_rc);
	if (store->dev_ch == NULL) {
		unload_free(store->unload);
		free(store);
		return NULL;
	}
	threads_init(store);
	return store;
}

static uint64_t
most_clusters(const struct blob_store *store)
{
	const struct blob_super *s = &store->super;
	uint64_t room = s->cluster_mask.length;

	if (s->blobid_mask.length > 0 && s->blobid_mask.start > s->cluster_mask.start) {
		room = s->blobid_mask.start - s->cluster_mask.start;
	}
	return MAX(store->total_clusters, room * s->md_page_bytes * 8);
}

int
store_set_geometry(struct blob_store *store, struct err *err)
{
	struct blob_super *s = &store->super;
	uint64_t md_clusters;

	if (s->bytes == 0) {
		s->bytes = store->dev->num_blocks << store->block_shift;
	}
	if (s->io_unit_bytes < store->dev->block_size) {
		return err_set(err, -EINVAL, "the store's I/O unit has %" PRIu32 " bytes, its device's blocks %" PRIu32,
			       s->io_unit_bytes, store->dev->block_size);
	}
	store->unit_blocks = s->io_unit_bytes >> store->block_shift;
	store->cluster_units = s->cluster_bytes / s->io_unit_bytes;
	store->cluster_blocks = s->cluster_bytes >> store->block_shift;
	store->total_clusters = blob_super_clusters(s);
	md_clusters = blob_super_md_clusters(s);
	store->data_clusters = store->total_clusters - md_clusters;
	store->by_page = calloc(s->md.length, sizeof(*store->by_page));
	if (store->by_page == NULL || bits_init(&store->clusters, most_clusters(store)) != 0 ||
	    bits_init(&store->pages, s->md.length) != 0 || bits_init(&store->blobids, s->md.length) != 0) {
		return err_set(err, -ENOMEM, "no memory for the masks");
	}
	CHECK(bits_resize(&store->clusters, store->total_clusters) == 0); /* smaller than it was */
	for (uint64_t i = 0; i < md_clusters; i++) {
		bits_set(&store->clusters, i);
	}
	return 0;
}

void
store_forget_blobs(struct blob_store *store)
{
	struct blob *blob, *clone, *next;

	while (!list_empty(&store->blobs)) {
		blob = LIST_FIRST(&store->blobs, struct blob, link);
		LIST_FOREACH_SAFE(clone, next, &blob->clones, clone_link) {
			list_remove(&clone->clone_link);
		}
		store_unlink_blob(blob);
		store_destroy_blob(blob);
	}
}

void
store_free(struct blob_store *store)
{
	struct blob_dev *dev;

	if (store == NULL) {
		return;
	}
	dev = store->dev;
	CHECK(!store->kicked && store->background == 0 && store->op == NULL);
	recover_release(store);
	merge_release(store);
	store_forget_blobs(store);
	commit_release(store);
	external_release_all(store);
	alloc_release(store);
	threads_release(store);
	bits_release(&store->clusters);
	bits_release(&store->pages);
	bits_release(&store->blobids);
	free(store->by_page);
	unload_free(store->unload);
	dev->ops->channel_put(dev, store->dev_ch);
	free(store);
	dev->ops->close(dev);
}
