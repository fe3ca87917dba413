/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/bdevs/malloc; never leaves it. */
#ifndef BDEVS_MALLOC_INTERNAL_H
#define BDEVS_MALLOC_INTERNAL_H

#include <stdatomic.h>

#include "base/dif.h"
#include "bdev/module.h"

/* Address space without memory: what was never written has none, and reads as zero. */
struct region {
	uint8_t *base; /* NULL: there is none */
	size_t bytes;  /* that can be read and written */
	size_t reserved;
};

struct malloc_disk {
	struct bdev bdev;
	struct region data;
	struct region md; /* md_bytes a block, PI inverted: see io.c */
	/* A bit for each chunk of the data that may not be all zero. */
	struct region written;
	unsigned chunk_shift; /* blocks of a chunk, as a power of two */
	struct dif dif;       /* of type 0: there is no PI */
	int numa_id;          /* -1: any */
};

static inline struct malloc_disk *
malloc_disk(struct bdev *bdev)
{
	return CONTAINER_OF(bdev, struct malloc_disk, bdev);
}

/* ---- region.c ---- */

/* Room for twice as much, where there is as much address space; bytes of it can be used. 0 or
 * -errno. node: NUMA node the memory comes from, -1: any. */
int region_map(struct region *r, size_t bytes, int node);
void region_unmap(struct region *r);
/* More or less of it can be used; the rest is forgotten. 0 or -errno. */
int region_resize(struct region *r, size_t bytes);
/* Zeroes, and gives memory back where it is much. */
void region_clear(struct region *r, size_t offset, size_t bytes);

/* ---- io.c ---- */

extern const size_t malloc_channel_bytes;
int malloc_channel_create(struct bdev *bdev, struct bdev_channel *ch);
void malloc_submit(struct bdev_channel *ch, struct bdev_io *io);
/* Bytes of disk->written for so many blocks. */
size_t malloc_map_bytes(const struct malloc_disk *disk, uint64_t num_blocks);
/* Zeroes blocks; they are holes afterwards, but for chunks they fill only partly. */
void malloc_forget(struct malloc_disk *disk, uint64_t lba, uint64_t num_blocks);

#endif
