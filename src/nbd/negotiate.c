/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Invariants
 *  1. One option is answered at a time: what is to be sent is bounded by the answer to one option, whatever the client sends.
 *  2. Nothing that was negotiated before TLS counts afterwards.
 *  3. Without TLS, where it is required, a client learns nothing: not even whether an export exists.
 *  4. Contexts count only for the export they were set for.
 */
#include "nbd/negotiate.h"

#include <stdlib.h>

#include "base/check.h"

/* ---- Out ---- */

static uint8_t *
reserve(struct nbd_negotiation *n, size_t bytes)
{
	size_t room = MAX(n->out_room, (size_t)256);
	uint8_t *out;

	while (room - n->out_len < bytes) {
		room *= 2;
	}
	if (room != n->out_room) {
		out = realloc(n->out, room);
		if (out == NULL) {
			n->out_failed = true;
			return NULL;
		}
		n->out = out;
		n->out_room = room;
	}
	n->out_len += bytes;
	return n->out + n->out_len - bytes;
}

/* An answer and its data, of which the caller writes `length` bytes where this points to. */
static uint8_t *
put(struct nbd_negotiation *n, uint32_t option, uint32_t type, size_t length)
{
	uint8_t *p = reserve(n, NBD_OPTION_REPLY_BYTES + length);

	return p != NULL ? nbd_put_option_reply(p, option, type, (uint32_t)length) : NULL;
}

static enum nbd_next
reply(struct nbd_negotiation *n, uint32_t option, uint32_t type)
{
	put(n, option, type, 0);
	return NBD_NEXT_OPTION;
}

/* With words for a person. */
static enum nbd_next
refuse(struct nbd_negotiation *n, uint32_t option, uint32_t type, const char *words)
{
	uint8_t *p = put(n, option, type, strlen(words));

	if (p != NULL) {
		memcpy(p, words, strlen(words));
	}
	return NBD_NEXT_OPTION;
}

static enum nbd_next
hang_up(struct nbd_negotiation *n, const char *why)
{
	n->why = why;
	return NBD_NEXT_CLOSE;
}

/* ---- Life ---- */

static void
forget_contexts(struct nbd_negotiation *n)
{
	free(n->context_export);
	n->context_export = NULL;
	n->contexts_set = 0;
}

bool
nbd_negotiation_start(struct nbd_negotiation *n)
{
	uint8_t *p = reserve(n, NBD_GREETING_BYTES);

	if (p != NULL) {
		nbd_put_greeting(p);
	}
	return p != NULL;
}

void
nbd_negotiation_release(struct nbd_negotiation *n)
{
	forget_contexts(n);
	free(n->chosen_name);
	n->chosen_name = NULL;
	free(n->out);
	n->out = NULL;
	n->out_len = 0;
	n->out_room = 0;
}

enum nbd_reply_style
nbd_negotiated_style(const struct nbd_negotiation *n)
{
	return n->extended ? NBD_EXTENDED : n->structured ? NBD_STRUCTURED : NBD_SIMPLE;
}

/* ---- Choosing an export ---- */

static bool
find(struct nbd_negotiation *n, const struct nbd_string *name, struct nbd_offer *ret)
{
	if (!n->ops->find(n, name, ret)) {
		return false;
	}
	if (nbd_negotiated_style(n) != NBD_SIMPLE) {
		ret->flags |= NBD_FLAG_SEND_DF;
	}
	return true;
}

static void
choose(struct nbd_negotiation *n, const struct nbd_offer *offer)
{
	free(n->chosen_name);
	n->chosen_name = strdup(offer->name);
	n->out_failed |= n->chosen_name == NULL;
	n->chosen = *offer;
	n->chosen.name = n->chosen_name;
	n->chosen.description = NULL;
	n->contexts = 0;
	if (n->context_export != NULL && strcmp(n->context_export, offer->name) == 0) {
		n->contexts = n->contexts_set;
	}
}

