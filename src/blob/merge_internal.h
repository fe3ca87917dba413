/* SPDX-License-Identifier: BSD-3-Clause */
/* What the files merge*.c share: merge.c has the procedure, merge_queue.c which one has its turn and when, merge_extents.c what
 * the clone's extents will be. */
#ifndef BLOB_MERGE_INTERNAL_H
#define BLOB_MERGE_INTERNAL_H

#include "blob/internal.h"

/* An extent of the clone as it will be. */
struct prepared {
	struct blob_extent *e;          /* its page is claimed */
	const struct blob_extent *from; /* the clone's, as it was; NULL: none */
	uint64_t drop[BLOB_EXTENT_CLUSTERS / 64]; /* the snapshot's clusters that nobody has afterwards */
};

struct merge {
	struct list link;
	struct blob_store *store;
	struct blob *snapshot;
	struct blob *clone; /* the one that `prepared` is for; NULL: none yet */
	struct prepared **prepared;
	uint64_t num_extents; /* of prepared */
	uint64_t next;
	unsigned passes, dirty;
	int resting;  /* 0: to be taken up; -EBUSY: somebody's end, who kicks, is waited for; else how it failed */
	bool failing; /* it has, and was not finished since */
	bool restart, gated;
	struct md_op op;
	struct md_tx pages;
	struct md_persist mark;
	struct md_image image;
	struct md_tx body, commit, end;
	struct volume_erase erase;
	struct blob_map *map; /* the clone's as it will be, for the image */
	struct blob_extent **old; /* the clone's that were replaced */
	uint64_t num_old;
	struct reap *reap;
	struct blob_wait wait;
	struct defer defer;
	/* Clusters that must be there before (merge.c, invariant 2). */
	struct blob_channel ch;
	struct touch *touch;
	uint64_t touch_at;
};

/* ---- merge.c ---- */

/* The active one has its turn. */
void merge_run(struct md_op *op);

/* ---- merge_queue.c ---- */

/* It is not the active one any more; the next. status 0: it has ended; else why it rests. */
void merge_step_back(struct merge *m, int status);
bool merge_has_several_clones(const struct blob *snapshot);

/* ---- merge_extents.c ---- */

/* From the beginning: the clone is another than before, or has changed. -ENOMEM. */
int merge_begin(struct merge *m, struct blob *clone);
/* What was prepared for extent i is not what it must be, or nothing was. */
bool merge_is_dirty(const struct merge *m, uint64_t i);
/* Extent i of the clone as it will be, its page to tx. */
int merge_prepare(struct merge *m, uint64_t i, struct md_tx *tx);
/* Gives back what was prepared. */
void merge_drop_prepared(struct merge *m);
/* All extents are prepared: the clone's map as it will be, and what else must not fail later. */
int merge_make_map(struct merge *m);

#endif
