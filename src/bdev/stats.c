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

/* ---- Errors ---- */

static enum bdev_error
error_of(int status)
{
	switch (status) {
	case -ENOSPC:
	case -EDQUOT:
	case -EFBIG:
		return BDEV_ERROR_NO_SPACE;
	case -EINVAL:
		return BDEV_ERROR_RANGE;
	case -EROFS:
	case -EPERM:
		return BDEV_ERROR_READ_ONLY;
	case -EOPNOTSUPP:
		return BDEV_ERROR_NOT_SUPPORTED;
	case -ENODEV:
	case -ENXIO:
	case -ESHUTDOWN:
		return BDEV_ERROR_REMOVED;
	case -ECANCELED:
		return BDEV_ERROR_ABORTED;
	case -EILSEQ:
		return BDEV_ERROR_MISCOMPARE;
	case -ETIMEDOUT:
		return BDEV_ERROR_TIMED_OUT;
	default:
		return BDEV_ERROR_IO;
	}
}

const char *
bdev_error_name(enum bdev_error error)
{
	static const char *const names[BDEV_ERROR_COUNT] = {
		[BDEV_ERROR_IO] = "io",
		[BDEV_ERROR_NO_SPACE] = "no_space",
		[BDEV_ERROR_RANGE] = "range",
		[BDEV_ERROR_READ_ONLY] = "read_only",
		[BDEV_ERROR_NOT_SUPPORTED] = "not_supported",
		[BDEV_ERROR_REMOVED] = "removed",
		[BDEV_ERROR_ABORTED] = "aborted",
		[BDEV_ERROR_MISCOMPARE] = "miscompare",
		[BDEV_ERROR_TIMED_OUT] = "timed_out",
	};

	return names[error];
}

__attribute__((noinline, cold)) void
stats_count_error(struct core_channel *c, const struct bdev_io *io, int status)
{
	struct bdev_stats *stats = &c->stats;

	stats->errors++;
	if (stats->by_kind == NULL) {
		stats->by_kind = calloc(1, sizeof(*stats->by_kind));
	}
	if (stats->by_kind != NULL && io->op < BDEV_OP_COUNT) {
		stats->by_kind->count[io->op][error_of(status)]++;
	}
}

static void
add_errors(struct bdev_errors *to, const struct bdev_errors *from)
{
	for (int op = 0; op < BDEV_OP_COUNT; op++) {
		for (int i = 0; i < BDEV_ERROR_COUNT; i++) {
			to->count[op][i] += from->count[op][i];
		}
	}
}

/* ---- Sums ---- */

#define HAS_BYTES \
	(1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_UNMAP | 1u << BDEV_WRITE_ZEROES | \
	 1u << BDEV_COMPARE | 1u << BDEV_COMPARE_AND_WRITE | 1u << BDEV_COPY | \
	 1u << BDEV_ZONE_APPEND)

struct sum {
	struct visit visit;
	struct bdev_stats stats;
	struct bdev_errors errors;
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
stats_add_ops(struct bdev_stats *to, const struct bdev_op_stats *op, unsigned count)
{
	for (unsigned i = 0; i < count; i++) {
		to->op[i].ops += op[i].ops;
		to->op[i].bytes += op[i].bytes;
		to->op[i].latency_ns += op[i].latency_ns;
		to->op[i].max_ns = MAX(to->op[i].max_ns, op[i].max_ns);
		to->op[i].min_ns = MIN(to->op[i].min_ns, op[i].min_ns);
	}
}

/* All but by_kind. */
static void
add_counters(struct bdev_stats *to, const struct bdev_stats *from)
{
	stats_add_ops(to, from->op, BDEV_OP_COUNT);
	to->errors += from->errors;
}

void
stats_close_channel(struct core_channel *c, struct bdev_core *core)
{
	struct bdev_errors *errors;

	pass_settle(c);
	errors = c->stats.by_kind;
	pthread_mutex_lock(&core->closed_lock);
	add_counters(&core->closed, &c->stats);
	if (errors != NULL && core->closed.by_kind == NULL) {
		core->closed.by_kind = errors;
		errors = NULL;
	} else if (errors != NULL) {
		add_errors(core->closed.by_kind, errors);
	}
	histogram_close_channel(c, core);
	stats_init(&c->stats);
	atomic_fetch_add(&core->closed_channels, 1);
	pthread_mutex_unlock(&core->closed_lock);
	free(errors);
}

void
stats_release(struct bdev_core *core)
{
	free(core->closed.by_kind);
	histogram_release(core);
	sampling_release(core);
}

static void
sum_add(struct sum *sum, const struct bdev_stats *from)
{
	add_counters(&sum->stats, from);
	if (from->by_kind != NULL) {
		add_errors(&sum->errors, from->by_kind);
		sum->stats.by_kind = &sum->errors;
	}
}

static void
sum_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	struct sum *sum = ctx;

	pass_settle(core_channel(ch));
	sum_add(sum, &core_channel(ch)->stats);
}

static void summed(struct bdev_core *core, void *ctx);

static void
begin(struct sum *sum, struct bdev_core *core)
{
	stats_init(&sum->stats);
	memset(&sum->errors, 0, sizeof(sum->errors));
	pthread_mutex_lock(&core->closed_lock);
	sum_add(sum, &core->closed);
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
		/* Some have no length; what stood in num_blocks was the submitter's. */
		if ((HAS_BYTES >> i & 1) == 0) {
			sum->stats.op[i].bytes = 0;
		}
	}
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
	void (*each)(void *ctx, const char *user, const struct bdev_stats *stats);
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

	pass_settle(core_channel(ch));
	walk->each(walk->ctx, core_channel(ch)->desc->user, &core_channel(ch)->stats);
}

static void
reset_stats(struct bdev_stats *stats, bool extremes_only)
{
	if (!extremes_only) {
		struct bdev_errors *errors = stats->by_kind;

		stats_init(stats);
		stats->by_kind = errors;
		if (errors != NULL) {
			memset(errors, 0, sizeof(*errors));
		}
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
	pass_settle(core_channel(ch));
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
			    void (*each)(void *ctx, const char *user,
					 const struct bdev_stats *stats),
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
