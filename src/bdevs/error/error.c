/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A base with errors injected.
 *
 * Invariants
 *  1. What is injected into an operation is a rule, which never changes but for the number of requests left. A new
 *     one takes its place by one atomic store; channels look at the pointer once a request. The old one is freed after
 *     each channel's thread has been visited, so that nobody has it in hand any more.
 *  2. A request that is pending is on its channel's list, and nowhere else. cancel() ends it, when the bdev is reset or
 *     removed, resume gives it to the base.
 *  3. with_base counts what the base has of a channel.
 * Contexts: the app thread; submit, came_back, pending lists: the channel's thread.
 */
#include "bdevs/error/error.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/iov.h"
#include "bdev/stack.h"

#define OWN sizeof(struct error_io)
#define COPY_ALIGN ((size_t)4096)

struct rule {
	struct error_injection what;
	atomic_uint left;
	struct rule *next; /* of those that could not be freed yet */
};

struct error_bdev {
	struct stack stack;
	_Atomic(struct rule *) rules[ERROR_OP_COUNT]; /* NULL: none */
	struct rule *retired;
};

struct error_channel {
	struct stack_channel base;
	struct list pending;
	uint64_t with_base;
};

/* A request's. */
struct error_io {
	struct list link; /* linked: pending */
	bool with_base;
	uint8_t corrupt_value; /* of a read: 0: leave it */
	uint64_t corrupt_offset;
	struct iovec copy; /* a write's data, changed; no base: none */
};

static struct error_bdev *
error_of(struct stack *s)
{
	return CONTAINER_OF(s, struct error_bdev, stack);
}

/* ---- With the base ---- */

static void
corrupt(const struct bdev_io *io, uint64_t offset, uint8_t value)
{
	for (unsigned i = 0; i < io->iovcnt; i++) {
		if (offset < io->iov[i].iov_len) {
			((uint8_t *)io->iov[i].iov_base)[offset] ^= value;
			return;
		}
		offset -= io->iov[i].iov_len;
	}
}

static void
came_back(struct bdev_io *child, int status)
{
	struct bdev_io *io = stack_parent(child, OWN);
	struct error_io *e = bdev_io_ctx(io);
	struct error_channel *ec = io->ch->module_ctx;

	ec->with_base--;
	free(e->copy.iov_base);
	if (status == 0 && e->corrupt_value != 0) {
		corrupt(io, e->corrupt_offset, e->corrupt_value);
	}
	stack_finish(io, child, status);
}

static void
pass_on(struct error_channel *ec, struct bdev_io *io)
{
	struct bdev_io *child = stack_child(io, OWN);
	struct error_io *e = bdev_io_ctx(io);

	stack_child_init(child, io, 0, came_back);
	if (e->copy.iov_base != NULL) {
		child->iov = &e->copy;
		child->iovcnt = 1;
	}
	if (UNLIKELY(io->op == BDEV_ABORT)) {
		child->target = stack_child(io->target, OWN);
	}
	e->with_base = true;
	ec->with_base++;
	bdev_submit(ec->base.base, child);
}

/* ---- What is injected ---- */

static int
op_of(uint8_t op)
{
	switch (op) {
	case BDEV_READ:
		return ERROR_READ;
	case BDEV_WRITE:
		return ERROR_WRITE;
	case BDEV_UNMAP:
		return ERROR_UNMAP;
	case BDEV_FLUSH:
		return ERROR_FLUSH;
	default:
		return -1;
	}
}

/* The rule that this request falls under, which has one less left. */
static const struct error_injection *
fall_under(struct error_bdev *bdev, const struct error_channel *ec, uint8_t op)
{
	int i = op_of(op);
	struct rule *rule =
		i < 0 ? NULL : atomic_load_explicit(&bdev->rules[i], memory_order_acquire);
	unsigned left;

	if (LIKELY(rule == NULL) || ec->with_base < rule->what.queue_depth) {
		return NULL;
	}
	left = atomic_load_explicit(&rule->left, memory_order_relaxed);
	do {
		if (left == 0) {
			return NULL;
		}
	} while (!atomic_compare_exchange_weak_explicit(&rule->left, &left, left - 1,
							memory_order_relaxed, memory_order_relaxed));
	return &rule->what;
}

