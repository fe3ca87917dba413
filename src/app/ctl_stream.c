/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Nothing that comes is believed: every number is checked against the others before it is used, every byte is under a checksum. A
 * record's number is its place, so that none can be lost, doubled or swapped; the end says how many bytes of data there were, and
 * the checksum of all checksums.
 */
#include "app/ctl_stream.h"

#include <errno.h>
#include <string.h>

#include "base/bytes.h"
#include "base/check.h"
#include "base/crc.h"

/* A line end of each kind shows a transport that changes text. */
static const uint8_t magic[16] = {'B', 'E', 'R', 'T', 'H',  '-',  'V',  'O',
				  'L', 'U', 'M', 'E', '\r', '\n', 0x1a, 0};

#define FLAG_DIFFERENCE 1u
#define BLOCK_MIN 512u
#define BLOCK_MAX 65536u

/* ---- The head ---- */

size_t
stream_put_head(uint8_t out[static STREAM_HEAD_MAX], const struct stream_head *h)
{
	size_t volume = strlen(h->volume), snapshot = strlen(h->snapshot);
	size_t bytes = STREAM_FIXED_BYTES + volume + snapshot + 4;

	memset(out, 0, STREAM_FIXED_BYTES);
	memcpy(out, magic, sizeof(magic));
	put32(out + 16, STREAM_VERSION);
	put32(out + 20, (uint32_t)bytes);
	put32(out + 24, h->difference ? FLAG_DIFFERENCE : 0);
	put32(out + 28, h->block_bytes);
	put64(out + 32, h->size_bytes);
	memcpy(out + 40, h->from, sizeof(uuid_t));
	memcpy(out + 56, h->to, sizeof(uuid_t));
	put16(out + 72, (uint16_t)volume);
	put16(out + 74, (uint16_t)snapshot);
	memcpy(out + STREAM_FIXED_BYTES, h->volume, volume);
	memcpy(out + STREAM_FIXED_BYTES + volume, h->snapshot, snapshot);
	put32(out + bytes - 4, crc_32c(0, out, bytes - 4));
	return bytes;
}

int
stream_head_bytes(const uint8_t in[static STREAM_FIXED_BYTES], size_t *ret_bytes, struct err *err)
{
	uint32_t bytes = get32(in + 20);

	if (memcmp(in, magic, sizeof(magic)) != 0) {
		return err_set(err, -EINVAL,
			       "this is no stream of `berth volume send`, or it was changed as if "
			       "it were text");
	}
	if (get32(in + 16) != STREAM_VERSION) {
		return err_set(err, -ENOTSUP,
			       "the stream has version %u, and this berth reads version %d",
			       get32(in + 16), STREAM_VERSION);
	}
	if (bytes != STREAM_FIXED_BYTES + (size_t)get16(in + 72) + get16(in + 74) + 4 ||
	    bytes > STREAM_HEAD_MAX) {
		return err_set(err, -EINVAL,
			       "the stream's head is damaged: lengths that do not fit");
	}
	*ret_bytes = bytes;
	return 0;
}

/* False: too long, or not what it seems to be as a string. */
static bool
take_name(char out[static STREAM_NAME_MAX + 1], const uint8_t *in, size_t bytes)
{
	if (bytes > STREAM_NAME_MAX || memchr(in, '\0', bytes) != NULL) {
		return false;
	}
	memcpy(out, in, bytes);
	out[bytes] = '\0';
	return true;
}

static int
check_head(const struct stream_head *h, uint32_t flags, struct err *err)
{
	uint32_t block = h->block_bytes;

	if ((flags & ~FLAG_DIFFERENCE) != 0) {
		return err_set(err, -ENOTSUP,
			       "the stream has flags 0x%x, which this berth does not know", flags);
	}
	if (block < BLOCK_MIN || block > BLOCK_MAX || (block & (block - 1)) != 0) {
		return err_set(err, -EINVAL, "the stream's blocks have %u bytes", block);
	}
	if (h->size_bytes == 0 || h->size_bytes % block != 0 || h->size_bytes > INT64_MAX) {
		return err_set(err, -EINVAL, "the stream's volume has %llu bytes",
			       (unsigned long long)h->size_bytes);
	}
	if (uuid_is_null(h->to) || uuid_is_null(h->from) == h->difference) {
		return err_set(err, -EINVAL, "the stream does not say which snapshot it is");
	}
	return 0;
}

