/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Writes what the check has changed in the survey. The order survives a power cut at every write:
 *
 *	1. the super block says "not clean"; flush
 *	2. copies of clusters that two have, to free ones; metadata pages to free places; flush
 *	3. first pages of chains, in place: each is a commit of its blob; first pages of what is removed become zero; flush
 *	4. pages that are nobody's any more become zero; masks; flush
 *	5. the super block says "clean"; flush
 *
 * Invariants
 *  1. Until 3 nothing that was in use, as found, is overwritten; what is given up is not used again by the same repair.
 *  2. A blob that has something unknown in it (sealed) is not written; what it shares with others, the others give up.
 *  3. Runs are settled as runs; one by one go only clusters that are copied, no more than the store has free (check.c,
 *     invariant 4). Of masks as much is written as the store has bits for, however long their regions are.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "blob/check_internal.h"
#include "blob/survey.h"

#define PIECE_BYTES (1u << 20)

struct first_page { /* to be written when all else is there */
	uint32_t page;
	uint8_t *bytes;
};

struct repair {
	struct check *c;
	struct blob_survey *s;
	struct survey_bits seen_pages; /* in use before, or now; of clusters: c->cluster_used */
	struct survey_bits final_clusters; /* in use afterwards */
	struct survey_bits final_pages;
	uint64_t next_cluster;
	uint32_t next_page;
	uint8_t *cluster; /* a buffer */
	struct first_page *first;
	uint32_t num_first;
};

static int
dev_write(struct repair *r, uint64_t offset, const void *buf, size_t bytes)
{
	return r->s->dev->write(r->s->dev->ctx, offset, buf, bytes);
}

static int
flush(struct repair *r)
{
	return r->s->dev->flush(r->s->dev->ctx);
}

static int
write_super(struct repair *r, bool clean)
{
	uint8_t page[BLOB_PAGE_BYTES];
	int rc;

	r->s->super.clean = clean;
	blob_super_encode(&r->s->super, page);
	rc = dev_write(r, 0, page, sizeof(page));
	return rc != 0 ? rc : flush(r);
}

/* ---- Clusters ---- */

/* 0: there is none. */
static uint32_t
take_cluster(struct repair *r)
{
	uint64_t end = blob_super_clusters(&r->s->super);

	r->next_cluster = survey_bits_missing(&r->c->cluster_used, r->next_cluster, end);
	if (r->next_cluster == end) {
		return 0;
	}
	survey_bits_add(&r->c->cluster_used, r->next_cluster);
	survey_bits_add(&r->final_clusters, r->next_cluster);
	return (uint32_t)r->next_cluster;
}

static int
copy_cluster(struct repair *r, uint32_t from, uint32_t to)
{
	const struct blob_offline *dev = r->s->dev;
	uint32_t bytes = r->s->super.cluster_bytes;
	int rc = dev->read(dev->ctx, (uint64_t)from * bytes, r->cluster, bytes);

	if (rc != 0) {
		/* Nobody can read it: the copy has what a reader is best off with. */
		memset(r->cluster, 0, bytes);
	}
	return dev_write(r, (uint64_t)to * bytes, r->cluster, bytes);
}

/* Clusters that others have get copies, as long as there is room for those; then both keep them, and the second look says so. */
static int
settle_shared(struct repair *r, struct blob_survey_blob *blob, uint64_t at, uint64_t cluster, uint64_t length)
{
	uint32_t copy;
	int rc = 0;

	for (; rc == 0 && length != 0 && (copy = take_cluster(r)) != 0; length--, at++, cluster++) {
		survey_rewrite_extents(blob, at, 1);
		rc = survey_add_run(blob, at, copy, 1);
		if (rc == 0) {
			rc = copy_cluster(r, (uint32_t)cluster, copy);
		}
	}
	return rc != 0 ? rc : survey_add_run(blob, at, cluster, (uint32_t)length);
}

