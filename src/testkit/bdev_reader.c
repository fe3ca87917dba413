/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/bdev_reader.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define DEPTH 8
#define BLOCKS_MAX 300u

struct run {
	const struct reader *reader;
	struct env env;
	uint64_t num_blocks;
	uint32_t bs;
	uint64_t random;
};

static uint64_t
draw(struct run *r, uint64_t below)
{
	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return (r->random >> 11) % below;
}

static void
expect_read(struct run *r, unsigned worker, uint64_t lba, uint64_t n, size_t offset)
{
	uint8_t *buf = aligned_alloc(4096, (n * r->bs + offset + 4095) & ~(size_t)4095);
	size_t cut = offset == 0 ? 0 : n * r->bs / 3;
	struct iovec iov[2] = {{buf + offset, cut}, {buf + offset + cut, n * r->bs - cut}};

	EXPECT(env_rwv(&r->env.workers[worker], BDEV_READ, 0, lba, n, iov, 2) == 0);
	EXPECT_SAY(memcmp(buf + offset, r->reader->data + lba * r->bs, n * r->bs) == 0,
		   "%s: blocks %llu+%llu", r->reader->name, (unsigned long long)lba,
		   (unsigned long long)n);
	free(buf);
}

static void
reads(struct run *r)
{
	expect_read(r, 0, 0, 1, 0);
	expect_read(r, 1, r->num_blocks - 1, 1, 0);
	expect_read(r, 0, 0, MIN(r->num_blocks, (8u << 20) / r->bs), 0);
	for (unsigned i = 0; i < 300; i++) {
		uint64_t lba = draw(r, r->num_blocks);

		expect_read(r, i % ENV_WORKERS, lba,
			    1 + draw(r, MIN(r->num_blocks - lba, (uint64_t)BLOCKS_MAX)),
			    draw(r, 3) * 7);
	}
}

static void
refusals(struct run *r)
{
	struct env_worker *w = &r->env.workers[0];
	uint8_t *buf = calloc(2, r->bs);

	EXPECT(env_rw(w, BDEV_WRITE, 0, 1, buf) == -EROFS);
	EXPECT(env_rw(w, BDEV_UNMAP, 0, 1, NULL) == -EROFS);
	EXPECT(env_rw(w, BDEV_WRITE_ZEROES, 0, 1, NULL) == -EROFS);
	EXPECT(env_rw(w, BDEV_READ, r->num_blocks, 1, buf) == -EINVAL);
	EXPECT(env_rw(w, BDEV_READ, r->num_blocks - 1, 2, buf) == -EINVAL);
	EXPECT(env_rw(w, BDEV_READ, UINT64_MAX, 2, buf) == -EINVAL);
	EXPECT(env_rw(w, BDEV_READ, 3, 0, NULL) == 0);
	EXPECT(env_rw(w, BDEV_FLUSH, 0, 0, NULL) == 0);
	free(buf);
	env_close(&r->env);
	EXPECT(env_open(&r->env, r->reader->name, true) == -EROFS);
	EXPECT(env_open(&r->env, r->reader->name, false) == 0);
}

/* ---- Block status ---- */

struct status_args {
	struct run *run;
	struct bdev_io *io;
	struct bdev_extent extents[16];
	int status;
	atomic_bool done;
};

static struct status_args status_args;

static void
status_done(struct bdev_io *io, int status)
{
	status_args.status = status;
	atomic_store(&status_args.done, true);
}

static void
ask_on_worker(void *arg)
{
	bdev_submit(((struct run *)arg)->env.workers[0].ch, status_args.io);
}

static unsigned
ask_status(struct run *r, uint64_t lba, uint64_t n, uint32_t max)
{
	atomic_store(&status_args.done, false);
	bdev_io_init(status_args.io, BDEV_BLOCK_STATUS, lba, n, NULL, 0, status_done);
	status_args.io->extents = status_args.extents;
	status_args.io->max_results = max;
	env_call(&r->env, r->env.workers[0].thread, ask_on_worker, r);
	env_wait(&r->env, &status_args.done);
	EXPECT_SAY(status_args.status == 0, "%d", status_args.status);
	EXPECT(status_args.io->result >= 1 && status_args.io->result <= max);
	return (unsigned)status_args.io->result;
}

/* All of it, piece by piece: what is said to be zero is. */
static void
block_status(struct run *r)
{
	uint64_t lba = 0;

	status_args.io = aligned_alloc(64, bdev_io_bytes(r->env.bdev));
	while (lba < r->num_blocks) {
		uint64_t n = 1 + draw(r, r->num_blocks - lba), told = 0;
		unsigned count = ask_status(r, lba, n, 1 + (uint32_t)draw(r, 16));

		for (unsigned i = 0; i < count; i++) {
			const struct bdev_extent *e = &status_args.extents[i];

			EXPECT(e->num_blocks > 0 && e->num_blocks <= n - told);
			EXPECT(e->flags != 0);
			for (uint64_t b = lba + told; b < lba + told + e->num_blocks &&
						      (e->flags & BDEV_EXTENT_ZERO) != 0; b++) {
				EXPECT(r->reader->data[b * r->bs] == 0 &&
				       r->reader->data[b * r->bs + r->bs - 1] == 0);
			}
			told += e->num_blocks;
		}
		lba += told;
	}
	free(status_args.io);
}

