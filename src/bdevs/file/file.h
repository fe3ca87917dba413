/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the bdevs on files and block devices (aio, uring) share: opening, checks and limits; the requests that
 * need no kernel queue (memory-backed files, cached pages) and those that would block (worker threads).
 *
 * A file is served in one of three ways:
 *   FILE_DIRECT    O_DIRECT, through the module's kernel queue
 *   FILE_BUFFERED  page cache, where the file system has no O_DIRECT, or its alignment exceeds the block size
 *   FILE_MEMORY    tmpfs and ramfs: plain preadv/pwritev within submit, faster there than any queue
 *
 * The descriptor holds an exclusive flock (shared when read-only), a block device is opened with O_EXCL: two
 * writers are refused, within this process too. The kernel keeps the lock as long as I/O of a dead process lives.
 */
#ifndef BDEVS_FILE_FILE_H
#define BDEVS_FILE_FILE_H

#include <stdatomic.h>

#include "bdev/module.h"
#include "event/worker.h"

/* ---- The open file ---- */

enum file_access { FILE_DIRECT, FILE_BUFFERED, FILE_MEMORY };

const char *file_access_name(enum file_access access); /* "direct", "buffered", "memory" */

struct file_options {
	const char *name;     /* of the bdev */
	const char *filename;
	uint32_t block_size;  /* 0: the device's; 4096 or 512 for a file */
	bool readonly;
	bool buffered;        /* page cache even where O_DIRECT works */
	uuid_t uuid;          /* all zero: made by the core */
};

/* Constant after file_disk_open but for the two flags, which workers and reactors learn as they go. */
struct file_disk {
	char *path;
	int fd;
	enum file_access access;
	bool block_device;
	bool readonly;
	bool can_unmap;
	uint32_t block_size;
	uint32_t physical_block_size;
	uint32_t unmap_granularity; /* bytes */
	uint32_t align;             /* of lengths and offsets, bytes; 1 unless FILE_DIRECT */
	uint32_t buffer_align;      /* of buffers; likewise */
	uint64_t size_bytes;        /* when opened or last rescanned, in whole blocks */
	/* A file that is only read may end inside its last block, whose rest reads as zeroes: where; 0: it does not. */
	_Atomic uint64_t odd_end_bytes;
	_Atomic bool no_zero_range; /* the file system cannot zero a range: zeroes are written */
	_Atomic bool no_nowait[2];  /* reads, writes: RWF_NOWAIT is not known here */
};

/* Fills *ret_disk on success. 0, or the errno of open(2), -EISDIR, -EBUSY (in use), -EINVAL (sizes). */
int file_disk_open(struct file_disk *ret_disk, const struct file_options *options, struct err *err);
void file_disk_close(struct file_disk *disk);

/* Reads the size again. 0; -EINVAL when it is no multiple of the block size and not read-only, or 0. */
int file_disk_rescan(struct file_disk *disk, struct err *err);

/* ---- Requests ---- */

/* First member of the module's room in a request. */
struct file_request {
	struct worker_job job; /* while it blocks on a worker; its link also serves the modules' waiting lists */
	struct bdev_io *io;
	struct file_disk *disk;
	uint64_t done_bytes; /* of a read or write: transferred so far */
	int status;
};

/* Sets up the module's room in io. */
struct file_request *file_request_init(struct file_disk *disk, struct bdev_io *io);

/* Executes io from done_bytes on, blocking. 0 or a negative errno; never -EAGAIN. Any system thread. */
int file_request_execute(struct file_request *req);

/* The same on a worker thread; then completes io on the calling thread. */
void file_request_work(struct file_request *req);

/* The kernel's answer to what a module's queue did: bytes or a negative errno. Completes io, or has a worker do
 * what is left. The end of the file before the end of the range (it was truncated) is -EIO. */
void file_request_answer(struct file_request *req, int64_t res);

/*
 * Does io where no kernel queue is needed: completes it, or gives it to a worker, and returns true: everything, copies too,
 * on FILE_MEMORY, unmap and write zeroes on all. False: it is for the module's queue.
 * cached: reads and writes on FILE_BUFFERED, too, are done here, from the page cache where they do not block.
 */
bool file_submit(struct file_disk *disk, struct bdev_io *io, bool cached);

static inline uint64_t
file_io_offset(const struct file_disk *disk, const struct bdev_io *io)
{
	return io->lba * disk->block_size;
}

static inline uint64_t
file_io_bytes(const struct file_disk *disk, const struct bdev_io *io)
{
	return io->num_blocks * disk->block_size;
}

/* ---- The bdev ---- */

struct file_bdev {
	struct bdev bdev; /* bdev.ctx is this structure */
	struct file_disk disk;
};

static inline struct file_bdev *
file_bdev_of(struct bdev *bdev)
{
	return CONTAINER_OF(bdev, struct file_bdev, bdev);
}

/*
 * Opens the file and registers fb->bdev with ops. fb: zeroed, the module's own memory, to be freed by it when this
 * fails. request_bytes: the module's room in a request, which starts with a struct file_request.
 * App thread, as all that follows. Errors of file_disk_open() and bdev_register().
 */
int file_bdev_register(struct file_bdev *fb, const struct bdev_ops *ops, const char *product_name,
		       const struct file_options *options, size_t request_bytes, size_t channel_bytes,
		       struct err *err);

/* In the module's destruct: closes the file and releases everything but fb itself. */
void file_bdev_release(struct file_bdev *fb);

/* By name, if it is one of ops: 0; -ENODEV. */
int file_bdev_find(const char *name, const struct bdev_ops *ops, struct file_bdev **ret_fb, struct err *err);

/* Reads the file's size again and resizes the bdev. 0, or the errors of file_disk_rescan() and bdev_resize(). */
int file_bdev_rescan(struct file_bdev *fb, struct err *err);

#endif
