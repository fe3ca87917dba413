/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/malloc/malloc.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "base/dif.h"
#include "testkit/bdev_battery.h"

static uint32_t block_size;
static uint32_t boundary;
static struct malloc_bdev_options md; /* its metadata */

static int
create(const struct battery *b, struct err *err)
{
	struct malloc_bdev_options options = md;

	options.name = b->name;
	options.num_blocks = (4u << 20) / block_size;
	options.block_size = block_size;
	options.optimal_io_boundary = boundary;

	return bdev_malloc_create(&options, NULL, err);
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_malloc_delete(b->name, done, ctx, err);
}

static int
resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	return bdev_malloc_resize(b->name, num_blocks, err);
}

static const struct battery battery = {
	.name = "Malloc0",
	.create = create,
	.remove = remove_bdev,
	.resize = resize,
	.unmap_zeroes = true,
};

static void
passes_battery(void **state)
{
	block_size = 512;
	bdev_battery_run_all(&battery);
}

static void
passes_battery_with_boundary(void **state)
{
	block_size = 512;
	boundary = 24;
	bdev_battery_run(&battery, REACTOR_INTERRUPT, false);
	boundary = 0;
}

/* Each type and each format, first and last, in one mode or another. */
static void
passes_battery_with_metadata(void **state)
{
	static const struct malloc_bdev_options kinds[] = {
		{.md_size = 8, .dif_type = 1},
		{.md_size = 16, .dif_type = 2, .dif_pi_format = 1, .dif_is_head_of_md = true},
		{.md_size = 128, .dif_type = 3, .dif_pi_format = 2},
		{.md_size = 8},
	};
	struct battery few = battery;

	few.requests = 200;

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		md = kinds[i];
		block_size = md.dif_pi_format == 0 ? 512 : 4096;
		bdev_battery_run(&few, (enum reactor_mode)(i % 3), i % 2 == 0);
	}
	md = (struct malloc_bdev_options){0};
}

/* ---- Metadata ---- */

static void
create_md(void *arg)
{
	struct malloc_bdev_options options = {
		.name = "Malloc2", .num_blocks = 4096, .block_size = 512, .md_size = 16, .dif_type = 1};

	EXPECT(bdev_malloc_create(&options, NULL, NULL) == 0);
}

static void
delete_md(void *arg)
{
	EXPECT(bdev_malloc_delete("Malloc2", NULL, NULL, NULL) == 0);
}

static int
md_rw(struct env *env, enum bdev_op op, uint64_t lba, uint64_t n, void *data, void *pi)
{
	struct iovec iov = {data, n * 512};
	struct env_io io = {.op = op,
			    .flags = BDEV_IO_MD,
			    .lba = lba,
			    .num_blocks = n,
			    .iov = &iov,
			    .iovcnt = 1,
			    .md = pi};

	env_submit(&env->workers[0], &io);
	return env_finish(&io);
}

/* Written, it comes back; copied, with other reference tags; never written or unmapped: no PI but
 * ones, and the rest zero. */
static void
keeps_metadata(void **state)
{
	static uint8_t data[300 * 512], pi[300 * 16], got[300 * 16];
	struct iovec iov = {data, sizeof(data)}, pi_iov = {pi, sizeof(pi)};
	struct dif_list list = {&iov, 1, &pi_iov, 1};
	struct env_io copy = {.op = BDEV_COPY, .src_lba = 5, .lba = 1005, .num_blocks = 300};
	struct env env;
	struct dif dif;

	EXPECT(dif_init(&dif, 512, 16, 1, DIF_PI_16, false, 0, NULL) == 0);
	dif.app_tag = 0x55aa;
	env_start(&env, REACTOR_INTERRUPT, false);
	env_call(&env, env.app, create_md, NULL);
	EXPECT(env_open(&env, "Malloc2", true) == 0);
	EXPECT(md_rw(&env, BDEV_READ, 5, 300, data, got) == 0);
	dif_fill_unwritten(&dif, pi, 300);
	EXPECT(memcmp(got, pi, sizeof(pi)) == 0);
	for (size_t i = 0; i < sizeof(data); i++) {
		data[i] = (uint8_t)(i / 3);
	}
	memset(pi, 0x66, sizeof(pi));
	dif_generate(&dif, &list, 300, 5);
	EXPECT(md_rw(&env, BDEV_WRITE, 5, 300, data, pi) == 0);
	EXPECT(md_rw(&env, BDEV_READ, 5, 300, data, got) == 0);
	EXPECT(memcmp(got, pi, sizeof(pi)) == 0);
	env_submit(&env.workers[1], &copy);
	EXPECT(env_finish(&copy) == 0);
	EXPECT(md_rw(&env, BDEV_READ, 1005, 300, data, got) == 0);
	dif_remap(&dif, pi, 300, 1000);
	EXPECT(memcmp(got, pi, sizeof(pi)) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_UNMAP, 1006, 298, NULL) == 0);
	EXPECT(md_rw(&env, BDEV_READ, 1005, 300, data, got) == 0);
	dif_fill_unwritten(&dif, pi + 16, 298);
	EXPECT(memcmp(got, pi, sizeof(pi)) == 0);
	env_close(&env);
	env_call(&env, env.app, delete_md, NULL);
	env_stop(&env);
}

