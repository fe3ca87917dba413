/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Stores of many volumes, long chains, large devices: what is counted is requests, bytes and memory, not time.
 */
#include <inttypes.h>
#include <malloc.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "blob/harness.h"

#define MIB (UINT64_C(1) << 20)
#define TIB (UINT64_C(1) << 40)
#define VOLUMES 10000u
#define WITH_DATA 8u /* every so many-th */
#define CHAIN 1000u

static struct blob_env env;
static struct blob_mem *mem;

static void
begin(const struct blob_mem_options *options, uint32_t cluster_bytes, uint32_t md_pages)
{
	blob_env_start(&env, REACTOR_INTERRUPT, false);
	mem = blob_mem_create(options);
	env.options = (struct blob_store_options){.cluster_bytes = cluster_bytes, .md_pages = md_pages, .io_unit_bytes = 4096};
	EXPECT_SAY(blob_env_create(&env, blob_mem_dev(mem)) == 0, "%s", env.err.text);
}

static void
load(void)
{
	EXPECT_SAY(blob_env_load(&env, blob_mem_dev(mem)) == 0, "%s", env.err.text);
}

static void
unload(void)
{
	EXPECT_SAY(blob_env_unload(&env) == 0, "%s", env.err.text);
}

static void
end(void)
{
	unload();
	blob_mem_free(mem);
	mem = NULL;
	blob_env_stop(&env);
}

/* Of the process, without the disk's contents. */
static uint64_t
resident_bytes(void)
{
	unsigned long long size = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "r");

	EXPECT(f != NULL && fscanf(f, "%llu %llu", &size, &resident) == 2);
	fclose(f);
	return resident * (uint64_t)sysconf(_SC_PAGESIZE) - blob_mem_memory(mem);
}

/* What is in use on the heap; large pieces that were never touched count, too. */
static uint64_t
allocated_bytes(void)
{
	struct mallinfo2 info = mallinfo2();

	return info.uordblks + info.hblkhd - blob_mem_memory(mem);
}

/* ---- 10,000 volumes ---- */

/* All begun before the first is waited for, so that none waits for another's turn of the test. */
static struct blob_env_op *creations;
static const struct blob_options small = {.num_clusters = 16, .thin = true};

static void
create_all_on_app(void *arg)
{
	for (unsigned i = 0; i < VOLUMES; i++) {
		blob_create(env.store, &small, blob_env_made, &creations[i]);
	}
}

static void
make_volumes(void)
{
	creations = calloc(VOLUMES, sizeof(*creations));
	EXPECT(creations != NULL);
	blob_env_call(&env, env.app, create_all_on_app, NULL);
	for (unsigned i = 0; i < VOLUMES; i++) {
		EXPECT_SAY(blob_env_end(&env, &creations[i]) == 0, "%u: %s", i, env.err.text);
		if (i % WITH_DATA == 0) {
			EXPECT(blob_env_fill_blob(&env, creations[i].blob, i % 16, 1, 1 + i) == 0);
		}
	}
	free(creations);
}

struct walk {
	unsigned count, held;
};

static void
walk_on_app(void *arg)
{
	struct walk *w = arg;

	for (struct blob *b = blob_first(env.store); b != NULL; b = blob_next(b)) {
		EXPECT(!blob_damaged(b) && blob_num_clusters(b) == small.num_clusters);
		w->count++;
		w->held += blob_allocated_clusters(b) > 0;
	}
}

static void
expect_volumes(bool recovered)
{
	struct walk w = {0};

	blob_env_call(&env, env.app, walk_on_app, &w);
	EXPECT(w.count == VOLUMES && w.held == (VOLUMES + WITH_DATA - 1) / WITH_DATA);
	EXPECT(blob_env_info(&env).recovered == recovered);
}

