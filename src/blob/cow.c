/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writes to clusters that the blob has not itself. Whoever changes the entry from 0 to BUSY allocates: takes a cluster,
 * fills it with what was there before and the write's data, and sends it to the owner to be committed; all others wait
 * until it is BUSY no more. A write of the whole cluster goes to its place directly; what has nothing below it is zeroed; a
 * device that copies by itself is told to, and gets the data afterwards.
 *
 * Invariants
 *  1. An allocation has all it needs (slot, buffer, cluster) before the entry becomes BUSY. From then on it goes through to the
 *     commit, which alone makes the entry something else, success or not.
 *  2. Slots and buffers are bounded; who finds none waits in `waiting`, in flight, holding nothing. Whenever one comes back
 *     and nobody lacks the other, the next one looks again.
 *  3. A write that finds no space holds nothing either, and is not in flight when it waits (held, like those of a gate).
 *     Whoever gives up a reservation tells the owner when somebody wants space.
 *  4. Buffers are put back when the data is on the device, before the commit, last in first out: few of them are hot.
 *
 * The contents of a cluster larger than a buffer are copied in pieces. Contexts: the channel's thread; space also the owner.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "blob/internal.h"

#define SLOTS 128
#define BUFFERS 16
#define BUFFER_BYTES (256u << 10)

/* An allocation, or a read that needs memory. */
struct slot {
	struct blob_alloc alloc;
	struct list link;    /* of the free ones, or of the thread's allocations */
	struct list waiters; /* struct blob_io of this thread that wait for the cluster */
	struct blob_io *io;
	uint8_t *buffer;
	struct iovec iov;
	/* Bytes in the cluster. */
	size_t at, chunk;    /* that is being copied */
	size_t from, bytes;  /* where the write's data goes */
	enum blob_owner owner; /* of what was there before */
	uint32_t entry;
	struct blob_external *source;
	struct external_request external;
};

struct blob_cow {
	struct blob_thread *thread;
	struct list free;        /* slots */
	struct list allocations; /* slots whose entry is BUSY */
	struct list waiting;     /* struct blob_io */
	unsigned slots_left;     /* that may still be made */
	unsigned buffers_left;
	unsigned num_buffers;
	uint8_t *buffers[BUFFERS];
};

/* ---- Slots and buffers ---- */

size_t
cow_buffer_bytes(const struct blob_store *store)
{
	return MIN(store->super.cluster_bytes, BUFFER_BYTES);
}

static struct blob_cow *
cow_of(struct blob_thread *t)
{
	struct blob_cow *cow = t->cow;

	if (cow == NULL) {
		cow = calloc(1, sizeof(*cow));
		if (cow == NULL) {
			return NULL;
		}
		cow->thread = t;
		cow->slots_left = SLOTS;
		cow->buffers_left = BUFFERS;
		list_init(&cow->free);
		list_init(&cow->allocations);
		list_init(&cow->waiting);
		t->cow = cow;
	}
	return cow;
}

void
cow_release(struct blob_thread *t)
{
	struct blob_cow *cow = t->cow;

	if (cow == NULL) {
		return;
	}
	CHECK(list_empty(&cow->allocations) && list_empty(&cow->waiting));
	while (!list_empty(&cow->free)) {
		struct slot *s = LIST_FIRST(&cow->free, struct slot, link);

		list_remove(&s->link);
		free(s);
	}
	for (unsigned i = 0; i < cow->num_buffers; i++) {
		free(cow->buffers[i]);
	}
	free(cow);
	t->cow = NULL;
}

static bool
slot_there(struct blob_cow *cow)
{
	struct slot *s;

	if (!list_empty(&cow->free)) {
		return true;
	}
	s = cow->slots_left > 0 ? calloc(1, sizeof(*s)) : NULL;
	if (s == NULL) {
		if (cow->slots_left < SLOTS) {
			cow->slots_left = 0; /* those that exist must do */
		}
		return false;
	}
	cow->slots_left--;
	list_init(&s->waiters);
	list_append(&cow->free, &s->link);
	return true;
}

