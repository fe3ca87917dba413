/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What of a store cannot be, in words. Each step below looks at one thing, over the whole survey, and notes findings;
 * where a repair changes a blob, the change is made here in the survey (blob->dirty, blob->drop, extent->rewrite),
 * and check_repair.c writes what has changed. Without a repair the survey is thrown away.
 *
 * Invariants
 *  1. Masks of a store that is not clean are out of date by design, and are not looked at.
 *  2. What a half-made or half-removed snapshot has in common with others is not shared: blob_survey_vanishes() says
 *     that it goes, or it has nothing in common.
 *  3. A second look after a repair decides what was repaired, not the repair.
 *  4. Work is bounded by the store's own size, here and in all that this calls: by its clusters, by its metadata pages, and by
 *     what was read from those. What fields claim (a run's length, a blob's size, the place of an extent page) is never walked
 *     through one by one: runs are cut to the store, or taken as a whole (survey_cluster_run()), and of all runs together each
 *     cluster is looked at a few times, however many claim it (survey_bits.h).
 */
#include "blob/check.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "blob/check_internal.h"
#include "blob/survey.h"

#define OWNER_LOOKS (UINT64_C(1) << 24)

static const struct {
	const char *words;
	bool damage;
} kinds[BLOB_FINDING_KINDS] = {
#define BLOB_FINDING_ENTRY(name, words, damage) {words, damage},
	BLOB_FINDINGS(BLOB_FINDING_ENTRY)
#undef BLOB_FINDING_ENTRY
};

const char *
blob_finding_words(enum blob_finding_kind kind)
{
	return kinds[kind].words;
}

bool
blob_finding_damage(enum blob_finding_kind kind)
{
	return kinds[kind].damage;
}

/* ---- Findings ---- */

void
check_note(struct check *c, enum blob_finding_kind kind, uint64_t blob, const char *repair, const char *fmt, ...)
{
	struct blob_check_report *report = c->report;
	struct blob_finding f = {.kind = kind, .blob = blob};
	va_list args;

	report->count[kind]++;
	if (kinds[kind].damage) {
		report->damage++;
	} else {
		report->notes++;
	}
	if (report->num_findings >= BLOB_FINDINGS_KEPT) {
		return;
	}
	va_start(args, fmt);
	vsnprintf(f.text, sizeof(f.text), fmt, args);
	va_end(args);
	snprintf(f.repair, sizeof(f.repair), "%s", repair);
	if (survey_push((void **)&report->findings, &report->num_findings, sizeof(f), &f) == NULL) {
		c->no_memory = true;
	}
}

const char *
check_call(struct check *c, const struct blob_survey_blob *blob)
{
	const char *name;

	/* A blob of many findings is not searched for its name each time. */
	if (c->called_id == blob->id) {
		return c->called;
	}
	c->called_id = blob->id;
	name = blob_survey_text(blob, "name");
	if (name != NULL && c->lvol) {
		snprintf(c->called, sizeof(c->called), "volume %.100s (blob 0x%" PRIx64 ")", name, blob->id);
	} else {
		snprintf(c->called, sizeof(c->called), "blob 0x%" PRIx64, blob->id);
	}
	return c->called;
}

/* ---- The store ---- */

static void
check_super(struct check *c)
{
	const struct blob_survey *s = c->survey;
	const struct {
		const char *name;
		const struct blob_survey_mask *mask;
	} masks[] = {{"used-page mask", &s->page_mask},
		     {"used-cluster mask", &s->cluster_mask},
		     {"used-blob-id mask", &s->blobid_mask}};

	if (s->super_err.code != 0) {
		check_note(c, BLOB_FINDING_SUPER, BLOB_ID_NONE, "the super block is written anew", "%s",
			   s->super_err.text);
		return;
	}
	if (!s->super.clean || s->super.blobid_mask.length == 0) {
		check_note(c, BLOB_FINDING_UNCLEAN, BLOB_ID_NONE, "masks are written, and the store is marked clean",
			   "%s: its masks are out of date, the next load finds what is in use by itself",
			   s->super.clean ? "the store is of an old version" : "the store was not unloaded");
		return;
	}
	c->masks_count = true;
	for (unsigned i = 0; i < ARRAY_SIZE(masks); i++) {
		if (masks[i].mask->err.code != 0) {
			check_note(c, BLOB_FINDING_MASK, BLOB_ID_NONE, "it is written anew",
				   "the %s cannot be used: %s", masks[i].name, masks[i].mask->err.text);
		}
	}
}

