/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The short way of a read or write: where on the device the units are, when all of them are in one run of clusters that the
 * blob has itself and nothing holds the blob. Then the user says blob_begin(), gives the request to the device, and says
 * blob_end() when it has come back; else blob_submit() does it. On the channel's thread, no locks, no messages.
 *
 * What makes it safe is in blob/internal.h: an entry of the map changes in place only from 0 to a cluster; whatever else happens
 * to it waits until the requests that were on their way (begun under the same parity) have ended.
 */
#ifndef BLOB_ROUTE_H
#define BLOB_ROUTE_H

#include <stdatomic.h>

#include "base/check.h"
#include "blob/blob.h"

#define BLOB_SLOW UINT64_MAX
#define BLOB_CLUSTER_BUSY UINT32_MAX

/* What one extent page holds, of a blob with an extent table; the same shape for run-length extents (page 0). */
struct blob_extent {
	uint32_t page;   /* metadata page, 0: none yet (page 0 is never an extent page). Owner */
	uint32_t merged; /* merge.c: the page that was written for it, 0: none. Owner */
	bool touched;    /* merge.c: changed since. Owner */
	uint32_t dirty;  /* commit.c: 1 + its place in the round that is under way, 0: none. Owner */
	_Atomic uint32_t cluster[BLOB_EXTENT_CLUSTERS];
};

struct blob_map {
	uint64_t num_clusters;
	uint64_t num_extents;
	_Atomic(struct blob_extent *) extents[]; /* NULL: nothing allocated; made by whoever needs it first (compare and swap) */
};

enum blob_gate {
	BLOB_GATE_OPEN,
	BLOB_GATE_WRITES, /* what modifies waits */
	BLOB_GATE_ALL,
};

/* The part of a blob that any thread with a channel reads. */
struct blob_head {
	_Atomic(struct blob_map *) map;
	_Atomic uint32_t gate; /* enum blob_gate */
};

/* Of the store on one thread; only that thread touches it. */
struct blob_counts {
	uint8_t parity;
	bool attention;       /* somebody waits for requests to end */
	uint64_t inflight[2]; /* requests begun under each parity, of all channels */
};

/* Something in flight ended while somebody waits. */
void blob_attend(struct blob_channel *ch);

/* The entry of a cluster: 0, BLOB_CLUSTER_BUSY, or where it is. */
static inline uint32_t
blob_map_entry(const struct blob_head *head, uint64_t cluster)
{
	struct blob_map *map = atomic_load_explicit(&head->map, memory_order_acquire);
	struct blob_extent *e;

	if (UNLIKELY(cluster >= map->num_clusters)) {
		return 0;
	}
	e = atomic_load_explicit(&map->extents[cluster / BLOB_EXTENT_CLUSTERS], memory_order_acquire);
	return e == NULL ? 0 : atomic_load_explicit(&e->cluster[cluster % BLOB_EXTENT_CLUSTERS], memory_order_acquire);
}

/* The unit's place on the device when its cluster is this one. */
static inline uint64_t
blob_device_unit(const struct blob_channel *ch, uint32_t entry, uint64_t unit)
{
	return unit + (((uint64_t)entry - (unit >> ch->unit_shift)) << ch->unit_shift);
}

/* One more is on its way: the parity for blob_end(). Whoever has looked at the map says so before he lets go of the thread. */
static inline uint8_t
blob_begin(struct blob_channel *ch)
{
	struct blob_counts *t = ch->counts;

	ch->inflight++;
	t->inflight[t->parity]++;
	return t->parity;
}

/* The first I/O unit on the device; BLOB_SLOW: there is no short way. count > 0, in the blob. blob_begin() follows. */
static inline uint64_t
blob_where(const struct blob_channel *ch, uint64_t unit, uint64_t count, bool write)
{
	const struct blob_head *head = ch->head;
	uint64_t cluster, last;
	uint32_t entry;

	if (UNLIKELY(ch->unit_shift == BLOB_SHIFT_NONE ||
		     atomic_load_explicit(&head->gate, memory_order_acquire) != BLOB_GATE_OPEN || (write && ch->readonly))) {
		return BLOB_SLOW;
	}
	cluster = unit >> ch->unit_shift;
	last = (unit + count - 1) >> ch->unit_shift;
	entry = blob_map_entry(head, cluster);
	if (entry == 0 || entry == BLOB_CLUSTER_BUSY) {
		return BLOB_SLOW;
	}
	for (uint64_t i = cluster + 1; UNLIKELY(i <= last); i++) {
		if (blob_map_entry(head, i) != entry + (i - cluster)) {
			return BLOB_SLOW;
		}
	}
	return blob_device_unit(ch, entry, unit);
}

/* The same for what lies in one cluster, of a blob whose clusters have a power of two of units. */
static inline uint64_t
blob_where_plain(const struct blob_channel *ch, uint64_t unit, bool write)
{
	const struct blob_head *head = ch->head;
	uint32_t entry;

	if (UNLIKELY(atomic_load_explicit(&head->gate, memory_order_acquire) != BLOB_GATE_OPEN || (write && ch->readonly))) {
		return BLOB_SLOW;
	}
	entry = blob_map_entry(head, unit >> ch->unit_shift);
	return UNLIKELY(entry == 0 || entry == BLOB_CLUSTER_BUSY) ? BLOB_SLOW : blob_device_unit(ch, entry, unit);
}

static inline void
blob_end(struct blob_channel *ch, uint8_t parity)
{
	struct blob_counts *t = ch->counts;

	ch->inflight--;
	t->inflight[parity]--;
	if (UNLIKELY(t->attention)) {
		blob_attend(ch);
	}
}

/* How many of the units from `unit` on one request may have: up to where the run of clusters ends, as the map is now. */
uint64_t blob_reach(struct blob_channel *ch, uint64_t unit, uint64_t count, bool write);

#endif
