/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A connection: bytes in, messages, bytes out.
 *
 * Whatever happens (bytes came, an answer was made, room to send) only notes it and kicks; one function,
 * work(), called soon afterwards, does everything that follows. So no handler ever runs inside another one's answer,
 * and a connection ends in one place.
 *
 * Invariants
 *  1. What a client makes berth keep is bounded: one message in, RPC_RUNNING_MAX under way, the answers to these out, of
 *     which one may be long. So nobody's connection has to be closed for what it asked.
 *  2. Messages start in the order in which they came; answers leave in the order in which they were made.
 *  3. After bytes that are no JSON nothing more is read; the error is sent, then the connection closes.
 *  4. Other work of the thread has its turn after RPC_SLICE_NS of messages, or SEND_BYTES of answers.
 *  5. A client that shuts down its sending side gets all its answers; one that is gone gets none, and what it
 *     started goes on unheard.
 */
#include "rpc/conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "event/reactor.h"
#include "event/thread.h"
#include "rpc/exchange.h"
#include "rpc/rpc.h"
#include "rpc/scan.h"

#define CONN_MAGIC 0x52504343u
#define READ_BYTES 65536
#define SEND_BYTES (1u << 20)
/*
 * After an answer the next request often comes at once: so long it is looked for instead of slept for, unless the reactor is
 * to sleep whenever it can. A wake-up that is saved is a third of a small call's time.
 */
#define LINGER_NS UINT64_C(50000)
/* Answers from that size on are sent from where they are, smaller ones are gathered in pieces of this size. */
#define PIECE_BYTES 16384

struct buffer {
	char *data;
	size_t start; /* consumed before it */
	size_t end;
	size_t capacity;
};

/* A part of what is to be sent. */
struct piece {
	struct list link;
	char *data;
	size_t start; /* sent before it */
	size_t end;
	size_t room; /* of data; 0: nothing is to be added */
};

struct out {
	struct list pieces;
	size_t bytes; /* in all of them */
};

struct conn {
	uint32_t magic;
	int fd; /* -1: ended */
	struct list link;
	void (*closed)(void *ctx);
	void *ctx;
	struct watch watch;
	uint32_t events;
	struct buffer in;
	struct out out;
	struct rpc_scan scan; /* of in, from its start */
	struct list exchanges;
	unsigned running;
	bool eof;    /* the client sends no more */
	bool last;   /* nothing more is read; close when all is answered */
	bool failed; /* the socket is of no use any more */
	bool kicked;
	bool working;
	bool answered; /* since the last work() */
	uint64_t linger_ns; /* until then the next request is looked for */
	struct defer defer;
	struct msg msg;
};

static void kick(struct conn *c);
static void kick_later(struct conn *c);

/* ---- Buffers ---- */

static size_t
buffer_used(const struct buffer *b)
{
	return b->end - b->start;
}

/* Room for len more bytes at the end. */
static int
buffer_reserve(struct buffer *b, size_t len)
{
	size_t capacity = MAX(b->capacity, (size_t)4096);
	char *data;

	if (b->capacity - b->end >= len) {
		return 0;
	}
	if (b->start > 0) {
		memmove(b->data, b->data + b->start, buffer_used(b));
		b->end -= b->start;
		b->start = 0;
	}
	while (capacity - b->end < len) {
		capacity *= 2;
	}
	data = realloc(b->data, capacity);
	if (data == NULL) {
		return -ENOMEM;
	}
	b->data = data;
	b->capacity = capacity;
	return 0;
}

/* An idle connection keeps no memory. */
static void
buffer_trim(struct buffer *b)
{
	if (buffer_used(b) == 0) {
		free(b->data);
		*b = (struct buffer){0};
	}
}

/* ---- Ending ---- */

static void
end(struct conn *c)
{
	struct rpc_exchange *x, *tmp;

	LIST_FOREACH_SAFE(x, tmp, &c->exchanges, link) {
		list_remove(&x->link);
		rpc_exchange_drop(x);
	}
	watch_stop(&c->watch);
	close(c->fd);
	c->fd = -1;
	list_remove(&c->link);
}

static void
piece_free(struct piece *p)
{
	list_remove(&p->link);
	free(p->data);
	free(p);
}

static void
conn_free(struct conn *c)
{
	while (!list_empty(&c->out.pieces)) {
		piece_free(LIST_FIRST(&c->out.pieces, struct piece, link));
	}
	free(c->in.data);
	c->magic = 0;
	free(c);
}

/* ---- Out ---- */

static void
sent(struct conn *c, struct piece *p, size_t bytes)
{
	p->start += bytes;
	c->out.bytes -= bytes;
	if (p->start == p->end) {
		piece_free(p);
	}
}

static void
send_out(struct conn *c)
{
	size_t left = SEND_BYTES;

	while (!c->failed && c->out.bytes > 0 && left > 0) {
		struct piece *p = LIST_FIRST(&c->out.pieces, struct piece, link);
		ssize_t n = send(c->fd, p->data + p->start, MIN(p->end - p->start, left), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0) {
			sent(c, p, (size_t)n);
			left -= (size_t)n;
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			return;
		} else if (errno != EINTR) {
			c->failed = true;
		}
	}
}

