/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The front end of a vhost-user connection. Contracts: vhost.h.
 *
 * Invariants
 *  1. No call waits longer than the connection's time limit for each message it sends or receives.
 *  2. One request is under way at a time; its answer is read before the next one is sent.
 *  3. Descriptors that a message brings are closed: nothing that we ask for brings any.
 */
#include "virtio/driver/vhost.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "sock/unix.h"

#define CONNECT_RETRY_MS 2

/* ---- Bytes ---- */

/* Waits for events until the deadline: 0, -ETIMEDOUT, -ECANCELED, or poll's errno. */
static int
wait_until(const struct driver_vhost *dev, short events, uint64_t deadline_ns)
{
	for (;;) {
		struct pollfd p[2] = {{.fd = dev->fd, .events = events}, {.fd = dev->interrupt_fd, .events = POLLIN}};
		uint64_t now = clock_now_ns();
		int ms = now >= deadline_ns ? 0 : (int)((deadline_ns - now) / NS_PER_MS + 1);
		int n = poll(p, 2, ms);

		if (n > 0) {
			return p[1].revents != 0 ? -ECANCELED : 0;
		}
		if (n < 0 && errno != EINTR) {
			return -errno;
		}
		if (n == 0 && clock_now_ns() >= deadline_ns) {
			return -ETIMEDOUT;
		}
	}
}

static uint64_t
deadline(const struct driver_vhost *dev)
{
	return clock_now_ns() + dev->timeout_ms * NS_PER_MS;
}

static int
io_error(const struct driver_vhost *dev, int rc, const char *doing, struct err *err)
{
	if (rc == -ETIMEDOUT) {
		return err_set(err, rc, "%s: no answer within %u ms", dev->path, dev->timeout_ms);
	}
	if (rc == -ECONNRESET || rc == -EPIPE) {
		return err_set(err, -ECONNRESET, "%s: the back end hung up", dev->path);
	}
	return err_set(err, rc, "%s: cannot %s: %s", dev->path, doing, strerror(-rc));
}

int
driver_vhost_send_bytes(struct driver_vhost *dev, const void *bytes, size_t len, const int *fds,
			unsigned fd_count, struct err *err)
{
	union {
		struct cmsghdr align;
		char buf[CMSG_SPACE(sizeof(int) * DRIVER_VHOST_FDS_MAX)];
	} control = {0};
	uint64_t until = deadline(dev);
	size_t sent = 0;

	CHECK(fd_count <= DRIVER_VHOST_FDS_MAX);
	while (sent < len) {
		struct iovec iov = {(uint8_t *)(uintptr_t)bytes + sent, len - sent};
		struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
		ssize_t n;

		if (fd_count > 0 && sent == 0) {
			struct cmsghdr *c = &control.align;

			m.msg_control = control.buf;
			m.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
			c->cmsg_level = SOL_SOCKET;
			c->cmsg_type = SCM_RIGHTS;
			c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
			memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
		}
		n = sendmsg(dev->fd, &m, MSG_NOSIGNAL);
		if (n >= 0) {
			sent += (size_t)n;
		} else if (errno == EAGAIN) {
			int rc = wait_until(dev, POLLOUT, until);

			if (rc != 0) {
				return io_error(dev, rc, "send", err);
			}
		} else if (errno != EINTR) {
			return io_error(dev, -errno, "send", err);
		}
	}
	return 0;
}

static void
close_received(struct msghdr *m)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c != NULL; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
			unsigned count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));

			for (unsigned i = 0; i < count; i++) {
				int fd;

				memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
				close(fd);
			}
		}
	}
}

/* Exactly len bytes. */
static int
receive(const struct driver_vhost *dev, uint8_t *buf, size_t len, uint64_t until)
{
	size_t got = 0;

	while (got < len) {
		union {
			struct cmsghdr align;
			char buf[CMSG_SPACE(sizeof(int) * DRIVER_VHOST_FDS_MAX)];
		} control;
		struct iovec iov = {buf + got, len - got};
		struct msghdr m = {.msg_iov = &iov,
				   .msg_iovlen = 1,
				   .msg_control = control.buf,
				   .msg_controllen = sizeof(control.buf)};
		ssize_t n = recvmsg(dev->fd, &m, MSG_CMSG_CLOEXEC);
		int rc;

		if (n > 0) {
			got += (size_t)n;
			close_received(&m);
		} else if (n == 0) {
			return -ECONNRESET;
		} else if (errno == EAGAIN) {
			rc = wait_until(dev, POLLIN, until);
			if (rc != 0) {
				return rc;
			}
		} else if (errno != EINTR) {
			return -errno;
		}
	}
	return 0;
}

