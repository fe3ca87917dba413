/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Bdevs that stand on another one.
 *
 *            stack_create                base registered
 *   (nothing) ---------> waiting  <-----------------------> running
 *                           |          base removed            |
 *                           +---- stack_delete ----> freed <---+
 *
 * Invariants
 *  1. A stack is on the list `all` from stack_create() until it is freed. Its name belongs to no
 *     other stack, be it waiting or running.
 *  2. While it runs it is on its base's list of users; the base's descriptor is closed after the
 *     last of them has been unregistered and its channels are gone.
 *  3. A base that goes takes its stacks down in their order, each closes in its own time; they wait
 *     again, under the names they had.
 * Context: the app thread; the last part, channels.
 */
#include "bdev/stack.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "bdev/qos.h"
#include "bdev/internal.h"
#include "bdev/qos.h"

/* Parts have the UUIDs that SPDK gives them. */
#define PART_NAME_SPACE "976b899e-3e1e-4d71-ab69-c2b08e9df8b8"

struct stack_base {
	struct bdev_desc *desc;
	struct bdev *bdev;
	const struct stack_ops *ops;
	struct list users;
	struct list link;
	bool removed;
};

static struct list all = {&all, &all};
static struct list bases = {&bases, &bases};

/* ---- Finding ---- */

struct stack *
stack_next(const struct stack_ops *ops, struct stack *s)
{
	struct list *l = s == NULL ? all.next : s->link.next;

	while (l != &all && LIST_ENTRY(l, struct stack, link)->ops != ops) {
		l = l->next;
	}
	return l == &all ? NULL : LIST_ENTRY(l, struct stack, link);
}

struct stack *
stack_find(const struct stack_ops *ops, const char *name)
{
	struct stack *s = NULL;

	while ((s = stack_next(ops, s)) != NULL && strcmp(s->name, name) != 0) {
	}
	return s;
}

struct stack *
stack_of(const struct bdev *bdev, const struct stack_ops *ops)
{
	struct stack *s = NULL;

	while ((s = stack_next(ops, s)) != NULL && &s->bdev != bdev) {
	}
	return s;
}

static bool
name_taken(const char *name)
{
	struct stack *s;

	LIST_FOREACH (s, &all, link) {
		if (strcmp(s->name, name) == 0) {
			return true;
		}
	}
	return bdev_find(name) != NULL;
}

struct bdev *
bdev_base(const struct bdev *bdev, unsigned index)
{
	struct stack *s;

	if (bdev->ops->base != NULL) {
		return bdev->ops->base(bdev, index);
	}
	LIST_FOREACH (s, &all, link) {
		if (&s->bdev == bdev) {
			return index == 0 ? s->base : NULL;
		}
	}
	return NULL;
}

/* ---- The base ---- */

static void
base_event(void *ctx, struct bdev *bdev, enum bdev_event ev)
{
	struct stack_base *base = ctx;
	struct stack *s, *next;

	base->removed = base->removed || ev == BDEV_EVENT_REMOVE;
	LIST_FOREACH_SAFE (s, next, &base->users, base_link) {
		if (ev == BDEV_EVENT_RESIZE) {
			if (s->ops->resized != NULL && s->registered) {
				s->ops->resized(s);
			}
		} else if (s->registered) {
			s->registered = false;
			bdev_unregister(&s->bdev, NULL, NULL);
		}
	}
}

/* Somebody wants the base itself; what was found on it goes, unless it is in use. */
static bool
base_yields(void *ctx)
{
	struct stack_base *base = ctx;
	struct stack *s;

	LIST_FOREACH (s, &base->users, base_link) {
		if (s->registered && bdev_needed(&s->bdev)) {
			return false;
		}
	}
	base_event(base, base->bdev, BDEV_EVENT_REMOVE);
	return true;
}

static struct stack_base *
shared_base(const struct stack *s, const struct bdev *bdev)
{
	struct stack_base *base;

	LIST_FOREACH (base, &bases, link) {
		if (base->bdev == bdev && base->ops == s->ops && s->ops->share_base &&
		    !base->removed) {
			return base;
		}
	}
	return NULL;
}

static int
open_base(const struct stack *s, const struct bdev *bdev, struct stack_base **ret_base,
	  struct err *err)
{
	struct stack_base *base = calloc(1, sizeof(*base));
	bool write = !s->ops->read_only && !bdev_readonly(bdev);
	int rc;

