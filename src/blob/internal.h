/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The blobstore's own. Which file does what:
 *
 *	format.c          bytes <-> structures
 *	store.c           options, information, owner's queue of changes (md_op), events
 *	create.c load.c unload.c   a store's beginning and end; open.c: what the first two have in common; load.c reads all
 *	                  metadata, parse.c makes blobs of it, family.c brings them together, recover.c decides what was under way
 *	grow.c            a store on a device that has grown; masks.c: the three masks, read and written; ask.c: what only asks;
 *	map.c             maps of clusters
 *	alloc.c           who has which cluster and metadata page, watermarks; limbo.c: clusters on their way to be free
 *	thread.c          the store's part on each thread: channels, gates, grace periods
 *	io.c              the long way of requests; cow.c: clusters that a write needs; commit.c: their entry into the metadata
 *	                  (batched); release.c: unmapped clusters
 *	md.c              a blob's metadata to pages, and their writing
 *	volume.c          create, delete, xattrs, read-only; resize.c, resize_fresh.c; reap.c: what deleted blobs give back
 *	snapshot.c        snapshots (of groups), clones; merge.c, merge_extents.c, merge_queue.c: what becomes of deleted
 *	                  snapshots; inflate.c; parent.c; external.c; copy.c; extent.c
 *	check*.c          looks at and mends a store that nobody has open (check.h); survey*.c reads it, salvage*.c saves from it
 *
 * Invariants
 *  1. Metadata is changed by one activity at a time (md_op): an operation of volume.c and the like, or a commit of what writes
 *     have allocated. Only the owner changes blobs, maps' structure and pages.
 *  2. An entry of a map changes without further ado only from 0 to BUSY and from BUSY to a cluster (or back to 0), by the one
 *     that made it BUSY or by the commit. All other changes of a map that I/O may use happen with the blob's gate closed and
 *     nothing in flight (snapshot, resize), or leave what a reader finds the same (merge): entries first, then what is below;
 *     readers load what is below before the entry. Where reads go on while a blob gets another map (snapshot), what is below is
 *     set before the map, and a reader that finds nothing in the map looks whether what is below is still the same.
 *  3. A cluster is given to somebody else only when (a) the metadata that gave it up is on stable storage, (b) a grace period
 *     has passed: every request that was in flight on any thread when it was given up has ended, (c) it is cleared. The same,
 *     but for (c), with metadata pages: there are no readers of those, so (a) is enough.
 *  4. Data before what points to it: a device with a write cache is flushed between the data of new clusters (and new pages) and
 *     the page that makes them part of a blob; and after that before anything it replaces is given up, or somebody is
 *     answered who was promised stable storage. A write that allocated is answered when its page is written (the end of the
 *     process loses nothing), not flushed.
 *  5. A blob's commit is one page written in place: the first of its chain, or an extent page. Its other pages are always written
 *     to new places.
 *  6. When a commit's page could not be written, nobody knows what is on the disk: the store is broken, metadata stays as it
 *     is until it is loaded again.
 */
#ifndef BLOB_INTERNAL_H
#define BLOB_INTERNAL_H

#include <stdatomic.h>

#include "base/list.h"
#include "blob/blob.h"
#include "blob/route.h"
#include "event/channel.h"
#include "event/thread.h"

/* ---- Blobs (maps and gates: route.h) ---- */

struct blob_own_xattr {
	struct list link;
	char *name;
	void *value;
	uint16_t bytes;
	bool internal;
};

struct blob {
	/* Read by any thread with a channel. */
	struct blob_head head; /* map, gate */
	_Atomic uintptr_t below; /* what has the clusters that it has not itself: see blob_below() */
	struct blob_store *store;
	uint64_t id;
	_Atomic uint64_t allocated; /* clusters */

	/* The owner's. */
	struct list link;    /* of the store's blobs, by id */
	struct list clones;  /* blobs whose parent this is */
	struct list clone_link;
	struct list xattrs;  /* struct blob_own_xattr, in the order they are on disk */
	struct blob_flags flags;
	uint32_t *pages; /* the chain's, pages[0] = id - BLOB_ID_BASE */
	uint32_t num_pages;
	unsigned opens;
	bool snapshot;    /* was made as one, or has clones */
	bool deleted;     /* BLOB_XATTR_DELETED */
	bool gone;        /* deleted for good; freed after a grace period */
	_Atomic bool data_ro; /* set before gate_close(), or between it and gate_open(): both tell the channels */
	bool md_ro;
	bool busy; /* long work, or a change that spans several md_ops */
	struct err damage; /* code 0: none */
	struct list gate_waits; /* thread.c: struct blob_wait; the first one's visit is under way */
	unsigned gates;         /* thread.c: how many have closed it */
};

