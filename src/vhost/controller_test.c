/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "testkit/vhost_stage.h"
#include "vhost/internal.h"
#include "vhost/placement.h"

static struct stage st;

static int
setup(void **state)
{
	stage_start(&st, REACTOR_INTERRUPT);
	return 0;
}

static int
teardown(void **state)
{
	stage_stop(&st);
	return 0;
}

static void
refused(const char *name, const char *mask, int code, const char *word)
{
	struct err err = ERR_NONE;
	unsigned fds = stage_count_fds();

	assert_int_equal(stage_create(&st, name, mask, false, &err), code);
	assert_int_equal(err.code, code);
	if (strstr(err.text, word) == NULL) {
		fail_msg("\"%s\" does not mention \"%s\"", err.text, word);
	}
	assert_int_equal(stage_count_fds(), fds);
}

static const char *
path_of(const char *name)
{
	static char path[160];

	snprintf(path, sizeof(path), "%s/%s", st.dir, name);
	return path;
}

static void
test_names(void **state)
{
	char name[300];

	refused("", NULL, -EINVAL, "file name");
	refused(".", NULL, -EINVAL, "file name");
	refused("..", NULL, -EINVAL, "file name");
	refused("x\n", NULL, -EINVAL, "control characters");
	refused("\x1b[31mred", NULL, -EINVAL, "control characters");
	refused("../evil", NULL, -EINVAL, "../evil");
	refused("a/b", NULL, -EINVAL, "a/b");
	memset(name, 'x', sizeof(name));
	name[299] = '\0';
	refused(name, NULL, -EINVAL, "too long");
	/* As long as a socket's path may be. */
	name[sizeof(((struct sockaddr_un *)0)->sun_path) - 1 - strlen(st.dir) - 1] = '\0';
	assert_int_equal(stage_create(&st, name, NULL, false, NULL), 0);
	refused(name, NULL, -EEXIST, "exists");
	assert_int_equal(stage_delete(&st, name), 0);
	assert_int_equal(stage_create(&st, "...", NULL, false, NULL), 0);
}

static void
create_wrong(void *ctx)
{
	struct vhost_blk_options options = {.name = "c", .bdev_name = "nothing"};
	struct vhost_controller *ctrlr = NULL;
	struct err err = ERR_NONE;

	assert_int_equal(vhost_blk_create(&options, &ctrlr, &err), -ENODEV);
	assert_non_null(strstr(err.text, "nothing"));
	options.bdev_name = "disk0";
	options.packed_ring = true;
	assert_int_equal(vhost_blk_create(&options, &ctrlr, &err), -EOPNOTSUPP);
	assert_null(ctrlr);
	assert_int_equal(vhost_delete("c", NULL, NULL, &err), -ENODEV);
	assert_non_null(strstr(err.text, "c"));
}

static void
test_wrong_options(void **state)
{
	stage_call(&st, st.control, create_wrong, NULL);
	refused("c", "0x4", -EINVAL, "0x4");
	refused("c", "0x7", -EINVAL, "CPU 2");
	refused("c", "0", -EINVAL, "");
	refused("c", "zebra", -EINVAL, "zebra");
	refused("c", "[0", -EINVAL, "");
}

