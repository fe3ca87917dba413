/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Striped with parity, laid out as SPDK's raid5f: stripe s has its parity on base n - 1 - s % n, the
 * data strips on the others in order. SPDK's writes whole stripes only; this serves any guest.
 *
 * Invariants
 *  1. Parity fits the data whenever the lock of the stripe is free, but for what a crash left (below)
 *     and stripes that were never written.
 *  2. A read of strips that can be read goes to them, without a lock. All else is a request on the
 *     stripe: stripe.c.
 *  3. A write is acknowledged when it is on all members, or every member that missed it is out
 *     (member.c).
 *
 * The write hole: data and parity are two writes to two disks, and a power cut may fall between them.
 * Then the parity of these columns is wrong, and a base that is lost before it is mended takes blocks
 * with it that nobody had been writing. What is done about it: with a superblock, an array that was
 * being written to is known by that (intent.c), and parity is made to fit the data of the whole array
 * in the background, at the next start. What is not: an array that loses a base and power at once has
 * no way to know which of its columns are wrong; that takes a journal, which the format does not have. Such
 * an array starts, and says so in the log.
 * Context: the channel's thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "bdevs/raid/stripe.h"
#include "bdevs/raid/stripe_lock.h"

/* ---- Reads that need no computing ---- */

static void
direct_done(struct bdev_io *child, int status)
{
	struct raid_child *c = raid_child_of(child);
	struct bdev_io *io = c->parent;
	struct raid_channel *rc = raid_channel_of(io->ch);
	struct raid_io *x = bdev_io_ctx(io);

	raid_child_came(x, c);
	raid_channel_came_back(rc);
	if (x->status == 0) {
		x->status = status;
	}
	if (--x->pending > 0) {
		return;
	}
	if (x->status == 0) {
		bdev_io_complete_now(io, 0);
	} else if (raid_given_up(rc, x)) {
		bdev_io_complete_now(io, rc->cancel_status);
	} else {
		raid_channel_look(rc);
		stripe_submit(rc, io); /* with what cannot be read computed */
	}
}

/* Bytes [offset, offset + len) of the list as entries of it, or as part of one. False: neither. */
static bool
part_of_list(const struct bdev_io *io, size_t offset, size_t len, struct raid_child *c)
{
	const struct iovec *iov = io->iov, *last = io->iov + io->iovcnt;
	size_t bytes = 0;

	while (offset >= iov->iov_len) {
		offset -= iov++->iov_len;
	}
	if (offset + len <= iov->iov_len) {
		c->iov = (struct iovec){(uint8_t *)iov->iov_base + offset, len};
		c->io.iov = &c->iov;
		c->io.iovcnt = 1;
		return true;
	}
	c->io.iov = iov;
	while (iov < last && bytes < len) {
		bytes += iov++->iov_len;
	}
	c->io.iovcnt = (uint16_t)(iov - c->io.iov);
	return offset == 0 && bytes == len;
}

/* False: it needs a stripe request. */
static bool
prepare_direct(struct raid_channel *rc, struct bdev_io *io, unsigned *ret_count)
{
	const struct raid *raid = rc->raid;
	uint64_t stripe = io->lba / raid->stripe_blocks, at = io->lba % raid->stripe_blocks;
	uint64_t end = at + io->num_blocks, strip = raid->strip_blocks, begun = at;
	unsigned parity = stripe_parity_slot(raid, stripe), n = 0;

	while (at < end) {
		unsigned slot = stripe_data_slot((unsigned)(at / strip), parity);
		uint64_t blocks = MIN(end - at, strip - at % strip);
		struct raid_child *c = raid_child_at(raid, raid_children(io), n);

		if (!stripe_readable(rc, slot)) {
			return false;
		}
		raid_child_init(c, io, stripe * strip + at % strip + rc->slots[slot].offset, blocks,
				direct_done);
		c->slot = slot;
		if (blocks < io->num_blocks &&
		    !part_of_list(io, (size_t)(at - begun) * raid->bdev.block_size,
				  (size_t)blocks * raid->bdev.block_size, c)) {
			return false;
		}
		at += blocks;
		n++;
	}
	*ret_count = n;
	return true;
}

