/* SPDX-License-Identifier: BSD-3-Clause */
/* berth disk and berth status: the short commands over the methods of berth's own. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "app/ctl.h"
#include "base/check.h"

static const char *
text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text != NULL ? text : "-";
}

static uint64_t
number_of(const json_t *object, const char *name)
{
	json_int_t number = json_integer_value(json_object_get(object, name));

	return number > 0 ? (uint64_t)number : 0;
}

/* ---- Disks ---- */

static void
print_created(const json_t *disk)
{
	char size[32];

	if (json_is_string(json_object_get(disk, "volume"))) {
		printf("%s: %s, volume %s\n", text_of(disk, "name"), ctl_bytes(number_of(disk, "size"), size),
		       text_of(disk, "volume"));
	} else {
		printf("%s: %s, %s, on %s\n", text_of(disk, "name"), ctl_bytes(number_of(disk, "size"), size),
		       text_of(disk, "backend"), text_of(disk, "file"));
	}
	printf("vhost-user-blk socket: %s\n", text_of(disk, "socket"));
	if (json_object_get(disk, "note") != NULL) {
		fprintf(stderr, "berth: note: %s\n", text_of(disk, "note"));
	}
}

/* Options of `disk create` into params, typed by the schema. */
static int
take_create_options(int *argc, char **argv, json_t *params)
{
	static const struct {
		const char *option, *param;
		bool flag;
	} options[] = {
		{"--block-size", "block_size", false}, {"--backend", "backend", false}, {"--uuid", "uuid", false},
		{"--readonly", "readonly", true},      {"--existing", "existing", true},
	};
	const struct rpc_schema *schema = rpc_schema_find("berth_disk_create");

	for (size_t i = 0; i < ARRAY_SIZE(options); i++) {
		const char *text = "true";
		struct err err = ERR_NONE;
		int rc = ctl_take_option(argc, argv, options[i].option, options[i].flag ? NULL : &text);
		json_t *value;

		if (rc < 0) {
			return CTL_USAGE;
		}
		if (rc == 0) {
			continue;
		}
		value = ctl_value(rpc_schema_param(schema, options[i].param), text, &err);
		if (value == NULL) {
			return ctl_usage("disk create", "%s", err_text(&err));
		}
		json_object_set_new(params, options[i].param, value);
	}
	return CTL_OK;
}

static int
create_params(int argc, char **argv, json_t *params)
{
	const char *store_size = NULL;
	struct err err = ERR_NONE;
	uint64_t bytes;
	int rc = take_create_options(&argc, argv, params);

	if (rc == CTL_OK && ctl_take_option(&argc, argv, "--store-size", &store_size) < 0) {
		rc = CTL_USAGE;
	}
	if (rc == CTL_OK) {
		rc = ctl_check_arguments("disk create", argc, argv, 2, 2);
	}
	if (rc != CTL_OK) {
		return rc;
	}
	if (store_size != NULL) {
		if (ctl_size(store_size, &bytes, &err) != 0) {
			return ctl_usage("disk create", "%s", err_text(&err));
		}
		json_object_set_new(params, "store_size", json_integer((json_int_t)bytes));
	}
	if (ctl_size(argv[2], &bytes, &err) != 0) {
		return ctl_usage("disk create", "%s", err_text(&err));
	}
	if (json_object_set_new(params, "name", json_string(argv[1])) != 0) {
		return ctl_usage("disk create", "the name is no UTF-8");
	}
	json_object_set_new(params, "size", json_integer((json_int_t)bytes));
	return CTL_OK;
}

static int
disk_create(struct ctl *ctl, int argc, char **argv)
{
	json_t *params = json_object(), *disk = NULL;
	int rc = create_params(argc, argv, params);

	if (rc != CTL_OK) {
		json_decref(params);
		return rc;
	}
	rc = ctl_call(ctl, "disk create", "berth_disk_create", params, &disk, NULL);
	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(disk);
	} else if (rc == CTL_OK) {
		print_created(disk);
	}
	json_decref(disk);
	return rc;
}

static void
print_disks(const json_t *disks)
{
	struct ctl_table table = {.columns = 6, .right = 1 << 1 | 1 << 2};
	const json_t *disk;
	size_t i;

	ctl_table_row(&table, "NAME", "SIZE", "ALLOCATED", "BACKEND", "VM", "SOCKET");
	json_array_foreach(disks, i, disk) {
		char size[32], allocated[32];

		ctl_table_row(&table, text_of(disk, "name"), ctl_bytes(number_of(disk, "size"), size),
			      ctl_bytes(number_of(disk, "allocated"), allocated), text_of(disk, "backend"),
			      json_is_true(json_object_get(disk, "connected")) ? "connected" : "-",
			      text_of(disk, "socket"));
	}
	ctl_table_print(&table);
}

static int
disk_list(struct ctl *ctl, int argc, char **argv)
{
	json_t *params = NULL, *disks = NULL;
	int rc = ctl_check_arguments("disk list", argc, argv, 0, 1);

	if (rc != CTL_OK) {
		return rc;
	}
	if (argc > 1) {
		params = json_pack("{s:s}", "name", argv[1]);
	}
	rc = ctl_call(ctl, "disk list", "berth_disk_list", params, &disks, NULL);
	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(disks);
	} else if (rc == CTL_OK) {
		print_disks(disks);
	}
	json_decref(disks);
	return rc;
}

