/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Metadata that claims more than a store has: four bytes say 2^32 clusters. The offline tools do no more work for it than the
 * store's size asks for. Work is measured by the device's reads and writes, and by processor time with room to spare:
 * what walks through claims needs minutes.
 */
#include "blob/check.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/check.h"
#include "blob/survey_bits.h"
#include "testkit/blob_made.h"

#define SECONDS 4 /* of the processor; what is right needs a tenth of one */

static clock_t began;

static void
start(void)
{
	began = clock();
}

static void
expect_quick(const char *what)
{
	double seconds = (double)(clock() - began) / CLOCKS_PER_SEC;

	if (seconds > SECONDS) {
		fail_msg("%s: %.1f s", what, seconds);
	}
}

/* ---- A wide store: a million clusters, of which only the metadata is there ---- */

#define WIDE_CLUSTERS (UINT32_C(1) << 20)
#define HEAD_PAGES 128u

static uint8_t head[HEAD_PAGES * BLOB_PAGE_BYTES]; /* the rest is zeroes, and stays so */
static struct blob_super wide;
static uint64_t bytes_read, bytes_written;

static int
wide_read(void *ctx, uint64_t offset, void *buf, size_t bytes)
{
	size_t there = offset < sizeof(head) ? MIN(bytes, sizeof(head) - offset) : 0;

	bytes_read += bytes;
	memset(buf, 0, bytes);
	memcpy(buf, head + (there != 0 ? offset : 0), there);
	return 0;
}

static int
wide_write(void *ctx, uint64_t offset, const void *buf, size_t bytes)
{
	size_t there = offset < sizeof(head) ? MIN(bytes, sizeof(head) - offset) : 0;

	bytes_written += bytes;
	memcpy(head + (there != 0 ? offset : 0), buf, there);
	return 0;
}

static int
wide_flush(void *ctx)
{
	return 0;
}

static const struct blob_offline wide_dev = {
	.read = wide_read,
	.write = wide_write,
	.flush = wide_flush,
	.bytes = (uint64_t)WIDE_CLUSTERS * BLOB_PAGE_BYTES,
};

static void
make_wide(void)
{
	const struct blob_layout layout = {wide_dev.bytes, BLOB_PAGE_BYTES, BLOB_PAGE_BYTES, 512, 64, 0};

	memset(head, 0, sizeof(head));
	bytes_read = bytes_written = 0;
	assert_int_equal(blob_layout_super(&layout, &wide, NULL), 0);
	assert_true(wide.md.start + wide.md.length <= HEAD_PAGES);
	wide.clean = false;
	blob_super_encode(&wide, head);
}

static uint8_t *
wide_md(uint32_t page)
{
	return head + ((size_t)wide.md.start + page) * BLOB_PAGE_BYTES;
}

/* A blob of run-length extents. `md_ro`: flags; a parent, or a clone that it is being removed for: 0: none. */
struct claim {
	uint64_t md_ro, parent, removal;
	const struct blob_run *runs;
	uint32_t num_runs;
};

/* From `page` of the region that begins at `first` on, as many as it needs. */
static void
put_claim(uint8_t *first, uint32_t page, const struct claim *claim)
{
	const struct blob_flags flags = {.invalid = BLOB_INVALID_THIN | BLOB_INVALID_INTERNAL_XATTR, .md_ro = claim->md_ro};
	uint32_t sequence = 0, at = 0;
	struct blob_page_writer w;

	while (sequence == 0 || at < claim->num_runs) {
		blob_page_begin(&w, first + (size_t)(page + sequence) * BLOB_PAGE_BYTES);
		if (sequence == 0) {
			blob_put_flags(&w, &flags);
		}
		if (sequence == 0 && claim->parent != 0) {
			blob_put_xattr(&w, true, BLOB_XATTR_PARENT, 4, &claim->parent, 8);
		}
		if (sequence == 0 && claim->removal != 0) {
			blob_put_xattr(&w, true, BLOB_XATTR_REMOVAL_PENDING, 6, &claim->removal, 8);
		}
		at += blob_put_extent_rle(&w, at == 0 ? claim->runs : claim->runs + at, claim->num_runs - at);
		sequence++;
		blob_page_end(&w, BLOB_ID_BASE + page, sequence - 1, at < claim->num_runs ? page + sequence : BLOB_PAGE_NONE);
	}
}

static struct blob_check_report
repair_wide(void)
{
	const struct blob_check_options options = {.repair = true};
	struct blob_check_report report;

	start();
	assert_int_equal(blob_check(&wide_dev, &options, &report, NULL), 0);
	expect_quick("repair");
	return report;
}

static struct blob_survey *
survey_wide(void)
{
	struct blob_survey *s;

	assert_int_equal(blob_survey_read(&wide_dev, NULL, &s, NULL), 0);
	return s;
}

