/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The way of a request. The direct one, for a read or write that needs nothing of the core: a few
 * compares, two counters, the module, perhaps the module below it (pass.c); and back: the done list,
 * the statistics, done(). All others are looked at by start_request() and go to the module too, or to split.c, or end here.
 *
 * Invariants
 *  1. inflight counts the submitter's requests from their start to their done(); outstanding what
 *     the module has. Requests that wait for the end of a reset or of a range lock, or for the
 *     limits, and resets, are in parked_count instead.
 *  2. done() is the last thing that happens to a request, and from a deferred call or message; its
 *     channel is not touched afterwards, for done() may put it.
 *  3. The clock is the reactor's, read once a round.
 * Context: the channel's thread.
 */
#include <errno.h>

#include "bdev/internal.h"
#include "event/reactor.h"

/* ---- Back ---- */

static inline void
count(const struct core_channel *c, struct bdev_op_stats *s, const struct bdev_io *io, uint64_t ns)
{
	s->ops++;
	s->bytes += io->num_blocks << c->pub.block_size_shift;
	s->latency_ns += ns;
	if (UNLIKELY(ns > s->max_ns)) {
		s->max_ns = ns;
	}
	if (UNLIKELY(ns < s->min_ns)) {
		s->min_ns = ns;
	}
}

static void
account(struct core_channel *c, struct bdev_op_stats *s, const struct bdev_io *io, int status)
{
	uint64_t ns = reactor_now_ns() - io->submit_ns;

	if (status != 0) {
		stats_count_error(c, io, status);
		return;
	}
	count(c, s, io, ns);
	if (c->histograms != NULL) {
		histogram_count(c->histograms, io->op, ns);
	}
}

static void
attend(struct core_channel *c)
{
	range_attend(c);
	if (!list_empty(&c->refused)) {
		nomem_retry(c);
	}
	if (c->draining && c->pub.inflight == 0) {
		reset_channel_drained(c);
	}
}

static void
finish_counted_in(struct core_channel *c, struct bdev_op_stats *s, struct bdev_io *io, int status)
{
	account(c, s, io, status);
	if ((io->flags & IO_TRACKED) != 0) {
		range_untrack(c, io);
	}
	c->pub.inflight--;
	if (c->attention) {
		attend(c);
	}
	io->done(io, status);
}

void
finish_request(struct core_channel *c, struct bdev_io *io, int status)
{
	/* Of an operation that does not exist only the error is counted. */
	finish_counted_in(c, io->op < BDEV_OP_COUNT ? &c->stats.op[io->op] : NULL, io, status);
}

/* A request that was passed down is again as it was submitted. */
static inline void
lift(struct core_channel *upper, const struct bdev_pass *pass, struct bdev_io *io)
{
	io->ch = &upper->pub;
	io->lba = io->upper_lba;
	io->num_blocks >>= pass->shift;
	io->flags = 0;
	upper->pub.outstanding--;
}

static __attribute__((noinline)) void
finish_passed_otherwise(struct core_channel *c, struct bdev_io *io)
{
	struct bdev_pass *pass = io->pass;
	struct core_channel *upper = core_channel(pass->upper);

	c->pub.inflight--;
	if (io->status != 0) {
		stats_count_error(c, io, io->status);
	}
	if (c->attention) {
		attend(c);
	}
	if (pass->ended != NULL) {
		pass->ended(pass, io);
	}
	lift(upper, pass, io);
	finish_counted_in(upper, &pass->op[io->op], io, io->status);
}