/* As the NVMe base specification's status codes (figures "Status Code - ...") would reach a reader of errnos. */
static int
nvme_errno(uint32_t sct, uint32_t sc)
{
	static const struct {
		uint8_t sct, sc;
		int status;
	} table[] = {
		{0, 0x01, -EOPNOTSUPP}, /* invalid opcode */
		{0, 0x02, -EINVAL},     /* invalid field */
		{0, 0x07, -ECANCELED},  /* aborted by request */
		{0, 0x08, -ECANCELED},  /* aborted: submission queue deleted */
		{0, 0x80, -EINVAL},     /* block out of range */
		{0, 0x81, -ENOSPC},     /* capacity exceeded */
		{1, 0x82, -EROFS},      /* write to a read-only range */
		{2, 0x82, -EILSEQ},     /* guard check */
		{2, 0x83, -EILSEQ},     /* application tag check */
		{2, 0x84, -EILSEQ},     /* reference tag check */
		{2, 0x85, -EILSEQ},     /* compare failure */
	};

	for (size_t i = 0; i < ARRAY_SIZE(table); i++) {
		if (table[i].sct == sct && table[i].sc == sc) {
			return table[i].status;
		}
	}
	return -EIO;
}

/* What the base is to write instead. */
static int
copy_corrupted(const struct bdev_io *io, struct error_io *e, const struct error_injection *what)
{
	size_t bytes = io->num_blocks << io->ch->block_size_shift;
	size_t align = MAX(COPY_ALIGN, io->ch->buffer_mask + (size_t)1);

	if (what->corrupt_offset >= bytes) {
		return 0;
	}
	e->copy = (struct iovec){
		.iov_base = aligned_alloc(align, (bytes + align - 1) & ~(align - 1)),
		.iov_len = bytes,
	};
	if (e->copy.iov_base == NULL) {
		return -ENOMEM;
	}
	iov_to_buf(io->iov, io->iovcnt, 0, e->copy.iov_base, bytes);
	((uint8_t *)e->copy.iov_base)[what->corrupt_offset] ^= what->corrupt_value;
	return 0;
}

static void
inject(struct error_channel *ec, struct bdev_io *io, const struct error_injection *what)
{
	struct error_io *e = bdev_io_ctx(io);
	int rc = 0;

	switch (what->type) {
	case ERROR_FAILURE:
		rc = -EIO;
		break;
	case ERROR_NVME_FAILURE:
		rc = nvme_errno(what->nvme_sct, what->nvme_sc);
		break;
	case ERROR_NOMEM:
		rc = -ENOMEM;
		break;
	case ERROR_PENDING:
		list_append(&ec->pending, &e->link);
		return;
	case ERROR_CORRUPT_DATA:
		if (io->op == BDEV_WRITE) {
			rc = copy_corrupted(io, e, what);
		} else if (io->op == BDEV_READ) {
			e->corrupt_offset = what->corrupt_offset;
			e->corrupt_value = what->corrupt_value;
		}
		break;
	}
	if (rc != 0) {
		bdev_io_complete(io, rc);
	} else {
		pass_on(ec, io);
	}
}

/* True when the target is not with the base: io has been answered. */
static bool
aborted_here(struct bdev_io *io)
{
	struct error_io *e = bdev_io_ctx(io->target);

	if (e->with_base) {
		return false;
	}
	if (!list_linked(&e->link)) {
		bdev_io_complete(io, -ENOENT); /* its answer is on the way */
		return true;
	}
	list_remove(&e->link);
	bdev_io_complete(io->target, -ECANCELED);
	bdev_io_complete(io, 0);
	return true;
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct error_channel *ec = ch->module_ctx;
	struct error_io *e = bdev_io_ctx(io);
	const struct error_injection *what;

	if (UNLIKELY(io->op == BDEV_ABORT) && aborted_here(io)) {
		return;
	}
	*e = (struct error_io){.with_base = false};
	what = fall_under(ch->bdev->ctx, ec, io->op);
	if (UNLIKELY(what != NULL)) {
		inject(ec, io, what);
	} else {
		pass_on(ec, io);
	}
}

