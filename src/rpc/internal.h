/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef RPC_INTERNAL_H
#define RPC_INTERNAL_H

#include <jansson.h>
#include <stdbool.h>

#include "rpc/text.h"

struct conn;
struct rpc_request;

/* What a call came to: one of the three is not NULL. */
struct rpc_outcome {
	const json_t *result;
	const struct rpc_text *text; /* a result that is text already */
	const json_t *error;
};

/* rpc_call() for those who write the answer down: borrows the outcome during done. client: who may subscribe by it, NULL: nobody;
 * it is looked at during this call only. */
void rpc_start_call(const char *method, const json_t *params, bool record, struct conn *client,
		    void (*done)(void *ctx, const struct rpc_outcome *outcome), void *ctx);

/* Ends a request whose method changes nothing with a result that is text already; borrows it. */
void rpc_result_text(struct rpc_request *req, const struct rpc_text *text);

/* Gives up the lists that are being made (rpc.h): their requests end with an error. */
void rpc_lists_end(void);

/* How many lists were begun by rpc_list_end() and are not answered yet. */
unsigned rpc_lists_running(void);

/* A string of text that may hold bytes that are no UTF-8 (they become '?'). New reference. */
json_t *rpc_text_json(const char *text);

/* {"code": ..., "message": ...}; new reference. */
json_t *rpc_error_json(int code, const char *message);

#endif
