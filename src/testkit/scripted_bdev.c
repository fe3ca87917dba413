/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/scripted_bdev.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/dif.h"
#include "base/iov.h"
#include "testkit/bdev_env.h"

/* The poller sleeps when nothing is queued, so that tests of idleness hold. */
struct scripted_channel {
	struct poller poller;
	struct bdev_channel *ch;
	struct list queue;
	unsigned queued;
	uint64_t random;
};

static struct scripted_bdev *
scripted(struct bdev *bdev)
{
	return CONTAINER_OF(bdev, struct scripted_bdev, bdev);
}

static struct list *
link_of(struct bdev_io *io)
{
	return bdev_io_ctx(io);
}

static struct bdev_io *
io_of(struct list *link)
{
	return CONTAINER_OF((void *)link, struct bdev_io, ctx);
}

/* ---- What modules are promised ---- */

static void
check_rw(const struct bdev *b, const struct bdev_io *io)
{
	uint32_t align = b->buffer_align, boundary = b->optimal_boundary_blocks;
	uint64_t bytes = 0;

	EXPECT(io->iovcnt >= 1 && io->iovcnt <= b->max_iovcnt);
	EXPECT(b->max_rw_blocks == 0 || io->num_blocks <= b->max_rw_blocks);
	EXPECT(boundary == 0 || b->ops->reach != NULL || io->lba % boundary + io->num_blocks <= boundary);
	for (unsigned i = 0; i < io->iovcnt; i++) {
		EXPECT((uintptr_t)io->iov[i].iov_base % align == 0);
		EXPECT(io->iov[i].iov_len % MIN(align, b->block_size) == 0);
		bytes += io->iov[i].iov_len;
	}
	EXPECT(bytes == io->num_blocks * b->block_size);
	EXPECT(b->md_bytes == 0 || ((io->flags & BDEV_IO_MD) != 0 && io->md != NULL));
}

static void
check_promises(const struct bdev_channel *ch, const struct bdev_io *io)
{
	const struct bdev *b = ch->bdev;
	uint64_t num_blocks = bdev_num_blocks(b);

	EXPECT(ch->channel.thread == thread_self() && io->ch == ch);
	EXPECT(io->op < BDEV_OP_COUNT && ((b->ops_mask >> io->op) & 1) != 0);
	EXPECT((io->flags & BDEV_IO_FUA) == 0 || b->native_fua || !b->write_cache);
	if (io->op == BDEV_FLUSH || io->op == BDEV_RESET) {
		return;
	}
	EXPECT(io->num_blocks > 0 && io->lba < num_blocks &&
	       io->num_blocks <= num_blocks - io->lba);
	EXPECT(io->op == BDEV_READ || !ch->readonly);
	if (io->op == BDEV_READ || io->op == BDEV_WRITE) {
		check_rw(b, io);
	} else if (io->op == BDEV_UNMAP) {
		EXPECT(b->max_unmap_blocks == 0 || io->num_blocks <= b->max_unmap_blocks);
	} else {
		EXPECT(b->max_write_zeroes_blocks == 0 ||
		       io->num_blocks <= b->max_write_zeroes_blocks);
	}
}

/* ---- Doing it ---- */

static void
record(struct scripted_bdev *s, const struct bdev_io *io)
{
	unsigned i = atomic_fetch_add(&s->log_count, 1);

	if (i < SCRIPTED_LOG) {
		s->log[i] = (struct scripted_entry){.lba = io->lba,
						    .num_blocks = io->num_blocks,
						    .iovcnt = io->iovcnt,
						    .op = io->op,
						    .flags = io->flags & 0xf};
	}
}

static void
perform_md(struct scripted_bdev *s, const struct bdev_io *io)
{
	size_t bytes = io->num_blocks * s->bdev.md_bytes;
	uint8_t *p = s->md + io->lba * s->bdev.md_bytes;
	struct dif dif;

	if (io->op == BDEV_READ) {
		memcpy(io->md, p, bytes);
	} else if (io->op == BDEV_WRITE) {
		memcpy(p, io->md, bytes);
	} else if (dif_init(&dif, s->bdev.block_size, s->bdev.md_bytes, s->bdev.dif_type,
			    s->bdev.dif_pi_format, s->bdev.dif_head_of_md, 0, NULL) == 0) {
		dif_fill_unwritten(&dif, p, io->num_blocks);
	} else {
		memset(p, 0, bytes);
	}
}

