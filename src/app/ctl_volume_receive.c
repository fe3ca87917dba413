/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth volume receive: a stream of berth volume send from standard input becomes a snapshot.
 *
 * Everything is written to a volume aside, NAME.receiving: a new one, or for a difference a clone of the snapshot it is about.
 * Its snapshot is made when the end of the stream has been checked, and knows where it came from from the beginning:
 *
 *	whole:       NAME.receiving -> snapshot -> NAME.receiving becomes NAME
 *	difference:  base -> NAME.receiving -> snapshot -> NAME has the snapshot as its parent, NAME.receiving goes
 *
 * Invariants
 *  1. A snapshot of the stream's name has all of the stream, wherever this ended. What is left aside by one that was interrupted
 *     goes with the next; what that had finished but for the last line above is finished by it.
 *  2. NAME is not touched before its new snapshot is there. A volume that was written to since the base is not received into: it
 *     would lose that.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <uuid/uuid.h>

#include "app/ctl_nbd.h"
#include "app/ctl_stream.h"
#include "app/ctl_volume.h"
#include "base/check.h"

#define COMMAND "volume receive"
#define ASIDE ".receiving"
#define MIB (UINT64_C(1) << 20)

struct receiving {
	struct ctl *ctl;
	struct ctl_nbd nbd;
	struct stream_head head;
	struct stream_sums sums;
	uint8_t *buf; /* STREAM_DATA_MAX */
	char *store, *name, *snapshot;
	char *aside;       /* UUID of what is written to; NULL: there is none */
	char *volume_uuid; /* difference: of NAME */
	bool had_it;       /* the snapshot is there already, and the volume made of it now */
};

static int
refuse(const char *text)
{
	fprintf(stderr, "berth: " COMMAND ": %s\n", text);
	return CTL_REFUSED;
}

/* ---- The stream ---- */

static int
get(void *buf, size_t length)
{
	int rc = ctl_read_all(STDIN_FILENO, buf, length);

	if (rc != 0) {
		fprintf(stderr, "berth: " COMMAND ": %s\n",
			rc == -ENODATA ? "the stream ends before its end" : strerror(-rc));
		return CTL_BROKEN;
	}
	return CTL_OK;
}

static int
get_head(struct receiving *r)
{
	uint8_t in[STREAM_HEAD_MAX];
	struct err err = ERR_NONE;
	size_t bytes;
	int rc = get(in, STREAM_FIXED_BYTES);

	if (rc != CTL_OK) {
		return rc;
	}
	if (stream_head_bytes(in, &bytes, &err) != 0) {
		return refuse(err_text(&err));
	}
	rc = get(in + STREAM_FIXED_BYTES, bytes - STREAM_FIXED_BYTES);
	if (rc == CTL_OK && stream_get_head(in, bytes, &r->head, &err) != 0) {
		rc = refuse(err_text(&err));
	}
	stream_begin(&r->sums, in, bytes);
	return rc;
}

static int
apply(struct receiving *r, const struct stream_record *record)
{
	uint64_t offset = record->offset, left = record->length;
	int rc = CTL_OK;

	if (record->type == STREAM_DATA) {
		return ctl_nbd_write(&r->nbd, offset, r->buf, (uint32_t)left);
	}
	while (rc == CTL_OK && left > 0) {
		uint32_t part = (uint32_t)MIN(left, UINT64_C(1) << 30);

		rc = ctl_nbd_write_zeroes(&r->nbd, offset, part);
		offset += part;
		left -= part;
	}
	return rc;
}

static int
get_record(struct receiving *r, struct stream_record *record)
{
	uint8_t in[STREAM_RECORD_BYTES];
	struct err err = ERR_NONE;
	const void *data = NULL;
	int rc = get(in, sizeof(in));

	if (rc == CTL_OK && stream_get_record(in, &r->head, &r->sums, record, &err) != 0) {
		rc = refuse(err_text(&err));
	}
	if (rc == CTL_OK && record->type == STREAM_DATA) {
		data = r->buf;
		rc = get(r->buf, record->length);
	}
	if (rc == CTL_OK && stream_check_record(in, record, data, &r->sums, &err) != 0) {
		rc = refuse(err_text(&err));
	}
	return rc;
}

/* Nothing follows: what does is another stream perhaps, which would be lost. */
static int
check_end(void)
{
	uint8_t byte;
	int rc = ctl_read_all(STDIN_FILENO, &byte, 1);

	if (rc == 0) {
		return refuse("the stream goes on behind its end: each stream has a receive of its own");
	}
	if (rc != -ENODATA) {
		fprintf(stderr, "berth: " COMMAND ": %s\n", strerror(-rc));
		return CTL_BROKEN;
	}
	return CTL_OK;
}

