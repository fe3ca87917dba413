/* SPDX-License-Identifier: BSD-3-Clause */
/* Disks that are files of their own: STATE/disks/NAME.img and an aio or io_uring bdev on it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/path.h"
#include "bdevs/aio/aio.h"
#include "bdevs/uring/uring.h"
#include "methods/disk_internal.h"

char *
disk_file_path(const char *name)
{
	char *path;

	return asprintf(&path, "%s/%s/%s.img", methods->state_dir, DISK_DIR, name) >= 0 ? path
											: NULL;
}

/* ---- The file ---- */

/* A file without a single block allocated that nobody has locked holds no data: what a creation
 * left that was cut short. */
static bool
is_leftover(int dir_fd, const char *base)
{
	int fd = openat(dir_fd, base, O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	bool leftover;

	leftover = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_blocks == 0 &&
		   flock(fd, LOCK_EX | LOCK_NB) == 0;
	if (fd >= 0) {
		close(fd);
	}
	return leftover;
}

static int
open_new(int dir_fd, const char *base)
{
	int flags = O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC;
	int fd = openat(dir_fd, base, flags, 0600);

	if (fd < 0 && errno == EEXIST) {
		if (is_leftover(dir_fd, base) && unlinkat(dir_fd, base, 0) == 0) {
			return openat(dir_fd, base, flags, 0600);
		}
		errno = EEXIST;
	}
	return fd;
}

static int
file_error(const char *path, struct err *err)
{
	int rc = -errno;

	return err_set(err, rc, "%s: %s%s", path, strerror(-rc),
		       rc == -EEXIST
			       ? " and belongs to no disk: remove it, or take it with existing"
			       : "");
}

/* Synced, so that a power cut cannot leave a disk in the log whose file is not there. */
int
disk_make_file(int dir_fd, const char *path, uint64_t size, struct err *err)
{
	const char *base = strrchr(path, '/') + 1;
	int fd = open_new(dir_fd, base), rc = 0;

	if (fd < 0) {
		return file_error(path, err);
	}
	if (ftruncate(fd, (off_t)size) != 0 || fsync(fd) != 0 || fsync(dir_fd) != 0) {
		rc = file_error(path, err);
		unlinkat(dir_fd, base, 0);
	}
	close(fd);
	return rc;
}

/* On the worker: blocks. */
static void
make_file(struct worker_job *work)
{
	struct disk_job *job = CONTAINER_OF(work, struct disk_job, work);

	job->work_status = disk_make_file(job->dir_fd, job->disk->file, job->size, &job->steps.err);
	job->made = job->work_status == 0;
}

int
disk_open_dir(struct disk_job *job, struct err *err)
{
	char *dir = path_join(methods->state_dir, DISK_DIR);
	int rc = dir != NULL ? path_make_dirs(dir, 0700, err) : -ENOMEM;

	if (rc == 0) {
		job->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		rc = job->dir_fd >= 0
			     ? 0
			     : err_set(err, -errno, "cannot open %s: %s", dir, strerror(errno));
	}
	free(dir);
	return rc;
}

static int
existing_file(struct disk_job *job, struct err *err)
{
	struct stat st;

	if (stat(job->disk->file, &st) != 0) {
		return err_set(err, -errno, "%s: %s", job->disk->file, strerror(errno));
	}
	if (S_ISREG(st.st_mode) && (uint64_t)st.st_size != job->size) {
		return err_set(err, -EINVAL, "%s has %lld bytes, not %llu", job->disk->file,
			       (long long)st.st_size, (unsigned long long)job->size);
	}
	return 0;
}

int
disk_file_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	int rc = disk_open_dir(job, &s->err);

	if (rc != 0 || job->existing) {
		return rc != 0 ? rc : existing_file(job, &s->err);
	}
	worker_submit(methods->worker, &job->work, make_file, disk_work_done);
	return STEPS_WAIT;
}

int
disk_file_undo(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);

	if (job->made) {
		/* Empty still, so this takes no time. */
		unlinkat(job->dir_fd, strrchr(job->disk->file, '/') + 1, 0);
	}
	return 0;
}

