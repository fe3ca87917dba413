/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A stage for tests of the blobstore, so that they can be written as one thing after the other: a trio (trio.h) whose app thread
 * owns the store. Functions that have a status return it; the reason is in env->err. A test that fails or waits too
 * long aborts.
 */
#ifndef TESTKIT_BLOB_ENV_H
#define TESTKIT_BLOB_ENV_H

#include <stdatomic.h>
#include <stdbool.h>

#include "blob/blob.h"
#include "event/reactor.h"
#include "testkit/blob_mem.h"
#include "testkit/expect.h"
#include "testkit/trio.h"

#define BLOB_ENV_WORKERS TRIO_WORKERS

struct blob_env;

struct blob_env_worker {
	struct blob_env *env;
	struct thread *thread;
};

struct blob_env {
	struct trio trio;
	/* The trio's. */
	bool real_threads;
	struct reactor **reactors;
	struct thread *app;
	struct blob_env_worker workers[BLOB_ENV_WORKERS];
	struct blob_store *store; /* NULL: none */
	struct blob_store_options options; /* of creation and loading; the event and ctx are the stage's when event is NULL */
	atomic_uint events[BLOB_STORE_BROKEN + 1];
	struct err err; /* of the last function with a status */
};

void blob_env_start(struct blob_env *env, enum reactor_mode mode, bool real_threads);
void blob_env_stop(struct blob_env *env); /* no store is open */

/* Runs fn(arg) on t and returns when it has. */
void blob_env_call(struct blob_env *env, struct thread *t, void (*fn)(void *arg), void *arg);
void blob_env_wait(struct blob_env *env, atomic_bool *flag); /* until *flag is true */
void blob_env_wait_count(struct blob_env *env, atomic_uint *count, unsigned at_least);
/* Lets everything happen that can in so many rounds (by hand) or milliseconds (real threads). */
void blob_env_linger(struct blob_env *env, unsigned n);

/* ---- Stores ---- */

int blob_env_create(struct blob_env *env, struct blob_dev *dev);
int blob_env_load(struct blob_env *env, struct blob_dev *dev);
int blob_env_unload(struct blob_env *env); /* env->store is NULL afterwards unless it is -EBUSY */
int blob_env_abandon(struct blob_env *env);
int blob_env_destroy(struct blob_env *env);
int blob_env_grow(struct blob_env *env);
int blob_env_set_super(struct blob_env *env, uint64_t id);
void blob_env_limits(struct blob_env *env, unsigned low_percent, bool pause);
void blob_env_idle(struct blob_env *env); /* until no background work is under way */
struct blob_store_info blob_env_info(struct blob_env *env);
/* Asking, on the app thread, for those that may not from elsewhere while threads are real. */
struct blob *blob_env_find(struct blob_env *env, uint64_t id);
uint64_t blob_env_allocated(struct blob_env *env, struct blob *blob);

/* ---- Blobs ---- */

int blob_env_make(struct blob_env *env, const struct blob_options *options, struct blob **ret_blob);
/* A blob of so many clusters, or the test ends. */
struct blob *blob_env_volume(struct blob_env *env, uint64_t num_clusters, bool thin);
int blob_env_delete(struct blob_env *env, struct blob *blob);
int blob_env_delete_hidden(struct blob_env *env, struct blob *blob, const struct blob_xattr *hidden, unsigned num_hidden);
int blob_env_resize(struct blob_env *env, struct blob *blob, uint64_t num_clusters);
int blob_env_set_xattr(struct blob_env *env, struct blob *blob, const char *name, const void *value, size_t bytes);
int blob_env_remove_xattr(struct blob_env *env, struct blob *blob, const char *name);
int blob_env_set_read_only(struct blob_env *env, struct blob *blob);
int blob_env_snapshot(struct blob_env *env, struct blob *blob, struct blob **ret_snapshot);
int blob_env_snapshots(struct blob_env *env, struct blob_snapshot *snapshots, unsigned count);
int blob_env_clone(struct blob_env *env, struct blob *snapshot, struct blob **ret_clone);
int blob_env_inflate(struct blob_env *env, struct blob *blob);
int blob_env_decouple(struct blob_env *env, struct blob *blob);
int blob_env_set_parent(struct blob_env *env, struct blob *blob, struct blob *parent);
int blob_env_set_external(struct blob_env *env, struct blob *blob, const void *id, size_t bytes);
int blob_env_shallow_copy(struct blob_env *env, struct blob *blob, struct blob_dev *dev);