static void
check_bad_pages(struct check *c)
{
	const struct blob_survey *s = c->survey;

	for (uint32_t i = 0; i < s->num_bad; i++) {
		uint32_t page = s->bad[i];

		if (c->page_owner[page] == 0) {
			const uint8_t *ids = c->masks_count ? s->blobid_mask.bits : NULL;

			check_note(c, BLOB_FINDING_PAGE_BAD, BLOB_ID_NONE, "it is emptied",
				   ids != NULL && (ids[page / 8] >> (page % 8) & 1) != 0
					   ? "metadata page %" PRIu32 " is damaged: blob 0x%" PRIx64
					     " began there, and is lost"
					   : "metadata page %" PRIu32
					     " is damaged, and nobody's that is known (blob 0x%" PRIx64
					     ", if one began there)",
				   page, BLOB_ID_BASE + page);
		}
	}
}

/* ---- One blob ---- */

static void
check_chain(struct check *c, struct blob_survey_blob *blob)
{
	bool keep = blob->has_flags && (blob->has_table || blob->has_rle);

	if (blob->damage.code == 0) {
		return;
	}
	check_note(c, BLOB_FINDING_CHAIN, blob->id,
		   blob->sealed ? ""
		   : keep ? "it is kept with the clusters that are known; others read as its parent has them, or as "
			    "zeroes"
			  : "it is removed",
		   "%s: %.160s", check_call(c, blob), blob->damage.text);
	if (keep || blob->sealed) {
		blob->dirty = true;
		blob->flags.invalid |= BLOB_INVALID_THIN;
	} else {
		blob->drop = true;
	}
}

static void
check_flags(struct check *c, struct blob_survey_blob *blob)
{
	uint64_t was = blob->flags.invalid;
	bool internal = false;

	if (blob->sealed) {
		check_note(c, BLOB_FINDING_NEWER, blob->id, "",
			   "%s has flags or descriptors of a later version (0x%" PRIx64 ", 0x%" PRIx64 ", 0x%" PRIx64
			   "): %s",
			   check_call(c, blob), blob->flags.invalid, blob->flags.data_ro, blob->flags.md_ro,
			   blob->newer ? "it cannot be opened" : "it is not written anew");
	}
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		internal = internal || blob->xattrs[i].internal;
	}
	if (internal) {
		blob->flags.invalid |= BLOB_INVALID_INTERNAL_XATTR;
	}
	if (blob->has_table) {
		blob->flags.invalid |= BLOB_INVALID_EXTENT_TABLE;
	}
	if (blob->has_rle) {
		blob->flags.invalid &= ~BLOB_INVALID_EXTENT_TABLE;
	}
	if (blob_survey_xattr(blob, BLOB_XATTR_EXTERNAL, true) != NULL) {
		blob->flags.invalid |= BLOB_INVALID_EXTERNAL;
	} else {
		blob->flags.invalid &= ~BLOB_INVALID_EXTERNAL;
	}
	if (blob->flags.invalid != was) {
		check_note(c, BLOB_FINDING_FLAGS, blob->id, "they are set right",
			   "%s: its flags 0x%" PRIx64 " do not fit what it has (0x%" PRIx64 ")", check_call(c, blob),
			   was, blob->flags.invalid);
		blob->dirty = true;
	}
}

static bool
is_odd(const struct blob_survey_xattr *x)
{
	static const char *const ids[] = {BLOB_XATTR_PARENT, BLOB_XATTR_SNAPSHOT_PENDING, BLOB_XATTR_REMOVAL_PENDING};
	bool odd = false;

	for (unsigned k = 0; k < ARRAY_SIZE(ids); k++) {
		odd = odd || (x->internal && strcmp(x->name, ids[k]) == 0 && x->bytes != sizeof(uint64_t));
	}
	return odd;
}

static int
compare_xattr_names(const struct blob_survey_xattr *x, const struct blob_survey_xattr *y)
{
	return x->internal != y->internal ? (int)x->internal - (int)y->internal : strcmp(x->name, y->name);
}

