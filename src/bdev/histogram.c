/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * See histogram.h. Each channel has tables of its own, made when an operation is counted for the
 * first time: most bdevs see two or three of them. When there is no memory for one, nothing is
 * counted in it.
 *
 * Invariants
 *  1. What is kept is said by one word (core->histogram_config), which is another after each
 *     setting; a channel's tables are of the word that they were made for, others are not summed.
 *  2. As in stats.c: a channel's tables go to core->closed_histograms before it leaves the list,
 *     and a sum during which a channel was closed is taken again.
 * Contexts: counting, the channel's thread; the rest, the app thread.
 */
#include "bdev/histogram.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/internal.h"

/* The word, from below: bits of one range, first range, last range, operation, and a number that
 * changes. */
#define CONFIG_GRANULARITY(c) ((unsigned)(c) & 0xff)
#define CONFIG_MIN_RANGE(c) ((unsigned)((c) >> 8) & 0xff)
#define CONFIG_MAX_RANGE(c) ((unsigned)((c) >> 16) & 0xff)
#define CONFIG_OP(c) ((unsigned)((c) >> 24) & 0xff)
#define CONFIG_KEPT (UINT64_C(1) << 32)
#define CONFIG_NEXT (UINT64_C(1) << 33)

static unsigned
range_of(unsigned granularity, uint64_t value)
{
	unsigned bits = value == 0 ? 0 : 64 - (unsigned)__builtin_clzll(value);

	return bits > granularity ? bits - granularity : 0;
}

static size_t
bucket_count(uint64_t config)
{
	return (size_t)(CONFIG_MAX_RANGE(config) - CONFIG_MIN_RANGE(config) + 1)
	       << CONFIG_GRANULARITY(config);
}

static size_t
bucket_of(uint64_t config, uint64_t ns)
{
	unsigned granularity = CONFIG_GRANULARITY(config), range = range_of(granularity, ns);
	unsigned shift = range == 0 ? 0 : range - 1;

	if (range < CONFIG_MIN_RANGE(config)) {
		return 0;
	}
	if (range > CONFIG_MAX_RANGE(config)) {
		return bucket_count(config) - 1;
	}
	return ((size_t)(range - CONFIG_MIN_RANGE(config)) << granularity) +
	       (size_t)(ns >> shift & ((1u << granularity) - 1));
}

uint64_t
bdev_histogram_end(const struct bdev_histogram *h, size_t i)
{
	unsigned range = h->min_range + (unsigned)(i >> h->granularity);
	uint64_t step = (i & ((1u << h->granularity) - 1)) + 1;

	if (range == 0) {
		return step;
	}
	/* Less one, lest the very last wrap round. */
	step = (UINT64_C(1) << (range + h->granularity - 1)) - 1 + (step << (range - 1));
	return step == UINT64_MAX ? step : step + 1;
}

/* ---- A channel ---- */

static __attribute__((noinline, cold)) uint64_t *
new_table(struct histograms *h, enum bdev_op op)
{
	if (CONFIG_OP(h->config) == BDEV_OP_ANY || CONFIG_OP(h->config) == op) {
		h->tables[op] = calloc(bucket_count(h->config), sizeof(uint64_t));
	}
	return h->tables[op];
}

void
histogram_count(struct histograms *h, enum bdev_op op, uint64_t ns)
{
	uint64_t *table = h->tables[op];

	if (UNLIKELY(table == NULL) && (table = new_table(h, op)) == NULL) {
		return;
	}
	table[bucket_of(h->config, ns)]++;
}

static void
free_tables(struct histograms *h)
{
	for (int op = 0; h != NULL && op < BDEV_OP_COUNT; op++) {
		free(h->tables[op]);
	}
	free(h);
}

static uint64_t
config_of(const struct histograms *h)
{
	return h != NULL ? h->config : 0;
}

void
histogram_adopt(struct core_channel *c, struct bdev_core *core)
{
	uint64_t config = atomic_load(&core->histogram_config);

	if ((config & CONFIG_KEPT) == 0) {
		config = 0;
	}
	if (config_of(c->histograms) == config) {
		return;
	}
	free_tables(c->histograms);
	c->histograms = config != 0 ? calloc(1, sizeof(*c->histograms)) : NULL;
	if (c->histograms != NULL) {
		c->histograms->config = config;
	}
}

static void
add_table(uint64_t *to, const uint64_t *from, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		to[i] += from[i];
	}
}

void
histogram_close_channel(struct core_channel *c, struct bdev_core *core)
{
	struct histograms *h = c->histograms, *closed = core->closed_histograms;

	c->histograms = NULL;
	if (config_of(h) != 0 && config_of(h) == config_of(closed)) {
		for (int op = 0; op < BDEV_OP_COUNT; op++) {
			if (h->tables[op] != NULL && closed->tables[op] != NULL) {
				add_table(closed->tables[op], h->tables[op],
					  bucket_count(h->config));
			} else if (h->tables[op] != NULL) {
				closed->tables[op] = h->tables[op];
				h->tables[op] = NULL;
			}
		}
	}
	free_tables(h);
}

void
histogram_release(struct bdev_core *core)
{
	free_tables(core->closed_histograms);
}

/* ---- What is kept ---- */

struct change {
	struct visit visit;
	void (*done)(void *ctx);
	void *ctx;
};

static void
adopt(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	histogram_adopt(core_channel(ch), core);
	channel_refresh(core_channel(ch));
}

