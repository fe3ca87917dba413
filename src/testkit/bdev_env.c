/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/bdev_env.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "bdev/module.h"

#define LINGER_ROUNDS 50

/* ---- Threads, waiting ---- */

void
env_start(struct env *env, enum reactor_mode mode, bool real_threads)
{
	memset(env, 0, sizeof(*env));
	trio_start(&env->trio, mode, real_threads);
	env->mode = mode;
	env->reactor_count = env->trio.reactor_count;
	env->real_threads = real_threads;
	env->reactors = env->trio.reactors;
	env->app = env->trio.app;
	for (unsigned i = 0; i < TRIO_WORKERS; i++) {
		env->workers[i].env = env;
		env->workers[i].thread = env->trio.workers[i];
	}
}

void
env_stop(struct env *env)
{
	trio_stop(&env->trio);
}

void
env_wait(struct env *env, atomic_bool *flag)
{
	trio_wait(&env->trio, flag);
}

void
env_wait_count(struct env *env, atomic_uint *count, unsigned at_least)
{
	trio_wait_count(&env->trio, count, at_least);
}

void
env_call(struct env *env, struct thread *t, void (*fn)(void *arg), void *arg)
{
	trio_call(&env->trio, t, fn, arg);
}

void
env_wait_size(struct env *env, uint64_t num_blocks)
{
	uint64_t end_ns = clock_now_ns() + ENV_TIMEOUT_NS;

	while (atomic_load(&env->told_blocks) != num_blocks) {
		EXPECT_SAY(clock_now_ns() < end_ns, "told of %llu blocks, not %llu", atomic_load(&env->told_blocks),
			   (unsigned long long)num_blocks);
		trio_step(&env->trio);
	}
}

void
env_linger(struct env *env, unsigned ms)
{
	uint64_t end_ns = clock_now_ns() + ms * NS_PER_MS;

	while (clock_now_ns() < end_ns) {
		trio_step(&env->trio);
	}
	/* On a busy machine that may have been one round only. */
	for (int i = 0; i < LINGER_ROUNDS && !env->real_threads; i++) {
		reactor_poll_wait(env->reactors[0], 0);
	}
}

/* ---- Open and close ---- */

struct open_args {
	struct env *env;
	const char *name;
	bool write;
	int rc;
};

static void
event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	struct env *env = ctx;

	EXPECT(thread_self() == env->app);
	if (ev == BDEV_EVENT_REMOVE) {
		atomic_fetch_add(&env->removes, 1);
	} else {
		atomic_store(&env->told_blocks, bdev_num_blocks(bdev));
		atomic_fetch_add(&env->resizes, 1);
	}
}

static void
open_on_app(void *arg)
{
	struct open_args *a = arg;

	a->rc = bdev_open(a->name, a->write, event, a->env, &a->env->desc, NULL);
	if (a->rc == 0) {
		a->env->bdev = bdev_desc_bdev(a->env->desc);
	}
}

static void
get_channel(void *arg)
{
	struct env_worker *w = arg;
	int rc = 0;

	w->ch = bdev_channel_get(w->env->desc, &rc);
	EXPECT_SAY(w->ch != NULL, "no channel: %d", rc);
}

int
env_open(struct env *env, const char *name, bool write)
{
	struct open_args a = {.env = env, .name = name, .write = write};

	atomic_store(&env->removes, 0);
	atomic_store(&env->resizes, 0);
	atomic_store(&env->told_blocks, 0);
	env_call(env, env->app, open_on_app, &a);
	for (unsigned i = 0; a.rc == 0 && i < ENV_WORKERS; i++) {
		env_call(env, env->workers[i].thread, get_channel, &env->workers[i]);
	}
	return a.rc;
}

static void
put_channel(void *arg)
{
	struct env_worker *w = arg;

	EXPECT(w->ch == NULL || bdev_channel_inflight(w->ch) == 0);
	bdev_channel_put(w->ch);
	w->ch = NULL;
}

static void
close_on_app(void *arg)
{
	struct env *env = arg;

	bdev_close(env->desc);
	env->desc = NULL;
	env->bdev = NULL;
}

