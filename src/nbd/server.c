/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Servers: listening sockets and the clients that came by them; and the whole of src/nbd's start and end.
 *
 * Invariants
 *  1. While it is not full a server is watched, or its retry timer runs.
 *  2. At most HANDSHAKES_MAX clients have not chosen an export: another one takes the place of the oldest of them. So nobody
 *     is kept out by those who connect and say nothing.
 *  3. A server is freed when its last client is gone.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "base/path.h"
#include "nbd/control.h"
#include "sock/tcp.h"
#include "sock/unix.h"

#define SOCKET_MODE 0600
#define HANDSHAKES_MAX 64
/* Connections taken at a time. */
#define ACCEPT_MAX 16
/* After a failed accept: the connection still waits, and would be reported at once again. */
#define RETRY_US 100000
/* What the kernel may hold of replies on their way; it allows less, perhaps. */
#define SEND_BUFFER_BYTES (4 << 20)

const struct nbd_options *nbd_opts;
static struct nbd_options options_copy;
static struct list servers = {&servers, &servers};
static unsigned alive; /* those being deleted included */
static void (*all_ended)(void);

/* ---- Listening ---- */

static void on_connection(struct watch *w, uint32_t events);

static void
retry(struct timer *timer)
{
	struct nbd_server *s = CONTAINER_OF(timer, struct nbd_server, retry);

	if (!s->watching && watch_start(&s->watch, s->fd, EPOLLIN, on_connection) == 0) {
		s->watching = true;
	} else if (!s->watching) {
		(void)timer_start(&s->retry, RETRY_US, retry);
	}
}

static void
pause_watch(struct nbd_server *s)
{
	if (s->watching) {
		watch_stop(&s->watch);
		s->watching = false;
	}
}

static void
accept_failed(struct nbd_server *s, int rc)
{
	struct err err = ERR_NONE;

	if (!s->complained) {
		err_set(&err, rc, "cannot accept a connection, it waits: %s", strerror(-rc));
		descriptors_explain(&err);
		LOG_WARNING(NBD, s->options.name, "%s", err_text(&err));
		s->complained = true;
	}
	pause_watch(s);
	if (timer_start(&s->retry, RETRY_US, retry) != 0) {
		LOG_ERROR(NBD, s->options.name, "no more connections: out of memory");
	}
}

static void
make_place(struct nbd_server *s)
{
	if (s->handshakes >= HANDSHAKES_MAX) {
		nbd_conn_end(LIST_FIRST(&s->fresh, struct nbd_conn, link));
	}
}

static void
on_connection(struct watch *w, uint32_t events)
{
	struct nbd_server *s = CONTAINER_OF(w, struct nbd_server, watch);

	for (unsigned i = 0; i < ACCEPT_MAX && s->connections < s->options.max_connections; i++) {
		int bytes = SEND_BUFFER_BYTES, fd = s->options.tcp != NULL ? tcp_accept(s->fd) : unix_accept(s->fd);

		if (fd == -EAGAIN) {
			return;
		}
		if (fd < 0) {
			accept_failed(s, fd);
			return;
		}
		if (s->options.tcp == NULL) {
			/* Of TCP the kernel finds out by itself. */
			setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
		}
		s->complained = false;
		make_place(s);
		if (nbd_conn_accept(s, fd) != 0) {
			accept_failed(s, -ENOMEM);
			return;
		}
		s->accepted++;
	}
	if (s->connections >= s->options.max_connections) {
		pause_watch(s);
	}
}

static int
open_socket(struct nbd_server *s, struct err *err)
{
	const char *path = s->options.unix_path;
	int rc;

	if (s->options.tcp != NULL) {
		s->fd = tcp_listen(s->options.tcp, err);
		return s->fd >= 0 ? 0 : s->fd;
	}
	s->fd = unix_listen(path, SOCKET_MODE, err);
	if (s->fd < 0) {
		return s->fd;
	}
	rc = nbd_opts->socket_group != NULL ? unix_share(path, *nbd_opts->socket_group, err) : 0;
	if (rc != 0) {
		unlink(path);
		close(s->fd);
		s->fd = -1;
	}
	return rc;
}

