/* SPDX-License-Identifier: BSD-3-Clause */
/* What volumes are saved from a damaged store, with and without its super block. */
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

/* ---- Without a super block ---- */

static uint8_t pristine[DISK_BYTES];

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

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_salvage),
		cmocka_unit_test(test_salvage_of_too_much),
		cmocka_unit_test(test_guess),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
