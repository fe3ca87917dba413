/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What volumes hold, from what is left of a store: cluster by cluster, from the blob or the nearest one below it that
 * has it. What cannot be read, or whose place nobody knows any more, is said and left out.
 *
 * Invariants
 *  1. One by one go only clusters that are read, for one volume at most as many as the store has: of a sound volume no two are
 *     the same. Everything else goes in pieces that begin or end where a run, an extent page or a volume does.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "blob/check.h"
#include "blob/survey.h"

struct salvage {
	const struct blob_survey *survey;
	const struct blob_salvage *to;
	uint8_t *buf;
	uint64_t left; /* clusters that may still be saved */
	/* What was lost last, to be said as one piece. */
	uint64_t lost_at, lost_bytes;
	const char *lost_why;
};

static void
say_lost(struct salvage *s)
{
	if (s->lost_bytes != 0 && s->to->lost != NULL) {
		s->to->lost(s->to->ctx, s->lost_at, s->lost_bytes, s->lost_why);
	}
	s->lost_bytes = 0;
}

static void
lose(struct salvage *s, uint64_t at, uint64_t bytes, const char *why)
{
	if (s->lost_bytes != 0 && s->lost_at + s->lost_bytes == at && s->lost_why == why) {
		s->lost_bytes += bytes;
		return;
	}
	say_lost(s);
	s->lost_at = at;
	s->lost_bytes = bytes;
	s->lost_why = why;
}

/* Whether the extent page that would list the cluster is broken. */
static bool
extent_broken(const struct blob_survey_blob *blob, uint64_t at)
{
	uint64_t index = at / BLOB_EXTENT_CLUSTERS;
	uint32_t low = 0, high = blob->num_extents;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (blob->extents[middle].index < index) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low < blob->num_extents && blob->extents[low].index == index && blob->extents[low].broken;
}

/* Where contents are. */
struct place {
	uint64_t cluster; /* of the device, 0: they are zeroes, or nobody knows */
	uint64_t length;  /* so many follow one upon the other, or have the same fate: holes of many TiB are one step */
	const char *why;  /* they are lost; NULL: they are not */
};

/* Of clusters that the blob has not: where, behind `at`, the next listed extent begins, or the broken one of `at` ends. */
static uint64_t
extents_change(const struct blob_survey_blob *blob, uint64_t at)
{
	uint32_t low = 0, high = blob->num_extents;

	if (extent_broken(blob, at)) {
		return (at / BLOB_EXTENT_CLUSTERS + 1) * BLOB_EXTENT_CLUSTERS;
	}
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (blob->extents[middle].index * BLOB_EXTENT_CLUSTERS <= at) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low < blob->num_extents ? blob->extents[low].index * BLOB_EXTENT_CLUSTERS : UINT64_MAX;
}

/* What the blob itself, without its parent, says of them. True: that is all there is to say. */
static bool
locate_own(const struct blob_survey *survey, const struct blob_survey_blob *blob, uint64_t at, struct place *place)
{
	uint64_t length, clusters = blob_super_clusters(&survey->super);

	place->cluster = survey_cluster_run(blob, at, &length);
	if (place->cluster == 0) {
		length = MIN(length, extents_change(blob, at) - at);
		if (blob->damage.code != 0 || extent_broken(blob, at)) {
			place->why = "metadata that says where it is was lost";
		}
	} else if (place->cluster >= clusters) {
		place->why = "its place is outside the store";
	} else {
		length = MIN(length, clusters - place->cluster);
	}
	place->length = MIN(place->length, length);
	return place->cluster != 0 || place->why != NULL;
}

