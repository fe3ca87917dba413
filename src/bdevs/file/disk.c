/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Opening a file or block device to serve as a disk: what it is, whether nobody else uses it, how large, and how it
 * is best read and written. Nothing here changes the file. App thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/log.h"
#include "bdevs/file/file.h"

#define FILE_BLOCK_SIZE 4096 /* of a regular file whose size allows it */

const char *
file_access_name(enum file_access access)
{
	static const char *const names[] = {"direct", "buffered", "memory"};

	return names[access];
}

static bool
power_of_two(uint64_t n)
{
	return n != 0 && (n & (n - 1)) == 0;
}

static int
fail(const struct file_disk *d, struct err *err, int rc, const char *what)
{
	return err_set(err, rc, "file %s: %s: %s", d->path, what, strerror(-rc));
}

/* ---- Opening and locking ---- */

static int
check_kind(struct file_disk *d, const struct stat *st, struct err *err)
{
	if (S_ISDIR(st->st_mode)) {
		return err_set(err, -EISDIR, "file %s is a directory", d->path);
	}
	if (!S_ISREG(st->st_mode) && !S_ISBLK(st->st_mode)) {
		return err_set(err, -EINVAL, "file %s is neither a regular file nor a block device", d->path);
	}
	d->block_device = S_ISBLK(st->st_mode);
	return 0;
}

/*
 * A regular file is locked with flock; a block device is opened with O_EXCL, which mounted file systems hold too (its
 * flock belongs to udev, who takes it for a moment whenever it likes).
 */
static int
lock(struct file_disk *d, struct err *err)
{
	if (d->block_device || flock(d->fd, (d->readonly ? LOCK_SH : LOCK_EX) | LOCK_NB) == 0) {
		return 0;
	}
	if (errno == EWOULDBLOCK) {
		return err_set(err, -EBUSY, "file %s is in use by another disk or process", d->path);
	}
	LOG_WARNING(BDEV, d->path, "the file system cannot lock it (%s): nothing keeps others from writing to it",
		    strerror(errno));
	return 0;
}

static int
open_file(struct file_disk *d, struct err *err)
{
	/* O_NONBLOCK: a pipe put in the file's place must not hold us. */
	int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (d->readonly ? O_RDONLY : O_RDWR);
	struct stat st;
	int rc;

	if (stat(d->path, &st) != 0) {
		return fail(d, err, -errno, "cannot open");
	}
	rc = check_kind(d, &st, err);
	if (rc != 0) {
		return rc;
	}
	if (d->block_device && !d->readonly) {
		flags |= O_EXCL;
	}
	d->fd = open(d->path, flags);
	if (d->fd < 0) {
		rc = -errno;
		return rc == -EBUSY ? err_set(err, rc, "block device %s is mounted or in use", d->path)
				    : fail(d, err, rc, d->readonly ? "cannot open" : "cannot open for writing");
	}
	if (fstat(d->fd, &st) != 0) {
		return fail(d, err, -errno, "cannot read its attributes");
	}
	rc = check_kind(d, &st, err);
	if (rc == 0 && fcntl(d->fd, F_SETFL, flags & O_ACCMODE) != 0) {
		rc = fail(d, err, -errno, "cannot set flags");
	}
	return rc != 0 ? rc : lock(d, err);
}

/* ---- Sizes ---- */

static int
read_size(const struct file_disk *d, uint64_t *ret_bytes, struct err *err)
{
	struct stat st;
	uint64_t bytes = 0;

	if (d->block_device ? ioctl(d->fd, BLKGETSIZE64, &bytes) != 0 : fstat(d->fd, &st) != 0) {
		return fail(d, err, -errno, "cannot read its size");
	}
	*ret_bytes = d->block_device ? bytes : (uint64_t)st.st_size;
	return 0;
}

/* What is only read may end inside a block: an image of another program's. */
static bool
may_be_odd(const struct file_disk *d)
{
	return d->readonly && !d->block_device;
}

static void
set_size(struct file_disk *d, uint64_t bytes)
{
	uint64_t rest = bytes % d->block_size;

	atomic_store(&d->odd_end_bytes, rest != 0 ? bytes : 0);
	d->size_bytes = rest != 0 ? bytes - rest + d->block_size : bytes;
}

static int
check_size(const struct file_disk *d, uint64_t bytes, struct err *err)
{
	if (bytes == 0) {
		return err_set(err, -EINVAL, "file %s is empty", d->path);
	}
	if (bytes % d->block_size != 0 && !may_be_odd(d)) {
		return err_set(err, -EINVAL, "file %s: its size, %llu bytes, is not a multiple of the block size, %u",
			       d->path, (unsigned long long)bytes, d->block_size);
	}
	return 0;
}

