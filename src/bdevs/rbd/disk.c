/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of an image as a bdev.
 *
 *   create -> OPENING --opened--> OPEN --unregistered--> CLOSING --> freed
 *               ^  |                                        ^
 *               |  +--failed, awaited--> WAITING --deleted--+
 *               +--------timer-------------+
 *
 * What blocks is done by jobs (job.c). Once open, librbd sees to it that the cluster is there again after it was away: requests
 * wait in it.
 *
 * Invariants
 *  1. One job of a disk is under way at most. It alone writes what it finds out; the app thread reads that when it is done.
 *  2. The watch of the image has ended before the image is closed, so that its news are handled before the disk is freed.
 *  3. An image is closed when nobody asks it anything any more. librbd waits itself for the requests that it has, those that are
 *     lost (flight.c) with them: a cluster that is silent may keep an image from being closed for ever. Its bdev is gone then,
 *     and said to be; the disk is a ghost.
 *  4. While lost writes of an image are on their way, it is not opened again: they could come after newer ones.
 * Context: the app thread; run_...(), a system thread that may block; changed(), a thread of librbd's.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "bdevs/rbd/internal.h"

#define RETRY_MIN_MS 500
#define RETRY_MAX_MS 15000
#define SHUTDOWN_MS 5000
/* When the cluster is known to be silent. */
#define SHUTDOWN_SILENT_MS 500
/* So long a create that would wait for its image is not answered, so that it can say what is wrong; nor is a delete, while the
 * image is being closed. */
#define PATIENCE_MS 3000

static struct list disks = {&disks, &disks};
static unsigned made; /* for names */

static void open_now(struct rbd_disk *disk);
static void close_now(struct rbd_disk *disk);
static void look(struct rbd_disk *disk);

static int
start_timer(struct timer *timer, unsigned ms, void (*fn)(struct timer *timer))
{
	return timer_start(timer, (uint64_t)ms * (NS_PER_MS / NS_PER_US), fn);
}

/* ---- On the side of librbd ---- */

static void
news(struct msg *msg)
{
	struct rbd_disk *disk = CONTAINER_OF(msg, struct rbd_disk, news_msg);

	atomic_store(&disk->news, false);
	look(disk);
}

/* The image's header was written by somebody. */
static void
changed(void *arg)
{
	struct rbd_disk *disk = arg;

	if (!atomic_exchange(&disk->news, true)) {
		thread_send(disk->app, &disk->news_msg, news);
	}
}

static int
open_image(struct rbd_disk *disk, struct err *err)
{
	rbd_image_info_t info;
	int rc;

	rc = disk->readonly ? rbd_api->rbd_open_read_only(disk->pool_handle, disk->image_name, &disk->image, NULL)
			    : rbd_api->rbd_open(disk->pool_handle, disk->image_name, &disk->image, NULL);
	if (rc < 0) {
		disk->image = NULL;
		return err_set(err, rc, "image '%s/%s': %s", disk->pool, disk->image_name, strerror(-rc));
	}
	rc = rbd_api->rbd_stat(disk->image, &info, sizeof(info));
	if (rc == 0) {
		disk->bytes = info.size;
		disk->object_bytes = info.obj_size;
		rc = rbd_api->rbd_update_watch(disk->image, &disk->watch, changed, disk);
		disk->watched = rc == 0;
	}
	return rc < 0 ? err_set(err, rc, "image '%s/%s': %s", disk->pool, disk->image_name, strerror(-rc)) : 0;
}

static void
close_image(struct rbd_disk *disk)
{
	if (disk->watched) {
		rbd_api->rbd_update_unwatch(disk->image, disk->watch);
		disk->watched = false;
	}
	if (disk->image != NULL) {
		rbd_api->rbd_close(disk->image);
		disk->image = NULL;
	}
	if (disk->pool_handle != NULL) {
		rbd_api->rados_ioctx_destroy(disk->pool_handle);
		disk->pool_handle = NULL;
	}
	if (disk->own_cluster) {
		rbd_cluster_disconnect(disk->cluster);
	}
}

