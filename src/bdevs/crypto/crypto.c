/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A crypto bdev on one thread: a pair of cipher contexts, buffers, the base's channel.
 *
 * Both ways go through buffers of our own, and cost no copy for it, for the cipher itself moves the data:
 *   write  the guest's memory -> cipher -> buffer -> base
 *   read   base -> buffer -> cipher -> the guest's memory
 * A guest's memory is never encrypted in place, for it is the guest's. It is not decrypted in place either: the guest could
 * change what is in it after the base has put it there, and would have what it likes decrypted with the key, which other disks
 * may share; and it would see what the base holds.
 *
 * Invariants
 *  1. Buffers come from two bounded pools of the process, and one large one is the channel's own. A request that gets none is
 *     put back in the core's queue; then this channel has a request under way that will return one.
 *  2. A buffer that is given back holds nothing decrypted (xts_decrypt()), and the base nothing that is not encrypted: zeroes
 *     are written by writes (the core's), never by the base's write zeroes.
 *  3. Unmap is passed on: it shows which blocks are not used, and these read as garbage afterwards, as SPDK has it.
 * Contexts: the channel's thread; the second half, the app thread.
 */
#include "bdevs/crypto/crypto.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/list.h"
#include "base/log.h"
#include "bdev/stack.h"
#include "bdevs/crypto/key.h"
#include "mem/pool.h"

#define SMALL_BYTES ((size_t)4096)
#define LARGE_BYTES ((size_t)65536)
_Static_assert(LARGE_BYTES >= BDEV_BLOCK_SIZE_MAX, "a block fits");

/* 32 MiB each. */
static struct mem_pool small_pool = MEM_POOL_INIT(SMALL_BYTES, SMALL_BYTES, 8192);
static struct mem_pool large_pool = MEM_POOL_INIT(LARGE_BYTES, SMALL_BYTES, 512);

struct crypto {
	struct stack stack;
	struct crypto_key *key;
};

struct crypto_channel {
	struct stack_channel base;
	struct xts *xts;
	struct mem_cache small;
	struct mem_cache large;
	void *reserve;
	bool reserve_used;
};

/* The module's room in a request, in front of the base's request. */
struct crypto_io {
	struct iovec iov; /* the buffer, as long as the data */
};
#define OWN sizeof(struct crypto_io)

/* ---- Buffers ---- */

static void *
take(struct crypto_channel *c, size_t bytes)
{
	void *buffer = mem_cache_get(bytes <= SMALL_BYTES ? &c->small : &c->large);

	if (UNLIKELY(buffer == NULL) && !c->reserve_used) {
		c->reserve_used = true;
		buffer = c->reserve;
	}
	return buffer;
}

static void
give(struct crypto_channel *c, const struct iovec *iov)
{
	if (UNLIKELY(iov->iov_base == c->reserve)) {
		c->reserve_used = false;
	} else {
		mem_cache_put(iov->iov_len <= SMALL_BYTES ? &c->small : &c->large, iov->iov_base);
	}
}

/* ---- Requests ---- */

static void
written(struct bdev_io *child, int status)
{
	struct bdev_io *io = stack_parent(child, OWN);
	struct crypto_io *own = bdev_io_ctx(io);

	give(io->ch->module_ctx, &own->iov);
	stack_finish(io, child, status);
}

static void
was_read(struct bdev_io *child, int status)
{
	struct bdev_io *io = stack_parent(child, OWN);
	struct crypto_io *own = bdev_io_ctx(io);
	struct crypto_channel *c = io->ch->module_ctx;

	if (LIKELY(status == 0)) {
		status = xts_decrypt(c->xts, io->lba, own->iov.iov_base, own->iov.iov_len, io->iov, io->iovcnt);
	}
	give(c, &own->iov);
	stack_finish(io, child, status);
}

static void
passed(struct bdev_io *child, int status)
{
	struct bdev_io *io = stack_parent(child, OWN);

	/* Zeroes below are none here. */
	if (status == 0 && io->op == BDEV_BLOCK_STATUS) {
		for (uint64_t i = 0; i < child->result; i++) {
			io->extents[i].flags &= ~(uint32_t)BDEV_EXTENT_ZERO;
		}
	}
	stack_finish(io, child, status);
}

static void
read_or_write(struct bdev_channel *ch, struct bdev_io *io)
{
	struct crypto_channel *c = ch->module_ctx;
	struct crypto_io *own = bdev_io_ctx(io);
	struct bdev_io *child = stack_child(io, OWN);
	size_t bytes = io->num_blocks << ch->block_size_shift;
	void *buffer = take(c, bytes);
	int rc;

	if (UNLIKELY(buffer == NULL)) {
		bdev_io_complete(io, -ENOMEM);
		return;
	}
	own->iov = (struct iovec){.iov_base = buffer, .iov_len = bytes};
	if (io->op == BDEV_WRITE) {
		rc = xts_encrypt(c->xts, io->lba, io->iov, io->iovcnt, buffer, bytes);
		if (UNLIKELY(rc != 0)) {
			give(c, &own->iov);
			bdev_io_complete(io, rc);
			return;
		}
	}
	stack_child_init(child, io, 0, io->op == BDEV_WRITE ? written : was_read);
	child->iov = &own->iov;
	child->iovcnt = 1;
	bdev_submit(c->base.base, child);
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct crypto_channel *c = ch->module_ctx;

	if (LIKELY(io->op == BDEV_READ || io->op == BDEV_WRITE)) {
		read_or_write(ch, io);
		return;
	}
	stack_child_init(stack_child(io, OWN), io, 0, passed);
	bdev_submit(c->base.base, stack_child(io, OWN));
}

/* ---- Channels ---- */

static struct crypto *
crypto_of(struct stack *s)
{
	return CONTAINER_OF(s, struct crypto, stack);
}

static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct crypto *crypto = crypto_of(CONTAINER_OF(bdev, struct stack, bdev));
	struct crypto_channel *c = ch->module_ctx;
	int rc;

	c->small.pool = &small_pool;
	c->large.pool = &large_pool;
	c->reserve = aligned_alloc(SMALL_BYTES, LARGE_BYTES);
	rc = c->reserve == NULL ? -ENOMEM : xts_create(crypto_key_secret(crypto->key), bdev->block_size, &c->xts);
	if (rc == 0) {
		rc = stack_channel_create(bdev, ch);
	}
	if (rc != 0) {
		xts_free(c->xts);
		free(c->reserve);
	}
	return rc;
}

