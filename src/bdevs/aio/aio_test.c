/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/log.h"
#include "bdevs/aio/aio.h"
#include "bdevs/file/harness.h"
#include "testkit/hand.h"

static bool nowait;

static int
create(const struct file_options *options, struct err *err)
{
	struct aio_bdev_options mine = {
		.name = options->name,
		.filename = options->filename,
		.block_size = options->block_size,
		.readonly = options->readonly,
		.buffered = options->buffered,
		/* Both ways pass the battery; writes of less than the file system's block wait for others in submission. */
		.nowait = nowait || (options->block_size == 512 && strcmp(options->name, "battery") == 0),
	};

	return bdev_aio_create(&mine, NULL, err);
}

static struct harness_counts
counts(void)
{
	struct aio_stats stats;

	bdev_aio_thread_stats(&stats);
	return (struct harness_counts){.submits = stats.submits, .requests = stats.requests, .mixed = stats.mixed};
}

static const struct harness_module module = {
	.name = "aio",
	.create = create,
	.rescan = bdev_aio_rescan,
	.delete = bdev_aio_delete,
	.counts = counts,
};

static const struct harness_variant on_disk = {HARNESS_DISK, 512, REACTOR_INTERRUPT};

/* Writes, reads back and flushes at a depth beyond one queue's. */
#define MANY 300

static void
exercise(struct harness *h, int expected)
{
	uint32_t bs = h->variant.block_size;
	uint8_t *out = aligned_alloc(4096, MANY * 4096), *in = aligned_alloc(4096, MANY * 4096);
	struct harness_io ios[MANY + 1];
	struct iovec iov[MANY];

	memset(out, 0x3c, MANY * bs);
	memset(in, 0, MANY * bs);
	for (unsigned i = 0; i < MANY; i++) {
		iov[i] = (struct iovec){out + i * bs, bs};
		ios[i] = (struct harness_io){.op = BDEV_WRITE, .lba = i, .blocks = 1, .iov = &iov[i], .iovcnt = 1};
	}
	ios[MANY] = (struct harness_io){.op = BDEV_FLUSH};
	harness_submit(h, ios, MANY + 1, 1);
	for (unsigned i = 0; i <= MANY; i++) {
		CHECK(ios[i].status == expected);
	}
	CHECK(harness_rw(h, BDEV_READ, 0, MANY, in, 0) == expected);
	CHECK(expected != 0 || memcmp(in, out, MANY * bs) == 0);
	free(out);
	free(in);
}

/* ---- Kernels and containers that have less ---- */

static void
without_contexts(void)
{
	struct harness *h;

	harness_forbid(SYS_io_setup, ENOSYS);
	log_set_print_level(LOG_LEVEL_ERROR);
	h = harness_open(&module, on_disk);
	exercise(h, 0);
	CHECK(harness_counts(h).requests == 0);
	harness_close(h);
}

static void
submit_refused(void)
{
	struct harness *h = harness_open(&module, on_disk);

	harness_forbid(SYS_io_submit, EAGAIN);
	exercise(h, 0);
	harness_close(h);
}

static void
test_without_kernel(void **state)
{
	harness_in_child(without_contexts);
	harness_in_child(submit_refused);
}

static void
test_nowait(void **state)
{
	struct harness *h;

	nowait = true;
	h = harness_open(&module, on_disk);
	/* Nothing is allocated yet: the file system would have to wait. */
	exercise(h, 0);
	harness_close(h);
	nowait = false;
}

/* ---- Errors of the backing store ---- */

/* A descriptor that can neither be read, written nor flushed takes the file's place. */
static void
test_store_fails(void **state)
{
	struct harness *h = harness_open(&module, on_disk);
	int disk_fd = file_bdev_of(h->disks[0].bdev)->disk.fd, saved = dup(disk_fd), pipe_fds[2];
	uint8_t *buf = aligned_alloc(4096, 4096);

	assert_int_equal(pipe(pipe_fds), 0);
	assert_int_equal(dup2(pipe_fds[0], disk_fd), disk_fd);
	assert_int_equal(harness_rw(h, BDEV_FLUSH, 0, 0, NULL, 0), -EINVAL);
	assert_true(harness_rw(h, BDEV_WRITE, 0, 8, buf, 0) < 0);
	assert_int_equal(harness_rw(h, BDEV_UNMAP, 0, 8, NULL, 0), -EBADF);
	assert_int_equal(dup2(saved, disk_fd), disk_fd);
	close(saved);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	assert_int_equal(harness_rw(h, BDEV_FLUSH, 0, 0, NULL, 0), 0);
	free(buf);
	harness_close(h);
}

