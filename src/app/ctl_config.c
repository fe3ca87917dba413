/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth config: the configuration of a running target, in the shape of SPDK's save_config.
 *
 * Loading makes the calls of the file in order, as SPDK's client does: those that the present state allows; in
 * the start-up state then framework_start_init and the rest. A call that only the start-up state allows is left
 * out, and named, when the target is past it. The first refused call ends it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/config_file.h"
#include "app/ctl.h"
#include "base/check.h"

/* ---- Saving ---- */

static int
get_config(struct ctl *ctl, const char *subsystem, json_t *subsystems)
{
	json_t *config = NULL;
	int rc = ctl_call(ctl, "config save", "framework_get_config", json_pack("{s:s}", "name", subsystem), &config,
			  NULL);

	if (rc == CTL_OK) {
		json_array_append_new(subsystems,
				      json_pack("{s:s,s:o}", "subsystem", subsystem, "config", config));
	}
	return rc;
}

static int
collect_config(struct ctl *ctl, json_t *subsystems)
{
	json_t *names = NULL, *entry;
	size_t i;
	int rc = ctl_call(ctl, "config save", "framework_get_subsystems", NULL, &names, NULL);

	json_array_foreach(names, i, entry) {
		const char *name = json_string_value(json_object_get(entry, "subsystem"));

		if (rc == CTL_OK && name != NULL) {
			rc = get_config(ctl, name, subsystems);
		}
	}
	json_decref(names);
	return rc;
}

/* All or nothing: a file that is there is replaced once the new one is on disk. */
static int
write_file(const char *path, const char *text)
{
	size_t len = strlen(text);
	char *tmp = NULL;
	int fd, rc = -1;

	if (asprintf(&tmp, "%s.XXXXXX", path) < 0) {
		return -ENOMEM;
	}
	fd = mkostemp(tmp, O_CLOEXEC);
	if (fd >= 0) {
		while (len > 0) {
			ssize_t n = write(fd, text, len);

			if (n < 0 && errno != EINTR) {
				break;
			}
			text += MAX(n, 0);
			len -= (size_t)MAX(n, 0);
		}
		rc = len == 0 && fsync(fd) == 0 && rename(tmp, path) == 0 ? 0 : -errno;
		close(fd);
		if (rc != 0) {
			unlink(tmp);
		}
	} else {
		rc = -errno;
	}
	free(tmp);
	return rc;
}

static int
config_save(struct ctl *ctl, int argc, char **argv)
{
	json_t *root = json_pack("{s:[]}", "subsystems");
	const char *path = argc > 1 ? argv[1] : "-";
	int rc = ctl_check_arguments("config save", argc, argv, 0, 1);
	char *text = NULL;

	if (rc == CTL_OK) {
		rc = collect_config(ctl, json_object_get(root, "subsystems"));
	}
	if (rc == CTL_OK && strcmp(path, "-") == 0) {
		ctl_print_json(root);
	} else if (rc == CTL_OK) {
		char *json = json_dumps(root, JSON_INDENT(2));

		rc = json != NULL && asprintf(&text, "%s\n", json) >= 0 ? write_file(path, text) : -ENOMEM;
		free(json);
		if (rc != 0) {
			fprintf(stderr, "berth config save: cannot write %s: %s\n", path, strerror(-rc));
			rc = CTL_BROKEN;
		}
	}
	free(text);
	json_decref(root);
	return rc;
}

/* ---- Loading ---- */

/* *ret_names: object of the methods that may be called, now or at all. */
static int
get_methods(struct ctl *ctl, bool current, json_t **ret_names)
{
	json_t *list = NULL, *names, *name;
	size_t i;
	int rc = ctl_call(ctl, "config load", "rpc_get_methods",
			  json_pack("{s:b,s:b}", "current", current, "include_aliases", true), &list, NULL);

	if (rc != CTL_OK) {
		return rc;
	}
	names = json_object();
	json_array_foreach(list, i, name) {
		if (json_is_string(name)) {
			json_object_set_new(names, json_string_value(name), json_true());
		}
	}
	json_decref(list);
	*ret_names = names;
	return CTL_OK;
}

