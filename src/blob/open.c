/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What making a store and loading one begin and end with. What fails leaves the device closed. Context: the thread that becomes
 * the owner.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/open_internal.h"

void
opening_step_done(void *ctx, int status)
{
	struct opening *o = ctx;

	steps_continue(&o->steps, status);
}

static void
super_read(struct store_io *io, int status)
{
	opening_step_done(io->ctx, status);
}

int
opening_read_super(struct steps *s)
{
	struct opening *o = CONTAINER_OF(s, struct opening, steps);
	size_t bytes = MAX(BLOB_PAGE_BYTES, o->store->dev->block_size);

	o->io = store_io_create(o->store, bytes);
	if (o->io == NULL) {
		return -ENOMEM;
	}
	o->io->ctx = o;
	store_io_submit(o->io, BLOB_DEV_READ, 0, bytes, super_read);
	return STEPS_WAIT;
}

int
opening_get_ready(struct steps *s)
{
	struct blob_store *store = CONTAINER_OF(s, struct opening, steps)->store;

	return alloc_init(store) != 0 || commit_init(store) != 0 || merge_init(store) != 0 ? -ENOMEM : 0;
}

static void
answer(struct defer *d)
{
	struct opening *o = CONTAINER_OF(d, struct opening, defer);

	if (o->release != NULL) {
		o->release(o);
	}
	if (o->status != 0) {
		store_free(o->store);
		o->store = NULL;
	}
	o->done(o->ctx, o->store, o->status, o->status == 0 ? NULL : &o->err);
	free(o);
}

static void
opened(struct steps *s, int status)
{
	struct opening *o = CONTAINER_OF(s, struct opening, steps);

	store_io_free(o->io);
	o->status = status;
	o->err = s->err;
	thread_defer(&o->defer, answer); /* not from inside the call, nor from a request's end: the device may be closed */
}

int
opening_start(struct opening *o, struct blob_dev *dev, const struct blob_store_options *options, const struct step *steps,
	      unsigned num_steps, blob_store_done_fn done, void *ctx)
{
	if (o == NULL) {
		dev->ops->close(dev);
		return -ENOMEM;
	}
	o->done = done;
	o->ctx = ctx;
	o->store = store_alloc(dev, options, &o->status);
	if (o->store == NULL) {
		err_set(&o->err, o->status, "%s cannot be opened", dev->name);
		dev->ops->close(dev);
		thread_defer(&o->defer, answer);
		return 0;
	}
	steps_run(&o->steps, steps, num_steps, opened);
	return 0;
}
