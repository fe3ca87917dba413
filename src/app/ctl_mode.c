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

/* Of the details those of one reactor: new reference, NULL when there is none. */
static json_t *
only(const json_t *details, json_int_t lcore)
{
	json_t *one;
	size_t i;

	json_array_foreach((json_t *)details, i, one) {
		if (json_integer_value(json_object_get(one, "lcore")) == lcore) {
			return json_pack("[O]", one);
		}
	}
	return NULL;
}

/* core NULL: all reactors. */
static int
show(struct ctl *ctl, const json_t *core)
{
	struct ctl_table table = {.columns = 4, .right = 0x9};
	json_t *result = NULL;
	json_t *details;
	const json_t *r;
	size_t i;
	int rc = ctl_call(ctl, "mode", "framework_get_reactors", NULL, &result, NULL);

	if (rc != CTL_OK) {
		return rc;
	}
	details = json_object_get(result, "details");
	details = core != NULL ? only(details, json_integer_value(core)) : json_incref(details);
	json_decref(result);
	if (core != NULL && details == NULL) {
		fprintf(stderr, "berth mode: there is no reactor %" JSON_INTEGER_FORMAT "\n", json_integer_value(core));
		return CTL_REFUSED;
	}
	if (ctl->json) {
		ctl_print_json(details);
		json_decref(details);
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
	json_decref(details);
	return CTL_OK;
}

static int
change(struct ctl *ctl, const char *mode, json_t *core)
{
	json_t *params = json_pack("{s:s, s:O*}", "mode", mode, "lcore", core), *result = NULL;
	int rc;

	if (params == NULL) {
		return ctl_usage("mode", "the mode is no UTF-8");
	}
	rc = ctl_call(ctl, "mode", "berth_set_mode", params, &result, NULL);
	json_decref(result);
	return rc;
}

int
ctl_mode(struct ctl *ctl, int argc, char **argv)
{
	const char *text = NULL;
	struct err err = ERR_NONE;
	json_t *core = NULL;
	int rc;

	if (ctl_take_option(&argc, argv, "--core", &text) < 0) {
		return CTL_USAGE;
	}
	rc = ctl_check_arguments("mode", argc, argv, 0, 1);
	if (rc != CTL_OK) {
		return rc;
	}
	if (text != NULL) {
		core = ctl_value(rpc_schema_param(rpc_schema_find("berth_set_mode"), "lcore"), text, &err);
		if (core == NULL) {
			return ctl_usage("mode", "--core is '%s', but must be the number of a reactor, such as 0", text);
		}
	}
	rc = argc == 1 ? show(ctl, core) : change(ctl, argv[1], core);
	json_decref(core);
	return rc;
}
