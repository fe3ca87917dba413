/* SPDX-License-Identifier: BSD-3-Clause */
/* What a disk of memory holds, and what is left of it after a cut. */
#include "testkit/blob_mem_internal.h"

#include <string.h>

#include "base/check.h"
#include "base/iov.h"
#include "testkit/expect.h"

#define COPY_BYTES 65536u

/* ---- Contents ---- */

void
mem_settle(struct blob_mem *mem, uint64_t seq)
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

void
mem_read(struct blob_mem *mem, uint64_t lba, uint64_t n, const struct iovec *iov, int iovcnt)
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

void
mem_write(struct blob_mem *mem, uint64_t lba, uint64_t n, const struct iovec *iov, int iovcnt)
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

static bool
is_zero(struct blob_mem *mem, uint64_t lba)
{
	uint8_t one[mem->options.block_size];
	const struct iovec iov = {one, sizeof(one)};

	mem_read(mem, lba, 1, &iov, 1);
	return one[0] == 0 && memcmp(one, one + 1, sizeof(one) - 1) == 0;
}

uint64_t
mem_seek(struct blob_mem *mem, uint64_t lba, bool data)
{
	uint64_t end = mem->options.bytes / mem->options.block_size;

	for (; lba < end; lba++) {
		uint64_t there = next_there(mem, lba, end);

		if (!data && there > lba) {
			return lba;
		}
		lba = there;
		if (lba < end && is_zero(mem, lba) != data) {
			return lba;
		}
	}
	return UINT64_MAX;
}

void
mem_fill(struct blob_mem *mem, uint64_t lba, uint64_t n, int byte)
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
			mem_write(mem, lba, piece, &iov, 1);
		}
		lba += piece;
	}
}

/* ---- Cuts ---- */

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

/* ---- Behind the device's back ---- */

static void
read_bytes(struct blob_mem *mem, uint64_t offset, uint8_t *buf, size_t bytes)
{
	uint32_t block = mem->options.block_size;
	uint8_t one[block];
	const struct iovec iov = {one, block};

	for (size_t done = 0; done < bytes;) {
		uint64_t at = offset + done;
		size_t n = MIN(bytes - done, block - at % block);

		mem_read(mem, at / block, 1, &iov, 1);
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
	mem_settle(mem, UINT64_MAX);
	sparse_write(&mem->contents, offset, buf, bytes);
	pthread_mutex_unlock(&mem->lock);
}

uint64_t
blob_mem_differ(struct blob_mem *a, struct blob_mem *b)
{
	uint64_t at = 0;
	uint8_t of_a[SPARSE_CHUNK_BYTES], of_b[SPARSE_CHUNK_BYTES];

	mem_settle(a, UINT64_MAX);
	mem_settle(b, UINT64_MAX);
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
