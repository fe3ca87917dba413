/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reading memory that a guest may change at any moment: each call reads exactly once, whatever the compiler
 * thinks of it. What comes back is a local value: check it, then use it.
 */
#ifndef VIRTIO_GUEST_H
#define VIRTIO_GUEST_H

#include <linux/virtio_ring.h>
#include <stdint.h>

struct guest_u16 {
	uint16_t value;
} __attribute__((may_alias));

/* Descriptors of an indirect table may lie at any address. */
struct guest_u64 {
	uint64_t value;
} __attribute__((packed, may_alias));

/* p is a multiple of 2, as all 16-bit fields of rings are. */
static inline uint16_t
guest_read_u16(const void *p)
{
	return __atomic_load_n(&((const struct guest_u16 *)p)->value, __ATOMIC_RELAXED);
}

static inline void
guest_write_u16(void *p, uint16_t value)
{
	__atomic_store_n(&((struct guest_u16 *)p)->value, value, __ATOMIC_RELAXED);
}

static inline uint64_t
guest_read_u64(const void *p)
{
	return ((const volatile struct guest_u64 *)p)->value;
}

static inline struct vring_desc
guest_read_desc(const void *p)
{
	uint64_t addr = guest_read_u64(p);
	uint64_t rest = guest_read_u64((const uint8_t *)p + 8);

	return (struct vring_desc){
		.addr = addr,
		.len = (uint32_t)rest,
		.flags = (uint16_t)(rest >> 32),
		.next = (uint16_t)(rest >> 48),
	};
}

#endif
