/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests on files by plain system calls: at once where that cannot block, else on worker threads, one pool
 * for the whole process.
 *
 * Invariants
 *  1. A request is answered once: by bdev_io_complete() here, or by the module's queue, which then calls
 *     file_request_answer().
 *  2. A short transfer is no error: the rest is asked for until the kernel transfers nothing.
 *  3. What a worker does ends: it is never given back to a queue, and -EAGAIN never leaves it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/iov.h"
#include "bdevs/file/internal.h"

#define PART_IOVCNT 64
/* Deallocation in memory is quick; beyond this it would be felt by the thread's other work. */
#define INLINE_UNMAP_BYTES (UINT64_C(1) << 20)
#define ZERO_BUFFER_BYTES 65536u
#define COPY_BUFFER_BYTES 65536u
/* Some 70 us. */
#define INLINE_COPY_BYTES (UINT64_C(256) << 10)
#define WORKERS 4

static struct worker *pool;
static unsigned pool_refs;

int
file_workers_get(struct err *err)
{
	if (pool_refs == 0) {
		pool = worker_create_pool("file", WORKERS, err);
		if (pool == NULL) {
			return err != NULL && err->code != 0 ? err->code : -EAGAIN;
		}
	}
	pool_refs++;
	return 0;
}

void
file_workers_put(void)
{
	CHECK(pool_refs > 0);
	if (--pool_refs == 0) {
		worker_free(pool);
		pool = NULL;
	}
}

/* ---- Reads and writes ---- */

/* The part of io's list from `offset` on, at most PART_IOVCNT entries. */
static int
rest_of(const struct bdev_io *io, uint64_t offset, struct iovec *out)
{
	int n = 0;

	for (unsigned i = 0; i < io->iovcnt && n < PART_IOVCNT; i++) {
		if (offset >= io->iov[i].iov_len) {
			offset -= io->iov[i].iov_len;
			continue;
		}
		out[n++] = (struct iovec){(uint8_t *)io->iov[i].iov_base + offset, io->iov[i].iov_len - offset};
		offset = 0;
	}
	return n;
}

/* One system call for what is left; bytes or a negative errno. */
static ssize_t
transfer(struct file_disk *d, const struct bdev_io *io, uint64_t done, int flags)
{
	struct iovec part[PART_IOVCNT];
	const struct iovec *iov = io->iov;
	off_t offset = (off_t)(file_io_offset(d, io) + done);
	int iovcnt = io->iovcnt;
	ssize_t n;

	if (done > 0) {
		iovcnt = rest_of(io, done, part);
		iov = part;
	}
	if (io->op == BDEV_WRITE && (io->flags & BDEV_IO_FUA) != 0 && d->access != FILE_MEMORY) {
		flags |= RWF_DSYNC;
	}
	if (flags != 0) {
		n = io->op == BDEV_READ ? preadv2(d->fd, iov, iovcnt, offset, flags)
					: pwritev2(d->fd, iov, iovcnt, offset, flags);
	} else if (iovcnt == 1) {
		n = io->op == BDEV_READ ? pread(d->fd, iov->iov_base, iov->iov_len, offset)
					: pwrite(d->fd, iov->iov_base, iov->iov_len, offset);
	} else {
		n = io->op == BDEV_READ ? preadv(d->fd, iov, iovcnt, offset)
					: pwritev(d->fd, iov, iovcnt, offset);
	}
	return n < 0 ? -errno : n;
}

/* Bytes of progress: what follows must be aligned again. */
static uint64_t
progress(const struct file_disk *d, uint64_t done, uint64_t bytes, uint64_t n)
{
	return done + n >= bytes ? n : n & ~(uint64_t)(d->align - 1);
}

/* Whether the first n bytes of a read are all that the file has, which ends inside its last block: the others are zero. */
static bool
zero_tail(const struct file_disk *d, const struct bdev_io *io, uint64_t n)
{
	uint64_t end = atomic_load_explicit(&d->odd_end_bytes, memory_order_relaxed);

	if (end == 0 || io->op != BDEV_READ || file_io_offset(d, io) + n < end) {
		return false;
	}
	iov_fill(io->iov, io->iovcnt, n, 0, file_io_bytes(d, io) - n);
	return true;
}

static int
read_write(struct file_request *req)
{
	struct file_disk *d = req->disk;
	struct bdev_io *io = req->io;
	uint64_t bytes = file_io_bytes(d, io);

	while (req->done_bytes < bytes) {
		ssize_t n = transfer(d, io, req->done_bytes, 0);

		if (n == -EINTR) {
			continue;
		}
		if (n < 0) {
			return n == -EAGAIN ? -EIO : (int)n;
		}
		if (zero_tail(d, io, req->done_bytes + (uint64_t)n)) {
			return 0;
		}
		n = (ssize_t)progress(d, req->done_bytes, bytes, (uint64_t)n);
		if (n == 0) {
			return -EIO;
		}
		req->done_bytes += (uint64_t)n;
	}
	return 0;
}

/* ---- Deallocation and zeroes ---- */

