/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A request, from its header to its reply.
 *
 *   read            [block status of the range ->] read ---------> data, holes
 *   write, zeroes   ---------------------------------------------> status
 *   trim            discard [-> flush, when it must be on disk] -> status
 *   block status    ---------------------------------------------> extents
 *   flush, cache    ---------------------------------------------> status
 *
 * Invariants
 *  1. A request is answered exactly once, also with an error of what it asks for.
 *  2. Its buffers stay until the reply has left, its payload's until it is written. Reads of a bdev that is memory
 *     (bdev_memory()) have none: they are sent from there, as they are by then. Who writes at the same time may be seen.
 *  3. A hole is said to be one only when it reads as zeroes: what has no storage of its own may show a parent's data.
 */
#include <errno.h>

#include "base/check.h"
#include "base/iov.h"
#include "nbd/internal.h"

/* Reads from that size on ask first whether there is anything but holes. */
#define HOLES_MIN_BYTES 65536
/* Of a block status, so that the chunks of all contexts find room behind them. */
#define STATUS_MAX                                                       \
	((NBD_SMALL_BYTES - NBD_CONTEXTS * (size_t)NBD_REPLY_HEAD_MAX) / \
	 (sizeof(struct bdev_extent) + NBD_CONTEXTS * (size_t)NBD_EXTENT_BYTES_MAX))
/* Of a read, so that the chunks' heads and the list of them find room in one small buffer each. */
#define CHUNKS_MAX 64

_Static_assert(CHUNKS_MAX * (NBD_REPLY_HEAD_MAX + sizeof(struct bdev_extent)) <= NBD_SMALL_BYTES, "they share a buffer");

enum stage {
	STAGE_LAST, /* then comes the reply */
	STAGE_HOLES,
	STAGE_CHUNKS, /* the read after it */
	STAGE_TRIM,
};

/* More is paused. */
#define OUT_HIGH_BYTES (1u << 20)

/* ---- Memory ---- */

static bool
is_full(const struct nbd_session *s, uint64_t bytes)
{
	return s->count >= NBD_SESSION_REQUESTS || s->out_bytes >= OUT_HIGH_BYTES ||
	       (s->bytes > 0 && s->bytes + bytes > NBD_SESSION_BYTES);
}

static bool
has_room_again(const struct nbd_session *s)
{
	return s->count <= NBD_SESSION_REQUESTS / 2 && s->out_bytes <= OUT_HIGH_BYTES / 2;
}

static void
drop_buffers(struct nbd_io *r)
{
	struct nbd_session *s = r->session;

	while (r->buffer != NULL) {
		struct nbd_buffer *b = r->buffer;

		/* One that is shared is on no list of ours. */
		r->buffer = r->in_place ? NULL : b->next;
		nbd_buffer_put(s->t, b);
		if (r->in_place && b == s->in) {
			nbd_receive_idle(s);
		}
	}
	if (r->vector != NULL) {
		nbd_buffer_put(s->t, r->vector);
	}
	if (r->extra != NULL) {
		nbd_buffer_put(s->t, r->extra);
	}
	r->vector = NULL;
	r->extra = NULL;
}

static struct nbd_buffer *
get_small(struct nbd_session *s)
{
	return nbd_buffer_get(s->t, &s->t->small);
}

/* One buffer for short data. */
static bool
get_one(struct nbd_io *r, uint32_t bytes)
{
	struct nbd_session *s = r->session;

	if (bytes <= NBD_SMALL_BYTES) {
		r->buffer = get_small(s);
	}
	if (r->buffer == NULL) {
		r->buffer = nbd_buffer_get(s->t, &s->t->large);
	}
	if (r->buffer == NULL) {
		return false;
	}
	r->buffer->next = NULL;
	r->own[1] = (struct iovec){.iov_base = r->buffer->data, .iov_len = bytes};
	r->data_count = 1;
	return true;
}

