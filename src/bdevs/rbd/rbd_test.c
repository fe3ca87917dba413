/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/rbd/rbd.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/clock.h"
#include "bdev/module.h"
#include "bdevs/rbd/harness.h"
#include "testkit/bdev_battery.h"
#include "testkit/peer_stage.h"

#define IMAGE_BYTES ((uint64_t)4 << 20)
#define ROOM_BYTES ((uint64_t)8 << 20)

static const struct rbd_settings settings = {.count = 2, .item = {{"mon_host", "192.0.2.1"}, {"key", "geheim"}}};

static struct rbd_bdev_options
options(const char *name, uint32_t block_size)
{
	return (struct rbd_bdev_options){
		.name = name, .pool = FAKE_POOL, .image = FAKE_IMAGE, .settings = &settings, .block_size = block_size};
}

/* ---- The battery ---- */

static uint32_t battery_block_size;

static void
battery_created(void *ctx, const char *name, struct bdev *bdev, const struct err *err)
{
	EXPECT_SAY(bdev != NULL, "%s", err_text(err));
}

static int
create_bdev(const struct battery *b, struct err *err)
{
	struct rbd_bdev_options o = options(b->name, battery_block_size);

	return bdev_rbd_create(&o, battery_created, NULL, err);
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_rbd_delete(b->name, done, ctx, err);
}

static int
resize_bdev(const struct battery *b, uint64_t num_blocks, struct err *err)
{
	uint64_t bytes = num_blocks * battery_block_size;

	if (bytes < fake.bytes || bytes > ROOM_BYTES) {
		return -EBUSY;
	}
	fake_resize(bytes);
	return 0;
}

static const struct battery battery = {
	.name = "rbd0",
	.create = create_bdev,
	.remove = remove_bdev,
	.resize = resize_bdev,
	.shows_holes = true,
	.unmap_zeroes = true,
	.may_cancel = true,
	.requests = 1000,
};

static void
run_battery(enum reactor_mode mode, bool real_threads, uint32_t block_size)
{
	battery_block_size = block_size;
	fake_start(IMAGE_BYTES, ROOM_BYTES);
	bdev_battery_run(&battery, mode, real_threads);
	fake_stop();
}

static void
passes_battery(void **state)
{
	run_battery(REACTOR_POLL, true, 512);
	run_battery(REACTOR_INTERRUPT, true, 4096);
	run_battery(REACTOR_ADAPTIVE, true, 512);
	run_battery(REACTOR_POLL, false, 4096);
	run_battery(REACTOR_INTERRUPT, false, 512);
	run_battery(REACTOR_ADAPTIVE, false, 512);
	EXPECT(atomic_load(&fake.native_swaps) > 0);
}

/* ---- A stage ---- */

struct stage {
	struct env env;
	struct rbd_bdev_options options;
	struct rbd_cluster_options cluster;
	struct err err;
	struct bdev *bdev;
	char name[BDEV_NAME_BYTES];
	uint64_t bytes;
	int rc;
	atomic_bool answered;
};

static void
note_created(void *ctx, const char *name, struct bdev *bdev, const struct err *err)
{
	struct stage *s = ctx;

	s->bdev = bdev;
	s->err = *err;
	strcpy(s->name, name);
	atomic_store(&s->answered, true);
}

static void
note_err(void *ctx, const struct err *err)
{
	struct stage *s = ctx;

	s->err = *err;
	atomic_store(&s->answered, true);
}

static void
note_status(void *ctx, int status)
{
	EXPECT(status == 0);
	atomic_store(&((struct stage *)ctx)->answered, true);
}

static void
note_end(void *ctx)
{
	atomic_store(&((struct stage *)ctx)->answered, true);
}

static void
do_create(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_rbd_create(&s->options, note_created, s, &s->err);
}

static void
do_delete(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_rbd_delete("rbd0", note_status, s, &s->err);
}

