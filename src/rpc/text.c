/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/text.h"

#include <stdlib.h>
#include <string.h>

#define ROOM_MIN 256

static bool
reserve(struct rpc_text *t, size_t bytes)
{
	size_t room = t->room == 0 ? ROOM_MIN : t->room;
	char *data;

	if (t->failed || t->room - t->bytes >= bytes) {
		return !t->failed;
	}
	while (room - t->bytes < bytes) {
		room *= 2;
	}
	data = realloc(t->data, room);
	if (data == NULL) {
		t->failed = true;
		return false;
	}
	t->data = data;
	t->room = room;
	return true;
}

void
rpc_text_add(struct rpc_text *t, const char *data, size_t bytes)
{
	if (reserve(t, bytes)) {
		memcpy(t->data + t->bytes, data, bytes);
		t->bytes += bytes;
	}
}

void
rpc_text_add_string(struct rpc_text *t, const char *string)
{
	rpc_text_add(t, string, strlen(string));
}

static int
add_piece(const char *data, size_t bytes, void *ctx)
{
	struct rpc_text *t = ctx;

	rpc_text_add(t, data, bytes);
	return t->failed ? -1 : 0;
}

void
rpc_text_add_json(struct rpc_text *t, const json_t *json)
{
	if (json == NULL || json_dump_callback(json, add_piece, t, JSON_COMPACT | JSON_ENCODE_ANY) != 0) {
		t->failed = true;
	}
}

char *
rpc_text_take(struct rpc_text *t, size_t *ret_bytes)
{
	char *data = t->failed ? NULL : t->data;

	if (data == NULL) {
		free(t->data);
	} else {
		*ret_bytes = t->bytes;
	}
	*t = (struct rpc_text){0};
	return data;
}

void
rpc_text_release(struct rpc_text *t)
{
	free(t->data);
	*t = (struct rpc_text){0};
}
