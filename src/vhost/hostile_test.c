/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a front end must not get away with: each test is one thing that has hurt some vhost-user
 * back end, or would. After each of them a neighbour's session still works, and nothing is left of
 * the culprit's: neither descriptors nor mappings.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/vhost_types.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "testkit/hand.h"
#include "testkit/vhost_stage.h"
#include "vhost/session.h"

static struct stage st;
static struct front f, neighbour;
static unsigned fds_before;
static uint64_t mapped_before;

static int
setup(void **state)
{
	stage_start(&st, REACTOR_INTERRUPT);
	assert_int_equal(stage_create(&st, "vm", NULL, false, NULL), 0);
	assert_int_equal(stage_create(&st, "neighbour", NULL, false, NULL), 0);
	front_open(&f, &st);
	front_open(&neighbour, &st);
	front_start(&neighbour, "neighbour");
	assert_true(front_read(&neighbour, 0, 1));
	fds_before = stage_count_fds();
	mapped_before = stage_count_mapped();
	return 0;
}

static int
teardown(void **state)
{
	struct vhost_info info;

	front_disconnect(&f);
	stage_quiet(&st);
	stage_info(&st, "vm", &info);
	assert_false(info.has_session);
	assert_int_equal(stage_count_fds(), fds_before);
	assert_int_equal(stage_count_mapped(), mapped_before);
	assert_true(front_read(&neighbour, 0, 2));
	/* The culprit may come again, and behave. */
	assert_int_equal(ftruncate(f.memory_fd, FRONT_MEMORY), 0);
	memset(f.memory, 0, FRONT_RING_BYTES);
	memset(f.avail, 0, sizeof(f.avail));
	front_start(&f, "vm");
	assert_true(front_read(&f, 0, 3));
	front_close(&f);
	front_close(&neighbour);
	stage_stop(&st);
	return 0;
}

static void
begin(void)
{
	/* The test framework takes the signal for itself at the start of each function that it
	 * calls. */
	assert_int_equal(memmap_guard(), 0);
	front_connect(&f, "vm");
	front_negotiate(&f, 0);
}

static uint64_t
region(uint64_t gpa, uint64_t size, uint64_t uva, uint64_t offset)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_ADD_MEM_REG,
		.region = {.gpa = gpa, .size = size, .uva = uva, .mmap_offset = offset}};

	return front_ack(&f, &msg, &f.memory_fd, 1);
}

static uint64_t
addresses(unsigned index, uint64_t desc, uint64_t avail, uint64_t used, unsigned flags)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_VRING_ADDR,
		.addr = {.index = index, .flags = flags, .desc_user_addr = desc, .avail_user_addr = avail,
			 .used_user_addr = used}};

	return front_ack(&f, &msg, NULL, 0);
}

static void
raw(uint32_t type, uint32_t flags, uint32_t size, const void *payload, uint32_t bytes)
{
	uint8_t buf[VHOST_USER_MESSAGE_MAX + 64];
	uint32_t header[3] = {type, flags, size};

	memcpy(buf, header, sizeof(header));
	if (bytes > 0) {
		memcpy(buf + sizeof(header), payload, bytes);
	}
	assert_int_equal(unix_send(f.fd, buf, sizeof(header) + bytes, NULL, 0), 0);
}

/* ---- Repeating what allocates (CVE-2019-14818, CVE-2022-0669) ---- */

static void
test_repeated_vring_num(void **state)
{
	begin();
	for (unsigned i = 0; i < 2000; i++) {
		assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, i % 4, 1u << i % 16), 0);
	}
	assert_int_equal(stage_count_fds(), fds_before + 2);
}

