/* SPDX-License-Identifier: BSD-3-Clause */
/* A thread's ring, shared by all its uring bdevs; never leaves src/bdevs/uring. */
#ifndef BDEVS_URING_GROUP_H
#define BDEVS_URING_GROUP_H

#include <liburing.h>

#include "bdevs/file/file.h"
#include "bdevs/uring/uring.h"

#define URING_SQ_ENTRIES 256
/* Requests in the kernel, of one thread; as many completions the ring holds, so that it never overflows. */
#define URING_DEPTH 1024
/* Registered files of one thread; bdevs beyond use their plain descriptors. */
#define URING_FILES_MAX 256

/* The module's room in a request. */
struct uring_request {
	struct file_request file;
	int slot; /* of the file in the ring's table, -1: not registered */
};

struct uring_group {
	struct channel channel;
	struct poller poller;
	struct defer batch;
	bool batch_waiting;
	bool batch_mixed;
	bool expecting; /* what was prepared is the first in flight */
	bool leaving;   /* the thread wants to move; nothing more is given to the ring */
	bool away;      /* it moves */
	struct io_uring ring;
	struct reactor *reactor; /* whose system thread made the ring */
	int event_fd;
	unsigned inflight; /* prepared or in the kernel */
	unsigned prepared; /* not yet in the kernel */
	const struct file_disk *last_disk;
	struct list waiting; /* struct file_request: beyond URING_DEPTH, or while the thread moves; oldest first */
	struct uring_stats stats;
	unsigned files; /* slots of the table */
	int fds[URING_FILES_MAX]; /* -1: the slot is free */
};

/* Makes a ring the best way that this kernel knows; 0 or a negative errno. */
int uring_setup(struct io_uring *ring, unsigned sq_entries, unsigned cq_entries);

/* App thread: the device that groups are channels of lives as long as there is a uring bdev. */
void uring_groups_get(void);
void uring_groups_put(void);

/* This thread's, with one more reference; put with channel_put(&group->channel). */
struct uring_group *uring_group_get(int *ret_rc);

/* A slot of the table of files; -1 when there is none. */
int uring_group_add_file(struct uring_group *g, int fd);
void uring_group_remove_file(struct uring_group *g, int slot); /* accepts -1 */

/* Takes req; file_request_answer() follows. */
void uring_group_submit(struct uring_group *g, struct uring_request *req);

#endif
