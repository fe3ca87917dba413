/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The bdev of a volume.
 *
 * Reads and writes of clusters that the volume has itself are passed down to the base (bdev_pass_down()), or go there as a
 * child in the room of the request, and come back the same way: blob_where() says where, blob_begin() and blob_end() count
 * them; the parity in between stands in the flags. Everything else is a struct blob_io in the same room. The core cuts
 * requests where a run of clusters ends (reach).
 *
 * A flush goes to the base: what a write has changed in the metadata was written before the write was answered, so
 * that the base's flush covers both. For the same reason "force unit access" is a flush, the core's: the base's own
 * would not cover the metadata.
 *
 * Context: the channel's thread, but for registering.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdev/stack.h"
#include "blob/route.h"
#include "lvol/internal.h"

#define PARITY_SHIFT 3
_Static_assert(BDEV_IO_SUBMITTER == 1 << PARITY_SHIFT, "the parity is the submitter's bit");

struct lvol_channel {
	struct bdev_channel *base;
	struct bdev_pass pass;
	unsigned base_shift; /* log2 of the base's blocks in one of the volume's */
	struct blob_channel blob;
};

static struct lvol *
lvol_of_ch(const struct bdev_channel *ch)
{
	return ch->bdev->ctx;
}

/* ---- Reads and writes ---- */

static void
rw_done(struct bdev_io *child, int status)
{
	struct bdev_io *io = stack_parent(child, 0);
	struct lvol_channel *lc = io->ch->module_ctx;

	blob_end(&lc->blob, (child->flags & BDEV_IO_SUBMITTER) >> PARITY_SHIFT);
	bdev_io_complete_now(io, status);
}

static void
passed(struct bdev_pass *pass, const struct bdev_io *io)
{
	blob_end(&CONTAINER_OF(pass, struct lvol_channel, pass)->blob, (io->flags & BDEV_IO_SUBMITTER) >> PARITY_SHIFT);
}

/* A store that cannot change its metadata any more makes no volume read-only: that the write failed is an error of I/O. */
static void
slow_done(struct blob_io *x, int status)
{
	struct bdev_io *io = CONTAINER_OF((void *)x, struct bdev_io, ctx);

	if (UNLIKELY(status == -EROFS) && !blob_readonly(lvol_of_ch(io->ch)->blob)) {
		status = -EIO;
	}
	bdev_io_complete_now(io, status);
}

static void __attribute__((noinline))
submit_slow(struct lvol_channel *lc, struct bdev_io *io, enum blob_op op)
{
	struct blob_io *x = (struct blob_io *)(void *)io->ctx;

	x->done = slow_done;
	x->op = op;
	x->unit = io->lba;
	x->count = io->num_blocks;
	x->iov = io->iov;
	x->iovcnt = io->iovcnt;
	blob_submit(&lc->blob, x);
}

static inline uint8_t
begin(struct lvol_channel *lc)
{
	return (uint8_t)(blob_begin(&lc->blob) << PARITY_SHIFT);
}

static void __attribute__((noinline))
submit_rw(struct lvol_channel *lc, struct bdev_io *io)
{
	struct bdev_io *child = stack_child(io, 0);
	bool write = io->op == BDEV_WRITE;
	uint64_t unit = blob_where(&lc->blob, io->lba, io->num_blocks, write);
	uint8_t mark;

	if (unit == BLOB_SLOW) {
		submit_slow(lc, io, write ? BLOB_WRITE : BLOB_READ);
		return;
	}
	mark = begin(lc);
	if (bdev_may_pass(&lc->pass, io, unit << lc->base_shift)) {
		bdev_pass_down(&lc->pass, io, unit << lc->base_shift, mark);
		return;
	}
	child->done = rw_done;
	child->iov = io->iov;
	child->lba = unit << lc->base_shift;
	child->num_blocks = io->num_blocks << lc->base_shift;
	bdev_io_set_kind(child, (enum bdev_op)io->op, mark, io->iovcnt);
	bdev_submit(lc->base, child);
}

/* The way of nearly all; what else there may be to do is left to functions that end this one, so that it saves no register. */
static void
submit_plain(struct bdev_channel *ch, struct bdev_io *io)
{
	struct lvol_channel *lc = ch->module_ctx;

	if (LIKELY(bdev_may_pass_plain(&lc->pass, io))) {
		uint64_t unit = blob_where_plain(&lc->blob, io->lba, io->op == BDEV_WRITE);

		if (LIKELY(unit != BLOB_SLOW)) {
			bdev_pass_down(&lc->pass, io, unit << lc->base_shift, begin(lc));
			return;
		}
	}
	submit_rw(lc, io);
}

