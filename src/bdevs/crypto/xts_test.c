/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/crypto/xts.h"

#include <errno.h>
#include <openssl/evp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/secret.h"

static struct xts_key
key_of(const char *data, const char *tweak, enum xts_tweak mode)
{
	struct xts_key key = {.tweak = mode};
	int half = secret_unhex(data, strlen(data), key.bytes, XTS_HALF_MAX);

	assert_true(half == 16 || half == 32);
	assert_int_equal(secret_unhex(tweak, strlen(tweak), key.bytes + half, XTS_HALF_MAX), half);
	key.half_bytes = (uint32_t)half;
	return key;
}

/* ---- Known answers: IEEE 1619-2007, annex B ---- */

#define COUNTING 0x100 /* the plain text is 00 01 02 ... */

static const struct {
	const char *key1, *key2;
	uint64_t unit;
	unsigned plain; /* each byte, or COUNTING */
	unsigned bytes;
	const char *cipher_start, *cipher_end; /* 32 bytes, 16 bytes */
} answers[] = {
	{"11111111111111111111111111111111", "22222222222222222222222222222222", 0x3333333333, 0x44, 32,
	 "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0", "fb186fff7480adc4289382ecd6d394f0"},
	{"fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0", "22222222222222222222222222222222", 0x3333333333, 0x44, 32,
	 "af85336b597afc1a900b2eb21ec949d292df4c047e0b21532186a5971a227a89", "92df4c047e0b21532186a5971a227a89"},
	{"27182818284590452353602874713526", "31415926535897932384626433832795", 0, COUNTING, 512,
	 "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c", "0a282df920147beabe421ee5319d0568"},
	{"2718281828459045235360287471352662497757247093699959574966967627",
	 "3141592653589793238462643383279502884197169399375105820974944592", 0xff, COUNTING, 512,
	 "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b", "c4f36ffda9fcea70b9c6e693e148c151"},
};

static void
expect_hex(const uint8_t *bytes, const char *hex)
{
	uint8_t want[64];
	int n = secret_unhex(hex, strlen(hex), want, sizeof(want));

	assert_true(n > 0);
	assert_memory_equal(bytes, want, (size_t)n);
}

static void
known_answers(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(answers); i++) {
		struct xts_key key = key_of(answers[i].key1, answers[i].key2, XTS_PLAIN64_LBA);
		uint8_t plain[512], cipher[512], again[512];
		struct iovec in = {plain, answers[i].bytes}, out = {again, answers[i].bytes};
		struct xts *x;

		for (unsigned b = 0; b < answers[i].bytes; b++) {
			plain[b] = (uint8_t)(answers[i].plain == COUNTING ? b : answers[i].plain);
		}
		assert_int_equal(xts_create(&key, answers[i].bytes, &x), 0);
		assert_int_equal(xts_encrypt(x, answers[i].unit, &in, 1, cipher, answers[i].bytes), 0);
		expect_hex(cipher, answers[i].cipher_start);
		expect_hex(cipher + answers[i].bytes - 16, answers[i].cipher_end);
		assert_int_equal(xts_decrypt(x, answers[i].unit, cipher, answers[i].bytes, &out, 1), 0);
		assert_memory_equal(again, plain, answers[i].bytes);
		xts_free(x);
	}
}

/* ---- Another implementation: XTS from single AES blocks, as the standard writes it down ---- */

static void
aes(const uint8_t *key, unsigned half_bytes, const uint8_t in[16], uint8_t out[16])
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	int n;

	assert_int_equal(EVP_EncryptInit_ex(ctx, half_bytes == 16 ? EVP_aes_128_ecb() : EVP_aes_256_ecb(), NULL, key, NULL),
			 1);
	EVP_CIPHER_CTX_set_padding(ctx, 0);
	assert_int_equal(EVP_EncryptUpdate(ctx, out, &n, in, 16), 1);
	EVP_CIPHER_CTX_free(ctx);
}

static void
double_tweak(uint8_t t[16])
{
	unsigned carry = 0;

	for (int i = 0; i < 16; i++) {
		unsigned next = t[i] >> 7;

		t[i] = (uint8_t)(t[i] << 1 | carry);
		carry = next;
	}
	t[0] ^= carry ? 0x87 : 0;
}

