/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks in anonymous memory: made, resized, deleted. io.c does the work, region.c has the memory.
 */
#include "bdevs/malloc/malloc.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bdevs/malloc/internal.h"

/* What has data is known of pieces of this size, or of blocks. */
#define CHUNK_SHIFT 12

static void
destruct(struct bdev *bdev)
{
	struct malloc_disk *disk = malloc_disk(bdev);

	region_unmap(&disk->data);
	region_unmap(&disk->md);
	region_unmap(&disk->written);
	free(bdev->name);
	free(disk);
}

static const struct bdev_ops malloc_ops = {
	.module_name = "malloc",
	.destruct = destruct,
	.channel_create = malloc_channel_create,
	.submit = malloc_submit,
};

/* ---- Making ---- */

static int
check_options(const struct malloc_bdev_options *o, struct err *err)
{
	char path[64];

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
	snprintf(path, sizeof(path), "/sys/devices/system/node/node%u", o->numa_node);
	if (o->on_numa_node && access(path, F_OK) != 0) {
		return err_set(err, -EINVAL, "bdev '%s': there is no NUMA node %u", o->name,
			       o->numa_node);
	}
	return 0;
}

static struct malloc_disk *
make_disk(const struct malloc_bdev_options *options)
{
	struct malloc_disk *disk = calloc(1, sizeof(*disk));
	struct bdev *bdev = &disk->bdev;

	if (disk == NULL || (bdev->name = strdup(options->name)) == NULL) {
		free(disk);
		return NULL;
	}
	disk->numa_id = options->on_numa_node ? (int)options->numa_node : -1;
	bdev->ops = &malloc_ops;
	bdev->product_name = "Malloc disk";
	uuid_copy(bdev->uuid, options->uuid);
	bdev->block_size = options->block_size;
	bdev->physical_block_size = options->physical_block_size;
	bdev->num_blocks = options->num_blocks;
	bdev->optimal_boundary_blocks = options->optimal_io_boundary;
	bdev->md_bytes = options->md_size;
	bdev->md_interleave = options->md_interleave;
	bdev->dif_type = (uint8_t)options->dif_type;
	bdev->dif_head_of_md = options->dif_is_head_of_md;
	bdev->dif_pi_format = (uint8_t)MIN(options->dif_pi_format, (uint32_t)UINT8_MAX);
	bdev->dif_check_flags = DIF_CHECK_DEFAULT(options->dif_type);
	/* What does not go together is left to bdev_register(), which says so. */
	dif_init(&disk->dif, bdev->block_size, bdev->md_bytes, bdev->dif_type, bdev->dif_pi_format,
		 bdev->dif_head_of_md, 0, NULL);
	bdev->channel_ctx_bytes = malloc_channel_bytes;
	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP |
			 1u << BDEV_WRITE_ZEROES | 1u << BDEV_COMPARE | 1u << BDEV_COPY |
			 1u << BDEV_BLOCK_STATUS;
	return disk;
}

/* 0 or -errno. Sizes that make no sense are left to bdev_register(), which says so. */
static int
map(struct malloc_disk *disk)
{
	const struct bdev *bdev = &disk->bdev;
	size_t bytes, md_bytes;
	int shift, rc;

	if (__builtin_mul_overflow(bdev->num_blocks, bdev->block_size, &bytes) || bytes == 0 ||
	    __builtin_mul_overflow(bdev->num_blocks, bdev->md_bytes, &md_bytes)) {
		return 0;
	}
	shift = __builtin_ctz(bdev->block_size);
	disk->chunk_shift = shift < CHUNK_SHIFT ? (unsigned)(CHUNK_SHIFT - shift) : 0;
	rc = region_map(&disk->data, bytes, disk->numa_id);
	if (rc == 0 && md_bytes != 0) {
		rc = region_map(&disk->md, md_bytes, disk->numa_id);
	}
	if (rc == 0) {
		rc = region_map(&disk->written, malloc_map_bytes(disk, bdev->num_blocks),
				disk->numa_id);
	}
	/* With metadata the core looks at what was read. */
	disk->bdev.memory = rc == 0 && bdev->md_bytes == 0 ? disk->data.base : NULL;
	return rc;
}

