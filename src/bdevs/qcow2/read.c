/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reading. The core hands over pieces of one cluster, or sub-cluster. Where that is says an entry of the second level, of
 * which a channel keeps SLICES pieces of SLICE_BYTES; a compressed cluster is read and inflated as a whole, one at a time on a
 * channel, and the last one is kept, since its other pieces will be asked for next.
 *
 * Invariants
 *  1. A slice that is being read is not given to anybody else; requests that need it are on its list, and are looked at
 *     again when it is there. When all slices are being read, a request is refused for now (-EAGAIN).
 *  2. Nothing read of the image is trusted: an entry is checked by the parser each time it is used, and what would be
 *     outside of the file, or is not what the format allows, ends the request with -EIO.
 *  3. What an image costs is bounded by channel: SLICES * SLICE_BYTES, and three times the size of a cluster once one is
 *     compressed.
 * Inflating takes the thread's time: some 0.2 ms for a cluster of 64 KiB.
 * Context: the channel's thread; struct qcow2 does not change while there are channels.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "bdevs/qcow2/internal.h"

#define SLICES 64u
#define SLICE_BYTES 4096u

struct slice {
	struct list link; /* of all, the last used first */
	struct qcow2_channel *qc;
	uint64_t offset; /* in the file; 0: empty */
	bool loading;
	struct list waiting;
	struct bdev_io *io;
	struct iovec iov;
	uint8_t *data;
};

/* The one that inflates clusters. */
struct inflater {
	bool busy;
	struct list waiting;
	struct qcow2_place place; /* that out is of; kind QCOW2_HOLE: of none */
	struct bdev_io *current;
	struct qcow2_place current_place;
	struct bdev_io *io;
	struct iovec iov;
	uint8_t *in; /* as large as the largest compressed cluster, and a block at either end */
	uint8_t *out;
};

struct qcow2_channel {
	struct stack_channel base;
	struct bdev_channel *ch;
	struct slice slices[SLICES];
	struct list used;
	struct inflater inflater;
};

/* A request's. */
struct own {
	struct list link; /* of a slice's or the inflater's waiting ones */
};

#define OWN sizeof(struct own)

size_t
qcow2_channel_bytes(void)
{
	return sizeof(struct qcow2_channel);
}

size_t
qcow2_own_bytes(void)
{
	return OWN;
}

static struct list *
link_of(struct bdev_io *io)
{
	return &((struct own *)bdev_io_ctx(io))->link;
}

static struct bdev_io *
take_waiting(struct list *waiting)
{
	struct own *own = LIST_FIRST(waiting, struct own, link);

	list_remove(&own->link);
	return CONTAINER_OF((void *)own, struct bdev_io, ctx);
}

static const struct qcow2 *
qcow2_of(const struct bdev_channel *ch)
{
	return ch->bdev->ctx;
}

/* ---- Data that is as it is ---- */

static void
data_read(struct bdev_io *child, int status)
{
	stack_finish(stack_parent(child, OWN), child, status);
}

static void
read_data(struct qcow2_channel *qc, struct bdev_io *io, uint64_t file_offset)
{
	uint64_t lba = file_offset / QCOW2_SECTOR;
	struct bdev_io *child = stack_child(io, OWN);

	if (lba + io->num_blocks > qcow2_of(qc->ch)->header.file_bytes / QCOW2_SECTOR) {
		bdev_io_complete(io, -EIO);
		return;
	}
	stack_child_init(child, io, 0, data_read);
	child->lba = lba;
	bdev_submit(qc->base.base, child);
}

static void
read_zeroes(struct bdev_io *io)
{
	iov_fill(io->iov, io->iovcnt, 0, 0, io->num_blocks * QCOW2_SECTOR);
	bdev_io_complete(io, 0);
}

/* ---- Compressed clusters ---- */

static size_t
cluster_bytes(const struct qcow2_channel *qc)
{
	return (size_t)1 << qcow2_of(qc->ch)->header.cluster_bits;
}

static bool
same_place(const struct qcow2_place *a, const struct qcow2_place *b)
{
	return a->kind == b->kind && a->offset == b->offset &&
	       a->compressed_bytes == b->compressed_bytes;
}