/* The kernel writes what the limit allows and says how much that was; the rest is its own error. */
static void
limited(enum harness_place place)
{
	struct harness *h = harness_open(&module, (struct harness_variant){place, 512, REACTOR_INTERRUPT});
	uint8_t *buf = aligned_alloc(4096, 8 * 4096), *back = aligned_alloc(4096, 8 * 4096);
	struct rlimit limit = {16 * 4096, RLIM_INFINITY};

	if (h == NULL) {
		return;
	}
	memset(buf, 0x77, 8 * 4096);
	signal(SIGXFSZ, SIG_IGN);
	CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	CHECK(harness_rw(h, BDEV_WRITE, 12 * 8, 64, buf, 0) == -EFBIG);
	limit.rlim_cur = RLIM_INFINITY;
	CHECK(setrlimit(RLIMIT_FSIZE, &limit) == 0);
	CHECK(harness_rw(h, BDEV_READ, 12 * 8, 64, back, 0) == 0);
	CHECK(memcmp(back, buf, 4 * 4096) == 0 && back[4 * 4096] == 0);
	free(buf);
	free(back);
	harness_close(h);
}

static void
limited_disk(void)
{
	limited(HARNESS_DISK);
}

static void
limited_cached(void)
{
	limited(HARNESS_CACHED);
}

static void
limited_memory(void)
{
	limited(HARNESS_MEMORY);
}

static void
test_short_writes(void **state)
{
	harness_in_child(limited_disk);
	harness_in_child(limited_cached);
	harness_in_child(limited_memory);
}

/* ---- Control ---- */

static void
check_control(void *ctx)
{
	struct harness *h = ctx;
	struct aio_bdev_options options = {.name = "again", .filename = h->disks[0].path};
	struct aio_bdev_info info;
	struct err err = ERR_NONE;

	assert_true(bdev_aio_info(h->disks[0].bdev, &info));
	assert_string_equal(info.filename, h->disks[0].path);
	assert_true(info.block_size_override && !info.readonly && !info.nowait && !info.fallocate);
	assert_string_equal(bdev_product_name(h->disks[0].bdev), "AIO disk");
	assert_int_equal(bdev_aio_delete("nobody", NULL, NULL, &err), -ENODEV);
	assert_non_null(strstr(err.text, "nobody"));
	assert_int_equal(bdev_aio_rescan("nobody", &err), -ENODEV);
	/* The file is taken, for readers too; so is the name. */
	assert_int_equal(bdev_aio_create(&options, NULL, &err), -EBUSY);
	assert_non_null(strstr(err.text, h->disks[0].path));
	options.readonly = true;
	assert_int_equal(bdev_aio_create(&options, NULL, &err), -EBUSY);
	options.name = h->disks[0].name;
	assert_int_equal(bdev_aio_create(&options, NULL, &err), -EEXIST);
	assert_non_null(strstr(err.text, h->disks[0].name));
}

static int
open_files(void)
{
	int n = 0;

	for (int fd = 0; fd < 1024; fd++) {
		n += fcntl(fd, F_GETFD) >= 0;
	}
	return n;
}

static void
test_control(void **state)
{
	int before = open_files();
	struct harness *h = harness_open(&module, on_disk);

	hand_call(h->app, check_control, h);
	harness_close(h);
	assert_int_equal(open_files(), before);
}

int
main(void)
{
	/* Those that fork come first: there are no other threads yet. */
	const struct CMUnitTest own[] = {
		cmocka_unit_test(test_without_kernel), cmocka_unit_test(test_short_writes),
		cmocka_unit_test(test_control),        cmocka_unit_test(test_nowait),
		cmocka_unit_test(test_store_fails),
	};

	return harness_main(&module, own, ARRAY_SIZE(own));
}