static void
run_open(struct rbd_job *job)
{
	struct rbd_disk *disk = CONTAINER_OF(job, struct rbd_disk, job);
	int rc;

	disk->err = ERR_NONE;
	rc = rbd_cluster_connect(disk->cluster, &disk->err);
	if (rc == 0) {
		rc = rbd_api->rados_ioctx_create(disk->cluster->handle, disk->pool, &disk->pool_handle);
		if (rc < 0) {
			disk->pool_handle = NULL;
			err_set(&disk->err, rc, "pool '%s': %s", disk->pool, strerror(-rc));
		}
	}
	if (rc == 0) {
		rc = open_image(disk, &disk->err);
	}
	if (rc != 0) {
		close_image(disk);
	}
	disk->rc = rc;
}

static void
run_close(struct rbd_job *job)
{
	struct rbd_disk *disk = CONTAINER_OF(job, struct rbd_disk, job);

	rbd_room_wait(disk->room);
	close_image(disk);
}

static void
run_look(struct rbd_job *job)
{
	struct rbd_disk *disk = CONTAINER_OF(job, struct rbd_disk, job);
	uint64_t bytes = 0;

	disk->rc = rbd_api->rbd_get_size(disk->image, &bytes);
	disk->bytes = bytes;
}

static void
run_resize(struct rbd_job *job)
{
	struct rbd_disk *disk = CONTAINER_OF(job, struct rbd_disk, job);
	uint64_t bytes = 0;

	disk->err = ERR_NONE;
	disk->rc = rbd_api->rbd_resize(disk->image, disk->new_bytes);
	if (disk->rc < 0) {
		err_set(&disk->err, disk->rc, "bdev '%s': the cluster says: %s", disk->name, strerror(-disk->rc));
	} else {
		disk->rc = rbd_api->rbd_get_size(disk->image, &bytes);
		disk->bytes = bytes;
	}
}

/* ---- Sizes ---- */

static void
follow_size(struct rbd_disk *disk)
{
	uint64_t now = disk->bytes / disk->block_size, before = bdev_num_blocks(&disk->bdev);
	int rc = now != before ? bdev_resize(&disk->bdev, now) : 0;

	if (rc != 0 && rc != -ENODEV) {
		LOG_ERROR(BDEV, disk->name, "there are %llu blocks now, were %llu: %s", (unsigned long long)now,
			  (unsigned long long)before, rc == -EBUSY ? "smaller, and in use" : strerror(-rc));
	}
}

/* Whatever the job was; true when the disk goes on, false when it is being closed. */
static bool
job_ended(struct rbd_disk *disk)
{
	disk->busy = false;
	if (disk->removed) {
		close_now(disk);
		return false;
	}
	return true;
}

static void
looked(struct rbd_job *job)
{
	struct rbd_disk *disk = CONTAINER_OF(job, struct rbd_disk, job);

	if (!job_ended(disk)) {
		return;
	}
	if (disk->rc == 0) {
		follow_size(disk);
	} else {
		LOG_ERROR(BDEV, disk->name, "the image does not say how large it is now: %s", strerror(-disk->rc));
	}
	if (disk->look_again) {
		look(disk);
	}
}

static void
look_later(struct timer *timer)
{
	look(CONTAINER_OF(timer, struct rbd_disk, retry));
}

static void
look(struct rbd_disk *disk)
{
	if (disk->removed || disk->state != RBD_OPEN) {
		return;
	}
	disk->look_again = disk->busy;
	if (disk->busy) {
		return;
	}
	disk->busy = rbd_job_start(&disk->job, run_look, looked) == 0;
	if (!disk->busy) {
		/* No system thread just now; the news must not be lost for that. */
		CHECK(start_timer(&disk->retry, RETRY_MIN_MS, look_later) == 0);
	}
}

static void
resized(struct rbd_job *job)
{
	struct rbd_disk *disk = CONTAINER_OF(job, struct rbd_disk, job);
	void (*done)(void *ctx, const struct err *err) = disk->resized;
	struct err err = disk->err;
	void *ctx = disk->resized_ctx;

	disk->resized = NULL;
	if (job_ended(disk)) {
		if (disk->rc == 0) {
			follow_size(disk);
		}
		if (disk->look_again) {
			look(disk);
		}
	}
	done(ctx, &err);
}

/* ---- Freeing ---- */

static void
release_cluster(struct rbd_disk *disk)
{
	if (disk->cluster == NULL) {
		return;
	}
	if (disk->own_cluster) {
		rbd_cluster_free(disk->cluster);
	} else {
		rbd_cluster_put(disk->cluster, disk->ghost);
	}
	disk->cluster = NULL;
}

