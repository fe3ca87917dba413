/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The berth command as a user runs it, against a real RPC server whose methods are answered here. argv[1] is the command.
 */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "event/reactor.h"
#include "rpc/rpc.h"
#include "rpc/schema_gen.h"

static struct {
	const char *berth;
	char dir[64];
	char path[96];
	struct reactor *reactor;
	struct thread *thread;
	struct rpc_server *server;
	char output[65536];
	pthread_mutex_t lock; /* guards calls: the server runs on a system thread of its own */
	char calls[1024];     /* names and parameters of the calls that change something */
} f = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- Methods ---- */

static int
record(void *ctx, const char *method, const json_t *params, struct err *err)
{
	char *text = json_dumps(params, JSON_COMPACT);
	size_t len;

	pthread_mutex_lock(&f.lock);
	len = strlen(f.calls);
	snprintf(f.calls + len, sizeof(f.calls) - len, "%s %s\n", method, text);
	pthread_mutex_unlock(&f.lock);
	free(text);
	return 0;
}

/* The calls since the last time; valid until the next. */
static const char *
calls(void)
{
	static char text[sizeof(f.calls)];

	pthread_mutex_lock(&f.lock);
	memcpy(text, f.calls, sizeof(text));
	f.calls[0] = '\0';
	pthread_mutex_unlock(&f.lock);
	return text;
}

static json_t *
disk(const char *name, uint64_t size)
{
	return json_pack("{s:s,s:I,s:I,s:i,s:s,s:b,s:s,s:s,s:s,s:b}", "name", name, "size", (json_int_t)size, "allocated",
			 (json_int_t)8192, "block_size", 512, "backend", "aio", "readonly", 0, "uuid",
			 "12345678-1234-4234-8234-123456789abc", "file", "/s/disks/d.img", "socket", "/s/d", "connected", 1);
}

static void
disk_create(struct rpc_request *req, const void *params)
{
	const struct berth_disk_create_params *p = params;
	json_t *result;

	if (strcmp(p->name, "taken") == 0) {
		rpc_error(req, -EEXIST, "disk taken exists");
		return;
	}
	result = disk(p->name, p->size);
	json_object_set_new(result, "note", json_string("io_uring is forbidden here"));
	rpc_result(req, result);
}

static void
disk_list(struct rpc_request *req, const void *params)
{
	const struct berth_disk_list_params *p = params;

	rpc_result(req, json_pack("[o,o]", disk(p->has_name ? p->name : "a", 1 << 20), disk("long name", 3ull << 29)));
}

static void
answer_true(struct rpc_request *req, const void *params)
{
	rpc_true(req);
}

static void
status(struct rpc_request *req, const void *params)
{
	rpc_result(req, json_pack("{s:s,s:i,s:i,s:s,s:s,s:s,s:s,s:n,s:[{s:i,s:i,s:i,s:i,s:i,s:i}],s:i,s:i,s:i,s:i}",
				  "version", "berth v9", "pid", 42, "uptime_seconds", 3725, "state", "runtime", "mode",
				  "adaptive", "rpc_socket", f.path, "socket_dir", "/s", "state_dir", "reactors", "lcore", 0,
				  "cpu", -1, "tid", 43, "busy_ns", 250, "idle_ns", 750, "wakeups", 7, "bdevs", 2,
				  "controllers", 1, "sessions", 1, "disks", 1));
}

static void
get_methods(struct rpc_request *req, const void *params)
{
	const struct rpc_get_methods_params *p = params;

	rpc_result(req, rpc_method_names(p->current, p->include_aliases));
}

static void
start_init(struct rpc_request *req, const void *params)
{
	rpc_set_state(RPC_RUNTIME);
	rpc_true(req);
}

static void
get_subsystems(struct rpc_request *req, const void *params)
{
	rpc_result(req, json_pack("[{s:s,s:[]},{s:s,s:[]}]", "subsystem", "bdev", "depends_on", "subsystem", "vhost_blk",
				  "depends_on"));
}

static void
get_config(struct rpc_request *req, const void *params)
{
	const struct framework_get_config_params *p = params;

	if (strcmp(p->name, "bdev") == 0) {
		rpc_result(req, json_pack("[{s:s,s:{s:b}},{s:s,s:{s:s,s:i,s:i}}]", "method", "bdev_set_options", "params",
					  "bdev_auto_examine", 1, "method", "bdev_null_create", "params", "name", "n",
					  "num_blocks", 8, "block_size", 512));
	} else {
		rpc_result(req, json_null());
	}
}

static void
null_create(struct rpc_request *req, const void *params)
{
	rpc_result(req, json_string(((const struct bdev_null_create_params *)params)->name));
}

/* Never answered. */
static struct rpc_request *stuck;