static bool
buffer_there(struct blob_cow *cow)
{
	struct blob_store *store = cow->thread->store;
	size_t align = MAX((size_t)store->dev->buffer_align, (size_t)4096);
	size_t bytes = (cow_buffer_bytes(store) + align - 1) & ~(align - 1);

	if (cow->num_buffers > 0) {
		return true;
	}
	if (cow->buffers_left > 0) {
		cow->buffers[0] = aligned_alloc(align, bytes);
	}
	if (cow->buffers_left == 0 || cow->buffers[0] == NULL) {
		if (cow->buffers_left < BUFFERS) {
			cow->buffers_left = 0;
		}
		return false;
	}
	cow->buffers_left--;
	cow->num_buffers = 1;
	return true;
}

/* A slot, with a buffer. NULL: io waits (*ret_rc 0) or fails, because memory is out and nobody could ever bring one back. */
static struct slot *
slot_get(struct blob_io *io, bool buffer, int *ret_rc)
{
	struct blob_cow *cow = cow_of(io->ch->thread);
	struct slot *s;
	bool slot;

	*ret_rc = -ENOMEM;
	if (cow == NULL) {
		return NULL;
	}
	slot = slot_there(cow);
	if (!slot || (buffer && !buffer_there(cow))) {
		if (slot ? cow->buffers_left < BUFFERS : cow->slots_left < SLOTS) {
			*ret_rc = 0;
			list_append(&cow->waiting, &io->link);
		}
		return NULL;
	}
	s = LIST_FIRST(&cow->free, struct slot, link);
	list_remove(&s->link);
	s->buffer = buffer ? cow->buffers[--cow->num_buffers] : NULL;
	s->io = io;
	s->at = 0;
	return s;
}

static bool
enough_left(const struct blob_cow *cow)
{
	return (!list_empty(&cow->free) || cow->slots_left > 0) && (cow->num_buffers > 0 || cow->buffers_left > 0);
}

/* Not from inside submit. */
static void
wake(struct blob_cow *cow)
{
	struct blob_store *store = cow->thread->store;

	if (LIKELY(list_empty(&cow->waiting)) || !enough_left(cow)) {
		return;
	}
	CHECK(channel_get(&store->device, NULL) == &cow->thread->channel); /* the last request may end here */
	while (!list_empty(&cow->waiting) && enough_left(cow)) {
		struct blob_io *io = LIST_FIRST(&cow->waiting, struct blob_io, link);

		list_remove(&io->link);
		io_piece_done(io, -EAGAIN);
	}
	channel_put(&cow->thread->channel);
}

static void
buffer_put(struct blob_cow *cow, struct slot *s)
{
	if (s->buffer != NULL) {
		cow->buffers[cow->num_buffers++] = s->buffer;
		s->buffer = NULL;
	}
}

static void
slot_put(struct blob_cow *cow, struct slot *s)
{
	buffer_put(cow, s);
	s->io = NULL;
	list_remove(&s->link);
	list_prepend(&cow->free, &s->link);
}

/* The read or the wait is over. */
static void
slot_end(struct slot *s, int status)
{
	struct blob_io *io = s->io;
	struct blob_cow *cow = io->ch->thread->cow;

	slot_put(cow, s);
	wake(cow);
	io_piece_done(io, status);
}

/* ---- Space ---- */

/* The owner: somebody found no space, or gave some back. */
static void
space_told(struct msg *msg)
{
	struct blob_store *store = CONTAINER_OF(msg, struct blob_store, full_msg);

	atomic_store(&store->space_told, false);
	if (atomic_load(&store->free_clusters) == 0 && !store->full && !alloc_coming(store)) {
		store->full = true;
		store_event(store, BLOB_STORE_FULL);
	}
	cow_space(store);
}

static void
tell_owner(struct blob_store *store)
{
	if (!atomic_exchange(&store->space_told, true)) {
		thread_send(store->owner, &store->full_msg, space_told);
	}
}

void
cow_space(struct blob_store *store)
{
	bool some = atomic_load(&store->free_clusters) > 0;

	/* None, and none to wait for: those that do not wait for others' space look again, and fail. */
	if (!some && (alloc_coming(store) || atomic_load(&store->pause_when_full))) {
		return;
	}
	if (some && store->full) {
		store->full = false;
		store_event(store, BLOB_STORE_FULL_ENDS);
	}
	if (atomic_exchange(&store->space_wanted, false)) {
		gate_sweep(store);
	}
}

