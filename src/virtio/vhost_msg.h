/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The messages of the vhost-user protocol (QEMU: docs/interop/vhost-user.rst), for the back end and
 * the front end. Pure functions between bytes and structures: no I/O, no allocation, nothing
 * global; any thread.
 *
 * Names and numbers are the specification's. "Front" is the VMM, "back" the device.
 */
#ifndef VIRTIO_VHOST_MSG_H
#define VIRTIO_VHOST_MSG_H

#include <linux/vhost_types.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

/* The bit of GET_FEATURES and SET_FEATURES that opens protocol features. */
#define VHOST_USER_F_PROTOCOL_FEATURES 30

enum vhost_user_protocol_feature {
	VHOST_USER_PROTOCOL_F_MQ = 0,
	VHOST_USER_PROTOCOL_F_LOG_SHMFD = 1,
	VHOST_USER_PROTOCOL_F_REPLY_ACK = 3,
	VHOST_USER_PROTOCOL_F_BACKEND_REQ = 5,
	VHOST_USER_PROTOCOL_F_CONFIG = 9,
	VHOST_USER_PROTOCOL_F_BACKEND_SEND_FD = 10,
	VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD = 12,
	VHOST_USER_PROTOCOL_F_RESET_DEVICE = 13,
	VHOST_USER_PROTOCOL_F_INBAND_NOTIFICATIONS = 14,
	VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
	VHOST_USER_PROTOCOL_F_STATUS = 16,
};

/* Flags of the header. */
#define VHOST_USER_VERSION 0x1u
#define VHOST_USER_VERSION_MASK 0x3u
#define VHOST_USER_REPLY 0x4u
#define VHOST_USER_NEED_REPLY 0x8u

/*
 * Requests of the front end: id, number, payload of the request, payload of the reply, most
 * descriptors. Payload ACK: no reply of its own; a u64 (0 for success) when REPLY_ACK is negotiated
 * and NEED_REPLY is set. OPAQUE: its payload is not decoded.
 */
#define VHOST_USER_REQUESTS(X) \
	X(GET_FEATURES, 1, NONE, U64, 0) \
	X(SET_FEATURES, 2, U64, ACK, 0) \
	X(SET_OWNER, 3, NONE, ACK, 0) \
	X(RESET_OWNER, 4, NONE, ACK, 0) \
	X(SET_MEM_TABLE, 5, MEMORY, ACK, VHOST_USER_REGIONS_MAX) \
	X(SET_LOG_BASE, 6, OPAQUE, ACK, 1) \
	X(SET_LOG_FD, 7, OPAQUE, ACK, 1) \
	X(SET_VRING_NUM, 8, STATE, ACK, 0) \
	X(SET_VRING_ADDR, 9, ADDR, ACK, 0) \
	X(SET_VRING_BASE, 10, STATE, ACK, 0) \
	X(GET_VRING_BASE, 11, STATE, STATE, 0) \
	X(SET_VRING_KICK, 12, U64, ACK, 1) \
	X(SET_VRING_CALL, 13, U64, ACK, 1) \
	X(SET_VRING_ERR, 14, U64, ACK, 1) \
	X(GET_PROTOCOL_FEATURES, 15, NONE, U64, 0) \
	X(SET_PROTOCOL_FEATURES, 16, U64, ACK, 0) \
	X(GET_QUEUE_NUM, 17, NONE, U64, 0) \
	X(SET_VRING_ENABLE, 18, STATE, ACK, 0) \
	X(SEND_RARP, 19, OPAQUE, ACK, 0) \
	X(NET_SET_MTU, 20, OPAQUE, ACK, 0) \
	X(SET_BACKEND_REQ_FD, 21, NONE, ACK, 1) \
	X(IOTLB_MSG, 22, OPAQUE, ACK, 0) \
	X(SET_VRING_ENDIAN, 23, OPAQUE, ACK, 0) \
	X(GET_CONFIG, 24, CONFIG, CONFIG, 0) \
	X(SET_CONFIG, 25, CONFIG, ACK, 0) \
	X(CREATE_CRYPTO_SESSION, 26, OPAQUE, ACK, 0) \
	X(CLOSE_CRYPTO_SESSION, 27, OPAQUE, ACK, 0) \
	X(POSTCOPY_ADVISE, 28, OPAQUE, ACK, 0) \
	X(POSTCOPY_LISTEN, 29, OPAQUE, ACK, 0) \
	X(POSTCOPY_END, 30, OPAQUE, ACK, 0) \
	X(GET_INFLIGHT_FD, 31, OPAQUE, ACK, 0) \
	X(SET_INFLIGHT_FD, 32, OPAQUE, ACK, 1) \
	X(GPU_SET_SOCKET, 33, OPAQUE, ACK, 1) \
	X(RESET_DEVICE, 34, NONE, ACK, 0) \
	X(VRING_KICK, 35, OPAQUE, ACK, 0) \
	X(GET_MAX_MEM_SLOTS, 36, NONE, U64, 0) \
	X(ADD_MEM_REG, 37, REGION, ACK, 1) \
	X(REM_MEM_REG, 38, REGION, ACK, 1) \
	X(SET_STATUS, 39, U64, ACK, 0) \
	X(GET_STATUS, 40, NONE, U64, 0)

