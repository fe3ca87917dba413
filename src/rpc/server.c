/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The listening socket, unix or TCP. RPC_CONNECTIONS_MAX clients are served at a time; a further one waits in the kernel's
 * queue until one leaves, or has the place of one that has said nothing for long (conn_make_place). The socket and a
 * connection may take one of the descriptors that are kept back, so that a process at its limit answers still. When those
 * have run out, too, accepting pauses until a client leaves or RPC_ACCEPT_PAUSE_US have passed: the socket stays readable,
 * and trying again at once would spin.
 *
 * On a unix socket root and the user of berthd always get in: users let in by --rpc-user and --rpc-group have
 * RPC_USERS_MAX places among them, and RPC_USER_MAX each. Who comes when these are taken has the place of an idle one of
 * theirs, or is refused. Of those who may not come in at all RPC_UNWELCOME_MAX are told so at a time. What is refused is said
 * in the log once in RPC_REFUSALS_LOG_NS.
 *
 * Over TCP anybody may come: at most RPC_STRANGERS_MAX have not shown who they are at a time, and RPC_STRANGERS_PER_PAUSE are
 * accepted in RPC_STRANGERS_PAUSE_US, since a TLS handshake takes a millisecond of this thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/clock.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "event/thread.h"
#include "rpc/conn.h"
#include "rpc/internal.h"
#include "rpc/rpc.h"
#include "sock/tcp.h"
#include "sock/unix.h"

#define RPC_CONNECTIONS_MAX 128
#define RPC_USERS_MAX 96
#define RPC_USER_MAX 48
#define RPC_UNWELCOME_MAX 8
#define RPC_REFUSALS_LOG_NS (10 * NS_PER_S)
#define RPC_ACCEPT_PAUSE_US UINT64_C(1000000)
#define RPC_STRANGERS_MAX 16
#define RPC_STRANGERS_PAUSE_US UINT64_C(200000)
#define RPC_STRANGERS_PER_PAUSE 10

struct rpc_server {
	int fd;
	bool tcp;
	char *path; /* or address */
	dev_t dev; /* of the socket file: only our own is removed */
	ino_t ino;
	struct rpc_peers peers;
	struct conn_options conn_options;
	uint64_t burst_ns; /* strangers have been accepted since */
	unsigned burst;    /* so many */
	uint64_t refusal_logged_ns; /* 0: never */
	unsigned refusals; /* since then, not in the log */
	struct watch watch;
	bool accepting;
	bool pausing;
	struct timer pause;
	struct list conns;
	unsigned conn_count;
};

static void
set_accepting(struct rpc_server *s)
{
	bool wanted = !s->pausing;

	if (wanted != s->accepting && watch_modify(&s->watch, wanted ? (uint32_t)EPOLLIN : 0) == 0) {
		s->accepting = wanted;
	}
}

static void
conn_closed(void *ctx)
{
	struct rpc_server *s = ctx;

	s->conn_count--;
	/* Its descriptor is free now. */
	s->pausing = false;
	timer_stop(&s->pause);
	set_accepting(s);
}

static void
pause_over(struct timer *t)
{
	struct rpc_server *s = CONTAINER_OF(t, struct rpc_server, pause);

	s->pausing = false;
	set_accepting(s);
}

static void
pause_accepting(struct rpc_server *s, uint64_t us)
{
	s->pausing = timer_start(&s->pause, us, pause_over) == 0;
	set_accepting(s);
}

static void
cannot_accept(struct rpc_server *s, int rc)
{
	struct err err = ERR_NONE;

	err_set(&err, rc, "cannot accept a connection: %s", strerror(-rc));
	descriptors_explain(&err);
	LOG_WARNING(RPC, s->path, "%s", err_text(&err));
	pause_accepting(s, RPC_ACCEPT_PAUSE_US);
}

/* ---- A place for one more ---- */

/* Whether the time of this burst of strangers is used up; us until the next begins. */
static bool
burst_over(struct rpc_server *s, uint64_t *ret_us)
{
	uint64_t now = clock_now_ns();
	uint64_t passed_us = (now - s->burst_ns) / NS_PER_US;

	if (s->burst == 0 || passed_us >= RPC_STRANGERS_PAUSE_US) {
		s->burst_ns = now;
		s->burst = 0;
	}
	*ret_us = RPC_STRANGERS_PAUSE_US - (s->burst == 0 ? 0 : passed_us);
	return s->burst >= RPC_STRANGERS_PER_PAUSE;
}

