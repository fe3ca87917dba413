/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. A request is on its channel's list from submit until it is carried out; what it does and its end are one moment under the
 *     lock, its done comes right after, without it.
 *  2. Without a write cache the log holds nothing but the change that the power went with.
 *  3. A flush covers what had been carried out when it was submitted, not when it is carried out.
 *  4. Sectors are as large as the rule of the survivor says; blocks of zeroes where there are only zeroes are not remembered.
 */
#include "testkit/blob_mem.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <string.h>

#include "base/check.h"
#include "base/iov.h"
#include "base/list.h"
#include "event/thread.h"
#include "testkit/expect.h"
#include "testkit/sparse.h"

#define UNMAPPED_BYTE 0xdb
#define COPY_BYTES 65536u

struct blob_mem {
	pthread_mutex_t lock;
	struct blob_mem_options options;
	struct sparse contents;
	struct powercut_log *log;
	struct life *life; /* NULL: none */
	unsigned open; /* lives that are not closed */
	struct blob_mem_stats stats;
	uint64_t cut_in;
	bool cut;
	struct blob_mem_fault fault;
	bool faulty;
	uint64_t faults;
	unsigned hold;
	uint64_t random;
	uint64_t next_order; /* of requests, so that held ones can be told apart */
	bool trace;
};

/* One life of the machine that the disk is in. */
struct life {
	struct blob_dev dev; /* first */
	struct blob_mem *mem;
	bool over;
	struct list channels;
};

struct blob_dev_channel {
	struct blob_mem *mem;
	struct life *life; /* while it is not gone */
	struct thread *thread;
	struct list link;
	struct list requests; /* not carried out yet, oldest first */
	struct msg kick;      /* to itself: there are requests */
	struct timer timer;
	bool kicked;
	bool gone; /* freed when the kick arrives */
};

/* In the room of a blob_dev_io. */
struct request {
	struct list link;
	uint64_t order;
	uint64_t flush_seq;
	bool held;
};

static struct request *
request_of(struct blob_dev_io *io)
{
	return (struct request *)(void *)io->room;
}

static struct blob_dev_io *
io_of(struct request *r)
{
	return CONTAINER_OF((uint8_t(*)[])(void *)r, struct blob_dev_io, room);
}

/* ---- Contents ---- */

static void
settle(struct blob_mem *mem, uint64_t seq)
{
	uint32_t block = mem->options.block_size;
	uint64_t lba, n, from = 0;
	uint8_t *buf = malloc(COPY_BYTES);

	EXPECT(buf != NULL);
	while ((n = powercut_log_run(mem->log, seq, from, UINT64_MAX, COPY_BYTES / block, &lba)) > 0) {
		sparse_read(&mem->contents, lba * block, buf, n * block);
		powercut_log_copy(mem->log, seq, lba, n, buf);
		sparse_write(&mem->contents, lba * block, buf, n * block);
		from = lba + n;
	}
	powercut_log_drop(mem->log, seq, 0, UINT64_MAX);
	free(buf);
}

static void
read_contents(struct blob_mem *mem, uint64_t lba, uint64_t n, const struct iovec *iov, int iovcnt)
{
	uint32_t block = mem->options.block_size;
	uint8_t buf[SPARSE_CHUNK_BYTES];

	for (uint64_t at = 0; at < n * block; at += sizeof(buf)) {
		size_t piece = MIN(n * block - at, sizeof(buf));

		sparse_read(&mem->contents, lba * block + at, buf, piece);
		iov_from_buf(iov, iovcnt, at, buf, piece);
	}
	powercut_log_read(mem->log, lba, n, iov, iovcnt, 0);
}

static void
log_write(struct blob_mem *mem, uint64_t lba, uint64_t n, const struct iovec *iov, int iovcnt)
{
	EXPECT(powercut_log_write(mem->log, lba, n, iov, iovcnt) != 0);
}

static void
write_contents(struct blob_mem *mem, uint64_t lba, uint64_t n, const struct iovec *iov, int iovcnt)
{
	uint32_t block = mem->options.block_size;
	uint64_t offset = 0;

	if (mem->options.write_cache || mem->cut) {
		log_write(mem, lba, n, iov, iovcnt);
		return;
	}
	for (int i = 0; i < iovcnt; i++) {
		sparse_write(&mem->contents, lba * block + offset, iov[i].iov_base, iov[i].iov_len);
		offset += iov[i].iov_len;
	}
}

