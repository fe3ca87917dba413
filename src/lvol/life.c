/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A store comes, and goes.
 *
 *	                 create, load                          unload, destroy
 *	   (nothing) ---------------> on its way in --> there ----------------> leaving --> ending --> (nothing)
 *	                                    |                    base removed      |           |
 *	                                    +--- failed: blobstore closed          +-----------+--- ops and bdevs have gone
 *
 * When the process ends stores go one after another, the last that came first: one that stands on a volume of another
 * goes before it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lvol/internal.h"

static bool shutting_down;
static void (*shut_down)(void *ctx);
static void *shut_down_ctx;

bool
lvol_shutting_down(void)
{
	return shutting_down;
}

/* ---- The object ---- */

static struct lvol_store *
new_store(struct lvol_dev *dev)
{
	struct lvol_store *store = calloc(1, sizeof(*store));

	if (store == NULL || (store->base_name = strdup(bdev_name(dev->bdev))) == NULL) {
		free(store);
		return NULL;
	}
	list_init(&store->volumes);
	list_init(&store->works);
	list_init(&store->missing);
	list_init(&store->leavers);
	store->dev = dev;
	dev->store = store;
	list_append(&lvol_stores, &store->link);
	return store;
}

static void
free_store(struct lvol_store *store)
{
	lvol_external_forget(store);
	while (!list_empty(&store->volumes)) {
		lvol_free(LIST_FIRST(&store->volumes, struct lvol, link));
	}
	names_release(&store->by_name);
	free(store->by_blob);
	list_remove(&store->link);
	free(store->base_name);
	free(store);
}

static struct blob_store_options
options_for(struct lvol_store *store)
{
	return (struct blob_store_options){
		.type = LVOL_TYPE,
		.event = lvol_store_event,
		.open_external = lvol_open_external,
		.ctx = store,
	};
}

static void shut_down_next(void);

/* ---- It is there, or is not ---- */

static void
is_idle(void *ctx, int status, const struct err *err)
{
	struct lvol_store *store = ctx;

	store->idle = status == 0;
}

/* op has no store: it must not keep one that leaves at once. */
static void
arrived(struct lvol_store *store, struct lvol_op *op)
{
	store->there = true;
	op->store = store;
	store->ops++;
	lvol_op_end(op, 0);
	blob_store_wait_idle(store->blobs, is_idle, store);
	if (store->leaving != STORE_STAYS) { /* its base went, or the process ends */
		lvol_store_leave(store, store->leaving, NULL);
	}
}

static void
closed_after_failure(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct lvol_store *store = op->store;

	op->store = NULL;
	free_store(store);
	lvol_op_end(op, op->status);
	shut_down_next();
}

/* op->err says why; its volumes have no bdevs yet. */
static void
fail(struct lvol_store *store, struct lvol_op *op, int status, bool destroy)
{
	struct lvol *lvol;

	op->status = status;
	op->store = store;
	LIST_FOREACH (lvol, &store->volumes, link) {
		lvol_close_blob(lvol);
	}
	if (store->super != NULL) {
		blob_close(store->super);
	}
	if (destroy) {
		blob_store_destroy(store->blobs, closed_after_failure, op);
	} else {
		blob_store_unload(store->blobs, closed_after_failure, op);
	}
}

/* The blobstore could not be made or loaded, and has closed the device. */
static void
no_blobs(struct lvol_store *store, struct lvol_op *op, int status, const struct err *err)
{
	free_store(store);
	lvol_op_end_with(op, status, err);
	shut_down_next();
}

/* ---- Creating ---- */

static void
super_set(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct lvol_store *store = op->made_store;

	if (status != 0) {
		op->err = *err;
		fail(store, op, status, true);
		return;
	}
	lvol_store_read_limits(store);
	LOG_NOTICE(BDEV, store->name, "store created on '%s'", store->base_name);
	arrived(store, op);
}

static void
super_made(void *ctx, struct blob *blob, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct lvol_store *store = op->made_store;

	if (status == 0) {
		status = blob_open(blob, &op->err);
	} else {
		op->err = *err;
	}
	if (status != 0) {
		fail(store, op, status, true);
		return;
	}
	store->super = blob;
	blob_store_set_super(store->blobs, blob_id(blob), super_set, op);
}