/*
 * What is below a blob is one word, so that any thread finds it whole: nothing (zeroes), its parent, or an external snapshot
 * (lowest bit set). Readers go: below, then the entry, and only then, when that is 0, to what they found below (invariant 2).
 */
static inline uintptr_t
blob_below(const struct blob *blob)
{
	return atomic_load_explicit(&blob->below, memory_order_acquire);
}

static inline struct blob *
below_parent(uintptr_t below)
{
	return (below & 1) != 0 ? NULL : (struct blob *)below;
}

static inline struct blob_external *
below_external(uintptr_t below)
{
	return (below & 1) != 0 ? (struct blob_external *)(below & ~(uintptr_t)1) : NULL;
}

/* Owner. At most one of the two. */
static inline void
blob_set_below(struct blob *blob, struct blob *parent, struct blob_external *external)
{
	atomic_store_explicit(&blob->below, external != NULL ? (uintptr_t)external | 1 : (uintptr_t)parent,
			      memory_order_release);
}

static inline bool
blob_has_table(const struct blob *blob)
{
	return (blob->flags.invalid & BLOB_INVALID_EXTENT_TABLE) != 0;
}

/* The extent a cluster belongs to; NULL: none yet. */
static inline struct blob_extent *
blob_map_extent(struct blob_map *map, uint64_t index)
{
	return atomic_load_explicit(&map->extents[index], memory_order_acquire);
}

/* A map for so many clusters, all 0; extents of `from` (may be NULL) are taken over as far as they reach. NULL: memory. */
struct blob_map *blob_map_create(uint64_t num_clusters, struct blob_map *from);
/* free_extents: and what it has. */
void blob_map_free(struct blob_map *map, bool free_extents);
/* Made when it is not there yet. Any thread. NULL: memory. */
struct blob_extent *blob_map_make_extent(struct blob_map *map, uint64_t index);

/* ---- The store ---- */

/* Who waits for the store to be idle, in the caller's memory. */
struct idle_waiter {
	struct list link;
	void (*fn)(void *ctx);
	void *ctx;
};

/* What is answered that has no request of its own. */
struct store_answer {
	struct defer defer;
	struct blob_store *store;
	blob_done_fn done;
	blob_made_fn made; /* NULL: done */
	void *ctx;
	bool reserved, used; /* of store->answers */
	struct err err;
};
#define STORE_ANSWERS 16u

/* A change of metadata, or a commit: run, one at a time, when those before it have called md_op_end(). */
struct md_op {
	struct list link;
	const char *name; /* for traces and messages: "snapshot" */
	struct blob_store *store;
	void (*run)(struct md_op *op);
};

/* Bits in use; clusters are claimed by any thread. */
struct blob_bits {
	_Atomic uint64_t *words;
	_Atomic uint64_t count;
	uint64_t room; /* what words has place for: within it, growing disturbs nobody */
};

struct blob_store {
	struct blob_dev *dev;
	struct thread *owner;
	struct blob_dev_channel *dev_ch; /* the owner's */
	struct blob_super super; /* as on disk, but for clean */
	struct blob_store_options options;
	uint32_t block_shift;        /* log2 of device blocks... of the device's block size */
	uint32_t unit_blocks;        /* device blocks of an I/O unit */
	uint64_t cluster_units;      /* I/O units of a cluster */
	uint64_t cluster_blocks;     /* device blocks of a cluster */
	uint64_t total_clusters;
	uint64_t data_clusters; /* of them blobs may have */

	/* alloc.c */
	struct blob_bits clusters;
	struct blob_bits pages;   /* owner */
	struct blob_bits blobids; /* owner */
	_Atomic uint64_t free_clusters; /* neither in use nor promised */
	_Atomic uint64_t next_cluster;  /* where to look first */
	_Atomic uint32_t *spans;        /* free ones of each 4096 */
	uint32_t free_pages;
	uint32_t next_page;
	unsigned low_percent;
	_Atomic bool pause_when_full;
	bool low, full;
	struct blob_limbo *limbo; /* clusters on their way to be free */

	/* thread.c: all threads' parts; the lock guards the list. */
	struct device device; /* its channels: struct blob_thread */
	struct list graces; /* struct blob_wait of the next one */
	struct list graced; /* of the one that is under way */
	_Atomic unsigned grace_pending;
	struct msg grace_msg;
	struct msg sweep_msg; /* gate_open(): visits all threads */
	bool sweeping, sweep_again;
	_Atomic unsigned giving;   /* alloc.c: pieces of background work that will bring clusters back */
	uint64_t reaped;           /* reap.c: clusters of deleted blobs that are not in limbo yet */
	struct list space_waiters; /* struct md_op: changes that will find space when these are over */
	_Atomic bool space_wanted; /* cow.c: a write found no space; cow_space() looks */
	_Atomic bool space_told;   /* full_msg is under way */
	struct msg full_msg;