static bool
get_many(struct nbd_io *r, uint32_t bytes)
{
	struct nbd_session *s = r->session;
	struct nbd_buffer **last = &r->buffer;

	r->vector = get_small(s);
	if (r->vector == NULL) {
		return false;
	}
	r->iov = (struct iovec *)r->vector->data;
	for (; bytes > 0; last = &(*last)->next) {
		uint32_t part = MIN(bytes, (uint32_t)NBD_LARGE_BYTES);

		*last = nbd_buffer_get(s->t, &s->t->large);
		if (*last == NULL) {
			return false;
		}
		(*last)->next = NULL;
		r->iov[1 + r->data_count++] = (struct iovec){.iov_base = (*last)->data, .iov_len = part};
		bytes -= part;
	}
	return true;
}

_Static_assert((1 + NBD_PAYLOAD_MAX / NBD_LARGE_BYTES) * sizeof(struct iovec) <= NBD_SMALL_BYTES, "the largest list");

static bool
get_buffers(struct nbd_io *r, uint32_t bytes)
{
	return bytes == 0 || (bytes <= NBD_LARGE_BYTES ? get_one(r, bytes) : get_many(r, bytes));
}

struct nbd_io *
nbd_request_get(struct nbd_session *s, const struct nbd_header *h, uint64_t bytes)
{
	unsigned large = bytes <= NBD_SMALL_BYTES ? 0 : (unsigned)((bytes + NBD_LARGE_BYTES - 1) / NBD_LARGE_BYTES);
	struct nbd_io *r;

	if (is_full(s, bytes)) {
		s->paused = true;
		return NULL;
	}
	r = nbd_buffers_left(&s->t->large, large) ? nbd_request_take(s->requests) : NULL;
	if (r == NULL) {
		nbd_session_wait(s, large);
		return NULL;
	}
	r->session = s;
	r->header = *h;
	r->iov = r->own;
	r->data_count = 0;
	r->reply_count = 1;
	r->stage = STAGE_LAST;
	r->in_place = false;
	r->filled = 0;
	r->charged = (uint32_t)bytes;
	r->buffer = NULL;
	r->vector = NULL;
	r->extra = NULL;
	s->count++;
	s->bytes += bytes;
	if (!get_buffers(r, (uint32_t)bytes)) {
		nbd_request_put(r);
		nbd_session_wait(s, large);
		return NULL;
	}
	return r;
}

void
nbd_request_use(struct nbd_io *r, uint8_t *data, uint32_t bytes)
{
	r->buffer = r->session->in;
	r->buffer->refs++;
	r->in_place = true;
	r->own[1] = (struct iovec){.iov_base = data, .iov_len = bytes};
	r->data_count = 1;
}

void
nbd_request_read_in_place(struct nbd_io *r)
{
	/* No place of ours: it is not written to, and the bdev copies nothing. */
	r->own[1] = (struct iovec){.iov_base = (void *)(uintptr_t)(r->session->memory + r->header.offset),
				   .iov_len = r->header.length};
	r->data_count = 1;
}

void
nbd_request_put(struct nbd_io *r)
{
	struct nbd_session *s = r->session;

	drop_buffers(r);
	s->count--;
	s->bytes -= r->charged;
	nbd_request_give(s->requests, r);
	if (s->paused && has_room_again(s)) {
		nbd_session_resume(s);
	}
}

/* ---- What it asks for ---- */

static bool
modifies(unsigned type)
{
	return type == NBD_CMD_WRITE || type == NBD_CMD_TRIM || type == NBD_CMD_WRITE_ZEROES;
}

/* The flags a command may have, ~0: there is no such command. */
static unsigned
flags_of(const struct nbd_session *s, unsigned type)
{
	switch (type) {
	case NBD_CMD_READ:
		return NBD_REQUEST_FUA | (s->setup.style != NBD_SIMPLE ? NBD_REQUEST_DF : 0);
	case NBD_CMD_WRITE:
		return NBD_REQUEST_FUA | (s->setup.style == NBD_EXTENDED ? NBD_REQUEST_PAYLOAD_LEN : 0);
	case NBD_CMD_FLUSH:
	case NBD_CMD_TRIM:
	case NBD_CMD_CACHE:
		return NBD_REQUEST_FUA;
	case NBD_CMD_WRITE_ZEROES:
		return NBD_REQUEST_FUA | NBD_REQUEST_NO_HOLE | NBD_REQUEST_FAST_ZERO;
	case NBD_CMD_BLOCK_STATUS:
		return NBD_REQUEST_FUA | NBD_REQUEST_REQ_ONE;
	default:
		return ~0u;
	}
}

