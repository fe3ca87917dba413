/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a client is sent: replies in the order in which they were made, many by one call, at the end of the turn that made them.
 *
 * Invariants
 *  1. A reply that was sent in part is the first, and goes on where it stopped.
 *  2. out_bytes is what is still to be sent; OUT_HIGH_BYTES of request.c bound it but for one turn's replies.
 */
#include <errno.h>

#include "base/check.h"
#include "nbd/internal.h"

#define OUT_IOV 512
#define OUT_BYTES (1u << 20)

/* Gathers from the first reply on; the bytes in *ret_bytes. */
static int
gather(const struct nbd_session *s, struct iovec iov[OUT_IOV], size_t *ret_bytes)
{
	const struct nbd_io *r = s->out_first;
	size_t skip = s->out_offset, bytes = 0;
	int n = 0;

	for (; r != NULL && bytes < OUT_BYTES; r = r->next) {
		for (unsigned i = 0; i < r->reply_count; i++) {
			if (skip >= r->iov[i].iov_len) {
				skip -= r->iov[i].iov_len;
				continue;
			}
			if (n == OUT_IOV) {
				*ret_bytes = bytes;
				return n;
			}
			iov[n].iov_base = (uint8_t *)r->iov[i].iov_base + skip;
			iov[n].iov_len = MIN(r->iov[i].iov_len - skip, OUT_BYTES - bytes);
			bytes += iov[n++].iov_len;
			if (bytes == OUT_BYTES) {
				break;
			}
			skip = 0;
		}
	}
	*ret_bytes = bytes;
	return n;
}

static void
sent(struct nbd_session *s, size_t bytes)
{
	s->moved += bytes;
	s->out_bytes -= bytes;
	s->out_offset += bytes;
	while (s->out_first != NULL && s->out_offset >= s->out_first->reply_bytes) {
		struct nbd_io *r = s->out_first;

		s->out_offset -= r->reply_bytes;
		s->out_first = r->next;
		nbd_request_put(r);
	}
}

int
nbd_send_out(struct nbd_session *s)
{
	struct iovec iov[OUT_IOV];
	size_t bytes;
	int work = 0;

	while (nbd_send_pending(s)) {
		int count = gather(s, iov, &bytes);
		ssize_t n = stream_sendv(&s->setup.stream, iov, count);

		if (n == -EAGAIN) {
			break;
		}
		if (n < 0) {
			nbd_session_break(s, (int)n, "the connection was lost");
			break;
		}
		work = 1;
		sent(s, (size_t)n);
		if ((size_t)n < bytes || stream_unsent(&s->setup.stream)) {
			break;
		}
	}
	return work;
}

static void
flush(struct defer *d)
{
	struct nbd_session *s = CONTAINER_OF(d, struct nbd_session, flush);

	s->flush_queued = false;
	if (!s->broken) {
		nbd_send_out(s);
		/* Armed, it must be told of what did not fit. */
		if (nbd_send_pending(s)) {
			poller_wake(&s->poller);
		}
	}
	nbd_session_settle(s);
}

void
nbd_send_reply(struct nbd_io *r)
{
	struct nbd_session *s = r->session;

	r->next = NULL;
	if (s->out_first == NULL) {
		s->out_first = r;
	} else {
		s->out_last->next = r;
	}
	s->out_last = r;
	s->out_bytes += r->reply_bytes;
	if (!s->flush_queued) {
		s->flush_queued = true;
		thread_batch(&s->flush, flush);
	}
}

void
nbd_send_release(struct nbd_session *s)
{
	while (s->out_first != NULL) {
		struct nbd_io *r = s->out_first;

		s->out_first = r->next;
		nbd_request_put(r);
	}
	s->out_bytes = 0;
	s->out_offset = 0;
}
