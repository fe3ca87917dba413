/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. What raid_sb_decode() accepts describes an array that can be: every later use of its fields
 *     (indexes, products, sums) is in range.
 *  2. raid_sb_decode() undoes raid_sb_encode().
 * Pure; any thread.
 */
#include "bdevs/raid/sb.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "base/bytes.h"
#include "base/crc.h"

#define SIGNATURE "SPDKRAID"
#define MAJOR 1
#define SYNC_MARK "BRTHSYNC"

/* Where fields are: header. */
enum {
	AT_SIGNATURE = 0,
	AT_MAJOR = 8,
	AT_MINOR = 10,
	AT_LENGTH = 12,
	AT_CRC = 16,
	AT_FLAGS = 20,
	AT_UUID = 24,
	AT_NAME = 40,
	AT_RAID_SIZE = 104,
	AT_BLOCK_SIZE = 112,
	AT_LEVEL = 116,
	AT_STRIP_SIZE = 120,
	AT_STATE = 124,
	AT_SEQ = 128,
	AT_NUM_BASES = 136,
	AT_SYNC_MARK = 232,
	AT_SYNC_SEQ = 240,
	AT_COUNT = 255,
};

/* Base. */
enum {
	BASE_UUID = 0,
	BASE_DATA_OFFSET = 16,
	BASE_DATA_SIZE = 24,
	BASE_STATE = 32,
	BASE_FLAGS = 36,
	BASE_SLOT = 40,
	BASE_STAYS_OUT = 63,
};

/* crc_32c() inverts before and after; the format does neither. */
static uint32_t
checksum(const uint8_t *p, size_t bytes)
{
	static const uint8_t none[4];
	uint32_t crc = ~crc_32c(UINT32_MAX, p, AT_CRC);

	crc = ~crc_32c(~crc, none, sizeof(none));
	return ~crc_32c(~crc, p + AT_FLAGS, bytes - AT_FLAGS);
}

/* ---- Reading ---- */

size_t
raid_sb_bytes(const void *buf)
{
	const uint8_t *p = buf;
	uint32_t length = get32(p + AT_LENGTH);

	if (memcmp(p + AT_SIGNATURE, SIGNATURE, strlen(SIGNATURE)) != 0 ||
	    length < RAID_SB_HEADER_BYTES || length > RAID_SB_MAX_BYTES) {
		return 0;
	}
	return length;
}

static bool
power_of_two(uint64_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

static int
check_level(const struct raid_sb *sb, struct err *err)
{
	static const struct {
		enum raid_level level;
		unsigned least;
	} levels[] = {
		{RAID_LEVEL_0, 1}, {RAID_LEVEL_1, 2}, {RAID_LEVEL_5F, 3}, {RAID_LEVEL_CONCAT, 1}};
	size_t i = 0;

	while (i < ARRAY_SIZE(levels) && levels[i].level != sb->level) {
		i++;
	}
	if (i == ARRAY_SIZE(levels)) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: level %u is not known",
			       (unsigned)sb->level);
	}
	if (sb->num_bases < levels[i].least) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: level %u on %u bases",
			       (unsigned)sb->level, sb->num_bases);
	}
	if (sb->level == RAID_LEVEL_1 ? sb->strip_size != 0
				      : !power_of_two(sb->strip_size) ||
						(uint64_t)sb->strip_size * sb->block_size > INT32_MAX) {
		return err_set(err, RAID_SB_BAD,
			       "RAID superblock: a strip of %u blocks is not possible",
			       sb->strip_size);
	}
	return 0;
}

static int
check_header(const struct raid_sb *sb, struct err *err)
{
	if (uuid_is_null(sb->uuid)) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: the UUID is null");
	}
	if (sb->name[0] == '\0' || memchr(sb->name, '\0', sizeof(sb->name)) == NULL) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: the name is empty or has no end");
	}
	if (sb->block_size < 512 || sb->block_size > 65536 || !power_of_two(sb->block_size)) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: block size %u is not possible",
			       sb->block_size);
	}
	if (sb->raid_size == 0 || sb->raid_size > INT64_MAX / sb->block_size) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: %llu blocks are not possible",
			       (unsigned long long)sb->raid_size);
	}
	return check_level(sb, err);
}