static int
check_range(const struct nbd_session *s, const struct nbd_header *h)
{
	uint64_t size = bdev_num_blocks(bdev_desc_bdev(s->setup.desc)) << s->block_shift;
	uint64_t mask = (UINT64_C(1) << s->block_shift) - 1;

	if (h->offset > size || h->length > size - h->offset) {
		return h->type == NBD_CMD_WRITE || h->type == NBD_CMD_WRITE_ZEROES ? -ENOSPC : -EINVAL;
	}
	if (((h->offset | h->length) & mask) != 0) {
		return -EINVAL;
	}
	if (h->length > NBD_PAYLOAD_MAX && h->type == NBD_CMD_READ) {
		return s->setup.style == NBD_SIMPLE ? -EINVAL : -EOVERFLOW;
	}
	return h->length > NBD_PAYLOAD_MAX && h->type == NBD_CMD_WRITE ? -EINVAL : 0;
}

int
nbd_request_check(const struct nbd_session *s, const struct nbd_header *h)
{
	const struct bdev *bdev = bdev_desc_bdev(s->setup.desc);
	unsigned flags = flags_of(s, h->type);

	if (flags == ~0u || (h->flags & ~flags) != 0) {
		return -EINVAL;
	}
	if (modifies(h->type) && (s->setup.flags & NBD_FLAG_READ_ONLY) != 0) {
		return -EPERM;
	}
	if (h->type == NBD_CMD_FLUSH) {
		return 0;
	}
	if ((h->type == NBD_CMD_TRIM && (s->setup.flags & NBD_FLAG_SEND_TRIM) == 0) ||
	    (h->type == NBD_CMD_BLOCK_STATUS && (s->setup.contexts == 0 || h->length == 0))) {
		return -EINVAL;
	}
	if ((h->flags & NBD_REQUEST_FAST_ZERO) != 0 && h->type == NBD_CMD_WRITE_ZEROES &&
	    !bdev_supports_natively(bdev, BDEV_WRITE_ZEROES)) {
		return -EOPNOTSUPP;
	}
	return check_range(s, h);
}

/* ---- Replies ---- */

static void
count(struct nbd_session *s, const struct nbd_io *r, int status)
{
	struct nbd_counters *c = &s->counters;
	_Atomic uint64_t *ops = &c->others, *bytes = NULL;

	if (r->header.type == NBD_CMD_READ) {
		ops = &c->reads;
		bytes = &c->read_bytes;
	} else if (r->header.type == NBD_CMD_WRITE) {
		ops = &c->writes;
		bytes = &c->written_bytes;
	}
	/* One writer: no atomic addition is needed. */
	atomic_store_explicit(ops, atomic_load_explicit(ops, memory_order_relaxed) + 1, memory_order_relaxed);
	if (status != 0) {
		atomic_store_explicit(&c->errors, atomic_load_explicit(&c->errors, memory_order_relaxed) + 1,
				      memory_order_relaxed);
	} else if (bytes != NULL) {
		atomic_store_explicit(bytes, atomic_load_explicit(bytes, memory_order_relaxed) + r->header.length,
				      memory_order_relaxed);
	}
}

static void
set_head(struct nbd_io *r, size_t bytes)
{
	r->iov[0] = (struct iovec){.iov_base = r->head, .iov_len = bytes};
	r->reply_bytes = bytes;
}

void
nbd_request_answer(struct nbd_io *r, int status)
{
	struct nbd_session *s = r->session;

	count(s, r, status);
	if (r->data_count > 0) {
		/* What was written, or could not be read. */
		drop_buffers(r);
		r->iov = r->own;
	}
	set_head(r, nbd_put_reply(r->head, s->setup.style, &r->header, nbd_error_of(status)));
	nbd_send_reply(r);
}

static void
answer_data(struct nbd_io *r)
{
	const struct nbd_header *h = &r->header;

	count(r->session, r, 0);
	set_head(r, nbd_put_data(r->head, r->session->setup.style, h, h->offset, (uint32_t)h->length, true));
	r->reply_count = (uint16_t)(1 + r->data_count);
	r->reply_bytes += h->length;
	nbd_send_reply(r);
}

