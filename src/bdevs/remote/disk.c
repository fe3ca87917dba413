/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of a disk and of its connection.
 *
 *   attach -> CONNECTING --made--> UP --hang-up, broken lane--> LEAVING --no channel uses it--+
 *                 ^  |                                                                        |
 *                 |  +--failed--> DOWN --timer (each time later)--+                           |
 *                 +-----------------------------------------------+---------------------------+
 *
 * What blocks (connecting, asking for the size) is done by a system thread that lives as long as that takes.
 *
 * Invariants
 *  1. At most one job and one visit of the channels are under way.
 *  2. A connection is freed when it is not the disk's any more, no channel uses it, and no job does.
 *  3. A disk is freed when its bdev is gone and neither job nor visit is under way.
 *  4. While the other end is there, nothing but its descriptors can wake us.
 *  5. What is being removed is not connected to again. That nobody waits for its requests is seen to by each channel.
 *  6. A job that nobody waits for is told so, and ends at once: what blocks in it is remote_wait().
 * Context: the app thread; run_connect() and run_refresh(), a worker.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "bdevs/remote/internal.h"

#define RETRY_MIN_MS 20
#define RETRY_MAX_MS 2000
#define VISIT_RETRY_US 5000

static struct list disks = {&disks, &disks};

static void connect_now(struct remote_disk *disk);
static void try_free(struct remote_disk *disk);
static void visit(struct remote_disk *disk);

/* ---- Jobs ---- */

static void
run_connect(struct worker_job *job)
{
	struct remote_disk *disk = CONTAINER_OF(job, struct remote_disk, job);

	disk->job_err = ERR_NONE;
	disk->fresh = NULL;
	disk->job_status = disk->ops->connect(disk, &disk->fresh, &disk->job_err);
}

static void
run_refresh(struct worker_job *job)
{
	struct remote_disk *disk = CONTAINER_OF(job, struct remote_disk, job);

	disk->job_err = ERR_NONE;
	disk->job_status = disk->ops->refresh(disk, disk->fresh, &disk->job_err);
}

/* 0 or -errno: no system thread is to be had. */
static int
give_job(struct remote_disk *disk, void (*fn)(struct worker_job *job), void (*done)(struct worker_job *job))
{
	disk->job_err = ERR_NONE;
	disk->hurry_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (disk->hurry_fd < 0) {
		return err_set(&disk->job_err, -errno, "no descriptor for it: %s", strerror(errno));
	}
	disk->worker = worker_create(disk->ops->bdev.module_name, &disk->job_err);
	if (disk->worker == NULL) {
		close(disk->hurry_fd);
		return disk->job_err.code;
	}
	disk->busy = true;
	worker_submit(disk->worker, &disk->job, fn, done);
	return 0;
}

static void
take_job(struct remote_disk *disk)
{
	worker_free(disk->worker);
	disk->worker = NULL;
	close(disk->hurry_fd);
	disk->busy = false;
}

/* Its end is a message by the time this returns. */
static void
end_job(struct remote_disk *disk)
{
	if (disk->busy) {
		(void)eventfd_write(disk->hurry_fd, 1);
		worker_free(disk->worker);
		disk->worker = NULL;
	}
}

int
remote_wait(const struct remote_disk *disk, struct pollfd *p, int ms)
{
	struct pollfd both[2] = {*p, {.fd = disk->hurry_fd, .events = POLLIN}};
	int n = poll(both, 2, ms);

	if (n < 0) {
		return -errno;
	}
	p->revents = both[0].revents;
	return both[1].revents != 0 ? -ECANCELED : n;
}

/* ---- Sizes ---- */

static void
follow_size(struct remote_disk *disk, const struct remote_link *link)
{
	uint64_t now = disk->ops->blocks(link), before = bdev_num_blocks(&disk->bdev);
	int rc = now != before ? bdev_resize(&disk->bdev, now) : 0;

	if (rc != 0) {
		LOG_ERROR(BDEV, disk->name, "there are %llu blocks now, were %llu: %s", (unsigned long long)now,
			  (unsigned long long)before, rc == -EBUSY ? "smaller, and in use" : strerror(-rc));
	}
}

/* ---- Losing a connection ---- */

