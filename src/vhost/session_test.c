/* SPDX-License-Identifier: BSD-3-Clause */
/* Sessions as an honest front end sees them; what dishonest ones try is in hostile_test.c. */
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_config.h>
#include <linux/virtio_ring.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

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

static void
release_held(void *ctx)
{
	scripted_channel_kick(ctx);
}

/* The disk completes again, first what ring 0 waits for. */
static void
release(void)
{
	struct vhost_queue *q = &vhost_find("vm")->session->rings[0]->q;

	st.disk.hold = false;
	stage_call(&st, q->thread, release_held, q->ch);
}

static bool
is_readable(int fd)
{
	eventfd_t value;

	return eventfd_read(fd, &value) == 0;
}

static void
test_questions(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_CONFIG};
	struct virtio_blk_config config;
	uint64_t features;

	front_connect(&f, "vm");
	features = front_get(&f, VHOST_USER_GET_FEATURES);
	assert_true((features & 1ull << VIRTIO_F_VERSION_1) != 0);
	assert_true((features & 1ull << VIRTIO_BLK_F_FLUSH) != 0);
	assert_true((features & 1ull << VHOST_USER_F_PROTOCOL_FEATURES) != 0);
	assert_int_equal(front_get(&f, VHOST_USER_GET_QUEUE_NUM), 256);
	assert_int_equal(front_get(&f, VHOST_USER_GET_MAX_MEM_SLOTS), 509);
	/* More than our structure has: zeroes, and as many bytes as asked for. */
	memset(msg.config.data, 0xff, sizeof(msg.config.data));
	msg.config.size = 256;
	front_send(&f, &msg, NULL, 0);
	assert_true(front_reply(&f, &msg));
	assert_int_equal(msg.config.size, 256);
	memcpy(&config, msg.config.data, sizeof(config));
	assert_int_equal(config.capacity, STAGE_BLOCKS);
	assert_int_equal(config.blk_size, 512);
	assert_int_equal(msg.config.data[sizeof(config)], 0);
	assert_int_equal(msg.config.data[255], 0);
	/* A part. */
	msg = (struct vhost_user_msg){.type = VHOST_USER_GET_CONFIG, .config = {.offset = 20, .size = 4}};
	front_send(&f, &msg, NULL, 0);
	assert_true(front_reply(&f, &msg));
	assert_int_equal(msg.config.size, 4);
	assert_int_equal(msg.config.data[1], 2);
	/* Past the end: no. */
	msg = (struct vhost_user_msg){.type = VHOST_USER_GET_CONFIG, .config = {.offset = 255, .size = 2}};
	front_send(&f, &msg, NULL, 0);
	assert_true(front_reply(&f, &msg));
	assert_int_equal(msg.config.size, 0);
}

static void
test_reads(void **state)
{
	struct vhost_info info;

	front_start(&f, "vm");
	for (unsigned i = 0; i < 200; i++) {
		assert_true(front_read(&f, 0, i));
	}
	assert_true(is_readable(f.call[0]));
	stage_info(&st, "vm", &info);
	assert_true(info.has_session && info.session.started);
	assert_int_equal(info.session.queues_started, 1);
	assert_int_equal(info.session.memory_regions, 1);
	assert_true((info.session.negotiated_features & 1ull << VIRTIO_F_VERSION_1) != 0);
}

/* Any number of times, and nothing stays behind. */
static void
test_reconnects(void **state)
{
	unsigned fds = stage_count_fds();
	uint64_t mapped = stage_count_mapped();
	struct vhost_info info;

	for (unsigned i = 0; i < 30; i++) {
		memset(f.memory, 0, FRONT_RING_BYTES);
		f.avail[0] = 0;
		front_start(&f, "vm");
		assert_true(front_read(&f, 0, i));
		front_disconnect(&f);
		stage_quiet(&st);
		stage_info(&st, "vm", &info);
		assert_false(info.has_session);
	}
	assert_int_equal(stage_count_fds(), fds);
	assert_int_equal(stage_count_mapped(), mapped);
}

