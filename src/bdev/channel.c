/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A descriptor's channel on a thread: made, taken down, and visited when something changes for all
 * of a bdev's. Each descriptor has its own, so that limits and statistics know whose I/O it is.
 *
 * Invariants
 *  1. direct_ops is 0 whenever a request must not go straight to the module: during a reset, while
 *     refused requests wait, and after removal; pass_ops also where limits or histograms are kept.
 *     channel_refresh() follows every change of these.
 *  2. A channel that is made while a change is under way sees it: it is on the bdev's list first
 *     and looks at size, `frozen` and `removed` afterwards (sync); whoever changes one of these
 *     sets it first and visits the list afterwards.
 *  3. The counters of a channel are added to core->closed before it leaves the list: see stats.c.
 */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>

#include "bdev/internal.h"

#define VISIT_RETRY_US 1000

static size_t
round_up(size_t n)
{
	return (n + CACHE_LINE_BYTES - 1) & ~(size_t)(CACHE_LINE_BYTES - 1);
}

size_t
core_channel_bytes(const struct bdev *bdev)
{
	return round_up(sizeof(struct core_channel)) + bdev->channel_ctx_bytes;
}

size_t
bdev_io_bytes(const struct bdev *bdev)
{
	return round_up(sizeof(struct bdev_io) + bdev->io_ctx_bytes);
}

void
channel_refresh(struct core_channel *c)
{
	uint32_t mask = c->pub.bdev->ops_mask & (1u << BDEV_READ | 1u << BDEV_WRITE);

	if (c->pub.readonly) {
		mask &= ~(1u << BDEV_WRITE);
	}
	if (c->pub.bdev->needs_stable_data || c->pub.bdev->zone_blocks != 0) {
		mask &= ~(1u << BDEV_WRITE);
	}
	if (c->pub.bdev->md_bytes != 0) {
		mask = 0;
	}
	if (c->removed || c->frozen || !list_empty(&c->refused) || c->ranges != NULL ||
	    c->unsampled) {
		mask = 0;
	}
	c->pub.direct_ops = mask;
	c->pub.pass_ops = c->qos.shared != NULL || c->histograms != NULL ? 0 : mask;
	c->pub.submit = c->qos.shared != NULL ? qos_submit : c->submit_plain;
	c->attention = c->draining || !list_empty(&c->refused) || c->acquiring != NULL || c->tracked_count != 0;
	c->pub.careful = c->attention || c->histograms != NULL;
}

void
channel_remove(struct core_channel *c)
{
	if (c->removed) {
		return;
	}
	c->removed = true;
	channel_refresh(c);
	qos_cancel(c, -ENODEV);
	nomem_end(c, -ENODEV, UINT64_MAX);
	split_remove(c);
	emulate_remove(c);
	range_cancel(c, -ENODEV);
	while (!list_empty(&c->parked)) {
		struct bdev_io *io = LIST_FIRST(&c->parked, struct bdev_io, link);

		list_remove(&io->link);
		c->parked_count--;
		c->pub.inflight++;
		end_request(c, io, -ENODEV);
	}
	if (c->pub.bdev->ops->cancel != NULL) {
		c->pub.bdev->ops->cancel(&c->pub, -ENODEV);
	}
}

/* ---- Cancelling ---- */

/*
 * The module ends what it has, or will when its patience is over. What waits to be given to it would follow, and wait as long
 * again, a store of parts after the other: the third time such requests end, those from before the first time. A disk that
 * works has taken them by then, also when the whole process stood still in between.
 */
void
channel_cancel(struct core_channel *c)
{
	uint64_t before_ns = c->cancel_ns[1];

	if (c->pub.inflight == 0 || c->pub.bdev->ops->cancel == NULL) {
		return;
	}
	c->cancel_ns[1] = c->cancel_ns[0];
	c->cancel_ns[0] = reactor_now_ns();
	nomem_end(c, -ECANCELED, before_ns);
	split_end(c, -ECANCELED, before_ns);
	c->pub.bdev->ops->cancel(&c->pub, -ECANCELED);
}

void
bdev_channel_give_up(struct bdev_channel *ch)
{
	channel_cancel(core_channel(ch));
}

/* ---- Life ---- */

static void
copy_limits(struct bdev_channel *ch, const struct bdev *bdev)
{
	ch->block_size_shift = (uint8_t)__builtin_ctz(bdev->block_size);
	ch->buffer_mask = bdev->buffer_align - 1;
	ch->simple_blocks = bdev->max_rw_blocks == 0 ? UINT32_MAX : bdev->max_rw_blocks;
	if (bdev->optimal_boundary_blocks != 0) {
		uint32_t boundary = bdev->optimal_boundary_blocks;
		bool simple = (boundary & (boundary - 1)) == 0 && boundary <= ch->simple_blocks;

		ch->simple_blocks = simple ? boundary : 0;
		ch->boundary_mask = simple ? boundary - 1 : 0;
	}
}

