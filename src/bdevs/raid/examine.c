/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Arrays found by their superblocks.
 *
 * A base is known by the UUID of its bdev, which its array's superblocks list. The superblock with
 * the highest sequence number says what the array is, whichever base it is found on; so a base that
 * was out when the array went on without it is not taken for a member. An array starts when all its
 * members are there, or when it can do without the others and has waited long enough (core.c). What
 * is listed as missing or failed, and was not taken out on request, is taken back when the array is
 * online, and rebuilt.
 *
 * A superblock that is torn (power was cut while it was being written) is replaced by its copy, which
 * was written before it; not by an older one. A base with neither is nobody's.
 * Context: the app thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdevs/raid/internal.h"

struct look {
	struct bdev_desc *desc;
	struct bdev_channel *ch;
	struct iovec iov;
	struct bdev_io *io;
	bool torn; /* the superblock is; this is the copy */
	uuid_t torn_uuid;
	uint64_t torn_seq;
};

/* ---- Into its place ---- */

static const struct raid_sb_base *
entry_of(const struct raid_sb *sb, const struct bdev *bdev)
{
	uuid_t uuid;

	bdev_uuid(bdev, uuid);
	for (unsigned i = 0; i < sb->count; i++) {
		if (uuid_compare(sb->bases[i].uuid, uuid) == 0) {
			return &sb->bases[i];
		}
	}
	return NULL;
}

static void
put_in_place(struct raid *raid, struct bdev *bdev, const struct raid_sb_base *e)
{
	struct raid_base *b = &raid->bases[e->slot];
	struct err err = ERR_NONE;

	if (b->desc != NULL) {
		return;
	}
	raid_base_forget(b);
	b->data_offset = e->data_offset;
	b->data_size = e->data_size;
	if (raid_base_open(b, bdev, true, &err) != 0) {
		raid_base_forget(b);
		LOG_ERROR(BDEV, raid->name, "cannot use base %u: %s", e->slot, err_text(&err));
		b->stays_away = true;
	}
}

/* What is of use to an array whose superblock is known. */
static void
take(struct raid *raid, struct bdev *bdev)
{
	const struct raid_sb_base *e = entry_of(raid->sb, bdev);

	if (e == NULL || raid->deleting || raid_ending) {
		return;
	}
	if (raid->state == RAID_ONLINE) {
		raid->bases[e->slot].stays_away = false; /* it came anew: see raid_readd() */
	} else if (e->state == RAID_SB_CONFIGURED) {
		put_in_place(raid, bdev, e);
	}
	raid_proceed(raid);
}

bool
raid_readd(struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases && raid->sb != NULL; i++) {
		struct raid_base *b = &raid->bases[i];
		const struct raid_sb_base *e = raid_sb_entry(raid, i);
		char uuid[UUID_STR_LEN];
		struct bdev *bdev;

		if (b->desc != NULL || b->name != NULL || b->stays_away || e == NULL ||
		    e->state == RAID_SB_CONFIGURED || e->stays_out || !raid->level->redundant) {
			continue;
		}
		uuid_unparse_lower(e->uuid, uuid);
		bdev = bdev_find(uuid);
		if (bdev == NULL || bdev_claimed(bdev)) {
			continue;
		}
		put_in_place(raid, bdev, e);
		if (b->desc != NULL) {
			raid_proceed(raid);
			return true;
		}
	}
	return false;
}

/* ---- What a superblock says ---- */

/* Those it waits for are shown. */
static void
expect_bases(struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		const struct raid_sb_base *e = raid_sb_entry(raid, i);
		struct raid_base *b = &raid->bases[i];

		if (b->desc != NULL) {
			continue;
		}
		uuid_clear(b->uuid);
		b->data_offset = e->data_offset;
		b->data_size = e->data_size;
		if (e->state == RAID_SB_CONFIGURED) {
			uuid_copy(b->uuid, e->uuid);
		}
	}
}

static void
adopt(struct raid *raid, const struct raid_sb *sb)
{
	*raid->sb = *sb;
	for (unsigned i = 0; i < raid->num_bases; i++) {
		const struct raid_sb_base *e = raid_sb_entry(raid, i);
		struct raid_base *b = &raid->bases[i];

		if (b->desc != NULL &&
		    (e->state != RAID_SB_CONFIGURED || uuid_compare(e->uuid, b->uuid) != 0)) {
			b->out = OUT_REMOVED;
			raid_base_close(b);
		}
	}
	expect_bases(raid);
}

