/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/check.h"
#include "virtio/vhost_msg.h"

static uint8_t buf[VHOST_USER_MESSAGE_MAX];

static size_t
raw(uint32_t type, uint32_t flags, uint32_t size)
{
	uint32_t header[3] = {type, flags, size};

	memset(buf, 0, sizeof(buf));
	memcpy(buf, header, sizeof(header));
	return sizeof(header) + size;
}

/* Exactly sized, so that a read past the end is found by the address sanitizer. */
static int
decode(enum vhost_msg_way way, size_t len, struct vhost_user_msg *ret_msg)
{
	uint8_t *copy = malloc(len > 0 ? len : 1);
	struct err err = ERR_NONE;
	int rc;

	memcpy(copy, buf, len);
	rc = vhost_msg_decode(way, copy, len, ret_msg, &err);
	assert_int_equal(rc, err.code);
	free(copy);
	return rc;
}

static void
round_trip(enum vhost_msg_way way, const struct vhost_user_msg *msg, size_t bytes)
{
	struct vhost_user_msg back;
	size_t len = vhost_msg_encode(way, msg, buf);

	memset(&back, 0, sizeof(back));
	assert_int_equal(len, bytes);
	assert_int_equal(vhost_msg_length(buf, NULL), len);
	assert_int_equal(decode(way, len, &back), 0);
	assert_memory_equal(&back, msg, sizeof(back));
	/* Neither a byte less nor a byte more. */
	assert_int_equal(decode(way, len - 1, &back), -EPROTO);
	assert_int_equal(decode(way, len + 1, &back), -EPROTO);
}

static void
test_round_trips(void **state)
{
	struct vhost_user_msg msg;

	memset(&msg, 0, sizeof(msg));
	msg.type = VHOST_USER_GET_FEATURES;
	round_trip(VHOST_MSG_REQUEST, &msg, 12);
	msg.type = VHOST_USER_SET_FEATURES;
	msg.flags = VHOST_USER_NEED_REPLY;
	msg.u64 = UINT64_C(0x1122334455667788);
	round_trip(VHOST_MSG_REQUEST, &msg, 20);
	msg.type = VHOST_USER_GET_FEATURES;
	msg.flags = VHOST_USER_REPLY;
	round_trip(VHOST_MSG_REPLY, &msg, 20);
	msg.type = VHOST_USER_SET_MEM_TABLE; /* an acknowledgement */
	round_trip(VHOST_MSG_REPLY, &msg, 20);
	msg.type = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
	round_trip(VHOST_MSG_BACKEND_REPLY, &msg, 20);
	msg.type = 4711; /* "no" to what is unknown */
	round_trip(VHOST_MSG_REPLY, &msg, 20);

	memset(&msg, 0, sizeof(msg));
	msg.type = VHOST_USER_SET_VRING_ADDR;
	msg.addr = (struct vhost_vring_addr){.index = 3, .flags = 1, .desc_user_addr = 4096,
					     .used_user_addr = 8192, .avail_user_addr = 16384, .log_guest_addr = 5};
	round_trip(VHOST_MSG_REQUEST, &msg, 12 + 40);

	memset(&msg, 0, sizeof(msg));
	msg.type = VHOST_USER_SET_VRING_NUM;
	msg.state = (struct vhost_vring_state){.index = 1, .num = 256};
	round_trip(VHOST_MSG_REQUEST, &msg, 12 + 8);

	memset(&msg, 0, sizeof(msg));
	msg.type = VHOST_USER_SET_MEM_TABLE;
	msg.memory.count = VHOST_USER_REGIONS_MAX;
	for (unsigned i = 0; i < VHOST_USER_REGIONS_MAX; i++) {
		msg.memory.regions[i] = (struct vhost_user_region){i, i + 1, i + 2, i + 3};
	}
	round_trip(VHOST_MSG_REQUEST, &msg, 12 + 8 + 8 * 32);

	memset(&msg, 0, sizeof(msg));
	msg.type = VHOST_USER_ADD_MEM_REG;
	msg.region = (struct vhost_user_region){1, 2, 3, 4};
	round_trip(VHOST_MSG_REQUEST, &msg, 12 + 40);

	memset(&msg, 0, sizeof(msg));
	msg.type = VHOST_USER_BACKEND_CONFIG_CHANGE_MSG;
	round_trip(VHOST_MSG_BACKEND_REQUEST, &msg, 12);
}

