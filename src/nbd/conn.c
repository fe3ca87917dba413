/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A connection on the app thread: its handshake, and then only its place in the lists; transmission is its session's.
 *
 *   accepted --> handshake <--> TLS --(chosen an export)--> transmission --> ended
 *
 * Invariants
 *  1. A handshake takes HANDSHAKE_US at most, IN_BYTES of memory, and the answer to one option.
 *  2. What was received before TLS is never taken for something that came through it: there must be nothing left.
 *  3. Other work of the thread has its turn after STEPS_MAX steps.
 *  4. The socket belongs to the handshake until the session is started, and to the session from then on.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/check.h"
#include "base/log.h"
#include "nbd/control.h"

#define HANDSHAKE_US (10 * 1000000)
#define IN_BYTES 32768
#define STEPS_MAX 64
#define USER_BYTES 256

_Static_assert(IN_BYTES >= NBD_OPTION_BYTES + NBD_OPTION_DATA_MAX, "every option fits");
_Static_assert(IN_BYTES <= NBD_LARGE_BYTES, "the session takes what is left");

static uint64_t last_id;

/* ---- Placement ---- */

static struct {
	struct thread *const *threads;
	unsigned count;
	unsigned *sessions; /* of each */
} places;

int
nbd_placement_init(struct thread *const *threads, unsigned count)
{
	CHECK(count > 0);
	places.threads = threads;
	places.count = count;
	places.sessions = calloc(count, sizeof(*places.sessions));
	return places.sessions != NULL ? 0 : -ENOMEM;
}

void
nbd_placement_release(void)
{
	free(places.sessions);
	places.sessions = NULL;
}

/* The one with the fewest: several connections of a client come to different threads. */
static unsigned
take_place(void)
{
	unsigned best = 0;

	for (unsigned i = 1; i < places.count; i++) {
		if (places.sessions[i] < places.sessions[best]) {
			best = i;
		}
	}
	places.sessions[best]++;
	return best;
}

/* ---- The end ---- */

static void
say(const struct nbd_conn *c, const char *why, int status)
{
	const char *object = c->export != NULL ? c->export->options.name : c->server != NULL ? c->server->options.name : "";

	if (status != 0) {
		LOG_INFO(NBD, object, "client %s: %s: %s", c->peer, why, strerror(-status));
	} else {
		LOG_INFO(NBD, object, "client %s: %s", c->peer, why);
	}
}

static void
conn_free(struct nbd_conn *c)
{
	nbd_negotiation_release(&c->negotiation);
	free(c->user);
	free(c->in);
	free(c);
}

static void
leave(struct nbd_conn *c, bool chosen)
{
	struct nbd_server *server = c->server;
	struct nbd_export *e = c->export;

	list_remove(&c->link);
	list_remove(&c->export_link);
	if (c->ended != NULL) {
		c->ended(c);
	}
	conn_free(c);
	if (e != NULL) {
		nbd_export_left(e);
	}
	if (server != NULL) {
		nbd_server_left(server, chosen);
	}
}

/* From a handshake. why NULL: as the client wished. */
static void
end_handshake(struct nbd_conn *c, const char *why, int status)
{
	if (why != NULL) {
		say(c, why, status);
	}
	c->over = true;
	watch_stop(&c->watch);
	timer_stop(&c->timeout);
	stream_close(&c->stream);
	if (!c->kicked) {
		leave(c, false);
	}
}

static void
session_ended(struct nbd_session *s)
{
	struct nbd_conn *c = CONTAINER_OF(s, struct nbd_conn, session);

	if (s->why != NULL) {
		say(c, s->why, s->status);
	}
	places.sessions[c->place]--;
	leave(c, true);
}

void
nbd_conn_end(struct nbd_conn *c)
{
	if (c->export != NULL) {
		nbd_session_stop(&c->session);
	} else if (!c->over) {
		end_handshake(c, "sent away", 0);
	}
}

/* ---- To transmission ---- */

static void
start_session(struct nbd_conn *c, struct nbd_export *e, uint16_t flags)
{
	c->place = take_place();
	c->export = e;
	e->connections++;
	e->accepted++;
	list_append(&e->conns, &c->export_link);
	c->session.setup = (struct nbd_session_setup){
		.stream = c->stream,
		.desc = e->desc,
		.thread = places.threads[c->place],
		.flags = flags,
		.style = nbd_negotiated_style(&c->negotiation),
		.contexts = c->negotiation.contexts,
		.early = c->in_len > 0 ? c->in : NULL,
		.early_len = c->in_len,
	};
	if (c->in_len > 0) {
		c->in = NULL;
	}
	c->structured = c->negotiation.structured;
	c->extended = c->negotiation.extended;
	stream_init(&c->stream, -1);
	nbd_session_start(&c->session, session_ended);
}

