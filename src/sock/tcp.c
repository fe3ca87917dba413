/* SPDX-License-Identifier: BSD-3-Clause */
#include "sock/tcp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"

/* A peer that vanished without a word is noticed after about two minutes. */
#define KEEP_IDLE_S 60
#define KEEP_INTERVAL_S 15
#define KEEP_COUNT 4

#define HOST_BYTES 64

struct address {
	struct sockaddr_storage storage;
	socklen_t len;
};

/* Splits at the last colon; brackets around the host are taken off. */
static int
split(const char *text, char host[HOST_BYTES], const char **ret_port, struct err *err)
{
	const char *colon = strrchr(text, ':');
	size_t len = colon != NULL ? (size_t)(colon - text) : 0;
	unsigned long port;
	char *end;

	if (colon == NULL || len == 0) {
		return err_set(err, -EINVAL, "address '%.100s' is not HOST:PORT", text);
	}
	port = strtoul(colon + 1, &end, 10);
	if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || port > 65535) {
		return err_set(err, -EINVAL, "address '%.100s': the port must be 0 to 65535", text);
	}
	if (text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	} else if (memchr(text, ':', len) != NULL) {
		return err_set(err, -EINVAL, "address '%.100s': an IPv6 address needs brackets, [::1]:PORT", text);
	}
	if (len == 0 || len >= HOST_BYTES) {
		return err_set(err, -EINVAL, "address '%.100s' is not HOST:PORT", text);
	}
	memcpy(host, text, len);
	host[len] = '\0';
	*ret_port = colon + 1;
	return 0;
}

static int
parse(const char *text, bool to_listen, struct address *ret, struct err *err)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV};
	struct addrinfo *info;
	char host[HOST_BYTES];
	const char *port = NULL, *number = host;
	int rc = split(text, host, &port, err);

	if (rc != 0) {
		return rc;
	}
	if (strcmp(host, "localhost") == 0) {
		number = "127.0.0.1";
	} else if (strcmp(host, "*") == 0 && to_listen) {
		/* Takes IPv4 connections, too. */
		number = "::";
	}
	/* The C library takes a star for this machine. */
	if (number[0] == '*' || getaddrinfo(number, port, &hints, &info) != 0) {
		return err_set(err, -EINVAL, "address '%.100s': the host must be an IP address or localhost%s", text,
			       to_listen ? " or *" : "");
	}
	memcpy(&ret->storage, info->ai_addr, info->ai_addrlen);
	ret->len = info->ai_addrlen;
	freeaddrinfo(info);
	return 0;
}

int
tcp_check_address(const char *address, struct err *err)
{
	struct address a;

	return parse(address, true, &a, err);
}

static int
make_socket(const struct address *a)
{
	int fd = socket(a->storage.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd >= 0 ? fd : -errno;
}

/* A machine whose kernel has no IPv6 listens everywhere on IPv4. */
static int
make_listener(const char *text, struct address *a, struct err *err)
{
	int zero = 0, one = 1, fd = make_socket(a);

	if (fd == -EAFNOSUPPORT && text[0] == '*') {
		struct sockaddr_in any = {.sin_family = AF_INET,
					  .sin_port = ((struct sockaddr_in6 *)&a->storage)->sin6_port};

		memcpy(&a->storage, &any, sizeof(any));
		a->len = sizeof(any);
		fd = make_socket(a);
	}
	if (fd < 0) {
		return err_set(err, fd, "cannot make a socket for %s: %s", text, strerror(-fd));
	}
	if (a->storage.ss_family == AF_INET6 && text[0] == '*') {
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &zero, sizeof(zero));
	}
	/* Connections of an earlier process that are not quite forgotten are no reason not to listen. */
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	return fd;
}

