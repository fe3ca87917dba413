/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of bdevs/remote; never leaves it. */
#ifndef BDEVS_REMOTE_INTERNAL_H
#define BDEVS_REMOTE_INTERNAL_H

#include "bdevs/remote/remote.h"

/* A bdev channel's; several of a thread share the thread's remote_channel. */
struct bdev_channel_ctx {
	struct remote_channel *c;
	/* Written by the channel's thread: counts how often it was cancelled. */
	atomic_uint epoch;
};

/* ---- channel.c (the channel's thread) ---- */

extern const struct device_ops remote_channel_ops;
/* Brings a channel in line with what the disk has now: connection, failure. */
void remote_channel_sync(void *ctx, struct channel *ch);
/* Ends what was cancelled of the requests that are here: at once, or when patience does. */
void remote_channel_cancel(struct remote_channel *c);

/* ---- disk.c (the app thread) ---- */

/* Sent by the first lane that broke. */
void remote_disk_broken(struct msg *msg);
/* Sent by a lane that has news. */
void remote_disk_news(struct msg *msg);
/* Sent by a channel that was cancelled: some of its requests may be the app thread's. */
void remote_disk_cancelled(struct msg *msg);

#endif
