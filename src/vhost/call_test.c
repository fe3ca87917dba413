/* SPDX-License-Identifier: BSD-3-Clause */
/* What a VMM can do with a call descriptor does not make an I/O thread wait. One that did would be ended by SIGALRM. */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "testkit/hand.h"
#include "vhost/call.h"

#define PATIENCE_S 10

static struct reactor *reactor;
static struct thread *thread;
static struct vhost_caller *caller;
static int fd;

static void
get(void *ctx)
{
	caller = vhost_caller_get();
}

static void
put(void *ctx)
{
	vhost_caller_put(caller);
}

static void
call(void *ctx)
{
	for (unsigned i = *(unsigned *)ctx; i > 0; i--) {
		vhost_caller_call(caller, fd);
	}
}

static int
setup(void **state)
{
	alarm(PATIENCE_S);
	reactor = hand_reactor(REACTOR_INTERRUPT);
	thread = thread_create("io", reactor);
	fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	hand_call(thread, get, NULL);
	return fd >= 0 && caller != NULL ? 0 : -1;
}

static int
teardown(void **state)
{
	hand_call(thread, put, NULL);
	hand_free(reactor);
	close(fd);
	alarm(0);
	return 0;
}

static void
calls(unsigned count)
{
	hand_call(thread, call, &count);
}

/* Many more than a context has room for events. */
static void
test_each_call_counts(void **state)
{
	eventfd_t value;

	assert_true(vhost_caller_is_safe(caller));
	for (unsigned i = 1; i <= 1000; i++) {
		calls(i % 7 + 1);
		assert_int_equal(eventfd_read(fd, &value), 0);
		assert_int_equal(value, i % 7 + 1);
	}
	calls(5000);
	assert_int_equal(eventfd_read(fd, &value), 0);
	assert_int_equal(value, 5000);
}

static void
test_wakes_who_waits(void **state)
{
	struct epoll_event event = {.events = EPOLLIN | EPOLLET};
	int ep = epoll_create1(EPOLL_CLOEXEC);

	assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &event), 0);
	assert_int_equal(epoll_wait(ep, &event, 1, 0), 0);
	for (unsigned i = 0; i < 3; i++) {
		calls(1);
		assert_int_equal(epoll_wait(ep, &event, 1, 0), 1);
	}
	close(ep);
}

static void
test_full_and_blocking(void **state)
{
	eventfd_t value;

	assert_int_equal(eventfd_write(fd, UINT64_MAX - 1), 0);
	assert_int_equal(fcntl(fd, F_SETFL, 0), 0);
	calls(100);
	/* Full is full; it is of use again once it was read. */
	assert_int_equal(eventfd_read(fd, &value), 0);
	calls(3);
	assert_int_equal(eventfd_read(fd, &value), 0);
	assert_int_equal(value, 3);
}

/* ---- Where there is no asynchronous I/O ---- */

static int
forbid(unsigned nr, unsigned with)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | with),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_SIZE(filter), .filter = filter};

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog) == 0 ? 0 : -1;
}

/* In a child: what was called, 100 for "not to be seen here". */
static int
calls_without(unsigned nr, unsigned with, bool safe)
{
	eventfd_t value = 0;

	/* Made before, for submissions that fail later. */
	if (safe && setup(NULL) != 0) {
		return 101;
	}
	if (forbid(nr, with) != 0) {
		return 100;
	}
	if ((!safe && setup(NULL) != 0) || vhost_caller_is_safe(caller) != safe) {
		return 102;
	}
	calls(7);
	(void)eventfd_read(fd, &value);
	teardown(NULL);
	return (int)value;
}

static void
expect_seven(unsigned nr, unsigned with, bool safe)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		_exit(calls_without(nr, with, safe));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_true(WEXITSTATUS(status) == 7 || WEXITSTATUS(status) == 100);
}

static void
test_without_asynchronous_io(void **state)
{
	expect_seven(SYS_io_setup, ENOSYS, false);
	expect_seven(SYS_io_setup, EAGAIN, false);
}

static void
test_submission_that_fails(void **state)
{
	expect_seven(SYS_io_submit, EAGAIN, true);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		/* First: a context that this process has made is of no use to its children. */
		cmocka_unit_test(test_without_asynchronous_io),
		cmocka_unit_test(test_submission_that_fails),
		cmocka_unit_test_setup_teardown(test_each_call_counts, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wakes_who_waits, setup, teardown),
		cmocka_unit_test_setup_teardown(test_full_and_blocking, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
