/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A store as it stands on the disk: super block, metadata pages, masks; survey_blob.c makes blobs of the pages.
 *
 * Invariants
 *  1. Nothing is written, and nothing is left out: what cannot be read is noted where it belongs, and the rest is read.
 *  2. Work and memory are bounded by the metadata that is in use and by the size of the store, not by what fields claim.
 */
#include "blob/survey.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"

#define PIECE_BYTES (1u << 20)

/* ---- Arrays that grow ---- */

void *
survey_push(void **array, uint32_t *count, size_t item_bytes, const void *item)
{
	char *p = *array;

	/* Room is doubled whenever the count is a power of two. */
	if ((*count & (*count - 1)) == 0) {
		p = reallocarray(*array, *count == 0 ? 1 : (size_t)*count * 2, item_bytes);
		if (p == NULL) {
			return NULL;
		}
		*array = p;
	}
	p += (size_t)*count * item_bytes;
	memcpy(p, item, item_bytes);
	(*count)++;
	return p;
}

bool
survey_zero(const void *buf, size_t bytes)
{
	const char *p = buf;

	return bytes == 0 || (p[0] == 0 && memcmp(p, p + 1, bytes - 1) == 0);
}

/* ---- Metadata pages ---- */

uint64_t
survey_page_offset(const struct blob_super *super, uint32_t page)
{
	return ((uint64_t)super->md.start + page) * super->md_page_bytes;
}

static int
keep_page(struct blob_survey *survey, uint32_t page, const uint8_t *bytes)
{
	struct blob_page decoded;
	uint32_t room = survey->num_good;
	uint8_t *copy;

	if (survey_zero(bytes, BLOB_PAGE_BYTES)) {
		return 0;
	}
	if (blob_page_decode(bytes, &decoded) != 0) {
		return survey_push((void **)&survey->bad, &survey->num_bad, sizeof(page), &page) == NULL ? -ENOMEM : 0;
	}
	copy = malloc(BLOB_PAGE_BYTES);
	if (copy == NULL) {
		return -ENOMEM;
	}
	memcpy(copy, bytes, BLOB_PAGE_BYTES);
	if (survey_push((void **)&survey->good_bytes, &room, sizeof(copy), &copy) == NULL) {
		free(copy);
		return -ENOMEM;
	}
	if (survey_push((void **)&survey->good, &survey->num_good, sizeof(page), &page) == NULL) {
		free(copy);
		return -ENOMEM;
	}
	return 0;
}

/* A piece that cannot be read as a whole: page by page. */
static int
read_singly(struct blob_survey *survey, uint32_t first, uint32_t count, uint8_t *buf)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < count; i++) {
		uint32_t page = first + i;

		if (survey->dev->read(survey->dev->ctx, survey_page_offset(&survey->super, page), buf, BLOB_PAGE_BYTES) == 0) {
			rc = keep_page(survey, page, buf);
		} else if (survey_push((void **)&survey->bad, &survey->num_bad, sizeof(page), &page) == NULL) {
			rc = -ENOMEM;
		}
	}
	return rc;
}

/* The first page from `page` on that may not be zero. */
static uint32_t
skip_holes(const struct blob_survey *survey, uint32_t page)
{
	const struct blob_super *super = &survey->super;
	uint64_t offset;

	if (survey->dev->next_data == NULL) {
		return page;
	}
	offset = survey->dev->next_data(survey->dev->ctx, survey_page_offset(super, page));
	if (offset >= survey_page_offset(super, super->md.length)) {
		return super->md.length;
	}
	return MAX(page, (uint32_t)(offset / super->md_page_bytes - super->md.start));
}

static int
read_pages(struct blob_survey *survey)
{
	const struct blob_super *super = &survey->super;
	uint32_t most = MIN(MAX(PIECE_BYTES / super->md_page_bytes, 1u), super->md.length);
	uint8_t *buf = malloc((size_t)most * super->md_page_bytes);
	uint32_t page = 0;
	int rc = buf == NULL ? -ENOMEM : 0;

	while (rc == 0 && (page = skip_holes(survey, page)) < super->md.length) {
		uint32_t count = MIN(most, super->md.length - page);

		if (survey->dev->read(survey->dev->ctx, survey_page_offset(super, page), buf,
				      (size_t)count * super->md_page_bytes) != 0) {
			rc = read_singly(survey, page, count, buf);
		} else {
			for (uint32_t i = 0; rc == 0 && i < count; i++) {
				rc = keep_page(survey, page + i, buf + (size_t)i * super->md_page_bytes);
			}
		}
		page += count;
	}
	free(buf);
	return rc;
}

