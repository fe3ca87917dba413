/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory of malloc bdevs. A region never moves: address space for one twice as large is reserved. */
#include <errno.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bdevs/malloc/internal.h"

/* From here on giving pages back is cheaper than clearing them, and worth the faults when they
 * are written again. */
#define GIVE_BACK_BYTES ((size_t)256 * 1024)

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

static int
bind_to(const struct region *r, int node)
{
	unsigned long mask[16] = {0};
	const unsigned bits = 8 * sizeof(mask[0]);

	if (node < 0) {
		return 0;
	}
	if ((unsigned)node >= bits * ARRAY_SIZE(mask)) {
		return -EINVAL;
	}
	mask[(unsigned)node / bits] = 1ul << ((unsigned)node % bits);
	return syscall(SYS_mbind, r->base, r->reserved, MPOL_BIND, mask, sizeof(mask) * 8, 0) == 0
		       ? 0
		       : -errno;
}

int
region_map(struct region *r, size_t bytes, int node)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
	void *base = MAP_FAILED;
	int rc;

	if (bytes <= SIZE_MAX / 4) {
		r->reserved = 2 * bytes;
		base = mmap(NULL, r->reserved, PROT_NONE, flags, -1, 0);
	}
	if (base == MAP_FAILED) {
		r->reserved = bytes;
		base = mmap(NULL, bytes, PROT_NONE, flags, -1, 0);
	}
	if (base == MAP_FAILED) {
		return -errno;
	}
	r->base = base;
	r->bytes = bytes;
	rc = bind_to(r, node);
	if (rc == 0 && mprotect(base, bytes, PROT_READ | PROT_WRITE) != 0) {
		rc = -errno;
	}
	return rc;
}

void
region_unmap(struct region *r)
{
	if (r->base != NULL) {
		munmap(r->base, r->reserved);
		r->base = NULL;
	}
}

int
region_resize(struct region *r, size_t bytes)
{
	size_t first = page_up(r->bytes), last = page_up(bytes);

	if (bytes > r->reserved) {
		return -ENOMEM;
	}
	if (first < last && mprotect(r->base + first, last - first, PROT_READ | PROT_WRITE) != 0) {
		return -errno;
	}
	if (bytes < r->bytes) {
		region_clear(r, bytes, r->bytes - bytes);
	}
	r->bytes = bytes;
	return 0;
}

void
region_clear(struct region *r, size_t offset, size_t bytes)
{
	uint8_t *p = r->base + offset;

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
