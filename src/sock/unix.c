/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Unix stream sockets by path.
 *
 * Invariants
 *  1. A path is removed only when a connection to it was refused: nobody listens there any more.
 *  2. The socket file never exists with more permission than asked for: the bits are set before bind (the kernel
 *     takes them from the descriptor), and once more after it, because the umask may have taken some away.
 */
#include "sock/unix.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static int
make_address(const char *path, struct sockaddr_un *addr, struct err *err)
{
	size_t len = strlen(path);

	if (len == 0) {
		return err_set(err, -EINVAL, "a socket needs a path");
	}
	if (len >= sizeof(addr->sun_path)) {
		return err_set(err, -ENAMETOOLONG, "socket path %s is longer than %zu bytes", path,
			       sizeof(addr->sun_path) - 1);
	}
	memset(addr, 0, sizeof(*addr));
	addr->sun_family = AF_UNIX;
	memcpy(addr->sun_path, path, len + 1);
	return 0;
}

static int
make_socket(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd >= 0 ? fd : -errno;
}

/* True when nobody answers at addr; false also when that cannot be known. */
static bool
is_stale(const struct sockaddr_un *addr)
{
	int fd = make_socket();
	bool stale;

	if (fd < 0) {
		return false;
	}
	stale = connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) != 0 && errno == ECONNREFUSED;
	close(fd);
	return stale;
}

/* Makes room at the path for a socket of ours. */
static int
clear_path(const struct sockaddr_un *addr, struct err *err)
{
	const char *path = addr->sun_path;
	struct stat st;

	if (lstat(path, &st) != 0) {
		return errno == ENOENT ? 0 : err_set(err, -errno, "cannot look at %s: %s", path, strerror(errno));
	}
	if (!S_ISSOCK(st.st_mode)) {
		return err_set(err, -EEXIST, "%s exists and is no socket", path);
	}
	if (!is_stale(addr)) {
		return err_set(err, -EADDRINUSE, "%s is in use by another process", path);
	}
	if (unlink(path) != 0 && errno != ENOENT) {
		return err_set(err, -errno, "cannot remove the stale socket %s: %s", path, strerror(errno));
	}
	return 0;
}

static int
bind_and_listen(int fd, const struct sockaddr_un *addr, mode_t mode, struct err *err)
{
	const char *path = addr->sun_path;
	int rc;

	if (fchmod(fd, mode) != 0) {
		return err_set(err, -errno, "cannot set the permission of %s: %s", path, strerror(errno));
	}
	if (bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) != 0) {
		return err_set(err, -errno, "cannot make the socket %s: %s", path, strerror(errno));
	}
	if (chmod(path, mode) == 0 && listen(fd, SOMAXCONN) == 0) {
		return 0;
	}
	rc = err_set(err, -errno, "cannot listen on %s: %s", path, strerror(errno));
	unlink(path);
	return rc;
}

int
unix_listen(const char *path, mode_t mode, struct err *err)
{
	struct sockaddr_un addr;
	int fd, rc = make_address(path, &addr, err);

	if (rc == 0) {
		rc = clear_path(&addr, err);
	}
	if (rc != 0) {
		return rc;
	}
	fd = make_socket();
	if (fd < 0) {
		return err_set(err, fd, "cannot make a socket for %s: %s", path, strerror(-fd));
	}
	rc = bind_and_listen(fd, &addr, mode, err);
	if (rc != 0) {
		close(fd);
		return rc;
	}
	return fd;
}

int
unix_connect(const char *path, struct err *err)
{
	struct sockaddr_un addr;
	int fd, rc = make_address(path, &addr, err);

	if (rc != 0) {
		return rc;
	}
	fd = make_socket();
	if (fd < 0) {
		return err_set(err, fd, "cannot make a socket for %s: %s", path, strerror(-fd));
	}
	if (connect(fd, (const struct sockaddr *)&addr, sizeof(addr)) != 0) {
		rc = err_set(err, -errno, "cannot connect to %s: %s", path, strerror(errno));
		close(fd);
		return rc;
	}
	return fd;
}

int
unix_accept(int listen_fd)
{
	int fd;

	do {
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		/* ECONNABORTED: that client left already, the next one may be waiting. */
	} while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	return fd >= 0 ? fd : -errno;
}
