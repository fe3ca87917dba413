/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/blob_mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "testkit/blob_env.h"

#define BLOCK 512u
#define MAX_REQUESTS 64

static struct blob_env env;
static struct blob_mem *mem;
static struct blob_dev *dev;

struct request {
	struct thread *thread;
	struct blob_dev_channel *ch;
	struct blob_dev_io *io;
	struct iovec iov;
	int status;
	unsigned order;
	atomic_bool done;
};

static struct blob_dev_channel *channels[BLOB_ENV_WORKERS];
static struct request requests[MAX_REQUESTS];
static unsigned num_requests;
static atomic_uint completed;

static void
get_channel(void *arg)
{
	struct blob_dev_channel **ch = arg;

	*ch = dev->ops->channel_get(dev, NULL);
	EXPECT(*ch != NULL);
}

static void
put_channel(void *arg)
{
	dev->ops->channel_put(dev, arg);
}

static void
open_dev(void)
{
	dev = blob_mem_dev(mem);
	for (unsigned i = 0; i < BLOB_ENV_WORKERS; i++) {
		blob_env_call(&env, env.workers[i].thread, get_channel, &channels[i]);
	}
}

static void
close_dev(void)
{
	for (unsigned i = 0; i < BLOB_ENV_WORKERS; i++) {
		blob_env_call(&env, env.workers[i].thread, put_channel, channels[i]);
	}
	dev->ops->close(dev);
}

static void
begin(const struct blob_mem_options *options, bool real_threads)
{
	blob_env_start(&env, REACTOR_INTERRUPT, real_threads);
	mem = blob_mem_create(options);
	open_dev();
	num_requests = 0;
	atomic_store(&completed, 0);
}

static void
end(void)
{
	for (unsigned i = 0; i < num_requests; i++) {
		free(requests[i].io);
	}
	close_dev();
	blob_mem_free(mem);
	blob_env_stop(&env);
}

static void
request_done(struct blob_dev_io *io, int status)
{
	/* Without a look at num_requests: the next one may be on its way to another thread. */
	struct request *r = CONTAINER_OF(io->iov, struct request, iov);

	EXPECT(r->io == io && !atomic_load(&r->done) && thread_self() == r->thread);
	r->status = status;
	r->order = atomic_fetch_add(&completed, 1);
	atomic_store(&r->done, true);
}

static void
submit_on_thread(void *arg)
{
	struct request *r = arg;

	blob_dev_submit(dev, r->ch, r->io);
	EXPECT(!atomic_load(&r->done));
}

static struct request *
submit(unsigned worker, enum blob_dev_op op, uint64_t lba, uint64_t n, void *buf)
{
	struct request *r = &requests[num_requests++];

	EXPECT(num_requests < MAX_REQUESTS);
	memset(r, 0, sizeof(*r));
	r->thread = env.workers[worker].thread;
	r->ch = channels[worker];
	r->iov = (struct iovec){buf, n * dev->block_size};
	r->io = aligned_alloc(64, (dev->io_bytes + 63) & ~(size_t)63);
	EXPECT(r->io != NULL);
	r->io->done = request_done;
	r->io->op = op;
	r->io->lba = lba;
	r->io->num_blocks = n;
	r->io->iov = &r->iov;
	r->io->iovcnt = buf != NULL;
	blob_env_call(&env, r->thread, submit_on_thread, r);
	return r;
}

static int
finish(struct request *r)
{
	blob_env_wait(&env, &r->done);
	return r->status;
}

static int
rw(unsigned worker, enum blob_dev_op op, uint64_t lba, uint64_t n, void *buf)
{
	int status;

	status = finish(submit(worker, op, lba, n, buf));
	free(requests[--num_requests].io);
	return status;
}

static int
write_byte(uint64_t lba, uint64_t n, int byte)
{
	uint8_t buf[16 * BLOCK];

	memset(buf, byte, n * BLOCK);
	return rw(0, BLOB_DEV_WRITE, lba, n, buf);
}

static int
flush(void)
{
	return rw(0, BLOB_DEV_FLUSH, 0, 0, NULL);
}

/* The first byte of a block of a disk. */
static int
byte_of(struct blob_mem *m, uint64_t lba)
{
	uint8_t byte;

	blob_mem_read(m, lba * BLOCK, &byte, 1);
	return byte;
}

