/* SPDX-License-Identifier: BSD-3-Clause */
#include "sock/stream.h"

#include <errno.h>
#include <sys/socket.h>
#include <unistd.h>

void
stream_close(struct stream *s)
{
	tls_free(s->tls);
	s->tls = NULL;
	if (s->fd >= 0) {
		close(s->fd);
		s->fd = -1;
	}
}

int
stream_start_tls(struct stream *s, struct tls_credentials *c, const char *hostname, struct err *err)
{
	s->tls = tls_create(c, s->fd, hostname, err);
	return s->tls != NULL ? 0 : err->code;
}

int
stream_handshake(struct stream *s, struct err *err)
{
	return tls_handshake(s->tls, err);
}

ssize_t
stream_recv(struct stream *s, void *buf, size_t len)
{
	ssize_t n;

	if (s->tls != NULL) {
		return tls_recv(s->tls, buf, len);
	}
	do {
		n = recv(s->fd, buf, len, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n >= 0 ? n : -errno;
}

/* Entry by entry until one is not filled: each call gives what one record has. */
static ssize_t
recvv_tls(struct tls *t, const struct iovec *iov, int iovcnt)
{
	ssize_t total = 0;

	for (int i = 0; i < iovcnt; i++) {
		size_t filled = 0;

		while (filled < iov[i].iov_len) {
			ssize_t n = tls_recv(t, (char *)iov[i].iov_base + filled, iov[i].iov_len - filled);

			if (n <= 0) {
				/* An error, or the end, is said again by the next call. */
				return total > 0 ? total : n;
			}
			filled += (size_t)n;
			total += n;
		}
	}
	return total;
}

ssize_t
stream_recvv(struct stream *s, const struct iovec *iov, int iovcnt)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)iovcnt};
	ssize_t n;

	if (s->tls != NULL) {
		return recvv_tls(s->tls, iov, iovcnt);
	}
	do {
		n = recvmsg(s->fd, &msg, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	return n >= 0 ? n : -errno;
}

ssize_t
stream_sendv(struct stream *s, const struct iovec *iov, int iovcnt)
{
	struct msghdr msg = {.msg_iov = (struct iovec *)iov, .msg_iovlen = (size_t)iovcnt};
	ssize_t n;

	if (s->tls != NULL) {
		return tls_sendv(s->tls, iov, iovcnt);
	}
	do {
		n = sendmsg(s->fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (n < 0 && errno == EINTR);
	return n >= 0 ? n : -errno;
}