	/* store.c */
	struct list blobs;      /* all, by id */
	struct blob **by_page;  /* blob whose chain starts at a metadata page; md.length entries */
	unsigned num_blobs, num_damaged;
	struct list ops;        /* md_ops that wait */
	struct list first_ops;  /* those that go before them, in turns: neither kind starves */
	bool first_was_last;
	bool kicked;            /* kick is under way */
	struct defer kick;
	struct md_op *op;       /* that runs */
	bool clean_on_disk;     /* the super block says clean: to be changed before anything else */
	bool clean_doubtful;    /* a write that was to change that failed: it may say so or not */
	struct list md_waiters; /* md.c: struct md_tx that wait for that; the first one writes it */
	bool readonly, broken, recovered, unloading, abandoned;
	struct err breakage; /* why it is broken */
	unsigned background;    /* pieces of background work under way */
	struct list idle_waiters;
	struct store_answer answers[STORE_ANSWERS]; /* for those who find no memory */
	struct unload *unload; /* unload.c: there beforehand, so that leaving needs no memory to begin */

	struct blob_commit *commit;   /* commit.c */
	struct blob_merges *merges;   /* merge_queue.c */
	struct list externals;        /* external.c: struct blob_external */
	struct blob_recovery *recovery; /* recover.c, while it is loaded */
};

/* ---- store.c ---- */

/* Owner. Runs op->run when its turn comes (never from inside); from then on op's owner does as it likes until md_op_end(). A
 * commit is put in front of waiting operations. When the store is broken, read-only or being abandoned, op->run
 * still comes: md_op_refused() says so. */
void md_op_start(struct blob_store *store, struct md_op *op, const char *name, void (*run)(struct md_op *op));
void md_op_start_first(struct blob_store *store, struct md_op *op, const char *name, void (*run)(struct md_op *op));
void md_op_end(struct md_op *op); /* before done() of whoever asked; op may be reused or freed afterwards */
/* 0, or why nothing may be changed: -EROFS, -ENODEV; fills err. */
int md_op_refused(struct blob_store *store, struct err *err);
void store_event(struct blob_store *store, enum blob_store_event event);
/* Metadata could not be written where it counts (invariant 6). */
void store_break(struct blob_store *store, int status, const char *what);
void store_background_begin(struct blob_store *store);
void store_background_end(struct blob_store *store);
struct blob *store_new_blob(struct blob_store *store, uint64_t id); /* linked, map of 0 clusters; NULL: memory */
/* Out of everything that finds blobs; its id may be another's. store_free_blob() does it, too, if nobody has. */
void store_unlink_blob(struct blob *blob);
void store_free_blob(struct blob *blob); /* unlinked; its map and extents, after a grace period if it had users */
void store_destroy_blob(struct blob *blob); /* now: nobody was ever in flight with it */
void store_forget_blobs(struct blob_store *store); /* all of them, now */
/* A store that has read no metadata yet; takes dev, but closes it only in store_free(). NULL, and *ret_rc. */
struct blob_store *store_alloc(struct blob_dev *dev, const struct blob_store_options *options, int *ret_rc);
/* What follows from store->super; bits for clusters, pages, blob ids, those of metadata's clusters set. 0, -ENOMEM, -EINVAL. */
int store_set_geometry(struct blob_store *store, struct err *err);
/* Nothing is under way, nobody has a channel; its blobs go too, and the device is closed. NULL is accepted. */
void store_free(struct blob_store *store);
/* Owner. fn(ctx) when no operation waits or runs and no background work is under way. */
void store_when_idle(struct blob_store *store, struct idle_waiter *waiter, void (*fn)(void *ctx), void *ctx);
/* Calls an owner-side done later, with a copy of err; for functions that fail early. */
void store_answer(struct blob_store *store, blob_done_fn done, void *ctx, int status, const struct err *err);
void store_answer_made(struct blob_store *store, blob_made_fn made, void *ctx, int status, const struct err *err);

/* ---- md.c: pages ---- */

/*
 * Pages gathered to be written at once: contiguous ones together, in parallel, followed by a flush when asked for and the
 * device needs one. In the owner's memory, md_tx_init() first; reusable after done. Before the first write of a store that
 * is clean on disk, the super block is written and flushed by itself.
 */
