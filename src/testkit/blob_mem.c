/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. A request is on its channel's list from submit until it is carried out; what it does and its end are one moment under the
 *     lock, its done comes right after, without it.
 *  2. Without a write cache the log holds nothing but the change that the power went with.
 *  3. A flush covers what had been carried out when it was submitted, not when it is carried out.
 *  4. Sectors are as large as the rule of the survivor says; blocks of zeroes where there are only zeroes are not remembered.
 */
#include "testkit/blob_mem_internal.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "base/check.h"
#include "base/iov.h"
#include "base/list.h"
#include "event/thread.h"
#include "testkit/expect.h"

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

/* ---- Carrying out ---- */

static bool
is_seek(const struct blob_dev_io *io)
{
	return io->op == BLOB_DEV_SEEK_DATA || io->op == BLOB_DEV_SEEK_HOLE;
}

/* Flushes, too. */
static bool
is_change(const struct blob_dev_io *io)
{
	return io->op != BLOB_DEV_READ && !is_seek(io);
}

static const char *const op_names[] = {
	[BLOB_DEV_READ] = "read",
	[BLOB_DEV_WRITE] = "write",
	[BLOB_DEV_FLUSH] = "flush",
	[BLOB_DEV_UNMAP] = "unmap",
	[BLOB_DEV_WRITE_ZEROES] = "zeroes",
	[BLOB_DEV_COPY] = "copy",
	[BLOB_DEV_SEEK_DATA] = "seek data",
	[BLOB_DEV_SEEK_HOLE] = "seek hole",
};

static void
copy(struct blob_mem *mem, const struct blob_dev_io *io)
{
	size_t bytes = (size_t)io->num_blocks * mem->options.block_size;
	struct iovec iov = {malloc(bytes), bytes};

	EXPECT(iov.iov_base != NULL && mem->options.copies);
	EXPECT(io->src_lba + io->num_blocks <= io->lba || io->lba + io->num_blocks <= io->src_lba);
	mem_read(mem, io->src_lba, io->num_blocks, &iov, 1);
	mem_write(mem, io->lba, io->num_blocks, &iov, 1);
	free(iov.iov_base);
}

static void
change(struct blob_mem *mem, struct blob_dev_io *io)
{
	switch (io->op) {
	case BLOB_DEV_WRITE:
		mem_write(mem, io->lba, io->num_blocks, io->iov, io->iovcnt);
		break;
	case BLOB_DEV_WRITE_ZEROES:
		mem_fill(mem, io->lba, io->num_blocks, 0);
		break;
	case BLOB_DEV_UNMAP:
		if (!mem->options.no_unmap) {
			mem_fill(mem, io->lba, io->num_blocks, mem->options.unmap_fills ? MEM_UNMAPPED_BYTE : 0);
		}
		break;
	case BLOB_DEV_COPY:
		copy(mem, io);
		break;
	case BLOB_DEV_FLUSH:
		mem_settle(mem, request_of(io)->flush_seq);
		break;
	case BLOB_DEV_READ:
	case BLOB_DEV_SEEK_DATA:
	case BLOB_DEV_SEEK_HOLE:
		break;
	}
}

static void
count(struct blob_mem *mem, const struct blob_dev_io *io)
{
	uint64_t bytes = io->num_blocks * mem->options.block_size;
	struct blob_mem_stats *s = &mem->stats;

	s->changes += is_change(io);
	switch (io->op) {
	case BLOB_DEV_SEEK_DATA:
	case BLOB_DEV_SEEK_HOLE:
		break;
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
	case BLOB_DEV_COPY:
		s->copies++;
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
	return is_change(io) && mem->cut_in > 0 && --mem->cut_in == 0;
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
		mem_read(mem, io->lba, io->num_blocks, io->iov, io->iovcnt);
	} else if (is_seek(io)) {
		io->src_lba = mem_seek(mem, io->lba, io->op == BLOB_DEV_SEEK_DATA);
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

static bool
is_in_range(const struct blob_dev *dev, const struct blob_dev_io *io)
{
	if (io->op == BLOB_DEV_FLUSH) {
		return true;
	}
	return (io->num_blocks > 0) != is_seek(io) && io->lba < dev->num_blocks && io->num_blocks <= dev->num_blocks - io->lba;
}

static void
submit_op(struct blob_dev *dev, struct blob_dev_io *io)
{
	struct life *life = (struct life *)dev;
	struct blob_mem *mem = life->mem;
	struct request *r = request_of(io);
	bool data = io->op == BLOB_DEV_READ || io->op == BLOB_DEV_WRITE;

	EXPECT(io->ch->life == life && io->ch->thread == thread_self());
	EXPECT_SAY(is_in_range(dev, io), "%s of blocks %" PRIu64 "+%" PRIu64, op_names[io->op], io->lba, io->num_blocks);
	EXPECT(!is_seek(io) || dev->seeks);
	EXPECT(!data || iov_length(io->iov, io->iovcnt) == io->num_blocks * dev->block_size);
	EXPECT(!dev->readonly || !is_change(io) || io->op == BLOB_DEV_FLUSH);
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
				      .copies = mem->options.copies,
				      .seeks = mem->options.seeks,
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

uint64_t
blob_mem_bytes(struct blob_mem *mem)
{
	return mem->options.bytes;
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
