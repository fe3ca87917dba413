/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests that go down a level as they are: no request of their own below, no second look, one entry in the statistics for
 * both levels. The way there and back is inline, in module.h and io.c; here are the ends of it, and the books.
 *
 * Invariants
 *  1. A pass counts what went through it and succeeded since it was last settled. Whoever reads, resets or takes away a
 *     channel's counters settles its passes first, those it gives to and those it gets from: settling adds the same numbers to
 *     the counters of both, so that none is lost or counted twice. Both levels read the same clock at the same two moments: what
 *     has waited above (for a limit, a reset, a range) is not passed.
 *  2. A request that was passed down is in flight, and outstanding, on both channels; io->ch is the lower one meanwhile.
 *  3. Nothing passes that the lower channel would have to look at: pass_ops says so (channel_refresh()).
 * Context: the channels' thread.
 */
#include <string.h>

#include "bdev/internal.h"

static const bool always = true, never = false;

static void
clear(struct bdev_pass *pass)
{
	for (unsigned i = 0; i < ARRAY_SIZE(pass->op); i++) {
		pass->op[i] = (struct bdev_op_stats){.min_ns = UINT64_MAX};
	}
}

void
bdev_pass_count(struct bdev_pass *pass, const bool *busy, uint64_t *all, uint64_t *marked)
{
	pass->busy = busy;
	pass->all = all;
	pass->marked = marked;
}

void
bdev_pass_open(struct bdev_pass *pass, struct bdev_channel *upper, struct bdev_channel *base, unsigned shift,
	       void (*ended)(struct bdev_pass *pass, const struct bdev_io *io))
{
	pass->upper = upper;
	pass->base = base;
	pass->ended = ended;
	bdev_pass_count(pass, ended != NULL ? &always : &never, pass->unused, pass->unused);
	pass->shift = (uint8_t)shift;
	pass->plain = base->simple_blocks == UINT32_MAX && (base->buffer_mask & ~upper->buffer_mask) == 0;
	clear(pass);
	list_append(&core_channel(upper)->passes, &pass->upper_link);
	list_append(&core_channel(base)->passed_to, &pass->base_link);
}

static void
settle(struct bdev_pass *pass)
{
	stats_add_ops(&core_channel(pass->upper)->stats, pass->op, ARRAY_SIZE(pass->op));
	stats_add_ops(&core_channel(pass->base)->stats, pass->op, ARRAY_SIZE(pass->op));
	clear(pass);
}

void
bdev_pass_close(struct bdev_pass *pass)
{
	if (pass->base == NULL) {
		return;
	}
	settle(pass);
	list_remove(&pass->upper_link);
	list_remove(&pass->base_link);
	pass->base = NULL;
}

void
pass_settle(struct core_channel *c)
{
	struct bdev_pass *pass;

	LIST_FOREACH (pass, &c->passes, upper_link) {
		settle(pass);
	}
	LIST_FOREACH (pass, &c->passed_to, base_link) {
		settle(pass);
	}
}
