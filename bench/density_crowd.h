/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Many vhost-user-blk clients in one process, all on one system thread: connected, and either idle
 * or doing verified I/O in bursts with random pauses. Used by density_client.c.
 */
#ifndef BENCH_DENSITY_CROWD_H
#define BENCH_DENSITY_CROWD_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

struct crowd;

#define CROWD_UNIT_BYTES 4096
#define CROWD_BURST_MAX 64

struct crowd_options {
	const char *pattern; /* path of a socket with one %u, its number */
	unsigned first;      /* number of the first socket */
	unsigned count;
	unsigned burst;    /* writes of a burst at most, then as many reads */
	uint64_t pause_us; /* between bursts, at most; the mean is half of it */
	uint64_t seed;
	bool compare; /* false: for devices that keep no data */
};

/* What one client did; written by the crowd, may be looked at by another process meanwhile. */
struct crowd_result {
	_Atomic uint64_t ios; /* answered while crowd_run() was measuring */
	uint64_t bursts;
	uint64_t compared;    /* units read back that were as written */
	uint64_t burst_ns;    /* sum over all bursts */
	uint64_t burst_ns_max;
};

/*
 * Connects all clients, one after another. results: count of them, zeroed, borrowed until
 * crowd_free(). 0 or a negative errno with err.
 */
int crowd_connect(const struct crowd_options *options, struct crowd_result *results, struct crowd **ret_crowd,
		  struct err *err);
void crowd_free(struct crowd *crowd); /* accepts NULL */

/* One burst of each client, without pause. 0, or a negative errno with err: data were wrong (-EILSEQ), a request
 * failed (-EIO), or no answer came for 30 seconds (-ETIMEDOUT). */
int crowd_touch(struct crowd *crowd, struct err *err);

/*
 * Bursts and pauses for so long; then every client reads back all that it ever wrote. Counts in the results what
 * was answered within the time. Errors as above.
 */
int crowd_run(struct crowd *crowd, uint64_t time_us, struct err *err);

#endif