static void
test_repeated_descriptors(void **state)
{
	unsigned fds = 0;

	begin();
	for (unsigned i = 0; i < 500; i++) {
		assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 1, f.kick[1]), 0);
		assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 1, f.call[1]), 0);
		assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_ERR, 1, f.call[1]), 0);
		fds = fds == 0 ? stage_count_fds() : fds;
		assert_int_equal(stage_count_fds(), fds);
	}
	/* On a ring that runs, too. */
	front_share(&f);
	front_ring_start(&f, 0, 64, 0);
	fds = stage_count_fds();
	for (unsigned i = 0; i < 200; i++) {
		assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 0, f.kick[0]), 0);
		assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 0, f.call[0]), 0);
	}
	assert_int_equal(stage_count_fds(), fds);
	assert_true(front_read(&f, 0, 1));
}

static void
test_repeated_memory_tables(void **state)
{
	uint64_t mapped;
	unsigned fds;

	begin();
	front_share(&f);
	front_ring_start(&f, 0, 64, 0);
	mapped = stage_count_mapped();
	fds = stage_count_fds();
	for (unsigned i = 0; i < 300; i++) {
		front_share(&f);
	}
	assert_int_equal(stage_count_mapped(), mapped);
	assert_int_equal(stage_count_fds(), fds);
	assert_true(front_read(&f, 0, 1));
}

static void
test_repeated_backend_channels(void **state)
{
	unsigned fds = 0;

	begin();
	for (unsigned i = 0; i < 300; i++) {
		struct vhost_user_msg msg = {.type = VHOST_USER_SET_BACKEND_REQ_FD};

		assert_int_equal(front_ack(&f, &msg, &f.kick[0], 1), 0);
		fds = fds == 0 ? stage_count_fds() : fds;
	}
	assert_int_equal(stage_count_fds(), fds);
}

/* ---- Descriptors where none belong ---- */

static void
test_descriptors_with_a_message_that_has_none(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_VRING_NUM, .flags = VHOST_USER_NEED_REPLY};

	begin();
	msg.state = (struct vhost_vring_state){.index = 0, .num = 64};
	front_send(&f, &msg, f.kick, 2);
	assert_true(front_ended(&f));
}

static void
test_two_descriptors_where_one_belongs(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_VRING_KICK};

	begin();
	front_send(&f, &msg, f.kick, 2);
	assert_true(front_ended(&f));
}

/* More than any message may have: the kernel delivers them all the same. */
static void
test_far_too_many_descriptors(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_MEM_TABLE};
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * 250)];
	} control = {0};
	struct iovec iov = {.iov_base = buf};
	struct msghdr hdr = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes,
		.msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&hdr);

	begin();
	msg.memory.count = 8;
	iov.iov_len = vhost_msg_encode(VHOST_MSG_REQUEST, &msg, buf);
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(sizeof(int) * 250);
	for (unsigned i = 0; i < 250; i++) {
		memcpy(CMSG_DATA(c) + i * sizeof(int), &f.memory_fd, sizeof(int));
	}
	assert_int_equal(sendmsg(f.fd, &hdr, 0), iov.iov_len);
	assert_true(front_ended(&f));
}

static void
test_counts_that_disagree(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_MEM_TABLE};

	begin();
	msg.memory.count = 2;
	msg.memory.regions[0] = (struct vhost_user_region){.gpa = 0, .size = 4096};
	msg.memory.regions[1] = (struct vhost_user_region){.gpa = 8192, .size = 4096};
	assert_int_equal(front_ack(&f, &msg, &f.memory_fd, 1), 1);
	assert_int_equal(front_ack(&f, &msg, NULL, 0), 1);
	msg.memory.count = 0;
	assert_int_equal(front_ack(&f, &msg, &f.memory_fd, 1), 1);
	assert_int_equal(front_ack(&f, &msg, NULL, 0), 0);
	msg = (struct vhost_user_msg){.type = VHOST_USER_ADD_MEM_REG, .region = {.size = 4096}};
	assert_int_equal(front_ack(&f, &msg, NULL, 0), 1);
	assert_int_equal(stage_count_mapped(), mapped_before);
}

