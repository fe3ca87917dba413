/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A random load on one worker of a stage: reads, writes, zeroes, unmaps, flushes with N in flight,
 * over a region that nobody else writes; every read is compared with a model of it in memory.
 */
#ifndef TESTKIT_BDEV_LOAD_H
#define TESTKIT_BDEV_LOAD_H

#include "testkit/bdev_env.h"

#define LOAD_DEPTH_MAX 128
#define LOAD_BLOCKS_MAX 64 /* of one request */

enum load_known { LOAD_UNKNOWN, LOAD_KNOWN };

struct load_slot;

struct load {
	/* Set by the test. */
	struct env_worker *worker;
	uint64_t first_block;
	uint64_t num_blocks;
	unsigned depth;
	uint64_t count;  /* requests in all; UINT64_MAX: until stopped */
	bool no_data;    /* reads are not compared */
	bool cancel_ok;  /* requests may end with -ECANCELED */
	bool removal_ok; /* -ENODEV ends the load */
	bool io_error_ok; /* requests may end with -EIO */
	uint64_t seed;

	atomic_bool stop; /* set from anywhere */
	atomic_bool done; /* nothing is in flight any more */
	atomic_uint completed;
	bool removed;
	struct bdev_stats sent; /* ops and bytes of what succeeded */

	/* The load's own. */
	struct load_slot *slots;
	uint8_t *model;
	uint8_t *known; /* enum load_known, by block */
	uint8_t *busy;  /* by block: readers and writers keep out of each other's way */
	uint64_t started;
	unsigned inflight;
	uint32_t block_size;
	struct bdev *bdev;
};

/* Submits the first requests. */
void load_start(struct load *l);
/* Waits until done and frees what start has allocated. */
void load_finish(struct load *l);

#endif
