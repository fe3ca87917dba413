/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The way of a request. librbd has one handle of an image for all threads: two would fight for its lock. A request is given to it
 * on the channel's thread as a flight (flight.c), and answered by a thread of librbd's with a message to that thread. (librbd can
 * also queue what is done behind an eventfd; with one queue for all threads that would take a second message to the right one.)
 *
 * Invariants
 *  1. A request is in one place: with the core, flying, or waiting. What waits, waits for librbd to answer what is lost (waiting)
 *     or for a question before it (asks); both are looked at again after a while.
 *  2. What blocks (where is data?) is asked by a system thread, one for a channel at a time, so that a silent cluster holds up
 *     nobody else's questions.
 *  3. What is cancelled ends at once when it waits. When it flies, there is some patience for the answer; then it is given up.
 * Context: the channel's thread; answered(), a thread of librbd's; ask(), a job's.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/iov.h"
#include "bdevs/rbd/internal.h"

/* Of an unmap or write zeroes. */
#define RANGE_MAX_BYTES ((uint64_t)1 << 30)
/* Of a question where data is. */
#define STATUS_MAX_BYTES ((uint64_t)16 << 30)
#define STATUS_EXTENTS_MAX 512u
/* A thread that is lost with its question counts as so much memory. */
#define STATUS_HELD_BYTES (1u << 20)

#define PATIENCE_US (NS_PER_S / NS_PER_US)
#define AGAIN_US (50 * NS_PER_MS / NS_PER_US)

struct request {
	struct list link; /* flying, waiting or asks */
	struct bdev_io *io;
	struct rbd_flight *flight; /* NULL: it waits */
	int cancelled; /* with this status; 0: not */
};

struct rbd_channel {
	struct list flying, waiting, asks;
	struct request *asking; /* one of the flying */
	struct mem_cache buffers[RBD_BUFFER_SIZES];
	struct timer patience, again;
	bool patient;
};

static atomic_bool in_a_hurry;

static struct rbd_disk *
disk_of(const struct bdev *bdev)
{
	return CONTAINER_OF(bdev, struct rbd_disk, bdev);
}

static struct rbd_room *
room_of(const struct request *r)
{
	return disk_of(r->io->ch->bdev)->room;
}

static uint64_t
offset_of(const struct bdev_io *io)
{
	return io->lba << io->ch->block_size_shift;
}

static uint64_t
bytes_of(const struct bdev_io *io)
{
	return io->num_blocks << io->ch->block_size_shift;
}

static void ask_next(struct rbd_channel *c);

/* ---- Answers ---- */

static int
status_of(const struct bdev_io *io, const struct rbd_flight *f)
{
	if (io->op == BDEV_READ && f->result >= 0 && (uint64_t)f->result != bytes_of(io)) {
		return -EIO;
	}
	if (f->result == -ENOMEM || f->result == -EAGAIN) {
		return -EIO; /* these mean something else to who asked */
	}
	return f->result >= 0 ? 0 : (int)f->result;
}

/* The submitter's part of the answer. */
static int
deliver(struct bdev_io *io, const struct rbd_flight *f)
{
	uint64_t from = offset_of(io);
	int status = status_of(io, f);

	if (io->op == BDEV_READ && status == 0) {
		iov_from_buf(io->iov, io->iovcnt, 0, f->buffer, bytes_of(io));
	} else if (io->op == BDEV_BLOCK_STATUS) {
		io->result = f->extents;
		memcpy(io->extents, f->buffer, f->extents * sizeof(io->extents[0]));
	} else if (status == -EILSEQ) {
		/* From the image's start, or from the request's: versions differ. */
		io->result = f->mismatch >= from ? f->mismatch - from : f->mismatch;
	}
	return status;
}

static void
came_back(struct msg *msg)
{
	struct rbd_flight *f = CONTAINER_OF(msg, struct rbd_flight, msg);
	struct request *r = f->request;
	struct rbd_channel *c = r->io->ch->module_ctx;
	int status = deliver(r->io, f);

	list_remove(&r->link);
	rbd_flight_free(f, c->buffers);
	if (r == c->asking) {
		c->asking = NULL;
		ask_next(c);
	}
	bdev_io_complete(r->io, status);
}

static void
answered(rbd_completion_t completion, void *arg)
{
	struct rbd_flight *f = arg;

	f->result = rbd_api->rbd_aio_get_return_value(completion);
	rbd_api->rbd_aio_release(completion);
	rbd_flight_answered(f, came_back);
}

/* ---- Where data is ---- */

static void
add_extent(struct rbd_flight *f, uint64_t until, uint32_t flags)
{
	uint64_t blocks = (until - f->next) >> f->block_size_shift;

	if (blocks == 0 || f->extents == f->max_extents) {
		return;
	}
	((struct bdev_extent *)(void *)f->buffer)[f->extents++] = (struct bdev_extent){.num_blocks = blocks, .flags = flags};
	f->next += blocks << f->block_size_shift;
}

