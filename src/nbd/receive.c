/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a client sends. Many requests are received by one call, into a large buffer; short payloads stay where they are, and the
 * buffer with them until the last is written. Long ones are received straight into buffers of their own, with the header
 * of the next request behind them.
 *
 *   buffer   | done, perhaps in use | received, [in_start, in_end) | room |
 *
 * Invariants
 *  1. While a payload is being filled in, or skipped, nothing that was received is left: [in_start, in_end) is empty.
 *  2. At least one whole message that is not filled in fits between in_start and the end of the buffer before more is received.
 *  3. The header of a request leaves the buffer only when the request has all the memory it needs: who waited looks at it
 *     again.
 *  4. A turn starts TURN_BYTES of data at most, or one request: what is read is sent before it leaves the cache.
 */
#include <errno.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/iov.h"
#include "nbd/internal.h"

/* Payloads from that size on are not used where they were received. */
#define DIRECT_BYTES 16384
/* So much is received behind them. */
#define AHEAD_BYTES 4096
#define ROOM_MIN (DIRECT_BYTES + NBD_EXTENDED_REQUEST_BYTES)
#define TURN_BYTES (512u << 10)
/* What a request without data counts for. */
#define REQUEST_COST 512
#define FILL_IOV 64

static uint32_t
received(const struct nbd_session *s)
{
	return s->in_end - s->in_start;
}

static bool
may_start(const struct nbd_session *s)
{
	return !s->ending && !s->waiting && !s->paused && s->turn_left > 0;
}

/* ---- The buffer ---- */

static struct nbd_buffer *
get_in(struct nbd_session *s)
{
	struct nbd_buffer *b = nbd_buffer_get(s->t, &s->t->large);

	if (b == NULL) {
		nbd_session_wait(s, 1);
	}
	return b;
}

/* False: the session waits. */
static bool
make_room(struct nbd_session *s)
{
	uint32_t bytes = received(s);
	struct nbd_buffer *b = s->in;

	if (b != NULL && bytes == 0 && b->refs == 1) {
		s->in_start = 0;
		s->in_end = 0;
		return true;
	}
	if (b != NULL && NBD_LARGE_BYTES - s->in_start >= ROOM_MIN && s->in_end < NBD_LARGE_BYTES) {
		return true;
	}
	if (b == NULL || b->refs > 1) {
		b = get_in(s);
		if (b == NULL) {
			return false;
		}
	}
	if (s->in != NULL) {
		memmove(b->data, s->in->data + s->in_start, bytes);
	}
	if (s->in != NULL && s->in != b) {
		nbd_buffer_put(s->t, s->in);
	}
	s->in = b;
	s->in_start = 0;
	s->in_end = bytes;
	return true;
}

static void
drop_in(struct nbd_session *s)
{
	struct nbd_buffer *b = s->in;

	s->in = NULL;
	s->in_start = 0;
	s->in_end = 0;
	if (b != NULL) {
		nbd_buffer_put(s->t, b);
	}
}

void
nbd_receive_idle(struct nbd_session *s)
{
	if (s->in != NULL && s->in->refs == 1 && received(s) == 0 && !s->inside) {
		drop_in(s);
	}
}

void
nbd_receive_release(struct nbd_session *s)
{
	struct nbd_io *fill = s->fill;

	s->fill = NULL;
	if (fill != NULL) {
		nbd_request_put(fill);
	}
	drop_in(s);
}

/* What came with the handshake. */
static bool
take_early(struct nbd_session *s)
{
	CHECK(s->setup.early_len <= NBD_LARGE_BYTES);
	if (!make_room(s)) {
		return false;
	}
	memcpy(s->in->data, s->setup.early, s->setup.early_len);
	s->in_end = (uint32_t)s->setup.early_len;
	free(s->setup.early);
	s->setup.early = NULL;
	return true;
}

/* ---- Requests ---- */

static void
consume(struct nbd_session *s, uint32_t bytes)
{
	s->in_start += bytes;
}