static void
reference_unit(const struct xts_key *key, const uint8_t tweak[16], const uint8_t *in, uint8_t *out, unsigned bytes)
{
	uint8_t t[16], block[16];

	aes(key->bytes + key->half_bytes, key->half_bytes, tweak, t);
	for (unsigned at = 0; at < bytes; at += 16) {
		for (int i = 0; i < 16; i++) {
			block[i] = in[at + (unsigned)i] ^ t[i];
		}
		aes(key->bytes, key->half_bytes, block, out + at);
		for (int i = 0; i < 16; i++) {
			out[at + (unsigned)i] ^= t[i];
		}
		double_tweak(t);
	}
}

/* The tweaks of two blocks of 1024 bytes from 0x0123456789abcdef on, byte by byte. */
#define LBA UINT64_C(0x0123456789abcdef)
static const struct {
	enum xts_tweak mode;
	unsigned unit_bytes;
	uint8_t tweaks[4][16];
} layouts[] = {
	{XTS_SIMPLE_LBA, 1024,
	 {{0, 0, 0, 0, 0, 0, 0, 0, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01},
	  {0, 0, 0, 0, 0, 0, 0, 0, 0xf0, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01}}},
	{XTS_PLAIN64_LBA, 1024,
	 {{0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0, 0, 0, 0, 0, 0, 0},
	  {0xf0, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0, 0, 0, 0, 0, 0, 0, 0}}},
	{XTS_JOIN_NEG_LBA_WITH_LBA, 1024,
	 {{0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0x7e},
	  {0xf0, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, 0x0f, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0x7e}}},
	/* Twice the number, and on by one every 512 bytes. */
	{XTS_INCR_512_FULL_LBA, 512,
	 {{0xde, 0x9b, 0x57, 0x13, 0xcf, 0x8a, 0x46, 0x02, 0, 0, 0, 0, 0, 0, 0, 0},
	  {0xdf, 0x9b, 0x57, 0x13, 0xcf, 0x8a, 0x46, 0x02, 0, 0, 0, 0, 0, 0, 0, 0},
	  {0xe0, 0x9b, 0x57, 0x13, 0xcf, 0x8a, 0x46, 0x02, 0, 0, 0, 0, 0, 0, 0, 0},
	  {0xe1, 0x9b, 0x57, 0x13, 0xcf, 0x8a, 0x46, 0x02, 0, 0, 0, 0, 0, 0, 0, 0}}},
	{XTS_INCR_512_UPPER_LBA, 512,
	 {{0, 0, 0, 0, 0, 0, 0, 0, 0xde, 0x9b, 0x57, 0x13, 0xcf, 0x8a, 0x46, 0x02},
	  {0, 0, 0, 0, 0, 0, 0, 0, 0xdf, 0x9b, 0x57, 0x13, 0xcf, 0x8a, 0x46, 0x02},
	  {0, 0, 0, 0, 0, 0, 0, 0, 0xe0, 0x9b, 0x57, 0x13, 0xcf, 0x8a, 0x46, 0x02},
	  {0, 0, 0, 0, 0, 0, 0, 0, 0xe1, 0x9b, 0x57, 0x13, 0xcf, 0x8a, 0x46, 0x02}}},
};

static void
tweak_layouts(void **state)
{
	_Static_assert(ARRAY_SIZE(layouts) == XTS_TWEAK_COUNT, "all of them");
	uint8_t plain[2048], want[2048], got[2048], again[2048];

	for (unsigned i = 0; i < sizeof(plain); i++) {
		plain[i] = (uint8_t)(i * 7 + i / 256);
	}
	for (size_t l = 0; l < ARRAY_SIZE(layouts); l++) {
		for (int wide = 0; wide < 2; wide++) {
			struct xts_key key = key_of(answers[2 + wide].key1, answers[2 + wide].key2, layouts[l].mode);
			struct iovec in = {plain, sizeof(plain)}, out = {again, sizeof(again)};
			unsigned unit = layouts[l].unit_bytes;
			struct xts *x;

			for (unsigned at = 0; at < sizeof(plain); at += unit) {
				reference_unit(&key, layouts[l].tweaks[at / unit], plain + at, want + at, unit);
			}
			assert_int_equal(xts_create(&key, 1024, &x), 0);
			assert_int_equal(xts_encrypt(x, LBA, &in, 1, got, sizeof(got)), 0);
			assert_memory_equal(got, want, sizeof(got));
			assert_int_equal(xts_decrypt(x, LBA, got, sizeof(got), &out, 1), 0);
			assert_memory_equal(again, plain, sizeof(plain));
			xts_free(x);
		}
	}
}

static void
names(void **state)
{
	enum xts_tweak tweak;

	for (unsigned i = 0; i < XTS_TWEAK_COUNT; i++) {
		assert_int_equal(xts_tweak_parse(xts_tweak_name((enum xts_tweak)i), &tweak), 0);
		assert_int_equal(tweak, i);
	}
	assert_int_equal(xts_tweak_parse("simple", &tweak), -EINVAL);
}