/* The channel c is below the one that it was submitted on, which it goes back to. */
static __attribute__((noinline)) void
finish_passed(struct core_channel *c, struct bdev_io *io)
{
	struct bdev_pass *pass = io->pass;
	struct core_channel *upper = core_channel(pass->upper);

	if (UNLIKELY(io->status != 0 || c->attention || upper->pub.careful || *pass->busy)) {
		finish_passed_otherwise(c, io);
		return;
	}
	c->pub.inflight--;
	--*pass->all;
	pass->marked[(io->flags & BDEV_IO_SUBMITTER) != 0]--;
	lift(upper, pass, io);
	count(upper, &pass->op[io->op], io, reactor_now_ns() - io->submit_ns);
	upper->pub.inflight--;
	io->done(io, 0);
}

static __attribute__((noinline)) void
finish_otherwise(struct core_channel *c, struct bdev_io *io)
{
	if ((io->flags & IO_CORE) == 0) {
		finish_request(c, io, io->status);
	} else if (io->op == BDEV_RESET) {
		reset_module_done(c, io);
	} else {
		split_part_done(c, io);
	}
}

/* A request or a part of one comes back from the module. */
static void
finish(struct defer *d)
{
	struct bdev_io *io = CONTAINER_OF(d, struct bdev_io, defer);
	struct core_channel *c = core_channel(io->ch);

	c->pub.outstanding--;
	if (LIKELY((io->flags & (IO_CORE | IO_TRACKED)) == 0 && io->status == 0 && !c->pub.careful)) {
		count(c, &c->stats.op[io->op], io, reactor_now_ns() - io->submit_ns);
		c->pub.inflight--;
		io->done(io, 0);
	} else if (LIKELY(bdev_io_is_passed(io))) {
		finish_passed(c, io);
	} else {
		finish_otherwise(c, io);
	}
}

void
bdev_io_complete(struct bdev_io *io, int status)
{
	CHECK_HOT(status <= 0 && io->ch->outstanding > 0);
	if (UNLIKELY(status == -ENOMEM || status == -EAGAIN)) {
		nomem_refuse(core_channel(io->ch), io);
		return;
	}
	io->status = status;
	thread_defer(&io->defer, finish);
}

void
bdev_io_complete_now(struct bdev_io *io, int status)
{
	CHECK_HOT(status <= 0 && io->ch->outstanding > 0);
	if (UNLIKELY(status == -ENOMEM || status == -EAGAIN)) {
		nomem_refuse(core_channel(io->ch), io);
		return;
	}
	io->status = status;
	finish(&io->defer);
}

void
end_refused(struct core_channel *c, struct bdev_io *io, int status)
{
	c->pub.outstanding++;
	io->status = status;
	thread_defer(&io->defer, finish);
}

static void
finish_ended(struct defer *d)
{
	struct bdev_io *io = CONTAINER_OF(d, struct bdev_io, defer);

	finish_request(core_channel(io->ch), io, io->status);
}

void
end_request(struct core_channel *c, struct bdev_io *io, int status)
{
	io->status = status;
	thread_defer(&io->defer, finish_ended);
}

/* ---- There: what is not direct ---- */

void
issue(struct core_channel *c, struct bdev_io *io)
{
	if (UNLIKELY(!list_empty(&c->refused))) {
		nomem_append(c, io);
		return;
	}
	c->pub.outstanding++;
	c->submit(&c->pub, io);
}

static bool
modifies(enum bdev_op op)
{
	const uint32_t ops = 1u << BDEV_WRITE | 1u << BDEV_UNMAP | 1u << BDEV_WRITE_ZEROES |
			     1u << BDEV_COMPARE_AND_WRITE | 1u << BDEV_COPY |
			     1u << BDEV_ZONE_MANAGE | 1u << BDEV_ZONE_APPEND;

	return (ops >> op & 1) != 0;
}

static bool
in_range(const struct bdev_channel *ch, const struct bdev_io *io)
{
	if (io->op == BDEV_SEEK_DATA || io->op == BDEV_SEEK_HOLE) {
		return io->lba < ch->num_blocks;
	}
	if (io->num_blocks == 0) {
		return true;
	}
	return io->lba < ch->num_blocks && io->num_blocks <= ch->num_blocks - io->lba &&
	       (io->op != BDEV_COPY || (io->src_lba < ch->num_blocks &&
					io->num_blocks <= ch->num_blocks - io->src_lba));
}

