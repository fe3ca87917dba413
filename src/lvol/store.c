/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which stores there are, what they are called, and what is changed about one as a whole.
 *
 * The limits are kept in the store, in an xattr of its super blob that others leave alone, so that they go with the
 * store from machine to machine, as its volumes do.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "event/notice.h"
#include "lvol/internal.h"

struct list lvol_stores = {&lvol_stores, &lvol_stores};

/* As it is on disk. */
struct limits {
	uint8_t low_percent;
	uint8_t pause;
};

/* ---- Names ---- */

int
lvol_name_check(const char *name, const char *what, struct err *err)
{
	size_t length = name == NULL ? 0 : strnlen(name, LVOL_NAME_BYTES);

	if (length == 0 || length == LVOL_NAME_BYTES) {
		return err_set(err, -EINVAL, "the name of a %s must have 1 to %d characters", what, LVOL_NAME_BYTES - 1);
	}
	if (strchr(name, '/') != NULL) {
		return err_set(err, -EINVAL, "%s '%s': a name has no slash", what, name);
	}
	if (strncmp(name, LVOL_HIDDEN_PREFIX, strlen(LVOL_HIDDEN_PREFIX)) == 0) {
		return err_set(err, -EINVAL, "%s '%s': names that begin with '%s' are for deleted snapshots", what, name,
			       LVOL_HIDDEN_PREFIX);
	}
	return 0;
}

const char *
lvol_text_xattr(const struct blob *blob, const char *name, size_t max_bytes)
{
	size_t bytes = 0;
	const char *text = blob_get_xattr(blob, name, &bytes);

	bytes = MIN(bytes, max_bytes);
	return text != NULL && strnlen(text, bytes) < bytes ? text : NULL;
}

bool
lvol_store_name_taken(const char *name, const uuid_t uuid)
{
	struct lvol_store *s;

	LIST_FOREACH (s, &lvol_stores, link) {
		if (strcmp(s->name, name) == 0 || strcmp(s->new_name, name) == 0 ||
		    (uuid != NULL && uuid_compare(s->uuid, uuid) == 0)) {
			return true;
		}
	}
	return false;
}

/* ---- Finding ---- */

struct lvol_store *
lvol_store_next(struct lvol_store *store)
{
	struct list *l = store == NULL ? lvol_stores.next : store->link.next;

	while (l != &lvol_stores && !LIST_ENTRY(l, struct lvol_store, link)->there) {
		l = l->next;
	}
	return l == &lvol_stores ? NULL : LIST_ENTRY(l, struct lvol_store, link);
}

struct lvol_store *
lvol_store_find_name(const char *name)
{
	struct lvol_store *s = NULL;

	while ((s = lvol_store_next(s)) != NULL && strcmp(s->name, name) != 0) {
	}
	return s;
}

struct lvol_store *
lvol_store_find_uuid(const char *text)
{
	struct lvol_store *s = NULL;
	uuid_t uuid;

	if (uuid_parse(text, uuid) != 0) {
		return NULL;
	}
	while ((s = lvol_store_next(s)) != NULL && uuid_compare(s->uuid, uuid) != 0) {
	}
	return s;
}

struct lvol_store *
lvol_store_find(const char *name)
{
	struct lvol_store *s = lvol_store_find_name(name);

	return s != NULL ? s : lvol_store_find_uuid(name);
}

struct lvol_store *
lvol_store_on(const struct bdev *base)
{
	struct lvol_store *s;

	LIST_FOREACH (s, &lvol_stores, link) {
		if (s->dev != NULL && s->dev->bdev == base) {
			return s;
		}
	}
	return NULL;
}

/* ---- What it is like ---- */

/* As many clusters as the room that its mask has, by the number of metadata pages, lets it have: SPDK's rule. Its mask may have
 * more room than that. */