/* ---- Lists ---- */

#define BYTES 16384u

/* Cuts buf into entries of these lengths, repeated; empty ones too. */
static unsigned
cut(uint8_t *buf, const size_t *lens, size_t count, struct iovec *iov)
{
	size_t at = 0;
	unsigned n = 0;

	while (at < BYTES) {
		size_t len = MIN(lens[n % count], BYTES - at);

		iov[n++] = (struct iovec){buf + at, len};
		at += len;
	}
	return n;
}

/* However the memory is cut, the disk has the same bytes; and nothing decrypted is left in the buffer. */
static void
lists(void **state)
{
	static const size_t cuts[][5] = {{4096, 4096, 4096, 4096, 4096}, {512, 512, 512, 512, 512}, {1, 3, 511, 0, 513},
					 {4095, 1, 0, 0, 8192},		 {100, 4096, 5, 4096, 16}};
	static uint8_t plain[BYTES], want[BYTES], got[BYTES], before[BYTES], again[BYTES];
	struct xts_key key = key_of(answers[2].key1, answers[2].key2, XTS_SIMPLE_LBA);
	static struct iovec iov[BYTES];
	struct iovec flat = {plain, BYTES};
	struct xts *x;

	for (unsigned i = 0; i < BYTES; i++) {
		plain[i] = (uint8_t)(i * 13 + i / 512);
	}
	assert_int_equal(xts_create(&key, 4096, &x), 0);
	assert_int_equal(xts_encrypt(x, 77, &flat, 1, want, BYTES), 0);
	for (size_t c = 0; c < ARRAY_SIZE(cuts); c++) {
		unsigned n = cut(plain, cuts[c], 5, iov);

		memset(got, 0, BYTES);
		assert_int_equal(xts_encrypt(x, 77, iov, n, got, BYTES), 0);
		assert_memory_equal(got, want, BYTES);
		memcpy(before, got, BYTES);
		memset(again, 0, BYTES);
		n = cut(again, cuts[c], 5, iov);
		assert_int_equal(xts_decrypt(x, 77, got, BYTES, iov, n), 0);
		assert_memory_equal(again, plain, BYTES);
		for (unsigned i = 0; i < BYTES; i += 512) {
			static const uint8_t zeroes[512];

			assert_true(memcmp(got + i, before + i, 512) == 0 || memcmp(got + i, zeroes, 512) == 0);
		}
	}
	xts_free(x);
}

/* ---- Memory ---- */

/* The expanded keys are nowhere but in secret memory: its pages are cleared, and nothing can be decrypted any more. */
static void
keys_are_in_secret_memory(void **state)
{
	struct xts_key key = key_of(answers[3].key1, answers[3].key2, XTS_SIMPLE_LBA);
	struct xts *x;
	unsigned found = 0;
	FILE *f;
	char line[512];

	assert_true(xts_prepare());
	assert_int_equal(xts_create(&key, 512, &x), 0);
	/* An expanded AES-256 key begins with the key itself. */
	f = fopen("/proc/self/maps", "re");
	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL) {
		unsigned long from, to;
		char mode[5];

		if (sscanf(line, "%lx-%lx %4s", &from, &to, mode) != 3 || strncmp(mode, "rw", 2) != 0 ||
		    strstr(line, "[v") != NULL || strstr(line, "[stack") != NULL || to - from > (64u << 20)) {
			continue;
		}
		for (const uint8_t *p = (const uint8_t *)from; p + 32 <= (const uint8_t *)to; p += 4) {
			if (memcmp(p, key.bytes + 32, 32) == 0 && p != key.bytes + 32) {
				assert_true(secret_owns(p));
				found++;
			}
		}
	}
	fclose(f);
	assert_true(found >= 1);
	xts_free(x);
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define LOOKS_AT_MEMORY 0
#elif defined(__has_feature)
#define LOOKS_AT_MEMORY (!__has_feature(address_sanitizer) && !__has_feature(thread_sanitizer))
#else
#define LOOKS_AT_MEMORY 1
#endif

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(known_answers), cmocka_unit_test(tweak_layouts), cmocka_unit_test(names),
		cmocka_unit_test(lists),	 cmocka_unit_test(keys_are_in_secret_memory),
	};

	/* A sanitizer's shadow is not to be looked at. */
	return _cmocka_run_group_tests("xts", tests, ARRAY_SIZE(tests) - !LOOKS_AT_MEMORY, NULL, NULL);
}