/* Extents of one kind in a row become one; the number left, which cover `blocks` at most. */
static uint32_t
merge(struct bdev_extent *e, uint64_t count_, uint64_t blocks)
{
	uint32_t n = 0;

	for (uint64_t i = 0; i < count_ && blocks > 0; i++) {
		struct bdev_extent x = e[i];

		x.num_blocks = MIN(x.num_blocks, blocks);
		x.flags &= (x.flags & BDEV_EXTENT_ZERO) != 0 ? BDEV_EXTENT_ZERO | BDEV_EXTENT_ALLOCATED : 0;
		blocks -= x.num_blocks;
		if (x.num_blocks == 0) {
			continue;
		}
		if (n > 0 && e[n - 1].flags == x.flags) {
			e[n - 1].num_blocks += x.num_blocks;
		} else {
			e[n++] = x;
		}
	}
	return n;
}

/* ---- Block status ---- */

static uint32_t
state_of(uint8_t context, uint32_t flags)
{
	if (context == NBD_CONTEXT_CHANGED) {
		return (flags & BDEV_EXTENT_CHANGED) != 0 ? NBD_STATE_CHANGED : 0;
	}
	if ((flags & BDEV_EXTENT_ZERO) == 0) {
		return 0;
	}
	return NBD_STATE_ZERO | ((flags & BDEV_EXTENT_ALLOCATED) != 0 ? 0 : NBD_STATE_HOLE);
}

static bool
is_last_context(const struct nbd_session *s, unsigned i)
{
	return s->setup.contexts >> i <= 1;
}

/* A chunk: extents of one state in a row are one of it, and of the request's range at most. */
static uint8_t *
put_status_chunk(const struct nbd_io *r, unsigned i, const struct bdev_extent *e, uint64_t count_, uint8_t *out)
{
	const struct nbd_session *s = r->session;
	const enum nbd_reply_style style = s->setup.style;
	bool last = is_last_context(s, i);
	uint64_t left = r->header.length >> s->block_shift, run = 0;
	uint8_t *p = out + nbd_put_status(out, style, &r->header, i + 1, 0, last);
	uint32_t state = 0, n = 0;

	for (uint64_t k = 0; k < count_ && left > 0; k++) {
		uint64_t blocks = MIN(e[k].num_blocks, left);
		uint32_t next = state_of((uint8_t)(1u << i), e[k].flags);

		if (run > 0 && blocks > 0 && next != state) {
			if ((r->header.flags & NBD_REQUEST_REQ_ONE) != 0) {
				break;
			}
			p = nbd_put_extent(p, style, run << s->block_shift, state);
			n++;
			run = 0;
		}
		state = blocks > 0 ? next : state;
		run += blocks;
		left -= blocks;
	}
	p = nbd_put_extent(p, style, run << s->block_shift, state);
	nbd_put_status(out, style, &r->header, i + 1, n + 1, last);
	return p;
}

/* All contexts' chunks for a range of extents, of which there is one at least. */
static uint8_t *
put_chunks(const struct nbd_io *r, const struct bdev_extent *e, uint64_t count_, uint8_t *out)
{
	for (unsigned i = 0; i < NBD_CONTEXTS; i++) {
		if ((r->session->setup.contexts >> i & 1) != 0) {
			out = put_status_chunk(r, i, e, count_, out);
		}
	}
	return out;
}

/* When nothing is known, or without memory to ask: a client may be told of anything that it is data, and changed. */
static void
answer_all_data(struct nbd_io *r)
{
	const struct bdev_extent all = {.num_blocks = r->header.length >> r->session->block_shift,
					.flags = BDEV_EXTENT_ALLOCATED | BDEV_EXTENT_CHANGED};

	count(r->session, r, 0);
	set_head(r, (size_t)(put_chunks(r, &all, 1, r->head) - r->head));
	nbd_send_reply(r);
}

