/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/bdev_load.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "bdev/module.h"

#define IOV_MAX_OF_SLOT 40
#define GUARD 0xee /* fills buffers; bytes between the entries must still have it afterwards */
#define GUARD_TAIL 64 /* bytes of it behind the last entry */

struct load_slot {
	struct load *load;
	struct bdev_io *io;
	uint8_t *raw;
	size_t raw_bytes;
	struct iovec iov[IOV_MAX_OF_SLOT];
	unsigned iovcnt;
	enum bdev_op op;
	uint64_t lba; /* in the region */
	uint64_t num_blocks;
	bool idle;
};

static uint64_t
draw(struct load *l)
{
	l->seed ^= l->seed << 13;
	l->seed ^= l->seed >> 7;
	l->seed ^= l->seed << 17;
	return l->seed;
}

static uint64_t
below(struct load *l, uint64_t n)
{
	return draw(l) % n;
}

/* ---- What to do ---- */

static enum bdev_op
choose_op(struct load *l)
{
	uint64_t n = below(l, 100);
	enum bdev_op op = n < 42   ? BDEV_READ
			  : n < 86 ? BDEV_WRITE
			  : n < 91 ? BDEV_WRITE_ZEROES
			  : n < 95 ? BDEV_UNMAP
				   : BDEV_FLUSH;

	return bdev_supports(l->bdev, op) ? op : BDEV_READ;
}

static bool
choose_range(struct load *l, struct load_slot *s)
{
	for (int i = 0; i < 8; i++) {
		s->num_blocks = 1 + below(l, below(l, 4) == 0 ? LOAD_BLOCKS_MAX : 8);
		s->num_blocks = MIN(s->num_blocks, l->num_blocks);
		s->lba = below(l, l->num_blocks - s->num_blocks + 1);
		if (memchr(l->busy + s->lba, 1, s->num_blocks) == NULL) {
			return true;
		}
	}
	return false;
}

/*
 * Buffers of three kinds: one whole and aligned; several, aligned to 512; any pieces at any
 * address. Between the pieces are gaps.
 */
static void
choose_buffers(struct load *l, struct load_slot *s)
{
	size_t left = s->num_blocks * l->block_size, pos = 0, unit;
	uint64_t kind = below(l, 3);

	unit = kind == 2 ? 1 : 512;
	pos = kind == 2 ? below(l, 64) : 0;
	s->iovcnt = 0;
	while (left > 0) {
		size_t len = left;

		if (kind != 0 && s->iovcnt < IOV_MAX_OF_SLOT - 1) {
			len = MIN(left, unit * (1 + below(l, (left / unit) / 2 + 1)));
		}
		s->iov[s->iovcnt++] = (struct iovec){.iov_base = s->raw + pos, .iov_len = len};
		pos += len + (kind == 0 ? 0 : unit * below(l, 3));
		left -= len;
	}
	memset(s->raw, GUARD, MIN(pos + GUARD_TAIL, s->raw_bytes));
}

static void
fill_data(struct load *l, struct load_slot *s)
{
	uint8_t *model = l->model + s->lba * l->block_size;
	size_t bytes = s->num_blocks * l->block_size;

	for (size_t i = 0; i < bytes; i += 8) {
		uint64_t word = draw(l);

		memcpy(model + i, &word, 8);
	}
	for (unsigned i = 0; i < s->iovcnt; i++) {
		memcpy(s->iov[i].iov_base, model, s->iov[i].iov_len);
		model += s->iov[i].iov_len;
	}
}

/* ---- What came of it ---- */

static bool
is_guard(const uint8_t *p, const uint8_t *end)
{
	while (p < end && *p == GUARD) {
		p++;
	}
	return p == end;
}

/* The byte of the request that differs is in [at, at + n). */
static void
say_difference(const struct load *l, const struct load_slot *s, size_t at, const uint8_t *got, size_t n)
{
	const uint8_t *want = l->model + s->lba * l->block_size + at;
	size_t i = 0;

	while (i < n - 1 && got[i] == want[i]) {
		i++;
	}
	EXPECT_SAY(false, "%s: block %llu of request %llu+%llu, byte %zu: %#x instead of %#x",
		   bdev_name(l->bdev),
		   (unsigned long long)(l->first_block + s->lba + (at + i) / l->block_size),
		   (unsigned long long)(l->first_block + s->lba), (unsigned long long)s->num_blocks,
		   (at + i) % l->block_size, got[i], want[i]);
}

/* Of a read. In pieces, not byte by byte: under a sanitizer most of a test's time would go there. */
static void
compare(struct load *l, const struct load_slot *s)
{
	const uint8_t *model = l->model + s->lba * l->block_size;
	const uint8_t *gap = s->raw;
	size_t at = 0;

	for (unsigned i = 0; i < s->iovcnt; i++) {
		const uint8_t *p = s->iov[i].iov_base, *end = p + s->iov[i].iov_len;

		EXPECT_SAY(is_guard(gap, p), "a read wrote beside its buffers");
		for (gap = end; p < end;) {
			size_t n = MIN((size_t)(end - p), l->block_size - at % l->block_size);

			if (l->known[s->lba + at / l->block_size] != LOAD_UNKNOWN &&
			    memcmp(p, model + at, n) != 0) {
				say_difference(l, s, at, p, n);
			}
			p += n;
			at += n;
		}
	}
	EXPECT_SAY(is_guard(gap, MIN(gap + GUARD_TAIL, s->raw + s->raw_bytes)),
		   "a read wrote behind its buffers");
}