static int
byte_left(const struct powercut_rule *rule, uint64_t lba)
{
	struct blob_mem *left = blob_mem_survivor(mem, rule);
	int byte = byte_of(left, lba);

	blob_mem_free(left);
	return byte;
}

static const struct powercut_rule lost = {.mode = POWERCUT_LOST, .sector_bytes = 4096};
static const struct powercut_rule kept = {.mode = POWERCUT_KEPT, .sector_bytes = 4096};

static void
huge_and_sparse(void **state)
{
	uint64_t last = (UINT64_C(16) << 40) / BLOCK - 1;
	uint8_t buf[BLOCK];

	for (unsigned cache = 0; cache < 2; cache++) {
		begin(&(struct blob_mem_options){.bytes = UINT64_C(16) << 40, .write_cache = cache}, false);
		EXPECT(write_byte(0, 1, 1) == 0 && write_byte(last, 1, 2) == 0);
		EXPECT(rw(1, BLOB_DEV_READ, last, 1, buf) == 0 && buf[0] == 2 && buf[BLOCK - 1] == 2);
		EXPECT(rw(1, BLOB_DEV_READ, last - 1, 1, buf) == 0 && buf[0] == 0);
		EXPECT(rw(1, BLOB_DEV_WRITE_ZEROES, 1, last, NULL) == 0 && flush() == 0);
		EXPECT(byte_of(mem, 0) == 1 && byte_of(mem, last) == 0);
		EXPECT(blob_mem_memory(mem) < 100000);
		end();
	}
}

static void
cache_is_lost(void **state)
{
	begin(&(struct blob_mem_options){.bytes = 1 << 20, .write_cache = true}, false);
	EXPECT(write_byte(8, 4, 0x11) == 0 && flush() == 0);
	EXPECT(write_byte(9, 1, 0x22) == 0 && rw(1, BLOB_DEV_UNMAP, 10, 1, NULL) == 0);
	EXPECT(byte_of(mem, 9) == 0x22 && byte_of(mem, 10) == 0);
	EXPECT(byte_left(&lost, 8) == 0x11 && byte_left(&lost, 9) == 0x11 && byte_left(&lost, 10) == 0x11);
	EXPECT(byte_left(&kept, 9) == 0x22 && byte_left(NULL, 9) == 0x22 && byte_left(&kept, 10) == 0);
	EXPECT(flush() == 0 && byte_left(&lost, 9) == 0x22 && byte_left(&lost, 10) == 0);
	end();
}

/* What was on its way when a flush was submitted is not covered by it. */
static void
flush_covers_what_was_done(void **state)
{
	struct request *w, *f;
	uint8_t buf[BLOCK];

	begin(&(struct blob_mem_options){.bytes = 1 << 20, .write_cache = true}, false);
	memset(buf, 0x11, sizeof(buf));
	blob_mem_hold(mem, BLOB_MEM_OP(BLOB_DEV_WRITE) | BLOB_MEM_OP(BLOB_DEV_FLUSH));
	w = submit(0, BLOB_DEV_WRITE, 5, 1, buf);
	f = submit(1, BLOB_DEV_FLUSH, 0, 0, NULL);
	EXPECT(blob_mem_held(mem) == 2);
	EXPECT(blob_mem_let_go(mem, 0) && finish(w) == 0);
	EXPECT(blob_mem_let_go(mem, 0) && finish(f) == 0 && !blob_mem_let_go(mem, 0));
	EXPECT(byte_left(&lost, 5) == 0 && byte_left(&kept, 5) == 0x11);
	blob_mem_hold(mem, 0);
	EXPECT(flush() == 0 && byte_left(&lost, 5) == 0x11);
	end();
}

static void
cut_at_nth_change(void **state)
{
	for (unsigned cache = 0; cache < 2; cache++) {
		for (uint64_t k = 1; k <= 5; k++) {
			uint64_t n = 0;
			unsigned there;

			begin(&(struct blob_mem_options){.bytes = 1 << 20, .write_cache = cache}, false);
			blob_mem_cut_at(mem, k);
			while (write_byte(8 * n, 1, 0x55) == 0) {
				n++;
			}
			EXPECT(n == k - 1 && blob_mem_was_cut(mem));
			EXPECT(write_byte(0, 1, 1) == -EIO && flush() == -EIO);
			EXPECT(byte_left(&lost, 0) == (cache || k == 1 ? 0 : 0x55));
			there = 0;
			for (uint64_t i = 0; i <= n; i++) {
				there += byte_left(&kept, 8 * i) == 0x55;
			}
			EXPECT(there == k && byte_left(&lost, 8 * n) == 0);
			end();
		}
	}
}

