/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Words of bits, and above them, level by level, a bit for each full word, up to a level of one word. Adding costs what is
 * added, the end of a run of members a few steps a level, the end of a run of others a step for each 64 of them.
 *
 * Invariants
 *  1. A bit of level n is set exactly when its word of level n - 1 is full.
 *  2. Every level has a word more than it needs, which never fills: a search for what is missing ends.
 */
#include "blob/survey_bits.h"

#include <errno.h>
#include <stdlib.h>

#include "base/check.h"

int
survey_bits_init(struct survey_bits *set, uint64_t count)
{
	uint64_t need = count;

	*set = (struct survey_bits){.count = count};
	for (unsigned level = 0; level < SURVEY_BITS_LEVELS; level++) {
		need = need / 64 + 1;
		set->words[level] = calloc(need, sizeof(uint64_t));
		if (set->words[level] == NULL) {
			return -ENOMEM;
		}
	}
	return 0;
}

void
survey_bits_release(struct survey_bits *set)
{
	for (unsigned level = 0; level < SURVEY_BITS_LEVELS; level++) {
		free(set->words[level]);
	}
	*set = (struct survey_bits){0};
}

bool
survey_bits_has(const struct survey_bits *set, uint64_t i)
{
	return (set->words[0][i / 64] >> (i % 64) & 1) != 0;
}

static void
add_mask(struct survey_bits *set, uint64_t word, uint64_t mask)
{
	set->words[0][word] |= mask;
	for (unsigned level = 0; level + 1 < SURVEY_BITS_LEVELS && set->words[level][word] == UINT64_MAX; level++) {
		mask = UINT64_C(1) << (word % 64);
		word /= 64;
		set->words[level + 1][word] |= mask;
	}
}

bool
survey_bits_add(struct survey_bits *set, uint64_t i)
{
	bool was = survey_bits_has(set, i);

	CHECK(i < set->count);
	if (!was) {
		add_mask(set, i / 64, UINT64_C(1) << (i % 64));
	}
	return was;
}

void
survey_bits_add_run(struct survey_bits *set, uint64_t from, uint64_t to)
{
	CHECK(from <= to && to <= set->count);
	while (from < to) {
		uint64_t end = MIN(to, (from / 64 + 1) * 64);
		uint64_t mask = end - from == 64 ? UINT64_MAX : ((UINT64_C(1) << (end - from)) - 1) << (from % 64);

		add_mask(set, from / 64, mask);
		from = end;
	}
}

uint64_t
survey_bits_missing(const struct survey_bits *set, uint64_t from, uint64_t to)
{
	unsigned level = 0;
	uint64_t at = from;

	while (at < to || level != 0) {
		uint64_t left = ~set->words[level][at / 64] >> (at % 64);

		if (left == 0) {
			/* All of this word from here on: what follows is looked for a level higher. */
			at = at / 64 + 1;
			level++;
			CHECK(level < SURVEY_BITS_LEVELS);
			continue;
		}
		at += (unsigned)__builtin_ctzll(left);
		if (level == 0) {
			break;
		}
		at *= 64;
		level--;
	}
	return MIN(at, to);
}

uint64_t
survey_bits_run(const struct survey_bits *set, uint64_t from, uint64_t to, bool *ret_in)
{
	*ret_in = survey_bits_has(set, from);
	if (*ret_in) {
		return survey_bits_missing(set, from, to);
	}
	for (uint64_t at = from; at < to; at = (at / 64 + 1) * 64) {
		uint64_t there = set->words[0][at / 64] >> (at % 64);

		if (there != 0) {
			return MIN(to, at + (unsigned)__builtin_ctzll(there));
		}
	}
	return to;
}
