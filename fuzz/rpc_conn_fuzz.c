/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A whole connection: bytes of a client in pieces, over a socket, while events are pushed to it; with and without a token to be
 * shown first. The first byte says how. Checked besides memory: nobody without the token is served; what comes back is
 * lines of JSON; the connection ends when its client does; what waits to be sent is bounded.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "event/reactor.h"
#include "event/thread.h"
#include "rpc/auth.h"
#include "rpc/conn.h"
#include "rpc/rpc.h"
#include "rpc/scan.h"
#include "rpc/schema.h"

#define TOKEN "0123456789abcdef"
#define OUT_BYTES (64u << 20)
#define STALLS_MAX 100 /* a server that lets those without the token wait reads nothing for a second */

#define WITH_TOKEN 0x1
#define UNWELCOME 0x2
#define PUSHES 0x4
#define READS_LATE 0x8

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static struct reactor *reactor;
static struct thread *thread;
static struct list conns;
static struct rpc_token *token;
static struct conn_options options;
static bool closed;
static unsigned handled;
static char *out;
static size_t out_len;

static void
answer_true(struct rpc_request *req, const void *params)
{
	handled++;
	rpc_true(req);
}

static void
subscribe(struct rpc_request *req, const void *params)
{
	handled++;
	(void)rpc_subscribe(1);
	rpc_true(req);
}

static void
conn_closed(void *ctx)
{
	closed = true;
}

static void
make_token(void)
{
	char path[] = "/tmp/berth-fuzz-XXXXXX";
	int fd = mkstemp(path);

	CHECK(fd >= 0 && write(fd, TOKEN, strlen(TOKEN)) == (ssize_t)strlen(TOKEN));
	close(fd);
	CHECK(rpc_token_read(path, &token, NULL) == 0);
	unlink(path);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct rpc_method *methods = calloc(rpc_schema_count + 1, sizeof(*methods));

	for (size_t i = 0; i < rpc_schema_count; i++) {
		bool subscribes = strcmp(rpc_schema_table[i].name, "berth_subscribe") == 0;

		methods[i] = (struct rpc_method){rpc_schema_table[i].name, subscribes ? subscribe : answer_true};
	}
	rpc_register(methods);
	make_token();
	out = malloc(OUT_BYTES);
	reactor = reactor_create(0, -1, REACTOR_INTERRUPT, NULL);
	thread = thread_create("fuzz", reactor);
	CHECK(out != NULL && thread != NULL);
	list_init(&conns);
	options.closed = conn_closed;
	return 0;
}

/* ---- On the thread ---- */

struct call {
	struct msg msg;
	int fd;
	const char *refusal;
	bool done;
};

static void
open_conn(struct msg *msg)
{
	struct call *call = CONTAINER_OF(msg, struct call, msg);

	CHECK(conn_open(call->fd, &options, &conns, CONN_OWNER, call->refusal) == 0);
	call->done = true;
}

static void
push_event(struct msg *msg)
{
	rpc_push(1, json_pack("{s:s}", "type", "test"));
	CONTAINER_OF(msg, struct call, msg)->done = true;
}

static void
close_all(struct msg *msg)
{
	conn_close_all(&conns);
	CONTAINER_OF(msg, struct call, msg)->done = true;
}

static void
call(struct call *call, void (*fn)(struct msg *msg))
{
	call->done = false;
	thread_send(thread, &call->msg, fn);
	while (!call->done) {
		reactor_poll_once(reactor);
	}
}

/* ---- The client ---- */

static void
read_out(int fd)
{
	ssize_t n;

	do {
		reactor_poll_once(reactor);
		n = recv(fd, out + out_len, OUT_BYTES - out_len, MSG_DONTWAIT);
		out_len += n > 0 ? (size_t)n : 0;
		CHECK(out_len < OUT_BYTES);
	} while (n > 0);
}

static void
check_out(void)
{
	const char *line = out, *end = out + out_len, *newline;

	while (line < end && (newline = memchr(line, '\n', (size_t)(end - line))) != NULL) {
		json_t *answer = json_loadb(line, (size_t)(newline - line), JSON_ALLOW_NUL, NULL);

		CHECK(json_is_object(answer) || json_is_array(answer));
		json_decref(answer);
		line = newline + 1;
	}
}

static void
say(int fd, const char *text, size_t size, size_t piece, uint8_t how)
{
	struct call pushing;
	unsigned stalls = 0;

	while (size > 0 && stalls < STALLS_MAX) {
		size_t len = MIN(piece, size);
		ssize_t n = send(fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN) {
			return;
		}
		stalls += n < 0;
		text += MAX(n, 0);
		size -= (size_t)MAX(n, 0);
		if ((how & PUSHES) != 0) {
			call(&pushing, push_event);
		}
		if ((how & READS_LATE) == 0 || n < 0) {
			read_out(fd);
		}
	}
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct call opening, ending;
	bool may_in;
	int fds[2];

	if (size < 3) {
		return 0;
	}
	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds) == 0);
	options.token = (data[0] & WITH_TOKEN) != 0 ? token : NULL;
	opening.fd = fds[0];
	opening.refusal = (data[0] & UNWELCOME) != 0 ? "no" : NULL;
	may_in = (data[0] & UNWELCOME) == 0 &&
		 ((data[0] & WITH_TOKEN) == 0 || memmem(data + 2, size - 2, TOKEN, strlen(TOKEN)) != NULL ||
		  memchr(data + 2, '\\', size - 2) != NULL); /* it may be spelt in another way */
	closed = false;
	handled = 0;
	out_len = 0;
	call(&opening, open_conn);
	say(fds[1], (const char *)data + 2, size - 2, data[1] == 0 ? size : data[1], data[0]);
	shutdown(fds[1], SHUT_WR);
	for (int i = 0; i < 50 && !closed; i++) {
		read_out(fds[1]);
	}
	CHECK(handled == 0 || may_in);
	check_out();
	close(fds[1]);
	call(&ending, close_all);
	reactor_poll_once(reactor);
	CHECK(list_empty(&conns));
	return 0;
}
