/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A session: the connection, its messages in and out, its end.
 *
 *             message that waits for queues
 *   OPEN  ----------------------------------->  BUSY
 *    |    <-----------------------------------   |
 *    |         session_message_done()            |
 *    +------------------+------------------------+
 *                       | peer gone, malformed message, failed ring, bdev or controller gone
 *                    ENDING --(all queues stopped)--> ENDED --(next turn)--> freed
 *
 * Invariants
 *  1. A message is taken from the socket only when all of it is there, and no other before it is
 *     answered.
 *  2. `saved` is what the session is when a message is answered; saved->pending names one that is
 *     being worked on.
 *  3. The socket is watched edge-triggered: whoever stops reading before the end (-EAGAIN) reads on
 *     later.
 *  4. The socket is closed after the last queue has stopped: to the peer the end of the connection
 *     means that its memory is not touched any more.
 *  5. It takes SESSION_BYTES here at most and RING_BYTES a ring, besides its memory map and a page of
 *     state; an idle one nothing else.
 *  6. A session is freed from a message of its own, so that everyone on the stack may look at its
 *     state.
 */
#include "vhost/session.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/descriptors.h"
#include "base/log.h"

/* Messages handled before other work of the thread gets its turn. */
#define MESSAGES_PER_TURN 32
#define SESSION_BYTES 1152
#define RING_BYTES 768
/* Connection, kick, call, the back end's own channel, and guest memory while it is mapped. */
#define VM_DESCRIPTORS 5

_Static_assert(sizeof(struct vhost_session) <= SESSION_BYTES && sizeof(struct ring) <= RING_BYTES, "invariant 5");

static const char *const state_names[] = {
#define SESSION_STATE_NAME(id, name) name,
	SESSION_STATES(SESSION_STATE_NAME)
#undef SESSION_STATE_NAME
};

static unsigned arriving;

static void receive(struct vhost_session *s);

static void
set_state(struct vhost_session *s, enum session_state state)
{
	static const bool edges[4][4] = {
		[SESSION_OPEN] = {[SESSION_BUSY] = true, [SESSION_ENDING] = true},
		[SESSION_BUSY] = {[SESSION_OPEN] = true, [SESSION_ENDING] = true},
		[SESSION_ENDING] = {[SESSION_ENDED] = true},
	};

	CHECK(edges[s->state][state]);
	LOG_DEBUG(VHOST, s->ctrlr->name, "session %llu: %s, now %s", (unsigned long long)s->saved->id,
		  state_names[s->state], state_names[state]);
	s->state = state;
}

/* ---- Life ---- */

unsigned
session_descriptors_needed(void)
{
	/* Those that are arriving have their connection already. */
	return arriving * (VM_DESCRIPTORS - 1) + VM_DESCRIPTORS;
}

static void
set_arriving(struct vhost_session *s, bool value)
{
	arriving += (unsigned)value - (unsigned)s->arriving;
	s->arriving = value;
}

static void
session_free(struct vhost_session *s)
{
	set_arriving(s, false);
	unix_fds_close(&s->fds);
	if (s->saved != NULL) {
		rings_free(s);
	}
	if (s->old_fd >= 0) {
		close(s->old_fd);
	}
	if (s->backend_fd >= 0) {
		close(s->backend_fd);
	}
	memmap_put(s->map);
	memmap_put(s->old_map);
	state_put(s->saved);
	close(s->fd);
	s->magic = 0;
	free(s);
}

static void
free_on_thread(struct msg *msg)
{
	struct vhost_session *s = MAGIC_OBJ(CONTAINER_OF(msg, struct vhost_session, end_msg), SESSION_MAGIC);
	struct vhost_controller *ctrlr = s->ctrlr;

	VHOST_LOG(INFO, ctrlr, "session %llu ended", (unsigned long long)s->saved->id);
	session_free(s);
	ctrlr->session = NULL;
	vhost_controller_session_gone(ctrlr);
}

static void
ended(struct vhost_session *s, int status)
{
	set_state(s, SESSION_ENDED);
	thread_send(s->thread, &s->end_msg, free_on_thread);
}

void
session_end(struct vhost_session *s, const char *why)
{
	if (s->state == SESSION_ENDING || s->state == SESSION_ENDED) {
		return;
	}
	if (why != NULL) {
		VHOST_LOG(WARNING, s->ctrlr, "session %llu ends: %s", (unsigned long long)s->saved->id, why);
	}
	set_state(s, SESSION_ENDING);
	watch_stop(&s->watch);
	rings_settle(s, ended);
}

