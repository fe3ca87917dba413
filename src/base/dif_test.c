/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/dif.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/crc.h"

#define BLOCKS 9
#define ALL (DIF_CHECK_GUARD | DIF_CHECK_APP | DIF_CHECK_REF)

/* Data and metadata in pieces of odd lengths. */
struct stage {
	struct dif dif;
	uint8_t data[BLOCKS * 4096];
	uint8_t md[BLOCKS * DIF_MD_MAX];
	struct iovec iov[64];
	struct iovec md_iov[64];
	struct dif_list list;
};

static int
cut(struct iovec *iov, uint8_t *p, size_t bytes, size_t piece)
{
	int n = 0;

	while (bytes > 0) {
		size_t len = MIN(bytes, n % 3 == 1 ? 0 : n == 62 ? bytes : piece);

		iov[n++] = (struct iovec){p, len};
		p += len;
		bytes -= len;
	}
	return n;
}

static void
setup(struct stage *s, uint32_t block_bytes, uint32_t md_bytes, unsigned type, unsigned format,
      bool head, size_t piece)
{
	assert_int_equal(
		dif_init(&s->dif, block_bytes, md_bytes, type, format, head, ALL, NULL), 0);
	s->dif.app_tag = 0x1234;
	for (size_t i = 0; i < sizeof(s->data); i++) {
		s->data[i] = (uint8_t)rand();
	}
	for (size_t i = 0; i < sizeof(s->md); i++) {
		s->md[i] = (uint8_t)rand();
	}
	s->list.iov = s->iov;
	s->list.iovcnt = cut(s->iov, s->data, BLOCKS * block_bytes, piece);
	s->list.md = s->md_iov;
	s->list.mdcnt = cut(s->md_iov, s->md, BLOCKS * md_bytes, piece / 33 + 1);
}

static void
refuses(void **state)
{
	static const struct {
		uint32_t block, md;
		unsigned type, format;
	} bad[] = {
		{512, 8, 0, 0},    {512, 8, 4, 0},   {512, 8, 1, 3},       {512, 7, 1, 0},
		{512, 0, 1, 0},    {512, 129, 1, 0}, {4096, 8, 1, 1},      {4096, 15, 1, 2},
		{512, 16, 1, 1},   {512, 16, 1, 2},  {513, 8, 1, 0},       {0, 8, 1, 0},
		{2048, 16, 3, 2},
	};
	struct dif dif;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct err err = ERR_NONE;

		assert_int_equal(dif_init(&dif, bad[i].block, bad[i].md, bad[i].type,
					  bad[i].format, false, 0, &err),
				 -EINVAL);
		assert_true(err.text[0] != '\0');
	}
	assert_int_equal(dif_init(&dif, 520 - 8, 8, 1, DIF_PI_16, true, 0, NULL), 0);
	assert_int_equal(dif.pi_offset, 0);
	assert_int_equal(dif_init(&dif, 4096, 64, 1, DIF_PI_64, false, 0, NULL), 0);
	assert_int_equal(dif.pi_offset, 48);
}

