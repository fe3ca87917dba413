/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Devices and their per-thread channels. One lock guards the lists of channels of all devices: channels
 * come and go on the control path only. A device has at most one channel a thread, so its own list is the
 * short one to search, however many devices there are.
 */
#include "event/channel.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

#include "event/internal.h"

static pthread_mutex_t channel_lock = PTHREAD_MUTEX_INITIALIZER;

void
channel_set_init(struct channel_set *set)
{
	list_init(&set->channels);
}

void
device_register_in(struct device *dev, const char *name, const struct device_ops *ops, size_t channel_size,
		   struct channel_set *set)
{
	CHECK(channel_size >= sizeof(struct channel));
	dev->name = name;
	dev->ops = ops;
	dev->channel_size = channel_size;
	dev->set = set;
	list_init(&dev->channels);
}

void
device_register(struct device *dev, const char *name, const struct device_ops *ops, size_t channel_size)
{
	channel_set_init(&dev->own);
	device_register_in(dev, name, ops, channel_size, &dev->own);
}

void
device_unregister(struct device *dev)
{
	CHECK(list_empty(&dev->channels));
}

static struct channel *
find(struct device *dev, const struct thread *t)
{
	struct channel *ch, *found = NULL;

	pthread_mutex_lock(&channel_lock);
	LIST_FOREACH(ch, &dev->channels, dev_link)
	{
		if (ch->thread == t) {
			found = ch;
			break;
		}
	}
	pthread_mutex_unlock(&channel_lock);
	return found;
}

struct channel *
channel_get(struct device *dev, int *ret_rc)
{
	struct thread *t = thread_self();
	struct channel *ch;
	int rc;

	CHECK(t != NULL);
	ch = find(dev, t);
	if (ch != NULL) {
		ch->refs++;
		return ch;
	}
	ch = aligned_alloc(CACHE_LINE_BYTES,
			   (dev->channel_size + CACHE_LINE_BYTES - 1) & ~(size_t)(CACHE_LINE_BYTES - 1));
	rc = -ENOMEM;
	if (ch != NULL) {
		__builtin_memset(ch, 0, dev->channel_size);
		ch->dev = dev;
		ch->thread = t;
		ch->refs = 1;
		rc = dev->ops->channel_create(dev, ch);
	}
	if (rc != 0) {
		free(ch);
		if (ret_rc != NULL) {
			*ret_rc = rc;
		}
		return NULL;
	}
	pthread_mutex_lock(&channel_lock);
	list_append(&dev->channels, &ch->dev_link);
	list_append(&dev->set->channels, &ch->set_link);
	pthread_mutex_unlock(&channel_lock);
	list_append(&t->channels, &ch->thread_link);
	return ch;
}

void
channel_put(struct channel *ch)
{
	if (ch == NULL) {
		return;
	}
	CHECK(ch->thread == thread_self() && ch->refs > 0);
	if (--ch->refs > 0) {
		return;
	}
	pthread_mutex_lock(&channel_lock);
	list_remove(&ch->dev_link);
	list_remove(&ch->set_link);
	pthread_mutex_unlock(&channel_lock);
	list_remove(&ch->thread_link);
	if (ch->travel == CHANNEL_LEAVING) {
		channel_left(ch);
	}
	ch->dev->ops->channel_destroy(ch->dev, ch);
	free(ch);
}

/* ---- Visiting every channel ---- */

struct visit {
	struct msg msg;
	struct channel_set *set;
	void (*fn)(void *ctx, struct channel *ch);
	void (*done)(void *ctx);
	void *ctx;
	struct thread *origin;
	size_t count, next;
	struct thread *threads[];
};

static void
visit_done(struct msg *msg)
{
	struct visit *v = CONTAINER_OF(msg, struct visit, msg);

	thread_unpin(v->origin);
	v->done(v->ctx);
	free(v);
}

static void visit_one(struct msg *msg);

static void
visit_next(struct visit *v)
{
	if (v->next < v->count) {
		thread_send(v->threads[v->next++], &v->msg, visit_one);
	} else {
		thread_send(v->origin, &v->msg, visit_done);
	}
}

/* The next channel of this thread after pos; only this thread could take it away. */
static struct channel *
next_of_mine(struct channel_set *set, struct list *pos)
{
	struct thread *t = thread_self();
	struct channel *found = NULL;

	pthread_mutex_lock(&channel_lock);
	for (pos = pos->next; pos != &set->channels && found == NULL; pos = pos->next) {
		struct channel *ch = LIST_ENTRY(pos, struct channel, set_link);

		found = ch->thread == t ? ch : NULL;
	}
	pthread_mutex_unlock(&channel_lock);
	return found;
}

static void
visit_one(struct msg *msg)
{
	struct visit *v = CONTAINER_OF(msg, struct visit, msg);
	struct channel *ch = next_of_mine(v->set, &v->set->channels), *next;

	thread_unpin(thread_self());
	for (; ch != NULL; ch = next) {
		next = next_of_mine(v->set, &ch->set_link);
		v->fn(v->ctx, ch);
	}
	visit_next(v);
}

/* Under the channel lock. */
static void
add_thread(struct visit *v, struct thread *t)
{
	for (size_t i = v->count; i-- > 0;) {
		if (v->threads[i] == t) {
			return;
		}
	}
	thread_pin(t);
	v->threads[v->count++] = t;
}

int
channel_set_for_each(struct channel_set *set, void (*fn)(void *ctx, struct channel *ch),
		     void (*done)(void *ctx), void *ctx)
{
	struct channel *ch;
	struct visit *v;
	size_t max = 0;

	CHECK(thread_self() != NULL);
	pthread_mutex_lock(&channel_lock);
	LIST_FOREACH(ch, &set->channels, set_link)
	{
		max++;
	}
	v = malloc(sizeof(*v) + max * sizeof(struct thread *));
	if (v != NULL) {
		*v = (struct visit){.set = set, .fn = fn, .done = done, .ctx = ctx, .origin = thread_self()};
		LIST_FOREACH(ch, &set->channels, set_link)
		{
			add_thread(v, ch->thread);
		}
	}
	pthread_mutex_unlock(&channel_lock);
	if (v == NULL) {
		return -ENOMEM;
	}
	thread_pin(v->origin);
	visit_next(v);
	return 0;
}

int
device_for_each_channel(struct device *dev, void (*fn)(void *ctx, struct channel *ch),
			void (*done)(void *ctx), void *ctx)
{
	CHECK(dev->set == &dev->own);
	return channel_set_for_each(&dev->own, fn, done, ctx);
}

void
channel_for_each_of_thread(void (*fn)(void *ctx, const struct channel *ch), void *ctx)
{
	struct channel *ch;

	LIST_FOREACH(ch, &thread_self()->channels, thread_link)
	{
		fn(ctx, ch);
	}
}
