/* SPDX-License-Identifier: BSD-3-Clause */
/* Calls of the berth command, one at a time, over one connection. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "app/ctl.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/secret.h"
#include "rpc/scan.h"
#include "sock/tcp.h"
#include "sock/unix.h"

#define ANSWER_MAX_BYTES (256u << 20)
#define NO_DEADLINE UINT64_MAX
#define RETRY_NS 20000000L
#define NOBODY_THERE " (is berthd running? -s names another socket)"

/* ---- Bytes ---- */

static int
broken(const struct ctl *ctl, const char *what)
{
	if (!ctl->quiet) {
		fprintf(stderr, "berth: %s: %s\n", ctl->socket, what);
	}
	return CTL_BROKEN;
}

/* For poll(2). */
static int
ms_until(uint64_t deadline_ns)
{
	uint64_t now = clock_now_ns();

	if (deadline_ns == NO_DEADLINE) {
		return -1;
	}
	return now >= deadline_ns ? 0 : (int)((deadline_ns - now) / NS_PER_MS + 1);
}

static int
wait_for(const struct ctl *ctl, short events, uint64_t deadline_ns)
{
	struct pollfd p = {.fd = ctl->stream.fd, .events = events};

	for (;;) {
		int ms = ms_until(deadline_ns);
		int rc = poll(&p, 1, ctl->waiting != NULL && (ms < 0 || ms > CTL_WAITING_MS) ? CTL_WAITING_MS : ms);

		if (rc > 0) {
			return CTL_OK;
		}
		if (ctl->waiting != NULL && !ctl->waiting(ctl->waiting_ctx)) {
			return CTL_BROKEN;
		}
		if (rc == 0 && ms == 0) {
			return broken(ctl, "no answer in time (--timeout allows longer)");
		}
		if (rc < 0 && errno != EINTR) {
			return broken(ctl, strerror(errno));
		}
	}
}

static int
send_all(struct ctl *ctl, const char *data, size_t len, uint64_t deadline_ns)
{
	while (len > 0 || stream_unsent(&ctl->stream)) {
		struct iovec iov = {.iov_base = (char *)data, .iov_len = len};
		ssize_t n = stream_sendv(&ctl->stream, &iov, len > 0);
		int rc;

		if (n >= 0) {
			data += n;
			len -= (size_t)n;
			continue;
		}
		rc = n == -EAGAIN ? wait_for(ctl, POLLOUT, deadline_ns) : broken(ctl, strerror((int)-n));
		if (rc != CTL_OK) {
			return rc;
		}
	}
	return CTL_OK;
}

static int
receive_some(struct ctl *ctl, uint64_t deadline_ns)
{
	for (;;) {
		ssize_t n;

		if (ctl->in_capacity - ctl->in_len < 65536) {
			char *grown = ctl->in_capacity < ANSWER_MAX_BYTES ?
					      realloc(ctl->in, 2 * ctl->in_capacity + 65536) : NULL;

			if (grown == NULL) {
				return broken(ctl, "the answer is too long");
			}
			ctl->in = grown;
			ctl->in_capacity = 2 * ctl->in_capacity + 65536;
		}
		n = stream_recv(&ctl->stream, ctl->in + ctl->in_len, ctl->in_capacity - ctl->in_len);
		if (n > 0) {
			ctl->in_len += (size_t)n;
			return CTL_OK;
		}
		if (n == 0) {
			return broken(ctl, "the target closed the connection before it answered");
		}
		if (n == -EAGAIN) {
			int rc = wait_for(ctl, POLLIN, deadline_ns);

			if (rc != CTL_OK) {
				return rc;
			}
		} else {
			return broken(ctl, strerror((int)-n));
		}
	}
}

/* One value; what came behind it is kept for the next. */
static int
receive_answer(struct ctl *ctl, uint64_t deadline_ns, json_t **ret_answer)
{
	struct rpc_scan scan = {0};
	enum rpc_scan_result result = rpc_scan(&scan, ctl->in, ctl->in_len);

	while (result == RPC_SCAN_MORE) {
		int rc = receive_some(ctl, deadline_ns);

		if (rc != CTL_OK) {
			return rc;
		}
		result = rpc_scan(&scan, ctl->in, ctl->in_len);
	}
	if (result != RPC_SCAN_VALUE) {
		return broken(ctl, "the answer is no JSON");
	}
	*ret_answer = json_loadb(ctl->in + scan.start, scan.offset - scan.start, 0, NULL);
	ctl->in_len -= scan.offset;
	memmove(ctl->in, ctl->in + scan.offset, ctl->in_len);
	return *ret_answer != NULL ? CTL_OK : broken(ctl, "the answer is no JSON");
}

