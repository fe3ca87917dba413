/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The long way of a request: piece by piece. A piece lies in one run of clusters that are alike, and is one request to the
 * device, to an external snapshot, to the owner (clusters given back), an allocation (cow.c), or nothing at all.
 *
 *	blob_submit -> advance -> gate_holds? -- yes --> held, io_resume() comes back here
 *	                  ^          | no
 *	                  |       io_begin, piece_start --> at once: io_end, the next one
 *	                  |          | under way
 *	                  +------ io_piece_done (io_end)
 *
 * Invariants
 *  1. A request is in flight from io_begin() to io_end(), during one piece. Between two pieces it is nowhere, and may be held.
 *  2. What a piece found in a map is good until the piece has ended: it is in flight (internal.h, invariants 2 and 3).
 *  3. BUSY is not there yet: who reads finds what was there before.
 *  4. done() comes from a deferred call when the request ends inside of the call that began it (`inside`).
 *
 * Contexts: the channel's thread; what runs on the owner says so.
 */
#include <errno.h>

#include "base/iov.h"
#include "blob/internal.h"

/* Clusters that one piece, or one question, looks at. */
#define RUN_CLUSTERS 4096u
/* Pieces without I/O in one go. */
#define PIECES_AT_ONCE 16
#define UNDER_WAY 1

/* ---- Who has what ---- */

enum blob_owner
io_lookup(const struct blob *blob, uint64_t cluster, uint32_t *ret_entry, struct blob_external **ret_external)
{
	const struct blob *at = blob;

	for (;;) {
		uintptr_t below = blob_below(at);
		uint32_t entry = blob_map_entry(&at->head, cluster);

		if (entry != 0 && entry != BLOB_CLUSTER_BUSY) {
			*ret_entry = entry;
			return at == blob ? BLOB_OWNER_SELF : BLOB_OWNER_PARENT;
		}
		if (UNLIKELY(blob_below(at) != below)) {
			continue;
		}
		if (below_external(below) != NULL) {
			*ret_external = below_external(below);
			return BLOB_OWNER_EXTERNAL;
		}
		/* What a parent has beyond its end is not to be seen, nor is what lies below that. */
		at = below_parent(below);
		if (at == NULL || cluster >= blob_num_clusters(at)) {
			return BLOB_OWNER_NONE;
		}
	}
}

struct run {
	enum blob_owner owner;
	uint32_t entry; /* of the first cluster */
	struct blob_external *external;
	uint64_t offset; /* in the first cluster, I/O units */
	uint64_t units;
};

static bool
continues(const struct run *run, uint64_t i, enum blob_owner owner, uint32_t entry, const struct blob_external *external)
{
	switch (owner) {
	case BLOB_OWNER_SELF:
	case BLOB_OWNER_PARENT: /* the device does not care whose they are */
		return (run->owner == BLOB_OWNER_SELF || run->owner == BLOB_OWNER_PARENT) && entry == run->entry + i;
	case BLOB_OWNER_EXTERNAL:
		return run->owner == owner && external == run->external;
	case BLOB_OWNER_NONE:
		break;
	}
	return run->owner == BLOB_OWNER_NONE;
}

/* What a read finds from `unit` on, `most` units at the utmost. */
static struct run
run_to_read(const struct blob *blob, uint64_t unit, uint64_t most)
{
	uint64_t units = blob->store->cluster_units, cluster = unit / units;
	struct run run = {.offset = unit % units};

	run.owner = io_lookup(blob, cluster, &run.entry, &run.external);
	run.units = units - run.offset;
	for (uint64_t i = 1; run.units < most && i < RUN_CLUSTERS; i++, run.units += units) {
		uint32_t entry = 0;
		struct blob_external *external = NULL;
		enum blob_owner owner = io_lookup(blob, cluster + i, &entry, &external);

		if (!continues(&run, i, owner, entry, external)) {
			break;
		}
	}
	run.units = MIN(run.units, most);
	return run;
}

/* What of it is the blob's own and in one place (entry != 0), or is not its own (entry 0: neither is the rest; BUSY: of one
 * cluster). */
