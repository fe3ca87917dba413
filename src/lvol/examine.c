/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Finds stores: each bdev that comes is opened to read, and its first page looked at; only where that is a store's
 * super block the bdev is claimed, and the store loaded with all its volumes. The claim of a store that was found
 * yields to others as long as nobody uses it (life.c): whoever writes a disk, a guest perhaps, does not keep its
 * owner from it by what he writes there.
 *
 * Invariants
 *  1. Each examination is answered exactly once: when it is over, or when its time is up; a store that is loaded later stays.
 *  2. Nothing is claimed, nor written, before a super block was seen.
 * Context: the app thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "lvol/internal.h"

#define TIMEOUT_US UINT64_C(10000000)

struct look {
	struct bdev_desc *desc;
	struct bdev_channel *ch;
	struct bdev_io *io;
	struct iovec iov;
	uint8_t *buf;
	struct timer timer;
	bool answered;
	bool readonly;
	char name[BDEV_NAME_BYTES];
};

static void
close_look(struct look *x)
{
	if (x->ch != NULL) {
		bdev_channel_put(x->ch);
	}
	bdev_close(x->desc);
	free(x->io);
	free(x->buf);
	x->ch = NULL;
	x->desc = NULL;
	x->io = NULL;
	x->buf = NULL;
}

static void
answer(struct look *x)
{
	if (!x->answered) {
		x->answered = true;
		timer_stop(&x->timer);
		bdev_examine_done();
	}
}

static void
end(struct look *x)
{
	close_look(x);
	answer(x);
	free(x);
}

static void
time_is_up(struct timer *timer)
{
	struct look *x = CONTAINER_OF(timer, struct look, timer);

	LOG_WARNING(BDEV, x->name, "does not answer; others do not wait until it was examined for a store");
	answer(x);
}

static void
opened(void *ctx, struct lvol_store *store, int status, const struct err *err)
{
	struct look *x = ctx;

	if (status != 0) {
		LOG_WARNING(BDEV, x->name, "the store on it is not loaded: %s", err_text(err));
	}
	end(x);
}

static void
load(struct look *x)
{
	struct lvol_op *op = lvol_op_start(NULL, NULL);
	struct err err = ERR_NONE;
	struct lvol_dev *dev;

	close_look(x);
	if (op == NULL) {
		end(x);
		return;
	}
	op->store_done = opened;
	op->ctx = x;
	if (lvol_dev_open(x->name, x->readonly ? BDEV_CLAIM_WRITE_NONE : BDEV_CLAIM_WRITE_ONE, &dev, &err) != 0) {
		lvol_op_end_with(op, err.code, &err);
		return;
	}
	lvol_store_open(dev, true, op);
}

static void
was_read(struct bdev_io *io, int status)
{
	struct look *x = CONTAINER_OF(io->iov, struct look, iov);
	struct blob_super super;
	struct err err = ERR_NONE;
	int rc;

	if (status != 0) {
		LOG_INFO(BDEV, x->name, "not examined for a store: error %d", -status);
		end(x);
		return;
	}
	rc = blob_super_decode(x->buf, &super, &err);
	if (rc != 0 && rc != -EINVAL) {
		LOG_WARNING(BDEV, x->name, "the store on it is not loaded: %s", err_text(&err));
	}
	if (rc != 0 || strncmp(super.type, LVOL_TYPE, sizeof(super.type)) != 0 || lvol_shutting_down()) {
		end(x);
		return;
	}
	load(x);
}

static bool
prepare(struct look *x, struct bdev *bdev)
{
	size_t bytes = MAX(bdev_block_size(bdev), BLOB_PAGE_BYTES);

	snprintf(x->name, sizeof(x->name), "%s", bdev_name(bdev));
	x->readonly = bdev_readonly(bdev);
	if (bdev_open(x->name, false, NULL, NULL, &x->desc, NULL) != 0) {
		return false;
	}
	x->ch = bdev_channel_get(x->desc, NULL);
	x->io = aligned_alloc(CACHE_LINE_BYTES, bdev_io_bytes(bdev));
	x->buf = aligned_alloc(BDEV_EXAMINE_ALIGN, bytes);
	x->iov = (struct iovec){.iov_base = x->buf, .iov_len = bytes};
	return x->ch != NULL && x->io != NULL && x->buf != NULL && timer_start(&x->timer, TIMEOUT_US, time_is_up) == 0;
}

static void
examine(struct bdev *bdev)
{
	uint32_t block_size = bdev_block_size(bdev);
	struct look *x;

	lvol_external_examined(bdev);
	if (bdev_zoned(bdev) || bdev_md_bytes(bdev) != 0 || bdev_num_blocks(bdev) * block_size < BLOB_PAGE_BYTES ||
	    lvol_shutting_down()) {
		bdev_examine_done();
		return;
	}
	x = calloc(1, sizeof(*x));
	if (x == NULL || !prepare(x, bdev)) {
		LOG_WARNING(BDEV, bdev_name(bdev), "cannot be examined for a store");
		if (x != NULL) {
			close_look(x);
		}
		free(x);
		bdev_examine_done();
		return;
	}
	bdev_io_init(x->io, BDEV_READ, 0, x->iov.iov_len / block_size, &x->iov, 1, was_read);
	bdev_submit(x->ch, x->io);
}

const struct bdev_examiner lvol_examiner = {.module_name = LVOL_MODULE, .examine = examine};
