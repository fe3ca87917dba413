/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. made <= max of each bin; made = in use + idle.
 *  2. Whatever comes back is offered to the first session that waits (session_feed), and to those behind it only when that one
 *     has had its turn: large requests are not starved by small ones.
 *  3. A thread that has been idle for NBD_TRIM_US keeps a few buffers only. The timer runs only while there are more.
 */
#include "nbd/pool.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "nbd/session.h"

#define NBD_TRIM_US 1000000
#define BUFFER_ALIGN 4096
#define SLAB_REQUESTS 32

struct slab {
	struct list link;
	_Alignas(CACHE_LINE_BYTES) uint8_t memory[];
};

/* ---- Buffers ---- */

static void trim(struct timer *timer);

static void
trim_later(struct nbd_thread *t)
{
	if (!t->trimming && (t->large.made > t->large.keep || t->small.made > t->small.keep)) {
		/* Without memory for a timer the next buffer tries again. */
		t->trimming = timer_start(&t->trim_timer, NBD_TRIM_US, trim) == 0;
	}
}

static struct nbd_buffer *
make(struct nbd_bin *bin)
{
	struct nbd_buffer *b = malloc(sizeof(*b));

	if (b == NULL || (b->data = aligned_alloc(BUFFER_ALIGN, bin->bytes)) == NULL) {
		free(b);
		return NULL;
	}
	b->bytes = (uint32_t)bin->bytes;
	bin->made++;
	return b;
}

struct nbd_buffer *
nbd_buffer_get(struct nbd_thread *t, struct nbd_bin *bin)
{
	struct nbd_buffer *b = bin->free;

	if (LIKELY(b != NULL)) {
		bin->free = b->next;
		bin->idle--;
	} else {
		b = bin->made < bin->max ? make(bin) : NULL;
		if (b == NULL) {
			return NULL;
		}
		trim_later(t);
	}
	b->refs = 1;
	return b;
}

void
nbd_buffer_put(struct nbd_thread *t, struct nbd_buffer *b)
{
	struct nbd_bin *bin = b->bytes == NBD_SMALL_BYTES ? &t->small : &t->large;

	CHECK_HOT(b->refs > 0);
	if (--b->refs > 0) {
		return;
	}
	b->next = bin->free;
	bin->free = b;
	bin->idle++;
	if (UNLIKELY(!list_empty(&t->waiting))) {
		nbd_session_feed(t);
	}
}

bool
nbd_buffers_left(const struct nbd_bin *bin, unsigned count)
{
	return bin->max - bin->made + bin->idle >= count;
}

static void
shrink(struct nbd_bin *bin, unsigned keep)
{
	while (bin->free != NULL && bin->made > keep) {
		struct nbd_buffer *b = bin->free;

		bin->free = b->next;
		bin->idle--;
		bin->made--;
		free(b->data);
		free(b);
	}
}

/* What is in use now was perhaps used all the time: another look later. */
static void
trim(struct timer *timer)
{
	struct nbd_thread *t = CONTAINER_OF(timer, struct nbd_thread, trim_timer);

	t->trimming = false;
	if (t->large.idle == t->large.made && t->small.idle == t->small.made) {
		shrink(&t->large, t->large.keep);
		shrink(&t->small, t->small.keep);
	}
	trim_later(t);
}

/* ---- Requests ---- */

struct nbd_request_bin *
nbd_request_bin_get(struct nbd_thread *t, size_t bytes)
{
	struct nbd_request_bin *bin;

	LIST_FOREACH(bin, &t->request_bins, link) {
		if (bin->bytes == bytes) {
			bin->users++;
			return bin;
		}
	}
	bin = calloc(1, sizeof(*bin));
	if (bin != NULL) {
		bin->thread = t;
		bin->bytes = bytes;
		bin->users = 1;
		list_init(&bin->slabs);
		list_append(&t->request_bins, &bin->link);
	}
	return bin;
}

void
nbd_request_bin_put(struct nbd_request_bin *bin)
{
	struct slab *slab, *tmp;

	if (--bin->users > 0) {
		return;
	}
	CHECK(bin->used == 0);
	LIST_FOREACH_SAFE(slab, tmp, &bin->slabs, link) {
		free(slab);
	}
	list_remove(&bin->link);
	free(bin);
}

static void
grow(struct nbd_request_bin *bin)
{
	struct slab *slab = NULL;

	if (bin->made < NBD_REQUESTS_MAX) {
		slab = aligned_alloc(CACHE_LINE_BYTES, sizeof(*slab) + SLAB_REQUESTS * bin->bytes);
	}
	if (slab == NULL) {
		return;
	}
	slab->link = (struct list){NULL, NULL};
	list_append(&bin->slabs, &slab->link);
	bin->made += SLAB_REQUESTS;
	for (unsigned i = 0; i < SLAB_REQUESTS; i++) {
		struct nbd_io *r = (struct nbd_io *)(slab->memory + i * bin->bytes);

		*(struct nbd_io **)r = bin->free;
		bin->free = r;
	}
}

struct nbd_io *
nbd_request_take(struct nbd_request_bin *bin)
{
	struct nbd_io *r;

	if (UNLIKELY(bin->free == NULL)) {
		grow(bin);
	}
	r = bin->free;
	if (LIKELY(r != NULL)) {
		bin->free = *(struct nbd_io **)r;
		bin->used++;
	}
	return r;
}

void
nbd_request_give(struct nbd_request_bin *bin, struct nbd_io *r)
{
	*(struct nbd_io **)r = bin->free;
	bin->free = r;
	bin->used--;
	if (UNLIKELY(!list_empty(&bin->thread->waiting))) {
		nbd_session_feed(bin->thread);
	}
}

/* ---- The thread's part ---- */

static int
channel_create(struct device *dev, struct channel *ch)
{
	struct nbd_thread *t = (struct nbd_thread *)ch;

	t->large = (struct nbd_bin){.max = NBD_LARGE_MAX, .keep = NBD_LARGE_KEEP, .bytes = NBD_LARGE_BYTES};
	t->small = (struct nbd_bin){.max = NBD_SMALL_MAX, .keep = NBD_SMALL_KEEP, .bytes = NBD_SMALL_BYTES};
	list_init(&t->request_bins);
	list_init(&t->sessions);
	list_init(&t->waiting);
	return 0;
}

static void
channel_destroy(struct device *dev, struct channel *ch)
{
	struct nbd_thread *t = (struct nbd_thread *)ch;

	CHECK(list_empty(&t->sessions) && list_empty(&t->waiting) && list_empty(&t->request_bins));
	timer_stop(&t->starve_timer);
	timer_stop(&t->trim_timer);
	shrink(&t->large, 0);
	shrink(&t->small, 0);
	CHECK(t->large.made == 0 && t->small.made == 0);
}

static const struct device_ops ops = {.channel_create = channel_create, .channel_destroy = channel_destroy};
static struct device nbd_device = DEVICE_STATIC(nbd_device, "nbd", &ops, sizeof(struct nbd_thread));

struct nbd_thread *
nbd_thread_get(int *ret_rc)
{
	return (struct nbd_thread *)channel_get(&nbd_device, ret_rc);
}

void
nbd_thread_put(struct nbd_thread *t)
{
	channel_put(&t->channel);
}
