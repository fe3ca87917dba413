/* SPDX-License-Identifier: BSD-3-Clause */
#include "virtio/driver/backend_model.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/iov.h"

#define SEGMENTS 32

void
model_init(struct model *m)
{
	model_init_sized(m, MODEL_DISK_BYTES);
}

void
model_init_sized(struct model *m, size_t disk_bytes)
{
	*m = (struct model){
		.disk_bytes = disk_bytes,
		.disk = calloc(1, disk_bytes),
		.features = 1ull << VIRTIO_F_VERSION_1 | 1ull << VHOST_USER_F_PROTOCOL_FEATURES |
			    1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX |
			    1ull << VIRTIO_BLK_F_FLUSH | 1ull << VIRTIO_BLK_F_BLK_SIZE,
		.protocol = 1ull << VHOST_USER_PROTOCOL_F_MQ |
			    1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK |
			    1ull << VHOST_USER_PROTOCOL_F_CONFIG |
			    1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ |
			    1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
		.max_queues = MODEL_QUEUES,
		.config = {.capacity = disk_bytes / 512, .blk_size = 512},
		.config_bytes = 60,
		.writes_status = true,
		.fd = -1,
		.backend_fd = -1,
	};
	CHECK(m->disk != NULL);
	pthread_mutex_init(&m->lock, NULL);
	for (unsigned i = 0; i < MODEL_QUEUES; i++) {
		m->queues[i].kick_fd = m->queues[i].call_fd = -1;
	}
	strcpy(m->dir, "/tmp/driver-test-XXXXXX");
	CHECK(mkdtemp(m->dir) != NULL);
	snprintf(m->path, sizeof(m->path), "%s/blk", m->dir);
}

/* ---- Messages ---- */

/* One whole message and at most one descriptor; 0 at the end of the connection. */
static size_t
receive(struct model *m, uint8_t buf[VHOST_USER_MESSAGE_MAX], int *ret_fd)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {buf, VHOST_USER_HEADER_BYTES};
	struct msghdr h = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = &control,
			   .msg_controllen = sizeof(control)};
	struct cmsghdr *c;
	int len;

	*ret_fd = -1;
	if (recvmsg(m->fd, &h, MSG_WAITALL | MSG_CMSG_CLOEXEC) != VHOST_USER_HEADER_BYTES) {
		return 0;
	}
	c = CMSG_FIRSTHDR(&h);
	if (c != NULL && c->cmsg_type == SCM_RIGHTS) {
		memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
	}
	len = vhost_msg_length(buf, NULL);
	CHECK(len >= VHOST_USER_HEADER_BYTES);
	len -= VHOST_USER_HEADER_BYTES;
	if (len > 0 &&
	    recv(m->fd, buf + VHOST_USER_HEADER_BYTES, (size_t)len, MSG_WAITALL) != len) {
		return 0;
	}
	return (size_t)len + VHOST_USER_HEADER_BYTES;
}