static void
channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct crypto_channel *c = ch->module_ctx;

	stack_channel_destroy(bdev, ch);
	mem_cache_release(&c->small);
	mem_cache_release(&c->large);
	xts_free(c->xts);
	free(c->reserve);
}

static const struct bdev_ops crypto_ops = {
	.module_name = "crypto",
	.destruct = stack_destruct,
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
	.cancel = stack_cancel,
	.submit = submit,
};

/* ---- The stack ---- */

/* Of the name space in which SPDK makes UUIDs of crypto bdevs from those of their bases. */
static const uuid_t name_space = {0x07, 0x8e, 0x3c, 0xf7, 0xf4, 0xb4, 0x45, 0x45,
				  0xb2, 0xc3, 0xd4, 0x00, 0x45, 0xa6, 0x4a, 0xe2};

/* A cipher that this libcrypto lacks is found here, not by the first channel. */
static int
try_cipher(const struct crypto *crypto, struct err *err)
{
	struct xts *xts;
	int rc = xts_create(crypto_key_secret(crypto->key), crypto->stack.base->block_size, &xts);

	if (rc != 0) {
		return err_set(err, rc, "bdev '%s': libcrypto gives no AES-XTS: %s", crypto->stack.name, strerror(-rc));
	}
	xts_free(xts);
	return 0;
}

