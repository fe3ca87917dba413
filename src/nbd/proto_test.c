/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "nbd/kernel.h"
#include "nbd/proto.h"

static void
test_requests(void **state)
{
	static const uint8_t compact[NBD_REQUEST_BYTES] = {
		0x25, 0x60, 0x95, 0x13, 0x00, 0x01, 0x00, 0x06, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 1, 0, 0, 2, 0, 0x80, 0, 2, 0};
	static const uint8_t extended[NBD_EXTENDED_REQUEST_BYTES] = {0x21, 0xe4, 0x1c, 0x71, 0x00, 0x20, 0x00, 0x01, 8, 7, 6,
								      5,    4,    3,    2,    1,    0,    0,    0,    0, 0, 0,
								      16,   0,    0,    0,    1,    0,    0,    0,    0, 0};
	static const uint8_t cookie[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	uint8_t wrong[NBD_REQUEST_BYTES];
	struct nbd_header h;

	assert_true(nbd_get_request(compact, false, &h));
	assert_int_equal(h.flags, NBD_REQUEST_FUA);
	assert_int_equal(h.type, NBD_CMD_WRITE_ZEROES);
	assert_memory_equal(&h.cookie, cookie, 8);
	assert_int_equal(h.offset, UINT64_C(0x100000200));
	assert_int_equal(h.length, 0x80000200u);
	assert_true(nbd_get_request(extended, true, &h));
	assert_int_equal(h.flags, NBD_REQUEST_PAYLOAD_LEN);
	assert_int_equal(h.type, NBD_CMD_WRITE);
	assert_int_equal(h.offset, 4096);
	assert_int_equal(h.length, UINT64_C(1) << 40);
	assert_false(nbd_get_request(extended, false, &h));
	for (unsigned i = 0; i < 4; i++) {
		memcpy(wrong, compact, sizeof(wrong));
		wrong[i] ^= 1;
		assert_false(nbd_get_request(wrong, false, &h));
	}
}

static void
test_replies(void **state)
{
	struct nbd_header h = {.type = NBD_CMD_READ, .offset = 512, .length = 1024};
	static const uint8_t simple[] = {0x67, 0x44, 0x66, 0x98, 0, 0, 0, 28, 9, 9, 9, 9, 9, 9, 9, 9};
	static const uint8_t data[] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0, 1, 9, 9, 9, 9, 9, 9,
				       9,    9,    0,    0,    4, 8, 0, 0, 0, 0, 0, 0, 2, 0};
	static const uint8_t error[] = {0x66, 0x8e, 0x33, 0xef, 0, 1, 0x80, 1, 9, 9, 9, 9, 9,
					9,    9,    9,    0,    0, 0, 6,    0, 0, 0, 5, 0, 0};
	static const uint8_t hole[] = {0x6e, 0x8a, 0x27, 0x8c, 0, 0, 0, 2, 9, 9, 9, 9, 9, 9, 9, 9, 0, 0, 0, 0, 0, 0,
				       2,    0,    0,    0,    0, 0, 0, 0, 0, 12, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 1, 0};
	static const uint8_t none[] = {0x6e, 0x8a, 0x27, 0x8c, 0, 1, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9,
				       0,    0,    0,    0,    0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0};
	uint8_t out[NBD_REPLY_HEAD_MAX], *end;

	memset(&h.cookie, 9, 8);
	assert_int_equal(nbd_put_reply(out, NBD_SIMPLE, &h, NBD_ENOSPC), sizeof(simple));
	assert_memory_equal(out, simple, sizeof(simple));
	assert_int_equal(nbd_put_data(out, NBD_STRUCTURED, &h, 512, 1024, true), sizeof(data));
	assert_memory_equal(out, data, sizeof(data));
	assert_int_equal(nbd_put_reply(out, NBD_STRUCTURED, &h, NBD_EIO), sizeof(error));
	assert_memory_equal(out, error, sizeof(error));
	assert_int_equal(nbd_put_hole(out, NBD_EXTENDED, &h, 768, 256, false), sizeof(hole));
	assert_memory_equal(out, hole, sizeof(hole));
	assert_int_equal(nbd_put_reply(out, NBD_EXTENDED, &h, NBD_SUCCESS), sizeof(none));
	assert_memory_equal(out, none, sizeof(none));
	/* Only reads need chunks when all is well. */
	h.type = NBD_CMD_WRITE;
	assert_int_equal(nbd_put_reply(out, NBD_STRUCTURED, &h, NBD_SUCCESS), 16);
	h.type = NBD_CMD_READ;
	assert_int_equal(nbd_put_reply(out, NBD_STRUCTURED, &h, NBD_SUCCESS), 20);
	assert_int_equal(nbd_put_data(out, NBD_SIMPLE, &h, 512, 1024, true), 16);

	assert_int_equal(nbd_put_status(out, NBD_STRUCTURED, &h, 1, 3, false), 24);
	assert_int_equal(nbd_get16(out + 4), 0);
	assert_int_equal(nbd_get32(out + 16), 4 + 3 * 8);
	assert_int_equal(nbd_put_status(out, NBD_EXTENDED, &h, 1, 3, true), 40);
	assert_int_equal(nbd_get16(out + 4), NBD_REPLY_FLAG_DONE);
	assert_int_equal(nbd_get64(out + 24), 8 + 3 * 16);
	end = nbd_put_extent(out, NBD_EXTENDED, UINT64_C(1) << 33, NBD_STATE_ZERO);
	assert_int_equal(end - out, 16);
	assert_int_equal(nbd_get64(out), UINT64_C(1) << 33);
	assert_int_equal(nbd_put_extent(out, NBD_STRUCTURED, 512, 0) - out, 8);
}

