/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * iSCSI bdevs: what the unit's pages mean for a bdev, and their life.
 * Context: the app thread; connect(), a worker.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "base/clock.h"
#include "base/log.h"
#include "bdevs/iscsi/internal.h"

/* Of one read or write, when the unit names no limit. */
#define TRANSFER_MAX_BYTES ((uint32_t)4 << 20)
/* Of an unmap or write zeroes, when it names none: the target should answer in time. */
#define RANGE_MAX_BYTES ((uint64_t)1 << 30)

static uint64_t timeout_s = ISCSI_TIMEOUT_S_DEFAULT;

static const struct iscsi_link *
link_of(const struct remote_link *remote)
{
	return CONTAINER_OF(remote, struct iscsi_link, remote);
}

/* ---- Connections ---- */

static int
connect(struct remote_disk *remote, struct remote_link **ret_link, struct err *err)
{
	struct iscsi_link *link = NULL;
	int rc = iscsi_link_make(iscsi_disk_of(remote), &link, err);

	if (rc == 0) {
		*ret_link = &link->remote;
	}
	return rc;
}

static void
disconnect(struct remote_link *remote)
{
	if (remote != NULL) {
		iscsi_link_free(CONTAINER_OF(remote, struct iscsi_link, remote));
	}
}

/* ---- What the bdev looks like ---- */

static uint64_t
blocks(const struct remote_link *remote)
{
	return link_of(remote)->unit.num_blocks;
}

static uint32_t
limit(uint32_t blocks_max, uint64_t default_bytes, uint32_t block_size)
{
	uint64_t most = default_bytes / block_size;

	return (uint32_t)(blocks_max != 0 ? MIN((uint64_t)blocks_max, most) : most);
}

static void
describe_ranges(struct bdev *bdev, const struct sbc_unit *unit)
{
	if (unit->unmap) {
		bdev->ops_mask |= 1u << BDEV_UNMAP;
		bdev->max_unmap_blocks = limit(unit->max_unmap, RANGE_MAX_BYTES, unit->block_size);
		bdev->unmap_granularity_blocks = unit->unmap_granularity;
	}
	if (unit->write_same) {
		bdev->ops_mask |= 1u << BDEV_WRITE_ZEROES;
		bdev->max_write_zeroes_blocks = limit(unit->max_write_same, RANGE_MAX_BYTES, unit->block_size);
	}
	if (unit->max_compare_write > 0) {
		bdev->ops_mask |= 1u << BDEV_COMPARE_AND_WRITE;
		bdev->max_compare_write_blocks = limit(unit->max_compare_write, BDEV_COMPARE_WRITE_MAX_BYTES, unit->block_size);
	}
	if (unit->thin) {
		bdev->ops_mask |= 1u << BDEV_BLOCK_STATUS;
	}
}

/* Of its name here and the unit's, so that it is the same after a restart. */
static void
make_uuid(const struct iscsi_disk *disk, const struct sbc_unit *unit, uuid_t uuid)
{
	char text[ISCSI_URL_BYTES + BDEV_NAME_BYTES + SBC_ID_BYTES];
	uuid_t space;
	int n = snprintf(text, sizeof(text) - SBC_ID_BYTES, "%s %s %u ", disk->remote.name, disk->address->target,
			 disk->address->lun);

	memcpy(text + n, unit->id, unit->id_bytes);
	uuid_copy(space, *uuid_get_template("oid"));
	uuid_generate_sha1(uuid, space, text, (size_t)n + unit->id_bytes);
}

static uint32_t
physical(const struct sbc_unit *unit)
{
	uint64_t best = (uint64_t)unit->granularity * unit->block_size;

	if (best > unit->physical_block_size && best <= BDEV_BLOCK_SIZE_MAX && (best & (best - 1)) == 0) {
		return (uint32_t)best;
	}
	return unit->physical_block_size;
}

static int
describe(struct remote_disk *remote, const struct remote_link *remote_link, struct bdev *bdev, struct err *err)
{
	struct iscsi_disk *disk = iscsi_disk_of(remote);
	const struct sbc_unit *unit = &link_of(remote_link)->unit;

	disk->unit = *unit;
	bdev->product_name = "iSCSI LUN";
	bdev->block_size = unit->block_size;
	bdev->physical_block_size = physical(unit);
	bdev->num_blocks = unit->num_blocks;
	bdev->ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE;
	bdev->max_rw_blocks = limit(unit->max_transfer, TRANSFER_MAX_BYTES, unit->block_size);
	bdev->max_iovcnt = LIST_MAX;
	bdev->readonly = unit->readonly;
	bdev->write_cache = unit->write_cache;
	bdev->native_fua = unit->fua;
	if (unit->write_cache) {
		bdev->ops_mask |= 1u << BDEV_FLUSH;
	}
	describe_ranges(bdev, unit);
	make_uuid(disk, unit, bdev->uuid);
	return 0;
}

