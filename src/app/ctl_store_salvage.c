/* SPDX-License-Identifier: BSD-3-Clause */
/* berth store salvage: what volumes hold, out of a store that is damaged, into sparse files. The store is only read.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "app/ctl_store.h"
#include "app/store_file.h"

#define COMMAND "store salvage"

struct target {
	struct ctl *ctl;
	const char *dir;
	char file[PATH_MAX];
	int fd;
	uint64_t lost;
	json_t *report; /* of all volumes */
};

static int
write_piece(void *ctx, uint64_t at, const void *buf, size_t bytes)
{
	const struct target *t = ctx;
	size_t done = 0;

	while (done < bytes) {
		ssize_t n = pwrite(t->fd, (const char *)buf + done, bytes - done, (off_t)(at + done));

		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		done += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static void
lost_piece(void *ctx, uint64_t at, uint64_t bytes, const char *why)
{
	struct target *t = ctx;

	t->lost += bytes;
	fprintf(stderr, "berth " COMMAND ": %s: %" PRIu64 " bytes from %" PRIu64 " on are lost: %s\n", t->file, bytes,
		at, why);
}

/* What the volume's file is called: its name, as far as a file may be called so, else its blob id. */
static void
name_file(struct target *t, const struct blob_survey_blob *blob, bool with_id)
{
	const char *name = blob_survey_text(blob, "name");
	char safe[96];
	size_t n = 0;

	for (; name != NULL && name[n] != '\0' && n < sizeof(safe) - 1; n++) {
		safe[n] =
			name[n] == '/' || (name[n] == '.' && n == 0) || (unsigned char)name[n] < ' ' ? '_' : name[n];
	}
	safe[n] = '\0';
	if (n == 0 || with_id) {
		snprintf(t->file, sizeof(t->file), "%s/%s%s0x%" PRIx64 ".raw", t->dir, safe, n == 0 ? "" : "-",
			 blob->id);
	} else {
		snprintf(t->file, sizeof(t->file), "%s/%s.raw", t->dir, safe);
	}
}

static int
open_file(struct target *t, const struct blob_survey_blob *blob)
{
	/* Two volumes of a damaged store may have the same name; what is there is never written to. */
	for (int with_id = 0; with_id < 2; with_id++) {
		name_file(t, blob, with_id != 0);
		t->fd = open(t->file, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (t->fd >= 0 || errno != EEXIST) {
			break;
		}
	}
	return t->fd >= 0 ? 0 : -errno;
}

static int
save_volume(struct target *t, const struct blob_survey *survey, const struct blob_survey_blob *blob)
{
	const struct blob_salvage to = {.write = write_piece, .lost = lost_piece, .ctx = t};
	uint64_t clusters = blob_salvage_clusters(survey, blob);
	uint64_t bytes = clusters * survey->super.cluster_bytes;
	struct err err = ERR_NONE;
	int rc = open_file(t, blob);

	t->lost = 0;
	if (rc == 0 && blob->damage.code != 0) {
		fprintf(stderr, "berth " COMMAND ": %s: %s\n", t->file, blob->damage.text);
	}
	if (rc == 0 && clusters < blob->num_clusters) {
		fprintf(stderr,
			"berth " COMMAND ": %s: its extents promise %" PRIu64 " clusters, but no more than %" PRIu64
			" can be there: the file ends with those\n",
			t->file, blob->num_clusters, clusters);
	}
	if (rc == 0 && ftruncate(t->fd, (off_t)bytes) != 0) {
		rc = -errno;
	}
	if (rc == 0) {
		rc = blob_salvage(survey, blob, &to);
	}
	if (rc == 0 && fsync(t->fd) != 0) {
		rc = -errno;
	}
	if (t->fd >= 0 && close(t->fd) != 0 && rc == 0) {
		rc = -errno;
	}
	if (rc != 0) {
		err_set(&err, rc, "%s", strerror(-rc));
		return store_failed(COMMAND, t->file, &err);
	}
	if (t->ctl->json) {
		json_array_append_new(t->report,
				      json_pack("{s:o, s:I, s:I, s:b}", "file",
						ctl_store_text(t->file, strlen(t->file)), "size", (json_int_t)bytes,
						"lost", (json_int_t)t->lost, "damaged", blob->damage.code != 0));
	} else {
		printf("%s: %" PRIu64 " bytes%s\n", t->file, bytes,
		       t->lost != 0 || blob->damage.code != 0 ? ", not all of them" : "");
	}
	return t->lost != 0 || blob->damage.code != 0 ? STORE_DAMAGED : STORE_CLEAN;
}

/* By name, UUID or blob id. */
static bool
is_called(const struct blob_survey_blob *blob, const char *text)
{
	const char *name = blob_survey_text(blob, "name"), *uuid = blob_survey_text(blob, "uuid");
	char id[24];

	snprintf(id, sizeof(id), "0x%" PRIx64, blob->id);
	return (name != NULL && strcmp(name, text) == 0) || (uuid != NULL && strcasecmp(uuid, text) == 0) ||
	       strcasecmp(id, text) == 0;
}

static int
worse(int a, int b)
{
	return a > b ? a : b;
}

static int
save_named(struct target *t, const struct blob_survey *survey, const char *text)
{
	struct err err = ERR_NONE;
	bool found = false;
	int code = STORE_CLEAN;

	for (uint32_t i = 0; i < survey->num_blobs; i++) {
		if (is_called(&survey->blobs[i], text)) {
			found = true;
			code = worse(code, save_volume(t, survey, &survey->blobs[i]));
		}
	}
	if (!found) {
		err_set(&err, -ENOENT, "there is no such volume (name, UUID or blob id)");
		code = store_failed(COMMAND, text, &err);
	}
	return code;
}

static int
save_all(struct target *t, const struct blob_survey *survey)
{
	int code = STORE_CLEAN;

	for (uint32_t i = 0; i < survey->num_blobs; i++) {
		const struct blob_survey_blob *blob = &survey->blobs[i];

		/* The super blob has no data. */
		if ((blob->num_clusters != 0 || blob->damage.code != 0) && blob->id != survey->super.super_blob) {
			code = worse(code, save_volume(t, survey, blob));
		}
	}
	for (uint32_t i = 0; i < survey->num_bad; i++) {
		fprintf(stderr,
			"berth " COMMAND ": metadata page %" PRIu32 " is damaged: if blob 0x%" PRIx64
			" began there, it is lost\n",
			survey->bad[i], BLOB_ID_BASE + survey->bad[i]);
	}
	return survey->num_bad != 0 ? worse(code, STORE_DAMAGED) : code;
}

static int
run_salvage(struct target *t, const struct blob_survey *survey, int argc, char **argv)
{
	struct err err = ERR_NONE;
	int code = STORE_CLEAN;

	if (mkdir(t->dir, 0700) != 0 && errno != EEXIST) {
		err_set(&err, -errno, "%s", strerror(errno));
		return store_failed(COMMAND, t->dir, &err);
	}
	if (argc == 0) {
		code = save_all(t, survey);
	}
	for (int i = 0; i < argc; i++) {
		code = worse(code, save_named(t, survey, argv[i]));
	}
	return code;
}

int
ctl_store_salvage(struct ctl *ctl, int argc, char **argv)
{
	struct target t = {.ctl = ctl, .fd = -1};
	struct blob_survey *survey = NULL;
	struct store_file file;
	struct err err = ERR_NONE;
	uint32_t cluster_bytes;
	bool guessed;
	int rc = store_take_cluster_size(COMMAND, &argc, argv, &cluster_bytes);

	if (rc == CTL_OK) {
		rc = ctl_check_arguments(COMMAND, argc, argv, 2, INT32_MAX);
	}
	if (rc != CTL_OK) {
		return rc;
	}
	if (store_file_open(&file, argv[1], false, &err) != 0) {
		return store_failed(COMMAND, argv[1], &err);
	}
	if (store_file_survey(&file, cluster_bytes, &survey, &guessed, &err) != 0) {
		rc = store_failed(COMMAND, argv[1], &err);
	} else {
		if (guessed) {
			fprintf(stderr,
				"berth " COMMAND ": %s: %s; goes by what is left: clusters of %" PRIu32 " bytes\n",
				argv[1], survey->super_err.text, survey->super.cluster_bytes);
		}
		t.dir = argv[2];
		t.report = json_array();
		rc = run_salvage(&t, survey, argc - 3, argv + 3);
		if (ctl->json) {
			ctl_print_json(t.report);
		}
		json_decref(t.report);
	}
	blob_survey_free(survey);
	store_file_close(&file);
	return rc;
}
