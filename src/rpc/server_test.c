/* SPDX-License-Identifier: BSD-3-Clause */
/* The server as a client sees it. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/clock.h"
#include "rpc/conn.h"
#include "rpc/harness.h"
#include "rpc/schema_gen.h"
#include "sock/unix.h"

#define BURST 20000u
#define LISTED 2000u

static void
test_ids(void **state)
{
	assert_string_equal(harness_ask(REQUEST("1", "spdk_get_version"), 1), ANSWER("1", "\"v\""));
	assert_string_equal(harness_ask(REQUEST("\"a\\n\"", "spdk_get_version"), 1), ANSWER("\"a\\n\"", "\"v\""));
	assert_string_equal(harness_ask(REQUEST("null", "spdk_get_version"), 1), ANSWER("null", "\"v\""));
	assert_string_equal(harness_ask(REQUEST("-9007199254740993", "spdk_get_version"), 1),
			    ANSWER("-9007199254740993", "\"v\""));
	assert_string_equal(harness_ask("{\"id\":1,\"method\":\"get_spdk_version\",\"params\":null}", 1), ANSWER("1", "\"v\""));
}

static void
test_notification(void **state)
{
	int fd = harness_client();
	const char text[] = "{\"jsonrpc\":\"2.0\",\"method\":\"spdk_get_version\"}{\"method\":\"nothing\"}"
			    REQUEST("2", "spdk_get_version");

	harness_put(fd, text, strlen(text));
	assert_string_equal(harness_get(fd, 1), ANSWER("2", "\"v\""));
	assert_int_equal(harness.handled, 2);
	close(fd);
}

static void
test_byte_by_byte(void **state)
{
	const char text[] = " " REQUEST("1", "spdk_get_version") "\n" REQUEST("2", "spdk_get_version");
	int fd = harness_client();

	for (size_t i = 0; i < strlen(text); i++) {
		harness_put(fd, text + i, 1);
		harness_turn(2);
	}
	assert_string_equal(harness_get(fd, 2), ANSWER("1", "\"v\"") ANSWER("2", "\"v\""));
	close(fd);
}

static void
test_half_closed(void **state)
{
	const char text[] = REQUEST("1", "bdev_wait_for_examine") REQUEST("2", "spdk_get_version") "{\"half";
	int fd = harness_client();

	harness_put(fd, text, strlen(text));
	shutdown(fd, SHUT_WR);
	assert_string_equal(harness_get(fd, 1), ANSWER("2", "\"v\""));
	harness_on_thread(harness_answer_first);
	assert_string_equal(harness_get(fd, 1), ANSWER("1", "true"));
	assert_true(harness_closed(fd));
	close(fd);
}

static void
test_pipelined_overtake(void **state)
{
	const char text[] = REQUEST("1", "bdev_wait_for_examine") REQUEST("2", "spdk_get_version");
	int fd = harness_client();

	harness_put(fd, text, strlen(text));
	assert_string_equal(harness_get(fd, 1), ANSWER("2", "\"v\""));
	harness_on_thread(harness_answer_first);
	assert_string_equal(harness_get(fd, 1), ANSWER("1", "true"));
	close(fd);
}

static void
assert_error(const char *request, int code, const char *words)
{
	json_t *answer = json_loads(harness_ask(request, 1), 0, NULL);
	json_t *error = json_object_get(answer, "error");
	const char *message = json_string_value(json_object_get(error, "message"));

	if (json_integer_value(json_object_get(error, "code")) != code || message == NULL ||
	    strstr(message, words) == NULL) {
		fail_msg("%.80s: wanted %d '%s', got %s", request, code, words, harness.answer);
	}
	json_decref(answer);
}

static void
test_bad_requests(void **state)
{
	assert_error("{\"method\":7,\"id\":1}", -32600, "'method'");
	assert_error("{\"id\":1}", -32600, "'method'");
	assert_error("{}", -32600, "'method'");
	assert_error("{\"jsonrpc\":\"1.0\",\"method\":\"spdk_get_version\",\"id\":1}", -32600, "'jsonrpc'");
	assert_error("{\"jsonrpc\":2.0,\"method\":\"spdk_get_version\",\"id\":1}", -32600, "'jsonrpc'");
	assert_error("{\"method\":\"spdk_get_version\",\"id\":[]}", -32600, "'id'");
	assert_error("{\"method\":\"spdk_get_version\",\"id\":true}", -32600, "'id'");
	assert_error("{\"method\":\"spdk_get_version\",\"id\":1,\"params\":3}", -32600, "'params'");
	assert_error("{\"method\":\"spdk_get_version\",\"id\":1,\"parms\":{}}", -32600, "'parms'");
	assert_error("{\"method\":\"no_such\",\"id\":1}", -32601, "'no_such'");
	assert_error("{\"method\":\"bdev_null_delete\",\"params\":{\"name\":\"x\"},\"id\":1}", -32601, "bdev_null_delete");
	assert_error("{\"method\":\"spdk_get_version\",\"id\":1,\"params\":{\"a\":1}}", -32602, "no parameters");
	assert_error("{\"method\":\"bdev_malloc_create\",\"id\":1,\"params\":{\"nme\":1}}", -32603, "'nme'");
	assert_error(REQUEST("1", "log_get_level"), -EIO, "file ?? is odd");
	assert_int_equal(harness.handled, 0);
}

/* Bytes that are no JSON: an error, then the end; what follows is not looked at. */
static void
test_garbage(void **state)
{
	static const char *const texts[] = {
		"hello\n",
		"]",
		"{\"method\":}",
		"{'method':1}",
		"{\"a\":1,\"a\":2}",
		"{\"method\":\"\xff\xfe\"}",
		"{\"method\":\"\xed\xa0\x80\"}",
		"[}",
		"{\"a\":tru}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		int fd = harness_client();

		harness_put(fd, texts[i], strlen(texts[i]));
		harness_put(fd, REQUEST("1", "spdk_get_version"), strlen(REQUEST("1", "spdk_get_version")));
		assert_non_null(strstr(harness_get(fd, 1), "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,"));
		assert_true(harness_closed(fd));
		close(fd);
	}
	assert_int_equal(harness.handled, 0);
}

