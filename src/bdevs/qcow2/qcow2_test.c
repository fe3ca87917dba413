/* SPDX-License-Identifier: BSD-3-Clause */
#include "bdevs/qcow2/qcow2.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "bdevs/qcow2/harness.h"
#include "testkit/bdev_reader.h"
#include "testkit/scripted_bdev.h"

#define NAME "Image0"
#define BASE "base0"
#define ROOM ((size_t)12 << 20)

static struct made image;
static struct scripted_bdev base;
static bool awkward;

/* A disk of about two hundred clusters, every kind of them. */
static void
make(unsigned version, unsigned cluster_bits, bool extended, enum qcow2_compression compression)
{
	unsigned kinds = extended ? 4 : 3 + (version == 3);

	made_free(&image);
	image = (struct made){.room = ROOM,
			      .size = ((uint64_t)170 << cluster_bits) - 1536,
			      .cluster_bits = cluster_bits,
			      .extended = extended,
			      .compression = compression};
	image.size = MIN(image.size, (uint64_t)8 << 20);
	made_init(&image, version);
	for (uint64_t i = 0; i << cluster_bits < image.size; i++) {
		switch ((i * 2654435761u >> 7) % kinds) {
		case 0:
			made_data(&image, i, (unsigned)i);
			break;
		case 1:
			made_compressed(&image, i, (unsigned)i);
			break;
		case 2:
			break;
		default:
			made_zero(&image, i);
			break;
		}
	}
}

/* ---- A stage ---- */

struct asking {
	int rc;
	struct err err;
	bool there;
	atomic_bool done;
};

static struct asking deletion;

static void
created(void *ctx, struct bdev *bdev, const struct err *err)
{
	struct asking *a = ctx;

	a->rc = err->code;
	a->err = *err;
	a->there = bdev != NULL;
	atomic_store(&a->done, true);
}

static void
create_on_app(void *arg)
{
	struct qcow2_bdev_options options = {.name = NAME, .base_name = BASE};
	struct asking *a = arg;

	a->rc = bdev_qcow2_create(&options, created, a, &a->err);
	if (a->rc != 0) {
		atomic_store(&a->done, true);
	} else {
		EXPECT(!atomic_load(&a->done));
	}
}

static struct asking
create(struct env *env)
{
	struct asking a = {.rc = 0};

	env_call(env, env->app, create_on_app, &a);
	env_wait(env, &a.done);
	return a;
}

static void
deleted(void *ctx, int status)
{
	EXPECT(status == 0);
	atomic_store(&deletion.done, true);
}

static void
delete_on_app(void *arg)
{
	atomic_store(&deletion.done, false);
	deletion.rc = bdev_qcow2_delete(NAME, deleted, NULL, NULL);
}

static void
delete(struct env *env)
{
	env_call(env, env->app, delete_on_app, NULL);
	EXPECT(deletion.rc == 0);
	env_wait(env, &deletion.done);
}

static void
add_base_on_app(void *arg)
{
	EXPECT(scripted_bdev_add(&base, NULL) == 0);
}

static void
add_base(struct env *env, uint32_t block_size)
{
	scripted_bdev_init(&base, BASE, ROOM / block_size, block_size);
	memcpy(base.data, image.file, ROOM);
	if (awkward) {
		base.bdev.max_rw_blocks = 20;
		base.bdev.buffer_align = 512;
		atomic_store(&base.refuse_every, 7);
		atomic_store(&base.shuffle, true);
	}
	env_call(env, env->app, add_base_on_app, NULL);
}

static void
end_base(struct env *env)
{
	if (!base.removing) {
		scripted_remove(&base, env);
	}
	env_wait(env, &base.destructed);
	scripted_bdev_release(&base);
}

/* ---- What every read-only bdev must do ---- */

static void
reader_create(const struct reader *r, struct env *env)
{
	struct asking a;

	add_base(env, 512);
	a = create(env);
	EXPECT_SAY(a.rc == 0 && a.there, "%s", err_text(&a.err));
	a = create(env);
	EXPECT(a.rc == -EEXIST && strstr(a.err.text, NAME) != NULL);
}

