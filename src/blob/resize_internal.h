/* SPDX-License-Identifier: BSD-3-Clause */
/* What resize.c and resize_fresh.c share. */
#ifndef BLOB_RESIZE_INTERNAL_H
#define BLOB_RESIZE_INTERNAL_H

#include "blob/internal.h"

#define RESIZE_FILL_EXTENTS 64u /* of one write */

struct resize {
	struct md_op op;
	struct md_persist persist;
	struct blob_wait wait;
	struct blob *blob;
	bool gated;
	/* resize_fresh.c: extents behind those of a blob of had_clusters. */
	struct blob_extent **fresh;
	uint64_t num_fresh, next_fresh;
	uint64_t had_clusters;
	struct md_tx fresh_pages;
	struct blob_map *old, *map;
	struct reap *reap;
	uint64_t num_clusters;
	uint64_t shared;   /* extents that both maps have */
	uint64_t next;     /* extent to be filled */
	uint64_t fill_end; /* those from here on are, or stay empty */
	uint64_t reserved; /* clusters that were not taken yet */
	uint64_t added, removed; /* clusters of the blob */
	uint64_t zero_at;  /* cluster; from which on zeroes are to be written */
	struct store_io *zero;
	blob_done_fn done;
	void *ctx;
	struct err err;
};

/* ---- resize.c ---- */

/* Inside the operation: it has ended, one way or the other. */
void resize_answer(struct resize *r, int status);
/* Inside the operation, which ends: the rest happens under the gate. */
void resize_close_gate(struct resize *r);
/* 0, or -ENOSPC and r->err. */
int resize_reserve(struct resize *r, uint64_t needed);

static inline uint64_t
resize_extents(uint64_t clusters)
{
	return (clusters + BLOB_EXTENT_CLUSTERS - 1) / BLOB_EXTENT_CLUSTERS;
}

/* ---- resize_fresh.c ---- */

/* Inside the operation: of a thick blob that grows past its last extent. resize_close_gate() follows, or resize_answer(). */
void resize_start_fresh(struct resize *r);
/* What was allocated beforehand becomes part of the new map. */
void resize_take_fresh(struct resize *r);
/* Gives back what was allocated beforehand, and what was reserved for it; if there is something. */
void resize_drop_fresh(struct resize *r);

#endif