static const char *
method_of(const json_t *call)
{
	return json_string_value(json_object_get(call, "method"));
}

static const char *
where_of(const json_t *call)
{
	return json_string_value(json_object_get(call, "where"));
}

/* Before anything is changed: every method must exist. With skip those that do not are left out. */
static int
check_methods(struct ctl *ctl, const char *path, bool skip, json_t *calls)
{
	json_t *names = NULL;
	int rc = get_methods(ctl, false, &names);

	for (size_t i = 0; rc == CTL_OK && i < json_array_size(calls);) {
		const json_t *call = json_array_get(calls, i);

		if (json_object_get(names, method_of(call)) != NULL) {
			i++;
			continue;
		}
		fprintf(stderr, "berth config load: %s: %s: there is no method %s%s\n", path, where_of(call),
			method_of(call), skip ? "; left out" : " (--skip-unknown leaves such calls out)");
		if (skip) {
			json_array_remove(calls, i);
		} else {
			rc = CTL_USAGE;
		}
	}
	json_decref(names);
	return rc;
}

/* Makes the calls that the present state allows, and takes them out. */
static int
make_calls(struct ctl *ctl, const char *path, json_t *calls, bool *ret_startup)
{
	json_t *names = NULL;
	int rc = get_methods(ctl, true, &names);

	*ret_startup = json_object_get(names, "framework_start_init") != NULL;
	for (size_t i = 0; rc == CTL_OK && i < json_array_size(calls);) {
		json_t *call = json_array_get(calls, i);
		json_t *result = NULL;
		char context[512];

		if (json_object_get(names, method_of(call)) == NULL) {
			i++;
			continue;
		}
		snprintf(context, sizeof(context), "config load: %s: %s", path, where_of(call));
		rc = ctl_call(ctl, context, method_of(call), json_incref(json_object_get(call, "params")), &result, NULL);
		json_decref(result);
		json_array_remove(calls, i);
	}
	json_decref(names);
	return rc;
}

static int
load_calls(struct ctl *ctl, const char *path, json_t *calls)
{
	bool startup = false;
	int rc = make_calls(ctl, path, calls, &startup);
	const json_t *call;
	size_t i;

	if (rc == CTL_OK && startup) {
		json_t *result = NULL;

		rc = ctl_call(ctl, "config load", "framework_start_init", NULL, &result, NULL);
		json_decref(result);
		if (rc == CTL_OK) {
			rc = make_calls(ctl, path, calls, &startup);
		}
	}
	json_array_foreach(calls, i, call) {
		if (rc == CTL_OK) {
			fprintf(stderr, "berth config load: %s: %s: %s may only be called before the framework runs; left out\n",
				path, where_of(call), method_of(call));
		}
	}
	return rc;
}

static int
config_load(struct ctl *ctl, int argc, char **argv)
{
	bool skip = ctl_take_option(&argc, argv, "--skip-unknown", NULL) == 1;
	struct err err = ERR_NONE;
	json_t *calls = NULL;
	const char *path;
	int rc = ctl_check_arguments("config load", argc, argv, 1, 1);

	if (rc != CTL_OK) {
		return rc;
	}
	path = strcmp(argv[1], "-") == 0 ? "/dev/stdin" : argv[1];
	if (config_file_read(path, &calls, &err) != 0) {
		fprintf(stderr, "berth config load: %s\n", err_text(&err));
		return CTL_USAGE;
	}
	rc = check_methods(ctl, path, skip, calls);
	if (rc == CTL_OK) {
		rc = load_calls(ctl, path, calls);
	}
	json_decref(calls);
	return rc;
}

int
ctl_config(struct ctl *ctl, int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "save") == 0) {
		return config_save(ctl, argc - 1, argv + 1);
	}
	if (argc > 1 && strcmp(argv[1], "load") == 0) {
		return config_load(ctl, argc - 1, argv + 1);
	}
	return argc > 1 ? ctl_usage("config", "there is no action '%s'", argv[1]) :
			  ctl_usage("config", "what? save or load");
}
