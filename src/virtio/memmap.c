/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest memory: mappings shared by immutable maps, and the guard against files that their VMM
 * truncates.
 *
 * Invariants
 *  1. A mapping is unmapped when the last map that has it is put; maps are made and put on the
 *     control thread.
 *  2. Regions of a map are sorted by guest address and disjoint there. Their addresses in the VMM
 *     may overlap (aliases).
 *  3. A mapping covers whole pages of its file's kind (huge pages too); everything outside of the
 *     region is never used.
 *  4. Each mapping is in the guard's table as long as it exists. The table's slots change under a
 *     sequence number, odd while it does (a seqlock): the signal handler, on any thread, never acts
 *     on half of a change. A faulting thread holds its own mapping, so that slot is quiet.
 *  5. The handler calls nothing but mmap, and touches nothing but the table.
 *  6. munmap can fail: where the kernel has joined mappings of one file, it must split them again, and a process has only so
 *     many (vm.max_map_count). Then the mapping stays, with its slot, in nobody's hands, and is tried again with the next one
 *     that is made or unmapped.
 *  7. A fault is answered by this machine: only files of memory, and of file systems known to be local, are mapped.
 */
#include "virtio/memmap.h"

#include <errno.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

/* Mappings of all sessions together. The table takes memory only where it was used. */
#define GUARD_SLOTS 65536
/* Bytes of one map: far more than any guest has, far less than an address space. */
#define MAP_BYTES_MAX (UINT64_C(16) << 40)
/* Not in every linux/magic.h. */
#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif
#ifndef ZFS_SUPER_MAGIC
#define ZFS_SUPER_MAGIC 0x2fc12fc1
#endif
#ifndef BCACHEFS_SUPER_MAGIC
#define BCACHEFS_SUPER_MAGIC 0xca451a4e
#endif

struct guard_slot {
	_Atomic uint32_t seq;
	_Atomic bool lost;
	uint32_t next_free; /* index + 1; control thread */
	_Atomic uintptr_t start;
	_Atomic size_t length;
};

struct memmap_mapping {
	unsigned refs; /* maps that have it; control thread */
	void *start;
	size_t length;
	struct guard_slot *slot;
	struct memmap_mapping *next; /* in `stuck` */
};

static struct memmap_mapping *stuck; /* could not be unmapped yet; control thread */

/* ---- The guard ---- */

static struct guard_slot slots[GUARD_SLOTS];
static _Atomic uint32_t slots_touched; /* slots at and above have never been used */
static uint32_t slot_free;             /* index + 1 of the first free one below slots_touched */

static void
slot_change(struct guard_slot *slot, uintptr_t start, size_t length)
{
	uint32_t seq = atomic_load_explicit(&slot->seq, memory_order_relaxed);

	atomic_store_explicit(&slot->seq, seq + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&slot->start, start, memory_order_relaxed);
	atomic_store_explicit(&slot->length, length, memory_order_relaxed);
	atomic_store_explicit(&slot->lost, false, memory_order_relaxed);
	/* Pairs with the acquire in slot_holds(). */
	atomic_store_explicit(&slot->seq, seq + 2, memory_order_release);
}

/* NULL when the table is full. */
static struct guard_slot *
slot_get(uintptr_t start, size_t length)
{
	uint32_t touched = atomic_load_explicit(&slots_touched, memory_order_relaxed);
	struct guard_slot *slot;

	if (slot_free != 0) {
		slot = &slots[slot_free - 1];
		slot_free = slot->next_free;
	} else if (touched < GUARD_SLOTS) {
		slot = &slots[touched];
		atomic_store_explicit(&slots_touched, touched + 1, memory_order_release);
	} else {
		return NULL;
	}
	slot_change(slot, start, length);
	return slot;
}

static void
slot_put(struct guard_slot *slot)
{
	slot_change(slot, 0, 0);
	slot->next_free = slot_free;
	slot_free = (uint32_t)(slot - slots) + 1;
}

