/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What each message of the front end does (vhost-user specification, "Front-end message types"):
 * one function a type. A function checks everything first, then changes the session's description;
 * what queues must follow is left to rings_settle(), and the message is answered when they have.
 *
 * Descriptors: what a function wants it takes out of s->fds; the rest is closed after it, whatever
 * it returned.
 *
 * Rejected: remembering SET_VRING_ERR's descriptor (an error ends the session, which says it
 * louder, and descriptors are scarce); refusing SET_VRING_KICK for rings whose memory is not known
 * yet (it may come later).
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/virtio_ring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "vhost/session.h"

#define PROTOCOL_FEATURES \
	(1ull << VHOST_USER_PROTOCOL_F_MQ | 1ull << VHOST_USER_PROTOCOL_F_REPLY_ACK | \
	 1ull << VHOST_USER_PROTOCOL_F_BACKEND_REQ | 1ull << VHOST_USER_PROTOCOL_F_CONFIG | \
	 1ull << VHOST_USER_PROTOCOL_F_RESET_DEVICE | 1ull << VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS | \
	 1ull << VHOST_USER_PROTOCOL_F_STATUS)
#define RING_FEATURES \
	(1ull << VIRTIO_RING_F_INDIRECT_DESC | 1ull << VIRTIO_RING_F_EVENT_IDX | 1ull << VHOST_USER_F_PROTOCOL_FEATURES)

/* ---- The session as a whole ---- */

static int
settle(struct vhost_session *s)
{
	rings_settle(s, session_message_done);
	return MESSAGE_WAIT;
}

static int
get_features(struct vhost_session *s)
{
	s->msg.u64 = s->offered | 1ull << VHOST_USER_F_PROTOCOL_FEATURES;
	return 0;
}

static int
set_features(struct vhost_session *s)
{
	uint64_t features = s->msg.u64, unknown = features & ~(s->offered | 1ull << VHOST_USER_F_PROTOCOL_FEATURES);
	uint64_t changed = features ^ s->saved->features;

	if (unknown != 0) {
		return err_set(&s->err, -EINVAL, "features %#llx were not offered", (unsigned long long)unknown);
	}
	s->saved->features = features;
	if ((changed & RING_FEATURES) != 0) {
		rings_restart(s);
	}
	return settle(s);
}

static int
get_protocol_features(struct vhost_session *s)
{
	s->msg.u64 = PROTOCOL_FEATURES;
	return 0;
}

static int
set_protocol_features(struct vhost_session *s)
{
	if ((s->msg.u64 & ~PROTOCOL_FEATURES) != 0) {
		return err_set(&s->err, -EINVAL, "protocol features %#llx were not offered",
			       (unsigned long long)(s->msg.u64 & ~PROTOCOL_FEATURES));
	}
	s->saved->protocol_features = s->msg.u64;
	return 0;
}

/* SET_OWNER marks the beginning, which accept did; RESET_OWNER is to be ignored, says the
 * specification. */
static int
owner(struct vhost_session *s)
{
	return 0;
}

static int
get_queue_num(struct vhost_session *s)
{
	s->msg.u64 = VHOST_QUEUES_MAX;
	return 0;
}

static int
set_backend_req_fd(struct vhost_session *s)
{
	int fd = unix_fds_take(&s->fds);

	if (fd < 0) {
		return err_set(&s->err, -EINVAL, "SET_BACKEND_REQ_FD without a descriptor");
	}
	if (s->backend_fd >= 0) {
		close(s->backend_fd);
	}
	s->backend_fd = fd;
	return 0;
}

/* ---- The device ---- */

static int
get_config(struct vhost_session *s)
{
	struct vhost_user_config *config = &s->msg.config;
	const struct vhost_device_ops *ops = s->ctrlr->ops;
	uint8_t space[VHOST_USER_CONFIG_MAX] = {0};

	CHECK(ops->config_bytes <= sizeof(space));
	if (config->offset > sizeof(space) || config->size > sizeof(space) - config->offset) {
		/* The specification's way to say no. */
		config->size = 0;
		return 0;
	}
	ops->get_config(s->ctrlr, space);
	memcpy(config->data, space + config->offset, config->size);
	return 0;
}

