/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of bdevs/rbd; never leaves it. */
#ifndef BDEVS_RBD_INTERNAL_H
#define BDEVS_RBD_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "bdev/module.h"
#include "bdevs/rbd/api.h"
#include "bdevs/rbd/rbd.h"
#include "event/worker.h"
#include "mem/pool.h"

struct rbd_room;

/* ---- job.c: calls that block, each on a system thread of its own ---- */

struct rbd_job {
	struct msg msg;
	struct thread *origin;
	void (*fn)(struct rbd_job *job);   /* may block */
	void (*done)(struct rbd_job *job); /* on the giver's thread. NULL: nobody; the job may be gone when fn returns */
	unsigned generation;               /* job.c's */
	const char *core_mask;             /* NULL: any CPU. Threads that the call starts inherit it */
};

/* 0, or -errno: no system thread is to be had, and nothing is called. */
int rbd_job_start(struct rbd_job *job, void (*fn)(struct rbd_job *job), void (*done)(struct rbd_job *job));
/* Those under way are not answered any more. What their functions use must stay. */
void rbd_jobs_abandon(void);

/* ---- cluster.c ---- */

struct rbd_cluster {
	struct list link; /* of the registered */
	char *name;       /* NULL: one bdev's own */
	char *user_id;
	char *config_file;
	char *key_file;
	char *core_mask;
	bool wait;
	bool usual_file; /* the usual configuration file is read, and need not be there */
	bool must_file;  /* it must be */
	struct rbd_settings *settings;
	unsigned users;  /* bdevs. The app thread's, as the next three */
	unsigned ghosts; /* of these, that are deleted already, while a job of theirs goes on */
	bool leaving;
	bool joining; /* the job of registering is under way */

	pthread_mutex_t lock; /* guards what follows */
	bool connected;
	rados_t handle;

	/* Of the job under way: registering or leaving. */
	struct rbd_job job;
	struct timer patience;
	int rc;
	struct err err;
	void (*registered)(void *ctx, const struct err *err);
	void (*left)(void *ctx, int status);
	void *ctx;
};

/* Copies what is borrowed. NULL: out of memory. */
struct rbd_cluster *rbd_cluster_new(const struct rbd_cluster_options *o);
/* Disconnected, and used by nobody. Accepts NULL. */
void rbd_cluster_free(struct rbd_cluster *c);
struct rbd_cluster *rbd_cluster_find(const char *name);
/* One user less. */
void rbd_cluster_put(struct rbd_cluster *c, bool ghost);
/* On a system thread that may block. */
int rbd_cluster_connect(struct rbd_cluster *c, struct err *err);
void rbd_cluster_disconnect(struct rbd_cluster *c);
/* Borrowed. */
struct rbd_settings *rbd_settings_copy(const struct rbd_settings *from);
void rbd_settings_free(struct rbd_settings *s);
/* Without secrets, to be freed by free(); points into s. NULL for NULL. */
struct rbd_settings *rbd_settings_public(const struct rbd_settings *s);
/* Starts the end of all; true when there is none. rbd_shutdown_check() follows when one is gone. */
bool rbd_clusters_end(void);
/* Those that are left will not be ended. */
void rbd_clusters_abandon(void);
/* True: a registered cluster may be used from now on no more. */
void rbd_shutdown_check(void);

/* ---- flight.c ---- */

/* What librbd holds of a disk's requests that nobody waits for any more; and questions that block. */
struct rbd_room {
	atomic_uint refs;
	atomic_uint lost, lost_writes; /* requests */
	atomic_ullong lost_bytes;
	pthread_mutex_t lock; /* guards what follows */
	pthread_cond_t silence;
	unsigned asking;
};

/* With one reference. NULL: out of memory. */
struct rbd_room *rbd_room_new(void);
/* Accepts NULL. */
void rbd_room_put(struct rbd_room *room);
/* So much is lost that the cluster gets no more. */
bool rbd_room_full(const struct rbd_room *room);
/* A system thread asks the image something, until rbd_room_asked(), which is the last that it does with the disk. */
void rbd_room_ask(struct rbd_room *room);
void rbd_room_asked(struct rbd_room *room);
/* May block: until nobody asks. */
void rbd_room_wait(struct rbd_room *room);

