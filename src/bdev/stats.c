/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Statistics: plain counters in each channel, summed when somebody asks.
 *
 * Invariant: no operation is counted twice or left out because its channel is closed meanwhile. A
 * channel adds its counters to core->closed, zeroes them and counts itself in core->closed_channels
 * before it leaves the bdev's list; a sum during which that count has changed is taken again.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/internal.h"

struct sum {
	struct visit visit;
	struct bdev_stats stats;
	unsigned closed_channels;
	void (*done)(void *ctx, const struct bdev_stats *stats);
	void *ctx;
};

void
stats_init(struct bdev_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	for (int i = 0; i < BDEV_OP_COUNT; i++) {
		stats->op[i].min_ns = UINT64_MAX;
	}
}

void
stats_add(struct bdev_stats *to, const struct bdev_stats *from)
{
	for (int i = 0; i < BDEV_OP_COUNT; i++) {
		to->op[i].ops += from->op[i].ops;
		to->op[i].bytes += from->op[i].bytes;
		to->op[i].latency_ns += from->op[i].latency_ns;
		to->op[i].max_ns = MAX(to->op[i].max_ns, from->op[i].max_ns);
		to->op[i].min_ns = MIN(to->op[i].min_ns, from->op[i].min_ns);
	}
	to->errors += from->errors;
}

static void
sum_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	struct sum *sum = ctx;

	stats_add(&sum->stats, &core_channel(ch)->stats);
}

static void summed(struct bdev_core *core, void *ctx);

static void
begin(struct sum *sum, struct bdev_core *core)
{
	pthread_mutex_lock(&core->closed_lock);
	sum->stats = core->closed;
	sum->closed_channels = atomic_load(&core->closed_channels);
	pthread_mutex_unlock(&core->closed_lock);
	visit_start(&sum->visit, core, sum_channel, summed, sum);
}

static void
summed(struct bdev_core *core, void *ctx)
{
	struct sum *sum = ctx;

	if (sum->closed_channels != atomic_load(&core->closed_channels)) {
		begin(sum, core);
		return;
	}
	for (int i = 0; i < BDEV_OP_COUNT; i++) {
		if (sum->stats.op[i].min_ns == UINT64_MAX) {
			sum->stats.op[i].min_ns = 0;
		}
	}
	/* These have no length; what stood in num_blocks was the submitter's. */
	sum->stats.op[BDEV_FLUSH].bytes = 0;
	sum->stats.op[BDEV_RESET].bytes = 0;
	sum->done(sum->ctx, &sum->stats);
	free(sum);
}

int
bdev_get_stats(struct bdev *bdev, void (*done)(void *ctx, const struct bdev_stats *stats),
	       void *ctx)
{
	struct sum *sum = calloc(1, sizeof(*sum));

	app_thread_check();
	if (sum == NULL) {
		return -ENOMEM;
	}
	sum->done = done;
	sum->ctx = ctx;
	begin(sum, bdev->core);
	return 0;
}

/* ---- Each channel; back to zero ---- */

struct walk {
	struct visit visit;
	void (*each)(void *ctx, const struct bdev_stats *stats);
	bool extremes_only;
	void (*done)(void *ctx);
	void *ctx;
};

static void
walked(struct bdev_core *core, void *ctx)
{
	struct walk *walk = ctx;

	walk->done(walk->ctx);
	free(walk);
}

static void
show_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	struct walk *walk = ctx;

	walk->each(walk->ctx, &core_channel(ch)->stats);
}

static void
reset_stats(struct bdev_stats *stats, bool extremes_only)
{
	if (!extremes_only) {
		stats_init(stats);
		return;
	}
	for (int i = 0; i < BDEV_OP_COUNT; i++) {
		stats->op[i].max_ns = 0;
		stats->op[i].min_ns = UINT64_MAX;
	}
}

static void
reset_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	reset_stats(&core_channel(ch)->stats, ((struct walk *)ctx)->extremes_only);
}

static void
reset_closed(struct bdev_core *core, void *ctx)
{
	struct walk *walk = ctx;

	/* Last, so that a channel that closes during the walk does not bring its old numbers
	 * back. */
	pthread_mutex_lock(&core->closed_lock);
	reset_stats(&core->closed, walk->extremes_only);
	pthread_mutex_unlock(&core->closed_lock);
	walked(core, ctx);
}

static struct walk *
walk_create(void (*done)(void *ctx), void *ctx)
{
	struct walk *walk = calloc(1, sizeof(*walk));

	app_thread_check();
	if (walk != NULL) {
		walk->done = done;
		walk->ctx = ctx;
	}
	return walk;
}

int
bdev_for_each_channel_stats(struct bdev *bdev,
			    void (*each)(void *ctx, const struct bdev_stats *stats),
			    void (*done)(void *ctx), void *ctx)
{
	struct walk *walk = walk_create(done, ctx);

	if (walk == NULL) {
		return -ENOMEM;
	}
	walk->each = each;
	visit_start(&walk->visit, bdev->core, show_channel, walked, walk);
	return 0;
}

int
bdev_reset_stats(struct bdev *bdev, bool extremes_only, void (*done)(void *ctx), void *ctx)
{
	struct walk *walk = walk_create(done, ctx);

	if (walk == NULL) {
		return -ENOMEM;
	}
	walk->extremes_only = extremes_only;
	visit_start(&walk->visit, bdev->core, reset_channel, reset_closed, walk);
	return 0;
}
