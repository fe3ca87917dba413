/* SPDX-License-Identifier: BSD-3-Clause */
/* Each case does one kind of damage, or leaves behind what a power cut leaves, in a store that is sound otherwise. */
#include "blob/harness_offline.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"

void
again(unsigned b)
{
	put_blob(&specs[b]);
}

/* ---- Damage ---- */

static void
bad_cluster_leaked(void)
{
	flip(&super.cluster_mask, 200);
	flip(&super.cluster_mask, 201);
}

static void
bad_cluster_unmarked(void)
{
	flip(&super.cluster_mask, 71);
}

static void
bad_cluster_unmarked_md(void)
{
	flip(&super.cluster_mask, 0);
}

static void
bad_page_leaked(void)
{
	flip(&super.page_mask, 50);
}

static void
bad_page_unmarked(void)
{
	flip(&super.page_mask, 13);
}

static void
bad_blobid_extra(void)
{
	flip(&super.blobid_mask, 50);
}

static void
bad_blobid_missing(void)
{
	flip(&super.blobid_mask, 4);
}

static void
bad_mask_header(void)
{
	mask(&super.cluster_mask)[-5] = 7;
}

static void
bad_mask_length(void)
{
	mask(&super.page_mask)[-4] ^= 1;
}

void
bad_shared(void)
{
	specs[CLONE].map[8] = specs[VOL].map[1];
	again(CLONE);
	flip(&super.cluster_mask, 93);
}

static void
bad_shared_self(void)
{
	specs[THICK].map[3] = specs[THICK].map[0];
	again(THICK);
	flip(&super.cluster_mask, 73);
}

static void
bad_stray_end(void)
{
	specs[CLONE].map[8] = CLUSTERS + 5;
	again(CLONE);
	flip(&super.cluster_mask, 93);
}

static void
bad_stray_md(void)
{
	specs[VOL].map[520] = 1;
	again(VOL);
	flip(&super.cluster_mask, 60);
}

static void
bad_stray_rle(void)
{
	specs[THICK].map[2] = UINT32_MAX;
	again(THICK);
	flip(&super.cluster_mask, 72);
}

static void
bad_chain(void)
{
	md(13)[100] ^= 1;
}

static void
bad_chain_link(void)
{
	struct blob_page_writer w = {.page = md(4)};

	blob_page_end(&w, BLOB_ID_BASE + 4, 0, 3);
}

static void
bad_chain_outside(void)
{
	struct blob_page_writer w = {.page = md(4)};

	blob_page_end(&w, BLOB_ID_BASE + 4, 0, MD_PAGES);
}

/* The table is in the first page, and what is behind it is lost. */
static void
bad_chain_end(void)
{
	struct blob_page_writer w = {.page = md(1)};

	blob_page_end(&w, BLOB_ID_BASE + 1, 0, 40);
}

static void
bad_descriptor(void)
{
	struct blob_page_writer w = {.page = md(2)};

	memset(md(2) + 16 + 29 + 1, 0xff, 4);
	blob_page_end(&w, BLOB_ID_BASE + 2, 0, BLOB_PAGE_NONE);
}

void
bad_extent(void)
{
	md(11)[30] ^= 1;
}

static void
bad_extent_empty(void)
{
	memset(md(10), 0, 4096);
	flip(&super.page_mask, 10);
	flip(&super.page_mask, 10);
}

static void
bad_extent_start(void)
{
	memcpy(md(11), md(10), 4096);
}

/* Not the last one: that would say how large the blob is. */
static void
bad_extent_entries(void)
{
	specs[VOL].entries_more = -3;
	again(VOL);
}

static void
bad_extent_shared(void)
{
	specs[CLONE].extent[0] = 10;
	again(CLONE);
	again(VOL);
	for (uint32_t i = 90; i < 94; i++) {
		flip(&super.cluster_mask, i);
	}
	flip(&super.page_mask, 14);
}

