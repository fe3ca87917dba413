/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory for secrets, and secrets from outside. What secret_alloc() gives is kept out of core dumps and of swap,
 * is not inherited by children, and is wiped when freed. Any thread.
 *
 * Locking into memory is limited (RLIMIT_MEMLOCK): what cannot be locked is used all the same, and secret_locked()
 * says so; out of core dumps it is always.
 */
#ifndef BASE_SECRET_H
#define BASE_SECRET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* Zeroed, aligned to 64 bytes. NULL when memory is out. */
void *secret_alloc(size_t bytes);
/* Wipes. Accepts NULL. */
void secret_free(void *secret);
/* Whether ptr is inside memory of secret_alloc(); bytes that can be used there from ptr on, for an allocation's
 * start. */
bool secret_owns(const void *ptr);
size_t secret_size(const void *secret);
/* False once some of this memory could not be locked. */
bool secret_locked(void);

/* Takes as long for any two of a length. */
bool secret_equal(const void *a, const void *b, size_t bytes);

/*
 * Hexadecimal digits, of either case; white space between them is ignored. Writes at most max bytes; how many, or
 * -EINVAL (an odd number of digits, something else between them), -E2BIG.
 */
int secret_unhex(const char *text, size_t length, uint8_t *bytes, size_t max);

/* Longest text of a secret from outside. */
#define SECRET_TEXT_MAX 4096

/*
 * The contents of a file that belongs to root or to this user and that nobody else may read or write, into buf of
 * SECRET_TEXT_MAX bytes. Their number, or a negative errno with err (-EPERM: others may read it).
 */
int secret_read_file(const char *path, char *buf, struct err *err);

/* The same of a credential that systemd passed to the service (LoadCredential=). -ENOENT: there is none of that name. */
int secret_read_credential(const char *name, char *buf, struct err *err);

/* The same of a key of type "user" in the kernel's keyrings of this process. -ENOKEY: there is none of that description. */
int secret_read_keyring(const char *description, char *buf, struct err *err);

#endif
