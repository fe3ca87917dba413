/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One user at a time of a stripe, across threads. Who comes second waits in line and is told by a
 * message; uncontended it is one mutex of many, held for a few instructions.
 * Context: any thread.
 */
#include <stdlib.h>

#include "bdevs/raid/stripe_lock.h"

#define BUCKETS 256

struct bucket {
	_Alignas(CACHE_LINE_BYTES) pthread_mutex_t mutex;
	struct list held;
};

struct stripe_lock_table {
	struct bucket buckets[BUCKETS];
};

struct stripe_lock_table *
stripe_lock_table_create(void)
{
	struct stripe_lock_table *t = aligned_alloc(CACHE_LINE_BYTES, sizeof(*t));

	for (unsigned i = 0; t != NULL && i < BUCKETS; i++) {
		pthread_mutex_init(&t->buckets[i].mutex, NULL);
		list_init(&t->buckets[i].held);
	}
	return t;
}

void
stripe_lock_table_free(struct stripe_lock_table *t)
{
	for (unsigned i = 0; t != NULL && i < BUCKETS; i++) {
		CHECK(list_empty(&t->buckets[i].held));
		pthread_mutex_destroy(&t->buckets[i].mutex);
	}
	free(t);
}

static struct bucket *
bucket_of(struct stripe_lock_table *t, uint64_t stripe)
{
	return &t->buckets[stripe % BUCKETS];
}

bool
stripe_lock(struct stripe_lock_table *t, struct stripe_lock *l, uint64_t stripe,
	    void (*granted)(struct stripe_lock *l))
{
	struct bucket *b = bucket_of(t, stripe);
	struct stripe_lock *holder;
	bool have = true;

	l->stripe = stripe;
	l->granted = granted;
	l->thread = thread_self();
	list_init(&l->waiting);
	pthread_mutex_lock(&b->mutex);
	LIST_FOREACH (holder, &b->held, link) {
		if (holder->stripe == stripe) {
			list_append(&holder->waiting, &l->link);
			have = false;
			break;
		}
	}
	if (have) {
		list_append(&b->held, &l->link);
	}
	pthread_mutex_unlock(&b->mutex);
	return have;
}

static void
tell(struct msg *msg)
{
	struct stripe_lock *l = CONTAINER_OF(msg, struct stripe_lock, msg);

	l->granted(l);
}

void
stripe_unlock(struct stripe_lock_table *t, struct stripe_lock *l)
{
	struct bucket *b = bucket_of(t, l->stripe);
	struct stripe_lock *next = NULL;

	pthread_mutex_lock(&b->mutex);
	list_remove(&l->link);
	if (!list_empty(&l->waiting)) {
		next = LIST_FIRST(&l->waiting, struct stripe_lock, link);
		list_remove(&next->link);
		list_splice(&next->waiting, &l->waiting);
		list_append(&b->held, &next->link);
	}
	pthread_mutex_unlock(&b->mutex);
	if (next != NULL) {
		thread_send(next->thread, &next->msg, tell);
	}
}
