/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A stage for tests of bdevs, so that they can be written as one thing after the other: a trio (trio.h) with a
 * bdev open on it. A test that fails or waits too long aborts, from whatever thread it notices it on.
 */
#ifndef TESTKIT_BDEV_ENV_H
#define TESTKIT_BDEV_ENV_H

#include <stdatomic.h>
#include <stdbool.h>

#include "bdev/bdev.h"
#include "event/reactor.h"
#include "testkit/expect.h"
#include "testkit/trio.h"

#define ENV_WORKERS TRIO_WORKERS
#define ENV_TIMEOUT_NS TRIO_TIMEOUT_NS

struct env_worker {
	struct env *env;
	struct thread *thread;
	struct bdev_channel *ch; /* the worker's own, while something is open */
};

struct env {
	struct trio trio;
	enum reactor_mode mode;
	/* The trio's. */
	bool real_threads;
	struct reactor **reactors;
	unsigned reactor_count;
	struct thread *app;
	struct env_worker workers[ENV_WORKERS];

	struct bdev_desc *desc;
	struct bdev *bdev;
	atomic_uint removes; /* events of the descriptor */
	atomic_uint resizes; /* one may tell of several new sizes */
	atomic_ullong told_blocks; /* the size when the last of them came; 0: none has */
};

void env_start(struct env *env, enum reactor_mode mode, bool real_threads);
void env_stop(struct env *env);

/* Runs fn(arg) on t and returns when it has. */
void env_call(struct env *env, struct thread *t, void (*fn)(void *arg), void *arg);

/* Until *flag is true. */
void env_wait(struct env *env, atomic_bool *flag);
/* Until *count has reached at_least. */
void env_wait_count(struct env *env, atomic_uint *count, unsigned at_least);
/* Until the descriptor was told that the bdev has so many blocks. */
void env_wait_size(struct env *env, uint64_t num_blocks);
/* Lets everything happen that can within so much time. */
void env_linger(struct env *env, unsigned ms);

/* Opens name on the app thread, with a channel on each worker; 0 or the error of bdev_open(). */
int env_open(struct env *env, const char *name, bool write);
/* Puts the channels, then closes. */
void env_close(struct env *env);

/* A request of a test. */
struct env_io {
	struct bdev_io *io; /* allocated when first submitted; its unused fields hold garbage */
	struct env_worker *worker;
	enum bdev_op op;
	uint8_t flags;
	uint64_t lba;
	uint64_t num_blocks;
	struct iovec *iov;
	unsigned iovcnt;
	/* Operands of some operations, see struct bdev_io. */
	void *md;
	uint64_t src_lba;
	const struct iovec *write_iov;
	unsigned write_iovcnt;
	struct env_io *target;
	struct bdev_extent *extents;
	struct bdev_zone *zones;
	enum bdev_zone_action zone_action;
	unsigned max_results;
	uint64_t result; /* after env_finish() */
	int status;
	unsigned order; /* counted over all requests of the process: which completed first */
	atomic_bool done;
};

/* From anywhere outside of the threads: submits on the worker's thread and returns. */
void env_submit(struct env_worker *w, struct env_io *io);
/* Waits, frees, returns the status. */
int env_finish(struct env_io *io);
/* Both, for one buffer (NULL: none) or a list. */
int env_rw(struct env_worker *w, enum bdev_op op, uint64_t lba, uint64_t num_blocks, void *buf);
int env_rwv(struct env_worker *w, enum bdev_op op, uint8_t flags, uint64_t lba, uint64_t num_blocks,
	    struct iovec *iov, unsigned iovcnt);

/* Statistics of the open bdev. */
void env_stats(struct env *env, struct bdev_stats *ret_stats);

#endif
