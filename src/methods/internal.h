/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of src/methods; never leaves it. */
#ifndef METHODS_INTERNAL_H
#define METHODS_INTERNAL_H

#include <uuid/uuid.h>

#include "base/err.h"
#include "methods/methods.h"
#include "rpc/rpc.h"

struct bdev;
struct vhost_info;

#define METHODS_SUBSYSTEM_SCHEDULER "scheduler"
#define METHODS_SUBSYSTEM_BDEV "bdev"
#define METHODS_SUBSYSTEM_VHOST_BLK "vhost_blk"

extern const struct methods_options *methods;
extern uint64_t methods_start_ns;

/* ---- The tables, ended by a NULL name ---- */

extern const struct rpc_method process_methods[];
extern const struct rpc_method framework_methods[];
extern const struct rpc_method scheduler_methods[];
extern const struct rpc_method thread_methods[];
extern const struct rpc_method log_methods[];
extern const struct rpc_method notify_methods[];
extern const struct rpc_method job_methods[];
extern const struct rpc_method bdev_methods[];
extern const struct rpc_method iostat_methods[];
extern const struct rpc_method bdev_null_methods[];
extern const struct rpc_method bdev_malloc_methods[];
extern const struct rpc_method bdev_aio_methods[];
extern const struct rpc_method bdev_uring_methods[];
extern const struct rpc_method vhost_methods[];
extern const struct rpc_method disk_methods[];

/* ---- JSON helpers ---- */

/* {"method","params"}; takes params. */
json_t *call_json(const char *method, json_t *params);
json_t *uuid_json(const uuid_t uuid);
/* Bytes that are no UTF-8 (a file name) show as question marks. */
json_t *text_json(const char *text);
/* Where a thread may run. */
json_t *thread_mask_json(const struct thread *t);
/* Sets key to an absolute path. */
void set_path(json_t *object, const char *key, const char *path);

/* ---- Deleting ---- */

/* Done callback of a module's delete whose ctx is the request: true, or its error. */
void delete_done(void *ctx, int status);
/* A module's delete was refused with rc: true when the state directory knew it and has forgotten
 * it, else the error. */
void delete_refused(struct rpc_request *req, int rc, const struct err *err, const char *family,
		    const char *key, const char *name);

/* Whether a file's block size is 0 (detect it) or possible; else the request has been answered:
 * before the file is touched. */
bool check_block_size(struct rpc_request *req, uint32_t block_size);

/* ---- Bdev modules, as bdev.c sees them ---- */

struct bdev_kind {
	const char *create_method;
	bool (*is)(const struct bdev *bdev);
	/* The parameters of create_method that make bdev, one of this kind, again. */
	json_t *(*params)(const struct bdev *bdev);
	/* Adds to bdev_get_bdevs' driver_specific; may be NULL. */
	void (*driver_specific)(const struct bdev *bdev, json_t *object);
	bool shows_numa_id;
};

extern const struct bdev_kind bdev_null_kind;
extern const struct bdev_kind bdev_malloc_kind;
extern const struct bdev_kind bdev_aio_kind;
extern const struct bdev_kind bdev_uring_kind;

/* The kind of bdev and the parameters that make it again (new reference; may be NULL for ret).
 * NULL: none of ours. */
const struct bdev_kind *bdev_kind_find(const struct bdev *bdev, json_t **ret_params);

/* Answers a create: the recorded parameters are those that make the very same bdev, the result
 * is its name. */
void bdev_created(struct rpc_request *req, const struct bdev *bdev);

/* ---- Who watches bdevs (notify.c keeps the log; bdev.c and disk.c look too) ---- */

void notify_start(void);
void notify_stop(void);
void bdev_waiters_check(const char *name);
void bdev_waiters_end(void);
void disk_bdev_gone(const char *name);
void malloc_bdev_gone(const char *name);

/* ---- Configuration ---- */

void scheduler_config(json_t *calls, bool for_state);
void bdev_config(json_t *calls, bool for_state);
void vhost_config(json_t *calls, bool for_state);
void disk_config(json_t *calls);

/* Whether the state's berth_disk_create makes this bdev, this controller as it is. */
bool disk_has_bdev(const char *bdev_name);
bool disk_has_controller(const struct vhost_info *info);
size_t disk_count(void);

/* Whether mask is that of all reactors. */
bool mask_is_all(const char *mask);

/* ---- Visiting all threads ---- */

struct gather {
	struct msg msg;
	unsigned next;
	struct thread *origin;
	/* On each thread of methods->threads, one after another. */
	void (*visit)(struct gather *g);
	/* Back on the calling thread. */
	void (*done)(struct gather *g);
};

void gather_start(struct gather *g, void (*visit)(struct gather *g),
		  void (*done)(struct gather *g));

#endif