int
stream_get_head(const uint8_t *in, size_t bytes, struct stream_head *ret, struct err *err)
{
	size_t volume, snapshot, length;
	struct stream_head h;
	int rc;

	if (bytes < STREAM_FIXED_BYTES) {
		return err_set(err, -EINVAL, "the stream ends in its head");
	}
	rc = stream_head_bytes(in, &length, err);
	if (rc != 0) {
		return rc;
	}
	if (length != bytes) {
		return err_set(err, -EINVAL, "the stream ends in its head");
	}
	if (crc_32c(0, in, bytes - 4) != get32(in + bytes - 4)) {
		return err_set(err, -EILSEQ, "the stream's head is damaged: its checksum is wrong");
	}
	volume = get16(in + 72);
	snapshot = get16(in + 74);
	h = (struct stream_head){
		.difference = (get32(in + 24) & FLAG_DIFFERENCE) != 0,
		.block_bytes = get32(in + 28),
		.size_bytes = get64(in + 32),
	};
	memcpy(h.from, in + 40, sizeof(uuid_t));
	memcpy(h.to, in + 56, sizeof(uuid_t));
	if (!take_name(h.volume, in + STREAM_FIXED_BYTES, volume) ||
	    !take_name(h.snapshot, in + STREAM_FIXED_BYTES + volume, snapshot)) {
		return err_set(err, -EINVAL, "the stream's names are none");
	}
	rc = check_head(&h, get32(in + 24), err);
	if (rc == 0) {
		*ret = h;
	}
	return rc;
}

/* ---- Records ---- */

void
stream_begin(struct stream_sums *sums, const uint8_t *head, size_t bytes)
{
	*sums = (struct stream_sums){.chain = crc_32c(0, head + bytes - 4, 4)};
}

/* Of the record, its checksum taken as zero, and the data. */
static uint32_t
crc_of(const uint8_t in[static STREAM_RECORD_BYTES], const void *data, size_t length)
{
	uint8_t record[STREAM_RECORD_BYTES];
	uint32_t crc;

	memcpy(record, in, sizeof(record));
	put32(record + 4, 0);
	crc = crc_32c(0, record, sizeof(record));
	return data != NULL ? crc_32c(crc, data, length) : crc;
}

static void
pass(struct stream_sums *sums, enum stream_type type, uint64_t offset, uint64_t length,
     const uint8_t *crc)
{
	sums->number++;
	sums->chain = crc_32c(sums->chain, crc, 4);
	if (type != STREAM_END) {
		sums->next_offset = offset + length;
	}
	if (type == STREAM_DATA) {
		sums->data_bytes += length;
	}
}

void
stream_put_record(uint8_t out[static STREAM_RECORD_BYTES], struct stream_sums *sums,
		  enum stream_type type, uint64_t offset, uint64_t length, const void *data)
{
	CHECK((type == STREAM_DATA) == (data != NULL));
	if (type == STREAM_END) {
		offset = sums->data_bytes;
		length = sums->chain;
	}
	put32(out, type);
	put32(out + 4, 0);
	put64(out + 8, sums->number);
	put64(out + 16, offset);
	put64(out + 24, length);
	put32(out + 4, crc_of(out, data, data != NULL ? length : 0));
	pass(sums, type, offset, length, out + 4);
}

static int
check_range(const struct stream_record *r, const struct stream_head *h,
	    const struct stream_sums *sums, struct err *err)
{
	if (r->offset % h->block_bytes != 0 || r->length % h->block_bytes != 0 || r->length == 0 ||
	    r->offset > h->size_bytes || r->length > h->size_bytes - r->offset ||
	    r->offset < sums->next_offset ||
	    (r->type == STREAM_DATA && r->length > STREAM_DATA_MAX)) {
		return err_set(err, -EINVAL,
			       "the stream is damaged: record %llu is about %llu bytes at %llu",
			       (unsigned long long)r->number, (unsigned long long)r->length,
			       (unsigned long long)r->offset);
	}
	return 0;
}

int
stream_get_record(const uint8_t in[static STREAM_RECORD_BYTES], const struct stream_head *head,
		  const struct stream_sums *sums, struct stream_record *ret, struct err *err)
{
	struct stream_record r = {
		.type = (enum stream_type)get32(in),
		.crc = get32(in + 4),
		.number = get64(in + 8),
		.offset = get64(in + 16),
		.length = get64(in + 24),
	};
	int rc = 0;

	if (r.number != sums->number) {
		return err_set(err, -EILSEQ,
			       "the stream is damaged: record %llu is where %llu should be",
			       (unsigned long long)r.number, (unsigned long long)sums->number);
	}
	switch (r.type) {
	case STREAM_DATA:
	case STREAM_ZEROES:
		rc = check_range(&r, head, sums, err);
		break;
	case STREAM_END:
		if (r.offset != sums->data_bytes || r.length != sums->chain) {
			rc = err_set(err, -EILSEQ,
				     "the stream is damaged: it does not end as its parts say");
		}
		break;
	default:
		rc = err_set(err, -EINVAL, "the stream is damaged: record %llu is of no kind",
			     (unsigned long long)r.number);
		break;
	}
	if (rc == 0) {
		*ret = r;
	}
	return rc;
}

int
stream_check_record(const uint8_t in[static STREAM_RECORD_BYTES], const struct stream_record *r,
		    const void *data, struct stream_sums *sums, struct err *err)
{
	if (crc_of(in, data, data != NULL ? r->length : 0) != r->crc) {
		return err_set(err, -EILSEQ,
			       "the stream is damaged: the checksum of record %llu is wrong",
			       (unsigned long long)r->number);
	}
	pass(sums, r->type, r->offset, r->length, in + 4);
	return 0;
}
