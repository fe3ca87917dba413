/* SPDX-License-Identifier: BSD-3-Clause */
/* Calls of the berth command, one at a time, over one connection. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "app/ctl.h"
#include "base/check.h"
#include "base/clock.h"
#include "rpc/scan.h"
#include "sock/unix.h"

#define ANSWER_MAX_BYTES (256u << 20)
#define RETRY_NS 20000000L

/* ---- Connecting ---- */

static int
connect_once(struct ctl *ctl, struct err *err)
{
	int fd = unix_connect(ctl->socket, err);

	if (fd >= 0) {
		ctl->fd = fd;
		return 0;
	}
	return fd;
}

static int
connect_target(struct ctl *ctl, uint64_t deadline_ns)
{
	const struct timespec pause = {.tv_nsec = RETRY_NS};
	struct err err = ERR_NONE;
	int rc;

	if (ctl->fd >= 0) {
		return CTL_OK;
	}
	/* EAGAIN: the target is there, its queue of connections is full. */
	while ((rc = connect_once(ctl, &err)) == -EAGAIN && clock_now_ns() < deadline_ns) {
		nanosleep(&pause, NULL);
	}
	if (rc == 0) {
		return CTL_OK;
	}
	fprintf(stderr, "berth: %s%s\n", err_text(&err),
		rc == -ENOENT || rc == -ECONNREFUSED ? " (is berthd running? -s names another socket)" : "");
	return CTL_UNREACHABLE;
}

void
ctl_disconnect(struct ctl *ctl)
{
	if (ctl->fd >= 0) {
		close(ctl->fd);
		ctl->fd = -1;
	}
	free(ctl->in);
	ctl->in = NULL;
	ctl->in_len = ctl->in_capacity = 0;
}

/* ---- Bytes ---- */

static int
broken(const struct ctl *ctl, const char *what)
{
	fprintf(stderr, "berth: %s: %s\n", ctl->socket, what);
	return CTL_BROKEN;
}

static int
wait_for(const struct ctl *ctl, short events, uint64_t deadline_ns)
{
	struct pollfd p = {.fd = ctl->fd, .events = events};

	for (;;) {
		uint64_t now = clock_now_ns();
		int ms = now >= deadline_ns ? 0 : (int)((deadline_ns - now) / NS_PER_MS + 1);
		int rc = poll(&p, 1, ctl->waiting != NULL ? MIN(ms, CTL_WAITING_MS) : ms);

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
send_all(const struct ctl *ctl, const char *data, size_t len, uint64_t deadline_ns)
{
	while (len > 0) {
		ssize_t n = send(ctl->fd, data, len, MSG_NOSIGNAL);

		if (n >= 0) {
			data += n;
			len -= (size_t)n;
		} else if (errno == EAGAIN) {
			int rc = wait_for(ctl, POLLOUT, deadline_ns);

			if (rc != CTL_OK) {
				return rc;
			}
		} else if (errno != EINTR) {
			return broken(ctl, strerror(errno));
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
		n = recv(ctl->fd, ctl->in + ctl->in_len, ctl->in_capacity - ctl->in_len, 0);
		if (n > 0) {
			ctl->in_len += (size_t)n;
			return CTL_OK;
		}
		if (n == 0) {
			return broken(ctl, "the target closed the connection before it answered");
		}
		if (errno == EAGAIN) {
			int rc = wait_for(ctl, POLLIN, deadline_ns);

			if (rc != CTL_OK) {
				return rc;
			}
		} else if (errno != EINTR) {
			return broken(ctl, strerror(errno));
		}
	}
}

static int
receive_answer(struct ctl *ctl, uint64_t deadline_ns, json_t **ret_answer)
{
	struct rpc_scan scan = {0};
	enum rpc_scan_result result;
	int rc = CTL_OK;

	ctl->in_len = 0;
	do {
		rc = receive_some(ctl, deadline_ns);
		result = rc == CTL_OK ? rpc_scan(&scan, ctl->in, ctl->in_len) : RPC_SCAN_BAD;
	} while (result == RPC_SCAN_MORE);
	if (rc != CTL_OK) {
		return rc;
	}
	*ret_answer = result == RPC_SCAN_VALUE ?
			      json_loadb(ctl->in + scan.start, scan.offset - scan.start, 0, NULL) : NULL;
	return *ret_answer != NULL ? CTL_OK : broken(ctl, "the answer is no JSON");
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