static struct bdev_io *
take_pending(struct error_channel *ec)
{
	struct error_io *e = LIST_FIRST(&ec->pending, struct error_io, link);

	list_remove(&e->link);
	return CONTAINER_OF((void *)e, struct bdev_io, ctx);
}

static void
cancel(struct bdev_channel *ch, int status)
{
	struct error_channel *ec = ch->module_ctx;

	while (!list_empty(&ec->pending)) {
		bdev_io_complete(take_pending(ec), status);
	}
}

static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	list_init(&((struct error_channel *)ch->module_ctx)->pending);
	return stack_channel_create(bdev, ch);
}

static const struct bdev_ops error_ops = {
	.module_name = "error",
	.destruct = stack_destruct,
	.channel_create = channel_create,
	.channel_destroy = stack_channel_destroy,
	.submit = submit,
	.cancel = cancel,
};

/* ---- Rules (app thread) ---- */

static void
visit_nothing(void *ctx, struct bdev_channel *ch)
{
}

static void
free_rule(void *ctx)
{
	free(ctx);
}

static void
set_rule(struct error_bdev *e, int op, struct rule *rule)
{
	struct rule *old = atomic_exchange_explicit(&e->rules[op], rule, memory_order_acq_rel);

	if (old != NULL &&
	    (!e->stack.registered ||
	     bdev_for_each_channel(&e->stack.bdev, visit_nothing, free_rule, old) != 0)) {
		old->next = e->retired;
		e->retired = old;
	}
}

static int
check_injection(const char *name, const struct error_injection *injection, struct err *err)
{
	bool has_code = injection->nvme_sct != 0 || injection->nvme_sc != 0;

	if (injection->type == ERROR_CORRUPT_DATA && injection->corrupt_value == 0) {
		return err_set(err, -EINVAL, "bdev '%s': a corrupt_value of 0 corrupts nothing", name);
	}
	if (has_code != (injection->type == ERROR_NVME_FAILURE)) {
		return err_set(err, -EINVAL, "bdev '%s': nvme_sct and nvme_sc belong to an nvme_failure, "
			       "which needs one of them", name);
	}
	return 0;
}

static struct stack *find(const char *name, struct err *err);

int
bdev_error_inject(const char *name, uint32_t ops, const struct error_injection *injection,
		  struct err *err)
{
	struct stack *s = find(name, err);
	struct rule *rules[ERROR_OP_COUNT] = {NULL};
	bool short_of_memory = false;
	int rc = s == NULL ? -ENODEV : check_injection(name, injection, err);

	if (rc != 0) {
		return rc;
	}
	for (int op = 0; op < ERROR_OP_COUNT && injection->num > 0; op++) {
		rules[op] = calloc(1, sizeof(struct rule));
		short_of_memory = short_of_memory || rules[op] == NULL;
	}
	for (int op = 0; op < ERROR_OP_COUNT; op++) {
		if (short_of_memory || (ops & 1u << op) == 0) {
			free(rules[op]);
			continue;
		}
		if (rules[op] != NULL) {
			rules[op]->what = *injection;
			atomic_init(&rules[op]->left, injection->num);
		}
		set_rule(error_of(s), op, rules[op]);
	}
	return short_of_memory ? err_set(err, -ENOMEM, "bdev '%s': out of memory", name) : 0;
}

int
bdev_error_clear(const char *name, struct err *err)
{
	const struct error_injection none = {.type = ERROR_FAILURE, .num = 0};

	return bdev_error_inject(name, ERROR_ALL_OPS, &none, err);
}

/* ---- Resuming ---- */

struct resume {
	void (*done)(void *ctx, int status);
	void *ctx;
};

static void
resume_channel(void *ctx, struct bdev_channel *ch)
{
	struct error_channel *ec = ch->module_ctx;

	while (!list_empty(&ec->pending)) {
		pass_on(ec, take_pending(ec));
	}
}