static void
copy_inflated(struct qcow2_channel *qc, struct bdev_io *io)
{
	size_t at = (io->lba * QCOW2_SECTOR) & (cluster_bytes(qc) - 1);

	iov_from_buf(io->iov, io->iovcnt, 0, qc->inflater.out + at, io->num_blocks * QCOW2_SECTOR);
	bdev_io_complete(io, 0);
}

static void look(struct qcow2_channel *qc, struct bdev_io *io);

static void
compressed_was_read(struct bdev_io *child, int status)
{
	struct inflater *f = CONTAINER_OF(child->iov, struct inflater, iov);
	struct qcow2_channel *qc = CONTAINER_OF(f, struct qcow2_channel, inflater);
	struct bdev_io *io = f->current;
	struct list waiting;

	if (status == 0) {
		status = qcow2_inflate(qcow2_of(qc->ch)->header.compression,
				       f->in + f->current_place.offset % QCOW2_SECTOR,
				       f->current_place.compressed_bytes, f->out, cluster_bytes(qc));
		status = status == -EBADMSG ? -EIO : status;
	}
	f->busy = false;
	f->place = status == 0 ? f->current_place : (struct qcow2_place){.kind = QCOW2_HOLE};
	list_init(&waiting);
	list_splice(&waiting, &f->waiting);
	if (status == 0) {
		copy_inflated(qc, io);
	} else {
		bdev_io_complete(io, status);
	}
	while (!list_empty(&waiting)) {
		look(qc, take_waiting(&waiting));
	}
}

static bool
prepare_inflater(struct qcow2_channel *qc)
{
	struct inflater *f = &qc->inflater;

	if (f->io == NULL) {
		f->io = aligned_alloc(CACHE_LINE_BYTES, bdev_io_bytes(qcow2_of(qc->ch)->stack.base));
	}
	if (f->in == NULL) {
		f->in = aligned_alloc(4096, (2 * cluster_bytes(qc) + 2 * QCOW2_SECTOR + 4095) &
						    ~(size_t)4095);
	}
	if (f->out == NULL) {
		f->out = malloc(cluster_bytes(qc));
	}
	return f->io != NULL && f->in != NULL && f->out != NULL;
}

static void
read_compressed(struct qcow2_channel *qc, struct bdev_io *io, const struct qcow2_place *place)
{
	struct inflater *f = &qc->inflater;
	uint64_t first = place->offset / QCOW2_SECTOR;
	uint64_t end = (place->offset + place->compressed_bytes + QCOW2_SECTOR - 1) / QCOW2_SECTOR;

	if (same_place(&f->place, place)) {
		copy_inflated(qc, io);
		return;
	}
	if (f->busy) {
		list_append(&f->waiting, link_of(io));
		return;
	}
	if (!prepare_inflater(qc)) {
		bdev_io_complete(io, -ENOMEM);
		return;
	}
	f->busy = true;
	f->current = io;
	f->current_place = *place;
	f->iov = (struct iovec){.iov_base = f->in, .iov_len = (end - first) * QCOW2_SECTOR};
	bdev_io_init(f->io, BDEV_READ, first, end - first, &f->iov, 1, compressed_was_read);
	bdev_submit(qc->base.base, f->io);
}

/* ---- Entries of the second level ---- */

struct position {
	uint64_t table;  /* of the second level; 0: there is none */
	uint64_t entry;  /* where its entry is, in the table */
	unsigned subcluster;
};

static int
locate(const struct qcow2 *q, uint64_t lba, struct position *ret)
{
	const struct qcow2_header *h = &q->header;
	uint64_t cluster = lba * QCOW2_SECTOR >> h->cluster_bits;
	uint64_t in_cluster = lba * QCOW2_SECTOR & ((UINT64_C(1) << h->cluster_bits) - 1);

	ret->entry = (cluster & ((UINT64_C(1) << h->l2_bits) - 1)) * h->l2_entry_bytes;
	ret->subcluster = (unsigned)(in_cluster >> (h->cluster_bits - h->subcluster_bits));
	return qcow2_l2_offset(h, q->l1 + (cluster >> h->l2_bits) * 8, &ret->table);
}

