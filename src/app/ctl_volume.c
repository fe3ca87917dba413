/* SPDX-License-Identifier: BSD-3-Clause */
/* berth volume: the short commands over bdev_lvol_*. send, receive and import have files of their own. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/ctl_volume.h"
#include "base/check.h"

/* ---- Listing ---- */

/* In bytes; clusters: of which the volume's store has its own size. */
static uint64_t
allocated_bytes(const json_t *volume, const json_t *stores)
{
	const char *store_uuid = volume_text(json_object_get(volume, "lvs"), "uuid");
	const json_t *store;
	size_t i;

	json_array_foreach (stores, i, store) {
		if (strcmp(volume_text(store, "uuid"), store_uuid) == 0) {
			return volume_number(volume, "num_allocated_clusters") *
			       volume_number(store, "cluster_size");
		}
	}
	return 0;
}

static bool
flag(const json_t *volume, const char *key)
{
	return json_is_true(json_object_get(volume, key));
}

static const char *
kind_of(const json_t *volume)
{
	if (json_object_get(volume, "damage") != NULL) {
		return "damaged";
	}
	if (flag(volume, "is_degraded")) {
		return "degraded";
	}
	if (flag(volume, "is_snapshot")) {
		return "snapshot";
	}
	if (flag(volume, "is_clone") || flag(volume, "is_esnap_clone")) {
		return "clone";
	}
	return flag(volume, "is_thin_provisioned") ? "thin" : "thick";
}

static const char *
parent_of(const json_t *volume)
{
	if (json_object_get(volume, "parent") != NULL) {
		return volume_text(volume, "parent");
	}
	return flag(volume, "is_esnap_clone") ? "(a bdev)" : "-";
}

static void
print_volumes(const json_t *volumes, const json_t *stores)
{
	struct ctl_table table = {.columns = 6, .right = 1 << 1 | 1 << 2};
	const json_t *v;
	size_t i;

	ctl_table_row(&table, "VOLUME", "SIZE", "ALLOCATED", "KIND", "PARENT", "ACCESS");
	json_array_foreach (volumes, i, v) {
		char size[32], allocated[32];

		ctl_table_row(&table, volume_text(v, "alias"),
			      ctl_bytes(volume_number(v, "size"), size),
			      ctl_bytes(allocated_bytes(v, stores), allocated), kind_of(v),
			      parent_of(v), flag(v, "readonly") ? "read-only" : "read-write");
	}
	ctl_table_print(&table);
}

static int
list(struct ctl *ctl, int argc, char **argv)
{
	json_t *params = NULL, *volumes = NULL, *stores = NULL;
	int rc = ctl_check_arguments("volume list", argc, argv, 0, 1);

	if (rc != CTL_OK) {
		return rc;
	}
	if (argc > 1) {
		params = json_pack("{s:s}", "lvs_name", argv[1]);
	}
	rc = ctl_call(ctl, "volume list", "bdev_lvol_get_lvols", params, &volumes, NULL);
	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(volumes);
	} else if (rc == CTL_OK) {
		rc = ctl_call(ctl, "volume list", "bdev_lvol_get_lvstores", NULL, &stores, NULL);
		if (rc == CTL_OK) {
			print_volumes(volumes, stores);
		}
	}
	json_decref(volumes);
	json_decref(stores);
	return rc;
}

/* ---- One ---- */

static void
print_clones(const json_t *volumes, const json_t *volume)
{
	const json_t *v;
	size_t i;

	json_array_foreach (volumes, i, v) {
		if (strcmp(volume_text(v, "parent"), volume_text(volume, "name")) == 0 &&
		    json_equal(json_object_get(v, "lvs"), json_object_get(volume, "lvs"))) {
			printf("clone            %s\n", volume_text(v, "alias"));
		}
	}
}

static void
print_volume(const json_t *v, const json_t *volumes, const json_t *stores)
{
	char size[32], allocated[32];

	printf("volume           %s\n", volume_text(v, "alias"));
	printf("bdev, UUID       %s\n", volume_text(v, "uuid"));
	printf("size             %s\n", ctl_bytes(volume_number(v, "size"), size));
	printf("allocated        %s\n", ctl_bytes(allocated_bytes(v, stores), allocated));
	printf("kind             %s, %s\n", kind_of(v),
	       flag(v, "readonly") ? "read-only" : "read-write");
	if (json_object_get(v, "external_parent") != NULL) {
		printf("parent           bdev %s%s\n", volume_text(v, "external_parent"),
		       flag(v, "is_degraded") ? ", which is missing" : "");
	} else {
		printf("parent           %s\n", parent_of(v));
	}
	if (json_object_get(v, "origin") != NULL) {
		printf("received from    %s\n", volume_text(v, "origin"));
	}
	if (json_object_get(v, "damage") != NULL) {
		printf("damage           %s\n", volume_text(v, "damage"));
	}
	print_clones(volumes, v);
}