static void
count_turn(struct nbd_session *s, uint64_t bytes)
{
	s->turn_left -= (uint32_t)MIN((uint64_t)s->turn_left, bytes + REQUEST_COST);
}

/* Copies what was received of the payload that is being filled in. */
static void
fill_from_in(struct nbd_session *s)
{
	struct nbd_io *r = s->fill;
	uint32_t bytes = (uint32_t)MIN((uint64_t)received(s), r->header.length - r->filled);

	if (bytes > 0) {
		size_t copied = iov_from_buf(r->iov + 1, r->data_count, r->filled, s->in->data + s->in_start, bytes);

		CHECK(copied == bytes);
		r->filled += bytes;
		consume(s, bytes);
	}
}

/* False: more bytes must come first. */
static bool
end_fill(struct nbd_session *s)
{
	struct nbd_io *r = s->fill;

	fill_from_in(s);
	if (r->filled < r->header.length) {
		return false;
	}
	s->fill = NULL;
	nbd_request_start(r);
	return true;
}

static bool
end_skip(struct nbd_session *s)
{
	uint32_t bytes = (uint32_t)MIN((uint64_t)received(s), s->skip);

	consume(s, bytes);
	s->skip -= bytes;
	return s->skip == 0;
}

static bool
start_write(struct nbd_session *s, const struct nbd_header *h)
{
	struct nbd_io *r;

	s->direct = h->length >= DIRECT_BYTES;
	if (s->direct || s->copies) {
		r = nbd_request_get(s, h, h->length);
		if (r == NULL) {
			return false;
		}
		consume(s, s->header_bytes);
		s->fill = r;
		count_turn(s, h->length);
		return true;
	}
	if (received(s) < s->header_bytes + h->length) {
		return false;
	}
	r = nbd_request_get(s, h, 0);
	if (r == NULL) {
		return false;
	}
	nbd_request_use(r, s->in->data + s->in_start + s->header_bytes, (uint32_t)h->length);
	consume(s, s->header_bytes + (uint32_t)h->length);
	count_turn(s, h->length);
	nbd_request_start(r);
	return true;
}

/* What has no payload, or one that is not wanted, because rc is not 0. */
static bool
start_other(struct nbd_session *s, const struct nbd_header *h, uint64_t payload, int rc)
{
	uint64_t bytes = rc == 0 && h->type == NBD_CMD_READ ? h->length : 0;
	bool in_place = bytes > 0 && s->memory != NULL;
	struct nbd_io *r = nbd_request_get(s, h, in_place ? 0 : bytes);

	if (r == NULL) {
		return false;
	}
	if (in_place) {
		nbd_request_read_in_place(r);
	}
	consume(s, s->header_bytes);
	s->skip = payload;
	s->direct = false;
	count_turn(s, bytes);
	if (rc != 0) {
		nbd_request_answer(r, rc);
	} else {
		nbd_request_start(r);
	}
	return true;
}

/* False: more bytes must come first, or the session waits, or ends. */
static bool
start_next(struct nbd_session *s)
{
	bool extended = s->setup.style == NBD_EXTENDED;
	struct nbd_header h;
	uint64_t payload;
	int rc;

	if (received(s) < s->header_bytes) {
		return false;
	}
	if (!nbd_get_request(s->in->data + s->in_start, extended, &h)) {
		nbd_session_end(s, -EPROTO, "it sent something that is no request");
		return false;
	}
	if (h.type == NBD_CMD_DISC) {
		nbd_session_end(s, 0, NULL);
		return false;
	}
	payload = h.type == NBD_CMD_WRITE || (extended && (h.flags & NBD_REQUEST_PAYLOAD_LEN) != 0) ? h.length : 0;
	if (payload > NBD_PAYLOAD_SKIP_MAX) {
		nbd_session_end(s, -EPROTO, "it sent a request that is too long");
		return false;
	}
	rc = nbd_request_check(s, &h);
	if (rc == 0 && payload > 0) {
		return start_write(s, &h);
	}
	return start_other(s, &h, payload, rc);
}

