/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Blobs of a survey, from its metadata pages: a page that says it is the first of a chain, where it lies, begins one.
 * What is wrong with a blob is noted in it (damage), and what could be read before stays.
 *
 * Invariants
 *  1. What a run claims is kept as a run: loops go over what was read, never over clusters that are claimed.
 *  2. Runs and extents ascend by their place in the blob, and do not overlap there. What a run says of the device is as the
 *     disk has it: outside the store, another's, or beyond 32 bits.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "blob/survey.h"

#define CLUSTERS_MAX UINT64_C(0xffffffff) /* of a blob: places in extent pages are 32 bits */

int
survey_extent_page(const struct blob_survey *survey, uint32_t page, struct blob_descriptor *ret_d, struct err *err)
{
	const uint8_t *bytes = page < survey->super.md.length ? survey_page(survey, page) : NULL;
	struct blob_descriptor more;
	struct blob_cursor cursor;
	struct blob_page decoded;

	if (page >= survey->super.md.length) {
		return err_set(err, -EILSEQ, "page %" PRIu32 " is outside the metadata", page);
	}
	if (bytes == NULL) {
		return err_set(err, -EILSEQ, "page %" PRIu32 " %s", page,
			       survey_page_bad(survey, page) ? "is damaged" : "is empty");
	}
	if (blob_page_decode(bytes, &decoded) != 0 || decoded.sequence != 0) {
		return err_set(err, -EILSEQ, "page %" PRIu32 " is of a chain", page);
	}
	cursor = (struct blob_cursor){.descriptors = decoded.descriptors};
	if (blob_descriptor_next(&cursor, ret_d) != 1 || ret_d->type != BLOB_DESCRIPTOR_EXTENT_PAGE ||
	    blob_descriptor_next(&cursor, &more) != 0) {
		return err_set(err, -EILSEQ, "page %" PRIu32 " is no extent page", page);
	}
	return 0;
}

int
survey_add_run(struct blob_survey_blob *blob, uint64_t at, uint64_t cluster, uint32_t length)
{
	struct blob_survey_run run = {.at = at, .cluster = (uint32_t)cluster, .length = length};
	struct blob_survey_run *last = blob->num_runs == 0 ? NULL : &blob->runs[blob->num_runs - 1];

	if (cluster == 0 || cluster > UINT32_MAX || length == 0) {
		return 0;
	}
	blob->allocated += length;
	if (last != NULL && last->at + last->length == at && (uint64_t)last->cluster + last->length == cluster &&
	    (uint64_t)last->length + length <= UINT32_MAX) {
		last->length += length;
		return 0;
	}
	return survey_push((void **)&blob->runs, &blob->num_runs, sizeof(run), &run) == NULL ? -ENOMEM : 0;
}

static int
add_xattr(struct blob_survey_blob *blob, const struct blob_descriptor *d)
{
	struct blob_survey_xattr x = {
		.name = strndup(d->xattr.name, d->xattr.name_bytes),
		.value = malloc(d->xattr.value_bytes + 1u),
		.bytes = d->xattr.value_bytes,
		.internal = d->type == BLOB_DESCRIPTOR_INTERNAL_XATTR,
	};

	if (x.name == NULL || x.value == NULL) {
		goto fail;
	}
	memcpy(x.value, d->xattr.value, x.bytes);
	if (survey_push((void **)&blob->xattrs, &blob->num_xattrs, sizeof(x), &x) == NULL) {
		goto fail;
	}
	return 0;
fail:
	free(x.name);
	free(x.value);
	return -ENOMEM;
}

/* What a blob's chain has told so far. */
struct parse {
	struct blob_survey *survey;
	struct blob_survey_blob *blob;
	uint64_t table_entries;
	uint64_t table_clusters; /* what the table says; the last extent page may say otherwise */
};

static int
parse_rle(struct parse *p, const struct blob_descriptor *d)
{
	struct blob_survey_blob *blob = p->blob;
	int rc = 0;

	if (blob->has_table) {
		return err_set(&blob->damage, -EILSEQ, "it has an extent table and run-length extents");
	}
	blob->has_rle = true;
	for (uint32_t i = 0; rc == 0 && i < d->extents.num_runs; i++) {
		struct blob_run run = blob_descriptor_run(d, i);

		if (blob->num_clusters + run.length > CLUSTERS_MAX) {
			return err_set(&blob->damage, -EILSEQ, "its extents have more than %" PRIu64 " clusters",
				       CLUSTERS_MAX);
		}
		rc = survey_add_run(blob, blob->num_clusters, run.index, run.length);
		blob->num_clusters += run.length;
	}
	return rc;
}

