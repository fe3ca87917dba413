/* SPDX-License-Identifier: BSD-3-Clause */
/* berth store: its actions, and list, create and grow, which are about stores of the running berthd. */
#include <stdio.h>
#include <string.h>

#include "app/ctl_store.h"
#include "app/ctl_volume.h"
#include "base/check.h"

/* ---- list ---- */

static const char *
state_of(const json_t *store)
{
	if (json_is_true(json_object_get(store, "readonly"))) {
		return "read-only";
	}
	if (json_is_true(json_object_get(store, "full"))) {
		return "full";
	}
	return "-";
}

static void
print_stores(const json_t *stores)
{
	struct ctl_table table = {.columns = 7, .right = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4};
	const json_t *s;
	size_t i;

	ctl_table_row(&table, "STORE", "SIZE", "FREE", "CLUSTER", "VOLUMES", "BDEV", "STATE");
	json_array_foreach (stores, i, s) {
		uint64_t cluster = volume_number(s, "cluster_size");
		char size[32], free_bytes[32], cluster_text[32], volumes[24];

		snprintf(volumes, sizeof(volumes), "%llu",
			 (unsigned long long)volume_number(s, "num_lvols"));
		ctl_table_row(&table, volume_text(s, "name"),
			      ctl_bytes(volume_number(s, "total_data_clusters") * cluster, size),
			      ctl_bytes(volume_number(s, "free_clusters") * cluster, free_bytes),
			      ctl_bytes(cluster, cluster_text), volumes,
			      volume_text(s, "base_bdev"), state_of(s));
	}
	ctl_table_print(&table);
}

int
ctl_store_list(struct ctl *ctl, int argc, char **argv)
{
	json_t *params = NULL, *stores = NULL;
	int rc = ctl_check_arguments("store list", argc, argv, 0, 1);

	if (rc != CTL_OK) {
		return rc;
	}
	if (argc > 1) {
		params = json_pack("{s:s}", "lvs_name", argv[1]);
	}
	rc = ctl_call(ctl, "store list", "bdev_lvol_get_lvstores", params, &stores, NULL);
	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(stores);
	} else if (rc == CTL_OK) {
		print_stores(stores);
	}
	json_decref(stores);
	return rc;
}

/* ---- create ---- */

static int
print_store(struct ctl *ctl, const char *command, const char *name)
{
	char *argv[] = {(char *)command, (char *)name, NULL};

	return ctl_store_list(ctl, 2, argv);
}

int
ctl_store_create(struct ctl *ctl, int argc, char **argv)
{
	const char *cluster = NULL, *command = "store create";
	struct err err = ERR_NONE;
	json_t *params, *result = NULL;
	uint64_t bytes;
	int rc;

	if (ctl_take_option(&argc, argv, "--cluster-size", &cluster) < 0) {
		return CTL_USAGE;
	}
	rc = ctl_check_arguments(command, argc, argv, 2, 2);
	if (rc == CTL_OK && cluster != NULL && ctl_size(cluster, &bytes, &err) != 0) {
		rc = ctl_usage(command, "%s", err_text(&err));
	}
	if (rc != CTL_OK) {
		return rc;
	}
	params = json_pack("{s:s, s:s}", "bdev_name", argv[2], "lvs_name", argv[1]);
	if (params == NULL) {
		return ctl_usage(command, "a name is no UTF-8");
	}
	if (cluster != NULL) {
		json_object_set_new(params, "cluster_sz", json_integer((json_int_t)bytes));
	}
	rc = ctl_call(ctl, command, "bdev_lvol_create_lvstore", params, &result, NULL);
	json_decref(result);
	return rc == CTL_OK ? print_store(ctl, command, argv[1]) : rc;
}

/* ---- grow ---- */

int
ctl_store_grow(struct ctl *ctl, int argc, char **argv)
{
	const char *command = "store grow", *size = NULL;
	uint64_t bytes = 0;
	struct err err = ERR_NONE;
	int rc;

	if (ctl_take_option(&argc, argv, "--size", &size) < 0) {
		return CTL_USAGE;
	}
	rc = ctl_check_arguments(command, argc, argv, 1, 1);
	if (rc == CTL_OK && size != NULL && ctl_size(size, &bytes, &err) != 0) {
		rc = ctl_usage(command, "%s", err_text(&err));
	}
	if (rc == CTL_OK && size != NULL && strcmp(argv[1], CTL_STORE_OF_DISKS) != 0) {
		rc = ctl_usage(
			command,
			"--size is for the store of disks: that of another store is its bdev's");
	}
	if (rc == CTL_OK && strcmp(argv[1], CTL_STORE_OF_DISKS) == 0) {
		rc = volume_call(ctl, command, "berth_disk_grow_store",
				 size != NULL ? json_pack("{s:I}", "size", (json_int_t)bytes)
					      : NULL);
	} else if (rc == CTL_OK) {
		rc = volume_call(ctl, command, "bdev_lvol_grow_lvstore",
				 json_pack("{s:s}", "lvs_name", argv[1]));
	}
	return rc == CTL_OK ? print_store(ctl, command, argv[1]) : rc;
}

/* ---- The command ---- */

int
ctl_store(struct ctl *ctl, int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(struct ctl *ctl, int argc, char **argv);
	} actions[] = {
		{"list", ctl_store_list}, {"create", ctl_store_create},
		{"grow", ctl_store_grow}, {"check", ctl_store_check},
		{"dump", ctl_store_dump}, {"salvage", ctl_store_salvage},
	};

	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(actions); i++) {
		if (strcmp(argv[1], actions[i].name) == 0) {
			return actions[i].run(ctl, argc - 1, argv + 1);
		}
	}
	return argc > 1 ? ctl_usage("store", "there is no action '%s'", argv[1])
			: ctl_usage("store", "what? berth help store");
}
