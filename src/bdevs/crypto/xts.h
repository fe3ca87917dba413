/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * AES-XTS (IEEE 1619) over the blocks of a disk, by libcrypto, which uses what the CPU has (AES-NI, VAES). Each block is a
 * data unit of its own; its tweak is made of its number.
 */
#ifndef BDEVS_CRYPTO_XTS_H
#define BDEVS_CRYPTO_XTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"

/*
 * How the 128 bits of a tweak, in memory from the first byte on, are made of a block's number, in little-endian order:
 *   SIMPLE_LBA            64 zero bits, the number: what SPDK's software engine writes
 *   JOIN_NEG_LBA_WITH_LBA the number, its complement with the highest bit zero
 *   INCR_512_FULL_LBA     the number of each 512 bytes, 64 zero bits: what dm-crypt calls plain64
 *   INCR_512_UPPER_LBA    64 zero bits, the number of each 512 bytes
 *   PLAIN64_LBA           the number, 64 zero bits: what SPDK's SIMPLE_LBA is with dpdk_cryptodev; ours
 * In the INCR_512 modes each 512 bytes are a data unit.
 */
enum xts_tweak {
	XTS_SIMPLE_LBA,
	XTS_JOIN_NEG_LBA_WITH_LBA,
	XTS_INCR_512_FULL_LBA,
	XTS_INCR_512_UPPER_LBA,
	XTS_PLAIN64_LBA,
	XTS_TWEAK_COUNT
};

/* "SIMPLE_LBA", ... */
const char *xts_tweak_name(enum xts_tweak tweak);
/* 0 or -EINVAL. */
int xts_tweak_parse(const char *name, enum xts_tweak *ret_tweak);

#define XTS_HALF_MAX 32

/* Belongs into memory of secret_alloc(). */
struct xts_key {
	uint8_t bytes[2 * XTS_HALF_MAX]; /* the data's half, then the tweak's */
	uint32_t half_bytes;             /* 16: AES-128, 32: AES-256 */
	enum xts_tweak tweak;
};

struct xts;

/*
 * Has libcrypto keep expanded keys in secret memory. Before anything else in the process uses libcrypto; too late, they are
 * in ordinary memory: false.
 */
bool xts_prepare(void);

/* For one thread at a time. Borrows nothing. 0, -ENOMEM, -EOPNOTSUPP (libcrypto does not offer the cipher), -EIO. */
int xts_create(const struct xts_key *key, uint32_t block_size, struct xts **ret_xts);
/* Accepts NULL. */
void xts_free(struct xts *x);

/* Encrypts whole blocks, from lba on, out of a list into a buffer of as many bytes that is nobody else's. Each byte of the
 * list is read once. 0 or -EIO. */
int xts_encrypt(struct xts *x, uint64_t lba, const struct iovec *iov, unsigned iovcnt, uint8_t *out, size_t bytes);

/* Decrypts whole blocks out of a buffer into a list. What was in the buffer may have changed afterwards, but it holds
 * nothing that was decrypted. 0 or -EIO. */
int xts_decrypt(struct xts *x, uint64_t lba, uint8_t *in, size_t bytes, const struct iovec *iov, unsigned iovcnt);

#endif
