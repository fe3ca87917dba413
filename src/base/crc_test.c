/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/crc.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"

static const char digits[] = "123456789";

static void
fill_kinds(uint8_t buf[4][4096])
{
	memset(buf[0], 0, 4096);
	memset(buf[1], 0xff, 4096);
	for (unsigned i = 0; i < 4096; i++) {
		buf[2][i] = (uint8_t)i;
		buf[3][i] = (uint8_t)(0xff - i);
	}
}

/* The check values of the catalogue of CRCs. */
static void
check_values(void **state)
{
	assert_int_equal(crc_t10dif(0, digits, 9), 0xd0db);
	assert_int_equal(crc_t10dif_plain(0, digits, 9), 0xd0db);
	assert_int_equal(crc_32c(0, digits, 9), 0xe3069283);
	assert_int_equal(crc_32c_plain(0, digits, 9), 0xe3069283);
	assert_int_equal(crc_32(0, digits, 9), 0xcbf43926);
	assert_true(crc_64nvme(0, digits, 9) == UINT64_C(0xae8b14860a799888));
}

/* The examples of the NVM command set, 5.2.1.3: 4 KiB of zeroes, ones, counting up and down. */
static void
nvme_examples(void **state)
{
	static const uint32_t c32[4] = {0x98f94189, 0x25c1fe13, 0x9c71fe32, 0x214941a8};
	static const uint64_t c64[4] = {0x6482d367eb22b64e, 0xc0ddba7302eca3ac, 0x3e729f5f6750449c,
					0x9a2df64b8e9e517e};
	static uint8_t buf[4][4096];

	fill_kinds(buf);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(crc_32c(0, buf[i], 4096), c32[i]);
		assert_int_equal(crc_32c_plain(0, buf[i], 4096), c32[i]);
		assert_true(crc_64nvme(0, buf[i], 4096) == c64[i]);
	}
}

/* From RFC 3720, B.4, and the T10 paper that chose the polynomial. */
static void
other_examples(void **state)
{
	uint8_t zeroes[32] = {0}, ones[32];

	memset(ones, 0xff, sizeof(ones));
	assert_int_equal(crc_32c(0, zeroes, 32), 0x8a9136aa);
	assert_int_equal(crc_32c(0, ones, 32), 0x62a8ab43);
	assert_int_equal(crc_t10dif(0, zeroes, 32), 0);
	assert_int_equal(crc_t10dif(0, ones, 32), 0xa293);
}

/* In pieces of any length and from any address: the same as at once, and both ways the same. */
static void
pieces(void **state)
{
	uint8_t buf[600];

	srand(5);
	for (size_t i = 0; i < sizeof(buf); i++) {
		buf[i] = (uint8_t)rand();
	}
	for (size_t len = 0; len < 560; len += 7) {
		size_t cut = len == 0 ? 0 : (size_t)rand() % len;
		const uint8_t *p = buf + len % 13;
		uint16_t t10 = crc_t10dif_plain(0, p, len);
		uint32_t c32c = crc_32c_plain(0, p, len);

		assert_int_equal(crc_t10dif(0, p, len), t10);
		assert_int_equal(crc_t10dif(crc_t10dif(0, p, cut), p + cut, len - cut), t10);
		assert_int_equal(crc_t10dif_plain(crc_t10dif_plain(0, p, cut), p + cut, len - cut),
				 t10);
		assert_int_equal(crc_32c(0, p, len), c32c);
		assert_int_equal(crc_32c(crc_32c_plain(0, p, cut), p + cut, len - cut), c32c);
		assert_int_equal(crc_32(crc_32(0, p, cut), p + cut, len - cut), crc_32(0, p, len));
		assert_true(crc_64nvme(crc_64nvme(0, p, cut), p + cut, len - cut) ==
			    crc_64nvme(0, p, len));
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(check_values),
		cmocka_unit_test(nvme_examples),
		cmocka_unit_test(other_examples),
		cmocka_unit_test(pieces),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
