/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Greedy: as long as some reactor is too busy, the one move that lowers it most, given where it raises another.
 *
 * With B and T the loads of the two reactors and x what the queue is thought to cost, a move makes the higher one
 * max(B - x, T + x); it gains B - max(B - x, T + x), that is the smaller of x and B - T - x.
 *
 * Invariants
 *  1. Every move gains, so a plan never makes the higher of two loads higher, and the reverse of a move never pays: no
 *     ping-pong from one set of numbers. Against numbers that change there is `stays`.
 *  2. A queue goes only where its mask allows.
 */
#include "vhost/balance.h"

#include "base/check.h"

struct candidate {
	unsigned queue;
	unsigned reactor;
	uint64_t cost_ns;
	uint64_t gain_ns;
};

/* What the queues of a place did, all together. */
static uint64_t
place_work(const struct balance *b, unsigned place)
{
	uint64_t work = 0;

	for (unsigned i = 0; i < b->queue_count; i++) {
		work += b->queues[i].place == place ? b->queues[i].work : 0;
	}
	return work;
}

/* The least busy reactor with an I/O thread that may serve q, `but` excepted; reactor_count: none. */
static unsigned
least_busy(const struct balance *b, const struct balance_queue *q, unsigned but)
{
	unsigned best = b->reactor_count;

	for (unsigned i = 0; i < b->place_count; i++) {
		unsigned r = b->places[i].reactor;

		if (r != but && cpumask_test(q->mask, b->reactors[r].lcore) &&
		    (best == b->reactor_count || b->reactors[r].busy_ns < b->reactors[best].busy_ns)) {
			best = r;
		}
	}
	return best;
}

static bool
worthwhile(const struct balance *b, uint64_t gap_ns, uint64_t cost_ns, uint64_t gain_ns)
{
	uint64_t least = cost_ns > gap_ns / 2 ? BALANCE_GAIN : BALANCE_GAIN_MIN;

	return gap_ns >= b->period_ns / 1000 * BALANCE_GAP && gain_ns >= b->period_ns / 1000 * least;
}

/* The best of the queues of one place; *best is what there is already, of gain 0 when there is nothing. */
static void
look_at_place(const struct balance *b, unsigned place, struct candidate *best)
{
	const struct balance_place *p = &b->places[place];
	uint64_t all = place_work(b, place);

	for (unsigned i = 0; i < b->queue_count; i++) {
		const struct balance_queue *q = &b->queues[i];
		uint64_t cost, gap, gain;
		unsigned to;

		if (q->place != place || q->stays || q->work == 0) {
			continue;
		}
		to = least_busy(b, q, p->reactor);
		if (to == b->reactor_count || b->reactors[to].busy_ns >= b->reactors[p->reactor].busy_ns) {
			continue;
		}
		cost = (uint64_t)((double)p->busy_ns * (double)q->work / (double)all);
		gap = b->reactors[p->reactor].busy_ns - b->reactors[to].busy_ns;
		gain = cost < gap ? MIN(cost, gap - cost) : 0;
		if (worthwhile(b, gap, cost, gain) &&
		    (gain > best->gain_ns || (gain == best->gain_ns && cost < best->cost_ns))) {
			*best = (struct candidate){i, to, cost, gain};
		}
	}
}

/* Of the reactors above BALANCE_BUSY: the busiest from which a move is worthwhile. */
static bool
find(const struct balance *b, struct candidate *ret)
{
	uint64_t below_ns = UINT64_MAX;

	for (unsigned n = 0; n < b->reactor_count; n++) {
		uint64_t busy_ns = 0;

		for (unsigned i = 0; i < b->reactor_count; i++) {
			if (b->reactors[i].busy_ns < below_ns) {
				busy_ns = MAX(busy_ns, b->reactors[i].busy_ns);
			}
		}
		if (busy_ns < b->period_ns / 1000 * BALANCE_BUSY) {
			return false;
		}
		*ret = (struct candidate){0};
		for (unsigned i = 0; i < b->place_count; i++) {
			if (b->reactors[b->places[i].reactor].busy_ns == busy_ns) {
				look_at_place(b, i, ret);
			}
		}
		if (ret->gain_ns > 0) {
			return true;
		}
		below_ns = busy_ns;
	}
	return false;
}

/* The I/O thread with the fewest queues on that reactor. */
static unsigned
place_on(const struct balance *b, unsigned reactor)
{
	unsigned best = b->place_count;

	for (unsigned i = 0; i < b->place_count; i++) {
		if (b->places[i].reactor == reactor &&
		    (best == b->place_count || b->places[i].queues < b->places[best].queues)) {
			best = i;
		}
	}
	CHECK(best < b->place_count);
	return best;
}

unsigned
balance_plan(struct balance *b, struct balance_move *ret_moves, unsigned max)
{
	unsigned count = 0;
	struct candidate c;

	while (count < max && find(b, &c)) {
		struct balance_queue *q = &b->queues[c.queue];
		struct balance_place *from = &b->places[q->place], *to;
		unsigned place = place_on(b, c.reactor);

		to = &b->places[place];
		b->reactors[from->reactor].busy_ns -= c.cost_ns;
		b->reactors[c.reactor].busy_ns += c.cost_ns;
		from->busy_ns -= c.cost_ns;
		from->queues--;
		to->busy_ns += c.cost_ns;
		to->queues++;
		q->place = place;
		q->stays = true;
		ret_moves[count++] = (struct balance_move){c.queue, place};
	}
	return count;
}
