/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "sock/tcp.h"

static int
wait_for(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, 10000);
}

static void
test_connects(void **state)
{
	char local[TCP_ADDRESS_BYTES], peer[TCP_ADDRESS_BYTES], other[TCP_ADDRESS_BYTES];
	int listener = tcp_listen("127.0.0.1:0", NULL), client, server, on = 0;
	socklen_t size = sizeof(on);

	assert_true(listener >= 0);
	assert_int_equal(tcp_accept(listener), -EAGAIN);
	client = tcp_connect(tcp_local_address(listener, local), NULL);
	assert_true(client >= 0);
	assert_int_equal(wait_for(client, POLLOUT), 1);
	assert_int_equal(tcp_connect_result(client), 0);
	assert_int_equal(wait_for(listener, POLLIN), 1);
	server = tcp_accept(listener);
	assert_true(server >= 0);
	assert_int_equal(fcntl(server, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(server, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	assert_int_equal(getsockopt(server, IPPROTO_TCP, TCP_NODELAY, &on, &size), 0);
	assert_int_equal(on, 1);
	assert_string_equal(tcp_peer_address(client, peer), local);
	assert_string_equal(tcp_peer_address(server, peer), tcp_local_address(client, other));
	assert_true(tcp_is(server));
	close(client);
	close(server);
	close(listener);
}

static void
test_everywhere_takes_ipv4(void **state)
{
	char local[TCP_ADDRESS_BYTES], to[TCP_ADDRESS_BYTES], peer[TCP_ADDRESS_BYTES];
	int listener = tcp_listen("*:0", NULL), client, server;

	assert_true(listener >= 0);
	tcp_local_address(listener, local);
	snprintf(to, sizeof(to), "localhost:%s", strrchr(local, ':') + 1);
	client = tcp_connect(to, NULL);
	assert_true(client >= 0);
	assert_int_equal(wait_for(listener, POLLIN), 1);
	server = tcp_accept(listener);
	assert_true(server >= 0);
	tcp_peer_address(server, peer);
	assert_int_equal(strncmp(peer, "127.0.0.1:", 10), 0);
	close(client);
	close(server);
	close(listener);
}

static void
test_says_why(void **state)
{
	char local[TCP_ADDRESS_BYTES];
	int listener = tcp_listen("127.0.0.1:0", NULL), fd;
	struct err err = ERR_NONE;

	tcp_local_address(listener, local);
	assert_int_equal(tcp_listen(local, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, local));
	close(listener);
	fd = tcp_connect(local, &err);
	if (fd >= 0) {
		assert_int_equal(wait_for(fd, POLLOUT), 1);
		assert_int_equal(tcp_connect_result(fd), -ECONNREFUSED);
		close(fd);
	} else {
		assert_int_equal(fd, -ECONNREFUSED);
	}
}

static void
test_addresses(void **state)
{
	static const char *const bad[] = {"", ":", "1", "127.0.0.1", "127.0.0.1:", ":80",
					  "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:8o", "::1:80", "[::1:80",
					  "[]:80", "host.example:80", "1.2.3:x", "[127.0.0.1:1"};
	static const char *const good[] = {"127.0.0.1:0", "[::1]:65535", "localhost:1", "*:10809"};
	char long_one[400];
	struct err err = ERR_NONE;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		err = ERR_NONE;
		assert_int_equal(tcp_check_address(bad[i], &err), -EINVAL);
		assert_non_null(strstr(err.text, "address '"));
	}
	for (size_t i = 0; i < ARRAY_SIZE(good); i++) {
		assert_int_equal(tcp_check_address(good[i], &err), 0);
	}
	memset(long_one, '1', sizeof(long_one));
	memcpy(long_one + sizeof(long_one) - 4, ":80", 4);
	assert_int_equal(tcp_check_address(long_one, &err), -EINVAL);
	assert_int_equal(tcp_connect("*:80", &err), -EINVAL);
}

static void
test_other_sockets_are_no_tcp(void **state)
{
	char text[TCP_ADDRESS_BYTES];
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	assert_false(tcp_is(pair[0]));
	assert_string_equal(tcp_peer_address(pair[0], text), "?");
	assert_string_equal(tcp_local_address(-1, text), "?");
	close(pair[0]);
	close(pair[1]);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connects),
		cmocka_unit_test(test_everywhere_takes_ipv4),
		cmocka_unit_test(test_says_why),
		cmocka_unit_test(test_addresses),
		cmocka_unit_test(test_other_sockets_are_no_tcp),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
