/* SPDX-License-Identifier: BSD-3-Clause */
#include "app/replay.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"
#include "rpc/rpc.h"
#include "rpc/schema.h"

/* Methods that do not exist belong to the second pass, which reports them. */
static bool
in_pass(const struct replay *r, const json_t *call)
{
	const struct rpc_schema *schema =
		rpc_schema_find(json_string_value(json_object_get(call, "method")));
	bool startup = schema != NULL && (schema->states & RPC_STARTUP) != 0;

	return startup == (r->pass == REPLAY_STARTUP);
}

static void go(struct replay *r);

static void
answered(void *ctx, const json_t *result, const json_t *error)
{
	struct replay *r = ctx;

	if (error != NULL) {
		const char *why = json_string_value(json_object_get(error, "message"));
		int rc = r->failed(r, r->next, why != NULL ? why : "unknown error");

		if (r->status == 0) {
			r->status = rc;
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
	while (r->status == 0 && r->next < json_array_size(r->calls)) {
		const json_t *call = json_array_get(r->calls, r->next);

		if (!in_pass(r, call)) {
			r->next++;
			continue;
		}
		r->inside = true;
		r->answered = false;
		rpc_call(json_string_value(json_object_get(call, "method")),
			 json_object_get(call, "params"), false, answered, r);
		r->inside = false;
		if (!r->answered) {
			return;
		}
	}
	r->done(r, r->status);
}

void
replay_run(struct replay *r, enum replay_pass pass)
{
	r->pass = pass;
	r->next = 0;
	r->status = 0;
	go(r);
}

void
replay_cancel(struct replay *r)
{
	r->status = -ECANCELED;
}
