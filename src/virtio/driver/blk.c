/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user-blk, driver side. Layout and why: blk.h.
 *
 * Invariants
 *  1. A slot is on the free stack, or has a request; a used head that names neither a slot nor one
 *     with a request breaks the ring.
 *  2. Descriptors of a slot are written only while it is free: while the device does not have it.
 *  3. data_gpa, data_bytes and data_in of a slot say what its descriptors hold, or data_gpa is
 *     NO_SHAPE.
 */
#include "virtio/driver/blk.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>

#define NO_SHAPE UINT64_MAX
#define SLOT_DESCS 4
#define SLOT_SHIFT 2
#define STATUS_POISON 0xff
#define QUEUE_SIZE_DEFAULT 128
#define QUEUE_SIZE_MAX 32768
#define SEGMENTS_MAX 1022
/* Of the configuration: up to the limits of write zeroes, which is what we know; up to num_queues. */
#define CONFIG_BYTES 60
#define CONFIG_OLD_BYTES offsetof(struct virtio_blk_config, max_discard_sectors)
_Static_assert(CONFIG_BYTES <= sizeof(struct virtio_blk_config), "the header knows them");

/* ---- Descriptors of a slot ---- */

static uint64_t
gpa(const struct driver_blk_queue *q, const void *ptr)
{
	return driver_vhost_gpa(q->blk->dev, ptr);
}

static void
set_desc(struct vring_desc *d, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
	*d = (struct vring_desc){.addr = addr, .len = len, .flags = flags, .next = next};
}

/* Writes header, segments and status as descriptors first, first + 1, ... of a table. */
static void
write_chain(struct driver_blk_queue *q, unsigned slot, const struct driver_blk_request *req,
	    struct vring_desc *table, uint16_t first)
{
	uint16_t flags = VRING_DESC_F_NEXT | (req->in ? VRING_DESC_F_WRITE : 0);
	uint16_t i = first;

	set_desc(&table[i], gpa(q, q->headers - slot), sizeof(struct virtio_blk_outhdr),
		 VRING_DESC_F_NEXT, (uint16_t)(i + 1));
	i++;
	for (unsigned s = 0; s < req->iovcnt; s++, i++) {
		set_desc(&table[i], gpa(q, req->iov[s].iov_base), (uint32_t)req->iov[s].iov_len,
			 flags, (uint16_t)(i + 1));
	}
	set_desc(&table[i], gpa(q, q->statuses + slot), 1, VRING_DESC_F_WRITE, 0);
}

static int
check_buffers(const struct driver_blk_queue *q, const struct driver_blk_request *req)
{
	if (req->iovcnt > q->blk->segments) {
		return -EINVAL;
	}
	for (unsigned i = 0; i < req->iovcnt; i++) {
		if (!driver_vhost_owns(q->blk->dev, req->iov[i].iov_base, req->iov[i].iov_len)) {
			return -EINVAL;
		}
	}
	return 0;
}

/* The slot's descriptors say something else than req needs. */
static int
reshape(struct driver_blk_queue *q, unsigned slot, const struct driver_blk_request *req)
{
	struct driver_blk_slot *s = &q->slots[slot];
	uint16_t head = (uint16_t)(slot << q->head_shift);
	int rc = check_buffers(q, req);

	if (rc != 0) {
		return rc;
	}
	if (q->head_shift == 0 || req->iovcnt > DRIVER_BLK_DIRECT_SEGMENTS) {
		struct vring_desc *table = q->tables + (size_t)slot * q->table_entries;

		write_chain(q, slot, req, table, 0);
		set_desc(&q->ring->desc[head], gpa(q, table),
			 (uint32_t)((req->iovcnt + 2u) * sizeof(*table)), VRING_DESC_F_INDIRECT, 0);
	} else {
		write_chain(q, slot, req, q->ring->desc, head);
	}
	s->data_gpa = NO_SHAPE;
	if (req->iovcnt == 1) {
		s->data_gpa = gpa(q, req->iov[0].iov_base);
		s->data_bytes = (uint32_t)req->iov[0].iov_len;
		s->data_in = req->in;
	}
	return 0;
}

/* ---- Data path ---- */