/* Where something is, or may be: the first block at `from` or later, in a chunk that is there or in the log. */
static uint64_t
next_there(struct blob_mem *mem, uint64_t from, uint64_t end)
{
	uint32_t block = mem->options.block_size;
	uint64_t at = sparse_next(&mem->contents, from * block), lba = end;

	if (at != UINT64_MAX) {
		lba = MIN(end, MAX(from, at / block));
	}
	if (powercut_log_run(mem->log, UINT64_MAX, from, end, 1, &at) > 0) {
		lba = MIN(lba, at);
	}
	return lba;
}

/* Zeroes, or what unmap leaves, where there is something. */
static void
fill_contents(struct blob_mem *mem, uint64_t lba, uint64_t n, int byte)
{
	uint32_t block = mem->options.block_size;
	uint64_t end = lba + n;
	uint8_t fill[SPARSE_CHUNK_BYTES];

	if (byte == 0 && !mem->options.write_cache && !mem->cut) {
		sparse_zero(&mem->contents, lba * block, n * block);
		return;
	}
	memset(fill, byte, sizeof(fill));
	while ((lba = next_there(mem, lba, end)) < end) {
		uint64_t chunk = MAX(SPARSE_CHUNK_BYTES / block, 1u);
		uint64_t piece = MIN(end - lba, chunk - lba % chunk);
		const struct iovec iov = {fill, MIN(piece * block, sizeof(fill))};

		piece = iov.iov_len / block;
		if (byte == 0) {
			log_write(mem, lba, piece, NULL, 0);
		} else {
			write_contents(mem, lba, piece, &iov, 1);
		}
		lba += piece;
	}
}

/* ---- Carrying out ---- */

static const char *const op_names[] = {
	[BLOB_DEV_READ] = "read",
	[BLOB_DEV_WRITE] = "write",
	[BLOB_DEV_FLUSH] = "flush",
	[BLOB_DEV_UNMAP] = "unmap",
	[BLOB_DEV_WRITE_ZEROES] = "zeroes",
};

static void
change(struct blob_mem *mem, struct blob_dev_io *io)
{
	switch (io->op) {
	case BLOB_DEV_WRITE:
		write_contents(mem, io->lba, io->num_blocks, io->iov, io->iovcnt);
		break;
	case BLOB_DEV_WRITE_ZEROES:
		fill_contents(mem, io->lba, io->num_blocks, 0);
		break;
	case BLOB_DEV_UNMAP:
		if (!mem->options.no_unmap) {
			fill_contents(mem, io->lba, io->num_blocks, mem->options.unmap_fills ? UNMAPPED_BYTE : 0);
		}
		break;
	case BLOB_DEV_FLUSH:
		settle(mem, request_of(io)->flush_seq);
		break;
	case BLOB_DEV_READ:
		break;
	}
}

static void
count(struct blob_mem *mem, const struct blob_dev_io *io)
{
	uint64_t bytes = io->num_blocks * mem->options.block_size;
	struct blob_mem_stats *s = &mem->stats;

	s->changes += io->op != BLOB_DEV_READ;
	switch (io->op) {
	case BLOB_DEV_READ:
		s->reads++;
		s->read_bytes += bytes;
		s->largest_read = MAX(s->largest_read, bytes);
		break;
	case BLOB_DEV_WRITE:
		s->writes++;
		s->write_bytes += bytes;
		break;
	case BLOB_DEV_WRITE_ZEROES:
		s->zeroes++;
		break;
	case BLOB_DEV_UNMAP:
		s->unmaps++;
		break;
	case BLOB_DEV_FLUSH:
		s->flushes++;
		break;
	}
}

static bool
fails(struct blob_mem *mem, const struct blob_dev_io *io)
{
	struct blob_mem_fault *f = &mem->fault;
	uint64_t offset = io->lba * mem->options.block_size, bytes = io->num_blocks * mem->options.block_size;

	if (!mem->faulty || (f->ops & BLOB_MEM_OP(io->op)) == 0) {
		return false;
	}
	if (f->bytes > 0 && (io->op == BLOB_DEV_FLUSH || offset >= f->offset + f->bytes || f->offset >= offset + bytes)) {
		return false;
	}
	if (f->after > 0) {
		f->after--;
		return false;
	}
	mem->faults++;
	if (f->count > 0 && --f->count == 0) {
		mem->faulty = false;
	}
	return true;
}