/* ---- What has data ---- */

static void
create_holes(void *arg)
{
	struct malloc_bdev_options options = {
		.name = "Malloc3", .num_blocks = 2000003, .block_size = 512};

	EXPECT(bdev_malloc_create(&options, NULL, NULL) == 0);
}

static void
delete_holes(void *arg)
{
	EXPECT(bdev_malloc_delete("Malloc3", NULL, NULL, NULL) == 0);
}

struct run {
	uint64_t lba, num_blocks;
};

/* Where there is data, and nowhere else, asked for in one go and extent by extent. */
static void
expect_data(struct env *env, const struct run *want, size_t count, unsigned max_results)
{
	uint64_t lba = 0, size = bdev_num_blocks(env->bdev);
	struct bdev_extent e[64];
	size_t found = 0;

	while (lba < size) {
		struct env_io io = {.op = BDEV_BLOCK_STATUS,
				    .lba = lba,
				    .num_blocks = size - lba,
				    .extents = e,
				    .max_results = max_results};

		env_submit(&env->workers[0], &io);
		EXPECT(env_finish(&io) == 0);
		EXPECT(io.result >= 1 && io.result <= max_results);
		for (uint64_t i = 0; i < io.result; i++) {
			EXPECT(e[i].flags == BDEV_EXTENT_ALLOCATED || e[i].flags == BDEV_EXTENT_ZERO);
			if (e[i].flags == BDEV_EXTENT_ALLOCATED) {
				EXPECT(found < count);
				EXPECT_SAY(want[found].lba == lba &&
						   want[found].num_blocks == e[i].num_blocks,
					   "%llu+%llu", (unsigned long long)lba,
					   (unsigned long long)e[i].num_blocks);
				found++;
			}
			lba += e[i].num_blocks;
		}
	}
	EXPECT(lba == size && found == count);
}

static void
write_at(struct env *env, uint64_t lba, uint64_t num_blocks)
{
	uint8_t *p = calloc(num_blocks, 512);

	memset(p, 1, num_blocks * 512);
	EXPECT(env_rw(&env->workers[0], BDEV_WRITE, lba, num_blocks, p) == 0);
	free(p);
}

static void
knows_its_holes(void **state)
{
	static const struct run first[] = {{96, 8}, {800, 1208}, {2000000, 3}};
	static const struct run second[] = {{96, 8}, {800, 8}, {1800, 208}, {2000000, 3}};
	static const struct run third[] = {{96, 8}, {400000, 8}, {2000000, 3}};
	struct env_io copy = {.op = BDEV_COPY, .src_lba = 96, .lba = 400000, .num_blocks = 8};
	struct env_io hole = {.op = BDEV_COPY, .src_lba = 500000, .lba = 800, .num_blocks = 1208};
	struct env env;

	env_start(&env, REACTOR_INTERRUPT, false);
	env_call(&env, env.app, create_holes, NULL);
	EXPECT(env_open(&env, "Malloc3", true) == 0);
	expect_data(&env, NULL, 0, 3);
	write_at(&env, 100, 1);
	write_at(&env, 807, 1200);
	write_at(&env, 2000002, 1);
	expect_data(&env, first, 3, 64);
	expect_data(&env, first, 3, 1);
	/* Chunks of 8 blocks: those that are hit in part stay. */
	EXPECT(env_rw(&env.workers[1], BDEV_UNMAP, 805, 998, NULL) == 0);
	expect_data(&env, second, 4, 2);
	EXPECT(env_rw(&env.workers[1], BDEV_UNMAP, 2000001, 1, NULL) == 0);
	expect_data(&env, second, 4, 2);
	env_submit(&env.workers[1], &hole);
	EXPECT(env_finish(&hole) == 0);
	env_submit(&env.workers[1], &copy);
	EXPECT(env_finish(&copy) == 0);
	expect_data(&env, third, 3, 5);
	/* The last chunk has three blocks only. */
	EXPECT(env_rw(&env.workers[1], BDEV_WRITE_ZEROES, 2000000, 3, NULL) == 0);
	expect_data(&env, third, 2, 5);
	EXPECT(env_rw(&env.workers[1], BDEV_UNMAP, 0, 2000003, NULL) == 0);
	expect_data(&env, NULL, 0, 1);
	env_close(&env);
	env_call(&env, env.app, delete_holes, NULL);
	env_stop(&env);
}