int
driver_vhost_receive_bytes(struct driver_vhost *dev, uint8_t buf[VHOST_USER_MESSAGE_MAX],
			   struct err *err)
{
	uint64_t until = deadline(dev);
	int len, rc = receive(dev, buf, VHOST_USER_HEADER_BYTES, until);

	if (rc != 0) {
		return io_error(dev, rc, "receive", err);
	}
	len = vhost_msg_length(buf, err);
	if (len < 0) {
		err_prefix(err, "%s: ", dev->path);
		return len;
	}
	rc = receive(dev, buf + VHOST_USER_HEADER_BYTES, (size_t)len - VHOST_USER_HEADER_BYTES,
		     until);
	return rc != 0 ? io_error(dev, rc, "receive", err) : len;
}

/* ---- Requests ---- */

static int
receive_reply(struct driver_vhost *dev, uint32_t type, struct vhost_user_msg *ret_reply,
	      struct err *err)
{
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	int rc, len = driver_vhost_receive_bytes(dev, buf, err);

	if (len < 0) {
		return len;
	}
	rc = vhost_msg_decode(VHOST_MSG_REPLY, buf, (size_t)len, ret_reply, err);
	if (rc != 0) {
		err_prefix(err, "%s: ", dev->path);
		return rc;
	}
	if (ret_reply->type != type) {
		return err_set(err, -EPROTO, "%s: the back end answered %s where %s was asked",
			       dev->path, vhost_msg_name(VHOST_MSG_REPLY, ret_reply->type),
			       vhost_msg_name(VHOST_MSG_REQUEST, type));
	}
	return 0;
}

int
driver_vhost_request(struct driver_vhost *dev, const struct vhost_user_msg *msg, const int *fds,
		     unsigned fd_count, struct vhost_user_msg *ret_reply, struct err *err)
{
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	const char *name = vhost_msg_name(VHOST_MSG_REQUEST, msg->type);
	bool has_reply = vhost_msg_has_reply(VHOST_MSG_REQUEST, msg->type);
	bool ack = !has_reply && (dev->protocol & 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK) != 0;
	struct vhost_user_msg out = *msg, reply;
	int rc;

	CHECK(has_reply == (ret_reply != NULL));
	if (ack) {
		out.flags |= VHOST_USER_NEED_REPLY;
	}
	rc = driver_vhost_send_bytes(dev, buf, vhost_msg_encode(VHOST_MSG_REQUEST, &out, buf), fds,
				     fd_count, err);
	if (rc == 0 && (ack || has_reply)) {
		rc = receive_reply(dev, msg->type, has_reply ? ret_reply : &reply, err);
		if (rc == 0 && ack && reply.u64 != 0) {
			return err_set(err, -EREMOTEIO, "%s: the back end refused %s", dev->path,
				       name);
		}
	}
	if (rc != 0) {
		err_prefix(err, "%s: ", name);
	}
	return rc;
}

static int
get_u64(struct driver_vhost *dev, uint32_t type, uint64_t *ret_value, struct err *err)
{
	struct vhost_user_msg reply;
	int rc = driver_vhost_request(dev, &(struct vhost_user_msg){.type = type}, NULL, 0, &reply,
				      err);

	if (rc == 0) {
		*ret_value = reply.u64;
	}
	return rc;
}

static int
set_u64(struct driver_vhost *dev, uint32_t type, uint64_t value, int fd, struct err *err)
{
	return driver_vhost_request(dev, &(struct vhost_user_msg){.type = type, .u64 = value}, &fd,
				    fd >= 0 ? 1 : 0, NULL, err);
}

static int
set_state(struct driver_vhost *dev, uint32_t type, unsigned index, unsigned num, struct err *err)
{
	struct vhost_user_msg msg = {.type = type, .state = {.index = index, .num = num}};

	return driver_vhost_request(dev, &msg, NULL, 0, NULL, err);
}

/* ---- Life ---- */