/* False: not now; when somebody is known to wait, accepting pauses until it is worth while to look again. */
static bool
has_place(struct rpc_server *s, bool waits)
{
	bool strangers_wait = s->tcp && conn_count(&s->conns, CONN_STRANGERS, CONN_OWNER) >= RPC_STRANGERS_MAX;
	uint64_t us, at_ns, now;

	if (s->conn_count >= RPC_CONNECTIONS_MAX || strangers_wait) {
		if (!waits) {
			return false;
		}
		at_ns = conn_make_place(&s->conns, s->conn_count < RPC_CONNECTIONS_MAX ? CONN_STRANGERS : CONN_ALL, CONN_OWNER);
		now = clock_now_ns();
		/* One that is busy may be idle soon: it is looked at again as long as somebody waits. */
		us = at_ns > now ? (at_ns - now) / NS_PER_US + 1 : 0;
		pause_accepting(s, MIN(us, RPC_ACCEPT_PAUSE_US));
		return false;
	}
	if (s->tcp && burst_over(s, &us)) {
		pause_accepting(s, us);
		return false;
	}
	return true;
}

static int
accept_once(const struct rpc_server *s)
{
	return s->tcp ? tcp_accept(s->fd) : unix_accept(s->fd);
}

static int
accept_next(struct rpc_server *s)
{
	int rc = accept_once(s);

	if (descriptors_out(rc)) {
		descriptors_borrow();
		rc = accept_once(s);
		descriptors_return();
	}
	return rc;
}

static bool
has_place_for(struct rpc_server *s, enum conn_who who, uid_t user, unsigned max)
{
	return conn_count(&s->conns, who, user) < max || conn_make_place(&s->conns, who, user) == 0;
}

/* Who is at the other end; 0, or why that one may not come in. */
static int
check_peer(struct rpc_server *s, int fd, uid_t *ret_user, struct err *err)
{
	int rc = rpc_peer_check(fd, &s->peers, ret_user, err);

	if (rc != 0) {
		return rc;
	}
	if (*ret_user == 0 || *ret_user == geteuid()) {
		*ret_user = CONN_OWNER;
		return 0;
	}
	if (!has_place_for(s, CONN_OF_USER, *ret_user, RPC_USER_MAX)) {
		return err_set(err, -EBUSY, "user %u has %u connections already", (unsigned)*ret_user, RPC_USER_MAX);
	}
	if (!has_place_for(s, CONN_USERS, CONN_OWNER, RPC_USERS_MAX)) {
		return err_set(err, -EBUSY, "there are %u connections already of users other than root and that of berthd",
			       RPC_USERS_MAX);
	}
	return 0;
}

static void
log_refusal(struct rpc_server *s, const char *why)
{
	uint64_t now = clock_now_ns();

	if (s->refusal_logged_ns != 0 && now - s->refusal_logged_ns < RPC_REFUSALS_LOG_NS) {
		s->refusals++;
		return;
	}
	if (s->refusals > 0) {
		LOG_WARNING(RPC, s->path, "%s (and %u more refusals before)", why, s->refusals);
	} else {
		LOG_WARNING(RPC, s->path, "%s", why);
	}
	s->refusals = 0;
	s->refusal_logged_ns = now;
}

static int
let_in(struct rpc_server *s, int fd)
{
	struct err err = ERR_NONE;
	uid_t user = CONN_OWNER;
	bool refused = !s->tcp && check_peer(s, fd, &user, &err) != 0;
	int rc;

	if (refused) {
		log_refusal(s, err_text(&err));
	}
	if (refused && conn_count(&s->conns, CONN_UNWELCOME, user) >= RPC_UNWELCOME_MAX) {
		close(fd);
		return 0;
	}
	rc = conn_open(fd, &s->conn_options, &s->conns, user, refused ? err_text(&err) : NULL);
	s->conn_count += rc == 0;
	s->burst++;
	return rc;
}

static void
on_connect(struct watch *w, uint32_t events)
{
	struct rpc_server *s = CONTAINER_OF(w, struct rpc_server, watch);

	for (bool waits = true; has_place(s, waits); waits = false) {
		int rc = accept_next(s);

		if (rc >= 0) {
			rc = let_in(s, rc);
		}
		if (rc == -EAGAIN) {
			break;
		}
		if (rc < 0) {
			cannot_accept(s, rc);
			break;
		}
	}
}

static void
server_free(struct rpc_server *s)
{
	struct stat st;

	if (s->fd >= 0) {
		close(s->fd);
		if (!s->tcp && stat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino) {
			unlink(s->path);
		}
	}
	rpc_token_free(s->conn_options.token);
	tls_credentials_put(s->conn_options.tls);
	free(s->path);
	free(s);
}

/* Who may open the socket; who of them may call is for rpc_peer_check(). */
static int
set_permissions(const struct rpc_server *s, const struct rpc_server_options *o, struct err *err)
{
	int rc = o->has_group ? unix_share(s->path, o->group, err) : 0;
	mode_t mode = o->peers.uid_count > 0 ? 0666 : 0;

	if (o->mode != 0) {
		mode = o->mode;
	}
	if (rc == 0 && mode != 0 && chmod(s->path, mode) != 0) {
		rc = err_set(err, -errno, "cannot set the permissions of %s: %s", s->path, strerror(errno));
	}
	return rc;
}

