/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Descriptors: who has a bdev open, claims, and the events that openers are told: removal and new
 * sizes.
 *
 * Invariants
 *  1. While core->claim is set, only descriptors that hold it write. It lasts as long as one of them.
 *  2. An event reaches every descriptor that was open when it was sent and still is when its turn
 *     comes; what the callbacks open or close meanwhile does no harm.
 *  3. When openers hear of a new size, every channel has it already.
 * Context: the app thread.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "bdev/internal.h"

/* Those who hold the claim only because they have found something, to give it up: all of them, or none. */
static void
ask_claimers(struct bdev_core *core)
{
	struct bdev_desc *desc;

	LIST_FOREACH (desc, &core->descs, link) {
		if (desc->claims && desc->yield == NULL) {
			return;
		}
	}
	LIST_FOREACH (desc, &core->descs, link) {
		if (desc->claims && desc->yield(desc->ctx)) {
			desc->claims = false;
			desc->write = false;
			core->claim_count--;
		}
	}
	if (core->claim_count == 0) {
		core->claim = BDEV_CLAIM_NONE;
	}
}

void
bdev_claim_yields(struct bdev_desc *desc, bool (*yield)(void *ctx))
{
	CHECK(desc->claims);
	desc->yield = yield;
}

static int
may_open(const struct bdev *bdev, const char *name, bool write, struct err *err)
{
	if (bdev == NULL) {
		return err_set(err, -ENODEV, "there is no bdev '%s'", name);
	}
	if (write && bdev->readonly) {
		return err_set(err, -EROFS, "bdev '%s' is read-only", name);
	}
	if (write) {
		ask_claimers(bdev->core);
	}
	if (write && bdev->core->claim != BDEV_CLAIM_NONE) {
		return err_set(err, -EPERM, "bdev '%s' is claimed by %s", name,
			       bdev->core->claim_module);
	}
	return 0;
}

int
bdev_open(const char *name, bool write,
	  void (*event)(void *ctx, struct bdev *bdev, enum bdev_event ev), void *ctx,
	  struct bdev_desc **ret_desc, struct err *err)
{
	struct bdev *bdev = bdev_find(name);
	int rc = may_open(bdev, name, write, err);
	struct bdev_desc *desc;

	if (rc != 0) {
		return rc;
	}
	desc = calloc(1, sizeof(*desc));
	if (desc == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", name);
	}
	desc->bdev = bdev;
	desc->write = write;
	desc->told = true;
	desc->event = event;
	desc->ctx = ctx;
	device_register_in(&desc->device, bdev->name, &channel_device_ops, core_channel_bytes(bdev),
			   &bdev->core->channels);
	qos_desc_init(desc);
	list_append(&bdev->core->descs, &desc->link);
	*ret_desc = desc;
	return 0;
}

int
bdev_open_disk(const char *name, bool write,
	       void (*event)(void *ctx, struct bdev *bdev, enum bdev_event ev), void *ctx,
	       struct bdev_desc **ret_desc, struct err *err)
{
	const struct bdev *bdev = bdev_find(name);

	if (bdev != NULL && bdev_zoned(bdev)) {
		return err_set(err, -EOPNOTSUPP,
			       "bdev '%s' is zoned: whoever takes it for an ordinary disk could not write to it", name);
	}
	return bdev_open(name, write, event, ctx, ret_desc, err);
}

void
bdev_close(struct bdev_desc *desc)
{
	struct bdev_core *core;

	if (desc == NULL) {
		return;
	}
	app_thread_check();
	core = desc->bdev->core;
	list_remove(&desc->link);
	if (desc->claims && --core->claim_count == 0) {
		core->claim = BDEV_CLAIM_NONE;
	}
	device_unregister(&desc->device);
	qos_desc_release(desc);
	free(desc);
	core_try_destroy(core);
}

bool
bdev_needed(const struct bdev *bdev)
{
	const struct bdev_desc *desc;

	LIST_FOREACH (desc, &bdev->core->descs, link) {
		if (desc->write || desc->claims) {
			return true;
		}
	}
	return false;
}

void
bdev_desc_set_since(struct bdev_desc *desc, const struct bdev *since)
{
	app_thread_check();
	CHECK(list_empty(&desc->device.channels));
	desc->since = since;
}

void
bdev_desc_set_since_lost(struct bdev_desc *desc)
{
	static const struct bdev_ops none;
	static const struct bdev nobodys = {.ops = &none};

	bdev_desc_set_since(desc, &nobodys);
}

struct bdev *
bdev_desc_bdev(struct bdev_desc *desc)
{
	return desc->bdev;
}

enum bdev_claim
bdev_claim_held(const struct bdev *bdev)
{
	return bdev->core->claim;
}

