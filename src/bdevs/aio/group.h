/* SPDX-License-Identifier: BSD-3-Clause */
/* A thread's kernel queue, shared by all its aio bdevs; never leaves src/bdevs/aio. */
#ifndef BDEVS_AIO_GROUP_H
#define BDEVS_AIO_GROUP_H

#include <libaio.h>

#include "bdevs/aio/aio.h"
#include "bdevs/file/file.h"

/* Requests in the kernel, of one thread; the system-wide limit fs.aio-max-nr is shared by all threads. Less where that
 * limit is near, down to AIO_DEPTH_MIN; without any, workers do everything. */
#define AIO_DEPTH 256
#define AIO_DEPTH_MIN 32

/* The module's room in a request. */
struct aio_request {
	struct file_request file;
	struct iocb iocb;
};

struct aio_group {
	struct channel channel;
	struct poller poller;
	struct defer batch;
	bool batch_waiting;
	bool queue_mixed;
	io_context_t ctx; /* NULL: the kernel gave none */
	int event_fd;
	unsigned depth;
	unsigned inflight; /* in the kernel */
	unsigned silent;   /* of these, without a signal at completion */
	unsigned queued;   /* in queue, for the end of the turn */
	struct list waiting; /* struct file_request: beyond depth, oldest first */
	struct aio_stats stats;
	struct iocb *queue[AIO_DEPTH];
};

/* App thread: the device that groups are channels of lives as long as there is an aio bdev. */
void aio_groups_get(void);
void aio_groups_put(void);

/* This thread's, with one more reference; put with channel_put(&group->channel). */
struct aio_group *aio_group_get(int *ret_rc);

/* Takes req, whose iocb is filled but for the signal; file_request_answer() follows. */
void aio_group_submit(struct aio_group *g, struct aio_request *req);

#endif
