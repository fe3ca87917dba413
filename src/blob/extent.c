/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What blobs consist of: runs of clusters that are alike, for block status and for what has changed between snapshots. Reads
 * maps only; what it meets lives until this thread's turn is over, since a grace period asks this thread, too. A cluster that
 * is being allocated is not there yet.
 * Contexts: the owner, or the thread of a channel of the blob.
 */
#include "blob/internal.h"

/* Most maps one call looks into, of all blobs of a chain together: answers may be shorter than the run. Whoever asks, over
 * NBD perhaps, does not hold up the thread with a long chain. */
#define LOOK_MAX 16384u

static bool
has(const struct blob *blob, uint64_t cluster)
{
	uint32_t entry = blob_map_entry(&blob->head, cluster);

	return entry != 0 && entry != BLOB_CLUSTER_BUSY;
}

/* Whoever has it: a blob from `blob` down to, but without, `end`; *ret_below: what is below the last one looked at; *ret_cut:
 * one above `end` is too short for it, so that what `end` has there is not to be seen. Counts in *looks how many it looked at. */
static const struct blob *
owner_of(const struct blob *blob, const struct blob *end, uint64_t cluster, uintptr_t *ret_below, bool *ret_cut, uint64_t *looks)
{
	*ret_cut = false;
	for (;;) {
		const struct blob *parent;

		(*looks)++;
		*ret_below = blob_below(blob);
		if (has(blob, cluster)) {
			return blob;
		}
		if (blob_below(blob) != *ret_below) {
			continue; /* a snapshot was taken in between: its clusters are found below now */
		}
		parent = below_parent(*ret_below);
		/* What a parent has beyond its end is not to be seen, nor is what lies below that. */
		if (parent == NULL || parent == end || cluster >= blob_num_clusters(parent)) {
			*ret_cut = parent != NULL && parent != end;
			*ret_below = parent == NULL ? *ret_below : 0;
			return NULL;
		}
		blob = parent;
	}
}

static uint32_t
look(const struct blob *blob, uint64_t cluster, uint64_t *looks)
{
	uintptr_t below;
	bool cut;
	const struct blob *owner = owner_of(blob, NULL, cluster, &below, &cut, looks);

	if (owner != NULL) {
		return owner == blob ? BLOB_EXTENT_ALLOCATED : 0;
	}
	if (below_external(below) == NULL ||
	    cluster * blob->store->super.cluster_bytes >= external_bytes(below_external(below))) {
		return BLOB_EXTENT_ZERO;
	}
	return 0;
}

static uint32_t
look_since(const struct blob *blob, const struct blob *since, uint64_t cluster, uint64_t *looks)
{
	uintptr_t below;
	bool cut;
	uint32_t flags = look(blob, cluster, looks);

	if (since == NULL) {
		return flags | ((flags & BLOB_EXTENT_ZERO) == 0 ? BLOB_EXTENT_CHANGED : 0);
	}
	if (owner_of(blob, since, cluster, &below, &cut, looks) != NULL || (cut && cluster < blob_num_clusters(since))) {
		flags |= BLOB_EXTENT_CHANGED;
	}
	return flags;
}

uint64_t
blob_extent(const struct blob *blob, uint64_t cluster, uint32_t *ret_flags)
{
	uint64_t end = blob_num_clusters(blob), i = cluster + 1, looks = 0;
	uint32_t flags = look(blob, cluster, &looks);

	while (i < end && looks < LOOK_MAX && look(blob, i, &looks) == flags) {
		i++;
	}
	*ret_flags = flags;
	return i - cluster;
}

static uint32_t
look_diff(const struct blob *blob, const struct blob *since, uint64_t cluster, uint64_t *looks)
{
	return since == blob ? look(blob, cluster, looks) : look_since(blob, since, cluster, looks);
}

uint64_t
blob_diff(const struct blob *blob, const struct blob *since, uint64_t cluster, uint32_t *ret_flags)
{
	uint64_t end = blob_num_clusters(blob), i = cluster + 1, looks = 0;
	const struct blob *at = blob;
	uint32_t flags;

	while (since != NULL && at != since) {
		at = below_parent(blob_below(at));
		if (at == NULL) {
			return 0;
		}
	}
	flags = look_diff(blob, since, cluster, &looks);
	while (i < end && looks < LOOK_MAX && look_diff(blob, since, i, &looks) == flags) {
		i++;
	}
	*ret_flags = flags;
	return i - cluster;
}
