/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Zones on a conventional bdev: zone.c says what may be written where, requests go to the same
 * blocks of the base. bdev/stack.c opens and claims it.
 *
 * Invariants
 *  1. A write has its blocks of the zone, and the write pointer is behind them, before the base gets
 *     it; others write behind it meanwhile.
 *  2. A zone is unmapped by a reset while no write of it is under way, and no new one begins before
 *     it is: what is written after a reset stays.
 *  3. What a zone cannot do now (-EAGAIN) waits in the core's queue.
 *
 * A write that fails leaves a gap: the write pointer does not move back, as on devices.
 * Contexts: submit on the channel's thread, all else on the app thread.
 */
#include "bdevs/zone_block/zone_block.h"

#include <errno.h>
#include <stdlib.h>

#include "bdev/stack.h"
#include "bdevs/zone_block/internal.h"

/* SPDK's, so that the bdev's UUID is the one it has there. */
#define NAME_SPACE "5f3f485a-d6bb-4443-9de7-023683b77389"

struct zone_block {
	struct stack stack;
	struct zones zones; /* while it has its base */
	uint64_t capacity;
	unsigned zone_shift;
	bool unmaps; /* the base can */
	uint32_t optimal_open;
	uint32_t max_open;
	uint32_t max_active;
};

static struct zone_block *
zone_block(struct bdev *bdev)
{
	struct stack *s = CONTAINER_OF(bdev, struct stack, bdev);

	return CONTAINER_OF(s, struct zone_block, stack);
}

/* ---- I/O ---- */

static uint64_t
offset_of(const struct zone_block *zb, uint64_t lba)
{
	return lba & ((UINT64_C(1) << zb->zone_shift) - 1);
}

static void
write_done(struct bdev_io *child, int status)
{
	struct bdev_io *io = stack_parent(child, 0);
	struct zone_block *zb = zone_block(io->ch->bdev);

	zone_written(&zb->zones, child->lba >> zb->zone_shift);
	if (io->op == BDEV_ZONE_APPEND) {
		io->result = child->lba;
	}
	bdev_io_complete_now(io, status);
}

static void
submit_write(struct bdev_channel *ch, struct zone_block *zb, struct bdev_io *io)
{
	struct stack_channel *sc = ch->module_ctx;
	struct bdev_io *child = stack_child(io, 0);
	uint64_t i = io->lba >> zb->zone_shift, offset;
	int rc = zone_write(&zb->zones, i, offset_of(zb, io->lba), io->num_blocks,
			    io->op == BDEV_ZONE_APPEND, &offset);

	if (rc != 0) {
		bdev_io_complete(io, rc);
		return;
	}
	stack_child_init(child, io, 0, write_done);
	child->op = BDEV_WRITE;
	child->lba = (i << zb->zone_shift) + offset;
	bdev_submit(sc->base, child);
}

static void
reset_done(struct bdev_io *child, int status)
{
	struct bdev_io *io = stack_parent(child, 0);
	struct zone_block *zb = zone_block(io->ch->bdev);

	zone_reset_end(&zb->zones, io->lba >> zb->zone_shift, status == 0);
	bdev_io_complete_now(io, status);
}

static void
submit_reset(struct bdev_channel *ch, struct zone_block *zb, struct bdev_io *io)
{
	struct stack_channel *sc = ch->module_ctx;
	struct bdev_io *child = stack_child(io, 0);
	uint64_t i = io->lba >> zb->zone_shift;
	int rc = zone_reset_begin(&zb->zones, i);

	if (rc == 0 && zb->unmaps) {
		bdev_io_init(child, BDEV_UNMAP, io->lba, zb->capacity, NULL, 0, reset_done);
		bdev_submit(sc->base, child);
		return;
	}
	if (rc == 0) {
		zone_reset_end(&zb->zones, i, true);
	}
	bdev_io_complete(io, MIN(rc, 0));
}

static void
report(struct zone_block *zb, struct bdev_io *io)
{
	uint64_t i = io->lba >> zb->zone_shift, n = 0;

	for (; i < zb->zones.count && n < io->max_results; i++, n++) {
		struct bdev_zone *z = &io->zones[n];

		z->lba = i << zb->zone_shift;
		z->capacity_blocks = zb->capacity;
		zone_get(&zb->zones, i, &z->state, &z->write_pointer);
		z->write_pointer += z->lba;
	}
	io->result = n;
	bdev_io_complete(io, 0);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct zone_block *zb = zone_block(ch->bdev);

	switch (io->op) {
	case BDEV_READ:
		if (offset_of(zb, io->lba) + io->num_blocks > zb->capacity) {
			bdev_io_complete(io, -EINVAL);
			return;
		}
		stack_forward(ch, io, 0);
		break;
	case BDEV_WRITE:
	case BDEV_ZONE_APPEND:
		submit_write(ch, zb, io);
		break;
	case BDEV_ZONE_REPORT:
		report(zb, io);
		break;
	case BDEV_ZONE_MANAGE:
		if (io->zone_action == BDEV_ZONE_DO_RESET) {
			submit_reset(ch, zb, io);
		} else {
			bdev_io_complete(io, zone_change(&zb->zones, io->lba >> zb->zone_shift,
							 io->zone_action));
		}
		break;
	default: /* flush, reset */
		stack_forward(ch, io, 0);
		break;
	}
}

