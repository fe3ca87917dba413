/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which volumes there are, what they are called and what they are like.
 *
 * A volume is found from its blob by the blob's id, which is small beyond its base: parents and clones of ten
 * thousand volumes are looked up one by one.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lvol/internal.h"

/* ---- The object ---- */

int
lvol_check_free(struct lvol_store *store, const char *name, struct err *err)
{
	char alias[LVOL_ALIAS_BYTES];
	int rc = lvol_name_check(name, "volume", err);

	if (rc != 0) {
		return rc;
	}
	snprintf(alias, sizeof(alias), "%s/%s", store->name, name);
	if (names_find(&store->by_name, name) != NULL) {
		return err_set(err, -EEXIST, "a volume named '%s' exists already, or is being made", alias);
	}
	if (bdev_find(alias) != NULL) {
		return err_set(err, -EEXIST, "a bdev named '%s' exists already", alias);
	}
	return 0;
}

static struct lvol *
alloc(struct lvol_store *store, const char *name, const uuid_t uuid)
{
	struct lvol *lvol = calloc(1, sizeof(*lvol));

	if (lvol != NULL) {
		lvol->store = store;
		list_init(&lvol->resizes);
		lvol->name.lvol = lvol->new_name.lvol = lvol;
		snprintf(lvol->name.text, sizeof(lvol->name.text), "%s", name);
		uuid_copy(lvol->uuid, uuid);
		list_append(&store->volumes, &lvol->link);
	}
	return lvol;
}

struct lvol *
lvol_new(struct lvol_store *store, const char *name, const uuid_t uuid, struct err *err)
{
	char text[UUID_STR_LEN];
	struct lvol *lvol;
	uuid_t made;

	if (lvol_check_free(store, name, err) != 0) {
		return NULL;
	}
	if (uuid_is_null(uuid)) {
		uuid_generate_random(made);
		uuid = made;
	} else {
		uuid_unparse_lower(uuid, text);
		if (bdev_find(text) != NULL || lvol_find(text) != NULL) {
			err_set(err, -EEXIST, "a bdev with the UUID %s exists already", text);
			return NULL;
		}
	}
	lvol = alloc(store, name, uuid);
	if (lvol == NULL) {
		err_set(err, -ENOMEM, "volume '%s': out of memory", name);
		return NULL;
	}
	uuid_unparse_lower(uuid, lvol->id);
	names_add(&store->by_name, &lvol->name.node, lvol->name.text);
	return lvol;
}

static void
forget_blob(struct lvol *lvol)
{
	if (lvol->blob != NULL) {
		lvol->store->by_blob[lvol->slot] = NULL;
		lvol->blob = NULL;
	}
}

void
lvol_set_there(struct lvol *lvol, bool there)
{
	if (lvol->there != there) {
		lvol->there = there;
		lvol->store->num_volumes += there ? 1u : -1u;
	}
}

void
lvol_free(struct lvol *lvol)
{
	if (lvol == NULL) {
		return;
	}
	forget_blob(lvol);
	lvol_set_there(lvol, false);
	names_remove(&lvol->store->by_name, &lvol->name.node);
	names_remove(&lvol->store->by_name, &lvol->new_name.node);
	list_remove(&lvol->link);
	free(lvol->damage);
	free(lvol);
}

static int
remember_blob(struct lvol *lvol, struct blob *blob)
{
	struct lvol_store *store = lvol->store;
	size_t slot = (size_t)(blob_id(blob) - BLOB_ID_BASE);

	if (slot >= store->by_blob_count) {
		size_t count = MAX(slot + 1, 2 * store->by_blob_count);
		struct lvol **grown = realloc(store->by_blob, count * sizeof(struct lvol *));

		if (grown == NULL) {
			return -ENOMEM;
		}
		memset(grown + store->by_blob_count, 0, (count - store->by_blob_count) * sizeof(struct lvol *));
		store->by_blob = grown;
		store->by_blob_count = count;
	}
	store->by_blob[slot] = lvol;
	lvol->slot = slot;
	lvol->blob = blob;
	return 0;
}

struct lvol *
lvol_of_blob(struct lvol_store *store, const struct blob *blob)
{
	size_t slot = (size_t)(blob_id(blob) - BLOB_ID_BASE);

	return slot < store->by_blob_count ? store->by_blob[slot] : NULL;
}

int
lvol_open_blob(struct lvol *lvol, struct blob *blob, struct err *err)
{
	const struct err *damage = blob_damage(blob); /* without the name, which goes before it where it is said */
	struct err why = ERR_NONE;
	int rc = remember_blob(lvol, blob);

	if (rc != 0) {
		return err_set(err, rc, "volume '%s': out of memory", lvol->name.text);
	}
	lvol_set_there(lvol, true);
	rc = blob_open(blob, &why);
	lvol->open = rc == 0;
	if (rc != 0 && lvol->damage == NULL && (lvol->damage = malloc(sizeof(why))) != NULL) {
		*lvol->damage = damage != NULL ? *damage : why;
	}
	return 0;
}

