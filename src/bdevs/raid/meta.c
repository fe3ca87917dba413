/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Superblocks, written. One base after another, and on each the copy before the superblock itself, so
 * that a power cut leaves at most one of all torn. The highest sequence number wins, so what the new
 * one says is in force from the first base on; what depends on it (acknowledging a write that a
 * failed base missed, reading from a base that has been rebuilt) waits for the last.
 *
 * Why any moment is good for a power cut:
 *  - a base fails: the writes it missed are not acknowledged before `done`. With the old superblocks
 *    it is a member that lacks unacknowledged writes only, and is brought up to date as after every
 *    unclean stop (intent.c); with a new one it is none.
 *  - a base has been rebuilt: its data are stable before the first superblock says so, and each write
 *    from then on goes to it or marks it as failed first.
 *  - writes begin after a pause: the superblocks say so before the first of them.
 *
 * A base that ends one with -ECANCELED (cancel.c) is asked again, and is missing in the end, so that it comes back by
 * itself. When the array is to go nobody waits for a base that is silent: it is given up after a while.
 *
 * Context: the app thread, inside a procedure.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdevs/raid/internal.h"

#define PATIENCE_US UINT64_C(1000000)

static void step(struct raid *raid);

/* The targets of a rebuild have a superblock as well: so they are found again. */
static bool
in_use(const struct raid_base *b)
{
	return b->desc != NULL && b->configured && !b->closing && b->out == OUT_NO;
}

static void
lose_patience(struct timer *timer)
{
	struct raid *raid = CONTAINER_OF(timer, struct raid, meta.timer);

	CHECK(timer_start(&raid->meta.timer, PATIENCE_US / 8, lose_patience) == 0); /* the others less */
	raid_give_up_bases(raid);
}

static void
finish(struct raid *raid)
{
	struct raid_meta *m = &raid->meta;

	timer_stop(&m->timer);
	m->done(raid, !m->failed && m->written > 0);
}

static void
base_failed(struct raid_base *b, int status)
{
	struct raid *raid = b->raid;

	LOG_ERROR(BDEV, raid->name, "base %u, '%s': the superblock cannot be written: %s", b->slot, b->name, strerror(-status));
	/* Not raid_base_leave(): the procedure that waits for this goes on with it. */
	b->out = status == -ENODEV || status == -ECANCELED ? OUT_MISSING : OUT_FAILED;
	if (b == raid_process_target(raid)) {
		raid_process_stop(raid, status, "the target's superblock cannot be written");
	}
}

static void
base_done(struct bdev_io *io, int status)
{
	struct raid_base *b;
	struct raid *raid;

	memcpy(&b, (uint8_t *)io + bdev_io_bytes(io->ch->bdev), sizeof(b));
	raid = b->raid;
	if (status == -ECANCELED && !raid->deleting && in_use(b) && raid->meta.tries++ < RAID_TRIES) {
		step(raid);
		return;
	}
	raid->meta.tries = 0;
	if (status == 0) {
		raid->meta.written++;
	} else if (b->out == OUT_NO) {
		base_failed(b, status);
	}
	raid->meta.failed = raid->meta.failed || status != 0;
	raid_base_settle(b);
	if (status == 0 && raid->meta.op == BDEV_WRITE && !raid->meta.copied) {
		raid->meta.copied = true;
	} else {
		raid->meta.copied = false;
		raid->meta.slot++;
	}
	step(raid);
}

static void
step(struct raid *raid)
{
	struct raid_meta *m = &raid->meta;
	struct raid_base *b;
	uint64_t lba;

	while (m->slot < raid->num_bases && !in_use(&raid->bases[m->slot])) {
		m->slot++;
	}
	if (m->slot == raid->num_bases) {
		finish(raid);
		return;
	}
	b = &raid->bases[m->slot];
	lba = m->copied ? 0 : RAID_SB_COPY_BYTES / bdev_block_size(b->bdev);
	bdev_io_init(b->io, m->op, lba, m->iov.iov_len / bdev_block_size(b->bdev), &m->iov,
		     m->op == BDEV_WRITE, base_done);
	if (m->op == BDEV_WRITE) {
		b->io->flags = BDEV_IO_FUA;
	} else if (!bdev_supports(b->bdev, BDEV_FLUSH) && bdev_write_cache(b->bdev)) {
		m->slot++;
		m->written++;
		step(raid);
		return;
	}
	if (raid->deleting && !heap_linked(&m->timer.node)) {
		CHECK(timer_start(&m->timer, PATIENCE_US, lose_patience) == 0);
	}
	bdev_submit(b->ch, b->io);
}

static void
begin(struct raid *raid, enum bdev_op op, size_t bytes, void (*done)(struct raid *, bool))
{
	struct raid_meta *m = &raid->meta;
	size_t bs = raid->bdev.block_size;

	CHECK(raid->busy);
	m->done = done;
	m->op = op;
	m->slot = 0;
	m->copied = false;
	m->tries = 0;
	m->failed = false;
	m->written = 0;
	m->iov = (struct iovec){.iov_base = m->buf, .iov_len = (bytes + bs - 1) & ~(bs - 1)};
	step(raid);
}

static bool
have_buffer(struct raid *raid)
{
	struct raid_meta *m = &raid->meta;

	if (m->buf == NULL) {
		m->buf = aligned_alloc(BDEV_BUFFER_ALIGN_MAX, BDEV_BUFFER_ALIGN_MAX);
	}
	if (m->buf != NULL) {
		memset(m->buf, 0, BDEV_BUFFER_ALIGN_MAX);
	}
	return m->buf != NULL;
}

void
raid_meta_write(struct raid *raid, void (*done)(struct raid *raid, bool complete))
{
	size_t bytes;

	if (!raid->superblock) {
		done(raid, true);
		return;
	}
	if (!have_buffer(raid)) {
		done(raid, false);
		return;
	}
	raid->sb->seq++;
	bytes = raid_sb_encode(raid->sb, raid->meta.buf);
	begin(raid, BDEV_WRITE, bytes, done);
}

void
raid_meta_clear(struct raid *raid, void (*done)(struct raid *raid, bool complete))
{
	size_t bytes = RAID_SB_HEADER_BYTES + raid->num_bases * RAID_SB_BASE_BYTES;

	if (raid->bdev.block_size == 0 || !have_buffer(raid)) {
		done(raid, false);
		return;
	}
	begin(raid, BDEV_WRITE, bytes, done);
}

void
raid_meta_flush(struct raid *raid, void (*done)(struct raid *raid, bool complete))
{
	begin(raid, BDEV_FLUSH, 0, done);
}
