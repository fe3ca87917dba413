/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The superblock of an array, version 1.0 of SPDK's format: bytes <-> struct, pure.
 *
 * It stands at the beginning of every base: 256 bytes of header and 64 of each base, little-endian,
 * with a CRC-32C of all of it (initial value 0, no final inversion; the field itself counts as 0).
 * Data begin at data_offset, 1 MiB or more behind.
 *
 * What berth adds stands in reserved bytes, which SPDK keeps as they are and does not look at:
 *  - header, 232: "BRTHSYNC", then the sequence number (u64) of the superblock that said so: copies
 *    and parity agree. SPDK makes a new sequence number whenever it starts an array, so that what
 *    it wrote meanwhile is not taken for agreed upon.
 *  - base, 63: 1 when it was taken out on request, and is not to come back by itself.
 * And a copy of the superblock stands RAID_SB_COPY_BYTES behind it, before the data: it is written first,
 * so that one of the two is whole whenever power is cut.
 */
#ifndef BDEVS_RAID_SB_H
#define BDEVS_RAID_SB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uuid/uuid.h>

#include "base/err.h"

#define RAID_SB_NAME_BYTES 64
#define RAID_SB_BASES_MAX 255
#define RAID_SB_HEADER_BYTES 256
#define RAID_SB_BASE_BYTES 64
#define RAID_SB_MAX_BYTES (RAID_SB_HEADER_BYTES + RAID_SB_BASES_MAX * RAID_SB_BASE_BYTES)
#define RAID_SB_COPY_BYTES (UINT32_C(1) << 19)
#define RAID_SB_DATA_OFFSET_MIN_BYTES (UINT32_C(1) << 20)

/* Values of the level field. */
enum raid_level { RAID_LEVEL_0 = 0, RAID_LEVEL_1 = 1, RAID_LEVEL_5F = 0x5f, RAID_LEVEL_CONCAT = 99 };

enum raid_sb_state {
	RAID_SB_MISSING = 0, /* not in use: taken out, or being rebuilt */
	RAID_SB_CONFIGURED = 1,
	RAID_SB_FAILED = 2,
	RAID_SB_SPARE = 3,
};

struct raid_sb_base {
	uuid_t uuid;
	uint64_t data_offset; /* blocks */
	uint64_t data_size;   /* blocks */
	enum raid_sb_state state;
	uint32_t flags;
	uint8_t slot;
	bool stays_out; /* taken out on request */
};

struct raid_sb {
	uint16_t minor; /* newer than ours is accepted */
	uint32_t flags;
	uuid_t uuid;
	char name[RAID_SB_NAME_BYTES];
	uint64_t raid_size; /* blocks */
	uint32_t block_size;
	enum raid_level level;
	uint32_t strip_size; /* blocks; raid1: 0 */
	uint32_t state;
	uint64_t seq;
	bool synced;       /* as of this sequence number */
	unsigned num_bases; /* slots */
	unsigned count;     /* entries of bases; a slot has one at most */
	struct raid_sb_base bases[RAID_SB_BASES_MAX];
};

/* How a decoding ends besides 0. */
#define RAID_SB_NONE (-ENOENT)    /* no signature: nobody's superblock */
#define RAID_SB_TORN (-EBADMSG)   /* signature, but the checksum does not fit */
#define RAID_SB_BAD (-EINVAL)     /* what it says cannot be */
#define RAID_SB_LONGER (-EAGAIN)  /* raid_sb_bytes() says how many bytes are needed */

/* Of the superblock whose first RAID_SB_HEADER_BYTES are at buf; 0: no signature, or a length that
 * cannot be. */
size_t raid_sb_bytes(const void *buf);

/* 0 and *ret_sb, or one of the above. err says which field is wrong. */
int raid_sb_decode(const void *buf, size_t bytes, struct raid_sb *ret_sb, struct err *err);

/* Of a superblock that is torn: what it says of its array and its sequence number. Not to be relied
 * upon; false: not even that. */
bool raid_sb_hint(const void *buf, size_t bytes, uuid_t ret_uuid, uint64_t *ret_seq);

/* Writes sb to buf, of RAID_SB_MAX_BYTES; the bytes written. */
size_t raid_sb_encode(const struct raid_sb *sb, void *buf);

#endif
