/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * qcow2 bdevs: the disk that is in a qcow2 image, read-only. The image is on another bdev, of blocks of 512 bytes: a file
 * by aio, an NBD export, memory. Versions 2 and 3, compressed clusters (deflate; zstd where the build has it), zero
 * and extended entries are read; internal snapshots are ignored. Nothing that an image names is ever opened: one with
 * a backing file or a data file is refused, as is an encrypted one. All functions: app thread.
 *
 * A raw image needs no module: an aio bdev with "readonly" is one.
 */
#ifndef BDEVS_QCOW2_QCOW2_H
#define BDEVS_QCOW2_QCOW2_H

#include "base/err.h"
#include "bdev/bdev.h"

struct qcow2_bdev_options {
	const char *name;
	const char *base_name;
	uuid_t uuid; /* all zero: made from the base's and the name */
};

/*
 * Borrows options. 0: done follows, after the image has been looked at: bdev; or NULL with err->code 0, when the base is
 * not there yet and is awaited; or NULL with err: what qcow2_parse_header() says, read errors, -EPERM (the base is
 * written to), -ENOMEM. Otherwise -EEXIST, -ENOMEM, or -EINVAL (the base's block size), and done is not called.
 */
int bdev_qcow2_create(const struct qcow2_bdev_options *options,
		      void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx,
		      struct err *err);

/* 0: done(ctx, 0) follows, after the last user has closed it, perhaps at once; -ENODEV; -EBUSY (being created). */
int bdev_qcow2_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		      struct err *err);

struct qcow2_info {
	uint8_t version;
	uint32_t cluster_bytes;
	bool subclusters;
	const char *compression; /* "deflate", "zstd" */
};

/* False when bdev is no qcow2 bdev. Names are borrowed from it. ret_info may be NULL. */
bool bdev_qcow2_get(const struct bdev *bdev, struct qcow2_bdev_options *ret_options,
		    struct qcow2_info *ret_info);
/* The i-th one, those that wait for their base (*ret_waits) too; false past the last. */
bool bdev_qcow2_list(unsigned i, struct qcow2_bdev_options *ret_options, bool *ret_waits);

#endif