int
driver_vhost_open_until(const char *path, unsigned timeout_ms, int interrupt_fd, struct driver_vhost **ret_dev, struct err *err)
{
	struct driver_vhost *dev = calloc(1, sizeof(*dev));
	uint64_t until;

	if (dev == NULL) {
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	}
	dev->fd = dev->mem_fd = dev->backend_fd = -1;
	dev->interrupt_fd = interrupt_fd;
	dev->timeout_ms = timeout_ms == 0 ? DRIVER_VHOST_TIMEOUT_MS : timeout_ms;
	for (unsigned i = 0; i < DRIVER_VHOST_QUEUES_MAX; i++) {
		dev->queues[i].kick_fd = dev->queues[i].call_fd = -1;
	}
	dev->path = strdup(path);
	if (dev->path == NULL) {
		driver_vhost_close(dev);
		return err_set(err, -ENOMEM, "%s: out of memory", path);
	}
	until = deadline(dev);
	/* EAGAIN: the back end's queue of connections is full just now. */
	while ((dev->fd = unix_connect(path, err)) == -EAGAIN && clock_now_ns() < until) {
		struct pollfd p = {.fd = interrupt_fd, .events = POLLIN};

		if (poll(&p, 1, CONNECT_RETRY_MS) > 0) {
			break;
		}
	}
	if (dev->fd < 0) {
		int rc = dev->fd;

		driver_vhost_close(dev);
		return rc;
	}
	*ret_dev = dev;
	return 0;
}

int
driver_vhost_open(const char *path, unsigned timeout_ms, struct driver_vhost **ret_dev, struct err *err)
{
	return driver_vhost_open_until(path, timeout_ms, -1, ret_dev, err);
}

static void
close_fd(int fd)
{
	if (fd >= 0) {
		close(fd);
	}
}

void
driver_vhost_close(struct driver_vhost *dev)
{
	if (dev == NULL) {
		return;
	}
	for (unsigned i = 0; i < DRIVER_VHOST_QUEUES_MAX; i++) {
		close_fd(dev->queues[i].kick_fd);
		close_fd(dev->queues[i].call_fd);
	}
	close_fd(dev->fd);
	close_fd(dev->backend_fd);
	close_fd(dev->mem_fd);
	if (dev->mem != NULL) {
		munmap(dev->mem, dev->mem_bytes);
	}
	free(dev->path);
	free(dev);
}

bool
driver_vhost_alive(const struct driver_vhost *dev)
{
	struct pollfd p = {.fd = dev->fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) == 0;
}

/* ---- Negotiation ---- */

/* The channel on which the back end speaks by itself. */
static int
open_backend_channel(struct driver_vhost *dev, struct err *err)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, pair) != 0) {
		return err_set(err, -errno, "%s: cannot make a socket pair: %s", dev->path,
			       strerror(errno));
	}
	dev->backend_fd = pair[0];
	rc = driver_vhost_request(dev,
				  &(struct vhost_user_msg){.type = VHOST_USER_SET_BACKEND_REQ_FD},
				  &pair[1], 1, NULL, err);
	close(pair[1]);
	return rc;
}

#define KNOWN_PROTOCOL \
	(1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | \
	 1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ | 1ull << VHOST_USER_PROTOCOL_F_CONFIG | \
	 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)

static bool
agreed(const struct driver_vhost *dev, unsigned protocol_feature)
{
	return (dev->protocol & 1ull << protocol_feature) != 0;
}

static int
negotiate_protocol(struct driver_vhost *dev, uint64_t want, struct err *err)
{
	int rc = get_u64(dev, VHOST_USER_GET_PROTOCOL_FEATURES, &dev->offered_protocol, err);

	if (rc == 0) {
		uint64_t protocol = dev->offered_protocol & want & KNOWN_PROTOCOL;

		rc = set_u64(dev, VHOST_USER_SET_PROTOCOL_FEATURES, protocol, -1, err);
		dev->protocol = protocol;
	}
	if (rc == 0 && agreed(dev, VHOST_USER_PROTOCOL_F_MQ)) {
		uint64_t count = 0;

		rc = get_u64(dev, VHOST_USER_GET_QUEUE_NUM, &count, err);
		dev->max_queues = (unsigned)MIN(count, (uint64_t)DRIVER_VHOST_QUEUES_MAX);
	}
	if (rc == 0 && agreed(dev, VHOST_USER_PROTOCOL_F_BACKEND_REQ)) {
		rc = open_backend_channel(dev, err);
	}
	return rc;
}

