/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/path.h"
#include "sock/stream.h"
#include "testkit/certs.h"

#define STEPS_MAX 1000

static char *dir;
static char *keys;

/* Two ends of a connection, both here. */
struct ends {
	struct stream server;
	struct stream client;
	struct err server_err;
	struct err client_err;
};

static void
open_ends(struct ends *e, int buffer_bytes)
{
	int pair[2];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	if (buffer_bytes > 0) {
		setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &buffer_bytes, sizeof(buffer_bytes));
	}
	memset(e, 0, sizeof(*e));
	stream_init(&e->server, pair[0]);
	stream_init(&e->client, pair[1]);
}

static void
close_ends(struct ends *e)
{
	stream_close(&e->client);
	stream_close(&e->server);
}

/* Both handshakes, step by step: the server's result; the client's in *ret_client. */
static int
shake_hands(struct ends *e, int *ret_client)
{
	int server = -EAGAIN, client = -EAGAIN;

	for (unsigned i = 0; i < STEPS_MAX && (server == -EAGAIN || client == -EAGAIN); i++) {
		if (client == -EAGAIN) {
			client = stream_handshake(&e->client, &e->client_err);
		}
		if (server == -EAGAIN) {
			server = stream_handshake(&e->server, &e->server_err);
		}
	}
	*ret_client = client;
	return server;
}

static struct tls_credentials *
credentials(const struct tls_options *options)
{
	struct err err = ERR_NONE;
	struct tls_credentials *c = tls_credentials_create(options, &err);

	if (c == NULL) {
		fail_msg("%s", err.text);
	}
	return c;
}

/* The options of the two sides, and the name the client wants to see. 0: both handshakes went well. */
static int
meet(struct ends *e, const struct tls_options *server, const struct tls_options *client, const char *hostname, int *ret_client)
{
	struct tls_credentials *s = credentials(server), *c = credentials(client);
	int rc;

	open_ends(e, 0);
	assert_int_equal(stream_start_tls(&e->server, s, NULL, NULL), 0);
	assert_int_equal(stream_start_tls(&e->client, c, hostname, NULL), 0);
	tls_credentials_put(s);
	tls_credentials_put(c);
	rc = shake_hands(e, ret_client);
	return rc;
}

static void
expect_words(struct stream *from, struct stream *to, const char *words)
{
	struct iovec iov = {(void *)words, strlen(words)};
	char text[64] = "";

	assert_int_equal(stream_sendv(from, &iov, 1), strlen(words));
	assert_int_equal(stream_recv(to, text, sizeof(text)), strlen(words));
	assert_string_equal(text, words);
	assert_int_equal(stream_recv(to, text, sizeof(text)), -EAGAIN);
}

static void
test_certificates(void **state)
{
	struct tls_options server = {.server = true, .cert_dir = dir}, client = {.cert_dir = dir};
	char name[64];
	struct ends e;
	int rc;

	assert_int_equal(meet(&e, &server, &client, "localhost", &rc), 0);
	assert_int_equal(rc, 0);
	expect_words(&e.client, &e.server, "hello");
	expect_words(&e.server, &e.client, "good day");
	assert_false(tls_peer_name(e.server.tls, name, sizeof(name)));
	assert_true(tls_peer_name(e.client.tls, name, sizeof(name)));
	assert_string_equal(name, "CN=localhost");
	stream_close(&e.client);
	assert_int_equal(stream_recv(&e.server, name, sizeof(name)), 0);
	assert_int_equal(stream_recv(&e.server, name, sizeof(name)), 0);
	close_ends(&e);
}

static void
test_client_is_verified(void **state)
{
	struct tls_options server = {.server = true, .cert_dir = dir, .verify_peer = true}, client = {.cert_dir = dir};
	char name[64], *other = strdup("/tmp/berth-tls-test-XXXXXX"), *from = path_join(dir, "ca-cert.pem"), *to;
	struct ends e;
	int rc;

	assert_int_equal(meet(&e, &server, &client, "localhost", &rc), 0);
	assert_true(tls_peer_name(e.server.tls, name, sizeof(name)));
	assert_string_equal(name, "CN=client");
	close_ends(&e);

	/* One that has no certificate. */
	assert_non_null(mkdtemp(other));
	to = path_join(other, "ca-cert.pem");
	assert_int_equal(symlink(from, to), 0);
	client.cert_dir = other;
	assert_int_equal(meet(&e, &server, &client, "localhost", &rc), -EPROTO);
	assert_non_null(strstr(e.server_err.text, "TLS handshake"));
	close_ends(&e);
	unlink(to);
	rmdir(other);
	free(to);
	free(from);
	free(other);
}

