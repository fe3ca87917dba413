/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/vhost_stage.h"

#include <dirent.h>
#include <errno.h>
#include <linux/virtio_blk.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/check.h"
#include "base/list.h"

#define ROUNDS_MAX 200000
#define QUIET_ROUNDS 32
#define PROTOCOL_ALL \
	(1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | \
	 1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ | 1ull << VHOST_USER_PROTOCOL_F_CONFIG | \
	 1ull << VHOST_USER_PROTOCOL_F_RESET_DEVICE | 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS | \
	 1ull << VHOST_USER_PROTOCOL_F_STATUS)

/* Tests must not go on after the stage is broken, wherever they notice it. */
#define MUST(expr) ((expr) ? (void)0 : broken(#expr, __LINE__))

_Noreturn static void
broken(const char *expr, int line)
{
	fprintf(stderr, "vhost_stage.c:%d: %s does not hold: %s\n", line, expr, strerror(errno));
	abort();
}

/* ---- The stage ---- */

void
stage_poll(struct stage *st)
{
	for (unsigned i = 0; i < STAGE_IO_THREADS; i++) {
		reactor_poll_once(st->reactors[i]);
	}
}

void
stage_quiet(struct stage *st)
{
	for (unsigned quiet = 0, i = 0; quiet < QUIET_ROUNDS; i++) {
		int work = 0;

		MUST(i < ROUNDS_MAX);
		for (unsigned r = 0; r < STAGE_IO_THREADS; r++) {
			work += reactor_poll_once(st->reactors[r]);
		}
		quiet = work > 0 ? 0 : quiet + 1;
	}
}

struct call {
	struct msg msg;
	void (*fn)(void *ctx);
	void *ctx;
	bool called;
};

static void
run_call(struct msg *msg)
{
	struct call *call = CONTAINER_OF(msg, struct call, msg);

	call->fn(call->ctx);
	call->called = true;
}

void
stage_call(struct stage *st, struct thread *t, void (*fn)(void *ctx), void *ctx)
{
	struct call call = {.fn = fn, .ctx = ctx};

	thread_send(t, &call.msg, run_call);
	while (!call.called) {
		stage_poll(st);
	}
	stage_quiet(st);
}

static void
wait_done(struct stage *st)
{
	for (unsigned i = 0; !st->done; i++) {
		MUST(i < ROUNDS_MAX);
		stage_poll(st);
	}
}

static void
start_on_control(void *ctx)
{
	struct stage *st = ctx;
	struct vhost_options options = {
		.socket_dir = st->dir, .io_threads = st->io, .io_thread_count = STAGE_IO_THREADS};

	scripted_bdev_init(&st->disk, "disk0", STAGE_BLOCKS, 512);
	for (unsigned i = 0; i < STAGE_BLOCKS * 512; i++) {
		st->disk.data[i] = (uint8_t)(i / 512 * 7 + i);
	}
	MUST(scripted_bdev_add(&st->disk, NULL) == 0);
	MUST(vhost_init(&options, NULL) == 0);
}

void
stage_start(struct stage *st, enum reactor_mode mode)
{
	memset(st, 0, sizeof(*st));
	snprintf(st->dir, sizeof(st->dir), "/tmp/vhost-stage-XXXXXX");
	MUST(mkdtemp(st->dir) != NULL);
	for (unsigned i = 0; i < STAGE_IO_THREADS; i++) {
		st->reactors[i] = reactor_create(i, -1, mode, NULL);
		MUST(st->reactors[i] != NULL);
		st->io[i] = thread_create("io", st->reactors[i]);
	}
	st->control = thread_create("control", st->reactors[0]);
	stage_call(st, st->control, start_on_control, st);
}

static void
shut_down(void *ctx)
{
	((struct stage *)ctx)->done = true;
}

static void
shut_down_on_control(void *ctx)
{
	vhost_shutdown(shut_down, ctx);
}

static void
removed(void *ctx, int status)
{
	((struct stage *)ctx)->done = true;
}

static void
remove_on_control(void *ctx)
{
	scripted_bdev_remove(&((struct stage *)ctx)->disk, removed, ctx);
}

static void
exit_on_thread(void *ctx)
{
	thread_exit();
}