static void
test_disabled_ring_is_not_served(void **state)
{
	front_start(&f, "vm");
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 0, 0), 0);
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 1);
	assert_true(front_read(&f, 0, 7));
}

/* Some front ends enable first. */
static void
test_enable_before_everything(void **state)
{
	front_connect(&f, "vm");
	front_negotiate(&f, 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	f.size[0] = 16;
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 0, f.call[0]), 0);
	front_share(&f);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, 16), 0);
	front_ring_addr(&f, 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 0, f.kick[0]), 0);
	assert_true(front_read(&f, 0, 3));
}

static void
test_enabled_from_the_start_without_protocol_features(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_FEATURES, .u64 = 1ull << VIRTIO_F_VERSION_1};

	front_connect(&f, "vm");
	front_send(&f, &msg, NULL, 0);
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_MEM_TABLE};
	msg.memory.count = 1;
	msg.memory.regions[0] = (struct vhost_user_region){.gpa = FRONT_GPA, .size = FRONT_MEMORY, .uva = FRONT_UVA};
	front_send(&f, &msg, &f.memory_fd, 1);
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_VRING_NUM, .state = {.num = 32}};
	front_send(&f, &msg, NULL, 0);
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_VRING_ADDR,
		.addr = {.desc_user_addr = FRONT_UVA, .avail_user_addr = FRONT_UVA + 0x4000,
			 .used_user_addr = FRONT_UVA + 0x5000}};
	front_send(&f, &msg, NULL, 0);
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_VRING_KICK, .u64 = 0};
	front_send(&f, &msg, &f.kick[0], 1);
	f.size[0] = 32;
	assert_true(front_read(&f, 0, 3));
}

/* As SeaBIOS and then the kernel do. */
static void
test_stop_and_start(void **state)
{
	front_start(&f, "vm");
	for (unsigned i = 1; i <= 5; i++) {
		assert_true(front_read(&f, 0, i));
		assert_int_equal(front_ring_stop(&f, 0), i);
		/* Once more is harmless. */
		assert_int_equal(front_ring_stop(&f, 0), i);
		front_offer(&f, 0, 1);
		stage_quiet(&st);
		assert_int_equal(front_used(&f, 0), i);
		f.avail[0]--;
		front_ring_start(&f, 0, 64, i);
		stage_quiet(&st);
		/* What was offered while it was stopped is served now. */
		assert_int_equal(front_used(&f, 0), i + 1);
		f.avail[0]++;
		assert_int_equal(front_ring_stop(&f, 0), i + 1);
		f.avail[0] = (uint16_t)i;
		*(volatile uint16_t *)(void *)(f.memory + 0x4002) = (uint16_t)i;
		*(volatile uint16_t *)(void *)(f.memory + 0x5002) = (uint16_t)i;
		front_ring_start(&f, 0, 64, i);
	}
}

/* The guest's memory may be gone once the reply to GET_VRING_BASE is there. */
static void
test_stop_waits_for_what_is_in_flight(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_VRING_BASE};
	struct unix_fds fds = {.count = 0};
	char c;

	front_start(&f, "vm");
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	front_offer(&f, 0, 2);
	stage_quiet(&st);
	front_send(&f, &msg, NULL, 0);
	/* A message behind it is not looked at either. */
	msg = (struct vhost_user_msg){.type = VHOST_USER_GET_QUEUE_NUM};
	front_send(&f, &msg, NULL, 0);
	stage_quiet(&st);
	assert_int_equal(unix_recv(f.fd, &c, 1, &fds), -EAGAIN);
	assert_int_equal(front_used(&f, 0), 0);
	release();
	assert_int_equal(front_used(&f, 0), 2);
	assert_true(front_reply(&f, &msg));
	assert_int_equal(msg.type, VHOST_USER_GET_VRING_BASE);
	assert_int_equal(msg.state.num, 2);
	assert_true(front_reply(&f, &msg));
	assert_int_equal(msg.type, VHOST_USER_GET_QUEUE_NUM);
}