#define RBD_BUFFER_SIZES 3
/* A channel's; zeroed before. */
void rbd_buffers_init(struct mem_cache caches[static RBD_BUFFER_SIZES]);
void rbd_buffers_release(struct mem_cache caches[static RBD_BUFFER_SIZES]);
/* The app thread: there are no channels any more. */
void rbd_buffers_end(void);

enum { RBD_FLYING, RBD_ANSWERED, RBD_LOST };

struct rbd_flight {
	struct msg msg;
	struct thread *thread; /* the channel's */
	struct rbd_room *room;
	atomic_int state;
	int cache; /* that the buffer is of; -1: memory of its own */
	uint8_t *buffer; /* NULL: none */
	uint64_t held_bytes; /* librbd has that much memory because of it, about */

	/* For io.c to fill. */
	void *request; /* the channel's thread's, until it is lost */
	bool writes;
	rbd_completion_t completion;
	ssize_t result;
	uint64_t mismatch;

	/* Where is data? */
	struct rbd_job job;
	rbd_image_t image;
	unsigned extents, max_extents; /* in the buffer */
	uint8_t block_size_shift;
	uint64_t next; /* bytes from the image's start that have been told */
	uint64_t end;
};

/* The channel's thread. NULL: out of memory. */
struct rbd_flight *rbd_flight_new(struct rbd_room *room, struct mem_cache caches[static RBD_BUFFER_SIZES],
				  size_t buffer_bytes);
void rbd_flight_free(struct rbd_flight *f, struct mem_cache caches[static RBD_BUFFER_SIZES]);
/* True: f is nobody's any more, and its request may end. False: its answer is on its way as a message. */
bool rbd_flight_give_up(struct rbd_flight *f);
/* Any thread, once. came_back(&f->msg) follows on the channel's thread, unless f was given up: then it is gone. */
void rbd_flight_answered(struct rbd_flight *f, void (*came_back)(struct msg *msg));

/* ---- disk.c ---- */

enum rbd_disk_state {
	RBD_OPENING, /* a job opens the image */
	RBD_WAITING, /* until the next try */
	RBD_OPEN,
	RBD_CLOSING, /* a job closes it, then the disk is freed */
};

struct rbd_disk {
	struct bdev bdev;
	struct list link; /* of all */
	enum rbd_disk_state state;
	char *name, *pool, *image_name;
	struct rbd_cluster *cluster;
	bool own_cluster;
	struct rbd_settings *public_settings; /* of the options: into the cluster's */
	uint32_t block_size;
	bool readonly, wait;
	uuid_t uuid;
	struct thread *app;
	struct rbd_room *room;

	/* Written by the job that opens, constant while the bdev is there. */
	rados_ioctx_t pool_handle;
	rbd_image_t image;
	uint64_t watch;
	bool watched;
	uint64_t object_bytes;

	/* Of the job under way. */
	struct rbd_job job;
	bool busy;
	int rc;
	struct err err;
	uint64_t bytes;     /* of the image: found out */
	uint64_t new_bytes; /* to be */
	bool look_again;
	bool ghost;         /* deleted, for all the world can see */
	bool removed;       /* the bdev is gone, or never was */

	atomic_bool news; /* the image has changed: news_msg is under way */
	struct msg news_msg;
	struct timer retry;
	unsigned retry_ms;

	void (*created)(void *ctx, const char *name, struct bdev *bdev, const struct err *err);
	void *created_ctx;
	void (*deleted)(void *ctx, int status);
	void *deleted_ctx;
	void (*resized)(void *ctx, const struct err *err);
	void *resized_ctx;
};

/* Something is gone: perhaps all is. */
void rbd_shutdown_check(void);
void rbd_disk_destruct(struct bdev *bdev);

/* ---- io.c ---- */

extern const struct bdev_ops rbd_bdev_ops;
void rbd_io_describe(struct bdev *bdev, const struct rbd_disk *disk);
/* The app thread. From now on, or no more: what is cancelled is not waited for at all. */
void rbd_io_hurry(bool hurry);

#endif
