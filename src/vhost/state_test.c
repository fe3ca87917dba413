/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "vhost/state.h"

static int
setup(void **state)
{
	return state_init(NULL);
}

static int
teardown(void **state)
{
	state_release();
	return 0;
}

/* 512-byte blocks that the file holds. */
static long
blocks(void)
{
	struct stat st;

	assert_int_equal(fstat(state_fd(), &st), 0);
	return st.st_blocks;
}

/* What is written here another process reads, through nothing but the file. */
static void
test_round_trip(void **state)
{
	struct state_session *s = state_get("vhost.0", 42), *copy;
	const size_t bytes = (size_t)STATE_SLOTS * STATE_SLOT_BYTES;

	assert_non_null(s);
	s->features = UINT64_C(0x123456789);
	s->ring_count = VHOST_QUEUES_MAX;
	s->region_count = MEMMAP_REGIONS_MAX;
	for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++) {
		*state_ring(s, i) = (struct state_ring){.desc = i, .size = 256, .base = (uint16_t)i};
	}
	for (unsigned i = 0; i < MEMMAP_REGIONS_MAX; i++) {
		*state_region(s, i) = (struct state_region){.gpa = i, .size = 1, .uva = 2, .mmap_offset = 3};
	}
	copy = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, state_fd(), 0);
	assert_true(copy != MAP_FAILED);
	assert_int_equal(copy->magic, STATE_MAGIC);
	assert_int_equal(copy->version, STATE_VERSION);
	assert_int_equal(copy->bytes, sizeof(*copy));
	assert_int_equal(copy->id, 42);
	assert_string_equal(copy->controller, "vhost.0");
	assert_int_equal(copy->features, UINT64_C(0x123456789));
	for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++) {
		assert_int_equal(state_ring(copy, i)->desc, i);
		assert_int_equal(state_ring(copy, i)->base, i);
	}
	for (unsigned i = 0; i < MEMMAP_REGIONS_MAX; i++) {
		assert_int_equal(state_region(copy, i)->gpa, i);
	}
	assert_int_equal(copy->id, 42);
	munmap(copy, bytes);
	state_put(s);
}

/* The layout is an interface: whoever moves a field raises STATE_VERSION and changes these numbers. */
static void
test_layout(void **state)
{
	assert_int_equal(STATE_VERSION, 1);
	assert_int_equal(offsetof(struct state_session, controller), 56);
	assert_int_equal(offsetof(struct state_session, near_rings), 312);
	assert_int_equal(offsetof(struct state_session, near_regions), 824);
	assert_int_equal(offsetof(struct state_session, far_rings), 2872);
	assert_int_equal(sizeof(struct state_session), 24792);
}

static void
test_slots(void **state)
{
	struct state_session *first = state_get("a", 1), *second = state_get("b", 2), *last = NULL;

	assert_ptr_not_equal(first, second);
	second->features = 5;
	state_put(second);
	assert_int_equal(second->magic, 0);
	second = state_get("c", 3);
	assert_string_equal(second->controller, "c");
	assert_int_equal(second->features, 0);
	state_put(NULL);
	for (unsigned i = 2; i < STATE_SLOTS; i++) {
		last = state_get("d", i);
		assert_non_null(last);
	}
	assert_null(state_get("e", 9));
	/* A small session touches one page. */
	assert_true(blocks() <= STATE_SLOTS * 8);
	state_put(last);
	assert_ptr_equal(state_get("e", 9), last);
}

static void
test_memory_comes_back(void **state)
{
	long before = blocks();
	struct state_session *s = state_get("a", 1);

	state_region(s, MEMMAP_REGIONS_MAX - 1)->gpa = 1;
	assert_true(blocks() > before);
	state_put(s);
	assert_int_equal(blocks(), before);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
		cmocka_unit_test_setup_teardown(test_layout, setup, teardown),
		cmocka_unit_test_setup_teardown(test_slots, setup, teardown),
		cmocka_unit_test_setup_teardown(test_memory_comes_back, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
