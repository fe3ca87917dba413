/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Partition tables from the fuzzer: the beginning or the end of a disk, with its checksums put right if it says so,
 * since no fuzzer guesses them. Whatever is in it, partitions are on the disk and do not overlap.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "bdevs/gpt/parse.h"

#define USE_4096 0x1
#define BACKUP 0x2
#define SEAL 0x4
#define HEADER 0x8 /* the parts that are the same in all tables are there */

static uint64_t
le(const uint8_t *p, size_t bytes)
{
	uint64_t v = 0;

	memcpy(&v, p, bytes);
	return v;
}

static void
put(uint8_t *p, uint64_t v, size_t bytes)
{
	memcpy(p, &v, bytes);
}

static void
make_header(uint8_t *buf, uint8_t *h, uint64_t lba, uint64_t num_blocks)
{
	static const uint8_t fixed[16] = {'E', 'F', 'I', ' ', 'P', 'A', 'R', 'T', 0, 0, 1, 0, 92, 0, 0, 0};

	memcpy(h, fixed, sizeof(fixed));
	put(h + 24, lba, 8);
	put(h + 84, 128, 4);
	if (lba == 1) {
		buf[446 + 4] = 0xee;
		put(buf + 446 + 8, 1, 4);
		put(buf + 446 + 12, num_blocks - 1, 4);
		buf[510] = 0x55;
		buf[511] = 0xaa;
	}
}

static void
seal(uint8_t *buf, size_t bytes, uint8_t *h, uint64_t first, uint32_t block_size)
{
	uint64_t at = (le(h + 72, 8) - first) * block_size, len = le(h + 80, 4) * 128;
	uint64_t header_bytes = le(h + 12, 4);

	if (at < bytes && len <= bytes - at) {
		put(h + 88, crc_32(0, buf + at, len), 4);
	}
	if (header_bytes <= block_size) {
		put(h + 16, 0, 4);
		put(h + 16, crc_32(0, h, header_bytes), 4);
	}
}

static void
check(const struct gpt_table *t, uint64_t num_blocks)
{
	CHECK(t->count <= GPT_ENTRIES_MAX);
	for (unsigned i = 0; i < t->count; i++) {
		const struct gpt_partition *p = &t->partitions[i];

		CHECK(p->number >= 1 && p->number <= GPT_ENTRIES_MAX);
		CHECK(p->num_blocks > 0 && p->first_block > 1 && p->first_block < num_blocks &&
		      p->num_blocks <= num_blocks - p->first_block);
		CHECK(strnlen(p->name, sizeof(p->name)) < sizeof(p->name));
		for (unsigned j = 0; j < i; j++) {
			const struct gpt_partition *q = &t->partitions[j];

			CHECK(p->first_block >= q->first_block + q->num_blocks ||
			      q->first_block >= p->first_block + p->num_blocks);
		}
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct gpt_table table;
	uint32_t block_size = size > 0 && (data[0] & USE_4096) != 0 ? 4096 : 512;
	uint64_t num_blocks, first = 0, blocks = gpt_bytes(block_size) / block_size;
	bool backup;
	uint8_t *buf, *h;
	size_t bytes;
	const char *why;

	if (size < 4) {
		return 0;
	}
	num_blocks = 2 + le(data + 1, 2);
	blocks = blocks < num_blocks ? blocks : num_blocks;
	bytes = blocks * block_size;
	backup = (data[0] & BACKUP) != 0;
	buf = calloc(1, bytes);
	h = buf + (backup ? bytes - block_size : block_size);
	first = backup ? num_blocks - blocks : 0;
	memcpy(buf, data + 3, MIN(size - 3, bytes));
	if ((data[0] & HEADER) != 0) {
		make_header(buf, h, backup ? num_blocks - 1 : 1, num_blocks);
	}
	if ((data[0] & SEAL) != 0) {
		seal(buf, bytes, h, first, block_size);
	}
	if ((backup ? gpt_parse_backup : gpt_parse_primary)(buf, bytes, block_size, num_blocks, &table,
							    &why) == 0) {
		check(&table, num_blocks);
	}
	free(buf);
	return 0;
}