int
driver_blk_submit(struct driver_blk_queue *q, struct driver_blk_request *req)
{
	struct virtio_blk_outhdr *header;
	struct driver_blk_slot *s;
	unsigned slot;

	if (UNLIKELY(q->free_count == 0)) {
		return -EAGAIN;
	}
	slot = q->free[q->free_count - 1];
	s = &q->slots[slot];
	if (UNLIKELY(req->iovcnt != 1 || s->data_gpa != gpa(q, req->iov[0].iov_base) ||
		     s->data_bytes != req->iov[0].iov_len || s->data_in != req->in)) {
		int rc = reshape(q, slot, req);

		if (rc != 0) {
			return rc;
		}
	}
	header = q->headers - slot;
	header->type = req->type;
	header->sector = req->sector;
	if (q->blk->poison_status) {
		q->statuses[slot] = STATUS_POISON;
	}
	s->req = req;
	q->free_count--;
	driver_ring_add(q->ring, (uint16_t)(slot << q->head_shift));
	return 0;
}

void
driver_blk_kick(struct driver_blk_queue *q)
{
	if (driver_ring_publish(q->ring)) {
		driver_vhost_kick(q->blk->dev, q->index);
	}
}

static int
status_errno(uint8_t status)
{
	switch (status) {
	case VIRTIO_BLK_S_OK:
		return 0;
	case VIRTIO_BLK_S_IOERR:
		return -EIO;
	case VIRTIO_BLK_S_UNSUPP:
		return -EOPNOTSUPP;
	default:
		return -EPROTO;
	}
}

int
driver_blk_poll(struct driver_blk_queue *q, struct driver_blk_request **done, unsigned max)
{
	unsigned pending = driver_ring_pending(q->ring); /* once: it grows */
	unsigned count = MIN(pending, max);

	for (unsigned i = 0; i < count; i++) {
		struct vring_used_elem e = driver_ring_take(q->ring);
		unsigned slot = e.id >> q->head_shift;
		struct driver_blk_request *req;

		if (UNLIKELY(slot >= q->slot_count || slot << q->head_shift != e.id ||
			     q->slots[slot].req == NULL)) {
			q->ring->broken = true;
			break;
		}
		req = q->slots[slot].req;
		req->device_status = __atomic_load_n(&q->statuses[slot], __ATOMIC_RELAXED);
		req->status = status_errno(req->device_status);
		req->used_bytes = e.len;
		q->slots[slot].req = NULL;
		q->free[q->free_count++] = (uint16_t)slot;
		done[i] = req;
	}
	return UNLIKELY(q->ring->broken) ? -EPROTO : (int)count;
}

bool
driver_blk_arm(struct driver_blk_queue *q)
{
	return driver_ring_enable_call(q->ring);
}

void
driver_blk_disarm(struct driver_blk_queue *q)
{
	driver_ring_disable_call(q->ring);
}

int
driver_blk_fd(const struct driver_blk_queue *q)
{
	return q->vhost->call_fd;
}

/* ---- Set-up ---- */

static unsigned
slots_of(const struct driver_blk *blk, unsigned queue_size)
{
	return blk->indirect ? queue_size : queue_size / SLOT_DESCS;
}

static unsigned
table_entries(const struct driver_blk *blk)
{
	if (blk->indirect || blk->segments > DRIVER_BLK_DIRECT_SEGMENTS) {
		/* Whole cache lines. */
		return (blk->segments + 2 + 3) & ~3u;
	}
	return 0;
}

/* Shared memory of one queue, with room for the alignment of each of its five pieces. */
static size_t
queue_bytes(const struct driver_blk *blk, unsigned queue_size)
{
	size_t slots = slots_of(blk, queue_size);

	return queue_size * (16u + 2u + 8u) + slots * (sizeof(struct virtio_blk_outhdr) + 1u) +
	       slots * table_entries(blk) * sizeof(struct vring_desc) + 12 +
	       (size_t)10 * CACHE_LINE_BYTES;
}

static int
lay_out(struct driver_blk_queue *q, unsigned queue_size, void **ret_desc, void **ret_avail,
	void **ret_used)
{
	struct driver_vhost *dev = q->blk->dev;
	size_t headers_bytes = q->slot_count * sizeof(struct virtio_blk_outhdr);
	/* Headers end, and the available ring begins, 48 bytes into a line. */
	size_t phase = (48 - headers_bytes) % CACHE_LINE_BYTES;
	uint8_t *headers;

	*ret_desc = driver_vhost_alloc(dev, 16 * queue_size, CACHE_LINE_BYTES, 0);
	headers = driver_vhost_alloc(dev, headers_bytes + 6 + 2 * queue_size, CACHE_LINE_BYTES,
				     phase);
	/* Elements of the used ring begin with a line. */
	*ret_used = driver_vhost_alloc(dev, 6 + 8 * queue_size, CACHE_LINE_BYTES, 60);
	q->statuses = driver_vhost_alloc(dev, q->slot_count, CACHE_LINE_BYTES, 0);
	q->table_entries = table_entries(q->blk);
	if (q->table_entries > 0) {
		q->tables = driver_vhost_alloc(
			dev, q->slot_count * q->table_entries * sizeof(*q->tables),
			CACHE_LINE_BYTES, 0);
	}
	if (*ret_desc == NULL || headers == NULL || *ret_used == NULL || q->statuses == NULL ||
	    (q->table_entries > 0 && q->tables == NULL)) {
		return -ENOMEM;
	}
	*ret_avail = headers + headers_bytes;
	q->headers = (struct virtio_blk_outhdr *)(headers + headers_bytes) - 1;
	return 0;
}

