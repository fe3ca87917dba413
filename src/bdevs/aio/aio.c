/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The aio bdev: files and block devices through Linux native AIO. What the kernel would do within
 * io_submit anyway (memory-backed and cached files) is done by plain calls, see bdevs/file.
 */
#include "bdevs/aio/aio.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/uio.h>

#include "bdevs/aio/group.h"

struct aio_bdev {
	struct file_bdev file;
	struct aio_bdev_options options; /* pointers in it are not ours */
};

struct aio_channel {
	struct aio_group *group;
};

static void
prepare(const struct aio_bdev *ab, const struct bdev_io *io, struct iocb *iocb)
{
	const struct file_disk *d = &ab->file.disk;
	long long offset = (long long)file_io_offset(d, io);

	if (io->op == BDEV_FLUSH) {
		io_prep_fdsync(iocb, d->fd);
		return;
	}
	if (io->iovcnt == 1) {
		(io->op == BDEV_READ ? io_prep_pread : io_prep_pwrite)(iocb, d->fd, io->iov->iov_base, io->iov->iov_len,
								      offset);
	} else {
		(io->op == BDEV_READ ? io_prep_preadv : io_prep_pwritev)(iocb, d->fd, io->iov, io->iovcnt, offset);
	}
	if (ab->options.nowait && !atomic_load_explicit(&d->no_nowait[io->op == BDEV_WRITE], memory_order_relaxed)) {
		iocb->aio_rw_flags |= RWF_NOWAIT;
	}
	if (io->op == BDEV_WRITE && (io->flags & BDEV_IO_FUA) != 0) {
		iocb->aio_rw_flags |= RWF_DSYNC;
	}
}

static void
aio_submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct aio_bdev *ab = CONTAINER_OF(ch->bdev, struct aio_bdev, file.bdev);
	struct aio_channel *ac = ch->module_ctx;
	struct aio_request *req;

	if (file_submit(&ab->file.disk, io, true)) {
		return;
	}
	req = CONTAINER_OF(file_request_init(&ab->file.disk, io), struct aio_request, file);
	prepare(ab, io, &req->iocb);
	aio_group_submit(ac->group, req);
}

static int
aio_channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct aio_channel *ac = ch->module_ctx;
	int rc = 0;

	ac->group = aio_group_get(&rc);
	return rc;
}

static void
aio_channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct aio_channel *ac = ch->module_ctx;

	channel_put(&ac->group->channel);
}

static void
aio_destruct(struct bdev *bdev)
{
	struct aio_bdev *ab = CONTAINER_OF(bdev, struct aio_bdev, file.bdev);

	file_bdev_release(&ab->file);
	aio_groups_put();
	free(ab);
}

static const struct bdev_ops aio_ops = {
	.module_name = "aio",
	.destruct = aio_destruct,
	.channel_create = aio_channel_create,
	.channel_destroy = aio_channel_destroy,
	.submit = aio_submit,
};

int
bdev_aio_create(const struct aio_bdev_options *options, struct bdev **ret_bdev, struct err *err)
{
	struct file_options file = {
		.name = options->name,
		.filename = options->filename,
		.block_size = options->block_size,
		.readonly = options->readonly,
		.buffered = options->buffered,
	};
	struct aio_bdev *ab = calloc(1, sizeof(*ab));
	int rc;

	if (ab == NULL) {
		return err_set(err, -ENOMEM, "bdev %s: out of memory", options->name);
	}
	uuid_copy(file.uuid, options->uuid);
	ab->options = *options;
	aio_groups_get();
	rc = file_bdev_register(&ab->file, &aio_ops, "AIO disk", &file, sizeof(struct aio_request),
				sizeof(struct aio_channel), err);
	if (rc != 0) {
		aio_groups_put();
		free(ab);
		return rc;
	}
	if (ret_bdev != NULL) {
		*ret_bdev = &ab->file.bdev;
	}
	return 0;
}

int
bdev_aio_rescan(const char *name, struct err *err)
{
	struct file_bdev *fb;
	int rc = file_bdev_find(name, &aio_ops, &fb, err);

	return rc != 0 ? rc : file_bdev_rescan(fb, err);
}

int
bdev_aio_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct file_bdev *fb;
	int rc = file_bdev_find(name, &aio_ops, &fb, err);

	if (rc == 0) {
		bdev_unregister(&fb->bdev, done, ctx);
	}
	return rc;
}

bool
bdev_aio_info(const struct bdev *bdev, struct aio_bdev_info *ret_info)
{
	const struct aio_bdev *ab;

	if (bdev->ops != &aio_ops) {
		return false;
	}
	ab = CONTAINER_OF(bdev, const struct aio_bdev, file.bdev);
	*ret_info = (struct aio_bdev_info){
		.filename = ab->file.disk.path,
		.block_size_override = ab->options.block_size != 0,
		.readonly = ab->options.readonly,
		.fallocate = ab->options.fallocate,
		.nowait = ab->options.nowait,
		.buffered = ab->options.buffered,
		.access = file_access_name(ab->file.disk.access),
		.block_size = ab->options.block_size,
	};
	return true;
}