static void
reader_remove(const struct reader *r)
{
	delete_on_app(NULL);
	EXPECT(deletion.rc == 0);
}

static void
reader_finish(const struct reader *r, struct env *env)
{
	env_wait(env, &deletion.done);
	end_base(env);
}

static void
run_battery(bool all)
{
	struct reader r = {.name = NAME,
			   .data = image.disk,
			   .create = reader_create,
			   .remove = reader_remove,
			   .finish = reader_finish};

	if (all) {
		bdev_reader_run_all(&r);
	} else {
		bdev_reader_run(&r, REACTOR_ADAPTIVE, true);
		bdev_reader_run(&r, REACTOR_INTERRUPT, false);
	}
}

static void
reads_images(void **state)
{
	make(3, 16, false, QCOW2_DEFLATE);
	run_battery(true);
	make(2, 16, false, QCOW2_DEFLATE);
	run_battery(false);
	make(3, 9, false, QCOW2_DEFLATE);
	run_battery(false);
	make(3, 21, false, QCOW2_DEFLATE);
	run_battery(false);
	make(3, 14, true, QCOW2_DEFLATE);
	run_battery(false);
	make(3, 16, true, QCOW2_DEFLATE);
	run_battery(false);
	if (qcow2_can_inflate(QCOW2_ZSTD)) {
		make(3, 12, false, QCOW2_ZSTD);
		run_battery(false);
	}
	awkward = true;
	make(3, 12, false, QCOW2_DEFLATE);
	run_battery(false);
	awkward = false;
}

/* ---- Bases that come and go ---- */

static void
expect_there(void *arg)
{
	EXPECT(bdev_find(NAME) != NULL);
}

static void
wait_until_there(struct env *env)
{
	for (int i = 0; i < 100; i++) {
		int rc = env_open(env, NAME, false);

		if (rc == 0) {
			return;
		}
		env_linger(env, 5);
	}
	env_call(env, env->app, expect_there, NULL);
}

static void
base_comes_and_goes(void **state)
{
	uint8_t buf[512];
	struct asking a;
	struct env env;

	make(3, 16, false, QCOW2_DEFLATE);
	env_start(&env, REACTOR_INTERRUPT, false);
	a = create(&env);
	EXPECT(a.rc == 0 && !a.there);
	for (int i = 0; i < 3; i++) {
		add_base(&env, 512);
		wait_until_there(&env);
		EXPECT(env_rw(&env.workers[0], BDEV_READ, 1, 1, buf) == 0);
		EXPECT(memcmp(buf, image.disk + 512, 512) == 0);
		scripted_remove(&base, &env);
		EXPECT(env_rw(&env.workers[0], BDEV_READ, 1, 1, buf) == -ENODEV);
		env_close(&env);
		end_base(&env);
		if (i == 0) { /* one that is no image: it waits on */
			scripted_bdev_init(&base, BASE, 1000, 512);
			env_call(&env, env.app, add_base_on_app, NULL);
			env_linger(&env, 3);
			EXPECT(env_open(&env, NAME, false) == -ENODEV);
			end_base(&env);
		}
	}
	delete(&env);
	env_stop(&env);
}

/* What comes back under the name of the base may be another image. */
static void
looks_again(void **state)
{
	uint8_t buf[512];
	struct env env;

	make(3, 16, false, QCOW2_DEFLATE);
	env_start(&env, REACTOR_INTERRUPT, false);
	add_base(&env, 512);
	EXPECT(create(&env).rc == 0);
	EXPECT(env_open(&env, NAME, false) == 0);
	scripted_remove(&base, &env);
	env_close(&env);
	end_base(&env);
	make(3, 14, true, QCOW2_DEFLATE);
	made_data(&image, 3, 99);
	add_base(&env, 512);
	wait_until_there(&env);
	EXPECT(bdev_num_blocks(env.bdev) == (image.size + 511) / 512);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 3 * 32 + 1, 1, buf) == 0);
	EXPECT(memcmp(buf, image.disk + 3 * 16384 + 512, 512) == 0);
	env_close(&env);
	delete(&env);
	end_base(&env);
	env_stop(&env);
}