static int
start(struct stack *s, struct err *err)
{
	struct bdev *bdev = &s->bdev;
	uuid_t base_uuid;

	if (bdev_zoned(s->base)) {
		return err_set(err, -EOPNOTSUPP, "bdev '%s': base '%s' is zoned: where an append goes is not known when it is "
			       "encrypted", s->name, s->base_name);
	}
	bdev->ops = &crypto_ops;
	bdev->product_name = "crypto";
	bdev->ops_mask &= 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH | 1u << BDEV_UNMAP |
			  1u << BDEV_BLOCK_STATUS;
	bdev->max_rw_blocks = (uint32_t)(LARGE_BYTES / bdev->block_size);
	bdev->channel_ctx_bytes = sizeof(struct crypto_channel);
	/* The base's core makes and checks protection information of what is encrypted. */
	bdev->md_bytes = 0;
	bdev->dif_type = 0;
	if (uuid_is_null(bdev->uuid)) {
		bdev_uuid(s->base, base_uuid);
		uuid_generate_sha1(bdev->uuid, name_space, (const char *)base_uuid, sizeof(base_uuid));
	}
	stack_room(s, OWN);
	return try_cipher(crypto_of(s), err);
}

static void
crypto_free(struct stack *s)
{
	struct crypto *crypto = crypto_of(s);

	crypto_key_put(crypto->key);
	free(crypto);
}

static void
resized(struct stack *s)
{
	int rc = bdev_resize(&s->bdev, bdev_num_blocks(s->base));

	if (rc != 0) {
		LOG_ERROR(BDEV, s->name, "cannot follow the new size of '%s': %s", s->base_name, strerror(-rc));
	}
}

static const struct stack_ops crypto_stack_ops = {
	.module_name = "crypto",
	.start = start,
	.free = crypto_free,
	.resized = resized,
};

/* Takes a use of key. */
static int
stack_up(const char *name, const char *base_name, struct crypto_key *key, struct bdev **ret, struct err *err)
{
	struct crypto *crypto = calloc(1, sizeof(*crypto));

	crypto_key_get(key);
	if (crypto == NULL) {
		crypto_key_put(key);
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", name);
	}
	crypto->key = key;
	return stack_create(&crypto->stack, &crypto_stack_ops, name, base_name, ret, err);
}

/* ---- Waiting for a key ---- */

struct waiting {
	struct list link;
	char *name;
	char *base_name;
	char *key_name;
};

static struct list waiting = {&waiting, &waiting};

static struct waiting *
waiting_find(const char *name)
{
	struct waiting *w;

	LIST_FOREACH (w, &waiting, link) {
		if (strcmp(w->name, name) == 0) {
			return w;
		}
	}
	return NULL;
}

static void
waiting_free(struct waiting *w)
{
	list_remove(&w->link);
	free(w->name);
	free(w->base_name);
	free(w->key_name);
	free(w);
}

static void
key_made(struct crypto_key *key)
{
	struct waiting *w, *next;
	struct crypto_key_info info;

	crypto_key_info(key, &info);
	LIST_FOREACH_SAFE (w, next, &waiting, link) {
		struct err err = ERR_NONE;

		if (strcmp(w->key_name, info.name) != 0) {
			continue;
		}
		if (stack_up(w->name, w->base_name, key, NULL, &err) == 0) {
			LOG_NOTICE(BDEV, w->name, "its key '%s' has come", w->key_name);
			waiting_free(w);
		} else {
			LOG_ERROR(BDEV, w->name, "its key '%s' has come, but: %s", w->key_name, err_text(&err));
		}
	}
}

