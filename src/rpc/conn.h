/* SPDX-License-Identifier: BSD-3-Clause */
/* One connection of a client. App thread. */
#ifndef RPC_CONN_H
#define RPC_CONN_H

#include "base/list.h"

#define RPC_REQUEST_MAX_BYTES (4u << 20)
/*
 * A connection is not read from while so many of its messages are under way or so much of its answers waits. The
 * latter is much, because a client may send all its requests, a hundred thousand creations, before it reads the first answer.
 * What may have an answer of RPC_ANSWER_MAX_BYTES (exchange.h) is under way alone.
 */
#define RPC_RUNNING_MAX 64
#define RPC_OUT_HIGH_BYTES (8u << 20)

struct conn;

/* Takes fd, also when it fails. closed(ctx) once, when the connection ended by itself; not by conn_close_all. 0 or a
 * negative errno. */
int conn_open(int fd, struct list *conns, void (*closed)(void *ctx), void *ctx);

/* Sends what the socket takes of the answers made, and ends; requests under way are dropped. conn is on the list
 * that was given to conn_open. */
void conn_close_all(struct list *conns);

#endif
