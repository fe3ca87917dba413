/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Operations that modules need not know: compare, compare-and-write, copy, the search for data and
 * holes, block status. The first three are made of reads into buffers of the core and of writes out
 * of them, part by part, by split.c's machinery; the search asks for the block status, part by part.
 *
 * A compare-and-write first takes a range lock on its blocks, so that no write of any channel comes
 * between; it compares, writes when all is equal, lets the range go, and ends then.
 *
 * Invariants
 *  1. The parts of a compare are compared in any order; the request's result is the offset of the
 *     first difference of all.
 *  2. One compare-and-write of a channel is under way (struct swap); others wait behind it. All are
 *     in flight and tracked from the beginning, so a reset waits for them; one that has no range yet
 *     (WORD_SWAP_WAITS) is in no lock's way, for it has touched nothing and will ask for its own.
 * Context: the channel's thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "bdev/internal.h"

#define STATUS_EXTENTS (sizeof(((struct part *)NULL)->iov) / sizeof(struct bdev_extent))

struct swap {
	struct bdev_range_lock lock;
	struct bdev_io *io; /* NULL: none is under way */
	struct core_channel *c;
	struct list waiting;
};

/* A compare-and-write that the module cannot do in one go. */
static bool
too_long(const struct bdev *bdev, const struct bdev_io *io)
{
	uint64_t boundary = bdev->optimal_boundary_blocks;

	return io->op == BDEV_COMPARE_AND_WRITE &&
	       (io->write_iovcnt > bdev->max_iovcnt ||
		(bdev->max_compare_write_blocks != 0 && io->num_blocks > bdev->max_compare_write_blocks) ||
		(boundary != 0 && io->lba / boundary != (io->lba + io->num_blocks - 1) / boundary));
}

bool
emulated(const struct bdev *bdev, const struct bdev_io *io)
{
	return io->op >= BDEV_COMPARE && io->op <= BDEV_BLOCK_STATUS && io->op != BDEV_ABORT &&
	       (!bdev_supports_natively(bdev, io->op) ||
		too_long(bdev, io) ||
		(bdev->md_bytes != 0 &&
		 (io->op == BDEV_COMPARE || io->op == BDEV_COMPARE_AND_WRITE)));
}

/* ---- Parts of compare and copy ---- */

static uint64_t
byte_offset(const struct core_channel *c, const struct bdev_io *request, const struct bdev_io *io)
{
	return (io->lba - request->lba) << c->pub.block_size_shift;
}

static bool
fill_with_buffer(struct core_channel *c, struct part *part, struct bdev_io *request,
		 uint64_t from_lba)
{
	unsigned shift = c->pub.block_size_shift;
	uint64_t left = request->num_blocks - request->issued_blocks;
	uint64_t n = MIN(rw_room(c, from_lba, left, false), BOUNCE_BYTES >> shift);

	/* What is read in one piece must be written in one, too. */
	if (request->op == BDEV_COPY) {
		n = rw_room(c, request->lba + request->issued_blocks, n, true);
	}
	if (bounce_get(c, part, n << shift) == 0) {
		return false;
	}
	split_init_part(c, part, request, BDEV_READ, n, 1);
	return true;
}

static bool
fill_swap_write(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	unsigned shift = c->pub.block_size_shift;
	uint64_t lba = request->lba + request->issued_blocks;
	uint64_t n = MIN(rw_room(c, lba, request->num_blocks - request->issued_blocks, true),
			 BOUNCE_BYTES >> shift);

	if (bounce_get(c, part, n << shift) == 0) {
		return false;
	}
	iov_to_buf(request->write_iov, (int)request->write_iovcnt, request->issued_blocks << shift,
		   part->bounce, n << shift);
	split_init_part(c, part, request, BDEV_WRITE, n, 1);
	return true;
}

/* ---- The search ---- */

static bool
fill_status(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	uint64_t lba = request->lba + request->issued_blocks;

	split_init_part(c, part, request, BDEV_BLOCK_STATUS, c->pub.num_blocks - lba, 0);
	part->io.extents = (struct bdev_extent *)(void *)part->iov;
	part->io.max_results = STATUS_EXTENTS;
	return true;
}