/* Blobs that are not written anew keep what they claim: all of the store but a few clusters, and far beyond. */
static void
test_sealed(void **state)
{
	const struct blob_run all = {200, UINT32_MAX - 100}, two = {300, 2};
	const struct claim sealed = {.md_ro = UINT64_C(1) << 40, .runs = &all, .num_runs = 1};
	static uint8_t before[4 * BLOB_PAGE_BYTES];
	struct blob_check_report report;
	struct blob_survey *s;
	uint64_t cluster;

	make_wide();
	for (uint32_t page = 1; page <= 4; page++) {
		put_claim(wide_md(0), page, &sealed);
	}
	put_claim(wide_md(0), 5, &(struct claim){.runs = &two, .num_runs = 1});
	memcpy(before, wide_md(1), sizeof(before));
	report = repair_wide();
	assert_int_equal(report.count[BLOB_FINDING_NEWER], 4);
	assert_true(report.count[BLOB_FINDING_CLUSTER_STRAY] == 4 && report.count[BLOB_FINDING_CLUSTER_SHARED] != 0);
	blob_check_release(&report);
	assert_memory_equal(before, wide_md(1), sizeof(before));
	s = survey_wide();
	cluster = blob_survey_cluster(blob_survey_find(s, BLOB_ID_BASE + 5), 0);
	assert_true(cluster >= blob_super_md_clusters(&wide) && cluster < 200);
	blob_survey_free(s);
}

/* Each of thousands of runs claims all of the store: none has room for a copy. */
static void
test_many_runs(void **state)
{
	static struct blob_run runs[4000];
	const struct claim claim = {.runs = runs, .num_runs = ARRAY_SIZE(runs)};
	struct blob_check_report report;

	make_wide();
	for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
		runs[i] = (struct blob_run){(uint32_t)blob_super_md_clusters(&wide), WIDE_CLUSTERS};
	}
	put_claim(wide_md(0), 1, &claim);
	put_claim(wide_md(0), 20, &claim);
	report = repair_wide();
	assert_int_equal(report.count[BLOB_FINDING_CLUSTER_STRAY], 2 * ARRAY_SIZE(runs));
	assert_int_equal(report.count[BLOB_FINDING_CLUSTER_SHARED], 2 * ARRAY_SIZE(runs) - 1);
	assert_int_equal(report.clusters_used, WIDE_CLUSTERS);
	blob_check_release(&report);
}

/* A clone takes over a snapshot: what both claim at the same place is the snapshot's. */
static void
test_given_back(void **state)
{
	const struct blob_run of_snapshot = {100000, UINT32_MAX - 200000};
	const struct blob_run of_clone[] = {{100000, 10}, {900, 5}, {100015, UINT32_MAX - 300000}};
	const struct claim snapshot = {.removal = BLOB_ID_BASE + 2, .runs = &of_snapshot, .num_runs = 1};
	const struct claim clone = {.parent = BLOB_ID_BASE + 1, .runs = of_clone, .num_runs = ARRAY_SIZE(of_clone)};
	const struct blob_survey_blob *blob;
	struct blob_check_report report;
	struct blob_survey *s;

	make_wide();
	put_claim(wide_md(0), 1, &snapshot);
	put_claim(wide_md(0), 2, &clone);
	report = repair_wide();
	assert_true(report.left == 0 && report.count[BLOB_FINDING_PENDING] == 1);
	assert_int_equal(report.count[BLOB_FINDING_CLUSTER_SHARED], 0);
	blob_check_release(&report);
	s = survey_wide();
	blob = blob_survey_find(s, BLOB_ID_BASE + 2);
	assert_true(blob->parent == BLOB_ID_BASE + 1 && blob->allocated == 5);
	assert_true(blob_survey_cluster(blob, 9) == 0 && blob_survey_cluster(blob, 10) == 900 &&
		    blob_survey_cluster(blob, 14) == 904 && blob_survey_cluster(blob, 15) == 0);
	assert_int_equal(blob_survey_find(s, BLOB_ID_BASE + 1)->allocated, WIDE_CLUSTERS - 100000);
	blob_survey_free(s);
}

/* A mask's region may be as long as the super block likes: what is read and written is a mask of as many bits as there are. */
static void
test_long_mask(void **state)
{
	struct blob_check_report report;

	make_wide();
	wide.cluster_mask = (struct blob_region){1000, 1 << 18};
	wide.clean = true;
	blob_super_encode(&wide, head);
	report = repair_wide();
	assert_int_equal(report.count[BLOB_FINDING_MASK], 3);
	blob_check_release(&report);
	assert_true(bytes_read < 4 << 20 && bytes_written < 4 << 20);
}

/* ---- Salvage ---- */

static uint64_t num_saved, lost;

static int
save(void *ctx, uint64_t at, const void *buf, size_t bytes)
{
	num_saved++;
	return 0;
}

static void
lose(void *ctx, uint64_t at, uint64_t bytes, const char *why)
{
	lost += bytes;
}

