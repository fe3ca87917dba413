/* SPDX-License-Identifier: BSD-3-Clause */
#include "app/store_file.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/ctl.h"
#include "base/check.h"

/* Reading beyond the end, of a file that is no multiple of a page, gives zeroes. */
static int
file_read(void *ctx, uint64_t offset, void *buf, size_t bytes)
{
	const struct store_file *file = ctx;
	size_t done = 0;

	while (done < bytes) {
		ssize_t n = pread(file->fd, (char *)buf + done, bytes - done, (off_t)(offset + done));

		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		if (n == 0) {
			memset((char *)buf + done, 0, bytes - done);
			return 0;
		}
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int
file_write(void *ctx, uint64_t offset, const void *buf, size_t bytes)
{
	const struct store_file *file = ctx;
	size_t done = 0;

	while (done < bytes) {
		ssize_t n = pwrite(file->fd, (const char *)buf + done, bytes - done, (off_t)(offset + done));

		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		if (n == 0) {
			return -EIO;
		}
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int
file_flush(void *ctx)
{
	const struct store_file *file = ctx;

	return fdatasync(file->fd) == 0 ? 0 : -errno;
}

static uint64_t
file_next_data(void *ctx, uint64_t offset)
{
	const struct store_file *file = ctx;
	off_t at = lseek(file->fd, (off_t)offset, SEEK_DATA);

	if (at >= 0) {
		return (uint64_t)at;
	}
	/* ENXIO: nothing follows; else the file system cannot tell. */
	return errno == ENXIO ? file->dev.bytes : offset;
}

static int
measure(struct store_file *file, const struct stat *st, struct err *err)
{
	int block_size = 512;
	uint64_t bytes = (uint64_t)st->st_size;

	if (S_ISBLK(st->st_mode) &&
	    (ioctl(file->fd, BLKGETSIZE64, &bytes) != 0 || ioctl(file->fd, BLKSSZGET, &block_size) != 0)) {
		return err_set(err, -errno, "its size cannot be asked: %s", strerror(errno));
	}
	file->dev.bytes = bytes;
	file->block_size = (uint32_t)block_size;
	return 0;
}

int
store_file_open(struct store_file *file, const char *path, bool write, struct err *err)
{
	struct stat st;
	bool block;
	int rc = 0;

	*file = (struct store_file){.path = path, .fd = -1};
	if (stat(path, &st) != 0) {
		return err_set(err, -errno, "%s", strerror(errno));
	}
	block = S_ISBLK(st.st_mode);
	if (!block && !S_ISREG(st.st_mode)) {
		return err_set(err, -EINVAL, "it is neither a file nor a block device");
	}
	/* Who uses a block device as a store, or has mounted it, has it with O_EXCL; a file's users lock it. */
	file->fd = open(path, (write ? O_RDWR : O_RDONLY) | O_CLOEXEC | (block ? O_EXCL : 0));
	if (file->fd < 0) {
		return errno == EBUSY
			       ? err_set(err, -EBUSY, "it is in use (by a berthd, or mounted): stop that first")
			       : err_set(err, -errno, "%s", strerror(errno));
	}
	if (!block && flock(file->fd, (write ? LOCK_EX : LOCK_SH) | LOCK_NB) != 0) {
		rc = errno == EWOULDBLOCK
			     ? err_set(err, -EBUSY,
				       "it is in use by another process, such as a berthd: stop that first")
			     : err_set(err, -errno, "%s", strerror(errno));
	}
	if (rc == 0) {
		rc = measure(file, &st, err);
	}
	if (rc != 0) {
		store_file_close(file);
		return rc;
	}
	file->dev.read = file_read;
	file->dev.write = write ? file_write : NULL;
	file->dev.flush = file_flush;
	file->dev.next_data = block ? NULL : file_next_data;
	file->dev.ctx = file;
	return 0;
}

void
store_file_close(struct store_file *file)
{
	if (file->fd >= 0) {
		close(file->fd);
		file->fd = -1;
	}
}

int
store_file_survey(struct store_file *file, uint32_t cluster_bytes, struct blob_survey **ret_survey, bool *ret_guessed,
		  struct err *err)
{
	struct blob_super super;
	struct err why = ERR_NONE;
	bool sure;
	int rc = blob_survey_read(&file->dev, NULL, ret_survey, err);

	*ret_guessed = false;
	if (rc != -EINVAL && rc != -EILSEQ && rc != -ENOTSUP && rc != -EIO) {
		return rc;
	}
	if (blob_salvage_guess(&file->dev, cluster_bytes, &super, &sure, &why) != 0) {
		err_append(err, "; without it: %s", why.text);
		return rc;
	}
	*ret_guessed = true;
	return blob_survey_read(&file->dev, &super, ret_survey, err);
}

int
store_take_cluster_size(const char *command, int *argc, char **argv, uint32_t *ret_bytes)
{
	const char *text = NULL;
	struct err err = ERR_NONE;
	uint64_t bytes;
	int rc = ctl_take_option(argc, argv, "--cluster-size", &text);

	*ret_bytes = 0;
	if (rc <= 0) {
		return rc < 0 ? CTL_USAGE : CTL_OK;
	}
	if (ctl_size(text, &bytes, &err) != 0) {
		return ctl_usage(command, "%s", err_text(&err));
	}
	if (bytes == 0 || bytes > UINT32_MAX || bytes % BLOB_PAGE_BYTES != 0) {
		return ctl_usage(command, "--cluster-size is '%s', but must be a multiple of %u", text,
				 BLOB_PAGE_BYTES);
	}
	*ret_bytes = (uint32_t)bytes;
	return CTL_OK;
}

int
store_failed(const char *command, const char *path, const struct err *err)
{
	fprintf(stderr, "berth %s: %s: %s\n", command, path, err_text(err));
	return STORE_FAILED;
}
