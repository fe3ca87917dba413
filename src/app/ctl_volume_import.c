/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth volume import: a volume that begins as an image file, raw or qcow2. The image becomes a read-only bdev, image-VOLUME (on
 * image-VOLUME-file, of qcow2), and the volume a clone of it, at once: what is read first comes from the image. With --copy all
 * of it is copied before the command ends, and the bdevs, then called importing-VOLUME, go again.
 *
 * The bdevs are in the state directory; their UUIDs, by which the volume knows them, are there with them.
 *
 * Invariants
 *  1. What is copied is called VOLUME.importing until all of it is there and flushed: a volume of the final name is complete,
 *     wherever this ended. What one left that was interrupted, volume and bdevs, goes with the next.
 *  2. A bdev of an image that a volume reads from is not touched: its name is passed over.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "app/ctl_nbd.h"
#include "app/ctl_volume.h"
#include "base/check.h"
#include "base/path.h"

#define COMMAND "volume import"
#define BLOCK_SIZE 512
#define ASIDE ".importing"
#define NAMES_MAX 100 /* image-VOLUME, image-VOLUME-2, ... */
#define MIB (UINT64_C(1) << 20)

struct import {
	struct ctl *ctl;
	char *path;
	const char *format; /* "raw" or "qcow2" */
	char *store, *name;
	char *aside;     /* what is copied into is called so */
	char *file_bdev; /* on the file */
	char *bdev;      /* the image: the same, or qcow2's */
	bool made_file, made_image;
};

/* ---- The image ---- */

/* Looked at as berthd's neighbour; whether berthd can read the file it says itself. */
static const char *
format_of(const char *path)
{
	uint8_t magic[4] = {0};
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	bool qcow2 = fd >= 0 && read(fd, magic, sizeof(magic)) == sizeof(magic) &&
		     memcmp(magic, "QFI\xfb", 4) == 0;

	if (fd >= 0) {
		close(fd);
	}
	return qcow2 ? "qcow2" : "raw";
}

static json_t *
new_uuid(void)
{
	char text[UUID_STR_LEN];
	uuid_t uuid;

	uuid_generate(uuid);
	uuid_unparse_lower(uuid, text);
	return json_string(text);
}

static int
make_bdevs(struct import *i)
{
	json_t *params =
		json_pack("{s:s, s:s, s:i, s:b, s:o}", "name", i->file_bdev, "filename", i->path,
			  "block_size", BLOCK_SIZE, "readonly", 1, "uuid", new_uuid());
	int rc = params != NULL ? volume_call(i->ctl, COMMAND, "bdev_aio_create", params)
				: ctl_usage(COMMAND, "the file's name is no UTF-8");

	i->made_file = rc == CTL_OK;
	if (rc == CTL_OK && strcmp(i->format, "qcow2") == 0) {
		rc = volume_call(i->ctl, COMMAND, "bdev_qcow2_create",
				 json_pack("{s:s, s:s, s:o}", "name", i->bdev, "base_bdev_name",
					   i->file_bdev, "uuid", new_uuid()));
		i->made_image = rc == CTL_OK;
	}
	return rc;
}

static void
remove_bdevs(struct import *i)
{
	json_t *result = NULL, *error = NULL;

	if (i->made_image) {
		(void)ctl_call(i->ctl, COMMAND, "bdev_qcow2_delete",
			       json_pack("{s:s}", "name", i->bdev), &result, &error);
	}
	if (i->made_file) {
		(void)ctl_call(i->ctl, COMMAND, "bdev_aio_delete",
			       json_pack("{s:s}", "name", i->file_bdev), &result, &error);
	}
	json_decref(result);
	json_decref(error);
}

/* ---- Copying ---- */

static bool
is_zero(const uint8_t *p, size_t length)
{
	return p[0] == 0 && memcmp(p, p + 1, length - 1) == 0;
}

static int
copy_data(struct ctl_nbd *from, struct ctl_nbd *to, uint8_t *buf)
{
	int rc = CTL_OK;

	for (uint64_t at = 0; at < from->size_bytes && rc == CTL_OK; at += CTL_NBD_MAX) {
		uint32_t part = (uint32_t)MIN(from->size_bytes - at, CTL_NBD_MAX);

		rc = ctl_nbd_read(from, at, buf, part);
		if (rc == CTL_OK && !is_zero(buf, part)) {
			rc = ctl_nbd_write(to, at, buf, part);
		}
	}
	return rc == CTL_OK ? ctl_nbd_flush(to) : rc;
}

