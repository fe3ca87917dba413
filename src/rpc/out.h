/* SPDX-License-Identifier: BSD-3-Clause */
/* What a connection has to send. Short texts are gathered; long ones are sent from where they are. */
#ifndef RPC_OUT_H
#define RPC_OUT_H

#include <stdbool.h>
#include <stddef.h>

#include "base/list.h"
#include "sock/stream.h"

struct rpc_out {
	struct list pieces;
	size_t bytes; /* in all of them */
};

void rpc_out_init(struct rpc_out *out);
void rpc_out_release(struct rpc_out *out);

/* Takes text (free). False when memory is out: it is missing then. */
bool rpc_out_add(struct rpc_out *out, char *text, size_t len);

/* Sends at most max bytes, as far as the stream takes them: 0, or a negative errno (never -EAGAIN) when the stream is of no
 * use any more. */
int rpc_out_send(struct rpc_out *out, struct stream *stream, size_t max);

#endif
