/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vhost-user message codec: one table of types, one pair of functions per kind of payload.
 *
 * Invariants
 *  1. Nothing is read outside of [buf, buf + len), and what is decoded is a copy.
 *  2. The length of a message agrees with its type, and with the counts inside, before any of it is
 *     used.
 *  3. SET_CONFIG and GET_CONFIG may carry more bytes than they announce (SPDK's initiator always
 *     sends 256); no other may.
 */
#include "virtio/vhost_msg.h"

#include <errno.h>
#include <string.h>

#include "base/check.h"

enum payload { NONE, U64, STATE, ADDR, MEMORY, REGION, CONFIG, OPAQUE, ACK };

struct message_type {
	const char *name;
	enum payload request;
	enum payload reply;
	unsigned fds_max;
};

#define ENTRY(id, number, request, reply, fds) [number] = {#id, request, reply, fds},
static const struct message_type front_types[] = {VHOST_USER_REQUESTS(ENTRY)};
static const struct message_type back_types[] = {VHOST_USER_BACKEND_REQUESTS(ENTRY)};
#undef ENTRY

/* On the wire. */
#define REGION_BYTES 32
#define MEMORY_HEADER_BYTES 8
#define CONFIG_HEADER_BYTES 12
#define SINGLE_REGION_PADDING_BYTES 8

_Static_assert(sizeof(struct vhost_user_region) == REGION_BYTES, "a region is laid out as on the wire");
_Static_assert(sizeof(struct vhost_vring_state) == 8, "as in the specification");
_Static_assert(sizeof(struct vhost_vring_addr) == 40, "as in the specification");

static const struct message_type *
find_type(enum vhost_msg_way way, uint32_t type)
{
	bool front = way == VHOST_MSG_REQUEST || way == VHOST_MSG_REPLY;
	const struct message_type *types = front ? front_types : back_types;
	size_t count = front ? ARRAY_SIZE(front_types) : ARRAY_SIZE(back_types);

	return type < count && types[type].name != NULL ? &types[type] : NULL;
}

static bool
is_reply(enum vhost_msg_way way)
{
	return way == VHOST_MSG_REPLY || way == VHOST_MSG_BACKEND_REPLY;
}

static enum payload
payload_of(enum vhost_msg_way way, const struct message_type *type)
{
	if (!is_reply(way)) {
		return type->request;
	}
	return type == NULL || type->reply == ACK ? U64 : type->reply;
}