static void
do_resize(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_rbd_resize("rbd0", s->bytes, note_err, s, &s->err);
}

static void
do_register(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_rbd_register_cluster(&s->cluster, note_err, s, &s->err);
}

static void
do_unregister(void *arg)
{
	struct stage *s = arg;

	s->rc = bdev_rbd_unregister_cluster("c0", note_status, s, &s->err);
}

static void
do_shutdown(void *arg)
{
	bdev_rbd_shutdown(note_end, arg);
}

static void
gone(void *ctx)
{
	do_shutdown(ctx);
}

/* As a process that ends does. */
static void
remove_all(void *arg)
{
	bdev_shutdown(gone, arg);
}

static void
refused(struct stage *s, void (*fn)(void *arg), int rc, const char *words)
{
	s->err = ERR_NONE;
	env_call(&s->env, s->env.app, fn, s);
	EXPECT_SAY(s->rc == rc && strstr(s->err.text, words) != NULL, "%d: %s", s->rc, s->err.text);
}

/* Begins well; how it ended is in the stage. */
static void
go(struct stage *s, void (*fn)(void *arg))
{
	atomic_store(&s->answered, false);
	refused(s, fn, 0, "");
	env_wait(&s->env, &s->answered);
}

static void
failed(struct stage *s, void (*fn)(void *arg), int code, const char *words)
{
	go(s, fn);
	EXPECT_SAY(s->err.code == code && strstr(s->err.text, words) != NULL && strstr(s->err.text, "geheim") == NULL,
		   "%d: %s", s->err.code, s->err.text);
}

static void
stage_open(struct stage *s, bool real_threads)
{
	memset(s, 0, sizeof(*s));
	fake_start(IMAGE_BYTES, ROOM_BYTES);
	env_start(&s->env, REACTOR_INTERRUPT, real_threads);
	s->options = options("rbd0", 512);
	s->cluster = (struct rbd_cluster_options){.name = "c0", .settings = &settings};
}

static void
stage_end(struct stage *s)
{
	/* What failed to open is closed behind its answer. */
	atomic_store(&s->answered, false);
	env_call(&s->env, s->env.app, do_shutdown, s);
	env_wait(&s->env, &s->answered);
	env_stop(&s->env);
	fake_stop();
}

/* ---- What is wrong ---- */

static void
says_what_is_wrong(void **state)
{
	const struct rbd_settings coloured = {.count = 1, .item = {{"colour", "red"}}};
	struct stage s;

	stage_open(&s, false);
	s.options.block_size = 1000;
	refused(&s, do_create, -EINVAL, "power of two");
	s.options = options("", 512);
	refused(&s, do_create, -EINVAL, "name");
	s.options = options("rbd0", 512);
	s.options.cluster = "c0";
	refused(&s, do_create, -EINVAL, "the cluster's");
	s.options.settings = NULL;
	refused(&s, do_create, -ENOENT, "no cluster 'c0'");
	s.options = options("rbd0", 512);
	s.options.pool = "none";
	failed(&s, do_create, -ENOENT, "pool 'none'");
	s.options = options("rbd0", 512);
	s.options.image = "none";
	failed(&s, do_create, -ENOENT, "pool/none");
	s.options = options("rbd0", 512);
	s.options.settings = &coloured;
	failed(&s, do_create, -ENOENT, "'colour'");
	s.options.settings = NULL; /* no usual file here */
	failed(&s, do_create, -ENOENT, "configuration file");
	s.options = options("rbd0", 512);
	atomic_store(&fake.connect_fails, -ETIMEDOUT);
	failed(&s, do_create, -ETIMEDOUT, "cannot be reached");
	atomic_store(&fake.connect_fails, 0);
	fake.bytes = 100;
	failed(&s, do_create, -EINVAL, "100 bytes");
	fake.bytes = IMAGE_BYTES;
	go(&s, do_create);
	EXPECT(s.bdev != NULL);
	refused(&s, do_create, -EEXIST, "rbd0");
	s.bytes = IMAGE_BYTES - 512;
	refused(&s, do_resize, -EINVAL, "smaller");
	s.bytes = ROOM_BYTES + 512;
	failed(&s, do_resize, -ENOSPC, "rbd0");
	go(&s, do_delete);
	refused(&s, do_delete, -ENODEV, "rbd0");
	refused(&s, do_resize, -ENODEV, "rbd0");
	stage_end(&s);
}

