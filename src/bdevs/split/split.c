/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A bdev divided into parts of one size. A split is a wish: so many parts of what has this name. Its
 * parts are stacks (bdev/stack.h) that share the base's descriptor.
 *
 * Invariants
 *  1. A split watches for its base all its life: whenever a bdev of that name comes, the parts that are missing and
 *     for which it has room are made. Those that are there come up by themselves.
 *  2. Part i has the blocks from i * size on; its place is worked out each time it starts, since the base may be
 *     another one then.
 *  3. A split that is being deleted makes no parts; it is freed when the last of them is gone.
 * Context: the app thread; submit: the channel's.
 */
#include "bdevs/split/split.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdev/stack.h"

#define MIB UINT64_C(1048576)

struct split {
	struct list link;
	struct bdev_watch watch;
	char *base_name;
	uint32_t count;
	uint64_t size_mb;
	struct list parts; /* in their order, without gaps */
	uint32_t made;
	bool deleting;
	void (*deleted)(void *ctx, int status);
	void *deleted_ctx;
};

struct part {
	struct stack stack;
	struct split *split;
	struct list link;
	uint32_t index;
	uint64_t offset;
};

static struct list splits = {&splits, &splits};

static struct part *
part_of(struct stack *s)
{
	return CONTAINER_OF(s, struct part, stack);
}

/* ---- A part ---- */

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	stack_forward(ch, io, ((const struct part *)ch->bdev->ctx)->offset);
}

static void
submit_plain(struct bdev_channel *ch, struct bdev_io *io)
{
	stack_forward_plain(ch, io, ((const struct part *)ch->bdev->ctx)->offset);
}

static const struct bdev_ops part_ops = {
	.module_name = "split",
	.destruct = stack_destruct,
	.channel_create = stack_channel_create,
	.channel_destroy = stack_channel_destroy,
	.cancel = stack_cancel,
	.submit = submit,
	.submit_plain = submit_plain,
};

/* Blocks of each part on this base, or -EINVAL. */
static int
part_blocks(const struct split *split, const struct bdev *base, uint64_t *ret_blocks,
	    struct err *err)
{
	uint32_t block_size = bdev_block_size(base);
	uint64_t bytes;

	if (split->size_mb == 0) {
		*ret_blocks = bdev_num_blocks(base) / split->count;
	} else if (__builtin_mul_overflow(split->size_mb, MIB, &bytes)) {
		*ret_blocks = UINT64_MAX;
	} else {
		*ret_blocks = bytes / block_size; /* no block is larger than a MiB */
	}
	if (*ret_blocks == 0 || *ret_blocks > bdev_num_blocks(base)) {
		return err_set(err, -EINVAL, "bdev '%s' has no room for a part: it has %" PRIu64
			       " blocks of %u bytes", split->base_name, bdev_num_blocks(base), block_size);
	}
	return 0;
}

static int
start(struct stack *s, struct err *err)
{
	struct part *part = part_of(s);
	uint64_t blocks;
	int rc = part_blocks(part->split, s->base, &blocks, err);

	if (rc != 0) {
		return rc;
	}
	part->offset = part->index * blocks;
	s->bdev.ops = &part_ops;
	s->bdev.ctx = part;
	s->bdev.product_name = "Split Disk";
	s->bdev.ops_mask |= 1u << BDEV_ABORT;
	return stack_be_part(s, part->offset, blocks, err);
}

static void
free_split(struct split *split)
{
	void (*deleted)(void *ctx, int status) = split->deleted;
	void *ctx = split->deleted_ctx;

	bdev_watch_stop(&split->watch);
	list_remove(&split->link);
	free(split->base_name);
	free(split);
	if (deleted != NULL) {
		deleted(ctx, 0);
	}
}

static void
free_part(struct stack *s)
{
	struct part *part = part_of(s);
	struct split *split = part->split;

	list_remove(&part->link);
	free(part);
	split->made--;
	if (split->deleting && split->made == 0) {
		free_split(split);
	}
}

static const struct stack_ops stack_ops = {
	.module_name = "split",
	.share_base = true,
	.start = start,
	.free = free_part,
};

/* ---- A split ---- */

static struct split *
find(const char *base_name)
{
	struct split *split;

	LIST_FOREACH (split, &splits, link) {
		if (strcmp(split->base_name, base_name) == 0) {
			return split;
		}
	}
	return NULL;
}

