/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The registry of methods, and the life of one call: found, allowed in this state, decoded, handled, recorded, answered.
 *
 * Invariants
 *  1. A call is answered exactly once; its memory ends with the answer.
 *  2. A change is recorded before its answer is given; what cannot be recorded is answered with an error.
 *  3. The schema says which methods exist; the registry says which of them have a handler here.
 *
 * Everything on the app thread.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "rpc/conn.h"
#include "rpc/decode.h"
#include "rpc/internal.h"
#include "rpc/rpc.h"
#include "rpc/schema.h"

#define REQUEST_MAGIC 0x52504351u
#define METHODS_MAX 512

struct rpc_request {
	uint32_t magic;
	bool record;
	const struct rpc_schema *schema;
	json_t *params;   /* what the decoded structure borrows from; may be NULL */
	const char *recorded_method; /* NULL: nothing */
	json_t *recorded; /* NULL: params */
	void (*done)(void *ctx, const struct rpc_outcome *outcome);
	void *ctx;
	_Alignas(16) uint8_t decoded[];
};

struct registered {
	const struct rpc_schema *schema;
	const struct rpc_method *method;
};

static struct registered registry[METHODS_MAX];
static size_t registered_count;
static enum rpc_state state = RPC_RUNTIME;
static struct conn *calling; /* whose request a handler is being called for */
static rpc_record_fn record_fn;
static void *record_ctx;

/* ---- Registry and state ---- */

void
rpc_register(const struct rpc_method *table)
{
	for (; table->name != NULL; table++) {
		const struct rpc_schema *schema = rpc_schema_find(table->name);

		CHECK(schema != NULL && strcmp(schema->name, table->name) == 0);
		CHECK(registered_count < METHODS_MAX);
		registry[registered_count++] = (struct registered){schema, table};
	}
}

static const struct rpc_method *
find_method(const struct rpc_schema *schema)
{
	for (size_t i = 0; i < registered_count; i++) {
		if (registry[i].schema == schema) {
			return registry[i].method;
		}
	}
	return NULL;
}

void
rpc_set_state(enum rpc_state new_state)
{
	state = new_state;
}

enum rpc_state
rpc_get_state(void)
{
	return state;
}

void
rpc_set_record(rpc_record_fn record, void *ctx)
{
	record_fn = record;
	record_ctx = ctx;
}

json_t *
rpc_method_names(bool current_only, bool include_aliases)
{
	json_t *names = json_array();

	for (size_t i = 0; i < registered_count; i++) {
		const struct rpc_schema *schema = registry[i].schema;

		if (current_only && (schema->states & state) == 0) {
			continue;
		}
		json_array_append_new(names, json_string(schema->name));
		for (const char *const *a = schema->aliases; include_aliases && *a != NULL; a++) {
			json_array_append_new(names, json_string(*a));
		}
	}
	return names;
}

/* ---- Answers ---- */

/* Texts may hold bytes that came from outside and are no UTF-8, or end in the middle of a character. */
json_t *
rpc_text_json(const char *text)
{
	json_t *json = json_string(text);
	char clean[ERR_TEXT_BYTES];
	size_t i;

	if (json != NULL) {
		return json;
	}
	for (i = 0; text[i] != '\0' && i < sizeof(clean) - 1; i++) {
		clean[i] = (unsigned char)text[i] < 0x80 ? text[i] : '?';
	}
	clean[i] = '\0';
	return json_string(clean);
}

json_t *
rpc_error_json(int code, const char *text)
{
	json_t *error = json_object();

	json_object_set_new(error, "code", json_integer(code));
	json_object_set_new(error, "message", rpc_text_json(text));
	return error;
}

static void
request_free(struct rpc_request *req)
{
	rpc_decode_release(req->schema, req->decoded);
	json_decref(req->params);
	json_decref(req->recorded);
	req->magic = 0;
	free(req);
}

static void
answer(struct rpc_request *req, const struct rpc_outcome *outcome)
{
	void (*done)(void *ctx, const struct rpc_outcome *outcome) = req->done;
	void *ctx = req->ctx;

	request_free(req);
	done(ctx, outcome);
}

static int
record_change(struct rpc_request *req, struct err *err)
{
	json_t *empty = NULL;
	const json_t *params = req->recorded != NULL ? req->recorded : req->params;
	int rc;

	if (!req->record || !req->schema->mutates || req->recorded_method == NULL || record_fn == NULL) {
		return 0;
	}
	if (params == NULL) {
		params = empty = json_object();
	}
	rc = record_fn(record_ctx, req->recorded_method, params, err);
	json_decref(empty);
	return rc;
}

void
rpc_result(struct rpc_request *req, json_t *result)
{
	struct err err = ERR_NONE;
	int rc;

	MAGIC_OBJ(req, REQUEST_MAGIC);
	if (result == NULL) {
		rpc_error(req, -ENOMEM, "%s: out of memory for the answer", req->schema->name);
		return;
	}
	rc = record_change(req, &err);
	if (rc < 0) {
		LOG_ERROR(RPC, req->schema->name, "done, but cannot be kept over a restart: %s", err_text(&err));
		json_decref(result);
		rpc_error(req, rc, "%s: done, but cannot be kept over a restart: %s", req->schema->name,
			  err_text(&err));
		return;
	}
	answer(req, &(struct rpc_outcome){.result = result});
	json_decref(result);
}

void
rpc_result_text(struct rpc_request *req, const struct rpc_text *text)
{
	MAGIC_OBJ(req, REQUEST_MAGIC);
	CHECK(!req->schema->mutates);
	answer(req, &(struct rpc_outcome){.text = text});
}