static int
wait_for_key(const struct crypto_bdev_options *o, struct err *err)
{
	struct waiting *w = calloc(1, sizeof(*w));

	if (w == NULL) {
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", o->name);
	}
	w->name = strdup(o->name);
	w->base_name = strdup(o->base_name);
	w->key_name = strdup(o->key_name);
	if (w->name == NULL || w->base_name == NULL || w->key_name == NULL) {
		waiting_free(w);
		return err_set(err, -ENOMEM, "bdev '%s': out of memory", o->name);
	}
	list_append(&waiting, &w->link);
	crypto_key_set_notice(key_made);
	LOG_WARNING(BDEV, o->name, "waits for its key '%s': give it with accel_crypto_key_create", o->key_name);
	return 0;
}

/* ---- Life ---- */

int
bdev_crypto_create(const struct crypto_bdev_options *o, struct bdev **ret, struct err *err)
{
	struct crypto_key *key = crypto_key_find(o->key_name);

	if (ret != NULL) {
		*ret = NULL;
	}
	if (waiting_find(o->name) != NULL ||
	    (key == NULL && (bdev_find(o->name) != NULL || stack_find(&crypto_stack_ops, o->name) != NULL))) {
		return err_set(err, -EEXIST, "a bdev named '%s' exists already", o->name);
	}
	if (key != NULL) {
		return stack_up(o->name, o->base_name, key, ret, err);
	}
	if (!o->wait_for_key) {
		return err_set(err, -ENOKEY, "bdev '%s': there is no key '%s'", o->name, o->key_name);
	}
	return wait_for_key(o, err);
}

int
bdev_crypto_delete(const char *name, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	struct waiting *w = waiting_find(name);
	struct stack *s = stack_find(&crypto_stack_ops, name);

	if (w != NULL) {
		waiting_free(w);
		if (done != NULL) {
			done(ctx, 0);
		}
		return 0;
	}
	if (s == NULL) {
		return err_set(err, -ENODEV, "there is no crypto bdev '%s'", name);
	}
	stack_delete(s, done, ctx);
	return 0;
}

static struct crypto_bdev_options
options_of(struct stack *s)
{
	struct crypto_key_info key;

	crypto_key_info(crypto_of(s)->key, &key);
	return (struct crypto_bdev_options){
		.name = s->name, .base_name = s->base_name, .key_name = key.name, .wait_for_key = true};
}

bool
bdev_crypto_get_options(const struct bdev *bdev, struct crypto_bdev_options *ret_options)
{
	struct stack *s = stack_of(bdev, &crypto_stack_ops);

	if (s == NULL) {
		return false;
	}
	*ret_options = options_of(s);
	return true;
}

void
bdev_crypto_for_each_waiting(void (*fn)(void *ctx, const struct crypto_bdev_options *options, bool for_key), void *ctx)
{
	struct waiting *w;

	for (struct stack *s = NULL; (s = stack_next(&crypto_stack_ops, s)) != NULL;) {
		if (!s->registered) {
			struct crypto_bdev_options o = options_of(s);

			fn(ctx, &o, false);
		}
	}
	LIST_FOREACH (w, &waiting, link) {
		struct crypto_bdev_options o = {
			.name = w->name, .base_name = w->base_name, .key_name = w->key_name, .wait_for_key = true};

		fn(ctx, &o, true);
	}
}

struct all {
	void (*fn)(void *ctx, const struct crypto_bdev_options *options);
	void *ctx;
};

static void
one_that_waits(void *ctx, const struct crypto_bdev_options *o, bool for_key)
{
	struct all *all = ctx;

	all->fn(all->ctx, o);
}

void
bdev_crypto_for_each(void (*fn)(void *ctx, const struct crypto_bdev_options *options), void *ctx)
{
	struct all all = {fn, ctx};

	for (struct stack *s = NULL; (s = stack_next(&crypto_stack_ops, s)) != NULL;) {
		if (s->registered) {
			struct crypto_bdev_options o = options_of(s);

			fn(ctx, &o);
		}
	}
	bdev_crypto_for_each_waiting(one_that_waits, &all);
}