int
ctl_receive(struct ctl *ctl, json_t **ret_message)
{
	return receive_answer(ctl, NO_DEADLINE, ret_message);
}

/* ---- Connecting ---- */

/* Nothing is connected: why, for a person. */
static int
unreachable(const struct err *err, const char *hint)
{
	fprintf(stderr, "berth: %s%s\n", err_text(err), hint);
	return CTL_UNREACHABLE;
}

static int
connect_unix(struct ctl *ctl, uint64_t deadline_ns)
{
	const struct timespec pause = {.tv_nsec = RETRY_NS};
	struct err err = ERR_NONE;
	int fd;

	/* EAGAIN: the target is there, its queue of connections is full. */
	while ((fd = unix_connect(ctl->socket, &err)) == -EAGAIN && clock_now_ns() < deadline_ns) {
		nanosleep(&pause, NULL);
	}
	if (fd < 0) {
		return unreachable(&err, fd == -ENOENT || fd == -ECONNREFUSED ? NOBODY_THERE : "");
	}
	stream_init(&ctl->stream, fd);
	return CTL_OK;
}

static int
connect_tcp(struct ctl *ctl, uint64_t deadline_ns)
{
	struct err err = ERR_NONE;
	int fd = tcp_connect(ctl->socket, &err), result, rc = CTL_OK;

	if (fd < 0) {
		return unreachable(&err, "");
	}
	stream_init(&ctl->stream, fd);
	/* The kernel tells of a failure once. */
	result = tcp_connect_result(fd);
	if (result == -EINPROGRESS) {
		rc = wait_for(ctl, POLLOUT, deadline_ns);
		result = rc == CTL_OK ? tcp_connect_result(fd) : 0;
	}
	if (result != 0) {
		err_set(&err, result, "cannot connect to %s: %s", ctl->socket, strerror(-result));
		rc = unreachable(&err, result == -ECONNREFUSED ? NOBODY_THERE : "");
	}
	return rc;
}

static int
start_tls(struct ctl *ctl, uint64_t deadline_ns)
{
	const struct tls_options options = {.cert_dir = ctl->tls_dir, .verify_peer = true};
	struct err err = ERR_NONE;
	struct tls_credentials *credentials = tls_credentials_create(&options, &err);
	size_t length = strcspn(ctl->socket, ":");
	char host[256];
	int rc = credentials != NULL ? 0 : err.code;

	/* "[::1]:5260" has more colons, and a number that a certificate has as an address. */
	if (ctl->socket[0] == '[') {
		length = strcspn(ctl->socket, "]") - 1;
	}
	snprintf(host, sizeof(host), "%.*s", (int)length, ctl->socket + (ctl->socket[0] == '['));
	if (rc == 0) {
		rc = stream_start_tls(&ctl->stream, credentials, host, &err);
	}
	tls_credentials_put(credentials);
	while (rc == 0 && (rc = stream_handshake(&ctl->stream, &err)) == -EAGAIN) {
		rc = wait_for(ctl, tls_wants_write(ctl->stream.tls) ? POLLOUT : POLLIN, deadline_ns);
		if (rc != CTL_OK) {
			return rc;
		}
	}
	return rc == 0 ? CTL_OK : unreachable(&err, "");
}

static int
show_token(struct ctl *ctl, uint64_t deadline_ns)
{
	char *buf = secret_alloc(SECRET_TEXT_MAX + 1);
	struct err err = ERR_NONE;
	int length = buf != NULL ? secret_read_file(ctl->token_file, buf, &err) : err_set(&err, -ENOMEM, "out of memory");
	json_t *request = NULL, *answer = NULL;
	char *text = NULL;
	int rc = CTL_BROKEN;

	if (length < 0) {
		secret_free(buf);
		return unreachable(&err, "");
	}
	buf[length] = '\0';
	request = json_pack("{s:s, s:i, s:s, s:{s:s%}}", "jsonrpc", "2.0", "id", 0, "method", "berth_authenticate", "params",
			    "token", buf + strspn(buf, " \t"), strcspn(buf + strspn(buf, " \t"), " \t\r\n"));
	text = json_dumps(request, JSON_COMPACT);
	secret_free(buf);
	if (text != NULL) {
		rc = send_all(ctl, text, strlen(text), deadline_ns);
		explicit_bzero(text, strlen(text));
	}
	if (rc == CTL_OK) {
		rc = receive_answer(ctl, deadline_ns, &answer);
	}
	if (rc == CTL_OK && json_object_get(answer, "error") != NULL) {
		rc = ctl_refused(ctl, ctl->socket, json_object_get(answer, "error"));
	}
	free(text);
	json_decref(request);
	json_decref(answer);
	return rc;
}

