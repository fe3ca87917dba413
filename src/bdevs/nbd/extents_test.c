/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/nbd/extents.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"

#define A BDEV_EXTENT_ALLOCATED
#define Z BDEV_EXTENT_ZERO

struct row {
	uint32_t entries[12]; /* bytes, NBD's flags */
	size_t count;
	uint64_t blocks; /* asked for, of 512 bytes */
	struct bdev_extent want[4];
	size_t wanted;
};

static const struct row rows[] = {
	{{1024, 0, 512, 3}, 4, 3, {{2, A}, {1, Z}}, 2},
	{{1024, 0, 512, 0, 512, 1}, 6, 4, {{3, A}, {1, 0}}, 2},
	/* More than was asked for, as much as there is room for. */
	{{1u << 30, 2}, 2, 7, {{7, A | Z}}, 1},
	{{512, 0, 512, 3, 512, 0, 512, 3, 512, 0}, 10, 5, {{1, A}, {1, Z}, {1, A}, {1, Z}}, 4},
	/* Blocks in several pieces: allocated if one is, zero if all are. */
	{{700, 3, 324, 0, 512, 3}, 6, 3, {{1, Z}, {1, A}, {1, Z}}, 3},
	{{100, 3, 100, 2, 312, 3}, 6, 1, {{1, A | Z}}, 1},
	{{256, 1, 256, 3, 512, 1}, 6, 2, {{2, 0}}, 1},
	/* The end of the last block is not described. */
	{{1000, 3}, 2, 2, {{1, Z}}, 1},
	{{511, 3}, 2, 2, {{0, 0}}, 0},
	{{0, 3, 0, 0, 512, 0}, 6, 2, {{1, A}}, 1},
	{{512, 0, 99}, 3, 9, {{1, A}}, 1}, /* half a pair */
	{{0}, 0, 5, {{0, 0}}, 0},
};

static void
tells_blocks(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++) {
		struct bdev_extent got[4] = {{0}};
		size_t n = nbd_extents(rows[i].entries, rows[i].count, 512, rows[i].blocks, got, 4);

		if (n != rows[i].wanted || memcmp(got, rows[i].want, n * sizeof(got[0])) != 0) {
			fail_msg("row %zu: %zu extents, %llu blocks %x first", i, n, (unsigned long long)got[0].num_blocks,
				 got[0].flags);
		}
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(tells_blocks)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