static bool
operands_fit(const struct bdev_io *io)
{
	switch (io->op) {
	case BDEV_COPY: /* must not overlap */
		return io->src_lba >= io->lba + io->num_blocks ||
		       io->lba >= io->src_lba + io->num_blocks;
	case BDEV_BLOCK_STATUS:
		return io->max_results != 0;
	default:
		return true;
	}
}

/* The error a request ends with because of what it asks for, 0 when it may be done. */
static int
check_request(const struct core_channel *c, const struct bdev_io *io)
{
	const struct bdev_channel *ch = &c->pub;

	if (io->op >= BDEV_OP_COUNT) {
		return -EOPNOTSUPP;
	}
	if (modifies(io->op) && ch->readonly) {
		return -EROFS;
	}
	if (!bdev_supports(ch->bdev, io->op) && (io->op != BDEV_FLUSH || ch->bdev->write_cache)) {
		return -EOPNOTSUPP;
	}
	if ((io->flags & BDEV_IO_MD) != 0 && ch->bdev->md_bytes == 0) {
		return -EINVAL;
	}
	if (io->op == BDEV_FLUSH) {
		return 0;
	}
	if (!in_range(ch, io) || !operands_fit(io)) {
		return -EINVAL;
	}
	return ch->bdev->zone_blocks != 0 ? zone_check(ch, io) : 0;
}

/* True when there is nothing to do: no blocks, or a flush of what has no cache. */
static bool
done_already(const struct core_channel *c, const struct bdev_io *io)
{
	switch (io->op) {
	case BDEV_FLUSH:
		return !bdev_supports_natively(c->pub.bdev, BDEV_FLUSH);
	case BDEV_SEEK_DATA:
	case BDEV_SEEK_HOLE:
	case BDEV_ZONE_REPORT:
	case BDEV_ZONE_MANAGE:
		return false;
	default:
		return io->num_blocks == 0;
	}
}

/* 0 or -EINVAL; *ret_fits: addresses, lengths and number of entries are as the module wants
 * them. */
static int
check_list(const struct core_channel *c, const struct bdev_io *io, bool *ret_fits)
{
	const struct bdev *bdev = c->pub.bdev;
	uintptr_t bases = 0, lens = 0;
	uint64_t bytes = 0;

	if (io->iovcnt > BDEV_IOV_MAX) {
		return -EINVAL;
	}
	for (unsigned i = 0; i < io->iovcnt; i++) {
		bytes += io->iov[i].iov_len;
		bases |= (uintptr_t)io->iov[i].iov_base;
		lens |= io->iov[i].iov_len;
	}
	*ret_fits = ((bases & c->pub.buffer_mask) |
		     (lens & c->pub.buffer_mask & (bdev->block_size - 1))) == 0 &&
		    io->iovcnt <= bdev->max_iovcnt;
	return bytes == io->num_blocks << c->pub.block_size_shift ? 0 : -EINVAL;
}

/* The same for the number of blocks, and for what else the module leaves to the core. */
static bool
range_fits(struct core_channel *c, const struct bdev_io *io)
{
	const struct bdev *bdev = c->pub.bdev;

	switch (io->op) {
	case BDEV_READ:
	case BDEV_WRITE:
		return rw_room(c, io->lba, io->num_blocks, io->op == BDEV_WRITE) == io->num_blocks &&
		       !needs_flush(bdev, io) && !needs_copy(bdev, io) && bdev->md_bytes == 0;
	case BDEV_UNMAP:
		return bdev->max_unmap_blocks == 0 || io->num_blocks <= bdev->max_unmap_blocks;
	case BDEV_WRITE_ZEROES:
		return bdev_supports_natively(bdev, BDEV_WRITE_ZEROES) && !needs_flush(bdev, io) &&
		       (bdev->max_write_zeroes_blocks == 0 ||
			io->num_blocks <= bdev->max_write_zeroes_blocks);
	default:
		return true;
	}
}

