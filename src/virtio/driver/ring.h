/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A split virtqueue from the driver's side (virtio 1.2, section 2.7). One thread owns it. It knows
 * indexes, not buffers: its user writes descriptors, and says which heads are available.
 *
 * Invariants:
 *  1. avail->idx is published once a batch, after the entries it covers and the descriptors and
 *     buffers these name: release here pairs with the device's acquire.
 *  2. used->idx is read once a poll with acquire; it pairs with the device's release.
 *  3. The device is outside: an index more than the ring ahead, or a head past its end, is an error
 *     of the ring (broken), never an access out of bounds.
 *  4. An entry of the available ring that already holds the right head is not written again. With
 *     heads reused in order the ring becomes constant, and its cache lines stay in both caches.
 */
#ifndef VIRTIO_DRIVER_RING_H
#define VIRTIO_DRIVER_RING_H

#include <linux/virtio_ring.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/check.h"

struct driver_ring {
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t size; /* a power of two */
	uint16_t mask;
	uint16_t avail_idx; /* next entry to fill */
	uint16_t published; /* avail->idx as the device sees it */
	uint16_t last_used; /* next used element to take */
	uint16_t used_seen; /* used->idx as read last */
	bool event_idx;
	bool broken;
	uint64_t kicks_wanted;
	uint64_t publishes;
};

/*
 * Memory is the caller's, zeroed; both indexes start at base, which is where a stopped ring went
 * on.
 */
void driver_ring_init(struct driver_ring *r, unsigned size, void *desc, void *avail, void *used,
		      uint16_t base, bool event_idx);

/* The device's view of "call me at the next used buffer after this one" and ours of "kick me". */
static inline uint16_t *
driver_ring_used_event(const struct driver_ring *r)
{
	return &r->avail->ring[r->size];
}

static inline uint16_t *
driver_ring_avail_event(const struct driver_ring *r)
{
	return (uint16_t *)&r->used->ring[r->size];
}

/*
 * Makes the chain that starts at head available; not seen by the device before
 * driver_ring_publish().
 */
static inline void
driver_ring_add(struct driver_ring *r, uint16_t head)
{
	uint16_t *entry = &r->avail->ring[r->avail_idx++ & r->mask];

	if (*entry != head) {
		*entry = head;
	}
}

/*
 * Publishes what was added. True when the device wants a kick (virtio 1.2, 2.7.13.3 and
 * 2.7.13.4).
 */
static inline bool
driver_ring_publish(struct driver_ring *r)
{
	uint16_t old = r->published;
	bool kick;

	if (r->avail_idx == old) {
		return false;
	}
	__atomic_store_n(&r->avail->idx, r->avail_idx, __ATOMIC_RELEASE);
	r->published = r->avail_idx;
	r->publishes++;
	/*
	 * Pairs with the device's barrier between asking for kicks and looking at avail->idx
	 * again.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (r->event_idx) {
		kick = vring_need_event(
			__atomic_load_n(driver_ring_avail_event(r), __ATOMIC_RELAXED), r->avail_idx,
			old);
	} else {
		kick = (__atomic_load_n(&r->used->flags, __ATOMIC_RELAXED) &
			VRING_USED_F_NO_NOTIFY) == 0;
	}
	r->kicks_wanted += kick;
	return kick;
}

/* How many used elements wait; 0 also when broken. */
static inline unsigned
driver_ring_pending(struct driver_ring *r)
{
	uint16_t pending;

	r->used_seen = __atomic_load_n(&r->used->idx, __ATOMIC_ACQUIRE);
	pending = (uint16_t)(r->used_seen - r->last_used);
	if (UNLIKELY(pending > r->size)) {
		r->broken = true;
	}
	return UNLIKELY(r->broken) ? 0 : pending;
}

/*
 * Takes the next used element; driver_ring_pending() said there is one. The head is below size,
 * or the ring is broken.
 */
static inline struct vring_used_elem
driver_ring_take(struct driver_ring *r)
{
	struct vring_used_elem *e = &r->used->ring[r->last_used++ & r->mask];
	struct vring_used_elem copy = {
		.id = __atomic_load_n(&e->id, __ATOMIC_RELAXED),
		.len = __atomic_load_n(&e->len, __ATOMIC_RELAXED),
	};

	if (UNLIKELY(copy.id >= r->size)) {
		r->broken = true;
		copy.id = 0;
	}
	return copy;
}

/*
 * Asks to be called at the next used element, then looks again: true when there is one already (or
 * the ring is broken), so that the caller need not, and must not, wait.
 */
bool driver_ring_enable_call(struct driver_ring *r);
void driver_ring_disable_call(struct driver_ring *r);

#endif
