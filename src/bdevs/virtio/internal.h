/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of bdevs/virtio; never leaves it. */
#ifndef BDEVS_VIRTIO_INTERNAL_H
#define BDEVS_VIRTIO_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "bdev/module.h"
#include "bdevs/virtio/virtio.h"
#include "event/worker.h"
#include "virtio/driver/blk.h"

/*
 * Buffers, of which a target sees no others: each queue has one small for each of its slots, and a few large.
 * A small one holds the usual request, so that what a busy queue touches stays in the cache.
 */
#define SMALL_BYTES ((size_t)4096)
#define LARGE_BYTES ((size_t)65536)
#define LARGE_COUNT 32
#define QUEUES_MAX 64
#define NO_QUEUE UINT32_MAX

/* A connection: made by a worker, used by queues, ended by the app thread when no channel uses it. */
struct virtio_link {
	struct driver_blk *blk;
	unsigned users; /* channels, under the disk's lock */
	struct {
		uint8_t *small;
		uint8_t *large;
	} buffers[QUEUES_MAX];
};

/* A module's room in a request. */
struct virtio_request {
	struct driver_blk_request blk;
	struct iovec iov; /* the buffer; length 0: none */
	struct list link; /* waiting or flying */
	struct msg msg;   /* to the thread that has the queue, and back */
	bool remote;      /* came by message */
	int status;
};

/*
 * A queue, on the thread that uses it. Without a connection requests wait.
 */
struct virtio_queue {
	struct driver_blk_queue *ring; /* NULL: no connection */
	struct poller poller;
	struct defer batch;
	bool batch_waiting;
	bool expecting;
	bool broken;
	struct list waiting; /* for a connection, a slot or a buffer; oldest first */
	struct list flying;  /* the target has them */
	unsigned small_count, large_count;
	void **small; /* stacks of those that are free */
	void *large[LARGE_COUNT];
};

/* A thread's own. */
struct virtio_channel {
	struct channel channel;
	struct virtio_disk *disk;
	struct virtio_link *link;
	uint32_t index; /* of its queue; NO_QUEUE: it gives its requests to the app thread's channel */
	struct virtio_queue queue;
};

enum disk_state {
	DISK_CONNECTING, /* a worker tries */
	DISK_UP,
	DISK_LEAVING, /* channels are told to let go of the connection that was lost */
	DISK_DOWN,    /* until the next try */
};

struct virtio_disk {
	struct bdev bdev;
	struct list list; /* of all */
	char *name;
	char *path;
	struct virtio_bdev_options options; /* name and path point to the above */
	struct device device;
	struct thread *app;

	/* Any thread. */
	pthread_mutex_t lock;
	struct virtio_link *link;    /* under the lock: what channels are to use, NULL: none */
	bool taken[QUEUES_MAX];      /* under the lock: queues that have a channel; 0 is the app thread's */
	atomic_int failed;           /* not 0: requests that wait end with this */
	atomic_bool broken;          /* a ring is */
	struct msg broken_msg;

	/* The app thread's. */
	struct virtio_channel *home; /* what has no queue of its own comes here */
	enum disk_state state;
	bool registered, deleting, destructed, connected_once, changed, visiting, visit_again;
	unsigned connects;
	unsigned retry_ms;
	struct worker *worker;
	struct worker_job job;
	bool busy; /* the job is under way */
	int job_status;
	struct err job_err;
	struct virtio_link *fresh; /* what the job made */
	struct virtio_link *old;   /* lost, and perhaps still used */
	struct watch hangup;
	struct watch news;
	struct timer retry;
	struct timer revisit;
	struct timer give_up;
	void (*attached)(void *ctx, struct bdev *bdev, const struct err *err);
	void *attached_ctx;
	void (*deleted)(void *ctx, int status);
	void *deleted_ctx;
};

/* ---- queue.c (the channel's thread) ---- */

extern const struct device_ops virtio_channel_ops;
extern const struct bdev_ops virtio_bdev_ops;
/* Brings a channel in line with what the disk has now: connection, failure. */
void virtio_channel_sync(void *ctx, struct channel *ch);
size_t virtio_queue_bytes(unsigned vq_size);

/* ---- virtio.c (the app thread) ---- */

/* Sent by the first channel whose ring broke. */
void virtio_disk_broken(struct msg *msg);
void virtio_disk_destruct(struct bdev *bdev);

#endif