/* What was on its way when the power went may have come as far as the disk's cache. */
static void
cut_now(struct blob_mem *mem)
{
	struct blob_dev_channel *ch;
	struct request *r;

	mem->cut = true;
	if (mem->life == NULL) {
		return;
	}
	LIST_FOREACH (ch, &mem->life->channels, link) {
		LIST_FOREACH (r, &ch->requests, link) {
			mem->random = powercut_seed(mem->random, 1);
			if (!r->held && io_of(r)->op != BLOB_DEV_FLUSH && (mem->random & 1) != 0) {
				change(mem, io_of(r));
			}
		}
	}
}

/* The power goes with this change: it is not answered as done. A flush has no effect. */
static bool
cuts(struct blob_mem *mem, const struct blob_dev_io *io)
{
	return io->op != BLOB_DEV_READ && mem->cut_in > 0 && --mem->cut_in == 0;
}

static int
perform(struct blob_mem *mem, struct life *life, struct blob_dev_io *io)
{
	int status = 0;

	if (life->over || mem->cut) {
		return -EIO;
	}
	if (fails(mem, io)) {
		return mem->fault.status != 0 ? mem->fault.status : -EIO;
	}
	count(mem, io);
	if (cuts(mem, io)) {
		cut_now(mem);
		status = -EIO;
	}
	if (io->op == BLOB_DEV_READ) {
		read_contents(mem, io->lba, io->num_blocks, io->iov, io->iovcnt);
	} else if (status == 0 || io->op != BLOB_DEV_FLUSH) {
		change(mem, io);
	}
	return status;
}

static void
trace(struct blob_mem *mem, const struct blob_dev_io *io, int status)
{
	if (mem->trace) {
		fprintf(stderr, "blob_mem %" PRIu64 ": %s %" PRIu64 "+%" PRIu64 " %d\n", mem->stats.changes,
			op_names[io->op], io->lba, io->num_blocks, status);
	}
}

static struct request *
take_request(struct blob_dev_channel *ch)
{
	struct blob_mem *mem = ch->mem;
	struct request *r, *found = NULL;
	unsigned seen = 0;

	LIST_FOREACH (r, &ch->requests, link) {
		if (r->held) {
			continue;
		}
		if (!mem->options.shuffle) {
			return r;
		}
		mem->random = powercut_seed(mem->random, 1);
		if (mem->random % ++seen == 0) {
			found = r;
		}
	}
	return found;
}

static void kick(struct blob_dev_channel *ch);

/* True: the rest may wait. */
static bool
pause_here(struct blob_mem *mem)
{
	mem->random = powercut_seed(mem->random, 2);
	return mem->options.shuffle && mem->random % 3 == 0;
}

static void
carry_out(struct blob_dev_channel *ch)
{
	struct blob_mem *mem = ch->mem;
	struct request *r;
	uint64_t until;

	pthread_mutex_lock(&mem->lock);
	until = mem->next_order;
	while ((r = take_request(ch)) != NULL && r->order < until) {
		struct blob_dev_io *io = io_of(r);
		int status;

		list_remove(&r->link);
		status = perform(mem, ch->life, io);
		trace(mem, io, status);
		pthread_mutex_unlock(&mem->lock);
		io->done(io, status);
		pthread_mutex_lock(&mem->lock);
		if (pause_here(mem)) {
			break;
		}
	}
	ch->kicked = false;
	if (ch->gone) {
		pthread_mutex_unlock(&mem->lock);
		free(ch);
		return;
	}
	if (take_request(ch) != NULL) {
		kick(ch);
	}
	pthread_mutex_unlock(&mem->lock);
}

static void
timer_fn(struct timer *t)
{
	carry_out(CONTAINER_OF(t, struct blob_dev_channel, timer));
}

static void
kicked(struct msg *msg)
{
	struct blob_dev_channel *ch = CONTAINER_OF(msg, struct blob_dev_channel, kick);

	if (ch->mem->options.delay_us > 0 && !ch->gone) {
		EXPECT(timer_start(&ch->timer, ch->mem->options.delay_us, timer_fn) == 0);
	} else {
		carry_out(ch);
	}
}

/* The lock is held; any thread. */
static void
kick(struct blob_dev_channel *ch)
{
	if (!ch->kicked) {
		ch->kicked = true;
		thread_send(ch->thread, &ch->kick, kicked);
	}
}

/* ---- The device ---- */

static struct blob_dev_channel *
channel_get_op(struct blob_dev *dev, int *ret_rc)
{
	struct life *life = (struct life *)dev;
	struct blob_dev_channel *ch = calloc(1, sizeof(*ch));

	EXPECT(ch != NULL && thread_self() != NULL);
	ch->mem = life->mem;
	ch->life = life;
	ch->thread = thread_self();
	list_init(&ch->requests);
	pthread_mutex_lock(&life->mem->lock);
	list_append(&life->channels, &ch->link);
	pthread_mutex_unlock(&life->mem->lock);
	return ch;
}