static int
set_config(struct vhost_session *s)
{
	const struct vhost_user_config *config = &s->msg.config;
	const struct vhost_device_ops *ops = s->ctrlr->ops;
	int rc;

	if ((config->flags & ~VHOST_USER_CONFIG_MIGRATION) != 0 || config->offset > ops->config_bytes ||
	    config->size > ops->config_bytes - config->offset) {
		return err_set(&s->err, -EINVAL, "SET_CONFIG of %u bytes at %u, flags %#x", config->size, config->offset,
			       config->flags);
	}
	rc = ops->set_config(s->ctrlr, config->offset, config->size, config->data);
	return rc == 0 ? 0 : err_set(&s->err, rc, "SET_CONFIG of %u bytes at %u: %s", config->size, config->offset,
				     strerror(-rc));
}

/* What a queue used until it stopped is dropped once it has. */
static void
reset_done(struct vhost_session *s, int status)
{
	for (unsigned i = 0; i < s->saved->ring_count; i++) {
		struct state_ring *saved = state_ring(s->saved, i);
		struct ring *r = s->rings[i];

		*saved = (struct state_ring){.flags = saved->flags};
		if (r != NULL && r->kick_fd >= 0) {
			close(r->kick_fd);
			r->kick_fd = -1;
		}
	}
	session_message_done(s, status);
}

/* To the state after the connection, but for what the connection itself is about: memory and call
 * descriptors stay. */
static int
reset(struct vhost_session *s)
{
	s->saved->features = 0;
	s->saved->device_status = 0;
	for (unsigned i = 0; i < s->saved->ring_count; i++) {
		state_ring(s->saved, i)->flags &= STATE_RING_CALL;
	}
	rings_settle(s, reset_done);
	return MESSAGE_WAIT;
}

static int
set_status(struct vhost_session *s)
{
	if (s->msg.u64 > UINT8_MAX) {
		return err_set(&s->err, -EINVAL, "device status %#llx", (unsigned long long)s->msg.u64);
	}
	if (s->msg.u64 == 0) {
		return reset(s);
	}
	s->saved->device_status = (uint32_t)s->msg.u64;
	return 0;
}

static int
get_status(struct vhost_session *s)
{
	s->msg.u64 = s->saved->device_status;
	return 0;
}

/* ---- Memory ---- */

/* Puts map (taken) in the place of the present one; queues follow, then the old one goes. */
static int
use_map(struct vhost_session *s, struct memmap *map)
{
	CHECK(s->old_map == NULL);
	s->old_map = s->map;
	s->map = map;
	rings_remap(s);
	return settle(s);
}

static struct state_region
region_of(const struct vhost_user_region *r)
{
	return (struct state_region){.gpa = r->gpa, .size = r->size, .uva = r->uva, .mmap_offset = r->mmap_offset};
}

static int
set_mem_table(struct vhost_session *s)
{
	const struct vhost_user_memory *memory = &s->msg.memory;
	struct memmap *map, *next;

	if (s->fds.count != memory->count) {
		return err_set(&s->err, -EINVAL, "SET_MEM_TABLE with %u regions and %u descriptors", memory->count,
			       s->fds.count);
	}
	map = memmap_create();
	if (map == NULL) {
		return err_set(&s->err, -ENOMEM, "out of memory");
	}
	for (uint32_t i = 0; i < memory->count; i++, map = next) {
		const struct vhost_user_region *r = &memory->regions[i];

		next = memmap_add(map, r->gpa, r->size, r->uva, s->fds.fds[i], r->mmap_offset, &s->err);
		memmap_put(map);
		if (next == NULL) {
			return s->err.code;
		}
	}
	for (uint32_t i = 0; i < memory->count; i++) {
		*state_region(s->saved, i) = region_of(&memory->regions[i]);
	}
	s->saved->region_count = memory->count;
	return use_map(s, map);
}

