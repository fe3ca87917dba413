/* SPDX-License-Identifier: BSD-3-Clause */
/* Stores and blobs; blob_env_threads.c has threads and waiting, blob_env_io.c the I/O. */
#include "testkit/blob_env.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"

/* ---- Something asynchronous, begun and waited for ---- */

static atomic_uint answers;

static void
answer(struct blob_env_op *op, int status, const struct err *err)
{
	EXPECT_SAY(!atomic_load(&op->done), "answered twice");
	EXPECT_SAY(status <= 0, "%d", status);
	op->status = status;
	op->err = err != NULL ? *err : ERR_NONE;
	op->order = atomic_fetch_add(&answers, 1);
	atomic_store(&op->done, true);
}

void
blob_env_done(void *ctx, int status, const struct err *err)
{
	answer(ctx, status, err);
}

void
blob_env_made(void *ctx, struct blob *blob, int status, const struct err *err)
{
	((struct blob_env_op *)ctx)->blob = status == 0 ? blob : NULL;
	EXPECT(status != 0 || blob != NULL);
	answer(ctx, status, err);
}

void
blob_env_store_done(void *ctx, struct blob_store *store, int status, const struct err *err)
{
	((struct blob_env_op *)ctx)->store = status == 0 ? store : NULL;
	EXPECT(status != 0 || store != NULL);
	answer(ctx, status, err);
}

/* rc of a call that does not answer when it fails. */
static void
answer_now(struct blob_env_op *op, int rc)
{
	if (rc != 0) {
		EXPECT(rc == -ENOMEM);
		op->refused = true;
		op->status = rc;
	}
}

struct begin {
	struct blob_env_op *op;
	void (*fn)(struct blob_env_op *op, void *arg);
	void *arg;
};

static void
begin_on_app(void *arg)
{
	struct begin *b = arg;

	b->fn(b->op, b->arg);
	EXPECT_SAY(!atomic_load(&b->op->done), "answered from inside the call");
	atomic_store(&b->op->done, b->op->refused);
}

void
blob_env_begin(struct blob_env *env, struct blob_env_op *op, void (*fn)(struct blob_env_op *op, void *arg), void *arg)
{
	struct begin b = {op, fn, arg};

	memset(op, 0, sizeof(*op));
	blob_env_call(env, env->app, begin_on_app, &b);
}

int
blob_env_end(struct blob_env *env, struct blob_env_op *op)
{
	blob_env_wait(env, &op->done);
	env->err = op->err;
	return op->status;
}

static int
run(struct blob_env *env, struct blob_env_op *op, void (*fn)(struct blob_env_op *op, void *arg), void *arg)
{
	blob_env_begin(env, op, fn, arg);
	return blob_env_end(env, op);
}

/* ---- Stores ---- */

struct store_args {
	struct blob_env *env;
	struct blob_dev *dev;
	uint64_t id;
	struct blob_store_info info;
	unsigned low_percent;
	bool pause;
};

static void
note_event(void *ctx, struct blob_store *store, enum blob_store_event event)
{
	struct blob_env *env = ctx;

	EXPECT(thread_self() == env->app);
	atomic_fetch_add(&env->events[event], 1);
}

static struct blob_store_options
options_of(struct blob_env *env)
{
	struct blob_store_options options = env->options;

	if (options.event == NULL) {
		options.event = note_event;
		options.ctx = env;
	}
	return options;
}

static void
create_fn(struct blob_env_op *op, void *arg)
{
	struct store_args *a = arg;
	struct blob_store_options options = options_of(a->env);

	answer_now(op, blob_store_create(a->dev, &options, blob_env_store_done, op));
}

static void
load_fn(struct blob_env_op *op, void *arg)
{
	struct store_args *a = arg;
	struct blob_store_options options = options_of(a->env);

	answer_now(op, blob_store_load(a->dev, &options, blob_env_store_done, op));
}

int
blob_env_create(struct blob_env *env, struct blob_dev *dev)
{
	struct store_args a = {.env = env, .dev = dev};
	struct blob_env_op op;
	int status = run(env, &op, create_fn, &a);

	env->store = op.store;
	return status;
}

int
blob_env_load(struct blob_env *env, struct blob_dev *dev)
{
	struct store_args a = {.env = env, .dev = dev};
	struct blob_env_op op;
	int status = run(env, &op, load_fn, &a);

	env->store = op.store;
	return status;
}

static void
unload_fn(struct blob_env_op *op, void *arg)
{
	blob_store_unload(arg, blob_env_done, op);
}

static void
abandon_fn(struct blob_env_op *op, void *arg)
{
	blob_store_abandon(arg, blob_env_done, op);
}

static void
destroy_fn(struct blob_env_op *op, void *arg)
{
	blob_store_destroy(arg, blob_env_done, op);
}

