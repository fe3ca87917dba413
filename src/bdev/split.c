/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests that the module cannot take as they are: too long, too many entries, across a boundary,
 * unaligned, of data that may change while it is written, zeroes to be written by writes, writes to
 * be followed by a flush. They are cut into parts, each a request that the module can take. So are
 * operations that emulate.c makes of others.
 *
 * Invariants
 *  1. Parts come from the channel's own bounded store, made when the first request needs it. A
 *     request that finds none, or no buffer to bounce through, is on `starved`, oldest first; then at
 *     least one part of the channel is under way, and its return goes on with the first of them, or
 *     there is no store for want of memory, and the timer tries again.
 *  2. A request has at most PARTS_OF_ONE parts under way: a long one leaves room for others.
 *  3. It ends when all its parts have come back; with the first error that one brought, after which
 *     no more parts are begun. The flush of a stable write starts after the last part of its data
 *     has come back.
 * Context: the channel's thread.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "bdev/internal.h"

#define STORE_RETRY_US 1000

static size_t
part_bytes(const struct bdev *bdev)
{
	return offsetof(struct part, io) + bdev_io_bytes(bdev);
}

void
split_channel_release(struct core_channel *c)
{
	bounce_release(c);
	md_channel_release(c);
	free(c->parts);
	c->parts = NULL;
}

/* True when there is a store of parts and what bounces need. */
static bool
store_ready(struct core_channel *c)
{
	size_t bytes = part_bytes(c->pub.bdev);

	if (c->parts != NULL) {
		return true;
	}
	if (bounce_init(c) != 0) {
		return false;
	}
	c->parts = aligned_alloc(CACHE_LINE_BYTES, PARTS_MAX * bytes);
	if (c->parts == NULL || md_channel_init(c) != 0) {
		split_channel_release(c);
		return false;
	}
	for (size_t i = 0; i < PARTS_MAX; i++) {
		struct part *part = (struct part *)(void *)(c->parts + i * bytes);

		part->bounce = NULL;
		part->index = (unsigned)i;
		list_append(&c->free_parts, &part->link);
	}
	return true;
}

bool
needs_copy(const struct bdev *bdev, const struct bdev_io *io)
{
	return bdev->needs_stable_data && io->op == BDEV_WRITE;
}

/* Up to the boundary, or as far beyond it as the module says. */
static uint64_t
boundary_room(struct core_channel *c, uint64_t lba, uint64_t num_blocks, bool write)
{
	const struct bdev *bdev = c->pub.bdev;
	uint64_t room = bdev->optimal_boundary_blocks - lba % bdev->optimal_boundary_blocks;

	if (num_blocks <= room) {
		return num_blocks;
	}
	return bdev->ops->reach == NULL ? room : bdev->ops->reach(&c->pub, lba, num_blocks, write);
}

uint64_t
rw_room(struct core_channel *c, uint64_t lba, uint64_t num_blocks, bool write)
{
	const struct bdev *bdev = c->pub.bdev;

	if (bdev->max_rw_blocks != 0) {
		num_blocks = MIN(num_blocks, bdev->max_rw_blocks);
	}
	if (bdev->optimal_boundary_blocks != 0) {
		num_blocks = boundary_room(c, lba, num_blocks, write);
	}
	if (bdev->md_bytes != 0) {
		num_blocks = MIN(num_blocks, md_room(bdev));
	}
	return num_blocks;
}

bool
needs_flush(const struct bdev *bdev, const struct bdev_io *io)
{
	return (io->flags & BDEV_IO_FUA) != 0 && bdev->write_cache && !bdev->native_fua &&
	       (io->op == BDEV_WRITE || io->op == BDEV_WRITE_ZEROES);
}

/* ---- Filling a part ---- */

void
split_init_part(struct core_channel *c, struct part *part, struct bdev_io *request, enum bdev_op op,
		uint64_t num_blocks, unsigned iovcnt)
{
	struct bdev_io *io = &part->io;
	uint64_t offset = request->issued_blocks;
	bool source = request->op == BDEV_COPY;

	bdev_io_init(io, op, (source ? request->src_lba : request->lba) + offset, num_blocks,
		     part->iov, iovcnt, NULL);
	io->flags = (uint8_t)((request->flags & ~IO_FLAGS_OURS) | IO_CORE);
	if (!c->pub.bdev->native_fua) {
		io->flags &= (uint8_t)~BDEV_IO_FUA;
	}
	io->ch = &c->pub;
	io->parent = request;
	io->submit_ns = request->submit_ns;
	request->issued_blocks += num_blocks;
}

static void
skip(struct bdev_io *request, uint64_t bytes)
{
	while (bytes > 0) {
		uint64_t left = request->iov[request->iov_index].iov_len - request->iov_offset;

		if (bytes < left) {
			request->iov_offset += bytes;
			return;
		}
		bytes -= left;
		request->iov_index++;
		request->iov_offset = 0;
	}
}