static void
channel_put_op(struct blob_dev *dev, struct blob_dev_channel *ch)
{
	struct blob_mem *mem = ch->mem;
	bool later;

	EXPECT(thread_self() == ch->thread);
	pthread_mutex_lock(&mem->lock);
	EXPECT_SAY(list_empty(&ch->requests), "requests are in flight");
	list_remove(&ch->link);
	ch->gone = true;
	later = ch->kicked && ch->timer.node.index == 0;
	pthread_mutex_unlock(&mem->lock);
	if (!later) {
		timer_stop(&ch->timer);
		free(ch);
	}
}

static void
submit_op(struct blob_dev *dev, struct blob_dev_io *io)
{
	struct life *life = (struct life *)dev;
	struct blob_mem *mem = life->mem;
	struct request *r = request_of(io);
	bool data = io->op == BLOB_DEV_READ || io->op == BLOB_DEV_WRITE;

	EXPECT(io->ch->life == life && io->ch->thread == thread_self());
	EXPECT_SAY(io->op == BLOB_DEV_FLUSH || (io->num_blocks > 0 && io->lba < dev->num_blocks &&
						io->num_blocks <= dev->num_blocks - io->lba),
		   "%s of blocks %" PRIu64 "+%" PRIu64, op_names[io->op], io->lba, io->num_blocks);
	EXPECT(!data || iov_length(io->iov, io->iovcnt) == io->num_blocks * dev->block_size);
	EXPECT(!dev->readonly || io->op == BLOB_DEV_READ || io->op == BLOB_DEV_FLUSH);
	pthread_mutex_lock(&mem->lock);
	*r = (struct request){.order = mem->next_order++,
			      .flush_seq = powercut_log_last_seq(mem->log),
			      .held = (mem->hold & BLOB_MEM_OP(io->op)) != 0};
	list_append(&io->ch->requests, &r->link);
	if (!r->held) {
		kick(io->ch);
	}
	pthread_mutex_unlock(&mem->lock);
}

static void
close_op(struct blob_dev *dev)
{
	struct life *life = (struct life *)dev;
	struct blob_mem *mem = life->mem;

	pthread_mutex_lock(&mem->lock);
	EXPECT_SAY(list_empty(&life->channels), "closed with channels");
	mem->open--;
	if (mem->life == life) {
		mem->life = NULL;
	}
	pthread_mutex_unlock(&mem->lock);
	free(life);
}

static const struct blob_dev_ops ops = {
	.channel_get = channel_get_op,
	.channel_put = channel_put_op,
	.submit = submit_op,
	.close = close_op,
};

struct blob_dev *
blob_mem_dev(struct blob_mem *mem)
{
	struct life *life = calloc(1, sizeof(*life));

	EXPECT(life != NULL);
	life->mem = mem;
	list_init(&life->channels);
	life->dev = (struct blob_dev){.ops = &ops,
				      .name = "mem",
				      .block_size = mem->options.block_size,
				      .num_blocks = mem->options.bytes / mem->options.block_size,
				      .buffer_align = mem->options.block_size,
				      .write_cache = mem->options.write_cache,
				      .unmap = !mem->options.no_unmap,
				      .readonly = mem->options.readonly,
				      .io_bytes = sizeof(struct blob_dev_io) + sizeof(struct request)};
	pthread_mutex_lock(&mem->lock);
	if (mem->life != NULL) {
		mem->life->over = true;
	}
	mem->life = life;
	mem->open++;
	pthread_mutex_unlock(&mem->lock);
	return &life->dev;
}

/* ---- Disks ---- */

struct blob_mem *
blob_mem_create(const struct blob_mem_options *options)
{
	struct blob_mem *mem = calloc(1, sizeof(*mem));

	EXPECT(mem != NULL);
	pthread_mutex_init(&mem->lock, NULL);
	mem->options = *options;
	if (mem->options.block_size == 0) {
		mem->options.block_size = 512;
	}
	mem->random = powercut_seed(options->seed, 0);
	mem->log = powercut_log_create(mem->options.block_size, SIZE_MAX);
	EXPECT(mem->log != NULL);
	mem->trace = getenv("BLOB_MEM_TRACE") != NULL;
	return mem;
}