static void
salvage_claim(const struct blob_run *runs, uint32_t num_runs)
{
	const struct blob_salvage to = {.write = save, .lost = lose};
	const struct claim claim = {.runs = runs, .num_runs = num_runs};
	struct blob_survey *s;

	make_store();
	put_claim(md(0), 20, &claim);
	num_saved = lost = 0;
	assert_int_equal(blob_survey_read(&dev, NULL, &s, NULL), 0);
	start();
	assert_int_equal(blob_salvage(s, blob_survey_find(s, BLOB_ID_BASE + 20), &to), 0);
	expect_quick("salvage");
	blob_survey_free(s);
}

static void
test_salvage(void **state)
{
	static struct blob_run runs[4000];

	/* From within the store to far beyond its end. */
	runs[0] = (struct blob_run){CLUSTERS - 3, UINT32_MAX - CLUSTERS};
	salvage_claim(runs, 1);
	assert_true(num_saved == 3 && lost == (UINT32_MAX - CLUSTERS - UINT64_C(3)) * CLUSTER);

	/* Beyond what 32 bits hold does not mean the first clusters again. */
	runs[0] = (struct blob_run){UINT32_MAX - 1, 10};
	salvage_claim(runs, 1);
	assert_true(num_saved == 0 && lost == 10 * CLUSTER);

	/* No volume has more than the store. */
	for (unsigned i = 0; i < ARRAY_SIZE(runs); i++) {
		runs[i] = (struct blob_run){100, 50};
	}
	salvage_claim(runs, ARRAY_SIZE(runs));
	assert_true(num_saved == CLUSTERS && lost == (ARRAY_SIZE(runs) * UINT64_C(50) - CLUSTERS) * CLUSTER);
}

/* ---- Xattrs ---- */

/* Of xattrs of one name the first that can be one is kept; of thousands of them, too. */
static void
test_xattrs(void **state)
{
	const struct blob_flags flags = {.invalid = BLOB_INVALID_THIN | BLOB_INVALID_INTERNAL_XATTR};
	uint64_t parent = BLOB_ID_BASE + 3;
	struct blob_check_report report;
	struct blob_page_writer w;
	struct blob_survey *s;

	make_wide();
	put_claim(wide_md(0), 3, &(struct claim){0});
	for (uint32_t page = 4; page < 64; page++) {
		blob_page_begin(&w, wide_md(page));
		if (page == 4) {
			blob_put_flags(&w, &flags);
			blob_put_xattr(&w, true, BLOB_XATTR_PARENT, 4, &parent, 4);
			blob_put_xattr(&w, true, BLOB_XATTR_PARENT, 4, &parent, 8);
		}
		while (blob_put_xattr(&w, false, "x", 1, NULL, 0)) {
		}
		blob_page_end(&w, BLOB_ID_BASE + 4, page - 4, page < 63 ? page + 1 : BLOB_PAGE_NONE);
	}
	report = repair_wide();
	assert_true(report.count[BLOB_FINDING_XATTR] > 20000);
	blob_check_release(&report);
	s = survey_wide();
	assert_int_equal(blob_survey_find(s, BLOB_ID_BASE + 4)->num_xattrs, 2);
	assert_int_equal(blob_survey_id(blob_survey_find(s, BLOB_ID_BASE + 4), BLOB_XATTR_PARENT), parent);
	blob_survey_free(s);
}

/* ---- The set ---- */

static void
expect_same(const struct survey_bits *set, const bool *there, uint64_t from, uint64_t to)
{
	uint64_t missing = from, end = from;
	bool in;

	while (missing < to && there[missing]) {
		missing++;
	}
	assert_int_equal(survey_bits_missing(set, from, to), missing);
	if (from < to) {
		while (end < to && there[end] == there[from]) {
			end++;
		}
		assert_int_equal(survey_bits_run(set, from, to, &in), end);
		assert_true(in == there[from] && in == survey_bits_has(set, from));
	}
}

static void
test_bits(void **state)
{
	static const uint64_t counts[] = {1, 63, 64, 65, 4096, 70000};
	static bool there[70000];
	uint64_t random = 1;

	for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
		struct survey_bits set;

		memset(there, 0, sizeof(there));
		assert_int_equal(survey_bits_init(&set, counts[i]), 0);
		for (unsigned k = 0; k < 400; k++) {
			uint64_t from, to;

			random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
			from = (random >> 33) % counts[i];
			to = from + (random >> 20) % (counts[i] - from + 1);
			expect_same(&set, there, from, to);
			expect_same(&set, there, from, counts[i]);
			if (k % 4 == 0) {
				to = MIN(to, from + 1 + (random >> 50) % 300);
				survey_bits_add_run(&set, from, to);
				memset(there + from, 1, to - from);
			} else if (k % 4 == 1) {
				assert_int_equal(survey_bits_add(&set, from), there[from]);
				there[from] = true;
			}
		}
		survey_bits_add_run(&set, 0, counts[i]);
		assert_int_equal(survey_bits_missing(&set, 0, counts[i]), counts[i]);
		survey_bits_release(&set);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bits),
		cmocka_unit_test(test_sealed),
		cmocka_unit_test(test_many_runs),
		cmocka_unit_test(test_given_back),
		cmocka_unit_test(test_long_mask),
		cmocka_unit_test(test_salvage),
		cmocka_unit_test(test_xattrs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