int
driver_vhost_negotiate(struct driver_vhost *dev, uint64_t want_features, uint64_t want_protocol,
		       struct err *err)
{
	const uint64_t has_protocol = 1ull << VHOST_USER_F_PROTOCOL_FEATURES;
	int rc = get_u64(dev, VHOST_USER_GET_FEATURES, &dev->offered_features, err);

	if (rc != 0) {
		return rc;
	}
	if ((dev->offered_features & 1ull << VIRTIO_F_VERSION_1) == 0) {
		return err_set(err, -EOPNOTSUPP, "%s: the device is older than virtio 1.0",
			       dev->path);
	}
	dev->max_queues = 1;
	dev->features =
		dev->offered_features & (want_features | has_protocol | 1ull << VIRTIO_F_VERSION_1);
	if ((dev->features & has_protocol) != 0) {
		rc = negotiate_protocol(dev, want_protocol, err);
	}
	if (rc == 0) {
		rc = driver_vhost_request(dev,
					  &(struct vhost_user_msg){.type = VHOST_USER_SET_OWNER},
					  NULL, 0, NULL, err);
	}
	if (rc == 0) {
		rc = set_u64(dev, VHOST_USER_SET_FEATURES, dev->features, -1, err);
	}
	return rc;
}

int
driver_vhost_get_config(struct driver_vhost *dev, void *config, size_t bytes, struct err *err)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_CONFIG,
				     .config = {.size = (uint32_t)bytes}};
	struct vhost_user_msg reply;
	int rc;

	CHECK(bytes <= VHOST_USER_CONFIG_MAX);
	if (!agreed(dev, VHOST_USER_PROTOCOL_F_CONFIG)) {
		return err_set(err, -EOPNOTSUPP, "%s: the back end does not give its configuration",
			       dev->path);
	}
	rc = driver_vhost_request(dev, &msg, NULL, 0, &reply, err);
	if (rc == 0 && reply.config.size < bytes) {
		return err_set(err, -EPROTO, "%s: GET_CONFIG gave %u bytes of %zu", dev->path,
			       reply.config.size, bytes);
	}
	if (rc == 0) {
		memcpy(config, reply.config.data, bytes);
	}
	return rc;
}

bool
driver_vhost_config_changed(struct driver_vhost *dev)
{
	uint8_t buf[VHOST_USER_HEADER_BYTES];
	bool changed = false;

	/*
	 * The messages we know have no payload, and are smaller than the socket writes in
	 * pieces.
	 */
	while (dev->backend_fd >= 0 && recv(dev->backend_fd, buf, sizeof(buf), 0) == sizeof(buf)) {
		struct vhost_user_msg msg;

		if (vhost_msg_decode(VHOST_MSG_BACKEND_REQUEST, buf, sizeof(buf), &msg, NULL) !=
		    0) {
			continue;
		}
		changed |= msg.type == VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
		if ((msg.flags & VHOST_USER_NEED_REPLY) != 0) {
			uint8_t answer[VHOST_USER_MESSAGE_MAX];
			struct vhost_user_msg reply = {.type = msg.type, .flags = VHOST_USER_REPLY};
			size_t len = vhost_msg_encode(VHOST_MSG_BACKEND_REPLY, &reply, answer);

			/* A back end that hung up meanwhile is noticed elsewhere. */
			(void)!send(dev->backend_fd, answer, len, MSG_NOSIGNAL);
		}
	}
	return changed;
}

/* ---- Memory ---- */

static int
map_memory(struct driver_vhost *dev, size_t bytes, struct err *err)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *mem = MAP_FAILED;

	bytes = (bytes + page - 1) / page * page;
	dev->mem_fd = memfd_create("virtio-driver", MFD_CLOEXEC);
	if (dev->mem_fd >= 0 && ftruncate(dev->mem_fd, (off_t)bytes) == 0) {
		mem = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, dev->mem_fd, 0);
	}
	if (mem == MAP_FAILED) {
		return err_set(err, -errno, "%s: cannot map %zu bytes of shared memory: %s",
			       dev->path, bytes, strerror(errno));
	}
	dev->mem = mem;
	dev->mem_bytes = bytes;
	return 0;
}