static void
free_disk(struct rbd_disk *disk)
{
	list_remove(&disk->link);
	free(disk->public_settings);
	release_cluster(disk);
	rbd_room_put(disk->room);
	free(disk->name);
	free(disk->pool);
	free(disk->image_name);
	free(disk);
}

static void
closed(struct rbd_job *job)
{
	struct rbd_disk *disk = CONTAINER_OF(job, struct rbd_disk, job);
	void (*done)(void *ctx, int status) = disk->deleted;
	void *ctx = disk->deleted_ctx;

	timer_stop(&disk->retry);
	free_disk(disk);
	if (list_empty(&disks)) {
		rbd_buffers_end();
	}
	if (done != NULL) {
		done(ctx, 0);
	}
	rbd_shutdown_check();
}

/* A cluster that does not answer is nobody's business but ours. */
static void
become_ghost(struct rbd_disk *disk)
{
	void (*done)(void *ctx, int status) = disk->deleted;

	disk->deleted = NULL;
	if (!disk->ghost) {
		disk->ghost = true;
		disk->cluster->ghosts++;
	}
	if (done != NULL) {
		done(disk->deleted_ctx, 0);
	}
}

static void
close_lasts(struct timer *timer)
{
	struct rbd_disk *disk = CONTAINER_OF(timer, struct rbd_disk, retry);

	LOG_WARNING(BDEV, disk->name, "the cluster does not answer: its image stays open until it does");
	become_ghost(disk);
}

static void
close_later(struct timer *timer)
{
	close_now(CONTAINER_OF(timer, struct rbd_disk, retry));
}

/* The bdev is gone; a job that is under way ends first. */
static void
close_now(struct rbd_disk *disk)
{
	disk->removed = true;
	timer_stop(&disk->retry);
	if (!disk->busy) {
		disk->state = RBD_CLOSING;
		disk->busy = rbd_job_start(&disk->job, run_close, closed) == 0;
		if (!disk->busy) {
			CHECK(start_timer(&disk->retry, RETRY_MIN_MS, close_later) == 0);
			return;
		}
	}
	if (disk->deleted != NULL) {
		CHECK(start_timer(&disk->retry, PATIENCE_MS, close_lasts) == 0);
	}
}

void
rbd_disk_destruct(struct bdev *bdev)
{
	close_now(CONTAINER_OF(bdev, struct rbd_disk, bdev));
}

/* ---- Opening ---- */

static void
answer(struct rbd_disk *disk, struct bdev *bdev, const struct err *err)
{
	void (*created)(void *ctx, const char *name, struct bdev *bdev, const struct err *err) = disk->created;

	disk->created = NULL;
	if (created != NULL) {
		created(disk->created_ctx, disk->name, bdev, err);
	}
}

static int
make_bdev(struct rbd_disk *disk, struct err *err)
{
	struct bdev *bdev = &disk->bdev;

	if (disk->bytes < disk->block_size) {
		return err_set(err, -EINVAL, "the image has %llu bytes, less than a block", (unsigned long long)disk->bytes);
	}
	*bdev = (struct bdev){
		.ops = &rbd_bdev_ops,
		.name = disk->name,
		.product_name = "Ceph Rbd Disk",
		.block_size = disk->block_size,
		.num_blocks = disk->bytes / disk->block_size,
		.readonly = disk->readonly,
	};
	uuid_copy(bdev->uuid, disk->uuid);
	rbd_io_describe(bdev, disk);
	return bdev_register(bdev, err);
}

static void
retry_now(struct timer *timer)
{
	open_now(CONTAINER_OF(timer, struct rbd_disk, retry));
}

static void
failed_to_open(struct rbd_disk *disk, const struct err *err)
{
	if (!disk->wait) {
		answer(disk, NULL, err);
		close_now(disk);
		return;
	}
	if (disk->retry_ms == RETRY_MIN_MS) {
		LOG_WARNING(BDEV, disk->name, "not open yet: %s", err_text(err));
	}
	answer(disk, NULL, &ERR_NONE);
	disk->state = RBD_WAITING;
	CHECK(start_timer(&disk->retry, disk->retry_ms, retry_now) == 0);
	disk->retry_ms = MIN(2 * disk->retry_ms, (unsigned)RETRY_MAX_MS);
}