void
stage_stop(struct stage *st)
{
	st->done = false;
	stage_call(st, st->control, shut_down_on_control, st);
	wait_done(st);
	st->done = false;
	stage_call(st, st->control, remove_on_control, st);
	wait_done(st);
	scripted_bdev_release(&st->disk);
	for (unsigned i = 0; i < STAGE_IO_THREADS; i++) {
		stage_call(st, st->io[i], exit_on_thread, NULL);
	}
	stage_call(st, st->control, exit_on_thread, NULL);
	for (unsigned i = 0; i < STAGE_IO_THREADS; i++) {
		reactor_free(st->reactors[i]);
	}
	/* Sockets that were left behind make this fail. */
	MUST(rmdir(st->dir) == 0);
}

struct create {
	struct vhost_blk_options options;
	struct vhost_controller *ctrlr;
	struct err *err;
	int rc;
};

static void
create_on_control(void *ctx)
{
	struct create *c = ctx;

	c->rc = vhost_blk_create(&c->options, &c->ctrlr, c->err);
}

int
stage_create_on(struct stage *st, const char *name, const char *bdev_name, const char *cpumask, bool readonly,
		struct err *err)
{
	struct create c = {
		.options = {.name = name, .bdev_name = bdev_name, .cpumask = cpumask, .readonly = readonly}, .err = err};

	stage_call(st, st->control, create_on_control, &c);
	return c.rc;
}

int
stage_create(struct stage *st, const char *name, const char *cpumask, bool readonly, struct err *err)
{
	return stage_create_on(st, name, "disk0", cpumask, readonly, err);
}

struct delete {
	struct stage *st;
	const char *name;
	int rc;
};

static void
delete_on_control(void *ctx)
{
	struct delete *d = ctx;

	d->rc = vhost_delete(d->name, removed, d->st, NULL);
}

int
stage_delete(struct stage *st, const char *name)
{
	struct delete d = {.st = st, .name = name};

	st->done = false;
	stage_call(st, st->control, delete_on_control, &d);
	if (d.rc == 0) {
		wait_done(st);
	}
	return d.rc;
}

struct ask {
	const char *name;
	struct vhost_info *info;
};

static void
info_on_control(void *ctx)
{
	struct ask *ask = ctx;
	struct vhost_controller *ctrlr = vhost_find(ask->name);

	MUST(ctrlr != NULL);
	vhost_get_info(ctrlr, ask->info);
}

void
stage_info(struct stage *st, const char *name, struct vhost_info *ret_info)
{
	struct ask ask = {name, ret_info};

	stage_call(st, st->control, info_on_control, &ask);
}

unsigned
stage_count_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned count = 0;

	MUST(dir != NULL);
	while (readdir(dir) != NULL) {
		count++;
	}
	closedir(dir);
	return count;
}

uint64_t
stage_count_mapped(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	uint64_t bytes = 0;
	char line[512];

	MUST(f != NULL);
	while (fgets(line, sizeof(line), f) != NULL) {
		if (strstr(line, "memfd:guest") != NULL && sscanf(line, "%lx-%lx", &start, &end) == 2) {
			bytes += end - start;
		}
	}
	fclose(f);
	return bytes;
}

/* ---- A front end ---- */

