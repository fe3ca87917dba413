/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For tests: a load on one worker of the stage. Reads and writes with N in flight, of ranges that nobody else writes, though
 * others write next to them in the same clusters; every read is compared with what was written last.
 */
#ifndef BLOB_HARNESS_HAMMER_H
#define BLOB_HARNESS_HAMMER_H

#include "testkit/blob_env.h"

#define HAMMER_DEPTH 32
#define HAMMER_UNITS 3 /* of a range: some lie across the ends of clusters */

struct hammer_slot;

struct hammer {
	/* The test's. */
	struct blob_env_channel *c;
	unsigned share, shares; /* ranges whose number % shares is share */
	uint64_t units;         /* of the blob */
	uint64_t count;         /* requests */
	uint64_t seed;
	bool direct;    /* the short way where it is open */
	bool errors_ok; /* a write may fail; then the range may hold anything until the next one */

	atomic_bool done;
	atomic_uint failed;
	/* Its own. */
	uint64_t begun;
	unsigned inflight;
	uint32_t *model; /* stamp of each range; 0: zeroes */
	bool *torn; /* a write failed: it may be this or that, or part of both */
	bool *busy;
	struct hammer_slot *slots;
};

void hammer_start(struct hammer *h);
void hammer_finish(struct hammer *h); /* waits; the model stays */
void hammer_verify(struct hammer *h); /* all of its ranges, through h->c */
void hammer_free(struct hammer *h);

#endif