/* The chunks stand behind the extents in r->extra. */
static void
answer_status(struct nbd_io *r)
{
	const struct bdev_extent *e = (const struct bdev_extent *)r->extra->data;
	uint8_t *out = r->extra->data + STATUS_MAX * sizeof(struct bdev_extent);
	uint64_t n = MIN(r->io.result, (uint64_t)STATUS_MAX);

	if (n == 0 || e[0].num_blocks == 0) {
		answer_all_data(r);
		return;
	}
	count(r->session, r, 0);
	r->reply_bytes = (size_t)(put_chunks(r, e, n, out) - out);
	r->iov[0] = (struct iovec){.iov_base = out, .iov_len = r->reply_bytes};
	nbd_send_reply(r);
}

/* ---- Holes in what is read ---- */

/* The heads of chunks stand behind the extents in r->extra. */
static uint8_t *
chunk_head(struct nbd_io *r, uint32_t i)
{
	return r->extra->data + CHUNKS_MAX * sizeof(struct bdev_extent) + i * NBD_REPLY_HEAD_MAX;
}

/* The list of what is to be sent: for each extent its head, and its part of the data if it has any. */
static bool
make_chunks(struct nbd_io *r, uint32_t n)
{
	struct nbd_session *s = r->session;
	const struct bdev_extent *e = (const struct bdev_extent *)r->extra->data;
	struct nbd_buffer *list = get_small(s);
	const size_t room = NBD_SMALL_BYTES / sizeof(struct iovec);
	struct iovec *out = list != NULL ? (struct iovec *)list->data : NULL;
	uint64_t offset = 0;
	size_t used = 0;

	for (uint32_t i = 0; out != NULL && i < n; i++) {
		uint32_t bytes = (uint32_t)(e[i].num_blocks << s->block_shift);
		bool hole = (e[i].flags & BDEV_EXTENT_ZERO) != 0, last = i + 1 == n;
		uint8_t *head = chunk_head(r, i);
		int parts = 0;

		out[used++] = (struct iovec){
			.iov_base = head,
			.iov_len = (hole ? nbd_put_hole : nbd_put_data)(head, s->setup.style, &r->header,
									r->header.offset + offset, bytes, last)};
		r->reply_bytes += out[used - 1].iov_len + (hole ? 0 : bytes);
		if (!hole) {
			parts = iov_slice(r->iov + 1, r->data_count, offset, bytes, out + used,
					  (int)(room - used - CHUNKS_MAX));
		}
		if (parts < 0) {
			nbd_buffer_put(s->t, list);
			return false;
		}
		used += (size_t)parts;
		offset += bytes;
	}
	if (out == NULL) {
		return false;
	}
	if (r->vector != NULL) {
		nbd_buffer_put(s->t, r->vector);
	}
	r->vector = list;
	r->iov = out;
	r->reply_count = (uint16_t)used;
	return true;
}

/* All is read. */
static void
answer_chunks(struct nbd_io *r)
{
	r->reply_bytes = 0;
	if (!make_chunks(r, (uint32_t)r->filled)) {
		answer_data(r);
		return;
	}
	count(r->session, r, 0);
	nbd_send_reply(r);
}

static void
answer_hole(struct nbd_io *r)
{
	const struct nbd_header *h = &r->header;

	count(r->session, r, 0);
	drop_buffers(r);
	r->iov = r->own;
	set_head(r, nbd_put_hole(r->head, r->session->setup.style, h, h->offset, (uint32_t)h->length, true));
	nbd_send_reply(r);
}

/* ---- At the bdev ---- */

static void done(struct bdev_io *io, int status);

static void
submit(struct nbd_io *r, enum bdev_op op, uint8_t flags)
{
	struct nbd_session *s = r->session;
	bool data = op == BDEV_READ || op == BDEV_WRITE;

	bdev_io_init(&r->io, op, r->header.offset >> s->block_shift, r->header.length >> s->block_shift, r->iov + 1,
		     data ? r->data_count : 0, done);
	r->io.flags = flags;
	s->inflight++;
	bdev_submit(s->ch, &r->io);
}