/* Requests of the back end, on the channel that SET_BACKEND_REQ_FD brought. */
#define VHOST_USER_BACKEND_REQUESTS(X) \
	X(IOTLB_MSG, 1, OPAQUE, ACK, 0) \
	X(CONFIG_CHANGE_MSG, 2, NONE, ACK, 0) \
	X(VRING_HOST_NOTIFIER_MSG, 3, OPAQUE, ACK, 1) \
	X(VRING_CALL, 4, OPAQUE, ACK, 0) \
	X(VRING_ERR, 5, OPAQUE, ACK, 0)

enum vhost_user_request {
#define VHOST_USER_ENUM(id, number, request, reply, fds) VHOST_USER_##id = (number),
	VHOST_USER_REQUESTS(VHOST_USER_ENUM)
#undef VHOST_USER_ENUM
};

enum vhost_user_backend_request {
#define VHOST_USER_ENUM(id, number, request, reply, fds) VHOST_USER_BACKEND_##id = (number),
	VHOST_USER_BACKEND_REQUESTS(VHOST_USER_ENUM)
#undef VHOST_USER_ENUM
};

#define VHOST_USER_HEADER_BYTES 12
/* The largest payload we take; the largest that exists is a crypto session (1072 bytes). */
#define VHOST_USER_PAYLOAD_MAX 2048
#define VHOST_USER_MESSAGE_MAX (VHOST_USER_HEADER_BYTES + VHOST_USER_PAYLOAD_MAX)
#define VHOST_USER_REGIONS_MAX 8 /* of one SET_MEM_TABLE */
#define VHOST_USER_CONFIG_MAX 256
/* SET_VRING_KICK, CALL, ERR: bits of the payload. */
#define VHOST_USER_VRING_INDEX_MASK UINT64_C(0xff)
#define VHOST_USER_VRING_NOFD UINT64_C(0x100)
/* SET_CONFIG: the flag that allows read-only fields to be written. */
#define VHOST_USER_CONFIG_MIGRATION 0x1u

struct vhost_user_region {
	uint64_t gpa;         /* guest-physical address */
	uint64_t size;        /* bytes */
	uint64_t uva;         /* address in the front end */
	uint64_t mmap_offset; /* in the file */
};

struct vhost_user_memory {
	uint32_t count; /* <= VHOST_USER_REGIONS_MAX */
	struct vhost_user_region regions[VHOST_USER_REGIONS_MAX];
};

struct vhost_user_config {
	uint32_t offset;
	uint32_t size; /* <= VHOST_USER_CONFIG_MAX. In a reply 0: the request failed */
	uint32_t flags;
	uint8_t data[VHOST_USER_CONFIG_MAX];
};

struct vhost_user_msg {
	uint32_t type;  /* enum vhost_user_request, or ..._backend_request */
	uint32_t flags; /* VHOST_USER_REPLY, VHOST_USER_NEED_REPLY; encoding adds the version */
	union {
		uint64_t u64;
		struct vhost_vring_state state;
		struct vhost_vring_addr addr;
		struct vhost_user_memory memory;
		struct vhost_user_region region;
		struct vhost_user_config config;
	};
};

/* Which way a message goes: the same number means other things in each. */
enum vhost_msg_way {
	VHOST_MSG_REQUEST,         /* front to back */
	VHOST_MSG_REPLY,           /* back to front: the answer to it */
	VHOST_MSG_BACKEND_REQUEST, /* back to front, on the back end's channel */
	VHOST_MSG_BACKEND_REPLY,   /* front to back: the answer to it */
};

/*
 * How many bytes the whole message has that starts with these VHOST_USER_HEADER_BYTES; -EPROTO when
 * the version is wrong, -EMSGSIZE when it is longer than VHOST_USER_MESSAGE_MAX.
 */
int vhost_msg_length(const uint8_t header[VHOST_USER_HEADER_BYTES], struct err *err);

/*
 * Decodes one whole message of len bytes. 0; -EPROTO (version, reply flag, payload too short or too
 * long for its type, counts past their limits); -EOPNOTSUPP: a type that is unknown or not decoded,
 * *ret_msg then has type and flags. A reply to a request whose reply is an acknowledgement, or that
 * is unknown, has u64 as payload.
 */
int vhost_msg_decode(enum vhost_msg_way way, const void *buf, size_t len, struct vhost_user_msg *ret_msg,
		     struct err *err);

/* Writes the message and returns its length. The type must be one that vhost_msg_decode decodes; in
 * a reply it may be any. */
size_t vhost_msg_encode(enum vhost_msg_way way, const struct vhost_user_msg *msg, uint8_t buf[VHOST_USER_MESSAGE_MAX]);

/* Most descriptors that may come with a request; 0 for unknown types. */
unsigned vhost_msg_fds_max(enum vhost_msg_way way, uint32_t type);

/* True when a request is answered in any case, not only when NEED_REPLY is set. */
bool vhost_msg_has_reply(enum vhost_msg_way way, uint32_t type);

/* "SET_VRING_NUM"; "unknown" when it has no name. */
const char *vhost_msg_name(enum vhost_msg_way way, uint32_t type);

#endif
