/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Logical volumes: stores of them on bdevs, and each volume a bdev. Binds the blobstore (blob/blob.h) to the block layer, and
 * gives its blobs names.
 *
 * On disk a store is a blobstore of type "LVOLSTORE" whose super blob has the xattrs "uuid" and "name"; a volume is a
 * blob with the same two. A volume's bdev is named after its UUID (or "<store's UUID>_<blob id>" when it has no valid
 * one), and has the alias "store/volume". Snapshots that were deleted and stay for their clones are named
 * ".deleted-<uuid>" there; they have no bdev, and are nobody's volume here.
 *
 * Context: the app thread, for all functions here. What changes something is asynchronous: done comes once, on the
 * app thread, never from inside the call, when the change is on stable storage and the bdevs are as they shall be;
 * err says which thing is wrong and is borrowed during the call. done may be NULL. Strings are copied. (Without any
 * memory: at once, -ENOMEM.)
 *
 * Errors, besides those of blob/blob.h: -EINVAL (a name that is empty, longer than LVOL_NAME_BYTES - 1, has a slash
 * or is reserved); -EEXIST (a name that is taken, also by one that is being made at this moment); -ENODEV (the store,
 * or the volume, is on its way out); what bdev_open() and bdev_claim() say.
 */
#ifndef LVOL_LVOL_H
#define LVOL_LVOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uuid/uuid.h>

#include "base/err.h"
#include "bdev/module.h"
#include "blob/blob.h"

struct lvol;
struct lvol_store;

#define LVOL_NAME_BYTES 64  /* with its end */
#define LVOL_ID_BYTES 64    /* "<uuid>" or "<uuid>_<blob id>", with its end */
#define LVOL_ALIAS_BYTES (2 * LVOL_NAME_BYTES)
#define LVOL_TYPE "LVOLSTORE"
#define LVOL_LOW_PERCENT_DEFAULT 10

typedef void (*lvol_done_fn)(void *ctx, int status, const struct err *err);
typedef void (*lvol_store_made_fn)(void *ctx, struct lvol_store *store, int status, const struct err *err);
typedef void (*lvol_made_fn)(void *ctx, struct lvol *lvol, int status, const struct err *err);

/* ---- Stores ---- */

struct lvol_store_options {
	const char *base_name; /* name, alias or UUID of a bdev */
	const char *name;
	uuid_t uuid;            /* all zero: a new one */
	uint32_t cluster_bytes; /* 0: BLOB_CLUSTER_BYTES_DEFAULT */
	uint32_t md_ratio;      /* metadata pages for a hundred clusters, 0: chosen by their number */
	uint32_t md_page_bytes; /* 0: 4096; a power of two from 4096 to 65536 */
	enum blob_clear clear;  /* of the base; BLOB_CLEAR_DEFAULT: unmap */
	bool overwrite; /* a store that is there, but is not loaded, may go; else -EEXIST */
};

/* The base is claimed before anything is written. -EPERM: somebody else has it, or a store stands on it; -EROFS;
 * -ENODEV: no such * bdev; -EINVAL: sizes; -EOPNOTSUPP: a zoned base, or one with metadata. */
void lvol_store_create(const struct lvol_store_options *options, lvol_store_made_fn done, void *ctx);

/*
 * Loads the store on a bdev, and registers its volumes: what the examination does with every bdev that comes, for when it was
 * not asked to (bdev_examine() does it, too), or failed. -EEXIST: a store of that name or UUID is there, -EILSEQ: damaged;
 * -EINVAL: there is none.
 */
void lvol_store_load(const char *base_name, lvol_store_made_fn done, void *ctx);

void lvol_store_rename(struct lvol_store *store, const char *name, lvol_done_fn done, void *ctx);
/* The store takes up what its base has grown by. -ENOSPC: nothing, or its metadata has no room for more. */
void lvol_store_grow(struct lvol_store *store, lvol_done_fn done, void *ctx);
/* Volumes' bdevs go (users are told), the store is closed clean and stays on the base. */
void lvol_store_unload(struct lvol_store *store, lvol_done_fn done, void *ctx);
/* The volumes go, too, and the super block: all data is lost. */
void lvol_store_destroy(struct lvol_store *store, lvol_done_fn done, void *ctx);

/*
 * What becomes of writes that find no free cluster: -ENOSPC, or, with pause, they wait until there are some.
 * low_percent: a notice is sent when fewer of the data clusters are free; 0: never. Kept in the store.
 */