static void
answer(struct model *m, struct vhost_user_msg *reply)
{
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	size_t len;

	reply->flags = VHOST_USER_REPLY;
	len = vhost_msg_encode(VHOST_MSG_REPLY, reply, buf);
	CHECK(send(m->fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len || errno == EPIPE);
}

static void
add_memory(struct model *m, const struct vhost_user_region *r, int fd)
{
	struct err err = ERR_NONE;
	struct memmap *old = m->map != NULL ? m->map : memmap_create();

	CHECK(old != NULL);
	m->map = memmap_add(old, r->gpa, r->size, r->uva, fd, r->mmap_offset, &err);
	CHECK(m->map != NULL);
	memmap_put(old);
}

static void
start_ring(struct model *m, unsigned index)
{
	struct model_queue *q = &m->queues[index];
	void *desc = memmap_from_uva(m->map, q->addr.desc_user_addr, virtq_desc_bytes(q->size));
	void *avail = memmap_from_uva(m->map, q->addr.avail_user_addr, virtq_avail_bytes(q->size));
	void *used = memmap_from_uva(m->map, q->addr.used_user_addr, virtq_used_bytes(q->size));

	CHECK(desc != NULL && avail != NULL && used != NULL);
	virtq_init(&q->vq, q->size, desc, avail, used, m->map, q->base,
		   (m->driver_features & 1ull << VIRTIO_RING_F_EVENT_IDX) != 0,
		   (m->driver_features & 1ull << VIRTIO_RING_F_INDIRECT_DESC) != 0);
	virtq_disable_kick(&q->vq);
	q->started = true;
}

static void
replace_fd(int *fd, int with)
{
	if (*fd >= 0) {
		close(*fd);
	}
	*fd = with;
}

/* Acts on a request; true when msg is now the reply. */
static bool
act(struct model *m, struct vhost_user_msg *msg, int *fd)
{
	unsigned index =
		msg->type == VHOST_USER_SET_VRING_ADDR ? msg->addr.index : msg->state.index;
	struct model_queue *q = &m->queues[index % MODEL_QUEUES];

	switch ((int)msg->type) {
	case VHOST_USER_GET_FEATURES:
		msg->u64 = m->features;
		return true;
	case VHOST_USER_GET_PROTOCOL_FEATURES:
		msg->u64 = m->protocol;
		return true;
	case VHOST_USER_GET_QUEUE_NUM:
		msg->u64 = m->max_queues;
		return true;
	case VHOST_USER_GET_CONFIG:
		memset(msg->config.data, 0, sizeof(msg->config.data));
		if (msg->config.size > m->config_bytes) {
			msg->config.size = 0;
			return true;
		}
		memcpy(msg->config.data, &m->config, sizeof(m->config));
		return true;
	case VHOST_USER_GET_VRING_BASE:
		msg->state.num = q->vq.last_avail;
		q->started = false;
		return true;
	case VHOST_USER_SET_FEATURES:
		m->driver_features = msg->u64;
		break;
	case VHOST_USER_SET_PROTOCOL_FEATURES:
		m->driver_protocol = msg->u64;
		break;
	case VHOST_USER_SET_MEM_TABLE:
		CHECK(msg->memory.count == 1);
		add_memory(m, &msg->memory.regions[0], *fd);
		break;
	case VHOST_USER_ADD_MEM_REG:
		add_memory(m, &msg->region, *fd);
		break;
	case VHOST_USER_SET_VRING_NUM:
		q->size = msg->state.num;
		break;
	case VHOST_USER_SET_VRING_BASE:
		q->base = (uint16_t)msg->state.num;
		break;
	case VHOST_USER_SET_VRING_ADDR:
		q->addr = msg->addr;
		break;
	case VHOST_USER_SET_VRING_KICK:
		replace_fd(&q->kick_fd, *fd);
		*fd = -1;
		break;
	case VHOST_USER_SET_VRING_CALL:
		replace_fd(&q->call_fd, *fd);
		*fd = -1;
		break;
	case VHOST_USER_SET_BACKEND_REQ_FD:
		replace_fd(&m->backend_fd, *fd);
		*fd = -1;
		break;
	case VHOST_USER_SET_VRING_ENABLE:
		start_ring(m, index);
		break;
	default:
		break;
	}
	return false;
}

/* False: the connection ends. */
static bool
handle(struct model *m, struct vhost_user_msg *msg, int *fd)
{
	bool faulty = msg->type == m->fault_at;
	bool ack = (msg->flags & VHOST_USER_NEED_REPLY) != 0;
	bool reply;

	m->seen[msg->type % 64]++;
	if (faulty && m->fault == MODEL_HANGS_UP) {
		return false;
	}
	if (faulty && m->fault == MODEL_SILENT) {
		return true;
	}
	reply = act(m, msg, fd);
	if (!reply && ack) {
		msg->u64 = faulty && m->fault == MODEL_REFUSES;
		reply = true;
	}
	if (faulty && m->fault == MODEL_CONFUSED) {
		msg->type = VHOST_USER_GET_MAX_MEM_SLOTS;
	}
	if (reply) {
		answer(m, msg);
	}
	return true;
}

/* What a connection brought. */
static void
forget(struct model *m)
{
	replace_fd(&m->backend_fd, -1);
	for (unsigned i = 0; i < MODEL_QUEUES; i++) {
		m->queues[i].started = false;
		replace_fd(&m->queues[i].kick_fd, -1);
		replace_fd(&m->queues[i].call_fd, -1);
	}
	memmap_put(m->map);
	m->map = NULL;
}

static void
serve_connection(struct model *m)
{
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	bool more = true;
	size_t len;
	int fd;

	while (more && (len = receive(m, buf, &fd)) > 0) {
		struct vhost_user_msg msg;

		CHECK(vhost_msg_decode(VHOST_MSG_REQUEST, buf, len, &msg, NULL) == 0);
		pthread_mutex_lock(&m->lock);
		more = handle(m, &msg, &fd);
		pthread_mutex_unlock(&m->lock);
		replace_fd(&fd, -1);
	}
	fd = atomic_exchange(&m->fd, -1);
	replace_fd(&fd, -1);
}

static void *
model_main(void *arg)
{
	struct model *m = arg;
	int fd;

	while ((fd = accept(m->listen_fd, NULL, NULL)) >= 0) {
		pthread_mutex_lock(&m->lock);
		forget(m);
		pthread_mutex_unlock(&m->lock);
		atomic_store(&m->fd, fd);
		atomic_fetch_add(&m->connections, 1);
		if (atomic_load(&m->stopping)) {
			shutdown(fd, SHUT_RDWR);
		}
		serve_connection(m);
	}
	return NULL;
}

static void *
server_main(void *arg)
{
	struct model *m = arg;

	while (!atomic_load(&m->stopping)) {
		unsigned served = 0;

		pthread_mutex_lock(&m->lock);
		for (unsigned i = 0; i < MODEL_QUEUES && !atomic_load(&m->paused); i++) {
			served += m->queues[i].started ? model_serve(m, i, (served & 1) != 0) : 0;
		}
		pthread_mutex_unlock(&m->lock);
		if (served == 0) {
			usleep(30);
		}
	}
	return NULL;
}

void
model_start(struct model *m)
{
	struct sockaddr_un addr = {.sun_family = AF_UNIX};

	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", m->path);
	atomic_store(&m->stopping, false);
	m->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(m->listen_fd >= 0 &&
	      bind(m->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0 &&
	      listen(m->listen_fd, 1) == 0);
	CHECK(pthread_create(&m->thread, NULL, model_main, m) == 0);
	CHECK(!m->serves || pthread_create(&m->server, NULL, server_main, m) == 0);
	m->running = true;
}

void
model_die(struct model *m)
{
	int fd;

	if (m->running) {
		atomic_store(&m->stopping, true);
		/* Wakes the thread out of accept, and out of a connection. */
		shutdown(m->listen_fd, SHUT_RDWR);
		fd = atomic_load(&m->fd);
		if (fd >= 0) {
			shutdown(fd, SHUT_RDWR);
		}
		pthread_join(m->thread, NULL);
		if (m->serves) {
			pthread_join(m->server, NULL);
		}
		close(m->listen_fd);
		m->running = false;
	}
	forget(m);
	unlink(m->path);
}

void
model_stop(struct model *m)
{
	model_die(m);
	pthread_mutex_destroy(&m->lock);
	free(m->disk);
	rmdir(m->dir);
}

void
model_announce(struct model *m, bool need_reply)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
				     .flags = need_reply ? VHOST_USER_NEED_REPLY : 0};
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	size_t len = vhost_msg_encode(VHOST_MSG_BACKEND_REQUEST, &msg, buf);

	CHECK(send(m->backend_fd, buf, len, MSG_NOSIGNAL) == (ssize_t)len);
}