static void
test_disconnect_while_requests_are_in_flight(void **state)
{
	unsigned fds = stage_count_fds();
	uint64_t mapped = stage_count_mapped();
	struct vhost_info info;
	struct front next;

	front_start(&f, "vm");
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	front_disconnect(&f);
	stage_quiet(&st);
	stage_info(&st, "vm", &info);
	assert_true(info.has_session);
	/* The next one waits its turn. */
	front_open(&next, &st);
	front_connect(&next, "vm");
	assert_false(front_ended(&next));
	release();
	stage_quiet(&st);
	assert_int_equal(front_get(&next, VHOST_USER_GET_QUEUE_NUM), 256);
	front_close(&next);
	stage_quiet(&st);
	stage_info(&st, "vm", &info);
	assert_false(info.has_session);
	assert_int_equal(stage_count_fds(), fds);
	assert_int_equal(stage_count_mapped(), mapped);
}

/* The peer goes away while its message waits. */
static void
test_disconnect_while_a_message_waits(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_VRING_BASE};
	struct vhost_info info;

	front_start(&f, "vm");
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	front_send(&f, &msg, NULL, 0);
	stage_quiet(&st);
	assert_int_equal(vhost_find("vm")->session->state, SESSION_BUSY);
	front_disconnect(&f);
	stage_quiet(&st);
	assert_int_equal(vhost_find("vm")->session->state, SESSION_ENDING);
	release();
	stage_info(&st, "vm", &info);
	assert_false(info.has_session);
}

static void
test_second_front_end_waits(void **state)
{
	struct front second;

	front_open(&second, &st);
	front_start(&f, "vm");
	front_connect(&second, "vm");
	assert_false(front_ended(&second));
	assert_true(front_read(&f, 0, 1));
	front_disconnect(&f);
	front_negotiate(&second, 0);
	front_close(&second);
}

static void
test_kick_replaced_while_running(void **state)
{
	unsigned fds;

	front_start(&f, "vm");
	assert_true(front_read(&f, 0, 1));
	fds = stage_count_fds();
	for (unsigned i = 0; i < 20; i++) {
		int old = f.kick[0];

		f.kick[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 0, f.kick[0]), 0);
		close(old);
		assert_true(front_read(&f, 0, i));
	}
	assert_int_equal(stage_count_fds(), fds);
	/* Polled, without any descriptor; then with one again. */
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, VHOST_USER_VRING_NOFD, -1), 0);
	front_offer(&f, 0, 5);
	for (unsigned i = 0; i < 10000 && front_used(&f, 0) != f.avail[0]; i++) {
		stage_poll(&st);
		usleep(10);
	}
	assert_int_equal(front_used(&f, 0), f.avail[0]);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 0, f.kick[0]), 0);
	assert_true(front_read(&f, 0, 6));
}

static void
test_call_replaced_while_running(void **state)
{
	unsigned fds;
	int old;

	front_start(&f, "vm");
	assert_true(front_read(&f, 0, 1));
	fds = stage_count_fds();
	old = f.call[0];
	f.call[0] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 0, f.call[0]), 0);
	(void)is_readable(f.call[0]);
	(void)is_readable(old);
	/* Without EVENT_IDX every batch calls; with it, used_event says when: 0xffff wraps never
	 * here. */
	*(volatile uint16_t *)(void *)(f.memory + 0x4004 + 64 * 2) = (uint16_t)(f.avail[0]);
	assert_true(front_read(&f, 0, 2));
	assert_true(is_readable(f.call[0]));
	assert_false(is_readable(old));
	close(old);
	assert_int_equal(stage_count_fds(), fds);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, VHOST_USER_VRING_NOFD, -1), 0);
	assert_true(front_read(&f, 0, 3));
	assert_int_equal(stage_count_fds(), fds - 1);
}