static void
stop_watching(struct remote_disk *disk)
{
	if (disk->ops->unwatch != NULL) {
		disk->ops->unwatch(disk);
	}
}

static int
start_watching(struct remote_disk *disk, struct remote_link *link, struct err *err)
{
	return disk->ops->watch != NULL ? disk->ops->watch(disk, link, err) : 0;
}

static void
give_up(struct timer *timer)
{
	struct remote_disk *disk = CONTAINER_OF(timer, struct remote_disk, give_up);

	LOG_ERROR(BDEV, disk->name, "its other end has been gone for %u s: requests end with an error",
		  disk->options.reconnect_s);
	atomic_store(&disk->failed, -EIO);
	visit(disk);
}

void
remote_lost(struct remote_disk *disk, const char *why)
{
	bool removed;

	if (disk->state != REMOTE_UP) {
		return;
	}
	removed = atomic_load(&disk->removed);
	LOG_WARNING(BDEV, disk->name, "%s%s", why, removed ? "" : "; requests wait while it is connected to again");
	stop_watching(disk);
	disk->state = REMOTE_LEAVING;
	pthread_mutex_lock(&disk->lock);
	disk->old = disk->link;
	disk->link = NULL;
	pthread_mutex_unlock(&disk->lock);
	if (disk->options.reconnect_s == 0 || removed) {
		atomic_store(&disk->failed, removed ? -ENODEV : -EIO);
	} else if (timer_start(&disk->give_up, (uint64_t)disk->options.reconnect_s * (NS_PER_S / NS_PER_US), give_up) !=
		   0) {
		atomic_store(&disk->failed, -EIO);
	}
	visit(disk);
}

void
remote_disk_broken(struct msg *msg)
{
	struct remote_disk *disk = CONTAINER_OF(msg, struct remote_disk, broken_msg);

	const char *why = disk->broken_why;

	atomic_store(&disk->broken, false);
	remote_lost(disk, why);
	try_free(disk);
}

/* ---- Telling the channels ---- */

static void
visit_later(struct timer *timer)
{
	visit(CONTAINER_OF(timer, struct remote_disk, revisit));
}

/* The old connection, if nothing uses it any more. */
static bool
drop_old(struct remote_disk *disk)
{
	bool unused;

	if (disk->old == NULL) {
		return true;
	}
	pthread_mutex_lock(&disk->lock);
	unused = disk->old->users == 0;
	pthread_mutex_unlock(&disk->lock);
	if (!unused || disk->busy) {
		return false;
	}
	disk->ops->disconnect(disk->old);
	disk->old = NULL;
	return true;
}

static void
visited(void *ctx)
{
	struct remote_disk *disk = ctx;

	disk->visiting = false;
	if (disk->visit_again) {
		visit(disk);
	} else if (disk->state == REMOTE_LEAVING && !disk->destructed) {
		if (drop_old(disk)) {
			disk->retry_ms = RETRY_MIN_MS;
			connect_now(disk);
		} else {
			/* A channel that was just being made, or the job. */
			CHECK(timer_start(&disk->revisit, VISIT_RETRY_US, visit_later) == 0);
		}
	}
	try_free(disk);
}

static void
visit(struct remote_disk *disk)
{
	disk->visit_again = disk->visiting;
	if (disk->visiting || disk->destructed) {
		return;
	}
	disk->visiting = true;
	if (device_for_each_channel(&disk->device, remote_channel_sync, visited, disk) != 0) {
		disk->visiting = false;
		CHECK(timer_start(&disk->revisit, VISIT_RETRY_US, visit_later) == 0);
	}
}

/* ---- News of the other end ---- */

static void
refreshed(struct worker_job *job)
{
	struct remote_disk *disk = CONTAINER_OF(job, struct remote_disk, job);
	struct remote_link *link = disk->fresh;

	take_job(disk);
	disk->fresh = NULL;
	if (!disk->destructed && disk->state == REMOTE_UP && disk->job_status == 0) {
		follow_size(disk, link);
		if (disk->changed) {
			remote_news(disk);
		}
	}
	try_free(disk);
}