/* JSON that says more than is understood here is refused by itself: the connection stays. */
static void
test_beyond_us(void **state)
{
	static const struct {
		const char *text;
		const char *id;
	} cases[] = {
		{"{\"method\":\"a\\u0000b\",\"id\":7}", "\"id\":7,"},
		{"{\"method\":\"a\",\"id\":123456789012345678901234567890}", "\"id\":null,"},
		{"{\"method\":\"bdev_get_bdevs\",\"params\":{\"timeout\":9223372036854775808},\"id\":\"x\"}", "\"id\":\"x\","},
		{"{\"method\":\"bdev_get_bdevs\",\"params\":{\"timeout\":1e999},\"id\":5}", "\"id\":null,"},
		{"{\"a\\u0000\":1,\"id\":5}", "\"id\":null,"},
		{"[{\"method\":\"spdk_get_version\",\"id\":1},{\"id\":18446744073709551616}]", "\"id\":null,"},
	};
	int fd = harness_client();

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		harness_put(fd, cases[i].text, strlen(cases[i].text));
		harness_get(fd, 1);
		assert_non_null(strstr(harness.answer, cases[i].id));
		assert_non_null(strstr(harness.answer, "\"error\":{\"code\":-32600,"));
	}
	assert_int_equal(harness.handled, 0);
	harness_put(fd, REQUEST("1", "spdk_get_version"), strlen(REQUEST("1", "spdk_get_version")));
	assert_string_equal(harness_get(fd, 1), ANSWER("1", "\"v\""));
	close(fd);
}