static struct place
locate(const struct blob_survey *survey, const struct blob_survey_blob *blob, uint64_t at)
{
	struct place place = {.length = blob->num_clusters - at};

	for (uint32_t depth = 0; depth <= survey->num_blobs; depth++) {
		if (locate_own(survey, blob, at, &place)) {
			return place;
		}
		if (blob->parent == BLOB_ID_NONE) {
			place.why = blob_survey_xattr(blob, BLOB_XATTR_EXTERNAL, true) == NULL
					    ? NULL
					    : "it is in an external snapshot, outside this store";
			return place;
		}
		blob = blob_survey_find(survey, blob->parent);
		if (blob == NULL) {
			place.why = "the snapshot it would be in is lost";
			return place;
		}
		if (at >= blob->num_clusters) {
			return place;
		}
		place.length = MIN(place.length, blob->num_clusters - at);
	}
	place.why = "snapshots stand on each other in a circle";
	return place;
}

uint64_t
blob_salvage_clusters(const struct blob_survey *survey, const struct blob_survey_blob *blob)
{
	uint64_t most = blob_super_clusters(&survey->super);

	if (blob->damage.code == 0) {
		return blob->num_clusters;
	}
	if (blob->num_extents != 0) {
		most = MAX(most, (blob->extents[blob->num_extents - 1].index + 1) * BLOB_EXTENT_CLUSTERS);
	}
	if (blob->num_runs != 0) {
		most = MAX(most, blob->runs[blob->num_runs - 1].at + blob->runs[blob->num_runs - 1].length);
	}
	return MIN(blob->num_clusters, most);
}

/* Page by page. */
static void
read_pieces(struct salvage *s, uint64_t offset, uint64_t at, uint32_t bytes)
{
	const struct blob_offline *dev = s->survey->dev;

	for (uint32_t k = 0; k < bytes; k += BLOB_PAGE_BYTES) {
		if (dev->read(dev->ctx, offset + k, s->buf + k, BLOB_PAGE_BYTES) != 0) {
			memset(s->buf + k, 0, BLOB_PAGE_BYTES);
			lose(s, at + k, BLOB_PAGE_BYTES, "it cannot be read");
		}
	}
}

static int
save_cluster(struct salvage *s, uint64_t cluster, uint64_t at)
{
	const struct blob_offline *dev = s->survey->dev;
	uint32_t bytes = s->survey->super.cluster_bytes;
	uint64_t offset = cluster * bytes;

	if (dev->read(dev->ctx, offset, s->buf, bytes) != 0) {
		read_pieces(s, offset, at, bytes);
	}
	return survey_zero(s->buf, bytes) ? 0 : s->to->write(s->to->ctx, at, s->buf, bytes);
}

static int
save_run(struct salvage *s, uint64_t cluster, uint64_t length, uint64_t at)
{
	uint64_t bytes = s->survey->super.cluster_bytes, count = MIN(length, s->left);
	int rc = 0;

	for (uint64_t i = 0; rc == 0 && i < count; i++) {
		rc = save_cluster(s, cluster + i, (at + i) * bytes);
	}
	s->left -= count;
	if (rc == 0 && count < length) {
		lose(s, (at + count) * bytes, (length - count) * bytes, "the volume claims more clusters than the store has");
	}
	return rc;
}

int
blob_salvage(const struct blob_survey *survey, const struct blob_survey_blob *blob, const struct blob_salvage *to)
{
	uint64_t bytes = survey->super.cluster_bytes, end = blob_salvage_clusters(survey, blob), next;
	struct salvage s = {.survey = survey,
			    .to = to,
			    .buf = aligned_alloc(BLOB_PAGE_BYTES, bytes),
			    .left = blob_super_clusters(&survey->super)};
	int rc = s.buf == NULL ? -ENOMEM : 0;

	for (uint64_t i = 0; rc == 0 && i < end; i = next) {
		struct place place = locate(survey, blob, i);

		next = i + MIN(place.length, end - i);
		if (place.why != NULL) {
			lose(&s, i * bytes, (next - i) * bytes, place.why);
		} else if (place.cluster != 0) {
			rc = save_run(&s, place.cluster, next - i, i);
		}
	}
	say_lost(&s);
	free(s.buf);
	return rc;
}
