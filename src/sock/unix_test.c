/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
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

/* Without a descriptor it is not known whether somebody listens: the error says so, and the file stays. */
static void
test_no_descriptors_left(void **state)
{
	struct fixture *f = *state;
	struct err err = ERR_NONE;
	struct rlimit before, none;
	int rc, listener = unix_listen(f->path, 0600, &err);

	close(listener);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
	none = (struct rlimit){.rlim_cur = 0, .rlim_max = before.rlim_max};
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	rc = unix_listen(f->path, 0600, &err);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
	assert_int_equal(rc, -EMFILE);
	assert_int_equal(err.code, -EMFILE);
	assert_non_null(strstr(err.text, f->path));
	assert_int_equal(access(f->path, F_OK), 0);
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

static unsigned
count_fds(void)
{
	unsigned count = 0;

	for (int fd = 0; fd < 256; fd++) {
		count += fcntl(fd, F_GETFD) >= 0;
	}
	return count;
}

static void
test_descriptors(void **state)
{
	unsigned before = count_fds();
	struct unix_fds got = {.count = 0};
	int pair[2], send[3];
	char buf[16];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(unix_recv(pair[1], buf, sizeof(buf), &got), -EAGAIN);
	for (int i = 0; i < 3; i++) {
		send[i] = open("/dev/null", O_RDONLY | O_CLOEXEC);
	}
	assert_int_equal(unix_send(pair[0], "hello", 5, send, 3), 0);
	assert_int_equal(unix_pending(pair[1]), 5);
	/* Looking takes neither bytes nor descriptors. */
	assert_int_equal(unix_peek(pair[1], buf, sizeof(buf)), 5);
	assert_int_equal(count_fds(), before + 5);
	assert_int_equal(unix_recv(pair[1], buf, 2, &got), 2);
	assert_int_equal(got.count, 3);
	assert_false(got.lost);
	assert_int_equal(unix_recv(pair[1], buf + 2, 14, &got), 3);
	assert_memory_equal(buf, "hello", 5);
	assert_int_equal(fcntl(got.fds[2], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
	close(unix_fds_take(&got));
	assert_int_equal(got.count, 2);
	unix_fds_close(&got);
	assert_int_equal(unix_fds_take(&got), -1);
	close(pair[0]);
	assert_int_equal(unix_recv(pair[1], buf, sizeof(buf), &got), 0);
	close(pair[1]);
	for (int i = 0; i < 3; i++) {
		close(send[i]);
	}
	assert_int_equal(count_fds(), before);
}

/* More than a message may carry: known as such, and none stays open. */
static void
test_too_many_descriptors(void **state)
{
	unsigned before = count_fds();
	struct unix_fds got = {.count = 0};
	int pair[2], send[UNIX_FDS_MAX];
	char buf[16];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	for (int i = 0; i < UNIX_FDS_MAX; i++) {
		send[i] = pair[0];
	}
	assert_int_equal(unix_send(pair[0], "a", 1, send, UNIX_FDS_MAX), 0);
	assert_int_equal(unix_send(pair[0], "b", 1, send, 1), 0);
	assert_int_equal(unix_recv(pair[1], buf, 1, &got), 1);
	assert_int_equal(got.count, UNIX_FDS_MAX);
	assert_false(got.lost);
	assert_int_equal(unix_recv(pair[1], buf, 1, &got), 1);
	assert_int_equal(got.count, UNIX_FDS_MAX);
	assert_true(got.lost);
	unix_fds_close(&got);
	close(pair[0]);
	close(pair[1]);
	assert_int_equal(count_fds(), before);
}

/* Three come, two can be opened. */
static void
test_descriptors_that_cannot_be_opened(void **state)
{
	unsigned before = count_fds();
	struct unix_fds got = {.count = 0};
	struct rlimit limit, low;
	int pair[2], send[3], holes[2];
	char buf[16];

	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	send[0] = send[1] = send[2] = pair[0];
	assert_int_equal(unix_send(pair[0], "a", 1, send, 3), 0);
	holes[0] = dup(pair[0]);
	holes[1] = dup(pair[0]);
	assert_true(holes[0] < holes[1]);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
	low = (struct rlimit){.rlim_cur = (rlim_t)holes[1] + 1, .rlim_max = limit.rlim_max};
	close(holes[0]);
	close(holes[1]);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
	assert_int_equal(unix_recv(pair[1], buf, 1, &got), 1);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
	assert_int_equal(got.count, 2);
	assert_true(got.none_left);
	assert_false(got.lost);
	unix_fds_close(&got);
	close(pair[0]);
	close(pair[1]);
	assert_int_equal(count_fds(), before);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_connects, setup, teardown),
		cmocka_unit_test_setup_teardown(test_live_socket_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stale_socket_is_replaced, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_descriptors_left, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_paths, setup, teardown),
		cmocka_unit_test(test_descriptors),
		cmocka_unit_test(test_too_many_descriptors),
		cmocka_unit_test(test_descriptors_that_cannot_be_opened),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