static enum nbd_next
export_name(struct nbd_negotiation *n, const uint8_t *data, size_t length)
{
	struct nbd_string name = {.text = (const char *)data, .length = (uint32_t)length};
	struct nbd_offer offer;
	uint8_t *p;

	if (n->extended) {
		return hang_up(n, "it chose an export by NBD_OPT_EXPORT_NAME with extended headers");
	}
	if (length > NBD_STRING_MAX || memchr(data, '\0', length) != NULL || !find(n, &name, &offer)) {
		return hang_up(n, "it chose an export that does not exist");
	}
	p = reserve(n, 10 + (n->no_zeroes ? 0 : 124));
	if (p != NULL) {
		p = nbd_put64(p, offer.size_bytes);
		p = nbd_put16(p, offer.flags);
		memset(p, 0, n->no_zeroes ? 0 : 124);
	}
	choose(n, &offer);
	return NBD_NEXT_GO;
}

static void
put_info_text(struct nbd_negotiation *n, uint32_t option, uint16_t info, const char *text)
{
	uint8_t *p = put(n, option, NBD_REP_INFO, 2 + strlen(text));

	if (p != NULL) {
		p = nbd_put16(p, info);
		memcpy(p, text, strlen(text));
	}
}

static void
put_block_size(struct nbd_negotiation *n, uint32_t option, const struct nbd_offer *offer)
{
	uint8_t *p = put(n, option, NBD_REP_INFO, 14);

	if (p != NULL) {
		p = nbd_put16(p, NBD_INFO_BLOCK_SIZE);
		p = nbd_put32(p, offer->block_min);
		p = nbd_put32(p, offer->block_preferred);
		nbd_put32(p, offer->payload_max);
	}
}

/* Block sizes are told whether they were asked for or not: there are clients that never ask, but heed them. */
static enum nbd_next
info(struct nbd_negotiation *n, uint32_t option, const uint8_t *data, size_t length)
{
	struct nbd_info_query query;
	struct nbd_offer offer;
	uint8_t *p;

	if (!nbd_get_info_query(data, length, &query)) {
		return refuse(n, option, NBD_REP_ERR_INVALID, "the option's data are malformed");
	}
	if (!find(n, &query.name, &offer)) {
		return refuse(n, option, NBD_REP_ERR_UNKNOWN, "there is no such export");
	}
	p = put(n, option, NBD_REP_INFO, 12);
	if (p != NULL) {
		p = nbd_put16(p, NBD_INFO_EXPORT);
		p = nbd_put64(p, offer.size_bytes);
		nbd_put16(p, offer.flags);
	}
	put_block_size(n, option, &offer);
	if (query.canonical_name) {
		put_info_text(n, option, NBD_INFO_NAME, offer.name);
	}
	if (query.description && offer.description != NULL) {
		put_info_text(n, option, NBD_INFO_DESCRIPTION, offer.description);
	}
	reply(n, option, NBD_REP_ACK);
	if (option == NBD_OPT_INFO) {
		return NBD_NEXT_OPTION;
	}
	choose(n, &offer);
	return NBD_NEXT_GO;
}

static enum nbd_next
list(struct nbd_negotiation *n)
{
	struct nbd_offer offer;

	for (unsigned i = 0; n->ops->list(n, i, &offer); i++) {
		size_t name = strlen(offer.name), words = offer.description != NULL ? strlen(offer.description) : 0;
		uint8_t *p = put(n, NBD_OPT_LIST, NBD_REP_SERVER, 4 + name + words);

		if (p == NULL) {
			break;
		}
		p = nbd_put32(p, (uint32_t)name);
		memcpy(p, offer.name, name);
		memcpy(p + name, words > 0 ? offer.description : "", words);
	}
	return reply(n, NBD_OPT_LIST, NBD_REP_ACK);
}

/* ---- Contexts ---- */

static bool
is(const struct nbd_string *s, const char *text)
{
	return s->length == strlen(text) && memcmp(s->text, text, s->length) == 0;
}

/* In the order of their bits. */
static const char *const context_names[NBD_CONTEXTS] = {"base:allocation", "berth:changed"};

static bool
is_namespace_of(const struct nbd_string *s, const char *context)
{
	size_t length = (size_t)(strchr(context, ':') + 1 - context);

	return s->length == length && memcmp(s->text, context, length) == 0;
}

