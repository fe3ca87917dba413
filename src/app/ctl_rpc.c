/* SPDX-License-Identifier: BSD-3-Clause */
/* berth rpc: any method, its parameters typed by the schema. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/ctl.h"
#include "base/check.h"

/* ---- Help from the schema ---- */

static void
print_bounds(const struct rpc_param *p)
{
	if (p->type == RPC_TYPE_ENUM) {
		printf(" One of");
		for (const char *const *v = p->values; *v != NULL; v++) {
			printf("%s %s", v == p->values ? "" : ",", *v);
		}
		putchar('.');
	}
	if (p->neutral && p->type == RPC_TYPE_BOOL) {
		printf(" Only %s.", p->default_int != 0 ? "true" : "false");
	} else if (p->neutral) {
		printf(" Only %" PRId64 ".", p->default_int);
	}
	if (p->required) {
		printf(" Required.");
	} else if (p->has_default && p->default_text != NULL) {
		printf(" Default %s.", p->default_text);
	} else if (p->has_default && p->type == RPC_TYPE_BOOL) {
		printf(" Default %s.", p->default_int != 0 ? "true" : "false");
	} else if (p->has_default && p->default_int != INT64_MAX) {
		printf(" Default %" PRId64 ".", p->default_int);
	}
}

void
ctl_print_method(const struct rpc_schema *s)
{
	printf("usage: berth rpc %s", s->name);
	for (size_t i = 0; i < s->param_count; i++) {
		if (s->params[i].required) {
			printf(" %s=...", s->params[i].name);
		}
	}
	printf(" [key=value ...]\n\n%s.\n", s->summary);
	if (s->doc != NULL) {
		printf("%s\n", s->doc);
	}
	if (s->param_count > 0) {
		printf("\nParameters:\n");
	}
	for (size_t i = 0; i < s->param_count; i++) {
		const struct rpc_param *p = &s->params[i];

		printf("  %s (%s)\n      %s.", p->name, rpc_type_name(p->type), p->doc);
		print_bounds(p);
		putchar('\n');
	}
	printf("\nResult: %s\n", s->result);
}

static int
list_methods(void)
{
	const char *group = "";

	for (size_t i = 0; i < rpc_schema_count; i++) {
		const struct rpc_schema *s = &rpc_schema_table[i];

		if (strcmp(group, s->group) != 0) {
			printf("%s%s:\n", i == 0 ? "" : "\n", s->group);
			group = s->group;
		}
		printf("  %-32s %s\n", s->name, s->summary);
	}
	return CTL_OK;
}

/* ---- The call ---- */

/* Parameters from standard input where an argument is "-", then those of the command line. NULL: usage, printed. */
static json_t *
read_params(const struct rpc_schema *schema, const char *method, int argc, char **argv)
{
	struct err err = ERR_NONE;
	json_t *params = NULL;

	for (int i = 0; i < argc && params == NULL; i++) {
		json_error_t fault;

		if (strcmp(argv[i], "-") != 0) {
			continue;
		}
		params = json_loadf(stdin, JSON_REJECT_DUPLICATES, &fault);
		if (!json_is_object(params)) {
			fprintf(stderr, "berth rpc %s: standard input is no JSON object%s%s\n", method,
				params == NULL ? ": " : "", params == NULL ? fault.text : "");
			json_decref(params);
			return NULL;
		}
		memmove(argv + i, argv + i + 1, (size_t)(argc - i - 1) * sizeof(*argv));
		argc--;
	}
	if (params == NULL) {
		params = json_object();
	}
	if (ctl_key_values(schema, argc, argv, params, &err) != 0) {
		fprintf(stderr, "berth rpc %s: %s\n", method, err_text(&err));
		json_decref(params);
		return NULL;
	}
	return params;
}

static int
check_required(const struct rpc_schema *schema, const json_t *params)
{
	for (size_t i = 0; i < schema->param_count; i++) {
		const struct rpc_param *p = &schema->params[i];

		if (p->required && json_object_get(params, p->name) == NULL) {
			fprintf(stderr, "berth rpc %s: %s=... is missing; see berth rpc %s --help\n", schema->name, p->name,
				schema->name);
			return CTL_USAGE;
		}
	}
	return CTL_OK;
}

int
ctl_rpc(struct ctl *ctl, int argc, char **argv)
{
	const struct rpc_schema *schema;
	json_t *params, *result = NULL, *error = NULL;
	int rc;

	if (ctl_take_option(&argc, argv, "--list", NULL) == 1) {
		return list_methods();
	}
	if (argc < 2) {
		return ctl_usage("rpc", "which method? berth rpc --list shows them");
	}
	schema = rpc_schema_find(argv[1]);
	if (ctl->help) {
		if (schema == NULL) {
			return ctl_usage("rpc", "there is no method '%s'", argv[1]);
		}
		ctl_print_method(schema);
		return CTL_OK;
	}
	params = read_params(schema, argv[1], argc - 2, argv + 2);
	if (params == NULL) {
		return CTL_USAGE;
	}
	if (schema != NULL && check_required(schema, params) != CTL_OK) {
		json_decref(params);
		return CTL_USAGE;
	}
	rc = ctl_call(ctl, argv[1], argv[1], params, &result, &error);
	if (rc == CTL_OK) {
		ctl_print_json(result);
	} else if (error != NULL) {
		rc = ctl_refused(ctl, argv[1], error);
		/* Neither this program nor the target knows the method: the word is wrong. */
		if (schema == NULL && json_integer_value(json_object_get(error, "code")) == RPC_ERROR_METHOD_NOT_FOUND) {
			rc = CTL_USAGE;
		}
	}
	json_decref(result);
	json_decref(error);
	return rc;
}