static void
created(void *ctx, struct blob_store *blobs, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct lvol_store *store = op->made_store;
	struct blob_options options = {.xattrs = op->xattrs, .num_xattrs = 2};

	if (status != 0) {
		no_blobs(store, op, status, err);
		return;
	}
	store->blobs = blobs;
	uuid_unparse_lower(store->uuid, op->text);
	op->xattrs[0] = (struct blob_xattr){LVOL_XATTR_UUID, op->text, UUID_STR_LEN};
	op->xattrs[1] = (struct blob_xattr){LVOL_XATTR_NAME, store->name, strlen(store->name) + 1};
	blob_create(blobs, &options, super_made, op);
}

static int
check_options(const struct lvol_store_options *o, const struct bdev *base, struct err *err)
{
	uint32_t cluster = o->cluster_bytes == 0 ? BLOB_CLUSTER_BYTES_DEFAULT : o->cluster_bytes, page = o->md_page_bytes;

	if (lvol_name_check(o->name, "store", err) != 0) {
		return -EINVAL;
	}
	if (page != 0 && (page < 4096 || page > 65536 || (page & (page - 1)) != 0)) {
		return err_set(err, -EINVAL, "metadata pages of %u bytes are not possible: a power of two from 4096 to 65536",
			       page);
	}
	if (cluster % bdev_block_size(base) != 0) {
		return err_set(err, -EINVAL, "clusters of %u bytes are no multiple of the blocks of bdev '%s', %u bytes", cluster,
			       bdev_name(base), bdev_block_size(base));
	}
	if (shutting_down) {
		return err_set(err, -ESHUTDOWN, "store '%s': berthd is stopping", o->name);
	}
	if (lvol_store_name_taken(o->name, uuid_is_null(o->uuid) ? NULL : o->uuid)) {
		return err_set(err, -EEXIST, "a store named '%s', or of its UUID, exists already", o->name);
	}
	if (lvol_store_on(base) != NULL) {
		return err_set(err, -EPERM, "store '%s' stands on bdev '%s'", lvol_store_on(base)->name, bdev_name(base));
	}
	return 0;
}

static int
start_create(const struct lvol_store_options *o, struct lvol_op *op)
{
	struct bdev *base = bdev_find(o->base_name);
	struct blob_store_options options;
	struct lvol_store *store;
	struct lvol_dev *dev;
	int rc;

	if (base == NULL) {
		return err_set(&op->err, -ENODEV, "there is no bdev '%s'", o->base_name);
	}
	rc = check_options(o, base, &op->err);
	if (rc == 0) {
		rc = lvol_dev_open(bdev_name(base), BDEV_CLAIM_WRITE_ONE, &dev, &op->err);
	}
	if (rc != 0) {
		return rc;
	}
	store = new_store(dev);
	if (store == NULL) {
		lvol_dev_close(dev);
		return err_set(&op->err, -ENOMEM, "store '%s': out of memory", o->name);
	}
	strcpy(store->name, o->name);
	if (uuid_is_null(o->uuid)) {
		uuid_generate_random(store->uuid);
	} else {
		uuid_copy(store->uuid, o->uuid);
	}
	options = options_for(store);
	options.cluster_bytes = o->cluster_bytes;
	options.md_page_bytes = o->md_page_bytes;
	options.clear = o->clear;
	options.overwrite = o->overwrite;
	if (o->md_ratio != 0) {
		uint64_t cluster = o->cluster_bytes == 0 ? BLOB_CLUSTER_BYTES_DEFAULT : o->cluster_bytes;
		uint64_t pages = dev->dev.num_blocks / (cluster / dev->dev.block_size) * o->md_ratio / 100;

		options.md_pages = (uint32_t)MIN(MAX(pages, UINT64_C(1)), (uint64_t)UINT32_MAX - 1);
	}
	op->made_store = store;
	rc = blob_store_create(&dev->dev, &options, created, op);
	if (rc != 0) {
		created(op, NULL, rc, NULL);
	}
	return 0;
}

void
lvol_store_create(const struct lvol_store_options *options, lvol_store_made_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_start(NULL, NULL);
	int rc;

	if (op == NULL) {
		struct err err = {-ENOMEM, "out of memory"};

		done(ctx, NULL, -ENOMEM, &err);
		return;
	}
	op->store_done = done;
	op->ctx = ctx;
	rc = start_create(options, op);
	if (rc != 0) {
		lvol_op_end(op, rc);
	}
}

/* ---- Loading ---- */