static int
check_base(const struct raid_sb *sb, const struct raid_sb_base *b, unsigned i, struct err *err)
{
	uint64_t most = INT64_MAX / sb->block_size;

	if (b->slot >= sb->num_bases || b->state > RAID_SB_SPARE || uuid_is_null(b->uuid)) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: base %u: slot %u, state %u", i,
			       b->slot, (unsigned)b->state);
	}
	if (b->data_offset < RAID_SB_DATA_OFFSET_MIN_BYTES / sb->block_size ||
	    b->data_offset > most || b->data_size == 0 || b->data_size > most - b->data_offset) {
		return err_set(err, RAID_SB_BAD,
			       "RAID superblock: base %u: data cannot be in blocks %llu+%llu", i,
			       (unsigned long long)b->data_offset, (unsigned long long)b->data_size);
	}
	for (unsigned j = 0; j < i; j++) {
		if (sb->bases[j].slot == b->slot || uuid_compare(sb->bases[j].uuid, b->uuid) == 0) {
			return err_set(err, RAID_SB_BAD,
				       "RAID superblock: bases %u and %u have one slot, or one UUID",
				       j, i);
		}
	}
	return 0;
}

/* The array's size is what its bases give. */
static int
check_size(const struct raid_sb *sb, struct err *err)
{
	uint64_t least = UINT64_MAX, sum = 0, units = sb->num_bases, blocks;

	for (unsigned i = 0; i < sb->count; i++) {
		least = MIN(least, sb->bases[i].data_size);
		if (__builtin_add_overflow(sum, sb->bases[i].data_size, &sum)) {
			sum = UINT64_MAX;
		}
	}
	units = sb->level == RAID_LEVEL_1 ? 1 : sb->level == RAID_LEVEL_5F ? units - 1 : units;
	if (sb->level == RAID_LEVEL_CONCAT) {
		blocks = sum;
	} else if (__builtin_mul_overflow(least, units, &blocks)) {
		blocks = UINT64_MAX;
	}
	if (sb->count != sb->num_bases || sb->raid_size > blocks) {
		return err_set(err, RAID_SB_BAD,
			       "RAID superblock: %u bases of %u cannot hold %llu blocks", sb->count,
			       sb->num_bases, (unsigned long long)sb->raid_size);
	}
	return 0;
}

static void
decode_base(const uint8_t *p, struct raid_sb_base *b)
{
	memcpy(b->uuid, p + BASE_UUID, sizeof(b->uuid));
	b->data_offset = get64(p + BASE_DATA_OFFSET);
	b->data_size = get64(p + BASE_DATA_SIZE);
	b->state = get32(p + BASE_STATE);
	b->flags = get32(p + BASE_FLAGS);
	b->slot = p[BASE_SLOT];
	b->stays_out = p[BASE_STAYS_OUT] == 1;
}

static void
decode_header(const uint8_t *p, struct raid_sb *sb)
{
	sb->minor = get16(p + AT_MINOR);
	sb->flags = get32(p + AT_FLAGS);
	memcpy(sb->uuid, p + AT_UUID, sizeof(sb->uuid));
	memcpy(sb->name, p + AT_NAME, sizeof(sb->name));
	sb->raid_size = get64(p + AT_RAID_SIZE);
	sb->block_size = get32(p + AT_BLOCK_SIZE);
	sb->level = get32(p + AT_LEVEL);
	sb->strip_size = get32(p + AT_STRIP_SIZE);
	sb->state = get32(p + AT_STATE);
	sb->seq = get64(p + AT_SEQ);
	sb->num_bases = p[AT_NUM_BASES];
	sb->count = p[AT_COUNT];
	sb->synced = memcmp(p + AT_SYNC_MARK, SYNC_MARK, strlen(SYNC_MARK)) == 0 &&
		     get64(p + AT_SYNC_SEQ) == sb->seq;
}

