/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A request, one answer: a socket is opened for each call, so there is no state. The kernel's answers are its own, and still
 * only looked at within their bounds.
 */
#include "nbd/kernel.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/check.h"

#define ANSWER_BYTES 8192
#define ANSWER_TIMEOUT_S 30
/* A socket whose other end is gone is noticed by the kernel a little later. */
#define RETRY_US 100000
#define RETRIES 50

/* ---- Messages ---- */

struct message {
	uint8_t *start;
	size_t len;
};

static void
append(struct message *m, const void *data, size_t bytes)
{
	CHECK(m->len + NLA_ALIGN(bytes) <= NBD_KERNEL_MESSAGE_BYTES);
	memset(m->start + m->len, 0, NLA_ALIGN(bytes));
	memcpy(m->start + m->len, data, bytes);
	m->len += NLA_ALIGN(bytes);
}

static void
begin(struct message *m, uint16_t type, uint8_t command, uint8_t version)
{
	struct nlmsghdr h = {.nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK};
	struct genlmsghdr g = {.cmd = command, .version = version};

	m->len = 0;
	append(m, &h, sizeof(h));
	append(m, &g, sizeof(g));
}

static size_t
finish(struct message *m)
{
	struct nlmsghdr h;

	memcpy(&h, m->start, sizeof(h));
	h.nlmsg_len = (uint32_t)m->len;
	memcpy(m->start, &h, sizeof(h));
	return m->len;
}

static void
attribute(struct message *m, uint16_t type, const void *data, size_t bytes)
{
	struct nlattr a = {.nla_len = (uint16_t)(NLA_HDRLEN + bytes), .nla_type = type};

	append(m, &a, sizeof(a));
	append(m, data, bytes);
}

static void
number32(struct message *m, uint16_t type, uint32_t v)
{
	attribute(m, type, &v, sizeof(v));
}

static void
number64(struct message *m, uint16_t type, uint64_t v)
{
	attribute(m, type, &v, sizeof(v));
}

/* A list of one socket: three attributes, one in the other. */
static void
sockets(struct message *m, int fd)
{
	uint32_t number = (uint32_t)fd;
	struct nlattr inner = {.nla_len = NLA_HDRLEN + sizeof(number), .nla_type = NBD_SOCK_FD};
	struct nlattr item = {.nla_len = (uint16_t)(NLA_HDRLEN + inner.nla_len), .nla_type = NBD_SOCK_ITEM | NLA_F_NESTED};
	struct nlattr all = {.nla_len = (uint16_t)(NLA_HDRLEN + item.nla_len), .nla_type = NBD_ATTR_SOCKETS | NLA_F_NESTED};

	append(m, &all, sizeof(all));
	append(m, &item, sizeof(item));
	append(m, &inner, sizeof(inner));
	append(m, &number, sizeof(number));
}

size_t
nbd_kernel_encode(const struct nbd_kernel_disk *d, uint16_t family, int reconfigure, uint8_t out[NBD_KERNEL_MESSAGE_BYTES])
{
	struct message m = {.start = out};

	begin(&m, family, reconfigure ? NBD_CMD_RECONFIGURE : NBD_CMD_CONNECT, NBD_GENL_VERSION);
	if (d->index >= 0) {
		number32(&m, NBD_ATTR_INDEX, (uint32_t)d->index);
	}
	number64(&m, NBD_ATTR_SIZE_BYTES, d->size_bytes);
	number64(&m, NBD_ATTR_BLOCK_SIZE_BYTES, d->block_size);
	number64(&m, NBD_ATTR_TIMEOUT, d->timeout_s);
	number64(&m, NBD_ATTR_DEAD_CONN_TIMEOUT, d->dead_timeout_s);
	if (!reconfigure) {
		number64(&m, NBD_ATTR_SERVER_FLAGS, d->flags);
	}
	attribute(&m, NBD_ATTR_BACKEND_IDENTIFIER, d->id, strlen(d->id) + 1);
	if (d->fd >= 0) {
		sockets(&m, d->fd);
	}
	return finish(&m);
}