void
front_open(struct front *f, struct stage *st)
{
	memset(f, 0, sizeof(*f));
	f->st = st;
	f->fd = -1;
	f->memory_fd = memfd_create("guest", MFD_CLOEXEC);
	MUST(f->memory_fd >= 0 && ftruncate(f->memory_fd, FRONT_MEMORY) == 0);
	f->memory = mmap(NULL, FRONT_MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, f->memory_fd, 0);
	MUST(f->memory != MAP_FAILED);
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		f->kick[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		f->call[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		MUST(f->kick[i] >= 0 && f->call[i] >= 0);
	}
}

void
front_disconnect(struct front *f)
{
	if (f->fd >= 0) {
		close(f->fd);
		f->fd = -1;
	}
}

void
front_close(struct front *f)
{
	front_disconnect(f);
	for (unsigned i = 0; i < FRONT_RINGS; i++) {
		close(f->kick[i]);
		close(f->call[i]);
	}
	munmap(f->memory, FRONT_MEMORY);
	close(f->memory_fd);
}

void
front_connect(struct front *f, const char *name)
{
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", f->st->dir, name);
	f->fd = unix_connect(path, NULL);
	MUST(f->fd >= 0);
}

void
front_send(struct front *f, const struct vhost_user_msg *msg, const int *fds, unsigned fd_count)
{
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	size_t len = vhost_msg_encode(VHOST_MSG_REQUEST, msg, buf);
	int rc = unix_send(f->fd, buf, len, fds, fd_count);

	/* The other side may have ended it: front_reply finds out. */
	MUST(rc == 0 || rc == -EPIPE || rc == -ECONNRESET);
}

bool
front_reply(struct front *f, struct vhost_user_msg *ret_msg)
{
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	struct unix_fds fds = {.count = 0};
	ssize_t n = 0;
	int len;

	for (unsigned i = 0;; i++) {
		MUST(i < ROUNDS_MAX);
		stage_poll(f->st);
		n = unix_recv(f->fd, buf, VHOST_USER_HEADER_BYTES, &fds);
		if (n != -EAGAIN) {
			break;
		}
	}
	if (n <= 0) {
		return false;
	}
	MUST(n == VHOST_USER_HEADER_BYTES);
	len = vhost_msg_length(buf, NULL);
	MUST(len >= n);
	if (len > n) {
		MUST(unix_recv(f->fd, buf + n, (size_t)(len - n), &fds) == len - n);
	}
	MUST(fds.count == 0);
	MUST(vhost_msg_decode(VHOST_MSG_REPLY, buf, (size_t)len, ret_msg, NULL) == 0);
	return true;
}

uint64_t
front_ack(struct front *f, struct vhost_user_msg *msg, const int *fds, unsigned fd_count)
{
	struct vhost_user_msg reply;

	msg->flags = VHOST_USER_NEED_REPLY;
	front_send(f, msg, fds, fd_count);
	if (!front_reply(f, &reply)) {
		return UINT64_MAX;
	}
	MUST(reply.type == msg->type);
	return reply.u64;
}

uint64_t
front_u64(struct front *f, enum vhost_user_request type, uint64_t value, int fd)
{
	struct vhost_user_msg msg = {.type = type, .u64 = value};

	return front_ack(f, &msg, &fd, fd >= 0 ? 1 : 0);
}

uint64_t
front_state(struct front *f, enum vhost_user_request type, unsigned index, unsigned num)
{
	struct vhost_user_msg msg = {.type = type, .state = {.index = index, .num = num}};

	return front_ack(f, &msg, NULL, 0);
}

uint64_t
front_get(struct front *f, enum vhost_user_request type)
{
	struct vhost_user_msg msg = {.type = type};

	front_send(f, &msg, NULL, 0);
	return front_reply(f, &msg) ? msg.u64 : UINT64_MAX;
}

bool
front_ended(struct front *f)
{
	char c;

	for (unsigned i = 0; i < 2000; i++) {
		struct unix_fds fds = {.count = 0};
		ssize_t n;

		stage_poll(f->st);
		n = unix_recv(f->fd, &c, 1, &fds);
		if (n == 0 || n == -ECONNRESET) {
			stage_quiet(f->st);
			return true;
		}
	}
	return false;
}

void
front_negotiate(struct front *f, uint64_t without)
{
	uint64_t features = front_get(f, VHOST_USER_GET_FEATURES);
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_PROTOCOL_FEATURES, .u64 = PROTOCOL_ALL};

	MUST((features & 1ull << VHOST_USER_F_PROTOCOL_FEATURES) != 0);
	MUST(front_get(f, VHOST_USER_GET_PROTOCOL_FEATURES) == PROTOCOL_ALL);
	front_send(f, &msg, NULL, 0);
	msg = (struct vhost_user_msg){.type = VHOST_USER_SET_OWNER};
	MUST(front_ack(f, &msg, NULL, 0) == 0);
	MUST(front_u64(f, VHOST_USER_SET_FEATURES, features & ~without, -1) == 0);
}

void
front_share(struct front *f)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_MEM_TABLE};

	msg.memory.count = 1;
	msg.memory.regions[0] = (struct vhost_user_region){.gpa = FRONT_GPA, .size = FRONT_MEMORY, .uva = FRONT_UVA};
	MUST(front_ack(f, &msg, &f->memory_fd, 1) == 0);
}

void
front_ring_addr(struct front *f, unsigned i)
{
	uint64_t base = FRONT_UVA + (uint64_t)i * FRONT_RING_BYTES;
	struct vhost_user_msg msg = {
		.type = VHOST_USER_SET_VRING_ADDR,
		.addr = {.index = i, .desc_user_addr = base, .avail_user_addr = base + 0x4000,
			 .used_user_addr = base + 0x5000},
	};

	MUST(front_ack(f, &msg, NULL, 0) == 0);
}