bool
raid_become(struct raid *raid, const struct raid_sb *sb)
{
	if (!raid->superblock || sb->num_bases != raid->num_bases ||
	    sb->level != raid->level->level || (raid->sb != NULL && raid->sb->seq > sb->seq)) {
		return raid->sb != NULL;
	}
	if (raid->sb == NULL && (raid->sb = malloc(sizeof(*raid->sb))) == NULL) {
		return false;
	}
	*raid->sb = *sb;
	raid->from_disk = true;
	for (unsigned i = 0; i < raid->num_bases; i++) {
		struct raid_base *b = &raid->bases[i];

		bdev_watch_stop(&b->watch);
		if (b->desc != NULL) { /* by name; examined again by what it is */
			b->out = OUT_REMOVED;
			raid_base_close(b);
		} else {
			raid_base_forget(b);
		}
	}
	expect_bases(raid);
	return true;
}

static struct raid *
make_array(const struct raid_sb *sb, struct err *err)
{
	uint32_t strip_kb = (uint32_t)((uint64_t)sb->strip_size * sb->block_size / 1024);
	struct raid_sb *copy = malloc(sizeof(*copy));
	struct raid *raid = NULL;

	if (copy == NULL) {
		err_set(err, -ENOMEM, "RAID '%s': out of memory", sb->name);
		return NULL;
	}
	*copy = *sb;
	if (raid_new(sb->name, sb->uuid, sb->level, strip_kb, sb->num_bases, true, &raid, err) != 0) {
		free(copy);
		return NULL;
	}
	raid->sb = copy;
	raid->from_disk = true;
	expect_bases(raid);
	return raid;
}

/* The array it belongs to, NULL: none. */
static struct raid *
found(struct bdev *bdev, const struct raid_sb *sb)
{
	struct raid *raid = raid_find_uuid(sb->uuid);
	struct err err = ERR_NONE;
	bool fresh = false;

	if (sb->block_size != bdev_block_size(bdev) || entry_of(sb, bdev) == NULL) {
		LOG_WARNING(BDEV, bdev_name(bdev),
			    "has the superblock of RAID '%s', which does not know this bdev",
			    sb->name);
		return NULL;
	}
	if (raid == NULL) {
		raid = make_array(sb, &err);
		fresh = raid != NULL;
		if (raid == NULL) {
			LOG_ERROR(BDEV, bdev_name(bdev), "its array is not assembled: %s",
				  err_text(&err));
			return NULL;
		}
	}
	if (raid->sb == NULL) {
		LOG_WARNING(BDEV, bdev_name(bdev), "has a superblock of RAID '%s', which has none",
			    raid->name);
		return NULL;
	}
	if (sb->seq > raid->sb->seq) {
		if (raid->state != RAID_CONFIGURING || raid->busy ||
		    sb->num_bases != raid->num_bases || sb->level != raid->level->level) {
			LOG_ERROR(BDEV, bdev_name(bdev),
				  "has a newer superblock of RAID '%s' than the array itself: was it "
				  "used elsewhere? It is not taken",
				  raid->name);
			return NULL;
		}
		adopt(raid, sb);
		fresh = true;
	}
	take(raid, bdev);
	if (fresh) {
		raid_look_at_others(raid);
	}
	return raid;
}

/* ---- Reading ---- */

static void
end_look(struct look *look)
{
	bdev_channel_put(look->ch);
	bdev_close(look->desc);
	free(look->iov.iov_base);
	free(look->io);
	free(look);
}

/* What begins with this bdev is part of its examination, a stale base that has to go first, too:
 * those that wait for the end of all examinations find the array. */
static void
answer(struct raid *raid)
{
	if (raid != NULL && (raid->starting || raid_unsettled(raid))) {
		raid->examinations++;
	} else {
		bdev_examine_done();
	}
}

void
raid_examinations_over(struct raid *raid)
{
	for (; raid->examinations > 0; raid->examinations--) {
		bdev_examine_done();
	}
}

static void looked(struct bdev_io *io, int status);

static void
read_at(struct look *look, uint64_t offset_bytes)
{
	uint32_t bs = bdev_block_size(bdev_desc_bdev(look->desc));

	bdev_io_init(look->io, BDEV_READ, offset_bytes / bs, look->iov.iov_len / bs, &look->iov, 1,
		     looked);
	bdev_submit(look->ch, look->io);
}