static int
read_super(struct lvol_store *store, struct err *err)
{
	uint64_t id = blob_store_super(store->blobs);
	struct blob *super = id == BLOB_ID_NONE ? NULL : blob_find(store->blobs, id);
	const char *name, *text;
	uuid_t uuid;
	int rc;

	if (super == NULL) {
		return err_set(err, -EILSEQ, "the blobstore on '%s' has no super blob", store->base_name);
	}
	rc = blob_open(super, err);
	if (rc != 0) {
		return rc;
	}
	store->super = super;
	name = lvol_text_xattr(super, LVOL_XATTR_NAME, LVOL_NAME_BYTES);
	text = lvol_text_xattr(super, LVOL_XATTR_UUID, UUID_STR_LEN);
	if (name == NULL || name[0] == '\0' || text == NULL || uuid_parse(text, uuid) != 0) {
		return err_set(err, -EILSEQ, "the store on '%s' has no name, or no UUID", store->base_name);
	}
	if (lvol_store_name_taken(name, uuid)) {
		return err_set(err, -EEXIST, "the store '%s' on '%s' has the name or the UUID of another", name,
			       store->base_name);
	}
	strcpy(store->name, name);
	uuid_copy(store->uuid, uuid);
	return 0;
}

static int
adopt_volumes(struct lvol_store *store, struct err *err)
{
	struct blob *blob;

	for (blob = blob_first(store->blobs); blob != NULL; blob = blob_next(blob)) {
		int rc = blob == store->super ? 0 : lvol_adopt(store, blob, err);

		if (rc != 0 && rc != -ENOENT) {
			return rc;
		}
	}
	return 0;
}

static void
register_volumes(struct lvol_store *store)
{
	struct err err = ERR_NONE;
	struct lvol *lvol;

	LIST_FOREACH (lvol, &store->volumes, link) {
		if (lvol_bdev_register(lvol, &err) != 0) {
			LOG_ERROR(BDEV, lvol->id, "volume '%s/%s' has no bdev: %s", store->name, lvol->name.text, err_text(&err));
		}
	}
}

static void
loaded(void *ctx, struct blob_store *blobs, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct lvol_store *store = op->made_store;

	if (status != 0) {
		no_blobs(store, op, status, err);
		return;
	}
	store->blobs = blobs;
	status = shutting_down ? err_set(&op->err, -ESHUTDOWN, "berthd is stopping") : read_super(store, &op->err);
	if (status == 0) {
		status = adopt_volumes(store, &op->err);
	}
	if (status != 0) {
		fail(store, op, status, false);
		return;
	}
	lvol_store_read_limits(store);
	LOG_NOTICE(BDEV, store->name, "store found on '%s', %u volumes", store->base_name, store->num_volumes);
	arrived(store, op);
	if (store->external_came) {
		blob_external_arrived(blobs);
	}
	if (store->leaving == STORE_STAYS) {
		register_volumes(store);
	}
}

void
lvol_store_open(struct lvol_dev *dev, bool found, struct lvol_op *op)
{
	struct lvol_store *store = new_store(dev);
	struct blob_store_options options;
	int rc;

	if (store == NULL) {
		lvol_dev_close(dev);
		lvol_op_end(op, err_set(&op->err, -ENOMEM, "out of memory"));
		return;
	}
	store->found = found;
	op->made_store = store;
	options = options_for(store);
	rc = blob_store_load(&dev->dev, &options, loaded, op);
	if (rc != 0) {
		loaded(op, NULL, rc, NULL);
	}
}

void
lvol_store_load(const char *base_name, lvol_store_made_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_start(NULL, NULL);
	const struct bdev *base = bdev_find(base_name);
	struct lvol_dev *dev;
	int rc;

	if (op == NULL) {
		struct err err = {-ENOMEM, "out of memory"};

		done(ctx, NULL, -ENOMEM, &err);
		return;
	}
	op->store_done = done;
	op->ctx = ctx;
	if (shutting_down) {
		rc = err_set(&op->err, -ESHUTDOWN, "berthd is stopping");
	} else if (base != NULL && lvol_store_on(base) != NULL) {
		rc = err_set(&op->err, -EEXIST, "store '%s' stands on bdev '%s'", lvol_store_on(base)->name, base_name);
	} else {
		rc = lvol_dev_open(base_name,
				   base != NULL && bdev_readonly(base) ? BDEV_CLAIM_WRITE_NONE : BDEV_CLAIM_WRITE_ONE, &dev,
				   &op->err);
	}
	if (rc != 0) {
		lvol_op_end(op, rc);
		return;
	}
	lvol_store_open(dev, false, op);
}

/* ---- Leaving ---- */