static void
test_errors(void **state)
{
	static const struct {
		int status;
		enum nbd_error error;
	} table[] = {{0, NBD_SUCCESS},       {-EROFS, NBD_EPERM},        {-EPERM, NBD_EPERM},
		     {-ENOMEM, NBD_ENOMEM},  {-EINVAL, NBD_EINVAL},      {-ENOSPC, NBD_ENOSPC},
		     {-EFBIG, NBD_ENOSPC},   {-ENODEV, NBD_ESHUTDOWN},   {-ECANCELED, NBD_ESHUTDOWN},
		     {-EIO, NBD_EIO},        {-EOPNOTSUPP, NBD_ENOTSUP}, {-EOVERFLOW, NBD_EOVERFLOW},
		     {-EILSEQ, NBD_EIO},     {-ETIMEDOUT, NBD_EIO}};

	for (unsigned i = 0; i < ARRAY_SIZE(table); i++) {
		assert_int_equal(nbd_error_of(table[i].status), table[i].error);
	}
}

static size_t
make_info(uint8_t *out, const char *name, unsigned count, const uint16_t *types)
{
	uint8_t *p = nbd_put32(out, (uint32_t)strlen(name));

	memcpy(p, name, strlen(name));
	p = nbd_put16(p + strlen(name), (uint16_t)count);
	for (unsigned i = 0; i < count; i++) {
		p = nbd_put16(p, types[i]);
	}
	return (size_t)(p - out);
}

/* Every length but the right one is refused, and no byte behind it is looked at. */
static void
test_info_queries(void **state)
{
	static const uint16_t types[] = {NBD_INFO_BLOCK_SIZE, 77, NBD_INFO_NAME};
	uint8_t in[64];
	size_t len = make_info(in, "vol", 3, types);
	struct nbd_info_query q;

	assert_true(nbd_get_info_query(in, len, &q));
	assert_int_equal(q.name.length, 3);
	assert_memory_equal(q.name.text, "vol", 3);
	assert_true(q.block_size && q.canonical_name && !q.description);
	for (size_t i = 0; i < sizeof(in); i++) {
		if (i != len) {
			assert_false(nbd_get_info_query(in, i, &q));
		}
	}
	nbd_put32(in, UINT32_MAX);
	assert_false(nbd_get_info_query(in, len, &q));
	len = make_info(in, "vol", 0, NULL);
	in[5] = '\0';
	assert_false(nbd_get_info_query(in, len, &q));
}