	if (base == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", s->name);
	}
	rc = bdev_open(bdev_name(bdev), write, base_event, base, &base->desc, err);
	if (rc == 0) {
		rc = bdev_claim(base->desc, write ? BDEV_CLAIM_WRITE_ONE : BDEV_CLAIM_WRITE_NONE, 0,
				s->ops->module_name, err);
	}
	if (rc != 0) {
		bdev_close(base->desc);
		free(base);
		return rc;
	}
	if (s->ops->yields) {
		bdev_claim_yields(base->desc, base_yields);
	}
	bdev_desc_set_user(base->desc, s->name);
	base->bdev = bdev_desc_bdev(base->desc);
	base->ops = s->ops;
	list_init(&base->users);
	list_append(&bases, &base->link);
	*ret_base = base;
	return 0;
}

static void
leave_base(struct stack *s)
{
	struct stack_base *base = s->shared;

	list_remove(&s->base_link);
	s->shared = NULL;
	s->base = NULL;
	if (list_empty(&base->users)) {
		list_remove(&base->link);
		bdev_close(base->desc);
		free(base);
	}
}

/* ---- Running ---- */

/* What is asked of the stack is asked of the base: it looks the same until start changes it. */
static void
inherit(struct stack *s)
{
	const struct bdev *base = s->base;
	struct bdev *bdev = &s->bdev;

	*bdev = (struct bdev){
		.name = s->name,
		.block_size = base->block_size,
		.physical_block_size = base->physical_block_size,
		.num_blocks = bdev_num_blocks(base),
		.unmap_granularity_blocks = base->unmap_granularity_blocks,
		.write_cache = base->write_cache,
		.native_fua = true, /* the base's core adds the flush */
		.readonly = base->readonly || s->ops->read_only,
		.tells_changes = base->tells_changes,
		.md_bytes = base->md_bytes,
		.md_interleave = base->md_interleave,
		.dif_head_of_md = base->dif_head_of_md,
		.dif_type = base->dif_type,
		.dif_pi_format = base->dif_pi_format,
		.dif_check_flags = base->dif_check_flags,
		.zone_blocks = base->zone_blocks,
		.max_open_zones = base->max_open_zones,
		.max_active_zones = base->max_active_zones,
		.optimal_open_zones = base->optimal_open_zones,
		.max_append_blocks = base->max_append_blocks,
		.channel_ctx_bytes = sizeof(struct stack_channel),
	};
	for (int op = 0; op < BDEV_OP_COUNT; op++) {
		if (bdev_supports_natively(base, op)) {
			bdev->ops_mask |= 1u << op;
		}
	}
	/* What the core emulates it emulates once, above. A reset is passed on: the base, or what is below
	 * it, may let requests wait that only a reset ends. */
	bdev->ops_mask &= ~(1u << BDEV_ABORT);
	bdev->ops_mask |= 1u << BDEV_RESET;
	/* The same at each start, so that what refers to it finds it. */
	if (uuid_is_null(s->uuid)) {
		uuid_generate_sha1(bdev->uuid, base->uuid, s->name, strlen(s->name));
	} else {
		uuid_copy(bdev->uuid, s->uuid);
	}
	stack_room(s, 0);
}

void
stack_set_uuid(struct stack *s, const char *name_space, const void *bytes, size_t length)
{
	uuid_t ns;

	if (uuid_is_null(s->uuid)) {
		CHECK(uuid_parse(name_space, ns) == 0);
		uuid_generate_sha1(s->bdev.uuid, ns, bytes, length);
	}
}

void
stack_set_part_uuid(struct stack *s, uint64_t offset, uint64_t num_blocks)
{
	struct {
		uuid_t base;
		uint64_t offset;
		uint64_t num_blocks;
	} id = {.offset = offset, .num_blocks = num_blocks};

	uuid_copy(id.base, s->base->uuid);
	stack_set_uuid(s, PART_NAME_SPACE, &id, sizeof(id));
}

