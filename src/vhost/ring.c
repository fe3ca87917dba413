/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From what the front end said about its rings to what the queues do. Messages change the
 * description only; rings_settle() compares it with what runs and sends commands until both agree:
 *
 *   not running, wanted   START   a kick set, enabled, size and addresses known, all in guest memory
 *   running, not wanted   STOP    base is remembered: a later START goes on there
 *   running, restart      STOP    then START again
 *   running, target       STOP    then START at that place (ring_move)
 *   running, remap        MAP
 *   running, recall       CALL
 *
 * Invariants
 *  1. A queue has at most one command under way (ring->busy); s->commands counts them.
 *  2. A queue that cannot start loses its kick: it is tried again when the front end sets one.
 *  3. A move is nobody's message: it may be under way while messages are handled. What they change a
 *     START takes along; those that need the queues wait for it as for any command.
 *  4. Maps and descriptors that a command replaces stay until all commands are answered (session.c
 *     frees old_map, old_fd).
 */
#include <errno.h>
#include <linux/virtio_ring.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "vhost/placement.h"
#include "vhost/session.h"

static void step(struct ring *r);

/* ---- What should be ---- */

static bool
translate(struct vhost_session *s, const struct ring *r, struct vhost_queue_setup *setup)
{
	const struct state_ring *d = r->saved;

	setup->size = d->size;
	setup->map = s->map;
	setup->desc = memmap_from_uva(s->map, d->desc, virtq_desc_bytes(d->size));
	setup->avail = memmap_from_uva(s->map, d->avail, virtq_avail_bytes(d->size));
	setup->used = memmap_from_uva(s->map, d->used, virtq_used_bytes(d->size));
	/* The mapping may have another alignment than the address in the VMM. */
	return setup->desc != NULL && setup->avail != NULL && setup->used != NULL &&
	       (uintptr_t)setup->desc % VRING_DESC_ALIGN_SIZE == 0 &&
	       (uintptr_t)setup->avail % VRING_AVAIL_ALIGN_SIZE == 0 &&
	       (uintptr_t)setup->used % VRING_USED_ALIGN_SIZE == 0;
}

bool
ring_misplaced(struct vhost_session *s, const struct ring *r)
{
	struct vhost_queue_setup setup;

	return (r->saved->flags & STATE_RING_ADDR) != 0 && r->saved->size != 0 && !translate(s, r, &setup);
}

static bool
wanted(struct vhost_session *s, const struct ring *r, struct vhost_queue_setup *setup)
{
	uint16_t flags = r->saved->flags;
	bool enabled = (s->saved->features & (1ull << VHOST_USER_F_PROTOCOL_FEATURES)) == 0 ||
		       (flags & STATE_RING_ENABLED) != 0;

	return s->state != SESSION_ENDING && enabled && (flags & STATE_RING_KICK) != 0 &&
	       (flags & STATE_RING_ADDR) != 0 && r->saved->size != 0 && translate(s, r, setup);
}

/* ---- Commands ---- */

static void
settle_if_quiet(struct vhost_session *s)
{
	void (*settled)(struct vhost_session *s, int status) = s->settled;

	if (s->commands == 0 && settled != NULL) {
		s->settled = NULL;
		settled(s, s->failure);
	}
}

static void
stopped(struct ring *r)
{
	placement_drop(r->place);
	r->running = false;
	r->q.session->started--;
}

static void
start_failed(struct vhost_session *s, struct ring *r, int status)
{
	stopped(r);
	r->saved->flags &= (uint16_t)~(STATE_RING_KICK | STATE_RING_POLLED);
	if (r->kick_fd >= 0) {
		close(r->kick_fd);
		r->kick_fd = -1;
	}
	if (s->state == SESSION_OPEN || s->failure == 0) {
		s->failure = err_set(&s->err, status, "ring %u cannot start: %s", r->q.index, strerror(-status));
	}
	/* A move: no message waits whose answer could say it. */
	if (s->state == SESSION_OPEN) {
		session_end(s, s->err.text);
	}
}

/* On the thread that it was to move to; the one it came from served it well. */
static void
move_failed(struct ring *r, int status)
{
	VHOST_LOG(WARNING, r->q.ctrlr, "ring %u cannot move to %s: %s", r->q.index, thread_name(r->q.thread),
		  strerror(-status));
	r->target = r->origin;
	r->origin = RING_ANYWHERE;
	stopped(r);
}

static void
command_done(struct vhost_queue *q, int status)
{
	struct ring *r = CONTAINER_OF(q, struct ring, q);
	struct vhost_session *s = MAGIC_OBJ(q->session, SESSION_MAGIC);

	CHECK(r->busy && s->commands > 0);
	r->busy = false;
	s->commands--;
	if (q->command == VHOST_QUEUE_STOP) {
		r->saved->base = q->base;
		stopped(r);
	} else if (status != 0 && r->origin != RING_ANYWHERE) {
		move_failed(r, status);
	} else if (status != 0) {
		start_failed(s, r, status);
	} else {
		r->origin = RING_ANYWHERE;
	}
	step(r);
	settle_if_quiet(s);
}

static void
send(struct ring *r, enum vhost_queue_command command)
{
	r->busy = true;
	r->q.session->commands++;
	vhost_queue_send(&r->q, command, command_done);
}

static void
on_failed(struct vhost_queue *q)
{
	struct vhost_session *s = MAGIC_OBJ(q->session, SESSION_MAGIC);

	err_set(&s->err, -EPROTO, "ring %u: %s", q->index, q->failed_why);
	session_end(s, s->err.text);
}

