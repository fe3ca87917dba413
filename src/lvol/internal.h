/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Shared by the files of src/lvol; never leaves it.
 *
 *	store.c     which stores there are, what they are called; renaming, growing, limits
 *	life.c      a store comes: made, or loaded with its volumes; and goes: unloaded, destroyed, hot removed
 *	volume.c    which volumes there are, and what they are like; change.c: what changes them
 *	work.c      long work on volumes, as jobs
 *	bdev.c      the bdev of a volume
 *	dev.c       a bdev as what a blobstore stands on; external.c: as what is below a volume
 *	examine.c   finds stores
 *	op.c        one thing asked for, from the call to done
 *
 * Invariants
 *  1. A name belongs to one store, or to one volume of a store, from the moment somebody asks for it: it is entered before
 *     anything is written, and leaves when what had it is gone for good, or was not made.
 *  2. Every volume that is listed holds a reference of its blob (blob_open()) but those that are damaged; its bdev is
 *     there as long as the volume can be read (neither damaged nor degraded when it came), and nothing takes it away.
 *  3. A store that leaves first lets what was asked for come to its end (store->ops), long work is cancelled; then the bdevs go;
 *     when the last is gone the blobs are closed, and the blobstore ends. Nothing new is begun meanwhile.
 *  4. Each op is answered once, never from inside the call that asked for it.
 * Context: the app thread; bdev.c's I/O: a channel's.
 */
#ifndef LVOL_INTERNAL_H
#define LVOL_INTERNAL_H

#include <stdatomic.h>

#include "base/list.h"
#include "base/names.h"
#include "event/job.h"
#include "lvol/lvol.h"

#define LVOL_MODULE "lvol"
#define LVOL_HIDDEN_PREFIX ".deleted-"
#define LVOL_XATTR_NAME "name"
#define LVOL_XATTR_UUID "uuid"
#define LVOL_XATTR_LIMITS "berth.limits" /* of the super blob: struct limits of store.c */

/* ---- Stores ---- */

enum store_leaving { STORE_STAYS, STORE_UNLOADS, STORE_DESTROYS, STORE_ABANDONS };

struct lvol_store {
	struct list link; /* of all, in the order they came */
	char name[LVOL_NAME_BYTES];
	char new_name[LVOL_NAME_BYTES]; /* while it is renamed; "": not */
	uuid_t uuid;
	char *base_name;
	struct lvol_dev *dev; /* NULL: gone with the blobstore */
	struct blob_store *blobs; /* NULL: not yet, or no more */
	struct blob *super;   /* open */
	struct names by_name; /* volumes */
	struct lvol **by_blob; /* by blob_id() - BLOB_ID_BASE */
	size_t by_blob_count;
	struct list volumes;  /* in the order they came, those on their way in or out included */
	unsigned num_volumes;
	unsigned num_bdevs;   /* registered, and not destructed yet */
	unsigned ops;         /* asked for and not answered */
	struct list works;    /* struct lvol_op: long */
	struct list missing;  /* external.c: struct missing */
	bool external_came;   /* one of them, before the store was there */
	unsigned low_percent;
	bool pause_when_full;
	bool there;           /* can be found */
	bool found;           /* by an examination, and nobody has used it since */
	bool idle;            /* its background work has come to rest since it was loaded */
	_Atomic bool written; /* any thread: somebody who may write has had a volume open */
	int leaving;          /* enum store_leaving */
	bool ending;          /* the blobstore has been told */
	struct list leavers;  /* struct lvol_op: answered when it is gone */
};

/* ---- Volumes ---- */

/* An entry of the store's by_name. */
struct lvol_name {
	struct names_node node;
	struct lvol *lvol;
	char text[LVOL_NAME_BYTES];
};

struct lvol {
	struct bdev bdev;
	struct list link;
	struct lvol_store *store;
	struct blob *blob; /* NULL: not yet, or no more */
	size_t slot;       /* in the store's by_blob */
	struct lvol_name name;
	struct lvol_name new_name; /* while it is renamed */
	char id[LVOL_ID_BYTES];
	char alias[LVOL_ALIAS_BYTES]; /* that the bdev has; "": none */
	uuid_t uuid;
	struct err *damage; /* NULL: none */
	bool there;      /* is listed */
	bool open;       /* the blob */
	bool registered; /* its bdev, and nobody has asked for it to go */
	bool has_bdev;   /* registered, and not destructed yet */
	bool degraded;   /* as it was last told */
	struct lvol_op *deleting; /* NULL: it stays */
	bool delete_begun;
	bool marked;     /* while a group is checked */
	struct lvol_op *working;  /* long work on it */
	struct list resizes;      /* ops; the first is under way */
	unsigned ops;    /* on it, not answered */
};