static void
wait_for_examine(struct rpc_request *req, const void *params)
{
	stuck = req;
}

static const struct rpc_method methods[] = {
	{"berth_disk_create", disk_create},
	{"berth_disk_list", disk_list},
	{"berth_disk_delete", answer_true},
	{"berth_status", status},
	{"rpc_get_methods", get_methods},
	{"framework_start_init", start_init},
	{"framework_get_subsystems", get_subsystems},
	{"framework_get_config", get_config},
	{"bdev_set_options", answer_true},
	{"bdev_null_create", null_create},
	{"bdev_wait_for_examine", wait_for_examine},
	{NULL, NULL},
};

/* ---- The server, on a system thread of its own ---- */

struct call {
	struct msg msg;
	void (*fn)(void);
	_Atomic bool done;
};

static void
call_fn(struct msg *msg)
{
	struct call *call = CONTAINER_OF(msg, struct call, msg);

	call->fn();
	call->done = true;
}

static void
on_thread(void (*fn)(void))
{
	const struct timespec pause = {.tv_nsec = 1000000};
	struct call call = {.fn = fn};

	thread_send(f.thread, &call.msg, call_fn);
	for (int i = 0; i < 60000 && !call.done; i++) {
		nanosleep(&pause, NULL);
	}
	assert_true(call.done);
}

static void
start(void)
{
	const struct rpc_server_options options = {.path = f.path, .record = record};

	rpc_set_state(RPC_RUNTIME);
	CHECK(rpc_server_start(&options, &f.server, NULL) == 0);
}

static void
stop(void)
{
	if (stuck != NULL) {
		rpc_true(stuck);
		stuck = NULL;
	}
	rpc_server_stop(f.server);
	thread_exit();
}

static void
to_startup(void)
{
	rpc_set_state(RPC_STARTUP);
}

static int
setup(void **state)
{
	calls();
	strcpy(f.dir, "/tmp/berth-ctl-XXXXXX");
	assert_non_null(mkdtemp(f.dir));
	snprintf(f.path, sizeof(f.path), "%s/rpc.sock", f.dir);
	setenv("BERTH_SOCKET", f.path, 1);
	f.reactor = reactor_create(0, -1, REACTOR_INTERRUPT, NULL);
	f.thread = thread_create("app", f.reactor);
	assert_int_equal(reactor_start(f.reactor, NULL), 0);
	on_thread(start);
	return 0;
}

static int
teardown(void **state)
{
	char path[128];

	on_thread(stop);
	reactor_stop(f.reactor);
	reactor_join(f.reactor);
	reactor_free(f.reactor);
	snprintf(path, sizeof(path), "%s/config.json", f.dir);
	unlink(path);
	assert_int_equal(rmdir(f.dir), 0);
	return 0;
}

/* Runs `berth ARGUMENTS`, both outputs into f.output; the exit code. */
static int
run(const char *arguments)
{
	char command[1024];
	size_t len;
	FILE *pipe;
	int rc;

	snprintf(command, sizeof(command), "cd %s; %s %s", f.dir, f.berth, arguments);
	setenv("BERTH_TEST_COMMAND", command, 1);
	pipe = popen("exec bash -c \"$BERTH_TEST_COMMAND\" 2>&1", "r");
	assert_non_null(pipe);
	len = fread(f.output, 1, sizeof(f.output) - 1, pipe);
	f.output[len] = '\0';
	rc = pclose(pipe);
	assert_true(WIFEXITED(rc));
	return WEXITSTATUS(rc);
}

static void
assert_run(const char *arguments, int code, const char *words)
{
	int rc = run(arguments);

	if (rc != code || strstr(f.output, words) == NULL) {
		fail_msg("berth %s: wanted %d '%s', got %d: %s", arguments, code, words, rc, f.output);
	}
}

/* ---- Tests ---- */

static void
test_disk(void **state)
{
	assert_run("disk create d 1G", 0, "d: 1 GiB, aio, on /s/disks/d.img\nvhost-user-blk socket: /s/d\n");
	assert_non_null(strstr(f.output, "berth: note: io_uring is forbidden here\n"));
	assert_string_equal(calls(), "berth_disk_create {\"name\":\"d\",\"size\":1073741824}\n");
	assert_run("disk create --block-size=4K d --backend aio 1M --readonly", 0, "d: 1 MiB");
	assert_string_equal(calls(), "berth_disk_create {\"block_size\":4096,\"backend\":\"aio\",\"readonly\":true,"
				     "\"name\":\"d\",\"size\":1048576}\n");
	assert_run("disk list", 0,
		   "NAME          SIZE  ALLOCATED  BACKEND  VM         SOCKET\n"
		   "a            1 MiB      8 KiB  aio      connected  /s/d\n"
		   "long name  1.5 GiB      8 KiB  aio      connected  /s/d\n");
	assert_run("--json disk list", 0, "\"size\": 1610612736,");
	assert_run("disk list --json x", 0, "\"name\": \"x\",");
	assert_run("disk delete d --keep-file", 0, "");
	assert_non_null(strstr(calls(), "berth_disk_delete {\"name\":\"d\",\"keep_file\":true}"));
}

