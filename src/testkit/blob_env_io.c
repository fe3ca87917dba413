/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/blob_env.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "blob/route.h"

static atomic_uint completions;

/* ---- Channels ---- */

struct open_args {
	struct blob_env *env;
	struct blob *blob;
	struct blob_env_channel *c;
};

static void
open_on_app(void *arg)
{
	struct open_args *a = arg;
	struct err err = ERR_NONE;
	int rc = blob_open(a->blob, &err);

	EXPECT_SAY(rc == 0, "%d: %s", rc, err.text);
}

static void
close_on_app(void *arg)
{
	blob_close(arg);
}

static void
get_on_worker(void *arg)
{
	struct open_args *a = arg;
	int rc = blob_channel_get(a->blob, &a->c->ch);

	EXPECT_SAY(rc == 0, "no channel: %d", rc);
}

static void
put_on_worker(void *arg)
{
	blob_channel_put(&((struct blob_env_channel *)arg)->ch);
}

struct blob_env_channel *
blob_env_open(struct blob_env *env, unsigned worker, struct blob *blob)
{
	struct blob_env_channel *c = calloc(1, sizeof(*c));
	struct open_args a = {env, blob, c};

	EXPECT(c != NULL);
	c->worker = &env->workers[worker];
	c->unit_bytes = blob_env_info(env).io_unit_bytes;
	blob_env_call(env, env->app, open_on_app, &a);
	blob_env_call(env, c->worker->thread, get_on_worker, &a);
	return c;
}

void
blob_env_close(struct blob_env_channel *c)
{
	struct blob_env *env = c->worker->env;
	struct blob *blob = c->ch.blob;

	blob_env_call(env, c->worker->thread, put_on_worker, c);
	blob_env_call(env, env->app, close_on_app, blob);
	free(c);
}

/* ---- Requests ---- */

/* Behind the blob_io, and its dev's room: whose it is. */
static struct blob_env_io **
owner_of(struct blob_io *io)
{
	size_t bytes = (blob_io_bytes(blob_store_of(((struct blob_io *)io)->ch->blob)) + 15) & ~(size_t)15;

	return (struct blob_env_io **)(void *)((uint8_t *)io + bytes);
}

static void
ended(struct blob_env_io *e, int status)
{
	EXPECT(thread_self() == e->c->worker->thread);
	EXPECT_SAY(!atomic_load(&e->done), "answered twice");
	EXPECT_SAY(status <= 0, "%d", status);
	e->status = status;
	e->order = atomic_fetch_add(&completions, 1);
	atomic_store(&e->done, true);
}

static void
io_done(struct blob_io *io, int status)
{
	ended(*owner_of(io), status);
}

static void
direct_done(struct blob_dev_io *dev, int status)
{
	struct blob_env_io *e = *owner_of(CONTAINER_OF(dev, struct blob_io, dev));

	blob_end(&e->c->ch, e->parity);
	ended(e, status);
}

/* The short way; false: it is not open. */
static bool
submit_direct(struct blob_env_io *e)
{
	struct blob_store *store = blob_store_of(e->c->ch.blob);
	struct blob_dev *dev = blob_store_dev(store);
	uint64_t unit = blob_where(&e->c->ch, e->unit, e->count, e->op == BLOB_WRITE);

	if (unit == BLOB_SLOW) {
		return false;
	}
	e->parity = blob_begin(&e->c->ch);
	e->io->dev.done = direct_done;
	e->io->dev.iov = &e->iov;
	e->io->dev.iovcnt = 1;
	e->io->dev.op = e->op == BLOB_WRITE ? BLOB_DEV_WRITE : BLOB_DEV_READ;
	e->io->dev.lba = unit * (e->c->unit_bytes / dev->block_size);
	e->io->dev.num_blocks = e->count * (e->c->unit_bytes / dev->block_size);
	blob_dev_submit(dev, blob_channel_dev(&e->c->ch), &e->io->dev);
	return true;
}

static void
submit_on_worker(void *arg)
{
	struct blob_env_io *e = arg;
	struct blob_io *io = e->io;

	io->ch = &e->c->ch;
	*owner_of(io) = e;
	io->done = io_done;
	io->iov = e->iov.iov_base != NULL ? &e->iov : NULL;
	io->iovcnt = e->iov.iov_base != NULL;
	io->unit = e->unit;
	io->count = e->count;
	io->op = e->op;
	if (!(e->c->direct && e->op <= BLOB_WRITE && submit_direct(e))) {
		blob_submit(&e->c->ch, io);
	}
	EXPECT_SAY(!atomic_load(&e->done), "completed from inside blob_submit()");
}