static int
get_all(struct receiving *r)
{
	struct stream_record record;

	for (;;) {
		int rc = get_record(r, &record);

		if (rc == CTL_OK && record.type == STREAM_END) {
			rc = check_end();
			return rc == CTL_OK ? ctl_nbd_flush(&r->nbd) : rc;
		}
		if (rc == CTL_OK) {
			rc = apply(r, &record);
		}
		if (rc != CTL_OK) {
			return rc;
		}
	}
}

/* ---- Volumes ---- */

/* STORE/NAME and what comes behind it; the caller frees it. */
static char *
alias_of(const struct receiving *r, const char *behind)
{
	char *alias;

	return asprintf(&alias, "%s/%s%s", r->store, r->name, behind) >= 0 ? alias : NULL;
}

static const json_t *
find_in_store(const struct receiving *r, const json_t *volumes, const char *name,
	      const char *behind)
{
	const json_t *found;
	char *alias;

	if (asprintf(&alias, "%s/%s%s", r->store, name, behind) < 0) {
		return NULL;
	}
	found = volume_in(volumes, alias);
	free(alias);
	return found;
}

/* What one left that was interrupted. */
static int
remove_leftovers(struct receiving *r, const json_t *volumes)
{
	const json_t *volume = find_in_store(r, volumes, r->name, ASIDE);

	return volume != NULL ? volume_drop_left(r->ctl, COMMAND, volume) : CTL_OK;
}

/* The snapshot here whose contents are those of that UUID somewhere; NULL: none. */
static const json_t *
find_identity(const struct receiving *r, const json_t *volumes, const uuid_t id)
{
	const json_t *v;
	size_t i;

	json_array_foreach (volumes, i, v) {
		uuid_t own, origin;

		if (strcmp(volume_text(json_object_get(v, "lvs"), "name"), r->store) != 0) {
			continue;
		}
		if ((uuid_parse(volume_text(v, "uuid"), own) == 0 && uuid_compare(own, id) == 0) ||
		    (uuid_parse(volume_text(v, "origin"), origin) == 0 &&
		     uuid_compare(origin, id) == 0)) {
			return v;
		}
	}
	return NULL;
}

static char *
name_aside(const struct receiving *r)
{
	char *name;

	return asprintf(&name, "%s" ASIDE, r->name) >= 0 ? name : NULL;
}

static int
make_whole(struct receiving *r, const json_t *volumes)
{
	char *name = name_aside(r);
	uint64_t mib = r->head.size_bytes / MIB + (r->head.size_bytes % MIB != 0);
	int rc;

	if (find_in_store(r, volumes, r->name, "") != NULL) {
		fprintf(stderr,
			"berth: " COMMAND ": there is a volume '%s/%s', and the stream is a whole "
					  "one: give another name\n",
			r->store, r->name);
		free(name);
		return CTL_REFUSED;
	}
	rc = volume_make(r->ctl, COMMAND, "bdev_lvol_create",
			 json_pack("{s:s, s:s, s:I, s:b, s:s}", "lvs_name", r->store, "lvol_name", name,
				   "size_in_mib", (json_int_t)mib, "thin_provision", 1, "origin", VOLUME_INCOMPLETE),
			 &r->aside);
	free(name);
	return rc;
}

/* NAME is a clone of the base that nobody has written to. */
static int
check_unwritten(struct receiving *r, const json_t *volume, const json_t *base)
{
	json_t *changes = NULL;
	int rc;

	if (strcmp(volume_text(volume, "parent"), volume_text(base, "name")) != 0) {
		fprintf(stderr,
			"berth: " COMMAND ": '%s/%s' is no clone of '%s', the snapshot that the "
					  "stream is a difference to\n",
			r->store, r->name, volume_text(base, "alias"));
		return CTL_REFUSED;
	}
	rc = ctl_call(r->ctl, COMMAND, "bdev_lvol_get_changed_blocks",
		      json_pack("{s:s, s:s, s:i}", "name", volume_text(volume, "uuid"), "since",
				volume_text(base, "uuid"), "max", 1),
		      &changes, NULL);
	if (rc == CTL_OK && json_array_size(json_object_get(changes, "extents")) > 0) {
		fprintf(stderr,
			"berth: " COMMAND ": '%s/%s' was written to since snapshot '%s', and would "
					  "lose that: receive into another "
			"clone of it\n",
			r->store, r->name, volume_text(base, "name"));
		rc = CTL_REFUSED;
	}
	json_decref(changes);
	return rc;
}

