/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "bdevs/file/harness.h"

static char dir[64], path[128];

static void
make(const char *name, off_t bytes, mode_t mode)
{
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, bytes), 0);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static int
setup(void **state)
{
	snprintf(dir, sizeof(dir), "/var/tmp/berth-disk-XXXXXX");
	assert_non_null(mkdtemp(dir));
	make("disk", 1 << 20, 0600);
	return 0;
}

static int
teardown(void **state)
{
	static const char *const names[] = {"disk", "odd", "sectors", "empty", "pipe", "secret"};

	for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir);
}

/* The code; on success the disk is left open in *disk. Each error must name the file. */
static int
open_disk(struct file_disk *disk, const char *file, uint32_t block_size, bool readonly, const char *word)
{
	struct file_options options = {.name = "d", .filename = file, .block_size = block_size, .readonly = readonly};
	struct err err = ERR_NONE;
	int rc = file_disk_open(disk, &options, &err);

	if (rc != 0) {
		assert_int_equal(err.code, rc);
		assert_non_null(strstr(err.text, file));
		if (strstr(err.text, word) == NULL) {
			fail_msg("'%s' does not say '%s'", err.text, word);
		}
	}
	return rc;
}

static void
expect_error(int expected, const char *file, uint32_t block_size, bool readonly, const char *word)
{
	struct file_disk disk;

	assert_int_equal(open_disk(&disk, file, block_size, readonly, word), expected);
}

/* What is only read may end inside a block. */
static void
test_odd_sizes(void **state)
{
	struct file_disk disk;

	make("odd", 4096 + 100, 0600);
	assert_int_equal(open_disk(&disk, path, 512, true, ""), 0);
	assert_int_equal(disk.size_bytes, 4096 + 512);
	assert_int_equal(disk.odd_end_bytes, 4096 + 100);
	assert_int_equal(truncate(path, 8192), 0);
	assert_int_equal(file_disk_rescan(&disk, NULL), 0);
	assert_int_equal(disk.size_bytes, 8192);
	assert_int_equal(disk.odd_end_bytes, 0);
	assert_int_equal(truncate(path, 8193), 0);
	assert_int_equal(file_disk_rescan(&disk, NULL), 0);
	assert_int_equal(disk.size_bytes, 8704);
	file_disk_close(&disk);
}

static void
test_errors(void **state)
{
	expect_error(-ENOENT, "/nonexistent/disk", 512, false, "No such file");
	expect_error(-EISDIR, dir, 512, false, "directory");
	expect_error(-EISDIR, dir, 512, true, "directory");
	expect_error(-EINVAL, "/dev/null", 512, false, "neither");
	expect_error(-EINVAL, path, 500, false, "block size 500");
	expect_error(-EINVAL, path, 256, false, "block size 256");
	expect_error(-EINVAL, path, 131072, false, "block size 131072");
	make("odd", 4096 + 100, 0600);
	expect_error(-EINVAL, path, 512, false, "4196 bytes");
	expect_error(-EINVAL, path, 0, false, "multiple");
	make("sectors", 3 * 512, 0600);
	expect_error(-EINVAL, path, 4096, false, "multiple");
	make("empty", 0, 0600);
	expect_error(-EINVAL, path, 512, false, "empty");
	snprintf(path, sizeof(path), "%s/pipe", dir);
	assert_int_equal(mkfifo(path, 0600), 0);
	expect_error(-EINVAL, path, 512, true, "neither");
}

static void
unprivileged(void)
{
	struct file_disk disk;

	CHECK(geteuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0));
	expect_error(-EACCES, path, 512, false, "for writing");
	CHECK(open_disk(&disk, path, 512, true, "") == 0);
	CHECK(!disk.can_unmap && disk.readonly);
	file_disk_close(&disk);
}

static void
test_permission(void **state)
{
	make("secret", 1 << 20, 0444);
	assert_int_equal(chmod(dir, 0755), 0);
	harness_in_child(unprivileged);
}