static int
queue_open(struct driver_blk *blk, unsigned index, unsigned queue_size, struct err *err)
{
	struct driver_blk_queue *q = &blk->queues[index];
	void *desc, *avail, *used;

	q->blk = blk;
	q->index = (uint16_t)index;
	q->vhost = &blk->dev->queues[index];
	q->ring = &q->vhost->ring;
	q->head_shift = blk->indirect ? 0 : SLOT_SHIFT;
	q->slot_count = (uint16_t)slots_of(blk, queue_size);
	q->slots = calloc(q->slot_count, sizeof(*q->slots));
	q->free = calloc(q->slot_count, sizeof(*q->free));
	if (q->slots == NULL || q->free == NULL ||
	    lay_out(q, queue_size, &desc, &avail, &used) != 0) {
		return err_set(err, -ENOMEM, "%s: no memory for queue %u", blk->dev->path, index);
	}
	for (unsigned i = 0; i < q->slot_count; i++) {
		q->slots[i].data_gpa = NO_SHAPE;
		q->free[q->free_count++] = (uint16_t)(q->slot_count - 1 - i);
	}
	return driver_vhost_start_queue(blk->dev, index, queue_size, desc, avail, used, 0, err);
}

#define WANTED_FEATURES \
	(1ull << VIRTIO_BLK_F_SIZE_MAX | 1ull << VIRTIO_BLK_F_SEG_MAX | 1ull << VIRTIO_BLK_F_RO | \
	 1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_FLUSH | \
	 1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_CONFIG_WCE | \
	 1ull << VIRTIO_BLK_F_MQ | 1ull << VIRTIO_BLK_F_DISCARD | \
	 1ull << VIRTIO_BLK_F_WRITE_ZEROES | 1ull << VIRTIO_RING_F_INDIRECT_DESC | \
	 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_F_VERSION_1)

static int
check_options(const struct driver_blk_options *options, unsigned *queue_size, unsigned *queues,
	      struct driver_blk *blk, struct err *err)
{
	*queue_size = options->queue_size == 0 ? QUEUE_SIZE_DEFAULT : options->queue_size;
	*queues = options->queues == 0 ? 1 : options->queues;
	blk->segments = options->segments == 0 ? 1 : options->segments;
	blk->indirect = options->indirect;
	blk->poison_status = options->poison_status;
	if (*queue_size < SLOT_DESCS || *queue_size > QUEUE_SIZE_MAX ||
	    (*queue_size & (*queue_size - 1)) != 0) {
		return err_set(err, -EINVAL, "%s: queue size %u is not a power of two of %u to %u",
			       options->path, *queue_size, SLOT_DESCS, QUEUE_SIZE_MAX);
	}
	if (*queues > DRIVER_VHOST_QUEUES_MAX) {
		return err_set(err, -EINVAL, "%s: %u queues are more than %u", options->path,
			       *queues, DRIVER_VHOST_QUEUES_MAX);
	}
	if (blk->segments > SEGMENTS_MAX) {
		return err_set(err, -EINVAL, "%s: %u segments are more than %u", options->path,
			       blk->segments, SEGMENTS_MAX);
	}
	return 0;
}

/* What the device agreed to may be less than the options need. */
static int
check_agreed(const struct driver_blk *blk, unsigned queues, struct err *err)
{
	if (queues > blk->dev->max_queues) {
		return err_set(err, -EINVAL, "%s: %u queues asked for, the device has %u",
			       blk->dev->path, queues, blk->dev->max_queues);
	}
	if (table_entries(blk) > 0 && (blk->features & 1ull << VIRTIO_RING_F_INDIRECT_DESC) == 0) {
		return err_set(err, -EOPNOTSUPP, "%s: the device has no indirect descriptors",
			       blk->dev->path);
	}
	return 0;
}