void lvol_store_set_limits(struct lvol_store *store, unsigned low_percent, bool pause, lvol_done_fn done, void *ctx);

/* By name or UUID; those on their way in or out are not found. */
struct lvol_store *lvol_store_find(const char *name);
struct lvol_store *lvol_store_find_name(const char *name);
struct lvol_store *lvol_store_find_uuid(const char *uuid);
/* In the order they came; NULL for the first, NULL at the end. */
struct lvol_store *lvol_store_next(struct lvol_store *store);
/* The store that stands on a bdev, NULL: none. */
struct lvol_store *lvol_store_on(const struct bdev *base);

struct lvol_store_info {
	const char *name; /* borrowed until it changes */
	uuid_t uuid;
	const char *base_name;
	uint64_t max_growable_bytes; /* to which its metadata lets it grow */
	unsigned low_percent;
	bool pause_when_full;
	unsigned volumes; /* hidden ones not counted */
	struct blob_store_info blob; /* clusters, sizes, states */
};
void lvol_store_get_info(struct lvol_store *store, struct lvol_store_info *ret_info);
const char *lvol_store_name(const struct lvol_store *store);
void lvol_store_uuid(const struct lvol_store *store, uuid_t ret_uuid);
/* done(ctx, 0, NULL) when no background work is under way: merging, freeing. */
void lvol_store_wait_idle(struct lvol_store *store, lvol_done_fn done, void *ctx);

/* ---- Volumes: finding ---- */

/* By the name, alias or UUID of the bdev; also one that is degraded and has none. NULL: no such volume. */
struct lvol *lvol_find(const char *name);
struct lvol *lvol_find_in(struct lvol_store *store, const char *volume_name);
struct lvol *lvol_of_bdev(const struct bdev *bdev);
/* The same of one that stands on a volume and tells its changes (bdev_tells_changes()): encrypted volumes, partitions, ... */
struct lvol *lvol_below(const struct bdev *bdev);
/* In the order they came; NULL for the first, NULL at the end. */
struct lvol *lvol_next(struct lvol_store *store, struct lvol *lvol);

const char *lvol_name(const struct lvol *lvol);
const char *lvol_id(const struct lvol *lvol); /* its bdev's name */
struct lvol_store *lvol_store_of(const struct lvol *lvol);
/* NULL: degraded, or on its way in or out. */
struct bdev *lvol_bdev(struct lvol *lvol);

struct lvol_info {
	const char *name; /* strings are borrowed until something changes */
	const char *id;   /* UUID, or what stands for it */
	char alias[LVOL_ALIAS_BYTES];
	struct lvol_store *store;
	const char *base_name; /* of the store */
	uint64_t blob_id;
	uint64_t num_clusters;
	uint64_t allocated_clusters;
	uint64_t bytes;
	enum blob_clear clear;
	bool thin;
	bool readonly;
	bool snapshot;
	bool clone;
	bool external_clone; /* of a bdev */
	bool degraded;       /* an external snapshot below it is missing: there is no bdev */
	bool damaged;        /* it cannot be opened, see damage: there is no bdev */
	struct lvol *parent; /* the nearest snapshot below it that was not deleted, NULL: none */
	const char *external_name; /* the UUID of its external snapshot, NULL: none */
};
void lvol_get_info(struct lvol *lvol, struct lvol_info *ret_info);
/* The reason it cannot be opened, borrowed; NULL: it can. */
const struct err *lvol_damage(const struct lvol *lvol);
/* Those whose parent it is, as struct lvol_info has it: the one after clone, the first for NULL. */
struct lvol *lvol_next_clone(struct lvol *lvol, struct lvol *clone);

/* ---- Volumes: changing ---- */

struct lvol_options {
	const char *name;
	uint64_t bytes; /* rounded up to clusters */
	bool thin;
	enum blob_clear clear;
	uuid_t uuid; /* all zero: a new one */
	uuid_t origin; /* lvol_set_origin(), from the beginning; all zero: nobody's */
};
void lvol_create(struct lvol_store *store, const struct lvol_options *options, lvol_made_fn done, void *ctx);

void lvol_snapshot(struct lvol *lvol, const char *name, lvol_made_fn done, void *ctx);

struct lvol_group_member {
	struct lvol *lvol;
	const char *name;      /* of its snapshot */
	struct lvol *snapshot; /* on success */
};
/* All at one instant, whole or not at all. Of one store (-EXDEV), each once (-EINVAL), at least one. members is
 * borrowed until * done. */
