/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A disk in anonymous memory. Requests are done at once, by copying on the submitting thread, and
 * complete on the done list: no poller, idle costs nothing.
 *
 * Invariants
 *  1. base never moves: address space for a disk twice as large is reserved, without memory; [base,
 *     base + size) of it can be read and written.
 *  2. What was never written or was unmapped is not there at all and reads as zero.
 *  3. Two threads that write the same block at once leave a mixture, as disks do; nothing else is
 *     shared.
 */
#include "bdevs/malloc/malloc.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/iov.h"
#include "bdev/module.h"

/* From here on giving pages back is cheaper than clearing them, and worth the faults when they
 * are written again. */
#define GIVE_BACK_BYTES ((size_t)256 * 1024)

struct malloc_disk {
	struct bdev bdev;
	uint8_t *base;
	size_t bytes;
	size_t reserved;
};

static struct malloc_disk *
disk_of(struct bdev *bdev)
{
	return CONTAINER_OF(bdev, struct malloc_disk, bdev);
}

/* ---- I/O ---- */

static size_t
page_up(size_t n)
{
	static size_t page_bytes;

	/* Any thread may be the first; all find the same. */
	if (__atomic_load_n(&page_bytes, __ATOMIC_RELAXED) == 0) {
		__atomic_store_n(&page_bytes, (size_t)sysconf(_SC_PAGESIZE), __ATOMIC_RELAXED);
	}
	return (n + page_bytes - 1) & ~(page_bytes - 1);
}

static void
clear(uint8_t *p, size_t bytes)
{
	if (bytes >= GIVE_BACK_BYTES) {
		uint8_t *first = (uint8_t *)page_up((uintptr_t)p);
		uint8_t *last = (uint8_t *)page_up((uintptr_t)(p + bytes) + 1) - page_up(1);

		if (madvise(first, (size_t)(last - first), MADV_DONTNEED) == 0) {
			memset(p, 0, (size_t)(first - p));
			memset(last, 0, (size_t)(p + bytes - last));
			return;
		}
	}
	memset(p, 0, bytes);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	uint8_t *p = disk_of(ch->bdev)->base;
	size_t bytes = io->num_blocks << ch->block_size_shift;

	switch (io->op) {
	case BDEV_READ:
		iov_from_buf(io->iov, io->iovcnt, 0, p + (io->lba << ch->block_size_shift), bytes);
		break;
	case BDEV_WRITE:
		iov_to_buf(io->iov, io->iovcnt, 0, p + (io->lba << ch->block_size_shift), bytes);
		break;
	case BDEV_UNMAP:
	case BDEV_WRITE_ZEROES:
		clear(p + (io->lba << ch->block_size_shift), bytes);
		break;
	default:
		break; /* flush: nothing outlives the process */
	}
	bdev_io_complete(io, 0);
}

/* ---- Life ---- */

static void
destruct(struct bdev *bdev)
{
	struct malloc_disk *disk = disk_of(bdev);

	if (disk->base != NULL) {
		munmap(disk->base, disk->reserved);
	}
	free(bdev->name);
	free(disk);
}

static const struct bdev_ops malloc_ops = {
	.module_name = "malloc",
	.destruct = destruct,
	.submit = submit,
};

/* 0 or -errno. */
static int
map(struct malloc_disk *disk, size_t bytes)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *base = MAP_FAILED;

	if (bytes <= SIZE_MAX / 4) {
		disk->reserved = 2 * bytes;
		base = mmap(NULL, disk->reserved, PROT_NONE, flags, -1, 0);
	}
	if (base == MAP_FAILED) {
		disk->reserved = bytes;
		base = mmap(NULL, bytes, PROT_NONE, flags, -1, 0);
	}
	if (base == MAP_FAILED) {
		return -errno;
	}
	disk->base = base;
	disk->bytes = bytes;
	return mprotect(base, bytes, PROT_READ | PROT_WRITE) == 0 ? 0 : -errno;
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
	bdev->ops = &malloc_ops;
	bdev->product_name = "Malloc disk";
	uuid_copy(bdev->uuid, options->uuid);
	bdev->block_size = options->block_size;
	bdev->physical_block_size = options->physical_block_size;
	bdev->num_blocks = options->num_blocks;
	bdev->optimal_boundary_blocks = options->optimal_io_boundary;
	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP |
			 1u << BDEV_WRITE_ZEROES;
	return disk;
}

int
bdev_malloc_create(const struct malloc_bdev_options *options, struct bdev **ret, struct err *err)
{
	struct malloc_disk *disk = make_disk(options);
	size_t bytes;
	int rc = 0;

	if (disk == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	/* Sizes that make no sense are left to bdev_register(), which says so. */
	if (!__builtin_mul_overflow(options->num_blocks, options->block_size, &bytes) &&
	    bytes > 0) {
		rc = map(disk, bytes);
	}
	if (rc != 0) {
		err_set(err, rc, "bdev '%s': no address space for %llu blocks of %u bytes: %s",
			options->name, (unsigned long long)options->num_blocks, options->block_size,
			strerror(-rc));
	} else {
		rc = bdev_register(&disk->bdev, err);
	}
	if (rc != 0) {
		destruct(&disk->bdev);
		return rc;
	}
	if (ret != NULL) {
		*ret = &disk->bdev;
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

/* Gives access to, or takes back, what is between the two sizes, in whole pages. */
static int
change_access(struct malloc_disk *disk, size_t from, size_t to, int prot)
{
	size_t first = page_up(from), last = page_up(to);

	if (first < last && mprotect(disk->base + first, last - first, prot) != 0) {
		return -errno;
	}
	return 0;
}

int
bdev_malloc_resize(const char *name, uint64_t num_blocks, struct err *err)
{
	struct bdev *bdev = find(name, err);
	struct malloc_disk *disk;
	size_t bytes;
	int rc;

	if (bdev == NULL) {
		return -ENODEV;
	}
	disk = disk_of(bdev);
	if (num_blocks > disk->reserved / bdev->block_size) {
		return err_set(err, -ENOMEM,
			       "bdev '%s' cannot have %llu blocks: it can grow to %llu", name,
			       (unsigned long long)num_blocks,
			       (unsigned long long)(disk->reserved / bdev->block_size));
	}
	bytes = num_blocks * bdev->block_size;
	if (bytes > disk->bytes &&
	    (rc = change_access(disk, disk->bytes, bytes, PROT_READ | PROT_WRITE)) != 0) {
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
	if (bytes < disk->bytes) {
		clear(disk->base + bytes, disk->bytes - bytes);
	}
	disk->bytes = bytes;
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
	if (bdev->ops != &malloc_ops) {
		return false;
	}
	*ret_options = (struct malloc_bdev_options){
		.name = bdev->name,
		.num_blocks = bdev->num_blocks,
		.block_size = bdev->block_size,
		.physical_block_size = bdev->physical_block_size,
		.optimal_io_boundary = bdev->optimal_boundary_blocks,
	};
	uuid_copy(ret_options->uuid, bdev->uuid);
	return true;
}
