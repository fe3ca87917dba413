/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Listening sockets of controllers.
 *
 * Invariant: an open listener is watched, or its timer runs, or it was told nothing since it handed
 * out a connection.
 */
#include "vhost/listen.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "base/descriptors.h"
#include "base/log.h"
#include "sock/unix.h"
#include "vhost/session.h"

/* After a failed accept, and while there are no descriptors for a VM: the connection still waits, and would be
 * reported at once again. */
#define RETRY_US 100000

static void
retry(struct timer *timer)
{
	listener_resume(CONTAINER_OF(timer, struct listener, retry));
}

static void
pause_watch(struct listener *l)
{
	if (l->watching) {
		watch_stop(&l->watch);
		l->watching = false;
	}
}

static void
complain(struct listener *l, const char *what, int rc)
{
	struct err err = ERR_NONE;

	if (!l->complained) {
		err_set(&err, rc, "%s: %s", what, strerror(-rc));
		descriptors_explain(&err);
		LOG_WARNING(VHOST, l->object, "%s", err_text(&err));
		l->complained = true;
	}
}

static void
on_connection(struct watch *w, uint32_t events)
{
	struct listener *l = CONTAINER_OF(w, struct listener, watch);
	int rc = descriptors_probe(l->fd, session_descriptors_needed());
	int fd = rc >= 0 ? unix_accept(l->fd) : rc;

	if (fd == -EAGAIN) {
		return;
	}
	pause_watch(l);
	if (fd >= 0) {
		l->complained = false;
		l->accepted(l, fd);
		return;
	}
	complain(l, "cannot accept a connection, it waits", fd);
	if (timer_start(&l->retry, RETRY_US, retry) != 0) {
		LOG_ERROR(VHOST, l->object, "no more connections: out of memory");
	}
}

void
listener_resume(struct listener *l)
{
	int rc;

	if (!l->open || l->watching) {
		return;
	}
	rc = watch_start(&l->watch, l->fd, EPOLLIN, on_connection);
	if (rc == 0) {
		l->watching = true;
		return;
	}
	complain(l, "cannot wait for connections", rc);
	if (timer_start(&l->retry, RETRY_US, retry) != 0) {
		LOG_ERROR(VHOST, l->object, "no more connections: out of memory");
	}
}

int
listener_start(struct listener *l, const char *path, mode_t mode, const char *object,
	       void (*accepted)(struct listener *l, int fd), struct err *err)
{
	int fd = unix_listen(path, mode, err);

	if (fd < 0) {
		return fd;
	}
	l->fd = fd;
	l->path = path;
	l->object = object;
	l->accepted = accepted;
	l->open = true;
	listener_resume(l);
	return 0;
}

void
listener_stop(struct listener *l)
{
	if (!l->open) {
		return;
	}
	pause_watch(l);
	timer_stop(&l->retry);
	/* First the name, so that nobody connects to what is closed a moment later. */
	unlink(l->path);
	close(l->fd);
	l->open = false;
}
