/* SPDX-License-Identifier: BSD-3-Clause */
/* Unix stream sockets by path. Descriptors are close-on-exec and non-blocking. */
#ifndef SOCK_UNIX_H
#define SOCK_UNIX_H

#include <sys/types.h>

#include "base/err.h"

/*
 * Listens at path with the given permission bits. A stale socket there (nobody answers) is replaced; one that answers is -EADDRINUSE, something
 * that is no socket -EEXIST, a path too long for sockaddr_un -ENAMETOOLONG. Returns the descriptor, or a negative errno with err.
 */
int unix_listen(const char *path, mode_t mode, struct err *err);

/* A connection, or a negative errno with err (-ECONNREFUSED, -ENOENT, ...). Does not wait for accept. */
int unix_connect(const char *path, struct err *err);

/* The next connection on a listening socket, -EAGAIN when there is none, or another negative errno. */
int unix_accept(int listen_fd);

#endif
