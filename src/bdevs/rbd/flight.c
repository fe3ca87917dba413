/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What librbd has of a request: a flight. librbd takes nothing back, and a silent cluster keeps what it has for ever; so a
 * flight has nothing of the submitter's, and can be given up: the request ends, the flight stays until librbd lets go of it.
 *
 *            +--answered()--> ANSWERED --message--> freed on the channel's thread, with its request
 *   FLYING --+
 *            +--given up----> LOST -----answered()--> freed on librbd's thread; its request ended long ago
 *
 * Invariants
 *  1. librbd sees memory of the flight only. Reads land in its buffer and are copied from there by the channel's thread; what
 *     is written was copied by librbd before the call came back (cluster.c sees to it); a comparison's operands are in the
 *     buffer. So guest memory may be unmapped, and reused, as soon as the request has ended.
 *  2. Who changes `state` from FLYING, and nobody else, decides on which side the flight ends.
 *  3. A room counts what is lost of one disk, and outlives it. When that is much, requests do not go to librbd but wait, where
 *     they can be cancelled (io.c): a silent cluster cannot be fed until memory is out.
 *  4. A write that is lost may still reach the image. librbd and the cluster keep its order with later ones of the same image
 *     handle; with those of another handle they do not, so the image is not opened again while there is one (disk.c).
 *
 * What it costs: one copy of what is read, which the thread would have waited for anyway, into memory that is in a cache.
 * Rejected: references to guest memory (every submitter would have to keep them, and the regions stay mapped for ever); buffers
 * only from the moment a request is given up (librbd has their addresses already); a time limit in librados (it fails requests
 * of those who want to wait, too).
 * Context: as said with each function.
 */
#include <stdlib.h>

#include "bdevs/rbd/internal.h"

#define LOST_MAX_BYTES ((uint64_t)32 << 20)
/* At least so much is held for a request without data. */
#define LOST_MIN_BYTES 4096u

/* Of buffers that are used again; what does not fit, or finds none, has memory of its own. They are shared by all disks. */
static struct mem_pool pools[RBD_BUFFER_SIZES] = {
	MEM_POOL_INIT(4096, 4096, 2048),
	MEM_POOL_INIT(65536, 4096, 256),
	MEM_POOL_INIT(1 << 20, 4096, 32),
};
static atomic_uint lost_flights; /* of all disks */

/* ---- Rooms (any thread) ---- */

struct rbd_room *
rbd_room_new(void)
{
	struct rbd_room *room = calloc(1, sizeof(*room));

	if (room != NULL) {
		atomic_store(&room->refs, 1);
		pthread_mutex_init(&room->lock, NULL);
		pthread_cond_init(&room->silence, NULL);
	}
	return room;
}

void
rbd_room_put(struct rbd_room *room)
{
	if (room != NULL && atomic_fetch_sub(&room->refs, 1) == 1) {
		pthread_cond_destroy(&room->silence);
		pthread_mutex_destroy(&room->lock);
		free(room);
	}
}

bool
rbd_room_full(const struct rbd_room *room)
{
	return atomic_load_explicit(&room->lost_bytes, memory_order_relaxed) >= LOST_MAX_BYTES;
}

void
rbd_room_ask(struct rbd_room *room)
{
	atomic_fetch_add(&room->refs, 1);
	pthread_mutex_lock(&room->lock);
	room->asking++;
	pthread_mutex_unlock(&room->lock);
}

void
rbd_room_asked(struct rbd_room *room)
{
	pthread_mutex_lock(&room->lock);
	room->asking--;
	pthread_cond_broadcast(&room->silence);
	pthread_mutex_unlock(&room->lock);
	rbd_room_put(room);
}

void
rbd_room_wait(struct rbd_room *room)
{
	pthread_mutex_lock(&room->lock);
	while (room->asking > 0) {
		pthread_cond_wait(&room->silence, &room->lock);
	}
	pthread_mutex_unlock(&room->lock);
}

/* ---- Buffers ---- */