static int
parse_table(struct parse *p, const struct blob_descriptor *d)
{
	struct blob_survey_blob *blob = p->blob;

	if (blob->has_rle) {
		return err_set(&blob->damage, -EILSEQ, "it has run-length extents and an extent table");
	}
	if (d->extents.num_clusters > CLUSTERS_MAX ||
	    (blob->has_table && d->extents.num_clusters != p->table_clusters)) {
		return err_set(&blob->damage, -EILSEQ, "its extent table says %" PRIu64 " clusters, and %" PRIu64,
			       blob->has_table ? p->table_clusters : CLUSTERS_MAX, d->extents.num_clusters);
	}
	blob->has_table = true;
	p->table_clusters = blob->num_clusters = d->extents.num_clusters;
	for (uint32_t i = 0; i < d->extents.num_runs; i++) {
		struct blob_run run = blob_descriptor_run(d, i);
		struct blob_survey_extent extent = {.index = p->table_entries, .page = run.index};

		p->table_entries += run.length;
		if (run.index != 0 &&
		    survey_push((void **)&blob->extents, &blob->num_extents, sizeof(extent), &extent) == NULL) {
			return -ENOMEM;
		}
	}
	return 0;
}

static int
parse_descriptor(struct parse *p, const struct blob_descriptor *d)
{
	struct blob_survey_blob *blob = p->blob;

	switch (d->type) {
	case BLOB_DESCRIPTOR_FLAGS:
		if (blob->has_flags) {
			return err_set(&blob->damage, -EILSEQ, "it has flags twice");
		}
		blob->has_flags = true;
		blob->flags = d->flags;
		return 0;
	case BLOB_DESCRIPTOR_XATTR:
	case BLOB_DESCRIPTOR_INTERNAL_XATTR:
		return add_xattr(blob, d);
	case BLOB_DESCRIPTOR_EXTENT_RLE:
		return parse_rle(p, d);
	case BLOB_DESCRIPTOR_EXTENT_TABLE:
		return parse_table(p, d);
	case BLOB_DESCRIPTOR_EXTENT_PAGE:
		return err_set(&blob->damage, -EILSEQ, "its chain has an extent page in it");
	case BLOB_DESCRIPTOR_PADDING:
		return 0;
	default:
		blob->sealed = true;
		return 0;
	}
}

/* One page of the chain. *ret_next: the next one, BLOB_PAGE_NONE: there is none. 0; -EILSEQ: noted; -ENOMEM. */
static int
parse_page(struct parse *p, uint32_t page, uint32_t *ret_next)
{
	struct blob_survey_blob *blob = p->blob;
	const uint8_t *bytes = page < p->survey->super.md.length ? survey_page(p->survey, page) : NULL;
	struct blob_cursor cursor;
	struct blob_page decoded;
	struct blob_descriptor d;
	int rc;

	if (bytes == NULL || blob_page_decode(bytes, &decoded) != 0) {
		return err_set(&blob->damage, -EILSEQ,
			       "its metadata page %" PRIu32 " (number %" PRIu32 " of its chain) %s", page,
			       blob->num_pages + 1,
			       page >= p->survey->super.md.length ? "is outside the metadata"
			       : survey_page_bad(p->survey, page) ? "is damaged"
								  : "is empty");
	}
	if (decoded.id != blob->id || decoded.sequence != blob->num_pages) {
		return err_set(&blob->damage, -EILSEQ,
			       "metadata page %" PRIu32 ", number %" PRIu32
			       " of its chain, says it is number %" PRIu64 " of blob 0x%" PRIx64,
			       page, blob->num_pages + 1, (uint64_t)decoded.sequence + 1, decoded.id);
	}
	if (survey_push((void **)&blob->pages, &blob->num_pages, sizeof(page), &page) == NULL) {
		return -ENOMEM;
	}
	cursor = (struct blob_cursor){.descriptors = decoded.descriptors};
	while ((rc = blob_descriptor_next(&cursor, &d)) == 1) {
		rc = parse_descriptor(p, &d);
		if (rc != 0) {
			return rc;
		}
	}
	if (rc != 0) {
		return err_set(&blob->damage, rc, "what is in its metadata page %" PRIu32 " has no form", page);
	}
	*ret_next = decoded.next;
	return 0;
}

