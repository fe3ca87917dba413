/* SPDX-License-Identifier: BSD-3-Clause */
/* Who is let in, who has to leave when others wait, and what is pushed to those who are in. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "rpc/auth.h"
#include "rpc/conn.h"
#include "rpc/harness.h"
#include "sock/tcp.h"

#define TOKEN "0123456789abcdef-secret"
#define AUTH(token) \
	"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"berth_authenticate\",\"params\":{\"token\":\"" token "\"}}"
#define VERSION REQUEST("2", "spdk_get_version")

static char token_path[96];
static char address[RPC_ADDRESS_BYTES];
static uint64_t now_ns;

static void
write_token(const char *text, mode_t mode)
{
	int fd = open(token_path, O_CREAT | O_TRUNC | O_WRONLY, 0600);

	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && fchmod(fd, mode) == 0);
	close(fd);
}

static void
advance_ms(unsigned ms)
{
	now_ns += ms * NS_PER_MS;
	clock_set_fake_ns(now_ns);
	harness_turn(10);
}

static int
unix_setup(void **state)
{
	now_ns = clock_now_ns();
	clock_set_fake_ns(now_ns);
	harness.options = (struct rpc_server_options){0};
	return harness_setup(state);
}

static void
find_address(void)
{
	char text[RPC_ADDRESS_BYTES];

	snprintf(address, sizeof(address), "%s", rpc_server_address(harness.server, text));
}

static int
tcp_setup(void **state)
{
	now_ns = clock_now_ns();
	clock_set_fake_ns(now_ns);
	snprintf(token_path, sizeof(token_path), "/tmp/berth-token-XXXXXX");
	close(mkstemp(token_path));
	write_token(TOKEN "\n", 0600);
	harness.options = (struct rpc_server_options){.path = "127.0.0.1:0", .token_file = token_path};
	harness_setup(state);
	harness_on_thread(find_address);
	return 0;
}

static int
teardown(void **state)
{
	harness.options = (struct rpc_server_options){0};
	harness_teardown(state);
	clock_set_fake_ns(UINT64_MAX);
	return 0;
}

static int
tcp_teardown(void **state)
{
	unlink(token_path);
	return teardown(state);
}

static int
tcp_client(void)
{
	struct err err = ERR_NONE;
	int fd = tcp_connect(address, &err);

	assert_true(fd >= 0);
	for (int i = 0; i < HARNESS_ROUNDS_MAX && tcp_connect_result(fd) == -EINPROGRESS; i++) {
		harness_turn(1);
	}
	assert_int_equal(tcp_connect_result(fd), 0);
	harness_turn(3);
	return fd;
}

static void
say(int fd, const char *text)
{
	harness_put(fd, text, strlen(text));
	harness_turn(3);
}

/* What has come; nothing is waited for. */
static const char *
heard(int fd)
{
	ssize_t n;

	harness_turn(5);
	n = recv(fd, harness.answer, HARNESS_ANSWER_BYTES - 1, MSG_DONTWAIT);
	harness.answer[n > 0 ? n : 0] = '\0';
	return harness.answer;
}

static bool
is_open(int fd)
{
	char c;

	harness_turn(5);
	return recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN;
}

/* ---- The token ---- */