static int
copy_into(struct import *i, struct ctl_nbd *from, const char *uuid)
{
	struct ctl_nbd to = {.fd = -1};
	uint8_t *buf = malloc(CTL_NBD_MAX);
	int rc = buf != NULL ? ctl_nbd_open(&to, i->ctl, COMMAND, uuid, true) : CTL_BROKEN;

	if (rc == CTL_OK) {
		rc = copy_data(from, &to, buf);
	}
	ctl_nbd_close(&to);
	free(buf);
	return rc;
}

/* The final name is free; what was interrupted goes. */
static int
make_room(struct import *i)
{
	json_t *volumes = NULL;
	int rc = ctl_call(i->ctl, COMMAND, "bdev_lvol_get_lvols", json_pack("{s:s}", "lvs_name", i->store), &volumes, NULL);
	const json_t *v;
	size_t k;

	json_array_foreach (volumes, k, v) {
		if (rc == CTL_OK && strcmp(volume_text(v, "name"), i->name) == 0) {
			fprintf(stderr, "berth: " COMMAND ": there is a volume '%s/%s' already\n", i->store, i->name);
			rc = CTL_REFUSED;
		} else if (rc == CTL_OK && strcmp(volume_text(v, "name"), i->aside) == 0) {
			rc = volume_drop_left(i->ctl, COMMAND, v);
		}
	}
	json_decref(volumes);
	return rc;
}

/* A volume of its own, as large as the image in whole MiB. */
static int
copy(struct import *i, char **ret_uuid)
{
	struct ctl_nbd from;
	json_t *result = NULL, *error = NULL;
	int rc = ctl_nbd_open(&from, i->ctl, COMMAND, i->bdev, false);

	if (rc == CTL_OK) {
		rc = volume_make(i->ctl, COMMAND, "bdev_lvol_create",
				 json_pack("{s:s, s:s, s:I, s:b, s:s}", "lvs_name", i->store,
					   "lvol_name", i->aside, "size_in_mib",
					   (json_int_t)((from.size_bytes + MIB - 1) / MIB),
					   "thin_provision", 1, "origin", VOLUME_INCOMPLETE),
				 ret_uuid);
	}
	if (rc == CTL_OK) {
		rc = copy_into(i, &from, *ret_uuid);
		if (rc == CTL_OK) {
			rc = volume_complete(i->ctl, COMMAND, *ret_uuid, i->name);
		}
		if (rc != CTL_OK) {
			i->ctl->quiet = true;
			(void)ctl_call(i->ctl, COMMAND, "bdev_lvol_delete", json_pack("{s:s}", "name", *ret_uuid), &result,
				       &error);
		}
	}
	ctl_nbd_close(&from);
	json_decref(result);
	json_decref(error);
	return rc;
}

static int
stand_on(struct import *i, char **ret_uuid)
{
	int rc = volume_make(i->ctl, COMMAND, "bdev_lvol_clone_bdev",
			     json_pack("{s:s, s:s, s:s}", "bdev", i->bdev, "lvs_name", i->store,
				       "clone_name", i->name),
			     ret_uuid);

	if (rc == CTL_REFUSED) {
		fprintf(stderr, "berth: " COMMAND ": with --copy an image may have any size\n");
	}
	return rc;
}

/* ---- The command ---- */

static int
print_result(struct import *i, const char *uuid, bool copied)
{
	json_t *volume = NULL;
	int rc = volume_find(i->ctl, COMMAND, uuid, &volume);

	if (rc == CTL_OK && i->ctl->json) {
		ctl_print_json(volume);
	} else if (rc == CTL_OK) {
		char size[32];

		printf("%s: %s, bdev %s, %s %s\n", volume_text(volume, "alias"),
		       ctl_bytes(volume_number(volume, "size"), size), uuid,
		       copied ? "a copy of" : "reads from", i->path);
	}
	json_decref(volume);
	return rc;
}

