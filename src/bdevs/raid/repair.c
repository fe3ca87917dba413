/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A mirror that could not read some blocks gets them from another one: disks replace a bad sector when
 * it is written. The range is locked meanwhile, so that no write of a guest is overwritten by what was
 * read before it. One at a time; what is asked for meanwhile is forgotten, and asked for again by
 * the next read that fails. A base that cannot be written then is failed.
 * Context: the app thread, but for raid_repair_ask().
 */
#include <errno.h>
#include <stdlib.h>

#include "base/log.h"
#include "bdevs/raid/internal.h"

#define REPAIR_MAX_BYTES ((size_t)1 << 20)

struct raid_repair {
	struct raid *raid;
	atomic_bool busy;
	unsigned slot;
	unsigned source;
	uint64_t lba;
	uint64_t num_blocks;
	struct msg msg;
	struct bdev_range_lock lock;
	struct iovec iov;
	struct raid_child *child;
};

static void
finish(struct raid_repair *r)
{
	struct raid *raid = r->raid;

	free(r->child);
	free(r->iov.iov_base);
	r->child = NULL;
	r->iov.iov_base = NULL;
	atomic_store(&r->busy, false);
	raid_proceed(raid);
}

static void
unlocked(struct bdev_range_lock *lock)
{
	struct raid_repair *r = CONTAINER_OF(lock, struct raid_repair, lock);

	raid_self_put(r->raid);
	finish(r);
}

static void
io_done(struct bdev_io *io, int status)
{
	struct raid_child *c = raid_child_of(io);
	struct raid_repair *r = c->owner;
	struct raid *raid = r->raid;
	struct raid_base *b = &raid->bases[r->slot];

	raid_base_settle(&raid->bases[io->op == BDEV_READ ? r->source : r->slot]);
	if (io->op == BDEV_READ && status == 0 && b->role == ROLE_MEMBER && b->out == OUT_NO) {
		bdev_io_init(io, BDEV_WRITE, r->lba + b->data_offset, r->num_blocks, &r->iov, 1,
			     io_done);
		bdev_submit(b->ch, io);
		return;
	}
	if (io->op == BDEV_WRITE && status == 0) {
		LOG_NOTICE(BDEV, raid->name, "base %u: blocks %llu+%llu could not be read and were "
					     "written again",
			   r->slot, (unsigned long long)r->lba, (unsigned long long)r->num_blocks);
	} else if (io->op == BDEV_WRITE && status != -ECANCELED) { /* then the next read that fails asks again */
		raid_base_leave(b, status == -ENODEV ? OUT_MISSING : OUT_FAILED);
	}
	bdev_range_unlock(&r->lock, unlocked);
}

static void
locked(struct bdev_range_lock *lock)
{
	struct raid_repair *r = CONTAINER_OF(lock, struct raid_repair, lock);
	struct raid *raid = r->raid;

	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		if (i != r->slot && b->role == ROLE_MEMBER && b->out == OUT_NO) {
			r->source = i;
			r->child->owner = r;
			bdev_io_init(&r->child->io, BDEV_READ, r->lba + b->data_offset,
				     r->num_blocks, &r->iov, 1, io_done);
			bdev_submit(b->ch, &r->child->io);
			return;
		}
	}
	bdev_range_unlock(&r->lock, unlocked);
}

static void
asked(struct msg *msg)
{
	struct raid_repair *r = CONTAINER_OF(msg, struct raid_repair, msg);
	struct raid *raid = r->raid;
	size_t bytes;

	if (!raid_self_get(raid)) {
		finish(r);
		return;
	}
	r->num_blocks = MIN(r->num_blocks, REPAIR_MAX_BYTES / raid->bdev.block_size);
	bytes = (r->num_blocks * raid->bdev.block_size + 4095) & ~(size_t)4095;
	r->iov.iov_base = aligned_alloc(4096, bytes);
	r->iov.iov_len = r->num_blocks * raid->bdev.block_size;
	r->child = aligned_alloc(CACHE_LINE_BYTES, raid->child_bytes);
	if (r->iov.iov_base == NULL || r->child == NULL) {
		raid_self_put(raid);
		finish(r);
		return;
	}
	bdev_range_lock(&r->lock, &raid->bdev, r->lba, r->num_blocks, false, locked);
}

void
raid_repair_ask(struct raid *raid, unsigned slot, uint64_t lba, uint64_t num_blocks)
{
	struct raid_repair *r = raid->repair;

	if (!atomic_exchange(&r->busy, true)) {
		r->slot = slot;
		r->lba = lba;
		r->num_blocks = num_blocks;
		thread_send(raid->app, &r->msg, asked);
	}
}

bool
raid_repair_busy(const struct raid *raid)
{
	return atomic_load(&raid->repair->busy);
}

int
raid_repair_init(struct raid *raid)
{
	raid->repair = calloc(1, sizeof(*raid->repair));
	if (raid->repair == NULL) {
		return -ENOMEM;
	}
	raid->repair->raid = raid;
	return 0;
}

void
raid_repair_release(struct raid *raid)
{
	free(raid->repair);
}