static int
create(struct device *dev, struct channel *channel)
{
	struct bdev_desc *desc = CONTAINER_OF(dev, struct bdev_desc, device);
	struct core_channel *c = (struct core_channel *)channel;
	struct bdev *bdev = desc->bdev;

	c->desc = desc;
	c->pub.bdev = bdev;
	c->pub.since = desc->since;
	c->submit = bdev->ops->submit;
	c->submit_plain = bdev->ops->submit_plain != NULL ? bdev->ops->submit_plain : c->submit;
	qos_channel_init(c);
	c->pub.readonly = __atomic_load_n(&bdev->readonly, __ATOMIC_ACQUIRE) || !desc->write;
	c->pub.module_ctx = (uint8_t *)c + round_up(sizeof(*c));
	copy_limits(&c->pub, bdev);
	stats_init(&c->stats);
	list_init(&c->refused);
	list_init(&c->parked);
	list_init(&c->starved);
	list_init(&c->held_back);
	list_init(&c->tracked);
	list_init(&c->free_parts);
	list_init(&c->passes);
	list_init(&c->passed_to);
	return bdev->ops->channel_create != NULL ? bdev->ops->channel_create(bdev, &c->pub) : 0;
}

static void
destroy(struct device *dev, struct channel *channel)
{
	struct core_channel *c = (struct core_channel *)channel;
	struct bdev *bdev = c->pub.bdev;

	if (bdev->ops->channel_destroy != NULL) {
		bdev->ops->channel_destroy(bdev, &c->pub);
	}
	timer_stop(&c->retry);
	qos_channel_release(c);
	split_channel_release(c);
	emulate_release(c);
}

const struct device_ops channel_device_ops = {.channel_create = create, .channel_destroy = destroy};

/* What changed between copying it and being on the list. */
static void
sync(struct core_channel *c, struct bdev_core *core)
{
	c->pub.num_blocks = bdev_num_blocks(core->bdev);
	c->frozen = c->frozen || atomic_load(&core->frozen);
	range_adopt(c, core);
	qos_adopt(c, core);
	histogram_adopt(c, core);
	sampling_adopt(c, core);
	channel_refresh(c);
	if (atomic_load(&core->removed)) {
		channel_remove(c);
	}
}

struct bdev_channel *
bdev_channel_get(struct bdev_desc *desc, int *ret_rc)
{
	struct bdev_core *core = desc->bdev->core;
	struct core_channel *c = NULL;
	int rc = -ENODEV;

	if (!atomic_load(&core->removed)) {
		c = (struct core_channel *)channel_get(&desc->device, &rc);
	}
	if (c == NULL) {
		if (ret_rc != NULL) {
			*ret_rc = rc;
		}
		return NULL;
	}
	sync(c, core);
	return &c->pub;
}

void
bdev_channel_put(struct bdev_channel *ch)
{
	struct core_channel *c = core_channel(ch);

	if (ch == NULL) {
		return;
	}
	if (ch->channel.refs == 1) {
		struct bdev_core *core = ch->bdev->core;

		CHECK(ch->inflight == 0 && c->parked_count == 0);
		stats_close_channel(c, core);
	}
	channel_put(&ch->channel);
}

uint64_t
bdev_channel_inflight(const struct bdev_channel *ch)
{
	return ch->inflight + ((const struct core_channel *)ch)->parked_count;
}

/* ---- Visits ---- */

static void
visit_channel(void *ctx, struct channel *ch)
{
	struct visit *v = ctx;

	v->fn(v->core, (struct bdev_channel *)ch, v->ctx);
}

static void
visited(void *ctx)
{
	struct visit *v = ctx;
	struct bdev_core *core = v->core;

	v->done(core, v->ctx);
	core_unhold(core);
}

static void visit_try(struct visit *v);

static void
visit_again(struct timer *timer)
{
	visit_try(CONTAINER_OF(timer, struct visit, retry));
}

static void
visit_try(struct visit *v)
{
	if (channel_set_for_each(&v->core->channels, visit_channel, visited, v) != 0) {
		CHECK(timer_start(&v->retry, VISIT_RETRY_US, visit_again) == 0);
	}
}

void
visit_start(struct visit *v, struct bdev_core *core,
	    void (*fn)(struct bdev_core *core, struct bdev_channel *ch, void *ctx),
	    void (*done)(struct bdev_core *core, void *ctx), void *ctx)
{
	*v = (struct visit){.core = core, .fn = fn, .done = done, .ctx = ctx};
	core_hold(core);
	visit_try(v);
}

/* ---- Visits of modules ---- */

struct walk {
	struct visit visit;
	void (*fn)(void *ctx, struct bdev_channel *ch);
	void (*done)(void *ctx);
	void *ctx;
};

static void
walk_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	struct walk *w = ctx;

	w->fn(w->ctx, ch);
}

static void
walk_done(struct bdev_core *core, void *ctx)
{
	struct walk walk = *(struct walk *)ctx;

	free(ctx);
	walk.done(walk.ctx);
}

int
bdev_for_each_channel(struct bdev *bdev, void (*fn)(void *ctx, struct bdev_channel *ch),
		      void (*done)(void *ctx), void *ctx)
{
	struct walk *w = calloc(1, sizeof(*w));

	if (w == NULL) {
		return -ENOMEM;
	}
	w->fn = fn;
	w->done = done;
	w->ctx = ctx;
	visit_start(&w->visit, bdev->core, walk_channel, walk_done, w);
	return 0;
}
