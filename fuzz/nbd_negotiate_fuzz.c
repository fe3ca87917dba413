/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The handshake of an NBD server, without sockets: any bytes, in pieces of any size. Whatever comes, it takes no more than it
 * was given, says nothing without TLS where that is required, and lets nobody through to an export that is not there.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "nbd/negotiate.h"

#define STEPS_MAX 3000

static const struct nbd_offer offers[] = {
	{.name = "disk", .description = "words", .size_bytes = 1 << 20, .flags = 1, .block_min = 512},
	{.name = "b", .size_bytes = 512, .flags = 1, .block_min = 512},
};

static bool
find(struct nbd_negotiation *n, const struct nbd_string *name, struct nbd_offer *ret)
{
	CHECK(memchr(name->text, '\0', name->length) == NULL && name->length <= NBD_STRING_MAX);
	for (size_t i = 0; i < ARRAY_SIZE(offers); i++) {
		if (strlen(offers[i].name) == name->length && memcmp(offers[i].name, name->text, name->length) == 0) {
			*ret = offers[i];
			return true;
		}
	}
	return false;
}

static bool
list(struct nbd_negotiation *n, unsigned i, struct nbd_offer *ret)
{
	if (i < ARRAY_SIZE(offers)) {
		*ret = offers[i];
	}
	return i < ARRAY_SIZE(offers);
}

static const struct nbd_negotiation_ops ops = {.find = find, .list = list};

/* Answers are well made, and of what is asked for. */
static void
look_at_answers(struct nbd_negotiation *n, bool with_head)
{
	size_t at = 0;

	while (with_head && n->out_len - at >= NBD_OPTION_REPLY_BYTES) {
		uint32_t type = nbd_get32(n->out + at + 12), len = nbd_get32(n->out + at + 16);

		CHECK(nbd_get64(n->out + at) == NBD_OPTION_REPLY_MAGIC && len <= n->out_len - at - NBD_OPTION_REPLY_BYTES);
		CHECK(!n->tls_required || n->tls ||
		      (type != NBD_REP_SERVER && type != NBD_REP_INFO && type != NBD_REP_ERR_UNKNOWN));
		at += NBD_OPTION_REPLY_BYTES + len;
	}
	CHECK(!with_head || at == n->out_len);
	n->out_len = 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct nbd_negotiation n = {.ops = &ops};
	enum nbd_next next = NBD_NEXT_BYTES;
	size_t start = 1, end = 1;

	if (size < 1) {
		return 0;
	}
	n.tls_possible = (data[0] & 1) != 0;
	n.tls_required = (data[0] & 3) == 3;
	CHECK(nbd_negotiation_start(&n) && n.out_len == NBD_GREETING_BYTES);
	n.out_len = 0;
	for (unsigned i = 0; i < STEPS_MAX; i++) {
		size_t used;
		uint8_t *exact;

		if (next == NBD_NEXT_BYTES) {
			if (end == size) {
				break;
			}
			end += MIN(size - end, (data[0] & 4) != 0 ? (size_t)1 + data[0] / 8 : (size_t)20000);
		}
		/* A copy of just this length, so that a byte too many is noticed. */
		exact = malloc(end - start + 1);
		memcpy(exact, data + start, end - start);
		next = nbd_negotiate(&n, exact, end - start, &used);
		free(exact);
		CHECK(used <= end - start);
		start += used;
		if (next == NBD_NEXT_GO) {
			CHECK(n.chosen.name != NULL && (!n.tls_required || n.tls));
			break;
		}
		look_at_answers(&n, true);
		if (next == NBD_NEXT_CLOSE || next == NBD_NEXT_FAIL) {
			break;
		}
		if (next == NBD_NEXT_TLS) {
			CHECK(n.tls_possible && !n.structured && !n.extended && n.context_export == NULL);
			n.tls = true;
			next = NBD_NEXT_OPTION;
		}
	}
	nbd_negotiation_release(&n);
	return 0;
}