/* ---- The rest ---- */

static void
flush_done(struct bdev_io *child, int status)
{
	bdev_io_complete_now(stack_parent(child, 0), status);
}

static void
submit_flush(struct lvol_channel *lc, struct bdev_io *io)
{
	struct bdev_io *child = stack_child(io, 0);

	bdev_io_init(child, BDEV_FLUSH, 0, 0, NULL, 0, flush_done);
	bdev_submit(lc->base, child);
}

/* How many clusters from this one on are alike, and what they are (BDEV_EXTENT_...). */
static uint64_t
extent(const struct bdev_channel *ch, const struct bdev *since_bdev, uint64_t cluster, uint32_t *ret_flags)
{
	const struct lvol *since = since_bdev == NULL ? NULL : lvol_of_bdev(since_bdev);
	const struct blob *blob = lvol_of_ch(ch)->blob;
	uint32_t flags = 0, diff = BLOB_EXTENT_CHANGED;
	uint64_t n = blob_extent(blob, cluster, &flags);
	bool own = (flags & BLOB_EXTENT_ALLOCATED) != 0;

	if (since != NULL) {
		uint64_t alike = blob_diff(blob, since->blob, cluster, &diff);

		n = alike == 0 ? n : MIN(n, alike); /* 0: it is not below any more, and diff says that all has changed */
	}
	*ret_flags = 0;
	if (own) {
		*ret_flags = BDEV_EXTENT_ALLOCATED;
	} else if ((flags & BLOB_EXTENT_ZERO) != 0) {
		*ret_flags = BDEV_EXTENT_ZERO;
	}
	if (since_bdev == NULL ? own : (diff & BLOB_EXTENT_CHANGED) != 0) {
		*ret_flags |= BDEV_EXTENT_CHANGED;
	}
	return n;
}

static void
block_status(struct bdev_channel *ch, struct bdev_io *io)
{
	uint64_t cluster_blocks = ch->bdev->optimal_boundary_blocks, lba = io->lba, end = io->lba + io->num_blocks;
	const struct bdev *since = bdev_io_since(io);
	uint32_t n = 0;

	while (lba < end && n < io->max_results) {
		uint32_t flags = 0;
		uint64_t next = (lba / cluster_blocks + extent(ch, since, lba / cluster_blocks, &flags)) * cluster_blocks;

		next = MIN(next, end);
		io->extents[n++] = (struct bdev_extent){.num_blocks = next - lba, .flags = flags};
		lba = next;
	}
	io->result = n;
	bdev_io_complete(io, 0);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct lvol_channel *lc = ch->module_ctx;

	switch (io->op) {
	case BDEV_READ:
	case BDEV_WRITE:
		submit_rw(lc, io);
		break;
	case BDEV_FLUSH:
		submit_flush(lc, io);
		break;
	case BDEV_UNMAP:
		submit_slow(lc, io, BLOB_UNMAP);
		break;
	case BDEV_WRITE_ZEROES:
		submit_slow(lc, io, BLOB_WRITE_ZEROES);
		break;
	default:
		block_status(ch, io);
	}
}

static uint64_t
reach(struct bdev_channel *ch, uint64_t lba, uint64_t num_blocks, bool write)
{
	struct lvol_channel *lc = ch->module_ctx;

	return blob_reach(&lc->blob, lba, num_blocks, write);
}

static void
cancel(struct bdev_channel *ch, int status)
{
	struct lvol_channel *lc = ch->module_ctx;

	blob_channel_cancel(&lc->blob, status);
}

/* ---- Channels ---- */

static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct lvol_channel *lc = ch->module_ctx;
	struct lvol *lvol = bdev->ctx;
	int rc = blob_channel_get(lvol->blob, &lc->blob);

	if (rc != 0) {
		return rc;
	}
	lc->base = (struct bdev_channel *)(void *)blob_channel_dev(&lc->blob);
	lc->base_shift = (unsigned)__builtin_ctz(bdev->block_size / bdev_block_size(lc->base->bdev));
	bdev_pass_open(&lc->pass, ch, lc->base, lc->base_shift, passed);
	bdev_pass_count(&lc->pass, &lc->blob.counts->attention, &lc->blob.inflight, lc->blob.counts->inflight);
	if (!ch->readonly) {
		atomic_store_explicit(&lvol->store->written, true, memory_order_relaxed);
	}
	return 0;
}

