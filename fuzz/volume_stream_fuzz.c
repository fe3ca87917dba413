/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A stream of berth volume send, every byte from the fuzzer; checksums are made right first, so that what is behind them is
 * reached. Whatever is in it: no record reaches beyond the volume, or back, and none has more data than the receiver's buffer.
 */
#include <stdint.h>
#include <string.h>

#include "app/ctl_stream.h"
#include "base/check.h"
#include "base/crc.h"

static void
mend_head(uint8_t *p, size_t bytes)
{
	uint32_t crc = crc_32c(0, p, bytes - 4);

	memcpy(p + bytes - 4, &crc, sizeof(crc));
}

static void
mend_record(uint8_t *p, const uint8_t *data, size_t length)
{
	uint32_t crc;

	memset(p + 4, 0, 4);
	crc = crc_32c(0, p, STREAM_RECORD_BYTES);
	crc = crc_32c(crc, data, length);
	memcpy(p + 4, &crc, sizeof(crc));
}

static void
records(uint8_t *p, size_t left, const struct stream_head *head, struct stream_sums *sums)
{
	struct stream_record r = {.type = STREAM_ZEROES};
	uint64_t end = 0;
	struct err err = ERR_NONE;

	while (r.type != STREAM_END && left >= STREAM_RECORD_BYTES) {
		uint8_t *data = p + STREAM_RECORD_BYTES;

		memcpy(p + 8, &sums->number, sizeof(sums->number));
		if (stream_get_record(p, head, sums, &r, &err) != 0) {
			return;
		}
		if (r.type != STREAM_END) {
			CHECK(r.offset >= end && r.length > 0 &&
			      r.length <= head->size_bytes - r.offset);
			end = r.offset + r.length;
		}
		left -= STREAM_RECORD_BYTES;
		if (r.type == STREAM_DATA) {
			CHECK(r.length <= STREAM_DATA_MAX);
			if (r.length > left) {
				return;
			}
			mend_record(p, data, r.length);
			CHECK(stream_get_record(p, head, sums, &r, &err) == 0);
			CHECK(stream_check_record(p, &r, data, sums, &err) == 0);
			left -= r.length;
			data += r.length;
		} else if (stream_check_record(p, &r, NULL, sums, &err) != 0) {
			mend_record(p, NULL, 0);
			CHECK(stream_get_record(p, head, sums, &r, &err) == 0);
			CHECK(stream_check_record(p, &r, NULL, sums, &err) == 0);
		}
		p = data;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int
LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
	static uint8_t buf[1 << 16];
	struct stream_head head;
	struct stream_sums sums;
	struct err err = ERR_NONE;
	size_t length;

	if (size < STREAM_FIXED_BYTES || size > sizeof(buf)) {
		return 0;
	}
	memcpy(buf, bytes, size);
	memcpy(buf, "BERTH-VOLUME\r\n\x1a", 16);
	if (stream_head_bytes(buf, &length, &err) != 0 || length > size) {
		return 0;
	}
	mend_head(buf, length);
	if (stream_get_head(buf, length, &head, &err) != 0) {
		return 0;
	}
	CHECK(strlen(head.volume) <= STREAM_NAME_MAX && strlen(head.snapshot) <= STREAM_NAME_MAX);
	stream_begin(&sums, buf, length);
	records(buf + length, size - length, &head, &sums);
	return 0;
}
