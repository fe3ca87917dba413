/* SPDX-License-Identifier: BSD-3-Clause */
/* Base64 (RFC 4648, section 4: with padding, no line breaks). Pure. */
#ifndef BASE_BASE64_H
#define BASE_BASE64_H

#include <stddef.h>
#include <stdint.h>

/* For free(); NULL when memory is out. */
char *base64_encode(const uint8_t *bytes, size_t count);

/* For free(), one zero after *ret_count bytes; NULL: text is none, or memory is out. */
uint8_t *base64_decode(const char *text, size_t *ret_count);

#endif