/* ---- Talking ---- */

static int
open_netlink(struct err *err)
{
	struct timeval patience = {.tv_sec = ANSWER_TIMEOUT_S};
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);

	if (fd < 0) {
		return err_set(err, -errno, "cannot talk to the kernel: %s", strerror(errno));
	}
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	if (connect(fd, (struct sockaddr *)&kernel, sizeof(kernel)) != 0) {
		int rc = err_set(err, -errno, "cannot talk to the kernel: %s", strerror(errno));

		close(fd);
		return rc;
	}
	return fd;
}

/* The attribute of that type in a generic netlink message: its data's address; NULL: not there, or shorter than that. */
static const uint8_t *
find(const uint8_t *message, size_t len, uint16_t type, size_t bytes)
{
	size_t at = NLMSG_HDRLEN + GENL_HDRLEN;

	while (at + NLA_HDRLEN <= len) {
		struct nlattr a;

		memcpy(&a, message + at, sizeof(a));
		if (a.nla_len < NLA_HDRLEN || a.nla_len > len - at) {
			return NULL;
		}
		if ((a.nla_type & NLA_TYPE_MASK) == type && a.nla_len >= NLA_HDRLEN + bytes) {
			return message + at + NLA_HDRLEN;
		}
		at += NLA_ALIGN(a.nla_len);
	}
	return NULL;
}

/*
 * Sends the message, waits for its acknowledgement. An attribute of what is answered before that (of 2 or 4 bytes) is stored in
 * *ret. 0 or a negative errno.
 */
static int
call(int fd, const uint8_t *message, size_t len, uint16_t wanted, size_t bytes, uint32_t *ret)
{
	_Alignas(NLMSG_ALIGNTO) uint8_t answer[ANSWER_BYTES];

	if (send(fd, message, len, 0) != (ssize_t)len) {
		return -errno;
	}
	for (;;) {
		ssize_t n = recv(fd, answer, sizeof(answer), 0);
		struct nlmsghdr h;
		size_t at = 0;

		if (n < 0) {
			return errno == EAGAIN ? -ETIMEDOUT : -errno;
		}
		while (at + sizeof(h) <= (size_t)n) {
			const uint8_t *value;
			int32_t code;

			memcpy(&h, answer + at, sizeof(h));
			if (h.nlmsg_len < sizeof(h) || h.nlmsg_len > (size_t)n - at) {
				return -EPROTO;
			}
			if (h.nlmsg_type == NLMSG_ERROR) {
				if (h.nlmsg_len < sizeof(h) + sizeof(code)) {
					return -EPROTO;
				}
				memcpy(&code, answer + at + sizeof(h), sizeof(code));
				return code;
			}
			value = find(answer + at, h.nlmsg_len, wanted, bytes);
			if (value != NULL) {
				*ret = 0;
				memcpy(ret, value, bytes);
			}
			at += NLMSG_ALIGN(h.nlmsg_len);
		}
	}
}