static bool
has_list(const struct bdev_io *io)
{
	const uint32_t ops = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_COMPARE |
			     1u << BDEV_COMPARE_AND_WRITE | 1u << BDEV_ZONE_APPEND;

	return (ops >> io->op & 1) != 0;
}

/* The module's own compare may not take the list as it is. */
static bool
may_emulate(const struct bdev_io *io)
{
	return io->op == BDEV_COMPARE || io->op == BDEV_COMPARE_AND_WRITE;
}

void
start_request(struct core_channel *c, struct bdev_io *io)
{
	int rc = check_request(c, io);
	bool fits = true;

	if (rc == 0 && !done_already(c, io)) {
		if (has_list(io)) {
			rc = check_list(c, io, &fits);
		}
		if (rc == 0 && (emulated(c->pub.bdev, io) || (!fits && may_emulate(io)))) {
			emulate_start(c, io);
			return;
		}
		if (rc == 0 && fits && range_fits(c, io)) {
			issue(c, io);
			return;
		}
		if (rc == 0 && io->op == BDEV_ZONE_APPEND) {
			rc = -EINVAL; /* in one piece or not at all */
		}
		if (rc == 0) {
			split_start(c, io);
			return;
		}
	} else if (rc == 0) {
		io->result = 0;
	}
	end_request(c, io, rc);
}

void
admit_paid(struct core_channel *c, struct bdev_io *io)
{
	if (c->ranges != NULL && range_holds_back(c, io)) {
		qos_refund(c, io);
		c->parked_count++;
		list_append(&c->held_back, &io->link);
		return;
	}
	c->pub.inflight++;
	if (c->ranges != NULL) {
		range_track(c, io);
	}
	start_request(c, io);
}

void
admit(struct core_channel *c, struct bdev_io *io)
{
	if (c->removed) {
		c->pub.inflight++;
		end_request(c, io, -ENODEV);
	} else if (c->frozen) {
		c->parked_count++;
		list_append(&c->parked, &io->link);
	} else if (c->qos.shared == NULL || !qos_holds_back(c, io)) {
		admit_paid(c, io);
	}
}

static __attribute__((noinline)) void
submit_otherwise(struct core_channel *c, struct bdev_io *io)
{
	io->flags &= (uint8_t)~IO_FLAGS_OURS;
	if (UNLIKELY(c->unsampled)) {
		sampling_wake(c);
	}
	if (io->op == BDEV_ABORT) {
		abort_submit(c, io);
	} else if (io->op == BDEV_RESET && !c->removed) {
		reset_submit(c, io);
	} else {
		admit(c, io);
	}
}

/* ---- There: directly ---- */

static inline bool
direct(const struct bdev_channel *ch, const struct bdev_io *io)
{
	const struct iovec *iov = io->iov;

	return ((ch->direct_ops >> (io->op & 31)) & 1) != 0 && (io->flags & ~BDEV_IO_SUBMITTER) == 0 && io->iovcnt == 1 &&
	       /* no blocks: wraps round, is not less */
	       io->num_blocks - 1 < ch->simple_blocks - (io->lba & ch->boundary_mask) &&
	       io->lba < ch->num_blocks && io->num_blocks <= ch->num_blocks - io->lba &&
	       iov->iov_len == io->num_blocks << ch->block_size_shift &&
	       ((uintptr_t)iov->iov_base & ch->buffer_mask) == 0;
}

void
bdev_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	io->ch = ch;
	io->submit_ns = reactor_now_ns();
	if (LIKELY(direct(ch, io))) {
		ch->inflight++;
		ch->outstanding++;
		ch->submit(ch, io);
		return;
	}
	submit_otherwise(core_channel(ch), io);
}