/* ---- Locks ---- */

static void
other_process(void)
{
	expect_error(-EBUSY, path, 512, false, "in use");
	expect_error(-EBUSY, path, 512, true, "in use");
}

static void
test_locks(void **state)
{
	struct file_disk a, b;

	assert_int_equal(open_disk(&a, path, 512, false, ""), 0);
	other_process();
	harness_in_child(other_process);
	file_disk_close(&a);
	assert_int_equal(open_disk(&a, path, 512, true, ""), 0);
	assert_int_equal(open_disk(&b, path, 512, true, ""), 0);
	expect_error(-EBUSY, path, 512, false, "in use");
	file_disk_close(&a);
	file_disk_close(&b);
	assert_int_equal(open_disk(&a, path, 512, false, ""), 0);
	file_disk_close(&a);
}

/* ---- What is found out, and that nothing is changed by it ---- */

static void
test_found(void **state)
{
	struct file_options cached = {.name = "d", .filename = path, .buffered = true};
	struct stat before, after;
	struct file_disk disk;

	assert_int_equal(stat(path, &before), 0);
	assert_int_equal(open_disk(&disk, path, 0, false, ""), 0);
	assert_int_equal(disk.block_size, 4096);
	assert_int_equal(disk.size_bytes, 1 << 20);
	assert_int_equal(fcntl(disk.fd, F_GETFD), FD_CLOEXEC);
	assert_int_equal(fcntl(disk.fd, F_GETFL) & O_NONBLOCK, 0);
	assert_int_equal((fcntl(disk.fd, F_GETFL) & O_DIRECT) != 0, disk.access == FILE_DIRECT);
	assert_true(disk.align >= 1 && disk.buffer_align >= disk.align && disk.align <= disk.block_size);
	file_disk_close(&disk);
	assert_int_equal(file_disk_open(&disk, &cached, NULL), 0);
	assert_int_equal(disk.access, FILE_BUFFERED);
	assert_int_equal(fcntl(disk.fd, F_GETFL) & (O_NONBLOCK | O_DIRECT), 0);
	file_disk_close(&disk);
	assert_int_equal(stat(path, &after), 0);
	assert_int_equal(after.st_size, before.st_size);
	assert_int_equal(after.st_blocks, before.st_blocks);
	make("sectors", 3 * 512, 0600);
	assert_int_equal(open_disk(&disk, path, 0, true, ""), 0);
	assert_int_equal(disk.block_size, 512);
	file_disk_close(&disk);
}

#define REQUEST_BYTES 512
_Static_assert(sizeof(struct bdev_io) + sizeof(struct file_request) <= REQUEST_BYTES, "room for a request");

static void
test_requests(void **state)
{
	uint8_t *buf = aligned_alloc(4096, 8192), *back = aligned_alloc(4096, 8192);
	struct iovec iov[2] = {{buf, 4096}, {buf + 4096, 4096}};
	struct bdev_io *io = aligned_alloc(64, REQUEST_BYTES);
	struct file_request *req;
	struct file_disk disk;

	assert_int_equal(open_disk(&disk, path, 4096, false, ""), 0);
	memset(buf, 1, 4096);
	memset(buf + 4096, 2, 4096);
	bdev_io_init(io, BDEV_WRITE, 4, 2, iov, 2, NULL);
	req = file_request_init(&disk, io);
	/* The second half of it: the first was short. */
	req->done_bytes = 4096;
	assert_int_equal(file_request_execute(req), 0);
	assert_int_equal(pread(disk.fd, back, 8192, 4 * 4096), 8192);
	assert_true(back[0] == 0 && back[4095] == 0 && back[4096] == 2 && back[8191] == 2);
	/* Zeroes where the file system knows neither holes nor zero ranges. */
	bdev_io_init(io, BDEV_WRITE_ZEROES, 5, 1, NULL, 0, NULL);
	atomic_store(&disk.no_zero_range, true);
	assert_int_equal(file_request_execute(req), 0);
	assert_int_equal(pread(disk.fd, back, 8192, 4 * 4096), 8192);
	assert_true(back[4096] == 0 && memcmp(back + 4096, back + 4097, 4095) == 0);
	file_disk_close(&disk);
	free(io);
	free(buf);
	free(back);
}

