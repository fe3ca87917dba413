/* SPDX-License-Identifier: BSD-3-Clause */
/* Names that are added, found and removed, through several sizes of the table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/names.h"

#define COUNT 3000

struct thing {
	struct names_node node;
	char name[16];
};

static void
test_empty(void **state)
{
	struct names t = {0};
	struct names_node never = {0};

	assert_null(names_find(&t, "a"));
	names_remove(&t, &never);
	names_release(&t);
	assert_null(names_find(&t, ""));
}

static void
test_many(void **state)
{
	struct thing *things = calloc(COUNT, sizeof(*things));
	struct names t = {0};

	for (int i = 0; i < COUNT; i++) {
		snprintf(things[i].name, sizeof(things[i].name), "n%d", i);
		assert_null(names_find(&t, things[i].name));
		names_add(&t, &things[i].node, things[i].name);
	}
	assert_int_equal(t.count, COUNT);
	/* Chains stay short. */
	assert_true(t.bucket_count >= COUNT / 2 && t.bucket_count <= 2 * COUNT);
	for (int i = 0; i < COUNT; i += 3) {
		names_remove(&t, &things[i].node);
		names_remove(&t, &things[i].node);
	}
	assert_int_equal(t.count, COUNT - COUNT / 3);
	for (int i = 0; i < COUNT; i++) {
		struct names_node *found = names_find(&t, things[i].name);

		if (i % 3 == 0) {
			assert_null(found);
		} else {
			assert_ptr_equal(found, &things[i].node);
		}
	}
	assert_null(names_find(&t, "n"));
	names_release(&t);
	assert_int_equal(t.count, 0);
	free(things);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_many),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