static int
start_requests(struct nbd_session *s)
{
	int started = 0;

	while (may_start(s)) {
		if (s->fill != NULL ? !end_fill(s) : s->skip > 0 ? !end_skip(s) : !start_next(s)) {
			break;
		}
		started++;
	}
	return started;
}

/* ---- Bytes ---- */

/* What is missing of the payload; entries used. *ret_bytes: of those. */
static int
fill_iov(const struct nbd_io *r, struct iovec *iov, size_t *ret_bytes)
{
	uint32_t skip = r->filled;
	int count = 0;

	*ret_bytes = 0;
	for (unsigned i = 1; i <= r->data_count && count < FILL_IOV; i++) {
		const struct iovec *v = &r->iov[i];

		if (skip >= v->iov_len) {
			skip -= (uint32_t)v->iov_len;
			continue;
		}
		iov[count] = (struct iovec){.iov_base = (uint8_t *)v->iov_base + skip, .iov_len = v->iov_len - skip};
		*ret_bytes += iov[count++].iov_len;
		skip = 0;
	}
	return count;
}

/* Where the next bytes go. The number of entries; 0: the session waits. */
static int
prepare(struct nbd_session *s, struct iovec iov[FILL_IOV + 1], size_t *ret_fill, size_t *ret_all)
{
	int count = 0;
	size_t room;

	*ret_fill = 0;
	if (s->fill != NULL) {
		count = fill_iov(s->fill, iov, ret_fill);
		*ret_all = *ret_fill;
		/* Not all of it yet, or no memory to look ahead: then only that. */
		if (*ret_fill + s->fill->filled < s->fill->header.length ||
		    (s->in == NULL && !nbd_buffers_left(&s->t->large, 1))) {
			return count;
		}
	}
	if (!make_room(s)) {
		return 0;
	}
	room = NBD_LARGE_BYTES - s->in_end;
	if (s->fill != NULL || s->direct) {
		room = MIN(room, (size_t)AHEAD_BYTES);
	}
	CHECK(room > 0);
	iov[count++] = (struct iovec){.iov_base = s->in->data + s->in_end, .iov_len = room};
	*ret_all = *ret_fill + room;
	return count;
}

static void
lost(struct nbd_session *s, ssize_t n)
{
	bool between = s->fill == NULL && s->skip == 0 && received(s) == 0;

	if (n == 0) {
		nbd_session_end(s, between ? 0 : -ECONNRESET, between ? NULL : "it hung up in the middle of a request");
	} else {
		nbd_session_break(s, (int)n, "the connection was lost");
	}
}

/* True when the socket had as much as was asked for, and may have more. *ret_work: there were bytes. */
static bool
fetch(struct nbd_session *s, int *ret_work)
{
	struct iovec iov[FILL_IOV + 1];
	size_t fill, all;
	int count = prepare(s, iov, &fill, &all);
	ssize_t n;

	if (count == 0) {
		return false;
	}
	n = count == 1 ? stream_recv(&s->setup.stream, iov[0].iov_base, iov[0].iov_len)
		       : stream_recvv(&s->setup.stream, iov, count);
	if (n == -EAGAIN) {
		return false;
	}
	*ret_work += 1;
	if (n <= 0) {
		lost(s, n);
		return false;
	}
	s->moved += (uint64_t)n;
	if (s->fill != NULL) {
		s->fill->filled += (uint32_t)MIN((size_t)n, fill);
	}
	if ((size_t)n > fill) {
		s->in_end += (uint32_t)((size_t)n - fill);
	}
	return (size_t)n == all;
}

int
nbd_receive(struct nbd_session *s)
{
	bool more = true;
	int work = 0;

	if (s->waiting || s->paused || (s->setup.early != NULL && !take_early(s))) {
		return 0;
	}
	s->turn_left = TURN_BYTES;
	work += start_requests(s);
	while (more && may_start(s)) {
		more = fetch(s, &work);
		work += start_requests(s);
	}
	if (!s->ending && s->in != NULL && s->in->refs == 1 && received(s) == 0) {
		drop_in(s);
	}
	return work;
}