static void
test_socket_in_the_way(void **state)
{
	int fd;

	fd = open(path_of("file"), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	refused("file", NULL, -EEXIST, path_of("file"));
	unlink(path_of("file"));
	fd = unix_listen(path_of("live"), 0600, NULL);
	assert_true(fd >= 0);
	refused("live", NULL, -EADDRINUSE, path_of("live"));
	close(fd);
	/* Now it is stale. */
	assert_int_equal(stage_create(&st, "live", NULL, false, NULL), 0);
}

static void
test_info(void **state)
{
	struct vhost_info info;
	struct stat sb;

	assert_int_equal(stage_create(&st, "a", NULL, false, NULL), 0);
	assert_int_equal(stage_create(&st, "b", "[1]", true, NULL), 0);
	stage_info(&st, "a", &info);
	assert_string_equal(info.name, "a");
	assert_string_equal(info.socket_path, path_of("a"));
	assert_string_equal(info.cpumask, "0x3");
	assert_string_equal(info.bdev_name, "disk0");
	assert_int_equal(info.delay_base_us, 0);
	assert_int_equal(info.iops_threshold, 60000);
	assert_false(info.readonly || info.has_session);
	stage_info(&st, "b", &info);
	assert_string_equal(info.cpumask, "0x2");
	assert_true(info.readonly);
	assert_int_equal(stat(path_of("a"), &sb), 0);
	assert_true(S_ISSOCK(sb.st_mode));
	assert_int_equal(sb.st_mode & 0777, 0600);
	assert_int_equal(stage_delete(&st, "a"), 0);
	assert_int_equal(access(path_of("a"), F_OK), -1);
	assert_int_equal(stage_delete(&st, "a"), -ENODEV);
}

static void
test_coalescing(void **state)
{
	struct vhost_controller *ctrlr;
	struct err err = ERR_NONE;

	assert_int_equal(stage_create(&st, "a", NULL, false, NULL), 0);
	ctrlr = vhost_find("a");
	assert_int_equal(vhost_set_coalescing(ctrlr, 20, 1000, &err), 0);
	assert_int_equal(ctrlr->delay_base_us, 20);
	assert_int_equal(vhost_set_coalescing(ctrlr, 1000001, 1000, &err), -EINVAL);
	assert_int_equal(vhost_set_coalescing(ctrlr, 20, 0, &err), -EINVAL);
	assert_int_equal(ctrlr->iops_threshold, 1000);
	assert_int_equal(vhost_set_coalescing(ctrlr, 0, 0, &err), 0);
}

#define MANY 1000

static void
create_many(void *ctx)
{
	struct err err = ERR_NONE;
	char name[32];

	for (unsigned i = 0; i < MANY; i++) {
		struct vhost_blk_options options = {.name = name, .bdev_name = "disk0"};
		struct vhost_controller *ctrlr;

		snprintf(name, sizeof(name), "many%u", i);
		if (vhost_blk_create(&options, &ctrlr, &err) != 0) {
			fail_msg("%s", err.text);
		}
	}
}

/* In the order of their creation, each found by its name; and all gone at the end. */
static void
test_many(void **state)
{
	struct vhost_controller *ctrlr = NULL;
	unsigned i = 0;
	char name[32];

	if (sysconf(_SC_OPEN_MAX) < MANY + 100) {
		skip();
	}
	stage_call(&st, st.control, create_many, NULL);
	for (ctrlr = vhost_first(); ctrlr != NULL; ctrlr = vhost_next(ctrlr), i++) {
		snprintf(name, sizeof(name), "many%u", i);
		assert_string_equal(ctrlr->name, name);
		assert_ptr_equal(vhost_find(name), ctrlr);
	}
	assert_int_equal(i, MANY);
	assert_null(vhost_find("many"));
	assert_int_equal(stage_delete(&st, "many500"), 0);
	assert_null(vhost_find("many500"));
	assert_non_null(vhost_find("many501"));
}

static void
test_placement(void **state)
{
	struct cpumask all, second;
	unsigned a, b, c;

	assert_int_equal(placement_parse(NULL, &all, NULL), 0);
	assert_int_equal(cpumask_count(&all), 2);
	assert_int_equal(placement_parse("0x2", &second, NULL), 0);
	a = placement_take(&all);
	b = placement_take(&all);
	assert_int_not_equal(a, b);
	assert_int_equal(placement_take(&second), 1);
	/* 1 and 2: the first has fewer. */
	c = placement_take(&all);
	assert_int_equal(c, 0);
	placement_drop(1);
	placement_drop(1);
	assert_int_equal(placement_take(&all), 1);
	assert_ptr_equal(placement_thread(1), st.io[1]);
	placement_drop(0);
	placement_drop(0);
	placement_drop(1);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_names, setup, teardown),
		cmocka_unit_test_setup_teardown(test_wrong_options, setup, teardown),
		cmocka_unit_test_setup_teardown(test_socket_in_the_way, setup, teardown),
		cmocka_unit_test_setup_teardown(test_info, setup, teardown),
		cmocka_unit_test_setup_teardown(test_coalescing, setup, teardown),
		cmocka_unit_test_setup_teardown(test_many, setup, teardown),
		cmocka_unit_test_setup_teardown(test_placement, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