static void
close_socket(struct nbd_server *s)
{
	pause_watch(s);
	timer_stop(&s->retry);
	if (s->fd < 0) {
		return;
	}
	/* First the name, so that nobody connects to what is closed a moment later. */
	if (s->options.tcp == NULL) {
		unlink(s->options.unix_path);
	}
	close(s->fd);
	s->fd = -1;
}

/* ---- Life ---- */

static void
release(struct nbd_server *s)
{
	struct nbd_server_options *o = &s->options;

	close_socket(s);
	tls_credentials_put(s->credentials);
	free((char *)o->name);
	free((char *)o->unix_path);
	free((char *)o->tcp);
	free((char *)o->tls_certs);
	free((char *)o->tls_psk);
	free(s);
}

/* One less is alive: perhaps that was the last. */
static void
drop_one(void)
{
	void (*end)(void) = all_ended;

	if (--alive == 0 && end != NULL) {
		all_ended = NULL;
		end();
	}
}

static void
settle(struct nbd_server *s)
{
	void (*done)(void *ctx, int status) = s->done;
	void *ctx = s->ctx;

	if (!s->deleting || s->connections > 0) {
		return;
	}
	release(s);
	done(ctx, 0);
	drop_one();
}

void
nbd_server_chosen(struct nbd_server *s)
{
	s->handshakes--;
}

void
nbd_server_left(struct nbd_server *s, bool chosen)
{
	s->connections--;
	s->handshakes -= chosen ? 0 : 1;
	if (!s->deleting && !s->watching && s->connections < s->options.max_connections) {
		retry(&s->retry);
	}
	settle(s);
}

static bool
copy(const char *text, const char **ret)
{
	*ret = text != NULL ? strdup(text) : NULL;
	return text == NULL || *ret != NULL;
}

/* A path from the root, or one in the socket folder. */
static bool
copy_path(const struct nbd_server_options *o, const char **ret)
{
	*ret = NULL;
	if (o->tcp == NULL) {
		*ret = o->unix_path != NULL ? path_absolute(o->unix_path) : path_join(nbd_opts->socket_dir, o->name);
	}
	return o->tcp != NULL || *ret != NULL;
}

static int
check(const struct nbd_server_options *o, struct err *err)
{
	if (!path_name_ok(o->name, NBD_NAME_MAX)) {
		return err_set(err, -EINVAL, "'%.64s' cannot be a server's name: a file name is wanted", o->name);
	}
	if (nbd_server_find(o->name) != NULL) {
		return err_set(err, -EEXIST, "there is an NBD server '%s' already", o->name);
	}
	if (o->unix_path != NULL && o->tcp != NULL) {
		return err_set(err, -EINVAL, "server '%s' can have one address, a unix or a TCP one", o->name);
	}
	if (o->tls == NBD_TLS_OFF && (o->tls_certs != NULL || o->tls_psk != NULL || o->tls_verify_peer)) {
		return err_set(err, -EINVAL, "server '%s': TLS is off, but files for it are given", o->name);
	}
	return 0;
}

static struct nbd_server *
make(const struct nbd_server_options *o)
{
	struct nbd_server *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		return NULL;
	}
	s->fd = -1;
	list_init(&s->fresh);
	list_init(&s->conns);
	s->options.tls = o->tls;
	s->options.tls_verify_peer = o->tls_verify_peer;
	s->options.max_connections = o->max_connections != 0 ? o->max_connections : NBD_CONNECTIONS_DEFAULT;
	if (!copy(o->name, &s->options.name) || !copy_path(o, &s->options.unix_path) || !copy(o->tcp, &s->options.tcp) ||
	    !copy(o->tls_certs, &s->options.tls_certs) || !copy(o->tls_psk, &s->options.tls_psk)) {
		release(s);
		return NULL;
	}
	return s;
}