/* JSON, but nothing that can be a request: the same, with the code for that. */
static void
test_scalar(void **state)
{
	static const char *const texts[] = {"7", " -1", "\"spdk_get_version\""};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		int fd = harness_client();

		harness_put(fd, texts[i], strlen(texts[i]));
		assert_non_null(strstr(harness_get(fd, 1), "\"id\":null,\"error\":{\"code\":-32600,"));
		assert_true(harness_closed(fd));
		close(fd);
	}
}

static void
test_too_deep(void **state)
{
	char text[5000];
	int fd = harness_client();

	memset(text, '[', sizeof(text));
	harness_put(fd, text, sizeof(text));
	assert_non_null(strstr(harness_get(fd, 1), "deeper than 64"));
	assert_true(harness_closed(fd));
	close(fd);
}

static void
test_too_long(void **state)
{
	size_t len = RPC_REQUEST_MAX_BYTES + 1;
	char *text = malloc(len);
	int fd = harness_client();

	memset(text, 'x', len);
	memcpy(text, "{\"method\":\"", 11);
	harness_put(fd, text, len);
	assert_non_null(strstr(harness_get(fd, 1), "\"code\":-32600"));
	assert_non_null(strstr(harness.answer, "longer than 4194304 bytes"));
	close(fd);
	free(text);
}

/* White space between requests is not kept, however much there is. */
static void
test_white_space(void **state)
{
	size_t len = RPC_REQUEST_MAX_BYTES + 100000;
	char *text = malloc(len);
	int fd = harness_client();

	memset(text, ' ', len);
	harness_put(fd, text, len);
	harness_put(fd, REQUEST("1", "spdk_get_version"), strlen(REQUEST("1", "spdk_get_version")));
	assert_string_equal(harness_get(fd, 1), ANSWER("1", "\"v\""));
	close(fd);
	free(text);
}

static void
test_batch(void **state)
{
	assert_string_equal(harness_ask("[" REQUEST("1", "bdev_get_bdevs") "," REQUEST("\"b\"", "spdk_get_version") "]", 1),
			    "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"\"},"
			    "{\"jsonrpc\":\"2.0\",\"id\":\"b\",\"result\":\"v\"}]\n");
	assert_error("[]", -32600, "batch is empty");
	assert_string_equal(harness_ask("[{\"method\":\"spdk_get_version\"}]" REQUEST("9", "spdk_get_version"), 1),
			    ANSWER("9", "\"v\""));
	assert_string_equal(harness_ask("[1," REQUEST("1", "spdk_get_version") ",{\"method\":\"spdk_get_version\"},[]]", 1),
			    "[{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32600,\"message\":\"a request must be "
			    "an object\"}},{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"v\"},{\"jsonrpc\":\"2.0\",\"id\":null,"
			    "\"error\":{\"code\":-32600,\"message\":\"a request must be an object\"}}]\n");
}

static void
test_batch_in_order(void **state)
{
	const char text[] = "[" REQUEST("1", "spdk_get_version") "," REQUEST("2", "bdev_wait_for_examine") ","
			    REQUEST("3", "spdk_get_version") "]";
	int fd = harness_client();

	harness_put(fd, text, strlen(text));
	harness_turn(10);
	/* The third waits for the second. */
	assert_int_equal(harness.handled, 2);
	harness_on_thread(harness_answer_first);
	assert_string_equal(harness_get(fd, 1), "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"v\"},"
					"{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":true},"
					"{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":\"v\"}]\n");
	close(fd);
}

static void
test_batch_too_long(void **state)
{
	char *text = malloc(3 * 4097 + 2);
	size_t len = 0;

	text[len++] = '[';
	for (int i = 0; i < 4097; i++) {
		memcpy(text + len, "{},", 3);
		len += 3;
	}
	text[len - 1] = ']';
	text[len] = '\0';
	assert_error(text, -32600, "more than 4096");
	free(text);
}