static void
test_token_check(void **state)
{
	static const struct {
		const char *message;
		bool good;
		const char *answer; /* part of it; NULL: none */
	} cases[] = {
		{AUTH(TOKEN), true, "\"id\": 1, \"result\": true"},
		{"{\"id\":\"x\",\"method\":\"berth_authenticate\",\"params\":{\"token\":\"" TOKEN "\"}}", true, "\"id\":\"x\""},
		{"{\"method\":\"berth_authenticate\",\"params\":{\"token\":\"" TOKEN "\"}}", true, NULL},
		{AUTH(TOKEN "x"), false, "this is not the token"},
		{AUTH("0123456789abcdef-secreT"), false, "this is not the token"},
		{AUTH("0123456789abcdef-secre"), false, "this is not the token"},
		{AUTH(""), false, "this is not the token"},
		{"{\"id\":1,\"method\":\"berth_authenticate\",\"params\":{\"token\":7}}", false, "first of all"},
		{"{\"id\":1,\"method\":\"berth_authenticate\"}", false, "first of all"},
		{"{\"id\":1,\"method\":\"spdk_get_version\",\"params\":{\"token\":\"" TOKEN "\"}}", false, "first of all"},
		{"[" AUTH(TOKEN) "]", false, "first of all"},
		{"", false, "\"id\":null"},
		{"{\"id\":{},", false, "\"id\":null"},
	};
	struct rpc_token *token;
	struct err err = ERR_NONE;

	assert_int_equal(rpc_token_read(token_path, &token, &err), 0);
	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		char *answer = NULL, spaced[128];

		assert_int_equal(rpc_token_check(token, cases[i].message, strlen(cases[i].message), &answer), cases[i].good);
		if (cases[i].answer == NULL) {
			assert_null(answer);
			continue;
		}
		/* The cases are written as people do. */
		snprintf(spaced, sizeof(spaced), "%s", cases[i].answer);
		for (char *p = spaced; strncmp(spaced, "\"id\"", 4) == 0 && (p = strchr(p, ' ')) != NULL;) {
			memmove(p, p + 1, strlen(p));
		}
		assert_non_null(answer);
		assert_non_null(strstr(answer, spaced));
		free(answer);
	}
	rpc_token_free(token);
}