void
rpc_true(struct rpc_request *req)
{
	rpc_result(req, json_true());
}

static void
answer_error(struct rpc_request *req, int code, const char *text)
{
	json_t *error = rpc_error_json(code, text);

	MAGIC_OBJ(req, REQUEST_MAGIC);
	answer(req, &(struct rpc_outcome){.error = error});
	json_decref(error);
}

void
rpc_error(struct rpc_request *req, int code, const char *fmt, ...)
{
	char text[ERR_TEXT_BYTES];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	answer_error(req, code, text);
}

void
rpc_error_from(struct rpc_request *req, int code, const struct err *err)
{
	struct err told = *err;

	descriptors_explain(&told);
	answer_error(req, code != 0 ? code : err->code, err_text(&told));
}

const json_t *
rpc_request_params(const struct rpc_request *req)
{
	MAGIC_OBJ(req, REQUEST_MAGIC);
	return req->params;
}

void
rpc_set_recorded_call(struct rpc_request *req, const char *method, json_t *params)
{
	MAGIC_OBJ(req, REQUEST_MAGIC);
	CHECK(req->schema->mutates);
	json_decref(req->recorded);
	req->recorded_method = method;
	req->recorded = params;
}

bool
rpc_is_replayed(const struct rpc_request *req)
{
	return !req->record;
}

void
rpc_set_recorded_params(struct rpc_request *req, json_t *params)
{
	rpc_set_recorded_call(req, req->schema->name, params);
}

/* ---- Calls ---- */

static void refuse(int code, void (*done)(void *ctx, const struct rpc_outcome *outcome), void *ctx, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static void
refuse(int code, void (*done)(void *ctx, const struct rpc_outcome *outcome), void *ctx, const char *fmt, ...)
{
	char text[ERR_TEXT_BYTES];
	json_t *error;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	error = rpc_error_json(code, text);
	done(ctx, &(struct rpc_outcome){.error = error});
	json_decref(error);
}

void
rpc_start_call(const char *method, const json_t *params, bool record, struct conn *client,
	       void (*done)(void *ctx, const struct rpc_outcome *outcome), void *ctx)
{
	const struct rpc_schema *schema = rpc_schema_find(method);
	const struct rpc_method *found = schema != NULL ? find_method(schema) : NULL;
	struct err err = ERR_NONE;
	struct rpc_request *req;
	struct conn *before;
	int code;

	if (found == NULL) {
		refuse(RPC_ERROR_METHOD_NOT_FOUND, done, ctx, "there is no method '%.128s'", method);
		return;
	}
	if ((schema->states & state) == 0) {
		refuse(RPC_ERROR_STATE, done, ctx,
		       state == RPC_STARTUP ?
			       "%s may be called only once the framework runs: call framework_start_init first" :
			       "%s may be called only before the framework runs: start berthd with --wait-for-rpc, "
			       "call it, then framework_start_init",
		       schema->name);
		return;
	}
	req = calloc(1, sizeof(*req) + schema->params_bytes);
	if (req == NULL) {
		refuse(-ENOMEM, done, ctx, "%s: out of memory", schema->name);
		return;
	}
	req->magic = REQUEST_MAGIC;
	req->schema = schema;
	req->recorded_method = schema->name;
	req->record = record;
	req->params = json_incref((json_t *)params);
	req->done = done;
	req->ctx = ctx;
	code = rpc_decode(schema, params, req->decoded, &err);
	if (code != 0) {
		rpc_error(req, code, "%s", err_text(&err));
		return;
	}
	before = calling;
	calling = client;
	found->handler(req, req->decoded);
	calling = before;
}

/* ---- Events ---- */

int
rpc_subscribe(uint64_t types)
{
	if (calling == NULL) {
		return -ENOTSUP;
	}
	conn_subscribe(calling, types);
	return 0;
}

uint64_t
rpc_subscribed(void)
{
	return conn_subscribed();
}

void
rpc_push(uint64_t type, json_t *params)
{
	struct rpc_text t = {0};
	size_t len;
	char *text;

	rpc_text_add_string(&t, "{\"jsonrpc\":\"2.0\",\"method\":\"" RPC_EVENT_METHOD "\",\"params\":");
	rpc_text_add_json(&t, params);
	rpc_text_add_string(&t, "}\n");
	json_decref(params);
	text = rpc_text_take(&t, &len);
	if (text != NULL) {
		conn_push(type, text, len);
	} else {
		LOG_ERROR(RPC, "", "out of memory for an event");
	}
	free(text);
}

/* ---- Calls from inside the process ---- */

struct inside_call {
	void (*done)(void *ctx, const json_t *result, const json_t *error);
	void *ctx;
};

static void
inside_done(void *ctx, const struct rpc_outcome *outcome)
{
	struct inside_call call = *(struct inside_call *)ctx;
	json_t *parsed = NULL;

	free(ctx);
	if (outcome->text != NULL) {
		parsed = json_loadb(outcome->text->data, outcome->text->bytes, JSON_DECODE_ANY, NULL);
	}
	call.done(call.ctx, parsed != NULL ? parsed : outcome->result, outcome->error);
	json_decref(parsed);
}

void
rpc_call(const char *method, const json_t *params, bool record,
	 void (*done)(void *ctx, const json_t *result, const json_t *error), void *ctx)
{
	struct inside_call *call = malloc(sizeof(*call));
	json_t *error;

	if (call != NULL) {
		*call = (struct inside_call){done, ctx};
		rpc_start_call(method, params, record, NULL, inside_done, call);
		return;
	}
	error = rpc_error_json(-ENOMEM, "out of memory");
	done(ctx, NULL, error);
	json_decref(error);
}