/* ---- More tables at once than a channel keeps ---- */

#define MANY 150u
#define TABLE_BYTES 32768u /* of the disk, that a table of clusters of 512 bytes describes */

static void
kick_base(void *ctx, struct bdev_channel *ch)
{
	scripted_channel_kick(ch);
}

static void
kicked(void *ctx)
{
}

static void
let_go_on_app(void *arg)
{
	atomic_store(&base.hold, false);
	EXPECT(bdev_for_each_channel(&base.bdev, kick_base, kicked, NULL) == 0);
}

static void
many_tables(void **state)
{
	struct env_io *ios = calloc(MANY, sizeof(*ios));
	struct iovec *iov = calloc(MANY, sizeof(*iov));
	struct env env;

	made_free(&image);
	image = (struct made){.room = ROOM, .size = 8u << 20, .cluster_bits = 9};
	made_init(&image, 3);
	for (unsigned i = 0; i < MANY; i++) {
		made_data(&image, (uint64_t)i * TABLE_BYTES / 512 + i % 64, i);
	}
	env_start(&env, REACTOR_INTERRUPT, false);
	add_base(&env, 512);
	EXPECT(create(&env).rc == 0);
	EXPECT(env_open(&env, NAME, false) == 0);
	atomic_store(&base.fail_with, -EIO);
	EXPECT(env_rw(&env.workers[0], BDEV_READ, 0, 1, image.file) == -EIO);
	atomic_store(&base.fail_with, 0); /* what could not be read is asked for again */
	atomic_store(&base.hold, true);
	atomic_store(&base.shuffle, true);
	for (unsigned i = 0; i < MANY; i++) {
		iov[i] = (struct iovec){malloc(512), 512};
		ios[i] = (struct env_io){.op = BDEV_READ,
					 .lba = (uint64_t)i * TABLE_BYTES / 512 + i % 64,
					 .num_blocks = 1,
					 .iov = &iov[i],
					 .iovcnt = 1};
		env_submit(&env.workers[0], &ios[i]);
	}
	env_linger(&env, 2);
	env_call(&env, env.app, let_go_on_app, NULL);
	for (unsigned i = 0; i < MANY; i++) {
		EXPECT(env_finish(&ios[i]) == 0);
		EXPECT(memcmp(iov[i].iov_base, image.disk + ios[i].lba * 512, 512) == 0);
		free(iov[i].iov_base);
	}
	free(ios);
	free(iov);
	env_close(&env);
	delete(&env);
	end_base(&env);
	env_stop(&env);
}

/* Nobody writes to the base of an image. */
static void
base_is_claimed(void **state)
{
	struct env env;
	struct asking a;

	make(3, 16, false, QCOW2_DEFLATE);
	env_start(&env, REACTOR_INTERRUPT, false);
	add_base(&env, 512);
	EXPECT(env_open(&env, BASE, true) == 0);
	a = create(&env);
	EXPECT(a.rc == -EPERM);
	env_close(&env);
	EXPECT(create(&env).rc == 0);
	EXPECT(env_open(&env, BASE, true) == -EPERM);
	EXPECT(env_open(&env, BASE, false) == 0);
	env_close(&env);
	delete(&env);
	EXPECT(env_open(&env, BASE, true) == 0);
	env_close(&env);
	end_base(&env);
	env_stop(&env);
}

/* ---- What is wrong ---- */

static void
expect_refused(int rc, const char *says, uint32_t block_size, int fail_with)
{
	struct env env;
	struct asking a;

	env_start(&env, REACTOR_INTERRUPT, false);
	add_base(&env, block_size);
	atomic_store(&base.fail_with, fail_with);
	a = create(&env);
	EXPECT_SAY(a.rc == rc && !a.there && strstr(a.err.text, says) != NULL, "%d %s", a.rc,
		   a.err.text);
	EXPECT(strstr(a.err.text, BASE) != NULL);
	env_call(&env, env.app, delete_on_app, NULL);
	EXPECT(deletion.rc == -ENODEV);
	end_base(&env);
	env_stop(&env);
}

