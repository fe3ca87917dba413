/* SPDX-License-Identifier: BSD-3-Clause */
/* Looking things up in the schema's table. */
#include "rpc/schema.h"

#include <string.h>

const struct rpc_schema *
rpc_schema_find(const char *name)
{
	for (size_t i = 0; i < rpc_schema_count; i++) {
		const struct rpc_schema *s = &rpc_schema_table[i];

		if (strcmp(s->name, name) == 0) {
			return s;
		}
		for (const char *const *alias = s->aliases; *alias != NULL; alias++) {
			if (strcmp(*alias, name) == 0) {
				return s;
			}
		}
	}
	return NULL;
}

const struct rpc_param *
rpc_schema_param(const struct rpc_schema *schema, const char *name)
{
	for (size_t i = 0; i < schema->param_count; i++) {
		if (strcmp(schema->params[i].name, name) == 0) {
			return &schema->params[i];
		}
	}
	return NULL;
}

const char *
rpc_type_name(enum rpc_type type)
{
	static const char *const names[] = {
		[RPC_TYPE_BOOL] = "bool",
		[RPC_TYPE_UINT32] = "number",
		[RPC_TYPE_UINT64] = "number",
		[RPC_TYPE_INT64] = "number",
		[RPC_TYPE_STRING] = "string",
		[RPC_TYPE_ENUM] = "string",
		[RPC_TYPE_UUID] = "UUID",
		[RPC_TYPE_STRINGS] = "array of strings",
		[RPC_TYPE_OBJECT] = "object",
		[RPC_TYPE_JSON] = "JSON value",
	};

	return names[type];
}
