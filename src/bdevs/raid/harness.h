/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A stage for tests of arrays: disks in memory that outlive their bdevs, so that an array can be
 * assembled again from what a power cut left; they fail, hang and vanish when told.
 */
#ifndef BDEVS_RAID_HARNESS_H
#define BDEVS_RAID_HARNESS_H

#include "bdev/module.h"
#include "bdevs/raid/raid.h"
#include "testkit/bdev_env.h"

#define DISKS_MAX 8
#define BS 512u

struct disk {
	struct bdev bdev;
	uint8_t *data;
	uint64_t num_blocks;
	atomic_int read_status; /* of all reads, when not 0 */
	atomic_int write_status;
	atomic_int flush_status;
	atomic_uint bad_reads; /* so many more reads of blocks from 2048 on fail with -EIO */
	atomic_bool hold;      /* writes do not come back */
	atomic_bool hold_superblock; /* those of block 0 */
	atomic_bool silent; /* nothing comes back, but by cancel and abort */
	atomic_uint passed; /* reads and writes that were passed down to it */
	atomic_uint cancelled; /* that ended so */
	atomic_uint aborts;    /* that it was asked for */
	atomic_uint superblocks; /* writes of block 0 */
	atomic_uint reads;
	atomic_uint writes;
	atomic_bool present; /* registered, or not destructed yet */
	bool removing;
};

struct stage {
	struct env env;
	struct disk disks[DISKS_MAX];
	unsigned num_disks;
	/* Called on the write of a superblock or its copy, before it is done. */
	void (*on_superblock)(struct stage *s, struct disk *d, uint64_t lba, const uint8_t *block);
	void *ctx;
	/* The last answer of a call to an array. */
	atomic_bool answered;
	int status;
	struct err err;
};

extern struct stage *the_stage;

/* Disks named d0, d1, ... with UUIDs of their own, all zero. */
void stage_start(struct stage *s, enum reactor_mode mode, bool real_threads, unsigned num_disks,
		 uint64_t disk_blocks);
/* Deletes all arrays and disks. */
void stage_stop(struct stage *s);

void disk_add(struct stage *s, unsigned i);
/* Starts its removal, and waits until it is gone. */
void disk_pull(struct stage *s, unsigned i);
void disk_pull_start(struct stage *s, unsigned i);

/* 0 or the error of any kind. NULL names: d0, d1, ... */
int array_create(struct stage *s, const char *name, enum raid_level level, uint32_t strip_kb,
		 unsigned num_bases, bool superblock);
int array_delete(struct stage *s, const char *name, bool clear_sb);
int array_add_base(struct stage *s, const char *name, const char *base);
int array_remove_base(struct stage *s, const char *base);
/* As if the process died: the bdevs vanish at once, nothing more reaches the disks. */
void stage_power_cut(struct stage *s);
/* Ends all arrays in order and starts anew, with no disk added. */
void stage_restart(struct stage *s, bool cut);

bool array_info(struct stage *s, const char *name, struct raid_info *ret_info);
void array_wait_state(struct stage *s, const char *name, enum raid_state state);
/* Until so many bases are configured, and nothing is being rebuilt. */
void array_wait_whole(struct stage *s, const char *name, unsigned configured);
void array_wait_rebuilding(struct stage *s, const char *name);
void stage_settings(struct stage *s, const struct raid_settings *settings);
/* Until no job is under way. */
void stage_wait_jobs(struct stage *s);

/* Aborts unless the data areas of these disks are the same. */
void expect_mirrors(struct stage *s, unsigned first, unsigned count, uint64_t offset,
		    uint64_t num_blocks);
/* Aborts unless the XOR over the first n disks is zero. */
void expect_parity(struct stage *s, unsigned n, uint64_t offset, uint64_t num_blocks);

#endif
