/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the tests of the server share: a server on a real socket whose methods, some of the schema's, are answered by the
 * test, and clients. Everything runs in one system thread; the reactor is turned by hand.
 */
#ifndef RPC_HARNESS_H
#define RPC_HARNESS_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "event/reactor.h"
#include "rpc/rpc.h"

#define HARNESS_ANSWER_BYTES (16u << 20)
#define HARNESS_ROUNDS_MAX 2000
#define HARNESS_WAITING_MAX 256

struct harness {
	char dir[64];
	char path[96];
	struct reactor *reactor;
	struct thread *thread;
	struct rpc_server *server;
	struct rpc_server_options options; /* of the next server; path NULL: a socket in dir */
	struct rpc_request *waiting[HARNESS_WAITING_MAX];
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
};

extern struct harness harness;

#define REQUEST(id, method) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"method\":\"" method "\"}"
#define ANSWER(id, result) "{\"jsonrpc\":\"2.0\",\"id\":" id ",\"result\":" result "}\n"

/* For cmocka: a server that listens, and its end. harness_register() once before the first. */
int harness_setup(void **state);
int harness_teardown(void **state);
void harness_register(void);

/* Calls todo on the server's thread, and waits for it. These are for it: */
void harness_on_thread(void (*todo)(void));
void harness_start(void);
void harness_stop(void);
/* Answers the bdev_wait_for_examine that has waited longest. */
void harness_answer_first(void);

void harness_turn(unsigned rounds);

/* A connection. */
int harness_client(void);
void harness_put(int fd, const char *data, size_t len);
/* Reads until there are `lines` line feeds, or the end. Returns harness.answer, "" when the end came first and nothing
 * before. */
const char *harness_get(int fd, unsigned lines);
/* True when the server closed and nothing is left to read. */
bool harness_closed(int fd);
/* The answer to a request, on a connection of its own. */
const char *harness_ask(const char *request, unsigned lines);

#endif