static int
make_difference(struct receiving *r, const json_t *volumes)
{
	const json_t *volume = find_in_store(r, volumes, r->name, ""),
		     *base = find_identity(r, volumes, r->head.from);
	char text[UUID_STR_LEN], *name;
	int rc;

	uuid_unparse_lower(r->head.from, text);
	if (base == NULL) {
		fprintf(stderr,
			"berth: " COMMAND ": the stream is what changed since snapshot %s, which "
					  "store '%s' does not have: receive "
			"that one first\n",
			text, r->store);
		return CTL_REFUSED;
	}
	if (volume == NULL) {
		fprintf(stderr,
			"berth: " COMMAND
			": there is no volume '%s/%s' that the difference could be added to\n",
			r->store, r->name);
		return CTL_REFUSED;
	}
	if (volume_number(base, "size") != r->head.size_bytes ||
	    volume_number(volume, "size") != r->head.size_bytes) {
		return refuse("the volume was resized since: the difference does not fit, send all of it anew");
	}
	rc = check_unwritten(r, volume, base);
	if (rc != CTL_OK) {
		return rc;
	}
	name = name_aside(r);
	r->volume_uuid = strdup(volume_text(volume, "uuid"));
	rc = volume_make(r->ctl, COMMAND, "bdev_lvol_clone",
			 json_pack("{s:s, s:s, s:s}", "snapshot_name", volume_text(base, "uuid"),
				   "clone_name", name, "origin", VOLUME_INCOMPLETE),
			 &r->aside);
	free(name);
	return rc;
}

/* ---- One that was interrupted at its very end ---- */

/* The sender would be told that nobody listens. */
static void
drain(struct receiving *r)
{
	while (read(STDIN_FILENO, r->buf, STREAM_DATA_MAX) > 0) {
		continue;
	}
}

static int
had_already(const json_t *snapshot)
{
	fprintf(stderr, "berth: " COMMAND ": the snapshot is there already: '%s'\n",
		volume_text(snapshot, "alias"));
	return CTL_REFUSED;
}

/* NAME is to be of the snapshot, if that is all that is missing. */
static int
finish_old(struct receiving *r, const json_t *volumes, const json_t *snapshot)
{
	const json_t *volume = find_in_store(r, volumes, r->name, ""),
		     *aside = find_in_store(r, volumes, r->name, ASIDE);
	const json_t *base = r->head.difference ? find_identity(r, volumes, r->head.from) : NULL;
	int rc;

	if (aside == NULL ||
	    strcmp(volume_text(aside, "parent"), volume_text(snapshot, "name")) != 0) {
		return had_already(snapshot);
	}
	if (!r->head.difference && volume != NULL) {
		rc = had_already(snapshot);
	} else if (!r->head.difference) {
		rc = volume_complete(r->ctl, COMMAND, volume_text(aside, "uuid"), r->name);
	} else if (volume != NULL && strcmp(volume_text(volume, "parent"), volume_text(snapshot, "name")) == 0) {
		rc = CTL_OK; /* but for the volume aside */
		r->aside = strdup(volume_text(aside, "uuid"));
	} else if (volume == NULL || base == NULL) {
		rc = had_already(snapshot);
	} else {
		rc = check_unwritten(r, volume, base);
		if (rc == CTL_OK) {
			rc = volume_call(r->ctl, COMMAND, "bdev_lvol_set_parent",
					 json_pack("{s:s, s:s}", "lvol_name",
						   volume_text(volume, "uuid"), "parent_name",
						   volume_text(snapshot, "uuid")));
		}
		r->aside = rc == CTL_OK ? strdup(volume_text(aside, "uuid")) : NULL;
	}
	r->had_it = rc == CTL_OK;
	return rc;
}

/* ---- From beginning to end ---- */

static int
prepare(struct receiving *r)
{
	json_t *volumes = NULL;
	int rc = ctl_call(r->ctl, COMMAND, "bdev_lvol_get_lvols",
			  json_pack("{s:s}", "lvs_name", r->store), &volumes, NULL);

	const json_t *old = rc == CTL_OK ? find_identity(r, volumes, r->head.to) : NULL;

	if (old != NULL && strcmp(volume_text(old, "name"), r->snapshot) == 0) {
		rc = finish_old(r, volumes, old);
		json_decref(volumes);
		return rc;
	}
	if (old != NULL) {
		rc = had_already(old);
	} else if (rc == CTL_OK && find_in_store(r, volumes, r->snapshot, "") != NULL) {
		fprintf(stderr,
			"berth: " COMMAND ": there is a volume '%s/%s': say --snapshot NAME\n",
			r->store, r->snapshot);
		rc = CTL_REFUSED;
	}
	if (rc == CTL_OK) {
		rc = remove_leftovers(r, volumes);
	}
	if (rc == CTL_OK) {
		rc = r->head.difference ? make_difference(r, volumes) : make_whole(r, volumes);
	}
	json_decref(volumes);
	return rc;
}

