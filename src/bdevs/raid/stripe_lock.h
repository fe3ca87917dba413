/* SPDX-License-Identifier: BSD-3-Clause */
/* Locks on the stripes of a raid5f; any thread. */
#ifndef BDEVS_RAID_STRIPE_LOCK_H
#define BDEVS_RAID_STRIPE_LOCK_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/list.h"
#include "event/thread.h"

struct stripe_lock_table;

/* In the user's memory from stripe_lock() to stripe_unlock(). */
struct stripe_lock {
	uint64_t stripe;
	struct thread *thread;
	void (*granted)(struct stripe_lock *l);
	struct list link;    /* held, or waiting for the holder */
	struct list waiting; /* for this one */
	struct msg msg;
};

/* NULL: no memory. */
struct stripe_lock_table *stripe_lock_table_create(void);
void stripe_lock_table_free(struct stripe_lock_table *t); /* accepts NULL */

/* True: it is the caller's. False: granted(l) follows on this thread. */
bool stripe_lock(struct stripe_lock_table *t, struct stripe_lock *l, uint64_t stripe,
		 void (*granted)(struct stripe_lock *l));
void stripe_unlock(struct stripe_lock_table *t, struct stripe_lock *l);

#endif