static void
keeps_secrets_and_promises(void **state)
{
	struct rbd_bdev_options kept;
	struct stage s;

	stage_open(&s, false);
	s.options.name = NULL;
	go(&s, do_create);
	EXPECT(strcmp(s.name, "Ceph0") == 0);
	EXPECT(bdev_rbd_options(s.bdev, &kept) && kept.settings->count == 1);
	EXPECT(strcmp(kept.settings->item[0].name, "mon_host") == 0);
	EXPECT(!uuid_is_null(kept.uuid));
	EXPECT(strstr(fake.settings, "key=geheim;") != NULL);
	/* Last, so that nothing says otherwise. */
	EXPECT_SAY(strstr(fake.settings, "rbd_cache=false;rbd_disable_zero_copy_writes=true;") != NULL, "%s", fake.settings);
	atomic_store(&s.answered, false);
	env_call(&s.env, s.env.app, remove_all, &s);
	env_wait(&s.env, &s.answered);
	stage_end(&s);
}

/* ---- Clusters ---- */

static unsigned counted;

static void
count_cluster(void *ctx, const struct rbd_cluster_options *o)
{
	EXPECT(strcmp(o->name, "c0") == 0 && o->settings->count == 1 && strcmp(o->config_file, "/some/file") == 0);
	counted++;
}

static void
count_clusters(void *arg)
{
	counted = 0;
	bdev_rbd_for_each_cluster(count_cluster, NULL);
}

static void
shares_clusters(void **state)
{
	struct stage s;

	stage_open(&s, false);
	s.cluster.name = "";
	refused(&s, do_register, -EINVAL, "name");
	s.cluster.name = "c0";
	s.cluster.core_mask = "x";
	refused(&s, do_register, -EINVAL, "");
	s.cluster.core_mask = "0x1";
	s.cluster.config_file = "/nonexistent";
	failed(&s, do_register, -ENOENT, "/nonexistent");
	s.cluster.config_file = "/some/file";
	s.cluster.key_file = "/some/keyring";
	atomic_store(&fake.connect_fails, -EACCES);
	failed(&s, do_register, -EACCES, "cluster 'c0'");
	atomic_store(&fake.connect_fails, 0);
	failed(&s, do_register, 0, "");
	EXPECT(strstr(fake.settings, "keyring=/some/keyring;") != NULL);
	refused(&s, do_register, -EEXIST, "c0");
	env_call(&s.env, s.env.app, count_clusters, NULL);
	EXPECT(counted == 1);
	s.options.cluster = "c0";
	s.options.settings = NULL;
	go(&s, do_create);
	EXPECT(s.bdev != NULL && atomic_load(&fake.clusters) == 1);
	refused(&s, do_unregister, -EBUSY, "in use");
	go(&s, do_delete);
	go(&s, do_unregister);
	refused(&s, do_unregister, -ENOENT, "c0");
	EXPECT(atomic_load(&fake.clusters) == 0);
	stage_end(&s);
}

/* ---- Waiting ---- */

static void
count_one(void *ctx, const struct rbd_bdev_options *o)
{
	counted += strcmp(o->name, "rbd0") == 0;
}

static void
count_waiting(void *arg)
{
	counted = 0;
	bdev_rbd_for_each_waiting(count_one, NULL);
}

