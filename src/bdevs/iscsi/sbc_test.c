/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/iscsi/sbc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

/* ---- Commands ---- */

static void
writes_commands(void **state)
{
	static const uint8_t read[] = {0x88, 0, 0, 0, 0, 1, 2, 3, 4, 5, 0, 1, 0, 2, 0, 0};
	static const uint8_t swap[] = {0x89, 8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0, 128, 0, 0};
	static const uint8_t unmap[] = {0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0};
	static const uint8_t list[] = {0, 22, 0, 16, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 5, 0, 0, 16, 0, 0, 0, 0, 0};
	static const uint8_t page[] = {0x12, 1, 0xb0, 0, 252, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	static const uint8_t standard[] = {0x12, 0, 0, 0, 252, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	static const uint8_t modes[] = {0x1a, 8, 8, 0, 252, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	uint8_t cdb[SBC_CDB_BYTES], out[SBC_UNMAP_LIST_BYTES];

	sbc_cdb_16(cdb, SBC_READ_16, 0, 0x102030405, 0x10002);
	assert_memory_equal(cdb, read, sizeof(cdb));
	sbc_cdb_compare_and_write(cdb, SBC_FUA, 7, 128);
	assert_memory_equal(cdb, swap, sizeof(cdb));
	sbc_cdb_unmap(cdb, SBC_UNMAP_LIST_BYTES);
	assert_memory_equal(cdb, unmap, sizeof(cdb));
	sbc_unmap_list(out, 0x100000005, 4096);
	assert_memory_equal(out, list, sizeof(out));
	sbc_cdb_inquiry(cdb, SBC_PAGE_LIMITS, 252);
	assert_memory_equal(cdb, page, sizeof(cdb));
	sbc_cdb_inquiry(cdb, -1, 252);
	assert_memory_equal(cdb, standard, sizeof(cdb));
	sbc_cdb_mode_sense(cdb, SBC_MODE_CACHING, 252);
	assert_memory_equal(cdb, modes, sizeof(cdb));
}

/* ---- The unit ---- */

static void
knows_a_disk(void **state)
{
	struct err err = ERR_NONE;

	assert_int_equal(sbc_unit_inquiry((uint8_t[]){0, 0, 5, 2}, 4, &err), 0);
	assert_int_equal(sbc_unit_inquiry((uint8_t[]){0x7f}, 1, &err), -ENODEV);
	assert_int_equal(sbc_unit_inquiry((uint8_t[]){0x20}, 1, &err), -ENODEV);
	assert_int_equal(sbc_unit_inquiry(NULL, 0, &err), -ENODEV);
	assert_int_equal(sbc_unit_inquiry((uint8_t[]){5}, 1, &err), -ENODEV);
	assert_non_null(strstr(err.text, "type 5"));
}

static void
finds_pages(void **state)
{
	static const uint8_t list[] = {0, 0, 0, 3, 0x00, 0x83, 0xb0, 0xb2};

	assert_true(sbc_unit_has_page(list, sizeof(list), 0xb0));
	assert_true(sbc_unit_has_page(list, sizeof(list), 0x83));
	assert_false(sbc_unit_has_page(list, sizeof(list), 0xb2)); /* behind the length it names */
	assert_false(sbc_unit_has_page(list, 5, 0x83));
	assert_false(sbc_unit_has_page(list, 3, 0));
	assert_false(sbc_unit_has_page((uint8_t[]){0, 0x83, 0, 1, 0xb0}, 5, 0xb0));
}

static void
reads_limits(void **state)
{
	uint8_t page[64] = {0, 0xb0, 0, 60, 1, 128, 0, 8, 0, 0, 16, 0};
	struct sbc_unit unit = {0};

	page[22] = 1; /* 256 blocks an unmap */
	page[31] = 64;
	page[43] = 200;
	sbc_unit_page(&unit, SBC_PAGE_LIMITS, page, sizeof(page));
	assert_int_equal(unit.max_compare_write, 128);
	assert_int_equal(unit.granularity, 8);
	assert_int_equal(unit.max_transfer, 4096);
	assert_int_equal(unit.max_unmap, 256);
	assert_int_equal(unit.unmap_granularity, 64);
	assert_int_equal(unit.max_write_same, 200);
	assert_true(unit.write_same);
	page[36] = 1; /* more than 32 bits */
	sbc_unit_page(&unit, SBC_PAGE_LIMITS, page, sizeof(page));
	assert_true(unit.max_write_same == UINT32_MAX);

	/* The short page of SBC-2, and what is cut off. */
	unit = (struct sbc_unit){0};
	page[3] = 12;
	sbc_unit_page(&unit, SBC_PAGE_LIMITS, page, sizeof(page));
	assert_int_equal(unit.max_transfer, 4096);
	assert_int_equal(unit.max_unmap, 0);
	assert_false(unit.write_same);
	unit = (struct sbc_unit){0};
	page[3] = 60;
	sbc_unit_page(&unit, SBC_PAGE_LIMITS, page, 11);
	sbc_unit_page(&unit, SBC_PAGE_LIMITS, page, 0);
	sbc_unit_page(&unit, SBC_PAGE_PROVISIONING, page, sizeof(page)); /* not that page */
	assert_int_equal(unit.max_transfer, 0);
	assert_false(unit.unmap);
}

static void
reads_provisioning(void **state)
{
	struct sbc_unit unit = {0};

	sbc_unit_page(&unit, SBC_PAGE_PROVISIONING, (uint8_t[]){0, 0xb2, 0, 4, 0, 0x80, 0, 0}, 8);
	assert_true(unit.unmap);
	assert_false(unit.write_same || unit.write_same_unmap);
	sbc_unit_page(&unit, SBC_PAGE_PROVISIONING, (uint8_t[]){0, 0xb2, 0, 4, 0, 0x40, 0, 0}, 8);
	assert_true(!unit.unmap && unit.write_same && unit.write_same_unmap);
}

static void
takes_the_best_name(void **state)
{
	static const uint8_t page[] = {0, 0x83, 0, 30, /* */
				       2, 0x01, 0, 3, 'a', 'b', 'c', /* the vendor's */
				       1, 0x13, 0, 4, 9, 9, 9, 9,    /* of the port */
				       1, 0x03, 0, 2, 0x60, 7,       /* NAA */
				       1, 0x03, 0, 1, 8,             /* another */
				       1, 0x03, 0, 200};             /* longer than the page */
	struct sbc_unit unit = {0};

	sbc_unit_page(&unit, SBC_PAGE_IDENTIFICATION, page, sizeof(page));
	assert_int_equal(unit.id_bytes, 2);
	assert_memory_equal(unit.id, ((uint8_t[]){0x60, 7}), 2);
	/* A serial number is less. */
	sbc_unit_page(&unit, SBC_PAGE_SERIAL, (uint8_t[]){0, 0x80, 0, 2, 'x', 'y'}, 6);
	assert_int_equal(unit.id[0], 0x60);
	unit.id_bytes = 0;
	sbc_unit_page(&unit, SBC_PAGE_SERIAL, (uint8_t[]){0, 0x80, 0, 2, 'x', 'y'}, 6);
	assert_memory_equal(unit.id, "xy", 2);
}

static void
reads_capacity(void **state)
{
	uint8_t data[32] = {0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 2, 0, 0, 3, 0xc0};
	struct sbc_unit unit = {0};
	struct err err = ERR_NONE;

	assert_int_equal(sbc_unit_capacity(&unit, data, sizeof(data), &err), 0);
	assert_int_equal(unit.num_blocks, 65536);
	assert_int_equal(unit.block_size, 512);
	assert_int_equal(unit.physical_block_size, 4096);
	assert_true(unit.thin && unit.zeroes);
	data[13] = 15;
	data[14] = 0x40; /* zeroes mean nothing where all blocks have storage */
	assert_int_equal(sbc_unit_capacity(&unit, data, sizeof(data), &err), 0);
	assert_int_equal(unit.physical_block_size, 512);
	assert_false(unit.thin || unit.zeroes);
	assert_int_equal(sbc_unit_capacity(&unit, data, 15, &err), -EINVAL);
	data[10] = 1;
	assert_int_equal(sbc_unit_capacity(&unit, data, sizeof(data), &err), -EINVAL);
	data[10] = 3;
	assert_int_equal(sbc_unit_capacity(&unit, data, sizeof(data), &err), -EINVAL);
	data[10] = 2;
	memset(data, 0xff, 8);
	assert_int_equal(sbc_unit_capacity(&unit, data, sizeof(data), &err), -EINVAL);
}

static void
reads_modes(void **state)
{
	uint8_t data[24] = {23, 0, 0x90, 0, 0x08, 18, 4};
	struct sbc_unit unit = {0};

	sbc_unit_modes(&unit, data, sizeof(data));
	assert_true(unit.readonly && unit.fua && unit.write_cache);
	/* Behind another page, and behind a block descriptor that was not wanted. */
	unit = (struct sbc_unit){0};
	sbc_unit_modes(&unit, (uint8_t[]){17, 0, 0, 8, 1, 1, 1, 1, 1, 1, 1, 1, 0x0a, 0, 0x88, 2, 4, 0}, 18);
	assert_true(unit.write_cache && !unit.readonly && !unit.fua);
	/* Off, and not there. */
	sbc_unit_modes(&unit, (uint8_t[]){6, 0, 0, 0, 0x08, 1, 0}, 7);
	assert_false(unit.write_cache);
	unit.write_cache = true;
	sbc_unit_modes(&unit, (uint8_t[]){3, 0, 0, 0}, 4);
	sbc_unit_modes(&unit, (uint8_t[]){200, 0, 0x80}, 3);
	assert_true(unit.write_cache && !unit.readonly);
}

/* ---- Extents ---- */

static void
describe(uint8_t *data, unsigned i, uint64_t lba, uint32_t blocks, uint8_t how)
{
	for (unsigned k = 0; k < 8; k++) {
		data[8 + 16 * i + k] = (uint8_t)(lba >> (56 - 8 * k));
	}
	for (unsigned k = 0; k < 4; k++) {
		data[16 + 16 * i + k] = (uint8_t)(blocks >> (24 - 8 * k));
	}
	data[20 + 16 * i] = how;
	data[2] = (uint8_t)((4 + 16 * (i + 1)) >> 8);
	data[3] = (uint8_t)(4 + 16 * (i + 1));
}

static void
tells_of_holes(void **state)
{
	uint8_t data[SBC_LBA_STATUS_BYTES(4)] = {0};
	struct bdev_extent e[4];

	describe(data, 0, 90, 20, 0); /* begins before what was asked for */
	describe(data, 1, 110, 30, 1);
	describe(data, 2, 140, 10, 2);
	describe(data, 3, 150, 1000, 0);
	assert_int_equal(sbc_lba_status(data, sizeof(data), 100, 100, true, e, 4), 4);
	assert_true(e[0].num_blocks == 10 && e[0].flags == BDEV_EXTENT_ALLOCATED);
	assert_true(e[1].num_blocks == 30 && e[1].flags == BDEV_EXTENT_ZERO);
	assert_true(e[2].num_blocks == 10 && e[2].flags == (BDEV_EXTENT_ZERO | BDEV_EXTENT_ALLOCATED));
	assert_true(e[3].num_blocks == 50 && e[3].flags == BDEV_EXTENT_ALLOCATED);
	assert_int_equal(sbc_lba_status(data, sizeof(data), 100, 100, false, e, 2), 2);
	assert_int_equal(e[1].flags, 0);
	/* Cut off, not of this range, a gap, none at all, beyond all numbers. */
	assert_int_equal(sbc_lba_status(data, 8 + 16 + 15, 100, 100, true, e, 4), 1);
	assert_int_equal(sbc_lba_status(data, sizeof(data), 80, 100, true, e, 4), 0);
	describe(data, 1, 111, 30, 1);
	assert_int_equal(sbc_lba_status(data, sizeof(data), 100, 100, true, e, 4), 1);
	assert_int_equal(sbc_lba_status(data, 7, 100, 100, true, e, 4), 0);
	describe(data, 0, UINT64_MAX, 2, 0);
	assert_int_equal(sbc_lba_status(data, sizeof(data), UINT64_MAX - 1, 1, true, e, 4), 0);
	describe(data, 0, 100, 0, 0);
	assert_int_equal(sbc_lba_status(data, sizeof(data), 100, 100, true, e, 4), 0);
}

/* ---- Ends ---- */

#define FIXED(key, asc) {0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, (asc) >> 8, (asc) & 0xff}

static void
judges(void **state)
{
	static const struct {
		uint8_t status;
		uint8_t sense[18];
		enum sbc_verdict verdict;
		int rc;
	} cases[] = {
		{0x00, {0}, SBC_ENDED, 0},
		{0x04, {0}, SBC_ENDED, 0},
		{0x08, {0}, SBC_LATER, -EBUSY},
		{0x18, {0}, SBC_ENDED, -EBADE},
		{0x28, {0}, SBC_LATER, -EBUSY},
		{0x40, {0}, SBC_AGAIN, -EIO},
		{0x99, {0}, SBC_ENDED, -EIO},
		{0x02, FIXED(0, 0), SBC_ENDED, -EIO},
		{0x02, FIXED(1, 0x1700), SBC_ENDED, 0},
		{0x02, FIXED(2, 0x0401), SBC_LATER, -EIO},
		{0x02, FIXED(2, 0x3a00), SBC_ENDED, -EIO},
		{0x02, FIXED(3, 0x1100), SBC_ENDED, -EIO},
		{0x02, FIXED(5, 0x2000), SBC_ENDED, -EOPNOTSUPP},
		{0x02, FIXED(5, 0x2100), SBC_ENDED, -EIO},
		{0x02, FIXED(5, 0x2500), SBC_GONE, -EIO},
		{0x02, FIXED(6, 0x2900), SBC_AGAIN, -EIO},
		{0x02, FIXED(7, 0x2700), SBC_ENDED, -EROFS},
		{0x02, FIXED(7, 0x2707), SBC_ENDED, -ENOSPC},
		{0x02, FIXED(0xb, 0x4700), SBC_AGAIN, -EIO},
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct sbc_end e = sbc_judge(cases[i].status, cases[i].sense, sizeof(cases[i].sense));

		assert_int_equal(e.verdict, cases[i].verdict);
		assert_int_equal(e.status, cases[i].rc);
		assert_false(e.resized);
	}
}

static void
judges_details(void **state)
{
	uint8_t differs[18] = {0xf0, 0, 0xe, 0, 0, 2, 1, 10, 0, 0, 0, 0, 0x1d, 0};
	static const uint8_t descriptor[] = {0x72, 0xe, 0x1d, 0, 0, 0, 0, 12, 0, 10, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 0};
	static const uint8_t resized[] = {0x72, 6, 0x2a, 9, 0, 0, 0, 0};
	struct sbc_end e = sbc_judge(2, differs, sizeof(differs));

	assert_true(e.verdict == SBC_ENDED && e.status == -EILSEQ && e.offset == 513);
	differs[0] = 0x70; /* does not say where */
	assert_true(sbc_judge(2, differs, sizeof(differs)).offset == UINT64_MAX);
	e = sbc_judge(2, descriptor, sizeof(descriptor));
	assert_true(e.status == -EILSEQ && e.offset == 256);
	assert_true(sbc_judge(2, descriptor, sizeof(descriptor) - 1).offset == UINT64_MAX);
	e = sbc_judge(2, resized, sizeof(resized));
	assert_true(e.verdict == SBC_AGAIN && e.resized);
	/* Cut off, or none. */
	assert_int_equal(sbc_judge(2, resized, 7).status, -EIO);
	assert_int_equal(sbc_judge(2, NULL, 0).status, -EIO);
	e = sbc_judge(2, (uint8_t[])FIXED(6, 0x2a09), 13);
	assert_true(e.verdict == SBC_AGAIN && !e.resized);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(writes_commands),
		cmocka_unit_test(knows_a_disk),
		cmocka_unit_test(finds_pages),
		cmocka_unit_test(reads_limits),
		cmocka_unit_test(reads_provisioning),
		cmocka_unit_test(takes_the_best_name),
		cmocka_unit_test(reads_capacity),
		cmocka_unit_test(reads_modes),
		cmocka_unit_test(tells_of_holes),
		cmocka_unit_test(judges),
		cmocka_unit_test(judges_details),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