/* Byte by byte, against the examples of the NVM command set: 4 KiB counting up. */
static void
layouts(void **state)
{
	static const uint8_t want32[16] = {0x9c, 0x71, 0xfe, 0x32, 0xab, 0xcd, 0, 0,
					   0,    0,    0,    1,    0x02, 3,    4, 5};
	static const uint8_t want64[16] = {0x3e, 0x72, 0x9f, 0x5f, 0x67, 0x50, 0x44, 0x9c,
					   0xab, 0xcd, 0,    1,    2,    3,    4,    5};
	uint8_t data[4096], md[24];
	struct iovec iov = {data, 4096}, md_iov = {md, 16};
	struct dif_list list = {&iov, 1, &md_iov, 1};
	struct dif dif;

	for (unsigned i = 0; i < 4096; i++) {
		data[i] = (uint8_t)i;
	}
	assert_int_equal(dif_init(&dif, 4096, 16, 1, DIF_PI_32, false, ALL, NULL), 0);
	dif.app_tag = 0xabcd;
	dif_generate(&dif, &list, 1, UINT64_C(0x0102030405));
	assert_memory_equal(md, want32, 16);
	assert_int_equal(dif_init(&dif, 4096, 16, 2, DIF_PI_64, false, ALL, NULL), 0);
	dif.app_tag = 0xabcd;
	dif_generate(&dif, &list, 1, UINT64_C(0xff000102030405));
	assert_memory_equal(md, want64, 16);
	assert_int_equal(dif_init(&dif, 512, 8, 1, DIF_PI_16, false, ALL, NULL), 0);
	iov.iov_len = 512;
	dif_generate(&dif, &list, 1, UINT64_C(0xff01020304));
	assert_int_equal(md[0] << 8 | md[1], crc_t10dif(0, data, 512));
	assert_memory_equal(md + 2, ((uint8_t[]){0, 0, 1, 2, 3, 4}), 6);
	/* What is before the PI belongs to what the guard covers. */
	assert_int_equal(dif_init(&dif, 512, 16, 1, DIF_PI_16, false, ALL, NULL), 0);
	memset(md, 0x5a, 24);
	dif_generate(&dif, &list, 1, 1);
	assert_int_equal(md[8] << 8 | md[9],
			 crc_t10dif(crc_t10dif(0, data, 512), "\x5a\x5a\x5a\x5a\x5a\x5a\x5a\x5a", 8));
	assert_int_equal(md[16], 0x5a);
}

static void
expect_error(struct stage *s, uint64_t ref, uint64_t block, enum dif_tag tag)
{
	struct dif_error error = {.block = 99};

	assert_int_equal(dif_verify(&s->dif, &s->list, BLOCKS, ref, &error), -EILSEQ);
	assert_int_equal(error.block, block);
	assert_int_equal(error.tag, tag);
	assert_true(error.expected != error.actual);
}

static uint8_t *
pi_of(struct stage *s, unsigned block)
{
	return s->md + block * s->dif.md_bytes + s->dif.pi_offset;
}

/* Each fault alone is found, where it is. */
static void
faults(struct stage *s, uint64_t ref)
{
	unsigned guard_bytes = s->dif.format == DIF_PI_16 ? 2 : s->dif.format == DIF_PI_32 ? 4 : 8;
	struct dif_error error;

	assert_int_equal(dif_verify(&s->dif, &s->list, BLOCKS, ref, &error), 0);
	s->data[3 * s->dif.block_bytes + 77] ^= 0x10;
	expect_error(s, ref, 3, DIF_GUARD);
	s->dif.check = DIF_CHECK_APP | DIF_CHECK_REF;
	assert_int_equal(dif_verify(&s->dif, &s->list, BLOCKS, ref, &error), 0);
	s->dif.check = ALL;
	s->data[3 * s->dif.block_bytes + 77] ^= 0x10;

	pi_of(s, 5)[guard_bytes] ^= 0x40;
	expect_error(s, ref, 5, DIF_APP_TAG);
	s->dif.app_mask = 0xbfff;
	assert_int_equal(dif_verify(&s->dif, &s->list, BLOCKS, ref, &error), 0);
	s->dif.app_mask = 0xffff;
	pi_of(s, 5)[guard_bytes] ^= 0x40;

	pi_of(s, BLOCKS - 1)[s->dif.pi_bytes - 1] ^= 1;
	if (s->dif.type != 3) {
		expect_error(s, ref, BLOCKS - 1, DIF_REF_TAG);
		pi_of(s, BLOCKS - 1)[s->dif.pi_bytes - 1] ^= 1;
		expect_error(s, ref + 1, 0, DIF_REF_TAG);
	} else {
		assert_int_equal(dif_verify(&s->dif, &s->list, BLOCKS, ref, &error), 0);
	}
	if (s->dif.pi_offset > 0) {
		s->md[0] ^= 1;
		expect_error(s, ref, 0, DIF_GUARD);
		s->md[0] ^= 1;
	}
}