static int
compare(struct remote_disk *remote, const struct remote_link *remote_link, struct err *err)
{
	const struct sbc_unit *now = &link_of(remote_link)->unit, *was = &iscsi_disk_of(remote)->unit;
	const char *url = iscsi_disk_of(remote)->address->url;

	if (now->id_bytes != was->id_bytes || memcmp(now->id, was->id, now->id_bytes) != 0) {
		return err_set(err, -EINVAL, "%s: it is another unit now", url);
	}
	if (now->block_size != was->block_size) {
		return err_set(err, -EINVAL, "%s: blocks have %u bytes now, had %u", url, now->block_size, was->block_size);
	}
	if (now->readonly != was->readonly) {
		return err_set(err, -EINVAL, "%s: may %s be written now", url, was->readonly ? "" : "not");
	}
	if ((now->write_cache && !was->write_cache) || (!now->fua && was->fua) || (!now->unmap && was->unmap) ||
	    (!now->write_same && was->write_same) || now->max_compare_write < was->max_compare_write ||
	    (!now->thin && was->thin)) {
		return err_set(err, -EINVAL, "%s: offers less than before", url);
	}
	return 0;
}

/* ---- Life ---- */

static void
free_disk(struct remote_disk *remote)
{
	struct iscsi_disk *disk = iscsi_disk_of(remote);

	iscsi_address_free(disk->address);
	free(disk->initiator_iqn);
	free(disk->secret_file);
	free(disk);
}

static const struct remote_ops iscsi_ops = {
	.bdev =
		{
			.module_name = "iscsi",
			.destruct = remote_destruct,
			.channel_create = remote_bdev_channel_create,
			.channel_destroy = remote_bdev_channel_destroy,
			.submit = iscsi_submit,
			.cancel = remote_cancel,
		},
	.lane_bytes = sizeof(struct iscsi_lane),
	.request_bytes = sizeof(struct iscsi_request),
	.connect = connect,
	.look = iscsi_look,
	.disconnect = disconnect,
	.describe = describe,
	.compare = compare,
	.blocks = blocks,
	.free = free_disk,
	.lane_start = iscsi_lane_start,
	.lane_stop = iscsi_lane_stop,
	.send = iscsi_send,
};

bool
bdev_iscsi_supported(void)
{
	return true;
}

static int
fill_address(struct iscsi_disk *disk, const struct iscsi_bdev_options *o, struct err *err)
{
	disk->address = iscsi_address_parse(o->url, err);
	if (disk->address == NULL) {
		return err->code;
	}
	if (o->secret_file != NULL) {
		int rc = iscsi_address_read_passwords(disk->address, o->secret_file, err);

		if (rc != 0) {
			return rc;
		}
	} else if (disk->address->password[0] != '\0') {
		LOG_NOTICE(BDEV, o->name, "its password is not saved: with chap_secret_file it is there again after a restart");
	}
	return iscsi_address_check(disk->address, err);
}

static int
fill_disk(struct iscsi_disk *disk, const struct iscsi_bdev_options *o, struct err *err)
{
	size_t iqn_bytes = strlen(o->initiator_iqn);

	if (iqn_bytes == 0 || iqn_bytes >= ISCSI_TEXT_BYTES) {
		return err_set(err, -EINVAL, "an initiator's name has 1 to %d bytes", ISCSI_TEXT_BYTES - 1);
	}
	if (o->sessions > ISCSI_SESSIONS_MAX) {
		return err_set(err, -EINVAL, "%u sessions are not 1 to %d", o->sessions, ISCSI_SESSIONS_MAX);
	}
	disk->initiator_iqn = strdup(o->initiator_iqn);
	disk->secret_file = o->secret_file != NULL ? strdup(o->secret_file) : NULL;
	if (disk->initiator_iqn == NULL || (disk->secret_file == NULL && o->secret_file != NULL)) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	disk->timeout_ns = timeout_s * NS_PER_S;
	if (getrandom(&disk->isid, sizeof(disk->isid), GRND_NONBLOCK) != sizeof(disk->isid)) {
		disk->isid = (uint32_t)((uintptr_t)disk >> 4) ^ (uint32_t)clock_now_ns();
	}
	disk->isid &= 0xffffff;
	return fill_address(disk, o, err);
}