static int
choose_block_size(struct file_disk *d, uint32_t asked, struct err *err)
{
	int logical = BDEV_BLOCK_SIZE_MIN;

	if (d->block_device && ioctl(d->fd, BLKSSZGET, &logical) != 0) {
		return fail(d, err, -errno, "cannot read its block size");
	}
	d->block_size = asked;
	if (asked == 0) {
		d->block_size = d->block_device ? (uint32_t)logical
			      : d->size_bytes % FILE_BLOCK_SIZE == 0 ? FILE_BLOCK_SIZE : BDEV_BLOCK_SIZE_MIN;
	}
	if (!power_of_two(d->block_size) || d->block_size < BDEV_BLOCK_SIZE_MIN ||
	    d->block_size > BDEV_BLOCK_SIZE_MAX) {
		return err_set(err, -EINVAL, "file %s: block size %u is not a power of two from %u to %u", d->path,
			       d->block_size, BDEV_BLOCK_SIZE_MIN, BDEV_BLOCK_SIZE_MAX);
	}
	if (d->block_size < (uint32_t)logical) {
		return err_set(err, -EINVAL, "block device %s: block size %u is less than the device's own, %d",
			       d->path, d->block_size, logical);
	}
	if (check_size(d, d->size_bytes, err) != 0) {
		return -EINVAL;
	}
	set_size(d, d->size_bytes);
	return 0;
}

/* ---- Direct I/O ---- */

/* Older kernels do not tell: the smallest read that the file takes is the answer; 0 when it takes none. */
static uint32_t
probe_align(const struct file_disk *d)
{
	static const uint32_t sizes[] = {512, 4096};
	uint32_t found = 0;
	uint8_t *buf;

	if (posix_memalign((void **)&buf, 8192, 8192) != 0) {
		return 0;
	}
	for (size_t i = 0; i < ARRAY_SIZE(sizes) && found == 0; i++) {
		/* Buffer and offset are aligned to this size and to no larger one. */
		if (pread(d->fd, buf + sizes[i], sizes[i], (off_t)sizes[i]) >= 0) {
			found = sizes[i];
		}
	}
	free(buf);
	return found;
}

/* Alignment of offsets and lengths, and of buffers, in bytes; false where there is no direct I/O. */
static bool
direct_align(const struct file_disk *d, uint32_t *ret_align, uint32_t *ret_buffer_align)
{
	uint32_t align = 0, buffer_align = 0;
#ifdef STATX_DIOALIGN
	struct statx sx;

	if (statx(d->fd, "", AT_EMPTY_PATH, STATX_DIOALIGN, &sx) == 0 && (sx.stx_mask & STATX_DIOALIGN) != 0) {
		align = sx.stx_dio_offset_align;
		buffer_align = MAX(sx.stx_dio_mem_align, align);
	} else
#endif
	{
		align = buffer_align = probe_align(d);
	}
	*ret_align = align;
	*ret_buffer_align = buffer_align;
	return power_of_two(align) && power_of_two(buffer_align) && buffer_align <= BDEV_BUFFER_ALIGN_MAX;
}

static void
set_direct(struct file_disk *d, bool on)
{
	int flags = d->readonly ? O_RDONLY : O_RDWR;

	/* Refused where the file system knows no direct I/O: then it stays buffered. */
	if (fcntl(d->fd, F_SETFL, flags | (on ? O_DIRECT : 0)) == 0 && on) {
		d->access = FILE_DIRECT;
	}
}

static void
choose_access(struct file_disk *d, const struct file_options *options)
{
	uint32_t align, buffer_align;

	d->access = FILE_BUFFERED;
	if (options->buffered) {
		return;
	}
	set_direct(d, true);
	if (d->access != FILE_DIRECT) {
		LOG_NOTICE(BDEV, options->name, "%s has no direct I/O: the page cache is used", d->path);
		return;
	}
	if (direct_align(d, &align, &buffer_align) && align <= d->block_size) {
		d->align = align;
		d->buffer_align = buffer_align;
		return;
	}
	set_direct(d, false);
	d->access = FILE_BUFFERED;
	LOG_NOTICE(BDEV, options->name, "%s takes direct I/O in %u bytes, blocks have %u: the page cache is used",
		   d->path, align, d->block_size);
}

/* Memory is served in place; hugetlbfs has neither read nor write for it. */
static int
check_memory(struct file_disk *d, bool *ret_memory, struct err *err)
{
	struct statfs fs;

	*ret_memory = false;
	if (d->block_device) {
		return 0;
	}
	if (fstatfs(d->fd, &fs) != 0) {
		return fail(d, err, -errno, "cannot read its file system's attributes");
	}
	if ((uint64_t)fs.f_type == HUGETLBFS_MAGIC) {
		return err_set(err, -EINVAL, "file %s lies on hugetlbfs, which cannot be written to", d->path);
	}
	*ret_memory = (uint64_t)fs.f_type == TMPFS_MAGIC || (uint64_t)fs.f_type == RAMFS_MAGIC;
	return 0;
}

