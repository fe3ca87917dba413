/* SPDX-License-Identifier: BSD-3-Clause */
#include "testkit/peer_stage.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bdev/module.h"

/* ---- The stage ---- */

void
peer_stage_open(struct peer_stage *s, const struct peer *peer, void *options, enum reactor_mode mode, bool real_threads)
{
	memset(s, 0, sizeof(*s));
	s->peer = peer;
	s->options = options;
	env_start(&s->env, mode, real_threads);
}

void
peer_stage_attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	struct peer_stage *s = ctx;

	s->bdev = bdev;
	s->err = *err;
	atomic_store(&s->answered, true);
}

static void
noted(void *ctx, int status)
{
	EXPECT(status == 0);
	atomic_store((atomic_bool *)ctx, true);
}

static void
attach(void *arg)
{
	struct peer_stage *s = arg;

	s->rc = s->peer->attach(s);
}

static void
detach(void *arg)
{
	struct peer_stage *s = arg;

	s->rc = s->peer->detach(s, noted, &s->gone);
}

void
peer_stage_call(struct peer_stage *s, void (*fn)(void *arg), int rc)
{
	s->err = ERR_NONE;
	env_call(&s->env, s->env.app, fn, s);
	EXPECT_SAY(s->rc == rc, "%d: %s", s->rc, err_text(&s->err));
}

static void
begin_to_attach(struct peer_stage *s)
{
	atomic_store(&s->answered, false);
	peer_stage_call(s, attach, 0);
}

void
peer_stage_attach(struct peer_stage *s)
{
	begin_to_attach(s);
	env_wait(&s->env, &s->answered);
}

void
peer_stage_refuse(struct peer_stage *s, int rc, const char *words)
{
	peer_stage_call(s, attach, rc);
	EXPECT_SAY(strstr(s->err.text, words) != NULL, "%s", s->err.text);
}

void
peer_stage_fail(struct peer_stage *s, int rc, const char *words)
{
	peer_stage_attach(s);
	EXPECT_SAY(s->bdev == NULL && s->err.code == rc, "%d %s", s->err.code, s->err.text);
	EXPECT_SAY(strstr(s->err.text, words) != NULL, "%s", s->err.text);
}

void
peer_stage_ready(struct peer_stage *s)
{
	peer_stage_attach(s);
	EXPECT_SAY(s->bdev != NULL, "%s", err_text(&s->err));
	EXPECT(env_open(&s->env, s->peer->bdev, !bdev_readonly(s->bdev)) == 0);
}

static void
begin_to_detach(struct peer_stage *s)
{
	atomic_store(&s->gone, false);
	peer_stage_call(s, detach, 0);
}

void
peer_stage_detach(struct peer_stage *s)
{
	begin_to_detach(s);
	env_wait(&s->env, &s->gone);
}

void
peer_stage_lacks(struct peer_stage *s)
{
	peer_stage_call(s, detach, -ENODEV);
}

void
peer_stage_drop(struct peer_stage *s)
{
	begin_to_attach(s);
	env_linger(&s->env, 30);
	EXPECT(!atomic_load(&s->answered));
	begin_to_detach(s);
	env_wait(&s->env, &s->answered);
	EXPECT(s->bdev == NULL && s->err.code == -ECANCELED);
	env_wait(&s->env, &s->gone);
}

void
peer_stage_close(struct peer_stage *s)
{
	env_close(&s->env);
	peer_stage_detach(s);
}

static void
end(struct peer_stage *s)
{
	env_linger(&s->env, 5); /* a disk may go after its bdev */
	s->peer->end(s);
	env_stop(&s->env);
}

/* ---- Questions ---- */

void
peer_ask(struct peer_stage *s, struct peer_question *q, unsigned worker)
{
	q->iov = (struct iovec){malloc(4096), 4096};
	EXPECT(q->iov.iov_base != NULL);
	q->io = (struct env_io){
		.op = BDEV_READ, .num_blocks = 4096 / bdev_block_size(s->env.bdev), .iov = &q->iov, .iovcnt = 1};
	env_submit(&s->env.workers[worker], &q->io);
}

void
peer_ask_all(struct peer_stage *s, struct peer_question q[ENV_WORKERS])
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		peer_ask(s, &q[i], i);
	}
	env_linger(&s->env, 30);
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		EXPECT(!atomic_load(&q[i].io.done));
	}
}

void
peer_ended(struct peer_question *q, int status)
{
	int rc = env_finish(&q->io);

	free(q->iov.iov_base);
	EXPECT_SAY(rc == status, "%d", rc);
}

static void
all_ended(struct peer_question q[ENV_WORKERS], int status)
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		peer_ended(&q[i], status);
	}
}

/* ---- Loads ---- */

static void
submit_all(struct peer_stage *s, struct env_io *ios, struct iovec *iovs, enum bdev_op op)
{
	uint32_t blocks = 4096 / bdev_block_size(s->env.bdev);

	for (unsigned i = 0; i < PEER_IOS; i++) {
		iovs[i].iov_len = 4096;
		ios[i] = (struct env_io){.op = op, .lba = i * blocks, .num_blocks = blocks, .iov = &iovs[i], .iovcnt = 1};
		env_submit(&s->env.workers[i % ENV_WORKERS], &ios[i]);
	}
}

void
peer_load_write(struct peer_stage *s, struct peer_load *l, unsigned seed)
{
	for (unsigned i = 0; i < PEER_IOS; i++) {
		memset(l->written[i], (int)(PEER_IOS * seed + i + 1), 4096);
		memset(l->got[i], 0, 4096);
		l->out[i].iov_base = l->written[i];
		l->in[i].iov_base = l->got[i];
	}
	submit_all(s, l->writes, l->out, BDEV_WRITE);
}

