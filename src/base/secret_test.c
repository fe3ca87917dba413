/* SPDX-License-Identifier: BSD-3-Clause */
#include "base/secret.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/keyctl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"

static void
wipes_and_reuses(void **state)
{
	uint8_t *a = secret_alloc(100), *b = secret_alloc(100), *again;

	assert_non_null(a);
	assert_non_null(b);
	assert_int_equal((uintptr_t)a % 64, 0);
	assert_int_equal(secret_size(a), 128);
	memset(a, 0x5a, 128);
	memset(b, 0x33, 128);
	secret_free(a);
	/* What is left of it is a link at its start. */
	for (size_t i = sizeof(void *); i < 128; i++) {
		assert_int_equal(a[i], 0);
	}
	again = secret_alloc(128);
	assert_ptr_equal(again, a);
	for (size_t i = 0; i < 128; i++) {
		assert_int_equal(again[i], 0);
		assert_int_equal(b[i], 0x33);
	}
	secret_free(again);
	secret_free(b);
	secret_free(NULL);
}

static void
sizes(void **state)
{
	void *small[2000], *large = secret_alloc(200 * 1024);

	assert_non_null(large);
	memset(large, 1, 200 * 1024);
	for (size_t i = 0; i < ARRAY_SIZE(small); i++) {
		small[i] = secret_alloc(1);
		assert_non_null(small[i]);
		assert_true(secret_owns(small[i]));
		memset(small[i], (int)i, 64);
	}
	for (size_t i = 0; i < ARRAY_SIZE(small); i++) {
		assert_int_equal(((uint8_t *)small[i])[63], (uint8_t)i);
		secret_free(small[i]);
	}
	secret_free(large);
	assert_false(secret_owns(small));
	assert_false(secret_owns(NULL));
}

/* "dd" of the region's flags in smaps: left out of core dumps. */
static void
is_not_dumped(void **state)
{
	void *secret = secret_alloc(64);
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	bool inside = false, left_out = false;

	assert_non_null(f);
	while (fgets(line, sizeof(line), f) != NULL) {
		unsigned long from, to;

		if (sscanf(line, "%lx-%lx ", &from, &to) == 2) {
			inside = (uintptr_t)secret >= from && (uintptr_t)secret < to;
		} else if (inside && strncmp(line, "VmFlags:", 8) == 0) {
			left_out = strstr(line, " dd") != NULL;
		}
	}
	fclose(f);
	assert_true(left_out);
	secret_free(secret);
}

static void
children_do_not_inherit(void **state)
{
	uint8_t *secret = secret_alloc(64);
	int status;
	pid_t pid;

	secret[20] = 7;
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		_exit(secret[20]);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	assert_int_equal(secret[20], 7);
	secret_free(secret);
}

static void
reads_hex(void **state)
{
	uint8_t bytes[4];

	assert_int_equal(secret_unhex("00fFa5", 6, bytes, 4), 3);
	assert_memory_equal(bytes, "\x00\xff\xa5", 3);
	assert_int_equal(secret_unhex(" 01\n02 \r\n", 9, bytes, 4), 2);
	assert_memory_equal(bytes, "\x01\x02", 2);
	assert_int_equal(secret_unhex("", 0, bytes, 4), 0);
	assert_int_equal(secret_unhex("012", 3, bytes, 4), -EINVAL);
	assert_int_equal(secret_unhex("0g", 2, bytes, 4), -EINVAL);
	assert_int_equal(secret_unhex("0x10", 4, bytes, 4), -EINVAL);
	assert_int_equal(secret_unhex("0011223344", 10, bytes, 4), -E2BIG);
	assert_int_equal(secret_unhex("00112233", 8, bytes, 4), 4);
}

static void
compares(void **state)
{
	assert_true(secret_equal("abcd", "abcd", 4));
	assert_false(secret_equal("abcd", "abce", 4));
	assert_true(secret_equal("abcd", "abce", 3));
	assert_true(secret_equal("a", "b", 0));
}

/* ---- From outside ---- */

struct folder {
	char dir[64], path[96];
};

static void
put(const struct folder *f, const char *text, size_t length, mode_t mode)
{
	int fd;

	unlink(f->path);
	fd = open(f->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, length), (ssize_t)length);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

static void
reads_files(void **state)
{
	static char buf[SECRET_TEXT_MAX], large[SECRET_TEXT_MAX + 1];
	struct folder f = {.dir = "/tmp/berth-secret-XXXXXX"};
	struct err err = ERR_NONE;

	assert_non_null(mkdtemp(f.dir));
	snprintf(f.path, sizeof(f.path), "%s/key", f.dir);
	assert_int_equal(secret_read_file(f.path, buf, &err), -ENOENT);
	assert_non_null(strstr(err.text, f.path));
	put(&f, "0123\n", 5, 0600);
	assert_int_equal(secret_read_file(f.path, buf, &err), 5);
	assert_memory_equal(buf, "0123\n", 5);
	put(&f, "0123\n", 5, 0400);
	assert_int_equal(secret_read_file(f.path, buf, &err), 5);
	put(&f, "0123\n", 5, 0640);
	assert_int_equal(secret_read_file(f.path, buf, &err), -EPERM);
	assert_non_null(strstr(err.text, "0640"));
	put(&f, "0123\n", 5, 0604);
	assert_int_equal(secret_read_file(f.path, buf, &err), -EPERM);
	put(&f, large, SECRET_TEXT_MAX, 0600);
	assert_int_equal(secret_read_file(f.path, buf, &err), SECRET_TEXT_MAX);
	put(&f, large, SECRET_TEXT_MAX + 1, 0600);
	assert_int_equal(secret_read_file(f.path, buf, &err), -EFBIG);
	assert_int_equal(secret_read_file(f.dir, buf, &err), -EINVAL);
	unlink(f.path);
	assert_int_equal(mkfifo(f.path, 0600), 0);
	assert_int_equal(secret_read_file(f.path, buf, &err), -EINVAL);

	assert_int_equal(unsetenv("CREDENTIALS_DIRECTORY"), 0);
	assert_int_equal(secret_read_credential("key", buf, &err), -ENOENT);
	assert_int_equal(setenv("CREDENTIALS_DIRECTORY", f.dir, 1), 0);
	put(&f, "ab", 2, 0400);
	assert_int_equal(secret_read_credential("key", buf, &err), 2);
	assert_int_equal(secret_read_credential("other", buf, &err), -ENOENT);
	assert_int_equal(secret_read_credential("../key", buf, &err), -EINVAL);
	unlink(f.path);
	rmdir(f.dir);
}

static void
reads_the_keyring(void **state)
{
	static char buf[SECRET_TEXT_MAX];
	struct err err = ERR_NONE;
	long key;

	assert_true(secret_read_keyring("berth-test-no-such-key", buf, &err) < 0);
	assert_non_null(strstr(err.text, "berth-test-no-such-key"));
	key = syscall(SYS_add_key, "user", "berth-test-key", "secret", 6, KEY_SPEC_PROCESS_KEYRING);
	if (key < 0) {
		skip(); /* a container's filter */
	}
	assert_int_equal(secret_read_keyring("berth-test-key", buf, &err), 6);
	assert_memory_equal(buf, "secret", 6);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(wipes_and_reuses),
		cmocka_unit_test(sizes),
		cmocka_unit_test(is_not_dumped),
		cmocka_unit_test(children_do_not_inherit),
		cmocka_unit_test(reads_hex),
		cmocka_unit_test(compares),
		cmocka_unit_test(reads_files),
		cmocka_unit_test(reads_the_keyring),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
