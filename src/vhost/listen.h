/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A controller's listening socket: one connection is accepted at a time, and the next ones wait in its backlog. When that one
 * takes a descriptor above 3/4 of descriptors_max(), or may take one, the socket is closed until the listener is resumed:
 * its path stays, and whoever connects, or waits already, is refused (ECONNREFUSED, or a hang-up) instead of waiting. Control
 * thread.
 */
#ifndef VHOST_LISTEN_H
#define VHOST_LISTEN_H

#include <stdbool.h>
#include <sys/types.h>

#include "base/err.h"
#include "event/thread.h"

/* Embedded; zeroed before listener_start. Fields are private. */
struct listener {
	int fd; /* -1: closed for want of descriptors */
	mode_t mode;
	const char *path;
	const gid_t *group;
	const char *object; /* for log lines */
	void (*accepted)(struct listener *l, int fd);
	struct watch watch;
	struct timer retry;
	bool open;
	bool watching;
	bool complained; /* of the failure that lasts */
};

/*
 * Listens at path (borrowed, as group and object are) and calls accepted(l, fd), which takes fd, for one
 * connection; then pauses. group: shared with it (unix_share), or NULL. 0 or a negative errno of unix_listen or unix_share.
 */
int listener_start(struct listener *l, const char *path, mode_t mode, const gid_t *group, const char *object,
		   void (*accepted)(struct listener *l, int fd), struct err *err);

/* Ready for the next connection; listens again if need be, and tries that until it succeeds. */
void listener_resume(struct listener *l);

/* Closes and removes the socket. Harmless when it is not open. */
void listener_stop(struct listener *l);

#endif