/* A client leaves in the middle: what runs goes on, what has not begun does not begin. */
static void
test_client_leaves(void **state)
{
	const char text[] = REQUEST("3", "bdev_wait_for_examine")
			    "[" REQUEST("1", "bdev_wait_for_examine") "," REQUEST("2", "spdk_get_version") "]{\"half";
	int fd = harness_client();

	harness_put(fd, text, strlen(text));
	harness_turn(3);
	assert_int_equal(harness.waiting_count, 2);
	close(fd);
	harness_turn(5);
	harness_on_thread(harness_answer_first);
	harness_on_thread(harness_answer_first);
	harness_turn(3);
	assert_int_equal(harness.handled, 2);
	assert_string_equal(harness_ask(REQUEST("1", "spdk_get_version"), 1), ANSWER("1", "\"v\""));
}

/* What may have a long answer is under way alone; what came behind it has its turn then. */
static void
test_a_batch_is_alone(void **state)
{
	const char text[] = "[" REQUEST("1", "bdev_wait_for_examine") "," REQUEST("2", "spdk_get_version") "]"
			    REQUEST("3", "bdev_wait_for_examine");
	int fd = harness_client();

	harness_put(fd, text, strlen(text));
	harness_turn(5);
	assert_int_equal(harness.waiting_count, 1);
	harness_on_thread(harness_answer_first);
	harness_turn(5);
	assert_int_equal(harness.waiting_count, 1);
	harness_on_thread(harness_answer_first);
	harness_turn(3);
	close(fd);
	harness_turn(3);
}

static void
test_stop_with_running(void **state)
{
	int fd = harness_client();

	harness_put(fd, REQUEST("1", "bdev_wait_for_examine"), strlen(REQUEST("1", "bdev_wait_for_examine")));
	harness_turn(3);
	harness_on_thread(harness_stop);
	assert_true(harness_closed(fd));
	harness_on_thread(harness_answer_first);
	harness_on_thread(harness_start);
	close(fd);
}

static void
test_stop_in_handler(void **state)
{
	const char text[] = "{\"id\":1,\"method\":\"spdk_kill_instance\",\"params\":{\"sig_name\":\"SIGTERM\"}}"
			    REQUEST("2", "spdk_get_version");
	int fd = harness_client();

	harness_put(fd, text, strlen(text));
	assert_string_equal(harness_get(fd, 1), ANSWER("1", "true"));
	assert_true(harness_closed(fd));
	assert_int_equal(harness.handled, 0);
	harness_on_thread(harness_start);
	close(fd);
}

/* A client that does not read: neither its requests nor its answers pile up, and nothing is lost. */
static void
test_back_pressure(void **state)
{
	const char text[] = "{\"id\":1,\"method\":\"bdev_get_bdevs\",\"params\":{\"name\":\"600000\"}}";
	int fd = harness_client();
	size_t total = 0;

	for (int i = 0; i < 40; i++) {
		send(fd, text, strlen(text), MSG_DONTWAIT);
	}
	harness_turn(200);
	assert_true(harness.handled < RPC_OUT_HIGH_BYTES / 600000 + 3);
	for (int i = 0; i < 40; i++) {
		harness_get(fd, 1);
		total += harness.answer_len;
	}
	assert_int_equal(harness.handled, 40);
	assert_int_equal(total, 40 * (600000 + strlen(ANSWER("1", "\"\""))));
	close(fd);
}

/* A client that sends all it has before it reads the first answer, more than sockets hold. */
static void
test_burst(void **state)
{
	const char text[] = "{\"id\":1,\"method\":\"bdev_get_bdevs\",\"params\":{\"name\":\"200\"}}";
	size_t total = 0, answers = BURST * (200 + strlen(ANSWER("1", "\"\"")));
	int fd = harness_client();

	assert_true(answers < RPC_OUT_HIGH_BYTES);
	for (unsigned i = 0; i < BURST; i++) {
		harness_put(fd, text, strlen(text));
	}
	for (unsigned i = 0; i < BURST && total < answers; i++) {
		harness_get(fd, 1);
		total += harness.answer_len;
	}
	assert_int_equal(harness.handled, BURST);
	assert_int_equal(total, answers);
	close(fd);
}

