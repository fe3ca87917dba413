/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The pattern of verify: a head of four words (magic, lba, seed, generation), then words of a
 * hash of them.
 */
#include "app/perf_pattern.h"

#include <inttypes.h>
#include <stdio.h>

#define MAGIC UINT64_C(0x6265727468706631) /* "berthpf1" */

/* splitmix64: any two of its outputs differ in about half of their bits. */
static uint64_t
mix(uint64_t x)
{
	x += UINT64_C(0x9e3779b97f4a7c15);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static uint64_t
word(const struct perf_pattern *p, uint64_t lba, uint64_t key, unsigned i)
{
	switch (i) {
	case 0:
		return MAGIC;
	case 1:
		return lba;
	case 2:
		return p->seed;
	case 3:
		return p->generation;
	default:
		return (key + i) * UINT64_C(0xd1342543de82ef95);
	}
}

static uint64_t
block_key(const struct perf_pattern *p, uint64_t lba)
{
	return mix(lba ^ mix(p->seed ^ mix(p->generation)));
}

void
perf_pattern_fill(const struct perf_pattern *p, uint64_t lba, unsigned count, void *buf)
{
	uint64_t *w = buf;

	for (unsigned b = 0; b < count; b++, lba++) {
		uint64_t key = block_key(p, lba);

		for (unsigned i = 0; i < p->block_size / sizeof(*w); i++) {
			*w++ = word(p, lba, key, i);
		}
	}
}

static void
describe(const struct perf_pattern *p, uint64_t lba, const uint64_t *block, unsigned bad,
	 char *text, size_t bytes)
{
	uint64_t want = word(p, lba, block_key(p, lba), bad);
	bool zeroes = true;
	int n;

	n = snprintf(text, bytes,
		     "block %" PRIu64 " is wrong from byte %zu on: %016" PRIx64
		     " instead of %016" PRIx64,
		     lba, bad * sizeof(*block), block[bad], want);
	for (unsigned i = 0; i < p->block_size / sizeof(*block); i++) {
		zeroes = zeroes && block[i] == 0;
	}
	if (n < 0 || (size_t)n >= bytes) {
		return;
	}
	text += n;
	bytes -= (size_t)n;
	if (zeroes) {
		snprintf(text, bytes, " (it is all zeroes)");
	} else if (block[0] == MAGIC && block[2] != p->seed) {
		snprintf(text, bytes, " (it is from a run with seed %" PRIu64 ")", block[2]);
	} else if (block[0] == MAGIC && block[1] != lba) {
		snprintf(text, bytes, " (it belongs to block %" PRIu64 ")", block[1]);
	} else if (block[0] == MAGIC && block[3] != p->generation) {
		snprintf(text, bytes,
			 " (it is write %" PRIu64 " of this place, not write %" PRIu32 ")",
			 block[3], p->generation);
	}
}

bool
perf_pattern_check(const struct perf_pattern *p, uint64_t lba, unsigned count, const void *buf,
		   char *text, size_t text_bytes)
{
	unsigned words = p->block_size / sizeof(uint64_t);
	const uint64_t *block = buf;

	for (unsigned b = 0; b < count; b++, lba++, block += words) {
		uint64_t key = block_key(p, lba);

		for (unsigned i = 0; i < words; i++) {
			if (block[i] != word(p, lba, key, i)) {
				describe(p, lba, block, i, text, text_bytes);
				return false;
			}
		}
	}
	return true;
}