/* Takes data, of which room bytes are allocated and the first `bytes` are to be sent. */
static struct piece *
add_piece(struct out *out, char *data, size_t bytes, size_t room)
{
	struct piece *p = data != NULL ? calloc(1, sizeof(*p)) : NULL;

	if (p == NULL) {
		free(data);
		return NULL;
	}
	p->data = data;
	p->end = bytes;
	p->room = room;
	list_append(&out->pieces, &p->link);
	out->bytes += bytes;
	return p;
}

/* Takes text. */
static bool
out_add(struct out *out, char *text, size_t len)
{
	struct piece *last = list_empty(&out->pieces) ? NULL : LIST_ENTRY(out->pieces.prev, struct piece, link);

	if (len >= PIECE_BYTES) {
		return add_piece(out, text, len, 0) != NULL;
	}
	if (last == NULL || last->room - MIN(last->room, last->end) < len) {
		last = add_piece(out, malloc(PIECE_BYTES), 0, PIECE_BYTES);
	}
	if (last != NULL) {
		memcpy(last->data + last->end, text, len);
		last->end += len;
		out->bytes += len;
	}
	free(text);
	return last != NULL;
}

/* Takes text. */
static void
put_out(struct conn *c, char *text, size_t len)
{
	if (!out_add(&c->out, text, len)) {
		c->failed = true;
	}
}

static void
exchange_done(struct rpc_exchange *x, char *text, size_t len)
{
	struct conn *c = MAGIC_OBJ((struct conn *)x->owner, CONN_MAGIC);

	list_remove(&x->link);
	c->running--;
	c->answered = true;
	if (x->broken) {
		c->last = true;
	}
	if (text != NULL && !c->failed) {
		put_out(c, text, len);
	} else {
		free(text);
	}
	kick(c);
}

/* ---- In ---- */

/* An error that no request caused; nothing more is read. */
static void
give_up(struct conn *c, int code, const char *message)
{
	char *text = rpc_exchange_error_text(code, message);

	c->last = true;
	if (text != NULL) {
		put_out(c, text, strlen(text));
	}
}

static void
start_message(struct conn *c)
{
	struct rpc_exchange *x = calloc(1, sizeof(*x));
	const char *data = c->in.data + c->in.start + c->scan.start;
	size_t len = c->scan.offset - c->scan.start;

	if (x == NULL) {
		c->failed = true;
		return;
	}
	x->done = exchange_done;
	x->owner = c;
	list_append(&c->exchanges, &x->link);
	c->running++;
	rpc_exchange_start(x, data, len);
	c->in.start += c->scan.offset;
	c->scan = (struct rpc_scan){0};
}

/* A batch or a long list, whose answer may be as long as an answer can be: one at a time. */
static bool
has_long_one(const struct conn *c)
{
	const struct rpc_exchange *x;

	LIST_FOREACH(x, &c->exchanges, link)
	{
		if (x->batch != NULL || x->listing) {
			return true;
		}
	}
	return false;
}

static bool
may_start(const struct conn *c)
{
	return c->fd >= 0 && !c->failed && !c->last && c->running < RPC_RUNNING_MAX &&
	       c->out.bytes < RPC_OUT_HIGH_BYTES && !has_long_one(c);
}

/* Starts the messages that are whole, until end_ns. True when more bytes are wanted. */
static bool
start_messages(struct conn *c, uint64_t end_ns)
{
	char text[96];

	while (may_start(c)) {
		if (buffer_used(&c->in) == 0) {
			buffer_trim(&c->in);
			return true;
		}
		if (clock_now_ns() >= end_ns) {
			return false;
		}
		switch (rpc_scan(&c->scan, c->in.data + c->in.start, buffer_used(&c->in))) {
		case RPC_SCAN_VALUE:
			start_message(c);
			break;
		case RPC_SCAN_MORE:
			if (c->scan.depth == 0) {
				c->in.start += c->scan.offset;
				c->scan = (struct rpc_scan){0};
				buffer_trim(&c->in);
			}
			if (buffer_used(&c->in) < RPC_REQUEST_MAX_BYTES) {
				return true;
			}
			snprintf(text, sizeof(text), "the request is longer than %u bytes", RPC_REQUEST_MAX_BYTES);
			give_up(c, RPC_ERROR_INVALID_REQUEST, text);
			break;
		case RPC_SCAN_TOO_DEEP:
			snprintf(text, sizeof(text), "the request is nested deeper than %u levels", RPC_DEPTH_MAX);
			give_up(c, RPC_ERROR_PARSE, text);
			break;
		case RPC_SCAN_SCALAR:
			give_up(c, RPC_ERROR_INVALID_REQUEST, "a request must be an object");
			break;
		case RPC_SCAN_BAD:
			give_up(c, RPC_ERROR_PARSE, "this is no JSON object or array");
			break;
		}
	}
	return false;
}