static int
leave(struct blob_env *env, void (*fn)(struct blob_env_op *op, void *arg))
{
	struct blob_env_op op;
	int status = run(env, &op, fn, env->store);

	if (status != -EBUSY) {
		env->store = NULL;
	}
	return status;
}

int
blob_env_unload(struct blob_env *env)
{
	return leave(env, unload_fn);
}

int
blob_env_abandon(struct blob_env *env)
{
	return leave(env, abandon_fn);
}

int
blob_env_destroy(struct blob_env *env)
{
	return leave(env, destroy_fn);
}

static void
grow_fn(struct blob_env_op *op, void *arg)
{
	blob_store_grow(arg, blob_env_done, op);
}

int
blob_env_grow(struct blob_env *env)
{
	struct blob_env_op op;

	return run(env, &op, grow_fn, env->store);
}

static void
set_super_fn(struct blob_env_op *op, void *arg)
{
	struct store_args *a = arg;

	blob_store_set_super(a->env->store, a->id, blob_env_done, op);
}

int
blob_env_set_super(struct blob_env *env, uint64_t id)
{
	struct store_args a = {.env = env, .id = id};
	struct blob_env_op op;

	return run(env, &op, set_super_fn, &a);
}

static void
limits_on_app(void *arg)
{
	struct store_args *a = arg;

	blob_store_set_limits(a->env->store, a->low_percent, a->pause);
}

void
blob_env_limits(struct blob_env *env, unsigned low_percent, bool pause)
{
	struct store_args a = {.env = env, .low_percent = low_percent, .pause = pause};

	blob_env_call(env, env->app, limits_on_app, &a);
}

static void
idle_fn(struct blob_env_op *op, void *arg)
{
	blob_store_wait_idle(arg, blob_env_done, op);
}

void
blob_env_idle(struct blob_env *env)
{
	struct blob_env_op op;

	EXPECT(run(env, &op, idle_fn, env->store) == 0);
}

static void
info_on_app(void *arg)
{
	struct store_args *a = arg;

	blob_store_get_info(a->env->store, &a->info);
}

struct blob_store_info
blob_env_info(struct blob_env *env)
{
	struct store_args a = {.env = env};

	blob_env_call(env, env->app, info_on_app, &a);
	return a.info;
}

/* ---- Blobs ---- */

struct blob_args {
	struct blob_env *env;
	struct blob *blob, *other;
	const struct blob_options *options;
	const struct blob_xattr *xattrs;
	unsigned num_xattrs;
	struct blob_snapshot *snapshots;
	struct blob_dev *dev;
	const char *name;
	const void *id;
	size_t bytes;
	uint64_t number;
};

static void
find_on_app(void *arg)
{
	struct blob_args *a = arg;

	a->blob = blob_find(a->env->store, a->number);
}

struct blob *
blob_env_find(struct blob_env *env, uint64_t id)
{
	struct blob_args a = {.env = env, .number = id};

	blob_env_call(env, env->app, find_on_app, &a);
	return a.blob;
}

static void
allocated_on_app(void *arg)
{
	struct blob_args *a = arg;

	a->number = blob_allocated_clusters(a->blob);
}

uint64_t
blob_env_allocated(struct blob_env *env, struct blob *blob)
{
	struct blob_args a = {.blob = blob};

	blob_env_call(env, env->app, allocated_on_app, &a);
	return a.number;
}

static void
make_fn(struct blob_env_op *op, void *arg)
{
	struct blob_args *a = arg;

	blob_create(a->env->store, a->options, blob_env_made, op);
}

int
blob_env_make(struct blob_env *env, const struct blob_options *options, struct blob **ret_blob)
{
	struct blob_args a = {.env = env, .options = options};
	struct blob_env_op op;
	int status = run(env, &op, make_fn, &a);

	*ret_blob = op.blob;
	return status;
}

struct blob *
blob_env_volume(struct blob_env *env, uint64_t num_clusters, bool thin)
{
	const struct blob_options options = {.num_clusters = num_clusters, .thin = thin};
	struct blob *blob;
	int status = blob_env_make(env, &options, &blob);

	EXPECT_SAY(status == 0, "%d: %s", status, env->err.text);
	return blob;
}

static void
delete_fn(struct blob_env_op *op, void *arg)
{
	struct blob_args *a = arg;

	blob_delete(a->blob, a->xattrs, a->num_xattrs, blob_env_done, op);
}

int
blob_env_delete_hidden(struct blob_env *env, struct blob *blob, const struct blob_xattr *hidden, unsigned num_hidden)
{
	struct blob_args a = {.blob = blob, .xattrs = hidden, .num_xattrs = num_hidden};
	struct blob_env_op op;

	return run(env, &op, delete_fn, &a);
}

int
blob_env_delete(struct blob_env *env, struct blob *blob)
{
	return blob_env_delete_hidden(env, blob, NULL, 0);
}

static void
resize_fn(struct blob_env_op *op, void *arg)
{
	struct blob_args *a = arg;

	blob_resize(a->blob, a->number, blob_env_done, op);
}