/* The clusters that an extent page lists; a page that is none is noted as broken. */
static int
parse_extent(struct parse *p, struct blob_survey_extent *extent)
{
	struct blob_survey_blob *blob = p->blob;
	uint64_t start = extent->index * BLOB_EXTENT_CLUSTERS;
	struct blob_descriptor d;
	int rc = 0;

	if (start >= blob->num_clusters || survey_extent_page(p->survey, extent->page, &d, NULL) != 0 ||
	    d.page.start_cluster != start) {
		extent->broken = true;
		return 0;
	}
	for (uint32_t i = 0; rc == 0 && i < d.page.num_clusters && start + i < blob->num_clusters; i++) {
		rc = survey_add_run(blob, start + i, blob_descriptor_cluster(&d, i), 1);
	}
	return rc;
}

/* A resize that SPDK did not finish, or did not notice: its size is what the last extent page has. */
static void
take_last_size(struct parse *p)
{
	struct blob_survey_blob *blob = p->blob;
	const struct blob_survey_extent *last = blob->num_extents == 0 ? NULL : &blob->extents[blob->num_extents - 1];
	struct blob_descriptor d;

	if (last != NULL && last->index + 1 == p->table_entries &&
	    p->table_entries == (p->table_clusters + BLOB_EXTENT_CLUSTERS - 1) / BLOB_EXTENT_CLUSTERS &&
	    survey_extent_page(p->survey, last->page, &d, NULL) == 0 &&
	    d.page.start_cluster == last->index * BLOB_EXTENT_CLUSTERS && d.page.num_clusters > 0 &&
	    d.page.num_clusters <= BLOB_EXTENT_CLUSTERS) {
		blob->num_clusters = d.page.start_cluster + (uint64_t)d.page.num_clusters;
	}
}

static int
parse_blob(struct blob_survey *survey, struct blob_survey_blob *blob)
{
	struct parse p = {.survey = survey, .blob = blob};
	uint32_t page = (uint32_t)(blob->id - BLOB_ID_BASE);
	int rc = 0;

	blob->parent = BLOB_ID_NONE;
	while (rc == 0 && page != BLOB_PAGE_NONE) {
		rc = parse_page(&p, page, &page);
	}
	take_last_size(&p);
	for (uint32_t i = 0; (rc == 0 || rc == -EILSEQ) && i < blob->num_extents; i++) {
		if (parse_extent(&p, &blob->extents[i]) != 0) {
			rc = -ENOMEM;
		}
	}
	if (rc == 0 && blob->has_table &&
	    p.table_entries !=
		    blob->num_clusters / BLOB_EXTENT_CLUSTERS + (blob->num_clusters % BLOB_EXTENT_CLUSTERS != 0)) {
		err_set(&blob->damage, -EILSEQ, "its extent table has %" PRIu64 " entries for %" PRIu64 " clusters",
			p.table_entries, blob->num_clusters);
	}
	blob->newer = (blob->flags.invalid & ~BLOB_INVALID_KNOWN) != 0;
	blob->sealed = blob->sealed || blob->newer || (blob->flags.data_ro & ~BLOB_DATA_RO_KNOWN) != 0 ||
		       (blob->flags.md_ro & ~BLOB_MD_RO_KNOWN) != 0;
	blob->parent = blob_survey_id(blob, BLOB_XATTR_PARENT);
	blob->making = blob_survey_id(blob, BLOB_XATTR_SNAPSHOT_PENDING);
	blob->removal = blob_survey_id(blob, BLOB_XATTR_REMOVAL_PENDING);
	return rc == -ENOMEM ? rc : 0;
}

/* Whether the page begins a chain. */
static bool
is_first(const uint8_t *bytes, uint32_t page)
{
	struct blob_cursor cursor;
	struct blob_page decoded;
	struct blob_descriptor d;

	if (blob_page_decode(bytes, &decoded) != 0 || decoded.sequence != 0 || decoded.id != BLOB_ID_BASE + page) {
		return false;
	}
	/* An extent page may bear the id of a blob that once was where it is now. */
	cursor = (struct blob_cursor){.descriptors = decoded.descriptors};
	return blob_descriptor_next(&cursor, &d) != 1 || d.type != BLOB_DESCRIPTOR_EXTENT_PAGE;
}