static void
test_memory_replaced_while_running(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_MEM_TABLE, .flags = VHOST_USER_NEED_REPLY};
	uint64_t mapped;
	struct unix_fds fds = {.count = 0};
	char c;

	front_start(&f, "vm");
	mapped = stage_count_mapped();
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	msg.memory.count = 2;
	msg.memory.regions[0] =
		(struct vhost_user_region){.gpa = FRONT_GPA, .size = FRONT_MEMORY / 2, .uva = FRONT_UVA};
	msg.memory.regions[1] = (struct vhost_user_region){.gpa = FRONT_GPA + FRONT_MEMORY / 2, .size = FRONT_MEMORY / 2,
		.uva = FRONT_UVA + FRONT_MEMORY / 2, .mmap_offset = FRONT_MEMORY / 2};
	front_send(&f, &msg, (int[]){f.memory_fd, f.memory_fd}, 2);
	stage_quiet(&st);
	/* The request in flight holds the old mapping, and the answer. */
	assert_int_equal(unix_recv(f.fd, &c, 1, &fds), -EAGAIN);
	assert_int_equal(stage_count_mapped(), mapped + FRONT_MEMORY);
	release();
	assert_true(front_reply(&f, &msg));
	assert_int_equal(msg.u64, 0);
	assert_int_equal(front_used(&f, 0), 1);
	assert_int_equal(stage_count_mapped(), mapped);
	assert_true(front_read(&f, 0, 9));
}

static uint64_t
slot(enum vhost_user_request type, uint64_t from, uint64_t size)
{
	struct vhost_user_msg msg = {.type = type,
		.region = {.gpa = FRONT_GPA + from, .size = size, .uva = FRONT_UVA + from, .mmap_offset = from}};

	return front_ack(&f, &msg, &f.memory_fd, 1);
}

static void
test_memory_by_slots(void **state)
{
	const uint64_t half = FRONT_MEMORY / 2;
	uint64_t mapped = stage_count_mapped();

	front_connect(&f, "vm");
	front_negotiate(&f, 0);
	assert_int_equal(slot(VHOST_USER_ADD_MEM_REG, 0, half), 0);
	assert_int_equal(slot(VHOST_USER_ADD_MEM_REG, 0, half), 1);
	assert_int_equal(slot(VHOST_USER_ADD_MEM_REG, half, half), 0);
	front_ring_start(&f, 0, 64, 0);
	assert_true(front_read(&f, 0, 1));
	/* Without the memory the ring is in it cannot be served; it goes on when that is back. */
	assert_int_equal(slot(VHOST_USER_REM_MEM_REG, 0, half), 0);
	assert_int_equal(stage_count_mapped(), mapped + half);
	front_offer(&f, 0, 2);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 1);
	assert_int_equal(slot(VHOST_USER_ADD_MEM_REG, 0, half), 0);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 2);
	assert_true(front_read(&f, 0, 3));
	assert_int_equal(slot(VHOST_USER_REM_MEM_REG, 0, half - 1), 1);
	assert_int_equal(slot(VHOST_USER_REM_MEM_REG, half, half), 0);
	assert_int_equal(slot(VHOST_USER_REM_MEM_REG, half, half), 1);
	assert_int_equal(stage_count_mapped(), mapped + half);
}

static void
test_addresses_before_memory(void **state)
{
	front_connect(&f, "vm");
	front_negotiate(&f, 0);
	front_ring_start(&f, 0, 64, 0);
	front_offer(&f, 0, 2);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 0);
	front_share(&f);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 1);
	assert_true(front_read(&f, 0, 3));
}

/* Addresses that are set again on a running ring: the same ones change nothing, others are
 * followed. */
static void
test_addresses_changed_while_running(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_VRING_ADDR,
		.addr = {.desc_user_addr = FRONT_UVA, .avail_user_addr = FRONT_UVA + 0x4000,
			 .used_user_addr = FRONT_UVA + 0x6000}};

	front_start(&f, "vm");
	assert_true(front_read(&f, 0, 1));
	front_ring_addr(&f, 0);
	assert_true(front_read(&f, 0, 2));
	assert_int_equal(front_ack(&f, &msg, NULL, 0), 0);
	front_offer(&f, 0, 3);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 2);
	assert_int_equal(*(volatile uint16_t *)(void *)(f.memory + 0x6002), 3);
}

static void
resize(void *ctx)
{
	scripted_bdev_resize(&st.disk, *(uint64_t *)ctx);
}