static int
compare_xattrs(const void *a, const void *b)
{
	const struct blob_survey_xattr *x = *(const struct blob_survey_xattr *const *)a;
	const struct blob_survey_xattr *y = *(const struct blob_survey_xattr *const *)b;
	int order = compare_xattr_names(x, y);

	return order != 0 ? order : x < y ? -1 : x > y;
}

/* Those whose name an earlier one has that is not odd itself. */
static void
find_twins(const struct blob_survey_blob *blob, const struct blob_survey_xattr **sorted, bool *twice)
{
	uint32_t count = 0;

	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		if (!is_odd(&blob->xattrs[i])) {
			sorted[count++] = &blob->xattrs[i];
		}
	}
	qsort(sorted, count, sizeof(*sorted), compare_xattrs);
	for (uint32_t i = 1; i < count; i++) {
		twice[sorted[i] - blob->xattrs] = compare_xattr_names(sorted[i - 1], sorted[i]) == 0;
	}
}

static void
check_xattrs(struct check *c, struct blob_survey_blob *blob)
{
	const struct blob_survey_xattr **sorted = calloc(blob->num_xattrs + 1u, sizeof(*sorted));
	bool *drop = calloc(blob->num_xattrs + 1u, sizeof(*drop));

	if (sorted == NULL || drop == NULL) {
		c->no_memory = true;
		goto out;
	}
	find_twins(blob, sorted, drop);
	for (uint32_t i = 0; i < blob->num_xattrs; i++) {
		const struct blob_survey_xattr *x = &blob->xattrs[i];
		bool twice = drop[i];

		drop[i] = twice || is_odd(x);
		if (drop[i]) {
			check_note(c, BLOB_FINDING_XATTR, blob->id, twice ? "the first one is kept" : "it is removed",
				   "%s: %sxattr %.64s %s", check_call(c, blob), x->internal ? "internal " : "",
				   x->name, twice ? "is there twice" : "is no blob id");
		}
	}
	survey_drop_xattrs(blob, drop);
out:
	free(sorted);
	free(drop);
}

static uint32_t
extent_clusters(const struct blob_survey_blob *blob, uint64_t index)
{
	uint64_t left = blob->num_clusters - index * BLOB_EXTENT_CLUSTERS;

	return left < BLOB_EXTENT_CLUSTERS ? (uint32_t)left : BLOB_EXTENT_CLUSTERS;
}

static void
check_extents(struct check *c, struct blob_survey_blob *blob)
{
	for (uint32_t i = 0; i < blob->num_extents; i++) {
		struct blob_survey_extent *e = &blob->extents[i];
		uint64_t start = e->index * BLOB_EXTENT_CLUSTERS;
		struct blob_descriptor d;
		struct err err = ERR_NONE;

		if (survey_extent_page(c->survey, e->page, &d, &err) != 0) {
			e->broken = true;
		} else if (e->broken) {
			err_set(&err, -EILSEQ, "page %" PRIu32 " has clusters from %" PRIu32 " on", e->page,
				d.page.start_cluster);
		}
		if (e->broken) {
			check_note(c, BLOB_FINDING_EXTENT, blob->id,
				   "it is left out: these clusters read as the parent has them, or as zeroes",
				   "%s: its extent page for the clusters from %" PRIu64 " on is broken: %.80s",
				   check_call(c, blob), start, err.text);
			blob->dirty = true;
			if (blob->allocated < blob->num_clusters) {
				blob->flags.invalid |= BLOB_INVALID_THIN;
			}
			continue;
		}
		if (d.page.num_clusters != extent_clusters(blob, e->index)) {
			check_note(c, BLOB_FINDING_EXTENT, blob->id, "it is written anew",
				   "%s: its extent page for the clusters from %" PRIu64 " on has %" PRIu32
				   " entries instead of %" PRIu32,
				   check_call(c, blob), start, d.page.num_clusters, extent_clusters(blob, e->index));
			blob->dirty = e->rewrite = true;
		}
	}
}

static void
check_holes(struct check *c, struct blob_survey_blob *blob)
{
	if ((blob->flags.invalid & BLOB_INVALID_THIN) != 0 || blob->allocated >= blob->num_clusters) {
		return;
	}
	check_note(c, BLOB_FINDING_HOLE, blob->id, "it becomes a thin one",
		   "%s is thick, but has only %" PRIu64 " of its %" PRIu64 " clusters", check_call(c, blob),
		   blob->allocated, blob->num_clusters);
	blob->flags.invalid |= BLOB_INVALID_THIN;
	blob->dirty = true;
}

