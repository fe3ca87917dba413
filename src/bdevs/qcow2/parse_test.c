/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/qcow2/parse.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdevs/qcow2/harness.h"

#define ROOM ((size_t)4 << 20)

static struct made image;
static struct qcow2_header header;
static struct err err;

static void
make(unsigned version)
{
	made_free(&image);
	image = (struct made){.room = ROOM, .size = 1u << 20, .cluster_bits = 16};
	made_init(&image, version);
}

static int
parse(void)
{
	err = ERR_NONE;
	return qcow2_parse_header(image.file, QCOW2_HEADER_BYTES, ROOM, &header, &err);
}

static void
good_headers(void **state)
{
	for (unsigned version = 2; version <= 3; version++) {
		make(version);
		assert_int_equal(parse(), 0);
		assert_int_equal(header.version, version);
		assert_int_equal(header.size, 1u << 20);
		assert_int_equal(header.cluster_bits, 16);
		assert_int_equal(header.l2_bits, 13);
		assert_int_equal(header.l1_entries, 1);
		assert_int_equal(header.l1_offset, 65536);
	}
	image.extended = true;
	put_be(image.file + 72, 0x19, 8); /* extended, compression, dirty */
	image.file[104] = 1;
	assert_int_equal(parse(), 0);
	assert_int_equal(header.l2_entry_bytes, 16);
	assert_int_equal(header.l2_bits, 12);
	assert_int_equal(header.subcluster_bits, 5);
	assert_int_equal(header.compression, QCOW2_ZSTD);
	/* Without its feature bit the byte means nothing. */
	put_be(image.file + 72, 0, 8);
	assert_int_equal(parse(), 0);
	assert_int_equal(header.compression, QCOW2_DEFLATE);
}