/* Those of the export that are asked for. */
static uint8_t
asked_contexts(struct nbd_meta_query *query, uint32_t option, const struct nbd_offer *offer)
{
	uint8_t has = NBD_CONTEXT_ALLOCATION | (offer->changes ? NBD_CONTEXT_CHANGED : 0);
	bool listing = option == NBD_OPT_LIST_META_CONTEXT;
	uint8_t asked = listing && query->count == 0 ? has : 0;
	struct nbd_string s;

	while (nbd_next_meta_query(query, &s)) {
		for (unsigned i = 0; i < NBD_CONTEXTS; i++) {
			if (is(&s, context_names[i]) || (listing && is_namespace_of(&s, context_names[i]))) {
				asked |= (uint8_t)(1u << i);
			}
		}
	}
	return asked & has;
}

static void
put_contexts(struct nbd_negotiation *n, uint32_t option, uint8_t contexts)
{
	for (unsigned i = 0; i < NBD_CONTEXTS; i++) {
		size_t length = strlen(context_names[i]);
		uint8_t *p = (contexts >> i & 1) != 0 ? put(n, option, NBD_REP_META_CONTEXT, 4 + length) : NULL;

		if (p != NULL) {
			p = nbd_put32(p, option == NBD_OPT_SET_META_CONTEXT ? i + 1 : 0);
			memcpy(p, context_names[i], length);
		}
	}
}

static enum nbd_next
meta(struct nbd_negotiation *n, uint32_t option, const uint8_t *data, size_t length)
{
	struct nbd_meta_query query;
	struct nbd_offer offer;
	uint8_t contexts;

	if (option == NBD_OPT_SET_META_CONTEXT) {
		forget_contexts(n);
	}
	if (nbd_negotiated_style(n) == NBD_SIMPLE) {
		return refuse(n, option, NBD_REP_ERR_INVALID, "structured replies must be negotiated first");
	}
	if (!nbd_get_meta_query(data, length, &query)) {
		return refuse(n, option, NBD_REP_ERR_INVALID, "the option's data are malformed");
	}
	if (!find(n, &query.name, &offer)) {
		return refuse(n, option, NBD_REP_ERR_UNKNOWN, "there is no such export");
	}
	contexts = asked_contexts(&query, option, &offer);
	if (option == NBD_OPT_SET_META_CONTEXT && contexts != 0) {
		n->context_export = strdup(offer.name);
		n->out_failed |= n->context_export == NULL;
		n->contexts_set = contexts;
	}
	put_contexts(n, option, contexts);
	return reply(n, option, NBD_REP_ACK);
}

/* ---- Other options ---- */

static enum nbd_next
start_tls(struct nbd_negotiation *n)
{
	if (n->tls) {
		return refuse(n, NBD_OPT_STARTTLS, NBD_REP_ERR_INVALID, "TLS is on already");
	}
	if (!n->tls_possible) {
		return refuse(n, NBD_OPT_STARTTLS, NBD_REP_ERR_POLICY, "this server has no TLS");
	}
	n->structured = false;
	n->extended = false;
	forget_contexts(n);
	reply(n, NBD_OPT_STARTTLS, NBD_REP_ACK);
	return NBD_NEXT_TLS;
}

