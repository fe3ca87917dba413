/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bdevs on files and block devices through Linux native AIO. All functions on the app thread.
 * Errors name the file: -ENOENT and the other errnos of open(2); -EISDIR; -EBUSY (another process, or another bdev,
 * uses it); -EINVAL (block size, or a size that is no multiple of it); -EEXIST (name or UUID taken).
 */
#ifndef BDEVS_AIO_AIO_H
#define BDEVS_AIO_AIO_H

#include <stdbool.h>
#include <stdint.h>
#include <uuid/uuid.h>

#include "base/err.h"

struct bdev;

struct aio_bdev_options {
	const char *name;
	const char *filename;
	uint32_t block_size; /* bytes; 0: detected */
	bool readonly;
	bool fallocate; /* kept and reported; unmap and write zeroes are supported wherever the file can */
	/* What would block the thread in submission (allocation in a sparse file, writes of less than the file system's block)
	 * goes to a worker instead: nobody waits for it, but a sparse file fills at half the speed. */
	bool nowait;
	bool buffered;  /* page cache even where O_DIRECT works */
	uuid_t uuid;    /* all zero: a new one */
};

int bdev_aio_create(const struct aio_bdev_options *options, struct bdev **ret_bdev, struct err *err);

/* Reads the file's size again and announces it. 0; -ENODEV (no such aio bdev); -EINVAL; -EBUSY. */
int bdev_aio_rescan(const char *name, struct err *err);

/* 0: done(ctx, 0) comes when the last opener has closed, the file is closed then; -ENODEV. done may be NULL. */
int bdev_aio_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);

struct aio_bdev_info {
	const char *filename; /* the bdev's, until it is deleted */
	bool block_size_override;
	bool readonly;
	bool fallocate;
	bool nowait;
	bool buffered;      /* as asked for */
	const char *access; /* "direct", "buffered", "memory": how the file is served */
	uint32_t block_size; /* as given, 0: detected */
};

/* False when bdev is none of this module's. */
bool bdev_aio_info(const struct bdev *bdev, struct aio_bdev_info *ret_info);

/* How requests were gathered: of the calling thread, all its aio bdevs and queues together. */
struct aio_stats {
	uint64_t submits;  /* io_submit calls */
	uint64_t requests; /* handed to the kernel by them */
	uint64_t mixed;    /* calls that carried requests of two bdevs or more */
};

void bdev_aio_thread_stats(struct aio_stats *ret_stats);

#endif
