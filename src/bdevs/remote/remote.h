/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Disks at the other end of a connection, which virtio, nbd and iscsi have in common: it is made in the background, with a lane
 * for each thread as far as there are any, and made again when it is lost. Requests wait meanwhile, and those that the other
 * end had are sent once more.
 *
 * Life and connection belong to the app thread, a lane to the thread that has it; connecting is done by a worker.
 */
#ifndef BDEVS_REMOTE_REMOTE_H
#define BDEVS_REMOTE_REMOTE_H

#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>

#include "base/list.h"
#include "bdev/module.h"
#include "event/worker.h"

#define REMOTE_LANES_MAX 64
#define REMOTE_RECONNECT_S_DEFAULT 60
#define REMOTE_CONNECT_MS_DEFAULT 5000

struct remote_disk;
struct remote_channel;

/* A connection, first member of the module's own. */
struct remote_link {
	unsigned lanes;
	unsigned users; /* channels that have a lane, under the disk's lock */
};

/* Start of a module's room in a request; the fields are remote's. */
struct remote_request {
	struct list link; /* waiting or flying */
	struct msg msg;
	bool sent_on; /* to the thread whose lane it uses */
	unsigned epoch; /* of its bdev channel: another than that has now means that it was cancelled */
	int status;
};

struct remote_options {
	const char *name;
	unsigned lanes;       /* at most; 1 to REMOTE_LANES_MAX */
	unsigned reconnect_s; /* so long requests wait for a connection that is lost; then they end with -EIO */
	unsigned connect_ms;  /* longest wait for a step of connecting, 0: REMOTE_CONNECT_MS_DEFAULT */
	bool wait;            /* another end that is not there yet is awaited */
};

struct remote_ops {
	struct bdev_ops bdev; /* REMOTE_BDEV_OPS("module") */
	size_t lane_bytes;    /* of a module's part of a lane, zeroed when it is made */
	size_t request_bytes; /* of its room in a request, struct remote_request included */

	/* On a worker: may block, as long as disk->options.connect_ms for each step, in remote_wait(). 0 or -errno with err. */
	int (*connect)(struct remote_disk *disk, struct remote_link **ret_link, struct err *err);
	/* The same: looks at the size again, after remote_news(). May be NULL. */
	int (*refresh)(struct remote_disk *disk, struct remote_link *link, struct err *err);
	/* App thread, in place of refresh: begins to look; remote_sized() follows, unless the connection is lost. */
	void (*look)(struct remote_disk *disk);
	/* App thread, nobody uses it. Never blocks. Accepts NULL. */
	void (*disconnect)(struct remote_link *link);

	/* App thread. Fills a zeroed bdev but for ops, name and the sizes of contexts. */
	int (*describe)(struct remote_disk *disk, const struct remote_link *link, struct bdev *bdev, struct err *err);
	/* Whether what was connected to again is the disk that was lost, its size aside: 0, or -errno with err. */
	int (*compare)(struct remote_disk *disk, const struct remote_link *link, struct err *err);
	uint64_t (*blocks)(const struct remote_link *link);
	/* Watches for remote_lost() and remote_news() from the app thread, and ends that. May be NULL. */
	int (*watch)(struct remote_disk *disk, struct remote_link *link, struct err *err);
	void (*unwatch)(struct remote_disk *disk);
	/* Frees the module's object that disk is embedded in. */
	void (*free)(struct remote_disk *disk);

	/* The lane's thread. */
	int (*lane_start)(struct remote_channel *c);
	/* What is flying is remote's again. */
	void (*lane_stop)(struct remote_channel *c);
	/* Gives req to the other end, to be answered by remote_done(), never from inside; false: it lacks something of the lane
	 * that one of the flying will give back. */
	bool (*send)(struct remote_channel *c, struct remote_request *req);
};

#define REMOTE_BDEV_OPS(name) \
	{ \
		.module_name = (name), .destruct = remote_destruct, .channel_create = remote_bdev_channel_create, \
		.channel_destroy = remote_bdev_channel_destroy, .submit = remote_submit, .cancel = remote_cancel, \
	}
void remote_destruct(struct bdev *bdev);
int remote_bdev_channel_create(struct bdev *bdev, struct bdev_channel *ch);
void remote_bdev_channel_destroy(struct bdev *bdev, struct bdev_channel *ch);
void remote_submit(struct bdev_channel *ch, struct bdev_io *io);
void remote_cancel(struct bdev_channel *ch, int status);

/* A thread's own. Fields are read-only for modules. */
struct remote_channel {
	struct channel channel;
	struct remote_disk *disk;
	struct remote_link *link; /* NULL: no connection */
	uint32_t index;           /* of its lane; REMOTE_NO_LANE: requests go to the app thread's channel */
	bool up;                  /* the lane was started */
	bool refused;             /* by this connection: it has no lane for this thread */
	bool patient;             /* patience runs: what was cancelled may still be answered */
	struct timer patience;
	struct list waiting;      /* for a connection or a resource; oldest first */
	struct list flying;       /* the other end has them; in the order they were sent */
	_Alignas(CACHE_LINE_BYTES) uint8_t lane[];
};
#define REMOTE_NO_LANE UINT32_MAX