void
front_ring_start(struct front *f, unsigned i, unsigned size, unsigned base)
{
	f->size[i] = (uint16_t)size;
	MUST(front_state(f, VHOST_USER_SET_VRING_NUM, i, size) == 0);
	MUST(front_state(f, VHOST_USER_SET_VRING_BASE, i, base) == 0);
	front_ring_addr(f, i);
	MUST(front_u64(f, VHOST_USER_SET_VRING_CALL, i, f->call[i]) == 0);
	MUST(front_u64(f, VHOST_USER_SET_VRING_KICK, i, f->kick[i]) == 0);
	MUST(front_state(f, VHOST_USER_SET_VRING_ENABLE, i, 1) == 0);
}

unsigned
front_ring_stop(struct front *f, unsigned i)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_VRING_BASE, .state = {.index = i}};

	front_send(f, &msg, NULL, 0);
	MUST(front_reply(f, &msg) && msg.state.index == i);
	return msg.state.num;
}

void
front_start(struct front *f, const char *name)
{
	front_connect(f, name);
	front_negotiate(f, 0);
	front_share(f);
	front_ring_start(f, 0, 64, 0);
}

void
front_offer(struct front *f, unsigned ring, unsigned block)
{
	uint8_t *base = f->memory + ring * FRONT_RING_BYTES;
	struct vring_desc *desc = (struct vring_desc *)(void *)base;
	struct vring_avail *avail = (struct vring_avail *)(void *)(base + 0x4000);
	uint16_t slot = (uint16_t)(f->avail[ring] % f->size[ring]);
	uint16_t head = (uint16_t)(slot * 3 % (f->size[ring] - 2));
	uint32_t header_at = ring * FRONT_RING_BYTES + 0x7000 + slot * 16u % 0x800;
	uint32_t data_at = FRONT_DATA_AT + ring * 0x10000 + slot * 512u % 0x10000;
	struct virtio_blk_outhdr header = {.type = VIRTIO_BLK_T_IN, .sector = block};
	uint64_t one = 1;

	memcpy(f->memory + header_at, &header, sizeof(header));
	memset(f->memory + data_at, 0xee, 512);
	f->memory[header_at + 0x800] = 0xff;
	desc[head] = (struct vring_desc){
		.addr = FRONT_GPA + header_at, .len = 16, .flags = VRING_DESC_F_NEXT, .next = (uint16_t)(head + 1)};
	desc[head + 1] = (struct vring_desc){.addr = FRONT_GPA + data_at, .len = 512,
		.flags = VRING_DESC_F_NEXT | VRING_DESC_F_WRITE, .next = (uint16_t)(head + 2)};
	desc[head + 2] = (struct vring_desc){.addr = FRONT_GPA + header_at + 0x800, .len = 1, .flags = VRING_DESC_F_WRITE};
	avail->ring[slot] = head;
	f->avail[ring]++;
	__atomic_store_n(&avail->idx, f->avail[ring], __ATOMIC_RELEASE);
	MUST(write(f->kick[ring], &one, sizeof(one)) == sizeof(one));
}

uint16_t
front_used(struct front *f, unsigned ring)
{
	struct vring_used *used =
		(struct vring_used *)(void *)(f->memory + ring * FRONT_RING_BYTES + 0x5000);

	return __atomic_load_n(&used->idx, __ATOMIC_ACQUIRE);
}

bool
front_read(struct front *f, unsigned ring, unsigned block)
{
	uint16_t slot = (uint16_t)(f->avail[ring] % f->size[ring]);
	uint32_t data_at = FRONT_DATA_AT + ring * 0x10000 + slot * 512u % 0x10000;
	uint32_t status_at = ring * FRONT_RING_BYTES + 0x7800 + slot * 16u % 0x800;

	front_offer(f, ring, block);
	for (unsigned i = 0; i < 2000 && front_used(f, ring) != f->avail[ring]; i++) {
		stage_poll(f->st);
	}
	return front_used(f, ring) == f->avail[ring] && f->memory[status_at] == VIRTIO_BLK_S_OK &&
	       memcmp(f->memory + data_at, f->st->disk.data + block * 512u, 512) == 0;
}
