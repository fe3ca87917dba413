/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A whole vhost-user session under a front end that the fuzzer plays: messages well made and
 * malformed, cut anywhere, with descriptors of all kinds, while rings run, requests are held by the
 * disk, guest memory changes and its file is truncated, and the connection comes and goes. Whatever
 * it does, in the end the session is gone, and so is every descriptor and mapping it brought.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "testkit/vhost_stage.h"
#include "vhost/session.h"

#define STEPS_MAX 200

static struct stage st;
static struct front f;
static int null_fd, backend[2];
static uint64_t mapped_before;

struct input {
	const uint8_t *p;
	size_t left;
};

static uint64_t
take(struct input *in, unsigned bytes)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < bytes && in->left > 0; i++, in->left--) {
		v |= (uint64_t)*in->p++ << 8 * i;
	}
	return v;
}

static int
some_fd(unsigned which)
{
	switch (which % 8) {
	case 0:
	case 1:
	case 2:
		return f.memory_fd;
	case 3:
		return f.kick[which / 8 % FRONT_RINGS];
	case 4:
		return f.call[which / 8 % FRONT_RINGS];
	case 5:
		return backend[1];
	default:
		/* Not our own end of the connection: whoever gives that away stays connected after
		 * he is gone. */
		return null_fd;
	}
}

/* Mostly near something that exists. */
static uint64_t
some_address(struct input *in, uint64_t base)
{
	uint8_t kind = (uint8_t)take(in, 1);

	if (kind < 200) {
		return base + take(in, 2) * 64;
	}
	return kind < 230 ? base + take(in, 3) : take(in, 8);
}

static struct vhost_user_region
some_region(struct input *in)
{
	uint64_t offset = take(in, 1) % 8 * (FRONT_MEMORY / 8);
	uint64_t size = (1 + take(in, 1) % 8) * (FRONT_MEMORY / 8);

	if (take(in, 1) < 220) {
		return (struct vhost_user_region){FRONT_GPA + offset, size, FRONT_UVA + offset, offset};
	}
	return (struct vhost_user_region){take(in, 8), some_address(in, 0), take(in, 8), some_address(in, 0)};
}

static void
fill(struct input *in, struct vhost_user_msg *msg)
{
	switch (msg->type) {
	case VHOST_USER_SET_MEM_TABLE:
		msg->memory.count = (uint32_t)take(in, 1) % 9;
		for (unsigned i = 0; i < msg->memory.count; i++) {
			msg->memory.regions[i] = some_region(in);
		}
		break;
	case VHOST_USER_ADD_MEM_REG:
	case VHOST_USER_REM_MEM_REG:
		msg->region = some_region(in);
		break;
	case VHOST_USER_SET_VRING_ADDR:
		msg->addr.index = (uint32_t)take(in, 1) % 5;
		msg->addr.desc_user_addr = some_address(in, FRONT_UVA);
		msg->addr.avail_user_addr = some_address(in, FRONT_UVA);
		msg->addr.used_user_addr = some_address(in, FRONT_UVA);
		break;
	case VHOST_USER_SET_VRING_NUM:
		msg->state.index = (uint32_t)take(in, 1) % 5;
		msg->state.num = 1u << take(in, 1) % 17;
		break;
	case VHOST_USER_SET_VRING_BASE:
	case VHOST_USER_GET_VRING_BASE:
	case VHOST_USER_SET_VRING_ENABLE:
		msg->state.index = (uint32_t)take(in, 1) % 5;
		msg->state.num = (uint32_t)take(in, 1);
		break;
	case VHOST_USER_GET_CONFIG:
	case VHOST_USER_SET_CONFIG:
		msg->config.offset = (uint32_t)take(in, 2);
		msg->config.size = (uint32_t)take(in, 2) % (VHOST_USER_CONFIG_MAX + 1);
		break;
	case VHOST_USER_SET_FEATURES:
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		msg->u64 = take(in, 8);
		break;
	default:
		msg->u64 = take(in, 2);
	}
}

static void
send_bytes(struct input *in, const uint8_t *buf, size_t len, unsigned fd_count)
{
	int fds[UNIX_FDS_MAX];

	fd_count = MIN(fd_count, (unsigned)UNIX_FDS_MAX);
	for (unsigned i = 0; i < fd_count; i++) {
		fds[i] = some_fd((unsigned)take(in, 1));
	}
	(void)unix_send(f.fd, buf, len, fds, fd_count);
}

