/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The way of a request. librbd has one handle of an image for all threads: two would fight for its lock. A request is given to it
 * on the channel's thread, and answered by a thread of librbd's with a message to that thread. (librbd can also queue what
 * is done behind an eventfd; with one queue for all threads that would take a second message to the right one.)
 *
 * Invariants
 *  1. librbd uses a request's list and buffers until it calls answered(), which comes once unless it refused the request.
 *  2. What blocks (where is data?) is asked by a worker, which all images share and which lives while there are any.
 * Context: the channel's thread; answered(), a thread of librbd's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "bdevs/rbd/internal.h"

/* Of an unmap or write zeroes. */
#define RANGE_MAX_BYTES ((uint64_t)1 << 30)
/* Of a question where data is. */
#define STATUS_MAX_BYTES ((uint64_t)16 << 30)
#define STATUS_THREADS 2

struct request {
	struct msg msg;
	struct bdev_io *io;
	rbd_completion_t completion;
	ssize_t result;
	uint64_t mismatch;
	uint8_t *buffer; /* compare-and-write: both sides in one piece; NULL: none */

	struct worker_job job; /* block status */
	struct rbd_disk *disk;
	unsigned extents;
	uint64_t next; /* bytes from the image's start that have been told */
	uint64_t end;
};

struct rbd_channel {
	struct mem_cache buffers;
};

static struct mem_pool swap_pool = MEM_POOL_INIT(2 * BDEV_COMPARE_WRITE_MAX_BYTES, 4096, 64);
static struct worker *status_worker;
static unsigned status_users;

static struct rbd_disk *
disk_of(const struct bdev *bdev)
{
	return CONTAINER_OF(bdev, struct rbd_disk, bdev);
}

/* ---- Answers ---- */

static int
status_of(const struct request *r)
{
	uint64_t bytes = r->io->num_blocks << r->io->ch->block_size_shift;

	if (r->io->op == BDEV_READ && r->result >= 0 && (uint64_t)r->result != bytes) {
		return -EIO;
	}
	if (r->result == -ENOMEM || r->result == -EAGAIN) {
		return -EIO; /* these mean something else to who asked */
	}
	return r->result >= 0 ? 0 : (int)r->result;
}

static void
end(struct request *r)
{
	struct bdev_io *io = r->io;
	struct rbd_channel *c = io->ch->module_ctx;
	int status = status_of(r);

	if (r->buffer != NULL) {
		mem_cache_put(&c->buffers, r->buffer);
		if (status == -EILSEQ) {
			/* From the image's start, or from the request's: versions differ. */
			uint64_t from = io->lba << io->ch->block_size_shift;

			io->result = r->mismatch >= from ? r->mismatch - from : r->mismatch;
		}
	}
	bdev_io_complete(io, status);
}

static void
came_back(struct msg *msg)
{
	end(CONTAINER_OF(msg, struct request, msg));
}

static void
answered(rbd_completion_t completion, void *arg)
{
	struct request *r = arg;

	r->result = rbd_api->rbd_aio_get_return_value(completion);
	rbd_api->rbd_aio_release(completion);
	thread_send(r->io->ch->channel.thread, &r->msg, came_back);
}

/* ---- Where data is ---- */

static void
add_extent(struct request *r, uint64_t until, uint32_t flags)
{
	struct bdev_io *io = r->io;
	uint64_t blocks = (until - r->next) >> io->ch->block_size_shift;

	if (blocks == 0 || r->extents == io->max_results) {
		return;
	}
	io->extents[r->extents++] = (struct bdev_extent){.num_blocks = blocks, .flags = flags};
	r->next += blocks << io->ch->block_size_shift;
}

/* A run of data; they come in order. Not 0: enough. */
static int
has_data(uint64_t from, size_t bytes, int exists, void *arg)
{
	struct request *r = arg;
	uint64_t block = (uint64_t)1 << r->io->ch->block_size_shift;
	uint64_t until = MIN((from + bytes + block - 1) & ~(block - 1), r->end);

	from = from & ~(block - 1);
	if (exists == 0 || until <= r->next) {
		return 0;
	}
	if (from > r->next) {
		add_extent(r, from, BDEV_EXTENT_ZERO);
	}
	add_extent(r, until, BDEV_EXTENT_ALLOCATED);
	return r->extents == r->io->max_results ? -ECANCELED : 0;
}

static void
ask(struct worker_job *job)
{
	struct request *r = CONTAINER_OF(job, struct request, job);
	int rc = rbd_api->rbd_diff_iterate2(r->disk->image, NULL, r->next, r->end - r->next, 1, 1, has_data, r);

	if (rc >= 0) {
		add_extent(r, r->end, BDEV_EXTENT_ZERO);
	}
	r->result = r->extents > 0 ? 0 : rc < 0 ? rc : -EIO;
}

static void
asked(struct worker_job *job)
{
	struct request *r = CONTAINER_OF(job, struct request, job);

	r->io->result = r->extents;
	end(r);
}