static int
get_max_mem_slots(struct vhost_session *s)
{
	s->msg.u64 = MEMMAP_REGIONS_MAX;
	return 0;
}

static int
add_mem_reg(struct vhost_session *s)
{
	const struct vhost_user_region *r = &s->msg.region;
	struct memmap *map;

	if (s->fds.count != 1) {
		return err_set(&s->err, -EINVAL, "ADD_MEM_REG without a descriptor");
	}
	map = memmap_add(s->map, r->gpa, r->size, r->uva, s->fds.fds[0], r->mmap_offset, &s->err);
	if (map == NULL) {
		return s->err.code;
	}
	*state_region(s->saved, s->saved->region_count) = region_of(r);
	s->saved->region_count++;
	return use_map(s, map);
}

static int
rem_mem_reg(struct vhost_session *s)
{
	const struct vhost_user_region *r = &s->msg.region;
	struct memmap *map = memmap_remove(s->map, r->gpa, r->size, r->uva, &s->err);

	if (map == NULL) {
		return s->err.code;
	}
	for (uint32_t i = 0; i < s->saved->region_count; i++) {
		if (state_region(s->saved, i)->gpa == r->gpa) {
			*state_region(s->saved, i) = *state_region(s->saved, --s->saved->region_count);
			break;
		}
	}
	return use_map(s, map);
}

/* ---- Rings ---- */

static int
set_vring_num(struct vhost_session *s)
{
	uint32_t size = s->msg.state.num;
	struct ring *r = ring_get(s, s->msg.state.index);

	if (r == NULL) {
		return s->err.code;
	}
	if (size == 0 || size > VIRTQ_SIZE_MAX || (size & (size - 1)) != 0) {
		return err_set(&s->err, -EINVAL, "ring %u of %u entries", r->q.index, size);
	}
	if (r->running && size != r->saved->size) {
		return err_set(&s->err, -EBUSY, "ring %u runs: its size cannot change", r->q.index);
	}
	r->saved->size = size;
	return settle(s);
}

static int
set_vring_addr(struct vhost_session *s)
{
	const struct vhost_vring_addr *a = &s->msg.addr;
	struct ring *r = ring_get(s, a->index);
	struct state_ring *d;

	if (r == NULL) {
		return s->err.code;
	}
	if ((a->flags & 1u << VHOST_VRING_F_LOG) != 0) {
		return err_set(&s->err, -EOPNOTSUPP, "ring %u: logging was not offered", r->q.index);
	}
	if (a->desc_user_addr % VRING_DESC_ALIGN_SIZE != 0 || a->avail_user_addr % VRING_AVAIL_ALIGN_SIZE != 0 ||
	    a->used_user_addr % VRING_USED_ALIGN_SIZE != 0) {
		return err_set(&s->err, -EINVAL, "ring %u: misaligned addresses", r->q.index);
	}
	d = r->saved;
	r->remap = r->running && (d->desc != a->desc_user_addr || d->avail != a->avail_user_addr ||
				  d->used != a->used_user_addr);
	d->desc = a->desc_user_addr;
	d->avail = a->avail_user_addr;
	d->used = a->used_user_addr;
	d->flags |= STATE_RING_ADDR;
	return settle(s);
}

static int
set_vring_base(struct vhost_session *s)
{
	struct ring *r = ring_get(s, s->msg.state.index);

	if (r == NULL) {
		return s->err.code;
	}
	if (s->msg.state.num > UINT16_MAX) {
		return err_set(&s->err, -EINVAL, "ring %u: base %u", r->q.index, s->msg.state.num);
	}
	if (r->running) {
		return err_set(&s->err, -EBUSY, "ring %u runs: its base cannot change", r->q.index);
	}
	r->saved->base = (uint16_t)s->msg.state.num;
	return 0;
}

