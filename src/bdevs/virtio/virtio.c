/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The life of a virtio bdev and of its connection.
 *
 *   attach -> CONNECTING --made--> UP --hang-up, broken ring--> LEAVING --no channel uses it--+
 *                 ^  |                                                                        |
 *                 |  +--failed--> DOWN --timer (each time later)--+                           |
 *                 +-----------------------------------------------+---------------------------+
 *
 * What blocks (connecting, asking for the configuration) is done by a system thread that lives as long as that takes.
 *
 * Invariants
 *  1. At most one job and one visit of the channels are under way.
 *  2. A connection is freed when it is not the disk's any more, no channel uses it, and no job does.
 *  3. A disk is freed when its bdev is gone and neither job nor visit is under way.
 *  4. While the target is there nothing but its descriptors can wake us.
 * Context: the app thread; run_job(), a worker.
 */
#include "bdevs/virtio/virtio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/log.h"
#include "bdevs/virtio/internal.h"

#define RETRY_MIN_MS 20
#define RETRY_MAX_MS 2000
#define VISIT_RETRY_US 5000
#define SECTOR_BYTES DRIVER_BLK_SECTOR_BYTES

static struct list disks = {&disks, &disks};

static void connect_now(struct virtio_disk *disk);
static void try_free(struct virtio_disk *disk);
static void visit(struct virtio_disk *disk);

/* ---- Connections (the worker) ---- */

static void
link_free(struct virtio_link *link)
{
	if (link != NULL) {
		driver_blk_abandon(link->blk);
		free(link);
	}
}

static int
link_buffers(struct virtio_link *link, struct err *err)
{
	for (unsigned i = 0; i < link->blk->queue_count; i++) {
		unsigned slots = link->blk->queues[i].slot_count;

		link->buffers[i].small = driver_blk_alloc(link->blk, slots * SMALL_BYTES, SMALL_BYTES);
		link->buffers[i].large = driver_blk_alloc(link->blk, LARGE_COUNT * LARGE_BYTES, SMALL_BYTES);
		if (link->buffers[i].small == NULL || link->buffers[i].large == NULL) {
			return err_set(err, -ENOMEM, "no shared memory for queue %u", i);
		}
	}
	return 0;
}

