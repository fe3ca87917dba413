/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth completion bash prints a function that asks `berth completion words WORD...` for the words that may come
 * next: WORD... are those typed so far, without "berth" and without the one being completed.
 */
#include <stdio.h>
#include <string.h>

#include "app/ctl.h"
#include "app/ctl_top.h"
#include "base/check.h"

static const char bash_script[] =
	"# bash completion of berth(1)\n"
	"_berth()\n"
	"{\n"
	"\tlocal word=${COMP_WORDS[COMP_CWORD]} words\n"
	"\twords=$(berth completion words \"${COMP_WORDS[@]:1:COMP_CWORD-1}\" 2>/dev/null)\n"
	"\tif [[ $words == '<file>' ]]; then\n"
	"\t\tCOMPREPLY=($(compgen -f -- \"$word\"))\n"
	"\t\treturn\n"
	"\tfi\n"
	"\tCOMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n"
	"\tif [[ ${#COMPREPLY[@]} == 1 && ${COMPREPLY[0]} == *= ]]; then\n"
	"\t\tcompopt -o nospace\n"
	"\tfi\n"
	"}\n"
	"complete -F _berth berth\n";

static void
method_words(void)
{
	for (size_t i = 0; i < rpc_schema_count; i++) {
		puts(rpc_schema_table[i].name);
	}
	puts("--list");
}

/* After `rpc METHOD ...`: bash splits at "=", so the word before says whether a value is wanted. */
static void
param_words(const struct rpc_schema *schema, int argc, char **argv)
{
	const struct rpc_param *p = NULL;

	if (argc > 1 && strcmp(argv[argc - 1], "=") == 0) {
		p = rpc_schema_param(schema, argv[argc - 2]);
		for (const char *const *v = p != NULL ? p->values : NULL; v != NULL && *v != NULL; v++) {
			puts(*v);
		}
		if (p != NULL && p->type == RPC_TYPE_BOOL) {
			puts("true\nfalse");
		}
		return;
	}
	for (size_t i = 0; i < schema->param_count; i++) {
		if (!schema->params[i].neutral) {
			printf("%s=\n", schema->params[i].name);
		}
	}
	puts("--help");
}

/* Names from the running target; none when there is none. */
static void
disk_words(struct ctl *ctl)
{
	json_t *disks = NULL, *error = NULL;
	const json_t *disk;
	size_t i;

	ctl->timeout_s = 1;
	if (ctl_call(ctl, "completion", "berth_disk_list", NULL, &disks, &error) == CTL_OK) {
		json_array_foreach(disks, i, disk) {
			const char *name = json_string_value(json_object_get(disk, "name"));

			if (name != NULL) {
				puts(name);
			}
		}
	}
	json_decref(disks);
	json_decref(error);
}

/* Numbers of the reactors of the running target. */
static void
core_words(struct ctl *ctl)
{
	json_t *result = NULL, *error = NULL;
	const json_t *reactor;
	size_t i;

	ctl->timeout_s = 1;
	if (ctl_call(ctl, "completion", "framework_get_reactors", NULL, &result, &error) == CTL_OK) {
		json_array_foreach(json_object_get(result, "reactors"), i, reactor) {
			printf("%" JSON_INTEGER_FORMAT "\n", json_integer_value(json_object_get(reactor, "lcore")));
		}
	}
	json_decref(result);
	json_decref(error);
}

static void
disk_action_words(struct ctl *ctl, int argc, char **argv)
{
	if (argc == 0) {
		puts("create\nlist\nresize\ndelete");
	} else if (strcmp(argv[0], "create") == 0) {
		puts("--block-size\n--backend\n--readonly\n--existing\n--uuid\n--store-size");
	} else {
		disk_words(ctl);
		if (strcmp(argv[0], "delete") == 0) {
			puts("--keep-file");
		}
	}
}

static void
config_words(int argc)
{
	puts(argc == 0 ? "save\nload" : "<file>");
}

static void
event_words(struct ctl *ctl)
{
	json_t *types = NULL, *error = NULL;
	const json_t *type;
	size_t i;

	puts("--count\n--json");
	ctl->timeout_s = 1;
	if (ctl_call(ctl, "completion", "notify_get_types", NULL, &types, &error) == CTL_OK) {
		json_array_foreach(types, i, type) {
			if (json_is_string(type)) {
				puts(json_string_value(type));
			}
		}
	}
	json_decref(types);
	json_decref(error);
}

