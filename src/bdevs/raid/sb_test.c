/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/raid/sb.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/crc.h"

/* What SPDK 26.05 wrote for a raid1 of two bases of 16 MiB with blocks of 4 KiB; all else is zero. */
static const struct {
	size_t at;
	size_t len;
	uint8_t bytes[20];
} spdk[] = {
	{0,
	 20,
	 {0x53, 0x50, 0x44, 0x4b, 0x52, 0x41, 0x49, 0x44, 0x01, 0x00, 0x00, 0x00,
	  0x80, 0x01, 0x00, 0x00, 0x21, 0x42, 0x8c, 0x1b}},
	{24,
	 18,
	 {0xae, 0x4a, 0xa4, 0xf9, 0xaf, 0x2c, 0x4f, 0xca, 0x99, 0x65, 0x7c, 0xae,
	  0x15, 0x07, 0x6f, 0xf1, 0x52, 0x31}},
	{105, 1, {0x0f}},
	{113, 4, {0x10, 0x00, 0x00, 0x01}},
	{128, 1, {0x03}},
	{136, 1, {0x02}},
	{255, 1, {0x02}},
	{262, 3, {0x40, 0x00, 0x80}},
	{273, 1, {0x01}},
	{281, 1, {0x0f}},
	{288, 1, {0x01}},
	{326, 3, {0x40, 0x00, 0x80}},
	{335, 3, {0x01, 0x00, 0x01}},
	{345, 1, {0x0f}},
	{352, 1, {0x01}},
	{360, 1, {0x01}},
};
#define SPDK_BYTES 384u

static void
make_spdk(uint8_t *buf)
{
	memset(buf, 0, RAID_SB_MAX_BYTES);
	for (size_t i = 0; i < ARRAY_SIZE(spdk); i++) {
		memcpy(buf + spdk[i].at, spdk[i].bytes, spdk[i].len);
	}
}

static void
as_spdk_writes_it(void **state)
{
	static uint8_t buf[RAID_SB_MAX_BYTES], again[RAID_SB_MAX_BYTES];
	static struct raid_sb sb;
	char uuid[UUID_STR_LEN];

	make_spdk(buf);
	assert_int_equal(raid_sb_bytes(buf), SPDK_BYTES);
	assert_int_equal(raid_sb_decode(buf, SPDK_BYTES, &sb, NULL), 0);
	uuid_unparse_lower(sb.uuid, uuid);
	assert_string_equal(uuid, "ae4aa4f9-af2c-4fca-9965-7cae15076ff1");
	assert_string_equal(sb.name, "R1");
	assert_int_equal(sb.raid_size, 3840);
	assert_int_equal(sb.block_size, 4096);
	assert_int_equal(sb.level, RAID_LEVEL_1);
	assert_int_equal(sb.strip_size, 0);
	assert_int_equal(sb.seq, 3);
	assert_int_equal(sb.num_bases, 2);
	assert_int_equal(sb.count, 2);
	assert_false(sb.synced);
	for (unsigned i = 0; i < 2; i++) {
		assert_int_equal(sb.bases[i].data_offset, 256);
		assert_int_equal(sb.bases[i].data_size, 3840);
		assert_int_equal(sb.bases[i].state, RAID_SB_CONFIGURED);
		assert_int_equal(sb.bases[i].slot, i);
		assert_int_equal(sb.bases[i].uuid[15], i);
		assert_false(sb.bases[i].stays_out);
	}
	assert_int_equal(raid_sb_encode(&sb, again), SPDK_BYTES);
	assert_memory_equal(buf, again, SPDK_BYTES);
}

