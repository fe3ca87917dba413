/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The schema as data: what tools/gen_schema.py makes of schema.json. Read by the decoder, by the berth
 * command (types and help), and by whoever must know a method's state or whether it changes anything. Constant; any thread.
 */
#ifndef RPC_SCHEMA_H
#define RPC_SCHEMA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rpc/rpc.h"

enum rpc_type {
	RPC_TYPE_BOOL,    /* bool */
	RPC_TYPE_UINT32,  /* uint32_t */
	RPC_TYPE_UINT64,  /* uint64_t, at most INT64_MAX */
	RPC_TYPE_INT64,   /* int64_t */
	RPC_TYPE_STRING,  /* const char * */
	RPC_TYPE_ENUM,    /* const char *, spelt as in the schema */
	RPC_TYPE_UUID,    /* uuid_t */
	RPC_TYPE_STRINGS, /* struct rpc_strings */
	RPC_TYPE_OBJECT,  /* const json_t * */
	RPC_TYPE_JSON,    /* const json_t * */
};

struct rpc_param {
	const char *name;
	const char *doc;
	enum rpc_type type;
	bool required;
	bool neutral; /* only default_int is accepted; has no field */
	bool has_default;
	bool power_of_two;
	bool secret; /* may hold one: what was given is never shown */
	size_t offset;     /* of the field in the method's structure */
	size_t has_offset; /* of its bool has_..., for those that are not required */
	int64_t default_int;
	const char *default_text;
	int64_t min; /* numbers */
	int64_t max;
	int64_t multiple_of;       /* 0: any */
	const char *const *values; /* of an enum, ends with NULL */
};

struct rpc_schema {
	const char *name;
	const char *group;
	const char *summary;
	const char *doc; /* may be NULL */
	const char *result;
	const char *const *aliases; /* ends with NULL */
	unsigned states;            /* enum rpc_state, ored */
	bool mutates;
	int decode_error;
	int range_error;
	const struct rpc_param *params;
	size_t param_count;
	size_t params_bytes;
};

extern const struct rpc_schema rpc_schema_table[];
extern const size_t rpc_schema_count;

/* By name or alias; NULL when there is none. */
const struct rpc_schema *rpc_schema_find(const char *name);
const struct rpc_param *rpc_schema_param(const struct rpc_schema *schema, const char *name);

/* For people: "bool", "number", "string", "UUID", ... */
const char *rpc_type_name(enum rpc_type type);

#endif