/* Byte for byte, so that encoder and decoder cannot be wrong together. */
static void
test_layout(void **state)
{
	static const uint8_t expected[] = {
		8, 0, 0, 0, 9, 0, 0, 0, 8, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0, 0,
	};
	struct vhost_user_msg msg = {.type = VHOST_USER_SET_VRING_NUM, .flags = VHOST_USER_NEED_REPLY};

	msg.state = (struct vhost_vring_state){.index = 2, .num = 256};
	assert_int_equal(vhost_msg_encode(VHOST_MSG_REQUEST, &msg, buf), sizeof(expected));
	assert_memory_equal(buf, expected, sizeof(expected));
}

static void
test_config(void **state)
{
	struct vhost_user_msg msg, back;
	size_t len;

	memset(&msg, 0, sizeof(msg));
	msg.type = VHOST_USER_SET_CONFIG;
	msg.config.offset = 32;
	msg.config.size = 2;
	memcpy(msg.config.data, "ab", 2);
	len = vhost_msg_encode(VHOST_MSG_REQUEST, &msg, buf);
	assert_int_equal(len, 12 + 12 + 2);
	assert_int_equal(decode(VHOST_MSG_REQUEST, len, &back), 0);
	assert_int_equal(back.config.offset, 32);
	assert_memory_equal(back.config.data, "ab", 3);

	/* More room than it announces is accepted, less is not. */
	buf[8] = 12 + 256 - 256;
	assert_int_equal(decode(VHOST_MSG_REQUEST, 12 + 12, &back), -EPROTO);
	len = raw(VHOST_USER_GET_CONFIG, 1, 12 + 256);
	buf[12 + 4] = 60;
	assert_int_equal(decode(VHOST_MSG_REQUEST, len, &back), 0);
	assert_int_equal(back.config.size, 60);
	buf[12 + 4] = 0;
	buf[12 + 5] = 1;
	assert_int_equal(decode(VHOST_MSG_REQUEST, len, &back), 0);
	buf[12 + 4] = 1;
	assert_int_equal(decode(VHOST_MSG_REQUEST, len, &back), -EPROTO);
	assert_int_equal(decode(VHOST_MSG_REQUEST, raw(VHOST_USER_GET_CONFIG, 1, 0), &back), -EPROTO);

	/* A failed request is answered by an empty payload. */
	memset(&msg, 0, sizeof(msg));
	msg.type = VHOST_USER_GET_CONFIG;
	msg.flags = VHOST_USER_REPLY;
	round_trip(VHOST_MSG_REPLY, &msg, 12);
}

static void
test_malformed(void **state)
{
	struct vhost_user_msg msg;
	size_t len;

	for (len = 0; len < VHOST_USER_HEADER_BYTES; len++) {
		assert_int_equal(decode(VHOST_MSG_REQUEST, len, &msg), -EPROTO);
	}
	raw(VHOST_USER_GET_FEATURES, 2, 0);
	assert_int_equal(vhost_msg_length(buf, NULL), -EPROTO);
	raw(VHOST_USER_GET_FEATURES, 1, VHOST_USER_PAYLOAD_MAX + 1);
	assert_int_equal(vhost_msg_length(buf, NULL), -EMSGSIZE);
	raw(VHOST_USER_GET_FEATURES, 1, UINT32_MAX);
	assert_int_equal(vhost_msg_length(buf, NULL), -EMSGSIZE);
	/* The reply flag says who speaks. */
	assert_int_equal(decode(VHOST_MSG_REQUEST, raw(VHOST_USER_GET_FEATURES, 5, 0), &msg), -EPROTO);
	assert_int_equal(decode(VHOST_MSG_REPLY, raw(VHOST_USER_GET_FEATURES, 1, 8), &msg), -EPROTO);
	/* The count of regions and the length must agree. */
	len = raw(VHOST_USER_SET_MEM_TABLE, 1, 8 + 32);
	buf[12] = 2;
	assert_int_equal(decode(VHOST_MSG_REQUEST, len, &msg), -EPROTO);
	buf[12] = 1;
	assert_int_equal(decode(VHOST_MSG_REQUEST, len, &msg), 0);
	memset(buf + 12, 0xff, 4);
	assert_int_equal(decode(VHOST_MSG_REQUEST, len, &msg), -EPROTO);
	len = raw(VHOST_USER_SET_MEM_TABLE, 1, 8 + 9 * 32);
	buf[12] = 9;
	assert_int_equal(decode(VHOST_MSG_REQUEST, len, &msg), -EPROTO);
}

