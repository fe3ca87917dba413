/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What modules that stand on one other bdev have in common: the base is opened and claimed, the
 * module's bdev comes when the base comes and goes when it goes, requests are passed on. docs/
 * bdev-module.md walks through bdevs/passthru, the smallest user.
 *
 * Everything is on the app thread but stack_forward() and what is said to be a channel's.
 */
#ifndef BDEV_STACK_H
#define BDEV_STACK_H

#include <stddef.h>

#include "bdev/module.h"

struct stack;
struct stack_base;

struct stack_ops {
	const char *module_name;

	/* Several bdevs of this module share one base (partitions); else the base has one user. */
	bool share_base;
	/* Its base is there when it is made, and it is deleted when the base goes, instead of waiting for it. */
	bool transient;
	/* Made by an examiner: it is deleted when somebody wants to write to the base, or claim it, while nobody writes to
	 * what was found, nor claims that. */
	bool yields;
	/* Only reads: the base is claimed so that nobody writes. */
	bool read_only;

	/*
	 * s->base is open and claimed, s->bdev filled with what the base is like
	 * (stack_inherit()); changes what is different, and prepares what it needs: a module whose blocks are elsewhere in the
	 * base, and which answers block status itself, clears tells_changes. The bdev is registered afterwards. 0 or -errno.
	 */
	int (*start)(struct stack *s, struct err *err);
	/* Undoes start; the bdev is gone. May be NULL. */
	void (*stop)(struct stack *s);
	/* Frees the object s is embedded in, name and base_name excepted. */
	void (*free)(struct stack *s);
	/* The base has a new size; usually calls bdev_resize(). May be NULL. */
	void (*resized)(struct stack *s);
};

/* Embedded in a module's object, which calloc() made. */
struct stack {
	struct bdev bdev;
	const struct stack_ops *ops;
	char *name;
	char *base_name;
	struct bdev *base; /* NULL while it is awaited */
	struct stack_base *shared;
	struct list link;      /* of all stacks, in the order they were created */
	struct list base_link; /* of shared */
	struct bdev_watch watch;
	uuid_t uuid; /* all zero: made from the base's and the name */
	bool started;
	bool registered;
	bool deleting;
	void (*deleted)(void *ctx, int status);
	void *deleted_ctx;
};

/*
 * Takes s, with s->uuid set or zero, whatever comes of it: freed by ops->free in the end. name and
 * base_name are copied. When there is no base yet, it is awaited: 0, and *ret_bdev (may be NULL) is
 * NULL. 0; -EEXIST (name taken, by a bdev or one that waits for its base); what opening, claiming,
 * start and bdev_register() say.
 */
int stack_create(struct stack *s, const struct stack_ops *ops, const char *name,
		 const char *base_name, struct bdev **ret_bdev, struct err *err);

/* By name, those that wait for their base too. NULL: none of this module. */
struct stack *stack_find(const struct stack_ops *ops, const char *name);
/* The stack that bdev belongs to, NULL: not of this module. */
struct stack *stack_of(const struct bdev *bdev, const struct stack_ops *ops);
/* All of one module: the one after s, the first for NULL; NULL at the end. */
struct stack *stack_next(const struct stack_ops *ops, struct stack *s);

/* done(ctx, 0) when it is gone, perhaps at once. */
void stack_delete(struct stack *s, void (*done)(void *ctx, int status), void *ctx);

/*
 * In start, when s->uuid is zero: the bdev's UUID is made from the name space, in text, and these bytes
 * (version 5), so that it is the same each time.
 */
void stack_set_uuid(struct stack *s, const char *name_space, const void *bytes, size_t length);

/* The same as SPDK makes it for a part of the base: split disks, error disks. */
void stack_set_part_uuid(struct stack *s, uint64_t offset, uint64_t num_blocks);

/*
 * In start: the bdev is num_blocks of the base, from block offset on; requests are forwarded with that offset. 0;
 * -ENOSPC (outside of the base, or nothing); -ENOTSUP (the base is zoned).
 */
int stack_be_part(struct stack *s, uint64_t offset, uint64_t num_blocks, struct err *err);

/* ---- Channels and requests (the channel's thread) ---- */

/* First member of a module's channel context; filled and emptied by the two below, which are
 * bdev_ops.channel_create and _destroy, or called by the module's own. */
struct stack_channel {
	struct bdev_channel *base;
	struct bdev_pass pass;
};
int stack_channel_create(struct bdev *bdev, struct bdev_channel *ch);
void stack_channel_destroy(struct bdev *bdev, struct bdev_channel *ch);
/* bdev_ops.cancel of modules in which nothing waits: the base's does. */
void stack_cancel(struct bdev_channel *ch, int status);

/* Frees nothing: bdev_ops.destruct of all stacked modules, or what their own ends with, at once or later. */
void stack_destruct(struct bdev *bdev);

/* This thread's channel on the base, for what is not a request's: bdev_channel_get(). From start to stop. */
struct bdev_channel *stack_base_channel(struct stack *s, int *ret_rc);

/*
 * The request to the base, in the room that io has for the modules below; `own` bytes of it are
 * the module's own, as it said with stack_room(). Its fields hold anything.
 */
static inline struct bdev_io *
stack_child(struct bdev_io *io, size_t own)
{
	return (struct bdev_io *)(void *)(io->ctx + ((own + CACHE_LINE_BYTES - 1) &
						     ~(size_t)(CACHE_LINE_BYTES - 1)));
}

/* In start: io_ctx_bytes for `own` bytes and one request to the base. */
void stack_room(struct stack *s, size_t own);

/*
 * Gives the base what io asks for, `offset` blocks further on, and ends io as that ends, aborts
 * included. For modules with no room of their own in a request.
 */
void stack_forward(struct bdev_channel *ch, struct bdev_io *io, uint64_t offset);
/* bdev_ops.submit_plain of those that forward plain requests with that offset. */
static inline void
stack_forward_plain(struct bdev_channel *ch, struct bdev_io *io, uint64_t offset)
{
	struct stack_channel *sc = ch->module_ctx;

	if (LIKELY(bdev_may_pass_plain(&sc->pass, io))) {
		bdev_pass_down(&sc->pass, io, io->lba + offset, 0);
	} else {
		stack_forward(ch, io, offset);
	}
}
/* The same for any child: copies the operation and its operands; the caller may then change
 * fields, and submits it to the stack_channel's base. done gets the child. */
void stack_child_init(struct bdev_io *child, struct bdev_io *io, uint64_t offset,
		      void (*done)(struct bdev_io *child, int status));
/* The request that has child in its room. */
static inline struct bdev_io *
stack_parent(struct bdev_io *child, size_t own)
{
	own = (own + CACHE_LINE_BYTES - 1) & ~(size_t)(CACHE_LINE_BYTES - 1);
	return (struct bdev_io *)(void *)((uint8_t *)child - own - offsetof(struct bdev_io, ctx));
}
/* Hands the child's results up and ends io: from inside the child's done. */
void stack_finish(struct bdev_io *io, struct bdev_io *child, int status);

#endif
