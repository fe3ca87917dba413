/* SPDX-License-Identifier: BSD-3-Clause */
/* A vhost-user-blk socket as target of `berth perf`: one connection, one queue for each worker. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "app/perf_internal.h"

/* Looks at used->idx in a row before the thread gets its next turn. */
#define SPINS 64
#define QUEUE_SIZE_MIN 128
#define DESCS_PER_REQUEST 4
#define BUFFER_ALIGN 4096u

static unsigned
queue_size(const struct perf_target *t)
{
	unsigned need = t->queue_depth * (t->indirect ? 1 : DESCS_PER_REQUEST);
	unsigned size = QUEUE_SIZE_MIN;

	if (t->queue_size != 0) {
		return t->queue_size;
	}
	while (size < need) {
		size *= 2;
	}
	return size;
}

static int
check_depth(const struct perf_target *t, unsigned size, struct err *err)
{
	unsigned slots = t->indirect ? size : size / DESCS_PER_REQUEST;

	if (slots < t->queue_depth) {
		return err_set(err, -EINVAL,
			       "%s: a queue of %u descriptors is too small for a depth of %u",
			       t->name, size, t->queue_depth);
	}
	return 0;
}

static bool
has(const struct perf_target *t, unsigned feature)
{
	return (t->blk->features & 1ull << feature) != 0;
}

static int
target_open(struct perf_target *t, struct err *err)
{
	struct driver_blk_options o = {
		.path = t->name,
		.interrupt_fd = t->interrupt_fd,
		.queues = t->workers,
		.queue_size = queue_size(t),
		.indirect = t->indirect,
		.data_bytes = t->buffer_bytes + BUFFER_ALIGN,
	};
	int rc = check_depth(t, o.queue_size, err);

	if (rc == 0) {
		rc = driver_blk_open(&o, &t->blk, err);
	}
	if (rc != 0) {
		return rc == -ECANCELED ? err_set(err, rc, "%s: interrupted before it was connected to", t->name) : rc;
	}
	t->block_size = driver_blk_block_size(t->blk);
	t->num_blocks = driver_blk_sectors(t->blk) / (t->block_size / DRIVER_BLK_SECTOR_BYTES);
	t->buffer_align = BUFFER_ALIGN;
	t->readonly = has(t, VIRTIO_BLK_F_RO);
	t->ops_mask = 1 << BDEV_READ | 1 << BDEV_WRITE | has(t, VIRTIO_BLK_F_FLUSH) << BDEV_FLUSH |
		      has(t, VIRTIO_BLK_F_DISCARD) << BDEV_UNMAP |
		      has(t, VIRTIO_BLK_F_WRITE_ZEROES) << BDEV_WRITE_ZEROES;
	return 0;
}

static void
target_close(struct perf_target *t)
{
	if (t->blk != NULL) {
		t->blk->dev->interrupt_fd = t->interrupt_fd; /* once more */
	}
	driver_blk_close(t->blk);
	t->blk = NULL;
	t->closed(t);
}

static bool
alive(struct perf_target *t)
{
	return driver_vhost_alive(t->blk->dev);
}

/* ---- Workers ---- */

static int
prepare(struct perf_worker *w, struct err *err)
{
	w->buffers = driver_blk_alloc(w->target->blk, w->depth * w->buffer_bytes, BUFFER_ALIGN);
	if (w->buffers == NULL) {
		return err_set(err, -ENOMEM, "%s: no shared memory for %u buffers of %zu bytes",
			       w->job->name, w->depth, w->buffer_bytes);
	}
	memset(w->buffers, 0x5a, w->depth * w->buffer_bytes);
	w->queue = &w->target->blk->queues[w->queue_index];
	w->fd = driver_blk_fd(w->queue);
	return 0;
}

static void
unprepare(struct perf_worker *w)
{
	/* The memory is the connection's. */
}

static int
start(struct perf_worker *w, struct err *err)
{
	w->spin = reactor_get_mode(thread_reactor(w->thread)) != REACTOR_INTERRUPT;
	for (unsigned i = 0; i < w->depth; i++) {
		struct perf_request *req = perf_worker_request(w, i);

		req->blk.iov = &req->iov;
	}
	return 0;
}

static void
stop(struct perf_worker *w)
{
	/* The queue is stopped with the connection. */
}

/* Discard and write zeroes take a segment in memory; it goes where the data would. */
static void
set_segment(struct perf_worker *w, struct perf_request *req)
{
	struct virtio_blk_discard_write_zeroes segment = {
		.sector = req->lba * w->sectors_per_block,
		.num_sectors = w->blocks * w->sectors_per_block,
	};

	memcpy(req->iov.iov_base, &segment, sizeof(segment));
	req->iov.iov_len = sizeof(segment);
	req->blk.iovcnt = 1;
	req->blk.in = false;
}

static int
submit(struct perf_worker *w, struct perf_request *req)
{
	struct driver_blk_request *b = &req->blk;

	if (LIKELY(req->op == BDEV_READ || req->op == BDEV_WRITE)) {
		b->type = req->op == BDEV_READ ? VIRTIO_BLK_T_IN : VIRTIO_BLK_T_OUT;
		b->in = req->op == BDEV_READ;
		b->iovcnt = 1;
		b->sector = req->lba * w->sectors_per_block;
	} else if (req->op == BDEV_FLUSH) {
		b->type = VIRTIO_BLK_T_FLUSH;
		b->in = false;
		b->iovcnt = 0;
		b->sector = 0;
	} else {
		b->type = req->op == BDEV_UNMAP ? VIRTIO_BLK_T_DISCARD : VIRTIO_BLK_T_WRITE_ZEROES;
		b->sector = 0;
		set_segment(w, req);
	}
	return driver_blk_submit(w->queue, b);
}

static void
flush(struct perf_worker *w)
{
	driver_blk_kick(w->queue);
}

static int
poll(struct perf_worker *w, struct perf_request *done[PERF_BATCH])
{
	struct driver_blk_request *finished[PERF_BATCH];
	int n;

	for (unsigned i = 0; w->spin && i < SPINS && !driver_blk_ready(w->queue); i++) {
	}
	n = driver_blk_poll(w->queue, finished, PERF_BATCH);
	for (int i = 0; i < n; i++) {
		done[i] = CONTAINER_OF(finished[i], struct perf_request, blk);
		done[i]->status = done[i]->blk.status;
	}
	return n;
}

static bool
arm(struct perf_worker *w)
{
	return driver_blk_arm(w->queue);
}

static void
disarm(struct perf_worker *w)
{
	driver_blk_disarm(w->queue);
}

const struct perf_target_ops perf_socket_ops = {
	.open = target_open,
	.close = target_close,
	.alive = alive,
	.prepare = prepare,
	.unprepare = unprepare,
	.start = start,
	.stop = stop,
	.submit = submit,
	.flush = flush,
	.poll = poll,
	.arm = arm,
	.disarm = disarm,
	.stamp_after_flush = true,
};
