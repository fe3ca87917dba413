/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * From measured load to queues that have moved, in time that moves only when a request is served: each takes a
 * millisecond, on whichever thread.
 */
#include <linux/virtio_blk.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "testkit/hand.h"
#include "testkit/vhost_stage.h"
#include "vhost/balance.h"
#include "vhost/placement.h"
#include "vhost/session.h"

#define PERIOD NS_PER_S
#define COST NS_PER_MS

static struct stage st;
static struct front f;
static struct vhost_device_ops slow_ops;
static uint64_t period_end;

static int
slow_poll(struct vhost_queue *q)
{
	int n = vhost_blk_ops.queue_poll(q);

	clock_set_fake_ns(clock_now_ns() + (uint64_t)n * COST);
	return n;
}

static struct ring *
ring(unsigned i)
{
	return vhost_find("vm")->session->rings[i];
}

static void
move_to_first(void *ctx)
{
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		if (ring(i)->place != 0) {
			assert_true(ring_move(ring(i), 0));
		}
	}
}

/* A VM with four rings, all on the first I/O thread. */
static void
start(const char *cpumask)
{
	assert_int_equal(stage_create(&st, "vm", cpumask, false, NULL), 0);
	vhost_find("vm")->ops = &slow_ops;
	front_start(&f, "vm");
	for (unsigned i = 1; i < FRONT_RINGS; i++) {
		front_ring_start(&f, i, 64, 0);
	}
	stage_call(&st, st.control, move_to_first, NULL);
}

static int
setup(void **state)
{
	hand_clock_start();
	slow_ops = vhost_blk_ops;
	slow_ops.queue_poll = slow_poll;
	stage_start(&st, *(const enum reactor_mode *)*state);
	front_open(&f, &st);
	period_end = clock_now_ns();
	return 0;
}

static int
teardown(void **state)
{
	front_close(&f);
	stage_stop(&st);
	hand_clock_stop();
	return 0;
}

static void
rebalance(void *ctx)
{
	vhost_rebalance(PERIOD);
}

/* So many requests on each ring, then the end of the period. Returns how many rings have moved. */
static unsigned
period(const unsigned counts[FRONT_RINGS])
{
	unsigned places[FRONT_RINGS], moved = 0;

	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		places[i] = ring(i)->place;
		for (unsigned k = 0; k < counts[i]; k++) {
			assert_true(front_read(&f, i, k));
		}
	}
	period_end += PERIOD;
	assert_true(clock_now_ns() < period_end);
	clock_set_fake_ns(period_end);
	stage_call(&st, st.control, rebalance, NULL);
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		moved += ring(i)->place != places[i];
	}
	return moved;
}

static void
test_busy_rings_spread(void **state)
{
	const unsigned counts[] = {400, 0, 400, 0};
	unsigned place;

	start(NULL);
	/* The first measures, the second finds it uneven, the third knows who it is. */
	assert_int_equal(period(counts), 0);
	assert_int_equal(period(counts), 0);
	assert_int_equal(period(counts), 1);
	assert_int_not_equal(ring(0)->place, ring(2)->place);
	assert_int_equal(ring(1)->place, 0);
	assert_int_equal(ring(3)->place, 0);
	place = ring(0)->place;
	for (unsigned i = 0; i < 30; i++) {
		assert_int_equal(period(counts), 0);
		assert_int_equal(ring(0)->place, place);
	}
}

static void
test_not_worth_it(void **state)
{
	const unsigned moderate[] = {190, 190, 0, 0}, alone[] = {900, 0, 0, 0}, idle[] = {0, 0, 0, 0};

	start(NULL);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(period(moderate), 0);
	}
	/* Queues are not even looked at. */
	assert_int_equal(ring(0)->work_seen + ring(1)->work_seen, 0);
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(period(alone), 0);
	}
	for (unsigned i = 0; i < 5; i++) {
		assert_int_equal(period(idle), 0);
	}
}

static void
test_mask(void **state)
{
	const unsigned counts[] = {200, 200, 200, 200};

	start("0x1");
	for (unsigned i = 0; i < 10; i++) {
		assert_int_equal(period(counts), 0);
	}
}

/* Load that jumps from one ring to another each period: what has moved stays for a while. */
static void
test_no_ping_pong(void **state)
{
	const unsigned even[] = {450, 450, 0, 0}, odd[] = {0, 0, 450, 450};
	unsigned moved[FRONT_RINGS] = {0}, places[FRONT_RINGS];

	start(NULL);
	for (unsigned i = 0; i < 4 * BALANCE_HOLD; i++) {
		for (unsigned r = 0; r < FRONT_RINGS; r++) {
			places[r] = ring(r)->place;
		}
		period(i % 2 == 0 ? even : odd);
		for (unsigned r = 0; r < FRONT_RINGS; r++) {
			moved[r] += ring(r)->place != places[r];
		}
	}
	for (unsigned r = 0; r < FRONT_RINGS; r++) {
		assert_in_range(moved[r], 0, 4);
	}
}

/* A ring that has moved, is put back, and should at once move again, does not for a while; the others never. */
static void
test_hold(void **state)
{
	const unsigned counts[] = {400, 0, 400, 0};
	unsigned there, periods;

	start(NULL);
	period(counts);
	period(counts);
	assert_int_equal(period(counts), 1);
	there = ring(0)->place != 0 ? 0 : 2;
	ring(2 - there)->stays_until = UINT32_C(1) << 30;
	stage_call(&st, st.control, move_to_first, NULL);
	for (periods = 0; ring(there)->place == 0 && periods < 20; periods++) {
		period(counts);
	}
	assert_int_equal(periods, BALANCE_HOLD);
	assert_int_equal(ring(2 - there)->place, 0);
}

/* What was done since a call long ago says little about now. */
static void
test_pause(void **state)
{
	const unsigned counts[] = {400, 0, 400, 0}, long_time[] = {2000, 0, 2000, 0};

	start(NULL);
	period(counts);
	period(counts);
	period_end += 4 * PERIOD;
	assert_int_equal(period(long_time), 0);
	assert_int_equal(period(counts), 0);
	assert_int_equal(period(counts), 1);
}

/* Of threads with as many queues, the one whose reactor did less. */
static void
test_placement_by_load(void **state)
{
	struct cpumask all;
	unsigned place;

	start("0x1");
	for (unsigned i = 0; i < 300; i++) {
		assert_true(front_read(&f, 0, i));
	}
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		placement_take_at(1);
	}
	assert_int_equal(placement_queues(0), placement_queues(1));
	assert_int_equal(placement_parse(NULL, &all, NULL), 0);
	place = placement_take(&all);
	assert_int_equal(place, 1);
	placement_drop(1);
	/* And the other way round: nothing was done on either since, so the first. */
	clock_set_fake_ns(clock_now_ns() + PERIOD);
	assert_int_equal(placement_take(&all), 0);
	placement_drop(0);
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		placement_drop(1);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_IN_MODES(test_busy_rings_spread, setup, teardown),
		HAND_IN_MODES(test_not_worth_it, setup, teardown),
		HAND_IN_MODES(test_mask, setup, teardown),
		HAND_IN_MODES(test_no_ping_pong, setup, teardown),
		HAND_IN_MODES(test_hold, setup, teardown),
		HAND_IN_MODES(test_pause, setup, teardown),
		HAND_IN_MODES(test_placement_by_load, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