static void
test_resize_is_announced(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_CONFIG, .config = {.size = 8}};
	struct unix_fds fds = {.count = 0};
	uint64_t blocks = STAGE_BLOCKS + 8, capacity;
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	int pair[2];
	ssize_t n;

	front_start(&f, "vm");
	/* Nobody is told who did not ask. */
	stage_call(&st, st.control, resize, &blocks);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_BACKEND_REQ_FD};
	assert_int_equal(front_ack(&f, &msg, NULL, 0), 1);
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_BACKEND_REQ_FD};
	assert_int_equal(front_ack(&f, &msg, &pair[1], 1), 0);
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_BACKEND_REQ_FD};
	assert_int_equal(front_ack(&f, &msg, &pair[1], 1), 0);
	close(pair[1]);
	blocks += 8;
	stage_call(&st, st.control, resize, &blocks);
	n = unix_recv(pair[0], buf, sizeof(buf), &fds);
	assert_int_equal(n, VHOST_USER_HEADER_BYTES);
	assert_int_equal(vhost_msg_decode(VHOST_MSG_BACKEND_REQUEST, buf, (size_t)n, &msg, NULL), 0);
	assert_int_equal(msg.type, VHOST_USER_BACKEND_CONFIG_CHANGE_MSG);
	msg = (struct vhost_user_msg){.type = VHOST_USER_GET_CONFIG, .config = {.size = 8}};
	front_send(&f, &msg, NULL, 0);
	assert_true(front_reply(&f, &msg));
	memcpy(&capacity, msg.config.data, 8);
	assert_int_equal(capacity, blocks);
	/* A front end that closed that channel gets no more; the session is not touched by it. */
	close(pair[0]);
	blocks += 8;
	stage_call(&st, st.control, resize, &blocks);
	assert_true(front_read(&f, 0, 1));
}

static void
test_reset_device(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_RESET_DEVICE};

	front_start(&f, "vm");
	assert_true(front_read(&f, 0, 1));
	assert_int_equal(front_ack(&f, &msg, NULL, 0), 0);
	front_offer(&f, 0, 2);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 1);
	/* Ready to be set up again; memory is still there. */
	memset(f.memory, 0, FRONT_RING_BYTES);
	f.avail[0] = 0;
	assert_int_equal(front_u64(&f, VHOST_USER_SET_FEATURES,
				   front_get(&f, VHOST_USER_GET_FEATURES), -1), 0);
	front_ring_start(&f, 0, 32, 0);
	assert_true(front_read(&f, 0, 3));
}

static void
test_status(void **state)
{
	front_start(&f, "vm");
	assert_int_equal(front_get(&f, VHOST_USER_GET_STATUS), 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_STATUS, VIRTIO_CONFIG_S_DRIVER_OK, -1), 0);
	assert_int_equal(front_get(&f, VHOST_USER_GET_STATUS), VIRTIO_CONFIG_S_DRIVER_OK);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_STATUS, 256, -1), 1);
	assert_int_equal(front_get(&f, VHOST_USER_GET_STATUS), VIRTIO_CONFIG_S_DRIVER_OK);
	assert_true(front_read(&f, 0, 1));
	/* 0 resets the device. */
	assert_int_equal(front_u64(&f, VHOST_USER_SET_STATUS, 0, -1), 0);
	assert_int_equal(front_get(&f, VHOST_USER_GET_STATUS), 0);
	front_offer(&f, 0, 2);
	stage_quiet(&st);
	assert_int_equal(front_used(&f, 0), 1);
}

