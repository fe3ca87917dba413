/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * External snapshots: devices that clones read what they have not themselves from. One is opened by the store's user, by
 * the id in a blob's metadata, and shared by all blobs that name it.
 *
 * Invariants
 *  1. `dev` is NULL while it is missing; the owner sets and clears it. Who reads it is in flight until the read has ended, so
 *     that a grace period after it was cleared nobody uses the device.
 *  2. A thread has one channel on a device, made by its first read; it is put by a visit of the thread before the device
 *     is closed, or with the store's channel.
 *  3. Reads take their requests from the channel's store of them; one that finds none waits there for another to come back.
 * Contexts: the owner, but for external_read(), external_missing() and external_thread_release().
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "blob/internal.h"

#define REQUESTS 32 /* of one thread at one external snapshot, at once */

struct blob_external {
	struct list link; /* of the store's; unlinked when nobody has it */
	struct blob_store *store;
	_Atomic(struct blob_dev *) dev;
	unsigned refs;
	size_t id_bytes;
	uint8_t id[];
};

/* A request of the store of them; struct blob_dev_io's room follows. */
struct pooled {
	struct external_request *reader;
	_Alignas(64) struct blob_dev_io io;
};

struct external_channel {
	struct list link; /* of the thread's */
	const struct blob_external *external;
	struct blob_dev *dev;
	struct blob_dev_channel *ch;
	struct list waiting; /* struct external_request */
	unsigned free_count;
	struct pooled *free[REQUESTS];
	uint8_t *memory;
};

/* ---- A thread's channel ---- */

static void
channel_free(struct external_channel *c)
{
	CHECK(list_empty(&c->waiting) && c->free_count == REQUESTS);
	list_remove(&c->link);
	c->dev->ops->channel_put(c->dev, c->ch);
	free(c->memory);
	free(c);
}

static struct external_channel *
channel_make(struct blob_thread *t, const struct blob_external *external, struct blob_dev *dev, int *ret_rc)
{
	size_t stride = (offsetof(struct pooled, io) + dev->io_bytes + 63) & ~(size_t)63;
	struct external_channel *c = calloc(1, sizeof(*c));

	*ret_rc = -ENOMEM;
	if (c == NULL) {
		return NULL;
	}
	c->memory = aligned_alloc(64, stride * REQUESTS);
	c->ch = c->memory == NULL ? NULL : dev->ops->channel_get(dev, ret_rc);
	if (c->ch == NULL) {
		free(c->memory);
		free(c);
		return NULL;
	}
	c->external = external;
	c->dev = dev;
	list_init(&c->waiting);
	for (unsigned i = 0; i < REQUESTS; i++) {
		c->free[c->free_count++] = (struct pooled *)(void *)(c->memory + i * stride);
	}
	list_append(&t->externals, &c->link);
	return c;
}

static struct external_channel *
channel_of(struct blob_thread *t, const struct blob_external *external, const struct blob_dev *dev)
{
	struct external_channel *c;

	LIST_FOREACH(c, &t->externals, link) {
		if (c->external == external && c->dev == dev) {
			return c;
		}
	}
	return NULL;
}

void
external_thread_release(struct blob_thread *t)
{
	while (!list_empty(&t->externals)) {
		channel_free(LIST_FIRST(&t->externals, struct external_channel, link));
	}
}

/* ---- Reading ---- */

static void
answer_deferred(struct defer *d)
{
	struct external_request *r = CONTAINER_OF(d, struct external_request, defer);

	r->done(r, r->status);
}

static void
answer_later(struct external_request *r, int status)
{
	r->status = status;
	thread_defer(&r->defer, answer_deferred);
}

static void submit(struct external_channel *c, struct external_request *r);

static void
read_done(struct blob_dev_io *io, int status)
{
	struct pooled *p = CONTAINER_OF(io, struct pooled, io);
	struct external_request *r = p->reader;
	struct external_channel *c = r->channel;

	if (r->op != BLOB_DEV_READ) {
		r->result = io->src_lba == UINT64_MAX ? UINT64_MAX : io->src_lba * c->dev->block_size;
	}
	c->free[c->free_count++] = p;
	if (!list_empty(&c->waiting)) {
		struct external_request *next = LIST_FIRST(&c->waiting, struct external_request, link);

		list_remove(&next->link);
		submit(c, next);
	}
	r->done(r, status);
}

