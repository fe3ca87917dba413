/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Crypto bdevs: what is written is encrypted on its way to the base bdev, what is read decrypted. The base has no header: it
 * has the same blocks, encrypted each for itself. All functions: app thread.
 */
#ifndef BDEVS_CRYPTO_CRYPTO_H
#define BDEVS_CRYPTO_CRYPTO_H

#include "base/err.h"
#include "bdev/bdev.h"

struct crypto_bdev_options {
	const char *name;
	const char *base_name;
	const char *key_name;
	bool wait_for_key; /* a key that is not there yet is awaited, as the base is */
};

/*
 * Borrows options. ret (may be NULL) is NULL while the base, or the key, is awaited. 0; -ENOKEY (no such key); -EEXIST;
 * -EPERM (the base is claimed); -EOPNOTSUPP (a zoned base); -ENOMEM.
 */
int bdev_crypto_create(const struct crypto_bdev_options *options, struct bdev **ret, struct err *err);

/* Also one that still waits. 0: done(ctx, 0) follows, perhaps at once; -ENODEV: done is not called. */
int bdev_crypto_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);

/* For the saved configuration: those that wait, too. False when bdev is none of ours. Borrowed. */
bool bdev_crypto_get_options(const struct bdev *bdev, struct crypto_bdev_options *ret_options);

/* Calls fn for each that is no bdev yet, because its base or its key is not there. */
void bdev_crypto_for_each_waiting(void (*fn)(void *ctx, const struct crypto_bdev_options *options, bool for_key),
				  void *ctx);
/* The same for all, those that are bdevs and those that wait. */
void bdev_crypto_for_each(void (*fn)(void *ctx, const struct crypto_bdev_options *options), void *ctx);

#endif