static int
link_make(const struct virtio_bdev_options *o, struct virtio_link **ret_link, struct err *err)
{
	struct driver_blk_options blk = {
		.path = o->path,
		.timeout_ms = o->connect_ms,
		.queues = MIN(o->vq_count, (unsigned)QUEUES_MAX),
		.fewer_queues = true,
		.queue_size = o->vq_size,
		.segments = 1,
		.queue_data_bytes = virtio_queue_bytes(o->vq_size),
		/* Of pages, so that those of each queue can begin with one. */
		.data_bytes = SMALL_BYTES,
	};
	struct virtio_link *link = calloc(1, sizeof(*link));
	int rc;

	if (link == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	rc = driver_blk_open(&blk, &link->blk, err);
	if (rc == 0) {
		rc = link_buffers(link, err);
	}
	if (rc != 0) {
		link_free(link);
		return rc;
	}
	*ret_link = link;
	return 0;
}

static void
run_connect(struct worker_job *job)
{
	struct virtio_disk *disk = CONTAINER_OF(job, struct virtio_disk, job);

	disk->job_err = ERR_NONE;
	disk->fresh = NULL;
	disk->job_status = link_make(&disk->options, &disk->fresh, &disk->job_err);
}

static void
run_refresh(struct worker_job *job)
{
	struct virtio_disk *disk = CONTAINER_OF(job, struct virtio_disk, job);

	disk->job_err = ERR_NONE;
	disk->job_status = driver_blk_refresh(disk->fresh->blk, &disk->job_err);
}

/* 0 or -errno: no system thread is to be had. */
static int
give_job(struct virtio_disk *disk, void (*fn)(struct worker_job *job), void (*done)(struct worker_job *job))
{
	disk->job_err = ERR_NONE;
	disk->worker = worker_create("virtio", &disk->job_err);
	if (disk->worker == NULL) {
		return disk->job_err.code;
	}
	disk->busy = true;
	worker_submit(disk->worker, &disk->job, fn, done);
	return 0;
}

static void
take_job(struct virtio_disk *disk)
{
	worker_free(disk->worker);
	disk->worker = NULL;
	disk->busy = false;
}

/* ---- What the bdev looks like ---- */

static bool
has(const struct virtio_link *link, unsigned feature)
{
	return (link->blk->features & 1ull << feature) != 0;
}

static uint64_t
blocks_of(const struct virtio_link *link)
{
	return driver_blk_sectors(link->blk) / (driver_blk_block_size(link->blk) / SECTOR_BYTES);
}

/* In blocks of the disk; 0: none given. A device may well say 0xffffffff. */
static uint32_t
limit_blocks(uint32_t sectors, uint32_t block_size)
{
	return sectors / (block_size / SECTOR_BYTES);
}

static void
describe_ranges(struct bdev *bdev, const struct virtio_link *link)
{
	const struct virtio_blk_config *config = &link->blk->config;
	uint32_t bs = bdev->block_size;

	if (has(link, VIRTIO_BLK_F_DISCARD) && limit_blocks(config->max_discard_sectors, bs) > 0) {
		bdev->ops_mask |= 1u << BDEV_UNMAP;
		bdev->max_unmap_blocks = limit_blocks(config->max_discard_sectors, bs);
		bdev->unmap_granularity_blocks = limit_blocks(config->discard_sector_alignment, bs);
	}
	if (has(link, VIRTIO_BLK_F_WRITE_ZEROES) && limit_blocks(config->max_write_zeroes_sectors, bs) > 0) {
		bdev->ops_mask |= 1u << BDEV_WRITE_ZEROES;
		bdev->max_write_zeroes_blocks = limit_blocks(config->max_write_zeroes_sectors, bs);
	}
}

static int
describe(struct virtio_disk *disk, const struct virtio_link *link, struct err *err)
{
	const struct virtio_blk_config *config = &link->blk->config;
	uint32_t bs = driver_blk_block_size(link->blk);
	size_t bytes = LARGE_BYTES;
	struct bdev *bdev = &disk->bdev;

	if (bs > BDEV_BLOCK_SIZE_MAX || (bs & (bs - 1)) != 0) {
		return err_set(err, -EINVAL, "%s: blocks of %u bytes are not supported", disk->path, bs);
	}
	if (has(link, VIRTIO_BLK_F_SIZE_MAX) && config->size_max > 0) {
		bytes = MIN(bytes, (size_t)config->size_max);
	}
	if (bytes < bs) {
		return err_set(err, -EINVAL, "%s: a segment of the target's may have %u bytes, a block has %u", disk->path,
			       config->size_max, bs);
	}
	*bdev = (struct bdev){
		.ops = &virtio_bdev_ops,
		.name = disk->name,
		.product_name = "VirtioBlk Disk",
		.block_size = bs,
		.num_blocks = blocks_of(link),
		.ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE,
		.max_rw_blocks = (uint32_t)(bytes / bs),
		.readonly = has(link, VIRTIO_BLK_F_RO),
		.io_ctx_bytes = sizeof(struct virtio_request),
		.channel_ctx_bytes = sizeof(void *),
	};
	if (has(link, VIRTIO_BLK_F_TOPOLOGY) && config->physical_block_exp < 8 &&
	    (bs << config->physical_block_exp) <= BDEV_BLOCK_SIZE_MAX) {
		bdev->physical_block_size = bs << config->physical_block_exp;
	}
	if (has(link, VIRTIO_BLK_F_FLUSH)) {
		bdev->write_cache = true;
		bdev->ops_mask |= 1u << BDEV_FLUSH;
	}
	describe_ranges(bdev, link);
	return 0;
}

/* Whether what came back is the disk that went. */
static int
compare(const struct virtio_disk *disk, const struct virtio_link *link, struct err *err)
{
	const struct bdev *bdev = &disk->bdev;

	if (driver_blk_block_size(link->blk) != bdev->block_size) {
		return err_set(err, -EINVAL, "%s: blocks have %u bytes now, had %u", disk->path,
			       driver_blk_block_size(link->blk), bdev->block_size);
	}
	if (blocks_of(link) < bdev_num_blocks(bdev)) {
		return err_set(err, -EINVAL, "%s: has %llu blocks now, had %llu", disk->path,
			       (unsigned long long)blocks_of(link), (unsigned long long)bdev_num_blocks(bdev));
	}
	if (has(link, VIRTIO_BLK_F_RO) != bdev->readonly) {
		return err_set(err, -EINVAL, "%s: may %s be written now", disk->path, bdev->readonly ? "" : "not");
	}
	if ((has(link, VIRTIO_BLK_F_FLUSH) || !bdev->write_cache) &&
	    (has(link, VIRTIO_BLK_F_DISCARD) || (bdev->ops_mask & 1u << BDEV_UNMAP) == 0) &&
	    (has(link, VIRTIO_BLK_F_WRITE_ZEROES) || (bdev->ops_mask & 1u << BDEV_WRITE_ZEROES) == 0)) {
		return 0;
	}
	return err_set(err, -EINVAL, "%s: offers less than before", disk->path);
}

static void
follow_size(struct virtio_disk *disk, const struct virtio_link *link)
{
	uint64_t now = blocks_of(link), before = bdev_num_blocks(&disk->bdev);
	int rc = now != before ? bdev_resize(&disk->bdev, now) : 0;

	if (rc != 0) {
		LOG_ERROR(BDEV, disk->name, "the target has %llu blocks now, had %llu: %s", (unsigned long long)now,
			  (unsigned long long)before, rc == -EBUSY ? "smaller, and in use" : strerror(-rc));
	}
}

/* ---- Losing a connection ---- */

static void
stop_watching(struct virtio_disk *disk)
{
	watch_stop(&disk->hangup);
	watch_stop(&disk->news);
}

static void
give_up(struct timer *timer)
{
	struct virtio_disk *disk = CONTAINER_OF(timer, struct virtio_disk, give_up);

	LOG_ERROR(BDEV, disk->name, "%s has been gone for %u s: requests end with an error", disk->path,
		  disk->options.reconnect_s);
	atomic_store(&disk->failed, -EIO);
	visit(disk);
}

static void
lose(struct virtio_disk *disk, const char *why)
{
	if (disk->state != DISK_UP) {
		return;
	}
	LOG_WARNING(BDEV, disk->name, "%s: %s; requests wait while it is connected to again", disk->path, why);
	stop_watching(disk);
	disk->state = DISK_LEAVING;
	pthread_mutex_lock(&disk->lock);
	disk->old = disk->link;
	disk->link = NULL;
	pthread_mutex_unlock(&disk->lock);
	if (disk->options.reconnect_s == 0) {
		atomic_store(&disk->failed, -EIO);
	} else if (timer_start(&disk->give_up, (uint64_t)disk->options.reconnect_s * (NS_PER_S / NS_PER_US), give_up) !=
		   0) {
		atomic_store(&disk->failed, -EIO);
	}
	visit(disk);
}

static void
hung_up(struct watch *w, uint32_t events)
{
	lose(CONTAINER_OF(w, struct virtio_disk, hangup), "the target hung up");
}

void
virtio_disk_broken(struct msg *msg)
{
	struct virtio_disk *disk = CONTAINER_OF(msg, struct virtio_disk, broken_msg);

	atomic_store(&disk->broken, false);
	lose(disk, "the target broke a ring");
	try_free(disk);
}

/* ---- Telling the channels ---- */

static void
visit_later(struct timer *timer)
{
	visit(CONTAINER_OF(timer, struct virtio_disk, revisit));
}

/* The old connection, if nothing uses it any more. */
static bool
drop_old(struct virtio_disk *disk)
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
	link_free(disk->old);
	disk->old = NULL;
	return true;
}

