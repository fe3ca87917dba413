/* SPDX-License-Identifier: BSD-3-Clause */
#include "app/ctl_stream.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"

#define DATA_BYTES 4096

struct stream {
	uint8_t bytes[STREAM_HEAD_MAX + 4 * STREAM_RECORD_BYTES + DATA_BYTES];
	size_t head_bytes;
	size_t length;
};

static struct stream_head
head_of(bool difference)
{
	struct stream_head h = {.difference = difference,
				.block_bytes = 512,
				.size_bytes = 1 << 20,
				.volume = "web0"};

	memset(h.to, 7, sizeof(h.to));
	memset(h.from, difference ? 8 : 0, sizeof(h.from));
	strcpy(h.snapshot, "monday");
	return h;
}

/* Data at 4096, zeroes at 65536, the end. */
static void
make(struct stream *s, bool difference)
{
	struct stream_head h = head_of(difference);
	struct stream_sums sums;
	uint8_t data[DATA_BYTES];

	memset(data, 'd', sizeof(data));
	s->head_bytes = stream_put_head(s->bytes, &h);
	stream_begin(&sums, s->bytes, s->head_bytes);
	s->length = s->head_bytes;
	stream_put_record(s->bytes + s->length, &sums, STREAM_DATA, 4096, sizeof(data), data);
	s->length += STREAM_RECORD_BYTES;
	memcpy(s->bytes + s->length, data, sizeof(data));
	s->length += sizeof(data);
	stream_put_record(s->bytes + s->length, &sums, STREAM_ZEROES, 65536, 1024, NULL);
	s->length += STREAM_RECORD_BYTES;
	stream_put_record(s->bytes + s->length, &sums, STREAM_END, 0, 0, NULL);
	s->length += STREAM_RECORD_BYTES;
}

/* Reads all of it; 0, or what is wrong with it. */
static int
parse(const uint8_t *p, size_t length, struct stream_head *ret_head, unsigned *ret_records)
{
	const uint8_t *end = p + length;
	struct stream_sums sums;
	struct stream_record r = {.type = STREAM_DATA};
	struct err err = ERR_NONE;
	size_t bytes;
	int rc;

	*ret_records = 0;
	rc = length >= STREAM_FIXED_BYTES ? stream_head_bytes(p, &bytes, &err) : -ENODATA;
	if (rc == 0 && bytes > length) {
		rc = -ENODATA;
	}
	if (rc == 0) {
		rc = stream_get_head(p, bytes, ret_head, &err);
	}
	if (rc != 0) {
		return rc;
	}
	stream_begin(&sums, p, bytes);
	p += bytes;
	while (r.type != STREAM_END) {
		const uint8_t *record = p;

		if (end - p < STREAM_RECORD_BYTES) {
			return -ENODATA;
		}
		rc = stream_get_record(p, ret_head, &sums, &r, &err);
		if (rc != 0) {
			assert_true(err_text(&err)[0] != '\0');
			return rc;
		}
		p += STREAM_RECORD_BYTES;
		if (r.type == STREAM_DATA && (uint64_t)(end - p) < r.length) {
			return -ENODATA;
		}
		rc = stream_check_record(record, &r, r.type == STREAM_DATA ? p : NULL, &sums, &err);
		if (rc != 0) {
			return rc;
		}
		p += r.type == STREAM_DATA ? r.length : 0;
		++*ret_records;
	}
	return p == end ? 0 : -EINVAL;
}

static void
test_there_and_back(void **state)
{
	for (int difference = 0; difference < 2; difference++) {
		struct stream_head head, made = head_of(difference);
		unsigned records;
		struct stream s;

		make(&s, difference);
		assert_int_equal(parse(s.bytes, s.length, &head, &records), 0);
		assert_int_equal(records, 3);
		assert_int_equal(head.difference, difference);
		assert_int_equal(head.size_bytes, made.size_bytes);
		assert_int_equal(uuid_compare(head.to, made.to), 0);
		assert_int_equal(uuid_compare(head.from, made.from), 0);
		assert_string_equal(head.volume, "web0");
		assert_string_equal(head.snapshot, "monday");
	}
}

