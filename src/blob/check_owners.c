/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who has which cluster and metadata page, as found: what two have, what lies where no data is, what the masks of a
 * clean store say otherwise.
 *
 * Invariants
 *  1. Blobs that vanish at the next load come last: they share with those that took over, and that is no finding.
 *  2. A run of clusters that says the same is one finding.
 *  3. Each cluster is added once, and what was added before is passed over as a run: thousands of runs that claim the whole
 *     device are no more work than what the store has, and they themselves (check.c, invariant 4).
 */
#include <inttypes.h>
#include <stdio.h>
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

void
check_cut_run(const struct blob_survey *survey, const struct blob_survey_run *run, uint64_t *ret_from, uint64_t *ret_to)
{
	uint64_t end = (uint64_t)run->cluster + run->length;

	*ret_from = MAX((uint64_t)run->cluster, blob_super_md_clusters(&survey->super));
	*ret_to = MAX(*ret_from, MIN(end, blob_super_clusters(&survey->super)));
}

static bool
bit(const uint8_t *bits, uint64_t i)
{
	return (bits[i / 8] >> (i % 8) & 1) != 0;
}

/* Who besides this one has the cluster, for messages; itself when nobody else was found within what is to be looked at. */
static uint64_t
other_owner(struct check *c, const struct blob_survey_blob *not_this, uint64_t cluster)
{
	const struct blob_survey *s = c->survey;

	for (uint32_t i = 0; i < s->num_blobs && c->looks != 0; i++) {
		const struct blob_survey_blob *blob = &s->blobs[i];

		c->looks--;
		for (uint32_t k = 0; blob != not_this && k < blob->num_runs && c->looks != 0; k++) {
			c->looks--;
			if (cluster >= blob->runs[k].cluster && cluster - blob->runs[k].cluster < blob->runs[k].length) {
				return blob->id;
			}
		}
	}
	return not_this->id;
}

static void
note_shared(struct check *c, struct blob_survey_blob *blob, uint64_t cluster, uint64_t length)
{
	uint64_t other = c->report->num_findings < BLOB_FINDINGS_KEPT ? other_owner(c, blob, cluster) : blob->id;
	char whose[32] = "to another";

	if (other != blob->id || c->looks != 0) {
		snprintf(whose, sizeof(whose), "to blob 0x%" PRIx64, other);
	}
	check_note(c, BLOB_FINDING_CLUSTER_SHARED, blob->id, "it gets copies of its own",
		   "clusters %" PRIu64 " to %" PRIu64 " belong %s and to blob 0x%" PRIx64, cluster,
		   cluster + length - 1, whose, blob->id);
	blob->dirty = true;
}

/* How many clusters of the run are outside the data. */
static uint64_t
own_run(struct check *c, struct blob_survey_blob *blob, const struct blob_survey_run *run, bool vanishes)
{
	uint64_t from, to, next;

	check_cut_run(c->survey, run, &from, &to);
	for (uint64_t at = from; at < to; at = next) {
		bool used;

		next = survey_bits_run(&c->cluster_used, at, to, &used);
		if (!used) {
			survey_bits_add_run(&c->cluster_used, at, next);
		} else if (!vanishes) {
			note_shared(c, blob, at, next - at);
		}
	}
	return run->length - (to - from);
}

static void
own_clusters(struct check *c, struct blob_survey_blob *blob, bool vanishes)
{
	for (uint32_t i = 0; i < blob->num_runs; i++) {
		const struct blob_survey_run *run = &blob->runs[i];
		uint64_t stray = own_run(c, blob, run, vanishes);

		if (stray != 0) {
			check_note(c, BLOB_FINDING_CLUSTER_STRAY, blob->id,
				   "they are taken out: they read as the parent has them, or as zeroes",
				   "blob 0x%" PRIx64 " has %" PRIu64
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
	return i < blob_super_md_clusters(&c->survey->super) || survey_bits_has(&c->cluster_used, i);
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