int
driver_vhost_share(struct driver_vhost *dev, size_t bytes, struct err *err)
{
	struct vhost_user_msg msg = {0};
	struct vhost_user_region region;
	int rc;

	CHECK(dev->mem == NULL && bytes > 0);
	rc = map_memory(dev, bytes, err);
	if (rc != 0) {
		return rc;
	}
	region = (struct vhost_user_region){
		.gpa = DRIVER_VHOST_GPA,
		.size = dev->mem_bytes,
		.uva = (uint64_t)(uintptr_t)dev->mem,
	};
	if (agreed(dev, VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)) {
		msg.type = VHOST_USER_ADD_MEM_REG;
		msg.region = region;
	} else {
		msg.type = VHOST_USER_SET_MEM_TABLE;
		msg.memory = (struct vhost_user_memory){.count = 1, .regions = {region}};
	}
	return driver_vhost_request(dev, &msg, &dev->mem_fd, 1, NULL, err);
}

void *
driver_vhost_alloc(struct driver_vhost *dev, size_t bytes, size_t align, size_t phase)
{
	size_t start = ((dev->mem_used + align - 1) & ~(align - 1)) + phase;

	if (start > dev->mem_bytes || bytes > dev->mem_bytes - start) {
		return NULL;
	}
	dev->mem_used = start + bytes;
	return dev->mem + start;
}

/* ---- Queues ---- */

static int
open_events(struct driver_vhost *dev, unsigned index, struct err *err)
{
	struct driver_vhost_queue *q = &dev->queues[index];

	if (q->kick_fd < 0) {
		q->kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	if (q->call_fd < 0) {
		q->call_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	}
	if (q->kick_fd < 0 || q->call_fd < 0) {
		return err_set(err, -errno, "%s: queue %u: cannot make an eventfd: %s", dev->path,
			       index, strerror(errno));
	}
	return 0;
}

static int
describe_ring(struct driver_vhost *dev, unsigned index, uint16_t base, struct err *err)
{
	struct driver_ring *r = &dev->queues[index].ring;
	struct vhost_user_msg addr = {.type = VHOST_USER_SET_VRING_ADDR,
				      .addr = {.index = index,
					       .desc_user_addr = (uint64_t)(uintptr_t)r->desc,
					       .avail_user_addr = (uint64_t)(uintptr_t)r->avail,
					       .used_user_addr = (uint64_t)(uintptr_t)r->used}};
	int rc = set_state(dev, VHOST_USER_SET_VRING_NUM, index, r->size, err);

	if (rc == 0) {
		rc = set_state(dev, VHOST_USER_SET_VRING_BASE, index, base, err);
	}
	if (rc == 0) {
		rc = driver_vhost_request(dev, &addr, NULL, 0, NULL, err);
	}
	return rc;
}

int
driver_vhost_start_queue(struct driver_vhost *dev, unsigned index, unsigned size, void *desc,
			 void *avail, void *used, uint16_t base, struct err *err)
{
	struct driver_vhost_queue *q = &dev->queues[index];
	int rc;

	CHECK(index < DRIVER_VHOST_QUEUES_MAX && !q->started);
	driver_ring_init(&q->ring, size, desc, avail, used, base,
			 (dev->features & 1ull << VIRTIO_RING_F_EVENT_IDX) != 0);
	rc = open_events(dev, index, err);
	if (rc == 0) {
		rc = describe_ring(dev, index, base, err);
	}
	if (rc == 0) {
		rc = set_u64(dev, VHOST_USER_SET_VRING_CALL, index, q->call_fd, err);
	}
	if (rc == 0) {
		rc = set_u64(dev, VHOST_USER_SET_VRING_KICK, index, q->kick_fd, err);
	}
	if (rc == 0 && (dev->features & 1ull << VHOST_USER_F_PROTOCOL_FEATURES) != 0) {
		rc = set_state(dev, VHOST_USER_SET_VRING_ENABLE, index, 1, err);
	}
	q->started = rc == 0;
	return rc;
}

int
driver_vhost_stop_queue(struct driver_vhost *dev, unsigned index, uint16_t *ret_base,
			struct err *err)
{
	struct vhost_user_msg msg = {.type = VHOST_USER_GET_VRING_BASE, .state = {.index = index}};
	struct vhost_user_msg reply;
	int rc = driver_vhost_request(dev, &msg, NULL, 0, &reply, err);

	if (rc == 0) {
		dev->queues[index].started = false;
		if (ret_base != NULL) {
			*ret_base = (uint16_t)reply.state.num;
		}
	}
	return rc;
}

void
driver_vhost_kick(struct driver_vhost *dev, unsigned index)
{
	uint64_t one = 1;

	/* EAGAIN: the counter is full, so the device has been told. */
	(void)!write(dev->queues[index].kick_fd, &one, sizeof(one));
}