static struct run
run_of_own(const struct blob *blob, uint64_t unit, uint64_t most)
{
	uint64_t units = blob->store->cluster_units, cluster = unit / units;
	struct run run = {.offset = unit % units};

	run.entry = blob_map_entry(&blob->head, cluster);
	run.units = units - run.offset;
	for (uint64_t i = 1; run.units < most && i < RUN_CLUSTERS && run.entry != BLOB_CLUSTER_BUSY; i++) {
		uint32_t entry = blob_map_entry(&blob->head, cluster + i);

		if (entry != (run.entry == 0 ? 0 : run.entry + i)) {
			break;
		}
		run.units += units;
	}
	run.units = MIN(run.units, most);
	return run;
}

uint64_t
blob_reach(struct blob_channel *ch, uint64_t unit, uint64_t count, bool write)
{
	uint64_t units = ch->blob->store->cluster_units;
	struct run run;

	if (!write) {
		return run_to_read(ch->blob, unit, count).units;
	}
	run = run_of_own(ch->blob, unit, count);
	if (run.entry == 0 || run.entry == BLOB_CLUSTER_BUSY) {
		return MIN(count, units - unit % units);
	}
	return run.units;
}

/* ---- Pieces ---- */

static uint64_t
position(const struct blob_io *io)
{
	return io->unit + io->done_units;
}

/*
 * The piece's part of the scatter list into io->slice; its entries. The piece becomes shorter when there are too many of them, in
 * whole units; 0: not even one unit fits.
 */
static int
slice(struct blob_io *io)
{
	uint64_t unit_bytes = io->ch->blob->store->super.io_unit_bytes;
	size_t skip = io->done_units * unit_bytes, want = io->piece_units * unit_bytes, got = 0;
	int n = 0;

	for (int i = 0; i < io->iovcnt && got < want && n < BLOB_IO_SLICE; i++) {
		size_t len = io->iov[i].iov_len;

		if (skip >= len) {
			skip -= len;
			continue;
		}
		len = MIN(len - skip, want - got);
		io->slice[n++] = (struct iovec){(uint8_t *)io->iov[i].iov_base + skip, len};
		skip = 0;
		got += len;
	}
	io->piece_units = got / unit_bytes;
	for (size_t over = got % unit_bytes; over > 0;) {
		size_t cut = MIN(over, io->slice[n - 1].iov_len);

		io->slice[n - 1].iov_len -= cut;
		over -= cut;
		n -= io->slice[n - 1].iov_len == 0 ? 1 : 0;
	}
	return n;
}

/* The list for the device. False: it is too fine. */
static bool
scatter(struct blob_io *io)
{
	int n;

	if (io->done_units == 0 && io->piece_units == io->count) {
		io->dev.iov = io->iov;
		io->dev.iovcnt = io->iovcnt;
		return true;
	}
	n = slice(io);
	io->dev.iov = io->slice;
	io->dev.iovcnt = n;
	return n > 0;
}

static void
dev_done(struct blob_dev_io *dev, int status)
{
	io_piece_done(CONTAINER_OF(dev, struct blob_io, dev), status);
}

static int
to_device(struct blob_io *io, enum blob_dev_op op, uint64_t lba)
{
	struct blob_store *store = io->ch->blob->store;

	io->dev.op = op;
	io->dev.lba = lba;
	io->dev.num_blocks = io->piece_units * store->unit_blocks;
	io->dev.done = dev_done;
	blob_dev_submit(store->dev, io->ch->thread->dev_ch, &io->dev);
	return UNDER_WAY;
}

static uint64_t
run_lba(const struct blob_store *store, const struct run *run)
{
	return run->entry * store->cluster_blocks + run->offset * store->unit_blocks;
}

/* Read or write of clusters on the device. */
static int
transfer(struct blob_io *io, const struct run *run)
{
	struct blob_store *store = io->ch->blob->store;
	uint64_t lba = run_lba(store, run);

	if (!scatter(io)) {
		int rc;

		io->piece_units = MIN(run->units, cow_buffer_bytes(store) / store->super.io_unit_bytes);
		rc = cow_bounce(io, lba);
		return rc == 0 ? UNDER_WAY : rc;
	}
	return to_device(io, io->op == BLOB_READ ? BLOB_DEV_READ : BLOB_DEV_WRITE, lba);
}