void
blob_mem_free(struct blob_mem *mem)
{
	if (mem == NULL) {
		return;
	}
	EXPECT_SAY(mem->open == 0, "%u devices are open", mem->open);
	sparse_release(&mem->contents);
	powercut_log_free(mem->log);
	pthread_mutex_destroy(&mem->lock);
	free(mem);
}

bool
blob_mem_closed(struct blob_mem *mem)
{
	bool closed;

	pthread_mutex_lock(&mem->lock);
	closed = mem->open == 0;
	pthread_mutex_unlock(&mem->lock);
	return closed;
}

void
blob_mem_resize(struct blob_mem *mem, uint64_t bytes)
{
	pthread_mutex_lock(&mem->lock);
	EXPECT(bytes >= mem->options.bytes);
	mem->options.bytes = bytes;
	if (mem->life != NULL) {
		mem->life->dev.num_blocks = bytes / mem->options.block_size;
	}
	pthread_mutex_unlock(&mem->lock);
}

void
blob_mem_set_shuffle(struct blob_mem *mem, bool shuffle, uint64_t seed)
{
	pthread_mutex_lock(&mem->lock);
	mem->options.shuffle = shuffle;
	mem->random = powercut_seed(seed, 0);
	pthread_mutex_unlock(&mem->lock);
}

struct blob_mem_stats
blob_mem_get_stats(struct blob_mem *mem)
{
	struct blob_mem_stats stats;

	pthread_mutex_lock(&mem->lock);
	stats = mem->stats;
	pthread_mutex_unlock(&mem->lock);
	return stats;
}

uint64_t
blob_mem_memory(struct blob_mem *mem)
{
	uint64_t bytes;

	pthread_mutex_lock(&mem->lock);
	bytes = mem->contents.chunks * SPARSE_CHUNK_BYTES + powercut_log_bytes(mem->log);
	pthread_mutex_unlock(&mem->lock);
	return bytes;
}

/* ---- Cuts ---- */

void
blob_mem_cut_at(struct blob_mem *mem, uint64_t nth)
{
	pthread_mutex_lock(&mem->lock);
	mem->cut_in = nth;
	pthread_mutex_unlock(&mem->lock);
}

void
blob_mem_cut(struct blob_mem *mem)
{
	pthread_mutex_lock(&mem->lock);
	if (!mem->cut) {
		cut_now(mem);
	}
	pthread_mutex_unlock(&mem->lock);
}

bool
blob_mem_was_cut(struct blob_mem *mem)
{
	bool cut;

	pthread_mutex_lock(&mem->lock);
	cut = mem->cut;
	pthread_mutex_unlock(&mem->lock);
	return cut;
}

struct powercut_rule
blob_mem_rule(uint64_t seed, uint64_t n)
{
	static const enum powercut_mode modes[] = {POWERCUT_LOST, POWERCUT_KEPT, POWERCUT_ORDERED, POWERCUT_RANDOM};

	return (struct powercut_rule){
		.seed = powercut_seed(seed, n), .mode = modes[n % ARRAY_SIZE(modes)], .sector_bytes = 4096};
}

static void
survive(struct blob_mem *to, struct blob_mem *from, const struct powercut_rule *rule)
{
	uint32_t block = from->options.block_size;
	uint64_t lba, n, at = 0;
	uint8_t *buf = malloc(COPY_BYTES);

	EXPECT(buf != NULL);
	while ((n = powercut_log_run(from->log, UINT64_MAX, at, UINT64_MAX, COPY_BYTES / block, &lba)) > 0) {
		sparse_read(&from->contents, lba * block, buf, n * block);
		powercut_log_survive(from->log, rule, lba, n, buf);
		sparse_write(&to->contents, lba * block, buf, n * block);
		at = lba + n;
	}
	free(buf);
}

struct blob_mem *
blob_mem_survivor(struct blob_mem *mem, const struct powercut_rule *rule)
{
	static const struct powercut_rule all = {.mode = POWERCUT_KEPT, .sector_bytes = 4096};
	struct blob_mem *to;

	pthread_mutex_lock(&mem->lock);
	to = blob_mem_create(&mem->options);
	to->options.shuffle = false;
	to->options.delay_us = 0;
	sparse_copy(&to->contents, &mem->contents);
	survive(to, mem, rule != NULL ? rule : &all);
	pthread_mutex_unlock(&mem->lock);
	return to;
}

/* ---- Contents ---- */