static int
make_part(struct split *split, struct err *err)
{
	struct part *part = calloc(1, sizeof(*part));
	char name[BDEV_NAME_BYTES + 16];

	if (part == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", split->base_name);
	}
	part->split = split;
	part->index = split->made++;
	list_append(&split->parts, &part->link);
	snprintf(name, sizeof(name), "%sp%" PRIu32, split->base_name, part->index);
	return stack_create(&part->stack, &stack_ops, name, split->base_name, NULL, err);
}

/* Those that are missing. */
static int
make_parts(struct split *split, const struct bdev *base, struct err *err)
{
	uint64_t blocks, room;
	int rc = part_blocks(split, base, &blocks, err);

	if (rc != 0) {
		return rc;
	}
	room = bdev_num_blocks(base) / blocks;
	if (room < split->count) {
		LOG_WARNING(BDEV, split->base_name, "has room for %" PRIu64 " parts of %u", room,
			    split->count);
	}
	while (rc == 0 && split->made < MIN(room, (uint64_t)split->count)) {
		rc = make_part(split, err);
	}
	return rc;
}

static void
base_came(struct bdev_watch *w, struct bdev *base)
{
	struct split *split = CONTAINER_OF(w, struct split, watch);
	struct err err = ERR_NONE;

	if (make_parts(split, base, &err) != 0) {
		LOG_WARNING(BDEV, split->base_name, "cannot be split: %s", err_text(&err));
	}
	bdev_watch_start(&split->watch, split->base_name, base_came);
}

/* The parts are freed in their turn, the last takes the split along. */
static void
take_down(struct split *split)
{
	struct part *part, *next;

	split->deleting = true;
	bdev_watch_stop(&split->watch);
	if (split->made == 0) {
		free_split(split);
		return;
	}
	split->made++; /* so that it outlives this loop */
	LIST_FOREACH_SAFE (part, next, &split->parts, link) {
		stack_delete(&part->stack, NULL, NULL);
	}
	if (--split->made == 0) {
		free_split(split);
	}
}

int
bdev_split_create(const struct split_options *options, struct err *err)
{
	struct bdev *base = bdev_find(options->base_name);
	struct split *split;
	int rc;

	if (options->count == 0 || options->count > SPLIT_COUNT_MAX) {
		return err_set(err, -EINVAL, "bdev '%s' cannot be split in %u: 1 to %d are possible",
			       options->base_name, options->count, SPLIT_COUNT_MAX);
	}
	if (find(options->base_name) != NULL) {
		return err_set(err, -EEXIST, "bdev '%s' is split already", options->base_name);
	}
	split = calloc(1, sizeof(*split));
	if (split == NULL || (split->base_name = strdup(options->base_name)) == NULL) {
		free(split);
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->base_name);
	}
	split->count = options->count;
	split->size_mb = options->size_mb;
	list_init(&split->parts);
	list_append(&splits, &split->link);
	rc = base != NULL ? make_parts(split, base, err) : 0;
	if (rc != 0) {
		take_down(split);
		return rc;
	}
	bdev_watch_start(&split->watch, split->base_name, base_came);
	return 0;
}

int
bdev_split_delete(const char *base_name, void (*done)(void *ctx, int status), void *ctx,
		  struct err *err)
{
	struct split *split = find(base_name);

	if (split == NULL || split->deleting) {
		return err_set(err, -ENODEV, "bdev '%s' is not split", base_name);
	}
	split->deleted = done;
	split->deleted_ctx = ctx;
	take_down(split);
	return 0;
}

/* ---- What there is ---- */

struct bdev *
bdev_split_next_part(const char *base_name, const struct bdev *bdev)
{
	struct split *split = find(base_name);
	struct part *part;

	if (split == NULL) {
		return NULL;
	}
	LIST_FOREACH (part, &split->parts, link) {
		if (bdev == NULL && part->stack.registered) {
			return &part->stack.bdev;
		}
		if (bdev == &part->stack.bdev) {
			bdev = NULL;
		}
	}
	return NULL;
}

bool
bdev_split_info(const struct bdev *bdev, struct split_info *ret_info)
{
	const struct part *part = bdev->ctx;

	if (bdev->ops != &part_ops) {
		return false;
	}
	*ret_info = (struct split_info){.base_name = part->split->base_name,
					.offset_blocks = part->offset};
	return true;
}

bool
bdev_split_get(unsigned i, struct split_options *ret_options)
{
	struct split *split;

	LIST_FOREACH (split, &splits, link) {
		if (!split->deleting && i-- == 0) {
			*ret_options = (struct split_options){.base_name = split->base_name,
							      .count = split->count,
							      .size_mb = split->size_mb};
			return true;
		}
	}
	return false;
}
