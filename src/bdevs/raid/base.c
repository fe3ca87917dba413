/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The bases of an array: opened, looked at, given up.
 *
 *   empty slot -> (awaited by name) -> open, looking -> configured -> in a role -> closing -> empty
 *
 * Invariants
 *  1. desc is set from the opening until closed(): for so long, and for no longer, refs is not 0.
 *     The app thread holds one, each thread's channel on the base another; the last to let go
 *     sends closed_msg.
 *  2. A base in a role leaves by the procedure of member.c, before it is closed here.
 *  3. A base that does not hold an array's valid superblock, or that of its own array, is taken;
 *     one that holds another's is refused.
 * Context: the app thread, but for raid_base_unref() and raid_base_report().
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdevs/raid/internal.h"

struct raid_sb_base *
raid_sb_entry(struct raid *raid, unsigned slot)
{
	for (unsigned i = 0; raid->sb != NULL && i < raid->sb->count; i++) {
		if (raid->sb->bases[i].slot == slot) {
			return &raid->sb->bases[i];
		}
	}
	return NULL;
}

/* ---- Closing ---- */

void
raid_base_forget(struct raid_base *b)
{
	free(b->name);
	b->name = NULL;
	uuid_clear(b->uuid);
}

static void
answer_removed(struct raid_base *b, int status)
{
	void (*removed)(void *ctx, int status) = b->removed;

	b->removed = NULL;
	if (removed != NULL) {
		removed(b->removed_ctx, status);
	}
}

static void
answer_added(struct raid_base *b, int status, const struct err *err)
{
	void (*added)(void *ctx, int status, const struct err *err) = b->added;

	b->added = NULL;
	if (added != NULL) {
		added(b->added_ctx, status, err);
	}
}

/* It may be there already. */
static void
await_again(struct raid_base *b)
{
	struct bdev *bdev = b->name == NULL ? NULL : bdev_find(b->name);

	if (bdev == NULL || raid_base_open(b, bdev, false, NULL) != 0) {
		raid_base_await(b);
	}
}

static void
closed(struct msg *msg)
{
	struct raid_base *b = CONTAINER_OF(msg, struct raid_base, closed_msg);
	struct raid *raid = b->raid;
	bool was_target = b->target;
	enum raid_out out = b->out;

	bdev_close(b->desc);
	free(b->io);
	b->io = NULL;
	b->desc = NULL;
	b->bdev = NULL;
	b->closing = false;
	b->configured = false;
	raid->stuck = false;
	b->target = false;
	b->out = OUT_NO;
	if (raid->lives || was_target || out == OUT_REMOVED) {
		raid_base_forget(b);
	} else if (raid->from_disk) { /* it is known by its UUID */
		free(b->name);
		b->name = NULL;
	} else if (!raid->deleting && out == OUT_FAILED) {
		raid_base_await(b); /* until it comes anew */
	} else if (!raid->deleting) {
		await_again(b);
	}
	answer_removed(b, 0);
	if (out == OUT_REMOVED && raid->from_disk && !raid->lives && !raid->deleting) {
		raid_look_at_others(raid); /* a newer superblock may have another in this place */
	}
	raid_proceed(raid);
}

void
raid_base_unref(struct raid_base *b)
{
	if (atomic_fetch_sub(&b->refs, 1) == 1) {
		thread_send(b->raid->app, &b->closed_msg, closed);
	}
}

void
raid_base_settle(struct raid_base *b)
{
	if (b->closing && b->ch != NULL && bdev_channel_inflight(b->ch) == 0) {
		bdev_channel_put(b->ch);
		b->ch = NULL;
		raid_base_unref(b);
	}
}

void
raid_base_close(struct raid_base *b)
{
	bdev_watch_stop(&b->watch);
	if (b->desc == NULL || b->closing) {
		return;
	}
	b->closing = true;
	b->configured = false;
	pthread_mutex_lock(&b->raid->lock);
	b->open = false;
	pthread_mutex_unlock(&b->raid->lock);
	raid_base_settle(b);
}

/* ---- Leaving ---- */

void
raid_base_leave(struct raid_base *b, enum raid_out why)
{
	if (b->desc == NULL || b->closing || b->out != OUT_NO) {
		return;
	}
	b->out = why;
	if (b->role == ROLE_NONE) {
		raid_base_close(b);
	}
	if (b == raid_process_target(b->raid)) {
		raid_process_stop(b->raid, -ENODEV, why == OUT_FAILED ? "the target fails"
								      : "the target is gone");
	}
	raid_proceed(b->raid);
}

static void
fail_reported(struct msg *msg)
{
	struct raid_base *b = CONTAINER_OF(msg, struct raid_base, fail_msg);

	int status = atomic_load(&b->failing);

	if (b->out == OUT_NO && b->role != ROLE_NONE) {
		LOG_ERROR(BDEV, b->raid->name, "base %u, '%s', fails: %s", b->slot, b->name,
			  strerror(-status));
		raid_base_leave(b, status == -ENODEV ? OUT_MISSING : OUT_FAILED);
	}
	raid_base_unref(b);
}

