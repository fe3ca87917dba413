/* SPDX-License-Identifier: BSD-3-Clause */
#include "blob/harness_hammer.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/powercut.h"
#include "blob/route.h"

struct hammer_slot {
	struct hammer *h;
	uint64_t range;
	uint32_t stamp; /* written; 0: it reads */
	uint8_t parity;
	struct iovec iov[2];
	uint8_t *buf;
	struct blob_io *io;
};

static uint64_t
ranges(const struct hammer *h)
{
	return h->units / HAMMER_UNITS;
}

static size_t
range_bytes(const struct hammer *h)
{
	return (size_t)HAMMER_UNITS * h->c->unit_bytes;
}

static void
fill(const struct hammer *h, uint8_t *buf, uint64_t range, uint32_t stamp)
{
	uint64_t *to = (uint64_t *)(void *)buf;

	for (size_t i = 0; i < range_bytes(h) / 8; i++) {
		to[i] = stamp == 0 ? 0 : powercut_seed(stamp, range << 16 | i);
	}
}

static bool
is(const struct hammer *h, const uint8_t *buf, uint64_t range, uint32_t stamp)
{
	uint8_t want[HAMMER_UNITS * 4096];

	EXPECT(range_bytes(h) <= sizeof(want));
	fill(h, want, range, stamp);
	return memcmp(buf, want, range_bytes(h)) == 0;
}

static void next(struct hammer_slot *s);

static void
ended(struct hammer_slot *s, int status)
{
	struct hammer *h = s->h;
	uint64_t r = s->range;

	h->busy[r] = false;
	if (status != 0) {
		EXPECT_SAY(h->errors_ok, "range %lu: %d", (unsigned long)r, status);
		atomic_fetch_add(&h->failed, 1);
		if (s->stamp != 0) {
			h->torn[r] = true;
		}
	} else if (s->stamp != 0) {
		h->model[r] = s->stamp;
		h->torn[r] = false;
	} else {
		EXPECT_SAY(h->torn[r] || is(h, s->buf, r, h->model[r]), "range %lu, stamp %u", (unsigned long)r, h->model[r]);
	}
	h->inflight--;
	next(s);
}

static void
io_done(struct blob_io *io, int status)
{
	struct iovec *iov = (struct iovec *)(uintptr_t)io->iov;

	ended(CONTAINER_OF(iov, struct hammer_slot, iov[0]), status);
}

static void
direct_done(struct blob_dev_io *dev, int status)
{
	struct iovec *iov = (struct iovec *)(uintptr_t)dev->iov;
	struct hammer_slot *s = CONTAINER_OF(iov, struct hammer_slot, iov[0]);

	blob_end(&s->h->c->ch, s->parity);
	ended(s, status);
}

static bool
submit_direct(struct hammer_slot *s, uint64_t unit, bool write)
{
	struct blob_channel *ch = &s->h->c->ch;
	struct blob_dev *dev = blob_store_dev(blob_store_of(ch->blob));
	uint32_t blocks = s->h->c->unit_bytes / dev->block_size;
	uint64_t at = blob_where(ch, unit, HAMMER_UNITS, write);

	if (at == BLOB_SLOW) {
		return false;
	}
	s->parity = blob_begin(ch);
	s->io->dev.done = direct_done;
	s->io->dev.iov = s->iov;
	s->io->dev.iovcnt = 2;
	s->io->dev.op = write ? BLOB_DEV_WRITE : BLOB_DEV_READ;
	s->io->dev.lba = at * blocks;
	s->io->dev.num_blocks = (uint64_t)HAMMER_UNITS * blocks;
	blob_dev_submit(dev, blob_channel_dev(ch), &s->io->dev);
	return true;
}

static void
next(struct hammer_slot *s)
{
	struct hammer *h = s->h;
	uint64_t random = powercut_seed(h->seed, h->begun), r;
	bool write;

	if (h->begun == h->count) {
		if (h->inflight == 0) {
			atomic_store(&h->done, true);
		}
		return;
	}
	h->begun++;
	write = random % 4 != 0;
	r = (random >> 8) % (ranges(h) / h->shares) * h->shares + h->share;
	while (h->busy[r]) {
		r = r + h->shares < ranges(h) ? r + h->shares : h->share;
	}
	h->busy[r] = true;
	h->inflight++;
	s->range = r;
	s->stamp = write ? (uint32_t)(h->begun << 4 | h->share | 8) : 0;
	if (write) {
		fill(h, s->buf, r, s->stamp);
	} else {
		memset(s->buf, 0xa5, range_bytes(h));
	}
	if (h->direct && submit_direct(s, r * HAMMER_UNITS, write)) {
		return;
	}
	s->io->done = io_done;
	s->io->iov = s->iov;
	s->io->iovcnt = 2;
	s->io->unit = r * HAMMER_UNITS;
	s->io->count = HAMMER_UNITS;
	s->io->op = write ? BLOB_WRITE : BLOB_READ;
	blob_submit(&h->c->ch, s->io);
}

static void
start_on_worker(void *arg)
{
	struct hammer *h = arg;

	for (unsigned i = 0; i < HAMMER_DEPTH; i++) {
		next(&h->slots[i]);
	}
}

void
hammer_start(struct hammer *h)
{
	size_t bytes = (blob_io_bytes(blob_store_of(h->c->ch.blob)) + 63) & ~(size_t)63;

	if (h->model == NULL) {
		h->model = calloc(ranges(h), sizeof(*h->model));
		h->torn = calloc(ranges(h), sizeof(*h->torn));
		h->busy = calloc(ranges(h), sizeof(*h->busy));
		h->slots = calloc(HAMMER_DEPTH, sizeof(*h->slots));
		EXPECT(h->model != NULL && h->torn != NULL && h->busy != NULL && h->slots != NULL);
	}
	h->begun = 0;
	atomic_store(&h->done, false);
	for (unsigned i = 0; i < HAMMER_DEPTH; i++) {
		struct hammer_slot *s = &h->slots[i];

		s->h = h;
		s->buf = aligned_alloc(4096, (range_bytes(h) + 4095) & ~(size_t)4095);
		s->io = aligned_alloc(64, bytes);
		EXPECT(s->buf != NULL && s->io != NULL);
		memset(s->io, 0xa5, bytes);
		s->iov[0] = (struct iovec){s->buf, 64};
		s->iov[1] = (struct iovec){s->buf + 64, range_bytes(h) - 64};
	}
	blob_env_call(h->c->worker->env, h->c->worker->thread, start_on_worker, h);
}

void
hammer_finish(struct hammer *h)
{
	blob_env_wait(h->c->worker->env, &h->done);
	for (unsigned i = 0; i < HAMMER_DEPTH; i++) {
		free(h->slots[i].buf);
		free(h->slots[i].io);
	}
}

void
hammer_verify(struct hammer *h)
{
	uint8_t *buf = malloc(range_bytes(h));

	EXPECT(buf != NULL);
	for (uint64_t r = h->share; r < ranges(h); r += h->shares) {
		int status = blob_env_rw(h->c, BLOB_READ, r * HAMMER_UNITS, HAMMER_UNITS, buf);

		EXPECT_SAY(status == 0, "range %lu: %d", (unsigned long)r, status);
		EXPECT_SAY(h->torn[r] || is(h, buf, r, h->model[r]), "range %lu, stamp %u", (unsigned long)r, h->model[r]);
	}
	free(buf);
}

void
hammer_free(struct hammer *h)
{
	free(h->model);
	free(h->torn);
	free(h->busy);
	free(h->slots);
}
