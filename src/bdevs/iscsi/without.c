/* SPDX-License-Identifier: BSD-3-Clause */
/* For builds without libiscsi. */
#include <errno.h>

#include "bdevs/iscsi/iscsi.h"

bool
bdev_iscsi_supported(void)
{
	return false;
}

int
bdev_iscsi_create(const struct iscsi_bdev_options *options,
		  void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx, struct err *err)
{
	return err_set(err, -EOPNOTSUPP, "bdev '%s': this berthd was built without libiscsi", options->name);
}

int
bdev_iscsi_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return err_set(err, -ENODEV, "there is no iSCSI bdev '%s'", name);
}

int
bdev_iscsi_rescan(const char *name, struct err *err)
{
	return err_set(err, -ENODEV, "there is no iSCSI bdev '%s'", name);
}

int
bdev_iscsi_set_timeout(uint64_t seconds, struct err *err)
{
	return err_set(err, -EOPNOTSUPP, "this berthd was built without libiscsi");
}

uint64_t
bdev_iscsi_get_timeout(void)
{
	return ISCSI_TIMEOUT_S_DEFAULT;
}

bool
bdev_iscsi_options(const char *name, struct iscsi_bdev_options *ret_options)
{
	return false;
}

bool
bdev_iscsi_info(const struct bdev *bdev, struct iscsi_bdev_info *ret_info)
{
	return false;
}

void
bdev_iscsi_for_each_waiting(void (*fn)(void *ctx, const struct iscsi_bdev_options *options), void *ctx)
{
}

void
bdev_iscsi_shutdown(void)
{
}
