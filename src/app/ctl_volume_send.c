/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * berth volume send: a snapshot as a stream on standard output, or what it changed since an earlier one. berthd says where there
 * is data, or what has changed (bdev_lvol_get_changed_blocks), and the data comes over NBD.
 *
 * Invariants
 *  1. What is sent is a snapshot: nobody changes it meanwhile. Of a volume one is made, which stays: later differences need it.
 *  2. Nothing but the stream goes to standard output.
 *  3. The end record is written only when all before it was.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "app/ctl_nbd.h"
#include "app/ctl_stream.h"
#include "app/ctl_volume.h"
#include "base/check.h"

#define COMMAND "volume send"
#define EXTENTS_MAX 16384
/* What is all zero is found in pieces of this size. */
#define PIECE 65536u

struct sending {
	struct ctl *ctl;
	struct ctl_nbd nbd;
	struct stream_head head;
	struct stream_sums sums;
	const char *uuid;  /* of the snapshot */
	const char *since; /* NULL: all of it */
	uint8_t *buf;      /* STREAM_DATA_MAX */
};

/* ---- The stream ---- */

static int
put(const void *data, size_t length)
{
	int rc = ctl_write_all(STDOUT_FILENO, data, length);

	if (rc != 0) {
		fprintf(stderr, "berth: " COMMAND ": the stream cannot be written: %s\n",
			strerror(-rc));
		return CTL_BROKEN;
	}
	return CTL_OK;
}

static int
put_record(struct sending *s, enum stream_type type, uint64_t offset, uint64_t length,
	   const uint8_t *data)
{
	uint8_t out[STREAM_RECORD_BYTES];
	int rc;

	stream_put_record(out, &s->sums, type, offset, length, data);
	rc = put(out, sizeof(out));
	return rc == CTL_OK && data != NULL ? put(data, length) : rc;
}

static bool
is_zero(const uint8_t *p, size_t length)
{
	return p[0] == 0 && memcmp(p, p + 1, length - 1) == 0;
}

/* Data that is all zero is not sent as such: a whole snapshot leaves it out, a difference says so. */
static int
put_data(struct sending *s, uint64_t offset, uint32_t length)
{
	int rc = CTL_OK;

	for (uint32_t at = 0, end; at < length && rc == CTL_OK; at = end) {
		bool zero = is_zero(s->buf + at, MIN(PIECE, length - at));

		end = at;
		while (end < length && is_zero(s->buf + end, MIN(PIECE, length - end)) == zero) {
			end = MIN(end + PIECE, length);
		}
		if (!zero) {
			rc = put_record(s, STREAM_DATA, offset + at, end - at, s->buf + at);
		} else if (s->head.difference) {
			rc = put_record(s, STREAM_ZEROES, offset + at, end - at, NULL);
		}
	}
	return rc;
}

static int
send_extent(struct sending *s, uint64_t offset, uint64_t length, bool zero)
{
	int rc = CTL_OK;

	if (zero) {
		return s->head.difference ? put_record(s, STREAM_ZEROES, offset, length, NULL)
					  : CTL_OK;
	}
	while (length > 0 && rc == CTL_OK) {
		uint32_t part = (uint32_t)MIN(length, STREAM_DATA_MAX);

		rc = ctl_nbd_read(&s->nbd, offset, s->buf, part);
		if (rc == CTL_OK) {
			rc = put_data(s, offset, part);
		}
		offset += part;
		length -= part;
	}
	return rc;
}

/* One answer of berthd; *offset goes on to where the next begins, or beyond the end. */
static int
send_part(struct sending *s, uint64_t *offset)
{
	json_t *params = json_pack("{s:s, s:I, s:i}", "name", s->uuid, "offset",
				   (json_int_t)*offset, "max", EXTENTS_MAX);
	json_t *changes = NULL, *e;
	size_t i;
	int rc;

	if (s->since != NULL) {
		json_object_set_new(params, "since", json_string(s->since));
	}
	rc = ctl_call(s->ctl, COMMAND, "bdev_lvol_get_changed_blocks", params, &changes, NULL);
	json_array_foreach (json_object_get(changes, "extents"), i, e) {
		if (rc == CTL_OK) {
			rc = send_extent(s, volume_number(e, "offset"), volume_number(e, "length"),
					 json_is_true(json_object_get(e, "zero")));
		}
	}
	*offset = json_is_integer(json_object_get(changes, "next_offset"))
			  ? volume_number(changes, "next_offset")
			  : UINT64_MAX;
	json_decref(changes);
	return rc;
}

static int
send_all(struct sending *s)
{
	uint8_t head[STREAM_HEAD_MAX];
	size_t bytes = stream_put_head(head, &s->head);
	int rc = put(head, bytes);

	stream_begin(&s->sums, head, bytes);
	for (uint64_t offset = 0; rc == CTL_OK && offset < s->head.size_bytes;) {
		rc = send_part(s, &offset);
	}
	return rc == CTL_OK ? put_record(s, STREAM_END, 0, 0, NULL) : rc;
}

