/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What changes volumes. Each change of the blobstore becomes one of volumes: names are taken before, bdevs follow after.
 *
 *	delete: the volume is listed no more -> what is asked of it ends -> its bdev goes, its users let go -> the blob is
 *	closed, and deleted -> answered. When the blobstore refuses, it is there again.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lvol/internal.h"

/* ---- Whether it may be changed ---- */

int
lvol_usable(struct lvol *lvol, struct err *err)
{
	int rc = lvol_store_usable(lvol->store, err);

	if (rc != 0) {
		return rc;
	}
	if (!lvol->there) {
		return err_set(err, -ENODEV, "volume '%s' is on its way out", lvol->name.text);
	}
	if (!lvol->open) {
		return err_set(err, -EILSEQ, "volume '%s' cannot be opened: %s", lvol->name.text,
			       lvol->damage == NULL ? "it is damaged" : err_text(lvol->damage));
	}
	lvol->store->found = false;
	return 0;
}

struct lvol_op *
lvol_start_change(struct lvol *lvol, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_done(lvol->store, lvol, done, ctx);

	if (op != NULL && lvol_usable(lvol, &op->err) != 0) {
		lvol_op_end(op, op->err.code);
		return NULL;
	}
	return op;
}

/* ---- New ones ---- */

/* How many they are; origin: of the op, "" leaves it out. */
static unsigned
fill_xattrs(struct blob_xattr xattrs[LVOL_XATTRS_MAX], const struct lvol *lvol, const char *origin)
{
	xattrs[0] = (struct blob_xattr){LVOL_XATTR_NAME, lvol->name.text, strlen(lvol->name.text) + 1};
	xattrs[1] = (struct blob_xattr){LVOL_XATTR_UUID, lvol->id, strlen(lvol->id) + 1};
	xattrs[2] = (struct blob_xattr){LVOL_XATTR_ORIGIN, origin, UUID_STR_LEN};
	return origin[0] == '\0' ? 2 : 3;
}

static void
take_origin(struct lvol_op *op, const uuid_t origin)
{
	if (op != NULL && origin != NULL) {
		uuid_unparse_lower(origin, op->origin);
	}
}

/* The blob is there for good; whatever is wrong with the bdev does not undo that. */
static int
bring_up(struct lvol *lvol, struct blob *blob, struct err *err)
{
	int rc = lvol_open_blob(lvol, blob, err);

	if (rc == 0 && lvol->store->leaving == STORE_STAYS) {
		rc = lvol_bdev_register(lvol, err);
	}
	if (rc != 0) {
		LOG_ERROR(BDEV, lvol->id, "volume '%s/%s' was made, but has no bdev: %s", lvol->store->name, lvol->name.text,
			  err_text(err));
	}
	return rc;
}

static void
made(void *ctx, struct blob *blob, int status, const struct err *err)
{
	struct lvol_op *op = ctx;

	if (status != 0) {
		lvol_free(op->made);
		op->made = NULL;
		lvol_op_end_with(op, status, err);
		return;
	}
	lvol_op_end(op, bring_up(op->made, blob, &op->err));
}

/* The beginning of all that make one. False: op ends, or was never made. */
static bool
start_made(struct lvol_store *store, struct lvol *of, const char *name, const uuid_t uuid, struct lvol_op *op)
{
	static const uuid_t none;

	if (op == NULL) {
		return false;
	}
	if ((of != NULL ? lvol_usable(of, &op->err) : lvol_store_usable(store, &op->err)) == 0) {
		store->found = false;
		op->made = lvol_new(store, name, uuid == NULL ? none : uuid, &op->err);
	}
	if (op->made == NULL) {
		lvol_op_end(op, op->err.code);
		return false;
	}
	return true;
}

static void
not_made(struct lvol_op *op, int status)
{
	lvol_free(op->made);
	op->made = NULL;
	lvol_op_end(op, status);
}

static uint64_t
clusters_of(const struct lvol_store *store, uint64_t bytes)
{
	struct blob_store_info info;

	blob_store_get_info(store->blobs, &info);
	return bytes / info.cluster_bytes + (bytes % info.cluster_bytes != 0);
}