static void
visited(void *ctx)
{
	struct virtio_disk *disk = ctx;

	disk->visiting = false;
	if (disk->visit_again) {
		visit(disk);
	} else if (disk->state == DISK_LEAVING && !disk->destructed && !disk->deleting) {
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
visit(struct virtio_disk *disk)
{
	disk->visit_again = disk->visiting;
	if (disk->visiting || disk->destructed) {
		return;
	}
	disk->visiting = true;
	if (device_for_each_channel(&disk->device, virtio_channel_sync, visited, disk) != 0) {
		disk->visiting = false;
		CHECK(timer_start(&disk->revisit, VISIT_RETRY_US, visit_later) == 0);
	}
}

/* ---- News of the target ---- */

static void ask_again(struct virtio_disk *disk);

static void
refreshed(struct worker_job *job)
{
	struct virtio_disk *disk = CONTAINER_OF(job, struct virtio_disk, job);
	struct virtio_link *link = disk->fresh;

	take_job(disk);
	disk->fresh = NULL;
	if (!disk->destructed && disk->state == DISK_UP && disk->job_status == 0) {
		follow_size(disk, link);
		if (disk->changed) {
			ask_again(disk);
		}
	}
	try_free(disk);
}

static void
ask_again(struct virtio_disk *disk)
{
	disk->changed = disk->busy;
	if (disk->busy) {
		return;
	}
	disk->fresh = disk->link; /* written by this thread only */
	if (give_job(disk, run_refresh, refreshed) != 0) {
		LOG_ERROR(BDEV, disk->name, "the target's size may have changed, but: %s", err_text(&disk->job_err));
	}
}

static void
has_news(struct watch *w, uint32_t events)
{
	struct virtio_disk *disk = CONTAINER_OF(w, struct virtio_disk, news);

	if (driver_vhost_config_changed(disk->link->blk->dev)) {
		ask_again(disk);
	}
	if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
		watch_stop(w); /* the other descriptor tells */
	}
}

/* ---- Connecting ---- */

static void
retry_now(struct timer *timer)
{
	connect_now(CONTAINER_OF(timer, struct virtio_disk, retry));
}

static void
retry_later(struct virtio_disk *disk)
{
	disk->state = DISK_DOWN;
	CHECK(timer_start(&disk->retry, (uint64_t)disk->retry_ms * (NS_PER_MS / NS_PER_US), retry_now) == 0);
	disk->retry_ms = MIN(2 * disk->retry_ms, (unsigned)RETRY_MAX_MS);
}

static void
answer_attach(struct virtio_disk *disk, struct bdev *bdev, const struct err *err)
{
	void (*attached)(void *ctx, struct bdev *bdev, const struct err *err) = disk->attached;

	disk->attached = NULL;
	if (attached != NULL) {
		attached(disk->attached_ctx, bdev, err);
	}
}

static int
start_watching(struct virtio_disk *disk, const struct virtio_link *link, struct err *err)
{
	const struct driver_vhost *dev = link->blk->dev;
	int rc = watch_start(&disk->hangup, dev->fd, EPOLLRDHUP, hung_up);

	if (rc == 0 && dev->backend_fd >= 0) {
		rc = watch_start(&disk->news, dev->backend_fd, EPOLLIN, has_news);
	}
	if (rc != 0) {
		stop_watching(disk);
		return err_set(err, rc, "%s: cannot be watched: %s", disk->path, strerror(-rc));
	}
	return 0;
}

static int
first_time(struct virtio_disk *disk, struct err *err)
{
	struct channel *home;
	int rc = describe(disk, disk->link, err);

	if (rc != 0) {
		return rc;
	}
	home = channel_get(&disk->device, &rc);
	if (home == NULL) {
		return err_set(err, rc, "bdev '%s': %s", disk->name, strerror(-rc));
	}
	disk->home = CONTAINER_OF(home, struct virtio_channel, channel);
	rc = bdev_register(&disk->bdev, err);
	if (rc != 0) {
		channel_put(home);
		disk->home = NULL;
		return rc;
	}
	disk->registered = true;
	return 0;
}

static void
set_link(struct virtio_disk *disk, struct virtio_link *link)
{
	pthread_mutex_lock(&disk->lock);
	disk->link = link;
	pthread_mutex_unlock(&disk->lock);
}

/* The connection that was made becomes the disk's, or the error says why not. */
static int
adopt(struct virtio_disk *disk, struct virtio_link *link, struct err *err)
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
	disk->state = DISK_UP;
	disk->connects++;
	timer_stop(&disk->give_up);
	atomic_store(&disk->failed, 0);
	return 0;
}