void
blob_env_submit(struct blob_env_channel *c, struct blob_env_io *e, enum blob_op op, uint64_t unit, uint64_t count, void *buf)
{
	size_t bytes = blob_io_bytes(blob_store_of(c->ch.blob));

	bytes = (bytes + 15 + sizeof(e) + 63) & ~(size_t)63;
	memset(e, 0, sizeof(*e));
	e->c = c;
	e->op = op;
	e->unit = unit;
	e->count = count;
	e->iov = (struct iovec){buf, buf != NULL ? count * c->unit_bytes : 0};
	e->io = aligned_alloc(64, bytes);
	EXPECT(e->io != NULL);
	memset(e->io, 0xa5, bytes);
	blob_env_call(c->worker->env, c->worker->thread, submit_on_worker, e);
}

int
blob_env_finish(struct blob_env_io *e)
{
	blob_env_wait(e->c->worker->env, &e->done);
	free(e->io);
	e->io = NULL;
	return e->status;
}

int
blob_env_rw(struct blob_env_channel *c, enum blob_op op, uint64_t unit, uint64_t count, void *buf)
{
	struct blob_env_io e;

	blob_env_submit(c, &e, op, unit, count, buf);
	return blob_env_finish(&e);
}

struct flush {
	struct blob_env_channel *c;
	struct blob_dev_io *io;
	int status;
	atomic_bool done;
};

static void
flush_done(struct blob_dev_io *io, int status)
{
	/* Whose it is stands where a flush has no use for it. */
	struct flush *f = (struct flush *)(uintptr_t)io->iov;

	f->status = status;
	atomic_store(&f->done, true);
}

static void
flush_on_worker(void *arg)
{
	struct flush *f = arg;

	f->io->done = flush_done;
	f->io->op = BLOB_DEV_FLUSH;
	f->io->iov = (const struct iovec *)(uintptr_t)f;
	blob_dev_submit(blob_store_dev(blob_store_of(f->c->ch.blob)), blob_channel_dev(&f->c->ch), f->io);
}

int
blob_env_flush(struct blob_env_channel *c)
{
	struct flush f = {.c = c};
	size_t bytes = (blob_store_dev(blob_store_of(c->ch.blob))->io_bytes + 63) & ~(size_t)63;

	f.io = aligned_alloc(64, bytes);
	EXPECT(f.io != NULL);
	memset(f.io, 0, bytes);
	blob_env_call(c->worker->env, c->worker->thread, flush_on_worker, &f);
	blob_env_wait(c->worker->env, &f.done);
	free(f.io);
	return f.status;
}

/* ---- Data ---- */

void
blob_env_pattern(void *buf, uint32_t unit_bytes, uint64_t unit, uint64_t count, uint64_t seed)
{
	uint64_t *to = buf;

	for (uint64_t i = 0; i < count; i++) {
		for (uint32_t k = 0; k < unit_bytes / sizeof(*to); k++) {
			*to++ = seed == 0 ? 0 : powercut_seed(seed, (unit + i) << 16 | k);
		}
	}
}

int
blob_env_fill(struct blob_env_channel *c, uint64_t unit, uint64_t count, uint64_t seed)
{
	void *buf = malloc(count * c->unit_bytes);
	int status;

	EXPECT(buf != NULL);
	blob_env_pattern(buf, c->unit_bytes, unit, count, seed);
	status = blob_env_rw(c, BLOB_WRITE, unit, count, buf);
	free(buf);
	return status;
}

bool
blob_env_holds(struct blob_env_channel *c, uint64_t unit, uint64_t count, uint64_t seed)
{
	size_t bytes = count * c->unit_bytes;
	uint8_t *want = malloc(bytes), *got = malloc(bytes);
	int status;
	bool same;

	EXPECT(want != NULL && got != NULL);
	memset(got, 0xa5, bytes);
	blob_env_pattern(want, c->unit_bytes, unit, count, seed);
	status = blob_env_rw(c, BLOB_READ, unit, count, got);
	EXPECT_SAY(status == 0, "reading: %d", status);
	same = memcmp(want, got, bytes) == 0;
	free(want);
	free(got);
	return same;
}

int
blob_env_fill_blob(struct blob_env *env, struct blob *blob, uint64_t unit, uint64_t count, uint64_t seed)
{
	struct blob_env_channel *c = blob_env_open(env, 0, blob);
	int status = blob_env_fill(c, unit, count, seed);

	blob_env_close(c);
	return status;
}

bool
blob_env_blob_holds(struct blob_env *env, struct blob *blob, uint64_t unit, uint64_t count, uint64_t seed)
{
	struct blob_env_channel *c = blob_env_open(env, 0, blob);
	bool same = blob_env_holds(c, unit, count, seed);

	blob_env_close(c);
	return same;
}