static void
channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct lvol_channel *lc = ch->module_ctx;

	bdev_pass_close(&lc->pass);
	blob_channel_put(&lc->blob);
}

/* ---- Coming and going (app thread) ---- */

static void
destruct(struct bdev *bdev)
{
	struct lvol *lvol = bdev->ctx;
	struct lvol_store *store = lvol->store;

	lvol->registered = false;
	lvol->has_bdev = false;
	lvol->alias[0] = '\0';
	store->num_bdevs--;
	lvol_proceed(lvol);
	lvol_store_proceed(store);
}

static const struct bdev_ops lvol_ops = {
	.module_name = LVOL_MODULE,
	.destruct = destruct,
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
	.submit = submit,
	.submit_plain = submit_plain,
	.reach = reach,
	.cancel = cancel,
};

struct lvol *
lvol_of_bdev(const struct bdev *bdev)
{
	return bdev->ops == &lvol_ops ? bdev->ctx : NULL;
}

/* The alias that the bdev has is the one that it should have. */
void
lvol_bdev_set_alias(struct lvol *lvol)
{
	char alias[LVOL_ALIAS_BYTES];
	struct err err = ERR_NONE;

	snprintf(alias, sizeof(alias), "%s/%s", lvol->store->name, lvol->name.text);
	if (!lvol->registered || strcmp(alias, lvol->alias) == 0) {
		return;
	}
	if (lvol->alias[0] != '\0') {
		bdev_alias_remove(&lvol->bdev, lvol->alias);
	}
	strcpy(lvol->alias, alias);
	if (bdev_alias_add(&lvol->bdev, lvol->alias, &err) != 0) {
		LOG_ERROR(BDEV, lvol->id, "cannot have the alias '%s': %s", alias, err_text(&err));
		lvol->alias[0] = '\0';
	}
}

static void
fill(struct lvol *lvol)
{
	const struct bdev *base = lvol->store->dev->bdev;
	struct blob_store_info info;
	uint32_t cluster_blocks;

	blob_store_get_info(lvol->store->blobs, &info);
	cluster_blocks = info.cluster_bytes / info.io_unit_bytes;
	lvol->bdev = (struct bdev){
		.ops = &lvol_ops,
		.ctx = lvol,
		.name = lvol->id,
		.product_name = "Logical Volume",
		.block_size = info.io_unit_bytes,
		.physical_block_size = MAX(bdev_physical_block_size(base), info.io_unit_bytes),
		.num_blocks = blob_num_clusters(lvol->blob) * cluster_blocks,
		.ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP |
			    1u << BDEV_WRITE_ZEROES | 1u << BDEV_BLOCK_STATUS,
		.optimal_boundary_blocks = cluster_blocks,
		.unmap_granularity_blocks = cluster_blocks,
		.hints = {.preferred_unmap_alignment = cluster_blocks, .preferred_unmap_granularity = cluster_blocks},
		.write_cache = bdev_write_cache(base),
		.readonly = blob_readonly(lvol->blob) || info.readonly,
		.tells_changes = true,
		.io_ctx_bytes = MAX(blob_io_bytes(lvol->store->blobs), bdev_io_bytes(base)),
		.channel_ctx_bytes = sizeof(struct lvol_channel),
	};
	uuid_copy(lvol->bdev.uuid, lvol->uuid);
}

int
lvol_bdev_register(struct lvol *lvol, struct err *err)
{
	int rc;

	/* Who waits for bdevs to go gets no new ones. */
	if (lvol->store->leaving != STORE_STAYS || lvol->deleting != NULL) {
		return 0;
	}
	/* SPDK makes volumes of no clusters, too. */
	if (!lvol->open || lvol->has_bdev || blob_num_clusters(lvol->blob) == 0) {
		return 0;
	}
	if (blob_degraded(lvol->blob)) {
		lvol_tell_degraded(lvol, true);
		return 0;
	}
	fill(lvol);
	rc = bdev_register(&lvol->bdev, err);
	if (rc == 0) {
		lvol->registered = true;
		lvol->has_bdev = true;
		lvol->store->num_bdevs++;
		lvol_bdev_set_alias(lvol);
	}
	return rc;
}

void
lvol_bdev_unregister(struct lvol *lvol)
{
	if (lvol->registered) {
		lvol->registered = false;
		bdev_unregister(&lvol->bdev, NULL, NULL);
	}
}