/* ---- Lists ---- */

static void
test_list(void **state)
{
	harness.listed = 3;
	assert_string_equal(harness_ask(REQUEST("1", "vhost_get_controllers"), 1), ANSWER("1", "[\"n0\",\"n1\",\"n2\"]"));
	harness.listed = 0;
	assert_string_equal(harness_ask(REQUEST("1", "vhost_get_controllers"), 1), ANSWER("1", "[]"));
	harness.listed = 1;
	assert_string_equal(harness_ask("[" REQUEST("1", "vhost_get_controllers") "," REQUEST("2", "spdk_get_version") "]", 1),
			    "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":[\"n0\"]},"
			    "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":\"v\"}]\n");
}

/* A long one is made while others are answered; what goes away meanwhile is not in it. */
static void
test_long_list(void **state)
{
	int slow = harness_client(), quick = harness_client();
	json_t *answer, *names;

	harness.listed = LISTED;
	harness.item_ns = RPC_SLICE_NS / 20;
	harness_put(slow, REQUEST("1", "vhost_get_controllers"), strlen(REQUEST("1", "vhost_get_controllers")));
	harness_turn(3);
	assert_true(harness.items > 0 && harness.items < 100);
	harness.gone_from = LISTED / 2;
	harness_put(quick, REQUEST("2", "spdk_get_version"), strlen(REQUEST("2", "spdk_get_version")));
	assert_string_equal(harness_get(quick, 1), ANSWER("2", "\"v\""));
	assert_true(harness.items < LISTED);
	answer = json_loads(harness_get(slow, 1), 0, NULL);
	names = json_object_get(answer, "result");
	assert_int_equal(harness.items, LISTED);
	assert_int_equal(json_array_size(names), LISTED / 2);
	assert_string_equal(json_string_value(json_array_get(names, LISTED / 2 - 1)), "n999");
	json_decref(answer);
	close(slow);
	close(quick);
}

static void
test_stop_with_list(void **state)
{
	int fd = harness_client();

	harness.listed = LISTED;
	harness.item_ns = RPC_SLICE_NS / 20;
	harness_put(fd, REQUEST("1", "vhost_get_controllers"), strlen(REQUEST("1", "vhost_get_controllers")));
	harness_turn(3);
	harness_on_thread(harness_stop);
	assert_true(harness.items > 0 && harness.items < LISTED);
	harness.items = 0;
	assert_true(harness_closed(fd));
	assert_int_equal(harness.items, 0);
	harness_on_thread(harness_start);
	close(fd);
}

/* The requests of a batch take turns with other work, too. */
static void
test_long_batch(void **state)
{
	int slow = harness_client(), quick = harness_client();
	size_t len = 0, item = strlen(REQUEST("1", "spdk_get_version") ",");
	char *text = malloc(4000 * item + 2);

	text[len++] = '[';
	for (int i = 0; i < 4000; i++) {
		memcpy(text + len, REQUEST("1", "spdk_get_version") ",", item);
		len += item;
	}
	text[len - 1] = ']';
	harness_put(slow, text, len);
	for (int i = 0; harness.handled == 0 && i < HARNESS_ROUNDS_MAX; i++) {
		harness_turn(1);
	}
	assert_true(harness.handled > 0 && harness.handled < 4000);
	harness_put(quick, REQUEST("2", "spdk_get_version"), strlen(REQUEST("2", "spdk_get_version")));
	assert_string_equal(harness_get(quick, 1), ANSWER("2", "\"v\""));
	assert_true(harness.handled < 4001);
	harness_get(slow, 1);
	assert_int_equal(harness.handled, 4001);
	assert_int_equal(harness.answer_len, 4000 * strlen(ANSWER("1", "\"v\"")) + 2);
	close(slow);
	close(quick);
	free(text);
}

static void
test_running_limit(void **state)
{
	int fd = harness_client();
	const char text[] = REQUEST("1", "bdev_wait_for_examine");

	for (int i = 0; i < 100; i++) {
		harness_put(fd, text, strlen(text));
	}
	harness_turn(10);
	assert_int_equal(harness.waiting_count, RPC_RUNNING_MAX);
	for (int i = 0; i < 100; i++) {
		harness_on_thread(harness_answer_first);
		harness_turn(1);
	}
	harness_get(fd, 100);
	assert_int_equal(harness.answer_len, 100 * strlen(ANSWER("1", "true")));
	close(fd);
}

/* More clients than are served: the others wait, and are served when some leave. */
static void
test_many_clients(void **state)
{
	int fds[160];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = harness_client();
		harness_put(fds[i], REQUEST("1", "spdk_get_version"), strlen(REQUEST("1", "spdk_get_version")));
	}
	harness_turn(10);
	assert_int_equal(harness.handled, 128);
	/* Those that wait do not keep the reactor busy. */
	assert_int_equal(reactor_poll_once(harness.reactor), 0);
	for (size_t i = 0; i < 64; i++) {
		assert_string_equal(harness_get(fds[i], 1), ANSWER("1", "\"v\""));
		close(fds[i]);
	}
	for (size_t i = 64; i < ARRAY_SIZE(fds); i++) {
		assert_string_equal(harness_get(fds[i], 1), ANSWER("1", "\"v\""));
		close(fds[i]);
	}
	harness_turn(5);
}

