/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Superblocks of arrays. The checksum is made to fit, so that what is behind it is reached; what is accepted is written and
 * read again, and must be the same and describe an array that can be.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/crc.h"
#include "bdevs/raid/sb.h"

static void
seal(uint8_t *buf, size_t size)
{
	size_t bytes = size >= RAID_SB_HEADER_BYTES ? raid_sb_bytes(buf) : 0;
	uint32_t crc;

	if (bytes == 0 || bytes > size) {
		return;
	}
	memset(buf + 16, 0, sizeof(crc));
	crc = ~crc_32c(UINT32_MAX, buf, bytes);
	memcpy(buf + 16, &crc, sizeof(crc));
}

static void
check_possible(const struct raid_sb *sb)
{
	CHECK(sb->num_bases >= 1 && sb->count == sb->num_bases && strlen(sb->name) < RAID_SB_NAME_BYTES);
	CHECK(sb->raid_size * sb->block_size / sb->block_size == sb->raid_size);
	for (unsigned i = 0; i < sb->count; i++) {
		CHECK(sb->bases[i].slot < sb->num_bases);
		CHECK(sb->bases[i].data_offset + sb->bases[i].data_size > sb->bases[i].data_size);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct raid_sb sb, again;
	static uint8_t out[RAID_SB_MAX_BYTES];
	uint8_t *buf = malloc(size + 1);
	struct err err = ERR_NONE;

	if (buf == NULL || size == 0) {
		free(buf);
		return 0;
	}
	memcpy(buf, data, size);
	if ((data[size - 1] & 1) != 0) {
		seal(buf, size);
	}
	if (raid_sb_decode(buf, size, &sb, &err) == 0) {
		size_t bytes = raid_sb_encode(&sb, out);

		check_possible(&sb);
		CHECK(raid_sb_decode(out, bytes, &again, NULL) == 0);
		CHECK(memcmp(&sb, &again, sizeof(sb)) == 0);
	}
	free(buf);
	return 0;
}