static int
start(struct nbd_server *s, struct err *err)
{
	struct tls_options tls = {.server = true,
				  .cert_dir = s->options.tls_certs,
				  .psk_file = s->options.tls_psk,
				  .verify_peer = s->options.tls_verify_peer};
	int rc;

	if (s->options.tls != NBD_TLS_OFF) {
		s->credentials = tls_credentials_create(&tls, err);
		if (s->credentials == NULL) {
			return err->code;
		}
	}
	rc = open_socket(s, err);
	if (rc != 0) {
		return rc;
	}
	rc = watch_start(&s->watch, s->fd, EPOLLIN, on_connection);
	s->watching = rc == 0;
	return rc != 0 ? err_set(err, rc, "cannot wait for connections: %s", strerror(-rc)) : 0;
}

int
nbd_server_create(const struct nbd_server_options *options, struct nbd_server **ret, struct err *err)
{
	struct err cause = ERR_NONE;
	struct nbd_server *s;
	int rc = check(options, err);

	if (rc != 0) {
		return rc;
	}
	s = make(options);
	if (s == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	rc = start(s, &cause);
	if (rc != 0) {
		release(s);
		return err_set(err, rc, "NBD server '%s': %s", options->name, err_text(&cause));
	}
	list_append(&servers, &s->link);
	alive++;
	*ret = s;
	return 0;
}

static void
end(struct nbd_server *s, void (*done)(void *ctx, int status), void *ctx)
{
	struct nbd_conn *c, *tmp;

	s->deleting = true;
	s->done = done;
	s->ctx = ctx;
	list_remove(&s->link);
	close_socket(s);
	/* Kept alive by one more, while clients leave. */
	s->connections++;
	LIST_FOREACH_SAFE(c, tmp, &s->fresh, link) {
		nbd_conn_end(c);
	}
	LIST_FOREACH_SAFE(c, tmp, &s->conns, link) {
		nbd_conn_end(c);
	}
	s->connections--;
	settle(s);
}

int
nbd_server_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct nbd_server *s = nbd_server_find(name);

	if (s == NULL) {
		return err_set(err, -ENODEV, "there is no NBD server '%.128s'", name);
	}
	if (nbd_export_uses(name)) {
		return err_set(err, -EBUSY, "NBD server '%s' has exports of its own: delete them first", name);
	}
	end(s, done, ctx);
	return 0;
}

struct nbd_server *
nbd_server_find(const char *name)
{
	struct nbd_server *s;

	LIST_FOREACH(s, &servers, link) {
		if (strcmp(s->options.name, name) == 0) {
			return s;
		}
	}
	return NULL;
}

struct nbd_server *
nbd_server_first(void)
{
	return list_empty(&servers) ? NULL : LIST_FIRST(&servers, struct nbd_server, link);
}

struct nbd_server *
nbd_server_next(struct nbd_server *s)
{
	return s->link.next == &servers ? NULL : LIST_ENTRY(s->link.next, struct nbd_server, link);
}

void
nbd_server_get_info(const struct nbd_server *s, struct nbd_server_info *ret)
{
	*ret = (struct nbd_server_info){
		.options = &s->options,
		.connections = s->connections,
		.handshakes = s->handshakes,
		.accepted = s->accepted,
	};
	if (s->options.tcp != NULL) {
		tcp_local_address(s->fd, ret->address);
	}
}

/* ---- Start and end ---- */

int
nbd_init(const struct nbd_options *options, struct err *err)
{
	options_copy = *options;
	nbd_opts = &options_copy;
	if (nbd_placement_init(options->io_threads, options->io_thread_count) != 0) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	return 0;
}

static void
ended(void *ctx, int status)
{
}

static void
servers_end(void (*done)(void))
{
	alive++;
	all_ended = done;
	while (!list_empty(&servers)) {
		end(LIST_FIRST(&servers, struct nbd_server, link), ended, NULL);
	}
	drop_one();
}

static struct {
	void (*done)(void *ctx);
	void *ctx;
} shutdown_;

static void
exports_ended(void)
{
	nbd_placement_release();
	nbd_opts = NULL;
	shutdown_.done(shutdown_.ctx);
}

static void
disks_ended(void)
{
	nbd_exports_end(exports_ended);
}

static void
servers_ended(void)
{
	nbd_disks_end(disks_ended);
}

void
nbd_end(void (*done)(void *ctx), void *ctx)
{
	shutdown_.done = done;
	shutdown_.ctx = ctx;
	servers_end(servers_ended);
}