static enum nbd_next
structured_reply(struct nbd_negotiation *n)
{
	if (n->extended) {
		return reply(n, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_EXT_HEADER_REQD);
	}
	n->structured = true;
	return reply(n, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
}

static enum nbd_next
extended_headers(struct nbd_negotiation *n)
{
	n->extended = true;
	return reply(n, NBD_OPT_EXTENDED_HEADERS, NBD_REP_ACK);
}

static bool
takes_no_data(uint32_t option)
{
	return option == NBD_OPT_LIST || option == NBD_OPT_STARTTLS || option == NBD_OPT_STRUCTURED_REPLY ||
	       option == NBD_OPT_EXTENDED_HEADERS;
}

static enum nbd_next
answer(struct nbd_negotiation *n, uint32_t option, const uint8_t *data, size_t length)
{
	if (option == NBD_OPT_ABORT) {
		reply(n, option, NBD_REP_ACK);
		return hang_up(n, NULL);
	}
	if (n->tls_required && !n->tls && option != NBD_OPT_STARTTLS) {
		if (option == NBD_OPT_EXPORT_NAME) {
			return hang_up(n, "it uses no TLS");
		}
		return refuse(n, option, NBD_REP_ERR_TLS_REQD, "this server wants TLS");
	}
	if (takes_no_data(option) && length > 0) {
		return refuse(n, option, NBD_REP_ERR_INVALID, "this option takes no data");
	}
	switch (option) {
	case NBD_OPT_EXPORT_NAME:
		return export_name(n, data, length);
	case NBD_OPT_LIST:
		return list(n);
	case NBD_OPT_STARTTLS:
		return start_tls(n);
	case NBD_OPT_INFO:
	case NBD_OPT_GO:
		return info(n, option, data, length);
	case NBD_OPT_STRUCTURED_REPLY:
		return structured_reply(n);
	case NBD_OPT_LIST_META_CONTEXT:
	case NBD_OPT_SET_META_CONTEXT:
		return meta(n, option, data, length);
	case NBD_OPT_EXTENDED_HEADERS:
		return extended_headers(n);
	default:
		return reply(n, option, NBD_REP_ERR_UNSUP);
	}
}

/* ---- In ---- */

static enum nbd_next
take_flags(struct nbd_negotiation *n, const uint8_t *in, size_t len, size_t *ret_used)
{
	uint32_t flags;

	if (len < NBD_CLIENT_FLAGS_BYTES) {
		return NBD_NEXT_BYTES;
	}
	flags = nbd_get32(in);
	*ret_used = NBD_CLIENT_FLAGS_BYTES;
	if ((flags & ~(uint32_t)(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) != 0) {
		return hang_up(n, "it sent handshake flags that do not exist");
	}
	if ((flags & NBD_FLAG_C_FIXED_NEWSTYLE) == 0) {
		return hang_up(n, "it does not speak the fixed newstyle handshake");
	}
	n->flags_known = true;
	n->no_zeroes = (flags & NBD_FLAG_C_NO_ZEROES) != 0;
	return NBD_NEXT_OPTION;
}

/* The data of an option that is too long for us: it is answered at once, and they are thrown away as they come. */
static enum nbd_next
too_long(struct nbd_negotiation *n, const struct nbd_option_header *h)
{
	if (h->length > NBD_SKIP_MAX || h->option == NBD_OPT_EXPORT_NAME) {
		return hang_up(n, "it sent an option that is too long");
	}
	n->skip = h->length;
	return refuse(n, h->option, NBD_REP_ERR_TOO_BIG, "the option's data are too long");
}

static enum nbd_next
take_option(struct nbd_negotiation *n, const uint8_t *in, size_t len, size_t *ret_used)
{
	struct nbd_option_header h;

	if (len < NBD_OPTION_BYTES) {
		return NBD_NEXT_BYTES;
	}
	if (!nbd_get_option(in, &h)) {
		return hang_up(n, "it sent something that is no option");
	}
	if (h.length <= NBD_OPTION_DATA_MAX && len < NBD_OPTION_BYTES + h.length) {
		return NBD_NEXT_BYTES;
	}
	if (++n->options > NBD_OPTIONS_MAX) {
		return hang_up(n, "it sent too many options");
	}
	*ret_used = NBD_OPTION_BYTES;
	if (h.length > NBD_OPTION_DATA_MAX) {
		return too_long(n, &h);
	}
	*ret_used += h.length;
	return answer(n, h.option, in + NBD_OPTION_BYTES, h.length);
}

enum nbd_next
nbd_negotiate(struct nbd_negotiation *n, const uint8_t *in, size_t len, size_t *ret_used)
{
	enum nbd_next next;

	CHECK(n->out_len == 0);
	*ret_used = 0;
	if (n->skip > 0) {
		*ret_used = MIN((uint64_t)len, n->skip);
		n->skip -= *ret_used;
		return n->skip > 0 ? NBD_NEXT_BYTES : NBD_NEXT_OPTION;
	}
	next = n->flags_known ? take_option(n, in, len, ret_used) : take_flags(n, in, len, ret_used);
	return n->out_failed ? NBD_NEXT_FAIL : next;
}
