/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Listening sockets of controllers.
 *
 * Invariants
 *  1. An open listener is watched, or its timer runs, or it was told nothing since it handed out a connection.
 *  2. From listener_start to listener_stop there is a file at the path, but for the moment in which it is replaced.
 *  3. Closed for want of descriptors is only one that is not watched.
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
complain(struct listener *l, struct err *err)
{
	if (!l->complained) {
		descriptors_explain(err);
		LOG_WARNING(VHOST, l->object, "%s", err_text(err));
		l->complained = true;
	}
}

static void
try_later(struct listener *l)
{
	if (timer_start(&l->retry, RETRY_US, retry) != 0) {
		LOG_ERROR(VHOST, l->object, "no more connections: out of memory");
	}
}

/* last: the highest descriptor that connections may soon have. */
static bool
is_scarce(int last)
{
	return descriptors_max() != 0 && (unsigned)last > descriptors_max() / 4 * 3;
}

static void
on_connection(struct watch *w, uint32_t events)
{
	struct listener *l = CONTAINER_OF(w, struct listener, watch);
	int last = descriptors_probe(l->fd, session_descriptors_needed());
	int fd = last >= 0 ? unix_accept(l->fd) : last;
	struct err err = ERR_NONE;

	if (fd == -EAGAIN) {
		return;
	}
	pause_watch(l);
	if (fd < 0) {
		err_set(&err, fd, "cannot accept a connection, it waits: %s", strerror(-fd));
		complain(l, &err);
		try_later(l);
		return;
	}
	l->complained = false;
	if (is_scarce(last)) {
		close(l->fd);
		l->fd = -1;
	}
	l->accepted(l, fd);
}

static int
open_socket(struct listener *l, struct err *err)
{
	int rc, fd = unix_listen(l->path, l->mode, err);

	if (fd < 0) {
		return fd;
	}
	rc = l->group != NULL ? unix_share(l->path, *l->group, err) : 0;
	if (rc != 0) {
		unlink(l->path);
		close(fd);
		return rc;
	}
	l->fd = fd;
	return 0;
}

void
listener_resume(struct listener *l)
{
	struct err err = ERR_NONE;
	int rc;

	if (!l->open || l->watching) {
		return;
	}
	if (l->fd < 0) {
		if (open_socket(l, &err) != 0) {
			err_prefix(&err, "refuses connections until it can listen again: ");
			complain(l, &err);
			try_later(l);
			return;
		}
		l->complained = false;
	}
	rc = watch_start(&l->watch, l->fd, EPOLLIN, on_connection);
	if (rc == 0) {
		l->watching = true;
		return;
	}
	err_set(&err, rc, "cannot wait for connections: %s", strerror(-rc));
	complain(l, &err);
	try_later(l);
}

int
listener_start(struct listener *l, const char *path, mode_t mode, const gid_t *group, const char *object,
	       void (*accepted)(struct listener *l, int fd), struct err *err)
{
	int rc;

	l->path = path;
	l->mode = mode;
	l->group = group;
	rc = open_socket(l, err);
	if (rc != 0) {
		return rc;
	}
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
	if (l->fd >= 0) {
		close(l->fd);
	}
	l->open = false;
}
