/* SPDX-License-Identifier: BSD-3-Clause */
/* From the parameters of a request to a method's structure, by the schema. Pure; any thread. */
#ifndef RPC_DECODE_H
#define RPC_DECODE_H

#include <jansson.h>

#include "base/err.h"
#include "rpc/schema.h"

/*
 * out: schema->params_bytes zeroed bytes. params: NULL for none; strings and objects in out are borrowed from
 * it. 0, or the JSON-RPC code or negative errno to answer, with the reason in err->text; out is to
 * be released in both cases.
 */
int rpc_decode(const struct rpc_schema *schema, const json_t *params, void *out, struct err *err);
void rpc_decode_release(const struct rpc_schema *schema, void *out);

#endif
