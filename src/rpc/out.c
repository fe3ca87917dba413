/* SPDX-License-Identifier: BSD-3-Clause */
#include "rpc/out.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Texts from that size on are sent from where they are, smaller ones are gathered in pieces of this size. */
#define PIECE_BYTES 16384

struct piece {
	struct list link;
	char *data;
	size_t start; /* sent before it */
	size_t end;
	size_t room; /* of data; 0: nothing is to be added */
};

void
rpc_out_init(struct rpc_out *out)
{
	list_init(&out->pieces);
	out->bytes = 0;
}

static void
piece_free(struct piece *p)
{
	list_remove(&p->link);
	free(p->data);
	free(p);
}

void
rpc_out_release(struct rpc_out *out)
{
	while (!list_empty(&out->pieces)) {
		piece_free(LIST_FIRST(&out->pieces, struct piece, link));
	}
	out->bytes = 0;
}

/* Takes data, of which room bytes are allocated and the first `bytes` are to be sent. */
static struct piece *
add_piece(struct rpc_out *out, char *data, size_t bytes, size_t room)
{
	struct piece *p = data != NULL ? calloc(1, sizeof(*p)) : NULL;

	if (p == NULL) {
		free(data);
		return NULL;
	}
	p->data = data;
	p->end = bytes;
	p->room = room;
	list_append(&out->pieces, &p->link);
	out->bytes += bytes;
	return p;
}

bool
rpc_out_add(struct rpc_out *out, char *text, size_t len)
{
	struct piece *last = list_empty(&out->pieces) ? NULL : LIST_ENTRY(out->pieces.prev, struct piece, link);

	if (len >= PIECE_BYTES) {
		return add_piece(out, text, len, 0) != NULL;
	}
	if (last == NULL || last->room - MIN(last->room, last->end) < len) {
		last = add_piece(out, malloc(PIECE_BYTES), 0, PIECE_BYTES);
	}
	if (last != NULL) {
		memcpy(last->data + last->end, text, len);
		last->end += len;
		out->bytes += len;
	}
	free(text);
	return last != NULL;
}

static void
sent(struct rpc_out *out, struct piece *p, size_t bytes)
{
	p->start += bytes;
	out->bytes -= bytes;
	if (p->start == p->end) {
		piece_free(p);
	}
}

int
rpc_out_send(struct rpc_out *out, struct stream *stream, size_t max)
{
	while ((out->bytes > 0 || stream_unsent(stream)) && max > 0) {
		struct piece *p = out->bytes > 0 ? LIST_FIRST(&out->pieces, struct piece, link) : NULL;
		struct iovec iov = {.iov_base = p != NULL ? p->data + p->start : NULL,
				    .iov_len = p != NULL ? MIN(p->end - p->start, max) : 0};
		ssize_t n = stream_sendv(stream, &iov, p != NULL);

		if (n == -EAGAIN) {
			return 0;
		}
		if (n < 0) {
			return (int)n;
		}
		if (p != NULL) {
			sent(out, p, (size_t)n);
			max -= (size_t)n;
		}
	}
	return 0;
}