void
rbd_buffers_init(struct mem_cache caches[static RBD_BUFFER_SIZES])
{
	for (unsigned i = 0; i < RBD_BUFFER_SIZES; i++) {
		caches[i].pool = &pools[i];
	}
}

void
rbd_buffers_release(struct mem_cache caches[static RBD_BUFFER_SIZES])
{
	for (unsigned i = 0; i < RBD_BUFFER_SIZES; i++) {
		mem_cache_release(&caches[i]);
	}
}

void
rbd_buffers_end(void)
{
	/* What is lost may be on its way back: it stays for the next time. */
	for (unsigned i = 0; i < RBD_BUFFER_SIZES && atomic_load(&lost_flights) == 0; i++) {
		mem_pool_release(&pools[i]);
	}
}

static bool
get_buffer(struct rbd_flight *f, struct mem_cache *caches, size_t bytes)
{
	for (unsigned i = 0; i < RBD_BUFFER_SIZES; i++) {
		if (bytes <= pools[i].buffer_bytes) {
			f->buffer = mem_cache_get(&caches[i]);
			f->cache = f->buffer != NULL ? (int)i : -1;
			break;
		}
	}
	if (f->buffer == NULL) {
		f->buffer = malloc(bytes);
	}
	return f->buffer != NULL;
}

static void
put_buffer(struct rbd_flight *f, struct mem_cache *caches)
{
	if (f->buffer != NULL && f->cache >= 0) {
		mem_cache_put(&caches[f->cache], f->buffer);
	} else {
		free(f->buffer);
	}
}

/* ---- Flights (the channel's thread) ---- */

struct rbd_flight *
rbd_flight_new(struct rbd_room *room, struct mem_cache caches[static RBD_BUFFER_SIZES], size_t buffer_bytes)
{
	struct rbd_flight *f = calloc(1, sizeof(*f));

	if (f == NULL) {
		return NULL;
	}
	f->room = room;
	f->thread = thread_self();
	f->cache = -1;
	f->held_bytes = MAX(buffer_bytes, (size_t)LOST_MIN_BYTES);
	if (buffer_bytes > 0 && !get_buffer(f, caches, buffer_bytes)) {
		free(f);
		return NULL;
	}
	return f;
}

void
rbd_flight_free(struct rbd_flight *f, struct mem_cache caches[static RBD_BUFFER_SIZES])
{
	put_buffer(f, caches);
	free(f);
}

static void
count_off(struct rbd_flight *f)
{
	atomic_fetch_sub(&f->room->lost_bytes, f->held_bytes);
	atomic_fetch_sub(&f->room->lost_writes, f->writes);
	atomic_fetch_sub(&f->room->lost, 1);
	rbd_room_put(f->room);
	atomic_fetch_sub(&lost_flights, 1);
}

bool
rbd_flight_give_up(struct rbd_flight *f)
{
	int was = RBD_FLYING;

	/* Counted before somebody can count it off. */
	atomic_fetch_add(&lost_flights, 1);
	atomic_fetch_add(&f->room->refs, 1);
	atomic_fetch_add(&f->room->lost, 1);
	atomic_fetch_add(&f->room->lost_writes, f->writes);
	atomic_fetch_add(&f->room->lost_bytes, f->held_bytes);
	if (!atomic_compare_exchange_strong(&f->state, &was, RBD_LOST)) {
		count_off(f);
		return false;
	}
	return true;
}

/* ---- Answers (a thread of librbd's, or of a job) ---- */

void
rbd_flight_answered(struct rbd_flight *f, void (*came_back)(struct msg *msg))
{
	struct mem_cache caches[RBD_BUFFER_SIZES] = {0};
	int was = RBD_FLYING;

	if (atomic_compare_exchange_strong(&f->state, &was, RBD_ANSWERED)) {
		thread_send(f->thread, &f->msg, came_back);
		return;
	}
	rbd_buffers_init(caches);
	put_buffer(f, caches);
	rbd_buffers_release(caches);
	count_off(f);
	free(f);
}