static void
opened(struct rbd_job *job)
{
	struct rbd_disk *disk = CONTAINER_OF(job, struct rbd_disk, job);
	struct err err = disk->err;
	int rc = disk->rc;

	timer_stop(&disk->retry);
	if (!job_ended(disk)) {
		return;
	}
	if (rc == 0) {
		rc = make_bdev(disk, &err);
		if (rc != 0) {
			/* Waiting does not mend it. */
			err_prefix(&err, "bdev '%s': ", disk->name);
			LOG_ERROR(BDEV, disk->name, "%s", err_text(&err));
			answer(disk, NULL, &err);
			close_now(disk);
			return;
		}
		disk->state = RBD_OPEN;
		bdev_uuid(&disk->bdev, disk->uuid);
		answer(disk, &disk->bdev, &ERR_NONE);
		return;
	}
	err_prefix(&err, "bdev '%s': ", disk->name);
	failed_to_open(disk, &err);
}

/* The cluster does not answer, neither yes nor no. */
static void
open_late(struct timer *timer)
{
	struct rbd_disk *disk = CONTAINER_OF(timer, struct rbd_disk, retry);

	LOG_WARNING(BDEV, disk->name, "not open yet: the cluster does not answer");
	answer(disk, NULL, &ERR_NONE);
}

/* Another that was deleted, of an image of that name: whether it is in the same cluster, nobody can tell for sure. */
static bool
has_lost_writes(const struct rbd_disk *disk)
{
	struct rbd_disk *other;

	LIST_FOREACH (other, &disks, link) {
		if (other != disk && strcmp(other->pool, disk->pool) == 0 && strcmp(other->image_name, disk->image_name) == 0 &&
		    atomic_load(&other->room->lost_writes) > 0) {
			return true;
		}
	}
	return false;
}

static void
open_now(struct rbd_disk *disk)
{
	struct err err = ERR_NONE;
	int rc;

	disk->state = RBD_OPENING;
	if (has_lost_writes(disk)) {
		err_set(&err, -EBUSY, "bdev '%s': writes of one that was removed are still on their way to the image",
			disk->name);
		failed_to_open(disk, &err);
		return;
	}
	if (disk->wait && disk->created != NULL) {
		CHECK(start_timer(&disk->retry, PATIENCE_MS, open_late) == 0);
	}
	rc = rbd_job_start(&disk->job, run_open, opened);
	disk->busy = rc == 0;
	if (rc != 0) {
		err_set(&err, rc, "bdev '%s': %s", disk->name, strerror(-rc));
		failed_to_open(disk, &err);
	}
}

/* ---- Creating and deleting ---- */

static struct rbd_disk *
find(const char *name)
{
	struct rbd_disk *disk;

	LIST_FOREACH (disk, &disks, link) {
		if (strcmp(disk->name, name) == 0 && !disk->removed) {
			return disk;
		}
	}
	return NULL;
}

static int
check_options(const struct rbd_bdev_options *o, const char *name, struct err *err)
{
	uint32_t size = o->block_size;

	if (name[0] == '\0' || strlen(name) >= BDEV_NAME_BYTES) {
		return err_set(err, -EINVAL, "a bdev's name has 1 to %d bytes", BDEV_NAME_BYTES - 1);
	}
	if (find(name) != NULL || bdev_find(name) != NULL) {
		return err_set(err, -EEXIST, "a bdev named '%s' exists already", name);
	}
	if (size < BDEV_BLOCK_SIZE_MIN || size > BDEV_BLOCK_SIZE_MAX || (size & (size - 1)) != 0) {
		return err_set(err, -EINVAL, "bdev '%s': a block size of %u is not a power of two from %d to %d", name, size,
			       BDEV_BLOCK_SIZE_MIN, BDEV_BLOCK_SIZE_MAX);
	}
	if (o->cluster != NULL && (o->user_id != NULL || o->settings != NULL)) {
		return err_set(err, -EINVAL, "bdev '%s': user_id and config are the cluster's, which is registered", name);
	}
	if (o->cluster != NULL && rbd_cluster_find(o->cluster) == NULL) {
		return err_set(err, -ENOENT, "bdev '%s': there is no cluster '%s'", name, o->cluster);
	}
	return rbd_api_load(err) != NULL ? 0 : err->code;
}