static int
listen_unix(struct rpc_server *s, const struct rpc_server_options *o, struct err *err)
{
	struct stat st;

	/* What was restored may have taken all others. */
	descriptors_borrow();
	s->fd = unix_listen(s->path, 0600, err);
	descriptors_return();
	if (s->fd < 0) {
		return s->fd;
	}
	if (stat(s->path, &st) != 0) {
		return err_set(err, -errno, "cannot look at %s: %s", s->path, strerror(errno));
	}
	s->dev = st.st_dev;
	s->ino = st.st_ino;
	s->peers = o->peers;
	if (o->has_group && s->peers.gid_count < RPC_PEERS_MAX) {
		s->peers.gids[s->peers.gid_count++] = o->group;
	}
	return set_permissions(s, o, err);
}

/* Nobody is served over TCP without having shown who it is. */
static int
read_credentials(struct rpc_server *s, const struct rpc_server_options *o, struct err *err)
{
	struct tls_options tls = {.server = true, .cert_dir = o->tls_dir, .verify_peer = o->token_file == NULL};
	struct rpc_token *token;
	int rc = 0;

	if (o->token_file == NULL && o->tls_dir == NULL) {
		return err_set(err, -EINVAL,
			       "%s: a TCP address needs authentication: a token (--rpc-token-file) or TLS with certificates of "
			       "the clients (--rpc-tls)",
			       s->path);
	}
	if (o->token_file != NULL) {
		rc = rpc_token_read(o->token_file, &token, err);
		if (rc != 0) {
			return rc;
		}
		s->conn_options.token = token;
	}
	if (o->tls_dir != NULL) {
		s->conn_options.tls = tls_credentials_create(&tls, err);
		if (s->conn_options.tls == NULL) {
			return err->code;
		}
	}
	return 0;
}

static int
listen_tcp(struct rpc_server *s, const struct rpc_server_options *o, struct err *err)
{
	int rc = read_credentials(s, o, err);

	if (rc != 0) {
		return rc;
	}
	descriptors_borrow();
	s->fd = tcp_listen(s->path, err);
	descriptors_return();
	return s->fd < 0 ? s->fd : 0;
}

static int
listen_on(struct rpc_server *s, const struct rpc_server_options *o, struct err *err)
{
	int rc = s->tcp ? listen_tcp(s, o, err) : listen_unix(s, o, err);

	if (rc != 0) {
		return rc;
	}
	rc = watch_start(&s->watch, s->fd, EPOLLIN, on_connect);
	return rc == 0 ? 0 : err_set(err, rc, "cannot watch %s: %s", s->path, strerror(-rc));
}

bool
rpc_is_address(const char *path)
{
	const char *colon = strrchr(path, ':');

	return colon != NULL && strchr(path, '/') == NULL && colon[1] != '\0' &&
	       strspn(colon + 1, "0123456789") == strlen(colon + 1);
}

static struct rpc_server *
create(const char *path, struct err *err)
{
	struct rpc_server *s = calloc(1, sizeof(*s));
	char *copy = strdup(path);

	if (s == NULL || copy == NULL) {
		free(s);
		free(copy);
		err_set(err, -ENOMEM, "%s: out of memory", path);
		return NULL;
	}
	s->fd = -1;
	s->path = copy;
	s->tcp = rpc_is_address(copy);
	s->accepting = true;
	s->conn_options.closed = conn_closed;
	s->conn_options.ctx = s;
	list_init(&s->conns);
	return s;
}

int
rpc_server_check(const struct rpc_server_options *options, struct err *err)
{
	struct rpc_server *s = create(options->path, err);
	int rc = s != NULL ? 0 : err->code;

	if (rc == 0 && s->tcp) {
		rc = listen_tcp(s, options, err);
	}
	if (s != NULL) {
		server_free(s);
	}
	return rc;
}

int
rpc_server_start(const struct rpc_server_options *options, struct rpc_server **ret_server, struct err *err)
{
	struct rpc_server *s = create(options->path, err);
	int rc;

	if (s == NULL) {
		return err->code;
	}
	rc = listen_on(s, options, err);
	if (rc != 0) {
		server_free(s);
		return rc;
	}
	if (options->record != NULL) {
		rpc_set_record(options->record, options->ctx);
	}
	*ret_server = s;
	return 0;
}

const char *
rpc_server_address(const struct rpc_server *s, char text[static RPC_ADDRESS_BYTES])
{
	return s->tcp ? tcp_local_address(s->fd, text) : s->path;
}

void
rpc_server_stop(struct rpc_server *s)
{
	if (s == NULL) {
		return;
	}
	watch_stop(&s->watch);
	timer_stop(&s->pause);
	conn_close_all(&s->conns);
	rpc_lists_end();
	server_free(s);
}
