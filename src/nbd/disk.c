/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kernel's /dev/nbdX on bdevs. Each has an export of its own, which no client sees, and a socket pair: one end is the
 * kernel's, the other a session's.
 *
 *   starting --> up --(stop, bdev removed)--> stopping --> freed
 *                 |--(its socket died)--> starting
 *
 * Invariants
 *  1. One job of a disk is with the worker at a time; what is wanted meanwhile is looked at when it has come back.
 *  2. A disk that outlives this process is only left, not taken away: the kernel holds its I/O back until another process
 *     says that it is the same, or the time is over.
 *  3. A disk is freed when its export is.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/check.h"
#include "base/log.h"
#include "nbd/control.h"
#include "nbd/kernel.h"

/* A request that is not answered for so long is sent again, which takes another socket: also those that the process before this
 * one left behind. */
#define REQUEST_TIMEOUT_S 30

struct disk {
	struct list link;
	char *bdev_name;
	char device[32]; /* "" while the kernel has not chosen */
	struct nbd_export *e;
	struct nbd_conn *conn; /* NULL: its session has ended */
	struct nbd_kernel_disk kernel;
	struct worker_job job;
	struct err err; /* of the job */
	int result;
	bool busy;    /* the job is with the worker */
	bool up;      /* the kernel knows it */
	bool stop;    /* is wanted */
	bool resized; /* the kernel is to be told */
	bool leave;   /* the kernel is to keep it */
	bool ending;
	void (*started)(void *ctx, int status, const char *device, const struct err *err);
	void *started_ctx;
	void (*stopped)(void *ctx, int status);
	void *stopped_ctx;
};

static struct list disks = {&disks, &disks};
static void (*all_ended)(void);

static void next(struct disk *d);

/* ---- The end ---- */

static void
disk_free(struct disk *d)
{
	list_remove(&d->link);
	free(d->bdev_name);
	free(d);
}

static void
ended(void *ctx, int status)
{
	struct disk *d = ctx;
	void (*started)(void *, int, const char *, const struct err *) = d->started;
	void (*stopped)(void *, int) = d->stopped;
	void *started_ctx = d->started_ctx, *stopped_ctx = d->stopped_ctx;
	struct err err = d->err;
	void (*end)(void) = all_ended;

	disk_free(d);
	if (started != NULL) {
		started(started_ctx, err.code != 0 ? err.code : -ECANCELED, NULL, &err);
	}
	if (stopped != NULL) {
		stopped(stopped_ctx, 0);
	}
	if (list_empty(&disks) && end != NULL) {
		all_ended = NULL;
		end();
	}
}

static void
end(struct disk *d)
{
	if (!d->ending) {
		d->ending = true;
		nbd_export_end(d->e, ended, d);
	}
}

/* ---- Jobs ---- */

static void
do_connect(struct worker_job *job)
{
	struct disk *d = CONTAINER_OF(job, struct disk, job);

	d->result = nbd_kernel_connect(&d->kernel, &d->err);
}

static void
connected(struct worker_job *job)
{
	struct disk *d = CONTAINER_OF(job, struct disk, job);
	void (*started)(void *, int, const char *, const struct err *) = d->started;

	d->busy = false;
	close(d->kernel.fd);
	d->kernel.fd = -1;
	if (d->result < 0) {
		if (started == NULL) {
			LOG_ERROR(NBD, d->device, "%s", err_text(&d->err));
		}
		end(d);
		return;
	}
	d->up = true;
	d->kernel.index = d->result;
	snprintf(d->device, sizeof(d->device), "/dev/nbd%d", d->result);
	d->started = NULL;
	if (started != NULL) {
		started(d->started_ctx, 0, d->device, NULL);
	}
	next(d);
}

static void
do_disconnect(struct worker_job *job)
{
	struct disk *d = CONTAINER_OF(job, struct disk, job);

	d->result = nbd_kernel_disconnect(d->kernel.index, &d->err);
}

static void
disconnected(struct worker_job *job)
{
	struct disk *d = CONTAINER_OF(job, struct disk, job);

	d->busy = false;
	d->up = false;
	if (d->result != 0) {
		LOG_WARNING(NBD, d->device, "%s", err_text(&d->err));
	}
	end(d);
}

static void
do_resize(struct worker_job *job)
{
	struct disk *d = CONTAINER_OF(job, struct disk, job);

	d->result = nbd_kernel_resize(&d->kernel, &d->err);
}

static void
told_size(struct worker_job *job)
{
	struct disk *d = CONTAINER_OF(job, struct disk, job);

	d->busy = false;
	if (d->result != 0) {
		LOG_WARNING(NBD, d->device, "%s", err_text(&d->err));
	}
	next(d);
}

static void
submit(struct disk *d, void (*fn)(struct worker_job *job), void (*done)(struct worker_job *job))
{
	d->busy = true;
	d->err = ERR_NONE;
	worker_submit(nbd_opts->worker, &d->job, fn, done);
}

/* ---- The session ---- */

static struct disk *
of_conn(const struct nbd_conn *c)
{
	struct disk *d;

	LIST_FOREACH(d, &disks, link) {
		if (d->conn == c) {
			return d;
		}
	}
	return NULL;
}

static void
session_ended(struct nbd_conn *c)
{
	struct disk *d = of_conn(c);

	if (d != NULL) {
		d->conn = NULL;
		next(d);
	}
}