static void
give_up_attach(struct virtio_disk *disk, const struct err *err)
{
	answer_attach(disk, NULL, err);
	disk->destructed = true; /* there never was a bdev */
}

static void
failed_to_connect(struct virtio_disk *disk, const struct err *err)
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
	struct virtio_disk *disk = CONTAINER_OF(job, struct virtio_disk, job);
	struct virtio_link *link = disk->fresh;
	struct err err = disk->job_err;
	bool first = !disk->registered;
	int rc = disk->job_status;

	take_job(disk);
	disk->fresh = NULL;
	if (disk->destructed || disk->deleting) {
		link_free(link);
		try_free(disk);
		return;
	}
	if (rc == 0) {
		rc = adopt(disk, link, &err);
	}
	if (rc != 0) {
		link_free(link);
		failed_to_connect(disk, &err);
		try_free(disk);
		return;
	}
	LOG_NOTICE(BDEV, disk->name, "%s: connected, %u queue%s", disk->path, link->blk->queue_count,
		   link->blk->queue_count == 1 ? "" : "s");
	if (first) {
		answer_attach(disk, &disk->bdev, &ERR_NONE);
	} else {
		follow_size(disk, link);
		visit(disk);
	}
}

static void
connect_now(struct virtio_disk *disk)
{
	disk->state = DISK_CONNECTING;
	if (give_job(disk, run_connect, connected) != 0) {
		retry_later(disk);
	}
}