/* A message as the codec makes it, now and then spoiled. */
static void
send_message(struct input *in)
{
	struct vhost_user_msg msg = {.type = (uint32_t)take(in, 1) % 41};
	uint8_t how = (uint8_t)take(in, 1), buf[VHOST_USER_MESSAGE_MAX];
	unsigned fd_count = vhost_msg_fds_max(VHOST_MSG_REQUEST, msg.type);
	struct vhost_user_msg probe;
	uint32_t header[3] = {msg.type, VHOST_USER_VERSION, 0};
	size_t len;

	msg.flags = how & VHOST_USER_NEED_REPLY;
	/* Types that are not decoded have no encoding. */
	if (vhost_msg_decode(VHOST_MSG_REQUEST, header, sizeof(header), &probe, NULL) == -EOPNOTSUPP) {
		send_bytes(in, (const uint8_t *)header, sizeof(header), how >> 6);
		return;
	}
	fill(in, &msg);
	if (msg.type == VHOST_USER_SET_MEM_TABLE) {
		fd_count = msg.memory.count;
	} else if (msg.type >= VHOST_USER_SET_VRING_KICK && msg.type <= VHOST_USER_SET_VRING_ERR) {
		/* The index, and the flag that says there is no descriptor. */
		fd_count = (msg.u64 & VHOST_USER_VRING_NOFD) == 0;
		msg.u64 &= VHOST_USER_VRING_NOFD | 7;
	}
	len = vhost_msg_encode(VHOST_MSG_REQUEST, &msg, buf);
	if ((how & 0xe0) == 0xe0) {
		buf[take(in, 2) % len] = (uint8_t)take(in, 1);
		fd_count = (unsigned)take(in, 1) % 10;
	}
	if ((how & 0xe0) == 0xc0) {
		len = take(in, 2) % len + 1;
	}
	send_bytes(in, buf, len, fd_count);
}

static void
send_raw(struct input *in)
{
	uint8_t buf[256];
	size_t len = take(in, 1) + 1;

	for (size_t i = 0; i < len; i++) {
		buf[i] = (uint8_t)take(in, 1);
	}
	send_bytes(in, buf, MIN(len, sizeof(buf)), (unsigned)take(in, 1) % 3);
}

/* Not through our own mapping: the file may be shorter. */
static void
write_memory(struct input *in)
{
	uint8_t buf[64];
	off_t at = (off_t)(take(in, 2) * 16 % FRONT_MEMORY);
	size_t len = take(in, 1) % sizeof(buf);

	for (size_t i = 0; i < len; i++) {
		buf[i] = (uint8_t)take(in, 1);
	}
	(void)!pwrite(f.memory_fd, buf, len, at);
}

/* A ring ready to go, so that the fuzzer need not find out how. */
static void
start_ring(unsigned i)
{
	uint64_t base = FRONT_UVA + (uint64_t)i * FRONT_RING_BYTES;
	struct vhost_user_msg msgs[] = {
		{.type = VHOST_USER_SET_VRING_NUM, .state = {.index = i, .num = 64}},
		{.type = VHOST_USER_SET_VRING_ADDR, .addr = {.index = i, .desc_user_addr = base,
			.avail_user_addr = base + 0x4000, .used_user_addr = base + 0x5000}},
		{.type = VHOST_USER_SET_VRING_CALL, .u64 = i},
		{.type = VHOST_USER_SET_VRING_KICK, .u64 = i},
		{.type = VHOST_USER_SET_VRING_ENABLE, .state = {.index = i, .num = 1}},
	};

	for (unsigned m = 0; m < ARRAY_SIZE(msgs); m++) {
		uint8_t buf[VHOST_USER_MESSAGE_MAX];
		size_t len = vhost_msg_encode(VHOST_MSG_REQUEST, &msgs[m], buf);

		(void)unix_send(f.fd, buf, len, m == 2 ? &f.call[i] : &f.kick[i], m == 2 || m == 3);
	}
}