static void
test_token_file(void **state)
{
	char text[RPC_TOKEN_BYTES_MAX + 2];
	struct rpc_token *token;
	struct err err = ERR_NONE;
	char *answer;

	write_token("  " TOKEN " \r\nand a second line", 0400);
	assert_int_equal(rpc_token_read(token_path, &token, &err), 0);
	assert_true(rpc_token_check(token, AUTH(TOKEN), strlen(AUTH(TOKEN)), &answer));
	free(answer);
	rpc_token_free(token);
	write_token(TOKEN, 0640);
	assert_int_equal(rpc_token_read(token_path, &token, &err), -EPERM);
	write_token("short", 0600);
	assert_int_equal(rpc_token_read(token_path, &token, &err), -EINVAL);
	assert_non_null(strstr(err.text, "5 characters"));
	memset(text, 'x', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	write_token(text, 0600);
	assert_int_equal(rpc_token_read(token_path, &token, &err), -EINVAL);
	unlink(token_path);
	assert_int_equal(rpc_token_read(token_path, &token, &err), -ENOENT);
}

/* ---- TCP ---- */

static void
start_without(void)
{
	const struct rpc_server_options options = {.path = "127.0.0.1:0"};
	struct rpc_server *server = NULL;
	struct err err = ERR_NONE;

	assert_int_equal(rpc_server_start(&options, &server, &err), -EINVAL);
	assert_non_null(strstr(err.text, "--rpc-token-file"));
	assert_null(server);
}

static void
test_never_without_authentication(void **state)
{
	harness_on_thread(start_without);
}

static void
test_addresses(void **state)
{
	assert_true(rpc_is_address("127.0.0.1:5260") && rpc_is_address("[::1]:5260") && rpc_is_address("localhost:0"));
	assert_false(rpc_is_address("/var/tmp/a:5260") || rpc_is_address("rpc.sock") || rpc_is_address("a:b") ||
		     rpc_is_address("a:") || rpc_is_address("./a:1"));
}

static void
test_token_first(void **state)
{
	int fd = tcp_client();

	say(fd, AUTH(TOKEN) VERSION);
	harness_get(fd, 2);
	assert_string_equal(harness.answer, ANSWER("1", "true") ANSWER("2", "\"v\""));
	advance_ms(60000); /* the time for admission was not for it */
	say(fd, VERSION);
	assert_string_equal(harness_get(fd, 1), ANSWER("2", "\"v\""));
	close(fd);
}

/* Refused clients hear so a second later, and nothing they say is carried out. */
static void
test_refused(void **state)
{
	static const char *const texts[] = {
		VERSION,
		AUTH("0123456789abcdef-secreX"),
		"GET / HTTP/1.1\r\n\r\n",
		"[" AUTH(TOKEN) "]",
		"{\"a\":{\"b\":\"\\u0000\"}}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		int fd = tcp_client();

		say(fd, texts[i]);
		say(fd, AUTH(TOKEN) VERSION);
		assert_string_equal(heard(fd), "");
		assert_int_equal(reactor_poll_once(harness.reactor), 0); /* nothing spins meanwhile */
		advance_ms(999);
		assert_string_equal(heard(fd), "");
		advance_ms(1);
		assert_non_null(strstr(heard(fd), "\"code\":-13"));
		assert_string_equal(heard(fd), "");
		assert_false(is_open(fd));
		close(fd);
	}
	assert_int_equal(harness.handled, 0);
}

static void
test_slow_and_long_strangers(void **state)
{
	int slow = tcp_client(), silent = tcp_client(), large = tcp_client();
	char text[RPC_AUTH_MESSAGE_MAX + 1];

	memset(text, ' ', sizeof(text));
	memcpy(text, "{\"a\":", 5);
	say(slow, "{\"jsonrpc\":");
	harness_put(large, text, sizeof(text));
	advance_ms(1000);
	assert_non_null(strstr(heard(large), "\"code\":-13"));
	for (int i = 0; i < 3; i++) {
		advance_ms(1000);
		say(slow, " ");
		assert_true(is_open(slow) && is_open(silent));
	}
	advance_ms(1000);
	assert_false(is_open(slow) || is_open(silent) || is_open(large));
	close(slow);
	close(silent);
	close(large);
}

/* Strangers that say nothing keep nobody out; those that are in stay. */
static void
test_many_strangers(void **state)
{
	int member = tcp_client(), strangers[16], fd;

	say(member, AUTH(TOKEN));
	assert_string_equal(harness_get(member, 1), ANSWER("1", "true"));
	for (size_t i = 0; i < ARRAY_SIZE(strangers); i++) {
		strangers[i] = tcp_client();
		advance_ms(21); /* so many a second are accepted */
	}
	for (size_t i = 0; i < ARRAY_SIZE(strangers); i++) {
		assert_true(is_open(strangers[i]));
	}
	fd = tcp_client();
	say(fd, AUTH(TOKEN));
	for (int i = 0; i < 13; i++) {
		advance_ms(100);
	}
	assert_string_equal(harness_get(fd, 1), ANSWER("1", "true"));
	assert_false(is_open(strangers[0]));
	assert_true(is_open(strangers[15]));
	say(member, VERSION);
	assert_string_equal(harness_get(member, 1), ANSWER("2", "\"v\""));
	for (size_t i = 0; i < ARRAY_SIZE(strangers); i++) {
		close(strangers[i]);
	}
	close(fd);
	close(member);
}

static void
test_pace(void **state)
{
	int fds[12];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = tcp_client();
		say(fds[i], AUTH(TOKEN));
	}
	assert_string_equal(heard(fds[9]), ANSWER("1", "true"));
	assert_string_equal(heard(fds[10]), "");
	advance_ms(200);
	assert_string_equal(heard(fds[10]), ANSWER("1", "true"));
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		close(fds[i]);
	}
}

/* ---- Places ---- */

#define PLACES 128

static void
test_silent_make_place(void **state)
{
	int fds[PLACES], late[3];

	for (size_t i = 0; i < PLACES; i++) {
		fds[i] = harness_client();
		if (i < 2) {
			say(fds[i], VERSION);
			assert_string_equal(heard(fds[i]), ANSWER("2", "\"v\""));
		} else if (i == 2) {
			say(fds[i], "{\"half\":");
		}
	}
	harness_turn(10);
	advance_ms(5000); /* full, and nobody waits: all stay */
	for (size_t i = 0; i < PLACES; i++) {
		assert_true(is_open(fds[i]));
	}
	for (size_t i = 0; i < ARRAY_SIZE(late); i++) {
		late[i] = harness_client();
		say(late[i], VERSION);
		advance_ms(20);
	}
	for (size_t i = 0; i < ARRAY_SIZE(late); i++) {
		assert_string_equal(heard(late[i]), ANSWER("2", "\"v\""));
	}
	/* Those that never said a whole word left, the one that was first among them first. */
	assert_true(is_open(fds[0]) && is_open(fds[1]));
	assert_false(is_open(fds[2]) || is_open(fds[3]) || is_open(fds[4]));
	assert_true(is_open(fds[5]));
	for (size_t i = 0; i < PLACES; i++) {
		close(fds[i]);
	}
	for (size_t i = 0; i < ARRAY_SIZE(late); i++) {
		close(late[i]);
	}
}

