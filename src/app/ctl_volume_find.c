/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "app/ctl_volume.h"

#define MIB (UINT64_C(1) << 20)
#define LONG_TIMEOUT_S (7u * 86400)

const char *
volume_text(const json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text != NULL ? text : "";
}

uint64_t
volume_number(const json_t *object, const char *key)
{
	json_int_t number = json_integer_value(json_object_get(object, key));

	return number > 0 ? (uint64_t)number : 0;
}

/* ---- Finding ---- */

static bool
is_called(const json_t *volume, const char *name)
{
	return strcmp(volume_text(volume, "alias"), name) == 0 ||
	       strcmp(volume_text(volume, "uuid"), name) == 0 ||
	       (strchr(name, '/') == NULL && strcmp(volume_text(volume, "name"), name) == 0);
}

const json_t *
volume_in(const json_t *volumes, const char *name)
{
	const json_t *v;
	size_t i;

	json_array_foreach (volumes, i, v) {
		if (is_called(v, name)) {
			return v;
		}
	}
	return NULL;
}

static unsigned
count_of(const json_t *volumes, const char *name)
{
	unsigned count = 0;
	const json_t *v;
	size_t i;

	json_array_foreach (volumes, i, v) {
		count += is_called(v, name);
	}
	return count;
}

int
volume_find(struct ctl *ctl, const char *command, const char *name, json_t **ret)
{
	json_t *volumes = NULL;
	int rc = ctl_call(ctl, command, "bdev_lvol_get_lvols", NULL, &volumes, NULL);

	if (rc == CTL_OK && count_of(volumes, name) > 1) {
		fprintf(stderr, "berth: %s: several stores have a volume '%s': say STORE/%s\n",
			command, name, name);
		rc = CTL_REFUSED;
	} else if (rc == CTL_OK) {
		*ret = json_incref((json_t *)volume_in(volumes, name));
		if (*ret == NULL) {
			fprintf(stderr, "berth: %s: there is no volume '%s'\n", command, name);
			rc = CTL_REFUSED;
		}
	}
	json_decref(volumes);
	return rc;
}

/* ---- Where a new one goes ---- */

static int
choose_store(struct ctl *ctl, const char *command, char **ret)
{
	json_t *stores = NULL;
	int rc = ctl_call(ctl, command, "bdev_lvol_get_lvstores", NULL, &stores, NULL);
	const json_t *store;
	size_t i;

	*ret = NULL;
	if (rc != CTL_OK) {
		return rc;
	}
	json_array_foreach (stores, i, store) {
		if (json_array_size(stores) == 1 ||
		    strcmp(volume_text(store, "name"), CTL_STORE_OF_DISKS) == 0) {
			*ret = strdup(volume_text(store, "name"));
		}
	}
	if (*ret == NULL) {
		fprintf(stderr,
			json_array_size(stores) == 0
				? "berth: %s: there is no volume store; berth store create makes "
				  "one, and berth disk create does\n"
				: "berth: %s: there are several volume stores: say --store NAME, "
				  "or STORE/NAME\n",
			command);
		rc = CTL_REFUSED;
	}
	json_decref(stores);
	return rc;
}

int
volume_place(struct ctl *ctl, const char *command, const char *name, const char *store,
	     char **ret_store, char **ret_name)
{
	const char *slash = strchr(name, '/');
	json_t *text = json_string(name);
	int rc = CTL_OK;

	if (text == NULL) {
		return ctl_usage(command, "the name is no UTF-8");
	}
	json_decref(text);
	*ret_store = NULL;
	*ret_name = NULL;
	if (slash != NULL && store != NULL) {
		return ctl_usage(command, "the store is said twice: by --store and in '%s'", name);
	}
	if (slash != NULL) {
		*ret_store = strndup(name, (size_t)(slash - name));
	} else if (store != NULL) {
		*ret_store = strdup(store);
	} else {
		rc = choose_store(ctl, command, ret_store);
	}
	if (rc == CTL_OK) {
		*ret_name = strdup(slash != NULL ? slash + 1 : name);
	}
	return rc;
}

int
volume_size_in_mib(const char *command, const char *text, uint64_t *ret_mib)
{
	struct err err = ERR_NONE;
	uint64_t bytes;

	if (ctl_size(text, &bytes, &err) != 0) {
		return ctl_usage(command, "%s", err_text(&err));
	}
	*ret_mib = bytes / MIB + (bytes % MIB != 0);
	return CTL_OK;
}

/* ---- Calls ---- */

