/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The super blob, and what a store of logical volumes writes into xattrs: "name" and "uuid", texts with their
 * terminating zero, unique in the store (of the store itself they are the super blob's).
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "blob/check_internal.h"
#include "blob/survey.h"

#define NAME_BYTES 64u

/* A super blob of a store of volumes: it has no clusters, but a name and a UUID. */
static struct blob_survey_blob *
find_super(const struct blob_survey *s)
{
	struct blob_survey_blob *found = NULL;

	for (uint32_t i = 0; i < s->num_blobs; i++) {
		struct blob_survey_blob *blob = &s->blobs[i];

		if (!blob->drop && blob->num_clusters == 0 && blob_survey_text(blob, "name") != NULL &&
		    blob_survey_text(blob, "uuid") != NULL) {
			if (found != NULL) {
				return NULL;
			}
			found = blob;
		}
	}
	return found;
}

static void
check_super_blob(struct check *c)
{
	struct blob_survey *s = c->survey;
	uint64_t id = s->super.super_blob;
	struct blob_survey_blob *blob = id == BLOB_ID_NONE ? NULL : blob_survey_find(s, id);
	struct blob_survey_blob *better;

	if ((blob != NULL && !blob->drop) || (id == BLOB_ID_NONE && (!c->lvol || s->num_blobs == 0))) {
		return;
	}
	better = c->lvol ? find_super(s) : NULL;
	check_note(c, BLOB_FINDING_SUPER_BLOB, BLOB_ID_NONE,
		   better != NULL       ? "the one that looks like it is named"
		   : id == BLOB_ID_NONE ? ""
					: "the super block names none any more",
		   id == BLOB_ID_NONE ? "the store of volumes has no super blob"
				      : "the super blob 0x%" PRIx64 " is not there, or broken",
		   id);
	s->super.super_blob = better != NULL ? better->id : BLOB_ID_NONE;
}

/* A name of the id, behind as much of the old one as there is room for. */
static void
rename_blob(struct check *c, struct blob_survey_blob *blob, const char *old)
{
	char text[NAME_BYTES];

	snprintf(text, sizeof(text), "%.40s_%" PRIx64, old, blob->id);
	if (survey_set_xattr(blob, false, "name", text, (uint16_t)(strlen(text) + 1)) != 0) {
		c->no_memory = true;
	}
}

static void
drop_uuid(struct blob_survey_blob *blob)
{
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		if (!blob->xattrs[i].internal && strcmp(blob->xattrs[i].name, "uuid") == 0) {
			survey_drop_xattr(blob, i);
			return;
		}
	}
}

struct named {
	const char *text;
	struct blob_survey_blob *blob;
};

static int
compare_named(const void *a, const void *b)
{
	const struct named *x = a, *y = b;
	int order = strcmp(x->text, y->text);

	return order != 0 ? order : x->blob->id < y->blob->id ? -1 : x->blob->id > y->blob->id;
}

/* Of those that bear the same text all but the first one change it. */
static void
check_unique(struct check *c, const char *xattr, bool uuid)
{
	struct blob_survey *s = c->survey;
	struct named *all = calloc(s->num_blobs + 1u, sizeof(*all));
	uint32_t count = 0;

	if (all == NULL) {
		c->no_memory = true;
		return;
	}
	for (uint32_t i = 0; i < s->num_blobs; i++) {
		const char *text = blob_survey_text(&s->blobs[i], xattr);

		/* The store has its own name; it may be that of a volume. */
		if (!s->blobs[i].drop && text != NULL && s->blobs[i].id != s->super.super_blob) {
			all[count++] = (struct named){text, &s->blobs[i]};
		}
	}
	qsort(all, count, sizeof(*all), compare_named);
	for (uint32_t i = count; i-- > 1;) {
		if (strcmp(all[i].text, all[i - 1].text) != 0) {
			continue;
		}
		check_note(c, BLOB_FINDING_NAME, all[i].blob->id,
			   uuid ? "it loses the UUID, and is known by its blob id"
				: "its blob id is put behind its name",
			   "blobs 0x%" PRIx64 " and 0x%" PRIx64 " have the same %s \"%.64s\"", all[i - 1].blob->id,
			   all[i].blob->id, xattr, all[i].text);
		if (uuid) {
			drop_uuid(all[i].blob);
		} else {
			rename_blob(c, all[i].blob, all[i].text);
		}
	}
	free(all);
}

static void
check_named(struct check *c)
{
	struct blob_survey *s = c->survey;

	for (uint32_t i = 0; i < s->num_blobs; i++) {
		struct blob_survey_blob *blob = &s->blobs[i];
		const char *name = blob_survey_text(blob, "name");

		/* A chain that ends early may have lost it: then that is the finding. */
		if (blob->drop || blob->sealed || (name != NULL && name[0] != '\0' && strlen(name) < NAME_BYTES)) {
			continue;
		}
		check_note(c, BLOB_FINDING_NAME, blob->id, "it gets a name of its blob id",
			   "blob 0x%" PRIx64 " has no name", blob->id);
		rename_blob(c, blob, "blob");
	}
}

void
check_names(struct check *c)
{
	check_super_blob(c);
	if (c->lvol) {
		check_named(c);
		check_unique(c, "uuid", true);
		check_unique(c, "name", false);
	}
}