static void
unreserve(struct blob_store *store)
{
	alloc_unreserve(store, 1);
	if (UNLIKELY(atomic_load(&store->space_wanted))) {
		tell_owner(store);
	}
}

/* 0; -ENOSPC: it fails; -EBUSY: it is held. */
static int
reserve(struct blob_io *io)
{
	struct blob_store *store = io->ch->blob->store;

	if (LIKELY(alloc_reserve(store, 1) == 0)) {
		return 0;
	}
	/* Said before it looks again: whoever brings space, or the last of it, sees that it is wanted. */
	atomic_store(&store->space_wanted, true);
	if ((!atomic_load(&store->pause_when_full) || (io->touch && io->impatient)) && !alloc_coming(store)) {
		if (alloc_reserve(store, 1) == 0) {
			return 0;
		}
		tell_owner(store);
		return -ENOSPC;
	}
	if (alloc_reserve(store, 1) == 0) {
		return 0;
	}
	io_end(io);
	list_append(&io->ch->held, &io->link);
	tell_owner(store);
	return -EBUSY;
}

/* ---- An allocation ---- */

static void
dev_submit(struct slot *s, enum blob_dev_op op, uint64_t lba, size_t bytes, void (*done)(struct blob_dev_io *io, int status))
{
	struct blob_io *io = s->io;
	struct blob_store *store = io->ch->blob->store;

	io->dev.op = op;
	io->dev.lba = lba;
	io->dev.num_blocks = bytes >> store->block_shift;
	io->dev.done = done;
	blob_dev_submit(store->dev, io->ch->thread->dev_ch, &io->dev);
}

static void
use_buffer(struct slot *s, size_t bytes)
{
	s->iov = (struct iovec){s->buffer, bytes};
	s->io->dev.iov = &s->iov;
	s->io->dev.iovcnt = 1;
}

static uint64_t
cluster_lba(const struct slot *s, uint32_t cluster, size_t bytes)
{
	const struct blob_store *store = s->io->ch->blob->store;

	return cluster * store->cluster_blocks + (bytes >> store->block_shift);
}

static void
committed(struct blob_alloc *alloc)
{
	struct slot *s = CONTAINER_OF(alloc, struct slot, alloc);
	struct blob_io *io = s->io;
	struct blob_cow *cow = io->ch->thread->cow;
	struct list waiters;
	int status = alloc->status;

	list_init(&waiters);
	list_splice(&waiters, &s->waiters);
	slot_put(cow, s);
	wake(cow);
	io_piece_done(io, status);
	while (!list_empty(&waiters)) {
		io = LIST_FIRST(&waiters, struct blob_io, link);
		list_remove(&io->link);
		io_piece_done(io, -EAGAIN);
	}
}

/* The data is on the device, or will never be. */
static void
filled(struct slot *s, int status)
{
	struct blob_cow *cow = s->io->ch->thread->cow;

	s->alloc.status = status;
	buffer_put(cow, s);
	commit_send(&s->alloc, committed);
	wake(cow);
}

static struct slot *
slot_of(struct blob_dev_io *dev)
{
	struct blob_io *io = CONTAINER_OF(dev, struct blob_io, dev);

	return CONTAINER_OF(io->alloc, struct slot, alloc);
}

static void
data_written(struct blob_dev_io *dev, int status)
{
	filled(slot_of(dev), status);
}

static size_t
chunk_overlap(const struct slot *s, size_t *ret_start)
{
	size_t start = MAX(s->at, s->from), end = MIN(s->at + s->chunk, s->from + s->bytes);

	*ret_start = start;
	return end > start ? end - start : 0;
}

static void chunk_next(struct slot *s);

static void
chunk_written(struct blob_dev_io *dev, int status)
{
	struct slot *s = slot_of(dev);

	s->at += s->chunk;
	if (status != 0 || s->at == s->io->ch->blob->store->super.cluster_bytes) {
		filled(s, status);
	} else {
		chunk_next(s);
	}
}