/* By the transport, and by the device; one at least. */
static unsigned
queues_offered(const struct driver_blk *blk)
{
	bool many = (blk->features & 1ull << VIRTIO_BLK_F_MQ) != 0;

	return MAX(1u, MIN(blk->dev->max_queues, many ? blk->config.num_queues : 1u));
}

static int
open_queues(struct driver_blk *blk, unsigned queues, unsigned queue_size, size_t data_bytes,
	    struct err *err)
{
	int rc = driver_vhost_share(blk->dev, queues * queue_bytes(blk, queue_size) + data_bytes,
				    err);

	if (rc != 0) {
		return rc;
	}
	blk->queues = calloc(queues, sizeof(*blk->queues));
	if (blk->queues == NULL) {
		return err_set(err, -ENOMEM, "%s: out of memory", blk->dev->path);
	}
	blk->queue_count = queues;
	for (unsigned i = 0; rc == 0 && i < queues; i++) {
		rc = queue_open(blk, i, queue_size, err);
	}
	return rc;
}

int
driver_blk_open(const struct driver_blk_options *options, struct driver_blk **ret_blk,
		struct err *err)
{
	struct driver_blk *blk = calloc(1, sizeof(*blk));
	uint64_t features = WANTED_FEATURES;
	uint64_t protocol = UINT64_MAX;
	unsigned queue_size, queues;
	int rc;

	if (blk == NULL) {
		return err_set(err, -ENOMEM, "%s: out of memory", options->path);
	}
	if (options->no_event_idx) {
		features &= ~(1ull << VIRTIO_RING_F_EVENT_IDX);
	}
	if (options->no_backend_channel) {
		protocol &= ~(1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ);
	}
	rc = check_options(options, &queue_size, &queues, blk, err);
	if (rc == 0) {
		rc = driver_vhost_open_until(options->path, options->timeout_ms,
					     options->interrupt_fd > 0 ? options->interrupt_fd : -1, &blk->dev, err);
	}
	if (rc == 0) {
		rc = driver_vhost_negotiate(blk->dev, features, protocol, err);
	}
	if (rc == 0) {
		blk->features = blk->dev->features;
		rc = driver_blk_refresh(blk, err);
	}
	if (rc == 0) {
		queues = options->fewer_queues ? MIN(queues, queues_offered(blk)) : queues;
		rc = check_agreed(blk, queues, err);
	}
	if (rc == 0) {
		rc = open_queues(blk, queues, queue_size, options->data_bytes + queues * options->queue_data_bytes, err);
	}
	if (rc != 0) {
		driver_blk_close(blk);
		return rc;
	}
	blk->dev->interrupt_fd = -1;
	*ret_blk = blk;
	return 0;
}

void
driver_blk_close(struct driver_blk *blk)
{
	bool answers = true;

	if (blk == NULL) {
		return;
	}
	for (unsigned i = 0; i < blk->queue_count; i++) {
		/* A back end that does not answer any more is left to the end of the connection: it is waited for once. */
		if (answers && blk->dev->queues[i].started && driver_vhost_alive(blk->dev)) {
			answers = driver_vhost_stop_queue(blk->dev, i, NULL, NULL) == 0;
		}
		free(blk->queues[i].slots);
		free(blk->queues[i].free);
	}
	driver_vhost_close(blk->dev);
	free(blk->queues);
	free(blk);
}

void
driver_blk_abandon(struct driver_blk *blk)
{
	for (unsigned i = 0; blk != NULL && i < blk->queue_count; i++) {
		blk->dev->queues[i].started = false;
	}
	driver_blk_close(blk);
}

int
driver_blk_refresh(struct driver_blk *blk, struct err *err)
{
	int rc = driver_vhost_get_config(blk->dev, &blk->config, CONFIG_BYTES, err);

	/* Nothing is what a back end gives that has less. */
	return rc != -EPROTO ? rc : driver_vhost_get_config(blk->dev, &blk->config, CONFIG_OLD_BYTES, err);
}

uint64_t
driver_blk_sectors(const struct driver_blk *blk)
{
	return blk->config.capacity;
}

uint32_t
driver_blk_block_size(const struct driver_blk *blk)
{
	if ((blk->features & 1ull << VIRTIO_BLK_F_BLK_SIZE) == 0 ||
	    blk->config.blk_size < DRIVER_BLK_SECTOR_BYTES) {
		return DRIVER_BLK_SECTOR_BYTES;
	}
	return blk->config.blk_size;
}

void *
driver_blk_alloc(struct driver_blk *blk, size_t bytes, size_t align)
{
	return driver_vhost_alloc(blk->dev, bytes, align, 0);
}