void
lvol_create(struct lvol_store *store, const struct lvol_options *options, lvol_made_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_made(store, NULL, done, ctx);
	struct blob_options blob;

	if (!start_made(store, NULL, options->name, options->uuid, op)) {
		return;
	}
	if (options->bytes == 0) {
		not_made(op, err_set(&op->err, -EINVAL, "volume '%s' has no size", options->name));
		return;
	}
	take_origin(op, uuid_is_null(options->origin) ? NULL : options->origin);
	blob = (struct blob_options){
		.num_clusters = clusters_of(store, options->bytes),
		.thin = options->thin,
		.clear = options->clear,
		.xattrs = op->xattrs,
		.num_xattrs = fill_xattrs(op->xattrs, op->made, op->origin),
	};
	blob_create(store->blobs, &blob, made, op);
}

void
lvol_clone(struct lvol *snapshot, const char *name, lvol_made_fn done, void *ctx)
{
	lvol_clone_with_origin(snapshot, name, NULL, done, ctx);
}

void
lvol_clone_with_origin(struct lvol *snapshot, const char *name, const uuid_t origin, lvol_made_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_made(snapshot->store, snapshot, done, ctx);
	unsigned count;

	if (!start_made(snapshot->store, snapshot, name, NULL, op)) {
		return;
	}
	if (!blob_readonly(snapshot->blob)) {
		not_made(op, err_set(&op->err, -EINVAL, "volume '%s' is no snapshot, nor read-only", snapshot->name.text));
		return;
	}
	take_origin(op, origin);
	count = fill_xattrs(op->xattrs, op->made, op->origin);
	blob_clone(snapshot->blob, op->xattrs, count, made, op);
}

/* Opens and claims a bdev that is to be an external snapshot, so that what is wrong with it is said at once; op holds
 * it until it is answered, then the blobstore has it. *ret_bytes: its size. */
static int
open_parent_bdev(struct lvol_store *store, const char *bdev_name, struct lvol_op *op, uint64_t *ret_bytes)
{
	struct bdev *bdev = bdev_find(bdev_name);
	const struct lvol *same = bdev == NULL ? NULL : lvol_carrier(bdev, store);
	struct blob_store_info info;
	uuid_t uuid;
	int rc;

	if (same != NULL && lvol_of_bdev(bdev) == NULL) {
		return err_set(&op->err, -EINVAL, "bdev '%s' stands on '%s', a volume of the same store", bdev_name,
			       same->name.text);
	}
	if (same != NULL) {
		return err_set(&op->err, -EINVAL, "'%s' is a volume of the same store, and is cloned as such", bdev_name);
	}
	rc = lvol_dev_open(bdev_name, BDEV_CLAIM_WRITE_NONE, &op->copy_dev, &op->err);
	if (rc != 0) {
		return rc;
	}
	blob_store_get_info(store->blobs, &info);
	*ret_bytes = op->copy_dev->dev.num_blocks * op->copy_dev->dev.block_size;
	if (op->copy_dev->dev.block_size > info.io_unit_bytes) {
		return err_set(&op->err, -EINVAL, "bdev '%s' has larger blocks than the store, %u bytes", bdev_name,
			       info.io_unit_bytes);
	}
	if (*ret_bytes % info.cluster_bytes != 0) {
		return err_set(&op->err, -EINVAL, "the size of bdev '%s' is no multiple of the clusters of %u bytes", bdev_name,
			       info.cluster_bytes);
	}
	bdev_uuid(op->copy_dev->bdev, uuid);
	uuid_unparse_lower(uuid, op->text);
	return 0;
}

void
lvol_clone_bdev(struct lvol_store *store, const char *bdev_name, const char *name, lvol_made_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_made(store, NULL, done, ctx);
	struct blob_options blob;
	uint64_t bytes = 0;
	int rc;

	if (!start_made(store, NULL, name, NULL, op)) {
		return;
	}
	rc = open_parent_bdev(store, bdev_name, op, &bytes);
	if (rc != 0) {
		not_made(op, rc);
		return;
	}
	blob = (struct blob_options){
		.num_clusters = clusters_of(store, bytes),
		.thin = true,
		.xattrs = op->xattrs,
		.num_xattrs = fill_xattrs(op->xattrs, op->made, ""),
		.external_id = op->text,
		.external_id_bytes = UUID_STR_LEN,
	};
	blob_create(store->blobs, &blob, made, op);
}

/* ---- Snapshots ---- */

