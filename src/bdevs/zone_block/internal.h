/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/bdevs/zone_block; never leaves it. */
#ifndef BDEVS_ZONE_BLOCK_INTERNAL_H
#define BDEVS_ZONE_BLOCK_INTERNAL_H

#include <stdatomic.h>
#include <stdbool.h>

#include "base/check.h"
#include "bdev/bdev.h"

/* A zone is one word, see zone.c; on a line of its own, for threads write different zones. */
struct zone {
	_Alignas(CACHE_LINE_BYTES) atomic_uint_fast64_t word;
};

/* All zones of a bdev; any thread. */
struct zones {
	struct zone *zone;
	uint64_t count;
	uint64_t capacity; /* of each, in blocks */
	uint32_t max_open; /* 0: any number */
	uint32_t max_active;
	atomic_uint open;
	atomic_uint active; /* open or closed */
};

/* 0 or -ENOMEM. All are full. */
int zones_init(struct zones *zs, uint64_t count, uint64_t capacity, uint32_t max_open,
	       uint32_t max_active);
void zones_release(struct zones *zs);

/* What zone i is like; write_pointer is counted from its start. */
void zone_get(struct zones *zs, uint64_t i, enum bdev_zone_state *ret_state,
	      uint64_t *ret_write_pointer);

/*
 * Takes n blocks of zone i from `offset` on, or with append wherever the write pointer is, and
 * moves the write pointer: *ret_offset. Answered with one zone_written(). 0; -EAGAIN (being reset,
 * or too much under way: ask again); statuses as bdev/zone.c has them.
 */
int zone_write(struct zones *zs, uint64_t i, uint64_t offset, uint64_t n, bool append,
	       uint64_t *ret_offset);
void zone_written(struct zones *zs, uint64_t i);

/* BDEV_ZONE_DO_OPEN, _CLOSE, _FINISH, _OFFLINE. 0, -EAGAIN, and statuses as above. */
int zone_change(struct zones *zs, uint64_t i, enum bdev_zone_action action);

/* 0: zone i takes no writes until one zone_reset_end(); 1: it is empty already; -EAGAIN: writes are
 * under way. */
int zone_reset_begin(struct zones *zs, uint64_t i);
/* Empties it, or leaves it as it was when that failed. */
void zone_reset_end(struct zones *zs, uint64_t i, bool done);

#endif
