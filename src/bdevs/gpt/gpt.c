/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A bdev is opened to read, its first blocks are read and parsed, its last ones when the first are broken; then it is
 * closed, and each partition found is a stack (bdev/stack.h) on it.
 *
 * Invariants
 *  1. Each examination is answered exactly once: when it is over, or when its time is up; what comes from the base later is
 *     for nobody.
 *  2. The base is open for writing, and claimed, only when there is a partition on it.
 * Context: the app thread; submit: the channel's.
 */
#include "bdevs/gpt/gpt.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdev/stack.h"
#include "bdevs/gpt/internal.h"

struct partition {
	struct stack stack;
	struct gpt_partition found;
	uuid_t disk_guid;
};

static struct partition *
partition_of(struct stack *s)
{
	return CONTAINER_OF(s, struct partition, stack);
}

/* ---- A partition ---- */

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	stack_forward(ch, io, ((const struct partition *)ch->bdev->ctx)->found.first_block);
}

static void
submit_plain(struct bdev_channel *ch, struct bdev_io *io)
{
	stack_forward_plain(ch, io, ((const struct partition *)ch->bdev->ctx)->found.first_block);
}

static const struct bdev_ops gpt_ops = {
	.module_name = "gpt",
	.destruct = stack_destruct,
	.channel_create = stack_channel_create,
	.channel_destroy = stack_channel_destroy,
	.cancel = stack_cancel,
	.submit = submit,
	.submit_plain = submit_plain,
};

static int
start(struct stack *s, struct err *err)
{
	struct partition *p = partition_of(s);

	s->bdev.ops = &gpt_ops;
	s->bdev.ctx = p;
	s->bdev.product_name = "GPT Disk";
	s->bdev.ops_mask |= 1u << BDEV_ABORT;
	return stack_be_part(s, p->found.first_block, p->found.num_blocks, err);
}

static void
release(struct stack *s)
{
	free(partition_of(s));
}

static const struct stack_ops stack_ops = {
	.module_name = "gpt",
	.share_base = true,
	.transient = true,
	.yields = true,
	.start = start,
	.free = release,
};

bool
bdev_gpt_info(const struct bdev *bdev, struct gpt_info *ret_info)
{
	const struct partition *p = bdev->ctx;

	if (bdev->ops != &gpt_ops) {
		return false;
	}
	ret_info->base_name = p->stack.base_name;
	ret_info->partition = &p->found;
	uuid_copy(ret_info->disk_guid, p->disk_guid);
	return true;
}

int
gpt_add_partition(const char *base_name, const struct gpt_table *table,
		  const struct gpt_partition *found, struct err *err)
{
	struct partition *p = calloc(1, sizeof(*p));
	char name[BDEV_NAME_BYTES + 16];

	if (p == NULL) {
		return err_set(err, -ENOMEM, "out of memory");
	}
	p->found = *found;
	uuid_copy(p->disk_guid, table->disk_guid);
	/* Its UUID is made of the base's and the name, not of the GUID: whoever writes the table, a guest perhaps, could
	 * take another bdev's. */
	snprintf(name, sizeof(name), "%sp%" PRIu32, base_name, found->number);
	return stack_create(&p->stack, &stack_ops, name, base_name, NULL, err);
}

/* ---- Looking for a table ---- */

struct examination {
	struct bdev_desc *desc;
	struct bdev *bdev; /* as long as desc is open */
	uint64_t num_blocks; /* when it began */
	struct bdev_channel *ch;
	struct bdev_io *io;
	struct iovec iov;
	uint8_t *buf;
	struct timer timer;
	bool backup;   /* the end of the disk is being read */
	bool answered; /* its time was up */
	struct gpt_table table;
};

/* Accepts a half-built one. */
static void
close_examination(struct examination *x)
{
	timer_stop(&x->timer);
	if (x->ch != NULL) {
		bdev_channel_put(x->ch);
	}
	if (x->desc != NULL) {
		bdev_close(x->desc);
	}
	free(x->io);
	free(x->buf);
}