void
lvol_close_blob(struct lvol *lvol)
{
	if (lvol->open) {
		lvol->open = false;
		blob_close(lvol->blob);
	}
}

/* ---- What a store has when it is loaded ---- */

/* Which may be anything that fits; a name that another has, too, is not entered: it is found by its UUID then. */
static void
take_names(struct lvol *lvol, const struct blob *blob)
{
	const char *name = lvol_text_xattr(blob, LVOL_XATTR_NAME, LVOL_NAME_BYTES);
	const char *uuid = lvol_text_xattr(blob, LVOL_XATTR_UUID, UUID_STR_LEN);
	char store_uuid[UUID_STR_LEN];

	if (name != NULL && name[0] != '\0') {
		strcpy(lvol->name.text, name);
	} else {
		snprintf(lvol->name.text, sizeof(lvol->name.text), "blob_%" PRIu64, blob_id(blob));
	}
	if (names_find(&lvol->store->by_name, lvol->name.text) == NULL) {
		names_add(&lvol->store->by_name, &lvol->name.node, lvol->name.text);
	} else {
		LOG_ERROR(BDEV, lvol->store->name, "has two volumes named '%s'", lvol->name.text);
	}
	if (uuid != NULL && uuid_parse(uuid, lvol->uuid) == 0) {
		uuid_unparse_lower(lvol->uuid, lvol->id);
		return;
	}
	uuid_unparse_lower(lvol->store->uuid, store_uuid);
	snprintf(lvol->id, sizeof(lvol->id), "%s_%" PRIu64, store_uuid, blob_id(blob));
	uuid_generate_sha1(lvol->uuid, lvol->store->uuid, lvol->id, strlen(lvol->id));
}

int
lvol_adopt(struct lvol_store *store, struct blob *blob, struct err *err)
{
	static const uuid_t none;
	struct lvol *lvol;

	if (blob_deleted(blob)) {
		return -ENOENT;
	}
	lvol = alloc(store, "", none);
	if (lvol == NULL) {
		return err_set(err, -ENOMEM, "store '%s': out of memory", store->name);
	}
	take_names(lvol, blob);
	return lvol_open_blob(lvol, blob, err);
}

/* ---- Finding ---- */

struct lvol *
lvol_next(struct lvol_store *store, struct lvol *lvol)
{
	struct list *l = lvol == NULL ? store->volumes.next : lvol->link.next;

	while (l != &store->volumes && !LIST_ENTRY(l, struct lvol, link)->there) {
		l = l->next;
	}
	return l == &store->volumes ? NULL : LIST_ENTRY(l, struct lvol, link);
}

struct lvol *
lvol_find_in(struct lvol_store *store, const char *volume_name)
{
	struct names_node *node = names_find(&store->by_name, volume_name);
	struct lvol *lvol = node == NULL ? NULL : CONTAINER_OF(node, struct lvol_name, node)->lvol;

	/* A name that one is about to get finds nothing yet. */
	return lvol != NULL && lvol->there && node == &lvol->name.node ? lvol : NULL;
}

static struct lvol *
find_by_id(const char *name)
{
	char id[LVOL_ID_BYTES];
	struct lvol_store *store = NULL;
	uuid_t uuid;

	if (uuid_parse(name, uuid) == 0) {
		uuid_unparse_lower(uuid, id);
	} else {
		snprintf(id, sizeof(id), "%s", name);
	}
	while ((store = lvol_store_next(store)) != NULL) {
		struct lvol *lvol = NULL;

		while ((lvol = lvol_next(store, lvol)) != NULL) {
			if (strcmp(lvol->id, id) == 0) {
				return lvol;
			}
		}
	}
	return NULL;
}

struct lvol *
lvol_find(const char *name)
{
	const struct bdev *bdev = bdev_find(name);
	const char *slash = strchr(name, '/');
	char store_name[LVOL_NAME_BYTES];
	struct lvol_store *store;

	if (bdev != NULL) {
		return lvol_of_bdev(bdev);
	}
	if (slash != NULL && (size_t)(slash - name) < sizeof(store_name)) {
		memcpy(store_name, name, (size_t)(slash - name));
		store_name[slash - name] = '\0';
		store = lvol_store_find_name(store_name);
		if (store != NULL) {
			return lvol_find_in(store, slash + 1);
		}
	}
	return find_by_id(name);
}

/* ---- What it is like ---- */

const char *
lvol_name(const struct lvol *lvol)
{
	return lvol->name.text;
}

const char *
lvol_id(const struct lvol *lvol)
{
	return lvol->id;
}

struct lvol_store *
lvol_store_of(const struct lvol *lvol)
{
	return lvol->store;
}

struct bdev *
lvol_bdev(struct lvol *lvol)
{
	return lvol->registered ? &lvol->bdev : NULL;
}

const struct err *
lvol_damage(const struct lvol *lvol)
{
	return lvol->damage;
}

