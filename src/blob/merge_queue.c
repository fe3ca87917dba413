/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which merge has its turn, and when those that could not go on are tried again. One at a time, in the order they came.
 *
 * What cannot go on rests until merge_kick(). One that waits for others (a clone that is busy, an external snapshot that is
 * missing) does no more than that; one that lacks clusters goes on with merge_space(), too; and what failed, for whatever reason,
 * is tried again by itself, after a second, then twice as long each time, at most a minute. What was taken up is not written
 * anywhere: a deleted snapshot with one clone is taken up again when the store is loaded.
 *
 * Invariants
 *  1. The timer runs only while something has failed: a store at rest wakes nobody.
 *  2. One that rests has nothing prepared: its pages may be what others lack, and the masks of a store that is left have none.
 *
 * Context: the owner.
 */
#include <errno.h>
#include <stdlib.h>

#include "blob/merge_internal.h"

#define AGAIN_MIN_S 1u     /* after a failure */
#define AGAIN_MAX_S 60u

struct blob_merges {
	struct blob_store *store;
	struct list all;
	struct merge *active;
	unsigned failing; /* of all */
	bool lost;        /* there was no memory for one */
	struct timer again;
	bool timing; /* it runs */
	unsigned delay_s;
};

/* ---- Turns ---- */

static void
take_up(struct blob_store *store)
{
	struct blob_merges *merges = store->merges;
	struct merge *m;

	if (merges->active != NULL || md_op_refused(store, NULL) != 0) {
		return;
	}
	LIST_FOREACH(m, &merges->all, link) {
		if (m->resting == 0) {
			merges->active = m;
			store_background_begin(store);
			md_op_start(store, &m->op, "merge", merge_run);
			return;
		}
	}
}

static void
find_lost(struct blob_merges *merges)
{
	struct blob *blob;

	merges->lost = false;
	LIST_FOREACH(blob, &merges->store->blobs, link) {
		if (blob->deleted && blob->damage.code == 0) {
			merge_consider(blob);
		}
	}
}

static void
wake_all(struct blob_store *store)
{
	struct blob_merges *merges = store->merges;
	struct merge *m;

	if (merges->lost) {
		find_lost(merges);
	}
	LIST_FOREACH(m, &merges->all, link) {
		m->resting = 0;
	}
	take_up(store);
}

static void
try_again(struct timer *timer)
{
	struct blob_merges *merges = CONTAINER_OF(timer, struct blob_merges, again);

	merges->timing = false;
	wake_all(merges->store);
}

/* Without memory for a timer: with the next change. */
static void
start_timer(struct blob_merges *merges)
{
	if (!merges->timing && timer_start(&merges->again, merges->delay_s * UINT64_C(1000000), try_again) == 0) {
		merges->timing = true;
		merges->delay_s = MIN(merges->delay_s * 2, AGAIN_MAX_S);
	}
}

static void
note_failure(struct merge *m)
{
	struct blob_merges *merges = m->store->merges;

	start_timer(merges);
	if (!m->failing) {
		m->failing = true;
		if (merges->failing++ == 0) {
			store_event(m->store, BLOB_STORE_STALLED);
		}
	}
}

static void
note_end(struct merge *m)
{
	struct blob_merges *merges = m->store->merges;

	if (m->failing && --merges->failing == 0) {
		merges->delay_s = AGAIN_MIN_S;
		store_event(m->store, BLOB_STORE_STALLED_ENDS);
	}
	if (merges->failing == 0 && !merges->lost && merges->timing) {
		merges->timing = false;
		timer_stop(&merges->again);
	}
}

static void
free_merge(struct merge *m)
{
	merge_drop_prepared(m);
	list_remove(&m->link);
	free(m);
}

void
merge_step_back(struct merge *m, int status)
{
	struct blob_store *store = m->store;

	store->merges->active = NULL;
	m->resting = status;
	if (status == 0) {
		note_end(m);
		free_merge(m);
	} else {
		merge_drop_prepared(m); /* pages that others may need, or that must not be in the masks */
		if (status != -EBUSY) {
			note_failure(m);
		}
	}
	take_up(store);
	store_background_end(store);
}

static struct merge *
find(const struct blob_store *store, const struct blob *snapshot)
{
	struct merge *m;

	LIST_FOREACH(m, &store->merges->all, link) {
		if (m->snapshot == snapshot) {
			return m;
		}
	}
	return NULL;
}

bool
merge_has_several_clones(const struct blob *snapshot)
{
	return !list_empty(&snapshot->clones) && snapshot->clones.next != snapshot->clones.prev;
}

void
merge_consider(struct blob *snapshot)
{
	struct blob_store *store = snapshot->store;
	struct merge *m;

	if (!snapshot->deleted || snapshot->gone || merge_has_several_clones(snapshot) || md_op_refused(store, NULL) != 0) {
		return;
	}
	m = find(store, snapshot);
	if (m == NULL) {
		m = calloc(1, sizeof(*m));
		if (m == NULL) {
			store->merges->lost = true;
			start_timer(store->merges);
			return;
		}
		m->store = store;
		m->snapshot = snapshot;
		list_append(&store->merges->all, &m->link);
	}
	m->resting = 0;
	take_up(store);
}

void
merge_kick(struct blob_store *store)
{
	wake_all(store);
}

void
merge_space(struct blob_store *store)
{
	struct merge *m;

	LIST_FOREACH(m, &store->merges->all, link) {
		if (m->resting == -ENOSPC) {
			m->resting = 0;
		}
	}
	take_up(store);
}

void
merge_disturb(struct blob *blob)
{
	struct merge *m;

	LIST_FOREACH(m, &blob->store->merges->all, link) {
		if (m->snapshot == blob || m->clone == blob) {
			m->restart = true;
		}
	}
}

int
merge_init(struct blob_store *store)
{
	struct blob_merges *merges = calloc(1, sizeof(*merges));

	if (merges == NULL) {
		return -ENOMEM;
	}
	merges->store = store;
	merges->delay_s = AGAIN_MIN_S;
	list_init(&merges->all);
	store->merges = merges;
	return 0;
}

void
merge_stop(struct blob_store *store)
{
	struct merge *m = store->merges->active;

	if (m != NULL && m->touch != NULL) {
		blob_channel_cancel(&m->ch, -ECANCELED);
	}
}

void
merge_release(struct blob_store *store)
{
	struct blob_merges *merges = store->merges;

	if (merges == NULL) {
		return;
	}
	CHECK(merges->active == NULL);
	timer_stop(&merges->again);
	while (!list_empty(&merges->all)) {
		free_merge(LIST_FIRST(&merges->all, struct merge, link));
	}
	free(merges);
	store->merges = NULL;
}
