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
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "bdev/module.h"
#include "testkit/bdev_battery.h"
#include "testkit/peer_stage.h"
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
		.name = name, .path = model.path, .vq_count = 4, .vq_size = 64, .reconnect_s = 30, .connect_ms = 60000};
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

static struct virtio_bdev_options opts;

static int
attach(struct peer_stage *s)
{
	return bdev_virtio_attach(s->options, peer_stage_attached, s, &s->err);
}

static int
detach(struct peer_stage *s, void (*done)(void *ctx, int status), void *ctx)
{
	return bdev_virtio_detach(((const struct virtio_bdev_options *)s->options)->name, done, ctx, &s->err);
}

static void
start(void)
{
	atomic_store(&model.paused, false);
	model_start(&model);
}

static void
silence(bool silent)
{
	atomic_store(&model.paused, silent);
}

static void
die(void)
{
	model_die(&model);
}

static void
leave_it(struct peer_stage *s)
{
}

/* Of a model that is there already. */
static const struct peer peer = {.bdev = "virtio0",
				 .attach = attach,
				 .detach = detach,
				 .start = start,
				 .silence = silence,
				 .die = die,
				 .end = leave_it,
				 .greets = true};

static void
stage_open(struct peer_stage *s, enum reactor_mode mode, bool real_threads)
{
	opts = options("virtio0");
	peer_stage_open(s, &peer, &opts, mode, real_threads);
}

/* ---- Attaching ---- */

static void
says_what_is_wrong(void **state)
{
	struct peer_stage s;

	target(1, 512);
	stage_open(&s, REACTOR_INTERRUPT, false);
	opts.vq_count = 0;
	peer_stage_refuse(&s, -EINVAL, "0 queues");
	opts = options("virtio0");
	opts.vq_size = 48;
	peer_stage_refuse(&s, -EINVAL, "queue size 48");
	opts = options("");
	peer_stage_refuse(&s, -EINVAL, "name");
	opts = options("virtio0");
	opts.path = "/nonexistent/socket";
	peer_stage_fail(&s, -ENOENT, "/nonexistent/socket");
	opts = options("virtio0");
	model.config.blk_size = 3000;
	peer_stage_fail(&s, -EINVAL, "blocks of 3000 bytes");
	model.config.blk_size = 512;
	model.features &= ~(1ull << VIRTIO_F_VERSION_1);
	peer_stage_fail(&s, -EOPNOTSUPP, "older than virtio 1.0");
	model.features |= 1ull << VIRTIO_F_VERSION_1;
	peer_stage_attach(&s);
	EXPECT(s.bdev != NULL);
	peer_stage_refuse(&s, -EEXIST, "virtio0");
	peer_stage_detach(&s);
	peer_stage_lacks(&s);
	env_stop(&s.env);
	model_stop(&model);
}

static void
looks_like_the_target(void **state)
{
	struct virtio_bdev_info info;
	struct peer_stage s;

	target(3, 4096);
	model.features |= 1ull << VIRTIO_BLK_F_RO | 1ull << VIRTIO_BLK_F_TOPOLOGY;
	model.features &= ~(1ull << VIRTIO_BLK_F_DISCARD | 1ull << VIRTIO_BLK_F_FLUSH);
	model.config.physical_block_exp = 1;
	stage_open(&s, REACTOR_INTERRUPT, false);
	peer_stage_attach(&s);
	EXPECT(s.bdev != NULL && bdev_readonly(s.bdev) && !bdev_write_cache(s.bdev));
	EXPECT(bdev_block_size(s.bdev) == 4096 && bdev_physical_block_size(s.bdev) == 8192);
	EXPECT(bdev_num_blocks(s.bdev) == DISK_BYTES / 4096);
	EXPECT(!bdev_supports_natively(s.bdev, BDEV_UNMAP));
	EXPECT(bdev_virtio_info(s.bdev, &info) && info.connected && info.queues == 3 && info.connects == 1);
	peer_stage_detach(&s);
	env_stop(&s.env);
	model_stop(&model);
}

/* ---- Targets that go ---- */

