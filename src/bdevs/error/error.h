/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Error bdevs: their base, with errors injected on request. All functions: app thread.
 */
#ifndef BDEVS_ERROR_ERROR_H
#define BDEVS_ERROR_ERROR_H

#include "base/err.h"
#include "bdev/bdev.h"

/* The bdev on base0 is EE_base0. */
#define ERROR_NAME_PREFIX "EE_"

/* What errors can be injected into: 1 << ERROR_READ | ... */
enum error_op { ERROR_READ, ERROR_WRITE, ERROR_UNMAP, ERROR_FLUSH, ERROR_OP_COUNT };
#define ERROR_ALL_OPS ((1u << ERROR_OP_COUNT) - 1)

enum error_type {
	ERROR_FAILURE,      /* -EIO */
	ERROR_NVME_FAILURE, /* what an NVMe status means, see error.c */
	ERROR_PENDING,      /* kept until it is resumed, aborted, reset or the bdev is removed */
	/* One byte is changed, of what was read, or of what is written and not in the submitter's
	 * memory; other operations are let through. */
	ERROR_CORRUPT_DATA,
	ERROR_NOMEM, /* no resources for now: the core tries again, which counts */
};

struct error_injection {
	enum error_type type;
	uint32_t num; /* requests that it happens to, on all channels together; 0: none any more */
	/* Only while at least so many requests of the channel are with the base. */
	uint64_t queue_depth;
	uint64_t corrupt_offset; /* in bytes, of the request */
	uint8_t corrupt_value;   /* that the byte there is xored with, not 0 */
	uint32_t nvme_sct;
	uint32_t nvme_sc;
};

struct error_bdev_options {
	const char *base_name;
	uuid_t uuid; /* all zero: made from the base's, as SPDK's */
};

/* Borrows options. A base that is not there yet is awaited: then *ret (may be NULL) is NULL. 0; -EEXIST; -EPERM (the
 * base is written to, or claimed); -ENOMEM. */
int bdev_error_create(const struct error_bdev_options *options, struct bdev **ret,
		      struct err *err);

/* 0: done(ctx, 0) follows, after the last user has closed it; -ENODEV. done may be NULL. */
int bdev_error_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err);

/*
 * Takes the place of what was injected into these operations before; requests that are pending stay so. 0; -ENODEV;
 * -EINVAL (corrupt_value is 0, or NVMe's codes are given without need or needed and not given); -ENOMEM.
 */
int bdev_error_inject(const char *name, uint32_t ops, const struct error_injection *injection,
		      struct err *err);
/* Nothing is injected any more; requests that are pending stay so. 0; -ENODEV. */
int bdev_error_clear(const char *name, struct err *err);

/* Ends injections of ERROR_PENDING and gives what is pending to the base. 0: done(ctx, 0) follows, when the base has
 * it all; -ENODEV; -ENOMEM. */
int bdev_error_resume(const char *name, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err);

/* For the saved configuration. False when bdev is no error bdev. base_name is borrowed from it. */
bool bdev_error_get_options(const struct bdev *bdev, struct error_bdev_options *ret_options);
/* The i-th one, those that wait for their base (*ret_waits) too; false past the last. */
bool bdev_error_list(unsigned i, struct error_bdev_options *ret_options, bool *ret_waits);

#endif