static void
snapshots_made(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct err bdev_err = ERR_NONE;
	int rc = 0;

	for (unsigned i = 0; i < op->count; i++) {
		struct lvol_part *p = &op->parts[i];

		if (status != 0) {
			lvol_free(p->made);
			continue;
		}
		if (bring_up(p->made, op->snapshots[i].snapshot, &bdev_err) != 0) {
			rc = bdev_err.code;
		}
		if (op->members != NULL) {
			op->members[i].snapshot = p->made;
		}
		op->made = p->made;
	}
	if (status == 0) {
		lvol_op_end_with(op, rc, &bdev_err);
	} else {
		lvol_op_end_with(op, status, err);
	}
}

static int
check_member(const struct lvol_group_member *m, struct lvol_store *store, struct err *err)
{
	if (m->lvol->store != store) {
		return err_set(err, -EXDEV, "volume '%s' is not in store '%s': a group is of one store", m->lvol->name.text,
			       store->name);
	}
	if (m->lvol->marked) {
		return err_set(err, -EINVAL, "volume '%s' is in the group twice", m->lvol->name.text);
	}
	return lvol_usable(m->lvol, err);
}

/* Takes the names; op->count grows with each. */
static int
add_parts(struct lvol_op *op, struct lvol_store *store, const struct lvol_group_member *members, unsigned count)
{
	static const uuid_t none;

	for (unsigned i = 0; i < count; i++) {
		struct lvol_part *p = &op->parts[i];

		if (check_member(&members[i], store, &op->err) != 0 ||
		    (p->made = lvol_new(store, members[i].name, none, &op->err)) == NULL) {
			return op->err.code;
		}
		p->lvol = members[i].lvol;
		p->lvol->ops++;
		p->lvol->marked = true;
		op->count++;
		op->snapshots[i] = (struct blob_snapshot){.blob = p->lvol->blob,
							  .xattrs = p->xattrs,
							  .num_xattrs = fill_xattrs(p->xattrs, p->made, op->origin)};
	}
	return 0;
}

/* Answers op in the end. */
static void
snapshot(struct lvol_op *op, struct lvol_store *store, const struct lvol_group_member *members, unsigned count)
{
	int rc;

	op->parts = calloc(count, sizeof(*op->parts));
	op->snapshots = calloc(count, sizeof(*op->snapshots));
	if (op->parts == NULL || op->snapshots == NULL) {
		lvol_op_end(op, err_set(&op->err, -ENOMEM, "out of memory"));
		return;
	}
	rc = add_parts(op, store, members, count);
	for (unsigned i = 0; i < op->count; i++) {
		op->parts[i].lvol->marked = false;
		if (rc != 0) {
			lvol_free(op->parts[i].made);
		}
	}
	if (rc != 0) {
		lvol_op_end(op, rc);
		return;
	}
	blob_snapshot(op->snapshots, count, snapshots_made, op);
}

void
lvol_snapshot(struct lvol *lvol, const char *name, lvol_made_fn done, void *ctx)
{
	lvol_snapshot_with_origin(lvol, name, NULL, done, ctx);
}

void
lvol_snapshot_with_origin(struct lvol *lvol, const char *name, const uuid_t origin, lvol_made_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_made(lvol->store, NULL, done, ctx);
	struct lvol_group_member member = {.lvol = lvol, .name = name};

	take_origin(op, origin);

	if (op != NULL) {
		snapshot(op, lvol->store, &member, 1);
	}
}

void
lvol_snapshot_group(struct lvol_group_member *members, unsigned count, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_done(count == 0 ? NULL : members[0].lvol->store, NULL, done, ctx);

	if (op == NULL) {
		return;
	}
	if (count == 0) {
		lvol_op_end(op, err_set(&op->err, -EINVAL, "a group has at least one volume"));
		return;
	}
	op->members = members;
	snapshot(op, members[0].lvol->store, members, count);
}

/* ---- Name, size, read-only ---- */

static void
renamed(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct lvol *lvol = op->lvol;
	struct names *names = &lvol->store->by_name;

	names_remove(names, &lvol->new_name.node);
	if (status == 0) {
		names_remove(names, &lvol->name.node);
		strcpy(lvol->name.text, lvol->new_name.text);
		names_add(names, &lvol->name.node, lvol->name.text);
		lvol_bdev_set_alias(lvol);
	}
	lvol->new_name.text[0] = '\0';
	lvol_op_end_with(op, status, err);
}

void
lvol_rename(struct lvol *lvol, const char *name, lvol_done_fn done, void *ctx)
{
	lvol_rename_with_origin(lvol, name, NULL, done, ctx);
}

