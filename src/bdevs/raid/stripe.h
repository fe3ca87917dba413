/* SPDX-License-Identifier: BSD-3-Clause */
/* Stripes of a raid5f: where things are, and requests on them. Never leaves this folder. */
#ifndef BDEVS_RAID_STRIPE_H
#define BDEVS_RAID_STRIPE_H

#include "bdevs/raid/internal.h"

/* Slot of a stripe's parity. */
static inline unsigned
stripe_parity_slot(const struct raid *raid, uint64_t stripe)
{
	return raid->num_bases - 1 - (unsigned)(stripe % raid->num_bases);
}

/* Slot of a stripe's data strip number `strip`. */
static inline unsigned
stripe_data_slot(unsigned strip, unsigned parity)
{
	return strip < parity ? strip : strip + 1;
}

static inline bool
stripe_readable(const struct raid_channel *rc, unsigned slot)
{
	return rc->slots[slot].role == ROLE_MEMBER && rc->slots[slot].ch != NULL;
}

/* A read whose strips cannot all be read, or a write; of one stripe. Waits its turn, ends it. */
void stripe_submit(struct raid_channel *rc, struct bdev_io *io);
/* Ends writes whose bases are out by now. */
void stripe_release_held(struct raid_channel *rc);
/* raid_level_ops.end_waiting: of what waits for a stripe request. */
bool stripe_end_waiting(struct raid_channel *rc, const struct raid_io *only, int status);
int stripe_channel_init(struct raid_channel *rc);
void stripe_channel_release(struct raid_channel *rc);

#endif
