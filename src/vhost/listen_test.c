/* SPDX-License-Identifier: BSD-3-Clause */
/* Listeners when descriptors are scarce: this process has a low limit, and fills it. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/descriptors.h"
#include "testkit/hand.h"
#include "testkit/vhost_stage.h"
#include "vhost/internal.h"

#define LIMIT 256
#define SCARCE (LIMIT / 4 * 3)
#define ROOM 16 /* of a controller that is not scarce yet, for both ends of a connection */

static struct stage st;
static struct front f;
static int filling[LIMIT];
static unsigned filled;

/* Until the lowest free descriptor is that one; -1: until there is none. */
static void
fill_to(int first)
{
	for (;;) {
		int fd = dup(f.memory_fd);

		if (fd < 0) {
			return;
		}
		if (first >= 0 && fd >= first) {
			close(fd);
			return;
		}
		filling[filled++] = fd;
	}
}

static void
give_back(unsigned count)
{
	for (; count > 0 && filled > 0; count--) {
		close(filling[--filled]);
	}
}

static int
setup(void **state)
{
	stage_start(&st, REACTOR_INTERRUPT);
	front_open(&f, &st);
	return 0;
}

static int
teardown(void **state)
{
	front_close(&f);
	give_back(LIMIT);
	stage_stop(&st);
	return 0;
}

static const char *
path_of(const char *name)
{
	static char path[160];

	snprintf(path, sizeof(path), "%s/%s", st.dir, name);
	return path;
}

static int
connect_to(const char *name)
{
	return unix_connect(path_of(name), NULL);
}

static void
test_second_front_end(void **state)
{
	int second;

	assert_int_equal(stage_create(&st, "vm", NULL, false, NULL), 0);
	/* It waits where there are plenty. */
	fill_to(SCARCE - ROOM);
	front_start(&f, "vm");
	second = connect_to("vm");
	assert_true(second >= 0);
	close(second);
	front_disconnect(&f);
	stage_quiet(&st);
	/* It is refused where they are scarce, and only as long as the first is there. */
	fill_to(SCARCE);
	for (unsigned i = 0; i < 3; i++) {
		memset(f.memory, 0, FRONT_RING_BYTES);
		f.avail[0] = 0;
		front_start(&f, "vm");
		assert_true(front_read(&f, 0, i));
		assert_int_equal(connect_to("vm"), -ECONNREFUSED);
		assert_true(front_read(&f, 0, i));
		front_disconnect(&f);
		stage_quiet(&st);
		second = connect_to("vm");
		assert_true(second >= 0);
		close(second);
		stage_quiet(&st);
	}
}

static void
test_deleted_while_closed(void **state)
{
	unsigned fds;

	fill_to(SCARCE);
	fds = stage_count_fds();
	assert_int_equal(stage_create(&st, "vm", NULL, false, NULL), 0);
	front_start(&f, "vm");
	assert_int_equal(connect_to("vm"), -ECONNREFUSED);
	assert_int_equal(access(path_of("vm"), F_OK), 0);
	assert_int_equal(stage_delete(&st, "vm"), 0);
	assert_int_equal(access(path_of("vm"), F_OK), -1);
	front_disconnect(&f);
	stage_quiet(&st);
	assert_int_equal(access(path_of("vm"), F_OK), -1);
	assert_int_equal(stage_count_fds(), fds);
	assert_int_equal(stage_create(&st, "vm", NULL, false, NULL), 0);
}

/* ---- A listener alone ---- */

static struct listener l;
static char path[160];
static gid_t group;
static int accepted_fd;

static void
accepted(struct listener *listener, int fd)
{
	accepted_fd = fd;
}

static void
start(void *ctx)
{
	assert_int_equal(listener_start(&l, path, 0600, ctx, "alone", accepted, NULL), 0);
}

static void
resume(void *ctx)
{
	listener_resume(&l);
}

static void
stop(void *ctx)
{
	listener_stop(&l);
}

static void
start_alone(const gid_t *shared_with)
{
	memset(&l, 0, sizeof(l));
	accepted_fd = -1;
	snprintf(path, sizeof(path), "%s", path_of("alone"));
	stage_call(&st, st.control, start, (void *)(uintptr_t)shared_with);
}