static void
bad_first(void)
{
	md(2)[4000] ^= 0x10;
}

static void
bad_parent(void)
{
	specs[VOL].parent = BLOB_ID_BASE + 33;
	again(VOL);
}

static void
bad_parent_loop(void)
{
	specs[SNAP].parent = BLOB_ID_BASE + 1;
	again(SNAP);
}

static void
bad_parent_short(void)
{
	specs[VOL].short_parent = true;
	again(VOL);
}

static void
bad_parent_writable(void)
{
	specs[SNAP].read_only = false;
	again(SNAP);
}

static void
bad_xattr_twice(void)
{
	specs[THICK].twice = true;
	again(THICK);
}

static void
bad_name(void)
{
	specs[THICK].name = "vol";
	again(THICK);
}

static void
bad_name_none(void)
{
	specs[THICK].name = NULL;
	again(THICK);
}

static void
bad_uuid(void)
{
	specs[THICK].uuid = "u-snap";
	again(THICK);
}

static void
bad_super_blob(void)
{
	super.super_blob = BLOB_ID_BASE + 22;
	put_super();
}

static void
bad_hole(void)
{
	specs[CLONE].thin = false;
	again(CLONE);
}

void
bad_flags(void)
{
	specs[THICK].flags.invalid = BLOB_INVALID_EXTENT_TABLE | BLOB_INVALID_EXTERNAL;
	again(THICK);
}

/* ---- What is under way: no damage ---- */

static void
unclean(void)
{
	super.clean = false;
	put_super();
}

static void
note_unclean(void)
{
	unclean();
	memset(mask(&super.cluster_mask), 0, 20);
}

/* A snapshot of THICK, which has the same clusters still. */
void
note_making(void)
{
	unclean();
	specs[SNAP] = specs[THICK];
	specs[SNAP].page = 5;
	specs[SNAP].name = "half";
	specs[SNAP].uuid = "u-half";
	specs[SNAP].making = BLOB_ID_BASE + 2;
	again(SNAP);
}

/* VOL stands on it already. */
static void
note_made(void)
{
	unclean();
	specs[SNAP].making = BLOB_ID_BASE + 1;
	again(SNAP);
}

static void
note_removing(void)
{
	unclean();
	specs[SNAP].removing = BLOB_ID_BASE + 1;
	again(SNAP);
	specs[VOL].parent = specs[CLONE].parent = 0;
	specs[VOL].map[5] = 83; /* taken over */
	again(VOL);
	again(CLONE);
}

/* As SPDK does it: the clone has what the snapshot has already, but stands on it still. */
static void
note_removing_early(void)
{
	unclean();
	specs[SNAP].removing = BLOB_ID_BASE + 1;
	again(SNAP);
	specs[VOL].map[4] = 82;
	specs[VOL].map[5] = 83;
	again(VOL);
}

static void
note_deleted(void)
{
	specs[SNAP].deleted = true;
	again(SNAP);
}

static void
note_deleted_free(void)
{
	note_deleted();
	specs[VOL].parent = specs[CLONE].parent = 0;
	again(VOL);
	again(CLONE);
}

/* THICK and its half-made snapshot, in a group of one more whose original stands on its snapshot already. */
void
note_group(void)
{
	const uint64_t pairs[4] = {BLOB_ID_BASE + 1, BLOB_ID_BASE + 3, BLOB_ID_BASE + 2, BLOB_ID_BASE + 5};
	struct spec half = specs[THICK];

	unclean();
	specs[SNAP].making = BLOB_ID_BASE + 1;
	specs[SNAP].has_intent = true;
	memcpy(specs[SNAP].intent, pairs, sizeof(pairs));
	again(SNAP);
	half.page = 5;
	half.name = "half";
	half.uuid = "u-half";
	half.read_only = true;
	half.making = BLOB_ID_BASE + 2;
	put_blob(&half);
}