void
peer_load_check(struct peer_stage *s, struct peer_load *l)
{
	for (unsigned i = 0; i < PEER_IOS; i++) {
		EXPECT(env_finish(&l->writes[i]) == 0);
	}
	submit_all(s, l->reads, l->in, BDEV_READ);
	for (unsigned i = 0; i < PEER_IOS; i++) {
		EXPECT(env_finish(&l->reads[i]) == 0);
		EXPECT_SAY(memcmp(l->got[i], l->written[i], 4096) == 0, "request %u", i);
	}
}

/* ---- What nobody waits for any more ---- */

static void
give_up(void *arg)
{
	bdev_channel_give_up(((struct env_worker *)arg)->ch);
}

static void
gives_up(struct peer_stage *s, unsigned worker)
{
	env_call(&s->env, s->env.workers[worker].thread, give_up, &s->env.workers[worker]);
}

static int
one_read(struct peer_stage *s, unsigned worker)
{
	uint8_t block[4096];

	return env_rw(&s->env.workers[worker], BDEV_READ, 0, 1, block);
}

static void
resets(struct peer_stage *s, struct peer_question q[ENV_WORKERS])
{
	peer_ask_all(s, q);
	EXPECT(env_rw(&s->env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	all_ended(q, -ECANCELED);
}

static void
unregister(void *arg)
{
	struct peer_stage *s = arg;

	bdev_unregister(s->env.bdev, noted, &s->gone);
}

static void
is_removed(struct peer_stage *s)
{
	struct peer_question q[ENV_WORKERS];

	peer_ask_all(s, q);
	atomic_store(&s->gone, false);
	env_call(&s->env, s->env.app, unregister, s);
	all_ended(q, -ENODEV);
	env_close(&s->env);
	env_wait(&s->env, &s->gone);
	end(s);
}

/* It speaks again, though not to those who did not wait. */
static void
comes_back(const struct peer *peer)
{
	if (peer->brittle) {
		peer->die();
		peer->start();
	} else {
		peer->silence(false);
	}
}

void
peer_test_cancels(const struct peer *peer, void *options, enum reactor_mode mode, bool real_threads)
{
	struct peer_question q[ENV_WORKERS];
	struct peer_stage s;

	peer->start();
	peer_stage_open(&s, peer, options, mode, real_threads);
	peer_stage_ready(&s);
	EXPECT(one_read(&s, 0) == 0 && one_read(&s, 1) == 0);
	peer->silence(true);
	resets(&s, q);
	comes_back(peer);
	EXPECT(one_read(&s, 0) == 0 && one_read(&s, 1) == 0);
	peer->silence(true);
	peer_ask_all(&s, q);
	gives_up(&s, 0);
	peer_ended(&q[0], -ECANCELED);
	EXPECT(!atomic_load(&q[1].io.done));
	comes_back(peer);
	peer_ended(&q[1], 0);
	if (peer->die != NULL) {
		peer->die();
		env_linger(&s.env, 20);
		peer_ask_all(&s, q);
		gives_up(&s, 1);
		peer_ended(&q[1], -ECANCELED);
		peer->start();
		peer_ended(&q[0], 0);
		peer->die();
		env_linger(&s.env, 20);
		resets(&s, q);
	} else {
		peer->silence(true);
	}
	is_removed(&s);
}

void
peer_test_is_patient(const struct peer *peer, void *options, enum reactor_mode mode, bool real_threads)
{
	struct peer_question q[ENV_WORKERS];
	struct peer_stage s;

	peer->start();
	peer_stage_open(&s, peer, options, mode, real_threads);
	peer_stage_ready(&s);
	peer->silence(true);
	peer_ask_all(&s, q);
	gives_up(&s, 0);
	peer->silence(false);
	all_ended(q, 0);
	peer_stage_close(&s);
	end(&s);
}

void
peer_test_is_removed(const struct peer *peer, void *options, enum reactor_mode mode, bool real_threads)
{
	struct peer_question q[ENV_WORKERS];
	struct peer_stage s;

	peer->start();
	peer_stage_open(&s, peer, options, mode, real_threads);
	if (!peer->greets) {
		peer->silence(true);
		peer_stage_drop(&s);
		comes_back(peer);
	}
	peer_stage_ready(&s);
	peer->silence(true);
	resets(&s, q);
	/* It may be connected to by now, which lasts. */
	is_removed(&s);
}

void
peer_test_goes_without(const struct peer *peer, void *options, bool real_threads)
{
	struct peer_question q[ENV_WORKERS];
	struct peer_stage s;

	peer->start();
	peer_stage_open(&s, peer, options, REACTOR_INTERRUPT, real_threads);
	peer_stage_ready(&s);
	peer->die();
	peer_ask_all(&s, q);
	begin_to_detach(&s);
	all_ended(q, -ENODEV);
	env_close(&s.env);
	env_wait(&s.env, &s.gone);
	end(&s);
}

void
peer_test_gives_up(const struct peer *peer, void *options)
{
	struct peer_question q[ENV_WORKERS];
	struct peer_stage s;

	peer->start();
	peer_stage_open(&s, peer, options, REACTOR_INTERRUPT, true);
	peer_stage_ready(&s);
	EXPECT(one_read(&s, 0) == 0);
	peer->die();
	peer_ask_all(&s, q);
	all_ended(q, -EIO);
	EXPECT(one_read(&s, 1) == -EIO);
	EXPECT(env_rw(&s.env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	peer->start();
	while (one_read(&s, 0) != 0) {
		env_linger(&s.env, 20);
	}
	EXPECT(one_read(&s, 1) == 0);
	peer_stage_close(&s);
	end(&s);
}