int
volume_call(struct ctl *ctl, const char *command, const char *method, json_t *params)
{
	json_t *result = NULL;
	int rc = ctl_call(ctl, command, method, params, &result, NULL);

	json_decref(result);
	return rc;
}

int
volume_make(struct ctl *ctl, const char *command, const char *method, json_t *params,
	    char **ret_uuid)
{
	json_t *result = NULL;
	int rc = ctl_call(ctl, command, method, params, &result, NULL);

	if (rc == CTL_OK) {
		*ret_uuid =
			strdup(json_string_value(result) != NULL ? json_string_value(result) : "");
	}
	json_decref(result);
	return rc;
}

int
volume_call_long(struct ctl *ctl, const char *command, const char *method, json_t *params)
{
	unsigned timeout_s = ctl->timeout_s;
	int rc;

	ctl->timeout_s = LONG_TIMEOUT_S;
	rc = volume_call(ctl, command, method, params);
	ctl->timeout_s = timeout_s;
	return rc;
}

/* ---- Bdevs of images ---- */

/* Of an aio bdev, which is a file that is only read; of qcow2. */
static const char *
image_deleter(const json_t *bdev)
{
	const json_t *specific = json_object_get(bdev, "driver_specific");

	if (json_is_true(json_object_get(json_object_get(specific, "aio"), "readonly"))) {
		return "bdev_aio_delete";
	}
	return json_object_get(specific, "qcow2") != NULL ? "bdev_qcow2_delete" : NULL;
}

int
volume_drop_image(struct ctl *ctl, const char *command, const char *name, bool *ret_there)
{
	json_t *bdevs = NULL, *error = NULL, *result = NULL;
	int rc = ctl_call(ctl, command, "bdev_get_bdevs", json_pack("{s:s}", "name", name), &bdevs, &error);
	const json_t *bdev = rc == CTL_OK ? json_array_get(bdevs, 0) : NULL;
	const char *method = bdev != NULL ? image_deleter(bdev) : NULL;

	*ret_there = bdev != NULL;
	if (error != NULL) {
		rc = CTL_OK; /* there is none */
	} else if (method != NULL && !json_is_true(json_object_get(bdev, "claimed"))) {
		rc = ctl_call(ctl, command, method, json_pack("{s:s}", "name", name), &result, NULL);
		*ret_there = rc != CTL_OK;
	}
	json_decref(bdevs);
	json_decref(error);
	json_decref(result);
	return rc;
}

/* ---- What is not complete ---- */

#define LEFT_TRIES 300u
#define LEFT_SAID 20u
#define LEFT_WAIT_US 100000u

int
volume_complete(struct ctl *ctl, const char *command, const char *uuid, const char *name)
{
	return volume_call(ctl, command, "bdev_lvol_rename",
			   json_pack("{s:s, s:s, s:b}", "old_name", uuid, "new_name", name, "drop_origin", 1));
}

int
volume_drop_left(struct ctl *ctl, const char *command, const json_t *volume)
{
	int rc = CTL_OK;

	if (strcmp(volume_text(volume, "origin"), VOLUME_INCOMPLETE) != 0) {
		fprintf(stderr,
			"berth: %s: the name '%s' is needed, and that volume is not left of an earlier one: rename it\n",
			command, volume_text(volume, "alias"));
		return CTL_REFUSED;
	}
	for (unsigned tries = 0; tries <= LEFT_TRIES; tries++) {
		json_t *result = NULL, *error = NULL;
		bool last = tries == LEFT_TRIES, busy;

		rc = ctl_call(ctl, command, "bdev_lvol_delete",
			      json_pack("{s:s, s:b}", "name", volume_text(volume, "uuid"), "unneeded", 1), &result,
			      last ? NULL : &error);
		busy = error != NULL && json_integer_value(json_object_get(error, "code")) == -EBUSY;
		json_decref(result);
		json_decref(error);
		if (rc != CTL_REFUSED || last) {
			break;
		}
		if (busy) {
			/* berthd sees a moment later that its user was killed; one that lives is nobody's left-over. */
			if (tries == LEFT_SAID) {
				fprintf(stderr, "berth: %s: in use; this waits for up to %u s\n",
					volume_text(volume, "alias"), LEFT_TRIES * LEFT_WAIT_US / 1000000u);
			}
			usleep(LEFT_WAIT_US);
		} else {
			tries = LEFT_TRIES - 1; /* once more, and it is said why not */
		}
	}
	return rc;
}