static int
settle_run(struct repair *r, struct blob_survey_blob *blob, const struct blob_survey_run *run)
{
	uint64_t from, to, next;
	int rc = 0;

	check_cut_run(r->s, run, &from, &to);
	if (to - from < run->length) {
		survey_rewrite_extents(blob, run->at, run->length);
	}
	for (uint64_t i = from; rc == 0 && i < to; i = next) {
		uint64_t at = run->at + (i - run->cluster);
		bool shared;

		next = survey_bits_run(&r->final_clusters, i, to, &shared);
		if (shared) {
			rc = settle_shared(r, blob, at, i, next - i);
		} else {
			survey_bits_add_run(&r->final_clusters, i, next);
			rc = survey_add_run(blob, at, i, (uint32_t)(next - i));
		}
	}
	return rc;
}

static int
settle_blob(struct repair *r, struct blob_survey_blob *blob)
{
	struct blob_survey_run *runs = blob->runs;
	uint32_t num_runs = blob->num_runs;
	int rc = 0;

	blob->runs = NULL;
	blob->num_runs = 0;
	blob->allocated = 0;
	for (uint32_t i = 0; rc == 0 && i < num_runs; i++) {
		rc = settle_run(r, blob, &runs[i]);
	}
	free(runs);
	return rc;
}

/* It keeps what it has, whoever has it, too. */
static void
settle_sealed(struct repair *r, const struct blob_survey_blob *blob)
{
	for (uint32_t i = 0; i < blob->num_runs; i++) {
		uint64_t from, to, next;

		check_cut_run(r->s, &blob->runs[i], &from, &to);
		for (; from < to; from = next) {
			bool in;

			next = survey_bits_run(&r->final_clusters, from, to, &in);
			if (!in) {
				survey_bits_add_run(&r->final_clusters, from, next);
			}
		}
	}
}

static int
settle_clusters(struct repair *r)
{
	int rc = 0;

	for (uint32_t i = 0; i < r->s->num_blobs; i++) {
		if (!r->s->blobs[i].drop && r->s->blobs[i].sealed) {
			settle_sealed(r, &r->s->blobs[i]);
		}
	}
	for (uint32_t i = 0; rc == 0 && i < r->s->num_blobs; i++) {
		if (!r->s->blobs[i].drop && !r->s->blobs[i].sealed) {
			rc = settle_blob(r, &r->s->blobs[i]);
		}
	}
	return rc;
}

/* ---- Metadata pages ---- */

/* BLOB_PAGE_NONE: there is none. Page 0 means "no page" in an extent table. */
static uint32_t
take_page(struct repair *r)
{
	for (; r->next_page < r->s->super.md.length; r->next_page++) {
		if (!survey_bits_add(&r->seen_pages, r->next_page)) {
			return r->next_page;
		}
	}
	return BLOB_PAGE_NONE;
}

static int
write_page(struct repair *r, uint32_t page, const uint8_t *bytes)
{
	return dev_write(r, survey_page_offset(&r->s->super, page), bytes, BLOB_PAGE_BYTES);
}

static int
write_extent(struct repair *r, struct blob_survey_blob *blob, struct blob_survey_extent *e)
{
	uint32_t clusters[BLOB_EXTENT_CLUSTERS];
	uint64_t start = e->index * BLOB_EXTENT_CLUSTERS;
	uint32_t count = (uint32_t)MIN((uint64_t)BLOB_EXTENT_CLUSTERS, blob->num_clusters - start);
	uint8_t bytes[BLOB_PAGE_BYTES];
	struct blob_page_writer w;
	uint32_t page = take_page(r);

	if (page == BLOB_PAGE_NONE) {
		return -ENOSPC;
	}
	for (uint32_t i = 0; i < count; i++) {
		clusters[i] = (uint32_t)blob_survey_cluster(blob, start + i);
	}
	blob_page_begin(&w, bytes);
	blob_put_extent_page(&w, (uint32_t)start, clusters, count);
	blob_page_end(&w, blob->id, 0, BLOB_PAGE_NONE);
	e->page = page;
	return write_page(r, page, bytes);
}

/* The chain as it grows. */
struct chain {
	struct blob_page_writer w;
	uint8_t **pages;
	uint32_t count;
};

static int
chain_more(struct chain *chain)
{
	uint8_t *bytes = malloc(BLOB_PAGE_BYTES);

	if (bytes == NULL || survey_push((void **)&chain->pages, &chain->count, sizeof(bytes), &bytes) == NULL) {
		free(bytes);
		return -ENOMEM;
	}
	blob_page_begin(&chain->w, bytes);
	return 0;
}

