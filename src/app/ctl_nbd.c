/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The smallest NBD client that does it: fixed newstyle, NBD_OPT_GO, simple replies. berthd is on the other side, and is trusted
 * no further than for its data: what it says is checked.
 */
#include "app/ctl_nbd.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/nbd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/check.h"
#include "nbd/proto.h"
#include "sock/unix.h"

#define REPLY_BYTES 16
#define OPTION_REPLY_MAX 4096

/* ---- Bytes ---- */

/* Sockets are non-blocking. */
static int
wait_for(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, -1) < 0 && errno != EINTR ? -errno : 0;
}

int
ctl_read_all(int fd, void *buf, size_t length)
{
	uint8_t *p = buf;

	while (length > 0) {
		ssize_t n = read(fd, p, length);
		int rc = 0;

		if (n > 0) {
			p += n;
			length -= (size_t)n;
		} else if (n == 0) {
			return -ENODATA;
		} else if (errno == EAGAIN) {
			rc = wait_for(fd, POLLIN);
		} else if (errno != EINTR) {
			rc = -errno;
		}
		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

int
ctl_write_all(int fd, const void *buf, size_t length)
{
	const uint8_t *p = buf;

	while (length > 0) {
		ssize_t n = write(fd, p, length);
		int rc = 0;

		if (n >= 0) {
			p += n;
			length -= (size_t)n;
		} else if (errno == EAGAIN) {
			rc = wait_for(fd, POLLOUT);
		} else if (errno != EINTR) {
			rc = -errno;
		}
		if (rc != 0) {
			return rc;
		}
	}
	return 0;
}

static int
broken(const struct ctl_nbd *n, int rc)
{
	fprintf(stderr, "berth: %s: the connection to berthd's data ended: %s\n", n->context,
		rc == -ENODATA ? "closed" : strerror(-rc));
	return CTL_BROKEN;
}

static int
strange(const struct ctl_nbd *n)
{
	fprintf(stderr, "berth: %s: what serves berthd's data does not answer as it should\n",
		n->context);
	return CTL_BROKEN;
}

/* ---- Handshake ---- */

static int
send_go(struct ctl_nbd *n, const char *export)
{
	uint8_t out[NBD_CLIENT_FLAGS_BYTES + 16 + 4 + 256 + 2], *p = out;
	uint32_t length = (uint32_t)strlen(export);
	int rc;

	CHECK(length < 256);
	p = nbd_put32(p, NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES);
	p = nbd_put64(p, NBD_OPTION_MAGIC);
	p = nbd_put32(p, NBD_OPT_GO);
	p = nbd_put32(p, 4 + length + 2);
	p = nbd_put32(p, length);
	memcpy(p, export, length);
	p += length;
	*p++ = 0; /* no information is asked for */
	*p++ = 0;
	rc = ctl_write_all(n->fd, out, (size_t)(p - out));
	return rc == 0 ? CTL_OK : broken(n, rc);
}

static uint32_t
get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t
get64(const uint8_t *p)
{
	return (uint64_t)get32(p) << 32 | get32(p + 4);
}

/* Until the server has acknowledged. */
static int
take_option_replies(struct ctl_nbd *n)
{
	for (;;) {
		uint8_t head[NBD_OPTION_REPLY_BYTES], data[OPTION_REPLY_MAX];
		uint32_t type, length;
		int rc = ctl_read_all(n->fd, head, sizeof(head));

		if (rc != 0) {
			return broken(n, rc);
		}
		type = get32(head + 12);
		length = get32(head + 16);
		if (get64(head) != NBD_OPTION_REPLY_MAGIC || length > sizeof(data)) {
			return strange(n);
		}
		rc = ctl_read_all(n->fd, data, length);
		if (rc != 0) {
			return broken(n, rc);
		}
		if (type == NBD_REP_ACK) {
			return CTL_OK;
		}
		if (type != NBD_REP_INFO || length < 2) {
			return strange(n);
		}
		if (data[0] == 0 && data[1] == NBD_INFO_EXPORT && length >= 12) {
			n->size_bytes = get64(data + 2);
		}
	}
}

static int
handshake(struct ctl_nbd *n, const char *export)
{
	uint8_t greeting[NBD_GREETING_BYTES];
	int rc = ctl_read_all(n->fd, greeting, sizeof(greeting));

	if (rc != 0) {
		return broken(n, rc);
	}
	if (get64(greeting) != NBD_MAGIC || get64(greeting + 8) != NBD_OPTION_MAGIC) {
		return strange(n);
	}
	rc = send_go(n, export);
	return rc == CTL_OK ? take_option_replies(n) : rc;
}

static int
connect_to(struct ctl_nbd *n, const char *path, const char *export)
{
	struct err err = ERR_NONE;

	n->fd = path != NULL && export != NULL ? unix_connect(path, &err) : -EINVAL;
	if (n->fd < 0) {
		fprintf(stderr, "berth: %s: %s (berthd must be on this machine)\n", n->context,
			err.code != 0 ? err_text(&err) : strerror(-n->fd));
		return CTL_UNREACHABLE;
	}
	return handshake(n, export);
}

int
ctl_nbd_open(struct ctl_nbd *n, struct ctl *ctl, const char *context, const char *bdev, bool write)
{
	json_t *loan = NULL;
	int rc;

	*n = (struct ctl_nbd){.context = context, .fd = -1};
	rc = ctl_call(ctl, context, "berth_nbd_lend",
		      json_pack("{s:s, s:b}", "bdev_name", bdev, "readonly", !write), &loan, NULL);
	if (rc == CTL_OK) {
		rc = connect_to(n, json_string_value(json_object_get(loan, "path")),
				json_string_value(json_object_get(loan, "export")));
	}
	json_decref(loan);
	return rc;
}

void
ctl_nbd_close(struct ctl_nbd *n)
{
	uint8_t out[NBD_REQUEST_BYTES] = {0}, *p = out;

	if (n->fd < 0) {
		return;
	}
	p = nbd_put32(p, NBD_REQUEST_MAGIC);
	p[3] = NBD_CMD_DISC;
	(void)ctl_write_all(n->fd, out, sizeof(out));
	close(n->fd);
	n->fd = -1;
}

/* ---- Requests ---- */

/* Sends one, with `in` for a write, and takes its answer, into `out` for a read. */
static int
request(struct ctl_nbd *n, uint16_t command, uint64_t offset, uint32_t length, const void *in,
	void *out)
{
	uint8_t head[NBD_REQUEST_BYTES], reply[REPLY_BYTES], *p = head;
	uint32_t error;
	int rc;

	p = nbd_put32(p, NBD_REQUEST_MAGIC);
	p = nbd_put32(p, command);
	p = nbd_put64(p, ++n->cookie);
	p = nbd_put64(p, offset);
	nbd_put32(p, length);
	rc = ctl_write_all(n->fd, head, sizeof(head));
	if (rc == 0 && in != NULL) {
		rc = ctl_write_all(n->fd, in, length);
	}
	if (rc == 0) {
		rc = ctl_read_all(n->fd, reply, sizeof(reply));
	}
	if (rc != 0) {
		return broken(n, rc);
	}
	if (get32(reply) != NBD_REPLY_MAGIC || get64(reply + 8) != n->cookie) {
		return strange(n);
	}
	error = get32(reply + 4);
	if (error != 0) {
		fprintf(stderr, "berth: %s: %s of %" PRIu32 " bytes at %" PRIu64 ": %s\n",
			n->context, out != NULL ? "read" : "write", length, offset,
			strerror((int)error));
		return CTL_REFUSED;
	}
	rc = out != NULL ? ctl_read_all(n->fd, out, length) : 0;
	return rc == 0 ? CTL_OK : broken(n, rc);
}

int
ctl_nbd_read(struct ctl_nbd *n, uint64_t offset, void *buf, uint32_t length)
{
	return request(n, NBD_CMD_READ, offset, length, NULL, buf);
}

int
ctl_nbd_write(struct ctl_nbd *n, uint64_t offset, const void *buf, uint32_t length)
{
	return request(n, NBD_CMD_WRITE, offset, length, buf, NULL);
}

int
ctl_nbd_write_zeroes(struct ctl_nbd *n, uint64_t offset, uint32_t length)
{
	return request(n, NBD_CMD_WRITE_ZEROES, offset, length, NULL, NULL);
}

int
ctl_nbd_flush(struct ctl_nbd *n)
{
	return request(n, NBD_CMD_FLUSH, 0, 0, NULL, NULL);
}
