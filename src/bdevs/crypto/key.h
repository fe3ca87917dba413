/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The keys of crypto bdevs, by name. A key comes with the call that makes it, or from a file, a credential of the service
 * manager or the kernel's keyring; what it is itself nobody is told again. All functions: app thread.
 */
#ifndef BDEVS_CRYPTO_KEY_H
#define BDEVS_CRYPTO_KEY_H

#include <stdbool.h>

#include "base/err.h"
#include "bdevs/crypto/xts.h"

struct crypto_key;

/* Where a key comes from, and so whether it is there after a restart. */
enum crypto_key_source {
	CRYPTO_KEY_GIVEN, /* with the call: it is not */
	CRYPTO_KEY_FILE,
	CRYPTO_KEY_CREDENTIAL,
	CRYPTO_KEY_KEYRING,
};

#define CRYPTO_KEY_NAME_MAX 255

struct crypto_key_options {
	const char *name;
	const char *cipher;     /* "AES_XTS" */
	const char *tweak_mode; /* NULL: "SIMPLE_LBA" */
	enum crypto_key_source source;
	const char *key;  /* given: the data's half in hexadecimal digits */
	const char *key2; /* given: the tweak's */
	const char *from; /* else: path, or name of the credential or of the kernel's key */
	/* Ends with the last bdev that uses it. */
	bool temporary;
};

/*
 * A file, credential or kernel key holds both halves one after the other, as hexadecimal digits or as they are. 0; -EINVAL
 * (cipher, tweak mode, lengths, equal halves); -EEXIST; -ENOMEM; what reading says.
 */
int crypto_key_create(const struct crypto_key_options *options, struct err *err);
/* 0; -ENOENT; -EBUSY: a bdev uses it. */
int crypto_key_destroy(const char *name, struct err *err);

struct crypto_key *crypto_key_find(const char *name);
/* The one after key, the first for NULL; NULL at the end. */
struct crypto_key *crypto_key_next(struct crypto_key *key);

/* A user; each get is answered by a put, at the last of which a temporary key ends. */
void crypto_key_get(struct crypto_key *key);
void crypto_key_put(struct crypto_key *key); /* accepts NULL */

struct crypto_key_info {
	const char *name;
	const char *cipher;
	const char *tweak_mode;
	unsigned bits; /* of each half */
	enum crypto_key_source source;
	const char *from; /* NULL: given */
	bool temporary;
	unsigned users;
};

/* Borrowed from key. */
void crypto_key_info(const struct crypto_key *key, struct crypto_key_info *ret_info);
const struct xts_key *crypto_key_secret(const struct crypto_key *key);

/* Called for each key that was made; at most one is told. */
void crypto_key_set_notice(void (*made)(struct crypto_key *key));

#endif
