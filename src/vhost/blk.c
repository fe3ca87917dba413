/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The virtio block device (virtio 1.2, section 5.2) over a bdev.
 *
 * A chain becomes one struct blk_request, taken from a pool that all queues of an I/O thread with the same
 * request size share (blk_pool.h): an idle VM holds none. Guest buffers go to the bdev as they are, no copy.
 *
 * Invariants
 *  1. The header, and the segments of discard and write zeroes, are copied once; what is checked is what is used.
 *  2. Every chain taken is completed exactly once; the status byte is written before.
 *  3. Framing is the driver's business (2.7.4): header, data and status are found by bytes, not by descriptors.
 *  4. An empty pool makes a queue wait, it never fails a request.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "vhost/blk_pool.h"
#include "virtio/guest.h"

#define SECTOR_SHIFT 9
#define SECTOR_BYTES 512u
/* Chains taken from a ring in one poll, and bytes after which no further one is: memory disks copy on the spot. */
#define BATCH_MAX 32
#define BATCH_BYTES_MAX (4u << 20)
/* Data of one request. Drivers stay far below; segments may all name the same memory, so the sum needs a limit. */
#define REQUEST_BYTES_MAX (32u << 20)
/* As many segments of one request as a queue of 128 descriptors holds, the size that VMMs use. */
#define SEG_MAX 126
#define DISCARD_SEG_MAX BLK_SEGMENTS_MAX
/* Sectors of one discard or write zeroes segment: 2 GiB. */
#define DISCARD_SECTORS_MAX (1u << 22)

/* What a queue keeps in q->device. */
struct blk_queue {
	struct blk_channel *channel;
	struct blk_pool *pool;
	unsigned block_shift;
};

/* ---- Finishing ---- */

_Static_assert(VIRTIO_BLK_T_IN == VHOST_READ && VIRTIO_BLK_T_OUT == VHOST_WRITE, "a kind is the smaller of type and OTHER");

static inline __attribute__((always_inline)) void
finish_fast(struct blk_request *req, uint8_t status)
{
	struct vhost_queue *q = req->q;
	struct blk_queue *bq = q->device;
	uint32_t bytes = 1 + (status == VIRTIO_BLK_S_OK ? req->written : 0);
	uint16_t head = req->head;
	unsigned kind = MIN(req->copied.type, (uint32_t)VHOST_OTHER);

	vhost_count(&q->counters.ops[kind], 1);
	if (LIKELY(status == VIRTIO_BLK_S_OK)) {
		vhost_count(&q->counters.bytes[kind], req->data_bytes);
	} else {
		vhost_count(&q->counters.errors, 1);
	}
	*req->status = status;
	blk_request_put(bq->pool, req);
	vhost_queue_complete(q, head, bytes);
}

static void
finish(struct blk_request *req, uint8_t status)
{
	finish_fast(req, status);
}

static uint8_t
status_of(int rc)
{
	switch (rc) {
	case 0:
		return VIRTIO_BLK_S_OK;
	case -EOPNOTSUPP:
		return VIRTIO_BLK_S_UNSUPP;
	default:
		return VIRTIO_BLK_S_IOERR;
	}
}

static void
io_done(struct bdev_io *io, int status)
{
	finish_fast(CONTAINER_OF(io, struct blk_request, io), status_of(status));
}

/* ---- Requests by type ---- */