static const struct bdev_ops zone_block_ops = {
	.module_name = "zone_block",
	.destruct = stack_destruct,
	.channel_create = stack_channel_create,
	.channel_destroy = stack_channel_destroy,
	.submit = submit,
};

/* ---- Life ---- */

static int
start(struct stack *s, struct err *err)
{
	struct zone_block *zb = CONTAINER_OF(s, struct zone_block, stack);
	struct bdev *bdev = &s->bdev;
	uint64_t count = bdev->num_blocks >> zb->zone_shift;
	uuid_t base_uuid;

	if (bdev_zoned(s->base)) {
		return err_set(err, -EEXIST, "bdev '%s' has zones already", s->base_name);
	}
	if (count == 0 || count > ZONE_BLOCK_ZONES_MAX) {
		return err_set(err, -EINVAL,
			       "bdev '%s' has room for %llu zones of %llu blocks; 1 to %llu are "
			       "possible",
			       s->base_name, (unsigned long long)count,
			       1ull << zb->zone_shift, (unsigned long long)ZONE_BLOCK_ZONES_MAX);
	}
	if (zones_init(&zb->zones, count, zb->capacity, zb->max_open, zb->max_active) != 0) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", s->name);
	}
	zb->unmaps = bdev_supports(s->base, BDEV_UNMAP);
	bdev->ops = &zone_block_ops;
	bdev->product_name = "zone_block";
	bdev->num_blocks = count << zb->zone_shift;
	bdev->zone_blocks = UINT64_C(1) << zb->zone_shift;
	bdev->optimal_open_zones = zb->optimal_open;
	bdev->max_open_zones = zb->max_open;
	bdev->max_active_zones = zb->max_active;
	bdev->ops_mask &= 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_RESET;
	bdev->ops_mask |= 1u << BDEV_ZONE_REPORT | 1u << BDEV_ZONE_MANAGE | 1u << BDEV_ZONE_APPEND;
	bdev_uuid(s->base, base_uuid);
	stack_set_uuid(s, NAME_SPACE, base_uuid, sizeof(uuid_t));
	return 0;
}

static void
stop(struct stack *s)
{
	zones_release(&CONTAINER_OF(s, struct zone_block, stack)->zones);
}

static void
release(struct stack *s)
{
	free(CONTAINER_OF(s, struct zone_block, stack));
}

static const struct stack_ops stack_ops = {
	.module_name = "zone_block",
	.start = start,
	.stop = stop,
	.free = release,
};

static int
check_options(const struct zone_block_bdev_options *o, struct err *err)
{
	if (o->zone_capacity == 0 || o->zone_capacity > UINT64_C(1) << 43) {
		return err_set(err, -EINVAL, "bdev '%s': zones cannot have %llu blocks", o->name,
			       (unsigned long long)o->zone_capacity);
	}
	if (o->optimal_open_zones == 0) {
		return err_set(err, -EINVAL, "bdev '%s': no open zone cannot be optimal", o->name);
	}
	if (o->max_active_zones != 0 &&
	    (o->max_open_zones == 0 || o->max_open_zones > o->max_active_zones)) {
		return err_set(err, -EINVAL,
			       "bdev '%s': open zones are active ones: no more than %u can be open",
			       o->name, o->max_active_zones);
	}
	return 0;
}

int
bdev_zone_block_create(const struct zone_block_bdev_options *options, struct bdev **ret,
		       struct err *err)
{
	struct zone_block *zb;
	int rc = check_options(options, err);

	if (rc != 0) {
		return rc;
	}
	zb = calloc(1, sizeof(*zb));
	if (zb == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	zb->capacity = options->zone_capacity;
	while (UINT64_C(1) << zb->zone_shift < zb->capacity) {
		zb->zone_shift++;
	}
	zb->optimal_open = options->optimal_open_zones;
	zb->max_open = options->max_open_zones;
	zb->max_active = options->max_active_zones;
	return stack_create(&zb->stack, &stack_ops, options->name, options->base_name, ret, err);
}

int
bdev_zone_block_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		       struct err *err)
{
	struct stack *s = stack_find(&stack_ops, name);

	if (s == NULL) {
		return err_set(err, -ENODEV, "there is no zone_block bdev '%s'", name);
	}
	stack_delete(s, done, ctx);
	return 0;
}

static void
tell_options(const struct stack *s, struct zone_block_bdev_options *ret_options)
{
	const struct zone_block *zb = CONTAINER_OF(s, const struct zone_block, stack);

	*ret_options = (struct zone_block_bdev_options){
		.name = s->name,
		.base_name = s->base_name,
		.zone_capacity = zb->capacity,
		.optimal_open_zones = zb->optimal_open,
		.max_open_zones = zb->max_open,
		.max_active_zones = zb->max_active,
	};
}

bool
bdev_zone_block_get_options(const struct bdev *bdev, struct zone_block_bdev_options *ret_options)
{
	struct stack *s = stack_of(bdev, &stack_ops);

	if (s != NULL) {
		tell_options(s, ret_options);
	}
	return s != NULL;
}

bool
bdev_zone_block_list(unsigned i, struct zone_block_bdev_options *ret_options)
{
	struct stack *s = stack_next(&stack_ops, NULL);

	while (s != NULL && i-- > 0) {
		s = stack_next(&stack_ops, s);
	}
	if (s != NULL) {
		tell_options(s, ret_options);
	}
	return s != NULL;
}