static bool
matches(const struct bdev_io *request, const struct bdev_extent *e)
{
	bool data = (e->flags & BDEV_EXTENT_ALLOCATED) != 0 || (e->flags & BDEV_EXTENT_ZERO) == 0;

	return data == (request->op == BDEV_SEEK_DATA);
}

static void
look_through(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	const struct bdev_extent *e = part->io.extents;
	uint64_t lba = part->io.lba;

	for (uint64_t i = 0; i < part->io.result; i++) {
		if (matches(request, &e[i])) {
			request->result = lba;
			request->num_blocks = 0; /* found: no more parts */
			request->issued_blocks = 0;
			return;
		}
		lba += e[i].num_blocks;
	}
	request->issued_blocks = lba - request->lba;
}

/* ---- What split.c asks ---- */

bool
emulate_fill(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	switch (request->op) {
	case BDEV_COPY:
		return fill_with_buffer(c, part, request,
					request->src_lba + request->issued_blocks);
	case BDEV_COMPARE_AND_WRITE:
		if ((request->core_word & WORD_SWAP_WRITES) != 0) {
			return fill_swap_write(c, part, request);
		}
		return fill_with_buffer(c, part, request, request->lba + request->issued_blocks);
	case BDEV_COMPARE:
		return fill_with_buffer(c, part, request, request->lba + request->issued_blocks);
	default:
		return fill_status(c, part, request);
	}
}

static void
compare(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	uint64_t offset = byte_offset(c, request, &part->io), left = part->iov[0].iov_len;
	uint64_t skip = offset;
	const uint8_t *have = part->bounce;

	for (unsigned i = 0; i < request->iovcnt && left > 0; i++) {
		const struct iovec *iov = &request->iov[i];
		uint64_t n;

		if (skip >= iov->iov_len) {
			skip -= iov->iov_len;
			continue;
		}
		n = MIN(iov->iov_len - skip, left);
		for (uint64_t at = 0; at < n;) {
			uint64_t piece = MIN(n - at, (uint64_t)64);
			const uint8_t *want = (const uint8_t *)iov->iov_base + skip + at;
			uint64_t k = 0;

			if (memcmp(have, want, piece) != 0) {
				/* A guest may make them equal meanwhile: then it is the last. */
				while (k < piece - 1 && have[k] == want[k]) {
					k++;
				}
				request->result = MIN(request->result, offset + k);
				request->status = -EILSEQ;
				return;
			}
			have += piece;
			at += piece;
			offset += piece;
		}
		left -= n;
		skip = 0;
	}
}

static bool
write_copy(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	struct bdev_io *io = &part->io;
	uint64_t offset = io->lba - request->src_lba;

	io->op = BDEV_WRITE;
	io->lba = request->lba + offset;
	if (c->md != NULL) {
		md_part_issue(c, part);
	}
	issue(c, io);
	return true;
}

bool
emulate_part_done(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	if (part->io.status != 0) {
		return false;
	}
	if (part->io.op == BDEV_BLOCK_STATUS) {
		look_through(c, part, request);
	} else if (part->io.op == BDEV_READ && request->op == BDEV_COPY) {
		if (c->removed) {
			part->io.status = -ENODEV;
			return false;
		}
		return write_copy(c, part, request);
	} else if (part->io.op == BDEV_READ) {
		compare(c, part, request);
	}
	return false;
}

bool
emulate_next_phase(struct core_channel *c, struct bdev_io *request)
{
	if (request->op == BDEV_COMPARE_AND_WRITE &&
	    (request->core_word & WORD_SWAP_WRITES) == 0) {
		request->core_word = WORD_SWAP_WRITES;
		request->issued_blocks = 0;
		return true;
	}
	return false;
}

/* ---- Compare-and-write ---- */

static void swap_next(struct swap *s);