/* ---- Life ---- */

static struct virtio_disk *
find(const char *name)
{
	struct virtio_disk *disk;

	LIST_FOREACH (disk, &disks, list) {
		if (strcmp(disk->name, name) == 0) {
			return disk;
		}
	}
	return NULL;
}

static void
disk_free(struct virtio_disk *disk)
{
	list_remove(&disk->list);
	pthread_mutex_destroy(&disk->lock);
	free(disk->name);
	free(disk->path);
	free(disk);
}

/* Once the bdev is gone, or there never was one. */
static void
try_free(struct virtio_disk *disk)
{
	void (*deleted)(void *ctx, int status) = disk->deleted;
	void *ctx = disk->deleted_ctx;
	struct virtio_link *link;

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
	if (disk->busy || atomic_load(&disk->broken)) {
		return;
	}
	device_unregister(&disk->device);
	link = disk->link;
	set_link(disk, NULL);
	link_free(link);
	link_free(disk->old);
	disk_free(disk);
	if (deleted != NULL) {
		deleted(ctx, 0);
	}
}

void
virtio_disk_destruct(struct bdev *bdev)
{
	struct virtio_disk *disk = CONTAINER_OF(bdev, struct virtio_disk, bdev);

	disk->destructed = true;
	if (disk->busy) {
		/* A step of connecting, at most: its end is a message by the time this returns. */
		worker_free(disk->worker);
		disk->worker = NULL;
	}
	try_free(disk);
}

static int
check_options(const struct virtio_bdev_options *o, struct err *err)
{
	unsigned size = o->vq_size;

	if (o->name[0] == '\0' || strlen(o->name) >= BDEV_NAME_BYTES) {
		return err_set(err, -EINVAL, "a bdev's name has 1 to %d bytes", BDEV_NAME_BYTES - 1);
	}
	if (o->vq_count == 0 || o->vq_count > QUEUES_MAX) {
		return err_set(err, -EINVAL, "bdev '%s': %u queues are not 1 to %d", o->name, o->vq_count, QUEUES_MAX);
	}
	if (size != 0 && (size < 4 || size > 32768 || (size & (size - 1)) != 0)) {
		return err_set(err, -EINVAL, "bdev '%s': queue size %u is not a power of two from 4 to 32768", o->name, size);
	}
	if (find(o->name) != NULL || bdev_find(o->name) != NULL) {
		return err_set(err, -EEXIST, "a bdev named '%s' exists already", o->name);
	}
	return 0;
}

