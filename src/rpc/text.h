/* SPDX-License-Identifier: BSD-3-Clause */
/* Text that grows at its end: what an answer is written into. */
#ifndef RPC_TEXT_H
#define RPC_TEXT_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

/* Zeroed: empty. */
struct rpc_text {
	char *data;
	size_t bytes;
	size_t room;
	bool failed; /* memory was out: what was added since is missing */
};

void rpc_text_add(struct rpc_text *t, const char *data, size_t bytes);
void rpc_text_add_string(struct rpc_text *t, const char *string);

/* Any value, compact. Borrows json; NULL counts as out of memory. */
void rpc_text_add_json(struct rpc_text *t, const json_t *json);

/* The text, for free(), or NULL when memory was out; t is empty afterwards. */
char *rpc_text_take(struct rpc_text *t, size_t *ret_bytes);

void rpc_text_release(struct rpc_text *t);

#endif
