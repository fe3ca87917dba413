/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. The cipher's contexts get their keys once; per data unit only the tweak is set.
 *  2. A data unit that lies in one entry of the list goes through the cipher straight, source to destination. One that lies in
 *     several is put together in the buffer: a data unit is never ciphered in two calls, for the second would begin with
 *     the tweak of the first.
 *  3. Expanded keys are in secret memory, if xts_prepare() was called in time.
 */
#include "bdevs/crypto/xts.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/iov.h"
#include "base/secret.h"

#define SECTOR_BYTES 512u

struct xts {
	EVP_CIPHER_CTX *encrypt;
	EVP_CIPHER_CTX *decrypt;
	uint32_t unit_bytes;
	uint32_t units_a_block;
	enum xts_tweak tweak;
};

static const char *const tweak_names[XTS_TWEAK_COUNT] = {
	[XTS_SIMPLE_LBA] = "SIMPLE_LBA",
	[XTS_JOIN_NEG_LBA_WITH_LBA] = "JOIN_NEG_LBA_WITH_LBA",
	[XTS_INCR_512_FULL_LBA] = "INCR_512_FULL_LBA",
	[XTS_INCR_512_UPPER_LBA] = "INCR_512_UPPER_LBA",
	[XTS_PLAIN64_LBA] = "PLAIN64_LBA",
};

const char *
xts_tweak_name(enum xts_tweak tweak)
{
	return tweak_names[tweak];
}

int
xts_tweak_parse(const char *name, enum xts_tweak *ret_tweak)
{
	for (unsigned i = 0; i < XTS_TWEAK_COUNT; i++) {
		if (strcmp(tweak_names[i], name) == 0) {
			*ret_tweak = (enum xts_tweak)i;
			return 0;
		}
	}
	return -EINVAL;
}

/* ---- Where libcrypto's memory comes from ---- */

/* What libcrypto allocates on this system thread now holds keys. */
static _Thread_local bool keeping_secret;

static void *
take(size_t bytes, const char *file, int line)
{
	return keeping_secret ? secret_alloc(bytes) : malloc(bytes);
}

static void
give(void *ptr, const char *file, int line)
{
	if (secret_owns(ptr)) {
		secret_free(ptr);
	} else {
		free(ptr);
	}
}

static void *
take_again(void *ptr, size_t bytes, const char *file, int line)
{
	void *moved;

	if (!secret_owns(ptr)) {
		return realloc(ptr, bytes);
	}
	moved = secret_alloc(bytes);
	if (moved != NULL) {
		memcpy(moved, ptr, MIN(bytes, secret_size(ptr)));
		secret_free(ptr);
	}
	return moved;
}

static bool prepared;

static void
prepare(void)
{
	prepared = CRYPTO_set_mem_functions(take, take_again, give) == 1;
}

bool
xts_prepare(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, prepare);
	return prepared;
}

/* ---- Life ---- */

static EVP_CIPHER *ciphers[2];

static void
fetch(void)
{
	ciphers[0] = EVP_CIPHER_fetch(NULL, "AES-128-XTS", NULL);
	ciphers[1] = EVP_CIPHER_fetch(NULL, "AES-256-XTS", NULL);
}

static EVP_CIPHER_CTX *
context(const EVP_CIPHER *cipher, const struct xts_key *key, int encrypt)
{
	EVP_CIPHER_CTX *ctx;

	keeping_secret = xts_prepare();
	ctx = EVP_CIPHER_CTX_new();
	if (ctx != NULL && EVP_CipherInit_ex2(ctx, cipher, key->bytes, NULL, encrypt, NULL) != 1) {
		EVP_CIPHER_CTX_free(ctx);
		ctx = NULL;
	}
	keeping_secret = false;
	return ctx;
}

int
xts_create(const struct xts_key *key, uint32_t block_size, struct xts **ret_xts)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	bool by_sector = key->tweak == XTS_INCR_512_FULL_LBA || key->tweak == XTS_INCR_512_UPPER_LBA;
	const EVP_CIPHER *cipher;
	struct xts *x;

	(void)xts_prepare();
	pthread_once(&once, fetch);
	cipher = ciphers[key->half_bytes == 32];
	if (cipher == NULL) {
		return -EOPNOTSUPP;
	}
	x = calloc(1, sizeof(*x));
	if (x == NULL) {
		return -ENOMEM;
	}
	x->unit_bytes = by_sector ? SECTOR_BYTES : block_size;
	x->units_a_block = block_size / x->unit_bytes;
	x->tweak = key->tweak;
	x->encrypt = context(cipher, key, 1);
	x->decrypt = context(cipher, key, 0);
	if (x->encrypt == NULL || x->decrypt == NULL) {
		xts_free(x);
		return -EIO;
	}
	*ret_xts = x;
	return 0;
}