static void
awaits_image(void **state)
{
	struct stage s;

	stage_open(&s, true);
	s.options.wait = s.cluster.wait = true;
	atomic_store(&fake.connect_fails, -ETIMEDOUT);
	failed(&s, do_register, 0, "");
	s.options.cluster = "c0";
	s.options.settings = NULL;
	go(&s, do_create);
	EXPECT(s.bdev == NULL && s.err.code == 0);
	env_call(&s.env, s.env.app, count_waiting, NULL);
	EXPECT(counted == 1);
	refused(&s, do_create, -EEXIST, "rbd0");
	go(&s, do_delete);
	go(&s, do_create);
	atomic_store(&fake.connect_fails, 0);
	while (env_open(&s.env, "rbd0", true) != 0) {
		env_linger(&s.env, 20);
	}
	env_call(&s.env, s.env.app, count_waiting, NULL);
	EXPECT(counted == 0);
	env_close(&s.env);
	go(&s, do_delete);
	atomic_store(&fake.open_fails, -EIO);
	go(&s, do_create);
	/* The process ends: nothing is left that would wake it. */
	atomic_store(&s.answered, false);
	env_call(&s.env, s.env.app, do_shutdown, &s);
	env_wait(&s.env, &s.answered);
	atomic_store(&fake.open_fails, 0);
	stage_end(&s);
}

/* ---- Sizes and errors ---- */

static void
follows_size(void **state)
{
	struct stage s;

	stage_open(&s, true);
	go(&s, do_create);
	EXPECT(env_open(&s.env, "rbd0", true) == 0);
	s.bytes = IMAGE_BYTES + 4096;
	failed(&s, do_resize, 0, "");
	EXPECT(bdev_num_blocks(s.env.bdev) == IMAGE_BYTES / 512 + 8);
	fake_resize(IMAGE_BYTES + 8192);
	env_wait_size(&s.env, IMAGE_BYTES / 512 + 16);
	EXPECT(bdev_num_blocks(s.env.bdev) == IMAGE_BYTES / 512 + 16);
	fake_resize(IMAGE_BYTES); /* not while somebody has it */
	env_linger(&s.env, 30);
	EXPECT(bdev_num_blocks(s.env.bdev) == IMAGE_BYTES / 512 + 16);
	env_close(&s.env);
	go(&s, do_delete);
	stage_end(&s);
}

static void
passes_errors_on(void **state)
{
	uint8_t block[512];
	struct stage s;

	stage_open(&s, false);
	go(&s, do_create);
	EXPECT(env_open(&s.env, "rbd0", true) == 0);
	atomic_store(&fake.submit_fails, -EROFS);
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 0, 1, block) == -EROFS);
	atomic_store(&fake.answer_fails, -ESHUTDOWN);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == -ESHUTDOWN);
	atomic_store(&fake.answer_fails, -ENOMEM);
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == -EIO);
	atomic_store(&fake.answer_fails, 100); /* too few bytes */
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 0, 1, block) == -EIO);
	atomic_store(&fake.submit_fails, -ENOMEM); /* waits, and is done */
	EXPECT(env_rw(&s.env.workers[0], BDEV_FLUSH, 0, 0, NULL) == 0);
	env_close(&s.env);
	go(&s, do_delete);
	stage_end(&s);
}

