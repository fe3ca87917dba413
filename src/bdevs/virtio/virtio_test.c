/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/virtio/virtio.h"

#include <errno.h>
#include <linux/virtio_config.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "bdev/module.h"
#include "testkit/bdev_battery.h"
#include "virtio/driver/backend_model.h"

#define DISK_BYTES ((size_t)8 << 20)
#define ROOM_BYTES ((size_t)16 << 20)

static struct model model;

/* A target that serves by itself, with all that one can offer. It has room to grow. */
static void
target(unsigned queues, uint32_t block_size)
{
	model_init_sized(&model, ROOM_BYTES);
	model.features |= 1ull << VIRTIO_BLK_F_MQ | 1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_WRITE_ZEROES;
	model.config.capacity = DISK_BYTES / 512;
	model.config.blk_size = block_size;
	model.config.num_queues = (uint16_t)queues;
	model.config.max_discard_sectors = 8192;
	model.config.discard_sector_alignment = 8;
	model.config.max_write_zeroes_sectors = 4096;
	model.config.write_zeroes_may_unmap = 1;
	model.serves = true;
	model_start(&model);
}

static struct virtio_bdev_options
options(const char *name)
{
	return (struct virtio_bdev_options){
		.name = name, .path = model.path, .vq_count = 4, .vq_size = 64, .reconnect_s = 30, .connect_ms = 5000};
}

/* ---- The battery ---- */

static void
attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	EXPECT_SAY(bdev != NULL, "%s", err_text(err));
}

static int
create(const struct battery *b, struct err *err)
{
	struct virtio_bdev_options o = options(b->name);

	return bdev_virtio_attach(&o, attached, NULL, err);
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_virtio_detach(b->name, done, ctx, err);
}

static void
set_capacity(uint64_t sectors)
{
	pthread_mutex_lock(&model.lock);
	model.config.capacity = sectors;
	pthread_mutex_unlock(&model.lock);
}

static int
resize(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	uint64_t sectors = num_blocks * (model.config.blk_size / 512);

	/* What the target would be told; that it can be smaller is another test's. */
	if (sectors < model.config.capacity || sectors > ROOM_BYTES / 512) {
		return -EBUSY;
	}
	set_capacity(sectors);
	model_announce(&model, true);
	return 0;
}

static const struct battery battery = {
	.name = "virtio0",
	.create = create,
	.remove = remove_bdev,
	.resize = resize,
	.unmap_zeroes = true,
	.may_cancel = true,
	.requests = 400,
};

static void
run_battery(enum reactor_mode mode, bool real_threads, unsigned queues, uint32_t block_size)
{
	target(queues, block_size);
	bdev_battery_run(&battery, mode, real_threads);
	model_stop(&model);
}

/* A queue for each thread; one for two of them; one for all. */
static void
passes_battery(void **state)
{
	run_battery(REACTOR_POLL, true, 4, 512);
	run_battery(REACTOR_INTERRUPT, true, 2, 512);
	run_battery(REACTOR_ADAPTIVE, true, 1, 4096);
	run_battery(REACTOR_POLL, false, 1, 512);
	run_battery(REACTOR_INTERRUPT, false, 4, 4096);
	run_battery(REACTOR_ADAPTIVE, false, 2, 512);
}

/* ---- A stage ---- */

struct stage {
	struct env env;
	struct virtio_bdev_options options;
	struct err err;
	struct bdev *bdev;
	int rc;
	atomic_bool answered, gone;
};

static void
note_attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	struct stage *s = ctx;

	s->bdev = bdev;
	s->err = *err;
	atomic_store(&s->answered, true);
}

static void
attach(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_virtio_attach(&s->options, note_attached, s, &s->err);
}

static void
noted(void *ctx, int status)
{
	EXPECT(status == 0);
	atomic_store((atomic_bool *)ctx, true);
}

static void
detach(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_virtio_detach(s->options.name, noted, &s->gone, &s->err);
}

static void
call(struct stage *s, void (*fn)(void *arg), int rc)
{
	s->err = ERR_NONE;
	env_call(&s->env, s->env.app, fn, s);
	EXPECT_SAY(s->rc == rc, "%d: %s", s->rc, err_text(&s->err));
}

static void
stage_open(struct stage *s, enum reactor_mode mode, bool real_threads)
{
	memset(s, 0, sizeof(*s));
	env_start(&s->env, mode, real_threads);
	s->options = options("virtio0");
}