static struct virtio_disk *
make(const struct virtio_bdev_options *o)
{
	struct virtio_disk *disk = calloc(1, sizeof(*disk));

	if (disk == NULL) {
		return NULL;
	}
	disk->name = strdup(o->name);
	disk->path = strdup(o->path);
	pthread_mutex_init(&disk->lock, NULL);
	if (disk->name == NULL || disk->path == NULL) {
		disk_free(disk);
		return NULL;
	}
	disk->options = *o;
	disk->options.name = disk->name;
	disk->options.path = disk->path;
	disk->options.vq_size = o->vq_size != 0 ? o->vq_size : VIRTIO_QUEUE_SIZE_DEFAULT;
	disk->app = thread_self();
	disk->retry_ms = RETRY_MIN_MS;
	device_register(&disk->device, disk->name, &virtio_channel_ops, sizeof(struct virtio_channel));
	list_append(&disks, &disk->list);
	return disk;
}

int
bdev_virtio_attach(const struct virtio_bdev_options *options,
		   void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx, struct err *err)
{
	struct virtio_disk *disk;
	int rc = check_options(options, err);

	if (rc != 0) {
		return rc;
	}
	disk = make(options);
	if (disk == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	rc = give_job(disk, run_connect, connected);
	if (rc != 0) {
		err_set(err, rc, "bdev '%s': %s", options->name, err_text(&disk->job_err));
		disk_free(disk);
		return rc;
	}
	disk->attached = done;
	disk->attached_ctx = ctx;
	return 0;
}

/* Ends one that is no bdev: at once, or when its job has ended. */
static void
cancel(struct virtio_disk *disk)
{
	struct err err = ERR_NONE;

	err_set(&err, -ECANCELED, "bdev '%s': detached before its target was connected to", disk->name);
	answer_attach(disk, NULL, &err);
	disk->destructed = true;
	try_free(disk);
}

int
bdev_virtio_detach(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct virtio_disk *disk = find(name);

	if (disk == NULL || disk->deleting || (disk->destructed && !disk->registered)) {
		return err_set(err, -ENODEV, "there is no virtio bdev '%s'", name);
	}
	disk->deleting = true;
	disk->deleted = done;
	disk->deleted_ctx = ctx;
	if (!disk->registered) {
		cancel(disk);
		return 0;
	}
	bdev_unregister(&disk->bdev, NULL, NULL);
	if (disk->state != DISK_UP) {
		atomic_store(&disk->failed, -ENODEV);
		visit(disk);
	}
	return 0;
}

bool
bdev_virtio_info(const struct bdev *bdev, struct virtio_bdev_info *ret_info)
{
	const struct virtio_disk *disk = CONTAINER_OF(bdev, struct virtio_disk, bdev);

	if (bdev->ops != &virtio_bdev_ops) {
		return false;
	}
	*ret_info = (struct virtio_bdev_info){
		.options = disk->options,
		.connected = disk->state == DISK_UP,
		.queues = disk->state == DISK_UP ? disk->link->blk->queue_count : 0,
		.connects = disk->connects,
	};
	return true;
}

void
bdev_virtio_for_each_waiting(void (*fn)(void *ctx, const struct virtio_bdev_options *options), void *ctx)
{
	struct virtio_disk *disk;

	LIST_FOREACH (disk, &disks, list) {
		if (!disk->registered && disk->options.wait && !disk->destructed) {
			fn(ctx, &disk->options);
		}
	}
}

void
bdev_virtio_shutdown(void)
{
	struct virtio_disk *disk, *next;

	LIST_FOREACH_SAFE (disk, next, &disks, list) {
		if (!disk->registered && !disk->destructed) {
			if (disk->busy) {
				worker_free(disk->worker);
				disk->worker = NULL;
			}
			cancel(disk);
		}
	}
}