static void
refuses_what_it_cannot_read(void **state)
{
	make(3, 16, false, QCOW2_DEFLATE);
	expect_refused(-EINVAL, "4096", 4096, 0);
	expect_refused(-EIO, "read", 512, -EIO);
	put_be(image.file + 32, 2, 4);
	expect_refused(-ENOTSUP, "encrypted", 512, 0);
	put_be(image.file, 0, 4);
	expect_refused(-EINVAL, "no qcow2 image", 512, 0);
}

static int
read_cluster(struct env *env, uint64_t cluster)
{
	static uint8_t buf[512];

	return env_rw(&env->workers[0], BDEV_READ, cluster << image.cluster_bits >> 9, 1, buf);
}

/* Entries that lead nowhere end the requests that need them, and nothing else. */
static void
hostile_entries(void **state)
{
	struct env env;

	make(3, 12, false, QCOW2_DEFLATE);
	made_data(&image, 0, 1);
	put_be(made_l2(&image, 1), ROOM * 4096, 8);
	put_be(made_l2(&image, 2), UINT64_C(1) << 62 | (ROOM - 10), 8); /* nothing to inflate */
	put_be(made_l2(&image, 3), 0x200, 8);
	put_be(made_l2(&image, 4), ROOM - 4096, 8); /* the last of the file */
	made_data(&image, 5, 1);
	env_start(&env, REACTOR_INTERRUPT, false);
	add_base(&env, 512);
	EXPECT(create(&env).rc == 0);
	EXPECT(env_open(&env, NAME, false) == 0);
	EXPECT(read_cluster(&env, 0) == 0 && read_cluster(&env, 5) == 0 && read_cluster(&env, 4) == 0);
	EXPECT(read_cluster(&env, 1) == -EIO && read_cluster(&env, 2) == -EIO &&
	       read_cluster(&env, 3) == -EIO);
	/* The base fails for a while. */
	atomic_store(&base.fail_with, -EIO);
	EXPECT(read_cluster(&env, 0) == -EIO);
	atomic_store(&base.fail_with, 0);
	EXPECT(read_cluster(&env, 0) == 0 && read_cluster(&env, 2) == -EIO);
	env_close(&env);
	delete(&env);
	end_base(&env);

	put_be(made_l1(&image), ROOM, 8);
	add_base(&env, 512);
	EXPECT(create(&env).rc == 0);
	EXPECT(env_open(&env, NAME, false) == 0);
	EXPECT(read_cluster(&env, 0) == -EIO);
	env_close(&env);
	delete(&env);
	end_base(&env);
	env_stop(&env);
}

static void
options_on_app(void *arg)
{
	struct qcow2_bdev_options o;
	struct qcow2_info info;
	bool waits;

	EXPECT(bdev_qcow2_get(bdev_find(NAME), &o, &info) && strcmp(o.base_name, BASE) == 0);
	EXPECT(info.version == 3 && info.cluster_bytes == 16384 && info.subclusters);
	EXPECT(!bdev_qcow2_get(bdev_find(BASE), &o, NULL));
	EXPECT(bdev_qcow2_list(0, &o, &waits) && !waits && !bdev_qcow2_list(1, &o, &waits));
	EXPECT(bdev_qcow2_delete("none", NULL, NULL, NULL) == -ENODEV);
}

static void
tells_its_options(void **state)
{
	struct env env;

	make(3, 14, true, QCOW2_DEFLATE);
	env_start(&env, REACTOR_INTERRUPT, false);
	add_base(&env, 512);
	EXPECT(create(&env).rc == 0);
	env_call(&env, env.app, options_on_app, NULL);
	delete(&env);
	end_base(&env);
	env_stop(&env);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(reads_images),
		cmocka_unit_test(base_comes_and_goes),
		cmocka_unit_test(looks_again),
		cmocka_unit_test(many_tables),
		cmocka_unit_test(base_is_claimed),
		cmocka_unit_test(refuses_what_it_cannot_read),
		cmocka_unit_test(hostile_entries),
		cmocka_unit_test(tells_its_options),
	};
	int failed = cmocka_run_group_tests(tests, NULL, NULL);

	made_free(&image);
	return failed;
}