/* A sector of the rule is there whole or not. */
static void
sectors_are_whole(void **state)
{
	uint8_t buf[16 * BLOCK];
	unsigned torn = 0;

	begin(&(struct blob_mem_options){.bytes = 1 << 20, .write_cache = true}, false);
	memset(buf, 0x77, sizeof(buf));
	EXPECT(rw(0, BLOB_DEV_WRITE, 8, 16, buf) == 0);
	for (unsigned seed = 0; seed < 64; seed++) {
		const struct powercut_rule rule = blob_mem_rule(7, seed);
		struct blob_mem *left = blob_mem_survivor(mem, &rule);

		for (unsigned i = 0; i < 16; i++) {
			EXPECT(byte_of(left, 8 + i) == byte_of(left, 8 + i / 8 * 8));
		}
		torn += byte_of(left, 8) != byte_of(left, 16);
		blob_mem_free(left);
	}
	EXPECT(torn > 2);
	end();
}

static void
a_killed_process_writes_no_more(void **state)
{
	struct blob_dev *old = NULL;
	struct blob_dev_channel *old_channels[BLOB_ENV_WORKERS];

	begin(&(struct blob_mem_options){.bytes = 1 << 20, .write_cache = true}, false);
	EXPECT(write_byte(1, 1, 0x11) == 0);
	old = dev;
	memcpy(old_channels, channels, sizeof(channels));
	open_dev();
	EXPECT(byte_of(mem, 1) == 0x11 && write_byte(2, 1, 0x22) == 0);
	close_dev();
	dev = old;
	memcpy(channels, old_channels, sizeof(channels));
	EXPECT(write_byte(1, 1, 0x33) == -EIO && byte_of(mem, 1) == 0x11 && byte_of(mem, 2) == 0x22);
	end();
}

static void
faults(void **state)
{
	uint8_t buf[BLOCK];

	begin(&(struct blob_mem_options){.bytes = 1 << 20}, false);
	blob_mem_set_fault(mem, &(struct blob_mem_fault){.ops = BLOB_MEM_OP(BLOB_DEV_WRITE), .after = 2, .count = 1});
	EXPECT(write_byte(0, 1, 1) == 0 && write_byte(1, 1, 1) == 0 && rw(0, BLOB_DEV_READ, 0, 1, buf) == 0);
	EXPECT(write_byte(2, 1, 1) == -EIO && write_byte(2, 1, 1) == 0 && blob_mem_faults(mem) == 1);
	blob_mem_set_fault(mem, &(struct blob_mem_fault){.ops = BLOB_MEM_OP(BLOB_DEV_READ),
							 .offset = 10 * BLOCK,
							 .bytes = BLOCK,
							 .status = -ENOLINK});
	EXPECT(rw(0, BLOB_DEV_READ, 9, 1, buf) == 0 && rw(0, BLOB_DEV_READ, 11, 1, buf) == 0);
	EXPECT(rw(0, BLOB_DEV_READ, 10, 1, buf) == -ENOLINK && rw(0, BLOB_DEV_READ, 10, 1, buf) == -ENOLINK);
	blob_mem_set_fault(mem, NULL);
	EXPECT(rw(0, BLOB_DEV_READ, 10, 1, buf) == 0);
	end();
}

static void
any_order(bool real_threads, unsigned delay_us)
{
	uint8_t buf[40][BLOCK];

	begin(&(struct blob_mem_options){.bytes = 1 << 20, .shuffle = true, .seed = 3, .delay_us = delay_us}, real_threads);
	for (unsigned i = 0; i < 40; i++) {
		memset(buf[i], (int)i + 1, BLOCK);
		submit(i % 2, BLOB_DEV_WRITE, i, 1, buf[i]);
	}
	for (unsigned i = 0; i < 40; i++) {
		EXPECT(finish(&requests[i]) == 0 && byte_of(mem, i) == (int)i + 1);
	}
	EXPECT(blob_mem_get_stats(mem).writes == 40 && blob_mem_get_stats(mem).write_bytes == 40 * BLOCK);
	end();
}

