/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtqueue under the commands of its control thread, with a device that completes chains when the test says so.
 * Both threads run on one reactor polled by hand; every test runs in the three modes.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "event/reactor.h"
#include "vhost/internal.h"

#define SIZE 16u
#define GPA UINT64_C(0x10000)
#define MEMORY 0x10000u

static enum reactor_mode mode;

struct fixture {
	struct reactor *reactor;
	struct thread *control, *io;
	struct memmap *map;
	uint8_t *memory;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	int kick, call;
	struct vhost_controller ctrlr;
	struct vhost_queue q;
	struct msg msg;
	enum vhost_queue_command command;
	int answers, status;
	int failures;
	bool hold; /* the device keeps chains until released */
	uint16_t held[SIZE];
	unsigned held_count;
	unsigned started, stopped;
	bool exit_asked;
};

static struct fixture *fix;

/* ---- The device ---- */

static int
fake_start(struct vhost_queue *q)
{
	fix->started++;
	return 0;
}

static void
fake_stop(struct vhost_queue *q)
{
	fix->stopped++;
}

static int
fake_poll(struct vhost_queue *q)
{
	int n = 0;

	while (virtq_pending(&q->vq) > 0) {
		struct iovec iov[4];
		struct virtq_chain c;
		int rc = virtq_take(&q->vq, &c, iov, 4);

		if (q->vq.broken) {
			break;
		}
		assert_int_equal(rc, 0);
		q->inflight++;
		n++;
		if (fix->hold) {
			fix->held[fix->held_count++] = c.head;
		} else {
			vhost_queue_complete(q, c.head, 7);
		}
	}
	return n;
}

static const struct vhost_device_ops fake_ops = {
	.type = "fake", .queue_start = fake_start, .queue_stop = fake_stop, .queue_poll = fake_poll};

/* ---- Fixture ---- */

static void
spin(void)
{
	for (int i = 0; i < 20; i++) {
		reactor_poll_once(fix->reactor);
	}
}

/* Polls until cond holds, at most two seconds. */
#define WAIT_UNTIL(cond) \
	do { \
		for (int wait_i_ = 0; wait_i_ < 20000 && !(cond); wait_i_++) { \
			reactor_poll_once(fix->reactor); \
			usleep(100); \
		} \
		assert_true(cond); \
	} while (0)

/* Until the poller has given up and waits for its kick, where the mode lets it. */
static void
settle(void)
{
	if (mode != REACTOR_POLL) {
		WAIT_UNTIL(fix->q.poller.state != POLLER_ACTIVE);
	}
}

static void
answered(struct vhost_queue *q, int status)
{
	fix->answers++;
	fix->status = status;
}

static void
on_control(struct msg *msg)
{
	vhost_queue_send(&fix->q, fix->command, answered);
}

static void
send(enum vhost_queue_command command)
{
	fix->command = command;
	thread_send(fix->control, &fix->msg, on_control);
	spin();
}

static void
failed(struct vhost_queue *q)
{
	fix->failures++;
}

static void
on_release(struct msg *msg)
{
	fix->hold = false;
	while (fix->held_count > 0) {
		vhost_queue_complete(&fix->q, fix->held[--fix->held_count], 7);
	}
}

static void
release(unsigned count)
{
	fix->held_count = MIN(count, fix->held_count);
	thread_send(fix->io, &fix->msg, on_release);
	spin();
}

static struct memmap *
guest_memory(void)
{
	struct memmap *empty = memmap_create(), *map;
	int fd = memfd_create("guest", MFD_CLOEXEC);
	struct err err;

	assert_int_equal(ftruncate(fd, MEMORY), 0);
	map = memmap_add(empty, GPA, MEMORY, GPA, fd, 0, &err);
	assert_non_null(map);
	memmap_put(empty);
	close(fd);
	return map;
}

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	struct err err;

	fix = f;
	f->reactor = reactor_create(0, -1, mode, &err);
	assert_non_null(f->reactor);
	f->control = thread_create("control", f->reactor);
	f->io = thread_create("io", f->reactor);
	f->map = guest_memory();
	f->memory = f->map->regions[0].hva;
	f->desc = (struct vring_desc *)(void *)f->memory;
	f->avail = (struct vring_avail *)(void *)(f->memory + 0x1000);
	f->used = (struct vring_used *)(void *)(f->memory + 0x2000);
	f->kick = eventfd(0, EFD_NONBLOCK);
	f->call = eventfd(0, EFD_NONBLOCK);
	f->ctrlr.ops = &fake_ops;
	f->q.ctrlr = &f->ctrlr;
	f->q.thread = f->io;
	f->q.on_failed = failed;
	f->q.next = (struct vhost_queue_setup){.size = SIZE, .desc = f->desc, .avail = f->avail, .used = f->used,
		.map = f->map, .kick_fd = f->kick, .call_fd = f->call};
	for (unsigned i = 0; i < SIZE; i++) {
		f->desc[i] = (struct vring_desc){GPA + 0x3000, 16, 0, 0};
	}
	return 0;
}