static void
start(struct vhost_session *s, struct ring *r)
{
	if (r->target != RING_ANYWHERE) {
		r->place = r->target;
		placement_take_at(r->place);
	} else {
		r->place = placement_take(&s->ctrlr->cpumask);
	}
	r->target = RING_ANYWHERE;
	r->running = true;
	s->started++;
	r->q.thread = placement_thread(r->place);
	r->q.on_failed = on_failed;
	r->q.next.base = r->saved->base;
	r->q.next.event_idx = (s->saved->features & (1ull << VIRTIO_RING_F_EVENT_IDX)) != 0;
	r->q.next.indirect = (s->saved->features & (1ull << VIRTIO_RING_F_INDIRECT_DESC)) != 0;
	r->q.next.kick_fd = r->kick_fd;
	r->q.next.call_fd = r->call_fd;
	r->restart = r->remap = r->recall = false;
	send(r, VHOST_QUEUE_START);
}

/* Sends the next command that the ring needs, if any. */
static void
step(struct ring *r)
{
	struct vhost_session *s = r->q.session;
	bool want;

	if (r->busy) {
		return;
	}
	/* `next` is ours while no command is under way. */
	want = wanted(s, r, &r->q.next);
	if (!want) {
		r->target = r->origin = RING_ANYWHERE;
	}
	if (!r->running) {
		if (want) {
			start(s, r);
		}
	} else if (!want || r->restart || r->target != RING_ANYWHERE) {
		if (s->state == SESSION_BUSY && (r->saved->flags & STATE_RING_KICK) != 0 && ring_misplaced(s, r)) {
			VHOST_LOG(WARNING, s->ctrlr, "ring %u waits: it is not in guest memory any more",
				    r->q.index);
		}
		send(r, VHOST_QUEUE_STOP);
	} else if (r->remap) {
		r->remap = false;
		send(r, VHOST_QUEUE_MAP);
	} else if (r->recall) {
		r->recall = false;
		r->q.next.call_fd = r->call_fd;
		send(r, VHOST_QUEUE_CALL);
	}
}

void
rings_settle(struct vhost_session *s, void (*settled)(struct vhost_session *s, int status))
{
	s->settled = settled;
	s->failure = 0;
	for (unsigned i = 0; i < s->saved->ring_count; i++) {
		if (s->rings[i] != NULL) {
			step(s->rings[i]);
		}
	}
	settle_if_quiet(s);
}

void
rings_restart(struct vhost_session *s)
{
	for (unsigned i = 0; i < s->saved->ring_count; i++) {
		if (s->rings[i] != NULL) {
			s->rings[i]->restart = s->rings[i]->running;
		}
	}
}

void
rings_remap(struct vhost_session *s)
{
	for (unsigned i = 0; i < s->saved->ring_count; i++) {
		if (s->rings[i] != NULL) {
			s->rings[i]->remap = s->rings[i]->running;
		}
	}
}

bool
ring_move(struct ring *r, unsigned place)
{
	enum session_state state = r->q.session->state;

	if (!r->running || r->busy || r->place == place || state == SESSION_ENDING || state == SESSION_ENDED) {
		return false;
	}
	r->target = place;
	r->origin = r->place;
	step(r);
	return true;
}

/* ---- Life ---- */

static bool
make_room(struct vhost_session *s, unsigned count)
{
	unsigned room = MAX(count, MIN(s->ring_room * 2, (unsigned)VHOST_QUEUES_MAX));
	struct ring **rings;

	if (count <= s->ring_room) {
		return true;
	}
	rings = realloc(s->rings, room * sizeof(*rings));
	if (rings == NULL) {
		return false;
	}
	memset(rings + s->ring_room, 0, (room - s->ring_room) * sizeof(*rings));
	s->rings = rings;
	s->ring_room = room;
	return true;
}

struct ring *
ring_get(struct vhost_session *s, uint32_t index)
{
	struct ring *r;

	if (index >= VHOST_QUEUES_MAX) {
		err_set(&s->err, -EINVAL, "ring %u, the last one is %u", index, VHOST_QUEUES_MAX - 1);
		return NULL;
	}
	if (index < s->saved->ring_count && s->rings[index] != NULL) {
		return s->rings[index];
	}
	r = calloc(1, sizeof(*r));
	if (r == NULL || !make_room(s, index + 1)) {
		free(r);
		err_set(&s->err, -ENOMEM, "ring %u: out of memory", index);
		return NULL;
	}
	r->saved = state_ring(s->saved, index);
	r->kick_fd = r->call_fd = -1;
	r->target = r->origin = RING_ANYWHERE;
	r->q.ctrlr = s->ctrlr;
	r->q.session = s;
	r->q.index = index;
	s->rings[index] = r;
	s->saved->ring_count = MAX(s->saved->ring_count, index + 1);
	return r;
}

void
rings_free(struct vhost_session *s)
{
	for (unsigned i = 0; i < s->saved->ring_count; i++) {
		struct ring *r = s->rings[i];

		if (r == NULL) {
			continue;
		}
		CHECK(!r->busy && !r->running);
		vhost_counters_add(&s->ctrlr->past, &r->q.counters);
		if (r->kick_fd >= 0) {
			close(r->kick_fd);
		}
		if (r->call_fd >= 0) {
			close(r->call_fd);
		}
		free(r);
	}
	free(s->rings);
	s->rings = NULL;
	s->ring_room = 0;
}
