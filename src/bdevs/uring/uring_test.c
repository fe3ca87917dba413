/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "bdevs/file/harness.h"
#include "bdevs/uring/uring.h"
#include "testkit/hand.h"

static int
create(const struct file_options *options, struct err *err)
{
	struct uring_bdev_options mine = {
		.name = options->name,
		.filename = options->filename,
		.block_size = options->block_size,
		.readonly = options->readonly,
		.buffered = options->buffered,
	};

	return bdev_uring_create(&mine, NULL, err);
}

static struct harness_counts
counts(void)
{
	struct uring_stats stats;

	bdev_uring_thread_stats(&stats);
	return (struct harness_counts){.submits = stats.enters, .requests = stats.requests, .mixed = stats.mixed};
}

static const struct harness_module module = {
	.name = "uring",
	.create = create,
	.rescan = bdev_uring_rescan,
	.delete = bdev_uring_delete,
	.counts = counts,
};

/* ---- A container's filter ---- */

static struct err child_err;
static int child_rc;

static void
create_any(void *ctx)
{
	struct uring_bdev_options options = {.name = "u", .filename = "/nonexistent", .block_size = 512};

	child_rc = bdev_uring_create(&options, NULL, &child_err);
}

static void
forbidden(int error, const char *word)
{
	struct reactor *r;
	struct err err = ERR_NONE;

	harness_forbid(SYS_io_uring_setup, error);
	CHECK(!uring_available(&err));
	CHECK(err.code == -error && strstr(err.text, "io_uring") != NULL && strstr(err.text, word) != NULL);
	r = hand_reactor(REACTOR_INTERRUPT);
	hand_call(thread_create("app", r), create_any, NULL);
	CHECK(child_rc == -error && strstr(child_err.text, "bdev u: ") == child_err.text);
	CHECK(strstr(child_err.text, word) != NULL);
	hand_free(r);
}

static void
forbidden_eperm(void)
{
	forbidden(EPERM, "container");
}

static void
forbidden_enosys(void)
{
	forbidden(ENOSYS, "not in this kernel");
}

static void
test_forbidden(void **state)
{
	harness_in_child(forbidden_eperm);
	harness_in_child(forbidden_enosys);
}

/* ---- */

static void
check_info(void *ctx)
{
	struct harness *h = ctx;
	struct uring_bdev_info info;

	assert_true(bdev_uring_info(h->disks[0].bdev, &info));
	assert_string_equal(info.filename, h->disks[0].path);
	assert_true(info.block_size_override);
	assert_string_equal(info.access, file_access_name(file_bdev_of(h->disks[0].bdev)->disk.access));
	assert_string_equal(bdev_product_name(h->disks[0].bdev), "URING bdev");
	assert_int_equal(bdev_uring_delete("nobody", NULL, NULL, NULL), -ENODEV);
}

static void
test_info(void **state)
{
	struct harness *h = harness_open(&module, (struct harness_variant){HARNESS_DISK, 512, REACTOR_POLL});

	hand_call(h->app, check_info, h);
	harness_close(h);
}

/* A ring that lives on must not keep a deleted disk's file open: a lease is given only to a file's sole opener. */
static void
test_lets_go(void **state)
{
	struct harness *h = harness_open(&module, (struct harness_variant){HARNESS_DISK, 512, REACTOR_POLL});
	int fd = open(h->disks[0].path, O_RDWR | O_CLOEXEC);

	assert_true(fd >= 0);
	if (fcntl(fd, F_SETLEASE, F_WRLCK) == 0) {
		close(fd);
		harness_close(h);
		skip(); /* this file system does not know who else has it open */
	}
	harness_drop_first(h);
	/* Older kernels let go a little later. */
	for (unsigned tries = 0; fcntl(fd, F_SETLEASE, F_WRLCK) != 0; tries++) {
		assert_true(tries < 300);
		usleep(100000);
	}
	close(fd);
	harness_close(h);
}

int
main(void)
{
	const struct CMUnitTest own[] = {
		cmocka_unit_test(test_forbidden),
		cmocka_unit_test(test_info),
		cmocka_unit_test(test_lets_go),
	};
	struct err err = ERR_NONE;

	if (!uring_available(&err)) {
		print_message("skipped: %s\n", err_text(&err));
		return 77;
	}
	return harness_main(&module, own, ARRAY_SIZE(own));
}