int
stack_be_part(struct stack *s, uint64_t offset, uint64_t num_blocks, struct err *err)
{
	if (s->base->zone_blocks != 0) {
		return err_set(err, -ENOTSUP, "bdev '%s' is zoned, and cannot be divided", s->base_name);
	}
	if (num_blocks == 0 || offset > s->bdev.num_blocks ||
	    num_blocks > s->bdev.num_blocks - offset) {
		return err_set(err, -ENOSPC, "bdev '%s' does not fit into '%s'", s->name, s->base_name);
	}
	s->bdev.num_blocks = num_blocks;
	/* Positions that the base finds may be outside; the core finds them by block status. */
	s->bdev.ops_mask &= ~(1u << BDEV_SEEK_DATA | 1u << BDEV_SEEK_HOLE);
	if (s->bdev.dif_type != 0) { /* its tags count the base's blocks */
		s->bdev.md_bytes = 0;
		s->bdev.dif_type = 0;
		s->bdev.dif_check_flags = 0;
	}
	stack_set_part_uuid(s, offset, num_blocks);
	return 0;
}

static void
stop(struct stack *s)
{
	if (s->started && s->ops->stop != NULL) {
		s->ops->stop(s);
	}
	s->started = false;
	leave_base(s);
}

static int
run(struct stack *s, struct bdev *bdev, struct err *err)
{
	struct stack_base *base = shared_base(s, bdev);
	int rc = base == NULL ? open_base(s, bdev, &base, err) : 0;

	if (rc != 0) {
		return rc;
	}
	s->shared = base;
	s->base = base->bdev;
	list_append(&base->users, &s->base_link);
	inherit(s);
	rc = s->ops->start(s, err);
	s->started = rc == 0;
	if (rc == 0) {
		rc = bdev_register(&s->bdev, err);
	}
	if (rc != 0) {
		stop(s);
		return rc;
	}
	s->registered = true;
	return 0;
}

static void await(struct stack *s);

static void
base_came(struct bdev_watch *w, struct bdev *bdev)
{
	struct stack *s = CONTAINER_OF(w, struct stack, watch);
	struct err err = ERR_NONE;

	if (run(s, bdev, &err) != 0) {
		LOG_WARNING(BDEV, s->name, "cannot stand on '%s': %s", s->base_name,
			    err_text(&err));
		await(s);
	}
}

static void
await(struct stack *s)
{
	bdev_watch_start(&s->watch, s->base_name, base_came);
}

static void
release(struct stack *s)
{
	char *name = s->name, *base_name = s->base_name;

	bdev_watch_stop(&s->watch);
	list_remove(&s->link);
	s->ops->free(s);
	free(name);
	free(base_name);
}

/* ---- Life ---- */

int
stack_create(struct stack *s, const struct stack_ops *ops, const char *name, const char *base_name,
	     struct bdev **ret_bdev, struct err *err)
{
	struct bdev *base = bdev_find(base_name);
	bool taken = name_taken(name);
	int rc = 0;

	s->ops = ops;
	s->name = strdup(name);
	s->base_name = strdup(base_name);
	list_append(&all, &s->link);
	if (s->name == NULL || s->base_name == NULL) {
		rc = err_set(err, -ENOMEM, "bdev '%s': out of memory", name);
	} else if (taken) {
		rc = err_set(err, -EEXIST, "a bdev named '%s' exists already", name);
	} else if (base != NULL) {
		rc = run(s, base, err);
	} else if (ops->transient) {
		rc = err_set(err, -ENODEV, "there is no bdev '%s'", base_name);
	} else {
		LOG_NOTICE(BDEV, name, "waits for its base '%s'", base_name);
		await(s);
	}
	if (ret_bdev != NULL) {
		*ret_bdev = rc == 0 && s->registered ? &s->bdev : NULL;
	}
	if (rc != 0) {
		release(s);
	}
	return rc;
}

static void
finish_delete(struct stack *s)
{
	void (*deleted)(void *ctx, int status) = s->deleted;
	void *ctx = s->deleted_ctx;

	release(s);
	if (deleted != NULL) {
		deleted(ctx, 0);
	}
}

void
stack_destruct(struct bdev *bdev)
{
	struct stack *s = CONTAINER_OF(bdev, struct stack, bdev);
	struct bdev *base;

	stop(s);
	if (s->deleting || s->ops->transient) {
		finish_delete(s);
		return;
	}
	/* The base may have come again before the last user of this one was gone. */
	base = bdev_find(s->base_name);
	if (base != NULL) {
		base_came(&s->watch, base);
	} else {
		await(s);
	}
}

