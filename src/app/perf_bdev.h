/* SPDX-License-Identifier: BSD-3-Clause */
/* How `berth perf --bdev` says which bdev it means. Pure. */
#ifndef APP_PERF_BDEV_H
#define APP_PERF_BDEV_H

#include <stdint.h>

#include "base/err.h"

enum perf_bdev_kind {
	PERF_BDEV_NAME,
	PERF_BDEV_NULL,
	PERF_BDEV_MALLOC,
	PERF_BDEV_AIO,
	PERF_BDEV_URING
};

struct perf_bdev_spec {
	enum perf_bdev_kind kind;
	uint64_t bytes;      /* null, malloc */
	uint32_t block_size; /* 0: the default of what serves the file */
	char *path;          /* of the file; NAME: the name. The caller's to free */
};

/*
 * "null:SIZE[:BLOCK]", "malloc:SIZE[:BLOCK]", "aio:PATH[:BLOCK]", "uring:PATH[:BLOCK]", or a
 * name without colon. 0; -EINVAL with err; -ENOMEM.
 */
int perf_bdev_parse(const char *text, struct perf_bdev_spec *ret_spec, struct err *err);

#endif