/* A copy that is older than the superblock beside it was not written with it. */
static bool
copy_fits(const struct look *look, const struct raid_sb *sb)
{
	return uuid_compare(look->torn_uuid, sb->uuid) == 0 && sb->seq >= look->torn_seq;
}

/* True when the copy is to be read; else *ret_raid. */
static bool
judge(struct look *look, struct bdev *bdev, struct raid **ret_raid)
{
	struct raid_sb *sb = malloc(sizeof(*sb));
	struct err err = ERR_NONE;
	int rc = sb == NULL ? -ENOMEM
			    : raid_sb_decode(look->iov.iov_base, look->iov.iov_len, sb, &err);
	bool again = false;

	if (rc == RAID_SB_TORN && !look->torn) {
		again = raid_sb_hint(look->iov.iov_base, look->iov.iov_len, look->torn_uuid,
				     &look->torn_seq) &&
			bdev_num_blocks(bdev) * bdev_block_size(bdev) >=
				RAID_SB_DATA_OFFSET_MIN_BYTES;
	} else if (rc == 0 && look->torn && !copy_fits(look, sb)) {
		rc = RAID_SB_TORN;
	}
	if (rc == 0) {
		*ret_raid = found(bdev, sb);
	} else if (rc != RAID_SB_NONE && !again) {
		LOG_WARNING(BDEV, bdev_name(bdev), "%s", err_text(&err));
	}
	free(sb);
	return again;
}

static void
looked(struct bdev_io *io, int status)
{
	struct raid *raid = NULL;
	struct look *look;
	struct bdev *bdev;

	memcpy(&look, (uint8_t *)io + bdev_io_bytes(io->ch->bdev), sizeof(look));
	bdev = bdev_desc_bdev(look->desc);
	if (status == 0 && !raid_ending && !bdev_claimed(bdev) &&
	    bdev_find(bdev_name(bdev)) == bdev && judge(look, bdev, &raid)) {
		look->torn = true;
		read_at(look, RAID_SB_COPY_BYTES);
		return;
	}
	end_look(look);
	answer(raid);
}

static void
examine(struct bdev *bdev)
{
	size_t bs = bdev_block_size(bdev), io_bytes = bdev_io_bytes(bdev);
	size_t bytes = (RAID_SB_MAX_BYTES + bs - 1) & ~(bs - 1);
	struct look *look = calloc(1, sizeof(*look));

	bytes = MIN(bytes, bdev_num_blocks(bdev) * bs);
	if (look == NULL || raid_ending) {
		free(look);
		bdev_examine_done();
		return;
	}
	look->io = aligned_alloc(CACHE_LINE_BYTES, io_bytes + CACHE_LINE_BYTES);
	look->iov.iov_base = aligned_alloc(BDEV_EXAMINE_ALIGN,
					   (bytes + BDEV_EXAMINE_ALIGN - 1) & ~(size_t)(BDEV_EXAMINE_ALIGN - 1));
	look->iov.iov_len = bytes;
	if (look->io != NULL && look->iov.iov_base != NULL && bytes >= RAID_SB_HEADER_BYTES &&
	    bdev_open(bdev_name(bdev), false, NULL, NULL, &look->desc, NULL) == 0) {
		look->ch = bdev_channel_get(look->desc, NULL);
	}
	if (look->ch == NULL) {
		end_look(look);
		bdev_examine_done();
		return;
	}
	memcpy((uint8_t *)look->io + io_bytes, &look, sizeof(look));
	read_at(look, 0);
}

const struct bdev_examiner raid_examiner = {.module_name = "raid", .examine = examine};

/* Bases that came before the array was known, or were taken for something else. */
void
raid_look_at_others(struct raid *raid)
{
	for (unsigned i = 0; i < raid->num_bases; i++) {
		const struct raid_sb_base *e = raid_sb_entry(raid, i);
		char uuid[UUID_STR_LEN];
		struct bdev *bdev;

		if (e == NULL || e->state != RAID_SB_CONFIGURED || raid->bases[i].desc != NULL) {
			continue;
		}
		uuid_unparse_lower(e->uuid, uuid);
		bdev = bdev_find(uuid);
		if (bdev != NULL && !bdev_claimed(bdev)) {
			bdev_examine(uuid, NULL);
		}
	}
}