/* Metadata is read once: each page of it in use, or, where nobody knows which are, all; in large pieces. */
static void
expect_reads(const char *what, const struct blob_mem_stats *before, uint64_t bytes)
{
	struct blob_mem_stats after = blob_mem_get_stats(mem);
	uint64_t read = after.read_bytes - before->read_bytes, reads = after.reads - before->reads;

	print_message("%s: %" PRIu64 " reads of %" PRIu64 " KiB in all\n", what, reads, read >> 10);
	EXPECT_SAY(read <= bytes + bytes / 8 + MIB, "%" PRIu64 " bytes, of %" PRIu64, read, bytes);
	EXPECT_SAY(reads <= 64 + read / 65536, "%" PRIu64 " reads of %" PRIu64 " bytes", reads, read);
}

static void
ten_thousand_volumes(void **state)
{
	struct blob_store_info info;
	struct blob_mem_stats before;
	uint64_t memory, used, all;

	begin(&(struct blob_mem_options){.bytes = 16384 * MIB, .write_cache = true}, 65536, 32768);
	make_volumes();
	info = blob_env_info(&env);
	used = (uint64_t)(info.md_pages - info.free_md_pages) * info.md_page_bytes;
	all = (uint64_t)info.md_pages * info.md_page_bytes;
	unload();

	memory = allocated_bytes();
	before = blob_mem_get_stats(mem);
	load();
	expect_reads("clean load", &before, used);
	expect_volumes(false);
	memory = allocated_bytes() - memory;
	print_message("%" PRIu64 " bytes a volume\n", memory / VOLUMES);
	EXPECT_SAY(memory / VOLUMES < 4096, "%" PRIu64 " bytes a volume", memory / VOLUMES);
	blob_env_volume(&env, 1, true);
	EXPECT(blob_env_abandon(&env) == 0);

	before = blob_mem_get_stats(mem);
	load();
	expect_reads("unclean load", &before, all);
	EXPECT(blob_env_info(&env).blobs == VOLUMES + 1 && blob_env_info(&env).recovered);
	end();
}

/* What one operation writes does not grow with the number of volumes, or their size. */
static uint64_t
changes_of(void (*fn)(struct blob *blob), struct blob *blob)
{
	struct blob_mem_stats before, after;

	blob_env_idle(&env);
	before = blob_mem_get_stats(mem);
	fn(blob);
	blob_env_idle(&env);
	after = blob_mem_get_stats(mem);
	EXPECT_SAY(after.reads == before.reads, "it read");
	return after.changes - before.changes;
}

static struct blob *made;

static void
take_snapshot(struct blob *blob)
{
	EXPECT(blob_env_snapshot(&env, blob, &made) == 0);
}

static void
delete_blob(struct blob *blob)
{
	EXPECT(blob_env_delete(&env, blob) == 0);
}

static void
operations_cost_the_same(void **state)
{
	uint64_t snapshot[2], delete[2];

	begin(&(struct blob_mem_options){.bytes = 4 * TIB, .write_cache = true}, 65536, 65536);
	for (unsigned round = 0; round < 2; round++) {
		struct blob *blob = blob_env_volume(&env, round == 0 ? 16 : TIB / 65536, true);

		EXPECT(blob_env_fill_blob(&env, blob, 0, 4, 1) == 0);
		snapshot[round] = changes_of(take_snapshot, blob);
		delete[round] = changes_of(delete_blob, made);
		if (round == 0) {
			make_volumes();
		}
	}
	print_message("snapshot: %" PRIu64 " changes of the device, then %" PRIu64 "; delete: %" PRIu64 ", then %" PRIu64 "\n",
		      snapshot[0], snapshot[1], delete[0], delete[1]);
	EXPECT(snapshot[1] <= snapshot[0] + 2 && snapshot[0] < 16);
	EXPECT(delete[1] <= delete[0] + 4 && delete[0] < 32);
	end();
}

/* ---- A chain ---- */

