/* SPDX-License-Identifier: BSD-3-Clause */
/* For builds without librbd's headers. */
#include <errno.h>

#include "bdevs/rbd/rbd.h"

static int
refuse(struct err *err)
{
	return err_set(err, -EOPNOTSUPP, "this berthd was built without librbd");
}

bool
rbd_setting_is_secret(const char *name)
{
	return true;
}

bool
bdev_rbd_supported(void)
{
	return false;
}

int
bdev_rbd_register_cluster(const struct rbd_cluster_options *options, void (*done)(void *ctx, const struct err *err),
			  void *ctx, struct err *err)
{
	return refuse(err);
}

int
bdev_rbd_unregister_cluster(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return refuse(err);
}

void
bdev_rbd_for_each_cluster(void (*fn)(void *ctx, const struct rbd_cluster_options *options), void *ctx)
{
}

int
bdev_rbd_create(const struct rbd_bdev_options *options,
		void (*done)(void *ctx, const char *name, struct bdev *bdev, const struct err *err), void *ctx,
		struct err *err)
{
	return refuse(err);
}

int
bdev_rbd_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return refuse(err);
}

int
bdev_rbd_resize(const char *name, uint64_t bytes, void (*done)(void *ctx, const struct err *err), void *ctx,
		struct err *err)
{
	return refuse(err);
}

bool
bdev_rbd_options(const struct bdev *bdev, struct rbd_bdev_options *ret_options)
{
	return false;
}

bool
bdev_rbd_find(const char *name, struct rbd_bdev_options *ret_options)
{
	return false;
}

void
bdev_rbd_for_each_waiting(void (*fn)(void *ctx, const struct rbd_bdev_options *options), void *ctx)
{
}

void
bdev_rbd_leave_all(void)
{
}

void
bdev_rbd_shutdown(void (*done)(void *ctx), void *ctx)
{
	done(ctx);
}