static void
stage_attach(struct stage *s)
{
	atomic_store(&s->answered, false);
	call(s, attach, 0);
	env_wait(&s->env, &s->answered);
}

static void
stage_detach(struct stage *s)
{
	atomic_store(&s->gone, false);
	call(s, detach, 0);
	env_wait(&s->env, &s->gone);
}

/* ---- Attaching ---- */

static void
refuse(struct stage *s, int rc, const char *words)
{
	call(s, attach, rc);
	EXPECT_SAY(strstr(s->err.text, words) != NULL, "%s", s->err.text);
}

static void
fail_to_attach(struct stage *s, int rc, const char *words)
{
	stage_attach(s);
	EXPECT_SAY(s->bdev == NULL && s->err.code == rc, "%d %s", s->err.code, s->err.text);
	EXPECT_SAY(strstr(s->err.text, words) != NULL, "%s", s->err.text);
}

static void
says_what_is_wrong(void **state)
{
	struct stage s;

	target(1, 512);
	stage_open(&s, REACTOR_INTERRUPT, false);
	s.options.vq_count = 0;
	refuse(&s, -EINVAL, "0 queues");
	s.options = options("virtio0");
	s.options.vq_size = 48;
	refuse(&s, -EINVAL, "queue size 48");
	s.options = options("");
	refuse(&s, -EINVAL, "name");
	s.options = options("virtio0");
	s.options.path = "/nonexistent/socket";
	fail_to_attach(&s, -ENOENT, "/nonexistent/socket");
	s.options = options("virtio0");
	model.config.blk_size = 3000;
	fail_to_attach(&s, -EINVAL, "blocks of 3000 bytes");
	model.config.blk_size = 512;
	model.features &= ~(1ull << VIRTIO_F_VERSION_1);
	fail_to_attach(&s, -EOPNOTSUPP, "older than virtio 1.0");
	model.features |= 1ull << VIRTIO_F_VERSION_1;
	stage_attach(&s);
	EXPECT(s.bdev != NULL);
	refuse(&s, -EEXIST, "virtio0");
	stage_detach(&s);
	call(&s, detach, -ENODEV);
	env_stop(&s.env);
	model_stop(&model);
}

static void
looks_like_the_target(void **state)
{
	struct virtio_bdev_info info;
	struct stage s;

	target(3, 4096);
	model.features |= 1ull << VIRTIO_BLK_F_RO | 1ull << VIRTIO_BLK_F_TOPOLOGY;
	model.features &= ~(1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_FLUSH);
	model.config.physical_block_exp = 1;
	stage_open(&s, REACTOR_INTERRUPT, false);
	stage_attach(&s);
	EXPECT(s.bdev != NULL && bdev_readonly(s.bdev) && !bdev_write_cache(s.bdev));
	EXPECT(bdev_block_size(s.bdev) == 4096 && bdev_physical_block_size(s.bdev) == 8192);
	EXPECT(bdev_num_blocks(s.bdev) == DISK_BYTES / 4096);
	EXPECT(!bdev_supports_natively(s.bdev, BDEV_UNMAP));
	EXPECT(bdev_virtio_info(s.bdev, &info) && info.connected && info.queues == 3 && info.connects == 1);
	stage_detach(&s);
	env_stop(&s.env);
	model_stop(&model);
}

/* ---- Targets that go ---- */

#define IOS 40

static void
submit_all(struct stage *s, struct env_io *ios, struct iovec *iovs, enum bdev_op op)
{
	for (unsigned i = 0; i < IOS; i++) {
		iovs[i].iov_len = 4096;
		ios[i] = (struct env_io){.op = op, .lba = i * 8, .num_blocks = 8, .iov = &iovs[i], .iovcnt = 1};
		env_submit(&s->env.workers[i % ENV_WORKERS], &ios[i]);
	}
}

