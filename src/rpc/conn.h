/* SPDX-License-Identifier: BSD-3-Clause */
/* One connection of a client. App thread. */
#ifndef RPC_CONN_H
#define RPC_CONN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/list.h"
#include "rpc/auth.h"
#include "sock/tls.h"

#define RPC_REQUEST_MAX_BYTES (4u << 20)
/*
 * A connection is not read from while so many of its messages are under way or so much of its answers waits. The
 * latter is much, because a client may send all its requests, a hundred thousand creations, before it reads the first answer.
 * What may have an answer of RPC_ANSWER_MAX_BYTES (exchange.h) is under way alone.
 */
#define RPC_RUNNING_MAX 64
#define RPC_OUT_HIGH_BYTES (8u << 20)
/* Events are for clients that read. */
#define RPC_EVENTS_HIGH_BYTES (256u << 10)

#define RPC_ADMISSION_US UINT64_C(5000000)
#define RPC_REFUSAL_US UINT64_C(1000000)

struct conn;

/* What the connections of a listener have in common; lives longer than they do. */
struct conn_options {
	struct rpc_token *token; /* NULL: none is asked for */
	struct tls_credentials *tls;   /* NULL: plain */
	/* Once for each, when it ended by itself; not by conn_close_all. */
	void (*closed)(void *ctx);
	void *ctx;
};

/* For a client whose connections are not counted as a user's: root, the user of this process, or one over TCP. */
#define CONN_OWNER ((uid_t)-1)

/* Takes fd, also when it fails. user: whose it is. refusal: why this client may not come in, all that it hears; NULL: it may. 0
 * or a negative errno. */
int conn_open(int fd, const struct conn_options *options, struct list *conns, uid_t user, const char *refusal);

/* Sends what the socket takes of the answers made, and ends; requests under way are dropped. conn is on the list
 * that was given to conn_open. */
void conn_close_all(struct list *conns);

/* Some of the connections. */
enum conn_who {
	CONN_ALL,
	CONN_STRANGERS, /* that have not shown yet who they are, or have been refused */
	CONN_UNWELCOME, /* that have been refused for who they are */
	CONN_USERS,     /* let in, of any user but CONN_OWNER */
	CONN_OF_USER,   /* of these, of one */
};

/* Those that are about to end are not counted. user: for CONN_OF_USER. */
unsigned conn_count(const struct list *conns, enum conn_who who, uid_t user);

/*
 * Somebody waits for a place: ends the one of them that has been of no use for longest, if that is long enough. 0: its place
 * is free soon; else when one may be had, UINT64_MAX: not before somebody leaves.
 */
uint64_t conn_make_place(struct list *conns, enum conn_who who, uid_t user);

/* ---- Events ---- */

/* Which types it wants, a bit each, in place of those before; 0: none. */
void conn_subscribe(struct conn *c, uint64_t types);
/* What anybody wants. */
uint64_t conn_subscribed(void);
/* To all that want the type; text is one line with its line feed. */
void conn_push(uint64_t type, const char *text, size_t len);

#endif