/* A kick or call of another kind could make an I/O thread wait for whoever serves it. */
static void
test_kicks_that_are_no_eventfds(void **state)
{
	int pipes[2], null = open("/dev/null", O_RDWR | O_CLOEXEC);
	int epoll = epoll_create1(EPOLL_CLOEXEC); /* an anonymous inode as an eventfd is */

	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	begin();
	front_share(&f);
	for (int type = VHOST_USER_SET_VRING_KICK; type <= VHOST_USER_SET_VRING_ERR; type++) {
		assert_int_equal(front_u64(&f, (enum vhost_user_request)type, 0, f.memory_fd), 1);
		assert_int_equal(front_u64(&f, (enum vhost_user_request)type, 0, pipes[1]), 1);
		assert_int_equal(front_u64(&f, (enum vhost_user_request)type, 0, null), 1);
		assert_int_equal(front_u64(&f, (enum vhost_user_request)type, 0, epoll), 1);
		assert_int_equal(front_u64(&f, (enum vhost_user_request)type, 0, f.fd), 1);
		assert_int_equal(front_u64(&f, (enum vhost_user_request)type, 0, -1), 1);
		assert_int_equal(front_u64(&f, (enum vhost_user_request)type, VHOST_USER_VRING_NOFD, f.kick[0]), 1);
		assert_int_equal(front_u64(&f, (enum vhost_user_request)type, 0x1000, f.kick[0]), 1);
	}
	close(pipes[0]);
	close(pipes[1]);
	close(null);
	close(epoll);
}

/* A full eventfd must not make the I/O thread wait. */
static void
test_call_that_would_block(void **state)
{
	int call = eventfd(0, EFD_CLOEXEC);

	assert_int_equal(eventfd_write(call, UINT64_MAX - 1), 0);
	begin();
	front_share(&f);
	front_ring_start(&f, 0, 64, 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 0, call), 0);
	assert_true(front_read(&f, 0, 1));
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 0, f.call[0]), 0);
	close(call);
}

/* The open file is shared: what was set on it when it came can be taken back. Who waited here would be ended by the alarm. */
static void
test_call_that_blocks_later(void **state)
{
	int call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

	alarm(10);
	assert_int_equal(memmap_guard(), 0);
	front_connect(&f, "vm");
	/* Then each request has its call. */
	front_negotiate(&f, 1ull << VIRTIO_RING_F_EVENT_IDX);
	front_share(&f);
	front_ring_start(&f, 0, 64, 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 0, call), 0);
	assert_true(front_read(&f, 0, 1));
	assert_int_equal(fcntl(call, F_SETFL, 0), 0);
	/* As much as fits, whatever is in it. */
	for (uint64_t step = UINT64_C(1) << 63; step > 0; step >>= 1) {
		struct pollfd p = {.fd = call, .events = POLLOUT};

		assert_int_equal(fcntl(call, F_SETFL, O_NONBLOCK), 0);
		(void)eventfd_write(call, step);
		assert_int_equal(fcntl(call, F_SETFL, 0), 0);
		if (poll(&p, 1, 0) == 0) {
			break;
		}
	}
	assert_true(front_read(&f, 0, 2));
	assert_true(front_read(&neighbour, 0, 3));
	/* Also the one call that is made for a new descriptor. */
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 0, call), 0);
	assert_int_equal(fcntl(call, F_SETFL, 0), 0);
	assert_true(front_read(&f, 0, 3));
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_CALL, 0, f.call[0]), 0);
	close(call);
	alarm(0);
}

/* ---- Memory ---- */