static void
test_meta_queries(void **state)
{
	uint8_t in[64], *p = nbd_put32(in, 1);
	struct nbd_meta_query q;
	struct nbd_string s;
	size_t len;

	*p = 'x';
	p = nbd_put32(p + 1, 2);
	p = nbd_put32(p, 5);
	memcpy(p, "base:", 5);
	p = nbd_put32(p + 5, 0);
	len = (size_t)(p - in);
	assert_true(nbd_get_meta_query(in, len, &q));
	assert_int_equal(q.count, 2);
	assert_true(nbd_next_meta_query(&q, &s));
	assert_int_equal(s.length, 5);
	assert_true(nbd_next_meta_query(&q, &s));
	assert_int_equal(s.length, 0);
	assert_false(nbd_next_meta_query(&q, &s));
	for (size_t i = 0; i < len; i++) {
		assert_false(nbd_get_meta_query(in, i, &q));
	}
	assert_false(nbd_get_meta_query(in, len + 1, &q));
	/* A number of queries that nothing follows. */
	nbd_put32(in + 5, UINT32_MAX);
	assert_false(nbd_get_meta_query(in, len, &q));
}

static void
test_options(void **state)
{
	uint8_t in[NBD_OPTION_BYTES];
	struct nbd_option_header h;

	nbd_put32(nbd_put32(nbd_put64(in, NBD_OPTION_MAGIC), NBD_OPT_GO), 9);
	assert_true(nbd_get_option(in, &h));
	assert_int_equal(h.option, NBD_OPT_GO);
	assert_int_equal(h.length, 9);
	in[0] ^= 0x80;
	assert_false(nbd_get_option(in, &h));
}

static void
test_kernel_devices(void **state)
{
	assert_int_equal(nbd_kernel_index("/dev/nbd0"), 0);
	assert_int_equal(nbd_kernel_index("/dev/nbd15"), 15);
	assert_int_equal(nbd_kernel_index("/dev/nbd"), -EINVAL);
	assert_int_equal(nbd_kernel_index("/dev/nbd1p1"), -EINVAL);
	assert_int_equal(nbd_kernel_index("/dev/nbd-1"), -EINVAL);
	assert_int_equal(nbd_kernel_index("/dev/nbd99999999999999999999"), -EINVAL);
	assert_int_equal(nbd_kernel_index("/dev/sda"), -EINVAL);
	assert_int_equal(nbd_kernel_index(""), -EINVAL);
}

/* The message that the kernel gets: lengths add up, the socket is nested in its list. */
static void
test_kernel_message(void **state)
{
	struct nbd_kernel_disk d = {.index = 3, .fd = 7, .size_bytes = 1 << 20, .block_size = 512, .id = "berth disk"};
	uint8_t out[NBD_KERNEL_MESSAGE_BYTES];
	size_t len = nbd_kernel_encode(&d, 30, false, out), at = 20;
	uint32_t total, fd = 0;
	unsigned attributes = 0;

	memcpy(&total, out, 4);
	assert_int_equal(total, len);
	while (at < len) {
		uint16_t bytes, type;

		memcpy(&bytes, out + at, 2);
		memcpy(&type, out + at + 2, 2);
		assert_true(bytes >= 4 && at + bytes <= len);
		if (type == (7 | 1 << 15)) { /* NBD_ATTR_SOCKETS */
			memcpy(&fd, out + at + 12, 4);
		}
		attributes++;
		at += (bytes + 3u) & ~3u;
	}
	assert_int_equal(at, len);
	assert_int_equal(fd, 7);
	assert_int_equal(attributes, 8);
	d.index = -1;
	d.fd = -1;
	assert_true(nbd_kernel_encode(&d, 30, true, out) < len);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_requests),       cmocka_unit_test(test_replies),
		cmocka_unit_test(test_errors),         cmocka_unit_test(test_info_queries),
		cmocka_unit_test(test_meta_queries),   cmocka_unit_test(test_options),
		cmocka_unit_test(test_kernel_devices), cmocka_unit_test(test_kernel_message),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
