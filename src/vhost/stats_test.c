/* SPDX-License-Identifier: BSD-3-Clause */
/* What is counted, and that nothing counted is ever lost. The clock stands still but for what a test
 * moves it. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/clock.h"
#include "testkit/hand.h"
#include "testkit/vhost_stage.h"
#include "vhost/session.h"

static struct stage st;
static struct front f;
static enum reactor_mode mode;

static int
setup(void **state)
{
	mode = *(const enum reactor_mode *)*state;
	hand_clock_start();
	stage_start(&st, mode);
	assert_int_equal(stage_create(&st, "vm", NULL, false, NULL), 0);
	front_open(&f, &st);
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

static struct vhost_stats
stats(void)
{
	struct vhost_stats s;

	vhost_get_stats(vhost_find("vm"), &s);
	return s;
}

static void
pass(uint64_t us)
{
	stage_quiet(&st);
	clock_set_fake_ns(clock_now_ns() + us * NS_PER_US);
	stage_quiet(&st);
}

/* Long enough for every queue to sleep, where the mode lets it. */
static void
idle(void)
{
	pass(1);
	pass(200);
}

static void
release_held(void *ctx)
{
	scripted_channel_kick(ctx);
}

static void
release(void)
{
	struct vhost_queue *q = &vhost_find("vm")->session->rings[0]->q;

	st.disk.hold = false;
	stage_call(&st, q->thread, release_held, q->ch);
}

/* Offers a read and makes of it what the test wants before the device sees it. */
static void
offer(uint32_t type, uint64_t sector)
{
	struct virtio_blk_outhdr *h;
	const struct vring_desc *desc = (const struct vring_desc *)(void *)f.memory;
	uint16_t head;

	front_offer(&f, 0, 1);
	head = *(uint16_t *)(void *)(f.memory + 0x4000 + 4 + 2 * ((f.avail[0] - 1) % f.size[0]));
	h = (struct virtio_blk_outhdr *)(void *)(f.memory + (desc[head].addr - FRONT_GPA));
	h->type = type;
	h->sector = sector;
	if (type == VIRTIO_BLK_T_OUT) {
		((struct vring_desc *)(void *)f.memory)[desc[head].next].flags &= (uint16_t)~VRING_DESC_F_WRITE;
	}
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), f.avail[0]);
}

static void
test_kinds(void **state)
{
	struct vhost_stats s;

	front_start(&f, "vm");
	for (unsigned i = 0; i < 5; i++) {
		assert_true(front_read(&f, 0, i));
	}
	offer(VIRTIO_BLK_T_OUT, 3);
	offer(VIRTIO_BLK_T_OUT, 4);
	offer(VIRTIO_BLK_T_GET_ID, 0);
	s = stats();
	assert_int_equal(s.read_ops, 5);
	assert_int_equal(s.write_ops, 2);
	assert_int_equal(s.other_ops, 1);
	assert_int_equal(s.bytes_read, 5 * 512);
	assert_int_equal(s.bytes_written, 2 * 512);
	assert_int_equal(s.errors, 0);
	assert_int_equal(s.malformed, 0);
	assert_int_equal(s.inflight, 0);
}

static void
test_errors(void **state)
{
	struct vhost_stats s;
	struct vring_desc *desc = (struct vring_desc *)(void *)f.memory;

	front_start(&f, "vm");
	offer(VIRTIO_BLK_T_IN, STAGE_BLOCKS);
	offer(4711, 0);
	s = stats();
	assert_int_equal(s.read_ops, 1);
	assert_int_equal(s.other_ops, 1);
	assert_int_equal(s.errors, 2);
	assert_int_equal(s.bytes_read, 0);
	/* A chain outside of guest memory is no request. */
	front_offer(&f, 0, 1);
	for (unsigned i = 0; i < f.size[0]; i++) {
		desc[i].addr = 0;
	}
	stage_quiet(&st);
	s = stats();
	assert_int_equal(s.malformed, 1);
	assert_int_equal(s.errors, 2);
	assert_int_equal(s.read_ops + s.write_ops + s.other_ops, 2);
}

/* Two requests, of which the second comes 300 us after the first, and both end 1,000 us later. */
static void
test_latency(void **state)
{
	struct vhost_stats s;
	uint64_t before;

	front_start(&f, "vm");
	pass(50);
	before = clock_now_ns();
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	pass(300);
	front_offer(&f, 0, 2);
	stage_quiet(&st);
	s = stats();
	assert_int_equal(s.inflight, 2);
	assert_int_equal(s.read_ops, 0);
	assert_int_equal(s.latency_ns, 300 * NS_PER_US);
	assert_int_equal(s.active_ns, before + 300 * NS_PER_US);
	pass(1000);
	release();
	s = stats();
	assert_int_equal(s.inflight, 0);
	assert_int_equal(s.read_ops, 2);
	assert_int_equal(s.latency_ns, 2300 * NS_PER_US);
	assert_int_equal(s.active_ns, before + 1300 * NS_PER_US);
	/* Nothing is under way: time passes for nobody. */
	pass(7000);
	assert_true(front_read(&f, 0, 1));
	assert_int_equal(stats().latency_ns, 2300 * NS_PER_US);
}

