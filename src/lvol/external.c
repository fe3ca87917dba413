/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bdevs as external snapshots: what is below volumes that were cloned from them. A bdev is known by its UUID, in
 * text, which is the id in the blob's metadata; it is opened to read, and claimed so that nobody writes.
 *
 * A volume whose bdev is missing when it is loaded has no bdev itself until the missing one comes. One that loses it
 * while it is in use keeps its own: what it has itself is still there, the rest fails until the missing one has come
 * again.
 *
 * Invariants
 *  1. What a store misses is awaited once, by the UUID, however many volumes miss it.
 *  2. What was awaited and has come is freed after whoever told us so has returned (bdev_watch).
 * Context: the app thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "event/notice.h"
#include "lvol/internal.h"

#define DEPTH_MAX 64

struct missing {
	struct list link;
	struct lvol_store *store; /* NULL: it has gone */
	struct bdev_watch watch;
	struct defer defer;
	bool deferred;
	char uuid[UUID_STR_LEN];
};

/* ---- What is missing ---- */

static void
arrived(struct lvol_store *store)
{
	if (store->blobs == NULL || !store->there) {
		store->external_came = true;
	} else if (!store->ending) {
		blob_external_arrived(store->blobs);
		lvol_external_look(store);
	}
}

static void
sweep(struct defer *d)
{
	struct missing *m = CONTAINER_OF(d, struct missing, defer);

	m->deferred = false;
	if (m->store == NULL || !list_linked(&m->watch.link)) {
		list_remove(&m->link);
		free(m);
	}
}

static void
came(struct bdev_watch *w, struct bdev *bdev)
{
	struct missing *m = CONTAINER_OF(w, struct missing, watch);

	if (!m->deferred) {
		m->deferred = true;
		thread_defer(&m->defer, sweep);
	}
	LOG_NOTICE(BDEV, m->store->name, "the external snapshot %s has come", m->uuid);
	arrived(m->store);
}

static struct missing *
find_missing(struct lvol_store *store, const char *uuid)
{
	struct missing *m;

	LIST_FOREACH (m, &store->missing, link) {
		if (strcmp(m->uuid, uuid) == 0) {
			return m;
		}
	}
	return NULL;
}

static void
await(struct lvol_store *store, const char *uuid)
{
	struct missing *m = find_missing(store, uuid);

	if (m == NULL) {
		m = calloc(1, sizeof(*m));
		if (m == NULL) {
			LOG_ERROR(BDEV, store->name, "cannot wait for the external snapshot %s: out of memory", uuid);
			return;
		}
		m->store = store;
		strcpy(m->uuid, uuid);
		list_append(&store->missing, &m->link);
	}
	if (!list_linked(&m->watch.link)) {
		bdev_watch_start(&m->watch, m->uuid, came);
	}
}

void
lvol_external_forget(struct lvol_store *store)
{
	struct missing *m, *next;

	LIST_FOREACH_SAFE (m, next, &store->missing, link) {
		bdev_watch_stop(&m->watch);
		list_remove(&m->link);
		m->store = NULL;
		if (!m->deferred) {
			free(m);
		}
	}
}

void
lvol_external_examined(struct bdev *bdev)
{
	struct lvol_store *store;
	char uuid[UUID_STR_LEN];
	uuid_t bytes;

	bdev_uuid(bdev, bytes);
	uuid_unparse_lower(bytes, uuid);
	LIST_FOREACH (store, &lvol_stores, link) {
		if (find_missing(store, uuid) != NULL) {
			arrived(store);
		}
	}
}

/* ---- Opening ---- */

static void
told_left(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;

	lvol_external_look(op->store);
	lvol_op_end(op, 0);
}

/* The bdev goes. */
static void
left(struct lvol_dev *d)
{
	struct lvol_store *store = d->below;
	struct lvol_op *op;
	char uuid[UUID_STR_LEN];
	uuid_t bytes;

	d->left = NULL;
	if (store->ending || (op = lvol_op_done(store, NULL, NULL, NULL)) == NULL) {
		return; /* it is closed with the store */
	}
	bdev_uuid(d->bdev, bytes);
	uuid_unparse_lower(bytes, uuid);
	LOG_WARNING(BDEV, store->name, "the external snapshot '%s' is removed", d->name);
	await(store, uuid);
	blob_external_left(store->blobs, &d->dev, told_left, op);
}