/* Gives the kernel a socket, and serves the other end. */
static int
serve(struct disk *d, struct err *err)
{
	int pair[2], rc;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) {
		return err_set(err, -errno, "cannot make a pair of sockets: %s", strerror(errno));
	}
	rc = nbd_conn_attach(d->e, pair[1], d->kernel.flags, session_ended, &d->conn);
	if (rc != 0) {
		close(pair[0]);
		return err_set(err, rc, "out of memory");
	}
	d->kernel.fd = pair[0];
	d->kernel.size_bytes = nbd_export_bytes(d->e);
	submit(d, do_connect, connected);
	return 0;
}

/* What is to be done next, when no job is under way. */
static void
next(struct disk *d)
{
	struct err err = ERR_NONE;

	if (d->busy || d->ending) {
		return;
	}
	if (d->stop) {
		if (d->up && !d->leave) {
			submit(d, do_disconnect, disconnected);
		} else {
			end(d);
		}
	} else if (d->conn == NULL) {
		LOG_WARNING(NBD, d->device, "the kernel has given its socket up: it gets another one");
		if (serve(d, &err) != 0) {
			LOG_ERROR(NBD, d->device, "%s", err_text(&err));
			d->stop = true;
			next(d);
		}
	} else if (d->resized) {
		d->resized = false;
		d->kernel.size_bytes = nbd_export_bytes(d->e);
		submit(d, do_resize, told_size);
	}
}

static struct disk *
of_export(const struct nbd_export *e)
{
	struct disk *d;

	LIST_FOREACH(d, &disks, link) {
		if (d->e == e) {
			return d;
		}
	}
	return NULL;
}

static void
on_gone(struct nbd_export *e)
{
	struct disk *d = of_export(e);

	d->stop = true;
	next(d);
}

static void
on_resize(struct nbd_export *e)
{
	struct disk *d = of_export(e);

	d->resized = true;
	next(d);
}

/* ---- For others ---- */

static struct disk *
find(const char *device)
{
	struct disk *d;

	LIST_FOREACH(d, &disks, link) {
		if (strcmp(d->device, device) == 0) {
			return d;
		}
	}
	return NULL;
}

static void
fill(struct disk *d, const struct nbd_disk_options *o)
{
	struct bdev *bdev = bdev_desc_bdev(d->e->desc);

	d->kernel.fd = -1;
	d->kernel.block_size = bdev_block_size(bdev);
	d->kernel.flags = (uint16_t)(nbd_export_flags(d->e) & ~NBD_FLAG_SEND_CACHE);
	d->kernel.timeout_s = REQUEST_TIMEOUT_S;
	d->kernel.dead_timeout_s = o->timeout_s != 0 ? o->timeout_s : NBD_DISK_TIMEOUT_S;
	snprintf(d->kernel.id, sizeof(d->kernel.id), "berth %s", bdev_name(bdev));
	d->e->on_gone = on_gone;
	d->e->on_resize = on_resize;
}

static struct disk *
make(const struct nbd_disk_options *o, struct err *err)
{
	struct nbd_export_options options = {.name = o->device != NULL ? o->device : "kernel", .bdev_name = o->bdev_name};
	struct bdev *bdev = bdev_find(o->bdev_name);
	struct disk *d = calloc(1, sizeof(*d));

	options.readonly = bdev != NULL && bdev_readonly(bdev);
	if (d == NULL || (d->bdev_name = strdup(o->bdev_name)) == NULL) {
		free(d);
		err_set(err, -ENOMEM, "out of memory");
		return NULL;
	}
	d->e = nbd_export_make(&options, err);
	if (d->e == NULL) {
		free(d->bdev_name);
		free(d);
		return NULL;
	}
	return d;
}

static void
forget(void *ctx, int status)
{
}

int
nbd_disk_start(const struct nbd_disk_options *o, void (*done)(void *ctx, int status, const char *device, const struct err *err),
	       void *ctx, struct err *err)
{
	int rc, index = o->device != NULL ? nbd_kernel_index(o->device) : -1;
	struct disk *d;

	if (o->device != NULL && index < 0) {
		return err_set(err, -ENODEV, "'%.64s' is no device of the kernel's nbd, such as /dev/nbd0", o->device);
	}
	if (o->device != NULL && find(o->device) != NULL) {
		return err_set(err, -EBUSY, "%s is in use", o->device);
	}
	d = make(o, err);
	if (d == NULL) {
		return err->code;
	}
	fill(d, o);
	d->kernel.index = index;
	snprintf(d->device, sizeof(d->device), "%s", o->device != NULL ? o->device : "");
	list_append(&disks, &d->link);
	rc = serve(d, err);
	if (rc != 0) {
		nbd_export_end(d->e, forget, NULL);
		disk_free(d);
		return rc;
	}
	d->started = done;
	d->started_ctx = ctx;
	return 0;
}

int
nbd_disk_stop(const char *device, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct disk *d = find(device);

	if (d == NULL || !d->up || d->stop) {
		return err_set(err, -ENODEV, "no bdev is at %.64s", device);
	}
	d->stop = true;
	d->stopped = done;
	d->stopped_ctx = ctx;
	next(d);
	return 0;
}

bool
nbd_disk_get(unsigned i, struct nbd_disk_info *ret)
{
	struct disk *d;

	LIST_FOREACH(d, &disks, link) {
		if (d->up && i-- == 0) {
			*ret = (struct nbd_disk_info){
				.device = d->device, .bdev_name = d->bdev_name, .timeout_s = d->kernel.dead_timeout_s};
			return true;
		}
	}
	return false;
}

void
nbd_disks_end(void (*done)(void))
{
	struct disk *d, *tmp;

	if (list_empty(&disks)) {
		done();
		return;
	}
	all_ended = done;
	LIST_FOREACH_SAFE(d, tmp, &disks, link) {
		d->stop = true;
		d->leave = nbd_opts->keep_disks;
		next(d);
	}
}