static void
test_wrong_server_is_refused(void **state)
{
	struct tls_options server = {.server = true, .cert_dir = dir}, client = {.cert_dir = dir};
	char *other = strdup("/tmp/berth-tls-test-XXXXXX"), *from = path_join(dir, "other-ca.pem"), *to;
	struct ends e;
	int rc;

	(void)meet(&e, &server, &client, "elsewhere", &rc);
	assert_int_equal(rc, -EPROTO);
	assert_non_null(strstr(e.client_err.text, "name"));
	close_ends(&e);

	assert_non_null(mkdtemp(other));
	to = path_join(other, "ca-cert.pem");
	assert_int_equal(symlink(from, to), 0);
	client.cert_dir = other;
	(void)meet(&e, &server, &client, "localhost", &rc);
	assert_int_equal(rc, -EPROTO);
	close_ends(&e);
	unlink(to);
	rmdir(other);
	free(to);
	free(from);
	free(other);
}

static void
test_keys(void **state)
{
	struct tls_options server = {.server = true, .psk_file = keys}, client = {.psk_file = keys, .psk_user = "bob"};
	char name[64];
	struct ends e;
	int rc;

	assert_int_equal(meet(&e, &server, &client, NULL, &rc), 0);
	assert_int_equal(rc, 0);
	assert_true(tls_peer_name(e.server.tls, name, sizeof(name)));
	assert_string_equal(name, "bob");
	expect_words(&e.client, &e.server, "hello");
	close_ends(&e);
}

static void
test_wrong_key_is_refused(void **state)
{
	struct tls_options server = {.server = true, .psk_file = keys}, client = {.psk_user = "alice"};
	char *wrong = strdup("/tmp/berth-tls-test-XXXXXX");
	static const char line[] = "alice:0123456789abcdef0123456789abcdef\n";
	int fd = mkstemp(wrong), rc;
	struct ends e;

	assert_int_equal(write(fd, line, strlen(line)), strlen(line));
	close(fd);
	client.psk_file = wrong;
	assert_int_equal(meet(&e, &server, &client, NULL, &rc), -EPROTO);
	close_ends(&e);
	unlink(wrong);
	free(wrong);
}

static void
test_plain_speaker_is_refused(void **state)
{
	struct tls_options server = {.server = true, .psk_file = keys};
	struct tls_credentials *s = credentials(&server);
	struct err err = ERR_NONE;
	struct ends e;
	char byte;

	open_ends(&e, 0);
	assert_int_equal(stream_start_tls(&e.server, s, NULL, NULL), 0);
	tls_credentials_put(s);
	assert_int_equal(stream_handshake(&e.server, &err), -EAGAIN);
	assert_false(tls_wants_write(e.server.tls));
	assert_int_equal(write(e.client.fd, "GET / HTTP/1.1\r\n\r\n", 18), 18);
	assert_int_equal(stream_handshake(&e.server, &err), -EPROTO);
	assert_int_equal(stream_handshake(&e.server, &err), -EPROTO);
	assert_int_equal(stream_recv(&e.server, &byte, 1), -EPROTO);
	close_ends(&e);
}

/* Odd lengths through a socket that takes little at a time: all of it arrives, in order. */
static void
test_full_socket(void **state)
{
	struct tls_options server = {.server = true, .psk_file = keys}, client = {.psk_file = keys, .psk_user = "alice"};
	struct tls_credentials *s = credentials(&server), *c = credentials(&client);
	const size_t total = 3000001;
	uint8_t *data = malloc(total), *copy = calloc(1, total);
	size_t sent = 0, received = 0;
	unsigned blocked = 0;
	struct ends e;
	int rc;

	for (size_t i = 0; i < total; i++) {
		data[i] = (uint8_t)(i * 31 + (i >> 13));
	}
	open_ends(&e, 8192);
	assert_int_equal(stream_start_tls(&e.server, s, NULL, NULL), 0);
	assert_int_equal(stream_start_tls(&e.client, c, NULL, NULL), 0);
	tls_credentials_put(s);
	tls_credentials_put(c);
	assert_int_equal(shake_hands(&e, &rc), 0);
	while (received < total) {
		size_t left = total - sent, first = MIN(left, (size_t)7), second = MIN(left - first, (size_t)100000);
		struct iovec out[3] = {{data + sent, first}, {NULL, 0}, {data + sent + first, second}};
		struct iovec in[2] = {{copy + received, MIN(total - received, (size_t)13)}, {NULL, 0}};
		ssize_t n = stream_sendv(&e.server, out, 3);

		assert_true(n >= 0 || n == -EAGAIN);
		blocked += stream_unsent(&e.server);
		sent += n > 0 ? (size_t)n : 0;
		in[1] = (struct iovec){copy + received + in[0].iov_len, MIN(total - received - in[0].iov_len, (size_t)9999)};
		n = stream_recvv(&e.client, in, 2);
		assert_true(n > 0 || n == -EAGAIN);
		received += n > 0 ? (size_t)n : 0;
	}
	assert_true(blocked > 0);
	assert_memory_equal(data, copy, total);
	assert_false(stream_unsent(&e.server));
	assert_int_equal(stream_sendv(&e.server, NULL, 0), 0);
	close_ends(&e);
	free(data);
	free(copy);
}

