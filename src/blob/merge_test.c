/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Merges that fail, for a while or for long: they are tried again by themselves, ever more rarely, and say so once. The clock is
 * moved by hand.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "blob/harness.h"
#include "blob/internal.h"

#define DISK_BYTES (UINT64_C(16) << 20)

static struct play p;
static uint64_t now_ns;

static void
pass(unsigned ms)
{
	now_ns += ms * NS_PER_MS;
	clock_set_fake_ns(now_ns);
	blob_env_linger(&p.env, 20);
	play_idle(&p);
}

static void
open_play(uint64_t bytes)
{
	now_ns = clock_now_ns();
	clock_set_fake_ns(now_ns);
	play_open(&p, &(struct blob_mem_options){.bytes = bytes, .write_cache = true}, false);
	play_create(&p);
}

static void
close_play(void)
{
	play_idle(&p);
	play_check_state(&p);
	play_check_space(&p);
	play_check_data(&p, true);
	assert_true(play_unload(&p));
	play_check_disk(&p);
	play_close(&p);
	clock_set_fake_ns(UINT64_MAX);
}

static unsigned
events(enum blob_store_event event)
{
	return atomic_load(&p.env.events[event]);
}

static bool
merged(const char *name)
{
	return blob_parent(play_find(&p, name)) == NULL;
}

/* Writes of metadata pages that nobody has yet fail: those that a merge prepares. */
static void
break_new_pages(uint64_t count)
{
	struct blob_store *store = p.env.store;
	uint64_t page = store->super.md_page_bytes, last = 0;
	struct blob_mem_fault fault = {.ops = BLOB_MEM_OP(BLOB_DEV_WRITE), .count = count};

	for (uint64_t i = 0; i < store->pages.count; i++) {
		last = bits_get(&store->pages, i) ? i : last;
	}
	fault.offset = (store->super.md.start + last + 1) * page;
	fault.bytes = (store->super.md.length - last - 1) * page;
	blob_mem_set_fault(p.mem, &fault);
}

/* v on s, with more extents than pages become free before the merge. */
static void
make_family(void)
{
	open_play(DISK_BYTES);
	play_volume(&p, "v", 2048, true);
	for (unsigned i = 0; i < 8; i++) {
		play_write(&p, "v", i * 256 * HARNESS_UNITS, 3);
	}
	play_snapshot(&p, "v", "s");
	for (unsigned i = 0; i < 8; i++) {
		play_write(&p, "v", (i * 256 + 1) * HARNESS_UNITS, 3);
	}
	play_idle(&p);
}

static void
fails_once(void **state)
{
	make_family();
	break_new_pages(1);
	play_delete(&p, "s");
	play_idle(&p);
	assert_int_equal(blob_mem_faults(p.mem), 1);
	assert_false(merged("v"));
	assert_int_equal(events(BLOB_STORE_STALLED), 1);
	play_check_data(&p, true);
	pass(900);
	assert_false(merged("v"));
	pass(200);
	assert_true(merged("v"));
	assert_int_equal(events(BLOB_STORE_STALLED), 1);
	assert_int_equal(events(BLOB_STORE_STALLED_ENDS), 1);
	close_play();
}

static unsigned
tries_in(unsigned seconds)
{
	uint64_t had = blob_mem_faults(p.mem);

	for (unsigned i = 0; i < seconds; i++) {
		pass(1000);
	}
	return (unsigned)(blob_mem_faults(p.mem) - had);
}

static void
fails_for_long(void **state)
{
	unsigned tries;

	make_family();
	break_new_pages(0);
	play_delete(&p, "s");
	play_idle(&p);
	tries = tries_in(63); /* after 1, 2, 4, 8, 16 and 32 seconds */
	assert_in_range(tries, 5, 7);
	tries = tries_in(600);
	assert_in_range(tries, 9, 11);
	/* The next change is a reason to try it, too. */
	tries = (unsigned)blob_mem_faults(p.mem);
	play_xattr(&p, "v", "x");
	play_idle(&p);
	assert_int_equal(blob_mem_faults(p.mem), tries + 1);
	assert_int_equal(events(BLOB_STORE_STALLED), 1);
	assert_int_equal(events(BLOB_STORE_STALLED_ENDS), 0);
	/* Left between two tries; the next life takes it up. */
	assert_true(play_unload(&p));
	play_check_disk(&p);
	assert_true(play_load(&p));
	play_idle(&p);
	assert_false(merged("v"));
	blob_mem_set_fault(p.mem, NULL);
	pass(1100);
	assert_true(merged("v"));
	assert_int_equal(events(BLOB_STORE_STALLED), 2);
	assert_int_equal(events(BLOB_STORE_STALLED_ENDS), 1);
	close_play();
}