static void
end(struct examination *x, unsigned count)
{
	char name[BDEV_NAME_BYTES];
	bool answered = x->answered;

	snprintf(name, sizeof(name), "%s", bdev_name(x->bdev));
	close_examination(x);
	for (unsigned i = 0; i < count && !answered; i++) {
		const struct gpt_partition *found = &x->table.partitions[i];
		struct err err = ERR_NONE;

		if (gpt_add_partition(name, &x->table, found, &err) != 0) {
			LOG_WARNING(BDEV, name, "partition %" PRIu32 " is left alone: %s",
				    found->number, err_text(&err));
		}
	}
	free(x);
	if (!answered) {
		bdev_examine_done();
	}
}

static void read_end(struct examination *x);

static void
was_read(struct bdev_io *io, int status)
{
	struct examination *x = CONTAINER_OF(io->iov, struct examination, iov);
	const char *name = bdev_name(x->bdev), *why = "";
	size_t bytes = x->iov.iov_len;
	uint32_t block_size = bdev_block_size(x->bdev);
	int rc;

	if (status != 0) {
		LOG_INFO(BDEV, name, "not examined for partitions: error %d", -status);
		end(x, 0);
		return;
	}
	rc = (x->backup ? gpt_parse_backup : gpt_parse_primary)(x->buf, bytes, block_size,
								 x->num_blocks, &x->table, &why);
	if (rc == -EBADMSG) {
		LOG_NOTICE(BDEV, name, "%s partition table is broken: %s",
			   x->backup ? "backup" : "primary", why);
	}
	if (rc == -EBADMSG && !x->backup && !x->answered) {
		read_end(x);
		return;
	}
	end(x, rc == 0 ? x->table.count : 0);
}

static void
read_blocks(struct examination *x, uint64_t lba, uint64_t blocks)
{
	bdev_io_init(x->io, BDEV_READ, lba, blocks, &x->iov, 1, was_read);
	bdev_submit(x->ch, x->io);
}

static void
read_end(struct examination *x)
{
	uint64_t blocks = x->iov.iov_len / bdev_block_size(x->bdev);

	x->backup = true;
	read_blocks(x, x->num_blocks - blocks, blocks);
}

static void
time_is_up(struct timer *timer)
{
	struct examination *x = CONTAINER_OF(timer, struct examination, timer);

	LOG_WARNING(BDEV, bdev_name(x->bdev), "does not answer; not examined for partitions");
	x->answered = true;
	bdev_examine_done();
}

/* The base is going: its request ends soon. */
static void
base_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
}

static bool
prepare(struct examination *x, struct bdev *bdev)
{
	uint32_t block_size = bdev_block_size(bdev);
	uint64_t blocks;

	x->num_blocks = bdev_num_blocks(bdev);
	blocks = MIN(gpt_bytes(block_size) / block_size, x->num_blocks);
	if (bdev_open(bdev_name(bdev), false, base_event, x, &x->desc, NULL) != 0) {
		return false;
	}
	x->bdev = bdev;
	x->ch = bdev_channel_get(x->desc, NULL);
	x->io = aligned_alloc(CACHE_LINE_BYTES, bdev_io_bytes(bdev));
	x->buf = aligned_alloc(BDEV_EXAMINE_ALIGN, MAX(gpt_bytes(block_size), BDEV_EXAMINE_ALIGN));
	x->iov = (struct iovec){.iov_base = x->buf, .iov_len = blocks * block_size};
	return x->ch != NULL && x->io != NULL && x->buf != NULL &&
	       timer_start(&x->timer, GPT_TIMEOUT_US, time_is_up) == 0;
}

static void
examine(struct bdev *bdev)
{
	struct examination *x;

	if (bdev_num_blocks(bdev) < 2 || bdev_zoned(bdev) || bdev->ops == &gpt_ops) {
		bdev_examine_done();
		return;
	}
	x = calloc(1, sizeof(*x));
	if (x == NULL || !prepare(x, bdev)) {
		LOG_WARNING(BDEV, bdev_name(bdev), "cannot be examined for partitions");
		if (x != NULL) {
			close_examination(x);
		}
		free(x);
		bdev_examine_done();
		return;
	}
	read_blocks(x, 0, x->iov.iov_len / bdev_block_size(bdev));
}

const struct bdev_examiner gpt_examiner = {.module_name = "gpt", .examine = examine};