static void
go(struct nbd_conn *c)
{
	const struct nbd_offer *told = &c->negotiation.chosen;
	struct nbd_string name = {.text = told->name, .length = (uint32_t)strlen(told->name)};
	struct nbd_server *server = c->server;
	struct nbd_export *e = nbd_export_for(server, &name);
	struct nbd_offer now = {.size_bytes = 0};

	/* It may have gone, and another one come, while the reply was on its way. */
	if (e != NULL) {
		nbd_export_offer(e, &now);
	}
	if (e == NULL || now.size_bytes < told->size_bytes || now.flags != (told->flags & ~NBD_FLAG_SEND_DF) ||
	    now.changes != told->changes) {
		end_handshake(c, "the export it chose is gone", 0);
		return;
	}
	watch_stop(&c->watch);
	timer_stop(&c->timeout);
	start_session(c, e, told->flags);
	nbd_negotiation_release(&c->negotiation);
	free(c->in);
	c->in = NULL;
	list_remove(&c->link);
	list_append(&server->conns, &c->link);
	nbd_server_chosen(server);
	LOG_INFO(NBD, e->options.name, "client %s has come", c->peer);
}

/* ---- The handshake ---- */

/* What the last step came to. */
enum step {
	STEP_ON,   /* there may be more to do */
	STEP_WAIT, /* for the socket, c->events say for what */
	STEP_OVER, /* no handshake any more; c may be gone */
};

static enum step
give_up(struct nbd_conn *c, const char *why, int status)
{
	end_handshake(c, why, status);
	return STEP_OVER;
}

static enum step
wait_for(struct nbd_conn *c, uint32_t events)
{
	if (events != c->events && watch_modify(&c->watch, events) == 0) {
		c->events = events;
	}
	return STEP_WAIT;
}

static enum step
shake(struct nbd_conn *c)
{
	struct err err = ERR_NONE;
	char user[USER_BYTES];
	int rc = stream_handshake(&c->stream, &err);

	if (rc == -EAGAIN) {
		return wait_for(c, tls_wants_write(c->stream.tls) ? EPOLLOUT : EPOLLIN);
	}
	if (rc != 0) {
		return give_up(c, err_text(&err), 0);
	}
	c->shaking = false;
	c->tls = true;
	c->negotiation.tls = true;
	if (tls_peer_name(c->stream.tls, user, sizeof(user))) {
		c->user = strdup(user);
	}
	return STEP_ON;
}

static enum step
start_tls(struct nbd_conn *c)
{
	struct err err = ERR_NONE;

	if (c->in_len > 0) {
		return give_up(c, "it sent something between its request for TLS and TLS", 0);
	}
	if (stream_start_tls(&c->stream, c->server->credentials, NULL, &err) != 0) {
		return give_up(c, err_text(&err), 0);
	}
	c->shaking = true;
	c->next = NBD_NEXT_OPTION;
	return STEP_ON;
}

static enum step
send_answer(struct nbd_conn *c)
{
	struct nbd_negotiation *n = &c->negotiation;
	struct iovec iov = {.iov_base = n->out + c->out_sent, .iov_len = n->out_len - c->out_sent};
	ssize_t sent = stream_sendv(&c->stream, &iov, iov.iov_len > 0 ? 1 : 0);

	if (sent == -EAGAIN) {
		return wait_for(c, EPOLLOUT);
	}
	if (sent < 0) {
		return give_up(c, "the connection was lost", (int)sent);
	}
	c->out_sent += (size_t)sent;
	if (c->out_sent == n->out_len && !stream_unsent(&c->stream)) {
		c->out_sent = 0;
		n->out_len = 0;
	}
	return STEP_ON;
}

static enum step
read_more(struct nbd_conn *c)
{
	ssize_t n;

	CHECK(c->in_len < IN_BYTES);
	n = stream_recv(&c->stream, c->in + c->in_len, IN_BYTES - c->in_len);
	if (n == -EAGAIN) {
		return wait_for(c, EPOLLIN);
	}
	if (n <= 0) {
		return give_up(c, n == 0 ? NULL : "the connection was lost", (int)n);
	}
	c->in_len += (size_t)n;
	c->next = NBD_NEXT_OPTION;
	return STEP_ON;
}

static enum step
negotiate(struct nbd_conn *c)
{
	size_t used;

	c->next = nbd_negotiate(&c->negotiation, c->in, c->in_len, &used);
	memmove(c->in, c->in + used, c->in_len - used);
	c->in_len -= used;
	return STEP_ON;
}