static void
test_several_rings(void **state)
{
	struct vhost_session *s;
	unsigned on_first = 0;

	front_start(&f, "vm");
	for (unsigned i = 1; i < FRONT_RINGS; i++) {
		front_ring_start(&f, i, 64, 0);
	}
	for (unsigned i = 0; i < 20; i++) {
		assert_true(front_read(&f, i % FRONT_RINGS, i));
	}
	s = vhost_find("vm")->session;
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		on_first += s->rings[i]->q.thread == st.io[0];
	}
	assert_int_equal(on_first, FRONT_RINGS / STAGE_IO_THREADS);
	/* A place that became free is taken first. */
	front_ring_stop(&f, 1);
	front_ring_start(&f, 1, 64, f.avail[1]);
	on_first = 0;
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		on_first += s->rings[i]->q.thread == st.io[0];
	}
	assert_int_equal(on_first, FRONT_RINGS / STAGE_IO_THREADS);
	assert_true(front_read(&f, 1, 5));
}

static void
test_last_ring_of_all(void **state)
{
	front_connect(&f, "vm");
	front_negotiate(&f, 0);
	front_share(&f);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 255, 64), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 255, 1), 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 255, f.call[0]), 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 255, f.kick[0]), 0);
	front_ring_start(&f, 0, 64, 0);
	assert_true(front_read(&f, 0, 1));
}

static void
test_mask_places_all_on_one_thread(void **state)
{
	struct vhost_session *s;

	assert_int_equal(stage_create(&st, "masked", "0x2", false, NULL), 0);
	front_connect(&f, "masked");
	front_negotiate(&f, 0);
	front_share(&f);
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		front_ring_start(&f, i, 64, 0);
	}
	s = vhost_find("masked")->session;
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		assert_ptr_equal(s->rings[i]->q.thread, st.io[1]);
		assert_true(front_read(&f, i, i));
	}
}

static void
remove_disk(void *ctx)
{
	scripted_bdev_remove(&st.disk, NULL, NULL);
}

static void
add_disk(void *ctx)
{
	scripted_bdev_init(&st.disk, "disk0", STAGE_BLOCKS, 512);
	assert_int_equal(scripted_bdev_add(&st.disk, NULL), 0);
}

static void
deleted(void *ctx, int status)
{
	assert_int_equal(status, 0);
	*(bool *)ctx = true;
}

static void
delete_vm(void *ctx)
{
	assert_int_equal(vhost_delete("vm", deleted, ctx, NULL), 0);
	assert_int_equal(vhost_delete("vm", deleted, ctx, NULL), -ENODEV);
}

static void
test_removed_bdev_ends_the_session(void **state)
{
	struct vhost_info info;
	char path[160];

	front_start(&f, "vm");
	assert_true(front_read(&f, 0, 1));
	stage_call(&st, st.control, remove_disk, NULL);
	assert_true(front_ended(&f));
	assert_true(st.disk.destructed);
	stage_info(&st, "vm", &info);
	assert_string_equal(info.bdev_name, "");
	assert_false(info.has_session);
	/* And nobody else is let in to a disk without size. */
	snprintf(path, sizeof(path), "%s/vm", st.dir);
	assert_int_equal(unix_connect(path, NULL), -ENOENT);
	assert_int_equal(stage_delete(&st, "vm"), 0);
	scripted_bdev_release(&st.disk);
	stage_call(&st, st.control, add_disk, NULL);
}

static void
test_deleted_while_in_use(void **state)
{
	struct vhost_queue *q;
	bool gone = false;

	front_start(&f, "vm");
	st.disk.hold = true;
	front_offer(&f, 0, 1);
	stage_quiet(&st);
	q = &vhost_find("vm")->session->rings[0]->q;
	stage_call(&st, st.control, delete_vm, &gone);
	assert_false(gone);
	assert_false(front_ended(&f));
	st.disk.hold = false;
	stage_call(&st, q->thread, release_held, q->ch);
	assert_true(gone);
	assert_int_equal(front_used(&f, 0), 1);
	assert_true(front_ended(&f));
	/* The name is free again. */
	assert_int_equal(stage_create(&st, "vm", NULL, true, NULL), 0);
	front_disconnect(&f);
	front_connect(&f, "vm");
	assert_true((front_get(&f, VHOST_USER_GET_FEATURES) & 1ull << VIRTIO_BLK_F_RO) != 0);
}

