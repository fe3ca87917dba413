/* SPDX-License-Identifier: BSD-3-Clause */
/* NBD bdevs: what an export looks like, and options. Context: the app thread; make_link(), a worker. */
#include "bdevs/nbd/nbd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bdevs/nbd/internal.h"

struct nbd_disk {
	struct remote_disk remote;
	struct nbd_bdev_options options; /* with texts of its own */
	struct nbd_export export;        /* as the bdev has it */
};

static struct nbd_disk *
disk_of(struct remote_disk *remote)
{
	return CONTAINER_OF(remote, struct nbd_disk, remote);
}

static const struct nbd_link *
link_of(const struct remote_link *remote)
{
	return CONTAINER_OF(remote, struct nbd_link, remote);
}

/* ---- What the bdev looks like ---- */

static int
make_link(struct remote_disk *remote, struct remote_link **ret_link, struct err *err)
{
	struct nbd_link *link;
	int rc = nbd_link_make(remote, &disk_of(remote)->options, &link, err);

	if (rc == 0) {
		*ret_link = &link->remote;
	}
	return rc;
}

static void
free_link(struct remote_link *remote)
{
	if (remote != NULL) {
		nbd_link_free(CONTAINER_OF(remote, struct nbd_link, remote));
	}
}

/* What lies beyond the last whole block is not there. */
static uint64_t
blocks(const struct remote_link *remote)
{
	const struct nbd_export *export = &link_of(remote)->export;

	return export->bytes / export->block_size;
}

static const char *
text_of(const char *text)
{
	return text != NULL ? text : "";
}

static void
set_uuid(const struct nbd_disk *disk, struct bdev *bdev)
{
	const struct nbd_bdev_options *o = &disk->options;
	char *address = NULL;

	if (asprintf(&address, "%s %s %s %s %s", text_of(o->uri), text_of(o->socket), text_of(o->host), text_of(o->port),
		     text_of(o->export)) < 0) {
		address = NULL;
	}
	if (address != NULL) {
		remote_set_uuid(&disk->remote, bdev, address);
	}
	free(address);
}

static int
describe(struct remote_disk *remote, const struct remote_link *remote_link, struct bdev *bdev, struct err *err)
{
	const struct nbd_export *export = &link_of(remote_link)->export;
	uint32_t bs = export->block_size;

	disk_of(remote)->export = *export;
	set_uuid(disk_of(remote), bdev);
	bdev->product_name = "NBD disk";
	bdev->block_size = bs;
	bdev->physical_block_size = export->preferred_bytes;
	bdev->num_blocks = blocks(remote_link);
	bdev->readonly = export->readonly;
	bdev->max_rw_blocks = (uint32_t)(MIN((uint64_t)NBD_LARGE_BYTES, export->max_bytes) / bs);
	bdev->max_unmap_blocks = bdev->max_write_zeroes_blocks = NBD_RANGE_BYTES / bs;
	bdev->unmap_granularity_blocks = export->preferred_bytes / bs;
	bdev->write_cache = export->flush;
	bdev->native_fua = export->fua;
	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | (export->flush ? 1u << BDEV_FLUSH : 0) |
			 (export->trim ? 1u << BDEV_UNMAP : 0) | (export->zero ? 1u << BDEV_WRITE_ZEROES : 0) |
			 (export->allocation ? 1u << BDEV_BLOCK_STATUS : 0);
	return 0;
}

static int
compare(struct remote_disk *remote, const struct remote_link *remote_link, struct err *err)
{
	const struct nbd_export *now = &link_of(remote_link)->export, *before = &disk_of(remote)->export;

	if (now->block_size > before->block_size) {
		return err_set(err, -EINVAL, "requests have %u bytes at least now, had %u", now->block_size,
			       before->block_size);
	}
	if (now->max_bytes < (uint64_t)remote->bdev.max_rw_blocks * remote->bdev.block_size) {
		return err_set(err, -EINVAL, "requests have %llu bytes at most now", (unsigned long long)now->max_bytes);
	}
	if (now->readonly != before->readonly || (before->flush && !now->flush) || (before->fua && !now->fua) ||
	    (before->trim && !now->trim) || (before->zero && !now->zero) || (before->allocation && !now->allocation)) {
		return err_set(err, -EINVAL, "the export offers something else than before");
	}
	return 0;
}

/* ---- Options ---- */

#define TEXTS 9

static void
texts_of(struct nbd_bdev_options *o, const char **ret_texts[TEXTS])
{
	const char **const all[TEXTS] = {&o->name,   &o->uri,	       &o->socket,	 &o->host, &o->port,
					 &o->export, &o->tls_certificates, &o->tls_psk_file, &o->tls_username};

	memcpy(ret_texts, all, sizeof(all));
}

static void
options_free(struct nbd_bdev_options *o)
{
	const char **texts[TEXTS];

	texts_of(o, texts);
	for (unsigned i = 0; i < TEXTS; i++) {
		free((char *)(uintptr_t)*texts[i]);
		*texts[i] = NULL;
	}
}