/* ---- Families ---- */

/* Where the circle that blob is in is to be cut: where somebody stands on what is no snapshot. */
static struct blob_survey_blob *
weakest(struct check *c, struct blob_survey_blob *blob)
{
	struct blob_survey_blob *b = blob;

	do {
		struct blob_survey_blob *parent = blob_survey_find(c->survey, b->parent);

		if ((parent->flags.data_ro & BLOB_DATA_RO_READ_ONLY) == 0) {
			return b;
		}
		b = parent;
	} while (b != blob);
	return blob;
}

/*
 * Where going up from blob comes round to itself, NULL: it ends. marks: one a blob, the number of the walk that came
 * by; what an earlier walk has seen ends, because each one's loop is cut.
 */
static struct blob_survey_blob *
find_loop(struct check *c, struct blob_survey_blob *blob, uint32_t *marks)
{
	uint32_t walk = (uint32_t)(blob - c->survey->blobs) + 1;

	while (blob != NULL) {
		uint32_t *mark = &marks[blob - c->survey->blobs];

		if (*mark != 0) {
			return *mark == walk ? weakest(c, blob) : NULL;
		}
		*mark = walk;
		blob = blob->parent == BLOB_ID_NONE ? NULL : blob_survey_find(c->survey, blob->parent);
	}
	return NULL;
}

static void
detach(struct check *c, struct blob_survey_blob *blob)
{
	survey_stand_on(c->survey, blob, BLOB_ID_NONE);
	survey_drop_internal(blob, BLOB_XATTR_PARENT);
}

static void
check_parent(struct check *c, struct blob_survey_blob *blob, uint32_t *marks)
{
	static const char detached[] = "it is detached: what it has not itself reads as zeroes";
	struct blob_survey_blob *loop = find_loop(c, blob, marks);
	struct blob_survey_blob *parent;
	uint64_t id;

	if (loop != NULL) {
		check_note(c, BLOB_FINDING_PARENT, loop->id, detached, "%s is its own ancestor", check_call(c, loop));
		detach(c, loop);
	}
	id = blob->parent;
	parent = id == BLOB_ID_NONE ? NULL : blob_survey_find(c->survey, id);
	if (id == BLOB_ID_NONE) {
		return;
	}
	if (parent == NULL) {
		check_note(c, BLOB_FINDING_PARENT, blob->id, detached, "%s: its parent 0x%" PRIx64 " is not there",
			   check_call(c, blob), id);
		detach(c, blob);
	} else if (parent->drop) {
		check_note(c, BLOB_FINDING_PARENT, blob->id, detached, "%s: its parent 0x%" PRIx64 " is broken",
			   check_call(c, blob), id);
		detach(c, blob);
	} else if ((parent->flags.data_ro & BLOB_DATA_RO_READ_ONLY) == 0) {
		check_note(c, BLOB_FINDING_FLAGS, parent->id, "it is made read-only",
			   "%s has clones, but is not read-only", check_call(c, parent));
		parent->flags.data_ro |= BLOB_DATA_RO_READ_ONLY;
		parent->dirty = true;
	}
}

static void
check_families(struct check *c)
{
	struct blob_survey *s = c->survey;
	uint32_t *marks = calloc(s->num_blobs + 1u, sizeof(*marks));
	uint32_t *clones = calloc(s->num_blobs + 1u, sizeof(*clones));

	if (marks == NULL || clones == NULL) {
		c->no_memory = true;
	}
	for (uint32_t i = 0; !c->no_memory && i < s->num_blobs; i++) {
		if (!s->blobs[i].drop) {
			check_parent(c, &s->blobs[i], marks);
		}
	}
	for (uint32_t i = 0; !c->no_memory && i < s->num_blobs; i++) {
		struct blob_survey_blob *parent = s->blobs[i].drop || s->blobs[i].parent == BLOB_ID_NONE
							  ? NULL
							  : blob_survey_find(s, s->blobs[i].parent);

		if (parent != NULL) {
			clones[parent - s->blobs]++;
		}
	}
	for (uint32_t i = 0; !c->no_memory && i < s->num_blobs; i++) {
		struct blob_survey_blob *blob = &s->blobs[i];

		if (blob->drop || blob_survey_xattr(blob, BLOB_XATTR_DELETED, true) == NULL) {
			continue;
		}
		check_note(c, BLOB_FINDING_DELETED, blob->id, clones[i] == 0 ? "it is removed" : "",
			   "%s was deleted, and stays for %" PRIu32 " clones", check_call(c, blob), clones[i]);
		blob->drop = clones[i] == 0;
	}
	free(marks);
	free(clones);
}