static void
test_states(void **state)
{
	rpc_set_state(RPC_STARTUP);
	assert_error(REQUEST("1", "bdev_get_bdevs"), -1, "framework_start_init");
	assert_string_equal(harness_ask(REQUEST("1", "framework_start_init"), 1), ANSWER("1", "true"));
	assert_error(REQUEST("1", "framework_start_init"), -1, "--wait-for-rpc");
	assert_string_equal(harness_ask("{\"id\":1,\"method\":\"rpc_get_methods\",\"params\":{\"current\":true}}", 1),
			    ANSWER("1", "[\"spdk_get_version\",\"bdev_malloc_create\",\"bdev_wait_for_examine\","
					"\"bdev_get_bdevs\",\"vhost_get_controllers\",\"rpc_get_methods\","
					"\"log_get_level\",\"spdk_kill_instance\",\"berth_subscribe\",\"berth_unsubscribe\"]"));
	assert_non_null(strstr(harness_ask("{\"id\":1,\"method\":\"rpc_get_methods\",\"params\":{\"include_aliases\":true}}", 1),
			       "\"construct_malloc_bdev\""));
}

static void
test_record(void **state)
{
	harness_ask("{\"id\":1,\"method\":\"construct_malloc_bdev\",\"params\":{\"name\":\"a\",\"num_blocks\":1,"
	    "\"block_size\":512}}", 1);
	assert_string_equal(harness.recorded, "bdev_malloc_create {\"name\":\"a\",\"num_blocks\":1,\"block_size\":512}");
	harness_ask("{\"id\":1,\"method\":\"bdev_malloc_create\",\"params\":{\"num_blocks\":1,\"block_size\":512}}", 1);
	assert_string_equal(harness.recorded, "bdev_malloc_create {\"name\":\"Malloc7\"}");
	harness.recorded[0] = '\0';
	assert_error("{\"id\":1,\"method\":\"bdev_malloc_create\",\"params\":{\"num_blocks\":1,\"block_size\":512,"
		     "\"name\":\"taken\"}}", -EEXIST, "taken");
	harness_ask(REQUEST("1", "spdk_get_version"), 1);
	assert_string_equal(harness.recorded, "");
	harness.record_rc = -ENOSPC;
	assert_error("{\"id\":1,\"method\":\"bdev_malloc_create\",\"params\":{\"num_blocks\":1,\"block_size\":512}}",
		     -ENOSPC, "state.log: disk is full");
}

static char inside[128];