static struct rbd_cluster *
own_cluster(const struct rbd_bdev_options *o)
{
	struct rbd_cluster_options c = {.user_id = o->user_id, .settings = o->settings};
	struct rbd_cluster *cluster = rbd_cluster_new(&c);

	if (cluster != NULL) {
		/* Either the settings, or the file. */
		cluster->usual_file = cluster->must_file = o->settings == NULL;
	}
	return cluster;
}

static struct rbd_disk *
new_disk(const struct rbd_bdev_options *o, const char *name)
{
	struct rbd_disk *disk = calloc(1, sizeof(*disk));

	if (disk == NULL) {
		return NULL;
	}
	list_init(&disk->link);
	disk->cluster = o->cluster != NULL ? rbd_cluster_find(o->cluster) : own_cluster(o);
	disk->own_cluster = o->cluster == NULL;
	if (disk->cluster != NULL) {
		disk->cluster->users++;
	}
	disk->room = rbd_room_new();
	disk->name = strdup(name);
	disk->pool = strdup(o->pool);
	disk->image_name = strdup(o->image);
	if (disk->own_cluster && disk->cluster != NULL) {
		disk->public_settings = rbd_settings_public(disk->cluster->settings);
	}
	disk->block_size = o->block_size;
	disk->readonly = o->readonly;
	disk->wait = o->wait;
	uuid_copy(disk->uuid, o->uuid);
	disk->app = thread_self();
	disk->retry_ms = RETRY_MIN_MS;
	if (disk->cluster == NULL || disk->room == NULL || disk->name == NULL || disk->pool == NULL || disk->image_name == NULL ||
	    (o->settings != NULL && disk->public_settings == NULL)) {
		free_disk(disk);
		return NULL;
	}
	return disk;
}

int
bdev_rbd_create(const struct rbd_bdev_options *o,
		void (*done)(void *ctx, const char *name, struct bdev *bdev, const struct err *err), void *ctx, struct err *err)
{
	char name[BDEV_NAME_BYTES];
	struct rbd_disk *disk;
	int rc;

	snprintf(name, sizeof(name), "%s", o->name != NULL ? o->name : "");
	while (o->name == NULL && (name[0] == '\0' || find(name) != NULL || bdev_find(name) != NULL)) {
		snprintf(name, sizeof(name), "Ceph%u", made++);
	}
	rc = check_options(o, o->name != NULL ? o->name : name, err);
	if (rc != 0) {
		return rc;
	}
	disk = new_disk(o, name);
	if (disk == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", name);
	}
	list_append(&disks, &disk->link);
	disk->created = done;
	disk->created_ctx = ctx;
	open_now(disk);
	return 0;
}

/* That may be used; NULL, and err. */
static struct rbd_disk *
find_living(const char *name, struct err *err)
{
	struct rbd_disk *disk = find(name);

	if (disk == NULL || disk->removed || disk->deleted != NULL) {
		err_set(err, -ENODEV, "there is no RBD bdev '%s'", name);
		return NULL;
	}
	return disk;
}

static void
nothing(void *ctx, int status)
{
}

static void
cancel(struct rbd_disk *disk)
{
	struct err err = ERR_NONE;

	err_set(&err, -ECANCELED, "bdev '%s': deleted before its image was open", disk->name);
	answer(disk, NULL, &err);
	close_now(disk);
}

int
bdev_rbd_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct rbd_disk *disk = find_living(name, err);

	if (disk == NULL) {
		return -ENODEV;
	}
	disk->deleted = done != NULL ? done : nothing;
	disk->deleted_ctx = ctx;
	if (disk->state == RBD_OPEN) {
		bdev_unregister(&disk->bdev, NULL, NULL);
	} else {
		/* There is no bdev, and a job that lasts need not be waited for. */
		become_ghost(disk);
		cancel(disk);
	}
	return 0;
}

int
bdev_rbd_resize(const char *name, uint64_t bytes, void (*done)(void *ctx, const struct err *err), void *ctx, struct err *err)
{
	struct rbd_disk *disk = find_living(name, err);
	int rc;

	if (disk == NULL || disk->state != RBD_OPEN) {
		return err_set(err, -ENODEV, "there is no RBD bdev '%s'", name);
	}
	if (bytes < bdev_num_blocks(&disk->bdev) * disk->block_size) {
		return err_set(err, -EINVAL, "bdev '%s' has %llu bytes: it cannot get smaller", name,
			       (unsigned long long)(bdev_num_blocks(&disk->bdev) * disk->block_size));
	}
	if (disk->busy) {
		return err_set(err, -EBUSY, "bdev '%s' is being looked at or resized", name);
	}
	disk->new_bytes = bytes;
	disk->resized = done;
	disk->resized_ctx = ctx;
	rc = rbd_job_start(&disk->job, run_resize, resized);
	if (rc != 0) {
		return err_set(err, rc, "bdev '%s': %s", name, strerror(-rc));
	}
	disk->busy = true;
	return 0;
}