struct md_tx {
	struct blob_store *store;
	void (*done)(struct md_tx *tx, int status);
	struct md_tx_page *pages;
	unsigned count, room;
	unsigned next; /* of pages: not submitted yet */
	unsigned pending;
	bool flush;
	bool wrote; /* a page of it went to the device */
	int status;
	struct md_slot *free_slots;
	struct list link;  /* waits until the super block says that the store is not clean */
	struct defer defer;
};
void md_tx_init(struct md_tx *tx, struct blob_store *store);
void md_tx_release(struct md_tx *tx);
/* A zeroed page that will be written to metadata page `page`; NULL: memory. Valid until done. */
uint8_t *md_tx_page(struct md_tx *tx, uint32_t page);
/* The i-th page that md_tx_page() gave, before the write. */
const uint8_t *md_tx_bytes(const struct md_tx *tx, unsigned i);
/* done from a later turn or from the device's; at once deferred when there is nothing to write. flush also with nothing to
 * write. */
void md_tx_write(struct md_tx *tx, bool flush, void (*done)(struct md_tx *tx, int status));

/* Xattrs as they are in memory. NULL: memory. `name` need not be terminated. */
struct blob_own_xattr *own_xattr_create(bool internal, const char *name, size_t name_bytes, const void *value, size_t bytes);
void own_xattr_free(struct blob_own_xattr *x);
void own_xattrs_free(struct list *xattrs);
struct blob_own_xattr *own_xattr_find(const struct list *xattrs, bool internal, const char *name);
/* A blob id that an internal xattr holds, BLOB_ID_NONE when there is none. */
uint64_t own_xattr_id(const struct list *xattrs, const char *name);

/*
 * A blob's metadata as it shall be: written by md_persist() in the way of invariant 5. What is not given stays as it is in the
 * blob: fields are initialised from it by md_image_init().
 */
struct md_image {
	struct blob *blob;
	struct blob_flags flags;
	struct list xattrs;     /* struct blob_own_xattr: a copy that md_image_xattr*() change */
	struct blob_map *map;   /* extents[i]->page is what the table lists; of RLE blobs the clusters */
	uint32_t *new_pages;    /* the chain: the blob's first page, and those that were claimed for it */
	uint32_t num_new_pages; /* claimed ones */
};
int md_image_init(struct md_image *image, struct blob *blob);
void md_image_release(struct md_image *image); /* gives back pages that were claimed and not taken over */
int md_image_set_xattr(struct md_image *image, bool internal, const char *name, const void *value, size_t bytes);
void md_image_remove_xattr(struct md_image *image, bool internal, const char *name);
/* Serialises: pages 2..n (new places) go to body, the first to commit. 0, -ENOSPC (pages), -ENOMEM, -EMSGSIZE (an xattr). */
int md_image_put(struct md_image *image, struct md_tx *body, struct md_tx *commit);
/* The commit is on the disk: the blob gets flags, xattrs and chain of the image; the old chain's other pages are free. */
void md_image_apply(struct md_image *image);
/* One extent page to tx: entries of e that are BUSY are written as 0. `page` may differ from e->page. */
int md_put_extent(struct md_tx *tx, const struct blob *blob, const struct blob_extent *e, uint64_t index, uint32_t page);
/* The same for a blob that has, or shall have, num_clusters: a page has as many entries as there are clusters in its range. */
int md_put_extent_of(struct md_tx *tx, uint64_t blob_id, uint64_t num_clusters, const struct blob_extent *e, uint64_t index,
		     uint32_t page);

/* The usual change of one blob: body, flush, commit, flush, apply. Lives in the caller's memory until done. */
struct md_persist {
	struct md_image image; /* changed by the caller between init and run */
	struct md_tx body, commit; /* the caller may put extent pages into body before the run */
	bool flush_first; /* what was written before counts: there is a flush between it and the commit */
	void (*done)(struct md_persist *p, int status);
	struct defer defer;
	int status;
};
int md_persist_init(struct md_persist *p, struct blob *blob);
void md_persist_run(struct md_persist *p, void (*done)(struct md_persist *p, int status));
void md_persist_release(struct md_persist *p);

/* ---- alloc.c ---- */

/* Any thread. Takes `count` clusters off those that are free, without saying which: 0, -ENOSPC. */
int alloc_reserve(struct blob_store *store, uint64_t count);
void alloc_unreserve(struct blob_store *store, uint64_t count);
/* Any thread: which one, of a reservation. near: 0, or the cluster behind which it would be best. Never fails. */
uint32_t alloc_take(struct blob_store *store, uint32_t near);
/* A cluster that never became part of a blob on disk. Any thread. */
void alloc_put_back(struct blob_store *store, uint32_t cluster);
/* Owner: the same for an extent that is in no map any thread uses: its clusters from its entry `from` on, and its page. */
void alloc_put_back_extent(struct blob_store *store, const struct blob_extent *e, uint64_t from);
/*
 * Owner. Clusters that the metadata on stable storage gives up: they are free after a grace period, and cleared by `clear`.
 * In the background; the array is copied. BUSY and 0 entries are skipped.
 */