/* The old contents are in the buffer: the write's data over it, and to the new cluster. */
static void
chunk_write(struct slot *s)
{
	struct blob_io *io = s->io;
	size_t start, bytes = chunk_overlap(s, &start);

	if (bytes > 0 && io->op == BLOB_WRITE) {
		size_t offset = io->done_units * io->ch->blob->store->super.io_unit_bytes + (start - s->from);

		iov_to_buf(io->iov, io->iovcnt, offset, s->buffer + (start - s->at), bytes);
	} else if (bytes > 0) {
		memset(s->buffer + (start - s->at), 0, bytes);
	}
	use_buffer(s, s->chunk);
	dev_submit(s, BLOB_DEV_WRITE, cluster_lba(s, s->alloc.cluster, s->at), s->chunk, chunk_written);
}

static void
chunk_was_read(struct slot *s, int status)
{
	if (status != 0) {
		filled(s, status);
	} else {
		chunk_write(s);
	}
}

static void
chunk_read(struct blob_dev_io *dev, int status)
{
	chunk_was_read(slot_of(dev), status);
}

static void
external_chunk_read(struct external_request *r, int status)
{
	chunk_was_read(CONTAINER_OF(r, struct slot, external), status);
}

static void
external_submit(struct slot *s, uint64_t unit, uint64_t count, void (*done)(struct external_request *r, int status))
{
	s->external.unit = unit;
	s->external.count = count;
	s->external.done = done;
	external_read(s->io->ch->thread, s->source, &s->external);
}

/* The next part of the cluster: what was there before, unless the write covers it. */
static void
chunk_next(struct slot *s)
{
	struct blob_io *io = s->io;
	struct blob_store *store = io->ch->blob->store;
	uint32_t unit_bytes = store->super.io_unit_bytes;
	size_t start;

	s->chunk = MIN(cow_buffer_bytes(store), store->super.cluster_bytes - s->at);
	if (chunk_overlap(s, &start) == s->chunk) {
		chunk_write(s);
		return;
	}
	switch (s->owner) {
	case BLOB_OWNER_NONE:
		memset(s->buffer, 0, s->chunk);
		chunk_write(s);
		return;
	case BLOB_OWNER_EXTERNAL:
		s->external.iov[0] = (struct iovec){s->buffer, s->chunk};
		s->external.iovcnt = 1;
		external_submit(s, s->alloc.index * store->cluster_units + s->at / unit_bytes, s->chunk / unit_bytes,
				external_chunk_read);
		return;
	case BLOB_OWNER_SELF:
	case BLOB_OWNER_PARENT:
		break;
	}
	use_buffer(s, s->chunk);
	dev_submit(s, BLOB_DEV_READ, cluster_lba(s, s->entry, s->at), s->chunk, chunk_read);
}

/* What was there before is: the write's data, straight from its user. */
static void
base_there(struct blob_dev_io *dev, int status)
{
	struct slot *s = slot_of(dev);

	if (status != 0 || s->bytes == 0) {
		filled(s, status);
		return;
	}
	dev_submit(s, BLOB_DEV_WRITE, cluster_lba(s, s->alloc.cluster, s->from), s->bytes, data_written);
}

static void copy_next(struct slot *s);

static void
piece_copied(struct blob_dev_io *dev, int status)
{
	struct slot *s = slot_of(dev);

	s->at += s->chunk;
	if (status != 0 || s->at == s->io->ch->blob->store->super.cluster_bytes) {
		base_there(dev, status);
	} else {
		copy_next(s);
	}
}

/* In pieces: the device may do it at once, and others want the thread, too. */
static void
copy_next(struct slot *s)
{
	struct blob_store *store = s->io->ch->blob->store;

	s->chunk = MIN(cow_buffer_bytes(store), store->super.cluster_bytes - s->at);
	s->io->dev.src_lba = cluster_lba(s, s->entry, s->at);
	dev_submit(s, BLOB_DEV_COPY, cluster_lba(s, s->alloc.cluster, s->at), s->chunk, piece_copied);
}

enum way {
	WAY_DIRECT, /* the write is the whole cluster */
	WAY_ZEROES, /* nothing was there before: zeroes by the device, then perhaps data */
	WAY_COPY,   /* by the device, then perhaps data */
	WAY_BUFFER,
};