void
lvol_rename_with_origin(struct lvol *lvol, const char *name, const uuid_t origin, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_start_change(lvol, done, ctx);

	if (op == NULL) {
		return;
	}
	if (name != NULL && strcmp(name, lvol->name.text) == 0) {
		lvol_op_end(op, 0);
	} else if (lvol->new_name.text[0] != '\0') {
		lvol_op_end(op, err_set(&op->err, -EBUSY, "volume '%s' is being renamed", lvol->name.text));
	} else if (lvol_check_free(lvol->store, name, &op->err) != 0) {
		lvol_op_end(op, op->err.code);
	} else {
		strcpy(lvol->new_name.text, name);
		names_add(&lvol->store->by_name, &lvol->new_name.node, lvol->new_name.text);
		take_origin(op, origin);
		op->xattrs[0] = (struct blob_xattr){LVOL_XATTR_NAME, lvol->new_name.text, strlen(name) + 1};
		op->xattrs[1] = (struct blob_xattr){LVOL_XATTR_ORIGIN, op->origin, UUID_STR_LEN};
		blob_set_xattrs(lvol->blob, op->xattrs, op->origin[0] == '\0' ? 1 : 2, renamed, op);
	}
}

/* The bdev shows the size that the blob has. */
static void
show_size(struct lvol *lvol)
{
	struct blob_store_info info;
	int rc;

	if (!lvol->registered) {
		return;
	}
	blob_store_get_info(lvol->store->blobs, &info);
	rc = bdev_resize(&lvol->bdev, blob_num_clusters(lvol->blob) * (info.cluster_bytes / info.io_unit_bytes));
	if (rc != 0 && rc != -ENODEV) {
		LOG_ERROR(BDEV, lvol->id, "cannot show its new size: %s", strerror(-rc));
	}
}

static void resize_next(struct lvol *lvol);

static void
resized(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct lvol *lvol = op->lvol;
	struct err why = ERR_NONE;

	show_size(lvol);
	/* One that had no size had no bdev. */
	if (status == 0 && lvol->there && lvol_bdev_register(lvol, &why) != 0) {
		LOG_ERROR(BDEV, lvol->id, "has no bdev: %s", err_text(&why));
	}
	list_remove(&op->link);
	lvol_op_end_with(op, status, err);
	resize_next(lvol);
}

/* 0; or why not, and nothing was begun. */
static int
resize_begin(struct lvol_op *op)
{
	struct lvol *lvol = op->lvol;
	uint64_t clusters = clusters_of(lvol->store, op->bytes);
	struct blob_store_info info;
	int rc = lvol_usable(lvol, &op->err);

	if (rc != 0) {
		return rc;
	}
	blob_store_get_info(lvol->store->blobs, &info);
	/* First nobody may reach what will be cut off. */
	if (clusters < blob_num_clusters(lvol->blob) && lvol->registered) {
		rc = bdev_resize(&lvol->bdev, clusters * (info.cluster_bytes / info.io_unit_bytes));
		if (rc != 0) {
			return err_set(&op->err, rc, "volume '%s' is open, and cannot become smaller", lvol->name.text);
		}
	}
	blob_resize(lvol->blob, clusters, resized, op);
	return 0;
}

static void
resize_next(struct lvol *lvol)
{
	while (!list_empty(&lvol->resizes)) {
		struct lvol_op *op = LIST_FIRST(&lvol->resizes, struct lvol_op, link);
		int rc = resize_begin(op);

		if (rc == 0) {
			return;
		}
		list_remove(&op->link);
		lvol_op_end(op, rc);
	}
}

/* One at a time: whether it becomes smaller is known when those before it are over. */
void
lvol_resize(struct lvol *lvol, uint64_t bytes, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_start_change(lvol, done, ctx);
	bool first = list_empty(&lvol->resizes);

	if (op == NULL) {
		return;
	}
	if (clusters_of(lvol->store, bytes) == 0) {
		lvol_op_end(op, err_set(&op->err, -EINVAL, "volume '%s' cannot have no size", lvol->name.text));
		return;
	}
	op->bytes = bytes;
	list_append(&lvol->resizes, &op->link);
	if (first) {
		resize_next(lvol);
	}
}

static void
bdev_readonly_now(void *ctx)
{
	lvol_op_end(ctx, 0);
}

static void
readonly_now(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;

	if (status == 0 && op->lvol->registered &&
	    bdev_set_readonly(&op->lvol->bdev, bdev_readonly_now, op) == 0) {
		return;
	}
	lvol_op_end_with(op, status, err);
}

