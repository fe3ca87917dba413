/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A connected byte stream, unix or TCP, plain or in TLS: what protocols read from and write to without knowing which. One
 * thread at a time; nothing here waits.
 */
#ifndef SOCK_STREAM_H
#define SOCK_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/err.h"
#include "sock/tls.h"

/* Embedded; fields are read-only for its owner. */
struct stream {
	int fd;
	struct tls *tls; /* NULL: plain */
};

/* Takes fd, a connected non-blocking socket. */
static inline void
stream_init(struct stream *s, int fd)
{
	*s = (struct stream){.fd = fd};
}

/* Closes; harmless when closed already (fd -1). Watches on the descriptor must be stopped. */
void stream_close(struct stream *s);

/* From here on in TLS; nothing may have been read ahead. Then stream_handshake() until it is 0. 0, or a negative errno with
 * err. */
int stream_start_tls(struct stream *s, struct tls_credentials *c, const char *hostname, struct err *err);
/* As tls_handshake(). */
int stream_handshake(struct stream *s, struct err *err);

/* Bytes received, > 0; 0 at the end of the stream; -EAGAIN; another negative errno. */
ssize_t stream_recv(struct stream *s, void *buf, size_t len);
ssize_t stream_recvv(struct stream *s, const struct iovec *iov, int iovcnt);

/* Bytes sent, perhaps not all; -EAGAIN; -EPIPE or another negative errno. No SIGPIPE. At most IOV_MAX entries. */
ssize_t stream_sendv(struct stream *s, const struct iovec *iov, int iovcnt);

/* There are bytes to receive that the descriptor does not tell of. */
static inline bool
stream_pending(const struct stream *s)
{
	return s->tls != NULL && tls_pending(s->tls) > 0;
}

/* Bytes that were sent wait in here: when the descriptor is writable, stream_sendv() of nothing moves them on. */
static inline bool
stream_unsent(const struct stream *s)
{
	return s->tls != NULL && tls_unsent(s->tls);
}

#endif
