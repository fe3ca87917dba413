/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/base64.h"

#include <stdlib.h>
#include <string.h>

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *
base64_encode(const uint8_t *bytes, size_t count)
{
	char *text, *out;

	if (count > SIZE_MAX / 2) {
		return NULL;
	}
	text = out = malloc((count + 2) / 3 * 4 + 1);
	for (size_t i = 0; out != NULL && i < count; i += 3) {
		size_t have = count - i;
		uint32_t bits = (uint32_t)bytes[i] << 16 |
				(have > 1 ? (uint32_t)bytes[i + 1] << 8 : 0) |
				(have > 2 ? bytes[i + 2] : 0);

		*out++ = alphabet[bits >> 18];
		*out++ = alphabet[bits >> 12 & 63];
		*out++ = have > 1 ? alphabet[bits >> 6 & 63] : '=';
		*out++ = have > 2 ? alphabet[bits & 63] : '=';
	}
	if (out != NULL) {
		*out = '\0';
	}
	return text;
}

/* 0 to 63, or 64 when c is not of the alphabet. */
static uint32_t
value_of(char c)
{
	const char *at = c != '\0' ? strchr(alphabet, c) : NULL;

	return at != NULL ? (uint32_t)(at - alphabet) : 64;
}

uint8_t *
base64_decode(const char *text, size_t *ret_count)
{
	size_t len = strlen(text), padding = 0, count = 0;
	uint8_t *bytes;

	if (len % 4 != 0) {
		return NULL;
	}
	while (padding < 2 && padding < len && text[len - 1 - padding] == '=') {
		padding++;
	}
	bytes = malloc(len / 4 * 3 + 1);
	for (size_t i = 0; bytes != NULL && i < len; i += 4) {
		uint32_t bits = 0;

		for (size_t k = i; k < i + 4; k++) {
			uint32_t value = k < len - padding ? value_of(text[k]) : 0;

			if (value > 63) {
				free(bytes);
				return NULL;
			}
			bits = bits << 6 | value;
		}
		bytes[count++] = (uint8_t)(bits >> 16);
		bytes[count++] = (uint8_t)(bits >> 8);
		bytes[count++] = (uint8_t)bits;
	}
	if (bytes != NULL) {
		*ret_count = count - padding;
		bytes[*ret_count] = 0;
	}
	return bytes;
}
