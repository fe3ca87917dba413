/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Who may call. Pure but for the files and the socket that are asked: rpc/conn.c holds clients to it.
 *
 * Token: a client of such a server sends, as its first message, {"jsonrpc":"2.0","id":1,"method":"berth_authenticate",
 * "params":{"token":"..."}}, and is answered true. Anything else, or another token, ends the connection.
 * Peers: the kernel says who is at the other end of a unix socket.
 */
#ifndef RPC_AUTH_H
#define RPC_AUTH_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "base/err.h"

/* ---- Token ---- */

#define RPC_TOKEN_BYTES_MIN 16
#define RPC_TOKEN_BYTES_MAX 1024
/* The longest message that is looked at before a client has shown who it is. */
#define RPC_AUTH_MESSAGE_MAX 4096
#define RPC_AUTH_METHOD "berth_authenticate"

struct rpc_token;

/* The first line of the file, white space at its ends not counted. The file belongs to this user or root, and nobody else may
 * read or write it. 0, or a negative errno with err. */
int rpc_token_read(const char *path, struct rpc_token **ret_token, struct err *err);
void rpc_token_free(struct rpc_token *token);

/*
 * Looks at a client's first message. True: it has the token. *ret_answer: what it is answered, with a line feed, for
 * free(); NULL: nothing (it asked for no answer, or memory is out). The time it takes does not depend on the token.
 */
bool rpc_token_check(const struct rpc_token *token, const char *message, size_t len, char **ret_answer);

/* ---- Peers ---- */

#define RPC_PEERS_MAX 16

/* Besides root and the user of this process. */
struct rpc_peers {
	uid_t uids[RPC_PEERS_MAX];
	unsigned uid_count;
	gid_t gids[RPC_PEERS_MAX];
	unsigned gid_count;
};

/* 0; -EACCES with err, naming who is refused. *ret_user: who it is, also then. */
int rpc_peer_check(int fd, const struct rpc_peers *peers, uid_t *ret_user, struct err *err);

#endif
