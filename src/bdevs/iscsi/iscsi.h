/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * iSCSI bdevs: logical units of anybody's iSCSI target, through libiscsi. A target that goes away is logged in to again: requests
 * wait meanwhile, and those that it had are sent once more. All functions: app thread.
 */
#ifndef BDEVS_ISCSI_ISCSI_H
#define BDEVS_ISCSI_ISCSI_H

#include "base/err.h"
#include "bdev/bdev.h"

#define ISCSI_TIMEOUT_S_DEFAULT 30
#define ISCSI_TIMEOUT_S_MAX 86400
#define ISCSI_SESSIONS_MAX 64

struct iscsi_bdev_options {
	const char *name;
	const char *initiator_iqn;
	const char *url;         /* see bdevs/iscsi/address.h; a password in it is kept in memory only */
	const char *secret_file; /* NULL: no password, or one in the URL; else the file it is read from, see there */
	unsigned sessions;       /* at most; 0: ISCSI_SESSIONS_MAX: one for each thread that uses it, and the target's limit */
	unsigned reconnect_s;    /* so long requests wait for a target that is gone; then they end with -EIO */
	unsigned connect_ms;     /* longest wait for a login, 0: 5 s */
	bool wait;               /* a target that is not there yet is awaited */
};

/* Whether this program was built with libiscsi. */
bool bdev_iscsi_supported(void);

/*
 * Borrows options. Logs in in the background; then done(ctx, bdev, err): bdev is NULL with err->code set when that failed, and
 * NULL with err->code 0 when the target is awaited. 0; -EINVAL (options); -EPERM (others may read the secret file); -EEXIST;
 * -ENOMEM: done is not called.
 */
int bdev_iscsi_create(const struct iscsi_bdev_options *options,
		      void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx, struct err *err);

/* Also one that still waits. 0: done(ctx, 0) follows; -ENODEV: done is not called. done may be NULL. */
int bdev_iscsi_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);

/* Looks at the size again, which is seen a little later. Targets tell of changes only in answer to a command. 0; -ENODEV. */
int bdev_iscsi_rescan(const char *name, struct err *err);

/*
 * A command that is not answered so long has its session made again, and is sent once more; then it ends with -ETIMEDOUT. 0:
 * any time. For bdevs that are created from now on. 0; -EINVAL.
 */
int bdev_iscsi_set_timeout(uint64_t seconds, struct err *err);
uint64_t bdev_iscsi_get_timeout(void);

struct iscsi_bdev_info {
	struct iscsi_bdev_options options; /* url: without passwords */
	bool connected;
	unsigned sessions; /* at present */
	unsigned connects; /* so far */
};

/* What it was created with, the URL without passwords; also of one that still waits. False: there is none. Borrowed. */
bool bdev_iscsi_options(const char *name, struct iscsi_bdev_options *ret_options);

/* For the saved configuration and for people. False when bdev is none of ours. Borrowed. */
bool bdev_iscsi_info(const struct bdev *bdev, struct iscsi_bdev_info *ret_info);

/* Calls fn for each that is no bdev yet because its target is awaited. */
void bdev_iscsi_for_each_waiting(void (*fn)(void *ctx, const struct iscsi_bdev_options *options), void *ctx);

/* Before the process ends: nothing is awaited any more. */
void bdev_iscsi_shutdown(void);

#endif