static bool
slot_holds(struct guard_slot *slot, uintptr_t addr, uintptr_t *ret_start, size_t *ret_length)
{
	uint32_t seq = atomic_load_explicit(&slot->seq, memory_order_acquire);

	*ret_start = atomic_load_explicit(&slot->start, memory_order_relaxed);
	*ret_length = atomic_load_explicit(&slot->length, memory_order_relaxed);
	/* Pairs with the release fence in slot_change(). */
	atomic_thread_fence(memory_order_acquire);
	return (seq & 1) == 0 && seq == atomic_load_explicit(&slot->seq, memory_order_relaxed) &&
	       addr - *ret_start < *ret_length;
}

static struct sigaction old_action;

/* A fault that is not ours acts as it did before memmap_guard(). */
static void
pass_on(int signo, siginfo_t *info, void *context)
{
	if ((old_action.sa_flags & SA_SIGINFO) != 0) {
		old_action.sa_sigaction(signo, info, context);
	} else if (old_action.sa_handler != SIG_DFL && old_action.sa_handler != SIG_IGN) {
		old_action.sa_handler(signo);
	} else {
		/* The instruction faults again and ends the process. */
		signal(SIGBUS, SIG_DFL);
	}
}

static void
on_sigbus(int signo, siginfo_t *info, void *context)
{
	uint32_t touched = atomic_load_explicit(&slots_touched, memory_order_acquire);
	uintptr_t addr = (uintptr_t)info->si_addr, start;
	int saved_errno = errno;
	size_t length;

	for (uint32_t i = 0; i < touched; i++) {
		if (!slot_holds(&slots[i], addr, &start, &length)) {
			continue;
		}
		atomic_store_explicit(&slots[i].lost, true, memory_order_release);
		if (mmap((void *)start, length, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
			break;
		}
		errno = saved_errno;
		return;
	}
	errno = saved_errno;
	pass_on(signo, info, context);
}

int
memmap_guard(void)
{
	struct sigaction action = {.sa_sigaction = on_sigbus, .sa_flags = SA_SIGINFO | SA_ONSTACK};
	struct sigaction current;

	sigemptyset(&action.sa_mask);
	if (sigaction(SIGBUS, NULL, &current) != 0) {
		return -errno;
	}
	if ((current.sa_flags & SA_SIGINFO) != 0 && current.sa_sigaction == on_sigbus) {
		return 0;
	}
	old_action = current;
	return sigaction(SIGBUS, &action, NULL) == 0 ? 0 : -errno;
}

bool
memmap_lost(const struct memmap *map)
{
	for (unsigned i = 0; i < map->count; i++) {
		if (atomic_load_explicit(&map->regions[i].mapping->slot->lost, memory_order_acquire)) {
			return true;
		}
	}
	return false;
}

/* ---- Mappings ---- */

/*
 * What answers a fault of this process must not be somebody's server, which could hold it, and with it a
 * whole reactor, as long as it likes: FUSE, NFS, 9P, virtio-fs and whatever is not known.
 */
static bool
is_local(unsigned long type)
{
	static const unsigned long local[] = {
		TMPFS_MAGIC, /* memfd_create, /dev/shm */
		HUGETLBFS_MAGIC,
		RAMFS_MAGIC,
		EXT4_SUPER_MAGIC, /* and 2, and 3 */
		XFS_SUPER_MAGIC,
		BTRFS_SUPER_MAGIC,
		F2FS_SUPER_MAGIC,
		ZFS_SUPER_MAGIC,
		BCACHEFS_SUPER_MAGIC,
		OVERLAYFS_SUPER_MAGIC, /* what is open for writing is in its upper layer, which is local */
	};

	for (size_t i = 0; i < ARRAY_SIZE(local); i++) {
		if (type == local[i]) {
			return true;
		}
	}
	return false;
}

/* Whether the file can be guest memory up to `end`, and the page size that mappings of it are made
 * of. */
static int
file_kind(int fd, uint64_t end, uint64_t *ret_page, struct err *err)
{
	struct statfs fs;
	struct stat st;

	if (fstat(fd, &st) != 0 || fstatfs(fd, &fs) != 0) {
		return err_set(err, -errno, "cannot look at the memory file: %s", strerror(errno));
	}
	if (!S_ISREG(st.st_mode)) {
		return err_set(err, -EINVAL, "guest memory must be a file (a memfd, in /dev/shm, of huge pages, or on a "
			       "local file system)");
	}
	if (!is_local((unsigned long)fs.f_type)) {
		return err_set(err, -EINVAL, "guest memory may not come from a file system of type %#lx: it is not "
			       "known to be local", (unsigned long)fs.f_type);
	}
	if ((uint64_t)st.st_size < end) {
		return err_set(err, -EINVAL, "the memory file has %llu bytes, the region ends at %llu",
			       (unsigned long long)st.st_size, (unsigned long long)end);
	}
	*ret_page = (unsigned long)fs.f_type == HUGETLBFS_MAGIC ? (uint64_t)fs.f_bsize
								 : (uint64_t)sysconf(_SC_PAGESIZE);
	return 0;
}

static bool
unmap(struct memmap_mapping *mapping)
{
	if (munmap(mapping->start, mapping->length) != 0) {
		CHECK(errno == ENOMEM);
		return false;
	}
	slot_put(mapping->slot);
	free(mapping);
	return true;
}

static void
unmap_stuck(void)
{
	struct memmap_mapping *mapping = stuck;

	stuck = NULL;
	while (mapping != NULL) {
		struct memmap_mapping *next = mapping->next;

		if (!unmap(mapping)) {
			mapping->next = stuck;
			stuck = mapping;
		}
		mapping = next;
	}
}

static void
mapping_put(struct memmap_mapping *mapping)
{
	if (--mapping->refs > 0) {
		return;
	}
	if (!unmap(mapping)) {
		mapping->next = stuck;
		stuck = mapping;
	} else if (stuck != NULL) {
		unmap_stuck();
	}
}

/* One reference; *ret_hva: where the region starts. */
static int
mapping_create(int fd, uint64_t offset, uint64_t size, struct memmap_mapping **ret_mapping, uint8_t **ret_hva,
	       struct err *err)
{
	struct memmap_mapping *mapping;
	uint64_t page = 0, delta, length;
	int rc = file_kind(fd, offset + size, &page, err);

	if (rc != 0) {
		return rc;
	}
	unmap_stuck();
	delta = offset % page;
	length = (delta + size + page - 1) / page * page;
	mapping = malloc(sizeof(*mapping));
	if (mapping == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	mapping->start = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)(offset - delta));
	if (mapping->start == MAP_FAILED) {
		rc = err_set(err, -errno, "cannot map %llu bytes of the memory file: %s", (unsigned long long)length,
			     strerror(errno));
		free(mapping);
		return rc;
	}
	mapping->slot = slot_get((uintptr_t)mapping->start, length);
	if (mapping->slot == NULL) {
		munmap(mapping->start, length);
		free(mapping);
		return err_set(err, -ENOSPC, "more than %d memory regions in all sessions", GUARD_SLOTS);
	}
	/* A dump of this process is no dump of its guests. Not every kind of file knows it; then
	 * they are in it. */
	(void)madvise(mapping->start, length, MADV_DONTDUMP);
	mapping->refs = 1;
	mapping->length = length;
	*ret_mapping = mapping;
	*ret_hva = (uint8_t *)mapping->start + delta;
	return 0;
}

