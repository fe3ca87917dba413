/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of bdevs/remote; never leaves it. */
#ifndef BDEVS_REMOTE_INTERNAL_H
#define BDEVS_REMOTE_INTERNAL_H

#include "bdevs/remote/remote.h"

/* ---- channel.c (the channel's thread) ---- */

extern const struct device_ops remote_channel_ops;
/* Brings a channel in line with what the disk has now: connection, failure. */
void remote_channel_sync(void *ctx, struct channel *ch);

/* ---- disk.c (the app thread) ---- */

/* Sent by the first lane that broke. */
void remote_disk_broken(struct msg *msg);
/* Sent by a lane that has news. */
void remote_disk_news(struct msg *msg);

#endif
