/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Moves virtqueues from reactors that are too busy to others, as balance.c plans it. Control thread, once a period.
 *
 *   every period     what reactors and I/O threads did since the last time: O(threads)
 *   one is too busy  what each queue has done so far is remembered
 *   still, one later what each queue did since then: the plan, and its moves
 *
 * So queues are looked at only while there is something to mend, and load that lasts for one period moves nothing.
 *
 * Invariants
 *  1. A queue that was moved stays where it is for BALANCE_HOLD periods.
 *  2. Numbers of a thread that has changed its reactor meanwhile are not used.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "event/reactor.h"
#include "vhost/balance.h"
#include "vhost/placement.h"
#include "vhost/rebalance.h"
#include "vhost/session.h"

/* Bytes that cost as much as one request more. */
#define WORK_BYTES 16384

struct sample {
	struct reactor *reactor;
	uint64_t reactor_busy_ns;
	uint64_t thread_busy_ns;
};

static struct {
	struct sample *samples; /* one a place; NULL: none yet */
	uint64_t sampled_ns;
	uint32_t period;        /* counts them */
	bool watching;          /* queues' work_seen is of the last period */
} g;

/* What is handed to balance.c. */
struct workload {
	struct balance b;
	struct ring **rings; /* of b.queues */
	unsigned room;
};

void
rebalance_release(void)
{
	free(g.samples);
	g.samples = NULL;
	g.watching = false;
}

/* ---- Threads ---- */

static unsigned
reactor_index(struct workload *w, struct reactor *r, uint64_t busy_ns)
{
	unsigned i;

	for (i = 0; i < w->b.reactor_count && w->b.reactors[i].lcore != reactor_lcore(r); i++) {
	}
	if (i == w->b.reactor_count) {
		w->b.reactors[w->b.reactor_count++] = (struct balance_reactor){reactor_lcore(r), busy_ns};
	}
	return i;
}

/* Fills reactors and places; false when there is nothing to compare with. */
static bool
sample(struct workload *w)
{
	uint64_t now = clock_now_ns();
	bool valid = g.samples != NULL;

	w->b.place_count = placement_count();
	w->b.reactors = calloc(w->b.place_count, sizeof(*w->b.reactors));
	w->b.places = calloc(w->b.place_count, sizeof(*w->b.places));
	if (!valid) {
		g.samples = calloc(w->b.place_count, sizeof(*g.samples));
	}
	if (w->b.reactors == NULL || w->b.places == NULL || g.samples == NULL) {
		return false;
	}
	w->b.period_ns = now - g.sampled_ns;
	g.sampled_ns = now;
	for (unsigned i = 0; i < w->b.place_count; i++) {
		struct thread *t = placement_thread(i);
		struct reactor *r = thread_reactor(t);
		struct sample *s = &g.samples[i], before = *s;
		struct reactor_stats stats;

		reactor_get_stats(r, &stats);
		*s = (struct sample){r, stats.busy_ns, thread_busy_ns(t)};
		valid = valid && before.reactor == r;
		w->b.places[i] = (struct balance_place){
			.reactor = reactor_index(w, r, s->reactor_busy_ns - before.reactor_busy_ns),
			.busy_ns = s->thread_busy_ns - before.thread_busy_ns,
			.queues = placement_queues(i),
		};
	}
	return valid;
}

/* Whether some reactor is so much busier than another that it is worth looking at queues. */
static bool
uneven(const struct balance *b)
{
	uint64_t most = 0, least = UINT64_MAX;

	for (unsigned i = 0; i < b->reactor_count; i++) {
		most = MAX(most, b->reactors[i].busy_ns);
		least = MIN(least, b->reactors[i].busy_ns);
	}
	return most >= b->period_ns / 1000 * BALANCE_BUSY && most - least >= b->period_ns / 1000 * BALANCE_GAP;
}

/* ---- Queues ---- */

static uint64_t
work_done(const struct ring *r)
{
	const struct vhost_counters *c = &r->q.counters;
	uint64_t requests = 0, bytes = 0;

	for (int i = 0; i < VHOST_KINDS; i++) {
		requests += vhost_counter(&c->ops[i]);
		bytes += vhost_counter(&c->bytes[i]);
	}
	return requests + bytes / WORK_BYTES;
}

static void
for_each_ring(void (*fn)(struct workload *w, struct ring *r), struct workload *w)
{
	for (struct vhost_controller *c = vhost_first(); c != NULL; c = vhost_next(c)) {
		for (unsigned i = 0; c->session != NULL && i < c->session->saved->ring_count; i++) {
			if (c->session->rings[i] != NULL) {
				fn(w, c->session->rings[i]);
			}
		}
	}
}

static void
remember(struct workload *w, struct ring *r)
{
	r->work_seen = work_done(r);
}

static bool
make_room(struct workload *w)
{
	unsigned room = w->room == 0 ? 64 : w->room * 2;
	struct balance_queue *queues = realloc(w->b.queues, room * sizeof(*queues));
	struct ring **rings;

	if (queues == NULL) {
		return false;
	}
	w->b.queues = queues;
	rings = realloc(w->rings, room * sizeof(*rings));
	if (rings == NULL) {
		return false;
	}
	w->rings = rings;
	w->room = room;
	return true;
}

static void
add(struct workload *w, struct ring *r)
{
	uint64_t before = r->work_seen;

	remember(w, r);
	/* What there is no memory to look at stays where it is. */
	if (!r->running || r->work_seen == before || (w->b.queue_count == w->room && !make_room(w))) {
		return;
	}
	w->rings[w->b.queue_count] = r;
	w->b.queues[w->b.queue_count++] = (struct balance_queue){
		.place = r->place,
		.work = r->work_seen - before,
		.mask = &r->q.ctrlr->cpumask,
		/* Period numbers wrap around. */
		.stays = (int32_t)(r->stays_until - g.period) > 0,
	};
}

static void
move(struct workload *w)
{
	struct balance_move moves[BALANCE_MOVES_MAX];
	unsigned count = balance_plan(&w->b, moves, BALANCE_MOVES_MAX);

	for (unsigned i = 0; i < count; i++) {
		struct ring *r = w->rings[moves[i].queue];
		const char *from = thread_name(r->q.thread);

		if (ring_move(r, moves[i].place)) {
			r->stays_until = g.period + BALANCE_HOLD;
			LOG_DEBUG(VHOST, r->q.ctrlr->name, "ring %u moves from %s to %s", r->q.index, from,
				  thread_name(placement_thread(moves[i].place)));
		}
	}
}

void
vhost_rebalance(uint64_t period_ns)
{
	struct workload w = {0};

	g.period++;
	if (!sample(&w) || w.b.period_ns > 2 * period_ns || !uneven(&w.b)) {
		g.watching = false;
	} else if (!g.watching) {
		for_each_ring(remember, &w);
		g.watching = true;
	} else {
		for_each_ring(add, &w);
		move(&w);
	}
	free(w.b.reactors);
	free(w.b.places);
	free(w.b.queues);
	free(w.rings);
}
