/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A blobstore: volumes ("blobs") of clusters on one device, thin or thick, with snapshots and clones. Knows blocks, not
 * names: what a blob is called is an xattr of whoever uses the store; only what errors say of a blob has the text of its xattr
 * "name", where it has one, because a person reads it.
 *
 * Contexts. A store belongs to the thread that created or loaded it, its owner: all functions here are called there but
 * those of "I/O", which run on any thread that has a channel. All metadata is read once, when the store is loaded; what
 * only asks answers at once. What changes metadata is asynchronous: done(ctx, status, err) comes once, on the owner,
 * never from inside the call, when the change is on stable storage; err is borrowed during the call and says which thing is
 * wrong. Changes of one store are carried out one after another, in the order they were asked for; long work (inflating,
 * merging, copying, freeing) happens beside them in short pieces.
 *
 * Promises. A change is there whole or not at all, whenever power fails; one that was answered is there. A write that
 * completed survives the end of the process; after a flush, power loss too (docs/blobstore.md says why). What SPDK wrote is
 * opened, what is written here SPDK opens.
 *
 * Errors that any change may bring: -ENOMEM; -EIO and others of the device; -EROFS (the store or its device is read-only,
 * or a write of metadata failed before: nothing is changed any more until the store is loaded again); -ENOSPC (clusters or
 * metadata pages); -EBUSY (another long operation on the blob); -ENODEV (the store is being unloaded).
 *
 * done comes once, never from inside the call; a store has some answers in reserve for those who find no memory. Who makes so
 * many requests in one turn that these, too, are gone (STORE_ANSWERS) gets -ENOMEM from inside.
 */
#ifndef BLOB_BLOB_H
#define BLOB_BLOB_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/err.h"
#include "base/list.h"
#include "blob/dev.h"
#include "blob/format.h"
#include "event/thread.h"

struct blob;
struct blob_store;
struct blob_external;
struct blob_wait;

typedef void (*blob_done_fn)(void *ctx, int status, const struct err *err);
typedef void (*blob_store_done_fn)(void *ctx, struct blob_store *store, int status, const struct err *err);
typedef void (*blob_made_fn)(void *ctx, struct blob *blob, int status, const struct err *err);

/* ---- Stores ---- */

enum blob_clear { /* what becomes of clusters that are given up; the numbers are the format's */
	BLOB_CLEAR_DEFAULT, /* unmap */
	BLOB_CLEAR_NONE,
	BLOB_CLEAR_UNMAP, /* deallocated; what is there then is the device's doing (lvol's: zeroes where the base has them) */
	BLOB_CLEAR_WRITE_ZEROES,
};

#define BLOB_CLUSTER_BYTES_DEFAULT 65536u

enum blob_store_event {
	BLOB_STORE_LOW,     /* free clusters fell below the watermark; once, until they rise above it again */
	BLOB_STORE_LOW_ENDS,
	BLOB_STORE_FULL,    /* a write found no free cluster; once, until there are some */
	BLOB_STORE_FULL_ENDS,
	BLOB_STORE_STALLED, /* what becomes of deleted snapshots failed, and is tried again; once, until nothing fails any more */
	BLOB_STORE_STALLED_ENDS,
	BLOB_STORE_BROKEN,  /* a write of metadata failed: nothing is changed any more */
};

struct blob_store_options {
	char type[BLOB_TYPE_BYTES]; /* load: "" accepts any */
	uint32_t cluster_bytes;     /* creation, 0: BLOB_CLUSTER_BYTES_DEFAULT */
	uint32_t md_page_bytes;     /* creation, 0: 4096 */
	uint32_t md_pages;          /* creation, 0: chosen by the number of clusters */
	uint32_t io_unit_bytes;     /* creation, 0: the device's block size */
	enum blob_clear clear;      /* creation: of the device */
	bool overwrite; /* creation: what is there may be a blobstore; else -EEXIST when there is one */
	/* Owner's thread. May be NULL. */
	void (*event)(void *ctx, struct blob_store *store, enum blob_store_event event);
	/*
	 * Owner's thread: opens the device that an external snapshot's id names; NULL: it is missing, and the blob's reads of
	 * what it has not itself fail with -ENODEV until blob_external_arrived(). block_size is at most the store's
	 * I/O unit. May be NULL: all are missing.
	 */
	struct blob_dev *(*open_external)(void *ctx, struct blob *blob, const void *id, size_t id_bytes);
	void *ctx;
};