/* ---- Rings ---- */

static void
clear_ranges(struct model *m, const struct virtq_chain *c, struct iovec *iov)
{
	struct virtio_blk_discard_write_zeroes range;

	for (size_t at = sizeof(struct virtio_blk_outhdr); at < c->out_bytes; at += sizeof(range)) {
		CHECK(iov_to_buf(iov, (int)c->out_count, at, &range, sizeof(range)) == sizeof(range));
		CHECK(range.sector + range.num_sectors <= m->disk_bytes / 512);
		memset(m->disk + range.sector * 512, 0, (size_t)range.num_sectors * 512);
	}
}

/* Reads, writes and clears the disk, gives an id, agrees to anything else. */
static uint32_t
serve_chain(struct model *m, const struct virtq_chain *c, struct iovec *iov)
{
	struct virtio_blk_outhdr header;
	uint64_t at;
	uint32_t written = 0;

	CHECK(iov_to_buf(iov, (int)c->out_count, 0, &header, sizeof(header)) == sizeof(header));
	at = header.sector * 512;
	if (header.type == VIRTIO_BLK_T_OUT) {
		CHECK(at + c->out_bytes - sizeof(header) <= m->disk_bytes);
		iov_to_buf(iov, (int)c->out_count, sizeof(header), m->disk + at,
			   c->out_bytes - sizeof(header));
	} else if (header.type == VIRTIO_BLK_T_IN) {
		CHECK(at + c->in_bytes - 1 <= m->disk_bytes);
		written = (uint32_t)c->in_bytes - 1;
		iov_from_buf(iov + c->out_count, (int)c->in_count, 0, m->disk + at, written);
	} else if (header.type == VIRTIO_BLK_T_DISCARD || header.type == VIRTIO_BLK_T_WRITE_ZEROES) {
		clear_ranges(m, c, iov);
	}
	if (m->writes_status) {
		iov_fill(iov + c->out_count, (int)c->in_count, c->in_bytes - 1, m->status, 1);
	}
	return written + 1;
}

unsigned
model_serve(struct model *m, unsigned queue, bool reversed)
{
	struct model_queue *q = &m->queues[queue];
	struct vring_used_elem done[256];
	unsigned count = 0;

	CHECK(q->started);
	while (virtq_pending(&q->vq) > 0 && count < 256) {
		struct virtq_chain c;
		struct iovec iov[SEGMENTS];

		CHECK(virtq_take(&q->vq, &c, iov, SEGMENTS) == 0);
		done[count++] = (struct vring_used_elem){c.head, serve_chain(m, &c, iov)};
	}
	for (unsigned i = 0; i < count; i++) {
		const struct vring_used_elem *e = &done[reversed ? count - 1 - i : i];

		virtq_complete(&q->vq, (uint16_t)e->id, e->len);
	}
	if (virtq_publish(&q->vq)) {
		uint64_t one = 1;

		CHECK(write(q->call_fd, &one, sizeof(one)) == sizeof(one));
	}
	return count;
}