enum remote_state {
	REMOTE_CONNECTING, /* a worker tries */
	REMOTE_UP,
	REMOTE_LEAVING, /* channels are told to let go of the connection that was lost */
	REMOTE_DOWN,    /* until the next try */
};

/* Embedded in a module's object, zeroed. */
struct remote_disk {
	struct bdev bdev;
	const struct remote_ops *ops;
	struct list list; /* of all */
	char *name;
	struct remote_options options; /* name points to the above */
	struct device device;
	struct thread *app;

	/* Any thread. */
	pthread_mutex_t lock;
	struct remote_link *link;     /* under the lock: what channels are to use, NULL: none */
	bool taken[REMOTE_LANES_MAX]; /* under the lock: lanes that have a channel; 0 is the app thread's */
	atomic_int failed;            /* not 0: requests that wait end with this */
	atomic_bool broken;           /* a lane is: broken_msg is under way */
	const char *broken_why;       /* of the one that set broken */
	struct msg broken_msg;
	atomic_bool news; /* a lane has some: news_msg is under way */
	struct msg news_msg;
	atomic_bool cancelled; /* a channel was: cancelled_msg is under way */
	struct msg cancelled_msg;
	atomic_bool removed; /* the bdev is being, or is about to be: it is not connected to again */
	atomic_bool hurry;   /* and nobody has any patience left */

	/* The app thread's. */
	struct remote_channel *home; /* what has no lane of its own comes here */
	enum remote_state state;
	bool registered, deleting, destructed, changed, visiting, visit_again;
	unsigned connects;
	unsigned retry_ms;
	struct worker *worker;
	struct worker_job job;
	bool busy; /* the job is under way */
	int hurry_fd; /* while it is: readable when the job shall end at once */
	int job_status;
	struct err job_err;
	struct remote_link *fresh; /* what the job made, or looks at */
	struct remote_link *old;   /* lost, and perhaps still used */
	struct timer retry;
	struct timer revisit;
	struct timer give_up;
	void (*attached)(void *ctx, struct bdev *bdev, const struct err *err);
	void *attached_ctx;
	void (*deleted)(void *ctx, int status);
	void *deleted_ctx;
};

/* ---- App thread ---- */

/*
 * Takes disk if 0 is returned. Connects in the background; then done(ctx, bdev, err): bdev is NULL with err->code set when
 * that failed (disk is freed), and NULL with err->code 0 when the other end is awaited. 0; -EINVAL (options); -EEXIST; -ENOMEM:
 * the caller still has disk.
 */
int remote_attach(struct remote_disk *disk, const struct remote_ops *ops, const struct remote_options *options,
		  void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx, struct err *err);

/* Also one that still waits. done(ctx, 0) follows. */
void remote_detach(struct remote_disk *disk, void (*done)(void *ctx, int status), void *ctx);

/* By name, also one that waits, but none that is being detached. NULL: none of these ops. */
struct remote_disk *remote_find(const struct remote_ops *ops, const char *name);
/* Of a bdev; NULL: it is none of these ops. */
struct remote_disk *remote_of(const struct bdev *bdev, const struct remote_ops *ops);
/* The one after disk that is no bdev because the other end is awaited, the first for NULL; NULL at the end. */
struct remote_disk *remote_next_waiting(const struct remote_ops *ops, struct remote_disk *disk);
/* Before the process ends: nothing of these ops is awaited any more. */
void remote_shutdown(const struct remote_ops *ops);
/* The process is to end, and somebody waits for the other end of a disk, perhaps through what stands on it: all disks go. */
void remote_leave_all(void);

/* On the worker, in place of poll(), of which the result is; -ECANCELED: nobody waits for the job any more; -errno. */
int remote_wait(const struct remote_disk *disk, struct pollfd *p, int ms);

/* From inside describe(): of the bdev's name and of where the disk is, so that it is the same after a restart. */
void remote_set_uuid(const struct remote_disk *disk, struct bdev *bdev, const char *address);

/* The connection is of no use any more; why: for the log. */
void remote_lost(struct remote_disk *disk, const char *why);
/* The size may have changed. */
void remote_news(struct remote_disk *disk);
/* After look(): ops->blocks() says what it is now. */
void remote_sized(struct remote_disk *disk);

/* ---- The lane's thread ---- */

static inline struct bdev_io *
remote_io(struct remote_request *req)
{
	return (struct bdev_io *)(void *)((uint8_t *)req - offsetof(struct bdev_io, ctx));
}

/* req, which was flying, has ended. */
void remote_done(struct remote_channel *c, struct remote_request *req, int status);
/* req, which was flying, waits again: to be sent once more by remote_go_on(), before all that waits already. */
static inline void
remote_again(struct remote_channel *c, struct remote_request *req)
{
	list_remove(&req->link);
	list_prepend(&c->waiting, &req->link);
}
/* After some calls of the above: sends what waits. */
void remote_go_on(struct remote_channel *c);
/* The lane is of no use any more; why: a constant text. */
void remote_broken(struct remote_channel *c, const char *why);
/* The other end takes no lane from this thread (not the app thread): requests go to the app thread's from now on. */
void remote_refused(struct remote_channel *c);
/* remote_news(), from a lane. */
void remote_lane_news(struct remote_channel *c);

#endif