static int
perform(struct scripted_bdev *s, const struct bdev_io *io)
{
	size_t bytes = io->num_blocks * s->bdev.block_size;
	uint8_t *p;

	if (io->op == BDEV_FLUSH) {
		return 0;
	}
	if (s->md != NULL) {
		perform_md(s, io);
	}
	p = s->data + io->lba * s->bdev.block_size;
	switch (io->op) {
	case BDEV_READ:
		/* A test may have it read in place: bdev.memory. */
		if (io->iovcnt != 1 || io->iov->iov_base != p) {
			iov_from_buf(io->iov, io->iovcnt, 0, p, bytes);
		}
		break;
	case BDEV_WRITE:
		iov_to_buf(io->iov, io->iovcnt, 0, p, bytes);
		break;
	case BDEV_UNMAP:
	case BDEV_WRITE_ZEROES:
		memset(p, 0, bytes);
		break;
	default:
		break;
	}
	return 0;
}

static int
outcome(struct scripted_bdev *s)
{
	int status = atomic_load(&s->fail_with);
	unsigned skip = atomic_load(&s->fail_skip);

	if (status != 0 && skip > 0) {
		atomic_store(&s->fail_skip, skip - 1);
		return 0;
	}
	return status;
}

static void
finish(struct scripted_bdev *s, struct bdev_io *io)
{
	int status = outcome(s);

	bdev_io_complete(io, status != 0 ? status : perform(s, io));
}

static uint64_t
draw(struct scripted_channel *sc)
{
	sc->random ^= sc->random << 13;
	sc->random ^= sc->random >> 7;
	sc->random ^= sc->random << 17;
	return sc->random;
}

static struct bdev_io *
pick(struct scripted_bdev *s, struct scripted_channel *sc)
{
	struct list *l = sc->queue.next;

	for (uint64_t n = atomic_load(&s->shuffle) ? draw(sc) % sc->queued : 0; n > 0; n--) {
		l = l->next;
	}
	list_remove(l);
	sc->queued--;
	return io_of(l);
}

static int
poll(struct poller *p)
{
	struct scripted_channel *sc = CONTAINER_OF(p, struct scripted_channel, poller);
	struct scripted_bdev *s = scripted(sc->ch->bdev);
	unsigned n = sc->queued == 0 || atomic_load(&s->hold) ? 0 : 1 + (unsigned)(draw(sc) % 4);

	n = MIN(n, sc->queued);
	for (unsigned i = 0; i < n; i++) {
		finish(s, pick(s, sc));
	}
	return (int)n;
}

static bool
arm(struct poller *p)
{
	struct scripted_channel *sc = CONTAINER_OF(p, struct scripted_channel, poller);

	return sc->queued > 0 && !atomic_load(&scripted(sc->ch->bdev)->hold);
}

static const struct poller_ops poller_ops = {.name = "scripted", .poll = poll, .arm = arm};

static bool
refuses(struct scripted_bdev *s, const struct scripted_channel *sc)
{
	unsigned every = atomic_load(&s->refuse_every), most = atomic_load(&s->queue_max);
	unsigned n = atomic_fetch_add(&s->submitted, 1) + 1;

	return (every != 0 && n % every == 0) || (most != 0 && sc->queued >= most);
}

static void
cancel_all(struct scripted_channel *sc)
{
	while (!list_empty(&sc->queue)) {
		struct list *l = sc->queue.next;

		list_remove(l);
		sc->queued--;
		bdev_io_complete(io_of(l), -ECANCELED);
	}
}

static void
submit(struct bdev_channel *ch, struct bdev_io *io)
{
	struct scripted_channel *sc = ch->module_ctx;
	struct scripted_bdev *s = scripted(ch->bdev);

	check_promises(ch, io);
	if (refuses(s, sc)) {
		atomic_fetch_add(&s->refused, 1);
		bdev_io_complete(io, atomic_load(&s->submitted) % 2 == 0 ? -EAGAIN : -ENOMEM);
		return;
	}
	record(s, io);
	if (io->op == BDEV_RESET) {
		cancel_all(sc);
		bdev_io_complete(io, 0);
	} else if (atomic_load(&s->at_once)) {
		finish(s, io);
	} else {
		list_append(&sc->queue, link_of(io));
		sc->queued++;
		poller_wake(&sc->poller);
	}
}

