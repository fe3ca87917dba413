/* SPDX-License-Identifier: BSD-3-Clause */
/* The split virtqueue, driver side: what is not on the data path. Invariants: ring.h. */
#include "virtio/driver/ring.h"

void
driver_ring_init(struct driver_ring *r, unsigned size, void *desc, void *avail, void *used,
		 uint16_t base, bool event_idx)
{
	CHECK(size > 0 && size <= 32768 && (size & (size - 1)) == 0);
	*r = (struct driver_ring){
		.desc = desc,
		.avail = avail,
		.used = used,
		.size = (uint16_t)size,
		.mask = (uint16_t)(size - 1),
		.avail_idx = base,
		.published = base,
		.last_used = base,
		.used_seen = base,
		.event_idx = event_idx,
	};
	r->avail->idx = base;
	r->used->idx = base;
	driver_ring_disable_call(r);
}

bool
driver_ring_enable_call(struct driver_ring *r)
{
	if (r->event_idx) {
		__atomic_store_n(driver_ring_used_event(r), r->last_used, __ATOMIC_RELAXED);
	} else {
		__atomic_store_n(&r->avail->flags, 0, __ATOMIC_RELAXED);
	}
	/*
	 * Pairs with the device's barrier between publishing used->idx and looking whether we
	 * want a call.
	 */
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return driver_ring_pending(r) > 0 || r->broken;
}

void
driver_ring_disable_call(struct driver_ring *r)
{
	if (r->event_idx) {
		/* Just passed: reached again after 65,536 elements, a call too many at worst. */
		__atomic_store_n(driver_ring_used_event(r), (uint16_t)(r->last_used - 1),
				 __ATOMIC_RELAXED);
	} else {
		__atomic_store_n(&r->avail->flags, VRING_AVAIL_F_NO_INTERRUPT, __ATOMIC_RELAXED);
	}
}