/* Jobs by their numbers. */
static void
job_words(struct ctl *ctl, int argc)
{
	json_t *jobs = NULL, *error = NULL;
	const json_t *job;
	size_t i;

	if (argc == 0) {
		puts("wait\ncancel");
	}
	ctl->timeout_s = 1;
	if (ctl_call(ctl, "completion", "berth_get_jobs", NULL, &jobs, &error) == CTL_OK) {
		json_array_foreach(jobs, i, job) {
			printf("%" JSON_INTEGER_FORMAT "\n", json_integer_value(json_object_get(job, "id")));
		}
	}
	json_decref(jobs);
	json_decref(error);
}

static bool
is_one_of(const char *word, const char *const *words)
{
	while (*words != NULL && strcmp(word, *words) != 0) {
		words++;
	}
	return *words != NULL;
}

/* Names of exports, or of what could be one. */
static void
named_words(struct ctl *ctl, const char *method)
{
	json_t *array = NULL, *error = NULL;
	const json_t *item;
	size_t i;

	ctl->timeout_s = 1;
	if (ctl_call(ctl, "completion", method, NULL, &array, &error) == CTL_OK) {
		json_array_foreach(array, i, item) {
			const char *name = json_string_value(json_object_get(item, "name"));

			if (name != NULL) {
				puts(name);
			}
		}
	}
	json_decref(array);
	json_decref(error);
}

static void
export_words(struct ctl *ctl, int argc, char **argv)
{
	static const char *const files[] = {"--unix", "--tls-certs", "--tls-psk", NULL};
	static const char *const values[] = {"--tcp", "--name", "--description", "--changed-since", "--list", NULL};
	const char *last = argc > 0 ? argv[argc - 1] : "";

	if (strcmp(last, "--remove") == 0) {
		named_words(ctl, "berth_nbd_get_exports");
	} else if (is_one_of(last, files)) {
		puts("<file>");
	} else if (!is_one_of(last, values)) {
		if (argc == 0) {
			puts("--list\n--remove");
			named_words(ctl, "bdev_get_bdevs");
		}
		puts("--unix\n--tcp\n--name\n--description\n--changed-since\n--read-only\n"
		     "--tls-certs\n--tls-psk\n--tls-verify-peer");
	}
}

/* Volumes by their aliases. */
static void
alias_words(struct ctl *ctl)
{
	json_t *volumes = NULL, *error = NULL;
	const json_t *v;
	size_t i;

	ctl->timeout_s = 1;
	if (ctl_call(ctl, "completion", "bdev_lvol_get_lvols", NULL, &volumes, &error) == CTL_OK) {
		json_array_foreach(volumes, i, v) {
			if (json_is_string(json_object_get(v, "alias"))) {
				puts(json_string_value(json_object_get(v, "alias")));
			}
		}
	}
	json_decref(volumes);
	json_decref(error);
}

/* Which value the option before wants: "<file>", names, or none that are known; whether it was one that wants a value. */
static bool
volume_value_words(struct ctl *ctl, const char *option)
{
	static const char *const anything[] = {"--snapshot", "--cluster-size", "--size", NULL};

	if (strcmp(option, "--store") == 0) {
		named_words(ctl, "bdev_lvol_get_lvstores");
	} else if (strcmp(option, "--encrypt") == 0) {
		named_words(ctl, "accel_crypto_keys_get");
	} else if (strcmp(option, "--format") == 0) {
		puts("raw\nqcow2");
	} else if (strcmp(option, "--from") == 0) {
		alias_words(ctl);
	} else {
		return is_one_of(option, anything);
	}
	return true;
}

