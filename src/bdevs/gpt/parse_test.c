/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/gpt/parse.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "bdevs/gpt/harness.h"

#define BLOCKS 4096u

static struct made_disk disk;
static struct gpt_table table;
static const char *why;

static void
make(uint32_t block_size)
{
	free(disk.data);
	disk = (struct made_disk){
		.data = calloc(BLOCKS, block_size), .block_size = block_size, .num_blocks = BLOCKS};
	made_init(&disk);
	made_add(&disk, 1, type_new_bytes, 100, 199);
	made_add(&disk, 3, type_old_bytes, 200, 299);
	made_add(&disk, 4, type_linux_bytes, 300, 399);
	made_add(&disk, 128, type_new_bytes, 400, 400);
}

static int
primary(void)
{
	return gpt_parse_primary(disk.data, gpt_bytes(disk.block_size), disk.block_size, BLOCKS,
				 &table, &why);
}

static int
backup(void)
{
	size_t bytes = gpt_bytes(disk.block_size);

	return gpt_parse_backup(disk.data + (size_t)BLOCKS * disk.block_size - bytes, bytes,
				disk.block_size, BLOCKS, &table, &why);
}

static void
expect_good_table(void)
{
	char text[UUID_STR_LEN];

	assert_int_equal(table.count, 3);
	assert_int_equal(table.partitions[0].number, 1);
	assert_int_equal(table.partitions[0].first_block, 100);
	assert_int_equal(table.partitions[0].num_blocks, 100);
	assert_string_equal(table.partitions[0].name, "p1");
	assert_int_equal(table.partitions[1].number, 3);
	assert_int_equal(table.partitions[1].num_blocks, 99); /* of the old type */
	assert_int_equal(table.partitions[2].number, 128);
	assert_int_equal(table.partitions[2].num_blocks, 1);
	uuid_unparse_lower(table.partitions[0].type, text);
	assert_string_equal(text, "6527994e-2c5a-4eec-9613-8f5944074e8b");
	uuid_unparse_lower(table.partitions[1].type, text);
	assert_string_equal(text, "7c5222bd-8f5d-4087-9c00-bf9843c7b58c");
}

static void
good_tables(void **state)
{
	static const uint32_t sizes[] = {512, 1024, 4096};

	for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
		make(sizes[i]);
		assert_int_equal(primary(), 0);
		expect_good_table();
		memset(&table, 0, sizeof(table));
		assert_int_equal(backup(), 0);
		expect_good_table();
	}
}

static void
mixed_order_of_guids(void **state)
{
	static const uint8_t bytes[16] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16};
	char text[UUID_STR_LEN];

	make(512);
	memcpy(made_entry(&disk, false, 1) + 16, bytes, 16);
	memcpy(made_header(&disk, false) + 56, bytes, 16);
	made_seal(&disk);
	assert_int_equal(primary(), 0);
	uuid_unparse_lower(table.partitions[0].guid, text);
	assert_string_equal(text, "04030201-0605-0807-090a-0b0c0d0e0f10");
	uuid_unparse_lower(table.disk_guid, text);
	assert_string_equal(text, "04030201-0605-0807-090a-0b0c0d0e0f10");
}

/* ---- No table ---- */

static void
no_table(void **state)
{
	make(512);
	disk.data[510] = 0;
	assert_int_equal(primary(), -ENOENT);
	make(512);
	disk.data[446 + 4] = 0x83;
	assert_int_equal(primary(), -ENOENT);
	disk.data[446 + 2 * 16 + 4] = 0xee; /* not the first entry: its blocks must fit too */
	assert_int_equal(primary(), -ENOENT);
	put32(disk.data + 446 + 2 * 16 + 8, 1);
	put32(disk.data + 446 + 2 * 16 + 12, UINT32_MAX);
	assert_int_equal(primary(), 0);
	put32(disk.data + 446 + 2 * 16 + 12, BLOCKS);
	assert_int_equal(primary(), -ENOENT);
	assert_int_equal(gpt_parse_primary(disk.data, 0, 512, BLOCKS, &table, NULL), -ENOENT);
}

/* ---- Broken ones ---- */

static void
broken_checksums(void **state)
{
	/* Every byte of the header and some of the entries. */
	for (unsigned i = 0; i < 92; i++) {
		make(512);
		made_header(&disk, false)[i] ^= 1;
		assert_int_equal(primary(), -EBADMSG);
		assert_int_equal(backup(), 0);
	}
	for (unsigned i = 0; i < MADE_ENTRIES * 128; i += 61) {
		make(512);
		made_entry(&disk, false, 1)[i] ^= 0x80;
		assert_int_equal(primary(), -EBADMSG);
		made_entry(&disk, true, 1)[i] ^= 0x80;
		assert_int_equal(backup(), -EBADMSG);
	}
}

