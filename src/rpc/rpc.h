/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * JSON-RPC 2.0 over a unix stream socket, as SPDK speaks it: no framing but JSON itself, requests and batches
 * (arrays), answers in the order the methods finish. Runs on the app thread.
 *
 * A method is a row of the schema (src/rpc/schema.json); its handler gets parameters that are already decoded and checked.
 */
#ifndef RPC_RPC_H
#define RPC_RPC_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "rpc/auth.h"

struct rpc_request;
struct rpc_server;

/* An array of strings among the parameters. */
struct rpc_strings {
	size_t count;
	const char **items;
};

/* JSON-RPC 2.0 error codes, and SPDK's for a method called in the wrong state; others are negative errnos. */
#define RPC_ERROR_STATE (-1)
#define RPC_ERROR_PARSE (-32700)
#define RPC_ERROR_INVALID_REQUEST (-32600)
#define RPC_ERROR_METHOD_NOT_FOUND (-32601)
#define RPC_ERROR_INVALID_PARAMS (-32602)
#define RPC_ERROR_INTERNAL (-32603)

/* The app thread shares its reactor with I/O: what a burst of calls asks for is done so long at a time. */
#define RPC_SLICE_NS UINT64_C(200000)

enum rpc_state {
	RPC_STARTUP = 1, /* before the framework is initialised (--wait-for-rpc) */
	RPC_RUNTIME = 2,
};

/*
 * Binds a method of the schema to its handler. params: the structure the schema's row decodes into (generated), valid until
 * the request is answered. The handler answers exactly once, now or later, with one of the functions below.
 */
struct rpc_method {
	const char *name;
	void (*handler)(struct rpc_request *req, const void *params);
};

/* App thread. table ends with a NULL name; every name must be in the schema: asserted. */
void rpc_register(const struct rpc_method *table);

/* ---- Answers (app thread; each ends the request) ---- */

void rpc_result(struct rpc_request *req, json_t *result); /* takes result */
void rpc_true(struct rpc_request *req);
/* code: one of RPC_ERROR_... or a negative errno. */
void rpc_error(struct rpc_request *req, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* code 0: err->code is the code. When descriptors have run out, the text also says how many there are. */
void rpc_error_from(struct rpc_request *req, int code, const struct err *err);

/*
 * An answer that lists named things, of which there may be ten thousand: an array of item(ctx, name), made RPC_SLICE_NS
 * at a time, between which the thread does other things. NULL: it is gone meanwhile, and left out. begin and all adds
 * in one go, then end, which answers, now or later; ctx is borrowed until then. Methods that change nothing only. Memory
 * that is out is an error answer.
 */
struct rpc_list;

struct rpc_list *rpc_list_begin(struct rpc_request *req, json_t *(*item)(const void *ctx, const char *name),
				const void *ctx);
void rpc_list_add(struct rpc_list *list, const char *name);
void rpc_list_end(struct rpc_list *list);

/* ---- Within a handler ---- */

/* Those that came, an object or NULL; borrowed until the answer. */
const json_t *rpc_request_params(const struct rpc_request *req);

/*
 * The parameters to write to the state log in place of the ones that came: with the names and UUIDs filled in that
 * the method chose, so that replaying gives the same object. Takes params. Methods whose schema row says "mutates" only.
 */
void rpc_set_recorded_params(struct rpc_request *req, json_t *params);

/*
 * The whole call to write there in its place: a create, with parameters that make the object as it is by now, stands for all
 * that was done to it before. method is one of the schema (borrowed for ever); NULL: nothing is to be remembered, because
 * what was changed is kept elsewhere (in a superblock). Takes params.
 */
void rpc_set_recorded_call(struct rpc_request *req, const char *method, json_t *params);

/* It was accepted before, and is done again from the state directory: what only a person should be told is no reason now. */
bool rpc_is_replayed(const struct rpc_request *req);

/* ---- Events (JSON-RPC notifications to clients that have subscribed) ---- */

#define RPC_EVENT_METHOD "berth_event"

/*
 * Within a handler, before it returns: from now on the client whose request it is gets the events of these types, a bit each; 0:
 * none. Replaces what it got before. -ENOTSUP: the request is not a client's.
 */
int rpc_subscribe(uint64_t types);
/* The types that anybody wants: others need not be made. */
uint64_t rpc_subscribed(void);
/* Takes params. A client that does not read is told later how many it has missed: {"type":"lost","count":N}. */
void rpc_push(uint64_t type, json_t *params);

/* ---- Server ---- */

/*
 * Called after a mutating method succeeded and before it is answered: appends to the state log. A negative errno
 * turns the answer into an error. method is the name of the schema, not an alias; borrows params.
 */
typedef int (*rpc_record_fn)(void *ctx, const char *method, const json_t *params, struct err *err);

/* From now on; NULL: nothing is recorded. Also for rpc_call() before a server runs. */
void rpc_set_record(rpc_record_fn record, void *ctx);

struct rpc_server_options {
	const char *path; /* of a unix socket, or HOST:PORT */

	/* Of a unix socket: its owner and root may call; the members of the group; peers. */
	bool has_group;
	gid_t group;
	struct rpc_peers peers;
	mode_t mode; /* of the file; 0: what these need */

	/* Of TCP, one of the two at least. Without a token clients show a certificate. */
	const char *token_file;
	const char *tls_dir; /* ca-cert.pem, server-cert.pem, server-key.pem */

	rpc_record_fn record; /* not NULL: as rpc_set_record(record, ctx) */
	void *ctx;
};

/* Of TCP: whether such a server could start now (its address, its files). Of unix sockets says nothing. */
int rpc_server_check(const struct rpc_server_options *options, struct err *err);
int rpc_server_start(const struct rpc_server_options *options, struct rpc_server **ret_server, struct err *err);
/* Whether it is an address of TCP, rather than a path. */
bool rpc_is_address(const char *path);
/* Where it listens: for a port 0, the one that was free. */
#define RPC_ADDRESS_BYTES 64
const char *rpc_server_address(const struct rpc_server *server, char text[static RPC_ADDRESS_BYTES]);
/* Stops listening, removes the socket, ends connections; answers already made are sent first, as far as the socket
 * takes them. Accepts NULL. */
void rpc_server_stop(struct rpc_server *server);

void rpc_set_state(enum rpc_state state);
enum rpc_state rpc_get_state(void);

/*
 * Runs one request from inside the process (configuration file, state log): done(ctx, result or NULL, error or NULL) on the
 * app thread, at once or later; borrows both during the call. params may be NULL. record: whether it goes to the state log.
 */
void rpc_call(const char *method, const json_t *params, bool record,
	      void (*done)(void *ctx, const json_t *result, const json_t *error), void *ctx);

/* Lists methods in registration order, for rpc_get_methods: those allowed now, or all. New reference. */
json_t *rpc_method_names(bool current_only, bool include_aliases);

#endif