static int
create_uring(struct disk_job *job, struct err *err)
{
	struct uring_bdev_options o = {
		.name = job->disk->name,
		.filename = job->disk->file,
		.block_size = job->block_size,
	};

	uuid_copy(o.uuid, job->uuid);
	return bdev_uring_create(&o, NULL, err);
}

static int
create_aio(struct disk_job *job, struct err *err)
{
	struct aio_bdev_options o = {
		.name = job->disk->name,
		.filename = job->disk->file,
		.block_size = job->block_size,
	};

	uuid_copy(o.uuid, job->uuid);
	return bdev_aio_create(&o, NULL, err);
}

int
disk_file_bdev_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	const char *backend = job->disk->backend;
	int rc =
		strcmp(backend, "aio") == 0 ? create_aio(job, &s->err) : create_uring(job, &s->err);

	if (rc != 0 && strcmp(backend, "file") == 0 && !uring_available(&job->note)) {
		s->err = ERR_NONE;
		rc = create_aio(job, &s->err);
	}
	if (rc == 0) {
		snprintf(job->disk->bdev_name, sizeof(job->disk->bdev_name), "%s", job->disk->name);
	}
	return rc;
}

static int
delete_bdev(struct disk_job *job, struct err *err)
{
	int rc = bdev_uring_delete(job->disk->name, disk_step_gone, job, err);

	return rc == -ENODEV ? bdev_aio_delete(job->disk->name, disk_step_gone, job, err) : rc;
}

int
disk_file_bdev_undo(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);

	return delete_bdev(job, NULL) == 0 ? STEPS_WAIT : 0;
}

/* ---- Deleting ---- */

int
disk_file_bdev_delete_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);

	return delete_bdev(job, &s->err) == 0 ? STEPS_WAIT : 0;
}

static void
remove_file(struct worker_job *work)
{
	struct disk_job *job = CONTAINER_OF(work, struct disk_job, work);

	int fd = open(job->disk->file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);

	/* A bdev of another name may have taken the file of a disk that could not be restored. */
	job->work_status = 0;
	if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) != 0) {
		job->work_status = file_error(job->disk->file, &job->steps.err);
	} else if (unlink(job->disk->file) != 0 && errno != ENOENT) {
		job->work_status = file_error(job->disk->file, &job->steps.err);
	}
	if (fd >= 0) {
		close(fd);
	}
}

int
disk_file_remove_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);

	if (job->keep_file) {
		return 0;
	}
	worker_submit(methods->worker, &job->work, remove_file, disk_work_done);
	return STEPS_WAIT;
}

/* ---- Resizing ---- */

static void
resize_file(struct worker_job *work)
{
	struct disk_job *job = CONTAINER_OF(work, struct disk_job, work);

	job->work_status = 0;
	if (truncate(job->disk->file, (off_t)job->size) != 0) {
		job->work_status = file_error(job->disk->file, &job->steps.err);
	}
}

int
disk_file_resize_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	const struct bdev *b = bdev_find(job->disk->bdev_name);

	if (b == NULL || job->size < bdev_num_blocks(b) * bdev_block_size(b)) {
		return err_set(&s->err, -EINVAL,
			       "a disk that is a file of its own can only become larger");
	}
	if (job->size % bdev_block_size(b) != 0) {
		return err_set(&s->err, -EINVAL, "size %llu is no multiple of the block size %u",
			       (unsigned long long)job->size, bdev_block_size(b));
	}
	worker_submit(methods->worker, &job->work, resize_file, disk_work_done);
	return STEPS_WAIT;
}

int
disk_file_rescan_step(struct steps *s)
{
	struct disk_job *job = CONTAINER_OF(s, struct disk_job, steps);
	int rc = bdev_uring_rescan(job->disk->name, &s->err);

	if (rc == -ENODEV) {
		s->err = ERR_NONE;
		rc = bdev_aio_rescan(job->disk->name, &s->err);
	}
	return rc;
}