static void
vring_stopped(struct vhost_session *s, int status)
{
	struct ring *r = s->rings[s->msg.state.index];

	s->msg.state.num = r->saved->base;
	if (r->kick_fd >= 0) {
		close(r->kick_fd);
		r->kick_fd = -1;
	}
	session_message_done(s, status);
}

/* Stops the ring: until a new kick is set. */
static int
get_vring_base(struct vhost_session *s)
{
	struct ring *r = ring_get(s, s->msg.state.index);

	if (r == NULL) {
		return s->err.code;
	}
	r->saved->flags &= (uint16_t)~(STATE_RING_KICK | STATE_RING_POLLED);
	rings_settle(s, vring_stopped);
	return MESSAGE_WAIT;
}

static int
set_vring_enable(struct vhost_session *s)
{
	struct ring *r = ring_get(s, s->msg.state.index);

	if (r == NULL) {
		return s->err.code;
	}
	if (s->msg.state.num > 1) {
		return err_set(&s->err, -EINVAL, "ring %u: enable %u", r->q.index, s->msg.state.num);
	}
	if (s->msg.state.num == 1) {
		r->saved->flags |= STATE_RING_ENABLED;
	} else {
		r->saved->flags &= (uint16_t)~STATE_RING_ENABLED;
	}
	return settle(s);
}

/*
 * The descriptor of SET_VRING_KICK, CALL and ERR: *ret_fd is -1 when the message says that there is
 * none. Only eventfds and their like (anonymous inodes, which have no type) are taken: whatever a
 * file, pipe or socket does when it is written to or watched, it would do to an I/O thread.
 */
/* Nothing else: an epoll or a userfaultfd is an anonymous inode too, and can make whoever waits for it wait for its owner. */
static bool
is_eventfd(int fd)
{
	static const char expected[] = "anon_inode:[eventfd]";
	char path[32], target[sizeof(expected)];

	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	return readlink(path, target, sizeof(target)) == (ssize_t)strlen(expected) &&
	       memcmp(target, expected, strlen(expected)) == 0;
}

static int
take_vring_fd(struct vhost_session *s, struct ring **ret_ring, int *ret_fd)
{
	const char *name = vhost_msg_name(VHOST_MSG_REQUEST, s->msg.type);
	bool none = (s->msg.u64 & VHOST_USER_VRING_NOFD) != 0;

	if ((s->msg.u64 & ~(VHOST_USER_VRING_NOFD | VHOST_USER_VRING_INDEX_MASK)) != 0) {
		return err_set(&s->err, -EINVAL, "%s: value %#llx", name, (unsigned long long)s->msg.u64);
	}
	if (s->fds.count != (none ? 0 : 1)) {
		return err_set(&s->err, -EINVAL, "%s with %u descriptors", name, s->fds.count);
	}
	if (!none && !is_eventfd(s->fds.fds[0])) {
		return err_set(&s->err, -EINVAL, "%s: the descriptor is no eventfd", name);
	}
	*ret_ring = ring_get(s, (uint32_t)(s->msg.u64 & VHOST_USER_VRING_INDEX_MASK));
	if (*ret_ring == NULL) {
		return s->err.code;
	}
	*ret_fd = unix_fds_take(&s->fds);
	return 0;
}

/* A running queue uses its old descriptor until it has answered. */
static void
replace_fd(struct vhost_session *s, const struct ring *r, int *fd, int by)
{
	CHECK(s->old_fd < 0);
	if (r->running) {
		s->old_fd = *fd;
	} else if (*fd >= 0) {
		close(*fd);
	}
	*fd = by;
}

static void
set_flags(struct ring *r, uint16_t flags, bool on)
{
	r->saved->flags = (uint16_t)(on ? r->saved->flags | flags : r->saved->flags & ~flags);
}