/* Every bit counts, and every byte is needed. */
static void
test_damage_is_seen(void **state)
{
	struct stream_head head;
	unsigned records;
	struct stream s;

	make(&s, true);
	for (size_t i = 0; i < s.length; i++) {
		for (int bit = 0; bit < 8; bit += 7) {
			s.bytes[i] ^= (uint8_t)(1 << bit);
			assert_true(parse(s.bytes, s.length, &head, &records) < 0);
			s.bytes[i] ^= (uint8_t)(1 << bit);
		}
		assert_true(parse(s.bytes, i, &head, &records) < 0);
	}
	assert_int_equal(parse(s.bytes, s.length, &head, &records), 0);
}

/* Records whose sums are right, and which are wrong together. */
static void
test_order(void **state)
{
	struct stream_head h = head_of(true);
	struct stream_sums out, in;
	uint8_t head[STREAM_HEAD_MAX], one[STREAM_RECORD_BYTES], two[STREAM_RECORD_BYTES];
	size_t bytes = stream_put_head(head, &h);
	struct stream_record r;
	struct err err = ERR_NONE;

	stream_begin(&out, head, bytes);
	stream_put_record(one, &out, STREAM_ZEROES, 65536, 512, NULL);
	stream_put_record(two, &out, STREAM_ZEROES, 0, 512, NULL);
	stream_begin(&in, head, bytes);
	assert_int_equal(stream_get_record(two, &h, &in, &r, &err), -EILSEQ);
	assert_int_equal(stream_get_record(one, &h, &in, &r, &err), 0);
	assert_int_equal(stream_check_record(one, &r, NULL, &in, &err), 0);
	assert_int_equal(stream_get_record(one, &h, &in, &r, &err), -EILSEQ);
	assert_int_equal(stream_get_record(two, &h, &in, &r, &err), -EINVAL);
}

static void
test_ranges(void **state)
{
	static const uint64_t bad[][2] = {{1 << 20, 512}, {(1 << 20) - 512, 1024},
					  {100, 512},     {0, 100},
					  {0, 0},         {512, UINT64_MAX - 511}};
	struct stream_head h = head_of(true);
	uint8_t head[STREAM_HEAD_MAX], record[STREAM_RECORD_BYTES];
	size_t bytes = stream_put_head(head, &h);
	struct err err = ERR_NONE;

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		struct stream_sums out, in;
		struct stream_record r;

		stream_begin(&out, head, bytes);
		stream_begin(&in, head, bytes);
		stream_put_record(record, &out, STREAM_ZEROES, bad[i][0], bad[i][1], NULL);
		assert_int_equal(stream_get_record(record, &h, &in, &r, &err), -EINVAL);
	}
}

static void
test_heads(void **state)
{
	struct stream_head h = head_of(false), got;
	uint8_t bytes[STREAM_HEAD_MAX];
	struct err err = ERR_NONE;
	size_t length;

	h.block_bytes = 1000;
	length = stream_put_head(bytes, &h);
	assert_int_equal(stream_get_head(bytes, length, &got, &err), -EINVAL);
	h = head_of(false);
	h.size_bytes = 100;
	length = stream_put_head(bytes, &h);
	assert_int_equal(stream_get_head(bytes, length, &got, &err), -EINVAL);
	/* A difference to nothing, a whole one to something. */
	h = head_of(true);
	h.difference = false;
	length = stream_put_head(bytes, &h);
	assert_int_equal(stream_get_head(bytes, length, &got, &err), -EINVAL);
	h = head_of(false);
	memset(h.volume, 'n', STREAM_NAME_MAX);
	memset(h.snapshot, 'm', STREAM_NAME_MAX);
	length = stream_put_head(bytes, &h);
	assert_int_equal(length, STREAM_HEAD_MAX);
	assert_int_equal(stream_get_head(bytes, length, &got, &err), 0);
	assert_int_equal(strlen(got.volume), STREAM_NAME_MAX);
	bytes[16] = 2;
	assert_int_equal(stream_head_bytes(bytes, &length, &err), -ENOTSUP);
	bytes[0] = 'b';
	assert_int_equal(stream_head_bytes(bytes, &length, &err), -EINVAL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_there_and_back), cmocka_unit_test(test_damage_is_seen),
		cmocka_unit_test(test_order),          cmocka_unit_test(test_ranges),
		cmocka_unit_test(test_heads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
