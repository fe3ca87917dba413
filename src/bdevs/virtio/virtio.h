/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Virtio bdevs: disks of anybody's vhost-user-blk target, berthd's own included. A target that goes away is connected to
 * again: requests wait meanwhile, and those that it had are sent once more. All functions: app thread.
 */
#ifndef BDEVS_VIRTIO_VIRTIO_H
#define BDEVS_VIRTIO_VIRTIO_H

#include "base/err.h"
#include "bdev/bdev.h"

#define VIRTIO_QUEUE_SIZE_DEFAULT 512

struct virtio_bdev_options {
	const char *name;
	const char *path;      /* of the target's socket */
	unsigned vq_count;     /* queues at most, the target may have fewer; 0: vq_default */
	unsigned vq_default;   /* one for each thread is best; the first is the app thread's */
	unsigned vq_size;      /* 0: VIRTIO_QUEUE_SIZE_DEFAULT; a power of two from 4 to 32768 */
	unsigned reconnect_s;  /* so long requests wait for a target that is gone; then they end with -EIO */
	unsigned connect_ms;   /* longest wait for a step of connecting, 0: DRIVER_VHOST_TIMEOUT_MS */
	bool wait;             /* a target that is not there yet is awaited */
};

/*
 * Borrows options. Connects in the background; then done(ctx, bdev, err): bdev is NULL with err->code set when that failed,
 * and NULL with err->code 0 when the target is awaited. 0; -EINVAL (options); -EEXIST; -ENOMEM: done is not called.
 */
int bdev_virtio_attach(const struct virtio_bdev_options *options,
		       void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx, struct err *err);

/* Also one that still waits. 0: done(ctx, 0) follows; -ENODEV: done is not called. done may be NULL. */
int bdev_virtio_detach(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);

struct virtio_bdev_info {
	struct virtio_bdev_options options;
	bool connected;
	unsigned queues;   /* of the present connection */
	unsigned connects; /* so far */
};

/* For the saved configuration and for people. False when bdev is none of ours. Borrowed. */
bool bdev_virtio_info(const struct bdev *bdev, struct virtio_bdev_info *ret_info);

/* Calls fn for each that is no bdev yet because its target is awaited. */
void bdev_virtio_for_each_waiting(void (*fn)(void *ctx, const struct virtio_bdev_options *options), void *ctx);

/* Before the process ends: nothing is awaited any more. */
void bdev_virtio_shutdown(void);

#endif
