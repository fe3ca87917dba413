/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Answers of a logical unit, every byte from the fuzzer: its first says which answer it is. Whatever is in them, nothing beyond
 * them is read, extents cover a beginning of what was asked for, and sizes are such as a bdev may have.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "bdevs/iscsi/sbc.h"

#define EXTENTS 8

static void
extents(const uint8_t *data, size_t bytes)
{
	struct bdev_extent e[EXTENTS];
	uint64_t lba = bytes > 0 ? data[0] : 0, blocks = 1 + (bytes > 1 ? data[1] : 0), sum = 0;
	size_t count = sbc_lba_status(data, bytes, lba, blocks, true, e, EXTENTS);

	CHECK(count <= EXTENTS);
	for (size_t i = 0; i < count; i++) {
		CHECK(e[i].num_blocks > 0 && e[i].num_blocks <= blocks - sum);
		sum += e[i].num_blocks;
	}
}

static void
unit(const uint8_t *data, size_t bytes)
{
	static const uint8_t pages[] = {SBC_PAGE_SERIAL, SBC_PAGE_IDENTIFICATION, SBC_PAGE_LIMITS, SBC_PAGE_PROVISIONING};
	struct sbc_unit u = {0};

	(void)sbc_unit_inquiry(data, bytes, NULL);
	for (size_t i = 0; i < sizeof(pages); i++) {
		(void)sbc_unit_has_page(data, bytes, pages[i]);
		sbc_unit_page(&u, pages[i], data, bytes);
	}
	CHECK(u.id_bytes <= SBC_ID_BYTES);
	sbc_unit_modes(&u, data, bytes);
	if (sbc_unit_capacity(&u, data, bytes, NULL) == 0) {
		CHECK(u.num_blocks > 0 && u.num_blocks <= UINT64_MAX / u.block_size);
		CHECK(u.block_size >= BDEV_BLOCK_SIZE_MIN && u.physical_block_size <= BDEV_BLOCK_SIZE_MAX);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *copy;

	if (size == 0) {
		return 0;
	}
	/* Of its own length, so that a step past the end is seen. */
	copy = malloc(size - 1 > 0 ? size - 1 : 1);
	CHECK(copy != NULL);
	memcpy(copy, data + 1, size - 1);
	switch (data[0] % 3) {
	case 0:
		extents(copy, size - 1);
		break;
	case 1:
		unit(copy, size - 1);
		break;
	default:
		(void)sbc_judge(data[0] / 3, copy, size - 1);
		break;
	}
	free(copy);
	return 0;
}
