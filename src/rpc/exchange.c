/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests and batches of JSON-RPC 2.0.
 *
 * Invariants
 *  1. Exactly one answer for each request with an id, none for one without; an array of answers for a batch, in
 *     the order of its requests; nothing when a batch has only notifications.
 *  2. The requests of a batch run one after another, so that a later one may use what an earlier one made.
 *  3. An exchange that is dropped lives until the call under way has answered.
 */
#include "rpc/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/err.h"
#include "rpc/internal.h"
#include "rpc/rpc.h"

static void run(struct rpc_exchange *x);

/* ---- Ending ---- */

static void
finish(struct rpc_exchange *x, const char *text)
{
	if (!x->dropped) {
		x->done(x, text, text != NULL ? strlen(text) : 0);
	}
	json_decref(x->batch);
	json_decref(x->answers);
	json_decref(x->id);
	free(x);
}

/* Dumps what is to be said, with a line feed; borrows json. */
static char *
dump(const json_t *json)
{
	char *text = json_dumps(json, JSON_COMPACT);
	size_t len = text != NULL ? strlen(text) : 0;
	char *line = text != NULL ? realloc(text, len + 2) : NULL;

	if (line == NULL) {
		free(text);
		return NULL;
	}
	memcpy(line + len, "\n", 2);
	return line;
}

static void
finish_json(struct rpc_exchange *x, const json_t *json)
{
	char *text = json != NULL ? dump(json) : NULL;

	finish(x, text);
	free(text);
}

/* ---- Answers ---- */

/* Borrows all. Members in the order in which SPDK writes them. */
static json_t *
make_answer(json_t *id, const json_t *result, const json_t *error)
{
	json_t *answer = json_object();

	json_object_set_new(answer, "jsonrpc", json_string("2.0"));
	json_object_set(answer, "id", id);
	json_object_set(answer, error != NULL ? "error" : "result", (json_t *)(error != NULL ? error : result));
	return answer;
}

static json_t *
make_error(int code, const char *message, json_t *id)
{
	json_t *error = rpc_error_json(code, message);
	json_t *answer = make_answer(id, NULL, error);

	json_decref(error);
	return answer;
}

char *
rpc_exchange_error_text(int code, const char *message)
{
	json_t *answer = make_error(code, message, json_null());
	char *text = dump(answer);

	json_decref(answer);
	return text;
}

/* Takes answer, which may be NULL for none. */
static void
give(struct rpc_exchange *x, json_t *answer)
{
	json_decref(x->id);
	x->id = NULL;
	x->waiting = false;
	if (x->batch == NULL) {
		finish_json(x, answer);
		json_decref(answer);
		return;
	}
	if (answer != NULL) {
		json_array_append_new(x->answers, answer);
	}
	if (!x->looping) {
		run(x);
	}
}

static void
call_done(void *ctx, const json_t *result, const json_t *error)
{
	struct rpc_exchange *x = ctx;

	CHECK(x->waiting);
	give(x, x->id != NULL ? make_answer(x->id, result, error) : NULL);
}

/* ---- Requests ---- */

/* What is wrong with the request, NULL when nothing is. */
static const char *
find_fault(const json_t *request, char text[static ERR_TEXT_BYTES])
{
	static const char *const members[] = {"jsonrpc", "method", "params", "id"};
	const json_t *version = json_object_get(request, "jsonrpc");
	const json_t *params = json_object_get(request, "params");
	const json_t *id = json_object_get(request, "id");
	const char *name;
	json_t *value;

	if (!json_is_object(request)) {
		return "a request must be an object";
	}
	json_object_foreach((json_t *)request, name, value) {
		size_t i = 0;

		while (i < ARRAY_SIZE(members) && strcmp(members[i], name) != 0) {
			i++;
		}
		if (i == ARRAY_SIZE(members)) {
			snprintf(text, ERR_TEXT_BYTES, "a request has no member '%.64s'", name);
			return text;
		}
	}
	/* SPDK lets the version be left out. */
	if (version != NULL && (!json_is_string(version) || strcmp(json_string_value(version), "2.0") != 0)) {
		return "member 'jsonrpc' must be \"2.0\"";
	}
	if (!json_is_string(json_object_get(request, "method"))) {
		return "member 'method' must be a string";
	}
	if (params != NULL && !json_is_object(params) && !json_is_array(params) && !json_is_null(params)) {
		return "member 'params' must be an object";
	}
	if (id != NULL && !json_is_string(id) && !json_is_number(id) && !json_is_null(id)) {
		return "member 'id' must be a string or a number";
	}
	return NULL;
}

static void
start_request(struct rpc_exchange *x, const json_t *request)
{
	char text[ERR_TEXT_BYTES];
	const char *fault = find_fault(request, text);
	json_t *id = json_object_get(request, "id");
	json_t *params = json_object_get(request, "params");

	x->waiting = true;
	if (fault != NULL) {
		bool usable = json_is_string(id) || json_is_number(id);

		give(x, make_error(RPC_ERROR_INVALID_REQUEST, fault, usable ? id : json_null()));
		return;
	}
	x->id = json_incref(id);
	rpc_call(json_string_value(json_object_get(request, "method")), json_is_null(params) ? NULL : params, true,
		 call_done, x);
}

/* Starts the requests of a batch until one is not answered at once. */
static void
run(struct rpc_exchange *x)
{
	size_t count = json_array_size(x->batch);

	x->looping = true;
	while (x->next < count && !x->waiting && !x->dropped) {
		start_request(x, json_array_get(x->batch, x->next++));
	}
	x->looping = false;
	if (!x->waiting) {
		finish_json(x, json_array_size(x->answers) > 0 ? x->answers : NULL);
	}
}

static void
start_batch(struct rpc_exchange *x, json_t *batch)
{
	size_t count = json_array_size(batch);
	json_t *fault;

	if (count >= 1 && count <= RPC_BATCH_MAX) {
		x->batch = json_incref(batch);
		x->answers = json_array();
		run(x);
		return;
	}
	fault = make_error(RPC_ERROR_INVALID_REQUEST,
			   count == 0 ? "the batch is empty" : "the batch has more than 4096 requests", json_null());
	finish_json(x, fault);
	json_decref(fault);
}

void
rpc_exchange_start(struct rpc_exchange *x, const char *data, size_t len)
{
	json_error_t fault;
	json_t *message = json_loadb(data, len, JSON_REJECT_DUPLICATES, &fault);

	if (message == NULL) {
		json_t *answer = make_error(RPC_ERROR_PARSE, fault.text, json_null());

		x->broken = true;
		finish_json(x, answer);
		json_decref(answer);
		return;
	}
	if (json_is_array(message)) {
		start_batch(x, message);
	} else {
		start_request(x, message);
	}
	json_decref(message);
}

void
rpc_exchange_drop(struct rpc_exchange *x)
{
	x->dropped = true;
}