/* libiscsi writes lists to sockets without a word against the signal. */
static void
ignore_sigpipe(void)
{
	struct sigaction now;

	if (sigaction(SIGPIPE, NULL, &now) == 0 && now.sa_handler == SIG_DFL) {
		signal(SIGPIPE, SIG_IGN);
	}
}

int
bdev_iscsi_create(const struct iscsi_bdev_options *o, void (*done)(void *ctx, struct bdev *bdev, const struct err *err),
		  void *ctx, struct err *err)
{
	struct remote_options remote = {.name = o->name,
					.lanes = o->sessions != 0 ? o->sessions : ISCSI_SESSIONS_MAX,
					.reconnect_s = o->reconnect_s,
					.connect_ms = o->connect_ms,
					.wait = o->wait};
	struct iscsi_disk *disk = calloc(1, sizeof(*disk));
	struct err why = ERR_NONE;
	int rc;

	if (disk == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", o->name);
	}
	ignore_sigpipe();
	rc = fill_disk(disk, o, &why);
	if (rc != 0) {
		err_set(err, rc, "bdev '%s': %s", o->name, err_text(&why));
	} else {
		rc = remote_attach(&disk->remote, &iscsi_ops, &remote, done, ctx, err);
	}
	if (rc != 0) {
		free_disk(&disk->remote);
	}
	return rc;
}

static struct remote_disk *
find(const char *name, struct err *err)
{
	struct remote_disk *disk = remote_find(&iscsi_ops, name);

	if (disk == NULL) {
		err_set(err, -ENODEV, "there is no iSCSI bdev '%s'", name);
	}
	return disk;
}

int
bdev_iscsi_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct remote_disk *disk = find(name, err);

	if (disk == NULL) {
		return -ENODEV;
	}
	remote_detach(disk, done, ctx);
	return 0;
}

int
bdev_iscsi_rescan(const char *name, struct err *err)
{
	struct remote_disk *disk = find(name, err);

	if (disk == NULL) {
		return -ENODEV;
	}
	remote_news(disk);
	return 0;
}

int
bdev_iscsi_set_timeout(uint64_t seconds, struct err *err)
{
	if (seconds > ISCSI_TIMEOUT_S_MAX) {
		return err_set(err, -EINVAL, "a time-out of %llu s is more than a day", (unsigned long long)seconds);
	}
	timeout_s = seconds;
	return 0;
}

uint64_t
bdev_iscsi_get_timeout(void)
{
	return timeout_s;
}

static struct iscsi_bdev_options
options_of(struct remote_disk *remote)
{
	const struct iscsi_disk *disk = iscsi_disk_of(remote);

	return (struct iscsi_bdev_options){
		.name = remote->name,
		.initiator_iqn = disk->initiator_iqn,
		.url = disk->address->url,
		.secret_file = disk->secret_file,
		.sessions = remote->options.lanes,
		.reconnect_s = remote->options.reconnect_s,
		.connect_ms = remote->options.connect_ms,
		.wait = remote->options.wait,
	};
}

bool
bdev_iscsi_options(const char *name, struct iscsi_bdev_options *ret_options)
{
	struct remote_disk *disk = remote_find(&iscsi_ops, name);

	if (disk != NULL) {
		*ret_options = options_of(disk);
	}
	return disk != NULL;
}

bool
bdev_iscsi_info(const struct bdev *bdev, struct iscsi_bdev_info *ret_info)
{
	struct remote_disk *disk = remote_of(bdev, &iscsi_ops);

	if (disk == NULL) {
		return false;
	}
	*ret_info = (struct iscsi_bdev_info){
		.options = options_of(disk),
		.connected = disk->state == REMOTE_UP,
		.sessions = atomic_load(&iscsi_disk_of(disk)->sessions),
		.connects = disk->connects,
	};
	return true;
}

void
bdev_iscsi_for_each_waiting(void (*fn)(void *ctx, const struct iscsi_bdev_options *options), void *ctx)
{
	for (struct remote_disk *disk = NULL; (disk = remote_next_waiting(&iscsi_ops, disk)) != NULL;) {
		struct iscsi_bdev_options o = options_of(disk);

		fn(ctx, &o);
	}
}

void
bdev_iscsi_shutdown(void)
{
	remote_shutdown(&iscsi_ops);
}
