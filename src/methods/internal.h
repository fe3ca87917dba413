/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Shared by the files of src/methods; never leaves it.
 *
 * How a module joins. Its methods: a schema file in src/rpc/schema, "mutates": true for each that makes or changes what shall
 * be there after a restart; a table here and in methods.c. framework_get_config, the state directory and `berth config` then
 * need to know how to make its objects again:
 *  - One create, one bdev: a struct bdev_kind in bdev.c's kinds[]. The create ends with bdev_created(), what changes the
 *    bdev afterwards with bdev_changed(): both record the create with the parameters that make it as it is now.
 *  - A bdev that no call made (a partition, an array found by its superblock): its kind's params() says NULL.
 *  - Waits for its base, so that there is no bdev: kind's waiting(). Creates are accepted before their base is there.
 *  - Anything else (limits, exports, keys, options): a row in methods.c's parts[].
 * Recorded are names, never aliases or UUIDs that a client may have used, and no secrets (rpc_set_recorded_params(),
 * rpc_set_recorded_call()). A method that names its object otherwise than the rest of "bdev_..." with "name" needs a line
 * in the table of app/state_calls.c. Deleting ends with delete_done(), its refusal with delete_refused().
 * tests/e2e/state_test.py has an example of every mutating method, and fails when one is missing.
 */
#ifndef METHODS_INTERNAL_H
#define METHODS_INTERNAL_H

#include <uuid/uuid.h>

#include "base/err.h"
#include "methods/methods.h"
#include "rpc/rpc.h"

struct bdev;
struct vhost_info;

/* Of framework_get_subsystems, in their order. depends_on: names with commas between. */
struct methods_subsystem {
	const char *name;
	const char *depends_on;
};
extern const struct methods_subsystem methods_subsystems[]; /* ends with a NULL name */

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
extern const struct rpc_method qos_methods[];
extern const struct rpc_method histogram_methods[];
extern const struct rpc_method bdev_null_methods[];
extern const struct rpc_method bdev_malloc_methods[];
extern const struct rpc_method bdev_aio_methods[];
extern const struct rpc_method bdev_uring_methods[];
extern const struct rpc_method bdev_passthru_methods[];
extern const struct rpc_method bdev_qcow2_methods[];
extern const struct rpc_method bdev_raid_methods[];
extern const struct rpc_method bdev_zone_block_methods[];
extern const struct rpc_method bdev_crypto_methods[];
extern const struct rpc_method bdev_virtio_methods[];
extern const struct rpc_method bdev_nbd_methods[];
extern const struct rpc_method bdev_iscsi_methods[];
extern const struct rpc_method bdev_rbd_methods[];
extern const struct rpc_method bdev_powercut_methods[];
extern const struct rpc_method bdev_split_methods[];
extern const struct rpc_method bdev_delay_methods[];
extern const struct rpc_method bdev_error_methods[];
extern const struct rpc_method lvol_store_methods[];
extern const struct rpc_method lvol_methods[];
extern const struct rpc_method lvol_data_methods[];
extern const struct rpc_method vhost_methods[];
extern const struct rpc_method disk_methods[];
extern const struct rpc_method disk_store_methods[];
extern const struct rpc_method nbd_methods[];
extern const struct rpc_method nbd_lend_methods[];

/* ---- JSON helpers ---- */

/* {"method","params"}; takes params. */
json_t *call_json(const char *method, json_t *params);
json_t *uuid_json(const uuid_t uuid);
/* "uuid", where there is one. */
void set_uuid(json_t *object, const uuid_t uuid);
/* Bytes that are no UTF-8 (a file name) show as question marks. */
json_t *text_json(const char *text);
/* Where there is a text. */
void set_text(json_t *object, const char *key, const char *text);
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
		    const char *name);
/* A whole method of that kind: fn deletes by name. */
void delete_by_name(struct rpc_request *req, const char *name, const char *family,
		    int (*fn)(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err));

/* Whether a file's block size is 0 (detect it) or possible; else the request has been answered:
 * before the file is touched. */
bool check_block_size(struct rpc_request *req, uint32_t block_size);

/* ---- Bdev modules, as bdev.c sees them ---- */

struct bdev_kind {
	const char *create_method;
	bool (*is)(const struct bdev *bdev);
	/* The parameters of create_method that make bdev, one of this kind, again. NULL: it comes by itself, or with
	 * another that has them. */
	json_t *(*params)(const struct bdev *bdev);
	/* Adds to bdev_get_bdevs' driver_specific; may be NULL. */
	void (*driver_specific)(const struct bdev *bdev, json_t *object);
	bool shows_numa_id;
	/* Adds the creates of those that wait for their base: calls of call_json(). May be NULL. */
	void (*waiting)(json_t *calls);
};