static void
slice_read(struct bdev_io *child, int status)
{
	struct slice *s = CONTAINER_OF(child->iov, struct slice, iov);
	struct qcow2_channel *qc = s->qc;
	struct list waiting;

	s->loading = false;
	list_init(&waiting);
	list_splice(&waiting, &s->waiting);
	if (status != 0) {
		s->offset = 0;
	}
	while (!list_empty(&waiting)) {
		struct bdev_io *io = take_waiting(&waiting);

		if (status != 0) {
			bdev_io_complete(io, status);
		} else {
			look(qc, io);
		}
	}
}

/* False: out of memory. */
static bool
load_slice(struct qcow2_channel *qc, struct slice *s, uint64_t offset)
{
	size_t bytes = MIN(cluster_bytes(qc), (size_t)SLICE_BYTES);

	if (s->data == NULL) {
		s->data = aligned_alloc(4096, SLICE_BYTES);
	}
	if (s->io == NULL) {
		s->io = aligned_alloc(CACHE_LINE_BYTES, bdev_io_bytes(qcow2_of(qc->ch)->stack.base));
	}
	if (s->data == NULL || s->io == NULL) {
		return false;
	}
	s->offset = offset;
	s->loading = true;
	s->iov = (struct iovec){.iov_base = s->data, .iov_len = bytes};
	bdev_io_init(s->io, BDEV_READ, offset / QCOW2_SECTOR, bytes / QCOW2_SECTOR, &s->iov, 1,
		     slice_read);
	bdev_submit(qc->base.base, s->io);
	return true;
}

/* The slice at offset if it is there; else io waits for it, or has been answered: NULL. */
static struct slice *
get_slice(struct qcow2_channel *qc, struct bdev_io *io, uint64_t offset)
{
	struct slice *s, *found = NULL, *idle = NULL;

	LIST_FOREACH (s, &qc->used, link) {
		if (s->offset == offset) {
			found = s;
			break;
		}
		idle = s->loading ? idle : s; /* the one that was not used for longest */
	}
	if (found == NULL && (idle == NULL || !load_slice(qc, idle, offset))) {
		bdev_io_complete(io, -EAGAIN);
		return NULL;
	}
	found = found == NULL ? idle : found;
	list_remove(&found->link);
	list_prepend(&qc->used, &found->link);
	if (found->loading) {
		list_append(&found->waiting, link_of(io));
		return NULL;
	}
	return found;
}

/* ---- What is where ---- */

static void
read_place(struct qcow2_channel *qc, struct bdev_io *io, const uint8_t *entry, unsigned subcluster)
{
	const struct qcow2_header *h = &qcow2_of(qc->ch)->header;
	struct qcow2_place place;

	if (qcow2_place(h, entry, subcluster, &place) != 0) {
		bdev_io_complete(io, -EIO);
		return;
	}
	switch (place.kind) {
	case QCOW2_DATA:
		read_data(qc, io,
			  place.offset + (io->lba * QCOW2_SECTOR & (cluster_bytes(qc) - 1)));
		break;
	case QCOW2_COMPRESSED:
		read_compressed(qc, io, &place);
		break;
	default:
		read_zeroes(io);
		break;
	}
}

static uint32_t
extent_flags(enum qcow2_kind kind)
{
	return kind == QCOW2_DATA || kind == QCOW2_COMPRESSED ? BDEV_EXTENT_ALLOCATED
							       : BDEV_EXTENT_ZERO;
}

/* False: there is no room for more. */
static bool
add_extent(struct bdev_io *io, uint64_t num_blocks, uint32_t flags)
{
	struct bdev_extent *last = io->result > 0 ? &io->extents[io->result - 1] : NULL;

	if (last != NULL && last->flags == flags) {
		last->num_blocks += num_blocks;
		return true;
	}
	if (io->result == io->max_results) {
		return false;
	}
	io->extents[io->result++] = (struct bdev_extent){.num_blocks = num_blocks, .flags = flags};
	return true;
}

