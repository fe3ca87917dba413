/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "app/daemon_options.h"
#include "base/check.h"

#define ARGS_MAX 16

static int
parse(struct daemon_options *o, struct err *err, const char *const args[])
{
	char *argv[ARGS_MAX + 1] = {(char *)"berthd"};
	int argc = 1;

	for (; args[argc - 1] != NULL; argc++) {
		argv[argc] = (char *)args[argc - 1];
	}
	return daemon_options_parse(argc, argv, o, err);
}

static void
test_defaults(void **state)
{
	struct daemon_options o;
	cpu_set_t set;

	assert_int_equal(parse(&o, NULL, (const char *const[]){NULL}), 0);
	assert_int_equal(o.action, DAEMON_RUN);
	assert_string_equal(o.rpc_socket, DAEMON_RPC_SOCKET);
	assert_null(o.config_file);
	assert_null(o.state_dir);
	assert_int_equal(o.mode, REACTOR_ADAPTIVE);
	assert_false(o.pinned);
	assert_false(o.wait_for_rpc);
	sched_getaffinity(0, sizeof(set), &set);
	assert_int_equal(cpumask_count(&o.cpus), MIN(CPU_COUNT(&set), DAEMON_REACTORS_DEFAULT_MAX));
}

static void
test_rpc(void **state)
{
	struct err err = ERR_NONE;
	struct daemon_options o;

	assert_int_equal(parse(&o, &err, (const char *const[]){"-r", "127.0.0.1:5260", "--rpc-token-file", "t", NULL}), 0);
	assert_null(o.rpc_socket);
	assert_string_equal(o.rpc_address, "127.0.0.1:5260");
	assert_string_equal(o.rpc.token_file, "t");
	assert_int_equal(parse(&o, &err, (const char *const[]){"-r", "[::1]:5260", "-r", "a.sock", "--rpc-tls", "d", "--rpc-user",
							       "root,4711", "--rpc-group", "12", "--rpc-mode", "0660", NULL}),
			 0);
	assert_string_equal(o.rpc_socket, "a.sock");
	assert_string_equal(o.rpc_address, "[::1]:5260");
	assert_string_equal(o.rpc.tls_dir, "d");
	assert_true(o.rpc.peers.uid_count == 2 && o.rpc.peers.uids[0] == 0 && o.rpc.peers.uids[1] == 4711);
	assert_true(o.rpc.has_group && o.rpc.group == 12 && o.rpc.mode == 0660);
}

static void
test_rpc_mistakes(void **state)
{
	static const struct {
		const char *args[7];
		const char *text;
	} cases[] = {
		{{"-r", "127.0.0.1:5260"}, "needs authentication"},
		{{"-r", "127.0.0.1:99999", "--rpc-tls", "d"}, "99999"},
		{{"--rpc-token-file", "t"}, "for a TCP address"},
		{{"-r", "a.sock", "--rpc-tls", "d"}, "for a TCP address"},
		{{"-r", "127.0.0.1:5260", "--rpc-tls", "d", "--rpc-group", "0"}, "for a unix socket"},
		{{"--rpc-user", "nobody-of-that-name"}, "no user"},
		{{"--rpc-user", "1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17"}, "more than 16"},
		{{"--rpc-group", "nobody-of-that-name"}, "no group"},
		{{"--rpc-mode", "0060"}, "0660"},
		{{"--rpc-mode", "rw"}, "0660"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct err err = ERR_NONE;
		struct daemon_options o;

		assert_int_equal(parse(&o, &err, cases[i].args), -EINVAL);
		assert_non_null(strstr(err.text, cases[i].text));
	}
}

static void
test_all(void **state)
{
	unsigned cpu = (unsigned)sched_getcpu();
	struct daemon_options o;
	char mask[16];

	snprintf(mask, sizeof(mask), "[%u]", cpu);
	assert_int_equal(parse(&o, NULL,
			       (const char *const[]){"-c", "f.json", "-r/run/b.sock", "-m", mask,
						     "--socket-dir=/run/s", "--socket-group",
						     "4711", "--mode", "poll",
						     "--state-dir", "d", "--wait-for-rpc", NULL}),
			 0);
	assert_string_equal(o.config_file, "f.json");
	assert_string_equal(o.rpc_socket, "/run/b.sock");
	assert_string_equal(o.socket_dir, "/run/s");
	assert_true(o.has_socket_group);
	assert_int_equal(o.socket_group, 4711);
	assert_string_equal(o.state_dir, "d");
	assert_int_equal(o.mode, REACTOR_POLL);
	assert_true(o.wait_for_rpc);
	assert_true(o.pinned);
	assert_int_equal(cpumask_count(&o.cpus), 1);
	assert_true(cpumask_test(&o.cpus, cpu));
	assert_int_equal(parse(&o, NULL, (const char *const[]){"--version", NULL}), 0);
	assert_int_equal(o.action, DAEMON_SHOW_VERSION);
	assert_int_equal(parse(&o, NULL, (const char *const[]){"-h", NULL}), 0);
	assert_int_equal(o.action, DAEMON_SHOW_HELP);
}

static void
test_bad(void **state)
{
	static const struct {
		const char *args[3];
		const char *words;
	} cases[] = {
		{{"--nope"}, "unknown option --nope"},
		{{"-x"}, "unknown option -x"},
		{{"-"}, "unknown option -"},
		{{"--stat"}, "unknown option --stat"},
		{{"--state-dirs"}, "unknown option --state-dirs"},
		{{"file"}, "'file' is not an option"},
		{{"-c"}, "option -c needs a value"},
		{{"--mode"}, "option --mode needs a value"},
		{{"--mode="}, "option --mode has an empty value"},
		{{"-r", ""}, "option --rpc-socket has an empty value"},
		{{"--mode", "fast"}, "option --mode: 'fast' is not one of"},
		{{"--socket-group", "no such group"}, "there is no group 'no such group'"},
		{{"--socket-group", "-1"}, "there is no group '-1'"},
		{{"--wait-for-rpc=1"}, "option --wait-for-rpc takes no value"},
		{{"-m", "0x"}, "option --cpumask: CPU mask '0x'"},
		{{"-m", "[1023]"}, "option --cpumask: CPU 1023 of mask [1023]"},
	};

	for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
		struct daemon_options o = {.config_file = "untouched"};
		struct err err = ERR_NONE;

		assert_int_equal(parse(&o, &err, cases[i].args), -EINVAL);
		if (strstr(err.text, cases[i].words) == NULL) {
			fail_msg("'%s' does not say '%s'", err.text, cases[i].words);
		}
		assert_string_equal(o.config_file, "untouched");
	}
}

int
main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_all), cmocka_unit_test(test_rpc), cmocka_unit_test(test_rpc_mistakes),
		cmocka_unit_test(test_bad),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
