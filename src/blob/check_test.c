/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A made-up store of five blobs in memory, damaged in one way at a time: the check names the kind, the repair leaves
 * nothing, and does so from wherever power fails during it. Below: what volumes are saved with and without a super
 * block.
 */
#include "blob/check.h"

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
#include "base/crc.h"

#include "testkit/blob_made.h"

static uint8_t pristine[DISK_BYTES];

static void
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

static void
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

static void
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

static void
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
static void
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
static void
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

static const struct {
	const char *name;
	void (*make)(void);
	enum blob_finding_kind kind;
	unsigned others; /* bits of kinds that follow from it; no more */
	bool stays;      /* nothing can be done about it, or needs to be */
} cases[] = {
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

/* ---- Checks ---- */

static struct blob_check_report
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

static void
say(const char *name, const struct blob_check_report *report)
{
	for (uint32_t i = 0; i < report->num_findings; i++) {
		print_message("%s: [%s] %s -> %s%s\n", name, blob_finding_words(report->findings[i].kind),
			      report->findings[i].text, report->findings[i].repair,
			      report->findings[i].repaired ? " (done)" : "");
	}
}

static void
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

/* Each case: found as what it is, by a look that writes nothing; mended; not found again. */
static void
test_each(void **state)
{
	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct blob_check_report report;
		bool bad = blob_finding_damage(cases[i].kind);

		make_store();
		expect_sound(cases[i].name);
		cases[i].make();
		report = look(false);
		for (unsigned k = 0; k < BLOB_FINDING_KINDS; k++) {
			if (report.count[k] != 0 ? k != cases[i].kind && (cases[i].others >> k & 1) == 0
						 : k == cases[i].kind) {
				say(cases[i].name, &report);
				fail_msg("%s: %" PRIu64 " of \"%s\"", cases[i].name, report.count[k],
					 blob_finding_words((enum blob_finding_kind)k));
			}
		}
		assert_true(bad == (report.damage != 0) && report.left == report.damage && report.repaired == 0);
		assert_int_equal(num_changes, 0);
		blob_check_release(&report);

		report = look(true);
		if (report.left != 0 || (report.repaired != report.num_findings && !cases[i].stays)) {
			say(cases[i].name, &report);
			fail_msg("%s: not repaired", cases[i].name);
		}
		blob_check_release(&report);
		forget_changes();
		report = look(false);
		assert_true(report.damage == 0 && (report.notes == 0 || cases[i].stays));
		blob_check_release(&report);
	}
}

/* ---- What is in the volumes ---- */

static struct blob_survey *
survey(void)
{
	struct blob_survey *s;

	assert_int_equal(blob_survey_read(&dev, NULL, &s, NULL), 0);
	return s;
}

static uint8_t saved[VIRTUAL]; /* first byte of each cluster */
static uint64_t lost;

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

static void
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
static void
expect_saved(unsigned b, unsigned below)
{
	for (uint32_t i = 0; i < specs[b].clusters; i++) {
		uint32_t c = specs[b].map[i] != 0 ? specs[b].map[i] : b != below ? specs[below].map[i] : 0;

		assert_int_equal(saved[i], (uint8_t)c);
	}
}

static void
test_salvage(void **state)
{
	struct blob_survey *s;

	make_store();
	s = survey();
	salvage(s, 1);
	expect_saved(VOL, SNAP);
	salvage(s, 2);
	expect_saved(THICK, THICK);
	salvage(s, 4);
	expect_saved(CLONE, SNAP);
	assert_int_equal(lost, 0);
	blob_survey_free(s);

	/* A broken extent page loses its own clusters, all of those it might have had. */
	bad_extent();
	s = survey();
	salvage(s, 1);
	assert_int_equal(lost, (VIRTUAL - 512) * CLUSTER);
	assert_true(saved[0] == 40 && saved[3] == 46 && saved[4] == 82 && saved[520] == 0);
	blob_survey_free(s);

	make_store();
	memset(md(3), 0, 4096);
	s = survey();
	salvage(s, 4);
	assert_int_equal(lost, (VIRTUAL - 4) * CLUSTER);
	assert_int_equal(saved[5], 90);
	blob_survey_free(s);

	make_store();
	s = survey();
	unreadable = 41 * CLUSTER; /* not in use */
	salvage(s, 1);
	assert_int_equal(lost, 0);
	unreadable = 42 * CLUSTER + 4096;
	salvage(s, 1);
	assert_int_equal(lost, 4096);
	assert_int_equal(saved[1], 42);
	blob_survey_free(s);
}

