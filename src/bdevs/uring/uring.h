/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bdevs on files and block devices through io_uring. All functions on the app thread. Errors as in aio/aio.h;
 * where io_uring is missing or forbidden, create returns what uring_available() does.
 */
#ifndef BDEVS_URING_URING_H
#define BDEVS_URING_URING_H

#include <stdbool.h>
#include <stdint.h>
#include <uuid/uuid.h>

#include "base/err.h"

struct bdev;

struct uring_bdev_options {
	const char *name;
	const char *filename;
	uint32_t block_size; /* bytes; 0: detected */
	bool readonly;
	bool buffered; /* page cache even where O_DIRECT works */
	uuid_t uuid;   /* all zero: a new one */
};

/* Whether this process may use io_uring; when not, *err says why and that aio does without. Any thread. */
bool uring_available(struct err *err);

int bdev_uring_create(const struct uring_bdev_options *options, struct bdev **ret_bdev, struct err *err);

/* Reads the file's size again and announces it. 0; -ENODEV (no such uring bdev); -EINVAL; -EBUSY. */
int bdev_uring_rescan(const char *name, struct err *err);

/* 0: done(ctx, 0) comes when the last opener has closed, the file is closed then; -ENODEV. done may be NULL. */
int bdev_uring_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);

struct uring_bdev_info {
	const char *filename; /* the bdev's, until it is deleted */
	bool block_size_override;
	bool readonly;
	bool buffered;       /* as asked for */
	const char *access;  /* "direct", "buffered", "memory": how the file is served */
	uint32_t block_size; /* as given, 0: detected */
};

/* False when bdev is none of this module's. */
bool bdev_uring_info(const struct bdev *bdev, struct uring_bdev_info *ret_info);

/* How requests were gathered: of the calling thread, all its uring bdevs and queues together. */
struct uring_stats {
	uint64_t enters;   /* io_uring_enter calls that submitted */
	uint64_t requests; /* submitted by them */
	uint64_t mixed;    /* calls that carried requests of two bdevs or more */
	uint64_t reaps;    /* io_uring_enter calls only to have completions posted */
};

void bdev_uring_thread_stats(struct uring_stats *ret_stats);

#endif