/* ---- Life ---- */

static int
channel_create(struct bdev *bdev, struct bdev_channel *ch)
{
	struct scripted_channel *sc = ch->module_ctx;

	sc->ch = ch;
	sc->random = UINT64_C(88172645463325252) ^ thread_id(thread_self());
	list_init(&sc->queue);
	return poller_start(&sc->poller, &poller_ops, -1);
}

static void
channel_destroy(struct bdev *bdev, struct bdev_channel *ch)
{
	struct scripted_channel *sc = ch->module_ctx;

	EXPECT(sc->queued == 0);
	poller_stop(&sc->poller);
}

static void
destruct(struct bdev *bdev)
{
	EXPECT(!atomic_load(&scripted(bdev)->destructed));
	atomic_store(&scripted(bdev)->destructed, true);
}

static const struct bdev_ops scripted_ops = {
	.module_name = "scripted",
	.destruct = destruct,
	.channel_create = channel_create,
	.channel_destroy = channel_destroy,
	.submit = submit,
};

void
scripted_bdev_init(struct scripted_bdev *s, const char *name, uint64_t num_blocks,
		   uint32_t block_size)
{
	memset(s, 0, sizeof(*s));
	s->max_blocks = 2 * num_blocks;
	s->data = calloc(s->max_blocks, block_size);
	s->bdev.name = strdup(name);
	EXPECT(s->data != NULL && s->bdev.name != NULL);
	s->bdev.ops = &scripted_ops;
	s->bdev.product_name = "Scripted disk";
	s->bdev.block_size = block_size;
	s->bdev.num_blocks = num_blocks;
	s->bdev.ops_mask = 1u << BDEV_READ | 1u << BDEV_WRITE | 1u << BDEV_FLUSH |
			   1u << BDEV_UNMAP | 1u << BDEV_WRITE_ZEROES;
	s->bdev.io_ctx_bytes = sizeof(struct list);
	s->bdev.channel_ctx_bytes = sizeof(struct scripted_channel);
}

int
scripted_bdev_add(struct scripted_bdev *s, struct err *err)
{
	if (s->bdev.md_bytes != 0) {
		struct bdev_io all = {.num_blocks = s->max_blocks, .op = BDEV_UNMAP};

		s->md = malloc(s->max_blocks * s->bdev.md_bytes);
		EXPECT(s->md != NULL);
		perform_md(s, &all);
	}
	return bdev_register(&s->bdev, err);
}

void
scripted_bdev_remove(struct scripted_bdev *s, void (*done)(void *ctx, int status), void *ctx)
{
	bdev_unregister(&s->bdev, done, ctx);
}

int
scripted_bdev_resize(struct scripted_bdev *s, uint64_t num_blocks)
{
	return num_blocks > s->max_blocks ? -ENOSPC : bdev_resize(&s->bdev, num_blocks);
}

void
scripted_bdev_release(struct scripted_bdev *s)
{
	free(s->data);
	free(s->md);
	free(s->bdev.name);
}

/* ---- On a stage ---- */

static void
add_on_app(void *arg)
{
	struct err err = ERR_NONE;

	EXPECT_SAY(scripted_bdev_add(arg, &err) == 0, "%s", err_text(&err));
}

static void
remove_on_app(void *arg)
{
	scripted_bdev_remove(arg, NULL, NULL);
}

void
scripted_channel_kick(struct bdev_channel *ch)
{
	struct scripted_channel *sc = ch->module_ctx;

	poller_wake(&sc->poller);
}

static void
kick(void *arg)
{
	scripted_channel_kick(arg);
}

void
scripted_open(struct scripted_bdev *s, struct env *env)
{
	env_call(env, env->app, add_on_app, s);
	EXPECT(env_open(env, s->bdev.name, true) == 0);
}

void
scripted_remove(struct scripted_bdev *s, struct env *env)
{
	s->removing = true;
	env_call(env, env->app, remove_on_app, s);
}

void
scripted_close(struct scripted_bdev *s, struct env *env)
{
	env_close(env);
	if (!s->removing) {
		scripted_remove(s, env);
	}
	env_wait(env, &s->destructed);
	scripted_bdev_release(s);
}

void
scripted_let_go(struct scripted_bdev *s, struct env *env)
{
	atomic_store(&s->hold, false);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		env_call(env, env->workers[i].thread, kick, env->workers[i].ch);
	}
}