static void
chain_of_a_thousand(void **state)
{
	static struct blob *snapshots[CHAIN];
	struct blob *blob;
	uint64_t ids[CHAIN], id;

	begin(&(struct blob_mem_options){.bytes = 1024 * MIB, .write_cache = true}, 16384, 8192);
	blob = blob_env_volume(&env, 64, true);
	id = blob_id(blob);
	for (unsigned i = 0; i < CHAIN; i++) {
		EXPECT(blob_env_fill_blob(&env, blob, i % 256, 1, 1 + i) == 0);
		EXPECT_SAY(blob_env_snapshot(&env, blob, &snapshots[i]) == 0, "%u: %s", i, env.err.text);
		ids[i] = blob_id(snapshots[i]);
	}
	for (unsigned reload = 0; reload < 2; reload++) {
		for (unsigned i = CHAIN - 256; i < CHAIN; i++) {
			EXPECT(blob_env_blob_holds(&env, blob, i % 256, 1, 1 + i));
		}
		EXPECT(blob_env_blob_holds(&env, snapshots[99], 99, 1, 100) &&
		       blob_env_blob_holds(&env, snapshots[99], 100, 1, 0));
		EXPECT(blob_env_blob_holds(&env, snapshots[299], 43, 1, 300) &&
		       blob_env_blob_holds(&env, snapshots[299], 44, 1, 45));
		if (reload == 0) {
			unload();
			load();
			blob = blob_env_find(&env, id);
			for (unsigned i = 0; i < CHAIN; i++) {
				snapshots[i] = blob_env_find(&env, ids[i]);
			}
		}
	}
	/* Every other one goes, then all of them. */
	for (unsigned i = 0; i < CHAIN; i++) {
		unsigned at = i < CHAIN / 2 ? i * 2 : i * 2 - CHAIN + 1;

		EXPECT_SAY(blob_env_delete(&env, snapshots[at]) == 0, "%u: %s", at, env.err.text);
	}
	blob_env_idle(&env);
	EXPECT(blob_env_info(&env).blobs == 1 && blob_env_allocated(&env, blob) == 64);
	EXPECT(blob_env_info(&env).free_clusters + 64 == blob_env_info(&env).total_data_clusters);
	for (unsigned i = CHAIN - 256; i < CHAIN; i++) {
		EXPECT(blob_env_blob_holds(&env, blob, i % 256, 1, 1 + i));
	}
	end();
}

/* ---- A large device ---- */

static void
sixteen_tib(void **state)
{
	static const uint64_t units[] = {0, 5, 4096 * 31, TIB / 4096 / 2 + 3, TIB / 4096 - 1};
	uint64_t memory, ids[4];
	struct blob *blobs[4], *snapshot;

	begin(&(struct blob_mem_options){.bytes = 16 * TIB, .write_cache = true}, 0, 0);
	print_message("%u-byte clusters, %u metadata pages\n", blob_env_info(&env).cluster_bytes, blob_env_info(&env).md_pages);
	for (unsigned i = 0; i < 4; i++) {
		blobs[i] = blob_env_volume(&env, TIB / blob_env_info(&env).cluster_bytes, true);
		ids[i] = blob_id(blobs[i]);
		for (unsigned k = 0; k < ARRAY_SIZE(units); k++) {
			EXPECT(blob_env_fill_blob(&env, blobs[i], units[k], 1, 1 + i + k) == 0);
		}
	}
	EXPECT(blob_env_snapshot(&env, blobs[1], &snapshot) == 0);
	EXPECT(blob_env_fill_blob(&env, blobs[1], units[3], 1, 99) == 0);
	unload();
	malloc_trim(0);
	memory = resident_bytes();
	load();
	for (unsigned i = 0; i < 4; i++) {
		blobs[i] = blob_env_find(&env, ids[i]);
		for (unsigned k = 0; k < ARRAY_SIZE(units); k++) {
			EXPECT(blob_env_blob_holds(&env, blobs[i], units[k], 1, i == 1 && k == 3 ? 99 : 1 + i + k));
		}
	}
	memory = MAX(resident_bytes(), memory) - memory;
	print_message("%" PRIu64 " MiB of memory\n", memory >> 20);
#ifndef __SANITIZE_THREAD__ /* which has memory of its own for all that is used */
	EXPECT_SAY(memory < 512 * MIB, "%" PRIu64 " MiB", memory >> 20);
#endif
	EXPECT(blob_env_delete(&env, blobs[0]) == 0);
	end();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ten_thousand_volumes),
		cmocka_unit_test(operations_cost_the_same),
		cmocka_unit_test(chain_of_a_thousand),
		cmocka_unit_test(sixteen_tib),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
