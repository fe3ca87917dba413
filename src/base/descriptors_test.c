/* SPDX-License-Identifier: BSD-3-Clause */
/* The limit on descriptors, reached for real; of a child process, so that it is nobody else's. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "base/descriptors.h"

#define LIMIT 80

/* Opens as many as there are; how many. The last error is in errno. */
static unsigned
open_all(void)
{
	unsigned count = 0;

	while (count < 2 * LIMIT && open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0) {
		count++;
	}
	return count;
}

/* In the child: what went wrong, 0 for nothing. */
static int
at_the_limit(void)
{
	struct rlimit limit = {.rlim_cur = LIMIT / 2, .rlim_max = LIMIT};
	struct err err = ERR_NONE;
	unsigned first;

	CHECK(setrlimit(RLIMIT_NOFILE, &limit) == 0);
	if (descriptors_raise(&err) != 0 || descriptors_max() != LIMIT || descriptors_kept() != LIMIT / 8) {
		return 1;
	}
	first = open_all();
	if (first + 3 > LIMIT - LIMIT / 8 || first + 12 < LIMIT - LIMIT / 8 || !descriptors_out(-errno)) {
		return 2;
	}
	descriptors_borrow();
	descriptors_borrow();
	descriptors_return();
	if (open("/dev/null", O_RDONLY | O_CLOEXEC) < 0) {
		return 3;
	}
	descriptors_return();
	if (open("/dev/null", O_RDONLY | O_CLOEXEC) >= 0) {
		return 4;
	}
	err_set(&err, -errno, "cannot do it");
	descriptors_explain(&err);
	if (strstr(err.text, "cannot do it; no descriptors left: 70 in use of 80 (RLIMIT_NOFILE)") == NULL) {
		return 5;
	}
	/* Room for five; what is kept does not count, whoever borrows it. */
	for (int fd = LIMIT - LIMIT / 8 - 5; fd < LIMIT - LIMIT / 8; fd++) {
		close(fd);
	}
	if (descriptors_probe(0, 5) != LIMIT - LIMIT / 8 - 1 || descriptors_probe(0, 1) != LIMIT - LIMIT / 8 - 5 ||
	    descriptors_probe(0, 6) != -EMFILE) {
		return 6;
	}
	descriptors_borrow();
	if (descriptors_probe(0, 5) != LIMIT - LIMIT / 8 - 1 || descriptors_probe(0, 6) != -EMFILE) {
		return 7;
	}
	if (open_all() != LIMIT / 8 - 1 + 5) {
		return 8;
	}
	descriptors_return();
	return 0;
}

static void
test_limit(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		_exit(at_the_limit());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void
test_other_errors(void **state)
{
	struct err err = ERR_NONE;

	err_set(&err, -ENOENT, "no such thing");
	descriptors_explain(&err);
	assert_string_equal(err.text, "no such thing");
	descriptors_explain(NULL);
	err_set(&err, -ENFILE, "no such thing");
	descriptors_explain(&err);
	assert_non_null(strstr(err.text, "fs.file-max"));
	assert_false(descriptors_out(-EAGAIN));
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_limit),
		cmocka_unit_test(test_other_errors),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