static void
note_newer(void)
{
	specs[THICK].flags.invalid = UINT64_C(1) << 40;
	again(THICK);
}

#define KIND(name) (1u << BLOB_FINDING_##name)
#define LOST (KIND(CLUSTER_LEAKED) | KIND(PAGE_LEAKED) | KIND(PAGE_BAD)) /* what nobody has any more */

const struct offline_case offline_cases[] = {
	{"cluster leaked", bad_cluster_leaked, BLOB_FINDING_CLUSTER_LEAKED, 0, false},
	{"cluster unmarked", bad_cluster_unmarked, BLOB_FINDING_CLUSTER_UNMARKED, 0, false},
	{"metadata unmarked", bad_cluster_unmarked_md, BLOB_FINDING_CLUSTER_UNMARKED, 0, false},
	{"page leaked", bad_page_leaked, BLOB_FINDING_PAGE_LEAKED, 0, false},
	{"page unmarked", bad_page_unmarked, BLOB_FINDING_PAGE_UNMARKED, 0, false},
	{"blob id too many", bad_blobid_extra, BLOB_FINDING_BLOBID, 0, false},
	{"blob id missing", bad_blobid_missing, BLOB_FINDING_BLOBID, 0, false},
	{"mask header", bad_mask_header, BLOB_FINDING_MASK, 0, false},
	{"mask length", bad_mask_length, BLOB_FINDING_MASK, 0, false},
	{"shared cluster", bad_shared, BLOB_FINDING_CLUSTER_SHARED, 0, false},
	{"shared with itself", bad_shared_self, BLOB_FINDING_CLUSTER_SHARED, 0, false},
	{"stray at the end", bad_stray_end, BLOB_FINDING_CLUSTER_STRAY, 0, false},
	{"stray in metadata", bad_stray_md, BLOB_FINDING_CLUSTER_STRAY, 0, false},
	{"stray of a run", bad_stray_rle, BLOB_FINDING_CLUSTER_STRAY, 0, false},
	{"chain", bad_chain, BLOB_FINDING_CHAIN, LOST, false},
	{"chain to elsewhere", bad_chain_link, BLOB_FINDING_CHAIN, LOST, false},
	{"chain to outside", bad_chain_outside, BLOB_FINDING_CHAIN, LOST, false},
	{"end of a chain", bad_chain_end, BLOB_FINDING_CHAIN, LOST, false},
	{"descriptor", bad_descriptor, BLOB_FINDING_CHAIN, LOST, false},
	{"extent page", bad_extent, BLOB_FINDING_EXTENT, LOST, false},
	{"extent page empty", bad_extent_empty, BLOB_FINDING_EXTENT, LOST | KIND(PAGE_UNMARKED), false},
	{"extent page of elsewhere", bad_extent_start, BLOB_FINDING_EXTENT, LOST, false},
	{"extent page too short", bad_extent_entries, BLOB_FINDING_EXTENT, 0, false},
	{"extent page shared", bad_extent_shared, BLOB_FINDING_PAGE_SHARED, KIND(CLUSTER_SHARED), false},
	{"first page", bad_first, BLOB_FINDING_PAGE_BAD, LOST | KIND(BLOBID), false},
	{"parent missing", bad_parent, BLOB_FINDING_PARENT, 0, false},
	{"parents in a circle", bad_parent_loop, BLOB_FINDING_PARENT, 0, false},
	{"parent is no id", bad_parent_short, BLOB_FINDING_XATTR, 0, false},
	{"parent writable", bad_parent_writable, BLOB_FINDING_FLAGS, 0, false},
	{"xattr twice", bad_xattr_twice, BLOB_FINDING_XATTR, 0, false},
	{"name twice", bad_name, BLOB_FINDING_NAME, 0, false},
	{"no name", bad_name_none, BLOB_FINDING_NAME, 0, false},
	{"UUID twice", bad_uuid, BLOB_FINDING_NAME, 0, false},
	{"super blob", bad_super_blob, BLOB_FINDING_SUPER_BLOB, 0, false},
	{"thick with a hole", bad_hole, BLOB_FINDING_HOLE, 0, false},
	{"flags", bad_flags, BLOB_FINDING_FLAGS, 0, false},
	{"unclean", note_unclean, BLOB_FINDING_UNCLEAN, 0, false},
	{"snapshot half-made", note_making, BLOB_FINDING_PENDING, KIND(UNCLEAN), false},
	{"snapshot made", note_made, BLOB_FINDING_PENDING, KIND(UNCLEAN), false},
	{"snapshot half-removed", note_removing, BLOB_FINDING_PENDING, KIND(UNCLEAN), false},
	{"snapshot half-removed, early", note_removing_early, BLOB_FINDING_PENDING, KIND(UNCLEAN), false},
	{"deleted", note_deleted, BLOB_FINDING_DELETED, 0, true},
	{"deleted, of nobody", note_deleted_free, BLOB_FINDING_DELETED, 0, false},
	{"group", note_group, BLOB_FINDING_GROUP, KIND(PENDING) | KIND(UNCLEAN), false},
	{"newer", note_newer, BLOB_FINDING_NEWER, 0, true},
};
const unsigned num_offline_cases = ARRAY_SIZE(offline_cases);