static int
put_xattrs(struct chain *chain, const struct blob_survey_blob *blob, bool internal)
{
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		const struct blob_survey_xattr *x = &blob->xattrs[i];

		if (x->internal != internal) {
			continue;
		}
		for (int tries = 0; !blob_put_xattr(&chain->w, internal, x->name, (uint16_t)strlen(x->name), x->value, x->bytes);
		     tries++) {
			if (tries != 0) {
				return -EMSGSIZE;
			}
			if (chain_more(chain) != 0) {
				return -ENOMEM;
			}
		}
	}
	return 0;
}

/* The runs of the table or of the clusters, with the gaps between them. */
static int
push_run(struct blob_run **runs, uint32_t *count, uint64_t *at, uint64_t next, uint32_t index, uint32_t length)
{
	struct blob_run gap = {.index = 0, .length = (uint32_t)(next - *at)};
	struct blob_run run = {.index = index, .length = length};

	if (gap.length != 0 && survey_push((void **)runs, count, sizeof(gap), &gap) == NULL) {
		return -ENOMEM;
	}
	*at = next + length;
	return length != 0 && survey_push((void **)runs, count, sizeof(run), &run) == NULL ? -ENOMEM : 0;
}

static int
make_runs(const struct blob_survey_blob *blob, struct blob_run **ret_runs, uint32_t *ret_count)
{
	uint64_t entries = blob->has_table ? (blob->num_clusters + BLOB_EXTENT_CLUSTERS - 1) / BLOB_EXTENT_CLUSTERS :
		blob->num_clusters;
	uint64_t at = 0;
	int rc = 0;

	for (uint32_t i = 0; blob->has_table && rc == 0 && i < blob->num_extents; i++) {
		const struct blob_survey_extent *e = &blob->extents[i];

		if (!e->broken) {
			rc = push_run(ret_runs, ret_count, &at, e->index, e->page, 1);
		}
	}
	for (uint32_t i = 0; !blob->has_table && rc == 0 && i < blob->num_runs; i++) {
		rc = push_run(ret_runs, ret_count, &at, blob->runs[i].at, blob->runs[i].cluster, blob->runs[i].length);
	}
	return rc != 0 ? rc : push_run(ret_runs, ret_count, &at, entries, 0, 0);
}

static int
put_runs(struct chain *chain, const struct blob_survey_blob *blob)
{
	struct blob_run *runs = NULL;
	uint32_t count = 0, at = 0;
	int rc = make_runs(blob, &runs, &count);

	if (rc == 0 && count == 0 && blob->has_table) {
		uint32_t used = chain->w.used;

		blob_put_extent_table(&chain->w, blob->num_clusters, NULL, 0);
		if (chain->w.used == used) {
			rc = chain_more(chain);
			if (rc == 0) {
				blob_put_extent_table(&chain->w, blob->num_clusters, NULL, 0);
			}
		}
	}
	while (rc == 0 && at < count) {
		at += blob->has_table ? blob_put_extent_table(&chain->w, blob->num_clusters, runs + at, count - at) :
			blob_put_extent_rle(&chain->w, runs + at, count - at);
		if (at < count) {
			rc = chain_more(chain);
		}
	}
	free(runs);
	return rc;
}

static int
put_chain(struct chain *chain, const struct blob_survey_blob *blob)
{
	int rc = chain_more(chain);

	if (rc == 0) {
		CHECK(blob_put_flags(&chain->w, &blob->flags));
		rc = put_xattrs(chain, blob, false);
	}
	if (rc == 0) {
		rc = put_xattrs(chain, blob, true);
	}
	return rc != 0 ? rc : put_runs(chain, blob);
}