/* Those that have been served are left in peace for a minute, and longer while something is under way. */
static void
test_idle_make_place(void **state)
{
	int fds[PLACES], late;

	for (size_t i = 0; i < PLACES; i++) {
		fds[i] = harness_client();
		say(fds[i], i == 0 ? REQUEST("2", "bdev_wait_for_examine") : i == 1 ? REQUEST("2", "berth_subscribe") : VERSION);
		heard(fds[i]);
	}
	late = harness_client();
	say(late, VERSION);
	for (int i = 0; i < 58; i++) {
		advance_ms(1000);
	}
	assert_string_equal(heard(late), "");
	for (int i = 0; i < 4; i++) {
		advance_ms(1000);
	}
	assert_string_equal(heard(late), ANSWER("2", "\"v\""));
	assert_true(is_open(fds[0]) && is_open(fds[1]));
	assert_false(is_open(fds[2]));
	for (size_t i = 0; i < PLACES; i++) {
		close(fds[i]);
	}
	close(late);
}

/* ---- Shares of users ---- */

#define SHARE 48
#define SHARES 96
#define UNWELCOME 8

/* A connection of that user: who connects is who this system thread is at that moment. */
static int
client_of(uid_t user)
{
	int fd;

	assert_int_equal(syscall(SYS_setresuid, -1, user, -1), 0);
	fd = harness_client();
	assert_int_equal(syscall(SYS_setresuid, -1, 0, -1), 0);
	harness_turn(3);
	return fd;
}

static void
let_users_in(uid_t first, unsigned count)
{
	harness_on_thread(harness_stop);
	for (unsigned i = 0; i < count; i++) {
		harness.options.peers.uids[i] = first + i;
	}
	harness.options.peers.uid_count = count;
	harness_on_thread(harness_start);
	assert_int_equal(chmod(harness.dir, 0711), 0);
}

static void
fill_share(int *fds, unsigned count, uid_t user)
{
	for (unsigned i = 0; i < count; i++) {
		fds[i] = client_of(user);
		say(fds[i], VERSION);
		assert_string_equal(heard(fds[i]), ANSWER("2", "\"v\""));
	}
}

/* Users who keep all they can get: each has its share, and root gets in. */
static void
test_shares(void **state)
{
	int fds[SHARES], late, root, other;

	if (geteuid() != 0) {
		skip();
	}
	let_users_in(1000, 3);
	fill_share(fds, SHARE, 1000);
	late = client_of(1000);
	say(late, VERSION);
	assert_non_null(strstr(heard(late), "user 1000 has 48 connections already"));
	close(late);
	fill_share(fds + SHARE, SHARE, 1001);
	other = client_of(1002);
	say(other, VERSION);
	assert_non_null(strstr(heard(other), "96 connections already of users"));
	close(other);
	root = client_of(0);
	say(root, VERSION);
	assert_string_equal(heard(root), ANSWER("2", "\"v\""));
	/* One of its own gives way when it has been idle for long enough, nobody else's. */
	advance_ms(61000);
	late = client_of(1001);
	say(late, VERSION);
	assert_string_equal(heard(late), ANSWER("2", "\"v\""));
	assert_true(is_open(fds[0]));
	assert_false(is_open(fds[SHARE]));
	assert_true(is_open(fds[SHARE + 1]));
	close(late);
	close(root);
	for (unsigned i = 0; i < SHARES; i++) {
		close(fds[i]);
	}
}

/* Those who may not come in at all take few places, and are heard of in the log once. */
static void
test_unwelcome_crowd(void **state)
{
	int fds[200], root;

	if (geteuid() != 0) {
		skip();
	}
	let_users_in(1000, 1);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = client_of(2000);
	}
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		assert_int_equal(is_open(fds[i]), i < UNWELCOME);
	}
	root = client_of(0);
	say(root, VERSION);
	assert_string_equal(heard(root), ANSWER("2", "\"v\""));
	say(fds[0], VERSION);
	assert_non_null(strstr(heard(fds[0]), "user 2000"));
	close(root);
	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		close(fds[i]);
	}
}