/* It dies with requests in its rings, others come while it is away: all are there when it is back. */
static void
dies_and_comes_back(enum reactor_mode mode, bool real_threads, unsigned queues, unsigned queues_after)
{
	static uint8_t written[IOS][4096], got[IOS][4096];
	struct env_io writes[IOS], reads[IOS];
	struct iovec out[IOS], in[IOS];
	struct stage s;

	target(queues, 512);
	stage_open(&s, mode, real_threads);
	stage_attach(&s);
	EXPECT(s.bdev != NULL && env_open(&s.env, "virtio0", true) == 0);
	for (unsigned i = 0; i < IOS; i++) {
		memset(written[i], (int)(i + 1), 4096);
		memset(got[i], 0, 4096);
		out[i].iov_base = written[i];
		in[i].iov_base = got[i];
	}
	for (unsigned round = 0; round < 3; round++) {
		pthread_mutex_lock(&model.lock);
		memset(model.disk, 0, DISK_BYTES);
		pthread_mutex_unlock(&model.lock);
		/* Nothing is served any more, but what is done already. */
		atomic_store(&model.paused, round != 1);
		submit_all(&s, writes, out, BDEV_WRITE);
		env_linger(&s.env, 5);
		model_die(&model);
		env_linger(&s.env, 10);
		model.config.num_queues = (uint16_t)queues_after; /* it does not run now */
		atomic_store(&model.paused, false);
		model_start(&model);
		for (unsigned i = 0; i < IOS; i++) {
			EXPECT(env_finish(&writes[i]) == 0);
		}
		submit_all(&s, reads, in, BDEV_READ);
		for (unsigned i = 0; i < IOS; i++) {
			EXPECT(env_finish(&reads[i]) == 0);
			EXPECT_SAY(memcmp(got[i], written[i], 4096) == 0, "round %u, request %u", round, i);
		}
	}
	EXPECT(atomic_load(&model.connections) == 4);
	env_close(&s.env);
	stage_detach(&s);
	env_stop(&s.env);
	model_stop(&model);
}

static void
reconnects(void **state)
{
	dies_and_comes_back(REACTOR_INTERRUPT, false, 4, 4);
	dies_and_comes_back(REACTOR_ADAPTIVE, true, 4, 4);
	dies_and_comes_back(REACTOR_POLL, true, 1, 3);
	/* With fewer queues than before: their requests go to the one that is left. */
	dies_and_comes_back(REACTOR_INTERRUPT, true, 4, 1);
	dies_and_comes_back(REACTOR_ADAPTIVE, false, 4, 1);
}

/* One that stays away: requests end with an error, and go again when it is back. */
static void
gives_up_after_a_while(void **state)
{
	uint8_t block[512];
	struct env_io io = {.op = BDEV_READ, .num_blocks = 1};
	struct iovec iov = {block, sizeof(block)};
	struct stage s;

	target(2, 512);
	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.reconnect_s = 1;
	stage_attach(&s);
	EXPECT(env_open(&s.env, "virtio0", true) == 0);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	model_die(&model);
	io.iov = &iov;
	io.iovcnt = 1;
	env_submit(&s.env.workers[0], &io);
	env_linger(&s.env, 100);
	EXPECT(!atomic_load(&io.done));
	EXPECT(env_finish(&io) == -EIO);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == -EIO);
	EXPECT(env_rw(&s.env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	model_start(&model);
	while (env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) != 0) {
		env_linger(&s.env, 20);
	}
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == 0);
	env_close(&s.env);
	stage_detach(&s);
	env_stop(&s.env);
	model_stop(&model);
}

/* Detached while its target is away: what waits ends, and so does the bdev. */
static void
detaches_without_target(void **state)
{
	uint8_t block[512];
	struct env_io io = {.op = BDEV_READ, .num_blocks = 1};
	struct iovec iov = {block, sizeof(block)};
	struct stage s;

	for (int threads = 0; threads < 2; threads++) {
		target(2, 512);
		stage_open(&s, REACTOR_INTERRUPT, threads != 0);
		stage_attach(&s);
		EXPECT(env_open(&s.env, "virtio0", true) == 0);
		model_die(&model);
		io.iov = &iov;
		io.iovcnt = 1;
		env_submit(&s.env.workers[1], &io);
		env_linger(&s.env, 30);
		EXPECT(!atomic_load(&io.done));
		atomic_store(&s.gone, false);
		call(&s, detach, 0);
		EXPECT(env_finish(&io) == -ENODEV);
		env_close(&s.env);
		env_wait(&s.env, &s.gone);
		env_stop(&s.env);
		model_stop(&model);
	}
}

/* ---- What nobody waits for any more ---- */

/* A read into memory that is given back as soon as it has ended. */
struct question {
	struct env_io io;
	struct iovec iov;
};