/* A bit that is another one is noticed, wherever it is. */
static void
every_bit_counts(void **state)
{
	static uint8_t buf[RAID_SB_MAX_BYTES];
	static struct raid_sb sb;

	for (unsigned bit = 0; bit < SPDK_BYTES * 8; bit++) {
		int rc;

		make_spdk(buf);
		buf[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		rc = raid_sb_decode(buf, RAID_SB_MAX_BYTES, &sb, NULL);
		assert_true(rc == RAID_SB_TORN || rc == RAID_SB_NONE || rc == RAID_SB_BAD);
	}
	make_spdk(buf);
	for (size_t bytes = 0; bytes < SPDK_BYTES; bytes++) {
		int rc = raid_sb_decode(buf, bytes, &sb, NULL);

		assert_int_equal(rc, bytes < RAID_SB_HEADER_BYTES ? RAID_SB_NONE : RAID_SB_LONGER);
	}
}

/* ---- What fits its checksum, and cannot be ---- */

static void
fill(struct raid_sb *sb, enum raid_level level, unsigned n)
{
	memset(sb, 0, sizeof(*sb));
	uuid_generate_random(sb->uuid);
	snprintf(sb->name, sizeof(sb->name), "array");
	sb->block_size = 512;
	sb->level = level;
	sb->strip_size = level == RAID_LEVEL_1 ? 0 : 128;
	sb->seq = 7;
	sb->num_bases = sb->count = n;
	for (unsigned i = 0; i < n; i++) {
		sb->bases[i] = (struct raid_sb_base){.data_offset = 2048,
						     .data_size = 12800,
						     .state = RAID_SB_CONFIGURED,
						     .slot = (uint8_t)(n - 1 - i)};
		uuid_generate_random(sb->bases[i].uuid);
	}
	sb->raid_size = level == RAID_LEVEL_1    ? 12800
			: level == RAID_LEVEL_5F ? 12800 * (n - 1)
						 : 12800 * n;
}

static int
round_trip(const struct raid_sb *sb, struct err *err)
{
	static uint8_t buf[RAID_SB_MAX_BYTES];
	static struct raid_sb got;
	size_t bytes = raid_sb_encode(sb, buf);
	int rc = raid_sb_decode(buf, bytes, &got, err);

	if (rc == 0) {
		assert_memory_equal(&got, sb, sizeof(got));
	}
	return rc;
}

static void
round_trips(void **state)
{
	static const enum raid_level levels[] = {RAID_LEVEL_0, RAID_LEVEL_1, RAID_LEVEL_5F,
						 RAID_LEVEL_CONCAT};
	static struct raid_sb sb;

	for (size_t l = 0; l < ARRAY_SIZE(levels); l++) {
		for (unsigned n = 3; n <= RAID_SB_BASES_MAX; n += 84) {
			fill(&sb, levels[l], n);
			assert_int_equal(round_trip(&sb, NULL), 0);
			sb.synced = true;
			sb.bases[1].stays_out = true;
			sb.bases[1].state = RAID_SB_MISSING;
			assert_int_equal(round_trip(&sb, NULL), 0);
		}
	}
}

/* Another's new sequence number ends the promise that all is in line. */
static void
synced_is_of_one_sequence_number(void **state)
{
	static uint8_t buf[RAID_SB_MAX_BYTES];
	static struct raid_sb sb, got;
	uint32_t crc;

	fill(&sb, RAID_LEVEL_1, 2);
	sb.synced = true;
	raid_sb_encode(&sb, buf);
	buf[128]++;
	memset(buf + 16, 0, 4);
	crc = ~crc_32c(UINT32_MAX, buf, 384);
	memcpy(buf + 16, &crc, 4);
	assert_int_equal(raid_sb_decode(buf, 384, &got, NULL), 0);
	assert_int_equal(got.seq, 8);
	assert_false(got.synced);
}

static void
impossible(void **state)
{
	static struct raid_sb sb;

	for (unsigned i = 0; i < 18; i++) {
		struct err err = ERR_NONE;

		fill(&sb, i == 8 ? RAID_LEVEL_5F : RAID_LEVEL_0, 3);
		switch (i) {
		case 0: uuid_clear(sb.uuid); break;
		case 1: memset(sb.name, 'x', sizeof(sb.name)); break;
		case 2: sb.name[0] = '\0'; break;
		case 3: sb.block_size = 513; break;
		case 4: sb.block_size = 1u << 31; break;
		case 5: sb.raid_size = 0; break;
		case 6: sb.raid_size = UINT64_MAX; break;
		case 7: sb.level = (enum raid_level)6; break;
		case 8: sb.num_bases = sb.count = 2; break;
		case 9: sb.strip_size = 3; break;
		case 10: sb.strip_size = 1u << 31; break;
		case 11: sb.bases[0].slot = 3; break;
		case 12: sb.bases[0].slot = sb.bases[1].slot; break;
		case 13: uuid_copy(sb.bases[0].uuid, sb.bases[2].uuid); break;
		case 14: sb.bases[0].data_offset = 2047; break;
		case 15: sb.bases[0].data_size = UINT64_MAX - 2000; break;
		case 16: sb.raid_size++; break;
		default: sb.count = 2; break;
		}
		assert_int_equal(round_trip(&sb, &err), RAID_SB_BAD);
		assert_true(strstr(err.text, "RAID superblock") != NULL);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(as_spdk_writes_it),
		cmocka_unit_test(every_bit_counts),
		cmocka_unit_test(round_trips),
		cmocka_unit_test(synced_is_of_one_sequence_number),
		cmocka_unit_test(impossible),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
