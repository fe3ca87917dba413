/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Encryption of a volume by one option: a crypto bdev on it, which is an ordinary one from then on. The state directory remembers
 * it by the volume's UUID, and it waits for the volume at the next start.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "bdevs/crypto/crypto.h"
#include "methods/lvol_internal.h"

int
lvol_crypt_make(struct lvol *lvol, const char *key_name, const char *name, struct err *err)
{
	struct crypto_bdev_options o = {
		.name = name, .base_name = lvol_id(lvol), .key_name = key_name};

	return bdev_crypto_create(&o, NULL, err);
}

/* ---- Deleting ---- */

struct search {
	const char *base_name;
	char name[BDEV_NAME_BYTES];
};

static void
look(void *ctx, const struct crypto_bdev_options *o)
{
	struct search *s = ctx;

	if (strcmp(o->base_name, s->base_name) == 0) {
		snprintf(s->name, sizeof(s->name), "%s", o->name);
	}
}

static bool
find(struct search *s, const char *volume_id)
{
	s->base_name = volume_id;
	s->name[0] = '\0';
	bdev_crypto_for_each(look, s);
	return s->name[0] != '\0';
}

bool
lvol_is_encrypted(const char *volume_id)
{
	struct search s;

	return find(&s, volume_id);
}

struct deletion {
	void (*done)(void *ctx);
	void *ctx;
};

static void
deleted(void *ctx, const json_t *result, const json_t *error)
{
	struct deletion *d = ctx;

	d->done(d->ctx);
	free(d);
}

void
lvol_crypt_delete(const char *volume_id, void (*done)(void *ctx), void *ctx)
{
	struct search s;
	struct deletion *d = find(&s, volume_id) ? calloc(1, sizeof(*d)) : NULL;
	json_t *params;

	if (d == NULL) {
		done(ctx);
		return;
	}
	d->done = done;
	d->ctx = ctx;
	params = json_pack("{s:s}", "name", s.name);
	rpc_call("bdev_crypto_delete", params, true, deleted, d);
	json_decref(params);
}