/* Takes dev; it is closed (dev->ops->close) when creation or loading has failed, or the store is unloaded. Loading: -EINVAL
 * (no blobstore, or of another type), -EILSEQ (damaged), -ENOTSUP (version), -ENOSPC (larger than its device). */
/* -ENOMEM: there is no memory to answer with; dev is closed, and done does not come. */
int blob_store_create(struct blob_dev *dev, const struct blob_store_options *options, blob_store_done_fn done, void *ctx);
int blob_store_load(struct blob_dev *dev, const struct blob_store_options *options, blob_store_done_fn done, void *ctx);
/* All channels are put, all blobs closed (-EBUSY otherwise). Waits for what is under way, stops background work where it can
 * go on after the next load, writes the masks and marks the store clean. The store is gone, whatever status says. */
void blob_store_unload(struct blob_store *store, blob_done_fn done, void *ctx);
/* Nothing is written, the device was removed: everything under way ends, the store is gone when done comes. */
void blob_store_abandon(struct blob_store *store, blob_done_fn done, void *ctx);
/* Unloads, and destroys the super block; clusters are cleared. */
void blob_store_destroy(struct blob_store *store, blob_done_fn done, void *ctx);
/* dev->num_blocks has grown. -ENOSPC: there is no room for more clusters (the layout, or the device, has not grown). */
void blob_store_grow(struct blob_store *store, blob_done_fn done, void *ctx);

struct blob_store_info {
	uint64_t total_clusters;      /* of the store, metadata included */
	uint64_t total_data_clusters; /* that blobs may have */
	uint64_t most_clusters;       /* to which its layout lets it grow */
	uint64_t free_clusters; /* those that are being cleared counted: who needs them waits for them */
	uint32_t cluster_bytes;
	uint32_t io_unit_bytes;
	uint32_t md_page_bytes;
	uint32_t md_pages;
	uint32_t free_md_pages;
	unsigned blobs;
	unsigned damaged; /* blobs that cannot be opened */
	bool readonly;
	bool broken;
	bool recovered; /* it was not clean when it was loaded */
	bool full;      /* writes wait for space */
};
void blob_store_get_info(const struct blob_store *store, struct blob_store_info *ret_info);
struct blob_dev *blob_store_dev(const struct blob_store *store);
void *blob_store_ctx(const struct blob_store *store);
uint64_t blob_store_super(const struct blob_store *store); /* BLOB_ID_NONE: none */
void blob_store_set_super(struct blob_store *store, uint64_t id, blob_done_fn done, void *ctx);
/* percent: of the data clusters, 0: no watermark. pause: writes that find no cluster wait instead of failing with -ENOSPC. */
void blob_store_set_limits(struct blob_store *store, unsigned low_percent, bool pause);
/* done(ctx, 0, NULL) when no background work is under way. */
void blob_store_wait_idle(struct blob_store *store, blob_done_fn done, void *ctx);

/* ---- Blobs: asking ---- */

struct blob *blob_find(struct blob_store *store, uint64_t id);
/* In the order of their ids, damaged ones too. */
struct blob *blob_first(struct blob_store *store);
struct blob *blob_next(struct blob *blob);

/* References: a blob that is open is not deleted (-EBUSY). -EILSEQ: damaged, or of an unknown kind, with what it is called and
 * the reason. */
int blob_open(struct blob *blob, struct err *err);
void blob_close(struct blob *blob);

uint64_t blob_id(const struct blob *blob);
/* What a message calls it, in buf, which it returns: "the store's own blob" when it is the store's super blob, "volume 'NAME'"
 * when its xattr "name" is a text, else "blob ID". */
#define BLOB_CALLED_BYTES 96
const char *blob_called(const struct blob *blob, char buf[BLOB_CALLED_BYTES]);
struct blob_store *blob_store_of(const struct blob *blob);
uint64_t blob_num_clusters(const struct blob *blob);
uint64_t blob_allocated_clusters(const struct blob *blob);
bool blob_thin(const struct blob *blob);
bool blob_readonly(const struct blob *blob); /* data */
bool blob_damaged(const struct blob *blob);
const struct err *blob_damage(const struct blob *blob); /* without what it is called; NULL: it is not damaged */
bool blob_deleted(const struct blob *blob); /* a snapshot that stays for its clones, or is being merged */
enum blob_clear blob_clear_method(const struct blob *blob);
struct blob *blob_parent(const struct blob *blob); /* the snapshot it is a clone of, NULL: none */
struct blob *blob_first_clone(const struct blob *blob);
struct blob *blob_next_clone(const struct blob *clone);
/* A snapshot: read-only, and somebody's parent or made as one. */
bool blob_is_snapshot(const struct blob *blob);
/* The id of the external snapshot, NULL: none. Borrowed until it changes. */
const void *blob_external_id(const struct blob *blob, size_t *ret_bytes);
/* Its external snapshot, or that of a snapshot below it, is missing. */
bool blob_degraded(const struct blob *blob);