/*
 * Entries of the request, from where it stands on, as far as the module takes them: up to `want`
 * bytes, cut to whole blocks. *ret_bad: an entry that is not aligned came before that.
 */
static uint64_t
gather(const struct core_channel *c, const struct bdev_io *request, struct part *part,
       uint64_t want, unsigned *ret_iovcnt, bool *ret_bad)
{
	const struct bdev *bdev = c->pub.bdev;
	uint64_t len_mask = c->pub.buffer_mask & (bdev->block_size - 1),
		 offset = request->iov_offset, bytes = 0, tail;
	unsigned max = MIN(bdev->max_iovcnt, (uint32_t)PART_IOV_MAX), n = 0;

	*ret_bad = false;
	for (unsigned i = request->iov_index; bytes < want && n < max; i++, offset = 0) {
		uint8_t *base = (uint8_t *)request->iov[i].iov_base + offset;
		uint64_t len = MIN(request->iov[i].iov_len - offset, want - bytes);

		if ((((uintptr_t)base & c->pub.buffer_mask) | (len & len_mask)) != 0) {
			*ret_bad = true;
			break;
		}
		if (len > 0) {
			part->iov[n++] = (struct iovec){.iov_base = base, .iov_len = len};
			bytes += len;
		}
	}
	tail = bytes & (bdev->block_size - 1);
	bytes -= tail;
	while (tail > 0) {
		uint64_t cut = MIN(tail, part->iov[n - 1].iov_len);

		part->iov[n - 1].iov_len -= cut;
		tail -= cut;
		if (part->iov[n - 1].iov_len == 0) {
			n--;
		}
	}
	*ret_iovcnt = n;
	return bytes;
}

/*
 * False when a buffer is needed and none is to be had. Where an entry is not aligned, what stands
 * aligned before it is copied too: one longer request costs less than two and a copy.
 */
static bool
fill_rw(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	unsigned shift = c->pub.block_size_shift, iovcnt;
	uint64_t left = request->num_blocks - request->issued_blocks;
	uint64_t want = rw_room(c, request->lba + request->issued_blocks, left, request->op == BDEV_WRITE) << shift;
	bool bad;
	uint64_t bytes = gather(c, request, part, want, &iovcnt, &bad);

	if (bytes == 0 || (bad && bytes < BOUNCE_BYTES) || needs_copy(c->pub.bdev, request)) {
		bytes = bounce_take(c, part, request, want);
		iovcnt = 1;
		if (bytes == 0) {
			return false;
		}
	}
	split_init_part(c, part, request, request->op, bytes >> shift, iovcnt);
	skip(request, bytes);
	return true;
}

static void
fill_zeroes(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	uint64_t left = request->num_blocks - request->issued_blocks;
	uint64_t n = rw_room(c, request->lba + request->issued_blocks, left, true);

	n = MIN(n, MEM_ZEROES_BYTES >> c->pub.block_size_shift);
	part->iov[0] =
		(struct iovec){.iov_base = mem_zeroes(), .iov_len = n << c->pub.block_size_shift};
	split_init_part(c, part, request, BDEV_WRITE, n, 1);
}

static void
fill_range(struct core_channel *c, struct part *part, struct bdev_io *request, uint64_t max_blocks)
{
	uint64_t left = request->num_blocks - request->issued_blocks;

	split_init_part(c, part, request, request->op, max_blocks == 0 ? left : MIN(left, max_blocks), 0);
}

static bool
fill(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	const struct bdev *bdev = c->pub.bdev;

	if (request->issued_blocks == request->num_blocks) {
		request->core_word |= WORD_FLUSHED;
		split_init_part(c, part, request, BDEV_FLUSH, 0, 0);
		return true;
	}
	switch (request->op) {
	case BDEV_UNMAP:
		fill_range(c, part, request, bdev->max_unmap_blocks);
		return true;
	case BDEV_WRITE_ZEROES:
		if (bdev_supports_natively(bdev, BDEV_WRITE_ZEROES)) {
			fill_range(c, part, request, bdev->max_write_zeroes_blocks);
		} else {
			fill_zeroes(c, part, request);
		}
		return true;
	case BDEV_READ:
	case BDEV_WRITE:
		return fill_rw(c, part, request);
	default:
		return emulate_fill(c, part, request);
	}
}

/* ---- Getting on ---- */

/* Where the next part begins is known when the one before has come back. */
static bool
one_by_one(const struct bdev_io *request)
{
	return request->op == BDEV_SEEK_DATA || request->op == BDEV_SEEK_HOLE;
}

static bool
has_next(const struct core_channel *c, const struct bdev_io *request)
{
	if (request->status != 0) {
		return false;
	}
	if (request->issued_blocks < request->num_blocks) {
		return request->children < (one_by_one(request) ? 1u : PARTS_OF_ONE);
	}
	return request->children == 0 && needs_flush(c->pub.bdev, request) &&
	       (request->core_word & WORD_FLUSHED) == 0;
}