static void
exit_fn(struct msg *msg)
{
	thread_exit();
}

static int
teardown(void **state)
{
	struct msg second;

	clock_set_fake_ns(UINT64_MAX);
	if (fix->q.running) {
		fix->hold = false;
		send(VHOST_QUEUE_STOP);
	}
	assert_int_equal(fix->started, fix->stopped);
	thread_send(fix->io, &fix->msg, exit_fn);
	thread_send(fix->control, &second, exit_fn);
	spin();
	reactor_free(fix->reactor);
	close(fix->kick);
	close(fix->call);
	memmap_put(fix->map);
	free(fix);
	return 0;
}

static void
offer(uint16_t head)
{
	fix->avail->ring[fix->avail->idx % SIZE] = head;
	fix->avail->idx++;
}

static void
kick(void)
{
	uint64_t one = 1;

	assert_int_equal(write(fix->kick, &one, sizeof(one)), sizeof(one));
}

/* How often the driver was called since the last look. */
static uint64_t
calls(void)
{
	uint64_t n = 0;

	return read(fix->call, &n, sizeof(n)) == sizeof(n) ? n : 0;
}

static void
start(void)
{
	send(VHOST_QUEUE_START);
	assert_int_equal(fix->answers, 1);
	assert_int_equal(fix->status, 0);
	fix->answers = 0;
}

/* ---- Tests ---- */

static void
test_serves_kicks(void **state)
{
	start();
	for (int i = 0; i < 5; i++) {
		settle();
		offer(3);
		offer(4);
		kick();
		spin();
		assert_int_equal(fix->used->idx, 2 * (i + 1));
		assert_int_equal(fix->used->ring[(2 * i) % SIZE].id, 3);
		assert_int_equal(fix->used->ring[(2 * i) % SIZE].len, 7);
		/* A batch, one call. */
		assert_int_equal(calls(), 1);
	}
}

/* An armed queue asks for kicks, an active one does not. */
static void
test_kick_suppression(void **state)
{
	start();
	assert_int_equal(fix->used->flags, fix->q.poller.state == POLLER_ACTIVE ? VRING_USED_F_NO_NOTIFY : 0);
	settle();
	assert_int_equal(fix->used->flags, mode == REACTOR_POLL ? VRING_USED_F_NO_NOTIFY : 0);
}

static void
test_chains_before_start(void **state)
{
	offer(1);
	start();
	spin();
	assert_int_equal(fix->used->idx, 1);
}

static void
test_stop_waits_for_inflight(void **state)
{
	start();
	fix->hold = true;
	offer(1);
	offer(2);
	kick();
	spin();
	send(VHOST_QUEUE_STOP);
	offer(3);
	kick();
	spin();
	assert_int_equal(fix->answers, 0);
	assert_int_equal(fix->used->idx, 0);
	release(2);
	assert_int_equal(fix->answers, 1);
	assert_int_equal(fix->q.base, 2);
	assert_int_equal(fix->used->idx, 2);
	assert_int_equal(calls(), 1);
	assert_false(fix->q.running);
	/* And goes on where it stopped. */
	fix->answers = 0;
	fix->q.next.base = fix->q.base;
	start();
	spin();
	assert_int_equal(fix->used->idx, 3);
	assert_int_equal(fix->used->ring[2].id, 3);
}

static void
test_stop_of_a_stopped_queue(void **state)
{
	send(VHOST_QUEUE_STOP);
	assert_int_equal(fix->answers, 1);
	assert_int_equal(fix->status, 0);
}

