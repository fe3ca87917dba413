/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Virtqueues that move between I/O threads while they run. First by hand, at each moment that matters; then under load, with
 * system threads, thousands of times, while a guest checks that each request comes back once, with the right data, and that no
 * kick and no call is lost: it sleeps until it is called, and is kicked by nobody else.
 */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "testkit/hand.h"
#include "testkit/vhost_stage.h"
#include "vhost/session.h"

static struct stage st;
static struct front f;

static int
setup(void **state)
{
	stage_start(&st, *(const enum reactor_mode *)*state);
	assert_int_equal(stage_create(&st, "vm", NULL, false, NULL), 0);
	front_open(&f, &st);
	return 0;
}

static int
teardown(void **state)
{
	front_close(&f);
	stage_stop(&st);
	return 0;
}

static struct ring *
ring(unsigned i)
{
	return vhost_find("vm")->session->rings[i];
}

/* ---- By hand ---- */

struct order {
	unsigned ring, place;
	bool taken;
};

static void
move_on_control(void *ctx)
{
	struct order *o = ctx;

	o->taken = ring_move(ring(o->ring), o->place);
}

static bool
move(unsigned index, unsigned place)
{
	struct order o = {index, place, false};

	stage_call(&st, st.control, move_on_control, &o);
	return o.taken;
}

static void
release_held(void *ctx)
{
	scripted_channel_kick(ctx);
}

static void
release(void)
{
	struct vhost_queue *q = &ring(0)->q;

	st.disk.hold = false;
	stage_call(&st, q->thread, release_held, q->ch);
}

static void
test_idle_ring(void **state)
{
	front_start(&f, "vm");
	for (unsigned i = 0; i < 300; i++) {
		unsigned place = ring(0)->place;

		assert_true(front_read(&f, 0, i));
		assert_false(move(0, place));
		assert_true(move(0, !place));
		assert_int_equal(ring(0)->place, !place);
		assert_ptr_equal(ring(0)->q.thread, st.io[!place]);
		assert_int_equal(ring(0)->q.session->started, 1);
	}
	assert_int_equal(front_ring_stop(&f, 0), 300);
	assert_false(move(0, 0) || move(0, 1));
}

/* With the ring on the first thread, whichever had less to do until now. */
static void
start_at_first(void)
{
	front_start(&f, "vm");
	assert_true(ring(0)->place == 0 || move(0, 0));
	assert_int_equal(ring(0)->place, 0);
}

/* Requests under way are finished where they are; those offered meanwhile are served where it goes. */
static void
test_busy_ring(void **state)
{
	start_at_first();
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	assert_true(move(0, 1));
	assert_int_equal(ring(0)->place, 0);
	assert_false(move(0, 1));
	front_offer(&f, 0, 2);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 0);
	release();
	assert_int_equal(ring(0)->place, 1);
	assert_int_equal(front_used(&f, 0), 2);
	assert_true(front_read(&f, 0, 3));
	assert_int_equal(front_ring_stop(&f, 0), 3);
}

/* What comes from the front end while a ring is on its way. */
static void
test_messages_meanwhile(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_QUEUE_NUM};
	int call = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC), old = f.call[0];
	struct vhost_stats stats;

	start_at_first();
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	assert_true(move(0, 1));
	/* Nothing to do with rings: answered at once. */
	assert_int_equal(front_get(&f, VHOST_USER_GET_QUEUE_NUM), VHOST_QUEUES_MAX);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_STATUS, 15, -1), 0);
	/* These wait. */
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_VRING_CALL, .u64 = 0};
	front_send(&f, &msg, &call, 1);
	f.call[0] = call;
	stage_quiet(&st);
	assert_int_equal(vhost_find("vm")->session->state, SESSION_BUSY);
	assert_int_equal(ring(0)->place, 0);
	release();
	assert_int_equal(ring(0)->place, 1);
	assert_int_equal(vhost_find("vm")->session->state, SESSION_OPEN);
	assert_true(front_read(&f, 0, 2));
	vhost_get_stats(vhost_find("vm"), &stats);
	assert_int_equal(stats.read_ops, 2);
	close(old);
	/* New memory, and a disconnection. */
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	assert_true(move(0, 0));
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_MEM_TABLE};
	msg.memory.count = 1;
	msg.memory.regions[0] = (struct vhost_user_region){.gpa = FRONT_GPA, .size = FRONT_MEMORY, .uva = FRONT_UVA};
	front_send(&f, &msg, &f.memory_fd, 1);
	stage_quiet(&st);
	release();
	assert_int_equal(ring(0)->place, 0);
	assert_true(front_read(&f, 0, 3));
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	assert_true(move(0, 1));
	front_disconnect(&f);
	stage_quiet(&st);
	assert_int_equal(vhost_find("vm")->session->state, SESSION_ENDING);
	release();
	assert_null(vhost_find("vm")->session);
}

