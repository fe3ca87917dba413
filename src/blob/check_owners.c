/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who has which cluster and metadata page, as found: what two have, what lies where no data is, what the masks of a
 * clean store say otherwise.
 *
 * Invariants
 *  1. Blobs that vanish at the next load come last: they share with those that took over, and that is no finding.
 *  2. A run of clusters that says the same is one finding.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "blob/check_internal.h"
#include "blob/survey.h"

bool
check_data_cluster(const struct blob_survey *survey, uint64_t cluster)
{
	return cluster >= blob_super_md_clusters(&survey->super) && cluster < blob_super_clusters(&survey->super);
}

static bool
bit(const uint8_t *bits, uint64_t i)
{
	return (bits[i / 8] >> (i % 8) & 1) != 0;
}

/* What it was before. */
static bool
set(uint8_t *bits, uint64_t i)
{
	bool was = bit(bits, i);

	bits[i / 8] |= (uint8_t)(1u << (i % 8));
	return was;
}

/* Who besides `not` has the cluster; for messages. */
static uint64_t
other_owner(const struct blob_survey *s, const struct blob_survey_blob *not_this, uint32_t cluster)
{
	for (uint32_t i = 0; i < s->num_blobs; i++) {
		const struct blob_survey_blob *blob = &s->blobs[i];

		for (uint32_t k = 0; blob != not_this && k < blob->num_runs; k++) {
			if (cluster >= blob->runs[k].cluster &&
			    cluster - blob->runs[k].cluster < blob->runs[k].length) {
				return blob->id;
			}
		}
	}
	return not_this->id;
}

static void
note_shared(struct check *c, struct blob_survey_blob *blob, uint32_t cluster, uint32_t length)
{
	if (length != 0) {
		check_note(c, BLOB_FINDING_CLUSTER_SHARED, blob->id, "it gets copies of its own",
			   "clusters %" PRIu32 " to %" PRIu32 " belong to blob 0x%" PRIx64 " and to blob 0x%" PRIx64,
			   cluster, cluster + length - 1,
			   c->report->num_findings < BLOB_FINDINGS_KEPT ? other_owner(c->survey, blob, cluster)
									: blob->id,
			   blob->id);
		blob->dirty = true;
	}
}

/* The part of a run that lies among the data. */
static uint32_t
own_run(struct check *c, struct blob_survey_blob *blob, const struct blob_survey_run *run, bool vanishes)
{
	uint32_t shared = 0, stray = 0;

	for (uint32_t i = 0; i < run->length; i++) {
		uint64_t cluster = (uint64_t)run->cluster + i;

		if (!check_data_cluster(c->survey, cluster)) {
			/* Past the end nothing better follows, however long the run claims to be. */
			stray += cluster >= blob_super_clusters(&c->survey->super) ? run->length - i : 1;
			if (cluster >= blob_super_clusters(&c->survey->super)) {
				note_shared(c, blob, (uint32_t)cluster - shared, shared);
				shared = 0;
				break;
			}
			continue;
		}
		if (set(c->cluster_used, cluster) && !vanishes) {
			shared++;
			continue;
		}
		note_shared(c, blob, (uint32_t)cluster - shared, shared);
		shared = 0;
	}
	note_shared(c, blob, run->cluster + run->length - shared, shared);
	return stray;
}

static void
own_clusters(struct check *c, struct blob_survey_blob *blob, bool vanishes)
{
	for (uint32_t i = 0; i < blob->num_runs; i++) {
		const struct blob_survey_run *run = &blob->runs[i];
		uint32_t stray = own_run(c, blob, run, vanishes);

		if (stray != 0) {
			check_note(c, BLOB_FINDING_CLUSTER_STRAY, blob->id,
				   "they are taken out: they read as the parent has them, or as zeroes",
				   "blob 0x%" PRIx64 " has %" PRIu32
				   " clusters outside the data (in the run of %" PRIu32 " from %" PRIu32 " on)",
				   blob->id, stray, run->length, run->cluster);
			blob->dirty = true;
			blob->flags.invalid |= BLOB_INVALID_THIN;
		}
	}
}

static bool
own_page(struct check *c, const struct blob_survey_blob *blob, uint32_t page)
{
	uint32_t number = (uint32_t)(blob - c->survey->blobs) + 1;

	if (page >= c->survey->super.md.length) {
		return true;
	}
	if (c->page_owner[page] == 0) {
		c->page_owner[page] = number;
		return true;
	}
	return false;
}

