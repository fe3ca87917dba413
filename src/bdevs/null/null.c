/* SPDX-License-Identifier: BSD-3-Clause */
/* A bdev without storage. Every request completes at once, on the done list: no poller, idle
 * costs nothing. */
#include "bdevs/null/null.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/dif.h"
#include "bdev/module.h"

struct null_disk {
	struct bdev bdev;
	struct dif dif; /* of type 0: there is no protection information */
};

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	bdev_io_complete(io, 0);
}

/* What is read may be any data: metadata that escapes every check. */
static void
submit_md(struct bdev_channel *ch, struct bdev_io *io)
{
	const struct null_disk *disk = CONTAINER_OF(ch->bdev, struct null_disk, bdev);

	if (io->op == BDEV_READ) {
		if (disk->dif.type != 0) {
			dif_fill_unwritten(&disk->dif, io->md, io->num_blocks);
		} else {
			memset(io->md, 0, io->num_blocks * ch->bdev->md_bytes);
		}
	}
	bdev_io_complete(io, 0);
}

static void
destruct(struct bdev *bdev)
{
	free(bdev->name);
	free(CONTAINER_OF(bdev, struct null_disk, bdev));
}

static const struct bdev_ops null_ops = {
	.module_name = "null",
	.destruct = destruct,
	.submit = submit,
};

static const struct bdev_ops null_md_ops = {
	.module_name = "null",
	.destruct = destruct,
	.submit = submit_md,
};

static bool
is_ours(const struct bdev *bdev)
{
	return bdev->ops == &null_ops || bdev->ops == &null_md_ops;
}

static int
check_options(const struct null_bdev_options *o, struct err *err)
{
	switch (o->md_size) {
	case 0:
	case 8:
	case 16:
	case 32:
	case 64:
	case 128:
		break;
	default:
		return err_set(err, -EINVAL,
			       "bdev '%s': metadata of %u bytes is none of 0, 8, 16, 32, 64 and 128",
			       o->name, o->md_size);
	}
	if (o->dif_type > DIF_TYPE_MAX) {
		return err_set(err, -EINVAL,
			       "bdev '%s': there is no protection information of type %u", o->name,
			       o->dif_type);
	}
	return 0;
}

static struct null_disk *
make_disk(const struct null_bdev_options *o)
{
	struct null_disk *disk = calloc(1, sizeof(*disk));
	struct bdev *bdev = &disk->bdev;

	if (disk == NULL || (bdev->name = strdup(o->name)) == NULL) {
		free(disk);
		return NULL;
	}
	bdev->ops = o->md_size != 0 ? &null_md_ops : &null_ops;
	bdev->product_name = "Null disk";
	uuid_copy(bdev->uuid, o->uuid);
	bdev->block_size = o->block_size;
	bdev->physical_block_size = o->physical_block_size;
	bdev->num_blocks = o->num_blocks;
	bdev->hints = o->hints;
	bdev->md_bytes = o->md_size;
	bdev->md_interleave = o->md_size != 0; /* as SPDK's */
	bdev->dif_type = (uint8_t)o->dif_type;
	bdev->dif_head_of_md = o->dif_is_head_of_md;
	bdev->dif_pi_format = (uint8_t)MIN(o->dif_pi_format, (uint32_t)UINT8_MAX);
	bdev->dif_check_flags = DIF_CHECK_DEFAULT(o->dif_type);
	/* What does not go together is left to bdev_register(), which says so. */
	dif_init(&disk->dif, bdev->block_size, bdev->md_bytes, bdev->dif_type, bdev->dif_pi_format,
		 bdev->dif_head_of_md, 0, NULL);
	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_WRITE_ZEROES;
	return disk;
}

int
bdev_null_create(const struct null_bdev_options *options, struct bdev **ret, struct err *err)
{
	struct null_disk *disk;
	struct bdev *bdev;
	int rc = check_options(options, err);

	if (rc != 0) {
		return rc;
	}
	disk = make_disk(options);
	if (disk == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	bdev = &disk->bdev;
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

	if (bdev == NULL || !is_ours(bdev)) {
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
	if (!is_ours(bdev)) {
		return false;
	}
	*ret_options = (struct null_bdev_options){
		.name = bdev->name,
		.num_blocks = bdev->num_blocks,
		.block_size = bdev->block_size,
		.physical_block_size = bdev->physical_block_size,
		.md_size = bdev->md_bytes,
		.dif_type = bdev->dif_type,
		.dif_is_head_of_md = bdev->dif_head_of_md,
		.dif_pi_format = bdev->dif_pi_format,
		.hints = bdev->hints,
	};
	uuid_copy(ret_options->uuid, bdev->uuid);
	return true;
}