static int
call_fallocate(const struct file_disk *d, const struct bdev_io *io, int mode)
{
	int rc;

	do {
		rc = fallocate(d->fd, mode | FALLOC_FL_KEEP_SIZE, (off_t)file_io_offset(d, io),
			       (off_t)file_io_bytes(d, io));
	} while (rc != 0 && errno == EINTR);
	return rc == 0 ? 0 : -errno;
}

static int
call_ioctl(const struct file_disk *d, const struct bdev_io *io, unsigned long request)
{
	uint64_t range[2] = {file_io_offset(d, io), file_io_bytes(d, io)};

	return ioctl(d->fd, request, range) == 0 ? 0 : -errno;
}

static int
unmap(const struct file_disk *d, const struct bdev_io *io)
{
	return d->block_device ? call_ioctl(d, io, BLKDISCARD) : call_fallocate(d, io, FALLOC_FL_PUNCH_HOLE);
}

static int
write_zero_bytes(const struct file_disk *d, const struct bdev_io *io)
{
	uint64_t offset = file_io_offset(d, io), left = file_io_bytes(d, io);
	void *zeroes;
	int rc = 0;

	if (posix_memalign(&zeroes, ZERO_BUFFER_BYTES, ZERO_BUFFER_BYTES) != 0) {
		return -ENOMEM;
	}
	memset(zeroes, 0, ZERO_BUFFER_BYTES);
	while (left > 0 && rc == 0) {
		ssize_t n = pwrite(d->fd, zeroes, MIN(left, ZERO_BUFFER_BYTES), (off_t)offset);

		if (n < 0) {
			rc = errno == EINTR ? 0 : -errno;
			continue;
		}
		n = (ssize_t)((uint64_t)n & ~(uint64_t)(d->align - 1));
		rc = n == 0 ? -EIO : 0;
		offset += (uint64_t)n;
		left -= (uint64_t)n;
	}
	free(zeroes);
	return rc;
}

static int
zero_range(struct file_disk *d, const struct bdev_io *io)
{
	int rc = -EOPNOTSUPP;

	if ((io->flags & BDEV_IO_MAY_UNMAP) != 0 && d->can_unmap) {
		/* A hole reads as zeroes; block devices guarantee the same for this call. */
		rc = call_fallocate(d, io, FALLOC_FL_PUNCH_HOLE);
	}
	if (rc == -EOPNOTSUPP && d->block_device) {
		rc = call_ioctl(d, io, BLKZEROOUT);
	}
	if (rc == -EOPNOTSUPP && !d->block_device &&
	    !atomic_load_explicit(&d->no_zero_range, memory_order_relaxed)) {
		rc = call_fallocate(d, io, FALLOC_FL_ZERO_RANGE);
		if (rc == -EOPNOTSUPP) {
			atomic_store_explicit(&d->no_zero_range, true, memory_order_relaxed);
		}
	}
	return rc == -EOPNOTSUPP ? write_zero_bytes(d, io) : rc;
}

static int
write_zeroes(struct file_disk *d, const struct bdev_io *io)
{
	int rc = zero_range(d, io);

	if (rc == 0 && (io->flags & BDEV_IO_FUA) != 0) {
		rc = fdatasync(d->fd) == 0 ? 0 : -errno;
	}
	return rc;
}

/* ---- Copies ---- */

/* Through memory: where the kernel cannot, and past the file's odd end. */
static int
copy_bytes(const struct file_disk *d, uint64_t to, uint64_t from, uint64_t bytes)
{
	void *buf;
	int rc = 0;

	if (posix_memalign(&buf, COPY_BUFFER_BYTES, COPY_BUFFER_BYTES) != 0) {
		return -ENOMEM;
	}
	while (rc == 0 && bytes > 0) {
		size_t piece = MIN(bytes, (uint64_t)COPY_BUFFER_BYTES);
		ssize_t n = pread(d->fd, buf, piece, (off_t)from);

		if (n >= 0) {
			memset((uint8_t *)buf + n, 0, piece - (size_t)n);
			n = pwrite(d->fd, buf, piece, (off_t)to);
		}
		if (n > 0) {
			from += (uint64_t)n;
			to += (uint64_t)n;
			bytes -= (uint64_t)n;
		} else if (n == 0 || errno != EINTR) {
			rc = n == 0 ? -EIO : -errno;
		}
	}
	free(buf);
	return rc;
}

/* In one pass: pages go from place to place in the kernel. */
static int
copy(const struct file_disk *d, const struct bdev_io *io)
{
	off_t to = (off_t)file_io_offset(d, io), from = (off_t)(io->src_lba * d->block_size);
	uint64_t left = file_io_bytes(d, io);

	while (left > 0) {
		ssize_t n = copy_file_range(d->fd, &from, d->fd, &to, left, 0);

		if (n < 0 && errno == EINTR) {
			continue;
		}
		if (n <= 0) {
			return copy_bytes(d, (uint64_t)to, (uint64_t)from, left);
		}
		left -= (uint64_t)n;
	}
	return 0;
}

/* ---- A whole request ---- */