static int
disk_delete(struct ctl *ctl, int argc, char **argv)
{
	bool keep = ctl_take_option(&argc, argv, "--keep-file", NULL) == 1;
	json_t *params, *result = NULL;
	int rc = ctl_check_arguments("disk delete", argc, argv, 1, 1);

	if (rc != CTL_OK) {
		return rc;
	}
	params = json_pack("{s:s,s:b}", "name", argv[1], "keep_file", keep);
	if (params == NULL) {
		return ctl_usage("disk delete", "the name is no UTF-8");
	}
	rc = ctl_call(ctl, "disk delete", "berth_disk_delete", params, &result, NULL);
	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(result);
	}
	json_decref(result);
	return rc;
}

static int
disk_resize(struct ctl *ctl, int argc, char **argv)
{
	json_t *params, *disk = NULL;
	struct err err = ERR_NONE;
	uint64_t bytes;
	int rc = ctl_check_arguments("disk resize", argc, argv, 2, 2);

	if (rc != CTL_OK) {
		return rc;
	}
	if (ctl_size(argv[2], &bytes, &err) != 0) {
		return ctl_usage("disk resize", "%s", err_text(&err));
	}
	params = json_pack("{s:s, s:I}", "name", argv[1], "size", (json_int_t)bytes);
	if (params == NULL) {
		return ctl_usage("disk resize", "the name is no UTF-8");
	}
	rc = ctl_call(ctl, "disk resize", "berth_disk_resize", params, &disk, NULL);
	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(disk);
	} else if (rc == CTL_OK) {
		print_created(disk);
	}
	json_decref(disk);
	return rc;
}

int
ctl_disk(struct ctl *ctl, int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(struct ctl *ctl, int argc, char **argv);
	} actions[] = {{"create", disk_create}, {"list", disk_list}, {"resize", disk_resize}, {"delete", disk_delete}};

	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(actions); i++) {
		if (strcmp(argv[1], actions[i].name) == 0) {
			return actions[i].run(ctl, argc - 1, argv + 1);
		}
	}
	return argc > 1 ? ctl_usage("disk", "there is no action '%s'", argv[1]) :
			  ctl_usage("disk", "what? create, list, resize or delete");
}

/* ---- Status ---- */

static const char *
duration(uint64_t seconds, char text[static 64])
{
	uint64_t days = seconds / 86400, hours = seconds / 3600 % 24, minutes = seconds / 60 % 60;

	if (days > 0) {
		snprintf(text, 64, "%" PRIu64 " d %" PRIu64 " h", days, hours);
	} else if (hours > 0) {
		snprintf(text, 64, "%" PRIu64 " h %" PRIu64 " min", hours, minutes);
	} else if (minutes > 0) {
		snprintf(text, 64, "%" PRIu64 " min %" PRIu64 " s", minutes, seconds % 60);
	} else {
		snprintf(text, 64, "%" PRIu64 " s", seconds);
	}
	return text;
}

static void
print_reactors(const json_t *reactors)
{
	struct ctl_table table = {.columns = 5, .right = 0x1f};
	const json_t *r;
	size_t i;

	ctl_table_row(&table, "REACTOR", "CPU", "TID", "BUSY", "WAKEUPS");
	json_array_foreach(reactors, i, r) {
		uint64_t busy = number_of(r, "busy_ns"), all = busy + number_of(r, "idle_ns");
		json_int_t cpu = json_integer_value(json_object_get(r, "cpu"));
		char lcore[24], tid[24], cpu_text[24], busy_text[24], wakeups[24];

		snprintf(lcore, sizeof(lcore), "%" PRIu64, number_of(r, "lcore"));
		snprintf(cpu_text, sizeof(cpu_text), "%" JSON_INTEGER_FORMAT, cpu);
		snprintf(tid, sizeof(tid), "%" PRIu64, number_of(r, "tid"));
		snprintf(busy_text, sizeof(busy_text), "%.1f %%", all > 0 ? 100.0 * (double)busy / (double)all : 0.0);
		snprintf(wakeups, sizeof(wakeups), "%" PRIu64, number_of(r, "wakeups"));
		ctl_table_row(&table, lcore, cpu < 0 ? "any" : cpu_text, tid, busy_text, wakeups);
	}
	ctl_table_print(&table);
}

static void
print_status(const json_t *s)
{
	char up[64];

	printf("%s, pid %" PRIu64 ", up %s, %s, %s mode\n", text_of(s, "version"), number_of(s, "pid"),
	       duration(number_of(s, "uptime_seconds"), up), text_of(s, "state"), text_of(s, "mode"));
	printf("RPC socket       %s\n", text_of(s, "rpc_socket"));
	printf("VM sockets in    %s\n", text_of(s, "socket_dir"));
	printf("state directory  %s\n", text_of(s, "state_dir"));
	printf("disks %" PRIu64 ", bdevs %" PRIu64 ", controllers %" PRIu64 ", connected VMs %" PRIu64 "\n\n",
	       number_of(s, "disks"), number_of(s, "bdevs"), number_of(s, "controllers"), number_of(s, "sessions"));
	print_reactors(json_object_get(s, "reactors"));
}

int
ctl_status(struct ctl *ctl, int argc, char **argv)
{
	json_t *status = NULL;
	int rc = ctl_check_arguments("status", argc, argv, 0, 0);

	if (rc == CTL_OK) {
		rc = ctl_call(ctl, "status", "berth_status", NULL, &status, NULL);
	}
	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(status);
	} else if (rc == CTL_OK) {
		print_status(status);
	}
	json_decref(status);
	return rc;
}