static void
ask(struct stage *s, struct question *q, unsigned worker)
{
	q->iov = (struct iovec){malloc(4096), 4096};
	EXPECT(q->iov.iov_base != NULL);
	q->io = (struct env_io){.op = BDEV_READ, .num_blocks = 8, .iov = &q->iov, .iovcnt = 1};
	env_submit(&s->env.workers[worker], &q->io);
}

static void
ask_both(struct stage *s, struct question q[ENV_WORKERS])
{
	for (unsigned i = 0; i < ENV_WORKERS; i++) {
		ask(s, &q[i], i);
	}
	env_linger(&s->env, 30);
	EXPECT(!atomic_load(&q[0].io.done) && !atomic_load(&q[1].io.done));
}

static void
ended(struct question *q, int status)
{
	int rc = env_finish(&q->io);

	free(q->iov.iov_base);
	EXPECT_SAY(rc == status, "%d", rc);
}

static void
give_up(void *arg)
{
	bdev_channel_give_up(((struct env_worker *)arg)->ch);
}

static void
unregister(void *arg)
{
	struct stage *s = arg;

	bdev_unregister(s->env.bdev, noted, &s->gone);
}

/* What waits for it ends, and so does the bdev. */
static void
is_removed(struct stage *s)
{
	struct question q[ENV_WORKERS];

	ask_both(s, q);
	atomic_store(&s->gone, false);
	env_call(&s->env, s->env.app, unregister, s);
	ended(&q[0], -ENODEV);
	ended(&q[1], -ENODEV);
	env_close(&s->env);
	env_wait(&s->env, &s->gone);
	env_linger(&s->env, 5); /* the disk goes after its bdev */
	env_stop(&s->env);
}

/* The target is silent, then dead: a reset and giving up end what waits, and only that; others' requests are sent once more. */
static void
cancels_what_is_not_answered(void **state)
{
	struct question q[ENV_WORKERS];
	uint8_t block[512];
	struct stage s;

	target(4, 512);
	stage_open(&s, REACTOR_INTERRUPT, true);
	stage_attach(&s);
	EXPECT(env_open(&s.env, "virtio0", true) == 0);
	atomic_store(&model.paused, true);
	ask_both(&s, q);
	EXPECT(env_rw(&s.env.workers[0], BDEV_RESET, 0, 0, NULL) == 0);
	ended(&q[0], -ECANCELED);
	ended(&q[1], -ECANCELED);
	atomic_store(&model.paused, false);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	atomic_store(&model.paused, true);
	ask_both(&s, q);
	env_call(&s.env, s.env.workers[0].thread, give_up, &s.env.workers[0]);
	ended(&q[0], -ECANCELED);
	EXPECT(!atomic_load(&q[1].io.done));
	atomic_store(&model.paused, false);
	ended(&q[1], 0);
	model_die(&model);
	env_linger(&s.env, 20);
	ask_both(&s, q);
	env_call(&s.env, s.env.workers[1].thread, give_up, &s.env.workers[1]);
	ended(&q[1], -ECANCELED);
	EXPECT(env_rw(&s.env.workers[1], BDEV_RESET, 0, 0, NULL) == 0);
	ended(&q[0], -ECANCELED);
	is_removed(&s);
	model_stop(&model);
}

/* A healthy one answers what it has before it is done without. */
static void
giving_up_waits_for_a_good_answer(void **state)
{
	struct question q[ENV_WORKERS];
	struct stage s;

	target(4, 512);
	stage_open(&s, REACTOR_INTERRUPT, true);
	stage_attach(&s);
	EXPECT(env_open(&s.env, "virtio0", true) == 0);
	atomic_store(&model.paused, true);
	ask_both(&s, q);
	env_call(&s.env, s.env.workers[0].thread, give_up, &s.env.workers[0]);
	atomic_store(&model.paused, false);
	ended(&q[0], 0);
	ended(&q[1], 0);
	env_close(&s.env);
	stage_detach(&s);
	env_stop(&s.env);
	model_stop(&model);
}

static void
is_removed_while_its_target_is_silent(void **state)
{
	struct stage s;

	target(1, 512);
	stage_open(&s, REACTOR_POLL, true);
	stage_attach(&s);
	EXPECT(env_open(&s.env, "virtio0", true) == 0);
	atomic_store(&model.paused, true);
	is_removed(&s);
	model_stop(&model);
}

