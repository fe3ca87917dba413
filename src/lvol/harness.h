/* SPDX-License-Identifier: BSD-3-Clause */
/* What the tests of this folder have in common: a stage with disks in memory, and what is asked of stores and
 * volumes, waited for. */
#ifndef LVOL_HARNESS_H
#define LVOL_HARNESS_H

#include "lvol/lvol.h"
#include "testkit/scripted_bdev.h"

#define CLUSTER 65536u
#define CLUSTER_BLOCKS (CLUSTER / 512)

/* What was asked last. */
extern struct err h_err;

void h_start(struct env *env, enum reactor_mode mode, bool real_threads);
/* Unloads all stores, then removes all bdevs. */
void h_stop(struct env *env);

/* A base in memory; UUID text or NULL. */
void h_disk(struct env *env, const char *name, uint64_t bytes, uint32_t block_size, const char *uuid);
struct scripted_bdev *h_disk_of(const char *name);
void h_disk_delete(struct env *env, const char *name);
/* It is gone (its users have let go when this returns), and comes back with all it had. */
void h_disk_pull(struct env *env, const char *name);
void h_disk_push(struct env *env, const char *name);
void h_disk_resize(struct env *env, const char *name, uint64_t bytes);
/* Examines are waited for. */
void h_examined(struct env *env);

/* All: 0, or the error, with its text in h_err. */
int h_store_create(struct env *env, const char *base, const char *name);
int h_store_create_with(struct env *env, const struct lvol_store_options *options);
int h_store_load(struct env *env, const char *base);
int h_store_rename(struct env *env, const char *store, const char *name);
int h_store_grow(struct env *env, const char *store);
int h_store_unload(struct env *env, const char *store);
int h_store_destroy(struct env *env, const char *store);
int h_store_idle(struct env *env, const char *store);
int h_store_limits(struct env *env, const char *store, unsigned low_percent, bool pause);
struct lvol_store_info h_store_info(struct env *env, const char *store);

/* Volumes by "store/volume", or any name that lvol_find() takes. */
int h_create(struct env *env, const char *store, const char *name, uint64_t bytes, bool thin);
int h_snapshot(struct env *env, const char *volume, const char *name);
int h_clone(struct env *env, const char *volume, const char *name);
int h_clone_bdev(struct env *env, const char *store, const char *bdev, const char *name);
int h_rename(struct env *env, const char *volume, const char *name);
int h_resize(struct env *env, const char *volume, uint64_t bytes);
int h_set_read_only(struct env *env, const char *volume);
int h_delete(struct env *env, const char *volume);
int h_inflate(struct env *env, const char *volume);
int h_decouple(struct env *env, const char *volume);
int h_set_parent(struct env *env, const char *volume, const char *parent);
int h_set_parent_bdev(struct env *env, const char *volume, const char *bdev);
struct lvol_info h_info(struct env *env, const char *volume);
bool h_exists(struct env *env, const char *volume);
bool h_has_bdev(struct env *env, const char *name);

/* Opens the bdev, writes or compares a pattern of `seed`, closes. */
void h_write(struct env *env, const char *volume, uint64_t lba, uint64_t blocks, unsigned seed);
void h_expect(struct env *env, const char *volume, uint64_t lba, uint64_t blocks, unsigned seed);
void h_expect_zero(struct env *env, const char *volume, uint64_t lba, uint64_t blocks);

/* Anything on the app thread. */
void h_on_app(struct env *env, void (*fn)(void *arg), void *arg);

#endif
