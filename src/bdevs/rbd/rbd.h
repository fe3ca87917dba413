/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * RBD bdevs: images of a Ceph cluster, through librbd, which is loaded when the first is asked for. All functions: app thread.
 *
 * A write is answered when the cluster has it: librbd's cache, which would lose acknowledged writes with this process, is kept
 * off, whatever the configuration says.
 */
#ifndef BDEVS_RBD_RBD_H
#define BDEVS_RBD_RBD_H

#include "base/err.h"
#include "bdev/bdev.h"

#define RBD_SETTINGS_MAX 64

/* What librados is told: names and values as in ceph.conf. Borrowed. */
struct rbd_setting {
	const char *name;
	const char *value;
};

struct rbd_settings {
	size_t count;
	struct rbd_setting item[RBD_SETTINGS_MAX];
};

/* Whether a setting holds a secret, which is used and never saved. */
bool rbd_setting_is_secret(const char *name);

/* Whether this program was built with librbd's headers. */
bool bdev_rbd_supported(void);

/* ---- Clusters that several bdevs share ---- */

struct rbd_cluster_options {
	const char *name;
	const char *user_id;             /* NULL: "admin"; without "client." */
	const struct rbd_settings *settings; /* NULL: none */
	const char *config_file;         /* NULL: the usual one, if it is there */
	const char *key_file;            /* NULL: where the configuration says */
	const char *core_mask;           /* NULL: the library's threads run anywhere */
	bool wait;                       /* one that cannot be reached is kept, and connected to when a bdev needs it */
};

/* Borrows options. Connects in the background; then done(ctx, err). 0; -EINVAL; -EEXIST; -ENOMEM; -ENOENT (no librbd): done is
 * not called. */
int bdev_rbd_register_cluster(const struct rbd_cluster_options *options, void (*done)(void *ctx, const struct err *err),
			      void *ctx, struct err *err);
/* 0: done(ctx, 0) follows, when it is disconnected. -ENOENT; -EBUSY (bdevs use it). done may be NULL. */
int bdev_rbd_unregister_cluster(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);
/* In the order they were registered; settings without secrets. Borrowed. */
void bdev_rbd_for_each_cluster(void (*fn)(void *ctx, const struct rbd_cluster_options *options), void *ctx);

/* ---- Bdevs ---- */

struct rbd_bdev_options {
	const char *name; /* NULL: Ceph0, Ceph1, ... */
	const char *pool;
	const char *image;
	const char *cluster;                 /* a registered one; NULL: one of its own, by the next two */
	const char *user_id;
	const struct rbd_settings *settings; /* NULL: what the usual configuration file says */
	uint32_t block_size;
	bool readonly;
	bool wait; /* an image that cannot be opened yet is awaited */
	uuid_t uuid;
};

/*
 * Borrows options. Opens in the background; then done(ctx, name, bdev, err): bdev is NULL with err->code set when that failed,
 * and NULL with err->code 0 when the image is awaited. 0; -EINVAL; -EEXIST; -ENOENT (no such cluster, no librbd); -ENOMEM: done
 * is not called.
 */
int bdev_rbd_create(const struct rbd_bdev_options *options,
		    void (*done)(void *ctx, const char *name, struct bdev *bdev, const struct err *err), void *ctx,
		    struct err *err);
/* Also one that still waits. 0: done(ctx, 0) follows, when the bdev is gone and the image closed, or a cluster that does not
 * answer keeps it open; -ENODEV. done may be NULL. */
int bdev_rbd_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);
/* Makes the image larger. 0: done(ctx, err) follows; -ENODEV; -EINVAL (smaller); -EBUSY (being resized). */
int bdev_rbd_resize(const char *name, uint64_t bytes, void (*done)(void *ctx, const struct err *err), void *ctx,
		    struct err *err);

/* For the saved configuration and for people: settings without secrets. False when bdev is none of ours. Borrowed. */
bool bdev_rbd_options(const struct bdev *bdev, struct rbd_bdev_options *ret_options);
/* By name, also of one that waits. */
bool bdev_rbd_find(const char *name, struct rbd_bdev_options *ret_options);
/* Calls fn for each that is no bdev yet because its image is awaited. */
void bdev_rbd_for_each_waiting(void (*fn)(void *ctx, const struct rbd_bdev_options *options), void *ctx);

/* The process is to end, and somebody waits for a cluster, perhaps through what stands on a bdev: all bdevs go, at once. */
void bdev_rbd_leave_all(void);
/*
 * Before the process ends, when all bdevs are removed: images are closed, clusters disconnected; then done(ctx). A cluster that
 * does not answer is given some seconds, or less when it had its chance, then left alone.
 */
void bdev_rbd_shutdown(void (*done)(void *ctx), void *ctx);

#endif