/* Reads what is there, a bounded amount. True when there were bytes. */
static bool
read_in(struct conn *c)
{
	size_t room = MIN((size_t)READ_BYTES, RPC_REQUEST_MAX_BYTES - buffer_used(&c->in));
	ssize_t n;

	if (c->eof || buffer_reserve(&c->in, room) != 0) {
		return false;
	}
	do {
		n = recv(c->fd, c->in.data + c->in.end, room, MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n > 0) {
		c->in.end += (size_t)n;
		return true;
	}
	c->eof = n == 0;
	c->failed = n < 0 && errno != EAGAIN && errno != EWOULDBLOCK;
	buffer_trim(&c->in);
	return false;
}

/* ---- The one place where things happen ---- */

static bool
is_over(const struct conn *c)
{
	bool nothing_left = c->running == 0 && c->out.bytes == 0;

	return c->failed || ((c->last || (c->eof && may_start(c))) && nothing_left);
}

static void
set_events(struct conn *c, bool wants_bytes)
{
	uint32_t events = (wants_bytes && !c->eof && !c->last ? (uint32_t)EPOLLIN : 0) |
			  (c->out.bytes > 0 ? (uint32_t)EPOLLOUT : 0);

	if (events != c->events && watch_modify(&c->watch, events) == 0) {
		c->events = events;
	}
}

/* Nothing is left to do: whether to look for a request once more. */
static bool
lingers(struct conn *c)
{
	uint64_t now = clock_now_ns();

	if (c->answered) {
		c->answered = false;
		c->linger_ns = reactor_get_mode(thread_reactor(thread_self())) == REACTOR_INTERRUPT ? 0 : now + LINGER_NS;
	}
	return !c->eof && !c->last && c->out.bytes == 0 && now < c->linger_ns;
}

static void
work(struct conn *c)
{
	uint64_t end_ns = clock_now_ns() + RPC_SLICE_NS;
	bool wants_bytes;

	c->kicked = false;
	if (c->fd < 0) {
		conn_free(c);
		return;
	}
	c->working = true;
	wants_bytes = start_messages(c, end_ns);
	if (wants_bytes && read_in(c)) {
		wants_bytes = start_messages(c, end_ns);
	}
	c->working = false;
	if (c->fd >= 0) {
		send_out(c);
	}
	if (c->fd >= 0 && !is_over(c)) {
		set_events(c, wants_bytes);
		/* Not all was started: time was up, or sending made room for the answers to what was read already. */
		if (wants_bytes ? lingers(c) : may_start(c)) {
			kick_later(c);
		}
		return;
	}
	if (c->fd >= 0) {
		void (*closed)(void *ctx) = c->closed;
		void *ctx = c->ctx;

		end(c);
		closed(ctx);
	}
	if (!c->kicked) {
		conn_free(c);
	}
}

static void
work_soon(struct defer *defer)
{
	work(MAGIC_OBJ(CONTAINER_OF(defer, struct conn, defer), CONN_MAGIC));
}

static void
work_later(struct msg *msg)
{
	work(MAGIC_OBJ(CONTAINER_OF(msg, struct conn, msg), CONN_MAGIC));
}

static void
kick(struct conn *c)
{
	if (!c->kicked) {
		c->kicked = true;
		thread_defer(&c->defer, work_soon);
	}
}

/* As kick(), but everybody else on this reactor has a turn before. */
static void
kick_later(struct conn *c)
{
	if (!c->kicked) {
		c->kicked = true;
		thread_send(thread_self(), &c->msg, work_later);
	}
}

static void
on_event(struct watch *w, uint32_t events)
{
	struct conn *c = MAGIC_OBJ(CONTAINER_OF(w, struct conn, watch), CONN_MAGIC);

	/* The client is gone: what it sent before is still done, as far as it can be read now. */
	if ((events & (EPOLLHUP | EPOLLERR)) != 0 && (c->events & EPOLLIN) == 0) {
		c->failed = true;
	}
	kick(c);
}

int
conn_open(int fd, struct list *conns, void (*closed)(void *ctx), void *ctx)
{
	struct conn *c = calloc(1, sizeof(*c));
	int rc = c != NULL ? 0 : -ENOMEM;

	if (rc == 0) {
		c->magic = CONN_MAGIC;
		c->fd = fd;
		c->closed = closed;
		c->ctx = ctx;
		c->events = EPOLLIN;
		list_init(&c->exchanges);
		list_init(&c->out.pieces);
		rc = watch_start(&c->watch, fd, c->events, on_event);
	}
	if (rc != 0) {
		close(fd);
		free(c);
		return rc;
	}
	list_append(conns, &c->link);
	return 0;
}

void
conn_close_all(struct list *conns)
{
	struct conn *c, *tmp;

	LIST_FOREACH_SAFE(c, tmp, conns, link) {
		send_out(c);
		end(c);
		/* Otherwise work() is on the stack or about to be called, and frees it. */
		if (!c->working && !c->kicked) {
			conn_free(c);
		}
	}
}