/* With right checksums: somebody meant it. */
static void
hostile_headers(void **state)
{
	static const struct {
		unsigned at, bytes;
		uint64_t value;
	} cases[] = {
		{12, 4, 91},          {12, 4, 513},       {12, 4, UINT32_MAX},
		{24, 8, 0},           {24, 8, 2},         {40, 8, 0},
		{40, 8, 1},           {40, 8, BLOCKS},    {40, 8, UINT64_MAX},
		{48, 8, 33},          {48, 8, BLOCKS},    {48, 8, UINT64_MAX},
		{72, 8, 64},          {72, 8, UINT64_MAX}, {72, 8, UINT64_MAX / 512 + 1},
		{72, 8, BLOCKS},      {80, 4, 129},       {80, 4, UINT32_MAX},
		{84, 4, 0},           {84, 4, 127},       {84, 4, UINT32_MAX},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		uint8_t *h;

		make(512);
		h = made_header(&disk, false);
		memcpy(h + cases[i].at, &cases[i].value, cases[i].bytes);
		put32(h + 16, 0);
		put32(h + 16, crc_32(0, h, 92));
		assert_int_equal(primary(), -EBADMSG);
		assert_non_null(why);
	}
}

static void
hostile_partitions(void **state)
{
	static const struct {
		uint64_t first, last;
	} cases[] = {{0, 199},          {33, 199},  {100, BLOCKS - 33}, {100, 99},
		     {100, UINT64_MAX}, {UINT64_MAX, 100}, {UINT64_MAX, UINT64_MAX}, {150, 250}, {400, 400}};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		for (int old = 0; old < 2; old++) {
			make(512);
			made_add(&disk, 1, old != 0 ? type_old_bytes : type_new_bytes, cases[i].first,
				 cases[i].last);
			assert_int_equal(primary(), 0);
			for (unsigned n = 0; n < table.count; n++) {
				const struct gpt_partition *p = &table.partitions[n];

				assert_true(p->num_blocks > 0 && p->first_block >= 34 &&
					    p->first_block + p->num_blocks <= BLOCKS - 33);
				for (unsigned m = 0; m < n; m++) {
					const struct gpt_partition *q = &table.partitions[m];

					assert_true(p->first_block >= q->first_block + q->num_blocks ||
						    q->first_block >= p->first_block + p->num_blocks);
				}
			}
			assert_true(table.count <= 3);
		}
	}
	make(512);
	made_add(&disk, 1, type_old_bytes, 100, 100); /* one block shorter than one block */
	assert_int_equal(primary(), 0);
	assert_int_equal(table.partitions[0].number, 3);
}

static void
names(void **state)
{
	static const uint16_t units[36] = {'a', 0xe9, 0x20ac, 0xd83d, 0xde00, '\n', 'z'};

	make(512);
	memcpy(made_entry(&disk, false, 1) + 56, units, sizeof(units));
	made_seal(&disk);
	assert_int_equal(primary(), 0);
	assert_string_equal(table.partitions[0].name, "a\xc3\xa9\xe2\x82\xac???z");
	memset(made_entry(&disk, false, 1) + 56, 0x7f, 72);
	made_seal(&disk);
	assert_int_equal(primary(), 0);
	assert_int_equal(strlen(table.partitions[0].name), 108);
}

/* A disk of a few blocks only: nothing outside of what was read is looked at. */
static void
small_disks(void **state)
{
	for (uint64_t blocks = 1; blocks < 64; blocks++) {
		uint8_t *exact = malloc(blocks * 512);

		make(512);
		memcpy(exact, disk.data, blocks * 512);
		put32(exact + 446 + 12, (uint32_t)blocks - 1);
		assert_int_not_equal(
			gpt_parse_primary(exact, blocks * 512, 512, blocks, &table, &why), 0);
		memcpy(exact + (blocks - 1) * 512, made_header(&disk, true), 512);
		assert_int_equal(gpt_parse_backup(exact, blocks * 512, 512, blocks, &table, &why),
				 -EBADMSG);
		free(exact);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_tables),        cmocka_unit_test(mixed_order_of_guids),
		cmocka_unit_test(no_table),           cmocka_unit_test(broken_checksums),
		cmocka_unit_test(hostile_headers),    cmocka_unit_test(hostile_partitions),
		cmocka_unit_test(names),              cmocka_unit_test(small_disks),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	free(disk.data);
	return failed;
}
