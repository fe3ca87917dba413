/* SPDX-License-Identifier: BSD-3-Clause */
/* Against nbdkit, a server with plugins for each thing that a server can do. */
#include "bdevs/nbd/nbd.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/check.h"
#include "bdev/module.h"
#include "testkit/bdev_battery.h"
#include "testkit/peer_stage.h"

#define DISK_BYTES (8u << 20)

static struct server {
	char dir[40], socket[64], pid_file[64], image[64], keys[64];
	pid_t pid;
} server;

/* ---- The server ---- */

static bool
has_nbdkit(void)
{
	return system("nbdkit --version >/dev/null 2>&1") == 0;
}

static void
make_file(const char *path, off_t bytes, const char *text)
{
	int fd = open(path, O_CREAT | O_RDWR | O_CLOEXEC, 0600);

	EXPECT(fd >= 0 && ftruncate(fd, bytes) == 0);
	EXPECT(text == NULL || write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static void
make_folder(void)
{
	strcpy(server.dir, "/tmp/berth-nbd-XXXXXX");
	EXPECT(mkdtemp(server.dir) != NULL);
	snprintf(server.socket, sizeof(server.socket), "%s/socket", server.dir);
	snprintf(server.pid_file, sizeof(server.pid_file), "%s/pid", server.dir);
	snprintf(server.image, sizeof(server.image), "%s/image", server.dir);
	snprintf(server.keys, sizeof(server.keys), "%s/keys", server.dir);
	make_file(server.image, DISK_BYTES, NULL);
	make_file(server.keys, 0, "alice:0123456789abcdef0123456789abcdef\n");
}

/* args: after those that all have. */
static void
serve(const char *const *args)
{
	const char *argv[24] = {"nbdkit", "-f", "-U", server.socket, "-P", server.pid_file};
	unsigned n = 6;

	unlink(server.socket);
	unlink(server.pid_file);
	while (*args != NULL) {
		argv[n++] = *args++;
	}
	server.pid = fork();
	EXPECT(server.pid >= 0);
	if (server.pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		unsetenv("LD_PRELOAD"); /* what is preloaded is meant for the test */
		execvp(argv[0], (char *const *)(uintptr_t)argv);
		_exit(1);
	}
	/* It is written when connections are taken. */
	for (unsigned i = 0; access(server.pid_file, R_OK) != 0; i++) {
		EXPECT(i < 2000 && waitpid(server.pid, NULL, WNOHANG) == 0);
		usleep(5000);
	}
}

static void
end_server(void)
{
	if (server.pid != 0) {
		kill(server.pid, SIGKILL);
		EXPECT(waitpid(server.pid, NULL, 0) == server.pid);
		server.pid = 0;
	}
}

static void
remove_folder(void)
{
	unlink(server.socket);
	unlink(server.pid_file);
	unlink(server.image);
	unlink(server.keys);
	EXPECT(rmdir(server.dir) == 0);
}

#define SERVE(...) serve((const char *const[]){__VA_ARGS__, NULL})

static int
setup(void **state)
{
	if (!has_nbdkit()) {
		skip();
	}
	make_folder();
	return 0;
}

static int
teardown(void **state)
{
	end_server();
	remove_folder();
	return 0;
}

static struct nbd_bdev_options
options(void)
{
	return (struct nbd_bdev_options){
		.name = "nbd0", .socket = server.socket, .connections = 3, .reconnect_s = 30, .connect_ms = 60000};
}

/* ---- The battery ---- */

static void
attached(void *ctx, struct bdev *bdev, const struct err *err)
{
	EXPECT_SAY(bdev != NULL, "%s", err_text(err));
}

static int
create(const struct battery *b, struct err *err)
{
	struct nbd_bdev_options o = options();

	return bdev_nbd_attach(&o, attached, NULL, err);
}

static int
remove_bdev(const struct battery *b, void (*done)(void *ctx, int status), void *ctx, struct err *err)
{
	return bdev_nbd_detach(b->name, done, ctx, err);
}

static const struct battery battery = {
	.name = "nbd0", .create = create, .remove = remove_bdev, .unmap_zeroes = true, .may_cancel = true,
	.requests = 300};

/* All that a server can do, with a connection for each thread. */
static void
passes_battery(void **state)
{
	SERVE("memory", "8M");
	bdev_battery_run_all(&battery);
}

/* One connection for all; larger blocks. */
static void
passes_battery_over_one_connection(void **state)
{
	SERVE("--filter=multi-conn", "--filter=blocksize-policy", "memory", "8M", "multi-conn-mode=disable",
	      "blocksize-minimum=4096", "blocksize-preferred=4096", "blocksize-maximum=1M", "blocksize-error-policy=error");
	bdev_battery_run(&battery, REACTOR_INTERRUPT, true);
	bdev_battery_run(&battery, REACTOR_ADAPTIVE, false);
}

/* Nothing but reading, writing and flushing. */
static void
passes_battery_of_a_poor_server(void **state)
{
	SERVE("--filter=nozero", "--filter=noextents", "--filter=fua", "memory", "8M", "zeromode=none");
	bdev_battery_run(&battery, REACTOR_POLL, true);
}

/* ---- A stage ---- */

static struct nbd_bdev_options opts;

static int
attach(struct peer_stage *s)
{
	return bdev_nbd_attach(s->options, peer_stage_attached, s, &s->err);
}

static int
detach(struct peer_stage *s, void (*done)(void *ctx, int status), void *ctx)
{
	return bdev_nbd_detach(((const struct nbd_bdev_options *)s->options)->name, done, ctx, &s->err);
}

static void
start(void)
{
	SERVE("memory", "8M");
}

static void
silence(bool silent)
{
	EXPECT(kill(server.pid, silent ? SIGSTOP : SIGCONT) == 0);
	/* All its threads. */
	EXPECT(!silent || waitpid(server.pid, NULL, WUNTRACED) == server.pid);
}

static void
end_peer(struct peer_stage *s)
{
	end_server();
}

static const struct peer peer = {.bdev = "nbd0",
				 .attach = attach,
				 .detach = detach,
				 .start = start,
				 .silence = silence,
				 .die = end_server,
				 .end = end_peer,
				 .brittle = true};

static void
stage_open(struct peer_stage *s, enum reactor_mode mode, bool real_threads)
{
	opts = options();
	peer_stage_open(s, &peer, &opts, mode, real_threads);
}

/* ---- Attaching ---- */

static void
refuse(struct peer_stage *s, const char *words)
{
	peer_stage_refuse(s, -EINVAL, words);
	opts = options();
}

static void
fail_to_attach(struct peer_stage *s, const char *words)
{
	peer_stage_attach(s);
	EXPECT(s->bdev == NULL && s->err.code < 0);
	EXPECT_SAY(strstr(s->err.text, words) != NULL, "%s", s->err.text);
	opts = options();
}

static void
says_what_is_wrong(void **state)
{
	struct peer_stage s;

	SERVE("-e", "right", "--tls=require", "--tls-psk", server.keys, "memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, false);
	opts.uri = "nbd://localhost";
	refuse(&s, "one of uri, socket and host");
	opts.socket = NULL;
	refuse(&s, "one of uri, socket and host");
	opts.port = "10809";
	refuse(&s, "a port belongs to a host");
	opts.tls_username = "alice";
	refuse(&s, "tls_psk_file");
	opts.connections = 65;
	refuse(&s, "65 connections");
	opts.socket = "/nonexistent/socket";
	fail_to_attach(&s, "/nonexistent/socket");
	/* Not without TLS, not with another key. */
	fail_to_attach(&s, server.socket);
	opts.tls_psk_file = server.keys;
	opts.tls_username = "bob";
	fail_to_attach(&s, server.socket);
	env_stop(&s.env);
}

static void
uses_tls(void **state)
{
	uint8_t block[512];
	struct peer_stage s;

	SERVE("--tls=require", "--tls-psk", server.keys, "memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, true);
	opts.tls_psk_file = server.keys;
	opts.tls_username = "alice";
	peer_stage_ready(&s);
	memset(block, 0x77, sizeof(block));
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 5, 1, block) == 0);
	memset(block, 0, sizeof(block));
	EXPECT(env_rw(&s.env.workers[1], BDEV_READ, 5, 1, block) == 0 && block[511] == 0x77);
	peer_stage_close(&s);
	env_stop(&s.env);
}

static void
looks_like_the_export(void **state)
{
	struct nbd_bdev_info info;
	struct peer_stage s;

	SERVE("-r", "memory", "1048677");
	stage_open(&s, REACTOR_INTERRUPT, false);
	peer_stage_ready(&s);
	EXPECT(bdev_readonly(s.bdev) && bdev_block_size(s.bdev) == 512 && bdev_num_blocks(s.bdev) == 2048);
	EXPECT(bdev_nbd_info(s.bdev, &info) && info.connected && info.connections == 3 && info.connects == 1);
	EXPECT(strcmp(info.options.socket, server.socket) == 0 && info.options.uri == NULL);
	peer_stage_close(&s);
	env_stop(&s.env);
}

/* ---- What is allocated ---- */

static void
tells_extents(void **state)
{
	struct bdev_extent extents[8];
	static uint8_t data[65536];
	struct bdev_io *io;
	struct env_io read = {.op = BDEV_BLOCK_STATUS, .num_blocks = DISK_BYTES / 512};
	struct peer_stage s;

	SERVE("memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, true);
	peer_stage_ready(&s);
	EXPECT(bdev_supports_natively(s.bdev, BDEV_BLOCK_STATUS));
	memset(data, 1, sizeof(data));
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 1024, 128, data) == 0);
	read.extents = extents;
	read.max_results = 8;
	env_submit(&s.env.workers[1], &read);
	env_wait(&s.env, &read.done);
	io = read.io;
	EXPECT(read.status == 0 && io->result >= 2);
	EXPECT(extents[0].num_blocks == 1024 && extents[0].flags == BDEV_EXTENT_ZERO);
	EXPECT(extents[1].num_blocks == 128 && extents[1].flags == BDEV_EXTENT_ALLOCATED);
	EXPECT(env_finish(&read) == 0);
	peer_stage_close(&s);
	env_stop(&s.env);
}

/* ---- Servers that go ---- */

/* It is killed with requests under way, others come while it is away: all are there when it is back. */
static void
dies_and_comes_back(enum reactor_mode mode, bool real_threads, const char *multi_conn)
{
	static struct peer_load load;
	char arg[64];
	struct peer_stage s;

	snprintf(arg, sizeof(arg), "multi-conn-mode=%s", multi_conn);
	SERVE("--filter=delay", "--filter=multi-conn", "file", server.image, "wdelay=30ms", arg);
	stage_open(&s, mode, real_threads);
	peer_stage_ready(&s);
	for (unsigned round = 0; round < 2; round++) {
		peer_load_write(&s, &load, round);
		env_linger(&s.env, 10);
		end_server();
		env_linger(&s.env, 30);
		SERVE("--filter=multi-conn", "file", server.image, arg);
		peer_load_check(&s, &load);
	}
	peer_stage_close(&s);
	env_stop(&s.env);
	end_server();
}

static void
reconnects(void **state)
{
	dies_and_comes_back(REACTOR_INTERRUPT, true, "auto");
	dies_and_comes_back(REACTOR_ADAPTIVE, false, "auto");
	dies_and_comes_back(REACTOR_POLL, true, "disable");
	/* One that is idle when its server goes finds out by itself, and has its new size. */
	SERVE("memory", "8M");
}

static void
grows_with_the_server(void **state)
{
	uint8_t block[512];
	struct peer_stage s;

	SERVE("memory", "8M");
	stage_open(&s, REACTOR_INTERRUPT, true);
	peer_stage_ready(&s);
	end_server();
	SERVE("memory", "9M");
	env_wait_size(&s.env, (9u << 20) / 512);
	EXPECT(bdev_num_blocks(s.bdev) == (9u << 20) / 512);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, (9u << 20) / 512 - 1, 1, block) == 0);
	peer_stage_close(&s);
	env_stop(&s.env);
}

