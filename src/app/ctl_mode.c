/* SPDX-License-Identifier: BSD-3-Clause */
/* berth mode: how the reactors wait, shown and changed while they work. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "app/ctl.h"

static bool
lost_its_cpu(const json_t *details)
{
	const char *state = json_string_value(json_object_get(details, "cpu_state"));

	return state != NULL && (strcmp(state, "offline") == 0 || strcmp(state, "moved") == 0);
}

static bool
is_poll(const json_t *details)
{
	const char *mode = json_string_value(json_object_get(details, "mode"));

	return mode != NULL && strcmp(mode, "poll") == 0;
}

const char *
ctl_reactor_mode(const json_t *details)
{
	return is_poll(details) && lost_its_cpu(details) ? "poll (as adaptive)"
							 : json_string_value(json_object_get(details, "mode"));
}

bool
ctl_reactor_polls(const json_t *details)
{
	return is_poll(details) && !lost_its_cpu(details);
}

static int
show(struct ctl *ctl)
{
	struct ctl_table table = {.columns = 4, .right = 0x9};
	json_t *result = NULL;
	const json_t *details, *r;
	size_t i;
	int rc = ctl_call(ctl, "mode", "framework_get_reactors", NULL, &result, NULL);

	if (rc != CTL_OK) {
		return rc;
	}
	details = json_object_get(result, "details");
	if (ctl->json) {
		ctl_print_json(details);
		json_decref(result);
		return CTL_OK;
	}
	ctl_table_row(&table, "REACTOR", "MODE", "CPU", "WAKEUPS");
	json_array_foreach(details, i, r) {
		const char *state = json_string_value(json_object_get(r, "cpu_state"));
		char lcore[24], cpu[48], wakeups[24];

		snprintf(lcore, sizeof(lcore), "%" JSON_INTEGER_FORMAT, json_integer_value(json_object_get(r, "lcore")));
		snprintf(cpu, sizeof(cpu), "%" JSON_INTEGER_FORMAT " (%s)", json_integer_value(json_object_get(r, "cpu")),
			 state != NULL ? state : "?");
		snprintf(wakeups, sizeof(wakeups), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(json_object_get(r, "wakeups")));
		ctl_table_row(&table, lcore, ctl_reactor_mode(r),
			      json_integer_value(json_object_get(r, "cpu")) < 0 ? "any" : cpu, wakeups);
	}
	ctl_table_print(&table);
	json_decref(result);
	return CTL_OK;
}

int
ctl_mode(struct ctl *ctl, int argc, char **argv)
{
	const struct rpc_schema *schema = rpc_schema_find("berth_set_mode");
	const char *core = NULL;
	struct err err = ERR_NONE;
	json_t *params, *value, *result = NULL;
	int rc;

	if (ctl_take_option(&argc, argv, "--core", &core) < 0) {
		return CTL_USAGE;
	}
	rc = ctl_check_arguments("mode", argc, argv, core != NULL, 1);
	if (rc != CTL_OK) {
		return rc;
	}
	if (argc == 1) {
		return show(ctl);
	}
	params = json_pack("{s:s}", "mode", argv[1]);
	if (core != NULL) {
		value = ctl_value(rpc_schema_param(schema, "lcore"), core, &err);
		if (value == NULL) {
			json_decref(params);
			return ctl_usage("mode", "--core: %s", err_text(&err));
		}
		json_object_set_new(params, "lcore", value);
	}
	rc = ctl_call(ctl, "mode", "berth_set_mode", params, &result, NULL);
	json_decref(result);
	return rc;
}