static void
submit(struct external_channel *c, struct external_request *r)
{
	struct pooled *p = c->free[--c->free_count];
	uint32_t unit_blocks = c->external->store->super.io_unit_bytes / c->dev->block_size;

	p->reader = r;
	p->io.done = read_done;
	p->io.iov = r->iov;
	p->io.iovcnt = r->iovcnt;
	p->io.op = r->op;
	if (r->op == BLOB_DEV_READ) {
		p->io.lba = r->unit * unit_blocks;
		p->io.num_blocks = iov_length(r->iov, r->iovcnt) / c->dev->block_size;
	} else {
		p->io.lba = r->unit / c->dev->block_size;
		p->io.num_blocks = 0;
		p->io.iov = NULL;
	}
	blob_dev_submit(c->dev, c->ch, &p->io);
}

/* Fills with zeroes what lies beyond the device's end, and cuts it off. False: nothing is left to read. */
static bool
cut(const struct blob_external *external, const struct blob_dev *dev, struct external_request *r)
{
	uint64_t unit_bytes = external->store->super.io_unit_bytes, bytes = r->count * unit_bytes, left;
	uint64_t end = dev->num_blocks * dev->block_size, from = r->unit * unit_bytes;

	if (from + bytes <= end) {
		return true;
	}
	left = from < end ? end - from : 0;
	iov_fill(r->iov, r->iovcnt, left, 0, bytes - left);
	for (int i = 0; i < r->iovcnt; i++) {
		r->iov[i].iov_len = MIN((uint64_t)r->iov[i].iov_len, left);
		left -= r->iov[i].iov_len;
		if (left == 0) {
			r->iovcnt = i + (r->iov[i].iov_len > 0 ? 1 : 0);
			break;
		}
	}
	return r->iovcnt > 0;
}

static void
start(struct blob_thread *t, struct blob_external *external, struct blob_dev *dev, struct external_request *r)
{
	struct external_channel *c = channel_of(t, external, dev);
	int rc = -ENODEV;

	if (c == NULL) {
		c = channel_make(t, external, dev, &rc);
	}
	if (c == NULL) {
		answer_later(r, rc);
		return;
	}
	r->channel = c;
	if (c->free_count == 0) {
		list_append(&c->waiting, &r->link);
	} else {
		submit(c, r);
	}
}

void
external_read(struct blob_thread *t, struct blob_external *external, struct external_request *r)
{
	struct blob_dev *dev = atomic_load_explicit(&external->dev, memory_order_acquire);

	r->op = BLOB_DEV_READ;
	if (dev == NULL) {
		answer_later(r, -ENODEV);
	} else if (!cut(external, dev, r)) {
		answer_later(r, 0);
	} else {
		start(t, external, dev, r);
	}
}

void
external_seek(struct blob_thread *t, struct blob_external *external, struct external_request *r, uint64_t from, bool data)
{
	struct blob_dev *dev = atomic_load_explicit(&external->dev, memory_order_acquire);

	r->op = data ? BLOB_DEV_SEEK_DATA : BLOB_DEV_SEEK_HOLE;
	r->unit = from;
	r->iovcnt = 0;
	r->result = UINT64_MAX;
	if (dev == NULL || !dev->seeks) {
		answer_later(r, dev == NULL ? -ENODEV : -EOPNOTSUPP);
	} else if (from >= dev->num_blocks * dev->block_size) {
		answer_later(r, 0);
	} else {
		start(t, external, dev, r);
	}
}

bool
external_missing(const struct blob_external *external)
{
	return atomic_load_explicit(&external->dev, memory_order_acquire) == NULL;
}

uint64_t
external_bytes(const struct blob_external *external)
{
	struct blob_dev *dev = atomic_load_explicit(&external->dev, memory_order_acquire);

	return dev == NULL ? UINT64_MAX : dev->num_blocks * dev->block_size;
}

/* ---- Who has it (owner) ---- */

static bool
fits(const struct blob_store *store, const struct blob_dev *dev)
{
	return dev->block_size <= store->super.io_unit_bytes;
}

/* What cannot be read in the store's units is as good as missing; its opener sees to it that it does not come to that. */
static void
open_device(struct blob_external *external, struct blob *blob)
{
	struct blob_store *store = external->store;
	struct blob_dev *dev;

	if (store->options.open_external == NULL) {
		return;
	}
	dev = store->options.open_external(store->options.ctx, blob, external->id, external->id_bytes);
	if (dev != NULL && !fits(store, dev)) {
		dev->ops->close(dev);
		dev = NULL;
	}
	atomic_store_explicit(&external->dev, dev, memory_order_release);
}

