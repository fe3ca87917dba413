/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The server as a client sees it, over a real socket, with methods of the schema answered by the test. Everything
 * runs in one system thread; the reactor is turned by hand.
 */
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
#include "event/reactor.h"
#include "rpc/conn.h"
#include "rpc/rpc.h"
#include "rpc/schema_gen.h"
#include "sock/unix.h"

#define ANSWER_BYTES (16u << 20)
#define ROUNDS_MAX 2000
#define WAITING_MAX 256
#define BURST 20000u
#define LISTED 2000u

static struct {
	char dir[64];
	char path[96];
	struct reactor *reactor;
	struct thread *thread;
	struct rpc_server *server;
	struct rpc_request *waiting[WAITING_MAX];
	unsigned waiting_count;
	unsigned handled;
	unsigned listed;    /* names in a list */
	unsigned items;     /* made of it */
	unsigned gone_from; /* 0: none is gone */
	uint64_t item_ns;
	char recorded[256];
	int record_rc;
	char *answer; /* what the last client got */
	size_t answer_len;
	void (*todo)(void);
} f;

/* ---- Methods ---- */

static void
get_version(struct rpc_request *req, const void *params)
{
	f.handled++;
	rpc_result(req, json_string("v"));
}

static void
malloc_create(struct rpc_request *req, const void *params)
{
	const struct bdev_malloc_create_params *p = params;

	f.handled++;
	if (strcmp(p->name != NULL ? p->name : "", "taken") == 0) {
		rpc_error(req, -EEXIST, "bdev %s exists", p->name);
		return;
	}
	if (p->name == NULL) {
		rpc_set_recorded_params(req, json_pack("{s:s}", "name", "Malloc7"));
	}
	rpc_result(req, json_string(p->name != NULL ? p->name : "Malloc7"));
}

/* Answers when the test says so. */
static void
wait_for_examine(struct rpc_request *req, const void *params)
{
	f.handled++;
	assert_true(f.waiting_count < WAITING_MAX);
	f.waiting[f.waiting_count++] = req;
}

static json_t *
listed_item(const void *ctx, const char *name)
{
	unsigned number = (unsigned)atoi(name + 1);
	uint64_t end_ns = clock_now_ns() + f.item_ns;

	f.items++;
	while (clock_now_ns() < end_ns) {
	}
	return f.gone_from != 0 && number >= f.gone_from ? NULL : json_string(name);
}

static void
get_controllers(struct rpc_request *req, const void *params)
{
	struct rpc_list *list = rpc_list_begin(req, listed_item, params);

	for (unsigned i = 0; i < f.listed; i++) {
		char name[16];

		snprintf(name, sizeof(name), "n%u", i);
		rpc_list_add(list, name);
	}
	rpc_list_end(list);
}

/* name: a number, the size of the answer. */
static void
get_bdevs(struct rpc_request *req, const void *params)
{
	const struct bdev_get_bdevs_params *p = params;
	size_t len = p->name != NULL ? (size_t)atoi(p->name) : 0;
	char *text = malloc(len + 1);

	f.handled++;
	memset(text, 'x', len);
	text[len] = '\0';
	rpc_result(req, json_string(text));
	free(text);
}

static void
get_methods(struct rpc_request *req, const void *params)
{
	const struct rpc_get_methods_params *p = params;

	rpc_result(req, rpc_method_names(p->current, p->include_aliases));
}

static void
start_init(struct rpc_request *req, const void *params)
{
	rpc_set_state(RPC_RUNTIME);
	rpc_true(req);
}

static void
bad_text(struct rpc_request *req, const void *params)
{
	rpc_error(req, -EIO, "file \xff\xfe is odd");
}

static void
stop_server(struct rpc_request *req, const void *params)
{
	rpc_true(req);
	rpc_server_stop(f.server);
	f.server = NULL;
}

static const struct rpc_method methods[] = {
	{"spdk_get_version", get_version},
	{"bdev_malloc_create", malloc_create},
	{"bdev_wait_for_examine", wait_for_examine},
	{"bdev_get_bdevs", get_bdevs},
	{"vhost_get_controllers", get_controllers},
	{"rpc_get_methods", get_methods},
	{"framework_start_init", start_init},
	{"log_get_level", bad_text},
	{"spdk_kill_instance", stop_server},
	{NULL, NULL},
};