int alloc_free_later(struct blob_store *store, const uint32_t *clusters, uint64_t count, enum blob_clear clear);
/* Owner: metadata pages. BLOB_PAGE_NONE: there are none. Never page 0, which an extent table could not name. */
uint32_t alloc_page(struct blob_store *store);
void alloc_free_page(struct blob_store *store, uint32_t page);
/* Owner: looks whether the watermark was crossed, wakes who waits for space. After commits. */
void alloc_watch(struct blob_store *store);
/*
 * Clusters that were given up are on their way between giving_begin() and giving_end() (owner): who finds no free ones
 * meanwhile waits for them. alloc_coming(): any thread.
 */
void alloc_giving_begin(struct blob_store *store);
void alloc_giving_end(struct blob_store *store);
static inline bool
alloc_coming(struct blob_store *store)
{
	return atomic_load(&store->giving) > 0;
}
/* Owner, from op->run: ends op, which has found too few clusters while some are coming, and starts it again when there are
 * more. */
void alloc_retry(struct md_op *op);
int alloc_init(struct blob_store *store); /* when the bits are right: counts what is free */
void alloc_release(struct blob_store *store);
/* Owner: clusters up to total_clusters, more than before, may be taken. */
void alloc_grow(struct blob_store *store, uint64_t total_clusters);
int limbo_init(struct blob_store *store);
void limbo_release(struct blob_store *store);
/* Clusters that wait to be free. */
uint64_t limbo_clusters(const struct blob_store *store);

static inline bool
bits_get(const struct blob_bits *bits, uint64_t i)
{
	return (atomic_load_explicit(&bits->words[i / 64], memory_order_relaxed) >> (i % 64) & 1) != 0;
}
int bits_init(struct blob_bits *bits, uint64_t count);
/* Keeps what is set. */
int bits_resize(struct blob_bits *bits, uint64_t count);
void bits_release(struct blob_bits *bits);
bool bits_set(struct blob_bits *bits, uint64_t i); /* what it was before */
void bits_clear(struct blob_bits *bits, uint64_t i);

/* ---- thread.c ---- */

/* The store on one thread. Only that thread touches it. */
struct blob_thread {
	struct channel channel;
	struct blob_store *store;
	struct blob_dev_channel *dev_ch;
	struct blob_counts counts;
	struct list channels; /* struct blob_channel */
	struct blob_cow *cow; /* cow.c: allocations under way, buffers */
	unsigned waits;       /* thread.c: gates and grace periods that wait here */
	bool grace;           /* one of them: for requests of the other parity */
	struct list externals; /* external.c: channels on external snapshots, made when they are first read */
};

/* Owner. done(wait) when every request that was in flight on any thread has ended. In the caller's memory. */
struct blob_wait {
	struct list link;
	struct blob_store *store;
	struct blob *blob; /* of gates */
	void (*done)(struct blob_wait *wait);
	_Atomic unsigned pending;
	struct msg msg;
};
/* Owner, before the first channel; after the last, with no visit under way. */
void threads_init(struct blob_store *store);
void threads_release(struct blob_store *store);
void grace_start(struct blob_store *store, struct blob_wait *wait, void (*done)(struct blob_wait *wait));
/* Owner. New requests of blob (those that modify, or all) are held; done when none is in flight. */
void gate_close(struct blob *blob, enum blob_gate gate, struct blob_wait *wait, void (*done)(struct blob_wait *wait));
/* Answers gate_close(), once each: the gate opens with the last. What was held goes on, on its thread, in order. */
void gate_open(struct blob *blob);
/* Whether io, which is not in flight, is to wait: then it is held in its channel. The channel's thread. */
bool gate_holds(struct blob_io *io);
/* What is held anywhere looks again: gates, space. Owner. */
void gate_sweep(struct blob_store *store);
/* The channel's thread: io is in flight from here to there. */
void io_begin(struct blob_io *io);
void io_end(struct blob_io *io);

/* ---- io.c, cow.c, commit.c, release.c ---- */

/* Takes up a request that was held; the channel's thread. */
void io_resume(struct blob_io *io);
/* The piece that io is in flight with has ended: the next one. -EAGAIN: it is to be looked at again. Not from inside submit. */
void io_piece_done(struct blob_io *io, int status);
/*
 * As a write of what is there already: every cluster of the range [unit, unit + count) that the blob has not itself is its own
 * afterwards (inflate, decouple). io's op and iov are ignored. Of read-only blobs, too.
 */