/* What another process would need is there before the answer is. */
static void
test_state_is_written(void **state)
{
	struct state_session *saved;

	front_start(&f, "vm");
	saved = mmap(NULL, STATE_SLOT_BYTES, PROT_READ, MAP_SHARED, state_fd(), 0);
	assert_true(saved != MAP_FAILED);
	assert_int_equal(saved->magic, STATE_MAGIC);
	assert_string_equal(saved->controller, "vm");
	assert_int_equal(saved->pending, 0);
	assert_true((saved->features & 1ull << VIRTIO_F_VERSION_1) != 0);
	assert_true((saved->protocol_features & 1ull << VHOST_USER_PROTOCOL_F_CONFIG) != 0);
	assert_int_equal(saved->ring_count, 1);
	assert_int_equal(saved->near_rings[0].size, 64);
	assert_int_equal(saved->near_rings[0].desc, FRONT_UVA);
	assert_int_equal(saved->near_rings[0].flags,
			 STATE_RING_ADDR | STATE_RING_KICK | STATE_RING_CALL | STATE_RING_ENABLED);
	assert_int_equal(saved->region_count, 1);
	assert_int_equal(saved->near_regions[0].gpa, FRONT_GPA);
	assert_true(front_read(&f, 0, 1));
	front_ring_stop(&f, 0);
	assert_int_equal(saved->near_rings[0].base, 1);
	assert_int_equal(saved->near_rings[0].flags, STATE_RING_ADDR | STATE_RING_CALL | STATE_RING_ENABLED);
	front_disconnect(&f);
	stage_quiet(&st);
	assert_int_equal(saved->magic, 0);
	munmap(saved, STATE_SLOT_BYTES);
}

static void
test_many_messages_at_once(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_QUEUE_NUM};

	front_connect(&f, "vm");
	for (unsigned i = 0; i < 200; i++) {
		front_send(&f, &msg, NULL, 0);
	}
	for (unsigned i = 0; i < 200; i++) {
		struct vhost_user_msg reply;

		assert_true(front_reply(&f, &reply));
		assert_int_equal(reply.u64, 256);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		HAND_IN_MODES(test_questions, setup, teardown),
		HAND_IN_MODES(test_reads, setup, teardown),
		HAND_IN_MODES(test_reconnects, setup, teardown),
		HAND_IN_MODES(test_disabled_ring_is_not_served, setup, teardown),
		HAND_IN_MODES(test_enable_before_everything, setup, teardown),
		HAND_IN_MODES(test_enabled_from_the_start_without_protocol_features, setup, teardown),
		HAND_IN_MODES(test_stop_and_start, setup, teardown),
		HAND_IN_MODES(test_stop_waits_for_what_is_in_flight, setup, teardown),
		HAND_IN_MODES(test_disconnect_while_requests_are_in_flight, setup, teardown),
		HAND_IN_MODES(test_disconnect_while_a_message_waits, setup, teardown),
		HAND_IN_MODES(test_second_front_end_waits, setup, teardown),
		HAND_IN_MODES(test_kick_replaced_while_running, setup, teardown),
		HAND_IN_MODES(test_call_replaced_while_running, setup, teardown),
		HAND_IN_MODES(test_memory_replaced_while_running, setup, teardown),
		HAND_IN_MODES(test_memory_by_slots, setup, teardown),
		HAND_IN_MODES(test_addresses_before_memory, setup, teardown),
		HAND_IN_MODES(test_addresses_changed_while_running, setup, teardown),
		HAND_IN_MODES(test_resize_is_announced, setup, teardown),
		HAND_IN_MODES(test_reset_device, setup, teardown),
		HAND_IN_MODES(test_status, setup, teardown),
		HAND_IN_MODES(test_several_rings, setup, teardown),
		HAND_IN_MODES(test_last_ring_of_all, setup, teardown),
		HAND_IN_MODES(test_mask_places_all_on_one_thread, setup, teardown),
		HAND_IN_MODES(test_removed_bdev_ends_the_session, setup, teardown),
		HAND_IN_MODES(test_deleted_while_in_use, setup, teardown),
		HAND_IN_MODES(test_state_is_written, setup, teardown),
		HAND_IN_MODES(test_many_messages_at_once, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