static void
shuffled(void **state)
{
	struct request *r[8];
	uint8_t buf[BLOCK] = {0};
	unsigned overtaken = 0;

	any_order(false, 0);
	any_order(true, 0);
	any_order(false, 100);
	/* Let go together: they overtake each other. */
	begin(&(struct blob_mem_options){.bytes = 1 << 20, .shuffle = true, .seed = 3}, false);
	blob_mem_hold(mem, BLOB_MEM_MODIFIES);
	for (unsigned i = 0; i < 8; i++) {
		r[i] = submit(0, BLOB_DEV_WRITE, i, 1, buf);
	}
	blob_mem_hold(mem, 0);
	for (unsigned i = 0; i < 8; i++) {
		EXPECT(finish(r[i]) == 0);
		overtaken += i > 0 && r[i]->order < r[i - 1]->order;
	}
	EXPECT(overtaken > 0);
	end();
}

static void
growing_and_differing(void **state)
{
	struct blob_mem *copy;

	begin(&(struct blob_mem_options){.bytes = 1 << 20, .unmap_fills = true}, false);
	EXPECT(write_byte(3, 1, 9) == 0);
	copy = blob_mem_survivor(mem, NULL);
	EXPECT(blob_mem_differ(mem, copy) == UINT64_MAX);
	EXPECT(rw(0, BLOB_DEV_UNMAP, 3, 1, NULL) == 0 && byte_of(mem, 3) == 0xdb);
	EXPECT(blob_mem_differ(mem, copy) == 3 * BLOCK);
	blob_mem_free(copy);
	blob_mem_resize(mem, 2 << 20);
	EXPECT(dev->num_blocks == (2 << 20) / BLOCK && write_byte(dev->num_blocks - 1, 1, 7) == 0);
	EXPECT(!blob_mem_closed(mem));
	end();
}

static uint64_t
seek(enum blob_dev_op op, uint64_t lba)
{
	struct request *r = submit(0, op, lba, 0, NULL);

	EXPECT(finish(r) == 0);
	return r->io->src_lba;
}

/* Where there are only zeroes, whoever wrote them, on the disk or in its cache; they are no changes. */
static void
holes_are_found(void **state)
{
	uint8_t zeroes[BLOCK] = {0};

	for (unsigned cached = 0; cached < 2; cached++) {
		begin(&(struct blob_mem_options){.bytes = 1 << 20, .write_cache = cached != 0, .seeks = true}, false);
		EXPECT(seek(BLOB_DEV_SEEK_DATA, 0) == UINT64_MAX && seek(BLOB_DEV_SEEK_HOLE, 5) == 5);
		EXPECT(write_byte(40, 3, 9) == 0 && write_byte(2047, 1, 9) == 0);
		EXPECT(rw(0, BLOB_DEV_WRITE, 41, 1, zeroes) == 0);
		blob_mem_cut_at(mem, 1);
		EXPECT(seek(BLOB_DEV_SEEK_DATA, 0) == 40 && seek(BLOB_DEV_SEEK_DATA, 40) == 40);
		EXPECT(seek(BLOB_DEV_SEEK_DATA, 41) == 42 && seek(BLOB_DEV_SEEK_DATA, 43) == 2047);
		EXPECT(seek(BLOB_DEV_SEEK_HOLE, 0) == 0 && seek(BLOB_DEV_SEEK_HOLE, 40) == 41);
		EXPECT(seek(BLOB_DEV_SEEK_HOLE, 42) == 43 && seek(BLOB_DEV_SEEK_HOLE, 2047) == UINT64_MAX);
		EXPECT(!blob_mem_was_cut(mem));
		end();
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(huge_and_sparse),
		cmocka_unit_test(cache_is_lost),
		cmocka_unit_test(flush_covers_what_was_done),
		cmocka_unit_test(cut_at_nth_change),
		cmocka_unit_test(sectors_are_whole),
		cmocka_unit_test(a_killed_process_writes_no_more),
		cmocka_unit_test(faults),
		cmocka_unit_test(shuffled),
		cmocka_unit_test(growing_and_differing),
		cmocka_unit_test(holes_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