static struct lvol *
visible_parent(struct lvol *lvol)
{
	struct blob *p = blob_parent(lvol->blob);

	while (p != NULL && lvol_of_blob(lvol->store, p) == NULL) {
		p = blob_parent(p);
	}
	return p == NULL ? NULL : lvol_of_blob(lvol->store, p);
}

void
lvol_get_info(struct lvol *lvol, struct lvol_info *ret_info)
{
	struct lvol_store *store = lvol->store;
	const struct blob *blob = lvol->blob;
	struct blob_store_info info;
	size_t bytes = 0;
	const char *external;

	blob_store_get_info(store->blobs, &info);
	external = blob_external_id(blob, &bytes);
	*ret_info = (struct lvol_info){
		.name = lvol->name.text,
		.id = lvol->id,
		.store = store,
		.base_name = store->base_name,
		.blob_id = blob_id(blob),
		.num_clusters = blob_num_clusters(blob),
		.allocated_clusters = blob_allocated_clusters(blob),
		.bytes = blob_num_clusters(blob) * info.cluster_bytes,
		.clear = blob_clear_method(blob),
		.thin = blob_thin(blob),
		.readonly = blob_readonly(blob),
		.snapshot = blob_is_snapshot(blob),
		.clone = blob_parent(blob) != NULL,
		.external_clone = external != NULL,
		.degraded = blob_degraded(blob),
		.damaged = blob_damaged(blob),
		.parent = visible_parent(lvol),
		.external_name = external != NULL && bytes > 0 && strnlen(external, bytes) == bytes - 1 ? external : NULL,
	};
	snprintf(ret_info->alias, sizeof(ret_info->alias), "%s/%s", store->name, lvol->name.text);
}

/* The clone after `blob` below top's, first that of a hidden one. */
static struct blob *
clone_after(const struct blob *top, const struct blob *blob, bool into)
{
	struct blob *next = into ? blob_first_clone(blob) : NULL;

	while (next == NULL && blob != top) {
		next = blob_next_clone(blob);
		blob = blob_parent(blob);
	}
	return next;
}

struct lvol *
lvol_next_clone(struct lvol *lvol, struct lvol *clone)
{
	struct blob *b = clone == NULL ? clone_after(lvol->blob, lvol->blob, true)
				       : clone_after(lvol->blob, clone->blob, false);

	while (b != NULL && lvol_of_blob(lvol->store, b) == NULL) {
		b = clone_after(lvol->blob, b, true);
	}
	return b == NULL ? NULL : lvol_of_blob(lvol->store, b);
}

static void
put_extent(struct bdev_extent *extents, unsigned *count, uint64_t blocks, uint32_t blob_flags)
{
	uint32_t flags = ((blob_flags & BLOB_EXTENT_ALLOCATED) != 0 ? BDEV_EXTENT_ALLOCATED : 0) |
			 ((blob_flags & BLOB_EXTENT_ZERO) != 0 ? BDEV_EXTENT_ZERO : 0) |
			 ((blob_flags & BLOB_EXTENT_CHANGED) != 0 ? BDEV_EXTENT_CHANGED : 0);

	if (*count > 0 && extents[*count - 1].flags == flags) {
		extents[*count - 1].num_blocks += blocks;
	} else {
		extents[(*count)++] = (struct bdev_extent){blocks, flags};
	}
}

int
lvol_extents(struct lvol *lvol, struct lvol *since, uint64_t lba, struct bdev_extent *extents, unsigned max,
	     unsigned *ret_count, struct err *err)
{
	struct blob_store_info info;
	uint64_t cluster_blocks, cluster, end, skip;
	unsigned count = 0;

	if (lvol->blob == NULL || blob_damaged(lvol->blob)) {
		return err_set(err, -EILSEQ, "volume '%s' cannot be opened", lvol->name.text);
	}
	if (since == lvol) {
		return err_set(err, -EINVAL, "'%s' is the volume itself, not a snapshot below it", lvol->name.text);
	}
	blob_store_get_info(lvol->store->blobs, &info);
	cluster_blocks = info.cluster_bytes / info.io_unit_bytes;
	end = blob_num_clusters(lvol->blob);
	cluster = lba / cluster_blocks;
	skip = lba % cluster_blocks;
	if (cluster >= end) {
		return err_set(err, -ERANGE, "volume '%s' has %" PRIu64 " blocks", lvol->name.text, end * cluster_blocks);
	}
	while (cluster < end && count < max) {
		uint32_t flags = 0;
		uint64_t n = blob_diff(lvol->blob, since == NULL ? NULL : since->blob, cluster, &flags);

		if (n == 0) {
			return err_set(err, -EINVAL, "'%s' is no snapshot below '%s'",
				       since == NULL ? "" : since->name.text, lvol->name.text);
		}
		put_extent(extents, &count, n * cluster_blocks - skip, flags);
		cluster += n;
		skip = 0;
	}
	*ret_count = count;
	return 0;
}
