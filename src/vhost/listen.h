/* SPDX-License-Identifier: BSD-3-Clause */
/* A controller's listening socket: one connection is accepted at a time, the next ones wait in its
 * backlog. Control thread. */
#ifndef VHOST_LISTEN_H
#define VHOST_LISTEN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "event/thread.h"

/* Embedded; zeroed before listener_start. Fields are private. */
struct listener {
	int fd;
	const char *path;
	const char *object; /* for log lines */
	void (*accepted)(struct listener *l, int fd);
	struct watch watch;
	struct timer retry;
	bool open;
	bool watching;
	bool complained; /* of the failure that lasts */
};

/*
 * Listens at path (borrowed, as object is) and calls accepted(l, fd), which takes fd, for one
 * connection; then pauses. 0 or a negative errno of unix_listen.
 */
int listener_start(struct listener *l, const char *path, mode_t mode, const char *object,
		   void (*accepted)(struct listener *l, int fd), struct err *err);

/* Ready for the next connection. */
void listener_resume(struct listener *l);

/* Closes and removes the socket. Harmless when it is not open. */
void listener_stop(struct listener *l);

#endif