struct blob_dev *
lvol_open_external(void *ctx, struct blob *blob, const void *id, size_t id_bytes)
{
	struct lvol_store *store = ctx;
	struct blob_store_info info;
	struct err err = ERR_NONE;
	struct lvol_dev *d = NULL;
	char text[UUID_STR_LEN];
	uuid_t uuid;

	if (id_bytes != UUID_STR_LEN || ((const char *)id)[UUID_STR_LEN - 1] != '\0' || uuid_parse(id, uuid) != 0) {
		LOG_ERROR(BDEV, store->name, "blob 0x%llx: the id of its external snapshot is no UUID",
			  (unsigned long long)blob_id(blob));
		return NULL;
	}
	uuid_unparse_lower(uuid, text);
	if (bdev_find(text) == NULL) {
		await(store, text);
		return NULL;
	}
	blob_store_get_info(blob_store_of(blob), &info);
	if (lvol_dev_open(text, BDEV_CLAIM_WRITE_NONE, &d, &err) == 0 && d->dev.block_size > info.io_unit_bytes) {
		err_set(&err, -EINVAL, "its blocks are larger than the store's, %u bytes", info.io_unit_bytes);
		lvol_dev_close(d);
		d = NULL;
	}
	if (d == NULL) {
		LOG_ERROR(BDEV, store->name, "cannot use the external snapshot %s: %s", text, err_text(&err));
		await(store, text);
		return NULL;
	}
	d->below = store;
	d->left = left;
	return &d->dev;
}

/* ---- Volumes that are complete again, or not any more ---- */

void
lvol_tell_degraded(struct lvol *lvol, bool degraded)
{
	char alias[LVOL_ALIAS_BYTES];

	if (lvol->degraded == degraded) {
		return;
	}
	lvol->degraded = degraded;
	snprintf(alias, sizeof(alias), "%s/%s", lvol->store->name, lvol->name.text);
	LOG_NOTICE(BDEV, lvol->id, "volume '%s' is %s", alias,
		   degraded ? "degraded: an external snapshot is missing" : "complete again");
	notice_send(degraded ? "lvol_degraded" : "lvol_complete", NOTICE_TEXT("name", lvol->id), NOTICE_TEXT("alias", alias));
}

void
lvol_external_look(struct lvol_store *store)
{
	struct lvol *lvol, *next;
	struct err err = ERR_NONE;

	if (!store->there || store->leaving != STORE_STAYS) {
		return;
	}
	LIST_FOREACH_SAFE (lvol, next, &store->volumes, link) {
		bool degraded = lvol->there && lvol->open && blob_degraded(lvol->blob);

		if (!lvol->there || !lvol->open || degraded == lvol->degraded) {
			continue;
		}
		lvol_tell_degraded(lvol, degraded);
		if (lvol_bdev_register(lvol, &err) != 0) {
			LOG_ERROR(BDEV, lvol->id, "has no bdev: %s", err_text(&err));
		}
	}
}

/* ---- Who stands on whom ---- */

static bool
stands_on(const struct bdev *bdev, const struct lvol *lvol, unsigned depth)
{
	struct lvol *x = bdev == NULL ? NULL : lvol_of_bdev(bdev);
	struct bdev *base;

	if (bdev == NULL || x == lvol || depth == DEPTH_MAX) {
		return bdev != NULL;
	}
	for (unsigned i = 0; x == NULL && (base = bdev_base(bdev, i)) != NULL; i++) {
		if (stands_on(base, lvol, depth + 1)) {
			return true;
		}
	}
	if (x == NULL) {
		return false;
	}
	if (x->store->dev != NULL && stands_on(x->store->dev->bdev, lvol, depth + 1)) {
		return true;
	}
	for (const struct blob *b = x->blob; b != NULL; b = blob_parent(b)) {
		size_t bytes = 0;
		const char *id = blob_external_id(b, &bytes);

		if (id != NULL && bytes == UUID_STR_LEN && id[bytes - 1] == '\0' && stands_on(bdev_find(id), lvol, depth + 1)) {
			return true;
		}
	}
	return false;
}

static struct lvol *
carrier(const struct bdev *bdev, const struct lvol_store *store, unsigned depth)
{
	struct lvol *x = lvol_of_bdev(bdev), *found = NULL;
	struct bdev *base;

	if (x != NULL) {
		return x->store == store ? x : NULL;
	}
	for (unsigned i = 0; found == NULL && depth < DEPTH_MAX && (base = bdev_base(bdev, i)) != NULL; i++) {
		found = carrier(base, store, depth + 1);
	}
	return found;
}

struct lvol *
lvol_carrier(const struct bdev *bdev, const struct lvol_store *store)
{
	return carrier(bdev, store, 0);
}

struct lvol *
lvol_below(const struct bdev *bdev)
{
	for (unsigned depth = 0; bdev != NULL && lvol_of_bdev(bdev) == NULL; depth++) {
		bdev = depth < DEPTH_MAX && bdev_tells_changes(bdev) ? bdev_base(bdev, 0) : NULL;
	}
	return bdev == NULL ? NULL : lvol_of_bdev(bdev);
}

bool
lvol_stands_on(const struct bdev *bdev, const struct lvol *lvol)
{
	return stands_on(bdev, lvol, 0);
}