void
raid_base_report(struct raid *raid, unsigned slot, int status)
{
	struct raid_base *b = &raid->bases[slot];

	pthread_mutex_lock(&raid->lock);
	if (b->role != ROLE_NONE && b->open && atomic_load(&b->failing) == 0) {
		atomic_store(&b->failing, status);
		atomic_fetch_add(&b->refs, 1); /* for as long as the message is on its way */
		thread_send(raid->app, &b->fail_msg, fail_reported);
	}
	pthread_mutex_unlock(&raid->lock);
}

/* ---- Looking ---- */

static void
verdict(struct raid_base *b, int status, const struct err *err)
{
	struct raid *raid = b->raid;

	b->looking = false;
	if (b->closing || b->out != OUT_NO || raid->deleting) {
		status = -ENODEV;
		raid_base_close(b);
	} else if (status != 0) {
		if (raid->created != NULL && raid->create_status == 0) {
			raid->create_status = status;
			raid->err = *err;
		} else if (b->added == NULL) {
			LOG_ERROR(BDEV, raid->name, "%s", err_text(err));
		}
		b->out = OUT_REMOVED;
		raid_base_close(b);
	} else {
		b->configured = true;
		b->target = raid->lives;
	}
	answer_added(b, status, err);
	raid_base_settle(b);
	raid_proceed(raid);
}

static void
looked(struct bdev_io *io, int status)
{
	struct raid_sb *sb = calloc(1, sizeof(*sb));
	struct err err = ERR_NONE;
	struct raid_base *b;

	memcpy(&b, (uint8_t *)io + bdev_io_bytes(io->ch->bdev), sizeof(b));
	if (sb == NULL) {
		status = err_set(&err, -ENOMEM, "RAID '%s': out of memory", b->raid->name);
	} else if (status != 0) {
		err_set(&err, status, "RAID '%s': the first blocks of '%s' cannot be read: %s",
			b->raid->name, b->name, strerror(-status));
	} else if (raid_sb_decode(b->look.iov_base, b->look.iov_len, sb, NULL) != 0) {
		status = 0; /* nobody's */
	} else if (uuid_compare(sb->uuid, b->raid->uuid) != 0) {
		status = err_set(&err, -EEXIST,
				 "RAID '%s': '%s' belongs to another array, '%s', by its superblock",
				 b->raid->name, b->name, sb->name);
	} else if (!b->raid->lives && !raid_become(b->raid, sb)) {
		status = err_set(&err, -EEXIST,
				 "RAID '%s': '%s' has a superblock of this array that does not fit "
				 "what was asked for",
				 b->raid->name, b->name);
	}
	free(sb);
	free(b->look.iov_base);
	b->look.iov_base = NULL;
	verdict(b, status, &err);
}

static int
look_at(struct raid_base *b, struct err *err)
{
	size_t bs = bdev_block_size(b->bdev);
	size_t bytes = (RAID_SB_MAX_BYTES + bs - 1) & ~(bs - 1);

	bytes = MIN(bytes, bdev_num_blocks(b->bdev) * bs);
	b->look.iov_len = bytes;
	b->look.iov_base = aligned_alloc(BDEV_BUFFER_ALIGN_MAX, BDEV_BUFFER_ALIGN_MAX);
	if (b->look.iov_base == NULL) {
		return err_set(err, -ENOMEM, "RAID '%s': out of memory", b->raid->name);
	}
	b->looking = true;
	bdev_io_init(b->io, BDEV_READ, 0, bytes / bs, &b->look, 1, looked);
	bdev_submit(b->ch, b->io);
	return 0;
}

/* ---- Opening ---- */

static void
base_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	struct raid_base *b = ctx;

	if (ev == BDEV_EVENT_REMOVE) {
		if (b->out == OUT_NO && !b->raid->deleting) {
			LOG_WARNING(BDEV, b->raid->name, "base %u, '%s', is gone", b->slot,
				    bdev_name(bdev));
		}
		raid_base_leave(b, OUT_MISSING);
	} else {
		raid_base_resized(b);
	}
}

/* Where data begin, and that there is room for what is to be there. */
static int
measure(struct raid_base *b, struct err *err)
{
	uint32_t bs = b->bdev->block_size, boundary = b->bdev->optimal_boundary_blocks;
	uint64_t blocks = bdev_num_blocks(b->bdev), offset = b->data_offset;

	if (b->raid->superblock && offset == 0) {
		offset = RAID_SB_DATA_OFFSET_MIN_BYTES / bs;
		if (boundary != 0) {
			offset = (offset + boundary - 1) / boundary * boundary;
		}
	}
	if (offset >= blocks || b->data_size > blocks - offset) {
		return err_set(err, -EINVAL,
			       "RAID '%s': '%s' has %llu blocks: too few for %llu behind the first "
			       "%llu",
			       b->raid->name, b->name, (unsigned long long)blocks,
			       (unsigned long long)MAX(b->data_size, UINT64_C(1)),
			       (unsigned long long)offset);
	}
	b->data_offset = offset;
	return 0;
}