/* Stopped and disabled while it is on its way: it does not start where it should have gone, and later starts anywhere. */
static void
test_stopped_meanwhile(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_VRING_BASE};

	start_at_first();
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	assert_true(move(0, 1));
	front_send(&f, &msg, NULL, 0);
	stage_quiet(&st);
	release();
	assert_true(front_reply(&f, &msg));
	assert_int_equal(msg.state.num, 1);
	assert_false(ring(0)->running);
	front_ring_start(&f, 0, 64, 1);
	assert_true(front_read(&f, 0, 2));
}

/* ---- A thread on which it cannot run ---- */

static struct vhost_device_ops picky_ops;
static unsigned unwelcome; /* places on which queues do not start, a bit each */

static int
picky_start(struct vhost_queue *q)
{
	for (unsigned i = 0; i < STAGE_IO_THREADS; i++) {
		if ((unwelcome & 1u << i) != 0 && thread_self() == st.io[i]) {
			return -ENOMEM;
		}
	}
	return vhost_blk_ops.queue_start(q);
}

static void
test_cannot_run_there(void **state)
{
	picky_ops = vhost_blk_ops;
	picky_ops.queue_start = picky_start;
	vhost_find("vm")->ops = &picky_ops;
	unwelcome = 0;
	start_at_first();
	assert_true(front_read(&f, 0, 1));
	assert_int_equal(ring(0)->place, 0);
	unwelcome = 2;
	assert_true(move(0, 1));
	assert_int_equal(ring(0)->place, 0);
	assert_true(ring(0)->running);
	assert_true(front_read(&f, 0, 2));
	/* Nowhere any more: the front end hears of it. */
	unwelcome = 3;
	assert_true(move(0, 1));
	stage_quiet(&st);
	assert_null(vhost_find("vm")->session);
	assert_true(front_ended(&f));
}

/* ---- Under load ---- */

#define RINGS 3u
#define RING_SIZE 64u
#define SLOTS 21u /* three descriptors each */
#define MOVES 3000u
#define PATIENCE_MS 60000

struct load {
	unsigned index;
	struct vring_desc *desc;
	struct vring_avail *avail;
	struct vring_used *used;
	uint16_t last_used;
	uint32_t seq[SLOTS]; /* odd: being written, even: being read again */
	bool busy[SLOTS];
	uint64_t done;
};

static struct load loads[RINGS];
static bool event_idx;
static struct {
	struct msg msg;
	struct timer timer;
	unsigned moves;
	atomic_bool stop, stopped;
	atomic_uint seen; /* of moves */
} mover;

static uint8_t *
data_of(const struct load *l, unsigned slot)
{
	return f.memory + FRONT_DATA_AT + l->index * 0x10000 + slot * 512;
}

static struct virtio_blk_outhdr *
header_of(const struct load *l, unsigned slot)
{
	return (struct virtio_blk_outhdr *)(void *)(f.memory + l->index * FRONT_RING_BYTES + 0x7000 + slot * 32);
}

static uint64_t
gpa_of(const void *p)
{
	return FRONT_GPA + (uint64_t)((const uint8_t *)p - f.memory);
}

static void
pattern(uint8_t *at, const struct load *l, unsigned slot, uint32_t seq)
{
	for (unsigned i = 0; i < 512; i += 4) {
		uint32_t word = seq * 2654435761u + l->index * 1000003u + slot * 7919u + i;

		memcpy(at + i, &word, 4);
	}
}

static uint16_t *
event_at(void *ring_end)
{
	return ring_end;
}

