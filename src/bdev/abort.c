/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Abort: a request that waits in the core, for whatever reason, ends with -ECANCELED, and the abort
 * with 0. One that the module has is the module's to end, if it knows how to abort; otherwise it
 * ends by itself and the abort says -ENOENT.
 *
 * Invariant: the target is in flight on this channel and has not been answered (the submitter
 * promises), so its memory is valid while its channel's lists are searched.
 * Context: the channel's thread.
 */
#include <errno.h>

#include "bdev/internal.h"

static bool
is_on(const struct list *list, const struct bdev_io *target)
{
	struct bdev_io *io;

	if (list == NULL) {
		return false;
	}
	LIST_FOREACH (io, list, link) {
		if (io == target) {
			return true;
		}
	}
	return false;
}

/* Waits, counted as parked. */
static bool
parked(struct core_channel *c, const struct bdev_io *target)
{
	return is_on(&c->parked, target) || is_on(&c->held_back, target) || qos_waits(c, target);
}

/* It was submitted here, or passed down to here. */
static bool
is_of(const struct core_channel *c, const struct bdev_io *target)
{
	return target->ch == &c->pub || (bdev_io_is_passed(target) && target->pass->upper == &c->pub);
}

void
abort_submit(struct core_channel *c, struct bdev_io *io)
{
	struct bdev_io *target = io->target;

	c->pub.inflight++;
	if (target == NULL || target == io || !is_of(c, target)) {
		end_request(c, io, -EINVAL);
	} else if (parked(c, target)) {
		list_remove(&target->link);
		c->parked_count--;
		c->pub.inflight++;
		end_request(c, target, -ECANCELED);
		end_request(c, io, 0);
	} else if (is_on(emulate_waiting(c), target)) {
		list_remove(&target->link);
		end_request(c, target, -ECANCELED);
		end_request(c, io, 0);
	} else if (is_on(&c->refused, target)) {
		list_remove(&target->link);
		channel_refresh(c);
		end_refused(c, target, -ECANCELED);
		end_request(c, io, 0);
	} else if (bdev_supports_natively(c->pub.bdev, BDEV_ABORT) && !c->removed &&
		   ((target->flags & IO_SPLIT) == 0 || bdev_io_is_passed(target))) {
		issue(c, io);
	} else {
		end_request(c, io, -ENOENT);
	}
}