void
remote_news(struct remote_disk *disk)
{
	if (disk->state != REMOTE_UP) {
		return; /* it will be looked at when it is connected to again */
	}
	if (disk->ops->look != NULL) {
		disk->ops->look(disk);
		return;
	}
	disk->changed = disk->busy;
	if (disk->busy) {
		return;
	}
	disk->fresh = disk->link; /* written by this thread only */
	if (give_job(disk, run_refresh, refreshed) != 0) {
		LOG_ERROR(BDEV, disk->name, "the size may have changed, but: %s", err_text(&disk->job_err));
	}
}

void
remote_sized(struct remote_disk *disk)
{
	if (!disk->destructed && disk->state == REMOTE_UP) {
		follow_size(disk, disk->link);
	}
}

void
remote_disk_news(struct msg *msg)
{
	struct remote_disk *disk = CONTAINER_OF(msg, struct remote_disk, news_msg);

	atomic_store(&disk->news, false);
	if (!disk->destructed) {
		remote_news(disk);
	}
	try_free(disk);
}

/* ---- Cancelling ---- */

void
remote_disk_cancelled(struct msg *msg)
{
	struct remote_disk *disk = CONTAINER_OF(msg, struct remote_disk, cancelled_msg);

	atomic_store(&disk->cancelled, false);
	if (disk->home != NULL) {
		remote_channel_cancel(disk->home);
	}
	try_free(disk);
}

/* ---- Connecting ---- */

static void
retry_now(struct timer *timer)
{
	connect_now(CONTAINER_OF(timer, struct remote_disk, retry));
}

static void
retry_later(struct remote_disk *disk)
{
	disk->state = REMOTE_DOWN;
	CHECK(timer_start(&disk->retry, (uint64_t)disk->retry_ms * (NS_PER_MS / NS_PER_US), retry_now) == 0);
	disk->retry_ms = MIN(2 * disk->retry_ms, (unsigned)RETRY_MAX_MS);
}

static void
answer_attach(struct remote_disk *disk, struct bdev *bdev, const struct err *err)
{
	void (*attached)(void *ctx, struct bdev *bdev, const struct err *err) = disk->attached;

	disk->attached = NULL;
	if (attached != NULL) {
		attached(disk->attached_ctx, bdev, err);
	}
}

void
remote_set_uuid(const struct remote_disk *disk, struct bdev *bdev, const char *address)
{
	char *text = NULL;
	int n = asprintf(&text, "%s %s %s", disk->ops->bdev.module_name, disk->name, address);

	if (n >= 0) { /* else the core makes one */
		uuid_generate_sha1(bdev->uuid, *uuid_get_template("oid"), text, (size_t)n);
	}
	free(text);
}

static int
first_time(struct remote_disk *disk, struct err *err)
{
	struct bdev *bdev = &disk->bdev;
	struct channel *home;
	int rc;

	*bdev = (struct bdev){0};
	rc = disk->ops->describe(disk, disk->link, bdev, err);
	if (rc != 0) {
		return rc;
	}
	bdev->ops = &disk->ops->bdev;
	bdev->name = disk->name;
	bdev->io_ctx_bytes = disk->ops->request_bytes;
	bdev->channel_ctx_bytes = sizeof(struct bdev_channel_ctx);
	home = channel_get(&disk->device, &rc);
	if (home == NULL) {
		return err_set(err, rc, "bdev '%s': %s", disk->name, strerror(-rc));
	}
	disk->home = CONTAINER_OF(home, struct remote_channel, channel);
	rc = bdev_register(bdev, err);
	if (rc != 0) {
		channel_put(home);
		disk->home = NULL;
		return rc;
	}
	disk->registered = true;
	return 0;
}

static void
set_link(struct remote_disk *disk, struct remote_link *link)
{
	pthread_mutex_lock(&disk->lock);
	disk->link = link;
	pthread_mutex_unlock(&disk->lock);
}

static int
compare(struct remote_disk *disk, const struct remote_link *link, struct err *err)
{
	uint64_t now = disk->ops->blocks(link), before = bdev_num_blocks(&disk->bdev);
	int rc = disk->ops->compare(disk, link, err);

	if (rc == 0 && now < before) {
		rc = err_set(err, -EINVAL, "there are %llu blocks now, were %llu", (unsigned long long)now,
			     (unsigned long long)before);
	}
	return rc;
}