static void
submit(struct load *l, unsigned slot)
{
	struct virtio_blk_outhdr *h = header_of(l, slot);
	bool write = ++l->seq[slot] % 2 == 1;
	uint16_t idx = l->avail->idx;

	*h = (struct virtio_blk_outhdr){.type = write ? VIRTIO_BLK_T_OUT : VIRTIO_BLK_T_IN,
		.sector = l->index * SLOTS + slot};
	((uint8_t *)h)[16] = 0xff;
	if (write) {
		pattern(data_of(l, slot), l, slot, l->seq[slot]);
	} else {
		memset(data_of(l, slot), 0xee, 512);
	}
	l->desc[slot * 3] = (struct vring_desc){gpa_of(h), 16, VRING_DESC_F_NEXT, (uint16_t)(slot * 3 + 1)};
	l->desc[slot * 3 + 1] = (struct vring_desc){gpa_of(data_of(l, slot)), 512,
		(uint16_t)(VRING_DESC_F_NEXT | (write ? 0 : VRING_DESC_F_WRITE)), (uint16_t)(slot * 3 + 2)};
	l->desc[slot * 3 + 2] = (struct vring_desc){gpa_of(h) + 16, 1, VRING_DESC_F_WRITE, 0};
	l->busy[slot] = true;
	l->avail->ring[idx % RING_SIZE] = (uint16_t)(slot * 3);
	__atomic_store_n(&l->avail->idx, (uint16_t)(idx + 1), __ATOMIC_SEQ_CST);
}

/* Kicks when asked to, and only then. */
static void
kick(struct load *l, uint16_t before)
{
	uint16_t idx = l->avail->idx;
	uint64_t one = 1;
	bool wanted;

	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (event_idx) {
		wanted = vring_need_event(__atomic_load_n(event_at(&l->used->ring[RING_SIZE]), __ATOMIC_SEQ_CST), idx, before);
	} else {
		wanted = (__atomic_load_n(&l->used->flags, __ATOMIC_SEQ_CST) & VRING_USED_F_NO_NOTIFY) == 0;
	}
	if (wanted && idx != before) {
		assert_int_equal(write(f.kick[l->index], &one, sizeof(one)), sizeof(one));
	}
}

/* Takes what came back, checks it, and offers it again unless `last`. */
static unsigned
reap(struct load *l, bool last)
{
	uint16_t used = __atomic_load_n(&l->used->idx, __ATOMIC_ACQUIRE), before = l->avail->idx;
	unsigned count = 0;

	for (; l->last_used != used; l->last_used++, count++) {
		struct vring_used_elem e = l->used->ring[l->last_used % RING_SIZE];
		unsigned slot = e.id / 3;
		uint8_t expected[512];

		assert_true(e.id % 3 == 0 && slot < SLOTS && l->busy[slot]);
		assert_int_equal(((uint8_t *)header_of(l, slot))[16], VIRTIO_BLK_S_OK);
		assert_int_equal(e.len, l->seq[slot] % 2 == 1 ? 1 : 513);
		/* A read finds what was written before it. */
		pattern(expected, l, slot, l->seq[slot] - (l->seq[slot] % 2 == 0));
		assert_memory_equal(data_of(l, slot), expected, 512);
		l->busy[slot] = false;
		l->done++;
		if (!last) {
			submit(l, slot);
		}
	}
	kick(l, before);
	return count;
}

static unsigned
reap_all(bool last)
{
	unsigned count = 0;

	for (unsigned i = 0; i < RINGS; i++) {
		count += reap(&loads[i], last);
	}
	return count;
}

/* Asks for calls, looks once more, sleeps. */
static void
wait_for_calls(bool last)
{
	struct pollfd fds[RINGS];
	uint64_t value;

	for (unsigned i = 0; i < RINGS; i++) {
		fds[i] = (struct pollfd){.fd = f.call[i], .events = POLLIN};
		*event_at(&loads[i].avail->ring[RING_SIZE]) = loads[i].last_used;
	}
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (reap_all(last) > 0) {
		return;
	}
	/* Something is always under way. */
	assert_true(poll(fds, RINGS, PATIENCE_MS) > 0);
	for (unsigned i = 0; i < RINGS; i++) {
		(void)!read(f.call[i], &value, sizeof(value));
	}
}

static unsigned
under_way(void)
{
	unsigned count = 0;

	for (unsigned i = 0; i < RINGS * SLOTS; i++) {
		count += loads[i / SLOTS].busy[i % SLOTS];
	}
	return count;
}