static void
test_pending_bytes_are_told(void **state)
{
	struct tls_options server = {.server = true, .psk_file = keys}, client = {.psk_file = keys, .psk_user = "alice"};
	struct iovec iov = {(void *)"0123456789", 10};
	struct ends e;
	char text[16];
	int rc;

	assert_int_equal(meet(&e, &server, &client, NULL, &rc), 0);
	assert_false(stream_pending(&e.server));
	assert_int_equal(stream_sendv(&e.client, &iov, 1), 10);
	assert_int_equal(stream_recv(&e.server, text, 4), 4);
	assert_true(stream_pending(&e.server));
	assert_int_equal(stream_recv(&e.server, text, sizeof(text)), 6);
	assert_false(stream_pending(&e.server));
	close_ends(&e);
}

/* A connection that is cut is no end of the stream. */
static void
test_cut_is_an_error(void **state)
{
	struct tls_options server = {.server = true, .psk_file = keys}, client = {.psk_file = keys, .psk_user = "alice"};
	struct ends e;
	char byte;
	int rc;

	assert_int_equal(meet(&e, &server, &client, NULL, &rc), 0);
	shutdown(e.client.fd, SHUT_WR);
	assert_int_equal(stream_recv(&e.server, &byte, 1), -ECONNRESET);
	assert_int_equal(stream_recv(&e.server, &byte, 1), -ECONNRESET);
	close_ends(&e);
}

static void
expect_refused(const struct tls_options *options, int code, const char *words)
{
	struct err err = ERR_NONE;

	assert_null(tls_credentials_create(options, &err));
	assert_int_equal(err.code, code);
	if (strstr(err.text, words) == NULL) {
		fail_msg("'%s' does not say '%s'", err.text, words);
	}
}

static void
test_files_are_checked(void **state)
{
	char *empty = strdup("/tmp/berth-tls-test-XXXXXX"), *ca = path_join(dir, "ca-cert.pem"), *link_path;

	assert_non_null(mkdtemp(empty));
	expect_refused(&(struct tls_options){.server = true}, -EINVAL, "needs");
	expect_refused(&(struct tls_options){.server = true, .psk_file = keys, .verify_peer = true}, -EINVAL, "certificates");
	expect_refused(&(struct tls_options){.server = true, .cert_dir = empty}, -ENOENT, "server-cert.pem");
	expect_refused(&(struct tls_options){.server = true, .cert_dir = empty, .verify_peer = true}, -ENOENT, "ca-cert.pem");
	expect_refused(&(struct tls_options){.cert_dir = empty}, -ENOENT, "ca-cert.pem");
	expect_refused(&(struct tls_options){.server = true, .psk_file = "/nowhere/keys"}, -ENOENT, "/nowhere/keys");
	expect_refused(&(struct tls_options){.psk_file = keys, .psk_user = "carol"}, -ENOENT, "carol");
	/* A certificate where a key should be. */
	link_path = path_join(empty, "server-key.pem");
	assert_int_equal(symlink(ca, link_path), 0);
	free(link_path);
	link_path = path_join(empty, "server-cert.pem");
	assert_int_equal(symlink(ca, link_path), 0);
	expect_refused(&(struct tls_options){.server = true, .cert_dir = empty}, -EINVAL, "server-cert.pem");
	unlink(link_path);
	free(link_path);
	link_path = path_join(empty, "server-key.pem");
	unlink(link_path);
	free(link_path);
	rmdir(empty);
	free(empty);
	free(ca);
}

static int
make_files(void **state)
{
	dir = certs_make();
	keys = path_join(dir, "keys.psk");
	return 0;
}

static int
remove_files(void **state)
{
	certs_remove(dir);
	free(keys);
	return 0;
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_certificates),
		cmocka_unit_test(test_client_is_verified),
		cmocka_unit_test(test_wrong_server_is_refused),
		cmocka_unit_test(test_keys),
		cmocka_unit_test(test_wrong_key_is_refused),
		cmocka_unit_test(test_plain_speaker_is_refused),
		cmocka_unit_test(test_full_socket),
		cmocka_unit_test(test_pending_bytes_are_told),
		cmocka_unit_test(test_cut_is_an_error),
		cmocka_unit_test(test_files_are_checked),
	};

	return cmocka_run_group_tests(tests, make_files, remove_files);
}