void blob_touch(struct blob_channel *ch, struct blob_io *io);

/* Who has a cluster of a blob, as of now. */
enum blob_owner {
	BLOB_OWNER_SELF,
	BLOB_OWNER_PARENT,   /* some blob below */
	BLOB_OWNER_EXTERNAL, /* *ret_external */
	BLOB_OWNER_NONE,     /* zeroes */
};
enum blob_owner io_lookup(const struct blob *blob, uint64_t cluster, uint32_t *ret_entry, struct blob_external **ret_external);

/*
 * io is in flight and stands at a cluster that the blob has not itself (or that is BUSY): allocates it, fills it with what
 * was there and io's piece, commits. -EAGAIN: the cluster came otherwise, look again. Here and in the next three 0:
 * io_piece_done() comes, or io is held; else the piece has ended with that already.
 */
int cow_start(struct blob_io *io, uint64_t cluster);
/* io is in flight: until the cluster is BUSY no more; then the piece ends with -EAGAIN. */
int cow_wait(struct blob_io *io, uint64_t cluster);
/* io's piece is a read of `external`; of scatter entries so fine that they go through a buffer, when iovcnt is 0 */
int cow_read_external(struct blob_io *io, struct blob_external *external, int iovcnt);
/* io's piece goes through a buffer to or from the device. */
int cow_bounce(struct blob_io *io, uint64_t lba);
size_t cow_buffer_bytes(const struct blob_store *store);
/* Frees what a thread has; from the destruction of the store's channel. */
void cow_release(struct blob_thread *t);
/* Owner, alloc_watch(): clusters are free, or were not enough: events BLOB_STORE_FULL and _FULL_ENDS; wakes who waits for
 * space. */
void cow_space(struct blob_store *store);

/* An allocation that has its data on the device, to become part of the blob. */
struct blob_alloc {
	struct msg msg;         /* to the owner, and back */
	struct list link;       /* the owner's: of the next commit */
	struct blob *blob;
	uint64_t index;         /* cluster of the blob */
	uint32_t cluster;       /* of the device; 0: none was taken yet */
	int status;             /* when sent: not 0: it came to nothing, the entry becomes 0 again */
	struct thread *origin;
	void (*done)(struct blob_alloc *alloc); /* on origin: status 0: the entry is there */
};
/* Any thread; the entry is BUSY. A cluster that does not become the blob's is put back. */
void commit_send(struct blob_alloc *alloc, void (*done)(struct blob_alloc *alloc));
/* Any thread: calls done on this thread when the entry is BUSY no more. */
void commit_wait_busy(struct blob_alloc *waiter, void (*done)(struct blob_alloc *waiter));
int commit_init(struct blob_store *store);
void commit_release(struct blob_store *store);

/* release.c: what one extent gives up, as part of a commit. */
struct blob_release;
struct blob_part {
	struct list link;
	struct blob *blob;
	struct blob_release *release;
	uint64_t extent;
	uint32_t first, count;                  /* entries */
	struct defer defer;
	uint32_t cluster[BLOB_EXTENT_CLUSTERS]; /* what they were; 0: left alone */
};
void commit_part(struct blob_part *part); /* owner */
void release_part_done(struct blob_part *part, int status); /* commit.c's answer; the entries are changed */

/* Gives back whole clusters [first, first + count) of a thin blob without anything below it; done(ctx, status) on the owner.
 * -ENOTSUP: it is none. */
void release_clusters(struct blob *blob, uint64_t first, uint64_t count, blob_done_fn done, void *ctx);

/* ---- load.c, recover.c ---- */

