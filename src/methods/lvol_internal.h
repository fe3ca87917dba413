/* SPDX-License-Identifier: BSD-3-Clause */
/* Shared by the files of methods on volumes. */
#ifndef METHODS_LVOL_INTERNAL_H
#define METHODS_LVOL_INTERNAL_H

#include "lvol/lvol.h"
#include "methods/internal.h"

/*
 * The store that one of the two names. NULL: the request has been answered. SPDK's codes: -22 unless it is exactly one, -19 no
 * such store.
 */
struct lvol_store *lvol_store_named(struct rpc_request *req, const char *uuid, const char *name);

/* The volume, degraded or not; NULL: answered with -19. */
struct lvol *lvol_named(struct rpc_request *req, const char *name);

/* The same that stands below a bdev of that name, encrypted say; NULL: none, and no answer. */
struct lvol *lvol_behind(const char *name);

/* Callbacks whose ctx is the request: true, or the volume's UUID, else the error with SPDK's code for what goes wrong late. What
 * they did is on the store's disk: nothing of it goes to the state directory. */
void lvol_answer_true(void *ctx, int status, const struct err *err);
void lvol_answer_made(void *ctx, struct lvol *lvol, int status, const struct err *err);

/* Success is not to be recorded. */
void lvol_keeps_itself(struct rpc_request *req);

/* SPDK's code for why a volume could not be made. */
int lvol_create_code(int status);

/* A bdev that encrypts on the volume (lvol_crypt.c). */
/* Makes it; err says why not. */
int lvol_crypt_make(struct lvol *lvol, const char *key_name, const char *name, struct err *err);
/* Whether one stands on the volume of that bdev name, or waits for it. */
bool lvol_is_encrypted(const char *volume_id);
/* Deletes it, if there is one: a call of its own. Then done(ctx), perhaps at once. */
void lvol_crypt_delete(const char *volume_id, void (*done)(void *ctx), void *ctx);

#endif
