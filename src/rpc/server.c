/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The listening socket. RPC_CONNECTIONS_MAX clients are served at a time; further ones wait in the kernel's
 * queue until one leaves. The socket and a connection may take one of the descriptors that are kept back, so that a
 * process at its limit answers still. When those have run out, too, accepting pauses until a client leaves or
 * RPC_ACCEPT_PAUSE_US have passed: the socket stays readable, and trying again at once would spin.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/check.h"
#include "base/descriptors.h"
#include "base/log.h"
#include "event/thread.h"
#include "rpc/conn.h"
#include "rpc/internal.h"
#include "rpc/rpc.h"
#include "sock/unix.h"

#define RPC_CONNECTIONS_MAX 128
#define RPC_ACCEPT_PAUSE_US UINT64_C(1000000)

struct rpc_server {
	int fd;
	char *path;
	dev_t dev; /* of the socket file: only our own is removed */
	ino_t ino;
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
	bool wanted = s->conn_count < RPC_CONNECTIONS_MAX && !s->pausing;

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
pause_accepting(struct rpc_server *s, int rc)
{
	struct err err = ERR_NONE;

	err_set(&err, rc, "cannot accept a connection: %s", strerror(-rc));
	descriptors_explain(&err);
	LOG_WARNING(RPC, s->path, "%s", err_text(&err));
	s->pausing = timer_start(&s->pause, RPC_ACCEPT_PAUSE_US, pause_over) == 0;
	set_accepting(s);
}

static int
accept_next(struct rpc_server *s)
{
	int rc = unix_accept(s->fd);

	if (descriptors_out(rc)) {
		descriptors_borrow();
		rc = unix_accept(s->fd);
		descriptors_return();
	}
	return rc;
}

static void
on_connect(struct watch *w, uint32_t events)
{
	struct rpc_server *s = CONTAINER_OF(w, struct rpc_server, watch);

	while (s->conn_count < RPC_CONNECTIONS_MAX) {
		int rc = accept_next(s);

		if (rc >= 0) {
			rc = conn_open(rc, &s->conns, conn_closed, s);
			s->conn_count += rc == 0;
		}
		if (rc == -EAGAIN) {
			break;
		}
		if (rc < 0) {
			pause_accepting(s, rc);
			break;
		}
	}
	set_accepting(s);
}

static void
server_free(struct rpc_server *s)
{
	struct stat st;

	if (s->fd >= 0) {
		close(s->fd);
		if (stat(s->path, &st) == 0 && st.st_dev == s->dev && st.st_ino == s->ino) {
			unlink(s->path);
		}
	}
	free(s->path);
	free(s);
}

static int
listen_on(struct rpc_server *s, struct err *err)
{
	struct stat st;
	int rc;

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
	rc = watch_start(&s->watch, s->fd, EPOLLIN, on_connect);
	return rc == 0 ? 0 : err_set(err, rc, "cannot watch %s: %s", s->path, strerror(-rc));
}

int
rpc_server_start(const struct rpc_server_options *options, struct rpc_server **ret_server, struct err *err)
{
	struct rpc_server *s = calloc(1, sizeof(*s));
	char *path = strdup(options->path);
	int rc;

	if (s == NULL || path == NULL) {
		free(s);
		free(path);
		return err_set(err, -ENOMEM, "%s: out of memory", options->path);
	}
	s->path = path;
	s->accepting = true;
	list_init(&s->conns);
	rc = listen_on(s, err);
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
