/* SPDX-License-Identifier: BSD-3-Clause */
/* Runs with shake.so loaded, which delays every call (see meson.build): it is there, delays, and changes nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <errno.h>
#include <pthread.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define CALLS 200

static uint64_t
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* The first test: the moment comes but once. */
static void
all_stands_still_once(void **state)
{
	uint64_t stall_ms = strtoull(getenv("SHAKE_STALL_MS"), NULL, 10), longest = 0;

	for (unsigned i = 0; i < 1000; i++) {
		uint64_t begin = now_ms();

		assert_int_equal(read(-1, NULL, 0), -1);
		longest = now_ms() - begin > longest ? now_ms() - begin : longest;
	}
	assert_true(longest + 1 >= stall_ms);
}

static void
calls_rest(void **state)
{
	struct rusage before, after;
	char byte;
	int fds[2];

	assert_int_equal(pipe(fds), 0);
	assert_int_equal(getrusage(RUSAGE_THREAD, &before), 0);
	for (unsigned i = 0; i < CALLS; i++) {
		assert_int_equal(write(fds[1], "x", 1), 1);
		assert_int_equal(read(fds[0], &byte, 1), 1);
		assert_int_equal(byte, 'x');
	}
	assert_int_equal(getrusage(RUSAGE_THREAD, &after), 0);
	assert_true(after.ru_nvcsw - before.ru_nvcsw >= 2 * CALLS);
	close(fds[0]);
	close(fds[1]);
}

static void
errors_stay_what_they_are(void **state)
{
	struct pollfd none = {.fd = -1};

	errno = EEXIST;
	assert_int_equal(poll(&none, 1, 0), 0);
	assert_int_equal(errno, EEXIST);
	assert_int_equal(close(-1), -1);
	assert_int_equal(errno, EBADF);
}

static void *
next_of(void *arg)
{
	return (char *)arg + 1;
}

static void
threads_get_and_return_theirs(void **state)
{
	pthread_t threads[8];
	char bytes[9];

	for (unsigned i = 0; i < 8; i++) {
		assert_int_equal(pthread_create(&threads[i], NULL, next_of, &bytes[i]), 0);
	}
	for (unsigned i = 0; i < 8; i++) {
		void *ret;

		assert_int_equal(pthread_join(threads[i], &ret), 0);
		assert_ptr_equal(ret, &bytes[i + 1]);
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(all_stands_still_once),
		cmocka_unit_test(calls_rest),
		cmocka_unit_test(errors_stay_what_they_are),
		cmocka_unit_test(threads_get_and_return_theirs),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