/* ---- Under load ---- */

struct load {
	struct run *run;
	struct env_worker *worker;
	struct slot {
		struct load *load;
		struct bdev_io *io;
		uint8_t *buf;
		struct iovec iov;
	} slots[DEPTH];
	uint64_t random;
	unsigned inflight;
	atomic_uint completed;
	atomic_bool stop;
	atomic_bool removed;
	atomic_bool done;
};

static void next(struct slot *s);

static void
load_io_done(struct bdev_io *io, int status)
{
	struct slot *s = CONTAINER_OF(io->iov, struct slot, iov);
	struct load *l = s->load;
	struct run *r = l->run;

	EXPECT_SAY(status == 0 || status == -ENODEV || status == -ECANCELED, "%d", status);
	if (status == 0) {
		EXPECT(memcmp(s->buf, r->reader->data + io->lba * r->bs, io->num_blocks * r->bs) == 0);
	}
	atomic_fetch_add(&l->completed, 1);
	l->inflight--;
	if (status == -ENODEV) {
		atomic_store(&l->removed, true);
	}
	next(s);
}

static void
next(struct slot *s)
{
	struct load *l = s->load;
	struct run *r = l->run;
	uint64_t lba, n;

	if (atomic_load(&l->stop) || atomic_load(&l->removed)) {
		if (l->inflight == 0) {
			atomic_store(&l->done, true);
		}
		return;
	}
	l->random = l->random * UINT64_C(6364136223846793005) + 1;
	lba = (l->random >> 16) % r->num_blocks;
	n = 1 + (l->random >> 48) % MIN(r->num_blocks - lba, UINT64_C(64));
	s->iov = (struct iovec){s->buf, n * r->bs};
	l->inflight++;
	bdev_io_init(s->io, BDEV_READ, lba, n, &s->iov, 1, load_io_done);
	bdev_submit(l->worker->ch, s->io);
}

static void
start_on_worker(void *arg)
{
	struct load *l = arg;

	for (unsigned i = 0; i < DEPTH; i++) {
		next(&l->slots[i]);
	}
}

static void
start_loads(struct run *r, struct load *loads)
{
	memset(loads, 0, ENV_WORKERS * sizeof(*loads));
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		loads[i].run = r;
		loads[i].worker = &r->env.workers[i];
		loads[i].random = i;
		for (unsigned j = 0; j < DEPTH; j++) {
			loads[i].slots[j].load = &loads[i];
			loads[i].slots[j].io = aligned_alloc(64, bdev_io_bytes(r->env.bdev));
			loads[i].slots[j].buf = aligned_alloc(4096, (64 * r->bs + 4095) & ~4095u);
		}
		env_call(&r->env, loads[i].worker->thread, start_on_worker, &loads[i]);
	}
}

static void
finish_loads(struct run *r, struct load *loads)
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		env_wait(&r->env, &loads[i].done);
		for (unsigned j = 0; j < DEPTH; j++) {
			free(loads[i].slots[j].io);
			free(loads[i].slots[j].buf);
		}
	}
}

static void
remove_on_app(void *arg)
{
	const struct reader *reader = arg;

	reader->remove(reader);
}

static void
resets_and_removal_under_load(struct run *r)
{
	struct load loads[ENV_WORKERS];

	start_loads(r, loads);
	for (unsigned i = 0; i < 3; i++) {
		EXPECT(env_rw(&r->env.workers[i % ENV_WORKERS], BDEV_RESET, 0, 0, NULL) == 0);
		for (unsigned j = 0; j < ENV_WORKERS; j++) {
			env_wait_count(&r->env, &loads[j].completed,
				       atomic_load(&loads[j].completed) + 30);
		}
	}
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		atomic_store(&loads[i].stop, true);
	}
	finish_loads(r, loads);
	start_loads(r, loads);
	env_call(&r->env, r->env.app, remove_on_app, (void *)(uintptr_t)r->reader);
	finish_loads(r, loads);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		EXPECT(atomic_load(&loads[i].removed));
	}
}

void
bdev_reader_run(const struct reader *reader, enum reactor_mode mode, bool real_threads)
{
	struct run run = {.reader = reader, .random = 88172645463325252};

	env_start(&run.env, mode, real_threads);
	reader->create(reader, &run.env);
	EXPECT(env_open(&run.env, reader->name, false) == 0);
	run.num_blocks = bdev_num_blocks(run.env.bdev);
	run.bs = bdev_block_size(run.env.bdev);
	reads(&run);
	refusals(&run);
	block_status(&run);
	resets_and_removal_under_load(&run);
	env_close(&run.env);
	reader->finish(reader, &run.env);
	env_stop(&run.env);
}

void
bdev_reader_run_all(const struct reader *reader)
{
	for (int mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		bdev_reader_run(reader, (enum reactor_mode)mode, false);
		bdev_reader_run(reader, (enum reactor_mode)mode, true);
	}
}
