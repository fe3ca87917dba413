/* SPDX-License-Identifier: BSD-3-Clause */
/* Parity: sums over GF(2). 64 bytes at a time in registers, one pass over all sources; memory is
 * the limit. Pure, any thread. */
#include <string.h>

#include "bdevs/raid/internal.h"

/* What the compiler makes the widest registers of that the target has. */
typedef uint64_t vec __attribute__((vector_size(32)));

void
raid_xor(void *dst, void *const *sources, unsigned count, size_t bytes)
{
	for (size_t at = 0; at < bytes; at += 64) {
		vec a, b, x, y;

		memcpy(&a, (const uint8_t *)sources[0] + at, 32);
		memcpy(&b, (const uint8_t *)sources[0] + at + 32, 32);
		for (unsigned i = 1; i < count; i++) {
			memcpy(&x, (const uint8_t *)sources[i] + at, 32);
			memcpy(&y, (const uint8_t *)sources[i] + at + 32, 32);
			a ^= x;
			b ^= y;
		}
		memcpy((uint8_t *)dst + at, &a, 32);
		memcpy((uint8_t *)dst + at + 32, &b, 32);
	}
}

bool
raid_is_zero(const void *p, size_t bytes)
{
	return bytes == 0 || (*(const uint8_t *)p == 0 &&
			      memcmp(p, (const uint8_t *)p + 1, bytes - 1) == 0);
}