/* ---- What was asked for ---- */

#define LVOL_XATTRS_MAX 3

/* A volume that a snapshot is taken of. */
struct lvol_part {
	struct lvol *lvol;
	struct lvol *made;
	struct blob_xattr xattrs[LVOL_XATTRS_MAX];
};

/* One op; what each needs besides is at its end. Holds its store and volume. */
struct lvol_op {
	struct list link; /* of a store's works or leavers, of a volume's resizes */
	struct lvol_store *store; /* may be NULL */
	struct lvol *lvol;        /* may be NULL */
	struct lvol *made;        /* the new volume */
	struct lvol_store *made_store; /* life.c: the new store, which it does not hold */
	lvol_done_fn done;        /* one of the three, or none */
	lvol_made_fn made_done;
	lvol_store_made_fn store_done;
	void *ctx;
	int status;
	struct err err;
	struct defer defer;

	/* What is borrowed until it is done. */
	char text[LVOL_NAME_BYTES];
	struct blob_xattr xattrs[LVOL_XATTRS_MAX];
	char origin[UUID_STR_LEN]; /* "": not said */

	uint64_t bytes;
	struct lvol_group_member *members; /* of a group */
	struct lvol_part *parts;           /* snapshots: held, all of them */
	struct blob_snapshot *snapshots;
	unsigned count;
	struct blob_work work;
	struct job *job;
	struct lvol_dev *copy_dev;
	uint32_t copy_id;
	unsigned low_percent;
	bool pause;
};

/* NULL: no memory; the caller answers then. store and lvol may be NULL. */
struct lvol_op *lvol_op_start(struct lvol_store *store, struct lvol *lvol);
/* For functions that end with done: the same, and answers when it returns NULL. */
struct lvol_op *lvol_op_done(struct lvol_store *store, struct lvol *lvol, lvol_done_fn done, void *ctx);
struct lvol_op *lvol_op_made(struct lvol_store *store, struct lvol *lvol, lvol_made_fn done, void *ctx);
/* Answers later, with op->err where status is its code. */
void lvol_op_end(struct lvol_op *op, int status);
/* The same from a callback of the blobstore: takes over its err. */
void lvol_op_end_with(struct lvol_op *op, int status, const struct err *err);
/* As a blob_done_fn whose ctx is the op, for what has nothing else to do. */
void lvol_op_blob_done(void *ctx, int status, const struct err *err);

/* ---- store.c ---- */

extern struct list lvol_stores;

/* A name that may be given. 0, -EINVAL. */
int lvol_name_check(const char *name, const char *what, struct err *err);
/* The text, with its end, that an xattr is. NULL: none, or it has no end within max_bytes. */
const char *lvol_text_xattr(const struct blob *blob, const char *name, size_t max_bytes);
/* A store, or one that is on its way, or another's new name. */
bool lvol_store_name_taken(const char *name, const uuid_t uuid);
/* 0, or why nothing may be begun on it. */
int lvol_store_usable(const struct lvol_store *store, struct err *err);
/* The limits that are kept in it; after loading. */
void lvol_store_read_limits(struct lvol_store *store);
void lvol_store_event(void *ctx, struct blob_store *blobs, enum blob_store_event event);
bool lvol_shutting_down(void);

/* ---- life.c ---- */

/* Loads what is on dev, which it takes and which is claimed; found: by an examination. op, which has no store yet, is
 * answered. */
void lvol_store_open(struct lvol_dev *dev, bool found, struct lvol_op *op);
/* how: enum store_leaving; op, which holds no store, is answered when it is gone; NULL: nobody waits. */
void lvol_store_leave(struct lvol_store *store, int how, struct lvol_op *op);
/* An op has been answered, a bdev is gone, ... */
void lvol_store_proceed(struct lvol_store *store);
void lvol_base_event(void *ctx, struct bdev *bdev, enum bdev_event ev);
/* For bdev_claim_yields(). */
bool lvol_base_yields(void *ctx);

