/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "virtio/memmap.h"

#define PAGE 4096u
#define MIB (UINT64_C(1) << 20)

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#elif defined(__has_feature)
#define SANITIZED (__has_feature(address_sanitizer) || __has_feature(thread_sanitizer))
#else
#define SANITIZED false
#endif

static int
make_file(uint64_t size)
{
	int fd = memfd_create("memmap-test", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size), 0);
	return fd;
}

/* Pages of our files that this process has mapped. */
static uint64_t
count_pages(void)
{
	FILE *f = fopen("/proc/self/maps", "re");
	unsigned long start, end;
	uint64_t bytes = 0;
	char line[512];

	while (fgets(line, sizeof(line), f) != NULL) {
		if (strstr(line, "memmap-test") != NULL && sscanf(line, "%lx-%lx", &start, &end) == 2) {
			bytes += end - start;
		}
	}
	fclose(f);
	return bytes / PAGE;
}

/* map is replaced by map with the region. */
static void
add(struct memmap **map, uint64_t gpa, uint64_t size, uint64_t uva, int fd, uint64_t offset)
{
	struct err err = ERR_NONE;
	struct memmap *next = memmap_add(*map, gpa, size, uva, fd, offset, &err);

	if (next == NULL) {
		fail_msg("%s", err_text(&err));
	}
	memmap_put(*map);
	*map = next;
}

static void
refused(const struct memmap *map, uint64_t gpa, uint64_t size, uint64_t uva, int fd, uint64_t offset, int code)
{
	struct err err = ERR_NONE;

	assert_null(memmap_add(map, gpa, size, uva, fd, offset, &err));
	assert_int_equal(err.code, code);
	assert_true(err.text[0] != '\0');
}

static void
test_add_find_remove(void **state)
{
	struct memmap *map = memmap_create(), *less;
	struct err err = ERR_NONE;
	int fd = make_file(4 * MIB);

	add(&map, 2 * MIB, MIB, 0x7000000, fd, MIB);
	add(&map, 0, MIB, 0x1000000, fd, 0);
	add(&map, 8 * MIB, MIB, 0x9000000, fd, 3 * MIB);
	close(fd);
	assert_int_equal(map->count, 3);
	assert_int_equal(map->regions[0].gpa, 0);
	assert_int_equal(map->regions[2].gpa, 8 * MIB);
	assert_int_equal(memmap_find(map, 0), 0);
	assert_int_equal(memmap_find(map, MIB - 1), 0);
	assert_int_equal(memmap_find(map, MIB), -1);
	assert_int_equal(memmap_find(map, 2 * MIB), 1);
	assert_int_equal(memmap_find(map, 9 * MIB - 1), 2);
	assert_int_equal(memmap_find(map, UINT64_MAX), -1);

	/* A removed region stays mapped for those who hold the older map. */
	assert_null(memmap_remove(map, 2 * MIB, MIB, 0x7000001, &err));
	assert_int_equal(err.code, -ENOENT);
	assert_null(memmap_remove(map, 2 * MIB, MIB / 2, 0x7000000, &err));
	assert_null(memmap_remove(map, 2 * MIB + 1, MIB, 0x7000000, &err));
	less = memmap_remove(map, 2 * MIB, MIB, 0x7000000, &err);
	assert_non_null(less);
	assert_int_equal(less->count, 2);
	assert_int_equal(memmap_find(less, 2 * MIB), -1);
	assert_int_equal(count_pages(), 3 * MIB / PAGE);
	map->regions[1].hva[0] = 1;
	memmap_put(map);
	assert_int_equal(count_pages(), 2 * MIB / PAGE);
	memmap_put(memmap_get(less));
	assert_int_equal(count_pages(), 2 * MIB / PAGE);
	memmap_put(less);
	assert_int_equal(count_pages(), 0);
	memmap_put(NULL);
}

/* What one side writes the other reads, at offsets that are no multiple of a page too. */
static void
test_shares_memory(void **state)
{
	struct memmap *map = memmap_create();
	int fd = make_file(3 * PAGE);
	char text[6] = "";

	add(&map, 0x10000, PAGE + 10, 0, fd, PAGE + 100);
	memcpy(memmap_direct(map, 0x10000, 6), "hello", 6);
	assert_int_equal(pread(fd, text, 6, PAGE + 100), 6);
	assert_string_equal(text, "hello");
	assert_non_null(memmap_direct(map, 0x10000, PAGE + 10));
	assert_null(memmap_direct(map, 0x10000, PAGE + 11));
	assert_null(memmap_direct(map, 0x10000 + PAGE + 9, 2));
	assert_null(memmap_direct(map, 0x10001, UINT64_MAX));
	memmap_put(map);
	close(fd);
}