void
lvol_set_read_only(struct lvol *lvol, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_start_change(lvol, done, ctx);

	if (op != NULL) {
		blob_set_read_only(lvol->blob, readonly_now, op);
	}
}

/* ---- Parents ---- */

/* One that lacked its parent lacks it no more. */
static void
has_parent(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;

	if (status == 0) {
		lvol_external_look(op->store);
	}
	lvol_op_end_with(op, status, err);
}

void
lvol_set_parent(struct lvol *lvol, struct lvol *parent, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_start_change(lvol, done, ctx);

	if (op == NULL) {
		return;
	}
	if (parent->store != lvol->store) {
		lvol_op_end(op, err_set(&op->err, -EINVAL, "'%s' is a volume of another store", parent->name.text));
	} else if (lvol_usable(parent, &op->err) != 0) {
		lvol_op_end(op, op->err.code);
	} else {
		blob_set_parent(lvol->blob, parent->blob, has_parent, op);
	}
}

void
lvol_set_parent_bdev(struct lvol *lvol, const char *bdev_name, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_start_change(lvol, done, ctx);
	const struct bdev *bdev = bdev_find(bdev_name);
	uint64_t bytes = 0;
	int rc;

	if (op == NULL) {
		return;
	}
	if (bdev != NULL && lvol_stands_on(bdev, lvol)) {
		rc = err_set(&op->err, -EINVAL, "bdev '%s' stands on volume '%s' itself", bdev_name, lvol->name.text);
	} else {
		rc = open_parent_bdev(lvol->store, bdev_name, op, &bytes);
	}
	if (rc == 0 && clusters_of(lvol->store, bytes) != blob_num_clusters(lvol->blob)) {
		rc = err_set(&op->err, -EINVAL, "bdev '%s' and volume '%s' differ in size", bdev_name, lvol->name.text);
	}
	if (rc != 0) {
		lvol_op_end(op, rc);
		return;
	}
	blob_set_external(lvol->blob, op->text, UUID_STR_LEN, has_parent, op);
}

/* ---- Deleting ---- */

static void
stays(struct lvol *lvol)
{
	struct blob *blob = lvol->blob;
	struct err err = ERR_NONE;

	lvol->deleting = NULL;
	lvol->delete_begun = false;
	if (lvol_open_blob(lvol, blob, &err) == 0 && lvol->store->leaving == STORE_STAYS &&
	    lvol_bdev_register(lvol, &err) != 0) {
		LOG_ERROR(BDEV, lvol->id, "has no bdev any more: %s", err_text(&err));
	}
}

static void
deleted(void *ctx, int status, const struct err *err)
{
	struct lvol *lvol = ctx;
	struct lvol_op *op = lvol->deleting;

	if (status == 0) {
		lvol_free(lvol);
	} else {
		stays(lvol);
	}
	lvol_op_end_with(op, status, err);
}

void
lvol_proceed(struct lvol *lvol)
{
	struct blob_xattr *hidden;

	if (lvol->deleting == NULL || lvol->delete_begun || lvol->ops > 0 || lvol->has_bdev) {
		return;
	}
	lvol->delete_begun = true;
	lvol_close_blob(lvol);
	hidden = &lvol->deleting->xattrs[0];
	snprintf(lvol->deleting->text, sizeof(lvol->deleting->text), "%s%.*s", LVOL_HIDDEN_PREFIX,
		 (int)(LVOL_NAME_BYTES - sizeof(LVOL_HIDDEN_PREFIX)), lvol->id);
	*hidden = (struct blob_xattr){LVOL_XATTR_NAME, lvol->deleting->text, strlen(lvol->deleting->text) + 1};
	blob_delete(lvol->blob, hidden, 1, deleted, lvol);
}

void
lvol_delete(struct lvol *lvol, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_done(lvol->store, NULL, done, ctx);
	int rc;

	if (op == NULL) {
		return;
	}
	rc = lvol_store_usable(lvol->store, &op->err);
	if (rc == 0 && !lvol->there) {
		rc = err_set(&op->err, -ENODEV, "volume '%s' is on its way out", lvol->name.text);
	}
	if (rc == 0 && lvol->working != NULL) {
		rc = err_set(&op->err, -EBUSY, "long work on volume '%s' is under way", lvol->name.text);
	}
	if (rc != 0) {
		lvol_op_end(op, rc);
		return;
	}
	lvol->store->found = false;
	lvol->deleting = op;
	lvol_set_there(lvol, false);
	lvol_bdev_unregister(lvol);
	lvol_proceed(lvol);
}