/* Lost, as when the machine goes: the timer goes with the store. */
static void
abandoned_meanwhile(void **state)
{
	make_family();
	break_new_pages(0);
	play_delete(&p, "s");
	play_idle(&p);
	play_abandon(&p);
	blob_mem_set_fault(p.mem, NULL);
	now_ns += 100000 * NS_PER_MS;
	clock_set_fake_ns(now_ns);
	blob_env_linger(&p.env, 20);
	assert_true(play_load(&p));
	play_idle(&p);
	assert_true(merged("v"));
	close_play();
}

/* Who could not be left goes on with what was under way. */
static void
unload_is_refused(void **state)
{
	make_family();
	break_new_pages(0);
	play_delete(&p, "s");
	play_idle(&p);
	assert_int_equal(blob_open(play_find(&p, "v"), NULL), 0);
	assert_int_equal(blob_env_unload(&p.env), -EBUSY);
	blob_close(play_find(&p, "v"));
	blob_mem_set_fault(p.mem, NULL);
	pass(60000);
	assert_true(merged("v"));
	close_play();
}

/* ---- Space ---- */

/*
 * v has more clusters than s, but no more than g below that: those beyond the end of s become v's own before s goes, which
 * takes clusters. There are none.
 */
static void
make_full(void)
{
	uint64_t left;

	open_play(2 << 20);
	play_volume(&p, "v", 10, true);
	play_write(&p, "v", 0, 10 * HARNESS_UNITS);
	play_snapshot(&p, "v", "g");
	play_resize(&p, "v", 5);
	play_snapshot(&p, "v", "s");
	play_resize(&p, "v", 10);
	play_idle(&p);
	left = blob_env_info(&p.env).free_clusters;
	play_volume(&p, "spare", 4, false);
	play_volume(&p, "rest", left - 4, true);
	play_write(&p, "rest", 0, (left - 4) * HARNESS_UNITS);
	play_delete(&p, "s");
	play_idle(&p);
	assert_true(blob_deleted(blob_parent(play_find(&p, "v"))));
	assert_int_equal(events(BLOB_STORE_STALLED), 1);
}

static bool
stands_on(const char *name, const char *parent)
{
	return blob_parent(play_find(&p, name)) == play_find(&p, parent);
}

static void
full(void **state)
{
	make_full();
	pass(1100);
	pass(2100);
	assert_false(stands_on("v", "g"));
	play_rw(&p, "rest", BLOB_UNMAP, 0, 6 * HARNESS_UNITS);
	play_idle(&p); /* at once */
	assert_true(stands_on("v", "g"));
	assert_int_equal(events(BLOB_STORE_STALLED), 1);
	assert_int_equal(events(BLOB_STORE_STALLED_ENDS), 1);
	close_play();
}

static void
full_until_it_grows(void **state)
{
	make_full();
	assert_false(stands_on("v", "g"));
	play_grow(&p, 4 << 20);
	play_idle(&p);
	assert_true(stands_on("v", "g"));
	assert_int_equal(events(BLOB_STORE_STALLED_ENDS), 1);
	close_play();
}

/* Where writes wait for space, merges do not: the clone can be deleted, the store be left. */
static void
full_and_paused(void **state)
{
	make_full();
	blob_env_limits(&p.env, 0, true);
	pass(1100);
	assert_false(stands_on("v", "g"));
	assert_true(play_unload(&p));
	assert_true(play_load(&p));
	blob_env_limits(&p.env, 0, true);
	play_idle(&p);
	play_delete(&p, "v");
	play_idle(&p);
	assert_int_equal(blob_env_info(&p.env).blobs, 3);
	close_play();
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fails_once),
		cmocka_unit_test(fails_for_long),
		cmocka_unit_test(abandoned_meanwhile),
		cmocka_unit_test(unload_is_refused),
		cmocka_unit_test(full),
		cmocka_unit_test(full_until_it_grows),
		cmocka_unit_test(full_and_paused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
