/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The uring bdev: files and block devices through io_uring. Memory-backed files are done by plain calls (the
 * kernel would hand each of their requests to a worker thread), as is what a ring cannot do, see bdevs/file.
 */
#include "bdevs/uring/uring.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdevs/uring/group.h"

struct uring_bdev {
	struct file_bdev file;
	bool buffered;
	uint32_t asked_block_size;
};

struct uring_channel {
	struct uring_group *group;
	int slot;
};

/* ---- Availability ---- */

static int
sysctl_disabled(void)
{
	FILE *f = fopen("/proc/sys/kernel/io_uring_disabled", "re");
	int value = 0;

	if (f != NULL) {
		if (fscanf(f, "%d", &value) != 1) {
			value = 0;
		}
		fclose(f);
	}
	return value;
}

static void
explain(struct err *err, int rc)
{
	const char *why;

	if (rc == -EPERM && sysctl_disabled() != 0) {
		why = "forbidden by the sysctl kernel.io_uring_disabled";
	} else if (rc == -EPERM) {
		why = "forbidden to this process (a container's seccomp filter?)";
	} else if (rc == -ENOSYS) {
		why = "not in this kernel, or hidden by a container's seccomp filter";
	} else if (rc == -ENOMEM) {
		why = "short of memory, or of RLIMIT_MEMLOCK";
	} else {
		why = strerror(-rc);
	}
	err_set(err, rc, "io_uring is not available: %s; aio does without it", why);
}

static int
try_ring(struct err *err)
{
	struct io_uring ring;
	int rc = uring_setup(&ring, 4, 8);

	if (rc != 0) {
		explain(err, rc);
		return rc;
	}
	io_uring_queue_exit(&ring);
	return 0;
}

bool
uring_available(struct err *err)
{
	return try_ring(err) == 0;
}

/* ---- I/O ---- */

/* Zeroes may need a second way where the file system lacks the first; block devices discard by ioctl only. */
static bool
ring_does(const struct file_disk *d, const struct bdev_io *io)
{
	switch ((enum bdev_op)io->op) {
	case BDEV_READ:
	case BDEV_WRITE:
	case BDEV_FLUSH:
		return d->access != FILE_MEMORY;
	case BDEV_UNMAP:
		return d->access != FILE_MEMORY && !d->block_device;
	default:
		return false;
	}
}

static void
uring_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct file_disk *d = &file_bdev_of(ch->bdev)->disk;
	struct uring_channel *uc = ch->module_ctx;
	struct uring_request *req;

	if (!ring_does(d, io)) {
		(void)file_submit(d, io, false);
		return;
	}
	req = CONTAINER_OF(file_request_init(d, io), struct uring_request, file);
	req->slot = uc->slot;
	uring_group_submit(uc->group, req);
}

static int
uring_channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct uring_channel *uc = ch->module_ctx;
	int rc = 0;

	uc->group = uring_group_get(&rc);
	if (uc->group != NULL) {
		uc->slot = uring_group_add_file(uc->group, file_bdev_of(bdev)->disk.fd);
	}
	return rc;
}

static void
uring_channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct uring_channel *uc = ch->module_ctx;

	uring_group_remove_file(uc->group, uc->slot);
	channel_put(&uc->group->channel);
}

static void
uring_destruct(struct bdev *bdev)
{
	struct uring_bdev *ub = CONTAINER_OF(bdev, struct uring_bdev, file.bdev);

	file_bdev_release(&ub->file);
	uring_groups_put();
	free(ub);
}

static const struct bdev_ops uring_ops = {
	.module_name = "uring",
	.destruct = uring_destruct,
	.channel_create = uring_channel_create,
	.channel_destroy = uring_channel_destroy,
	.submit = uring_submit,
};

/* ---- Control ---- */

int
bdev_uring_create(const struct uring_bdev_options *options, struct bdev **ret_bdev, struct err *err)
{
	struct file_options file = {
		.name = options->name,
		.filename = options->filename,
		.block_size = options->block_size,
		.readonly = options->readonly,
		.buffered = options->buffered,
	};
	struct uring_bdev *ub;
	int rc = try_ring(err);

	if (rc != 0) {
		err_prefix(err, "bdev %s: ", options->name);
		return rc;
	}
	ub = calloc(1, sizeof(*ub));
	if (ub == NULL) {
		return err_set(err, -ENOMEM, "bdev %s: out of memory", options->name);
	}
	uuid_copy(file.uuid, options->uuid);
	ub->buffered = options->buffered;
	ub->asked_block_size = options->block_size;
	uring_groups_get();
	rc = file_bdev_register(&ub->file, &uring_ops, "URING bdev", &file, sizeof(struct uring_request),
				sizeof(struct uring_channel), err);
	if (rc != 0) {
		uring_groups_put();
		free(ub);
		return rc;
	}
	if (ret_bdev != NULL) {
		*ret_bdev = &ub->file.bdev;
	}
	return 0;
}

int
bdev_uring_rescan(const char *name, struct err *err)
{
	struct file_bdev *fb;
	int rc = file_bdev_find(name, &uring_ops, &fb, err);

	return rc != 0 ? rc : file_bdev_rescan(fb, err);
}

int
bdev_uring_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct file_bdev *fb;
	int rc = file_bdev_find(name, &uring_ops, &fb, err);

	if (rc == 0) {
		bdev_unregister(&fb->bdev, done, ctx);
	}
	return rc;
}

bool
bdev_uring_info(const struct bdev *bdev, struct uring_bdev_info *ret_info)
{
	const struct uring_bdev *ub;

	if (bdev->ops != &uring_ops) {
		return false;
	}
	ub = CONTAINER_OF(bdev, const struct uring_bdev, file.bdev);
	*ret_info = (struct uring_bdev_info){
		.filename = ub->file.disk.path,
		.block_size_override = ub->asked_block_size != 0,
		.readonly = ub->file.disk.readonly,
		.buffered = ub->buffered,
		.access = file_access_name(ub->file.disk.access),
		.block_size = ub->asked_block_size,
	};
	return true;
}