/* The data of the piece as it is, if a request may have it so: io->dev.iov. */
static bool
data_fits(struct blob_io *io)
{
	uint32_t unit_bytes = io->ch->blob->store->super.io_unit_bytes;
	int n;

	if (io->done_units == 0 && io->piece_units == io->count) {
		io->dev.iov = io->iov;
		io->dev.iovcnt = io->iovcnt;
		return true;
	}
	n = iov_slice(io->iov, io->iovcnt, io->done_units * unit_bytes, io->piece_units * unit_bytes, io->slice,
		      BLOB_IO_SLICE);
	io->dev.iov = io->slice;
	io->dev.iovcnt = n;
	return n > 0;
}

static enum way
choose(struct blob_io *io, enum blob_owner owner)
{
	struct blob_store *store = io->ch->blob->store;
	bool data = !io->touch && io->op == BLOB_WRITE;
	bool whole = !io->touch && io->piece_units == store->cluster_units;

	bool copies = owner == BLOB_OWNER_PARENT && store->dev->copies;

	if (io->touch && copies) {
		return WAY_COPY;
	}
	if (!data) {
		return whole || owner == BLOB_OWNER_NONE ? WAY_ZEROES : WAY_BUFFER;
	}
	if (whole && data_fits(io)) {
		return WAY_DIRECT;
	}
	if (owner == BLOB_OWNER_NONE && store->super.cluster_bytes > cow_buffer_bytes(store) && data_fits(io)) {
		return WAY_ZEROES;
	}
	return copies && data_fits(io) ? WAY_COPY : WAY_BUFFER;
}

static void
fill(struct slot *s, enum way way)
{
	struct blob_io *io = s->io;
	struct blob_store *store = io->ch->blob->store;
	size_t cluster_bytes = store->super.cluster_bytes;

	s->from = (io->unit + io->done_units) % store->cluster_units * store->super.io_unit_bytes;
	s->bytes = io->touch ? 0 : io->piece_units * store->super.io_unit_bytes;
	switch (way) {
	case WAY_DIRECT:
		dev_submit(s, BLOB_DEV_WRITE, cluster_lba(s, s->alloc.cluster, 0), cluster_bytes, data_written);
		break;
	case WAY_ZEROES:
		if (io->op != BLOB_WRITE) {
			s->bytes = 0;
		}
		dev_submit(s, BLOB_DEV_WRITE_ZEROES, cluster_lba(s, s->alloc.cluster, 0), cluster_bytes, base_there);
		break;
	case WAY_COPY:
		copy_next(s);
		break;
	case WAY_BUFFER:
		chunk_next(s);
		break;
	}
}

/* ---- Waiting for somebody else's ---- */

static void
busy_over(struct blob_alloc *waiter)
{
	slot_end(CONTAINER_OF(waiter, struct slot, alloc), -EAGAIN);
}

int
cow_wait(struct blob_io *io, uint64_t cluster)
{
	struct blob_cow *cow = io->ch->thread->cow;
	struct slot *s;
	int rc;

	if (cow != NULL) {
		LIST_FOREACH(s, &cow->allocations, link) {
			if (s->alloc.index == cluster && s->alloc.blob == io->ch->blob) {
				list_append(&s->waiters, &io->link);
				return 0;
			}
		}
	}
	s = slot_get(io, false, &rc);
	if (s == NULL) {
		return rc;
	}
	s->alloc.blob = io->ch->blob;
	s->alloc.index = cluster;
	commit_wait_busy(&s->alloc, busy_over);
	return 0;
}

/* ---- Beginning ---- */

/* The entry becomes BUSY, and the cluster is taken; 0, or as cow_start(); -EBUSY: io is held. */
static int
claim(struct slot *s, _Atomic uint32_t *entry, uint64_t cluster)
{
	struct blob_io *io = s->io;
	struct blob *blob = io->ch->blob;
	uint32_t expected = 0, near = 0;
	int rc = reserve(io);

	if (rc != 0) {
		return rc;
	}
	if (!atomic_compare_exchange_strong_explicit(entry, &expected, BLOB_CLUSTER_BUSY, memory_order_acq_rel,
						     memory_order_acquire)) {
		unreserve(blob->store);
		return -EAGAIN;
	}
	if (cluster > 0) {
		near = blob_map_entry(&blob->head, cluster - 1);
	}
	s->alloc.blob = blob;
	s->alloc.index = cluster;
	s->alloc.cluster = alloc_take(blob->store, near == BLOB_CLUSTER_BUSY ? 0 : near);
	return 0;
}