static void
refused_headers(void **state)
{
	static const struct {
		unsigned at, bytes;
		uint64_t value;
		int rc;
		const char *says;
	} cases[] = {
		{0, 4, 0, -EINVAL, "no qcow2"},
		{4, 4, 1, -ENOTSUP, "version"},
		{4, 4, 4, -ENOTSUP, "version"},
		{8, 8, 512, -ENOTSUP, "backing"},
		{20, 4, 8, -EBADMSG, "cluster"},
		{20, 4, 22, -EBADMSG, "cluster"},
		{20, 4, UINT32_MAX, -EBADMSG, "cluster"},
		{24, 8, 0, -EBADMSG, "bytes"},
		{24, 8, UINT64_MAX, -EBADMSG, "bytes"},
		{24, 8, INT64_MAX, -EBADMSG, "too small"},
		{24, 8, (UINT64_C(1) << 29) + 1, -EBADMSG, "too small"},
		{32, 4, 1, -ENOTSUP, "encrypted"},
		{32, 4, 2, -ENOTSUP, "encrypted"},
		{36, 4, 0, -EBADMSG, "too small"},
		{36, 4, UINT32_MAX, -EBADMSG, "too large"},
		{40, 8, 0, -EBADMSG, "not in the file"},
		{40, 8, 65537, -EBADMSG, "not in the file"},
		{40, 8, ROOM, -EBADMSG, "not in the file"},
		{40, 8, UINT64_MAX - 65535, -EBADMSG, "not in the file"},
		{72, 8, 0x2, -EBADMSG, "corrupt"},
		{72, 8, 0x4, -ENOTSUP, "another file"},
		{72, 8, 0x20, -ENOTSUP, "features"},
		{72, 8, UINT64_C(1) << 63, -ENOTSUP, "features"},
		{100, 4, 96, -EBADMSG, "header"},
		{100, 4, 105, -EBADMSG, "header"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		make(3);
		put_be(image.file + cases[i].at, cases[i].value, cases[i].bytes);
		assert_int_equal(parse(), cases[i].rc);
		if (strstr(err.text, cases[i].says) == NULL) {
			fail_msg("'%s' says nothing of '%s'", err.text, cases[i].says);
		}
	}
	make(3);
	put_be(image.file + 72, 0x8, 8);
	image.file[104] = 2;
	assert_int_equal(parse(), -ENOTSUP);
	make(3);
	put_be(image.file + 20, 13, 4);
	put_be(image.file + 72, 0x10, 8);
	assert_int_equal(parse(), -EBADMSG);
	for (size_t bytes = 0; bytes < 112; bytes++) {
		uint8_t *exact = malloc(bytes);

		make(3);
		memcpy(exact, image.file, bytes);
		assert_int_equal(qcow2_parse_header(exact, bytes, ROOM, &header, NULL), -EINVAL);
		free(exact);
	}
}

static void
backing_files_are_named_only(void **state)
{
	make(3);
	put_be(image.file + 8, 512, 8);
	put_be(image.file + 16, 13, 4);
	memcpy(image.file + 512, "/etc/\x1bshadow!", 13);
	assert_int_equal(parse(), -ENOTSUP);
	assert_non_null(strstr(err.text, "'/etc/?shadow!'"));
	put_be(image.file + 16, UINT32_MAX, 4);
	assert_int_equal(parse(), -ENOTSUP);
	put_be(image.file + 8, UINT64_MAX, 8);
	assert_int_equal(parse(), -ENOTSUP);
}

/* ---- Entries ---- */

static int
place(uint64_t first, uint64_t second, unsigned subcluster, struct qcow2_place *ret)
{
	uint8_t raw[16];

	put_be(raw, first, 8);
	put_be(raw + 8, second, 8);
	return qcow2_place(&header, raw, subcluster, ret);
}

static void
plain_entries(void **state)
{
	struct qcow2_place p;
	uint64_t offset;
	uint8_t raw[8];

	make(3);
	assert_int_equal(parse(), 0);
	assert_int_equal(place(0, 0, 0, &p), 0);
	assert_int_equal(p.kind, QCOW2_HOLE);
	assert_int_equal(place(UINT64_C(1) << 63 | 0x20000, 0, 0, &p), 0);
	assert_true(p.kind == QCOW2_DATA && p.offset == 0x20000);
	assert_int_equal(place(1, 0, 0, &p), 0);
	assert_int_equal(p.kind, QCOW2_ZERO);
	assert_int_equal(place(0x20001, 0, 0, &p), 0); /* zero, and room for data */
	assert_int_equal(p.kind, QCOW2_ZERO);
	assert_int_equal(place(0x20200, 0, 0, &p), -EBADMSG);
	assert_int_equal(place(ROOM, 0, 0, &p), -EBADMSG);
	assert_int_equal(place(UINT64_C(0x00ffffffffff0000), 0, 0, &p), -EBADMSG);
	put_be(raw, UINT64_C(1) << 63 | 0x30000, 8);
	assert_int_equal(qcow2_l2_offset(&header, raw, &offset), 0);
	assert_int_equal(offset, 0x30000);
	put_be(raw, ROOM, 8);
	assert_int_equal(qcow2_l2_offset(&header, raw, &offset), -EBADMSG);
	put_be(raw, 0x30200, 8);
	assert_int_equal(qcow2_l2_offset(&header, raw, &offset), -EBADMSG);
	make(2);
	assert_int_equal(parse(), 0);
	assert_int_equal(place(1, 0, 0, &p), -EBADMSG);
}

static void
compressed_entries(void **state)
{
	struct qcow2_place p;

	make(3);
	assert_int_equal(parse(), 0);
	/* 54 bits of offset for clusters of 64 KiB. */
	assert_int_equal(place(UINT64_C(1) << 62 | UINT64_C(2) << 54 | 0x12345, 0, 0, &p), 0);
	assert_int_equal(p.kind, QCOW2_COMPRESSED);
	assert_int_equal(p.offset, 0x12345);
	assert_int_equal(p.compressed_bytes, 3 * 512 - 0x145);
	assert_int_equal(place(UINT64_C(1) << 62 | UINT64_C(255) << 54 | (ROOM - 100), 0, 0, &p), 0);
	assert_int_equal(p.compressed_bytes, 100);
	assert_int_equal(place(UINT64_C(1) << 62 | ROOM, 0, 0, &p), -EBADMSG);
	for (unsigned bits = QCOW2_CLUSTER_BITS_MIN; bits <= QCOW2_CLUSTER_BITS_MAX; bits++) {
		header.cluster_bits = (uint8_t)bits;
		header.file_bytes = UINT64_C(1) << 50;
		assert_int_equal(place(~(UINT64_C(1) << 63) & ~((UINT64_C(1) << (62 - (bits - 8))) - 1), 0,
				       0, &p), 0);
		assert_true(p.compressed_bytes == 2u << bits && p.offset == 0);
	}
}

static void
subclusters(void **state)
{
	struct qcow2_place p;

	make(3);
	put_be(image.file + 72, 0x10, 8);
	assert_int_equal(parse(), 0);
	assert_int_equal(place(0x20000, UINT64_C(1) << 31 | UINT64_C(1) << 32, 31, &p), 0);
	assert_true(p.kind == QCOW2_DATA && p.offset == 0x20000);
	assert_int_equal(place(0x20000, UINT64_C(1) << 31 | UINT64_C(1) << 32, 0, &p), 0);
	assert_int_equal(p.kind, QCOW2_ZERO);
	assert_int_equal(place(0x20000, UINT64_C(1) << 31 | UINT64_C(1) << 32, 1, &p), 0);
	assert_int_equal(p.kind, QCOW2_HOLE);
	assert_int_equal(place(0x20000, UINT64_C(1) << 33 | 2, 1, &p), -EBADMSG);
	assert_int_equal(place(0x20001, 0, 1, &p), -EBADMSG);
	assert_int_equal(place(0, 2, 1, &p), -EBADMSG);
}

/* ---- Inflating ---- */

static void
inflates(void **state)
{
	static const enum qcow2_compression kinds[] = {QCOW2_DEFLATE, QCOW2_ZSTD};
	uint8_t plain[4096], squeezed[9000], out[4096];

	for (size_t k = 0; k < ARRAY_SIZE(kinds); k++) {
		size_t bytes;

		if (!qcow2_can_inflate(kinds[k])) {
			continue;
		}
		make(3);
		image.compression = kinds[k];
		for (size_t i = 0; i < sizeof(plain); i++) {
			plain[i] = (uint8_t)(i * i >> 5);
		}
		bytes = made_squeeze(&image, plain, sizeof(plain), squeezed, sizeof(squeezed));
		memset(squeezed + bytes, 0x5a, 512); /* what is behind it */
		assert_int_equal(qcow2_inflate(kinds[k], squeezed, bytes + 512, out, sizeof(out)), 0);
		assert_memory_equal(out, plain, sizeof(plain));
		assert_int_equal(qcow2_inflate(kinds[k], squeezed, bytes, out, sizeof(out)), 0);
		assert_int_equal(qcow2_inflate(kinds[k], squeezed, bytes / 2, out, sizeof(out)),
				 -EBADMSG);
		bytes = made_squeeze(&image, plain, 4000, squeezed, sizeof(squeezed));
		assert_int_equal(qcow2_inflate(kinds[k], squeezed, bytes, out, sizeof(out)),
				 -EBADMSG);
		memset(squeezed, 0xff, sizeof(squeezed));
		assert_int_equal(qcow2_inflate(kinds[k], squeezed, 4096, out, sizeof(out)), -EBADMSG);
		assert_int_equal(qcow2_inflate(kinds[k], squeezed, 0, out, sizeof(out)), -EBADMSG);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(good_headers),       cmocka_unit_test(refused_headers),
		cmocka_unit_test(backing_files_are_named_only),
		cmocka_unit_test(plain_entries),      cmocka_unit_test(compressed_entries),
		cmocka_unit_test(subclusters),        cmocka_unit_test(inflates),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	made_free(&image);
	return failed;
}
