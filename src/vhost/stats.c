/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a controller has done: the counters of its queues, and what those of earlier sessions left behind.
 *
 * Invariant: a queue's counters last as long as its session and are added to the controller's `past` once, when the session
 * is freed (rings_free); a queue that stops, starts again or moves keeps them. So no sum goes down.
 *
 * The numbers of a running queue are read one by one while it counts on: they may differ by a turn's worth.
 */
#include "base/clock.h"
#include "vhost/session.h"

void
vhost_counters_add(struct vhost_counters *to, const struct vhost_counters *from)
{
	for (int i = 0; i < VHOST_KINDS; i++) {
		vhost_count(&to->ops[i], vhost_counter(&from->ops[i]));
		vhost_count(&to->bytes[i], vhost_counter(&from->bytes[i]));
	}
	vhost_count(&to->errors, vhost_counter(&from->errors));
	vhost_count(&to->malformed, vhost_counter(&from->malformed));
	vhost_count(&to->calls, vhost_counter(&from->calls));
	vhost_count(&to->kicks, vhost_counter(&from->kicks));
	vhost_count(&to->latency_ns, vhost_counter(&from->latency_ns));
	if (vhost_counter(&from->weighed_ns) > vhost_counter(&to->weighed_ns)) {
		atomic_store_explicit(&to->weighed_ns, vhost_counter(&from->weighed_ns), memory_order_relaxed);
	}
}

static void
add(struct vhost_stats *stats, const struct vhost_counters *c)
{
	stats->read_ops += vhost_counter(&c->ops[VHOST_READ]);
	stats->write_ops += vhost_counter(&c->ops[VHOST_WRITE]);
	stats->other_ops += vhost_counter(&c->ops[VHOST_OTHER]);
	stats->bytes_read += vhost_counter(&c->bytes[VHOST_READ]);
	stats->bytes_written += vhost_counter(&c->bytes[VHOST_WRITE]);
	stats->latency_ns += vhost_counter(&c->latency_ns);
	stats->errors += vhost_counter(&c->errors);
	stats->malformed += vhost_counter(&c->malformed);
	stats->calls += vhost_counter(&c->calls);
	stats->kicks += vhost_counter(&c->kicks);
	stats->active_ns = MAX(stats->active_ns, vhost_counter(&c->weighed_ns));
	stats->inflight += atomic_load_explicit(&c->weight, memory_order_relaxed);
}

void
vhost_get_stats(const struct vhost_controller *ctrlr, struct vhost_stats *ret_stats)
{
	const struct vhost_session *s = ctrlr->session;

	*ret_stats = (struct vhost_stats){0};
	add(ret_stats, &ctrlr->past);
	for (unsigned i = 0; s != NULL && i < s->saved->ring_count; i++) {
		if (s->rings[i] != NULL) {
			add(ret_stats, &s->rings[i]->q.counters);
		}
	}
}

unsigned
vhost_get_queues(const struct vhost_controller *ctrlr, struct vhost_queue_info *ret_queues, unsigned room)
{
	const struct vhost_session *s = ctrlr->session;
	unsigned count = 0;

	for (unsigned i = 0; s != NULL && i < s->saved->ring_count; i++) {
		const struct ring *r = s->rings[i];

		if (r == NULL || !r->running) {
			continue;
		}
		if (count < room) {
			const struct vhost_counters *c = &r->q.counters;

			ret_queues[count] = (struct vhost_queue_info){
				.index = i,
				.thread = r->q.thread,
				.inflight = atomic_load_explicit(&c->weight, memory_order_relaxed),
				.requests = vhost_counter(&c->ops[VHOST_READ]) + vhost_counter(&c->ops[VHOST_WRITE]) +
					    vhost_counter(&c->ops[VHOST_OTHER]),
			};
		}
		count++;
	}
	return count;
}