/* Pages 2..n to new places; the first one waits. */
static int
write_chain(struct repair *r, struct blob_survey_blob *blob, struct chain *chain)
{
	struct first_page first = {.page = blob->pages[0], .bytes = chain->pages[0]};
	uint32_t *pages = calloc(chain->count, sizeof(*pages));
	struct blob_page_writer w;
	int rc = pages == NULL ? -ENOMEM : 0;

	for (uint32_t i = 0; rc == 0 && i < chain->count; i++) {
		pages[i] = i == 0 ? blob->pages[0] : take_page(r);
		rc = pages[i] == BLOB_PAGE_NONE ? -ENOSPC : 0;
	}
	for (uint32_t i = 0; rc == 0 && i < chain->count; i++) {
		w = (struct blob_page_writer){.page = chain->pages[i]};
		blob_page_end(&w, blob->id, i, i + 1 < chain->count ? pages[i + 1] : BLOB_PAGE_NONE);
		rc = i == 0 ? 0 : write_page(r, pages[i], chain->pages[i]);
	}
	if (rc == 0 && survey_push((void **)&r->first, &r->num_first, sizeof(first), &first) == NULL) {
		rc = -ENOMEM;
	}
	if (rc != 0) {
		free(pages);
		return rc;
	}
	chain->pages[0] = NULL;
	free(blob->pages);
	blob->pages = pages;
	blob->num_pages = chain->count;
	return 0;
}

static int
write_blob(struct repair *r, struct blob_survey_blob *blob)
{
	struct chain chain = {0};
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < blob->num_extents; i++) {
		if (blob->extents[i].rewrite && !blob->extents[i].broken) {
			rc = write_extent(r, blob, &blob->extents[i]);
		}
	}
	if (rc == 0) {
		rc = put_chain(&chain, blob);
	}
	if (rc == 0) {
		rc = write_chain(r, blob, &chain);
	}
	for (uint32_t i = 0; i < chain.count; i++) {
		free(chain.pages[i]);
	}
	free(chain.pages);
	return rc;
}

static int
write_bodies(struct repair *r)
{
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < r->s->num_blobs; i++) {
		struct blob_survey_blob *blob = &r->s->blobs[i];

		if (blob->dirty && !blob->drop && !blob->sealed) {
			rc = write_blob(r, blob);
		}
	}
	return rc;
}

static int
commit_blobs(struct repair *r)
{
	static const uint8_t zeroes[BLOB_PAGE_BYTES];
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < r->num_first; i++) {
		rc = write_page(r, r->first[i].page, r->first[i].bytes);
	}
	for (uint32_t i = 0; rc == 0 && i < r->s->num_blobs; i++) {
		if (r->s->blobs[i].drop) {
			rc = write_page(r, (uint32_t)(r->s->blobs[i].id - BLOB_ID_BASE), zeroes);
		}
	}
	return rc != 0 ? rc : flush(r);
}

/* ---- Masks ---- */

static int
mark_pages(struct repair *r)
{
	for (uint32_t i = 0; i < r->s->num_blobs; i++) {
		const struct blob_survey_blob *blob = &r->s->blobs[i];

		for (uint32_t k = 0; !blob->drop && k < blob->num_pages; k++) {
			survey_bits_add(&r->final_pages, blob->pages[k]);
		}
		for (uint32_t k = 0; !blob->drop && k < blob->num_extents; k++) {
			if ((!blob->extents[k].broken || blob->sealed) && blob->extents[k].page < r->s->super.md.length) {
				survey_bits_add(&r->final_pages, blob->extents[k].page);
			}
		}
	}
	return 0;
}

static int
empty_pages(struct repair *r)
{
	static const uint8_t zeroes[BLOB_PAGE_BYTES];
	int rc = 0;

	for (uint32_t i = 0; rc == 0 && i < r->s->num_good; i++) {
		if (!survey_bits_has(&r->final_pages, r->s->good[i])) {
			rc = write_page(r, r->s->good[i], zeroes);
		}
	}
	for (uint32_t i = 0; rc == 0 && i < r->s->num_bad; i++) {
		if (!survey_bits_has(&r->final_pages, r->s->bad[i])) {
			rc = write_page(r, r->s->bad[i], zeroes);
		}
	}
	return rc;
}