struct file_request *
file_request_init(struct file_disk *disk, struct bdev_io *io)
{
	struct file_request *req = bdev_io_ctx(io);

	list_init(&req->job.link);
	req->io = io;
	req->disk = disk;
	req->done_bytes = 0;
	req->status = 0;
	return req;
}

int
file_request_execute(struct file_request *req)
{
	int rc = -EOPNOTSUPP;

	switch ((enum bdev_op)req->io->op) {
	case BDEV_READ:
	case BDEV_WRITE:
		return read_write(req);
	case BDEV_FLUSH:
		rc = fdatasync(req->disk->fd) == 0 ? 0 : -errno;
		break;
	case BDEV_UNMAP:
		rc = unmap(req->disk, req->io);
		break;
	case BDEV_WRITE_ZEROES:
		rc = write_zeroes(req->disk, req->io);
		break;
	case BDEV_COPY:
		rc = copy(req->disk, req->io);
		break;
	case BDEV_BLOCK_STATUS:
		rc = file_block_status(req->disk, req->io);
		break;
	default:
		break;
	}
	return rc == -EAGAIN ? -EIO : rc;
}

static void
job_run(struct worker_job *job)
{
	struct file_request *req = CONTAINER_OF(job, struct file_request, job);

	req->status = file_request_execute(req);
}

static void
job_done(struct worker_job *job)
{
	struct file_request *req = CONTAINER_OF(job, struct file_request, job);

	bdev_io_complete(req->io, req->status);
}

void
file_request_work(struct file_request *req)
{
	worker_submit(pool, &req->job, job_run, job_done);
}

/* Errors after which a blocking call may still do. */
static bool
worth_blocking(const struct bdev_io *io, int64_t res)
{
	if (res == -EAGAIN || res == -EINTR || res == -EOPNOTSUPP) {
		return true;
	}
	/* An asynchronous fsync that this kernel or file does not know. */
	return res == -EINVAL && io->op == BDEV_FLUSH;
}

void
file_request_answer(struct file_request *req, int64_t res)
{
	struct bdev_io *io = req->io;
	uint64_t bytes;

	if (res < 0) {
		if (res == -EOPNOTSUPP && (io->op == BDEV_READ || io->op == BDEV_WRITE)) {
			atomic_store_explicit(&req->disk->no_nowait[io->op == BDEV_WRITE], true, memory_order_relaxed);
		}
		if (worth_blocking(io, res)) {
			file_request_work(req);
		} else {
			bdev_io_complete(io, (int)res);
		}
		return;
	}
	if (io->op != BDEV_READ && io->op != BDEV_WRITE) {
		bdev_io_complete(io, 0);
		return;
	}
	bytes = file_io_bytes(req->disk, io);
	if (LIKELY((uint64_t)res >= bytes) || zero_tail(req->disk, io, (uint64_t)res)) {
		bdev_io_complete(io, 0);
	} else if (res == 0) {
		bdev_io_complete(io, -EIO);
	} else {
		req->done_bytes = progress(req->disk, 0, bytes, (uint64_t)res);
		file_request_work(req);
	}
}

/* ---- At once ---- */

static void
inline_memory(struct file_disk *d, struct bdev_io *io)
{
	ssize_t n = transfer(d, io, 0, 0);

	if (LIKELY(n > 0 && (uint64_t)n == file_io_bytes(d, io))) {
		bdev_io_complete(io, 0);
	} else {
		file_request_answer(file_request_init(d, io), n);
	}
}

/* From the page cache when it is there; a write with FUA would wait for the disk. */
static void
inline_cached(struct file_disk *d, struct bdev_io *io)
{
	struct file_request *req = file_request_init(d, io);

	if (atomic_load_explicit(&d->no_nowait[io->op == BDEV_WRITE], memory_order_relaxed) ||
	    (io->flags & BDEV_IO_FUA) != 0) {
		file_request_work(req);
	} else {
		file_request_answer(req, transfer(d, io, 0, RWF_NOWAIT));
	}
}

/* At once what is quick: never on a disk. */
static void
do_rest(struct file_disk *d, struct bdev_io *io)
{
	struct file_request *req = file_request_init(d, io);
	uint64_t most = io->op == BDEV_COPY ? INLINE_COPY_BYTES : INLINE_UNMAP_BYTES;

	if (d->access == FILE_MEMORY && file_io_bytes(d, io) <= most) {
		bdev_io_complete(io, file_request_execute(req));
	} else {
		file_request_work(req);
	}
}

bool
file_submit(struct file_disk *disk, struct bdev_io *io, bool cached)
{
	if (io->op == BDEV_READ || io->op == BDEV_WRITE) {
		if (disk->access == FILE_MEMORY) {
			inline_memory(disk, io);
			return true;
		}
		if (disk->access == FILE_BUFFERED && cached) {
			inline_cached(disk, io);
			return true;
		}
		return false;
	}
	if (io->op == BDEV_FLUSH) {
		if (disk->access == FILE_MEMORY) {
			bdev_io_complete(io, 0);
			return true;
		}
		return false;
	}
	do_rest(disk, io);
	return true;
}