/* ---- Turning the reactor ---- */

struct call {
	struct msg msg;
	bool done;
};

static void
call_todo(struct msg *msg)
{
	f.todo();
	CONTAINER_OF(msg, struct call, msg)->done = true;
}

static void
on_thread(void (*todo)(void))
{
	struct call call = {.done = false};

	f.todo = todo;
	thread_send(f.thread, &call.msg, call_todo);
	for (int i = 0; i < 10 && !call.done; i++) {
		reactor_poll_once(f.reactor);
	}
	assert_true(call.done);
}

static int
record(void *ctx, const char *method, const json_t *params, struct err *err)
{
	char *text = json_dumps(params, JSON_COMPACT);

	snprintf(f.recorded, sizeof(f.recorded), "%s %s", method, text);
	free(text);
	return f.record_rc != 0 ? err_set(err, f.record_rc, "state.log: disk is full") : 0;
}

static void
start(void)
{
	const struct rpc_server_options options = {.path = f.path, .record = record};
	struct err err = ERR_NONE;

	assert_int_equal(rpc_server_start(&options, &f.server, &err), 0);
}

static void
stop(void)
{
	rpc_server_stop(f.server);
	f.server = NULL;
}

static void
answer_first(void)
{
	assert_true(f.waiting_count > 0);
	rpc_true(f.waiting[0]);
	f.waiting_count--;
	memmove(f.waiting, f.waiting + 1, f.waiting_count * sizeof(f.waiting[0]));
}

static int
setup(void **state)
{
	struct err err = ERR_NONE;

	f.answer = malloc(ANSWER_BYTES);
	strcpy(f.dir, "/tmp/berth-rpc-XXXXXX");
	assert_non_null(mkdtemp(f.dir));
	snprintf(f.path, sizeof(f.path), "%s/rpc.sock", f.dir);
	f.reactor = reactor_create(0, -1, REACTOR_INTERRUPT, &err);
	f.thread = thread_create("app", f.reactor);
	f.handled = f.listed = f.items = f.gone_from = 0;
	f.item_ns = 0;
	f.record_rc = 0;
	f.recorded[0] = '\0';
	rpc_set_state(RPC_RUNTIME);
	on_thread(start);
	return 0;
}

static int
teardown(void **state)
{
	while (f.waiting_count > 0) {
		on_thread(answer_first);
	}
	on_thread(stop);
	assert_int_not_equal(access(f.path, F_OK), 0);
	on_thread(thread_exit);
	for (int i = 0; i < 3; i++) {
		reactor_poll_once(f.reactor);
	}
	reactor_free(f.reactor);
	assert_int_equal(rmdir(f.dir), 0);
	free(f.answer);
	return 0;
}

/* ---- Clients ---- */

static int
client(void)
{
	struct err err = ERR_NONE;
	int fd = unix_connect(f.path, &err);

	assert_true(fd >= 0);
	return fd;
}

static void
turn(unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		reactor_poll_once(f.reactor);
	}
}

static void
put(int fd, const char *data, size_t len)
{
	for (unsigned round = 0; len > 0; round++) {
		ssize_t n = send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		assert_true(round < ROUNDS_MAX);
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else if (n < 0 && errno != EAGAIN) {
			return; /* the server may have closed already */
		}
		turn(1);
	}
}

/* Reads until there are `lines` line feeds, or the end. Returns f.answer, "" when the end came first and nothing before. */
static const char *
get(int fd, unsigned lines)
{
	f.answer_len = 0;
	for (unsigned round = 0; round < ROUNDS_MAX && lines > 0; round++) {
		ssize_t n = recv(fd, f.answer + f.answer_len, ANSWER_BYTES - 1 - f.answer_len, MSG_DONTWAIT);

		if (n == 0) {
			break;
		}
		for (ssize_t i = 0; i < n; i++) {
			lines -= f.answer[f.answer_len + (size_t)i] == '\n' && lines > 0;
		}
		f.answer_len += n > 0 ? (size_t)n : 0;
		if (n < 0) {
			turn(1);
		}
	}
	f.answer[f.answer_len] = '\0';
	return f.answer;
}

