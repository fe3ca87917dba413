/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which clusters of an external snapshot hold data: it is asked for the next data, and for the next hole, to its end. A cluster
 * is taken for one without data only when all of it was said to be a hole, or lies beyond the end. What nobody may write to
 * stays so.
 *
 * Context: the owner, who is in flight on the channel while one answer is awaited.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/internal.h"
#include "blob/route.h"

static void ask(struct holes *h);

static void
end(struct holes *h, int status)
{
	h->done(h, status);
}

static void
mark(struct holes *h, uint64_t from, uint64_t to)
{
	uint32_t cluster_bytes = h->ch->blob->store->super.cluster_bytes;
	for (uint64_t c = from / cluster_bytes; c * cluster_bytes < MIN(to, h->bytes); c++) {
		h->data[c / 64] |= UINT64_C(1) << c % 64;
	}
}

static void
answered(struct external_request *r, int status)
{
	struct holes *h = CONTAINER_OF(r, struct holes, request);

	blob_end(h->ch, h->parity);
	if (status != 0) {
		end(h, status);
		return;
	}
	if (h->in_data) {
		/* One that says two things of a block is not believed. None: up to the end, behind which there is nothing. */
		uint64_t to = r->result == UINT64_MAX ? external_bytes(h->external) : r->result;

		mark(h, h->at, to > h->at ? to : UINT64_MAX);
	}
	if (r->result <= h->at && h->in_data) {
		end(h, 0);
		return;
	}
	h->in_data = !h->in_data;
	h->at = r->result;
	ask(h);
}

static void
ask(struct holes *h)
{
	if (h->at >= h->bytes || h->stopped) {
		end(h, h->stopped ? -ECANCELED : 0);
		return;
	}
	h->request.done = answered;
	h->parity = blob_begin(h->ch);
	external_seek(h->ch->thread, h->external, &h->request, h->at, !h->in_data);
}

int
holes_start(struct holes *h, struct blob_channel *ch, struct blob_external *external,
	    void (*done)(struct holes *h, int status))
{
	h->ch = ch;
	h->external = external;
	h->done = done;
	h->clusters = blob_num_clusters(ch->blob);
	h->bytes = h->clusters * ch->blob->store->super.cluster_bytes;
	CHECK(h->clusters > 0);
	h->data = calloc(h->clusters / 64 + 1, sizeof(uint64_t));
	if (h->data == NULL) {
		return -ENOMEM;
	}
	ask(h);
	return 0;
}

bool
holes_has_data(const struct holes *h, uint64_t cluster)
{
	return cluster >= h->clusters || (h->data[cluster / 64] >> cluster % 64 & 1) != 0;
}

void
holes_release(struct holes *h)
{
	free(h->data);
	h->data = NULL;
}
