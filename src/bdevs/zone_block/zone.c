/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The states of zones, as the NVMe zoned namespace command set 1.1c, 2.1.1.2, has them. A zone is
 * one word that all threads change by compare-and-swap:
 *
 *   bits 0-43   write pointer, in blocks from the zone's start
 *   bits 44-47  state
 *   bit 48      a reset is under way
 *   bits 49-63  writes under way
 *
 *             +------- write, open -------> open (implicitly, explicitly) --- last block ---+
 *             |                               |    ^         |                              v
 *   empty ----+                             close  |       reset      finish ----------->  full
 *     ^  ^                                    v  write, open |                              |
 *     |  |                                  closed           |                              |
 *     |  +---------- reset --------------------+-------------+                              |
 *     +----------------------------------- reset -------------------------------------------+
 *
 * Invariants
 *  1. `open` counts zones that are open, `active` those and the closed ones; they are raised before a
 *     word changes, and lowered after, so that no limit is ever exceeded.
 *  2. A zone with a reset under way has no write under way, and begins none.
 *  3. Where max_open is reached, a zone that was opened by a write is closed for another.
 * Context: any thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "bdevs/zone_block/internal.h"

#define WP_BITS 44
#define WP_MASK ((UINT64_C(1) << WP_BITS) - 1)
#define RESETTING (UINT64_C(1) << 48)
#define ONE_WRITE (UINT64_C(1) << 49)
#define WRITES_MAX 0x7fff

static uint64_t
wp_of(uint64_t w)
{
	return w & WP_MASK;
}

static enum bdev_zone_state
state_of(uint64_t w)
{
	return (enum bdev_zone_state)(w >> WP_BITS & 0xf);
}

static uint64_t
writes_of(uint64_t w)
{
	return w >> 49;
}

/* w with another state and write pointer. */
static uint64_t
with(uint64_t w, enum bdev_zone_state state, uint64_t wp)
{
	return (w & ~(WP_MASK | UINT64_C(0xf) << WP_BITS)) | (uint64_t)state << WP_BITS | wp;
}

static bool
is_open(enum bdev_zone_state state)
{
	return state == BDEV_ZONE_IMPLICIT_OPEN || state == BDEV_ZONE_EXPLICIT_OPEN;
}

static bool
is_active(enum bdev_zone_state state)
{
	return is_open(state) || state == BDEV_ZONE_CLOSED;
}

int
zones_init(struct zones *zs, uint64_t count, uint64_t capacity, uint32_t max_open,
	   uint32_t max_active)
{
	*zs = (struct zones){
		.count = count,
		.capacity = capacity,
		.max_open = max_open,
		.max_active = max_active,
	};
	zs->zone = aligned_alloc(CACHE_LINE_BYTES, count * sizeof(*zs->zone));
	if (zs->zone == NULL) {
		return -ENOMEM;
	}
	for (uint64_t i = 0; i < count; i++) {
		atomic_init(&zs->zone[i].word, with(0, BDEV_ZONE_FULL, capacity));
	}
	return 0;
}

void
zones_release(struct zones *zs)
{
	free(zs->zone);
	zs->zone = NULL;
}

void
zone_get(struct zones *zs, uint64_t i, enum bdev_zone_state *ret_state, uint64_t *ret_write_pointer)
{
	uint64_t w = atomic_load(&zs->zone[i].word);

	*ret_state = state_of(w);
	*ret_write_pointer = wp_of(w);
}

/* ---- What is limited ---- */

static bool
raise(atomic_uint *counter, uint32_t max)
{
	unsigned n = atomic_load(counter);

	do {
		if (max != 0 && n >= max) {
			return false;
		}
	} while (!atomic_compare_exchange_weak(counter, &n, n + 1));
	return true;
}

/* Closes a zone other than i that was opened by a write. False: there is none. */
static bool
close_another(struct zones *zs, uint64_t i)
{
	for (uint64_t k = 1; k < zs->count; k++) {
		struct zone *z = &zs->zone[(i + k) % zs->count];
		uint64_t w = atomic_load(&z->word);

		while (state_of(w) == BDEV_ZONE_IMPLICIT_OPEN && (w & RESETTING) == 0) {
			if (atomic_compare_exchange_weak(&z->word, &w,
							 with(w, BDEV_ZONE_CLOSED, wp_of(w)))) {
				atomic_fetch_sub(&zs->open, 1);
				return true;
			}
		}
	}
	return false;
}

/* What a change from one state to another takes. */
static int
take(struct zones *zs, uint64_t i, enum bdev_zone_state from, enum bdev_zone_state to)
{
	if (is_active(to) && !is_active(from) && !raise(&zs->active, zs->max_active)) {
		return -EOVERFLOW;
	}
	if (is_open(to) && !is_open(from)) {
		while (!raise(&zs->open, zs->max_open)) {
			if (!close_another(zs, i)) {
				if (!is_active(from)) {
					atomic_fetch_sub(&zs->active, 1);
				}
				return -ETOOMANYREFS;
			}
		}
	}
	return 0;
}

/* What it gives back; with from and to exchanged, undoes take(). */
static void
give(struct zones *zs, enum bdev_zone_state from, enum bdev_zone_state to)
{
	if (is_open(from) && !is_open(to)) {
		atomic_fetch_sub(&zs->open, 1);
	}
	if (is_active(from) && !is_active(to)) {
		atomic_fetch_sub(&zs->active, 1);
	}
}