static void
test_from_uva(void **state)
{
	struct memmap *map = memmap_create();
	int fd = make_file(2 * MIB);

	add(&map, 0, MIB, 0x100000000, fd, 0);
	add(&map, MIB, MIB, 0x100000000 + MIB, fd, MIB);
	assert_ptr_equal(memmap_from_uva(map, 0x100000000 + 5, 10), map->regions[0].hva + 5);
	assert_ptr_equal(memmap_from_uva(map, 0x100000000 + MIB, MIB), map->regions[1].hva);
	assert_null(memmap_from_uva(map, 0x100000000 + MIB - 1, 2));
	assert_null(memmap_from_uva(map, 0xffffffff, 2));
	assert_null(memmap_from_uva(map, 0x100000000 + 2 * MIB, 1));
	assert_null(memmap_from_uva(map, 0x100000000 + 5, UINT64_MAX - 2));
	memmap_put(map);
	close(fd);
}

static void
test_wrong_regions(void **state)
{
	struct memmap *map = memmap_create();
	int fd = make_file(MIB), zero = open("/dev/null", O_RDWR | O_CLOEXEC);

	add(&map, MIB, MIB, 0, fd, 0);
	refused(map, 4 * MIB, 0, 0, fd, 0, -EINVAL);
	refused(map, MIB, MIB, 0, fd, 0, -EINVAL);
	refused(map, MIB - PAGE, PAGE + 1, 0, fd, 0, -EINVAL);
	refused(map, 2 * MIB - 1, PAGE, 0, fd, 0, -EINVAL);
	refused(map, 0, MIB / 2 * 4 + 1, 0, fd, 0, -EINVAL);
	/* Sums that wrap. */
	refused(map, UINT64_MAX - PAGE + 1, 2 * PAGE, 0, fd, 0, -EINVAL);
	refused(map, 4 * MIB, PAGE, UINT64_MAX - 100, fd, 0, -EINVAL);
	refused(map, 4 * MIB, PAGE, 0, fd, UINT64_MAX - 100, -EINVAL);
	refused(map, 4 * MIB, PAGE, 0, fd, INT64_MAX - 100, -EINVAL);
	refused(map, 4 * MIB, UINT64_MAX, 0, fd, 0, -EINVAL);
	/* Files that end before. */
	refused(map, 4 * MIB, MIB + 1, 0, fd, 0, -EINVAL);
	refused(map, 4 * MIB, PAGE, 0, fd, MIB - PAGE + 1, -EINVAL);
	refused(map, 4 * MIB, PAGE, 0, zero, 0, -EINVAL);
	refused(map, 4 * MIB, PAGE, 0, -1, 0, -EBADF);
	/* Neighbours are no overlap. */
	add(&map, 0, MIB, 0, fd, 0);
	add(&map, 2 * MIB, PAGE, 0, fd, MIB - PAGE);
	assert_int_equal(count_pages(), 2 * MIB / PAGE + 1);
	memmap_put(map);
	assert_int_equal(count_pages(), 0);
	close(fd);
	close(zero);
}

/* What is no file, and what no local file system answers for. */
static void
test_wrong_files(void **state)
{
	static const char *const paths[] = {"/dev/null", "/dev/zero", "/proc/self/status", "/proc/self/mem", "/"};
	struct memmap *map = memmap_create();
	int pipes[2], event = eventfd(0, EFD_CLOEXEC), proc = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
	struct err err = ERR_NONE;

	assert_null(memmap_add(map, MIB, PAGE, 0, proc, 0, &err));
	assert_non_null(strstr(err.text, "not known to be local"));
	close(proc);
	assert_int_equal(pipe2(pipes, O_CLOEXEC), 0);
	refused(map, MIB, PAGE, 0, pipes[0], 0, -EINVAL);
	refused(map, MIB, PAGE, 0, event, 0, -EINVAL);
	for (size_t i = 0; i < ARRAY_SIZE(paths); i++) {
		int fd = open(paths[i], O_RDONLY | O_CLOEXEC);

		if (fd >= 0) {
			refused(map, MIB, PAGE, 0, fd, 0, -EINVAL);
			close(fd);
		}
	}
	close(pipes[0]);
	close(pipes[1]);
	close(event);
	memmap_put(map);
}