static void
swaps_in_one_object(void **state)
{
	uint8_t was[1024] = {0}, now[1024];
	struct iovec compare = {was, sizeof(was)}, write[] = {{now, 100}, {now + 100, 924}};
	struct env_io io = {.op = BDEV_COMPARE_AND_WRITE,
			    .lba = 10,
			    .num_blocks = 2,
			    .iov = &compare,
			    .iovcnt = 1,
			    .write_iov = write,
			    .write_iovcnt = 2};
	int before = atomic_load(&fake.native_swaps);
	struct stage s;

	stage_open(&s, false);
	go(&s, do_create);
	EXPECT(env_open(&s.env, "rbd0", true) == 0);
	memset(now, 9, sizeof(now));
	env_submit(&s.env.workers[0], &io);
	EXPECT(env_finish(&io) == 0 && memcmp(fake.data + 5120, now, sizeof(now)) == 0);
	memset(was, 9, sizeof(was));
	was[600] = 1;
	env_submit(&s.env.workers[0], &io);
	EXPECT(env_finish(&io) == -EILSEQ);
	EXPECT_SAY(io.result == 600, "%llu", (unsigned long long)io.result);
	EXPECT(atomic_load(&fake.native_swaps) == before + 2);
	/* Over a border: by the core. */
	memset(was, 0, sizeof(was));
	io.lba = FAKE_OBJECT_BYTES / 512 - 1;
	env_submit(&s.env.workers[0], &io);
	EXPECT(env_finish(&io) == 0 && memcmp(fake.data + FAKE_OBJECT_BYTES - 512, now, sizeof(now)) == 0);
	EXPECT(atomic_load(&fake.native_swaps) == before + 2);
	env_close(&s.env);
	go(&s, do_delete);
	stage_end(&s);
}

/* ---- A silent cluster ---- */

static void
peer_created(void *ctx, const char *name, struct bdev *bdev, const struct err *err)
{
	peer_stage_attached(ctx, bdev, err);
}

static int
peer_attach(struct peer_stage *s)
{
	return bdev_rbd_create(s->options, peer_created, s, &s->err);
}

static int
peer_detach(struct peer_stage *s, void (*done)(void *ctx, int status), void *ctx)
{
	return bdev_rbd_delete("rbd0", done, ctx, &s->err);
}

static void
peer_start(void)
{
	fake_start(IMAGE_BYTES, ROOM_BYTES);
}

static void
peer_shut_down(void *arg)
{
	bdev_rbd_shutdown(note_end, arg);
}

static void
peer_end(struct peer_stage *s)
{
	struct stage end;

	fake_mute(false);
	atomic_store(&end.answered, false);
	env_call(&s->env, s->env.app, peer_shut_down, &end);
	env_wait(&s->env, &end.answered);
	fake_stop();
}

static const struct peer peer = {.bdev = "rbd0",
				 .attach = peer_attach,
				 .detach = peer_detach,
				 .start = peer_start,
				 .silence = fake_mute,
				 .end = peer_end,
				 .greets = true};

static void
is_cancelled(void **state)
{
	struct rbd_bdev_options o = options("rbd0", 512);

	peer_test_cancels(&peer, &o, REACTOR_ADAPTIVE, false);
	peer_test_is_patient(&peer, &o, REACTOR_INTERRUPT, true);
	peer_test_is_removed(&peer, &o, REACTOR_POLL, true);
}

static void
give_up(void *arg)
{
	bdev_channel_give_up(((struct env_worker *)arg)->ch);
}

static void
gives_up(struct stage *s, unsigned worker)
{
	env_call(&s->env, s->env.workers[worker].thread, give_up, &s->env.workers[worker]);
}

/* Until librbd has answered all it was asked. */
static void
wait_for_answers(struct stage *s)
{
	while (atomic_load(&fake.completions) > 0) {
		env_linger(&s->env, 1);
	}
}

static struct env_io
request(enum bdev_op op, uint64_t num_blocks, struct iovec *iov)
{
	return (struct env_io){.op = op, .num_blocks = num_blocks, .iov = iov, .iovcnt = iov != NULL};
}

