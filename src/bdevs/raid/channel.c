/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What each thread knows of the bases: their channels, and their roles as of some generation.
 *
 * Invariants
 *  1. A slot's channel is there while its base is open, or `leaving` is set: then it is put as soon as
 *     nothing of it is in flight. Each holds one of base->refs.
 *  2. After a visit no channel of the array knows an older generation than the one at its start: those
 *     that are there are visited, those made meanwhile look once more when they are on the list.
 *  3. A base that has a role and whose channel could not be had counts as one that fails everything.
 *  4. Without redundancy the bases' channels stay as long as the array's own: a base that goes takes the array
 *     with it, and is closed after its last channel is gone. So requests may be passed down to them (struct raid_entrance):
 *     such a request is in flight on the array's bdev channel, which is closed after it, and holds the channel here.
 * Context: the channel's thread; visits are led by the app thread.
 */
#include <errno.h>
#include <stdlib.h>

#include "bdevs/raid/internal.h"

#define VISIT_RETRY_US 1000

/* ---- Slots ---- */

static void
put_if_idle(struct raid_channel *rc, unsigned i)
{
	struct raid_slot *s = &rc->slots[i];

	if (s->leaving && bdev_channel_inflight(s->ch) == 0) {
		bdev_channel_put(s->ch);
		s->ch = NULL;
		s->leaving = false;
		rc->leaving--;
		raid_base_unref(&rc->raid->bases[i]);
	}
}

void
raid_channel_put_left(struct raid_channel *rc)
{
	for (unsigned i = 0; i < rc->raid->num_bases && rc->leaving > 0; i++) {
		put_if_idle(rc, i);
	}
}

/* Under raid->lock. */
static void
load_slot(struct raid_channel *rc, unsigned i)
{
	struct raid_base *b = &rc->raid->bases[i];
	struct raid_slot *s = &rc->slots[i];

	s->role = b->role;
	if (b->open && s->ch == NULL) {
		s->ch = bdev_channel_get(b->desc, NULL);
		s->offset = b->data_offset;
		s->reads = 0;
		if (s->ch != NULL) {
			atomic_fetch_add(&b->refs, 1);
		}
	} else if (!b->open && s->ch != NULL && !s->leaving) {
		CHECK(!rc->raid->level->passes);
		s->leaving = true;
		rc->leaving++;
	}
}

void
raid_channel_load(struct raid_channel *rc)
{
	struct raid *raid = rc->raid;

	pthread_mutex_lock(&raid->lock);
	rc->generation = atomic_load(&raid->generation);
	rc->writable = raid->writable;
	rc->primary_only = raid->primary_only;
	for (unsigned i = 0; i < raid->num_bases; i++) {
		load_slot(rc, i);
	}
	pthread_mutex_unlock(&raid->lock);
	raid_channel_put_left(rc);
}

/* ---- Channels ---- */

static int
create(struct device *dev, struct channel *channel)
{
	struct raid_channel *rc = (struct raid_channel *)channel;

	rc->raid = CONTAINER_OF(dev, struct raid, device);
	rc->cancel_status = -ECANCELED;
	list_init(&rc->parked);
	list_init(&rc->held);
	raid_channel_load(rc);
	for (unsigned i = 0; i < rc->raid->num_bases && !rc->raid->level->redundant; i++) {
		if (rc->slots[i].ch == NULL) {
			dev->ops->channel_destroy(dev, channel);
			return -ENODEV;
		}
	}
	if (rc->raid->level->channel_init != NULL) {
		int rc2 = rc->raid->level->channel_init(rc);

		if (rc2 != 0) {
			dev->ops->channel_destroy(dev, channel);
			return rc2;
		}
	}
	return 0;
}

static void
destroy(struct device *dev, struct channel *channel)
{
	struct raid_channel *rc = (struct raid_channel *)channel;

	CHECK(list_empty(&rc->parked) && list_empty(&rc->held));
	if (rc->level_ctx != NULL) {
		rc->raid->level->channel_release(rc);
	}
	for (unsigned i = 0; i < rc->raid->num_bases; i++) {
		if (rc->slots[i].ch != NULL) {
			bdev_channel_put(rc->slots[i].ch);
			rc->slots[i].ch = NULL;
			raid_base_unref(&rc->raid->bases[i]);
		}
	}
}

const struct device_ops raid_device_ops = {.channel_create = create, .channel_destroy = destroy};

size_t
raid_entrance_bytes(const struct raid *raid)
{
	return sizeof(struct raid_entrance) + (raid->level->passes ? raid->num_bases * sizeof(struct raid_way) : 0);
}

static void
open_ways(const struct raid *raid, struct bdev_channel *ch, struct raid_entrance *entrance)
{
	unsigned n = raid->num_bases;

	entrance->strip_shift = (uint8_t)__builtin_ctz(raid->strip_blocks);
	entrance->strip_mask = raid->strip_blocks - 1;
	entrance->base_shift = (n & (n - 1)) == 0 ? (uint8_t)__builtin_ctz(n) : ODD_BASES;
	entrance->base_mask = n - 1;
	for (unsigned i = 0; i < n; i++) {
		entrance->ways[i].offset = entrance->rc->slots[i].offset;
		bdev_pass_open(&entrance->ways[i].pass, ch, entrance->rc->slots[i].ch, 0, NULL);
	}
}

int
raid_channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct raid *raid = CONTAINER_OF(bdev, struct raid, bdev);
	struct raid_entrance *entrance = ch->module_ctx;
	int status = 0;

	entrance->rc = (struct raid_channel *)channel_get(&raid->device, &status);
	if (entrance->rc == NULL) {
		return status;
	}
	raid_channel_look(entrance->rc);
	if (raid->level->passes) {
		open_ways(raid, ch, entrance);
	}
	return 0;
}

void
raid_channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct raid *raid = CONTAINER_OF(bdev, struct raid, bdev);
	struct raid_entrance *entrance = ch->module_ctx;

	for (unsigned i = 0; raid->level->passes && i < raid->num_bases; i++) {
		bdev_pass_close(&entrance->ways[i].pass);
	}
	channel_put(&entrance->rc->channel);
}

/* ---- Visits ---- */

static void visit_start(struct raid_visit *v);

static void
visit_channel(void *ctx, struct channel *ch)
{
	struct raid_visit *v = ctx;

	v->fn((struct raid_channel *)ch);
}

static void
visited(void *ctx)
{
	struct raid_visit *v = ctx;

	v->done(v->raid);
}

static void
visit_again(struct timer *timer)
{
	visit_start(CONTAINER_OF(timer, struct raid_visit, retry));
}

static void
visit_start(struct raid_visit *v)
{
	if (device_for_each_channel(&v->raid->device, visit_channel, visited, v) != 0) {
		CHECK(timer_start(&v->retry, VISIT_RETRY_US, visit_again) == 0);
	}
}

void
raid_visit_all(struct raid *raid, void (*fn)(struct raid_channel *rc),
	       void (*done)(struct raid *raid))
{
	struct raid_visit *v = &raid->visit;

	CHECK(raid->busy);
	if (!raid->lives) {
		done(raid);
		return;
	}
	v->raid = raid;
	v->fn = fn;
	v->done = done;
	visit_start(v);
}