static void
test_refused(void **state)
{
	assert_run("disk create taken 1G", 1, "berth: disk create: disk taken exists (code -17)\n");
	assert_run("--json disk create taken 1G 2>/dev/null", 1, "{\n  \"error\": {\n    \"code\": -17,");
	assert_run("disk create x 1000", 1, "'size' is 1000");
	assert_run("disk create x 1M --backend tape", 1, "\"tape\"");
	assert_run("rpc bdev_null_create name=n num_blocks=0 block_size=512", 1,
		   "berth: bdev_null_create: parameter 'num_blocks' is 0, but must be at least 1 (code -22)\n");
	assert_run("rpc nothing", 2, "there is no method 'nothing' (code -32601)");
}

static void
test_usage(void **state)
{
	assert_run("", 2, "a command is missing");
	assert_run("nonsense", 2, "no command 'nonsense'");
	assert_run("--nonsense", 2, "no option --nonsense");
	assert_run("disk", 2, "create, list, resize or delete");
	assert_run("disk destroy", 2, "'destroy'");
	assert_run("disk create x", 2, "missing");
	assert_run("disk create x 1G y", 2, "'y'");
	assert_run("disk create x big", 2, "'big'");
	assert_run("disk create x 1G --colour", 2, "--colour");
	assert_run("disk create x 1G --backend", 2, "--backend wants a value");
	assert_run("disk create x 1G --block-size much", 2, "block_size is 'much'");
	assert_run("disk create $'\\xff' 1G", 2, "UTF-8");
	assert_run("status x", 2, "'x'");
	assert_run("--timeout 0 status", 2, "--timeout");
	assert_run("top x", 2, "'x'");
	assert_run("top -n 0", 2, "-n is '0'");
	assert_run("top -n -1", 2, "-n is '-1'");
	assert_run("top -d 0", 2, "0.1 to 3600");
	assert_run("top -d nan", 2, "'nan'");
	assert_run("top --view disks", 2, "'disks'");
	assert_run("top --view cores --sort latency", 2, "of cores there are lcore, cpu, mode,");
	assert_run("top --filter aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 2, "longer than 63");
	assert_run("doctor x", 2, "'x'");
	assert_run("doctor --sample 0", 2, "0.1 to 60");
	assert_run("rpc", 2, "--list");
	assert_run("rpc bdev_null_create name=x", 2, "num_blocks=... is missing");
	assert_run("rpc bdev_null_create nam=x", 2, "'nam'");
	assert_run("rpc nothing --help", 2, "'nothing'");
	assert_run("config", 2, "save or load");
	assert_run("config load", 2, "missing");
	assert_run("config load nowhere.json", 2, "nowhere.json");
	assert_run("completion", 2, "bash");
	assert_run("help nothing", 2, "'nothing'");
}

static void
test_unreachable(void **state)
{
	assert_run("-s nowhere.sock status", 3, "cannot connect to nowhere.sock");
	assert_run("status --socket=/", 3, "/");
	assert_run("--timeout 1 rpc bdev_wait_for_examine", 4, "no answer in time");
}

static void
test_status(void **state)
{
	assert_run("status", 0, "berth v9, pid 42, up 1 h 2 min, runtime, adaptive mode\n");
	assert_non_null(strstr(f.output, "state directory  -\n"));
	assert_non_null(strstr(f.output, "disks 1, bdevs 2, controllers 1, connected VMs 1\n"));
	assert_non_null(strstr(f.output, "REACTOR  CPU  TID    BUSY  WAKEUPS\n"
					 "      0  any   43  25.0 %        7\n"));
}

static void
test_rpc(void **state)
{
	assert_run("rpc bdev_null_create name=n num_blocks=64K block_size=0x200", 0, "\"n\"\n");
	assert_string_equal(calls(), "bdev_null_create {\"name\":\"n\",\"num_blocks\":65536,\"block_size\":512}\n");
	assert_run("rpc bdev_null_create - block_size=4096 <<< "
		   "'{\"name\":\"m\",\"num_blocks\":3,\"block_size\":1}'", 0, "\"m\"\n");
	assert_string_equal(calls(), "bdev_null_create {\"name\":\"m\",\"num_blocks\":3,\"block_size\":4096}\n");
	assert_run("rpc bdev_null_create - <<< nonsense", 2, "no JSON object");
	assert_run("rpc construct_null_bdev name=o num_blocks=1 block_size=512", 0, "\"o\"\n");
	assert_run("rpc rpc_get_methods current=true", 0, "[\n  \"berth_disk_create\",\n");
}

static void
test_help(void **state)
{
	assert_run("--help", 0, "usage: berth [options] COMMAND");
	assert_run("help", 0, "completion");
	assert_run("help disk", 0, "usage: berth disk create NAME SIZE\n       berth disk list [NAME]\n");
	assert_run("disk --help", 0, "--keep-file");
	assert_run("rpc bdev_null_create --help", 0, "dif_type (number)\n      Protection information");
	assert_run("help construct_null_bdev", 0, "usage: berth rpc bdev_null_create name=... num_blocks=...");
	assert_run("rpc --list", 0, "vhost_create_blk_controller");
	assert_run("--version", 0, "berth ");
	assert_run("status > /dev/full", 4, "cannot write the output");
}

static void
test_config(void **state)
{
	struct stat st;
	char path[128];

	assert_run("config save", 0, "{\n  \"subsystems\": [\n    {\n      \"subsystem\": \"bdev\",");
	assert_non_null(strstr(f.output, "\"config\": null"));
	assert_run("config save config.json", 0, "");
	snprintf(path, sizeof(path), "%s/config.json", f.dir);
	assert_int_equal(stat(path, &st), 0);
	/* Past the start-up state bdev_set_options is left out, and said so. */
	assert_run("config load config.json", 0, "bdev_set_options may only be called before the framework runs; left out");
	assert_string_equal(calls(), "bdev_null_create {\"name\":\"n\",\"num_blocks\":8,\"block_size\":512}\n");
	on_thread(to_startup);
	assert_run("config load config.json", 0, "");
	assert_string_equal(f.output, "");
	assert_string_equal(calls(), "bdev_set_options {\"bdev_auto_examine\":true}\n"
				     "bdev_null_create {\"name\":\"n\",\"num_blocks\":8,\"block_size\":512}\n");
	assert_run("config save /nowhere/config.json", 4, "/nowhere/config.json");
}

static void
test_config_faults(void **state)
{
#define CONFIG(call) "'{\"subsystems\":[{\"subsystem\":\"bdev\",\"config\":[{\"method\":\"bdev_null_create\",\"params\":" \
		     "{\"name\":\"n\",\"num_blocks\":8,\"block_size\":512}}," call "]}]}'"
	assert_run("config load - <<< " CONFIG("{\"method\":\"nothing\"}"), 2, "there is no method nothing");
	/* Nothing was done before that was found. */
	assert_string_equal(calls(), "");
	assert_run("config load --skip-unknown - <<< " CONFIG("{\"method\":\"nothing\"}"), 0, "left out");
	assert_string_not_equal(calls(), "");
	assert_run("config load - <<< " CONFIG("{\"method\":\"bdev_null_create\",\"params\":{\"name\":1}}"), 1, "call 2");
}

static void
test_completion(void **state)
{
	assert_run("completion bash", 0, "complete -F _berth berth\n");
	assert_run("completion words", 0, "disk\nvolume\nstore\nexport\nstatus\ntop\niostat\n");
	assert_run("completion words top", 0, "--view\n--sort\n");
	assert_run("completion words doctor", 0, "--sample\n");
	assert_run("completion words doctor --state-dir", 0, "<file>\n");
	assert_run("completion words top --view", 0, "controllers\nthreads\ncores\n");
	assert_run("completion words disk", 0, "create\nlist\nresize\ndelete\n");
	assert_run("completion words disk delete", 0, "long name\n--keep-file\n");
	assert_run("completion words rpc", 0, "bdev_malloc_create\n");
	assert_run("completion words rpc log_set_level", 0, "level=\n");
	assert_run("completion words rpc log_set_level level =", 0, "NOTICE\n");
	/* The function itself, as bash calls it. */
	assert_run("completion bash > config.json && PATH=$(dirname \"$BERTH\"):$PATH && . ./config.json && "
		   "COMP_WORDS=(berth disk cr) && COMP_CWORD=2 && _berth && echo got:${COMPREPLY[*]}", 0, "got:create\n");
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int
main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {
		TEST(test_disk),	TEST(test_refused), TEST(test_usage), TEST(test_unreachable), TEST(test_status),
		TEST(test_rpc),		TEST(test_help),    TEST(test_config), TEST(test_config_faults),
		TEST(test_completion),
	};

	if (argc != 2) {
		fprintf(stderr, "usage: %s BERTH\n", argv[0]);
		return 2;
	}
	f.berth = realpath(argv[1], NULL);
	setenv("BERTH", f.berth, 1);
	rpc_register(methods);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