/* Each operation: it ends when it is given up, and what librbd does then touches nothing of who asked. */
static void
leaves_memory_alone(void **state)
{
	static uint8_t data[8 * 512], other[8 * 512];
	struct iovec iov = {data, sizeof(data)}, write = {other, sizeof(other)};
	struct bdev_extent extents[4];
	struct env_io ios[] = {request(BDEV_READ, 8, &iov), request(BDEV_WRITE, 8, &write), request(BDEV_UNMAP, 8, NULL),
			       request(BDEV_WRITE_ZEROES, 8, NULL), request(BDEV_FLUSH, 0, NULL),
			       request(BDEV_COMPARE_AND_WRITE, 8, &iov), request(BDEV_BLOCK_STATUS, 4096, NULL),
			       request(BDEV_BLOCK_STATUS, 4096, NULL)};
	struct stage s;

	stage_open(&s, true);
	go(&s, do_create);
	EXPECT(env_open(&s.env, "rbd0", true) == 0);
	memset(data, 0xaa, sizeof(data));
	memset(other, 0xbb, sizeof(other));
	memset(extents, 0xcc, sizeof(extents));
	ios[5].write_iov = &write;
	ios[5].write_iovcnt = 1;
	ios[6].extents = ios[7].extents = extents;
	ios[6].max_results = ios[7].max_results = 4;
	fake_mute(true);
	for (unsigned i = 0; i < sizeof(ios) / sizeof(ios[0]); i++) {
		env_submit(&s.env.workers[0], &ios[i]);
	}
	env_linger(&s.env, 20);
	gives_up(&s, 0);
	for (unsigned i = 0; i < sizeof(ios) / sizeof(ios[0]); i++) {
		EXPECT_SAY(env_finish(&ios[i]) == -ECANCELED, "%u", i);
	}
	fake_mute(false);
	wait_for_answers(&s);
	for (unsigned i = 0; i < sizeof(data); i++) {
		EXPECT(data[i] == 0xaa && other[i] == 0xbb);
	}
	EXPECT(((uint8_t *)extents)[0] == 0xcc);
	/* Questions go on. */
	ios[6] = request(BDEV_BLOCK_STATUS, 4096, NULL);
	ios[6].extents = extents;
	ios[6].max_results = 4;
	env_submit(&s.env.workers[0], &ios[6]);
	EXPECT(env_finish(&ios[6]) == 0 && ios[6].result == 2);
	env_close(&s.env);
	go(&s, do_delete);
	stage_end(&s);
}

/* What is given up without end has a limit; beyond it requests wait here, and end at once when they are cancelled. */
static void
is_not_fed_without_end(void **state)
{
	static uint8_t data[FAKE_OBJECT_BYTES]; /* in one piece for the core, too */
	struct iovec iov = {data, sizeof(data)};
	struct env_io ios[160];
	struct stage s;
	int held;

	stage_open(&s, true);
	go(&s, do_create);
	EXPECT(env_open(&s.env, "rbd0", true) == 0);
	fake_mute(true);
	for (unsigned round = 0; round < 2; round++) {
		held = atomic_load(&fake.completions);
		for (unsigned i = 0; i < 160; i++) {
			ios[i] = request(i % 2 == 0 ? BDEV_READ : BDEV_WRITE, sizeof(data) / 512, &iov);
			env_submit(&s.env.workers[0], &ios[i]);
		}
		env_linger(&s.env, 20);
		gives_up(&s, 0);
		for (unsigned i = 0; i < 160; i++) {
			EXPECT(env_finish(&ios[i]) == -ECANCELED);
		}
	}
	EXPECT_SAY(held > 0 && atomic_load(&fake.completions) == held, "%d, %d", held, atomic_load(&fake.completions));
	ios[0] = request(BDEV_FLUSH, 0, NULL);
	env_submit(&s.env.workers[1], &ios[0]);
	fake_mute(false);
	EXPECT(env_finish(&ios[0]) == 0);
	env_close(&s.env);
	go(&s, do_delete);
	stage_end(&s);
}