/* Block 2's data is garbage, and its tags say so. */
static void
escapes(struct stage *s, uint64_t ref)
{
	unsigned guard_bytes = s->dif.format == DIF_PI_16 ? 2 : s->dif.format == DIF_PI_32 ? 4 : 8;
	struct dif_error error;

	memset(s->data + 2 * s->dif.block_bytes, 0x77, s->dif.block_bytes);
	memset(pi_of(s, 2) + guard_bytes, 0xff, 2);
	if (s->dif.type == 3) {
		expect_error(s, ref, 2, DIF_GUARD);
		memset(pi_of(s, 2) + guard_bytes, 0xff, s->dif.pi_bytes - guard_bytes);
	}
	assert_int_equal(dif_verify(&s->dif, &s->list, BLOCKS, ref, &error), 0);
	dif_remap(&s->dif, s->md, BLOCKS, 1000);
	assert_int_equal(dif_verify(&s->dif, &s->list, BLOCKS, ref + 1000, &error), 0);
	dif_remap(&s->dif, s->md, BLOCKS, (uint64_t)-1000);
	assert_int_equal(dif_verify(&s->dif, &s->list, BLOCKS, ref, &error), 0);
	dif_fill_unwritten(&s->dif, s->md, BLOCKS);
	assert_int_equal(dif_verify(&s->dif, &s->list, BLOCKS, ref, &error), 0);
	assert_int_equal(s->md[s->dif.pi_offset == 0 ? 0 : s->dif.pi_offset], 0xff);
	if (s->dif.pi_offset > 0) {
		assert_int_equal(s->md[0], 0);
	}
}

static void
all_kinds(void **state)
{
	static const size_t pieces[] = {1500, 4096, SIZE_MAX};
	static const uint32_t mds[] = {8, 16, 128};
	/* The last one: tags wrap round. */
	static const uint64_t refs[] = {0, 77, UINT64_MAX - 3};
	struct stage *s = calloc(1, sizeof(*s));

	srand(3);
	for (unsigned i = 0; i < 3 * 3 * 3 * 3 * 2; i++) {
		unsigned type = i % 3 + 1, format = i / 3 % 3;
		uint32_t md = mds[i / 9 % 3];
		size_t piece = pieces[i / 27 % 3];
		uint64_t ref = refs[i % 3];

		if (format != DIF_PI_16 && md < 16) {
			continue;
		}
		setup(s, format == DIF_PI_16 ? 512 : 4096, md, type, format, i / 81 % 2 != 0,
		      piece);
		dif_generate(&s->dif, &s->list, BLOCKS, ref);
		faults(s, ref);
		dif_generate(&s->dif, &s->list, BLOCKS, ref);
		escapes(s, ref);
	}
	free(s);
}

/* Behind each block in one list: the same bytes as in two. */
static void
interleaved(void **state)
{
	struct stage *s = calloc(1, sizeof(*s));
	uint8_t *both = calloc(BLOCKS, 4096 + 64);
	struct iovec iov[64];
	struct dif_list list = {.iov = iov};
	struct dif_error error;

	setup(s, 4096, 64, 1, DIF_PI_64, false, 1111);
	for (unsigned i = 0; i < BLOCKS; i++) {
		memcpy(both + i * 4160u, s->data + i * 4096u, 4096);
		memcpy(both + i * 4160u + 4096, s->md + i * 64u, 64);
	}
	list.iovcnt = cut(iov, both, BLOCKS * 4160u, 4100);
	dif_generate(&s->dif, &s->list, BLOCKS, 5);
	dif_generate(&s->dif, &list, BLOCKS, 5);
	for (unsigned i = 0; i < BLOCKS; i++) {
		assert_memory_equal(both + i * 4160u + 4096, s->md + i * 64u, 64);
	}
	assert_int_equal(dif_verify(&s->dif, &list, BLOCKS, 5, &error), 0);
	both[8 * 4160 + 4095] ^= 1;
	assert_int_equal(dif_verify(&s->dif, &list, BLOCKS, 5, &error), -EILSEQ);
	assert_int_equal(error.block, 8);
	s->dif.check = DIF_CHECK_REF;
	assert_int_equal(dif_verify(&s->dif, &list, BLOCKS, 5, &error), 0);
	assert_int_equal(dif_verify(&s->dif, &list, BLOCKS, 6, &error), -EILSEQ);
	assert_int_equal(error.expected, 6);
	assert_int_equal(error.actual, 5);
	free(both);
	free(s);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refuses),
		cmocka_unit_test(layouts),
		cmocka_unit_test(all_kinds),
		cmocka_unit_test(interleaved),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
