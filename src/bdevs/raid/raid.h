/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * RAID bdevs: one bdev on several bases, by raid0 (striped), concat, raid1 (mirrored) or raid5f
 * (striped with parity), with SPDK's superblock on the bases or without.
 *
 * Redundant ones (raid1, raid5f) go on without a base that is pulled, fails, or is taken out, and
 * are rebuilt in the background when one is added. What is promised: a write is not acknowledged
 * before every base that missed it is marked, in the superblocks of the others, as not to be used.
 *
 * All functions: app thread.
 */
#ifndef BDEVS_RAID_RAID_H
#define BDEVS_RAID_RAID_H

#include "base/err.h"
#include "bdev/bdev.h"
#include "bdevs/raid/sb.h"

struct bdev_examiner;

#define RAID_STATES(X) \
	X(ONLINE, "online") \
	X(CONFIGURING, "configuring") /* waits for bases; no bdev yet */ \
	X(OFFLINE, "offline") /* too few bases are left; no bdev any more */

enum raid_state {
#define RAID_STATE_ENUM(id, name) RAID_##id,
	RAID_STATES(RAID_STATE_ENUM)
#undef RAID_STATE_ENUM
};

const char *raid_state_name(enum raid_state state);
const char *raid_level_name(enum raid_level level);

struct raid_options {
	const char *name; /* at most 63 characters */
	uuid_t uuid;      /* all zero: one is made */
	enum raid_level level;
	uint32_t strip_kb; /* power of two; raid1: 0 */
	bool superblock;
	/* Names, aliases or UUIDs. NULL: an empty place; a redundant array without a superblock starts
	 * without it. */
	const char *const *bases;
	unsigned num_bases;
};

/*
 * Borrows options during the call. Bases that are not there yet are awaited. 0: done follows, when
 * all that are there have been looked at, and the bdev is up if none is missing; status: 0; -EEXIST
 * (a base holds another array's superblock); -EPERM (a base is claimed); -EINVAL (bases too small,
 * or not alike); or I/O's. Else, and done is not called: -EEXIST (name taken), -EINVAL, -ENOMEM.
 */
int raid_create(const struct raid_options *options,
		void (*done)(void *ctx, int status, const struct err *err), void *ctx,
		struct err *err);

/* 0: done(ctx, 0) follows when all are closed; -ENODEV: no such array; -EBUSY: it is under way.
 * clear_sb: its superblocks are made unreadable, so that it is not assembled again. done may be
 * NULL. */
int raid_delete(const char *name, bool clear_sb, void (*done)(void *ctx, int status), void *ctx,
		struct err *err);

/*
 * Puts a bdev into an empty slot; an array that is online is rebuilt onto it. 0: done follows, when
 * the bdev is in its place (the rebuild is a job: "raid_rebuild"). -ENODEV (no such array, no such
 * bdev), -EINVAL (no empty slot, too small, not alike), -EPERM (a rebuild is under way, or the bdev
 * is claimed).
 */
int raid_add_base(const char *name, const char *base,
		  void (*done)(void *ctx, int status, const struct err *err), void *ctx,
		  struct err *err);

/*
 * Takes a base out of the array that has it; one that cannot do without goes offline, or says
 * -EBUSY when it has a superblock. 0: done follows, when it is closed. -ENODEV: no array has this
 * bdev. By the UUID of a member that an array
 * waits for: it is lost, and the array is to start without it; -EBUSY: it cannot.
 */
int raid_remove_base(const char *base, void (*done)(void *ctx, int status), void *ctx,
		     struct err *err);

struct raid_settings {
	uint32_t window_kb;        /* of a rebuild: what writes wait for */
	uint32_t bandwidth_mb_sec; /* of a rebuild, 0: unlimited */
	/* A raid5f that is found on all bases but one starts without it after so long; 0: never.
	 * (A raid1 never does: those that are there may be the stale ones.) */
	uint32_t patience_sec;
};

#define RAID_SETTINGS_DEFAULT \
	{ \
		.window_kb = 1024, .patience_sec = 30, \
	}

void raid_get_settings(struct raid_settings *ret_settings);
/* 0 or -EINVAL (a window of 0). */
int raid_set_settings(const struct raid_settings *settings, struct err *err);

/* Takes no arrays up any more, ends all (their superblocks say that all is well), then done(ctx),
 * perhaps at once. Before the bdevs are removed at the end of the process. */
void raid_shutdown(void (*done)(void *ctx), void *ctx);

/* Finds arrays by their superblocks. */
extern const struct bdev_examiner raid_examiner;

/* ---- Looking ---- */

struct raid_base_info {
	const char *name; /* NULL: the slot is empty */
	uuid_t uuid;
	bool configured;
	uint64_t data_offset; /* blocks */
	uint64_t data_size;
};

struct raid_info {
	const char *name;
	uuid_t uuid;
	enum raid_level level;
	enum raid_state state;
	uint32_t strip_kb;
	bool superblock;
	/* Nothing on disk knows it yet: the configuration has to. */
	bool only_in_memory;
	unsigned num_bases;
	unsigned discovered;
	unsigned operational;
	uint64_t num_blocks; /* 0: not known yet */
	bool rebuilding;
	const char *rebuild_target;
	uint64_t rebuilt_blocks;
	const struct raid_base_info *bases; /* num_bases; valid until the next call */
};

/* In the order in which they came; index from 0 on. False past the end. */
bool raid_info_at(unsigned index, struct raid_info *ret_info);
bool raid_info_find(const char *name, struct raid_info *ret_info);
bool raid_is(const struct bdev *bdev);

#endif
