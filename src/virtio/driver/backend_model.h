/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * For the tests of the driver: a vhost-user-blk back end of our own that answers messages on a
 * thread of its own, one connection after another, and serves rings only when the test calls
 * model_serve(), or all the time. It can be told to misbehave at any message.
 */
#ifndef VIRTIO_DRIVER_BACKEND_MODEL_H
#define VIRTIO_DRIVER_BACKEND_MODEL_H

#include <linux/virtio_blk.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "virtio/vhost_msg.h"
#include "virtio/virtq.h"

#define MODEL_QUEUES 4
#define MODEL_DISK_BYTES (64u * 1024)

enum model_fault {
	MODEL_GOOD,
	MODEL_HANGS_UP, /* closes the connection instead of answering */
	MODEL_SILENT,   /* answers nothing more */
	MODEL_REFUSES,  /* acknowledges with an error */
	MODEL_CONFUSED, /* answers another request */
};

struct model_queue {
	struct virtq vq;
	unsigned size;
	uint16_t base;
	struct vhost_vring_addr addr;
	int kick_fd;
	int call_fd;
	bool started;
};

struct model {
	/* What it is: set before model_start(). */
	uint64_t features;
	uint64_t protocol;
	unsigned max_queues;
	size_t disk_bytes;
	bool serves;       /* rings are served all the time, by another thread */
	uint32_t fault_at; /* request */
	enum model_fault fault;

	/* What came of it; the test reads these while the back end waits for a message. */
	uint64_t driver_features;
	uint64_t driver_protocol;
	struct virtio_blk_config config;
	unsigned config_bytes; /* it has so many; asked for more it gives none */
	struct model_queue queues[MODEL_QUEUES];
	uint8_t *disk; /* of disk_bytes */
	uint8_t status;     /* given to every request */
	bool writes_status; /* else the status byte is left alone */
	unsigned seen[64];  /* requests by number */

	char dir[64];
	char path[96];
	int listen_fd;
	_Atomic int fd; /* the model's thread closes it, a test may shut it down */
	int backend_fd;
	struct memmap *map;
	pthread_mutex_t lock; /* with serves: guards rings and map */
	pthread_t thread, server;
	bool running;
	atomic_bool stopping;
	atomic_bool paused; /* the server leaves the rings alone */
	atomic_uint connections;
};

/* A good device with every feature, or of another size. */
void model_init(struct model *m);
void model_init_sized(struct model *m, size_t disk_bytes);
void model_start(struct model *m);
/*
 * Ends the thread (the connection is closed by either side before, or is now) and releases
 * everything.
 */
void model_stop(struct model *m);
/* As a target that dies: the connection and the socket are gone, the disk is not. model_start() brings it back. */
void model_die(struct model *m);

/* Serves what is available on a queue, the last one first when reversed; how many. */
unsigned model_serve(struct model *m, unsigned queue, bool reversed);

/* Announces a change of the configuration. */
void model_announce(struct model *m, bool need_reply);

#endif