static int
connect_target(struct ctl *ctl, uint64_t deadline_ns)
{
	int rc;

	if (ctl->stream.fd >= 0) {
		return CTL_OK;
	}
	if (!rpc_is_address(ctl->socket)) {
		return connect_unix(ctl, deadline_ns);
	}
	rc = connect_tcp(ctl, deadline_ns);
	if (rc == CTL_OK && ctl->tls_dir != NULL) {
		rc = start_tls(ctl, deadline_ns);
	}
	if (rc == CTL_OK && ctl->token_file != NULL) {
		rc = show_token(ctl, deadline_ns);
	}
	if (rc != CTL_OK) {
		ctl_disconnect(ctl);
	}
	return rc;
}

void
ctl_disconnect(struct ctl *ctl)
{
	if (ctl->stream.fd >= 0) {
		stream_close(&ctl->stream);
	}
	free(ctl->in);
	ctl->in = NULL;
	ctl->in_len = ctl->in_capacity = 0;
}

/* ---- Calls ---- */

int
ctl_refused(const struct ctl *ctl, const char *context, const json_t *error)
{
	const char *message = json_string_value(json_object_get(error, "message"));
	bool says_context = message != NULL && strncmp(message, context, strlen(context)) == 0;

	fprintf(stderr, "berth: %s%s%s (code %" JSON_INTEGER_FORMAT ")\n", says_context ? "" : context,
		says_context ? "" : ": ", message != NULL ? message : "refused",
		json_integer_value(json_object_get(error, "code")));
	if (ctl->json) {
		json_t *wrapped = json_pack("{s:O}", "error", error);

		ctl_print_json(wrapped);
		json_decref(wrapped);
	}
	return CTL_REFUSED;
}

static char *
make_request(struct ctl *ctl, const char *method, json_t *params)
{
	json_t *request = json_pack("{s:s,s:I,s:s}", "jsonrpc", "2.0", "id", ++ctl->last_id, "method", method);
	char *text;

	/* SPDK refuses even empty parameters where a method takes none. */
	if (params != NULL && json_object_size(params) > 0) {
		json_object_set(request, "params", params);
	}
	json_decref(params);
	text = json_dumps(request, JSON_COMPACT);
	json_decref(request);
	return text;
}

static int
take_answer(struct ctl *ctl, const char *context, json_t *answer, json_t **ret_result, json_t **ret_error)
{
	json_t *error = json_object_get(answer, "error");
	json_t *result = json_object_get(answer, "result");

	if (error != NULL && ret_error != NULL) {
		*ret_error = json_incref(error);
		return CTL_REFUSED;
	}
	if (error != NULL) {
		return ctl_refused(ctl, context, error);
	}
	if (result == NULL) {
		return broken(ctl, "the answer has neither result nor error");
	}
	*ret_result = json_incref(result);
	return CTL_OK;
}

int
ctl_call(struct ctl *ctl, const char *context, const char *method, json_t *params, json_t **ret_result,
	 json_t **ret_error)
{
	uint64_t deadline_ns = clock_now_ns() + ctl->timeout_s * NS_PER_S;
	char *text = make_request(ctl, method, params);
	json_t *answer = NULL;
	int rc;

	if (text == NULL) {
		fprintf(stderr, "berth: %s: this cannot be written as JSON\n", context);
		return CTL_USAGE;
	}
	rc = connect_target(ctl, deadline_ns);
	if (rc == CTL_OK) {
		rc = send_all(ctl, text, strlen(text), deadline_ns);
	}
	if (rc == CTL_OK) {
		rc = receive_answer(ctl, deadline_ns, &answer);
	}
	if (rc == CTL_OK) {
		rc = take_answer(ctl, context, answer, ret_result, ret_error);
	}
	json_decref(answer);
	free(text);
	return rc;
}