static void
test_map_swaps_while_quiet(void **state)
{
	uint8_t *copy = aligned_alloc(4096, MEMORY);
	struct vring_used *old_used = fix->used;

	start();
	fix->hold = true;
	offer(1);
	kick();
	spin();
	memcpy(copy, fix->memory, MEMORY);
	fix->q.next.desc = copy;
	fix->q.next.avail = copy + 0x1000;
	fix->q.next.used = copy + 0x2000;
	send(VHOST_QUEUE_MAP);
	assert_int_equal(fix->answers, 0);
	settle();
	fix->avail = (struct vring_avail *)(void *)(copy + 0x1000);
	fix->used = (struct vring_used *)(void *)(copy + 0x2000);
	offer(5);
	release(1);
	assert_int_equal(fix->answers, 1);
	/* Completed in the old memory; from now on the new one counts, without a kick for what waits there. */
	assert_int_equal(old_used->idx, 1);
	assert_int_equal(fix->used->idx, 2);
	settle();
	offer(6);
	kick();
	spin();
	assert_int_equal(fix->used->idx, 3);
	assert_int_equal(old_used->idx, 1);
	fix->answers = 0;
	send(VHOST_QUEUE_STOP);
	assert_int_equal(fix->answers, 1);
	free(copy);
}

static void
test_call_descriptor_changes(void **state)
{
	int other = eventfd(0, EFD_NONBLOCK);
	uint64_t n;

	start();
	fix->q.next.call_fd = other;
	send(VHOST_QUEUE_CALL);
	assert_int_equal(fix->answers, 1);
	/* Once at the change, for what may have gone to the old one unseen. */
	assert_int_equal(read(other, &n, sizeof(n)), sizeof(n));
	offer(1);
	kick();
	spin();
	assert_int_equal(calls(), 0);
	assert_int_equal(read(other, &n, sizeof(n)), sizeof(n));
	send(VHOST_QUEUE_STOP);
	close(other);
}

static void
test_broken_ring_is_reported_once(void **state)
{
	start();
	fix->avail->idx = SIZE + 3;
	kick();
	spin();
	kick();
	spin();
	assert_int_equal(fix->failures, 1);
	assert_non_null(fix->q.failed_why);
	send(VHOST_QUEUE_STOP);
	assert_int_equal(fix->answers, 1);
}

static void
test_no_kick_descriptor(void **state)
{
	fix->q.next.kick_fd = -1;
	start();
	offer(1);
	WAIT_UNTIL(fix->used->idx == 1);
	assert_int_equal(calls(), 1);
}

static void
test_bad_kick_descriptor(void **state)
{
	fix->q.next.kick_fd = 9999;
	send(VHOST_QUEUE_START);
	assert_int_equal(fix->answers, 1);
	assert_int_equal(fix->status, -EBADF);
	assert_false(fix->q.running);
}

/* Starts the queue in time that stands still but for what the test moves it. */
static void
still_time(void)
{
	clock_set_fake_ns(clock_now_ns());
	start();
}

static void
test_coalescing(void **state)
{
	still_time();
	fix->ctrlr.delay_base_us = 2000;
	fix->ctrlr.iops_threshold = 0;
	fix->q.rate_iops = 1000000;
	/* Nothing else in flight: no delay. */
	offer(1);
	kick();
	spin();
	assert_int_equal(calls(), 1);
	/* Others in flight: held back, until the delay is over. */
	fix->hold = true;
	offer(1);
	offer(2);
	offer(3);
	kick();
	spin();
	assert_int_equal(fix->held_count, 3);
	fix->q.rate_iops = 1000000;
	release(1);
	assert_int_equal(fix->used->idx, 2);
	assert_int_equal(calls(), 0);
	assert_true(fix->q.call_pending);
	clock_set_fake_ns(clock_now_ns() + 2 * NS_PER_MS);
	WAIT_UNTIL(!fix->q.call_pending);
	assert_int_equal(calls(), 1);
	/* The last one in flight is never held back. */
	fix->held[0] = 2;
	fix->held[1] = 3;
	fix->held_count = 2;
	release(2);
	assert_int_equal(calls(), 1);
	assert_false(fix->q.call_pending);
}

/* ---- Calls, counted ---- */

static void
complete_first(struct msg *msg)
{
	uint16_t head = fix->held[0];

	memmove(fix->held, fix->held + 1, --fix->held_count * sizeof(head));
	vhost_queue_complete(&fix->q, head, 7);
}

/*
 * A driver with `depth` requests under way at any time, of which one is done every us microseconds, each in a turn of its
 * own. Returns how often `count` requests made the device call.
 */