/* ---- Maps ---- */

static struct memmap *
alloc_map(unsigned count)
{
	struct memmap *map = malloc(sizeof(*map) + count * sizeof(map->regions[0]));

	if (map != NULL) {
		map->refs = 1;
		map->count = count;
	}
	return map;
}

struct memmap *
memmap_create(void)
{
	return alloc_map(0);
}

struct memmap *
memmap_get(struct memmap *map)
{
	map->refs++;
	return map;
}

void
memmap_put(struct memmap *map)
{
	if (map == NULL || --map->refs > 0) {
		return;
	}
	for (unsigned i = 0; i < map->count; i++) {
		mapping_put(map->regions[i].mapping);
	}
	free(map);
}

/* The place of the new region in old's order, or a negative errno. */
static int
check_region(const struct memmap *old, uint64_t gpa, uint64_t size, uint64_t uva, uint64_t mmap_offset,
	     struct err *err)
{
	uint64_t bytes = size;
	unsigned place = 0;

	if (size == 0 || size > MAP_BYTES_MAX || gpa + size < gpa || uva + size < uva ||
	    mmap_offset > (uint64_t)INT64_MAX - MAP_BYTES_MAX) {
		return err_set(err, -EINVAL, "no memory region can have %#llx bytes at %#llx, offset %#llx",
			       (unsigned long long)size, (unsigned long long)gpa, (unsigned long long)mmap_offset);
	}
	if (old->count == MEMMAP_REGIONS_MAX) {
		return err_set(err, -EINVAL, "more than %d memory regions", MEMMAP_REGIONS_MAX);
	}
	for (unsigned i = 0; i < old->count; i++) {
		const struct memmap_region *r = &old->regions[i];

		if (gpa < r->gpa + r->size && r->gpa < gpa + size) {
			return err_set(err, -EINVAL, "memory region %#llx+%#llx overlaps %#llx+%#llx",
				       (unsigned long long)gpa, (unsigned long long)size, (unsigned long long)r->gpa,
				       (unsigned long long)r->size);
		}
		place += r->gpa < gpa;
		bytes += r->size;
	}
	if (bytes > MAP_BYTES_MAX) {
		return err_set(err, -EINVAL, "more than %llu bytes of guest memory", (unsigned long long)MAP_BYTES_MAX);
	}
	return (int)place;
}

