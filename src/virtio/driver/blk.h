/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A vhost-user-blk device from the driver's side: N queues, each with slots for requests that are
 * made once and used again. A queue belongs to one thread; set-up and end belong to one thread,
 * with no queue in use.
 *
 * How memory is laid out is half of the speed, because both sides poll what the other one writes. A
 * request costs, in cache lines that go over to the other core:
 *   header        16 bytes, four slots a line, written for each request; those of the first three
 *                 slots share the line of avail->idx: at low depth index and header arrive together
 *   descriptors   four a slot, one line, written only when they change: a slot whose buffer and
 *                 direction stay the same never sends them again
 *   avail ring    written only where it changes (ring.h): not at all when requests end in order
 *   status        one byte, sixty-four slots a line, apart from the lines that the driver writes
 *   used ring     begins so that none of its elements crosses a line
 * Slots are reused last in, first out: in-order completions give the same slots in the same order.
 */
#ifndef VIRTIO_DRIVER_BLK_H
#define VIRTIO_DRIVER_BLK_H

#include <linux/virtio_blk.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "virtio/driver/vhost.h"

#define DRIVER_BLK_SECTOR_BYTES 512
/* Data segments of a chain without an indirect table. */
#define DRIVER_BLK_DIRECT_SEGMENTS 2

struct driver_blk_options {
	const char *path;
	unsigned timeout_ms; /* 0: the default of driver_vhost_open() */
	int interrupt_fd;    /* of driver_vhost_open_until(), while the device is opened; 0: none */
	unsigned queues;     /* 0: 1. -EINVAL when the back end has fewer */
	bool fewer_queues;   /* then take as many as it has instead */
	unsigned queue_size; /* descriptors, a power of two of 4..32768; 0: 128 */
	unsigned segments;   /* of data in a request at most, 0: 1; three and more need tables */
	bool indirect;       /* every request through an indirect table */
	bool no_event_idx;   /* notification by flags instead */
	bool poison_status;  /* a status not written is seen (-EPROTO); costs a cache line */
	bool no_backend_channel; /* two descriptors less; no news of a resize */
	size_t data_bytes;   /* shared memory for buffers, besides the rings */
	size_t queue_data_bytes; /* the same, for each queue */
};

/*
 * A request: the caller's, borrowed until driver_blk_poll() returns it. Buffers are inside dev's
 * shared memory.
 */
struct driver_blk_request {
	const struct iovec *iov; /* borrowed during submit only */
	uint64_t sector;
	uint32_t type; /* VIRTIO_BLK_T_... */
	uint16_t iovcnt;
	bool in;               /* the device writes the data */
	uint8_t device_status; /* VIRTIO_BLK_S_... as it came */
	int status;            /* 0, -EIO, -EOPNOTSUPP, -EPROTO (a status that is none) */
	uint32_t used_bytes;   /* what the device says it wrote, status included */
};

struct driver_blk_slot {
	struct driver_blk_request *req; /* NULL: free */
	uint64_t data_gpa; /* what the descriptors say now: one segment; ~0: something else */
	uint32_t data_bytes;
	bool data_in;
};

struct driver_blk_queue {
	struct driver_ring *ring;
	struct driver_blk *blk;
	struct virtio_blk_outhdr *headers; /* of slot i: headers[-i] */
	uint8_t *statuses;
	struct driver_blk_slot *slots;
	uint16_t *free; /* stack */
	uint16_t free_count;
	uint16_t slot_count;
	uint8_t head_shift; /* head = slot << head_shift */
	uint16_t index;
	struct vring_desc *tables; /* indirect: table_entries a slot; NULL: none */
	unsigned table_entries;
	struct driver_vhost_queue *vhost;
};

struct driver_blk {
	struct driver_vhost *dev;
	struct virtio_blk_config config;
	uint64_t features;
	unsigned queue_count;
	unsigned segments;
	bool indirect;
	bool poison_status;
	struct driver_blk_queue *queues;
};

/*
 * Connects, negotiates, shares memory, starts all queues. 0 or a negative errno with err; every
 * text names the socket.
 */
int driver_blk_open(const struct driver_blk_options *options, struct driver_blk **ret_blk,
		    struct err *err);

/* Stops the queues (the device answers what it has) and ends the connection. Accepts NULL. */
void driver_blk_close(struct driver_blk *blk);

/* The same without a word to the back end, of which nothing is waited for: it sees that we hang up. Accepts NULL. */
void driver_blk_abandon(struct driver_blk *blk);

/*
 * Capacity in sectors of 512 bytes as last read, and the block size (512 where the device does
 * not say).
 */
uint64_t driver_blk_sectors(const struct driver_blk *blk);
uint32_t driver_blk_block_size(const struct driver_blk *blk);
/* Reads the configuration again. */
int driver_blk_refresh(struct driver_blk *blk, struct err *err);

/* A piece of the shared memory for buffers; NULL when it is used up. */
void *driver_blk_alloc(struct driver_blk *blk, size_t bytes, size_t align);

/* ---- Data path (the queue's thread) ---- */

/*
 * Takes req; not seen by the device before driver_blk_kick(). 0; -EAGAIN: no slot is free;
 * -EINVAL: too many segments, or a buffer outside of the shared memory.
 */
int driver_blk_submit(struct driver_blk_queue *q, struct driver_blk_request *req);

/* Publishes what was submitted and wakes the device if it asked for that. */
void driver_blk_kick(struct driver_blk_queue *q);

/*
 * Fills done with up to max finished requests; returns how many, or -EPROTO once the device broke
 * the ring (then what is still in flight is lost).
 */
int driver_blk_poll(struct driver_blk_queue *q, struct driver_blk_request **done, unsigned max);

/*
 * To wait: asks for a signal on driver_blk_fd() at the next completion; true when there is
 * something to poll already.
 */
bool driver_blk_arm(struct driver_blk_queue *q);
void driver_blk_disarm(struct driver_blk_queue *q);
/* An eventfd of the queue, for watching edge-triggered (it need not be read). */
int driver_blk_fd(const struct driver_blk_queue *q);

static inline unsigned
driver_blk_inflight(const struct driver_blk_queue *q)
{
	return (unsigned)(q->slot_count - q->free_count);
}

/* True when a poll would find something: one look at one cache line. */
static inline bool
driver_blk_ready(const struct driver_blk_queue *q)
{
	return __atomic_load_n(&q->ring->used->idx, __ATOMIC_ACQUIRE) != q->ring->last_used;
}

#endif