static int
show(struct ctl *ctl, int argc, char **argv)
{
	json_t *volume = NULL, *volumes = NULL, *stores = NULL;
	int rc = ctl_check_arguments("volume show", argc, argv, 1, 1);

	if (rc == CTL_OK) {
		rc = volume_find(ctl, "volume show", argv[1], &volume);
	}
	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(volume);
	} else if (rc == CTL_OK) {
		rc = ctl_call(ctl, "volume show", "bdev_lvol_get_lvols", NULL, &volumes, NULL);
		if (rc == CTL_OK) {
			rc = ctl_call(ctl, "volume show", "bdev_lvol_get_lvstores", NULL, &stores,
				      NULL);
		}
		if (rc == CTL_OK) {
			print_volume(volume, volumes, stores);
		}
	}
	json_decref(volume);
	json_decref(volumes);
	json_decref(stores);
	return rc;
}

/* ---- Making ---- */

/* What was made, by its UUID: a line, or all that is known of it. Encrypted: it is not the volume that is to be used. */
static int
print_made(struct ctl *ctl, const char *command, const char *uuid, bool encrypted)
{
	json_t *volume = NULL;
	int rc = volume_find(ctl, command, uuid, &volume);

	if (rc == CTL_OK && ctl->json) {
		ctl_print_json(volume);
	} else if (rc == CTL_OK) {
		char size[32];

		printf("%s: %s, %s, bdev %s", volume_text(volume, "alias"),
		       ctl_bytes(volume_number(volume, "size"), size), kind_of(volume), uuid);
		if (encrypted) {
			printf(", encrypted by bdev %s_crypt, which is the one to use", volume_text(volume, "name"));
		}
		putchar('\n');
	}
	json_decref(volume);
	return rc;
}

/* Takes params. */
static int
make(struct ctl *ctl, const char *command, const char *method, json_t *params)
{
	bool encrypted = json_object_get(params, "encrypt_key") != NULL;
	char *uuid = NULL;
	int rc = params != NULL ? volume_make(ctl, command, method, params, &uuid)
				: ctl_usage(command, "a name is no UTF-8");

	if (rc == CTL_OK) {
		rc = print_made(ctl, command, uuid, encrypted);
	}
	free(uuid);
	return rc;
}

static int
create(struct ctl *ctl, int argc, char **argv)
{
	const char *store_option = NULL, *key = NULL, *command = "volume create";
	bool thick = ctl_take_option(&argc, argv, "--thick", NULL) == 1;
	char *store = NULL, *name = NULL;
	json_t *params;
	uint64_t mib;
	int rc;

	if (ctl_take_option(&argc, argv, "--store", &store_option) < 0 ||
	    ctl_take_option(&argc, argv, "--encrypt", &key) < 0) {
		return CTL_USAGE;
	}
	rc = ctl_check_arguments(command, argc, argv, 2, 2);
	if (rc == CTL_OK) {
		rc = volume_size_in_mib(command, argv[2], &mib);
	}
	if (rc == CTL_OK) {
		rc = volume_place(ctl, command, argv[1], store_option, &store, &name);
	}
	if (rc == CTL_OK) {
		params = json_pack("{s:s, s:s, s:I, s:b}", "lvs_name", store, "lvol_name", name,
				   "size_in_mib", (json_int_t)mib, "thin_provision", !thick);
		if (key != NULL) {
			json_object_set_new(params, "encrypt_key", json_string(key));
		}
		rc = make(ctl, command, "bdev_lvol_create", params);
	}
	free(store);
	free(name);
	return rc;
}

/* The new name may have the store's in front, which must be the volume's then. NULL: it is another. */
static const char *
plain_name(const json_t *volume, const char *name)
{
	const char *store = volume_text(json_object_get(volume, "lvs"), "name");
	size_t bytes = strlen(store);

	if (strchr(name, '/') == NULL) {
		return name;
	}
	return strncmp(name, store, bytes) == 0 && name[bytes] == '/' ? name + bytes + 1 : NULL;
}

