/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A split virtqueue from the device's side (virtio 1.2, section 2.7). One thread owns it.
 *
 * Everything the driver wrote is outside input. Invariants:
 *  1. Each guest value is read once, into a local, then checked, then used. Of a chain only the copy in
 *     struct virtq_chain exists afterwards.
 *  2. A chain is never followed for more than `size` descriptors, in an indirect table not past its length:
 *     loops end with -EINVAL.
 *  3. A ring that broke a rule that leaves its state unknown (avail->idx more than size ahead) is dead:
 *     `broken` is set, nothing is taken from it any more.
 *  4. used->idx is published once a batch (virtq_publish), after the elements it covers: release there pairs
 *     with the driver's acquire. avail->idx is read with acquire and pairs with the driver's release.
 *  5. Before the ring is left to its kick descriptor the driver is asked for notification, then, after a full barrier,
 *     avail->idx is looked at once more (virtq_enable_kick).
 */
#ifndef VIRTIO_VIRTQ_H
#define VIRTIO_VIRTQ_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "virtio/memmap.h"

#define VIRTQ_SIZE_MAX 32768
/* Descriptors of one chain that we take, header and status included (seg_max + 2). */
#define VIRTQ_CHAIN_MAX 1024

struct virtq {
	/* Hot. */
	struct vring_avail *avail;
	struct vring_used *used;
	struct vring_desc *desc;
	const struct memmap *map; /* borrowed: the owner swaps it while the ring is quiet */
	uint16_t size;            /* a power of two */
	uint16_t mask;
	uint16_t last_avail; /* next index to take */
	uint16_t used_idx;   /* next index to fill */
	uint16_t published;  /* used->idx as the driver sees it */
	bool event_idx;
	bool indirect;
	bool broken;
	uint32_t region;        /* of map, where the last address was found: tried first */
	const char *broken_why; /* a constant text */
	uint64_t calls_wanted;  /* batches after which the driver wanted to be called */
	uint64_t publishes;     /* all batches */
};

struct virtq_chain {
	uint16_t head;
	unsigned out_count; /* iov[0 .. out_count): device-readable */
	unsigned in_count;  /* the following: device-writable */
	uint64_t out_bytes;
	uint64_t in_bytes;
};

/*
 * Sets up a ring over memory that is mapped (the caller checked desc, avail and used with virtq_*_bytes). Indexes start
 * at `base` (avail), and at used->idx as it stands. size: a power of two of 1..VIRTQ_SIZE_MAX.
 */
void virtq_init(struct virtq *vq, unsigned size, void *desc, void *avail, void *used,
		const struct memmap *map, uint16_t base, bool event_idx, bool indirect);

/* Starts to fetch, for writing, where the next `count` completions go: the driver's core has these lines. A hint. */
static inline void
virtq_prefetch_used(const struct virtq *vq, unsigned count)
{
	for (unsigned i = 0; i < count; i += CACHE_LINE_BYTES / sizeof(struct vring_used_elem)) {
		__builtin_prefetch(&vq->used->ring[(uint16_t)(vq->used_idx + i) & vq->mask], 1);
	}
}

/* Marks the ring dead; the first reason stays. */
void virtq_break(struct virtq *vq, const char *why);

static inline uint64_t
virtq_desc_bytes(unsigned size)
{
	return 16u * size;
}

/* With room for used_event and avail_event. */
static inline uint64_t
virtq_avail_bytes(unsigned size)
{
	return 4u + 2u * size + 2u;
}

static inline uint64_t
virtq_used_bytes(unsigned size)
{
	return 4u + 8u * size + 2u;
}

/* How many chains wait; 0 also when broken. */
static inline unsigned
virtq_pending(struct virtq *vq)
{
	uint16_t idx = __atomic_load_n(&vq->avail->idx, __ATOMIC_ACQUIRE);
	uint16_t pending = (uint16_t)(idx - vq->last_avail);

	if (UNLIKELY(pending > vq->size || vq->broken)) {
		virtq_break(vq, "available index more than the ring size ahead");
		return 0;
	}
	return pending;
}

/* Starts to fetch the descriptor that the entry `ahead` places from the next one names; at most pending - 1. A hint. */
static inline void
virtq_prefetch(const struct virtq *vq, unsigned ahead)
{
	uint16_t head = vq->avail->ring[(uint16_t)(vq->last_avail + ahead) & vq->mask];

	__builtin_prefetch(&vq->desc[head & vq->mask]);
}

/*
 * Takes the next chain; virtq_pending() said there is one. iov: room for max entries. 0; a negative errno when the chain is
 * malformed: -EINVAL (loop, too long, nested indirect, odd table, readable after writable), -EFAULT (not guest memory), -E2BIG
 * (more than max entries). Then ret->head still names it, unless the ring is `broken` (head out of
 * range): the owner answers with virtq_complete(head, 0).
 */
int virtq_take(struct virtq *vq, struct virtq_chain *ret, struct iovec *iov, unsigned max);

/* Puts a finished chain into the used ring; not seen by the driver before virtq_publish(). bytes: written by us. */
void virtq_complete(struct virtq *vq, uint16_t head, uint32_t bytes);

/* Publishes what was completed. True when the driver wants to be called (virtio 1.2, 2.7.7 and 2.7.10). */
bool virtq_publish(struct virtq *vq);

/* Asks for kicks; true when chains wait already (they may have come without a kick). */
bool virtq_enable_kick(struct virtq *vq);
void virtq_disable_kick(struct virtq *vq);

#endif