static void
volume_words(struct ctl *ctl, int argc, char **argv)
{
	static const struct {
		const char *action, *options;
	} actions[] = {
		{"create", "--store\n--thick\n--encrypt"}, {"inflate", "--thin"},
		{"send", "--from\n--snapshot"},	    {"receive", "--store\n--snapshot"},
		{"import", "--store\n--copy\n--format"},
	};

	if (argc == 0) {
		puts("create\nlist\nshow\nsnapshot\nclone\nresize\nrename\ndelete\ninflate\nsend\nreceive\nimport");
		return;
	}
	if (volume_value_words(ctl, argv[argc - 1])) {
		return;
	}
	if (strcmp(argv[0], "list") == 0) {
		named_words(ctl, "bdev_lvol_get_lvstores");
		return;
	}
	if (strcmp(argv[0], "import") == 0 && argc == 1) {
		puts("<file>");
		return;
	}
	for (size_t i = 0; i < ARRAY_SIZE(actions); i++) {
		if (strcmp(argv[0], actions[i].action) == 0) {
			puts(actions[i].options);
		}
	}
	if (strcmp(argv[0], "import") != 0) {
		alias_words(ctl);
	}
}

/* Those of a store that no berthd has open: a path, a folder when it is salvaged, then options. */
static void
closed_store_words(int argc, char **argv)
{
	bool salvage = strcmp(argv[0], "salvage") == 0;

	if (argc == 1 || (salvage && argc == 2)) {
		puts("<file>");
		return;
	}
	puts("--cluster-size");
	if (strcmp(argv[0], "check") == 0) {
		puts("--repair\n--rebuild-super");
	}
}

static void
store_words(struct ctl *ctl, int argc, char **argv)
{
	static const char *const closed[] = {"check", "dump", "salvage", NULL};

	if (argc == 0) {
		puts("list\ncreate\ngrow\ncheck\ndump\nsalvage");
	} else if (volume_value_words(ctl, argv[argc - 1])) {
		return;
	} else if (is_one_of(argv[0], closed)) {
		closed_store_words(argc, argv);
	} else if (strcmp(argv[0], "create") == 0) {
		puts("--cluster-size");
		named_words(ctl, "bdev_get_bdevs");
	} else {
		if (strcmp(argv[0], "grow") == 0) {
			puts("--size");
		}
		named_words(ctl, "bdev_lvol_get_lvstores");
	}
}

/* Of the view that was chosen. */
static void
column_words(int argc, char **argv)
{
	const struct top_view_info *view = &top_views[TOP_CONTROLLERS];

	for (int i = 0; i + 1 < argc; i++) {
		for (int v = 0; v < TOP_VIEWS && strcmp(argv[i], "--view") == 0; v++) {
			view = strcmp(argv[i + 1], top_views[v].name) == 0 ? &top_views[v] : view;
		}
	}
	for (unsigned i = 0; i < view->column_count; i++) {
		puts(view->columns[i].key);
	}
}

static void
top_words(int argc, char **argv)
{
	static const char *const anything[] = {"-d", "--delay", "-n", "--count", "--filter", NULL};
	const char *last = argv[argc - 1];

	if (strcmp(last, "--view") == 0) {
		puts("controllers\nthreads\ncores");
	} else if (strcmp(last, "--sort") == 0) {
		column_words(argc, argv);
	} else if (!is_one_of(last, anything)) {
		puts("--delay\n--count\n--view\n--sort\n--reverse\n--filter\n--once\n--text\n--json");
	}
}

/* Names of bdevs from the running target. */
static void
bdev_words(struct ctl *ctl)
{
	json_t *bdevs = NULL, *error = NULL;
	const json_t *bdev;
	size_t i;

	ctl->timeout_s = 1;
	if (ctl_call(ctl, "completion", "bdev_get_bdevs", NULL, &bdevs, &error) == CTL_OK) {
		json_array_foreach(bdevs, i, bdev) {
			const char *name = json_string_value(json_object_get(bdev, "name"));

			if (name != NULL) {
				puts(name);
			}
		}
	}
	json_decref(bdevs);
	json_decref(error);
}

static void
iostat_words(struct ctl *ctl, const char *last)
{
	if (strcmp(last, "--interval") != 0 && strcmp(last, "--count") != 0) {
		puts("--interval\n--count\n--json");
		bdev_words(ctl);
	}
}

static void
histogram_words(struct ctl *ctl, const char *last)
{
	if (strcmp(last, "--op") == 0) {
		puts("read\nwrite\nflush\nunmap\nwrite_zeroes\ncompare\ncompare_and_write\ncopy");
	} else if (strcmp(last, "--time") != 0) {
		puts("--time\n--op\n--json");
		bdev_words(ctl);
	}
}

