/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A made-up store of five blobs in memory, damaged in one way at a time: the check names the kind, the repair leaves
 * nothing, and volumes hold what they held.
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
#include "blob/harness_offline.h"

/* Each case: found as what it is, by a look that writes nothing; mended; not found again. */
static void
test_each(void **state)
{
	for (unsigned i = 0; i < num_offline_cases; i++) {
		struct blob_check_report report;
		bool bad = blob_finding_damage(offline_cases[i].kind);

		make_store();
		expect_sound(offline_cases[i].name);
		offline_cases[i].make();
		report = look(false);
		for (unsigned k = 0; k < BLOB_FINDING_KINDS; k++) {
			if (report.count[k] != 0 ? k != offline_cases[i].kind && (offline_cases[i].others >> k & 1) == 0
						 : k == offline_cases[i].kind) {
				say(offline_cases[i].name, &report);
				fail_msg("%s: %" PRIu64 " of \"%s\"", offline_cases[i].name, report.count[k],
					 blob_finding_words((enum blob_finding_kind)k));
			}
		}
		assert_true(bad == (report.damage != 0) && report.left == report.damage && report.repaired == 0);
		assert_int_equal(num_changes, 0);
		blob_check_release(&report);

		report = look(true);
		if (report.left != 0 || (report.repaired != report.num_findings && !offline_cases[i].stays)) {
			say(offline_cases[i].name, &report);
			fail_msg("%s: not repaired", offline_cases[i].name);
		}
		blob_check_release(&report);
		forget_changes();
		report = look(false);
		assert_true(report.damage == 0 && (report.notes == 0 || offline_cases[i].stays));
		blob_check_release(&report);
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

/* An intent that is not with the first snapshot, but with an original: what it says is done all the same. */
static void
test_group_of_itself(void **state)
{
	const uint64_t pair[2] = {BLOB_ID_BASE + 2, BLOB_ID_BASE + 5};
	struct blob_check_report report;
	struct blob_survey *s;
	struct spec half;

	make_store();
	super.clean = false;
	put_super();
	half = specs[THICK];
	half.page = 5;
	half.name = "half";
	half.uuid = "u-half";
	half.read_only = true;
	half.making = BLOB_ID_BASE + 2;
	put_blob(&half);
	/* With a fourth xattr the array has to move for the fifth, the parent. */
	specs[THICK].twice = specs[THICK].has_intent = true;
	memcpy(specs[THICK].intent, pair, sizeof(pair));
	again(THICK);
	report = look(true);
	assert_int_equal(report.count[BLOB_FINDING_GROUP], 1);
	blob_check_release(&report);
	forget_changes();
	s = survey();
	assert_int_equal(blob_survey_find(s, BLOB_ID_BASE + 2)->parent, BLOB_ID_BASE + 5);
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
		cmocka_unit_test(test_unreadable),
		cmocka_unit_test(test_shared_contents),
		cmocka_unit_test(test_group_contents),
		cmocka_unit_test(test_group_of_itself),
		cmocka_unit_test(test_vanished),
		cmocka_unit_test(test_read_only),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