static int
start_read(struct blob_io *io)
{
	struct blob_store *store = io->ch->blob->store;
	uint64_t unit_bytes = store->super.io_unit_bytes;
	struct run run = run_to_read(io->ch->blob, position(io), io->count - io->done_units);
	int rc;

	io->piece_units = run.units;
	switch (run.owner) {
	case BLOB_OWNER_SELF:
	case BLOB_OWNER_PARENT:
		return transfer(io, &run);
	case BLOB_OWNER_EXTERNAL:
		rc = slice(io);
		if (rc == 0) {
			io->piece_units = MIN(run.units, cow_buffer_bytes(store) / unit_bytes);
		}
		rc = cow_read_external(io, run.external, rc);
		return rc == 0 ? UNDER_WAY : rc;
	case BLOB_OWNER_NONE:
		break;
	}
	iov_fill(io->iov, io->iovcnt, io->done_units * unit_bytes, 0, run.units * unit_bytes);
	return 0;
}

/* The piece ends with its cluster. */
static int
allocate(struct blob_io *io)
{
	uint64_t units = io->ch->blob->store->cluster_units, at = position(io);
	int rc;

	io->piece_units = MIN(io->count - io->done_units, units - at % units);
	rc = cow_start(io, at / units);
	return rc == 0 ? UNDER_WAY : rc;
}

static int
start_write(struct blob_io *io)
{
	struct run run = run_of_own(io->ch->blob, position(io), io->count - io->done_units);

	if (run.entry == 0 || run.entry == BLOB_CLUSTER_BUSY) {
		return allocate(io);
	}
	io->piece_units = run.units;
	return transfer(io, &run);
}

/* What the blob has itself needs nothing. */
static int
start_touch(struct blob_io *io)
{
	struct run run = run_of_own(io->ch->blob, position(io), io->count - io->done_units);

	if (run.entry == 0 || run.entry == BLOB_CLUSTER_BUSY) {
		return allocate(io);
	}
	io->piece_units = run.units;
	return 0;
}

/* ---- Unmap and write zeroes ---- */

static void
released(struct msg *msg)
{
	struct blob_io *io = CONTAINER_OF(msg, struct blob_io, msg);
	int status = io->dev.iovcnt;

	if (status == -ENOTSUP) {
		io->ch->thick = true;
		status = -EAGAIN;
	}
	io_piece_done(io, status);
}

/* The owner. */
static void
release_done(void *ctx, int status, const struct err *err)
{
	struct blob_io *io = ctx;

	(void)err;
	io->dev.iovcnt = status; /* on its way back */
	thread_send(io->ch->thread->channel.thread, &io->msg, released);
}

/* The owner. */
static void
release(struct msg *msg)
{
	struct blob_io *io = CONTAINER_OF(msg, struct blob_io, msg);
	struct blob *blob = io->ch->blob;
	uint64_t units = blob->store->cluster_units;

	release_clusters(blob, position(io) / units, io->piece_units / units, release_done, io);
}

/* Whole clusters go back to the store: as many as a commit takes in a few pages. */
static int
start_release(struct blob_io *io)
{
	struct blob_store *store = io->ch->blob->store;
	uint64_t clusters = (io->count - io->done_units) / store->cluster_units;
	uint64_t first = position(io) / store->cluster_units;

	clusters = MIN(clusters, (uint64_t)RUN_CLUSTERS - first % BLOB_EXTENT_CLUSTERS);
	io->piece_units = clusters * store->cluster_units;
	thread_send(store->owner, &io->msg, release);
	return UNDER_WAY;
}