static int
compare_page(const void *key, const void *member)
{
	uint32_t a = *(const uint32_t *)key, b = *(const uint32_t *)member;

	return a < b ? -1 : a > b;
}

const uint8_t *
survey_page(const struct blob_survey *survey, uint32_t page)
{
	const uint32_t *found = survey->num_good == 0 ? NULL :
		bsearch(&page, survey->good, survey->num_good, sizeof(page), compare_page);

	return found == NULL ? NULL : survey->good_bytes[found - survey->good];
}

bool
survey_page_bad(const struct blob_survey *survey, uint32_t page)
{
	return survey->num_bad != 0 && bsearch(&page, survey->bad, survey->num_bad, sizeof(page), compare_page) != NULL;
}

/* ---- Masks ---- */

size_t
survey_mask_bytes(const struct blob_super *super, const struct blob_region *region, uint64_t bits)
{
	uint64_t need = BLOB_MASK_HEADER_BYTES + (bits + 7) / 8;

	need = (need + super->md_page_bytes - 1) / super->md_page_bytes * super->md_page_bytes;
	return MIN((size_t)region->length * super->md_page_bytes, need);
}

/* Of an old version there may be none (region->length 0); that is no error. */
static int
read_mask(struct blob_survey *survey, const struct blob_region *region, enum blob_mask_type type, uint64_t bits,
	  struct blob_survey_mask *mask)
{
	uint32_t page_bytes = survey->super.md_page_bytes;
	/* The region may be longer than such a mask is. */
	size_t bytes = survey_mask_bytes(&survey->super, region, bits);
	uint8_t *buf;

	if (bytes == 0) {
		return 0;
	}
	buf = malloc(bytes);
	if (buf == NULL) {
		return -ENOMEM;
	}
	for (size_t at = 0; at < bytes; at += MIN((size_t)PIECE_BYTES, bytes - at)) {
		int rc = survey->dev->read(survey->dev->ctx, (uint64_t)region->start * page_bytes + at, buf + at,
					   MIN((size_t)PIECE_BYTES, bytes - at));

		if (rc != 0) {
			err_set(&mask->err, rc, "it cannot be read");
			free(buf);
			return 0;
		}
	}
	if (blob_mask_decode(buf, (size_t)region->length * page_bytes, type, &mask->length) != 0) {
		err_set(&mask->err, -EILSEQ, "its header is damaged");
	} else if (mask->length != bits) {
		err_set(&mask->err, -EILSEQ, "it has %" PRIu32 " bits instead of %" PRIu64, mask->length, bits);
	}
	if (mask->err.code != 0) {
		free(buf);
		return 0;
	}
	memmove(buf, buf + BLOB_MASK_HEADER_BYTES, bytes - BLOB_MASK_HEADER_BYTES);
	mask->bits = buf;
	return 0;
}

static int
read_masks(struct blob_survey *survey)
{
	const struct blob_super *super = &survey->super;
	int rc = read_mask(survey, &super->page_mask, BLOB_MASK_PAGES, super->md.length, &survey->page_mask);

	if (rc == 0) {
		rc = read_mask(survey, &super->cluster_mask, BLOB_MASK_CLUSTERS, blob_super_clusters(super),
			       &survey->cluster_mask);
	}
	if (rc == 0) {
		rc = read_mask(survey, &super->blobid_mask, BLOB_MASK_BLOBIDS, super->md.length, &survey->blobid_mask);
	}
	return rc;
}

/* ---- All of it ---- */

static int
read_super(struct blob_survey *survey, const struct blob_super *geometry, struct err *err)
{
	uint8_t page[BLOB_PAGE_BYTES];
	struct blob_super super;
	int rc = survey->dev->read(survey->dev->ctx, 0, page, sizeof(page));

	if (rc != 0) {
		err_set(&survey->super_err, rc, "the super block cannot be read");
	} else {
		rc = blob_super_decode(page, &super, &survey->super_err);
		if (rc == 0) {
			rc = blob_super_fits(&super, survey->dev->bytes, &survey->super_err);
		}
	}
	if (rc != 0 && geometry == NULL) {
		if (err != NULL) {
			*err = survey->super_err;
		}
		return rc;
	}
	if (geometry != NULL) {
		super = *geometry;
		rc = blob_super_fits(&super, survey->dev->bytes, err);
		if (rc != 0) {
			return rc;
		}
	}
	if (super.bytes == 0) {
		super.bytes = survey->dev->bytes;
	}
	survey->super = super;
	return 0;
}