int
bdev_malloc_create(const struct malloc_bdev_options *options, struct bdev **ret, struct err *err)
{
	struct malloc_disk *disk;
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
	rc = map(disk);
	if (rc != 0) {
		err_set(err, rc, "bdev '%s': no address space for %llu blocks of %u bytes: %s",
			options->name, (unsigned long long)options->num_blocks, options->block_size,
			strerror(-rc));
	} else {
		rc = bdev_register(bdev, err);
	}
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

	if (bdev == NULL || bdev->ops != &malloc_ops) {
		err_set(err, -ENODEV, "there is no malloc bdev '%s'", name);
		return NULL;
	}
	return bdev;
}

/* All three regions, for at least as many blocks as now. */
static int
make_room(struct malloc_disk *disk, uint64_t num_blocks)
{
	int rc = region_resize(&disk->written, malloc_map_bytes(disk, num_blocks));

	if (rc == 0 && disk->md.base != NULL) {
		rc = region_resize(&disk->md, num_blocks * disk->bdev.md_bytes);
	}
	return rc != 0 ? rc : region_resize(&disk->data, num_blocks * disk->bdev.block_size);
}

int
bdev_malloc_resize(const char *name, uint64_t num_blocks, struct err *err)
{
	struct bdev *bdev = find(name, err);
	struct malloc_disk *disk;
	uint64_t before;
	int rc;

	if (bdev == NULL) {
		return -ENODEV;
	}
	disk = malloc_disk(bdev);
	before = bdev_num_blocks(bdev);
	if (num_blocks > disk->data.reserved / bdev->block_size) {
		return err_set(err, -ENOMEM,
			       "bdev '%s' cannot have %llu blocks: it can grow to %llu", name,
			       (unsigned long long)num_blocks,
			       (unsigned long long)(disk->data.reserved / bdev->block_size));
	}
	if (num_blocks > before && (rc = make_room(disk, num_blocks)) != 0) {
		return err_set(err, rc, "bdev '%s': no memory for %llu blocks", name,
			       (unsigned long long)num_blocks);
	}
	rc = bdev_resize(bdev, num_blocks);
	if (rc == -EBUSY) {
		return err_set(err, rc, "bdev '%s' is open and cannot become smaller", name);
	}
	if (rc != 0) {
		return err_set(err, rc, "bdev '%s' cannot have %llu blocks", name,
			       (unsigned long long)num_blocks);
	}
	if (num_blocks < before) {
		malloc_forget(disk, num_blocks, before - num_blocks);
	}
	return 0;
}

int
bdev_malloc_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		   struct err *err)
{
	struct bdev *bdev = find(name, err);

	if (bdev == NULL) {
		return -ENODEV;
	}
	bdev_unregister(bdev, done, ctx);
	return 0;
}

bool
bdev_malloc_get_options(const struct bdev *bdev, struct malloc_bdev_options *ret_options)
{
	int numa_id;

	if (bdev->ops != &malloc_ops) {
		return false;
	}
	*ret_options = (struct malloc_bdev_options){
		.name = bdev->name,
		.num_blocks = bdev->num_blocks,
		.block_size = bdev->block_size,
		.physical_block_size = bdev->physical_block_size,
		.optimal_io_boundary = bdev->optimal_boundary_blocks,
		.md_size = bdev->md_bytes,
		.md_interleave = bdev->md_interleave,
		.dif_type = bdev->dif_type,
		.dif_is_head_of_md = bdev->dif_head_of_md,
		.dif_pi_format = bdev->dif_pi_format,
	};
	numa_id = CONTAINER_OF(bdev, const struct malloc_disk, bdev)->numa_id;
	ret_options->on_numa_node = numa_id >= 0;
	ret_options->numa_node = numa_id >= 0 ? (uint32_t)numa_id : 0;
	uuid_copy(ret_options->uuid, bdev->uuid);
	return true;
}