/*
 * The same begun now and waited for later: several at once, or with something between. begin calls it; blob_env_end() waits,
 * and says how it ended.
 *
 *	struct blob_env_op op;
 *	blob_env_begin(env, &op, fn, arg);   fn(op, arg), on the app thread, passes blob_env_done and &op to a function of blob.h
 *	status = blob_env_end(env, &op);
 */
struct blob_env_op {
	struct blob *blob; /* what was made */
	struct blob_store *store;
	struct blob_work work; /* for inflate and the like */
	int status;
	bool refused; /* by the call itself */
	struct err err;
	atomic_bool done;
	unsigned order; /* counted over all: which was answered first */
};
void blob_env_begin(struct blob_env *env, struct blob_env_op *op, void (*fn)(struct blob_env_op *op, void *arg), void *arg);
int blob_env_end(struct blob_env *env, struct blob_env_op *op);
void blob_env_done(void *ctx, int status, const struct err *err);                              /* blob_done_fn */
void blob_env_made(void *ctx, struct blob *blob, int status, const struct err *err);           /* blob_made_fn */
void blob_env_store_done(void *ctx, struct blob_store *store, int status, const struct err *err); /* blob_store_done_fn */

/* ---- I/O ---- */

/* A blob on one worker. */
struct blob_env_channel {
	struct blob_env_worker *worker;
	struct blob_channel ch;
	uint32_t unit_bytes;
	bool direct; /* reads and writes go the way of blob/route.h where they can */
};
/* Also opens the blob. */
struct blob_env_channel *blob_env_open(struct blob_env *env, unsigned worker, struct blob *blob);
void blob_env_close(struct blob_env_channel *c);

struct blob_env_io {
	struct blob_env_channel *c;
	struct blob_io *io; /* allocated when submitted */
	struct iovec iov;
	enum blob_op op;
	uint64_t unit;
	uint64_t count;
	uint8_t parity;
	int status;
	unsigned order; /* counted over all requests of the process: which completed first */
	atomic_bool done;
};
/* From outside of the threads: submits on the channel's thread and returns. buf is borrowed until the end. */
void blob_env_submit(struct blob_env_channel *c, struct blob_env_io *io, enum blob_op op, uint64_t unit, uint64_t count,
		     void *buf);
int blob_env_finish(struct blob_env_io *io); /* waits */
int blob_env_rw(struct blob_env_channel *c, enum blob_op op, uint64_t unit, uint64_t count, void *buf);
int blob_env_flush(struct blob_env_channel *c); /* of the device */

/* Every unit filled with a pattern that says which unit it is and the seed; seed 0: zeroes. */
void blob_env_pattern(void *buf, uint32_t unit_bytes, uint64_t unit, uint64_t count, uint64_t seed);
int blob_env_fill(struct blob_env_channel *c, uint64_t unit, uint64_t count, uint64_t seed);
/* Reads; true: that is what is there. */
bool blob_env_holds(struct blob_env_channel *c, uint64_t unit, uint64_t count, uint64_t seed);
/* The same of a blob that is opened for it on worker 0. */
int blob_env_fill_blob(struct blob_env *env, struct blob *blob, uint64_t unit, uint64_t count, uint64_t seed);
bool blob_env_blob_holds(struct blob_env *env, struct blob *blob, uint64_t unit, uint64_t count, uint64_t seed);

#endif