/* ---- Writing ---- */

static int
may_write(const struct zones *zs, uint64_t w, uint64_t offset, uint64_t n, bool append)
{
	if ((w & RESETTING) != 0 || writes_of(w) == WRITES_MAX) {
		return -EAGAIN;
	}
	switch (state_of(w)) {
	case BDEV_ZONE_READ_ONLY:
		return -EROFS;
	case BDEV_ZONE_OFFLINE:
		return -ENXIO;
	case BDEV_ZONE_FULL:
		return -ENOSPC;
	default:
		break;
	}
	if (!append && offset != wp_of(w)) {
		return -ESPIPE;
	}
	return n <= zs->capacity - wp_of(w) ? 0 : -ENOSPC;
}

int
zone_write(struct zones *zs, uint64_t i, uint64_t offset, uint64_t n, bool append,
	   uint64_t *ret_offset)
{
	struct zone *z = &zs->zone[i];
	uint64_t w = atomic_load(&z->word), end;

	for (;;) {
		enum bdev_zone_state from = state_of(w), open, to;
		int rc = may_write(zs, w, offset, n, append);

		if (rc != 0) {
			return rc;
		}
		open = is_open(from) ? from : BDEV_ZONE_IMPLICIT_OPEN;
		rc = take(zs, i, from, open);
		if (rc != 0) {
			return rc;
		}
		end = wp_of(w) + n;
		to = end == zs->capacity ? BDEV_ZONE_FULL : open;
		if (atomic_compare_exchange_strong(&z->word, &w, with(w, to, end) + ONE_WRITE)) {
			give(zs, open, to);
			*ret_offset = end - n;
			return 0;
		}
		give(zs, open, from);
	}
}

void
zone_written(struct zones *zs, uint64_t i)
{
	atomic_fetch_sub(&zs->zone[i].word, ONE_WRITE);
}

/* ---- Managing ---- */

/* 0: *ret_to is what zone becomes. */
static int
next_state(uint64_t w, enum bdev_zone_action action, enum bdev_zone_state *ret_to)
{
	enum bdev_zone_state from = state_of(w);

	if ((w & RESETTING) != 0 || (action == BDEV_ZONE_DO_FINISH && writes_of(w) != 0)) {
		return -EAGAIN;
	}
	switch (action) {
	case BDEV_ZONE_DO_OPEN:
		*ret_to = BDEV_ZONE_EXPLICIT_OPEN;
		return from == BDEV_ZONE_EMPTY || is_active(from) ? 0 : -EINVAL;
	case BDEV_ZONE_DO_CLOSE:
		*ret_to = wp_of(w) == 0 ? BDEV_ZONE_EMPTY : BDEV_ZONE_CLOSED;
		return is_active(from) ? 0 : -EINVAL;
	case BDEV_ZONE_DO_FINISH:
		*ret_to = BDEV_ZONE_FULL;
		return from == BDEV_ZONE_EMPTY || from == BDEV_ZONE_FULL || is_active(from)
			       ? 0
			       : -EINVAL;
	default: /* offline: of read-only zones, and we have none */
		*ret_to = BDEV_ZONE_OFFLINE;
		return from == BDEV_ZONE_OFFLINE || from == BDEV_ZONE_READ_ONLY ? 0 : -EINVAL;
	}
}

int
zone_change(struct zones *zs, uint64_t i, enum bdev_zone_action action)
{
	struct zone *z = &zs->zone[i];
	uint64_t w = atomic_load(&z->word);

	for (;;) {
		enum bdev_zone_state from = state_of(w), to;
		int rc = next_state(w, action, &to);

		if (rc == 0) {
			rc = take(zs, i, from, to);
		}
		if (rc != 0) {
			return rc;
		}
		if (atomic_compare_exchange_strong(
			    &z->word, &w,
			    with(w, to, to == BDEV_ZONE_FULL ? zs->capacity : wp_of(w)))) {
			give(zs, from, to);
			return 0;
		}
		give(zs, to, from);
	}
}

int
zone_reset_begin(struct zones *zs, uint64_t i)
{
	struct zone *z = &zs->zone[i];
	uint64_t w = atomic_load(&z->word);

	do {
		switch (state_of(w)) {
		case BDEV_ZONE_READ_ONLY:
			return -EROFS;
		case BDEV_ZONE_OFFLINE:
			return -ENXIO;
		default:
			break;
		}
		if ((w & RESETTING) != 0 || writes_of(w) != 0) {
			return -EAGAIN;
		}
		if (state_of(w) == BDEV_ZONE_EMPTY) {
			return 1;
		}
	} while (!atomic_compare_exchange_weak(&z->word, &w, w | RESETTING));
	return 0;
}

void
zone_reset_end(struct zones *zs, uint64_t i, bool done)
{
	struct zone *z = &zs->zone[i];
	uint64_t w = atomic_load(&z->word);
	enum bdev_zone_state from = state_of(w);

	CHECK((w & RESETTING) != 0 && writes_of(w) == 0);
	if (!done) {
		atomic_store(&z->word, w & ~RESETTING);
		return;
	}
	atomic_store(&z->word, with(0, BDEV_ZONE_EMPTY, 0));
	give(zs, from, BDEV_ZONE_EMPTY);
}