/* ---- A block device: where the machine lets us have a loop device ---- */

static int
loop_attach(char *ret_name, size_t size, uint32_t block_size)
{
	int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC), number, fd;
	struct loop_config config = {.block_size = block_size, .info.lo_flags = LO_FLAGS_AUTOCLEAR};

	number = control < 0 ? -1 : ioctl(control, LOOP_CTL_GET_FREE);
	close(control);
	if (number < 0) {
		return -1;
	}
	snprintf(ret_name, size, "/dev/loop%d", number);
	fd = open(ret_name, O_RDWR | O_CLOEXEC);
	config.fd = (unsigned)open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0 && ioctl(fd, LOOP_CONFIGURE, &config) != 0) {
		close(fd);
		fd = -1;
	}
	close((int)config.fd);
	return fd;
}

static void
execute(struct file_disk *disk, enum bdev_op op, uint64_t lba, uint64_t blocks, unsigned flags, void *memory)
{
	struct bdev_io *io = memory;

	bdev_io_init(io, op, lba, blocks, NULL, 0, NULL);
	io->flags = (uint8_t)flags;
	assert_int_equal(file_request_execute(file_request_init(disk, io)), 0);
}

static void
test_block_device(void **state)
{
	uint8_t *memory = aligned_alloc(64, REQUEST_BYTES), *buf = aligned_alloc(4096, 65536);
	char name[32] = "";
	int fd = loop_attach(name, sizeof(name), 4096);
	struct file_disk disk;
	struct stat st;

	if (fd < 0) {
		free(memory);
		free(buf);
		skip();
	}
	expect_error(-EINVAL, name, 512, false, "less than the device's own");
	assert_int_equal(open_disk(&disk, name, 0, false, ""), 0);
	assert_true(disk.block_device && disk.can_unmap);
	assert_int_equal(disk.block_size, 4096);
	assert_int_equal(disk.size_bytes, 1 << 20);
	assert_int_equal(disk.access, FILE_DIRECT);
	expect_error(-EBUSY, name, 4096, false, "in use");
	memset(buf, 9, 65536);
	assert_int_equal(pwrite(disk.fd, buf, 65536, 0), 65536);
	execute(&disk, BDEV_FLUSH, 0, 0, 0, memory);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_blocks >= 128);
	execute(&disk, BDEV_WRITE_ZEROES, 0, 1, 0, memory);
	execute(&disk, BDEV_WRITE_ZEROES, 1, 1, BDEV_IO_MAY_UNMAP | BDEV_IO_FUA, memory);
	assert_int_equal(pread(disk.fd, buf, 65536, 0), 65536);
	assert_true(buf[0] == 0 && memcmp(buf, buf + 1, 8191) == 0 && buf[8192] == 9);
	execute(&disk, BDEV_UNMAP, 0, 16, 0, memory);
	assert_int_equal(stat(path, &st), 0);
	assert_true(st.st_blocks < 64);
	file_disk_close(&disk);
	close(fd);
	free(memory);
	free(buf);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_odd_sizes, setup, teardown),
		cmocka_unit_test_setup_teardown(test_errors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_permission, setup, teardown),
		cmocka_unit_test_setup_teardown(test_locks, setup, teardown),
		cmocka_unit_test_setup_teardown(test_found, setup, teardown),
		cmocka_unit_test_setup_teardown(test_requests, setup, teardown),
		cmocka_unit_test_setup_teardown(test_block_device, setup, teardown),
	};

	log_set_print_level(LOG_LEVEL_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