static int
names(struct import *i, bool copied, unsigned number)
{
	char behind[16] = "";

	free(i->bdev);
	free(i->file_bdev);
	i->bdev = i->file_bdev = NULL;
	if (number > 1) {
		snprintf(behind, sizeof(behind), "-%u", number);
	}
	if (asprintf(&i->bdev, "%s%s%s", copied ? "importing-" : VOLUME_IMAGE, i->name, behind) < 0) {
		i->bdev = NULL;
		return CTL_BROKEN;
	}
	if (asprintf(&i->file_bdev, "%s%s", i->bdev, strcmp(i->format, "qcow2") == 0 ? "-file" : "") < 0) {
		i->file_bdev = NULL;
		return CTL_BROKEN;
	}
	return CTL_OK;
}

/* What a copy left that was interrupted; --copy comes upon it by itself. */
static int
drop_copied(struct import *i)
{
	bool there;
	int rc = names(i, true, 1);

	if (rc == CTL_OK) {
		rc = volume_drop_image(i->ctl, COMMAND, i->bdev, &there);
	}
	if (rc == CTL_OK) {
		char file[256];

		snprintf(file, sizeof(file), "%s-file", i->bdev);
		rc = volume_drop_image(i->ctl, COMMAND, file, &there);
	}
	return rc;
}

/* Names that nobody has: bdevs that nobody reads from are left of one that was interrupted, and go. */
static int
choose_names(struct import *i, bool copied)
{
	int left = copied ? CTL_OK : drop_copied(i);

	if (left != CTL_OK) {
		return left;
	}
	for (unsigned number = 1; number <= NAMES_MAX; number++) {
		bool there = false;
		int rc = names(i, copied, number);

		if (rc == CTL_OK) {
			rc = volume_drop_image(i->ctl, COMMAND, i->bdev, &there);
		}
		if (rc == CTL_OK && !there && strcmp(i->file_bdev, i->bdev) != 0) {
			rc = volume_drop_image(i->ctl, COMMAND, i->file_bdev, &there);
		}
		if (rc != CTL_OK || !there) {
			return rc;
		}
	}
	fprintf(stderr, "berth: " COMMAND ": bdevs '" VOLUME_IMAGE "%s' to '%s' are all in use\n", i->name, i->bdev);
	return CTL_REFUSED;
}

static int
import(struct import *i, bool copied)
{
	char *uuid = NULL;
	int rc = make_room(i);

	if (rc == CTL_OK) {
		rc = choose_names(i, copied);
	}
	if (rc == CTL_OK) {
		rc = make_bdevs(i);
	}
	if (rc == CTL_OK) {
		rc = copied ? copy(i, &uuid) : stand_on(i, &uuid);
	}
	if (rc != CTL_OK || copied) {
		i->ctl->quiet = rc != CTL_OK;
		remove_bdevs(i);
	}
	if (rc == CTL_OK) {
		rc = print_result(i, uuid, copied);
	}
	free(uuid);
	return rc;
}

int
volume_import(struct ctl *ctl, int argc, char **argv)
{
	struct import i = {.ctl = ctl};
	bool copied = ctl_take_option(&argc, argv, "--copy", NULL) == 1;
	const char *store = NULL;
	int rc;

	if (ctl_take_option(&argc, argv, "--store", &store) < 0 ||
	    ctl_take_option(&argc, argv, "--format", &i.format) < 0) {
		return CTL_USAGE;
	}
	rc = ctl_check_arguments(COMMAND, argc, argv, 2, 2);
	if (rc == CTL_OK && i.format != NULL && strcmp(i.format, "raw") != 0 &&
	    strcmp(i.format, "qcow2") != 0) {
		rc = ctl_usage(COMMAND, "--format is '%s', but must be raw or qcow2", i.format);
	}
	if (rc != CTL_OK) {
		return rc;
	}
	/* Said by what writes to a connection that has ended. */
	signal(SIGPIPE, SIG_IGN);
	i.path = path_absolute(argv[1]);
	i.format = i.format != NULL ? i.format : format_of(argv[1]);
	rc = i.path != NULL ? volume_place(ctl, COMMAND, argv[2], store, &i.store, &i.name)
			    : CTL_BROKEN;
	if (rc == CTL_OK && asprintf(&i.aside, "%s" ASIDE, i.name) < 0) {
		i.aside = NULL;
		rc = CTL_BROKEN;
	}
	if (rc == CTL_OK) {
		rc = import(&i, copied);
	}
	free(i.path);
	free(i.store);
	free(i.name);
	free(i.aside);
	free(i.bdev);
	free(i.file_bdev);
	return rc;
}