static void
test_wrong_regions(void **state)
{
	begin();
	assert_int_equal(region(0, 4096, 0, FRONT_MEMORY), 1);
	assert_int_equal(region(0, FRONT_MEMORY + 1, 0, 0), 1);
	assert_int_equal(region(0, 0, 0, 0), 1);
	assert_int_equal(region(UINT64_MAX - 4095, 8192, 0, 0), 1);
	assert_int_equal(region(0, 8192, UINT64_MAX - 4095, 0), 1);
	assert_int_equal(region(0, 8192, 0, UINT64_MAX - 4095), 1);
	assert_int_equal(region(0, UINT64_MAX, 0, 1), 1);
	assert_int_equal(region(0, 8192, 0, 0), 0);
	assert_int_equal(region(4096, 8192, 0, 0), 1);
	assert_int_equal(stage_count_mapped(), mapped_before + 8192);
}

/* A table that is wrong in its last region changes nothing. */
static void
test_half_a_table(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_MEM_TABLE};

	begin();
	front_share(&f);
	front_ring_start(&f, 0, 64, 0);
	msg.memory.count = 2;
	msg.memory.regions[0] = (struct vhost_user_region){.gpa = 0, .size = 4096};
	msg.memory.regions[1] = (struct vhost_user_region){.gpa = 100, .size = 4096};
	assert_int_equal(front_ack(&f, &msg, (int[]){f.memory_fd, f.memory_fd}, 2), 1);
	assert_true(front_read(&f, 0, 1));
	assert_int_equal(stage_count_mapped(), mapped_before + FRONT_MEMORY);
}

/* Addresses that touch in the VMM are mapped apart here: a ring must lie in one region. */
static void
test_ring_across_two_regions(void **state)
{
	begin();
	assert_int_equal(region(FRONT_GPA, 0x5000, FRONT_UVA, 0), 0);
	assert_int_equal(region(FRONT_GPA + 0x5000, FRONT_MEMORY - 0x5000, FRONT_UVA + 0x5000, 0x5000), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	assert_int_equal(addresses(0, FRONT_UVA, FRONT_UVA + 0x4ff0, FRONT_UVA + 0x6000, 0), 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 0, f.kick[0]), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	assert_false(vhost_find("vm")->session->rings[0]->running);
	/* Put right it is served. */
	front_ring_addr(&f, 0);
	f.size[0] = 64;
	assert_true(front_read(&f, 0, 1));
}

static void
test_ring_past_the_end(void **state)
{
	const uint64_t end = FRONT_UVA + FRONT_MEMORY;

	begin();
	front_share(&f);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 0, f.kick[0]), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(addresses(0, end - 1024 + 16, FRONT_UVA, FRONT_UVA + 0x1000, 0), 0);
	assert_false(vhost_find("vm")->session->rings[0]->running);
	assert_int_equal(addresses(0, FRONT_UVA, end - 128, FRONT_UVA + 0x1000, 0), 0);
	assert_false(vhost_find("vm")->session->rings[0]->running);
	assert_int_equal(addresses(0, FRONT_UVA, FRONT_UVA + 0x1000, end - 512, 0), 0);
	assert_false(vhost_find("vm")->session->rings[0]->running);
	assert_int_equal(addresses(0, FRONT_UVA, FRONT_UVA + 0x1000, UINT64_MAX - 3, 0), 0);
	assert_false(vhost_find("vm")->session->rings[0]->running);
	assert_int_equal(addresses(0, end - 1024, FRONT_UVA, FRONT_UVA + 0x1000, 0), 0);
	assert_true(vhost_find("vm")->session->rings[0]->running);
}

/* CVE-2026-86565: the ring grows after its addresses were checked. */
static void
test_size_changed_after_addresses(void **state)
{
	const uint64_t end = FRONT_UVA + FRONT_MEMORY;

	begin();
	front_share(&f);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	assert_int_equal(addresses(0, end - 1024, FRONT_UVA, FRONT_UVA + 0x1000, 0), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, 128), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 0, f.kick[0]), 0);
	assert_false(vhost_find("vm")->session->rings[0]->running);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	assert_true(vhost_find("vm")->session->rings[0]->running);
	/* While it runs it has the size it has. */
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, 128), 1);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_BASE, 0, 7), 1);
}

