/* SPDX-License-Identifier: BSD-3-Clause */
/* For builds without libnbd. */
#include <errno.h>

#include "bdevs/nbd/nbd.h"

bool
bdev_nbd_supported(void)
{
	return false;
}

int
bdev_nbd_attach(const struct nbd_bdev_options *options,
		void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx, struct err *err)
{
	return err_set(err, -EOPNOTSUPP, "bdev '%s': this berthd was built without libnbd", options->name);
}

int
bdev_nbd_detach(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return err_set(err, -ENODEV, "there is no NBD bdev '%s'", name);
}

bool
bdev_nbd_info(const struct bdev *bdev, struct nbd_bdev_info *ret_info)
{
	return false;
}

void
bdev_nbd_for_each_waiting(void (*fn)(void *ctx, const struct nbd_bdev_options *options), void *ctx)
{
}

void
bdev_nbd_shutdown(void)
{
}