static uint32_t
block_size_of_others(const struct raid_base *b)
{
	const struct raid *raid = b->raid;

	if (raid->sb != NULL) {
		return raid->sb->block_size;
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (&raid->bases[i] != b && raid->bases[i].bdev != NULL) {
			return bdev_block_size(raid->bases[i].bdev);
		}
	}
	return 0;
}

static int
check_alike(struct raid_base *b, struct err *err)
{
	const struct raid *raid = b->raid;
	uint32_t bs = block_size_of_others(b);

	if (bdev_md_bytes(b->bdev) != 0 || bdev_zoned(b->bdev)) {
		return err_set(err, -EINVAL,
			       "RAID '%s': '%s' has metadata or zones, which arrays cannot have",
			       raid->name, b->name);
	}
	if (bs != 0 && bs != bdev_block_size(b->bdev)) {
		return err_set(err, -EINVAL,
			       "RAID '%s': '%s' has blocks of %u bytes, the other bases of %u",
			       raid->name, b->name, bdev_block_size(b->bdev), bs);
	}
	if (raid->lives &&
	    bdev_io_bytes(b->bdev) + offsetof(struct raid_child, io) > raid->child_bytes) {
		return err_set(err, -EINVAL,
			       "RAID '%s': requests to '%s' need %zu bytes, more than the array has "
			       "room for before it starts anew",
			       raid->name, b->name, bdev_io_bytes(b->bdev));
	}
	return measure(b, err);
}

static int
open_and_claim(struct raid_base *b, struct bdev *bdev, struct err *err)
{
	struct bdev_desc *desc = NULL;
	int rc = bdev_open(bdev_name(bdev), true, base_event, b, &desc, err);

	if (rc == 0) {
		rc = bdev_claim(desc, BDEV_CLAIM_WRITE_ONE, 0, "raid", err);
	}
	if (rc != 0) {
		bdev_close(desc);
		return rc;
	}
	rc = -ENOMEM;
	b->io = aligned_alloc(CACHE_LINE_BYTES, bdev_io_bytes(bdev) + CACHE_LINE_BYTES);
	b->ch = b->io != NULL ? bdev_channel_get(desc, &rc) : NULL;
	if (b->ch == NULL) {
		err_set(err, rc, "RAID '%s': '%s' cannot be used: %s", b->raid->name,
			bdev_name(bdev), strerror(-rc));
		free(b->io);
		b->io = NULL;
		bdev_close(desc);
		return rc;
	}
	memcpy((uint8_t *)b->io + bdev_io_bytes(bdev), &b, sizeof(b));
	b->desc = desc;
	b->bdev = bdev;
	atomic_store(&b->refs, 1);
	atomic_store(&b->failing, 0);
	return 0;
}

int
raid_base_open(struct raid_base *b, struct bdev *bdev, bool existing, struct err *err)
{
	int rc;

	CHECK(b->desc == NULL);
	if (b->name == NULL && (b->name = strdup(bdev_name(bdev))) == NULL) {
		return err_set(err, -ENOMEM, "RAID '%s': out of memory", b->raid->name);
	}
	rc = open_and_claim(b, bdev, err);
	if (rc != 0) {
		return rc;
	}
	bdev_uuid(bdev, b->uuid);
	rc = check_alike(b, err);
	if (rc == 0 && !existing) {
		rc = look_at(b, err);
	}
	if (rc != 0) {
		bdev_channel_put(b->ch);
		b->ch = NULL;
		free(b->io);
		b->io = NULL;
		bdev_close(b->desc);
		b->desc = NULL;
		b->bdev = NULL;
		return rc;
	}
	b->configured = existing;
	b->raid->stuck = false;
	b->target = existing && b->raid->lives;
	return 0;
}

static void
base_came(struct bdev_watch *w, struct bdev *bdev)
{
	struct raid_base *b = CONTAINER_OF(w, struct raid_base, watch);
	struct err err = ERR_NONE;

	if (raid_ending || b->raid->deleting) {
		return;
	}
	if (raid_base_open(b, bdev, false, &err) != 0) {
		LOG_WARNING(BDEV, b->raid->name, "cannot use '%s': %s", b->name, err_text(&err));
		raid_base_await(b);
	}
}

void
raid_base_await(struct raid_base *b)
{
	if (b->name != NULL && !b->raid->from_disk && !list_linked(&b->watch.link)) {
		bdev_watch_start(&b->watch, b->name, base_came);
	}
}