/* The driver wants to be called after the next completion (event index). */
static bool
read_called(unsigned block)
{
	*(uint16_t *)(void *)(f.memory + 0x4000 + 4 + 2 * f.size[0]) = f.avail[0];
	return front_read(&f, 0, block);
}

/* As after a move to a reactor that read its clock before. */
static void
test_clock_behind(void **state)
{
	uint64_t before;

	front_start(&f, "vm");
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	pass(300);
	front_offer(&f, 0, 2);
	stage_quiet(&st);
	before = stats().latency_ns;
	assert_int_equal(before, 300 * NS_PER_US);
	atomic_store(&vhost_find("vm")->session->rings[0]->q.counters.weighed_ns, clock_now_ns() + 40 * NS_PER_US);
	release();
	assert_int_equal(stats().latency_ns, before);
}

static void
test_kicks_and_calls(void **state)
{
	struct vhost_stats s;

	front_start(&f, "vm");
	for (unsigned i = 0; i < 4; i++) {
		idle();
		assert_true(read_called(i));
		assert_true(read_called(i));
	}
	s = stats();
	/* An adaptive queue that has learnt that it waits long may sleep between the two as well. */
	assert_in_range(s.kicks, mode == REACTOR_POLL ? 0 : 4, mode == REACTOR_POLL ? 0 : mode == REACTOR_INTERRUPT ? 4 : 8);
	assert_int_equal(s.calls, 8);
}

/* Requests done, whoever asked for them. */
static void
test_nothing_is_lost(void **state)
{
	uint64_t reads = 0;

	for (unsigned i = 0; i < 5; i++) {
		memset(f.memory, 0, FRONT_RING_BYTES);
		f.avail[0] = 0;
		front_start(&f, "vm");
		for (unsigned k = 0; k < 3; k++) {
			assert_true(read_called(k));
			assert_int_equal(stats().read_ops, ++reads);
			assert_int_equal(front_ring_stop(&f, 0), k + 1);
			assert_int_equal(stats().read_ops, reads);
			front_ring_start(&f, 0, 64, k + 1);
		}
		front_disconnect(&f);
		stage_quiet(&st);
		assert_null(vhost_find("vm")->session);
		assert_int_equal(stats().read_ops, reads);
		assert_int_equal(stats().bytes_read, reads * 512);
		assert_int_equal(stats().calls, reads);
	}
}

static void
test_queues(void **state)
{
	struct vhost_queue_info queues[FRONT_RINGS];

	assert_int_equal(vhost_get_queues(vhost_find("vm"), queues, FRONT_RINGS), 0);
	front_start(&f, "vm");
	front_ring_start(&f, 2, 64, 0);
	assert_true(front_read(&f, 0, 1));
	assert_true(front_read(&f, 2, 1));
	assert_true(front_read(&f, 2, 2));
	st.disk.hold = true;
	front_offer(&f, 2, 1);
	stage_quiet(&st);
	assert_int_equal(vhost_get_queues(vhost_find("vm"), queues, FRONT_RINGS), 2);
	assert_int_equal(queues[0].index, 0);
	assert_int_equal(queues[0].requests, 1);
	assert_int_equal(queues[0].inflight, 0);
	assert_int_equal(queues[1].index, 2);
	assert_int_equal(queues[1].requests, 2);
	assert_int_equal(queues[1].inflight, 1);
	assert_ptr_equal(queues[0].thread, st.io[0]);
	assert_ptr_equal(queues[1].thread, st.io[1]);
	/* With room for one, the first. */
	queues[1].index = 77;
	assert_int_equal(vhost_get_queues(vhost_find("vm"), queues, 1), 2);
	assert_int_equal(queues[1].index, 77);
	st.disk.hold = false;
	stage_call(&st, st.io[1], release_held, vhost_find("vm")->session->rings[2]->q.ch);
	assert_int_equal(front_used(&f, 2), 3);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_IN_MODES(test_kinds, setup, teardown),
		HAND_IN_MODES(test_errors, setup, teardown),
		HAND_IN_MODES(test_latency, setup, teardown),
		HAND_IN_MODES(test_clock_behind, setup, teardown),
		HAND_IN_MODES(test_kicks_and_calls, setup, teardown),
		HAND_IN_MODES(test_nothing_is_lost, setup, teardown),
		HAND_IN_MODES(test_queues, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
