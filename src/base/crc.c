/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Checksums, eight bytes a step: the k-th of eight tables has the effect of a byte that k more
 * follow. The tables are made at first use.
 */
#include "base/crc.h"

#include <endian.h>
#include <limits.h>
#include <pthread.h>
#include <string.h>

#ifdef HAVE_ISAL
#include <isa-l/crc.h>
#endif

#include "base/check.h"

#define SLICES 8

#define T10DIF_POLY UINT16_C(0x8bb7)
/* Bits reversed: these begin with the least significant one. */
#define CASTAGNOLI_POLY UINT32_C(0x82f63b78)
#define IEEE_POLY UINT32_C(0xedb88320)
#define NVME_POLY UINT64_C(0x9a6c9329ac4bc9b5)

static uint16_t t10dif[SLICES][256];
static uint64_t castagnoli[SLICES][256], ieee[SLICES][256], nvme[SLICES][256];
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void
make_reflected(uint64_t table[SLICES][256], uint64_t poly)
{
	for (unsigned i = 0; i < 256; i++) {
		uint64_t crc = i;

		for (int bit = 0; bit < 8; bit++) {
			crc = (crc >> 1) ^ ((crc & 1) != 0 ? poly : 0);
		}
		table[0][i] = crc;
	}
	for (unsigned k = 1; k < SLICES; k++) {
		for (unsigned i = 0; i < 256; i++) {
			uint64_t before = table[k - 1][i];

			table[k][i] = (before >> 8) ^ table[0][before & 0xff];
		}
	}
}

static void
make_t10dif(void)
{
	for (unsigned i = 0; i < 256; i++) {
		uint16_t crc = (uint16_t)(i << 8);

		for (int bit = 0; bit < 8; bit++) {
			crc = (uint16_t)((crc << 1) ^ ((crc & 0x8000) != 0 ? T10DIF_POLY : 0));
		}
		t10dif[0][i] = crc;
	}
	for (unsigned k = 1; k < SLICES; k++) {
		for (unsigned i = 0; i < 256; i++) {
			uint16_t before = t10dif[k - 1][i];

			t10dif[k][i] = (uint16_t)((before << 8) ^ t10dif[0][before >> 8]);
		}
	}
}

static void
make_tables(void)
{
	make_t10dif();
	make_reflected(castagnoli, CASTAGNOLI_POLY);
	make_reflected(ieee, IEEE_POLY);
	make_reflected(nvme, NVME_POLY);
}

static uint64_t
reflected(const uint64_t table[SLICES][256], uint64_t crc, const uint8_t *p, size_t len)
{
	for (; len >= 8; p += 8, len -= 8) {
		uint64_t word;

		memcpy(&word, p, 8);
		crc ^= le64toh(word);
		crc = table[7][crc & 0xff] ^ table[6][(crc >> 8) & 0xff] ^
		      table[5][(crc >> 16) & 0xff] ^ table[4][(crc >> 24) & 0xff] ^
		      table[3][(crc >> 32) & 0xff] ^ table[2][(crc >> 40) & 0xff] ^
		      table[1][(crc >> 48) & 0xff] ^ table[0][crc >> 56];
	}
	while (len-- > 0) {
		crc = (crc >> 8) ^ table[0][(crc ^ *p++) & 0xff];
	}
	return crc;
}

uint16_t
crc_t10dif_plain(uint16_t crc, const void *buf, size_t len)
{
	const uint8_t *p = buf;

	pthread_once(&once, make_tables);
	for (; len >= 8; p += 8, len -= 8) {
		crc = t10dif[7][p[0] ^ (crc >> 8)] ^ t10dif[6][p[1] ^ (crc & 0xff)] ^
		      t10dif[5][p[2]] ^ t10dif[4][p[3]] ^ t10dif[3][p[4]] ^ t10dif[2][p[5]] ^
		      t10dif[1][p[6]] ^ t10dif[0][p[7]];
	}
	while (len-- > 0) {
		crc = (uint16_t)((crc << 8) ^ t10dif[0][(crc >> 8) ^ *p++]);
	}
	return crc;
}

uint32_t
crc_32c_plain(uint32_t crc, const void *buf, size_t len)
{
	pthread_once(&once, make_tables);
	return ~(uint32_t)reflected(castagnoli, (uint32_t)~crc, buf, len);
}

#ifdef HAVE_ISAL

uint16_t
crc_t10dif(uint16_t crc, const void *buf, size_t len)
{
	return crc16_t10dif(crc, buf, len);
}

uint32_t
crc_32c(uint32_t crc, const void *buf, size_t len)
{
	uint8_t *p = (uint8_t *)(uintptr_t)buf;

	crc = ~crc;
	while (len > 0) {
		size_t n = MIN(len, (size_t)INT_MAX);

		crc = crc32_iscsi(p, (int)n, crc);
		p += n;
		len -= n;
	}
	return ~crc;
}

#else

uint16_t
crc_t10dif(uint16_t crc, const void *buf, size_t len)
{
	return crc_t10dif_plain(crc, buf, len);
}

uint32_t
crc_32c(uint32_t crc, const void *buf, size_t len)
{
	return crc_32c_plain(crc, buf, len);
}

#endif

uint32_t
crc_32(uint32_t crc, const void *buf, size_t len)
{
	pthread_once(&once, make_tables);
	return ~(uint32_t)reflected(ieee, (uint32_t)~crc, buf, len);
}

uint64_t
crc_64nvme(uint64_t crc, const void *buf, size_t len)
{
	pthread_once(&once, make_tables);
	return ~reflected(nvme, ~crc, buf, len);
}
