/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What was under way when power failed, by the rules of the next load (snapshot.c, merge.c say where the marks come from):
 *
 *	SNAPTMP, SNAPRM     the snapshot stays when somebody stands on it, or the other one is gone; else it goes, and what it
 *	                    has belongs to the other one
 *	intent of a group   all of its originals stand on their snapshots, the ones that do not yet are made to
 *	BERTHDEL            the snapshot stays as long as it has clones (check.c)
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/bytes.h"
#include "blob/check_internal.h"
#include "blob/survey.h"

#define INTENT "BERTHGROUP"
#define PAIR_BYTES 16u /* of an intent: the original's id, its snapshot's */

/* The original gives what it has to its snapshot, which has the same already, and stands on it. */
static void
stand_on(struct check *c, struct blob_survey_blob *original, uint64_t snapshot)
{
	free(original->runs);
	free(original->extents);
	original->runs = NULL;
	original->extents = NULL;
	original->num_runs = original->num_extents = 0;
	original->allocated = 0;
	original->flags.invalid |= BLOB_INVALID_THIN | BLOB_INVALID_INTERNAL_XATTR;
	original->flags.invalid &= ~BLOB_INVALID_EXTERNAL;
	survey_stand_on(c->survey, original, snapshot);
	survey_drop_internal(original, BLOB_XATTR_EXTERNAL);
	if (survey_set_xattr(original, true, BLOB_XATTR_PARENT, &snapshot, sizeof(snapshot)) != 0) {
		c->no_memory = true;
	}
}

static void
roll_forward(struct check *c, struct blob_survey_blob *first, const struct blob_survey_xattr *intent)
{
	if (intent->bytes % PAIR_BYTES != 0) {
		check_note(c, BLOB_FINDING_XATTR, first->id, "it is removed",
			   "%s: the intent of its group of snapshots has no form", check_call(c, first));
		survey_drop_internal(first, INTENT);
		return;
	}
	check_note(c, BLOB_FINDING_GROUP, first->id, "it is finished",
		   "a group of %u snapshots was being made when power failed: the next load finishes it",
		   intent->bytes / PAIR_BYTES);
	for (uint32_t at = 0; at < intent->bytes; at += PAIR_BYTES) {
		uint64_t snapshot = get64(intent->value + at + 8);
		struct blob_survey_blob *original = blob_survey_find(c->survey, get64(intent->value + at));
		struct blob_survey_blob *s = blob_survey_find(c->survey, snapshot);

		if (original != NULL && s != NULL && !original->sealed && original->parent != snapshot &&
		    s->making == original->id) {
			stand_on(c, original, snapshot);
		}
	}
}

/* What of the clone's run the snapshot has at the same place is the snapshot's. */
static int
give_run(struct blob_survey_blob *clone, const struct blob_survey_blob *snapshot, const struct blob_survey_run *run)
{
	uint64_t end = run->at + run->length, next;
	int rc = 0;

	for (uint64_t at = run->at; rc == 0 && at < end; at = next) {
		uint64_t cluster = run->cluster + (at - run->at), length;
		bool both = survey_cluster_run(snapshot, at, &length) == cluster;

		next = at + MIN(length, end - at);
		if (both) {
			survey_rewrite_extents(clone, at, next - at);
		} else {
			rc = survey_add_run(clone, at, cluster, (uint32_t)(next - at));
		}
	}
	return rc;
}

/*
 * SPDK writes a clone's extent pages in place before it takes the snapshot away: what both have at the same place of
 * the volume is the snapshot's as long as that stays; the clone finds it there.
 */
static void
give_back(struct check *c, struct blob_survey_blob *clone, const struct blob_survey_blob *snapshot)
{
	struct blob_survey_run *runs = clone->runs;
	uint32_t num_runs = clone->num_runs;

	clone->runs = NULL;
	clone->num_runs = 0;
	clone->allocated = 0;
	for (uint32_t i = 0; i < num_runs; i++) {
		if (give_run(clone, snapshot, &runs[i]) != 0) {
			c->no_memory = true;
		}
	}
	free(runs);
}

void
check_groups(struct check *c)
{
	struct blob_survey *s = c->survey;

	for (uint32_t i = 0; i < s->num_blobs; i++) {
		struct blob_survey_blob *clone = blob_survey_find(s, s->blobs[i].removal);

		if (clone != NULL && clone->parent == s->blobs[i].id && !clone->sealed) {
			give_back(c, clone, &s->blobs[i]);
		}
	}

	for (uint32_t i = 0; i < s->num_blobs; i++) {
		const struct blob_survey_xattr *found = blob_survey_xattr(&s->blobs[i], INTENT, true);

		if (found != NULL) {
			/* It may name the blob that it is in: the array of its xattrs changes meanwhile. */
			struct blob_survey_xattr intent = *found;

			roll_forward(c, &s->blobs[i], &intent);
		}
	}
}

void
check_pending(struct check *c, struct blob_survey_blob *blob)
{
	if (blob_survey_xattr(blob, INTENT, true) != NULL) {
		survey_drop_internal(blob, INTENT);
	}
	if (blob->removal == BLOB_ID_NONE && blob->making == BLOB_ID_NONE) {
		return;
	}
	if (blob_survey_vanishes(c->survey, blob)) {
		check_note(c, BLOB_FINDING_PENDING, blob->id, "it is removed",
			   "%s was being %s when power failed: the next load removes it", check_call(c, blob),
			   blob->removal != BLOB_ID_NONE ? "removed" : "made");
		blob->drop = true;
		return;
	}
	check_note(c, BLOB_FINDING_PENDING, blob->id, "it stays as a snapshot",
		   "%s was being %s when power failed: the next load keeps it", check_call(c, blob),
		   blob->removal != BLOB_ID_NONE ? "removed" : "made");
	survey_drop_internal(blob, BLOB_XATTR_REMOVAL_PENDING);
	survey_drop_internal(blob, BLOB_XATTR_SNAPSHOT_PENDING);
	blob->flags.data_ro |= BLOB_DATA_RO_READ_ONLY;
}