static void
wrong_options(void *arg)
{
	static const struct malloc_bdev_options bad[] = {
		{.name = "m", .num_blocks = 0, .block_size = 512},
		{.name = "m", .num_blocks = 8, .block_size = 0},
		{.name = "m", .num_blocks = 100, .block_size = 513},
		{.name = "m", .num_blocks = 8, .block_size = 131072},
		{.name = "m", .num_blocks = UINT64_MAX / 512 + 9, .block_size = 512},
		{.name = "", .num_blocks = 8, .block_size = 512},
		{.name = "m", .num_blocks = 8, .block_size = 512, .md_size = 9},
		{.name = "m", .num_blocks = 8, .block_size = 512, .dif_type = 1},
		{.name = "m", .num_blocks = 8, .block_size = 512, .md_size = 8, .dif_type = 4},
		{.name = "m", .num_blocks = 8, .block_size = 512, .md_size = 16, .dif_type = 1,
		 .dif_pi_format = 2},
		{.name = "m", .num_blocks = 8, .block_size = 512, .md_size = 16, .dif_type = 1,
		 .dif_pi_format = 256},
		{.name = "m", .num_blocks = 8, .block_size = 512, .on_numa_node = true,
		 .numa_node = 9999},
	};
	struct malloc_bdev_options huge = {
		.name = "m", .num_blocks = UINT64_C(1) << 52, .block_size = 512};
	struct err err;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		err = ERR_NONE;
		EXPECT_SAY(bdev_malloc_create(&bad[i], NULL, &err) == -EINVAL, "%zu: %s", i,
			   err.text);
		EXPECT(err.code == -EINVAL && err.text[0] != '\0');
	}
	EXPECT(bdev_malloc_create(&huge, NULL, &err) == -ENOMEM);
	EXPECT(bdev_first() == NULL);
	EXPECT(bdev_malloc_delete("m", NULL, NULL, &err) == -ENODEV);
	EXPECT(bdev_malloc_resize("m", 9, &err) == -ENODEV);
}

static void
refuses_wrong_options(void **state)
{
	struct env env;

	env_start(&env, REACTOR_INTERRUPT, false);
	env_call(&env, env.app, wrong_options, NULL);
	env_stop(&env);
}

/* ---- Memory ---- */

static size_t
resident_bytes(void)
{
	FILE *f = fopen("/proc/self/statm", "r");
	size_t total, resident;

	EXPECT(f != NULL && fscanf(f, "%zu %zu", &total, &resident) == 2);
	fclose(f);
	return resident * 4096;
}

/* A sanitizer's own memory would be counted too. */
#ifdef __SANITIZE_THREAD__
#define EXPECT_RESIDENT(expr) ((void)sizeof(expr))
#else
#define EXPECT_RESIDENT(expr) EXPECT(expr)
#endif

#define SPARSE_BYTES (UINT64_C(256) << 20)
#define CHUNK (1u << 20)

static void
create_sparse(void *arg)
{
	struct malloc_bdev_options options = {
		.name = "Malloc1", .num_blocks = SPARSE_BYTES / 512, .block_size = 512};

	EXPECT(bdev_malloc_create(&options, NULL, NULL) == 0);
}