/* As many mappings as a process may have: pages of one area, every other one different. NULL: there is no such limit here. */
static uint8_t *
use_up_mappings(size_t *ret_length)
{
	size_t pages = 400000;
	uint8_t *area = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	assert_true(area != MAP_FAILED);
	*ret_length = pages * PAGE;
	for (size_t i = 1; i < pages; i += 2) {
		if (mprotect(area + i * PAGE, PAGE, PROT_READ) != 0) {
			assert_int_equal(errno, ENOMEM);
			/* The last one may have been half of what such a call takes. */
			(void)mprotect(area + (pages - 1) * PAGE, PAGE, PROT_READ);
			return area;
		}
	}
	munmap(area, *ret_length);
	return NULL;
}

/*
 * Three regions of one file, side by side in it, which the kernel makes one mapping of. To take out the middle
 * one it needs one more than the process may have.
 */
static void
test_no_more_mappings(void **state)
{
	struct memmap *map, *two;
	struct err err;
	uint8_t *area;
	size_t length;
	int fd;

	/* Sanitizers want mappings for themselves. */
	if (SANITIZED) {
		skip();
	}
	map = memmap_create();
	fd = make_file(3 * MIB);

	/* From the end on: later mappings get lower addresses. */
	add(&map, 3 * MIB, MIB, 0, fd, 2 * MIB);
	add(&map, 2 * MIB, MIB, 0, fd, MIB);
	add(&map, MIB, MIB, 0, fd, 0);
	two = memmap_remove(map, 2 * MIB, MIB, 0, &err);
	assert_non_null(two);
	area = use_up_mappings(&length);
	if (area == NULL || map->regions[0].hva + MIB != map->regions[1].hva ||
	    map->regions[1].hva + MIB != map->regions[2].hva) {
		if (area != NULL) {
			munmap(area, length);
		}
		memmap_put(map);
		memmap_put(two);
		close(fd);
		skip();
	}
	memmap_put(map);
	munmap(area, length);
	/* It could not be unmapped. */
	assert_int_equal(count_pages(), 3 * MIB / PAGE);
	assert_int_equal(two->count, 2);
	two->regions[0].hva[0] = 1;
	/* The next one to be unmapped takes it along. */
	memmap_put(two);
	assert_int_equal(count_pages(), 0);
	close(fd);
}

/* A sparse file may claim any size: address space is limited by name. */
static void
test_limits(void **state)
{
	struct memmap *map = memmap_create(), *large = NULL;
	int fd = memfd_create("memmap-test", MFD_CLOEXEC);

	if (ftruncate(fd, INT64_MAX) == 0) {
		refused(map, 0, (UINT64_C(16) << 40) + PAGE, 0, fd, 0, -EINVAL);
		/* NULL where so much cannot be mapped at all: a sanitizer or a limit leaves no room. */
		large = memmap_add(map, 0, UINT64_C(9) << 40, 0, fd, 0, NULL);
	}
	if (large != NULL) {
		refused(large, UINT64_C(100) << 40, UINT64_C(9) << 40, 0, fd, 0, -EINVAL);
	}
	memmap_put(large);
	memmap_put(map);
	map = memmap_create();
	assert_int_equal(ftruncate(fd, PAGE), 0);
	for (uint64_t i = 0; i < MEMMAP_REGIONS_MAX; i++) {
		add(&map, i * PAGE, PAGE, 0, fd, 0);
	}
	refused(map, MEMMAP_REGIONS_MAX * PAGE, PAGE, 0, fd, 0, -EINVAL);
	for (unsigned i = 0; i < MEMMAP_REGIONS_MAX; i++) {
		assert_int_equal(memmap_find(map, i * PAGE + 1), i);
	}
	memmap_put(map);
	close(fd);
	assert_int_equal(count_pages(), 0);
}