void
stack_delete(struct stack *s, void (*done)(void *ctx, int status), void *ctx)
{
	if (s->deleting) {
		done(ctx, -EBUSY);
		return;
	}
	s->deleting = true;
	s->deleted = done;
	s->deleted_ctx = ctx;
	if (s->registered) {
		s->registered = false;
		bdev_unregister(&s->bdev, NULL, NULL);
	} else if (s->shared == NULL) {
		finish_delete(s);
	}
	/* Else it is on its way out with its base, and stack_destruct() comes by. */
}

/* ---- Channels and requests ---- */

void
stack_room(struct stack *s, size_t own)
{
	own = (own + CACHE_LINE_BYTES - 1) & ~(size_t)(CACHE_LINE_BYTES - 1);
	s->bdev.io_ctx_bytes = own + bdev_io_bytes(s->base);
}

struct bdev_channel *
stack_base_channel(struct stack *s, int *ret_rc)
{
	return bdev_channel_get(s->shared->desc, ret_rc);
}

int
stack_channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct stack *s = CONTAINER_OF(bdev, struct stack, bdev);
	struct stack_channel *sc = ch->module_ctx;
	int rc = 0;

	sc->base = stack_base_channel(s, &rc);
	if (sc->base == NULL) {
		return rc;
	}
	bdev_pass_open(&sc->pass, ch, sc->base, 0, NULL);
	return 0;
}

void
stack_channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct stack_channel *sc = ch->module_ctx;

	bdev_pass_close(&sc->pass);
	bdev_channel_put(sc->base);
}

void
stack_cancel(struct bdev_channel *ch, int status)
{
	struct stack_channel *sc = ch->module_ctx;

	bdev_channel_give_up(sc->base);
}

static inline __attribute__((always_inline)) void
child_init(struct bdev_io *child, struct bdev_io *io, uint64_t offset,
	   void (*done)(struct bdev_io *child, int status))
{
	child->done = done;
	child->iov = io->iov;
	child->lba = io->lba + offset;
	child->num_blocks = io->num_blocks;
	bdev_io_set_kind(child, (enum bdev_op)io->op, io->flags & (BDEV_IO_FUA | BDEV_IO_MAY_UNMAP | BDEV_IO_MD), io->iovcnt);
	if (UNLIKELY(io->op > BDEV_RESET || (io->flags & BDEV_IO_MD) != 0)) {
		child->md = io->md;
		child->write_iov = io->write_iov; /* and what else is in the union */
		child->write_iovcnt = io->write_iovcnt;
		child->max_results = io->max_results;
		if (io->op == BDEV_COPY) {
			child->src_lba += offset;
		} else if (io->op == BDEV_BLOCK_STATUS) {
			child->since = bdev_io_since(io);
			child->flags |= BDEV_IO_SINCE;
		}
	}
}

void
stack_child_init(struct bdev_io *child, struct bdev_io *io, uint64_t offset,
		 void (*done)(struct bdev_io *child, int status))
{
	child_init(child, io, offset, done);
}

void
stack_finish(struct bdev_io *io, struct bdev_io *child, int status)
{
	if (UNLIKELY(io->op > BDEV_RESET)) {
		io->result = child->result;
	}
	bdev_io_complete_now(io, status);
}

static void
forwarded(struct bdev_io *child, int status)
{
	stack_finish(stack_parent(child, 0), child, status);
}

void
stack_forward(struct bdev_channel *ch, struct bdev_io *io, uint64_t offset)
{
	struct stack_channel *sc = ch->module_ctx;
	struct bdev_io *child = stack_child(io, 0);

	if (io->op <= BDEV_WRITE && LIKELY(bdev_may_pass(&sc->pass, io, io->lba + offset))) {
		bdev_pass_down(&sc->pass, io, io->lba + offset, 0);
		return;
	}
	child_init(child, io, offset, forwarded);
	if (UNLIKELY(io->op == BDEV_ABORT)) {
		/* Passed down from here, not to here. */
		bool passed = bdev_io_is_passed(io->target) && io->target->ch == sc->base;

		child->target = passed ? io->target : stack_child(io->target, 0);
	}
	bdev_submit(sc->base, child);
}