static uint64_t
calls_at(unsigned depth, unsigned us, unsigned count)
{
	uint64_t sum = 0;

	fix->hold = true;
	for (unsigned i = 0; i < count + depth; i++) {
		if (i >= depth) {
			thread_send(fix->io, &fix->msg, complete_first);
			spin();
			sum += calls();
		}
		if (i < count) {
			offer((uint16_t)(i % depth));
			kick();
			spin();
		}
		clock_set_fake_ns(clock_now_ns() + us * NS_PER_US);
		spin();
		sum += calls();
	}
	assert_int_equal(fix->held_count, 0);
	return sum;
}

static void
set_coalescing(uint32_t delay_us, uint32_t threshold)
{
	fix->ctrlr.delay_base_us = delay_us;
	fix->ctrlr.iops_threshold = threshold;
}

static void
test_calls_without_coalescing(void **state)
{
	still_time();
	assert_int_equal(calls_at(8, 10, 1000), 1000);
}

/* A hundred thousand a second, of which each hundred microseconds' worth should be one call. */
static void
test_coalescing_at_a_high_rate(void **state)
{
	uint64_t n;

	still_time();
	set_coalescing(100, 60000);
	/* The rate must be known first. */
	calls_at(8, 10, 3000);
	n = calls_at(8, 10, 1000);
	assert_in_range(n, 50, 150);
	/* Below the threshold nothing is held back. */
	calls_at(8, 20, 3000);
	assert_int_equal(calls_at(8, 20, 1000), 1000);
	set_coalescing(0, 60000);
	assert_int_equal(calls_at(8, 10, 1000), 1000);
}

/* One at a time, as fast as you like: each is called for before time moves. */
static void
test_coalescing_leaves_depth_1_alone(void **state)
{
	still_time();
	set_coalescing(100, 1000);
	calls_at(1, 10, 3000);
	assert_true(fix->q.rate_iops > 1000);
	fix->hold = false;
	for (unsigned i = 0; i < 1000; i++) {
		offer(1);
		kick();
		spin();
		assert_int_equal(fix->used->idx, (uint16_t)(3001 + i));
		assert_int_equal(calls(), 1);
	}
}

/* A driver that looks for itself is never called, and sees everything done. */
static void
test_no_interrupt(void **state)
{
	still_time();
	fix->avail->flags = VRING_AVAIL_F_NO_INTERRUPT;
	assert_int_equal(calls_at(8, 10, 1000), 0);
	assert_int_equal(fix->used->idx, 1000);
	set_coalescing(100, 1000);
	assert_int_equal(calls_at(8, 10, 3000), 0);
}

static void
test_no_interrupt_by_event_index(void **state)
{
	fix->q.next.event_idx = true;
	still_time();
	/* Far behind what will be used next: not before 64 thousand more. */
	fix->avail->ring[SIZE] = (uint16_t)-2;
	assert_int_equal(calls_at(8, 10, 1000), 0);
	assert_int_equal(fix->used->idx, 1000);
	set_coalescing(100, 1000);
	assert_int_equal(calls_at(8, 10, 3000), 0);
	/* And once, when it wants one. */
	fix->avail->ring[SIZE] = (uint16_t)(fix->used->idx + 3);
	assert_int_equal(calls_at(1, 10, 100), 1);
}

#define TEST(fn) cmocka_unit_test_setup_teardown(fn, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_serves_kicks),
		TEST(test_kick_suppression),
		TEST(test_chains_before_start),
		TEST(test_stop_waits_for_inflight),
		TEST(test_stop_of_a_stopped_queue),
		TEST(test_map_swaps_while_quiet),
		TEST(test_call_descriptor_changes),
		TEST(test_broken_ring_is_reported_once),
		TEST(test_no_kick_descriptor),
		TEST(test_bad_kick_descriptor),
		TEST(test_coalescing),
		TEST(test_calls_without_coalescing),
		TEST(test_coalescing_at_a_high_rate),
		TEST(test_coalescing_leaves_depth_1_alone),
		TEST(test_no_interrupt),
		TEST(test_no_interrupt_by_event_index),
	};
	int failures = 0;

	for (mode = REACTOR_POLL; mode <= REACTOR_ADAPTIVE; mode++) {
		print_message("mode %s\n", reactor_mode_name(mode));
		failures += cmocka_run_group_tests(tests, NULL, NULL);
	}
	return failures;
}