static void
test_every_length_of_every_type(void **state)
{
	struct vhost_user_msg msg;
	int rc;

	for (uint32_t type = 0; type < 50; type++) {
		for (uint32_t size = 0; size < 300; size++) {
			size_t len = raw(type, 1, size);

			memset(buf + 12, 0x01, size);
			rc = decode(VHOST_MSG_REQUEST, len, &msg);
			assert_true(rc == 0 || rc == -EPROTO || rc == -EOPNOTSUPP);
			if (rc == 0) {
				assert_non_null(strchr(vhost_msg_name(VHOST_MSG_REQUEST, type), '_'));
			}
			if (type == VHOST_USER_SET_FEATURES || type == VHOST_USER_SET_VRING_NUM) {
				assert_int_equal(rc, size == 8 ? 0 : -EPROTO);
			}
			if (type == VHOST_USER_ADD_MEM_REG || type == VHOST_USER_SET_VRING_ADDR) {
				assert_int_equal(rc, size == 40 ? 0 : -EPROTO);
			}
			if (type == VHOST_USER_GET_FEATURES) {
				assert_int_equal(rc, size == 0 ? 0 : -EPROTO);
			}
		}
	}
}

static void
test_unknown_types_keep_their_flags(void **state)
{
	struct vhost_user_msg msg;

	assert_int_equal(decode(VHOST_MSG_REQUEST, raw(4711, 9, 100), &msg), -EOPNOTSUPP);
	assert_int_equal(msg.type, 4711);
	assert_int_equal(msg.flags, VHOST_USER_NEED_REPLY);
	assert_int_equal(decode(VHOST_MSG_REQUEST, raw(VHOST_USER_SET_INFLIGHT_FD, 1, 20), &msg), -EOPNOTSUPP);
	assert_int_equal(decode(VHOST_MSG_REQUEST, raw(0, 1, 0), &msg), -EOPNOTSUPP);
	assert_string_equal(vhost_msg_name(VHOST_MSG_REQUEST, 0), "unknown");
	assert_int_equal(vhost_msg_fds_max(VHOST_MSG_REQUEST, 4711), 0);
}

static void
test_facts(void **state)
{
	assert_int_equal(vhost_msg_fds_max(VHOST_MSG_REQUEST, VHOST_USER_SET_MEM_TABLE), 8);
	assert_int_equal(vhost_msg_fds_max(VHOST_MSG_REQUEST, VHOST_USER_SET_VRING_KICK), 1);
	assert_int_equal(vhost_msg_fds_max(VHOST_MSG_REQUEST, VHOST_USER_SET_VRING_NUM), 0);
	assert_true(vhost_msg_has_reply(VHOST_MSG_REQUEST, VHOST_USER_GET_CONFIG));
	assert_false(vhost_msg_has_reply(VHOST_MSG_REQUEST, VHOST_USER_SET_CONFIG));
	assert_string_equal(vhost_msg_name(VHOST_MSG_REQUEST, 37), "ADD_MEM_REG");
	assert_string_equal(vhost_msg_name(VHOST_MSG_BACKEND_REQUEST, 2), "CONFIG_CHANGE_MSG");
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trips),
		cmocka_unit_test(test_layout),
		cmocka_unit_test(test_config),
		cmocka_unit_test(test_malformed),
		cmocka_unit_test(test_every_length_of_every_type),
		cmocka_unit_test(test_unknown_types_keep_their_flags),
		cmocka_unit_test(test_facts),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