/* False when memory is out. */
static bool
options_copy(struct nbd_bdev_options *to, const struct nbd_bdev_options *from)
{
	const char **texts[TEXTS];
	bool good = true;

	*to = *from;
	texts_of(to, texts);
	for (unsigned i = 0; i < TEXTS; i++) {
		const char *text = *texts[i];

		*texts[i] = text != NULL ? strdup(text) : NULL;
		good = good && (text == NULL || *texts[i] != NULL);
	}
	if (!good) {
		options_free(to);
	}
	return good;
}

static unsigned
lanes_of(const struct nbd_bdev_options *o)
{
	return o->connections != 0 ? o->connections : MIN(o->connections_default, (unsigned)REMOTE_LANES_MAX);
}

static int
check_options(const struct nbd_bdev_options *o, struct err *err)
{
	unsigned places = (o->uri != NULL) + (o->socket != NULL) + (o->host != NULL);

	if (places != 1) {
		return err_set(err, -EINVAL, "bdev '%s': one of uri, socket and host says where its server is", o->name);
	}
	if (o->uri != NULL && (o->export != NULL || o->port != NULL)) {
		return err_set(err, -EINVAL, "bdev '%s': export and port are parts of the uri", o->name);
	}
	if (o->port != NULL && o->host == NULL) {
		return err_set(err, -EINVAL, "bdev '%s': a port belongs to a host", o->name);
	}
	if (o->tls_username != NULL && o->tls_psk_file == NULL) {
		return err_set(err, -EINVAL, "bdev '%s': tls_username belongs to tls_psk_file", o->name);
	}
	if (lanes_of(o) == 0 || lanes_of(o) > REMOTE_LANES_MAX) {
		return err_set(err, -EINVAL, "bdev '%s': %u connections are not 1 to %d", o->name, lanes_of(o),
			       REMOTE_LANES_MAX);
	}
	return 0;
}

/* ---- Life ---- */

static void
free_disk(struct remote_disk *remote)
{
	struct nbd_disk *disk = disk_of(remote);

	options_free(&disk->options);
	free(disk);
}

static const struct remote_ops nbd_ops = {
	.bdev = REMOTE_BDEV_OPS("nbd"),
	.lane_bytes = sizeof(struct nbd_lane),
	.request_bytes = sizeof(struct nbd_request),
	.connect = make_link,
	.disconnect = free_link,
	.describe = describe,
	.compare = compare,
	.blocks = blocks,
	.free = free_disk,
	.lane_start = nbd_lane_start,
	.lane_stop = nbd_lane_stop,
	.send = nbd_send,
};

bool
bdev_nbd_supported(void)
{
	return true;
}

int
bdev_nbd_attach(const struct nbd_bdev_options *o, void (*done)(void *ctx, struct bdev *bdev, const struct err *err),
		void *ctx, struct err *err)
{
	struct remote_options remote = {.name = o->name,
					.lanes = lanes_of(o),
					.reconnect_s = o->reconnect_s,
					.connect_ms = o->connect_ms,
					.wait = o->wait};
	struct nbd_disk *disk;
	int rc = check_options(o, err);

	if (rc != 0) {
		return rc;
	}
	disk = calloc(1, sizeof(*disk));
	if (disk == NULL || !options_copy(&disk->options, o)) {
		free(disk);
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", o->name);
	}
	if (o->connect_ms == 0) {
		disk->options.connect_ms = REMOTE_CONNECT_MS_DEFAULT;
	}
	rc = remote_attach(&disk->remote, &nbd_ops, &remote, done, ctx, err);
	if (rc != 0) {
		free_disk(&disk->remote);
	}
	return rc;
}

int
bdev_nbd_detach(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct remote_disk *disk = remote_find(&nbd_ops, name);

	if (disk == NULL) {
		return err_set(err, -ENODEV, "there is no NBD bdev '%s'", name);
	}
	remote_detach(disk, done, ctx);
	return 0;
}

bool
bdev_nbd_info(const struct bdev *bdev, struct nbd_bdev_info *ret_info)
{
	struct remote_disk *disk = remote_of(bdev, &nbd_ops);

	if (disk == NULL) {
		return false;
	}
	*ret_info = (struct nbd_bdev_info){
		.options = disk_of(disk)->options,
		.connected = disk->state == REMOTE_UP,
		.connections = disk->state == REMOTE_UP ? disk->link->lanes : 0,
		.connects = disk->connects,
	};
	return true;
}

void
bdev_nbd_for_each_waiting(void (*fn)(void *ctx, const struct nbd_bdev_options *options), void *ctx)
{
	for (struct remote_disk *disk = NULL; (disk = remote_next_waiting(&nbd_ops, disk)) != NULL;) {
		fn(ctx, &disk_of(disk)->options);
	}
}

void
bdev_nbd_shutdown(void)
{
	remote_shutdown(&nbd_ops);
}