static int
start_zero(struct blob_io *io)
{
	struct blob *blob = io->ch->blob;
	struct blob_store *store = blob->store;
	uint64_t left = io->count - io->done_units;
	uintptr_t below = blob_below(blob);
	struct run run = run_of_own(blob, position(io), left);
	struct blob_external *external;
	uint32_t entry;

	io->piece_units = run.units;
	if (run.entry == 0 || run.entry == BLOB_CLUSTER_BUSY) {
		uint64_t cluster = position(io) / store->cluster_units;

		/* A cluster that is BUSY is being written at this moment, with zeroes where the write has no data: as if
		 * that came later. Or it is being given back, and zeroes are promised only when that is on the disk. */
		if (io->op == BLOB_UNMAP) {
			return 0;
		}
		if (run.entry == BLOB_CLUSTER_BUSY) {
			int rc = cow_wait(io, cluster);

			return rc == 0 ? UNDER_WAY : rc;
		}
		if (below == 0) {
			return 0;
		}
		if (io_lookup(blob, cluster, &entry, &external) == BLOB_OWNER_NONE) {
			io->piece_units = MIN(left, store->cluster_units - run.offset);
			return 0;
		}
		return allocate(io);
	}
	if (below == 0 && !io->ch->thick && run.offset == 0 && left >= store->cluster_units) {
		return start_release(io);
	}
	if (below == 0 && !io->ch->thick) { /* what follows in whole clusters is given back */
		io->piece_units = MIN(left, store->cluster_units - run.offset);
	}
	if (below == 0 && io->op == BLOB_UNMAP) {
		return store->dev->unmap ? to_device(io, BLOB_DEV_UNMAP, run_lba(store, &run)) : 0;
	}
	return to_device(io, BLOB_DEV_WRITE_ZEROES, run_lba(store, &run));
}

/* ---- One after another ---- */

static void
finish_deferred(struct defer *d)
{
	struct blob_io *io = CONTAINER_OF(d, struct blob_io, defer);

	io->done(io, io->status);
}

static void
finish(struct blob_io *io)
{
	if (io->inside) {
		thread_defer(&io->defer, finish_deferred);
	} else {
		io->done(io, io->status);
	}
}

/* UNDER_WAY; 0, or what went wrong, when it has ended already. */
static int
piece_start(struct blob_io *io)
{
	struct blob *blob = io->ch->blob;

	if (position(io) + (io->count - io->done_units) > blob_num_clusters(blob) * blob->store->cluster_units) {
		return -EINVAL; /* the blob may have become smaller */
	}
	if (io->touch) {
		return start_touch(io);
	}
	if (io->op == BLOB_READ) {
		return start_read(io);
	}
	if (io->ch->readonly) {
		return -EROFS;
	}
	return io->op == BLOB_WRITE ? start_write(io) : start_zero(io);
}

static void
piece_end(struct blob_io *io, int status)
{
	if (status == 0) {
		io->done_units += io->piece_units;
	} else if (status != -EAGAIN) {
		io->status = status;
	}
}

static void advance(struct blob_io *io);

static void
go_on(struct defer *d)
{
	struct blob_io *io = CONTAINER_OF(d, struct blob_io, defer);

	io->inside = false;
	advance(io);
}

/* io is not in flight. */
static void
advance(struct blob_io *io)
{
	for (int i = 0; i < PIECES_AT_ONCE; i++) {
		int rc;

		if (io->status != 0 || io->done_units == io->count) {
			finish(io);
			return;
		}
		if (gate_holds(io)) {
			return;
		}
		io_begin(io);
		rc = piece_start(io);
		if (rc == UNDER_WAY) {
			return;
		}
		io_end(io);
		piece_end(io, rc);
	}
	thread_defer(&io->defer, go_on);
}

void
io_piece_done(struct blob_io *io, int status)
{
	io_end(io);
	piece_end(io, status);
	io->inside = false;
	advance(io);
}

void
io_resume(struct blob_io *io)
{
	io->inside = false;
	advance(io);
}

static void
begin(struct blob_channel *ch, struct blob_io *io, bool touch)
{
	uint64_t units = blob_num_clusters(ch->blob) * ch->blob->store->cluster_units;

	io->ch = ch;
	io->done_units = 0;
	io->piece_units = 0;
	io->touch = touch;
	io->inside = true;
	list_init(&io->link);
	io->status = io->unit > units || io->count > units - io->unit ? -EINVAL : 0;
	advance(io);
}

void
blob_submit(struct blob_channel *ch, struct blob_io *io)
{
	begin(ch, io, false);
}

void
blob_touch(struct blob_channel *ch, struct blob_io *io)
{
	io->op = BLOB_WRITE;
	begin(ch, io, true);
}

size_t
blob_io_bytes(const struct blob_store *store)
{
	return sizeof(struct blob_io) - sizeof(struct blob_dev_io) + store->dev->io_bytes;
}
