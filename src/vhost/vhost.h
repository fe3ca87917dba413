/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vhost-user back end: controllers (one listening socket each) and what they serve. All functions here
 * belong to the app thread ("control thread" of every session); virtqueues are served by the I/O threads given to vhost_init().
 */
#ifndef VHOST_VHOST_H
#define VHOST_VHOST_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cpumask.h"
#include "base/err.h"
#include "event/thread.h"

struct vhost_controller;

#define VHOST_NAME_BYTES 256
#define VHOST_QUEUES_MAX 256

struct vhost_options {
	const char *socket_dir;         /* where controllers' sockets appear */
	const gid_t *socket_group;      /* whose members may connect; NULL: only the user berthd runs as */
	struct thread *const *io_threads; /* one per reactor, in order of lcore; borrowed for ever */
	unsigned io_thread_count;
};

/* App thread, once. 0 or a negative errno. */
int vhost_init(const struct vhost_options *options, struct err *err);

/* Deletes every controller: stops rings, answers what is in flight, removes the sockets; then done(ctx). */
void vhost_shutdown(void (*done)(void *ctx), void *ctx);

struct vhost_blk_options {
	const char *name;     /* a file name: no slash, not "." or ".." */
	const char *bdev_name;
	const char *cpumask;  /* hexadecimal or "[0,2-3]"; NULL: all reactors */
	bool readonly;
	bool packed_ring;     /* refused: -EOPNOTSUPP */
};

/* -EEXIST (name taken), -ENODEV (no such bdev), -EINVAL (name, mask), -EADDRINUSE (socket in use), -EOPNOTSUPP, ... */
int vhost_blk_create(const struct vhost_blk_options *options, struct vhost_controller **ret_ctrlr, struct err *err);

/* Ends the session if there is one, closes the bdev, removes the socket; then done(ctx, 0). -ENODEV: no such controller
 * (done is not called). */
int vhost_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err);

struct vhost_controller *vhost_find(const char *name);
struct vhost_controller *vhost_first(void);
struct vhost_controller *vhost_next(struct vhost_controller *ctrlr);

/* The event-driven answer to a guest that is called too often; delay_base_us 0 switches it off. 0 or -EINVAL. */
int vhost_set_coalescing(struct vhost_controller *ctrlr, uint32_t delay_base_us, uint32_t iops_threshold,
			 struct err *err);

/*
 * To be called by the scheduler once a period, while anything is being done: moves virtqueues that run from a reactor that is
 * too busy to one that is less so (balance.h says when and how many). The first calls, and those that come later than two
 * periods after the one before, only measure. Guests notice nothing; without this call queues stay where they started.
 */
void vhost_rebalance(uint64_t period_ns);

/* A snapshot for vhost_get_controllers and for humans. Strings borrowed until the controller changes. */
struct vhost_session_info {
	uint64_t id;
	bool started;
	unsigned max_queues;
	unsigned queues_started;
	unsigned memory_regions;
	uint64_t negotiated_features;
	uint64_t protocol_features;
};

struct vhost_info {
	const char *name;
	const char *socket_path;
	char cpumask[CPUMASK_TEXT_BYTES]; /* "0x3" */
	uint32_t delay_base_us;
	uint32_t iops_threshold;
	const char *bdev_name; /* "" when it was removed */
	bool readonly;
	bool has_session;
	struct vhost_session_info session;
};

void vhost_get_info(const struct vhost_controller *ctrlr, struct vhost_info *ret_info);

/*
 * What a controller's virtqueues have done since it was created, those of earlier sessions included: no number
 * ever goes down.
 *
 * latency_ns is the time requests have spent here, summed: of each, from the start of the turn that took it to the end of the
 * turn that published its completion (of a queue that sleeps while they are under way: to that turn's start); those under way
 * count up to the last time that anything happened on their queue. The clock is the reactor's (reactor_now_ns), good to a few
 * microseconds a request. The mean of an interval is the difference of latency_ns over that of the requests.
 */
struct vhost_stats {
	uint64_t read_ops, write_ops, other_ops; /* completed, errors included */
	uint64_t bytes_read, bytes_written;      /* of those without an error */
	uint64_t latency_ns;
	uint64_t errors;    /* completed with a status other than OK */
	uint64_t malformed; /* chains of which no request could be made */
	uint64_t calls;     /* the driver was interrupted */
	uint64_t kicks;     /* a sleeping queue was woken */
	uint64_t active_ns; /* clock_now_ns() when a request was last taken or completed; 0: never */
	uint32_t inflight;  /* under way now */
};

/* Control thread; asks no other one. */
void vhost_get_stats(const struct vhost_controller *ctrlr, struct vhost_stats *ret_stats);

/* A virtqueue that runs. */
struct vhost_queue_info {
	unsigned index;
	struct thread *thread;
	uint32_t inflight;
	uint64_t requests; /* completed in this session */
};

/* Control thread. How many run; describes those for which there is room, in order of index. */
unsigned vhost_get_queues(const struct vhost_controller *ctrlr, struct vhost_queue_info *ret_queues, unsigned room);

#endif
