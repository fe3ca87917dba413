/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef RPC_INTERNAL_H
#define RPC_INTERNAL_H

#include <jansson.h>

/* A string of text that may hold bytes that are no UTF-8 (they become '?'). New reference. */
json_t *rpc_text_json(const char *text);

/* {"code": ..., "message": ...}; new reference. */
json_t *rpc_error_json(int code, const char *message);

#endif