/* True when the server closed and nothing is left to read. */
static bool
closed(int fd)
{
	char c;

	turn(5);
	return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

static const char *
ask(const char *request, unsigned lines)
{
	int fd = client();

	put(fd, request, strlen(request));
	get(fd, lines);
	close(fd);
	turn(3);
	return f.answer;
}

#define REQUEST(id, method) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"" method "\"}"
#define ANSWER(id, result) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"result\":" result "}\n"

/* ---- Tests ---- */

static void
test_ids(void **state)
{
	assert_string_equal(ask(REQUEST("1", "spdk_get_version"), 1), ANSWER("1", "\"v\""));
	assert_string_equal(ask(REQUEST("\"a\\n\"", "spdk_get_version"), 1), ANSWER("\"a\\n\"", "\"v\""));
	assert_string_equal(ask(REQUEST("null", "spdk_get_version"), 1), ANSWER("null", "\"v\""));
	assert_string_equal(ask(REQUEST("-9007199254740993", "spdk_get_version"), 1),
			    ANSWER("-9007199254740993", "\"v\""));
	assert_string_equal(ask("{\"id\":1,\"method\":\"get_spdk_version\",\"params\":null}", 1), ANSWER("1", "\"v\""));
}

static void
test_notification(void **state)
{
	int fd = client();
	const char text[] = "{\"jsonrpc\":\"2.0\",\"method\":\"spdk_get_version\"}{\"method\":\"nothing\"}"
			    REQUEST("2", "spdk_get_version");

	put(fd, text, strlen(text));
	assert_string_equal(get(fd, 1), ANSWER("2", "\"v\""));
	assert_int_equal(f.handled, 2);
	close(fd);
}

static void
test_byte_by_byte(void **state)
{
	const char text[] = " " REQUEST("1", "spdk_get_version") "\n" REQUEST("2", "spdk_get_version");
	int fd = client();

	for (size_t i = 0; i < strlen(text); i++) {
		put(fd, text + i, 1);
		turn(2);
	}
	assert_string_equal(get(fd, 2), ANSWER("1", "\"v\"") ANSWER("2", "\"v\""));
	close(fd);
}

static void
test_half_closed(void **state)
{
	const char text[] = REQUEST("1", "bdev_wait_for_examine") REQUEST("2", "spdk_get_version") "{\"half";
	int fd = client();

	put(fd, text, strlen(text));
	shutdown(fd, SHUT_WR);
	assert_string_equal(get(fd, 1), ANSWER("2", "\"v\""));
	on_thread(answer_first);
	assert_string_equal(get(fd, 1), ANSWER("1", "true"));
	assert_true(closed(fd));
	close(fd);
}

static void
test_pipelined_overtake(void **state)
{
	const char text[] = REQUEST("1", "bdev_wait_for_examine") REQUEST("2", "spdk_get_version");
	int fd = client();

	put(fd, text, strlen(text));
	assert_string_equal(get(fd, 1), ANSWER("2", "\"v\""));
	on_thread(answer_first);
	assert_string_equal(get(fd, 1), ANSWER("1", "true"));
	close(fd);
}

static void
assert_error(const char *request, int code, const char *words)
{
	json_t *answer = json_loads(ask(request, 1), 0, NULL);
	json_t *error = json_object_get(answer, "error");
	const char *message = json_string_value(json_object_get(error, "message"));

	if (json_integer_value(json_object_get(error, "code")) != code || message == NULL ||
	    strstr(message, words) == NULL) {
		fail_msg("%.80s: wanted %d '%s', got %s", request, code, words, f.answer);
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
	assert_int_equal(f.handled, 0);
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
		"{\"method\":\"a\\u0000b\"}",
		"{\"id\":123456789012345678901234567890}",
		"[}",
		"{\"a\":tru}",
	};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		int fd = client();

		put(fd, texts[i], strlen(texts[i]));
		put(fd, REQUEST("1", "spdk_get_version"), strlen(REQUEST("1", "spdk_get_version")));
		assert_non_null(strstr(get(fd, 1), "{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32700,"));
		assert_true(closed(fd));
		close(fd);
	}
	assert_int_equal(f.handled, 0);
}

