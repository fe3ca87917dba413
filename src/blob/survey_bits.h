/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A set of numbers below a count that only grows, and in which the end of a run is found in a few steps, however long
 * the run: what thousands of runs claim is looked at as often as the store has it, not as often as it is claimed.
 */
#ifndef BLOB_SURVEY_BITS_H
#define BLOB_SURVEY_BITS_H

#include <stdbool.h>
#include <stdint.h>

#define SURVEY_BITS_LEVELS 7u

struct survey_bits {
	/* [0]: a bit each, little-endian, as masks on the disk are; [n]: a bit for each word of [n - 1], set when it is full. */
	uint64_t *words[SURVEY_BITS_LEVELS];
	uint64_t count;
};

/* -ENOMEM: to be released all the same. */
int survey_bits_init(struct survey_bits *set, uint64_t count);
void survey_bits_release(struct survey_bits *set);
bool survey_bits_has(const struct survey_bits *set, uint64_t i);
/* Whether it was in it. */
bool survey_bits_add(struct survey_bits *set, uint64_t i);
void survey_bits_add_run(struct survey_bits *set, uint64_t from, uint64_t to);
/* The first from `from` on, at most `to`, that is not in the set. */
uint64_t survey_bits_missing(const struct survey_bits *set, uint64_t from, uint64_t to);
/* Where the run that begins at `from` ends, at most `to` > from: all of it is in the set (*ret_in), or none. To be cheap, what
 * is not in it has to be added then. */
uint64_t survey_bits_run(const struct survey_bits *set, uint64_t from, uint64_t to, bool *ret_in);

#endif
