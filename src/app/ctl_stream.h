/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The stream of `berth volume send`: a snapshot, or what it changed since another. docs/volume-stream.md says which bytes; this
 * is the pure codec of its heads. Numbers are little-endian.
 */
#ifndef APP_CTL_STREAM_H
#define APP_CTL_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uuid/uuid.h>

#include "base/err.h"

#define STREAM_VERSION 1
#define STREAM_NAME_MAX 255
#define STREAM_FIXED_BYTES 80 /* of the head before its names */
#define STREAM_HEAD_MAX (STREAM_FIXED_BYTES + 2 * STREAM_NAME_MAX + 4)
#define STREAM_RECORD_BYTES 32
#define STREAM_DATA_MAX (UINT64_C(1) << 20)

struct stream_head {
	bool difference; /* since `from`; else all of it, and what is not there is zero */
	uint32_t block_bytes; /* offsets and lengths are multiples */
	uint64_t size_bytes;
	uuid_t from; /* all zero unless it is a difference */
	uuid_t to;
	char volume[STREAM_NAME_MAX + 1];
	char snapshot[STREAM_NAME_MAX + 1];
};

/* Its bytes; the length. */
size_t stream_put_head(uint8_t out[static STREAM_HEAD_MAX], const struct stream_head *head);
/* From the fixed part: how long the whole head is. 0; -EINVAL (no such stream, with the reason), -ENOTSUP (a later version). */
int stream_head_bytes(const uint8_t in[static STREAM_FIXED_BYTES], size_t *ret_bytes, struct err *err);
/* -EINVAL, -EILSEQ: with the reason. */
int stream_get_head(const uint8_t *in, size_t bytes, struct stream_head *ret, struct err *err);

enum stream_type {
	STREAM_DATA = 1, /* `length` bytes follow, at most STREAM_DATA_MAX */
	STREAM_ZEROES = 2,
	STREAM_END = 3, /* offset: bytes of data in all; length: the CRC of the CRCs */
};

struct stream_record {
	enum stream_type type;
	uint32_t crc; /* of the record without this, and its data */
	uint64_t number; /* 0, 1, ... */
	uint64_t offset;
	uint64_t length;
};

/* What both ends keep of the records that have passed. */
struct stream_sums {
	uint64_t number;
	uint64_t next_offset; /* records go upwards */
	uint64_t data_bytes;
	uint32_t chain; /* CRC-32C of the head's CRC and the records' */
};

void stream_begin(struct stream_sums *sums, const uint8_t *head, size_t bytes);
/* Makes the next record; data is NULL but for STREAM_DATA. STREAM_END: offset and length are filled in. */
void stream_put_record(uint8_t out[static STREAM_RECORD_BYTES], struct stream_sums *sums, enum stream_type type, uint64_t offset,
		       uint64_t length, const void *data);
/* Checks all that can be checked before the data is there. */
int stream_get_record(const uint8_t in[static STREAM_RECORD_BYTES], const struct stream_head *head,
		      const struct stream_sums *sums, struct stream_record *ret, struct err *err);
/* Checks the rest, and takes it as passed. -EILSEQ. */
int stream_check_record(const uint8_t in[static STREAM_RECORD_BYTES], const struct stream_record *r, const void *data,
			struct stream_sums *sums, struct err *err);

#endif