/* JSON, but nothing that can be a request: the same, with the code for that. */
static void
test_scalar(void **state)
{
	static const char *const texts[] = {"7", " -1", "\"spdk_get_version\""};

	for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
		int fd = client();

		put(fd, texts[i], strlen(texts[i]));
		assert_non_null(strstr(get(fd, 1), "\"id\":null,\"error\":{\"code\":-32600,"));
		assert_true(closed(fd));
		close(fd);
	}
}

static void
test_too_deep(void **state)
{
	char text[5000];
	int fd = client();

	memset(text, '[', sizeof(text));
	put(fd, text, sizeof(text));
	assert_non_null(strstr(get(fd, 1), "deeper than 64"));
	assert_true(closed(fd));
	close(fd);
}

static void
test_too_long(void **state)
{
	size_t len = RPC_REQUEST_MAX_BYTES + 1;
	char *text = malloc(len);
	int fd = client();

	memset(text, 'x', len);
	memcpy(text, "{\"method\":\"", 11);
	put(fd, text, len);
	assert_non_null(strstr(get(fd, 1), "\"code\":-32600"));
	assert_non_null(strstr(f.answer, "longer than 4194304 bytes"));
	close(fd);
	free(text);
}

/* White space between requests is not kept, however much there is. */
static void
test_white_space(void **state)
{
	size_t len = RPC_REQUEST_MAX_BYTES + 100000;
	char *text = malloc(len);
	int fd = client();

	memset(text, ' ', len);
	put(fd, text, len);
	put(fd, REQUEST("1", "spdk_get_version"), strlen(REQUEST("1", "spdk_get_version")));
	assert_string_equal(get(fd, 1), ANSWER("1", "\"v\""));
	close(fd);
	free(text);
}

static void
test_batch(void **state)
{
	assert_string_equal(ask("[" REQUEST("1", "bdev_get_bdevs") "," REQUEST("\"b\"", "spdk_get_version") "]", 1),
			    "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"\"},"
			    "{\"jsonrpc\":\"2.0\",\"id\":\"b\",\"result\":\"v\"}]\n");
	assert_error("[]", -32600, "batch is empty");
	assert_string_equal(ask("[{\"method\":\"spdk_get_version\"}]" REQUEST("9", "spdk_get_version"), 1),
			    ANSWER("9", "\"v\""));
	assert_string_equal(ask("[1," REQUEST("1", "spdk_get_version") ",{\"method\":\"spdk_get_version\"},[]]", 1),
			    "[{\"jsonrpc\":\"2.0\",\"id\":null,\"error\":{\"code\":-32600,\"message\":\"a request must be "
			    "an object\"}},{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"v\"},{\"jsonrpc\":\"2.0\",\"id\":null,"
			    "\"error\":{\"code\":-32600,\"message\":\"a request must be an object\"}}]\n");
}

