/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An array comes up, and goes.
 *
 * Invariants
 *  1. Before the bdev is there, its superblocks are written; so what they say is true from its first
 *     request on.
 *  2. raid->lives from bring_up() to raid_bdev_destruct(). In between the bases keep their roles; after
 *     it no channel of the array is left, and bases are closed.
 *  3. An array that ends in order says so in its superblocks (last_words()).
 * Context: the app thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdevs/raid/internal.h"

/* ---- Starting ---- */

void
raid_answer_create(struct raid *raid, int status)
{
	void (*created)(void *ctx, int status, const struct err *err) = raid->created;

	if (created != NULL) {
		raid->created = NULL;
		created(raid->created_ctx, status, &raid->err);
	}
}

static void
start_failed(struct raid *raid, int status)
{
	raid->starting = false;
	raid->stuck = true;
	LOG_ERROR(BDEV, raid->name, "cannot start: %s", err_text(&raid->err));
	if (raid->created != NULL) {
		raid_delete_it(raid);
		raid_answer_create(raid, status);
	}
	raid_examinations_over(raid);
	raid->busy = false;
	raid_proceed(raid);
}

/* The first superblock of a new array. */
static int
make_superblock(struct raid *raid)
{
	struct raid_sb *sb = calloc(1, sizeof(*sb));

	if (sb == NULL) {
		return err_set(&raid->err, -ENOMEM, "RAID '%s': out of memory", raid->name);
	}
	uuid_copy(sb->uuid, raid->uuid);
	strncpy(sb->name, raid->name, sizeof(sb->name) - 1);
	sb->raid_size = raid->bdev.num_blocks;
	sb->block_size = raid->bdev.block_size;
	sb->level = raid->level->level;
	sb->strip_size = raid->strip_blocks;
	sb->num_bases = sb->count = raid->num_bases;
	sb->synced = true;
	for (unsigned i = 0; i < raid->num_bases; i++) {
		const struct raid_base *b = &raid->bases[i];

		sb->bases[i] = (struct raid_sb_base){
			.data_offset = b->data_offset,
			.data_size = b->data_size,
			.state = RAID_SB_CONFIGURED,
			.slot = (uint8_t)i,
		};
		uuid_copy(sb->bases[i].uuid, b->uuid);
	}
	raid->sb = sb;
	return 0;
}

static int
prepare_superblock(struct raid *raid)
{
	const struct raid_sb *sb = raid->sb;

	if (!raid->superblock) {
		return 0;
	}
	if (sb == NULL) {
		return make_superblock(raid);
	}
	if (sb->block_size != raid->bdev.block_size || sb->raid_size != raid->bdev.num_blocks) {
		return err_set(&raid->err, -EINVAL,
			       "RAID '%s': its bases give %llu blocks of %u bytes, its superblock "
			       "says %llu of %u",
			       raid->name, (unsigned long long)raid->bdev.num_blocks,
			       raid->bdev.block_size, (unsigned long long)sb->raid_size,
			       sb->block_size);
	}
	return 0;
}

static void
self_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	struct raid *raid = ctx;

	if (ev != BDEV_EVENT_REMOVE) {
		return;
	}
	raid->self_removed = true;
	if (raid->registered) { /* not by us: it is gone for good, then */
		raid->registered = false;
		raid->deleting = true;
	}
	raid_process_stop(raid, -ENODEV, "the array is being removed");
	raid_give_up_bases(raid);
	raid_self_put(raid);
	raid_proceed(raid);
}

bool
raid_self_get(struct raid *raid)
{
	if (!raid->lives || raid->self_removed || raid->self == NULL) {
		return false;
	}
	raid->self_users++;
	return true;
}

void
raid_self_put(struct raid *raid)
{
	struct bdev_desc *self = raid->self;

	if (--raid->self_users == 0) {
		raid->self = NULL;
		bdev_close(self);
	}
}

static int
bring_up(struct raid *raid)
{
	struct bdev *bdev = &raid->bdev;
	int rc;

	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		pthread_mutex_lock(&raid->lock);
		b->role = b->configured ? ROLE_MEMBER : ROLE_NONE;
		b->open = b->configured;
		pthread_mutex_unlock(&raid->lock);
		atomic_store(&b->failing, 0);
		b->stays_away = false;
	}
	raid_intent_start(raid);
	atomic_store(&raid->broken, false);
	device_register(&raid->device, raid->name, &raid_device_ops,
			sizeof(struct raid_channel) + raid->num_bases * sizeof(struct raid_slot));
	raid->self_removed = false;
	raid->lives = true;
	raid->state = RAID_ONLINE;
	rc = bdev_register(bdev, &raid->err);
	if (rc != 0) {
		raid->lives = false;
		raid->state = RAID_CONFIGURING;
		raid_intent_stop(raid);
		device_unregister(&raid->device);
		return rc;
	}
	raid->registered = true;
	raid->self_users = 1;
	if (bdev_open(raid->name, false, self_event, raid, &raid->self, NULL) != 0) {
		raid->self_users = 0; /* no memory: no rebuild */
		raid->self = NULL;
	}
	return 0;
}