static uint32_t
get_u32(const uint8_t *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* ---- Decoding ---- */

int
vhost_msg_length(const uint8_t header[VHOST_USER_HEADER_BYTES], struct err *err)
{
	uint32_t flags = get_u32(header + 4), size = get_u32(header + 8);

	if ((flags & VHOST_USER_VERSION_MASK) != VHOST_USER_VERSION) {
		return err_set(err, -EPROTO, "a message of protocol version %u", flags & VHOST_USER_VERSION_MASK);
	}
	if (size > VHOST_USER_PAYLOAD_MAX) {
		return err_set(err, -EMSGSIZE, "a message of %u bytes, more than %u", size, VHOST_USER_PAYLOAD_MAX);
	}
	return (int)(VHOST_USER_HEADER_BYTES + size);
}

static int
wrong_size(const struct message_type *type, size_t size, struct err *err)
{
	return err_set(err, -EPROTO, "%s with a payload of %zu bytes", type != NULL ? type->name : "a reply", size);
}

static int
decode_memory(const struct message_type *type, const uint8_t *p, size_t size, struct vhost_user_memory *memory,
	      struct err *err)
{
	if (size < MEMORY_HEADER_BYTES) {
		return wrong_size(type, size, err);
	}
	memory->count = get_u32(p);
	if (memory->count > VHOST_USER_REGIONS_MAX) {
		return err_set(err, -EPROTO, "%s with %u regions, more than %u", type->name, memory->count,
			       VHOST_USER_REGIONS_MAX);
	}
	if (size != MEMORY_HEADER_BYTES + memory->count * (size_t)REGION_BYTES) {
		return wrong_size(type, size, err);
	}
	memcpy(memory->regions, p + MEMORY_HEADER_BYTES, size - MEMORY_HEADER_BYTES);
	return 0;
}

static int
decode_config(enum vhost_msg_way way, const struct message_type *type, const uint8_t *p, size_t size,
	      struct vhost_user_config *config, struct err *err)
{
	memset(config, 0, sizeof(*config));
	if (size == 0 && is_reply(way)) {
		return 0;
	}
	if (size < CONFIG_HEADER_BYTES) {
		return wrong_size(type, size, err);
	}
	config->offset = get_u32(p);
	config->size = get_u32(p + 4);
	config->flags = get_u32(p + 8);
	if (config->size > VHOST_USER_CONFIG_MAX) {
		return err_set(err, -EPROTO, "%s of %u bytes, more than %u", type->name, config->size,
			       VHOST_USER_CONFIG_MAX);
	}
	if (size - CONFIG_HEADER_BYTES < config->size) {
		return wrong_size(type, size, err);
	}
	memcpy(config->data, p + CONFIG_HEADER_BYTES, config->size);
	return 0;
}

static int
decode_fixed(const struct message_type *type, const uint8_t *p, size_t size, void *to, size_t to_size,
	     struct err *err)
{
	if (size != to_size) {
		return wrong_size(type, size, err);
	}
	if (to_size > 0) {
		memcpy(to, p, to_size);
	}
	return 0;
}

static int
decode_payload(enum vhost_msg_way way, const struct message_type *type, const uint8_t *p, size_t size,
	       struct vhost_user_msg *msg, struct err *err)
{
	switch (payload_of(way, type)) {
	case NONE:
		return decode_fixed(type, p, size, NULL, 0, err);
	case U64:
		return decode_fixed(type, p, size, &msg->u64, sizeof(msg->u64), err);
	case STATE:
		return decode_fixed(type, p, size, &msg->state, sizeof(msg->state), err);
	case ADDR:
		return decode_fixed(type, p, size, &msg->addr, sizeof(msg->addr), err);
	case MEMORY:
		return decode_memory(type, p, size, &msg->memory, err);
	case REGION:
		if (size < SINGLE_REGION_PADDING_BYTES) {
			return wrong_size(type, size, err);
		}
		return decode_fixed(type, p + SINGLE_REGION_PADDING_BYTES, size - SINGLE_REGION_PADDING_BYTES,
				    &msg->region, sizeof(msg->region), err);
	case CONFIG:
		return decode_config(way, type, p, size, &msg->config, err);
	default:
		return err_set(err, -EOPNOTSUPP, "%s is not supported", type->name);
	}
}

int
vhost_msg_decode(enum vhost_msg_way way, const void *buf, size_t len, struct vhost_user_msg *ret_msg, struct err *err)
{
	const struct message_type *type;
	const uint8_t *p = buf;
	int rc;

	if (len < VHOST_USER_HEADER_BYTES) {
		return err_set(err, -EPROTO, "a message of %zu bytes", len);
	}
	rc = vhost_msg_length(p, err);
	if (rc < 0) {
		return rc;
	}
	if ((size_t)rc != len) {
		return err_set(err, -EPROTO, "a message of %zu bytes that says it has %d", len, rc);
	}
	ret_msg->type = get_u32(p);
	ret_msg->flags = get_u32(p + 4) & (VHOST_USER_REPLY | VHOST_USER_NEED_REPLY);
	if (((ret_msg->flags & VHOST_USER_REPLY) != 0) != is_reply(way)) {
		return err_set(err, -EPROTO, "%s %s", vhost_msg_name(way, ret_msg->type),
			       is_reply(way) ? "without the reply flag" : "with the reply flag");
	}
	type = find_type(way, ret_msg->type);
	if (type == NULL && !is_reply(way)) {
		return err_set(err, -EOPNOTSUPP, "unknown message %u", ret_msg->type);
	}
	return decode_payload(way, type, p + VHOST_USER_HEADER_BYTES, len - VHOST_USER_HEADER_BYTES, ret_msg, err);
}

/* ---- Encoding ---- */

static size_t
encode_payload(enum vhost_msg_way way, enum payload payload, const struct vhost_user_msg *msg, uint8_t *p)
{
	size_t size;

	switch (payload) {
	case NONE:
		return 0;
	case U64:
		memcpy(p, &msg->u64, sizeof(msg->u64));
		return sizeof(msg->u64);
	case STATE:
		memcpy(p, &msg->state, sizeof(msg->state));
		return sizeof(msg->state);
	case ADDR:
		memcpy(p, &msg->addr, sizeof(msg->addr));
		return sizeof(msg->addr);
	case MEMORY:
		CHECK(msg->memory.count <= VHOST_USER_REGIONS_MAX);
		size = msg->memory.count * sizeof(msg->memory.regions[0]);
		memset(p, 0, MEMORY_HEADER_BYTES);
		memcpy(p, &msg->memory.count, sizeof(msg->memory.count));
		memcpy(p + MEMORY_HEADER_BYTES, msg->memory.regions, size);
		return MEMORY_HEADER_BYTES + size;
	case REGION:
		memset(p, 0, SINGLE_REGION_PADDING_BYTES);
		memcpy(p + SINGLE_REGION_PADDING_BYTES, &msg->region, sizeof(msg->region));
		return SINGLE_REGION_PADDING_BYTES + sizeof(msg->region);
	case CONFIG:
		CHECK(msg->config.size <= VHOST_USER_CONFIG_MAX);
		if (msg->config.size == 0 && is_reply(way)) {
			return 0;
		}
		memcpy(p, &msg->config, CONFIG_HEADER_BYTES);
		memcpy(p + CONFIG_HEADER_BYTES, msg->config.data, msg->config.size);
		return CONFIG_HEADER_BYTES + msg->config.size;
	default:
		CHECK(!"a message that has an encoding");
		return 0;
	}
}

size_t
vhost_msg_encode(enum vhost_msg_way way, const struct vhost_user_msg *msg, uint8_t buf[VHOST_USER_MESSAGE_MAX])
{
	const struct message_type *type = find_type(way, msg->type);
	uint32_t header[3] = {msg->type, msg->flags | VHOST_USER_VERSION, 0};
	size_t size;

	CHECK((type != NULL || is_reply(way)) && ((msg->flags & VHOST_USER_REPLY) != 0) == is_reply(way));
	_Static_assert(sizeof(header) == VHOST_USER_HEADER_BYTES, "three 32-bit fields");
	size = encode_payload(way, payload_of(way, type), msg, buf + VHOST_USER_HEADER_BYTES);
	header[2] = (uint32_t)size;
	memcpy(buf, header, sizeof(header));
	return VHOST_USER_HEADER_BYTES + size;
}

/* ---- Facts about types ---- */

unsigned
vhost_msg_fds_max(enum vhost_msg_way way, uint32_t type)
{
	const struct message_type *t = find_type(way, type);

	return t != NULL && !is_reply(way) ? t->fds_max : 0;
}

bool
vhost_msg_has_reply(enum vhost_msg_way way, uint32_t type)
{
	const struct message_type *t = find_type(way, type);

	return t != NULL && t->reply != ACK;
}

const char *
vhost_msg_name(enum vhost_msg_way way, uint32_t type)
{
	const struct message_type *t = find_type(way, type);

	return t != NULL ? t->name : "unknown";
}