void
env_close(struct env *env)
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		env_call(env, env->workers[i].thread, put_channel, &env->workers[i]);
	}
	env_call(env, env->app, close_on_app, env);
}

/* ---- Requests ---- */

static atomic_uint completions;

static void
io_done(struct bdev_io *bio, int status)
{
	struct env_io *io;

	memcpy(&io, (uint8_t *)bio + bdev_io_bytes(bio->ch->bdev), sizeof(io));
	EXPECT(thread_self() == io->worker->thread);
	EXPECT(!atomic_load(&io->done));
	io->status = status;
	io->result = bio->result;
	io->order = atomic_fetch_add(&completions, 1);
	atomic_store(&io->done, true);
}

static void
set_operands(struct env_io *io)
{
	struct bdev_io *b = io->io;

	b->md = io->md;
	b->max_results = io->max_results;
	switch (io->op) {
	case BDEV_COPY:
		b->src_lba = io->src_lba;
		break;
	case BDEV_COMPARE_AND_WRITE:
		b->write_iov = io->write_iov;
		b->write_iovcnt = io->write_iovcnt;
		break;
	case BDEV_ABORT:
		b->target = io->target != NULL ? io->target->io : NULL;
		break;
	case BDEV_BLOCK_STATUS:
		b->extents = io->extents;
		break;
	case BDEV_ZONE_REPORT:
		b->zones = io->zones;
		break;
	case BDEV_ZONE_MANAGE:
		b->zone_action = io->zone_action;
		break;
	default:
		break;
	}
}

static void
submit_on_worker(void *arg)
{
	struct env_io *io = arg;

	bdev_io_init(io->io, io->op, io->lba, io->num_blocks, io->iov, io->iovcnt, io_done);
	io->io->flags = io->flags;
	set_operands(io);
	bdev_submit(io->worker->ch, io->io);
	EXPECT_SAY(!atomic_load(&io->done), "completed from inside bdev_submit()");
}

void
env_submit(struct env_worker *w, struct env_io *io)
{
	size_t bytes = bdev_io_bytes(w->env->bdev);

	io->worker = w;
	io->io = aligned_alloc(64, bytes + 64);
	EXPECT(io->io != NULL);
	memset(io->io, 0xa5, bytes + 64);
	memcpy((uint8_t *)io->io + bytes, &io, sizeof(io));
	atomic_store(&io->done, false);
	env_call(w->env, w->thread, submit_on_worker, io);
}

int
env_finish(struct env_io *io)
{
	env_wait(io->worker->env, &io->done);
	free(io->io);
	io->io = NULL;
	return io->status;
}

int
env_rwv(struct env_worker *w, enum bdev_op op, uint8_t flags, uint64_t lba, uint64_t num_blocks,
	struct iovec *iov, unsigned iovcnt)
{
	struct env_io io = {.op = op,
			    .flags = flags,
			    .lba = lba,
			    .num_blocks = num_blocks,
			    .iov = iov,
			    .iovcnt = iovcnt};

	env_submit(w, &io);
	return env_finish(&io);
}

int
env_rw(struct env_worker *w, enum bdev_op op, uint64_t lba, uint64_t num_blocks, void *buf)
{
	struct iovec iov = {.iov_base = buf, .iov_len = num_blocks * bdev_block_size(w->env->bdev)};

	return env_rwv(w, op, 0, lba, num_blocks, buf == NULL ? NULL : &iov, buf != NULL);
}

/* ---- Statistics ---- */

struct stats_args {
	struct env *env;
	struct bdev_stats *stats;
	atomic_bool done;
};

static void
got_stats(void *ctx, const struct bdev_stats *stats)
{
	struct stats_args *a = ctx;

	*a->stats = *stats;
	atomic_store(&a->done, true);
}

static void
ask_stats(void *arg)
{
	struct stats_args *a = arg;

	EXPECT(bdev_get_stats(a->env->bdev, got_stats, a) == 0);
}

void
env_stats(struct env *env, struct bdev_stats *ret_stats)
{
	struct stats_args a = {.env = env, .stats = ret_stats};

	env_call(env, env->app, ask_stats, &a);
	env_wait(env, &a.done);
}