static void
submit_read(struct raid_channel *rc, struct bdev_io *io)
{
	struct raid_io *x = bdev_io_ctx(io);

	if (UNLIKELY(!prepare_direct(rc, io, &x->pending))) {
		stripe_submit(rc, io);
		return;
	}
	for (unsigned i = 0, n = x->pending; i < n; i++) {
		struct raid_child *c = raid_child_at(rc->raid, raid_children(io), i);

		raid_child_goes(x, c, i);
		bdev_submit(rc->slots[c->slot].ch, &c->io);
	}
}

/* ---- Submission ---- */

static void
submit_write(struct raid_channel *rc, struct bdev_io *io)
{
	if (UNLIKELY(!rc->writable)) {
		raid_intent_park(rc, bdev_io_ctx(io));
		return;
	}
	rc->wrote = true;
	rc->writes++;
	stripe_submit(rc, io);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct raid_channel *rc = raid_channel_of(ch);

	raid_channel_look(rc);
	if (io->op >= BDEV_RESET && raid_control(rc, io)) {
		return;
	}
	raid_io_init(rc, bdev_io_ctx(io));
	if (io->op == BDEV_READ) {
		submit_read(rc, io);
	} else if (io->op == BDEV_WRITE) {
		submit_write(rc, io);
	} else {
		raid_all_submit(rc, io); /* flush */
	}
}

static bool
end_waiting(struct raid_channel *rc, const struct raid_io *only, int status)
{
	bool any = raid_all_end_waiting(rc, only, status);

	return stripe_end_waiting(rc, only, status) || any;
}

static void
release_held(struct raid_channel *rc)
{
	raid_all_release(rc);
	stripe_release_held(rc);
}

/* ---- Life ---- */

static const struct bdev_ops raid5f_ops = {
	.module_name = "raid",
	.destruct = raid_bdev_destruct,
	.base = raid_bdev_base,
	.channel_create = raid_channel_create,
	.channel_destroy = raid_channel_destroy,
	.cancel = raid_cancel,
	.submit = submit,
};

static int
start(struct raid *raid, struct err *err)
{
	uint64_t room = raid_room(raid, false), least = room - room % raid->strip_blocks;

	if (least == 0) {
		return err_set(err, -EINVAL, "RAID '%s': a base is smaller than a strip of %u KiB",
			       raid->name, raid->strip_kb);
	}
	raid_set_sizes(raid, least);
	raid->stripe_locks = stripe_lock_table_create();
	if (raid->stripe_locks == NULL) {
		return err_set(err, -ENOMEM, "RAID '%s': out of memory", raid->name);
	}
	raid->stripe_blocks = (uint64_t)raid->strip_blocks * (raid->num_bases - 1);
	raid_inherit(raid, 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH, raid->num_bases);
	raid->bdev.num_blocks = raid->stripe_blocks * (least / raid->strip_blocks);
	raid->bdev.optimal_boundary_blocks = (uint32_t)raid->stripe_blocks;
	if (raid->sb != NULL && !raid->sb->synced &&
	    raid_count_configured(raid) < raid->num_bases) {
		LOG_WARNING(BDEV, raid->name,
			    "was being written to when it stopped, and lacks a base: blocks of that "
			    "base beside those written last may be wrong");
	}
	return 0;
}

static void
stop(struct raid *raid)
{
	stripe_lock_table_free(raid->stripe_locks);
	raid->stripe_locks = NULL;
}

static unsigned
all_but_one(unsigned num_bases)
{
	return num_bases - 1;
}

const struct raid_level_ops raid5f_level = {
	.level = RAID_LEVEL_5F,
	.name = "raid5f",
	.least_bases = 3,
	.redundant = true,
	.min_working = all_but_one,
	.bdev_ops = &raid5f_ops,
	.start = start,
	.stop = stop,
	.channel_init = stripe_channel_init,
	.channel_release = stripe_channel_release,
	.release_held = release_held,
	.resubmit = submit_write,
	.end_waiting = end_waiting,
};
