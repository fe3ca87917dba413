/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Copies to memory that is far larger than the cache: lines that are written as a whole need not be fetched first, and leave the
 * cache to those who read.
 */
#ifndef BASE_COPY_H
#define BASE_COPY_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define COPY_LINE_BYTES 64u

/* `to` is at a multiple of 64 bytes, bytes is one. Ordered before all later stores, as memcpy() is. */
static inline void
copy_past_cache(void *to, const void *from, size_t bytes)
{
#if defined(__SSE2__)
	const uint8_t *source = from;
	uint8_t *target = to;

	for (size_t at = 0; at < bytes; at += COPY_LINE_BYTES) {
		__m128i part[4];

		for (unsigned i = 0; i < 4; i++) {
			part[i] = _mm_loadu_si128((const __m128i *)(const void *)(source + at) + i);
		}
		for (unsigned i = 0; i < 4; i++) {
			_mm_stream_si128((__m128i *)(void *)(target + at) + i, part[i]);
		}
	}
	_mm_sfence();
#else
	memcpy(to, from, bytes);
#endif
}

#endif
