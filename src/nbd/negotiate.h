/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The server's side of the handshake (fixed newstyle), without I/O: bytes of the client go in, bytes for the client come out, and
 * what is to be done next. What exports there are it asks its owner.
 */
#ifndef NBD_NEGOTIATE_H
#define NBD_NEGOTIATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "nbd/proto.h"

/* Longest data of an option; who sends more is told so, and who sends NBD_SKIP_MAX more is hung up on. */
#define NBD_OPTION_DATA_MAX 16384
#define NBD_SKIP_MAX (1u << 20)
/* Options a client may send before it has made up its mind. */
#define NBD_OPTIONS_MAX 1024

/* An export, as a client is told of it. */
struct nbd_offer {
	const char *name;
	const char *description; /* NULL: none */
	uint64_t size_bytes;
	uint16_t flags; /* of transmission; NBD_FLAG_SEND_DF is added where it applies */
	uint32_t block_min;
	uint32_t block_preferred;
	uint32_t payload_max;
	bool changes; /* has the context berth:changed */
};

struct nbd_negotiation;

struct nbd_negotiation_ops {
	/* The export of that name; of no name: the default one. False: there is none. Strings are borrowed until the next
	 * call. */
	bool (*find)(struct nbd_negotiation *n, const struct nbd_string *name, struct nbd_offer *ret);
	/* The i-th export that may be listed; false past the last. */
	bool (*list)(struct nbd_negotiation *n, unsigned i, struct nbd_offer *ret);
};

enum nbd_next {
	NBD_NEXT_BYTES, /* more bytes are needed */
	NBD_NEXT_OPTION, /* there may be another option in the bytes: call again when `out` has been sent */
	NBD_NEXT_TLS,   /* when `out` has been sent, TLS begins: nothing that came before it counts */
	NBD_NEXT_GO,    /* when `out` has been sent, transmission begins, on the export `chosen` */
	NBD_NEXT_CLOSE, /* when `out` has been sent, the connection ends; `why` says why, NULL: as the client wished */
	NBD_NEXT_FAIL,  /* out of memory */
};

/* Embedded; zeroed but for the first four, then nbd_negotiation_start(). */
struct nbd_negotiation {
	const struct nbd_negotiation_ops *ops;
	bool tls_possible;
	bool tls_required;
	bool tls; /* is on; set by the owner */

	/* What has come of it, with NBD_NEXT_GO. */
	bool structured;
	bool extended;
	uint8_t contexts; /* of block status, negotiated for this export: NBD_CONTEXT_... */
	struct nbd_offer chosen; /* its name is the negotiation's, its description not there */
	const char *why;

	/* For the client; the owner sends it and sets out_len to 0. */
	uint8_t *out;
	size_t out_len;

	/* The negotiation's own. */
	size_t out_room;
	bool out_failed;
	bool flags_known;
	bool no_zeroes;
	unsigned options;
	uint64_t skip; /* data of a refused option that is still to come */
	char *chosen_name;
	char *context_export; /* for which contexts were set; NULL: none were */
	uint8_t contexts_set; /* those */
};

/* Puts the greeting into out. False: out of memory. */
bool nbd_negotiation_start(struct nbd_negotiation *n);
/* Frees what it holds. */
void nbd_negotiation_release(struct nbd_negotiation *n);

/* Takes what it can of the bytes, *ret_used of them. Called only while out_len is 0. */
enum nbd_next nbd_negotiate(struct nbd_negotiation *n, const uint8_t *in, size_t len, size_t *ret_used);

/* The style of replies that was negotiated. */
enum nbd_reply_style nbd_negotiated_style(const struct nbd_negotiation *n);

#endif