int
raid_sb_decode(const void *buf, size_t bytes, struct raid_sb *sb, struct err *err)
{
	const uint8_t *p = buf;
	size_t length;
	int rc;

	if (bytes < RAID_SB_HEADER_BYTES ||
	    memcmp(p + AT_SIGNATURE, SIGNATURE, strlen(SIGNATURE)) != 0) {
		return RAID_SB_NONE;
	}
	length = raid_sb_bytes(buf);
	if (length == 0) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: a length of %u is not possible",
			       get32(p + AT_LENGTH));
	}
	if (length > bytes) {
		return RAID_SB_LONGER;
	}
	if (checksum(p, length) != get32(p + AT_CRC)) {
		return err_set(err, RAID_SB_TORN, "RAID superblock: the checksum does not fit");
	}
	if (get16(p + AT_MAJOR) != MAJOR) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: version %u is not known",
			       get16(p + AT_MAJOR));
	}
	memset(sb, 0, sizeof(*sb));
	decode_header(p, sb);
	if (length < RAID_SB_HEADER_BYTES + (size_t)sb->count * RAID_SB_BASE_BYTES) {
		return err_set(err, RAID_SB_BAD, "RAID superblock: %u bases in %zu bytes",
			       sb->count, length);
	}
	rc = check_header(sb, err);
	for (unsigned i = 0; rc == 0 && i < sb->count; i++) {
		decode_base(p + RAID_SB_HEADER_BYTES + (size_t)i * RAID_SB_BASE_BYTES,
			    &sb->bases[i]);
		rc = check_base(sb, &sb->bases[i], i, err);
	}
	return rc == 0 ? check_size(sb, err) : rc;
}

bool
raid_sb_hint(const void *buf, size_t bytes, uuid_t ret_uuid, uint64_t *ret_seq)
{
	const uint8_t *p = buf;

	if (bytes < RAID_SB_HEADER_BYTES || raid_sb_bytes(buf) == 0) {
		return false;
	}
	memcpy(ret_uuid, p + AT_UUID, sizeof(uuid_t));
	*ret_seq = get64(p + AT_SEQ);
	return true;
}

/* ---- Writing ---- */

static void
encode_base(const struct raid_sb_base *b, uint8_t *p)
{
	memcpy(p + BASE_UUID, b->uuid, sizeof(b->uuid));
	put64(p + BASE_DATA_OFFSET, b->data_offset);
	put64(p + BASE_DATA_SIZE, b->data_size);
	put32(p + BASE_STATE, (uint32_t)b->state);
	put32(p + BASE_FLAGS, b->flags);
	p[BASE_SLOT] = b->slot;
	p[BASE_STAYS_OUT] = b->stays_out;
}

size_t
raid_sb_encode(const struct raid_sb *sb, void *buf)
{
	size_t length = RAID_SB_HEADER_BYTES + (size_t)sb->count * RAID_SB_BASE_BYTES;
	uint8_t *p = buf;

	memset(p, 0, length);
	memcpy(p + AT_SIGNATURE, SIGNATURE, strlen(SIGNATURE));
	put16(p + AT_MAJOR, MAJOR);
	put16(p + AT_MINOR, sb->minor);
	put32(p + AT_LENGTH, (uint32_t)length);
	put32(p + AT_FLAGS, sb->flags);
	memcpy(p + AT_UUID, sb->uuid, sizeof(sb->uuid));
	memcpy(p + AT_NAME, sb->name, sizeof(sb->name));
	put64(p + AT_RAID_SIZE, sb->raid_size);
	put32(p + AT_BLOCK_SIZE, sb->block_size);
	put32(p + AT_LEVEL, (uint32_t)sb->level);
	put32(p + AT_STRIP_SIZE, sb->strip_size);
	put32(p + AT_STATE, sb->state);
	put64(p + AT_SEQ, sb->seq);
	p[AT_NUM_BASES] = (uint8_t)sb->num_bases;
	p[AT_COUNT] = (uint8_t)sb->count;
	if (sb->synced) {
		memcpy(p + AT_SYNC_MARK, SYNC_MARK, strlen(SYNC_MARK));
		put64(p + AT_SYNC_SEQ, sb->seq);
	}
	for (unsigned i = 0; i < sb->count; i++) {
		encode_base(&sb->bases[i],
			    p + RAID_SB_HEADER_BYTES + (size_t)i * RAID_SB_BASE_BYTES);
	}
	put32(p + AT_CRC, checksum(p, length));
	return length;
}