static uint64_t
max_growable(const struct blob_store_info *info)
{
	uint64_t header = BLOB_MASK_HEADER_BYTES, page = info->md_page_bytes;
	uint64_t pages = (header + (info->md_pages + 7) / 8 + page - 1) / page;

	return MAX((pages * page - header) * 8, info->total_clusters) * info->cluster_bytes;
}

void
lvol_store_get_info(struct lvol_store *store, struct lvol_store_info *ret_info)
{
	*ret_info = (struct lvol_store_info){
		.name = store->name,
		.base_name = store->base_name,
		.low_percent = store->low_percent,
		.pause_when_full = store->pause_when_full,
		.volumes = store->num_volumes,
	};
	uuid_copy(ret_info->uuid, store->uuid);
	if (store->blobs != NULL) {
		blob_store_get_info(store->blobs, &ret_info->blob);
		ret_info->max_growable_bytes = max_growable(&ret_info->blob);
	}
}

const char *
lvol_store_name(const struct lvol_store *store)
{
	return store->name;
}

void
lvol_store_uuid(const struct lvol_store *store, uuid_t ret_uuid)
{
	uuid_copy(ret_uuid, store->uuid);
}

int
lvol_store_usable(const struct lvol_store *store, struct err *err)
{
	struct blob_store_info info;

	if (!store->there || store->leaving != STORE_STAYS) {
		return err_set(err, -ENODEV, "store '%s' is on its way out", store->name);
	}
	blob_store_get_info(store->blobs, &info);
	if (info.broken) {
		return err_set(err, -EROFS, "store '%s': its metadata could not be written before; load it again", store->name);
	}
	if (info.readonly) {
		return err_set(err, -EROFS, "store '%s' is read-only", store->name);
	}
	return 0;
}

/* An op that changes it: NULL: it has been answered, or will be. */
static struct lvol_op *
start_change(struct lvol_store *store, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_done(store, NULL, done, ctx);

	if (op != NULL && lvol_store_usable(store, &op->err) != 0) {
		lvol_op_end(op, op->err.code);
		return NULL;
	}
	store->found = false;
	return op;
}

/* ---- Renaming ---- */

static void
renamed(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct lvol_store *store = op->store;
	struct lvol *lvol;

	if (status == 0) {
		memcpy(store->name, store->new_name, sizeof(store->name));
		LIST_FOREACH (lvol, &store->volumes, link) {
			lvol_bdev_set_alias(lvol);
		}
	}
	store->new_name[0] = '\0';
	lvol_op_end_with(op, status, err);
}

void
lvol_store_rename(struct lvol_store *store, const char *name, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = start_change(store, done, ctx);

	if (op == NULL) {
		return;
	}
	if (lvol_name_check(name, "store", &op->err) != 0) {
		lvol_op_end(op, op->err.code);
	} else if (strcmp(name, store->name) == 0) {
		lvol_op_end(op, 0);
	} else if (lvol_store_name_taken(name, NULL)) {
		lvol_op_end(op, err_set(&op->err, -EEXIST, "a store named '%s' exists already", name));
	} else if (store->new_name[0] != '\0') {
		lvol_op_end(op, err_set(&op->err, -EBUSY, "store '%s' is being renamed", store->name));
	} else {
		strcpy(store->new_name, name);
		op->xattrs[0] = (struct blob_xattr){LVOL_XATTR_NAME, store->new_name, strlen(name) + 1};
		blob_set_xattrs(store->super, op->xattrs, 1, renamed, op);
	}
}

/* ---- Growing ---- */

static void
grown(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;

	if (status == 0) {
		struct blob_store_info info;

		blob_store_get_info(op->store->blobs, &info);
		LOG_NOTICE(BDEV, op->store->name, "has grown to %llu clusters",
			   (unsigned long long)info.total_data_clusters);
	}
	lvol_op_end_with(op, status, err);
}

void
lvol_store_grow(struct lvol_store *store, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = start_change(store, done, ctx);

	if (op != NULL) {
		store->dev->dev.num_blocks = bdev_num_blocks(store->dev->bdev);
		blob_store_grow(store->blobs, grown, op);
	}
}

