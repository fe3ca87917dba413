/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on lightweight threads. What a thread knows about itself is asked by a message to
 * each, one after another. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/clock.h"
#include "event/channel.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

struct thread_gather {
	struct gather gather;
	struct rpc_request *req;
	json_t *threads; /* one thread at a time adds to it */
};

static void
gathered(struct gather *g)
{
	struct thread_gather *tg = CONTAINER_OF(g, struct thread_gather, gather);

	rpc_result(tg->req, json_pack("{s:I, s:o}", "tick_rate", (json_int_t)CLOCK_TICKS_PER_SECOND,
				      "threads", tg->threads));
	free(tg);
}

static void
start(struct rpc_request *req, void (*visit)(struct gather *g), void (*done)(struct gather *g))
{
	struct thread_gather *tg = calloc(1, sizeof(*tg));

	if (tg == NULL) {
		rpc_error(req, -ENOMEM, "out of memory");
		return;
	}
	tg->req = req;
	tg->threads = json_array();
	gather_start(&tg->gather, visit, done);
}

static void
add(struct gather *g, json_t *thread)
{
	json_array_append_new(CONTAINER_OF(g, struct thread_gather, gather)->threads, thread);
}

static void
visit_stats(struct gather *g)
{
	struct thread *t = thread_self();
	struct thread_stats stats;

	thread_get_stats(&stats);
	add(g,
	    json_pack("{s:s, s:I, s:o, s:I, s:I, s:i, s:i, s:i}", "name", thread_name(t), "id",
		      (json_int_t)thread_id(t), "cpumask",
		      json_null(), "busy",
		      (json_int_t)stats.busy_ns, "idle", (json_int_t)stats.idle_ns,
		      "active_pollers_count", (int)stats.active_pollers, "timed_pollers_count",
		      (int)stats.timed_pollers, "paused_pollers_count", (int)stats.armed_pollers));
}

/* The masks are the app thread's; the threads were visited in their order. */
static void
gathered_stats(struct gather *g)
{
	struct thread_gather *tg = CONTAINER_OF(g, struct thread_gather, gather);
	json_t *thread;
	size_t i;

	json_array_foreach (tg->threads, i, thread) {
		json_object_set_new(thread, "cpumask", thread_mask_json(methods->threads[i]));
	}
	gathered(g);
}

static void
get_stats(struct rpc_request *req, const void *params)
{
	start(req, visit_stats, gathered_stats);
}

/* "vhost_queue_poll vm0 queue 1": spdk_top allows no member of berth's own beside the name. */
static json_t *
poller_name(const struct poller *p)
{
	char what[300] = "", name[400];

	if (p->ops->describe != NULL) {
		p->ops->describe(p, what, sizeof(what));
	}
	snprintf(name, sizeof(name), "%s%s%s", p->ops->name, what[0] != '\0' ? " " : "", what);
	return text_json(name);
}

static void
add_poller(void *ctx, const struct poller *p)
{
	json_t *thread = ctx, *poller;
	/* An armed poller waits for its descriptor: of SPDK's three lists the one of those that
	 * do not run fits. */
	const char *list = p->state == POLLER_ACTIVE  ? "active_pollers"
			   : p->state == POLLER_TIMED ? "timed_pollers"
						      : "paused_pollers";
	const char *state = p->state == POLLER_ARMED ? "paused" : "waiting";

	poller = json_pack("{s:o, s:I, s:s, s:I, s:I}", "name", poller_name(p), "id",
			   (json_int_t)p->id, "state", state, "run_count", (json_int_t)p->run_count,
			   "busy_count", (json_int_t)p->busy_count);
	if (p->state == POLLER_TIMED) {
		json_object_set_new(poller, "period_ticks",
				    json_integer((json_int_t)(p->period_us * NS_PER_US)));
	}
	json_array_append_new(json_object_get(thread, list), poller);
}

static void
visit_pollers(struct gather *g)
{
	struct thread *t = thread_self();
	json_t *thread = json_pack("{s:s, s:I, s:[], s:[], s:[]}", "name", thread_name(t), "id",
				   (json_int_t)thread_id(t), "active_pollers", "timed_pollers",
				   "paused_pollers");

	thread_for_each_poller(add_poller, thread);
	add(g, thread);
}

static void
get_pollers(struct rpc_request *req, const void *params)
{
	start(req, visit_pollers, gathered);
}

static void
add_channel(void *ctx, const struct channel *ch)
{
	json_array_append_new(ctx, json_pack("{s:o, s:i}", "name", text_json(ch->dev->name), "ref",
					     (int)ch->refs));
}

static void
visit_channels(struct gather *g)
{
	json_t *channels = json_array();

	channel_for_each_of_thread(add_channel, channels);
	add(g,
	    json_pack("{s:s, s:o}", "name", thread_name(thread_self()), "io_channels", channels));
}

static void
get_io_channels(struct rpc_request *req, const void *params)
{
	start(req, visit_channels, gathered);
}

const struct rpc_method thread_methods[] = {
	{"thread_get_stats", get_stats},
	{"thread_get_pollers", get_pollers},
	{"thread_get_io_channels", get_io_channels},
	{NULL, NULL},
};