/* The connection that was made becomes the disk's, or the error says why not. */
static int
adopt(struct remote_disk *disk, struct remote_link *link, struct err *err)
{
	int rc = disk->registered ? compare(disk, link, err) : 0;

	if (rc != 0) {
		return rc;
	}
	rc = start_watching(disk, link, err);
	if (rc != 0) {
		return rc;
	}
	set_link(disk, link);
	rc = disk->registered ? 0 : first_time(disk, err);
	if (rc != 0) {
		stop_watching(disk);
		set_link(disk, NULL);
		return rc;
	}
	disk->state = REMOTE_UP;
	disk->connects++;
	timer_stop(&disk->give_up);
	atomic_store(&disk->failed, 0);
	return 0;
}

static void
give_up_attach(struct remote_disk *disk, const struct err *err)
{
	answer_attach(disk, NULL, err);
	disk->destructed = true; /* there never was a bdev */
}

static void
failed_to_connect(struct remote_disk *disk, const struct err *err)
{
	if (disk->registered || disk->options.wait) {
		if (disk->retry_ms == RETRY_MIN_MS) {
			LOG_WARNING(BDEV, disk->name, "not connected yet: %s", err_text(err));
		}
		answer_attach(disk, NULL, &ERR_NONE);
		retry_later(disk);
	} else {
		give_up_attach(disk, err);
	}
}

static void
connected(struct worker_job *job)
{
	struct remote_disk *disk = CONTAINER_OF(job, struct remote_disk, job);
	struct remote_link *link = disk->fresh;
	struct err err = disk->job_err;
	bool first = !disk->registered;
	int rc = disk->job_status;

	take_job(disk);
	disk->fresh = NULL;
	if (disk->destructed || atomic_load(&disk->removed)) {
		disk->ops->disconnect(link);
		try_free(disk);
		return;
	}
	if (rc == 0) {
		rc = adopt(disk, link, &err);
	}
	if (rc != 0) {
		disk->ops->disconnect(link);
		failed_to_connect(disk, &err);
		try_free(disk);
		return;
	}
	LOG_NOTICE(BDEV, disk->name, "connected, up to %u lane%s", link->lanes, link->lanes == 1 ? "" : "s");
	if (first) {
		answer_attach(disk, &disk->bdev, &ERR_NONE);
	} else {
		follow_size(disk, link);
		visit(disk);
	}
}

static void
connect_now(struct remote_disk *disk)
{
	disk->state = REMOTE_CONNECTING;
	if (!atomic_load(&disk->removed) && give_job(disk, run_connect, connected) != 0) {
		retry_later(disk);
	}
}

/* ---- Life ---- */

static struct remote_disk *
any_of_name(const char *name)
{
	struct remote_disk *disk;

	LIST_FOREACH (disk, &disks, list) {
		if (strcmp(disk->name, name) == 0) {
			return disk;
		}
	}
	return NULL;
}

static void
release(struct remote_disk *disk)
{
	list_remove(&disk->list);
	pthread_mutex_destroy(&disk->lock);
	free(disk->name);
	disk->name = NULL;
}

/* Once the bdev is gone, or there never was one. */
static void
try_free(struct remote_disk *disk)
{
	void (*deleted)(void *ctx, int status) = disk->deleted;
	void *ctx = disk->deleted_ctx;
	struct remote_link *link;

	if (!disk->destructed || disk->visiting) {
		return;
	}
	stop_watching(disk);
	timer_stop(&disk->retry);
	timer_stop(&disk->revisit);
	timer_stop(&disk->give_up);
	if (disk->home != NULL) {
		channel_put(&disk->home->channel);
		disk->home = NULL;
	}
	if (disk->busy || atomic_load(&disk->broken) || atomic_load(&disk->news) || atomic_load(&disk->cancelled)) {
		return;
	}
	device_unregister(&disk->device);
	link = disk->link;
	set_link(disk, NULL);
	disk->ops->disconnect(link);
	disk->ops->disconnect(disk->old);
	release(disk);
	disk->ops->free(disk);
	if (deleted != NULL) {
		deleted(ctx, 0);
	}
}

void
remote_destruct(struct bdev *bdev)
{
	struct remote_disk *disk = CONTAINER_OF(bdev, struct remote_disk, bdev);

	disk->destructed = true;
	end_job(disk);
	try_free(disk);
}