/* ---- Limits ---- */

void
lvol_store_read_limits(struct lvol_store *store)
{
	size_t bytes = 0;
	const uint8_t *x = blob_get_xattr(store->super, LVOL_XATTR_LIMITS, &bytes);

	store->low_percent = LVOL_LOW_PERCENT_DEFAULT;
	store->pause_when_full = false;
	if (x != NULL && bytes >= sizeof(struct limits) && x[0] <= 100) {
		store->low_percent = x[0];
		store->pause_when_full = x[1] != 0;
	}
	blob_store_set_limits(store->blobs, store->low_percent, store->pause_when_full);
}

static void
limits_kept(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct lvol_store *store = op->store;

	if (status == 0) {
		store->low_percent = op->low_percent;
		store->pause_when_full = op->pause;
		blob_store_set_limits(store->blobs, op->low_percent, op->pause);
	}
	lvol_op_end_with(op, status, err);
}

void
lvol_store_set_limits(struct lvol_store *store, unsigned low_percent, bool pause, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = start_change(store, done, ctx);
	struct limits limits = {(uint8_t)low_percent, pause};

	if (op == NULL) {
		return;
	}
	if (low_percent > 100) {
		lvol_op_end(op, err_set(&op->err, -EINVAL, "a watermark of %u %% is not possible", low_percent));
		return;
	}
	op->low_percent = low_percent;
	op->pause = pause;
	memcpy(op->text, &limits, sizeof(limits));
	op->xattrs[0] = (struct blob_xattr){LVOL_XATTR_LIMITS, op->text, sizeof(limits)};
	blob_set_xattrs(store->super, op->xattrs, 1, limits_kept, op);
}

/* ---- What others are told ---- */

void
lvol_store_event(void *ctx, struct blob_store *blobs, enum blob_store_event event)
{
	static const char *const types[] = {
		[BLOB_STORE_LOW] = "lvol_store_low",   [BLOB_STORE_LOW_ENDS] = "lvol_store_low_ends",
		[BLOB_STORE_FULL] = "lvol_store_full", [BLOB_STORE_FULL_ENDS] = "lvol_store_full_ends",
		[BLOB_STORE_STALLED] = "lvol_store_stalled", [BLOB_STORE_STALLED_ENDS] = "lvol_store_stalled_ends",
		[BLOB_STORE_BROKEN] = "lvol_store_broken",
	};
	const struct lvol_store *store = ctx;
	struct blob_store_info info;

	blob_store_get_info(blobs, &info);
	if (event == BLOB_STORE_BROKEN) {
		LOG_ERROR(BDEV, store->name, "metadata cannot be written: nothing is changed any more");
	} else if (event == BLOB_STORE_STALLED) {
		LOG_WARNING(BDEV, store->name, "a deleted snapshot could not be merged into its clone: it is tried again");
	} else {
		LOG_NOTICE(BDEV, store->name, "%s: %llu of %llu clusters are free", types[event],
			   (unsigned long long)info.free_clusters, (unsigned long long)info.total_data_clusters);
	}
	notice_send(types[event], NOTICE_TEXT("name", store->name), NOTICE_NUMBER("free_clusters", info.free_clusters),
		    NOTICE_NUMBER("total_data_clusters", info.total_data_clusters));
}

/* It does not keep the store from leaving: that ends the waiting. */
void
lvol_store_wait_idle(struct lvol_store *store, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_done(NULL, NULL, done, ctx);

	if (op == NULL) {
		return;
	}
	if (store->blobs == NULL || store->leaving != STORE_STAYS) {
		lvol_op_end(op, err_set(&op->err, -ENODEV, "store '%s' is on its way out", store->name));
		return;
	}
	blob_store_wait_idle(store->blobs, lvol_op_blob_done, op);
}