static void
count_clone(struct blob_survey *survey, uint64_t parent, int by)
{
	struct blob_survey_blob *blob = parent == BLOB_ID_NONE ? NULL : blob_survey_find(survey, parent);

	if (blob != NULL) {
		blob->clones = (uint32_t)((int64_t)blob->clones + by);
	}
}

int
survey_blobs(struct blob_survey *survey)
{
	for (uint32_t i = 0; i < survey->num_good; i++) {
		struct blob_survey_blob blob = {.id = BLOB_ID_BASE + survey->good[i]};
		struct blob_survey_blob *kept;

		if (!is_first(survey->good_bytes[i], survey->good[i])) {
			continue;
		}
		kept = survey_push((void **)&survey->blobs, &survey->num_blobs, sizeof(blob), &blob);
		if (kept == NULL || parse_blob(survey, kept) != 0) {
			return -ENOMEM;
		}
	}
	for (uint32_t i = 0; i < survey->num_blobs; i++) {
		count_clone(survey, survey->blobs[i].parent, 1);
	}
	return 0;
}

void
survey_blob_release(struct blob_survey_blob *blob)
{
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		free(blob->xattrs[i].name);
		free(blob->xattrs[i].value);
	}
	free(blob->xattrs);
	free(blob->pages);
	free(blob->runs);
	free(blob->extents);
}

/* ---- Changing ---- */

void
survey_stand_on(struct blob_survey *survey, struct blob_survey_blob *blob, uint64_t parent)
{
	count_clone(survey, blob->parent, -1);
	count_clone(survey, parent, 1);
	blob->parent = parent;
}

void
survey_drop_xattr(struct blob_survey_blob *blob, uint32_t i)
{
	free(blob->xattrs[i].name);
	free(blob->xattrs[i].value);
	blob->num_xattrs--;
	memmove(&blob->xattrs[i], &blob->xattrs[i + 1], (blob->num_xattrs - i) * sizeof(blob->xattrs[0]));
	blob->dirty = true;
}

void
survey_drop_xattrs(struct blob_survey_blob *blob, const bool *drop)
{
	uint32_t kept = 0;

	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		if (drop[i]) {
			free(blob->xattrs[i].name);
			free(blob->xattrs[i].value);
			blob->dirty = true;
		} else {
			blob->xattrs[kept++] = blob->xattrs[i];
		}
	}
	blob->num_xattrs = kept;
}

void
survey_drop_internal(struct blob_survey_blob *blob, const char *name)
{
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		if (blob->xattrs[i].internal && strcmp(blob->xattrs[i].name, name) == 0) {
			survey_drop_xattr(blob, i);
			return;
		}
	}
}

int
survey_set_xattr(struct blob_survey_blob *blob, bool internal, const char *name, const void *value, uint16_t bytes)
{
	struct blob_survey_xattr x = {
		.name = strdup(name), .value = malloc(bytes + 1u), .bytes = bytes, .internal = internal};

	if (x.name == NULL || x.value == NULL) {
		goto fail;
	}
	memcpy(x.value, value, bytes);
	blob->dirty = true;
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		if (blob->xattrs[i].internal == internal && strcmp(blob->xattrs[i].name, name) == 0) {
			free(blob->xattrs[i].name);
			free(blob->xattrs[i].value);
			blob->xattrs[i] = x;
			return 0;
		}
	}
	if (survey_push((void **)&blob->xattrs, &blob->num_xattrs, sizeof(x), &x) != NULL) {
		return 0;
	}
fail:
	free(x.name);
	free(x.value);
	return -ENOMEM;
}

void
survey_rewrite_extents(struct blob_survey_blob *blob, uint64_t at, uint64_t count)
{
	uint32_t low = 0, high = blob->num_extents;

	blob->dirty = true;
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (blob->extents[middle].index < at / BLOB_EXTENT_CLUSTERS) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	for (; low < blob->num_extents && blob->extents[low].index * BLOB_EXTENT_CLUSTERS < at + count; low++) {
		blob->extents[low].rewrite = true;
	}
}