static void
awaits_server(void **state)
{
	struct peer_stage s;

	stage_open(&s, REACTOR_INTERRUPT, true);
	opts.wait = true;
	peer_stage_attach(&s);
	EXPECT(s.bdev == NULL && s.err.code == 0);
	peer_stage_refuse(&s, -EEXIST, "exists");
	SERVE("memory", "8M");
	while (env_open(&s.env, "nbd0", true) != 0) {
		env_linger(&s.env, 10);
	}
	peer_stage_close(&s);
	peer_stage_lacks(&s);
	env_stop(&s.env);
}

/* ---- What nobody waits for any more ---- */

static void
gives_up_after_a_while(void **state)
{
	opts = options();
	opts.reconnect_s = 1;
	peer_test_gives_up(&peer, &opts);
}

/* All threads over one connection; and one that is made again lasts longer than the test would. */
static void
is_cancelled(void **state)
{
	opts = options();
	opts.connections = 1;
	peer_test_cancels(&peer, &opts, REACTOR_ADAPTIVE, false);
	peer_test_is_patient(&peer, &opts, REACTOR_INTERRUPT, true);
	opts = options();
	opts.connect_ms = 600000;
	peer_test_is_removed(&peer, &opts, REACTOR_POLL, true);
	peer_test_goes_without(&peer, &opts, true);
}

