/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Inside the vhost back end. Two kinds of context:
 *   control  the app thread: controllers, sessions, messages (controller.c, session.c, listen.c,
 *   state.c)
 *   I/O      the thread that serves a virtqueue (queue.c and the device's own file, blk.c)
 *
 * A queue is changed by the control thread through commands only: it fills `next`, sends one
 * command, and waits for its done before it sends another. So at no moment do both sides write the
 * same field.
 */
#ifndef VHOST_INTERNAL_H
#define VHOST_INTERNAL_H

#include <stdatomic.h>

#include "base/clock.h"
#include "base/cpumask.h"
#include "base/list.h"
#include "base/log.h"
#include "bdev/bdev.h"
#include "event/thread.h"
#include "vhost/listen.h"
#include "vhost/vhost.h"
#include "virtio/memmap.h"
#include "virtio/virtq.h"

struct vhost_caller;
struct vhost_queue;
struct vhost_session;

/* What a type of device (blk; later scsi, fs, crypto) is to the rest of the back end. */
struct vhost_device_ops {
	const char *type; /* "blk" */

	/* Control. Device and transport-independent virtio feature bits that this controller offers
	 * (virtio 1.2, 6). */
	uint64_t (*features)(struct vhost_controller *ctrlr);
	/* Control. Fills the device configuration space (size bytes, zeroed before). Whatever the
	 * front end asks for past config_bytes reads as zero. */
	size_t config_bytes;
	void (*get_config)(struct vhost_controller *ctrlr, void *config);
	/* Control. The driver or VMM writes configuration: 0 or -EINVAL/-EOPNOTSUPP. */
	int (*set_config)(struct vhost_controller *ctrlr, uint32_t offset, uint32_t size, const void *data);

	/* I/O. Gets and gives back what serving a ring takes (channel, request pool). 0 or
	 * -errno. */
	int (*queue_start)(struct vhost_queue *q);
	void (*queue_stop)(struct vhost_queue *q);
	/* I/O. Takes chains from q->vq and starts them; returns how many. */
	int (*queue_poll)(struct vhost_queue *q);
};

/* ---- Counters (stats.c sums them) ---- */

enum vhost_kind { VHOST_READ, VHOST_WRITE, VHOST_OTHER, VHOST_KINDS };

/*
 * What a virtqueue has done. Written by the thread that serves it, read by any: each field is a relaxed atomic with
 * one writer, so adding is a load and a store. The sums of queues that are no more are kept in the same form by the
 * control thread.
 */
struct vhost_counters {
	_Atomic uint64_t ops[VHOST_KINDS];   /* completed, errors included */
	_Atomic uint64_t bytes[VHOST_KINDS]; /* of those without an error */
	_Atomic uint64_t errors;
	_Atomic uint64_t malformed;
	_Atomic uint64_t calls; /* written to call_fd */
	_Atomic uint64_t kicks;
	/* Time spent by all requests together: `weight` of them since weighed_ns, and before that latency_ns. */
	_Atomic uint64_t latency_ns;
	_Atomic uint64_t weighed_ns;
	_Atomic uint32_t weight;
};

static inline uint64_t
vhost_counter(const _Atomic uint64_t *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

static inline void
vhost_count(_Atomic uint64_t *c, uint64_t n)
{
	atomic_store_explicit(c, vhost_counter(c) + n, memory_order_relaxed);
}

/* Control. Adds what a queue that no thread serves has counted. */
void vhost_counters_add(struct vhost_counters *to, const struct vhost_counters *from);

struct vhost_controller {
	char *socket_path;
	const char *name; /* its last component */
	const struct vhost_device_ops *ops;
	struct cpumask cpumask; /* lcores whose I/O threads may serve its queues */
	_Atomic uint32_t delay_base_us; /* coalescing: 0 is off; read by the I/O threads */
	_Atomic uint32_t iops_threshold;
	struct list link;
	/* at most one connection is served at a time; others wait to be accepted */
	struct vhost_session *session;

	/* blk */
	struct bdev_desc *desc; /* NULL once the bdev was removed */
	bool readonly;

	struct vhost_counters past; /* of sessions that have ended */

	/* Lines that its VMMs may still cause in the log, and those they could not (vhost_may_log). */
	uint64_t log_refill_ns;
	uint32_t log_lines_left;
	uint32_t log_lines_dropped;

	/* controller.c */
	struct listener listener;
	struct list hash_link;
	bool deleting; /* no longer found; waits for its session */
	bool removed;  /* its bdev is gone, or about to be */
	void (*deleted)(void *ctx, int status);
	void *deleted_ctx;
	struct msg msg;
};

/* ---- Virtqueues (queue.c) ---- */

enum vhost_queue_command {
	VHOST_QUEUE_START, /* begin to serve the ring described by `next` */
	/* take nothing more, wait for the last completion, publish it; then base says where to go
	 * on */
	VHOST_QUEUE_STOP,
	VHOST_QUEUE_MAP,   /* as STOP; then use next.map, desc, avail and used, and go on */
	VHOST_QUEUE_CALL,  /* use next.call_fd from now on (a running ring's SET_VRING_CALL) */
};

/* Filled by the control thread, taken over by a command. */
struct vhost_queue_setup {
	unsigned size;
	void *desc, *avail, *used; /* mapped, whole */
	/* the session's reference keeps it alive until the queue answered a later MAP or STOP */
	struct memmap *map;
	uint16_t base;
	bool event_idx;
	bool indirect;
	/* owned by the session; -1: none, then the ring is polled every VHOST_NO_KICK_US */
	int kick_fd;
	int call_fd; /* owned by the session; -1: none */
};

struct vhost_queue {
	/* Constant while the queue exists. */
	struct vhost_controller *ctrlr;
	struct vhost_session *session;
	unsigned index;
	struct thread *thread; /* the I/O thread that serves it */

	/* Hand-over: written by control before a command, by I/O before its done. */
	struct msg command_msg;
	enum vhost_queue_command command;
	struct vhost_queue_setup next;
	void (*done)(struct vhost_queue *q, int status); /* on the control thread */
	struct thread *control_thread;
	int command_status;
	uint16_t base; /* after STOP: next avail index to take */

	/* I/O thread only. */
	bool running;
	bool draining;     /* a STOP or MAP waits for inflight to reach 0 */
	/* chains wait for a request to become free: the device wakes the poller then */
	bool starved;
	bool flush_queued; /* flush is on the thread's batch list */
	bool call_pending; /* the driver wants to be called; call_timer is running */
	bool armed;        /* the driver was asked to kick */
	uint32_t inflight; /* chains taken and not completed */
	int call_fd;
	struct vhost_caller *caller; /* while it runs */
	struct vhost_counters counters; /* read by others */
	struct virtq vq;
	struct poller poller;
	struct defer flush;
	struct bdev_channel *ch;
	void *device;            /* the device's per-thread part (blk: its request pool) */
	struct list starved_link;
	struct timer call_timer; /* coalescing */
	struct timer drain_timer; /* draining: nobody waits for ever */
	uint64_t rate_start_ns;  /* of the interval in which completions are being counted */
	uint32_t rate_count;
	uint32_t rate_iops;      /* of the last whole interval */
	bool failed; /* ring broken or guest memory lost: control was told and ends the session */
	const char *failed_why; /* a constant text; written before on_failed */
	struct msg failed_msg;
	void (*on_failed)(struct vhost_queue *q); /* on the control thread; set before START */
};

/*
 * Control. Sends q one command; done(q, status) later on the control thread. Nothing else may be
 * asked of q meanwhile. START: 0 or an errno (then the queue is not running). STOP and MAP: 0, also
 * for a queue that is not running (MAP: then next.map is ignored).
 */
void vhost_queue_send(struct vhost_queue *q, enum vhost_queue_command command,
		      void (*done)(struct vhost_queue *q, int status));

#define VHOST_NO_KICK_US 100

/* I/O. Called by devices when a chain is finished; publishes at the end of the turn. */
void vhost_queue_complete(struct vhost_queue *q, uint16_t head, uint32_t bytes);

/* I/O. The ring cannot go on: nothing more is taken from it, and the session ends. why: a constant
 * text. */
void vhost_queue_fail(struct vhost_queue *q, const char *why);

/*
 * Control. Whether a line of that level, about this controller and caused by its VMM, may be written to the
 * log: VHOST_LOG_BURST of them, then one each VHOST_LOG_NS. Who reconnects and misbehaves in a loop fills nobody's
 * disk. What was left out is said with the next line that may be written.
 */
bool vhost_may_log(struct vhost_controller *ctrlr, enum log_level level);
#define VHOST_LOG_BURST 32
#define VHOST_LOG_NS (10 * NS_PER_S)

/* level: ERROR, WARNING, INFO. */
#define VHOST_LOG(level, ctrlr, ...) \
	do { \
		if (vhost_may_log(ctrlr, LOG_LEVEL_##level)) { \
			LOG_##level(VHOST, (ctrlr)->name, __VA_ARGS__); \
		} \
	} while (0)

/* ---- Devices ---- */

extern const struct vhost_device_ops vhost_blk_ops;

/* ---- Session side of a device (control) ---- */

/* The device's configuration changed (resize): tells the front end if it negotiated BACKEND_REQ and
 * CONFIG. */
void vhost_controller_config_changed(struct vhost_controller *ctrlr);
/* The bdev went away: ends the session, then closes the descriptor. */
void vhost_controller_bdev_removed(struct vhost_controller *ctrlr);

#endif
