/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A bdev that is registered begins a pass over the lost calls, a little later: bdevs often come in numbers.
 *
 * Invariants
 *  1. Calls are made one after another, in the order of the log, and from no notice: who registers a bdev has finished.
 *  2. A pass follows another only when a bdev came meanwhile, or when that one made something; no call that is tried makes
 *     bdevs. So passes end.
 *  3. The pause before a pass is PAUSES times as long as the last one took: trying takes a small share of the thread's time.
 *  4. Nothing runs, no timer either, while nothing is lost or no bdev comes.
 */
#include "app/regain.h"

#include <string.h>

#include "base/clock.h"
#include "event/notice.h"
#include "event/thread.h"
#include "rpc/rpc.h"

#define PAUSE_US 20000
#define PAUSES 10
/* So many calls at once; other work of the thread comes between. */
#define SLICE 64

static struct {
	struct state *state; /* NULL: stopped */
	struct notice_watcher watcher;
	struct timer timer;
	struct msg msg;
	bool armed;
	bool running;
	bool wanted; /* a bdev came during the pass */
	json_t *calls;
	size_t next;
	size_t made;
	uint64_t spent_ns;
	bool inside;
	bool answered;
} r;

static void go(void);

static void begin(struct timer *timer);

static void
want(void)
{
	uint64_t pause_us = PAUSES * r.spent_ns / NS_PER_US;

	if (r.running) {
		r.wanted = true;
	} else if (!r.armed && state_hopeful_count(r.state) > 0) {
		r.armed = timer_start(&r.timer, pause_us > PAUSE_US ? pause_us : PAUSE_US, begin) == 0;
	}
}

static void
on_notice(struct notice_watcher *w, const struct notice *notice)
{
	if (strcmp(notice->type, "bdev_register") == 0) {
		want();
	}
}

static void
begin(struct timer *timer)
{
	r.armed = false;
	r.running = true;
	r.wanted = false;
	r.calls = state_hopeful_calls(r.state);
	r.next = r.made = 0;
	r.spent_ns = 0;
	go();
}

static void
end(void)
{
	json_decref(r.calls);
	r.calls = NULL;
	r.running = false;
	if (r.state != NULL && (r.wanted || r.made > 0)) {
		want();
	}
}

static void
answered(void *ctx, const json_t *result, const json_t *error)
{
	const json_t *call = json_array_get(r.calls, r.next++);

	if (error == NULL && r.state != NULL) {
		state_call_regained(r.state, call);
		r.made++;
	}
	r.answered = true;
	if (!r.inside) {
		go();
	}
}

static void
go_on(struct msg *msg)
{
	go();
}

/* False: its answer comes later. */
static bool
try_next(void)
{
	const json_t *call = json_array_get(r.calls, r.next);

	/* Deleted, or made anew, meanwhile. */
	if (!state_call_is_lost(call)) {
		r.next++;
		return true;
	}
	r.inside = true;
	r.answered = false;
	rpc_call(json_string_value(json_object_get(call, "method")), json_object_get(call, "params"), false, answered, NULL);
	r.inside = false;
	return r.answered;
}

static void
go(void)
{
	size_t count = json_array_size(r.calls);
	uint64_t start_ns = clock_now_ns();
	bool more = true;

	for (unsigned n = 0; more && r.state != NULL && r.next < count && n < SLICE; n++) {
		more = try_next();
	}
	r.spent_ns += clock_now_ns() - start_ns;
	if (!more) {
		return;
	}
	if (r.state == NULL || r.next >= count) {
		end();
	} else {
		thread_send(thread_self(), &r.msg, go_on);
	}
}

void
regain_start(struct state *state)
{
	r.state = state;
	notice_watch(&r.watcher, on_notice);
}

void
regain_stop(void)
{
	if (r.state != NULL) {
		notice_unwatch(&r.watcher);
		timer_stop(&r.timer);
		r.armed = false;
		r.state = NULL;
	}
}
