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
 *  6. Events are pushed only while less than RPC_EVENTS_HIGH_BYTES wait to be sent; those left out are counted, and the client
 *     is told how many they were.
 *  7. Of a client that has not been admitted (TLS handshake, token) one message is looked at, of RPC_AUTH_MESSAGE_MAX bytes at
 *     most, and it has RPC_ADMISSION_US for it; one that is refused hears so RPC_REFUSAL_US later, when nothing more is read.
 */
#include "rpc/conn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "event/reactor.h"
#include "event/thread.h"
#include "rpc/auth.h"
#include "rpc/exchange.h"
#include "rpc/internal.h"
#include "rpc/out.h"
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
/* When others wait for a place, that of a client that has said nothing for so long is theirs; less long when it has never. */
#define SILENT_NS NS_PER_S
#define IDLE_NS (60 * NS_PER_S)

struct buffer {
	char *data;
	size_t start; /* consumed before it */
	size_t end;
	size_t capacity;
};

enum gate {
	GATE_OPEN,      /* admitted: its requests are carried out */
	GATE_HANDSHAKE, /* TLS is being agreed on */
	GATE_TOKEN,     /* the token is awaited */
	GATE_REFUSED,   /* hears so when the timer rings, and then ends */
	GATE_UNWELCOME, /* the same, or as soon as it says anything: who closes before a client has spoken is not heard */
};