static void
changed(struct bdev_core *core, void *ctx)
{
	struct change change = *(struct change *)ctx;

	free(ctx);
	change.done(change.ctx);
}

static int
make_config(const struct bdev_histogram_options *o, uint64_t before, uint64_t *ret_config,
	    struct err *err)
{
	uint64_t config = (before & ~(CONFIG_NEXT - 1)) + CONFIG_NEXT;

	if (o == NULL) {
		*ret_config = config;
		return 0;
	}
	if (o->granularity < 1 || o->granularity > BDEV_HISTOGRAM_GRANULARITY_MAX) {
		return err_set(err, -EINVAL, "granularity %u of a histogram is not from 1 to %d",
			       o->granularity, BDEV_HISTOGRAM_GRANULARITY_MAX);
	}
	if (o->min_ns >= o->max_ns) {
		return err_set(err, -EINVAL, "a histogram from %llu to %llu ns is empty",
			       (unsigned long long)o->min_ns, (unsigned long long)o->max_ns);
	}
	*ret_config = config | CONFIG_KEPT | (uint64_t)o->op << 24 |
		      (uint64_t)range_of(o->granularity, o->max_ns - 1) << 16 |
		      range_of(o->granularity, o->min_ns) << 8 | o->granularity;
	return 0;
}

int
bdev_set_histogram(struct bdev *bdev, const struct bdev_histogram_options *options,
		   void (*done)(void *ctx), void *ctx, struct err *err)
{
	struct bdev_core *core = bdev->core;
	struct histograms *closed = calloc(1, sizeof(*closed));
	struct change *change = calloc(1, sizeof(*change));
	uint64_t config = 0;
	int rc = make_config(options, atomic_load(&core->histogram_config), &config, err);

	app_thread_check();
	if (rc == 0 && (closed == NULL || change == NULL)) {
		rc = err_set(err, -ENOMEM, "bdev '%s': out of memory", bdev->name);
	}
	if (rc != 0) {
		free(closed);
		free(change);
		return rc;
	}
	closed->config = config;
	core->histogram_min_ns = options != NULL ? options->min_ns : 0;
	core->histogram_max_ns = options != NULL ? options->max_ns : 0;
	pthread_mutex_lock(&core->closed_lock);
	free_tables(core->closed_histograms);
	core->closed_histograms = closed;
	pthread_mutex_unlock(&core->closed_lock);
	atomic_store(&core->histogram_config, config);
	change->done = done;
	change->ctx = ctx;
	visit_start(&change->visit, core, adopt, changed, change);
	return 0;
}

bool
bdev_get_histogram_options(const struct bdev *bdev, struct bdev_histogram_options *ret_options)
{
	const struct bdev_core *core = bdev->core;
	uint64_t config = atomic_load(&core->histogram_config);

	if ((config & CONFIG_KEPT) == 0) {
		return false;
	}
	*ret_options = (struct bdev_histogram_options){
		.op = CONFIG_OP(config),
		.granularity = CONFIG_GRANULARITY(config),
		.min_ns = core->histogram_min_ns,
		.max_ns = core->histogram_max_ns,
	};
	return true;
}

/* ---- Sums ---- */

struct sum {
	struct visit visit;
	uint64_t config;
	enum bdev_op op;
	unsigned closed_channels;
	void (*done)(void *ctx, const struct bdev_histogram *histogram);
	void *ctx;
	struct bdev_histogram h;
};

static void
sum_add(struct sum *sum, const struct histograms *h)
{
	for (unsigned op = 0; config_of(h) == sum->config && op < BDEV_OP_COUNT; op++) {
		if (h->tables[op] != NULL && (sum->op == BDEV_OP_ANY || sum->op == op)) {
			add_table(sum->h.buckets, h->tables[op], sum->h.bucket_count);
		}
	}
}

static void
sum_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	sum_add(ctx, core_channel(ch)->histograms);
}

static void summed(struct bdev_core *core, void *ctx);

static void
begin(struct sum *sum, struct bdev_core *core)
{
	memset(sum->h.buckets, 0, sum->h.bucket_count * sizeof(uint64_t));
	pthread_mutex_lock(&core->closed_lock);
	sum_add(sum, core->closed_histograms);
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
	sum->done(sum->ctx, &sum->h);
	free(sum);
}

int
bdev_get_histogram(struct bdev *bdev, enum bdev_op op,
		   void (*done)(void *ctx, const struct bdev_histogram *histogram), void *ctx,
		   struct err *err)
{
	uint64_t config = atomic_load(&bdev->core->histogram_config);
	size_t count = bucket_count(config);
	struct sum *sum;

	app_thread_check();
	if ((config & CONFIG_KEPT) == 0) {
		return err_set(err, -ENOENT, "bdev '%s' keeps no histogram (bdev_enable_histogram)",
			       bdev->name);
	}
	sum = calloc(1, sizeof(*sum) + count * sizeof(uint64_t));
	if (sum == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", bdev->name);
	}
	sum->config = config;
	sum->op = op;
	sum->done = done;
	sum->ctx = ctx;
	sum->h.granularity = CONFIG_GRANULARITY(config);
	sum->h.min_range = CONFIG_MIN_RANGE(config);
	sum->h.max_range = CONFIG_MAX_RANGE(config);
	sum->h.bucket_count = count;
	begin(sum, bdev->core);
	return 0;
}