static void
shrink_and_grow(void *arg)
{
	EXPECT(bdev_malloc_resize("Malloc1", 1000, NULL) == 0);
	EXPECT(bdev_malloc_resize("Malloc1", SPARSE_BYTES / 512 * 2, NULL) == 0);
	EXPECT(bdev_malloc_resize("Malloc1", SPARSE_BYTES / 512 * 2 + 1, NULL) == -ENOMEM);
}

static void
delete_sparse(void *arg)
{
	EXPECT(bdev_malloc_delete("Malloc1", NULL, NULL, NULL) == 0);
}

static void
write_all(struct env *env, uint64_t bytes)
{
	uint8_t *p = malloc(CHUNK);

	memset(p, 0x5a, CHUNK);
	for (uint64_t at = 0; at < bytes; at += CHUNK) {
		EXPECT(env_rw(&env->workers[0], BDEV_WRITE, at / 512, CHUNK / 512, p) == 0);
	}
	free(p);
}

/* Memory comes with the first write and goes with unmap; shrinking forgets. */
static void
is_sparse(void **state)
{
	uint8_t block[512];
	struct env env;
	size_t before;

	env_start(&env, REACTOR_INTERRUPT, false);
	before = resident_bytes();
	env_call(&env, env.app, create_sparse, NULL);
	EXPECT(env_open(&env, "Malloc1", true) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE_ZEROES, 0, SPARSE_BYTES / 512, NULL) == 0);
	EXPECT_RESIDENT(resident_bytes() < before + (16u << 20));
	write_all(&env, 64u << 20);
	EXPECT_RESIDENT(resident_bytes() > before + (60u << 20));
	EXPECT(env_rw(&env.workers[0], BDEV_UNMAP, 1, (64u << 20) / 512 - 1, NULL) == 0);
	EXPECT_RESIDENT(resident_bytes() < before + (16u << 20));
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 0, 1, block) == 0 && block[511] == 0x5a);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 1, 1, block) == 0 && block[0] == 0 &&
	       block[511] == 0);
	write_all(&env, 4u << 20);
	env_close(&env);
	env_call(&env, env.app, shrink_and_grow, NULL);
	EXPECT(env_open(&env, "Malloc1", true) == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 999, 1, block) == 0 && block[0] == 0x5a);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 1000, 1, block) == 0 && block[0] == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 2000, 1, block) == 0 && block[0] == 0);
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, SPARSE_BYTES / 512 * 2 - 1, 1, block) == 0);
	env_close(&env);
	env_call(&env, env.app, delete_sparse, NULL);
	env_stop(&env);
}

static void
protect_memory(void *arg)
{
	const int *prot = arg;

	EXPECT(mprotect((void *)(uintptr_t)bdev_memory(bdev_find("Malloc1")), 65536, *prot) == 0);
}

static void
find_memory(void *arg)
{
	const uint8_t **memory = arg;

	*memory = bdev_memory(bdev_find("Malloc1"));
}

static void
has_no_memory(void *arg)
{
	EXPECT(bdev_memory(bdev_find("Malloc2")) == NULL);
}

/* A read into just where the blocks lie copies nothing: what is written to by it would end the test. */
static void
is_read_in_place(void **state)
{
	int read_only = PROT_READ, both = PROT_READ | PROT_WRITE;
	const uint8_t *memory = NULL;
	uint8_t block[512]; /* memcpy() of more may see that there is nothing to do */
	struct env env;

	env_start(&env, REACTOR_INTERRUPT, false);
	env_call(&env, env.app, create_sparse, NULL);
	EXPECT(env_open(&env, "Malloc1", true) == 0);
	env_call(&env, env.app, find_memory, &memory);
	EXPECT(memory != NULL);
	memset(block, 0x77, sizeof(block));
	EXPECT(env_rw(&env.workers[0], BDEV_WRITE, 5, 1, block) == 0);
	env_call(&env, env.app, protect_memory, &read_only);
	EXPECT(env_rw(&env.workers[1], BDEV_READ, 5, 1, (void *)(uintptr_t)(memory + (size_t)5 * 512)) == 0);
	EXPECT(memcmp(memory + (size_t)5 * 512, block, sizeof(block)) == 0);
	env_call(&env, env.app, protect_memory, &both);
	env_close(&env);
	env_call(&env, env.app, delete_sparse, NULL);
	env_call(&env, env.app, create_md, NULL);
	env_call(&env, env.app, has_no_memory, NULL);
	env_call(&env, env.app, delete_md, NULL);
	env_stop(&env);
}