int
tcp_listen(const char *address, struct err *err)
{
	struct address a;
	int fd, rc = parse(address, true, &a, err);

	if (rc != 0) {
		return rc;
	}
	fd = make_listener(address, &a, err);
	if (fd < 0) {
		return fd;
	}
	if (bind(fd, (struct sockaddr *)&a.storage, a.len) != 0 || listen(fd, SOMAXCONN) != 0) {
		rc = err_set(err, -errno, "cannot listen at %s: %s", address, strerror(errno));
		close(fd);
		return rc;
	}
	return fd;
}

static void
tune(int fd)
{
	int one = 1, idle = KEEP_IDLE_S, interval = KEEP_INTERVAL_S, count = KEEP_COUNT;

	/* None of these is needed for the connection to work. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

int
tcp_connect(const char *address, struct err *err)
{
	struct address a;
	int fd, rc = parse(address, false, &a, err);

	if (rc != 0) {
		return rc;
	}
	fd = make_socket(&a);
	if (fd < 0) {
		return err_set(err, fd, "cannot make a socket for %s: %s", address, strerror(-fd));
	}
	tune(fd);
	if (connect(fd, (struct sockaddr *)&a.storage, a.len) != 0 && errno != EINPROGRESS) {
		rc = err_set(err, -errno, "cannot connect to %s: %s", address, strerror(errno));
		close(fd);
		return rc;
	}
	return fd;
}

int
tcp_connect_result(int fd)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer), size = sizeof(int);
	int error = 0;

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &size) != 0) {
		return -errno;
	}
	if (error != 0) {
		return -error;
	}
	return getpeername(fd, (struct sockaddr *)&peer, &len) == 0 ? 0 : -EINPROGRESS;
}

int
tcp_accept(int listen_fd)
{
	int fd;

	do {
		fd = accept4(listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		/* ECONNABORTED: that client left already, the next one may be waiting. */
	} while (fd < 0 && (errno == EINTR || errno == ECONNABORTED));
	if (fd < 0) {
		return -errno;
	}
	tune(fd);
	return fd;
}

static int
family_of(int fd)
{
	int domain = AF_UNSPEC;
	socklen_t size = sizeof(domain);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 ? domain : AF_UNSPEC;
}

bool
tcp_is(int fd)
{
	int family = family_of(fd);

	return family == AF_INET || family == AF_INET6;
}

/* An IPv4 peer of a socket that takes both shows as one. */
static const char *
format(const struct sockaddr_storage *storage, char text[static TCP_ADDRESS_BYTES])
{
	char host[INET6_ADDRSTRLEN];

	if (storage->ss_family == AF_INET) {
		const struct sockaddr_in *in = (const struct sockaddr_in *)storage;

		inet_ntop(AF_INET, &in->sin_addr, host, sizeof(host));
		snprintf(text, TCP_ADDRESS_BYTES, "%s:%u", host, ntohs(in->sin_port));
	} else if (storage->ss_family == AF_INET6) {
		const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)storage;
		bool mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);

		if (mapped) {
			inet_ntop(AF_INET, &in6->sin6_addr.s6_addr[12], host, sizeof(host));
		} else {
			inet_ntop(AF_INET6, &in6->sin6_addr, host, sizeof(host));
		}
		snprintf(text, TCP_ADDRESS_BYTES, mapped ? "%s:%u" : "[%s]:%u", host, ntohs(in6->sin6_port));
	} else {
		snprintf(text, TCP_ADDRESS_BYTES, "?");
	}
	return text;
}

const char *
tcp_local_address(int fd, char text[static TCP_ADDRESS_BYTES])
{
	struct sockaddr_storage storage = {.ss_family = AF_UNSPEC};
	socklen_t len = sizeof(storage);

	(void)getsockname(fd, (struct sockaddr *)&storage, &len);
	return format(&storage, text);
}

const char *
tcp_peer_address(int fd, char text[static TCP_ADDRESS_BYTES])
{
	struct sockaddr_storage storage = {.ss_family = AF_UNSPEC};
	socklen_t len = sizeof(storage);

	(void)getpeername(fd, (struct sockaddr *)&storage, &len);
	return format(&storage, text);
}