/* Holes are passed over, and of a damaged table no more is believed than can be. */
static void
test_salvage_of_too_much(void **state)
{
	struct blob_survey_blob *blob;
	struct blob_survey *s;

	make_store();
	s = survey();
	blob = blob_survey_find(s, BLOB_ID_BASE + 1);
	blob->num_clusters = UINT64_C(1) << 52; /* that many one by one would not end */
	assert_true(blob_salvage_clusters(s, blob) == blob->num_clusters);
	salvage(s, 1);
	expect_saved(VOL, SNAP);
	assert_int_equal(lost, 0);
	err_set(&blob->damage, -EILSEQ, "its table is broken");
	assert_int_equal(blob_salvage_clusters(s, blob), 1024); /* its two extents */
	salvage(s, 1);
	assert_true(saved[0] == 40 && saved[3] == 46 && lost <= 1024 * CLUSTER);
	blob_survey_free(s);

	/* What is lost is lost in large pieces. */
	make_store();
	memset(md(3), 0, 4096);
	s = survey();
	blob = blob_survey_find(s, BLOB_ID_BASE + 4);
	blob->num_clusters = UINT64_C(1) << 40;
	salvage(s, 4);
	assert_true(lost == ((UINT64_C(1) << 40) - 4) * CLUSTER);
	blob_survey_free(s);
}

/* ---- Cuts ---- */

#define DIGESTS 6 /* of the blobs that begin in the first pages */

static void
digest(uint32_t digests[DIGESTS])
{
	struct blob_survey *s = survey();

	for (uint32_t page = 0; page < DIGESTS; page++) {
		digests[page] = 0;
		if (blob_survey_find(s, BLOB_ID_BASE + page) != NULL) {
			salvage(s, page);
			digests[page] = crc_32c((uint32_t)lost + 1, saved, sizeof(saved));
		}
	}
	blob_survey_free(s);
}

static uint64_t
count_unmarked(void)
{
	struct blob_check_report report = look(false);
	uint64_t n = report.count[BLOB_FINDING_CLUSTER_UNMARKED] + report.count[BLOB_FINDING_PAGE_UNMARKED] +
		     report.count[BLOB_FINDING_BLOBID] + report.count[BLOB_FINDING_MASK];

	blob_check_release(&report);
	return n;
}

/* Power fails after every write of every repair; of the writes since the last flush any may be missing. */
static void
test_cuts(void **state)
{
	uint32_t expected[DIGESTS], found[DIGESTS];
	static uint8_t before[DISK_BYTES];
	static struct change log[CHANGES_MAX];
	uint32_t random = 1;

	for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
		struct blob_check_report report;
		uint64_t unmarked;
		unsigned count;

		make_store();
		cases[i].make();
		memcpy(before, disk, sizeof(disk));
		unmarked = count_unmarked();
		report = look(true);
		blob_check_release(&report);
		digest(expected);
		count = num_changes;
		memcpy(log, changes, sizeof(log));
		num_changes = 0;
		for (unsigned cut = 0; cut <= count; cut++) {
			unsigned flushed = 0;

			for (unsigned k = 0; k < cut; k++) {
				flushed = log[k].data == NULL ? k : flushed;
			}
			memcpy(disk, before, sizeof(disk));
			for (unsigned k = 0; k < cut; k++) {
				random = random * 1103515245u + 12345;
				if (log[k].data != NULL && (k < flushed || (random >> 16 & 3) != 0)) {
					memcpy(disk + log[k].offset, log[k].data, log[k].bytes);
				}
			}
			/* A store that says it is clean may be used as it is. */
			assert_true(count_unmarked() <= unmarked);
			report = look(true);
			if (report.left != 0) {
				say(cases[i].name, &report);
				fail_msg("%s: cut at %u of %u", cases[i].name, cut, count);
			}
			blob_check_release(&report);
			forget_changes();
			expect_sound(cases[i].name);
			digest(found);
			if (memcmp(expected, found, sizeof(found)) != 0) {
				fail_msg("%s: cut at %u of %u: volumes hold something else", cases[i].name, cut,
					 count);
			}
		}
		for (unsigned k = 0; k < count; k++) {
			free(log[k].data);
		}
	}
}

/* A metadata page that cannot be read is as good as damaged; the rest of the piece is read. */
static void
test_unreadable(void **state)
{
	struct blob_check_report report;

	make_store();
	unreadable = ((uint64_t)super.md.start + 13) * 4096;
	report = look(false);
	assert_true(report.count[BLOB_FINDING_CHAIN] == 1 && report.blobs == BLOBS);
	blob_check_release(&report);
	unreadable = 0;
}