int
cow_start(struct blob_io *io, uint64_t cluster)
{
	struct blob *blob = io->ch->blob;
	struct blob_map *map = atomic_load_explicit(&blob->head.map, memory_order_acquire);
	struct blob_extent *e = blob_map_make_extent(map, cluster / BLOB_EXTENT_CLUSTERS);
	_Atomic uint32_t *entry;
	struct blob_external *source = NULL;
	uint32_t old = 0, now;
	enum blob_owner owner;
	struct slot *s;
	enum way way;
	int rc;

	if (e == NULL) {
		return -ENOMEM;
	}
	entry = &e->cluster[cluster % BLOB_EXTENT_CLUSTERS];
	now = atomic_load_explicit(entry, memory_order_acquire);
	if (now != 0) {
		return now == BLOB_CLUSTER_BUSY ? cow_wait(io, cluster) : -EAGAIN;
	}
	owner = io_lookup(blob, cluster, &old, &source);
	way = choose(io, owner);
	s = slot_get(io, way == WAY_BUFFER, &rc);
	if (s == NULL) {
		return rc;
	}
	rc = claim(s, entry, cluster);
	if (rc != 0) {
		slot_put(io->ch->thread->cow, s);
		return rc == -EBUSY ? 0 : rc;
	}
	s->owner = owner;
	s->entry = old;
	s->source = source;
	io->alloc = &s->alloc;
	list_append(&io->ch->thread->cow->allocations, &s->link);
	fill(s, way);
	return 0;
}

/* ---- Reads that need a slot, and scatter lists that are too fine ---- */

static void
external_was_read(struct external_request *r, int status)
{
	struct slot *s = CONTAINER_OF(r, struct slot, external);
	struct blob_io *io = s->io;
	uint32_t unit_bytes = io->ch->blob->store->super.io_unit_bytes;

	if (status == 0 && s->buffer != NULL) {
		iov_from_buf(io->iov, io->iovcnt, io->done_units * unit_bytes, s->buffer, io->piece_units * unit_bytes);
	}
	slot_end(s, status);
}

int
cow_read_external(struct blob_io *io, struct blob_external *external, int iovcnt)
{
	uint32_t unit_bytes = io->ch->blob->store->super.io_unit_bytes;
	int rc;
	struct slot *s = slot_get(io, iovcnt == 0, &rc);

	if (s == NULL) {
		return rc;
	}
	s->source = external;
	s->external.iovcnt = iovcnt == 0 ? 1 : iovcnt;
	if (iovcnt == 0) {
		s->external.iov[0] = (struct iovec){s->buffer, io->piece_units * unit_bytes};
	} else {
		memcpy(s->external.iov, io->slice, iovcnt * sizeof(io->slice[0]));
	}
	external_submit(s, io->unit + io->done_units, io->piece_units, external_was_read);
	return 0;
}

static void
bounced(struct blob_dev_io *dev, int status)
{
	struct blob_io *io = CONTAINER_OF(dev, struct blob_io, dev);
	struct slot *s = slot_of(dev);
	uint32_t unit_bytes = io->ch->blob->store->super.io_unit_bytes;

	if (status == 0 && io->op == BLOB_READ) {
		iov_from_buf(io->iov, io->iovcnt, io->done_units * unit_bytes, s->buffer, io->piece_units * unit_bytes);
	}
	slot_end(s, status);
}

int
cow_bounce(struct blob_io *io, uint64_t lba)
{
	uint32_t unit_bytes = io->ch->blob->store->super.io_unit_bytes;
	size_t bytes = io->piece_units * unit_bytes;
	int rc;
	struct slot *s = slot_get(io, true, &rc);

	if (s == NULL) {
		return rc;
	}
	io->alloc = &s->alloc;
	if (io->op == BLOB_WRITE) {
		iov_to_buf(io->iov, io->iovcnt, io->done_units * unit_bytes, s->buffer, bytes);
	}
	use_buffer(s, bytes);
	dev_submit(s, io->op == BLOB_READ ? BLOB_DEV_READ : BLOB_DEV_WRITE, lba, bytes, bounced);
	return 0;
}