/* The end of the stream was there. */
static int
finish(struct receiving *r)
{
	char *uuid = NULL, origin[UUID_STR_LEN];
	int rc;

	uuid_unparse_lower(r->head.to, origin);
	rc = volume_make(r->ctl, COMMAND, "bdev_lvol_snapshot",
			 json_pack("{s:s, s:s, s:s}", "lvol_name", r->aside, "snapshot_name", r->snapshot, "origin", origin),
			 &uuid);
	if (rc == CTL_OK && r->head.difference) {
		rc = volume_call_long(r->ctl, COMMAND, "bdev_lvol_set_parent",
				      json_pack("{s:s, s:s}", "lvol_name", r->volume_uuid, "parent_name", uuid));
	} else if (rc == CTL_OK) {
		rc = volume_complete(r->ctl, COMMAND, r->aside, r->name);
		free(r->aside);
		r->aside = NULL;
	}
	free(uuid);
	return rc;
}

static void
drop_aside(struct receiving *r)
{
	json_t *result = NULL, *error = NULL;

	if (r->aside != NULL) {
		r->ctl->quiet = true;
		(void)ctl_call(r->ctl, COMMAND, "bdev_lvol_delete",
			       json_pack("{s:s}", "name", r->aside), &result, &error);
	}
	r->ctl->quiet = false;
	json_decref(result);
	json_decref(error);
}

static int
receive(struct receiving *r)
{
	int rc = prepare(r);

	if (rc == CTL_OK && r->had_it) {
		drain(r);
		drop_aside(r);
		return CTL_OK;
	}
	if (rc == CTL_OK) {
		rc = ctl_nbd_open(&r->nbd, r->ctl, COMMAND, r->aside, true);
	}
	if (rc == CTL_OK && r->nbd.size_bytes < r->head.size_bytes) {
		rc = refuse("the volume that was made is too small");
	}
	if (rc == CTL_OK) {
		rc = get_all(r);
	}
	ctl_nbd_close(&r->nbd);
	if (rc == CTL_OK) {
		rc = finish(r);
	}
	drop_aside(r);
	return rc;
}

static int
print_result(struct receiving *r)
{
	char *alias = alias_of(r, "");
	json_t *volume = NULL;
	int rc = CTL_OK;

	if (r->ctl->json) {
		rc = volume_find(r->ctl, COMMAND, alias, &volume);
		if (rc == CTL_OK) {
			ctl_print_json(volume);
		}
		json_decref(volume);
	} else {
		printf("%s: has snapshot %s/%s\n", alias, r->store, r->snapshot);
	}
	free(alias);
	return rc;
}

int
volume_receive(struct ctl *ctl, int argc, char **argv)
{
	struct receiving r = {.ctl = ctl, .nbd = {.fd = -1}};
	const char *store = NULL, *snapshot = NULL;
	int rc;

	if (ctl_take_option(&argc, argv, "--store", &store) < 0 ||
	    ctl_take_option(&argc, argv, "--snapshot", &snapshot) < 0) {
		return CTL_USAGE;
	}
	rc = ctl_check_arguments(COMMAND, argc, argv, 0, 1);
	if (rc == CTL_OK && isatty(STDIN_FILENO)) {
		rc = ctl_usage(
			COMMAND,
			"the stream comes from standard input: a file, or berth volume send");
	}
	if (rc != CTL_OK) {
		return rc;
	}
	signal(SIGPIPE, SIG_IGN);
	r.buf = malloc(STREAM_DATA_MAX);
	rc = r.buf != NULL ? get_head(&r) : CTL_BROKEN;
	if (rc == CTL_OK) {
		rc = volume_place(ctl, COMMAND, argc > 1 ? argv[1] : r.head.volume, store, &r.store,
				  &r.name);
	}
	if (rc == CTL_OK) {
		r.snapshot = strdup(snapshot != NULL ? snapshot : r.head.snapshot);
		rc = receive(&r);
	}
	if (rc == CTL_OK) {
		rc = print_result(&r);
	}
	free(r.buf);
	free(r.store);
	free(r.name);
	free(r.snapshot);
	free(r.aside);
	free(r.volume_uuid);
	return rc;
}
