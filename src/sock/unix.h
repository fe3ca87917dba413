/* SPDX-License-Identifier: BSD-3-Clause */
/* Unix stream sockets by path, and bytes with descriptors over them. Sockets are close-on-exec and
 * non-blocking. */
#ifndef SOCK_UNIX_H
#define SOCK_UNIX_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

/*
 * Listens at path with the given permission bits. A stale socket there (nobody answers) is
 * replaced; one that answers is -EADDRINUSE, something that is no socket -EEXIST, a path too long
 * for sockaddr_un -ENAMETOOLONG. Returns the descriptor, or a negative errno with err.
 */
int unix_listen(const char *path, mode_t mode, struct err *err);

/* Lets the members of a group connect to the socket at path, besides its owner: permission 0660. 0 or a negative errno
 * with err. */
int unix_share(const char *path, gid_t group, struct err *err);

/* A connection, or a negative errno with err (-ECONNREFUSED, -ENOENT, ...). Does not wait for
 * accept. */
int unix_connect(const char *path, struct err *err);

/* The next connection on a listening socket, -EAGAIN when there is none, or another negative
 * errno. */
int unix_accept(int listen_fd);

/*
 * Sends all of buf, with fd_count descriptors at its first byte (borrowed; 0..UNIX_FDS_MAX), or
 * nothing. 0; -EAGAIN when the peer reads nothing and the socket is full; -EPIPE or another
 * negative errno. No SIGPIPE. A message this small (a few KiB) is never sent in part.
 */
#define UNIX_FDS_MAX 8
int unix_send(int fd, const void *buf, size_t len, const int *fds, unsigned fd_count);

/* Descriptors that came with bytes: close-on-exec, owned by who receives them. */
struct unix_fds {
	int fds[UNIX_FDS_MAX];
	unsigned count;
	bool lost;      /* there were more than UNIX_FDS_MAX (closed already) */
	bool none_left; /* there were more than this process can open */
};

/*
 * Receives at most len bytes, without waiting, and adds the descriptors that came with them. The
 * bytes received, > 0; 0 at the end of the stream; -EAGAIN when there is nothing, or another
 * negative errno.
 */
ssize_t unix_recv(int fd, void *buf, size_t len, struct unix_fds *fds);

/* Looks at what unix_recv would give without taking it, descriptors not counted. Same results. */
ssize_t unix_peek(int fd, void *buf, size_t len);

/* Bytes that wait to be received, or a negative errno. */
ssize_t unix_pending(int fd);

/* Takes the first descriptor out, -1 when there is none. */
int unix_fds_take(struct unix_fds *fds);

/* Closes what is left. */
void unix_fds_close(struct unix_fds *fds);

#endif
