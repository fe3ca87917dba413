/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Long work on volumes: giving them storage of their own (inflate, decouple), and copying what is theirs (shallow
 * copy). Each is a job, which people can watch and cancel; one at a time on a volume. A store that leaves cancels
 * them.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lvol/internal.h"

#define COPIES_KEPT_MAX 64

/* A shallow copy, until somebody has asked how it ended. */
struct copy {
	struct list link;
	uint32_t id;
	struct lvol_copy_status status;
};

static struct list copies = {&copies, &copies};
static unsigned num_copies;
static uint32_t last_copy;

/* ---- One of them ---- */

static void
cancel(void *ctx)
{
	struct lvol_op *op = ctx;

	blob_work_cancel(&op->work);
}

static void
progress(void *ctx, uint64_t done_clusters, uint64_t of)
{
	struct lvol_op *op = ctx;

	job_set_total(op->job, of);
	job_progress(op->job, done_clusters);
}

static void
ended(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;

	op->lvol->working = NULL;
	list_remove(&op->link);
	job_end(op->job, status, err == NULL || status == 0 ? NULL : err_text(err));
	lvol_op_end_with(op, status, err);
}

/* From now on op's volume is at work. */
static void
begin(struct lvol_op *op, const char *kind, uint64_t total, const char *text)
{
	struct lvol *lvol = op->lvol;
	char alias[LVOL_ALIAS_BYTES];

	snprintf(alias, sizeof(alias), "%s/%s", lvol->store->name, lvol->name.text);
	op->work = (struct blob_work){.progress = progress, .done = ended, .ctx = op};
	op->job = job_start(&(struct job_options){
		.kind = kind, .object = alias, .unit = "clusters", .text = text, .total = total, .cancel = cancel, .ctx = op});
	lvol->working = op;
	list_append(&lvol->store->works, &op->link);
}

static int
check_idle(const struct lvol *lvol, struct err *err)
{
	return lvol->working == NULL ? 0 : err_set(err, -EBUSY, "long work on volume '%s' is under way", lvol->name.text);
}

void
lvol_work_cancel_all(struct lvol_store *store)
{
	struct lvol_op *op;

	LIST_FOREACH (op, &store->works, link) {
		blob_work_cancel(&op->work);
	}
}

/* ---- Storage of its own ---- */

static void
start(struct lvol *lvol, bool inflate, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_start_change(lvol, done, ctx);

	if (op == NULL) {
		return;
	}
	if (check_idle(lvol, &op->err) != 0) {
		lvol_op_end(op, -EBUSY);
	} else if (inflate) {
		begin(op, "lvol_inflate", blob_num_clusters(lvol->blob), "allocates all clusters");
		blob_inflate(lvol->blob, &op->work);
	} else {
		begin(op, "lvol_decouple", blob_num_clusters(lvol->blob), "takes over what its parent has");
		blob_decouple(lvol->blob, &op->work);
	}
}

void
lvol_inflate(struct lvol *lvol, lvol_done_fn done, void *ctx)
{
	start(lvol, true, done, ctx);
}

void
lvol_decouple(struct lvol *lvol, lvol_done_fn done, void *ctx)
{
	start(lvol, false, done, ctx);
}

/* ---- Shallow copies ---- */

static struct copy *
find_copy(uint32_t id)
{
	struct copy *c;

	LIST_FOREACH (c, &copies, link) {
		if (c->id == id) {
			return c;
		}
	}
	return NULL;
}

static void
forget(struct copy *c)
{
	list_remove(&c->link);
	free(c);
	num_copies--;
}

/* The oldest that has ended, when nobody asks. */
static void
forget_some(void)
{
	struct copy *c, *next;

	LIST_FOREACH_SAFE (c, next, &copies, link) {
		if (num_copies < COPIES_KEPT_MAX) {
			return;
		}
		if (c->status.ended) {
			forget(c);
		}
	}
}

static void
copy_progress(void *ctx, uint64_t done_clusters, uint64_t of)
{
	struct lvol_op *op = ctx;
	struct copy *c = find_copy(op->copy_id);

	progress(ctx, done_clusters, of);
	c->status.copied_clusters = done_clusters;
	c->status.total_clusters = of;
}

static void
copy_ended(void *ctx, int status, const struct err *err)
{
	struct lvol_op *op = ctx;
	struct copy *c = find_copy(op->copy_id);

	c->status.ended = true;
	c->status.status = status;
	if (status == 0) {
		c->status.copied_clusters = c->status.total_clusters;
	}
	ended(ctx, status, err);
}

static int
open_target(struct lvol *lvol, const char *bdev_name, struct lvol_dev **ret_dev, struct err *err)
{
	struct blob_store_info info;
	struct lvol_dev *dev;
	int rc = lvol_usable(lvol, err);

	if (rc == 0 && !blob_readonly(lvol->blob)) {
		rc = err_set(err, -EPERM, "volume '%s' is not read-only, and changes while it is copied", lvol->name.text);
	}
	if (rc == 0) {
		rc = check_idle(lvol, err);
	}
	if (rc == 0) {
		rc = lvol_dev_open(bdev_name, BDEV_CLAIM_WRITE_ONE, &dev, err);
	}
	if (rc != 0) {
		return rc;
	}
	blob_store_get_info(lvol->store->blobs, &info);
	if (dev->dev.num_blocks * dev->dev.block_size < blob_num_clusters(lvol->blob) * info.cluster_bytes) {
		rc = err_set(err, -EINVAL, "bdev '%s' is smaller than volume '%s'", bdev_name, lvol->name.text);
	} else if (dev->dev.block_size > info.io_unit_bytes) {
		rc = err_set(err, -EINVAL, "bdev '%s' has larger blocks than volume '%s'", bdev_name, lvol->name.text);
	}
	if (rc != 0) {
		lvol_dev_close(dev);
		return rc;
	}
	*ret_dev = dev;
	return 0;
}

int
lvol_shallow_copy_start(struct lvol *lvol, const char *bdev_name, uint32_t *ret_id, struct err *err)
{
	uint64_t total = lvol->blob == NULL ? 0 : blob_allocated_clusters(lvol->blob);
	struct lvol_dev *dev = NULL;
	int rc = open_target(lvol, bdev_name, &dev, err);
	struct lvol_op *op;
	struct copy *c;

	if (rc != 0) {
		return rc;
	}
	c = calloc(1, sizeof(*c));
	op = c == NULL ? NULL : lvol_op_start(lvol->store, lvol);
	if (op == NULL) {
		free(c);
		lvol_dev_close(dev);
		return err_set(err, -ENOMEM, "out of memory");
	}
	forget_some();
	c->id = ++last_copy;
	c->status.total_clusters = total;
	list_append(&copies, &c->link);
	num_copies++;
	op->copy_dev = dev;
	op->copy_id = c->id;
	begin(op, "lvol_shallow_copy", total, "copies what it has itself");
	op->work.progress = copy_progress;
	op->work.done = copy_ended;
	*ret_id = c->id;
	blob_shallow_copy(lvol->blob, &dev->dev, &op->work);
	return 0;
}

int
lvol_shallow_copy_check(uint32_t id, struct lvol_copy_status *ret_status)
{
	struct copy *c = find_copy(id);

	if (c == NULL) {
		return -ENODEV;
	}
	*ret_status = c->status;
	if (c->status.ended) {
		forget(c);
	}
	return 0;
}
