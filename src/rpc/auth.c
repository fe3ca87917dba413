/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/auth.h"

#include <errno.h>
#include <jansson.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/secret.h"
#include "rpc/internal.h"
#include "rpc/rpc.h"

#define SHOW_TOKEN "first of all, show the token: " RPC_AUTH_METHOD

/* ---- Token ---- */

/* Padded with zeroes: what is compared has always the same length. */
struct rpc_token {
	uint32_t length;
	char text[RPC_TOKEN_BYTES_MAX];
};

static bool
is_space(char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

/* The first line of text, without space at its ends. */
static const char *
first_line(const char *text, size_t length, size_t *ret_length)
{
	const char *newline = memchr(text, '\n', length);

	length = newline != NULL ? (size_t)(newline - text) : length;
	while (length > 0 && is_space(text[length - 1])) {
		length--;
	}
	while (length > 0 && is_space(*text)) {
		text++;
		length--;
	}
	*ret_length = length;
	return text;
}

static void
fill(struct rpc_token *token, const char *text, size_t length)
{
	memset(token, 0, sizeof(*token));
	token->length = (uint32_t)MIN(length, (size_t)UINT32_MAX);
	memcpy(token->text, text, MIN(length, sizeof(token->text)));
}

int
rpc_token_read(const char *path, struct rpc_token **ret_token, struct err *err)
{
	struct rpc_token *token = secret_alloc(sizeof(*token));
	char *buf = secret_alloc(SECRET_TEXT_MAX);
	int rc = token != NULL && buf != NULL ? secret_read_file(path, buf, err) : err_set(err, -ENOMEM, "out of memory");
	const char *line;
	size_t length;

	if (rc >= 0) {
		line = first_line(buf, (size_t)rc, &length);
		rc = 0;
		if (length < RPC_TOKEN_BYTES_MIN || length > RPC_TOKEN_BYTES_MAX) {
			rc = err_set(err, -EINVAL, "%s: the token has %zu characters, and must have %d to %d", path, length,
				     RPC_TOKEN_BYTES_MIN, RPC_TOKEN_BYTES_MAX);
		} else {
			fill(token, line, length);
		}
	}
	secret_free(buf);
	if (rc != 0) {
		secret_free(token);
		return rc;
	}
	*ret_token = token;
	return 0;
}

void
rpc_token_free(struct rpc_token *token)
{
	secret_free(token);
}

/* NULL: there is no request for authentication here. */
static const char *
token_of(const json_t *message)
{
	const char *method = json_string_value(json_object_get(message, "method"));

	if (method == NULL || strcmp(method, RPC_AUTH_METHOD) != 0) {
		return NULL;
	}
	return json_string_value(json_object_get(json_object_get(message, "params"), "token"));
}

static char *
answer_text(const json_t *id, const char *key, json_t *value)
{
	json_t *answer = json_pack("{s:s, s:O, s:o}", "jsonrpc", "2.0", "id", id, key, value);
	struct rpc_text t = {0};
	size_t len;

	rpc_text_add_json(&t, answer);
	rpc_text_add(&t, "\n", 2); /* and the zero byte */
	json_decref(answer);
	return rpc_text_take(&t, &len);
}

bool
rpc_token_check(const struct rpc_token *token, const char *message, size_t len, char **ret_answer)
{
	json_t *request = json_loadb(message, len, JSON_REJECT_DUPLICATES, NULL);
	const json_t *id = json_object_get(request, "id");
	const char *given = token_of(request);
	struct rpc_token tried = {0};
	bool good;

	fill(&tried, given != NULL ? given : "", given != NULL ? strlen(given) : 0);
	good = secret_equal(&tried, token, sizeof(tried));
	explicit_bzero(&tried, sizeof(tried));
	if (good) {
		*ret_answer = id != NULL ? answer_text(id, "result", json_true()) : NULL;
	} else {
		bool usable = json_is_string(id) || json_is_integer(id);

		*ret_answer = answer_text(usable ? id : json_null(), "error",
					  rpc_error_json(-EACCES, given != NULL ? "this is not the token" : SHOW_TOKEN));
	}
	json_decref(request);
	return good;
}

/* ---- Peers ---- */

static bool
has_gid(const struct rpc_peers *peers, gid_t gid)
{
	for (unsigned i = 0; i < peers->gid_count; i++) {
		if (peers->gids[i] == gid) {
			return true;
		}
	}
	return false;
}

/* The groups that the peer had besides its own when it connected. */
static bool
in_groups(int fd, const struct rpc_peers *peers)
{
	socklen_t size = 0;
	gid_t *gids;
	bool found = false;

	if (peers->gid_count == 0 || getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, NULL, &size) == 0 || errno != ERANGE) {
		return false;
	}
	gids = malloc(size);
	if (gids != NULL && getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, gids, &size) == 0) {
		for (size_t i = 0; i < size / sizeof(*gids) && !found; i++) {
			found = has_gid(peers, gids[i]);
		}
	}
	free(gids);
	return found;
}

int
rpc_peer_check(int fd, const struct rpc_peers *peers, uid_t *ret_user, struct err *err)
{
	struct ucred who;
	socklen_t size = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &size) != 0) {
		return err_set(err, -EACCES, "who is there cannot be told: %s", strerror(errno));
	}
	*ret_user = who.uid;
	if (who.uid == 0 || who.uid == geteuid() || has_gid(peers, who.gid) || in_groups(fd, peers)) {
		return 0;
	}
	for (unsigned i = 0; i < peers->uid_count; i++) {
		if (peers->uids[i] == who.uid) {
			return 0;
		}
	}
	return err_set(err, -EACCES,
		       "user %u (group %u) may not use this socket: options --rpc-user and --rpc-group of berthd let others in",
		       (unsigned)who.uid, (unsigned)who.gid);
}