/* ---- volume.c ---- */

/* A volume by that name, on its way in. NULL, and err: the name is taken, memory. uuid: all zero: a new one. */
struct lvol *lvol_new(struct lvol_store *store, const char *name, const uuid_t uuid, struct err *err);
void lvol_free(struct lvol *lvol);
/* Whether it is listed. */
void lvol_set_there(struct lvol *lvol, bool there);
/* The volume a blob is; 0; -ENOENT: it is nobody's (hidden, the super blob); -ENOMEM. */
int lvol_adopt(struct lvol_store *store, struct blob *blob, struct err *err);
/* Of one whose blob is there now. */
int lvol_open_blob(struct lvol *lvol, struct blob *blob, struct err *err);
void lvol_close_blob(struct lvol *lvol);
/* Of a blob; NULL: it has none (hidden, the super blob, not registered yet). */
struct lvol *lvol_of_blob(struct lvol_store *store, const struct blob *blob);
/* Whether a name is free for a volume. 0, -EINVAL, -EEXIST. */
int lvol_check_free(struct lvol_store *store, const char *name, struct err *err);

/* ---- change.c ---- */

/* 0, or why nothing may be changed on it. */
int lvol_usable(struct lvol *lvol, struct err *err);
/* An op that changes it. NULL: it has been answered, or will be. */
struct lvol_op *lvol_start_change(struct lvol *lvol, lvol_done_fn done, void *ctx);
/* An op on it was answered, or its bdev is gone. */
void lvol_proceed(struct lvol *lvol);

/* ---- bdev.c ---- */

/* Registers the bdev of a volume that can be read; harmless when it has one, or cannot. */
int lvol_bdev_register(struct lvol *lvol, struct err *err);
/* lvol->has_bdev ends later: lvol_bdev_gone() comes by. */
void lvol_bdev_unregister(struct lvol *lvol);
/* After a change of the store's or the volume's name. */
void lvol_bdev_set_alias(struct lvol *lvol);

/* ---- dev.c ---- */

struct lvol_dev {
	struct blob_dev dev;
	struct bdev_desc *desc;
	struct bdev *bdev;
	struct lvol_store *store; /* who is told of events, NULL: nobody yet */
	/* Of external snapshots: the store that has it below its volumes, and hears when it goes. */
	struct lvol_store *below;
	void (*left)(struct lvol_dev *d);
	char name[BDEV_NAME_BYTES];
};

/*
 * Opens the bdev, and claims it. claim: WRITE_ONE (store, copy), WRITE_NONE (external). 0; what opening and claiming
 * say; -EOPNOTSUPP: zoned, or with metadata.
 */
int lvol_dev_open(const char *bdev_name, enum bdev_claim claim, struct lvol_dev **ret_dev, struct err *err);
/* The same without a claim, to look. */
int lvol_dev_open_to_look(const char *bdev_name, struct lvol_dev **ret_dev, struct err *err);
int lvol_dev_claim(struct lvol_dev *d, enum bdev_claim claim, struct err *err);
/* For a device that no blobstore took. */
void lvol_dev_close(struct lvol_dev *d);

/* ---- external.c ---- */

/* For struct blob_store_options; ctx: the store. */
struct blob_dev *lvol_open_external(void *ctx, struct blob *blob, const void *id, size_t id_bytes);
/* Those that are awaited are so no more. */
void lvol_external_forget(struct lvol_store *store);
/* What may be complete by now gets its bdev. */
void lvol_external_look(struct lvol_store *store);
/* Others are told when that is new. */
void lvol_tell_degraded(struct lvol *lvol, bool degraded);
/* A bdev is being examined that a store waits for. */
void lvol_external_examined(struct bdev *bdev);
/* Whether what bdev stands on, as far as stores and volumes go, is, or is on, lvol. */
/* The volume of the store that bdev is, or stands on through modules that are no stores; NULL: none. */
struct lvol *lvol_carrier(const struct bdev *bdev, const struct lvol_store *store);
bool lvol_stands_on(const struct bdev *bdev, const struct lvol *lvol);

/* ---- work.c ---- */

void lvol_work_cancel_all(struct lvol_store *store);

#endif