static void
test_wrong_rings(void **state)
{
	static const unsigned sizes[] = {0, 3, 65, 32769, 65536, 1u << 31, UINT32_MAX};

	begin();
	front_share(&f);
	for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
		assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, sizes[i]), 1);
	}
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 256, 64), 1);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, UINT32_MAX, 64), 1);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_BASE, 0, 65536), 1);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 0, 2), 1);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 300, 1), 1);
	assert_int_equal(addresses(0, FRONT_UVA + 8, FRONT_UVA, FRONT_UVA, 0), 1);
	assert_int_equal(addresses(0, FRONT_UVA, FRONT_UVA + 1, FRONT_UVA, 0), 1);
	assert_int_equal(addresses(0, FRONT_UVA, FRONT_UVA, FRONT_UVA + 2, 0), 1);
	assert_int_equal(addresses(256, FRONT_UVA, FRONT_UVA, FRONT_UVA, 0), 1);
	assert_int_equal(addresses(0, FRONT_UVA, FRONT_UVA, FRONT_UVA, 1u << VHOST_VRING_F_LOG), 1);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_FEATURES, UINT64_MAX, -1), 1);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_PROTOCOL_FEATURES, UINT64_MAX, -1), 1);
}

/* An offset in the file that is no page's: aligned for the VMM, not for us. */
static void
test_ring_misaligned_by_its_region(void **state)
{
	begin();
	assert_int_equal(region(FRONT_GPA, FRONT_MEMORY - 8, FRONT_UVA, 8), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_NUM, 0, 64), 0);
	assert_int_equal(addresses(0, FRONT_UVA, FRONT_UVA + 0x4000, FRONT_UVA + 0x5000, 0), 0);
	assert_int_equal(front_u64(&f, VHOST_USER_SET_VRING_KICK, 0, f.kick[0]), 0);
	assert_int_equal(front_state(&f, VHOST_USER_SET_VRING_ENABLE, 0, 1), 0);
	assert_false(vhost_find("vm")->session->rings[0]->running);
}

/* The memory file is truncated under a running ring: SIGBUS is that session's own affair. */
static void
test_truncated_memory_file(void **state)
{
	begin();
	front_share(&f);
	front_ring_start(&f, 0, 64, 0);
	assert_true(front_read(&f, 0, 1));
	assert_int_equal(ftruncate(f.memory_fd, 0), 0);
	assert_int_equal(eventfd_write(f.kick[0], 1), 0);
	assert_true(front_ended(&f));
}

/* The ring is there, its buffers are not. */
static void
test_truncated_buffers(void **state)
{
	begin();
	front_share(&f);
	front_ring_start(&f, 0, 64, 0);
	assert_true(front_read(&f, 0, 1));
	assert_int_equal(ftruncate(f.memory_fd, FRONT_DATA_AT), 0);
	/* Not front_read(), which would touch them itself. */
	{
		uint8_t *page = mmap(NULL, 0x8000, PROT_READ | PROT_WRITE, MAP_SHARED, f.memory_fd, 0);
		struct vring_desc *desc = (struct vring_desc *)(void *)page;
		struct vring_avail *avail = (struct vring_avail *)(void *)(page + 0x4000);
		uint32_t sector[4] = {VIRTIO_BLK_T_IN};

		memcpy(page + 0x7100, sector, sizeof(sector));
		desc[30] = (struct vring_desc){FRONT_GPA + 0x7100, 16, VRING_DESC_F_NEXT, 31};
		desc[31] = (struct vring_desc){
			FRONT_GPA + FRONT_DATA_AT, 512, VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, 32};
		desc[32] = (struct vring_desc){FRONT_GPA + 0x7900, 1, VRING_DESC_F_WRITE, 0};
		avail->ring[1] = 30;
		__atomic_store_n(&avail->idx, 2, __ATOMIC_RELEASE);
		munmap(page, 0x8000);
	}
	assert_int_equal(eventfd_write(f.kick[0], 1), 0);
	stage_quiet(&st);
	/* It is noticed with the next request at the latest. */
	assert_int_equal(eventfd_write(f.kick[0], 1), 0);
	assert_true(front_ended(&f));
}