static int
write_mask(struct repair *r, const struct blob_region *region, enum blob_mask_type type, const struct survey_bits *bits)
{
	size_t bytes = survey_mask_bytes(&r->s->super, region, bits->count);
	uint8_t *buf;
	int rc = 0;

	if (bytes == 0) {
		return 0;
	}
	buf = calloc(bytes, 1);
	if (buf == NULL) {
		return -ENOMEM;
	}
	blob_mask_encode(buf, type, (uint32_t)bits->count);
	memcpy(buf + BLOB_MASK_HEADER_BYTES, bits->words[0], (bits->count + 7) / 8);
	for (size_t at = 0; rc == 0 && at < bytes; at += MIN((size_t)PIECE_BYTES, bytes - at)) {
		rc = dev_write(r, (uint64_t)region->start * r->s->super.md_page_bytes + at, buf + at,
			       MIN((size_t)PIECE_BYTES, bytes - at));
	}
	free(buf);
	return rc;
}

static int
write_masks(struct repair *r)
{
	const struct blob_super *super = &r->s->super;
	struct survey_bits ids;
	int rc = survey_bits_init(&ids, super->md.length);

	survey_bits_add_run(&r->final_clusters, 0, blob_super_md_clusters(super));
	for (uint32_t i = 0; rc == 0 && i < r->s->num_blobs; i++) {
		if (!r->s->blobs[i].drop) {
			survey_bits_add(&ids, r->s->blobs[i].id - BLOB_ID_BASE);
		}
	}
	if (rc == 0) {
		rc = write_mask(r, &super->page_mask, BLOB_MASK_PAGES, &r->final_pages);
	}
	if (rc == 0) {
		rc = write_mask(r, &super->blobid_mask, BLOB_MASK_BLOBIDS, &ids);
	}
	if (rc == 0) {
		rc = write_mask(r, &super->cluster_mask, BLOB_MASK_CLUSTERS, &r->final_clusters);
	}
	survey_bits_release(&ids);
	return rc != 0 ? rc : flush(r);
}

/* ---- All of it ---- */

static int
repair_init(struct repair *r, struct check *c)
{
	struct blob_survey *s = c->survey;

	*r = (struct repair){.c = c, .s = s, .next_page = 1, .next_cluster = blob_super_md_clusters(&s->super)};
	r->cluster = malloc(s->super.cluster_bytes);
	if (r->cluster == NULL || survey_bits_init(&r->final_clusters, blob_super_clusters(&s->super)) != 0 ||
	    survey_bits_init(&r->seen_pages, s->super.md.length) != 0 ||
	    survey_bits_init(&r->final_pages, s->super.md.length) != 0) {
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < s->super.md.length; i++) {
		if (c->page_owner[i] != 0 || survey_page_bad(s, i)) {
			survey_bits_add(&r->seen_pages, i);
		}
	}
	return 0;
}

static void
repair_release(struct repair *r)
{
	for (uint32_t i = 0; i < r->num_first; i++) {
		free(r->first[i].bytes);
	}
	free(r->first);
	survey_bits_release(&r->final_clusters);
	survey_bits_release(&r->seen_pages);
	survey_bits_release(&r->final_pages);
	free(r->cluster);
}

static const struct {
	const char *what;
	int (*run)(struct repair *r);
} steps[] = {
	{"copies of clusters", settle_clusters},
	{"metadata pages", write_bodies},
	{"flush", flush},
	{"metadata", commit_blobs},
	{"marks", mark_pages},
	{"pages that are not in use", empty_pages},
	{"masks", write_masks},
};

int
check_repair(struct check *c, struct err *err)
{
	struct repair r;
	int rc;

	if (c->survey->dev->write == NULL) {
		return err_set(err, -EROFS, "the store is open for reading only");
	}
	rc = repair_init(&r, c);
	if (rc == 0) {
		rc = write_super(&r, false);
		if (rc != 0) {
			err_set(err, rc, "the super block could not be written");
		}
	}
	for (unsigned i = 0; rc == 0 && i < ARRAY_SIZE(steps); i++) {
		rc = steps[i].run(&r);
		if (rc != 0) {
			err_set(err, rc, "repair: %s could not be written (%s)", steps[i].what, strerror(-rc));
		}
	}
	if (rc == 0) {
		rc = write_super(&r, true);
		if (rc != 0) {
			err_set(err, rc, "the super block could not be written");
		}
	}
	repair_release(&r);
	return rc;
}