static void
inside_done(void *ctx, const json_t *result, const json_t *error)
{
	char *text = json_dumps(result != NULL ? result : error, JSON_COMPACT | JSON_ENCODE_ANY);

	snprintf(inside, sizeof(inside), "%s", text);
	free(text);
}

static void
call_inside(void)
{
	json_t *params = json_pack("{s:s,s:i,s:i}", "name", "b", "num_blocks", 1, "block_size", 512);

	rpc_call("bdev_malloc_create", params, false, inside_done, NULL);
	assert_string_equal(inside, "\"b\"");
	assert_string_equal(harness.recorded, "");
	rpc_call("bdev_malloc_create", params, true, inside_done, NULL);
	assert_string_not_equal(harness.recorded, "");
	json_decref(params);
	rpc_call("nothing", NULL, false, inside_done, NULL);
	assert_string_equal(inside, "{\"code\":-32601,\"message\":\"there is no method 'nothing'\"}");
	/* Parameters may go away before the answer is made. */
	params = json_object();
	rpc_call("bdev_wait_for_examine", params, false, inside_done, NULL);
	json_decref(params);
}

static void
test_inside(void **state)
{
	harness_on_thread(call_inside);
	harness_on_thread(harness_answer_first);
	assert_string_equal(inside, "true");
}

static void
list_inside(void)
{
	harness.listed = 2;
	rpc_call("vhost_get_controllers", NULL, false, inside_done, NULL);
}

/* What is written as text for a client is JSON for a caller inside. */
static void
test_list_inside(void **state)
{
	harness_on_thread(list_inside);
	assert_string_equal(inside, "[\"n0\",\"n1\"]");
}

static void
out_of_descriptors(void)
{
	struct err err = ERR_NONE;

	rpc_error_from(harness.waiting[0], RPC_ERROR_INVALID_PARAMS, (err_set(&err, -ENFILE, "cannot make it"), &err));
	harness.waiting_count = 0;
}

static void
test_out_of_descriptors(void **state)
{
	const char text[] = REQUEST("1", "bdev_wait_for_examine");
	int fd = harness_client();

	harness_put(fd, text, strlen(text));
	harness_turn(3);
	harness_on_thread(out_of_descriptors);
	assert_non_null(strstr(harness_get(fd, 1), "cannot make it; no descriptors left"));
	close(fd);
}

static void
start_second(void)
{
	const struct rpc_server_options options = {.path = harness.path};
	struct rpc_server *second = NULL;
	struct err err = ERR_NONE;

	assert_int_equal(rpc_server_start(&options, &second, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, harness.path));
	assert_null(second);
}

static void
test_socket(void **state)
{
	struct stat st;

	assert_int_equal(stat(harness.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	harness_on_thread(start_second);
	harness_turn(5);
	assert_string_equal(harness_ask(REQUEST("1", "spdk_get_version"), 1), ANSWER("1", "\"v\""));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, harness_setup, harness_teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_ids),
		TEST(test_notification),
		TEST(test_byte_by_byte),
		TEST(test_half_closed),
		TEST(test_pipelined_overtake),
		TEST(test_bad_requests),
		TEST(test_garbage),
		TEST(test_beyond_us),
		TEST(test_scalar),
		TEST(test_too_deep),
		TEST(test_too_long),
		TEST(test_white_space),
		TEST(test_batch),
		TEST(test_batch_in_order),
		TEST(test_batch_too_long),
		TEST(test_client_leaves),
		TEST(test_a_batch_is_alone),
		TEST(test_stop_with_running),
		TEST(test_stop_in_handler),
		TEST(test_back_pressure),
		TEST(test_burst),
		TEST(test_list),
		TEST(test_long_list),
		TEST(test_stop_with_list),
		TEST(test_long_batch),
		TEST(test_running_limit),
		TEST(test_many_clients),
		TEST(test_states),
		TEST(test_record),
		TEST(test_inside),
		TEST(test_list_inside),
		TEST(test_out_of_descriptors),
		TEST(test_socket),
	};

	harness_register();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