/* ---- Broken rings ---- */

static void
test_available_index_far_ahead(void **state)
{
	begin();
	front_share(&f);
	front_ring_start(&f, 0, 64, 0);
	*(volatile uint16_t *)(void *)(f.memory + 0x4002) = 1000;
	assert_int_equal(eventfd_write(f.kick[0], 1), 0);
	assert_true(front_ended(&f));
}

/* ---- Bytes ---- */

static void
test_wrong_headers(void **state)
{
	static const struct {
		uint32_t type, flags, size;
	} headers[] = {
		{VHOST_USER_GET_FEATURES, 0, 0},
		{VHOST_USER_GET_FEATURES, 2, 0},
		{VHOST_USER_GET_FEATURES, 5, 0},
		{VHOST_USER_GET_FEATURES, 1, VHOST_USER_PAYLOAD_MAX + 1},
		{VHOST_USER_GET_FEATURES, 1, UINT32_MAX},
		{4711, 1, UINT32_MAX},
		{UINT32_MAX, 0, 0},
	};

	for (unsigned i = 0; i < ARRAY_SIZE(headers); i++) {
		front_connect(&f, "vm");
		raw(headers[i].type, headers[i].flags, headers[i].size, NULL, 0);
		assert_true(front_ended(&f));
		front_disconnect(&f);
	}
	begin();
}

static void
test_wrong_payload_sizes(void **state)
{
	static const uint8_t zeroes[VHOST_USER_PAYLOAD_MAX];

	for (uint32_t type = 1; type <= 40; type++) {
		front_connect(&f, "vm");
		raw(type, 1, 1999, zeroes, 1999);
		stage_quiet(&st);
		front_disconnect(&f);
	}
	begin();
}

static void
test_one_byte_at_a_time(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_QUEUE_NUM}, reply;
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	size_t len = vhost_msg_encode(VHOST_MSG_REQUEST, &msg, buf);

	begin();
	for (size_t i = 0; i < len; i++) {
		assert_int_equal(unix_send(f.fd, buf + i, 1, NULL, 0), 0);
		stage_quiet(&st);
	}
	assert_true(front_reply(&f, &reply));
	assert_int_equal(reply.u64, 256);
}

/* Header and descriptor first, payload later: legal, if odd. */
static void
test_descriptor_before_payload(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_VRING_CALL, .flags = VHOST_USER_NEED_REPLY}, reply;
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	size_t len = vhost_msg_encode(VHOST_MSG_REQUEST, &msg, buf);

	begin();
	assert_int_equal(unix_send(f.fd, buf, 12, &f.call[0], 1), 0);
	stage_quiet(&st);
	assert_int_equal(unix_send(f.fd, buf + 12, len - 12, NULL, 0), 0);
	assert_true(front_reply(&f, &reply));
	assert_int_equal(reply.u64, 0);
}

/* Descriptors in the middle of a header would make it unreadable for ever. */
static void
test_descriptor_inside_the_header(void **state)
{
	uint32_t header[3] = {VHOST_USER_GET_FEATURES, 1, 0};

	begin();
	assert_int_equal(unix_send(f.fd, header, 4, &f.call[0], 1), 0);
	stage_quiet(&st);
	assert_int_equal(unix_send(f.fd, header + 1, 8, NULL, 0), 0);
	assert_true(front_ended(&f));
}