static void
block_status(struct request *r)
{
	const struct bdev_io *io = r->io;

	r->extents = 0;
	r->next = io->lba << io->ch->block_size_shift;
	r->end = r->next + MIN(io->num_blocks << io->ch->block_size_shift, STATUS_MAX_BYTES);
	worker_submit(status_worker, &r->job, ask, asked);
}

/* ---- To librbd ---- */

/* 0; -EAGAIN: no buffer just now. */
static int
swap(struct request *r, uint64_t offset, size_t bytes)
{
	struct bdev_io *io = r->io;
	struct rbd_channel *c = io->ch->module_ctx;
	int rc;

	r->buffer = mem_cache_get(&c->buffers);
	if (r->buffer == NULL) {
		return -EAGAIN;
	}
	r->mismatch = 0;
	iov_to_buf(io->iov, io->iovcnt, 0, r->buffer, bytes);
	iov_to_buf(io->write_iov, (int)io->write_iovcnt, 0, r->buffer + bytes, bytes);
	rc = (int)rbd_api->rbd_aio_compare_and_write(r->disk->image, offset, bytes, (char *)r->buffer, (char *)r->buffer + bytes,
						     r->completion, &r->mismatch, 0);
	if (rc < 0) {
		mem_cache_put(&c->buffers, r->buffer);
	}
	return rc;
}

static int
start(struct request *r)
{
	const struct bdev_io *io = r->io;
	uint64_t offset = io->lba << io->ch->block_size_shift, bytes = io->num_blocks << io->ch->block_size_shift;
	rbd_image_t image = r->disk->image;

	switch ((enum bdev_op)io->op) {
	case BDEV_READ:
		return rbd_api->rbd_aio_readv(image, io->iov, io->iovcnt, offset, r->completion);
	case BDEV_WRITE:
		return rbd_api->rbd_aio_writev(image, io->iov, io->iovcnt, offset, r->completion);
	case BDEV_FLUSH:
		return rbd_api->rbd_aio_flush(image, r->completion);
	case BDEV_UNMAP:
		return rbd_api->rbd_aio_discard(image, offset, bytes, r->completion);
	case BDEV_WRITE_ZEROES:
		return rbd_api->rbd_aio_write_zeroes(image, offset, bytes, r->completion,
						     (io->flags & BDEV_IO_MAY_UNMAP) != 0
							     ? 0
							     : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION,
						     0);
	default:
		return swap(r, offset, bytes);
	}
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct request *r = bdev_io_ctx(io);
	int rc;

	r->io = io;
	r->disk = disk_of(ch->bdev);
	r->buffer = NULL;
	if (io->op == BDEV_BLOCK_STATUS) {
		block_status(r);
		return;
	}
	rc = rbd_api->rbd_aio_create_completion(r, answered, &r->completion);
	if (rc < 0) {
		bdev_io_complete(io, -EAGAIN);
		return;
	}
	rc = start(r);
	if (rc < 0) {
		/* Nobody has heard of it; the request may be gone behind this. */
		rbd_api->rbd_aio_release(r->completion);
		bdev_io_complete(io, rc == -ENOMEM ? -EAGAIN : rc);
	}
}

/* ---- Channels and the bdev ---- */

static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct rbd_channel *c = ch->module_ctx;

	c->buffers.pool = &swap_pool;
	return 0;
}

static void
channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct rbd_channel *c = ch->module_ctx;

	mem_cache_release(&c->buffers);
}

const struct bdev_ops rbd_bdev_ops = {
	.module_name = "rbd",
	.destruct = rbd_disk_destruct,
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
	.submit = submit,
};

void
rbd_io_describe(struct bdev *bdev, const struct rbd_disk *disk)
{
	uint64_t object_blocks = disk->object_bytes / bdev->block_size;

	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP | 1u << BDEV_WRITE_ZEROES |
			 1u << BDEV_BLOCK_STATUS;
	if (object_blocks > 0 && object_blocks <= UINT32_MAX && (object_blocks & (object_blocks - 1)) == 0) {
		/* An object is what is compared and written at once. */
		bdev->ops_mask |= 1u << BDEV_COMPARE_AND_WRITE;
		bdev->optimal_boundary_blocks = (uint32_t)object_blocks;
		bdev->max_compare_write_blocks = (uint32_t)(BDEV_COMPARE_WRITE_MAX_BYTES / bdev->block_size);
	}
	bdev->write_cache = true; /* for flushes to reach librbd, should the image have a cache of its own */
	bdev->max_unmap_blocks = RANGE_MAX_BYTES / bdev->block_size;
	bdev->max_write_zeroes_blocks = RANGE_MAX_BYTES / bdev->block_size;
	bdev->io_ctx_bytes = sizeof(struct request);
	bdev->channel_ctx_bytes = sizeof(struct rbd_channel);
}

int
rbd_io_start(struct err *err)
{
	if (status_users == 0) {
		status_worker = worker_create_pool("rbd_status", STATUS_THREADS, err);
		if (status_worker == NULL) {
			return err->code;
		}
	}
	status_users++;
	return 0;
}

void
rbd_io_stop(void)
{
	if (--status_users == 0) {
		worker_free(status_worker);
		status_worker = NULL;
		mem_pool_release(&swap_pool);
	}
}