static void
own_pages(struct check *c, struct blob_survey_blob *blob, bool vanishes)
{
	for (uint32_t i = 0; i < blob->num_pages; i++) {
		/* Chains never share: a page bears its blob's id and number. It may be in somebody's extent table,
		 * though. */
		if (!own_page(c, blob, blob->pages[i])) {
			check_note(c, BLOB_FINDING_PAGE_SHARED, blob->id, "it is left out of the extent table",
				   "metadata page %" PRIu32 " of blob 0x%" PRIx64
				   " is in the extent table of blob 0x%" PRIx64,
				   blob->pages[i], blob->id, c->survey->blobs[c->page_owner[blob->pages[i]] - 1].id);
		}
	}
	for (uint32_t i = 0; i < blob->num_extents; i++) {
		struct blob_survey_extent *e = &blob->extents[i];

		if (!own_page(c, blob, e->page) && !vanishes && !e->broken) {
			check_note(c, BLOB_FINDING_PAGE_SHARED, blob->id, "it gets one of its own",
				   "extent page %" PRIu32 " belongs to blob 0x%" PRIx64 " and to blob 0x%" PRIx64,
				   e->page, c->survey->blobs[c->page_owner[e->page] - 1].id, blob->id);
			e->rewrite = blob->dirty = true;
		}
	}
}

/* ---- Masks ---- */

struct difference {
	const uint8_t *mask;
	uint64_t bits;
	bool (*owned)(const struct check *c, uint64_t i);
	enum blob_finding_kind leaked, unmarked;
	const char *what;
};

static bool
cluster_owned(const struct check *c, uint64_t i)
{
	return i < blob_super_md_clusters(&c->survey->super) || bit(c->cluster_used, i);
}

static bool
page_owned(const struct check *c, uint64_t i)
{
	return c->page_owner[i] != 0;
}

static bool
blob_there(const struct check *c, uint64_t i)
{
	return blob_survey_find(c->survey, BLOB_ID_BASE + i) != NULL;
}

static void
note_difference(struct check *c, const struct difference *d, uint64_t from, uint64_t to, bool marked)
{
	check_note(c, marked ? d->leaked : d->unmarked, BLOB_ID_NONE, "the mask is set right",
		   marked ? "%s %" PRIu64 " to %" PRIu64 " are marked as used, but nobody has them"
			  : "%s %" PRIu64 " to %" PRIu64 " are in use, but not marked",
		   d->what, from, to - 1);
}

static void
compare_mask(struct check *c, const struct difference *d)
{
	uint64_t from = 0;
	int now = 0; /* 1: marked only, -1: owned only, 0: the same */

	if (d->mask == NULL) {
		return;
	}
	for (uint64_t i = 0; i <= d->bits; i++) {
		int next = i == d->bits ? 0 : (int)bit(d->mask, i) - (int)d->owned(c, i);

		if (next != now) {
			if (now != 0) {
				note_difference(c, d, from, i, now > 0);
			}
			from = i;
			now = next;
		}
	}
}

void
check_owners(struct check *c)
{
	struct blob_survey *s = c->survey;
	const struct difference all[] = {
		{s->page_mask.bits, s->page_mask.length, page_owned, BLOB_FINDING_PAGE_LEAKED,
		 BLOB_FINDING_PAGE_UNMARKED, "metadata pages"},
		{s->cluster_mask.bits, s->cluster_mask.length, cluster_owned, BLOB_FINDING_CLUSTER_LEAKED,
		 BLOB_FINDING_CLUSTER_UNMARKED, "clusters"},
		{s->blobid_mask.bits, s->blobid_mask.length, blob_there, BLOB_FINDING_BLOBID, BLOB_FINDING_BLOBID,
		 "blob ids"},
	};

	for (int vanish = 0; vanish < 2; vanish++) {
		for (uint32_t i = 0; i < s->num_blobs; i++) {
			if (blob_survey_vanishes(s, &s->blobs[i]) == (vanish != 0)) {
				own_clusters(c, &s->blobs[i], vanish != 0);
				own_pages(c, &s->blobs[i], vanish != 0);
			}
		}
	}
	for (uint64_t i = 0; i < blob_super_clusters(&s->super); i++) {
		c->report->clusters_used += cluster_owned(c, i);
	}
	for (uint32_t i = 0; i < s->super.md.length; i++) {
		c->report->pages_used += c->page_owner[i] != 0;
	}
	for (unsigned i = 0; c->masks_count && i < ARRAY_SIZE(all); i++) {
		compare_mask(c, &all[i]);
	}
}
