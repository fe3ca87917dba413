/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The NBD protocol's messages, bytes <-> structures: pure, no I/O, no allocation. Names and values are those of the protocol's
 * document (doc/proto.md of the NBD project, with its extension for extended headers); those that linux/nbd.h has are taken from
 * there. All numbers on the wire are big-endian.
 */
#ifndef NBD_PROTO_H
#define NBD_PROTO_H

#include <linux/nbd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* ---- Numbers on the wire ---- */

static inline uint16_t
nbd_get16(const void *p)
{
	uint16_t v;

	memcpy(&v, p, sizeof(v));
	return __builtin_bswap16(v);
}

static inline uint32_t
nbd_get32(const void *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return __builtin_bswap32(v);
}

static inline uint64_t
nbd_get64(const void *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return __builtin_bswap64(v);
}

static inline uint8_t *
nbd_put16(uint8_t *p, uint16_t v)
{
	v = __builtin_bswap16(v);
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

static inline uint8_t *
nbd_put32(uint8_t *p, uint32_t v)
{
	v = __builtin_bswap32(v);
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

static inline uint8_t *
nbd_put64(uint8_t *p, uint64_t v)
{
	v = __builtin_bswap64(v);
	memcpy(p, &v, sizeof(v));
	return p + sizeof(v);
}

/* ---- Handshake ---- */

#define NBD_MAGIC UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_OPTION_REPLY_MAGIC UINT64_C(0x0003e889045565a9)

#define NBD_FLAG_FIXED_NEWSTYLE 0x1
#define NBD_FLAG_NO_ZEROES 0x2
#define NBD_FLAG_C_FIXED_NEWSTYLE 0x1
#define NBD_FLAG_C_NO_ZEROES 0x2

enum nbd_option {
	NBD_OPT_EXPORT_NAME = 1,
	NBD_OPT_ABORT = 2,
	NBD_OPT_LIST = 3,
	NBD_OPT_STARTTLS = 5,
	NBD_OPT_INFO = 6,
	NBD_OPT_GO = 7,
	NBD_OPT_STRUCTURED_REPLY = 8,
	NBD_OPT_LIST_META_CONTEXT = 9,
	NBD_OPT_SET_META_CONTEXT = 10,
	NBD_OPT_EXTENDED_HEADERS = 11,
};

enum nbd_option_reply {
	NBD_REP_ACK = 1,
	NBD_REP_SERVER = 2,
	NBD_REP_INFO = 3,
	NBD_REP_META_CONTEXT = 4,
};

#define NBD_REP_ERR(n) (UINT32_C(1) << 31 | (n))
#define NBD_REP_ERR_UNSUP NBD_REP_ERR(1)
#define NBD_REP_ERR_POLICY NBD_REP_ERR(2)
#define NBD_REP_ERR_INVALID NBD_REP_ERR(3)
#define NBD_REP_ERR_TLS_REQD NBD_REP_ERR(5)
#define NBD_REP_ERR_UNKNOWN NBD_REP_ERR(6)
#define NBD_REP_ERR_SHUTDOWN NBD_REP_ERR(7)
#define NBD_REP_ERR_TOO_BIG NBD_REP_ERR(9)
#define NBD_REP_ERR_EXT_HEADER_REQD NBD_REP_ERR(10)

enum nbd_info {
	NBD_INFO_EXPORT = 0,
	NBD_INFO_NAME = 1,
	NBD_INFO_DESCRIPTION = 2,
	NBD_INFO_BLOCK_SIZE = 3,
};

/* Longest string of the protocol. */
#define NBD_STRING_MAX 4096

/* The server's first words: both magics and its flags. */
#define NBD_GREETING_BYTES 18
void nbd_put_greeting(uint8_t out[NBD_GREETING_BYTES]);
#define NBD_CLIENT_FLAGS_BYTES 4

/* An option's header; `length` bytes of data follow. */
struct nbd_option_header {
	uint32_t option;
	uint32_t length;
};
#define NBD_OPTION_BYTES 16
/* False: the magic is wrong. */
bool nbd_get_option(const uint8_t in[NBD_OPTION_BYTES], struct nbd_option_header *ret);

#define NBD_OPTION_REPLY_BYTES 20
uint8_t *nbd_put_option_reply(uint8_t *out, uint32_t option, uint32_t type, uint32_t length);

/* A string inside of the bytes that were received. */
struct nbd_string {
	const char *text; /* not terminated */
	uint32_t length;
};

/* What NBD_OPT_INFO and NBD_OPT_GO ask for. */
struct nbd_info_query {
	struct nbd_string name;
	bool block_size;
	bool description;
	bool canonical_name;
};
/* False: the data is not what it should be. */
bool nbd_get_info_query(const uint8_t *in, size_t length, struct nbd_info_query *ret);

/* What NBD_OPT_{LIST,SET}_META_CONTEXT ask for; the queries one by one. */
struct nbd_meta_query {
	struct nbd_string name;
	uint32_t count;
	const uint8_t *next;
	const uint8_t *end;
};
/* False: the data is not what it should be; the queries have been looked at, too. */
bool nbd_get_meta_query(const uint8_t *in, size_t length, struct nbd_meta_query *ret);
/* The next query; false: there is none left. */
bool nbd_next_meta_query(struct nbd_meta_query *q, struct nbd_string *ret);

/* ---- Transmission ---- */

/* Besides those of linux/nbd.h. */
#define NBD_FLAG_SEND_WRITE_ZEROES (1 << 6)
#define NBD_FLAG_SEND_DF (1 << 7)
#define NBD_FLAG_SEND_CACHE (1 << 10)
#define NBD_FLAG_SEND_FAST_ZERO (1 << 11)

#define NBD_CMD_CACHE 5
#define NBD_CMD_WRITE_ZEROES 6
#define NBD_CMD_BLOCK_STATUS 7

/* As they stand in the 16 bits of flags; linux/nbd.h counts them from bit 16 of the type on. */
#define NBD_REQUEST_FUA 0x1
#define NBD_REQUEST_NO_HOLE 0x2
#define NBD_REQUEST_DF 0x4
#define NBD_REQUEST_REQ_ONE 0x8
#define NBD_REQUEST_FAST_ZERO 0x10
#define NBD_REQUEST_PAYLOAD_LEN 0x20

#define NBD_EXTENDED_REQUEST_MAGIC 0x21e41c71
#define NBD_STRUCTURED_REPLY_MAGIC 0x668e33ef
#define NBD_EXTENDED_REPLY_MAGIC 0x6e8a278c

enum nbd_error {
	NBD_SUCCESS = 0,
	NBD_EPERM = 1,
	NBD_EIO = 5,
	NBD_ENOMEM = 12,
	NBD_EINVAL = 22,
	NBD_ENOSPC = 28,
	NBD_EOVERFLOW = 75,
	NBD_ENOTSUP = 95,
	NBD_ESHUTDOWN = 108,
};

/* A negative errno of a request as the protocol says it; 0: success. */
enum nbd_error nbd_error_of(int status);

struct nbd_header {
	uint16_t flags;
	uint16_t type;
	uint64_t cookie; /* as on the wire: never looked into */
	uint64_t offset;
	uint64_t length;
};

#define NBD_REQUEST_BYTES 28
#define NBD_EXTENDED_REQUEST_BYTES 32
static inline size_t
nbd_request_bytes(bool extended)
{
	return extended ? NBD_EXTENDED_REQUEST_BYTES : NBD_REQUEST_BYTES;
}
/* False: the magic is wrong. */
bool nbd_get_request(const uint8_t *in, bool extended, struct nbd_header *ret);

/* How replies look, from what was negotiated. */
enum nbd_reply_style {
	NBD_SIMPLE,
	NBD_STRUCTURED,
	NBD_EXTENDED,
};

#define NBD_REPLY_FLAG_DONE 0x1
#define NBD_REPLY_TYPE_NONE 0
#define NBD_REPLY_TYPE_OFFSET_DATA 1
#define NBD_REPLY_TYPE_OFFSET_HOLE 2
#define NBD_REPLY_TYPE_BLOCK_STATUS 5
#define NBD_REPLY_TYPE_BLOCK_STATUS_EXT 6
#define NBD_REPLY_TYPE_ERROR (1 << 15 | 1)

#define NBD_STATE_HOLE 0x1
#define NBD_STATE_ZERO 0x2
/* Of the context berth:changed. */
#define NBD_STATE_CHANGED 0x1

/* Contexts of block status, as bits of a set; the i-th has the id i + 1 on the wire. */
#define NBD_CONTEXT_ALLOCATION 0x1 /* base:allocation */
#define NBD_CONTEXT_CHANGED 0x2    /* berth:changed */
#define NBD_CONTEXTS 2

/* No reply's bytes before its data are more. */
#define NBD_REPLY_HEAD_MAX 56

/* An answer without data. Returns its length. */
size_t nbd_put_reply(uint8_t *out, enum nbd_reply_style style, const struct nbd_header *request, enum nbd_error error);
/* What precedes `length` bytes of data from `offset` on. NBD_SIMPLE: all the data of the request. */
size_t nbd_put_data(uint8_t *out, enum nbd_reply_style style, const struct nbd_header *request, uint64_t offset,
		    uint32_t length, bool last);
/* All of a chunk that says that there are zeroes; not NBD_SIMPLE. */
size_t nbd_put_hole(uint8_t *out, enum nbd_reply_style style, const struct nbd_header *request, uint64_t offset,
		    uint32_t length, bool last);
/* What precedes `count` extents; not NBD_SIMPLE. */
size_t nbd_put_status(uint8_t *out, enum nbd_reply_style style, const struct nbd_header *request, uint32_t context,
		      uint32_t count, bool last);
/* An extent; returns where the next one goes. Lengths of 4 GiB and more are for NBD_EXTENDED only. */
#define NBD_EXTENT_BYTES_MAX 16
uint8_t *nbd_put_extent(uint8_t *out, enum nbd_reply_style style, uint64_t length, uint32_t state);

#endif
