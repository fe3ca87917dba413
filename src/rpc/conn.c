/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A connection: bytes in, messages, bytes out.
 *
 * Whatever happens (bytes came, an answer was made, room to send) only notes it and kicks; one function,
 * work(), called soon afterwards, does everything that follows. So no handler ever runs inside another one's answer,
 * and a connection ends in one place.
 *
 * Invariants
 *  1. What a client makes berth keep is bounded: one message in, RPC_RUNNING_MAX under way, the answers to these out.
 *  2. Messages start in the order in which they came; answers leave in the order in which they were made.
 *  3. After bytes that are no JSON nothing more is read; the error is sent, then the connection closes.
 *  4. A client that shuts down its sending side gets all its answers; one that is gone gets none, and what it
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
#include "base/log.h"
#include "event/thread.h"
#include "rpc/exchange.h"
#include "rpc/rpc.h"
#include "rpc/scan.h"

#define CONN_MAGIC 0x52504343u
#define READ_BYTES 65536

struct buffer {
	char *data;
	size_t start; /* consumed before it */
	size_t end;
	size_t capacity;
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
	struct buffer out;
	struct rpc_scan scan; /* of in, from its start */
	struct list exchanges;
	unsigned running;
	bool eof;    /* the client sends no more */
	bool last;   /* nothing more is read; close when all is answered */
	bool failed; /* the socket is of no use any more */
	bool kicked;
	bool working;
	struct defer defer;
};

static void kick(struct conn *c);

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
conn_free(struct conn *c)
{
	free(c->in.data);
	free(c->out.data);
	c->magic = 0;
	free(c);
}

/* ---- Out ---- */

static void
send_out(struct conn *c)
{
	while (!c->failed && buffer_used(&c->out) > 0) {
		ssize_t n = send(c->fd, c->out.data + c->out.start, buffer_used(&c->out), MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n >= 0) {
			c->out.start += (size_t)n;
		} else if (errno == EAGAIN || errno == EWOULDBLOCK) {
			return;
		} else if (errno != EINTR) {
			c->failed = true;
		}
	}
	buffer_trim(&c->out);
}

static void
put_out(struct conn *c, const char *text, size_t len)
{
	if (buffer_used(&c->out) + len > RPC_OUT_MAX_BYTES || buffer_reserve(&c->out, len) != 0) {
		LOG_WARNING(RPC, "", "a client does not take its answers; its connection is closed");
		c->failed = true;
		return;
	}
	memcpy(c->out.data + c->out.end, text, len);
	c->out.end += len;
}

static void
exchange_done(struct rpc_exchange *x, const char *text, size_t len)
{
	struct conn *c = MAGIC_OBJ((struct conn *)x->owner, CONN_MAGIC);

	list_remove(&x->link);
	c->running--;
	if (x->broken) {
		c->last = true;
	}
	if (text != NULL && !c->failed) {
		put_out(c, text, len);
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
		free(text);
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

static bool
may_start(const struct conn *c)
{
	return c->fd >= 0 && !c->failed && !c->last && c->running < RPC_RUNNING_MAX &&
	       buffer_used(&c->out) < RPC_OUT_HIGH_BYTES;
}

/* Starts the messages that are whole. True when more bytes are wanted. */
static bool
start_messages(struct conn *c)
{
	char text[96];

	while (may_start(c)) {
		if (buffer_used(&c->in) == 0) {
			buffer_trim(&c->in);
			return true;
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
	bool nothing_left = c->running == 0 && buffer_used(&c->out) == 0;

	return c->failed || ((c->last || (c->eof && may_start(c))) && nothing_left);
}

static void
set_events(struct conn *c, bool wants_bytes)
{
	uint32_t events = (wants_bytes && !c->eof && !c->last ? (uint32_t)EPOLLIN : 0) |
			  (buffer_used(&c->out) > 0 ? (uint32_t)EPOLLOUT : 0);

	if (events != c->events && watch_modify(&c->watch, events) == 0) {
		c->events = events;
	}
}

static void
work(struct defer *defer)
{
	struct conn *c = MAGIC_OBJ(CONTAINER_OF(defer, struct conn, defer), CONN_MAGIC);
	bool wants_bytes;

	c->kicked = false;
	if (c->fd < 0) {
		conn_free(c);
		return;
	}
	c->working = true;
	wants_bytes = start_messages(c);
	if (wants_bytes && read_in(c)) {
		wants_bytes = start_messages(c);
	}
	c->working = false;
	if (c->fd >= 0) {
		send_out(c);
	}
	if (c->fd >= 0 && !is_over(c)) {
		set_events(c, wants_bytes);
		if (!wants_bytes && may_start(c)) {
			kick(c); /* sending made room for the answers to what was read already */
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
kick(struct conn *c)
{
	if (!c->kicked) {
		c->kicked = true;
		thread_defer(&c->defer, work);
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
