/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest's memory as its VMM shares it: regions of guest-physical addresses, each a mapping of a
 * file in this process (vhost-user specification, "Memory region description"). Used in place:
 * never registered with the kernel, never pinned, never assumed resident.
 *
 * A memmap is immutable once built and shared by reference: the control thread builds a new one for
 * each change and swaps it while the rings that use it are quiet. A region lives as long as one
 * memmap that holds it.
 *
 * A VMM may truncate its file under us. SIGBUS in a region (memmap_guard) puts zero pages in its
 * place and marks the region lost; memmap_lost() tells the owner, who ends that session.
 */
#ifndef VIRTIO_MEMMAP_H
#define VIRTIO_MEMMAP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/check.h"
#include "base/err.h"

#define MEMMAP_REGIONS_MAX 509

struct memmap_region {
	uint64_t gpa;  /* guest-physical address of the first byte */
	uint64_t size; /* bytes */
	uint64_t uva;  /* the VMM's own virtual address of the first byte: ring addresses are given in it */
	uint8_t *hva;  /* where it is mapped here */
	struct memmap_mapping *mapping;
};

struct memmap {
	unsigned refs; /* touched on the control thread only */
	unsigned count;
	struct memmap_region regions[]; /* sorted by gpa, disjoint */
};

/* An empty map, one reference. NULL when memory is out. */
struct memmap *memmap_create(void);

/*
 * A new map, one reference, with the region added. mmap_offset: where the region starts in the
 * file. The descriptor is borrowed; it may be closed afterwards. On error NULL, and err: -EINVAL
 * (zero size, overflow, overlap with a region of old, file too small, more than
 * MEMMAP_REGIONS_MAX), or mmap's errno.
 */
struct memmap *memmap_add(const struct memmap *old, uint64_t gpa, uint64_t size, uint64_t uva, int fd,
			  uint64_t mmap_offset, struct err *err);

/* A new map without the region that has exactly this gpa, size and uva; NULL and -ENOENT when there
 * is none. */
struct memmap *memmap_remove(const struct memmap *old, uint64_t gpa, uint64_t size, uint64_t uva,
			     struct err *err);

struct memmap *memmap_get(struct memmap *map);
void memmap_put(struct memmap *map); /* accepts NULL; unmaps what nobody else holds */

/* True when the file behind a region was truncated and touched (see above). Any thread. */
bool memmap_lost(const struct memmap *map);

/* App thread, at start. Installs the SIGBUS handler; harmless when it is installed already. Faults
 * outside of guest memory act as before. 0 or -errno. */
int memmap_guard(void);

/* One range the VMM's virtual addresses name: its mapping here, NULL when not wholly inside one
 * region. */
void *memmap_from_uva(const struct memmap *map, uint64_t uva, uint64_t size);

/* Finds the region of gpa, -1 when none. */
static inline int
memmap_find(const struct memmap *map, uint64_t gpa)
{
	unsigned lo = 0, hi = map->count;

	while (lo < hi) {
		unsigned mid = (lo + hi) / 2;

		if (gpa - map->regions[mid].gpa < map->regions[mid].size) {
			return (int)mid;
		}
		if (gpa < map->regions[mid].gpa) {
			hi = mid;
		} else {
			lo = mid + 1;
		}
	}
	return -1;
}

/* The mapping of [gpa, gpa + size) when it is wholly inside one region, else NULL. size > 0. */
static inline void *
memmap_direct(const struct memmap *map, uint64_t gpa, uint64_t size)
{
	int i = memmap_find(map, gpa);
	uint64_t offset;

	if (UNLIKELY(i < 0)) {
		return NULL;
	}
	offset = gpa - map->regions[i].gpa;
	return LIKELY(size <= map->regions[i].size - offset) ? map->regions[i].hva + offset : NULL;
}

/*
 * Appends [gpa, gpa + size) to iov[*iovcnt...], splitting where regions that touch in guest memory
 * do not touch here. 0; -EFAULT when part of it is no guest memory; -E2BIG when it needs more than
 * max entries in all.
 */
int memmap_iov(const struct memmap *map, uint64_t gpa, uint64_t size, struct iovec *iov, unsigned *iovcnt,
	       unsigned max);

#endif
