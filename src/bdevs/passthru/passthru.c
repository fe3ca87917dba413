/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Every request goes to the base as it is. bdev/stack.c opens and claims the base, waits for it,
 * and takes the bdev down when it goes; a request's child lives in the room behind it.
 *
 * Contexts: submit on the channel's thread, all else on the app thread.
 */
#include "bdevs/passthru/passthru.h"

#include <errno.h>
#include <stdlib.h>

#include "bdev/stack.h"

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	stack_forward(ch, io, 0);
}

static void
submit_plain(struct bdev_channel *ch, struct bdev_io *io)
{
	stack_forward_plain(ch, io, 0);
}

static const struct bdev_ops passthru_ops = {
	.module_name = "passthru",
	.destruct = stack_destruct,
	.channel_create = stack_channel_create,
	.channel_destroy = stack_channel_destroy,
	.cancel = stack_cancel,
	.submit = submit,
	.submit_plain = submit_plain,
};

static int
start(struct stack *s, struct err *err)
{
	s->bdev.ops = &passthru_ops;
	s->bdev.product_name = "passthru";
	s->bdev.ops_mask |= 1u << BDEV_ABORT;
	return 0;
}

static void
resized(struct stack *s)
{
	bdev_resize(&s->bdev, bdev_num_blocks(s->base));
}

static void
release(struct stack *s)
{
	free(s);
}

static const struct stack_ops stack_ops = {
	.module_name = "passthru",
	.start = start,
	.free = release,
	.resized = resized,
};

int
bdev_passthru_create(const struct passthru_bdev_options *options, struct bdev **ret,
		     struct err *err)
{
	struct stack *s = calloc(1, sizeof(*s));

	if (s == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->name);
	}
	uuid_copy(s->uuid, options->uuid);
	return stack_create(s, &stack_ops, options->name, options->base_name, ret, err);
}

int
bdev_passthru_delete(const char *name, void (*done)(void *ctx, int status), void *ctx,
		     struct err *err)
{
	struct stack *s = stack_find(&stack_ops, name);

	if (s == NULL) {
		return err_set(err, -ENODEV, "there is no passthru bdev '%s'", name);
	}
	stack_delete(s, done, ctx);
	return 0;
}

static void
tell_options(const struct stack *s, struct passthru_bdev_options *ret_options)
{
	ret_options->name = s->name;
	ret_options->base_name = s->base_name;
	uuid_copy(ret_options->uuid, s->registered ? s->bdev.uuid : s->uuid);
}

bool
bdev_passthru_get_options(const struct bdev *bdev, struct passthru_bdev_options *ret_options)
{
	struct stack *s = stack_of(bdev, &stack_ops);

	if (s != NULL) {
		tell_options(s, ret_options);
	}
	return s != NULL;
}

bool
bdev_passthru_list(unsigned i, struct passthru_bdev_options *ret_options)
{
	struct stack *s = stack_next(&stack_ops, NULL);

	while (s != NULL && i-- > 0) {
		s = stack_next(&stack_ops, s);
	}
	if (s != NULL) {
		tell_options(s, ret_options);
	}
	return s != NULL;
}