/* It dies with requests in its rings, others come while it is away: all are there when it is back. */
static void
dies_and_comes_back(enum reactor_mode mode, bool real_threads, unsigned queues, unsigned queues_after)
{
	static struct peer_load load;
	struct peer_stage s;

	target(queues, 512);
	stage_open(&s, mode, real_threads);
	peer_stage_ready(&s);
	for (unsigned round = 0; round < 3; round++) {
		pthread_mutex_lock(&model.lock);
		memset(model.disk, 0, DISK_BYTES);
		pthread_mutex_unlock(&model.lock);
		/* Nothing is served any more, but what is done already. */
		atomic_store(&model.paused, round != 1);
		peer_load_write(&s, &load, 0);
		env_linger(&s.env, 5);
		model_die(&model);
		env_linger(&s.env, 10);
		model.config.num_queues = (uint16_t)queues_after; /* it does not run now */
		start();
		peer_load_check(&s, &load);
	}
	EXPECT(atomic_load(&model.connections) == 4);
	env_close(&s.env);
	peer_stage_detach(&s);
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

/* ---- What nobody waits for any more ---- */

/* A target that does not run yet. */
static void
model_of(unsigned queues)
{
	target(queues, 512);
	model_die(&model);
	opts = options("virtio0");
}

static void
gives_up_after_a_while(void **state)
{
	model_of(2);
	opts.reconnect_s = 1;
	peer_test_gives_up(&peer, &opts);
	model_stop(&model);
}

static void
detaches_without_target(void **state)
{
	for (int threads = 0; threads < 2; threads++) {
		model_of(2);
		peer_test_goes_without(&peer, &opts, threads != 0);
		model_stop(&model);
	}
}

static void
is_cancelled(void **state)
{
	model_of(4);
	peer_test_cancels(&peer, &opts, REACTOR_INTERRUPT, true);
	model_stop(&model);
	model_of(4);
	peer_test_is_patient(&peer, &opts, REACTOR_INTERRUPT, true);
	model_stop(&model);
	model_of(1);
	peer_test_is_removed(&peer, &opts, REACTOR_POLL, true);
	model_stop(&model);
}

/* One that takes connections, and says nothing: nobody waits ten minutes for it. */
static void
is_not_awaited_in_vain(void **state)
{
	struct sockaddr_un at = {.sun_family = AF_UNIX};
	char dir[] = "/tmp/berth-virtio-XXXXXX";
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct peer_stage s;

	EXPECT(mkdtemp(dir) != NULL);
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/silent", dir);
	EXPECT(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 && listen(fd, 1) == 0);
	stage_open(&s, REACTOR_INTERRUPT, true);
	opts.path = at.sun_path;
	opts.connect_ms = 600000;
	peer_stage_drop(&s);
	env_stop(&s.env);
	close(fd);
	unlink(at.sun_path);
	rmdir(dir);
}

/* What came back is another disk: it is not taken for the one that went. */
static void
is_not_deceived(void **state)
{
	uint8_t block[512];
	struct peer_stage s;

	target(2, 512);
	stage_open(&s, REACTOR_INTERRUPT, true);
	opts.reconnect_s = 0;
	peer_stage_attach(&s);
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
	peer_stage_detach(&s);
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
	struct peer_stage s;

	target(1, 512);
	model_die(&model);
	stage_open(&s, REACTOR_INTERRUPT, false);
	opts.wait = true;
	peer_stage_attach(&s);
	EXPECT(s.bdev == NULL && s.err.code == 0);
	env_call(&s.env, s.env.app, count_waiting, NULL);
	EXPECT(waiting == 1);
	peer_stage_refuse(&s, -EEXIST, "exists");
	peer_stage_detach(&s);
	peer_stage_attach(&s);
	EXPECT(env_open(&s.env, "virtio0", true) == -ENODEV);
	model_start(&model);
	while (env_open(&s.env, "virtio0", true) != 0) {
		env_linger(&s.env, 10);
	}
	env_call(&s.env, s.env.app, count_waiting, NULL);
	EXPECT(waiting == 0);
	env_close(&s.env);
	peer_stage_detach(&s);
	model_die(&model);
	peer_stage_attach(&s);
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
	struct peer_stage s;

	target(2, 512);
	stage_open(&s, REACTOR_INTERRUPT, true);
	peer_stage_attach(&s);
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
	peer_stage_detach(&s);
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
		cmocka_unit_test(is_cancelled),            cmocka_unit_test(is_not_awaited_in_vain),
		cmocka_unit_test(passes_battery),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