/* A chain whose header names a type and a sector, and a kick. */
static void
offer(struct input *in, unsigned i)
{
	uint8_t *page = f.memory + i * FRONT_RING_BYTES;
	struct vring_desc *desc = (struct vring_desc *)(void *)page;
	struct vring_avail *avail = (struct vring_avail *)(void *)(page + 0x4000);
	uint64_t header[2] = {take(in, 1) % 16, take(in, 2)};

	if (lseek(f.memory_fd, 0, SEEK_END) < (off_t)FRONT_MEMORY) {
		return;
	}
	memcpy(page + 0x7000, header, sizeof(header));
	desc[0] = (struct vring_desc){FRONT_GPA + i * FRONT_RING_BYTES + 0x7000, 16, VRING_DESC_F_NEXT, 1};
	desc[1] = (struct vring_desc){FRONT_GPA + take(in, 2) * 64, (uint32_t)take(in, 1) * 512,
		(uint16_t)(VRING_DESC_F_NEXT | (header[0] == 0 ? VRING_DESC_F_WRITE : 0)), 2};
	desc[2] = (struct vring_desc){FRONT_GPA + 0x100000, 1, VRING_DESC_F_WRITE, 0};
	avail->ring[avail->idx % 64] = 0;
	avail->idx++;
	(void)eventfd_write(f.kick[i], 1);
}

static void
kick_disk(void *ctx)
{
	scripted_channel_kick(ctx);
}

/* Queues that are held up by the disk go on, one after the other: the session may end at each. */
static void
release(void)
{
	st.disk.hold = false;
	for (unsigned i = 0; i < VHOST_QUEUES_MAX; i++) {
		struct vhost_session *s = vhost_find("vm")->session;

		if (s == NULL || i >= s->saved->ring_count) {
			break;
		}
		if (s->rings[i] != NULL && s->rings[i]->running && s->rings[i]->q.ch != NULL) {
			stage_call(&st, s->rings[i]->q.thread, kick_disk, s->rings[i]->q.ch);
		}
	}
	stage_quiet(&st);
}

static void
step(struct input *in)
{
	uint8_t what = (uint8_t)take(in, 1);
	char sink[4096];

	switch (what % 16) {
	case 0:
		send_raw(in);
		break;
	case 1:
		write_memory(in);
		break;
	case 2:
		(void)!ftruncate(f.memory_fd, (what & 0x80) != 0 ? (off_t)FRONT_MEMORY : (off_t)take(in, 2) * 64);
		break;
	case 3:
		st.disk.hold = true;
		break;
	case 4:
		release();
		break;
	case 5:
		front_disconnect(&f);
		stage_poll(&st);
		front_connect(&f, "vm");
		break;
	case 6:
		start_ring(what / 16 % FRONT_RINGS);
		break;
	case 7:
	case 8:
		offer(in, what / 16 % FRONT_RINGS);
		break;
	case 9:
		(void)!read(f.fd, sink, sizeof(sink));
		stage_poll(&st);
		break;
	default:
		send_message(in);
	}
	if ((what & 0x10) != 0) {
		stage_poll(&st);
		stage_poll(&st);
	}
}

static void
clean_up(void)
{
	front_close(&f);
	stage_stop(&st);
}

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	log_set_print_level(LOG_LEVEL_DISABLED);
	stage_start(&st, REACTOR_INTERRUPT);
	CHECK(stage_create(&st, "vm", NULL, false, NULL) == 0);
	front_open(&f, &st);
	null_fd = open("/dev/null", O_RDWR | O_CLOEXEC);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, backend) == 0);
	mapped_before = stage_count_mapped();
	atexit(clean_up);
	return 0;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, size};

	/* The fuzzer itself opens and closes some between inputs. */
	unsigned fds_before = stage_count_fds();

	CHECK(ftruncate(f.memory_fd, FRONT_MEMORY) == 0);
	memset(f.memory, 0, FRONT_RINGS * FRONT_RING_BYTES);
	front_connect(&f, "vm");
	for (unsigned i = 0; i < STEPS_MAX && in.left > 0; i++) {
		step(&in);
	}
	stage_quiet(&st);
	front_disconnect(&f);
	stage_quiet(&st);
	/* Connections that were closed before they were served are served, and end, too. */
	for (unsigned i = 0; i < STEPS_MAX && vhost_find("vm")->session != NULL; i++) {
		release();
	}
	CHECK(vhost_find("vm")->session == NULL);
	CHECK(stage_count_fds() == fds_before);
	CHECK(stage_count_mapped() == mapped_before);
	return 0;
}