struct conn {
	uint32_t magic;
	struct stream stream; /* fd -1: ended */
	struct list link;
	const struct conn_options *options;
	struct watch watch;
	uint32_t events;
	uid_t user;
	enum gate gate;
	struct timer timer; /* while it is not admitted */
	char *refusal;
	struct buffer in;
	struct rpc_out out;
	struct list subscriber_link;
	uint64_t subscribed; /* bits: types of events */
	uint64_t lost;       /* events */
	uint64_t heard_ns;   /* a whole message, or that it came */
	bool served;         /* it has sent a whole message */
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

static struct list subscribers = {&subscribers, &subscribers};

static void kick(struct conn *c);
static void kick_later(struct conn *c);

/* ---- Buffers ---- */

static size_t
buffer_used(const struct buffer *b)
{
	return b->end - b->start;
}

/* What came may have been secrets: no copy of it stays. */
static void
buffer_free(struct buffer *b)
{
	if (b->data != NULL) {
		explicit_bzero(b->data, b->end);
		free(b->data);
	}
	*b = (struct buffer){0};
}

/* Room for len more bytes at the end. */
static int
buffer_reserve(struct buffer *b, size_t len)
{
	size_t capacity = MAX(b->capacity, (size_t)4096), used = buffer_used(b);
	char *data;

	if (b->capacity - b->end >= len) {
		return 0;
	}
	while (capacity - used < len) {
		capacity *= 2;
	}
	data = malloc(capacity);
	if (data == NULL) {
		return -ENOMEM;
	}
	if (used > 0) {
		memcpy(data, b->data + b->start, used);
	}
	buffer_free(b);
	*b = (struct buffer){.data = data, .end = used, .capacity = capacity};
	return 0;
}

/* An idle connection keeps no memory. */
static void
buffer_trim(struct buffer *b)
{
	if (buffer_used(b) == 0) {
		buffer_free(b);
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
	timer_stop(&c->timer);
	stream_close(&c->stream);
	list_remove(&c->link);
	list_remove(&c->subscriber_link);
}

static void
conn_free(struct conn *c)
{
	rpc_out_release(&c->out);
	free(c->refusal);
	buffer_free(&c->in);
	c->magic = 0;
	free(c);
}

/* ---- Out ---- */

static void
send_out(struct conn *c)
{
	if (!c->failed && rpc_out_send(&c->out, &c->stream, SEND_BYTES) != 0) {
		c->failed = true;
	}
}

/* Takes text. */
static void
put_out(struct conn *c, char *text, size_t len)
{
	if (!rpc_out_add(&c->out, text, len)) {
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
	x->client = c;
	c->served = true;
	c->heard_ns = clock_now_ns();
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
	return c->stream.fd >= 0 && !c->failed && !c->last && c->running < RPC_RUNNING_MAX &&
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
	size_t max = c->gate == GATE_OPEN ? RPC_REQUEST_MAX_BYTES : RPC_AUTH_MESSAGE_MAX;
	size_t room = MIN((size_t)READ_BYTES, max - buffer_used(&c->in));
	ssize_t n;

	if (c->eof || room == 0 || buffer_reserve(&c->in, room) != 0) {
		return false;
	}
	n = stream_recv(&c->stream, c->in.data + c->in.end, room);
	if (n > 0) {
		c->in.end += (size_t)n;
		return true;
	}
	c->eof = n == 0;
	c->failed = n < 0 && n != -EAGAIN;
	buffer_trim(&c->in);
	return false;
}

/* ---- Admission ---- */

static void
say_refusal(struct conn *c)
{
	if (c->refusal != NULL) {
		put_out(c, c->refusal, strlen(c->refusal));
	}
	c->refusal = NULL;
	c->last = true;
}

static void
time_is_up(struct timer *t)
{
	struct conn *c = CONTAINER_OF(t, struct conn, timer);

	if (c->gate == GATE_REFUSED || c->gate == GATE_UNWELCOME) {
		say_refusal(c);
	} else {
		c->failed = true;
	}
	kick(c);
}

/* Takes text; NULL: without a word. */
static void
refuse(struct conn *c, enum gate gate, char *text)
{
	c->gate = gate;
	c->refusal = text;
	if (timer_start(&c->timer, RPC_REFUSAL_US, time_is_up) != 0) {
		c->failed = true;
	}
}

static void
admit(struct conn *c)
{
	timer_stop(&c->timer);
	c->gate = GATE_OPEN;
	c->heard_ns = clock_now_ns();
}

static void
shake_hands(struct conn *c)
{
	struct err err = ERR_NONE;
	int rc = stream_handshake(&c->stream, &err);

	if (rc == 0 && c->options->token != NULL) {
		c->gate = GATE_TOKEN;
	} else if (rc == 0) {
		admit(c);
	} else if (rc != -EAGAIN) {
		LOG_INFO(RPC, "", "a client was refused: %s", err_text(&err));
		c->failed = true;
	}
}

/* The first message is whole, or can be none. */
static void
look_at_token(struct conn *c, bool whole)
{
	const char *data = c->in.data + c->in.start + c->scan.start;
	char *answer = NULL;
	bool good = rpc_token_check(c->options->token, data, whole ? c->scan.offset - c->scan.start : 0, &answer);

	explicit_bzero(c->in.data + c->in.start, c->scan.offset);
	c->in.start += c->scan.offset;
	c->scan = (struct rpc_scan){0};
	if (good) {
		admit(c);
		if (answer != NULL) {
			put_out(c, answer, strlen(answer));
		}
	} else {
		LOG_INFO(RPC, "", "a client was refused: it has not shown the token");
		refuse(c, GATE_REFUSED, answer);
	}
}

/* True when more bytes are wanted to go on. */
static bool
await_token(struct conn *c)
{
	switch (rpc_scan(&c->scan, c->in.data + c->in.start, buffer_used(&c->in))) {
	case RPC_SCAN_VALUE:
		look_at_token(c, true);
		return false;
	case RPC_SCAN_MORE:
		if (buffer_used(&c->in) < RPC_AUTH_MESSAGE_MAX) {
			return true;
		}
		break;
	default:
		break;
	}
	look_at_token(c, false);
	return false;
}

/* What can be done to admit the client now. True when more bytes are wanted for it. */
static bool
work_at_gate(struct conn *c)
{
	bool wants_bytes = true;

	if (c->gate == GATE_HANDSHAKE) {
		shake_hands(c);
	}
	while (c->gate == GATE_TOKEN && !c->failed && wants_bytes && read_in(c)) {
		wants_bytes = await_token(c);
	}
	if (c->gate == GATE_UNWELCOME && !c->last && read_in(c)) {
		say_refusal(c);
	}
	if (c->gate != GATE_OPEN && c->eof) {
		c->failed = true;
	}
	return c->gate != GATE_OPEN && c->gate != GATE_REFUSED;
}

/* ---- Events ---- */

void
conn_subscribe(struct conn *c, uint64_t types)
{
	list_remove(&c->subscriber_link);
	c->subscribed = types;
	c->lost = 0;
	if (types != 0) {
		list_append(&subscribers, &c->subscriber_link);
	}
}

uint64_t
conn_subscribed(void)
{
	const struct conn *c;
	uint64_t types = 0;

	LIST_FOREACH(c, &subscribers, subscriber_link)
	{
		types |= c->subscribed;
	}
	return types;
}

static bool
has_room_for(const struct conn *c, size_t len)
{
	return c->out.bytes + len <= RPC_EVENTS_HIGH_BYTES;
}

static void
push(struct conn *c, const char *text, size_t len)
{
	char *copy = c->lost == 0 && has_room_for(c, len) ? malloc(len) : NULL;

	if (copy == NULL) {
		c->lost++;
		return;
	}
	memcpy(copy, text, len);
	put_out(c, copy, len);
	kick(c);
}

void
conn_push(uint64_t type, const char *text, size_t len)
{
	struct conn *c;

	LIST_FOREACH(c, &subscribers, subscriber_link)
	{
		if ((c->subscribed & type) != 0 && !c->failed && !c->last) {
			push(c, text, len);
		}
	}
}

/* There is room again: how many events it has missed. */
static void
tell_lost(struct conn *c)
{
	uint64_t lost = c->lost;
	char text[128];
	int len;

	if (lost == 0 || c->out.bytes > RPC_EVENTS_HIGH_BYTES / 2) {
		return;
	}
	len = snprintf(text, sizeof(text),
		       "{\"jsonrpc\":\"2.0\",\"method\":\"" RPC_EVENT_METHOD "\","
		       "\"params\":{\"type\":\"lost\",\"count\":%llu}}\n",
		       (unsigned long long)lost);
	c->lost = 0;
	push(c, text, (size_t)len);
	c->lost = c->lost > 0 ? lost : 0;
}

/* ---- The one place where things happen ---- */

static bool
is_over(const struct conn *c)
{
	bool nothing_left = c->running == 0 && c->out.bytes == 0 && !stream_unsent(&c->stream);

	return c->failed || ((c->last || (c->eof && may_start(c))) && nothing_left);
}

static void
set_events(struct conn *c, bool wants_bytes)
{
	bool wants_room = c->out.bytes > 0 || stream_unsent(&c->stream) ||
			  (c->gate == GATE_HANDSHAKE && tls_wants_write(c->stream.tls));
	uint32_t events = (wants_bytes && !c->eof && !c->last ? (uint32_t)EPOLLIN : 0) |
			  (wants_room ? (uint32_t)EPOLLOUT : 0);

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

/* Not all was started: time was up, sending made room for the answers to what was read already, or the descriptor says
 * nothing of what has been decrypted. */
static bool
has_more(struct conn *c, bool wants_bytes)
{
	if (wants_bytes) {
		return stream_pending(&c->stream) || lingers(c);
	}
	return c->gate == GATE_OPEN && may_start(c);
}

static void
work(struct conn *c)
{
	uint64_t end_ns = clock_now_ns() + RPC_SLICE_NS;
	bool wants_bytes;

	c->kicked = false;
	if (c->stream.fd < 0) {
		conn_free(c);
		return;
	}
	c->working = true;
	wants_bytes = c->gate != GATE_OPEN && work_at_gate(c);
	if (c->gate == GATE_OPEN) {
		wants_bytes = start_messages(c, end_ns);
		if (wants_bytes && read_in(c)) {
			wants_bytes = start_messages(c, end_ns);
		}
	}
	c->working = false;
	if (c->stream.fd >= 0) {
		send_out(c);
		tell_lost(c);
	}
	if (c->stream.fd >= 0 && !is_over(c)) {
		set_events(c, wants_bytes);
		if (has_more(c, wants_bytes)) {
			kick_later(c);
		}
		return;
	}
	if (c->stream.fd >= 0) {
		const struct conn_options *options = c->options;

		end(c);
		options->closed(options->ctx);
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

/* What it must do before it is admitted; NULL in refusal: nothing is wrong with it so far. */
static int
start_gate(struct conn *c, const char *refusal, struct err *err)
{
	const struct conn_options *o = c->options;

	if (refusal == NULL && o->tls == NULL && o->token == NULL) {
		c->gate = GATE_OPEN;
		return 0;
	}
	if (refusal != NULL) {
		refuse(c, GATE_UNWELCOME, rpc_exchange_error_text(-EACCES, refusal));
		return 0;
	}
	c->gate = GATE_TOKEN;
	if (o->tls != NULL) {
		int rc = stream_start_tls(&c->stream, o->tls, NULL, err);

		if (rc != 0) {
			return rc;
		}
		c->gate = GATE_HANDSHAKE;
	}
	return timer_start(&c->timer, RPC_ADMISSION_US, time_is_up);
}

int
conn_open(int fd, const struct conn_options *options, struct list *conns, uid_t user, const char *refusal)
{
	struct conn *c = calloc(1, sizeof(*c));
	struct err err = ERR_NONE;
	int rc;

	if (c == NULL) {
		close(fd);
		return -ENOMEM;
	}
	c->magic = CONN_MAGIC;
	stream_init(&c->stream, fd);
	c->options = options;
	c->user = user;
	c->heard_ns = clock_now_ns();
	list_init(&c->exchanges);
	rpc_out_init(&c->out);
	c->events = EPOLLIN;
	rc = watch_start(&c->watch, fd, c->events, on_event);
	if (rc == 0) {
		rc = start_gate(c, refusal, &err);
	}
	if (rc != 0) {
		watch_stop(&c->watch);
		timer_stop(&c->timer);
		stream_close(&c->stream);
		conn_free(c);
		return rc;
	}
	list_append(conns, &c->link);
	return 0;
}

/* ---- Places for others ---- */

static bool
is_one_of(const struct conn *c, enum conn_who who, uid_t user)
{
	bool welcome = c->gate != GATE_UNWELCOME;

	if (c->failed) {
		return false;
	}
	switch (who) {
	case CONN_ALL:
		break;
	case CONN_STRANGERS:
		return c->gate != GATE_OPEN;
	case CONN_UNWELCOME:
		return !welcome;
	case CONN_USERS:
		return welcome && c->user != CONN_OWNER;
	case CONN_OF_USER:
		return welcome && c->user == user;
	}
	return true;
}

unsigned
conn_count(const struct list *conns, enum conn_who who, uid_t user)
{
	const struct conn *c;
	unsigned count = 0;

	LIST_FOREACH(c, conns, link)
	{
		count += is_one_of(c, who, user);
	}
	return count;
}

static uint64_t
free_for_others_ns(const struct conn *c)
{
	if (c->gate == GATE_OPEN && (c->running > 0 || c->out.bytes > 0 || c->subscribed != 0)) {
		return UINT64_MAX;
	}
	return c->heard_ns + (c->served ? IDLE_NS : SILENT_NS);
}

uint64_t
conn_make_place(struct list *conns, enum conn_who who, uid_t user)
{
	struct conn *c, *oldest = NULL;
	uint64_t at = UINT64_MAX;

	LIST_FOREACH(c, conns, link)
	{
		if (is_one_of(c, who, user) && free_for_others_ns(c) < at) {
			at = free_for_others_ns(c);
			oldest = c;
		}
	}
	if (at <= clock_now_ns()) {
		oldest->failed = true;
		kick(oldest);
		return 0;
	}
	return at;
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