static int
check_options(const struct remote_options *o, struct err *err)
{
	if (o->name[0] == '\0' || strlen(o->name) >= BDEV_NAME_BYTES) {
		return err_set(err, -EINVAL, "a bdev's name has 1 to %d bytes", BDEV_NAME_BYTES - 1);
	}
	if (any_of_name(o->name) != NULL || bdev_find(o->name) != NULL) {
		return err_set(err, -EEXIST, "a bdev named '%s' exists already", o->name);
	}
	CHECK(o->lanes >= 1 && o->lanes <= REMOTE_LANES_MAX);
	return 0;
}

int
remote_attach(struct remote_disk *disk, const struct remote_ops *ops, const struct remote_options *options,
	      void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx, struct err *err)
{
	int rc = check_options(options, err);

	if (rc != 0) {
		return rc;
	}
	disk->ops = ops;
	disk->options = *options;
	disk->name = strdup(options->name);
	disk->options.name = disk->name;
	if (options->connect_ms == 0) {
		disk->options.connect_ms = REMOTE_CONNECT_MS_DEFAULT;
	}
	disk->app = thread_self();
	disk->retry_ms = RETRY_MIN_MS;
	pthread_mutex_init(&disk->lock, NULL);
	if (disk->name == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	rc = give_job(disk, run_connect, connected);
	if (rc != 0) {
		release(disk);
		return err_set(err, rc, "bdev '%s': %s", options->name, err_text(&disk->job_err));
	}
	device_register(&disk->device, disk->name, &remote_channel_ops, sizeof(struct remote_channel) + ops->lane_bytes);
	list_append(&disks, &disk->list);
	disk->attached = done;
	disk->attached_ctx = ctx;
	return 0;
}

/* Ends one that is no bdev: at once, or when its job has ended. */
static void
cancel(struct remote_disk *disk)
{
	struct err err = ERR_NONE;

	err_set(&err, -ECANCELED, "bdev '%s': detached before it was connected", disk->name);
	answer_attach(disk, NULL, &err);
	disk->destructed = true;
	end_job(disk);
	try_free(disk);
}

void
remote_detach(struct remote_disk *disk, void (*done)(void *ctx, int status), void *ctx)
{
	CHECK(!disk->deleting);
	disk->deleting = true;
	disk->deleted = done;
	disk->deleted_ctx = ctx;
	if (!disk->registered) {
		cancel(disk);
		return;
	}
	atomic_store(&disk->removed, true);
	bdev_unregister(&disk->bdev, NULL, NULL);
}

struct remote_disk *
remote_find(const struct remote_ops *ops, const char *name)
{
	struct remote_disk *disk = any_of_name(name);

	return disk == NULL || disk->ops != ops || disk->deleting || disk->destructed ? NULL : disk;
}

struct remote_disk *
remote_of(const struct bdev *bdev, const struct remote_ops *ops)
{
	return bdev->ops == &ops->bdev ? CONTAINER_OF(bdev, struct remote_disk, bdev) : NULL;
}

static struct remote_disk *
next_of(const struct remote_ops *ops, struct remote_disk *disk, bool awaited)
{
	struct list *l = disk == NULL ? disks.next : disk->list.next;

	for (; l != &disks; l = l->next) {
		disk = LIST_ENTRY(l, struct remote_disk, list);
		if (disk->ops == ops && !disk->registered && !disk->destructed && (disk->options.wait || !awaited)) {
			return disk;
		}
	}
	return NULL;
}

struct remote_disk *
remote_next_waiting(const struct remote_ops *ops, struct remote_disk *disk)
{
	return next_of(ops, disk, true);
}

void
remote_leave_all(void)
{
	struct remote_disk *disk, *next;

	LIST_FOREACH_SAFE (disk, next, &disks, list) {
		atomic_store(&disk->hurry, true);
		if (disk->registered && !atomic_exchange(&disk->removed, true)) {
			LOG_NOTICE(BDEV, disk->name, "is not waited for any more");
			bdev_unregister(&disk->bdev, NULL, NULL);
		}
	}
}

void
remote_shutdown(const struct remote_ops *ops)
{
	struct remote_disk *disk;

	while ((disk = next_of(ops, NULL, false)) != NULL) {
		cancel(disk);
	}
}