/* The metadata of a write does not fit its data. */
static void
give_up(struct core_channel *c, struct part *part, struct bdev_io *request)
{
	if (part->bounce != NULL) {
		bounce_put(c, part);
	}
	request->status = -EILSEQ;
}

/* False: request is on `starved`. */
static bool
start_part(struct core_channel *c, struct bdev_io *request)
{
	struct part *part;

	if (!store_ready(c)) {
		CHECK(timer_start(&c->retry, STORE_RETRY_US, nomem_retry_later) == 0);
	} else if (!list_empty(&c->free_parts)) {
		part = LIST_FIRST(&c->free_parts, struct part, link);
		if (fill(c, part, request)) {
			if (c->md != NULL && md_part_issue(c, part) != 0) {
				give_up(c, part, request);
				return true;
			}
			list_remove(&part->link);
			request->children++;
			issue(c, &part->io);
			return true;
		}
	}
	list_append(&c->starved, &request->link);
	return false;
}

static void
end(struct core_channel *c, struct bdev_io *request)
{
	if (request->op == BDEV_COMPARE_AND_WRITE) {
		emulate_swap_ended(c, request);
	} else {
		end_request(c, request, request->status);
	}
}

static void
advance(struct core_channel *c, struct bdev_io *request)
{
	do {
		while (has_next(c, request)) {
			if (c->removed) {
				request->status = -ENODEV;
			} else if (!start_part(c, request)) {
				return;
			}
		}
	} while (request->children == 0 && request->status == 0 && emulate_next_phase(c, request));
	if (request->children == 0) {
		end(c, request);
	}
}

void
split_start(struct core_channel *c, struct bdev_io *io)
{
	const struct bdev *bdev = c->pub.bdev;

	if (needs_flush(bdev, io) && !bdev_supports_natively(bdev, BDEV_FLUSH)) {
		end_request(c, io, -EOPNOTSUPP);
		return;
	}
	io->flags |= IO_SPLIT;
	io->core_word = 0;
	io->issued_blocks = 0;
	io->iov_index = 0;
	io->iov_offset = 0;
	io->children = 0;
	io->status = 0;
	list_init(&io->link);
	advance(c, io);
}

/* Each that can get on does. One that got on a little goes to the end, so that long requests
 * take turns; the first that could not at all keeps its place. */
void
split_feed(struct core_channel *c)
{
	bool fed = true;

	while (fed && !list_empty(&c->starved)) {
		struct bdev_io *request = LIST_FIRST(&c->starved, struct bdev_io, link);
		uint64_t before = request->issued_blocks;

		list_remove(&request->link);
		advance(c, request);
		fed = !list_linked(&request->link);
		if (!fed && request->issued_blocks == before) {
			list_remove(&request->link);
			list_prepend(&c->starved, &request->link);
		}
	}
}

void
split_part_done(struct core_channel *c, struct bdev_io *io)
{
	struct part *part = CONTAINER_OF(io, struct part, io);
	struct bdev_io *request = io->parent;
	bool waits;

	if (c->md != NULL) {
		md_part_done(c, part);
	}
	if (request->op > BDEV_RESET && emulate_part_done(c, part, request)) {
		/* It may wait behind others that were refused, and be the last that comes back. */
		if (!list_empty(&c->refused)) {
			nomem_retry(c);
		}
		return;
	}
	if (part->bounce != NULL) {
		bounce_return(c, part);
	}
	if (request->status == 0) {
		request->status = io->status;
	}
	request->children--;
	list_prepend(&c->free_parts, &part->link);
	if (!list_empty(&c->refused)) {
		nomem_retry(c);
	}
	/* One that waits for parts gets on, or ends, when it is its turn among those that wait. */
	waits = list_linked(&request->link);
	split_feed(c);
	if (!waits) {
		advance(c, request);
	}
}

void
split_end(struct core_channel *c, int status, uint64_t before_ns)
{
	struct bdev_io *request, *next;
	struct list old;

	list_init(&old);
	LIST_FOREACH_SAFE (request, next, &c->starved, link) {
		if (request->submit_ns < before_ns) {
			list_remove(&request->link);
			list_append(&old, &request->link);
		}
	}
	while (!list_empty(&old)) {
		request = LIST_FIRST(&old, struct bdev_io, link);
		list_remove(&request->link);
		request->status = request->status == 0 ? status : request->status;
		advance(c, request);
	}
}

void
split_remove(struct core_channel *c)
{
	while (!list_empty(&c->starved)) {
		struct bdev_io *request = LIST_FIRST(&c->starved, struct bdev_io, link);

		list_remove(&request->link);
		advance(c, request);
	}
}
