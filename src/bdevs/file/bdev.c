/* SPDX-License-Identifier: BSD-3-Clause */
/* The bdev around an open file: what aio and uring have in common between create and delete. App thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdevs/file/internal.h"

static void
fill(struct file_bdev *fb, const struct bdev_ops *ops, const char *product_name,
     const struct file_options *options, size_t request_bytes, size_t channel_bytes)
{
	const struct file_disk *d = &fb->disk;
	struct bdev *b = &fb->bdev;

	b->ops = ops;
	b->product_name = product_name;
	uuid_copy(b->uuid, options->uuid);
	b->block_size = d->block_size;
	b->physical_block_size = d->physical_block_size;
	b->num_blocks = d->size_bytes / d->block_size;
	b->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH;
	if (d->can_unmap) {
		b->ops_mask |= 1u << BDEV_UNMAP | 1u << BDEV_WRITE_ZEROES;
	}
	if (!d->block_device) {
		b->ops_mask |= 1u << BDEV_BLOCK_STATUS;
	}
	if (d->access == FILE_MEMORY) {
		b->ops_mask |= 1u << BDEV_COPY; /* on a disk requests of their own do better: they do not block */
	}
	b->buffer_align = d->buffer_align;
	b->unmap_granularity_blocks = d->unmap_granularity / d->block_size;
	b->write_cache = true;
	b->native_fua = true;
	b->readonly = d->readonly;
	b->io_ctx_bytes = request_bytes;
	b->channel_ctx_bytes = channel_bytes;
	b->ctx = fb;
}

int
file_bdev_register(struct file_bdev *fb, const struct bdev_ops *ops, const char *product_name,
		   const struct file_options *options, size_t request_bytes, size_t channel_bytes,
		   struct err *err)
{
	struct err why = ERR_NONE;
	int rc;

	/* Before the file is touched: the name is what an impatient client repeats. */
	if (bdev_find(options->name) != NULL) {
		return err_set(err, -EEXIST, "bdev %s exists already", options->name);
	}
	rc = file_disk_open(&fb->disk, options, err);
	if (rc != 0) {
		return rc;
	}
	rc = file_workers_get(&why);
	if (rc != 0) {
		file_disk_close(&fb->disk);
		return err_set(err, rc, "%s", err_text(&why));
	}
	fb->bdev.name = strdup(options->name);
	rc = fb->bdev.name == NULL ? err_set(err, -ENOMEM, "bdev %s: out of memory", options->name) : 0;
	if (rc == 0) {
		fill(fb, ops, product_name, options, request_bytes, channel_bytes);
		rc = bdev_register(&fb->bdev, err);
	}
	if (rc != 0) {
		file_bdev_release(fb);
		return rc;
	}
	LOG_INFO(BDEV, options->name, "%s, %llu blocks of %u bytes, %s access", fb->disk.path,
		 (unsigned long long)fb->bdev.num_blocks, fb->disk.block_size, file_access_name(fb->disk.access));
	return 0;
}

void
file_bdev_release(struct file_bdev *fb)
{
	file_disk_close(&fb->disk);
	file_workers_put();
	free(fb->bdev.name);
	fb->bdev.name = NULL;
}

int
file_bdev_find(const char *name, const struct bdev_ops *ops, struct file_bdev **ret_fb, struct err *err)
{
	struct bdev *bdev = bdev_find(name);

	if (bdev == NULL) {
		return err_set(err, -ENODEV, "there is no bdev %s", name);
	}
	if (bdev->ops != ops) {
		return err_set(err, -ENODEV, "bdev %s is of module %s, not %s", name, bdev->ops->module_name,
			       ops->module_name);
	}
	*ret_fb = file_bdev_of(bdev);
	return 0;
}

int
file_bdev_rescan(struct file_bdev *fb, struct err *err)
{
	uint64_t old_bytes = fb->disk.size_bytes;
	int rc = file_disk_rescan(&fb->disk, err);

	if (rc != 0 || fb->disk.size_bytes == old_bytes) {
		return rc;
	}
	rc = bdev_resize(&fb->bdev, fb->disk.size_bytes / fb->disk.block_size);
	if (rc != 0) {
		err_set(err, rc, rc == -EBUSY ? "bdev %s: the file is smaller now, but the bdev is open"
					      : "bdev %s: cannot be resized", fb->bdev.name);
		fb->disk.size_bytes = old_bytes;
	}
	return rc;
}
