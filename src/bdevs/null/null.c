/* SPDX-License-Identifier: BSD-3-Clause */
/* A bdev without storage. Every request completes at once, on the done list: no poller, idle
 * costs nothing. */
#include "bdevs/null/null.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/module.h"

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	bdev_io_complete(io, 0);
}

static void
destruct(struct bdev *bdev)
{
	free(bdev->name);
	free(bdev);
}

static const struct bdev_ops null_ops = {
	.module_name = "null",
	.destruct = destruct,
	.submit = submit,
};

int
bdev_null_create(const struct null_bdev_options *options, struct bdev **ret, struct err *err)
{
	struct bdev *bdev = calloc(1, sizeof(*bdev));
	int rc;

	if (bdev == NULL || (bdev->name = strdup(options->name)) == NULL) {
		free(bdev);
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	bdev->ops = &null_ops;
	bdev->product_name = "Null disk";
	uuid_copy(bdev->uuid, options->uuid);
	bdev->block_size = options->block_size;
	bdev->physical_block_size = options->physical_block_size;
	bdev->num_blocks = options->num_blocks;
	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_WRITE_ZEROES;
	rc = bdev_register(bdev, err);
	if (rc != 0) {
		destruct(bdev);
		return rc;
	}
	if (ret != NULL) {
		*ret = bdev;
	}
	return 0;
}

static struct bdev *
find(const char *name, struct err *err)
{
	struct bdev *bdev = bdev_find(name);

	if (bdev == NULL || bdev->ops != &null_ops) {
		err_set(err, -ENODEV, "there is no null bdev '%s'", name);
		return NULL;
	}
	return bdev;
}

int
bdev_null_resize(const char *name, uint64_t num_blocks, struct err *err)
{
	struct bdev *bdev = find(name, err);
	int rc;

	if (bdev == NULL) {
		return -ENODEV;
	}
	rc = bdev_resize(bdev, num_blocks);
	if (rc == -EBUSY) {
		return err_set(err, rc, "bdev '%s' is open and cannot become smaller", name);
	}
	return rc == 0 ? 0
		       : err_set(err, rc, "bdev '%s' cannot have %llu blocks", name,
				 (unsigned long long)num_blocks);
}

int
bdev_null_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct bdev *bdev = find(name, err);

	if (bdev == NULL) {
		return -ENODEV;
	}
	bdev_unregister(bdev, done, ctx);
	return 0;
}

bool
bdev_null_get_options(const struct bdev *bdev, struct null_bdev_options *ret_options)
{
	if (bdev->ops != &null_ops) {
		return false;
	}
	*ret_options = (struct null_bdev_options){
		.name = bdev->name,
		.num_blocks = bdev->num_blocks,
		.block_size = bdev->block_size,
		.physical_block_size = bdev->physical_block_size,
	};
	uuid_copy(ret_options->uuid, bdev->uuid);
	return true;
}