extern const struct bdev_kind bdev_null_kind;
extern const struct bdev_kind bdev_malloc_kind;
extern const struct bdev_kind bdev_aio_kind;
extern const struct bdev_kind bdev_uring_kind;
extern const struct bdev_kind bdev_passthru_kind;
extern const struct bdev_kind bdev_qcow2_kind;
extern const struct bdev_kind bdev_raid_kind;
extern const struct bdev_kind bdev_gpt_kind;
extern const struct bdev_kind bdev_zone_block_kind;
extern const struct bdev_kind bdev_crypto_kind;
extern const struct bdev_kind bdev_virtio_kind;
extern const struct bdev_kind bdev_nbd_kind;
extern const struct bdev_kind bdev_iscsi_kind;
extern const struct bdev_kind bdev_rbd_kind;
extern const struct bdev_kind bdev_powercut_kind;
extern const struct bdev_kind bdev_split_kind;
extern const struct bdev_kind bdev_delay_kind;
extern const struct bdev_kind bdev_error_kind;
extern const struct bdev_kind bdev_lvol_kind;

/* The kind of bdev and the parameters that make it again (new reference; may be NULL for ret).
 * NULL: none of ours. */
const struct bdev_kind *bdev_kind_find(const struct bdev *bdev, json_t **ret_params);

/* assigned_rate_limits. */
json_t *qos_limits_json(const struct bdev *b);
/* The parameters of bdev_enable_histogram that make the bdev keep what it keeps. */
json_t *histogram_params(const struct bdev *b);

/* Answers a create: the recorded parameters are those that make the very same bdev, the result
 * is its name. */
void bdev_created(struct rpc_request *req, const struct bdev *bdev);
/* The same for what came to rc, and may have to wait for its base (bdev is NULL then). */
void bdev_created_or_waits(struct rpc_request *req, int rc, const struct err *err, const struct bdev *bdev,
			   const char *name);
/* Answers true to what changed a bdev: recorded is the create that makes it as it is now. */
void bdev_changed(struct rpc_request *req, const struct bdev *bdev);

/* ---- Who watches bdevs (notify.c keeps the log; bdev.c and disk.c look too) ---- */

void notify_start(void);
void notify_stop(void);
void bdev_waiters_check(const char *name);
void bdev_waiters_end(void);
void disk_bdev_gone(const char *name);
void malloc_bdev_gone(const char *name);

/* ---- What is set by the name of a bdev that is away (kept.c) ---- */

void kept_bdev_leaves(const char *name);
void kept_bdev_came(const char *name);
/* Something was deleted. */
void kept_sweep(void);
/* This was, for ever. */
void kept_drop(const char *name);
/* There is no such bdev: true, and answered, when one waits under this name and the call is kept for it. */
bool kept_set(struct rpc_request *req, const char *method, const char *name);

/* ---- Configuration ---- */

/* Rows of methods.c's parts[]: each adds its calls. for_state: as little as makes the same again; otherwise for people and
 * other programs, as SPDK writes it. */
void scheduler_config(json_t *calls, bool for_state);
void accel_config(json_t *calls, bool for_state);
void bdev_options_config(json_t *calls, bool for_state);
void raid_options_config(json_t *calls, bool for_state);
void bdev_config(json_t *calls, bool for_state);
void bdev_examine_config(json_t *calls, bool for_state);
/* Creates of bdevs that wait for their base. */
void bdev_waiting_config(json_t *calls);
void qos_config(json_t *calls, bool for_state);
/* The part of qos_config() that is one bdev's. */
void qos_calls(json_t *calls, const struct bdev *b);
void kept_config(json_t *calls, bool for_state);
void vhost_config(json_t *calls, bool for_state);
void disk_config(json_t *calls, bool for_state);
void nbd_config(json_t *calls, bool for_state);
void iscsi_options_config(json_t *calls, bool for_state);
void rbd_clusters_config(json_t *calls, bool for_state);

/* What is lent (nbd_lend.c): servers and exports whose names begin so are shown to nobody. */
#define NBD_LENT_PREFIX ".lent-"
void nbd_lend_stop(void);
/* Somebody needs the bdev: a loan of it that nobody has come for, and not just begun, ends. */
void nbd_lend_end_unclaimed(const struct bdev *bdev);

/* Whether the state's berth_disk_create makes this bdev, this controller as it is. */
bool disk_has_bdev(const char *bdev_name);
/* Its name; NULL: no disk has the bdev. */
const char *disk_of_bdev(const char *bdev_name);
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
