/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests and batches of JSON-RPC 2.0.
 *
 * Invariants
 *  1. Exactly one answer for each request with an id, none for one without; an array of answers for a batch, in
 *     the order of its requests; nothing when a batch has only notifications.
 *  2. The requests of a batch run one after another, so that a later one may use what an earlier one made.
 *  3. An exchange that is dropped lives until the call under way has answered, or its message has come.
 *  4. A batch gives way to other work of its thread after RPC_SLICE_NS.
 */
#include "rpc/exchange.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/err.h"
#include "rpc/internal.h"
#include "rpc/rpc.h"

static void run(struct rpc_exchange *x);

/* ---- Ending ---- */

static void
finish(struct rpc_exchange *x)
{
	char *text = NULL;
	size_t len = 0;

	if (x->text.bytes > 0 || x->text.failed) {
		if (x->batch != NULL) {
			rpc_text_add_string(&x->text, "]");
		}
		rpc_text_add_string(&x->text, "\n");
		text = rpc_text_take(&x->text, &len);
		x->broken |= text == NULL;
	}
	if (x->dropped) {
		free(text);
	} else {
		x->done(x, text, len);
	}
	json_decref(x->batch);
	json_decref(x->id);
	free(x);
}

/* ---- Answers ---- */

/* Members in the order in which SPDK writes them. */
static void
add_answer(struct rpc_text *t, const json_t *id, const struct rpc_outcome *outcome)
{
	rpc_text_add_string(t, "{\"jsonrpc\":\"2.0\",\"id\":");
	rpc_text_add_json(t, id);
	rpc_text_add_string(t, outcome->error != NULL ? ",\"error\":" : ",\"result\":");
	if (outcome->text != NULL) {
		rpc_text_add(t, outcome->text->data, outcome->text->bytes);
	} else {
		rpc_text_add_json(t, outcome->error != NULL ? outcome->error : outcome->result);
	}
	rpc_text_add_string(t, "}");
}

static void
add_error(struct rpc_text *t, int code, const char *message, const json_t *id)
{
	json_t *error = rpc_error_json(code, message);

	add_answer(t, id, &(struct rpc_outcome){.error = error});
	json_decref(error);
}

char *
rpc_exchange_error_text(int code, const char *message)
{
	struct rpc_text t = {0};
	size_t len;

	add_error(&t, code, message, json_null());
	rpc_text_add(&t, "\n", 2); /* and the zero byte */
	return rpc_text_take(&t, &len);
}

/* The next answer of a batch begins. */
static void
separate(struct rpc_exchange *x)
{
	if (x->batch != NULL) {
		rpc_text_add_string(&x->text, x->text.bytes == 0 ? "[" : ",");
	}
}

/* The request under way has its answer in x->text, or gets none. */
static void
go_on(struct rpc_exchange *x)
{
	json_decref(x->id);
	x->id = NULL;
	x->waiting = x->listing = false;
	if (x->batch == NULL) {
		finish(x);
	} else if (!x->looping) {
		run(x);
	}
}

static void
call_done(void *ctx, const struct rpc_outcome *outcome)
{
	struct rpc_exchange *x = ctx;

	CHECK(x->waiting);
	if (x->id != NULL && !x->dropped) {
		separate(x);
		if (outcome->text != NULL && outcome->text->bytes > RPC_ANSWER_MAX_BYTES) {
			add_error(&x->text, RPC_ERROR_INTERNAL, "the answer is longer than 64 MiB: ask for one by its name",
				  x->id);
		} else {
			add_answer(&x->text, x->id, outcome);
		}
	}
	go_on(x);
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
	unsigned lists = rpc_lists_running();
	char text[ERR_TEXT_BYTES];
	const char *fault = find_fault(request, text);
	json_t *id = json_object_get(request, "id");
	json_t *params = json_object_get(request, "params");

	x->waiting = true;
	if (fault != NULL) {
		bool usable = json_is_string(id) || json_is_number(id);

		separate(x);
		add_error(&x->text, RPC_ERROR_INVALID_REQUEST, fault, usable ? id : json_null());
		go_on(x);
		return;
	}
	x->id = json_incref(id);
	rpc_start_call(json_string_value(json_object_get(request, "method")), json_is_null(params) ? NULL : params, true,
		       x->client, call_done, x);
	/* An exchange that is over may be gone; one that waits for a list is not. */
	if (rpc_lists_running() > lists) {
		x->listing = true;
	}
}

