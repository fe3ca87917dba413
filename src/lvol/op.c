/* SPDX-License-Identifier: BSD-3-Clause */
/* One thing that was asked for, from the call to done. While it lives its store stays, and its volume. */
#include <errno.h>
#include <stdlib.h>

#include "lvol/internal.h"

static const struct err no_memory = {-ENOMEM, "out of memory"};

struct lvol_op *
lvol_op_start(struct lvol_store *store, struct lvol *lvol)
{
	struct lvol_op *op = calloc(1, sizeof(*op));

	if (op == NULL) {
		return NULL;
	}
	op->store = store;
	op->lvol = lvol;
	if (store != NULL) {
		store->ops++;
	}
	if (lvol != NULL) {
		lvol->ops++;
	}
	return op;
}

struct lvol_op *
lvol_op_done(struct lvol_store *store, struct lvol *lvol, lvol_done_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_start(store, lvol);

	if (op != NULL) {
		op->done = done;
		op->ctx = ctx;
	} else if (done != NULL) {
		done(ctx, -ENOMEM, &no_memory);
	}
	return op;
}

struct lvol_op *
lvol_op_made(struct lvol_store *store, struct lvol *lvol, lvol_made_fn done, void *ctx)
{
	struct lvol_op *op = lvol_op_start(store, lvol);

	if (op != NULL) {
		op->made_done = done;
		op->ctx = ctx;
	} else if (done != NULL) {
		done(ctx, NULL, -ENOMEM, &no_memory);
	}
	return op;
}

static void
let_go(struct lvol *lvol)
{
	lvol->ops--;
	lvol_proceed(lvol);
}

/* Who asked may ask for more from inside; the store and the volume are let go afterwards. */
static void
answer(struct defer *d)
{
	struct lvol_op *op = CONTAINER_OF(d, struct lvol_op, defer);
	struct lvol_store *store = op->store;
	struct lvol *lvol = op->lvol;
	const struct err *err = op->status == 0 ? NULL : &op->err;

	if (op->done != NULL) {
		op->done(op->ctx, op->status, err);
	} else if (op->made_done != NULL) {
		op->made_done(op->ctx, op->status == 0 ? op->made : NULL, op->status, err);
	} else if (op->store_done != NULL) {
		op->store_done(op->ctx, op->status == 0 ? store : NULL, op->status, err);
	}
	for (unsigned i = 0; i < op->count; i++) {
		let_go(op->parts[i].lvol);
	}
	if (lvol != NULL) {
		let_go(lvol);
	}
	lvol_dev_close(op->copy_dev);
	free(op->parts);
	free(op->snapshots);
	free(op);
	if (store != NULL) {
		store->ops--;
		lvol_store_proceed(store);
	}
}

void
lvol_op_end(struct lvol_op *op, int status)
{
	op->status = status;
	if (status != 0 && op->err.code != status) {
		op->err.code = status;
		op->err.text[0] = '\0';
	}
	thread_defer(&op->defer, answer);
}

void
lvol_op_end_with(struct lvol_op *op, int status, const struct err *err)
{
	if (status != 0 && err != NULL) {
		op->err = *err;
	}
	lvol_op_end(op, status);
}

void
lvol_op_blob_done(void *ctx, int status, const struct err *err)
{
	lvol_op_end_with(ctx, status, err);
}