/* ---- Deallocation ---- */

static uint64_t
queue_attribute(const struct stat *st, const char *name)
{
	unsigned long long value = 0;
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/queue/%s", major(st->st_rdev), minor(st->st_rdev), name);
	f = fopen(path, "re");
	if (f == NULL) {
		/* A partition: the queue is its disk's. */
		snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/../queue/%s", major(st->st_rdev),
			 minor(st->st_rdev), name);
		f = fopen(path, "re");
	}
	if (f != NULL) {
		if (fscanf(f, "%llu", &value) != 1) {
			value = 0;
		}
		fclose(f);
	}
	return value;
}

/* Asks in ways that change nothing: a hole behind the end; a misaligned discard, whose range is checked last. */
static void
probe_unmap(struct file_disk *d, const struct stat *st)
{
	uint64_t misaligned[2] = {1, 1};
	uint64_t granularity = (uint64_t)st->st_blksize;

	if (d->readonly) {
		return;
	}
	if (d->block_device) {
		d->can_unmap = ioctl(d->fd, BLKDISCARD, misaligned) == 0 || errno != EOPNOTSUPP;
		granularity = queue_attribute(st, "discard_granularity");
	} else {
		d->can_unmap = fallocate(d->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)d->size_bytes,
					 d->block_size) == 0;
	}
	if (power_of_two(granularity) && granularity > d->block_size && granularity <= UINT32_MAX) {
		d->unmap_granularity = (uint32_t)granularity;
	}
}

static void
probe_physical(struct file_disk *d, const struct stat *st)
{
	unsigned physical = (unsigned)st->st_blksize;

	if (d->block_device && ioctl(d->fd, BLKPBSZGET, &physical) != 0) {
		physical = d->block_size;
	}
	d->physical_block_size = d->block_size;
	if (power_of_two(physical) && physical > d->block_size && physical <= BDEV_BLOCK_SIZE_MAX) {
		d->physical_block_size = physical;
	}
}

/* ---- */

static int
examine(struct file_disk *d, const struct file_options *options, struct err *err)
{
	bool memory = false;
	struct stat st;
	int rc;

	rc = read_size(d, &d->size_bytes, err);
	if (rc == 0) {
		rc = choose_block_size(d, options->block_size, err);
	}
	if (rc == 0) {
		rc = check_memory(d, &memory, err);
	}
	if (rc != 0) {
		return rc;
	}
	if (d->block_device && !d->readonly) {
		int ro = 0;

		if (ioctl(d->fd, BLKROGET, &ro) == 0 && ro != 0) {
			return err_set(err, -EROFS, "block device %s is read-only", d->path);
		}
	}
	if (memory) {
		d->access = FILE_MEMORY;
	} else {
		choose_access(d, options);
	}
	if (fstat(d->fd, &st) != 0) {
		return fail(d, err, -errno, "cannot read its attributes");
	}
	d->unmap_granularity = d->block_size;
	probe_unmap(d, &st);
	probe_physical(d, &st);
	return 0;
}

int
file_disk_open(struct file_disk *ret_disk, const struct file_options *options, struct err *err)
{
	struct file_disk d = {.fd = -1, .readonly = options->readonly, .align = 1, .buffer_align = 1};
	int rc;

	d.path = strdup(options->filename);
	if (d.path == NULL) {
		return err_set(err, -ENOMEM, "file %s: out of memory", options->filename);
	}
	rc = open_file(&d, err);
	if (rc == 0) {
		rc = examine(&d, options, err);
	}
	if (rc != 0) {
		file_disk_close(&d);
		return rc;
	}
	*ret_disk = d;
	return 0;
}

void
file_disk_close(struct file_disk *disk)
{
	if (disk->path != NULL && disk->fd >= 0) {
		/* The kernel may keep the description a little longer (a table of registered files). */
		(void)flock(disk->fd, LOCK_UN);
		close(disk->fd);
	}
	free(disk->path);
	disk->path = NULL;
	disk->fd = -1;
}

int
file_disk_rescan(struct file_disk *disk, struct err *err)
{
	uint64_t bytes = 0;
	int rc = read_size(disk, &bytes, err);

	if (rc == 0) {
		rc = check_size(disk, bytes, err);
	}
	if (rc == 0) {
		set_size(disk, bytes);
	}
	return rc;
}