/* One thing: the first that is to be done. */
static enum step
step(struct nbd_conn *c)
{
	if (c->shaking) {
		return shake(c);
	}
	if (c->negotiation.out_len > 0) {
		return send_answer(c);
	}
	switch (c->next) {
	case NBD_NEXT_BYTES:
		return read_more(c);
	case NBD_NEXT_TLS:
		return start_tls(c);
	case NBD_NEXT_GO:
		go(c);
		return STEP_OVER;
	case NBD_NEXT_CLOSE:
		return give_up(c, c->negotiation.why, 0);
	case NBD_NEXT_FAIL:
		return give_up(c, "out of memory", 0);
	default:
		return negotiate(c);
	}
}

static void work(struct nbd_conn *c);

static void
work_later(struct msg *msg)
{
	struct nbd_conn *c = CONTAINER_OF(msg, struct nbd_conn, later);

	c->kicked = false;
	if (c->over) {
		leave(c, false);
	} else {
		work(c);
	}
}

static void
work(struct nbd_conn *c)
{
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		if (step(c) != STEP_ON) {
			return;
		}
	}
	c->kicked = true;
	thread_send(thread_self(), &c->later, work_later);
}

static void
on_event(struct watch *w, uint32_t events)
{
	struct nbd_conn *c = CONTAINER_OF(w, struct nbd_conn, watch);

	if (!c->kicked) {
		work(c);
	}
}

static void
timed_out(struct timer *timer)
{
	end_handshake(CONTAINER_OF(timer, struct nbd_conn, timeout), "its handshake took too long", 0);
}

/* ---- Operations of the negotiation ---- */

static bool
find(struct nbd_negotiation *n, const struct nbd_string *name, struct nbd_offer *ret)
{
	struct nbd_conn *c = CONTAINER_OF(n, struct nbd_conn, negotiation);
	struct nbd_export *e = nbd_export_for(c->server, name);

	if (e != NULL) {
		nbd_export_offer(e, ret);
	}
	return e != NULL;
}

static bool
list(struct nbd_negotiation *n, unsigned i, struct nbd_offer *ret)
{
	struct nbd_conn *c = CONTAINER_OF(n, struct nbd_conn, negotiation);
	struct nbd_export *e = nbd_export_nth(c->server, i);

	if (e != NULL) {
		nbd_export_offer(e, ret);
	}
	return e != NULL;
}

static const struct nbd_negotiation_ops ops = {.find = find, .list = list};

/* ---- The beginning ---- */

static struct nbd_conn *
make(struct nbd_server *server, int fd)
{
	struct nbd_conn *c = calloc(1, sizeof(*c));

	if (c != NULL) {
		c->server = server;
		c->id = ++last_id;
		stream_init(&c->stream, fd);
		tcp_peer_address(fd, c->peer);
		if (strcmp(c->peer, "?") == 0) {
			strcpy(c->peer, server != NULL ? "unix" : "kernel");
		}
	}
	return c;
}

/* 0 or -ENOMEM. */
static int
prepare(struct nbd_conn *c)
{
	c->negotiation.ops = &ops;
	c->negotiation.tls_possible = c->server->options.tls != NBD_TLS_OFF;
	c->negotiation.tls_required = c->server->options.tls == NBD_TLS_REQUIRED;
	c->next = NBD_NEXT_BYTES;
	c->events = EPOLLIN;
	c->in = malloc(IN_BYTES);
	if (c->in == NULL || !nbd_negotiation_start(&c->negotiation) ||
	    timer_start(&c->timeout, HANDSHAKE_US, timed_out) != 0) {
		return -ENOMEM;
	}
	return watch_start(&c->watch, c->stream.fd, c->events, on_event);
}

int
nbd_conn_accept(struct nbd_server *server, int fd)
{
	struct nbd_conn *c = make(server, fd);
	struct stream closing;
	int rc = c != NULL ? prepare(c) : -ENOMEM;

	if (rc != 0) {
		stream_init(&closing, fd);
		stream_close(&closing);
		if (c != NULL) {
			timer_stop(&c->timeout);
			conn_free(c);
		}
		return rc;
	}
	server->connections++;
	server->handshakes++;
	list_append(&server->fresh, &c->link);
	work(c);
	return 0;
}

int
nbd_conn_attach(struct nbd_export *e, int fd, uint16_t flags, void (*ended)(struct nbd_conn *c), struct nbd_conn **ret)
{
	struct nbd_conn *c = make(NULL, fd);
	struct stream closing;

	if (c == NULL) {
		stream_init(&closing, fd);
		stream_close(&closing);
		return -ENOMEM;
	}
	c->ended = ended;
	start_session(c, e, flags);
	*ret = c;
	return 0;
}
