/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "sock/unix.h"

struct fixture {
	char dir[64];
	char path[80];
};

static int
setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	snprintf(f->dir, sizeof(f->dir), "/tmp/unix-test-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	snprintf(f->path, sizeof(f->path), "%s/s", f->dir);
	*state = f;
	return 0;
}

static int
teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	assert_int_equal(rmdir(f->dir), 0);
	free(f);
	return 0;
}

static void
test_connects(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_NONE;
	struct stat st;
	mode_t umask_before = umask(077);
	int listener = unix_listen(f->path, 0660, &err);
	int client, server;
	char c = 0;

	umask(umask_before);
	assert_true(listener >= 0);
	assert_int_equal(stat(f->path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0660);
	assert_int_equal(unix_accept(listener), -EAGAIN);
	client = unix_connect(f->path, &err);
	assert_true(client >= 0);
	server = unix_accept(listener);
	assert_true(server >= 0);
	assert_int_equal(fcntl(server, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	assert_int_equal(fcntl(client, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
	assert_int_equal(write(client, "x", 1), 1);
	assert_int_equal(read(server, &c, 1), 1);
	assert_int_equal(c, 'x');
	close(client);
	close(server);
	close(listener);
}

static void
test_live_socket_is_refused(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_NONE;
	int listener = unix_listen(f->path, 0600, &err);

	assert_true(listener >= 0);
	assert_int_equal(unix_listen(f->path, 0600, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, f->path));
	close(listener);
}

static void
test_stale_socket_is_replaced(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_NONE;
	int listener = unix_listen(f->path, 0600, &err);

	assert_true(listener >= 0);
	close(listener);
	assert_int_equal(unix_connect(f->path, &err), -ECONNREFUSED);
	listener = unix_listen(f->path, 0600, &err);
	assert_true(listener >= 0);
	close(listener);
}

static void
test_wrong_paths(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_NONE;
	char path[200];
	int fd = open(f->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);

	close(fd);
	assert_int_equal(unix_listen(f->path, 0600, &err), -EEXIST);
	assert_int_equal(access(f->path, F_OK), 0);
	memset(path, 'a', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	assert_int_equal(unix_listen(path, 0600, &err), -ENAMETOOLONG);
	assert_int_equal(unix_connect(path, &err), -ENAMETOOLONG);
	assert_int_equal(unix_connect("/nonexistent/s", &err), -ENOENT);
	assert_int_equal(unix_listen("/nonexistent/s", 0600, &err), -ENOENT);
	assert_int_equal(unix_listen("", 0600, &err), -EINVAL);
	assert_int_equal(unix_listen("/nonexistent/s", 0600, NULL), -ENOENT);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_connects, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live_socket_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stale_socket_is_replaced, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_paths, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