/* ---- Looks ---- */

struct blob_check_report
look(bool repair)
{
	struct blob_check_options options = {.repair = repair};
	struct blob_check_report report;
	struct err err = ERR_NONE;
	int rc = blob_check(&dev, &options, &report, &err);

	if (rc != 0) {
		fail_msg("%s", err.text);
	}
	return report;
}

void
say(const char *name, const struct blob_check_report *report)
{
	for (uint32_t i = 0; i < report->num_findings; i++) {
		print_message("%s: [%s] %s -> %s%s\n", name, blob_finding_words(report->findings[i].kind),
			      report->findings[i].text, report->findings[i].repair,
			      report->findings[i].repaired ? " (done)" : "");
	}
}

void
expect_sound(const char *name)
{
	struct blob_check_report report = look(false);

	if (report.damage != 0) {
		say(name, &report);
		fail_msg("%s: damage is left", name);
	}
	assert_int_equal(num_changes, 0);
	blob_check_release(&report);
}

/* ---- What is in the volumes ---- */

struct blob_survey *
survey(void)
{
	struct blob_survey *s;

	assert_int_equal(blob_survey_read(&dev, NULL, &s, NULL), 0);
	return s;
}

uint8_t saved[VIRTUAL];
uint64_t lost;

static int
save(void *ctx, uint64_t at, const void *buf, size_t bytes)
{
	assert_true(bytes == CLUSTER && at % CLUSTER == 0 && at / CLUSTER < VIRTUAL);
	saved[at / CLUSTER] = *(const uint8_t *)buf;
	return 0;
}

static void
lose(void *ctx, uint64_t at, uint64_t bytes, const char *why)
{
	lost += bytes;
}

void
salvage(const struct blob_survey *s, uint32_t page)
{
	const struct blob_salvage to = {.write = save, .lost = lose};
	const struct blob_survey_blob *blob = blob_survey_find(s, BLOB_ID_BASE + page);

	memset(saved, 0, sizeof(saved));
	lost = 0;
	assert_non_null(blob);
	assert_int_equal(blob_salvage(s, blob, &to), 0);
}

/* The volume over its parent, by the made-up maps. */
void
expect_saved(unsigned b, unsigned below)
{
	for (uint32_t i = 0; i < specs[b].clusters; i++) {
		uint32_t c = specs[b].map[i] != 0 ? specs[b].map[i] : b != below ? specs[below].map[i] : 0;

		assert_int_equal(saved[i], (uint8_t)c);
	}
}
