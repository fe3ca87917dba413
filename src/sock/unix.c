/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Unix stream sockets by path, and bytes with descriptors over them.
 *
 * Invariants
 *  1. A path is removed only when a connection to it was refused: nobody listens there any more.
 *  2. The socket file never exists with more permission than asked for: the bits are set before
 *     bind (the kernel takes them from the descriptor), and once more after it, because the umask
 *     may have taken some away.
 *  3. Every descriptor the kernel hands over is in the caller's struct unix_fds or closed.
 */
#include "sock/unix.h"

#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/check.h"

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

/* Makes room at the path for a socket of ours. Asks with fd whether somebody listens there; when nobody does, fd is as new. */
static int
clear_path(int fd, const struct sockaddr_un *addr, struct err *err)
{
	const char *path = addr->sun_path;
	struct stat st;

	if (lstat(path, &st) != 0) {
		return errno == ENOENT ? 0 : err_set(err, -errno, "cannot look at %s: %s", path, strerror(errno));
	}
	if (!S_ISSOCK(st.st_mode)) {
		return err_set(err, -EEXIST, "%s exists and is no socket", path);
	}
	if (connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) == 0 || errno != ECONNREFUSED) {
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

	if (rc != 0) {
		return rc;
	}
	/* First: without a descriptor nothing is known about the path, and nothing happens to it. */
	fd = make_socket();
	if (fd < 0) {
		return err_set(err, fd, "cannot make a socket for %s: %s", path, strerror(-fd));
	}
	rc = clear_path(fd, &addr, err);
	if (rc == 0) {
		rc = bind_and_listen(fd, &addr, mode, err);
	}
	if (rc != 0) {
		close(fd);
		return rc;
	}
	return fd;
}

int
unix_share(const char *path, gid_t group, struct err *err)
{
	/* The group first: no moment in which another one may connect. */
	if (chown(path, (uid_t)-1, group) != 0 || chmod(path, 0660) != 0) {
		return err_set(err, -errno, "cannot give %s to group %u: %s", path, (unsigned)group, strerror(errno));
	}
	return 0;
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

/* ---- Bytes with descriptors ---- */

int
unix_send(int fd, const void *buf, size_t len, const int *fds, unsigned fd_count)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * UNIX_FDS_MAX)];
	} control = {0};
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
	ssize_t n;

	CHECK(fd_count <= UNIX_FDS_MAX);
	if (fd_count > 0) {
		struct cmsghdr *c;

		msg.msg_control = control.bytes;
		msg.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
		c = CMSG_FIRSTHDR(&msg);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
	}
	do {
		n = sendmsg(fd, &msg, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return -errno;
	}
	return (size_t)n == len ? 0 : -EMSGSIZE;
}

static void
keep_fds(struct msghdr *msg, struct unix_fds *fds)
{
	size_t came = 0;

	for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c != NULL; c = CMSG_NXTHDR(msg, c)) {
		size_t count;

		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS) {
			continue;
		}
		count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		came += count;
		for (size_t i = 0; i < count; i++) {
			int fd;

			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (fds->count < UNIX_FDS_MAX) {
				fds->fds[fds->count++] = fd;
			} else {
				close(fd);
				fds->lost = true;
			}
		}
	}
	if (msg->msg_flags & MSG_CTRUNC) {
		/* Cut off where the room for them ends, or where the kernel could open no more. */
		*(came < UNIX_FDS_MAX ? &fds->none_left : &fds->lost) = true;
	}
}

ssize_t
unix_recv(int fd, void *buf, size_t len, struct unix_fds *fds)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(sizeof(int) * UNIX_FDS_MAX)];
	} control;
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct msghdr msg = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
	ssize_t n;

	do {
		n = recvmsg(fd, &msg, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	} while (n < 0 && errno == EINTR);
	if (n < 0) {
		return -errno;
	}
	keep_fds(&msg, fds);
	return n;
}

ssize_t
unix_peek(int fd, void *buf, size_t len)
{
	ssize_t n;

	do {
		n = recv(fd, buf, len, MSG_DONTWAIT | MSG_PEEK);
	} while (n < 0 && errno == EINTR);
	return n >= 0 ? n : -errno;
}

ssize_t
unix_pending(int fd)
{
	int n;

	return ioctl(fd, FIONREAD, &n) == 0 ? n : -errno;
}

int
unix_fds_take(struct unix_fds *fds)
{
	int fd;

	if (fds->count == 0) {
		return -1;
	}
	fd = fds->fds[0];
	fds->count--;
	memmove(fds->fds, fds->fds + 1, fds->count * sizeof(fds->fds[0]));
	return fd;
}

void
unix_fds_close(struct unix_fds *fds)
{
	while (fds->count > 0) {
		close(fds->fds[--fds->count]);
	}
}