/* The number by which the kernel calls its nbd. */
static int
find_family(int fd, uint16_t *ret, struct err *err)
{
	uint8_t out[NBD_KERNEL_MESSAGE_BYTES];
	struct message m = {.start = out};
	uint32_t family = 0;
	int rc;

	begin(&m, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, 1);
	attribute(&m, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
	rc = call(fd, out, finish(&m), CTRL_ATTR_FAMILY_ID, sizeof(uint16_t), &family);
	if (rc == -ENOENT || (rc == 0 && family == 0)) {
		return err_set(err, -ENODEV, "this kernel has no nbd (modprobe nbd, where there is the module)");
	}
	*ret = (uint16_t)family;
	return rc == 0 ? 0 : err_set(err, rc, "cannot ask the kernel for nbd: %s", strerror(-rc));
}

static int
open_nbd(uint16_t *ret_family, struct err *err)
{
	int fd = open_netlink(err), rc;

	if (fd < 0) {
		return fd;
	}
	rc = find_family(fd, ret_family, err);
	if (rc != 0) {
		close(fd);
		return rc;
	}
	return fd;
}

/* ---- Disks ---- */

int
nbd_kernel_index(const char *device)
{
	static const char prefix[] = "/dev/nbd";
	const char *digits = device + strlen(prefix);
	unsigned long index;
	char *end;

	if (strncmp(device, prefix, strlen(prefix)) != 0 || *digits < '0' || *digits > '9') {
		return -EINVAL;
	}
	index = strtoul(digits, &end, 10);
	return *end == '\0' && index < 1 << 20 ? (int)index : -EINVAL;
}

/* Whether the disk is there already, and ours. */
static bool
waits_for_us(const struct nbd_kernel_disk *d)
{
	char path[64], id[NBD_KERNEL_ID_BYTES + 1] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/block/nbd%d/backend", d->index);
	f = d->index >= 0 ? fopen(path, "re") : NULL;
	if (f == NULL) {
		return false;
	}
	(void)!fgets(id, sizeof(id), f);
	fclose(f);
	id[strcspn(id, "\n")] = '\0';
	return strcmp(id, d->id) == 0;
}

static int
explain(const struct nbd_kernel_disk *d, int rc, struct err *err)
{
	switch (rc) {
	case -EBUSY:
		return err_set(err, rc, "/dev/nbd%d is in use", d->index);
	case -EPERM:
		return err_set(err, rc, "to make kernel disks takes CAP_SYS_ADMIN");
	case -EINVAL:
	case -ENODEV:
	case -ENOENT:
		return err_set(err, -ENODEV, "the kernel makes no /dev/nbd%d: %s", d->index, strerror(-rc));
	default:
		return err_set(err, rc, "the kernel makes no disk: %s", strerror(-rc));
	}
}

int
nbd_kernel_connect(const struct nbd_kernel_disk *d, struct err *err)
{
	uint8_t out[NBD_KERNEL_MESSAGE_BYTES];
	uint32_t index = (uint32_t)d->index;
	uint16_t family;
	int fd = open_nbd(&family, err), rc;
	bool ours = waits_for_us(d);

	if (fd < 0) {
		return fd;
	}
	for (unsigned i = 0;; i++) {
		rc = call(fd, out, nbd_kernel_encode(d, family, ours, out), NBD_ATTR_INDEX, sizeof(index), &index);
		if (rc != -ENOSPC || !ours || i == RETRIES) {
			break;
		}
		usleep(RETRY_US);
	}
	close(fd);
	return rc == 0 ? (int)index : explain(d, rc, err);
}

int
nbd_kernel_resize(const struct nbd_kernel_disk *d, struct err *err)
{
	uint8_t out[NBD_KERNEL_MESSAGE_BYTES];
	struct nbd_kernel_disk copy = *d;
	uint16_t family;
	uint32_t unused;
	int fd = open_nbd(&family, err), rc;

	if (fd < 0) {
		return fd;
	}
	copy.fd = -1;
	rc = call(fd, out, nbd_kernel_encode(&copy, family, true, out), NBD_ATTR_INDEX, sizeof(unused), &unused);
	close(fd);
	return rc == 0 ? 0 : err_set(err, rc, "/dev/nbd%d keeps its size: %s", d->index, strerror(-rc));
}

int
nbd_kernel_disconnect(int index, struct err *err)
{
	uint8_t out[NBD_KERNEL_MESSAGE_BYTES];
	struct message m = {.start = out};
	uint16_t family;
	uint32_t unused;
	int fd = open_nbd(&family, err), rc;

	if (fd < 0) {
		return fd;
	}
	begin(&m, family, NBD_CMD_DISCONNECT, NBD_GENL_VERSION);
	number32(&m, NBD_ATTR_INDEX, (uint32_t)index);
	rc = call(fd, out, finish(&m), NBD_ATTR_INDEX, sizeof(unused), &unused);
	close(fd);
	return rc == 0 ? 0 : err_set(err, rc, "the kernel keeps /dev/nbd%d: %s", index, strerror(-rc));
}
