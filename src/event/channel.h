/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Devices and channels. A device is shared by all threads; a channel is one thread's own handle on it
 * (queues, counters, caches), made when the thread first asks and shared by everyone on that thread.
 */
#ifndef EVENT_CHANNEL_H
#define EVENT_CHANNEL_H

#include <stddef.h>

#include "base/list.h"
#include "event/thread.h"

struct channel;
struct device;

struct device_ops {
	/* On the channel's thread. The channel's memory is zeroed. 0 or a negative errno. */
	int (*channel_create)(struct device *dev, struct channel *ch);
	void (*channel_destroy)(struct device *dev, struct channel *ch);

	/*
	 * Both, or neither: for channels with something that belongs to the system thread (an io_uring).
	 * leave: the thread is about to move. Brings the channel to a state that another system thread can go on from, and calls
	 * channel_left(ch), perhaps at once; until channel_arrive what is asked of the channel waits.
	 * arrive: on the system thread that runs it now; 0, or a negative errno: the thread goes back, and arrive is called
	 * there, where it may not fail.
	 */
	void (*channel_leave)(struct device *dev, struct channel *ch);
	int (*channel_arrive)(struct device *dev, struct channel *ch);
};

/* The channels of several devices, to be visited together. Fields are private. */
struct channel_set {
	struct list channels; /* of all threads, under the channel lock */
};

/* Embedded in what it makes shareable. Fields are private. */
struct device {
	const char *name;
	const struct device_ops *ops;
	size_t channel_size; /* bytes of the structure that starts with struct channel */
	struct list channels; /* of all threads, under the channel lock */
	struct channel_set *set;
	struct channel_set own; /* set, when it shares none */
};

/* First member of a module's own channel structure. */
struct channel {
	struct device *dev;
	struct thread *thread;
	unsigned refs;
	enum { CHANNEL_HERE, CHANNEL_LEAVING, CHANNEL_LEFT } travel;
	struct list dev_link;
	struct list set_link;
	struct list thread_link;
};

/* Initialises a device that lives as long as the process. */
#define DEVICE_STATIC(var, device_name, device_ops_ptr, size) \
	{ \
		.name = (device_name), .ops = (device_ops_ptr), .channel_size = (size), \
		.channels = {&(var).channels, &(var).channels}, .set = &(var).own, \
		.own = {{&(var).own.channels, &(var).own.channels}}, \
	}

/* name: borrowed until device_unregister; for thread_get_io_channels. */
void device_register(struct device *dev, const char *name, const struct device_ops *ops, size_t channel_size);

void channel_set_init(struct channel_set *set);
/* The device's channels belong to set, which must outlive them. */
void device_register_in(struct device *dev, const char *name, const struct device_ops *ops, size_t channel_size,
			struct channel_set *set);

/* All channels must have been put. */
void device_unregister(struct device *dev);

/* This thread's channel on dev, made if need be; each get is answered by a put on the same thread.
 * NULL when channel_create failed: its error in *ret_rc (may be NULL). */
struct channel *channel_get(struct device *dev, int *ret_rc);
void channel_put(struct channel *ch); /* accepts NULL */

/* Answers channel_leave, once. */
void channel_left(struct channel *ch);

/*
 * Calls fn(ctx, ch) on the thread of each channel that dev has now, one after another; then done(ctx) on
 * the calling thread. Channels and threads may come and go meanwhile: a channel made later is not visited. dev
 * must live until done. 0 or -ENOMEM.
 */
int device_for_each_channel(struct device *dev, void (*fn)(void *ctx, struct channel *ch),
			    void (*done)(void *ctx), void *ctx);

/* The same for all devices of a set, with one message a thread, not a channel; devices may come and go meanwhile
 * too. set must live until done. fn may put ch, and no other channel of the set. */
int channel_set_for_each(struct channel_set *set, void (*fn)(void *ctx, struct channel *ch),
			 void (*done)(void *ctx), void *ctx);

/* On a thread: its channels, for thread_get_io_channels. */
void channel_for_each_of_thread(void (*fn)(void *ctx, const struct channel *ch), void *ctx);

#endif
