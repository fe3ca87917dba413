/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests that the module refused for now (-ENOMEM, -EAGAIN). They wait in the order in which they
 * were first refused, however often they are again; those that come after them wait behind them. No
 * request fails for it.
 *
 * Invariant: when the queue is not empty, the module has a request of this channel, whose
 * completion tries again, or the timer runs, which does.
 * Context: the channel's thread.
 */
#include <errno.h>

#include "bdev/internal.h"

#define RETRY_US 20

void
nomem_retry_later(struct timer *timer)
{
	struct core_channel *c = CONTAINER_OF(timer, struct core_channel, retry);

	nomem_retry(c);
	split_feed(c);
}

static void
enqueue(struct core_channel *c, struct bdev_io *io)
{
	struct list *pos = &c->refused;

	if ((io->flags & IO_REFUSED) == 0) {
		io->flags |= IO_REFUSED;
		io->seq = c->next_seq++;
	}
	while (pos->prev != &c->refused &&
	       (int32_t)(LIST_ENTRY(pos->prev, struct bdev_io, link)->seq - io->seq) > 0) {
		pos = pos->prev;
	}
	list_insert_before(pos, &io->link);
}

void
nomem_append(struct core_channel *c, struct bdev_io *io)
{
	enqueue(c, io);
}

void
nomem_refuse(struct core_channel *c, struct bdev_io *io)
{
	c->pub.outstanding--;
	if (c->removed) {
		end_refused(c, io, -ENODEV);
		return;
	}
	enqueue(c, io);
	c->refused_again = true;
	channel_refresh(c);
	if (c->pub.outstanding == 0 && !heap_linked(&c->retry.node)) {
		CHECK(timer_start(&c->retry, RETRY_US, nomem_retry_later) == 0);
	}
}

void
nomem_retry(struct core_channel *c)
{
	c->refused_again = false;
	while (!list_empty(&c->refused) && !c->refused_again) {
		struct bdev_io *io = LIST_FIRST(&c->refused, struct bdev_io, link);

		list_remove(&io->link);
		c->pub.outstanding++;
		c->submit(&c->pub, io);
	}
	channel_refresh(c);
}

void
nomem_end(struct core_channel *c, int status, uint64_t before_ns)
{
	struct bdev_io *io, *next;

	LIST_FOREACH_SAFE (io, next, &c->refused, link) {
		if (before_ns == UINT64_MAX || (io->submit_ns < before_ns && io->op != BDEV_RESET)) {
			list_remove(&io->link);
			end_refused(c, io, status);
		}
	}
	channel_refresh(c);
}
