/* SPDX-License-Identifier: BSD-3-Clause */
/* Makes partition tables, for the tests of this folder. */
#ifndef BDEVS_GPT_HARNESS_H
#define BDEVS_GPT_HARNESS_H

#include <stdbool.h>
#include <string.h>

#include "base/bytes.h"
#include "base/crc.h"
#include "bdevs/gpt/parse.h"

#define MADE_ENTRIES 128u

/* On disk, and as people write them. */
static const uint8_t type_new_bytes[16] = {0x4e, 0x99, 0x27, 0x65, 0x5a, 0x2c, 0xec, 0x4e,
					   0x96, 0x13, 0x8f, 0x59, 0x44, 0x07, 0x4e, 0x8b};
static const uint8_t type_old_bytes[16] = {0xbd, 0x22, 0x52, 0x7c, 0x5d, 0x8f, 0x87, 0x40,
					   0x9c, 0x00, 0xbf, 0x98, 0x43, 0xc7, 0xb5, 0x8c};
static const uint8_t type_linux_bytes[16] = {0xaf, 0x3d, 0xc6, 0x0f, 0x83, 0x84, 0x72, 0x47,
					     0x8e, 0x79, 0x3d, 0x69, 0xd8, 0x47, 0x7d, 0xe4};

/* A disk that is held in memory. */
struct made_disk {
	uint8_t *data;
	uint32_t block_size;
	uint64_t num_blocks;
};

static inline uint64_t
made_entry_blocks(const struct made_disk *d)
{
	return (MADE_ENTRIES * 128 + d->block_size - 1) / d->block_size;
}

static inline uint8_t *
made_header(const struct made_disk *d, bool backup)
{
	return d->data + (backup ? d->num_blocks - 1 : 1) * d->block_size;
}

static inline uint8_t *
made_entry(const struct made_disk *d, bool backup, unsigned number)
{
	uint64_t lba = backup ? d->num_blocks - 1 - made_entry_blocks(d) : 2;

	return d->data + lba * d->block_size + (number - 1) * 128;
}

/* Sets the checksums of what the headers and entries say now. */
static inline void
made_seal(const struct made_disk *d)
{
	for (int backup = 0; backup < 2; backup++) {
		uint8_t *h = made_header(d, backup != 0);

		put32(h + 88, crc_32(0, made_entry(d, backup != 0, 1), MADE_ENTRIES * 128));
		put32(h + 16, 0);
		put32(h + 16, crc_32(0, h, 92));
	}
}

/* In both tables. */
static inline void
made_add(const struct made_disk *d, unsigned number, const uint8_t type[16], uint64_t first,
	 uint64_t last)
{
	for (int backup = 0; backup < 2; backup++) {
		uint8_t *e = made_entry(d, backup != 0, number);

		memcpy(e, type, 16);
		memset(e + 16, 0xa0 + (int)number, 16);
		put64(e + 32, first);
		put64(e + 40, last);
		e[56] = 'p';
		e[58] = (uint8_t)('0' + number);
	}
	made_seal(d);
}

/* Empty tables on a disk that is all zeroes. */
static inline void
made_init(const struct made_disk *d)
{
	uint8_t *mbr = d->data + 446;

	mbr[4] = 0xee;
	put32(mbr + 8, 1);
	put32(mbr + 12, (uint32_t)(d->num_blocks - 1));
	d->data[510] = 0x55;
	d->data[511] = 0xaa;
	for (int backup = 0; backup < 2; backup++) {
		uint8_t *h = made_header(d, backup != 0);

		memcpy(h, "EFI PART", 8);
		put32(h + 8, 0x10000);
		put32(h + 12, 92);
		put64(h + 24, backup != 0 ? d->num_blocks - 1 : 1);
		put64(h + 32, backup != 0 ? 1 : d->num_blocks - 1);
		put64(h + 40, 2 + made_entry_blocks(d));
		put64(h + 48, d->num_blocks - 2 - made_entry_blocks(d));
		memset(h + 56, 0x77, 16);
		put64(h + 72, backup != 0 ? d->num_blocks - 1 - made_entry_blocks(d) : 2);
		put32(h + 80, MADE_ENTRIES);
		put32(h + 84, 128);
	}
	made_seal(d);
}

#endif