/* Blocks from lba to the end of its piece, or of what a table describes. */
static uint64_t
blocks_left(uint64_t lba, unsigned bits)
{
	uint64_t piece = (UINT64_C(1) << bits) / QCOW2_SECTOR;

	return piece - (lba & (piece - 1));
}

/* As far as the slice goes: who asked will ask on. */
static void
tell_status(struct qcow2_channel *qc, struct bdev_io *io, const struct slice *s)
{
	const struct qcow2 *q = qcow2_of(qc->ch);
	unsigned piece_bits = q->header.cluster_bits - q->header.subcluster_bits;
	uint64_t lba = io->lba, end = io->lba + io->num_blocks, table = 0;

	io->result = 0;
	while (lba < end) {
		uint64_t blocks = MIN(blocks_left(lba, piece_bits), end - lba);
		struct qcow2_place place;
		struct position pos;

		if (locate(q, lba, &pos) != 0 || (table != 0 && pos.table != table) ||
		    pos.table + pos.entry < s->offset ||
		    pos.table + pos.entry >= s->offset + s->iov.iov_len ||
		    qcow2_place(&q->header, s->data + (pos.table + pos.entry - s->offset),
				pos.subcluster, &place) != 0 ||
		    !add_extent(io, blocks, extent_flags(place.kind))) {
			break;
		}
		table = pos.table;
		lba += blocks;
	}
	bdev_io_complete(io, io->result > 0 ? 0 : -EIO);
}

static void
tell_hole(struct qcow2_channel *qc, struct bdev_io *io)
{
	const struct qcow2_header *h = &qcow2_of(qc->ch)->header;

	io->result = 0;
	add_extent(io, MIN(blocks_left(io->lba, h->cluster_bits + h->l2_bits), io->num_blocks),
		   BDEV_EXTENT_ZERO);
	bdev_io_complete(io, 0);
}

static void
look(struct qcow2_channel *qc, struct bdev_io *io)
{
	const struct qcow2 *q = qcow2_of(qc->ch);
	uint64_t slice_bytes = MIN(cluster_bytes(qc), (size_t)SLICE_BYTES);
	struct position pos;
	struct slice *s;

	if (locate(q, io->lba, &pos) != 0) {
		bdev_io_complete(io, -EIO);
		return;
	}
	if (pos.table == 0) {
		if (io->op == BDEV_READ) {
			read_zeroes(io);
		} else {
			tell_hole(qc, io);
		}
		return;
	}
	s = get_slice(qc, io, pos.table + pos.entry / slice_bytes * slice_bytes);
	if (s == NULL) {
		return;
	}
	if (io->op == BDEV_READ) {
		read_place(qc, io, s->data + pos.entry % slice_bytes, pos.subcluster);
	} else {
		tell_status(qc, io, s);
	}
}

/* ---- Channels ---- */

static void
passed(struct bdev_io *child, int status)
{
	stack_finish(stack_parent(child, OWN), child, status);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct qcow2_channel *qc = ch->module_ctx;

	list_init(link_of(io));
	if (UNLIKELY(io->op == BDEV_RESET)) {
		stack_child_init(stack_child(io, OWN), io, 0, passed);
		bdev_submit(qc->base.base, stack_child(io, OWN));
		return;
	}
	look(qc, io);
}

static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct qcow2_channel *qc = ch->module_ctx;

	qc->ch = ch;
	list_init(&qc->used);
	list_init(&qc->inflater.waiting);
	for (unsigned i = 0; i < SLICES; i++) {
		qc->slices[i].qc = qc;
		list_init(&qc->slices[i].waiting);
		list_append(&qc->used, &qc->slices[i].link);
	}
	return stack_channel_create(bdev, ch);
}

static void
channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct qcow2_channel *qc = ch->module_ctx;

	for (unsigned i = 0; i < SLICES; i++) {
		free(qc->slices[i].io);
		free(qc->slices[i].data);
	}
	free(qc->inflater.io);
	free(qc->inflater.in);
	free(qc->inflater.out);
	stack_channel_destroy(bdev, ch);
}

const struct bdev_ops qcow2_ops = {
	.module_name = "qcow2",
	.destruct = stack_destruct,
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
	.submit = submit,
};