static void
doctor_words(const char *last)
{
	bool wants_folder = strcmp(last, "--state-dir") == 0 || strcmp(last, "--socket-dir") == 0;

	puts(wants_folder ? "<file>" : "--sample\n--state-dir\n--socket-dir\n--json");
}

static void
command_words(void)
{
	for (const struct ctl_command *c = ctl_commands; c->name != NULL; c++) {
		puts(c->name);
	}
	puts("--socket\n--json\n--timeout\n--help\n--version");
}

/*
 * Takes global options out of the words, so that the command is the first of them; its socket is the one to ask. bash splits
 * "--socket=x" at "=". What may follow when the last one wants a value: "<file>" or "", else NULL.
 */
static const char *
take_global_words(struct ctl *ctl, int *argc, char **argv)
{
	static const char *const flags[] = {"--json", "-h", "--help", "--version", "-V", NULL};
	static const char *const values[] = {"-s", "--socket", "--timeout", "--token-file", "--tls", NULL};
	int kept = 0;

	for (int i = 0; i < *argc; i++) {
		bool is_timeout = strcmp(argv[i], "--timeout") == 0;
		bool is_socket = strcmp(argv[i], "-s") == 0 || strcmp(argv[i], "--socket") == 0;

		if (is_one_of(argv[i], values)) {
			i += i + 1 < *argc && strcmp(argv[i + 1], "=") == 0;
			if (i + 1 >= *argc) {
				return is_timeout ? "" : "<file>";
			}
			i++;
			ctl->socket = is_socket ? argv[i] : ctl->socket;
		} else if (!is_one_of(argv[i], flags)) {
			argv[kept++] = argv[i];
		}
	}
	*argc = kept;
	return NULL;
}

static void
print_words(struct ctl *ctl, int argc, char **argv)
{
	const char *value = take_global_words(ctl, &argc, argv);

	if (value != NULL) {
		puts(value);
	} else if (argc == 0) {
		command_words();
	} else if (strcmp(argv[0], "rpc") == 0 && argc == 1) {
		method_words();
	} else if (strcmp(argv[0], "rpc") == 0) {
		const struct rpc_schema *schema = rpc_schema_find(argv[1]);

		if (schema != NULL) {
			param_words(schema, argc - 2, argv + 2);
		}
	} else if (strcmp(argv[0], "disk") == 0) {
		disk_action_words(ctl, argc - 1, argv + 1);
	} else if (strcmp(argv[0], "volume") == 0) {
		volume_words(ctl, argc - 1, argv + 1);
	} else if (strcmp(argv[0], "store") == 0) {
		store_words(ctl, argc - 1, argv + 1);
	} else if (strcmp(argv[0], "export") == 0) {
		export_words(ctl, argc - 1, argv + 1);
	} else if (strcmp(argv[0], "config") == 0) {
		config_words(argc - 1);
	} else if (strcmp(argv[0], "events") == 0) {
		event_words(ctl);
	} else if (strcmp(argv[0], "jobs") == 0) {
		job_words(ctl, argc - 1);
	} else if (strcmp(argv[0], "top") == 0) {
		top_words(argc, argv);
	} else if (strcmp(argv[0], "mode") == 0 && strcmp(argv[argc - 1], "--core") == 0) {
		core_words(ctl);
	} else if (strcmp(argv[0], "mode") == 0) {
		puts("poll\ninterrupt\nadaptive\n--core");
	} else if (strcmp(argv[0], "iostat") == 0) {
		iostat_words(ctl, argv[argc - 1]);
	} else if (strcmp(argv[0], "histogram") == 0) {
		histogram_words(ctl, argv[argc - 1]);
	} else if (strcmp(argv[0], "doctor") == 0) {
		doctor_words(argv[argc - 1]);
	} else if (strcmp(argv[0], "help") == 0 && argc == 1) {
		command_words();
	} else if (strcmp(argv[0], "completion") == 0 && argc == 1) {
		puts("bash");
	}
}

int
ctl_completion(struct ctl *ctl, int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[1], "words") == 0) {
		print_words(ctl, argc - 2, argv + 2);
		return CTL_OK;
	}
	if (argc == 2 && strcmp(argv[1], "bash") == 0) {
		fputs(bash_script, stdout);
		return CTL_OK;
	}
	return ctl_usage("completion", "which shell? bash");
}
