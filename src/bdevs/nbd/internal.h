/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of bdevs/nbd; never leaves it. */
#ifndef BDEVS_NBD_INTERNAL_H
#define BDEVS_NBD_INTERNAL_H

#include <libnbd.h>

#include "bdevs/nbd/nbd.h"
#include "bdevs/remote/remote.h"
#include "mem/pool.h"

/*
 * Data goes through buffers of ours: a request's list becomes one piece, and what a guest does to its memory meanwhile
 * does nothing to the connection.
 */
#define NBD_SMALL_BYTES ((size_t)4096)
#define NBD_LARGE_BYTES ((size_t)262144)
/* Of a request without data; the protocol takes just under 4 GiB. */
#define NBD_RANGE_BYTES ((uint64_t)1 << 30)

struct nbd_lane;

/* What the server said of the export. */
struct nbd_export {
	uint64_t bytes;
	uint32_t block_size;     /* 512, or what the server needs at least */
	uint32_t preferred_bytes;
	uint64_t max_bytes;      /* of a read or write */
	bool readonly, flush, fua, trim, zero, multi_conn, allocation;
};

/* Connections to one export; its lanes are they. */
struct nbd_link {
	struct remote_link remote;
	struct nbd_export export;
	struct nbd_handle *handles[REMOTE_LANES_MAX]; /* NULL: closed */
};

struct nbd_request {
	struct remote_request remote;
	struct nbd_lane *lane;
	struct iovec iov;         /* the buffer; length 0: none */
	struct nbd_request *next; /* of those that have ended */
	size_t extents;
	int error; /* errno of the server, or of the connection */
};

/* A connection, on the thread that uses it. */
struct nbd_lane {
	struct nbd_handle *handle;
	struct poller poller;
	struct watch writable; /* while the socket takes no more; on a copy of its descriptor */
	bool blocked;
	bool tls;
	bool look;   /* there may be something to read though nothing is flying: the server hung up */
	bool broken;
	struct nbd_request *ended; /* newest first */
	struct defer defer;
	bool deferred;
	struct mem_cache small, large;
	void *reserve;
	bool reserve_used;
};

/* ---- connect.c (a worker) ---- */

/* Makes as many connections as the server allows, a lane's each at most. */
int nbd_link_make(const struct remote_disk *disk, const struct nbd_bdev_options *options, struct nbd_link **ret_link,
		  struct err *err);
/* Any thread that has the whole link. Accepts NULL. */
void nbd_link_free(struct nbd_link *link);

/* ---- lane.c (the lane's thread) ---- */

int nbd_lane_start(struct remote_channel *c);
void nbd_lane_stop(struct remote_channel *c);
bool nbd_send(struct remote_channel *c, struct remote_request *req);

#endif