static void
check_socket(mode_t mode)
{
	struct stat sb;

	assert_int_equal(stat(path, &sb), 0);
	assert_true(S_ISSOCK(sb.st_mode));
	assert_int_equal(sb.st_mode & 0777, mode);
	assert_int_equal(sb.st_gid, group);
}

/* For ten times as long as the listener waits before it tries again. */
static bool
comes_true(bool (*condition)(void))
{
	for (unsigned i = 0; i < 1000 && !condition(); i++) {
		usleep(1000);
		stage_quiet(&st);
	}
	return condition();
}

static bool
is_accepted(void)
{
	return accepted_fd >= 0;
}

static bool
is_open(void)
{
	return l.fd >= 0;
}

/* With another group than a new file has, where this process may choose one: so it is seen to be set again. */
static void
test_share_again(void **state)
{
	int client;

	group = chown(st.dir, (uid_t)-1, 4711) == 0 ? 4711 : getegid();
	fill_to(SCARCE);
	start_alone(&group);
	check_socket(0660);
	for (unsigned i = 0; i < 2; i++) {
		client = connect_to("alone");
		stage_quiet(&st);
		assert_true(accepted_fd >= 0);
		assert_int_equal(connect_to("alone"), -ECONNREFUSED);
		close(accepted_fd);
		close(client);
		accepted_fd = -1;
		stage_call(&st, st.control, resume, NULL);
		check_socket(0660);
	}
	stage_call(&st, st.control, stop, NULL);
	assert_int_equal(access(path, F_OK), -1);
}

/* It tries until there is one, says so once, and forgets it then. */
static void
test_no_descriptor_to_listen_again(void **state)
{
	int client;

	group = getegid();
	fill_to(SCARCE);
	start_alone(NULL);
	client = connect_to("alone");
	stage_quiet(&st);
	assert_true(accepted_fd >= 0);
	fill_to(-1);
	stage_call(&st, st.control, resume, NULL);
	assert_false(is_open());
	assert_true(l.complained);
	check_socket(0600);
	usleep(150000);
	stage_quiet(&st);
	assert_false(is_open());
	give_back(1);
	assert_true(comes_true(is_open));
	assert_false(l.complained);
	check_socket(0600);
	close(accepted_fd);
	close(client);
	accepted_fd = -1;
	give_back(8);
	client = connect_to("alone");
	assert_true(client >= 0);
	assert_true(comes_true(is_accepted));
	close(client);
	close(accepted_fd);
	stage_call(&st, st.control, stop, NULL);
}

static void
test_stopped_while_it_tries(void **state)
{
	int client;

	fill_to(SCARCE);
	start_alone(NULL);
	client = connect_to("alone");
	stage_quiet(&st);
	fill_to(-1);
	stage_call(&st, st.control, resume, NULL);
	assert_false(is_open());
	stage_call(&st, st.control, stop, NULL);
	assert_int_equal(access(path, F_OK), -1);
	give_back(10);
	usleep(150000);
	stage_quiet(&st);
	assert_int_equal(access(path, F_OK), -1);
	close(client);
	close(accepted_fd);
}

/* With four free a connection waits, with five it is accepted. */
static void
test_waits_for_five(void **state)
{
	int client;

	start_alone(NULL);
	fill_to(-1);
	give_back(5);
	client = connect_to("alone");
	stage_quiet(&st);
	assert_false(is_accepted());
	assert_true(l.complained);
	usleep(150000);
	stage_quiet(&st);
	assert_false(is_accepted());
	give_back(1);
	assert_true(comes_true(is_accepted));
	close(client);
	close(accepted_fd);
	stage_call(&st, st.control, stop, NULL);
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_second_front_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deleted_while_closed, setup, teardown),
		cmocka_unit_test_setup_teardown(test_share_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_no_descriptor_to_listen_again, setup, teardown),
		cmocka_unit_test_setup_teardown(test_stopped_while_it_tries, setup, teardown),
		cmocka_unit_test_setup_teardown(test_waits_for_five, setup, teardown),
	};
	struct rlimit limit = {.rlim_cur = LIMIT, .rlim_max = LIMIT};
	struct err err = ERR_NONE;

	if (setrlimit(RLIMIT_NOFILE, &limit) != 0 || descriptors_raise(&err) != 0) {
		fprintf(stderr, "cannot set the limit: %s\n", err.text);
		return 1;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
