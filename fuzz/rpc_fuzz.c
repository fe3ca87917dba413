/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bytes of a client, in pieces, through framing, requests and batches, and the decoder of every method of the schema. Checked
 * besides memory: the framing ends a value where the parser does; every answer is one line of JSON; a message
 * that is whole is done when its start returns.
 */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "rpc/exchange.h"
#include "rpc/rpc.h"
#include "rpc/scan.h"
#include "rpc/schema.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);

static bool broken;
static unsigned done_calls;

static void
answer_true(struct rpc_request *req, const void *params)
{
	rpc_true(req);
}

int
LLVMFuzzerInitialize(int *argc, char ***argv)
{
	struct rpc_method *methods = calloc(rpc_schema_count + 1, sizeof(*methods));

	for (size_t i = 0; i < rpc_schema_count; i++) {
		methods[i] = (struct rpc_method){rpc_schema_table[i].name, answer_true};
	}
	rpc_register(methods);
	return 0;
}

static void
exchange_done(struct rpc_exchange *x, char *text, size_t len)
{
	done_calls++;
	broken = x->broken;
	if (text != NULL) {
		/* An id with a zero character is said again. */
		json_t *answer = json_loadb(text, len, JSON_ALLOW_NUL, NULL);

		CHECK(answer != NULL && memchr(text, '\n', len) == text + len - 1);
		json_decref(answer);
		free(text);
	}
}

static void
start_message(const char *text, size_t len)
{
	struct rpc_exchange *x = calloc(1, sizeof(*x));
	unsigned before = done_calls;
	json_error_t where;
	json_t *value = json_loadb(text, len, JSON_DISABLE_EOF_CHECK, &where);

	CHECK(value == NULL || (size_t)where.position == len);
	json_decref(value);
	x->done = exchange_done;
	rpc_exchange_start(x, text, len);
	CHECK(done_calls == before + 1);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 1;
	struct rpc_scan scan = {0};
	size_t piece, len = 0;

	if (size < 2) {
		return 0;
	}
	piece = data[0] == 0 ? size : data[0];
	size--;
	broken = false;
	while (!broken) {
		enum rpc_scan_result result = rpc_scan(&scan, text, len);

		if (result == RPC_SCAN_VALUE) {
			start_message(text + scan.start, scan.offset - scan.start);
			text += scan.offset;
			len -= scan.offset;
			size -= scan.offset;
			scan = (struct rpc_scan){0};
		} else if (result != RPC_SCAN_MORE || len == size) {
			break;
		} else {
			len += MIN(piece, size - len);
		}
	}
	return 0;
}