static void
test_batch_in_order(void **state)
{
	const char text[] = "[" REQUEST("1", "spdk_get_version") "," REQUEST("2", "bdev_wait_for_examine") ","
			    REQUEST("3", "spdk_get_version") "]";
	int fd = client();

	put(fd, text, strlen(text));
	turn(10);
	/* The third waits for the second. */
	assert_int_equal(f.handled, 2);
	on_thread(answer_first);
	assert_string_equal(get(fd, 1), "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"v\"},"
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
	int fd = client();

	put(fd, text, strlen(text));
	turn(3);
	assert_int_equal(f.waiting_count, 2);
	close(fd);
	turn(5);
	on_thread(answer_first);
	on_thread(answer_first);
	turn(3);
	assert_int_equal(f.handled, 2);
	assert_string_equal(ask(REQUEST("1", "spdk_get_version"), 1), ANSWER("1", "\"v\""));
}

/* What may have a long answer is under way alone; what came behind it has its turn then. */
static void
test_a_batch_is_alone(void **state)
{
	const char text[] = "[" REQUEST("1", "bdev_wait_for_examine") "," REQUEST("2", "spdk_get_version") "]"
			    REQUEST("3", "bdev_wait_for_examine");
	int fd = client();

	put(fd, text, strlen(text));
	turn(5);
	assert_int_equal(f.waiting_count, 1);
	on_thread(answer_first);
	turn(5);
	assert_int_equal(f.waiting_count, 1);
	on_thread(answer_first);
	turn(3);
	close(fd);
	turn(3);
}

static void
test_stop_with_running(void **state)
{
	int fd = client();

	put(fd, REQUEST("1", "bdev_wait_for_examine"), strlen(REQUEST("1", "bdev_wait_for_examine")));
	turn(3);
	on_thread(stop);
	assert_true(closed(fd));
	on_thread(answer_first);
	on_thread(start);
	close(fd);
}

static void
test_stop_in_handler(void **state)
{
	const char text[] = "{\"id\":1,\"method\":\"spdk_kill_instance\",\"params\":{\"sig_name\":\"SIGTERM\"}}"
			    REQUEST("2", "spdk_get_version");
	int fd = client();

	put(fd, text, strlen(text));
	assert_string_equal(get(fd, 1), ANSWER("1", "true"));
	assert_true(closed(fd));
	assert_int_equal(f.handled, 0);
	on_thread(start);
	close(fd);
}

/* A client that does not read: neither its requests nor its answers pile up, and nothing is lost. */
static void
test_back_pressure(void **state)
{
	const char text[] = "{\"id\":1,\"method\":\"bdev_get_bdevs\",\"params\":{\"name\":\"600000\"}}";
	int fd = client();
	size_t total = 0;

	for (int i = 0; i < 40; i++) {
		send(fd, text, strlen(text), MSG_DONTWAIT);
	}
	turn(200);
	assert_true(f.handled < RPC_OUT_HIGH_BYTES / 600000 + 3);
	for (int i = 0; i < 40; i++) {
		get(fd, 1);
		total += f.answer_len;
	}
	assert_int_equal(f.handled, 40);
	assert_int_equal(total, 40 * (600000 + strlen(ANSWER("1", "\"\""))));
	close(fd);
}

/* A client that sends all it has before it reads the first answer, more than sockets hold. */
static void
test_burst(void **state)
{
	const char text[] = "{\"id\":1,\"method\":\"bdev_get_bdevs\",\"params\":{\"name\":\"200\"}}";
	size_t total = 0, answers = BURST * (200 + strlen(ANSWER("1", "\"\"")));
	int fd = client();

	assert_true(answers < RPC_OUT_HIGH_BYTES);
	for (unsigned i = 0; i < BURST; i++) {
		put(fd, text, strlen(text));
	}
	for (unsigned i = 0; i < BURST && total < answers; i++) {
		get(fd, 1);
		total += f.answer_len;
	}
	assert_int_equal(f.handled, BURST);
	assert_int_equal(total, answers);
	close(fd);
}

/* ---- Lists ---- */

static void
test_list(void **state)
{
	f.listed = 3;
	assert_string_equal(ask(REQUEST("1", "vhost_get_controllers"), 1), ANSWER("1", "[\"n0\",\"n1\",\"n2\"]"));
	f.listed = 0;
	assert_string_equal(ask(REQUEST("1", "vhost_get_controllers"), 1), ANSWER("1", "[]"));
	f.listed = 1;
	assert_string_equal(ask("[" REQUEST("1", "vhost_get_controllers") "," REQUEST("2", "spdk_get_version") "]", 1),
			    "[{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":[\"n0\"]},"
			    "{\"jsonrpc\":\"2.0\",\"id\":2,\"result\":\"v\"}]\n");
}

/* A long one is made while others are answered; what goes away meanwhile is not in it. */
static void
test_long_list(void **state)
{
	int slow = client(), quick = client();
	json_t *answer, *names;

	f.listed = LISTED;
	f.item_ns = RPC_SLICE_NS / 20;
	put(slow, REQUEST("1", "vhost_get_controllers"), strlen(REQUEST("1", "vhost_get_controllers")));
	turn(3);
	assert_true(f.items > 0 && f.items < 100);
	f.gone_from = LISTED / 2;
	put(quick, REQUEST("2", "spdk_get_version"), strlen(REQUEST("2", "spdk_get_version")));
	assert_string_equal(get(quick, 1), ANSWER("2", "\"v\""));
	assert_true(f.items < LISTED);
	answer = json_loads(get(slow, 1), 0, NULL);
	names = json_object_get(answer, "result");
	assert_int_equal(f.items, LISTED);
	assert_int_equal(json_array_size(names), LISTED / 2);
	assert_string_equal(json_string_value(json_array_get(names, LISTED / 2 - 1)), "n999");
	json_decref(answer);
	close(slow);
	close(quick);
}

static void
test_stop_with_list(void **state)
{
	int fd = client();

	f.listed = LISTED;
	f.item_ns = RPC_SLICE_NS / 20;
	put(fd, REQUEST("1", "vhost_get_controllers"), strlen(REQUEST("1", "vhost_get_controllers")));
	turn(3);
	on_thread(stop);
	assert_true(f.items > 0 && f.items < LISTED);
	f.items = 0;
	assert_true(closed(fd));
	assert_int_equal(f.items, 0);
	on_thread(start);
	close(fd);
}

/* The requests of a batch take turns with other work, too. */
static void
test_long_batch(void **state)
{
	int slow = client(), quick = client();
	size_t len = 0, item = strlen(REQUEST("1", "spdk_get_version") ",");
	char *text = malloc(4000 * item + 2);

	text[len++] = '[';
	for (int i = 0; i < 4000; i++) {
		memcpy(text + len, REQUEST("1", "spdk_get_version") ",", item);
		len += item;
	}
	text[len - 1] = ']';
	put(slow, text, len);
	for (int i = 0; f.handled == 0 && i < ROUNDS_MAX; i++) {
		turn(1);
	}
	assert_true(f.handled > 0 && f.handled < 4000);
	put(quick, REQUEST("2", "spdk_get_version"), strlen(REQUEST("2", "spdk_get_version")));
	assert_string_equal(get(quick, 1), ANSWER("2", "\"v\""));
	assert_true(f.handled < 4001);
	get(slow, 1);
	assert_int_equal(f.handled, 4001);
	assert_int_equal(f.answer_len, 4000 * strlen(ANSWER("1", "\"v\"")) + 2);
	close(slow);
	close(quick);
	free(text);
}

static void
test_running_limit(void **state)
{
	int fd = client();
	const char text[] = REQUEST("1", "bdev_wait_for_examine");

	for (int i = 0; i < 100; i++) {
		put(fd, text, strlen(text));
	}
	turn(10);
	assert_int_equal(f.waiting_count, RPC_RUNNING_MAX);
	for (int i = 0; i < 100; i++) {
		on_thread(answer_first);
		turn(1);
	}
	get(fd, 100);
	assert_int_equal(f.answer_len, 100 * strlen(ANSWER("1", "true")));
	close(fd);
}

/* More clients than are served: the others wait, and are served when some leave. */
static void
test_many_clients(void **state)
{
	int fds[160];

	for (size_t i = 0; i < ARRAY_SIZE(fds); i++) {
		fds[i] = client();
		put(fds[i], REQUEST("1", "spdk_get_version"), strlen(REQUEST("1", "spdk_get_version")));
	}
	turn(10);
	assert_int_equal(f.handled, 128);
	/* Those that wait do not keep the reactor busy. */
	assert_int_equal(reactor_poll_once(f.reactor), 0);
	for (size_t i = 0; i < 64; i++) {
		assert_string_equal(get(fds[i], 1), ANSWER("1", "\"v\""));
		close(fds[i]);
	}
	for (size_t i = 64; i < ARRAY_SIZE(fds); i++) {
		assert_string_equal(get(fds[i], 1), ANSWER("1", "\"v\""));
		close(fds[i]);
	}
	turn(5);
}

static void
test_states(void **state)
{
	rpc_set_state(RPC_STARTUP);
	assert_error(REQUEST("1", "bdev_get_bdevs"), -1, "framework_start_init");
	assert_string_equal(ask(REQUEST("1", "framework_start_init"), 1), ANSWER("1", "true"));
	assert_error(REQUEST("1", "framework_start_init"), -1, "--wait-for-rpc");
	assert_string_equal(ask("{\"id\":1,\"method\":\"rpc_get_methods\",\"params\":{\"current\":true}}", 1),
			    ANSWER("1", "[\"spdk_get_version\",\"bdev_malloc_create\",\"bdev_wait_for_examine\","
					"\"bdev_get_bdevs\",\"vhost_get_controllers\",\"rpc_get_methods\","
					"\"log_get_level\",\"spdk_kill_instance\"]"));
	assert_non_null(strstr(ask("{\"id\":1,\"method\":\"rpc_get_methods\",\"params\":{\"include_aliases\":true}}", 1),
			       "\"construct_malloc_bdev\""));
}

static void
test_record(void **state)
{
	ask("{\"id\":1,\"method\":\"construct_malloc_bdev\",\"params\":{\"name\":\"a\",\"num_blocks\":1,"
	    "\"block_size\":512}}", 1);
	assert_string_equal(f.recorded, "bdev_malloc_create {\"name\":\"a\",\"num_blocks\":1,\"block_size\":512}");
	ask("{\"id\":1,\"method\":\"bdev_malloc_create\",\"params\":{\"num_blocks\":1,\"block_size\":512}}", 1);
	assert_string_equal(f.recorded, "bdev_malloc_create {\"name\":\"Malloc7\"}");
	f.recorded[0] = '\0';
	assert_error("{\"id\":1,\"method\":\"bdev_malloc_create\",\"params\":{\"num_blocks\":1,\"block_size\":512,"
		     "\"name\":\"taken\"}}", -EEXIST, "taken");
	ask(REQUEST("1", "spdk_get_version"), 1);
	assert_string_equal(f.recorded, "");
	f.record_rc = -ENOSPC;
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
	assert_string_equal(f.recorded, "");
	rpc_call("bdev_malloc_create", params, true, inside_done, NULL);
	assert_string_not_equal(f.recorded, "");
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
	on_thread(call_inside);
	on_thread(answer_first);
	assert_string_equal(inside, "true");
}

static void
list_inside(void)
{
	f.listed = 2;
	rpc_call("vhost_get_controllers", NULL, false, inside_done, NULL);
}

/* What is written as text for a client is JSON for a caller inside. */
static void
test_list_inside(void **state)
{
	on_thread(list_inside);
	assert_string_equal(inside, "[\"n0\",\"n1\"]");
}

static void
out_of_descriptors(void)
{
	struct err err = ERR_NONE;

	rpc_error_from(f.waiting[0], RPC_ERROR_INVALID_PARAMS, (err_set(&err, -ENFILE, "cannot make it"), &err));
	f.waiting_count = 0;
}

static void
test_out_of_descriptors(void **state)
{
	const char text[] = REQUEST("1", "bdev_wait_for_examine");
	int fd = client();

	put(fd, text, strlen(text));
	turn(3);
	on_thread(out_of_descriptors);
	assert_non_null(strstr(get(fd, 1), "cannot make it; no descriptors left"));
	close(fd);
}

static void
start_second(void)
{
	const struct rpc_server_options options = {.path = f.path};
	struct rpc_server *second = NULL;
	struct err err = ERR_NONE;

	assert_int_equal(rpc_server_start(&options, &second, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, f.path));
	assert_null(second);
}

static void
test_socket(void **state)
{
	struct stat st;

	assert_int_equal(stat(f.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	on_thread(start_second);
	turn(5);
	assert_string_equal(ask(REQUEST("1", "spdk_get_version"), 1), ANSWER("1", "\"v\""));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

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

	rpc_register(methods);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
