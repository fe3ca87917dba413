/* SPDX-License-Identifier: BSD-3-Clause */
/* Power fails in the middle of repairs: the next one ends in the same place. */
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
#include "blob/harness_offline.h"

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

	for (unsigned i = 0; i < num_offline_cases; i++) {
		struct blob_check_report report;
		uint64_t unmarked;
		unsigned count;

		make_store();
		offline_cases[i].make();
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
				say(offline_cases[i].name, &report);
				fail_msg("%s: cut at %u of %u", offline_cases[i].name, cut, count);
			}
			blob_check_release(&report);
			forget_changes();
			expect_sound(offline_cases[i].name);
			digest(found);
			if (memcmp(expected, found, sizeof(found)) != 0) {
				fail_msg("%s: cut at %u of %u: volumes hold something else", offline_cases[i].name, cut,
					 count);
			}
		}
		for (unsigned k = 0; k < count; k++) {
			free(log[k].data);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cuts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
