/* SPDX-License-Identifier: BSD-3-Clause */
/* Methods on the log. */
#include "base/log.h"

#include <errno.h>

#include "base/check.h"
#include "methods/internal.h"
#include "rpc/schema_gen.h"

static void
set_level(struct rpc_request *req, const void *params)
{
	const struct log_set_level_params *p = params;
	enum log_level level;

	CHECK(log_level_parse(p->level, &level) == 0); /* the schema lists them */
	log_set_level(level);
	rpc_true(req);
}

static void
get_level(struct rpc_request *req, const void *params)
{
	rpc_result(req, json_string(log_level_name(log_get_level())));
}

static void
set_print_level(struct rpc_request *req, const void *params)
{
	const struct log_set_print_level_params *p = params;
	enum log_level level;

	CHECK(log_level_parse(p->level, &level) == 0);
	log_set_print_level(level);
	rpc_true(req);
}

static void
get_print_level(struct rpc_request *req, const void *params)
{
	rpc_result(req, json_string(log_level_name(log_get_print_level())));
}

static void
switch_flag(struct rpc_request *req, const char *flag, bool on)
{
	if (log_set_flag(flag, on) != 0) {
		rpc_error(req, RPC_ERROR_INVALID_PARAMS,
			  "invalid log flag '%.64s': log_get_flags lists them", flag);
	} else {
		rpc_true(req);
	}
}

static void
set_flag(struct rpc_request *req, const void *params)
{
	switch_flag(req, ((const struct log_set_flag_params *)params)->flag, true);
}

static void
clear_flag(struct rpc_request *req, const void *params)
{
	switch_flag(req, ((const struct log_clear_flag_params *)params)->flag, false);
}

static void
get_flags(struct rpc_request *req, const void *params)
{
	json_t *flags = json_object();

	for (int i = 0; i < LOG_FLAG_COUNT; i++) {
		json_object_set_new(flags, log_flag_name((enum log_flag)i),
				    json_boolean(log_get_flag((enum log_flag)i)));
	}
	rpc_result(req, flags);
}

static void
enable_timestamps(struct rpc_request *req, const void *params)
{
	log_set_timestamps(((const struct log_enable_timestamps_params *)params)->enabled);
	rpc_true(req);
}

const struct rpc_method log_methods[] = {
	{"log_set_level", set_level},
	{"log_get_level", get_level},
	{"log_set_print_level", set_print_level},
	{"log_get_print_level", get_print_level},
	{"log_set_flag", set_flag},
	{"log_clear_flag", clear_flag},
	{"log_get_flags", get_flags},
	{"log_enable_timestamps", enable_timestamps},
	{NULL, NULL},
};