/* Errors of the server's are answers; the connection stays. */
static void
passes_errors_on(void **state)
{
	uint8_t block[512];
	struct nbd_bdev_info info;
	struct peer_stage s;

	SERVE("--filter=error", "memory", "8M", "error-pwrite=ENOSPC", "error-pwrite-rate=100%", "error-zero=ENOMEM",
	      "error-zero-rate=100%");
	stage_open(&s, REACTOR_INTERRUPT, true);
	peer_stage_ready(&s);
	EXPECT(env_rw(&s.env.workers[0], BDEV_WRITE, 0, 1, block) == -ENOSPC);
	EXPECT(env_rw(&s.env.workers[1], BDEV_WRITE_ZEROES, 0, 1, NULL) == -EIO);
	EXPECT(env_rw(&s.env.workers[0], BDEV_READ, 0, 1, block) == 0);
	EXPECT(bdev_nbd_info(s.bdev, &info) && info.connects == 1);
	peer_stage_close(&s);
	env_stop(&s.env);
}

#define WITH_SERVER(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int
main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_SERVER(says_what_is_wrong),
		WITH_SERVER(uses_tls),
		WITH_SERVER(looks_like_the_export),
		WITH_SERVER(tells_extents),
		WITH_SERVER(reconnects),
		WITH_SERVER(grows_with_the_server),
		WITH_SERVER(gives_up_after_a_while),
		WITH_SERVER(awaits_server),
		WITH_SERVER(is_cancelled),
		WITH_SERVER(passes_errors_on),
		WITH_SERVER(passes_battery),
		WITH_SERVER(passes_battery_over_one_connection),
		WITH_SERVER(passes_battery_of_a_poor_server),
	};

	if (!has_nbdkit()) {
		fprintf(stderr, "nbdkit is not installed\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, NULL, NULL);
}