/* A run of data; they come in order. Not 0: enough. */
static int
has_data(uint64_t from, size_t bytes, int exists, void *arg)
{
	struct rbd_flight *f = arg;
	uint64_t block = (uint64_t)1 << f->block_size_shift;
	uint64_t until = MIN((from + bytes + block - 1) & ~(block - 1), f->end);

	from = from & ~(block - 1);
	if (exists == 0 || until <= f->next) {
		return 0;
	}
	if (from > f->next) {
		add_extent(f, from, BDEV_EXTENT_ZERO);
	}
	add_extent(f, until, BDEV_EXTENT_ALLOCATED);
	return f->extents == f->max_extents ? -ECANCELED : 0;
}

static void
ask(struct rbd_job *job)
{
	struct rbd_flight *f = CONTAINER_OF(job, struct rbd_flight, job);
	struct rbd_room *room = f->room;
	int rc = rbd_api->rbd_diff_iterate2(f->image, NULL, f->next, f->end - f->next, 1, 1, has_data, f);

	if (rc >= 0) {
		add_extent(f, f->end, BDEV_EXTENT_ZERO);
	}
	f->result = f->extents > 0 ? 0 : rc < 0 ? rc : -EIO;
	rbd_flight_answered(f, came_back);
	rbd_room_asked(room);
}

/* False: there is no memory, or no system thread for it. */
static bool
ask_now(struct rbd_channel *c, struct request *r)
{
	const struct bdev_io *io = r->io;
	unsigned most = MIN(io->max_results, STATUS_EXTENTS_MAX);
	struct rbd_flight *f = rbd_flight_new(room_of(r), c->buffers, most * sizeof(struct bdev_extent));

	if (f == NULL) {
		return false;
	}
	f->request = r;
	f->held_bytes = STATUS_HELD_BYTES;
	f->image = disk_of(io->ch->bdev)->image;
	f->max_extents = most;
	f->block_size_shift = io->ch->block_size_shift;
	f->next = offset_of(io);
	f->end = f->next + MIN(bytes_of(io), STATUS_MAX_BYTES);
	rbd_room_ask(f->room);
	if (rbd_job_start(&f->job, ask, NULL) != 0) {
		rbd_room_asked(f->room);
		rbd_flight_free(f, c->buffers);
		return false;
	}
	r->flight = f;
	return true;
}

/* ---- To librbd ---- */

static size_t
buffer_bytes(const struct bdev_io *io)
{
	return io->op == BDEV_READ ? bytes_of(io) : io->op == BDEV_COMPARE_AND_WRITE ? 2 * bytes_of(io) : 0;
}

static int
swap(rbd_image_t image, const struct bdev_io *io, struct rbd_flight *f)
{
	size_t bytes = bytes_of(io);

	iov_to_buf(io->iov, io->iovcnt, 0, f->buffer, bytes);
	iov_to_buf(io->write_iov, (int)io->write_iovcnt, 0, f->buffer + bytes, bytes);
	return (int)rbd_api->rbd_aio_compare_and_write(image, offset_of(io), bytes, (char *)f->buffer,
						       (char *)f->buffer + bytes, f->completion, &f->mismatch, 0);
}

static int
start(const struct bdev_io *io, struct rbd_flight *f)
{
	uint64_t offset = offset_of(io), bytes = bytes_of(io);
	rbd_image_t image = disk_of(io->ch->bdev)->image;

	switch ((enum bdev_op)io->op) {
	case BDEV_READ:
		return rbd_api->rbd_aio_read(image, offset, bytes, (char *)f->buffer, f->completion);
	case BDEV_WRITE:
		return rbd_api->rbd_aio_writev(image, io->iov, io->iovcnt, offset, f->completion);
	case BDEV_FLUSH:
		return rbd_api->rbd_aio_flush(image, f->completion);
	case BDEV_UNMAP:
		return rbd_api->rbd_aio_discard(image, offset, bytes, f->completion);
	case BDEV_WRITE_ZEROES:
		return rbd_api->rbd_aio_write_zeroes(image, offset, bytes, f->completion,
						     (io->flags & BDEV_IO_MAY_UNMAP) != 0
							     ? 0
							     : RBD_WRITE_ZEROES_FLAG_THICK_PROVISION,
						     0);
	default:
		return swap(image, io, f);
	}
}

