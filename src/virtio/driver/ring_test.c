/* SPDX-License-Identifier: BSD-3-Clause */
/* The driver's side of the split ring against our own device's side (virtq.h). */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "virtio/driver/ring.h"
#include "virtio/virtq.h"

#define SIZE 8
#define GPA UINT64_C(0x40000000)

struct pair {
	struct driver_ring driver;
	struct virtq device;
	struct memmap *map;
	uint8_t *mem;
	struct iovec iov[8];
};

/* Both ends over one page; every descriptor is a buffer of 16 readable bytes. */
static void
setup(struct pair *p, uint16_t base, bool event_idx)
{
	void *desc, *avail, *used;

	memset(p, 0, sizeof(*p));
	p->mem = aligned_alloc(4096, 4096);
	p->map = calloc(1, sizeof(*p->map) + sizeof(struct memmap_region));
	assert_non_null(p->mem);
	assert_non_null(p->map);
	memset(p->mem, 0, 4096);
	p->map->count = 1;
	p->map->regions[0] = (struct memmap_region){.gpa = GPA, .size = 4096, .hva = p->mem};
	desc = p->mem;
	avail = p->mem + 1024;
	used = p->mem + 2048;
	driver_ring_init(&p->driver, SIZE, desc, avail, used, base, event_idx);
	virtq_init(&p->device, SIZE, desc, avail, used, p->map, base, event_idx, false);
	for (unsigned i = 0; i < SIZE; i++) {
		p->driver.desc[i] = (struct vring_desc){.addr = GPA + 3072, .len = 16};
	}
}

static void
teardown(struct pair *p)
{
	free(p->map);
	free(p->mem);
}

/* The device takes one chain and gives it back. */
static bool
serve(struct pair *p)
{
	struct virtq_chain c;

	assert_true(virtq_pending(&p->device) > 0);
	assert_int_equal(virtq_take(&p->device, &c, p->iov, 8), 0);
	virtq_complete(&p->device, c.head, 7);
	return virtq_publish(&p->device);
}

static void
wraps_around(void **state)
{
	struct pair p;

	setup(&p, 0, true);
	/* Past the end of the ring 8,192 times, and of the 16-bit index once. */
	for (unsigned i = 0; i < 66000; i++) {
		struct vring_used_elem e;
		uint16_t head = (uint16_t)(i * 5 % SIZE);

		driver_ring_add(&p.driver, head);
		assert_int_equal(virtq_pending(&p.device), 0); /* not before it is published */
		driver_ring_publish(&p.driver);
		assert_int_equal(driver_ring_pending(&p.driver), 0);
		serve(&p);
		assert_int_equal(driver_ring_pending(&p.driver), 1);
		e = driver_ring_take(&p.driver);
		assert_int_equal(e.id, head);
		assert_int_equal(e.len, 7);
		assert_int_equal(driver_ring_pending(&p.driver), 0);
	}
	teardown(&p);
}

static void
fills_whole_ring(void **state)
{
	struct pair p;

	setup(&p, 65533, true);
	for (unsigned i = 0; i < SIZE; i++) {
		driver_ring_add(&p.driver, (uint16_t)i);
	}
	driver_ring_publish(&p.driver);
	assert_int_equal(virtq_pending(&p.device), SIZE);
	for (unsigned i = 0; i < SIZE; i++) {
		serve(&p);
	}
	assert_int_equal(driver_ring_pending(&p.driver), SIZE);
	for (unsigned i = 0; i < SIZE; i++) {
		assert_int_equal(driver_ring_take(&p.driver).id, i);
	}
	assert_false(p.driver.broken);
	teardown(&p);
}

/* A device that polls is not kicked; one that asked is, exactly once. */
static void
kicks_when_asked(void **state)
{
	for (int event_idx = 0; event_idx < 2; event_idx++) {
		struct pair p;

		setup(&p, 100, event_idx);
		virtq_disable_kick(&p.device);
		driver_ring_add(&p.driver, 0);
		assert_false(driver_ring_publish(&p.driver));
		serve(&p);
		assert_false(virtq_enable_kick(&p.device));
		driver_ring_add(&p.driver, 1);
		driver_ring_add(&p.driver, 2);
		assert_true(driver_ring_publish(&p.driver));
		assert_false(driver_ring_publish(&p.driver)); /* nothing new */
		virtq_disable_kick(&p.device);
		driver_ring_add(&p.driver, 3);
		assert_false(driver_ring_publish(&p.driver));
		assert_int_equal(p.driver.kicks_wanted, 1);
		teardown(&p);
	}
}

static void
called_when_asked(void **state)
{
	for (int event_idx = 0; event_idx < 2; event_idx++) {
		struct pair p;

		setup(&p, 65535, event_idx);
		for (unsigned i = 0; i < 3; i++) {
			driver_ring_add(&p.driver, (uint16_t)i);
		}
		driver_ring_publish(&p.driver);
		assert_false(serve(&p)); /* calls are off from the start */
		/* Something is there already: enabling says so, the caller does not wait. */
		assert_true(driver_ring_enable_call(&p.driver));
		driver_ring_take(&p.driver);
		assert_false(driver_ring_enable_call(&p.driver));
		assert_true(serve(&p));
		driver_ring_disable_call(&p.driver);
		assert_int_equal(driver_ring_pending(&p.driver), 1);
		driver_ring_take(&p.driver);
		driver_ring_disable_call(&p.driver);
		assert_false(serve(&p));
		teardown(&p);
	}
}

/* A device that lies about its index or a head breaks the ring, nothing else. */
static void
survives_bad_device(void **state)
{
	struct pair p;

	setup(&p, 0, true);
	p.driver.used->idx = SIZE + 1;
	assert_int_equal(driver_ring_pending(&p.driver), 0);
	assert_true(p.driver.broken);
	assert_true(driver_ring_enable_call(&p.driver)); /* nobody waits on a broken ring */
	teardown(&p);

	setup(&p, 0, true);
	p.driver.used->ring[0].id = SIZE;
	p.driver.used->idx = 1;
	assert_int_equal(driver_ring_pending(&p.driver), 1);
	driver_ring_take(&p.driver);
	assert_true(p.driver.broken);
	assert_int_equal(driver_ring_pending(&p.driver), 0);
	teardown(&p);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wraps_around),        cmocka_unit_test(fills_whole_ring),
		cmocka_unit_test(kicks_when_asked),    cmocka_unit_test(called_when_asked),
		cmocka_unit_test(survives_bad_device),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