/* Two volumes that had the same cluster have what they had. */
static void
test_shared_contents(void **state)
{
	struct blob_check_report report;
	struct blob_survey *s;

	make_store();
	bad_shared();
	report = look(true);
	blob_check_release(&report);
	forget_changes();
	s = survey();
	salvage(s, 1);
	expect_saved(VOL, SNAP);
	salvage(s, 4);
	expect_saved(CLONE, SNAP);
	assert_true(blob_survey_cluster(blob_survey_find(s, BLOB_ID_BASE + 1), 1) !=
		    blob_survey_cluster(blob_survey_find(s, BLOB_ID_BASE + 4), 8));
	blob_survey_free(s);
}

/* Of a group all stand on their snapshots, and read the same. */
static void
test_group_contents(void **state)
{
	struct blob_check_report report;
	struct blob_survey *s;

	make_store();
	note_group();
	report = look(true);
	blob_check_release(&report);
	forget_changes();
	s = survey();
	assert_int_equal(s->num_blobs, BLOBS + 1);
	assert_int_equal(blob_survey_find(s, BLOB_ID_BASE + 2)->parent, BLOB_ID_BASE + 5);
	assert_int_equal(blob_survey_find(s, BLOB_ID_BASE + 2)->allocated, 0);
	salvage(s, 2);
	expect_saved(THICK, THICK);
	salvage(s, 1);
	expect_saved(VOL, SNAP);
	blob_survey_free(s);
}

/* What was being made is gone, and has taken nothing with it. */
static void
test_vanished(void **state)
{
	struct blob_check_report report;
	struct blob_survey *s;

	make_store();
	note_making();
	report = look(true);
	blob_check_release(&report);
	forget_changes();
	s = survey();
	assert_null(blob_survey_find(s, BLOB_ID_BASE + 5));
	salvage(s, 2);
	expect_saved(THICK, THICK);
	assert_true(s->cluster_mask.bits[70 / 8] >> (70 % 8) & 1);
	blob_survey_free(s);
}

/* ---- Without a super block ---- */

static void
test_guess(void **state)
{
	struct blob_check_options options = {.repair = true};
	struct blob_check_report report;
	struct blob_survey *s;
	struct blob_super guess;
	struct err err = ERR_NONE;
	bool sure;

	make_store();
	memcpy(pristine, disk, sizeof(disk));
	memset(disk, 0, 4096);
	assert_int_equal(blob_check(&dev, &options, &report, &err), -EINVAL);
	blob_check_release(&report);
	if (blob_salvage_guess(&dev, 0, &guess, &sure, &err) != 0) {
		fail_msg("%s", err.text);
	}
	assert_true(sure && guess.cluster_bytes == CLUSTER);
	assert_memory_equal(&guess.md, &super.md, sizeof(super.md));
	assert_memory_equal(&guess.cluster_mask, &super.cluster_mask, sizeof(super.cluster_mask));
	assert_memory_equal(&guess.blobid_mask, &super.blobid_mask, sizeof(super.blobid_mask));
	assert_string_equal(guess.type, "LVOLSTORE");
	options.geometry = &guess;
	assert_int_equal(blob_check(&dev, &options, &report, &err), 0);
	assert_true(report.count[BLOB_FINDING_SUPER] == 1 && report.left == 0);
	blob_check_release(&report);
	forget_changes();
	/* The very same, but for what was not in use. */
	expect_sound("rebuilt");
	assert_memory_equal(disk, pristine, 4096);

	/* Without masks the layouts are tried; what fits is good enough to read by. */
	make_store();
	memset(disk, 0, (size_t)super.md.start * 4096);
	assert_int_equal(blob_salvage_guess(&dev, 0, &guess, &sure, &err), -ENOENT);
	assert_int_equal(blob_salvage_guess(&dev, CLUSTER, &guess, &sure, &err), 0);
	assert_false(sure);
	assert_int_equal(blob_survey_read(&dev, &guess, &s, NULL), 0);
	salvage(s, 4);
	expect_saved(CLONE, SNAP);
	blob_survey_free(s);
	memset(disk, 0, sizeof(disk));
	assert_int_equal(blob_salvage_guess(&dev, 0, &guess, &sure, &err), -ENOENT);
}

static void
test_read_only(void **state)
{
	struct blob_offline readonly = dev;
	struct blob_check_options options = {.repair = true};
	struct blob_check_report report;

	make_store();
	bad_flags();
	readonly.write = NULL;
	assert_int_equal(blob_check(&readonly, &options, &report, NULL), -EROFS);
	blob_check_release(&report);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each),
		cmocka_unit_test(test_cuts),
		cmocka_unit_test(test_salvage),
		cmocka_unit_test(test_salvage_of_too_much),
		cmocka_unit_test(test_unreadable),
		cmocka_unit_test(test_shared_contents),
		cmocka_unit_test(test_group_contents),
		cmocka_unit_test(test_vanished),
		cmocka_unit_test(test_guess),
		cmocka_unit_test(test_read_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