/* ---- Events ---- */

static uint64_t push_type;
static unsigned push_count, pushed;

static void
push_some(void)
{
	for (unsigned i = 0; i < push_count; i++) {
		rpc_push(push_type, json_pack("{s:s, s:i}", "type", "test", "n", (int)pushed++));
	}
}

static void
push(uint64_t type, unsigned count)
{
	push_type = type;
	push_count = count;
	harness_on_thread(push_some);
	harness_turn(3);
}

#define EVENT(n) "{\"jsonrpc\":\"2.0\",\"method\":\"berth_event\",\"params\":{\"type\":\"test\",\"n\":" n "}}\n"

static void
test_events(void **state)
{
	int fd = harness_client(), other = harness_client();

	pushed = 0;
	push(1, 1);
	assert_int_equal(rpc_subscribed(), 0);
	say(fd, REQUEST("2", "berth_subscribe"));
	say(other, VERSION);
	assert_string_equal(harness_get(fd, 1), ANSWER("2", "true"));
	assert_string_equal(harness_get(other, 1), ANSWER("2", "\"v\""));
	assert_int_equal(rpc_subscribed(), 3);
	push(1, 1);
	push(4, 1);
	push(2, 1);
	assert_string_equal(harness_get(fd, 2), EVENT("1") EVENT("3"));
	assert_true(is_open(other));
	say(fd, REQUEST("2", "berth_unsubscribe"));
	push(1, 1);
	assert_string_equal(heard(fd), ANSWER("2", "true"));
	assert_true(is_open(fd));
	say(fd, REQUEST("2", "berth_subscribe"));
	heard(fd);
	close(fd);
	harness_turn(5);
	assert_int_equal(rpc_subscribed(), 0);
	push(1, 1);
	close(other);
}

/* Who does not read makes berth keep no more than a bounded amount, and hears how much it has missed. */
static void
test_lost_events(void **state)
{
	unsigned count = 20000, got = 0, lost = 0;
	int fd = harness_client();
	const char *at;

	pushed = 0;
	say(fd, REQUEST("2", "berth_subscribe"));
	harness_get(fd, 1);
	push(1, count);
	push(1, 1); /* is missed, too: nothing has been read */
	/* All that was kept, and the socket's own. */
	while (lost == 0 && *heard(fd) != '\0') {
		for (at = harness.answer; (at = strstr(at, "\"n\":")) != NULL; at++) {
			got++;
		}
		at = strstr(harness.answer, "\"lost\",\"count\":");
		lost = at != NULL ? (unsigned)atoi(at + strlen("\"lost\",\"count\":")) : 0;
	}
	assert_int_equal(got + lost, count + 1);
	assert_true(got * strlen(EVENT("1")) < RPC_EVENTS_HIGH_BYTES + 1024 * 1024);
	push(1, 1);
	assert_string_equal(harness_get(fd, 1), EVENT("20001"));
	close(fd);
}

#define UNIX_TEST(name) cmocka_unit_test_setup_teardown(name, unix_setup, teardown)
#define TCP_TEST(name) cmocka_unit_test_setup_teardown(name, tcp_setup, tcp_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TCP_TEST(test_token_check),
		TCP_TEST(test_token_file),
		UNIX_TEST(test_never_without_authentication),
		UNIX_TEST(test_addresses),
		TCP_TEST(test_token_first),
		TCP_TEST(test_refused),
		TCP_TEST(test_slow_and_long_strangers),
		TCP_TEST(test_many_strangers),
		TCP_TEST(test_pace),
		UNIX_TEST(test_silent_make_place),
		UNIX_TEST(test_idle_make_place),
		UNIX_TEST(test_shares),
		UNIX_TEST(test_unwelcome_crowd),
		UNIX_TEST(test_events),
		UNIX_TEST(test_lost_events),
	};

	harness_register();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