static void
read_bytes(struct blob_mem *mem, uint64_t offset, uint8_t *buf, size_t bytes)
{
	uint32_t block = mem->options.block_size;
	uint8_t one[block];
	const struct iovec iov = {one, block};

	for (size_t done = 0; done < bytes;) {
		uint64_t at = offset + done;
		size_t n = MIN(bytes - done, block - at % block);

		read_contents(mem, at / block, 1, &iov, 1);
		memcpy(buf + done, one + at % block, n);
		done += n;
	}
}

void
blob_mem_read(struct blob_mem *mem, uint64_t offset, void *buf, size_t bytes)
{
	pthread_mutex_lock(&mem->lock);
	read_bytes(mem, offset, buf, bytes);
	pthread_mutex_unlock(&mem->lock);
}

void
blob_mem_write(struct blob_mem *mem, uint64_t offset, const void *buf, size_t bytes)
{
	pthread_mutex_lock(&mem->lock);
	settle(mem, UINT64_MAX);
	sparse_write(&mem->contents, offset, buf, bytes);
	pthread_mutex_unlock(&mem->lock);
}

uint64_t
blob_mem_differ(struct blob_mem *a, struct blob_mem *b)
{
	uint64_t at = 0;
	uint8_t of_a[SPARSE_CHUNK_BYTES], of_b[SPARSE_CHUNK_BYTES];

	settle(a, UINT64_MAX);
	settle(b, UINT64_MAX);
	for (;;) {
		at = MIN(sparse_next(&a->contents, at), sparse_next(&b->contents, at));
		if (at == UINT64_MAX) {
			return at;
		}
		sparse_read(&a->contents, at, of_a, sizeof(of_a));
		sparse_read(&b->contents, at, of_b, sizeof(of_b));
		for (size_t i = 0; i < sizeof(of_a); i++) {
			if (of_a[i] != of_b[i]) {
				return at + i;
			}
		}
		at += SPARSE_CHUNK_BYTES;
	}
}

/* ---- Errors ---- */

void
blob_mem_set_fault(struct blob_mem *mem, const struct blob_mem_fault *fault)
{
	pthread_mutex_lock(&mem->lock);
	mem->faulty = fault != NULL;
	mem->fault = fault != NULL ? *fault : (struct blob_mem_fault){0};
	mem->faults = 0;
	pthread_mutex_unlock(&mem->lock);
}

uint64_t
blob_mem_faults(struct blob_mem *mem)
{
	uint64_t faults;

	pthread_mutex_lock(&mem->lock);
	faults = mem->faults;
	pthread_mutex_unlock(&mem->lock);
	return faults;
}

/* ---- Holding ---- */

/* The held request with the index-th smallest order, and its channel; NULL: there are fewer. */
static struct request *
held_request(struct blob_mem *mem, unsigned index, struct blob_dev_channel **ret_ch, unsigned *ret_count)
{
	struct request *r, *found = NULL;
	struct blob_dev_channel *ch;
	uint64_t after = 0;

	*ret_count = 0;
	for (unsigned i = 0; i <= index; i++) {
		found = NULL;
		*ret_count = 0;
		LIST_FOREACH (ch, &mem->life->channels, link) {
			LIST_FOREACH (r, &ch->requests, link) {
				*ret_count += r->held;
				if (r->held && r->order >= after && (found == NULL || r->order < found->order)) {
					found = r;
					*ret_ch = ch;
				}
			}
		}
		if (found == NULL) {
			return NULL;
		}
		after = found->order + 1;
	}
	return found;
}

bool
blob_mem_let_go(struct blob_mem *mem, unsigned index)
{
	struct blob_dev_channel *ch = NULL;
	struct request *r;
	unsigned n;

	pthread_mutex_lock(&mem->lock);
	r = mem->life != NULL ? held_request(mem, index, &ch, &n) : NULL;
	if (r != NULL) {
		r->held = false;
		kick(ch);
	}
	pthread_mutex_unlock(&mem->lock);
	return r != NULL;
}

unsigned
blob_mem_held(struct blob_mem *mem)
{
	struct blob_dev_channel *ch;
	unsigned n = 0;

	pthread_mutex_lock(&mem->lock);
	if (mem->life != NULL) {
		(void)held_request(mem, 0, &ch, &n);
	}
	pthread_mutex_unlock(&mem->lock);
	return n;
}

void
blob_mem_hold(struct blob_mem *mem, unsigned what)
{
	pthread_mutex_lock(&mem->lock);
	mem->hold = what;
	pthread_mutex_unlock(&mem->lock);
	while (what == 0 && blob_mem_let_go(mem, 0)) {
	}
}