/* It flies, or is answered, or goes back to the core for a while. */
static void
go(struct rbd_channel *c, struct request *r)
{
	struct bdev_io *io = r->io;
	struct rbd_flight *f = rbd_flight_new(room_of(r), c->buffers, buffer_bytes(io));
	int rc;

	if (f == NULL || rbd_api->rbd_aio_create_completion(f, answered, &f->completion) < 0) {
		if (f != NULL) {
			rbd_flight_free(f, c->buffers);
		}
		bdev_io_complete(io, -EAGAIN);
		return;
	}
	f->request = r;
	f->writes = io->op != BDEV_READ && io->op != BDEV_FLUSH;
	if (io->op == BDEV_WRITE) {
		f->held_bytes = MAX(f->held_bytes, bytes_of(io));
	}
	r->flight = f;
	list_append(&c->flying, &r->link);
	rc = start(io, f);
	if (rc < 0) {
		/* Nobody has heard of it. */
		list_remove(&r->link);
		rbd_api->rbd_aio_release(f->completion);
		rbd_flight_free(f, c->buffers);
		bdev_io_complete(io, rc == -ENOMEM ? -EAGAIN : rc);
	}
}

/* ---- Waiting ---- */

static void
go_on(struct timer *timer)
{
	struct rbd_channel *c = CONTAINER_OF(timer, struct rbd_channel, again);

	while (!list_empty(&c->waiting)) {
		struct request *r = LIST_FIRST(&c->waiting, struct request, link);

		if (rbd_room_full(room_of(r))) {
			CHECK(timer_start(&c->again, AGAIN_US, go_on) == 0);
			break;
		}
		list_remove(&r->link);
		go(c, r);
	}
	ask_next(c);
}

static void
look_again(struct rbd_channel *c)
{
	if (!heap_linked(&c->again.node)) {
		CHECK(timer_start(&c->again, AGAIN_US, go_on) == 0);
	}
}

static void
ask_next(struct rbd_channel *c)
{
	struct request *r;

	if (c->asking != NULL || list_empty(&c->asks)) {
		return;
	}
	r = LIST_FIRST(&c->asks, struct request, link);
	if (rbd_room_full(room_of(r)) || !ask_now(c, r)) {
		look_again(c);
		return;
	}
	c->asking = r;
	list_remove(&r->link);
	list_append(&c->flying, &r->link);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct rbd_channel *c = ch->module_ctx;
	struct request *r = bdev_io_ctx(io);

	*r = (struct request){.io = io};
	list_init(&r->link);
	if (io->op == BDEV_BLOCK_STATUS) {
		list_append(&c->asks, &r->link);
		ask_next(c);
	} else if (UNLIKELY(!list_empty(&c->waiting) || rbd_room_full(room_of(r)))) {
		list_append(&c->waiting, &r->link);
		look_again(c);
	} else {
		go(c, r);
	}
}

/* ---- Cancelling ---- */

void
rbd_io_hurry(bool hurry)
{
	atomic_store(&in_a_hurry, hurry);
}

static void
end_all(struct list *list, int status)
{
	while (!list_empty(list)) {
		struct request *r = LIST_FIRST(list, struct request, link);

		list_remove(&r->link);
		bdev_io_complete(r->io, status);
	}
}

static void
patience_ends(struct timer *timer)
{
	struct rbd_channel *c = CONTAINER_OF(timer, struct rbd_channel, patience);
	struct request *r, *next;

	c->patient = false;
	LIST_FOREACH_SAFE (r, next, &c->flying, link) {
		if (r->cancelled != 0 && rbd_flight_give_up(r->flight)) {
			list_remove(&r->link);
			if (r == c->asking) {
				c->asking = NULL;
			}
			bdev_io_complete(r->io, r->cancelled);
		}
	}
	ask_next(c);
}

static void
cancel(struct bdev_channel *ch, int status)
{
	struct rbd_channel *c = ch->module_ctx;
	struct request *r;

	end_all(&c->waiting, status);
	end_all(&c->asks, status);
	LIST_FOREACH (r, &c->flying, link) {
		r->cancelled = status;
	}
	if (list_empty(&c->flying) || (c->patient && !atomic_load(&in_a_hurry))) {
		return;
	}
	timer_stop(&c->patience);
	c->patient = !atomic_load(&in_a_hurry) && timer_start(&c->patience, PATIENCE_US, patience_ends) == 0;
	if (!c->patient) {
		patience_ends(&c->patience);
	}
}

/* ---- Channels and the bdev ---- */

static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct rbd_channel *c = ch->module_ctx;

	list_init(&c->flying);
	list_init(&c->waiting);
	list_init(&c->asks);
	rbd_buffers_init(c->buffers);
	return 0;
}

static void
channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct rbd_channel *c = ch->module_ctx;

	CHECK(list_empty(&c->flying) && list_empty(&c->waiting) && list_empty(&c->asks));
	timer_stop(&c->patience);
	timer_stop(&c->again);
	rbd_buffers_release(c->buffers);
}

const struct bdev_ops rbd_bdev_ops = {
	.module_name = "rbd",
	.destruct = rbd_disk_destruct,
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
	.submit = submit,
	.cancel = cancel,
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