struct memmap *
memmap_add(const struct memmap *old, uint64_t gpa, uint64_t size, uint64_t uva, int fd, uint64_t mmap_offset,
	   struct err *err)
{
	struct memmap_region region = {.gpa = gpa, .size = size, .uva = uva};
	int place = check_region(old, gpa, size, uva, mmap_offset, err);
	struct memmap *map;

	if (place < 0 || mapping_create(fd, mmap_offset, size, &region.mapping, &region.hva, err) != 0) {
		return NULL;
	}
	map = alloc_map(old->count + 1);
	if (map == NULL) {
		mapping_put(region.mapping);
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	for (unsigned i = 0; i < old->count; i++) {
		old->regions[i].mapping->refs++;
		map->regions[i < (unsigned)place ? i : i + 1] = old->regions[i];
	}
	map->regions[place] = region;
	return map;
}

struct memmap *
memmap_remove(const struct memmap *old, uint64_t gpa, uint64_t size, uint64_t uva, struct err *err)
{
	int place = memmap_find(old, gpa);
	const struct memmap_region *r = place >= 0 ? &old->regions[place] : NULL;
	struct memmap *map;

	if (r == NULL || r->gpa != gpa || r->size != size || r->uva != uva) {
		err_set(err, -ENOENT, "no memory region %#llx+%#llx", (unsigned long long)gpa, (unsigned long long)size);
		return NULL;
	}
	map = alloc_map(old->count - 1);
	if (map == NULL) {
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	for (unsigned i = 0; i < map->count; i++) {
		map->regions[i] = old->regions[i < (unsigned)place ? i : i + 1];
		map->regions[i].mapping->refs++;
	}
	return map;
}

/* ---- Translation ---- */

void *
memmap_from_uva(const struct memmap *map, uint64_t uva, uint64_t size)
{
	for (unsigned i = 0; i < map->count; i++) {
		const struct memmap_region *r = &map->regions[i];
		uint64_t offset = uva - r->uva;

		if (offset < r->size && size <= r->size - offset) {
			return r->hva + offset;
		}
	}
	return NULL;
}

int
memmap_iov(const struct memmap *map, uint64_t gpa, uint64_t size, struct iovec *iov, unsigned *iovcnt, unsigned max)
{
	unsigned count = *iovcnt, first = count;

	while (size > 0) {
		int i = memmap_find(map, gpa);
		uint64_t offset, part;
		uint8_t *hva;

		if (i < 0) {
			return -EFAULT;
		}
		offset = gpa - map->regions[i].gpa;
		part = MIN(size, map->regions[i].size - offset);
		hva = map->regions[i].hva + offset;
		if (count > first && (uint8_t *)iov[count - 1].iov_base + iov[count - 1].iov_len == hva) {
			iov[count - 1].iov_len += part;
		} else if (count == max) {
			return -E2BIG;
		} else {
			iov[count++] = (struct iovec){.iov_base = hva, .iov_len = part};
		}
		gpa += part;
		size -= part;
	}
	*iovcnt = count;
	return 0;
}