static void
on_event(struct watch *w, uint32_t events)
{
	struct vhost_session *s = MAGIC_OBJ(CONTAINER_OF(w, struct vhost_session, watch), SESSION_MAGIC);

	if ((events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0) {
		s->hangup = true;
	}
	if (s->state == SESSION_OPEN) {
		receive(s);
	} else if (s->hangup) {
		/* Whoever waited for the answer is gone. */
		session_end(s, NULL);
	}
}

int
session_start(struct vhost_controller *ctrlr, int fd, struct err *err)
{
	static uint64_t next_id = 1;
	struct vhost_session *s = calloc(1, sizeof(*s));
	int rc;

	CHECK(ctrlr->session == NULL);
	if (s == NULL) {
		close(fd);
		return err_set(err, -ENOMEM, "out of memory");
	}
	s->magic = SESSION_MAGIC;
	s->ctrlr = ctrlr;
	s->thread = thread_self();
	s->fd = fd;
	s->backend_fd = s->old_fd = -1;
	s->offered = ctrlr->ops->features(ctrlr);
	s->map = memmap_create();
	s->saved = state_get(ctrlr->name, next_id);
	if (s->map == NULL || s->saved == NULL) {
		session_free(s);
		return err_set(err, -ENOSPC, "more than %d sessions, or out of memory", STATE_SLOTS);
	}
	rc = watch_start(&s->watch, fd, EPOLLIN | EPOLLRDHUP | EPOLLET, on_event);
	if (rc != 0) {
		session_free(s);
		return err_set(err, rc, "cannot watch the connection: %s", strerror(-rc));
	}
	next_id++;
	set_arriving(s, true);
	ctrlr->session = s;
	VHOST_LOG(INFO, ctrlr, "session %llu begins", (unsigned long long)s->saved->id);
	return 0;
}

/* ---- Answers ---- */

static void
send_message(struct vhost_session *s)
{
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	size_t len;
	int rc;

	s->msg.flags = VHOST_USER_REPLY;
	len = vhost_msg_encode(VHOST_MSG_REPLY, &s->msg, buf);
	rc = unix_send(s->fd, buf, len, NULL, 0);
	if (rc == -EPIPE || rc == -ECONNRESET) {
		session_end(s, NULL);
	} else if (rc != 0) {
		session_end(s, rc == -EAGAIN ? "the front end does not read its replies" : strerror(-rc));
	}
}

static bool
wants_ack(const struct vhost_session *s)
{
	return (s->msg.flags & VHOST_USER_NEED_REPLY) != 0 &&
	       (s->saved->protocol_features & 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK) != 0;
}

static void
send_ack(struct vhost_session *s, int status)
{
	if (status != 0) {
		VHOST_LOG(WARNING, s->ctrlr, "refused: %s", s->err.text);
	}
	s->msg.u64 = status != 0;
	send_message(s);
}

static void
log_ignored(struct vhost_session *s)
{
	VHOST_LOG(WARNING, s->ctrlr, "ignored: %s", s->err.text);
}

static void
answer(struct vhost_session *s, int status)
{
	bool has_reply = vhost_msg_has_reply(VHOST_MSG_REQUEST, s->msg.type);

	s->saved->pending = 0;
	if (has_reply && status == 0) {
		send_message(s);
	} else if (has_reply) {
		session_end(s, s->err.text);
	} else if (wants_ack(s)) {
		send_ack(s, status);
	} else if (status != 0 && message_refusal_is_harmless(s->msg.type)) {
		log_ignored(s);
	} else if (status != 0) {
		session_end(s, s->err.text);
	}
}

void
session_message_done(struct vhost_session *s, int status)
{
	CHECK(s->state == SESSION_BUSY);
	/* A ring may be on its way to another thread; then this message has replaced nothing. */
	CHECK(s->commands == 0 || (s->old_fd < 0 && s->old_map == NULL));
	if (s->old_fd >= 0) {
		close(s->old_fd);
		s->old_fd = -1;
	}
	memmap_put(s->old_map);
	s->old_map = NULL;
	if (s->started > 0) {
		set_arriving(s, false);
	}
	set_state(s, SESSION_OPEN);
	answer(s, status);
	if (s->state == SESSION_OPEN && !s->receiving) {
		receive(s);
	}
}

static void
handle(struct vhost_session *s)
{
	int status;

	s->err = ERR_NONE;
	s->saved->pending = s->msg.type;
	/* Busy first: the handler may be done before it returns. */
	set_state(s, SESSION_BUSY);
	status = message_handle(s);
	unix_fds_close(&s->fds);
	if (status != MESSAGE_WAIT) {
		session_message_done(s, status);
	}
}

/* ---- Messages in ---- */

/* A message of a type that we do not know: no reason to end, but not in force. */
static void
ignore(struct vhost_session *s)
{
	unix_fds_close(&s->fds);
	if (wants_ack(s)) {
		send_ack(s, -EOPNOTSUPP);
	} else {
		log_ignored(s);
	}
}

/*
 * How long the next message is; 0 when it is not all there yet, or the session has ended. The bytes
 * are counted, not looked at: a look (MSG_PEEK) does not go past the first bytes that carry
 * descriptors.
 */
static size_t
whole_message(struct vhost_session *s)
{
	uint8_t header[VHOST_USER_HEADER_BYTES];
	ssize_t n = unix_peek(s->fd, header, sizeof(header));
	ssize_t pending = n > 0 ? unix_pending(s->fd) : 0;
	int len = VHOST_USER_HEADER_BYTES;

	if (n == -EAGAIN && !s->hangup) {
		return 0;
	}
	if (n <= 0) {
		session_end(s, n == 0 || n == -EAGAIN || n == -ECONNRESET ? NULL : strerror((int)-n));
		return 0;
	}
	if (n == sizeof(header)) {
		len = vhost_msg_length(header, &s->err);
	} else if (pending >= VHOST_USER_HEADER_BYTES) {
		len = err_set(&s->err, -EPROTO, "a header with descriptors in its middle");
	}
	if (len < 0) {
		session_end(s, s->err.text);
		return 0;
	}
	if (pending < len) {
		if (s->hangup) {
			session_end(s, "disconnected in the middle of a message");
		}
		return 0;
	}
	return (size_t)len;
}

/* Takes the message, len bytes that are there, and decodes it. False when the session has ended, or
 * the message was ignored. */
static bool
take_message(struct vhost_session *s, size_t len)
{
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	int rc;

	s->fds = (struct unix_fds){.count = 0};
	for (size_t at = 0; at < len;) {
		ssize_t n = unix_recv(s->fd, buf + at, len - at, &s->fds);

		if (n <= 0) {
			session_end(s, n == 0 ? "disconnected in the middle of a message" : strerror((int)-n));
			return false;
		}
		at += (size_t)n;
	}
	s->msg.type = 0;
	rc = vhost_msg_decode(VHOST_MSG_REQUEST, buf, len, &s->msg, &s->err);
	if (s->fds.none_left) {
		rc = err_set(&s->err, -EMFILE, "%s: cannot open its descriptors", vhost_msg_name(VHOST_MSG_REQUEST, s->msg.type));
		descriptors_explain(&s->err);
	} else if (s->fds.lost || (rc == 0 && s->fds.count > vhost_msg_fds_max(VHOST_MSG_REQUEST, s->msg.type))) {
		rc = err_set(&s->err, -EPROTO, "%s with more descriptors than it may have",
			     vhost_msg_name(VHOST_MSG_REQUEST, s->msg.type));
	}
	if (rc == -EOPNOTSUPP) {
		ignore(s);
		return false;
	}
	if (rc != 0) {
		session_end(s, s->err.text);
		return false;
	}
	LOG_DEBUG(VHOST, s->ctrlr->name, "%s", vhost_msg_name(VHOST_MSG_REQUEST, s->msg.type));
	return true;
}

static void
receive_more(struct msg *msg)
{
	struct vhost_session *s = MAGIC_OBJ(CONTAINER_OF(msg, struct vhost_session, more_msg), SESSION_MAGIC);

	s->more_queued = false;
	if (s->state == SESSION_OPEN) {
		receive(s);
	}
}

static void
receive(struct vhost_session *s)
{
	s->receiving = true;
	for (unsigned i = 0; i < MESSAGES_PER_TURN && s->state == SESSION_OPEN; i++) {
		size_t len = whole_message(s);

		if (len == 0) {
			s->receiving = false;
			return;
		}
		if (take_message(s, len)) {
			handle(s);
		}
	}
	s->receiving = false;
	if (s->state == SESSION_OPEN && !s->more_queued) {
		s->more_queued = true;
		thread_send(s->thread, &s->more_msg, receive_more);
	}
}

/* ---- The back end's own channel ---- */

void
session_config_changed(struct vhost_session *s)
{
	const uint64_t needed = 1ull << VHOST_USER_PROTOCOL_F_CONFIG | 1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ;
	struct vhost_user_msg msg = {.type = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG};
	uint8_t buf[VHOST_USER_MESSAGE_MAX];
	int rc;

	if (s->backend_fd < 0 || (s->saved->protocol_features & needed) != needed) {
		return;
	}
	rc = unix_send(s->backend_fd, buf, vhost_msg_encode(VHOST_MSG_BACKEND_REQUEST, &msg, buf), NULL, 0);
	if (rc != 0) {
		VHOST_LOG(WARNING, s->ctrlr, "cannot tell the front end of a change: %s", strerror(-rc));
	}
}

/* ---- What others may ask ---- */

void
session_get_info(const struct vhost_session *s, struct vhost_session_info *ret_info)
{
	*ret_info = (struct vhost_session_info){
		.id = s->saved->id,
		.started = s->started > 0,
		.max_queues = s->saved->ring_count,
		.queues_started = s->started,
		.memory_regions = s->map->count,
		.negotiated_features = s->saved->features,
		.protocol_features = s->saved->protocol_features,
	};
}
