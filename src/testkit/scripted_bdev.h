/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A bdev in memory that behaves as told: any limits; refusing now and then; completing late, out of
 * order, or not before it is told; failing. It checks every promise that bdev/module.h gives to
 * modules, and aborts when one is broken.
 */
#ifndef TESTKIT_SCRIPTED_BDEV_H
#define TESTKIT_SCRIPTED_BDEV_H

#include <stdatomic.h>

#include "bdev/module.h"
#include "testkit/bdev_env.h"

#define SCRIPTED_LOG 256

/* A request as the module got it. */
struct scripted_entry {
	uint64_t lba;
	uint64_t num_blocks;
	uint16_t iovcnt;
	uint8_t op;
	uint8_t flags;
};

struct scripted_bdev {
	struct bdev bdev; /* limits are set between init and add */
	uint8_t *data;
	uint8_t *md; /* md_bytes a block; NULL: there is none */
	uint64_t max_blocks; /* it may grow to */

	/* The script; changed while nothing runs, or atomically. */
	atomic_uint refuse_every; /* n: each n-th submission ends with -EAGAIN, 0: none */
	atomic_uint queue_max;    /* more at once on a channel are refused, 0: any number */
	atomic_bool shuffle;      /* completes in random order */
	atomic_bool hold;         /* completes nothing (resets excepted) */
	atomic_bool at_once;      /* completes from inside submit */
	atomic_int fail_with;     /* the status of everything while not 0 */
	atomic_uint fail_skip;    /* requests that succeed before fail_with counts */

	/* What happened. */
	atomic_uint submitted;
	atomic_uint refused;
	atomic_uint log_count;
	struct scripted_entry log[SCRIPTED_LOG]; /* the first so many, refused ones not */
	atomic_bool destructed;
	bool removing;
};

/* Fills s with what all take: a disk of so many blocks, all operations but reset native, no
 * limits. */
void scripted_bdev_init(struct scripted_bdev *s, const char *name, uint64_t num_blocks,
			uint32_t block_size);
/* App thread: registers it; or the error of bdev_register(). */
int scripted_bdev_add(struct scripted_bdev *s, struct err *err);
/* App thread. */
void scripted_bdev_remove(struct scripted_bdev *s, void (*done)(void *ctx, int status), void *ctx);
int scripted_bdev_resize(struct scripted_bdev *s, uint64_t num_blocks);
/* After destruct, or when add failed. */
void scripted_bdev_release(struct scripted_bdev *s);

/* The channel's thread: looks at what is held again, after the script was changed. */
void scripted_channel_kick(struct bdev_channel *ch);

/* From outside of the threads: registers s, opens it for writing with channels on both workers;
 * and the reverse, which ends with scripted_bdev_release(). scripted_close() removes it unless
 * scripted_remove() did. */
void scripted_open(struct scripted_bdev *s, struct env *env);
void scripted_close(struct scripted_bdev *s, struct env *env);
void scripted_remove(struct scripted_bdev *s, struct env *env);
/* Ends `hold` and lets both channels go on. */
void scripted_let_go(struct scripted_bdev *s, struct env *env);

#endif