/* ---- For others to see ---- */

bool
bdev_rbd_supported(void)
{
	return true;
}

static struct rbd_bdev_options
options_of(const struct rbd_disk *disk)
{
	struct rbd_bdev_options o = {
		.name = disk->name,
		.pool = disk->pool,
		.image = disk->image_name,
		.cluster = disk->own_cluster ? NULL : disk->cluster->name,
		.user_id = disk->own_cluster ? disk->cluster->user_id : NULL,
		.settings = disk->public_settings,
		.block_size = disk->block_size,
		.readonly = disk->readonly,
		.wait = disk->wait,
	};

	uuid_copy(o.uuid, disk->uuid);
	return o;
}

bool
bdev_rbd_options(const struct bdev *bdev, struct rbd_bdev_options *ret_options)
{
	if (bdev->ops != &rbd_bdev_ops) {
		return false;
	}
	*ret_options = options_of(CONTAINER_OF(bdev, struct rbd_disk, bdev));
	return true;
}

bool
bdev_rbd_find(const char *name, struct rbd_bdev_options *ret_options)
{
	const struct rbd_disk *disk = find_living(name, NULL);

	if (disk != NULL) {
		*ret_options = options_of(disk);
	}
	return disk != NULL;
}

void
bdev_rbd_for_each_waiting(void (*fn)(void *ctx, const struct rbd_bdev_options *options), void *ctx)
{
	struct rbd_disk *disk;

	LIST_FOREACH (disk, &disks, link) {
		if (disk->wait && !disk->removed && (disk->state == RBD_WAITING || disk->state == RBD_OPENING)) {
			struct rbd_bdev_options o = options_of(disk);

			fn(ctx, &o);
		}
	}
}

/* ---- The end ---- */

static void (*shutdown_done)(void *ctx);
static void *shutdown_ctx;
static struct timer shutdown_timer;

static void
shutdown_end(void)
{
	void (*done)(void *ctx) = shutdown_done;

	shutdown_done = NULL;
	timer_stop(&shutdown_timer);
	rbd_io_hurry(false);
	done(shutdown_ctx);
}

void
rbd_shutdown_check(void)
{
	if (shutdown_done != NULL && list_empty(&disks) && rbd_clusters_end()) {
		shutdown_end();
	}
}

static void
shutdown_late(struct timer *timer)
{
	struct rbd_disk *disk;

	LOG_ERROR(BDEV, "rbd", "a cluster does not answer: its images are left open");
	rbd_jobs_abandon();
	rbd_clusters_abandon();
	/* The thread ends before they do. */
	LIST_FOREACH (disk, &disks, link) {
		timer_stop(&disk->retry);
	}
	shutdown_end();
}

void
bdev_rbd_leave_all(void)
{
	struct rbd_disk *disk, *next;

	rbd_io_hurry(true);
	LIST_FOREACH_SAFE (disk, next, &disks, link) {
		if (disk->state == RBD_OPEN && !disk->removed && disk->deleted == NULL) {
			LOG_NOTICE(BDEV, disk->name, "is not waited for any more");
			disk->deleted = nothing;
			bdev_unregister(&disk->bdev, NULL, NULL);
		}
	}
}

void
bdev_rbd_shutdown(void (*done)(void *ctx), void *ctx)
{
	unsigned ms = SHUTDOWN_MS;
	struct rbd_disk *disk, *next;

	shutdown_done = done;
	shutdown_ctx = ctx;
	LIST_FOREACH_SAFE (disk, next, &disks, link) {
		if (atomic_load(&disk->room->lost) > 0) {
			ms = SHUTDOWN_SILENT_MS;
		}
		if (!disk->removed) {
			cancel(disk);
		}
	}
	if (start_timer(&shutdown_timer, ms, shutdown_late) != 0) {
		LOG_ERROR(BDEV, "rbd", "out of memory: the end has no limit");
	}
	rbd_shutdown_check();
}
