/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>

#include "bdev/bdev.h"

/* The values of a daemon that was told nothing. */
static struct bdev_options current = {
	.io_pool_size = 65535,
	.io_cache_size = 256,
	.auto_examine = true,
	.iobuf_small_cache_size = 128,
	.iobuf_large_cache_size = 16,
};

void
bdev_get_options(struct bdev_options *ret_options)
{
	*ret_options = current;
}

int
bdev_set_options(const struct bdev_options *options, struct err *err)
{
	if (options->io_pool_size == 0) {
		return err_set(err, -EINVAL, "bdev_io_pool_size must not be 0");
	}
	if (options->io_cache_size > options->io_pool_size) {
		return err_set(err, -EINVAL,
			       "bdev_io_cache_size %u is more than bdev_io_pool_size %u",
			       options->io_cache_size, options->io_pool_size);
	}
	current = *options;
	return 0;
}