/* ---- All of it ---- */

/* On memory alone. */
static void
look(struct check *c)
{
	struct blob_survey *s = c->survey;

	check_super(c);
	/* As the next load does, before it looks at who has what. */
	check_groups(c);
	/* Before anything is dropped or changed. */
	check_owners(c);
	check_bad_pages(c);
	for (uint32_t i = 0; i < s->num_blobs; i++) {
		struct blob_survey_blob *blob = &s->blobs[i];

		check_pending(c, blob);
		if (!blob->drop) {
			check_chain(c, blob);
		}
		if (!blob->drop) {
			check_xattrs(c, blob);
			check_flags(c, blob);
			check_extents(c, blob);
			check_holes(c, blob);
		}
	}
	check_families(c);
	check_names(c);
	c->report->blobs = s->num_blobs;
	c->report->clusters_total = blob_super_clusters(&s->super);
	c->report->left = c->report->damage;
}

static int
check_init(struct check *c, const struct blob_offline *dev, const struct blob_check_options *options,
	   struct blob_check_report *report, struct err *err)
{
	int rc;

	*c = (struct check){.report = report, .looks = OWNER_LOOKS, .called_id = BLOB_ID_NONE};
	*report = (struct blob_check_report){0};
	rc = blob_survey_read(dev, options->geometry, &c->survey, err);
	if (rc != 0) {
		return rc;
	}
	c->lvol = strncmp(c->survey->super.type, "LVOLSTORE", BLOB_TYPE_BYTES) == 0;
	c->page_owner = calloc((size_t)c->survey->super.md.length, sizeof(c->page_owner[0]));
	if (survey_bits_init(&c->cluster_used, blob_super_clusters(&c->survey->super)) != 0 || c->page_owner == NULL) {
		return err_set(err, -ENOMEM, "no memory for the masks");
	}
	look(c);
	return c->no_memory ? err_set(err, -ENOMEM, "no memory for what was found") : 0;
}

static void
check_finish(struct check *c)
{
	blob_survey_free(c->survey);
	survey_bits_release(&c->cluster_used);
	free(c->page_owner);
}

static int
compare_findings(const void *a, const void *b)
{
	const struct blob_finding *x = a, *y = b;

	if (x->kind != y->kind) {
		return x->kind < y->kind ? -1 : 1;
	}
	return x->blob < y->blob ? -1 : x->blob > y->blob;
}

/* What a second look does not find any more was repaired (invariant 3). */
static int
look_again(const struct blob_offline *dev, struct blob_check_report *report, struct err *err)
{
	struct blob_check_options options = {0};
	struct blob_check_report after;
	struct check c;
	int rc = check_init(&c, dev, &options, &after, err);

	if (rc == 0) {
		if (after.num_findings != 0) {
			qsort(after.findings, after.num_findings, sizeof(*after.findings), compare_findings);
		}
		for (uint32_t i = 0; i < report->num_findings; i++) {
			struct blob_finding *f = &report->findings[i];

			f->repaired = after.num_findings == 0 || bsearch(f, after.findings, after.num_findings, sizeof(*f),
									 compare_findings) == NULL;
			report->repaired += f->repaired;
		}
		report->left = after.damage;
	}
	blob_check_release(&after);
	check_finish(&c);
	return rc;
}

int
blob_check(const struct blob_offline *dev, const struct blob_check_options *options,
	   struct blob_check_report *ret_report, struct err *err)
{
	struct check c;
	int rc = check_init(&c, dev, options, ret_report, err);
	bool repair = rc == 0 && options->repair && ret_report->damage + ret_report->notes != 0;

	if (repair) {
		rc = check_repair(&c, err);
	}
	check_finish(&c);
	if (rc == 0 && repair) {
		rc = look_again(dev, ret_report, err);
	}
	return rc;
}

void
blob_check_release(struct blob_check_report *report)
{
	free(report->findings);
	*report = (struct blob_check_report){0};
}