void
xts_free(struct xts *x)
{
	if (x == NULL) {
		return;
	}
	EVP_CIPHER_CTX_free(x->encrypt);
	EVP_CIPHER_CTX_free(x->decrypt);
	free(x);
}

/* ---- Data ---- */

static inline void
make_tweak(const struct xts *x, uint64_t unit, uint64_t tweak[2])
{
	switch (x->tweak) {
	case XTS_SIMPLE_LBA:
	case XTS_INCR_512_UPPER_LBA:
		tweak[0] = 0;
		tweak[1] = unit;
		break;
	case XTS_JOIN_NEG_LBA_WITH_LBA:
		tweak[0] = unit;
		tweak[1] = ~unit & ~(UINT64_C(1) << 63);
		break;
	default:
		tweak[0] = unit;
		tweak[1] = 0;
		break;
	}
}

static inline bool
cipher_unit(const struct xts *x, EVP_CIPHER_CTX *ctx, uint64_t unit, const uint8_t *in, uint8_t *out)
{
	uint64_t tweak[2];
	int got;

	make_tweak(x, unit, tweak);
	return EVP_CipherInit_ex2(ctx, NULL, NULL, (const unsigned char *)tweak, -1, NULL) == 1 &&
	       EVP_CipherUpdate(ctx, out, &got, in, (int)x->unit_bytes) == 1;
}

/* Where a walk over a list stands. */
struct place {
	const struct iovec *iov;
	unsigned left; /* entries, this one included */
	size_t offset;
};

/* Where the next data unit begins, if it lies in one entry; NULL: it does not. */
static inline uint8_t *
whole(struct place *p, size_t bytes)
{
	while (p->left > 0 && p->offset == p->iov->iov_len) {
		p->iov++;
		p->left--;
		p->offset = 0;
	}
	return p->left > 0 && p->iov->iov_len - p->offset >= bytes ? (uint8_t *)p->iov->iov_base + p->offset : NULL;
}

static void
skip(struct place *p, size_t bytes)
{
	while (bytes > 0) {
		size_t n = MIN(bytes, p->iov->iov_len - p->offset);

		p->offset += n;
		bytes -= n;
		if (p->offset == p->iov->iov_len && bytes > 0) {
			p->iov++;
			p->left--;
			p->offset = 0;
		}
	}
}

int
xts_encrypt(struct xts *x, uint64_t lba, const struct iovec *iov, unsigned iovcnt, uint8_t *out, size_t bytes)
{
	struct place p = {.iov = iov, .left = iovcnt};
	uint64_t unit = lba * x->units_a_block;

	for (size_t at = 0; at < bytes; at += x->unit_bytes, unit++) {
		const uint8_t *in = whole(&p, x->unit_bytes);

		if (UNLIKELY(in == NULL)) {
			iov_to_buf(p.iov, (int)p.left, p.offset, out + at, x->unit_bytes);
			skip(&p, x->unit_bytes);
			in = out + at;
		} else {
			p.offset += x->unit_bytes;
		}
		if (UNLIKELY(!cipher_unit(x, x->encrypt, unit, in, out + at))) {
			return -EIO;
		}
	}
	return 0;
}

int
xts_decrypt(struct xts *x, uint64_t lba, uint8_t *in, size_t bytes, const struct iovec *iov, unsigned iovcnt)
{
	struct place p = {.iov = iov, .left = iovcnt};
	uint64_t unit = lba * x->units_a_block;

	for (size_t at = 0; at < bytes; at += x->unit_bytes, unit++) {
		uint8_t *out = whole(&p, x->unit_bytes);
		bool good = cipher_unit(x, x->decrypt, unit, in + at, out != NULL ? out : in + at);

		if (UNLIKELY(out == NULL)) {
			if (good) {
				iov_from_buf(p.iov, (int)p.left, p.offset, in + at, x->unit_bytes);
			}
			explicit_bzero(in + at, x->unit_bytes);
			skip(&p, x->unit_bytes);
		} else {
			p.offset += x->unit_bytes;
		}
		if (UNLIKELY(!good)) {
			return -EIO;
		}
	}
	return 0;
}
