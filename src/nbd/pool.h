/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A thread's memory for NBD: buffers of two sizes, and requests. Bounded; an empty pool makes sessions wait, in the order in
 * which they came. The thread's own, without locks.
 */
#ifndef NBD_POOL_H
#define NBD_POOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/list.h"
#include "event/channel.h"
#include "event/thread.h"

/* What a socket is read into, and what larger requests are made of: a multiple of every block size. */
#define NBD_LARGE_BYTES ((size_t)131072)
#define NBD_SMALL_BYTES ((size_t)8192)
/* Most of each that a thread has: 64 MiB, twice the largest request, and 16 MiB. */
#define NBD_LARGE_MAX 512
#define NBD_SMALL_MAX 2048
#define NBD_REQUESTS_MAX 8192
/* Kept by a thread that is idle. */
#define NBD_LARGE_KEEP 4
#define NBD_SMALL_KEEP 32

struct nbd_io;
struct nbd_session;

struct nbd_buffer {
	struct nbd_buffer *next;
	uint8_t *data;
	uint32_t bytes; /* NBD_LARGE_BYTES or NBD_SMALL_BYTES */
	uint32_t refs;
};

struct nbd_bin {
	struct nbd_buffer *free;
	unsigned made, idle, max, keep;
	size_t bytes;
};

/* Requests of one size. */
struct nbd_request_bin {
	struct list link;
	struct nbd_thread *thread;
	size_t bytes;
	unsigned made, used, users;
	struct nbd_io *free; /* linked by their first word */
	struct list slabs;
};

struct nbd_thread {
	struct channel channel;
	struct nbd_bin large, small;
	struct list request_bins;
	struct list sessions;
	struct list waiting; /* for any of these, by wait_link */
	struct timer starve_timer;
	struct timer trim_timer;
	bool trimming;
};

/* This thread's; each get is answered by nbd_thread_put. NULL with *ret_rc. */
struct nbd_thread *nbd_thread_get(int *ret_rc);
void nbd_thread_put(struct nbd_thread *t);

/* One reference; NULL: none is to be had now. Contents undefined. */
struct nbd_buffer *nbd_buffer_get(struct nbd_thread *t, struct nbd_bin *bin);
/* Drops a reference. */
void nbd_buffer_put(struct nbd_thread *t, struct nbd_buffer *b);
/* Whether so many could be had, memory permitting. */
bool nbd_buffers_left(const struct nbd_bin *bin, unsigned count);

/* Requests of that size; the bin is shared by the thread's sessions. NULL: out of memory. */
struct nbd_request_bin *nbd_request_bin_get(struct nbd_thread *t, size_t bytes);
void nbd_request_bin_put(struct nbd_request_bin *bin);
/* NULL: none is to be had now. Contents undefined. */
struct nbd_io *nbd_request_take(struct nbd_request_bin *bin);
void nbd_request_give(struct nbd_request_bin *bin, struct nbd_io *r);

#endif