int
blob_survey_read(const struct blob_offline *dev, const struct blob_super *geometry, struct blob_survey **ret_survey,
		 struct err *err)
{
	struct blob_survey *survey = calloc(1, sizeof(*survey));
	int rc;

	if (survey == NULL) {
		return err_set(err, -ENOMEM, "no memory");
	}
	survey->dev = dev;
	rc = read_super(survey, geometry, err);
	if (rc != 0) {
		blob_survey_free(survey);
		return rc;
	}
	rc = read_pages(survey);
	if (rc == 0) {
		rc = read_masks(survey);
	}
	if (rc == 0) {
		rc = survey_blobs(survey);
	}
	if (rc != 0) {
		blob_survey_free(survey);
		return err_set(err, rc, "no memory for the metadata");
	}
	*ret_survey = survey;
	return 0;
}

void
blob_survey_free(struct blob_survey *survey)
{
	if (survey == NULL) {
		return;
	}
	for (uint32_t i = 0; i < survey->num_blobs; i++) {
		survey_blob_release(&survey->blobs[i]);
	}
	for (uint32_t i = 0; i < survey->num_good; i++) {
		free(survey->good_bytes[i]);
	}
	free(survey->blobs);
	free(survey->good);
	free(survey->good_bytes);
	free(survey->bad);
	free(survey->page_mask.bits);
	free(survey->cluster_mask.bits);
	free(survey->blobid_mask.bits);
	free(survey);
}

/* ---- Asking ---- */

struct blob_survey_blob *
blob_survey_find(const struct blob_survey *survey, uint64_t id)
{
	uint32_t low = 0, high = survey->num_blobs;

	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (survey->blobs[middle].id < id) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	return low < survey->num_blobs && survey->blobs[low].id == id ? &survey->blobs[low] : NULL;
}

const struct blob_survey_xattr *
blob_survey_xattr(const struct blob_survey_blob *blob, const char *name, bool internal)
{
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		if (blob->xattrs[i].internal == internal && strcmp(blob->xattrs[i].name, name) == 0) {
			return &blob->xattrs[i];
		}
	}
	return NULL;
}

const char *
blob_survey_text(const struct blob_survey_blob *blob, const char *name)
{
	const struct blob_survey_xattr *x = blob_survey_xattr(blob, name, false);

	return x != NULL && memchr(x->value, '\0', x->bytes) != NULL ? (const char *)x->value : NULL;
}

uint64_t
blob_survey_id(const struct blob_survey_blob *blob, const char *name)
{
	const struct blob_survey_xattr *x = blob_survey_xattr(blob, name, true);
	uint64_t id = BLOB_ID_NONE;

	if (x != NULL && x->bytes == sizeof(id)) {
		memcpy(&id, x->value, sizeof(id));
	}
	return id;
}

uint64_t
survey_cluster_run(const struct blob_survey_blob *blob, uint64_t at, uint64_t *ret_length)
{
	uint32_t low = 0, high = blob->num_runs;
	const struct blob_survey_run *run;

	/* The last run that begins at or before it. */
	while (low < high) {
		uint32_t middle = low + (high - low) / 2;

		if (blob->runs[middle].at <= at) {
			low = middle + 1;
		} else {
			high = middle;
		}
	}
	run = low == 0 ? NULL : &blob->runs[low - 1];
	if (run == NULL || at - run->at >= run->length) {
		*ret_length = (low < blob->num_runs ? blob->runs[low].at : UINT64_MAX) - at;
		return 0;
	}
	*ret_length = run->length - (at - run->at);
	return run->cluster + (at - run->at);
}

uint64_t
blob_survey_cluster(const struct blob_survey_blob *blob, uint64_t at)
{
	uint64_t length;

	return survey_cluster_run(blob, at, &length);
}

bool
blob_survey_vanishes(const struct blob_survey *survey, const struct blob_survey_blob *blob)
{
	uint64_t other = blob->removal != BLOB_ID_NONE ? blob->removal : blob->making;

	/* The other one is gone: nobody shares what this one has. */
	return other != BLOB_ID_NONE && blob_survey_find(survey, other) != NULL && blob->clones == 0;
}
