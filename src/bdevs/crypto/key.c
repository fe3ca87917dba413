/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. The bytes of a key are in secret memory, and in a buffer of secret memory while they are read; no message has a part of
 *     them.
 *  2. A key that is used stays.
 */
#include "bdevs/crypto/key.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/list.h"
#include "base/log.h"
#include "base/secret.h"

#define CIPHER "AES_XTS"

struct crypto_key {
	struct list link;
	char *name;
	char *from;
	enum crypto_key_source source;
	bool temporary;
	unsigned users;
	struct xts_key *secret;
};

static struct list keys = {&keys, &keys};
static void (*notice)(struct crypto_key *key);

/* ---- Bytes ---- */

/* What a source holds: digits, or the halves themselves. Takes them into key; 0 or -EINVAL with err. */
static int
take_halves(struct xts_key *key, const char *text, size_t length, const char *from, struct err *err)
{
	size_t max = sizeof(key->bytes);
	int bytes = secret_unhex(text, length, key->bytes, max);

	if (bytes < 0 && (length == max || length == max / 2)) {
		memcpy(key->bytes, text, length);
		bytes = (int)length;
	}
	if (bytes != (int)max && bytes != (int)max / 2) {
		return err_set(err, -EINVAL, "%s: holds no AES-XTS key: 64 or 128 hexadecimal digits, or 32 or 64 bytes, "
			       "are both halves of one", from);
	}
	key->half_bytes = (uint32_t)bytes / 2;
	return 0;
}

static int
read_source(const struct crypto_key_options *o, struct xts_key *key, struct err *err)
{
	char *text = secret_alloc(SECRET_TEXT_MAX);
	int rc;

	if (text == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	switch (o->source) {
	case CRYPTO_KEY_FILE:
		rc = secret_read_file(o->from, text, err);
		break;
	case CRYPTO_KEY_CREDENTIAL:
		rc = secret_read_credential(o->from, text, err);
		break;
	default:
		rc = secret_read_keyring(o->from, text, err);
		break;
	}
	if (rc >= 0) {
		rc = take_halves(key, text, (size_t)rc, o->from, err);
	}
	secret_free(text);
	return rc;
}

static int
take_given(const struct crypto_key_options *o, struct xts_key *key, struct err *err)
{
	int first, second;

	if (o->key == NULL || o->key2 == NULL) {
		return err_set(err, -EINVAL, "AES_XTS needs key and key2, or a key_file, key_credential or key_keyring");
	}
	first = secret_unhex(o->key, strlen(o->key), key->bytes, XTS_HALF_MAX);
	if (first != 16 && first != 32) {
		return err_set(err, -EINVAL, "key is neither 32 nor 64 hexadecimal digits");
	}
	second = secret_unhex(o->key2, strlen(o->key2), key->bytes + first, XTS_HALF_MAX);
	if (second != first) {
		return err_set(err, -EINVAL, "key2 is not %d hexadecimal digits, as key is", 2 * first);
	}
	key->half_bytes = (uint32_t)first;
	return 0;
}

static int
fill(const struct crypto_key_options *o, struct xts_key *key, struct err *err)
{
	int rc;

	if (strcmp(o->cipher, CIPHER) != 0) {
		return err_set(err, -EINVAL, "cipher %.64s is not offered: " CIPHER " is (AES_CBC with the block's number as its "
			       "start shows which blocks are equal)", o->cipher);
	}
	if (o->tweak_mode != NULL && xts_tweak_parse(o->tweak_mode, &key->tweak) != 0) {
		return err_set(err, -EINVAL, "there is no tweak mode %.64s", o->tweak_mode);
	}
	rc = o->source == CRYPTO_KEY_GIVEN ? take_given(o, key, err) : read_source(o, key, err);
	if (rc == 0 && secret_equal(key->bytes, key->bytes + key->half_bytes, key->half_bytes)) {
		rc = err_set(err, -EINVAL, "its two halves are the same, which makes AES-XTS weak");
	}
	return rc;
}

/* ---- Life ---- */

static void
key_free(struct crypto_key *key)
{
	list_remove(&key->link);
	secret_free(key->secret);
	free(key->name);
	free(key->from);
	free(key);
}

int
crypto_key_create(const struct crypto_key_options *o, struct err *err)
{
	size_t length = strlen(o->name);
	struct crypto_key *key;
	int rc = 0;

	if (length == 0 || length > CRYPTO_KEY_NAME_MAX) {
		return err_set(err, -EINVAL, "a key's name has 1 to %d bytes", CRYPTO_KEY_NAME_MAX);
	}
	if (crypto_key_find(o->name) != NULL) {
		return err_set(err, -EEXIST, "a key named '%s' exists already", o->name);
	}
	key = calloc(1, sizeof(*key));
	if (key == NULL) {
		return err_set(err, -ENOMEM, "key '%s': out of memory", o->name);
	}
	key->source = o->source;
	key->temporary = o->temporary;
	key->secret = secret_alloc(sizeof(*key->secret));
	key->name = strdup(o->name);
	key->from = o->source != CRYPTO_KEY_GIVEN ? strdup(o->from) : NULL;
	if (key->secret == NULL || key->name == NULL || (o->source != CRYPTO_KEY_GIVEN && key->from == NULL)) {
		rc = err_set(err, -ENOMEM, "out of memory");
	} else {
		rc = fill(o, key->secret, err);
	}
	if (rc != 0) {
		err_prefix(err, "key '%s': ", o->name);
		key_free(key);
		return rc;
	}
	list_append(&keys, &key->link);
	if (!secret_locked()) {
		LOG_WARNING(BDEV, key->name, "keys cannot be locked into memory and may be swapped out: raise "
			    "RLIMIT_MEMLOCK (LimitMEMLOCK=)");
	}
	if (notice != NULL) {
		notice(key);
	}
	return 0;
}

int
crypto_key_destroy(const char *name, struct err *err)
{
	struct crypto_key *key = crypto_key_find(name);

	if (key == NULL) {
		return err_set(err, -ENOENT, "there is no key '%s'", name);
	}
	if (key->users > 0) {
		return err_set(err, -EBUSY, "key '%s' is used by %u crypto bdev%s", name, key->users,
			       key->users == 1 ? "" : "s");
	}
	key_free(key);
	return 0;
}

struct crypto_key *
crypto_key_find(const char *name)
{
	struct crypto_key *key;

	LIST_FOREACH (key, &keys, link) {
		if (strcmp(key->name, name) == 0) {
			return key;
		}
	}
	return NULL;
}

struct crypto_key *
crypto_key_next(struct crypto_key *key)
{
	struct list *next = key == NULL ? keys.next : key->link.next;

	return next == &keys ? NULL : LIST_ENTRY(next, struct crypto_key, link);
}

void
crypto_key_get(struct crypto_key *key)
{
	key->users++;
}

void
crypto_key_put(struct crypto_key *key)
{
	if (key != NULL && --key->users == 0 && key->temporary) {
		key_free(key);
	}
}

void
crypto_key_info(const struct crypto_key *key, struct crypto_key_info *ret_info)
{
	*ret_info = (struct crypto_key_info){
		.name = key->name,
		.cipher = CIPHER,
		.tweak_mode = xts_tweak_name(key->secret->tweak),
		.bits = key->secret->half_bytes * 8,
		.source = key->source,
		.from = key->from,
		.temporary = key->temporary,
		.users = key->users,
	};
}

const struct xts_key *
crypto_key_secret(const struct crypto_key *key)
{
	return key->secret;
}

void
crypto_key_set_notice(void (*made)(struct crypto_key *key))
{
	notice = made;
}