static void
test_disconnect_inside_a_message(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_VRING_CALL};
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	size_t len = vhost_msg_encode(VHOST_MSG_REQUEST, &msg, buf);
	struct vhost_info info;

	for (size_t i = 1; i < len; i++) {
		front_connect(&f, "vm");
		assert_int_equal(unix_send(f.fd, buf, i, &f.call[0], 1), 0);
		stage_quiet(&st);
		front_disconnect(&f);
		stage_quiet(&st);
		stage_info(&st, "vm", &info);
		assert_false(info.has_session);
	}
	assert_int_equal(stage_count_fds(), fds_before);
	begin();
}

static void
test_unknown_messages(void **state)
{
	struct vhost_user_msg reply;

	begin();
	/* Whoever asks is told; whoever does not is not. Descriptors that came along are closed. */
	raw(4711, 1 | VHOST_USER_NEED_REPLY, 3, "abc", 3);
	assert_true(front_reply(&f, &reply));
	assert_int_equal(reply.type, 4711);
	assert_int_equal(reply.u64, 1);
	raw(VHOST_USER_SET_INFLIGHT_FD, 1 | VHOST_USER_NEED_REPLY, 3, "abc", 3);
	assert_true(front_reply(&f, &reply));
	assert_int_equal(reply.u64, 1);
	for (unsigned i = 0; i < 100; i++) {
		uint32_t header[3] = {100 + i, 1, 0};

		assert_int_equal(unix_send(f.fd, header, sizeof(header), f.kick, FRONT_RINGS), 0);
	}
	assert_int_equal(front_get(&f, VHOST_USER_GET_QUEUE_NUM), 256);
	assert_int_equal(stage_count_fds(), fds_before + 2);
}

/* Refused without being asked for an answer: the front end would go on in error. */
static void
test_refusal_nobody_asked_for_ends_the_session(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_VRING_NUM, .state = {.num = 3}};

	begin();
	front_send(&f, &msg, NULL, 0);
	assert_true(front_ended(&f));
	front_disconnect(&f);
	/* But not over what the guest's driver may cause. */
	begin();
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_CONFIG, .config = {.offset = 0, .size = 8}};
	front_send(&f, &msg, NULL, 0);
	msg.config.offset = 250;
	front_send(&f, &msg, NULL, 0);
	msg.config.offset = UINT32_MAX;
	front_send(&f, &msg, NULL, 0);
	assert_int_equal(front_get(&f, VHOST_USER_GET_QUEUE_NUM), 256);
}

static void
test_replies_that_are_not_read(void **state)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_CONFIG, .config = {.size = 256}};
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	struct vhost_info info = {.has_session = true};

	begin();
	for (unsigned i = 0; i < 20000 && info.has_session; i++) {
		if (unix_send(f.fd, buf, vhost_msg_encode(VHOST_MSG_REQUEST, &msg, buf), NULL, 0) != 0) {
			break;
		}
		if (i % 100 == 0) {
			stage_info(&st, "vm", &info);
		}
	}
	stage_info(&st, "vm", &info);
	assert_false(info.has_session);
}
/* ---- Filling the log ---- */

static int saved_stderr, log_fd;

static void
capture_log(void)
{
	log_fd = memfd_create("log", MFD_CLOEXEC);
	saved_stderr = dup(2);
	assert_true(log_fd >= 0 && saved_stderr >= 0);
	assert_int_equal(dup2(log_fd, 2), 2);
}

/* How many lines with that word in them. */
static unsigned
end_capture(const char *word)
{
	static char text[1 << 20];
	ssize_t n = pread(log_fd, text, sizeof(text) - 1, 0);
	unsigned count = 0;

	assert_true(n >= 0);
	text[n] = '\0';
	for (char *line = strtok(text, "\n"); line != NULL; line = strtok(NULL, "\n")) {
		count += strstr(line, word) != NULL;
	}
	dup2(saved_stderr, 2);
	close(saved_stderr);
	close(log_fd);
	return count;
}

static void
misbehave(unsigned times)
{
	for (unsigned i = 0; i < times; i++) {
		begin();
		/* Unknown, so ignored; and then what ends the session. */
		raw(199, 1, 0, NULL, 0);
		raw(VHOST_USER_SET_FEATURES, 1, 4, "1234", 4);
		assert_true(front_ended(&f));
		front_disconnect(&f);
		stage_quiet(&st);
	}
}