/* OLD NEW: a method whose parameters are a volume and a name. print: it makes a volume. */
static int
from_to(struct ctl *ctl, int argc, char **argv, const char *command, const char *method,
	const char *const keys[2], bool print)
{
	json_t *volume = NULL, *params;
	const char *name;
	int rc = ctl_check_arguments(command, argc, argv, 2, 2);

	if (rc == CTL_OK) {
		rc = volume_find(ctl, command, argv[1], &volume);
	}
	if (rc != CTL_OK) {
		return rc;
	}
	name = plain_name(volume, argv[2]);
	params = name != NULL ? json_pack("{s:s, s:s}", keys[0], volume_text(volume, "uuid"),
					  keys[1], name)
			      : NULL;
	if (name == NULL) {
		rc = ctl_usage(command, "'%s' is in another store than the volume", argv[2]);
	} else if (print) {
		rc = make(ctl, command, method, params);
	} else {
		rc = params != NULL ? volume_call(ctl, command, method, params)
				    : ctl_usage(command, "the name is no UTF-8");
	}
	json_decref(volume);
	return rc;
}

static int
clone(struct ctl *ctl, int argc, char **argv)
{
	static const char *const keys[] = {"snapshot_name", "clone_name"};

	return from_to(ctl, argc, argv, "volume clone", "bdev_lvol_clone", keys, true);
}

static int
rename_volume(struct ctl *ctl, int argc, char **argv)
{
	static const char *const keys[] = {"old_name", "new_name"};

	return from_to(ctl, argc, argv, "volume rename", "bdev_lvol_rename", keys, false);
}

/* ---- Snapshots of several ---- */

/* VOLUME SNAPSHOT VOLUME SNAPSHOT ... */
static int
group_params(struct ctl *ctl, int argc, char **argv, json_t *snapshots)
{
	for (int i = 1; i + 1 < argc; i += 2) {
		json_t *volume = NULL;
		int rc = volume_find(ctl, "volume snapshot", argv[i], &volume);
		const char *name = rc == CTL_OK ? plain_name(volume, argv[i + 1]) : NULL;

		if (rc == CTL_OK && name == NULL) {
			rc = ctl_usage("volume snapshot",
				       "'%s' is in another store than the volume", argv[i + 1]);
		}
		if (rc == CTL_OK) {
			json_array_append_new(snapshots, json_pack("{s:s, s:s}", "lvol_name",
								   volume_text(volume, "uuid"),
								   "snapshot_name", name));
		}
		json_decref(volume);
		if (rc != CTL_OK) {
			return rc;
		}
	}
	return CTL_OK;
}

static int
snapshot_group(struct ctl *ctl, int argc, char **argv)
{
	json_t *snapshots = json_array(), *made = NULL, *uuid;
	int rc = group_params(ctl, argc, argv, snapshots);
	size_t i;

	if (rc == CTL_OK) {
		rc = ctl_call(ctl, "volume snapshot", "bdev_lvol_snapshot_group",
			      json_pack("{s:O}", "snapshots", snapshots), &made, NULL);
	}
	json_array_foreach (made, i, uuid) {
		if (rc == CTL_OK && json_is_string(uuid)) {
			rc = print_made(ctl, "volume snapshot", json_string_value(uuid), false);
		}
	}
	json_decref(snapshots);
	json_decref(made);
	return rc;
}

static int
snapshot(struct ctl *ctl, int argc, char **argv)
{
	static const char *const keys[] = {"lvol_name", "snapshot_name"};

	if (argc <= 3) {
		return from_to(ctl, argc, argv, "volume snapshot", "bdev_lvol_snapshot", keys,
			       true);
	}
	if (argc % 2 == 0) {
		return ctl_usage("volume snapshot", "the last volume has no name for its snapshot");
	}
	return snapshot_group(ctl, argc, argv);
}

/* ---- Changing ---- */

