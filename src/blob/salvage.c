/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What volumes hold, from what is left of a store: cluster by cluster, from the blob or the nearest one below it that
 * has it. What cannot be read, or whose place nobody knows any more, is said and left out.
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

/* Where the cluster's contents are on the device, 0: they are zeroes; *ret_why when nobody knows. */
static uint32_t
locate(const struct blob_survey *survey, const struct blob_survey_blob *blob, uint64_t at, const char **ret_why)
{
	*ret_why = NULL;
	for (uint32_t depth = 0; depth <= survey->num_blobs; depth++) {
		uint32_t cluster = blob_survey_cluster(blob, at);

		if (cluster != 0) {
			if (cluster >= blob_super_clusters(&survey->super)) {
				*ret_why = "its place is outside the store";
			}
			return cluster;
		}
		if (blob->damage.code != 0 || extent_broken(blob, at)) {
			*ret_why = "metadata that says where it is was lost";
			return 0;
		}
		if (blob->parent == BLOB_ID_NONE) {
			*ret_why = blob_survey_xattr(blob, BLOB_XATTR_EXTERNAL, true) == NULL
					   ? NULL
					   : "it is in an external snapshot, outside this store";
			return 0;
		}
		blob = blob_survey_find(survey, blob->parent);
		if (blob == NULL) {
			*ret_why = "the snapshot it would be in is lost";
			return 0;
		}
		if (at >= blob->num_clusters) {
			return 0;
		}
	}
	*ret_why = "snapshots stand on each other in a circle";
	return 0;
}

/* Where, behind cluster `at`, the first run or listed extent begins, or that of `at` ends. */
static uint64_t
next_of_blob(const struct blob_survey_blob *blob, uint64_t at)
{
	uint64_t next = (at / BLOB_EXTENT_CLUSTERS + 1) * BLOB_EXTENT_CLUSTERS;
	uint32_t low = 0, high = blob->num_extents;

	if (!extent_broken(blob, at)) {
		while (low < high) {
			uint32_t middle = low + (high - low) / 2;

			if (blob->extents[middle].index * BLOB_EXTENT_CLUSTERS <= at) {
				low = middle + 1;
			} else {
				high = middle;
			}
		}
		next = low < blob->num_extents ? blob->extents[low].index * BLOB_EXTENT_CLUSTERS : UINT64_MAX;
	}
	for (low = 0, high = blob->num_runs; low < high;) {
		uint32_t middle = low + (high - low) / 2;

		if (blob->runs[middle].at <= at) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low < blob->num_runs ? MIN(next, blob->runs[low].at) : next;
}

/* No cluster from `at`, which nobody has, up to this one has another fate: holes of many TiB are one step. */
static uint64_t
next_change(const struct blob_survey *survey, const struct blob_survey_blob *blob, uint64_t at)
{
	uint64_t next = UINT64_MAX;

	for (uint32_t depth = 0; blob != NULL && depth <= survey->num_blobs; depth++) {
		next = MIN(next, next_of_blob(blob, at));
		if (blob->parent == BLOB_ID_NONE) {
			break;
		}
		blob = blob_survey_find(survey, blob->parent);
		if (blob != NULL && at < blob->num_clusters) {
			next = MIN(next, blob->num_clusters);
		} else {
			break;
		}
	}
	return next;
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
save_cluster(struct salvage *s, uint32_t cluster, uint64_t at)
{
	const struct blob_offline *dev = s->survey->dev;
	uint32_t bytes = s->survey->super.cluster_bytes;
	uint64_t offset = (uint64_t)cluster * bytes;

	if (dev->read(dev->ctx, offset, s->buf, bytes) != 0) {
		read_pieces(s, offset, at, bytes);
	}
	return survey_zero(s->buf, bytes) ? 0 : s->to->write(s->to->ctx, at, s->buf, bytes);
}

int
blob_salvage(const struct blob_survey *survey, const struct blob_survey_blob *blob, const struct blob_salvage *to)
{
	uint64_t bytes = survey->super.cluster_bytes, end = blob_salvage_clusters(survey, blob), next;
	struct salvage s = {.survey = survey, .to = to, .buf = aligned_alloc(BLOB_PAGE_BYTES, bytes)};
	int rc = s.buf == NULL ? -ENOMEM : 0;

	for (uint64_t i = 0; rc == 0 && i < end; i = next) {
		const char *why;
		uint32_t cluster = locate(survey, blob, i, &why);

		next = cluster != 0 ? i + 1 : MIN(end, next_change(survey, blob, i));
		if (why != NULL) {
			lose(&s, i * bytes, (next - i) * bytes, why);
		} else if (cluster != 0) {
			rc = save_cluster(&s, cluster, i * bytes);
		}
	}
	say_lost(&s);
	free(s.buf);
	return rc;
}