/* ---- What to send ---- */

/* Snapshots of a name and the time have room for both. */
static void
name_of_snapshot(char *out, size_t size, const char *volume)
{
	time_t now = time(NULL);
	struct tm tm;
	char when[20];

	gmtime_r(&now, &tm);
	strftime(when, sizeof(when), "%Y%m%dT%H%M%SZ", &tm);
	snprintf(out, size, "%.40s@%.19s", volume, when);
}

/* The snapshot itself, or one that is made of the volume now: *volume is replaced. */
static int
ensure_snapshot(struct ctl *ctl, json_t **volume, const char *name)
{
	char given[64], *uuid = NULL;
	int rc;

	if (json_is_true(json_object_get(*volume, "readonly"))) {
		return name == NULL ? CTL_OK
				    : ctl_usage(COMMAND,
						"--snapshot is for volumes that are written to");
	}
	if (name == NULL) {
		name_of_snapshot(given, sizeof(given), volume_text(*volume, "name"));
		name = given;
	}
	rc = volume_make(ctl, COMMAND, "bdev_lvol_snapshot",
			 json_pack("{s:s, s:s}", "lvol_name", volume_text(*volume, "uuid"),
				   "snapshot_name", name),
			 &uuid);
	if (rc == CTL_OK) {
		fprintf(stderr,
			"berth: " COMMAND
			": sends snapshot %s, which stays: --from %s sends what changes after it\n",
			name, name);
		json_decref(*volume);
		*volume = NULL;
		rc = volume_find(ctl, COMMAND, uuid, volume);
	}
	free(uuid);
	return rc;
}

/* A name of the stream: cut where it is too long. */
static void
take_name(char out[static STREAM_NAME_MAX + 1], const char *name)
{
	snprintf(out, STREAM_NAME_MAX + 1, "%s", name);
}

/* What its contents are known by, everywhere: where it came from, else its own UUID. False: it has none. */
static bool
identity(const json_t *snapshot, uuid_t ret)
{
	const char *origin = volume_text(snapshot, "origin");

	return uuid_parse(origin[0] != '\0' ? origin : volume_text(snapshot, "uuid"), ret) == 0;
}

static int
run(struct ctl *ctl, const json_t *snapshot, const json_t *from, const char *volume_name)
{
	struct sending s = {.ctl = ctl, .uuid = volume_text(snapshot, "uuid"), .nbd = {.fd = -1}};
	int rc;

	s.head.size_bytes = volume_number(snapshot, "size");
	s.head.block_bytes = 512;
	take_name(s.head.volume, volume_name);
	take_name(s.head.snapshot, volume_text(snapshot, "name"));
	if (!identity(snapshot, s.head.to) || (from != NULL && !identity(from, s.head.from))) {
		fprintf(stderr, "berth: " COMMAND ": a snapshot has no UUID that could be sent\n");
		return CTL_REFUSED;
	}
	if (from != NULL) {
		s.since = volume_text(from, "uuid");
		s.head.difference = true;
	}
	s.buf = malloc(STREAM_DATA_MAX);
	rc = s.buf != NULL ? ctl_nbd_open(&s.nbd, ctl, COMMAND, s.uuid, false) : CTL_BROKEN;
	if (rc == CTL_OK) {
		rc = send_all(&s);
	}
	ctl_nbd_close(&s.nbd);
	free(s.buf);
	return rc;
}

int
volume_send(struct ctl *ctl, int argc, char **argv)
{
	const char *from_name = NULL, *snapshot_name = NULL;
	json_t *volume = NULL, *from = NULL;
	char *name = NULL;
	int rc;

	if (ctl_take_option(&argc, argv, "--from", &from_name) < 0 ||
	    ctl_take_option(&argc, argv, "--snapshot", &snapshot_name) < 0) {
		return CTL_USAGE;
	}
	rc = ctl_check_arguments(COMMAND, argc, argv, 1, 1);
	if (rc == CTL_OK && isatty(STDOUT_FILENO)) {
		rc = ctl_usage(
			COMMAND,
			"the stream is nothing for a terminal: send it to a file or a program");
	}
	if (rc != CTL_OK) {
		return rc;
	}
	/* A reader that goes is an error with words. */
	signal(SIGPIPE, SIG_IGN);
	rc = volume_find(ctl, COMMAND, argv[1], &volume);
	if (rc == CTL_OK && from_name != NULL) {
		rc = volume_find(ctl, COMMAND, from_name, &from);
	}
	if (rc == CTL_OK) {
		name = strdup(volume_text(volume, "name"));
		rc = ensure_snapshot(ctl, &volume, snapshot_name);
	}
	if (rc == CTL_OK) {
		rc = run(ctl, volume, from, name);
	}
	free(name);
	json_decref(volume);
	json_decref(from);
	return rc;
}