/* The answers are too long as a whole: one error in their place. What was carried out stays. */
static void
give_up_batch(struct rpc_exchange *x, size_t left)
{
	char text[ERR_TEXT_BYTES];

	snprintf(text, sizeof(text),
		 "the batch's answers are longer than 64 MiB; its last %zu requests were not carried out", left);
	rpc_text_release(&x->text);
	x->text = (struct rpc_text){0};
	json_decref(x->batch);
	x->batch = NULL;
	add_error(&x->text, RPC_ERROR_INTERNAL, text, json_null());
	finish(x);
}

static void
run_again(struct msg *msg)
{
	run(CONTAINER_OF(msg, struct rpc_exchange, msg));
}

/* Starts the requests of a batch until one is not answered at once, or other work should have its turn. */
static void
run(struct rpc_exchange *x)
{
	uint64_t end_ns = thread_self() != NULL ? clock_now_ns() + RPC_SLICE_NS : UINT64_MAX;
	size_t count = json_array_size(x->batch);

	x->looping = true;
	while (x->next < count && !x->waiting && !x->dropped && x->text.bytes <= RPC_ANSWER_MAX_BYTES &&
	       clock_now_ns() < end_ns) {
		start_request(x, json_array_get(x->batch, x->next++));
	}
	x->looping = false;
	if (x->waiting) {
		return;
	}
	if (x->text.bytes > RPC_ANSWER_MAX_BYTES && !x->dropped) {
		give_up_batch(x, count - x->next);
	} else if (x->next < count && !x->dropped) {
		thread_send(thread_self(), &x->msg, run_again);
	} else {
		finish(x);
	}
}

static void
start_batch(struct rpc_exchange *x, json_t *batch)
{
	size_t count = json_array_size(batch);

	if (count >= 1 && count <= RPC_BATCH_MAX) {
		x->batch = json_incref(batch);
		run(x);
		return;
	}
	add_error(&x->text, RPC_ERROR_INVALID_REQUEST,
		  count == 0 ? "the batch is empty" : "the batch has more than 4096 requests", json_null());
	finish(x);
}

/*
 * JSON may say more than is understood here: integers beyond 63 bits, zero characters in strings. Where it ends is known all the
 * same, so that only this message is refused: as that of its id, if that can be read.
 */
static bool
is_beyond_us(const json_error_t *fault)
{
	enum json_error_code code = json_error_code(fault);

	return code == json_error_numeric_overflow || code == json_error_null_character ||
	       code == json_error_null_byte_in_key;
}

/* New reference. Integers were read as reals. */
static json_t *
id_of(const json_t *message)
{
	json_t *id = json_object_get(message, "id");
	double number = json_real_value(id);

	if (json_is_real(id) && number >= 0 && number <= INT32_MAX) {
		return json_integer((int32_t)number);
	}
	return json_is_string(id) ? json_incref(id) : json_null();
}

static void
refuse_text(struct rpc_exchange *x, const char *data, size_t len, const json_error_t *fault)
{
	int code = RPC_ERROR_PARSE;
	json_t *message = NULL, *id = NULL;

	if (is_beyond_us(fault)) {
		code = RPC_ERROR_INVALID_REQUEST;
		message = json_loadb(data, len, JSON_DECODE_INT_AS_REAL | JSON_ALLOW_NUL, NULL);
		id = id_of(message);
	} else {
		x->broken = true;
	}
	add_error(&x->text, code, fault->text, id != NULL ? id : json_null());
	json_decref(message);
	json_decref(id);
	finish(x);
}

void
rpc_exchange_start(struct rpc_exchange *x, const char *data, size_t len)
{
	json_error_t fault;
	json_t *message = json_loadb(data, len, JSON_REJECT_DUPLICATES, &fault);

	if (message == NULL) {
		refuse_text(x, data, len, &fault);
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