/* All metadata pages that were read: NULL where none was, or it is not in use. */
struct md_pages {
	uint8_t **page; /* md.length */
	uint32_t count;
	struct blob_bits chains; /* pages that chains have so far */
	struct md_extent_of {    /* all extents of all blobs */
		struct blob *blob;
		struct blob_extent *extent;
		uint64_t index;
	} *extents;
	uint64_t num_extents, room;
	uint64_t clusters; /* of run-length extents */
	bool beyond;    /* a page was named that the used-page mask does not have */
};
/* parse.c: makes a blob of the chain that starts at page `first`. Damage is noted in the blob. -ENOMEM. */
int load_blob(struct blob_store *store, struct md_pages *pages, uint32_t first);
/* The first damage counts. */
void blob_set_damage(struct blob *blob, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* family.c, after all blobs: what was under way is decided (in memory), parents and clones find each other, clusters and
 * pages are marked in the store's bits. */
int load_family(struct blob_store *store, const struct md_pages *pages, struct err *err);
/* recover.c: intents, SNAPTMP, SNAPRM, BERTHDEL. Those that were dropped are blobs until recover_write(). */
int recover_decide(struct blob_store *store);
struct blob *recover_dropped(const struct blob_store *store, unsigned i);
/* What was decided, to the disk, as the store's first change; what cannot be written breaks the store. May call done() at
 * once. */
void recover_write(struct blob_store *store, void (*done)(void *ctx), void *ctx);
void recover_release(struct blob_store *store); /* it was written, or never will be */

/* ---- unload.c ---- */

struct unload *unload_create(void); /* NULL: memory */
void unload_free(struct unload *u); /* accepts NULL */

/* ---- masks.c ---- */

/* Into the store's bits, which had none set. -EILSEQ: a mask's header is not what it must be. */
void masks_read(struct blob_store *store, void (*done)(void *ctx, int status), void *ctx);
/* All three, and a flush. */
void masks_write(struct blob_store *store, void (*done)(void *ctx, int status), void *ctx);

/* ---- store_io.c: the owner's plain requests ---- */

#define STORE_IO_BYTES (1u << 20) /* of one read or write; longer regions are done in pieces */

/* One request at a time, with a buffer of its own. */
struct store_io {
	struct blob_store *store;
	void (*done)(struct store_io *io, int status);
	void *ctx;
	uint64_t at; /* of whoever uses it */
	uint8_t *buf;
	size_t bytes; /* of buf */
	struct defer defer;
	struct iovec iov;
	_Alignas(64) struct blob_dev_io dev;
};
/* bytes 0: no buffer. NULL: memory. */
struct store_io *store_io_create(struct blob_store *store, size_t bytes);
void store_io_free(struct store_io *io); /* accepts NULL */
/* Both in bytes, of whole device blocks. Reads and writes from the start of buf. */
void store_io_submit(struct store_io *io, enum blob_dev_op op, uint64_t offset, uint64_t bytes,
		     void (*done)(struct store_io *io, int status));
/* A flush, when the device needs one; else done() in a later turn. */
void store_io_flush(struct store_io *io, void (*done)(struct store_io *io, int status));
/* The next two may call done() at once, when there is no memory. */
/* The super block, and a flush; *super is not kept. zero: a page of zeroes instead. */
void super_write(struct blob_store *store, const struct blob_super *super, bool zero, void (*done)(void *ctx, int status),
		 void *ctx);
/* Unmaps or zeroes a range in bounded pieces, a few at once; ops that fail are counted into status. */
void store_clear_range(struct blob_store *store, enum blob_dev_op op, uint64_t offset, uint64_t bytes,
		       void (*done)(void *ctx, int status), void *ctx);

/* ---- external.c ---- */

/*
 * An external snapshot, shared by the blobs of one store that name it; it may be missing. A blob has it from external_attach() or
 * external_share() to external_detach(), which does not set blob->below: the caller does, before it detaches.
 */
struct blob_external *external_attach(struct blob *blob, const void *id, size_t bytes); /* NULL: memory. Asks open_external */
struct blob_external *external_share(struct blob_external *external);
/* In the background: after a grace period the last one closes its device. NULL is accepted. */
void external_detach(struct blob_store *store, struct blob_external *external);
bool external_missing(const struct blob_external *external);
uint64_t external_bytes(const struct blob_external *external); /* UINT64_MAX: it is missing. Any thread */
/* Owner, everything is over: closes all devices that are left. */
void external_release_all(struct blob_store *store);
/* On the thread: puts its channels. From the destruction of the store's channel. */
void external_thread_release(struct blob_thread *t);

/* A read of an external snapshot, in the memory of whoever asks, who is in flight until done(). */
struct external_request {
	struct list link;
	struct iovec iov[BLOB_IO_SLICE];
	int iovcnt; /* at most BLOB_IO_SLICE; as long as count */
	uint64_t unit, count; /* in I/O units */
	void (*done)(struct external_request *r, int status); /* on this thread, never from inside: 0; -ENODEV: missing */
	uint64_t result; /* of a seek, in bytes; UINT64_MAX: none */
	enum blob_dev_op op; /* external.c's, from here on */
	struct blob_dev_io *io;
	struct defer defer;
	int status;
	void *channel;
};
/* What lies beyond its end is zeroes. */
void external_read(struct blob_thread *t, struct blob_external *external, struct external_request *r);
/* The next data, or the next hole, from byte `from` on, a multiple of its blocks. -EOPNOTSUPP: it does not know. */
void external_seek(struct blob_thread *t, struct blob_external *external, struct external_request *r, uint64_t from, bool data);

/* ---- holes.c ---- */

/* All zero before it is started; done once, when status is 0: holes_has_data() knows. Not from inside. */
struct holes {
	struct external_request request;
	struct blob_channel *ch;
	struct blob_external *external;
	void (*done)(struct holes *h, int status);
	uint64_t *data; /* a bit a cluster */
	uint64_t clusters, bytes, at; /* at: byte */
	bool in_data, stopped; /* stopped: by the user, it ends with -ECANCELED */
	uint8_t parity;
};
int holes_start(struct holes *h, struct blob_channel *ch, struct blob_external *external,
		void (*done)(struct holes *h, int status));
bool holes_has_data(const struct holes *h, uint64_t cluster);
void holes_release(struct holes *h);

/* ---- volume.c, reap.c, snapshot.c ---- */

/* What a blob is called, in a message. */
#define CALLED(blob) blob_called((blob), (char[BLOB_CALLED_BYTES]){0})
/* It is neither damaged nor deleted: 0, -EILSEQ, -ENOENT. It is not busy: 0, -EBUSY. */
int volume_is_there(const struct blob *blob, struct err *err);
int volume_is_idle(const struct blob *blob, struct err *err);
/* For what a blob's change has to say: what it is called, and what went wrong. Returns code. */
int volume_error(const struct blob *blob, int code, struct err *err);
/* Inside an md_op: ends a blob without clones for good: its first page is zeroed, then it is found no more, its parent is
 * considered, and what it had comes back in the background (blob is not to be used any more). On failure it stays. */
struct volume_erase {
	struct md_tx tx;
	struct blob *blob;
	struct reap *reap;
	void (*done)(void *ctx, int status);
	void *ctx;
	struct defer defer;
	int status;
};
void volume_erase(struct volume_erase *e, struct blob *blob, void (*done)(void *ctx, int status), void *ctx);

/* Whether something below the blob has, or may have, something at a cluster; whatever the size of the blob. */
bool volume_is_below(const struct blob *blob, uint64_t cluster);

/* What a deleted blob, or a map that was cut, gives back: clusters, extent pages, memory; in the background. Both are made
 * before the commit, so that nothing can fail after it. */
struct reap;
struct reap *reap_create(struct blob_store *store, enum blob_clear clear); /* NULL: memory */
void reap_free(struct reap *reap); /* it came to nothing; NULL is accepted */
/* blob is gone, on the disk, too; it was unlinked. */
void reap_blob(struct reap *reap, struct blob *blob);
/* A map nobody has any more: clusters from `from` on are free, and the extents from that which holds it on. */
void reap_map(struct reap *reap, struct blob_map *map, uint64_t from);

/*
 * The intent of a group: on the first of its new snapshots, whose first page is the commit of the whole group, as an
 * internal xattr; it goes with that snapshot's SNAPTMP. Rolled forward when the store is loaded: each original whose SNAP
 * is not its snapshot (all of which have SNAPTMP) gets THIN, SNAP, an empty map, no external snapshot.
 */
#define BLOB_XATTR_GROUP "BERTHGROUP"
#define SNAPSHOT_GROUP_MAX 128u
struct snapshot_pair {
	uint64_t original;
	uint64_t snapshot;
};
/* How many pairs; -EILSEQ. Pure. */
int snapshot_intent_decode(const void *value, size_t bytes, struct snapshot_pair ret_pairs[SNAPSHOT_GROUP_MAX]);

/* ---- merge_queue.c ---- */

/* A deleted snapshot has one clone, or none, left, or was found when the store was loaded: background work. Owner. */
void merge_consider(struct blob *snapshot);
/* The blob's map or place in its family is about to change in this md_op: what was prepared for a merge that it takes part in is
 * dropped; the merge begins anew, or is considered again. */
void merge_disturb(struct blob *blob);
/* A change has ended: merges that waited for it, lacked something or failed go on. */
void merge_kick(struct blob_store *store);
/* There are free clusters again. */
void merge_space(struct blob_store *store);
int merge_init(struct blob_store *store); /* before the first change */
void merge_stop(struct blob_store *store); /* the store is about to be left: nothing of it waits for space any more */
/* No background work is under way any more. From store_free(). */
void merge_release(struct blob_store *store);

/* ---- inflate.c ---- */

/* One cluster at a time becomes the blob's own (blob_touch()), on a channel of the owner. */
struct touch {
	void (*done)(struct touch *touch, int status);
	void *ctx;
	struct blob_channel *ch;
	uint64_t cluster;
	struct blob_io io; /* and the device's room */
};
/* free(); NULL: memory */
struct touch *touch_create(struct blob_channel *ch, void (*done)(struct touch *touch, int status), void *ctx);
void touch_start(struct touch *touch, uint64_t cluster);

#endif
