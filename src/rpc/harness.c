/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/harness.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/clock.h"
#include "rpc/schema_gen.h"
#include "sock/unix.h"

struct harness harness;

/* ---- Methods ---- */

static void
get_version(struct rpc_request *req, const void *params)
{
	harness.handled++;
	rpc_result(req, json_string("v"));
}

static void
malloc_create(struct rpc_request *req, const void *params)
{
	const struct bdev_malloc_create_params *p = params;

	harness.handled++;
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
	harness.handled++;
	assert_true(harness.waiting_count < HARNESS_WAITING_MAX);
	harness.waiting[harness.waiting_count++] = req;
}

static json_t *
listed_item(const void *ctx, const char *name)
{
	unsigned number = (unsigned)atoi(name + 1);
	uint64_t end_ns = clock_now_ns() + harness.item_ns;

	harness.items++;
	while (clock_now_ns() < end_ns) {
	}
	return harness.gone_from != 0 && number >= harness.gone_from ? NULL : json_string(name);
}

static void
get_controllers(struct rpc_request *req, const void *params)
{
	struct rpc_list *list = rpc_list_begin(req, listed_item, params);

	for (unsigned i = 0; i < harness.listed; i++) {
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

	harness.handled++;
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
	rpc_server_stop(harness.server);
	harness.server = NULL;
}

/* Types 1 and 2. */
static void
subscribe(struct rpc_request *req, const void *params)
{
	assert_int_equal(rpc_subscribe(3), 0);
	rpc_true(req);
}

static void
unsubscribe(struct rpc_request *req, const void *params)
{
	assert_int_equal(rpc_subscribe(0), 0);
	rpc_true(req);
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
	{"berth_subscribe", subscribe},
	{"berth_unsubscribe", unsubscribe},
	{NULL, NULL},
};

void
harness_register(void)
{
	rpc_register(methods);
}

/* ---- Turning the reactor ---- */

struct call {
	struct msg msg;
	bool done;
};

static void
call_todo(struct msg *msg)
{
	harness.todo();
	CONTAINER_OF(msg, struct call, msg)->done = true;
}

void
harness_on_thread(void (*todo)(void))
{
	struct call call = {.done = false};

	harness.todo = todo;
	thread_send(harness.thread, &call.msg, call_todo);
	for (int i = 0; i < 10 && !call.done; i++) {
		reactor_poll_once(harness.reactor);
	}
	assert_true(call.done);
}

static int
record(void *ctx, const char *method, const json_t *params, struct err *err)
{
	char *text = json_dumps(params, JSON_COMPACT);

	snprintf(harness.recorded, sizeof(harness.recorded), "%s %s", method, text);
	free(text);
	return harness.record_rc != 0 ? err_set(err, harness.record_rc, "state.log: disk is full") : 0;
}

void
harness_start(void)
{
	struct rpc_server_options options = harness.options;
	struct err err = ERR_NONE;

	options.path = options.path != NULL ? options.path : harness.path;
	options.record = record;
	if (rpc_server_start(&options, &harness.server, &err) != 0) {
		fail_msg("%s", err_text(&err));
	}
}

void
harness_stop(void)
{
	rpc_server_stop(harness.server);
	harness.server = NULL;
}

void
harness_answer_first(void)
{
	assert_true(harness.waiting_count > 0);
	rpc_true(harness.waiting[0]);
	harness.waiting_count--;
	memmove(harness.waiting, harness.waiting + 1, harness.waiting_count * sizeof(harness.waiting[0]));
}

int
harness_setup(void **state)
{
	struct err err = ERR_NONE;

	harness.answer = malloc(HARNESS_ANSWER_BYTES);
	strcpy(harness.dir, "/tmp/berth-rpc-XXXXXX");
	assert_non_null(mkdtemp(harness.dir));
	snprintf(harness.path, sizeof(harness.path), "%s/rpc.sock", harness.dir);
	harness.reactor = reactor_create(0, -1, REACTOR_INTERRUPT, &err);
	harness.thread = thread_create("app", harness.reactor);
	harness.handled = harness.listed = harness.items = harness.gone_from = 0;
	harness.item_ns = 0;
	harness.record_rc = 0;
	harness.recorded[0] = '\0';
	rpc_set_state(RPC_RUNTIME);
	harness_on_thread(harness_start);
	return 0;
}

int
harness_teardown(void **state)
{
	while (harness.waiting_count > 0) {
		harness_on_thread(harness_answer_first);
	}
	harness_on_thread(harness_stop);
	assert_int_not_equal(access(harness.path, F_OK), 0);
	harness_on_thread(thread_exit);
	for (int i = 0; i < 3; i++) {
		reactor_poll_once(harness.reactor);
	}
	reactor_free(harness.reactor);
	assert_int_equal(rmdir(harness.dir), 0);
	free(harness.answer);
	return 0;
}

/* ---- Clients ---- */

int
harness_client(void)
{
	struct err err = ERR_NONE;
	int fd = unix_connect(harness.path, &err);

	assert_true(fd >= 0);
	return fd;
}

void
harness_turn(unsigned rounds)
{
	for (unsigned i = 0; i < rounds; i++) {
		reactor_poll_once(harness.reactor);
	}
}

void
harness_put(int fd, const char *data, size_t len)
{
	for (unsigned round = 0; len > 0; round++) {
		ssize_t n = send(fd, data, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		assert_true(round < HARNESS_ROUNDS_MAX);
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		} else if (n < 0 && errno != EAGAIN) {
			return; /* the server may have closed already */
		}
		harness_turn(1);
	}
}

const char *
harness_get(int fd, unsigned lines)
{
	harness.answer_len = 0;
	for (unsigned round = 0; round < HARNESS_ROUNDS_MAX && lines > 0; round++) {
		size_t room = HARNESS_ANSWER_BYTES - 1 - harness.answer_len;
		ssize_t n = recv(fd, harness.answer + harness.answer_len, room, MSG_DONTWAIT);

		if (n == 0) {
			break;
		}
		for (ssize_t i = 0; i < n; i++) {
			lines -= harness.answer[harness.answer_len + (size_t)i] == '\n' && lines > 0;
		}
		harness.answer_len += n > 0 ? (size_t)n : 0;
		if (n < 0) {
			harness_turn(1);
		}
	}
	harness.answer[harness.answer_len] = '\0';
	return harness.answer;
}

bool
harness_closed(int fd)
{
	char c;

	harness_turn(5);
	return recv(fd, &c, 1, MSG_DONTWAIT) == 0;
}

const char *
harness_ask(const char *request, unsigned lines)
{
	int fd = harness_client();

	harness_put(fd, request, strlen(request));
	harness_get(fd, lines);
	close(fd);
	harness_turn(3);
	return harness.answer;
}
