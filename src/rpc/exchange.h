/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One message of a client, a request or a batch of them, from its text to the text of its answer. Knows no
 * socket. App thread.
 */
#ifndef RPC_EXCHANGE_H
#define RPC_EXCHANGE_H

#include <jansson.h>
#include <stddef.h>

#include "base/list.h"
#include "event/thread.h"
#include "rpc/text.h"

struct conn;

#define RPC_BATCH_MAX 4096
/* An answer, a batch's as a whole, is not longer: an error says so in its place. */
#define RPC_ANSWER_MAX_BYTES (64u << 20)

struct rpc_exchange {
	struct list link; /* the owner's */
	/* Called once, at once or later, unless dropped; the exchange ends afterwards. text: the answer, NULL when there
	 * is none to give; takes it (free). */
	void (*done)(struct rpc_exchange *x, char *text, size_t len);
	void *owner;
	struct conn *client; /* whose requests these are; NULL: nobody that could be sent events */
	bool broken; /* the text was no JSON, or memory for the answer was out: nothing that follows can be trusted */

	/* The exchange's own. */
	json_t *batch; /* array of requests under way; NULL: a single one */
	struct rpc_text text; /* of the answers */
	json_t *id; /* of the request under way; NULL: a notification */
	size_t next;
	struct msg msg; /* under way between two slices of a batch */
	bool waiting;   /* for an answer */
	bool listing;   /* the answer that it waits for is a long list */
	bool looping; /* in the loop that starts the requests of a batch */
	bool dropped;
};

/* Takes x, zeroed and allocated by malloc, done and owner filled in. Borrows data during the call. */
void rpc_exchange_start(struct rpc_exchange *x, const char *data, size_t len);

/* done will not be called any more; requests of a batch that have not begun will not. x still ends by itself. */
void rpc_exchange_drop(struct rpc_exchange *x);

/* The text of an error that belongs to no request, with a line feed; for free(). NULL when memory is out. */
char *rpc_exchange_error_text(int code, const char *message);

#endif
