/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * TCP sockets by address. An address is "HOST:PORT": HOST a number ("192.0.2.1", "[2001:db8::1]"), "localhost" (127.0.0.1) or "*"
 * (every address of this machine, to listen only). Names are not looked up, for that blocks. Sockets are close-on-exec and
 * non-blocking, without delays for small messages, and find out about a peer that is gone.
 */
#ifndef SOCK_TCP_H
#define SOCK_TCP_H

#include <stdbool.h>
#include <stddef.h>

#include "base/err.h"

#define TCP_ADDRESS_BYTES 64

/* 0, or -EINVAL with err: nothing could listen at address. */
int tcp_check_address(const char *address, struct err *err);

/* Listens; port 0: one that is free. The descriptor, or a negative errno with err (-EADDRINUSE, -EADDRNOTAVAIL, ...). */
int tcp_listen(const char *address, struct err *err);

/*
 * A connection, perhaps still under way: the socket becomes writable when it is made or has failed, and
 * tcp_connect_result() says which. The descriptor, or a negative errno with err.
 */
int tcp_connect(const char *address, struct err *err);
/* 0, -EINPROGRESS, or the error of the connection attempt. */
int tcp_connect_result(int fd);

/* The next connection on a listening socket, -EAGAIN when there is none, or another negative errno. */
int tcp_accept(int listen_fd);

/* Whether fd is a TCP socket (of unix sockets false). */
bool tcp_is(int fd);

/* As addresses are written above: of this end, of the other one. "?" when it is not known. */
const char *tcp_local_address(int fd, char text[static TCP_ADDRESS_BYTES]);
const char *tcp_peer_address(int fd, char text[static TCP_ADDRESS_BYTES]);

#endif