static void
resumed(void *ctx)
{
	struct resume r = *(struct resume *)ctx;

	free(ctx);
	r.done(r.ctx, 0);
}

int
bdev_error_resume(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct stack *s = find(name, err);
	struct resume *r;

	if (s == NULL || !s->registered) {
		return s == NULL ? -ENODEV
				 : err_set(err, -ENODEV, "bdev '%s' waits for its base '%s'", name,
					   s->base_name);
	}
	r = calloc(1, sizeof(*r));
	if (r == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", name);
	}
	r->done = done;
	r->ctx = ctx;
	for (int op = 0; op < ERROR_OP_COUNT; op++) {
		struct rule *rule = atomic_load(&error_of(s)->rules[op]);

		if (rule != NULL && rule->what.type == ERROR_PENDING) {
			set_rule(error_of(s), op, NULL);
		}
	}
	if (bdev_for_each_channel(&s->bdev, resume_channel, resumed, r) != 0) {
		free(r);
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", name);
	}
	return 0;
}

/* ---- Life ---- */

static int
start(struct stack *s, struct err *err)
{
	s->bdev.ops = &error_ops;
	s->bdev.ctx = error_of(s);
	s->bdev.product_name = "Error Injection Disk";
	s->bdev.ops_mask |= 1u << BDEV_ABORT;
	s->bdev.channel_ctx_bytes = sizeof(struct error_channel);
	stack_room(s, OWN);
	stack_set_part_uuid(s, 0, s->bdev.num_blocks);
	return 0;
}

static void
release(struct stack *s)
{
	struct error_bdev *e = error_of(s);

	for (int op = 0; op < ERROR_OP_COUNT; op++) {
		free(atomic_load(&e->rules[op]));
	}
	while (e->retired != NULL) {
		struct rule *rule = e->retired;

		e->retired = rule->next;
		free(rule);
	}
	free(e);
}

static void
resized(struct stack *s)
{
	bdev_resize(&s->bdev, bdev_num_blocks(s->base));
}

static const struct stack_ops stack_ops = {
	.module_name = "error",
	.start = start,
	.free = release,
	.resized = resized,
};

static struct stack *
find(const char *name, struct err *err)
{
	struct stack *s = stack_find(&stack_ops, name);

	if (s == NULL) {
		err_set(err, -ENODEV, "there is no error bdev '%s'", name);
	}
	return s;
}

int
bdev_error_create(const struct error_bdev_options *options, struct bdev **ret, struct err *err)
{
	struct error_bdev *e = calloc(1, sizeof(*e));
	char name[BDEV_NAME_BYTES + sizeof(ERROR_NAME_PREFIX)];

	if (e == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", options->base_name);
	}
	snprintf(name, sizeof(name), ERROR_NAME_PREFIX "%s", options->base_name);
	uuid_copy(e->stack.uuid, options->uuid);
	return stack_create(&e->stack, &stack_ops, name, options->base_name, ret, err);
}

int
bdev_error_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct stack *s = find(name, err);

	if (s == NULL) {
		return -ENODEV;
	}
	stack_delete(s, done, ctx);
	return 0;
}

bool
bdev_error_get_options(const struct bdev *bdev, struct error_bdev_options *ret_options)
{
	struct stack *s = stack_of(bdev, &stack_ops);

	if (s != NULL) {
		ret_options->base_name = s->base_name;
		uuid_copy(ret_options->uuid, s->bdev.uuid);
	}
	return s != NULL;
}

bool
bdev_error_list(unsigned i, struct error_bdev_options *ret_options, bool *ret_waits)
{
	struct stack *s = stack_next(&stack_ops, NULL);

	while (s != NULL && i-- > 0) {
		s = stack_next(&stack_ops, s);
	}
	if (s != NULL) {
		ret_options->base_name = s->base_name;
		uuid_copy(ret_options->uuid, s->registered ? s->bdev.uuid : s->uuid);
		*ret_waits = !s->registered;
	}
	return s != NULL;
}