static void
succeeded(struct load *l, const struct load_slot *s)
{
	l->sent.op[s->op].ops++;
	if (s->op == BDEV_FLUSH) {
		return;
	}
	l->sent.op[s->op].bytes += s->num_blocks * l->block_size;
	if (s->op == BDEV_READ && !l->no_data) {
		compare(l, s);
	} else if (s->op == BDEV_WRITE_ZEROES) {
		memset(l->model + s->lba * l->block_size, 0, s->num_blocks * l->block_size);
		memset(l->known + s->lba, LOAD_KNOWN, s->num_blocks);
	} else if (s->op == BDEV_WRITE) {
		memset(l->known + s->lba, LOAD_KNOWN, s->num_blocks);
	} else if (s->op == BDEV_UNMAP) {
		memset(l->known + s->lba, LOAD_UNKNOWN, s->num_blocks);
	}
}

static void
failed(struct load *l, const struct load_slot *s, int status)
{
	EXPECT_SAY((status == -ECANCELED && l->cancel_ok) ||
			   (status == -ENODEV && l->removal_ok) ||
			   (status == -EIO && l->io_error_ok),
		   "%s: %s ended with %d", bdev_name(l->bdev), bdev_op_name(s->op), status);
	l->removed = l->removed || status == -ENODEV;
	l->sent.errors++;
	if (s->op != BDEV_FLUSH && s->op != BDEV_READ) {
		memset(l->known + s->lba, LOAD_UNKNOWN, s->num_blocks);
	}
}

/* ---- Going on ---- */

static void io_done(struct bdev_io *io, int status);

static bool
may_start(const struct load *l)
{
	return l->started < l->count && !l->removed && !atomic_load(&l->stop);
}

static void
submit_slot(struct load *l, struct load_slot *s)
{
	s->op = choose_op(l);
	s->idle = s->op != BDEV_FLUSH && !choose_range(l, s);
	if (s->idle) {
		return;
	}
	l->started++;
	l->inflight++;
	s->iovcnt = 0;
	if (s->op == BDEV_FLUSH) {
		s->lba = draw(l);
		s->num_blocks = draw(l);
	} else {
		memset(l->busy + s->lba, 1, s->num_blocks);
	}
	if (s->op == BDEV_READ || s->op == BDEV_WRITE) {
		choose_buffers(l, s);
	}
	if (s->op == BDEV_WRITE) {
		fill_data(l, s);
	}
	bdev_io_init(s->io, s->op, s->op == BDEV_FLUSH ? s->lba : l->first_block + s->lba,
		     s->num_blocks, s->iov, s->iovcnt, io_done);
	if (s->op == BDEV_WRITE && below(l, 8) == 0) {
		s->io->flags = BDEV_IO_FUA;
	} else if (s->op == BDEV_WRITE_ZEROES && below(l, 2) == 0) {
		s->io->flags = BDEV_IO_MAY_UNMAP;
	}
	bdev_submit(l->worker->ch, s->io);
}

static void
io_done(struct bdev_io *io, int status)
{
	struct load_slot *s;
	struct load *l;

	memcpy(&s, (uint8_t *)io + bdev_io_bytes(io->ch->bdev), sizeof(s));
	l = s->load;
	EXPECT(thread_self() == l->worker->thread && !s->idle);
	if (status == 0) {
		succeeded(l, s);
	} else {
		failed(l, s, status);
	}
	if (s->op != BDEV_FLUSH) {
		memset(l->busy + s->lba, 0, s->num_blocks);
	}
	s->idle = true;
	l->inflight--;
	atomic_fetch_add(&l->completed, 1);
	for (unsigned i = 0; i < l->depth && may_start(l); i++) {
		if (l->slots[i].idle) {
			submit_slot(l, &l->slots[i]);
		}
	}
	if (l->inflight == 0) {
		atomic_store(&l->done, true);
	}
}

static void
start_on_worker(void *arg)
{
	struct load *l = arg;

	for (unsigned i = 0; i < l->depth && may_start(l); i++) {
		submit_slot(l, &l->slots[i]);
	}
}

void
load_start(struct load *l)
{
	size_t io_bytes;

	l->bdev = l->worker->env->bdev;
	l->block_size = bdev_block_size(l->bdev);
	io_bytes = bdev_io_bytes(l->bdev);
	l->model = calloc(l->num_blocks, l->block_size);
	l->known = calloc(l->num_blocks, 1);
	l->busy = calloc(l->num_blocks, 1);
	l->slots = calloc(l->depth, sizeof(*l->slots));
	EXPECT(l->model != NULL && l->known != NULL && l->busy != NULL && l->slots != NULL);
	l->seed = l->seed * 2 + UINT64_C(88172645463325253);
	for (unsigned i = 0; i < l->depth; i++) {
		struct load_slot *s = &l->slots[i];

		s->load = l;
		s->raw_bytes = (LOAD_BLOCKS_MAX * (size_t)l->block_size +
				IOV_MAX_OF_SLOT * 2 * 512 + 64 + 4095) &
			       ~(size_t)4095;
		s->raw = aligned_alloc(4096, s->raw_bytes);
		s->io = aligned_alloc(64, io_bytes + 64);
		EXPECT(s->raw != NULL && s->io != NULL);
		memcpy((uint8_t *)s->io + io_bytes, &s, sizeof(s));
		s->idle = true;
	}
	env_call(l->worker->env, l->worker->thread, start_on_worker, l);
}

void
load_finish(struct load *l)
{
	env_wait(l->worker->env, &l->done);
	for (unsigned i = 0; i < l->depth; i++) {
		free(l->slots[i].raw);
		free(l->slots[i].io);
	}
	free(l->slots);
	free(l->model);
	free(l->known);
	free(l->busy);
}