static int
resize(struct ctl *ctl, int argc, char **argv)
{
	json_t *volume = NULL;
	uint64_t mib;
	int rc = ctl_check_arguments("volume resize", argc, argv, 2, 2);

	if (rc == CTL_OK) {
		rc = volume_size_in_mib("volume resize", argv[2], &mib);
	}
	if (rc == CTL_OK) {
		rc = volume_find(ctl, "volume resize", argv[1], &volume);
	}
	if (rc == CTL_OK) {
		rc = volume_call(ctl, "volume resize", "bdev_lvol_resize",
				 json_pack("{s:s, s:I}", "name", volume_text(volume, "uuid"),
					   "size_in_mib", (json_int_t)mib));
	}
	json_decref(volume);
	return rc;
}

/* A method whose parameter is the volume. */
static int
call_on(struct ctl *ctl, int argc, char **argv, const char *command, const char *method)
{
	json_t *volume = NULL;
	int rc = ctl_check_arguments(command, argc, argv, 1, 1);

	if (rc == CTL_OK) {
		rc = volume_find(ctl, command, argv[1], &volume);
	}
	if (rc == CTL_OK) {
		rc = volume_call_long(ctl, command, method,
				      json_pack("{s:s}", "name", volume_text(volume, "uuid")));
	}
	json_decref(volume);
	return rc;
}

/* The image that it was imported from, when nothing else reads from that: its bdevs go, too. Who used it last may be about to let
 * go of it. */
static void
drop_image(struct ctl *ctl, const char *command, const char *uuid)
{
	const struct timespec pause = {.tv_nsec = 20000000};
	json_t *bdevs = NULL, *error = NULL;
	int rc = ctl_call(ctl, command, "bdev_get_bdevs", json_pack("{s:s}", "name", uuid), &bdevs, &error);
	const json_t *bdev = rc == CTL_OK ? json_array_get(bdevs, 0) : NULL;
	const json_t *specific = json_object_get(bdev, "driver_specific");
	const char *file = json_string_value(json_object_get(json_object_get(specific, "qcow2"), "base_bdev_name"));
	const char *name = volume_text(bdev, "name");
	bool there = bdev != NULL && strncmp(name, VOLUME_IMAGE, strlen(VOLUME_IMAGE)) == 0;

	for (int i = 0; there && i < 10 && volume_drop_image(ctl, command, name, &there) == CTL_OK && there; i++) {
		nanosleep(&pause, NULL);
	}
	if (!there && file != NULL && strncmp(file, VOLUME_IMAGE, strlen(VOLUME_IMAGE)) == 0) {
		(void)volume_drop_image(ctl, command, file, &there);
	}
	json_decref(bdevs);
	json_decref(error);
}

static int delete (struct ctl *ctl, int argc, char **argv)
{
	const char *command = "volume delete";
	json_t *volume = NULL;
	int rc = ctl_check_arguments(command, argc, argv, 1, 1);

	if (rc == CTL_OK) {
		rc = volume_find(ctl, command, argv[1], &volume);
	}
	if (rc == CTL_OK) {
		rc = volume_call_long(ctl, command, "bdev_lvol_delete",
				      json_pack("{s:s}", "name", volume_text(volume, "uuid")));
	}
	if (rc == CTL_OK && json_object_get(volume, "external_parent") != NULL) {
		drop_image(ctl, command, volume_text(volume, "external_parent"));
	}
	json_decref(volume);
	return rc;
}

static int
inflate(struct ctl *ctl, int argc, char **argv)
{
	bool thin = ctl_take_option(&argc, argv, "--thin", NULL) == 1;

	return call_on(ctl, argc, argv, "volume inflate",
		       thin ? "bdev_lvol_decouple_parent" : "bdev_lvol_inflate");
}

int
ctl_volume(struct ctl *ctl, int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*run)(struct ctl *ctl, int argc, char **argv);
	} actions[] = {
		{"create", create},
		{"list", list},
		{"show", show},
		{"snapshot", snapshot},
		{"clone", clone},
		{"resize", resize},
		{"rename", rename_volume},
		{"delete", delete},
		{"inflate", inflate},
		{"send", volume_send},
		{"receive", volume_receive},
		{"import", volume_import},
	};

	for (size_t i = 0; argc > 1 && i < ARRAY_SIZE(actions); i++) {
		if (strcmp(argv[1], actions[i].name) == 0) {
			return actions[i].run(ctl, argc - 1, argv + 1);
		}
	}
	return argc > 1 ? ctl_usage("volume", "there is no action '%s'", argv[1])
			: ctl_usage("volume", "what? create, list, show, snapshot, clone, resize, "
					      "rename, delete, inflate, send, "
					      "receive or import");
}
