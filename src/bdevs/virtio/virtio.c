/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Virtio bdevs: what a target's configuration says, and when its connection is lost.
 * Context: the app thread; connect() and refresh(), a worker.
 */
#include "bdevs/virtio/virtio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>

#include "bdevs/virtio/internal.h"

#define SECTOR_BYTES DRIVER_BLK_SECTOR_BYTES

struct virtio_disk {
	struct remote_disk remote;
	char *path;
	unsigned vq_count; /* as asked for */
	unsigned vq_size;
	struct watch hangup;
	struct watch news;
	struct driver_vhost *watched;
};

static struct virtio_disk *
disk_of(struct remote_disk *remote)
{
	return CONTAINER_OF(remote, struct virtio_disk, remote);
}

static const struct virtio_link *
link_of(const struct remote_link *remote)
{
	return CONTAINER_OF(remote, struct virtio_link, remote);
}

/* ---- Connections ---- */

static void
disconnect(struct remote_link *remote)
{
	struct virtio_link *link = CONTAINER_OF(remote, struct virtio_link, remote);

	if (remote != NULL) {
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
connect(struct remote_disk *remote, struct remote_link **ret_link, struct err *err)
{
	const struct virtio_disk *disk = disk_of(remote);
	struct driver_blk_options blk = {
		.path = disk->path,
		.timeout_ms = remote->options.connect_ms,
		.interrupt_fd = remote->hurry_fd,
		.queues = remote->options.lanes,
		.fewer_queues = true,
		.queue_size = disk->vq_size,
		.segments = 1,
		.queue_data_bytes = virtio_lane_buffer_bytes(disk->vq_size),
		/* So that those of the first queue can begin with a page. */
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
		disconnect(&link->remote);
		return rc;
	}
	link->remote.lanes = link->blk->queue_count;
	link->zeroes_may_unmap = link->blk->config.write_zeroes_may_unmap != 0;
	*ret_link = &link->remote;
	return 0;
}

static int
refresh(struct remote_disk *disk, struct remote_link *remote, struct err *err)
{
	struct driver_blk *blk = link_of(remote)->blk;
	int rc;

	blk->dev->interrupt_fd = disk->hurry_fd;
	rc = driver_blk_refresh(blk, err);
	blk->dev->interrupt_fd = -1;
	return rc;
}

/* ---- What the bdev looks like ---- */

static bool
has(const struct virtio_link *link, unsigned feature)
{
	return (link->blk->features & 1ull << feature) != 0;
}

static uint64_t
blocks(const struct remote_link *remote)
{
	const struct driver_blk *blk = link_of(remote)->blk;

	return driver_blk_sectors(blk) / (driver_blk_block_size(blk) / SECTOR_BYTES);
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
describe(struct remote_disk *remote, const struct remote_link *remote_link, struct bdev *bdev, struct err *err)
{
	const struct virtio_link *link = link_of(remote_link);
	const struct virtio_blk_config *config = &link->blk->config;
	const char *path = disk_of(remote)->path;
	uint32_t bs = driver_blk_block_size(link->blk);
	size_t bytes = LARGE_BYTES;

	if (bs > BDEV_BLOCK_SIZE_MAX || (bs & (bs - 1)) != 0) {
		return err_set(err, -EINVAL, "%s: blocks of %u bytes are not supported", path, bs);
	}
	if (has(link, VIRTIO_BLK_F_SIZE_MAX) && config->size_max > 0) {
		bytes = MIN(bytes, (size_t)config->size_max);
	}
	if (bytes < bs) {
		return err_set(err, -EINVAL, "%s: a segment of the target's may have %u bytes, a block has %u", path,
			       config->size_max, bs);
	}
	remote_set_uuid(remote, bdev, path);
	bdev->product_name = "VirtioBlk Disk";
	bdev->block_size = bs;
	bdev->num_blocks = blocks(remote_link);
	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE;
	bdev->max_rw_blocks = (uint32_t)(bytes / bs);
	bdev->readonly = has(link, VIRTIO_BLK_F_RO);
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

static int
compare(struct remote_disk *remote, const struct remote_link *remote_link, struct err *err)
{
	const struct virtio_link *link = link_of(remote_link);
	const struct bdev *bdev = &remote->bdev;
	const char *path = disk_of(remote)->path;

	if (driver_blk_block_size(link->blk) != bdev->block_size) {
		return err_set(err, -EINVAL, "%s: blocks have %u bytes now, had %u", path,
			       driver_blk_block_size(link->blk), bdev->block_size);
	}
	if (has(link, VIRTIO_BLK_F_RO) != bdev->readonly) {
		return err_set(err, -EINVAL, "%s: may %s be written now", path, bdev->readonly ? "" : "not");
	}
	if ((has(link, VIRTIO_BLK_F_FLUSH) || !bdev->write_cache) &&
	    (has(link, VIRTIO_BLK_F_DISCARD) || (bdev->ops_mask & 1u << BDEV_UNMAP) == 0) &&
	    (has(link, VIRTIO_BLK_F_WRITE_ZEROES) || (bdev->ops_mask & 1u << BDEV_WRITE_ZEROES) == 0)) {
		return 0;
	}
	return err_set(err, -EINVAL, "%s: offers less than before", path);
}

/* ---- Watching ---- */

static void
hung_up(struct watch *w, uint32_t events)
{
	remote_lost(&CONTAINER_OF(w, struct virtio_disk, hangup)->remote, "the target hung up");
}

static void
has_news(struct watch *w, uint32_t events)
{
	struct virtio_disk *disk = CONTAINER_OF(w, struct virtio_disk, news);

	if (driver_vhost_config_changed(disk->watched)) {
		remote_news(&disk->remote);
	}
	if ((events & (EPOLLHUP | EPOLLERR)) != 0) {
		watch_stop(w); /* the other descriptor tells */
	}
}

static void
unwatch(struct remote_disk *remote)
{
	watch_stop(&disk_of(remote)->hangup);
	watch_stop(&disk_of(remote)->news);
}

static int
watch(struct remote_disk *remote, struct remote_link *link, struct err *err)
{
	struct virtio_disk *disk = disk_of(remote);
	int rc;

	disk->watched = link_of(link)->blk->dev;
	rc = watch_start(&disk->hangup, disk->watched->fd, EPOLLRDHUP, hung_up);
	if (rc == 0 && disk->watched->backend_fd >= 0) {
		rc = watch_start(&disk->news, disk->watched->backend_fd, EPOLLIN, has_news);
	}
	if (rc != 0) {
		unwatch(remote);
		return err_set(err, rc, "%s: cannot be watched: %s", disk->path, strerror(-rc));
	}
	return 0;
}

/* ---- Life ---- */

static void
free_disk(struct remote_disk *remote)
{
	struct virtio_disk *disk = disk_of(remote);

	free(disk->path);
	free(disk);
}

static const struct remote_ops virtio_ops = {
	.bdev = REMOTE_BDEV_OPS("virtio"),
	.lane_bytes = sizeof(struct virtio_lane),
	.request_bytes = sizeof(struct virtio_request),
	.connect = connect,
	.refresh = refresh,
	.disconnect = disconnect,
	.describe = describe,
	.compare = compare,
	.blocks = blocks,
	.watch = watch,
	.unwatch = unwatch,
	.free = free_disk,
	.lane_start = virtio_lane_start,
	.lane_stop = virtio_lane_stop,
	.send = virtio_send,
};

static unsigned
lanes_of(const struct virtio_bdev_options *o)
{
	return o->vq_count != 0 ? o->vq_count : MIN(o->vq_default, (unsigned)REMOTE_LANES_MAX);
}

static int
check_options(const struct virtio_bdev_options *o, struct err *err)
{
	unsigned size = o->vq_size, count = lanes_of(o);

	if (count == 0 || count > REMOTE_LANES_MAX) {
		return err_set(err, -EINVAL, "bdev '%s': %u queues are not 1 to %d", o->name, count, REMOTE_LANES_MAX);
	}
	if (size != 0 && (size < 4 || size > 32768 || (size & (size - 1)) != 0)) {
		return err_set(err, -EINVAL, "bdev '%s': queue size %u is not a power of two from 4 to 32768", o->name, size);
	}
	return 0;
}

int
bdev_virtio_attach(const struct virtio_bdev_options *o,
		   void (*done)(void *ctx, struct bdev *bdev, const struct err *err), void *ctx, struct err *err)
{
	struct remote_options remote = {.name = o->name,
					.lanes = lanes_of(o),
					.reconnect_s = o->reconnect_s,
					.connect_ms = o->connect_ms != 0 ? o->connect_ms : DRIVER_VHOST_TIMEOUT_MS,
					.wait = o->wait};
	struct virtio_disk *disk;
	int rc = check_options(o, err);

	if (rc != 0) {
		return rc;
	}
	disk = calloc(1, sizeof(*disk));
	if (disk == NULL || (disk->path = strdup(o->path)) == NULL) {
		free(disk);
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", o->name);
	}
	disk->vq_count = o->vq_count;
	disk->vq_size = o->vq_size != 0 ? o->vq_size : VIRTIO_QUEUE_SIZE_DEFAULT;
	rc = remote_attach(&disk->remote, &virtio_ops, &remote, done, ctx, err);
	if (rc != 0) {
		free_disk(&disk->remote);
	}
	return rc;
}

int
bdev_virtio_detach(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct remote_disk *disk = remote_find(&virtio_ops, name);

	if (disk == NULL) {
		return err_set(err, -ENODEV, "there is no virtio bdev '%s'", name);
	}
	remote_detach(disk, done, ctx);
	return 0;
}

static struct virtio_bdev_options
options_of(struct remote_disk *remote)
{
	const struct virtio_disk *disk = disk_of(remote);

	return (struct virtio_bdev_options){
		.name = remote->name,
		.path = disk->path,
		.vq_count = disk->vq_count,
		.vq_size = disk->vq_size,
		.reconnect_s = remote->options.reconnect_s,
		.connect_ms = remote->options.connect_ms,
		.wait = remote->options.wait,
	};
}

bool
bdev_virtio_info(const struct bdev *bdev, struct virtio_bdev_info *ret_info)
{
	struct remote_disk *disk = remote_of(bdev, &virtio_ops);

	if (disk == NULL) {
		return false;
	}
	*ret_info = (struct virtio_bdev_info){
		.options = options_of(disk),
		.connected = disk->state == REMOTE_UP,
		.queues = disk->state == REMOTE_UP ? disk->link->lanes : 0,
		.connects = disk->connects,
	};
	return true;
}

void
bdev_virtio_for_each_waiting(void (*fn)(void *ctx, const struct virtio_bdev_options *options), void *ctx)
{
	for (struct remote_disk *disk = NULL; (disk = remote_next_waiting(&virtio_ops, disk)) != NULL;) {
		struct virtio_bdev_options o = options_of(disk);

		fn(ctx, &o);
	}
}

void
bdev_virtio_shutdown(void)
{
	remote_shutdown(&virtio_ops);
}