/* Deleted, though its image cannot be closed; and not there again before its last writes are. */
static void
is_deleted_without_cluster(void **state)
{
	uint8_t block[512];
	struct iovec iov = {block, sizeof(block)};
	struct env_io io = request(BDEV_WRITE, 1, &iov);
	struct stage s;

	stage_open(&s, true);
	go(&s, do_create);
	EXPECT(env_open(&s.env, "rbd0", true) == 0);
	memset(block, 7, sizeof(block));
	fake_mute(true);
	env_submit(&s.env.workers[0], &io);
	env_linger(&s.env, 10);
	atomic_store(&s.answered, false);
	refused(&s, do_delete, 0, "");
	EXPECT(env_finish(&io) == -ENODEV);
	env_close(&s.env);
	env_wait(&s.env, &s.answered);
	EXPECT(atomic_load(&fake.images) == 1);
	s.options.name = "rbd1";
	failed(&s, do_create, -EBUSY, "on their way");
	s.options.name = "rbd0";
	s.options.wait = true;
	failed(&s, do_create, 0, "");
	EXPECT(s.bdev == NULL);
	fake_mute(false);
	while (env_open(&s.env, "rbd0", true) != 0) {
		env_linger(&s.env, 20);
	}
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0 && block[0] == 7);
	env_close(&s.env);
	go(&s, do_delete);
	stage_end(&s);
}

/* News of a size are not lost for want of a system thread. */
static void
looks_again_without_threads(void **state)
{
	struct stage s;

	stage_open(&s, true);
	go(&s, do_create);
	EXPECT(env_open(&s.env, "rbd0", true) == 0);
	atomic_store(&fake.no_threads, 1);
	fake_resize(IMAGE_BYTES + 4096);
	env_wait_size(&s.env, IMAGE_BYTES / 512 + 8);
	EXPECT(atomic_load(&fake.no_threads) == 0);
	env_close(&s.env);
	go(&s, do_delete);
	stage_end(&s);
}

static void
leave_all(void *arg)
{
	bdev_rbd_leave_all();
}

static uint64_t
ms_since(uint64_t start_ns)
{
	return (clock_now_ns() - start_ns) / NS_PER_MS;
}

/* As berthd ends: nobody has patience left, and the cluster has had its chance. In a process of its own, for what stays. */
static void
ends_without_cluster(void)
{
	uint8_t block[512];
	struct iovec iov = {block, sizeof(block)};
	struct env_io io = request(BDEV_READ, 1, &iov);
	struct stage s;
	uint64_t start_ns;

	stage_open(&s, true);
	go(&s, do_create);
	EXPECT(env_open(&s.env, "rbd0", true) == 0);
	fake_mute(true);
	env_submit(&s.env.workers[0], &io);
	env_linger(&s.env, 10);
	start_ns = clock_now_ns();
	env_call(&s.env, s.env.app, leave_all, NULL);
	EXPECT(env_finish(&io) == -ENODEV);
	env_close(&s.env);
	atomic_store(&s.answered, false);
	env_call(&s.env, s.env.app, remove_all, &s);
	env_wait(&s.env, &s.answered);
	EXPECT_SAY(ms_since(start_ns) < 4500, "%llu ms", (unsigned long long)ms_since(start_ns));
	env_stop(&s.env);
	/* What comes late finds nobody, and hurts nobody. */
	fake_mute(false);
	while (atomic_load(&fake.completions) > 0 || atomic_load(&fake.images) > 0) {
		usleep(1000);
	}
}

static void
ends_in_time(void **state)
{
	pid_t pid = fork();
	int status;

	EXPECT(pid >= 0);
	if (pid == 0) {
		ends_without_cluster();
		_exit(0);
	}
	EXPECT(waitpid(pid, &status, 0) == pid && status == 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_what_is_wrong), cmocka_unit_test(keeps_secrets_and_promises),
		cmocka_unit_test(shares_clusters),    cmocka_unit_test(awaits_image),
		cmocka_unit_test(follows_size),       cmocka_unit_test(passes_errors_on),
		cmocka_unit_test(swaps_in_one_object), cmocka_unit_test(passes_battery),
		cmocka_unit_test(ends_in_time),       cmocka_unit_test(is_cancelled),
		cmocka_unit_test(leaves_memory_alone), cmocka_unit_test(is_not_fed_without_end),
		cmocka_unit_test(is_deleted_without_cluster), cmocka_unit_test(looks_again_without_threads),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