/* The blobstore has closed the device. */
static void
gone(void *ctx, int status, const struct err *err)
{
	struct lvol_store *store = ctx;

	if (status != 0) {
		LOG_WARNING(BDEV, store->name, "could not be closed in order: %s",
			    err == NULL ? strerror(-status) : err_text(err));
	}
	while (!list_empty(&store->leavers)) {
		struct lvol_op *op = LIST_FIRST(&store->leavers, struct lvol_op, link);

		list_remove(&op->link);
		lvol_op_end_with(op, status, err);
	}
	free_store(store);
	shut_down_next();
}

static void
end(struct lvol_store *store)
{
	struct lvol *lvol;

	store->ending = true;
	LIST_FOREACH (lvol, &store->volumes, link) {
		lvol_close_blob(lvol);
	}
	blob_close(store->super);
	lvol_external_forget(store);
	switch (store->leaving) {
	case STORE_UNLOADS:
		blob_store_unload(store->blobs, gone, store);
		break;
	case STORE_DESTROYS:
		blob_store_destroy(store->blobs, gone, store);
		break;
	default:
		blob_store_abandon(store->blobs, gone, store);
	}
}

void
lvol_store_proceed(struct lvol_store *store)
{
	if (store->there && store->leaving != STORE_STAYS && !store->ending && store->ops == 0 && store->num_bdevs == 0) {
		end(store);
	}
}

void
lvol_store_leave(struct lvol_store *store, int how, struct lvol_op *op)
{
	struct lvol *lvol;

	if (op != NULL) {
		list_append(&store->leavers, &op->link);
	}
	store->leaving = MAX(store->leaving, how);
	if (!store->there || store->ending) {
		return;
	}
	lvol_work_cancel_all(store);
	LIST_FOREACH (lvol, &store->volumes, link) {
		lvol_bdev_unregister(lvol);
	}
	lvol_store_proceed(store);
}

static void
leave(struct lvol_store *store, int how, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_done(NULL, NULL, done, ctx);

	if (op == NULL) {
		return;
	}
	if (store->leaving != STORE_STAYS) {
		lvol_op_end(op, err_set(&op->err, -ENODEV, "store '%s' is on its way out", store->name));
		return;
	}
	lvol_store_leave(store, how, op);
}

void
lvol_store_unload(struct lvol_store *store, lvol_done_fn done, void *ctx)
{
	leave(store, STORE_UNLOADS, done, ctx);
}

void
lvol_store_destroy(struct lvol_store *store, lvol_done_fn done, void *ctx)
{
	leave(store, STORE_DESTROYS, done, ctx);
}

/* ---- The base ---- */

void
lvol_base_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	struct lvol_store *store = ctx;

	if (ev == BDEV_EVENT_REMOVE && store->leaving != STORE_ABANDONS) {
		LOG_WARNING(BDEV, store->there ? store->name : store->base_name, "its base '%s' is removed", store->base_name);
		lvol_store_leave(store, STORE_ABANDONS, NULL);
	}
}

/* What an examination has found and nobody has used does not keep others from the bdev. */
bool
lvol_base_yields(void *ctx)
{
	struct lvol_store *store = ctx;
	const struct lvol *lvol;

	if (!store->there || !store->found || !store->idle || store->leaving != STORE_STAYS || store->ops > 0 ||
	    atomic_load(&store->written)) {
		return false;
	}
	LIST_FOREACH (lvol, &store->volumes, link) {
		if (lvol->registered && bdev_needed(&lvol->bdev)) {
			return false;
		}
	}
	LOG_NOTICE(BDEV, store->name, "nobody uses it, and '%s' is wanted: it goes", store->base_name);
	lvol_store_leave(store, STORE_ABANDONS, NULL);
	return true;
}

/* ---- The process ends ---- */

static void
shut_down_next(void)
{
	void (*done)(void *ctx) = shut_down;
	struct lvol_store *last;

	if (!shutting_down) {
		return;
	}
	if (list_empty(&lvol_stores)) {
		shutting_down = false;
		shut_down = NULL;
		done(shut_down_ctx);
		return;
	}
	last = LIST_ENTRY(lvol_stores.prev, struct lvol_store, link);
	if (last->leaving == STORE_STAYS) {
		lvol_store_leave(last, STORE_UNLOADS, NULL);
	}
}

void
lvol_shutdown(void (*done)(void *ctx), void *ctx)
{
	CHECK(!shutting_down);
	shutting_down = true;
	shut_down = done;
	shut_down_ctx = ctx;
	shut_down_next();
}