static void
move_some(struct timer *t)
{
	if (atomic_load(&mover.stop)) {
		for (unsigned i = 0; i < RINGS; i++) {
			if (ring(i)->busy) {
				CHECK(timer_start(t, 50, move_some) == 0);
				return;
			}
		}
		atomic_store(&mover.stopped, true);
		return;
	}
	for (unsigned i = 0; i < RINGS; i++) {
		/* Not all at once, and not always at the same distance. */
		if (rand() % 2 == 0 && ring_move(ring(i), !ring(i)->place)) {
			atomic_fetch_add(&mover.seen, 1);
		}
	}
	CHECK(timer_start(t, (uint64_t)(rand() % 100), move_some) == 0);
}

static void
start_mover(struct msg *msg)
{
	move_some(&mover.timer);
}

static void
start_loads(void)
{
	memset(loads, 0, sizeof(loads));
	for (unsigned i = 0; i < RINGS; i++) {
		uint8_t *base = f.memory + i * FRONT_RING_BYTES;

		loads[i] = (struct load){
			.index = i,
			.desc = (struct vring_desc *)(void *)base,
			.avail = (struct vring_avail *)(void *)(base + 0x4000),
			.used = (struct vring_used *)(void *)(base + 0x5000),
		};
		front_ring_start(&f, i, RING_SIZE, 0);
	}
}

static uint64_t
real_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void
run_load(void)
{
	uint64_t end = real_ms() + PATIENCE_MS;

	memset(&mover, 0, sizeof(mover));
	thread_send(st.control, &mover.msg, start_mover);
	for (unsigned i = 0; i < RINGS; i++) {
		for (unsigned slot = 0; slot < SLOTS; slot++) {
			submit(&loads[i], slot);
		}
		kick(&loads[i], (uint16_t)(loads[i].avail->idx - SLOTS));
	}
	while (atomic_load(&mover.seen) < MOVES) {
		assert_true(real_ms() < end);
		wait_for_calls(false);
	}
	atomic_store(&mover.stop, true);
	while (under_way() > 0) {
		wait_for_calls(true);
	}
	while (!atomic_load(&mover.stopped)) {
		assert_true(real_ms() < end);
		usleep(100);
	}
}

static void
hammer(uint64_t without)
{
	struct vhost_stats stats;
	uint64_t done = 0;

	event_idx = without == 0;
	front_connect(&f, "vm");
	front_negotiate(&f, without);
	front_share(&f);
	start_loads();
	stage_quiet(&st);
	for (unsigned i = 0; i < STAGE_IO_THREADS; i++) {
		assert_int_equal(reactor_start(st.reactors[i], NULL), 0);
	}
	run_load();
	for (unsigned i = 0; i < STAGE_IO_THREADS; i++) {
		reactor_stop(st.reactors[i]);
	}
	for (unsigned i = 0; i < STAGE_IO_THREADS; i++) {
		reactor_join(st.reactors[i]);
	}
	for (unsigned i = 0; i < RINGS; i++) {
		assert_int_equal(loads[i].last_used, loads[i].avail->idx);
		assert_int_equal((uint16_t)loads[i].done, loads[i].avail->idx);
		assert_int_equal(front_ring_stop(&f, i), loads[i].avail->idx);
		assert_int_equal(front_used(&f, i), loads[i].avail->idx);
		done += loads[i].done;
	}
	vhost_get_stats(vhost_find("vm"), &stats);
	assert_int_equal(stats.read_ops + stats.write_ops, done);
	assert_int_equal(stats.bytes_read + stats.bytes_written, done * 512);
	assert_int_equal(stats.errors + stats.malformed + stats.inflight, 0);
}

static void
test_hammer_flags(void **state)
{
	hammer(1ull << VIRTIO_RING_F_EVENT_IDX);
}

/* Completions out of order, and calls held back. */
static void
test_hammer_event_idx(void **state)
{
	st.disk.shuffle = true;
	assert_int_equal(vhost_set_coalescing(vhost_find("vm"), 200, 1, NULL), 0);
	hammer(0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_IN_MODES(test_idle_ring, setup, teardown),
		HAND_IN_MODES(test_busy_ring, setup, teardown),
		HAND_IN_MODES(test_messages_meanwhile, setup, teardown),
		HAND_IN_MODES(test_stopped_meanwhile, setup, teardown),
		HAND_IN_MODES(test_cannot_run_there, setup, teardown),
		HAND_IN_MODES(test_hammer_flags, setup, teardown),
		HAND_IN_MODES(test_hammer_event_idx, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