static void
superblock_written(struct raid *raid, bool complete)
{
	int rc = 0;

	if (!complete) {
		rc = err_set(&raid->err, -EIO, "RAID '%s': a superblock could not be written",
			     raid->name);
	} else if (raid->deleting) {
		rc = err_set(&raid->err, -ENODEV, "RAID '%s': deleted", raid->name);
	} else {
		rc = bring_up(raid);
	}
	for (unsigned i = 0; i < raid->num_bases && rc != 0; i++) {
		if (raid->bases[i].out != OUT_NO) {
			raid_base_close(&raid->bases[i]);
		}
	}
	if (rc != 0) {
		if (raid->level->stop != NULL) {
			raid->level->stop(raid);
		}
		start_failed(raid, rc);
		return;
	}
	raid->starting = false;
	raid->from_disk = raid->superblock;
	LOG_NOTICE(BDEV, raid->name, "%s on %u of %u bases", raid->level->name,
		   raid_count_members(raid), raid->num_bases);
	raid_answer_create(raid, 0);
	raid_examinations_over(raid);
	raid_free_to_go(raid);
}

/* What is the same at all levels. */
static int
prepare_bdev(struct raid *raid)
{
	memset(&raid->bdev, 0, sizeof(raid->bdev));
	raid->strip_blocks = 0;
	raid->bdev.name = raid->name;
	raid->bdev.product_name = "Raid Volume";
	raid->bdev.ops = raid->level->bdev_ops;
	raid->bdev.channel_ctx_bytes = raid_entrance_bytes(raid);
	uuid_copy(raid->bdev.uuid, raid->uuid);
	for (unsigned i = 0; i < raid->num_bases && raid->bdev.block_size == 0; i++) {
		if (raid->bases[i].configured) {
			raid->bdev.block_size = bdev_block_size(raid->bases[i].bdev);
		}
	}
	if (raid->strip_kb != 0) {
		raid->strip_blocks = (uint32_t)((uint64_t)raid->strip_kb * 1024 / raid->bdev.block_size);
		if (raid->strip_blocks == 0) {
			return err_set(&raid->err, -EINVAL,
				     "RAID '%s': a strip of %u KiB is smaller than a block of %u "
				     "bytes",
				     raid->name, raid->strip_kb, raid->bdev.block_size);
		}
	}
	return 0;
}

void
raid_start(struct raid *raid)
{
	int rc;

	raid->busy = true;
	raid->starting = true;
	raid->err = ERR_NONE;
	timer_stop(&raid->patience);
	rc = prepare_bdev(raid);
	rc = rc == 0 ? raid->level->start(raid, &raid->err) : rc;
	if (rc == 0) {
		rc = prepare_superblock(raid);
		if (rc != 0 && raid->level->stop != NULL) {
			raid->level->stop(raid);
		}
	}
	if (rc != 0) {
		start_failed(raid, rc);
		return;
	}
	raid_meta_write(raid, superblock_written);
}

/* ---- Ending ---- */

void
raid_go_offline(struct raid *raid)
{
	LOG_ERROR(BDEV, raid->name, "offline: %u of %u bases are left, it needs %u",
		  raid_count_members(raid), raid->num_bases, raid->min_working);
	raid->state = RAID_OFFLINE;
	atomic_store(&raid->broken, true);
	raid_process_stop(raid, -EIO, "the array has gone offline");
	if (raid->registered) {
		raid->registered = false;
		bdev_unregister(&raid->bdev, NULL, NULL);
	}
}

void
raid_delete_it(struct raid *raid)
{
	raid->deleting = true;
	raid_process_stop(raid, -ENODEV, "the array is being deleted");
	if (raid->registered) {
		raid->registered = false;
		bdev_unregister(&raid->bdev, NULL, NULL);
	}
}

struct bdev *
raid_bdev_base(const struct bdev *bdev, unsigned index)
{
	const struct raid *raid = CONTAINER_OF(bdev, struct raid, bdev);

	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].bdev != NULL && index-- == 0) {
			return raid->bases[i].bdev;
		}
	}
	return NULL;
}

void
raid_bdev_destruct(struct bdev *bdev)
{
	struct raid *raid = CONTAINER_OF(bdev, struct raid, bdev);

	raid->lives = false;
	raid_intent_stop(raid);
	device_unregister(&raid->device);
	if (raid->level->stop != NULL) {
		raid->level->stop(raid);
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		raid_set_role(b, ROLE_NONE);
		b->open = false;
		if (b->target || b->out != OUT_NO) {
			raid_base_close(b);
		}
	}
	raid_proceed(raid);
}

static void
close_all(struct raid *raid, bool complete)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		raid_base_close(&raid->bases[i]);
	}
	raid->busy = false;
	raid->state = RAID_OFFLINE;
	raid_proceed(raid);
}

static void
flushed_for_end(struct raid *raid, bool complete)
{
	if (!complete) {
		close_all(raid, false);
		return;
	}
	raid->sb->synced = true;
	raid_meta_write(raid, close_all);
}

/* What the superblocks are to say in the end. */
static void
last_words(struct raid *raid)
{
	raid->busy = true;
	if (raid->clear_sb && raid->superblock) {
		raid_meta_clear(raid, close_all);
	} else if (raid->keeps_intent && !raid->resync_wanted && !atomic_load(&raid->doubtful) && !raid->sb->synced &&
		   raid->state == RAID_ONLINE) {
		raid_meta_flush(raid, flushed_for_end);
	} else {
		close_all(raid, true);
	}
}

static bool
all_closed(const struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].desc != NULL) {
			return false;
		}
	}
	return true;
}

/* Goes on with the end of an array whose bdev is gone. */
void
raid_end(struct raid *raid)
{
	if (raid->lives || raid->process != NULL || raid_repair_busy(raid)) {
		return;
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].looking) {
			return;
		}
	}
	if (all_closed(raid)) {
		raid_finish(raid);
		return;
	}
	for (unsigned i = 0; i < raid->num_bases; i++) {
		if (raid->bases[i].desc != NULL && !raid->bases[i].closing) {
			last_words(raid);
			return;
		}
	}
}