/* What came back is another disk: it is not taken for the one that went. */
static void
is_not_deceived(void **state)
{
	uint8_t block[512];
	struct stage s;

	target(2, 512);
	stage_open(&s, REACTOR_INTERRUPT, true);
	s.options.reconnect_s = 0;
	stage_attach(&s);
	EXPECT(env_open(&s.env, "virtio0", true) == 0);
	model_die(&model);
	set_capacity(DISK_BYTES / 512 - 8);
	model_start(&model);
	env_linger(&s.env, 200);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == -EIO);
	set_capacity(DISK_BYTES / 512 + 8);
	while (env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) != 0) {
		env_linger(&s.env, 20);
	}
	env_wait_size(&s.env, DISK_BYTES / 512 + 8);
	EXPECT(bdev_num_blocks(s.env.bdev) == DISK_BYTES / 512 + 8);
	env_close(&s.env);
	stage_detach(&s);
	env_stop(&s.env);
	model_stop(&model);
}

/* ---- Targets that are not there yet ---- */

static unsigned waiting;

static void
count_one(void *ctx, const struct virtio_bdev_options *o)
{
	waiting += strcmp(o->name, "virtio0") == 0;
}

static void
count_waiting(void *arg)
{
	waiting = 0;
	bdev_virtio_for_each_waiting(count_one, NULL);
}

static void
shut_down(void *arg)
{
	bdev_virtio_shutdown();
}

static void
awaits_target(void **state)
{
	struct stage s;

	target(1, 512);
	model_die(&model);
	stage_open(&s, REACTOR_INTERRUPT, false);
	s.options.wait = true;
	stage_attach(&s);
	EXPECT(s.bdev == NULL && s.err.code == 0);
	env_call(&s.env, s.env.app, count_waiting, NULL);
	EXPECT(waiting == 1);
	call(&s, attach, -EEXIST);
	stage_detach(&s);
	stage_attach(&s);
	EXPECT(env_open(&s.env, "virtio0", true) == -ENODEV);
	model_start(&model);
	while (env_open(&s.env, "virtio0", true) != 0) {
		env_linger(&s.env, 10);
	}
	env_call(&s.env, s.env.app, count_waiting, NULL);
	EXPECT(waiting == 0);
	env_close(&s.env);
	stage_detach(&s);
	model_die(&model);
	stage_attach(&s);
	/* The process ends: nothing is left that would wake it. */
	env_call(&s.env, s.env.app, shut_down, NULL);
	env_stop(&s.env);
	model_stop(&model);
}

/* ---- Targets that lie ---- */

static void
set_status(uint8_t status)
{
	pthread_mutex_lock(&model.lock);
	model.status = status;
	pthread_mutex_unlock(&model.lock);
}

static void
survives_a_broken_ring(void **state)
{
	uint8_t block[512];
	struct stage s;

	target(2, 512);
	stage_open(&s, REACTOR_INTERRUPT, true);
	stage_attach(&s);
	EXPECT(env_open(&s.env, "virtio0", true) == 0);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	pthread_mutex_lock(&model.lock);
	for (unsigned i = 0; i < 2; i++) {
		if (model.queues[i].started) {
			/* Far more than the ring has. */
			model.queues[i].vq.used_idx += 1000;
		}
	}
	pthread_mutex_unlock(&model.lock);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	EXPECT(atomic_load(&model.connections) == 2);
	set_status(VIRTIO_BLK_S_IOERR);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == -EIO);
	set_status(77);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == -EIO);
	env_close(&s.env);
	stage_detach(&s);
	env_stop(&s.env);
	model_stop(&model);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_what_is_wrong),	   cmocka_unit_test(looks_like_the_target),
		cmocka_unit_test(reconnects),		   cmocka_unit_test(gives_up_after_a_while),
		cmocka_unit_test(detaches_without_target), cmocka_unit_test(is_not_deceived),
		cmocka_unit_test(awaits_target),	   cmocka_unit_test(survives_a_broken_ring),
		cmocka_unit_test(cancels_what_is_not_answered),
		cmocka_unit_test(giving_up_waits_for_a_good_answer),
		cmocka_unit_test(is_removed_while_its_target_is_silent),
		cmocka_unit_test(passes_battery),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