static void
test_log_is_not_filled(void **state)
{
	clock_set_fake_ns(clock_now_ns());
	capture_log();
	misbehave(200);
	assert_in_range(end_capture("vm"), 8, VHOST_LOG_BURST);
	/* Later a line or two may be written again, of which the first says what is missing. */
	clock_set_fake_ns(clock_now_ns() + VHOST_LOG_NS);
	capture_log();
	misbehave(20);
	assert_int_equal(end_capture("left out"), 1);
	clock_set_fake_ns(clock_now_ns() + 2 * VHOST_LOG_NS);
	capture_log();
	misbehave(20);
	assert_in_range(end_capture("vm"), 1, 3);
	clock_set_fake_ns(UINT64_MAX);
}

/* A connection that cannot be accepted is tried again and again, and spoken of once. */
static void
test_log_of_a_connection_that_waits(void **state)
{
	struct rlimit old, none;

	clock_set_fake_ns(clock_now_ns());
	capture_log();
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
	none = (struct rlimit){0, old.rlim_max};
	front_connect(&f, "vm");
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	for (unsigned i = 0; i < 20; i++) {
		stage_quiet(&st);
		clock_set_fake_ns(clock_now_ns() + 150 * NS_PER_MS);
	}
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
	assert_int_equal(end_capture("cannot accept"), 1);
	clock_set_fake_ns(clock_now_ns() + 150 * NS_PER_MS);
	stage_quiet(&st);
	front_negotiate(&f, 0);
	clock_set_fake_ns(UINT64_MAX);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_repeated_vring_num, setup, teardown),
		cmocka_unit_test_setup_teardown(test_repeated_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_repeated_memory_tables, setup, teardown),
		cmocka_unit_test_setup_teardown(test_repeated_backend_channels, setup, teardown),
		cmocka_unit_test_setup_teardown(test_descriptors_with_a_message_that_has_none, setup, teardown),
		cmocka_unit_test_setup_teardown(test_two_descriptors_where_one_belongs, setup, teardown),
		cmocka_unit_test_setup_teardown(test_far_too_many_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_counts_that_disagree, setup, teardown),
		cmocka_unit_test_setup_teardown(test_kicks_that_are_no_eventfds, setup, teardown),
		cmocka_unit_test_setup_teardown(test_call_that_would_block, setup, teardown),
		cmocka_unit_test_setup_teardown(test_call_that_blocks_later, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_regions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_half_a_table, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ring_across_two_regions, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ring_past_the_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_size_changed_after_addresses, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_rings, setup, teardown),
		cmocka_unit_test_setup_teardown(test_ring_misaligned_by_its_region, setup, teardown),
		cmocka_unit_test_setup_teardown(test_truncated_memory_file, setup, teardown),
		cmocka_unit_test_setup_teardown(test_truncated_buffers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_available_index_far_ahead, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_headers, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_payload_sizes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_one_byte_at_a_time, setup, teardown),
		cmocka_unit_test_setup_teardown(test_descriptor_before_payload, setup, teardown),
		cmocka_unit_test_setup_teardown(test_descriptor_inside_the_header, setup, teardown),
		cmocka_unit_test_setup_teardown(test_disconnect_inside_a_message, setup, teardown),
		cmocka_unit_test_setup_teardown(test_unknown_messages, setup, teardown),
		cmocka_unit_test_setup_teardown(test_refusal_nobody_asked_for_ends_the_session, setup, teardown),
		cmocka_unit_test_setup_teardown(test_replies_that_are_not_read, setup, teardown),
		cmocka_unit_test_setup_teardown(test_log_is_not_filled, setup, teardown),
		cmocka_unit_test_setup_teardown(test_log_of_a_connection_that_waits, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
