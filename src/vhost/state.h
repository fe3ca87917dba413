/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a session is, as plain data in shared memory: enough for another process to go on with it.
 * The control thread keeps no second copy of these facts; a message is in force here before it is
 * answered.
 *
 * One memory file for all sessions, a slot each; pages of a slot that were never written take no
 * memory, and a session with few rings and regions touches one. The layout is part of the interface
 * between versions: STATE_VERSION changes with it.
 */
#ifndef VHOST_STATE_H
#define VHOST_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "vhost/vhost.h"
#include "virtio/memmap.h"

#define STATE_MAGIC 0x74726562u /* "bert" */
#define STATE_VERSION 1
#define STATE_SLOTS 16384
#define STATE_SLOT_BYTES 32768

/* Flags of a ring. */
#define STATE_RING_ADDR 0x1    /* addresses were set */
#define STATE_RING_KICK 0x2    /* a kick was set and the ring not stopped since */
#define STATE_RING_POLLED 0x4  /* ... without a descriptor */
#define STATE_RING_CALL 0x8    /* there is a call descriptor */
#define STATE_RING_ENABLED 0x10

struct state_ring {
	uint64_t desc, avail, used; /* addresses in the VMM */
	uint32_t size;
	uint16_t base; /* next available index when the ring starts */
	uint16_t flags;
};

struct state_region {
	uint64_t gpa;
	uint64_t size;
	uint64_t uva;
	uint64_t mmap_offset;
};

#define STATE_NEAR_RINGS 16
#define STATE_NEAR_REGIONS 64

struct state_session {
	uint32_t magic; /* 0: the slot is free */
	uint32_t version;
	uint32_t bytes; /* sizeof(struct state_session) */
	uint32_t pending; /* the message that was taken from the socket and not answered yet; 0: none */
	uint64_t id;
	uint64_t features;
	uint64_t protocol_features;
	uint32_t device_status;
	uint32_t ring_count; /* rings with an index at or above were never mentioned */
	uint32_t region_count;
	uint32_t reserved;
	char controller[VHOST_NAME_BYTES];
	struct state_ring near_rings[STATE_NEAR_RINGS];
	struct state_region near_regions[STATE_NEAR_REGIONS];
	/* From here on on other pages. */
	struct state_ring far_rings[VHOST_QUEUES_MAX - STATE_NEAR_RINGS];
	struct state_region far_regions[MEMMAP_REGIONS_MAX - STATE_NEAR_REGIONS];
};

/* App thread. Makes the memory file; 0 or a negative errno. state_release accepts that it was never
 * made. */
int state_init(struct err *err);
void state_release(void);

/* A slot for a session of that controller, all else zero; NULL when all STATE_SLOTS are in use. */
struct state_session *state_get(const char *controller, uint64_t id);
/* Gives the slot and its memory back. Accepts NULL. */
void state_put(struct state_session *s);

static inline struct state_ring *
state_ring(struct state_session *s, unsigned i)
{
	return i < STATE_NEAR_RINGS ? &s->near_rings[i] : &s->far_rings[i - STATE_NEAR_RINGS];
}

static inline struct state_region *
state_region(struct state_session *s, unsigned i)
{
	return i < STATE_NEAR_REGIONS ? &s->near_regions[i] : &s->far_regions[i - STATE_NEAR_REGIONS];
}

/* The memory file, owned by state.c: slot i is at i * STATE_SLOT_BYTES. */
int state_fd(void);

#endif