static void
test_iov(void **state)
{
	struct memmap *map = memmap_create();
	struct iovec iov[4];
	unsigned count = 0;
	int fd = make_file(2 * MIB);

	/* Reversed in the file, so that neighbours in guest memory are none here. */
	add(&map, 0, MIB, 0, fd, MIB);
	add(&map, MIB, MIB, 0, fd, 0);
	assert_int_equal(memmap_iov(map, 100, 200, iov, &count, 4), 0);
	assert_int_equal(count, 1);
	assert_ptr_equal(iov[0].iov_base, map->regions[0].hva + 100);
	assert_int_equal(memmap_iov(map, MIB - 10, 30, iov, &count, 4), 0);
	if (map->regions[0].hva + MIB != map->regions[1].hva) {
		assert_int_equal(count, 3);
		assert_int_equal(iov[1].iov_len, 10);
		assert_int_equal(iov[2].iov_len, 20);
		assert_ptr_equal(iov[2].iov_base, map->regions[1].hva);
		assert_int_equal(memmap_iov(map, MIB - 10, 30, iov, &count, 4), -E2BIG);
	}
	/* Nothing is appended when it fails. */
	count = 1;
	assert_int_equal(memmap_iov(map, 2 * MIB - 10, 11, iov, &count, 4), -EFAULT);
	assert_int_equal(count, 1);
	assert_int_equal(memmap_iov(map, UINT64_MAX, 2, iov, &count, 4), -EFAULT);
	assert_int_equal(memmap_iov(map, 0, UINT64_MAX, iov, &count, 4), -EFAULT);
	memmap_put(map);
	close(fd);
}

/* hostile: the VMM truncates its memory file after it was mapped. */
static void
test_truncated_file_is_lost_alone(void **state)
{
	struct memmap *victim = memmap_create(), *other = memmap_create();
	int fd = make_file(MIB), fd2 = make_file(MIB);

	assert_int_equal(memmap_guard(), 0);
	/* Once more must not make the handler pass faults on to itself. */
	assert_int_equal(memmap_guard(), 0);
	add(&victim, 0, MIB / 2, 0, fd, 0);
	add(&victim, MIB, MIB / 2, 0, fd, MIB / 2);
	add(&other, 0, MIB, 0, fd2, 0);
	victim->regions[0].hva[0] = 1;
	other->regions[0].hva[5] = 7;
	assert_int_equal(ftruncate(fd, MIB / 2), 0);
	assert_false(memmap_lost(victim));
	victim->regions[0].hva[0] = 2;
	assert_false(memmap_lost(victim));
	victim->regions[1].hva[PAGE] = 2;
	assert_true(memmap_lost(victim));
	assert_int_equal(victim->regions[1].hva[PAGE], 2);
	assert_int_equal(victim->regions[1].hva[0], 0);
	assert_false(memmap_lost(other));
	assert_int_equal(other->regions[0].hva[5], 7);
	memmap_put(victim);
	/* The slot that becomes free is not lost any more. */
	victim = memmap_create();
	add(&victim, 0, PAGE, 0, fd, 0);
	assert_false(memmap_lost(victim));
	memmap_put(victim);
	memmap_put(other);
	close(fd);
	close(fd2);
	assert_int_equal(count_pages(), 0);
}

static void *
touch(void *arg)
{
	*(volatile char *)arg = 1;
	return NULL;
}

static void
test_truncated_file_on_another_thread(void **state)
{
	struct memmap *map = memmap_create();
	int fd = make_file(MIB);
	pthread_t thread;

	assert_int_equal(memmap_guard(), 0);
	add(&map, 0, MIB, 0, fd, 0);
	assert_int_equal(ftruncate(fd, 0), 0);
	assert_int_equal(pthread_create(&thread, NULL, touch, map->regions[0].hva + 100), 0);
	pthread_join(thread, NULL);
	assert_true(memmap_lost(map));
	memmap_put(map);
	close(fd);
}

/* A fault elsewhere ends the process, as it would without the guard. */
static void
test_foreign_faults_still_kill(void **state)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		int fd = make_file(PAGE);
		char *p;

		signal(SIGBUS, SIG_DFL);
		close(STDERR_FILENO);
		memmap_guard();
		p = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		(void)!ftruncate(fd, 0);
		*(volatile char *)p = 1;
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	/* A sanitizer that had a handler of its own ends with an exit status. */
	assert_true(WIFSIGNALED(status) ? WTERMSIG(status) == SIGBUS : WEXITSTATUS(status) != 0);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_foreign_faults_still_kill),
		cmocka_unit_test(test_add_find_remove),
		cmocka_unit_test(test_shares_memory),
		cmocka_unit_test(test_from_uva),
		cmocka_unit_test(test_wrong_regions),
		cmocka_unit_test(test_wrong_files),
		cmocka_unit_test(test_no_more_mappings),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_iov),
		cmocka_unit_test(test_truncated_file_is_lost_alone),
		cmocka_unit_test(test_truncated_file_on_another_thread),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