/* A disk that the cache does not hold gets its data another way: all lengths, from any address, and nothing beside them. */
static void
large_disk_keeps_what_is_written(void **state)
{
	enum { MOST = 12, GAP = 3 };
	uint8_t *data = malloc((MOST + 1) * 512), *back = malloc((MOST + 2) * 512);
	struct env env;

	EXPECT(data != NULL && back != NULL);
	env_start(&env, REACTOR_INTERRUPT, false);
	env_call(&env, env.app, create_sparse, NULL);
	EXPECT(env_open(&env, "Malloc1", true) == 0);
	EXPECT((bdev_num_blocks(env.bdev) << 9) > (64 << 20));
	for (unsigned n = 1, lba = 1; n <= MOST; lba += n + GAP, n++) {
		uint8_t *from = data + n % 16;

		for (unsigned i = 0; i < n * 512; i++) {
			from[i] = (uint8_t)(i * 7 + i / 512 + n);
		}
		EXPECT(env_rw(&env.workers[0], BDEV_WRITE, lba, n, from) == 0);
		EXPECT(env_rw(&env.workers[1], BDEV_READ, lba - 1, n + 2, back) == 0);
		EXPECT(memcmp(back + 512, from, n * 512) == 0);
		for (unsigned i = 0; i < 512; i++) {
			EXPECT(back[i] == 0 && back[(n + 1) * 512 + i] == 0);
		}
	}
	env_close(&env);
	env_call(&env, env.app, delete_sparse, NULL);
	env_stop(&env);
	free(data);
	free(back);
}

/* Long writes to large disks, from lists that are cut anywhere. */
static void
takes_long_writes(void **state)
{
	enum { BYTES = 192 * 1024 };
	static const size_t cuts[] = {0, 1, 64, 4096, 70000, 70001, 131072, BYTES - 4096, BYTES - 17, BYTES};
	struct iovec iov[ARRAY_SIZE(cuts) - 1];
	struct env_io io = {
		.op = BDEV_WRITE, .lba = 7, .num_blocks = BYTES / 512, .iov = iov, .iovcnt = ARRAY_SIZE(iov)};
	uint8_t *data = malloc(BYTES);
	const uint8_t *memory = NULL;
	struct env env;

	env_start(&env, REACTOR_INTERRUPT, false);
	env_call(&env, env.app, create_sparse, NULL);
	EXPECT(env_open(&env, "Malloc1", true) == 0);
	env_call(&env, env.app, find_memory, &memory);
	for (size_t i = 0; i < BYTES; i++) {
		data[i] = (uint8_t)(i * 31 + (i >> 8)) | 1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(iov); i++) {
		iov[i] = (struct iovec){.iov_base = data + cuts[i], .iov_len = cuts[i + 1] - cuts[i]};
	}
	env_submit(&env.workers[0], &io);
	EXPECT(env_finish(&io) == 0);
	EXPECT(memcmp(memory + (size_t)7 * 512, data, BYTES) == 0);
	EXPECT(memory[7 * 512 - 1] == 0 && memory[7 * 512 + BYTES] == 0);
	EXPECT(env_rw(&env.workers[1], BDEV_WRITE, 1000, BYTES / 512, data) == 0);
	EXPECT(memcmp(memory + (size_t)1000 * 512, data, BYTES) == 0);
	EXPECT(memory[1000 * 512 - 1] == 0 && memory[1000 * 512 + BYTES] == 0);
	env_close(&env);
	env_call(&env, env.app, delete_sparse, NULL);
	env_stop(&env);
	free(data);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(passes_battery),
		cmocka_unit_test(passes_battery_with_boundary),
		cmocka_unit_test(passes_battery_with_metadata),
		cmocka_unit_test(keeps_metadata),
		cmocka_unit_test(knows_its_holes),
		cmocka_unit_test(refuses_wrong_options),
		cmocka_unit_test(is_sparse),
		cmocka_unit_test(is_read_in_place),
		cmocka_unit_test(takes_long_writes),
		cmocka_unit_test(large_disk_keeps_what_is_written),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
