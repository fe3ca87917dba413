/* SPDX-License-Identifier: BSD-3-Clause */
/* The battery over modules with all kinds of limits and manners. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "testkit/bdev_battery.h"
#include "testkit/scripted_bdev.h"

#define BYTES (4u << 20)

struct variant {
	const char *name;
	uint32_t block_size; /* 0: 512 */
	uint32_t align;
	uint32_t max_iovcnt;
	uint32_t max_rw;
	uint32_t boundary;
	uint32_t max_unmap;
	uint32_t max_write_zeroes;
	uint32_t without; /* operations it cannot */
	bool write_cache;
	bool native_fua;
	bool native_reset;
	bool shuffle;
	bool at_once;
	unsigned refuse_every;
	unsigned queue_max;
};

static const struct variant variants[] = {
	{.name = "no limits", .shuffle = true},
	{.name = "all at once", .at_once = true},
	{.name = "aligned to 512", .align = 512},
	{.name = "aligned to 4096, small blocks", .align = 4096, .shuffle = true},
	{.name = "aligned to 4096, large blocks", .align = 4096, .block_size = 4096},
	{.name = "one entry", .max_iovcnt = 1, .shuffle = true},
	{.name = "two entries, large blocks", .max_iovcnt = 2, .block_size = 4096, .queue_max = 3},
	{.name = "16 entries, aligned", .max_iovcnt = 16, .align = 512, .at_once = true},
	{.name = "short requests",
	 .max_rw = 5,
	 .max_unmap = 100,
	 .max_write_zeroes = 33,
	 .shuffle = true},
	{.name = "boundary", .boundary = 8, .shuffle = true},
	{.name = "odd boundary", .boundary = 7, .max_rw = 5, .max_iovcnt = 3, .queue_max = 2},
	{.name = "neither zeroes nor unmap",
	 .without = 1u << BDEV_WRITE_ZEROES | 1u << BDEV_UNMAP,
	 .max_rw = 64},
	{.name = "neither zeroes nor flush", .without = 1u << BDEV_WRITE_ZEROES | 1u << BDEV_FLUSH},
	{.name = "write cache", .write_cache = true, .shuffle = true},
	{.name = "write cache, native FUA", .write_cache = true, .native_fua = true, .align = 512},
	{.name = "resets itself", .native_reset = true, .shuffle = true},
	{.name = "refuses every third", .refuse_every = 3, .shuffle = true},
	{.name = "refuses every second, at once", .refuse_every = 2, .at_once = true},
	{.name = "one at a time", .queue_max = 1, .native_reset = true},
	{.name = "everything",
	 .align = 4096,
	 .max_iovcnt = 2,
	 .max_rw = 40,
	 .boundary = 24,
	 .max_unmap = 50,
	 .without = 1u << BDEV_WRITE_ZEROES,
	 .write_cache = true,
	 .native_reset = true,
	 .shuffle = true,
	 .refuse_every = 5,
	 .queue_max = 7},
};

static struct scripted_bdev disk, twin;
static const struct variant *variant;

static void
fill(struct scripted_bdev *s, const char *name)
{
	const struct variant *v = variant;
	uint32_t block_size = v->block_size == 0 ? 512 : v->block_size;

	scripted_bdev_init(s, name, BYTES / block_size, block_size);
	s->bdev.buffer_align = v->align;
	s->bdev.max_iovcnt = v->max_iovcnt;
	s->bdev.max_rw_blocks = v->max_rw;
	s->bdev.optimal_boundary_blocks = v->boundary;
	s->bdev.max_unmap_blocks = v->max_unmap;
	s->bdev.max_write_zeroes_blocks = v->max_write_zeroes;
	s->bdev.ops_mask |= v->native_reset ? 1u << BDEV_RESET : 0;
	s->bdev.ops_mask &= ~v->without;
	s->bdev.write_cache = v->write_cache;
	s->bdev.native_fua = v->native_fua;
	s->shuffle = v->shuffle;
	s->at_once = v->at_once;
	s->refuse_every = v->refuse_every;
	s->queue_max = v->queue_max;
}

static int
create(const struct battery *b, struct err *err)
{
	int rc;

	if (disk.bdev.name != NULL && !disk.destructed) {
		fill(&twin, b->name);
		rc = scripted_bdev_add(&twin, err);
		scripted_bdev_release(&twin);
		return rc;
	}
	if (disk.bdev.name != NULL) {
		scripted_bdev_release(&disk);
	}
	fill(&disk, b->name);
	return scripted_bdev_add(&disk, err);
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	if (bdev_find(b->name) == NULL) {
		return err_set(err, -19, "gone");
	}
	scripted_bdev_remove(&disk, done, ctx);
	return 0;
}

static int
resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	return scripted_bdev_resize(&disk, num_blocks);
}

static void
battery_of(size_t i, enum reactor_mode mode, bool real_threads)
{
	struct battery battery = {
		.name = "Scripted0",
		.create = create,
		.remove = remove_bdev,
		.resize = resize,
		.unmap_zeroes = true,
		.may_cancel = variants[i].native_reset,
		.requests = 800,
	};

	variant = &variants[i];
	print_message("%s: %s, %s\n", variant->name, reactor_mode_name(mode),
		      real_threads ? "threads" : "by hand");
	bdev_battery_run(&battery, mode, real_threads);
	scripted_bdev_release(&disk);
	disk.bdev.name = NULL;
}

static void
all_variants(void **state)
{
	for (size_t i = 0; i < ARRAY_SIZE(variants); i++) {
		/* Each by hand and on threads, in modes that differ from one to the next. */
		battery_of(i, (enum reactor_mode)(i % 3), false);
		battery_of(i, (enum reactor_mode)((i + 1) % 3), true);
	}
}

static void
hardest_in_all_modes(void **state)
{
	for (int mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		battery_of(ARRAY_SIZE(variants) - 1, (enum reactor_mode)mode, false);
		battery_of(ARRAY_SIZE(variants) - 1, (enum reactor_mode)mode, true);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_variants),
		cmocka_unit_test(hardest_in_all_modes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