struct blob_xattr {
	const char *name; /* unique in a blob */
	const void *value;
	size_t bytes;
};
/* NULL: none of that name. Borrowed until it changes. */
const void *blob_get_xattr(const struct blob *blob, const char *name, size_t *ret_bytes);
const char *blob_xattr_name(const struct blob *blob, unsigned i); /* NULL past the last */

/* ---- Blobs: changing ---- */

struct blob_options {
	uint64_t num_clusters;
	bool thin;
	enum blob_clear clear;
	bool extent_rle; /* not an extent table: old versions' way, for tests */
	const struct blob_xattr *xattrs;
	unsigned num_xattrs;
	const void *external_id; /* clone of an external snapshot; thin */
	size_t external_id_bytes;
};

void blob_create(struct blob_store *store, const struct blob_options *options, blob_made_fn done, void *ctx);

/*
 * -EBUSY: it is open. Answers when it cannot come back; clusters are freed afterwards. A snapshot with clones stays under the
 * xattrs of `hidden` (those replace its own of the same names) until one clone is left, into which it is merged then; the open
 * references of the clones do not matter.
 */
void blob_delete(struct blob *blob, const struct blob_xattr *hidden, unsigned num_hidden, blob_done_fn done, void *ctx);

/* Clusters that are cut off are freed, even when they hold data; the user has seen to it that no I/O is beyond. Thick ones
 * that come are allocated (-ENOSPC). */
void blob_resize(struct blob *blob, uint64_t num_clusters, blob_done_fn done, void *ctx);

void blob_set_xattrs(struct blob *blob, const struct blob_xattr *xattrs, unsigned num_xattrs, blob_done_fn done, void *ctx);
void blob_remove_xattr(struct blob *blob, const char *name, blob_done_fn done, void *ctx);
void blob_set_read_only(struct blob *blob, blob_done_fn done, void *ctx);

/* One volume to take a snapshot of, and what came of it. */
struct blob_snapshot {
	struct blob *blob;
	const struct blob_xattr *xattrs; /* of the snapshot */
	unsigned num_xattrs;
	struct blob *snapshot; /* on success */
};
/* All at one instant, after every write that completed before this call, before every one submitted after done; whole or not
 * at all. The array is borrowed until done. -EINVAL: one is read-only. */
void blob_snapshot(struct blob_snapshot *snapshots, unsigned count, blob_done_fn done, void *ctx);
/* A thin volume over a read-only blob. */
void blob_clone(struct blob *snapshot, const struct blob_xattr *xattrs, unsigned num_xattrs, blob_made_fn done, void *ctx);

/* Long work on one blob; one at a time. */
struct blob_work {
	void (*progress)(void *ctx, uint64_t done_clusters, uint64_t of); /* may be NULL */
	blob_done_fn done;
	void *ctx;
	/* The store's. */
	struct blob *blob;
	bool cancelled;
	void (*cancel)(struct blob_work *work); /* NULL: it looks at `cancelled` often enough */
	void *state;
};
/* Gives the blob storage for all it reads (inflate: thick afterwards, no parent) or only for what its parent has (decouple: thin,
 * the parent's parent, or what lies below that, stays). Lives in the caller's memory until done. Decouple without a parent:
 * -EINVAL. Of an external snapshot holes are not taken over, when it knows them; else decouple is inflate. */
void blob_inflate(struct blob *blob, struct blob_work *work);
void blob_decouple(struct blob *blob, struct blob_work *work);
/* Writes the clusters that the read-only blob has itself to dev (-EINVAL: dev is smaller), through a channel of its own;
 * dev stays the caller's. */
void blob_shallow_copy(struct blob *blob, struct blob_dev *dev, struct blob_work *work);
/* done comes with -ECANCELED, soon. */
void blob_work_cancel(struct blob_work *work);

