/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The front end of a vhost-user connection, blocking, with a time limit on every step: for
 * initiators at their start, for the benchmark and for tests. Owns the connection, one memory file
 * shared as one region, and the descriptors of its queues. What travels on the rings is the
 * business of ring.h and of the device (blk.h).
 *
 * The usual order: open, negotiate, share, then start queues. Tests may leave it and send whatever
 * they like with driver_vhost_send_bytes(); rings and memory are theirs to write (mem,
 * queues[i].ring).
 *
 * One thread at a time may use the control functions; each queue's ring belongs to one thread
 * besides.
 */
#ifndef VIRTIO_DRIVER_VHOST_H
#define VIRTIO_DRIVER_VHOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "virtio/driver/ring.h"
#include "virtio/vhost_msg.h"

#define DRIVER_VHOST_QUEUES_MAX 256
/* A back end whose machine stands still for some seconds is not one that is gone: that shows by the connection's end. */
#define DRIVER_VHOST_TIMEOUT_MS 30000
/* Guest-physical address of our memory; not its address here, so that mixing them up shows. */
#define DRIVER_VHOST_GPA UINT64_C(0x100000000)
#define DRIVER_VHOST_FDS_MAX 8

struct driver_vhost_queue {
	struct driver_ring ring;
	int kick_fd; /* -1 until started; both belong to the connection */
	int call_fd;
	bool started;
};

struct driver_vhost {
	int fd;
	int interrupt_fd; /* -1: none */
	char *path;
	unsigned timeout_ms;
	uint64_t offered_features; /* by the back end */
	uint64_t features;         /* agreed */
	uint64_t offered_protocol;
	uint64_t protocol;
	unsigned max_queues; /* of the back end; 1 where it does not say (no MQ) */

	uint8_t *mem; /* NULL until shared */
	size_t mem_bytes;
	size_t mem_used;
	int mem_fd;

	int backend_fd; /* our end of the back end's own channel, -1 when not agreed */
	struct driver_vhost_queue queues[DRIVER_VHOST_QUEUES_MAX];
};

/*
 * Connects. timeout_ms: of each later step too; 0: DRIVER_VHOST_TIMEOUT_MS. 0 or a negative
 * errno with err (-ETIMEDOUT; -ECONNREFUSED, ... of connect).
 */
int driver_vhost_open(const char *path, unsigned timeout_ms, struct driver_vhost **ret_dev,
		      struct err *err);

/* The same; while interrupt_fd is readable, no step waits: -ECANCELED. Borrowed, until dev->interrupt_fd is another. */
int driver_vhost_open_until(const char *path, unsigned timeout_ms, int interrupt_fd, struct driver_vhost **ret_dev,
			    struct err *err);

/* Ends the connection; what the device still holds is never answered. Accepts NULL. */
void driver_vhost_close(struct driver_vhost *dev);

/*
 * Agrees on what both sides have: features (VIRTIO_F_VERSION_1 is a must: -EOPNOTSUPP without it)
 * and, where the back end has any, protocol features; SET_OWNER; the number of queues.
 */
int driver_vhost_negotiate(struct driver_vhost *dev, uint64_t want_features, uint64_t want_protocol,
			   struct err *err);

/* The first `bytes` of the device's configuration space. -EOPNOTSUPP when CONFIG was not agreed. */
int driver_vhost_get_config(struct driver_vhost *dev, void *config, size_t bytes, struct err *err);

/* Makes and shares memory, once; bytes is rounded up to pages. */
int driver_vhost_share(struct driver_vhost *dev, size_t bytes, struct err *err);

/*
 * A zeroed piece of the shared memory whose address is `phase` past a multiple of align (a power
 * of two); NULL when it is used up. Never given back.
 */
void *driver_vhost_alloc(struct driver_vhost *dev, size_t bytes, size_t align, size_t phase);

/* The guest-physical address of something inside the shared memory. */
static inline uint64_t
driver_vhost_gpa(const struct driver_vhost *dev, const void *ptr)
{
	return DRIVER_VHOST_GPA + (uint64_t)((const uint8_t *)ptr - dev->mem);
}

static inline bool
driver_vhost_owns(const struct driver_vhost *dev, const void *ptr, size_t bytes)
{
	uint64_t offset = (uint64_t)((const uint8_t *)ptr - dev->mem);

	return offset < dev->mem_bytes && bytes <= dev->mem_bytes - offset;
}

/* Starts queue `index` on rings inside the shared memory, from index base on, and enables it. */
int driver_vhost_start_queue(struct driver_vhost *dev, unsigned index, unsigned size, void *desc,
			     void *avail, void *used, uint16_t base, struct err *err);

/*
 * GET_VRING_BASE: the back end has answered all it took. ret_base (may be NULL): where it would
 * go on.
 */
int driver_vhost_stop_queue(struct driver_vhost *dev, unsigned index, uint16_t *ret_base,
			    struct err *err);

/*
 * Tells the device that there is something on the queue (driver_ring_publish() said it wants to
 * know). Data path.
 */
void driver_vhost_kick(struct driver_vhost *dev, unsigned index);

/* False once the back end has hung up. Never blocks. */
bool driver_vhost_alive(const struct driver_vhost *dev);

/*
 * Reads what the back end said on its own channel. True when it announced a change of the
 * configuration.
 */
bool driver_vhost_config_changed(struct driver_vhost *dev);

/* ---- Messages ---- */

/*
 * Sends one request and waits for what answers it: its reply, decoded into *ret_reply; or,
 * ret_reply NULL, the acknowledgement where REPLY_ACK was agreed, and nothing where not.
 * -EREMOTEIO: the back end refused; -EPROTO: it answered something else; -ETIMEDOUT; -ECONNRESET:
 * it hung up. The text names the request.
 */
int driver_vhost_request(struct driver_vhost *dev, const struct vhost_user_msg *msg, const int *fds,
			 unsigned fd_count, struct vhost_user_msg *ret_reply, struct err *err);

/*
 * For tests: sends bytes as they are, with descriptors; receives one whole message as it is
 * (descriptors that come with it are closed) and returns its length. 0 or a negative errno as
 * above.
 */
int driver_vhost_send_bytes(struct driver_vhost *dev, const void *bytes, size_t len, const int *fds,
			    unsigned fd_count, struct err *err);
int driver_vhost_receive_bytes(struct driver_vhost *dev, uint8_t buf[VHOST_USER_MESSAGE_MAX],
			       struct err *err);

#endif
