/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. todo[next..todo_count) are the calls of this round that are still to be made, todo[0..refused) those that were
 *     refused in it, in their order, with the reasons in why[].
 *  2. Another round follows only when this one had fewer refused calls than it had calls: rounds end.
 *  3. failed() is called once at most for a call, in the last round.
 */
#include "app/replay.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "bdev/bdev.h"
#include "rpc/rpc.h"
#include "rpc/schema.h"

static void go(struct replay *r);

static const json_t *
call_at(const struct replay *r, size_t i)
{
	return json_array_get(r->calls, r->todo[i]);
}

static const char *
method_at(const struct replay *r, size_t i)
{
	return json_string_value(json_object_get(call_at(r, i), "method"));
}

/* Methods that do not exist belong to the second pass, which reports them. */
static bool
in_pass(const struct replay *r, const json_t *call)
{
	const struct rpc_schema *schema = rpc_schema_find(json_string_value(json_object_get(call, "method")));
	bool startup = schema != NULL && (schema->states & RPC_STARTUP) != 0;

	return startup == (r->pass == REPLAY_STARTUP);
}

static void
forget_reasons(struct replay *r)
{
	for (size_t i = 0; i < r->refused; i++) {
		free(r->why[i]);
	}
	r->refused = 0;
}

static void
end(struct replay *r)
{
	forget_reasons(r);
	free(r->todo);
	free(r->why);
	r->todo = NULL;
	r->why = NULL;
	r->done(r, r->status);
}

/* ---- Rounds ---- */

static void
next_round(struct replay *r)
{
	r->round++;
	r->todo_count = r->refused;
	r->next = 0;
	forget_reasons(r);
	go(r);
}

static void
examined(void *ctx, const json_t *result, const json_t *error)
{
	next_round(ctx);
}

static void
report(struct replay *r)
{
	for (size_t i = 0; i < r->refused && r->status == 0; i++) {
		r->status = r->failed(r, r->todo[i], r->why[i] != NULL ? r->why[i] : "unknown error");
	}
}

/* True when bdevs are examined only now. */
static bool
let_examine(struct replay *r)
{
	bool held = r->holds_examination;

	r->holds_examination = false;
	if (held) {
		bdev_examine_release();
	}
	return held;
}

/* All calls of the round have been made. Who asks next finds what the examination finds, be it that nothing waits for it. */
static void
round_over(struct replay *r)
{
	bool examines = let_examine(r), helped = examines || r->refused < r->todo_count;

	if ((r->refused == 0 && !examines) || r->status != 0) {
		end(r);
	} else if (r->pass == REPLAY_RUNTIME && helped && r->round + 1 < REPLAY_ROUNDS_MAX) {
		rpc_call("bdev_wait_for_examine", NULL, false, examined, r);
	} else {
		report(r);
		end(r);
	}
}

/* ---- Calls ---- */

static void
answered(void *ctx, const json_t *result, const json_t *error)
{
	struct replay *r = ctx;

	if (error != NULL) {
		const char *why = json_string_value(json_object_get(error, "message"));

		r->todo[r->refused] = r->todo[r->next];
		r->why[r->refused++] = strdup(why != NULL ? why : "unknown error");
		if (!r->patient && r->status == 0) {
			report(r);
			forget_reasons(r);
		}
	}
	r->next++;
	r->answered = true;
	if (!r->inside) {
		go(r);
	}
}

/* Many answers come from inside rpc_call(): a loop, no recursion. */
static void
go(struct replay *r)
{
	while (r->status == 0 && r->next < r->todo_count) {
		r->inside = true;
		r->answered = false;
		rpc_call(method_at(r, r->next), json_object_get(call_at(r, r->next), "params"), false, answered, r);
		r->inside = false;
		if (!r->answered) {
			return;
		}
	}
	round_over(r);
}

void
replay_run(struct replay *r, enum replay_pass pass)
{
	size_t count = json_array_size(r->calls);

	r->pass = pass;
	r->round = 0;
	r->next = r->todo_count = r->refused = 0;
	r->status = 0;
	r->todo = calloc(count + 1, sizeof(*r->todo));
	r->why = calloc(count + 1, sizeof(*r->why));
	if (r->todo == NULL || r->why == NULL) {
		r->status = -ENOMEM;
		end(r);
		return;
	}
	for (size_t i = 0; i < count; i++) {
		if (in_pass(r, json_array_get(r->calls, i))) {
			r->todo[r->todo_count++] = i;
		}
	}
	r->holds_examination = r->patient && pass == REPLAY_RUNTIME;
	if (r->holds_examination) {
		bdev_examine_hold();
	}
	go(r);
}

void
replay_cancel(struct replay *r)
{
	r->status = -ECANCELED;
}