static void
swap_unlocked(struct bdev_range_lock *lock)
{
	struct swap *s = CONTAINER_OF(lock, struct swap, lock);
	struct core_channel *c = s->c;
	struct bdev_io *io = s->io;

	s->io = NULL;
	swap_next(s);
	finish_request(c, io, io->status);
}

void
emulate_swap_ended(struct core_channel *c, struct bdev_io *io)
{
	bdev_range_unlock(&c->swap->lock, swap_unlocked);
}

static void
swap_locked(struct bdev_range_lock *lock)
{
	struct swap *s = CONTAINER_OF(lock, struct swap, lock);
	struct core_channel *c = s->c;
	struct bdev_io *io = s->io;

	if (c->removed) {
		io->status = -ENODEV;
		bdev_range_unlock(&s->lock, swap_unlocked);
		return;
	}
	io->result = UINT64_MAX;
	split_start(c, io);
}

static void
swap_next(struct swap *s)
{
	if (s->io == NULL && !list_empty(&s->waiting)) {
		s->io = LIST_FIRST(&s->waiting, struct bdev_io, link);
		list_remove(&s->io->link);
		bdev_range_lock(&s->lock, s->c->pub.bdev, s->io->lba, s->io->num_blocks, false,
				swap_locked);
	}
}

static bool
swap_ready(struct core_channel *c)
{
	if (c->swap == NULL) {
		c->swap = calloc(1, sizeof(*c->swap));
		if (c->swap != NULL) {
			c->swap->c = c;
			list_init(&c->swap->waiting);
		}
	}
	return c->swap != NULL;
}

/* In flight so far. */
static void
swap_start(struct core_channel *c, struct bdev_io *io)
{
	if (io->num_blocks << c->pub.block_size_shift > BDEV_COMPARE_WRITE_MAX_BYTES ||
	    iov_length(io->write_iov, (int)io->write_iovcnt) !=
		    io->num_blocks << c->pub.block_size_shift) {
		end_request(c, io, -EINVAL);
		return;
	}
	if (!swap_ready(c)) {
		end_request(c, io, -EIO);
		return;
	}
	if ((io->flags & IO_TRACKED) == 0) {
		range_track(c, io);
	}
	io->flags |= IO_SPLIT;
	io->core_word = WORD_SWAP_WAITS;
	list_append(&c->swap->waiting, &io->link);
	swap_next(c->swap);
}

struct list *
emulate_waiting(struct core_channel *c)
{
	return c->swap != NULL ? &c->swap->waiting : NULL;
}

void
emulate_remove(struct core_channel *c)
{
	while (c->swap != NULL && !list_empty(&c->swap->waiting)) {
		struct bdev_io *io = LIST_FIRST(&c->swap->waiting, struct bdev_io, link);

		list_remove(&io->link);
		end_request(c, io, -ENODEV);
	}
}

void
emulate_release(struct core_channel *c)
{
	free(c->swap);
	c->swap = NULL;
}

/* ---- Beginning ---- */

static void
all_allocated(struct core_channel *c, struct bdev_io *io)
{
	if (io->op == BDEV_BLOCK_STATUS) {
		io->extents[0] = (struct bdev_extent){
			.num_blocks = io->num_blocks,
			.flags = BDEV_EXTENT_ALLOCATED,
		};
		io->result = 1;
	} else {
		io->result = io->op == BDEV_SEEK_DATA ? io->lba : UINT64_MAX;
	}
	end_request(c, io, 0);
}

void
emulate_start(struct core_channel *c, struct bdev_io *io)
{
	switch (io->op) {
	case BDEV_COMPARE_AND_WRITE:
		swap_start(c, io);
		return;
	case BDEV_SEEK_DATA:
	case BDEV_SEEK_HOLE:
	case BDEV_BLOCK_STATUS:
		if (!bdev_supports_natively(c->pub.bdev, BDEV_BLOCK_STATUS)) {
			all_allocated(c, io);
			return;
		}
		io->num_blocks = c->pub.num_blocks - io->lba;
		break;
	default:
		break;
	}
	io->result = UINT64_MAX;
	split_start(c, io);
}