void lvol_snapshot_group(struct lvol_group_member *members, unsigned count, lvol_done_fn done, void *ctx);

/* -EINVAL: not read-only. */
void lvol_clone(struct lvol *snapshot, const char *name, lvol_made_fn done, void *ctx);
/* A volume that reads what it has not itself from a bdev, which nobody may write to from then on. -EINVAL: its size
 * is no multiple of the * clusters', or it is a volume of the same store; -EPERM: somebody writes to it. */
void lvol_clone_bdev(struct lvol_store *store, const char *bdev_name, const char *name, lvol_made_fn done, void *ctx);

void lvol_rename(struct lvol *lvol, const char *name, lvol_done_fn done, void *ctx);
/* Rounded up to clusters. -EBUSY: smaller, and somebody has it open. */
void lvol_resize(struct lvol *lvol, uint64_t bytes, lvol_done_fn done, void *ctx);
void lvol_set_read_only(struct lvol *lvol, lvol_done_fn done, void *ctx);
/* Its bdev goes (users are told, and done waits for them to let go). Snapshots with clones, too. */
void lvol_delete(struct lvol *lvol, lvol_done_fn done, void *ctx);
/* Long work, seen as a job (event/job.h) "lvol_inflate", "lvol_decouple", which may cancel it. */
void lvol_inflate(struct lvol *lvol, lvol_done_fn done, void *ctx);
void lvol_decouple(struct lvol *lvol, lvol_done_fn done, void *ctx);
/* -EEXIST: it is the parent already; -EINVAL: not a snapshot, another size, or of another store. */
void lvol_set_parent(struct lvol *lvol, struct lvol *snapshot, lvol_done_fn done, void *ctx);
void lvol_set_parent_bdev(struct lvol *lvol, const char *bdev_name, lvol_done_fn done, void *ctx);

/*
 * Copies the clusters that a read-only volume has itself to a bdev, which is claimed for as long; a job
 * "lvol_shallow_copy", too. *ret_id: for the check. 0; -EPERM (not read-only, or the bdev is claimed); -EINVAL (it is
 * smaller, or has other blocks).
 */
int lvol_shallow_copy_start(struct lvol *lvol, const char *bdev_name, uint32_t *ret_id, struct err *err);
struct lvol_copy_status {
	uint64_t copied_clusters;
	uint64_t total_clusters;
	bool ended;
	int status; /* once ended */
};
/* 0, -ENODEV. Once it was answered that a copy has ended it is forgotten. */
int lvol_shallow_copy_check(uint32_t id, struct lvol_copy_status *ret_status);

/*
 * What the volume consists of, from block lba on, and where it may differ from `since`, a snapshot below it
 * (BDEV_EXTENT_CHANGED); since NULL: from nothing, what is allocated in it or below. extents follow one another;
 * *ret_count: how many, at least 1 before the end, at most max. 0; -EINVAL: since is not below it; -ERANGE: lba.
 */
int lvol_extents(struct lvol *lvol, struct lvol *since, uint64_t lba, struct bdev_extent *extents, unsigned max,
		 unsigned *ret_count, struct err *err);

/* The snapshot of another store, by its UUID, whose contents a volume has: the xattr "berth.origin". False: nobody said. */
#define LVOL_XATTR_ORIGIN "berth.origin"
void lvol_set_origin(struct lvol *lvol, const uuid_t origin, lvol_done_fn done, void *ctx);
/* With what is made, or renamed, in one commit: it is never there without, or the other way round. */
void lvol_snapshot_with_origin(struct lvol *lvol, const char *name, const uuid_t origin, lvol_made_fn done, void *ctx);
void lvol_clone_with_origin(struct lvol *snapshot, const char *name, const uuid_t origin, lvol_made_fn done, void *ctx);
void lvol_rename_with_origin(struct lvol *lvol, const char *name, const uuid_t origin, lvol_done_fn done, void *ctx);
bool lvol_origin(const struct lvol *lvol, uuid_t ret_origin);

/* ---- The process ---- */

/* Finds stores on bdevs. Of the table in app/daemon.c. */
extern const struct bdev_examiner lvol_examiner;

/* Volumes' bdevs go and all stores are unloaded clean; done(ctx), perhaps at once. After those that use volumes, before
 * bdev_shutdown(). No store comes afterwards. */
void lvol_shutdown(void (*done)(void *ctx), void *ctx);

#endif