struct blob_external *
external_attach(struct blob *blob, const void *id, size_t bytes)
{
	struct blob_store *store = blob->store;
	struct blob_external *external;

	LIST_FOREACH(external, &store->externals, link) {
		if (external->id_bytes == bytes && memcmp(external->id, id, bytes) == 0) {
			return external_share(external);
		}
	}
	external = calloc(1, sizeof(*external) + bytes);
	if (external == NULL) {
		return NULL;
	}
	external->store = store;
	external->refs = 1;
	external->id_bytes = bytes;
	memcpy(external->id, id, bytes);
	list_append(&store->externals, &external->link);
	open_device(external, blob);
	return external;
}

struct blob_external *
external_share(struct blob_external *external)
{
	external->refs++;
	return external;
}

/* ---- Letting go of a device ---- */

struct leaving {
	struct blob_wait wait;
	struct blob_store *store;
	struct blob_external *external; /* to be freed, NULL: only its device goes */
	const struct blob_external *of;
	struct blob_dev *dev;
	blob_done_fn done; /* may be NULL */
	void *ctx;
};

static void
left(struct leaving *l)
{
	struct blob_store *store = l->store;

	if (l->dev != NULL) {
		l->dev->ops->close(l->dev);
	}
	free(l->external);
	if (l->done != NULL) {
		l->done(l->ctx, 0, NULL);
	}
	free(l);
	store_background_end(store);
}

static void
visited(void *ctx)
{
	left(ctx);
}

static void
visit(void *ctx, struct channel *ch)
{
	struct blob_thread *t = CONTAINER_OF(ch, struct blob_thread, channel);
	struct leaving *l = ctx;
	struct external_channel *c = channel_of(t, l->of, l->dev);

	if (c != NULL) {
		channel_free(c);
	}
}

static void
nobody_reads(struct blob_wait *wait)
{
	struct leaving *l = CONTAINER_OF(wait, struct leaving, wait);

	if (l->dev == NULL) {
		left(l);
		return;
	}
	if (device_for_each_channel(&l->store->device, visit, visited, l) != 0) {
		grace_start(l->store, &l->wait, nobody_reads); /* memory is short: again */
	}
}

static int
let_go(struct blob_external *external, struct blob_dev *dev, bool free_it, blob_done_fn done, void *ctx)
{
	struct leaving *l = calloc(1, sizeof(*l));

	if (l == NULL) {
		return -ENOMEM;
	}
	l->store = external->store;
	l->external = free_it ? external : NULL;
	l->of = external;
	l->dev = dev;
	l->done = done;
	l->ctx = ctx;
	atomic_store_explicit(&external->dev, NULL, memory_order_release);
	store_background_begin(l->store);
	grace_start(l->store, &l->wait, nobody_reads);
	return 0;
}

void
external_detach(struct blob_store *store, struct blob_external *external)
{
	if (external == NULL) {
		return;
	}
	CHECK(external->store == store && external->refs > 0);
	if (--external->refs > 0) {
		return;
	}
	/* Without memory for that it stays, with nobody, until the store is left. */
	if (let_go(external, atomic_load(&external->dev), true, NULL, NULL) == 0) {
		list_remove(&external->link);
	}
}

void
external_release_all(struct blob_store *store)
{
	while (!list_empty(&store->externals)) {
		struct blob_external *external = LIST_FIRST(&store->externals, struct blob_external, link);
		struct blob_dev *dev = atomic_load(&external->dev);

		list_remove(&external->link);
		if (dev != NULL) {
			dev->ops->close(dev);
		}
		free(external);
	}
}

void
blob_external_arrived(struct blob_store *store)
{
	struct blob *blob;

	LIST_FOREACH(blob, &store->blobs, link) {
		struct blob_external *external = below_external(blob_below(blob));

		if (external != NULL && external_missing(external)) {
			open_device(external, blob);
		}
	}
	merge_kick(store);
}

void
blob_external_left(struct blob_store *store, struct blob_dev *dev, blob_done_fn done, void *ctx)
{
	struct blob_external *external;
	int rc = 0;

	LIST_FOREACH(external, &store->externals, link) {
		if (atomic_load(&external->dev) == dev) {
			rc = let_go(external, dev, false, done, ctx);
			if (rc == 0) {
				return;
			}
			break;
		}
	}
	/* Nobody reads it any more, or soon: it is closed with what it belongs to. */
	store_answer(store, done, ctx, rc, NULL);
}