/* Others that hold the same kind of claim may be joined, but for WRITE_ONE. */
static bool
may_join(const struct bdev_core *core, enum bdev_claim claim, uint64_t key)
{
	return core->claim == BDEV_CLAIM_NONE ||
	       (core->claim == claim && claim != BDEV_CLAIM_WRITE_ONE &&
		(claim != BDEV_CLAIM_WRITE_SHARED || core->claim_key == key));
}

/* Somebody writes who would not hold the claim. */
static bool
written_by_others(const struct bdev_core *core, const struct bdev_desc *desc,
		  enum bdev_claim claim)
{
	struct bdev_desc *other;

	LIST_FOREACH (other, &core->descs, link) {
		if (other->write && !other->claims &&
		    (other != desc || claim == BDEV_CLAIM_WRITE_NONE)) {
			return true;
		}
	}
	return false;
}

int
bdev_claim(struct bdev_desc *desc, enum bdev_claim claim, uint64_t key, const char *module_name,
	   struct err *err)
{
	struct bdev_core *core = desc->bdev->core;
	const char *name = desc->bdev->name;

	app_thread_check();
	CHECK(claim != BDEV_CLAIM_NONE && !desc->claims);
	if (!may_join(core, claim, key)) {
		ask_claimers(core);
	}
	if (!may_join(core, claim, key)) {
		return err_set(err, -EPERM, "bdev '%s' is claimed by %s", name, core->claim_module);
	}
	if (written_by_others(core, desc, claim)) {
		return err_set(err, -EPERM, "bdev '%s' is open for writing already", name);
	}
	if (claim != BDEV_CLAIM_WRITE_NONE && desc->bdev->readonly) {
		return err_set(err, -EROFS, "bdev '%s' is read-only", name);
	}
	desc->write = claim != BDEV_CLAIM_WRITE_NONE;
	desc->claims = true;
	if (core->claim_count++ == 0) {
		core->claim = claim;
		core->claim_key = key;
		snprintf(core->claim_module, sizeof(core->claim_module), "%s", module_name);
	}
	return 0;
}

/* ---- Events ---- */

static struct bdev_desc *
first_untold(struct bdev_core *core)
{
	struct bdev_desc *desc;

	LIST_FOREACH (desc, &core->descs, link) {
		if (!desc->told) {
			return desc;
		}
	}
	return NULL;
}

void
send_event(struct bdev_core *core, enum bdev_event ev)
{
	struct bdev_desc *desc;

	core_hold(core);
	LIST_FOREACH (desc, &core->descs, link) {
		desc->told = false;
	}
	/* From the start each time: a callback may have closed any descriptor. */
	while ((desc = first_untold(core)) != NULL) {
		desc->told = true;
		if (desc->event != NULL) {
			desc->event(desc->ctx, core->bdev, ev);
		}
	}
	core_unhold(core);
}

/* ---- A new size ---- */

static void
resize_channel(struct bdev_core *core, struct bdev_channel *ch, void *ctx)
{
	ch->num_blocks = bdev_num_blocks(core->bdev);
}

static void
resized_everywhere(struct bdev_core *core, void *ctx)
{
	if (core->resize_again) {
		core->resize_again = false;
		visit_start(&core->resize_visit, core, resize_channel, resized_everywhere, NULL);
		return;
	}
	core->resizing = false;
	if (!atomic_load(&core->removed)) {
		notice(core->bdev, BDEV_RESIZED);
		send_event(core, BDEV_EVENT_RESIZE);
	}
}

int
bdev_resize(struct bdev *bdev, uint64_t num_blocks)
{
	struct bdev_core *core = bdev->core;

	app_thread_check();
	if (num_blocks == 0 || num_blocks > INT64_MAX / bdev->block_size) {
		return -EINVAL;
	}
	if (atomic_load(&core->removed)) {
		return -ENODEV;
	}
	if (num_blocks < bdev->num_blocks && !list_empty(&core->descs)) {
		return -EBUSY;
	}
	if (num_blocks == bdev->num_blocks) {
		return 0;
	}
	__atomic_store_n(&bdev->num_blocks, num_blocks, __ATOMIC_RELEASE);
	if (core->resizing) {
		core->resize_again = true;
		return 0;
	}
	core->resizing = true;
	visit_start(&core->resize_visit, core, resize_channel, resized_everywhere, NULL);
	return 0;
}

/* ---- Read-only ---- */

static void
make_readonly(void *ctx, struct bdev_channel *ch)
{
	ch->readonly = true;
	channel_refresh(core_channel(ch));
}

int
bdev_set_readonly(struct bdev *bdev, void (*done)(void *ctx), void *ctx)
{
	app_thread_check();
	__atomic_store_n(&bdev->readonly, true, __ATOMIC_RELEASE);
	return bdev_for_each_channel(bdev, make_readonly, done, ctx);
}