static int
set_vring_kick(struct vhost_session *s)
{
	struct ring *r = NULL;
	int fd = -1;
	int rc = take_vring_fd(s, &r, &fd);

	if (rc != 0) {
		return rc;
	}
	replace_fd(s, r, &r->kick_fd, fd);
	set_flags(r, STATE_RING_KICK, true);
	set_flags(r, STATE_RING_POLLED, fd < 0);
	r->restart = r->running;
	if (ring_misplaced(s, r)) {
		VHOST_LOG(WARNING, s->ctrlr, "ring %u waits: it is not in guest memory", r->q.index);
	}
	return settle(s);
}

static int
set_vring_call(struct vhost_session *s)
{
	struct ring *r = NULL;
	int fd = -1;
	int rc = take_vring_fd(s, &r, &fd);

	if (rc != 0) {
		return rc;
	}
	/* For kernels without asynchronous I/O (call.c): then at least none that waits by oversight. */
	if (fd >= 0 && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) != 0) {
		close(fd);
		return err_set(&s->err, -EINVAL, "ring %u: a call descriptor that may block", r->q.index);
	}
	replace_fd(s, r, &r->call_fd, fd);
	set_flags(r, STATE_RING_CALL, fd >= 0);
	r->recall = r->running;
	return settle(s);
}

static int
set_vring_err(struct vhost_session *s)
{
	struct ring *r = NULL;
	int fd = -1;
	int rc = take_vring_fd(s, &r, &fd);

	if (rc == 0 && fd >= 0) {
		close(fd);
	}
	return rc;
}

/* ---- The table ---- */

static int (*const handlers[])(struct vhost_session *s) = {
	[VHOST_USER_GET_FEATURES] = get_features,
	[VHOST_USER_SET_FEATURES] = set_features,
	[VHOST_USER_SET_OWNER] = owner,
	[VHOST_USER_RESET_OWNER] = owner,
	[VHOST_USER_SET_MEM_TABLE] = set_mem_table,
	[VHOST_USER_SET_VRING_NUM] = set_vring_num,
	[VHOST_USER_SET_VRING_ADDR] = set_vring_addr,
	[VHOST_USER_SET_VRING_BASE] = set_vring_base,
	[VHOST_USER_GET_VRING_BASE] = get_vring_base,
	[VHOST_USER_SET_VRING_KICK] = set_vring_kick,
	[VHOST_USER_SET_VRING_CALL] = set_vring_call,
	[VHOST_USER_SET_VRING_ERR] = set_vring_err,
	[VHOST_USER_GET_PROTOCOL_FEATURES] = get_protocol_features,
	[VHOST_USER_SET_PROTOCOL_FEATURES] = set_protocol_features,
	[VHOST_USER_GET_QUEUE_NUM] = get_queue_num,
	[VHOST_USER_SET_VRING_ENABLE] = set_vring_enable,
	[VHOST_USER_SET_BACKEND_REQ_FD] = set_backend_req_fd,
	[VHOST_USER_GET_CONFIG] = get_config,
	[VHOST_USER_SET_CONFIG] = set_config,
	[VHOST_USER_RESET_DEVICE] = reset,
	[VHOST_USER_GET_MAX_MEM_SLOTS] = get_max_mem_slots,
	[VHOST_USER_ADD_MEM_REG] = add_mem_reg,
	[VHOST_USER_REM_MEM_REG] = rem_mem_reg,
	[VHOST_USER_SET_STATUS] = set_status,
	[VHOST_USER_GET_STATUS] = get_status,
};

int
message_handle(struct vhost_session *s)
{
	/* Every type that the codec decodes has an entry. */
	CHECK(s->msg.type < ARRAY_SIZE(handlers) && handlers[s->msg.type] != NULL);
	return handlers[s->msg.type](s);
}

/* Configuration is written when the guest's driver writes it, so not even a wrong write may hurt
 * the guest. */
bool
message_refusal_is_harmless(uint32_t type)
{
	return type == VHOST_USER_SET_CONFIG;
}
