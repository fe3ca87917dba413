/* SPDX-License-Identifier: BSD-3-Clause */
#include "nbd/proto.h"

#include <errno.h>

/* ---- Handshake ---- */

void
nbd_put_greeting(uint8_t out[NBD_GREETING_BYTES])
{
	out = nbd_put64(out, NBD_MAGIC);
	out = nbd_put64(out, NBD_OPTION_MAGIC);
	nbd_put16(out, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
}

bool
nbd_get_option(const uint8_t in[NBD_OPTION_BYTES], struct nbd_option_header *ret)
{
	ret->option = nbd_get32(in + 8);
	ret->length = nbd_get32(in + 12);
	return nbd_get64(in) == NBD_OPTION_MAGIC;
}

uint8_t *
nbd_put_option_reply(uint8_t *out, uint32_t option, uint32_t type, uint32_t length)
{
	out = nbd_put64(out, NBD_OPTION_REPLY_MAGIC);
	out = nbd_put32(out, option);
	out = nbd_put32(out, type);
	return nbd_put32(out, length);
}

/* A 32-bit length and so many bytes; *p moves behind them. */
static bool
get_string(const uint8_t **p, const uint8_t *end, struct nbd_string *ret)
{
	uint32_t length;

	if (end - *p < 4) {
		return false;
	}
	length = nbd_get32(*p);
	*p += 4;
	if (length > (size_t)(end - *p) || length > NBD_STRING_MAX) {
		return false;
	}
	*ret = (struct nbd_string){.text = (const char *)*p, .length = length};
	*p += length;
	return memchr(ret->text, '\0', length) == NULL;
}

bool
nbd_get_info_query(const uint8_t *in, size_t length, struct nbd_info_query *ret)
{
	const uint8_t *p = in, *end = in + length;
	unsigned count;

	*ret = (struct nbd_info_query){.block_size = false};
	if (!get_string(&p, end, &ret->name) || end - p < 2) {
		return false;
	}
	count = nbd_get16(p);
	p += 2;
	if ((size_t)(end - p) != 2 * (size_t)count) {
		return false;
	}
	for (; p < end; p += 2) {
		unsigned type = nbd_get16(p);

		ret->block_size |= type == NBD_INFO_BLOCK_SIZE;
		ret->description |= type == NBD_INFO_DESCRIPTION;
		ret->canonical_name |= type == NBD_INFO_NAME;
	}
	return true;
}

bool
nbd_get_meta_query(const uint8_t *in, size_t length, struct nbd_meta_query *ret)
{
	const uint8_t *p = in, *end = in + length, *first;
	struct nbd_string query;

	if (!get_string(&p, end, &ret->name) || end - p < 4) {
		return false;
	}
	ret->count = nbd_get32(p);
	first = p + 4;
	p = first;
	for (uint32_t i = 0; i < ret->count; i++) {
		if (!get_string(&p, end, &query)) {
			return false;
		}
	}
	ret->next = first;
	ret->end = end;
	return p == end;
}

bool
nbd_next_meta_query(struct nbd_meta_query *q, struct nbd_string *ret)
{
	return get_string(&q->next, q->end, ret);
}

/* ---- Requests ---- */

bool
nbd_get_request(const uint8_t *in, bool extended, struct nbd_header *ret)
{
	ret->flags = nbd_get16(in + 4);
	ret->type = nbd_get16(in + 6);
	memcpy(&ret->cookie, in + 8, sizeof(ret->cookie));
	ret->offset = nbd_get64(in + 16);
	ret->length = extended ? nbd_get64(in + 24) : nbd_get32(in + 24);
	return nbd_get32(in) == (extended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC);
}

enum nbd_error
nbd_error_of(int status)
{
	switch (status) {
	case 0:
		return NBD_SUCCESS;
	case -EPERM:
	case -EACCES:
	case -EROFS:
		return NBD_EPERM;
	case -ENOMEM:
		return NBD_ENOMEM;
	case -EINVAL:
		return NBD_EINVAL;
	case -ENOSPC:
	case -EDQUOT:
	case -EFBIG:
		return NBD_ENOSPC;
	case -ENODEV:
	case -ECANCELED:
	case -ESHUTDOWN:
		return NBD_ESHUTDOWN;
	case -EOVERFLOW:
		return NBD_EOVERFLOW;
	case -EOPNOTSUPP:
		return NBD_ENOTSUP;
	default:
		return NBD_EIO;
	}
}

/* ---- Replies ---- */

static uint8_t *
put_cookie(uint8_t *out, uint64_t cookie)
{
	memcpy(out, &cookie, sizeof(cookie));
	return out + sizeof(cookie);
}

static uint8_t *
put_chunk(uint8_t *out, enum nbd_reply_style style, const struct nbd_header *request, unsigned type, uint64_t length, bool last)
{
	out = nbd_put32(out, style == NBD_EXTENDED ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
	out = nbd_put16(out, last ? NBD_REPLY_FLAG_DONE : 0);
	out = nbd_put16(out, (uint16_t)type);
	out = put_cookie(out, request->cookie);
	if (style == NBD_EXTENDED) {
		out = nbd_put64(out, request->offset);
		return nbd_put64(out, length);
	}
	return nbd_put32(out, (uint32_t)length);
}

static uint8_t *
put_simple(uint8_t *out, const struct nbd_header *request, enum nbd_error error)
{
	out = nbd_put32(out, NBD_REPLY_MAGIC);
	out = nbd_put32(out, error);
	return put_cookie(out, request->cookie);
}

size_t
nbd_put_reply(uint8_t *out, enum nbd_reply_style style, const struct nbd_header *request, enum nbd_error error)
{
	uint8_t *p;

	/* Of the compact styles the shorter one will do where there is no error of a read. */
	if (style == NBD_SIMPLE || (style == NBD_STRUCTURED && request->type != NBD_CMD_READ && error == NBD_SUCCESS)) {
		return (size_t)(put_simple(out, request, error) - out);
	}
	if (error == NBD_SUCCESS) {
		return (size_t)(put_chunk(out, style, request, NBD_REPLY_TYPE_NONE, 0, true) - out);
	}
	p = put_chunk(out, style, request, NBD_REPLY_TYPE_ERROR, 6, true);
	p = nbd_put32(p, error);
	return (size_t)(nbd_put16(p, 0) - out);
}

size_t
nbd_put_data(uint8_t *out, enum nbd_reply_style style, const struct nbd_header *request, uint64_t offset, uint32_t length,
	     bool last)
{
	uint8_t *p;

	if (style == NBD_SIMPLE) {
		return (size_t)(put_simple(out, request, NBD_SUCCESS) - out);
	}
	p = put_chunk(out, style, request, NBD_REPLY_TYPE_OFFSET_DATA, 8 + (uint64_t)length, last);
	return (size_t)(nbd_put64(p, offset) - out);
}

size_t
nbd_put_hole(uint8_t *out, enum nbd_reply_style style, const struct nbd_header *request, uint64_t offset, uint32_t length,
	     bool last)
{
	uint8_t *p = put_chunk(out, style, request, NBD_REPLY_TYPE_OFFSET_HOLE, 12, last);

	p = nbd_put64(p, offset);
	return (size_t)(nbd_put32(p, length) - out);
}

size_t
nbd_put_status(uint8_t *out, enum nbd_reply_style style, const struct nbd_header *request, uint32_t context, uint32_t count,
	       bool last)
{
	uint8_t *p;

	if (style == NBD_EXTENDED) {
		p = put_chunk(out, style, request, NBD_REPLY_TYPE_BLOCK_STATUS_EXT, 8 + (uint64_t)count * 16, last);
		p = nbd_put32(p, context);
		return (size_t)(nbd_put32(p, count) - out);
	}
	p = put_chunk(out, style, request, NBD_REPLY_TYPE_BLOCK_STATUS, 4 + (uint64_t)count * 8, last);
	return (size_t)(nbd_put32(p, context) - out);
}

uint8_t *
nbd_put_extent(uint8_t *out, enum nbd_reply_style style, uint64_t length, uint32_t state)
{
	if (style == NBD_EXTENDED) {
		out = nbd_put64(out, length);
		return nbd_put64(out, state);
	}
	out = nbd_put32(out, (uint32_t)length);
	return nbd_put32(out, state);
}