/* False: there is no memory for it. */
static bool
ask_status(struct nbd_io *r, uint32_t max)
{
	struct nbd_session *s = r->session;

	r->extra = get_small(s);
	if (r->extra == NULL) {
		return false;
	}
	bdev_io_init(&r->io, BDEV_BLOCK_STATUS, r->header.offset >> s->block_shift, r->header.length >> s->block_shift,
		     NULL, 0, done);
	r->io.extents = (struct bdev_extent *)r->extra->data;
	r->io.max_results = max;
	s->inflight++;
	bdev_submit(s->ch, &r->io);
	return true;
}

/* The status of a range that is to be read is known. */
static void
read_what_is_there(struct nbd_io *r, int status)
{
	uint64_t blocks = r->header.length >> r->session->block_shift, covered = 0;
	struct bdev_extent *e = (struct bdev_extent *)r->extra->data;
	uint32_t n = status == 0 ? merge(e, r->io.result, blocks) : 0;

	for (uint32_t i = 0; i < n; i++) {
		/* Zeroes are zeroes here, stored or not. */
		covered += e[i].num_blocks;
	}
	if (covered == blocks && n == 1 && (e[0].flags & BDEV_EXTENT_ZERO) != 0) {
		answer_hole(r);
		return;
	}
	r->stage = covered == blocks && n > 1 ? STAGE_CHUNKS : STAGE_LAST;
	r->filled = n;
	submit(r, BDEV_READ, 0);
}

static void
done(struct bdev_io *io, int status)
{
	struct nbd_io *r = CONTAINER_OF(io, struct nbd_io, io);
	struct nbd_session *s = r->session;

	s->inflight--;
	if (r->stage == STAGE_HOLES) {
		read_what_is_there(r, status);
	} else if (status != 0) {
		nbd_request_answer(r, status);
	} else if (r->stage == STAGE_TRIM) {
		r->stage = STAGE_LAST;
		submit(r, BDEV_FLUSH, 0);
	} else if (r->stage == STAGE_CHUNKS) {
		answer_chunks(r);
	} else if (r->header.type == NBD_CMD_READ) {
		answer_data(r);
	} else if (r->header.type == NBD_CMD_BLOCK_STATUS) {
		answer_status(r);
	} else {
		nbd_request_answer(r, 0);
	}
}

static void
start_read(struct nbd_io *r)
{
	struct nbd_session *s = r->session;

	if (UNLIKELY(s->asks_holes) && r->header.length >= HOLES_MIN_BYTES && (r->header.flags & NBD_REQUEST_DF) == 0) {
		r->stage = STAGE_HOLES;
		if (ask_status(r, CHUNKS_MAX)) {
			return;
		}
		r->stage = STAGE_LAST;
	}
	submit(r, BDEV_READ, 0);
}

static void
start_status(struct nbd_io *r)
{
	uint32_t max = (r->header.flags & NBD_REQUEST_REQ_ONE) != 0 ? 1 : STATUS_MAX;

	if (!ask_status(r, max)) {
		answer_all_data(r);
	}
}

void
nbd_request_start(struct nbd_io *r)
{
	bool fua = (r->header.flags & NBD_REQUEST_FUA) != 0;

	if (r->header.length == 0 && r->header.type != NBD_CMD_FLUSH) {
		nbd_request_answer(r, 0);
		return;
	}
	switch (r->header.type) {
	case NBD_CMD_READ:
		start_read(r);
		break;
	case NBD_CMD_WRITE:
		submit(r, BDEV_WRITE, fua ? BDEV_IO_FUA : 0);
		break;
	case NBD_CMD_FLUSH:
		submit(r, BDEV_FLUSH, 0);
		break;
	case NBD_CMD_TRIM:
		r->stage = fua ? STAGE_TRIM : STAGE_LAST;
		submit(r, BDEV_UNMAP, 0);
		break;
	case NBD_CMD_WRITE_ZEROES:
		submit(r, BDEV_WRITE_ZEROES,
		       (uint8_t)((fua ? BDEV_IO_FUA : 0) |
				 ((r->header.flags & NBD_REQUEST_NO_HOLE) == 0 ? BDEV_IO_MAY_UNMAP : 0)));
		break;
	case NBD_CMD_BLOCK_STATUS:
		start_status(r);
		break;
	default:
		/* Cache: nothing here keeps what it has read. */
		nbd_request_answer(r, 0);
		break;
	}
}