int
blob_env_resize(struct blob_env *env, struct blob *blob, uint64_t num_clusters)
{
	struct blob_args a = {.blob = blob, .number = num_clusters};
	struct blob_env_op op;

	return run(env, &op, resize_fn, &a);
}

static void
set_xattr_fn(struct blob_env_op *op, void *arg)
{
	struct blob_args *a = arg;

	blob_set_xattrs(a->blob, a->xattrs, a->num_xattrs, blob_env_done, op);
}

int
blob_env_set_xattr(struct blob_env *env, struct blob *blob, const char *name, const void *value, size_t bytes)
{
	const struct blob_xattr xattr = {name, value, bytes};
	struct blob_args a = {.blob = blob, .xattrs = &xattr, .num_xattrs = 1};
	struct blob_env_op op;

	return run(env, &op, set_xattr_fn, &a);
}

static void
remove_xattr_fn(struct blob_env_op *op, void *arg)
{
	struct blob_args *a = arg;

	blob_remove_xattr(a->blob, a->name, blob_env_done, op);
}

int
blob_env_remove_xattr(struct blob_env *env, struct blob *blob, const char *name)
{
	struct blob_args a = {.blob = blob, .name = name};
	struct blob_env_op op;

	return run(env, &op, remove_xattr_fn, &a);
}

static void
set_read_only_fn(struct blob_env_op *op, void *arg)
{
	blob_set_read_only(arg, blob_env_done, op);
}

int
blob_env_set_read_only(struct blob_env *env, struct blob *blob)
{
	struct blob_env_op op;

	return run(env, &op, set_read_only_fn, blob);
}

static void
snapshot_fn(struct blob_env_op *op, void *arg)
{
	struct blob_args *a = arg;

	blob_snapshot(a->snapshots, (unsigned)a->number, blob_env_done, op);
}

int
blob_env_snapshots(struct blob_env *env, struct blob_snapshot *snapshots, unsigned count)
{
	struct blob_args a = {.snapshots = snapshots, .number = count};
	struct blob_env_op op;

	return run(env, &op, snapshot_fn, &a);
}

int
blob_env_snapshot(struct blob_env *env, struct blob *blob, struct blob **ret_snapshot)
{
	struct blob_snapshot s = {.blob = blob};
	int status = blob_env_snapshots(env, &s, 1);

	*ret_snapshot = status == 0 ? s.snapshot : NULL;
	return status;
}

static void
clone_fn(struct blob_env_op *op, void *arg)
{
	blob_clone(arg, NULL, 0, blob_env_made, op);
}

int
blob_env_clone(struct blob_env *env, struct blob *snapshot, struct blob **ret_clone)
{
	struct blob_env_op op;
	int status = run(env, &op, clone_fn, snapshot);

	*ret_clone = op.blob;
	return status;
}

static struct blob_work *
work_of(struct blob_env_op *op)
{
	op->work = (struct blob_work){.done = blob_env_done, .ctx = op};
	return &op->work;
}

static void
inflate_fn(struct blob_env_op *op, void *arg)
{
	blob_inflate(arg, work_of(op));
}

int
blob_env_inflate(struct blob_env *env, struct blob *blob)
{
	struct blob_env_op op;

	return run(env, &op, inflate_fn, blob);
}

static void
decouple_fn(struct blob_env_op *op, void *arg)
{
	blob_decouple(arg, work_of(op));
}

int
blob_env_decouple(struct blob_env *env, struct blob *blob)
{
	struct blob_env_op op;

	return run(env, &op, decouple_fn, blob);
}

static void
set_parent_fn(struct blob_env_op *op, void *arg)
{
	struct blob_args *a = arg;

	blob_set_parent(a->blob, a->other, blob_env_done, op);
}

int
blob_env_set_parent(struct blob_env *env, struct blob *blob, struct blob *parent)
{
	struct blob_args a = {.blob = blob, .other = parent};
	struct blob_env_op op;

	return run(env, &op, set_parent_fn, &a);
}

static void
set_external_fn(struct blob_env_op *op, void *arg)
{
	struct blob_args *a = arg;

	blob_set_external(a->blob, a->id, a->bytes, blob_env_done, op);
}

int
blob_env_set_external(struct blob_env *env, struct blob *blob, const void *id, size_t bytes)
{
	struct blob_args a = {.blob = blob, .id = id, .bytes = bytes};
	struct blob_env_op op;

	return run(env, &op, set_external_fn, &a);
}

static void
shallow_copy_fn(struct blob_env_op *op, void *arg)
{
	struct blob_args *a = arg;

	blob_shallow_copy(a->blob, a->dev, work_of(op));
}

int
blob_env_shallow_copy(struct blob_env *env, struct blob *blob, struct blob_dev *dev)
{
	struct blob_args a = {.blob = blob, .dev = dev};
	struct blob_env_op op;

	return run(env, &op, shallow_copy_fn, &a);
}