static void
submit(struct blk_request *req, enum bdev_op op, uint64_t sector, uint64_t sectors, uint8_t flags,
       void (*done)(struct bdev_io *io, int status))
{
	struct blk_queue *bq = req->q->device;
	unsigned shift = bq->block_shift - SECTOR_SHIFT;
	uint64_t mask = (UINT64_C(1) << shift) - 1;

	if (UNLIKELY(((sector | sectors) & mask) != 0 || req->q->ch == NULL)) {
		finish(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	bdev_io_init(&req->io, op, sector >> shift, sectors >> shift, req->iov, req->iovcnt, done);
	req->io.flags = flags;
	bdev_submit(req->q->ch, &req->io);
}

static void
read_write(struct blk_request *req, enum bdev_op op, uint64_t sector)
{
	bool in = op == BDEV_READ;

	if (UNLIKELY(req->data_bytes == 0 || req->data_bytes % SECTOR_BYTES != 0 ||
		     req->data_bytes > REQUEST_BYTES_MAX || req->data_in != in ||
		     (!in && req->q->ctrlr->readonly))) {
		finish(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	req->written = in ? req->data_bytes : 0;
	submit(req, op, sector, req->data_bytes >> SECTOR_SHIFT, 0, io_done);
}

static void
flush(struct blk_request *req)
{
	req->iovcnt = 0;
	submit(req, BDEV_FLUSH, 0, 0, 0, io_done);
}

static void
get_id(struct blk_request *req)
{
	char id[VIRTIO_BLK_ID_BYTES] = {0};
	const char *name = bdev_name(bdev_desc_bdev(req->q->ctrlr->desc));

	if (!req->data_in || req->data_bytes < sizeof(id)) {
		finish(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	/* Not terminated when the name is as long as the field (5.2.6.1). */
	memcpy(id, name, MIN(strlen(name), sizeof(id)));
	iov_from_buf(req->iov, (int)req->iovcnt, 0, id, sizeof(id));
	req->written = sizeof(id);
	finish(req, VIRTIO_BLK_S_OK);
}

/* One segment after the other: the request has room for one bdev_io. */
static void
next_segment(struct bdev_io *io, int status)
{
	struct blk_request *req = CONTAINER_OF(io, struct blk_request, io);
	const struct virtio_blk_discard_write_zeroes *seg;
	enum bdev_op op = req->copied.type == VIRTIO_BLK_T_DISCARD ? BDEV_UNMAP : BDEV_WRITE_ZEROES;
	bool may_unmap;

	if (status != 0 || req->segment == req->segment_count) {
		finish(req, status_of(status));
		return;
	}
	seg = &((union blk_big *)(void *)req->iov)->segments[req->segment++];
	may_unmap = op == BDEV_WRITE_ZEROES && (seg->flags & VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP) != 0;
	req->iovcnt = 0;
	submit(req, op, seg->sector, seg->num_sectors, may_unmap ? BDEV_IO_MAY_UNMAP : 0, next_segment);
}

/* 5.2.6.2: reserved flags, and unmap with discard, are unsupported; too long a segment is an error. */
static uint8_t
check_segments(const struct blk_request *req, const struct virtio_blk_discard_write_zeroes *segments)
{
	uint32_t allowed =
		req->copied.type == VIRTIO_BLK_T_WRITE_ZEROES ? VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP : 0;

	for (unsigned i = 0; i < req->segment_count; i++) {
		if ((segments[i].flags & ~allowed) != 0) {
			return VIRTIO_BLK_S_UNSUPP;
		}
		if (segments[i].num_sectors > DISCARD_SECTORS_MAX) {
			return VIRTIO_BLK_S_IOERR;
		}
	}
	return VIRTIO_BLK_S_OK;
}

static void
discard_or_zero(struct blk_request *req)
{
	struct blk_queue *bq = req->q->device;
	union blk_big *big;
	uint8_t status;

	if (req->data_in || req->data_bytes == 0 || req->q->ctrlr->readonly ||
	    req->data_bytes % sizeof(big->segments[0]) != 0 || req->data_bytes > sizeof(big->segments)) {
		finish(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	big = blk_big_get(bq->channel);
	if (big == NULL) {
		finish(req, VIRTIO_BLK_S_IOERR);
		return;
	}
	iov_to_buf(req->iov, (int)req->iovcnt, 0, big->segments, req->data_bytes);
	if (req->iov != req->inline_iov) {
		blk_big_put(bq->channel, req->iov);
	}
	req->iov = big->iov;
	req->segment = 0;
	req->segment_count = (uint16_t)(req->data_bytes / sizeof(big->segments[0]));
	status = check_segments(req, big->segments);
	if (status != VIRTIO_BLK_S_OK) {
		finish(req, status);
		return;
	}
	next_segment(&req->io, 0);
}

static void
start(struct blk_request *req)
{
	if (LIKELY(req->header != NULL)) {
		/* type and ioprio, then sector; hosts are little-endian as the device is. */
		req->copied.type = (uint32_t)guest_read_u64(req->header);
		req->copied.sector = guest_read_u64(req->header + 8);
	}
	req->written = 0;
	switch (req->copied.type) {
	case VIRTIO_BLK_T_IN:
		read_write(req, BDEV_READ, req->copied.sector);
		break;
	case VIRTIO_BLK_T_OUT:
		read_write(req, BDEV_WRITE, req->copied.sector);
		break;
	case VIRTIO_BLK_T_FLUSH:
		flush(req);
		break;
	case VIRTIO_BLK_T_GET_ID:
		get_id(req);
		break;
	case VIRTIO_BLK_T_DISCARD:
	case VIRTIO_BLK_T_WRITE_ZEROES:
		discard_or_zero(req);
		break;
	default:
		finish(req, VIRTIO_BLK_S_UNSUPP);
	}
}

/* ---- From chain to request ---- */

/* Room for count data segments. */
static bool
iov_room(struct blk_queue *bq, struct blk_request *req, unsigned count)
{
	if (LIKELY(count <= BLK_INLINE_IOV)) {
		return true;
	}
	req->iov = (struct iovec *)(void *)blk_big_get(bq->channel);
	if (req->iov == NULL) {
		req->iov = req->inline_iov;
		return false;
	}
	return true;
}

/* Header, data and status as drivers usually lay them out: one descriptor for the header, one for the status. */
static bool
dissect_usual(struct blk_queue *bq, struct blk_request *req, const struct virtq_chain *c, const struct iovec *iov)
{
	unsigned count = c->out_count + c->in_count;

	if (UNLIKELY(c->out_count == 0 || c->in_count == 0 ||
		     iov[0].iov_len != sizeof(struct virtio_blk_outhdr) || iov[count - 1].iov_len != 1)) {
		return false;
	}
	req->data_in = c->in_count > 1;
	/* Data in both directions is not for the short way. */
	if (UNLIKELY((req->data_in && c->out_count > 1) || !iov_room(bq, req, count - 2))) {
		return false;
	}
	req->header = iov[0].iov_base;
	req->status = iov[count - 1].iov_base;
	req->data_bytes = (uint32_t)(req->data_in ? c->in_bytes - 1 : c->out_bytes - sizeof(req->copied));
	req->iovcnt = count - 2;
	for (unsigned i = 0; i < req->iovcnt; i++) {
		req->iov[i] = iov[i + 1];
	}
	return true;
}

/* Any other framing. False when there is no header, no status byte, or more data than fits in 32 bits. */
static bool
dissect_any(struct blk_queue *bq, struct blk_request *req, const struct virtq_chain *c, const struct iovec *iov)
{
	const struct iovec *in = iov + c->out_count;
	uint64_t out_data, in_data;
	struct iovec last;
	int n;

	if (c->out_bytes < sizeof(req->copied) || c->in_bytes < 1) {
		return false;
	}
	out_data = c->out_bytes - sizeof(req->copied);
	in_data = c->in_bytes - 1;
	/* Data both ways is no block request, and the used length has 32 bits. */
	if ((out_data > 0 && in_data > 0) || MAX(out_data, in_data) > UINT32_MAX - 1 ||
	    !iov_room(bq, req, c->out_count + c->in_count)) {
		return false;
	}
	req->header = NULL;
	iov_to_buf(iov, (int)c->out_count, 0, &req->copied, sizeof(req->copied));
	CHECK(iov_slice(in, (int)c->in_count, in_data, 1, &last, 1) == 1);
	req->status = last.iov_base;
	req->data_in = in_data > 0;
	req->data_bytes = (uint32_t)MAX(out_data, in_data);
	if (req->data_in) {
		n = iov_slice(in, (int)c->in_count, 0, in_data, req->iov, (int)c->in_count);
	} else {
		n = iov_slice(iov, (int)c->out_count, sizeof(req->copied), out_data, req->iov, (int)c->out_count);
	}
	CHECK(n >= 0);
	req->iovcnt = (unsigned)n;
	return true;
}

/* Takes one chain into req; false when it was answered on the spot because nothing can be made of it. */
static bool
take(struct vhost_queue *q, struct blk_queue *bq, struct blk_request *req)
{
	struct iovec *iov = bq->channel->scratch;
	struct virtq_chain chain;
	int rc = virtq_take(&q->vq, &chain, iov, VIRTQ_CHAIN_MAX);

	req->q = q;
	req->head = chain.head;
	req->iov = req->inline_iov;
	if (LIKELY(rc == 0) &&
	    (LIKELY(dissect_usual(bq, req, &chain, iov)) || dissect_any(bq, req, &chain, iov))) {
		q->inflight++;
		return true;
	}
	vhost_count(&q->counters.malformed, 1);
	blk_request_put(bq->pool, req);
	if (!q->vq.broken) {
		q->inflight++;
		vhost_queue_complete(q, chain.head, 0);
	}
	return false;
}

/* How many chains to take now. */
static unsigned
to_take(struct vhost_queue *q)
{
	unsigned pending = virtq_pending(&q->vq);

	if (pending == 0) {
		return 0;
	}
	/* A driver has as many chains under way as the ring has descriptors, at most: more would be others' requests. */
	if (UNLIKELY(pending + q->inflight > q->vq.size)) {
		virtq_break(&q->vq, "more chains under way than the ring has descriptors");
		return 0;
	}
	if (UNLIKELY(memmap_lost(q->vq.map))) {
		vhost_queue_fail(q, "guest memory was truncated by the VMM");
		return 0;
	}
	return MIN(pending, (unsigned)BATCH_MAX);
}

static int
queue_poll(struct vhost_queue *q)
{
	struct blk_queue *bq = q->device;
	struct blk_request *batch[BATCH_MAX];
	unsigned count = 0, taken = 0, pending;
	uint64_t bytes = 0;

	/* Whoever gives a request back ends this, and wakes the poller. */
	if (UNLIKELY(q->starved)) {
		return 0;
	}
	pending = to_take(q);
	if (pending == 0) {
		return 0;
	}
	virtq_prefetch_used(&q->vq, pending);
	for (unsigned i = 1; i < pending; i++) {
		virtq_prefetch(&q->vq, i);
	}
	while (taken < pending && !q->vq.broken && bytes < BATCH_BYTES_MAX) {
		struct blk_request *req = blk_request_get(bq->pool);

		if (UNLIKELY(req == NULL)) {
			blk_pool_starve(bq->pool, q);
			break;
		}
		taken++;
		if (LIKELY(take(q, bq, req))) {
			__builtin_prefetch(req->header);
			__builtin_prefetch(req->status, 1);
			bytes += req->data_bytes;
			batch[count++] = req;
		}
	}
	for (unsigned i = 0; i < count; i++) {
		start(batch[i]);
	}
	return (int)taken;
}

/* ---- A queue's beginning and end ---- */

static size_t
request_bytes(const struct bdev *bdev)
{
	size_t bytes = offsetof(struct blk_request, io) + bdev_io_bytes(bdev);

	return (bytes + CACHE_LINE_BYTES - 1) & ~(size_t)(CACHE_LINE_BYTES - 1);
}

static void
queue_stop(struct vhost_queue *q)
{
	struct blk_queue *bq = q->device;

	if (bq == NULL) {
		return;
	}
	list_remove(&q->starved_link);
	q->starved = false;
	if (bq->pool != NULL) {
		blk_pool_put(bq->pool);
	}
	if (bq->channel != NULL) {
		channel_put(&bq->channel->channel);
	}
	bdev_channel_put(q->ch);
	q->ch = NULL;
	free(bq);
	q->device = NULL;
}

static int
queue_start(struct vhost_queue *q)
{
	struct bdev *bdev;
	struct blk_queue *bq;
	int rc = -ENOMEM;

	if (q->ctrlr->desc == NULL) {
		return -ENODEV;
	}
	bdev = bdev_desc_bdev(q->ctrlr->desc);
	bq = calloc(1, sizeof(*bq));
	if (bq == NULL) {
		return rc;
	}
	q->device = bq;
	q->ch = bdev_channel_get(q->ctrlr->desc, &rc);
	bq->channel = blk_channel_get(&rc);
	if (q->ch == NULL || bq->channel == NULL) {
		queue_stop(q);
		return rc;
	}
	bq->block_shift = (unsigned)__builtin_ctz(bdev_block_size(bdev));
	bq->pool = blk_pool_get(bq->channel, request_bytes(bdev));
	if (bq->pool == NULL) {
		queue_stop(q);
		return -ENOMEM;
	}
	return 0;
}

/* ---- What the driver is told about the device ---- */

static uint64_t
features(struct vhost_controller *ctrlr)
{
	const struct bdev *bdev = ctrlr->desc != NULL ? bdev_desc_bdev(ctrlr->desc) : NULL;
	uint64_t f = 1ull << VIRTIO_F_VERSION_1 | 1ull << VIRTIO_RING_F_INDIRECT_DESC |
		     1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VIRTIO_BLK_F_SEG_MAX |
		     1ull << VIRTIO_BLK_F_BLK_SIZE | 1ull << VIRTIO_BLK_F_TOPOLOGY | 1ull << VIRTIO_BLK_F_MQ;

	if (ctrlr->readonly) {
		f |= 1ull << VIRTIO_BLK_F_RO;
	}
	if (bdev == NULL) {
		return f;
	}
	if (bdev_supports(bdev, BDEV_FLUSH)) {
		f |= 1ull << VIRTIO_BLK_F_FLUSH;
	}
	if (!ctrlr->readonly && bdev_supports(bdev, BDEV_UNMAP)) {
		f |= 1ull << VIRTIO_BLK_F_DISCARD;
	}
	if (!ctrlr->readonly && bdev_supports(bdev, BDEV_WRITE_ZEROES)) {
		f |= 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	}
	return f;
}

static void
get_config(struct vhost_controller *ctrlr, void *config)
{
	struct virtio_blk_config *c = config;
	const struct bdev *bdev;
	uint32_t block_sectors;

	c->seg_max = SEG_MAX;
	c->num_queues = VHOST_QUEUES_MAX;
	if (ctrlr->desc == NULL) {
		return;
	}
	bdev = bdev_desc_bdev(ctrlr->desc);
	block_sectors = bdev_block_size(bdev) / SECTOR_BYTES;
	c->capacity = bdev_num_blocks(bdev) * block_sectors;
	c->blk_size = bdev_block_size(bdev);
	c->physical_block_exp = (uint8_t)__builtin_ctz(MAX(bdev_physical_block_size(bdev), c->blk_size) / c->blk_size);
	c->min_io_size = 1;
	c->max_discard_sectors = DISCARD_SECTORS_MAX;
	c->max_discard_seg = DISCARD_SEG_MAX;
	c->discard_sector_alignment = bdev_unmap_granularity(bdev) * block_sectors;
	c->max_write_zeroes_sectors = DISCARD_SECTORS_MAX;
	c->max_write_zeroes_seg = DISCARD_SEG_MAX;
	c->write_zeroes_may_unmap = bdev_supports(bdev, BDEV_UNMAP);
}

/* The only writable field, the write cache's mode, is not offered. */
static int
set_config(struct vhost_controller *ctrlr, uint32_t offset, uint32_t size, const void *data)
{
	return -EOPNOTSUPP;
}

const struct vhost_device_ops vhost_blk_ops = {
	.type = "blk",
	.features = features,
	.config_bytes = sizeof(struct virtio_blk_config),
	.get_config = get_config,
	.set_config = set_config,
	.queue_start = queue_start,
	.queue_stop = queue_stop,
	.queue_poll = queue_poll,
};