/* The blob reads what it has not itself from another parent, of the same size and, so says the user, the same contents there. */
void blob_set_parent(struct blob *blob, struct blob *parent, blob_done_fn done, void *ctx);
void blob_set_external(struct blob *blob, const void *id, size_t bytes, blob_done_fn done, void *ctx);

/* open_external is asked again for those whose external snapshot is missing. */
void blob_external_arrived(struct blob_store *store);
/* The device goes: channels on it are put (done), then it is closed; its users are degraded. */
void blob_external_left(struct blob_store *store, struct blob_dev *dev, blob_done_fn done, void *ctx);

/* ---- What a blob consists of (owner's thread, or that of a channel) ---- */

#define BLOB_EXTENT_ALLOCATED 0x1 /* in the blob itself */
#define BLOB_EXTENT_ZERO 0x2      /* reads as zeroes: nobody has it */
#define BLOB_EXTENT_CHANGED 0x4   /* blob_diff(): may differ */
/* How many clusters from `cluster` on are alike (at least one; cluster < num_clusters), and what they are. */
uint64_t blob_extent(const struct blob *blob, uint64_t cluster, uint32_t *ret_flags);
/* The same, compared with `since`, a snapshot below blob in its chain; NULL: with nothing. -EINVAL as 0 clusters: it is not. */
uint64_t blob_diff(const struct blob *blob, const struct blob *since, uint64_t cluster, uint32_t *ret_flags);

/* ---- I/O (any thread) ---- */

enum blob_op { BLOB_READ, BLOB_WRITE, BLOB_UNMAP, BLOB_WRITE_ZEROES };

#define BLOB_SHIFT_NONE UINT32_MAX
/* One blob on one thread; in its user's memory, made by blob_channel_get(). Fields are private; route.h reads them. */
struct blob_channel {
	struct blob *blob;
	const struct blob_head *head; /* of the blob */
	struct blob_counts *counts;   /* of the thread */
	struct blob_thread *thread;   /* the store's part on this thread */
	uint32_t unit_shift;        /* log2 of I/O units in a cluster; BLOB_SHIFT_NONE: it is no power of two */
	bool readonly;
	bool thick;                 /* learnt from the owner: nothing is given back */
	uint64_t inflight; /* begun and not ended, held ones excepted */
	uint64_t passing;  /* reads of the long way, which pass a gate for writes */
	struct blob_wait *wait; /* a gate that waits for them to end */
	struct list held;  /* wait for a gate, or for space; oldest first */
	struct list link;  /* of the thread's channels */
};

/* The blob is open until the channel is put. 0, or what the device's channel says. */
int blob_channel_get(struct blob *blob, struct blob_channel *ch);
void blob_channel_put(struct blob_channel *ch); /* no request is in flight */
/* The channel of the store's device on this thread, for requests whose place route.h says. */
struct blob_dev_channel *blob_channel_dev(const struct blob_channel *ch);
/* Ends with status what waits for a gate or for space. */
void blob_channel_cancel(struct blob_channel *ch, int status);

#define BLOB_IO_SLICE 16

/*
 * In its submitter's memory, blob_io_bytes() of it. Done once, on the submitting thread, never from inside blob_submit(). 0;
 * -ENOSPC; -EROFS; -EINVAL (range); -ENODEV (external snapshot missing); -ECANCELED; the device's.
 * Unmap and write zeroes of whole clusters of a thin blob without a parent give the clusters back. A read of what nobody has
 * costs no I/O.
 */
struct blob_io {
	void (*done)(struct blob_io *io, int status);
	const struct iovec *iov; /* read, write: as long as count I/O units; borrowed until done */
	uint64_t unit;           /* in I/O units of the store */
	uint64_t count;
	int iovcnt;
	enum blob_op op;

	/* The store's. */
	struct blob_channel *ch;
	struct list link;
	union {
		struct defer defer;
		struct msg msg;
	};
	uint64_t done_units; /* how far it is */
	uint64_t piece_units;
	struct blob_alloc *alloc;
	int status;
	uint8_t parity;
	bool touch;
	bool impatient; /* a touch that does not wait for space that only others' deeds can bring */
	bool inside; /* of the call that began it: not done from there */
	struct iovec slice[BLOB_IO_SLICE];
	_Alignas(64) struct blob_dev_io dev;
};

size_t blob_io_bytes(const struct blob_store *store);
void blob_submit(struct blob_channel *ch, struct blob_io *io);

#endif
